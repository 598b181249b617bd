"""The demo: builds its variants, measures them, detects on images, a video and eight streams, and lists the results.

    python demo/run.py --backend onnxruntime --folder demo/work/onnxruntime

What `make demo` runs. It runs the commands that a user would run, prints each, and works in its own folder. A
second run builds nothing and detects only where an engine changed. With a backend whose engines this machine can build
but not run, it only builds, and prints the next command.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from sam3_runtime.core.files import digest_of, write_atomically
from sam3_runtime.deploy.configure import read_records
from sam3_runtime.plan.toolchain import why_not_run

DEMO = Path(__file__).resolve().parent
VARIANT = "b4_q50_r336"
STREAMED = "b4_q50_r224"
SETTINGS = {
    "onnxruntime": "demo/variants.yaml",
    "tensorrt-rtx": "demo/variants.rtx.yaml",
    "tensorrt": "demo/variants.tensorrt.yaml",
}
SCENES = "demo/work/scenes"
IMAGES = [f"{SCENES}/images/{number}.png" for number in (10000000, 10000003, 10000005, 10000011)]
PROMPTS = ["circle", "star", "blue object"]
PYTHON = sys.executable
TOOL = str(Path(PYTHON).with_name("sam3-runtime"))


def announce(what: str) -> None:
    """Print the next step and its duration before it starts."""
    print(f"\n{what}", flush=True)


def show(*command: str) -> None:
    """Print a command as a user would type it."""
    program, *options = command
    if options[0] == "-msnakemake":
        program, *options = options[0].removeprefix("-m"), *options[1:]
    print(f"$ {shlex.join([Path(program).name, *options])}", flush=True)


def run(*command: str) -> None:
    """Show a command and run it; its failure ends the demo with its exit code."""
    show(*command)
    code = subprocess.run(command, cwd=DEMO.parent, check=False).returncode
    if code:
        sys.exit(code)


def build(log: Path, *command: str) -> None:
    """Run Snakemake, with one line per job. ``log`` gets its whole output, which is printed if it fails."""
    show(*command)
    jobs: dict[str, str] = {}
    rule = job = number = ""
    table = False
    with (
        open(log, "w", encoding="utf-8") as file,
        subprocess.Popen(
            command, cwd=DEMO.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            begun = re.match(r"(?:local)?rule (\w+):", line)
            rule = begun[1] if begun else rule
            if line.startswith("    jobid: "):
                number = line.split()[1]
                jobs[number] = rule
            if line.startswith("    wildcards: "):  # after the number
                jobs[number] = f"{rule}  {', '.join(re.findall(r'=([^,]+)', line.strip()))}"
            finished = re.search(r"Finished jobid: (\d+) ", line)
            job = jobs.get(finished[1], "") if finished else job
            steps = re.match(r"(\d+ of \d+) steps", line)
            table = (table or line.startswith("# Engine variants")) and not line.startswith(("[", "RuleException"))
            if steps:
                print(f"{steps[1]:>10}  {job}", flush=True)
            elif table or line.startswith("calibration of"):
                print(line, end="", flush=True)
    if process.returncode:
        print(log.read_text(encoding="utf-8"))
        sys.exit(process.returncode)


def detect(directory: Path, results: Path) -> None:
    """Detect on the images and the video, unless it was done with the same engines."""
    infer = [
        *("infer", "--engines", str(directory / VARIANT), "--output", str(results), "--conf", "0.5"),
        *(option for image in IMAGES for option in ("--images", image)),
        *("--video", f"{SCENES}/video.mp4"),
        *(option for prompt in PROMPTS for option in ("--prompt", prompt)),
    ]
    bank = str(results / "project.npz")
    extract = ["extract", "demo/project.yaml", "--engines", str(directory / STREAMED), "--output", bank]
    stream = [
        *("stream", "--bank", bank, "--engines", str(directory / STREAMED), "--cameras", "8", "--track"),
        *("--source", f"{SCENES}/video.mp4", "--frames", "6", "--output", str(results / "streams")),
    ]
    commands = {VARIANT: [infer], STREAMED: [extract, stream]}
    for variant, listed in commands.items():
        done = results / f".{variant}.done"
        key = digest_of([listed, {part: one.sha256 for part, one in read_records(directory / variant).items()}])
        if not done.is_file() or done.read_text() != key:
            for command in listed:
                run(TOOL, *command)
            write_atomically(done, key.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = (arguments.folder or DEMO / "work" / arguments.backend).absolute()
    settings = SETTINGS.get(arguments.backend)
    if settings is None:
        known = " or ".join(SETTINGS)
        sys.exit(f"Error: the demo does not build with {arguments.backend} yet\nHint: make demo BACKEND={known}")
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    if not (DEMO.parent / SCENES / "video.mp4").is_file():
        announce("Drawing 50 scenes and a video, a few seconds:")
        run(PYTHON, "-mdemo.scenes", SCENES, "--count", "50", "--video", "60")
    shown = folder.relative_to(DEMO.parent) if folder.is_relative_to(DEMO.parent) else folder
    options = ("--directory", str(shown), "--config", f"variants={settings}")
    announce(
        f"Exporting, building, verifying and measuring the variants of {settings}: with ONNX Runtime about 6 minutes\n"
        f"on two cores. One line per finished job, up to 40 s apart; Snakemake's whole output is in {shown}/demo.log."
    )
    build(folder / "demo.log", PYTHON, "-msnakemake", "bench_all", *options)
    reason = why_not_run(arguments.backend)
    if reason is None:
        announce("Detecting on images and a video, then on eight streams, with the built engines, about 15 s:")
        detect(shown / "engines", shown / "results")
    print(f"\nDone in {time.monotonic() - started:.0f} s.")
    print(f"Table:    {shown}/bench/table.md (also .csv, .json and report.html)")
    if reason:
        print(f"Engines:  {shown}/engines/. The demo stops here: {reason}.")
        print(f"Next:     sam3-runtime pack {shown}/engines/{VARIANT} out.tar, and docs/rtx.md")
    for path in sorted((folder / "results").glob("[!.]*")):
        print(f"Results:  {shown}/{path.relative_to(folder)}{'/' if path.is_dir() else ''}")


if __name__ == "__main__":
    main()
