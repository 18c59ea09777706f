"""What the environment says of how to serve."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UsageError
from toolkit.model.files import ModelFiles, served_name
from toolkit.processes import cores
from toolkit.runtime.providers import PROVIDERS

KINDS = {"fp32": "pipeline", "fp16": "fp16", "int8": "int8"}
"""The kind of artifact that is served, by precision."""
MOST_WORKERS = 1024
OWNER_SOCKET = "TOOLKIT_OWNER_SOCKET"
"""What the arbiter tells the workers by, where another process runs the model."""


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        files: of the model.
        workers: processes, 1 to `MOST_WORKERS`.
        provider: `auto`, `cpu` or `cuda`, as asked for.
        precision: a key of `KINDS`.
        token: what a request must bear; None for an open service.
        owner: path of the socket of the process that runs the model; None where each worker does.
    """

    files: ModelFiles
    workers: int
    provider: str
    precision: str
    token: bytes | None
    owner: str | None = None

    @property
    def kind(self) -> str:
        """The kind of artifact that is served."""
        return KINDS[self.precision]


def settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of TOOLKIT_MODEL, _MODELS, _WORKERS, _PROVIDER, _PRECISION and _TOKEN.

    Raises:
        UsageError: one of them cannot be used.
    """
    folder = _folder(environment.get("TOOLKIT_MODELS", "saved_models"))
    return Settings(
        ModelFiles(folder, environment.get("TOOLKIT_MODEL", served_name(folder))),
        _workers(environment.get("TOOLKIT_WORKERS", str(cores()))),
        _one_of(environment, "TOOLKIT_PROVIDER", ("auto", *PROVIDERS)),
        _one_of(environment, "TOOLKIT_PRECISION", tuple(KINDS)),
        _token(environment.get("TOOLKIT_TOKEN")),
        environment.get(OWNER_SOCKET),
    )


def _folder(text: str) -> Path:
    if not text:
        raise UsageError("TOOLKIT_MODELS is empty: name a folder, or unset it for saved_models")
    return Path(text)


def _token(text: str | None) -> bytes | None:
    if text is None:
        return None
    if not text.strip():
        raise UsageError("TOOLKIT_TOKEN is empty: give a token, or unset it for an open service")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            "TOOLKIT_TOKEN holds a blank, the end of a line or a letter beyond ASCII: "
            "give printable ASCII alone"
        )
    return text.encode("ascii")


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise UsageError(f"TOOLKIT_WORKERS is {text!r}: give a number from 1 to {MOST_WORKERS}")
    return int(text)


def _one_of(environment: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    value = environment.get(name, choices[0])
    if value not in choices:
        raise UsageError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
    return value
