"""The accuracy gate: compares a variant's engines with float32 PyTorch.

It compares results on real photographs, and, where there is a data set, the accuracy with the reference's.

The family compares (``runtime.py``), with the reference file alone: neither PyTorch nor the checkpoint is needed. A
verdict is a result, not an exception: ``passed``, ``rejected`` (ran, but beyond a limit), ``failed`` (did not run) or
``unverified`` (built for another machine).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from sam3_runtime.core.errors import CannotRunHere, RecordError, Sam3Error
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.sections import limits_of
from sam3_runtime.core.wording import counted
from sam3_runtime.deploy.configure import check_name, read_records
from sam3_runtime.deploy.loading import load
from sam3_runtime.deploy.pack import accuracy_path, reference_path
from sam3_runtime.families import runtime
from sam3_runtime.plan.settings import sections_of
from sam3_runtime.plan.toolchain import device_name
from sam3_runtime.records.records import Check, VariantConfig, Verdict


def _verdict_of(passed: str, checks: tuple[Check, ...]) -> tuple[Literal["passed", "rejected"], str]:
    missed = [check for check in checks if not check.passed]
    if not missed:
        return "passed", f"{passed}; {counted(len(checks), 'check')}"
    listed = "; ".join(f"{check.name} {check.value:.4g}, {check.sense} {check.limit:g}" for check in missed)
    return "rejected", listed


def verify(
    directory: Path, reference: Path, gate: Mapping[str, float], device: str, accuracy: Path | None = None
) -> Verdict:
    """Compare the variant in ``directory`` with its reference.

    Engines that do not load or run give the verdict ``failed``, sound ones that were built for another machine
    ``unverified``.

    ``gate`` has the family's limits by name; ``device`` is the name of what the engines run on, and ``accuracy`` the
    reference's accuracy on a data set, where that is part of the gate. Raises :class:`RecordError` where there is
    nothing to compare: no records, no configuration, no reference or one that does not fit.
    """
    config = VariantConfig.read(directory / "config.json")
    check_name(directory, config)
    records = read_records(directory, config.spec.parts)
    family = runtime(config.family)
    wanted = family.read_reference(reference, config)
    reached = family.read_accuracy(accuracy, config) if accuracy else None
    engines = {part: record.sha256 for part, record in records.items()}
    found: dict[str, Any] = {}
    try:
        with load(directory) as model:
            device = model.device.name
            judged = family.judge(model, wanted, gate)
            checks = judged.checks
            if accuracy:
                found["accuracy"], losses = family.judge_accuracy(model, reached, gate)
                found["accuracy_sha256"] = sha256_of(accuracy)
                checks += tuple(losses)
        status, reason = _verdict_of(judged.passed, checks)
        found |= {"status": status, "reason": reason, "checks": checks, "errors": judged.errors, "cases": judged.cases}
        found |= judged.counts
    except CannotRunHere as error:
        found = {"status": "unverified", "reason": error.message}
    except Sam3Error as error:
        found = {"status": "failed", "reason": str(error)}
        there = {part: path for part in engines if (path := directory / f"{part}.engine").is_file()}
        engines = {part: sha256_of(path) for part, path in there.items()}
    return Verdict(
        variant=config.variant,
        engines=engines,
        reference_sha256=sha256_of(reference),
        gate=dict(gate),
        device=device,
        **found,
    )


def verify_here(directory: Path, reference: Path | None = None, announce: Callable[[str], None] = print) -> Verdict:
    """Verify a variant on this machine, by the limits of its own verdict, and write the new one beside its engines.

    A verdict that is there stays where this machine cannot run the engines. ``announce`` gets a message where the
    folder cannot be written to: then only the caller gets the verdict. Raises :class:`RecordError` as :func:`verify`.
    """
    config = VariantConfig.read(directory / "config.json")
    known = None
    gate = limits_of(sections_of(config.family)["gate"](), config.quantize)
    with suppress(RecordError):
        known = Verdict.read(directory / "verify.json")
        gate |= known.gate
    records = read_records(directory, config.spec.parts)
    device = device_name(next(iter(records.values())).toolchain)
    reference = reference or reference_path(directory, config.resolution)
    verdict = verify(directory, reference, gate, device, accuracy_path(directory, config.resolution))
    if known is None or verdict.status != "unverified":
        try:
            verdict.write(directory / "verify.json")
        except OSError as error:
            announce(f"the verdict is not stored: {directory} cannot be written to ({error.strerror})")
    return verdict
