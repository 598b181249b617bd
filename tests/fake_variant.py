"""Writes the folder of a SAM3 variant for the backend ``fake``: engines, records, tokenizer and verdict."""

from __future__ import annotations

from pathlib import Path

from sam3_runtime.core.files import sha256_of, write_atomically
from sam3_runtime.families.base import resolve
from sam3_runtime.families.sam3.parts import PART_NAMES, PARTS, ModelDims, PartName, fixed_dims
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.plan.toolchain import cpu_name
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord, Sizes, TensorRecord, Toolchain, VariantConfig, Verdict

SMALL_DIMS = ModelDims(patch=14, window=8, queries=200, channels=8, text_tokens=32, image_size=112)
_DEVICE = Toolchain(backend="fake", version="1")
_FLOATS = {"float": "float32"}


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
