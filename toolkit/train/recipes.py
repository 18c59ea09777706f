"""Training recipes: the study's own, and the default that mends it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import Any

from toolkit.errors import DefinitionError, UsageError
from toolkit.model.records import PreprocessingConstants

MOST_LR = 1e6
MAX_LAYER_SIZE = 1024
"""Far above use, and below what PyTorch ends in a traceback for."""
PRECISIONS = ("fp32", "bf16")
SPLITS = ("published", "study", "patient")
DEVICES = ("auto", "cpu", "cuda")
STUDY_EDGES = PreprocessingConstants(edge_mean=0.449, edge_std=0.226)


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training; those of the default, which mends the study's faults.

    Attributes:
        layer_size: S of the network, 1 to `MAX_LAYER_SIZE`.
        dropout: main dropout p, in [0, 1).
        dropout_epochs: how many epochs, from the first, it is on in; None for all.
        optimiser: `adam`, or `muon` for `toolkit.train.steps.optimiser`'s mixture of both.
        lr: highest learning rate of Adam; Muon's is ten times it.
        schedule: `exponential` (times `lr_decay` per 100 epochs, stepped each epoch) or
            `one_cycle` (linear warm-up over a tenth of the steps, then a cosine to zero).
        l2: added to the loss as l2 times the sum of all squared parameters.
        weight_decay: decoupled (AdamW); times the learning rate.
        class_weights: `inverse_sqrt` (1 / sqrt(count), mean 1), `inverse` (1 / count, mean 1),
            `none`, or `counts_first_seen` (raw counts in order of first appearance: the study's
            fault).
        augmentation: 0 for none, 1 for the full ranges of `toolkit.train.steps.augmentation`.
        average_decay: of the moving average of the weights; 0 for none.
        label_smoothing: in [0, 1).
        initialisation: `pytorch`, as the module made them, or `he` for
            `toolkit.networks.base.initialise`.
        branch_loss: weight of a loss for each branch by itself, from a linear layer that only
            training has; it keeps either branch from dying out. 0 for none; of a network that
            gives no features there is none.
        precision: of the products in training: `fp32`, or `bf16` for bfloat16 by autocast, with
            weights and sums in float32.
        constants: of the preprocessing of the study's network.
        config: what another network than the study's is made with, instead of `layer_size` and
            `dropout`.
    """

    preset: str = "default"
    layer_size: int = 28
    dropout: float = 0.1
    dropout_epochs: int | None = None
    optimiser: str = "muon"
    lr: float = 1e-3
    epochs: int = 70
    batch_size: int = 16
    schedule: str = "one_cycle"
    lr_decay: float = 1.0
    l2: float = 0.0
    weight_decay: float = 0.05
    class_weights: str = "inverse_sqrt"
    augmentation: float = 0.5
    average_decay: float = 0.999
    label_smoothing: float = 0.05
    initialisation: str = "he"
    branch_loss: float = 0.3
    precision: str = "fp32"
    constants: PreprocessingConstants = field(default_factory=PreprocessingConstants)
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}: give one of {', '.join(allowed)}"
                )
        for name in ("layer_size", "epochs", "batch_size", "dropout_epochs"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise UsageError(f"{name} is {value!r}: give 1 or more, a whole number")
        if self.layer_size > MAX_LAYER_SIZE:
            raise UsageError(f"layer_size is {self.layer_size}: give at most {MAX_LAYER_SIZE}")
        for names, fits, told in _RANGES:
            for name in names:
                value = getattr(self, name)
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if not is_number or not fits(value):
                    raise UsageError(f"{name} is {value!r}: give {told}")


_CHOICES = {
    "optimiser": ("adam", "muon"),
    "schedule": ("exponential", "one_cycle"),
    "class_weights": ("inverse_sqrt", "inverse", "none", "counts_first_seen"),
    "initialisation": ("pytorch", "he"),
    "precision": PRECISIONS,
}
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        ("dropout", "average_decay", "label_smoothing"),
        lambda value: 0 <= value < 1,
        "0 or more, below 1",
    ),
    (("lr",), lambda value: 0 < value <= MOST_LR, f"above 0, at most {MOST_LR:g}"),
    (("lr_decay",), lambda value: 0 < value < inf, "above 0"),
    (
        ("l2", "weight_decay", "augmentation", "branch_loss"),
        lambda value: 0 <= value < inf,
        "0 or more",
    ),
)

PRESETS = {
    "study": Recipe(
        preset="study",
        dropout=0.5,
        dropout_epochs=1,
        optimiser="adam",
        lr=1e-4,
        epochs=500,
        batch_size=512,
        schedule="exponential",
        lr_decay=0.5,
        l2=0.027,
        weight_decay=0.0,
        class_weights="counts_first_seen",
        augmentation=0.0,
        average_decay=0.0,
        label_smoothing=0.0,
        initialisation="pytorch",
        branch_loss=0.0,
        constants=STUDY_EDGES,
    ),
    "default": Recipe(),
}


# Of the study's network alone, which others are not made with.
_STUDY_ONLY = ("layer_size", "dropout", "dropout_epochs", "constants")


def own_recipe(network: Any, config: dict[str, Any]) -> Recipe:
    """Return the recipe of a network that is not the study's.

    It is the default one, but that the weights begin as the module made them.

    Args:
        network: the definition, whose recipe() says what it wants otherwise.
        config: what the network is made with.

    Raises:
        DefinitionError: its recipe() fails, or names a setting or a value that there is not.
    """
    # The command line knows the recipes before it needs PyTorch.
    from toolkit.networks.loading import place_of, running

    where = place_of(network, "recipe")
    with running(None, f"{where} fails"):
        settings: Any = network.recipe() if hasattr(network, "recipe") else {}
    known = {each.name for each in fields(Recipe)} - {*_STUDY_ONLY, "preset", "config"}
    if not isinstance(settings, Mapping):
        raise DefinitionError(f"{where} gives {type(settings).__name__}, not settings by name")
    for name in settings:
        if name not in known:
            raise DefinitionError(f"{where} has {name!r}: it may have {', '.join(sorted(known))}")
    own: dict[str, Any] = {"preset": "own", "initialisation": "pytorch", "config": config}
    try:
        return replace(PRESETS["default"], **own | dict(settings))
    except UsageError as error:
        raise DefinitionError(f"{where}: {error}") from error


def config_of(recipe: Recipe) -> dict[str, Any]:
    """Return what a network is made with, beside the number of classes."""
    if recipe.preset == "own":
        return recipe.config
    return {"layer_size": recipe.layer_size, "dropout": recipe.dropout}


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe that its network goes by, as plain values."""
    settings = asdict(recipe)
    left_out = _STUDY_ONLY if recipe.preset == "own" else ("config",)
    return {name: value for name, value in settings.items() if name not in left_out}


def faults(recipe: Recipe, split: str) -> list[str]:
    """Return the study's faults that a training repeats, each a sentence with its number.

    The numbers are those of the README's list. What the recipe does not decide is not here:
    blank X-rays, and the penalty that the tuning leaves unused.

    Args:
        recipe: of the training.
        split: how the X-rays were split, as in `toolkit.train.dataset.SPLITS`.
    """
    found = {
        "1, the split is drawn over X-rays, so that a patient's other knee may be in training": (
            split == "study"
        ),
        "2, the class weights are counts, in order of first appearance, so that common classes "
        "weigh most": recipe.class_weights == "counts_first_seen",
        "4 and 5, the penalty on all weights lets the X-ray's branch decay to nothing in a long "
        "training, in denormal numbers": recipe.l2 > 0,
        "6, the edge map is normalised as if on 0..1 while on 0..255": (
            recipe.constants.edge_mean == STUDY_EDGES.edge_mean
        ),
        "8, dropout is on in the first epochs only, so that it hardly matters": (
            recipe.dropout_epochs is not None
        ),
    }
    return [text for text, repeated in found.items() if repeated]


def recipe(preset: str, **changes: Any) -> Recipe:
    """Return a preset, with those of `changes` that are not None.

    Raises:
        UsageError: there is no such preset, or a value is out of its range.
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset is called {preset!r}: choose one of {', '.join(PRESETS)}")
    return change(PRESETS[preset], **changes)


def change(recipe: Recipe, **changes: Any) -> Recipe:
    """Return a recipe with those of `changes` that are not None.

    Raises:
        UsageError: a value is out of its range.
    """
    return replace(recipe, **{k: v for k, v in changes.items() if v is not None})
