"""Compare a variant with the float32 reference; the verdict is the output, whatever it is."""

from pathlib import Path

from sam3_runtime.jobs.job import job
from sam3_runtime.measure.verify import verify

with job(snakemake, gpus="run_gpus"):
    verdict = verify(
        Path(snakemake.input.config).parent,
        Path(snakemake.input.reference),
        snakemake.params.chosen["gate"],
        snakemake.params.chosen["device"],
        Path(snakemake.input.accuracy) if snakemake.input.accuracy else None,
    )
    verdict.write(Path(snakemake.output.verdict))
    print(f"{verdict.status}: {verdict.reason}")
