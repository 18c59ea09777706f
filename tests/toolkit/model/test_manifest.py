import json
from dataclasses import asdict, fields, replace
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest

from toolkit.errors import ManifestError, UsageError
from toolkit.model import manifest
from toolkit.model.equivalence import (
    Artifact,
    EquivalenceRecord,
    ExportRecord,
    Flip,
    Leg,
    OutputDifference,
    TensorSpec,
)
from toolkit.model.manifest import Manifest
from toolkit.model.records import (
    DatasetRecord,
    NetworkRecord,
    OperatingPointRecord,
    PreprocessingConstants,
    TrainingRecord,
)
from toolkit.xray.labels import LabelMap, label_map

POINT = OperatingPointRecord("val", "worn", "sensitivity", 0.95, 0.1 + 0.2, 0.96, 0.5, 25, 48)


@pytest.fixture
def full() -> Manifest:
    """A manifest with every part, and values that a careless decoder would change."""
    spec = TensorSpec("xray", "uint8", ("batch", 224, 224))
    difference = OutputDifference("logits", 1.5e-7, 0.1 + 0.2, 1e-7, 3.0, "1e-05", (5, 0, 1), True)
    leg = Leg(
        file="knee.pipeline.onnx",
        sha256="b" * 64,
        samples=74,
        batches=(1, 2, 7, 64),
        settings=("in batches of 1", "in shuffled batches of 7"),
        provider="CPUExecutionProvider",
        argmax_agreement=1.0,
        batch_invariance=3e-8,
        flips=(Flip(3, "noise", "in batches of 1", 1e-9, 2e-8, True),),
        outputs=(difference, replace(difference, output="probabilities", passed=False)),
        failures=("one line", "zwei Zeilen: ü"),
        passed=False,
    )
    return Manifest(
        name="knee",
        labels=label_map("merge01"),
        preprocessing=PreprocessingConstants(edge_mean=0.449, edge_std=0.226),
        dataset=DatasetRecord(
            source="folder",
            split="study",
            counts={"train": (2297, 1495, 769, 175), "val": ()},
            part_sha256={"train": "c" * 64},
            content_sha256="d" * 64,
            skipped=3,
            patients=4130,
            crossing_patients=1234,
        ),
        network=NetworkRecord(28, 0.5, 386_068),
        training=TrainingRecord(
            checkpoint_sha256="a" * 64,
            recipe={"preset": "study", "lr": 1e-4, "epochs": 500},
            seed=1,
            device="cpu",
            epochs=500,
            versions={"torch": "2.13.0"},
            metrics={"test": {"n": 9, "recall": [0.5, None], "kappa": None}},
        ),
        export=ExportRecord(
            {"pipeline": Artifact("knee.pipeline.onnx", "b" * 64, "onnx", 20, (spec,), ())},
            {"onnx": "1.23"},
        ),
        equivalence=EquivalenceRecord(False, {"pipeline": leg}, {"real": 8}, {"torch": "2.13"}),
    )


def as_json(record):
    return json.loads(json.dumps(asdict(record)))


def refusal(content, path):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_full_manifest_comes_back_as_it_was(full, tmp_path):
    manifest.save(full, tmp_path / "knee.json")
    found = manifest.load(tmp_path / "knee.json")
    assert found == full
    # Equality holds for lists and tuples of other types too: look at the leaves.
    assert repr(found) == repr(full)


def test_a_manifest_of_a_fresh_training_comes_back_as_it_was(full, tmp_path):
    fresh = replace(full, export=None, equivalence=None)
    manifest.save(fresh, tmp_path / "knee.json")
    assert repr(manifest.load(tmp_path / "knee.json")) == repr(fresh)


def test_the_shipped_manifest_is_saved_with_the_content_that_it_was_loaded_with(tmp_path):
    shipped = Path(__file__).parents[3] / "saved_models/model_saved.json"
    manifest.save(manifest.load(shipped), tmp_path / "m.json")
    expected = json.loads(shipped.read_text())
    # Former versions did not write it.
    expected["equivalence"].setdefault("answers_sha256", "")
    assert json.loads((tmp_path / "m.json").read_text()) == expected


def test_an_operating_point_is_of_one_of_two_classes(full, tmp_path):
    of_two = replace(full, labels=LabelMap("folders", ("sound", "worn"), ()), operating_point=POINT)
    manifest.save(of_two, tmp_path / "knee.json")
    assert repr(manifest.load(tmp_path / "knee.json")) == repr(of_two)
    torn = replace(of_two, operating_point=replace(POINT, positive="torn"))
    for wrong in (replace(full, operating_point=POINT), torn):
        message = refusal(as_json(wrong), tmp_path / "m.json")
        assert " is not one of two classes - at `$.operating_point.positive`" in message
    content = as_json(of_two)
    content["operating_point"]["figure"] = "recall"
    assert "operating_point.figure" in refusal(content, tmp_path / "m.json")


def test_a_kind_of_file_that_there_is_not_is_named(full, tmp_path):
    content = as_json(full)
    content["export"]["artifacts"]["foo"] = content["export"]["artifacts"]["pipeline"]
    assert "'foo' is no kind of file" in refusal(content, tmp_path / "m.json")


def test_every_part_is_in_the_file_under_its_own_name(full, tmp_path):
    manifest.save(replace(full, operating_point=POINT), tmp_path / "knee.json")
    content = json.loads((tmp_path / "knee.json").read_text())
    assert list(content) == [each.name for each in fields(Manifest)]
    assert content["schema_version"] == 1
    assert content["labels"]["classes"][0] == "none or doubtful"
    assert content["export"]["artifacts"]["pipeline"]["inputs"] == [
        {"name": "xray", "dtype": "uint8", "shape": ["batch", 224, 224]}
    ]


@pytest.mark.parametrize("version", [2, 0, "1", None, True])
def test_another_schema_is_refused_by_its_version(full, tmp_path, version):
    message = refusal(as_json(full) | {"schema_version": version}, tmp_path / "m.json")
    assert "schema version" in message or "schema_version" in message
    if version is not True:
        assert repr(version) in message


def test_a_newer_schema_says_so_before_anything_else(tmp_path):
    message = refusal({"schema_version": 7, "entirely": "different"}, tmp_path / "m.json")
    assert "version 7" in message
    assert "reads 1" in message


def test_an_unknown_part_is_named(full, tmp_path):
    assert "surprise" in refusal(as_json(full) | {"surprise": 1}, tmp_path / "m.json")
    content = as_json(full)
    content["equivalence"]["legs"]["pipeline"]["outputs"][1]["tolerance"] = 1
    message = refusal(content, tmp_path / "m.json")
    assert "tolerance" in message
    assert "legs.pipeline.outputs" in message


@pytest.mark.parametrize(
    "place", [("labels",), ("training", "seed"), ("labels", "grades"), ("dataset", "split")]
)
def test_a_missing_part_is_named(full, tmp_path, place):
    content = as_json(full)
    holder = reduce(getitem, place[:-1], content)
    del holder[place[-1]]
    assert place[-1] in refusal(content, tmp_path / "m.json")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("network", "layer_size"), "28"),
        (("network", "layer_size"), 28.0),
        (("network", "layer_size"), True),
        (("network", "dropout"), "0.5"),
        (("network", "dropout"), None),
        (("network", "dropout"), 10**400),
        (("network",), []),
        (("labels", "classes"), "none"),
        (("labels", "grades"), [0, 2]),
        (("dataset", "counts"), [1, 2]),
        (("preprocessing", "image_mean"), [0.5, 0.5]),
        (("equivalence", "passed"), "yes"),
        (("equivalence", "passed"), 1),
        (("export",), "none"),
        (("name",), 3),
    ],
)
def test_a_part_of_the_wrong_type_is_named(full, tmp_path, place, value):
    content = as_json(full)
    reduce(getitem, place[:-1], content)[place[-1]] = value
    assert ".".join(place) in refusal(content, tmp_path / "m.json")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "not json",
        "[]",
        "null",
        '"text"',
        "[" * 100000,
        '{"schema_version": 1}',
        '{"schema_version": NaN}',
        "\x00",
    ],
)
def test_what_is_not_a_manifest_is_refused(tmp_path, content):
    refusal(content, tmp_path / "m.json")


@pytest.mark.parametrize("half", [r"\ud800", r"\udcfc", r"\ud800\ud800", r"x\udbff x"])
def test_a_label_with_half_a_character_is_refused(full, tmp_path, half):
    path = tmp_path / "m.json"
    manifest.save(full, path)
    path.write_text(path.read_text().replace('"minimal"', f'"{half}"'))
    with pytest.raises(ManifestError, match=r"m\.json cannot be read as a manifest") as caught:
        manifest.load(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "m.json").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ManifestError, match=r"m\.json"):
        manifest.load(tmp_path / "m.json")


def test_a_missing_manifest_says_how_to_get_one(tmp_path):
    with pytest.raises(ManifestError, match=r"gone\.json does not exist.*toolkit train"):
        manifest.load(tmp_path / "gone.json")
    with pytest.raises(ManifestError, match="cannot be read"):
        manifest.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_is_never_written(full, tmp_path, value):
    path = tmp_path / "m.json"
    path.write_bytes(b"old")
    training = replace(full.training, metrics={"test": {"accuracy": value}})
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest.save(replace(full, training=training), path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["m.json"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ['"dropout": ', '"kappa": '])
def test_nan_is_never_read(full, tmp_path, value, key):
    text = json.dumps(asdict(full))
    was = key + ("0.5" if "dropout" in key else "null")
    assert was in text
    refusal(text.replace(was, key + value), tmp_path / "m.json")


def test_a_failing_write_leaves_the_old_manifest_byte_for_byte(full, full_disk, tmp_path):
    path = tmp_path / "knee.json"
    manifest.save(full, path)
    before = path.read_bytes()
    assert len(before) > 1024
    with full_disk(1024), pytest.raises(UsageError, match="cannot write"):
        manifest.save(replace(full, name="another"), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["knee.json"]


def test_a_folder_that_cannot_be_is_one_clear_line(full, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write"):
        manifest.save(full, tmp_path / "file" / "knee.json")
