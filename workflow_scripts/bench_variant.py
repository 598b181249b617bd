"""Measure a variant's speed and memory."""

from pathlib import Path

from sam3_runtime.jobs.gpu_lock import hold_gpu
from sam3_runtime.jobs.job import job
from sam3_runtime.measure.benchmark import benchmark

with job(snakemake) as announce, hold_gpu(snakemake.config["run_gpus"], announce):
    settings = {**dict(snakemake.params), "source": snakemake.config["sources"]["bench"]}
    result = benchmark(Path(snakemake.input.config).parent, settings)
    result.write(Path(snakemake.output.result))
