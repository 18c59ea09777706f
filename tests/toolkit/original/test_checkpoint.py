"""`toolkit import`: good files come in bit for bit, hostile ones run nothing and leave nothing."""

import importlib
import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ok, refused, run_installed

from toolkit.errors import CheckpointError
from toolkit.model.files import ModelFiles
from toolkit.model.manifest import load as load_manifest
from toolkit.model.records import NetworkRecord
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.original.checkpoint import read_original
from toolkit.original.opcodes import MAX_OPCODES
from toolkit.train.checkpoint import load_network, load_trained
from toolkit.train.recipes import STUDY_EDGES

TOOLKIT = Path(sys.executable).with_name("toolkit")

# The study's module as a script of the study's would define and save it, on a CUDA device. One
# process for all files; each is made in a fork of its own, since some change the classes.
STUDY = """
import json, os, sys, torch
from torch import nn

torch.set_num_threads(1)


class IntermediarySpaceModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.train_device = torch.device("cuda", 0)
        self.imagesClassifier = nn.Sequential(
            nn.Conv2d(3, 2 * S, 11, stride=4, padding=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2), nn.Dropout(P * 0.2),
            nn.Conv2d(2 * S, 2 * S, 5, padding=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2), nn.Dropout(P * 0.4),
            nn.Conv2d(2 * S, 2 * S, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(P * 0.6),
            nn.Conv2d(2 * S, S, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Flatten(), nn.Dropout(P * 0.8), nn.Linear(S * 49, 2 * S))
        self.edgesClassifier = nn.Sequential(
            nn.Conv2d(1, 2 * S, 11, stride=4, padding=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2), nn.Dropout(P * 0.4),
            nn.Conv2d(2 * S, 2 * S, 5, padding=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2), nn.Dropout(P * 0.6),
            nn.Conv2d(2 * S, S, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Flatten(), nn.Dropout(P * 0.8), nn.Linear(S * 36, 2 * S))
        self.outputCombiner = nn.Sequential(
            nn.ReLU(inplace=True), nn.Dropout(P), nn.Linear(4 * S, 3 * S),
            nn.ReLU(inplace=True), nn.Dropout(P), nn.Linear(3 * S, S),
            nn.ReLU(inplace=True), nn.Dropout(P), nn.Linear(S, C))

    def forward(self, images, edges):
        both = torch.cat((self.imagesClassifier(images), self.edgesClassifier(edges)), 1)
        return self.outputCombiner(both)


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def make():
    global model
    torch.manual_seed(7)
    model = IntermediarySpaceModel()
    names = globals() | {"combiner": model.outputCombiner, "images": model.imagesClassifier}
    names |= {"protocol": 2, "saved": model}
    exec(CHANGE, names)
    torch.serialization.register_package(5, lambda storage: "cuda:0", lambda storage, place: None)
    torch.save(names["saved"], OUT + "/model.pt", pickle_protocol=names["protocol"],
               _use_new_zipfile_serialization="legacy" not in CHANGE)
    if "logits" in CHANGE:
        inputs = torch.randn(3, 3, 256, 256), torch.randn(3, 1, 224, 224)
        with torch.no_grad():
            logits = model.eval()(*inputs)
        torch.save([*inputs, logits, model.state_dict()], OUT + "/reference.pt")


for line in sys.stdin:
    S, C, P, OUT, CHANGE = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            make()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        print("made", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    """Return a function that saves the study's module where it is `__main__`'s."""
    script = tmp_path_factory.mktemp("study") / "study.py"
    script.write_text(STUDY)
    command = [sys.executable, script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:

        def make(folder, size=2, classes=4, dropout=0.5, change="pass"):
            folder.mkdir(exist_ok=True)
            job = json.dumps([size, classes, dropout, str(folder), change])
            process.stdin.write(f"{job}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "made\n", change
            return folder / "model.pt"

        yield make
        process.stdin.close()


@pytest.fixture(scope="module")
def good(study_file, tmp_path_factory):
    """The bytes of a small good file."""
    return study_file(tmp_path_factory.mktemp("good")).read_bytes()


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "it-ran"


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_original(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is refused: ") and "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message.removeprefix(f"{path} is refused: ")


def entries_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def with_pickle(path, good, change):
    """Write the good file with another pickle: `change` takes the good one."""
    entries = entries_of(good)
    name = next(each for each in entries if each.endswith("/data.pkl"))
    entries[name] = change(entries[name])
    assert entries[name] != entries_of(good)[name]
    return zipped(path, entries)


# --- good files


@pytest.mark.parametrize(
    ("size", "classes", "dropout"), [(28, 4, 0.5), (4, 5, 0.3821), (4, 3, 0.62445), (1, 2, 0.0)]
)
def test_the_imported_network_gives_the_logits_of_the_original(
    study_file, tmp_path, size, classes, dropout
):
    path = study_file(tmp_path / "study", size, classes, dropout, "'logits'")
    content = path.read_bytes()
    assert b"cuda:0" in content and b"__main__" in content
    found = read_original(path)
    assert (found.layer_size, found.classes, found.notices) == (size, classes, ())
    assert found.dropout == dropout
    image, edges, logits, original = torch.load(tmp_path / "study/reference.pt", map_location="cpu")
    assert all(torch.equal(found.state[name], original[name]) for name in original)
    network = IntermediarySpaceModel(size, found.dropout, classes).eval()
    network.load_state_dict(found.state)
    assert sum(map(torch.numel, found.state.values())) == sum(map(torch.numel, original.values()))
    with torch.no_grad():
        assert torch.equal(network(image, edges), logits)


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ("protocol = 4", []),
        ("protocol = 5", []),
        ("model.train_device = 'cuda'; model.half_done = {'epochs': [1, 2.5], 'x': (None,)}", []),
        ("model.imagesClassifier = nn.Sequential(images[:9], nn.Sequential(images[9:]))", []),
        ("model.to(memory_format=torch.channels_last)", []),
        ("model.requires_grad_(False)", []),
        # A view of a larger storage, at an offset.
        ("combiner[8].bias.data = torch.arange(9.)[3:7]", []),
        ("combiner[5].bias.data = torch._neg_view(torch.ones(2))", []),
        ("combiner[1] = combiner[4]; model.devices = [model.train_device] * 2", []),
        ("model.imagesClassifier = nn.Sequential(*[m for m in images if 'Dropout' not in str(m)])",
         ["dropouts of imagesClassifier are none there, and 0.1, 0.2, 0.3, 0.4 here"]),
        ("combiner[4].p = 0.25", ["outputCombiner are 0.5, 0.25, 0.5 there"]),
        ("combiner[8].bias.data[1] = float('nan')", ["outputCombiner.8.bias holds NaN"]),
        ("saved = model.state_dict()", ["dropout is taken to be 0.5"]),
        ("saved = dict(model.state_dict())", ["dropout is taken to be 0.5"]),
    ],
)  # fmt: skip
def test_what_a_user_may_have_done_to_it_is_read_or_noticed(study_file, tmp_path, change, noticed):
    path = study_file(tmp_path / "study", change=f"{change}; 'logits'")
    found = read_original(path)
    assert len(found.notices) == len(noticed), found.notices
    assert all(text in line for text, line in zip(noticed, found.notices, strict=True))
    original = torch.load(tmp_path / "study/reference.pt", map_location="cpu")[3]
    for ours, theirs in zip(found.state.values(), original.values(), strict=True):
        assert ours.dtype == torch.float32 and ours.is_contiguous() and not ours.is_neg()
        assert np.array_equal(ours.numpy(), theirs.resolve_neg().numpy(), equal_nan=True)


def test_denormal_weights_stay_as_they_are(study_file, tmp_path):
    change = "images[0].weight.data.fill_(1e-42); 'logits'"
    found = read_original(study_file(tmp_path / "study", change=change))
    assert torch.equal(found.state["imagesClassifier.0.weight"], torch.full((4, 3, 11, 11), 1e-42))


# --- files as people save them


def as_safetensors(tensors, **header):
    """The bytes of a file as the format's page describes it, the names in order of the alphabet."""
    entries, numbers = {"__metadata__": {"format": "pt"}}, b""
    dtypes = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
    for name, tensor in sorted(tensors.items()):
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        offsets = [len(numbers), len(numbers) + len(content)]
        kind = dtypes[str(tensor.dtype).removeprefix("torch.")]
        entries[name] = {"dtype": kind, "shape": [*tensor.shape], "data_offsets": offsets}
        numbers += content
    text = json.dumps(entries | header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


@pytest.fixture(scope="module")
def weights(good, tmp_path_factory):
    """The weights of the good file, by name."""
    path = tmp_path_factory.mktemp("weights") / "m.pt"
    path.write_bytes(good)
    return read_original(path).state


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ("under('module.')", "without 'module.' in their names"),
        ("under('_orig_mod.')", "without '_orig_mod.' in their names"),
        ("under('module._orig_mod.')", "without 'module.' and '_orig_mod.' in their names"),
        ("{k.replace('r.', 'r._orig_mod.'): v for k, v in w.items()}", "without '_orig_mod.' in"),
        ("under('net.model.')", "without 'net.model.' in their names"),
        ("{'state_dict': w}", "under 'state_dict'"),
        ("{'state_dict': under('model.'), 'epoch': 3}", "under 'state_dict', without 'model.' in"),
        ("{'epoch': 3, 'model_state_dict': w, 'optimizer_state_dict': trained(), 'loss': 0.1}",
         "under 'model_state_dict'"),
        ("{'model': model}", "under 'model'"),
        ("{'model': {'state_dict': w}, 'args': ['a']}", "under 'model', under 'state_dict'"),
        ("{'ema': under('module.'), 'epoch': 3}", "under 'ema', without 'module.' in their names"),
        ("{'checkpoint': {'weights': w}}", "under 'checkpoint', under 'weights'"),
        ("model.half()", "as float32, from float16"),
        ("{k: v.double() for k, v in w.items()}", "as float32, from float64"),
        ("{k: v.bfloat16() for k, v in under('module.').items()}",
         "without 'module.' in their names, as float32, from bfloat16"),
        ("{k: v.half() if 'bias' in k else v for k, v in w.items()}", "from float16"),
    ],
)  # fmt: skip
def test_weights_as_people_save_them_are_read_and_it_is_said_how(
    study_file, tmp_path, weights, saved, said
):
    prelude = (
        "w = model.state_dict()\n"
        "def under(prefix):\n    return {prefix + k: v for k, v in w.items()}\n"
        "def trained():\n"
        "    adam = torch.optim.Adam(model.parameters(), lr=0.0)\n"
        "    sum(p.sum() for p in model.parameters()).backward()\n"
        "    adam.step()\n    return adam.state_dict()\n"
    )
    found = read_original(study_file(tmp_path / "study", change=f"{prelude}saved = {saved}"))
    (notice,) = [line for line in found.notices if "dropout" not in line]
    assert notice.startswith("its weights are read ") and said in notice
    kind = getattr(torch, said.rpartition("from ")[2], torch.float32)
    for name, ours in found.state.items():
        there = weights[name].to(
            torch.float32 if "if 'bias'" in saved and "bias" not in name else kind
        )
        assert ours.dtype == torch.float32 and torch.equal(ours, there.float()), name


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_are_read_whatever_the_order_of_their_names(tmp_path, weights, kind, prefix):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(as_safetensors({prefix + k: v.to(kind) for k, v in weights.items()}))
    found = read_original(path)
    assert (found.layer_size, found.classes) == (2, 4)
    for name, ours in found.state.items():
        assert torch.equal(ours, weights[name].to(kind).float()), name


def test_half_that_is_too_large_for_float32_is_noticed(tmp_path, weights):
    huge = weights | {"outputCombiner.8.bias": torch.full((4,), 1e300, dtype=torch.float64)}
    (tmp_path / "m.safetensors").write_bytes(as_safetensors(huge))
    assert any(
        "holds NaN or infinite" in line
        for line in read_original(tmp_path / "m.safetensors").notices
    )


LAST = "outputCombiner.8.bias"


def _entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {LAST: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_entry(dtype="I64"), f"{LAST} is of I64"),
        (_entry(dtype="F8_E4M3"), "F8_E4M3"),
        (_entry(shape=(5,)), "needs 20"),
        (_entry(offsets=(0, 2**39)), "is damaged"),
        (_entry(offsets=(16, 0)), "is damaged"),
        (_entry(offsets=(-16, 0)), "header is damaged"),
        (_entry(shape=(-4,)), "header is damaged"),
        (_entry(shape=(2**70,)), "header is damaged"),
        (_entry(shape=(2**40,) * 8), "is damaged"),
        (_entry(shape=(1,) * 9), "header is damaged"),
        (_entry(shape="ab"), "header is damaged"),
        ({LAST: 3}, "header is damaged"),
        ({str(n): _entry()[LAST] for n in range(20_000)}, "overlap"),
        ({str(n): _entry()[LAST] for n in range(60_000)}, "2 MiB"),
        ({"other": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, "it has other"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_safetensors_that_claim_what_is_not_so_are_refused(tmp_path, weights, change, named):
    (tmp_path / "m.safetensors").write_bytes(as_safetensors(weights, **change))
    assert named in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize("header", [b"{", b"{]", b'{"a":' * 10_000, b'{"\xff":1}', b"{" + b" " * 9])
def test_safetensors_whose_header_is_no_json_are_refused(tmp_path, header):
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(9))
    assert "header is damaged" in refusal(tmp_path / "m.safetensors")


def outcome_of(path):
    """Return `read` or `refused`; nothing else may come of a file."""
    try:
        read_original(path)
    except CheckpointError:
        return "refused"
    return "read"


def test_whatever_bytes_of_safetensors_are_damaged_it_is_a_model_or_refused(tmp_path, weights):
    chance, path, outcomes = random.Random(6), tmp_path / "m.safetensors", set()
    whole = as_safetensors(weights)
    for index in range(200):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            content[chance.randrange(2000 if index % 2 else len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.randrange(len(content))] if index % 10 == 0 else content)
        outcomes.add(outcome_of(path))
    assert outcomes == {"read", "refused"}


# --- other networks


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("images[4] = nn.Conv2d(4, 4, 5, padding=1)", "padding=2"),
        ("images[0].stride = (2, 2)", "stride=2"),
        ("images[0] = nn.Conv2d(3, 4, 11, stride=4, padding=2, bias=False)", "no tensor"),
        ("combiner[0] = nn.Sequential()", "layer 0 of its outputCombiner"),
        ("combiner[0] = nn.Tanh()", "torch.nn.modules.activation.Tanh"),
        ("combiner.append(nn.Linear(4, 4))", "outputCombiner"),
        ("combiner.append(nn.ReLU())", "has 7 layers without dropouts"),
        ("combiner[8] = nn.Linear(3, 4)", "layer size 3"),
        ("combiner[8] = nn.Linear(2000, 4)", "layer size is 2000"),
        ("combiner[8].weight.data = torch.zeros(3, 4, 2)", "no matrix"),
        ("combiner[5].bias.data = torch.zeros(1).expand(2)", "beyond its storage"),
        ("combiner[5].bias.data = torch.zeros(3)", "outputCombiner.5.bias is (3,), and (2,)"),
        ("combiner[5].bias = nn.Parameter(torch.ones(2).to_sparse())", "sparse"),
        ("combiner[1].p = 1.5", "Dropout modules has no p"),
        ("combiner[1].p = float('nan')", "Dropout modules has no p"),
        ("saved = {k: v.long() for k, v in model.state_dict().items()}", "torch.LongStorage"),
        ("model.extra = nn.Linear(1, 1)", "extra"),
        ("model.scale = nn.Parameter(torch.ones(1))", "scale"),
        ("del model.edgesClassifier", "no part edgesClassifier"),
        ("model.outputCombiner = nn.Sequential()", "outputCombiner"),
        ("combiner.register_forward_hook(nn.ReLU())", "hooks"),
        ("saved = Wrapper(model)", "__main__.Wrapper"),
        ("saved = model.outputCombiner", "it holds a Sequential"),
        ("saved = {'state': model.state_dict(), 'epoch': 3}", "state"),
        ("saved = {k: v for k, v in model.state_dict().items() if 'edges' not in k}", "edges"),
        ("saved = model.state_dict(); saved['imagesClassifier.0.scale'] = torch.ones(1)", "scale"),
        ("saved = {'model': [model.state_dict()]}", "it has model,"),
        ("saved = {'state_dict': {'state_dict': {'model': {'model': model.state_dict()}}}}",
         "it has model,"),
        ("w = model.state_dict(); saved = {**w, **{'module.' + k: v for k, v in w.items()}}",
         "two weights outputCombiner.8.bias"),
        ("saved = {f'{n}.{k}': v for n in 'ab' for k, v in model.state_dict().items()}",
         "it has a.imagesClassifier.0.weight"),
        ("saved = [model]", "a list"),
        ("saved = torch.ones(3)", "it holds a Tensor"),
        ("'legacy'", "before PyTorch 1.6"),
    ],
)  # fmt: skip
def test_another_network_is_refused_and_what_differs_is_named(study_file, tmp_path, change, named):
    assert named in refusal(study_file(tmp_path / "study", change=change))


# --- hostile files


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _calls(canary):
    command = f"touch {canary}"
    return {
        "posix.system": Call(os.system, command),
        "importlib.import_module": Call(importlib.import_module, "antigravity"),
        "__builtin__.eval": Call(eval, f"__import__('os').system({command!r})"),
        "__builtin__.getattr": Call(getattr, "x", "upper"),
        "torch.serialization.load": Call(torch.load, str(canary)),
        "torch.hub.load": Call(torch.hub.load, str(canary), "x"),
        "torch.jit._serialization.load": Call(torch.jit.load, str(canary)),
        "torch.storage._load_from_bytes": Call(torch.storage._load_from_bytes, b"x"),
        "shutil.rmtree": Call(shutil.rmtree, str(canary)),
        "torch.LongStorage": torch.zeros(1, dtype=torch.int64),
    }


@pytest.mark.parametrize("name", _calls("x"))
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_that_would_call_something_is_refused_by_its_name(tmp_path, canary, name, protocol):
    call = _calls(canary)[name]
    shown = name.replace("__builtin__", "builtins") if protocol == 4 else name
    for index, content in enumerate((call, {"imagesClassifier.0.weight": call}, [((call,),)])):
        path = tmp_path / f"{index}.pt"
        torch.save(content, path, pickle_protocol=protocol)
        assert f"it names {shown}," in refusal(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        # In a parameter's place, in its arguments, beside the parts, and as the class itself.
        ("images[0]._parameters['weight'] = call", "posix.system"),
        (
            "nn.Parameter.__reduce_ex__ = lambda self, protocol: "
            "(torch._utils._rebuild_parameter, (call, True, {}))",
            "posix.system",
        ),
        ("combiner[8].bias.note = 1", "torch._utils._rebuild_parameter_with_state"),
        ("model.note = [{'a': (call,)}]", "posix.system"),
        ("model._modules['imagesClassifier'] = call", "posix.system"),
        ("model._forward_hooks[0] = print", "__builtin__.print"),
        ("IntermediarySpaceModel.__reduce__ = lambda self: (eval, (code,))", "__builtin__.eval"),
        ("nn.Linear.__reduce__ = lambda self: (os.system, (command,))", "posix.system"),
        ("model.helper = type('Helper', (), {'__module__': '__main__'}); "
         "import __main__; __main__.Helper = model.helper", "__main__.Helper"),
    ],
)  # fmt: skip
def test_a_call_within_a_good_module_is_refused_by_its_name(
    study_file, tmp_path, canary, change, name
):
    prelude = (
        f"command = 'touch {canary}'; code = 'os.system(command)'\n"
        "class Call:\n    __reduce__ = lambda self: (os.system, (command,))\n"
        "call = Call()\n"
    )
    path = study_file(tmp_path / "study", change=prelude + change)
    assert f"it names {name}," in refusal(path)
    assert not canary.exists()


def test_the_hostile_files_are_live(tmp_path, canary):
    torch.save(_calls(canary)["posix.system"], tmp_path / "m.pt")
    torch.load(tmp_path / "m.pt", weights_only=False)
    assert canary.exists()


LINEAR = b"ctorch.nn.modules.linear\nLinear\n"
DICT = b"ccollections\nOrderedDict\n"
DEVICE = b"ctorch\ndevice\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
SET = b"c__builtin__\nset\n"
# 2**40 tuples or lists, of as many steps as it takes to share them.
TUPLES, LISTS = b")" + b"q\x00h\x00\x86" * 40, b"]" + b"q\x00]h\x00ah\x00a" * 40
DEEP = b")" + b"\x85" * (MAX_OPCODES - 20)


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"cposix\nsystem\n(X\x04\x00\x00\x00true\x85R.", "posix.system"),
        (b"(X\x04\x00\x00\x00trueiposix\nsystem\n.", "posix.system"),
        (b"\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
        (b"cos\nsys\x1b[2Jtem\n.", "os.sys\\x1b[2Jtem"),
        (b"ctorch.nn.modules.conv\nConv2d \n.", "torch.nn.modules.conv.Conv2d"),
        (b"ctorch.nn.modules.conv.Conv2d\n__init__\n.", "Conv2d.__init__"),
        # What torch's own list allows: each would make as many bytes as it is told to.
        (b"cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R.", "builtins.bytearray"),
        (b"ctorch\nTensor\nJ\x00\x00\x00\x40\x85R.", "torch.Tensor"),
        (b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n.", "_rebuild_meta_tensor_no_storage"),
        # Only allowed names, used as torch never does.
        (LINEAR + b"M\x20\x4eM\x20\x4e\x86R.", "it calls torch.nn.modules.linear"),
        (b"ctorch\nFloatStorage\n)R.", "it calls torch.FloatStorage"),
        (b"ctorch\nFloatStorage\n)\x81.", "no module"),
        (LINEAR + b"K\x02\x85\x81.", "no module"),
        (DICT + b"}b.", "Can only build"),
        (DEVICE + b"X\x03\x00\x00\x00cpu\x85R}K\x01K\x02sb.", "damaged"),
        (LINEAR + b")\x81K\x01b.", "damaged"),
        (LISTS + b"q\x00" + DEVICE + b"h\x00\x85R.", "damaged"),
        (LISTS + b"q\x00" + TENSOR + b"(h\x00h\x00h\x00h\x00h\x00h\x00tR.", "damaged"),
        (LISTS + b"q\x00" + SET + b"h\x00\x85R.", "damaged"),
        (LISTS + b"q\x00" + LINEAR + b")\x81h\x00b.", "damaged"),
        (DICT + b"]\x85R.", "it calls collections.OrderedDict"),
        (SET + b"]" + DEEP + b"a\x85R.", "a set"),
        (SET + b"]" + TUPLES + b"a\x85R.", "one tuple of tuples in two places"),
        (LISTS + b")R.", "it calls what is no function"),
        (LISTS + b")\x81.", "no module"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01\x88}tR.", "no attribute 'detach'"),
        (b"X\x01\x00\x00\x00aQ.", "no storage"),
        # Steps that no model needs.
        (b"\x82\x01.", "EXT1"),
        (b"(" + DICT + b"o.", "OBJ"),
        (b"Pposix.system\n.", "PERSID"),
        (b"0.", "POP"),
        *((program, "damaged") for program in (
            b"}K\x00s.", b".", b"t.", b"h\x07.", b"X\xff\xff\xff\x7fa.", b"", b"N",
            b"\x8c\x01a(\x8c\x01b\x93.", b"]\x8c\x01b\x93.",
        )),
        # Those that grow.
        (b"N" * MAX_OPCODES + b".", "steps"),
        (b"X\x00\x00\x20\x00" + b"a" * 2**21 + b".", "2 MiB"),
        (b"X\x00\x00\x01\x00" + b"a" * 2**16 + b"q\x00" + b"h\x00" * 40 + b".", "2 MiB"),
        (DEEP + b".", "a tuple"),
        (LISTS + b".", "a list"),
        (b"}" + DEEP + b"Ns.", "whose keys are no names"),
        (b"}" + TUPLES + b"Ns.", "one tuple of tuples in two places"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_pickle_written_by_hand_is_refused(tmp_path, good, program, named):
    path = with_pickle(tmp_path / "m.pt", good, lambda _: b"\x80\x02" + program)
    assert named in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        "images.append(images)",
        "model.imagesClassifier = model",
        "m = nn.Sequential(nn.ReLU())\nfor _ in range(7): m = nn.Sequential(*[m] * 50)\n"
        "model.imagesClassifier = m",
    ],
)
def test_modules_within_themselves_are_refused(study_file, tmp_path, change):
    assert "imagesClassifier" in refusal(study_file(tmp_path / "study", change=change))


# --- hostile archives


@pytest.mark.parametrize("entry", ["data.pkl", "data/0"])
def test_a_compressed_entry_is_refused_before_it_is_read(tmp_path, good, entry):
    entries = entries_of(good)
    name = next(each for each in entries if each.endswith(f"/{entry}"))
    del entries[name]
    path = zipped(tmp_path / "m.pt", entries)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(2**26))
    assert path.stat().st_size < 2**20
    assert f"{name} is compressed" in refusal(path)


def _patched(content, name, **sizes):
    """Change what the archive's directory says of an entry: its sizes, or where it lies."""
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(name.encode()))
    fields = list(struct.unpack("<4s6H3L5H2L", content[place : place + 46]))
    for key, value in sizes.items():
        fields[{"packed": 8, "size": 9, "offset": 16}[key]] = value
    return content[:place] + struct.pack("<4s6H3L5H2L", *fields) + content[place + 46 :]


@pytest.mark.parametrize(
    ("claim", "named"),
    [
        ({"size": 2**31, "packed": 2**31}, "more bytes than it has"),
        ({"size": 2**31}, "is compressed"),
        ({"offset": 0}, "damaged"),
    ],
)
def test_an_archive_that_claims_more_than_it_has_is_refused(tmp_path, good, claim, named):
    plain = zipped(tmp_path / "m.pt", entries_of(good)).read_bytes()
    name = next(each for each in entries_of(good) if each.endswith("/data/0"))
    (tmp_path / "m.pt").write_bytes(_patched(plain, name, **claim))
    assert named in refusal(tmp_path / "m.pt")


@pytest.mark.parametrize("bad", [b"../../../etc/passwd", b"/etc/passwd", b"", b"0/../1", b"-1"])
def test_a_storage_that_is_no_number_is_refused(tmp_path, good, bad):
    key = rb"(?<=torch\nFloatStorage\nq.)X\x01\x00\x00\x000"
    new = b"X" + struct.pack("<I", len(bad)) + bad
    path = with_pickle(
        tmp_path / "m.pt", good, lambda each: re.sub(key, lambda _: new, each, flags=re.DOTALL)
    )
    assert "which is no number" in refusal(path)


@pytest.mark.parametrize("numel", [b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"N", b"K\x01"])
def test_a_storage_of_another_size_than_it_is_said_to_have_is_refused(tmp_path, good, numel):
    old = b"M" + struct.pack("<H", 4 * 3 * 11 * 11)
    path = with_pickle(tmp_path / "m.pt", good, lambda each: each.replace(old, numel, 1))
    assert "5808 bytes" in refusal(path)


@pytest.mark.parametrize("entry", ["data.pkl", "data/0", "version"])
def test_of_two_entries_of_one_name_none_is_read(tmp_path, good, entry):
    entries = entries_of(good)
    name = next(each for each in entries if each.endswith(f"/{entry}"))
    path = zipped(tmp_path / "m.pt", entries)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name, entries[name])
    assert "two entries of one name" in refusal(path)


@pytest.mark.parametrize("stride", [2**31, 2**62, 2**63, 2**70, -1, -(2**70)])
def test_a_stride_that_no_tensor_has_is_refused_in_one_line(tmp_path, good, stride):
    number = stride.to_bytes(10, "little", signed=True)
    path = with_pickle(
        tmp_path / "m.pt", good, lambda each: each.replace(b"M\x6b\x01", b"\x8a\x0a" + number, 1)
    )
    refusal(path)


def test_what_a_refused_file_names_is_never_written_out(tmp_path, good):
    """A tuple of one tuple many times over would make a line of any length."""
    text = b"X\x00\x00\x01\x00" + b"a" * 2**16 + b"q\x60"
    row = b"(" + text + b"h\x60" * 20 + b"tq\x61"
    key = b"(" + row + b"h\x61" * 100 + b"t"
    old = rb"(?<=torch\nFloatStorage\nq.)X\x01\x00\x00\x000"
    path = with_pickle(
        tmp_path / "m.pt", good, lambda each: re.sub(old, lambda _: key, each, flags=re.DOTALL)
    )
    assert "it names a storage by a tuple" in refusal(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda root: {f"{root}/byteorder": b"big"}, "big-endian"),
        (lambda _: {"other/data.pkl": b"N."}, "no one data.pkl"),
        (lambda root: {f"{root}/data.pkl": None}, "no one data.pkl"),
        (lambda root: {f"{root}/data/3": None}, "storage 3 is missing"),
        (lambda root: {f"{root}/more/{n}": b"" for n in range(10_001)}, "entries"),
    ],
)
def test_an_archive_with_other_entries_is_refused(tmp_path, good, change, named):
    entries = entries_of(good)
    entries |= change(next(iter(entries)).partition("/")[0])
    kept = {name: content for name, content in entries.items() if content is not None}
    assert named in refusal(zipped(tmp_path / "m.pt", kept))


@pytest.mark.parametrize("kept", [0, 3, 0.05, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, good, kept):
    path = tmp_path / "m.pt"
    path.write_bytes(good[: kept if isinstance(kept, int) else int(len(good) * kept)])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"x", random.Random(1).randbytes(5000), pickle.dumps(Call(os.system, ""))]
)
def test_what_is_no_archive_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "m.pt").write_bytes(content)
    assert "not a file of torch.save" in refusal(tmp_path / "m.pt")


@pytest.mark.parametrize(("name", "said"), [("missing.pt", "no such file"), (".", "is no file")])
def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path, name, said):
    assert said in refusal(tmp_path / name)


def test_whatever_bytes_are_damaged_it_is_a_model_or_refused(tmp_path, good):
    chance = random.Random(5)
    path = tmp_path / "m.pt"
    pickled = next(v for k, v in entries_of(good).items() if k.endswith("/data.pkl"))
    outcomes = set()
    for index in range(150):
        inside = index % 2 == 0
        content = bytearray(pickled if inside else good)
        for _ in range(chance.choice((1, 1, 3))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        if inside:
            with_pickle(path, good, lambda _, new=bytes(content): new + b" ")
        else:
            path.write_bytes(content)
        outcomes.add(outcome_of(path))
    assert outcomes == {"read", "refused"}


# --- the command


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


@pytest.mark.full
def test_an_imported_model_is_exported_evaluated_and_asked_like_any_other(
    study_file, tmp_path, models
):
    path = study_file(tmp_path / "study", size=4, change="'logits'")
    content, err = ok("import", path, "--name", "study", "--models", models)
    assert content["layer_size"] == 4 and content["dropout"] == 0.5
    assert content["classes"] == ["none", "minimal", "moderate", "severe"]
    assert content["notices"] == [] and "4 classes, taken to be none, minimal" in err
    record = load_manifest(models / "study.json")
    assert record.preprocessing == STUDY_EDGES and record.dataset is None
    parameters = sum(map(torch.numel, IntermediarySpaceModel(4).parameters()))
    assert record.network == NetworkRecord(4, 0.5, parameters)
    assert (record.training.seed, record.training.epochs) == (None, None)
    assert record.training.recipe["file"] == "model.pt"
    files = ModelFiles(models, "study")
    image, edges, logits, _ = torch.load(tmp_path / "study/reference.pt", map_location="cpu")
    with torch.no_grad():
        assert torch.equal(load_trained(files, record).network(image, edges), logits)
        assert torch.equal(load_network(files.checkpoint, record.network, 4)(image, edges), logits)

    xrays = tmp_path / "xrays"
    ok("data", "generate", xrays, "--count", 40)
    figures, err = ok("evaluate", "study", "--data", xrays, "--models", models, "--part", "all")
    assert figures["n"] == 40 and "warning" not in err
    part, err = ok("evaluate", "study", "--data", xrays, "--models", models, "--part", "train")
    assert 0 < part["n"] < 40 and "may have been trained on any of them" in err
    line = refused("evaluate", "study", "--data", xrays / "train", "--models", models)
    assert "--part all" in line and "split is not known" in line

    exported, _ = ok("export", "onnx", "study", "--models", models)
    assert exported["passed"] is True
    file = next(xrays.glob("train/4/*.png"))
    answer, _ = ok("predict", "study", file, "--models", models)
    assert answer["results"][0]["label"] in content["classes"]
    again, _ = ok(
        *("evaluate", models / "study.pipeline.onnx", "--data", xrays, "--part", "all"),
    )
    assert again["confusion_matrix"] == figures["confusion_matrix"]


@pytest.mark.full
def test_the_installed_command_says_in_one_line_what_it_refused(tmp_path, canary):
    torch.save(_calls(canary)["posix.system"], tmp_path / "m.pt")
    said = run_installed("import", tmp_path / "m.pt", "--models", tmp_path / "models")
    assert said.code == 2 and said.out == ""
    assert said.err.startswith(f"error: {tmp_path}/m.pt is refused: it names posix.system")
    assert said.err.count("\n") == 1 and not canary.exists()
    assert not (tmp_path / "models").exists()


def test_a_model_that_it_replaces_is_kept(tmp_path, models, good):
    path = tmp_path / "knee.pt"
    path.write_bytes(good)
    content, err = ok("import", path, "--models", models)
    assert content["name"] == "knee" and "former" not in err
    first = (models / "knee.pt").read_bytes()
    # Its own checkpoint is a state_dict, so it can be read too; it is where it is written.
    _, err = ok("import", models / "knee.pt", "--models", models)
    assert "the former knee is kept as knee.previous.*" in err and "holds weights alone" in err
    assert (models / "knee.previous.pt").read_bytes() == first == (models / "knee.pt").read_bytes()
    assert load_manifest(models / "knee.previous.json").name == "knee.previous"
    assert load_manifest(models / "knee.json").training.recipe["notices"]


def test_a_file_whose_name_is_no_text_makes_a_model_that_can_be_read(tmp_path, models, good):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfc.pt"))
    path.write_bytes(good)
    ok("import", path, "--name", "m", "--models", models)
    assert load_manifest(models / "m.json").training.recipe["file"] == r"m\udcfc.pt"


def test_labels_are_those_that_fit_or_the_import_is_refused(study_file, tmp_path, models, good):
    path = tmp_path / "m.pt"
    path.write_bytes(good)
    content, err = ok("import", path, "--models", models, "--labels", "merge01")
    assert content["classes"][0] == "none or doubtful" and "taken to be" not in err
    line = refused("import", path, "--models", models, "--labels", "five", "--name", "other")
    assert "4 classes" in line
    five = study_file(tmp_path / "five", classes=5)
    content, _ = ok("import", five, "--models", models, "--name", "five")
    assert content["classes"][1] == "doubtful"
    three = study_file(tmp_path / "three", classes=3)
    assert "3 classes" in refused("import", three, "--models", models, "--name", "three")
    assert {each.name for each in models.iterdir()} == {"five.json", "five.pt", "m.json", "m.pt"}


def test_a_refused_import_leaves_everything_as_it_was(tmp_path, canary, models, good):
    path = tmp_path / "knee.pt"
    path.write_bytes(good)
    ok("import", path, "--models", models)
    before = {each.name: each.read_bytes() for each in models.iterdir()}
    torch.save(_calls(canary)["posix.system"], path)
    assert "posix.system" in refused("import", path, "--models", models)
    path.write_bytes(good[:-100])
    assert "damaged" in refused("import", path, "--models", models)
    path.write_bytes(good)
    assert "cannot name a model" in refused("import", path, "--models", models, "--name", "a/b")
    assert {each.name: each.read_bytes() for each in models.iterdir()} == before
    assert not canary.exists()
    assert refused("import", tmp_path / "none.pt", "--models", tmp_path / "new")
    assert not (tmp_path / "new").exists()
