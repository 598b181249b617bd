"""From graphs to engines, each built once, into a store that every variant links from.

INPUTS   onnx/{graph}.onnx; calibration/r{resolution}_{algorithm}.cache and .json where TensorRT measures the scales
OUTPUTS  engines/store/{engine}.engine, such as b8/text-encoder or b8_r672/decoder_q50, and its .engine.json (links
         into the engine cache, see ARCHITECTURE.md)
"""


rule build_engine:
    input:
        graph=built_from("graph"),
        data=built_from("data"),
        calibration=built_from("calibration"),
        again=unless_whole("engines/store/{engine}.engine"),
    output:
        engine="engines/store/{engine}.engine",
        record="engines/store/{engine}.engine.json",
    log:
        "logs/build/{engine}.log",
    resources:
        gpu=BUILD_GPU,
    params:
        **PLAN.build(),
        precision=build_precision,
        eight_bit=eight_bit_settings,
        code=code("build_engine", *PLAN.building_modules()),
    script:
        "../workflow_scripts/build_engine.py"
