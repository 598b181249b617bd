"""What ``sam3-runtime info``, ``verify`` and ``doctor`` print for people: variants, banks, verdicts, and what a machine
has.

Knows what :mod:`sam3_runtime.deploy.overview` and :mod:`sam3_runtime.cli.doctor` return, and verdicts; reads nothing
else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sam3_runtime.core.wording import counted
from sam3_runtime.measure.memory import smallest_card
from sam3_runtime.records.records import Verdict
from sam3_runtime.report.comparisons import precision_used


def print_bank(console: Console, path: Path, as_json: bool) -> None:
    from sam3_runtime.cli.bank import bank_origin, bank_table
    from sam3_runtime.families.sam3.banks import load_bank

    bank = load_bank(path)
    if as_json:
        print(bank.record.model_dump_json(indent=2))
    else:
        console.print(bank_origin(bank), markup=False, highlight=False)
        console.print(bank_table(bank))


def print_variant(console: Console, found: dict[str, Any]) -> None:
    config = found["config"]
    console.print(f"[bold]{_name(found)}[/bold]: {found['status']}: {escape(found['reason'])}")
    commit = f" {config['commit']}" if config["commit"] else ""
    console.print(f"checkpoint {config['checkpoint']}{commit} ({config['checkpoint_digest'][:12]})")
    table = Table("part", "graph", "asked for", "MiB", "built in s", "profile", "sha256")
    for part, engine in found["engines"].items():
        profile = " ".join(f"{symbol}={low}..{high}" for symbol, (low, _, high) in engine["profile"].items())
        precision = engine["quantize"] or engine["precision"]
        size = f"{engine['sizes']['file'] / (1 << 20):.1f}"
        table.add_row(
            part, engine["graph"], precision, size, f"{engine['build_seconds']:.1f}", profile, engine["sha256"][:12]
        )
    console.print(table)
    for part, engine in found["engines"].items():
        if used := precision_used(engine):
            console.print(f"{part} runs in {used}", highlight=False)
    toolchain = next(iter(found["engines"].values()))["toolchain"]
    console.print(f"built with {toolchain['backend']} {toolchain['version']} on {toolchain['gpu'] or 'the CPU'}")
    if found["memory"]:
        _print_memory(console, found["memory"])


def _name(found: dict[str, Any]) -> str:
    """The variant's name, and its folder's where that is another: a deployed copy, or a link."""
    renamed = found["folder"] != found["variant"]
    return f"{found['variant']} (in {escape(found['folder'])})" if renamed else str(found["variant"])


def _print_memory(console: Console, memory: dict[str, Any]) -> None:
    """Predicted device memory, with and without the text encoder."""
    table = Table("predicted MiB on the GPU", "weights", "scratch", "buffers", "together", "fits in")
    for label, key in (("all four engines", "with_text"), ("text encoder released", "without_text")):
        sizes = memory[key]
        numbers = (f"{sizes[f'{name}_mib']:.1f}" for name in ("weights", "scratch", "buffers", "total"))
        table.add_row(label, *numbers, smallest_card(sizes["fits_gb"]))
    console.print(table)
    console.print(f"a CUDA context of {memory['assumed_cuda_context_mib']} MiB is assumed beside it; not measured")


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Every check, and the detections of each prompt beside those that float32 PyTorch keeps."""
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
        console.print("counted in every call of the decoder: each alone and, with a batch above 1, in two full batches")
    console.print(f"{verdict.variant}: [bold]{verdict.status}[/bold]: {escape(verdict.reason)}", highlight=False)


def print_overview(console: Console, found: dict[str, Any]) -> None:
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
    console.print(
        f"{counted(found['distinct_engines'], 'engine')}, {found['stored_mib']} MiB; "
        f"sharing saved {found['saved_by_sharing_mib']} MiB"
    )


def print_findings(console: Console, found: dict[str, Any]) -> None:
    for one in found["findings"]:
        colour = {"ok": "green", "warning": "yellow"}.get(one["state"], "red" if one["needed"] else "dim")
        line = f"[{colour}]{one['state']:8}[/{colour}] {one['name']:16} {escape(one['said'])}"
        console.print(line, highlight=False)
        if one["hint"]:
            console.print(f"{'':25} Hint: {escape(one['hint'])}", highlight=False)
    ready = "ready" if found["ready"] else "not ready: what is missing above is needed"
    console.print(f"{found['backend'] or 'without variants.yaml'}: {ready}")
