"""TorchScript and pt2: proven like ONNX, for any batch, with what they are inside."""

import zipfile
from pathlib import Path

import pytest
import torch

import export as package
from export.compare.artifacts import Reference, compare_file, specs_of
from export.convert.torch_formats import open_pt2, open_torchscript
from export.export import export
from toolkit.errors import ModelRefusedError
from toolkit.model import manifest

OPENERS = {"torchscript": open_torchscript, "pt2": open_pt2}


@pytest.mark.parametrize("kind", OPENERS)
def test_export_is_proven_beside_the_onnx_files(copied, kind, recwarn):
    before = manifest.load(copied.manifest)
    result = export(kind, copied, copied).record
    assert manifest.load(copied.manifest) == result
    assert result.equivalence.passed and result.equivalence.legs[kind].passed
    assert set(result.export.artifacts) == {"network", "pipeline", "explainer", kind}
    assert result.equivalence.legs["pipeline"] == before.equivalence.legs["pipeline"]
    assert copied.path(kind).is_file()
    assert not recwarn.list, "deprecations are not the user's concern"
    with zipfile.ZipFile(copied.path(kind)) as archive:
        names = {name.split("/")[-1] for name in archive.namelist()}
        content = b"".join(map(archive.read, archive.namelist()))
    assert {"classes", "checkpoint_sha256", "licence"} <= names
    for module in (package, torch):
        assert str(Path(module.__path__[0]).parent).encode() not in content, "a folder of ours"


@pytest.mark.parametrize("kind", ["torchscript", pytest.param("pt2", marks=pytest.mark.full)])
def test_perturbed_weight_is_found(small, copied, kind):
    export(kind, copied, copied)
    other = small.pipeline.network.outputCombiner[8].bias
    reference = dict(small.reference)
    reference["logits"] = reference["logits"] + other.detach().numpy() + 0.001
    labels = small.record.labels.classes
    other = Reference(small.pipeline, small.inputs, reference, None, labels)
    leg = compare_file(kind, copied.path(kind), specs_of(kind, small.pipeline), other)
    assert not leg.passed
    assert any(line.startswith("logits in batches of 1") for line in leg.failures)


@pytest.mark.parametrize("kind", OPENERS)
def test_truncated_file_is_refused_in_one_line(copied, kind):
    export(kind, copied, copied)
    path = copied.path(kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelRefusedError, match="cannot open"):
        OPENERS[kind](path)


@pytest.mark.parametrize("kind", OPENERS)
def test_dropout_is_not_live_though_the_module_was_in_training(small, copied, kind):
    export(kind, copied, copied)
    module = OPENERS[kind](copied.path(kind))
    xray = torch.from_numpy(small.inputs.pixels[:3])
    with torch.no_grad():
        first, second = module(xray)[0], module(xray)[0]
    assert torch.equal(first, second)
