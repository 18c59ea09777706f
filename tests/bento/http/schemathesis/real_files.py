"""Real X-rays, for what the document calls a file."""

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from toolkit.xray.synthetic import generate


def _files(kind):
    for each in generate(3, seed=8):
        stream = io.BytesIO()
        Image.fromarray(each.pixels).save(stream, kind)
        yield stream.getvalue()


PNG, JPEG = (st.sampled_from(list(_files(kind))) for kind in ("PNG", "JPEG"))
schemathesis.openapi.format("binary", PNG)
for media, files in (
    ("image/png", PNG),
    ("image/jpeg", JPEG),
    ("application/octet-stream", PNG),
    ("application/dicom", JPEG),
):
    schemathesis.openapi.media_type(media, files)
