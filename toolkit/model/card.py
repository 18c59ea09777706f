"""The figures of a model as Markdown, straight from its manifest, for its model card."""

import html
import re

from toolkit.errors import ManifestError, printable
from toolkit.model.manifest import Manifest
from toolkit.model.records import CalibrationRecord, ScopeRecord

_FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "quadratic_weighted_kappa": "quadratic weighted kappa",
}
_CALIBRATION = {
    "temperature": "temperature",
    "error_before": "expected calibration error before it",
    "error_after": "expected calibration error after it",
    "abstain_below": "abstains below",
    "abstained": "share that it abstains on",
    "wrong_among_kept": "share of wrong ones among the others",
}
_SCOPE = {
    "limit": "novelty up to which an X-ray is in scope",
    "within": "share that is",
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
            f"| {title} | {_number(evaluation[name])} | "
            f"{_interval(evaluation['intervals'].get(name))} |"
            for name, title in _FIGURES.items()
            if record.labels.graded or evaluation[name] is not None
        ),
        *(
            f"| accuracy lost with another X-ray's {_escaped(name)} | {_number(lost)} | |"
            for name, lost in (record.training.permutation if part == "val" else {}).items()
        ),
        *_rows(record.calibration, _CALIBRATION),
        *_rows(record.scope, _SCOPE),
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
            f"{_interval(intervals[index])} | {_number(evaluation['precision'][index])} | "
            f"{', '.join(map(str, row))} |"
        )
    return "\n".join(lines)


def _rows(known: CalibrationRecord | ScopeRecord | None, titles: dict[str, str]) -> list[str]:
    if known is None:
        return []
    return [f"| {title} | {getattr(known, name):.3f} | |" for name, title in titles.items()]


def _escaped(text: str) -> str:
    """Return a text as Markdown that shows it: no markup of its own, no cell that it ends."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(printable(text)))


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
