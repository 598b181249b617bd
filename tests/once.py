"""What a test run makes once, whichever of its processes asks first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def once(place: Path, make: Callable[[], object]) -> Path:
    """``place``, after ``make`` has written it; other processes wait for it. What failed is made again."""
    from filelock import FileLock  # not there where only the runtime is installed

    done = place.with_name(f"{place.name}.done")
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f"{place.name}.lock")):
        if not done.exists():
            make()
            done.touch()
    return place
