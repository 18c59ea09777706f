"""What a comparison came to: for the manifest, as JSON and as a page that stands alone."""

import base64
import html
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from export.compare.measurement import HISTOGRAM_EDGES
from export.compare.samples import Samples
from toolkit.extras import versions
from toolkit.files import write_bytes
from toolkit.model.artifacts import answers_sha256
from toolkit.model.equivalence import EquivalenceRecord, Gate, Leg
from toolkit.model.files import ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.train.health import Finding
from toolkit.xray.pictures import encode

OPTIONAL = frozenset({"torchscript", "pt2", "fp16", "int8"})
"""Legs without which a model is served none the less."""
_MOST_FLIPS = 24
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


@dataclass(frozen=True)
class Equivalence:
    """What an export or a verification came to.

    Attributes:
        record: the manifest, with the equivalence of its files.
        legs: the comparisons of this run, by kind; `service` for a running one.
        samples: the X-rays that went through.
        findings: what is wrong with the model itself.
        unkept: why the record could not be saved; empty where it was.
        unreached: why the running service could not be compared; empty where it was, or none is.
    """

    record: Manifest
    legs: dict[str, Leg]
    samples: Samples
    findings: tuple[Finding, ...]
    unkept: str = ""
    unreached: str = ""

    @property
    def passed(self) -> bool:
        """Whether every leg of this run is equal to PyTorch."""
        return all(leg.passed for leg in self.legs.values())

    @property
    def failures(self) -> list[str]:
        """A line for each thing that differed in this run, its leg first."""
        return [f"{kind}: {line}" for kind, leg in self.legs.items() for line in leg.failures]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the legs of this run, and those kept of other files."""
        record, kept = self.record, self.record.equivalence
        return {
            "name": record.name,
            "passed": self.passed,
            "checkpoint_sha256": record.training.checkpoint_sha256,
            "inputs": self.samples.counts(),
            "versions": kept.versions if kept else {},
            "histogram_edges": list(HISTOGRAM_EDGES),
            "legs": {kind: asdict(leg) for kind, leg in self.all_legs.items()},
            "health": [asdict(finding) for finding in self.findings],
        }

    @property
    def all_legs(self) -> dict[str, Leg]:
        """The legs of this run, and those that the manifest keeps of other files."""
        return (self.record.equivalence.legs if self.record.equivalence else {}) | self.legs


def equivalence_record(
    record: Manifest, legs: dict[str, Leg], inputs: dict[str, int]
) -> EquivalenceRecord:
    """Return what a manifest keeps: passed if no leg failed that a served model needs.

    Args:
        record: the manifest that the legs were compared under.
        legs: by kind.
        inputs: how many X-rays of each kind went through.
    """
    passed = all(leg.passed for kind, leg in legs.items() if kind not in OPTIONAL)
    verdict = EquivalenceRecord(passed, legs, inputs, current_versions())
    whole = replace(record, equivalence=verdict)
    return replace(verdict, answers_sha256=answers_sha256(whole))


def current_versions() -> dict[str, str]:
    """Return the versions of what compares, by name."""
    found = versions("toolkit", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")
    return {"torch": torch.__version__} | found


def write_report(result: Equivalence, files: ModelFiles, folder: Path | None = None) -> Path:
    """Write both files into `folder`, else beside the model; return the path of the page.

    Raises:
        UsageError: the folder cannot be written.
    """
    files = ModelFiles(folder or files.folder, files.name)
    content = json.dumps(result.as_dict(), indent=2, allow_nan=False)
    write_bytes(files.path("report"), f"{content}\n".encode())
    page = files.path("page")
    write_bytes(page, _page(result).encode())
    return page


def _page(result: Equivalence) -> str:
    name = html.escape(result.record.name)
    inputs = ", ".join(f"{count} {kind}" for kind, count in result.samples.counts().items())
    findings = "".join(f"<li>{html.escape(one.text)}</li>" for one in result.findings)
    sections = "".join(_section(kind, leg, result) for kind, leg in result.all_legs.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Equivalence of {name}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Equivalence of {name}: {_status(result.passed)}</h1>"
        f"<p>Compared with PyTorch eager on {html.escape(inputs)} X-rays. Checkpoint "
        f"<code>{result.record.training.checkpoint_sha256}</code>.</p>"
        f"<h2>Health of the model</h2><ul>{findings or '<li>Nothing found.</li>'}</ul>"
        f"{sections}</body></html>\n"
    )


def _status(passed: bool) -> str:
    return '<span class="ok">passed</span>' if passed else '<span class="bad">failed</span>'


def _section(kind: str, leg: Leg, result: Equivalence) -> str:
    head = "<tr><th>output<th>max<th>mean<th>99 %<th>ULP<th>allowed<th>result</tr>"
    rows = "".join(
        f"<tr><td>{html.escape(output.output)}<td class=n>{output.max_abs:.3g}"
        f"<td class=n>{output.mean_abs:.3g}<td class=n>{output.p99_abs:.3g}"
        f"<td class=n>{output.max_ulp:.0f}<td>{html.escape(output.allowed)}"
        f"<td>{_status(output.passed)}</tr>"
        for output in leg.outputs
    )
    failures = "".join(f'<li class="bad">{html.escape(line)}</li>' for line in leg.failures)
    return (
        f"<h2>{html.escape(kind)}: {_status(leg.passed)}</h2>"
        f"<p><code>{html.escape(leg.file)}</code>, SHA-256 <code>{leg.sha256}</code>, run by "
        f"{html.escape(leg.provider)}; {html.escape(', '.join(leg.settings))}. Same class for "
        f"{leg.argmax_agreement:.2%}; the same X-ray in other batches differs by at most "
        f"{leg.batch_invariance:.2g}.</p><ul>{failures}</ul><table>{head}{rows}</table>"
        + (_gate(leg.gate, result) if leg.gate else "")
        + "".join(_histogram(output.output, output.histogram) for output in leg.outputs)
        + _flips(leg, result)
    )


def _gate(judged: Gate, result: Equivalence) -> str:
    """Say on how many graded X-rays a precision was judged, and how fine they could tell."""
    scope = judged.scope_agreement
    kept = "" if scope is None else f" and {scope:.2%} their <code>in_scope</code>"
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td class=n>{count}<td class=n>{_points(points, '+')}"
        f"<td class=n>{_points(step)}</tr>"
        for name, count, points, step in zip(
            result.record.labels.classes,
            judged.counts,
            judged.recall_points,
            judged.one_xray_points,
            # Records of former versions have no counts.
            strict=False,
        )
    )
    return (
        f"<p>Judged on {judged.samples} graded X-rays that did not calibrate it: "
        f"{judged.agreement:.2%} keep their class{kept}; kappa moves by "
        f"{_points(judged.kappa_points, '+')} points. One of them is "
        f"{_points(100 / max(judged.samples, 1))} points.</p><table><tr><th>class<th>X-rays"
        f"<th>recall moves by, points<th>one X-ray is, points</tr>{rows}</table>"
    )


def _points(value: float | None, sign: str = "") -> str:
    return "—" if value is None else f"{value:{sign}.2f}"


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


def _flips(leg: Leg, result: Equivalence) -> str:
    if not leg.flips:
        return "<p>No X-ray is put in another class.</p>"
    figures = []
    for flip in leg.flips[:_MOST_FLIPS]:
        cause = "a tie" if flip.tie else "a fault"
        picture = ""
        # A service's own X-rays come after the samples.
        if result.samples.kinds[flip.sample : flip.sample + 1] == (flip.kind,):
            picture = _picture(result, flip.sample)
        figures.append(
            f"<figure>{picture}<figcaption>number {flip.sample} ({html.escape(flip.kind)}) "
            f"{html.escape(flip.setting)}: margin {flip.margin:.3g}, error {flip.error:.3g}: "
            f"{cause}</figcaption></figure>"
        )
    return f"<h3>{len(leg.flips)} put in another class</h3>" + "".join(figures)


def _picture(result: Equivalence, sample: int) -> str:
    content = base64.b64encode(encode(result.samples.pixels[sample])).decode()
    return f'<img alt="X-ray number {sample}" src="data:image/png;base64,{content}">'
