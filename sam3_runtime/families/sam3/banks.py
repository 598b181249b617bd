"""Prompt banks: the classes of a project, encoded once and stored in one file.

    BANK.npz   bank        the record (JSON): its origin, and each class with its threshold, colour and digest
               features_0  [L, C] in the encoders' output type, mask_0 bool [L]; likewise for each class

A class has text tokens, then the tokens of its boxes. Text tokens are valid for a checkpoint, at every resolution. Box
tokens come from the features of the reference image, so they are valid for one resolution only. Detecting with a bank
needs neither the text nor the geometry encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError

from sam3_runtime.core.errors import ProjectError, RecordError, SourceError, printable
from sam3_runtime.core.files import sha256_of, written_whole
from sam3_runtime.core.sections import Share
from sam3_runtime.core.source_files import locate
from sam3_runtime.core.wording import few
from sam3_runtime.families.sam3.features import Embedding, EncodedPrompt
from sam3_runtime.families.sam3.parts import PartName
from sam3_runtime.families.sam3.pipeline import THRESHOLD, Pipeline
from sam3_runtime.families.sam3.projects import ClassSection, Project
from sam3_runtime.imaging.drawing import Color, color_of
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sinks import reported
from sam3_runtime.media.sources import load_image
from sam3_runtime.records.measurements import shareable
from sam3_runtime.records.records import Backend, Record, SealedRecord, VariantConfig

SUFFIX = ".npz"
Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class ClassInfo:
    """A class of a detector: its ``name``, the score that a detection must exceed, and its RGB colour."""

    name: str
    threshold: float
    color: Color


class ExampleRecord(Record):
    """The boxes of a class: xyxy in pixels of the reference image, with the name and digest of the image's file."""

    image: str
    sha256: str
    size: tuple[int, int]  # height, width
    boxes: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat], ...]
    labels: tuple[int, ...]


class ClassRecord(Record):
    """One class. ``sha256`` is of its features and mask."""

    name: str
    words: str | None
    examples: ExampleRecord | None
    threshold: Share
    color: tuple[Byte, Byte, Byte]
    tokens: int
    sha256: str


class BankRecord(SealedRecord):
    """The origin of a bank.

    ``project`` is the name of the project file; ``resolution`` and ``precision`` are those of the encoders that ran.
    """

    project: str
    checkpoint: str
    commit: str | None
    checkpoint_digest: str
    tokenizer_sha256: str
    resolution: int
    backend: Backend
    precision: dict[str, str]
    classes: tuple[ClassRecord, ...]


@dataclass(frozen=True)
class Bank:
    """Encoded classes. ``tokens`` has one entry per class; ``file`` is the bank's name in messages."""

    record: BankRecord
    tokens: tuple[Embedding, ...]
    file: str = "the bank"

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Name, threshold and colour of each class."""
        return tuple(ClassInfo(one.name, one.threshold, one.color) for one in self.record.classes)

    @property
    def prompts(self) -> list[EncodedPrompt]:
        """One prompt per class, for :meth:`Pipeline.detect`."""
        return [EncodedPrompt(one.name, tokens) for one, tokens in zip(self.record.classes, self.tokens, strict=True)]

    def __len__(self) -> int:
        return len(self.tokens)

    def check(self, config: VariantConfig) -> None:
        """Raise :class:`RecordError` unless these classes are valid for the variant of ``config``.

        The message has the reason, and the command that makes the bank anew.
        """
        record = self.record
        again = (
            f"make it anew: sam3-runtime extract {record.project} --engines engines/{config.variant} "
            f"--output {Path(self.file).name if self.file.endswith(SUFFIX) else f'BANK{SUFFIX}'}"
        )
        if record.checkpoint_digest != config.checkpoint_digest:
            raise RecordError(
                f"{self.file} was made with another checkpoint, {_checkpoint(record)}: {config.variant} is of "
                f"{_checkpoint(config)}, for which its features are not valid",
                again,
            )
        if record.tokenizer_sha256 != config.assets["tokenizer.json"]:
            raise RecordError(
                f"the words of {self.file} were encoded with another tokenizer than {config.variant}'s", again
            )
        shown = [repr(one.name) for one in record.classes if one.examples]
        if shown and record.resolution != config.resolution:
            raise RecordError(
                f"{self.file} has example boxes of {few(shown, 3)}, encoded at {record.resolution} pixels, and "
                f"{config.variant} runs at {config.resolution}; classes of words alone are valid at any resolution",
                again,
            )

    def save(self, path: str | Path) -> None:
        """Write the bank, whole or not at all; :class:`OutputError` if it cannot be written."""
        path = Path(path)
        arrays: dict[str, Any] = {"bank": np.frombuffer(self.record.sealed().model_dump_json().encode(), np.uint8)}
        for index, tokens in enumerate(self.tokens):
            arrays |= {f"features_{index}": tokens.features, f"mask_{index}": tokens.mask}
        with reported(path), written_whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


def _checkpoint(of: BankRecord | VariantConfig) -> str:
    return f"{of.checkpoint} ({of.checkpoint_digest[:12]})"


# --- reading ----------------------------------------------------------------------------------------------------------


def load_bank(path: str | Path, config: VariantConfig | None = None) -> Bank:
    """Read a bank, and check that it is valid for the variant of ``config``, if given.

    :class:`RecordError` for a file that is missing, damaged, not a bank, or of another checkpoint or resolution.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = _read_arrays(file)
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read: {error.strerror or error}", "make a bank: sam3-runtime extract PROJECT.yaml"
        ) from None
    try:
        record = BankRecord.model_validate_json(content["bank"].tobytes())
        tokens = tuple(
            Embedding(content[f"features_{index}"], content[f"mask_{index}"]) for index in range(len(record.classes))
        )
    except (KeyError, ValidationError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        why = f": {'.'.join(map(str, first['loc']))}: {first['msg']}" if first else ""
        raise RecordError(
            f"{path} is not a bank, or one of another version{why}",
            "banks are written by: sam3-runtime extract PROJECT.yaml",
        ) from None
    intact = [_digest(one) == known.sha256 for one, known in zip(tokens, record.classes, strict=True)]
    if record.digest != record.sealed().digest or not all(intact):
        raise RecordError(f"{path} is damaged: its content does not match its own digests", _AGAIN)
    bank = Bank(record, tokens, str(path))
    if config is not None:
        bank.check(config)
    return bank


_AGAIN = "copy it again, or make it anew: sam3-runtime extract PROJECT.yaml"


def _read_arrays(file: Any) -> Mapping[str, Any]:
    """All arrays of an ``.npz``; :class:`RecordError` for anything else. No code in it is run: no pickles."""
    try:
        opened = np.load(file, allow_pickle=False)
        return dict(opened) if isinstance(opened, np.lib.npyio.NpzFile) else {}
    except Exception as error:  # for damaged archives zipfile, zlib and NumPy raise errors without a common base class
        reason = "it is cut off, damaged, or not an archive of arrays"
        raise RecordError(f"{file.name} cannot be read as a bank: {reason} ({error})", _AGAIN) from None


def _digest(tokens: Embedding) -> str:
    digest = hashlib.sha256()
    for array in (tokens.features, tokens.mask):
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# --- making -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A reference image, RGB uint8 [H, W, 3], and the SHA-256 of its file."""

    image: Image
    sha256: str


def read_references(project: Project) -> dict[str, Reference]:
    """Read the reference images of a project: by their names in the project.

    :class:`ProjectError` for an image that cannot be read and for a box outside its image, with the line.
    """
    found: dict[str, Reference] = {}
    for index, section in enumerate(project.settings.classes):
        examples = section.examples
        if examples is None:
            continue
        if examples.image not in found:
            spec = project.image(examples)
            try:
                found[examples.image] = Reference(load_image(spec), sha256_of(locate(spec)))
            except SourceError as error:
                where = project.location("classes", index, "examples", "image")
                raise ProjectError(f"{where}: {error.message}", error.hint) from None
        height, width = found[examples.image].image.shape[:2]
        for keys, (x0, y0, x1, y1) in examples.boxes():
            if not examples.relative and (x1 > width or y1 > height):
                where = project.location("classes", index, "examples", *keys)
                size = f"{width} x {height} pixels"
                raise ProjectError(
                    f"{where}: the box {[x0, y0, x1, y1]} is outside {examples.image}, which is {size}",
                    "boxes are x0, y0, x1, y1 in pixels of the reference image",
                )
    return found


def parts_for(project: Project) -> tuple[PartName, ...]:
    """Return the parts that :func:`extract` runs: the text encoder, and those that encode boxes if there are any."""
    if any(section.examples for section in project.settings.classes):
        return ("vision-encoder", "text-encoder", "geometry-encoder")
    return ("text-encoder",)


def extract(pipeline: Pipeline, project: Project, references: Mapping[str, Reference] | None = None) -> Bank:
    """Encode the classes of a project. ``references`` are its images, if they were read before.

    A class's tokens do not depend on the other classes. Raises as :func:`read_references` does.
    """
    references = read_references(project) if references is None else references
    sections = project.settings.classes
    pipeline.encode([section.prompt.words for section in sections])  # in one batch: the pipeline caches them
    tokens: dict[int, Embedding] = {}
    for image, indices in _by_image(sections).items():
        prompts = [sections[index].prompt for index in indices]
        encoded = pipeline.encode(prompts, None if image is None else references[image].image)
        tokens |= {index: one.tokens for index, one in zip(indices, encoded, strict=True)}
    config, engines = pipeline.config, pipeline.records
    record = BankRecord(
        project=printable(project.path.name),
        checkpoint=shareable(config.checkpoint),
        commit=config.commit,
        checkpoint_digest=config.checkpoint_digest,
        tokenizer_sha256=config.assets["tokenizer.json"],
        resolution=config.resolution,
        backend=config.backend,
        precision={part: engines[part].quantize or engines[part].precision for part in parts_for(project)},
        classes=tuple(_class_record(project, index, tokens[index], references) for index, _ in enumerate(sections)),
    )
    return Bank(record.sealed(), tuple(tokens[index] for index in range(len(sections))))


def _by_image(sections: list[ClassSection]) -> dict[str | None, list[int]]:
    """Return the classes on each reference image, and under None those of words alone."""
    groups: dict[str | None, list[int]] = {}
    for index, section in enumerate(sections):
        groups.setdefault(section.examples.image if section.examples else None, []).append(index)
    return groups


def _class_record(project: Project, index: int, tokens: Embedding, references: Mapping[str, Reference]) -> ClassRecord:
    section, prompt = project.settings.classes[index], project.settings.classes[index].prompt
    examples = None
    if section.examples:
        reference = references[section.examples.image]
        height, width = reference.image.shape[:2]
        x, y = (width, height) if prompt.relative else (1, 1)
        boxes = tuple((x0 * x, y0 * y, x1 * x, y1 * y) for x0, y0, x1, y1 in prompt.boxes)
        examples = ExampleRecord(
            image=Path(section.examples.image).name, sha256=reference.sha256, size=(height, width), boxes=boxes,
            labels=prompt.labels,
        )  # fmt: skip
    thresholds = [value for value in (section.threshold, project.settings.threshold) if value is not None]
    return ClassRecord(
        name=section.label,
        words=section.words,
        examples=examples,
        threshold=thresholds[0] if thresholds else THRESHOLD,
        color=section.color or color_of(index),
        tokens=len(tokens.mask),
        sha256=_digest(tokens),
    )
