"""Link a file that running an engine needs into a variant's folder."""

from pathlib import Path

from sam3_runtime.core.files import link_relatively
from sam3_runtime.jobs.job import job

with job(snakemake):
    link_relatively(Path(snakemake.output.asset), Path(snakemake.input.asset))
