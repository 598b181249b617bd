"""COCO results of a run, as pycocotools reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pycocotools.coco import COCO

from sam3_runtime.streams.cameras import Source
from tests.streaming import Listed
from tests.streams.test_outputs import result, write


def test_coco_results_load_in_its_own_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources: list[Source] = [Listed("a", []), Listed("Tür", [])]
    write(tmp_path, sources, [result("Tür", 0), result("a", 0), result("a", 1)], ("coco",))
    coco = COCO(str(tmp_path / "coco.json"))
    assert [one["name"] for one in coco.dataset["categories"]] == ["cup", "cat"]
    images = {(one["source"], one["frame"]): one["id"] for one in coco.dataset["images"]}
    assert images == {("a", 0): 1, ("Tür", 0): 2, ("a", 1): 3}, "the same ids whatever came first"
    results = coco.loadRes(coco.dataset["annotations"])
    (one,) = results.loadAnns(results.getAnnIds(imgIds=[2]))
    assert (one["category_id"], one["bbox"], one["score"]) == (1, [2, 3, 10, 10], 1.0)
    assert results.annToMask(one).sum() == 100
    assert capsys.readouterr().err == ""
