"""Provide context managers that close themselves."""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self


class Closing:
    """A context manager whose exit calls :meth:`close`."""

    def close(self) -> None:
        """Free all resources. Closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
