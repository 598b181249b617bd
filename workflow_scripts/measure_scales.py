"""Measure the ranges of a vision encoder's tensors on calibration frames."""

import os
from pathlib import Path

from sam3_runtime.config import CheckpointLock
from sam3_runtime.jobs import job
from sam3_runtime.quantize.collect import measure_scales

terminal = os.dup(2)  # a job's output goes to its log, and people wait for this one


def announce(text: str) -> None:
    print(text, flush=True)
    os.write(terminal, f"{text}\n".encode())


with job(snakemake):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    measure_scales(
        lock.at(snakemake.config["checkpoint_location"]),
        Path(snakemake.input.graph),
        Path(snakemake.output.scales),
        dict(snakemake.params),
        announce,
    )
