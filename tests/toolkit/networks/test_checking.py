"""A definition that cannot work is told in one line that names its place; one that can is taken."""

import re

import pytest
import torch

from toolkit.errors import DefinitionError
from toolkit.networks.checking import check
from toolkit.networks.default import StudyNetwork
from toolkit.networks.loading import load

SOUND = """
import torch
from torch import nn

from toolkit import TensorSpec


class Two(nn.Module):
    def inverse(self, xray):
        return 255 - xray

    def forward(self, xray, inverse):
        return xray.float().unsqueeze(1) / 255, inverse.float()[:, ::2, ::2] / 255


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4 * 7 * 7 + 64, classes)

    def forward(self, grey, half):
        maps = self.norm(self.conv(grey)).relu()
        return self.last(torch.cat([maps.flatten(1), half.flatten(1)], dim=1))


class Own:
    size = 16
    inputs = (
        TensorSpec("grey", "float32", ("batch", 1, 16, 16)),
        TensorSpec("half", "float32", ("batch", 8, 8)),
    )
    views = ("inverse",)

    def preprocessing(self):
        return Two()

    def module(self, classes):
        return Net(classes)
"""
RELU, LINE = ".relu()", "\n        "
# What is changed in it, and what is said then.
FAULTS = {
    "size": ("size = 16", "size = 8", r"Own: size is 8: give a number from 16 to 1024"),
    "channels": ("size = 16", "size = 16\n    channels = 2", "Own: channels is 2"),
    "no inputs": ("views = (", "inputs = ()\n    views = (", "Own: inputs is not a tuple"),
    "no batch": ('("batch", 8, 8)', "(8, 8)", "Own: the input 'half' is float32"),
    "a taken name": ('views = ("inverse",)', 'views = ("grey",)', "'grey' cannot name"),
    "another shape": ("[:, ::2, ::2]", "", r"Two.forward gives float32 \(3, 16, 16\) for 'half'"),
    "another dtype": ("unsqueeze(1) / 255,", "unsqueeze(1).double(),", "gives float64 .*'grey'"),
    "too few inputs": (", inverse.float()[:, ::2, ::2] / 255", ",", "gives 1 tensors, inputs has"),
    "no such view": ("def inverse(", "def another(", "has no method inverse, which is in views"),
    "a view of floats": ("return 255 - xray", "return xray / 2", "Two.inverse gives float32"),
    "not taken": ("forward(self, grey, half)", "forward(self, grey)", "TypeError"),
    "no matrix product": ("4 * 7 * 7 + 64", "4 * 7 * 7", r"own.py:\d+ `return self.last"),
    "other classes": ("64, classes)", "64, classes + 1)", r"gives float32 \(3, 5\), not logits"),
    "a batch's mean": (RELU, f"{RELU}{LINE}maps -= maps.mean(0)", "Net.forward .* others in its"),
    "a batch's largest": ("(1) / 255", "(1) / xray.max()", "makes 'grey' .*depend on the others"),
    "live dropout": (RELU, f"{RELU}{LINE}maps = nn.functional.dropout(maps)", "other logits each"),
    "noise": ("unsqueeze(1)", "unsqueeze(1) * torch.rand(1)", "gives another 'grey' each time"),
    "no effect": ("half.flatten(1)]", "0 * half.flatten(1)]", "the input 'half' has no effect"),
    "a branch by value": (
        RELU,
        f"{RELU}{LINE}if maps.sum() > 0:{LINE}    maps = -maps",
        r"own.py:\d+ `if maps.sum\(\) > 0:`: cannot be exported",
    ),
    "numpy": (
        RELU,
        f"{RELU}{LINE}maps = torch.from_numpy(maps.numpy() * 2)",
        r"own.py:\d+ `maps = torch.from_numpy\(maps.numpy\(\) \* 2\)`: cannot be exported",
    ),
    "no module": ("return Net(classes)", "return 3", "Own.module gives int, not a torch.nn.Module"),
    "an error": ("return Two()", "return 1 / 0", r"own.py:\d+ `return 1 / 0`: .*ZeroDivision"),
}


def own(tmp_path, before="", after=""):
    assert SOUND.count(before)
    path = tmp_path / "own.py"
    path.write_text(SOUND.replace(before, after, 1) if before else SOUND)
    return load(str(path)).network


def test_a_sound_definition_and_the_studys_are_taken_and_leave_chance_as_it_was(tmp_path):
    before = torch.get_rng_state()
    check(own(tmp_path), 4, {})
    check(StudyNetwork(), 4, {"layer_size": 2})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_definition_that_cannot_work_is_told_in_one_line_with_its_place(tmp_path, fault):
    before, after, told = FAULTS[fault]
    with pytest.raises(DefinitionError, match=told) as caught:
        check(own(tmp_path, before, after), 4, {})
    assert "\n" not in str(caught.value)
    assert re.search(r"own\.py:\d+", str(caught.value)), str(caught.value)


def test_a_last_layer_that_begins_with_zeros_is_no_input_without_effect(tmp_path):
    check(own(tmp_path, "classes)\n", "classes)\n        self.last.weight.data.zero_()\n"), 4, {})
