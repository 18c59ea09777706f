"""Plain JSON values to dataclasses, by their annotations; what does not fit is named."""

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def decoded(kind: Any, value: Any, where: str) -> Any:
    """Return `value`, as JSON gives it, as an instance of the annotation `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _decoded_union(arguments, value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _decoded_dataclass(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"{where} is not a list")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} entries, not {len(kinds)}")
        return tuple(decoded(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"{where} is not an object")
        return {k: decoded(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{where} is too large") from None
    if type(value) is not kind:
        raise TypeError(f"{where} is {type(value).__name__}, not {kind.__name__}")
    return value


def _decoded_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    rest = [kind for kind in kinds if kind is not NoneType]
    if len(rest) > 1:
        rest = [kind for kind in rest if type(value) is kind] or rest
    return decoded(rest[0], value, where)


def _decoded_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{where} is not an object")
    hints = get_type_hints(kind)
    unknown = set(value) - {each.name for each in fields(kind)}
    if unknown:
        raise ValueError(f"{where} has unknown parts: {', '.join(sorted(unknown))}")
    return kind(**{k: decoded(hints[k], v, f"{where}.{k}") for k, v in value.items()})
