"""From the store to a variant's own folder: relative links, and the config.json that says what the variant is.

INPUTS   engines/store/**, onnx/tokenizer.json, checkpoint.lock
OUTPUTS  engines/{variant}/{part}.engine and .engine.json, tokenizer.json, config.json
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


rule link_tokenizer:
    input:
        tokenizer="onnx/tokenizer.json",
        again=unless_whole("engines/{variant}/tokenizer.json"),
    output:
        tokenizer="engines/{variant}/tokenizer.json",
    log:
        "logs/link/{variant}/tokenizer.log",
    script:
        "../workflow_scripts/link_tokenizer.py"


rule configure_variant:
    input:
        lock="checkpoint.lock",
        tokenizer="engines/{variant}/tokenizer.json",
        records=expand("engines/{{variant}}/{part}.engine.json", part=PART_NAMES),
        again=unless_whole("engines/{variant}/config.json"),
    output:
        config="engines/{variant}/config.json",
    log:
        "logs/configure/{variant}.log",
    params:
        chosen=configuration,
        code=code("configure_variant", "deploy/configure"),
    script:
        "../workflow_scripts/configure_variant.py"


# A name that is not listed matches no rule above; this one answers with the nearest name and the line to add.
rule unknown_variant:
    output:
        "{place}{name}",
    wildcard_constraints:
        place=r"|engines/|bench/",
        name=rf"(?!(?:{'|'.join(PLAN.names)})(?:/|\.json$))b\d[^/]*(?:/.*)?",
    params:
        refused=refuse_unknown_variant,
