"""Hostile and damaged files, decoded in a process that dies of one that takes too long."""

import struct

import pytest
from decoding import assert_bounded, outcomes
from mutations import mutated
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from xray_files import dicom, noise


def test_damaged_files_give_an_xray_or_a_refusal_in_bounded_time_and_memory(tmp_path):
    assert_bounded(outcomes(mutated(3_000, seed=3_000), tmp_path), 12)


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
