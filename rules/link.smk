"""From the store to a variant's own folder: relative links, and the config.json that says what the variant is.

INPUTS   engines/store/**, onnx/tokenizer.json, checkpoint.lock
OUTPUTS  engines/{variant}/{part}.engine and .engine.json, tokenizer.json, config.json
"""


rule link_vision_encoder:
    input:
        engine="engines/store/b{batch}_r{resolution}/vision-encoder{suffix}.engine",
        record="engines/store/b{batch}_r{resolution}/vision-encoder{suffix}.engine.json",
        again=unless_whole(
            "engines/b{batch}_q{queries}_r{resolution}{suffix}/vision-encoder.engine"
        ),
    output:
        engine="engines/b{batch}_q{queries}_r{resolution}{suffix}/vision-encoder.engine",
        record="engines/b{batch}_q{queries}_r{resolution}{suffix}/vision-encoder.engine.json",
    log:
        "logs/link/b{batch}_q{queries}_r{resolution}{suffix}/vision-encoder.log",
    script:
        "../workflow_scripts/link_engine.py"


rule link_text_encoder:
    input:
        engine="engines/store/b{batch}/text-encoder.engine",
        record="engines/store/b{batch}/text-encoder.engine.json",
        again=unless_whole(
            "engines/b{batch}_q{queries}_r{resolution}{suffix}/text-encoder.engine"
        ),
    output:
        engine="engines/b{batch}_q{queries}_r{resolution}{suffix}/text-encoder.engine",
        record="engines/b{batch}_q{queries}_r{resolution}{suffix}/text-encoder.engine.json",
    log:
        "logs/link/b{batch}_q{queries}_r{resolution}{suffix}/text-encoder.log",
    script:
        "../workflow_scripts/link_engine.py"


rule link_geometry_encoder:
    input:
        engine="engines/store/b{batch}_r{resolution}/geometry-encoder.engine",
        record="engines/store/b{batch}_r{resolution}/geometry-encoder.engine.json",
        again=unless_whole(
            "engines/b{batch}_q{queries}_r{resolution}{suffix}/geometry-encoder.engine"
        ),
    output:
        engine="engines/b{batch}_q{queries}_r{resolution}{suffix}/geometry-encoder.engine",
        record="engines/b{batch}_q{queries}_r{resolution}{suffix}/geometry-encoder.engine.json",
    log:
        "logs/link/b{batch}_q{queries}_r{resolution}{suffix}/geometry-encoder.log",
    script:
        "../workflow_scripts/link_engine.py"


rule link_decoder:
    input:
        engine="engines/store/b{batch}_r{resolution}/decoder_q{queries}.engine",
        record="engines/store/b{batch}_r{resolution}/decoder_q{queries}.engine.json",
        again=unless_whole(
            "engines/b{batch}_q{queries}_r{resolution}{suffix}/decoder.engine"
        ),
    output:
        engine="engines/b{batch}_q{queries}_r{resolution}{suffix}/decoder.engine",
        record="engines/b{batch}_q{queries}_r{resolution}{suffix}/decoder.engine.json",
    log:
        "logs/link/b{batch}_q{queries}_r{resolution}{suffix}/decoder.log",
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
        code=code("configure_variant", "configure"),
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


ruleorder: unknown_variant > link_vision_encoder
ruleorder: unknown_variant > link_text_encoder
ruleorder: unknown_variant > link_geometry_encoder
ruleorder: unknown_variant > link_decoder
