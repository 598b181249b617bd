"""Measure the model in its own library, as it is and compiled, on this machine."""

from pathlib import Path

from sam3_runtime.families import exporter
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake, gpus="run_gpus"):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    result = exporter(lock.family, "baselines").measure_baseline(
        lock,
        snakemake.config["checkpoint_location"],
        resolution=int(snakemake.wildcards.resolution),
        settings=snakemake.params.settings,
    )
    result.write(Path(snakemake.output.result))
