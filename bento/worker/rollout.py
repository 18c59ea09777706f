"""What the parent knows of the model, handed on: all its workers answer alike or not at all.

Files may be replaced under a running service. A worker that is started after that would answer
with another model than the others. So it compares the files with what its parent began with.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from bento.worker.assembly import Information, check
from bento.worker.settings import Settings
from toolkit import memory
from toolkit.model.answer import meaning_of
from toolkit.model.manifest import Manifest

_MEMORY = "TOOLKIT_MODEL_MEMORY"


@dataclass(frozen=True)
class _Handed:
    record: Manifest
    sha256: str
    explains: bool


def share(information: Information) -> dict[str, str]:
    """Keep what the parent knows in memory; return the environment of its workers."""
    handed = _Handed(information.record, information.sha256, information.explains)
    place = memory.share("toolkit-model", msgspec.json.encode(handed))
    # By name: without one, a second model in the folder would change which one is served.
    return {_MEMORY: str(place), "TOOLKIT_MODEL": information.record.name}


def information(settings: Settings, environment: Mapping[str, str] = os.environ) -> Information:
    """Return what the parent began with; in the parent, what the files are, once checked.

    Raises:
        ToolkitError: as `bento.worker.assembly.check` does.
    """
    if _MEMORY not in environment:
        return check(settings)
    content = memory.content_of(int(environment[_MEMORY]))
    handed = msgspec.json.decode(content, type=_Handed)
    record = handed.record
    return Information(settings, record, handed.sha256, meaning_of(record), handed.explains)
