"""Compute what float32 PyTorch says about the verification pictures."""

from pathlib import Path

from sam3_runtime.families import exporter
from sam3_runtime.jobs.job import job
from sam3_runtime.media.source_files import expand_images
from sam3_runtime.media.sources import load_image
from sam3_runtime.records.records import CheckpointLock

with job(snakemake):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    sources = expand_images(snakemake.config["sources"]["reference"])
    given = {name: value for name, value in snakemake.params.items() if name not in ("images", "code")}
    exporter(lock.family, "reference").compute_reference(
        lock.at(snakemake.config["checkpoint_location"]),
        Path(snakemake.output.reference),
        resolution=int(snakemake.wildcards.resolution),
        images={image.name: load_image(image.path) for image in sources},
        **given,
    )
