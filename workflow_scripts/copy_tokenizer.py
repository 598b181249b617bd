"""Copy the tokenizer that the text encoder is exported with."""

from pathlib import Path

from sam3_runtime.families.sam3.export.checkpoint import write_tokenizer
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    write_tokenizer(lock.at(snakemake.config["checkpoint_location"]), Path(snakemake.output.tokenizer))
