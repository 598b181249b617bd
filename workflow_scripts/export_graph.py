"""Export one graph, such as r672/decoder_q50, from the checkpoint."""

from pathlib import Path

from sam3_runtime.config import CheckpointLock
from sam3_runtime.export.graph import export_part
from sam3_runtime.jobs import job
from sam3_runtime.paths import parse_id

with job(snakemake):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    export_part(
        snakemake.params.part,
        lock.at(snakemake.config["checkpoint_location"]),
        Path(snakemake.output.graph),
        **parse_id(snakemake.wildcards.graph).axes,
        **snakemake.params.export,
    )
