"""Which targets are allowed, what they are called with, and what is said of those that cannot be called."""

import functools
import inspect
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hw1 import models, parts
from hw1.errors import UserError

OWN = '''
"""A user's own module."""
import os
import torch
from torch import nn
from json import loads as borrowed

class Net(nn.Module):
    def __init__(self, input_shape, hidden=3, body=None):
        super().__init__()
        self.given = (input_shape, hidden, body)

def seen(**keys):
    return keys

def moody(value):
    raise ValueError(f"value {value} is not to my taste")

number = 3
instance = nn.ReLU()
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's package with a good module, one with a missing import and one that raises."""
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(OWN)
    (package / "needy.py").write_text("import not_installed_anywhere\n")
    (package / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_package"
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def message(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("torch.nn.Linear", nn.Linear),
        ("torch.nn.modules.linear.Linear", nn.Linear),
        ("torch.optim.Adam", torch.optim.Adam),
        ("hw1.models.mlp", models.mlp),
    ],
)
def test_allowed(target, found):
    assert parts.find(target) is found


@pytest.mark.parametrize(
    "target",
    [
        "builtins.open", "os.system", "torch.hub.load", "torch.load", "pandas.read_pickle", "numpy.load",
        "subprocess.run", "pathlib.Path.unlink", "torchvision.models.resnet18", "hw1x.models.mlp", "torch.nnx.Linear",
        "torch.optimal",
        "hw1.sources.np.load", "hw1.models.math.prod", "hw1.models.__loader__.get_data",
        "hw1.store.Store.remove", "hw1.runs.main", "hw1.cli.main", "hw1.files.write_json", "hw1.parts.build",
        "hw1.data.np.load", "hw1.store.shutil.rmtree", "hw1.store.os.system", "hw1.store.os.unlink",
        "hw1.training.torch.load", "hw1.training.torch.hub.load", "hw1.files.pd.read_pickle", "hw1.store.Path.unlink",
        "torch.nn.modules.module.torch.load", "torch.nn.init.warnings.warn", "torch.optim.optimizer.cast",
        "hw1.parts.importlib.import_module", "hw1.store.contextlib.suppress", "hw1.store.secrets.token_hex",
    ],
)  # fmt: skip
def test_refused(target):
    text = message(parts.find, target)
    assert text.startswith(f"_target_={target}: ")
    assert "allowed are hw1.experiments, hw1.models, hw1.sources, torch.nn, torch.optim" in text
    assert "allow_targets" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (None, "allowed are"), (3, "allowed are"), ("", "allowed are"), ("mlp", "allowed are"), ("hw1", "allowed are"),
        ("hw1.", "allowed are"), ("hw1..models", "allowed are"), ("hw1.modles.mlp", "allowed are"),
        ("hw1.models.", "has no attribute"), ("hw1.models..mlp", "has no attribute"),
        ("hw1.models.nets.mlp", "has no attribute 'nets'"),
        ("torch.nn.Linaer", "has no attribute 'Linaer'"), ("hw1.models", "not a class or a function"),
        ("hw1.models.ACTIVATIONS", "not a class or a function"), ("hw1.models.mlp.x", "has no attribute 'x'"),
        ("hw1.mod\0els.mlp", ""), ("torch.nn.functional.conv2d", "is defined in"),
    ],
)  # fmt: skip
def test_what_cannot_be_found(target, words):
    assert words in message(parts.find, target, key="model._target_")
    assert message(parts.find, target, key="model._target_").startswith(f"model._target_={target}: ")


@given(st.text() | st.lists(st.sampled_from(["hw1", "torch", "nn", "data", "models", "x", "", "__dict__", "Linear"]))
       .map(".".join))  # fmt: skip
def test_find_gives_what_is_allowed_or_one_error(target):
    try:
        found = parts.find(target)
    except UserError:
        return
    assert inspect.isclass(found) or inspect.isroutine(found)
    assert found.__module__.startswith(("hw1", "torch.nn", "torch.optim"))


def test_a_users_own_module_has_to_be_allowed(own):
    target = f"{own}.nets.Net"
    assert "allowed are" in message(parts.find, target)
    assert parts.find(target, [own]).__name__ == "Net"
    assert parts.find(target, [f"{own}.nets"]).__name__ == "Net"
    assert "allowed are" in message(parts.find, target, [f"{own}.net"])  # a prefix ends at a dot
    for borrowed in ("os.system", "torch.load", "borrowed", "os.path.join"):
        assert "is defined in" in message(parts.find, f"{own}.nets.{borrowed}", [own])
    assert "not a class or a function" in message(parts.find, f"{own}.nets.instance", [own])


def test_what_goes_wrong_while_importing_is_said(own):
    assert "No module named 'not_installed_anywhere'" in message(parts.find, f"{own}.needy.Net", [own])
    assert "ZeroDivisionError: division by zero" in message(parts.find, f"{own}.broken.Net", [own])
    assert "there is no module nowhere_at_all" in message(parts.find, "nowhere_at_all.Net", ["nowhere_at_all"])


def test_build_calls_with_the_nodes_keys():
    layer = parts.build({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2, "bias": False})
    assert layer.weight.shape == (2, 3)
    assert layer.bias is None
    optimizer = parts.build({"_target_": "torch.optim.SGD", "lr": 0.5}, layer.parameters())
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_what_is_offered_is_given_to_those_that_want_it(own):
    node = {"_target_": f"{own}.nets.Net", "hidden": 7}
    assert parts.build(node, allow=[own], input_shape=(2,), outputs=5).given == ((2,), 7, None)
    assert parts.build(node | {"input_shape": [9]}, allow=[own], input_shape=(2,)).given == ([9], 7, None)  # a key wins


def test_nested_nodes_are_built_first(own):
    relu = {"_target_": "torch.nn.ReLU"}
    node = {"_target_": f"{own}.nets.seen", "one": relu, "many": [relu, 1, [relu]], "deep": {"a": relu, "b": 2}}
    got = parts.build(node, allow=[own])
    assert isinstance(got["one"], nn.ReLU)
    assert isinstance(got["many"][0], nn.ReLU)
    assert isinstance(got["many"][2][0], nn.ReLU)
    assert isinstance(got["deep"]["a"], nn.ReLU)
    assert (got["many"][1], got["deep"]["b"]) == (1, 2)
    assert "allowed are" in message(parts.build, node | {"one": {"_target_": "os.getcwd"}}, allow=[own])
    assert parts.targets(node) == [f"{own}.nets.seen"] + ["torch.nn.ReLU"] * 4


def test_a_partial_node_gives_the_function_itself(own):
    node = {"_target_": f"{own}.nets.seen", "_partial_": True, "a": 1, "b": {"_target_": "torch.nn.ReLU"}}
    got = parts.build({"_target_": f"{own}.nets.seen", "inner": node, "c": 2}, allow=[own])
    assert (got["c"], type(got["inner"])) == (2, functools.partial)
    called = got["inner"](a=3, d=4)
    assert isinstance(called.pop("b"), nn.ReLU)
    assert called == {"a": 3, "d": 4}
    assert parts.build(node | {"_partial_": False}, allow=[own])["a"] == 1  # as without: called, and not given the key
    assert "allowed are" in message(parts.build, node)
    assert message(parts.build, node | {"_partial_": "yes"}, allow=[own]) == "_partial_=yes: must be true or false"


def test_nodes_are_named_by_their_place():
    relu = {"_target_": "torch.nn.ReLU"}
    tree = {"_target_": "a.b", "one": relu, "many": [1, {"deep": relu}], "none": {"x": 1}}
    assert dict(parts.nodes(tree, "model")) == {"model": tree, "model.one": relu, "model.many.1.deep": relu}
    assert [place for place, _ in parts.nodes(tree)] == ["", "one", "many.1.deep"]


def test_ufuncs_are_functions():
    assert parts.find("numpy.tanh", ["numpy"]) is np.tanh
    assert parts.find("scipy.special.j0", ["scipy"])(0.0) == 1
    assert "allowed are" in message(parts.find, "numpy.tanh")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"in_features": 3}, "out_features"),
        ({"in_features": 3, "out_features": 2, "biass": True}, "biass"),
    ],
)
def test_wrong_keys_are_named(keys, words):
    text = message(parts.build, {"_target_": "torch.nn.Linear", **keys})
    assert text.startswith("torch.nn.Linear: ")
    assert words in text


def test_values_that_a_part_refuses_are_bad_input(own):
    assert "value 3 is not to my taste" in message(
        parts.build, {"_target_": f"{own}.nets.moody", "value": 3}, allow=[own]
    )
    node = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.0, "nesterov": True}
    assert "Nesterov" in message(parts.build, node, [torch.zeros(1, requires_grad=True)])
    assert "no signature" in message(parts.build, {"_target_": "builtins.dict", "a": 1}, allow=["builtins"])


def test_source_files_of_users_targets(own, tmp_path):
    assert parts.source_file(f"{own}.nets.Net", [own]) == tmp_path / "own_package" / "nets.py"
    assert parts.source_file("hw1.models.mlp", [own]) is None
    assert parts.source_file("builtins.dict", ["builtins"]) is None
