"""What a deployment calls: the classes of a bank, found on images by the vision encoder and the decoder alone.

    with open_detector("engines/b8_q50_r672", "shop.npz") as detector:
        for info, found in zip(detector.classes, detector.detect([image])[0]): ...

Knows banks and pipelines; knows no backend, no source and no output.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from sam3_runtime.core.closing import Closing
from sam3_runtime.core.errors import RecordError
from sam3_runtime.deploy.configure import read_config, read_records
from sam3_runtime.deploy.loading import load
from sam3_runtime.families.sam3.banks import Bank, ClassInfo, extract, load_bank, read_references
from sam3_runtime.families.sam3.batches import StageHook
from sam3_runtime.families.sam3.parts import PART_NAMES, PartName
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.projects import read_project
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.measure import memory
from sam3_runtime.records.records import VariantConfig
from sam3_runtime.streams.images import TakeFromSources, images_of

DETECTING: tuple[PartName, ...] = ("vision-encoder", "decoder")
"""The parts that classes of a bank need."""
_PROJECT_SUFFIXES = (".yaml", ".yml")

log = logging.getLogger(__name__)


class Detector(Closing):
    """Finds the classes of a bank. A context manager: leaving it closes the pipeline.

    ``classes`` says of each class its name, threshold and colour, in the order of the results; ``batch`` is the most
    images that are encoded at once. ``top`` keeps that many best detections of each class whatever their score (for
    weights that detect nothing). More classes than the decoder takes at once are run in chunks, which the log says.
    ``saved`` says how much memory a bank saved, where :func:`open_detector` knows it.

    :class:`RecordError` for a bank that does not hold for the pipeline's variant.
    """

    def __init__(self, pipeline: Pipeline, classes: Bank, *, top: int | None = None) -> None:
        classes.check(pipeline.config)
        self.pipeline = pipeline
        self.classes: tuple[ClassInfo, ...] = classes.classes
        self._prompts = classes.prompts
        self._thresholds = [one.threshold for one in self.classes]
        self._top = top
        self.saved: str | None = None
        limit = pipeline.engine("decoder").limit("P")
        if len(classes) > limit:
            log.warning(
                "%d classes are more than the %d that %s takes at once: its decoder runs them in %d chunks",
                len(classes), limit, pipeline.config.variant, -(-len(classes) // limit),
            )  # fmt: skip

    @property
    def batch(self) -> int:
        return self.pipeline.batch

    def detect(self, images: Sequence[Image], stages: StageHook | None = None) -> list[list[Detections]]:
        """Find every instance of each class on each image: ``result[image][class]``.

        ``images``: RGB uint8 [H, W, 3], any number, each of any size. A detection scores above its class's own
        threshold. Raises :class:`SourceError` for what is no image, :class:`EngineError` when an engine fails.
        """
        return list(self.stream(images, stages))

    def stream(self, images: Sequence[Image], stages: StageHook | None = None) -> Iterator[list[Detections]]:
        """As :meth:`detect`, an image at a time: only one batch's features and masks are held at once."""
        return self.pipeline.stream(images, self._prompts, threshold=self._thresholds, top=self._top, stages=stages)

    def rounds(
        self, take: TakeFromSources, stages: StageHook | None = None
    ) -> Generator[list[list[Detections]], None, None]:
        """As :meth:`detect` on one batch after another, which ``take`` gives: see :meth:`Pipeline.rounds`. Which source
        an image is from makes no difference."""
        images = images_of(take)
        return self.pipeline.rounds(images, self._prompts, threshold=self._thresholds, top=self._top, stages=stages)

    def source_ended(self, source: int) -> None:
        """A source of the run has ended. Nothing is kept by source here."""

    def close(self) -> None:
        """Close the pipeline. Closing twice does nothing."""
        self.pipeline.close()


def open_detector(directory: str | Path, classes: str | Path, *, top: int | None = None, **options: Any) -> Detector:
    """Open the variant in ``directory`` for the classes of a bank (``.npz``) or of a project file (``.yaml``).

    With a bank, neither the text nor the geometry encoder is opened, and the log says how much memory that saves. With
    a project file its classes are encoded first, and those parts stay open. ``options`` are those of
    :func:`sam3_runtime.load`.

    Raises :class:`RecordError` for a bank that is damaged or does not hold for this variant, before any engine is
    opened; :class:`ProjectError`; and what :func:`sam3_runtime.load` raises.
    """
    directory, classes = Path(directory), Path(classes)
    config = detecting_config(directory)
    if classes.suffix.lower() in _PROJECT_SUFFIXES:
        project = read_project(classes)
        references = read_references(project)
        pipeline = load(directory, **options)
        try:
            return Detector(pipeline, extract(pipeline, project, references), top=top)
        except BaseException:
            pipeline.close()
            raise
    bank = load_bank(classes, config)
    detector = Detector(load(directory, parts=DETECTING, **options), bank, top=top)
    detector.saved = saving(directory)
    if detector.saved is not None:
        log.info("%s: %s", directory, detector.saved)
    return detector


def detecting_config(directory: Path) -> VariantConfig:
    """What the variant in ``directory`` is; :class:`RecordError` where it is of a family that detects nothing."""
    config = read_config(directory)
    if config.spec is not SAM3:
        raise RecordError(f"{directory} is a {config.spec.title}, which detects nothing", "use sam3-runtime infer")
    return config


def saving(directory: Path) -> str | None:
    """How much memory a bank saves with the variant in ``directory``, in words; None where a part's record is gone."""
    try:
        records = read_records(directory)
    except RecordError:
        return None
    closed = " and ".join(part for part in PART_NAMES if part not in DETECTING)
    return f"{closed} stay closed, which saves {memory.saving(records, DETECTING)}"
