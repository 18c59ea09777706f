"""Decodes files in a process of their own, which dies of one that takes too long."""

import json
import struct
import subprocess
import sys
from collections import Counter

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


def assert_bounded(found, least):
    """Hold what became of many damaged files against what may: refusals, time and memory.

    `least` kinds of outcomes must be among them.
    """
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
