"""What a model takes for an X-ray in scope: the share of pictures of each kind that it does.

    python benchmarks/scope.py NAME --data DIR [--models DIR]

Runs the exported pipeline on X-rays of DIR's val part, on changed ones, and on pictures that are
none. Prints the table of docs/model.md. Photographs come from scikit-learn.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from toolkit.model import manifest
from toolkit.model.files import ModelFiles
from toolkit.runtime.session import open_model
from toolkit.xray.folders import scan
from toolkit.xray.reading import read_xray

COUNT = 100
SIDE = 224


def graded(data, grade):
    """Return X-rays of one grade of the part val, uint8 (N, 224, 224)."""
    found = [each for each in scan(data) if each.part == "val" and each.grade == grade]
    return [read_xray(each.path) for each in found[:COUNT]]


def filtered(xray, radius):
    """Return grey levels blurred with a Gaussian, uint8 (H, W)."""
    return np.asarray(Image.fromarray(xray).filter(ImageFilter.GaussianBlur(radius)))


def text():
    """Return pages of text, dark on light and light on dark."""
    pages = []
    for index in range(COUNT):
        dark = index % 2 * 255
        page = Image.new("L", (SIDE, SIDE), 255 - dark)
        font = ImageFont.load_default(10 + index % 6)
        for row in range(0, SIDE, 14 + index % 5):
            words = "The quick brown fox jumps over the lazy dog. " * 2
            ImageDraw.Draw(page).text((3, row), words[index % 40 :], dark, font)
        pages.append(np.asarray(page))
    return pages


def photographs():
    """Return square cuts out of two photographs."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(each).convert("L") for each in load_sample_images().images]
    return [
        np.asarray(each.crop((left, top, left + SIDE, top + SIDE)))
        for each in photographs
        for top in range(0, each.height - SIDE, 40)
        for left in range(0, each.width - SIDE, 60)
    ]


def kinds(data):
    """Return pictures by what they are."""
    generator = np.random.default_rng(0)
    xrays = [xray for grade in (0, 2, 3, 4) for xray in graded(data, grade)[: COUNT // 4]]
    noise = list(generator.integers(0, 256, (COUNT, SIDE, SIDE), np.uint8))
    return {
        "X-rays of the grades that it learned": xrays,
        "X-rays of grade 1": graded(data, 1),
        "noise": noise,
        "smooth noise": [_stretched(filtered(each, 6)) for each in noise],
        "text": text(),
        "photographs": photographs(),
        "one grey level": [np.full((SIDE, SIDE), level, np.uint8) for level in range(0, 256, 15)],
        "X-rays, pixels shuffled": [
            generator.permutation(each.ravel()).reshape(each.shape) for each in xrays
        ],
        "X-rays, blurred": [filtered(each, 8) for each in xrays],
        "X-rays, a quarter turn": [np.rot90(each).copy() for each in xrays],
        "X-rays, upside down": [np.rot90(each, 2).copy() for each in xrays],
        "X-rays, inverted": [255 - each for each in xrays],
        "X-rays, mirrored": [each[:, ::-1].copy() for each in xrays],
    }


def _stretched(grey):
    low, high = int(grey.min()), int(grey.max())
    return ((grey.astype(float) - low) * 255 / (high - low)).astype(np.uint8)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("saved_models"))
    options = parser.parse_args()
    limit = manifest.load(ModelFiles(options.models, options.name).manifest).scope.limit
    predictor = open_model(options.models, options.name)
    print(f"novelty up to {limit:.3f} is in scope\n")
    print("| pictures | | in scope | median novelty |\n|---|---|---|---|")
    for kind, pictures in kinds(options.data).items():
        batches = [np.stack(pictures[start : start + 32]) for start in range(0, len(pictures), 32)]
        novelty = np.concatenate([predictor.predict(each).novelty for each in batches])
        within = (novelty <= limit).mean()
        print(f"| {kind} | {len(pictures)} | {within:.0%} | {np.median(novelty):.2f} |")


if __name__ == "__main__":
    main()
