"""The command ``sam3-runtime``. Each subcommand unpacks its arguments, calls one function and prints what it returns.

A :class:`Sam3Error` ends it with the message alone and exit code 1; heavy libraries are imported by the subcommand
that needs them.
"""

from __future__ import annotations

import io
import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from sam3_runtime import __version__
from sam3_runtime.cli.show import print_bank, print_findings, print_overview, print_variant, print_verdict
from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.core.wording import counted
from sam3_runtime.measure.memory import MIB

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Detect with engine variants of SAM3, and measure, inspect and pack them. They are built by: snakemake",
)
console = Console(soft_wrap=True)


class Prompts(str, Enum):
    words = "words"
    boxes = "boxes"


Variant = Annotated[Path, typer.Argument(help="A variant's folder, such as engines/b8_q50_r672.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
WorkFolder = Annotated[Path, typer.Option("--directory", "-d", help="The work folder.")]


@app.command()
def info(
    directory: Annotated[Path, typer.Argument(help="A variant's folder, the folder of all, or a bank (.npz).")],
    as_json: AsJson = False,
) -> None:
    """Say what a variant or a bank is, or list all variants and what sharing their engines saved."""
    from sam3_runtime.deploy.overview import describe, overview

    if directory.suffix == ".npz" and not directory.is_dir():
        print_bank(console, directory, as_json)
        return
    if not directory.is_dir():
        raise Sam3Error(f"{directory} is no folder", "name a variant's folder, such as engines/b8_q50_r672")
    single = (directory / "config.json").exists()
    found = describe(directory) if single else overview(directory)
    if as_json:
        print(json.dumps(found, indent=2))
    elif single:
        print_variant(console, found)
    else:
        print_overview(console, found)


@app.command()
def infer(
    engines: Annotated[Path, typer.Option(help="A variant's folder, such as engines/b8_q50_r672.")],
    images: Annotated[list[str] | None, typer.Option(help="A picture, folder or glob; may be repeated.")] = None,
    video: Annotated[str | None, typer.Option(help="A video file.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to find, in words; may be repeated.")] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="An example box x0,y0,x1,y1 in pixels; :0 for a counter-example. The same box on every picture and "
            "frame: on a video it follows nothing (for that: stream --track, with the box in a project file)."
        ),
    ] = None,
    conf: Annotated[
        float | None, typer.Option(help="Score that a detection must exceed; 0.3 by default.", min=0, max=1)
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="Keep this many best of each prompt, whatever their score.", min=1)
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Stop the video after this many frames.", min=1)] = None,
    output: Annotated[Path, typer.Option(help="Where results are written.")] = Path("out"),
    threads: Annotated[int | None, typer.Option(help="Threads of ONNX Runtime; all cores by default.", min=1)] = None,
) -> None:
    """Detect on pictures and a video: annotated copies, and one JSON line a picture with boxes, scores and masks. A
    classifier says the best classes of each picture instead."""
    summary = _runtime_of(engines).infer(
        engines, images=images or [], video=video, prompts=prompt or [], boxes=box or [],
        conf=conf, top=top, frames=frames, output=output, threads=threads,
    )  # fmt: skip
    for line in summary.lines():
        console.print(line, markup=False, highlight=False)
    raise typer.Exit(summary.exit_code)


def _runtime_of(directory: Path) -> Any:
    """What runs the engines of a variant's family."""
    from sam3_runtime.deploy.configure import read_config
    from sam3_runtime.families import runtime

    return runtime(read_config(directory).family)


@app.command()
def extract(
    project: Annotated[Path, typer.Argument(help="The project file (YAML) that names the classes.")],
    engines: Annotated[Path, typer.Option(help="A variant's folder, such as engines/b8_q50_r672.")],
    output: Annotated[Path, typer.Option(help="The bank to write.")] = Path("bank.npz"),
    threads: Annotated[int | None, typer.Option(help="Threads of ONNX Runtime; all cores by default.", min=1)] = None,
) -> None:
    """Encode the classes of a project once: what then runs needs neither the text nor the geometry encoder."""
    from sam3_runtime.cli.bank import extract_bank

    for line in extract_bank(project, engines, output, threads):
        console.print(line, markup=False, highlight=False)


@app.command()
def stream(
    engines: Annotated[Path, typer.Option(help="A variant's folder, such as engines/b8_q50_r672.")],
    source: Annotated[
        list[str],
        typer.Option(help="A video, picture, folder, glob, frames_%05d.png, camera:0 or address; may be repeated."),
    ],
    project: Annotated[Path | None, typer.Argument(help="The project file that names the classes.")] = None,
    bank: Annotated[Path | None, typer.Option(help="The classes as a bank; see sam3-runtime extract.")] = None,
    cameras: Annotated[
        int | None, typer.Option(help="Take the given files again and again to stand for this many cameras.", min=1)
    ] = None,
    track: Annotated[bool, typer.Option("--track", help="Give detections an identity through time.")] = False,
    output: Annotated[Path, typer.Option(help="Where results are written.")] = Path("out"),
    save: Annotated[
        str, typer.Option(help="What is written, with commas: video, images, jsonl, coco; none of it when empty.")
    ] = "video,jsonl",
    frames: Annotated[int | None, typer.Option(help="End each source after this many frames.", min=1)] = None,
    fps: Annotated[float, typer.Option(help="Frames a second that pictures stand for.", min=0.1, max=1000)] = 25.0,
    top: Annotated[
        int | None, typer.Option(help="Keep this many best of each class, whatever their score.", min=1)
    ] = None,
    stall: Annotated[
        float, typer.Option(help="Seconds without a frame after which a live source counts as failed.", min=0.1)
    ] = 10.0,
    attempts: Annotated[
        int | None,
        typer.Option(help="Give a live source up after so many failures in a row; never by default.", min=1),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of ONNX Runtime; all cores by default.", min=1)] = None,
) -> None:
    """Detect on videos, pictures and cameras, several at once: annotated video, JSON Lines, COCO, and a summary."""
    from sam3_runtime.cli.stream import parse_kinds, run_stream
    from sam3_runtime.streams.readers import LiveSettings

    classes = _one_of(project, bank)
    outcome = run_stream(
        engines, classes, source, cameras=cameras, fps=fps, track=track, frames=frames, save=parse_kinds(save),
        output=output, threads=threads, top=top, live=LiveSettings(stall=stall, attempts=attempts),
    )  # fmt: skip
    console.print(outcome.table())
    for line in outcome.lines():
        console.print(line, markup=False, highlight=False)
    raise typer.Exit(outcome.exit_code)


def _one_of(project: Path | None, bank: Path | None) -> Path:
    given = [one for one in (project, bank) if one is not None]
    if len(given) != 1:
        raise Sam3Error("classes come from one file", "name a project file, such as shop.yaml, or --bank shop.npz")
    return given[0]


@app.command()
def verify(
    directory: Variant,
    reference: Annotated[Path | None, typer.Option(help="The reference; found by itself where it was packed.")] = None,
) -> None:
    """Compare a variant with the float32 reference on this machine, and write its verdict."""
    from sam3_runtime.measure.verify import verify_here

    verdict = verify_here(directory, reference)
    print_verdict(console, verdict)
    if verdict.status != "passed":
        raise typer.Exit(1)


@app.command()
def evaluate(
    directory: Variant,
    annotations: Annotated[
        Path, typer.Argument(help="The data set: COCO JSON whose categories are phrases; a classifier's folder.")
    ],
    images: Annotated[
        Path | None, typer.Option(help="The folder of its pictures; that of the annotations by default.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Score that counts as found, for cgF1 and false alarms.", min=0, max=1)
    ] = 0.5,
    limit: Annotated[int | None, typer.Option(help="Take the first pictures only.", min=1)] = None,
    prompts: Annotated[Prompts, typer.Option(help="Ask in words, or by one example box.")] = Prompts.words,
    all_categories: Annotated[
        bool, typer.Option("--all-categories", help="Ask every category of every picture that does not say.")
    ] = False,
    relative_areas: Annotated[
        bool, typer.Option("--relative-areas", help="Small and large as shares of the picture, not in COCO's pixels.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="A JSON file of the result; it names no path or host.")] = None,
    detections: Annotated[Path | None, typer.Option(help="A JSON file of all answers, as COCO results.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of ONNX Runtime; all cores by default.", min=1)] = None,
) -> None:
    """Measure a variant on a data set in COCO's format: AP of boxes and masks, cgF1, false alarms. A classifier on a
    folder with one of pictures for each class: top-1 and top-5 accuracy."""
    found = _runtime_of(directory).evaluate(
        directory, annotations, images=images, threshold=threshold, limit=limit, prompts=prompts.value,
        all_categories=all_categories, areas="relative" if relative_areas else "coco", output=output,
        detections=detections, threads=threads,
    )  # fmt: skip
    for line in found.lines():
        console.print(line, markup=False, highlight=False)
    if found.left_out:
        raise typer.Exit(1)


@app.command()
def bench(
    directory: Variant,
    output: Annotated[Path, typer.Option(help="The JSON file to write; it names no path, host or user.")] = Path(
        "bench.json"
    ),
    source: Annotated[
        list[str] | None, typer.Option(help="A picture, folder, glob or video; the reference's pictures by default.")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to find, in words; may be repeated.")] = None,
    cameras: Annotated[list[int] | None, typer.Option(help="Images per round; may be repeated.", min=1)] = None,
) -> None:
    """Verify a variant on this machine, measure it, and write both into one JSON file that can be shared."""
    from sam3_runtime.core.files import check_writable
    from sam3_runtime.measure.share import measure

    check_writable(output)
    shared = measure(directory, source or [], prompt or [], cameras or [])
    shared.write(output)
    for camera in shared.bench.cameras:
        mark = "" if camera.stable else " (unstable)"
        console.print(f"{counted(camera.cameras, 'camera')}: {camera.end_to_end.median:.1f} ms a round{mark}")
    console.print(f"{shared.bench.variant}: {shared.status}; wrote {output}")


@app.command("bench-stream")
def bench_stream(
    engines: Annotated[Path, typer.Option(help="A variant's folder, such as engines/b8_q50_r672.")],
    source: Annotated[list[str], typer.Option(help="A video, folder of pictures or glob; may be repeated.")],
    project: Annotated[Path | None, typer.Argument(help="The project file that names the classes.")] = None,
    bank: Annotated[Path | None, typer.Option(help="The classes as a bank; see sam3-runtime extract.")] = None,
    cameras: Annotated[
        int | None, typer.Option(help="Take the given files again and again to stand for this many cameras.", min=1)
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames of each camera that are measured.", min=8)] = 200,
    warmup: Annotated[int, typer.Option(help="Rounds before that.", min=3)] = 10,
    top: Annotated[
        int | None, typer.Option(help="Keep this many best of each class: for weights that detect nothing.", min=1)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of ONNX Runtime; all cores by default.", min=1)] = None,
    output: Annotated[Path, typer.Option(help="Where to write, without an ending: OUTPUT.md and OUTPUT.json.")] = Path(
        "bench-stream"
    ),
) -> None:
    """Measure a run over several sources, nothing written: frames a second, and rounds beside their engines alone."""
    from sam3_runtime.core.files import check_writable, write_atomically
    from sam3_runtime.streams.benchmark import benchmark_stream
    from sam3_runtime.streams.benchmark_text import markdown

    check_writable(output.with_name(f"{output.name}.md"))
    found = benchmark_stream(
        engines, _one_of(project, bank), source,
        cameras=cameras, frames=frames, warm_up=warmup, top=top, threads=threads,
    )  # fmt: skip
    text = markdown(found)
    found.write(output.with_name(f"{output.name}.json"))
    write_atomically(output.with_name(f"{output.name}.md"), text.encode())
    print(text, end="")


@app.command()
def table(
    files: Annotated[
        list[Path], typer.Argument(help="bench/table.json of one or several runs, and bench/baselines/*.json.")
    ],
    output: Annotated[Path, typer.Option(help="Where to write, without an ending: OUTPUT.md and OUTPUT.json.")],
) -> None:
    """Join the tables of several runs on one GPU, beside what transformers takes there."""
    from sam3_runtime.report.joined import write_joined

    joined = write_joined(files, output)
    console.print(f"wrote {output}.md and {output}.json: {counted(len(joined['rows']), 'variant')}")


@app.command()
def doctor(
    directory: WorkFolder = Path(),
    variants: Annotated[Path | None, typer.Option(help="The variants.yaml; the work folder's own by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has, what the listed variants need, and what to do about the difference."""
    from sam3_runtime.cli.doctor import examine

    found = examine(directory, variants or directory / "variants.yaml")
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_findings(console, found)
    if not found["ready"]:
        raise typer.Exit(1)


@app.command()
def pack(directory: Variant, archive: Annotated[Path, typer.Argument(help="The tar file to write.")]) -> None:
    """Make a self-contained copy of a variant for another machine."""
    from sam3_runtime.deploy.pack import pack as pack_variant

    size = pack_variant(directory, archive)
    console.print(
        f"wrote {archive}: {size / (1 << 20):.1f} MiB; on the other machine: sam3-runtime unpack {archive.name} ."
    )


@app.command()
def unpack(
    archive: Path, parent: Annotated[Path, typer.Argument(help="Where the variant's folder appears.")] = Path()
) -> None:
    """Unpack a packed variant; nothing outside its folder is written."""
    from sam3_runtime.deploy.pack import unpack as unpack_variant

    target = unpack_variant(archive, parent)
    console.print(f"unpacked {target}; next: sam3-runtime verify {target}")


@app.command()
def prune(
    directory: WorkFolder = Path(),
    variants: Annotated[Path | None, typer.Option(help="The variants.yaml; the work folder's own by default.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Free what is shown.")] = False,
    gone: Annotated[
        bool, typer.Option("--gone", help="Also cached engines of work folders that are not where they were.")
    ] = False,
) -> None:
    """Show what no listed variant uses, and free it with --delete."""
    from sam3_runtime.jobs.prune import find_unused, remove
    from sam3_runtime.plan.planning import make_plan

    plan = make_plan(variants or directory / "variants.yaml", directory)
    unused, kept = find_unused(plan, directory, gone)
    freed = 0
    for item in unused:
        used = delete and not remove(item)
        console.print(f"{item.size / MIB:9.1f} MiB  {item.path}  ({'in use again: kept' if used else item.why})")
        freed += 0 if used else item.size
    what = "freed" if delete else "could be freed: run again with --delete"
    console.print(f"{freed / MIB:9.1f} MiB {what}" if unused else "nothing to free")
    for group in kept:
        places = ", ".join(map(str, group.folders))
        console.print(
            f"{group.size / MIB:9.1f} MiB of cached engines stay for {places}, which is gone. If it was moved, run "
            "snakemake there; if it was deleted, free them with --gone"
        )


@app.command()
def check(
    directory: WorkFolder = Path(),
    variants: Annotated[Path | None, typer.Option(help="The variants.yaml; the work folder's own by default.")] = None,
) -> None:
    """Compare every engine and record with what is known of it, by digest; the next snakemake mends what differs."""
    from sam3_runtime.jobs.damage import check as check_folder
    from sam3_runtime.plan.planning import make_plan

    found = check_folder(directory, make_plan(variants or directory / "variants.yaml", directory))
    for one in found:
        console.print(one, markup=False, highlight=False)
    if found:
        at = "" if directory.resolve() == Path.cwd() else f" --directory {directory}"
        console.print(f"{len(found)} to be made again: snakemake{at}")
        raise typer.Exit(1)
    console.print("everything is what its record says")


@app.command()
def unlock(
    directory: WorkFolder = Path(),
    force: Annotated[
        bool, typer.Option("--force", help="Also where a Snakemake was started on another machine that has ended.")
    ] = False,
) -> None:
    """After a killed Snakemake: stop the jobs that it left running, remove its lock and half-written files."""
    from sam3_runtime.jobs.job import unlock as unlock_folder

    for line in unlock_folder(directory, force=force) or ["nothing to clear"]:
        console.print(line)


@app.command()
def schema(project: Annotated[bool, typer.Option("--project", help="That of project files.")] = False) -> None:
    """Print the JSON schema of variants.yaml, as committed in variants.schema.json, or of project files."""
    if project:
        from sam3_runtime.families.sam3.projects import project_schema

        print(project_schema(), end="")
    else:
        from sam3_runtime.plan.settings import json_schema

        print(json_schema(), end="")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or log that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except Sam3Error as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]Error:[/red] {escape(str(error))}", highlight=False)
        sys.exit(1)
