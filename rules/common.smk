"""Shared by all rules: the plan of this work folder, and the targets that follow from it.

INPUTS   variants.yaml (the work folder's own, else the project's; another: --config variants=FILE),
         checkpoint.lock and toolchain.json where this folder was built before
OUTPUTS  none: the names PLAN, code, and the lists of targets
"""

import sys
from pathlib import Path

from sam3_runtime.report import report
from sam3_runtime.jobs import job as jobs
from sam3_runtime.jobs import damage
from sam3_runtime.plan import paths
from sam3_runtime.jobs.engine_cache import register_links
from sam3_runtime.plan.code_digest import code_digest, remember
from sam3_runtime.plan.contents import Contents
from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.families.base import EIGHT_BIT, RESOLUTION
from sam3_runtime.plan.planning import make_plan


def plainly(function):
    """End Snakemake with the message of a ``Sam3Error`` alone, without a traceback of our code."""

    def answer(*arguments):
        try:
            return function(*arguments)
        except Sam3Error as error:
            sys.exit(f"Error: {error}")

    return answer


def find_variants_file(name):
    """The file as named from the work folder, else from the project."""
    here = Path(name)
    return here if here.is_file() else Path(workflow.basedir) / name


def code(script, *modules):
    """A param: the digest of a rule's code, which makes its outputs due again when it changes (code_digest.py)."""
    path = Path(workflow.basedir, f"workflow_scripts/{script}.py")
    return lambda wildcards: code_digest(path, *modules)


def unless_whole(*patterns):
    """An input without a file: existing outputs that differ from their records are made again."""

    @plainly
    def inspect(wildcards):
        for file in [pattern.format(**wildcards) for pattern in patterns]:
            damaged = INSPECTION.look(file) if workflow.is_main_process else None
            if damaged and file not in workflow.dag.forcefiles:
                workflow.dag.forcefiles.add(file)
                print(f"{file} {damaged}: it is made again", file=sys.stderr)
        return []

    return inspect


def contents(section):
    """A param: the content of a section's images and videos, wherever they are."""
    return lambda wildcards: CONTENTS.of_sources(config["sources"][section])


def annotated(wildcards):
    """A param: the content of the data set's images; an annotation file is an input."""
    data = PLAN.data_set()
    if "annotations" not in data:
        return CONTENTS.of_sources(data.values())
    images = data.get("images")
    return CONTENTS.of_annotated(
        Path(data["annotations"]), Path(images) if images else None
    )


@plainly
def annotations(wildcards):
    """The file that describes the data set; a folder of classes has none."""
    return PLAN.data_set().get("annotations", [])


def reference_of(wildcards, accuracy=False):
    """The reference of a variant, or its accuracy on the data set, which is part of the gate where there is one."""
    resolution = PLAN.variant(wildcards.variant)[RESOLUTION]
    needed = PLAN.has_data_set or not accuracy
    return paths.reference_file(resolution, accuracy) if needed else []


def graph_of(wildcards):
    """What is exported, such as r672/decoder_q50."""
    return paths.parse_id(wildcards.graph, PLAN.family)


def exported(wildcards):
    """The settings of an export."""
    graph = graph_of(wildcards)
    return PLAN.export(graph.part.name, graph.ending)


def export_code(wildcards):
    """The code of an export, which differs by part."""
    return code("export_graph", *graph_of(wildcards).part.code)(wildcards)


def built_from(kind):
    """The inputs of that kind of an engine such as b8_r672/decoder_q50: graph, data or calibration."""
    return lambda wildcards: paths.graph_files(PLAN, wildcards.engine)[kind]


def build_precision(wildcards):
    """The float type of an engine."""
    return PLAN.precision(paths.parse_id(wildcards.engine, PLAN.family).part.name)


def eight_bit_settings(wildcards):
    """A param of parts with an 8-bit form alone: ``...`` is one that Snakemake does not record."""
    engine = paths.parse_id(wildcards.engine, PLAN.family)
    return PLAN.eight_bit(engine.ending) if engine.part.eight_bit else ...


def stored(ending):
    """The file in the store that a variant's engine, or its record, links to."""

    def file(wildcards):
        engine = paths.engine_id(
            PLAN.family.parts[wildcards.part], PLAN.variant(wildcards.variant)
        )
        return f"engines/store/{engine}.{ending}"

    return file


@plainly
def refuse_unknown_variant(wildcards):
    raise PLAN.refuse(wildcards.name)


VARIANTS_FILE = find_variants_file(config.get("variants", "variants.yaml"))
PLAN = plainly(make_plan)(VARIANTS_FILE, Path.cwd())
remember(Path.cwd())

# Locations are passed around the params, so that moving a folder reruns nothing.
config.update(variants_file=str(VARIANTS_FILE), **PLAN.locations())

CONTENTS = Contents()
INSPECTION = damage.Inspection(Path.cwd(), PLAN)
if workflow.is_main_process and not jobs.is_running(Path.cwd()):
    damage.remove_dangling_links(Path.cwd())

# A full-size export needs up to 12 GB, so one runs at a time; small ones share the cores.
EXPORT_THREADS = workflow.cores if PLAN.is_full_size else 1

# Whether jobs that run engines, and builds, hold the GPU. TensorRT-RTX builds on the CPU.
GPU = int(PLAN.backend.on_gpu)
BUILD_GPU = int(PLAN.backend.builds_on == "gpu")

STEPS = paths.steps(PLAN)


def made_by(*stages):
    """The files of these stages that the listed variants need."""
    return [file for step in STEPS if step.stage in stages for file in step.files]


VARIANT_FILES = made_by("link", "configure")
VERDICTS = made_by("verify")
# Engines that cannot run here are built and not measured; the table notes it.
RUNS = not PLAN.why_not_run()
BENCHMARKS = made_by("bench") if RUNS else []
ACCURACIES = made_by("accuracy") if RUNS else []
BASELINES = made_by("baseline")
GRAPHS = made_by("export", "quantize", "reference")


PARTS = PLAN.family.parts.values()
# A variant's engines and records, for the rules that run them.
ENGINES = expand("engines/{{variant}}/{part}.engine", part=PLAN.family.parts)
RECORDS = [f"{engine}.json" for engine in ENGINES]
ASSETS = expand("engines/{{variant}}/{asset}", asset=PLAN.family.assets)


wildcard_constraints:
    resolution=r"[1-9]\d*",
    quantize="|".join(EIGHT_BIT),
    graph=paths.id_pattern(
        PLAN.family, [part for part in PARTS if not part.external_data], False, ()
    ),
    engine=paths.id_pattern(PLAN.family, PARTS, True),
    part="|".join(PLAN.family.parts),
    asset="|".join(Path(asset).stem for asset in PLAN.family.assets),
    variant="|".join(PLAN.names),


onstart:
    jobs.register_main(Path.cwd())
    register_links(Path.cwd())
    PLAN.toolchain.write(Path("toolchain.json"))


onerror:
    report.write_tables(Path.cwd(), PLAN, partial=True)
