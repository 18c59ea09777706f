"""What training and tuning take on a GPU: the steps of `benchmarks/gpu.py` that need PyTorch.

Where a training does not come to its end in its share of the time, the figure is what it would
have come to at the pace of the epochs that were run; how many they were stands in a step of its
own.
"""

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from steps import Steps, at_least, at_most
from torch.profiler import ProfilerActivity, profile

from toolkit.processes import cores
from toolkit.train.dataset import Dataset, generated, load_folder
from toolkit.train.recipes import recipe
from toolkit.train.steps.plan import plan_epoch
from toolkit.train.training import Training
from toolkit.tune.trial import TrialPlan
from toolkit.tune.workers import Tuning, run, setup
from toolkit.xray.annotations.patients import by_name
from toolkit.xray.labels import label_map

LABELS = label_map("study")
# As many as the study's labels leave of the X-rays in data/knee.
XRAYS = {"train": 4732, "val": 826}
TINY = {"train": 16, "val": 8}
# Of a run of 5 minutes, the seconds that each of the three may take.
LIMIT_S = 65
WORKERS = 6


def steps(options):
    """Yield what reading, training, resuming and tuning take and come to.

    Args:
        options: `data`, a folder of graded X-rays or None; `minutes` of the whole; `cpu`, whether
            the CPU takes the card's place, at tiny sizes.
    """
    device = torch.device("cpu" if options.cpu else "cuda")
    limit_s = LIMIT_S * options.minutes / 5
    within = None if options.cpu else at_most(60)
    made = Steps()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = drawn(TINY if options.cpu else XRAYS)
        yield made.step("training: X-rays drawn", len(dataset.names), "X-rays")
        if options.data:
            for how in ("read", "read again from a cache"):
                begun = time.perf_counter()
                read = load_folder(options.data, LABELS, None, cache=folder / "cache")
                yield made.step(f"training: X-rays {how}", time.perf_counter() - begun, "s")
            dataset = dataset if options.cpu else read
        few = {"layer_size": 4, "batch_size": 7} if options.cpu else {}
        yield from resumed(made, dataset, few, device, folder)
        for preset, epochs in (("default", 70), ("study", 500)):
            chosen = recipe(preset, **few, epochs=2 if options.cpu else epochs)
            seconds, training = trained(dataset, chosen, device, limit_s, folder)
            name = f"training: {preset}, {chosen.epochs} epochs"
            yield made.step(name, seconds, "s", within)
            yield made.step(f"training: {preset}, run of them", training.epoch, "epochs")
            kinds = getattr(training.make_steps, "captured", 0)
            promise = None if options.cpu else at_least(1)
            yield made.step(f"training: {preset}, graphs captured", kinds, "graphs", promise)
            for name, share in kernels(training):
                yield made.step(f"training: {preset}, {name}", share, "share")
        if not options.cpu:
            reserved = torch.cuda.max_memory_reserved() / 1e9
            yield made.step("training: memory of the card", reserved, "GB")
            torch.cuda.empty_cache()
        yield from tuned(made, dataset, options, limit_s, folder)


def drawn(counts):
    """Return drawn X-rays, few of them different, but each a patient's of its own."""
    few = generated(min(64, sum(counts.values())), LABELS)
    total = sum(counts.values())
    place = torch.arange(total) % len(few.names)
    shifts = torch.arange(total) // len(few.names)
    pixels = torch.stack(
        [
            few.pixels[index].roll(int(shift), dims=1)
            for index, shift in zip(place, shifts, strict=True)
        ]
    )
    names = tuple(f"{9_000_000 + index}L" for index in range(total))
    return Dataset(
        pixels=pixels,
        labels=few.labels[place],
        names=names,
        patients=by_name(names),
        label_map=LABELS,
        source="generated",
        split="patient",
        parts=dict(zip(counts, torch.arange(total).split(list(counts.values())), strict=True)),
    )


def resumed(made, dataset, few, device, folder):
    """Yield how far a training that was resumed is from one that was not, and from its start."""
    part = {name: indices[:332] for name, indices in dataset.parts.items()}
    dataset = replace(dataset, parts=part)
    # Of the last batch of an epoch, a GPU captures the third.
    epochs = 2 if device.type == "cpu" else 4
    for preset in ("default", "study"):
        chosen = recipe(preset, epochs=epochs, **({"batch_size": 32} | few))
        unbroken = Training(dataset, chosen, 0, device)
        first = weights(unbroken)
        while unbroken.epoch < epochs:
            unbroken.advance()
        broken = Training(dataset, chosen, 0, device)
        for _ in range(epochs // 2):
            broken.advance()
        broken.save(folder / "state.pt")
        torch.manual_seed(99)
        again = Training(dataset, chosen, 0, device)
        again.load(folder / "state.pt")
        while again.epoch < epochs:
            again.advance()
        apart = float((weights(again) - weights(unbroken)).abs().max())
        yield made.step(f"training: {preset}, resumed", apart, "apart", at_most(0))
        moved = float((weights(unbroken) - first).abs().max())
        yield made.step(f"training: {preset}, against its start", moved, "apart", at_least(1e-4))


def weights(training):
    """Return all weights of a training, float64 (n,), on the CPU."""
    flat = [each.detach().flatten() for each in training.network.parameters()]
    return torch.cat(flat).double().cpu()


def trained(dataset, chosen, device, limit_s, folder):
    """Return the seconds that a training takes with its states saved, and how far it came."""
    begun = time.perf_counter()
    training = Training(dataset, chosen, 0, device)
    while training.epoch < chosen.epochs and time.perf_counter() - begun < limit_s:
        training.advance()
        training.save(folder / "state.pt")
    seconds = time.perf_counter() - begun
    return seconds * chosen.epochs / training.epoch, training


def kernels(training, most=6):
    """Yield what takes most of a step's time on the device, and its share of it."""
    rows = plan_epoch(
        training.recipe,
        training.step.parts.lessons,
        training.indices,
        training.generator,
        training.epoch,
    )
    row = rows[0].to(training.device)
    on_cpu = training.device.type == "cpu"
    activity = ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA
    training.step(row)
    with profile(activities=[activity]) as run:
        training.step(row)
    took = {
        event.key: event.self_cpu_time_total if on_cpu else event.self_device_time_total
        for event in run.key_averages()
    }
    for name in sorted(took, key=took.__getitem__, reverse=True)[:most]:
        yield name[:60], took[name] / sum(took.values())


def tuned(made, dataset, options, limit_s, folder):
    """Yield the seconds that the study's trials take, several at once on the card."""
    trials, epochs, workers = (1, 1, 1) if options.cpu else (50, 50, min(WORKERS, cores()))
    plan = TrialPlan("study", epochs, folder / "logs", stale_after=60.0)
    begun = time.perf_counter()
    tuning = Tuning(
        storage=str(folder / "study.journal"),
        study="study",
        trials=trials,
        plan=plan,
        seed=0,
        workers=workers,
        device="cpu" if options.cpu else "cuda",
        deadline=None if options.cpu else time.time() + limit_s,
        setup=setup(dataset, plan, 0),
    )
    ledger = run(tuning, dataset, lambda _: None)
    seconds = time.perf_counter() - begun
    ended = [each for each in ledger.trials() if each.state.is_finished()]
    share = len(ended) / trials
    name = f"training: {trials} trials, {workers} at once"
    within = None if options.cpu else at_most(60)
    yield made.step(name, seconds / share if share else np.inf, "s", within)
    yield made.step("training: trials, run of them", len(ended), "trials", at_least(1))
    epochs = [each.user_attrs.get("epochs", 0) for each in ended]
    yield made.step("training: trials, epochs of all", sum(epochs), "epochs")
