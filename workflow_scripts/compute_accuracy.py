"""Compute what float32 PyTorch reaches on the data set of `accuracy:`."""

from pathlib import Path

from sam3_runtime.families import exporter
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    exporter(lock.family, "accuracy").compute_accuracy(
        lock.at(snakemake.config["checkpoint_location"]),
        Path(snakemake.output.reached),
        resolution=int(snakemake.wildcards.resolution),
        data=snakemake.config["data_set"],
        limit=snakemake.params.limit,
    )
