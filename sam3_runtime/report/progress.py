"""Messages and progress bars of commands, on a console."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def messages(console: Console | None = None) -> Console:
    """Return ``console``, by default one on standard error that leaves lines as long as they are."""
    return console or Console(stderr=True, soft_wrap=True)


def reporter(console: Console) -> Callable[[str], None]:
    """Return a function that prints messages as they are."""
    return lambda message: console.print(message, markup=False, highlight=False)


def tracked(items: Iterable[T], total: int | None, noun: str, console: Console) -> Iterator[T]:
    """Yield ``items``, with a progress bar on a terminal; ``total`` is their number, None if it is not known."""
    with Progress(*_COLUMNS, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total, description=noun)
