"""DICOM files made by pydicom; its own LUTs and windows are the oracle, and fractions."""

import io
import logging
import math
import struct
import subprocess
import sys
import warnings
import zlib
from fractions import Fraction

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)
from xray_files import bounds, dataset, dicom, lut, noise, refusal, saved, smooth, written

from toolkit.errors import ImageError
from toolkit.xray.reading import decode
from toolkit.xray.scaling import square, stretch

PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def rounded(numerator, denominator):
    """Fractions rounded half to even, kept in 0 to 255."""
    return min(max(round(Fraction(numerator) / Fraction(denominator)), 0), 255)


def mapped(values, function):
    """`function` of every value, once for every value that is different."""
    different, places = np.unique(values, return_inverse=True)
    return np.array([function(int(value)) for value in different])[places].reshape(values.shape)


# Stored values


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_stored_values_without_a_window_are_stretched(syntax, bits, signed):
    xray = noise(224, 224, bits=bits, signed=signed)
    assert np.array_equal(decode(dicom(xray, bits, syntax)), stretch(xray))


def test_an_8_bit_xray_of_full_range_comes_through_byte_for_byte():
    xray = noise(224, 224)
    assert np.array_equal(decode(dicom(xray)), xray)


def test_monochrome1_is_inverted():
    xray, kind = noise(224, 224, bits=12), {"PhotometricInterpretation": "MONOCHROME1"}
    assert np.array_equal(decode(dicom(xray, 12, **kind)), 255 - stretch(xray))
    content = dicom(xray, 12, **kind, WindowCenter=9, WindowWidth=1)
    assert np.array_equal(decode(content), np.where(xray > 8, 0, 255))


def test_bits_that_do_not_count_are_left_out():
    xray = noise(224, 224, bits=12)
    assert np.array_equal(decode(dicom(xray | 0xF000, 12)), stretch(xray))
    signed = noise(224, 224, bits=12, signed=True)
    assert np.array_equal(decode(dicom(signed & 0xFFF, 12)), stretch(signed))


def test_8_bit_pixels_in_swapped_words_are_read():
    xray = noise(224, 224)
    words = dataset(xray)
    words["PixelData"].VR = "OW"
    assert np.array_equal(decode(written(words, ExplicitVRBigEndian)), xray)


@pytest.mark.parametrize("shape", [(301, 450), (300, 200), (500, 500), (64, 65), (223, 223)])
def test_the_centre_square_is_brought_to_224(shape):
    for bits in (8, 12):
        xray = noise(*shape, bits=bits)
        assert np.array_equal(decode(dicom(xray, bits)), square(stretch(xray), 224))


# Compressed


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("runs", [False, True])
def test_rle_is_read(bits, signed, runs):
    xray = noise(230, 231, bits=bits, signed=signed)
    if runs:
        xray = np.repeat(xray[:, :3], 77, axis=1)
    assert np.array_equal(decode(dicom(xray, bits, RLELossless)), square(stretch(xray), 224))


@pytest.mark.parametrize("fragments", [1, 5])
def test_jpeg_is_read_from_however_many_fragments(fragments):
    frame = saved(smooth(230, 224), "JPEG", quality=90)
    pixels = np.asarray(Image.open(io.BytesIO(frame)))
    content = dicom(pixels, syntax=JPEGBaseline8Bit, frame=frame, fragments=fragments)
    assert np.array_equal(decode(content), square(stretch(pixels), 224))


def test_a_jpeg_without_part_of_its_data_is_refused_in_dicom_as_well():
    pixels = noise(224, 224)
    frame = saved(pixels, "JPEG", quality=95)
    whole = dicom(pixels, syntax=JPEGBaseline8Bit, frame=frame)
    half = dicom(pixels, syntax=JPEGBaseline8Bit, frame=frame[: len(frame) // 2] + b"\xff\xd9")
    endless = dicom(pixels, syntax=JPEGBaseline8Bit, frame=frame[:-2])
    assert refusal(half) == ("damaged", 422)
    assert np.array_equal(decode(endless), decode(whole))


# Modality LUT and rescale


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), ("0.5", "3.25"), (2, 0)])
def test_a_rescale_goes_before_the_window(slope, intercept):
    xray = noise(224, 224, bits=12)
    rescale = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    content = dicom(xray, 12, **rescale, WindowCenter=100, WindowWidth=801)
    a, b = Fraction(str(slope)), Fraction(str(intercept))
    expected = mapped(xray, lambda v: rounded((v * a + b + Fraction(601, 2)) * 255, 800))
    assert np.array_equal(decode(content), expected)


def test_a_rescale_alone_changes_nothing_unless_it_is_negative():
    xray = noise(224, 224, bits=12)
    content = dicom(xray, 12, RescaleSlope="0.37", RescaleIntercept=-1024)
    assert np.array_equal(decode(content), stretch(xray))
    content = dicom(xray, 12, RescaleSlope=-3, RescaleIntercept=5)
    assert np.array_equal(decode(content), stretch(-xray.astype(int)))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", PLAIN)
def test_a_modality_lut_is_pydicoms(signed, syntax):
    xray = noise(224, 224, bits=12, signed=signed)
    first = -100 if signed else 100
    item = lut(first, noise(2000, bits=14, seed=1), 16, kind="SS" if signed else "US")
    if syntax == ExplicitVRBigEndian:
        item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    knee = dataset(xray, 12, ModalityLUTSequence=[item])
    content = written(knee, syntax)
    expected = apply_modality_lut(xray.astype(int), pydicom.dcmread(io.BytesIO(content)))
    assert np.array_equal(decode(content), stretch(expected))


# VOI LUT and windows


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("length", ["defined", "undefined"])
def test_a_voi_lut_is_pydicoms_over_its_whole_range(bits, signed, length):
    xray = noise(224, 224, bits=12, signed=signed)
    first = -500 if signed else 500
    item = lut(first, noise(3000, bits=bits, seed=1), bits, kind="SS" if signed else "US")
    knee = dataset(xray, 12, VOILUTSequence=[item, lut(0, [0, 1], 8)])
    knee["VOILUTSequence"].is_undefined_length = length == "undefined"
    content = written(knee)
    theirs = apply_voi_lut(xray.astype(np.int32), pydicom.dcmread(io.BytesIO(content)))
    expected = mapped(theirs, lambda v: rounded(v * 255, (1 << bits) - 1))
    assert np.array_equal(decode(content), expected)


def test_a_voi_lut_of_65536_entries_is_read():
    xray = noise(224, 224, bits=16)
    entries = np.arange(65536)[::-1]
    assert np.array_equal(
        decode(dicom(xray, VOILUTSequence=[lut(0, entries, 16)])),
        mapped(xray, lambda v: rounded((65535 - v) * 255, 65535)),
    )


@pytest.mark.parametrize("packed", [False, True])
def test_entries_of_8_bits_may_be_packed(packed):
    xray = noise(224, 224, bits=12)
    entries = noise(3001, seed=1)
    content = dicom(xray, 12, VOILUTSequence=[lut(500, entries, 8, packed=packed)])
    assert np.array_equal(decode(content), entries[(xray.astype(int) - 500).clip(0, 3000)])


def test_a_voi_lut_goes_before_a_window_and_after_a_rescale():
    xray, entries = noise(224, 224), noise(256, seed=1)
    tags = {"VOILUTSequence": [lut(-1000, entries, 8, kind="SS")], "RescaleIntercept": -1000}
    content = dicom(xray, **tags, RescaleSlope=1, WindowCenter=1, WindowWidth=5)
    assert np.array_equal(decode(content), entries[xray])


LINEAR = [(2048, 4096), (1000, 1), (1000, 2), ("700.5", "333.25"), (-50, 300), (9000, 10), (5, 1e6)]


@pytest.mark.parametrize(("centre", "width"), LINEAR)
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT"])
def test_a_window_is_rounded_half_to_even_from_exact_fractions(centre, width, function):
    xray = noise(224, 224, bits=12)
    tags = {"VOILUTFunction": function} if function else {}
    content = dicom(xray, 12, WindowCenter=centre, WindowWidth=width, **tags)
    c, w = Fraction(str(centre)), Fraction(str(width))

    def expected(v):
        if function == "LINEAR_EXACT":
            return rounded((v - (c - w / 2)) * 255, w)
        if v <= c - Fraction(1, 2) - (w - 1) / 2:
            return 0
        if v > c - Fraction(1, 2) + (w - 1) / 2:
            return 255
        return round(((v - (c - Fraction(1, 2))) / (w - 1) + Fraction(1, 2)) * 255)

    assert np.array_equal(decode(content), mapped(xray, expected))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("intercept", [0, -1024])
def test_the_first_window_is_pydicoms_but_for_rounding(function, intercept):
    xray = noise(224, 224, bits=12)
    tags = {"WindowCenter": [900, 1], "WindowWidth": [777, 2], "VOILUTFunction": function}
    knee = dataset(xray, 12, **tags, RescaleSlope=1, RescaleIntercept=intercept)
    theirs = apply_voi_lut(apply_modality_lut(xray, knee), knee)
    theirs = (theirs - intercept) * 255 / 4095
    assert abs(decode(written(knee)) - theirs).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("centre", "width"), [(2048, 1000), (0, "0.5"), (-30, 90000)])
def test_a_sigmoid_is_the_nearest_grey_level(centre, width):
    xray = noise(224, 224, bits=12)
    content = dicom(xray, 12, WindowCenter=centre, WindowWidth=width, VOILUTFunction="SIGMOID")
    c, w = float(centre), float(width)
    expected = mapped(xray, lambda v: round(255 / (1 + math.exp(min(-4 * (v - c) / w, 700)))))
    assert np.array_equal(decode(content), expected)


# What is refused

SMALL = noise(70, 80, bits=12)
COLOURS = ("RGB", "YBR_FULL", "PALETTE COLOR", "YBR_RCT")
REFUSED = {
    "dicom_window": [
        {"WindowCenter": "1e300", "WindowWidth": 5},
        {"WindowCenter": 5, "WindowWidth": 5, "VOILUTFunction": "LOGARITHM"},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"VOILUTSequence": [lut(0, [1, 2], 17)]},
        {"ModalityLUTSequence": [lut(0, [1, 2], 7)]},
    ],
    "dicom_colour": [
        *({"PhotometricInterpretation": kind} for kind in COLOURS),
        {"SamplesPerPixel": 3},
    ],
    "multi_frame": [{"NumberOfFrames": 2}],
    "pixel_aspect": [
        {"PixelAspectRatio": [1, 2]},
        {"PixelSpacing": [0.1, 0.2]},
        {"ImagerPixelSpacing": [0.2, 0.1]},
    ],
    "dicom_bits": [
        {"BitsAllocated": 32},
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
        {"BitsStored": 17, "HighBit": 16},
        {"BitsStored": 0},
        {"HighBit": 15},
        {"PixelRepresentation": 2},
    ],
    "truncated": [{"WindowCenter": [0.5] * 2000, "WindowWidth": 5}],
}


@pytest.mark.parametrize(("code", "tags"), [(c, tags) for c in REFUSED for tags in REFUSED[c]])
def test_tags_that_cannot_be_used_are_refused(code, tags):
    assert refusal(dicom(SMALL, 12, **tags)) == (code, 422)


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelAspectRatio": [2, 2], "ImagerPixelSpacing": [0.139, 0.139]},
        {"NumberOfFrames": 1},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_tags_that_say_what_is_so_anyway_change_nothing(tags):
    assert np.array_equal(decode(dicom(SMALL, 12, **tags)), decode(dicom(SMALL, 12)))


@pytest.mark.parametrize("short", [[1, 2], []])
def test_a_lut_that_is_shorter_than_it_says_is_refused(short):
    item = lut(0, [1, 2, 3], 16)
    item.LUTData = np.asarray(short, "<u2").tobytes()
    assert refusal(dicom(SMALL, 12, VOILUTSequence=[item])) == ("truncated", 422)


@pytest.mark.parametrize("syntax", PLAIN)
def test_a_file_without_pixels_is_refused(syntax):
    gone = dict.fromkeys(("PixelData", "Rows", "PhotometricInterpretation"))
    assert refusal(dicom(SMALL, 12, syntax, **gone)) == ("no_pixel_data", 422)
    assert refusal(dicom(SMALL, 12, syntax, PixelData=b"")) == ("no_pixel_data", 422)


SHAPES = {
    "too_many_pixels": [(4001, 4000), (65535, 65535)],
    "too_small": [(63, 90), (0, 0)],
    "aspect": [(64, 97), (301, 200)],
}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless])
@pytest.mark.parametrize("code", SHAPES)
def test_a_shape_that_is_not_an_xrays_is_refused_by_its_tags(code, syntax):
    plain = dicom(SMALL, 12, syntax, b"none" if syntax.is_encapsulated else b"")
    old = [struct.pack("<HH2sHH", 0x28, *tag) for tag in ((16, b"US", 2, 70), (17, b"US", 2, 80))]
    for shape in SHAPES[code]:
        content = plain
        for tag, side in zip(old, shape, strict=True):
            content = content.replace(tag, tag[:8] + struct.pack("<H", side))
        with bounds(memory=1_000_000):
            assert refusal(content) == (code, 422)


def test_16_megapixels_are_accepted():
    xray = np.zeros((4000, 4000), np.uint8)
    xray[:, 2000:] = 9
    assert np.array_equal(decode(dicom(xray)), np.repeat([[0, 255]], 112, 1).repeat(224, 0))


@pytest.mark.parametrize(
    "syntax", [JPEGLosslessSV1, JPEG2000Lossless, DeflatedExplicitVRLittleEndian]
)
def test_a_transfer_syntax_that_is_not_read_is_refused_by_name(syntax):
    with pytest.raises(ImageError, match=r"JPEG Lossless|JPEG 2000|Deflated") as caught:
        decode(dicom(SMALL, syntax=syntax, frame=b"x" * 99))
    assert caught.value.code == "dicom_compressed"
    assert "save it as Explicit VR Little Endian" in str(caught.value)


@pytest.mark.parametrize("word", ["1.2.3.4.5", "Doe^Jane"])
def test_a_transfer_syntax_that_is_unknown_is_not_quoted(word):
    old = str(ExplicitVRLittleEndian).encode()
    content = dicom(SMALL, 12).replace(old, word.encode().ljust(len(old), b"\0"))
    with pytest.raises(ImageError, match="unknown transfer syntax") as caught:
        decode(content)
    assert caught.value.code == "dicom_compressed"
    assert word not in str(caught.value)


REQUIRED = ["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"]
REQUIRED += ["SamplesPerPixel", "PhotometricInterpretation"]


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("keyword", REQUIRED)
@pytest.mark.parametrize("value", [None, ""])
def test_an_element_that_is_missing_is_named(syntax, keyword, value):
    if value == "" and keyword != "PhotometricInterpretation":
        value = []
    content = dicom(SMALL, 12, syntax, **{keyword: value})
    with pytest.raises(ImageError, match=rf"lacks the DICOM element {keyword}\b") as caught:
        decode(content)
    assert caught.value.code == "dicom_incomplete"


@pytest.mark.parametrize(
    ("keyword", "kind", "value"),
    [
        ("WindowCenter", "DS", b"15,5"),
        ("WindowWidth", "DS", b"wide"),
        ("RescaleSlope", "DS", b"1.0.0 "),
        ("PixelSpacing", "DS", b"0.1\\0,1"),
        ("NumberOfFrames", "IS", b"some"),
        ("NumberOfFrames", "IS", b"1.5 "),
        ("Rows", "LO", b"seventy "),
        ("Rows", "US", b"\x46\0\x46\0"),
    ],
)
def test_an_element_that_cannot_be_read_is_named_and_not_quoted(keyword, kind, value):
    knee = dataset(SMALL, 12, WindowCenter=5, WindowWidth=5)
    knee.add(RawDataElement(Tag(keyword), kind, len(value), value, 0, False, True))
    with pytest.raises(ImageError, match=rf"the DICOM element {keyword} (is no|cannot)") as caught:
        decode(written(knee))
    assert caught.value.code == "dicom_incomplete"
    assert value.strip() not in str(caught.value).encode()


def test_a_word_in_small_letters_means_the_same():
    for word in ("MONOCHROME1", "MONOCHROME2"):
        small = dicom(SMALL, 12).replace(b"MONOCHROME2", word.lower().encode())
        assert np.array_equal(
            decode(small), decode(dicom(SMALL, 12, PhotometricInterpretation=word))
        )


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"%PDF-1.7"]
)
def test_the_preamble_may_be_the_beginning_of_another_kind_of_file(start):
    content = dicom(SMALL, 12)
    assert np.array_equal(decode(start + content[len(start) :]), decode(content))


@pytest.mark.parametrize("syntax", [*PLAIN, RLELossless])
@pytest.mark.parametrize("start", [128, 132])
def test_a_file_without_preamble_is_read(syntax, start):
    content = dicom(SMALL, 12, syntax)
    assert np.array_equal(decode(content[start:]), decode(content))


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("first", ["SpecificCharacterSet", "StudyDate", "SOPClassUID"])
@pytest.mark.parametrize("preamble", [b"", b"DICM", bytes(128) + b"DICM"])
def test_a_data_set_without_header_is_read(syntax, first, preamble):
    xray = dataset(SMALL, 12, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", StudyDate="20200101")
    if first != "SpecificCharacterSet":
        del xray.SpecificCharacterSet
    if first == "StudyDate":
        del xray.SOPClassUID
    content = written(xray, syntax)
    length = struct.unpack_from("<L", content, 140)[0]
    assert np.array_equal(decode(preamble + content[144 + length :]), decode(content))


UNUSABLE = [
    {"WindowCenter": 5},
    {"WindowWidth": 5},
    {"WindowCenter": 0, "WindowWidth": 0},
    {"WindowCenter": 5, "WindowWidth": "0.5"},
    {"WindowCenter": 5, "WindowWidth": -5, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": [5, 6], "WindowWidth": [0, 0]},
]


@pytest.mark.parametrize("tags", UNUSABLE)
def test_a_window_without_width_or_centre_is_as_none(tags):
    assert np.array_equal(decode(dicom(SMALL, 12, **tags)), decode(dicom(SMALL, 12)))


def test_of_several_windows_the_first_that_has_a_width_is_taken():
    windows = {"WindowCenter": [5, 900, 1], "WindowWidth": [0, 777, 2]}
    one = {"WindowCenter": 900, "WindowWidth": 777}
    assert np.array_equal(decode(dicom(SMALL, 12, **windows)), decode(dicom(SMALL, 12, **one)))


# Padding


def framed(xray, value):
    """An X-ray with a border of six pixels, and as bool where the border is not."""
    inside = np.zeros(xray.shape, bool)
    inside[6:-6, 6:-6] = True
    return np.where(inside, xray, xray.dtype.type(value)), inside


def pixels_and_padding(kind):
    """An X-ray, what stands for no pixel in it, how many bits count, and the tags."""
    unsigned = noise(224, 224, bits=10) + np.uint16(1000)
    signed = unsigned.astype(np.int16)
    return {
        "largest": (unsigned, 65535, 16, {"PixelPaddingValue": 65535}),
        "zero": (unsigned, 0, 12, {"PixelPaddingValue": 0}),
        "negative": (signed, -32768, 16, {"PixelPaddingValue": -32768}),
        "negative of 12 bits": (signed, -2000, 12, {"PixelPaddingValue": -2000}),
        "range": (
            signed,
            -1700,
            16,
            {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1500},
        ),
        "range from above": (
            unsigned,
            65000,
            16,
            {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 64000},
        ),
        "outside of the bits": (unsigned, 0xF830, 12, {"PixelPaddingValue": 0xF830}),
    }[kind]


PADDED = ["largest", "zero", "negative", "negative of 12 bits", "range", "range from above"]
PADDED += ["outside of the bits"]
DISPLAYS = [
    {},
    {"PhotometricInterpretation": "MONOCHROME1"},
    {"WindowCenter": 1500, "WindowWidth": 400},
    {"RescaleSlope": -2, "RescaleIntercept": 7},
    {"VOILUTSequence": [lut(1000, np.arange(1024)[::-1], 10)]},
]


@pytest.mark.parametrize("kind", PADDED)
@pytest.mark.parametrize("display", DISPLAYS, ids=[" ".join(d) for d in DISPLAYS])
@pytest.mark.parametrize("syntax", [*PLAIN, RLELossless])
def test_padding_is_black_and_changes_nothing_inside(kind, display, syntax):
    xray, value, bits, tags = pixels_and_padding(kind)
    padded, inside = framed(xray, np.array(value).astype(xray.dtype))
    padded[6, 6:8] = xray[6, 6:8] = 1000, 2023  # all of the range is there with and without
    found = decode(dicom(padded, bits, syntax, **display, **tags))
    expected = decode(dicom(xray, bits, syntax, **display))
    assert np.array_equal(found[inside], expected[inside])
    assert not found[~inside].any()


def test_an_xray_of_padding_alone_is_black():
    content = dicom(np.full((224, 224), 7, np.uint16), 12, PixelPaddingValue=7)
    assert not decode(content).any()


@pytest.mark.parametrize("tags", [{"PixelPaddingValue": 4095}, {"PixelPaddingRangeLimit": 0}])
def test_padding_that_no_pixel_has_or_without_a_value_changes_nothing(tags):
    xray = noise(224, 224, bits=11)
    assert np.array_equal(decode(dicom(xray, 12, **tags)), stretch(xray))


# Memory


def exhausted(*_arguments, **_options):
    raise MemoryError


@pytest.mark.parametrize("place", ["pydicom.filereader.read_dataset", "numpy.frombuffer"])
def test_memory_that_runs_out_is_not_the_files_fault(monkeypatch, place):
    content = dicom(SMALL, 12)
    decode(content)
    monkeypatch.setattr(place, exhausted)
    with pytest.raises(MemoryError):
        decode(content)


@pytest.mark.parametrize("syntax", [*PLAIN, RLELossless, JPEGBaseline8Bit])
def test_a_file_that_is_cut_off_anywhere_is_refused(syntax):
    xray = noise(70, 80)
    content = dicom(xray, None, syntax, saved(xray, "JPEG") if syntax == JPEGBaseline8Bit else b"")
    assert decode(content).shape == (224, 224)
    for length in [*range(132, 900, 5), *range(900, len(content) - 12, 97), len(content) - 12]:
        code, status = refusal(content[:length])
        assert (code in ("truncated", "no_pixel_data"), status) == (True, 422), length


@pytest.mark.parametrize("shape", [(90, 80), (70, 80, 3)])
def test_a_jpeg_of_another_size_or_in_colour_is_refused(shape):
    frame = saved(noise(*shape), "JPEG")
    content = dicom(noise(70, 80), syntax=JPEGBaseline8Bit, frame=frame)
    assert refusal(content) == ("truncated", 422)


# Hostile files


def test_a_deflated_bomb_is_not_inflated():
    uid = DeflatedExplicitVRLittleEndian.encode()
    head = bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    deflating = zlib.compressobj(wbits=-15)
    bomb = b"".join(deflating.compress(bytes(1_000_000)) for _ in range(30)) + deflating.flush()
    with bounds(memory=5_000_000):
        assert refusal(head + bomb) == ("dicom_compressed", 422)


@pytest.mark.parametrize("segments", [0, 2, 15])
def test_run_lengths_in_another_number_of_segments_are_refused(segments):
    frame = struct.pack("<16L", segments, 64, *[0] * 14) + b"\x81\x07" * 100
    assert refusal(dicom(noise(70, 80), syntax=RLELossless, frame=frame)) == ("truncated", 422)


def test_a_run_length_bomb_ends_at_the_size_of_the_xray():
    xray = noise(70, 80)
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x07" * 4_000_000
    content = dicom(xray, syntax=RLELossless, frame=frame)
    with bounds(memory=5 * len(content)):
        assert (decode(content) == 0).all()


def readable(decimals):
    try:
        return [float(part) for part in "\\".join(decimals).split("\\") if part.strip()] or True
    except ValueError:
        return False


KEYWORDS = ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"]
DECIMALS = st.one_of(
    st.floats(allow_subnormal=False).map(lambda v: repr(v)[:16]),
    st.text("0123456789+-.eE \\\\", max_size=16),
)


@given(
    st.dictionaries(st.sampled_from(KEYWORDS), DECIMALS),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_decimals_there_is_an_xray_or_a_refusal(decimals, function):
    knee = dataset(SMALL, 12, VOILUTFunction=function)
    for keyword, value in decimals.items():
        knee.add(RawDataElement(Tag(keyword), "DS", len(value), value.encode(), 0, False, True))
    try:
        code = decode(written(knee)).shape == (224, 224)
    except ImageError as error:
        code = error.code
    numbers = readable(decimals.values())
    assert code in (True, "dicom_window", *(() if numbers else ("dicom_incomplete",)))


# Quiet, and without the extra


def test_nothing_of_a_patient_is_logged_warned_of_or_kept_in_an_error(caplog, capfd):
    content = dicom(noise(224, 224, bits=12), 12).replace(b"ISO_IR 100", b"Doe^Jane\0\0")
    strange = content.replace(b"\x28\0\x10\0US\2\0", b"\x28\0\x10\0DS\1\0")
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(content)
        for bad in (content[: len(content) - 500], content[:600], strange):
            with pytest.raises(ImageError) as caught:
                decode(bad)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("pydicom").disabled


def test_without_pydicom_a_dicom_file_is_refused_with_the_mend(monkeypatch):
    content = dicom(SMALL, 12)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match=r"pip install 'toolkit\[dicom\]'") as caught:
        decode(content)
    assert (caught.value.code, caught.value.status) == ("dicom_not_installed", 415)


def test_pydicom_is_imported_for_dicom_files_alone():
    script = (
        "import io, sys; from PIL import Image; from toolkit.xray.reading import decode\n"
        "file = io.BytesIO(); Image.new('L', (99, 99)).save(file, 'PNG')\n"
        "decode(file.getvalue()); assert 'pydicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
