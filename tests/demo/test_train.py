"""The demo's training: what it computes is what ``Sam3Model`` computes, everything learns, and a state goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from demo import checkpoint, train, train_check, train_plot  # noqa: E402
from demo.scene_layouts import MOST_THINGS  # noqa: E402
from demo.scene_phrases import classes  # noqa: E402
from demo.train_data import ASKED, BOXED, SLOTS, VOCABULARY, WORDS, Batch, Questions, ask, build, join  # noqa: E402
from demo.train_feed import HALVES, SETTLED, SHARES, Feeder, resolution_of, shares  # noqa: E402
from demo.train_graphs import Recorded, clip, flat_gradients  # noqa: E402
from demo.train_losses import WEIGHTS, losses, overlaps, total  # noqa: E402
from demo.train_model import PRIOR, Trainee  # noqa: E402
from demo.train_state import PART, WARM_UP, Progress, average, learning_rate, read_state, write_state  # noqa: E402
from sam3_runtime.core.errors import CheckpointError  # noqa: E402
from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL  # noqa: E402

IMAGES = 3
CPU = train.Worker(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def questions() -> Questions:
    return ask(np.random.default_rng(5), IMAGES)


@pytest.fixture(scope="module")
def batch(questions: Questions) -> Batch:
    return build(questions, CPU.device, 168, 12, jitter=0)


@pytest.fixture
def trainer() -> train.Trainer:
    return train.Trainer(CPU, 1e-3)


# --- the model ------------------------------------------------------------------------------------------------------


def _stirred(seed: int = 0) -> Trainee:
    """A trainee whose weights are no special case: nothing zero, no two embeddings alike."""
    torch.manual_seed(seed)
    trainee = train.new_trainee().eval()
    with torch.no_grad():
        for parameter in trainee.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return trainee


@pytest.mark.parametrize("resolution", [168, 224])
@pytest.mark.parametrize("kind", ["words", "boxes", "both"])
def test_it_answers_as_sam3_does_at_that_resolution(questions: Questions, kind: str, resolution: int) -> None:
    """The whole model of transformers, constructed for this resolution, row by row: words, boxes alone, words with
    boxes."""
    trainee = _stirred()
    batch = build(questions, CPU.device, resolution, resolution // 14, jitter=0)
    with torch.no_grad():
        outputs = trainee(*batch.inputs())
    config = checkpoint.config()
    config.vision_config.backbone_config.image_size = resolution
    sam3 = type(trainee.sam3)(config).eval()
    sam3.load_state_dict(trainee.sam3.state_dict())
    first = 0 if kind == "words" else IMAGES * (WORDS + BOXED.index(kind))
    for row in range(first, first + IMAGES):
        image = int(questions.image[row])
        boxed: dict[str, Any] = {}
        if kind != "words":
            place = row - IMAGES * WORDS
            boxed = {
                "input_boxes": batch.example_boxes[[place]],
                "input_boxes_labels": batch.labels[[place]],
            }
        with torch.no_grad():
            said = sam3(
                pixel_values=batch.pixels[[image]],
                input_ids=trainee.input_ids[batch.phrase[[row]]],
                attention_mask=trainee.attention_mask[batch.phrase[[row]]],
                **boxed,
            )
        torch.testing.assert_close(outputs.kept.logits[-1, row], said.pred_logits[0], atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(outputs.kept.boxes[-1, row], said.pred_boxes[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(outputs.kept.presence[-1, row], said.presence_logits[0, 0], atol=2e-4, rtol=1e-4)
        masks = trainee.masks(outputs.pixels[[row]], outputs.kept.hidden[-1][[row]])
        torch.testing.assert_close(masks[0], said.pred_masks[0].flatten(1), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(outputs.semantic[[row]], said.semantic_seg[0], atol=1e-3, rtol=1e-3)


def test_boxes_on_another_image_are_looked_up_there(batch: Batch) -> None:
    """What an ``across`` row is told depends on the image that its boxes are on, and not on the one it searches."""
    trainee = _stirred()
    with torch.no_grad():
        features, _ = trainee.encode_images(batch.pixels)
        shown = batch.example, batch.example_boxes, batch.labels
        told = trainee.encode_prompts(batch.phrase, features[2], *shown)[0]
        coarse = features[2].clone()
        across = len(batch.phrase) - 2 * IMAGES  # its first row: image 0, examples on the last
        coarse[IMAGES - 1] += 1
        seen = trainee.encode_prompts(batch.phrase, coarse, *shown)[0]
    assert int(batch.example[IMAGES]) == IMAGES - 1
    assert not torch.allclose(told[across], seen[across])
    torch.testing.assert_close(told[across + 1], seen[across + 1])


def test_examples_are_encoded_as_transformers_does(batch: Batch) -> None:
    """Each box's token and that of all: transformers puts the last behind the boxes that count, here it is last."""
    trainee = _stirred()
    with torch.no_grad():
        coarse = trainee.encode_images(batch.pixels)[0][2]
        ours, counts = trainee.encode_examples(coarse, batch.example, batch.example_boxes, batch.labels)
        neck = trainee.sam3.vision_encoder.neck
        theirs = trainee.sam3.geometry_encoder(
            box_embeddings=batch.example_boxes,
            box_mask=batch.labels != BOX_PADDING_LABEL,
            box_labels=batch.labels.clamp(min=0),
            img_feats=(coarse[batch.example],),
            img_pos_embeds=(neck.position_encoding(coarse[batch.example].shape, coarse.device, torch.float32),),
        )
    assert (counts.sum(1) == theirs.attention_mask.sum(1)).all()
    for mine, which, yours in zip(ours, counts, theirs.last_hidden_state, strict=True):
        torch.testing.assert_close(mine[which], yours[: int(which.sum())], atol=1e-4, rtol=1e-4)


def test_both_groups_of_queries_answer_as_if_alone(batch: Batch) -> None:
    """In training both go through the decoder together; evaluating, the model's own alone."""
    trainee = _stirred()
    with torch.no_grad():
        alone = trainee(*batch.inputs()).kept
        both = trainee.train()(*batch.inputs())
        decoder = trainee.sam3.detr_decoder
        for own, other in (
            (decoder.query_embed, trainee.many_queries),
            (decoder.reference_points, trainee.many_points),
        ):
            own.weight = other.weight
        swapped = trainee.eval()(*batch.inputs()).kept
    for one, answers in ((alone, both.kept), (swapped, both.many)):
        torch.testing.assert_close(answers.boxes, one.boxes, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(answers.logits, one.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.kept.presence, alone.presence)


def test_queries_begin_with_a_low_score(batch: Batch) -> None:
    trainee = train.new_trainee()
    with torch.no_grad():
        scores = trainee(*batch.inputs()).kept.logits.sigmoid()
    assert PRIOR / 4 < float(scores.median()) < PRIOR * 4


def test_everything_that_inference_reads_learns(trainer: train.Trainer, batch: Batch) -> None:
    before = {name: parameter.detach().clone() for name, parameter in trainer.trainee.named_parameters()}
    for number in range(2):  # the last layer of the box head begins with zeros: those before it learn a step later
        parts = trainer.step(batch, number, 0.0)
    unused = ("neck.fpn_layers.3.", "text_encoder.text_projection.", "pixel_decoder.conv_layers.2.",
              "pixel_decoder.norms.2.")  # fmt: skip
    still = [n for n, p in trainer.trainee.named_parameters() if torch.equal(p, before[n])]
    assert [name for name in still if not any(part in name for part in unused)] == []
    assert set(parts) == {*WEIGHTS, "loss", "norm"}
    assert all(math.isfinite(float(value)) for value in parts.values())


def test_it_learns_what_it_is_shown(trainer: train.Trainer, batch: Batch) -> None:
    seen = [float(trainer.step(batch, WARM_UP // 10 + number, 0.0)["loss"]) for number in range(7)]
    assert seen[-1] < 0.85 * seen[0]


# --- losses ---------------------------------------------------------------------------------------------------------


def test_right_answers_cost_next_to_nothing(batch: Batch) -> None:
    """Answers made from the truth: the box, mask and presence losses vanish, and every target has its query."""
    trainee = _stirred()
    with torch.no_grad():
        outputs = trainee(*batch.inputs())
        kept = outputs.kept
        kept.boxes[:, :, :15] = batch.boxes
        kept.logits.fill_(-12)
        kept.logits[:, :, :15] = torch.where(batch.valid, 12.0, -12.0)
        kept.presence.copy_(torch.where(batch.valid.any(1), 10.0, -10.0).expand_as(kept.presence))
        parts = losses(trainee, outputs, batch)
    for name in ("class", "l1", "giou", "presence"):
        assert float(parts[name]) < 1e-3, name


def test_absent_prompts_with_a_score_cost(batch: Batch) -> None:
    trainee = _stirred()
    with torch.no_grad():
        outputs = trainee(*batch.inputs())
        absent = ~batch.valid.any(1)
        quiet = losses(trainee, outputs, batch)
        outputs.kept.presence[:, absent] = 5.0
        loud = losses(trainee, outputs, batch)
    assert absent.any()
    assert float(loud["presence"]) > float(quiet["presence"]) + 0.5


def test_overlaps_of_known_boxes() -> None:
    box = torch.tensor([0.0, 0.0, 0.4, 0.4])
    others = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4], [0.6, 0.6, 1.0, 1.0]])
    iou, giou = overlaps(box, others)
    np.testing.assert_allclose(iou, [1, 1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(giou, [1, 1 / 3, -0.68], atol=1e-6)


def test_the_sum_weighs_each_loss() -> None:
    assert float(total({"l1": torch.tensor(2.0), "giou": torch.tensor(1.0)})) == 2 * WEIGHTS["l1"] + WEIGHTS["giou"]


@pytest.mark.parametrize("kept", [SLOTS, 7])
def test_places_that_hold_nothing_change_no_loss(trainer: train.Trainer, batch: Batch, kept: int) -> None:
    """Losses and gradients with as many places for masks as there could be things, and with fewer and fewer rows: what
    is left out of the one counts for nothing in the other."""
    valid = batch.slots_valid.clone()
    valid[:, kept:] = False
    meant = batch.asked_valid
    padded = dataclasses.replace(batch, slots_valid=valid)
    cut = dataclasses.replace(
        batch, slots=batch.slots[:, :kept], slots_valid=valid[:, :kept], masks=batch.masks[:, :kept]
    )
    rows = meant.view(-1, IMAGES).all(1).repeat_interleave(IMAGES)  # blocks that are asked whole
    fewer = dataclasses.replace(cut, asked_valid=meant & rows, slots_valid=cut.slots_valid & rows[:, None])
    names = ("asked", "asked_valid", "slots", "slots_valid", "masks", "everything")
    least = dataclasses.replace(fewer, **{name: getattr(fewer, name)[rows] for name in names})
    assert 0 < rows.sum() < len(rows)
    trainer.trainee.train()
    for larger, smaller in ((padded, cut), (fewer, least)):
        losses_of_larger = trainer.learn_eagerly(larger)
        gradients = trainer.gradients.clone()
        torch.testing.assert_close(trainer.learn_eagerly(smaller), losses_of_larger, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(trainer.gradients, gradients, atol=1e-6 * float(gradients.abs().max()), rtol=1e-4)


class _NothingAsksTheHost(TorchDispatchMode):
    """Fails on what makes a CPU wait for a GPU, and so on what no CUDA graph can hold."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal", "is_nonzero", "_unique2")

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = operator._schema.name.removeprefix("aten::")
        assert name.rstrip("_") not in self.waits, name
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            kinds = [index.dtype for index in arguments[1] if index is not None]
            assert torch.bool not in kinds, f"{name} by what is true"
        if name == "repeat_interleave":
            assert isinstance(arguments[1], int)
        return operator(*arguments, **(named or {}))


def test_a_step_asks_the_host_for_nothing(
    trainer: train.Trainer, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it make tensors of numbers that the host holds, which a GPU would have to be sent."""
    batch = build(questions, CPU.device, 168, 12, draw=np.random.default_rng(0))
    trainer.trainee.train()
    trainer.learn(batch)  # what depends on the resolution alone is made once
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("a tensor of the host's numbers"))
    with _NothingAsksTheHost():
        trainer.learn(batch)


# --- questions ------------------------------------------------------------------------------------------------------


def _kind(questions: Questions, row: int) -> str:
    return (*("words",) * WORDS, *BOXED)[row // len(questions.layouts)]


def test_what_is_asked_is_true_of_what_is_meant() -> None:
    """Phrases name what is meant, and example boxes show it; what a negative box shows is not meant."""
    questions = ask(np.random.default_rng(0), 40)
    there = [classes(layout) for layout in questions.layouts]
    absent = dict.fromkeys(("words", *BOXED), 0)
    for row, (phrase, image, wanted) in enumerate(
        zip(questions.phrase, questions.image, questions.wanted, strict=True)
    ):
        kind, text = _kind(questions, row), VOCABULARY[phrase]
        meant = {there[image][index] for index in wanted.nonzero()[0]}
        absent[kind] += not meant
        named = {(s, c) for s, c in there[image] if text in (f"{c} {s}", s, f"{c} object")}
        place = row - WORDS * len(there)
        if kind == "words":
            assert meant == named
            continue
        shown = there[questions.example[place]]
        labels, things = questions.labels[place], questions.things[place]
        positive = {shown[index] for index in things[labels == 1]}
        negative = {shown[index] for index in things[labels == 0]}
        assert (labels != BOX_PADDING_LABEL).any()
        if kind == "both":
            assert questions.example[place] == image
            assert meant == named - negative
            assert positive <= meant
        else:
            assert text == "visual"
            assert len(positive) == 1
            assert not positive & negative
            assert meant == positive & set(there[image])
            assert (questions.example[place] == image) == (kind == "boxes")
    assert absent["boxes"] == 0
    for kind in ("words", "across"):
        assert 0.15 < absent[kind] / (40 * (WORDS if kind == "words" else 1)) < 0.6


def test_questions_are_joined_block_by_block() -> None:
    several = [ask(np.random.default_rng(seed), images) for seed, images in ((0, 2), (1, 3))]
    together = join(several)
    assert len(together.layouts) == 5
    assert (together.image == np.arange(30) % 5).all()  # row r is about image r mod B
    for one, start in zip(several, (0, 2), strict=True):
        images = len(one.layouts)
        for block in range(WORDS + len(BOXED)):
            for image in range(images):
                ours, theirs = block * 5 + start + image, block * images + image
                assert together.phrase[ours] == one.phrase[theirs]
                assert (together.wanted[ours] == one.wanted[theirs]).all()
                if block >= WORDS:
                    ours, theirs = ours - WORDS * 5, theirs - WORDS * images
                    assert together.example[ours] == one.example[theirs] + start
                    assert (together.things[ours] == one.things[theirs]).all()
                    assert (together.labels[ours] == one.labels[theirs]).all()


def test_masks_are_of_rows_that_mean_something() -> None:
    questions = ask(np.random.default_rng(2), 8)
    batch = build(questions, CPU.device, 168, 12, draw=np.random.default_rng(0))
    asked, wanted = batch.asked.numpy(), questions.wanted
    assert asked.shape == (ASKED * 8,)
    assert (asked % 8 == np.arange(len(asked)) % 8).all()
    assert len(set(asked.tolist())) == len(asked)
    for image in range(8):
        means = wanted[image::8].any(1).sum()
        assert int(batch.asked_valid[image::8].sum()) == min(means, ASKED)
    assert batch.slots.shape == (len(asked), SLOTS)
    for row, slots, valid in zip(asked, batch.slots, batch.slots_valid, strict=True):
        assert len(set(slots.tolist())) == SLOTS
        assert wanted[row][slots].tolist() == valid.tolist()
        assert int(valid.sum()) == min(wanted[row].sum(), SLOTS)
    whole = build(questions, CPU.device, 168, 12)
    assert whole.asked.tolist() == list(range(len(wanted)))
    assert whole.masks.shape[1] == MOST_THINGS
    torch.testing.assert_close(whole.everything[batch.asked], batch.everything)


def test_truth_is_what_can_be_seen(questions: Questions) -> None:
    batch = build(questions, CPU.device, 336, 24, jitter=0)
    # A mask's share of the image is the share of its cells, and it lies in its box.
    for place, slot in batch.slots_valid.nonzero().tolist():
        row, thing, mask = batch.asked[place], batch.slots[place, slot], batch.masks[place, slot]
        assert batch.valid[row, thing]
        low, high = (batch.boxes[row, thing].view(2, 2) * 96).unbind()
        ys, xs = (mask > 0).nonzero().T
        assert math.floor(low[0]) == int(xs.min())
        assert math.ceil(high[0]) == int(xs.max()) + 1
        assert math.floor(low[1]) == int(ys.min())
        assert math.ceil(high[1]) == int(ys.max()) + 1
        assert float(mask.max()) <= 1 + 1e-5
    assert float(batch.pixels.min()) >= -1
    assert float(batch.pixels.max()) <= 1
    example, labels = batch.example_boxes, batch.labels
    assert (example[labels == BOX_PADDING_LABEL] == 0).all()
    assert (example[labels != BOX_PADDING_LABEL][:, 2:] > 0).all()


# --- figures ----------------------------------------------------------------------------------------------------------


def _found(scores: list[float], found: list[bool], targets: int) -> train_check._Row:
    return train_check._Row(np.array(scores), np.array(found), targets, ())


def test_average_precision_of_known_rankings() -> None:
    ap = train_check.average_precision
    assert ap([_found([0.9, 0.1], [True, False], 1)]) == 1.0
    # The one target is found second, after a false detection of another row.
    assert ap([_found([0.5], [True], 1), _found([0.9], [False], 0)]) == 0.5
    # One of two targets is found: recalls up to one half, 51 of COCO's 101.
    assert ap([_found([0.9], [True], 2)]) == pytest.approx(51 / 101)
    assert ap([_found([0.9], [False], 0)]) == 0.0


def test_a_target_is_found_once() -> None:
    iou = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.6]], np.float32)
    assert train_check._found(iou).tolist() == [True, False, True]


def test_curves_of_a_log() -> None:
    lines = [{"minutes": 1.0, "l1": 0.5, "norm": 9.0}, {"minutes": 2.0, "check": {"words_ap50": 0.25}}]
    assert train_plot.curves(lines) == (
        {"l1": ([1.0], [0.5 * WEIGHTS["l1"]])},
        {"words_ap50": ([2.0], [0.25])},
    )


# --- steps ----------------------------------------------------------------------------------------------------------


def test_small_pictures_come_first_and_every_size_to_the_end() -> None:
    assert sum(shares(0.0).values()) == pytest.approx(1)
    assert sum(shares(1.2).values()) == pytest.approx(1)
    assert shares(0.0) == {size: first for size, (first, _) in SHARES.items()}
    assert shares(SETTLED) == pytest.approx(shares(1.0))
    assert min(shares(1.0).values()) > 0.05
    drawn = [resolution_of(step, 1.0) for step in range(2000)]
    assert drawn.count(336) / 2000 == pytest.approx(shares(1.0)[336], abs=0.03)


def test_batches_have_as_many_images_as_their_size_asks_for() -> None:
    halves = (ask(np.random.default_rng(seed), 1) for seed in range(100))
    feeder = Feeder(halves, CPU.device, 14, 0, 0.0)
    for step in range(3):
        batch = feeder.take()
        size = resolution_of(step, 0.0)
        assert batch.pixels.shape == (HALVES[size], 3, size, size)
        feeder.prepare(0.0)


def test_gradients_lie_in_one_buffer(trainer: train.Trainer, batch: Batch) -> None:
    trainer.trainee.train()
    trainer.learn_eagerly(batch)
    ours = {n: p.grad.clone() for n, p in trainer.trainee.named_parameters() if p.requires_grad}
    assert len(ours) > 100
    begin, end = trainer.gradients.data_ptr(), trainer.gradients.data_ptr() + 4 * trainer.gradients.numel()
    for name, parameter in trainer.trainee.named_parameters():
        if parameter.requires_grad:
            assert begin <= parameter.grad.data_ptr() < end, name
            assert parameter.grad.stride() == parameter.stride(), name
            parameter.grad = None
    total(losses(trainer.trainee, trainer.trainee(*batch.inputs()), batch)).backward()
    for name, parameter in trainer.trainee.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_gradients_are_clipped_and_those_of_no_norm_left_out() -> None:
    one, other = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 3, 4, 4))
    other.data = other.data.to(memory_format=torch.channels_last)
    buffer = flat_gradients([one, other])
    assert other.grad is not None
    assert other.grad.is_contiguous(memory_format=torch.channels_last)
    (4 * one.sum() + 3 * other.sum()).backward()
    norm = math.sqrt(3 * 16 + 96 * 9)
    assert float(clip(buffer, 5.0)) == pytest.approx(norm)
    assert float(other.grad.mean()) == pytest.approx(3 * 5 / norm, rel=1e-4)
    assert float(clip(buffer, 100.0)) == pytest.approx(5, rel=1e-4)
    buffer[0] = torch.nan
    assert math.isnan(float(clip(buffer, 5.0)))
    assert not buffer.any()


class _Replays:
    """What stands in for a CUDA graph: all that was called while it was recorded is called again, to the same place."""

    def __init__(self) -> None:
        self.work: list[Any] = []

    def replay(self) -> None:
        for batch, result in self.work:
            result.copy_(batch.pixels.mean())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """One that believes in a GPU: the mean of a batch's pixels, by graph."""
    graphs: list[_Replays] = []

    def work(batch: Batch) -> torch.Tensor:
        result = batch.pixels.mean()
        if graphs and not graphs[-1].work:
            graphs[-1].work.append((batch, result))
        return result

    def graph() -> _Replays:
        graphs.append(_Replays())
        return graphs[-1]

    several = {"synchronize": None, "current_stream": mock.MagicMock(), "Stream": mock.MagicMock()}
    for name, value in several.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())
    recorded = Recorded(work, CPU.device)
    recorded.wanted = True
    return recorded


def test_each_shape_has_its_graph_which_sees_each_batch(recorded: Recorded, batch: Batch, questions: Questions) -> None:
    brighter = dataclasses.replace(batch, pixels=batch.pixels + 1)
    larger = build(questions, CPU.device, 224, 16)
    seen = [(given, recorded(given)) for given in (batch, brighter, larger, batch)]
    for given, value in seen:  # what was given before is not what is given now
        assert value == given.pixels.mean()
    assert len(recorded._recordings) == 2
    assert all(recorded._recordings.values())
    assert brighter.pixels.mean() != batch.pixels.mean()


def test_a_failed_recording_does_not_end_training(
    recorded: Recorded, batch: Batch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", mock.Mock(side_effect=RuntimeError("not here\nnor there")))
    for _ in range(2):
        assert recorded(batch) == batch.pixels.mean()
    told = capsys.readouterr().out
    assert told == "no CUDA graph for (3, 3, 168, 168), continues without: RuntimeError: not here\n"


def test_without_a_gpu_nothing_is_recorded(batch: Batch) -> None:
    recorded = Recorded(lambda batch: batch.pixels.mean(), CPU.device)
    assert recorded(batch) == batch.pixels.mean()
    assert not recorded._recordings


# --- state ----------------------------------------------------------------------------------------------------------


def test_a_state_goes_on_where_it_ended(trainer: train.Trainer, batch: Batch, tmp_path: Path) -> None:
    for number in range(2):
        trainer.step(batch, number, 0.0)
    write_state(tmp_path / "state", Progress(2, 30.0, 1), trainer.trainee, trainer.averaged, trainer.optimizer)
    parts = list((tmp_path / "state").glob("tensors.*"))
    assert all(part.stat().st_size <= PART for part in parts)
    assert sum(part.stat().st_size for part in parts) < 64 << 20
    again = train.Trainer(CPU, 1e-3)
    progress = read_state(tmp_path / "state", again.trainee, again.averaged, again.optimizer)
    assert progress == Progress(2, 30.0, 1)
    one, other = (t.step(batch, 2, 0.5) for t in (trainer, again))
    assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-5)
    for mine, yours in zip(trainer.trainee.parameters(), again.trainee.parameters(), strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-2)  # the moments are kept in bfloat16


def test_half_a_state_is_refused(trainer: train.Trainer, tmp_path: Path) -> None:
    write_state(tmp_path / "state", Progress(), trainer.trainee, trainer.averaged, trainer.optimizer)
    last = max((tmp_path / "state").glob("tensors.*"))
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="bytes of tensors"):
        read_state(tmp_path / "state", trainer.trainee, trainer.averaged)
    last.unlink()
    with pytest.raises(CheckpointError, match="no training state"):
        read_state(tmp_path / "state", trainer.trainee, trainer.averaged)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    assert learning_rate(1.0, 0, 0.0) == pytest.approx(1 / WARM_UP)
    assert learning_rate(1.0, WARM_UP, 0.0) == 1.0
    assert learning_rate(1.0, 10 * WARM_UP, 0.5) == pytest.approx(0.5)
    assert learning_rate(1.0, 10 * WARM_UP, 1.1) == 0.0


def test_the_average_lags_less_at_first() -> None:
    current, averaged = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(averaged.weight)
    torch.nn.init.ones_(current.weight)
    average(averaged, current, 0)
    assert float(averaged.weight.detach()) == pytest.approx(0.9)
    torch.nn.init.zeros_(averaged.weight)
    average(averaged, current, 10**6)
    assert float(averaged.weight.detach()) == pytest.approx(5e-4)


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_stretch_writes_a_checkpoint_that_transformers_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stretches of a moment each, the second going on; then the checkpoint, whose answers are the average's."""
    from transformers import Sam3Model

    run, folder = tmp_path / "run", tmp_path / "checkpoint"
    command = ["demo.train", str(run), "--images", "1", "--workers", "0", "--minutes", "0.02"]
    command += ["--total-minutes", "1", "--check-images", "2"]
    for options in ([], ["--write", str(folder)]):
        monkeypatch.setattr(sys, "argv", [*command, *options])
        train.main()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "check" in line]) == 2
    progress = json.loads((run / "state/progress.json").read_text())
    assert progress["stretch"] == 2
    assert progress["step"] >= 2

    trainee, averaged = train.new_trainee().eval(), train.new_trainee().eval()
    read_state(run / "state", trainee, averaged)
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= {
        file.name for file in folder.iterdir()
    }
    assert (folder / "model.safetensors").stat().st_size <= 12_000_000
    loaded = Sam3Model.from_pretrained(folder).eval()
    assert loaded.dtype == torch.float32
    image = torch.rand(1, 3, 336, 336) * 2 - 1
    ask_for = {"input_ids": trainee.input_ids[:1], "attention_mask": trainee.attention_mask[:1]}
    with torch.no_grad():
        ours, theirs = (model(pixel_values=image, **ask_for) for model in (averaged.sam3, loaded))
    torch.testing.assert_close(ours.pred_boxes, theirs.pred_boxes, atol=5e-3, rtol=0)
    torch.testing.assert_close(ours.pred_logits, theirs.pred_logits, atol=5e-2, rtol=0)
