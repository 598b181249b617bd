"""From the checkpoint to ONNX graphs, one process a graph, and to what float32 PyTorch says.

INPUTS   the checkpoint (a hub name, a local folder or `random`)
OUTPUTS  checkpoint.lock
         onnx/tokenizer.json, onnx/text-encoder.onnx
         onnx/r{resolution}/vision-encoder.onnx, geometry-encoder.onnx, decoder_q{queries}.onnx
         onnx/r{resolution}/vision-encoder_fp32.onnx, which 8 bits come from in TensorRT before 10
         reference/r{resolution}.safetensors
         reference/r{resolution}_accuracy.safetensors, where `accuracy:` names a data set
"""

EXPORT_CODE = [
    "contract.py",
    "export/checkpoint.py",
    "export/cleanup.py",
    "export/graph.py",
    "export/islands.py",
    "export/layers.py",
    "export/typed.py",
    "export/weights.py",
]


rule lock_checkpoint:
    output:
        lock=update("checkpoint.lock"),
    log:
        "logs/lock_checkpoint.log",
    params:
        **PLAN.checkpoint(),
    script:
        "../workflow_scripts/lock_checkpoint.py"


rule copy_tokenizer:
    input:
        lock="checkpoint.lock",
    output:
        tokenizer="onnx/tokenizer.json",
    log:
        "logs/copy_tokenizer.log",
    script:
        "../workflow_scripts/copy_tokenizer.py"


rule export_text_encoder:
    input:
        lock="checkpoint.lock",
        code=code(*EXPORT_CODE, "export/text.py"),
    output:
        graph="onnx/text-encoder.onnx",
        data="onnx/text-encoder.onnx.data",
    log:
        "logs/export/text-encoder.log",
    threads: EXPORT_THREADS
    params:
        part="text-encoder",
        export=PLAN.export("text-encoder"),
    script:
        "../workflow_scripts/export_part.py"


rule export_vision_encoder:
    input:
        lock="checkpoint.lock",
        code=code(*EXPORT_CODE, "export/vision.py"),
    output:
        graph="onnx/r{resolution}/vision-encoder.onnx",
        data="onnx/r{resolution}/vision-encoder.onnx.data",
    log:
        "logs/export/r{resolution}/vision-encoder.log",
    threads: EXPORT_THREADS
    params:
        part="vision-encoder",
        export=PLAN.export("vision-encoder"),
    script:
        "../workflow_scripts/export_part.py"


# What 8-bit forms come from where their float16 graph could not be read: see Plan.eight_bit_source.
use rule export_vision_encoder as export_float_vision_encoder with:
    output:
        graph="onnx/r{resolution}/vision-encoder_fp32.onnx",
        data="onnx/r{resolution}/vision-encoder_fp32.onnx.data",
    log:
        "logs/export/r{resolution}/vision-encoder_fp32.log",
    params:
        part="vision-encoder",
        export=PLAN.export("vision-encoder") | {"precision": "fp32"},


rule export_geometry_encoder:
    input:
        lock="checkpoint.lock",
        code=code(*EXPORT_CODE, "export/geometry.py"),
    output:
        graph="onnx/r{resolution}/geometry-encoder.onnx",
    log:
        "logs/export/r{resolution}/geometry-encoder.log",
    threads: EXPORT_THREADS
    params:
        part="geometry-encoder",
        export=PLAN.export("geometry-encoder"),
    script:
        "../workflow_scripts/export_part.py"


rule export_decoder:
    input:
        lock="checkpoint.lock",
        code=code(*EXPORT_CODE, "export/geometry.py", "export/decoder.py"),
    output:
        graph="onnx/r{resolution}/decoder_q{queries}.onnx",
    log:
        "logs/export/r{resolution}/decoder_q{queries}.log",
    threads: EXPORT_THREADS
    params:
        part="decoder",
        export=PLAN.export("decoder"),
    script:
        "../workflow_scripts/export_part.py"


rule compute_reference:
    input:
        lock="checkpoint.lock",
        code=code(
            "export/checkpoint.py",
            "export/reference.py",
            "export/weights.py",
            "sources.py",
            "reference.py",
        ),
    output:
        reference="reference/r{resolution}.safetensors",
    log:
        "logs/reference/r{resolution}.log",
    threads: EXPORT_THREADS
    params:
        **PLAN.reference(),
    script:
        "../workflow_scripts/compute_reference.py"


rule compute_accuracy:
    input:
        lock="checkpoint.lock",
        annotations=annotations,
        code=code(
            "evaluation/reference.py",
            "evaluation/data_set.py",
            "evaluation/questions.py",
            "export/accuracy.py",
            "export/checkpoint.py",
            "export/reference.py",
            "export/weights.py",
            "evaluation/metrics.py",
            "assignment.py",
            "postprocess.py",
            "preprocess.py",
            "prompts.py",
            "reference.py",
            "sources.py",
        ),
    output:
        reached="reference/r{resolution}_accuracy.safetensors",
    log:
        "logs/reference/r{resolution}_accuracy.log",
    threads: EXPORT_THREADS
    params:
        **PLAN.accuracy(),
    script:
        "../workflow_scripts/compute_accuracy.py"
