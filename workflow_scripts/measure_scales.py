"""Measure the ranges of a graph's tensors on calibration frames."""

from pathlib import Path

from sam3_runtime.jobs.job import job, read_lock
from sam3_runtime.quantize.collect import measure_scales

with job(snakemake, gpus="run_gpus") as announce:
    measure_scales(
        read_lock(snakemake),
        Path(snakemake.input.graph),
        Path(snakemake.output.scales),
        {**dict(snakemake.params), "source": snakemake.config["sources"]["calibration"]},
        announce,
    )
