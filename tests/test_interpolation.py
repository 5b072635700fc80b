"""Interpolation from the command line to the tables: ends bit for bit, a grid and a sweep alike, only ends trained."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_program, sweep_folder

from hw1 import compose, figures, job, parts
from hw1.data import Dataset
from hw1.errors import UserError
from hw1.experiments.interpolation import INITS, METHODS, Interpolation
from hw1.files import read_table
from hw1.recipe import Recipe

SMALL = ["experiment=interpolation", "dataset=digits", "epochs=2", "width=16", "threads=1"]
ALPHAS = [-0.5, 0, 0.5, 1, 2]
SWEEP = ["alpha=" + ",".join(map(str, ALPHAS)), "-m"]


@pytest.fixture(scope="module")
def grid(once):
    return once("alpha_grid", lambda folder: run_program(folder, [*SMALL, f"alpha={ALPHAS}".replace(" ", "")]))


@pytest.fixture(scope="module")
def sweep(once):
    return once("alpha_sweep", lambda folder: run_program(folder, [*SMALL, *SWEEP, "jobs=2"]))


@pytest.fixture(scope="module")
def folder(grid) -> Path:
    assert grid.code == 0, grid.err
    assert grid.err == ""
    return sweep_folder(grid)


def test_tables_have_the_columns_of_the_contract(folder):
    expected = {
        "interpolation": ["alpha", "replica", "init", "method", "split", "loss", "accuracy"],
        "endpoint": ["init", "endpoint", "label", "replica", "split", "loss", "accuracy"],
        "barrier": ["replica", "init", "method", "split", "metric", "definition", "barrier"],
        "distance": ["init", "replica", "layer", "between", "aligned", "from_init_a", "from_init_b"],
        "alignment": ["init", "replica", "note", "units", "moved"],
        "layer": ["alpha", "replica", "init", "method", "layer", "loss", "accuracy"],
        "layer_barrier": ["replica", "init", "method", "layer", "layer_barrier"],
    }
    for name, columns in expected.items():
        assert list(read_table(folder / f"{name}.csv").columns) == columns
    assert read_table(folder / "history.csv")["network"].unique().tolist() == ["A", "B same", "B different"]
    rows = read_table(folder / "interpolation.csv")[["alpha", "replica", "init", "method", "split"]]
    order = itertools.product(ALPHAS, range(3), INITS, METHODS, ("train", "test"))
    assert list(rows.itertuples(index=False, name=None)) == list(order)


def test_at_0_and_1_stand_the_stored_metrics_bit_for_bit(folder):
    curves, history = read_table(folder / "interpolation.csv"), read_table(folder / "history.csv")
    last = history.drop_duplicates(["network", "replica"], keep="last").set_index(["network", "replica"])
    ends = curves[curves["alpha"].isin([0, 1])]
    assert len(ends) == 2 * 3 * 2 * 2 * 2
    for row in ends.itertuples():
        stored = last.loc[("A" if row.alpha == 0 else f"B {row.init}", row.replica)]
        assert (row.loss, row.accuracy) == (stored[f"{row.split}_loss"], stored[f"{row.split}_accuracy"])
    endpoint = read_table(folder / "endpoint.csv")
    assert set(endpoint["label"]) == {"batch_size=64", "batch_size=1024"}
    merged = endpoint.assign(alpha=(endpoint["endpoint"] == "B").astype(float)).merge(
        ends[ends["method"] == "naive"], on=["alpha", "init", "replica", "split"], suffixes=("", "_curve")
    )
    assert len(merged) == 24
    assert merged["loss"].tolist() == merged["loss_curve"].tolist()


def test_barriers_are_those_of_the_curves(folder):
    curves, barrier = read_table(folder / "interpolation.csv"), read_table(folder / "barrier.csv")
    assert len(barrier) == 3 * 2 * 2 * 2 * 2 * 2
    for row in barrier.itertuples():
        chosen = curves.query(f"replica == {row.replica} and init == '{row.init}' and split == '{row.split}'")
        chosen = chosen.query(f"method == '{row.method}' and 0 <= alpha <= 1")
        values = (chosen["loss"] if row.metric == "loss" else 1 - chosen["accuracy"]).tolist()
        chord = {"entezari": np.linspace(values[0], values[-1], 3), "frankle": np.mean([values[0], values[-1]])}
        assert row.barrier == pytest.approx(np.max(values - chord[row.definition]), abs=1e-12)
    summary = read_table(folder / "summary.csv")
    chosen = barrier.query("init == 'different' and method == 'naive' and split == 'test' and metric == 'loss'")
    assert summary["barrier_different_naive"].tolist() == chosen.query("definition == 'entezari'")["barrier"].tolist()


def test_layers_and_distances_add_up(folder):
    distance, layer = read_table(folder / "distance.csv"), read_table(folder / "layer.csv")
    assert layer["layer"].unique().tolist() == ["hidden1", "hidden2", "output"]
    assert layer["alpha"].unique().tolist() == [0, 0.5, 1]
    for _, rows in distance.groupby(["init", "replica"]):
        whole = rows[rows["layer"] == "model"].iloc[0]
        for column in ("between", "aligned", "from_init_a", "from_init_b"):
            parts = rows.loc[rows["layer"] != "model", column]
            assert whole[column] == pytest.approx(math.sqrt((parts**2).sum()), rel=1e-12)
        assert whole["aligned"] <= whole["between"] * (1 + 1e-12)
    start = read_table(folder / "endpoint.csv").query("endpoint == 'A' and split == 'test'")
    merged = layer[layer["alpha"] == 0].merge(start, on=["replica", "init"])
    assert merged["loss_x"].tolist() == merged["loss_y"].tolist()
    assert (read_table(folder / "layer_barrier.csv")["layer_barrier"] >= 0).all()


def test_networks_that_began_alike_end_nearer(folder):
    assert read_table(folder / "summary.csv").eval("distance_same < distance_different").all()


def test_the_words_are_those_of_the_table(folder, grid):
    barrier = read_table(folder / "barrier.csv").query("split == 'test' and metric == 'loss'")
    mean = barrier.query("definition == 'entezari'").groupby(["init", "method"])["barrier"].mean()
    line = next(line for line in grid.out.splitlines() if line.startswith("test-loss barrier, different"))
    naive, aligned = re.search(r"naive ([\d.]+) .*aligned ([\d.]+) ", line).groups()
    assert float(naive) == pytest.approx(mean["different", "naive"], abs=0.05)
    assert float(aligned) == pytest.approx(mean["different", "aligned"], abs=0.05)
    assert "n=3" in line
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["findings"][1] == line


def test_a_sweep_over_alpha_trains_the_ends_alone_and_gives_the_table_of_a_grid(folder, sweep):
    assert sweep.code == 0, sweep.err
    assert len([path for path in (sweep.folder / "runs").iterdir() if not path.name.startswith(".")]) == 3
    swept = sweep_folder(sweep)
    for name in ("interpolation", "barrier", "layer", "layer_barrier"):
        assert (swept / f"{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes()
    assert {"interpolation.png", "layers.png"} <= {path.name for path in swept.iterdir()}
    assert "rises from" not in sweep.out  # an α is no condition to choose
    assert "test-loss barrier, different" in sweep.out


def test_so_does_hydras_own_launcher_which_trains_nothing_after_it(folder, sweep, tmp_path):
    words = [*SMALL, "alpha=0.5,1", "-m", "hydra/launcher=basic", f"store={sweep.folder / 'runs'}"]
    done = run_program(tmp_path, [*words, "experiment.layers=false"])
    assert done.code == 0, done.err
    assert "nothing trained: all 3 runs were in the store" in done.out
    found = read_table(sweep_folder(done) / "interpolation.csv")
    whole = read_table(folder / "interpolation.csv")
    pd.testing.assert_frame_equal(found, whole[whole["alpha"].isin([0.5, 1])].reset_index(drop=True))


# In this process: what is asked for, and what is refused


def planned(*words: str) -> tuple[Interpolation, dict[str, Recipe]]:
    with compose.open_composer(None) as composer:
        typed = [*SMALL, *words]
        point = composer.point(typed)
        experiment = parts.build(point.resolved["experiment"])
        base = Recipe.from_config(point.resolved, "cpu")
        found = dict(job.variants(point.config, experiment, base, typed))
    return experiment, {name: Recipe.from_config(config, "cpu") for name, config in found.items()}


DATA = Dataset("classification", {}, {}, 10, 0, 1, "")


def ends(text: str) -> str:
    return f"experiment.endpoints={text}"


@pytest.mark.parametrize(
    ("text", "of", "a", "b"),
    [
        ("[{batch_size:32},{batch_size:512}]", lambda r: r.batch_size, 32, 512),
        ("[{optimizer.lr:1e-3},{optimizer.lr:1e-2}]", lambda r: r.optimizer["lr"], 1e-3, 1e-2),
        ("[{optimizer:{lr:1e-3}},{optimizer:{lr:1e-2}}]", lambda r: r.optimizer["lr"], 1e-3, 1e-2),
        ("[{optimizer:sgd},{optimizer:adam}]", lambda r: r.optimizer["_target_"][-4:], ".SGD", "Adam"),
        ("[{model.dropout:0},{model.dropout:0.5}]", lambda r: r.model["dropout"], 0, 0.5),
        ("[{order_seed:0},{order_seed:1}]", lambda r: r.order_seed, 0, 1),
        ("[{epochs:2},{steps:9}]", lambda r: (r.epochs, r.steps), (2, None), (None, 9)),
        ("[{batch_size:64},{batch_size:64}]", lambda r: r.batch_size, 64, 64),
    ],
)  # fmt: skip
def test_any_pair_of_overrides_makes_the_ends(text, of, a, b):
    experiment, recipes = planned(ends(text))
    assert [of(recipes[name]) for name in ("A", "B same", "B different")] == [a, b, b]
    starts = [recipes[name].init_seed for name in recipes]
    assert starts == [0, 0, 1_000_000]
    assert recipes["B same"].order_seed == recipes["B different"].order_seed
    experiment.check(DATA, recipes)


def test_the_second_preset_differs_in_the_ends_alone():
    with compose.open_composer(None) as composer:
        first, second = (
            composer.point([f"experiment={name}"]).resolved for name in ("interpolation", "interpolation_lr")
        )
    assert second["experiment"].pop("endpoints") == [{"optimizer.lr": 1e-3}, {"optimizer.lr": 1e-2}]
    del first["experiment"]["endpoints"]
    assert first == second


@pytest.mark.parametrize(
    ("word", "why"),
    [
        (ends("[]"), "two groups of keys"),
        (ends("[{batch_size:64}]"), "two groups of keys"),
        (ends("[{batch_size:64},{}]"), "two groups of keys"),
        (ends("[64,1024]"), "two groups of keys"),
        (ends("[{seed:0},{seed:1}]"), "cannot set seed"),
        (ends("[{init_seed:0},{batch_size:1}]"), "cannot set init_seed"),
        (ends("[{depth:1},{depth:2}]"), "same form and size"),
        (ends("[{model.activation:relu},{model.activation:tanh}]"), "same form and size"),
        (ends("[{model:mlp},{model:cnn}]"), "same form and size"),
        (ends("[{dataset.subset:100},{dataset.subset:200}]"), "same dataset"),
        (ends("[{dataset:digits},{dataset:mnist}]"), "same dataset"),
        (ends("[{loss.label_smoothing:0},{loss.label_smoothing:0.1}]"), "same loss"),
        (ends("[{replicas:2},{replicas:3}]"), "same replicas"),
        (ends("[{alpha:0},{alpha:1}]"), "the same training"),
        ("alpha=[]", "at least one number"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(word, why):
    with pytest.raises(UserError, match=why) as caught:  # noqa: PT012
        experiment, recipes = planned(word)
        experiment.check(DATA, recipes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([ends("[{optimizer.rate:1},{optimizer.rate:2}]")], "unknown key optimizer.rate"),
        ([ends("[{batch_size:0},{batch_size:64}]")], "batch_size=0"),
        ([ends("[{batch_size:64},{batch_size:5000}]")], "batch_size=5000: must be at most"),
        (["batch_size=32"], "batch_size is not used"),
        ([ends("[{optimizer:{lr:1}},{optimizer:{lr:2}}]"), "optimizer.lr=3"], "optimizer.lr is not used"),
    ],
)
def test_nothing_starts_with_a_bad_end(tmp_path, monkeypatch, capsys, words, why):
    from hw1.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["hw1", *SMALL, *words])
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert re.fullmatch(rf"error: .*{re.escape(why)}.*\n", capsys.readouterr().err)
    assert not (tmp_path / "outputs").exists()


# Measured in this process


def measured(folder: Path, *words: str, draw: bool = False):
    from hw1.laboratory import Laboratory
    from hw1.machine import Machine
    from hw1.store import Store

    experiment, recipes = planned("epochs=1", "replicas=2", "width=4", "dataset.subset=100", *words)
    lab = Laboratory(Store(folder / "runs"), Machine("cpu", 1, folder / "data", ()))
    tables = experiment.measure({name: lab.run(recipe) for name, recipe in recipes.items()})
    conclusion = experiment.conclude(tables, [])
    tables |= conclusion.tables
    assert not draw or figures.draw(folder, experiment, tables, []).problem == ""
    return tables, " ".join(conclusion.sentences)


NEAR = ends("[{batch_size:16},{batch_size:50}]")


def test_the_same_twice_is_a_constant(tmp_path):
    tables, said = measured(tmp_path, ends("[{batch_size:50},{batch_size:50}]"), "alpha=[-1,0,0.5,1,2]")
    same = tables["interpolation"].query("init == 'same'")
    spread = same.groupby(["replica", "split"])["loss"].agg(np.ptp)
    assert (spread < 1e-5).all()
    assert (tables["distance"].query("init == 'same'")[["between", "aligned"]] == 0).all(axis=None)
    assert "same initialisation: naive 0" in said


@pytest.mark.parametrize("batch_norm", ["interpolated", "recalibrated"])
def test_batch_norm_has_two_ways_and_both_are_exact_at_the_ends(tmp_path, batch_norm):
    words = (NEAR, "model.batch_norm=true", f"experiment.batch_norm={batch_norm}", "alpha=[0,0.5,1]")
    tables, _ = measured(tmp_path, *words)
    naive = tables["interpolation"].query("method == 'naive'")
    ends_of_curve = naive[naive["alpha"] != 0.5].sort_values(["alpha", "init", "replica", "split"])
    endpoint = tables["endpoint"].sort_values(["endpoint", "init", "replica", "split"])
    assert ends_of_curve["loss"].tolist() == endpoint["loss"].tolist()
    history = tables["history"].query("network == 'A'").drop_duplicates("replica", keep="last")["test_loss"]
    first = endpoint.query("endpoint == 'A' and init == 'same' and split == 'test'")["loss"]
    assert (first.tolist() == history.tolist()) == (batch_norm == "interpolated")
    assert (tables["barrier"]["barrier"] >= 0).all()
    assert tables["layer"]["layer"].unique().tolist() == ["hidden1", "hidden2", "output"]


def test_a_diverged_end_costs_its_own_replicas_alone(tmp_path):
    tables, said = measured(
        tmp_path, ends("[{optimizer.lr:1e-3},{optimizer.lr:900,batch_size:5}]"), "model.activation=identity",
        "optimizer=sgd", "alpha=[0,0.5,1]", draw=True,
    )  # fmt: skip
    assert set(tables["summary"]["status"]) == {"diverged"}
    assert tables["interpolation"]["loss"].isna().all()
    assert tables["alignment"]["note"].unique().tolist() == ["diverged"]
    assert tables["endpoint"].query("endpoint == 'A'")["loss"].notna().all()
    assert "no replica has a value" in said


def test_a_regression_has_r2_and_no_error(tmp_path):
    words = ("dataset=function", "dataset.subset=null", "loss=mse", NEAR, "alpha=[0,0.5,1]", "replicas=1")
    tables, said = measured(tmp_path, *words, draw=True)
    assert list(tables["interpolation"].columns[-2:]) == ["loss", "r2"]
    assert tables["barrier"]["metric"].unique().tolist() == ["loss"]
    assert "n=1" in said


def test_without_matching_the_reason_is_said(tmp_path):
    tables, said = measured(tmp_path, "model=linear", NEAR, "alpha=[0,0.5,1]", draw=True)
    assert tables["interpolation"]["method"].unique().tolist() == ["naive"]
    assert "aligned: not available: there are no hidden units to rename" in said
    assert (tables["barrier"].query("metric == 'loss' and definition == 'entezari'")["barrier"] < 1e-6).all()


def test_a_single_place_has_losses_and_no_barrier(tmp_path):
    tables, said = measured(tmp_path, NEAR, "alpha=1.5", draw=True)
    assert {"test_loss_same_naive", "test_accuracy_different_aligned"} <= set(tables["summary"])
    assert not any("barrier" in name for name in tables["summary"])
    assert len(tables["barrier"]) == 0
    assert said == ""


# Sweeps over other keys, from tables alone


def swept(tables: dict[str, pd.DataFrame], key: str, values: list) -> dict[str, pd.DataFrame]:
    """As many jobs with the tables of one, under one another."""
    put = {name: pd.concat([table.assign(**{key: value}) for value in values]) for name, table in tables.items()}
    return {name: table[[key, *table.columns.drop(key)]] for name, table in put.items()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("key", "count"), [("width", 12), ("width", 2), ("seed", 2)])
def test_a_sweep_over_another_key_is_drawn_and_concluded(tmp_path, folder, key, count):
    own = {path.stem: read_table(path) for path in folder.glob("*.csv")}
    experiment, _ = planned()
    tables = swept(own, key, list(range(count)))
    conclusion = experiment.conclude(tables, [key])
    assert len(conclusion.tables["barrier"]) == count * len(own["barrier"])
    assert figures.draw(tmp_path, experiment, tables | conclusion.tables, [key]).problem == ""
    said = " ".join(conclusion.sentences)
    words = {("width", 12): "12 conditions: see barrier.csv", ("width", 2): "width=1", ("seed", 2): "n=6"}
    assert words[key, count] in said
