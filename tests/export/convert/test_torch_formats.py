"""TorchScript and pt2: proven like ONNX, for any batch, with what they are inside."""

import copy
import zipfile
from pathlib import Path

import pytest
import torch

import export
from export.convert.torch_formats import OPENERS, export_pt2, export_torchscript
from toolkit.errors import DefinitionError, ModelRefusedError
from toolkit.model import manifest


def test_exports_are_proven_beside_the_onnx_files(small, torch_formats):
    files, results, told = torch_formats
    record = manifest.load(files.manifest)
    assert record == results["pt2"].record
    assert record.equivalence.passed
    assert set(record.export.artifacts) == {"network", "pipeline", "explainer", *OPENERS}
    assert record.equivalence.legs["pipeline"] == small.record.equivalence.legs["pipeline"]
    assert not told, "deprecations are not the user's concern"


@pytest.mark.parametrize("kind", OPENERS)
def test_a_file_says_what_it_is_and_names_no_folder_of_ours(torch_formats, kind):
    files, results, _ = torch_formats
    assert results[kind].legs[kind].passed
    with zipfile.ZipFile(files.path(kind)) as archive:
        names = {name.split("/")[-1] for name in archive.namelist()}
        content = b"".join(map(archive.read, archive.namelist()))
    assert {"classes", "checkpoint_sha256", "licence"} <= names
    for module in (export, torch):
        assert str(Path(module.__path__[0]).parent).encode() not in content


@pytest.mark.parametrize("write", [export_torchscript, export_pt2])
def test_a_network_that_cannot_be_written_is_told_in_one_line(small, tmp_path, write):
    pipeline = copy.deepcopy(small.pipeline)
    pipeline.network.forward = lambda *_: 1 / 0
    with pytest.raises(DefinitionError, match=r"cannot be written as (Torch|pt2).*ZeroDivision"):
        write(pipeline, small.record, tmp_path / "model")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", OPENERS)
def test_truncated_file_is_refused_in_one_line(torch_formats, tmp_path, kind):
    content = torch_formats[0].path(kind).read_bytes()
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelRefusedError, match="cannot open"):
        OPENERS[kind](tmp_path / "half")


@pytest.mark.parametrize("kind", OPENERS)
def test_dropout_is_not_live(small, torch_formats, kind):
    module = OPENERS[kind](torch_formats[0].path(kind))
    xray = torch.from_numpy(small.inputs.pixels[:3])
    with torch.no_grad():
        assert torch.equal(module(xray)[0], module(xray)[0])
