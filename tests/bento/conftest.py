"""One small model, exported and proven once, and X-rays to send."""

import asyncio
import io
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from toolkit.model.files import ModelFiles
from toolkit.xray.synthetic import generate


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The model's files; they are not to be changed: ask for `copied` to do that."""
    import torch

    from export.export import export
    from toolkit.files import sha256
    from toolkit.model import manifest
    from toolkit.networks.study import IntermediarySpaceModel, parameter_count
    from toolkit.train import checkpoint
    from toolkit.xray.labels import label_map

    files = ModelFiles(tmp_path_factory.mktemp("served"), "served")
    torch.manual_seed(1)
    network = IntermediarySpaceModel(layer_size=4, dropout=0.5, classes=4)
    for parameter in network.parameters():
        # PyTorch's own first weights give nearly the same logits for any X-ray.
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    with torch.no_grad():
        network.outputCombiner[8].weight /= 8
    checkpoint.save(network.state_dict(), files.checkpoint)
    record = manifest.Manifest(
        name=files.name,
        labels=label_map("study"),
        preprocessing=manifest.PreprocessingConstants(),
        dataset=manifest.DatasetRecord("generated", "patient", {}, {}, "", 0, 0, 0),
        network=manifest.NetworkRecord(4, 0.5, parameter_count(network)),
        training=manifest.TrainingRecord(sha256(files.checkpoint), {}, 0, "cpu", 0, {}, {}),
        calibration=manifest.CalibrationRecord("val", 9, 1.7, 0.2, 0.1, 0.5, 0.3, 0.05),
    )
    manifest.save(record, files.manifest)
    result = export("onnx", files, files).record
    assert result.equivalence.passed, result.equivalence
    return files


@pytest.fixture
def copied(served, tmp_path):
    """The model's files in a folder of their own."""
    folder = tmp_path / "models"
    shutil.copytree(served.folder, folder)
    return ModelFiles(folder, served.name)


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
        self.interface = interface
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
    from bento.worker.assembly import check, interface
    from bento.worker.log import Log
    from bento.worker.settings import settings

    @contextmanager
    def opened(files, **environment):
        names = {"TOOLKIT_MODELS": str(files.folder), "TOOLKIT_MODEL": files.name}
        information = check(settings(names | {"TOOLKIT_WORKERS": "1"} | environment))
        served = interface(information, 0, Log(io.StringIO()))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        client = Client(served, loop)
        try:
            client.do(served.start())
            yield client
        finally:
            client.do(_stopped(served))
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return opened


async def _stopped(served):
    served.stop()
