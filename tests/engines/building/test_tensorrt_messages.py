"""NVIDIA's texts, as they were seen, and what is made of them. Needs neither TensorRT nor a GPU."""

from __future__ import annotations

import pytest

from sam3_runtime.engines.building.tensorrt_messages import OTHERWISE, BuildLog, build_error

MEMORY = """Total Host Persistent Memory: 80 bytes
Total Device Persistent Memory: 1000 bytes
Max Scratch Memory: 18677760 bytes
Total Activation Memory: 18677760 bytes
Total Weights Memory: 7714688 bytes"""


def test_sizes_are_read_from_what_the_build_says() -> None:
    log = BuildLog()
    for line in MEMORY.splitlines():
        log.note("INFO", line)
    assert log.weights == 7714688 + 1000
    assert (log.memory["scratch"], log.memory["activation"]) == (18677760, 18677760)
    assert BuildLog().weights is None


def test_known_warnings_are_explained_and_others_stand_out(capsys: pytest.CaptureFixture[str]) -> None:
    log = BuildLog()
    for name in ("input_ids", "attention_mask"):
        log.note("WARNING", f"ModelImporter.cpp:1071: Make sure input {name} has Int64 binding.")
    log.note("WARNING", "CUDA lazy loading is not enabled. Enabling it can significantly reduce device memory usage.")
    log.note("WARNING", "the moon is full")
    assert log.explain_warnings() == ["the moon is full"]
    said = capsys.readouterr().out
    assert "expected, 2 of 4 warnings: these tensors are int64" in said
    assert "expected, 1 of 4 warnings: loading all kernels" in said
    assert "cannot explain: the moon is full" in said


def test_a_missing_scale_is_expected_and_explained_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = BuildLog()
    for tensor in ("(Unnamed Layer* 269) [Shuffle]_output", "/global_pool/Flatten_output_0", "768"):
        log.note(
            "WARNING",
            f"Missing scale and zero-point for tensor {tensor}, expect fall back to non-int8 implementation for any "
            "layer consuming or producing given tensor",
        )
    assert log.explain_warnings() == []
    said = capsys.readouterr().out
    assert said.count("expected, 3 of 3 warnings: these tensors have no 8-bit scale") == 1
    assert "cannot explain" not in said


def test_tensors_of_zeros_are_kept() -> None:
    log = BuildLog()
    log.note(
        "WARNING", "Tensor (Unnamed Layer* 1022) [PluginV2]_output_0 is uniformly zero; network calibration failed."
    )
    log.note("INFO", "Tensor 326 is uniformly zero.")
    assert log.zeros == {"(Unnamed Layer* 1022) [PluginV2]_output_0", "326"}


def test_details_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    BuildLog().note("VERBOSE", "a thousand of these")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("Cannot compile for target(s) sm86, because the model contains HW-specific datatypes: fp8_e4m3.", "FP8 needs"),
        ("Cannot compile operation 'mm' for Turing (SM75): FP32 GEMM is not supported.", "turing out of"),
        ("only supports int32, int64, and float input types for Range!", "export it again"),
        ("sum: ElementWiseOperation SUM must have same input types.", "export it again"),
        ('creator && "Plugin not found, are the plugin name', "export it again"),
        ("Could not find any implementation for node x", "smaller batch"),
        ("CUDA driver version is insufficient for CUDA runtime version", "name the GPUs' generations"),
        ("something that was never seen", OTHERWISE),
    ],
)
def test_an_error_is_passed_on_with_the_fix(said: str, fix: str) -> None:
    error = build_error("TensorRT cannot build x", [said])
    assert said in str(error)
    assert fix in str(error.hint)


def test_echoes_of_one_failure_are_left_out() -> None:
    said = [
        'While parsing node number 0 [Add -> "y"]:',
        "--- Begin node ---\nNode name: sum",
        "the cause",
        "ModelImporter.cpp:151: ERROR: ModelImporter.cpp:489 In function parseNode:\nthe cause",
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime",
    ]
    assert str(build_error("refused", said)).startswith("refused: the cause\n")
    assert "it gave no reason" in str(build_error("refused", []))
