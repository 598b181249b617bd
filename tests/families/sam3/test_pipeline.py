"""The pipeline on the fake backend, whose answers depend on the picture and the prompt and on nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

import sam3_runtime
from sam3_runtime.core.errors import EngineError, SourceError
from sam3_runtime.deploy.loading import load
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.engines.running.host import HostDevice
from sam3_runtime.engines.running.turns import Turns
from sam3_runtime.families.sam3.parts import PART_NAMES, PartName
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.prefetch import Stage
from sam3_runtime.families.sam3.prompts import Prompt, PromptError
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.records.records import VariantConfig
from tests.fake_variant import write_fake_variant
from tests.streaming import within

BOXES = Prompt("cup", ((5, 5, 20, 25), (1, 2, 9, 9)), (1, 0))
ONE_BOX = Prompt(boxes=((3, 4, 30, 20),))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_fake_variant(tmp_path / "engines/b4_q20_r112")
    return tmp_path / "engines/b4_q20_r112"


@pytest.fixture
def pipeline(directory: Path) -> Iterator[Pipeline]:
    with load(directory) as opened:
        yield opened


def photos(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(0, 40 * (i % 6 + 1), (30 + 7 * i, 50 + i, 3), dtype=np.uint8) for i in range(count)]


def calls(pipeline: Pipeline) -> dict[str, int]:
    return {part: engine.calls for part, engine in pipeline.engines.items() if isinstance(engine, FakeEngine)}


def same(one: Detections, other: Detections) -> bool:
    return (one.prompt, one.prompt_index) == (other.prompt, other.prompt_index) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "masks", "query_index")
    )


# --- detecting --------------------------------------------------------------------------------------------------------


def test_results_are_by_image_and_by_prompt(pipeline: Pipeline) -> None:
    images = photos(2)
    found = pipeline.detect(images, ["cat", "red car", ONE_BOX])
    assert [[one.prompt for one in row] for row in found] == [["cat", "red car", "visual"]] * 2
    for image, row in zip(images, found, strict=True):
        for one in row:
            assert len(one) > 3
            assert (one.scores > 0.3).all()
            assert (np.diff(one.scores) <= 0).all()
            assert one.masks.shape == (len(one), *image.shape[:2])
            assert one.masks.any(axis=(1, 2)).all()
    assert not np.array_equal(found[0][0].boxes, found[0][1].boxes)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
@pytest.mark.parametrize(
    "prompts", [["cat"], ["cat", "dog", ONE_BOX, BOXES], [f"thing {i}" for i in range(9)], [ONE_BOX]], ids=len
)
def test_an_answer_does_not_depend_on_the_rest_of_the_call(
    pipeline: Pipeline, count: int, prompts: list[str | Prompt]
) -> None:
    images = photos(count)
    together = pipeline.detect(images, prompts)
    assert [len(row) for row in together] == [len(prompts)] * count
    for image, row in zip(images, together, strict=True):
        for index, prompt in enumerate(prompts):
            (alone,) = pipeline.detect([image], [prompt])[0]
            assert np.array_equal(row[index].boxes, alone.boxes)
            assert np.array_equal(row[index].masks, alone.masks)
            assert row[index].prompt_index == index


@pytest.mark.parametrize(
    ("images", "prompts", "decoder_calls"),
    [(1, 3, 1), (4, 1, 1), (4, 3, 3), (3, 4, 3), (1, 9, 3), (9, 1, 3), (0, 3, 0), (2, 0, 0)],
)
def test_the_decoder_runs_as_seldom_as_it_can(
    pipeline: Pipeline, images: int, prompts: int, decoder_calls: int
) -> None:
    found = pipeline.detect(photos(images), [f"thing {index}" for index in range(prompts)])
    assert [len(row) for row in found] == [prompts] * images
    assert calls(pipeline)["decoder"] == decoder_calls
    assert calls(pipeline)["vision-encoder"] == -(-images // 4)
    assert calls(pipeline)["geometry-encoder"] == 0


def test_texts_are_encoded_once(pipeline: Pipeline) -> None:
    pipeline.detect(photos(6), ["cat", "dog", "cat"])
    assert calls(pipeline)["text-encoder"] == 1
    pipeline.detect(photos(1), ["dog", "cat"])
    assert calls(pipeline)["text-encoder"] == 1
    pipeline.detect(photos(1), ["dog", "bird"])
    assert calls(pipeline)["text-encoder"] == 2


def test_threshold_and_top(pipeline: Pipeline) -> None:
    image = photos(1)
    assert len(pipeline.detect(image, ["cat"], threshold=0.999)[0][0]) == 0
    assert len(pipeline.detect(image, ["cat"], threshold=0.0)[0][0]) == 20
    assert len(pipeline.detect(image, ["cat"], threshold=0.999, top=7)[0][0]) == 7


def test_stages_are_seen(pipeline: Pipeline) -> None:
    seen: list[Stage] = []

    def hook(stage: Stage) -> AbstractContextManager[None]:
        @contextmanager
        def note() -> Iterator[None]:
            yield
            seen.append(stage)

        return note()

    pipeline.detect(photos(1), ["cat"], stages=hook)
    assert list(dict.fromkeys(seen)) == ["preprocess", "vision", "prompt", "decoder", "postprocess"]


def test_several_threads_at_once(pipeline: Pipeline) -> None:
    images, prompts = photos(5), ["cat", "dog", ONE_BOX]
    expected = pipeline.detect(images, prompts)
    assert [len(row) for row in expected] == [3] * 5
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: pipeline.detect(images, prompts), range(8)):
            for row, wanted in zip(found, expected, strict=True):
                assert all(map(same, row, wanted))


def test_what_is_no_image_or_off_the_image_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(SourceError, match="an image is RGB uint8"):
        pipeline.detect([np.zeros((4, 4), np.uint8)], ["cat"])
    with pytest.raises(PromptError, match="is outside the image, which is 50 x 30 pixels"):
        pipeline.detect(photos(1), [Prompt(boxes=((0, 0, 51, 5),))])


# --- the package ------------------------------------------------------------------------------------------------------

FORBIDDEN = ("torch", "transformers", "snakemake", "onnx", "safetensors")


def test_running_needs_neither_torch_nor_the_workflow(directory: Path) -> None:
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError("the runtime imported " + name)
sys.meta_path.insert(0, Refuse())
import sam3_runtime
assert "numpy" not in sys.modules, "importing is not free"
import numpy, sam3_runtime.cli.infer
found = sam3_runtime.load({str(directory)!r}).detect([numpy.zeros((9, 9, 3), "uint8")], ["cat"])
print(len(found[0][0]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 3


def test_the_package_offers_what_it_says() -> None:
    assert {"load", "stream", "Detections", "Tracker"} <= set(sam3_runtime.__all__)
    for name in sam3_runtime.__all__:
        assert getattr(sam3_runtime, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        sam3_runtime.lod  # noqa: B018


def test_the_fake_variant_is_written_the_same_twice(directory: Path, tmp_path: Path) -> None:
    write_fake_variant(tmp_path / "again")
    for path in directory.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert VariantConfig.read(directory / "config.json").variant == "b4_q20_r112"


# --- one batch after another ------------------------------------------------------------------------------------------


class Queueing(HostDevice):
    """A device that would go on by itself."""

    queues = True


def taken_from(batches: list[list[np.ndarray]], ready: bool = True) -> Callable[[bool], list[np.ndarray]]:
    """Gives one after another; where they are not ``ready``, only to who waits."""
    left = iter(batches)
    return lambda wait: next(left, []) if wait or ready else []


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("queues", [True, False])
def test_rounds_say_what_detect_does(directory: Path, queues: bool, ready: bool) -> None:
    prompts = ["cat", "dog", ONE_BOX]
    images = photos(9)
    batches = [images[:4], images[4:5], images[5:9]]
    with load(directory) as pipeline:
        expected = pipeline.detect(images, prompts)
        pipeline.device = Queueing() if queues else HostDevice()
        found = list(pipeline.rounds(taken_from(batches, ready), prompts))
    assert [len(round_) for round_ in found] == [4, 1, 4]
    for row, alone in zip((row for round_ in found for row in round_), expected, strict=True):
        assert all(same(*pair) for pair in zip(row, alone, strict=True))


def stages_of(pipeline: Pipeline, ready: bool) -> list[str]:
    seen: list[str] = []

    @contextmanager
    def hook(stage: Stage) -> Iterator[None]:
        seen.append(stage)
        yield

    batches = [photos(4), photos(4)]
    for found in pipeline.rounds(taken_from(batches, ready), ["cat", "dog"], stages=hook):
        assert len(found) == 4
        seen.append("given")
    return seen


def test_the_next_batch_is_begun_before_the_last_is_finished(directory: Path) -> None:
    """Handed over behind the last call of the decoder, and encoded behind the masks of that call."""
    first = ["prompt", "decoder", "decoder", "postprocess"]  # a call: started, fetched, its masks begun
    with load(directory) as pipeline:
        pipeline.device = Queueing()
        assert stages_of(pipeline, ready=True) == [
            "preprocess", "vision",
            *first, "decoder", "postprocess", "preprocess", "decoder", "postprocess", "vision", "postprocess", "given",
            *first, "decoder", "postprocess", "decoder", "postprocess", "postprocess", "given",
        ]  # fmt: skip


@pytest.mark.parametrize("queues", [True, False])
def test_nothing_waits_for_a_batch_that_is_not_there(directory: Path, queues: bool) -> None:
    with load(directory) as pipeline:
        pipeline.device = Queueing() if queues else HostDevice()
        seen = stages_of(pipeline, ready=not queues)
    assert seen.index("given") < seen.index("preprocess", 1)


# --- taking turns -----------------------------------------------------------------------------------------------------


@pytest.fixture
def serial(pipeline: Pipeline) -> Pipeline:
    """A pipeline as on a GPU: its engines take turns, and its device goes on by itself."""
    pipeline.device = Queueing()
    pipeline._turns = Turns(concurrent=False)
    return pipeline


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another thread"])
def test_whoever_takes_rounds_may_detect_in_between(serial: Pipeline, elsewhere: bool) -> None:
    images = photos(12)
    batches = [images[start : start + 4] for start in range(0, 12, 4)]
    wanted, looked_at = serial.detect(images, ["cat"]), serial.detect(images[:1], ["dog"])
    before = calls(serial)["vision-encoder"]

    def work() -> list[list[list[Detections]]]:
        rounds = []
        with ThreadPoolExecutor(1) as pool:
            for found in serial.rounds(taken_from(batches), ["cat"]):
                rounds.append(found)
                asked = (images[:1], ["dog"])
                again = pool.submit(serial.detect, *asked).result(60) if elsewhere else serial.detect(*asked)
                assert same(again[0][0], looked_at[0][0])
        return rounds

    rounds = within(work)
    assert [len(round_) for round_ in rounds] == [4, 4, 4]
    for (one,), (other,) in zip((row for round_ in rounds for row in round_), wanted, strict=True):
        assert same(one, other)
    encoded = calls(serial)["vision-encoder"] - before
    assert encoded == 3 + 3 + 1, "of what was begun ahead one batch alone was made again"


def test_rounds_that_are_left_keep_nobody_out(serial: Pipeline) -> None:
    left = serial.rounds(taken_from([photos(2), photos(2)]), ["cat"])
    next(left)
    assert len(within(lambda: serial.detect(photos(1), ["cat"]))) == 1
    left.close()


@pytest.mark.parametrize("inside", ["take", "stages"])
def test_what_a_pipeline_calls_cannot_call_it(serial: Pipeline, inside: str) -> None:
    """A message at once, in place of waiting for itself; and it goes on working."""

    def again() -> None:
        serial.detect(photos(1), ["cat"])

    def take(wait: bool) -> list[np.ndarray]:
        if not wait and inside == "take":
            again()
        return photos(1) if wait else []

    @contextmanager
    def stage(_: Stage) -> Iterator[None]:
        if inside == "stages":
            again()
        yield

    with pytest.raises(EngineError, match="a pipeline was called from its own"):
        within(lambda: next(serial.rounds(take, ["cat"], stages=stage)))
    assert len(serial.detect(photos(1), ["cat"])) == 1


def test_texts_that_are_asked_for_are_remembered_the_longest(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam3_runtime.families.sam3.pipeline._TEXT_CACHE_SIZE", 8)
    for number in range(40):
        pipeline.encode_texts(["person"])
        pipeline.encode_texts([f"thing {number}"])
    assert calls(pipeline)["text-encoder"] == 1 + 40
    pipeline.encode_texts(["thing 39", "thing 33"])
    assert calls(pipeline)["text-encoder"] == 1 + 40
    pipeline.encode_texts(["thing 32"])
    assert calls(pipeline)["text-encoder"] == 1 + 40 + 1


# --- parts that were not opened ---------------------------------------------------------------------------------------

NEEDS: dict[str, tuple[PartName, Callable[[Pipeline], object]]] = {
    "batch": ("vision-encoder", lambda pipeline: pipeline.batch),
    "detect": ("vision-encoder", lambda pipeline: pipeline.detect(photos(1), ["cat"])),
    "stream": ("vision-encoder", lambda pipeline: list(pipeline.stream(photos(1), ["cat"]))),
    "rounds": ("vision-encoder", lambda pipeline: next(pipeline.rounds(lambda _: photos(1), ["cat"]))),
    "preprocess": ("vision-encoder", lambda pipeline: pipeline.preprocess(photos(1))),
    "encode_images": ("vision-encoder", lambda pipeline: pipeline.encode_images(np.zeros((1, 3, 112, 112)))),
    "encode with an image": ("vision-encoder", lambda pipeline: pipeline.encode(["cat"], photos(1)[0])),
    "encode": ("text-encoder", lambda pipeline: pipeline.encode(["cat"])),
    "encode_texts": ("text-encoder", lambda pipeline: pipeline.encode_texts(["cat"])),
    "tokenizer": ("text-encoder", lambda pipeline: pipeline.tokenizer),
    "detect words": ("text-encoder", lambda pipeline: pipeline.detect(photos(1), ["cat"])),
    "encode_prompts": ("text-encoder", lambda pipeline: pipeline.encode_prompts([Prompt("cat")], [(9, 9)], {})),
    "encode_boxes": ("geometry-encoder", lambda pipeline: pipeline.encode_boxes([BOXES], (50, 50), {})),
    "detect boxes": ("geometry-encoder", lambda pipeline: pipeline.detect(photos(1), [ONE_BOX])),
    "decode": ("decoder", lambda pipeline: pipeline.decode({}, pipeline.encode_texts(["cat"]))),
    "detect without a decoder": ("decoder", lambda pipeline: pipeline.detect(photos(1), ["cat"])),
}


@pytest.mark.parametrize("need", NEEDS)
def test_a_part_that_was_not_opened_is_named(directory: Path, need: str) -> None:
    part, work = NEEDS[need]
    message = rf"the {part} of b4_q20_r112 was not opened, but is needed here\nHint: open all parts: sam3_runtime\.load"
    others = [other for other in PART_NAMES if other != part]
    with load(directory, parts=others) as pipeline, pytest.raises(EngineError, match=message):
        work(pipeline)
