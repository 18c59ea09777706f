"""The HTTP interface in this process: whatever the body, a reason and never a 500."""

import asyncio
import codecs
import gc
import gzip
import io
import random
import socket
import struct
import time
import zlib

import pytest
from PIL import Image

from bento.http.form import MAX_FILES, files
from bento.http.upload import Body, Memory
from toolkit.errors import ImageError, RequestError
from toolkit.xray.reading import MAX_BYTES


@pytest.fixture(scope="module")
def client(served, open_interface):
    with open_interface(served) as client:
        yield client


def _is_problem(answer, status=None):
    content = answer.json()
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert content["status"] == answer.status_code
    assert content["code"] and content["detail"] and content["title"]
    assert status in (None, answer.status_code), answer.text
    return content["code"]


def _part(content, headers=b'Content-Disposition: form-data; name="xray"; filename="a.png"'):
    return b"--b\r\n" + headers + b"\r\n\r\n" + content + b"\r\n--b--\r\n"


MULTIPART = {"content-type": "multipart/form-data; boundary=b"}


def test_png_by_multipart_is_answered(client, encoded, xrays):
    answer = client.post("/predict", content=_part(encoded(xrays[0])), headers=MULTIPART)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {
        "class",
        "label",
        "probabilities",
        "expected_grade",
        "abstain",
        "in_scope",
        "model",
        "model_sha256",
        "provider",
    }


def test_media_type_is_told_whatever_its_case(client, encoded, xrays):
    headers = {"content-type": "Multipart/Form-Data; boundary=b"}
    answer = client.post("/predict", content=_part(encoded(xrays[0])), headers=headers)
    assert answer.status_code == 200, answer.text


def test_other_fields_beside_the_xray_are_ignored(client, encoded, xrays):
    files = {"xray": encoded(xrays[0])}
    assert client.post("/predict", files=files, data={"note": "knee"}).status_code == 200


def test_client_chooses_no_codec(client):
    asked = []
    codecs.register(asked.append)
    try:
        kind = MULTIPART["content-type"] + "; charset=knee"
        text = _part("é".encode(), b'Content-Disposition: form-data; name="xray"')
        answer = client.post("/predict", content=text, headers={"content-type": kind})
    finally:
        codecs.unregister(asked.append)
    assert _is_problem(answer) == "not_a_file" and "knee" not in asked


_HARD = {
    "almost the boundary": (b"", b"", b"\r\n--b"[:4] * 2),
    "the boundary in a line": (b"", b"", b"\r\n--b "),
    "padding": (b"--b", b"", b" "),
    "headers": (b"--b\r\n", b"", b"a: b\r\n"),
    "parameters": (b'--b\r\nContent-Disposition: form-data; name="', b"", b';a="'),
    "quotes": (b"--b\r\nContent-Disposition: form-data; ", b"", b'\\"'),
}


@pytest.mark.parametrize("case", [*_HARD, "content-type"])
def test_reading_a_form_takes_time_linear_in_its_bytes(case):
    start, end, piece = _HARD.get(case, (b"", b"", b"x"))
    kind = MULTIPART["content-type"].encode() + end
    if case == "content-type":
        kind += b'; a="' + b";b=" * 20_000
    seconds = []
    for size in (1_000_000, 8_000_000):
        begun = time.thread_time()
        with pytest.raises(ImageError):
            files(start + piece * (size // len(piece)), kind, 2)
        seconds.append(time.thread_time() - begun)
    # Quadratic would be 64 times as long, and far over a second.
    assert seconds[1] < 0.3, seconds


ONLY_FILES = {
    "a filename": ('; filename="k"', ""),
    "filename* alone": ("; filename*=UTF-8''k.png", ""),
    "an image's type": ("", "\r\nContent-Type: image/png"),
    "nothing, and a PNG": ("", ""),
    "a text's type, and a PNG": ("", "\r\nContent-Type: text/plain"),
    "names in other cases": ("; FileName=k", "\r\ncontent-TYPE: text/plain"),
}


@pytest.mark.parametrize("case", ONLY_FILES)
def test_part_that_can_only_be_a_file_is_taken_as_one(client, encoded, xrays, case):
    parameter, header = ONLY_FILES[case]
    head = f'Content-Disposition: form-data; name="xray"{parameter}{header}'.encode()
    for preamble in (b"", b"hello\r\n"):
        body = preamble + _part(encoded(xrays[0]), head)
        answer = client.post("/predict", content=body, headers=MULTIPART)
        assert answer.status_code == 200, answer.text


def test_form_without_its_end_is_told_as_that(client, encoded, xrays):
    body = _part(encoded(xrays[0])).removesuffix(b"\r\n--b--\r\n")
    answer = client.post("/predict", content=body, headers=MULTIPART)
    assert _is_problem(answer, 400) == "bad_multipart" and "cut off" in answer.json()["detail"]


MALFORMED = {
    "no boundary": (b"x", "multipart/form-data"),
    "empty boundary": (b"x", "multipart/form-data; boundary="),
    "boundary beyond ASCII": (b"x", "multipart/form-data; boundary=\xe4\xf6"),
    "long boundary": (b"x", "multipart/form-data; boundary=" + "b" * 5000),
    "odd charset": (_part(b"x"), "multipart/form-data; boundary=b; charset=nonsense"),
    "empty body": (b"", MULTIPART["content-type"]),
    "not begun": (b"--", MULTIPART["content-type"]),
    "only an end": (b"--b--\r\n", MULTIPART["content-type"]),
    "cut in the headers": (b"--b\r\nContent-Dispos", MULTIPART["content-type"]),
    "cut in the file": (_part(b"x" * 500)[:300], MULTIPART["content-type"]),
    "no disposition": (_part(b"x", b"X-Header: 1"), MULTIPART["content-type"]),
    "no name": (_part(b"x", b"Content-Disposition: form-data"), MULTIPART["content-type"]),
    "bytes as a name": (
        _part(b"x", b'Content-Disposition: form-data; name="\xff\xfe"; filename="a"'),
        MULTIPART["content-type"],
    ),
    "header without a colon": (_part(b"x", b"Nonsense"), MULTIPART["content-type"]),
    "long header": (_part(b"x", b"X: " + b"y" * 100_000), MULTIPART["content-type"]),
    "empty file": (_part(b""), MULTIPART["content-type"]),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_body_is_refused_with_a_reason(client, case):
    content, kind = MALFORMED[case]
    answer = client.post(
        "/predict", content=content, headers={"content-type": kind.encode("latin-1")}
    )
    _is_problem(answer)


def test_compressed_body_is_told_as_that(client, encoded, xrays):
    png = encoded(xrays[0])
    for content, kind in ((png, "image/png"), (_part(png), MULTIPART["content-type"])):
        for coding in ("gzip", "x-gzip", "br", "deflate", "GZIP"):
            headers = {"content-type": kind, "content-encoding": coding}
            answer = client.post("/predict", content=gzip.compress(content), headers=headers)
            assert _is_problem(answer, 415) == "compressed"
        plain = {"content-type": kind, "content-encoding": "Identity"}
        assert client.post("/predict", content=content, headers=plain).status_code == 200


RAW = ["image/png", "image/jpeg", "application/octet-stream", "Image/PNG; charset=utf-8"]
RAW += ["image/jpg", "image/x-png", "binary/octet-stream"]


@pytest.mark.parametrize("kind", RAW)
def test_file_as_the_body_is_answered_as_in_multipart(client, encoded, xrays, kind):
    png = encoded(xrays[0])
    raw = client.post("/predict", content=png, headers={"content-type": kind})
    assert raw.status_code == 200, raw.text
    assert raw.json() == client.post("/predict", files={"xray": png}).json()


@pytest.mark.parametrize(
    "kind",
    [None, "application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"],
)
def test_other_media_type_is_unsupported(client, encoded, xrays, kind):
    headers = {"content-type": kind} if kind else {}
    answer = client.post("/predict", content=encoded(xrays[0]), headers=headers)
    assert _is_problem(answer, 415) == "unsupported_media_type"


def test_address_or_json_as_the_file_is_no_image_and_never_fetched(client):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/xray.png".encode()
        for content in (address, b'{"url": "' + address + b'"}'):
            for arguments in (
                {"content": content, "headers": {"content-type": "image/png"}},
                {"files": {"xray": content}},
                {"files": {"x": b"x"}, "data": {"xray": content.decode()}},
            ):
                _is_problem(client.post("/predict", **arguments))
        with pytest.raises(TimeoutError):
            listener.accept()


def _huge_png():
    """A PNG whose header says 5000 x 4000 pixels, in a few hundred bytes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 5000, 4000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(5001 * 100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def _requests(png):
    image = {"content-type": "image/png"}
    multi = {**MULTIPART, "content-length": str(10**12)}
    return {
        "no image": ({"files": {"xray": b"certainly no image"}}, 415, "not_an_image"),
        "empty": ({"files": {"xray": b""}}, 415, "not_an_image"),
        "truncated": ({"files": {"xray": png[: len(png) // 2]}}, 422, "truncated"),
        "megapixels": ({"files": {"xray": _huge_png()}}, 422, "too_many_pixels"),
        "text": ({"files": {"x": b"x"}, "data": {"xray": "http://a/b"}}, 422, "not_a_file"),
        "no field": ({"files": {"image": png}}, 422, "no_xray"),
        "two files": ({"files": [("xray", png)] * 2}, 422, "several_xrays"),
        "five files": ({"files": [("xray", png)] * 5}, 400, "bad_multipart"),
        "many fields": (
            {"files": {"xray": png}, "data": {f"f{i}": "x" for i in range(99)}},
            *(400, "bad_multipart"),
        ),
        "form": ({"data": {"xray": "http://a/b.png"}}, 415, "unsupported_media_type"),
        "address": ({"content": b"http://a/b", "headers": image}, 415, "not_an_image"),
        "raw too large": ({"content": bytes(MAX_BYTES + 1), "headers": image}, 413, "too_large"),
        "too large": ({"files": {"xray": bytes(MAX_BYTES + 1)}}, 413, "too_large"),
        "much too large": ({"files": {"xray": bytes(MAX_BYTES + 100_000)}}, 413, "too_large"),
        "said to be too large": ({"content": b"x", "headers": multi}, 413, "too_large"),
    }


@pytest.mark.parametrize("case", list(_requests(b"")))
def test_bad_request_is_refused_with_a_reason_of_its_own(client, encoded, xrays, case):
    arguments, status, code = _requests(encoded(xrays[0]))[case]
    assert _is_problem(client.post("/predict", **arguments), status) == code


def test_damaged_body_is_answered_or_refused_but_never_a_500(client, xrays):
    """Bytes of a good body changed, cut out or doubled at random; an X-ray or a reason."""
    chance = random.Random(0)
    stream = io.BytesIO()
    Image.fromarray(xrays[0]).resize((64, 64)).save(stream, "PNG")
    good = _part(stream.getvalue())
    answered = 0
    for _ in range(150):
        body = bytearray(good)
        place = chance.randrange(len(body) if chance.random() < 0.5 else 120)
        match chance.randrange(3):
            case 0:
                body[place] = chance.randrange(256)
            case 1:
                del body[place : place + chance.randrange(1, 40)]
            case _:
                body[place:place] = body[place : place + 30]
        answer = client.post("/predict", content=bytes(body), headers=MULTIPART)
        if answer.status_code == 200:
            answered += 1
        else:
            _is_problem(answer)
    assert answered < 150


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_told_to_post(client, method):
    answer = client.request(method, "/predict")
    _is_problem(answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/nowhere", "/predict/", "/docs", "/static/x.js", "/%2e%2e/etc"])
def test_unknown_route_is_a_problem_of_its_own(client, path):
    _is_problem(client.get(path), 404)


def test_document_names_the_classes_and_the_field(client):
    document = client.get("/docs.json").json()
    assert document["openapi"].startswith("3.")
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert body["schema"]["properties"]["xray"]["format"] == "binary"
    prediction = document["components"]["schemas"]["Prediction"]
    assert prediction["properties"]["label"]["enum"] == ["none", "minimal", "moderate", "severe"]


def test_bad_item_of_a_batch_harms_only_itself(client, encoded, xrays):
    good = [encoded(xrays[0]), encoded(xrays[1], "JPEG")]
    files = [("xray", each) for each in (good[0], b"no image", good[1], encoded(xrays[2])[:900])]
    answer = client.post("/predict_batch", files=files)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [list(each) for each in results] == [
        ["prediction"],
        ["problem"],
        ["prediction"],
        ["problem"],
    ]
    assert [results[at]["problem"]["code"] for at in (1, 3)] == ["not_an_image", "truncated"]
    for place, content in ((0, good[0]), (2, good[1])):
        alone = client.post("/predict", files={"xray": content}).json()
        assert results[place]["prediction"] == {
            name: alone[name] for name in results[place]["prediction"]
        }
        assert answer.json()["model_sha256"] == alone["model_sha256"]


def test_text_in_a_batch_is_refused_by_itself_and_too_many_files_as_a_whole(client, encoded, xrays):
    png = encoded(xrays[0])
    answer = client.post("/predict_batch", files=[("xray", png)], data={"xray": "http://a/b.png"})
    assert sorted(next(iter(each)) for each in answer.json()["results"]) == [
        "prediction",
        "problem",
    ]
    whole = client.post("/predict_batch", files=[("xray", png)] * MAX_FILES)
    assert len(whole.json()["results"]) == MAX_FILES
    _is_problem(client.post("/predict_batch", files=[("xray", b"x")] * (MAX_FILES + 1)))
    assert _is_problem(client.post("/predict_batch", files={"other": png})) == "no_xray"
    raw = {"content": png, "headers": {"content-type": "image/png"}}
    assert _is_problem(client.post("/predict_batch", **raw), 415) == "unsupported_media_type"


@pytest.mark.parametrize(("kind", "copies"), [(b"image/png", 2), (b"multipart/form-data", 3)])
def test_a_body_counts_with_its_copies_and_its_answer_after_it(kind, copies):
    async def received():
        return {"type": "http.request", "body": bytes(100), "more_body": False}

    async def read():
        memory = Memory(100 * copies)
        body = Body(received, {b"content-type": kind}, memory)
        await body.read(1000)
        assert memory.held == 100 * copies
        with pytest.raises(RequestError, match="too much at once"):
            await Body(received, {b"content-type": kind}, memory).read(1000)
        assert memory.held == 100 * copies, "a refused one is in nobody's way"
        body.give_way(100 * copies)
        with pytest.raises(RequestError, match="too much at once"):
            await Body(received, {b"content-type": kind}, memory).read(1000)
        body.release()
        assert memory.held == 0
        with pytest.raises(RequestError, match="too much at once"):
            body.give_way(100 * copies + 1)
        assert memory.held == 0

    asyncio.run(read())


def test_nothing_of_a_refused_request_waits_for_the_garbage_collector(client):
    """It would be megabytes, held until the collector comes round to them."""
    several = [("xray", bytes(1000))] * 3
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            assert client.post("/predict_batch", files=several).status_code == 200
            assert client.post("/predict", files={"xray": bytes(1000)}).status_code == 415
            assert client.post("/predict", content=b"--b--", headers=MULTIPART).status_code == 422
        gc.collect()
        held = [each for each in gc.garbage if isinstance(each, ImageError | RequestError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not held
