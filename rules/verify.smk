"""From a variant's engines to the accuracy gate's verdict.

INPUTS   engines/{variant}/*, reference/r{resolution}.safetensors;
         where `accuracy:` names a data set, reference/r{resolution}_accuracy.safetensors and the annotations
OUTPUTS  engines/{variant}/verify.json
         accuracy/{variant}.json, on the whole data set
"""


rule verify_variant:
    input:
        reference=reference_of,
        accuracy=lambda wildcards: reference_of(wildcards, accuracy=True),
        config="engines/{variant}/config.json",
        records=RECORDS,
        engines=ENGINES,
        again=unless_whole("engines/{variant}/verify.json"),
    output:
        verdict="engines/{variant}/verify.json",
    log:
        "logs/verify/{variant}.log",
    resources:
        gpu=GPU,
    params:
        chosen=lambda wildcards: PLAN.verify(wildcards.variant),
        code=code("verify_variant", *PLAN.running_modules()),
    script:
        "../workflow_scripts/verify_variant.py"


rule evaluate_variant:
    input:
        data=annotations,
        config="engines/{variant}/config.json",
        records=RECORDS,
        engines=ENGINES,
    output:
        result="accuracy/{variant}.json",
    log:
        "logs/accuracy/{variant}.log",
    threads: workflow.cores
    resources:
        gpu=GPU,
    params:
        device=PLAN.device(),
        images=annotated,
        code=code("evaluate_variant", *PLAN.running_modules()),
    script:
        "../workflow_scripts/evaluate_variant.py"
