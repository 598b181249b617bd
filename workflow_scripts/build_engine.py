"""Build one engine, or take it from the cache."""

from pathlib import Path

from sam3_runtime.builders import build_engine
from sam3_runtime.jobs import job

with job(snakemake) as announce:
    build_engine(
        Path(snakemake.input.graph),
        Path(snakemake.output.engine),
        batch=int(snakemake.wildcards.batch),
        precision=snakemake.params.precision,
        toolchain=snakemake.params.toolchain,
        settings=snakemake.params.settings,
        cache=Path(snakemake.config["engine_cache"]),
        announce=announce,
    )
