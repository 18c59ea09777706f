"""Fixtures that any test may ask for. Nothing heavy is imported before it is asked for."""

import copy
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 60.0


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the repository; what needs it skips where it is not there."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder shared is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def real_xrays(shared):
    """About 200 real X-rays, of every part and grade that is there: uint8 (N, 224, 224)."""
    from toolkit.xray.reading import read_xray

    folders = sorted((shared / "data" / "knee").glob("*/[0-4]"))
    paths = [path for folder in folders for path in sorted(folder.glob("*.jpg"))[::3][:20]]
    if not paths:
        pytest.skip("shared/data/knee holds no X-rays")
    return np.stack([read_xray(path) for path in paths])


@pytest.fixture(scope="session")
def drawn_xrays():
    """Generated X-rays of every grade: uint8 (N, 224, 224)."""
    from toolkit.xray.synthetic import generate

    return np.stack([each.pixels for each in generate(60, seed=3, grades=(0, 1, 2, 3, 4))])


@pytest.fixture(scope="session")
def tiny():
    """A small generated Dataset with every class in its training part, and a val part."""
    from toolkit.train.dataset import generated
    from toolkit.xray.labels import label_map

    return generated(32, label_map("study"))


@pytest.fixture(scope="session")
def small_files(request, tmp_path_factory):
    """The files of one small model, exported and proven: ask for `copied` to change them.

    Made once for all workers, and for later runs of the very same code.
    """
    from toolkit.extras import versions
    from toolkit.model.files import ModelFiles

    kept = request.config.cache.mkdir("small-model")
    used = versions("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")
    digest = hashlib.sha256(repr(used).encode())
    for package in ("toolkit", "export"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update(Path(__file__).read_bytes())
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = kept / digest.hexdigest()[:16]
        if not made.is_dir():
            for older in kept.glob("[0-9a-f]*/"):
                shutil.rmtree(older)
            draft = tmp_path_factory.mktemp("draft") / "models"
            export_small_model(ModelFiles(draft, "small"))
            shutil.copytree(draft, kept / "draft", dirs_exist_ok=True)
            (kept / "draft").rename(made)
        folder = shutil.copytree(made, tmp_path_factory.mktemp("small") / "models")
    return ModelFiles(folder, "small")


def export_small_model(files):
    """Write what a training would have left of a small network, and its ONNX files."""
    import torch

    from export.export import export
    from toolkit.files import sha256
    from toolkit.model import manifest, records
    from toolkit.networks.base import Classifier
    from toolkit.networks.default import StudyNetwork
    from toolkit.networks.study import IntermediarySpaceModel
    from toolkit.train import checkpoint, novelty
    from toolkit.train.dataset import generated
    from toolkit.xray.labels import label_map

    torch.manual_seed(1)
    network = IntermediarySpaceModel(layer_size=4, dropout=0.5, classes=4)
    with torch.no_grad():
        for parameter in network.parameters():
            # PyTorch's own first weights give nearly the same logits for any X-ray.
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
        # No probability is all but 0 or 1.
        network.outputCombiner[8].weight /= 8
    checkpoint.save(network.state_dict(), files.checkpoint)
    labels, constants = label_map("study"), records.PreprocessingConstants()
    classifier = Classifier(StudyNetwork(constants), network)
    scope, limit, within = novelty.fit(classifier, generated(32, labels))
    record = manifest.Manifest(
        name=files.name,
        labels=labels,
        preprocessing=constants,
        dataset=records.DatasetRecord(
            source="generated",
            split="patient",
            counts={},
            part_sha256={},
            content_sha256="",
            skipped=0,
            patients=0,
            crossing_patients=0,
        ),
        network=records.NetworkRecord(4, 0.5, sum(map(torch.numel, network.parameters()))),
        training=records.TrainingRecord(sha256(files.checkpoint), {}, 0, "cpu", 0, {}, {}),
        calibration=records.CalibrationRecord(
            part="val",
            n=9,
            temperature=1.7,
            error_before=0.2,
            error_after=0.1,
            abstain_below=0.5,
            abstained=0.3,
            wrong_among_kept=0.05,
        ),
        scope=records.ScopeRecord(novelty.save(scope, files), "val", 9, limit, within),
    )
    manifest.save(record, files.manifest)
    result = export("onnx", files, files)
    assert result.passed, result.failures


@pytest.fixture
def copied(small_files, tmp_path):
    """The small model's files in a folder of their own."""
    from toolkit.model.files import ModelFiles

    return ModelFiles(shutil.copytree(small_files.folder, tmp_path / "models"), small_files.name)


@pytest.fixture(scope="session")
def unseen_flips():
    """Return a function that flips a bit of each of some bytes of a manifest, one after the other.

    It returns how many of them nobody saw; after each of those the manifest reads as before.
    """
    from toolkit.errors import ManifestError, ModelRefusedError
    from toolkit.model import manifest
    from toolkit.model.artifacts import check_equivalence

    def count(files, start, end):
        record, kept = manifest.load(files.manifest), files.manifest.read_bytes()
        unseen = 0
        for place in range(start, end):
            content = bytearray(kept)
            content[place] ^= 1
            files.manifest.write_bytes(content)
            try:
                found = manifest.load(files.manifest)
                check_equivalence(files, found)
            except (ManifestError, ModelRefusedError):
                continue
            # A blank or the last digit of a float can change without changing what is read.
            assert found == record, kept[place - 20 : place + 20]
            unseen += 1
        return unseen

    return count


@pytest.fixture(scope="session")
def small(small_files):
    """The small model as PyTorch: `files`, `record`, `pipeline`, and a `reference` of few X-rays.

    `inputs` and `arrays` are the X-rays of that reference, and what PyTorch makes of them.
    """
    from export.compare.artifact import Reference, reference_arrays
    from export.compare.samples import Samples, samples
    from export.convert.pipeline import load_pipeline
    from toolkit.model import manifest

    record = manifest.load(small_files.manifest)
    pipeline = load_pipeline(small_files, record)
    # One of each kind is enough where a fault is planted.
    every = samples()
    few = [every.kinds.index(kind) for kind in dict.fromkeys(every.kinds)]
    inputs = Samples(every.pixels[few], tuple(every.kinds[i] for i in few))
    arrays = reference_arrays(pipeline, inputs)
    reference = Reference(pipeline, inputs, arrays, record.labels.classes)
    return SimpleNamespace(
        files=small_files,
        record=record,
        pipeline=pipeline,
        inputs=inputs,
        arrays=arrays,
        reference=reference,
    )


@pytest.fixture
def network(small):
    """A copy of the small model's network, which a test may spoil."""
    return copy.deepcopy(small.pipeline.network).eval()


@pytest.fixture(scope="session")
def full_disk():
    """Return a context manager of a limit in bytes: no file grows beyond it, as on a full disk."""

    @contextmanager
    def limited(limit):
        former = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Python ignores the signal that comes with it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)

    return limited


@pytest.fixture
def png_folder(tmp_path):
    """Return a function that writes one PNG for each path, such as `train/2/9000001L`."""
    from PIL import Image

    def write(*paths, under="data"):
        folder = tmp_path / under
        for index, path in enumerate(paths):
            file = folder / f"{path}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([index]).integers(0, 256, (224, 224), np.uint8)
            Image.fromarray(pixels).save(file)
        return folder

    return write


@pytest.fixture(scope="session")
def free_port():
    """Return a function that finds a port of 127.0.0.1 on which nobody listens."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def command_of():
    """Return a function: the command line of a process by its id, empty where it is gone."""

    def find(process):
        try:
            return Path(f"/proc/{process}/cmdline").read_text()
        except OSError:
            return ""

    return find


@pytest.fixture(scope="session")
def workers_of(processes_below, command_of):
    """Return a function that finds the process ids of a running command's workers."""

    def find(process):
        below = processes_below(process.pid)[1:]
        return [each for each in below if "spawn_main" in command_of(each)]

    return find


@pytest.fixture(scope="session")
def started(free_port):
    """Return a function that starts `bentoml serve` on a model: its process and its address.

    `within` is a command that runs it; `command` takes the place of `bentoml serve`. A variable of
    the environment that is None is not set.
    """
    serve = (Path(sys.executable).with_name("bentoml"), "serve")

    def start(
        files, home, port=None, stdout=None, stderr=None, within=(), command=serve, **environment
    ):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TOOLKIT_", "BENTOML_"))}
        names = {"TOOLKIT_MODELS": str(files.folder), "TOOLKIT_MODEL": files.name}
        homes = {"BENTOML_HOME": str(home)} if home else {}
        wanted = clean | homes | names | environment
        port = port or free_port()
        process = subprocess.Popen(
            [*within, *command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env={name: value for name, value in wanted.items() if value is not None},
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
            # Who starts the tests may ignore a hangup, and so would their children.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        return process, f"http://127.0.0.1:{port}"

    return start


@pytest.fixture(scope="session")
def serving(started):
    """Return a context manager: a real service's process, address and log, once it is ready."""

    @contextmanager
    def run(files, home, status=200, **environment):
        log = home / "log"
        with log.open("wb") as out:
            process, url = started(files, home, None, out, subprocess.STDOUT, **environment)
        try:
            _await_status(url, status, process, log)
            yield process, url, log
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    return run


def _await_status(url, status, process, log):
    """Wait until /readyz answers with a status; of any worker."""
    end = time.monotonic() + DEADLINE_S
    last = ""
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"{last}; its log:\n{log.read_text()}"
        try:
            answer = httpx.get(f"{url}/readyz", timeout=2)
            if answer.status_code == status:
                return
            last = f"{answer.status_code} {answer.text}"
        except httpx.HTTPError as error:
            last = repr(error)
        time.sleep(0.05)


@pytest.fixture(scope="session")
def await_status():
    """Return a function of a service's url, status, process and log: wait until it has it."""
    return _await_status


@pytest.fixture(scope="session")
def processes_below():
    """Return a function: the ids of a process and of all below it."""

    def find(root):
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(path.parent.name)] = int(fields[1])
        found = [root]
        for process in found:
            found += [child for child, parent in parents.items() if parent == process]
        return found

    return find
