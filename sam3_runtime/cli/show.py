"""The output of ``sam3-runtime info``, ``verify`` and ``doctor`` for people: variants, banks, verdicts, machines.

Formats the results of :mod:`sam3_runtime.deploy.overview` and :mod:`sam3_runtime.cli.doctor`, and verdicts; reads no
file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sam3_runtime.core.wording import counted
from sam3_runtime.records.memory import MIB, smallest_card
from sam3_runtime.records.records import Verdict
from sam3_runtime.report.eight_bit import precision_used


def print_bank(console: Console, path: Path, as_json: bool) -> None:
    """Print the origin and the classes of the bank in ``path``."""
    from sam3_runtime.cli.bank import bank_origin, bank_table
    from sam3_runtime.families.sam3.banks import load_bank

    bank = load_bank(path)
    if as_json:
        print(bank.record.model_dump_json(indent=2))
    else:
        console.print(bank_origin(bank), markup=False, highlight=False)
        console.print(bank_table(bank))


def print_variant(console: Console, found: dict[str, Any]) -> None:
    """Print one variant, from :func:`sam3_runtime.deploy.overview.describe`."""
    config = found["config"]
    console.print(f"[bold]{_name(found)}[/bold]: {found['status']}: {escape(found['reason'])}")
    commit = f" {config['commit']}" if config["commit"] else ""
    console.print(f"checkpoint {config['checkpoint']}{commit} ({config['checkpoint_digest'][:12]})")
    table = Table("part", "graph", "precision", "MiB", "built in s", "profile", "sha256")
    for part, engine in found["engines"].items():
        profile = " ".join(f"{symbol}={low}..{high}" for symbol, (low, _, high) in engine["profile"].items())
        table.add_row(
            part, engine["graph"], engine["quantize"] or engine["precision"], f"{engine['sizes']['file'] / MIB:.1f}",
            f"{engine['build_seconds']:.1f}", profile, engine["sha256"][:12],
        )  # fmt: skip
    console.print(table)
    for part, engine in found["engines"].items():
        if used := precision_used(engine):
            console.print(f"{part} runs in {used}", highlight=False)
    toolchain = next(iter(found["engines"].values()))["toolchain"]
    console.print(f"built with {toolchain['backend']} {toolchain['version']} on {toolchain['gpu'] or 'the CPU'}")
    if found["memory"]:
        _print_memory(console, found["memory"])


def _name(found: dict[str, Any]) -> str:
    """Return the variant's name, and its folder's if that differs, as for a deployed copy or a link."""
    renamed = found["folder"] != found["variant"]
    return f"{found['variant']} (in {escape(found['folder'])})" if renamed else str(found["variant"])


def _print_memory(console: Console, memory: dict[str, Any]) -> None:
    """Predicted device memory, with and without the text encoder."""
    table = Table("predicted MiB on the GPU", "weights", "scratch", "buffers", "total", "fits in")
    for label, key in (("all four engines", "with_text"), ("text encoder released", "without_text")):
        sizes = memory[key]
        numbers = (f"{sizes[f'{name}_mib']:.1f}" for name in ("weights", "scratch", "buffers", "total"))
        table.add_row(label, *numbers, smallest_card(sizes["fits_gb"]))
    console.print(table)
    console.print(f"plus an assumed CUDA context of {memory['assumed_cuda_context_mib']} MiB (not measured)")


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print every check, and the detections of each prompt compared with those of float32 PyTorch."""
    table = Table("check", "value", "limit")
    for check in verdict.checks:
        mark = "" if check.passed else "[red]"
        table.add_row(f"{mark}{check.name}", f"{mark}{check.value:.6g}", f"{mark}{check.sense} {check.limit:g}")
    console.print(table)
    if verdict.by_prompt:
        table = Table("detections of", "found", "expected", "in common")
        for prompt, counts in verdict.by_prompt.items():
            table.add_row(escape(prompt), str(counts.found), str(counts.expected), str(counts.agreed))
        agreed = sum(counts.agreed for counts in verdict.by_prompt.values())
        table.add_section()
        table.add_row("all", str(verdict.found), str(verdict.detections), str(agreed))
        console.print(table)
        console.print("summed over all decoder calls: single images and, if the batch is above 1, two full batches")
    console.print(f"{verdict.variant}: [bold]{verdict.status}[/bold]: {escape(verdict.reason)}", highlight=False)


def print_overview(console: Console, found: dict[str, Any]) -> None:
    """Print a row per variant, from :func:`sam3_runtime.deploy.overview.overview`."""
    predicted = any(variant["memory"] for variant in found["variants"])
    table = Table("variant", "status", "MiB", *(("predicted VRAM", "fits in") if predicted else ()), "reason")
    for variant in found["variants"]:
        sizes = (variant["memory"] or {}).get("with_text")
        memory = (f"{sizes['total_mib']:.0f}", smallest_card(sizes["fits_gb"])) if sizes else ("", "")
        table.add_row(
            _name(variant), variant["status"], f"{variant['total_mib']:.1f}", *(memory if predicted else ()),
            escape(variant["reason"]),
        )  # fmt: skip
    console.print(table)
    engines = counted(found["distinct_engines"], "engine")
    console.print(f"{engines}, {found['stored_mib']} MiB; sharing saved {found['saved_by_sharing_mib']} MiB")


def print_findings(console: Console, found: dict[str, Any]) -> None:
    """Print a line per requirement, from :func:`sam3_runtime.cli.doctor.examine`."""
    for one in found["findings"]:
        colour = {"ok": "green", "warning": "yellow"}.get(one["state"], "red" if one["needed"] else "dim")
        hint = f"\n{'':25} Hint: {escape(one['hint'])}" if one["hint"] else ""
        line = f"[{colour}]{one['state']:8}[/{colour}] {one['name']:16} {escape(one['said'])}{hint}"
        console.print(line, highlight=False)
    ready = "ready" if found["ready"] else "not ready: what is missing above is needed"
    console.print(f"{found['backend'] or 'without variants.yaml'}: {ready}")
