"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

TUNING = Path("hyperparameter_tunning_ratio_abs")
JOURNAL = TUNING / "study.journal"


class Preset(StrEnum):
    """Recipes to start from."""

    STUDY = "study"
    DEFAULT = "default"


class Precision(StrEnum):
    """What the products of a training are computed in."""

    FP32 = "fp32"
    BF16 = "bf16"


class Labels(StrEnum):
    """Label maps."""

    STUDY = "study"
    FIVE = "five"
    MERGE01 = "merge01"


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Engine(StrEnum):
    """What a run over many X-rays is spread by."""

    LOCAL = "local"
    RAY = "ray"


class Image(StrEnum):
    """Images that can be built."""

    CPU = "cpu"
    GPU = "gpu"


class Split(StrEnum):
    """How the X-rays are divided into train, val and test."""

    PUBLISHED = "published"
    STUDY = "study"
    PATIENT = "patient"


DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Graded X-rays; without it, drawn ones."),
]
LabelsOption = Annotated[Labels, typer.Option("--labels", help="Which grades make which class.")]
SplitOption = Annotated[
    Split | None,
    typer.Option(
        "--split", help="study under preset study, else published if there, else patient."
    ),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to train.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="TOOLKIT_STORAGE",
        metavar="PATH_OR_URL",
        help=f"A journal's path (else {JOURNAL.name} in the logs), or postgresql://, mysql://, grpc://.",
    ),
]
