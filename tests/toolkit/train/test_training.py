import copy
import math
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from toolkit.errors import CheckpointError, MissingExtraError, TrainingError, UsageError
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train import checkpoint
from toolkit.train.dataset import class_weights, load_folder
from toolkit.train.evaluation import predict
from toolkit.train.finish import judge
from toolkit.train.recipes import recipe
from toolkit.train.steps.plan import lr_factor
from toolkit.train.training import Training, device_of
from toolkit.xray.labels import label_map

CPU = torch.device("cpu")


def small(preset="default", **changes):
    """A recipe with everything on that can be random, for a network that trains in a second."""
    settings = {"layer_size": 6, "epochs": 3, "batch_size": 8, "dropout": 0.5} | changes
    return recipe(preset, **settings)


def trained(dataset, tmp_path, chosen=None, seed=0, name="state.pt"):
    training = Training(dataset, chosen or small(), seed, CPU)
    training.run(tmp_path / name, lambda _: None)
    return training


def after_each_step(training, call):
    step = training.optimiser.step

    def both():
        step()
        call()

    training.optimiser.step = both


def scramble():
    """Leave no generator as the interrupted training left it: a resumed one is another process."""
    torch.manual_seed(12345)
    torch.rand(17)


def same(first, second):
    assert list(first) == list(second)
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    return trained(tiny, tmp_path_factory.mktemp("unbroken"))


def assert_same_run(training, unbroken):
    assert same(training.network.state_dict(), unbroken.network.state_dict())
    assert same(training.average.state_dict(), unbroken.average.state_dict())
    assert training.history == unbroken.history
    assert training.epoch == unbroken.epoch == 3


def test_everything_random_is_on_in_the_runs_compared(unbroken):
    chosen = unbroken.recipe
    assert min(chosen.dropout, chosen.augmentation, chosen.average_decay) > 0
    assert not same(unbroken.network.state_dict(), unbroken.average.state_dict())


@pytest.mark.parametrize("generator", ["the order and augmentation", "dropout"])
def test_every_generator_matters_in_the_runs_compared(tiny, tmp_path, unbroken, generator):
    training = Training(tiny, small(), 0, CPU)
    if generator == "dropout":
        scramble()
    else:
        training.generator.manual_seed(1)
    training.run(tmp_path / "state.pt", lambda _: None)
    changed = [
        not torch.equal(mine, theirs)
        for mine, theirs in zip(
            training.network.parameters(), unbroken.network.parameters(), strict=True
        )
    ]
    # Of a network whose neurons are dead, only the last biases would.
    assert all(changed)


@pytest.mark.parametrize(
    ("unit", "stop"),
    [*(("epoch", stop) for stop in (1, 2, 3)), *(("step", stop) for stop in (1, 2, 7))],
)
def test_resumed_it_comes_to_the_weights_of_an_unbroken_run(tiny, tmp_path, unbroken, unit, stop):
    count = 0

    def interrupt(*_):
        nonlocal count
        count += 1
        if count == stop:
            raise KeyboardInterrupt

    state = tmp_path / "state.pt"
    broken = Training(tiny, small(), 0, CPU)
    assert 2 < -(-len(tiny.parts["train"]) // 8) < 6
    if unit == "step":
        after_each_step(broken, interrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run(state, interrupt if unit == "epoch" else lambda _: None)
    scramble()
    resumed = Training(tiny, small(), 0, CPU)
    scramble()
    resumed.load(state)
    assert unit == "step" or resumed.epoch == stop
    resumed.run(state, lambda _: None)
    assert_same_run(resumed, unbroken)


def test_interrupted_again_and_again_it_still_comes_to_the_same_weights(tiny, tmp_path, unbroken):
    state = tmp_path / "state.pt"

    def interrupt(_):
        raise KeyboardInterrupt

    for attempt in range(3):
        training = Training(tiny, small(), 0, CPU)
        scramble()
        if attempt:
            training.load(state)
        else:  # the first one needs its own seed, not what was scrambled
            training = Training(tiny, small(), 0, CPU)
        with pytest.raises(KeyboardInterrupt):
            training.run(state, interrupt)
    assert_same_run(training, unbroken)


def test_ctrl_c_as_an_epoch_is_told_of_waits_until_it_is(tiny, tmp_path):
    told, signals = [], [signal.SIGINT]

    def tell(epoch):
        if signals:
            signal.raise_signal(signals.pop())
        told.append(epoch.epoch)

    training = Training(tiny, small(), 0, CPU)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            training.run(tmp_path / "state.pt", tell)
    finally:
        signal.signal(signal.SIGINT, former)
    resumed = Training(tiny, small(), 0, CPU)
    resumed.load(tmp_path / "state.pt")
    resumed.run(tmp_path / "state.pt", tell)
    assert told == [each.epoch for each in resumed.history] == list(range(resumed.recipe.epochs))


def test_a_state_of_a_version_without_dropout_epochs_goes_on_to_the_same_weights(
    tiny, tmp_path, unbroken, one_epoch_of
):
    state = one_epoch_of(small())
    del state["identity"]["dropout_epochs"]
    for each in state["history"]:
        del each["last_batch_loss"]
    checkpoint.save(state, tmp_path / "state.pt")
    resumed = Training(tiny, small(), 0, CPU)
    resumed.load(tmp_path / "state.pt")
    resumed.run(tmp_path / "state.pt", lambda _: None)
    assert same(resumed.network.state_dict(), unbroken.network.state_dict())


def first_and_second_epoch(dataset, dropouts, dropout_epochs):
    """Train an epoch with each dropout, then one from the same weights with each of them."""
    trainings = [
        Training(dataset, small("study", dropout=p, dropout_epochs=dropout_epochs), 0, CPU)
        for p in dropouts
    ]
    first = [each.advance() for each in trainings]
    for each in trainings:
        each.network.load_state_dict(trainings[0].network.state_dict())
        each.optimiser.load_state_dict(copy.deepcopy(trainings[0].optimiser.state_dict()))
    return first, [each.advance() for each in trainings], trainings


def test_from_the_second_epoch_on_dropout_0_3_and_0_7_train_the_same_function(tiny):
    first, second, (low, high) = first_and_second_epoch(tiny, (0.3, 0.7), 1)
    assert first[0].train_loss != first[1].train_loss
    assert second[0] == second[1]
    assert same(low.network.state_dict(), high.network.state_dict())


def test_dropout_stays_on_for_as_many_epochs_as_the_recipe_says(tiny):
    for epochs in (2, 9):
        _, second, (low, high) = first_and_second_epoch(tiny, (0.3, 0.7), epochs)
        assert second[0].train_loss != second[1].train_loss
        assert not same(low.network.state_dict(), high.network.state_dict())


def test_the_loss_of_the_last_batch_is_told_beside_the_mean(tiny):
    training = Training(tiny, small("study"), 0, CPU)
    losses, compute = [], training.step.loss

    def spied(batch):
        loss, logits = compute(batch)
        losses.append((float(loss.detach()), len(batch.xray)))
        return loss, logits

    training.step.loss = spied
    epoch = training.advance()
    assert len(losses) > 2
    assert epoch.last_batch_loss == losses[-1][0]
    mean = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
    assert epoch.train_loss == pytest.approx(mean)
    assert epoch.last_batch_loss != pytest.approx(mean)


def test_a_loss_for_each_branch_reaches_it_though_nothing_else_does(tiny):
    training = Training(tiny, small(branch_loss=0.5), 0, CPU)
    with torch.no_grad():
        # The joint part listens to neither branch.
        training.network.outputCombiner[2].weight.zero_()
    lessons = training.step.parts.lessons
    drawn = lessons.draw(tiny.parts["train"][:8], training.generator)
    loss, _ = training.step.loss(lessons.look_up(drawn))
    loss.backward()
    for branch in (training.network.imagesClassifier, training.network.edgesClassifier):
        assert float(branch[0].weight.grad.abs().max()) > 0


def test_without_a_loss_for_each_branch_training_has_no_more_parameters(tiny):
    assert not list(Training(tiny, small(branch_loss=0.0), 0, CPU).heads.parameters())
    heads = Training(tiny, small(), 0, CPU).heads
    assert [each.in_features for each in heads] == [12, 12]


def test_what_only_training_has_is_not_in_the_result(tiny):
    training = Training(tiny, small(), 0, CPU)
    network = IntermediarySpaceModel(6, 0.5, 4)
    assert list(training.result.state_dict()) == list(network.state_dict())


def test_the_same_seed_gives_the_same_weights(tiny, tmp_path, unbroken):
    scramble()
    assert_same_run(trained(tiny, tmp_path), unbroken)


def test_another_seed_gives_other_weights(tiny, tmp_path, unbroken):
    other = trained(tiny, tmp_path, seed=1)
    assert not same(other.network.state_dict(), unbroken.network.state_dict())


OTHERS = {"layer_size": 3, "dropout": 0.4, "lr": 0.5, "epochs": 4, "batch_size": 7}
OTHERS |= {"preset": "study", "seed": 1, "edge_mean": 1.0}


@pytest.mark.parametrize(("named", "value"), OTHERS.items())
def test_resuming_with_other_options_is_refused_and_names_the_option(tiny, tmp_path, named, value):
    state = tmp_path / "state.pt"
    Training(tiny, small(), 0, CPU).save(state)
    changes, seed = {named: value}, 0
    if named == "seed":
        changes, seed = {}, value
    elif named == "edge_mean":
        changes = {"constants": replace(small().constants, edge_mean=value)}
    with pytest.raises(UsageError, match=f"cannot go on: {named} was .*, now ") as caught:
        Training(tiny, small(**({"preset": "default"} | changes)), seed, CPU).load(state)
    assert "--resume" in str(caught.value)
    assert "\n" not in str(caught.value)


PATHS = ("train/0/1L", "train/0/2L", "train/2/3L", "train/3/4L", "train/4/5L", "val/0/6L")


@pytest.mark.parametrize(
    "other",
    [
        (*PATHS, "val/2/7L"),
        (*PATHS[:-1], "val/0/7L"),
        (PATHS[1], PATHS[0], *PATHS[2:]),
        # The last of a grade moves to the next one, the last of a part to the next one: names
        # and pixels stay in the same order.
        ("train/0/1L", "train/2/2L", *PATHS[2:]),
        (*PATHS[:-1], "test/0/6L"),
    ],
    ids=["one more", "renamed", "repainted", "regraded", "moved"],
)
def test_resuming_with_other_data_is_refused(png_folder, tmp_path, other):
    def training(paths, under):
        dataset = load_folder(png_folder(*paths, under=under), label_map("study"), None)
        return Training(dataset, small(), 0, CPU)

    state = tmp_path / "state.pt"
    training(PATHS, "data").save(state)
    training(PATHS, "again").load(state)
    with pytest.raises(UsageError, match=r"cannot go on: (data|parts) was "):
        training(other, "other").load(state)


def test_with_nothing_to_resume_it_says_so(tiny, tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing to resume at .*gone"):
        Training(tiny, small(), 0, CPU).load(tmp_path / "gone.pt")


@pytest.fixture(scope="module")
def one_epoch_of(tiny, tmp_path_factory):
    """Return a function: the state that an interruption after one epoch of a recipe leaves."""

    def interrupt(_):
        raise KeyboardInterrupt

    def made(chosen):
        state = tmp_path_factory.mktemp("state") / "state.pt"
        with pytest.raises(KeyboardInterrupt):
            Training(tiny, chosen, 0, CPU).run(state, interrupt)
        return checkpoint.load(state)

    return made


@pytest.fixture(scope="module")
def one_epoch(one_epoch_of):
    return one_epoch_of(small(layer_size=1))


def broken_states():
    yield "empty", lambda _: {}
    yield "weights alone", lambda state: state["network"]
    for key in ("identity", "network", "average", "optimiser", "generator", "rng", "history"):
        yield f"no {key}", lambda state, key=key: {k: v for k, v in state.items() if k != key}
        yield f"{key} a number", lambda state, key=key: state | {key: 3}
        yield f"{key} a tensor", lambda state, key=key: state | {key: torch.zeros(2)}
        yield f"{key} empty", lambda state, key=key: state | {key: {}}
    yield "epoch missing", lambda state: {k: v for k, v in state.items() if k != "epoch"}
    yield "epoch a text", lambda state: state | {"epoch": "1"}
    yield "epoch negative", lambda state: state | {"epoch": -1}
    yield "epoch ahead", lambda state: state | {"epoch": 2}


@pytest.mark.parametrize(
    "change", [pytest.param(change, id=name) for name, change in broken_states()]
)
def test_a_corrupt_state_is_refused_in_one_line(tiny, tmp_path, one_epoch, change):
    state = tmp_path / "state.pt"
    torch.save(change(one_epoch), state)
    training = Training(tiny, small(layer_size=1), 0, CPU)
    with pytest.raises((CheckpointError, UsageError)) as caught:
        training.load(state)
    assert str(state) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_state_is_refused_in_one_line(tiny, tmp_path):
    state = tmp_path / "state.pt"
    training = Training(tiny, small(layer_size=1), 0, CPU)
    training.save(state)
    state.write_bytes(state.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="corrupt"):
        training.load(state)


# With one batch an epoch, no loss but that of validation tells what the last step did.
@pytest.mark.parametrize(
    ("preset", "batch_size", "epochs"),
    [("study", 8, 2), ("study", 1000, 1), ("default", 8, 2), ("default", 1000, 3)],
)
def test_a_loss_that_is_no_longer_finite_ends_the_training(
    tiny, tmp_path, epochs, batch_size, preset
):
    chosen = small(preset, lr=1e6, epochs=epochs, batch_size=batch_size)
    with pytest.raises(TrainingError, match=r"epoch [1-3].*--lr"):
        trained(tiny, tmp_path, chosen)


def test_broken_weights_are_not_kept_where_no_val_part_shows_them(tiny, tmp_path):
    alone = replace(tiny, parts={"train": tiny.parts["train"]})
    chosen = small("study", lr=1e6, epochs=1, batch_size=1000)
    training = trained(alone, tmp_path, chosen)
    with pytest.raises(TrainingError, match=r"'train' is not finite.*--lr"):
        judge(training, "broken")
    assert not (tmp_path / "broken.pt").exists()


def test_it_trains_without_a_val_part(tiny, tmp_path):
    alone = replace(tiny, parts={"train": tiny.parts["train"]})
    training = trained(alone, tmp_path, small(epochs=1))
    assert training.history[0].val_accuracy is None
    assert training.history[0].val_loss is None


def test_an_epoch_tells_the_accuracy_of_the_network_that_is_kept(tiny, unbroken):
    indices = tiny.parts["val"]
    logits = predict(unbroken.classifier, tiny.pixels[indices])
    right = (logits.argmax(1) == tiny.labels[indices]).double().mean().item()
    assert unbroken.history[-1].val_accuracy == right
    assert unbroken.result is unbroken.average
    assert [each.epoch for each in unbroken.history] == [0, 1, 2]
    assert all(0 <= each.train_accuracy <= 1 for each in unbroken.history)


def test_the_study_recipe_is_the_studys_training_written_out(tiny, tmp_path):
    """A plain loop: Adam, lambda times the sum of all squares, ExponentialLR, swapped counts."""
    chosen = small("study", dropout=0.0, lr=1e-3, lr_decay=1e-30, epochs=3)
    training = Training(tiny, chosen, 5, CPU)
    network = IntermediarySpaceModel(6, 0.0, 4)
    network.load_state_dict(training.network.state_dict())
    training.run(tmp_path / "state.pt", lambda _: None)

    indices = tiny.parts["train"]
    labels = tiny.labels[indices].tolist()
    seen = []
    for label in labels:
        if label not in seen:
            seen.append(label)
    weights = torch.tensor([float(labels.count(label)) for label in seen])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, gamma=1e-30 ** (1 / 100))
    generator = torch.Generator().manual_seed(5)
    preprocessing = Preprocessing(chosen.constants)
    losses, rates = [], []
    for _ in range(3):
        order = indices[torch.randperm(len(indices), generator=generator)]
        total = 0.0
        for start in range(0, len(order), 8):
            batch = order[start : start + 8]
            logits = network(*preprocessing(tiny.pixels[batch]))
            loss = functional.cross_entropy(logits, tiny.labels[batch], weight=weights)
            loss = loss + 0.027 * sum((each**2).sum() for each in network.parameters())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        rates.append(optimiser.param_groups[0]["lr"])
        schedule.step()
        losses.append(total / len(order))
    assert [each.lr for each in training.history] == pytest.approx(rates, rel=1e-9)
    assert rates[2] < rates[0] / 3
    assert [each.train_loss for each in training.history] == pytest.approx(losses, rel=1e-4)
    for mine, theirs in zip(training.network.parameters(), network.parameters(), strict=True):
        assert (mine - theirs).abs().max() < 2e-5
    assert training.result is training.network


def test_l2_pulls_at_every_parameter_biases_and_zeros_too(tiny, tmp_path):
    gradients = {}
    for l2 in (0.0, 0.5):
        chosen = replace(small("study", dropout=0.0, epochs=1, batch_size=1000), l2=l2)
        training = Training(tiny, chosen, 0, CPU)
        with torch.no_grad():
            next(training.network.parameters()).zero_()
        before = [each.detach().clone() for each in training.network.parameters()]
        training.run(tmp_path / "state.pt", lambda _: None)
        gradients[l2] = [each.grad.clone() for each in training.network.parameters()]
    for with_l2, without, weight in zip(gradients[0.5], gradients[0.0], before, strict=True):
        assert with_l2.isfinite().all()
        torch.testing.assert_close(with_l2 - without, 2 * 0.5 * weight, rtol=1e-3, atol=1e-3)


def test_the_exponential_schedule_is_pytorchs():
    chosen = replace(recipe("study"), lr_decay=0.3)
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=chosen.lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, gamma=0.3 ** (1 / 100))
    for epoch in range(300):
        expected = optimiser.param_groups[0]["lr"]
        assert chosen.lr * lr_factor(chosen, epoch, 0.5) == pytest.approx(expected, rel=1e-9)
        optimiser.step()
        schedule.step()
    assert lr_factor(chosen, 100, 0.0) == pytest.approx(0.3)


def test_one_cycle_starts_low_peaks_once_at_the_rate_and_ends_near_zero():
    chosen = recipe("default")
    factors = [lr_factor(chosen, 0, step / 1000) for step in range(1000)]
    peak = factors.index(max(factors))
    assert factors[0] < 0.05
    assert max(factors) == 1.0
    assert factors.count(1.0) == 1
    assert peak == 100
    assert all(a < b for a, b in pairwise(factors[: peak + 1]))
    assert all(a > b for a, b in pairwise(factors[peak:]))
    assert 0 < factors[-1] < 1e-4
    # A quarter of a cosine: half way down, half the rate.
    assert factors[550] == pytest.approx(0.5, abs=1e-9)


def test_the_optimiser_gets_the_schedules_rate_at_every_step(tiny, tmp_path):
    training = Training(tiny, small(epochs=5), 0, CPU)
    rates = []
    after_each_step(training, lambda: rates.append(training.optimiser.lr))
    training.run(tmp_path / "state.pt", lambda _: None)
    steps = 5 * -(-len(tiny.parts["train"]) // 8)
    assert len(rates) == steps
    falling = [math.cos(math.pi * (i / steps - 0.1) / 0.9) / 2 + 0.5 for i in range(steps)]
    for index, rate in enumerate(rates):
        rising = 0.02 + 0.98 * index / steps / 0.1
        expected = rising if index / steps < 0.1 else falling[index]
        assert rate == pytest.approx(training.recipe.lr * expected, rel=1e-6, abs=1e-15)


def test_the_average_is_a_moving_average_of_the_weights(tiny, tmp_path):
    training = Training(tiny, small(epochs=3), 0, CPU)
    average = [each.detach().double().clone() for each in training.network.parameters()]
    steps = 0

    def follow():
        nonlocal steps
        steps += 1
        # (1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage, at most the decay.
        decay = min(training.recipe.average_decay, (1 + steps) / (10 + steps))
        for mine, weight in zip(average, training.network.parameters(), strict=True):
            mine.mul_(decay).add_(weight.detach().double(), alpha=1 - decay)

    after_each_step(training, follow)
    training.run(tmp_path / "state.pt", lambda _: None)
    for mine, theirs in zip(average, training.average.parameters(), strict=True):
        assert (mine - theirs).abs().max() < 1e-6
    assert training.result is training.average


def test_class_weights_are_as_named():
    labels = torch.tensor([2, 2, 2, 2, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0] + [1] * 3)
    assert class_weights("none", labels, 4) is None
    assert class_weights("counts_first_seen", labels, 4).tolist() == [4, 9, 4, 1]
    weights = class_weights("inverse_sqrt", labels, 4)
    raw = torch.tensor([1 / 3, 1 / 2, 1 / 2, 1.0])
    torch.testing.assert_close(weights, raw / raw.mean())
    with pytest.raises(UsageError, match="'other'"):
        class_weights("other", labels, 4)


@pytest.mark.full
def test_a_network_can_learn_the_generated_xrays_by_heart(tiny, tmp_path):
    chosen = replace(
        small(layer_size=8, epochs=30, batch_size=4, dropout=0.0, lr=1e-3),
        augmentation=0.0,
        average_decay=0.0,
    )
    history = trained(tiny, tmp_path, chosen).history
    assert history[-1].train_loss < history[0].train_loss
    assert history[-1].train_accuracy > 0.8


def test_predictions_come_without_dropout_and_in_order(tiny, unbroken):
    pixels = tiny.pixels[:5]
    logits = predict(unbroken.trained.train(), pixels)
    assert not logits.requires_grad
    again = torch.cat([predict(unbroken.trained, each[None]) for each in pixels])
    torch.testing.assert_close(logits, again, rtol=1e-4, atol=1e-5)


def test_cuda_that_is_not_there_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingExtraError, match="--device cpu"):
        device_of("cuda")
    assert device_of("auto") == device_of("cpu") == CPU


def test_denormal_numbers_are_flushed(tiny):
    Training(tiny, small(layer_size=1), 0, CPU)
    assert (torch.full((4,), 1e-38) * 1e-3).tolist() == [0, 0, 0, 0]


def test_bfloat16_training_keeps_float32_weights_and_comes_near(tiny):
    both = {
        precision: Training(tiny, small(dropout=0.0, precision=precision), 0, CPU)
        for precision in ("fp32", "bf16")
    }
    losses = {precision: each.advance().train_loss for precision, each in both.items()}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert all(each.dtype == torch.float32 for each in both["bf16"].network.parameters())


def test_bfloat16_training_comes_to_the_same_bits_again(tiny, tmp_path):
    chosen = small(precision="bf16", epochs=1, layer_size=2)
    first = trained(tiny, tmp_path, chosen)
    assert same(first.result.state_dict(), trained(tiny, tmp_path, chosen).result.state_dict())
