"""Write what a variant is, once its engines agree about it."""

from pathlib import Path

from sam3_runtime.deploy.configure import configure
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake):
    config = configure(
        Path(snakemake.output.config).parent,
        snakemake.params.chosen,
        CheckpointLock.read(Path(snakemake.input.lock)),
    )
    config.write(Path(snakemake.output.config))
