"""Copy a file that running an engine needs, such as the tokenizer, from where the checkpoint is."""

from pathlib import Path

from sam3_runtime.families import exporter
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    output = Path(snakemake.output.asset)
    exporter(lock.family, "checkpoint").write_asset(
        lock.at(snakemake.config["checkpoint_location"]), output.name, output
    )
