"""The benchmark: every way to run a model, timed, judged and set side by side."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from export.benchmark import table
from export.benchmark.contenders import Contender, reference_inputs
from export.benchmark.table import Row, generated_xrays, judge, measure, ratios
from toolkit.cli import app
from toolkit.commands import data as generation
from toolkit.errors import ProviderError, UsageError
from toolkit.model.records import PreprocessingConstants

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """The command's own output, files and picture, on graded X-rays; one round is enough here."""
    folder = tmp_path_factory.mktemp("benchmark")
    generation.generate(folder / "xrays", count=60, seed=3)
    arguments = ["benchmark", "small", "--models", small.files.folder, "--logs", folder]
    arguments += [
        "--data",
        folder / "xrays",
        "--threads",
        "1",
        "--batch",
        "1,2",
        "--rounds",
        "1",
        "--json",
    ]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), folder / "benchmark"


@pytest.mark.full
def test_every_format_and_precision_has_its_row_for_each_batch(run):
    found, _ = run
    formats = [
        ("pytorch", "fp32", "X-ray"),
        ("torchscript", "fp32", "X-ray"),
        ("pt2", "fp32", "X-ray"),
        ("onnx", "fp32", "X-ray"),
        ("onnx", "fp16", "X-ray"),
        ("onnx", "int8", "X-ray"),
        ("onnx", "fp32", "file"),
        ("reference path", "fp32", "file"),
    ]
    rows = [row for row in found["rows"] if row["provider"] == "cpu"]
    for batch in (1, 2):
        seen = [
            (row["format"], row["precision"], row["source"])
            for row in rows
            if row["batch"] == batch
        ]
        assert seen == formats
    for row in rows:
        assert row["ms"] > 0 and row["xrays_per_second"] == pytest.approx(1000 / row["ms"])
        assert 0 <= row["accuracy"] <= 1
        assert (row["bytes"] is None) == (row["format"] == "pytorch")


@pytest.mark.full
def test_what_computes_the_same_agrees_wholly(run):
    found, _ = run
    for row in found["rows"]:
        if row["precision"] == "fp32" and row["format"] != "reference path":
            assert row["agreement"] == 1
        # An edge that the study's floats round the other way may turn a close call.
        assert row["agreement"] > 0.8


@pytest.mark.full
def test_table_and_picture_are_kept(run):
    found, folder = run
    kept = json.loads((folder / "small.json").read_text())
    assert kept["rows"] == found["rows"] and kept["ratios"] == found["ratios"]
    with Image.open(folder / "small.png") as picture:
        assert picture.format == "PNG" and picture.width > 600
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10, "not blank"


def test_ratios_are_of_like_with_like():
    row = Row("pytorch", "fp32", "cpu", "X-ray", 2, 1, 6.0, 0.0, None, 1.0)
    rows = [
        row,
        replace(row, format="onnx", ms=3.0),
        replace(row, format="onnx", ms=1.0, batch=8),
        replace(row, format="onnx", ms=0.5, provider="cuda"),
        replace(row, format="onnx", ms=4.0, threads=1),
        replace(row, format="onnx", precision="int8", ms=1.0, threads=1),
        replace(row, format="onnx", ms=5.0, threads=1, source="file"),
        replace(row, format="reference path", ms=10.0, threads=1, source="file"),
    ]
    assert sorted(ratios(rows).values()) == [2.0, 2.0, 4.0]
    assert ratios(rows[:1]) == {}


def test_the_median_of_the_rounds_is_told_for_one_xray(monkeypatch):
    times = iter([2.0, 40.0, 6.0])
    monkeypatch.setattr(table, "milliseconds", lambda *_: next(times))
    one = Contender("pytorch", "fp32", "cpu", "X-ray", None, lambda _: _first_class)
    xrays = generated_xrays(4)
    (row,) = measure(judge([one], xrays)[0], xrays, [1], [2], range(3))
    assert (row.ms, row.accuracy) == (3.0, None)


def test_a_contender_that_cannot_be_opened_is_left_out_and_named():
    def refuse(_):
        raise ProviderError("no graph can be had")

    sound = Contender("pytorch", "fp32", "cpu", "X-ray", None, lambda _: _first_class)
    broken = replace(sound, format="onnx", provider="cuda graph", open=refuse)
    judgements, left_out = judge([sound, broken], generated_xrays(4))
    assert [contender for contender, _ in judgements] == [sound]
    assert left_out == ["onnx on cuda graph is left out: no graph can be had"]


def test_files_that_opencv_does_not_read_leave_the_reference_path_out():
    def classify(contents):
        for each in contents:
            reference_inputs(each, PreprocessingConstants())
        return _first_class(contents)

    path = Contender("reference path", "fp32", "cpu", "file", None, lambda _: classify)
    drawn = generated_xrays(4)
    assert len(judge([path], drawn)[0]) == 1
    judgements, left_out = judge([path], replace(drawn, contents=(bytes(128) + b"DICM",)))
    assert not judgements
    assert left_out == [
        "reference path on cpu is left out: OpenCV reads PNG and JPEG files, and not all of these "
        "are"
    ]


@pytest.mark.parametrize("option", ["--threads", "--batch"])
@pytest.mark.parametrize("value", ["0", "two", "", "1,,2", "9999"])
def test_numbers_that_are_none_are_refused(small, option, value):
    arguments = ["benchmark", "small", "--models", str(small.files.folder), option, value]
    with pytest.raises(UsageError, match=f"{option} takes numbers"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_no_node_of_the_pipeline_depends_on_a_shape_at_run_time(small):
    """A CUDA graph replays kernels alone: what works out shapes would run on the CPU."""
    nodes = onnx.load(small.files.path("pipeline")).graph.node
    assert not {"Shape", "Expand", "Loop", "If", "NonZero"} & {node.op_type for node in nodes}


def _first_class(xrays):
    return np.tile(np.float32([0.7, 0.1, 0.1, 0.1]), (len(xrays), 1))
