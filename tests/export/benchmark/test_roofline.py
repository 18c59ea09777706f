"""What a graph asks of a machine, counted by hand and by the module."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from typer.testing import CliRunner

from export.benchmark.roofline import Load, Machine, by_operator, loads, rate
from toolkit.cli import app

BATCH = 4


@pytest.fixture
def graph(tmp_path):
    """A convolution of 8x8 pixels, ReLU, and a matrix product, for any batch."""
    weights = numpy_helper.from_array(np.zeros((2, 1, 3, 3), np.float32), "weights")
    matrix = numpy_helper.from_array(np.zeros((72, 5), np.float32), "matrix")
    shape = numpy_helper.from_array(np.array([-1, 72]), "shape")
    nodes = [
        helper.make_node("Conv", ["xray", "weights"], ["seen"]),
        helper.make_node("Relu", ["seen"], ["kept"]),
        helper.make_node("Reshape", ["kept", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("xray", TensorProto.FLOAT, ["batch", 1, 8, 8])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])
    path = tmp_path / "graph.onnx"
    whole = helper.make_graph(nodes, "graph", [given], [made], [weights, matrix, shape])
    save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_bytes_and_products_are_those_of_the_shapes(graph):
    found = dict(loads(graph, BATCH))
    assert found["Conv"] == Load(1, 4 * (64 + 72 + 18 / BATCH), 2 * 72 * 9)
    assert found["Relu"] == Load(1, 4 * 144, 72)
    assert found["Reshape"] == Load(1, 0, 0)
    assert found["MatMul"] == Load(1, 4 * (72 + 5 + 360 / BATCH), 2 * 5 * 72)


def test_a_node_takes_the_longer_of_its_bytes_and_its_products():
    nodes = [("Relu", Load(1, 1000.0, 1.0)), ("Conv", Load(1, 10.0, 500.0))]
    machine = Machine(1e6, {"fp32": 1e6, "fp16": 1e6})
    assert rate(nodes, machine, "fp32") == pytest.approx(1 / (1000e-6 + 500e-6))
    assert rate(nodes, machine, "fp16") == pytest.approx(1 / (500e-6 + 500e-6))
    assert by_operator([*nodes, *nodes])["Relu"] == Load(2, 2000.0, 2.0)


def test_command_counts_the_served_graph_without_timing_anything(small):
    arguments = ["benchmark", "small", "--models", str(small.files.folder), "--roofline", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    content = json.loads(done.stdout)
    assert done.exit_code == 0
    assert content["nodes"] == sum(each["nodes"] for each in content["operators"].values())
    assert content["operators"]["Conv"]["operations"] > content["operations"] / 2
    for bounds in content["at_most"].values():
        assert 0 < bounds["fp32"] < bounds["tf32"] < bounds["fp16"]
