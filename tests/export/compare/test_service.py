"""A running service is compared with PyTorch from the bytes of a file on."""

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from export.compare import service
from export.compare.samples import Samples, samples
from toolkit.errors import CheckFailedError, UsageError
from toolkit.runtime.session import open_model
from toolkit.xray.reading import decode


class StandIn(BaseHTTPRequestHandler):
    """Answers as the service does, from the real pipeline; what `spoiled` has is changed."""

    protocol_version = "HTTP/1.1"

    def __init__(self, predictor, spoiled, *arguments):
        self.predictor, self.spoiled = predictor, spoiled
        super().__init__(*arguments)

    def do_POST(self):
        xray = decode(self.rfile.read(int(self.headers["content-length"])))
        shares = self.predictor.predict(xray[None]).probabilities[0]
        if self.spoiled.get("unnatural") and not 20 < xray.mean() < 120:
            shares = shares[::-1]
        answer = {
            "probabilities": [float(share) + self.spoiled.get("by", 0.0) for share in shares],
            "class": int(shares.argmax()),
            "label": "any",
            "model": "any",
            "model_sha256": self.spoiled.get("sha256", self.predictor.sha256),
            "provider": self.predictor.provider,
        }
        content = json.dumps(answer).encode()
        self.send_response(self.spoiled.get("status", 200))
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def spoiled():
    """What the stand-in does wrong: `by`, `unnatural`, `sha256` or `status`."""
    return {}


@pytest.fixture(scope="module")
def inputs():
    """Three X-rays of each kind."""
    every = samples()
    few = [i for i, kind in enumerate(every.kinds) if every.kinds[:i].count(kind) < 3]
    return Samples(every.pixels[few], tuple(every.kinds[i] for i in few))


@pytest.fixture
def compare(small, inputs, spoiled):
    """Return a function that compares the stand-in, or the service at an address."""
    predictor = open_model(small.files.folder, small.files.name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(StandIn, predictor, spoiled))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(url=f"http://127.0.0.1:{server.server_port}"):
        return service.compare_service(url, small.pipeline, inputs, predictor.sha256)

    yield run
    server.shutdown()
    server.server_close()


def test_a_service_that_answers_as_pytorch_passes(compare, inputs):
    leg = compare()
    assert leg.batches == (1,) and leg.settings == ("one file a request",)
    assert leg.passed and leg.samples == len(inputs.kinds) + 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"by": 2e-5}, "probabilities one file a request"),
        ({"unnatural": True}, "0.01 on others"),
        ({"sha256": "f" * 64}, "ffffffffffff"),
    ],
)
def test_a_service_that_is_wrong_or_has_another_model_fails(compare, spoiled, fault, said):
    spoiled.update(fault)
    leg = compare()
    assert not leg.passed and said in leg.failures[0]


def test_a_service_that_refuses_or_cannot_be_reached_is_one_line(compare, spoiled, monkeypatch):
    for status, said in ((422, "refused an X-ray"), (500, "status 500"), (503, "busy")):
        if said == "busy":
            # What may yet come right is asked again for so long.
            monkeypatch.setattr(service, "DEADLINE_S", 1.0)
        spoiled["status"] = status
        with pytest.raises(CheckFailedError, match=said):
            compare()
    with pytest.raises(CheckFailedError, match="does not answer"):
        compare("http://127.0.0.1:9")
    with pytest.raises(UsageError, match="address"):
        compare("file:///etc/passwd")
