"""The README's tables are those that were measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo import readme


def test_the_tables_are_those_of_the_committed_results(project: Path) -> None:
    text = (project / "README.md").read_text()
    assert readme.with_tables(text) == text, "run python -m demo.readme"


def test_a_readme_without_markers_is_refused() -> None:
    assert readme.placed("<!-- table: a (x) -->\nold\n<!-- end -->", "a", "new").splitlines()[1] == "new"
    with pytest.raises(SystemExit, match="no markers"):
        readme.placed("<!-- table: a (x) -->\nold\n<!-- end -->", "b", "new")
