"""Write the table from what is there; fail while a listed variant is missing, failed or rejected."""

from pathlib import Path

from sam3_runtime.jobs.job import job
from sam3_runtime.plan.planning import make_plan
from sam3_runtime.report.report import judge

with job(snakemake, tee=True):
    judge(Path.cwd(), make_plan(Path(snakemake.config["variants_file"]), Path.cwd()))
