"""Let TensorRT measure the scales of a graph."""

from pathlib import Path

from sam3_runtime.jobs.job import job
from sam3_runtime.quantize.calibrate import calibrate

with job(snakemake, gpus="build_gpus") as announce:
    calibrate(
        Path(snakemake.input.graph),
        Path(snakemake.output.cache),
        Path(snakemake.output.report),
        {**dict(snakemake.params), "source": snakemake.config["sources"]["calibration"]},
        snakemake.config["calibrator_settings"],
        announce,
    )
