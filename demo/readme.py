"""Writes measured results into the README: the tables of `make demo`, if it ran, and of docs/results/h200.json.

python -m demo.readme                after make demo, whose JSON goes into docs/results/
python -m demo.readme --pictures     also docs/images/: the demo's detections, and a clip with tracks
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from demo.run import SCENES, TOOL, VARIANT, run
from sam3_runtime.media.sources import load_image, read_video
from sam3_runtime.report.pages import folder_markdown
from sam3_runtime.report.tables import grid

PROJECT = Path(__file__).resolve().parent.parent
H200 = "docs/results/h200.json"
DEMO = "docs/results/demo.json"
WORK = PROJECT / "demo/work/onnxruntime"
IMAGES = PROJECT / "docs/images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true")
    if parser.parse_args().pictures:
        IMAGES.mkdir(exist_ok=True)
        images = [load_image(str(path)) for path in sorted((WORK / "results/images").glob("*.png"))]
        Image.fromarray(np.hstack(images)).save(IMAGES / "detected.webp", quality=85, method=6)
        clip(IMAGES / "tracked.webp")
    measured = WORK / "bench/table.json"
    text = (PROJECT / "README.md").read_text()
    if measured.is_file():
        table = json.loads(measured.read_text())
        shown = {key: value for key, value in table.items() if key != "variants"}  # raw samples are for merged tables
        (PROJECT / DEMO).write_text(json.dumps(shown, indent=2) + "\n")
    (PROJECT / "README.md").write_text(with_tables(text))


def with_tables(text: str) -> str:
    """Return the README's ``text`` with the tables of the committed results."""
    demo, h200 = (json.loads((PROJECT / name).read_text()) for name in (DEMO, H200))
    text = placed(text, "demo", folder_markdown(demo).partition("\n\n")[2].strip())
    return placed(text, "h200", overview(h200))


def clip(output: Path) -> None:
    """Track the demo's classes in the demo's video, as an animated image: browsers do not play an MP4 in a README."""
    followed = WORK / "results/clip"
    stream = ["stream", "demo/project.yaml", "--engines", str(WORK / "engines" / VARIANT), "--track"]
    run(TOOL, *stream, "--source", f"{SCENES}/video.mp4", "--output", str(followed))
    with read_video(followed / "video.mp4") as frames:
        first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(output, save_all=True, append_images=rest, duration=80, loop=0, quality=60, method=6)


def placed(text: str, name: str, body: str) -> str:
    """Return ``text`` with ``body`` between the markers of the table ``name``."""
    block = f"<!-- table: {name} (python -m demo.readme) -->\n{body}\n<!-- end -->"
    made, count = re.subn(rf"<!-- table: {name} .*?<!-- end -->", lambda _: block, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(
            f"Error: README.md has no markers for the table {name}\nHint: <!-- table: {name} --> … <!-- end -->"
        )
    return made


def overview(table: dict[str, Any]) -> str:
    """Return the measured variants of a merged table, one line each."""
    return grid([_line(row) for row in table["rows"] if row.get("speed")])


def _line(row: dict[str, Any]) -> dict[str, Any]:
    accuracy, memory = row["accuracy"][0], row["memory"][0]
    one, many = row["speed"][0], row["speed"][-1]
    beside = row["beside"][-1]
    return {
        "variant": row["variant"],
        "verdict": f"{row['status']}, {accuracy['note']}" if accuracy.get("note") else row["status"],
        "cosine": accuracy["cosine"],
        "GPU memory, MiB": f"{memory['ready']:.0f}",
        f"{one['cameras']} camera, ms": one["end to end"],
        f"{many['cameras']} cameras, ms an image": many["end to end"],
        "×transformers": beside["end to end: ×transformers"],
        "×torch.compile": beside["end to end: ×torch.compile"],
    }


if __name__ == "__main__":
    main()
