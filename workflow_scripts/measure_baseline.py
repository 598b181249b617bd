"""Measure what transformers, as it is and compiled, takes on this machine."""

from pathlib import Path

from sam3_runtime.families.sam3.export.baselines import measure_baseline
from sam3_runtime.jobs.gpu_lock import hold_gpu
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake) as announce, hold_gpu(snakemake.config["run_gpus"], announce):
    result = measure_baseline(
        CheckpointLock.read(Path(snakemake.input.lock)),
        snakemake.config["checkpoint_location"],
        resolution=int(snakemake.wildcards.resolution),
        settings=snakemake.params.settings,
    )
    result.write(Path(snakemake.output.result))
