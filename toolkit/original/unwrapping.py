"""Weights as people save them: within a larger dict, under names that wrappers lengthen."""

from typing import Any

from torch import nn

from toolkit.errors import CheckpointError
from toolkit.original.opcodes import quote

PARTS = ("imagesClassifier", "edgesClassifier", "outputCombiner")
_HOLDERS = ("state_dict", "model_state_dict", "model", "module", "network", "net")
# What DataParallel and torch.compile call the module in theirs.
_WRAPPERS = ("module", "_orig_mod")
_DEEPEST = 3


def unwrap(root: Any) -> tuple[Any, list[str]]:
    """Return the module or the state_dict in what a file holds, and how it was found, in words.

    A state_dict comes back under the names of the study where they differ by a prefix alone.

    Raises:
        CheckpointError: two of its weights have one name then.
    """
    found = []
    for _ in range(_DEEPEST):
        held = root if isinstance(root, dict) else {}
        name = next((each for each in _HOLDERS if isinstance(held.get(each), dict | nn.Module)), "")
        if not name:
            break
        root = held[name]
        found.append(f"under {name!r}")
    if not isinstance(root, dict):
        return root, found
    weights, prefixes = _without_prefixes(root)
    if prefixes:
        found.append(f"without {' and '.join(map(repr, prefixes))} in their names")
    return weights, found


def _without_prefixes(weights: dict[Any, Any]) -> tuple[dict[Any, Any], list[str]]:
    """Return weights by shorter names, and what those lack; as they are where prefixes differ."""
    plain: dict[Any, Any] = {}
    lacking: dict[str, None] = {}
    before, twice = set(), ""
    for key, value in weights.items():
        words = str(key).split(".")
        inner = [word for word in words if word not in _WRAPPERS]
        start = next((place for place, word in enumerate(inner) if word in PARTS), 0)
        before.add(".".join(inner[:start]))
        lacking |= dict.fromkeys(f"{word}." for word in words if word in _WRAPPERS)
        name = ".".join(inner[start:])
        twice = name if name in plain else twice
        plain[name] = value
    if len(before) != 1:
        return weights, []
    if twice:
        raise CheckpointError(f"it has two weights {quote(twice)}")
    prefix = before.pop()
    return plain, [*lacking, *([f"{quote(prefix)}."] if prefix else [])]
