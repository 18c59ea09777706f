"""Trains the network: one loop for every recipe, resumable to the same bits on CPU."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import CheckpointError, MissingExtraError, TrainingError
from toolkit.files import held_signals
from toolkit.networks.base import Classifier, initialise, may_mirror, place
from toolkit.networks.default import StudyNetwork
from toolkit.networks.loading import STUDY, Definition, place_of, running
from toolkit.resume import require_same
from toolkit.train import checkpoint
from toolkit.train.dataset import Dataset, class_weights
from toolkit.train.distillation.targets import SoftTargets
from toolkit.train.evaluation import predict
from toolkit.train.identity import identity_of
from toolkit.train.memory import keep_freed
from toolkit.train.recipes import Recipe, config_of
from toolkit.train.steps.capture import steps_on
from toolkit.train.steps.lessons import LabelledLessons, Lessons
from toolkit.train.steps.optimiser import Optimiser
from toolkit.train.steps.plan import plan_epoch
from toolkit.train.steps.step import Parts, TrainingStep
from toolkit.train.threads import share_cores
from toolkit.train.weights import FirstWeights

_DAMAGED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; accuracies in [0, 1], training's counted as it trains.

    `train_loss` is the mean over the epoch's X-rays, `last_batch_loss` that of its last step
    alone; both with the penalty. States of former versions lack the latter.
    """

    epoch: int
    train_accuracy: float
    train_loss: float
    val_accuracy: float | None
    val_loss: float | None
    lr: float
    last_batch_loss: float | None = None


def device_of(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`.

    Raises:
        MissingExtraError: `cuda` is asked for and PyTorch finds no GPU.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise MissingExtraError("PyTorch finds no CUDA device: use --device cpu, or auto")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


class Training:
    """A training that can stop after any epoch and go on from its state.

    Args:
        dataset: with a part `train` and, for validation, `val`.
        recipe: every setting.
        seed: of the weights, the order, the augmentation and the dropout.
        device: where it runs.
        definition: of the network.
        targets: what it learns from instead of the labels, if anything.
        weights: what the network begins with, if not with weights of its own.

    Raises:
        CheckpointError: the weights do not fit the network.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        definition: Definition = STUDY,
        targets: SoftTargets | None = None,
        weights: FirstWeights | None = None,
    ) -> None:
        torch.manual_seed(seed)
        # Decayed weights become denormals, which cost the processor 25 to 40 times the time.
        torch.set_flush_denormal(True)
        # Without it a GPU sums in another order each time, and no run comes to another's weights.
        torch.backends.cudnn.deterministic = True
        keep_freed()
        share_cores()
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.dataset = dataset
        self.targets = targets
        self.epoch = 0
        # Of the validation part after the last epoch, int64 (N,).
        self.val_predicted: Tensor | None = None
        self.history: list[Epoch] = []
        classes = len(dataset.label_map.classes)
        if not definition.source:
            definition = Definition(StudyNetwork(recipe.constants))
        self.definition = definition
        self.config = config_of(recipe)
        self.network = self._new_network(classes)
        self.began_with = weights.put_into(self.network) if weights else None
        self.average = self._new_network(classes)
        self.average.load_state_dict(self.network.state_dict())
        self.preprocessing = definition.network.preprocessing().to(device)
        self.trained = Classifier(definition.network, self.network, self.preprocessing)
        # Each branch's own opinion, which only training asks for.
        self.heads = nn.ModuleList(
            nn.Linear(width, classes) for width in self._feature_widths()
        ).to(device)
        hidden = self.trained.hidden_weights(dataset.pixels[:1].to(device))
        self.optimiser = Optimiser(self.network, self.heads, recipe, hidden)
        self.generator = torch.Generator().manual_seed(seed)
        self.indices = targets.places if targets else dataset.parts["train"]
        self.pixels = _pixels(dataset, targets).to(device)
        labels = dataset.labels[dataset.parts["train"]]
        shares = class_weights(recipe.class_weights, labels, classes)
        shares = None if shares is None else shares.to(device)
        parts = Parts(self.trained, self.average, self.heads, self._lessons(), shares)
        self.step = TrainingStep(parts, self.optimiser, recipe)
        self.make_steps = steps_on(device, self.step)

    @property
    def result(self) -> nn.Module:
        """The network to keep: the averaged one where the recipe averages."""
        return self.average if self.recipe.average_decay else self.network

    @property
    def classifier(self) -> Classifier:
        """The network to keep with its preprocessing, in evaluation mode."""
        return Classifier(self.definition.network, self.result, self.preprocessing).eval()

    def _new_network(self, classes: int) -> nn.Module:
        with running(None, f"{place_of(self.definition.network, 'module')} fails"):
            network = self.definition.network.module(classes, **self.config)
        if self.recipe.initialisation == "he":
            initialise(network)
        # In this layout PyTorch 2.13 writes beyond its memory on a processor, in the backward pass
        # of a convolution of 1x1 with stride 2 over 2 to 7 channels: others may have one.
        if self.definition.source and self.device.type == "cpu":
            return network
        return place(network, self.device)

    def _feature_widths(self) -> list[int]:
        """Return how many features each branch gives that has a loss of its own."""
        if not (self.recipe.branch_loss and self.trained.has_features):
            return []
        with torch.no_grad():
            found = self.trained.eval().features(self.dataset.pixels[:1].to(self.device))
        self.trained.train()
        return [each.shape[1] for each in found]

    def _lessons(self) -> Lessons:
        labels = self.dataset.labels
        if self.targets:
            return self.targets.lessons(self.pixels, labels)
        mirror = may_mirror(self.definition.network)
        return LabelledLessons(self.pixels, labels.to(self.device), self.recipe, mirror)

    def run(self, state_path: Path, on_epoch: Callable[[Epoch], None]) -> None:
        """Train to the last epoch, saving the state to `state_path` after each.

        Raises:
            TrainingError: the loss is no longer finite.
            UsageError: the state cannot be written.
        """
        if not self.epoch:
            self.save(state_path)
        while self.epoch < self.recipe.epochs:
            result = self.advance()
            # Ctrl-C waits: an epoch that is saved and not told of is in no log.
            with held_signals():
                self.save(state_path)
                on_epoch(result)

    def advance(self) -> Epoch:
        """Train one epoch.

        Raises:
            TrainingError: the loss is no longer finite.
        """
        result = self._run_epoch()
        self.epoch += 1
        self.history.append(result)
        return result

    @cached_property
    def _identity(self) -> dict[str, Any]:
        # Only what is saved or resumed needs it, and all pixels are hashed.
        what = (self.dataset, self.recipe, self.seed, self.definition, self.targets)
        return identity_of(*what, self.began_with)

    def save(self, path: Path) -> None:
        """Write everything that the next epoch depends on."""
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        state = {
            "identity": self._identity,
            "epoch": self.epoch,
            "history": [asdict(each) for each in self.history],
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
        }
        checkpoint.save(state, path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            CheckpointError: there is nothing to resume, or it is corrupt.
            UsageError: it was another training: other settings, seed or data.
        """
        checkpoint.require_state(path)
        state = checkpoint.load(path)
        try:
            what = f"the training of {path}"
            require_same(state["identity"], self._identity, what, "start without --resume")
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.heads.load_state_dict(state["heads"])
            self.optimiser.load_state_dict(state["optimiser"])
            # What was captured goes by the optimiser's former tensors.
            self.make_steps = steps_on(self.device, self.step)
            self.generator.set_state(state["generator"])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and state["cuda_rng"]:
                torch.cuda.set_rng_state(state["cuda_rng"][0], self.device)
            self.epoch = state["epoch"]
            self.history = [Epoch(**each) for each in state["history"]]
            if [each.epoch for each in self.history] != list(range(self.epoch)):
                raise ValueError("as many epochs as were run")
        except _DAMAGED as error:
            raise CheckpointError(f"{path} is corrupt: start without --resume") from error

    def _run_epoch(self) -> Epoch:
        rows = plan_epoch(
            self.recipe, self.step.parts.lessons, self.indices, self.generator, self.epoch
        )
        lasting = self.recipe.dropout_epochs
        # In the study's network nothing but dropout depends on the mode; others have no such limit.
        self.network.train(lasting is None or self.epoch < lasting)
        self.step.reset()
        with running(None, "cannot be trained") if self.definition.source else nullcontext():
            self.make_steps(rows, self.network.training)
        sums = self.step.sums()
        train_loss = sums.loss / len(self.indices)
        self._require_finite(train_loss)
        val_accuracy, val_loss = self._validate()
        # The last step of an epoch can break the weights: only validation sees that.
        self._require_finite(val_loss or 0.0)
        return Epoch(
            epoch=self.epoch,
            train_accuracy=sums.correct / len(self.dataset.parts["train"]),
            train_loss=train_loss,
            val_accuracy=val_accuracy,
            val_loss=val_loss,
            lr=self.optimiser.lr,
            last_batch_loss=sums.last_loss,
        )

    def _require_finite(self, loss: float) -> None:
        if not isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {self.epoch + 1}: lower the learning rate with --lr"
            )

    def _validate(self) -> tuple[float | None, float | None]:
        if "val" not in self.dataset.parts:
            return None, None
        indices = self.dataset.parts["val"]
        logits = predict(self.classifier, self.pixels[indices.to(self.device)])
        self.val_predicted = logits.argmax(dim=1)
        labels = self.dataset.labels[indices]
        accuracy = (self.val_predicted == labels).double().mean()
        return float(accuracy), float(functional.cross_entropy(logits, labels))


def _pixels(dataset: Dataset, targets: SoftTargets | None) -> Tensor:
    return torch.cat([dataset.pixels, targets.unlabelled]) if targets else dataset.pixels
