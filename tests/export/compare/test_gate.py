"""The gate of lower precisions: X-rays keep their class, and nothing passes unjudged."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from export.compare.gate import NO_XRAYS, gate, gate_samples, with_scope
from toolkit.errors import DataError
from toolkit.train.dataset import load_folder
from toolkit.xray.annotations.patients import PatientRule
from toolkit.xray.annotations.sources import Annotations

CLASSES = ("none", "minimal", "moderate", "severe")


def _logits(classes):
    return np.eye(4, dtype=np.float32)[np.asarray(classes)]


def test_the_gate_counts_classes_recalls_and_kappa():
    labels = np.repeat(np.arange(4), 250)
    same = gate(_logits(labels), _logits(labels), labels, CLASSES)
    assert same.failures == () and same.agreement == 1.0 and same.samples == 1000
    moved = labels.copy()
    moved[:4] = 3  # 0.4 % of all, 1.6 % of the first class
    result = gate(_logits(labels), _logits(moved), labels, CLASSES)
    assert result.agreement == 0.996
    assert result.recall_points == pytest.approx((-1.6, 0, 0, 0))
    said = "recall of none differs by -1.60 points"
    assert any(line.startswith(said) for line in result.failures)
    moved[:6] = 3
    result = gate(_logits(labels), _logits(moved), labels, CLASSES)
    assert "6 of 1000 graded X-rays change their class" in result.failures[0]
    assert any(line.startswith("kappa differs by -") for line in result.failures)


def test_the_gate_is_no_finer_than_the_xrays_of_a_class():
    labels = np.repeat(np.arange(4), (600, 300, 90, 10))
    moved = labels.copy()
    moved[-1] = 2  # one of ten: 10 points
    result = gate(_logits(labels), _logits(moved), labels, CLASSES)
    assert result.failures == () and result.recall_points[3] == pytest.approx(-10)
    assert result.counts == (600, 300, 90, 10)
    assert result.one_xray_points == pytest.approx((1 / 6, 1 / 3, 10 / 9, 10))
    moved[-2] = 2
    (line,) = gate(_logits(labels), _logits(moved), labels, CLASSES).failures
    assert line == "recall of severe differs by -20.00 points, allowed are 10"


def test_the_gate_counts_xrays_that_change_their_scope():
    labels, limit = np.repeat(np.arange(4), 250), 1.5
    same = gate(_logits(labels), _logits(labels), labels, CLASSES)
    novelty = np.linspace(0.5, 2.5, 1000)
    found = with_scope(same, novelty, novelty + 0.005, limit)
    assert found.failures == () and found.scope_agreement == pytest.approx(0.9975, abs=0.001)
    for other in (novelty + 0.02, np.where(novelty < 0.52, np.nan, novelty)):
        found = with_scope(same, novelty, other, limit)
        (line,) = found.failures
        assert "graded X-rays change their in_scope" in line and found.scope_agreement < 0.995


def test_all_graded_xrays_judge_but_those_that_calibrate(small, png_folder):
    grades = (0, 2, 3, 4)
    parts = {"train": 408, "val": 8, "test": 8}
    names = [f"{part}/{grades[i % 4]}/{part}{i}" for part in parts for i in range(parts[part])]
    found = gate_samples(png_folder(*names), replace(small.record, dataset=None))
    held_out = found.held_out()
    assert len(found.calibration) == 300 and len(found.labels) == 124
    assert Counter(held_out.labels.tolist()) == dict.fromkeys(range(4), 4)
    seen = {each.tobytes() for each in (*found.calibration, *found.pixels)}
    assert len(seen) == 424, "none of them twice"


def test_the_gate_passes_nothing_that_it_cannot_judge():
    labels = np.arange(4)
    none = gate(_logits(labels)[:0], _logits(labels)[:0], labels[:0], CLASSES)
    assert none.failures == (NO_XRAYS,)
    spoiled = _logits(labels)
    spoiled[0, 0] = np.nan
    assert "not finite" in gate(_logits(labels), spoiled, labels, CLASSES).failures[0]


def test_xrays_without_parts_to_judge_by_are_refused(small, png_folder):
    flat = png_folder("0/1L", "2/1R", "3/1M")
    with pytest.raises(DataError, match="to calibrate with, and others to judge by"):
        gate_samples(flat, replace(small.record, dataset=None))


def test_xrays_of_a_table_of_patients_are_judged_with_that_table_alone(small, png_folder, tmp_path):
    grades = (0, 2, 3, 4)
    flat = png_folder(*(f"{grades[i % 4]}/shot{i:03d}" for i in range(60)))
    tables = []
    for shift in (0, 7):
        lines = [f"shot{i:03d}.png,p{(i + shift) // 3}" for i in range(60)]
        tables.append(tmp_path / f"{shift}.csv")
        tables[-1].write_text("\n".join(["file,patient", *lines]))
    trained = load_folder(flat, small.record.labels, "patient", 0, PatientRule(None, tables[0]))
    record = replace(small.record, dataset=trained.record())
    found = gate_samples(flat, record, Annotations(groups=tables[0])).held_out()
    others = torch.cat([trained.parts["val"], trained.parts["test"]]).sort().values
    assert np.array_equal(found.pixels, trained.pixels[others].numpy())
    for table, what in ((None, "without"), (tables[1], f"with {tables[1]}")):
        with pytest.raises(DataError, match=f"{what}: give that table with --groups"):
            gate_samples(flat, record, Annotations(groups=table))
