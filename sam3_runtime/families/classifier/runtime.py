"""Classifies pictures with the engine of one variant, judges it, measures it, and writes down what it says.

Knows the one part, its tensors and its labels; knows no backend and no PyTorch. What is measured and how, and what a
verdict is, is known elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.closing import Closing
from sam3_runtime.core.errors import RecordError, Sam3Error, SourceError, printable
from sam3_runtime.core.files import check_writable, remove_abandoned_parts, write_atomically
from sam3_runtime.core.wording import counted
from sam3_runtime.engines.running.base import AnyArray, Device, Engine
from sam3_runtime.engines.running.turns import Turns
from sam3_runtime.families.classifier.labels import Labels, load_all, read_labelled, read_labels
from sam3_runtime.families.classifier.parts import LABELS
from sam3_runtime.families.classifier.reference import Reference, accuracy_of, top_classes
from sam3_runtime.families.classifier.reference import read_reference as read
from sam3_runtime.imaging.preprocess import Image, check_image
from sam3_runtime.measure.judging import Judged, PartCall, cosine
from sam3_runtime.media.sinks import JsonLines
from sam3_runtime.media.source_files import LeftOut, expand_images
from sam3_runtime.media.sources import quiet_decoders
from sam3_runtime.records.measurements import of_variant
from sam3_runtime.records.records import Check, EngineRecord, VariantConfig

if TYPE_CHECKING:
    from rich.console import Console

PART = "model"
TOP = 5
Stages = Callable[[str], AbstractContextManager[object]]
"""Called with ``preprocess``, ``model`` or ``postprocess``, gives the context that the stage runs in."""
FloatArray = NDArray[np.float32]


class OptionError(Sam3Error):
    """A command was told what means nothing to a classifier."""


@dataclass(frozen=True)
class Guesses:
    """What one picture may show, best first: ``classes`` [n] by index, ``names`` [n], and ``scores`` [n], the
    probabilities of the softmax over all classes."""

    classes: tuple[int, ...]
    names: tuple[str, ...]
    scores: tuple[float, ...]


def _no_stages(_: str) -> AbstractContextManager[object]:
    return nullcontext()


class Classifier(Closing):
    """The engine of one variant, opened by :func:`sam3_runtime.load`. A context manager; else :meth:`close` it.

    ``config`` and ``records`` are the variant's own; ``status`` is the accuracy gate's verdict and ``reason`` what it
    says; ``device`` is what the engine runs on, ``labels`` what its classes are called.

    Thread safety: :meth:`logits` and :meth:`classify` may be called from several threads at once; on a GPU calls take
    turns, a batch each. :meth:`close` only when no call runs.
    """

    def __init__(
        self,
        config: VariantConfig,
        engines: dict[Any, Engine],
        device: Device,
        labels: Labels,
        status: str = "unverified",
        reason: str = "",
    ) -> None:
        self.config, self.engines, self.device, self.labels = config, engines, device, labels
        self.status, self.reason = status, reason
        self.engine = engines[PART]
        self._turns = Turns(concurrent=self.engine.concurrent)

    @property
    def records(self) -> dict[Any, EngineRecord]:
        return {part: engine.record for part, engine in self.engines.items()}

    @property
    def batch(self) -> int:
        """The most pictures that go through the model at once; :meth:`logits` takes any number."""
        return self.engine.limit("B")

    @property
    def classes(self) -> int:
        return int(self.engine.outputs[0].shape[1])

    def logits(self, images: Sequence[Image], stages: Stages | None = None) -> FloatArray:
        """Float32 [N, K] of N images, RGB uint8 [H, W, 3], any number, each of any size.

        Raises :class:`SourceError` for what is no image, :class:`EngineError` when the engine fails.
        """
        stage = stages or _no_stages
        for image in images:
            check_image(image)
        found = np.empty((len(images), self.classes), np.float32)
        for start in range(0, len(images), self.batch):
            rows = slice(start, start + self.batch)
            with self._turns.take():  # pixels and logits lie in the engine's own memory
                with stage("preprocess"):
                    pixels = self.preprocess(images[rows])
                with stage("model"):
                    found[rows] = self.device.fetch(self.infer(pixels))["logits"]
        return found

    def classify(self, images: Sequence[Image], top: int = TOP, stages: Stages | None = None) -> list[Guesses]:
        """The ``top`` best classes of each image; errors as :meth:`logits`."""
        logits = self.logits(images, stages)
        with (stages or _no_stages)("postprocess"):
            best = top_classes(logits, top)
            shares = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
            shares /= shares.sum(axis=1, keepdims=True)
            return [
                Guesses(tuple(row), tuple(self.labels.names[index] for index in row), tuple(scores))
                for row, scores in zip(best.tolist(), np.take_along_axis(shares, best, 1).tolist(), strict=True)
            ]

    # --- the steps, one by one: the benchmark calls them too ----------------------------------------------------------

    def preprocess(self, images: Sequence[Image]) -> AnyArray:
        """At most :attr:`batch` images → what the model takes, [B, 3, R, R]."""
        tensor = self.engine.inputs[0]
        return self.device.preprocess(images, int(tensor.shape[-1]), self.config.preprocessing, tensor.dtype)

    def infer(self, pixels: AnyArray) -> Mapping[str, AnyArray]:
        """[B, 3, R, R] → ``logits``, wherever the engine makes them."""
        return self.engine.infer(self.engine.cast({"images": pixels}))

    def close(self) -> None:
        """Free the engine. Closing twice does nothing."""
        for engine in self.engines.values():
            engine.close()
        self.device.close()


def open_model(
    config: VariantConfig, engines: dict[Any, Engine], device: Device, *, directory: Path, status: str, reason: str
) -> Classifier:
    """The opened engines as a classifier; :class:`RecordError` where the labels beside them do not fit."""
    labels = read_labels(directory / LABELS, int(engines[PART].outputs[0].shape[1]))
    return Classifier(config, engines, device, labels, status, reason)


def _load(directory: Path, threads: int | None = None) -> Classifier:
    from sam3_runtime.deploy.loading import load  # which opens models of every family

    return cast(Classifier, load(directory, threads=threads))


# --- the accuracy gate ------------------------------------------------------------------------------------------------


def read_reference(path: Path, config: VariantConfig) -> Reference:
    """What float32 PyTorch said; :class:`RecordError` unless it is of this checkpoint and resolution and holds
    pictures."""
    reference = read(path)
    if (reference.checkpoint_digest, reference.resolution) != (config.checkpoint_digest, config.resolution):
        raise RecordError(
            f"{path} is of another checkpoint or resolution ({reference.resolution}) than {config.variant}",
            f"run snakemake --force {path}",
        )
    if not reference.pictures:
        raise RecordError(f"{path} holds no picture", "set reference.source")
    return reference


def _least_cosine(ours: FloatArray, theirs: FloatArray) -> float:
    """Of the pairs of rows; a NaN, which passes no check, stays."""
    return float(np.min([cosine(one, other) for one, other in zip(ours, theirs, strict=True)]))


def _agreement(ours: FloatArray, theirs: FloatArray, count: int) -> float:
    """Mean share of the ``count`` best classes of each row of ``theirs`` that are among those of ``ours``."""
    wanted, got = top_classes(theirs, count), top_classes(ours, count)
    return float((wanted[:, :, None] == got[:, None, :]).any(axis=2).mean())


def pictures(path: Path) -> list[Image]:
    """Those of a reference, which travel with a variant."""
    return list(read(path).pictures.values())


def judge(model: Classifier, wanted: Reference, gate: Mapping[str, float]) -> Judged:
    """Hold ``model`` against what float32 PyTorch says: every picture alone, every one in a full batch, and the first
    one in every slot of a batch, which must say the same as alone.

    ``gate`` has the fields of :class:`~sam3_runtime.families.classifier.settings.Limits`.
    """
    if wanted.logits.shape[1] != model.classes:
        raise RecordError(f"the reference has {wanted.logits.shape[1]} classes, the engine {model.classes}")
    shown = list(wanted.pictures.values())
    ours = [model.logits([picture]) for picture in shown]
    alike = [model.logits([shown[0]] * model.batch)] if model.batch > 1 else []
    places = list(range(len(shown)))
    if model.batch > 1:
        full = [place % len(shown) for place in range(-(-len(shown) // model.batch) * model.batch)]
        ours.append(model.logits([shown[place] for place in full]))
        places += full
    got, theirs = np.concatenate(ours), wanted.logits[places]
    errors = {"logit": float(np.abs(got - theirs).max())}
    values = {"logit cosine": _least_cosine(got, theirs)}
    if alike:
        alone = np.broadcast_to(ours[0], alike[0].shape)
        errors["same picture in every slot"] = float(np.abs(alike[0] - alone).max())
        values["same picture in every slot"] = _least_cosine(alike[0], alone)
    checks = [
        Check(name=name, value=value, limit=gate["logit_cosine"], sense="at least") for name, value in values.items()
    ]
    for count in (1, 5):
        value = _agreement(got, theirs, count)
        checks.append(Check(name=f"top-{count} agreement", value=value, limit=gate[f"top{count}"], sense="at least"))
    agreed = f"{round(checks[-2].value * len(got))} of {counted(len(got), 'best class')} as float32 PyTorch has them"
    return Judged(checks=tuple(checks), errors=errors, cases=len(got), passed=agreed)


def read_accuracy(path: Path, config: VariantConfig) -> Reference:
    """Likewise about labelled pictures, and what these show."""
    reached = read_reference(path, config)
    if reached.truth is None:
        raise RecordError(f"{path} does not say what its pictures show", f"run snakemake --force {path}")
    return reached


def judge_accuracy(
    model: Classifier, wanted: Reference, gate: Mapping[str, float]
) -> tuple[dict[str, Any], list[Check]]:
    """The accuracy on those pictures, and by how much it is below float32 PyTorch's there."""
    assert wanted.truth is not None
    ours = accuracy_of(model.logits(list(wanted.pictures.values())), wanted.truth)
    theirs = accuracy_of(wanted.logits, wanted.truth)
    checks = [
        Check(name=name, value=theirs[key] - ours[key], limit=gate[f"{key}_loss"], sense="at most")
        for name, key in (("top-1 loss", "top1"), ("top-5 loss", "top5"))
    ]
    return ours | {"images": len(wanted.truth)}, checks


@dataclass(frozen=True)
class Accuracy:
    """What the engines reach on a labelled folder; ``left_out`` are pictures that cannot be read."""

    reached: Mapping[str, float]
    images: int
    left_out: Sequence[str]

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from (f"left out: {problem}" for problem in self.left_out)
        shown = counted(self.images, "picture")
        yield f"{shown}: top-1 {self.reached['top1']:.2%}, top-5 {self.reached['top5']:.2%}"


def evaluate(
    directory: Path,
    annotations: Path,
    *,
    limit: int | None = None,
    output: Path | None = None,
    threads: int | None = None,
    **others: Any,
) -> Accuracy:
    """``sam3-runtime evaluate``: the accuracy of the variant in ``directory`` on a labelled folder; ``output`` gets it
    as JSON.

    Raises :class:`SourceError` for the folder, and what :func:`sam3_runtime.load` raises.
    """
    _refuse_options(others, threshold=0.5, prompts="words", areas="coco")
    if output:
        check_writable(output)
    with _load(directory, threads) as model:
        labelled = read_labelled(annotations, model.labels, limit)
        truth: list[int] = []
        said: list[FloatArray] = []
        left_out: list[str] = []
        for start in range(0, len(labelled), model.batch):
            read = load_all(labelled[start : start + model.batch], lambda problem: left_out.append(str(problem)))
            said.append(model.logits([image for _, image in read]))
            truth += [one.truth for one, _ in read]
        if not truth:
            raise SourceError(f"none of the pictures in {annotations} can be read", "name another folder")
        found = Accuracy(accuracy_of(np.concatenate(said), np.asarray(truth, np.int64)), len(truth), left_out)
        record = of_variant(model.config, model.records, model.device.name)
    if output:
        record |= {"data": annotations.name, "images": found.images, "left_out": len(left_out), **found.reached}
        write_atomically(output, (json.dumps(record, indent=2) + "\n").encode())
    return found


def evaluate_data_set(directory: Path, data: Mapping[str, str], output: Path) -> Iterator[str]:
    """Likewise on the whole data set of `accuracy:`. Gives lines for people."""
    return evaluate(directory, Path(data["folder"]), output=output).lines()


def _refuse_options(given: Mapping[str, Any], **defaults: Any) -> None:
    """:class:`OptionError` for what a command was told that means nothing here."""
    for name, value in given.items():
        if value and value != defaults.get(name):
            raise OptionError(f"a classifier takes no --{_SPOKEN.get(name, name.replace('_', '-'))}", "leave it out")


_SPOKEN = {"prompts": "prompt", "boxes": "box"}
"""Options of which there may be several, as the command line has them."""


# --- the benchmark ----------------------------------------------------------------------------------------------------


class Workload:
    """A round is one image from each camera, from preprocessing to the five best classes."""

    prompts = 0

    def __init__(self, model: Classifier) -> None:
        self._model = model

    def warm_up(self, images: Sequence[Image]) -> None:
        self._model.classify(images[: self._model.batch])

    def round(self, images: Sequence[Image], stages: Stages | None = None) -> int:
        return len(self._model.classify(images, stages=stages))

    def parts(self, frames: Sequence[Image]) -> Iterator[PartCall]:
        for images in sorted({1, self._model.batch}):
            pixels = self._model.preprocess([frames[place % len(frames)] for place in range(images)])
            yield PartCall(PART, images, 0, partial(self._model.infer, pixels))


def workload(model: Classifier, _settings: Mapping[str, Any]) -> Workload:
    """What the benchmark has ``model`` do."""
    return Workload(model)


# --- the command line -------------------------------------------------------------------------------------------------


@dataclass
class Summary:
    """The result of :func:`infer`: how many images were classified, how often each class was the best, the written
    files, and the messages about ``unread`` images; any of them means exit code 1."""

    images: int = 0
    found: dict[str, int] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unread: int = 0

    @property
    def exit_code(self) -> int:
        """1 if an image could not be read."""
        return 1 if self.problems else 0

    def lines(self) -> list[str]:
        """Return lines for people: the classes, the files, and what could not be read."""
        found = ", ".join(f"{count} x {name}" for name, count in self.found.items()) or "nothing"
        wrote = [printable(f"wrote {path}") for path in self.written]
        failed = [f"{counted(self.unread, 'image')} could not be read, see above"] if self.problems else []
        return [f"{counted(self.images, 'image')}: {found}", *wrote, *failed]


def infer(
    directory: Path,
    *,
    images: Sequence[str] = (),
    output: Path = Path("out"),
    threads: int | None = None,
    top: int | None = None,
    console: Console | None = None,
    **others: Any,
) -> Summary:
    """``sam3-runtime infer``: classify pictures (files, folders, globs, ``package:`` specs), print the ``top`` best
    classes of each (5) to ``console`` (standard error by default), and write ``<output>/images.jsonl``, one line a
    picture.

    A picture that cannot be read is in the summary's ``problems``, and all else is done. Raises :class:`RecordError`
    and :class:`EngineError` as :func:`sam3_runtime.load` does, :class:`SourceError` where a spec names nothing, and
    :class:`OutputError`.
    """
    from rich.console import Console

    _refuse_options(others)
    if not images:
        raise SourceError("nothing to look at", "give --images")
    shown = console or Console(stderr=True, soft_wrap=True)
    say = partial(shown.print, markup=False, highlight=False)
    left_out: list[LeftOut] = []
    sources = expand_images(images, left_out.append)
    quiet_decoders()
    summary = Summary()

    def problem(error: SourceError, unread: int = 1) -> None:
        say(str(error))
        if unread:
            summary.problems.append(str(error))
            summary.unread += unread

    remove_abandoned_parts(output)
    lines = output / "images.jsonl"
    with _load(directory, threads) as model, closing(JsonLines(lines)) as file:
        for one in left_out:
            problem(one, one.images)
        for start in range(0, len(sources), model.batch):
            read = load_all(sources[start : start + model.batch], problem)
            said = model.classify([image for _, image in read], top or TOP)
            for (source, _), guesses in zip(read, said, strict=True):
                found = list(zip(guesses.classes, guesses.names, guesses.scores, strict=True))
                say(f"{source.name}: {', '.join(f'{label} {score:.1%}' for _, label, score in found)}")
                rows = [{"class": index, "name": label, "score": round(score, 6)} for index, label, score in found]
                file.write({"image": source.name, "classes": rows})
                best = guesses.names[0]
                summary.found[best] = summary.found.get(best, 0) + 1
                summary.images += 1
    summary.written.append(lines)
    return summary
