"""SAM3 engine variants: variants.yaml says what to build, rules/ say from what to what.

snakemake                                       every listed variant: built, linked, configured and verified
snakemake engines/b8_q50_r560/decoder.engine    one engine
snakemake export_all | build_all | verify_all | bench_all
snakemake -n                                    what would run, and why
"""

from snakemake.utils import min_version

min_version("9.14")


# One environment serves every job; see docs/environment.md for what this image must hold.
container: "docker://nvcr.io/nvidia/pytorch:26.05-py3"


include: "rules/common.smk"
include: "rules/export.smk"
include: "rules/quantize.smk"
include: "rules/build.smk"
include: "rules/link.smk"
include: "rules/verify.smk"
include: "rules/bench.smk"


# Has no output, so it runs every time: a variant that is missing, failed or rejected ends every run with an error.
rule all:
    default_target: True
    input:
        VARIANT_FILES,
        VERDICTS,
    log:
        "logs/judge.log",
    params:
        names=PLAN.names,
    script:
        "workflow_scripts/judge.py"


rule export_all:
    input:
        GRAPHS,


rule build_all:
    input:
        VARIANT_FILES,


use rule all as verify_all with:
    default_target: False
    input:
        VERDICTS,


use rule all as bench_all with:
    default_target: False
    input:
        VERDICTS,
        BENCHMARKS,
