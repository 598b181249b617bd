"""Compute what float32 PyTorch reaches on the data set of `accuracy:`."""

from pathlib import Path

from sam3_runtime.families.sam3.export.accuracy import compute_accuracy
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    images = snakemake.config["annotated_images"]
    compute_accuracy(
        lock.at(snakemake.config["checkpoint_location"]),
        Path(snakemake.output.reached),
        resolution=int(snakemake.wildcards.resolution),
        annotations=Path(snakemake.input.annotations),
        images=Path(images) if images else None,
        limit=snakemake.params.limit,
    )
