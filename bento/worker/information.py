"""What a service says of its model: its answer to /info."""

import platform
from dataclasses import dataclass
from typing import Any

from bento.worker.settings import Settings
from toolkit.extras import versions
from toolkit.model.answer import Meaning
from toolkit.model.manifest import Manifest


@dataclass(frozen=True)
class Information:
    """What is known of a model before it is opened.

    Attributes:
        settings: how it is served.
        record: its manifest.
        sha256: of the file that is served.
        meaning: of its probabilities.
    """

    settings: Settings
    record: Manifest
    sha256: str
    meaning: Meaning

    @property
    def name(self) -> str:
        """The model's name."""
        return self.record.name

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what its graph gives."""
        assert self.record.export
        artifact = self.record.export.artifacts[self.settings.kind]
        return tuple(each.name for each in artifact.outputs)

    def as_dict(self, provider: str | None, reason: str) -> dict[str, Any]:
        """Return plain values.

        Args:
            provider: that runs the model; None before it was opened.
            reason: why it does not answer; empty when it does.
        """
        verdict = self.record.equivalence
        assert verdict
        leg = verdict.legs[self.settings.kind]
        return {
            "model": self.name,
            "model_sha256": self.sha256,
            "checkpoint_sha256": self.record.training.checkpoint_sha256,
            "classes": list(self.meaning.classes),
            "grades": [list(each) for each in self.meaning.grades],
            "equivalence": {
                "passed": verdict.passed and leg.passed,
                "samples": leg.samples,
                "max_abs": {each.output: each.max_abs for each in leg.outputs},
            },
            "provider": {"requested": self.settings.provider, "active": provider},
            "precision": self.settings.precision,
            "ready": not reason,
            "reason": reason or None,
            "versions": {"python": platform.python_version()}
            | versions("toolkit", "bentoml", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow"),
        }
