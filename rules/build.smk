"""From graphs to engines, each built once, into a store that every variant links from.

INPUTS   onnx/**.onnx; calibration/r{resolution}_{algorithm}.cache and .json where TensorRT measures the scales
OUTPUTS  engines/store/b{batch}/text-encoder.engine
         engines/store/b{batch}_r{resolution}/vision-encoder{suffix}.engine, geometry-encoder.engine,
         decoder_q{queries}.engine, each with its .engine.json (links into the engine cache, see ARCHITECTURE.md)
"""

BUILD_CODE = code("build_engine", *PLAN.building_modules())


rule build_text_encoder:
    input:
        graph="onnx/text-encoder.onnx",
        data="onnx/text-encoder.onnx.data",
        again=unless_whole("engines/store/b{batch}/text-encoder.engine"),
    output:
        engine="engines/store/b{batch}/text-encoder.engine",
        record="engines/store/b{batch}/text-encoder.engine.json",
    log:
        "logs/build/b{batch}/text-encoder.log",
    resources:
        gpu=BUILD_GPU,
    params:
        **PLAN.build("text-encoder"),
        code=BUILD_CODE,
    script:
        "../workflow_scripts/build_engine.py"


rule build_vision_encoder:
    input:
        graph=vision_graph,
        data=vision_data,
        calibration=calibration_cache,
        again=unless_whole(
            "engines/store/b{batch}_r{resolution}/vision-encoder{suffix}.engine"
        ),
    output:
        engine="engines/store/b{batch}_r{resolution}/vision-encoder{suffix}.engine",
        record="engines/store/b{batch}_r{resolution}/vision-encoder{suffix}.engine.json",
    log:
        "logs/build/b{batch}_r{resolution}/vision-encoder{suffix}.log",
    resources:
        gpu=BUILD_GPU,
    params:
        **PLAN.build("vision-encoder"),
        eight_bit=eight_bit_settings,
        code=BUILD_CODE,
    script:
        "../workflow_scripts/build_engine.py"


rule build_geometry_encoder:
    input:
        graph="onnx/r{resolution}/geometry-encoder.onnx",
        again=unless_whole(
            "engines/store/b{batch}_r{resolution}/geometry-encoder.engine"
        ),
    output:
        engine="engines/store/b{batch}_r{resolution}/geometry-encoder.engine",
        record="engines/store/b{batch}_r{resolution}/geometry-encoder.engine.json",
    log:
        "logs/build/b{batch}_r{resolution}/geometry-encoder.log",
    resources:
        gpu=BUILD_GPU,
    params:
        **PLAN.build("geometry-encoder"),
        code=BUILD_CODE,
    script:
        "../workflow_scripts/build_engine.py"


rule build_decoder:
    input:
        graph="onnx/r{resolution}/decoder_q{queries}.onnx",
        again=unless_whole(
            "engines/store/b{batch}_r{resolution}/decoder_q{queries}.engine"
        ),
    output:
        engine="engines/store/b{batch}_r{resolution}/decoder_q{queries}.engine",
        record="engines/store/b{batch}_r{resolution}/decoder_q{queries}.engine.json",
    log:
        "logs/build/b{batch}_r{resolution}/decoder_q{queries}.log",
    resources:
        gpu=BUILD_GPU,
    params:
        **PLAN.build("decoder"),
        code=BUILD_CODE,
    script:
        "../workflow_scripts/build_engine.py"
