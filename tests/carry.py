"""What the code of each kind of job was when today's folders were built, and what it is now.

    python -m tests.carry

writes ``sam3_runtime/plan/carried_code.py`` after code was moved. Where an edit was meant to make something due again,
take its kind out of :data:`BEFORE` instead.
"""

from __future__ import annotations

import re
from pathlib import Path

from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.families.sam3.parts import PARTS
from sam3_runtime.plan import carried_code
from sam3_runtime.plan.code_digest import digest_now

SCRIPTS = Path(__file__).resolve().parent.parent / "workflow_scripts"
BEFORE = {
    "export text": "0c1ca61e5ebb2375",
    "export vision": "cd2acaa8d413ce61",
    "export geometry": "4821ee95e95b1ef9",
    "export decoder": "a0171193159096ce",
    "copy_tokenizer": "1e862a10175f025f",
    "compute_reference": "250de5520dd5d572",
    "compute_accuracy": "a9930d35853f210b",
    "measure_scales": "2f487d8f57d225aa",
    "quantize_graph": "e6be3dda1458709b",
    "configure_variant": "49fb00ebb9d8a7fc",
    "build onnxruntime": "f01c6be5eaeb0975",
    "build tensorrt-rtx": "e39e7b4093b4b512",
    "build tensorrt": "f20338714e2d52b6",
    "build tensorrt calibrator": "39b33f63da320cdd",
    "calibrate tensorrt": "2f44ac63fa26e31d",
}
"""Digest by kind, at 2b0f8d3. Verdicts and measurements are not among them: they are of code that runs."""


def jobs() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Script and modules by kind, as the rules name them."""
    parts = {name.removesuffix("-encoder"): ("export_graph", part.code) for name, part in PARTS.items()}
    code = "families/sam3/export"
    alone = {
        "copy_tokenizer": ("copy_asset", (f"{code}/checkpoint",)),
        "compute_reference": ("compute_reference", (f"{code}/reference",)),
        "compute_accuracy": ("compute_accuracy", (f"{code}/accuracy",)),
        "measure_scales": ("measure_scales", PARTS["vision-encoder"].code),
        "quantize_graph": ("quantize_graph", ()),
    }
    builds = {name: BACKENDS[name].build_code for name in ("onnxruntime", "tensorrt", "tensorrt-rtx")}
    scales = (*builds["tensorrt"], "quantize/calibration_cache")
    return {
        **{f"export {part}": job for part, job in parts.items()},
        **alone,
        "configure_variant": ("configure_variant", ("deploy/configure",)),
        **{f"build {name}": ("build_engine", code) for name, code in builds.items()},
        "build tensorrt calibrator": ("build_engine", scales),
        "calibrate tensorrt": ("calibrate_graph", scales),
    }


def now() -> dict[str, str]:
    return {kind: digest_now(SCRIPTS / f"{script}.py", *code) for kind, (script, code) in jobs().items()}


def carried() -> dict[str, str]:
    """The table that :mod:`sam3_runtime.plan.carried_code` should have."""
    return {digest: BEFORE[kind] for kind, digest in now().items() if kind in BEFORE and digest != BEFORE[kind]}


if __name__ == "__main__":
    path = Path(carried_code.__file__)
    rows = "".join(f'    "{new}": "{old}",\n' for new, old in sorted(carried().items()))
    table = f"CARRIED: dict[str, str] = {{\n{rows}}}\n" if rows else "CARRIED: dict[str, str] = {}\n"
    path.write_text(re.sub(r"^CARRIED: .*", lambda _: table, path.read_text(), flags=re.DOTALL | re.MULTILINE))
