"""Link the tokenizer into a variant's folder."""

from pathlib import Path

from sam3_runtime.core.files import link_relatively
from sam3_runtime.jobs.job import job

with job(snakemake):
    link_relatively(Path(snakemake.output.tokenizer), Path(snakemake.input.tokenizer))
