"""From calibration frames to scales, and from scales to a vision encoder with Q/DQ nodes.

INPUTS   checkpoint.lock, onnx/r{resolution}/vision-encoder.onnx, the frames that `calibration:` names
OUTPUTS  calibration/r{resolution}.json: ranges, which hold for every 8-bit format
         onnx/r{resolution}/vision-encoder_{quantize}.onnx, int8 or fp8 (its weights stay in vision-encoder.onnx.data)
"""

MEASURING_CODE = [
    "quantize/ranges.py",
    "quantize/record.py",
    "quantize/collect.py",
    "preprocess.py",
    "sources.py",
]


rule measure_scales:
    input:
        lock="checkpoint.lock",
        graph="onnx/r{resolution}/vision-encoder.onnx",
        data="onnx/r{resolution}/vision-encoder.onnx.data",
        code=code(*MEASURING_CODE),
    output:
        scales="calibration/r{resolution}.json",
    log:
        "logs/calibration/r{resolution}.log",
    threads: workflow.cores
    params:
        **PLAN.calibration(),
    script:
        "../workflow_scripts/measure_scales.py"


rule quantize_vision_encoder:
    input:
        graph="onnx/r{resolution}/vision-encoder.onnx",
        data="onnx/r{resolution}/vision-encoder.onnx.data",
        scales="calibration/r{resolution}.json",
        code=code("quantize/ranges.py", "quantize/record.py", "quantize/insert.py"),
    output:
        graph="onnx/r{resolution}/vision-encoder_{quantize}.onnx",
    log:
        "logs/quantize/r{resolution}_{quantize}.log",
    params:
        **PLAN.quantization(),
    script:
        "../workflow_scripts/quantize_vision_encoder.py"
