from __future__ import annotations

from sam3_runtime.report.tables import cell, columns_of, grid, marked, page, table


def test_columns_line_up_and_unknown_values_are_dashes() -> None:
    rows = [{"name": "a", "ms": 1.5}, {"name": "long", "ms": None, "empty": None}]
    assert columns_of(rows) == ["name", "ms"]
    assert grid(rows).splitlines() == ["| name | ms  |", "|------|-----|", "| a    | 1.5 |", "| long | –   |"]
    assert grid(rows, ["ms", "other"]).splitlines()[0] == "| ms  | other |"


def test_a_head_without_rows_and_columns_of_the_same_name() -> None:
    assert table(["a", "a"], [[1, 2]]).splitlines() == ["| a | a |", "|---|---|", "| 1 | 2 |"]
    assert table(["a"], []).splitlines() == ["| a |", "|---|"]


def test_cells_and_pages() -> None:
    assert [cell("a\nb"), cell(0), cell(None)] == ["a b", "0", "–"]
    assert (marked("1.0", True), marked("1.0", False)) == ("1.0", "1.0 (unstable)")
    assert page("a", None, "", "b") == "a\n\nb\n"
