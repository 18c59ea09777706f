"""What a student learns: its teachers' mean answer to the very view that it sees."""

import hashlib
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from toolkit.errors import UsageError
from toolkit.model import manifest
from toolkit.networks.base import Classifier, initialise
from toolkit.networks.default import StudyNetwork
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.distillation.targets import VIEWS, make_targets
from toolkit.train.distillation.teachers import Teacher, load_teachers
from toolkit.train.finish import judge
from toolkit.train.recipes import recipe
from toolkit.train.steps.augmentation import augment
from toolkit.train.steps.plan import plan_epoch, step_plan
from toolkit.train.training import Training

CPU = torch.device("cpu")
STUDENT = {"layer_size": 1, "batch_size": 7, "epochs": 2}


@pytest.fixture(scope="module")
def taught(tiny, teachers_folder):
    return load_teachers("first,second", teachers_folder, tiny, CPU)


@pytest.fixture(scope="module")
def few(tiny):
    """Few X-rays to train on."""
    return replace(tiny, parts={"train": tiny.parts["train"][:9], "val": tiny.parts["val"]})


@pytest.fixture(scope="module")
def targets(few, taught):
    return make_targets(taught, few, few.pixels[-2:].flip(1), 0.5, True, 3)


def student(dataset, targets, **changes):
    return Training(dataset, recipe("default", **STUDENT | changes), 0, CPU, targets=targets)


def loud(name, seed):
    """A teacher whose answers differ with every change of the X-ray."""
    torch.manual_seed(seed)
    network = IntermediarySpaceModel(layer_size=4, dropout=0.0, classes=4)
    initialise(network)
    return Teacher(name, "", Classifier(StudyNetwork(), network).eval(), None)


@torch.no_grad()
def test_a_target_is_the_mean_answer_to_the_view_moved_and_mirrored(few, monkeypatch):
    views = 4
    monkeypatch.setattr("toolkit.train.distillation.targets.VIEWS", views)
    taught = [loud("first", 1), loud("second", 2)]
    found = make_targets(taught, few, few.pixels[-2:].flip(1), 0.5, True, 3)
    pixels = torch.cat([few.pixels, few.pixels[-2:].flip(1)])
    for view, place in ((0, int(few.parts["train"][0])), (views - 1, len(pixels) - 1)):
        answers = []
        for way, mirrored in ((-0.35, False), (0.35, True)):
            drawn = found.draws[view, place].clone()
            drawn[3:5] += way
            if mirrored:
                drawn[0] = -drawn[0]
            shown = augment(pixels[place][None], 0.5, drawn[:, None], True)
            answers += [each.classifier(shown).softmax(dim=1)[0] for each in taught]
        assert (answers[0] - answers[2]).abs().max() > 1e-3
        assert torch.allclose(
            found.probabilities[view, place], torch.stack(answers).mean(dim=0), atol=1e-5
        )


@torch.no_grad()
def test_no_view_is_mirrored_where_a_teacher_does_not_take_it(few, monkeypatch):
    monkeypatch.setattr("toolkit.train.distillation.targets.VIEWS", 4)

    class OneSided(StudyNetwork):
        mirror = False

    sided = loud("first", 1)
    sided = replace(sided, classifier=Classifier(OneSided(), sided.classifier.network).eval())
    first, other = (
        make_targets([teacher], few, few.pixels[:0], 0.5, mirror, 3)
        for teacher, mirror in ((sided, True), (loud("first", 1), False))
    )
    assert torch.equal(first.probabilities, other.probabilities)
    assert not first.mirror


def test_every_xray_to_train_on_has_its_views_and_no_other_is_asked_about(few, targets):
    asked = targets.probabilities.sum(dim=2)
    places = sorted([*few.parts["train"].tolist(), len(few.names), len(few.names) + 1])
    assert sorted(targets.places.tolist()) == places
    assert asked[:, places] == pytest.approx(torch.ones(VIEWS, len(places)), abs=1e-6)
    others = sorted(set(range(len(few.names))) - set(places))
    assert not asked[:, others].any()


def test_without_augmentation_there_is_one_view_the_xray_itself(few, taught):
    plain = make_targets(taught, few, few.pixels[:0], 0.0, False, 3)
    assert len(plain.draws) == 1
    first = few.pixels[few.parts["train"][:1]]
    with torch.no_grad():
        answers = [each.classifier(first).softmax(dim=1)[0] for each in taught]
    found = plain.probabilities[0, few.parts["train"][0]]
    assert torch.allclose(found, torch.stack(answers).mean(dim=0), atol=1e-6)


def test_a_student_sees_the_view_that_its_teachers_were_asked_about(few, targets):
    training = student(few, targets)
    lessons = training.step.parts.lessons
    generator = torch.Generator().manual_seed(0)
    pixels = torch.cat([few.pixels, targets.unlabelled])
    drawn = lessons.draw(targets.places, generator)
    views = drawn[0].long() // len(pixels)
    assert len(set(views.tolist())) > 1
    batch = lessons.look_up(drawn)
    for place, view, xray, truth in zip(
        targets.places.tolist(), views.tolist(), batch.xray, batch.truth, strict=True
    ):
        shown = augment(pixels[place][None], 0.5, targets.draws[view, place][:, None], True)
        assert torch.equal(shown[0], xray)
        assert torch.equal(truth, targets.probabilities[view, place])


def test_the_loss_is_the_cross_entropy_with_what_the_teachers_say(few, targets):
    training = student(few, targets, branch_loss=0.0, dropout=0.0)
    (row, *_) = plan_epoch(
        training.recipe, training.step.parts.lessons, training.indices, training.generator, 0
    )
    batch = training.step.parts.lessons.look_up(step_plan(row, 1).lessons)
    loss, logits = training.step.loss(batch)
    expected = -(batch.truth * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_learns_nothing_from_labels(few, targets):
    other = replace(few, labels=few.labels.flip(0))
    weights = []
    for dataset in (few, other):
        training = student(dataset, targets)
        training.advance()
        weights.append([*training.network.parameters()])
    pairs = zip(*weights, strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_unlabelled_xrays_count_in_no_accuracy(few, targets):
    # Each X-ray is told to be of one class: over all classes every one is right once.
    accuracies = []
    for label in range(4):
        relabelled = replace(few, labels=torch.full_like(few.labels, label))
        accuracies.append(student(relabelled, targets, lr=1e-12).advance().train_accuracy)
    assert sum(accuracies) == pytest.approx(1)


def test_a_student_that_goes_on_comes_to_the_unbroken_ones_bits(few, targets, tmp_path):
    unbroken = student(few, targets)
    unbroken.run(tmp_path / "other.pt", lambda _: None)
    broken = student(few, targets)
    broken.advance()
    broken.save(tmp_path / "state.pt")
    again = student(few, targets)
    again.load(tmp_path / "state.pt")
    again.advance()
    pairs = zip(again.network.parameters(), unbroken.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("change", ["labels", "teachers", "X-rays without a class"])
def test_a_student_does_not_go_on_with_other_lessons(few, targets, taught, tmp_path, change):
    student(few, targets).save(tmp_path / "state.pt")
    other = {
        "labels": None,
        "teachers": replace(targets, teachers={"first": taught[0].checkpoint_sha256}),
        "X-rays without a class": replace(targets, unlabelled=targets.unlabelled.flip(2)),
    }[change]
    with pytest.raises(UsageError, match="start without --resume"):
        student(few, other).load(tmp_path / "state.pt")


def test_a_manifest_says_who_taught_and_of_what(few, targets, taught, tmp_path):
    training = student(few, targets)
    training.run(tmp_path / "state.pt", lambda _: None)
    record, _ = judge(training, "student")
    manifest.save(record, tmp_path / "student.json")
    found = manifest.load(tmp_path / "student.json").training.distillation
    assert found.teachers == {each.name: each.checkpoint_sha256 for each in taught}
    assert (found.views, found.unlabelled) == (VIEWS, 2)
    digests = [
        hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()
        for values in (targets.unlabelled, targets.probabilities)
    ]
    assert [found.unlabelled_sha256, found.targets_sha256] == digests
    assert judge(student(few, None), "other")[0].training.distillation is None


def test_a_taught_step_never_waits_for_its_device(few, targets):
    training = student(few, targets)
    lessons = training.step.parts.lessons
    (row, *_) = plan_epoch(training.recipe, lessons, training.indices, training.generator, 0)
    with profile(activities=[ProfilerActivity.CPU]) as run:
        training.step.loss(lessons.look_up(step_plan(row, lessons.numbers).lessons))
    done = {event.key for event in run.key_averages()}
    assert "aten::grid_sampler_2d" in done
    assert not done & {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}
