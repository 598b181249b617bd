"""Copy a file that running an engine needs, such as the tokenizer, from the checkpoint."""

from pathlib import Path

from sam3_runtime.families import exporter
from sam3_runtime.jobs.job import job, read_lock

with job(snakemake):
    lock, output = read_lock(snakemake), Path(snakemake.output.asset)
    exporter(lock.family, "checkpoint").write_asset(lock, output.name, output)
