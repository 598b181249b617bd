"""Measure a variant on the whole data set of `accuracy:`."""

from pathlib import Path

from sam3_runtime.cli.evaluate import evaluate
from sam3_runtime.jobs.gpu_lock import hold_gpu
from sam3_runtime.jobs.job import job

with job(snakemake) as announce, hold_gpu(snakemake.config["run_gpus"], announce):
    images = snakemake.config["annotated_images"]
    found = evaluate(
        Path(snakemake.input.config).parent,
        Path(snakemake.input.annotations),
        images=Path(images) if images else None,
        output=Path(snakemake.output.result),
    )
    print("\n".join(found.lines()))
