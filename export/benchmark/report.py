"""The benchmark's table as text, as JSON and as a picture."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.benchmark.table import Row, ratios
from toolkit.extras import require
from toolkit.files import write_bytes

_HEAD = (
    f"{'format':15}{'precision':10}{'provider':11}{'from':7}{'threads':>7}{'batch':>6}{'ms':>8}"
    f"{'X-rays/s':>10}{'KiB':>7}{'accuracy':>9}{'kappa':>7}{'agrees':>9}"
)


def write_report(rows: Sequence[Row], name: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Write NAME.json and NAME.png, and return the JSON's content and the picture's path.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        UsageError: the folder cannot be written.
    """
    content = {"name": name, "rows": [asdict(row) for row in rows], "ratios": ratios(rows)}
    picture = folder / f"{name}.png"
    write_bytes(folder / f"{name}.json", f"{json.dumps(content, indent=2)}\n".encode())
    write_bytes(picture, draw(rows, f"{name}: from X-rays to probabilities"))
    return content, picture


def text(rows: Sequence[Row]) -> str:
    """Return the table and its ratios in lines."""
    lines = [
        f"{row.format:15}{row.precision:10}{row.provider:11}{row.source:7}{row.threads:7}"
        f"{row.batch:6}{row.ms:8.2f}{row.xrays_per_second:10.0f}"
        f"{_cell(row.bytes and row.bytes / 1024, '.0f'):>7}{_cell(row.accuracy, '.1%'):>9}"
        f"{_cell(row.kappa, '.3f'):>7}{row.agreement:9.2%}"
        for row in rows
    ]
    return "\n".join(
        [_HEAD, *lines, *(f"{what}: {ratio:.2f}x" for what, ratio in ratios(rows).items())]
    )


def draw(rows: Sequence[Row], title: str) -> bytes:
    """Return a PNG with X-rays a second for each contender, a panel for each batch size.

    Raises:
        MissingExtraError: Matplotlib is not installed.
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
            offset = (place - (len(threads) - 1) / 2) * height
            bars = panel.barh(
                [names.index(_name(row)) + offset for row in chosen],
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
    return stream.getvalue()


def _name(row: Row) -> str:
    words = [row.format, row.precision] + [row.provider] * (row.provider != "cpu")
    return " ".join(words) + " from files" * (row.source == "file")


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
