"""Keys of runs: equal for equal recipes, else different, and frozen; and every knob that claims to act acts."""

import ast
import json
import unicodedata
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hw1 import data, laboratory
from hw1 import recipe as recipe_module
from hw1.errors import UserError
from hw1.machine import Machine
from hw1.recipe import Recipe, bare_code, canonical_json, check_fits, code_fingerprint, load_dataset, recipe_key
from hw1.store import Store

CONF = Path(__file__).resolve().parent.parent / "conf"
SCHEDULE = {
    "kind": "constant", "warmup": 0.0, "drop_every": 0.3, "drop_factor": 0.1, "scaling": "none",
    "reference_batch_size": 64, "hold": "epochs",
}  # fmt: skip
# Written out, not read from conf/: its key is frozen below.
BASE = Recipe(
    dataset={"_target_": "hw1.sources.digits", "standardize": True, "validation": 260, "split_seed": 0, "subset": None,
             "label_noise": 0.0},
    model={"_target_": "hw1.models.mlp", "depth": 1, "width": 8, "widths": None, "budget": None, "activation": "relu",
           "dropout": 0.0, "batch_norm": False},
    optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0,
               "fused": True},
    loss={"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.0},
    schedule=SCHEDULE, batch_size=64, epochs=5, steps=None, init_seed=0, order_seed=0, replicas=3, collect_every=None,
    evaluate_every=None, vectorize="auto", dtype="float32", precision="highest", deterministic=True,
    device="cpu", threads="auto",
)  # fmt: skip
DATA, CODE, TORCH = "d" * 64, "c" * 64, "2.10.0+cpu"


def key(recipe=BASE, data_sha256=DATA, code=CODE, torch_version=TORCH):
    return recipe_key(recipe, data_sha256, code, torch_version)


# ---- canonical JSON ----


def test_canonical_json():
    assert canonical_json({"b": 1.0, "a": [True, None, 0.5, "x"]}) == '{"a":[true,null,0.5,"x"],"b":1}'
    assert canonical_json({"a": 1, "b": (2,)}) == canonical_json({"b": [2.0], "a": 1.0})
    assert canonical_json(-0.0) == canonical_json(0)
    assert canonical_json(True) != canonical_json(1)
    assert canonical_json("1") != canonical_json(1)
    assert canonical_json(1e300) == str(int(1e300))
    composed, decomposed = "é", unicodedata.normalize("NFD", "é")
    assert composed != decomposed
    assert canonical_json({composed: composed}) == canonical_json({decomposed: decomposed})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_has_no_canonical_json(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": [value]})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(plain)
def test_canonical_json_is_a_fixed_point(value):
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


# ---- keys ----

CHANGED = {
    "dataset": {**BASE.dataset, "subset": 40}, "model": {**BASE.model, "width": 9},
    "optimizer": {**BASE.optimizer, "lr": 2e-3}, "loss": {**BASE.loss, "label_smoothing": 0.1},
    "schedule": {**SCHEDULE, "kind": "cosine"}, "batch_size": 65, "epochs": 6, "steps": 7, "init_seed": 1,
    "order_seed": 1, "replicas": 4, "collect_every": 1, "evaluate_every": 1, "vectorize": False, "dtype": "float64",
    "precision": "bf16", "deterministic": False, "device": "cuda", "threads": 1,
}  # fmt: skip


def test_every_field_is_in_the_key():
    assert set(CHANGED) == {field.name for field in fields(Recipe)}
    keys = [key(replace(BASE, **{name: value})) for name, value in CHANGED.items()]
    assert len({key(), *keys}) == len(keys) + 1


def test_data_code_and_torch_are_in_the_key():
    others = [key(data_sha256="e" * 64), key(code="e" * 64), key(torch_version="2.11.0"), key(torch_version="3.10.0")]
    assert len({key(), *others}) == 5
    assert key(torch_version="2.10.1") == key(torch_version="2.10.0+cu130") == key()


def test_keys_do_not_depend_on_order_spelling_or_place():
    backwards = dict(reversed(BASE.optimizer.items()))
    assert key(replace(BASE, optimizer={**backwards, "weight_decay": 0})) == key()
    stored = replace(BASE, dataset={"_target_": "hw1.sources.npz", "path": "a/x.npz", "validation": 3})
    moved = replace(stored, dataset={**stored.dataset, "path": "/b/y.npz"})
    assert key(stored) == key(moved) != key(moved, data_sha256="e" * 64)
    assert stored.dataset["path"] == "a/x.npz"


FROZEN = [
    ({}, DATA, CODE, TORCH, "2be60a09d3a4369edbeb26a3c6569e47"),
    ({"batch_size": 256}, DATA, CODE, TORCH, "6f5700a5440c8a9b18b322e22592b3ae"),
    ({"epochs": None, "steps": 4000}, DATA, CODE, TORCH, "0de730d16668538e3ab0b73b8e682a77"),
    ({"init_seed": 2**63 - 1}, DATA, CODE, TORCH, "9ec3759941e21c949dbd38d6c3375cea"),
    ({"replicas": 1, "vectorize": True}, DATA, CODE, TORCH, "23b84158fcca876aa081fe4919fd4a5d"),
    ({"dtype": "float64", "threads": 2}, DATA, CODE, TORCH, "c5bbb2b518489bb26c24b4152d14b201"),
    ({"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05}}, DATA, CODE, TORCH, "a3216a35c655b74f29ed10223b8196da"),
    ({"model": {"_target_": "own.Né", "layers": [1, 2.5]}}, DATA, CODE, TORCH, "fec94cef4f953a4d8d81723122ced107"),
    ({}, "0" * 64, CODE, TORCH, "5b3079be5f64b686c314c6107bcbf9fe"),
    ({}, DATA, "0" * 64, "3.0.1", "e0b636efcdc2cd903510c2d925490038"),
]


@pytest.mark.parametrize(("changes", "data_sha256", "code", "torch_version", "expected"), FROZEN)
def test_keys_are_frozen(changes, data_sha256, code, torch_version, expected):
    """Whoever changes these orphans every stored run."""
    # As recipes were when these keys were made: a key of the config that came later is in the keys of newer ones alone.
    schedule = {name: value for name, value in SCHEDULE.items() if name != "hold"}
    assert key(replace(BASE, schedule=schedule, **changes), data_sha256, code, torch_version) == expected


# ---- code ----

SOURCE = '''"""Module."""
import os  # comment

class A:
    """Class."""
    x = 1  # what it is

    def f(self, y: int) -> str:
        """Method."""
        return "# no comment"

async def g():
    """Coroutine."""

def h():
    "One line."
    return [1,
            2]
'''
BARE = """import os
class A:
    x = 1
    def f(self, y: int) -> str:
        return '# no comment'
async def g(): pass
def h(): return [1, 2]
"""


def test_bare_code_leaves_out_comments_docstrings_and_layout():
    assert bare_code(SOURCE) == bare_code(BARE)
    assert "no comment" in bare_code(SOURCE)
    assert bare_code(bare_code(SOURCE)) == bare_code(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x = 1", "x = 2"), ("x = 1", "x = '1'"), ("# no comment", "# some comment"), ("[1, 2]", "[2, 1]"),
        ("[1, 2]", "(1, 2)"), ("import os", "import os.path"), ("def h", "def k"), ("y: int", "y: int = 0"),
        ("async def g(): pass", "def g(): pass"), ("return [1, 2]", "yield [1, 2]"), ("class A:", "class A(dict):"),
        ("x = 1", "x = 1; 'a text that documents nothing'"), ("import os", "import os; x = 'first'"),
    ],
)  # fmt: skip
def test_bare_code_keeps_everything_else(old, new):
    assert old in BARE
    assert bare_code(BARE.replace(old, new)) != bare_code(BARE)


def test_training_modules_are_those_that_training_imports():
    """All that hw1.training reaches inside hw1, but for data, whose arrays are in the key, errors and watchers."""

    def imported(module):
        tree = ast.parse(Path(recipe_module.importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hw1"):
                found |= {f"hw1.{name.name}" for name in node.names} if node.module == "hw1" else {node.module}
        return found

    reached, todo = set(), {"hw1.training"}
    while todo:
        reached |= todo
        todo = {other for module in todo for other in imported(module)} - reached
    assert set(recipe_module.TRAINING_MODULES) == reached - {"hw1.data", "hw1.errors", "hw1.watcher"}


def test_code_fingerprint_covers_a_users_own_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_fingerprinted.py"
    file.write_text("def net(input_shape): return 1\n")
    own = replace(BASE, model={"_target_": "own_fingerprinted.net"})
    allow = ("own_fingerprinted",)
    first = code_fingerprint(own, allow)
    assert first != code_fingerprint(BASE, allow)
    assert first == code_fingerprint(own, allow)
    file.write_text("def net(input_shape): return 2\n")
    assert code_fingerprint(own, allow) != first
    nested = replace(BASE, model={"_target_": "hw1.models.mlp", "part": [{"_target_": "own_fingerprinted.net"}]})
    assert code_fingerprint(nested, allow) != code_fingerprint(BASE, allow)


def test_code_fingerprint_covers_our_training_modules(monkeypatch):
    before = code_fingerprint(BASE)
    for module in recipe_module.TRAINING_MODULES:
        digest = recipe_module._module_digest
        with monkeypatch.context() as patch:
            patch.setattr(recipe_module, "_module_digest", lambda name, m=module, d=digest: d(name) + "!" * (name == m))
            assert code_fingerprint(BASE) != before


# ---- from a config, and onto a data set ----


def test_from_config():
    config = BASE.as_dict() | {"device": "cuda:1", "store": "elsewhere", "experiment": {}}
    assert Recipe.from_config(config, "cpu") == BASE
    stepped = Recipe.from_config(config | {"steps": 10}, "cuda")
    assert (stepped.epochs, stepped.steps, stepped.device) == (None, 10, "cuda")


def dataset(task="classification", shape=(1, 8, 8), size=20):
    y = np.arange(size + 5) % 5 if task == "classification" else np.linspace(0, 1, size + 5)
    x = np.random.default_rng(0).standard_normal((size + 5, *shape))
    return data.split(data.Source(x, y, x + 9, y), validation=5, split_seed=0, subset=None, label_noise=0.0)


MLP, CNN = BASE.model, {"_target_": "hw1.models.cnn", "depth": 4, "batch_norm": False}


@pytest.mark.parametrize(
    ("changes", "task", "shape", "expected"),
    [
        ({"batch_size": 21}, "classification", (3,),
         "batch_size=21: must be at most 20, the size of the training split"),
        ({"batch_size": 19, "model": MLP | {"batch_norm": True}}, "classification", (3,),
         "batch_size=19: leaves a batch of 1 of 20 examples; batch norm needs 2"),
        ({"batch_size": 1, "model": MLP | {"batch_norm": True}}, "classification", (3,),
         "batch_size=1: leaves a batch of 1 of"),
        ({}, "regression", (3,), "loss=cross_entropy: is for classification, and the data set for regression;"),
        ({"loss": {"_target_": "torch.nn.MSELoss"}}, "classification", (3,),
         "loss=mse: is for regression, and the data set for classification; choose loss=cross_entropy"),
        ({"optimizer": {"momentum": 0.0, "nesterov": True}}, "classification", (3,),
         "optimizer.momentum=0.0: must be above 0 with optimizer.nesterov=true"),
        ({"model": CNN}, "classification", (3,), "model=cnn: needs images"),
        ({"model": CNN}, "classification", (1, 8, 8), "depth=4: must be at most 3"),
        ({"model": MLP | {"budget": 3}}, "classification", (3,), "model.budget=3: "),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(changes, task, shape, expected):
    with pytest.raises(UserError) as caught:
        check_fits(replace(BASE, **({"batch_size": 20} | changes)), dataset(task, shape))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 20}, {"batch_size": 1}, {"batch_size": 18, "model": MLP | {"batch_norm": True}},
        {"batch_size": 20, "model": CNN | {"depth": 3}},
        {"batch_size": 2, "loss": {"_target_": "own.Loss"}, "model": {"_target_": "own.Net"}},
    ],
)  # fmt: skip
def test_what_fits_passes(changes):
    check_fits(replace(BASE, **changes), dataset())


def test_a_data_set_is_loaded_once_and_paths_are_taken_as_they_are(tmp_path):
    target = OmegaConf.load(CONF / "dataset" / "npz.yaml")["_target_"]
    file = tmp_path / f"{unicodedata.normalize('NFD', 'é')}.npz"
    arrays = dataset()
    np.savez(file, x_train=arrays.inputs["train"], y_train=arrays.targets["train"], x_test=arrays.inputs["test"],
             y_test=arrays.targets["test"])  # fmt: skip
    node = {"_target_": target, "path": str(file), "standardize": False, "validation": 5, "split_seed": 0,
            "subset": None, "label_noise": 0.0}  # fmt: skip
    recipe_module.forget_datasets()
    first = load_dataset(replace(BASE, dataset=node), tmp_path)
    assert first.size("train") == 15
    assert load_dataset(replace(BASE, dataset=dict(reversed(node.items())), batch_size=3), tmp_path) is first
    recipe_module.forget_datasets()
    assert load_dataset(replace(BASE, dataset=node), tmp_path) is not first


# ---- every knob that claims to act acts ----


def node(group, name):
    """A group's node in conf/, with what it takes from the root."""
    config = OmegaConf.merge({"budget": None}, OmegaConf.load(CONF / group / f"{name}.yaml"))
    plain = OmegaConf.to_container(config, resolve=True)
    return plain["model"] if group == "model" else {key: value for key, value in plain.items() if key != "budget"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Sixty noisy images of 28×28 pixels in three classes, as the npz data set."""
    file = tmp_path_factory.mktemp("images") / "images.npz"
    generator = np.random.default_rng(0)
    y = np.arange(80) % 3
    x = (generator.random((80, 1, 28, 28)) * 100 + 50 * y[:, None, None, None]).astype(np.uint8)
    np.savez(file, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return node("dataset", "npz") | {"path": str(file), "validation": 20, "standardize": True}


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A function from changes of a recipe, by dotted names, to its run."""
    folder = tmp_path_factory.mktemp("knobs")
    machine = Machine("cpu", 1, folder)
    lab = laboratory.Laboratory(Store(folder / "runs"), machine, say=lambda text: None)
    default = replace(
        BASE, dataset=images, model=node("model", "mlp") | {"width": 6}, batch_size=10, epochs=2, replicas=1
    )

    def train(**changes):
        values = default.as_dict()
        for name, value in changes.items():
            outer, _, inner = name.partition("__")
            values[outer] = {**values[outer], inner: value} if inner else value
        return lab.run(Recipe(**values))

    return train


def changes_weights(one, other):
    names = [one.weights(), other.weights()]
    return list(names[0]) != list(names[1]) or any(
        weight.shape != names[1][name].shape or not torch.equal(weight, names[1][name])
        for name, weight in names[0].items()
    )


SMOOTH = {"dataset": node("dataset", "function") | {"points": 40, "test_points": 10, "validation": 10, "noise": 0.1,
                                                    "target": "sine"}, "loss": node("loss", "mse")}  # fmt: skip
DROPS = {"schedule": SCHEDULE | {"kind": "step", "scaling": "linear"}}
# What it is trained with otherwise, and then the one thing that changes.
ACT = [
    *[({}, name, value) for name, value in {
        "batch_size": 11, "epochs": 3, "steps": 5, "init_seed": 1, "order_seed": 1, "replicas": 2, "dtype": "float64",
        "precision": "bf16",
        "dataset__validation": 21, "dataset__split_seed": 1, "dataset__subset": 30, "dataset__label_noise": 0.5,
        "dataset__standardize": False,
        "schedule__kind": "cosine", "schedule__warmup": 0.5, "schedule__scaling": "sqrt", "schedule__hold": "steps",
    }.items()],
    *[(DROPS, f"schedule__{name}", value) for name, value in {
        "drop_every": 0.6, "drop_factor": 0.5, "reference_batch_size": 32}.items()],
    *[({"model": node("model", "mlp") | {"width": 6}}, f"model__{name}", value) for name, value in {
        "depth": 2, "width": 7, "widths": [5, 4], "budget": 3155, "activation": "tanh", "dropout": 0.5,
        "batch_norm": True}.items()],
    *[({"model": node("model", "cnn") | {"width": 2, "hidden": 5}}, f"model__{name}", value) for name, value in {
        "depth": 1, "width": 3, "hidden": 6, "kernel": 5, "activation": "tanh", "dropout": 0.5,
        "batch_norm": True}.items()],
    *[({"model": node("model", "lenet5")}, f"model__{name}", value) for name, value in {
        "activation": "relu", "pooling": "max"}.items()],
    *[({"optimizer": node("optimizer", name)}, f"optimizer__{key}", value) for name, values in {
        "sgd": {"lr": 0.04, "weight_decay": 0.1, "momentum": 0.5, "nesterov": False},
        "adam": {"lr": 2e-3, "weight_decay": 0.1, "betas": [0.8, 0.999], "eps": 1e-2},
        "adamw": {"lr": 2e-3, "weight_decay": 0.1, "betas": [0.9, 0.9], "eps": 1e-2},
        "rmsprop": {"lr": 2e-3, "weight_decay": 0.1, "alpha": 0.5, "eps": 1e-2, "momentum": 0.5},
    }.items() for key, value in values.items()],
    ({}, "loss__label_smoothing", 0.1),
    (SMOOTH | {"loss": node("loss", "huber")}, "loss__delta", 0.1),
    *[(SMOOTH, f"dataset__{name}", value) for name, value in {
        "target": "sinc", "points": 41, "low": -1.0, "high": 2.0, "noise": 0.2, "frequency": 2.0, "seed": 1,
        "validation": 11, "split_seed": 1, "subset": 20}.items()],
]  # fmt: skip
GROUPS = ("model", "optimizer", "loss", "dataset", "schedule")


def test_the_list_of_knobs_is_complete():
    """Every key of every group in conf/, but for those that are not to change weights."""
    listed = {name for _, name, _ in ACT}
    files = [
        (file.parent.name, OmegaConf.load(file)) for group in GROUPS[:-1] for file in (CONF / group).glob("*.yaml")
    ]
    groups = {f"{group}__{key}" for group, content in files for key in content.get("model", content)}
    silent = {"optimizer__fused", "dataset__test_points", "dataset__path"}
    assert {name for name in groups if not name.endswith(("__defaults", "___target_"))} - silent <= listed
    assert {f"schedule__{key}" for key in SCHEDULE} <= listed
    silent = {"device", "threads", "deterministic", "vectorize", "collect_every", "evaluate_every"}
    assert {field.name for field in fields(Recipe)} - {*GROUPS} - silent <= listed


@pytest.mark.parametrize(("others", "name", "value"), ACT, ids=lambda part: part if isinstance(part, str) else "")
def test_every_knob_changes_the_weights(trained, others, name, value):
    assert changes_weights(trained(**others), trained(**others, **{name: value}))


@pytest.mark.parametrize("change", [{"hold": "steps"}, {"scaling": "linear"}, {"scaling": "sqrt"}])
def test_controls_change_nothing_at_the_reference_batch_size(trained, change):
    at = SCHEDULE | {"reference_batch_size": 10}
    assert not changes_weights(trained(schedule=at), trained(schedule=at | change))
    assert changes_weights(trained(schedule=at, batch_size=20), trained(schedule=at | change, batch_size=20))


def test_held_steps_are_taken(trained):
    """Forty training examples, two epochs: 8 steps of 10, whatever the batch size; typed steps go before."""
    held = SCHEDULE | {"reference_batch_size": 10, "hold": "steps"}
    assert [trained(schedule=held, batch_size=size).final["step"].item() for size in (5, 10, 40)] == [8, 8, 8]
    assert trained(schedule=held, steps=3, epochs=None).final["step"].item() == 3


@pytest.mark.parametrize("group", ["model", "optimizer", "loss"])
def test_every_choice_of_a_group_changes_the_weights(trained, group):
    names = {"model": ["linear", "mlp", "cnn", "lenet5"], "optimizer": ["sgd", "adam", "adamw", "rmsprop"],
             "loss": ["mse", "l1", "huber"]}[group]  # fmt: skip
    base = SMOOTH if group == "loss" else {}
    runs = [trained(**(base | {group: node(group, name)})) for name in names]
    assert all(changes_weights(one, other) for i, one in enumerate(runs) for other in runs[:i])


def test_knobs_that_say_what_is_kept(trained):
    base = trained()
    assert base.epochs == ["2"]
    collected = trained(collect_every=1)
    assert collected.epochs == ["0", "1", "2"]
    assert base.history["epoch"].tolist() == [1, 2]
    assert trained(evaluate_every=2).history["epoch"].tolist() == [2]
    few, many = trained(**SMOOTH), trained(**SMOOTH, dataset__test_points=11)
    assert few.final["test_loss"].item() != many.final["test_loss"].item()
    assert not changes_weights(base, collected)
    assert not changes_weights(few, many)


def test_knobs_that_are_not_to_change_weights(trained):
    settings = {"replicas": 2}
    base = trained(**settings)
    for name, value in {"vectorize": True, "optimizer__fused": False}.items():
        other = trained(**settings, **{name: value})
        for key, weight in base.weights().items():
            torch.testing.assert_close(weight, other.weights()[key], rtol=1e-4, atol=1e-5)
    for name, value in {"threads": 1, "deterministic": False}.items():
        assert not changes_weights(base, trained(**settings, **{name: value}))
