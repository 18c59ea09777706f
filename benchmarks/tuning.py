"""A trial's training against the notebook's way, in one run: X-rays a second and memory.

The notebook's way: every X-ray prepared once as float tensors in a list, a DataLoader, the sum
of squared weights as a second pass over the parameters, and `.item()` at each step. The toolkit's:
grey bytes, prepared on the device as they are needed.

    python benchmarks/tuning.py [--xrays 4736] [--steps 12] [--rounds 3]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.dataset import Dataset, class_weights
from toolkit.train.training import Training
from toolkit.tune.space import trial_recipe
from toolkit.xray.labels import label_map
from toolkit.xray.synthetic import generate

BATCH = 128
WARM_UP = 2
PARAMETERS = {"layer_size": 28, "dropout_main": 0.5, "lr_decay_rate_100": 0.5, "reg_lambda": 0.01}
RECIPE = trial_recipe("study", PARAMETERS, 50)


def prepared(folder, count):
    """Write drawn X-rays and labels for the processes that are measured."""
    xrays = generate(count, seed=0, grades=(0, 2, 3, 4))
    np.save(folder / "pixels.npy", np.stack([xray.pixels for xray in xrays]))
    np.save(folder / "labels.npy", np.array([(0, 2, 3, 4).index(x.grade) for x in xrays]))


def notebook(pixels, labels, steps):
    """Train as the study's notebook did; return the seconds of each step."""
    preprocessing = Preprocessing(RECIPE.constants)
    samples = []
    for xray, label in zip(pixels, labels, strict=True):
        image, edges = preprocessing(torch.from_numpy(xray[None].copy()))
        samples.append((image[0], edges[0], int(label)))
    network = IntermediarySpaceModel(RECIPE.layer_size, RECIPE.dropout)
    weights = class_weights(RECIPE.class_weights, torch.from_numpy(labels), 4)
    optimiser = torch.optim.Adam(network.parameters(), lr=RECIPE.lr)
    loader = DataLoader(samples, batch_size=BATCH, shuffle=True)
    losses, right, seconds = 0.0, 0, []
    network.train()
    start = time.perf_counter()
    for image, edges, label in loader:
        optimiser.zero_grad()
        logits = network(image, edges)
        loss = functional.cross_entropy(logits, label, weight=weights)
        loss = loss + RECIPE.l2 * sum(each.pow(2).sum() for each in network.parameters())
        loss.backward()
        optimiser.step()
        losses += loss.item()
        right += (logits.argmax(dim=1) == label).sum().item()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        if len(seconds) == steps:
            break
    return seconds


def toolkit(pixels, labels, steps):
    """Train as a trial does; return the seconds of each step."""
    dataset = Dataset(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels),
        names=tuple(f"{9000000 + i}L" for i in range(len(labels))),
        label_map=label_map("study"),
        source="generated",
        split="study",
        parts={"train": torch.arange(min(len(labels), steps * BATCH))},
    )
    training = Training(dataset, RECIPE, 0, torch.device("cpu"))
    seconds = []
    start = time.perf_counter()

    def timed():
        nonlocal start
        step()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()

    step, training.optimiser.step = training.optimiser.step, timed
    training.advance()
    return seconds


def measured(way, folder, steps):
    """Run one way in this process; print X-rays a second and the peak of memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pixels, labels = (np.load(Path(folder) / f"{name}.npy") for name in ("pixels", "labels"))
    seconds = {"notebook": notebook, "toolkit": toolkit}[way](pixels, labels, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = BATCH / median(seconds[WARM_UP:])
    print(json.dumps({"rate": rate, "peak": peak, "own": peak - before}))


def main():
    """Measure both ways in turn, each in processes of its own, and print medians and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--xrays", type=int, default=4736)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measured(*options.way, options.steps)
        return
    results = {"notebook": [], "toolkit": []}
    with TemporaryDirectory() as folder:
        prepared(Path(folder), options.xrays)
        for _ in range(options.rounds):
            for way, found in results.items():
                command = [sys.executable, __file__, "--steps", str(options.steps)]
                done = subprocess.run(
                    [*command, "--way", way, folder], check=True, capture_output=True, text=True
                )
                found.append(json.loads(done.stdout))
    middle = {
        way: {name: median(each[name] for each in found) for name in found[0]}
        for way, found in results.items()
    }
    threads = torch.get_num_threads()
    print(f"{options.xrays} X-rays, batch {BATCH}, S = 28, {threads} threads, medians of rounds")
    for way, each in middle.items():
        print(
            f"{way:9} {each['rate']:7.1f} X-rays/s  peak {each['peak']:6.0f} MiB, "
            f"{each['own']:6.0f} MiB of it beyond the libraries"
        )
    ours, theirs = middle["toolkit"], middle["notebook"]
    print(f"speed {ours['rate'] / theirs['rate']:.2f}x")
    print(f"memory {ours['peak'] / theirs['peak']:.2f}x, {ours['own'] / theirs['own']:.2f}x beyond")


if __name__ == "__main__":
    main()
