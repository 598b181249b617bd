"""Makes training batches: worker processes sample scenes and prompts; images and ground truth are made on the device.

A batch is B images with six prompts each, R = 6 B rows in six blocks of one row per image, so that row r is about image
r mod B, and every step has the same shapes:

    words    3 per image   a phrase, absent in about a third of the rows
    boxes    1 per image   example boxes on the same image: all objects of that shape and colour
    across   1 per image   example boxes on another image of the batch: the same, absent in about a third
    both     1 per image   a phrase and a box. A negative box excludes the objects of its shape and colour from those
                           that the phrase names; a positive box on one of the named objects excludes none

Independent of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from demo.scene_layouts import COLOURS, MOST_THINGS, Layout, sample_layout
from demo.scene_phrases import ABSENT_SHARE, Phrase, classes, every_phrase, example_boxes, phrases, things_of
from demo.scene_render import boxes_of, render
from demo.scene_shapes import SHAPES
from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL
from sam3_runtime.families.sam3.prompts import BOXES_ONLY_TEXT

VOCABULARY = (*every_phrase(), BOXES_ONLY_TEXT)
WORDS = 3
BOXED = ("boxes", "across", "both")
MOST_BOXES = 4
PIXEL_CLASSES = (len(SHAPES) + 1, len(COLOURS) + 1)
"""Numbers of shapes and of colours that a pixel can show; the last class of each is the ground."""
ASKED, SLOTS = 3, 3
"""Rows of an image whose masks a step trains, and objects of a row: two thirds of the rows that mean an object, and
nearly all objects that they mean. Masks are among the largest tensors of a step, and are learnt before boxes are."""
_JITTER = 0.05  # of an example box's sides: users do not draw tight boxes

_WORD_BLOCKS = tuple(f"words {number}" for number in range(WORDS))
_INDEX = {text: index for index, text in enumerate(VOCABULARY)}
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Questions:
    """The prompts of a batch, by indices into its scenes.

    ``phrase`` int64 [R] indexes ``VOCABULARY``; ``image`` int64 [R]; ``wanted`` bool [R, T], which objects of the image
    are meant. Of the last 3 B rows: ``example`` int64 [3 B], the image of the boxes; ``things`` int64
    [3 B, n], the objects in the boxes; ``labels`` int64 [3 B, n], 1, 0 or −10 for no box.
    """

    layouts: tuple[Layout, ...]
    phrase: Ints
    image: Ints
    wanted: NDArray[np.bool_]
    example: Ints
    things: Ints
    labels: Ints


def ask(rng: np.random.Generator, images: int) -> Questions:
    """Sample scenes and prompts. Scenes after the first often contain an object like the example in the one before."""
    layouts: list[Layout] = []
    rows: dict[str, list[_Row]] = {kind: [] for kind in (*_WORD_BLOCKS, *BOXED)}
    first: Layout = sample_layout(rng)
    layouts.append(first)
    shown = []
    for index in range(1, images + 1):
        examples = example_boxes(layouts[-1], rng)
        like = classes(layouts[-1])[examples.positive[0]]
        shown.append((index - 1, examples.positive, examples.negative, like))
        if index < images:
            layouts.append(sample_layout(rng, include=[like] if rng.random() > ABSENT_SHARE else ()))
    for index, layout in enumerate(layouts):
        asked = phrases(layout, rng, WORDS + 1)
        for block, one in zip(_WORD_BLOCKS, asked, strict=False):
            rows[block].append(_Row(index, one.text, one.things))
        same = example_boxes(layout, rng)
        rows["boxes"].append(_Row(index, BOXES_ONLY_TEXT, same.things, index, same.positive, same.negative))
        source, positive, negative, like = shown[index - 1]
        meant = tuple(things_of(layout, like))
        rows["across"].append(_Row(index, BOXES_ONLY_TEXT, meant, source, positive, negative))
        rows["both"].append(_both(rng, layout, index, asked[WORDS]))
    return _as_arrays(layouts, [row for block in rows.values() for row in block])


@dataclass(frozen=True)
class _Row:
    image: int
    text: str
    meant: tuple[int, ...]
    example: int = 0
    positive: tuple[int, ...] = ()
    negative: tuple[int, ...] = ()


def _both(rng: np.random.Generator, layout: Layout, index: int, phrase: Phrase) -> _Row:
    """Sample a phrase with a positive box if it is present, or a negative one: on a named object if others remain."""
    there = classes(layout)
    kinds = sorted({there[thing] for thing in phrase.things})
    if phrase.things and rng.random() < 0.5:
        return _Row(index, phrase.text, phrase.things, index, (int(rng.choice(phrase.things)),))
    pool = list(phrase.things) if len(kinds) > 1 else [i for i in range(len(there)) if i not in phrase.things]
    if not pool:  # the phrase names every object, and all are alike
        return _Row(index, phrase.text, phrase.things, index, phrase.things[:1])
    taken = int(rng.choice(pool))
    left = tuple(thing for thing in phrase.things if there[thing] != there[taken])
    return _Row(index, phrase.text, left, index, (), (taken,))


def _as_arrays(layouts: list[Layout], rows: list[_Row]) -> Questions:
    boxed = rows[len(layouts) * WORDS :]
    wanted = np.zeros((len(rows), MOST_THINGS), np.bool_)
    things = np.zeros((len(boxed), MOST_BOXES), np.int64)
    labels = np.full((len(boxed), MOST_BOXES), BOX_PADDING_LABEL, np.int64)
    for index, row in enumerate(rows):
        wanted[index, list(row.meant)] = True
    for index, row in enumerate(boxed):
        count = len(row.positive) + len(row.negative)
        things[index, :count] = (*row.positive, *row.negative)
        labels[index, :count] = (1,) * len(row.positive) + (0,) * len(row.negative)
    return Questions(
        layouts=tuple(layouts),
        phrase=np.array([_INDEX[row.text] for row in rows]),
        image=np.array([row.image for row in rows]),
        wanted=wanted,
        example=np.array([row.example for row in boxed]),
        things=things,
        labels=labels,
    )


def join(several: Sequence[Questions]) -> Questions:
    """Join several batches' prompts, block by block; the ``across`` rows of each still refer to its own scenes."""
    starts = np.cumsum([0] + [len(one.layouts) for one in several[:-1]])

    def together(parts: list[NDArray[Any]], blocks: int) -> NDArray[Any]:
        return np.concatenate([p.reshape(blocks, -1, *p.shape[1:]) for p in parts], 1).reshape(-1, *parts[0].shape[1:])

    def rows(name: str) -> NDArray[Any]:
        return together([getattr(one, name) for one in several], WORDS + len(BOXED))

    def boxed(name: str) -> NDArray[Any]:
        return together([getattr(one, name) for one in several], len(BOXED))

    return Questions(
        layouts=tuple(layout for one in several for layout in one.layouts),
        phrase=rows("phrase"),
        image=together([one.image + start for one, start in zip(several, starts, strict=True)], WORDS + len(BOXED)),
        wanted=rows("wanted"),
        example=together([one.example + start for one, start in zip(several, starts, strict=True)], len(BOXED)),
        things=boxed("things"),
        labels=boxed("labels"),
    )


@dataclass(frozen=True)
class Batch:
    """The model's inputs and the ground truth, on the device. Boxes are xyxy from 0 to 1 unless noted otherwise.

    ``pixels`` float32 [B, 3, r, r], normalised as the processor does; ``phrase`` int64 [R]; ``example`` int64 [3 B],
    ``example_boxes`` float32 [3 B, n, 4] **cxcywh**, ``labels`` int64 [3 B, n]; ``boxes`` [R, T, 4] and ``valid`` bool
    [R, T]: the targets of each row. ``asked`` int64 [M]: the rows whose masks are trained, of which the m-th is about
    image m mod B, and ``asked_valid`` bool [M], whether it means any object. Of each, ``slots`` int64 [M, P] are the
    objects that it means, where ``slots_valid``; ``masks`` float32 [M, P, 4g, 4g], the share of each cell that these
    cover, and ``everything`` [M, 4g, 4g], the share that all meant objects cover. ``labels_of_pixels`` int64 [B, 2, 2g,
    2g]: shape and colour.
    """

    pixels: Tensor
    phrase: Tensor
    example: Tensor
    example_boxes: Tensor
    labels: Tensor
    boxes: Tensor
    valid: Tensor
    asked: Tensor
    asked_valid: Tensor
    slots: Tensor
    slots_valid: Tensor
    masks: Tensor
    everything: Tensor
    labels_of_pixels: Tensor

    def inputs(self) -> tuple[Tensor, ...]:
        """Return the model's inputs, in the order of its arguments."""
        return self.pixels, self.phrase, self.example, self.example_boxes, self.labels, self.asked

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


@torch.no_grad()
def build(
    questions: Questions, device: torch.device, resolution: int, grid: int, jitter: float = _JITTER,
    draw: np.random.Generator | None = None,
) -> Batch:  # fmt: skip
    """Render the scenes at their own size, shrink them to ``resolution`` pixels (``grid`` patches), and compute the
    ground truth from the object that each pixel shows. An object that is not visible is no target. ``draw`` samples the
    rows and objects whose masks are used; without it, all are."""
    asked, slots, slots_valid = _choose_masks(questions, draw)

    def send(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    images, ids = render(questions.layouts, device)
    side = ids.shape[-1]
    pixels = images.float()
    if side != resolution:
        pixels = F.interpolate(pixels, (resolution, resolution), mode="bilinear", antialias=True)
        pixels = pixels.round().clamp(0, 255)  # as the processor does
    boxes = boxes_of(ids, MOST_THINGS) / side
    seen = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    image, slot = send(questions.image), send(slots)
    coverage = _coverage(ids, 4 * grid)
    wanted = send(questions.wanted[asked].astype(np.float32)).view(-1, len(ids), MOST_THINGS)
    everything = torch.einsum("kbt,btn->kbn", wanted, coverage.flatten(2)).clamp(max=1)
    example, things, labels = send(questions.example), send(questions.things), send(questions.labels)
    return Batch(
        pixels=pixels / 127.5 - 1,
        phrase=send(questions.phrase),
        example=example,
        example_boxes=_example_boxes(boxes[example].gather(1, things[..., None].expand(-1, -1, 4)), labels, jitter),
        labels=labels,
        boxes=boxes[image],
        valid=send(questions.wanted) & seen[image],
        asked=send(asked),
        asked_valid=send(np.asarray(questions.wanted[asked].any(1))),
        slots=slot,
        slots_valid=send(slots_valid),
        masks=coverage[send(questions.image[asked])[:, None], slot],
        everything=everything.reshape(-1, *coverage.shape[2:]),
        labels_of_pixels=_labels_of_pixels(questions.layouts, ids, 2 * grid),
    )


def _choose_masks(questions: Questions, draw: np.random.Generator | None) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Choose ``asked``, ``slots`` and ``slots_valid``: rows that mean an object first, otherwise at random."""
    images, wanted = len(questions.layouts), questions.wanted
    if draw is None:
        asked, count = np.arange(len(wanted)), MOST_THINGS
        lot = np.zeros((len(wanted), MOST_THINGS))
    else:
        means = wanted.any(1).reshape(-1, images)
        blocks = np.argsort(draw.random(means.shape) - means, 0, kind="stable")[:ASKED]  # these sort first
        asked, count = (blocks * images + np.arange(images)).reshape(-1), SLOTS
        lot = draw.random((len(asked), MOST_THINGS))
    slots = np.argsort(lot - 2 * wanted[asked], 1, kind="stable")[:, :count]
    return asked, slots, np.take_along_axis(wanted[asked], slots, 1)


def _coverage(ids: Tensor, cells: int) -> Tensor:
    """Return the share of each cell that each object covers: float32 [B, T, cells, cells], of ids [B, H, H]."""
    mine = ids[:, None] == torch.arange(MOST_THINGS, device=ids.device, dtype=ids.dtype)[:, None, None]
    edge = torch.arange(ids.shape[-1] + 1, device=ids.device) * (cells / ids.shape[-1])
    cell = torch.arange(cells, device=ids.device)[:, None]
    share = (edge[1:].clamp(max=cell + 1) - edge[:-1].clamp(min=cell)).clamp(min=0)  # of each pixel's side, in cells
    kind = torch.bfloat16 if ids.is_cuda else torch.float32
    return (share.to(kind) @ mine.to(kind) @ share.to(kind).T).float()


def _example_boxes(boxes: Tensor, labels: Tensor, jitter: float) -> Tensor:
    """Convert xyxy [.., n, 4] to cxcywh, with each side moved a little; zeros for no box, as in the runtime."""
    low, high = boxes[..., :2], boxes[..., 2:]
    moved = boxes + (torch.rand_like(boxes) * 2 - 1) * jitter * (high - low).repeat(1, 1, 2)
    low, high = moved.clamp(0, 1)[..., :2], moved.clamp(0, 1)[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1) * (labels != BOX_PADDING_LABEL)[..., None]


def _labels_of_pixels(layouts: tuple[Layout, ...], ids: Tensor, cells: int) -> Tensor:
    """Return shape and colour at the centres of cells² cells, int64 [B, 2, cells, cells]."""
    table = np.empty((len(layouts), 2, MOST_THINGS + 1), np.int64)
    table[:] = np.array([classes - 1 for classes in PIXEL_CLASSES])[:, None]
    for index, layout in enumerate(layouts):
        table[index, 0, : len(layout.things)] = layout.things["shape"]
        table[index, 1, : len(layout.things)] = layout.things["colour"]
    centre = ((torch.arange(cells, device=ids.device) + 0.5) * (ids.shape[-1] / cells)).long()
    shown = ids[:, centre[:, None], centre].long()
    shown = torch.where(shown < 0, MOST_THINGS, shown).flatten(1)[:, None].expand(-1, 2, -1)
    return torch.from_numpy(table).to(ids.device).gather(2, shown).view(-1, 2, cells, cells)
