"""Trainings laid over each other: their accuracies and losses on one picture, and as a table.

    python benchmarks/study_curves.py study=FILE.csv ours=logs/hyperparameters_tunned/study \
        [--out curves.png] [--every 50]

Each is a name and either the folder of a TensorBoard log of `toolkit train`, or a table with the
column `epoch`, counted from 0, and any of `train_accuracy` and `val_accuracy` in percent,
`train_loss` (of the epoch's last batch), `mean_train_loss` and `val_loss`. The table that is
printed has each N-th epoch of `--every N`, and the last, of those that all of them have.
"""

import argparse
import csv
import sys
from pathlib import Path

TAGS = {
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "train_loss": "loss/train_last_batch",
    "mean_train_loss": "loss/train_mean",
    "val_loss": "loss/val",
}
LABELS = {
    "train_accuracy": "train accuracy, %",
    "val_accuracy": "val accuracy, %",
    "train_loss": "train loss, last batch",
    "mean_train_loss": "train loss, mean",
    "val_loss": "val loss",
}
PANELS = {
    "accuracy, %": ("train_accuracy", "val_accuracy"),
    "loss": ("train_loss", "mean_train_loss", "val_loss"),
}
STYLES = {"train_accuracy": ":", "train_loss": ":", "mean_train_loss": "--"}


def from_log(folder):
    """Return each column of a TensorBoard log by epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    found = {}
    for name, tag in TAGS.items():
        if tag in events.Tags()["scalars"]:
            unit = 100 if name.endswith("accuracy") else 1
            found[name] = {each.step: unit * each.value for each in events.Scalars(tag)}
    return found


def from_table(path):
    """Return each column of a table by epoch."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = [name for name in TAGS if rows and name in rows[0]]
    return {name: {int(row["epoch"]): float(row[name]) for row in rows} for name in columns}


def read(argument):
    """Return the name and the curves of NAME=PATH."""
    name, _, path = argument.partition("=")
    try:
        found = from_log(path) if Path(path).is_dir() else from_table(Path(path))
    except (OSError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"error: {argument} cannot be read ({error}): give NAME=FILE.csv or NAME=LOGS")
    if not found:
        sys.exit(f"error: {argument} holds no curves: give a table or the log of `toolkit train`")
    return name, found


def drawn(curves, path):
    """Write the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    for panel, (title, columns) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for index, (name, found) in enumerate(curves.items()):
            for column in columns:
                if column in found:
                    epochs, values = zip(*sorted(found[column].items()), strict=True)
                    label = f"{name}: {LABELS[column]}"
                    style = STYLES.get(column, "-")
                    panel.plot(epochs, values, style, color=f"C{index}", lw=1, label=label)
        panel.set(xlabel="epoch", ylabel=title)
        panel.legend()
    figure.savefig(path, dpi=110)


def printed(curves, every):
    """Print the table in Markdown."""
    shared = set.intersection(*(set(found[name]) for found in curves.values() for name in found))
    columns = [(name, column) for column in TAGS for name in curves if column in curves[name]]
    print("| epoch | " + " | ".join(f"{name}: {LABELS[each]}" for name, each in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for epoch in sorted(shared):
        if epoch % every == 0 or epoch == max(shared):
            values = " | ".join(f"{curves[name][column][epoch]:.2f}" for name, column in columns)
            print(f"| {epoch} | {values} |")


def main():
    """Read, draw and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("curves", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    curves = dict(map(read, options.curves))
    drawn(curves, options.out)
    printed(curves, options.every)


if __name__ == "__main__":
    main()
