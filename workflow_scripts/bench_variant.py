"""Measure a variant's speed and memory."""

from pathlib import Path

from sam3_runtime.benchmark import benchmark
from sam3_runtime.gpu_lock import hold_gpu
from sam3_runtime.jobs import job

with job(snakemake) as announce, hold_gpu(snakemake.config["run_gpus"], announce):
    result = benchmark(Path(snakemake.input.config).parent, dict(snakemake.params))
    result.write(Path(snakemake.output.result))
