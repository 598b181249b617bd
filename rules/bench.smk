"""From a variant's engines to its speed, memory and sizes, with nothing else of the workflow running.

INPUTS   engines/{variant}/*
OUTPUTS  bench/{variant}.json
"""


rule bench_variant:
    input:
        config="engines/{variant}/config.json",
        records=expand("engines/{{variant}}/{part}.engine.json", part=PART_NAMES),
        engines=expand("engines/{{variant}}/{part}.engine", part=PART_NAMES),
        code=code(
            "benchmark.py",
            "pipeline.py",
            "preprocess.py",
            "postprocess.py",
            "prompts.py",
            "sources.py",
        ),
    output:
        result="bench/{variant}.json",
    log:
        "logs/bench/{variant}.log",
    threads: workflow.cores
    resources:
        gpu=GPU,
    params:
        **PLAN.bench(),
    script:
        "../workflow_scripts/bench_variant.py"
