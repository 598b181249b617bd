"""Measure the ranges of a graph's tensors on calibration frames."""

from pathlib import Path

from sam3_runtime.jobs.gpu_lock import hold_gpu
from sam3_runtime.jobs.job import job
from sam3_runtime.quantize.collect import measure_scales
from sam3_runtime.records.records import CheckpointLock

with job(snakemake) as announce, hold_gpu(snakemake.config["run_gpus"], announce):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    measure_scales(
        lock.at(snakemake.config["checkpoint_location"]),
        Path(snakemake.input.graph),
        Path(snakemake.output.scales),
        {**dict(snakemake.params), "source": snakemake.config["sources"]["calibration"]},
        announce,
    )
