"""What ``sam3-runtime evaluate`` does: a variant's engines on a concept data set, and how well they did.

The result (:class:`Evaluation`) can be shared: it holds no path, host or user name. Knows no backend.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sam3_runtime import __version__
from sam3_runtime.core.errors import OutputError, Sam3Error, printable
from sam3_runtime.core.files import write_atomically
from sam3_runtime.core.wording import counted
from sam3_runtime.deploy.loading import load
from sam3_runtime.evaluation.data_set import ConceptImage, DataSetError, read_concepts
from sam3_runtime.evaluation.metrics import THRESHOLD, Accuracy, Answer, Areas, AveragePrecision, measure
from sam3_runtime.evaluation.questions import FLOOR, PromptKind, answer_all, as_coco_results, questions_of
from sam3_runtime.families.sam3.finder import finder_of
from sam3_runtime.plan.toolchain import device_name
from sam3_runtime.records.measurements import OfVariant, of_variant
from sam3_runtime.report.text import grid


class Evaluation(OfVariant):
    """How well one variant did on one data set."""

    data: str = Field(description="name of the annotation file")
    data_digest: str
    images: int
    left_out: tuple[str, ...] = Field((), description="pictures that could not be read or are not those annotated")
    phrases: int
    prompts: PromptKind
    floor: float = Field(description="score from which an answer is ranked")
    accuracy: Accuracy
    seconds: float = Field(description="of the whole evaluation, reading and measuring included")
    sam3_runtime: str

    def lines(self) -> Iterator[str]:
        """For people."""
        found = self.accuracy
        asked = "words" if self.prompts == "words" else "one example box"
        yield (
            f"{self.variant} on {self.data}: {counted(self.images, 'picture')}, {counted(found.pairs, 'prompt')} "
            f"({asked}, {counted(self.phrases, 'phrase')}), {counted(found.instances, 'instance')}, "
            f"{self.seconds:.0f} s"
        )
        yield from _measured(found)
        if found.areas == "relative":
            yield "small and large are shares of the picture: below 1/300, above 3 %"
        if found.without_mask:
            prompts = counted(found.pairs, "prompt")
            yield f"masks: an instance has none in {found.without_mask} of {prompts}, left out where masks are measured"
        if self.left_out:
            yield f"left out, see above: {counted(len(self.left_out), 'picture')} ({', '.join(self.left_out)})"


def _measured(found: Accuracy) -> Iterator[str]:
    """AP, cgF1 and false alarms, each where there is anything that it could be measured on."""
    kinds = {"boxes": found.box} | ({"masks": found.mask} if found.mask else {})
    names = AveragePrecision.model_fields
    known = [name for name in names if any(getattr(one, name) is not None for one in kinds.values())]
    if known:
        yield grid([{"": name, **_numbers(one, known)} for name, one in kinds.items()], ["", *known])
    concept, alarms = found.concept, found.false_alarms
    of = f"of {concept.of}, score above {found.threshold:g}"
    if concept.cgf1 is not None:
        yield f"cgF1 {concept.cgf1:.1f} = 100 x pmF1 {concept.pmf1:.3f} x IL_MCC {concept.il_mcc:.3f}, {of}"
    elif concept.pmf1 is not None:
        yield f"pmF1 {concept.pmf1:.3f}, {of}; cgF1 and false alarms need absent phrases, and none was asked"
    if alarms.share is not None:
        yield (
            f"false alarms: {alarms.share:.3f} of {counted(alarms.absent, 'absent prompt')}, "
            f"{alarms.image_share:.3f} of {counted(alarms.images, 'picture')} asked one"
        )


def _numbers(one: AveragePrecision, names: Sequence[str]) -> dict[str, str]:
    values = {name: getattr(one, name) for name in names}
    return {name: f"{value:.3f}" for name, value in values.items() if value is not None}


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
    """Measure the variant in ``directory`` on the data set of ``annotations``; see :func:`read_concepts` for its form.

    ``threshold`` is for cgF1 and false alarms; AP ranks every answer above the floor. ``output`` gets the
    result as JSON, ``detections`` the answers as COCO results. A picture that cannot be read is left out. Messages
    about that and the progress bar go to ``console`` (standard error by default; the bar only on a terminal). Raises
    :class:`DataSetError`, what :func:`load` and :meth:`Pipeline.detect` raise, and :class:`OutputError`.
    """
    started = time.monotonic()
    data = read_concepts(annotations, images, limit=limit, all_categories=all_categories)
    console = console or Console(stderr=True, soft_wrap=True)
    left_out: dict[int, str] = {}

    def leave_out(image: ConceptImage, error: Sam3Error) -> None:
        left_out[image.id] = printable(image.name)
        console.print(str(error), markup=False, highlight=False)

    questions = questions_of(data, prompts)
    with load(directory, threads=threads) as pipeline:
        finder = finder_of(pipeline, data.phrases)
        answers = _answers(answer_all(questions, finder, pipeline.batch, leave_out), len(questions), console)
        config, records = pipeline.config, pipeline.records
    if not answers:
        pictures = counted(len(questions), "picture")
        raise DataSetError(f"none of the {pictures} of {data.name} could be read", "see above")
    data = data.without(left_out)
    found = Evaluation(
        **of_variant(config, records, device_name(next(iter(records.values())).toolchain)),
        data=data.name,
        data_digest=data.digest,
        images=len(data.images),
        left_out=tuple(left_out.values()),
        phrases=len(data.phrases),
        prompts=prompts,
        floor=FLOOR,
        accuracy=measure(data, answers, threshold, areas),
        seconds=round(time.monotonic() - started, 1),
        sam3_runtime=__version__,
    )
    if detections:
        _write(detections, json.dumps(as_coco_results(answers)))
    if output:
        _write(output, found.model_dump_json(indent=2))
    return found


def _answers(answered: Iterator[list[Answer]], total: int, console: Console) -> list[Answer]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found: list[Answer] = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for answers in progress.track(answered, total, description="pictures"):
            found += answers
    return found


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, f"{text}\n".encode())
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}", "free some space, or write elsewhere"
        ) from error
