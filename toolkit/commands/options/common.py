"""Options that several commands share, as their help shows them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from toolkit.console import in_a_folder
from toolkit.errors import UsageError
from toolkit.package.image import BACKENDS, PROVIDERS
from toolkit.train.recipes import DEVICES, PRECISIONS, PRESETS, SPLITS
from toolkit.xray.labels import FOLDERS, LABEL_MAPS

TUNING = Path("hyperparameter_tunning_ratio_abs")
JOURNAL = TUNING / "study.journal"


# The tables that define what may be chosen are the choices of the command line.
if TYPE_CHECKING:
    from toolkit.xray.annotations.sources import Annotations

    Preset: TypeAlias = str
    Precision: TypeAlias = str
    Device: TypeAlias = str
    Split: TypeAlias = str
    Image: TypeAlias = str
    Backend: TypeAlias = str
else:
    Preset = Literal[tuple(PRESETS)]
    Precision = Literal[PRECISIONS]
    Device = Literal[DEVICES]
    Split = Literal[SPLITS]
    Image = Literal[tuple(PROVIDERS)]
    Backend = Literal[BACKENDS]

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Graded X-rays; without it, drawn ones."),
]
LABELS_HELP = f"{', '.join(LABEL_MAPS)}, {FOLDERS}, or a FILE.toml or FILE.csv"
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="LABELS",
        help=f"What the classes are: {LABELS_HELP}; study if not given, folders for a network and "
        "data of one's own.",
    ),
]
ModelLabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="LABELS",
        help=f"What of --data makes each class of the model: {LABELS_HELP}; as in its "
        "training if not given.",
    ),
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="FILE.py[:CLASS]",
        help="A network of one's own, or PACKAGE.MODULE:CLASS; the study's if not given.",
    ),
]
AgainOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="FILE.py[:CLASS]",
        help="Say that the model's network is meant to be defined by another file now.",
    ),
]
ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--config", metavar="NAME=VALUE", help="What a network of one's own is made with."
    ),
]
SplitOption = Annotated[
    Split | None,
    typer.Option(
        "--split", help="study under preset study, else published if there, else patient."
    ),
]
PatientsOption = Annotated[
    str | None,
    typer.Option(
        "--patients",
        metavar="REGEX",
        help=r"Its one group finds the patient in an X-ray's name, such as '^(\d+)_'.",
    ),
]
GroupsOption = Annotated[
    Path | None,
    typer.Option("--groups", metavar="FILE.csv", help="A table of the columns file and patient."),
]
ConflictsOption = Annotated[
    bool,
    typer.Option("--allow-conflicts", help="Go on though an X-ray is there under two classes."),
]
TeachersOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Models to learn from instead of labels, about X-rays of no class too.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Keeps decoded X-rays for the next time.",
        callback=in_a_folder,
    ),
]
PositiveOption = Annotated[
    str | None,
    typer.Option(
        "--positive",
        metavar="CLASS",
        help="Of two classes, the one that an operating point is to find; the last if not given.",
    ),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to train.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="TOOLKIT_STORAGE",
        metavar="PATH_OR_URL",
        help=f"A journal's path (else {JOURNAL} in the logs), or postgresql://, mysql://, grpc://.",
    ),
]


def annotations_of(data: Path | None, labels: str | None, groups: Path | None) -> "Annotations":
    """Return what `--labels` and `--groups` say of the X-rays of `--data`.

    Raises:
        DataError: a file of labels cannot be used.
        UsageError: they say nothing that can be meant, or there is no `--data`.
    """
    from toolkit.xray.annotations.sources import read_annotations

    if data is None and (labels or groups):
        raise UsageError("--labels and --groups are of X-rays of your own: give --data")
    return read_annotations(labels, groups)
