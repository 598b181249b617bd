"""Run SAM3 engines: ``sam3_runtime.load("engines/b8_q50_r672").detect(images, ["person"])``.

Importing this package is free: ``api.py``, which needs the array libraries, is imported when one of its names is first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3_runtime.api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sam3_runtime.api as api

    return getattr(api, name)
