"""The model card of the shipped model says what its manifest says."""

import re
from pathlib import Path

import pytest
from command_line import here

from toolkit.model import manifest
from toolkit.model.card import figures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def record():
    return manifest.load(ROOT / "saved_models/model_saved.json")


@pytest.fixture(scope="module")
def card():
    return (ROOT / "docs/model-card.md").read_text()


def test_the_figures_in_the_card_are_the_manifests(record, card):
    assert figures(record) in card


def test_the_card_names_the_checkpoint_the_recipe_and_the_seed(record, card):
    assert record.training.checkpoint_sha256 in card
    for name, value in record.training.recipe.items():
        assert f"| {name} | {value} |" in card
    assert f"seed {record.training.seed}" in card
    counts = ", ".join(map(str, record.dataset.counts["train"]))
    assert f"{sum(record.dataset.counts['train'])} X-rays ({counts})" in card


def test_the_card_says_what_the_model_is_not_for(card):
    text = re.sub(r"\s+", " ", card)
    for words in ("Not a medical device", "CC BY 4.0", "10.17632/56rmx5bjcr.1"):
        assert words in text


def test_the_command_prints_the_figures(record):
    words = ("card", "model_saved", "--models", ROOT / "saved_models")
    assert here(*words).out == figures(record) + "\n"
    assert "no figures of the part 'test'" in here(*words, "--part", "test").err
