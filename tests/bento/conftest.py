"""The small model in this process and as a service, and X-rays to send."""

import asyncio
import io
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from toolkit.model.files import ModelFiles
from toolkit.xray.synthetic import generate


@pytest.fixture(scope="session")
def served(small_files):
    """The model's files; they are not to be changed: ask for `copied` to do that."""
    return small_files


@pytest.fixture(scope="session")
def shipped_service(serving, tmp_path_factory):
    """The address of a service of the model that the repository ships, with one worker."""
    files = ModelFiles(Path(__file__).resolve().parents[2] / "saved_models", "model_saved")
    with serving(files, tmp_path_factory.mktemp("shipped"), TOOLKIT_WORKERS="1") as (_, url, _):
        yield url


def _edit(**changes):
    """Return a function that replaces parts of a manifest, each by what a function makes of it."""

    def spoil(files):
        from toolkit.model import manifest

        record = manifest.load(files.manifest)
        parts = {name: change(getattr(record, name)) for name, change in changes.items()}
        manifest.save(replace(record, **parts), files.manifest)

    return spoil


def _leg(**changes):
    """Return a function that changes what the verdict says of the pipeline."""

    def change(verdict):
        leg = replace(verdict.legs["pipeline"], **changes)
        return replace(verdict, legs=verdict.legs | {"pipeline": leg})

    return _edit(equivalence=change)


def _newer_schema(files):
    text = files.manifest.read_text().replace('"schema_version": 1', '"schema_version": 2')
    files.manifest.write_text(text)


def _one_byte(files):
    content = bytearray(files.path("pipeline").read_bytes())
    content[len(content) // 2] ^= 1
    files.path("pipeline").write_bytes(content)


def _only_the_network(verdict):
    return replace(verdict, legs={"network": verdict.legs["network"]})


FAULTS = {
    "no manifest": (lambda files: files.manifest.unlink(), "ManifestError", "does not exist"),
    "newer schema": (_newer_schema, "ManifestError", "has schema version 2, this toolkit reads 1"),
    "broken manifest": (
        lambda files: files.manifest.write_text("{"),
        *("ManifestError", "cannot be read as a manifest"),
    ),
    "another name": (_edit(name=lambda _: "b"), "ManifestError", "describes 'b'"),
    "one byte": (_one_byte, "ModelRefusedError", "is not the file that was proven: its SHA-256"),
    "no pipeline": (
        lambda files: files.path("pipeline").unlink(),
        *("ModelRefusedError", "has no exported pipeline"),
    ),
    "not exported": (_edit(export=lambda _: None), "ModelRefusedError", "has no exported pipeline"),
    "no verdict": (
        _edit(equivalence=lambda _: None),
        "ModelRefusedError",
        "has no equivalence verdict",
    ),
    "failed verdict": (
        _edit(equivalence=lambda verdict: replace(verdict, passed=False)),
        *("ModelRefusedError", "was found not equal to PyTorch"),
    ),
    "failed leg": (_leg(passed=False), "ModelRefusedError", "was found not equal to PyTorch"),
    "another file's verdict": (
        _leg(sha256="0" * 64),
        "ModelRefusedError",
        "is not the file that was proven",
    ),
    "only the network proven": (
        _edit(equivalence=_only_the_network),
        "ModelRefusedError",
        "has no equivalence verdict",
    ),
}


@pytest.fixture(params=FAULTS)
def fault(request):
    """A way to spoil a model's files, the error that it raises, and what that says."""
    from toolkit import errors

    spoil, error, message = FAULTS[request.param]
    return spoil, getattr(errors, error), message


@pytest.fixture(scope="session")
def plant():
    """Return a function that changes the golden X-rays, and lets the manifest know of it."""
    from toolkit.files import sha256
    from toolkit.model import manifest

    def planted(files, change):
        golden = dict(np.load(files.path("golden"), allow_pickle=False))
        change(golden)
        np.savez_compressed(files.path("golden"), **golden)
        record = manifest.load(files.manifest)
        digest = sha256(files.path("golden"))
        manifest.save(replace(record, golden=replace(record.golden, sha256=digest)), files.manifest)

    return planted


@pytest.fixture(scope="session")
def xrays():
    """Generated X-rays: uint8 (8, 224, 224)."""
    return np.stack([each.pixels for each in generate(8, seed=5)])


@pytest.fixture(scope="session")
def encoded():
    """Return a function that makes a file of pixels, in the format that Pillow calls so."""

    def encode(pixels, kind="PNG"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    return encode


@pytest.fixture(scope="session")
def as_dicom():
    """Return a function that makes a DICOM file, with a patient's name, of grey bytes."""
    from pydicom import Dataset, dcmwrite
    from pydicom.dataset import FileMetaDataset

    def encode(pixels):
        each = Dataset()
        each.PatientName, each.SpecificCharacterSet = "Doe^Jane", "ISO_IR 192"
        each.SamplesPerPixel, each.PhotometricInterpretation = 1, "MONOCHROME2"
        each.Rows, each.Columns = pixels.shape
        each.BitsAllocated = each.BitsStored = 8
        each.HighBit, each.PixelRepresentation = 7, 0
        each.PixelData = pixels.tobytes()
        each["PixelData"].VR = "OB"
        each.file_meta = FileMetaDataset()
        each.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        each.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        each.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
        stream = io.BytesIO()
        dcmwrite(stream, each, enforce_file_format=True)
        return stream.getvalue()

    return encode


class Client:
    """Requests to an interface in this process; what a handler lets escape fails the test."""

    def __init__(self, interface, loop):
        self.interface, self.worker = interface, interface.worker
        self._transport = httpx.ASGITransport(interface, raise_app_exceptions=True)
        self._loop = loop

    def do(self, coroutine):
        """Run a coroutine in the interface's event loop and return what it does."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def send(self, method, path, **arguments):
        async with httpx.AsyncClient(transport=self._transport, base_url="http://a") as client:
            return await client.request(method, path, **arguments)

    def request(self, method, path, **arguments):
        return self.do(self.send(method, path, **arguments))

    def get(self, path, **arguments):
        return self.request("GET", path, **arguments)

    def post(self, path, **arguments):
        return self.request("POST", path, **arguments)


@pytest.fixture(scope="session")
def open_interface():
    """Return a context manager that serves a model in this process, once it says if it is ready."""
    from bento.http.app import Interface
    from bento.http.routes import NAMES
    from bento.worker.assembly import Worker, check
    from bento.worker.log import Log
    from bento.worker.settings import settings

    @contextmanager
    def opened(files, **environment):
        names = {"TOOLKIT_MODELS": str(files.folder), "TOOLKIT_MODEL": files.name}
        information = check(settings(names | {"TOOLKIT_WORKERS": "1"} | environment))
        worker = Worker(information, NAMES, 0, Log(io.StringIO()))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        client = Client(Interface(worker), loop)
        try:
            client.do(worker.start())
            yield client
        finally:
            client.do(asyncio.to_thread(worker.stop))
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return opened
