"""What each element of the default recipe earns: the recipe without it, on the validation part.

    python benchmarks/ablation.py --data DIR [--epochs 12] [--seeds 0,1] [--workers 2] \
        [--precision fp32] [--device auto] [--rows NAME,NAME]

Stop it and run it again as you like: finished rows are kept in logs/ablation/results.jsonl, and
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
from statistics import mean, stdev

import torch

from toolkit.model import metrics
from toolkit.train.dataset import load_folder
from toolkit.train.evaluation import predict
from toolkit.train.recipes import DEVICES, STUDY_EDGES, recipe
from toolkit.train.training import Training, device_of
from toolkit.xray.labels import label_map

KEY = ("row", "seed", "epochs", "precision")
ROWS = {
    "default": {},
    "AdamW for every weight": {"optimiser": "adam", "lr": 2e-3},
    "PyTorch's first weights": {"initialisation": "pytorch"},
    "no loss for each branch": {"branch_loss": 0.0},
    "no augmentation": {"augmentation": 0.0},
    "no average of the weights": {"average_decay": 0.0},
    "no label smoothing": {"label_smoothing": 0.0},
    "equal class weights": {"class_weights": "none"},
    "no weight decay": {"weight_decay": 0.0},
    "no dropout": {"dropout": 0.0},
    "edges as if on 0..1": {"constants": STUDY_EDGES},
}


_shared = {}


def begin(data, threads, split, device, preset, rows, folder):
    """Read the X-rays, once for each worker, and keep what all its trainings have in common."""
    torch.set_num_threads(threads)
    dataset = load_folder(data, label_map("study"), split)
    _shared.update(
        dataset=dataset, device=device_of(device), preset=preset, rows=rows, folder=folder
    )


def outcome(row, seed, epochs, precision):
    """Train one row with one seed; return its figures on the validation part."""
    dataset, rows = _shared["dataset"], _shared["rows"]
    state = _shared["folder"] / f"{list(rows).index(row)}-{seed}-{epochs}-{precision}.state.pt"
    chosen = recipe(_shared["preset"], epochs=epochs, precision=precision)
    chosen = replace(chosen, **rows[row])
    training = Training(dataset, chosen, seed, _shared["device"])
    if state.exists():
        training.load(state)
    training.run(state, lambda _: None)
    indices = dataset.parts["val"]
    pixels = training.pixels[indices.to(training.device)]
    logits = predict(training.classifier, pixels)
    found = metrics.evaluate(dataset.labels[indices].numpy(), logits.argmax(1).numpy(), 4, 1)
    state.unlink()
    return {
        "row": row,
        "seed": seed,
        "epochs": epochs,
        "precision": precision,
        "accuracy": found.accuracy,
        "kappa": found.quadratic_weighted_kappa,
        "severe": found.recall[3],
    }


def finished(path):
    """Return what was found so far, by row, seed, epochs and precision."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {tuple(each[name] for name in KEY): each for each in lines}


def printed(found, rows, epochs, seeds, precision):
    """Print the table in Markdown: mean and standard deviation over the seeds."""
    print(
        f"\n{epochs} epochs in {precision}, seeds {', '.join(map(str, seeds))}, validation part\n"
    )
    print("| recipe | accuracy, % | kappa | recall of severe, % |\n|---|---|---|---|")
    for row in rows:
        keys = [(row, seed, epochs, precision) for seed in seeds]
        each = [found[key] for key in keys if key in found]
        if not each:
            continue
        cells = [
            f"{scale * mean(one[name] for one in each):.{digits}f}"
            + (f" ± {scale * stdev(one[name] for one in each):.{digits}f}" if each[1:] else "")
            for name, scale, digits in (("accuracy", 100, 1), ("kappa", 1, 3), ("severe", 100, 1))
        ]
        print(f"| {row} | {' | '.join(cells)} |")


def main(preset="default", rows=ROWS, folder=Path("logs/ablation"), epochs=12, split=None):
    """Run the rows that are not finished yet, then print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--rows", default=",".join(rows))
    options = parser.parse_args()
    seeds = [int(each) for each in options.seeds.split(",")]
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    wanted = [
        (row, seed, options.epochs, options.precision)
        for seed, row in product(seeds, options.rows.split(","))
    ]
    missing = [key for key in wanted if key not in finished(results)]
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
    common = (options.data, threads, split, options.device, preset, rows, folder)
    with ProcessPoolExecutor(options.workers, get_context("spawn"), begin, common) as pool:
        for future in as_completed([pool.submit(outcome, *key) for key in missing]):
            line = future.result()
            print(f"{line['row']}, seed {line['seed']}: {line['accuracy']:.1%}", flush=True)
            with results.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
    printed(finished(results), rows, options.epochs, seeds, options.precision)


if __name__ == "__main__":
    main()
