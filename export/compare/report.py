"""The verdict as files: NAME.equivalence.json, and a self-contained NAME.equivalence.html."""

import base64
import html
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.compare.measurement import HISTOGRAM_EDGES
from export.compare.verdict import Verdict
from toolkit.files import write_bytes
from toolkit.model.equivalence import Leg
from toolkit.model.files import ModelFiles
from toolkit.xray.pictures import encode

_SHOWN_FLIPS = 24
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.ok{color:#05622f}.bad{color:#a3001c;font-weight:600}
code{font-size:.85em;overflow-wrap:anywhere}
figure{display:inline-block;margin:.5rem;width:15rem;font-size:.85rem;vertical-align:top}
img{width:100%;image-rendering:pixelated}
"""


def as_dict(result: Verdict) -> dict[str, Any]:
    """Return a verdict as plain values for JSON."""
    record = result.record
    return {
        "name": record.name,
        "passed": result.passed,
        "checkpoint_sha256": record.training.checkpoint_sha256,
        "inputs": result.inputs.counts(),
        "versions": record.equivalence.versions if record.equivalence else {},
        "histogram_edges": list(HISTOGRAM_EDGES),
        "legs": {kind: asdict(leg) for kind, leg in result.all_legs.items()},
        "health": [asdict(finding) for finding in result.findings],
    }


def write_report(result: Verdict, files: ModelFiles, folder: Path | None = None) -> Path:
    """Write both files into `folder`, else beside the model; return the path of the page.

    Raises:
        UsageError: the folder cannot be written.
    """
    files = ModelFiles(folder or files.folder, files.name)
    content = json.dumps(as_dict(result), indent=2, allow_nan=False)
    write_bytes(files.path("report"), f"{content}\n".encode())
    page = files.path("page")
    write_bytes(page, _page(result).encode())
    return page


def _page(result: Verdict) -> str:
    name = html.escape(result.record.name)
    inputs = ", ".join(f"{count} {kind}" for kind, count in result.inputs.counts().items())
    findings = "".join(f"<li>{html.escape(each.text)}</li>" for each in result.findings)
    sections = "".join(_section(kind, leg, result) for kind, leg in result.all_legs.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Equivalence of {name}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Equivalence of {name}: {_verdict(result.passed)}</h1>"
        f"<p>Compared with PyTorch eager on {html.escape(inputs)} X-rays. Checkpoint "
        f"<code>{result.record.training.checkpoint_sha256}</code>.</p>"
        f"<h2>Health of the model</h2><ul>{findings or '<li>Nothing found.</li>'}</ul>"
        f"{sections}</body></html>\n"
    )


def _verdict(passed: bool) -> str:
    return '<span class="ok">passed</span>' if passed else '<span class="bad">failed</span>'


def _section(kind: str, leg: Leg, result: Verdict) -> str:
    head = "<tr><th>output<th>max<th>mean<th>99 %<th>ULP<th>allowed<th>verdict</tr>"
    rows = "".join(
        f"<tr><td>{html.escape(each.output)}<td class=n>{each.max_abs:.3g}"
        f"<td class=n>{each.mean_abs:.3g}<td class=n>{each.p99_abs:.3g}"
        f"<td class=n>{each.max_ulp:.0f}<td>{html.escape(each.allowed)}"
        f"<td>{_verdict(each.passed)}</tr>"
        for each in leg.outputs
    )
    failures = "".join(f'<li class="bad">{html.escape(line)}</li>' for line in leg.failures)
    return (
        f"<h2>{html.escape(kind)}: {_verdict(leg.passed)}</h2>"
        f"<p><code>{html.escape(leg.file)}</code>, SHA-256 <code>{leg.sha256}</code>, run by "
        f"{html.escape(leg.provider)}; {html.escape(', '.join(leg.settings))}. Same class for "
        f"{leg.argmax_agreement:.2%}; the same X-ray in other batches differs by at most "
        f"{leg.batch_invariance:.2g}.</p><ul>{failures}</ul><table>{head}{rows}</table>"
        + "".join(_histogram(each.output, each.histogram) for each in leg.outputs)
        + _flips(leg, result)
    )


def _histogram(output: str, counts: tuple[int, ...]) -> str:
    """Draw the differences as bars, one for each power of ten, on a square-root scale."""
    largest = max(max(counts, default=0), 1)
    labels = ["<1e-9", *(f"≥{edge:.0e}" for edge in HISTOGRAM_EDGES)]
    bars = "".join(
        f'<rect x="{12 + 58 * i}" y="{100 - 70 * (count / largest) ** 0.5:.1f}" width="46" '
        f'height="{70 * (count / largest) ** 0.5:.1f}" fill="#33658a"/>'
        f'<text x="{35 + 58 * i}" y="114" text-anchor="middle">{label}</text>'
        f'<text x="{35 + 58 * i}" y="{95 - 70 * (count / largest) ** 0.5:.1f}" '
        f'text-anchor="middle">{count or ""}</text>'
        for i, (label, count) in enumerate(zip(labels, counts, strict=False))
    )
    return (
        f'<svg viewBox="0 0 600 120" role="img" font-size="10" aria-label="Histogram of the '
        f'differences of {html.escape(output)}"><text x="0" y="10">{html.escape(output)}: '
        f"absolute differences</text>{bars}</svg>"
    )


def _flips(leg: Leg, result: Verdict) -> str:
    if not leg.flips:
        return "<p>No X-ray is put in another class.</p>"
    figures = []
    for flip in leg.flips[:_SHOWN_FLIPS]:
        judged = "a tie" if flip.tie else "a fault"
        shown = ""
        if result.inputs.kinds[flip.sample : flip.sample + 1] == (flip.kind,):
            shown = _picture(result, flip.sample)
        figures.append(
            f"<figure>{shown}<figcaption>number {flip.sample} ({html.escape(flip.kind)}) "
            f"{html.escape(flip.setting)}: margin {flip.margin:.3g}, error {flip.error:.3g}: "
            f"{judged}</figcaption></figure>"
        )
    return f"<h3>{len(leg.flips)} put in another class</h3>" + "".join(figures)


def _picture(result: Verdict, sample: int) -> str:
    encoded = base64.b64encode(encode(result.inputs.pixels[sample])).decode()
    return f'<img alt="X-ray number {sample}" src="data:image/png;base64,{encoded}">'
