"""Puts the table that `make demo` measured into the README, and its JSON into docs/results/.

python demo/readme.py           after make demo
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from sam3_runtime.report_text import markdown

PROJECT = Path(__file__).resolve().parent.parent


def main() -> None:
    table = json.loads((PROJECT / "demo/work/onnxruntime/bench/table.json").read_text())
    shown = {key: value for key, value in table.items() if key != "variants"}  # raw samples are for joined tables
    (PROJECT / "docs/results/demo.json").write_text(json.dumps(shown, indent=2) + "\n")
    body = markdown(table).partition("\n\n")[2].strip()
    readme = PROJECT / "README.md"
    block = f"<!-- table: demo (python demo/readme.py) -->\n{body}\n<!-- end -->"
    text, count = re.subn(r"<!-- table: demo.*?<!-- end -->", lambda _: block, readme.read_text(), flags=re.DOTALL)
    if count != 1:
        raise SystemExit("Error: README.md has no place for the table\nHint: <!-- table: demo --> … <!-- end -->")
    readme.write_text(text)


if __name__ == "__main__":
    main()
