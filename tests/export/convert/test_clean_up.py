"""What costs time and changes nothing is removed; what might change something stays."""

import json
from dataclasses import replace

import onnx
import pytest
import torch
from command_line import here
from torch import nn

from export.convert import clean_up as cleaning
from export.convert.clean_up import ConstantFeatures, clean_up, constant_output
from export.convert.onnx import export_onnx
from export.convert.pipeline import Pipeline
from export.convert.torch_formats import open_torchscript
from export.export import DeadInput, Options, export
from toolkit.errors import EquivalenceError, HealthError
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.train import checkpoint
from toolkit.train.health import denormal

PARTS = {"image": "imagesClassifier", "edges": "edgesClassifier"}


@pytest.fixture
def pipeline(small, network):
    """A pipeline whose network the test may spoil."""
    return Pipeline(small.pipeline.with_parts(network, small.pipeline.preprocessing))


@pytest.fixture
def xrays(small):
    return torch.from_numpy(small.inputs.pixels)


def decay(branch):
    """As a strong penalty leaves a branch: all weights all but gone, the last bias not."""
    with torch.no_grad():
        for layer in branch:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.mul_(2.0**-60)
                layer.bias.fill_(2.0**-10)


def save(files, network):
    checkpoint.save(network.state_dict(), files.checkpoint)
    record = manifest.load(files.manifest)
    training = replace(record.training, checkpoint_sha256=sha256(files.checkpoint))
    fresh = replace(
        record, training=training, scope=None, export=None, equivalence=None, golden=None
    )
    manifest.save(fresh, files.manifest)


@pytest.mark.parametrize(
    ("name", "part"),
    [("image", PARTS["image"]), pytest.param("edges", PARTS["edges"], marks=pytest.mark.full)],
)
def test_a_dead_branch_is_refused_by_name_exported_whole_or_dropped(
    copied, few_xrays, pipeline, xrays, name, part, tmp_path
):
    """Equal both times, and the network alone still takes both inputs."""
    del few_xrays
    decay(getattr(pipeline.network, part))
    save(copied, pipeline.network)
    mends = "--drop-dead.*--allow-dead-input"
    with pytest.raises(HealthError, match=f"the input '{name}' has no effect .*{mends}"):
        export("torchscript", copied, copied)
    sizes = []
    for dead_input in (DeadInput.ALLOW, DeadInput.DROP):
        result = export("torchscript", copied, copied, Options(dead_input=dead_input))
        assert result.passed, result.failures
        assert ("dead_input", name) in {(one.kind, one.where) for one in result.findings}
        sizes.append(copied.path("torchscript").stat().st_size)
    assert sizes[1] < sizes[0]
    cleaned, dropped = clean_up(pipeline, xrays, drop_dead=True)
    assert dropped == (part,)
    export_onnx("network", cleaned, manifest.load(copied.manifest), tmp_path / "network.onnx")
    graph = onnx.load(tmp_path / "network.onnx").graph
    assert [value.name for value in graph.input] == ["image", "edges"], "the contract stays"
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == (3 if name == "image" else 4)


def test_a_sound_branch_is_never_dropped(small, xrays):
    assert clean_up(small.pipeline, xrays, drop_dead=True)[1] == ()


def test_an_effect_too_small_to_see_is_not_dropped_without_proof(pipeline, xrays):
    """Dead on every X-ray at hand is not dead: one weight away from it, the branch stays."""
    branch = pipeline.network.edgesClassifier
    decay(branch)
    assert clean_up(pipeline, xrays, drop_dead=True)[1] == ("edgesClassifier",)
    with torch.no_grad():
        branch[0].weight[0, 0, 0, 0] = 1.0
        for place in (4, 8):
            branch[place].weight[0, 0] = 1.0
        branch[-1].weight[0] = 1.0
    assert clean_up(pipeline, xrays, drop_dead=True)[1] == ()


def test_constancy_is_proven_for_every_input_in_range():
    branch = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten())
    low, high = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    for bias, constant in ((-4.6, True), (-4.4, False)):  # the largest sum is 4.5
        with torch.no_grad():
            branch[0].weight.fill_(0.5)
            branch[0].bias.fill_(bias)
        assert constant_output(branch, low, high) is constant
    assert constant_output(nn.Sequential(ConstantFeatures(low.reshape(1, -1))), low, low)


@pytest.mark.parametrize(
    "layers",
    [(nn.Flatten(), nn.LayerNorm(16)), (nn.Hardswish(),)],
    ids=["layer norm", "hardswish"],
)
def test_of_layers_whose_range_is_not_known_nothing_is_proven(layers):
    ends = torch.full((1, 4, 4), -4.0), torch.zeros(1, 4, 4)
    branch = nn.Sequential(*layers).double().eval()
    assert not constant_output(branch, *ends)


def test_constancy_is_proven_without_a_bias_too():
    low, high = torch.full((1, 4, 4), -1.0), torch.zeros(1, 4, 4)
    branch = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU())
    for weight, constant in ((0.5, False), (-0.5, False), (0.0, True)):
        nn.init.constant_(branch[0].weight, weight)
        assert constant_output(branch, low, high) is constant


def test_denormals_are_zero_in_the_exported_file(copied, few_xrays, network):
    del few_xrays
    with torch.no_grad():
        network.edgesClassifier[4].weight.view(torch.int32)[1] = 71362
    save(copied, network)
    result = export("torchscript", copied, copied)
    assert result.passed
    assert "denormal" in {one.kind for one in result.findings}
    for name, values in open_torchscript(copied.path("torchscript")).named_parameters():
        assert not denormal(values).any(), name


def test_cleaning_that_changes_a_logit_is_an_error(pipeline, xrays, monkeypatch):
    def flush(module):
        with torch.no_grad():
            module.outputCombiner[8].bias[0] += 1

    monkeypatch.setattr(cleaning, "flush_denormals", flush)
    with pytest.raises(EquivalenceError, match="would change a logit"):
        clean_up(pipeline, xrays, drop_dead=False)


def test_dead_input_on_the_command_line_is_exit_1_unless_allowed(copied, few_xrays, network):
    del few_xrays
    decay(network.imagesClassifier)
    save(copied, network)
    arguments = ("export", "torchscript", copied.name, "--models", copied.folder)
    code, _, err = here(*arguments)
    assert code == 1 and "the input 'image' has no effect on the output" in err
    code, _, err = here(*arguments, "--allow-dead-input")
    assert code == 0 and "warning: the input 'image' has no effect" in err
    code, out, _ = here(*arguments, "--drop-dead", "--json")
    assert code == 0 and json.loads(out)["health"][0]["kind"] == "dead_input"
