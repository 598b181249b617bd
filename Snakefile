"""SAM3 engine variants: variants.yaml lists what to build, rules/ define which files are made from which.

snakemake                                       every listed variant: built, linked, configured and verified
snakemake engines/b8_q50_r560/decoder.engine    one engine
snakemake bench_all                             the same, and measured; also export_all, build_all, verify_all
snakemake -n                                    what would run, and why
"""

from snakemake.utils import min_version

min_version("9.14")


# One environment serves every job: docs/environment.md lists what this image must contain.
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
    input:
        VARIANT_FILES,
        VERDICTS,
    log:
        "logs/judge.log",
    script:
        f"{workflow.basedir}/workflow_scripts/judge.py"


include: "rules/targets.smk"
