"""Export one graph, such as r672/decoder_q50, from the checkpoint."""

import gc
from pathlib import Path

from sam3_runtime.graphs.export import export_graph
from sam3_runtime.jobs.job import job
from sam3_runtime.plan.paths import parse_id
from sam3_runtime.records.records import CheckpointLock

# Tracing allocates by the million, and what PyTorch consists of need not be searched for garbage: a tenth of the time.
gc.freeze()
gc.set_threshold(200_000, 20, 20)

with job(snakemake):
    lock = CheckpointLock.read(Path(snakemake.input.lock))
    export_graph(
        snakemake.params.part,
        lock.at(snakemake.config["checkpoint_location"]),
        Path(snakemake.output.graph),
        axes=parse_id(snakemake.wildcards.graph, lock.spec).axes,
        **snakemake.params.export,
    )
