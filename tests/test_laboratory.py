"""Runs: trained once, found again, trained anew when damaged, and exactly what they were when looked at later."""

import errno
import json
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from hw1 import laboratory, seeds, training
from hw1.errors import UserError
from hw1.files import read_table
from hw1.laboratory import Laboratory, check_output
from hw1.machine import Machine, resolve_device
from hw1.measures.performance import evaluate
from hw1.recipe import Recipe, load_dataset
from hw1.resident import Splits
from hw1.store import FILES, SUMS, Store

NPZ = OmegaConf.load(Path(__file__).resolve().parent.parent / "conf" / "dataset" / "npz.yaml")["_target_"]
SPLIT = {"validation": 150, "split_seed": 0, "subset": None, "label_noise": 0.0}
SCHEDULE = {
    "kind": "cosine", "warmup": 0.1, "drop_every": 0.3, "drop_factor": 0.1, "scaling": "none",
    "reference_batch_size": 64, "hold": "epochs",
}  # fmt: skip
MLP = {"_target_": "hw1.models.mlp", "depth": 1, "width": 5, "activation": "relu", "dropout": 0.2, "batch_norm": True}
CNN = {"_target_": "hw1.models.cnn", "depth": 1, "width": 2, "hidden": 4, "kernel": 3, "activation": "relu",
       "dropout": 0.2, "batch_norm": True}  # fmt: skip
MSE, ENTROPY = {"_target_": "torch.nn.MSELoss"}, {"_target_": "torch.nn.CrossEntropyLoss"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A classification of images and a regression, more examples than one slice."""
    folder = tmp_path_factory.mktemp("arrays")
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (460, 1, 6, 6), np.uint8), np.arange(460) % 3
    np.savez(folder / "images.npz", x_train=x[:330], y_train=y[:330], x_test=x[330:], y_test=y[330:])
    x = generator.standard_normal((460, 2))
    y = np.sin(x.sum(1))
    np.savez(folder / "values.npz", x_train=x[:330], y_train=y[:330], x_test=x[330:], y_test=y[330:])
    return folder


@pytest.fixture
def recipe(files):
    return Recipe(
        dataset={"_target_": NPZ, "path": str(files / "images.npz"), "standardize": True, **SPLIT},
        model=MLP | {"widths": None, "budget": None}, optimizer={"_target_": "torch.optim.Adam", "lr": 1e-2},
        loss=ENTROPY, schedule=SCHEDULE, batch_size=50, epochs=2, steps=None, init_seed=0, order_seed=0, replicas=2,
        collect_every=1, evaluate_every=None, vectorize="auto", dtype="float32", precision="highest",
        deterministic=True, device="cpu", threads="auto",
    )  # fmt: skip


@pytest.fixture
def regression(recipe, files):
    return replace(recipe, dataset=recipe.dataset | {"path": str(files / "values.npz")}, loss=MSE)


@pytest.fixture
def lab(tmp_path):
    """A function that gives a new laboratory on one store; what it says is in its list `said`."""

    def make(**settings):
        said = []
        laboratory = Laboratory(Store(tmp_path / "runs"), Machine("cpu", 1, tmp_path, **settings), say=said.append)
        laboratory.said = said
        return laboratory

    return make


def refuse(*_, **__):
    raise AssertionError("nothing is to be trained here")


# ---- once, and again ----


def test_trains_once_and_finds_it_again(lab, recipe, monkeypatch):
    first = lab()
    run = first.run(recipe)
    assert first.used == {run.key: True}
    assert first.said[0].startswith(f"training run {run.key[:8]}: mlp 36-5-3, ")
    monkeypatch.setattr(training, "train", refuse)
    second = lab()
    again = second.run(replace(recipe))
    assert second.used == {run.key: False}
    assert second.said == [f"run {run.key[:8]} was in the store: nothing trained"]
    assert first.run(recipe).key == again.key
    assert first.used == {run.key: True}  # this job did train it
    assert (again.key, again.info, again.epochs) == (run.key, run.info, run.epochs)
    with pytest.raises(AssertionError, match="nothing is to be trained"):
        second.run(replace(recipe, batch_size=49))


def test_what_is_stored(lab, recipe):
    run = lab().run(recipe)
    assert sorted(file.name for file in run.folder.iterdir()) == sorted([*FILES, SUMS])
    assert Recipe(**yaml.safe_load((run.folder / "recipe.yaml").read_text())) == recipe
    info = json.loads((run.folder / "run.json").read_text())
    assert info["key"] == run.folder.name == run.key
    assert info["examples"] == {"train": 180, "validation": 150, "test": 130}
    assert (info["steps"], info["steps_per_epoch"], info["status"]) == (8, 4, ["ok", "ok"])
    assert info["arrangement"] == "stacked 2, 1 at a time, 1 thread each"
    assert info["parameters"] == 37 * 5 + 2 * 5 + 6 * 3
    assert torch.__version__.startswith(info["versions"]["torch"])
    assert run.epochs == ["0", "1", "2"]
    assert run.weights()["hidden1.weight"].shape == (2, 5, 36)
    assert torch.equal(run.weights("2")["output.bias"], run.weights()["output.bias"])
    assert not torch.equal(run.weights("0")["output.bias"], run.weights()["output.bias"])


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_a_damaged_run_is_trained_anew_to_the_same_bits(lab, recipe, name, caplog):
    run = lab().run(recipe)
    weights, history = run.weights(), run.history
    content = bytearray((run.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run.folder / name).write_bytes(bytes(content))
    second = lab()
    with caplog.at_level(logging.WARNING):
        again = second.run(recipe)
    assert second.used == {run.key: True}
    assert "set aside a damaged run" in caplog.text
    assert all(torch.equal(value, again.weights()[key]) for key, value in weights.items())
    pd.testing.assert_frame_equal(again.history, history, check_exact=True)
    assert again.info["nonce"] != run.info["nonce"]


def test_a_twin_that_waited_looks_again_before_training(lab, recipe, monkeypatch):
    run, twin = lab().run(recipe), lab()
    monkeypatch.setattr(Store, "sound", lambda store, key: False)  # as it was before the other one was done
    monkeypatch.setattr(training, "train", refuse)
    assert twin.run(recipe).key == run.key
    assert twin.used == {run.key: False}


# ---- looking at a run ----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "regression"])
def test_a_stored_network_has_the_stored_metrics_bit_for_bit(lab, recipe, regression, kind, vectorize, dtype):
    asked = regression if kind == "regression" else replace(recipe, model=CNN) if kind == "cnn" else recipe
    run = lab().run(replace(asked, vectorize=vectorize, dtype=dtype))
    for replica in range(2):
        for epoch in run.epochs:
            network = run.network(replica, epoch)
            assert not network.training
            (row,) = run.history.query(f"replica == {replica} and epoch == {epoch}").to_dict("records")
            for split in ("train", "validation", "test"):
                found = evaluate(network, run.loss(), run.splits.slices(split))
                assert {f"{split}_{name}": value for name, value in found.items()}.items() <= row.items()
            for name, value in network.state_dict().items():
                assert torch.equal(value, run.weights(epoch)[name][replica])
    assert run.final.index.tolist() == [0, 1]
    assert run.final["epoch"].tolist() == [2, 2]


def test_looking_leaves_the_global_generator_alone(lab, recipe):
    run = lab().run(recipe)
    before = torch.random.get_rng_state()
    run.network(0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_history_survives_its_file_exactly(lab, recipe, monkeypatch):
    kept = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda *args, **kwargs: kept.append(train(*args, **kwargs)) or kept[-1])
    run = lab().run(replace(recipe, steps=7))
    pd.testing.assert_frame_equal(run.history, pd.DataFrame(kept[0].history), check_exact=True, check_dtype=False)
    pd.testing.assert_frame_equal(read_table(run.folder / "history.csv"), run.history, check_exact=True)
    assert run.history["epoch"].iloc[-1] == 7 / 4


def test_a_diverged_run_is_a_result(lab, regression):
    run = lab().run(replace(regression, optimizer={"_target_": "torch.optim.SGD", "lr": 1e30}, model={
        "_target_": "hw1.models.linear"}))  # fmt: skip
    assert run.status == ["diverged", "diverged"]
    assert run.final["status"].tolist() == ["diverged", "diverged"]
    assert run.final["test_loss"].isna().all()
    assert run.weights()["output.weight"].isnan().all()
    second = lab()
    second.run(run.recipe)
    assert second.used == {run.key: False}  # not tried again and again


# ---- bad input ----


def message(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_batch_larger_than_the_split_is_refused(lab, recipe):
    assert message(lab().run, replace(recipe, batch_size=181)).startswith("batch_size=181: must be at most 180")
    assert lab().run(replace(recipe, batch_size=180)).info["steps_per_epoch"] == 1


OWN = """
import torch
from torch import nn

class Wrong(nn.Module):
    def __init__(self, *, input_shape, outputs, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(2, outputs + (kind == "outputs"))

    def forward(self, x):
        if self.kind == "raises":
            raise KeyError("what?")
        if self.kind == "tuple":
            return self.layer(x), x
        if self.kind == "inputs":
            x = x.repeat(1, 2)
        return self.layer(x).mean(0) if self.kind == "mean" else self.layer(x)
"""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("outputs", "gives (2, 2) for two examples; this data set needs (2, 1)"),
        ("mean", "gives (1,) for two examples"),
        ("inputs", "cannot take inputs of shape (2,)"),
        ("raises", "cannot take inputs of shape (2,)"),
        ("tuple", "cannot take inputs of shape (2,)"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(lab, regression, tmp_path, monkeypatch, kind, words):
    (tmp_path / "own_wrong.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    asked = replace(regression, model={"_target_": "own_wrong.Wrong", "kind": kind})
    assert words in message(lab(allow_targets=("own_wrong",)).run, asked)
    right = replace(regression, model={"_target_": "own_wrong.Wrong", "kind": "right"})
    assert lab(allow_targets=("own_wrong",)).run(right).status == ["ok", "ok"]


def test_checking_a_network_leaves_its_mode(recipe, tmp_path):
    dataset = load_dataset(recipe, tmp_path)
    for mode in (True, False):
        net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 3)).train(mode)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        check_output(net, dataset)
        assert net.training is mode
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("operation", ["mkdir", "rename", "fsync"])
def test_a_store_that_cannot_be_written_is_one_line(lab, recipe, monkeypatch, operation, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fail)
        text = message(lab().run, recipe)
    assert os.strerror(code) in text
    assert "runs" in text
    assert lab().run(recipe).status == ["ok", "ok"]


def test_a_disk_that_fills_up_under_the_weights_is_one_line(lab, recipe, monkeypatch):
    def full(stream, tensors):
        stream.write(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a stream says it: without a name

    with monkeypatch.context() as patch:
        patch.setattr(laboratory, "write_tensors", full)
        assert message(lab().run, recipe) == f"{lab().store.folder}: No space left on device (errno 28)"
    assert lab().store.list() == []
    assert not list(lab().store.folder.glob(".tmp/*"))


def test_a_store_that_only_reads_still_answers(lab, recipe, monkeypatch):
    run = lab().run(recipe)

    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for operation in ("mkdir", "rename", "fsync"):
        monkeypatch.setattr(os, operation, fail)
    assert lab().run(recipe).key == run.key
    assert "Read-only file system" in message(lab().run, replace(recipe, init_seed=1))


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    for device in ("cuda", "cuda:0", "mps"):
        assert message(resolve_device, device).startswith(f"device={device}: this machine has ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (resolve_device("auto"), resolve_device("cuda:1")) == ("cuda", "cuda:1")
    assert message(resolve_device, "cuda:2").startswith("device=cuda:2: this machine has 2 CUDA devices")


def test_data_sets_are_laid_out_as_bytes_and_scaled_on_the_way(recipe, tmp_path):
    dataset = load_dataset(recipe, tmp_path)
    splits = Splits.of(dataset, torch.device("cpu"), torch.float64)
    assert splits.raw["train"].dtype == torch.uint8
    expected = (dataset.inputs["train"].astype(float) - dataset.offset) / dataset.scale
    rows = torch.tensor([[3, 1], [4, 1]])
    np.testing.assert_allclose(splits.inputs("train", rows), expected[rows.numpy()], rtol=1e-12)
    np.testing.assert_array_equal(splits.inputs("train", slice(0, 9)), splits.inputs("train", torch.arange(9)))
    assert [len(y) for _, y in splits.slices("train", 125)] == [125, 55]
    assert [len(y) for _, y in splits.slices("train", 125, limit=30)] == [30]
    assert laboratory.resident(dataset, "cpu", "float64") is laboratory.resident(dataset, "cpu", "float64")


def test_inputs_are_no_views_of_floats(regression, tmp_path):
    splits = laboratory.resident(load_dataset(regression, tmp_path), "cpu", "float64")
    before = splits.raw["train"].clone()
    for rows in (slice(None), torch.arange(3)):
        splits.inputs("train", rows).mul_(3)
    assert torch.equal(splits.raw["train"], before)


def test_make_model_draws_what_training_starts_from(lab, recipe):
    run = lab().run(recipe)
    make = laboratory.make_model(recipe, run.dataset, run.machine)
    assert isinstance(make, partial)
    for replica in range(2):
        start = seeds.initial_model(make, recipe.init_seed, replica).state_dict()
        assert all(torch.equal(value, run.weights("0")[name][replica]) for name, value in start.items())
