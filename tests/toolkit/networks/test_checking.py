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
    "an output of training alone": (
        RELU,
        f"{RELU}{LINE}if self.training:{LINE}    return maps, grey",
        "Net.forward gives tuple in training, not logits",
    ),
    "an error of training alone": (
        RELU,
        f"{RELU}{LINE}if self.training:{LINE}    maps = maps @ torch.zeros(2, 2)",
        r"own.py:\d+ `maps = maps @ torch.zeros\(2, 2\)`: .* fails in training: RuntimeError",
    ),
    "no way back": (
        RELU,
        f"{RELU}{LINE}maps = maps.sigmoid(){LINE}square = maps * maps{LINE}maps += square",
        "Net.forward cannot be trained: RuntimeError: one of the variables",
    ),
    "no gradient": ("dim=1))", "dim=1)).detach()", "no weight can be learned"),
    "weights of float64": ("64, classes)", "64, classes).double()", "last.weight is float64, not"),
    "a lazy layer": ("nn.Linear(4 * 7 * 7 + 64, c", "nn.LazyLinear(c", "last.weight has no shape"),
    "probabilities": ("dim=1))", "dim=1)).softmax(1)", "Net.forward gives probabilities"),
    "inputs in place": ("maps = self", f"grey -= 1{LINE}maps = self", "Net.forward changes the in"),
    "X-rays in place": (
        "return xray.float()",
        f"xray[:, :4] = 0{LINE}return xray.float()",
        "Two.forward changes the X-rays that it is given",
    ),
    "a network by chance": (
        "return Net(classes)",
        f"net, times = Net(classes), torch.rand(1){LINE}"
        f"net.register_forward_hook(lambda _, __, out: out * times){LINE}return net",
        "Own.module gives another network each time, though with the same weights",
    ),
    "a preprocessing by chance": (
        "return Two()",
        f"two, more = Two(), torch.rand(1){LINE}"
        f"two.register_forward_hook(lambda _, __, out: (out[0] + more, out[1])){LINE}return two",
        "Own.preprocessing makes another 'grey' each time that it is called",
    ),
    "one network for all": (
        "return Net(classes)",
        f"self.net = getattr(self, 'net', None) or Net(classes){LINE}return self.net",
        "Own.module gives the same weights again",
    ),
    "a state that is no tensor": (
        "return Net(classes)",
        f"Net.get_extra_state = lambda self: 3{LINE}return Net(classes)",
        "_extra_state in its state_dict is int, no tensor",
    ),
    "maps of nothing": ("views =", 'maps = (("nothing",),)\n    views =', "maps has 'nothing'"),
    "maps of a row": ("views =", 'maps = (("conv", "last"),)\n    views =', "maps has 'last'"),
    "maps in no group": ("views =", 'maps = ("conv",)\n    views =', "maps has 'conv': give group"),
    "another when fast": (
        "return Net(classes)",
        "return Net(classes)\n\n    def fast(self, classifier):\n        return classifier.inputs",
        "Own.fast does not come to the logits",
    ),
    "branches of nothing": (
        "return Net(classes)",
        "return Net(classes)\n\n    def branches(self, preprocessing):\n"
        "        return {'grey': ('conv', None, None)}",
        "Own.branches names 'conv', which is no Sequential",
    ),
    "no module": ("return Net(classes)", "return 3", "Own.module gives int, not a torch.nn.Module"),
    "an error": ("return Two()", "return 1 / 0", r"own.py:\d+ `return 1 / 0`: .*ZeroDivision"),
}


class Hasty(StudyNetwork):
    """The study's network, with features that are not those of its branches."""

    def quick_features(self, module, preprocessing, xray):
        return module.features(*(2 * each for each in preprocessing(xray)))


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


def test_quick_features_that_are_others_than_the_features_are_told():
    with pytest.raises(DefinitionError, match=r"Hasty.quick_features does not come to the logits"):
        check(Hasty(), 4, {"layer_size": 2})
