"""Compute the outputs of float32 PyTorch for the verification images."""

from pathlib import Path

from sam3_runtime.core.source_files import expand_images
from sam3_runtime.families import exporter
from sam3_runtime.jobs.job import job, read_lock
from sam3_runtime.media.sources import load_image

with job(snakemake):
    lock = read_lock(snakemake)
    sources = expand_images(snakemake.config["sources"]["reference"])
    exporter(lock.family, "reference").compute_reference(
        lock,
        Path(snakemake.output.reference),
        resolution=int(snakemake.wildcards.resolution),
        images={image.name: load_image(image.path) for image in sources},
        **{name: value for name, value in snakemake.params.items() if name not in ("images", "code")},
    )
