"""The command ``sam3-runtime extract``, and the output of ``sam3-runtime info`` for a prompt bank.

Independent of the backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from sam3_runtime.core.wording import counted
from sam3_runtime.deploy.loading import load
from sam3_runtime.families.sam3.banks import Bank, ClassRecord, extract, parts_for, read_references
from sam3_runtime.families.sam3.detector import detecting_config, saving
from sam3_runtime.families.sam3.projects import read_project


def extract_bank(project_file: Path, engines: Path, output: Path, threads: int | None = None) -> Iterator[str]:
    """Encode the classes of a project with the engines of one variant, write the bank, and yield messages.

    The project, its images and boxes are checked before an engine is opened; only the parts that encode are opened.
    Raises :class:`ProjectError`, :class:`OutputError`, and as :func:`sam3_runtime.load` does.
    """
    project = read_project(project_file)
    references = read_references(project)
    detecting_config(engines)
    with load(engines, parts=parts_for(project), threads=threads) as pipeline:
        bank = extract(pipeline, project, references)
    bank.save(output)
    yield f"wrote {output}: {counted(len(bank), 'class')}, {output.stat().st_size / 1024:.0f} KiB"
    saved = saving(engines)
    if saved is not None:
        yield f"with it, {saved}"


def bank_table(bank: Bank) -> Table:
    """Return a table with a row per class: its prompts, and where its features are valid.

    Empty columns are left out.
    """
    rows = [_row(one, bank.record.resolution) for one in bank.record.classes]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(*columns)
    for row in rows:
        table.add_row(*(row[name] or "–" for name in columns))
    return table


def _row(one: ClassRecord, resolution: int) -> dict[str, str]:
    red, green, blue = one.color
    positive = sum(one.examples.labels) if one.examples else 0
    return {
        "class": escape(one.name),
        "words": escape(one.words or ""),
        "boxes": f"{positive} positive, {len(one.examples.labels) - positive} negative" if one.examples else "",
        "reference image": f"{escape(one.examples.image)} ({one.examples.sha256[:12]})" if one.examples else "",
        "threshold": f"{one.threshold:g}",
        "colour": f"[rgb({red},{green},{blue})]██[/] #{red:02x}{green:02x}{blue:02x}",
        "tokens": str(one.tokens),
        "valid for": f"{resolution} pixels" if one.examples else "any resolution",
    }


def bank_origin(bank: Bank) -> str:
    """Return the origin of a bank, in one line."""
    record = bank.record
    made = ", ".join(f"{part} {precision}" for part, precision in record.precision.items())
    return (
        f"{record.project}: {counted(len(bank), 'class')}, encoded from {record.checkpoint} "
        f"({record.commit or record.checkpoint_digest[:12]}) with {record.backend}: {made}"
    )
