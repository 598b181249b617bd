"""From a variant's engines to its speed, memory and sizes, and from the checkpoint to what its own library takes on the
same machine; with nothing else of the workflow running.

INPUTS   engines/{variant}/*, checkpoint.lock
OUTPUTS  bench/{variant}.json, bench/baselines/r{resolution}.json
"""


rule bench_variant:
    input:
        config="engines/{variant}/config.json",
        records=RECORDS,
        engines=ENGINES,
        again=unless_whole("bench/{variant}.json"),
    output:
        result="bench/{variant}.json",
    log:
        "logs/bench/{variant}.log",
    threads: workflow.cores
    resources:
        gpu=GPU,
    params:
        **PLAN.bench(),
        images=contents("bench"),
        code=code("bench_variant", *PLAN.running_modules()),
    script:
        "../workflow_scripts/bench_variant.py"


rule measure_baseline:
    input:
        lock="checkpoint.lock",
    output:
        result="bench/baselines/r{resolution}.json",
    log:
        "logs/baselines/r{resolution}.log",
    threads: workflow.cores
    resources:
        gpu=GPU,
    params:
        settings=PLAN.baseline(),
        code=code("measure_baseline", PLAN.exporting_module("baselines")),
    script:
        "../workflow_scripts/measure_baseline.py"
