"""What `--teachers` means: models that another one learns from."""

from collections.abc import Sequence

from toolkit.commands.options.data import DataChoice
from toolkit.console import Console
from toolkit.errors import numbered
from toolkit.networks.base import may_mirror
from toolkit.networks.loading import Definition
from toolkit.progress import Progress
from toolkit.train.dataset import Dataset
from toolkit.train.distillation.targets import SoftTargets, make_targets, views_of
from toolkit.train.distillation.teachers import Teacher
from toolkit.train.distillation.unlabelled import read_unlabelled
from toolkit.train.recipes import Recipe


def targets_of(
    teachers: Sequence[Teacher],
    dataset: Dataset,
    choice: DataChoice,
    definition: Definition,
    recipe: Recipe,
    seed: int,
    console: Console,
) -> SoftTargets | None:
    """Return what teachers say of the X-rays to train on; None where there are no teachers.

    Args:
        teachers: on the device of the training.
        dataset: of it.
        choice: what the command line says of the X-rays.
        definition: of the network.
        recipe: of the training.
        seed: of the views.
        console: where notices go.
    """
    if not teachers:
        return None
    unlabelled = dataset.pixels[:0]
    if choice.folder:
        table = choice.annotations.table
        unlabelled = read_unlabelled(choice.folder, dataset, choice.cache, table)
    console.notice(
        f"learning from {numbered(len(teachers), 'teacher')} instead of labels, also about "
        f"{numbered(len(unlabelled), 'X-ray')} of no class"
    )
    mirror = may_mirror(definition.network)
    count = len(dataset.parts["train"]) + len(unlabelled)
    with Progress("views", views_of(recipe.augmentation) * count) as progress:
        return make_targets(
            teachers, dataset, unlabelled, recipe.augmentation, mirror, seed, progress.reach
        )
