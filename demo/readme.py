"""Puts measured tables into the README: what `make demo` measured, if it did, and what docs/results/h200.json has.

python demo/readme.py           after make demo, whose JSON goes into docs/results/
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sam3_runtime.report_text import grid, markdown

PROJECT = Path(__file__).resolve().parent.parent
H200 = "docs/results/h200.json"


def main() -> None:
    measured = PROJECT / "demo/work/onnxruntime/bench/table.json"
    text = (PROJECT / "README.md").read_text()
    if measured.is_file():
        table = json.loads(measured.read_text())
        shown = {key: value for key, value in table.items() if key != "variants"}  # raw samples are for joined tables
        (PROJECT / "docs/results/demo.json").write_text(json.dumps(shown, indent=2) + "\n")
        text = placed(text, "demo", markdown(table).partition("\n\n")[2].strip())
    text = placed(text, "h200", overview(json.loads((PROJECT / H200).read_text())))
    (PROJECT / "README.md").write_text(text)


def placed(text: str, name: str, body: str) -> str:
    """``text`` with ``body`` in the place of that name."""
    block = f"<!-- table: {name} (python demo/readme.py) -->\n{body}\n<!-- end -->"
    made, count = re.subn(rf"<!-- table: {name} .*?<!-- end -->", lambda _: block, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"Error: README.md has no place for it\nHint: <!-- table: {name} --> … <!-- end -->")
    return made


def overview(table: dict[str, Any]) -> str:
    """The measured variants of a joined table, a line each."""
    rows = [_line(row) for row in table["rows"] if row.get("speed")]
    return grid(rows, list(rows[0]))


def _line(row: dict[str, Any]) -> dict[str, Any]:
    accuracy, memory = row["accuracy"][0], row["memory"][0]
    one, many = row["speed"][0], row["speed"][-1]
    beside = row["beside"][-1]
    return {
        "variant": row["variant"],
        "verdict": f"{row['status']}, {accuracy['note']}" if accuracy.get("note") else row["status"],
        "cosine": accuracy["cosine"],
        "GPU memory, MiB": f"{memory['ready']:.0f}",
        f"{one['cameras']} camera, ms": one["end to end"],
        f"{many['cameras']} cameras, ms an image": many["end to end"],
        "×transformers": beside["end to end: ×transformers"],
        "×torch.compile": beside["end to end: ×torch.compile"],
    }


if __name__ == "__main__":
    main()
