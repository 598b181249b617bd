"""From the store to a variant's own folder: relative links, and the config.json that describes the variant.

INPUTS   engines/store/**, onnx/{asset}.json, checkpoint.lock
OUTPUTS  engines/{variant}/{part}.engine and .engine.json, {asset}.json, config.json
"""


rule link_engine:
    input:
        engine=stored("engine"),
        record=stored("engine.json"),
        again=unless_whole("engines/{variant}/{part}.engine"),
    output:
        engine="engines/{variant}/{part}.engine",
        record="engines/{variant}/{part}.engine.json",
    log:
        "logs/link/{variant}/{part}.log",
    script:
        "../workflow_scripts/link_engine.py"


rule configure_variant:
    input:
        lock="checkpoint.lock",
        assets=expand("onnx/{asset}", asset=PLAN.family.assets),
        records=RECORDS,
        again=unless_whole("engines/{variant}/config.json", *ASSETS),
    output:
        assets=ASSETS,
        config="engines/{variant}/config.json",
    log:
        "logs/configure/{variant}.log",
    params:
        chosen=lambda wildcards: PLAN.configure(wildcards.variant),
        code=code("configure_variant", "deploy/configure"),
    script:
        "../workflow_scripts/configure_variant.py"


# A name that is not listed matches no rule above; this one answers with the nearest name and the line to add.
rule unknown_variant:
    output:
        "{folder}{name}",
    wildcard_constraints:
        folder=r"|engines/|bench/",
        name=rf"(?!(?:{'|'.join(PLAN.names)})(?:/|\.json$))b\d[^/]*(?:/.*)?",
    params:
        refused=refuse_unknown_variant,
