"""Compute the accuracy of float32 PyTorch on the data set of `accuracy:`."""

from pathlib import Path

from sam3_runtime.families import exporter
from sam3_runtime.jobs.job import job, read_lock

with job(snakemake):
    lock = read_lock(snakemake)
    exporter(lock.family, "accuracy").compute_accuracy(
        lock,
        Path(snakemake.output.reached),
        resolution=int(snakemake.wildcards.resolution),
        data=snakemake.config["data_set"],
        limit=snakemake.params.limit,
    )
