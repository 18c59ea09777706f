"""What three of the study's faults cost: its recipe, and the same with one of them mended.

    python benchmarks/faults.py --data DIR [--epochs 60] [--runs 0,1] [--workers 2] \
        [--precision fp32] [--device auto] [--rows NAME,NAME] [--cache DIR]

Every run has the study's own way of splitting, and a seed of its own. Stop it and run it again as
you like: finished runs are kept in logs/faults/results.jsonl, and a training goes on after its last
epoch.
"""

from pathlib import Path

from ablation import main

from toolkit.train.recipes import recipe

DEFAULT = recipe("default")
ROWS = {
    "the study's": {},
    "dropout in every epoch": {"dropout_epochs": DEFAULT.dropout_epochs},
    "class weights by the inverse root of the count": {"class_weights": DEFAULT.class_weights},
    "edges on their own scale": {"constants": DEFAULT.constants},
}

if __name__ == "__main__":
    main("study", ROWS, Path("logs/faults"), epochs=60, split="study")
