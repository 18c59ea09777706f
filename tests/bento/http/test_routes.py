"""Every route of the interface, its token, its problems, and what it says when it cannot answer."""

import asyncio
import base64
import errno
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bento.http.openapi import document
from bento.http.routes import NAMES, ROUTES, name_of
from bento.worker.counters import Metrics, share
from bento.worker.model_thread import MOST_WAITING
from toolkit.errors import ModelRefusedError
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.answer import Answer, Meaning

PAGE = Path(__file__).resolve().parents[3] / "bento/page"
RAW = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def client(served, open_interface):
    with open_interface(served) as client:
        yield client


def is_problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert (content["status"], content["code"]) == (status, code)
    assert content["title"] and content["detail"]
    return content["detail"]


def test_every_answer_bears_the_requests_id_if_it_is_sane(client, encoded, xrays):
    given = {"x-request-id": "a.B_9-" + "c" * 100}
    for path in ("/livez", "/info", "/nowhere", "/predict"):
        assert client.get(path, headers=given).headers["x-request-id"] == given["x-request-id"]
    png = encoded(xrays[0])
    answer = client.post("/predict", content=png, headers=RAW | given)
    assert answer.headers["x-request-id"] == given["x-request-id"]
    made = set()
    for odd in ("", "a b", "é".encode(), "x" * 129, "a\tb", None):
        headers = {} if odd is None else {"x-request-id": odd}
        made.add(client.get("/livez", headers=headers).headers["x-request-id"])
    assert len(made) == 6 and all(len(each) == 32 for each in made)


@pytest.mark.parametrize("path", ["/info", "/livez", "/readyz", "/metrics", "/docs.json"])
def test_reading_routes_answer_get_and_head_and_refuse_the_rest(client, path):
    assert client.get(path).status_code == 200
    assert client.request("HEAD", path).status_code == 200
    answer = client.post(path)
    is_problem(answer, 405, "wrong_method")
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("path", "name"), [("*", "other"), ("", "other"), ("/app/no.css", "app"), ("/v2/no", "v2")]
)
def test_path_without_a_route_has_a_name_whatever_it_is(path, name):
    assert name_of(path) == name


def test_what_fails_inside_is_a_problem_and_tells_nothing_of_the_inside(client, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(type(client.worker.information), "info", broken)
    answer = client.get("/info")
    assert "secret" not in is_problem(answer, 500, "internal")
    assert client.get("/livez").status_code == 200


def test_every_answer_keeps_browsers_from_making_something_else_of_it(client, encoded, xrays):
    answers = [client.get(route.path) for route in ROUTES]
    answers += [client.get("/nowhere"), client.post("/predict", content=encoded(xrays[0]))]
    answers.append(client.post("/predict", content=encoded(xrays[0]), headers=RAW))
    known = {"if-none-match": client.get("/app").headers["etag"]}
    answers.append(client.get("/app", headers=known))
    assert {each.status_code for each in answers} >= {200, 304, 307, 404, 405, 415}
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        is_page = answer.url.path.startswith("/app") and answer.status_code != 307
        assert ("script-src" in policy) == is_page


def test_page_is_found_with_a_slash_after_it(client):
    answer = client.get("/app/")
    assert answer.status_code == 307 and answer.next_request.url.path == "/app"


@pytest.mark.parametrize("lack", [MemoryError(), OSError(errno.EMFILE, "too many")])
def test_what_the_machine_lacks_is_not_told_of_the_file(client, encoded, xrays, monkeypatch, lack):
    def lacking(*_):
        raise lack

    for place in ("toolkit.runtime.session.decode", "bento.http.form.files"):
        with monkeypatch.context() as planted:
            planted.setattr(place, lacking)
            for path in ("/predict", "/predict_batch"):
                answer = client.post(path, files={"xray": encoded(xrays[0])})
                is_problem(answer, 503, "overloaded")
                assert answer.headers["retry-after"] == "5"
    assert client.post("/predict", files={"xray": encoded(xrays[0])}).status_code == 200


def test_half_a_surrogate_pair_in_a_label_leaves_the_metrics_whole(client, monkeypatch):
    text = client.worker.metrics.text()
    monkeypatch.setattr(Metrics, "text", lambda _: text + 'toolkit_x{label="a\ud800b"} 1\n')
    answer = client.get("/metrics")
    assert answer.status_code == 200 and 'label="a?b"' in answer.text


@pytest.mark.parametrize("path", ["/predict", "/predict_batch"])
def test_a_probability_that_is_no_number_is_never_answered(
    client, encoded, xrays, monkeypatch, path
):
    said = Answer(0, "none", (float("nan"), 0.5, 0.25, 0.25))
    monkeypatch.setattr(
        type(client.worker.model.predictor), "submit", lambda _self, _xrays, then: then([said])
    )
    answer = client.post(path, files={"xray": encoded(xrays[0])})
    is_problem(answer, 500, "internal")


def test_document_lists_every_route_with_an_example_that_is_like_the_answers(
    client, encoded, xrays
):
    document = client.get("/docs.json").json()
    assert document["openapi"].startswith("3.1")
    paths = document["paths"]
    files = {
        f"/app/{path.name}" for path in PAGE.iterdir() if path.suffix in (".js", ".css", ".svg")
    }
    assert {route.path for route in ROUTES} == set(paths) | files
    assert {"/", "/app", "/v2/models/{name}/infer"} <= set(paths)
    for path, arguments in {
        "/predict": {"content": encoded(xrays[0]), "headers": RAW},
        "/predict_batch": {"files": [("xray", encoded(xrays[0])), ("xray", b"x")]},
        "/explain": {"content": encoded(xrays[0]), "headers": RAW},
    }.items():
        content = paths[path]["post"]["responses"]["200"]["content"]["application/json"]
        answer = client.post(path, **arguments).json()
        assert set(answer) == set(content["example"]), path
        schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        assert set(answer) == set(schema["required"]), path


@pytest.mark.parametrize(
    ("meaning", "said"),
    [
        (Meaning(("a", "b"), ((1,), (2.5,)), scale="BI-RADS"), "On the BI-RADS scale."),
        (Meaning(("a", "b"), ((1,), (2,)), scale=""), "On the scale of the model's grades."),
        (Meaning(("a", "b")), None),
    ],
)
def test_document_has_an_expected_grade_where_the_model_has_a_scale(meaning, said):
    schemas = document(meaning)["components"]["schemas"]
    for name in ("Answer", "Prediction"):
        found = schemas[name]["properties"].get("expected_grade", {})
        assert found.get("description") == said
        assert ("expected_grade" in schemas[name]["required"]) == (said is not None)


def test_explanation_shows_the_edge_map_as_served_and_the_heat(client, served, encoded, xrays):
    from toolkit.runtime.session import open_model

    png = encoded(xrays[1])
    answer = client.post("/explain", content=png, headers=RAW).json()
    prediction = client.post("/predict", content=png, headers=RAW).json()
    assert (answer["class"], answer["label"]) == (prediction["class"], prediction["label"])
    edge_map = np.array(Image.open(io.BytesIO(base64.b64decode(answer["edge_map"]))))
    expected = open_model(served.folder, served.name).views(xrays[1])["edge_map"]
    np.testing.assert_array_equal(edge_map, expected)
    heat = Image.open(io.BytesIO(base64.b64decode(answer["heat"])))
    assert heat.width > 2 * 224 and heat.mode == "RGB"
    picture = client.post("/explain", content=png, headers=RAW | {"accept": "image/png"})
    assert picture.headers["content-type"] == "image/png"
    assert picture.content == base64.b64decode(answer["heat"])
    is_problem(client.post("/explain", content=b"x", headers=RAW), 415, "not_an_image")


@pytest.mark.full
def test_explanations_beyond_a_few_are_refused_while_predictions_go_on(client, encoded, xrays):
    png, explainer = encoded(xrays[0]), client.worker.explainer
    held = threading.Event()
    explainer._threads.submit(held.wait, 30)

    async def many():
        tasks = [
            asyncio.create_task(client.send("POST", "/explain", content=png, headers=RAW))
            for _ in range(8)
        ]
        prediction = await client.send("POST", "/predict", content=png, headers=RAW)
        held.set()
        return prediction, await asyncio.gather(*tasks)

    prediction, answers = client.do(many())
    assert prediction.status_code == 200
    statuses = sorted(each.status_code for each in answers)
    assert statuses == [200] * 5 + [503] * 3
    assert all("retry-after" in each.headers for each in answers if each.status_code == 503)


def test_model_without_an_explainer_says_so(copied, open_interface, encoded, xrays):
    copied.path("explainer").unlink()
    with open_interface(copied) as client:
        answer = client.post("/explain", content=encoded(xrays[0]), headers=RAW)
        assert "no explainer" in is_problem(answer, 404, "no_explainer")
        assert client.post("/predict", content=encoded(xrays[0]), headers=RAW).status_code == 200


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("explainer", "not the file that was proven"),
        ("golden", "is not the manifest's: its SHA-256 is"),
    ],
)
def test_changed_explainer_or_golden_xrays_of_another_export_are_refused(
    copied, open_interface, kind, reason
):
    with copied.path(kind).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelRefusedError, match=reason), open_interface(copied):
        pass


def test_information_is_the_manifests(client, served):
    record = manifest.load(served.manifest)
    answer = client.get("/info").json()
    assert answer["model_sha256"] == sha256(served.path("pipeline"))
    assert answer["checkpoint_sha256"] == record.training.checkpoint_sha256
    assert answer["classes"] == list(record.labels.classes)
    leg = record.equivalence.legs["pipeline"]
    assert answer["equivalence"] == {
        "passed": True,
        "samples": leg.samples,
        "max_abs": {each.output: each.max_abs for each in leg.outputs},
    }
    assert answer["provider"]["requested"] == "auto" and answer["precision"] == "fp32"
    assert (answer["ready"], answer["reason"]) == (True, None)


def test_token_guards_all_but_the_probes(served, open_interface, encoded, xrays):
    with open_interface(served, TOOLKIT_TOKEN="key") as client:
        refused = ("Bearer x", b"key", b"Bearer", b"Bearer ", b"Basic key", b"Bearer key x", b"")
        for headers in ({}, *({"authorization": each} for each in refused)):
            for path in ("/info", "/metrics", "/docs.json", "/predict", "/nowhere"):
                answer = client.get(path, headers=headers)
                is_problem(answer, 401, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
            answer = client.get("/v2/models/small", headers=headers)
            assert answer.json()["error"] == is_problem(answer, 401, "unauthorized")
        for probe in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert client.get(probe).status_code == 200
        wrong = client.get("/info", headers={"authorization": "Bearer x"}).json()["detail"]
        assert "is not the service's" in wrong
        for written in (b"Bearer key", b"bearer key", b"BEARER   key"):
            bearer = {"authorization": written}
            assert client.get("/info", headers=bearer).status_code == 200
        png = encoded(xrays[0])
        assert client.post("/predict", content=png, headers=RAW | bearer).status_code == 200


def _logit(golden):
    golden["logits"][0, 0] += 1e-3


def _edge(golden):
    golden["edge_map"][1, 100, 100] ^= 1


def _not_a_number(golden):
    golden["probabilities"][2, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "output"),
    [(_logit, "logits"), (_edge, "edge_map"), (_not_a_number, "probabilities")],
)
def test_planted_golden_mismatch_keeps_it_from_answering(
    copied, plant, open_interface, encoded, xrays, change, output
):
    plant(copied, change)
    with open_interface(copied) as client:
        assert f"{output} differs by" in is_problem(client.get("/readyz"), 503, "not_ready")
        answer = client.post("/predict", content=encoded(xrays[0]), headers=RAW)
        is_problem(answer, 503, "not_ready")
        assert int(answer.headers["retry-after"]) > 0
        information = client.get("/info").json()
        assert information["ready"] is False and output in information["reason"]
        assert client.get("/livez").status_code == 200


def test_failing_runtime_is_a_503_until_it_has_proven_itself_again(
    served, open_interface, encoded, xrays
):
    png = encoded(xrays[0])
    with open_interface(served) as client:
        client.worker.model._again_s = 0.05
        session = client.worker.model.predictor.engine._session

        class Lost:
            def __getattr__(self, name):
                return getattr(session, name)

            def run(self, *_):
                raise RuntimeError("the device was lost\nand more")

        client.worker.model._opener, opener = _raising("gone"), client.worker.model._opener
        client.worker.model.predictor.engine._session = Lost()
        answer = client.post("/predict", content=png, headers=RAW)
        assert "the device was lost" in is_problem(answer, 503, "not_ready")
        assert client.get("/readyz").status_code == 503
        client.worker.model._opener = opener

        async def mended():
            while client.worker.model.reason:
                await asyncio.sleep(0.01)

        client.do(asyncio.wait_for(mended(), 30))
        assert client.post("/predict", content=png, headers=RAW).status_code == 200


def test_model_that_hangs_is_not_ready_and_in_the_end_not_live_until_it_comes_back(
    served, open_interface, encoded, xrays, monkeypatch
):
    png, begun, held = encoded(xrays[0]), threading.Event(), threading.Event()

    def hang(_):
        begun.set()
        held.wait(60)

    with open_interface(served) as client:

        async def begin():
            return asyncio.create_task(client.worker.model.run(hang))

        async def ended(task):
            await task

        turn = client.do(begin())
        begun.wait(60)
        assert client.get("/readyz").status_code == client.get("/livez").status_code == 200
        monkeypatch.setattr("bento.worker.model_thread._SLOW_S", 0.0)
        assert "at one step" in is_problem(client.get("/readyz"), 503, "not_ready")
        answer = client.post("/predict", content=png, headers=RAW)
        is_problem(answer, 503, "not_ready")
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == client.get("/livez").status_code == 200
        assert "toolkit_ready 0\n" in client.get("/metrics").text
        monkeypatch.setattr("bento.worker.model_thread._STUCK_S", 0.0)
        is_problem(client.get("/livez"), 503, "stuck")
        is_problem(client.get("/v2/health/live"), 503, "stuck")
        held.set()
        client.do(ended(turn))
        assert client.get("/readyz").status_code == client.get("/livez").status_code == 200
        assert client.post("/predict", content=png, headers=RAW).status_code == 200


def test_worker_is_not_live_while_the_model_of_another_is_stuck(
    served, open_interface, monkeypatch
):
    ((variable, place),) = share().items()
    monkeypatch.setenv(variable, place)
    with open_interface(served) as client:
        one = client.worker.information
        other = Metrics(one.meaning.classes, NAMES, 1, 2)
        assert client.get("/livez").status_code == 200
        other.set("stuck", 1.0)
        other.alive()
        is_problem(client.get("/livez"), 503, "stuck")
        assert client.get("/readyz").status_code == 200
        other.set("stuck", 0.0)
        assert client.get("/livez").status_code == 200
    os.close(int(place))


def _raising(message):
    def opener():
        raise ModelRefusedError(message)

    return opener


def test_more_requests_than_may_wait_are_shed_at_once_and_the_rest_served_in_order(
    served, open_interface, encoded, xrays
):
    png, order = encoded(xrays[0]), []
    with open_interface(served) as client:
        held = threading.Event()

        async def one(number):
            answer = await client.send("POST", "/predict", content=png, headers=RAW)
            if answer.status_code == 200:
                order.append(number)
            return answer

        async def many():
            holding = asyncio.create_task(client.worker.model.run(lambda _: held.wait(30)))
            await asyncio.sleep(0)
            tasks = [asyncio.create_task(one(number)) for number in range(MOST_WAITING + 20)]
            done = 0
            while done < 20:
                done = sum(task.done() for task in tasks)
                await asyncio.sleep(0.01)
            held.set()
            await holding
            return await asyncio.gather(*tasks)

        answers = client.do(many())
        shed = [each for each in answers if each.status_code != 200]
        assert len(shed) == 20
        for each in shed:
            is_problem(each, 503, "overloaded")
            assert each.headers["retry-after"] == "1"
        assert order == sorted(order)


def test_metrics_and_log_tell_of_each_request_and_of_no_content(
    served, open_interface, encoded, xrays
):
    from prometheus_client.parser import text_string_to_metric_families

    with open_interface(served) as client:
        for _ in range(3):
            client.post("/predict", content=encoded(xrays[0]), headers=RAW)
        client.post("/predict", files={"xray": ("secret-name.png", b"not an image")})
        client.get("/secret-path?token=secret-query")
        text = client.get("/metrics").text
        client.worker.log._flush()
        lines = [json.loads(each) for each in client.worker.log._stream.getvalue().splitlines()]
    families = {each.name: each for each in text_string_to_metric_families(text)}
    requests = {
        (each.labels["route"], each.labels["status"]): each.value
        for each in families["toolkit_requests"].samples
    }
    assert requests[("predict", "200")] == 3 and requests[("predict", "415")] == 1
    assert requests[("other", "404")] == 1
    assert sum(each.value for each in families["toolkit_predictions"].samples) == 3
    for name in (
        "queue_seconds",
        "decode_seconds",
        "inference_seconds",
        "batch_size",
        "brightness",
    ):
        samples = families[f"toolkit_{name}"].samples
        count = next(each.value for each in samples if each.name.endswith("_count"))
        assert count == (4 if name in ("queue_seconds", "decode_seconds") else 3), name
        buckets = [each.value for each in samples if each.name.endswith("_bucket")]
        assert buckets == sorted(buckets) and buckets[-1] == count
    brightness = families["toolkit_brightness"].samples
    total = next(each.value for each in brightness if each.name.endswith("_sum"))
    assert total == pytest.approx(3 * xrays[0].mean(), rel=0.02)
    predicted = [each for each in lines if each.get("route") == "predict"]
    assert [each["status"] for each in predicted] == [200, 200, 200, 415]
    assert {"request_id", "ms", "class", "time", "level"} <= set(predicted[0])
    assert "secret" not in json.dumps(lines) and "secret" not in text
