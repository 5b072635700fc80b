"""The classification experiment: counts against scikit-learn, differences against scipy, pictures, tables, figures."""

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_program, sweep_folder
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.stats import ttest_1samp
from sklearn.metrics import confusion_matrix
from torch import nn

from hw1 import compose, figures, laboratory, models, parts
from hw1.data import SPLITS, Dataset
from hw1.errors import UserError
from hw1.experiments.classification import (
    PUBLISHED,
    Classification,
    decode_picture,
    encode_picture,
    paired_differences,
)
from hw1.files import read_table
from hw1.machine import Machine
from hw1.measures.classification import confusion, most_confidently_wrong, predict
from hw1.paths import conf_dir
from hw1.recipe import Recipe
from hw1.statistics import mean_interval
from hw1.store import Store

EXPERIMENT = Classification(pictures=5)
labelled = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=40),
    )
)


# ---- measures ----


@given(labelled)
def test_confusion_is_scikit_learns_with_labels_as_rows(drawn):
    classes, pairs = drawn
    labels, predicted = torch.tensor(pairs).T
    counts = confusion(labels, predicted, classes)
    assert counts.tolist() == confusion_matrix(labels, predicted, labels=range(classes)).tolist()
    assert counts.sum().item() == len(pairs)


def test_confusion_refuses_vectors_of_different_length():
    with pytest.raises(ValueError, match="one length"):
        confusion(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2)


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 15), st.integers(0, 10**6))
def test_most_confidently_wrong_is_the_slow_twins(replicas, examples, count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (examples,), generator=generator)
    predicted = torch.randint(3, (replicas, examples), generator=generator)
    confidence = torch.randint(1, 4, (replicas, examples), generator=generator) / 4  # ties are frequent
    scores = []
    for n in range(examples):
        scores.append(sum(confidence[r, n].item() for r in range(replicas) if predicted[r, n] != labels[n]) / replicas)
    slow = [n for n in sorted(range(examples), key=lambda n: -scores[n]) if scores[n] > 0][:count]
    assert most_confidently_wrong(labels, predicted, confidence, count).tolist() == slow


def test_predictions_are_those_of_the_whole_split_at_once_in_evaluation_mode():
    torch.manual_seed(0)
    model, x, y = (
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double(),
        torch.randn(10, 4).double(),
        torch.arange(10),
    )
    predicted, confidence = predict(model, [(x[:7], y[:7]), (x[7:], y[7:])])
    assert model.training
    p = model.eval()(x).softmax(1)
    assert torch.equal(predicted, p.argmax(1))
    torch.testing.assert_close(confidence, p.max(1).values)


def test_rounding_of_the_softmax_makes_no_ties():
    logits = torch.tensor([[0.0, 1e-9]])
    assert logits.softmax(1).argmax(1).item() == 0  # of equals the first
    assert predict(nn.Identity(), [(logits, torch.zeros(1))])[0].item() == 1


# ---- pictures ----


@given(st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5), st.data())
def test_a_picture_survives_its_text(channels, height, width, data):
    size = channels * height * width
    pixels = data.draw(st.lists(st.integers(0, 255), min_size=size, max_size=size))
    image = np.array(pixels, dtype=float).reshape(channels, height, width)
    text = encode_picture(image / 255)
    assert text.startswith("3x" * (channels == 3) + f"{height}x{width}:")
    back = decode_picture(text)
    assert np.array_equal(back if channels == 1 else np.moveaxis(back, -1, 0), image[0] if channels == 1 else image)


def test_other_numbers_of_channels_are_averaged():
    assert decode_picture(encode_picture(np.array([[[0.0]], [[1.0]]]))).tolist() == [[128]]


# ---- conclusions ----


def per_replica(accuracies, **keys):
    return pd.DataFrame(
        {**keys, "replica": range(len(accuracies)), "status": "ok", "test_accuracy": accuracies,
         "validation_accuracy": accuracies, "generalisation_gap": 0.01}
    )  # fmt: skip


def test_paired_differences_are_those_of_scipy():
    values = [[0.90, 0.91, 0.92], [0.93, 0.93, 0.95], [0.80, 0.82, math.nan], [0.90, 0.92, 0.91]]
    summary = pd.concat([per_replica(v, a=i // 2, b=i % 2) for i, v in enumerate(values)])
    table = paired_differences(summary, ["a", "b"], ["replica"])
    assert list(table) == ["a", "b", "metric", "difference", "low", "high", "n", "verdict"]
    table = table[table["metric"] == "test_accuracy"]
    assert table[["a", "b"]].to_numpy().tolist() == [[0, 1], [1, 0], [1, 1]]
    for row, other in zip(table.itertuples(), values[1:], strict=True):
        differences = np.subtract(other, values[0])
        differences = differences[np.isfinite(differences)]
        expected = ttest_1samp(differences, 0).confidence_interval(1 - 0.05 / 3)
        assert (row.low, row.high) == pytest.approx((expected.low, expected.high))
        assert (row.difference, row.n) == (pytest.approx(differences.mean()), len(differences))
        word = "higher" if expected.low > 0 else "lower" if expected.high < 0 else "not resolved"
        assert row.verdict == word


def test_the_first_condition_that_has_a_value_is_compared_with_and_seeds_are_replicates():
    summary = pd.concat(
        per_replica([base + seed / 100], model=model, seed=seed)
        for (model, base), seed in itertools.product([("a", math.nan), ("b", 0.5), ("c", 0.7)], range(3))
    )
    table = paired_differences(summary, ["model"], ["seed", "replica"])
    table = table[table["metric"] == "test_accuracy"]
    assert table["model"].tolist() == ["c"]
    assert table["n"].tolist() == [3]
    assert table["difference"].tolist() == pytest.approx([0.2])
    assert table["verdict"].tolist() == ["not resolved"] or table["low"].item() < table["high"].item()  # no spread


def published(architecture="linear 784-10", error=0.12, **keys):
    row = {**keys, "architecture": architecture, "published_as": "linear classifier", "published_error": error}
    return pd.DataFrame([row])


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [([0.92, 0.921, 0.922], "lower"), ([0.82, 0.821, 0.822], "higher"), ([0.7, 0.9, 0.95], "not resolved"),
     ([0.92], "not resolved"), ([0.92, 0.92], "not resolved"), ([math.nan], "not resolved")],
)  # fmt: skip
def test_test_error_beside_the_published_one(accuracies, verdict):
    tables = {**job_tables(len(accuracies)), "published": published(), "summary": per_replica(accuracies)}
    concluded = EXPERIMENT.conclude(tables, [])
    row = concluded.tables["published"].iloc[0]
    interval = mean_interval(accuracies, "logit")
    assert row["verdict"] == verdict
    assert row["n"] == interval.n
    got = row[["test_error", "test_error_low", "test_error_high"]].tolist()
    assert got == pytest.approx([1 - interval.mean, 1 - interval.high, 1 - interval.low], nan_ok=True)
    assert concluded.sentences[0].endswith(f"LeCun's table has 12 % for linear classifier: {verdict}.")
    again = EXPERIMENT.conclude(tables | concluded.tables, [])
    pd.testing.assert_frame_equal(again.tables["published"], concluded.tables["published"])


def test_a_sweep_names_its_conditions_and_the_choice_is_by_validation():
    accuracies = {"linear": [0.92, 0.921, 0.922], "cnn": [0.98, 0.981, 0.983]}
    tables = {
        "summary": pd.concat(per_replica(values, model=model) for model, values in accuracies.items()),
        "published": published(model="linear"),
    }
    tables["summary"].loc[tables["summary"]["model"] == "cnn", "validation_accuracy"] = 0.5
    concluded = EXPERIMENT.conclude(tables, ["model"])
    assert concluded.tables["published"]["model"].tolist() == ["linear"]
    assert concluded.tables["paired_differences"]["model"].unique().tolist() == ["cnn"]
    assert concluded.sentences[0].startswith("model=linear: test error 7.90 [")
    assert concluded.sentences[1].startswith("Highest validation accuracy: model=linear (0.92")


def test_only_classes_are_taken():
    halves = {split: np.zeros((2, 1), np.float32) for split in SPLITS}
    with pytest.raises(UserError, match="needs a data set of classes"):
        EXPERIMENT.check(Dataset("regression", halves, halves, 1, 0.0, 1.0, ""), {})


# ---- what is measured of real runs ----


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A function from changes of a small recipe on digits to its run."""
    folder = tmp_path_factory.mktemp("classification")
    lab = laboratory.Laboratory(Store(folder / "runs"), Machine("cpu", 1, folder), say=lambda text: None)
    splitting = {"validation": 260, "split_seed": 0, "subset": 200, "label_noise": 0.0}
    base = Recipe(
        dataset={"_target_": "hw1.sources.digits", "standardize": True, **splitting},
        model={"_target_": "hw1.models.linear"}, optimizer={"_target_": "torch.optim.SGD", "lr": 0.05},
        loss={"_target_": "torch.nn.CrossEntropyLoss"},
        schedule={"kind": "constant", "warmup": 0.0, "drop_every": 0.3, "drop_factor": 0.1, "scaling": "none",
                  "hold": "epochs", "reference_batch_size": 64},
        batch_size=20, epochs=2, steps=None, init_seed=0, order_seed=0, replicas=2, collect_every=None,
        evaluate_every=None, vectorize="auto", dtype="float32", precision="highest",
        deterministic=True, device="cpu", threads=1,
    )  # fmt: skip
    return lambda **changes: lab.run(replace(base, **changes))


def test_tables_agree_with_the_history_and_with_one_another(measured):
    run = measured()
    tables = EXPERIMENT.measure({"trained": run})
    counts = tables["confusion"]
    assert list(counts) == ["replica", "label", "predicted", "count"]
    assert len(counts) == 2 * 10 * 10
    assert counts.groupby("replica")["count"].sum().tolist() == [run.dataset.size("test")] * 2
    per_label = counts.groupby(["replica", "label"])["count"].sum().unstack()
    assert per_label.to_numpy().tolist() == [np.bincount(run.dataset.targets["test"]).tolist()] * 2
    right = counts[counts["label"] == counts["predicted"]].groupby("replica")["count"].sum()
    assert (right / run.dataset.size("test")).tolist() == tables["summary"]["test_accuracy"].tolist()
    wrong = tables["wrong"]
    assert list(wrong) == ["replica", "rank", "example", "label", "predicted", "confidence"]
    assert wrong["rank"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert wrong["label"].tolist() == run.dataset.targets["test"][wrong["example"]].tolist()
    x = torch.as_tensor(run.splits.inputs("test", slice(None)))
    for row in wrong.itertuples():
        p = run.network(row.replica)(x[row.example : row.example + 1]).softmax(1)[0]
        assert p.argmax().item() == row.predicted
        assert p.max().item() == pytest.approx(row.confidence, rel=1e-5)
    for example, text in tables["picture"].itertuples(index=False):
        image = run.dataset.inputs["test"][example, 0]  # bytes 0…16
        assert np.array_equal(decode_picture(text), np.rint(image / 16 * 255))
    assert tables["classes"]["name"].tolist() == list("0123456789")
    assert "published" not in tables


def test_diverged_replicas_are_left_empty(measured):
    run = measured()
    half = replace(run, info={**run.info, "status": ["diverged", "ok"]})
    tables = EXPERIMENT.measure({"trained": half})
    assert tables["confusion"].groupby("replica")["count"].count().tolist() == [0, 100]
    assert set(tables["wrong"]["replica"]) == {1}
    tables = EXPERIMENT.measure({"trained": measured(optimizer={"_target_": "torch.optim.SGD", "lr": 1e38})})
    assert set(tables["summary"]["status"]) == {"diverged"}
    assert tables["confusion"]["count"].isna().all()
    assert len(tables["wrong"]) == len(tables["picture"]) == 0


@pytest.mark.parametrize(
    ("dataset", "architecture", "stands"),
    [({}, "linear 784-10, 7,850 parameters", True), ({}, "linear 64-10, 650 parameters", False),
     ({"subset": 10}, "linear 784-10, 7,850 parameters", False),
     ({"label_noise": 0.1}, "linear 784-10, 7,850 parameters", False),
     ({"_target_": "hw1.sources.kmnist"}, "linear 784-10, 7,850 parameters", False)],
)  # fmt: skip
def test_lecuns_table_is_for_mnist_as_published(measured, monkeypatch, dataset, architecture, stands):
    run = measured()
    node = {**run.recipe.dataset, "_target_": "hw1.sources.mnist", "subset": None, **dataset}
    run.__dict__.update(dataset=run.dataset, splits=run.splits)  # cached: the recipe is about to name another data set
    monkeypatch.setattr(run, "recipe", replace(run.recipe, dataset=node))
    monkeypatch.setattr(run, "info", {**run.info, "architecture": architecture})
    monkeypatch.setattr(run, "network", lambda replica: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    tables = EXPERIMENT.measure({"trained": run})
    assert ("published" in tables) == stands
    if stands:
        assert tables["published"]["published_error"].tolist() == [0.12]


@pytest.mark.parametrize("option", ["linear", "mlp_300_100", "mlp_800", "lenet5", "cnn_dropout"])
def test_presets_are_those_of_lecuns_table_and_say_their_size(option):
    file = conf_dir() / "model" / f"{option}.yaml"
    with compose.open_composer(None) as composer:
        config = composer.compose(["experiment=classification", f"model={option}"])
    node = OmegaConf.to_container(config.model, resolve=True)
    model = parts.build(node, input_shape=(1, 28, 28), outputs=10)
    shape, _, count = models.architecture(model, (1, 28, 28)).rpartition(", ")
    text = file.read_text(encoding="utf-8")
    assert f"{count} on MNIST" in text
    if option != "cnn_dropout":
        _, error = PUBLISHED[shape]
        assert f"{100 * error:g} %" in text.replace("12.0", "12")


# ---- figures ----


def job_tables(replicas=3, classes=4, names=None, diverged=(), pictures=True, **keys):
    """Tables as a job leaves them; replica r of a condition takes r + 1 examples of class 0 for class 1."""
    cells = itertools.product(range(replicas), range(classes), range(classes))
    confusion = [
        (r, a, b, math.nan if r in diverged else 9.0 if a == b else float(a < b) * (r + 1)) for r, a, b in cells
    ]
    alive = [r for r in range(replicas) if r not in diverged]
    wrong = [(r, rank, 10 + rank, 0, int(r != 1), 0.9 - rank / 100) for rank in range(1, 9) for r in alive]
    epochs = itertools.product(range(replicas), [2, 4])
    history = [(r, e, *([math.nan] * 4 if r in diverged else [0.5 / e, 0.6 / e, 1.0, 1 - 0.1 / e])) for r, e in epochs]
    columns = ["replica", "epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy"]
    tables = {
        "confusion": pd.DataFrame(confusion, columns=["replica", "label", "predicted", "count"]),
        "wrong": pd.DataFrame(wrong, columns=["replica", "rank", "example", "label", "predicted", "confidence"]),
        "history": pd.DataFrame(history, columns=columns),
        "summary": per_replica([math.nan if r in diverged else 0.9 + r / 100 for r in range(replicas)]),
    }
    if pictures:
        texts = [encode_picture(np.full((3, 2, 2), 0.5))] * 8
        tables["picture"] = pd.DataFrame({"example": range(11, 19), "pixels": texts}).iloc[: 8 if alive else 0]
    if names:
        tables["classes"] = pd.DataFrame({"label": range(classes), "name": names})
    return {name: table.assign(**keys)[[*keys, *table]] for name, table in tables.items()}


def together(*jobs):
    names = {name for job in jobs for name in job}
    return {name: pd.concat([job[name] for job in jobs if name in job], ignore_index=True) for name in names}


JOB, SWEEP = (
    {"confusion", "learning_curves", "wrong_images"},
    {"confusion", "learning_curves", "wrong_images", "conditions"},
)


@pytest.mark.parametrize(
    ("tables", "swept", "expected"),
    [
        (job_tables(), [], JOB),
        (job_tables(replicas=1, names=["T-shirt/top", "Ankle boot", "$x_", "<b>"]), [], JOB),
        (job_tables(classes=30, pictures=False), [], JOB - {"wrong_images"}),
        (job_tables(diverged={1}) | {"published": published()}, [], JOB),
        (job_tables(diverged={0, 1, 2}), [], JOB - {"wrong_images"}),
        (together(*(job_tables(replicas=2, model=m, **{"model.dropout": d}) for m in "ab" for d in range(6))),
         ["model", "model.dropout"], SWEEP),
        (together(job_tables(model="a"), job_tables(model="b", diverged={0, 1, 2}), {
            "published": published(model="a")}), ["model"], SWEEP),
        (together(*(job_tables(replicas=1, seed=s) for s in (0, 1))), ["seed"], JOB),
        (together(job_tables(replicas=1, depth=1), job_tables(replicas=1, depth=2)), ["depth"], SWEEP),
        (together(job_tables(dataset="a", names=list("wxyz")), job_tables(dataset="b", classes=2, pictures=False)),
         ["dataset"], SWEEP),
    ],
)  # fmt: skip
def test_every_shape_of_results_is_drawn(tmp_path, monkeypatch, tables, swept, expected):
    monkeypatch.setitem(figures.STYLE, "savefig.dpi", 40)
    tables = tables | EXPERIMENT.conclude(tables, swept).tables
    assert figures.draw(tmp_path, EXPERIMENT, tables, swept).problem == ""
    assert {path.stem for path in tmp_path.glob("*.png")} == expected


# ---- through the command line ----

SMALL = [
    "experiment=classification",
    "dataset=digits",
    "dataset.subset=300",
    "epochs=2",
    "evaluate_every=1",
    "threads=1",
]


@pytest.fixture(scope="module")
def grid(once):
    """The issue's ablation on a few digits."""
    words = [*SMALL, "model=cnn", "replicas=2", "jobs=1", "model.dropout=0,0.5", "optimizer.weight_decay=0,1e-4", "-m"]
    return once("classification_grid", lambda folder: run_program(folder, words))


def test_the_ablation_reads_as_a_table_with_differences_to_the_first_condition(grid):
    assert grid.code == 0, grid.err
    assert "warning" not in grid.err
    rows = [line for line in grid.out.splitlines() if re.match(r" +0(\.5)? +0(\.0001)? ", line)]
    assert len(rows) == 4
    assert "the first" in rows[0]
    assert "Highest validation accuracy: model.dropout=" in grid.out
    folder = sweep_folder(grid)
    table = read_table(folder / "paired_differences.csv")
    assert len(table) == 3 * 2
    summary = read_table(folder / "summary.csv")
    by_condition = summary.groupby(["model.dropout", "optimizer.weight_decay"])["test_accuracy"].mean().to_numpy()
    found = table[table["metric"] == "test_accuracy"]["difference"].to_numpy()
    assert found == pytest.approx(by_condition[1:] - by_condition[0])
    assert (folder / "conditions.png").exists()


def test_a_job_of_it_leaves_its_tables_and_figures(grid):
    folder = sweep_folder(grid) / "0"
    confusion = read_table(folder / "confusion.csv")
    assert list(confusion) == ["replica", "label", "predicted", "count"]
    assert confusion.groupby("replica")["count"].sum().tolist() == [300, 300]
    history = read_table(folder / "history.csv")
    assert {f"{split}_{kind}" for split in SPLITS for kind in ("loss", "accuracy")} <= set(history)
    for name in ("confusion", "learning_curves", "wrong_images"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    findings = json.loads((folder / "result.json").read_text(encoding="utf-8"))["findings"]
    assert findings[-1].startswith("Most frequent confusions, in test examples per replica: ")
    examples = read_table(folder / "picture.csv")["pixels"].map(decode_picture)
    assert {image.shape for image in examples} == {(8, 8)}


def test_regression_is_refused_before_anything_starts(tmp_path):
    done = run_program(tmp_path, ["experiment=classification", "dataset=function", "loss=mse", "model=mlp"])
    assert (done.code, done.err) == (
        2, "error: experiment=classification: needs a data set of classes, such as mnist or digits\n")  # fmt: skip
    assert not (tmp_path / "outputs").exists()
