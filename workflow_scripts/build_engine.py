"""Build one engine, or take it from the cache."""

from pathlib import Path

from sam3_runtime.engines.building import Task, build_engine
from sam3_runtime.families import family_of
from sam3_runtime.jobs.gpu_lock import hold_gpu
from sam3_runtime.jobs.job import job
from sam3_runtime.plan.paths import parse_id
from sam3_runtime.quantize.calibration_cache import open_cache

with job(snakemake) as announce:
    eight_bit = snakemake.params.eight_bit
    graph = Path(snakemake.input.graph)
    task = Task.of(
        graph,
        Path(snakemake.output.engine),
        batch=parse_id(snakemake.wildcards.engine, family_of(snakemake.config["family"])).axes["batch"],
        precision=snakemake.params.precision,
        toolchain=snakemake.params.toolchain,
        settings=snakemake.params.settings | ({} if eight_bit is ... else eight_bit),
        announce=announce,
        calibration=open_cache(snakemake.input.get("calibration", []), graph, snakemake.params.toolchain["version"]),
        builder=snakemake.config["tensorrt_builder"],
        timing_cache=Path(snakemake.config["timing_cache"]),
    )
    cache, gpus = Path(snakemake.config["engine_cache"]), snakemake.config["build_gpus"]
    build_engine(task, code=snakemake.params.code, cache=cache, hold=lambda: hold_gpu(gpus, announce))
