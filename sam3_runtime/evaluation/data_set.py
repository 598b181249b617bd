"""Reads a concept data set in COCO's format: images, the phrases to prompt on each, and the instances to be found.

The categories are phrases: ``name`` is the prompt. Beyond COCO, an image may have ``prompted_category_ids``, its
prompts (those without annotations in it are absent phrases), or LVIS's ``neg_category_ids``, known absent phrases; a
category may have ``"exemplar": false`` if an example box cannot replace it (a box around a red circle does not mean
"circle").

Contradictions raise an error with their location. Missing data is left out where it is needed: images that cannot be
read, and instances without a mask where masks are measured.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from sam3_runtime.core.errors import Sam3Error, printable
from sam3_runtime.core.files import digest_of, sha256_of
from sam3_runtime.core.wording import counted
from sam3_runtime.families.sam3.prompts import Box
from sam3_runtime.imaging.postprocess import Size
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sources import load_image

Rle = dict[str, Any]
"""COCO's compressed run-length encoding: ``size`` [H, W] and ``counts``."""
Pair = tuple[int, int]
"""Ids of an image and of a category that is prompted on it."""
_MOST_PIXELS = 1 << 30  # of an image that can be read
log = logging.getLogger(__name__)


class DataSetError(Sam3Error):
    """An annotation file is not in COCO's format, contradicts itself, or names missing images."""


@dataclass(frozen=True)
class Category:
    """A phrase. ``exemplar``: whether an example box of one instance shows the meaning of the phrase."""

    name: str
    exemplar: bool = True


@dataclass(frozen=True)
class Instance:
    """An object to be found. ``box`` is xyxy in pixels, ``area`` that of the mask in pixels; AP ignores crowds."""

    box: Box
    area: float
    crowd: bool
    mask: Rle | None


@dataclass(frozen=True)
class ConceptImage:
    """An image and the ids of the categories that are prompted on it. ``source`` is its file, or its pixels."""

    id: int
    name: str
    size: Size
    prompted: tuple[int, ...]
    source: Path | Image

    def read(self) -> Image:
        """Return the image, RGB uint8 [H, W, 3].

        Raises :class:`SourceError` if it cannot be read, and :class:`DataSetError` if it is not of the annotated size.
        """
        image = load_image(self.source) if isinstance(self.source, Path) else self.source
        if image.shape[:2] != self.size:
            annotated, found = (f"{width} x {height}" for height, width in (self.size, image.shape[:2]))
            rotated = image.shape[:2] == self.size[::-1]
            raise DataSetError(
                f"{self.name} has {found} pixels, and the annotations are for {annotated}"
                + (": they do not apply the EXIF orientation of the image" if rotated else ""),
                "annotate the rotated image, or remove the orientation from its EXIF data"
                if rotated
                else "annotations are in pixels of the image: use the images that were annotated",
            )
        return image


@dataclass(frozen=True)
class ConceptData:
    """A concept data set. ``instances`` are those of prompted pairs; a pair without instances is absent.

    ``digest`` covers the image files, their prompts, and the instances.
    """

    name: str
    digest: str
    images: tuple[ConceptImage, ...]
    categories: Mapping[int, Category]
    instances: Mapping[Pair, tuple[Instance, ...]]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every image with every category that is prompted on it, in the order of the file."""
        return tuple((image.id, category) for image in self.images for category in image.prompted)

    @property
    def phrases(self) -> tuple[str, ...]:
        """Every prompted phrase, once."""
        return tuple(dict.fromkeys(self.categories[category].name for _, category in self.pairs))

    @property
    def has_masks(self) -> bool:
        """Whether any instance has a mask."""
        return any(one.mask is not None for listed in self.instances.values() for one in listed)

    def knows_masks_of(self, pair: Pair) -> bool:
        """Return whether every instance of the pair has a mask; only then can masks be measured on it."""
        return all(one.mask is not None for one in self.instances.get(pair, ()))

    def without(self, images: Collection[int]) -> ConceptData:
        """Return the data set without the images of these ids."""
        return replace(
            self,
            images=tuple(one for one in self.images if one.id not in images),
            instances={pair: listed for pair, listed in self.instances.items() if pair[0] not in images},
        )


# --- the file ---------------------------------------------------------------------------------------------------------


_Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Side = Annotated[int, Field(ge=1, le=_MOST_PIXELS)]
_Length = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Image(BaseModel):
    id: _Id
    file_name: str
    height: _Side
    width: _Side
    prompted_category_ids: tuple[_Id, ...] | None = None
    neg_category_ids: tuple[_Id, ...] = ()

    @property
    def size(self) -> Size:
        return self.height, self.width


class _Category(BaseModel):
    id: _Id
    name: str
    exemplar: bool = True


class _Annotation(BaseModel):
    id: Any = None
    image_id: _Id
    category_id: _Id
    bbox: tuple[FiniteFloat, FiniteFloat, _Length, _Length]
    area: _Length | None = None
    iscrowd: int = Field(0, ge=0, le=1)
    segmentation: Any = None


class _File(BaseModel):
    images: list[_Image] = Field(min_length=1)
    categories: list[_Category] = Field(min_length=1)
    annotations: list[_Annotation]


def read_concepts(
    annotations: Path, images: Path | None = None, *, limit: int | None = None, all_categories: bool = False
) -> ConceptData:
    """Read and check the annotation file, and check that the images exist; none is decoded.

    ``images`` is the folder that ``file_name`` is relative to, by default that of the annotations; ``limit`` takes only
    the first images. An image without ``prompted_category_ids`` is prompted with the categories that have annotations
    in it, and with its ``neg_category_ids``; with ``all_categories``, with all. Raises :class:`DataSetError` with the
    location of the problem in the file.
    """
    file = _parse(annotations)
    categories = {one.id: Category(one.name.strip(), one.exemplar) for one in file.categories}
    entries = file.images[:limit]
    _check(annotations, file, categories)
    instances = _instances(annotations, file.annotations, {one.id: one for one in entries})
    present: dict[int, list[int]] = {}
    for image, category in instances:
        present.setdefault(image, []).append(category)
    folder = annotations.parent if images is None else images
    found = []
    for one in entries:
        chosen = one.prompted_category_ids
        if all_categories:
            chosen = tuple(categories)
        elif chosen is None:
            chosen = (*present.get(one.id, []), *one.neg_category_ids)
        path = folder / one.file_name
        found.append(ConceptImage(one.id, one.file_name, one.size, tuple(dict.fromkeys(chosen)), path))
    if not any((folder / image.name).is_file() for image in found):
        raise DataSetError(
            f"{annotations}: none of its {counted(len(found), 'image')} is in {folder}, first {found[0].name}",
            "name the folder that file_name is relative to: --images FOLDER",
        )
    if not any(image.prompted for image in found):
        raise DataSetError(f"{annotations} has no prompts for its images", "annotate some, or use --all-categories")
    pairs = {(image.id, category) for image in found for category in image.prompted}
    selected = {pair: tuple(listed) for pair, listed in instances.items() if pair in pairs}
    digest = _digest(folder, found, categories, selected)
    return ConceptData(printable(annotations.name), digest, tuple(found), categories, selected)


def _digest(
    folder: Path,
    images: Sequence[ConceptImage],
    categories: Mapping[int, Category],
    instances: Mapping[Pair, Sequence[Instance]],
) -> str:
    def digest_of_file(path: Path) -> str | None:
        try:
            return sha256_of(path)
        except OSError:  # reading it raises an error later
            return None

    prompts = [[one.id, digest_of_file(folder / one.name), one.prompted] for one in images]
    objects = [[*pair, [vars(one) for one in listed]] for pair, listed in sorted(instances.items())]
    return digest_of([prompts, sorted((number, vars(one)) for number, one in categories.items()), objects])


def _parse(path: Path) -> _File:
    hint = "a COCO file has the lists images, categories and annotations: docs/evaluation.md"
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataSetError(f"{path} does not exist", "name the data set's annotation file") from None
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataSetError(f"{path} is not JSON: {error}", hint) from None
    try:
        return _File.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(str(key) for key in first["loc"]) or "the file"
        match first["loc"]:
            case ("annotations", int(index), *rest) if rest and isinstance(entry := data["annotations"][index], dict):
                location = ".".join([_location(index, entry.get("id")), *map(str, rest)])
        raise DataSetError(f"{path} is not in COCO's format: {location}: {first['msg']}", hint) from None


def _location(index: int, number: Any) -> str:
    """Return the location of an annotation in the file, with its id if it has one."""
    return f"annotations.{index}" if number is None else f"annotations.{index} (id {number})"


def _check(path: Path, file: _File, categories: Mapping[int, Category]) -> None:
    """:class:`DataSetError` for duplicate ids, categories without a name, unknown ids, and impossible sizes."""
    for kind, listed in (("images", file.images), ("categories", file.categories)):
        number, times = Counter(one.id for one in listed).most_common(1)[0]
        if times > 1:
            raise DataSetError(f"{path}: {kind} has the id {number} {times} times", "an id names one entry")
    unnamed = next((number for number, one in categories.items() if not one.name), None)
    if unnamed is not None:
        raise DataSetError(f"{path}: the category {unnamed} has no name", "the name is the phrase that is prompted")
    images = {one.id for one in file.images}
    for index, one in enumerate(file.annotations):
        if one.image_id not in images or one.category_id not in categories:
            what = f"image_id {one.image_id}, category_id {one.category_id}"
            raise DataSetError(
                f"{path}: {_location(index, one.id)} refers to an unlisted entry: {what}",
                "list the entry, or remove the annotation",
            )
    for image in file.images:
        if image.width * image.height > _MOST_PIXELS:
            raise DataSetError(f"{path}: {image.file_name} is {image.width} x {image.height}: no image is that large")
        unknown = {*(image.prompted_category_ids or ()), *image.neg_category_ids} - categories.keys()
        if unknown:
            raise DataSetError(f"{path}: {image.file_name} has unlisted categories: {sorted(unknown)}")


def _instances(
    path: Path, annotations: Sequence[_Annotation], images: Mapping[int, _Image]
) -> dict[Pair, list[Instance]]:
    found: dict[Pair, list[Instance]] = {}
    unmasked: list[str] = []
    for index, one in enumerate(annotations):
        if one.image_id not in images:
            continue
        size, location = images[one.image_id].size, _location(index, one.id)
        mask = _mask(one.segmentation, size, f"{path}: {location}.segmentation")
        unmasked += [location] if mask is None else []
        x, y, width, height = one.bbox
        box = (x, y, x + width, y + height)
        if not _near(np.asarray(box), size):
            raise DataSetError(
                f"{path}: {location}.bbox is far outside its image of {size[1]} x {size[0]}: {[*one.bbox]}",
                "coordinates are x, y in pixels of the image; correct the annotation, or remove it",
            )
        area = width * height if one.area is None else one.area
        found.setdefault((one.image_id, one.category_id), []).append(Instance(box, area, bool(one.iscrowd), mask))
    total = sum(map(len, found.values()))
    if 0 < len(unmasked) < total:
        log.warning("%s: %d of %d annotations have no mask, first %s", path, len(unmasked), total, unmasked[0])
    return found


def _near(points: NDArray[np.float64], size: Size) -> bool:
    """Whether x, y, x, y … are at most ten image sizes outside the image; False for NaN."""
    within = [np.abs(points[axis::2] - side / 2) <= 10.5 * side for axis, side in ((0, size[1]), (1, size[0]))]
    return bool(np.concatenate(within).all())


# --- masks ------------------------------------------------------------------------------------------------------------


def _mask(segmentation: Any, size: Size, location: str) -> Rle | None:
    """Polygons, or run lengths (compressed or not) → compressed run lengths; None for points and lines."""
    from pycocotools import mask as coco

    if not segmentation:
        return None
    hint = "polygons [[x, y, ...]], or run lengths {size: [height, width], counts} of the whole image"
    try:
        if isinstance(segmentation, list):
            polygons = [_polygon(one, size) for one in segmentation]
            solid = [one for one in polygons if len(one) >= 6]  # pycocotools takes four numbers for a box
            if not solid:
                return None
            encoded = coco.merge(coco.frPyObjects(solid, *size))
        else:
            counts = segmentation["counts"]
            runs = np.asarray(counts, np.int64) if isinstance(counts, list) else run_lengths(counts)
            if tuple(segmentation["size"]) != size or runs.min(initial=0) < 0 or runs.sum() != size[0] * size[1]:
                raise ValueError(f"{counted(int(runs.sum()), 'pixel')} in runs, size {segmentation['size']}")
            encoded = coco.frPyObjects(segmentation, *size) if isinstance(counts, list) else segmentation
    except Exception as error:  # pycocotools raises bare Exception for unknown input
        raise DataSetError(f"{location} is not a mask of {size[1]} x {size[0]} pixels: {error}", hint) from None
    text = encoded["counts"]
    return {"size": list(size), "counts": text.decode("ascii") if isinstance(text, bytes) else text}


def _polygon(points: Any, size: Size) -> list[float]:
    """Check x, y, x, y …: pycocotools needs memory by the length of edges, and does not end for NaN.

    Raises ``ValueError`` or ``TypeError``.
    """
    found = np.asarray(points, np.float64)
    if found.ndim != 1 or len(found) % 2:
        raise ValueError(f"{points!r:.60} is not a list x, y, x, y …")
    if not _near(found, size):
        raise ValueError("it has points far outside the image, or that are not numbers")
    return [float(one) for one in found]


def run_lengths(counts: str) -> NDArray[np.int64]:
    """Return the runs of COCO's compressed text, zeros first. Raises ``ValueError`` for damaged text.

    pycocotools does not detect damage. Each number is a few characters of 5 bits, lowest first, with a sixth bit for
    "more follow"; from the fourth on it is the difference from the run two before.
    """
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = (codes & 0x20) == 0
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise ValueError("the run lengths are damaged")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    number = np.cumsum(last) - last  # the index of the number of each character
    digit = np.arange(len(codes)) - starts[number]
    runs = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    negative = (codes[last] & 0x10) != 0
    runs[negative] -= np.int64(1) << (5 * (digit[last][negative] + 1))
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
