"""What must be the same for a run to go on, and what is said where it is not."""

from collections.abc import Mapping
from typing import Any

from toolkit.errors import UsageError

_LONGEST = 80


def require_same(was: Mapping[str, Any], now: Mapping[str, Any], what: str, otherwise: str) -> None:
    """Make sure that a run goes on as it was begun.

    Args:
        was: all that decided what the run would come to when it was begun, as plain values; a
            name that a former version did not write counts as None.
        now: the same of the run that shall go on.
        what: would go on, such as `the study 's'`.
        otherwise: what the user can do instead, such as `start without --resume`.

    Raises:
        UsageError: they differ; the first name that does is told with both values.
    """
    for name, ours in now.items():
        if was.get(name) != ours:
            raise UsageError(
                f"{what} cannot go on: {name} was {_brief(was.get(name))}, now {_brief(ours)}; "
                f"give the same options and data, or {otherwise}"
            )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
