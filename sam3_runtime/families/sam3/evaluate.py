"""The command ``sam3-runtime evaluate``: measures the accuracy of a variant's engines on a concept data set.

The result (:class:`Evaluation`) can be shared: it contains no path, host or user name. Independent of the backend.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from rich.console import Console

from sam3_runtime import __version__
from sam3_runtime.core.errors import Sam3Error, printable
from sam3_runtime.core.files import write_atomically
from sam3_runtime.core.wording import counted
from sam3_runtime.deploy.loading import load
from sam3_runtime.evaluation.data_set import ConceptImage, DataSetError, read_concepts
from sam3_runtime.evaluation.metrics import THRESHOLD, Accuracy, Areas, AveragePrecision, measure
from sam3_runtime.evaluation.questions import FLOOR, PromptKind, answer_all, as_coco_results, questions_of
from sam3_runtime.families.sam3.finder import finder_of
from sam3_runtime.media.sinks import reported
from sam3_runtime.plan.toolchain import device_name
from sam3_runtime.records.measurements import OfVariant, of_variant
from sam3_runtime.report.progress import messages, reporter, tracked
from sam3_runtime.report.tables import grid


class Evaluation(OfVariant):
    """The accuracy of one variant on one data set."""

    data: str = Field(description="name of the annotation file")
    data_digest: str
    images: int
    left_out: tuple[str, ...] = Field((), description="images that are unreadable or not the annotated ones")
    phrases: int
    prompts: PromptKind
    floor: float = Field(description="score from which a detection is ranked")
    accuracy: Accuracy
    seconds: float = Field(description="of the whole evaluation, reading and measuring included")
    sam3_runtime: str

    def lines(self) -> Iterator[str]:
        """Yield lines for people."""
        found = self.accuracy
        kind = "words" if self.prompts == "words" else "one example box"
        prompts = counted(found.pairs, "prompt")
        yield (
            f"{self.variant} on {self.data}: {counted(self.images, 'image')}, {prompts} ({kind}, "
            f"{counted(self.phrases, 'phrase')}), {counted(found.instances, 'instance')}, {self.seconds:.0f} s"
        )
        yield from _measured(found)
        if found.areas == "relative":
            yield "small and large are shares of the image: below 1/300, above 3 %"
        if found.without_mask:
            yield f"{found.without_mask} of {prompts} have an instance without a mask: excluded from AP of masks"
        if self.left_out:
            yield f"left out, see above: {counted(len(self.left_out), 'image')} ({', '.join(self.left_out)})"


def _measured(found: Accuracy) -> Iterator[str]:
    """AP, cgF1 and false alarms, as far as the data set allows them."""
    kinds = {"boxes": found.box} | ({"masks": found.mask} if found.mask else {})
    names = AveragePrecision.model_fields
    known = [name for name in names if any(getattr(one, name) is not None for one in kinds.values())]
    if known:
        numbers = {
            kind: {name: f"{value:.3f}" for name in known if (value := getattr(one, name)) is not None}
            for kind, one in kinds.items()
        }
        yield grid([{"": kind, **row} for kind, row in numbers.items()], ["", *known])
    concept, alarms = found.concept, found.false_alarms
    of = f"of {concept.of}, score above {found.threshold:g}"
    if concept.cgf1 is not None:
        yield f"cgF1 {concept.cgf1:.1f} = 100 x pmF1 {concept.pmf1:.3f} x IL_MCC {concept.il_mcc:.3f}, {of}"
    elif concept.pmf1 is not None:
        yield f"pmF1 {concept.pmf1:.3f}, {of}; cgF1 and false alarms need absent phrases, and there are none"
    if alarms.share is not None:
        yield (
            f"false alarms: {alarms.share:.3f} of {counted(alarms.absent, 'absent prompt')}, "
            f"{alarms.image_share:.3f} of {counted(alarms.images, 'image')} with one"
        )


def evaluate(
    directory: Path,
    annotations: Path,
    *,
    images: Path | None = None,
    threshold: float = THRESHOLD,
    limit: int | None = None,
    prompts: PromptKind = "words",
    all_categories: bool = False,
    areas: Areas = "coco",
    output: Path | None = None,
    detections: Path | None = None,
    threads: int | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Measure the variant in ``directory`` on the data set of ``annotations``, in the format of :func:`read_concepts`.

    ``threshold`` is for cgF1 and false alarms; AP ranks every detection above the floor. The result is written to
    ``output`` as JSON, the detections to ``detections`` as COCO results. Unreadable images are left out. Messages and
    the progress bar go to ``console`` (standard error by default; the bar only on a terminal). Raises
    :class:`DataSetError`, :class:`OutputError`, and as :func:`load` and :meth:`Pipeline.detect` do.
    """
    started = time.monotonic()
    data = read_concepts(annotations, images, limit=limit, all_categories=all_categories)
    console = messages(console)
    report = reporter(console)
    left_out: dict[int, str] = {}

    def leave_out(image: ConceptImage, error: Sam3Error) -> None:
        left_out[image.id] = printable(image.name)
        report(str(error))

    questions = questions_of(data, prompts)
    with load(directory, threads=threads) as pipeline:
        finder = finder_of(pipeline, data.phrases)
        answered = answer_all(questions, finder, pipeline.batch, leave_out)
        answers = [one for batch in tracked(answered, len(questions), "images", console) for one in batch]
        config, records = pipeline.config, pipeline.records
    if not answers:
        images_given = counted(len(questions), "image")
        raise DataSetError(f"none of the {images_given} of {data.name} could be read", "see above")
    data = data.without(left_out)
    found = Evaluation(
        **of_variant(config, records, device_name(next(iter(records.values())).toolchain)),
        data=data.name, data_digest=data.digest, images=len(data.images), left_out=tuple(left_out.values()),
        phrases=len(data.phrases), prompts=prompts, floor=FLOOR, accuracy=measure(data, answers, threshold, areas),
        seconds=round(time.monotonic() - started, 1), sam3_runtime=__version__,
    )  # fmt: skip
    if detections:
        with reported(detections):
            write_atomically(detections, f"{json.dumps(as_coco_results(answers))}\n".encode())
    if output:
        with reported(output):
            write_atomically(output, f"{found.model_dump_json(indent=2)}\n".encode())
    return found
