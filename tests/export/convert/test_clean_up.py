"""What costs time and changes nothing is removed; what might change something stays."""

import sys

import onnx
import pytest
import torch
from torch import nn

from export.convert.clean_up import ConstantFeatures, constant_output, mended
from export.convert.pipeline import Pipeline
from export.export import DeadInput, Options, export
from toolkit import cli
from toolkit.errors import EquivalenceError, HealthError
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train import checkpoint

PARTS = {"image": "imagesClassifier", "edges": "edgesClassifier"}


@pytest.fixture
def network(small):
    copy = IntermediarySpaceModel(4, 0.5, 4)
    copy.load_state_dict(small.pipeline.network.state_dict())
    return copy.eval()


def decay(branch, power=-60):
    """As a strong penalty leaves a branch: all weights all but gone, the last bias not."""
    with torch.no_grad():
        for layer in branch:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.mul_(2.0**power)
                layer.bias.fill_(2.0**-10)


def save(files, network):
    checkpoint.save(network.state_dict(), files.checkpoint)
    record = manifest.load(files.manifest)
    training = manifest.TrainingRecord(sha256(files.checkpoint), {}, 0, "cpu", 0, {}, {})
    fresh = manifest.Manifest(
        record.name,
        record.labels,
        record.preprocessing,
        record.dataset,
        record.network,
        training,
    )
    manifest.save(fresh, files.manifest)


@pytest.mark.parametrize(("name", "part"), PARTS.items())
def test_a_model_with_a_dead_input_is_refused_by_name(copied, network, name, part):
    decay(getattr(network, part))
    save(copied, network)
    with pytest.raises(
        HealthError, match=f"the input '{name}' has no effect .*--drop-dead.*--allow-dead-input"
    ):
        export("onnx", copied, copied)


@pytest.mark.parametrize(("name", "part"), PARTS.items())
def test_a_dead_branch_is_exported_whole_or_dropped_and_equal_both_times(
    copied, network, name, part
):
    decay(getattr(network, part))
    save(copied, network)
    sizes = []
    for dead_input in (DeadInput.ALLOW, DeadInput.DROP):
        verdict = export("onnx", copied, copied, Options(dead_input=dead_input))
        assert verdict.passed, verdict.legs
        assert ("dead_input", name) in {(each.kind, each.where) for each in verdict.findings}
        graph = onnx.load(copied.path("network")).graph
        assert [each.name for each in graph.input] == ["image", "edges"], "the contract stays"
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        sizes.append((len(convolutions), copied.path("pipeline").stat().st_size))
    assert sizes[0][0] == 7 and sizes[1][0] == (3 if name == "image" else 4)
    assert sizes[1][1] < sizes[0][1]


def test_a_sound_branch_is_never_dropped(small):
    xrays = torch.from_numpy(small.inputs.pixels)
    _, dropped = mended(small.pipeline, xrays, drop_dead=True)
    assert dropped == ()


def test_an_effect_too_small_to_see_is_not_dropped_without_proof(small, network):
    """Dead on every X-ray at hand is not dead: one weight away from it, the branch stays."""
    decay(network.edgesClassifier)
    pipeline = Pipeline(small.pipeline.preprocessing, network)
    xrays = torch.from_numpy(small.inputs.pixels)
    assert mended(pipeline, xrays, drop_dead=True)[1] == ("edgesClassifier",)
    with torch.no_grad():
        network.edgesClassifier[0].weight[0, 0, 0, 0] = 1.0
        for each in (4, 8):
            network.edgesClassifier[each].weight[0, 0] = 1.0
        network.edgesClassifier[-1].weight[0] = 1.0
    assert mended(pipeline, xrays, drop_dead=True)[1] == ()


def test_constancy_is_proven_for_every_input_in_range():
    branch = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten())
    low, high = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    with torch.no_grad():
        branch[0].weight.fill_(0.5)
        branch[0].bias.fill_(-4.6)  # the largest sum is 4.5
    assert constant_output(branch, low, high)
    with torch.no_grad():
        branch[0].bias.fill_(-4.4)
    assert not constant_output(branch, low, high)
    assert constant_output(nn.Sequential(ConstantFeatures(low.reshape(1, -1))), low, low)


def test_denormals_are_zero_in_the_exported_file(copied, network):
    with torch.no_grad():
        network.edgesClassifier[4].weight.view(torch.int32)[1] = 71362
    save(copied, network)
    verdict = export("onnx", copied, copied)
    assert verdict.passed
    assert "denormal" in {each.kind for each in verdict.findings}
    for kind in ("network", "pipeline"):
        for each in onnx.load(copied.path(kind)).graph.initializer:
            values = onnx.numpy_helper.to_array(each)
            if values.dtype == "float32":
                bits = values.view("int32") & 0x7FFFFFFF
                assert not ((bits > 0) & (bits < 0x00800000)).any(), each.name


def test_mending_that_changes_a_logit_is_an_error(small, network, monkeypatch):
    def flush(module):
        with torch.no_grad():
            module.outputCombiner[8].bias[0] += 1

    monkeypatch.setattr("export.convert.clean_up.flush_denormals", flush)
    pipeline = Pipeline(small.pipeline.preprocessing, network)
    with pytest.raises(EquivalenceError, match="would change a logit"):
        mended(pipeline, torch.from_numpy(small.inputs.pixels), drop_dead=False)


def test_dead_input_on_the_command_line_is_exit_1_unless_allowed(
    copied, network, capsys, monkeypatch
):
    decay(network.imagesClassifier)
    save(copied, network)

    def run(*more):
        arguments = ["toolkit", "export", "pt2", copied.name, "--models", str(copied.folder), *more]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    code, err = run()
    assert code == 1 and "the input 'image' has no effect on the output" in err
    code, err = run("--allow-dead-input")
    assert code == 0 and "warning: the input 'image' has no effect" in err
    assert run("--drop-dead")[0] == 0
