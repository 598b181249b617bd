"""Measure a variant's speed and memory."""

from pathlib import Path

from sam3_runtime.jobs.job import job
from sam3_runtime.measure.benchmark import benchmark

with job(snakemake, gpus="run_gpus"):
    settings = {**dict(snakemake.params), "source": snakemake.config["sources"]["bench"]}
    result = benchmark(Path(snakemake.input.config).parent, settings)
    result.write(Path(snakemake.output.result))
