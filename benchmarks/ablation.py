"""What each element of the default recipe earns: the recipe without it, by cross-validation.

    python benchmarks/ablation.py --data DIR [--epochs 12] [--runs 0,1,2,3,4] [--workers 2] \
        [--precision fp32] [--device auto] [--rows NAME,NAME] [--cache DIR]

The patients of all X-rays, whatever their part, are drawn into five folds; a run trains on four of
them and is judged on the fifth, so that all its runs together say one class of every X-ray. The
differences to the first row, and their intervals, are over the same X-rays.

Stop it and run it again as you like: finished runs are kept in logs/ablation/results.jsonl, and
a training goes on after its last epoch. Prints the table of docs/model.md. `benchmarks/faults.py`
does the same from the study's recipe.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from toolkit.model.metrics import evaluate
from toolkit.train.dataset import load_folder
from toolkit.train.evaluation import predict
from toolkit.train.recipes import DEVICES, STUDY_EDGES, recipe
from toolkit.train.training import Training, device_of
from toolkit.xray.labels import label_map

KEY = ("row", "run", "epochs", "precision")
FOLDS = 5
DRAWS = 2000
ROWS = {
    "default": {},
    "PyTorch's first weights": {"initialisation": "pytorch"},
    "twice the augmentation": {"augmentation": 1.0},
    "AdamW for every weight": {"optimiser": "adam", "lr": 2e-3},
    "no loss for each branch": {"branch_loss": 0.0},
    "no augmentation": {"augmentation": 0.0},
    "no average of the weights": {"average_decay": 0.0},
    "no label smoothing": {"label_smoothing": 0.0},
    "equal class weights": {"class_weights": "none"},
    "class weights by the inverse of the count": {"class_weights": "inverse"},
    "no weight decay": {"weight_decay": 0.0},
    "no dropout": {"dropout": 0.0},
    "edges as if on 0..1": {"constants": STUDY_EDGES},
    "batches of 32": {"batch_size": 32},
}


_shared = {}


def folds(dataset, run):
    """Return a dataset whose part `val` is one fold of the patients, and `train` all others."""
    patients = sorted(set(dataset.patients.keys))
    order = np.random.default_rng(0).permutation(len(patients))
    fold_of = {patients[place]: index % FOLDS for index, place in enumerate(order)}
    fold = torch.tensor([fold_of[patient] for patient in dataset.patients.keys])
    parts = {"train": (fold != run).nonzero()[:, 0], "val": (fold == run).nonzero()[:, 0]}
    return replace(dataset, parts=parts)


def begin(data, cache, threads, split, device, preset, rows, folder):
    """Read the X-rays, once for each worker, and keep what all its trainings have in common."""
    torch.set_num_threads(threads)
    dataset = load_folder(data, label_map("study"), split, cache=cache)
    _shared.update(
        dataset=dataset,
        device=device_of(device),
        preset=preset,
        rows=rows,
        folder=folder,
        is_folded=split is None,
    )


def outcome(row, run, epochs, precision):
    """Train one row once; return which X-rays it was judged on, and what it says of each."""
    dataset, rows = _shared["dataset"], _shared["rows"]
    if _shared["is_folded"]:
        dataset = folds(dataset, run)
    state = _shared["folder"] / f"{list(rows).index(row)}-{run}-{epochs}-{precision}.state.pt"
    chosen = recipe(_shared["preset"], epochs=epochs, precision=precision)
    chosen = replace(chosen, **rows[row])
    training = Training(dataset, chosen, run, _shared["device"])
    if state.exists():
        training.load(state)
    training.run(state, lambda _: None)
    indices = dataset.parts["val"]
    pixels = training.pixels[indices.to(training.device)]
    state.unlink()
    return {
        "row": row,
        "run": run,
        "epochs": epochs,
        "precision": precision,
        "patients": [dataset.patients.keys[place] for place in indices.tolist()],
        "truth": dataset.labels[indices].tolist(),
        "said": predict(training.classifier, pixels).argmax(dim=1).tolist(),
    }


def finished(path):
    """Return what was found so far, by row, run, epochs and precision."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {tuple(each[name] for name in KEY): each for each in lines}


def figures(truth, said):
    """Return accuracy and the recall of severe in percent, and the quadratic weighted kappa."""
    found = evaluate(truth, said, 4, 1)
    severe = np.nan if found.recall[3] is None else found.recall[3]
    return np.array([100 * found.accuracy, found.quadratic_weighted_kappa, 100 * severe])


def differences(rows, first, patients):
    """Return the 95 % intervals of the differences of figures, over draws of the patients."""
    generator = np.random.default_rng(0)
    names, patient = np.unique(patients, return_inverse=True)
    drawn = []
    for _ in range(DRAWS):
        times = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        places = np.repeat(np.arange(len(patient)), times[patient])
        drawn.append(figures(*rows[:, places]) - figures(*first[:, places]))
    return np.nanpercentile(drawn, [2.5, 97.5], axis=0)


def printed(found, rows, epochs, runs, precision):
    """Print the table in Markdown: what all runs of a row come to, and how far from the first's."""
    print(f"\n{epochs} epochs in {precision}, runs {', '.join(map(str, runs))}\n")
    print("| recipe | accuracy, % | kappa | recall of severe, % | more accuracy | more kappa |")
    print("|---|---|---|---|---|---|")
    base = None
    for row in rows:
        each = [found[key] for run in runs if (key := (row, run, epochs, precision)) in found]
        if len(each) < len(runs):
            continue
        truth, said, patients = (
            np.concatenate([one[name] for one in each]) for name in ("truth", "said", "patients")
        )
        both = np.array([truth, said])
        here = figures(*both)
        cells = [f"{here[0]:.1f}", f"{here[1]:.3f}", f"{here[2]:.1f}"]
        if base is None:
            base, first = both, here
        else:
            least, most = differences(both, base, patients)
            more = here - first
            for place, digits in ((0, 1), (1, 3)):
                value, low, high = (f"{of[place]:+.{digits}f}" for of in (more, least, most))
                cells.append(f"{value} ({low} to {high})")
        print(f"| {row} | {' | '.join(cells)} |")


def main(preset="default", rows=ROWS, folder=Path("logs/ablation"), epochs=12, split=None):
    """Run what is not finished yet, then print the table.

    Args:
        preset: that every row begins with.
        rows: what each has otherwise, by name.
        folder: of what is finished.
        epochs: of a training, if the command does not say otherwise.
        split: how X-rays are split, the same for each run; None for folds.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--runs", default=",".join(map(str, range(FOLDS))))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--cache", type=Path, help="keeps the decoded X-rays")
    parser.add_argument("--rows", default=",".join(rows))
    options = parser.parse_args()
    runs = [int(each) for each in options.runs.split(",")]
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    wanted = [
        (row, run, options.epochs, options.precision)
        for row, run in product(options.rows.split(","), runs)
    ]
    missing = [key for key in wanted if key not in finished(results)]
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
    where = (options.data, options.cache, threads, split, options.device)
    common = (*where, preset, rows, folder)
    with ProcessPoolExecutor(options.workers, get_context("spawn"), begin, common) as pool:
        for future in as_completed([pool.submit(outcome, *key) for key in missing]):
            line = future.result()
            right = np.mean(np.equal(line["truth"], line["said"]))
            print(f"{line['row']}, run {line['run']}: {right:.1%}", flush=True)
            with results.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
    printed(finished(results), rows, options.epochs, runs, options.precision)


if __name__ == "__main__":
    main()
