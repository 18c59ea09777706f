"""Weights as people save them: within a larger dict, under names that wrappers lengthen."""

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from toolkit.errors import CheckpointError
from toolkit.original.opcodes import quote

PARTS = ("imagesClassifier", "edgesClassifier", "outputCombiner")
_HOLDERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net"),
    *("weights", "params", "checkpoint", "model_ema", "ema_state_dict", "ema"),
)
# What DataParallel and torch.compile call the module in theirs.
_WRAPPERS = ("module", "_orig_mod")
_DEEPEST = 3


def unwrap(root: Any) -> tuple[Any, list[str]]:
    """Return the module or the state_dict in what a file holds, and how it was found, in words.

    A state_dict comes back under the names of the study where they differ by a prefix alone.

    Raises:
        CheckpointError: two of its weights have one name then.
    """
    root, found = held(root)
    if not isinstance(root, dict):
        return root, found
    weights, prefixes = _without_prefixes(root)
    if prefixes:
        found.append(f"without {' and '.join(map(repr, prefixes))} in their names")
    return weights, found


def held(root: Any) -> tuple[Any, list[str]]:
    """Return the module or the weights that a dict with more holds, and where, in words."""
    found = []
    for _ in range(_DEEPEST):
        within = {name: each for name, each in _entries(root) if isinstance(each, dict | nn.Module)}
        name = next((each for each in _HOLDERS if each in within), "")
        if not name:
            break
        root = within[name]
        found.append(f"under {name!r}")
    return root, found


def _entries(root: Any) -> list[tuple[Any, Any]]:
    return [*root.items()] if isinstance(root, dict) else []


def named_as(weights: dict[Any, Any], names: Collection[str]) -> tuple[dict[Any, Any], list[str]]:
    """Return weights by the names of a network that theirs end in, and what those lack, in words.

    They come back as they are where their names differ otherwise.
    """
    last = next(iter(names), "")
    for wrappers in ((), _WRAPPERS):
        shorter = {_without(str(key), wrappers): value for key, value in weights.items()}
        for name in shorter:
            prefix = name.removesuffix(last)
            if name.endswith(last) and set(shorter) == {prefix + each for each in names}:
                words = [prefix] if prefix else []
                words += [f"{each}." for each in wrappers if any(each in str(k) for k in weights)]
                said = [
                    f"without {' and '.join(repr(quote(each)) for each in words)} in their names"
                ]
                return {each: shorter[prefix + each] for each in names}, said if words else []
    return weights, []


def named_in(weights: dict[Any, Any], names: Collection[str]) -> dict[str, Tensor]:
    """Return those weights whose names a network has; wrappers may have lengthened them."""
    named, _ = named_as(weights, names)
    shorter = {_without(str(key), _WRAPPERS): value for key, value in named.items()}
    found = [
        {name: value for name, value in each.items() if name in names and isinstance(value, Tensor)}
        for each in (named, shorter)
    ]
    return max(found, key=len)


def _without(name: str, words: Collection[str]) -> str:
    return ".".join(word for word in name.split(".") if word not in words)


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
