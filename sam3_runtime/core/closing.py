"""What is closed by leaving it as a context manager."""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self


class Closing:
    """Has a :meth:`close`, which leaving it calls."""

    def close(self) -> None:
        """Free what it holds. Closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
