"""From a variant's engines to the accuracy gate's verdict.

INPUTS   engines/{variant}/*, reference/r{resolution}.safetensors
OUTPUTS  engines/{variant}/verify.json
"""


rule verify_variant:
    input:
        reference=reference_of,
        config="engines/{variant}/config.json",
        records=expand("engines/{{variant}}/{part}.engine.json", part=PART_NAMES),
        engines=expand("engines/{{variant}}/{part}.engine", part=PART_NAMES),
        code=code(
            "verify.py",
            "backends/host.py",
            "backends/on_demand.py",
            "batches.py",
            "decoder_calls.py",
            "loading.py",
            "pipeline.py",
            "preprocess.py",
            "postprocess.py",
            "prompts.py",
            "reference.py",
        ),
    output:
        verdict="engines/{variant}/verify.json",
    log:
        "logs/verify/{variant}.log",
    resources:
        gpu=GPU,
    params:
        chosen=limits,
    script:
        "../workflow_scripts/verify_variant.py"
