"""The Open Inference Protocol: its format by itself, and Triton's own client against a server."""

import gzip
import json
import tracemalloc
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tritonclient.utils import InferenceServerException

from bento.v2.tensors import MAX_BATCH, MAX_BODY, Inference, parse, render
from toolkit.errors import RequestError
from toolkit.runtime.session import open_model

MODELS = Path(__file__).resolve().parents[3] / "saved_models"
KNOWN = ("logits", "probabilities", "edge_map", "novelty")
ROW = 224 * 224
# On a busy machine any example may take long.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def request(data=None, count=1, **changes):
    tensor = {"name": "xray", "datatype": "UINT8", "shape": [count, 224, 224]}
    if data is not None:
        tensor["data"] = data
    top = {key: changes.pop(key) for key in ("id", "outputs", "parameters") if key in changes}
    return {"inputs": [tensor | changes]} | top


def binary(content, count=1, header=None, **changes):
    """Body and header length of a request with raw bytes."""
    head = request(count=count, **({"parameters": None} | changes))
    head.pop("parameters", None)
    head["inputs"][0] = {"parameters": {"binary_data_size": len(content)}} | head["inputs"][0]
    text = json.dumps(head).encode()
    return text + content, str(len(text)) if header is None else header


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224), np.uint8)


def refusal(body, header=None):
    with pytest.raises(RequestError) as error:
        parse(body if isinstance(body, bytes) else json.dumps(body).encode(), header, KNOWN)
    line = str(error.value)
    assert line.isprintable() and len(line) < 400
    return line


# --- the format


@pytest.mark.parametrize(
    ("form", "count"),
    [("flat", 1), ("flat", 3), ("nested", 1), ("nested", 3), ("raw", 1), ("raw", 64)],
)
def test_xrays_come_through_byte_for_byte(form, count):
    pixels = noise(count)
    if form == "raw":
        found = parse(*binary(pixels.tobytes(), count), KNOWN)
    else:
        data = pixels.ravel().tolist() if form == "flat" else pixels.tolist()
        found = parse(json.dumps(request(data, count)).encode(), None, KNOWN)
    assert found.xrays.dtype == np.uint8 and np.array_equal(found.xrays, pixels)
    assert found.outputs == {"logits": False, "probabilities": False} and found.identity is None


def test_what_may_be_null_is_null_and_whole_numbers_may_be_floats():
    pixels = noise(2)
    nulls = dict.fromkeys(("id", "parameters"))
    for data in (pixels.astype(float).tolist(), pixels.ravel().astype(float).tolist()):
        asked = request(data, 2, shape=[2.0, 224.0, 224.0], **nulls, outputs=None)
        asked["inputs"][0]["parameters"] = None
        found = parse(json.dumps(asked).encode(), None, KNOWN)
        assert np.array_equal(found.xrays, pixels) and found.identity is None
    parameters = {"binary_data_size": float(pixels.size)}
    outputs = [{"name": "logits", "parameters": None}]
    asked = request(None, 2, outputs=outputs, parameters={"binary_data_output": None})
    asked["inputs"][0]["parameters"] = parameters
    head = json.dumps(asked).encode()
    found = parse(head + pixels.tobytes(), str(len(head)), KNOWN)
    assert np.array_equal(found.xrays, pixels) and found.outputs == {"logits": False}


def test_sixty_four_xrays_in_json_fit_the_body():
    white = np.full((MAX_BATCH, 224, 224), 255).tolist()
    body = json.dumps(request(white, MAX_BATCH)).encode()
    assert len(body) < MAX_BODY and parse(body, None, KNOWN).xrays.all()


# ONNX Runtime flushes denormals in a thread that it ran in, for good.
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@given(
    st.lists(st.tuples(st.sampled_from(KNOWN), st.booleans()), unique_by=lambda each: each[0]),
    st.one_of(st.none(), st.text(max_size=50)),
    st.integers(1, 3),
    st.booleans(),
)
@settings(PATIENT, max_examples=25)
def test_what_is_asked_for_is_given_and_tritons_client_reads_it(asked, identity, count, all_raw):
    shapes = {"logits": (count, 4), "probabilities": (count, 4), "novelty": (count,)}
    values = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 3
              for name, shape in shapes.items()} | {"edge_map": noise(count, 7)}  # fmt: skip
    outputs = [{"name": name, "parameters": {"binary_data": raw}} for name, raw in asked]
    more = {} if identity is None else {"id": identity}
    body, length = binary(noise(count).tobytes(), count, outputs=outputs, **more)
    if not asked and all_raw:
        head = json.loads(body[: int(length)]) | {"parameters": {"binary_data_output": True}}
        text = json.dumps(head).encode()
        body, length = text + body[int(length) :], str(len(text))
    found = parse(body, length, KNOWN)
    expected = dict(asked) or dict.fromkeys(("logits", "probabilities"), all_raw)
    assert list(found.outputs.items()) == list(expected.items())
    content, size = render(found, "m", "1", values)
    assert (size is not None) == any(expected.values())
    read = triton.InferResult.from_response_body(content, header_length=size)
    assert read.get_response().get("id") == identity
    assert [each["name"] for each in read.get_response()["outputs"]] == list(expected)
    for name in expected:
        got = read.as_numpy(name)
        assert got.dtype == values[name].dtype and np.array_equal(got, values[name])


@given(arrays(np.float32, (2, 4), elements=FLOATS))
@settings(PATIENT)
def test_floats_come_through_json_bit_for_bit(values):
    inference = Inference(noise(2), {"logits": False}, None)
    content, _ = render(inference, "m", "1", {"logits": values})
    found = np.array(json.loads(content)["outputs"][0]["data"], np.float32).reshape(2, 4)
    assert found.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({}, "required field `inputs`"),
        ([], "Expected `object`, got `array`"),
        ({"inputs": {}}, "Expected `array`, got `object` - at `$.inputs`"),
        ({"inputs": []}, "length >= 1 - at `$.inputs`"),
        ({"inputs": [1]}, "Expected `object`, got `int` - at `$.inputs[0]`"),
        ({"inputs": request([])["inputs"] * 2}, "length <= 1 - at `$.inputs`"),
        (request([0] * ROW, name="image"), "no input is 'image' of 'UINT8'"),
        (request([0] * ROW, name=["xray"]), "Expected `str`, got `array` - at `$.inputs[0].name`"),
        (request([0] * ROW, datatype="FP32"), "'FP32': it is xray, of UINT8"),
        (request([0] * ROW, shape=[224, 224]), "length >= 3 - at `$.inputs[0].shape`"),
        (request([0] * ROW, shape=[1, 224, 224, 1]), "not [N, 224, 224] with N from 1"),
        (request([0] * ROW, shape=[1, 224, 223]), "is [1, 224, 223], not [N, 224, 224]"),
        (request([0] * ROW, shape=[True, 224, 224]), "got `bool` - at `$.inputs[0].shape[0]`"),
        (request([0] * ROW, shape=[1.5, 224, 224]), "N from 1 to 64"),
        (request([0] * ROW, shape=[1, 224, 224.5]), "is [1, 224, 224.5], not"),
        (request([0] * ROW, shape=[None, 224, 224]), "got `null` - at `$.inputs[0].shape[0]`"),
        (request([], shape=[0, 224, 224]), "N from 1 to 64"),
        (request([], shape=[-1, 224, 224]), "N from 1 to 64"),
        (request([], shape=[65, 224, 224]), "N from 1 to 64"),
        (request([], shape=[10**4000, 224, 224]), "N from 1 to 64"),
        (request([], shape=[[[1] * 9]]), "got `array` - at `$.inputs[0].shape[0]`"),
        (request([], shape="1"), "Expected `array`, got `str`"),
        (request(), "data of xray cannot be read: Expected `array`, got `null`"),
        (request({"0": 1}), "data of xray cannot be read: Expected `array`, got `object`"),
        (request(10**9), "data of xray cannot be read: Expected `array`, got `int`"),
        (request("x" * ROW), "data of xray cannot be read: Expected `array`, got `str`"),
        (request([]), "has 0 values"),
        (request([0] * (ROW - 1)), "50175 values: 1 X-rays have 50176"),
        (request([0] * (ROW + 1)), "50177 values"),
        (request([0] * ROW, count=2), "2 X-rays have 100352"),
        (request([256, *[0] * (ROW - 1)]), "Expected `int` <= 255 - at `$[0]`"),
        (request([-1, *[0] * (ROW - 1)]), "Expected `int` >= 0"),
        (request([10**400, *[0] * (ROW - 1)]), "Expected `int` <= 255"),
        (request([0.5, *[0] * (ROW - 1)]), "Expected `int`, got `float`"),
        (request([256.0, *[0] * (ROW - 1)]), "Expected `int` <= 255 - at `$[0]`"),
        (request(["1.0", *[0] * (ROW - 1)]), "Expected `int`, got `str`"),
        (request([True, *[0] * (ROW - 1)]), "Expected `int`, got `bool`"),
        (request([None, *[0] * (ROW - 1)]), "Expected `int`, got `null`"),
        (request(["0", *[0] * (ROW - 1)]), "Expected `int`, got `str`"),
        (request([0, [0], *[0] * (ROW - 2)]), "Expected `int`, got `array` - at `$[1]`"),
        (request([float("nan"), *[0] * (ROW - 1)]), "JSON is malformed"),
        (request([[0] * ROW]), "got `int` - at `$[0][0]`"),
        (request([[[0] * 224] * 223]), "Expected `array` of length >= 224 - at `$[0]`"),
        (request([[[0] * 224] * 223 + [[0] * 223]]), "length >= 224 - at `$[0][223]`"),
        (request([[[0] * 224] * 224, 1]), "Expected `array`, got `int` - at `$[1]`"),
        (request([0] * ROW, id=5), "Expected `str | null`, got `int` - at `$.id`"),
        (request([0] * ROW, id="x" * 257), "length <= 256 - at `$.id`"),
        (request([0] * ROW, id="\ud800"), "the JSON cannot be read"),
        (request([0] * ROW, outputs={}), "got `object` - at `$.outputs`"),
        (request([0] * ROW, outputs=["logits"]), "got `str` - at `$.outputs[0]`"),
        (request([0] * ROW, outputs=[{"name": "classes"}]), "no output is called 'classes'"),
        (request([0] * ROW, outputs=[{"name": []}]), "got `array` - at `$.outputs[0].name`"),
        (request([0] * ROW, outputs=[{"name": "logits"}] * 2), "asked for twice"),
        (
            request([0] * ROW, outputs=[{"name": "logits", "parameters": {"classification": 2}}]),
            "unknown field `classification` - at `$.outputs[0].parameters`",
        ),
        (
            request([0] * ROW, outputs=[{"name": "logits", "parameters": {"binary_data": 1}}]),
            "got `int` - at `$.outputs[0].parameters.binary_data`",
        ),
        (
            request([0] * ROW, parameters={"binary_data_output": "yes"}),
            "got `str` - at `$.parameters.binary_data_output`",
        ),
        (request([0] * ROW, parameters=[]), "got `array` - at `$.parameters`"),
        (b"", "cannot be read"),
        (b"\xff\xfe{\x00}\x00", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"inputs":' + b"9" * 5000 + b"}", "cannot be read"),
    ],
)  # fmt: skip
def test_a_request_that_is_wrong_is_refused_and_told_why(bad, said):
    assert said in refusal(bad)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"header": "-1"}, "is '-1'"),
        ({"header": "1e3"}, "is '1e3'"),
        ({"header": "+20"}, "is '+20'"),
        ({"header": ""}, "is ''"),
        ({"header": "²"}, "is '\\xb2'"),
        ({"header": "9" * 100_000}, "Inference-Header-Content-Length is"),
        ({"header": "999999999"}, "and the body has"),
        ({"header": "0"}, "cannot be read"),
        ({"header": "10"}, "cannot be read"),
        ({"count": 2}, "2 X-rays have 100352"),
        ({"data": [0]}, "both data and binary_data_size"),
    ],
)
def test_a_header_that_lies_is_refused(change, said):
    assert said in refusal(*binary(bytes(ROW), **change))


@pytest.mark.parametrize(
    "size", [0, -1, ROW - 1, ROW + 1, 2**63, 10**400, True, None, "50176", 5e4]
)
def test_a_size_that_lies_is_refused(size):
    head = request()
    head["inputs"][0]["parameters"] = {"binary_data_size": size}
    text = json.dumps(head).encode()
    found = refusal(text + bytes(ROW), str(len(text)))
    assert "binary_data_size" in found or "out of range" in found


@pytest.mark.parametrize("sent", [0, ROW - 1, ROW + 1])
def test_more_or_fewer_bytes_than_the_size_are_refused(sent):
    body, length = binary(bytes(ROW))
    assert f"{sent} bytes follow" in refusal(body[: int(length)] + bytes(sent), length)


def test_bytes_that_nobody_speaks_of_are_refused():
    text = json.dumps(request([0] * ROW)).encode()
    assert "7 bytes after the JSON" in refusal(text + bytes(7), str(len(text)))
    assert "cannot be read" in refusal(*binary(bytes(ROW), header=None)[:1])


def test_a_body_over_the_limit_is_413():
    with pytest.raises(RequestError) as error:
        parse(bytes(MAX_BODY + 1), None, KNOWN)
    assert error.value.status == 413


@pytest.mark.parametrize(
    "head", [b"[", b'{"outputs":[', b'{"inputs":[{"name":"xray","datatype":"UINT8","shape":'
             b'[64,224,224],"data":['],
)  # fmt: skip
@pytest.mark.parametrize("item", [b"[],", b"{},", b'"ab",', b"1e1,"])
def test_a_body_of_nothing_does_not_fill_the_memory(head, item):
    body = head + item * ((MAX_BODY - 100) // len(item)) + b"0]"
    tracemalloc.start()
    refusal(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9)
    | st.floats(allow_subnormal=False)
    | st.sampled_from(["xray", "UINT8", [1, 224, 224], "logits", ROW]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["inputs", "outputs", "name", "datatype", "shape", "data", "parameters", "id",
             "binary_data_size", "binary_data", "binary_data_output"]
        ),
        inner,
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    _ANY, _ANY, st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=12), st.integers())
)
@settings(PATIENT, max_examples=120)
def test_whatever_comes_is_refused_in_one_line(whole, part, tail, header):
    """Both any JSON, and a good request with one part spoiled."""
    good = request(outputs=[{"name": "logits"}])
    spoiled = [whole, good | {"outputs": part}, good | {"parameters": part}]
    spoiled += [{"inputs": [good["inputs"][0] | {key: part}]}
                for key in ("shape", "datatype", "name", "data", "parameters")]  # fmt: skip
    for each in spoiled:
        text = json.dumps(each).encode()
        for length in (str(header) if header is not None else None, str(len(text)), None):
            refusal(text + tail, length)


# --- the routes


@pytest.fixture(scope="module")
def server(shipped_service):
    """Address of a service of the shipped model, without its scheme, and the model here."""
    predictor = open_model(MODELS, "model_saved", "cpu", threads=1)
    return shipped_service.removeprefix("http://"), predictor


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server[0]) as client:
        yield client


@pytest.fixture
def plain(server):
    with httpx.Client(base_url=f"http://{server[0]}", timeout=30) as client:
        yield client


def test_tritons_client_finds_server_and_model(client, server):
    predictor = server[1]
    version = predictor.sha256[:12]
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("model_saved") and client.is_model_ready("model_saved", version)
    assert not client.is_model_ready("other") and not client.is_model_ready("model_saved", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    about = client.get_model_metadata("model_saved", version)
    assert about["inputs"] == [{"name": "xray", "datatype": "UINT8", "shape": [-1, 224, 224]}]
    shapes = {each["name"]: (each["datatype"], each["shape"]) for each in about["outputs"]}
    assert shapes["logits"] == shapes["probabilities"] == ("FP32", [-1, 4])
    assert shapes["edge_map"] == ("UINT8", [-1, 224, 224]) and shapes["novelty"] == ("FP32", [-1])


@pytest.mark.parametrize("sent_raw", [True, False])
@pytest.mark.parametrize("raw", [True, False, None])
def test_tritons_client_is_answered_as_the_model_answers(
    client, server, drawn_xrays, sent_raw, raw
):
    predictor, pixels = server[1], drawn_xrays[:5]
    tensor = triton.InferInput("xray", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=sent_raw)
    names = ("novelty", "edge_map", "probabilities", "logits")
    outputs = None if raw is None else [triton.InferRequestedOutput(n, raw) for n in names]
    found = client.infer("model_saved", [tensor], outputs=outputs, request_id="seven")
    known = predictor.predict(pixels)
    assert found.get_response()["id"] == "seven"
    assert found.get_response()["model_version"] == predictor.sha256[:12]
    for name in ("logits", "probabilities", *(names[:1] if outputs else ())):
        assert found.as_numpy(name).tobytes() == getattr(known, name).tobytes()
    edges = found.as_numpy("edge_map")
    assert (
        edges is None
        if raw is None
        else np.array_equal(edges, predictor.run(["edge_map"], pixels)["edge_map"])
    )


def test_tritons_client_is_told_why_it_is_refused(client):
    pixels = noise(65)
    tensor = triton.InferInput("xray", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    with pytest.raises(InferenceServerException, match="N from 1 to 64"):
        client.infer("model_saved", [tensor])
    with pytest.raises(InferenceServerException, match="no model is called 'other'"):
        client.infer("other", [tensor])
    with pytest.raises(InferenceServerException, match="compressed") as error:
        client.infer("model_saved", [tensor], request_compression_algorithm="gzip")
    assert error.value.status() == "415"


def test_every_refusal_is_the_protocols_own(plain):
    path = "/v2/models/model_saved/infer"
    bomb = gzip.compress(bytes(50_000_000))
    half = json.dumps(request([0] * ROW, outputs=[{"name": "\ud800"}]))
    for answer, status in (
        (plain.get("/v2/nonsense"), 404),
        (plain.get("/v2/models/a%2Fb"), 404),
        (plain.get("/v2/models/%0a%1b[2J"), 404),
        (plain.get(path), 405),
        (plain.post("/v2/health/live"), 405),
        (plain.delete("/v2"), 405),
        (plain.post(path, content=b"{}"), 400),
        (plain.post(path, content=half), 400),
        (plain.post(path, content=bomb, headers={"content-encoding": "gzip"}), 415),
        (plain.post(path, content=bytes(MAX_BODY + 1)), 413),
        (plain.post(path, content=(bytes(1_000_000) for _ in range(25))), 413),
    ):
        assert answer.status_code == status, (answer.request.url, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        content = answer.json()
        assert content["error"] == content["detail"] and content["error"].isprintable()
        assert content["status"] == status and content["title"] and content["code"]
    assert plain.get(path).headers["allow"] == "POST"


def test_not_ready_and_busy_are_told_as_the_protocol_does(
    served, copied, plant, open_interface, monkeypatch
):
    path, body = f"/v2/models/{served.name}", json.dumps(request([0] * ROW))

    def spoil(golden):
        golden["logits"] += 1

    plant(copied, spoil)
    with open_interface(copied) as client:
        assert client.get("/v2/health/live").status_code == 200
        for place in ("/v2/health/ready", f"{path}/ready"):
            answer = client.get(place)
            assert answer.status_code == 503 and answer.json()["ready"] is False
            assert answer.headers["retry-after"]
        assert client.get(path).status_code == 503
        answer = client.post(f"{path}/infer", content=body)
        assert answer.status_code == 503 and "/readyz says why" in answer.json()["error"]
    with open_interface(served) as client:
        assert client.get(f"{path}/ready").json() == {"ready": True, "name": served.name}
        monkeypatch.setattr("bento.worker.model_thread.MOST_WAITING", -1)
        answer = client.post(f"{path}/infer", content=body)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert "requests wait already" in answer.json()["error"]
