"""Record which weights this work folder is built from."""

from pathlib import Path

from sam3_runtime.families.sam3.export.locking import lock_once
from sam3_runtime.jobs.job import job

with job(snakemake):
    lock_once(
        Path(snakemake.output.lock),
        snakemake.params.checkpoint,
        snakemake.params.revision,
        snakemake.config["checkpoint_location"],
    )
