"""Measure a variant on the whole data set of `accuracy:`."""

from pathlib import Path

from sam3_runtime.families import runtime
from sam3_runtime.jobs.job import job

with job(snakemake, gpus="run_gpus"):
    evaluate = runtime(snakemake.config["family"]).evaluate_data_set
    lines = evaluate(Path(snakemake.input.config).parent, snakemake.config["data_set"], Path(snakemake.output.result))
    print("\n".join(lines))
