"""The HTTP interface in this process: whatever the body, a reason and never a 500."""

import asyncio
import io
import random

import httpx
import pytest
from PIL import Image

from bento.app import Interface
from bento.session import open_model
from toolkit.images import MAX_BYTES


class _Client:
    """Requests to an application in this process; what a handler raises fails the test."""

    def __init__(self, application):
        self.transport = httpx.ASGITransport(application, raise_app_exceptions=True)

    def request(self, method, path, **arguments):
        async def answer():
            async with httpx.AsyncClient(transport=self.transport, base_url="http://a") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(answer())

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, **arguments):
        return self.request("POST", path, **arguments)


@pytest.fixture(scope="module")
def client(served):
    predictor = open_model(served.folder, served.name, threads=1)
    return _Client(Interface(predictor).application())


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
        "model",
        "model_sha256",
    }


def test_media_type_is_told_whatever_its_case(client, encoded, xrays):
    headers = {"content-type": "Multipart/Form-Data; boundary=b"}
    answer = client.post("/predict", content=_part(encoded(xrays[0])), headers=headers)
    assert answer.status_code == 200, answer.text


def test_other_fields_beside_the_xray_are_ignored(client, encoded, xrays):
    files = {"xray": encoded(xrays[0])}
    assert client.post("/predict", files=files, data={"note": "knee"}).status_code == 200


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


@pytest.mark.parametrize("kind", [None, "application/json", "image/png", "text/plain", "nonsense"])
def test_not_multipart_is_unsupported(client, encoded, xrays, kind):
    headers = {"content-type": kind} if kind else {}
    answer = client.post("/predict", content=encoded(xrays[0]), headers=headers)
    assert _is_problem(answer, 415) == "not_multipart"


def test_missing_field_text_and_two_files_are_told_apart(client, encoded, xrays):
    png = encoded(xrays[0])
    codes = [
        _is_problem(client.post("/predict", files={"image": png})),
        _is_problem(
            client.post("/predict", files={"other": b"x"}, data={"xray": "http://a/b.png"})
        ),
        _is_problem(client.post("/predict", files=[("xray", png), ("xray", png)])),
    ]
    assert codes == ["no_xray", "not_a_file", "several_xrays"]
    _is_problem(client.post("/predict", files=[("xray", png)] * 5))
    _is_problem(
        client.post("/predict", files={"xray": png}, data={f"f{i}": "x" for i in range(99)})
    )


def test_file_over_the_limit_is_too_large(client):
    answer = client.post("/predict", files={"xray": bytes(MAX_BYTES + 1)})
    assert _is_problem(answer, 413) == "too_large"
    declared = {**MULTIPART, "content-length": str(10**12)}
    assert _is_problem(client.post("/predict", content=b"x", headers=declared), 413) == "too_large"


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
