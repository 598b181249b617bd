"""From calibration frames to scales, and from scales to a graph with Q/DQ nodes, of the part that has an 8-bit form.

INPUTS   checkpoint.lock, onnx/r{resolution}/{part}.onnx (in TensorRT before 10, and for its calibrators,
         {part}_fp32.onnx), the frames that `calibration:` names
OUTPUTS  calibration/r{resolution}.json: ranges, which hold for every 8-bit format
         onnx/r{resolution}/{part}_{quantize}.onnx, int8 or fp8 (its weights stay where the float graph's are)
         calibration/r{resolution}_{algorithm}.cache and .json: TensorRT's own scales, with `method: calibrator`
"""

EIGHT_BIT_PART = PLAN.family.eight_bit_part.name
EIGHT_BIT_SOURCE = f"onnx/r{{resolution}}/{EIGHT_BIT_PART}{PLAN.eight_bit_source}.onnx"


rule measure_scales:
    input:
        lock="checkpoint.lock",
        graph=EIGHT_BIT_SOURCE,
        data=f"{EIGHT_BIT_SOURCE}.data",
    output:
        scales="calibration/r{resolution}.json",
    log:
        "logs/calibration/r{resolution}.log",
    threads: workflow.cores
    params:
        **PLAN.calibration(),
        images=contents("calibration"),
        code=code("measure_scales", *PLAN.family.eight_bit_part.code),
    script:
        "../workflow_scripts/measure_scales.py"


rule quantize_graph:
    input:
        graph=EIGHT_BIT_SOURCE,
        data=f"{EIGHT_BIT_SOURCE}.data",
        scales="calibration/r{resolution}.json",
    output:
        graph=f"onnx/r{{resolution}}/{EIGHT_BIT_PART}_{{quantize}}.onnx",
    log:
        "logs/quantize/r{resolution}_{quantize}.log",
    params:
        exclude=PLAN.variants.settings.calibration.exclude,
        code=code("quantize_graph"),
    script:
        "../workflow_scripts/quantize_graph.py"


rule calibrate_graph:
    input:
        graph=EIGHT_BIT_SOURCE,
        data=f"{EIGHT_BIT_SOURCE}.data",
    output:
        cache=f"calibration/r{{resolution}}_{PLAN.algorithm}.cache",
        report=f"calibration/r{{resolution}}_{PLAN.algorithm}.json",
    log:
        f"logs/calibration/r{{resolution}}_{PLAN.algorithm}.log",
    resources:
        gpu=GPU,
    params:
        **PLAN.calibrator(),
        images=contents("calibration"),
        code=code("calibrate_graph", *PLAN.building_modules()),
    script:
        "../workflow_scripts/calibrate_graph.py"
