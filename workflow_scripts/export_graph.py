"""Export one graph, such as r672/decoder_q50, from the checkpoint."""

import gc
from pathlib import Path

from sam3_runtime.graphs.export import export_graph
from sam3_runtime.jobs.job import job, read_lock
from sam3_runtime.plan.paths import parse_id

# Tracing allocates millions of objects, and PyTorch's own need no search for garbage: a tenth of the time.
gc.freeze()
gc.set_threshold(200_000, 20, 20)

with job(snakemake):
    lock = read_lock(snakemake)
    export_graph(
        snakemake.params.part,
        lock,
        Path(snakemake.output.graph),
        axes=parse_id(snakemake.wildcards.graph, lock.spec).axes,
        **snakemake.params.export,
    )
