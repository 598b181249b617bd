"""From the checkpoint to ONNX graphs, one process a graph, and to what float32 PyTorch says.

INPUTS   the checkpoint (a hub name, a local folder or `random`)
OUTPUTS  checkpoint.lock
         onnx/tokenizer.json, onnx/text-encoder.onnx
         onnx/r{resolution}/vision-encoder.onnx, geometry-encoder.onnx, decoder_q{queries}.onnx
         onnx/r{resolution}/vision-encoder_fp32.onnx, which 8 bits come from in TensorRT before 10
         reference/r{resolution}.safetensors
         reference/r{resolution}_accuracy.safetensors, where `accuracy:` names a data set
"""


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
        again=unless_whole("onnx/tokenizer.json"),
    output:
        tokenizer="onnx/tokenizer.json",
    log:
        "logs/copy_tokenizer.log",
    params:
        code=code("copy_tokenizer"),
    script:
        "../workflow_scripts/copy_tokenizer.py"


rule export_text_encoder:
    input:
        lock="checkpoint.lock",
    output:
        graph="onnx/text-encoder.onnx",
        data="onnx/text-encoder.onnx.data",
    log:
        "logs/export/text-encoder.log",
    threads: EXPORT_THREADS
    params:
        part="text-encoder",
        export=PLAN.export("text-encoder"),
        code=code("export_part", "export/text"),
    script:
        "../workflow_scripts/export_part.py"


rule export_vision_encoder:
    input:
        lock="checkpoint.lock",
    output:
        graph="onnx/r{resolution}/vision-encoder.onnx",
        data="onnx/r{resolution}/vision-encoder.onnx.data",
    log:
        "logs/export/r{resolution}/vision-encoder.log",
    threads: EXPORT_THREADS
    params:
        part="vision-encoder",
        export=PLAN.export("vision-encoder"),
        code=code("export_part", "export/vision"),
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
        code=code("export_part", "export/vision"),


rule export_geometry_encoder:
    input:
        lock="checkpoint.lock",
    output:
        graph="onnx/r{resolution}/geometry-encoder.onnx",
    log:
        "logs/export/r{resolution}/geometry-encoder.log",
    threads: EXPORT_THREADS
    params:
        part="geometry-encoder",
        export=PLAN.export("geometry-encoder"),
        code=code("export_part", "export/geometry"),
    script:
        "../workflow_scripts/export_part.py"


rule export_decoder:
    input:
        lock="checkpoint.lock",
    output:
        graph="onnx/r{resolution}/decoder_q{queries}.onnx",
    log:
        "logs/export/r{resolution}/decoder_q{queries}.log",
    threads: EXPORT_THREADS
    params:
        part="decoder",
        export=PLAN.export("decoder"),
        code=code("export_part", "export/decoder"),
    script:
        "../workflow_scripts/export_part.py"


rule compute_reference:
    input:
        lock="checkpoint.lock",
    output:
        reference="reference/r{resolution}.safetensors",
    log:
        "logs/reference/r{resolution}.log",
    threads: EXPORT_THREADS
    params:
        **PLAN.reference(),
        images=contents("reference"),
        code=code("compute_reference"),
    script:
        "../workflow_scripts/compute_reference.py"


rule compute_accuracy:
    input:
        lock="checkpoint.lock",
        annotations=annotations,
    output:
        reached="reference/r{resolution}_accuracy.safetensors",
    log:
        "logs/reference/r{resolution}_accuracy.log",
    threads: EXPORT_THREADS
    params:
        **PLAN.accuracy(),
        images=annotated,
        code=code("compute_accuracy"),
    script:
        "../workflow_scripts/compute_accuracy.py"
