"""The figures of a model as Markdown, straight from its manifest, for its model card."""

import html
import re
from typing import Any

from toolkit.errors import ManifestError, printable
from toolkit.model.manifest import Manifest

_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "quadratic_weighted_kappa": "quadratic weighted kappa",
}


def figures(record: Manifest, part: str = "val") -> str:
    """Return tables of a model's figures on one part, with 95 % intervals.

    Raises:
        ManifestError: the manifest has no figures of that part.
    """
    evaluation = record.training.metrics.get(part)
    if not evaluation:
        raise ManifestError(
            f"{record.name} has no figures of the part {part!r}: train it on data that has one"
        )
    lines = [
        f"| {_escaped(part)}, {evaluation['n']:d} X-rays | | 95 % interval |",
        "|---|---|---|",
        *(
            f"| {shown} | {_number(evaluation[name])} | {_interval(evaluation, name)} |"
            for name, shown in _NAMES.items()
        ),
        *(
            f"| accuracy lost with another X-ray's {_escaped(name)} | {_number(lost)} | |"
            for name, lost in (record.training.permutation if part == "val" else {}).items()
        ),
        *_calibration(record),
        *_scope(record),
        "",
        "| class | X-rays | recall | 95 % interval | precision | predicted as "
        + ", ".join(map(_escaped, record.labels.classes))
        + " |",
        "|---|---|---|---|---|---|",
    ]
    intervals = evaluation["intervals"]["recall"]
    for index, name in enumerate(record.labels.classes):
        row = evaluation["confusion_matrix"][index]
        lines.append(
            f"| {_escaped(name)} | {sum(row)} | {_number(evaluation['recall'][index])} | "
            f"{_between(intervals[index])} | {_number(evaluation['precision'][index])} | "
            f"{', '.join(map(str, row))} |"
        )
    return "\n".join(lines)


def _calibration(record: Manifest) -> list[str]:
    if record.calibration is None:
        return []
    known = record.calibration
    return [
        f"| temperature | {known.temperature:.3f} | |",
        f"| expected calibration error before it | {known.error_before:.3f} | |",
        f"| expected calibration error after it | {known.error_after:.3f} | |",
        f"| abstains below | {known.abstain_below:.3f} | |",
        f"| share that it abstains on | {known.abstained:.3f} | |",
        f"| share of wrong ones among the others | {known.wrong_among_kept:.3f} | |",
    ]


def _scope(record: Manifest) -> list[str]:
    if record.scope is None:
        return []
    return [
        f"| novelty up to which an X-ray is in scope | {record.scope.limit:.3f} | |",
        f"| share that is | {record.scope.within:.3f} | |",
    ]


def _escaped(text: str) -> str:
    """Return a text as Markdown that shows it: no markup of its own, no cell that it ends."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(printable(text)))


def _interval(evaluation: dict[str, Any], name: str) -> str:
    return _between(evaluation["intervals"].get(name))


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
