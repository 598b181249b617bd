"""Variants of TensorRT engines on a fake GPU, under the names of several releases of TensorRT."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sam3_runtime.core.errors import CannotRunHere, EngineError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.deploy.loading import load
from sam3_runtime.engines.running import open_device, open_engine
from sam3_runtime.engines.running.base import EngineOptions
from sam3_runtime.engines.running.cuda import Cuda, CudaArray
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.engines.running.on_demand import OnDemandEngine
from sam3_runtime.engines.running.tensorrt import TensorRtEngine
from sam3_runtime.families.sam3 import gate, runtime
from sam3_runtime.families.sam3.parts import PART_NAMES, ModelDims, PartName
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.postprocess import Detections, PackedMasks, resize_masks
from sam3_runtime.measure import verify
from sam3_runtime.media.images import TakeFromSources, images_of
from sam3_runtime.plan import toolchain
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.memory import buffers_of, bytes_of
from sam3_runtime.records.records import EngineRecord, Sizes, Toolchain
from sam3_runtime.streams.flow import BatchResults, stream
from tests.engines.running.conftest import InstallTensorRt
from tests.engines.running.fake_gpu import Card, FakeGpu
from tests.engines.running.fake_runtime import SCRATCH, WEIGHTS, bound_types, write_gpu_engine, write_gpu_variant
from tests.fake_variant import SMALL_DIMS, write_fake_variant
from tests.streaming import CLASSES, Listed, within

VARIANT = Variant((4, 20, 112))
RELEASES = ("8.6.1", "10.0.1", "10.9.0", "11.0")
RELEASE = "8.6.1"
BOXES = Prompt("cup", ((5, 5, 20, 25), (1, 2, 9, 9)), (1, 0))
ONE_BOX = Prompt(boxes=((3, 4, 30, 20),))
PROMPTS: list[str | Prompt] = ["cat", "red car", ONE_BOX, BOXES]
Write = Callable[..., Path]


def photos(count: int) -> list[np.ndarray]:
    """Of different sizes, none a multiple of eight wide, and of different brightness."""
    random = np.random.default_rng(3)
    return [random.integers(0, 40 * (i % 6 + 1), (30 + 7 * i, 50 + i, 3), dtype=np.uint8) for i in range(count)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a variant for the fake GPU."""

    def made(release: str = RELEASE, dims: ModelDims = SMALL_DIMS, **options: Any) -> Path:
        folder = tmp_path / "engines" / VARIANT.name
        variant = VARIANT.changed(resolution=dims.image_size)
        int64 = "int32" if release.startswith("8") else "int64"
        write_gpu_variant(folder, variant, dims, **{"version": release, "int64": int64} | options)
        return folder

    return made


@pytest.fixture
def pipeline(write: Write, install_tensorrt: InstallTensorRt) -> Iterator[Pipeline]:
    install_tensorrt(RELEASE)
    with load(write(floats="float32")) as opened:
        yield opened


def on_the_host(tmp_path: Path, dims: ModelDims, images: list[Any], prompts: list[Any]) -> list[list[Detections]]:
    folder = tmp_path / "host" / VARIANT.name
    write_fake_variant(folder, VARIANT.changed(resolution=dims.image_size), dims)
    with load(folder) as pipeline:
        return pipeline.detect(images, prompts)


def same(found: list[list[Detections]], wanted: list[list[Detections]]) -> None:
    """Every bit of every detection."""
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for one, other in zip(chain(*found), chain(*wanted), strict=True):
        assert len(other) > 3
        assert (one.prompt, one.prompt_index) == (other.prompt, other.prompt_index)
        for name in ("boxes", "scores", "masks", "query_index"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def cuda_of(pipeline: Pipeline) -> Cuda:
    assert isinstance(pipeline.device, CudaDevice)
    return pipeline.device.cuda


def engine_of(pipeline: Pipeline, part: PartName) -> TensorRtEngine:
    engine = pipeline.engines[part]
    assert isinstance(engine, TensorRtEngine)
    return engine


def change_record(directory: Path, part: str, **changes: Any) -> None:
    path = directory / f"{part}.engine.json"
    EngineRecord.read(path).model_copy(update=changes).write(path)


# --- the same answers as on the host ----------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
def test_float32_engines_say_what_the_host_says(
    write: Write, install_tensorrt: InstallTensorRt, tmp_path: Path, release: str, graphs: bool
) -> None:
    install_tensorrt(release)
    images = photos(6)
    wanted = on_the_host(tmp_path, SMALL_DIMS, images, PROMPTS)
    with load(write(release, floats="float32"), cuda_graphs=graphs) as pipeline:
        assert (pipeline.status, pipeline.batch) == ("passed", 4)
        for _ in range(4):  # plainly, captured, and replayed
            same(pipeline.detect(images, PROMPTS), wanted)


@pytest.mark.parametrize("floats", ["float16", "mixed"])
def test_float16_engines_say_nearly_what_the_host_says(
    write: Write, install_tensorrt: InstallTensorRt, tmp_path: Path, floats: str
) -> None:
    install_tensorrt(RELEASE)
    mixed = dict.fromkeys(PART_NAMES, "float16") | {"vision-encoder": "float32", "text-encoder": "float32"}
    images = photos(5)
    wanted = on_the_host(tmp_path, SMALL_DIMS, images, PROMPTS)
    with load(write(floats=mixed if floats == "mixed" else floats)) as pipeline:
        for _ in range(4):
            found = pipeline.detect(images, PROMPTS)
    assert [len(row) for row in found] == [4] * 5
    for image, one, other in zip(np.repeat(np.arange(5), 4), chain(*found), chain(*wanted), strict=True):
        height, width, _ = images[image].shape
        assert one.query_index.tolist() == other.query_index.tolist()
        assert np.abs(one.scores - other.scores).max() < 2e-3
        assert np.abs((one.boxes - other.boxes) / [width, height, width, height]).max() < 2e-3
        assert (one.masks != other.masks).mean() < 0.01


def test_features_that_are_not_aligned_are_copied_on_the_device(
    write: Write, install_tensorrt: InstallTensorRt, tmp_path: Path, gpu: FakeGpu
) -> None:
    install_tensorrt(RELEASE)
    dims = ModelDims(patch=14, window=5, queries=200, channels=3, text_tokens=32, image_size=70)
    images = photos(3)
    wanted = on_the_host(tmp_path, dims, images, ["cat", "dog", "cow", "hen"])
    with load(write(dims=dims, floats="float32")) as pipeline:
        for _ in range(4):
            same(pipeline.detect(images, ["cat", "dog", "cow", "hen"]), wanted)
    assert gpu.count_of("dtod") > 0


@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (4, 1), (1, 9), (9, 1), (3, 5), (0, 2), (2, 0)])
def test_any_number_of_pictures_and_prompts(pipeline: Pipeline, tmp_path: Path, images: int, prompts: int) -> None:
    shown, asked = photos(images), [f"thing {index}" for index in range(prompts)]
    same(pipeline.detect(shown, asked), on_the_host(tmp_path, SMALL_DIMS, shown, asked))


def test_threads_get_what_they_would_get_alone(pipeline: Pipeline) -> None:
    images = photos(6)
    rounds: list[tuple[list[Any], list[Any]]] = [
        (images, ["cat", "dog"]), (images[:1], PROMPTS), (images[2:5], [ONE_BOX]), (images[::-1], ["cow", BOXES]),
    ]  # fmt: skip
    wanted = [pipeline.detect(*asked) for asked in rounds]
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda n: pipeline.detect(*rounds[n % 4]), range(16))
        for found, expected in zip(answers, wanted * 4, strict=True):
            same(found, expected)


def test_streams_may_be_read_in_turns(pipeline: Pipeline) -> None:
    images = photos(9)
    wanted = [pipeline.detect(images, ["cat", ONE_BOX]), pipeline.detect(images[::-1], ["dog"])]
    one, other = pipeline.stream(images, ["cat", ONE_BOX]), pipeline.stream(images[::-1], ["dog"])
    found: tuple[list[Any], list[Any]] = ([], [])
    for row, another in zip(one, other, strict=True):
        found[0].append(row)
        found[1].append(another)
    same(found[0], wanted[0])
    same(found[1], wanted[1])


@pytest.mark.parametrize("ahead", [True, False], ids=["next begun ahead", "next not there yet"])
@pytest.mark.parametrize("prompts", [["cat"], PROMPTS, [f"thing {index}" for index in range(9)]], ids=len)
def test_rounds_say_what_detect_says(pipeline: Pipeline, prompts: list[Any], ahead: bool) -> None:
    images = photos(9)
    batches = [images[:4], images[4:8], images[8:], images[2:6], images[5:8], images[:4], images[3:7]]
    wanted = [pipeline.detect(batch, prompts) for batch in batches]
    for _ in range(3):  # plainly, captured, and replayed
        left = iter(batches)
        rounds = list(pipeline.rounds(partial(batch_of, left, ahead), prompts))
        assert len(rounds) == len(batches)
        for found, expected in zip(rounds, wanted, strict=True):
            same(found, expected)


def batch_of(left: Iterator[list[Any]], ahead: bool, wait: bool) -> list[Any]:
    return next(left, []) if wait or ahead else []


@pytest.mark.parametrize("ahead", [True, False], ids=["next begun ahead", "next not there yet"])
def test_rounds_take_turns_with_others(pipeline: Pipeline, ahead: bool) -> None:
    """Who detects meanwhile waits for a round, and changes nothing in what is begun behind it."""
    images = photos(8)
    wanted = [pipeline.detect(images[:4], ["cat"]), pipeline.detect(images[4:], ["dog"])]

    def rounds(_: int) -> list[Any]:
        left = iter([images[:4]] * 5)
        return list(pipeline.rounds(partial(batch_of, left, ahead), ["cat"]))

    with ThreadPoolExecutor(4) as pool:
        both = pool.map(rounds, range(2))
        others = pool.map(lambda _: pipeline.detect(images[4:], ["dog"]), range(6))
        for found in chain(*both):
            same(found, wanted[0])
        for found in others:
            same(found, wanted[1])


@pytest.mark.parametrize("often", [1, 3], ids=["after each", "now and then"])
def test_what_was_begun_ahead_is_begun_again_where_somebody_detected(pipeline: Pipeline, often: int) -> None:
    """The engines write over it: here in the thread that takes the rounds, as a loop over them does."""
    images = photos(9)
    batches = [images[:4], images[4:8], images[8:], images[2:6], images[5:8], images[:4], images[3:7]]
    wanted = [pipeline.detect(batch, ["cat"]) for batch in batches]
    dog = pipeline.detect(images[4:7], ["dog", BOXES])
    logo = pipeline.encode([BOXES], images[0])[0].tokens

    def work() -> None:
        left = iter(batches)
        rounds = pipeline.rounds(partial(batch_of, left, True), ["cat"])
        for number, (found, expected) in enumerate(zip(rounds, wanted, strict=True), 1):
            same(found, expected)
            if number % often == 0:
                same(pipeline.detect(images[4:7], ["dog", BOXES]), dog)
                again = pipeline.encode([BOXES], images[0])[0].tokens
                assert np.array_equal(again.features, logo.features)

    within(work)


def test_a_stream_may_be_looked_at_again_while_it_runs(pipeline: Pipeline) -> None:
    """From the loop that takes the results, while the run's own thread detects ahead."""
    images = photos(9)
    wanted = {index: pipeline.detect([image], ["cup", "cat"]) for index, image in enumerate(images)}
    crop = images[0][5:25, 5:40]
    closer = pipeline.detect([crop], ["cat"])
    sources = [Listed("a", [images[n % 9] for n in range(40)]), Listed("b", [images[n % 5] for n in range(30)])]

    def work() -> list[int]:
        numbers = []
        for result in stream(Streamed(pipeline), sources):
            numbers.append(result.number)
            same([result.detections], wanted[result.number % (9 if result.source == "a" else 5)])
            same(pipeline.detect([crop], ["cat"]), closer)
        return numbers

    assert sorted(within(work)) == sorted([*range(40), *range(30)])


class Streamed:
    """Two classes, on the pipeline of a test."""

    classes = CLASSES

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self.batch = pipeline, pipeline.batch

    def rounds(self, take: TakeFromSources) -> BatchResults:
        return self._pipeline.rounds(images_of(take), ["cup", "cat"])

    def source_ended(self, source: int) -> None:
        pass


def test_what_is_kept_may_be_read_later(pipeline: Pipeline) -> None:
    images = photos(4)
    first = pipeline.detect(images, ["cat"])
    again = pipeline.detect(images, ["cat"])
    pipeline.detect(images[::-1], ["dog", "cow"])
    pipeline.close()
    same(first, again)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_masks_are_packed_and_equal_the_hosts(pipeline: Pipeline) -> None:
    features = pipeline.encode_images(pipeline.preprocess(photos(1)))
    outputs = pipeline.decode(features, pipeline.encode_texts(["cat", "dog"]))
    logits = outputs["pred_masks"]
    assert isinstance(logits, CudaArray)
    on_host = np.asarray(logits)
    for size in [(30, 50), (1, 1), (17, 8), (64, 63), (9, 200)]:
        rows = np.asarray([0, 3, 19])
        packed = pipeline.device.begin_masks(logits, 1, rows, size)()
        assert isinstance(packed, PackedMasks)
        assert packed.bits.shape == (3, size[0], -(-size[1] // 8))
        assert np.array_equal(packed.unpack(), resize_masks(on_host[1, rows], size))
        assert packed.unpack().dtype == np.bool_
    nothing = pipeline.device.begin_masks(logits, 0, np.asarray([], np.intp), (5, 9))().unpack()
    assert (nothing.shape, nothing.dtype) == ((0, 5, 9), np.bool_)


def test_nothing_found(pipeline: Pipeline) -> None:
    ((found,),) = pipeline.detect(photos(1), ["cat"], threshold=0.999)
    assert (len(found), found.masks.shape, found.rle()) == (0, (0, 30, 50), [])


# --- nothing goes through the host ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "prompts", "expected"),
    [(2, 3, {"P": 3, "N": 1}), (4, 1, {"P": 4, "N": 4})],
    ids=["prompts of an image", "images of a prompt"],
)
def test_the_decoder_reads_what_the_vision_encoder_wrote(
    write: Write, install_tensorrt: InstallTensorRt, gpu: FakeGpu, images: int, prompts: int, expected: dict[str, int]
) -> None:
    seen = install_tensorrt(RELEASE)._seen
    with load(write()) as pipeline:
        pipeline.encode_texts([f"thing {n}" for n in range(prompts)])
        gpu.log.clear()
        pipeline.detect(photos(images), [f"thing {n}" for n in range(prompts)])
        blocks = {name: seen.bound["vision-encoder"][name] for name in seen.bound["vision-encoder"]}
        decoder = engine_of(pipeline, "decoder")
        assert decoder._shapes["prompt_features"][0] == expected["P"]
        last = images - 1 if expected["N"] == 1 else 0
        for name in ("fpn_feat_0", "fpn_feat_1", "fpn_feat_2"):
            shape = decoder._shapes[name]
            assert shape[0] == expected["N"]
            assert seen.bound["decoder"][name] == blocks[name] + last * int(np.prod(shape[1:])) * 2
        assert seen.bound["decoder"]["fpn_pos_2"] == blocks["fpn_pos_2"]
        features = {gpu.holder(blocks[f"fpn_feat_{level}"]) for level in (0, 1, 2)}
        brought = [gpu.holder(entry[1]) for entry in gpu.log if entry[0] == "dtoh"]
        assert brought
        assert features.isdisjoint(brought)
        masks = gpu.holder(seen.bound["decoder"]["pred_masks"])
        assert masks not in brought, "whole masks were copied, not the bits of those that are kept"
        taken = {gpu.holder(entry[1]) for entry in gpu.log if entry[0] == "htod"}
        assert features.isdisjoint(taken)
        assert gpu.count_of("dtod") == 0


def test_integers_are_bound_in_the_records_type(write: Write, install_tensorrt: InstallTensorRt) -> None:
    install_tensorrt(RELEASE)
    with load(write(), release_text=False) as pipeline:
        assert {spec.dtype for spec in pipeline.engines["text-encoder"].inputs} == {"int32"}
        feeds = {name: np.ones((1, 32), np.int64) for name in ("input_ids", "attention_mask")}
        cast = pipeline.engines["text-encoder"].cast(feeds)
        assert {array.dtype.name for array in cast.values()} == {"int32"}
        assert pipeline.detect(photos(1), [BOXES])[0][0].query_index.dtype == np.int64


# --- memory -----------------------------------------------------------------------------------------------------------


def test_nothing_is_allocated_once_warm(pipeline: Pipeline, gpu: FakeGpu) -> None:
    images = photos(6)
    for _ in range(3):
        pipeline.detect(images, PROMPTS)
    warm, used, pinned = cuda_of(pipeline).allocations, gpu.used, dict(gpu.pinned)
    for _ in range(5):
        pipeline.detect(images, PROMPTS)
        pipeline.detect(images[:1], PROMPTS[:1])
    assert cuda_of(pipeline).allocations == warm
    assert (gpu.used, gpu.pinned) == (used, pinned)


def test_features_are_converted_into_one_block_each_as_is_predicted(
    write: Write, install_tensorrt: InstallTensorRt
) -> None:
    """Whichever image of a batch they are of."""
    install_tensorrt(RELEASE)
    mixed = dict.fromkeys(PART_NAMES, "float16") | {"vision-encoder": "float32"}
    with load(write(floats=mixed)) as pipeline:
        for images, prompts in ((4, ["cat", "dog", BOXES]), (4, ["cat"]), (3, ["cat", "dog"]), (1, PROMPTS)):
            pipeline.detect(photos(images), prompts)
        made = {name: block.size for name, block in cuda_of(pipeline)._blocks.items() if name.startswith("converted")}
        decoder = pipeline.records["decoder"]
    limits = {symbol: high for symbol, (_, _, high) in decoder.profile.items()}
    features = [spec for spec in decoder.inputs if spec.name.startswith("fpn")]
    assert made == {f"converted {spec.name} {spec.dtype}": bytes_of(spec, limits) for spec in features}
    vision = pipeline.records["vision-encoder"]
    assert buffers_of([vision, decoder]) == buffers_of([vision]) + buffers_of([decoder]), "both types are counted"


def test_one_block_of_scratch_serves_all(pipeline: Pipeline, gpu: FakeGpu) -> None:
    pipeline.detect(photos(2), PROMPTS)
    seen = sys.modules["tensorrt"]._seen
    assert len(set(seen.scratch.values())) == 1
    assert set(seen.scratch) == set(PART_NAMES)
    (address,) = set(seen.scratch.values())
    assert len(gpu.memory[address]) == max(SCRATCH.values())


def test_a_larger_engine_that_comes_later_moves_the_others(
    write: Write, install_tensorrt: InstallTensorRt, gpu: FakeGpu
) -> None:
    seen = install_tensorrt(RELEASE)._seen
    folder = write(floats="float32")
    images = np.zeros((2, 3, 112, 112), np.float32)
    device = open_device(folder, "tensorrt", EngineOptions())
    assert isinstance(device, CudaDevice)
    with open_engine(folder, "vision-encoder", device=device) as small:
        wanted = np.asarray(small.infer({"images": images})["fpn_feat_2"])
        for _ in range(3):
            small.infer({"images": images})
        launches, before = gpu.graphs.launches, seen.scratch["vision-encoder"]
        assert launches == 2
        with open_engine(folder, "decoder", device=device):
            found = small.infer({"images": images})
            assert np.array_equal(np.asarray(found["fpn_feat_2"]), wanted)
            assert seen.scratch["vision-encoder"] != before
            assert len(gpu.memory[seen.scratch["vision-encoder"]]) == SCRATCH["decoder"]
            assert before not in gpu.memory
            assert gpu.graphs.launches == launches, "a graph that works in freed memory was launched"
            for _ in range(2):
                small.infer({"images": images})
            assert gpu.graphs.launches == launches + 1
    device.close()
    gc.collect()
    assert gpu.used == 0


def test_the_text_encoder_leaves_and_comes_back(write: Write, install_tensorrt: InstallTensorRt, gpu: FakeGpu) -> None:
    seen = install_tensorrt(RELEASE)._seen
    folder = write(floats="float32")
    with load(folder) as pipeline:
        text = pipeline.engines["text-encoder"]
        assert isinstance(text, OnDemandEngine)
        assert text.loaded
        loaded = gpu.used
        first = pipeline.detect(photos(1), ["cat"])
        assert not text.loaded
        outputs = sum(block for block in [4 * 32 * 8 * 4, 4 * 32])
        assert loaded - gpu.used <= WEIGHTS["text-encoder"] + outputs
        assert (seen.alive, seen.deserialized.count("text-encoder")) == (3, 1)
        same(pipeline.detect(photos(1), ["cat"]), first)
        assert seen.deserialized.count("text-encoder") == 1
        released = gpu.used
        pipeline.detect(photos(1), ["dog", "cat"])
        assert (seen.alive, seen.deserialized.count("text-encoder")) == (3, 2)
        assert gpu.used == released
        damaged = bytearray((folder / "text-encoder.engine").read_bytes())
        damaged[5] ^= 1
        (folder / "text-encoder.engine").write_bytes(damaged)
        same(pipeline.detect(photos(1), ["cat"]), first)
        with pytest.raises(EngineError, match=r"their SHA-256 differ; it was changed after .*\nHint: open the variant"):
            pipeline.detect(photos(1), ["cow"])
        (folder / "text-encoder.engine").unlink()
        with pytest.raises(EngineError, match="is missing; it was changed after the variant was opened"):
            pipeline.detect(photos(1), ["cow"])


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that are hashed from here on."""
    names: list[str] = []

    def noted(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("sam3_runtime.records.integrity.sha256_of", noted)
    return names


@pytest.mark.parametrize("verify", [True, False])
def test_the_text_encoder_is_hashed_again_only_where_it_was_changed(
    write: Write, install_tensorrt: InstallTensorRt, hashed: list[str], verify: bool
) -> None:
    seen = install_tensorrt(RELEASE)._seen
    folder = write(floats="float32")
    with load(folder, verify_digest=verify) as pipeline:
        assert hashed.count("text-encoder.engine") == int(verify)
        for word in ("cat", "dog", "cow"):
            pipeline.encode([word])
        assert hashed.count("text-encoder.engine") == int(verify)
        path = folder / "text-encoder.engine"
        path.write_bytes(path.read_bytes())  # the same, as far as only its digest tells
        os.utime(path, ns=(1, 1))
        for word in ("hen", "owl"):
            pipeline.encode([word])
        assert hashed.count("text-encoder.engine") == 2 * int(verify)
        assert seen.deserialized.count("text-encoder") == 5


def test_nothing_comes_back_once_it_is_closed(write: Write, install_tensorrt: InstallTensorRt) -> None:
    seen = install_tensorrt(RELEASE)._seen
    with load(write(floats="float32")) as pipeline:
        pipeline.encode(["cat"])
    before = list(seen.deserialized)
    for word in ("cat", "a word that nobody asked for yet"):
        with pytest.raises(EngineError, match="the text-encoder is closed"):
            pipeline.encode([word])
    assert (seen.deserialized, seen.alive) == (before, 0)


def test_the_text_encoder_stays_where_that_is_asked(write: Write, install_tensorrt: InstallTensorRt) -> None:
    seen = install_tensorrt(RELEASE)._seen
    with load(write(), release_text=False) as pipeline:
        for word in ("cat", "dog"):
            pipeline.detect(photos(1), [word])
        assert seen.deserialized.count("text-encoder") == 1


def test_everything_is_freed_when_it_is_closed(write: Write, install_tensorrt: InstallTensorRt, gpu: FakeGpu) -> None:
    seen = install_tensorrt(RELEASE)._seen
    for _ in range(2):
        with load(write()) as pipeline:
            for _ in range(3):
                pipeline.detect(photos(3), PROMPTS)
            assert gpu.graphs.alive
        pipeline.close()
        with pytest.raises(EngineError, match="closed"):
            pipeline.detect(photos(1), ["cat"])
        del pipeline
        gc.collect()
        assert (gpu.used, gpu.pinned, gpu.graphs.alive, seen.alive, gpu.contexts) == (0, {}, {}, 0, 0)


def test_a_verdict_is_about_the_card_that_is_opened(
    write: Write, install_tensorrt: InstallTensorRt, gpu: FakeGpu, caplog: pytest.LogCaptureFixture
) -> None:
    """Not about the one that the engines were built for, nor the first of this machine."""
    install_tensorrt(RELEASE)
    gpu.cards = [Card(), Card("Fake H100", "0000:3B:00.0")]
    folder = write()
    for index, status in enumerate(("passed", "unverified")):
        with load(folder, gpu=index) as pipeline:
            assert (pipeline.device.name, pipeline.status) == (gpu.cards[index].name, status)
    assert pipeline.reason.startswith("verified on Fake H200, not on Fake H100: run sam3-runtime verify")
    assert "b4_q20_r112 is UNVERIFIED: verified on Fake H200" in caplog.text


def test_a_verdict_says_which_card_it_was_made_on(
    write: Write, install_tensorrt: InstallTensorRt, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_tensorrt(RELEASE)
    gpu.cards = [Card("Fake H100")]
    monkeypatch.setattr(runtime, "read", lambda _: SimpleNamespace(cases=()))
    monkeypatch.setattr(gate, "check_reference", lambda *_: None)
    monkeypatch.setattr(gate.Comparison, "run", lambda _: None)
    monkeypatch.setattr(gate.Comparison, "checks", lambda *_: ())
    (tmp_path / "reference.npz").write_bytes(b"only its digest is wanted")
    verdict = verify.verify(write(), tmp_path / "reference.npz", {}, "Fake H200")
    assert (verdict.status, verdict.device) == ("passed", "Fake H100")


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(directory: Path, gpu: FakeGpu, message: str, kind: type[EngineError] = EngineError) -> list[str]:
    """Loading fails with that message, and leaves nothing behind. Gives the parts that were deserialised meanwhile."""
    with pytest.raises(kind, match=message) as caught:
        load(directory)
    assert caught.type is kind
    del caught
    gc.collect()
    assert (gpu.used, gpu.pinned) == (0, {})
    seen = sys.modules["tensorrt"]._seen
    assert seen.alive == 0
    parts: list[str] = seen.deserialized
    return parts


@pytest.fixture
def directory(write: Write, install_tensorrt: InstallTensorRt) -> Path:
    install_tensorrt(RELEASE)
    return write()


def test_too_little_memory_is_told_before_anything_is_loaded(directory: Path, gpu: FakeGpu) -> None:
    change_record(directory, "decoder", sizes=EngineRecord.read(directory / "decoder.engine.json").sizes.model_copy(
        update={"weights": 5 << 30}
    ))  # fmt: skip
    message = (
        r"needs about 5121 MiB of GPU memory \(5120 weights, 0 scratch, 0 buffers\), and 1024 MiB are free on Fake "
        r"H200\nHint: close what else runs there"
    )
    assert refused(directory, gpu, message) == []


def test_memory_that_runs_out_on_the_way(directory: Path, gpu: FakeGpu) -> None:
    """What the records do not say is told by TensorRT or by the driver."""
    for part in PART_NAMES:
        sizes = EngineRecord.read(directory / f"{part}.engine.json").sizes
        change_record(directory, part, sizes=Sizes(file=sizes.file))
    told = []
    for gpu.total in range(10_000, 800_000, 40_000):
        try:
            load(directory).close()
        except EngineError as error:
            told.append(error.message)
        gc.collect()
        assert (gpu.used, gpu.pinned) == (0, {})
    assert any("out of GPU memory: " in message for message in told)
    assert any("does not open in TensorRT 8.6.1: Requested amount of GPU memory" in message for message in told)
    load(directory).close()


def test_an_engine_of_another_gpu(directory: Path, gpu: FakeGpu) -> None:
    made = Toolchain(backend="tensorrt", version=RELEASE, gpu="NVIDIA L4", compute_capability="8.9")
    change_record(directory, "vision-encoder", toolchain=made)
    message = (
        r"vision-encoder\.engine was built for NVIDIA L4 \(compute capability 8\.9\), and this is Fake H200 \(9\.0\)\n"
        r"Hint: rebuild it: snakemake engines/b4_q20_r112/vision-encoder\.engine on this machine"
    )
    assert refused(directory, gpu, message) == []


def test_an_engine_of_another_tensorrt(directory: Path, gpu: FakeGpu) -> None:
    made = Toolchain(backend="tensorrt", version="10.3.0", gpu="Fake H200", compute_capability="9.0")
    change_record(directory, "decoder", toolchain=made)
    message = (
        r"built with TensorRT 10\.3\.0, and 8\.6\.1 is installed here: .*\n"
        r"Hint: rebuild it: .*decoder\.engine; or install that version: pip install tensorrt==10\.3\.0"
    )
    assert refused(directory, gpu, message) == []


def test_an_engine_that_is_not_the_records(directory: Path, gpu: FakeGpu) -> None:
    path = directory / "decoder.engine"
    path.write_bytes(path.read_bytes().replace(b"false", b"fAlse", 1))
    assert refused(directory, gpu, "their SHA-256 differ") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_boxes": "float16"}, "pred_boxes is float16, not float32"),
        ({"pred_boxes": None}, "pred_boxes is None, not float32"),
        ({"more": "bool"}, "more is bool, not None"),
    ],
)
def test_an_engine_with_other_tensors_than_its_record(
    directory: Path, gpu: FakeGpu, change: dict[str, str | None], message: str
) -> None:
    path = directory / "decoder.engine"
    record = EngineRecord.read(directory / "decoder.engine.json")
    content = json.loads(path.read_text())
    content["types"] = {name: kind for name, kind in (content["types"] | change).items() if kind}
    path.write_text(json.dumps(content))
    change_record(
        directory,
        "decoder",
        sha256=sha256_of(path),
        sizes=record.sizes.model_copy(update={"file": path.stat().st_size}),
    )
    refused(directory, gpu, rf"the tensors of .* do not match its record \({message}\)\nHint: rebuild it")


def test_a_file_that_tensorrt_refuses(directory: Path, gpu: FakeGpu) -> None:
    path = directory / "geometry-encoder.engine"
    path.write_bytes(b"no engine")
    change_record(directory, "geometry-encoder", sha256=sha256_of(path), sizes=Sizes(file=9))
    message = r"geometry-encoder\.engine does not open in TensorRT 8\.6\.1: .*magicTagRead.*\nHint: rebuild it"
    assert refused(directory, gpu, message) == ["vision-encoder", "text-encoder"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"fails": True}, r"the vision-encoder failed to run: Cask Error"),
        (
            {"refuses": [1, 3, 112, 112]},
            r"the vision-encoder refuses the shape \[1, 3, 112, 112\] of images: Parameter",
        ),
    ],
    ids=["fails", "refuses a shape"],
)
def test_what_fails_while_it_runs_says_what_tensorrt_said(directory: Path, said: dict[str, Any], message: str) -> None:
    write_fake_variant(directory.parent / "fake", VARIANT)
    record = EngineRecord.read(directory.parent / "fake/vision-encoder.engine.json")
    toolchain_of = EngineRecord.read(directory / "vision-encoder.engine.json").toolchain
    write_gpu_engine(directory, record, bound_types("vision-encoder", "float16", "int32"), toolchain_of, **said)
    with load(directory) as pipeline, pytest.raises(EngineError, match=message):
        pipeline.detect(photos(1), ["cat"])


def test_without_pycuda(directory: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert refused(directory, gpu, r"pycuda.*\nHint: .*sam3-runtime\[cuda\]") == []


def test_without_tensorrt(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_version", lambda _: toolchain.NOT_INSTALLED)
    with pytest.raises(EngineError, match=r"not installed here.*\nHint: pip install 'sam3-runtime\[tensorrt\]'"):
        load(directory)


def test_without_a_driver(directory: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_gpu", lambda: None)
    message = r"cannot run TensorRT engines: no NVIDIA driver was found\nHint: take it to the machine with the GPU"
    assert refused(directory, gpu, message, CannotRunHere) == []


def test_too_large_a_batch_names_the_variant(directory: Path) -> None:
    with load(directory) as pipeline:
        vision = pipeline.engines["vision-encoder"]
        with pytest.raises(EngineError, match=r"takes 4 at most\nHint: build b5_q20_r112"):
            vision.infer({"images": np.zeros((5, 3, 112, 112), np.float16)})
        feeds = {name: np.zeros((6, 32), np.int32) for name in ("input_ids", "attention_mask")}
        with pytest.raises(EngineError, match=r"takes 4 at most\nHint: build b6_q20_r112"):
            pipeline.engines["text-encoder"].infer(feeds)


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def vision(write: Write, install_tensorrt: InstallTensorRt) -> Iterator[TensorRtEngine]:
    install_tensorrt(RELEASE)
    folder = write(floats="float32")
    device = open_device(folder, "tensorrt", EngineOptions())
    with open_engine(folder, "vision-encoder", device=device) as engine:
        assert isinstance(engine, TensorRtEngine)
        yield engine
    device.close()


def brightness(engine: TensorRtEngine, value: float, images: int = 1) -> float:
    """What the engine says of pictures of one value."""
    found = engine.infer({"images": np.full((images, 3, 112, 112), value, np.float32)})["fpn_feat_2"]
    assert isinstance(found, CudaArray)
    assert found.shape[0] == images
    return float(np.asarray(found)[images - 1, 0, 0, 0])


def enqueued() -> int:
    count: int = len(sys.modules["tensorrt"]._seen.enqueued)
    return count


def test_a_graph_is_captured_behind_a_run_and_then_replayed(vision: TensorRtEngine, gpu: FakeGpu) -> None:
    found = []
    for value in (0.5, 0.25, 0.75, 0.125):
        assert brightness(vision, value) == value
        found.append((enqueued(), len(gpu.graphs.alive), gpu.graphs.launches))
    # Run; run and captured; replayed; replayed.
    assert found == [(1, 0, 0), (3, 1, 0), (3, 1, 1), (3, 1, 2)]


def test_no_graph_outlives_its_shapes(vision: TensorRtEngine, gpu: FakeGpu) -> None:
    """A context that has run other shapes since is another one."""
    for turn in range(4):
        for images in (1, 3, 2):
            assert brightness(vision, turn / 4 + 0.125, images) == turn / 4 + 0.125
    assert (gpu.graphs.alive, gpu.graphs.launches) == ({}, 0)
    for images in (3, 1, 3):
        for value in (0.5, 0.25, 0.75):
            assert brightness(vision, value, images) == value
        assert len(gpu.graphs.alive) == 1
    assert gpu.graphs.launches == 3


@pytest.mark.parametrize("refuses", ["begin", "end", "instantiate"])
def test_where_a_capture_fails_it_runs_as_before(vision: TensorRtEngine, gpu: FakeGpu, refuses: str) -> None:
    for images in (1, 1, 2):
        brightness(vision, 0.5, images)
    gpu.graphs.refuses = refuses
    for value in (0.25, 0.5, 0.75):
        assert brightness(vision, value, 2) == value
        assert brightness(vision, value, 1) == value
    assert (gpu.graphs.alive, gpu.graphs.unfinished) == ({}, 0)


def test_each_address_has_a_graph(vision: TensorRtEngine, gpu: FakeGpu) -> None:
    """As the images of a batch have."""
    cuda = vision._cuda
    blocks = [cuda.alloc(4 * 3 * 112 * 112) for _ in range(4)]
    made = [CudaArray(cuda, block.pointer, (1, 3, 112, 112), "float32") for block in blocks]
    for value, pixels in enumerate(made):
        cuda.upload(pixels, np.full(pixels.shape, value / 4, np.float32))
    for launches in (0, 0, 4):  # run, captured, replayed
        for value, pixels in enumerate(made):
            assert float(np.asarray(vision.infer({"images": pixels})["fpn_feat_2"])[0, 0, 0, 0]) == value / 4
        assert gpu.graphs.launches == launches
    assert len(gpu.graphs.alive) == 4
    for block in blocks:
        block.free()


def test_without_graphs_none_is_made(write: Write, install_tensorrt: InstallTensorRt, gpu: FakeGpu) -> None:
    install_tensorrt(RELEASE)
    with load(write(), cuda_graphs=False) as pipeline:
        for _ in range(4):
            pipeline.detect(photos(1), ["cat"])
    assert (gpu.graphs.launches, gpu.graphs.unfinished) == (0, 0)
