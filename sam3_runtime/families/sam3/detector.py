"""Detects fixed classes, of a prompt bank, a project file or prompts, on images.

    with open_detector("engines/b8_q50_r672", "shop.npz") as detector:
        for info, found in zip(detector.classes, detector.detect([image])[0]): ...

With a bank only the vision encoder and the decoder run. Independent of backend, sources and outputs.
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
from sam3_runtime.families.sam3.parts import PART_NAMES, PartName
from sam3_runtime.families.sam3.pipeline import THRESHOLD, Pipeline
from sam3_runtime.families.sam3.prefetch import AnyPrompt, StageHook
from sam3_runtime.families.sam3.projects import read_project
from sam3_runtime.families.sam3.prompts import Prompt, as_prompt
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.imaging.drawing import color_of
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.images import TakeFromSources, images_of
from sam3_runtime.records import memory
from sam3_runtime.records.records import VariantConfig

DETECTING: tuple[PartName, ...] = ("vision-encoder", "decoder")
"""The parts that run for the classes of a bank."""
_PROJECT_SUFFIXES = (".yaml", ".yml")

log = logging.getLogger(__name__)


class Detector(Closing):
    """Detects the classes of a bank, or prompts. A context manager: leaving it closes the pipeline.

    ``classes`` has the name, threshold and colour of each class, in the order of the results; ``batch`` is the most
    images that are encoded at once. ``threshold`` replaces the thresholds of all classes. ``top`` selects that many
    best detections of each class whatever their score (for weights that detect nothing). If there are more classes than
    the decoder takes at once, they are run in chunks, with a warning in the log. ``saved`` is the memory that a bank
    saves, if :func:`open_detector` can compute it.

    :class:`RecordError` for a bank that is not valid for the pipeline's variant.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        classes: Bank | Sequence[Prompt | str],
        *,
        threshold: float | None = None,
        top: int | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._prompts: Sequence[AnyPrompt]
        if isinstance(classes, Bank):
            classes.check(pipeline.config)
            self.classes, self._prompts = classes.classes, classes.prompts
        else:
            self._prompts = [as_prompt(one) for one in classes]
            self.classes = tuple(
                ClassInfo(one.name, THRESHOLD, color_of(index)) for index, one in enumerate(self._prompts)
            )
        if threshold is not None:
            self.classes = tuple(ClassInfo(one.name, threshold, one.color) for one in self.classes)
        self._thresholds = [one.threshold for one in self.classes]
        self._top = top
        self.saved: str | None = None
        limit = pipeline.engine("decoder").limit("P")
        if len(self.classes) > limit:
            log.warning(
                "%d classes are more than the %d that %s takes at once: its decoder runs them in %d chunks",
                len(self.classes), limit, pipeline.config.variant, -(-len(self.classes) // limit),
            )  # fmt: skip

    @property
    def batch(self) -> int:
        """The most images that are encoded at once."""
        return self.pipeline.batch

    def detect(self, images: Sequence[Image], stages: StageHook | None = None) -> list[list[Detections]]:
        """Find every instance of each class on each image: ``result[image][class]``.

        ``images``: RGB uint8 [H, W, 3], any number, each of any size. A detection's score exceeds the threshold of its
        class. Raises :class:`SourceError` for an array that is not an image, :class:`PromptError` for a box outside an
        image, :class:`EngineError` if an engine fails.
        """
        return list(self.stream(images, stages))

    def stream(self, images: Sequence[Image], stages: StageHook | None = None) -> Iterator[list[Detections]]:
        """As :meth:`detect`, one image at a time: only one batch's features and masks are in memory at once."""
        return self.pipeline.stream(images, self._prompts, threshold=self._thresholds, top=self._top, stages=stages)

    def rounds(
        self, take: TakeFromSources, stages: StageHook | None = None
    ) -> Generator[list[list[Detections]], None, None]:
        """As :meth:`detect`, on one batch of ``take`` after another: see :meth:`Pipeline.rounds`.

        The sources of the images make no difference.
        """
        images = images_of(take)
        return self.pipeline.rounds(images, self._prompts, threshold=self._thresholds, top=self._top, stages=stages)

    def source_ended(self, source: int) -> None:
        """Do nothing: there is no state for a source."""

    def close(self) -> None:
        """Close the pipeline. Closing twice does nothing."""
        self.pipeline.close()


def open_detector(
    directory: str | Path,
    classes: str | Path | Sequence[Prompt | str],
    *,
    threshold: float | None = None,
    top: int | None = None,
    **options: Any,
) -> Detector:
    """Open the variant in ``directory`` for the classes of a bank (``.npz``), a project file (``.yaml``), or prompts.

    A path is a file, other sequences are prompts. With a bank, neither the text nor the geometry encoder is opened, and
    the log has how much memory that saves. The classes of a project file are encoded first, and those parts stay open.
    ``threshold`` and ``top`` are those of :class:`Detector`, ``options`` those of :func:`sam3_runtime.load`.

    Raises :class:`RecordError` for a bank that is damaged or not valid for this variant, before any engine is opened;
    :class:`ProjectError`; and as :func:`sam3_runtime.load` does.
    """
    directory = Path(directory)
    config = detecting_config(directory)
    if not isinstance(classes, (str, Path)):
        return Detector(load(directory, **options), classes, threshold=threshold, top=top)
    if Path(classes).suffix.lower() in _PROJECT_SUFFIXES:
        project = read_project(classes)
        references = read_references(project)
        pipeline = load(directory, **options)
        try:
            return Detector(pipeline, extract(pipeline, project, references), threshold=threshold, top=top)
        except BaseException:
            pipeline.close()
            raise
    bank = load_bank(classes, config)
    detector = Detector(load(directory, parts=DETECTING, **options), bank, threshold=threshold, top=top)
    detector.saved = saving(directory)
    if detector.saved is not None:
        log.info("%s: %s", directory, detector.saved)
    return detector


def detecting_config(directory: Path) -> VariantConfig:
    """Read the config of the variant in ``directory``; :class:`RecordError` if its family does not detect."""
    config = read_config(directory)
    if config.spec is not SAM3:
        raise RecordError(f"{directory} is a {config.spec.title}, which detects nothing", "use sam3-runtime infer")
    return config


def saving(directory: Path) -> str | None:
    """Return for people how much memory a bank saves with the variant in ``directory``; None if a record is missing."""
    try:
        records = read_records(directory)
    except RecordError:
        return None
    closed = " and ".join(part for part in PART_NAMES if part not in DETECTING)
    return f"{closed} stay closed, which saves {memory.saving(records, DETECTING)}"
