"""Classifies images with the engine of one variant: verification, benchmark and commands of the family.

Contains the one part, its tensors and its labels. Independent of backends and of PyTorch.
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
from sam3_runtime.core.source_files import LeftOut, expand_images
from sam3_runtime.core.wording import counted
from sam3_runtime.engines.running.base import AnyArray, Device, Engine
from sam3_runtime.engines.running.turns import Turns
from sam3_runtime.families.classifier.labels import Labels, load_all, read_labelled, read_labels
from sam3_runtime.families.classifier.parts import LABELS
from sam3_runtime.families.classifier.reference import Reference, accuracy_of, top_classes
from sam3_runtime.families.classifier.reference import read_reference as read
from sam3_runtime.imaging.preprocess import Image, check_image
from sam3_runtime.measure.judging import Findings, Judged, PartCall
from sam3_runtime.media.sinks import JsonLines
from sam3_runtime.media.sources import quiet_decoders
from sam3_runtime.records.measurements import of_variant
from sam3_runtime.records.records import Check, EngineRecord, VariantConfig

if TYPE_CHECKING:
    from rich.console import Console

PART = "model"
TOP = 5
Stages = Callable[[str], AbstractContextManager[object]]
"""Called with ``preprocess``, ``model`` or ``postprocess``, returns the context that the stage runs in."""
FloatArray = NDArray[np.float32]


class OptionError(Sam3Error):
    """A command got an option that a classifier does not support."""


@dataclass(frozen=True)
class Guesses:
    """The best classes of one image, best first.

    ``classes`` [n] by index, ``names`` [n], and ``scores`` [n], the softmax over all classes.
    """

    classes: tuple[int, ...]
    names: tuple[str, ...]
    scores: tuple[float, ...]


class Classifier(Closing):
    """The engine of one variant, opened by :func:`sam3_runtime.load`. Use as a context manager, or :meth:`close` it.

    ``config`` and ``records`` are those of the variant; ``status`` is the verdict of the accuracy gate and ``reason``
    its explanation; ``device`` is the device that the engine runs on, ``labels`` are the names of the classes.

    Thread safety: :meth:`logits` and :meth:`classify` may be called from several threads at once; on a GPU calls take
    turns, a batch each. Call :meth:`close` only when no call runs.
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
        """The record of the engine, by part."""
        return {part: engine.record for part, engine in self.engines.items()}

    @property
    def batch(self) -> int:
        """The largest number of images in one run; :meth:`logits` accepts any number."""
        return self.engine.limit("B")

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.engine.outputs[0].shape[1])

    def logits(self, images: Sequence[Image], stages: Stages | None = None) -> FloatArray:
        """Return the logits, float32 [N, K], of N images, RGB uint8 [H, W, 3], any number, each of any size.

        Raises :class:`SourceError` for an invalid image, and :class:`EngineError` if the engine fails.
        """
        stage = stages or (lambda _: nullcontext())
        for image in images:
            check_image(image)
        found = np.empty((len(images), self.classes), np.float32)
        for start in range(0, len(images), self.batch):
            rows = slice(start, start + self.batch)
            with self._turns.take():  # pixels and logits are in the engine's own memory
                with stage("preprocess"):
                    pixels = self.preprocess(images[rows])
                with stage("model"):
                    found[rows] = self.device.fetch(self.infer(pixels))["logits"]
        return found

    def classify(self, images: Sequence[Image], top: int = TOP, stages: Stages | None = None) -> list[Guesses]:
        """Return the ``top`` best classes of each image with softmax scores. Raises the errors of :meth:`logits`."""
        logits = self.logits(images, stages)
        with stages("postprocess") if stages else nullcontext():
            best = top_classes(logits, top)
            shares = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
            shares /= shares.sum(axis=1, keepdims=True)
            return [
                Guesses(tuple(row), tuple(self.labels.names[index] for index in row), tuple(scores))
                for row, scores in zip(best.tolist(), np.take_along_axis(shares, best, 1).tolist(), strict=True)
            ]

    # --- the steps, one by one, also for the benchmark ----------------------------------------------------------------

    def preprocess(self, images: Sequence[Image]) -> AnyArray:
        """Return the input of the model, [B, 3, R, R], for at most :attr:`batch` images."""
        tensor = self.engine.inputs[0]
        return self.device.preprocess(images, int(tensor.shape[-1]), self.config.preprocessing, tensor.dtype)

    def infer(self, pixels: AnyArray) -> Mapping[str, AnyArray]:
        """Run the model on [B, 3, R, R]: ``logits`` [B, K], on the device."""
        return self.engine.infer(self.engine.cast({"images": pixels}))

    def close(self) -> None:
        """Free the engine. Closing twice does nothing."""
        for engine in self.engines.values():
            engine.close()
        self.device.close()


def open_model(
    config: VariantConfig, engines: dict[Any, Engine], device: Device, *, directory: Path, status: str, reason: str
) -> Classifier:
    """Return the opened ``engines`` as a classifier. Raises :class:`RecordError` if the labels do not fit."""
    labels = read_labels(directory / LABELS, int(engines[PART].outputs[0].shape[1]))
    return Classifier(config, engines, device, labels, status, reason)


def _load(directory: Path, threads: int | None = None) -> Classifier:
    from sam3_runtime.deploy.loading import load  # imports the families itself

    return cast(Classifier, load(directory, threads=threads))


# --- the accuracy gate ------------------------------------------------------------------------------------------------


def read_reference(path: Path, config: VariantConfig) -> Reference:
    """Read a reference. Raises :class:`RecordError` if it is of another checkpoint or resolution, or without images."""
    reference = read(path)
    if (reference.checkpoint_digest, reference.resolution) != (config.checkpoint_digest, config.resolution):
        raise RecordError(
            f"{path} is of another checkpoint or resolution ({reference.resolution}) than {config.variant}",
            f"run snakemake --force {path}",
        )
    if not reference.pictures:
        raise RecordError(f"{path} contains no image", "set reference.source")
    return reference


def _agreement(ours: FloatArray, theirs: FloatArray, count: int) -> float:
    """Mean share of the ``count`` best classes of each row of ``theirs`` that are among those of ``ours``."""
    wanted, got = top_classes(theirs, count), top_classes(ours, count)
    return float((wanted[:, :, None] == got[:, None, :]).any(axis=2).mean())


def reference_images(path: Path) -> list[Image]:
    """Return the images of a reference, RGB uint8 [H, W, 3]."""
    return list(read(path).pictures.values())


def judge(model: Classifier, wanted: Reference, gate: Mapping[str, float]) -> Judged:
    """Compare ``model`` with float32 PyTorch.

    Every image alone, every one in a full batch, and the first one in every slot of a batch, where the result must
    equal that alone. ``gate`` has the fields of :class:`~sam3_runtime.families.classifier.settings.Limits`. Raises
    :class:`RecordError` if the numbers of classes differ.
    """
    if wanted.logits.shape[1] != model.classes:
        raise RecordError(f"the reference has {wanted.logits.shape[1]} classes, the engine {model.classes}")
    images, found = list(wanted.pictures.values()), Findings()
    rows = list(range(len(images)))
    ours = [model.logits([image]) for image in images]
    if model.batch > 1:
        full = [row % len(images) for row in range(-(-len(images) // model.batch) * model.batch)]
        ours.append(model.logits([images[row] for row in full]))
        rows += full
    got, theirs = np.concatenate(ours), wanted.logits[rows]
    for one, other in zip(got, theirs, strict=True):
        found.compare("logit", one, other)
    for slot in model.logits([images[0]] * model.batch) if model.batch > 1 else ():
        found.compare("same image in every slot", slot, got[0])
    checks = [
        Check(name=name, value=float(np.min(values)), limit=gate["logit_cosine"], sense="at least")  # NaN stays
        for name, values in found.cosines.items()
    ]
    for count in (1, 5):
        value = _agreement(got, theirs, count)
        checks.append(Check(name=f"top-{count} agreement", value=value, limit=gate[f"top{count}"], sense="at least"))
    agreed = round(checks[-2].value * len(got))
    passed = f"{agreed} of {counted(len(got), 'best class')} equal those of float32 PyTorch"
    return Judged(checks=tuple(checks), errors=found.errors, cases=len(got), passed=passed)


def read_accuracy(path: Path, config: VariantConfig) -> Reference:
    """Read a reference of labelled images. Raises :class:`RecordError` as :func:`read_reference`, or without labels."""
    reference = read_reference(path, config)
    if reference.truth is None:
        raise RecordError(f"{path} has no labels of its images", f"run snakemake --force {path}")
    return reference


def judge_accuracy(
    model: Classifier, wanted: Reference, gate: Mapping[str, float]
) -> tuple[dict[str, Any], list[Check]]:
    """Return the accuracy on the labelled images of ``wanted``, and the checks of its loss against float32 PyTorch."""
    assert wanted.truth is not None
    ours = accuracy_of(model.logits(list(wanted.pictures.values())), wanted.truth)
    theirs = accuracy_of(wanted.logits, wanted.truth)
    checks = [
        Check(name=name, value=theirs[key] - ours[key], limit=gate[f"{key}_loss"], sense="at most")
        for name, key in (("top-1 loss", "top1"), ("top-5 loss", "top5"))
    ]
    return ours | {"images": len(wanted.truth)}, checks


# --- the benchmark ----------------------------------------------------------------------------------------------------


class Workload:
    """The work that the benchmark times: a round classifies one image from each camera."""

    prompts = 0

    def __init__(self, model: Classifier) -> None:
        self._model = model

    def warm_up(self, images: Sequence[Image]) -> None:
        """Run once."""
        self._model.classify(images[: self._model.batch])

    def round(self, images: Sequence[Image], stages: Stages | None = None) -> int:
        """Run from preprocessing to the five best classes, and return the number of results."""
        return len(self._model.classify(images, stages=stages))

    def parts(self, frames: Sequence[Image]) -> Iterator[PartCall]:
        """Yield the model alone, at one image and at the full batch."""
        for images in sorted({1, self._model.batch}):
            pixels = self._model.preprocess([frames[index % len(frames)] for index in range(images)])
            yield PartCall(PART, images, 0, partial(self._model.infer, pixels))


def workload(model: Classifier, _settings: Mapping[str, Any]) -> Workload:
    """Return the work that the benchmark times."""
    return Workload(model)


# --- the command line -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of the engines on a labelled folder; ``left_out`` are messages about unreadable images."""

    reached: Mapping[str, float]
    images: int
    left_out: Sequence[str]

    def lines(self) -> Iterator[str]:
        """Yield lines to print."""
        yield from (f"left out: {problem}" for problem in self.left_out)
        shown = counted(self.images, "image")
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
    """Run ``sam3-runtime evaluate``: the accuracy of the variant in ``directory`` on a labelled folder.

    ``output`` gets it as JSON. Raises :class:`SourceError` for the folder, :class:`OptionError` for an unsupported
    option, and the errors of :func:`sam3_runtime.load`.
    """
    _refuse_options(others, threshold=0.5, prompts="words", areas="coco")
    if output:
        check_writable(output)
    with _load(directory, threads) as model:
        labelled = read_labelled(annotations, model.labels, limit)
        truth: list[int] = []
        logits: list[FloatArray] = []
        left_out: list[str] = []
        for start in range(0, len(labelled), model.batch):
            read = load_all(labelled[start : start + model.batch], lambda problem: left_out.append(str(problem)))
            logits.append(model.logits([image for _, image in read]))
            truth += [one.truth for one, _ in read]
        if not truth:
            raise SourceError(f"none of the images in {annotations} can be read", "name another folder")
        found = Accuracy(accuracy_of(np.concatenate(logits), np.asarray(truth, np.int64)), len(truth), left_out)
        record = of_variant(model.config, model.records, model.device.name)
    if output:
        record |= {"data": annotations.name, "images": found.images, "left_out": len(left_out), **found.reached}
        write_atomically(output, (json.dumps(record, indent=2) + "\n").encode())
    return found


def evaluate_data_set(directory: Path, data: Mapping[str, str], output: Path) -> Iterator[str]:
    """Measure the variant on the data set of `accuracy:`, write ``output``, and return lines to print."""
    return evaluate(directory, Path(data["folder"]), output=output).lines()


def _refuse_options(given: Mapping[str, Any], **defaults: Any) -> None:
    """:class:`OptionError` for an option that a classifier does not support and that has not its default."""
    singular = {"prompts": "prompt", "boxes": "box"}  # options that may be repeated
    for name, value in given.items():
        if value and value != defaults.get(name):
            option = singular.get(name, name.replace("_", "-"))
            raise OptionError(f"a classifier does not support --{option}", "leave it out")


@dataclass
class Summary:
    """The result of :func:`infer`: images classified, how often each class was the best, files written.

    ``unread`` are the messages about unreadable images; any of them means exit code 1.
    """

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
    """Run ``sam3-runtime infer``: classify images (files, folders, globs, ``package:`` specs).

    Prints the ``top`` best classes (5) of each to ``console`` (standard error by default) and writes
    ``<output>/images.jsonl``, one line an image. Unreadable images are in the summary's ``problems``. Raises the errors
    of :func:`sam3_runtime.load`, :class:`SourceError` if a spec matches nothing, :class:`OptionError` for an
    unsupported option, and :class:`OutputError`.
    """
    from sam3_runtime.report.progress import messages, reporter

    _refuse_options(others)
    if not images:
        raise SourceError("no images given", "give --images")
    show = reporter(messages(console))
    left_out: list[LeftOut] = []
    sources = expand_images(images, left_out.append)
    quiet_decoders()
    summary = Summary()

    def problem(error: SourceError, unread: int = 1) -> None:
        show(str(error))
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
            results = model.classify([image for _, image in read], top or TOP)
            for (source, _), guesses in zip(read, results, strict=True):
                found = list(zip(guesses.classes, guesses.names, guesses.scores, strict=True))
                show(f"{source.name}: {', '.join(f'{label} {score:.1%}' for _, label, score in found)}")
                rows = [{"class": index, "name": label, "score": round(score, 6)} for index, label, score in found]
                file.write({"image": source.name, "classes": rows})
                best = guesses.names[0]
                summary.found[best] = summary.found.get(best, 0) + 1
                summary.images += 1
    summary.written.append(lines)
    return summary
