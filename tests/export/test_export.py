"""Export as a whole: what is proven is kept, what differs leaves nothing behind."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from command_line import here

from export import export
from export.compare import artifact
from export.compare.samples import Samples, samples
from toolkit.errors import CheckpointError, ModelRefusedError, UsageError
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.artifacts import check_equivalence
from toolkit.model.files import ModelFiles
from toolkit.runtime.session import open_model
from toolkit.xray.reading import read_xray

REPORT = ["small.equivalence.html", "small.equivalence.json"]


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_export_leaves_two_files_and_a_manifest_that_proves_them(small):
    record = manifest.load(small.files.manifest)
    assert record == small.record
    assert (
        set(record.export.artifacts)
        == set(record.equivalence.legs)
        == {"network", "pipeline", "explainer"}
    )
    for kind, written in record.export.artifacts.items():
        path = small.files.path(kind)
        assert written.sha256 == record.equivalence.legs[kind].sha256 == sha256(path)
        assert written.file == path.name and written.format == "onnx"
        assert written.inputs[0].shape[0] == "batch"


def test_export_leaves_golden_xrays_with_pytorchs_outputs(small):
    record = manifest.load(small.files.manifest)
    assert record.golden.sha256 == sha256(small.files.path("golden"))
    golden = np.load(small.files.path("golden"), allow_pickle=False)
    assert len(golden["xray"]) == record.golden.samples == 4
    every = samples()
    generated = every.pixels[[kind == "generated" for kind in every.kinds]]
    for place, xray in enumerate(golden["xray"]):
        assert (generated == xray).all(axis=(1, 2)).any()
        outputs = small.pipeline(torch.from_numpy(xray[None]))
        for name, values in zip(small.pipeline.outputs, outputs, strict=True):
            expected = values.detach().numpy()
            np.testing.assert_allclose(golden[name][place], expected[0], rtol=1e-5, atol=1e-6)
    assert record.equivalence.inputs.keys() >= {"generated", "noise", "black", "white", "one pixel"}
    assert {"torch", "onnx", "numpy"} <= set(record.equivalence.versions)
    check_equivalence(small.files, record)


@pytest.mark.parametrize("kind", ["network", "pipeline"])
def test_failed_export_leaves_no_artifact_and_says_what_differed(exporters, copied, kind):
    """The earlier, proven artifacts are withdrawn as well, and so are their legs."""

    def perturb(array):
        array.flat[0] += 0.5
        return array

    assert copied.path(kind).exists()
    exporters(kind, "outputCombiner.8.bias", perturb)
    code, out, err = here("export", "onnx", copied.name, "--models", copied.folder, "--json")
    assert code == 1
    lines = err.strip().splitlines()
    wanted = f"{kind}: logits in batches of 1: 6 of 6 X-rays differ, most of all number "
    assert any(line.startswith(wanted) for line in lines), err
    assert lines[-1].lower().startswith("error: small in onnx is not equal to pytorch: ")
    assert wanted in lines[-1] and "by 0.5; allowed 1e-5 * max(1" in lines[-1]
    assert any(f"({word})" in lines[-1] for word in set(samples().kinds))
    assert json.loads(out) == {"error": lines[-1].removeprefix("error: ")}
    assert _names(copied.folder) == [*REPORT, "small.json", "small.pt", "small.scope.pt"]
    report = json.loads(copied.path("report").read_text())
    assert report["passed"] is False and "by 0.5" in report["legs"][kind]["failures"][0]
    record = manifest.load(copied.manifest)
    assert record.export is None and record.equivalence is None
    with pytest.raises(ModelRefusedError, match="has no exported pipeline"):
        open_model(copied.folder, copied.name)


def test_failed_export_into_a_new_folder_leaves_the_report_alone(exporters, copied, tmp_path):
    exporters("network", "outputCombiner.8.bias", lambda array: array + 1)
    before = {path.name: path.read_bytes() for path in copied.folder.iterdir()}
    out = tmp_path / "out"
    code, _, _ = here("export", "onnx", "small", "--models", copied.folder, "--out", out)
    assert code == 1 and _names(out) == REPORT
    assert {path.name: path.read_bytes() for path in copied.folder.iterdir()} == before


def test_nan_in_the_graph_fails_the_export(exporters, copied):
    exporters("pipeline", "outputCombiner.8.bias", lambda array: array * float("nan"))
    code, out, err = here("export", "onnx", "small", "--models", copied.folder)
    assert (code, out) == (1, "") and "by nan" in err
    assert _names(copied.folder) == [*REPORT, "small.json", "small.pt", "small.scope.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UsageError("no space"), RuntimeError("x")])
def test_broken_off_export_leaves_no_draft_and_keeps_what_was_proven(
    exporters, copied, monkeypatch, error
):
    del exporters
    before = {path.name: path.read_bytes() for path in copied.folder.iterdir()}

    def broken(kind, pipeline, record, path, opset):
        del kind, pipeline, record, opset
        path.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(export, "export_onnx", broken)
    with pytest.raises(type(error)):
        export.export("onnx", copied, copied)
    assert {path.name: path.read_bytes() for path in copied.folder.iterdir()} == before


@pytest.fixture
def linked(copied):
    """The model's exported files as links to a store on another disk, if there is one."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as store:
        for kind in (*export.KINDS["onnx", "fp32"], "golden"):
            path = copied.path(kind)
            path.symlink_to(shutil.move(path, Path(store) / sha256(path)))
        yield Path(store)


def test_export_over_links_writes_what_they_lead_to(exporters, copied, linked):
    exporters("network", "outputCombiner.8.bias", lambda array: array + 0)
    stored = _names(linked)
    before = {path: path.read_bytes() for path in linked.iterdir()}
    copied.path("network").write_bytes(b"to be written again")
    code, _, err = here("export", "onnx", "small", "--models", copied.folder)
    assert code == 0, err
    assert all(copied.path(kind).is_symlink() for kind in export.KINDS["onnx", "fp32"])
    assert copied.path("golden").is_symlink() and _names(linked) == stored
    assert sum(path.read_bytes() == content for path, content in before.items()) >= 2
    for kind, written in manifest.load(copied.manifest).export.artifacts.items():
        assert sha256(copied.path(kind)) == written.sha256
    assert open_model(copied.folder, "small")


def test_a_model_that_is_trained_anew_meanwhile_is_kept(exporters, copied, monkeypatch):
    del exporters
    record = manifest.load(copied.manifest)
    other = replace(record, training=replace(record.training, epochs=99))
    compare_file = export.compare_file

    def meanwhile(*arguments):
        manifest.save(other, copied.manifest)
        return compare_file(*arguments)

    monkeypatch.setattr(export, "compare_file", meanwhile)
    before = _names(copied.folder)
    code, out, err = here("export", "onnx", copied.name, "--models", copied.folder)
    assert (code, out) == (2, "") and "trained anew meanwhile" in err
    assert manifest.load(copied.manifest) == other
    assert _names(copied.folder) == before


def test_export_over_a_link_to_a_write_protected_file_changes_nothing(exporters, copied, linked):
    del exporters
    copied.path("pipeline").resolve().chmod(0o444)
    before = {path: path.read_bytes() for path in copied.folder.iterdir()}
    code, out, err = here("export", "onnx", "small", "--models", copied.folder)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith(
        "small.pipeline.onnx: it is a link to a write-protected file"
    )
    assert {path: path.read_bytes() for path in copied.folder.iterdir()} == before
    assert len(_names(linked)) == 4


@pytest.mark.full
def test_out_takes_files_and_manifest_and_data_is_compared_on(
    exporters, copied, png_folder, tmp_path, monkeypatch
):
    del exporters
    monkeypatch.setattr(artifact, "samples", samples)
    for kind in (*export.KINDS["onnx", "fp32"], "golden"):
        copied.path(kind).unlink()
    out = tmp_path / "out"
    data = png_folder("0/1L", "2/1R", "3/2L")
    code, text, err = here(
        "export", "onnx", "small", "--models", copied.folder, "--out", out, "--data", data, "--json"
    )
    assert code == 0, err
    content = json.loads(text)
    assert text.count("\n") == 1 and content["passed"] is True
    assert content["artifacts"] == {
        "network": str(out / "small.onnx"),
        "pipeline": str(out / "small.pipeline.onnx"),
        "explainer": str(out / "small.explainer.onnx"),
    }
    assert content["manifest"] == str(out / "small.json")
    endings = ("explainer.onnx", "golden.npz", "json", "onnx", "pipeline.onnx")
    assert _names(out) == sorted([*REPORT, *(f"small.{ending}" for ending in endings)])
    assert _names(copied.folder) == ["small.json", "small.pt", "small.scope.pt"]
    record = manifest.load(out / "small.json")
    assert record.equivalence.inputs["real"] == 3
    assert content["legs"]["pipeline"]["samples"] == sum(record.equivalence.inputs.values())
    predictor = open_model(out, "small")
    assert predictor.predict(read_xray(data / "0" / "1L.png")[None]).probabilities.shape == (1, 4)


def test_fault_that_only_real_xrays_show_fails_the_export(exporters, copied, monkeypatch):
    """`real` is named as the kind where real X-rays differ."""
    inputs = artifact.samples(None)
    marked = Samples(inputs.pixels, ("real",) * len(inputs.kinds))
    monkeypatch.setattr(artifact, "samples", lambda *_: marked)
    exporters("pipeline", "preprocessing.edge_std", lambda array: array * 1.01)
    code, _, err = here("export", "onnx", "small", "--models", copied.folder)
    assert code == 1 and "(real)" in err


def test_checkpoint_that_is_not_the_manifests_is_refused(exporters, copied):
    del exporters
    record = manifest.load(copied.manifest)
    training = replace(record.training, checkpoint_sha256="0" * 64)
    manifest.save(replace(record, training=training), copied.manifest)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        export.export("onnx", copied, copied)


def test_folder_that_cannot_be_written_is_one_clear_error(small, exporters, tmp_path):
    del exporters
    (tmp_path / "file").write_text("not a folder")
    target = ModelFiles(tmp_path / "file" / "out", "small")
    with pytest.raises(UsageError, match="cannot write"):
        export.export("onnx", small.files, target)


def test_an_export_stopped_before_it_is_named_leaves_the_former_one_served(
    exporters, copied, monkeypatch
):
    """Also when only the golden X-rays are new."""
    del exporters
    before = {path.name: path.read_bytes() for path in copied.folder.iterdir()}
    saved = export.save_golden

    def stopped(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "save_golden", stopped)
    with pytest.raises(KeyboardInterrupt):
        export.export("onnx", copied, copied)
    assert {path.name: path.read_bytes() for path in copied.folder.iterdir()} == before
    open_model(copied.folder, copied.name)


def test_one_format_in_a_new_folder_claims_no_other(copied, few_xrays, tmp_path):
    del few_xrays
    target = ModelFiles(tmp_path / "new", copied.name)
    record = export.export("torchscript", copied, target).record
    assert set(record.export.artifacts) == set(record.equivalence.legs) == {"torchscript"}
    assert record.golden is None
    assert manifest.load(target.manifest) == record
