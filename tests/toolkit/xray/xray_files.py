"""Good X-ray files of every kind, and what a test asks of a refusal."""

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from contextlib import contextmanager

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from toolkit.errors import ImageError
from toolkit.xray.reading import decode

PNG = b"\x89PNG\r\n\x1a\n"
PATIENT = "Doe^Jane"
# Of interlaced PNGs: first row and column, and the steps, of each pass.
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
PASSES += [(1, 0, 2, 1)]


def noise(*shape, bits=8, seed=0, signed=False, top=None):
    """Even noise of so many bits, or of 0 to `top` - 1."""
    low = -(1 << bits - 1) if signed else 0
    values = np.random.default_rng(seed).integers(low, top or low + (1 << bits), shape)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def smooth(height, width, seed=0):
    """A picture without sharp edges, which JPEG keeps close."""
    picture = Image.fromarray(noise(8, 8, seed=seed))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def saved(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(file, kind, **options)
    return file.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = "a description"
    return tags


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size, depth, colour, rows, before=b"", interlaced=0, kind=b"\0"):
    """A PNG written by hand: `rows` are raw bytes, `kind` their filter; `before` precedes them."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    data = zlib.compress(b"".join(kind + bytes(row) for row in rows))
    pieces = [chunk(b"IDAT", data[i : i + 200]) for i in range(0, len(data), 200)]
    return PNG + chunk(b"IHDR", header) + before + b"".join(pieces) + chunk(b"IEND", b"")


def interlaced(pixels):
    """The rows of an interlaced PNG, each an array."""
    return [row for y, x, dy, dx in PASSES for row in pixels[y::dy, x::dx]]


def lut(first, entries, bits=12, kind="US", packed=False):
    item = Dataset()
    item.add_new("LUTDescriptor", kind, [len(entries) % 65536, first, bits])
    content = np.asarray(entries, "u1" if packed else "<u2").tobytes()
    item.add_new("LUTData", "OW", content + bytes(len(content) % 2))
    return item


def dataset(pixels, bits=None, frame=b"", fragments=2, **tags):
    """An X-ray of those stored values, integers (height, width), ahead of it a nested sequence.

    `frame` holds the pixels if they are encoded; more tags by keyword, None to leave one out.
    """
    xray, inner = Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "T-D3000", "Knee"
    inner.AnatomicRegionModifierSequence = [Dataset(), Dataset()]
    xray.SpecificCharacterSet, xray.PatientName = "ISO_IR 100", PATIENT
    xray.AnatomicRegionSequence = [inner]
    xray["AnatomicRegionSequence"].is_undefined_length = True
    xray.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    xray.PhotometricInterpretation = "MONOCHROME2"
    xray.Rows, xray.Columns = pixels.shape[:2]
    xray.BitsAllocated = 8 * pixels.itemsize
    xray.BitsStored = bits or xray.BitsAllocated
    xray.HighBit, xray.PixelRepresentation = xray.BitsStored - 1, int(pixels.dtype.kind == "i")
    plain = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    xray.PixelData = encapsulate([frame], fragments_per_frame=fragments) if frame else plain
    xray["PixelData"].VR = "OW" if pixels.itemsize == 2 and not frame else "OB"
    xray["PixelData"].is_undefined_length = bool(frame)
    for keyword, value in tags.items():
        setattr(xray, keyword, value) if value is not None else delattr(xray, keyword)
    return xray


def written(xray, syntax=ExplicitVRLittleEndian):
    """A DICOM file of a data set; with RLE its pixels are compressed."""
    xray.file_meta = FileMetaDataset()
    xray.file_meta.TransferSyntaxUID = syntax
    xray.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    xray.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if syntax == RLELossless and not xray["PixelData"].is_undefined_length:
            xray.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            xray.compress(syntax, generate_instance_uid=False)
        if syntax == ExplicitVRBigEndian and "PixelData" in xray and xray["PixelData"].VR == "OW":
            xray.PixelData = np.frombuffer(xray.PixelData, "<u2").astype(">u2").tobytes()
        file = io.BytesIO()
        pydicom.dcmwrite(file, xray, enforce_file_format=True)
    return file.getvalue()


def dicom(pixels, bits=None, syntax=ExplicitVRLittleEndian, frame=b"", **tags):
    return written(dataset(pixels, bits, frame, **tags), syntax)


def refusal(content):
    """Code and status of what is refused, in one line that names no patient."""
    with pytest.raises(ImageError) as caught:
        decode(content)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 200 and "Doe" not in message
    return caught.value.code, caught.value.status


@contextmanager
def bounds(seconds=60.0, memory=None):
    """Holds what is done within to seconds of processor and bytes of memory."""
    if memory:
        tracemalloc.start()
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds
    if memory:
        assert tracemalloc.get_traced_memory()[1] < memory
        tracemalloc.stop()
