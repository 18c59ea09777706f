"""Pictures of a study: Optuna's own, and the study's scatterplot matrix."""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.figure import Figure
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.visualization import matplotlib as pictures

from toolkit.files import write_bytes
from toolkit.tune import report
from toolkit.tune.trial import TRAINING_ACCURACY, VALIDATION_ACCURACY


def draw(study: Study, folder: Path) -> list[Path]:
    """Write the pictures of a study as PNG files; return their paths.

    Parallel coordinates of the best half, slices, history, importances, and the scatterplot
    matrix of parameters, accuracies and score. What fewer than two scores cannot show is left
    out.

    Raises:
        UsageError: the folder cannot be written.
    """
    # Without a screen, whatever the user's settings.
    mpl.use("Agg")
    trials = [each for each in report.finished_trials(study) if math.isfinite(each.value or 0.0)]
    if not trials:
        return []
    everything = report.study_of(sorted(trials, key=lambda trial: trial.number))
    best_half = report.study_of(trials[: math.ceil(len(trials) / 2)])
    figures: dict[str, Callable[[], Figure]] = {
        "history": lambda: _optunas(pictures.plot_optimization_history, everything, (8, 5)),
        "slices": lambda: _optunas(pictures.plot_slice, everything, (14, 4.5)),
        "parallel_coordinates": lambda: _optunas(
            pictures.plot_parallel_coordinate, best_half, (11, 6)
        ),
        "scatterplot_matrix": lambda: _scatterplot_matrix(trials),
    }
    if report.importances(study):
        figures["importances"] = lambda: _optunas(
            pictures.plot_param_importances, everything, (8, 4)
        )
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        _save(figure(), path)
        paths.append(path)
    return paths


def _optunas(plot: Callable[[Study], object], study: Study, size: tuple[float, float]) -> Figure:
    # Optuna sets a style for the whole process, and warns that its pictures are experimental.
    with warnings.catch_warnings(action="ignore"), mpl.rc_context():
        plot(study)
    figure = pyplot.gcf()
    for axes in figure.axes:
        # The grid of one axis would lie over the lines of another.
        axes.grid(visible=False)
    figure.set_size_inches(*size)
    return figure


def _scatterplot_matrix(trials: Sequence[FrozenTrial]) -> Figure:
    """Every quantity against every other; the colour is the score, the best two are ringed."""
    columns = {
        name: [float(trial.params[name]) for trial in trials]
        for name in report.parameters_of(trials)
        if all(isinstance(trial.params[name], int | float) for trial in trials)
    }
    for name in (TRAINING_ACCURACY, VALIDATION_ACCURACY):
        if all(name in trial.user_attrs for trial in trials):
            columns[name] = [float(trial.user_attrs[name]) for trial in trials]
    columns["score"] = [float(trial.value or 0.0) for trial in trials]
    names = list(columns)
    figure = Figure(figsize=(2 * len(names), 2 * len(names)))
    spaces = {"wspace": 0.12, "hspace": 0.12}
    panels = figure.subplots(len(names), len(names), squeeze=False, gridspec_kw=spaces)
    for i, y in enumerate(names):
        for j, x in enumerate(names):
            panel = panels[i][j]
            if i == j:
                counts = panel.twinx()
                counts.hist(columns[x], bins=12, color="0.6")
                counts.set_yticks([])
                panel.set_ylim(_with_margin(columns[x]))
            else:
                panel.scatter(columns[x], columns[y], c=columns["score"], s=14, cmap="viridis")
                panel.scatter(
                    columns[x][:2], columns[y][:2], s=60, facecolors="none", edgecolors="tab:red"
                )
            panel.tick_params(labelsize=7, labelbottom=i == len(names) - 1, labelleft=j == 0)
            if i == len(names) - 1:
                panel.set_xlabel(x, fontsize=8)
            if j == 0:
                panel.set_ylabel(y, fontsize=8)
    return figure


def _with_margin(values: Sequence[float]) -> tuple[float, float]:
    margin = 0.05 * (max(values) - min(values)) or 0.5
    return min(values) - margin, max(values) + margin


def _save(figure: Figure, path: Path) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    write_bytes(path, stream.getvalue())
