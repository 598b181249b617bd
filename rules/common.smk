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
from sam3_runtime.engines.cache import register_links
from sam3_runtime.plan.code_digest import code_digest, remember
from sam3_runtime.plan.contents import Contents
from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.families.base import EIGHT_BIT, RESOLUTION
from sam3_runtime.plan.planning import make_plan


def plainly(ask):
    """``ask``, whose messages for people end Snakemake and stand alone: it would print the way through our code."""

    def answer(*arguments):
        try:
            return ask(*arguments)
        except Sam3Error as error:
            sys.exit(f"Error: {error}")

    return answer


def find_variants_file(name):
    """The file as named from the work folder, else from the project."""
    here = Path(name)
    return here if here.is_file() else Path(workflow.basedir) / name


def code(script, *modules):
    """A param: what a rule's script runs, which makes its outputs due again when it changes (code_digest.py)."""

    def digest(wildcards):
        return code_digest(
            Path(workflow.basedir, f"workflow_scripts/{script}.py"), *modules
        )

    return digest


def unless_whole(pattern):
    """An input of no file: an output that is there, and is not what its record says, is made again."""

    @plainly
    def look(wildcards):
        file = pattern.format(**wildcards)
        what = INSPECTION.look(file) if workflow.is_main_process else None
        if what and file not in workflow.dag.forcefiles:
            workflow.dag.forcefiles.add(file)
            print(f"{file} {what}: it is made again", file=sys.stderr)
        return []

    return look


def contents(section):
    """A param: what the images and videos of a section hold, wherever they are."""

    def digest(wildcards):
        return CONTENTS.of_sources(config["sources"][section])

    return digest


def annotated(wildcards):
    """Likewise of the data set's images; an annotation file is an input."""
    data = PLAN.data_set()
    if "annotations" not in data:
        return CONTENTS.of_sources(data.values())
    images = data.get("images")
    return CONTENTS.of_annotated(
        Path(data["annotations"]), Path(images) if images else None
    )


def configuration(wildcards):
    return PLAN.configure(wildcards.variant)


def limits(wildcards):
    return PLAN.verify(wildcards.variant)


def reference_of(wildcards):
    return paths.reference_file(PLAN.variant(wildcards.variant)[RESOLUTION])


@plainly
def annotations(wildcards):
    """The file that describes the data set; a folder whose names do that has none."""
    return PLAN.data_set().get("annotations", [])


def accuracy_of(wildcards):
    """What the reference reaches on the data set, where there is one: it is part of the gate then."""
    resolution = PLAN.variant(wildcards.variant)[RESOLUTION]
    return paths.reference_file(resolution, accuracy=True) if PLAN.has_data_set else []


def exported(wildcards):
    """What an export depends on, of a graph such as r672/decoder_q50."""
    graph = paths.parse_id(wildcards.graph, PLAN.family)
    return PLAN.export(graph.part.name, graph.ending)


def exported_part(wildcards):
    return paths.parse_id(wildcards.graph, PLAN.family).part.name


def export_code(wildcards):
    return code(
        "export_graph", *paths.parse_id(wildcards.graph, PLAN.family).part.code
    )(wildcards)


def built_from(kind):
    """The inputs of that kind of an engine such as b8_r672/decoder_q50: graph, data or calibration."""

    def files(wildcards):
        return paths.graph_files(PLAN, wildcards.engine)[kind]

    return files


def build_precision(wildcards):
    return PLAN.precision(paths.parse_id(wildcards.engine, PLAN.family).part.name)


def eight_bit_settings(wildcards):
    """Of a part that has no 8-bit form it is no param: Snakemake keeps none of what it cannot write down."""
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

# Where things are, as opposed to what they are: passed around the params, so that moving a folder reruns nothing.
config["variants_file"] = str(VARIANTS_FILE)
config["checkpoint_location"] = PLAN.checkpoint_location()
config["sources"] = PLAN.sources()
config["data_set"] = PLAN.data_set() if PLAN.has_data_set else None
config["family"] = PLAN.family.name
config["engine_cache"] = PLAN.cache_folder()
config["timing_cache"] = PLAN.timing_cache()
config["calibrator_settings"] = PLAN.calibrator_settings()
config["tensorrt_builder"] = PLAN.variants.settings.build.tensorrt.builder
config["build_gpus"] = PLAN.build_gpus()
config["run_gpus"] = PLAN.run_gpus()

CONTENTS = Contents()
INSPECTION = damage.Inspection(Path.cwd(), PLAN)
if workflow.is_main_process and not jobs.is_running(Path.cwd()):
    damage.remove_dangling_links(Path.cwd())

# A full-size export needs up to 12 GB, so one runs at a time; the demo's small ones share the cores.
EXPORT_THREADS = workflow.cores if PLAN.is_full_size else 1

# Jobs that hold the GPU; without one, nothing waits for it. TensorRT-RTX builds on the CPU.
GPU = int(PLAN.backend.on_gpu)
BUILD_GPU = int(PLAN.backend.builds_on == "gpu")

STEPS = [step for name in PLAN.names for step in paths.chain(PLAN, PLAN.variant(name))]


def made_by(*stages):
    """What the listed variants need of these stages, each file once."""
    return list(
        dict.fromkeys(
            file for step in STEPS if step.stage in stages for file in step.files
        )
    )


VARIANT_FILES = made_by("link", "configure")
VERDICTS = made_by("verify")
# What cannot run here is built and not measured; the table says so.
RUNS = not PLAN.why_not_run()
BENCHMARKS = made_by("bench") if RUNS else []
ACCURACIES = made_by("accuracy") if RUNS else []
BASELINES = made_by("baseline")
GRAPHS = made_by("export", "quantize", "reference")


WITH_DATA = [part for part in PLAN.family.parts.values() if part.external_data]
WITHOUT_DATA = [part for part in PLAN.family.parts.values() if not part.external_data]


wildcard_constraints:
    resolution=r"[1-9]\d*",
    quantize="|".join(EIGHT_BIT),
    graph=paths.id_pattern(PLAN.family, WITHOUT_DATA, False, ()),
    engine=paths.id_pattern(PLAN.family, PLAN.family.parts.values(), True),
    part="|".join(PLAN.family.parts),
    asset="|".join(Path(asset).stem for asset in PLAN.family.assets),
    variant="|".join(PLAN.names),


onstart:
    jobs.register_main(Path.cwd())
    register_links(Path.cwd())
    PLAN.toolchain.write(Path("toolchain.json"))


onerror:
    report.write_tables(Path.cwd(), PLAN, partial=True)
