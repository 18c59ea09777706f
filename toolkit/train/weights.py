"""Weights that a training begins with, in place of those that its network is made with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from toolkit.errors import CheckpointError, printable
from toolkit.files import sha256
from toolkit.model.records import WeightsRecord
from toolkit.original.unwrapping import named_in
from toolkit.train.checkpoint import read_weights


@dataclass(frozen=True)
class FirstWeights:
    """What a file of weights holds.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        values: by the names that they have there.
    """

    path: Path
    sha256: str
    values: dict[Any, Any]

    def put_into(self, network: nn.Module) -> WeightsRecord:
        """Give a network those that it has by name and shape; return what came of it.

        Raises:
            CheckpointError: it has none of them, or they hold no numbers to begin with.
        """
        wanted = network.state_dict()
        known = named_in(self.values, wanted)
        found = {name: each for name, each in known.items() if each.shape == wanted[name].shape}
        if 2 * len(found) <= len(known):
            raise CheckpointError(f"{self.path} is of another network: {self._unlike(wanted)}")
        try:
            for name, value in found.items():
                if not value.isfinite().all():
                    raise CheckpointError(
                        f"{self.path} has numbers in {name!r} that are not finite"
                    )
            network.load_state_dict(found, strict=False)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path} does not fit the network: {printable(error, 200)}"
            ) from error
        new = tuple(name for name in wanted if name not in found)
        return WeightsRecord(self.path.name, self.sha256, new)

    def _unlike(self, wanted: Mapping[str, Tensor]) -> str:
        """Say what shows that the weights are no network's that wants others."""
        for name, value in named_in(self.values, wanted).items():
            there, here = tuple(value.shape), tuple(wanted[name].shape)
            if there != here:
                return f"{name!r} is {there} there and {here} in the network"
        ours, theirs = next(iter(wanted), "nothing"), next(iter(self.values), "nothing")
        return f"it holds {printable(theirs, 80)!r} and no {ours!r}"


def first_weights(path: Path) -> FirstWeights:
    """Return the weights of a file, in PyTorch's format or safetensors.

    Raises:
        CheckpointError: missing, corrupt, or with more than weights in it.
    """
    values, _ = read_weights(path)
    return FirstWeights(path, sha256(path), values)


def beginning(record: WeightsRecord, count: int) -> str:
    """Return what a network of so many weights begins with, as a line."""
    if not record.new:
        return f"beginning with the weights of {record.file}"
    shown = ", ".join(record.new[:3]) + (", ..." if len(record.new) > 3 else "")
    return (
        f"beginning with {count - len(record.new)} of {count} weights from {record.file}; "
        f"as new: {shown}"
    )
