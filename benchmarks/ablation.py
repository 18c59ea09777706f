"""What each element of the default recipe earns: the recipe without it, on the validation part.

    python benchmarks/ablation.py --data DIR [--epochs 12] [--seeds 0,1] [--rows NAME,NAME]

Stop it and run it again as you like: finished rows are kept in logs/ablation/results.jsonl, and
a training goes on after its last epoch. Prints the table of docs/model.md.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import torch

from toolkit import metrics
from toolkit.dataset import load_folder
from toolkit.labels import label_map
from toolkit.prediction import predict
from toolkit.recipes import STUDY_EDGES, recipe
from toolkit.training import Training

FOLDER = Path("logs/ablation")
ROWS = {
    "default": {},
    "PyTorch's first weights": {"initialisation": "pytorch"},
    "no loss for each branch": {"branch_loss": 0.0},
    "no augmentation": {"augmentation": 0.0},
    "full augmentation": {"augmentation": 1.0},
    "no average of the weights": {"average_decay": 0.0},
    "no label smoothing": {"label_smoothing": 0.0},
    "equal class weights": {"class_weights": "none"},
    "inverse class weights": {"class_weights": "inverse"},
    "no weight decay": {"weight_decay": 0.0},
    "dropout 0.5": {"dropout": 0.5},
    "edges as if on 0..1": {"constants": STUDY_EDGES},
}


def outcome(dataset, changes, seed, epochs, state):
    """Train one row with one seed; return its figures on the validation part."""
    training = Training(
        dataset, recipe("default", epochs=epochs, **changes), seed, torch.device("cpu")
    )
    if state.exists():
        training.load(state)
    training.run(state, lambda epoch: print(f"  epoch {epoch.epoch + 1} {epoch.val_accuracy:.1%}"))
    indices = dataset.parts["val"]
    logits = predict(training.result, training.preprocessing, dataset.pixels[indices])
    found = metrics.evaluate(dataset.labels[indices].numpy(), logits.argmax(1).numpy(), 4, 1)
    state.unlink()
    return {
        "accuracy": found.accuracy,
        "kappa": found.quadratic_weighted_kappa,
        "severe": found.recall[3],
    }


def finished(path):
    """Return what was found so far, by row, seed and epochs."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {(each["row"], each["seed"], each["epochs"]): each for each in lines}


def printed(found, epochs, seeds):
    """Print the table in Markdown: mean and standard deviation over the seeds."""
    print(f"\n{epochs} epochs, seeds {', '.join(map(str, seeds))}, validation part\n")
    print("| recipe | accuracy, % | kappa | recall of severe, % |\n|---|---|---|---|")
    for row in ROWS:
        each = [found[row, seed, epochs] for seed in seeds if (row, seed, epochs) in found]
        if not each:
            continue
        cells = [
            f"{scale * mean(one[name] for one in each):.{digits}f}"
            + (f" ± {scale * stdev(one[name] for one in each):.{digits}f}" if each[1:] else "")
            for name, scale, digits in (("accuracy", 100, 1), ("kappa", 1, 3), ("severe", 100, 1))
        ]
        print(f"| {row} | {' | '.join(cells)} |")


def main():
    """Run the rows that are not finished yet, then print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--rows", default=",".join(ROWS))
    options = parser.parse_args()
    seeds = [int(each) for each in options.seeds.split(",")]
    FOLDER.mkdir(parents=True, exist_ok=True)
    results = FOLDER / "results.jsonl"
    dataset = load_folder(options.data, label_map("study"), None)
    for seed in seeds:
        for row in options.rows.split(","):
            if (row, seed, options.epochs) in finished(results):
                continue
            print(f"{row}, seed {seed}", flush=True)
            state = FOLDER / f"{list(ROWS).index(row)}-{seed}-{options.epochs}.state.pt"
            figures = outcome(dataset, ROWS[row], seed, options.epochs, state)
            line = {"row": row, "seed": seed, "epochs": options.epochs, **figures}
            with results.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
    printed(finished(results), options.epochs, seeds)


if __name__ == "__main__":
    main()
