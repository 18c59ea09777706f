"""Hostile and damaged files, decoded in a process that dies of one that takes too long."""

import json
import struct
import subprocess
import sys
from collections import Counter

import pytest
from mutations import mutated
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from xray_files import dicom, noise

# Reads files, each after its length, from stdin; prints what became of each, and its CPU seconds.
# A processor timer ends the process even inside of a decoder.
DECODING = """
import json, signal, struct, sys, time, warnings
import numpy as np, pydicom
from toolkit.errors import ImageError
from toolkit.xray.reading import decode

warnings.simplefilter("ignore")
while head := sys.stdin.buffer.read(4):
    content = sys.stdin.buffer.read(struct.unpack(">I", head)[0])
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 5)
    try:
        xray = decode(content)
        outcome = "decoded"
        assert (xray.shape, xray.dtype) == ((224, 224), np.uint8)
    except ImageError as error:
        outcome = error.code
        assert 400 <= error.status < 500 and "Doe" not in str(error) and chr(10) not in str(error)
    signal.setitimer(signal.ITIMER_PROF, 0)
    peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    print(json.dumps([outcome, time.process_time() - start, peak]))
"""
REFUSALS = {
    *("not_an_image", "too_large", "truncated", "too_many_pixels", "too_small", "aspect"),
    *("animated", "cmyk", "sixteen_bit_colour", "unsupported_mode", "too_many_scans"),
    *("dicom_compressed", "dicom_colour", "dicom_bits", "dicom_window", "no_pixel_data"),
    *("multi_frame", "pixel_aspect", "dicom_incomplete", "damaged"),
}


def outcomes(files, folder):
    """What became of each file, CPU seconds for it, and the peak memory so far, kilobytes."""
    count = 0
    with (folder / "files").open("wb") as packed:
        for content in files:
            packed.write(struct.pack(">I", len(content)) + content)
            count += 1
    with (folder / "files").open("rb") as packed:
        done = subprocess.run([sys.executable, "-c", DECODING], stdin=packed, capture_output=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    said = done.stderr[-999:]
    assert len(found) == count and not said, f"died of file {len(found)}: {done.returncode} {said}"
    return found


@pytest.mark.parametrize(
    ("count", "least"), [(3_000, 12), pytest.param(20_000, 15, marks=pytest.mark.full)]
)
def test_damaged_files_give_an_xray_or_a_refusal_in_bounded_time_and_memory(tmp_path, count, least):
    found = outcomes(mutated(count, seed=count), tmp_path)
    kinds = Counter(outcome for outcome, _, _ in found)
    assert set(kinds) <= REFUSALS | {"decoded"}, kinds
    assert kinds["decoded"] > len(found) / 10, kinds
    assert len(kinds) >= least, kinds
    slowest = max(range(len(found)), key=lambda i: found[i][1])
    settled, peak = found[len(found) // 4][2], found[-1][2]
    report = f"slowest {found[slowest][1]:.3f} s (file {slowest}), peak {peak} kB, {dict(kinds)}"
    assert found[slowest][1] < 3, report
    assert peak < settled + 100_000, report
    assert peak < 400_000, report


def test_damaged_files_are_the_same_wherever_they_are_made():
    assert list(mutated(50, seed=2)) == list(mutated(60, seed=2))[:50]
    assert list(mutated(50, seed=2)) != list(mutated(50, seed=3))


def element(group, number, length, *content):
    return struct.pack("<HHL", group, number, length) + b"".join(content)


OPEN = 0xFFFFFFFF
SEQUENCE, ITEM = element(0x40, 0x275, OPEN), element(0xFFFE, 0xE000, OPEN)
EMPTY_ITEMS, EMPTY = element(0xFFFE, 0xE000, 0) * 2_000_000, element(0x11, 0x1001, 0) * 2_000_000
NAMES = element(8, 5, 16_000_000, b"a\\" * 8_000_000)
FEW_NAMES = element(0xFFFE, 0xE000, 208, element(8, 5, 200, b"a\\" * 100))
HEADERS = {
    "nested sequences": (SEQUENCE + ITEM) * 1_000_000,
    "empty items": SEQUENCE + EMPTY_ITEMS,
    "empty elements": EMPTY,
    "elements without an end": element(0x11, 0x1001, OPEN) * 2_000_000,
    "empty items in a LUT": element(0x28, 0x3010, 16_000_000, EMPTY_ITEMS),
    "a LUT of nothing but elements": element(
        0x28, 0x3010, 16_000_008, element(0xFFFE, 0xE000, 16_000_000, EMPTY)
    ),
    "a number of millions of parts": element(0x28, 0x1050, 16_000_000, b"1\\" * 8_000_000),
    "character sets": NAMES,
    "character sets in a sequence": SEQUENCE + ITEM + NAMES,
    "small lists of character sets": SEQUENCE + FEW_NAMES * 9_000,
    "lengths that lie": element(0x28, 0x1050, 0xFFFFFFF0),
}


EXPLICIT = {
    "character sets as a long text": struct.pack("<HH2sHL", 8, 5, b"UT", 0, 16_000_000) + NAMES[8:],
}


@pytest.mark.parametrize("name", [*HEADERS, *EXPLICIT])
def test_a_header_that_would_keep_the_reader_busy_is_refused(name, tmp_path):
    pixels = noise(70, 80, bits=12)
    syntax = ExplicitVRLittleEndian if name in EXPLICIT else ImplicitVRLittleEndian
    head, tag, rest = dicom(pixels, 12, syntax).partition(struct.pack("<HH", 0x7FE0, 0x10))
    content = head + (HEADERS | EXPLICIT)[name] + tag + rest
    ((outcome, seconds, peak),) = outcomes([content], tmp_path)
    assert outcome in ("decoded", "truncated", "no_pixel_data")
    assert seconds < 3 and peak < 300_000
