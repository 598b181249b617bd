"""What is said of a prompt bank: on writing it, and of its classes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sam3_runtime.cli.bank import bank_origin, bank_table, extract_bank
from sam3_runtime.core.errors import RecordError
from sam3_runtime.families.sam3.banks import Bank, load_bank
from tests.projects import WORDS, WriteProject


def shown(bank: Bank) -> str:
    printed = io.StringIO()
    Console(file=printed, width=240).print(bank_table(bank))
    return printed.getvalue()


def test_a_row_for_each_class(shop_bank: Bank) -> None:
    person, mug, logo = (line for line in shown(shop_bank).splitlines() if "#" in line)
    assert "any resolution" in person
    assert all(text in mug for text in ("coffee cup", "1 positive, 1 negative", "0.6", "#0080ff", "112 pixels"))
    assert "3 positive, 0 negative" in logo


def test_columns_without_a_value_are_left_out(shop_bank: Bank) -> None:
    words = replace(
        shop_bank,
        record=shop_bank.record.model_copy(update={"classes": shop_bank.record.classes[:1]}),
        tokens=shop_bank.tokens[:1],
    )
    assert "reference image" in shown(shop_bank)
    assert "reference image" not in shown(words)


def test_the_origin_is_one_line(shop_bank: Bank) -> None:
    origin = bank_origin(shop_bank)
    assert "3 classes, encoded from fake (000000000000) with fake: " in origin
    assert "\n" not in origin


def test_a_bank_is_written_and_said(fake_variant: Path, write_project: WriteProject, tmp_path: Path) -> None:
    write_project(WORDS)
    lines = list(extract_bank(tmp_path / "shop.yaml", fake_variant, tmp_path / "shop.npz"))
    assert lines[0].startswith(f"wrote {tmp_path / 'shop.npz'}: 2 classes, ")
    assert len(load_bank(tmp_path / "shop.npz")) == 2


def test_without_a_variant_nothing_is_written(write_project: WriteProject, tmp_path: Path) -> None:
    write_project(WORDS)
    with pytest.raises(RecordError, match="is not a folder"):
        list(extract_bank(tmp_path / "shop.yaml", tmp_path / "none", tmp_path / "shop.npz"))
    assert not (tmp_path / "shop.npz").exists()
