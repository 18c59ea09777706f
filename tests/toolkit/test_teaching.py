import shutil
from dataclasses import replace

import pytest
import torch

from toolkit import manifest
from toolkit.dataset import generated, load_folder
from toolkit.errors import CheckpointError, UsageError
from toolkit.labels import label_map
from toolkit.outcome import save_outcome
from toolkit.prediction import predict
from toolkit.recipes import recipe
from toolkit.store import ModelFiles
from toolkit.teaching import load_teacher, taught, unlabelled_xrays
from toolkit.training import Training

CPU = torch.device("cpu")
STUDY = label_map("study")


def small(**changes):
    return recipe("default", **{"epochs": 2, "batch_size": 8, "layer_size": 4} | changes)


@pytest.fixture(scope="module")
def dataset():
    return generated(48, STUDY)


@pytest.fixture(scope="module")
def teacher_files(dataset, tmp_path_factory):
    files = ModelFiles(tmp_path_factory.mktemp("models"), "teacher")
    training = Training(dataset, small(), 1, CPU)
    training.run(files.resume, lambda _: None)
    save_outcome(training, files)
    return files


@pytest.fixture(scope="module")
def lessons(dataset, teacher_files):
    unlabelled = dataset.pixels[dataset.parts["val"]]
    return taught([load_teacher(teacher_files, dataset)], dataset, unlabelled, CPU)


def test_opinion_is_the_mean_over_teachers_and_mirror_images(dataset, teacher_files):
    one = load_teacher(teacher_files, dataset)
    other = replace(
        one, name="other", temperature=0.5, network=Training(dataset, small(), 5, CPU).network
    )
    unlabelled = torch.empty(0, 224, 224, dtype=torch.uint8)
    said = taught([one, other], dataset, unlabelled, CPU).opinions
    pixels = dataset.pixels[dataset.parts["train"]]
    each = [
        (predict(teacher.network, teacher.preprocessing, xray) / teacher.temperature).softmax(1)
        for teacher in (one, other)
        for xray in (pixels, pixels.flip(2))
    ]
    torch.testing.assert_close(said, torch.stack(each).mean(0))
    assert not torch.allclose(each[0], each[2], atol=1e-3), "two teachers that agree show nothing"


def test_target_is_label_and_opinion_in_the_recipes_shares(dataset, lessons):
    train = dataset.parts["train"]
    labels = torch.eye(4)[dataset.labels[train]]
    targets = lessons.targets(dataset, 0.25)
    torch.testing.assert_close(targets[train], 0.75 * labels + 0.25 * lessons.opinions)
    torch.testing.assert_close(targets[train].sum(1), torch.ones(len(train)))


def test_xrays_without_a_label_get_the_opinion_alone(dataset, lessons):
    added = lessons.added(len(dataset.pixels))
    targets = lessons.targets(dataset, 0.25)
    assert len(added) == len(dataset.parts["val"]) > 0
    torch.testing.assert_close(targets[added], lessons.unlabelled_opinions)


def test_nothing_is_learned_of_what_is_held_out(dataset, lessons):
    held_out = torch.cat([dataset.parts[part] for part in ("val", "test")])
    assert not lessons.targets(dataset, 0.5)[held_out].any()
    indices = set(Training(dataset, small(), 0, CPU, lessons).indices.tolist())
    assert not indices & set(held_out.tolist())


def test_training_goes_by_the_teachers(dataset, lessons):
    def weights(**changes):
        training = Training(dataset, small(**changes), 0, CPU, lessons)
        training.advance()
        return training.network.outputCombiner[8].weight.detach()

    assert not torch.equal(weights(teacher_share=0.1), weights(teacher_share=0.9))


def test_accuracy_counts_the_labelled_alone(dataset, lessons):
    training = Training(dataset, small(), 0, CPU, lessons)
    logits = torch.zeros(len(training.indices), 4)
    logits[:, 0] = 1
    none = int((dataset.labels[dataset.parts["train"]] == 0).sum())
    assert int(training._correct(logits, training.indices)) == none


def test_training_with_teachers_resumes_to_the_same_bits_and_not_without_them(
    dataset, lessons, tmp_path
):
    state = tmp_path / "state.pt"
    whole = Training(dataset, small(), 0, CPU, lessons)
    whole.run(tmp_path / "other.pt", lambda _: None)
    first = Training(dataset, small(), 0, CPU, lessons)
    first.advance()
    first.save(state)
    second = Training(dataset, small(), 0, CPU, lessons)
    second.load(state)
    second.run(state, lambda _: None)
    for one, two in zip(whole.result.parameters(), second.result.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(UsageError, match="teachers was"):
        Training(dataset, small(), 0, CPU).load(state)


def test_manifest_names_the_teachers(dataset, lessons, teacher_files, tmp_path):
    files = ModelFiles(tmp_path, "student")
    training = Training(dataset, small(epochs=1), 0, CPU, lessons)
    training.run(files.resume, lambda _: None)
    save_outcome(training, files)
    record = manifest.load(files.manifest).teaching
    digest = manifest.load(teacher_files.manifest).training.checkpoint_sha256
    assert record.teachers == {"teacher": digest}
    assert record.unlabelled == len(dataset.parts["val"])
    assert manifest.load(teacher_files.manifest).teaching is None


@pytest.fixture
def copied(teacher_files, tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(teacher_files.folder, folder)
    return ModelFiles(folder, teacher_files.name)


def test_teacher_of_other_xrays_is_refused_since_it_may_know_those_held_out(copied):
    with pytest.raises(UsageError, match="other X-rays than this data's part train"):
        load_teacher(copied, generated(48, STUDY, seed=3))


def test_teacher_of_other_classes_is_refused(copied):
    with pytest.raises(UsageError, match="its labels are 'study'"):
        load_teacher(copied, generated(48, label_map("five")))


def test_teacher_that_was_changed_is_refused(copied, dataset):
    content = bytearray(copied.checkpoint.read_bytes())
    content[-2000] ^= 1
    copied.checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_teacher(copied, dataset)


def test_unlabelled_xrays_are_of_left_out_grades_and_of_training_patients(png_folder):
    folder = png_folder(
        "train/0/1L", "train/1/1R", "train/1/2L", "train/2/3L", "val/1/4L", "val/2/5L", "test/1/6L"
    )
    dataset = load_folder(folder, STUDY, None)
    expected = load_folder(folder, label_map("five"), None)
    places = [expected.names.index(name) for name in ("1R", "2L")]
    found = unlabelled_xrays(folder, dataset)
    assert torch.equal(found, expected.pixels[places])


def test_unlabelled_xrays_leave_out_patients_with_another_knee_held_out(png_folder):
    names = [f"{grade}/{patient}{side}" for patient in range(40) for grade, side in ("0L", "1R")]
    folder = png_folder(*names)
    dataset = load_folder(folder, STUDY, "patient")
    train = {dataset.names[index][:-1] for index in dataset.parts["train"].tolist()}
    assert 0 < len(train) < 40
    assert len(unlabelled_xrays(folder, dataset)) == len(train)
