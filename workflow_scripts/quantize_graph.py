"""Write a graph's 8-bit form from its measured scales."""

from pathlib import Path

from sam3_runtime.jobs.job import job
from sam3_runtime.quantize.insert import quantize_graph

with job(snakemake):
    quantize_graph(
        Path(snakemake.input.graph),
        Path(snakemake.input.scales),
        Path(snakemake.output.graph),
        exclude=snakemake.params.exclude,
        quantize=snakemake.wildcards.quantize,
    )
