"""The gate on a data set: what reaches the reference's AP passes, and an engine that is broken is rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from demo.scenes import HELD_OUT, write_coco
from sam3_runtime.core.files import sha256_of
from sam3_runtime.evaluation.reference import read_accuracy_reference
from sam3_runtime.families.sam3.evaluate import Evaluation
from sam3_runtime.records.records import EngineRecord, Verdict
from tests.workflow.conftest import WorkFolder

RESOLUTION = 224
SCENES = 4


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out scenes, six phrases asked of each."""
    return write_coco(tmp_path_factory.mktemp("data"), range(HELD_OUT, HELD_OUT + SCENES))


def test_a_data_set_is_one_more_job_and_a_verdict(built: WorkFolder, annotations: Path) -> None:
    built.write(accuracy={"annotations": str(annotations)})
    assert built.planned() == {"compute_accuracy": 1, "verify_variant": 1, "all": 1}
    assert built.planned("accuracy_all") == {"evaluate_variant": 1, "accuracy_all": 1}
    assert built.planned("export_all") == {"compute_accuracy": 1, "export_all": 1}, "what PyTorch says comes from there"
    run = built.snakemake("verify_all", "accuracy_all")
    assert run.returncode == 0, run.stdout

    reference = read_accuracy_reference(built.path / f"reference/r{RESOLUTION}_accuracy.safetensors")
    assert reference.accuracy.box.ap50 is not None
    assert reference.accuracy.box.ap50 > 0.8
    verdict = Verdict.read(built.path / "engines/b2_q50_r224/verify.json")
    losses = {check.name: check for check in verdict.checks if check.name.endswith("loss")}
    assert set(losses) == {"box AP loss", "mask AP loss"}
    assert all(abs(check.value) < 0.005 and check.limit == 0.005 for check in losses.values())
    assert verdict.accuracy is not None
    table = json.loads((built.path / "bench/table.json").read_text())
    assert table["rows"][0]["box_ap"] == round(verdict.accuracy["box"]["ap"], 4)
    found = Evaluation.read(built.path / "accuracy/b2_q50_r224.json")
    assert found.accuracy.model_dump() == verdict.accuracy

    assert built.planned("all", "accuracy_all") == {"all": 1}
    built.write(accuracy={"annotations": str(annotations), "limit": 2})
    assert built.planned() == {"compute_accuracy": 1, "verify_variant": 1, "all": 1}
    built.write(accuracy={"annotations": str(annotations)}, gate={"float": {"ap_loss": 0.1}})
    assert built.planned("all", "accuracy_all") == {"verify_variant": 1, "all": 1}
    built.write(accuracy={"annotations": str(_edited(annotations, built.path / "other.json"))})
    assert built.planned("accuracy_all") == {"evaluate_variant": 1, "accuracy_all": 1}
    assert built.planned() == {"compute_accuracy": 1, "verify_variant": 1, "all": 1}


def _edited(annotations: Path, target: Path) -> Path:
    file = json.loads(annotations.read_text())
    file["annotations"].pop()
    target.write_text(json.dumps(file))
    return target


def test_without_a_data_set_there_is_nothing_to_measure_on(built: WorkFolder) -> None:
    run = built.snakemake("--dry-run", "accuracy_all")
    assert run.returncode != 0
    assert "names no data set to measure accuracy on" in run.stdout


def test_a_data_set_on_which_the_reference_finds_nothing_is_refused(
    built: WorkFolder, annotations: Path, tmp_path: Path
) -> None:
    file = json.loads(annotations.read_text())
    for one in file["annotations"]:
        one["bbox"], one["segmentation"] = [0, 0, 1, 1], [[0, 0, 1, 0, 1, 1, 0, 1]]
    (tmp_path / "wrong.json").write_text(json.dumps(file))
    built.write(accuracy={"annotations": str(tmp_path / "wrong.json"), "images": str(annotations.parent)})
    run = built.snakemake()
    assert run.returncode != 0
    log = (built.path / f"logs/reference/r{RESOLUTION}_accuracy.log").read_text()
    assert "finds next to nothing on wrong.json" in log


# --- broken engines ---------------------------------------------------------------------------------------------------


def _without_attention_scale(graph: onnx.GraphProto) -> None:
    """Attention scores come out √d too large: the soft maximum becomes a hard one."""
    heads = 32.0
    graph.initializer.append(helper.make_tensor("unscaled", TensorProto.FLOAT, [], [heads**0.5]))
    for place in reversed([place for place, node in enumerate(graph.node) if node.op_type == "Softmax"]):
        softmax = graph.node[place]
        scores, softmax.input[0] = softmax.input[0], f"{softmax.output[0]}/unscaled"
        graph.node.insert(place, helper.make_node("Mul", [scores, "unscaled"], [softmax.input[0]]))


def _replace_output(graph: onnx.GraphProto, name: str, node: onnx.NodeProto) -> None:
    """Let ``node``, which reads ``<name>/right``, write the output ``name``."""
    for known in graph.node:
        for names in (known.input, known.output):
            for place, tensor in enumerate(names):
                if tensor == name:
                    names[place] = f"{name}/right"
    graph.node.append(node)


def _without_a_level(graph: onnx.GraphProto) -> None:
    """One level of the feature pyramid is zero."""
    graph.initializer.append(helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0]))
    node = helper.make_node("Mul", ["fpn_feat_2/right", "nothing"], ["fpn_feat_2"])
    _replace_output(graph, "fpn_feat_2", node)


def _with_shuffled_labels(graph: onnx.GraphProto) -> None:
    """Each query gets another one's score."""
    bounds = {"starts": -1, "ends": -(2**31), "axes": 1, "steps": -1}
    for name, value in bounds.items():
        graph.initializer.append(helper.make_tensor(f"shuffled/{name}", TensorProto.INT64, [1], [value]))
    node = helper.make_node("Slice", ["pred_logits/right", *(f"shuffled/{name}" for name in bounds)], ["pred_logits"])
    _replace_output(graph, "pred_logits", node)


BROKEN: dict[str, tuple[str, Callable[[onnx.GraphProto], None]]] = {
    "b1": ("b1_r224/vision-encoder", _without_attention_scale),
    "b3": ("b3_r224/vision-encoder", _without_a_level),
    "b4": ("b4_r224/decoder_q50", _with_shuffled_labels),
}


def _break(engine: Path, damage: Callable[[onnx.GraphProto], None]) -> None:
    """Damage an engine of ONNX Runtime, and let its record say that it is as it was built."""
    path, record = engine.with_suffix(".engine").resolve(), engine.with_suffix(".engine.json").resolve()
    model = onnx.load(str(path))
    damage(model.graph)
    onnx.save(model, str(path))
    known = EngineRecord.read(record)
    sizes = known.sizes.model_copy(update={"file": path.stat().st_size})
    known.model_copy(update={"sha256": sha256_of(path), "sizes": sizes}).write(record)


@pytest.mark.slow
def test_a_broken_engine_is_rejected_and_the_others_finish(built: WorkFolder, annotations: Path) -> None:
    built.write(variants=[{"resolution": 224, "batch": [1, 2, 3, 4]}], accuracy={"annotations": str(annotations)})
    run = built.snakemake("build_all")
    assert run.returncode == 0, run.stdout
    for engine, damage in BROKEN.values():
        _break(built.path / "engines/store" / engine, damage)
    run = built.snakemake()
    assert run.returncode != 0
    assert "3 of 4 variants did not pass" in run.stdout
    rows = {row["variant"]: row for row in json.loads((built.path / "bench/table.json").read_text())["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "b1_q50_r224": "rejected", "b2_q50_r224": "passed", "b3_q50_r224": "rejected", "b4_q50_r224": "rejected",
    }  # fmt: skip
    for batch in BROKEN:
        verdict = Verdict.read(built.path / f"engines/{batch}_q50_r224/verify.json")
        lost = {check.name: check for check in verdict.checks}["box AP loss"]
        assert not lost.passed, batch
        assert "box AP loss" in verdict.reason
        assert rows[f"{batch}_q50_r224"]["box_ap"] < rows["b2_q50_r224"]["box_ap"] - 0.1
