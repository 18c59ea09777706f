"""Whether a picture is anything like the X-rays that a network was trained on.

The network's own maps tell: their means, and how those of the first ones change from the top of
the X-ray to the bottom, lie in a small part of their space for X-rays of one kind. How far a
picture is from there is its novelty. The measure is that of a Gaussian whose first axes are
fitted and whose other axes share one variance (Tipping & Bishop, "Probabilistic principal
component analysis", J. R. Statist. Soc. B 61, 1999; Lee et al., "A simple unified framework for
detecting out-of-distribution samples", NeurIPS 2018).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from toolkit.files import sha256
from toolkit.model.files import ModelFiles
from toolkit.model.records import ScopeRecord
from toolkit.networks.base import Classifier, device_of
from toolkit.networks.recording import LayerRun, recording
from toolkit.train import checkpoint
from toolkit.train.dataset import Dataset

AXES = 32
BANDS = 4
PASSING = 0.99
_FITTED_ON = 1600
_BATCH = 128
# A network that gives almost the same for every X-ray still has a finite measure.
_LEAST_VARIANCE = 1e-12
_LEAST_SHARE = 1e-6
# Of the means themselves: PyTorch and ONNX Runtime round them differently in the sixth digit.
_LEAST_DEVIATION = 5e-3


class Novelty(nn.Module):
    """Gives the novelty of X-rays from the maps of a network.

    Args:
        centre: mean of the summaries, float32 (D,).
        directions: in which they vary most, of unit length, float32 (D, K).
        deviations: standard deviations along them, float32 (K,).
        spread: standard deviation along every other direction, float32 ().
    """

    centre: Tensor
    directions: Tensor
    deviations: Tensor
    spread: Tensor

    def __init__(
        self, centre: Tensor, directions: Tensor, deviations: Tensor, spread: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("directions", directions)
        self.register_buffer("deviations", deviations)
        self.register_buffer("spread", spread)

    def forward(self, maps: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return the novelty, float32 (N,): 0 or more, about 1 for X-rays as in training.

        Args:
            maps: as `run_with_maps` returns them.
        """
        offset = summary(maps) - self.centre
        along = offset @ self.directions
        across = (offset - along @ self.directions.T) / self.spread
        squared = (along / self.deviations).square().sum(dim=1) + across.square().sum(dim=1)
        return (squared / offset.shape[1]).sqrt()


def run_with_maps(
    classifier: Classifier, inputs: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Sequence[Tensor]]]:
    """Return the logits, (N, classes), of a network's inputs, and groups of maps, (N, C, H, W).

    The groups are those that the definition names, or one: the last maps of each resolution. Of
    a network without any it is empty.
    """
    with recording(classifier.layers()) as runs:
        logits: Tensor = classifier.network(*inputs)
    groups = getattr(classifier.definition, "maps", None)
    if groups is None:
        # What has another batch, such as patches of an X-ray, tells nothing of one.
        own = [run for run in runs if run.given.shape[:1] == logits.shape[:1]]
        return logits, [_last_maps(own)]
    given = {run.name: run.given for run in runs}
    return logits, [[given[name] for name in names] for names in groups]


def _last_maps(runs: Sequence[LayerRun]) -> list[Tensor]:
    """Return the maps after which the resolution changes, or there are none any more."""
    sizes = [tuple(run.given.shape[2:]) if run.given.ndim == 4 else () for run in runs]
    return [
        run.given
        for run, size, following in zip(runs, sizes, [*sizes[1:], ()], strict=True)
        if max(size, default=1) > 1 and size != following
    ]


def summary(maps: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the means of every map, and those of each group's first in bands, float32 (N, D)."""
    maps = [[each.float() for each in group] for group in maps]
    means = [each.mean(dim=(2, 3)) for group in maps for each in group]
    bands = [(group[0].mean(dim=3) @ _bands(group[0])).flatten(1) for group in maps]
    return torch.cat(means + bands, dim=1)


@torch.no_grad()
def fit(classifier: Classifier, dataset: Dataset) -> tuple[Novelty, float, float] | None:
    """Return the novelty measure of a network, its limit, and the share of `val` within it.

    Args:
        classifier: with a trained network.
        dataset: with parts `train`, on some of whose X-rays it is fitted, and `val`, of which
            99 % shall be within the limit.

    Returns:
        None of a network that has no maps to tell by.
    """
    train = dataset.parts["train"]
    chosen = train[:: max(1, len(train) // _FITTED_ON)]
    if not all(next(_maps(classifier, dataset.pixels[chosen[:1]]))):
        return None
    summaries = [summary(maps) for maps in _maps(classifier, dataset.pixels[chosen])]
    measure = gaussian(torch.cat(summaries).double()).to(device_of(classifier))
    val = dataset.pixels[dataset.parts["val"]]
    novelty = torch.cat([measure(maps) for maps in _maps(classifier, val)]).double()
    limit = float(torch.quantile(novelty, PASSING, interpolation="higher"))
    return measure.cpu(), limit, float((novelty <= limit).double().mean())


def gaussian(summaries: Tensor) -> Novelty:
    """Return the measure of summaries, float64 (N, D)."""
    centre = summaries.mean(dim=0)
    offsets = summaries - centre
    # Of fewer X-rays than numbers, the directions are as many as the X-rays at most.
    _, singular, directions = torch.linalg.svd(offsets, full_matrices=False)
    variances = singular.square() / max(1, len(summaries) - 1)
    count = min(AXES, len(variances) // 2)
    others = summaries.shape[1] - count
    least = _LEAST_SHARE * variances.sum() / summaries.shape[1] + _LEAST_VARIANCE
    least += _LEAST_DEVIATION**2 * centre.square().mean()
    spread = (variances[count:].sum() / others).clamp_min(least).sqrt()
    deviations = variances[:count].clamp_min(least).sqrt()
    parts = (centre, directions[:count].T.contiguous(), deviations, spread)
    return Novelty(*(each.float() for each in parts))


def save(measure: Novelty, files: ModelFiles) -> str:
    """Write NAME.scope.pt and return its SHA-256.

    Raises:
        UsageError: the folder cannot be written.
    """
    path = files.path("scope")
    checkpoint.save(measure.state_dict(), path)
    return sha256(path)


def load(files: ModelFiles, record: ScopeRecord) -> Novelty:
    """Return the novelty measure of a model.

    Raises:
        CheckpointError: its file is missing, corrupt, or not the one of its manifest.
    """
    path = files.path("scope")
    checkpoint.require_own(path, record.sha256, files)
    state = checkpoint.load(path)
    return Novelty(**state)


def _maps(classifier: Classifier, pixels: Tensor) -> Iterator[Sequence[Sequence[Tensor]]]:
    classifier.eval()
    for xray in torch.split(pixels, _BATCH):
        inputs = classifier.inputs(xray.to(device_of(classifier)))
        yield run_with_maps(classifier, inputs)[1]


def _bands(maps: Tensor) -> Tensor:
    """Return what rows are averaged with, from the top to the bottom: (H, 4), or (H, H) of few."""
    height = int(maps.shape[2])
    bands = min(BANDS, height)
    band = torch.arange(height) * bands // height
    weights = torch.nn.functional.one_hot(band, bands).to(maps)
    return weights / weights.sum(dim=0)
