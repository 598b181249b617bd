"""The commands that messages name, as they are to be typed where the user is. Pure."""

from __future__ import annotations

import os
from pathlib import Path


def work_folder_of(path: Path) -> Path | None:
    """The work folder that ``path`` lies in; None for a copy elsewhere, as on a machine that only runs."""
    parent = path.parent.resolve()
    return next((folder for folder in (parent, *parent.parents) if (folder / "checkpoint.lock").is_file()), None)


def command_for(path: Path) -> str:
    """The command that makes a file of a work folder; nothing but the path's own name is known of other files."""
    folder = work_folder_of(path)
    if folder is None:
        return f"snakemake {path}"
    target = (path.parent.resolve() / path.name).relative_to(folder)
    at = "" if folder == Path.cwd() else f"--directory {os.path.relpath(folder)} "
    return f"snakemake {at}{target.as_posix()}"


def rebuild_hint(path: Path) -> str:
    """What to do about a file of a variant's folder that is not what it should be; seen from its work folder where the
    variant was copied elsewhere."""
    elsewhere = f"snakemake engines/{path.parent.resolve().name}/{path.name}"
    return f"rebuild it: {command_for(path) if work_folder_of(path) else elsewhere}"
