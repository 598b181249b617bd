"""The README's tables are those that were measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo import readme


def test_the_table_of_a_gpu_is_that_of_its_results(project: Path) -> None:
    table = json.loads((project / readme.H200).read_text())
    text = (project / "README.md").read_text()
    assert readme.placed(text, "h200", readme.overview(table)) == text


def test_a_readme_without_markers_is_refused() -> None:
    assert readme.placed("<!-- table: a (x) -->\nold\n<!-- end -->", "a", "new").splitlines()[1] == "new"
    with pytest.raises(SystemExit, match="no markers"):
        readme.placed("<!-- table: a (x) -->\nold\n<!-- end -->", "b", "new")
