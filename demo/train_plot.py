"""Plots the log of a training run: losses and the checks on held-out scenes, over minutes.

python -m demo.train_plot RUN/log.jsonl docs/results/demo-training.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.train_losses import WEIGHTS

Curves = dict[str, tuple[list[float], list[float]]]


def curves(lines: Sequence[Mapping[str, Any]]) -> tuple[Curves, Curves]:
    """Return minutes and values of each weighted loss, and of each metric of the checks."""
    learnt: Curves = {}
    checked: Curves = {}
    for line in lines:
        found = line.get("check")
        values = found or {name: WEIGHTS[name] * line[name] for name in WEIGHTS if name in line}
        for name, value in values.items():
            minutes, points = (checked if found else learnt).setdefault(name, ([], []))
            minutes.append(line["minutes"])
            points.append(value)
    return learnt, checked


def plot(log: Path, output: Path) -> None:
    """Write the plot; the suffix of ``output`` decides the format (.svg, .png)."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "demo"  # the same log gives the same bytes
    from matplotlib import pyplot

    learnt, checked = curves([json.loads(line) for line in log.read_text().splitlines()])
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for axes, lines, title in ((above, learnt, "weighted loss"), (below, checked, "64 held-out scenes")):
        for name, (minutes, points) in lines.items():
            axes.plot(minutes, points, label=name.replace("_", " "), linewidth=1, marker="." if axes is below else None)
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=3)
    above.set_yscale("log")
    below.set_ylim(0, 1)
    below.set_xlabel("minutes of training")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    plot(arguments.log, arguments.output)


if __name__ == "__main__":
    main()
