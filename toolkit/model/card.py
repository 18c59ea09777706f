"""The figures of a model as Markdown, straight from its manifest, for its model card."""

import html
import re
from collections.abc import Iterator
from typing import Any

from toolkit.errors import ManifestError, printable
from toolkit.model.manifest import Manifest
from toolkit.model.records import CalibrationRecord, OperatingPointRecord, ScopeRecord

_FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "quadratic_weighted_kappa": "quadratic weighted kappa",
}
_LATER = {
    "macro_f1": "macro F1",
    "sensitivity": "sensitivity for {positive}",
    "specificity": "specificity for {positive}",
}
"""Figures that manifests of former versions lack; the last two are of two classes."""
_AREAS = {"auroc": "AUROC", "average_precision": "average precision"}
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
            _figure(title, evaluation, name)
            for name, title in _FIGURES.items()
            if record.labels.graded or evaluation[name] is not None
        ),
        *(
            _figure(title.format(positive=_positive(record, evaluation)), evaluation, name)
            for name, title in _LATER.items()
            if evaluation.get(name) is not None
        ),
        *(
            f"| accuracy lost with another X-ray's {_escaped(name)} | {_number(lost)} | |"
            for name, lost in (record.training.permutation if part == "val" else {}).items()
        ),
        *_rows(record.calibration, _CALIBRATION),
        *_rows(record.scope, _SCOPE),
        *_decision(record.operating_point),
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
    if evaluation.get("auroc"):
        lines += ["", *_areas(record, evaluation)]
    return "\n".join(lines)


def _areas(record: Manifest, evaluation: dict[str, Any]) -> Iterator[str]:
    """Yield a table of how well the probability of each class ranks X-rays."""
    titles = " | ".join(f"{title} | 95 % interval" for title in _AREAS.values())
    yield f"| class against the rest | {titles} |"
    yield "|---" * (1 + 2 * len(_AREAS)) + "|"
    bounds = evaluation["intervals"]
    for index, label in enumerate(record.labels.classes):
        cells = " | ".join(
            f"{_number(evaluation[name][index])} | {_interval(bounds[name][index])}"
            for name in _AREAS
        )
        yield f"| {_escaped(label)} | {cells} |"


def _decision(point: OperatingPointRecord | None) -> Iterator[str]:
    """Yield rows of an operating point: what it was to reach, where it lies, what it reached."""
    if point is None:
        return
    label, part = _escaped(point.positive), _escaped(point.part)
    yield f"| {point.figure} of the decision on {label} that was asked for | {point.target:.3f} | |"
    yield f"| decides on {label} from a probability of | {point.threshold:.3f} | |"
    for name, count in (("sensitivity", point.positives), ("specificity", point.negatives)):
        title = f"{name} of that decision on {part}, {count} X-rays"
        yield f"| {title} | {_number(getattr(point, name))} | |"


def _positive(record: Manifest, evaluation: dict[str, Any]) -> str:
    """Return the label of the class that sensitivity is of; empty where there are not two."""
    index = evaluation.get("positive_class")
    return "" if index is None else _escaped(record.labels.classes[index])


def _figure(title: str, evaluation: dict[str, Any], name: str) -> str:
    interval = _interval(evaluation["intervals"].get(name))
    return f"| {title} | {_number(evaluation[name])} | {interval} |"


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
    return "not defined" if value is None else f"{value:.3f}"
