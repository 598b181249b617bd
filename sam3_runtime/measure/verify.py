"""The accuracy gate: compares a variant's engines with what float32 PyTorch said about real photographs, and, where
there is a data set, its accuracy with the reference's.

The family compares (``runtime.py``), with the reference file alone: neither PyTorch nor the checkpoint is needed, so a
machine that only runs can verify too. A verdict is a result, not an exception: ``passed``, ``rejected`` (ran, but
beyond a limit), ``failed`` (did not run) or ``unverified`` (built for another machine than this one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from sam3_runtime.core.errors import CannotRunHere, RecordError, Sam3Error
from sam3_runtime.core.files import sha256_of
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
    """Judge the variant in ``directory``. Engines that do not load or run give the verdict ``failed``, which is about
    this moment and the files that are there; sound ones that were built for another machine, ``unverified``.

    ``gate`` has the fields of the family's limits; ``device`` is what the engines run on, and
    ``accuracy`` what the reference reaches on a data set, where that is part of the gate. Raises :class:`RecordError`
    where there is nothing to judge: no records, no configuration, no reference or one that does not fit.
    """
    config = VariantConfig.read(directory / "config.json")
    check_name(directory, config)
    records = read_records(directory, config.spec.parts)
    family = runtime(config.family)
    wanted = family.read_reference(reference, config)
    reached = family.read_accuracy(accuracy, config) if accuracy else None
    digests = {part: record.sha256 for part, record in records.items()}
    more: dict[str, Any] = {}
    try:
        with load(directory) as model:
            device = model.device.name
            judged = family.judge(model, wanted, gate)
            checks = judged.checks
            if accuracy:
                measured, losses = family.judge_accuracy(model, reached, gate)
                checks += tuple(losses)
                more = {"accuracy": measured, "accuracy_sha256": sha256_of(accuracy)}
        status, reason = _verdict_of(judged.passed, checks)
    except CannotRunHere as error:
        return _verdict(config, digests, reference, gate, device, status="unverified", reason=error.message)
    except Sam3Error as error:
        there = {part: path for part in digests if (path := directory / f"{part}.engine").is_file()}
        tried = {part: sha256_of(path) for part, path in there.items()}
        return _verdict(config, tried, reference, gate, device, status="failed", reason=str(error))
    more |= {"status": status, "reason": reason, "checks": checks, "errors": judged.errors, "cases": judged.cases}
    return _verdict(config, digests, reference, gate, device, **more, **judged.counts)


def _verdict(
    config: VariantConfig,
    engines: Mapping[str, str],
    reference: Path,
    gate: Mapping[str, float],
    device: str,
    **judged: Any,
) -> Verdict:
    return Verdict(
        variant=config.variant,
        engines=dict(engines),
        reference_sha256=sha256_of(reference),
        gate=dict(gate),
        device=device,
        **judged,
    )


def verify_here(directory: Path, reference: Path | None = None, announce: Callable[[str], None] = print) -> Verdict:
    """Judge a variant on this machine, by the limits of its own verdict, and write the new one beside its engines.

    A machine that cannot run them has nothing to say against a verdict that is there: that one stays. ``announce``
    gets a line where the folder cannot be written to: the verdict is then known to the caller alone.
    """
    config = VariantConfig.read(directory / "config.json")
    known = None
    sections = sections_of(config.family)["gate"]()
    gate = (sections.float if config.quantize is None else getattr(sections, config.quantize)).model_dump()
    with suppress(RecordError):
        known = Verdict.read(directory / "verify.json")
        gate |= known.gate
    records = read_records(directory, config.spec.parts)
    verdict = verify(
        directory,
        reference or reference_path(directory, config.resolution),
        gate,
        device_name(next(iter(records.values())).toolchain),
        accuracy_path(directory, config.resolution),
    )
    if known is None or verdict.status != "unverified":
        try:
            verdict.write(directory / "verify.json")
        except OSError as error:
            announce(f"the verdict is not kept: {directory} cannot be written to ({error.strerror})")
    return verdict
