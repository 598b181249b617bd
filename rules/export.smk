"""From the checkpoint to ONNX graphs, one process per graph, and to the reference outputs of float32 PyTorch.

INPUTS   the checkpoint (a hub name, a local folder or `random`)
OUTPUTS  checkpoint.lock
         onnx/{asset}.json: other files that running needs, such as tokenizer.json
         onnx/{graph}.onnx, such as text-encoder or r672/decoder_q50
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


rule copy_asset:
    input:
        lock="checkpoint.lock",
        again=unless_whole("onnx/{asset}.json"),
    output:
        asset="onnx/{asset}.json",
    log:
        "logs/copy_{asset}.log",
    params:
        code=code("copy_asset", PLAN.exporting_module("checkpoint")),
    script:
        "../workflow_scripts/copy_asset.py"


rule export_graph:
    input:
        lock="checkpoint.lock",
    output:
        graph="onnx/{graph}.onnx",
    log:
        "logs/export/{graph}.log",
    threads: EXPORT_THREADS
    params:
        part=lambda wildcards: graph_of(wildcards).part.name,
        export=exported,
        code=export_code,
    script:
        "../workflow_scripts/export_graph.py"


# The same for parts whose weights lie beside the graph. It ends with _fp32 where 8 bits start from a float32 graph.
use rule export_graph as export_graph_with_data with:
    output:
        graph="onnx/{graph}.onnx",
        data="onnx/{graph}.onnx.data",
    wildcard_constraints:
        graph=paths.id_pattern(
            PLAN.family,
            [part for part in PARTS if part.external_data],
            False,
            ("_fp32",),
        ),


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
        code=code("compute_reference", PLAN.exporting_module("reference")),
    script:
        "../workflow_scripts/compute_reference.py"


rule compute_accuracy:
    input:
        lock="checkpoint.lock",
        data=annotations,
    output:
        reached="reference/r{resolution}_accuracy.safetensors",
    log:
        "logs/reference/r{resolution}_accuracy.log",
    threads: EXPORT_THREADS
    params:
        **PLAN.accuracy(),
        images=annotated,
        code=code("compute_accuracy", PLAN.exporting_module("accuracy")),
    script:
        "../workflow_scripts/compute_accuracy.py"
