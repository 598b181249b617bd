"""One JSON with the verdict and the measurement of a variant, for users with other hardware to send back.

Verifies, then measures, through the functions that the workflow uses. The file names no path, host or user.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sam3_runtime import __version__
from sam3_runtime.core.errors import CannotRunHere, EngineError
from sam3_runtime.deploy.configure import read_records
from sam3_runtime.deploy.pack import reference_path
from sam3_runtime.families import runtime
from sam3_runtime.measure.benchmark import benchmark
from sam3_runtime.measure.verify import verify_here
from sam3_runtime.plan.settings import sections_of
from sam3_runtime.plan.toolchain import device_name, why_not_run
from sam3_runtime.records.measurements import BenchResult, Measured, facts_of
from sam3_runtime.records.memory import predict
from sam3_runtime.records.records import VariantConfig

_OF_VERDICT = {"variant", "status", "reason", "checks", "detections", "found", "accuracy"}


class Shared(Measured):
    """A variant that was measured, and the version of this package that did it."""

    sam3_runtime: str
    bench: BenchResult


def measure(directory: Path, source: Sequence[str], prompts: Sequence[str], cameras: Sequence[int]) -> Shared:
    """Verify and measure the variant in ``directory`` on this machine, and write its verdict beside its engines.

    What is left empty is as in `bench:`, and the images are those of the reference, which the archive contains.
    Raises :class:`EngineError` where the engines do not run.
    """
    config = VariantConfig.read(directory / "config.json")
    records = read_records(directory, config.spec.parts)
    reason = why_not_run(config.backend)
    if reason:
        raise CannotRunHere(reason, f"take it to the machine that runs it: sam3-runtime pack {directory} out.tar")
    verdict = verify_here(directory)
    if verdict.status not in ("passed", "rejected"):
        raise EngineError(f"{config.variant} does not run here: {verdict.reason}")
    given = {"source": list(source), "prompts": list(prompts), "cameras": list(cameras)}
    known = sections_of(config.family)["bench"]().model_dump()
    settings = known | {key: value for key, value in given.items() if value and key in known}
    settings["device"] = device_name(next(iter(records.values())).toolchain)
    reference = reference_path(directory, config.resolution)
    images = None if source else runtime(config.family).reference_images(reference)
    return Shared(
        **verdict.model_dump(include=_OF_VERDICT),
        sam3_runtime=__version__,
        predicted=predict(records),
        engines=facts_of(dict(records)),
        bench=benchmark(directory, settings, images),
    )
