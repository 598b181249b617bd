"""Messages of commands, and their progress bar."""

from __future__ import annotations

import io

from rich.console import Console

from sam3_runtime.report.progress import reporter, tracked


def test_messages_are_printed_as_they_are() -> None:
    printed = io.StringIO()
    reporter(Console(file=printed, soft_wrap=True))("[red]a.png[/red] is not a readable image")
    assert printed.getvalue() == "[red]a.png[/red] is not a readable image\n"


def test_a_bar_is_shown_on_a_terminal_alone() -> None:
    for terminal in (True, False):
        printed = io.StringIO()
        console = Console(file=printed, force_terminal=terminal, width=80)
        assert list(tracked(iter("abc"), 3, "frames", console)) == ["a", "b", "c"]
        assert ("3/3" in printed.getvalue()) is terminal
