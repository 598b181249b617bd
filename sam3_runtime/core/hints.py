"""Build the commands that messages name, as the user can type them in the current folder. Pure."""

from __future__ import annotations

import os
from pathlib import Path


def work_folder_of(path: Path) -> Path | None:
    """Return the work folder that contains ``path``; None for a copy elsewhere, as on a machine that only runs."""
    parent = path.parent.resolve()
    return next((folder for folder in (parent, *parent.parents) if (folder / "checkpoint.lock").is_file()), None)


def command_for(path: Path) -> str:
    """Return the command that makes a file of a work folder; of other files, only the path itself is known."""
    folder = work_folder_of(path)
    if folder is None:
        return f"snakemake {path}"
    target = (path.parent.resolve() / path.name).relative_to(folder)
    at = "" if folder == Path.cwd() else f"--directory {os.path.relpath(folder)} "
    return f"snakemake {at}{target.as_posix()}"


def rebuild_hint(path: Path) -> str:
    """Return the hint for a damaged file of a variant; relative to its work folder where the variant is a copy."""
    elsewhere = f"snakemake engines/{path.parent.resolve().name}/{path.name}"
    return f"rebuild it: {command_for(path) if work_folder_of(path) else elsewhere}"
