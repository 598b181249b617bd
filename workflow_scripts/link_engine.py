"""Link an engine and its record from the store into a variant's folder."""

from pathlib import Path

from sam3_runtime.core.files import link_relatively
from sam3_runtime.jobs.job import job

with job(snakemake):
    link_relatively(Path(snakemake.output.engine), Path(snakemake.input.engine))
    link_relatively(Path(snakemake.output.record), Path(snakemake.input.record))
