"""Export one part of the checkpoint to an ONNX graph."""

from pathlib import Path

from sam3_runtime.config import CheckpointLock
from sam3_runtime.export.graph import export_part
from sam3_runtime.jobs import job

with job(snakemake):
    resolution, queries = (snakemake.wildcards.get(key) for key in ("resolution", "queries"))
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    export_part(
        snakemake.params.part,
        lock.at(snakemake.config["checkpoint_location"]),
        Path(snakemake.output.graph),
        resolution=int(resolution) if resolution else None,
        queries=int(queries) if queries else None,
        **snakemake.params.export,
    )
