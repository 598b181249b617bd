"""Let TensorRT measure the scales of a graph."""

from pathlib import Path

from sam3_runtime.jobs.gpu_lock import hold_gpu
from sam3_runtime.jobs.job import job
from sam3_runtime.quantize.calibrate import calibrate

with job(snakemake) as announce, hold_gpu(snakemake.config["build_gpus"], announce):
    calibrate(
        Path(snakemake.input.graph),
        Path(snakemake.output.cache),
        Path(snakemake.output.report),
        {**dict(snakemake.params), "source": snakemake.config["sources"]["calibration"]},
        snakemake.config["calibrator_settings"],
        announce,
    )
