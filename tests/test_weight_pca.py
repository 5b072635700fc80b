"""Weight PCA from stored runs to sentences and figures: what the tables hold, and what bad luck leaves of them."""

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_program, sweep_folder
from omegaconf import OmegaConf
from safetensors.torch import load_file
from scipy import stats
from sklearn.decomposition import PCA

from hw1.errors import UserError
from hw1.experiments.weight_pca import LESS, MORE, UNRESOLVED, WeightPca, _against_null
from hw1.files import read_table
from hw1.laboratory import STORED_TYPES, Laboratory, write_tensors
from hw1.machine import Machine
from hw1.measures.performance import evaluate
from hw1.recipe import Recipe, load_dataset
from hw1.store import Store

ROOT = Path(__file__).resolve().parent.parent
SCHEDULE = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "config.yaml")["schedule"])
SPLIT = {"validation": 200, "split_seed": 0, "subset": 300, "label_noise": 0.0}
NETWORK = {"activation": "relu", "dropout": 0.0, "batch_norm": False}
MLP = {"_target_": "hw1.models.mlp", "depth": 1, "width": 12, "widths": None, "budget": None, **NETWORK}
CNN = {"_target_": "hw1.models.cnn", "depth": 1, "width": 2, "hidden": 5, "kernel": 3, **NETWORK, "batch_norm": True}
EXPERIMENT = WeightPca("mean", [0.01, 0.2, 0.9], 7, 20)
COLUMNS = {  # at least, as DESIGN.md has them
    "trajectory": ["scope", "replica", "epoch", "pc1", "pc2", "residual", "train_loss", "test_accuracy"],
    "explained_variance": ["scope", "component", "ratio", "null_ratio"],
    "importance": ["layer", "index", "replica", "magnitude", "saliency", "loading"],
    "ablation": ["score", "order", "fraction", "replica", "test_accuracy"],
    "distribution": ["layer", "epoch", "bin_left", "bin_right", "density"],
    "pixel": ["score", "replica", "row", "column", "value"],
}
RECIPE = Recipe(
    dataset={"_target_": "hw1.sources.digits", "standardize": True, **SPLIT}, model=MLP,
    optimizer={"_target_": "torch.optim.Adam", "lr": 1e-2}, loss={"_target_": "torch.nn.CrossEntropyLoss"},
    schedule=SCHEDULE, batch_size=60, epochs=3, steps=None, init_seed=0, order_seed=0, replicas=4, collect_every=1,
    evaluate_every=None, vectorize="auto", dtype="float32", precision="highest",
    deterministic=True, device="cpu", threads="auto",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weight_pca")
    lab = Laboratory(Store(folder / "runs"), Machine("cpu", 1, folder))
    return lambda **changes: lab.run(replace(RECIPE, **changes))


def concluded(run, experiment=EXPERIMENT):
    tables = experiment.measure({"trained": run})
    conclusion = experiment.conclude(tables, [])
    return tables | conclusion.tables, list(conclusion.sentences)


@pytest.fixture(scope="module")
def found(trained):
    run = trained()
    return run, *concluded(run)


def rows_of(run, names, replicas):
    """The stored weights as rows, network by network as the table has them."""
    return np.array([
        np.concatenate([run.weights(epoch)[name][replica].double().flatten().numpy() for name in names])
        for replica in replicas for epoch in run.epochs
    ])  # fmt: skip


@pytest.mark.parametrize(("scope", "names"), [
    ("model", ["hidden1.weight", "hidden1.bias", "output.weight", "output.bias"]),
    ("hidden1", ["hidden1.weight", "hidden1.bias"]), ("output", ["output.weight", "output.bias"]),
])  # fmt: skip
def test_equals_scikit_learn_on_the_stored_weights(found, scope, names):
    run, tables, _ = found
    rows = rows_of(run, names, range(4))
    known = PCA(n_components=10, svd_solver="full").fit(rows)
    ratios = tables["explained_variance"].query("scope == @scope")
    np.testing.assert_allclose(ratios["ratio"], known.explained_variance_ratio_, rtol=1e-9)
    table = tables["trajectory"].query("scope == @scope")
    scores = table[["pc1", "pc2"]].to_numpy()
    np.testing.assert_allclose(np.abs(scores), np.abs(known.transform(rows)[:, :2]), atol=1e-6)
    assert table[["replica", "epoch"]].to_numpy().tolist() == [[r, e] for r in range(4) for e in range(4)]
    np.testing.assert_allclose(table["norm"], np.linalg.norm(rows, axis=1))
    np.testing.assert_allclose((scores**2).sum(1) + table["residual"] ** 2, table["distance"] ** 2)
    np.testing.assert_allclose(table["distance"], np.linalg.norm(rows - rows.mean(0), axis=1))


def test_loadings_are_scikit_learns(found):
    run, tables, _ = found
    names = ["hidden1.weight", "hidden1.bias", "output.weight", "output.bias"]
    known = (PCA(2, svd_solver="full").fit(rows_of(run, names, range(4))).components_ ** 2).sum(0)
    starts = {"hidden1": 0, "output": 65 * 12}
    table = tables["importance"]
    places = table["layer"].map(starts) + table["index"]
    np.testing.assert_allclose(table["loading"], known[places], rtol=1e-6)
    for replica, rows in table.groupby("replica"):
        weights = rows_of(run, names, [replica])[-1]
        np.testing.assert_allclose(rows["magnitude"], np.abs(weights[places[rows.index]]), rtol=1e-6)
        largest = set(np.argsort(-np.abs(weights))[:7])
        assert largest <= set(places[rows.index])
        assert 7 <= len(rows) <= 21


def test_losses_are_those_of_the_history(found):
    _, tables, _ = found
    joined = tables["trajectory"].merge(tables["history"], on=["replica", "epoch"], suffixes=("", "_known"))
    assert len(joined) == len(tables["trajectory"]) == 3 * 16
    for column in ("train_loss", "test_accuracy"):
        pd.testing.assert_series_equal(joined[column], joined[f"{column}_known"], check_names=False, check_exact=True)


def test_ablation_is_what_a_pruned_network_does(found):
    run, tables, _ = found
    table = tables["ablation"]
    assert set(table["score"]) == {"magnitude", "saliency", "loading", "random"}
    assert table.groupby(["score", "order", "replica"])["fraction"].agg(list).map(tuple).unique().tolist() == [
        (0.0, 0.01, 0.2, 0.9)
    ]
    whole = table[table["fraction"] == 0].groupby("replica")["test_accuracy"].unique().map(list).tolist()
    assert whole == [[accuracy] for accuracy in tables["summary"]["test_accuracy"]]
    network = run.network(1)
    parameters = torch.nn.utils.parameters_to_vector(network.parameters())
    smallest = parameters.abs().argsort()[: round(0.9 * len(parameters))]
    torch.nn.utils.vector_to_parameters(parameters.index_fill(0, smallest, 0), network.parameters())
    known = evaluate(network, run.loss(), run.splits.slices("test"))["accuracy"]
    (row,) = table.query("score == 'magnitude' and order == 'bottom' and fraction == 0.9 and replica == 1").to_dict(
        "records"
    )
    assert row["test_accuracy"] == known


def test_distributions_and_pictures(found):
    run, tables, _ = found
    table = tables["distribution"]
    area = table["density"] * (table["bin_right"] - table["bin_left"])
    np.testing.assert_allclose(area.groupby([table["layer"], table["epoch"]]).sum(), [1, 1, 1, 1])
    assert set(table["epoch"]) == {0, 3}
    picture = tables["pixel"].query("score == 'magnitude' and replica == 2").pivot(
        index="row", columns="column", values="value"
    )  # fmt: skip
    known = run.weights()["hidden1.weight"][2].abs().sum(0).reshape(8, 8)
    np.testing.assert_allclose(picture, known, rtol=1e-5)


def test_paths_by_themselves(found):
    run, tables, _ = found
    names = ["hidden1.weight", "hidden1.bias", "output.weight", "output.bias"]
    for row in tables["summary"].to_dict("records"):
        path = rows_of(run, names, [row["replica"]])
        steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
        assert row["displacement"] == pytest.approx(np.linalg.norm(path[-1] - path[0]))
        assert row["straightness"] == pytest.approx(row["displacement"] / steps.sum())
        assert row["walk_straightness"] == pytest.approx(math.hypot(*steps) / steps.sum())
        assert row["path_plane"] == pytest.approx(PCA(2).fit(path).explained_variance_ratio_.sum())
        assert 0.5 < row["walk_plane"] < 1


def test_the_null_is_near_its_limit(found):
    """4 starts far from one another: 2/3 in two components, more for so few parameters."""
    _, tables, _ = found
    inits = tables["explained_variance"].query("scope == 'model'")["independent_inits_ratio"]
    assert 2 / 3 < inits[:2].sum() < 2 / 3 + 0.1
    assert inits[:3].sum() == pytest.approx(1)
    plane = tables["plane"]
    assert (plane["null_low"] < plane["null_share"]).all()
    assert (plane["null_share"] < plane["null_high"]).all()
    assert plane["parameters"].tolist() == [64 * 12 + 12 + 130, 65 * 12, 130]


def test_left_out_networks_are_left_out(found, trained):
    run, tables, _ = found
    rows = rows_of(run, ["output.weight", "output.bias"], [0, 1, 3])
    known = PCA(2).fit(rows).explained_variance_ratio_.sum()
    (row,) = tables["jackknife"].query("scope == 'output' and replica == 2").to_dict("records")
    assert row["share"] == pytest.approx(known)
    # of what is linear in the networks, the jackknife gives the ordinary t-interval
    values = np.array([0.3, 0.5, 0.45, 0.41])
    mean = values.mean()
    others = (values.sum() - values) / 3
    without = pd.DataFrame({"share": others, "null_share": 0.0})
    row = {"share": mean, "null_share": 0.0, "null_low": -0.1, "null_high": 0.1}
    result = _against_null(row, without)
    known = stats.t.interval(0.95, 3, mean, stats.sem(values))
    assert (result["low"], result["high"]) == pytest.approx(known)
    assert (result["n"], result["verdict"]) == (4, MORE)
    assert _against_null(row | {"null_high": 0.6}, without)["verdict"] == UNRESOLVED
    shifted = {name: row[name] + 1 for name in ("null_share", "null_low", "null_high")}
    assert _against_null(row | shifted, without.assign(null_share=1.0))["verdict"] == LESS


def test_sentences_are_true(found):
    _, tables, sentences = found
    (row,) = tables["plane"].query("scope == 'model'").to_dict("records")
    assert f"PC1 + PC2 hold {100 * row['share']:.1f} % of the variance" in sentences[0]
    assert f"would hold {100 * row['null_share']:.1f} %" in sentences[0]
    assert sentences[0].endswith(f"jackknife over n=4: {row['verdict']}")
    assert sentences[1].startswith("each network's path by itself: straightness ")
    assert sentences[2].startswith("test accuracy with 1 % of the parameters set to 0: top by magnitude ")
    assert len(sentences) == 3


# ---- other networks, data and luck ----


def drawn(folder, tables, swept=(), names=("weight_pca", "explained_variance", "importance", "distribution")):
    folder.mkdir(exist_ok=True)
    made = EXPERIMENT.draw(tables, list(swept))
    for figure in made.values():
        figure.savefig(folder / "figure.png", dpi=30)
    assert [name for name in made if name != "pixel"] == list(names)
    return made


def test_convolutions_with_batch_norm(trained, tmp_path):
    run = trained(model=CNN, replicas=2, epochs=1)
    tables, sentences = concluded(run)
    assert tables["plane"]["scope"].tolist() == ["model", "conv1", "norm1", "hidden", "output"]  # buffers are no layer
    assert tables["pixel"].empty
    assert "fewer than 3 networks, no interval" in sentences[0]
    assert tables["jackknife"].empty
    assert tables["ablation"].query("fraction == 0")["test_accuracy"].iloc[0] == tables["summary"]["test_accuracy"][0]
    assert "pixel" not in drawn(tmp_path, tables)
    sweep = {name: table.assign(depth=1) for name, table in tables.items() if len(table)}
    conclusion = EXPERIMENT.conclude(sweep, ["depth"])
    assert "no interval" in conclusion.sentences[0]
    assert "pixel" not in drawn(tmp_path, sweep | conclusion.tables, ["depth"])


def test_regression_with_one_replica(trained, tmp_path):
    node = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "dataset" / "function.yaml"))
    run = trained(dataset=node, loss={"_target_": "torch.nn.MSELoss"}, replicas=1)
    tables, sentences = concluded(run, replace(EXPERIMENT, centring="final"))
    assert list(tables["trajectory"])[-1] == list(tables["ablation"])[-1] == "test_r2"
    assert tables["trajectory"].query("epoch == 3")["distance"].max() < 1e-9
    assert any("n=1" in sentence for sentence in sentences)
    assert not any("[" in sentence for sentence in sentences)
    drawn(tmp_path, tables)


def test_diverged_networks_are_left_out(trained, found, tmp_path):
    run = trained()
    run.info["status"] = ["ok", "diverged", "ok", "ok"]
    for epoch in run.epochs[1:]:
        for value in run.weights(epoch).values():
            value[1] = torch.nan
    tables, sentences = concluded(run)
    assert sorted(set(tables["trajectory"]["replica"])) == [0, 2, 3]
    assert tables["trajectory"][["pc1", "residual"]].notna().all().all()
    assert tables["summary"]["straightness"].isna().tolist() == [False, True, False, False]
    assert sentences[-1] == "1 of 4 networks diverged and are no part of any PCA"
    rows = rows_of(run, ["hidden1.weight", "hidden1.bias"], [0, 2, 3])
    ratio = tables["explained_variance"].query("scope == 'hidden1'")["ratio"]
    np.testing.assert_allclose(ratio[:4], PCA(4).fit(rows).explained_variance_ratio_)
    drawn(tmp_path, tables)


def test_nothing_is_left_when_all_diverged(trained, found, tmp_path):
    run = trained(replicas=2, optimizer={"_target_": "torch.optim.SGD", "lr": 1e30})
    assert run.status == ["diverged"] * 2
    tables, sentences = concluded(run)
    for name, columns in COLUMNS.items():
        assert tables[name].empty
        assert set(columns) <= set(tables[name])
    assert sentences == ["2 of 2 networks diverged and are no part of any PCA"]
    assert drawn(tmp_path, tables, names=()) == {}
    # beside a job that did not
    jobs = {name: [found[1][name].assign(lr=1), table.assign(lr=2)] for name, table in tables.items()}
    both = {name: pd.concat([table for table in parts if len(table)]) for name, parts in jobs.items()}
    none = {name: table.assign(lr=2) for name, table in tables.items() if len(table)}  # a sweep leaves out empty ones
    assert list(EXPERIMENT.conclude(none, ["lr"]).sentences) == sentences
    assert EXPERIMENT.draw(none, ["lr"]) == {}
    conclusion = EXPERIMENT.conclude(both, ["lr"])
    assert conclusion.sentences[0].startswith("lr=1: PC1 + PC2 hold")
    drawn(tmp_path, both | conclusion.tables, ["lr"])


def test_sweeps_have_a_row_per_condition_as_far_as_there_is_room(found, tmp_path):
    (_, tables, _), count = found, 6
    swept = ["model.width", "seed"]
    parts = [{name: table.assign(**{"model.width": i, "seed": 0}) for name, table in tables.items()}
             for i in range(count)]  # fmt: skip
    together = {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in tables}
    conclusion = EXPERIMENT.conclude(together, swept)
    assert len(conclusion.sentences) == count
    assert len(conclusion.tables["plane"]) == 3 * count
    made = drawn(tmp_path, together | conclusion.tables, swept)
    assert "the first 4 of 6 conditions" in made["weight_pca"].get_suptitle().replace("\n", " ")
    assert len(made["pixel"].axes) == 2 * 3 * 4  # each with a colour bar


def write(file, tensors):
    with file.open("wb") as stream:
        write_tensors(stream, tensors)


def test_weights_are_written_as_safetensors_reads_them(tmp_path):
    tensors = {f"{i}/é.{kind}": (torch.randn(3, 2, 5) * 9).to(kind) for i in range(2) for kind in STORED_TYPES}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.empty(0, 3), "odd": torch.ones(3, dtype=torch.bool)}
    tensors["turned"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    write(tmp_path / "weights", tensors)
    found = load_file(tmp_path / "weights")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with pytest.raises(UserError, match=r"model: w is of type torch.complex128, which cannot be stored"):
        write(tmp_path / "other", {"w": torch.ones(2, dtype=torch.complex128)})


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("no /dev/full here")
    (tmp_path / "weights").symlink_to(full)  # which, and not the device, a writer that renames would replace
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path / "weights", {"w": torch.ones(100_000)})
    assert caught.value.errno == errno.ENOSPC


def test_weights_along_training_are_needed(tmp_path):
    dataset = load_dataset(RECIPE, tmp_path)
    EXPERIMENT.check(dataset, {"trained": RECIPE})
    with pytest.raises(UserError, match=r"^collect_every=null: experiment=weight_pca needs weights along training"):
        EXPERIMENT.check(dataset, {"trained": replace(RECIPE, collect_every=None)})


def test_the_command_line(once):
    words = ["experiment=weight_pca", "dataset=digits", "replicas=3", "model=mlp", "width=8", "epochs=2"]
    outcome = once("weight_pca_job", lambda folder: run_program(folder, [*words, "dataset.subset=200"]))
    assert (outcome.code, outcome.err) == (0, "")
    folder = sweep_folder(outcome)
    for name, columns in COLUMNS.items():
        assert set(columns) <= set(read_table(folder / f"{name}.csv").columns), name
    for name in ("weight_pca", "explained_variance", "importance", "distribution", "pixel"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert "mathdefault" not in (folder / f"{name}.svg").read_text(encoding="utf-8")
    findings = json.loads((folder / "result.json").read_text(encoding="utf-8"))["findings"]
    assert all(sentence in outcome.out.replace("\n", " ") for sentence in findings)
    assert "independent starts with random walks of the same lengths" in findings[0]
