"""Damaged PNG, JPEG and DICOM files, each the same wherever it is made: by its seed and number."""

import random
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from xray_files import PNG, chunk, dicom, exif, interlaced, lut, png, saved, smooth


def mutated(count, seed=0):
    """Yield so many files as bytes: each an original with one to five things done to it."""
    for number in range(count):
        yield mutant(seed, number)


def mutant(seed, number):
    """The file of that seed and number."""
    chance = random.Random(f"{seed} {number}")
    content = bytearray(chance.choice(originals()))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        chance.choice(DAMAGES)(content, chance)
        del content[3_000_000:]
    # With right checksums, damage reaches further into the decoder.
    return mended(bytes(content)) if chance.random() < 0.7 else bytes(content)


# What is done to a file, in place


def place(content, chance):
    """Anywhere, but more often near the front, where headers are."""
    end = len(content) if chance.random() < 0.5 else min(len(content), 700)
    return chance.randrange(end) if end else 0


def flip(content, chance):
    for _ in range(chance.choice((1, 1, 2, 8)) if content else 0):
        content[place(content, chance)] ^= 1 << chance.randrange(8)


def overwrite(content, chance):
    start, length = place(content, chance), chance.choice((1, 2, 4, 16, 200))
    run = chance.choice((b"\0" * length, b"\xff" * length, chance.randbytes(length)))
    content[start : start + length] = run


def insert(content, chance):
    start = place(content, chance)
    content[start:start] = chance.randbytes(chance.choice((1, 2, 4, 40)))


def delete(content, chance):
    start = place(content, chance)
    del content[start : start + chance.choice((1, 2, 4, 40, 400))]


def truncate(content, chance):
    del content[place(content, chance) :]


def repeat(content, chance):
    start = place(content, chance)
    run = content[start : start + chance.choice((8, 40, 300))]
    content[start:start] = run * chance.choice((1, 1, 2, 50))


def splice(content, chance):
    other = chance.choice(originals())
    content[place(content, chance) :] = other[chance.randrange(len(other)) :]


def duplicate_part(content, chance):
    start, end, _, _ = part(content, chance)
    content[start:start] = content[start:end] * chance.choice((1, 1, 3, 100))


def drop_part(content, chance):
    start, end, _, _ = part(content, chance)
    del content[start:end]


def move_part(content, chance):
    start, end, _, _ = part(content, chance)
    moved = content[start:end]
    del content[start:end]
    start = part(content, chance)[0]
    content[start:start] = moved


def borrow_part(content, chance):
    other = chance.choice(originals())
    start, end, _, _ = part(other, chance)
    here = part(content, chance)
    content[here[0] : chance.choice((here[0], here[1]))] = other[start:end]


def change_length(content, chance):
    _, _, field, form = part(content, chance)
    size = struct.calcsize(form)
    if field + size > len(content):
        return
    (length,) = struct.unpack_from(form, content, field)
    top = (1 << 8 * size) - 1
    length = chance.choice((0, 1, length - 1, length + 1, length * 2, top, top >> 1, top - 7))
    struct.pack_into(form, content, field, min(max(length, 0), top))


def damage_rows(content, chance):
    """Change what the pixel data of a PNG holds, not how it is compressed."""
    if not content.startswith(PNG):
        return
    places = [(start, end) for start, end, _, _ in chunks(content)]
    data = [each for each in places if content[each[0] + 4 : each[0] + 8] == b"IDAT"]
    try:
        rows = bytearray(zlib.decompressobj().decompress(joined(content, data), 100_000))
    except zlib.error:
        return
    chance.choice((flip, overwrite, insert, delete))(rows, chance)
    for start, end in reversed(data):
        del content[start:end]
    if data:
        content[data[0][0] : data[0][0]] = chunk(b"IDAT", zlib.compress(rows, 1))


def joined(content, places):
    return b"".join(content[start + 8 : end - 4] for start, end in places)


DAMAGES = (
    *(damage_rows, damage_rows, flip, flip, overwrite, insert, delete, truncate, repeat, splice),
    *(duplicate_part, drop_part, move_part, borrow_part, change_length, change_length),
)


# The parts that files are made of


def part(content, chance):
    """Start, end, place of the length and its form, of one part: a chunk, segment or element."""
    found = parts(bytes(content))
    return chance.choice(found) if found else (0, len(content), 0, ">H")


def parts(content):
    if content.startswith(PNG):
        return list(chunks(content))
    if content.startswith(b"\xff\xd8"):
        return list(segments(content))
    return list(elements(content))


def chunks(content):
    start = len(PNG)
    while start + 12 <= len(content):
        end = start + 12 + struct.unpack_from(">I", content, start)[0]
        yield start, min(end, len(content)), start, ">I"
        start = end


def segments(content):
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF:
        end = start + 2 + struct.unpack_from(">H", content, start + 2)[0]
        yield start, min(end, len(content)), start + 2, ">H"
        if content[start + 1] == 0xDA:  # the rest is not in segments
            return
        start = end


def elements(content):
    """Those of little endian with written value representations; of others, the first few."""
    start = 132
    while start + 12 <= len(content):
        kind = content[start + 4 : start + 6]
        if kind in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            field, form, head = start + 8, "<I", 12
        elif kind.isalpha():
            field, form, head = start + 6, "<H", 8
        else:
            field, form, head = start + 4, "<I", 8
        end = start + head + struct.unpack_from(form, content, field)[0]
        yield start, min(end, len(content)), field, form
        start = end


def mended(content):
    """A PNG with right checksums; anything else as it is."""
    if not content.startswith(PNG):
        return content
    mends, last = [PNG], len(PNG)
    for start, end, _, _ in chunks(content):
        body = content[start + 4 : end - 4]
        if len(body) + 8 == struct.unpack_from(">I", content, start)[0] + 12:
            mends.append(content[start : start + 4] + body + struct.pack(">I", zlib.crc32(body)))
            last = end
    return b"".join(mends) + content[last:]


# Good files of many kinds


@cache
def originals():
    """Files that all are small, so that a damaged one is decoded in a millisecond or two."""
    return (*pngs(), *jpegs(), *dicoms())


def pngs():
    grey = smooth(70, 80)
    palette = Image.fromarray(grey).convert("P")
    frames = [Image.fromarray(grey), Image.fromarray(smooth(70, 80, 1))]
    yield saved(grey)
    yield saved(smooth(224, 224))
    yield saved(smooth(300, 210))
    yield saved(grey.astype(np.uint16) * 257)
    yield saved(Image.fromarray(grey).convert("1"))
    yield saved(np.stack([grey, grey], -1))
    yield saved(np.stack([grey] * 3, -1), exif=exif(6))
    yield saved(np.stack([grey] * 4, -1))
    yield saved(palette, transparency=3, exif=exif(5))
    yield saved(palette.quantize(16), bits=4, transparency=bytes(range(0, 256, 16)))
    yield saved(frames[0], save_all=True, append_images=frames[1:])
    yield saved(grey, icc_profile=bytes(300))
    yield png((80, 70), 8, 0, interlaced(grey), interlaced=1, kind=b"\1")
    for depth in (1, 2, 4):
        yield png((80, 70), depth, 0, [grey[0, : 10 * depth]] * 70, chunk(b"tRNS", b"\0\1"))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5000))) + chunk(b"tEXt", b"a\0b")
    yield png((80, 70), 16, 2, [bytes(480)] * 70, text, kind=b"\2")
    yield png((80, 70), 16, 0, [grey[:2].tobytes()] * 70, chunk(b"tRNS", b"\0\1"), kind=b"\4")


def jpegs():
    grey = Image.fromarray(smooth(70, 80))
    colour = Image.fromarray(np.stack([smooth(70, 80, i) for i in range(3)], -1))
    yield saved(grey, "JPEG")
    yield saved(Image.fromarray(smooth(224, 224)), "JPEG", quality=60)
    yield saved(grey, "JPEG", exif=exif(8), comment="a comment", icc_profile=bytes(300))
    yield saved(grey, "JPEG", progressive=True)
    yield saved(grey, "JPEG", restart_marker_blocks=4)
    yield saved(colour, "JPEG", subsampling=0, optimize=True)
    yield saved(colour, "JPEG", subsampling=2)
    yield saved(colour, "JPEG", progressive=True, exif=exif(3))
    yield saved(colour.convert("CMYK"), "JPEG")
    yield saved(grey, "MPO", save_all=True, append_images=[grey.copy()])


def dicoms():
    eight = smooth(70, 80)
    twelve = eight.astype(np.uint16) * 16
    signed = (twelve - 2048).astype(np.int16)
    window = {"WindowCenter": [900, 5], "WindowWidth": [500, 7]}
    rescale = {"RescaleSlope": "0.5", "RescaleIntercept": -100}
    table = {"VOILUTSequence": [lut(0, twelve.ravel()[:3000])] * 2}
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        yield dicom(eight, syntax=syntax)
        yield dicom(twelve, 12, syntax, **window, **rescale)
        yield dicom(signed, 12, syntax, **window, PhotometricInterpretation="MONOCHROME1")
    modality = {"ModalityLUTSequence": [lut(9, eight.ravel()[:500])]}
    yield dicom(twelve, 12, **table)
    yield dicom(twelve, 12, ImplicitVRLittleEndian, **modality, **window)
    yield dicom(twelve, 12, **window, VOILUTFunction="SIGMOID", PixelSpacing=[0.1, 0.1])
    yield dicom(twelve, 12, **window, VOILUTFunction="LINEAR_EXACT", NumberOfFrames=1)
    yield dicom(eight, NumberOfFrames=2)
    yield dicom(np.stack([eight] * 3, -1), PhotometricInterpretation="RGB")
    yield dicom(eight, syntax=DeflatedExplicitVRLittleEndian)
    yield dicom(twelve, 12, RLELossless)
    yield dicom(eight, syntax=RLELossless)
    yield dicom(eight, syntax=JPEGBaseline8Bit, frame=saved(eight, "JPEG"))
    yield dicom(eight, syntax=JPEG2000Lossless, frame=saved(eight, "JPEG2000", no_jp2=True))
