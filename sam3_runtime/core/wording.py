"""Count things in messages for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: float, noun: str) -> str:
    """Return a number and its ``noun`` (in the singular): ``1 image``, ``0 images``, ``2 entries``, ``3 boxes``."""
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {noun if number == 1 else _plural(noun)}"


def few(names: Sequence[str], most: int = 8) -> str:
    """Return ``a, b, c and 4 more``: the first ``most`` of ``names``, and how many others there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def percent(share: float) -> str:
    """Return a share from 0 to 1 as text; only 0 is shown as 0 %, and only 1 as 100 %."""
    shown = f"{share:.0%}"
    if shown == "0%" and share > 0:
        return "<1%"
    return ">99%" if shown == "100%" and share < 1 else shown
