import errno
import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from xray_files import bounds, chunk, dicom, exif, interlaced, noise, png, refusal, saved, smooth

from toolkit.errors import ImageError
from toolkit.xray import reading, scaling
from toolkit.xray.reading import decode, read_xray

# What comes through


def test_an_8_bit_grey_file_of_224_comes_through_byte_for_byte():
    xray = noise(224, 224)
    assert np.array_equal(decode(saved(xray)), xray)
    content = saved(smooth(224, 224), "JPEG", quality=90)
    assert np.array_equal(decode(content), cv2.imdecode(np.frombuffer(content, np.uint8), 0))


@pytest.mark.parametrize("shape", [(224, 224), (224, 300), (300, 224), (300, 300), (100, 100)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_result_is_a_plain_writable_array(shape, orientation):
    result = decode(saved(noise(*shape), exif=exif(orientation)))
    assert (result.shape, result.dtype) == ((224, 224), np.uint8)
    assert result.flags.writeable
    assert result.flags.c_contiguous


@pytest.mark.parametrize("side", [100, 224, 300])
def test_resizing_leaves_its_input_alone(side):
    xray = noise(side, side)
    for result in (scaling.resize(xray, 224), scaling.square(xray, 224)):
        assert not np.shares_memory(result, xray)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_constant_16_bit_xray_is_black_and_an_8_bit_one_is_kept(dtype):
    assert (decode(saved(np.full((224, 224), 77, dtype))) == (77 if dtype is np.uint8 else 0)).all()


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (0, 4095), (1000, 1003), (500, 1010)])
def test_16_bit_is_stretched_and_rounded_half_to_even(low, high):
    xray = noise(224, 224, bits=16, top=high - low + 1) + np.uint16(low)
    xray[0, :2] = low, high
    values = np.unique(xray)
    exact = {int(v): round(Fraction((int(v) - low) * 255, high - low)) for v in values}
    expected = np.vectorize(exact.get)(xray)
    assert np.array_equal(decode(saved(xray)), expected)
    assert np.array_equal(scaling.stretch(xray.astype(np.int32)), expected)


def test_stretch_takes_signed_values():
    assert scaling.stretch(np.array([-1000, 0, 3000], np.int16)).tolist() == [0, 64, 255]
    assert scaling.stretch(np.array([-32768, 0, 32767], np.int16)).tolist() == [0, 128, 255]


def test_16_bit_is_stretched_over_the_whole_image_before_the_crop():
    xray = np.full((224, 300), 1000, np.uint16)
    xray[:, 150:] = 2000
    xray[0, 0], xray[0, 1] = 0, 4000
    assert np.unique(decode(saved(xray))).tolist() == [64, 128]


def test_rgb_is_pillows_grey():
    rgb = noise(224, 224, 3)
    expected = (rgb @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    assert np.array_equal(decode(saved(rgb)), expected)
    content = saved(rgb, "JPEG")
    pillow = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert np.array_equal(decode(content), pillow)


def test_alpha_is_laid_over_black():
    value, alpha = np.meshgrid(np.arange(224), np.arange(32, 256), indexing="ij")
    expected = (2 * value * alpha + 255) // 510
    value, alpha = value.astype(np.uint8), alpha.astype(np.uint8)
    assert np.array_equal(decode(saved(np.stack([value, alpha], -1))), expected)
    rgba = np.stack([value, value, value, alpha], -1)
    assert np.array_equal(decode(saved(rgba)), expected)


def test_alpha_of_a_colour_is_laid_over_black_before_it_turns_grey():
    rgba = noise(224, 224, 4)
    over = (2 * rgba[..., :3].astype(int) * rgba[..., 3:] + 255) // 510
    expected = (over @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    assert np.array_equal(decode(saved(rgba)), expected)


def test_1_bit_is_black_and_white():
    bits = noise(224, 224, top=2)
    assert np.array_equal(decode(saved(Image.fromarray(bits * 255).convert("1"))), bits * 255)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_grey_of_every_depth_is_black(depth):
    row = noise(224 * depth // 8, seed=depth).tobytes()
    content = png((224, 224), depth, 0, [row] * 224, chunk(b"tRNS", b"\0\1"))
    bits = np.unpackbits(np.frombuffer(row, np.uint8)).reshape(224, depth)
    samples = bits @ (1 << np.arange(depth)[::-1])
    levels = np.where(samples == 1, 0, samples * (255 // (2**depth - 1)))
    assert (decode(content) == levels).all()


def test_a_transparent_16_bit_grey_is_black_before_the_stretch():
    row = np.tile(np.array([1000, 1500, 9000, 2000], ">u2"), 56).tobytes()
    content = png((224, 224), 16, 0, [row] * 224, chunk(b"tRNS", struct.pack(">H", 9000)))
    assert decode(content)[0, :4].tolist() == [128, 191, 0, 255]


def test_a_transparent_colour_is_black():
    row = np.tile(np.array([[200, 200, 200], [9, 8, 7]], np.uint8), (112, 1)).tobytes()
    content = png((224, 224), 8, 2, [row] * 224, chunk(b"tRNS", b"\0\x09\0\x08\0\x07"))
    assert decode(content)[0, :2].tolist() == [200, 0]


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_a_palette_is_looked_up(transparency):
    indices, palette = noise(224, 224), noise(256, 3, seed=1)
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    alpha = np.full(256, 255)
    if transparency == 3:
        alpha[3] = 0
    elif transparency:
        alpha = np.arange(256)
    over = (2 * palette.astype(int) * alpha[:, None] + 255) // 510
    levels = (over @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    assert np.array_equal(decode(saved(picture, **options)), levels[indices])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(224, 224), (240, 224), (224, 301)])
def test_exif_orientation_is_applied(kind, orientation, shape):
    content = saved(smooth(*shape), kind, exif=exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(decode(content), scaling.square(np.asarray(upright), 224))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation):
    xray = noise(224, 224)
    assert np.array_equal(decode(saved(xray, exif=exif(orientation))), xray)


@pytest.mark.parametrize(
    "junk", [b"", b"\0", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x" * 99]
)
def test_bad_exif_does_not_fail_a_good_xray(junk):
    xray = noise(224, 224)
    plain = saved(xray)
    assert np.array_equal(decode(plain[:33] + chunk(b"eXIf", junk) + plain[33:]), xray)
    plain = saved(xray, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(junk) + 8) + b"Exif\0\0" + junk
    assert np.array_equal(decode(plain[:2] + segment + plain[2:]), decode(plain))


def test_progressive_jpegs_are_read():
    content = saved(smooth(224, 224), "JPEG", progressive=True)
    assert np.array_equal(decode(content), cv2.imdecode(np.frombuffer(content, np.uint8), 0))


@pytest.mark.parametrize(("width", "depth"), [(224, 8), (224, 1), (65, 1), (67, 8)])
def test_interlaced_pngs_are_read(width, depth):
    xray = noise(width, width, top=2**depth)
    rows = [row if depth == 8 else np.packbits(row) for row in interlaced(xray)]
    content = png((width, width), depth, 0, rows, interlaced=1)
    expected = scaling.resize(xray * np.uint8(255 // (2**depth - 1)), 224)
    assert np.array_equal(decode(content), expected)


# Crop and size


@pytest.mark.parametrize(("height", "width"), [(224, 336), (301, 224), (336, 224), (224, 225)])
def test_a_crop_is_about_the_centre(height, width):
    xray = noise(height, width)
    top, left = (height - 224) // 2, (width - 224) // 2
    assert np.array_equal(decode(saved(xray)), xray[top : top + 224, left : left + 224])


@pytest.mark.parametrize(("side", "step"), [(225, 1), (231, 1), (4000, 37)])
def test_area_averaging_is_the_exact_mean_rounded_half_to_even(side, step):
    xray = noise(side, side)
    rows = [
        [max(0, min((i + 1) * side, (j + 1) * 224) - max(i * side, j * 224)) for j in range(side)]
        for i in range(0, 224, step)
    ]
    cover = np.array(rows)
    quotient, rest = np.divmod(cover @ xray.astype(np.int64) @ cover.T, side**2)
    expected = quotient + (2 * rest > side**2) + ((2 * rest == side**2) & (quotient % 2 == 1))
    assert np.array_equal(scaling.resize(xray, 224)[::step, ::step], expected)
    assert (scaling.resize(np.full((side, side), 255, np.uint8), 224) == 255).all()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_area_averaging_by_a_whole_factor_is_the_mean_of_blocks_with_ties_to_even(factor):
    xray = noise(224 * factor, 224 * factor, top=5)
    sums = xray.reshape(224, factor, 224, factor).astype(int).sum(axis=(1, 3))
    exact = [round(Fraction(int(x), factor**2)) for x in sums.ravel()]
    ties = (2 * sums % (2 * factor**2) == factor**2).sum()
    assert ties > 100 or factor % 2
    assert np.array_equal(scaling.resize(xray, 224).ravel(), exact)


@pytest.mark.parametrize(("height", "width"), [(240, 240), (500, 500), (1023, 1023), (900, 1350)])
def test_area_averaging_is_within_one_grey_level_of_opencv(height, width):
    xray = noise(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = np.ascontiguousarray(xray[top : top + side, left : left + side])
    expected = cv2.resize(crop, (224, 224), interpolation=cv2.INTER_AREA).astype(int)
    assert abs(decode(saved(xray)) - expected).max() <= 1


@pytest.mark.parametrize("side", [64, 100, 223])
def test_going_up_is_pillows_bicubic(side):
    xray = noise(side, side)
    expected = np.asarray(Image.fromarray(xray).resize((224, 224), Image.Resampling.BICUBIC))
    assert np.array_equal(decode(saved(xray)), expected)


# What is refused


@pytest.mark.parametrize(
    "shape", [(200, 300), (300, 200), (64, 96), (64, 64), (4898, 3266), (4000, 4000)]
)
def test_three_to_two_64_a_side_and_16_megapixels_are_accepted(shape):
    assert decode(saved(np.zeros(shape, np.uint8))).shape == (224, 224)


@pytest.mark.parametrize(
    ("code", "shapes"),
    {
        "aspect": [(200, 301), (301, 200), (64, 97), (101, 152)],
        "too_small": [(63, 63), (63, 90), (90, 63), (1, 1)],
        "too_many_pixels": [(4001, 4000), (4000, 4001)],
    }.items(),
)
def test_other_shapes_are_refused(code, shapes):
    for shape in shapes:
        assert refusal(saved(np.zeros(shape, np.uint8))) == (code, 422), shape


@pytest.mark.parametrize("size", [(13000, 13000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header_without_memory_or_warning(size):
    with bounds(memory=1_000_000), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal(png(size, 8, 0, [b"\0"])) == ("too_many_pixels", 422)


def test_a_jpeg_bomb_is_refused_by_its_header():
    content = bytearray(saved(np.zeros((224, 224), np.uint8), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 13000, 13000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal(bytes(content)) == ("too_many_pixels", 422)


def test_a_real_bomb_of_169_megapixels_is_refused_fast():
    content = png((13000, 13000), 8, 0, [bytes(13000)] * 13000)
    with bounds(seconds=0.5):
        assert refusal(content) == ("too_many_pixels", 422)


HEADERS = {
    "private chunks": ("PNG", chunk(b"abCd", b"")),
    "empty texts": ("PNG", chunk(b"tEXt", b"")),
    "text bomb": ("PNG", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))),
    "fill bytes": ("JPEG", b"\xff"),
    "comments": ("JPEG", b"\xff\xfe\0\2"),
}


@pytest.mark.parametrize(("kind", "part"), HEADERS.values(), ids=HEADERS)
def test_a_header_of_millions_of_parts_is_refused_fast(kind, part):
    plain, place = saved(noise(224, 224), kind), {"PNG": 33, "JPEG": 2}[kind]
    content = plain[:place] + part * (10_000_000 // len(part)) + plain[place:]
    with bounds(seconds=2):
        assert refusal(content)[1] == 422


@pytest.mark.parametrize("after", ["the first scan", "the pixels"])
def test_a_jpeg_that_goes_over_its_pixels_too_often_is_refused(after):
    content = saved(np.zeros((4000, 4000), np.uint8), "JPEG", progressive=True)
    tables = [found.start() for found in re.finditer(b"\xff\xc4", content)]
    scans = [found.start() for found in re.finditer(b"\xff\xda", content)]
    again = content[tables[1] : tables[2]]
    assert scans[0] < tables[1] < scans[1] < tables[2] < scans[2]
    # As often as may be, it is refused for no more than that a scan comes again.
    often = content[: tables[2]] + again * 20 + content[tables[2] :]
    assert refusal(often) == ("damaged", 422)
    many = again * 100_000
    place = tables[2] if after == "the first scan" else len(content) - 2
    with bounds(seconds=1):
        assert refusal(content[:place] + many + content[place:]) == ("too_many_scans", 422)


def test_what_follows_a_jpeg_is_no_scan_of_it():
    content = saved(smooth(224, 224), "JPEG")
    assert np.array_equal(decode(content + b"\xff\xda\0\2" * 999), decode(content))


def test_a_png_in_many_small_pieces_is_read():
    xray = noise(2000, 2000)
    content = png((2000, 2000), 8, 0, xray)
    assert content.count(b"IDAT") > 10_000
    assert np.array_equal(decode(content), scaling.resize(xray, 224))


STRANGERS = [b"", b"hello", b"%PDF-1.7\n", bytes(1000), b"\x89PNG", b"\xff\xd8"]
STRANGERS += [saved(noise(224, 224), kind) for kind in ("GIF", "BMP", "TIFF", "WEBP", "PPM")]


@pytest.mark.parametrize("content", STRANGERS, ids=range(len(STRANGERS)))
def test_what_is_not_a_png_or_jpeg_is_refused(content):
    assert refusal(content) == ("not_an_image", 415)


@pytest.mark.parametrize("content", [saved(noise(224, 224)), dicom(noise(224, 224))])
def test_too_many_bytes_are_refused(content):
    assert refusal(content + bytes(reading.MAX_BYTES - len(content) + 1)) == ("too_large", 413)


def test_as_many_bytes_as_may_be_are_read():
    content = saved(noise(224, 224))
    assert decode(content + bytes(reading.MAX_BYTES - len(content))).shape == (224, 224)


def test_cmyk_is_refused():
    picture = Image.fromarray(noise(224, 224, 4), "CMYK")
    assert refusal(saved(picture, "JPEG")) == ("cmyk", 422)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("PNG", {"default_image": True}), ("MPO", {})]
)
def test_several_pictures_in_a_file_are_refused(kind, options):
    first, *others = (Image.fromarray(smooth(224, 224, seed=i)) for i in range(3))
    content = saved(first, kind, save_all=True, append_images=others, **options)
    assert refusal(content) == ("animated", 422)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_with_colour_or_alpha_is_refused_rather_than_cut_to_8(colour, channels):
    content = png((224, 224), 16, colour, [bytes(224 * 2 * channels)] * 224)
    assert refusal(content) == ("sixteen_bit_colour", 422)


@pytest.mark.parametrize(
    ("kind", "options", "least", "spared"),
    [("PNG", {}, 8, 0), ("JPEG", {}, 3, 9), ("JPEG", {"progressive": True}, 3, 9)],
)
def test_what_is_cut_off_before_the_end_of_its_pixels_is_refused(kind, options, least, spared):
    content = saved(noise(224, 224), kind, **options)
    end = len(content) - spared
    for length in [*range(least, 700, 9), *range(700, end, 997), *range(end - 20, end)]:
        assert refusal(content[:length]) == ("truncated", 422), length


def restarts(content):
    """The places of a JPEG's restart markers."""
    start = content.index(b"\xff\xda")
    return [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", content[start:])], start


def damage(content):
    """Ways to lose part of a JPEG's data in which its end is there still."""
    length, end = len(content), b"\xff\xd9"
    yield "the second half is gone", content[: length // 2] + end
    yield "the last tenth is gone", content[: length * 9 // 10] + end
    yield "a hole", content[: length // 2] + content[length // 2 + 2000 :]
    yield "zeros", content[: length // 2] + bytes(1500) + content[length // 2 + 1500 :]
    yield "ones", content[: length // 2] + b"\xff\0" * 700 + content[length // 2 + 1400 :]
    yield "no scan at all", content[: content.index(b"\xff\xda")] + end


JPEGS = {
    "grey": (noise(224, 224), {"quality": 95}),
    "colour": (noise(224, 224, 3), {}),
    "progressive": (noise(224, 224), {"progressive": True}),
    "restarting": (noise(224, 224), {"restart_marker_blocks": 28}),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_part_of_its_data_is_refused_though_it_ends(kind):
    picture, options = JPEGS[kind]
    content = saved(picture, "JPEG", **options)
    for what, damaged in damage(content):
        assert refusal(damaged) == ("damaged", 422), what


def test_a_jpeg_that_lacks_one_of_its_restart_intervals_is_refused():
    content = saved(noise(224, 224), "JPEG", restart_marker_blocks=28)
    places, start = restarts(content)
    assert len(places) == 27
    for first, second in pairwise(places[3:10]):
        without = content[: start + first] + content[start + second :]
        assert refusal(without) == ("damaged", 422)
        shorter = content[: start + first + 50] + content[start + second :]
        assert refusal(shorter) == ("damaged", 422)


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_progressive_jpeg_without_its_last_scans_is_refused(end):
    content = saved(noise(224, 224), "JPEG", progressive=True)
    tables = [found.start() for found in re.finditer(b"\xff\xc4", content)]
    code = "damaged" if end else "truncated"
    for place in tables[2:]:
        assert refusal(content[:place] + end) == (code, 422), place


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("preview", [False, True])
def test_a_jpeg_with_all_its_pixels_but_without_its_end_is_read(kind, preview):
    picture, options = JPEGS[kind]
    content = saved(picture, "JPEG", **options)
    if preview:  # another picture in its header has an end
        other = b"Exif\0\0" + saved(noise(64, 64), "JPEG")
        segment = b"\xff\xe1" + struct.pack(">H", len(other) + 2) + other
        content = content[:2] + segment + content[2:]
    assert np.array_equal(decode(content[:-2]), decode(content))
    assert np.array_equal(decode(content[:-1]), decode(content))


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_is_read_as_opencv_and_pillow_do(kind):
    picture, options = JPEGS[kind]
    content = saved(picture, "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert np.array_equal(decode(content), expected)


def test_a_jpeg_of_a_later_version_is_read():
    content = saved(smooth(224, 224), "JPEG")
    later = content.replace(b"JFIF\0\1", b"JFIF\0\7")
    assert later != content
    assert np.array_equal(decode(later), decode(content))


def test_memory_that_runs_out_over_a_picture_is_not_the_files_fault(monkeypatch):
    def exhausted(*_arguments, **_options):
        raise MemoryError

    contents = [saved(noise(224, 224), kind) for kind in ("PNG", "JPEG")]
    monkeypatch.setattr("PIL.Image.Image.load", exhausted)
    monkeypatch.setattr("simplejpeg.decode_jpeg", exhausted)
    for content in contents:
        with pytest.raises(MemoryError):
            decode(content)


@pytest.mark.parametrize("said", ["out of memory error when reading image file"])
def test_memory_that_pillow_lacks_is_told_as_such(monkeypatch, said):
    def exhausted(*_arguments, **_options):
        raise OSError(said)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", exhausted)
    with pytest.raises(MemoryError):
        decode(saved(noise(224, 224)))


def test_a_png_with_changed_pixel_data_is_refused():
    content = saved(smooth(224, 224))
    for place in range(content.index(b"IDAT") + 4, len(content) - 12, 503):
        changed = bytearray(content)
        changed[place] ^= 1
        assert refusal(bytes(changed)) == ("truncated", 422)


def test_a_png_whose_header_is_not_first_is_refused():
    content = saved(noise(224, 224))
    assert refusal(content[:8] + chunk(b"tEXt", b"a\0b") + content[8:]) == ("truncated", 422)


@pytest.mark.parametrize(("depth", "colour", "row"), [(8, 0, 224), (1, 0, 28), (8, 6, 896)])
def test_a_png_with_too_few_rows_is_refused(depth, colour, row):
    assert decode(png((224, 224), depth, colour, [bytes(row)] * 224)).shape == (224, 224)
    assert refusal(png((224, 224), depth, colour, [bytes(row)] * 223)) == ("truncated", 422)


# Files


@pytest.mark.parametrize("size", [64, 200, 224, 300, 512])
@pytest.mark.parametrize("make", [saved, dicom])
def test_an_xray_of_any_size_is_had_by_its_path_and_as_its_bytes(tmp_path, size, make):
    xray, path = noise(300, 300), tmp_path / "knee"
    xray[0, :2] = 0, 255
    path.write_bytes(make(xray))
    for source in (path, str(path), path.read_bytes()):
        assert np.array_equal(read_xray(source, size), scaling.resize(xray, size))
    expected = cv2.resize(xray, (size, size), interpolation=cv2.INTER_AREA).astype(int)
    assert size > 300 or abs(read_xray(path, size) - expected).max() <= 1


@pytest.mark.parametrize(
    ("name", "code", "status", "reason"),
    [
        ("text", "not_an_image", 415, "not a PNG, JPEG or DICOM"),
        (".", "unreadable", 422, "cannot be read"),
        ("missing.png", "unreadable", 422, "cannot be read"),
        ("nul\0.png", "unreadable", 422, "cannot be read"),
        ("pipe.png", "unreadable", 422, "no regular file"),
    ],
)
def test_a_file_that_is_refused_or_cannot_be_read_is_named(tmp_path, name, code, status, reason):
    (tmp_path / "text").write_bytes(b"hello")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=reason) as caught:
        read_xray(tmp_path / name)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(500_000_000)
    with bounds(memory=3 * reading.MAX_BYTES):
        with pytest.raises(ImageError, match=r"huge\.png: larger than") as caught:
            read_xray(path)
        assert (caught.value.code, caught.value.status) == ("too_large", 413)


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT]
)
def test_what_the_machine_lacks_is_not_the_files_fault(tmp_path, monkeypatch, number):
    def exhausted(*_arguments):
        raise OSError(number, "none left")

    path = tmp_path / "knee.png"
    path.write_bytes(saved(noise(224, 224)))
    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(OSError, match="none left") as caught:
        read_xray(path)
    assert (caught.value.errno, caught.value.filename) == (number, path)


# Robustness


SIGNATURES = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", bytes(128) + b"DICM"]


@given(st.binary(max_size=300), st.sampled_from(SIGNATURES))
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_nothing_but_image_errors(content, signature):
    assert 400 <= refusal(signature + content)[1] < 500


def test_threads_decode_alike():
    contents = [saved(smooth(200 + i, 210 + i, seed=i), "JPEG", exif=exif(6)) for i in range(6)]
    contents += [dicom(noise(224, 230, bits=12, seed=i), 12) for i in range(6)]
    alone = [decode(content) for content in contents]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, contents * 10))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 10, together, strict=True))
    assert warnings.filters == filters


def test_decoding_needs_no_torch_and_leaves_pillows_settings_alone():
    code = (
        "import sys; from PIL import Image, ImageFile; before = Image.MAX_IMAGE_PIXELS;"
        "import toolkit.xray.reading; assert Image.MAX_IMAGE_PIXELS == before;"
        "assert not ImageFile.LOAD_TRUNCATED_IMAGES; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Colour, and other sizes


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_colours_are_kept_where_they_are_asked_for(kind):
    pixels = np.stack([noise(96, 96, seed=seed) // 2 + 60 for seed in range(3)], axis=2)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    with Image.open(io.BytesIO(content.getvalue())) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(decode(content.getvalue(), 96, 3), expected)
    assert decode(content.getvalue(), 40, 3).shape == (40, 40, 3)


def test_of_a_grey_file_the_three_channels_are_its_grey():
    content = saved(noise(100, 80))
    grey, colour = decode(content, 80), decode(content, 80, 3)
    for channel in range(3):
        np.testing.assert_array_equal(colour[..., channel], grey)


def test_a_file_may_be_as_small_as_what_it_becomes():
    assert decode(saved(noise(32, 40)), 32).shape == (32, 32)
    assert refusal(saved(noise(63, 70))) == ("too_small", 422)
    with pytest.raises(ImageError, match="a side must have at least 32"):
        decode(saved(noise(31, 40)), 32)
