"""The benchmark's table as a picture."""

import io
from collections.abc import Sequence
from pathlib import Path

from export.benchmark.table import Row
from toolkit.extras import require
from toolkit.files import write_bytes


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write a PNG with X-rays a second for each contender, a panel for each batch size.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        UsageError: the folder cannot be written.
    """
    require("matplotlib", "train")
    # Without pyplot there is no window and no global state.
    from matplotlib.figure import Figure

    batches = sorted({row.batch for row in rows})
    threads = sorted({row.threads for row in rows})
    names = list(dict.fromkeys(map(_name, rows)))
    figure = Figure(figsize=(4 * len(batches) + 2, 0.6 * len(names) + 1.5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    height = 0.8 / len(threads)
    for panel, batch in zip(panels, batches, strict=True):
        for place, count in enumerate(threads):
            chosen = [row for row in rows if row.batch == batch and row.threads == count]
            places = [names.index(_name(row)) for row in chosen]
            bars = panel.barh(
                [each + (place - (len(threads) - 1) / 2) * height for each in places],
                [row.xrays_per_second for row in chosen],
                height,
                label=f"{count} thread{'s' * (count > 1)}" if count else "CUDA",
            )
            panel.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
        panel.set_title(f"batch of {batch}")
        panel.set_xlabel("X-rays a second")
        panel.set_yticks(range(len(names)), names)
        panel.margins(x=0.15)
    panels[0].invert_yaxis()
    panels[-1].legend(loc="lower right", fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    write_bytes(path, stream.getvalue())


def _name(row: Row) -> str:
    words = [row.format, row.precision] + [row.provider] * (row.provider != "cpu")
    return " ".join(words) + " from files" * (row.source == "file")
