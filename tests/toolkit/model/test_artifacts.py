"""The verdict covers what the manifest says, as well as the files."""

import hashlib
import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.errors import ModelRefusedError
from toolkit.model import manifest
from toolkit.model.answer import meaning_of
from toolkit.model.artifacts import check_equivalence
from toolkit.model.files import ModelFiles

SHIPPED = ModelFiles(Path(__file__).parents[3] / "saved_models", "model_saved")


@pytest.fixture
def shipped(tmp_path):
    for kind in ("manifest", "pipeline"):
        shutil.copy(SHIPPED.path(kind), tmp_path)
    return ModelFiles(tmp_path, SHIPPED.name)


@pytest.mark.parametrize("part", ["labels", "preprocessing", "calibration", "scope", "network"])
def test_one_flipped_bit_in_what_answers_depend_on_is_refused(copied, unseen_flips, part):
    kept = copied.manifest.read_bytes()
    start = kept.index(f'\n  "{part}"'.encode()) + len(part) + 6
    end = kept.find(b"\n  }", start) if kept[start:].lstrip(b": ")[:1] == b"{" else start + 4
    assert unseen_flips(copied, start, end) < (end - start) / 20


def test_a_changed_manifest_is_refused_with_what_mends_it(copied):
    record = manifest.load(copied.manifest)
    scope = replace(record.scope, limit=record.scope.limit * 2)
    manifest.save(replace(record, scope=scope), copied.manifest)
    with pytest.raises(ModelRefusedError, match=r"not as it was proven.*toolkit export onnx"):
        check_equivalence(copied, manifest.load(copied.manifest))


def test_a_file_that_cannot_be_read_is_refused_in_one_line(shipped):
    record = manifest.load(shipped.manifest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(ModelRefusedError, match=r"pipeline.onnx cannot be read: Too many"):
            check_equivalence(shipped, record)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("part", ["labels", "training", "calibration", "preprocessing"])
def test_a_manifest_of_a_former_version_is_held_against_the_graphs_own_words(shipped, part):
    from toolkit.runtime.session import open_model

    content = json.loads(shipped.manifest.read_bytes())
    content["equivalence"].pop("answers_sha256", None)
    shipped.manifest.write_text(json.dumps(content))
    predictor = open_model(shipped.folder, shipped.name, "cpu")
    assert predictor.meaning == meaning_of(manifest.load(SHIPPED.manifest))
    changes = {
        "labels": {"classes": ["none", "minimal", "moderatf", "severe"]},
        "training": {"checkpoint_sha256": "0" * 64},
        "calibration": {"temperature": 1.5},
        "preprocessing": {"edge_threshold": 11},
    }
    content[part] |= changes[part]
    shipped.manifest.write_text(json.dumps(content))
    with pytest.raises(ModelRefusedError, match=r"not as it was proven.*toolkit export onnx"):
        open_model(shipped.folder, shipped.name, "cpu")


def test_a_verdict_that_a_former_version_gave_a_lower_precision_still_holds(copied):
    content = json.loads(copied.manifest.read_bytes())
    verdict = content["equivalence"]
    former = {"samples": 200, "agreement": 1.0, "kappa_points": 0.0, "failures": []}
    leg = verdict["legs"]["pipeline"] | {"gate": former | {"recall_points": [0.0] * 4}}
    verdict["legs"]["fp16"] = leg
    said = json.loads(json.dumps(content))
    for name in ("name", "schema_version", "export", "golden"):
        del said[name]
    del said["equivalence"]["answers_sha256"]
    # What a file leaves out where it is as usual.
    said["dataset"] = {"patient_pattern": None, "patient_table": False} | said["dataset"]
    for each in said["equivalence"]["legs"].values():
        del each["file"]
    proven = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    verdict["answers_sha256"] = proven
    copied.manifest.write_text(json.dumps(content))
    check_equivalence(copied, manifest.load(copied.manifest))
    leg["gate"]["agreement"] = 0.9
    copied.manifest.write_text(json.dumps(content))
    with pytest.raises(ModelRefusedError, match="not as it was proven"):
        check_equivalence(copied, manifest.load(copied.manifest))
