import copy
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toolkit.errors import UsageError
from toolkit.files import sha256
from toolkit.model import manifest, metrics
from toolkit.model.artifacts import check_equivalence
from toolkit.model.equivalence import Artifact, EquivalenceRecord, ExportRecord, Leg
from toolkit.model.files import ModelFiles
from toolkit.networks.base import Classifier, initialise
from toolkit.networks.default import StudyNetwork
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train import checkpoint, novelty
from toolkit.train.calibration import calibrate, softmax
from toolkit.train.evaluation import permutation, predict
from toolkit.train.finish import judge, keep_previous, save_training
from toolkit.train.recipes import recipe
from toolkit.train.training import Training


@pytest.fixture(scope="module")
def training(tiny, tmp_path_factory):
    chosen = recipe("default", layer_size=2, epochs=1, batch_size=16)
    training = Training(tiny, chosen, 3, torch.device("cpu"))
    training.run(tmp_path_factory.mktemp("state") / "state.pt", lambda _: None)
    return training


@pytest.fixture
def files(tmp_path):
    return ModelFiles(tmp_path, "knee")


@pytest.fixture
def finished(training, files):
    """A model with every kind of file, as an export leaves it."""
    record = save(training, files)
    artifacts, legs = {}, {}
    for kind in ("network", "pipeline"):
        path = files.path(kind)
        path.write_bytes(b"onnx of the " + kind.encode())
        artifacts[kind] = Artifact(path.name, sha256(path), "onnx", 20, (), ())
        legs[kind] = Leg(path.name, sha256(path), 1, (1,), (), "CPU", 1.0, 0.0, (), (), (), True)
    verdict = EquivalenceRecord(True, legs, {}, {})
    record = replace(record, export=ExportRecord(artifacts, {}), equivalence=verdict)
    manifest.save(record, files.manifest)
    return record


def save(training, files):
    record, _ = save_training(training, judge(training, files.name), files)
    return record


def present(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_training_leaves_a_checkpoint_and_a_manifest_that_agree(training, files, tiny):
    files.folder.joinpath("knee.resume.pt").write_bytes(b"state")
    returned = save(training, files)
    assert present(files.folder) == ["knee.json", "knee.pt", "knee.scope.pt"]
    record = manifest.load(files.manifest)
    assert record == returned
    assert record.name == "knee"
    assert record.training.checkpoint_sha256 == sha256(files.checkpoint)
    assert record.export is record.equivalence is None
    assert (record.training.seed, record.training.epochs, record.training.device) == (3, 1, "cpu")
    assert record.training.recipe["preset"] == "default"
    assert record.training.recipe["layer_size"] == record.network.layer_size == 2
    assert record.training.versions.keys() == {"python", "toolkit", "torch", "numpy", "pillow"}
    assert record.dataset == tiny.record()
    assert record.labels == tiny.label_map
    network = checkpoint.load_network(files.checkpoint, record.network, 4)
    kept = training.result.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())


def test_the_manifests_figures_are_those_of_the_checkpoint_on_every_part(training, files, tiny):
    record = save(training, files)
    network = checkpoint.load_network(files.checkpoint, record.network, 4)
    classifier = training.classifier.with_parts(network, training.preprocessing)
    assert record.training.metrics.keys() == tiny.parts.keys()
    found = permutation(training.classifier, tiny)
    assert record.training.permutation == found
    for part, figures in record.training.metrics.items():
        indices = tiny.parts[part]
        logits = predict(classifier, tiny.pixels[indices]).numpy()
        labels = tiny.labels[indices].numpy()
        found = metrics.evaluate(
            labels,
            logits.argmax(axis=1),
            4,
            patients=[tiny.names[index][:-1] for index in indices],
            probabilities=softmax(logits, record.temperature),
        )
        assert figures == metrics.as_dict(found)
        assert figures["n"] == len(indices)
        if part == "val":
            assert record.calibration == calibrate(logits, labels, "val")


def test_the_manifests_scope_is_that_of_the_network_and_its_file_that_of_the_manifest(
    training, files, tiny
):
    record = save(training, files).scope
    found, limit, within = novelty.fit(training.classifier, tiny)
    assert (record.part, record.n) == ("val", len(tiny.parts["val"]))
    assert (record.limit, record.within) == (limit, within)
    kept = novelty.load(files, record).state_dict()
    assert all(torch.equal(kept[name], each) for name, each in found.state_dict().items())


def test_a_constant_network_loses_nothing_without_either_input(training, tiny):
    network = copy.deepcopy(training.result)
    with torch.no_grad():
        for parameter in network.outputCombiner.parameters():
            parameter.zero_()
    classifier = training.classifier.with_parts(network, training.preprocessing)
    assert permutation(classifier, tiny) == {"image": 0, "edges": 0}


@pytest.mark.parametrize("alive", ["image", "edges"])
def test_an_input_that_alone_decides_is_worth_all_that_is_right_beyond_chance(tiny, alive):
    torch.manual_seed(1)
    network = IntermediarySpaceModel(6, 0.0, 4)
    initialise(network)
    with torch.no_grad():
        # Edges come second.
        first = network.outputCombiner[2].weight
        (first[:, 12:] if alive == "image" else first[:, :12]).zero_()
    classifier = Classifier(StudyNetwork(), network)
    with torch.no_grad():
        # So that it says more than one class.
        network.outputCombiner[-1].bias -= predict(classifier, tiny.pixels).mean(dim=0)
    # The labels are what the network says, so all of them are right.
    said = predict(classifier, tiny.pixels).argmax(dim=1)
    every = replace(tiny, labels=said, parts={"val": torch.arange(len(said))})
    lost = permutation(classifier, every)
    by_chance = float((torch.bincount(said).double() / len(said)).square().sum())
    assert by_chance < 0.8
    assert lost.pop(alive) == pytest.approx(1 - by_chance, abs=0.1)
    assert list(lost.values()) == [0]


@pytest.mark.usefixtures("finished")
def test_training_over_a_finished_name_keeps_its_files_as_previous(training, files):
    before = {kind: sha256(files.path(kind)) for kind in ("checkpoint", "network", "pipeline")}
    assert keep_previous(files)
    save(training, files)
    former = files.previous
    assert present(files.folder) == sorted(
        [
            "knee.json",
            "knee.pt",
            "knee.scope.pt",
            "knee.previous.json",
            "knee.previous.pt",
            "knee.previous.scope.pt",
            "knee.previous.onnx",
            "knee.previous.pipeline.onnx",
        ]
    )
    assert {kind: sha256(former.path(kind)) for kind in before} == before


def test_the_formers_manifest_speaks_of_its_new_name_so_that_it_can_be_served(files, finished):
    keep_previous(files)
    former = files.previous
    record = manifest.load(former.manifest)
    assert record.name == former.name == "knee.previous"
    assert record.training == finished.training
    assert record.training.checkpoint_sha256 == sha256(former.checkpoint)
    assert record.export
    assert record.equivalence
    for kind in ("network", "pipeline"):
        artifact, leg = record.export.artifacts[kind], record.equivalence.legs[kind]
        assert artifact.file == leg.file == former.path(kind).name
        assert artifact.sha256 == leg.sha256 == sha256(files.folder / artifact.file)
    assert check_equivalence(former, record) == sha256(former.path("pipeline"))


@pytest.mark.usefixtures("finished")
def test_a_second_time_the_older_former_makes_room(training, files):
    keep_previous(files)
    save(training, files)
    second = sha256(files.checkpoint)
    assert keep_previous(files)
    # This one was never exported: nothing of the older former may stand for it.
    assert present(files.folder) == [
        "knee.previous.json",
        "knee.previous.pt",
        "knee.previous.scope.pt",
    ]
    assert sha256(files.previous.checkpoint) == second
    assert manifest.load(files.previous.manifest).export is None


def test_where_nothing_is_finished_nothing_is_kept(files):
    assert not keep_previous(files)
    files.resume.write_bytes(b"an unfinished training")
    assert not keep_previous(files)
    assert present(files.folder) == ["knee.resume.pt"]


@pytest.mark.usefixtures("finished")
def test_the_state_of_the_training_that_is_to_be_saved_stays_until_it_is(files):
    files.resume.write_bytes(b"state")
    keep_previous(files)
    assert files.resume.exists()


def damaged(content, change):
    change(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"\xff\x00 not JSON",
        lambda _: b"[" * 100_000,
        lambda content: damaged(content, lambda c: c.update(schema_version=99)),
        lambda content: damaged(content, lambda c: c.pop("labels")),
        lambda content: damaged(content, lambda c: c["network"].update(dropout=float("nan"))),
        lambda content: damaged(content, lambda c: c["training"]["metrics"].update(x=1e999)),
        lambda content: damaged(
            content, lambda c: c["export"]["artifacts"].update(alien=dict(ARTIFACT))
        ),
    ],
    ids=["empty", "binary", "deep", "newer", "part missing", "NaN", "infinite", "unknown kind"],
)
@pytest.mark.usefixtures("finished")
def test_a_corrupt_former_manifest_does_not_lose_the_training(training, files, damage):
    content = damage(json.loads(files.manifest.read_text()))
    files.manifest.write_bytes(content)
    assert keep_previous(files)
    record = save(training, files)
    assert manifest.load(files.manifest) == record
    assert files.previous.manifest.exists()
    assert files.previous.checkpoint.exists()


ARTIFACT = {"file": "x", "sha256": "", "format": "", "opset": 1, "inputs": [], "outputs": []}


@pytest.mark.usefixtures("finished")
def test_a_former_without_a_manifest_is_kept_too(files):
    files.manifest.unlink()
    assert keep_previous(files)
    assert "knee.previous.pt" in present(files.folder)


@pytest.mark.usefixtures("finished")
def test_a_former_that_cannot_be_renamed_is_one_clear_line(files):
    files.previous.checkpoint.mkdir()
    with pytest.raises(UsageError, match="cannot keep the former knee") as caught:
        keep_previous(files)
    assert "\n" not in str(caught.value)


def test_a_training_over_generated_xrays_with_empty_parts_is_saved(training, files, tiny):
    only = replace(tiny, parts={"train": tiny.parts["train"]})
    training.dataset, kept = only, training.dataset
    try:
        record = save(training, files)
    finally:
        training.dataset = kept
    assert record.training.metrics.keys() == {"train"}


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("stage", ["permutation", "calibrate", "novelty.fit"])
def test_a_stop_while_a_training_is_judged_leaves_the_former_model(
    training, files, monkeypatch, stage
):
    before = {path.name: path.read_bytes() for path in files.folder.iterdir()}

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"toolkit.train.finish.{stage}", stopped)
        with pytest.raises(KeyboardInterrupt):
            save(training, files)
    assert {path.name: path.read_bytes() for path in files.folder.iterdir()} == before
    save(training, files)
    assert files.previous.checkpoint.read_bytes() == before["knee.pt"]


@pytest.mark.usefixtures("finished")
def test_a_fragment_never_takes_the_place_of_the_former_model(training, files):
    """A kill between the checkpoint and the manifest leaves the one without the other."""
    kept = files.checkpoint.read_bytes()
    keep_previous(files)
    files.checkpoint.write_bytes(b"a fragment")
    save(training, files)
    assert files.previous.checkpoint.read_bytes() == kept
    assert manifest.load(files.previous.manifest).export
    assert files.unfinished.read_bytes() == b"a fragment"


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("after", range(9))
def test_renaming_that_was_killed_is_finished_by_the_next(training, files, monkeypatch, after):
    """Whatever was renamed or removed before: all of the one model is kept, none of another."""
    keep_previous(files)
    save(training, files)
    files.path("pipeline").write_bytes(b"of the second")
    kept = {path.name for path in files.folder.glob("knee.[!p]*")}
    kept = {name: (files.folder / name).read_bytes() for name in kept | {"knee.pt"}}
    kept["knee.pipeline.onnx"] = b"of the second"
    done = []

    def counted(method):
        def call(path, *arguments, **more):
            done.append(path)
            if len(done) > after:
                raise KeyboardInterrupt
            return method(path, *arguments, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        with suppress(KeyboardInterrupt):
            keep_previous(files)
    keep_previous(files)
    found = {path.name: path.read_bytes() for path in files.folder.iterdir()}
    found.pop("knee.previous.json")
    kept.pop("knee.json")
    assert found == {name.replace("knee", "knee.previous", 1): each for name, each in kept.items()}
