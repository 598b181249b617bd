"""The classifier's demo: writes a checkpoint and two labelled photographs, builds, measures, and classifies them.

    python -m demo.classifier --backend onnxruntime --folder demo/work/classifier-onnxruntime

What `make demo FAMILY=classifier` runs. A second run builds nothing.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from demo.efficientnet import write_checkpoint
from demo.run import DEMO, PYTHON, TOOL, announce, build, run
from sam3_runtime.core.source_files import locate
from sam3_runtime.plan.toolchain import why_not_run

VARIANT = "b4_r224"
SHOWN = {"n02124075": "chelsea", "espresso": "coffee"}
"""Photographs of scikit-image by what they show: an Egyptian cat, by its synset, and an espresso."""


def prepare() -> None:
    """Write the checkpoint and the labelled folder, once."""
    if not (DEMO / "work/efficientnet/config.json").is_file():
        write_checkpoint(DEMO / "work/efficientnet")
    for label, name in SHOWN.items():
        target = DEMO / f"work/photographs/{label}/{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(locate(f"package:skimage/data/{name}.png"), target)


def settings(backend: str) -> str:
    """The variants file for that backend: the committed one, or a copy beside it that names another."""
    own = DEMO / "variants.classifier.yaml"
    if backend == "onnxruntime":
        return str(own.relative_to(DEMO.parent))
    copy = DEMO / f"work/variants.classifier.{backend}.yaml"
    text = own.read_text().replace("backend: onnxruntime", f"backend: {backend}").replace("work/", "")
    copy.write_text(text)
    return str(copy.relative_to(DEMO.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--folder", type=Path, default=DEMO / "work/classifier-onnxruntime")
    arguments = parser.parse_args()
    started = time.monotonic()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    announce("Writing EfficientNet-Lite0 and two photographs:")
    prepare()
    runs = why_not_run(arguments.backend) is None
    announce("Exporting, calibrating, building, verifying and measuring, about a minute:")
    build(
        folder / "snakemake.log",
        *(PYTHON, "-msnakemake", "bench_all" if runs else "build_all", "--cores", "2", "--directory", str(folder)),
        *("--config", f"variants={settings(arguments.backend)}"),
    )
    if runs:
        images = [option for name in SHOWN.values() for option in ("--images", f"package:skimage/data/{name}.png")]
        run(
            TOOL,
            "infer",
            "--engines",
            str(folder / "engines" / VARIANT),
            "--output",
            str(folder / "results"),
            *images,
        )
    print(f"\n{time.monotonic() - started:.0f} s. The results are in {folder}/bench/table.md.", flush=True)


if __name__ == "__main__":
    main()
