"""One flipped bit in the files that are served: each is refused, or changes no answer."""

import random

import msgspec
import pytest

from bento.worker.assembly import check
from bento.worker.settings import settings
from toolkit.errors import ToolkitError
from toolkit.model import manifest
from toolkit.model.artifacts import load_golden

SAMPLE = 150


@pytest.fixture
def told(copied):
    """Return a function: all that answers hold beside what the proven graph computes."""
    names = {"TOOLKIT_MODELS": str(copied.folder), "TOOLKIT_MODEL": copied.name}
    chosen = settings(names | {"TOOLKIT_WORKERS": "1"})

    def tell():
        found = check(chosen)
        said = msgspec.json.encode(found.info("CPUExecutionProvider", ""))
        return found.sha256, found.meaning, said, found.explains

    return tell


def flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 1 << place % 8
    return bytes(changed)


@pytest.mark.timeout(900)
def test_one_bit_of_every_byte_of_the_manifest_is_refused_or_changes_no_answer(copied, told):
    content, expected = copied.manifest.read_bytes(), told()
    refused = 0
    for place in range(len(content)):
        copied.manifest.write_bytes(flipped(content, place))
        try:
            found = told()
        except ToolkitError:
            refused += 1
        else:
            assert found == expected, content[max(0, place - 60) : place + 20]
    # Blanks between two values may become others, and some words concern no answer.
    assert refused > len(content) / 2


@pytest.mark.parametrize("kind", ["pipeline", "explainer", "golden"])
def test_one_bit_of_any_byte_of_the_other_files_is_refused(copied, told, kind):
    path = copied.path(kind)
    content, chance = path.read_bytes(), random.Random(20)
    ends = [*range(16), *range(len(content) - 16, len(content))]
    for place in ends + chance.sample(range(len(content)), SAMPLE):
        path.write_bytes(flipped(content, place))
        with pytest.raises(ToolkitError):
            told()
    path.write_bytes(content)
    assert told() and load_golden(copied, manifest.load(copied.manifest))
