"""The command ``sam3-runtime``. Each subcommand passes its options to one function and prints the result.

A :class:`Sam3Error` ends it with its message and exit code 1; heavy libraries are imported by the subcommand that needs
them.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from sam3_runtime import __version__
from sam3_runtime.cli.show import print_bank, print_findings, print_overview, print_variant, print_verdict
from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.core.wording import counted
from sam3_runtime.records.memory import MIB

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Detect with engine variants of SAM3, and measure, inspect and pack them. They are built by: snakemake",
)
console = Console(soft_wrap=True)


class Prompts(str, Enum):
    """The kinds of prompts of an evaluation."""

    words = "words"
    boxes = "boxes"


Variant = Annotated[Path, Argument(help="A variant's folder, such as engines/b8_q50_r672.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON for programs.")]
WorkFolder = Annotated[Path, Option("--directory", "-d", help="The work folder.")]
VariantsFile = Annotated[Path | None, Option(help="The variants.yaml; the work folder's own by default.")]
Engines = Annotated[Path, Option(help="A variant's folder, such as engines/b8_q50_r672.")]
Threads = Annotated[int | None, Option(help="Threads of ONNX Runtime; all cores by default.", min=1)]
Output = Annotated[Path, Option(help="The folder for the results.")]
Top = Annotated[int | None, Option(help="Take this many best of each class, whatever their score.", min=1)]
Track = Annotated[bool, Option("--track", help="Give detections an identity through time.")]
Cameras = Annotated[int | None, Option(help="Repeat the given files to simulate this many cameras.", min=1)]
Conf = Annotated[float | None, Option(help="Score that detections must exceed; 0.3, or the project's.", min=0, max=1)]
# the classes: from a project file, a bank, or prompts
ProjectFile = Annotated[Path | None, Argument(help="The project file (YAML) with the classes.")]
BankFile = Annotated[Path | None, Option(help="The classes as a prompt bank; see sam3-runtime extract.")]
Texts = Annotated[list[str] | None, Option(help="What to find, in words; may be repeated.")]
Boxes = Annotated[
    list[str] | None,
    Option(
        help="An example box x0,y0,x1,y1 in pixels; :0 for a counter-example. The same box on every image and frame: "
        "on a video it follows nothing (for that: stream --track, with the box in a project file)."
    ),
]
Relative = Annotated[bool, Option("--relative-boxes", help="--box is from 0 to 1 of width and height, not in pixels.")]


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _split(text: str | None) -> list[str] | None:
    """Return the items of a list with commas."""
    return None if text is None else [item.strip() for item in text.split(",") if item.strip()]


@app.command()
def info(
    directory: Annotated[Path, Argument(help="A variant's folder, the folder of all, or a prompt bank (.npz).")],
    as_json: AsJson = False,
) -> None:
    """Describe a variant or a prompt bank, or list all variants and the space saved by sharing engines."""
    from sam3_runtime.deploy.overview import describe, overview

    if directory.suffix == ".npz" and not directory.is_dir():
        print_bank(console, directory, as_json)
        return
    if not directory.is_dir():
        raise Sam3Error(f"{directory} is not a folder", "name a variant's folder, such as engines/b8_q50_r672")
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
    engines: Engines,
    project: ProjectFile = None,
    images: Annotated[list[str] | None, Option(help="An image, folder or glob; may be repeated.")] = None,
    video: Annotated[str | None, Option(help="A video file.")] = None,
    bank: BankFile = None,
    prompt: Texts = None,
    box: Boxes = None,
    relative_boxes: Relative = False,
    conf: Conf = None,
    top: Top = None,
    track: Track = False,
    save: Annotated[str | None, Option(help="As in stream; by default annotated copies of all, and jsonl.")] = None,
    frames: Annotated[int | None, Option(help="Stop the video after this many frames.", min=1)] = None,
    output: Output = Path("out"),
    threads: Threads = None,
) -> None:
    """Detect on images and a video: annotated copies, and one JSON line per image with boxes, scores and masks.

    A classifier prints the best classes of each image instead.
    """
    family = _runtime_of(engines)
    if not hasattr(family, "infer"):  # its answers are detections of prompts
        from sam3_runtime.cli import infer as family
    outcome = family.infer(
        engines, images=images or [], video=video, project=project, bank=bank, prompts=prompt or [], boxes=box or [],
        relative_boxes=relative_boxes, conf=conf, top=top, track=track, save=_split(save), frames=frames,
        output=output, threads=threads,
    )  # fmt: skip
    _print(outcome.lines())
    raise typer.Exit(outcome.exit_code)


def _runtime_of(directory: Path) -> Any:
    """Return the runtime module of a variant's family."""
    from sam3_runtime.deploy.configure import read_config
    from sam3_runtime.families import runtime

    return runtime(read_config(directory).family)


@app.command()
def extract(
    project: Annotated[Path, Argument(help="The project file (YAML) with the classes.")],
    engines: Engines,
    output: Annotated[Path, Option(help="The prompt bank to write.")] = Path("bank.npz"),
    threads: Threads = None,
) -> None:
    """Encode the classes of a project into a prompt bank.

    Detecting with it needs neither the text nor the geometry encoder.
    """
    from sam3_runtime.cli.bank import extract_bank

    _print(extract_bank(project, engines, output, threads))


@app.command()
def stream(
    engines: Engines,
    source: Annotated[
        list[str], Option(help="A video, image, folder, glob, frames_%05d.png, camera:0 or address; may be repeated.")
    ],
    project: ProjectFile = None,
    bank: BankFile = None,
    prompt: Texts = None,
    box: Boxes = None,
    relative_boxes: Relative = False,
    conf: Conf = None,
    top: Top = None,
    cameras: Cameras = None,
    track: Track = False,
    output: Output = Path("out"),
    save: Annotated[str, Option(help="Some of video, images, jsonl, coco, with commas; or nothing.")] = "video,jsonl",
    frames: Annotated[int | None, Option(help="End each source after this many frames.", min=1)] = None,
    fps: Annotated[float, Option(help="Frames per second of image sequences.", min=0.1, max=1000)] = 25.0,
    stall: Annotated[float, Option(help="Seconds without a frame until a live source has failed.", min=0.1)] = 10.0,
    attempts: Annotated[int | None, Option(help="Give a live source up after so many failures.", min=1)] = None,
    threads: Threads = None,
) -> None:
    """Detect on videos, images and cameras, several at once: annotated video, JSON Lines, COCO, and a summary."""
    from sam3_runtime.cli.stream import classes_of, run_stream
    from sam3_runtime.streams.readers import LiveSettings

    outcome = run_stream(
        engines, classes_of(project, bank, prompt or [], box or [], relative_boxes), source,
        cameras=cameras, fps=fps, track=track, frames=frames, save=_split(save), output=output, threads=threads,
        conf=conf, top=top, live=LiveSettings(stall=stall, attempts=attempts),
    )  # fmt: skip
    console.print(outcome.table())
    _print(outcome.lines())
    raise typer.Exit(outcome.exit_code)


@app.command()
def verify(
    directory: Variant,
    reference: Annotated[Path | None, Option(help="The reference file; the packed one by default.")] = None,
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
    annotations: Annotated[Path, Argument(help="COCO JSON whose categories are phrases; a classifier's folder.")],
    images: Annotated[Path | None, Option(help="The folder of its images; that of the annotations by default.")] = None,
    threshold: Annotated[float, Option(help="Score of a detection, for cgF1 and false alarms.", min=0, max=1)] = 0.5,
    limit: Annotated[int | None, Option(help="Take the first images only.", min=1)] = None,
    prompts: Annotated[Prompts, Option(help="Prompt in words, or by one example box.")] = Prompts.words,
    all_categories: Annotated[
        bool, Option("--all-categories", help="Prompt every category on images that list none.")
    ] = False,
    relative_areas: Annotated[
        bool, Option("--relative-areas", help="Small and large as shares of the image, not in COCO's pixels.")
    ] = False,
    output: Annotated[Path | None, Option(help="A JSON file of the result; it names no path or host.")] = None,
    detections: Annotated[Path | None, Option(help="A JSON file of all detections, as COCO results.")] = None,
    threads: Threads = None,
) -> None:
    """Measure a variant on a data set in COCO's format: AP of boxes and masks, cgF1, false alarms.

    A classifier on a folder with a subfolder of images for each class: top-1 and top-5 accuracy.
    """
    found = _runtime_of(directory).evaluate(
        directory, annotations, images=images, threshold=threshold, limit=limit, prompts=prompts.value,
        all_categories=all_categories, areas="relative" if relative_areas else "coco", output=output,
        detections=detections, threads=threads,
    )  # fmt: skip
    _print(found.lines())
    if found.left_out:
        raise typer.Exit(1)


@app.command()
def bench(
    directory: Variant,
    output: Annotated[Path, Option(help="The JSON file; it has no path, host or user.")] = Path("bench.json"),
    source: Annotated[list[str] | None, Option(help="Images or videos; the reference's by default.")] = None,
    prompt: Texts = None,
    cameras: Annotated[list[int] | None, Option(help="Images per round; may be repeated.", min=1)] = None,
) -> None:
    """Verify and measure a variant on this machine, and write both into one JSON file that can be shared."""
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
    engines: Engines,
    source: Annotated[list[str], Option(help="A video, folder of images or glob; may be repeated.")],
    project: ProjectFile = None,
    bank: BankFile = None,
    cameras: Cameras = None,
    frames: Annotated[int, Option(help="Frames of each camera that are measured.", min=8)] = 200,
    warmup: Annotated[int, Option(help="Rounds before that.", min=3)] = 10,
    top: Top = None,
    threads: Threads = None,
    output: Annotated[Path, Option(help="To write OUTPUT.md and OUTPUT.json.")] = Path("bench-stream"),
) -> None:
    """Measure a run over several sources, nothing written: frames per second, and rounds beside their engines alone."""
    from sam3_runtime.cli.stream import classes_of
    from sam3_runtime.core.files import check_writable, write_atomically
    from sam3_runtime.streams.benchmark import benchmark_stream
    from sam3_runtime.streams.benchmark_text import markdown

    check_writable(output.with_name(f"{output.name}.md"))
    found = benchmark_stream(
        engines, classes_of(project, bank), source,
        cameras=cameras, frames=frames, warm_up=warmup, top=top, threads=threads,
    )  # fmt: skip
    text = markdown(found)
    found.write(output.with_name(f"{output.name}.json"))
    write_atomically(output.with_name(f"{output.name}.md"), text.encode())
    print(text, end="")


@app.command()
def table(
    files: Annotated[list[Path], Argument(help="bench/table.json of one or several runs, and bench/baselines/*.json.")],
    output: Annotated[Path, Option(help="To write OUTPUT.md and OUTPUT.json.")],
) -> None:
    """Merge the tables of several runs on one GPU, with the times of transformers there."""
    from sam3_runtime.report.merged import write_merged

    joined = write_merged(files, output)
    console.print(f"wrote {output}.md and {output}.json: {counted(len(joined['rows']), 'variant')}")


@app.command()
def doctor(directory: WorkFolder = Path(), variants: VariantsFile = None, as_json: AsJson = False) -> None:
    """Compare this machine with the needs of the listed variants, and print what to do about the difference."""
    from sam3_runtime.cli.doctor import examine

    found = examine(directory, variants or directory / "variants.yaml")
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_findings(console, found)
    if not found["ready"]:
        raise typer.Exit(1)


@app.command()
def pack(directory: Variant, archive: Annotated[Path, Argument(help="The tar file to write.")]) -> None:
    """Make a self-contained copy of a variant for another machine."""
    from sam3_runtime.deploy.pack import pack as pack_variant

    size = pack_variant(directory, archive)
    console.print(f"wrote {archive}: {size / MIB:.1f} MiB; on the other machine: sam3-runtime unpack {archive.name} .")


@app.command()
def unpack(archive: Path, parent: Annotated[Path, Argument(help="The parent of its folder.")] = Path()) -> None:
    """Unpack a packed variant; writes nothing outside its folder."""
    from sam3_runtime.deploy.pack import unpack as unpack_variant

    target = unpack_variant(archive, parent)
    console.print(f"unpacked {target}; next: sam3-runtime verify {target}")


@app.command()
def prune(
    directory: WorkFolder = Path(),
    variants: VariantsFile = None,
    delete: Annotated[bool, Option("--delete", help="Delete the shown files.")] = False,
    gone: Annotated[bool, Option("--gone", help="Also cached engines of deleted work folders.")] = False,
) -> None:
    """Show files that no listed variant uses, and delete them with --delete."""
    from sam3_runtime.jobs.prune import find_unused, remove
    from sam3_runtime.plan.planning import make_plan

    plan = make_plan(variants or directory / "variants.yaml", directory)
    unused, retained = find_unused(plan, directory, gone)
    freed = 0
    for item in unused:
        in_use = delete and not remove(item)
        console.print(f"{item.size / MIB:9.1f} MiB  {item.path}  ({'in use again: retained' if in_use else item.why})")
        freed += 0 if in_use else item.size
    what = "deleted" if delete else "can be deleted: run again with --delete"
    console.print(f"{freed / MIB:9.1f} MiB {what}" if unused else "no unused files")
    for group in retained:
        folders = ", ".join(map(str, group.folders))
        console.print(
            f"{group.size / MIB:9.1f} MiB of cached engines are retained for {folders}, which no longer exists. If it "
            "was moved, run snakemake there; if it was deleted, add --gone"
        )


@app.command()
def check(directory: WorkFolder = Path(), variants: VariantsFile = None) -> None:
    """Compare every engine and record with its digest; the next snakemake rebuilds what differs."""
    from sam3_runtime.jobs.damage import check as check_folder
    from sam3_runtime.plan.planning import make_plan

    found = check_folder(directory, make_plan(variants or directory / "variants.yaml", directory))
    _print(found)
    if found:
        at = "" if directory.resolve() == Path.cwd() else f" --directory {directory}"
        console.print(f"{len(found)} to rebuild: snakemake{at}")
        raise typer.Exit(1)
    console.print("all files match their records")


@app.command()
def unlock(
    directory: WorkFolder = Path(),
    force: Annotated[bool, Option("--force", help="Also after a Snakemake of another machine.")] = False,
) -> None:
    """Clean up after a killed Snakemake: stop its remaining jobs, remove its lock and partial files."""
    from sam3_runtime.jobs.job import unlock as unlock_folder

    _print(unlock_folder(directory, force=force) or ["nothing to clean up"])


@app.command()
def schema(project: Annotated[bool, Option("--project", help="Print that of project files.")] = False) -> None:
    """Print the JSON schema of variants.yaml, as committed in variants.schema.json, or of project files."""
    from sam3_runtime.families.sam3.projects import project_schema
    from sam3_runtime.plan.settings import json_schema

    print(project_schema() if project else json_schema(), end="")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, Option("--version", help="Print the version.")] = False) -> None:
    """Print the version, if requested."""
    if show:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that the terminal or log cannot encode
            stream.reconfigure(errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except Sam3Error as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]Error:[/red] {escape(str(error))}", highlight=False)
        sys.exit(1)
