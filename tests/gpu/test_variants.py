"""A built variant on a real GPU: the same answers whichever way they are asked for, and nothing more moved than needed.

Every answer is the best few whatever their score, so that weights which detect nothing are tested as well.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.deploy.loading import load
from sam3_runtime.engines.running.base import AnyArray
from sam3_runtime.engines.running.cuda import Cuda, CudaArray
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.engines.running.on_demand import OnDemandEngine
from sam3_runtime.engines.running.tensorrt import TensorRtEngine
from sam3_runtime.families.sam3.banks import extract
from sam3_runtime.families.sam3.detector import Detector, open_detector
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.postprocess import scores_of
from sam3_runtime.families.sam3.projects import read_project
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.postprocess import Detections, PackedMasks, resize_masks
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.records.records import EngineRecord

pytestmark = pytest.mark.gpu

PROMPTS: list[str | Prompt] = ["cup", "person", "cat", Prompt("wheel", ((20, 30, 90, 120), (5, 5, 60, 70)), (1, 0))]
TOP = 5
NEAR = 5e-3  # scores of other batch sizes, whose kernels add up in another order

Found = list[list[Detections]]


def detect(pipeline: Pipeline, pictures: Sequence[Image], prompts: Sequence[str | Prompt] = PROMPTS) -> Found:
    return pipeline.detect(pictures, prompts, top=TOP)


def same(found: Found, wanted: Found) -> None:
    """Every bit."""
    assert [len(row) for row in found] == [len(row) for row in wanted]
    assert sum(map(len, wanted)) > 0
    for one, other in zip(chain(*found), chain(*wanted), strict=True):
        assert len(one) == TOP
        for name in ("query_index", "scores", "boxes", "masks"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), f"{name} of {one.prompt}"


def near(found: Found, wanted: Found) -> None:
    """Scores in order of size: near-ties may swap queries."""
    assert [len(row) for row in found] == [len(row) for row in wanted]
    assert sum(map(len, wanted)) > 0
    for one, other in zip(chain(*found), chain(*wanted), strict=True):
        assert np.abs(np.sort(one.scores) - np.sort(other.scores)).max() <= NEAR
        assert set(one.query_index.tolist()) & set(other.query_index.tolist())


def cuda_of(pipeline: Pipeline) -> Cuda:
    assert isinstance(pipeline.device, CudaDevice), "the variant is for no GPU"
    return pipeline.device.cuda


# --- the same answers -------------------------------------------------------------------------------------------------


def test_asked_again_it_says_the_same(pipeline: Pipeline, pictures: list[Image]) -> None:
    wanted = detect(pipeline, pictures)
    for _ in range(4):  # plainly, captured, and replayed
        same(detect(pipeline, pictures), wanted)


def test_shapes_in_turn_say_the_same(pipeline: Pipeline, pictures: list[Image]) -> None:
    """Several shapes of every engine, one after the other on one context."""
    wheel, hub = Prompt(None, ((20, 30, 90, 120),), (1,)), Prompt(None, ((5, 5, 60, 70),), (1,))
    rounds: list[tuple[list[Image], list[str | Prompt]]] = [
        (pictures, PROMPTS), (pictures[:1], PROMPTS[:1]), (pictures[1:3], ["cup"]), (pictures[:1], PROMPTS),
        (pictures[:1], [wheel]), (pictures[:1], [wheel, hub]), (pictures[:1], [hub]),
    ]  # fmt: skip
    wanted = [detect(pipeline, *asked) for asked in rounds]
    for _ in range(4):
        for asked, expected in zip(rounds, wanted, strict=True):
            same(detect(pipeline, *asked), expected)


def test_without_graphs_it_says_the_same(pipeline: Pipeline, directory: Path, pictures: list[Image]) -> None:
    with load(directory, cuda_graphs=False, verify_digest=False) as plain:
        wanted = [detect(plain, pictures) for _ in range(2)]
    same(wanted[0], wanted[1])
    for _ in range(4):
        same(detect(pipeline, pictures), wanted[0])


def test_one_picture_at_a_time_says_nearly_the_same(pipeline: Pipeline, pictures: list[Image]) -> None:
    together = detect(pipeline, pictures)
    near([detect(pipeline, [picture])[0] for picture in pictures], together)


def test_one_prompt_at_a_time_says_nearly_the_same(pipeline: Pipeline, pictures: list[Image]) -> None:
    together = detect(pipeline, pictures[:1])[0]
    near([[detect(pipeline, pictures[:1], [prompt])[0][0]] for prompt in PROMPTS], [[one] for one in together])


def test_a_picture_says_the_same_in_every_slot(pipeline: Pipeline, pictures: list[Image]) -> None:
    features = pipeline.device.fetch(pipeline.encode_images(pipeline.preprocess([pictures[0]] * pipeline.batch)))
    for name in ("fpn_feat_0", "fpn_feat_1", "fpn_feat_2"):
        values = features[name].astype(np.float32)
        assert np.isfinite(values).all()
        assert np.abs(values).max() > 0
        assert np.abs(values - values[:1]).max() <= 1e-2 * np.abs(values).max()


def test_one_image_for_all_rows_or_one_for_each(pipeline: Pipeline, pictures: list[Image]) -> None:
    rows = min(pipeline.engines["decoder"].limit("P"), pipeline.batch, 3)
    if rows == 1:
        pytest.skip("an engine of batch 1 has one row")
    tokens = pipeline.encode_texts(["cup", "person", "cat"])[:rows]
    features = pipeline.encode_images(pipeline.preprocess([pictures[0]] * rows))
    each = without_masks(pipeline.decode(features, tokens))
    first = {name: array if name == "fpn_pos_2" else array[0:1] for name, array in features.items()}
    shared = without_masks(pipeline.decode(first, tokens))
    assert len(each["pred_logits"]) == len(shared["pred_logits"]) == rows
    for row in range(rows):
        scores = [scores_of(out["pred_logits"][row], out["presence_logits"][row]) for out in (each, shared)]
        assert np.abs(np.sort(scores[0]) - np.sort(scores[1])).max() <= NEAR


def without_masks(outputs: Mapping[str, AnyArray]) -> dict[str, Any]:
    return {name: np.array(array) for name, array in outputs.items() if name != "pred_masks"}


def test_threads_get_what_they_would_get_alone(pipeline: Pipeline, pictures: list[Image]) -> None:
    asked = [pictures, pictures[:1], pictures[1:3], pictures[::-1]]
    wanted = [detect(pipeline, shown) for shown in asked]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda n: detect(pipeline, asked[n % 4]), range(8)))
    assert len(answers) == 8
    for found, expected in zip(answers, wanted * 2, strict=True):
        same(found, expected)


def test_streams_may_be_read_in_turns(pipeline: Pipeline, pictures: list[Image]) -> None:
    shown = pictures * 3
    wanted = detect(pipeline, shown, ["cup"]), detect(pipeline, shown[::-1], ["person", "cat"])
    one = pipeline.stream(shown, ["cup"], top=TOP)
    other = pipeline.stream(shown[::-1], ["person", "cat"], top=TOP)
    rows = list(zip(one, other, strict=True))
    same([row for row, _ in rows], wanted[0])
    same([row for _, row in rows], wanted[1])


def test_packed_masks_are_the_hosts(pipeline: Pipeline, pictures: list[Image]) -> None:
    features = pipeline.encode_images(pipeline.preprocess(pictures[:1]))
    logits = pipeline.decode(features, pipeline.encode_texts(["cup"]))["pred_masks"]
    assert isinstance(logits, CudaArray)
    rows = np.arange(min(6, logits.shape[1]))
    on_host = np.asarray(logits)
    for size in ((400, 600), (1080, 1917), (77, 33)):
        packed = pipeline.device.begin_masks(logits, 0, rows, size)()
        assert isinstance(packed, PackedMasks)
        found, wanted = packed.unpack(), resize_masks(on_host[0, rows], size)
        assert (found != wanted).sum() <= max(1, found.size // 10_000)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_nothing_is_allocated_once_warm(pipeline: Pipeline, pictures: list[Image]) -> None:
    for _ in range(3):
        detect(pipeline, pictures)
    warm, free = cuda_of(pipeline).allocations, pipeline.device.memory()
    for _ in range(10):
        detect(pipeline, pictures)
    assert cuda_of(pipeline).allocations == warm
    after = pipeline.device.memory()
    assert free is not None
    assert after is not None
    assert free[0] - after[0] < 16 << 20


def test_features_never_reach_the_host(
    pipeline: Pipeline, pictures: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = pipeline.encode_images(pipeline.preprocess(pictures[: pipeline.batch]))
    lie_at = [
        (array.pointer, array.pointer + array.nbytes) for array in features.values() if isinstance(array, CudaArray)
    ]
    assert len(lie_at) == 4
    brought: list[tuple[int, int]] = []
    fetch, begin_fetch, upload, send = Cuda.fetch, Cuda.begin_fetch, Cuda.upload, Cuda.send
    taken: list[int] = []

    def seen_fetch(cuda: Cuda, arrays: Sequence[CudaArray]) -> Any:
        brought.extend((array.pointer, array.nbytes) for array in arrays)
        return fetch(cuda, arrays)

    def seen_begin_fetch(cuda: Cuda, slot: Any, shape: Sequence[int], dtype: Any) -> Any:
        brought.append((slot.block.pointer, math.prod(shape) * np.dtype(dtype).itemsize))
        return begin_fetch(cuda, slot, shape, dtype)

    def seen_upload(cuda: Cuda, target: Any, array: Any) -> None:
        taken.append(array.nbytes)
        upload(cuda, target, array)

    def seen_send(cuda: Cuda, slot: Any, array: Any) -> None:
        taken.append(array.nbytes)
        send(cuda, slot, array)

    monkeypatch.setattr(Cuda, "fetch", seen_fetch)
    monkeypatch.setattr(Cuda, "send", seen_send)
    monkeypatch.setattr(Cuda, "begin_fetch", seen_begin_fetch)
    monkeypatch.setattr(Cuda, "upload", seen_upload)
    words = [prompt for prompt in PROMPTS if isinstance(prompt, str)]
    detect(pipeline, pictures, words)
    assert brought
    for pointer, size in brought:
        assert all(pointer + size <= start or pointer >= end for start, end in lie_at)
    smallest_feature = min(array.nbytes for array in features.values() if isinstance(array, CudaArray))
    assert sum(size for _, size in brought) < len(pictures) * len(words) * (smallest_feature + 8 * 2**20)
    assert max(taken) <= max(picture.nbytes for picture in pictures)


def test_the_text_encoder_leaves_and_comes_back(pipeline: Pipeline, pictures: list[Image]) -> None:
    engine = pipeline.engines["text-encoder"]
    assert isinstance(engine, OnDemandEngine)
    wanted = detect(pipeline, pictures[:1])
    assert not engine.loaded
    gone = free_of(pipeline)
    tokens = pipeline.tokenizer(["cup"])
    feeds = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    first = {name: np.array(array) for name, array in engine.infer(engine.cast(feeds)).items()}
    assert engine.loaded
    there = free_of(pipeline)
    weights = engine.record.sizes.weights or engine.record.sizes.file
    # The driver hands memory out in blocks of 2 MiB, and a small text encoder may fit in what is left of one.
    least = max(0, weights - 2 * 2**20) // 2
    assert gone - there >= least
    engine.release()
    assert not engine.loaded
    assert free_of(pipeline) - there >= least
    same(detect(pipeline, pictures[:1]), wanted)
    again = pipeline.encode_texts(["a word that nobody asked for yet", "cup"])
    assert not engine.loaded
    assert np.allclose(again[1].features, first["text_features"][0], atol=0.02 * np.abs(first["text_features"]).max())


def test_rounds_say_the_same_with_the_next_begun_ahead(pipeline: Pipeline, pictures: list[Image]) -> None:
    """Every bit, whatever was in the device's memory before: pictures in other orders, so that no batch is the last."""
    turned = [pictures[place:] + pictures[:place] for place in range(len(pictures))] * 3
    wanted = [detect(pipeline, batch) for batch in turned]
    assert len(wanted) == 3 * len(pictures) > 0
    for there in (True, False):  # the next batch, before the last is through
        left = iter(turned)
        rounds = pipeline.rounds(lambda wait: next(left, []) if wait or there else [], PROMPTS, top=TOP)  # noqa: B023
        for found, expected in zip(rounds, wanted, strict=True):
            same(found, expected)


def test_a_bank_says_the_same_with_two_engines_and_less_memory(
    pipeline: Pipeline, directory: Path, pictures: list[Image], tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "shelf.png"), pictures[0][..., ::-1])
    (tmp_path / "shop.yaml").write_text(
        "classes: [{words: cup}, {name: wheel, examples: {image: shelf.png, positive: [[20, 30, 90, 120]]}}]"
    )
    bank = extract(pipeline, read_project(tmp_path / "shop.yaml"))
    assert all(np.isfinite(one.features).all() for one in bank.tokens)
    wanted = pipeline.detect(pictures, bank.prompts, top=TOP)
    (asked,) = pipeline.detect(pictures[:1], [Prompt(boxes=((20, 30, 90, 120),))], top=TOP)
    near([asked], [pipeline.detect(pictures[:1], bank.prompts[1:], top=TOP)[0]])
    bank.save(tmp_path / "shop.npz")
    taken = []
    for opening in (lambda: load(directory), lambda: open_detector(directory, tmp_path / "shop.npz", top=TOP)):
        before = free_of(pipeline)
        with opening() as opened:
            if isinstance(opened, Detector):
                same(opened.detect(pictures), wanted)
            else:
                same(opened.detect(pictures, bank.prompts, top=TOP), wanted)
            taken.append(before - free_of(pipeline))
    assert taken[1] < taken[0]


def free_of(pipeline: Pipeline) -> int:
    pipeline.device.synchronize()
    known = pipeline.device.memory()
    assert known is not None
    return known[0]


def test_loading_and_closing_leaves_nothing(pipeline: Pipeline, directory: Path, pictures: list[Image]) -> None:
    left = []
    wanted = detect(pipeline, pictures[:2])
    for _ in range(3):
        with load(directory, verify_digest=False) as other:
            same(detect(other, pictures[:2]), wanted)
        del other
        gc.collect()
        left.append(free_of(pipeline))
    assert left[0] - left[-1] < 32 << 20
    same(detect(pipeline, pictures[:2]), wanted)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(directory: Path, tmp_path: Path) -> Path:
    """The variant's folder with records of its own to change; its engines are links."""
    made = tmp_path / directory.resolve().name
    made.mkdir()
    for path in directory.iterdir():
        if path.suffix == ".engine":
            (made / path.name).symlink_to(path.resolve())
        elif path.is_file():
            shutil.copyfile(path, made / path.name)
    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"gpu": "Tesla T4", "compute_capability": "7.5"},
            r"was built for Tesla T4 \(compute capability 7\.5\), and this",
        ),
        ({"version": "7.2.3"}, r"was built with TensorRT 7\.2\.3, and .* is installed here"),
    ],
    ids=["another GPU", "another TensorRT"],
)
def test_an_engine_of_elsewhere_is_refused_unread(
    copied: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    path = copied / "vision-encoder.engine.json"
    record = EngineRecord.read(path)
    if record.backend != "tensorrt":
        pytest.skip("TensorRT-RTX engines are for many cards")
    record.model_copy(update={"toolchain": record.toolchain.model_copy(update=change)}).write(path)
    opened: list[object] = []
    monkeypatch.setattr(TensorRtEngine, "__init__", lambda engine, *_: opened.append(engine))
    with pytest.raises(EngineError, match=message):
        load(copied, verify_digest=False)
    assert opened == []


def test_a_damaged_engine_is_told_by_tensorrt(copied: Path, directory: Path) -> None:
    """Where nobody looked at the digest."""
    path = copied / "geometry-encoder.engine"
    content = bytearray((directory / path.name).read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"geometry-encoder\.engine (does not open in TensorRT|is no engine)"):
        load(copied, verify_digest=False)
    with pytest.raises(EngineError, match="their SHA-256 differ"):
        load(copied)


def test_info_prints_the_variant(directory: Path) -> None:
    command = [sys.executable, "-c", "from sam3_runtime.cli.main import main; main()", "info", str(directory)]
    wide = os.environ | {"COLUMNS": "200"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=wide)
    assert ran.returncode == 0, ran.stderr
    assert "vision-encoder" in ran.stdout
    assert "built with tensorrt" in ran.stdout
