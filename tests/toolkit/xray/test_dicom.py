"""DICOM files made by pydicom; its own LUTs and windows are the oracle, and fractions."""

import io
import logging
import math
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from toolkit.errors import ImageError
from toolkit.xray import reading
from toolkit.xray.reading import decode, read_xray
from toolkit.xray.scaling import square, stretch

PATIENT = "Doe^Jane"
PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def noise(*shape, bits=8, seed=0, signed=False):
    low = -(1 << bits - 1) if signed else 0
    values = np.random.default_rng(seed).integers(low, low + (1 << bits), shape)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def dataset(pixels, bits=None, **tags):
    """An X-ray of those stored values, integers (height, width), with more tags by keyword."""
    each = Dataset()
    each.SpecificCharacterSet = "ISO_IR 100"
    each.PatientName = PATIENT
    each.SamplesPerPixel = 1
    each.PhotometricInterpretation = "MONOCHROME2"
    each.Rows, each.Columns = pixels.shape
    each.BitsAllocated = 8 * pixels.itemsize
    each.BitsStored = bits or each.BitsAllocated
    each.HighBit = each.BitsStored - 1
    each.PixelRepresentation = int(pixels.dtype.kind == "i")
    each.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    each["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    for keyword, value in tags.items():
        if value is None:
            delattr(each, keyword)
        else:
            setattr(each, keyword, value)
    return each


def saved(each, syntax=ExplicitVRLittleEndian):
    each.file_meta = FileMetaDataset()
    each.file_meta.TransferSyntaxUID = syntax
    each.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    each.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    if syntax == ExplicitVRBigEndian:
        kind = each.PixelData and each["PixelData"].VR
        if kind == "OW":
            each.PixelData = np.frombuffer(each.PixelData, "<u2").astype(">u2").tobytes()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(file, each, enforce_file_format=True)
    return file.getvalue()


def made(pixels, bits=None, syntax=ExplicitVRLittleEndian, **tags):
    return saved(dataset(pixels, bits, **tags), syntax)


def compressed(pixels, frame, syntax, bits=None, **tags):
    each = dataset(pixels, bits, **tags)
    each.PixelData = encapsulate([frame])
    each["PixelData"].VR = "OB"
    each["PixelData"].is_undefined_length = True
    return saved(each, syntax)


def lut(first, entries, bits, kind="US", packed=False):
    item = Dataset()
    item.add_new("LUTDescriptor", kind, [len(entries) % 65536, first, bits])
    content = np.asarray(entries, "u1" if packed else "<u2").tobytes()
    item.add_new("LUTData", "OW", content + bytes(len(content) % 2))
    return item


def refusal(content):
    with pytest.raises(ImageError) as caught:
        decode(content)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 200
    assert "Doe" not in message
    return caught.value.code, caught.value.status


@contextmanager
def refused():
    """Gives a list that holds, afterwards, the code of a refusal if there was one."""
    codes = []
    try:
        yield codes
    except ImageError as error:
        codes.append(error.code)


def rounded(numerator, denominator):
    """Fractions rounded half to even, kept in 0 to 255."""
    return min(max(round(Fraction(numerator) / Fraction(denominator)), 0), 255)


def mapped(values, function):
    """`function` of every value, once for each that is different."""
    different, places = np.unique(values, return_inverse=True)
    return np.array([function(int(each)) for each in different])[places].reshape(values.shape)


# Stored values


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_stored_values_without_a_window_are_stretched(syntax, bits, signed):
    xray = noise(224, 224, bits=bits, signed=signed)
    assert np.array_equal(decode(made(xray, bits, syntax)), stretch(xray))


def test_an_8_bit_xray_of_full_range_comes_through_byte_for_byte():
    xray = noise(224, 224)
    assert np.array_equal(decode(made(xray)), xray)


def test_monochrome1_is_inverted():
    xray = noise(224, 224, bits=12)
    content = made(xray, 12, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode(content), 255 - stretch(xray))
    content = made(xray, 12, PhotometricInterpretation="MONOCHROME1", WindowCenter=9, WindowWidth=1)
    assert np.array_equal(decode(content), np.where(xray > 8, 0, 255))


def test_bits_that_do_not_count_are_left_out():
    xray = noise(224, 224, bits=12)
    assert np.array_equal(decode(made(xray | 0xF000, 12)), stretch(xray))
    signed = noise(224, 224, bits=12, signed=True)
    assert np.array_equal(decode(made(signed & 0xFFF, 12)), stretch(signed))


def test_8_bit_pixels_in_swapped_words_are_read():
    xray = noise(224, 224)
    each = dataset(xray)
    each["PixelData"].VR = "OW"
    assert np.array_equal(decode(saved(each, ExplicitVRBigEndian)), xray)


@pytest.mark.parametrize("shape", [(301, 450), (300, 200), (500, 500), (64, 65)])
def test_the_centre_square_is_brought_to_224(shape):
    xray = noise(*shape, bits=12)
    assert np.array_equal(decode(made(xray, 12)), square(stretch(xray), 224))


def test_an_odd_number_of_bytes_is_padded():
    xray = noise(223, 223)
    assert np.array_equal(decode(made(xray)), square(stretch(xray), 224))


def test_a_file_is_read_as_its_bytes_are_decoded(tmp_path):
    path = tmp_path / "knee.dcm"
    path.write_bytes(made(noise(224, 224, bits=12), 12))
    assert np.array_equal(read_xray(path), decode(path.read_bytes()))


# Compressed


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("runs", [False, True])
def test_rle_is_read(bits, signed, runs):
    xray = noise(230, 231, bits=bits, signed=signed)
    if runs:
        xray = np.repeat(xray[:, :3], 77, axis=1)
    each = dataset(xray, bits)
    each.file_meta = FileMetaDataset()
    each.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    each.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(decode(saved(each, RLELossless)), square(stretch(xray), 224))


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def test_jpeg_is_read():
    xray = np.asarray(Image.fromarray(noise(8, 8)).resize((224, 230), Image.Resampling.BICUBIC))
    frame = encoded(xray, "JPEG", quality=90)
    expected = square(stretch(np.asarray(Image.open(io.BytesIO(frame)))), 224)
    assert np.array_equal(decode(compressed(xray, frame, JPEGBaseline8Bit)), expected)


def test_a_frame_in_fragments_is_put_together():
    xray = noise(224, 224)
    frame = encoded(xray, "JPEG")
    each = dataset(xray)
    each.PixelData = encapsulate([frame], fragments_per_frame=5)
    each["PixelData"].VR = "OB"
    each["PixelData"].is_undefined_length = True
    whole = decode(compressed(xray, frame, JPEGBaseline8Bit))
    assert np.array_equal(decode(saved(each, JPEGBaseline8Bit)), whole)


# Modality LUT and rescale


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), ("0.5", "3.25"), (2, 0)])
def test_a_rescale_goes_before_the_window(slope, intercept):
    xray = noise(224, 224, bits=12)
    content = made(
        xray,
        12,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=100,
        WindowWidth=801,
    )
    rescaled = lambda v: v * Fraction(str(slope)) + Fraction(str(intercept))  # noqa: E731
    expected = mapped(xray, lambda v: rounded((rescaled(v) + Fraction(601, 2) - 0) * 255, 800))
    assert np.array_equal(decode(content), expected)


def test_a_rescale_alone_changes_nothing_unless_it_is_negative():
    xray = noise(224, 224, bits=12)
    content = made(xray, 12, RescaleSlope="0.37", RescaleIntercept=-1024)
    assert np.array_equal(decode(content), stretch(xray))
    content = made(xray, 12, RescaleSlope=-3, RescaleIntercept=5)
    assert np.array_equal(decode(content), stretch(-xray.astype(int)))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", PLAIN)
def test_a_modality_lut_is_pydicoms(signed, syntax):
    xray = noise(224, 224, bits=12, signed=signed)
    first = -100 if signed else 100
    item = lut(first, noise(2000, bits=14, seed=1), 16, kind="SS" if signed else "US")
    if syntax == ExplicitVRBigEndian:
        item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    each = dataset(xray, 12, ModalityLUTSequence=[item])
    content = saved(each, syntax)
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
    each = dataset(xray, 12, VOILUTSequence=[item, lut(0, [0, 1], 8)])
    each["VOILUTSequence"].is_undefined_length = length == "undefined"
    content = saved(each)
    theirs = apply_voi_lut(xray.astype(np.int32), pydicom.dcmread(io.BytesIO(content)))
    expected = mapped(theirs, lambda v: rounded(v * 255, (1 << bits) - 1))
    assert np.array_equal(decode(content), expected)


def test_a_voi_lut_of_65536_entries_is_read():
    xray = noise(224, 224, bits=16)
    entries = np.arange(65536)[::-1]
    assert np.array_equal(
        decode(made(xray, VOILUTSequence=[lut(0, entries, 16)])),
        mapped(xray, lambda v: rounded((65535 - v) * 255, 65535)),
    )


@pytest.mark.parametrize("packed", [False, True])
def test_entries_of_8_bits_may_be_packed(packed):
    xray = noise(224, 224, bits=12)
    entries = noise(3001, seed=1)
    content = made(xray, 12, VOILUTSequence=[lut(500, entries, 8, packed=packed)])
    assert np.array_equal(decode(content), entries[(xray.astype(int) - 500).clip(0, 3000)])


def test_a_voi_lut_goes_before_a_window_and_after_a_rescale():
    xray = noise(224, 224)
    entries = noise(256, seed=1)
    content = made(
        xray,
        RescaleSlope=1,
        RescaleIntercept=-1000,
        VOILUTSequence=[lut(-1000, entries, 8, kind="SS")],
        WindowCenter=1,
        WindowWidth=5,
    )
    assert np.array_equal(decode(content), entries[xray])


LINEAR = [(2048, 4096), (1000, 1), (1000, 2), ("700.5", "333.25"), (-50, 300), (9000, 10), (5, 1e6)]


@pytest.mark.parametrize(("centre", "width"), LINEAR)
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT"])
def test_a_window_is_rounded_half_to_even_from_exact_fractions(centre, width, function):
    xray = noise(224, 224, bits=12)
    tags = {"VOILUTFunction": function} if function else {}
    content = made(xray, 12, WindowCenter=centre, WindowWidth=width, **tags)
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
def test_a_window_is_pydicoms_but_for_rounding(function, intercept):
    xray = noise(224, 224, bits=12)
    each = dataset(
        xray,
        12,
        WindowCenter=[900, 1],
        WindowWidth=[777, 2],
        VOILUTFunction=function,
        RescaleSlope=1,
        RescaleIntercept=intercept,
    )
    theirs = apply_voi_lut(apply_modality_lut(xray, each), each)
    theirs = (theirs - intercept) * 255 / 4095
    assert abs(decode(saved(each)) - theirs).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("centre", "width"), [(2048, 1000), (0, "0.5"), (-30, 90000)])
def test_a_sigmoid_is_the_nearest_grey_level(centre, width):
    xray = noise(224, 224, bits=12)
    content = made(xray, 12, WindowCenter=centre, WindowWidth=width, VOILUTFunction="SIGMOID")
    c, w = float(centre), float(width)
    expected = mapped(xray, lambda v: round(255 / (1 + math.exp(min(-4 * (v - c) / w, 700)))))
    assert np.array_equal(decode(content), expected)


def test_the_first_of_several_windows_is_taken():
    xray = noise(224, 224, bits=12)
    several = made(xray, 12, WindowCenter=[900, 5], WindowWidth=[500, 7])
    assert np.array_equal(
        decode(several), decode(made(xray, 12, WindowCenter=900, WindowWidth=500))
    )


def test_an_empty_window_is_none():
    xray = noise(224, 224, bits=12)
    content = made(xray, 12, WindowCenter="", WindowWidth="")
    assert np.array_equal(decode(content), stretch(xray))


# What is refused

SMALL = noise(70, 80, bits=12)
WINDOWS = [
    {"WindowCenter": 5},
    {"WindowWidth": 5},
    {"WindowCenter": 5, "WindowWidth": 0},
    {"WindowCenter": 5, "WindowWidth": "0.5"},
    {"WindowCenter": 5, "WindowWidth": -5, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": "1e300", "WindowWidth": 5},
    {"WindowCenter": 5, "WindowWidth": 5, "VOILUTFunction": "LOGARITHM"},
    {"RescaleSlope": 0, "RescaleIntercept": 0},
    {"VOILUTSequence": [lut(0, [1, 2], 17)]},
    {"ModalityLUTSequence": [lut(0, [1, 2], 7)]},
]


@pytest.mark.parametrize("tags", WINDOWS)
def test_a_window_rescale_or_lut_that_cannot_be_used_is_refused(tags):
    assert refusal(made(SMALL, 12, **tags)) == ("dicom_window", 422)


@pytest.mark.parametrize("short", [[1, 2], []])
def test_a_lut_that_is_shorter_than_it_says_is_refused(short):
    item = lut(0, [1, 2, 3], 16)
    item.LUTData = np.asarray(short, "<u2").tobytes()
    assert refusal(made(SMALL, 12, VOILUTSequence=[item])) == ("truncated", 422)


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL", "PALETTE COLOR", "YBR_RCT", ""])
def test_colour_is_refused(kind):
    assert refusal(made(SMALL, 12, PhotometricInterpretation=kind)) == ("dicom_colour", 422)


def test_several_samples_a_pixel_are_refused():
    assert refusal(made(SMALL, 12, SamplesPerPixel=3)) == ("dicom_colour", 422)


def test_several_frames_are_refused_and_one_is_not():
    assert refusal(made(SMALL, 12, NumberOfFrames=2)) == ("multi_frame", 422)
    assert np.array_equal(decode(made(SMALL, 12, NumberOfFrames=1)), decode(made(SMALL, 12)))


@pytest.mark.parametrize("syntax", PLAIN)
def test_a_file_without_pixels_is_refused(syntax):
    each = dataset(SMALL, 12)
    del each.PixelData, each.Rows, each.PhotometricInterpretation
    each.file_meta = FileMetaDataset()
    assert refusal(saved_without_pixels(each, syntax)) == ("no_pixel_data", 422)


def saved_without_pixels(each, syntax):
    each.file_meta.TransferSyntaxUID = syntax
    each.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.88.11")
    each.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    file = io.BytesIO()
    pydicom.dcmwrite(file, each, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelAspectRatio": [1, 2]},
        {"PixelSpacing": [0.1, 0.2]},
        {"ImagerPixelSpacing": [0.2, 0.1]},
    ],
)
def test_pixels_that_are_not_square_are_refused(tags):
    assert refusal(made(SMALL, 12, **tags)) == ("pixel_aspect", 422)


def test_square_pixels_may_be_said_to_be_square():
    tags = {"PixelAspectRatio": [2, 2], "ImagerPixelSpacing": [0.139, 0.139]}
    assert np.array_equal(decode(made(SMALL, 12, **tags)), decode(made(SMALL, 12)))


@pytest.mark.parametrize(
    "tags",
    [
        {"BitsAllocated": 32},
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
        {"BitsStored": 17, "HighBit": 16},
        {"BitsStored": 0},
        {"HighBit": 15},
        {"PixelRepresentation": 2},
    ],
)
def test_other_depths_are_refused(tags):
    assert refusal(made(SMALL, 12, **tags)) == ("dicom_bits", 422)


@pytest.mark.parametrize(
    ("rows", "columns", "code"),
    [
        (4001, 4000, "too_many_pixels"),
        (65535, 65535, "too_many_pixels"),
        (63, 90, "too_small"),
        (0, 0, "too_small"),
        (64, 97, "aspect"),
        (301, 200, "aspect"),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless])
def test_a_shape_that_is_not_an_xrays_is_refused_by_its_tags(rows, columns, code, syntax):
    content = compressed(SMALL, b"none", syntax) if syntax.is_encapsulated else made(SMALL, 12)
    for tag, length, value in ((0x10, 2, rows), (0x11, 2, columns)):
        place = content.index(struct.pack("<HH2sH", 0x28, tag, b"US", length)) + 8
        content = content[:place] + struct.pack("<H", value) + content[place + 2 :]
    tracemalloc.start()
    assert refusal(content) == (code, 422)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_16_megapixels_are_accepted():
    xray = np.zeros((4000, 4000), np.uint8)
    xray[:, 2000:] = 9
    assert np.array_equal(decode(made(xray)), np.repeat([[0, 255]], 112, 1).repeat(224, 0))


def test_too_many_bytes_are_refused():
    content = made(SMALL, 12)
    assert refusal(content + bytes(reading.MAX_BYTES)) == ("too_large", 413)


@pytest.mark.parametrize(
    "syntax", [JPEGLosslessSV1, JPEG2000Lossless, DeflatedExplicitVRLittleEndian]
)
def test_a_transfer_syntax_that_is_not_read_is_refused_by_name(syntax):
    with pytest.raises(ImageError, match=r"JPEG Lossless|JPEG 2000|Deflated") as caught:
        decode(compressed(SMALL, b"x" * 99, syntax))
    assert caught.value.code == "dicom_compressed"
    assert "save it as Explicit VR Little Endian" in str(caught.value)


@pytest.mark.parametrize("word", ["1.2.3.4.5", "Doe^Jane"])
def test_a_transfer_syntax_that_is_unknown_is_not_quoted(word):
    content = made(SMALL, 12)
    old = str(ExplicitVRLittleEndian).encode()
    place = content.index(old)
    content = content[:place] + word.encode().ljust(len(old), b"\0") + content[place + len(old) :]
    with pytest.raises(ImageError, match="unknown transfer syntax") as caught:
        decode(content)
    assert caught.value.code == "dicom_compressed"
    assert word not in str(caught.value)


def test_what_lacks_a_preamble_is_not_an_image():
    assert refusal(made(SMALL, 12)[132:]) == ("not_an_image", 415)


def damaged_or_without_pixels(content):
    return refusal(content) in {("truncated", 422), ("no_pixel_data", 422)}


@pytest.mark.parametrize("syntax", [*PLAIN, RLELossless, JPEGBaseline8Bit])
def test_a_file_that_is_cut_off_anywhere_is_refused(syntax):
    xray = noise(70, 80)
    if syntax == RLELossless:
        each = dataset(xray)
        each.file_meta = FileMetaDataset()
        each.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        each.compress(syntax, generate_instance_uid=False)
        content = saved(each, syntax)
    elif syntax.is_encapsulated:
        content = compressed(xray, encoded(xray, "JPEG"), syntax)
    else:
        content = made(xray, syntax=syntax)
    assert decode(content).shape == (224, 224)
    for length in [*range(132, 900, 5), *range(900, len(content) - 12, 97), len(content) - 12]:
        assert damaged_or_without_pixels(content[:length]), length


def test_a_picture_of_another_size_than_the_tags_say_is_refused():
    other = encoded(noise(90, 80), "JPEG")
    assert refusal(compressed(noise(70, 80), other, JPEGBaseline8Bit)) == ("truncated", 422)


def test_a_colour_jpeg_in_a_grey_file_is_refused():
    other = encoded(noise(70, 80, 3), "JPEG")
    assert refusal(compressed(noise(70, 80), other, JPEGBaseline8Bit)) == ("truncated", 422)


# Hostile files


def meta(syntax):
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    return bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid


def test_a_deflated_bomb_is_not_inflated():
    deflating = zlib.compressobj(wbits=-15)
    bomb = b"".join(deflating.compress(bytes(1_000_000)) for _ in range(30)) + deflating.flush()
    content = meta(DeflatedExplicitVRLittleEndian) + bomb
    tracemalloc.start()
    assert refusal(content) == ("dicom_compressed", 422)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_run_length_bomb_ends_at_the_size_of_the_xray():
    xray = noise(70, 80)
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x07" * 4_000_000
    content = compressed(xray, frame, RLELossless)
    tracemalloc.start()
    assert (decode(content) == 0).all()
    assert tracemalloc.get_traced_memory()[1] < 5 * len(content)
    tracemalloc.stop()


SEQUENCE = struct.pack("<HHL", 0x40, 0x275, 0xFFFFFFFF)
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
EMPTY = struct.pack("<HHL", 0x11, 0x1001, 0)
CHARACTER_SETS = struct.pack("<HHL", 8, 5, 16_000_000) + b"a\\" * 8_000_000
DEEP = {
    "nested sequences": (SEQUENCE + ITEM, 1_000_000),
    "empty items": (SEQUENCE + EMPTY_ITEM * 2_000_000, 1),
    "empty elements": (EMPTY, 2_000_000),
    "elements without an end": (struct.pack("<HHL", 0x11, 0x1001, 0xFFFFFFFF), 2_000_000),
    "empty items in a LUT": (
        struct.pack("<HHL", 0x28, 0x3010, 16_000_000) + EMPTY_ITEM * 2_000_000,
        1,
    ),
    "a LUT of nothing but elements": (
        struct.pack("<HHL", 0x28, 0x3010, 16_000_008)
        + struct.pack("<HHL", 0xFFFE, 0xE000, 16_000_000)
        + EMPTY * 2_000_000,
        1,
    ),
    "a number of millions of parts": (
        struct.pack("<HHL", 0x28, 0x1050, 16_000_000) + b"1\\" * 8_000_000,
        1,
    ),
    "character sets": (CHARACTER_SETS, 1),
    "character sets in a sequence": (SEQUENCE + ITEM + CHARACTER_SETS, 1),
    "small character sets": (
        SEQUENCE + (EMPTY_ITEM[:4] + struct.pack("<LHHL", 208, 8, 5, 200) + b"a\\" * 100) * 9_000,
        1,
    ),
    "lengths that lie": (struct.pack("<HHL", 0x28, 0x1050, 0xFFFFFFF0), 1),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_header_that_would_keep_the_reader_busy_is_refused(name):
    part, times = DEEP[name]
    plain = made(SMALL, 12, syntax=ImplicitVRLittleEndian)
    place = plain.index(struct.pack("<HHL", 0x7FE0, 0x10, SMALL.nbytes))
    content = plain[:place] + part * times + plain[place:]
    script = (
        "import resource, sys; from toolkit.xray.reading import decode\n"
        "from toolkit.errors import ImageError\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n"
        "try: decode(sys.stdin.buffer.read())\n"
        "except ImageError as error: print(error.code)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *code, peak = done.stdout.split()
    assert code in ([], [b"truncated"], [b"no_pixel_data"])
    assert int(peak) < 300_000
    assert not done.stderr


def unreadable(decimals):
    try:
        for value in decimals.values():
            [float(each) for each in value.split("\\") if each.strip()]
    except ValueError:
        return True
    return False


DECIMALS = st.one_of(
    st.floats(allow_subnormal=False).map(lambda v: repr(v)[:16]),
    st.text("0123456789+-.eE \\\\", max_size=16),
)


@given(
    st.dictionaries(
        st.sampled_from(["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"]),
        DECIMALS,
    ),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_decimals_there_is_an_xray_or_a_refusal(decimals, function):
    each = dataset(SMALL, 12, VOILUTFunction=function)
    for keyword, value in decimals.items():
        each.add(RawDataElement(Tag(keyword), "DS", len(value), value.encode(), 0, False, True))
    with refused() as codes:
        assert decode(saved(each)).shape == (224, 224)
    assert set(codes) <= {"dicom_window"} | ({"truncated"} if unreadable(decimals) else set())


# Quiet, and without the extra


def test_nothing_of_a_patient_is_logged_warned_of_or_kept_in_an_error(caplog, capfd):
    content = made(noise(224, 224, bits=12), 12).replace(b"ISO_IR 100", b"Doe^Jane\0\0")
    cut = content[: len(content) - 500]
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(content)
        for bad in (
            cut,
            content[:600],
            content.replace(b"\x28\x00\x10\x00US\2\0", b"\x28\x00\x10\x00DS\1\0"),
        ):
            with pytest.raises(ImageError) as caught:
                decode(bad)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("pydicom").disabled


def test_threads_decode_alike():
    contents = [
        made(noise(224, 230, bits=12, seed=i), 12, WindowCenter=9 * i, WindowWidth=900)
        for i in range(6)
    ]
    alone = [decode(content) for content in contents]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(decode, contents * 10))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 10, together, strict=True))
    assert warnings.filters == filters


def test_without_pydicom_a_dicom_file_is_refused_with_the_mend(monkeypatch):
    content = made(SMALL, 12)
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
