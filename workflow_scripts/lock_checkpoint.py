"""Record which weights this work folder is built from."""

from pathlib import Path

from sam3_runtime.jobs.job import job
from sam3_runtime.jobs.locking import lock_once

with job(snakemake):
    lock_once(
        Path(snakemake.output.lock),
        snakemake.params.checkpoint,
        snakemake.params.revision,
        snakemake.config["checkpoint_location"],
        snakemake.config["family"],
    )
