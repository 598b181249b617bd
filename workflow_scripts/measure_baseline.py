"""Measure what a user has without this project, as it is and compiled, on this machine."""

from pathlib import Path

from sam3_runtime.families import exporter
from sam3_runtime.jobs.gpu_lock import hold_gpu
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake) as announce, hold_gpu(snakemake.config["run_gpus"], announce):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    result = exporter(lock.family, "baselines").measure_baseline(
        lock,
        snakemake.config["checkpoint_location"],
        resolution=int(snakemake.wildcards.resolution),
        settings=snakemake.params.settings,
    )
    result.write(Path(snakemake.output.result))
