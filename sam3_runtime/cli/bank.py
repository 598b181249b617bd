"""What ``sam3-runtime extract`` does, and what ``sam3-runtime info`` says of a bank.

Knows banks and tables; knows no backend.
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
    """Encode the classes of a project with the engines of one variant, write the bank, and say what was done.

    The project, its images and boxes are checked before an engine is opened, and only the parts that encode are.
    Raises :class:`ProjectError`, :class:`OutputError`, and what :func:`sam3_runtime.load` raises.
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
    """A line a class: how it is named, and what its features hold for. What no class has is no column."""
    rows = [_row(one, bank.record.resolution) for one in bank.record.classes]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(*columns)
    for row in rows:
        table.add_row(*(row[name] or "–" for name in columns))
    return table


def _row(one: ClassRecord, resolution: int) -> dict[str, str]:
    red, green, blue = one.color
    return {
        "class": escape(one.name),
        "words": escape(one.words or ""),
        "boxes": _boxes_of(one),
        "reference image": f"{escape(one.examples.image)} ({one.examples.sha256[:12]})" if one.examples else "",
        "threshold": f"{one.threshold:g}",
        "colour": f"[rgb({red},{green},{blue})]██[/] #{red:02x}{green:02x}{blue:02x}",
        "tokens": str(one.tokens),
        "holds for": f"{resolution} pixels" if one.examples else "any resolution",
    }


def _boxes_of(one: ClassRecord) -> str:
    if one.examples is None:
        return ""
    positive = sum(one.examples.labels)
    return f"{positive} positive, {len(one.examples.labels) - positive} negative"


def bank_origin(bank: Bank) -> str:
    """What a bank was made from, in one line."""
    record = bank.record
    made = ", ".join(f"{part} {precision}" for part, precision in record.precision.items())
    return (
        f"{record.project}: {counted(len(bank), 'class')}, encoded from {record.checkpoint} "
        f"({record.commit or record.checkpoint_digest[:12]}) with {record.backend}: {made}"
    )
