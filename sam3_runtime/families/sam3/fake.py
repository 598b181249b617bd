"""What engines of the backend ``fake`` give for SAM3, made from the inputs by simple arithmetic. Shipped.

A picture's value is the mean of its pixels and a prompt's value comes from
its tokens; together they place the boxes and masks. So detections differ from picture to picture and from prompt to
prompt, and do not depend on what else is in the batch: what a test of the pipeline needs to see rows mixed up.

:func:`write_fake_variant` writes a whole variant's directory for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.files import sha256_of, write_atomically
from sam3_runtime.engines.running.base import Array
from sam3_runtime.families.base import resolve
from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL, PART_NAMES, PARTS, ModelDims, PartName, fixed_dims
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.plan.toolchain import cpu_name
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord, Sizes, TensorRecord, Toolchain, VariantConfig, Verdict

SMALL_DIMS = ModelDims(patch=14, window=8, queries=200, channels=8, text_tokens=32, image_size=112)
_DEVICE = Toolchain(backend="fake", version="1")
_FLOATS = {"float": "float32"}


def outputs(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What the fake engine of that record gives."""
    run = {
        "vision-encoder": _vision,
        "text-encoder": _text,
        "geometry-encoder": _geometry,
        "decoder": _decoder,
    }
    return run[record.part](record, feeds)


def _vision(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    images = feeds["images"]
    values = images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
    made = {spec.name: _filled(spec, values) for spec in record.outputs[:3]}
    return made | {"fpn_pos_2": np.zeros([int(size) for size in record.outputs[3].shape], np.float32)}


def _text(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    ids, mask = feeds["input_ids"], feeds["attention_mask"].astype(bool)
    places = np.arange(1, ids.shape[1] + 1)
    values = ((ids * mask * places).sum(axis=1) % 97 / 97).astype(np.float32)
    return {"text_features": _filled(record.outputs[0], values), "text_mask": mask}


def _geometry(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    boxes, valid = feeds["input_boxes"], feeds["input_boxes_labels"] != BOX_PADDING_LABEL
    weights = np.where(valid, feeds["input_boxes_labels"] + 1, 0)
    values = (boxes.sum(axis=2) * weights).sum(axis=1) + feeds["fpn_feat_2"][:, 0, 0, 0]
    tokens, channels = boxes.shape[1] + 1, int(record.outputs[0].shape[2])
    features = np.broadcast_to(values[:, None, None], (len(boxes), tokens, channels)).astype(np.float32)
    return {"geometry_features": features, "geometry_mask": np.pad(valid, ((0, 0), (0, 1)), constant_values=True)}


def _decoder(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    features, mask = feeds["prompt_features"], feeds["prompt_mask"]
    prompt = (features[:, :, 0] * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    picture = np.broadcast_to(feeds["fpn_feat_0"][:, 0, 0, 0], prompt.shape)
    rows, (_, queries, side, _) = len(prompt), (int(s) if i else 0 for i, s in enumerate(record.outputs[0].shape))
    boxes = _boxes(picture, prompt, queries)
    logits = np.linspace(4.0, -4.0, queries, dtype=np.float32)
    return {
        "pred_masks": _masks(boxes, side),
        "pred_boxes": boxes,
        "pred_logits": np.tile(logits, (rows, 1)),
        "presence_logits": np.full((rows, 1), 3.0, np.float32),
        "query_index": np.tile(np.arange(queries, dtype=np.int64)[::-1], (rows, 1)),
    }


def _filled(spec: TensorRecord, values: NDArray[np.float32]) -> Array:
    shape = [len(values), *(int(size) for size in spec.shape[1:])]
    return np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape).astype(spec.dtype)


def _boxes(picture: NDArray[np.float32], prompt: NDArray[np.float32], queries: int) -> NDArray[np.float32]:
    """xyxy from 0 to 1, [P, queries, 4]: along a diagonal that picture and prompt shift."""
    along = np.arange(queries, dtype=np.float32) / queries
    low_x = (along + np.abs(picture)[:, None]) % 1 * 0.7
    low_y = (along + np.abs(prompt)[:, None]) % 1 * 0.7
    return np.stack([low_x, low_y, low_x + 0.25, low_y + 0.2], axis=2).astype(np.float32)


def _masks(boxes: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Logits [P, queries, side, side]: positive inside an ellipse that fills the box."""
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    center, radius = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    across = ((at - center[..., :1]) / radius[..., :1]) ** 2
    down = ((at - center[..., 1:]) / radius[..., 1:]) ** 2
    return np.clip(8 * (1 - across[:, :, None, :] - down[:, :, :, None]), -12, 12).astype(np.float32)


# --- a variant's directory --------------------------------------------------------------------------------------------


def fake_record(
    part: PartName, variant: Variant, dims: ModelDims = SMALL_DIMS, checkpoint: str = "0" * 64
) -> EngineRecord:
    """The record of a fake engine, without the digest and size of its file."""
    table = PARTS[part]
    on = set(table.depends_on)
    values = fixed_dims(dims, variant["resolution"], variant["queries"])

    def tensors(kind: str) -> tuple[TensorRecord, ...]:
        specs = getattr(table, kind)
        return tuple(
            TensorRecord(name=s.name, shape=resolve(s.shape, values), dtype=_FLOATS.get(s.dtype, s.dtype))
            for s in specs
        )

    ranges = SAM3.profile(table, dims, variant.batch)
    return EngineRecord(
        part=part,
        graph=part,
        sha256="",
        onnx_sha256="0" * 64,
        checkpoint_digest=checkpoint,
        backend="fake",
        precision="fp32",
        quantize=variant.quantize if "quantize" in on and variant.quantize != "none" else None,
        dims=dims.to_dict(),
        axes={axis: value if axis in on else None for axis, value in variant.axes.items()},
        inputs=tensors("inputs"),
        outputs=tensors("outputs"),
        profile={symbol: (known.min, known.opt, known.max) for symbol, known in ranges.items()},
        sizes=Sizes(file=0),
        build_seconds=0.0,
        command="",
        toolchain=_DEVICE,
        settings={},
        cache_key="",
    )


def write_fake_variant(
    directory: Path, variant: Variant | None = None, dims: ModelDims = SMALL_DIMS, *, verdict: bool = True
) -> Variant:
    """Write a variant's whole directory for the fake backend: engines, records, config, tokenizer and verdict.

    ``directory`` is best named after ``variant`` (by default batch 4, 20 queries, the resolution of ``dims``).
    """
    variant = variant or Variant((4, 20, dims.image_size))
    digests = {}
    for part in PART_NAMES:
        path = directory / f"{part}.engine"
        write_atomically(path, f"fake {part} of {variant.name}\n".encode())
        digests[part] = sha256_of(path)
        found = {"sha256": digests[part], "sizes": Sizes(file=path.stat().st_size)}
        fake_record(part, variant, dims).model_copy(update=found).write(directory / f"{part}.engine.json")
    write_atomically(directory / "tokenizer.json", small_tokenizer().encode())
    config_of(variant, dims, sha256_of(directory / "tokenizer.json")).write(directory / "config.json")
    if verdict:
        verdict_of(variant, digests).write(directory / "verify.json")
    return variant


def config_of(variant: Variant, dims: ModelDims, tokenizer_sha256: str) -> VariantConfig:
    return VariantConfig(
        variant=variant.name,
        axes=dict(variant.axes),
        quantize=None if variant.quantize == "none" else variant.quantize,
        backend="fake",
        dims=dims.to_dict(),
        checkpoint="fake",
        revision=None,
        commit=None,
        checkpoint_digest="0" * 64,
        assets={"tokenizer.json": tokenizer_sha256},
        notice=SAM3.notice,
    ).sealed()


def verdict_of(variant: Variant, digests: dict[PartName, str]) -> Verdict:
    return Verdict(
        variant=variant.name,
        status="passed",
        reason="fake engines agree with themselves",
        engines={str(part): digest for part, digest in digests.items()},
        reference_sha256="0" * 64,
        gate={},
        device=cpu_name(),
    )


def small_tokenizer() -> str:
    """The JSON of a tokenizer with CLIP's frame (<|startoftext|> … <|endoftext|>) whose tokens are single letters."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = {chr(code): code - 31 for code in range(33, 127)}  # without holes, behind the two ends
    ends = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    made = Tokenizer(models.WordLevel({**ends, **letters}, unk_token="<|endoftext|>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=list(ends.items())
    )
    return str(made.to_str())
