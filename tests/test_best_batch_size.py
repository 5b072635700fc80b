"""The best batch size from tables made by hand: the table, its words, what is not resolved, and how it is drawn."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from conftest import run_program, sweep_folder

from hw1.experiments.sensitivity import MEASURES, NOISE, Sensitivity
from hw1.statistics import mean_interval

EXPERIMENT = Sensitivity(examples=None, noise_examples=None)
COLUMNS = ["batch_size", "log_sensitivity", "validation_error", "on_front", "pick", "one_se_pick", "frequency",
           "told_apart", "n", "verdict"]  # fmt: skip
NAN = math.nan


def tables(points, replicas=3, spread=0.01, steps=None, drawn=0, **keys):
    """A sweep's `sensitivity` table: of each batch size its (sensitivity, validation error), replicas scattered."""
    generator = np.random.default_rng(drawn)
    rows = []
    for size, (sensitivity, error) in points.items():
        for replica in range(replicas):
            for measure in MEASURES:
                noise = 1 + spread * generator.standard_normal(2)
                values = {"sensitivity": sensitivity * noise[0], "validation_accuracy": 1 - error * noise[1]}
                beside = {"test_accuracy": 1 - error, "steps": steps or 1000 // size, "unit": "pixel"}
                rows.append({**keys, "replica": replica, "batch_size": size, "measure": measure, **values, **beside,
                             **dict.fromkeys(NOISE, 100.0)})  # fmt: skip
    return {"sensitivity": pd.DataFrame(rows)}


def concluded(given, swept=("batch_size",)):
    conclusion = EXPERIMENT.conclude(given, list(swept))
    return conclusion.tables["best_batch_size"], list(conclusion.sentences)


# 16 and 256 are the ends of the front, 64 its knee; 8 is dominated.
FRONT = {8: (0.5, 0.03), 16: (0.4, 0.01), 64: (0.2, 0.012), 256: (0.1, 0.03)}


def test_the_knee_is_picked():
    table, (best, confound) = concluded(tables(FRONT))
    assert list(table.columns) == COLUMNS
    assert table["batch_size"].tolist() == list(FRONT)
    assert table["on_front"].tolist() == [False, True, True, True]
    assert table["pick"].tolist() == [False, False, True, False]
    assert table["frequency"].tolist() == [0, 0, 1, 0]
    assert table["told_apart"].tolist() == [True, True, False, True]
    assert table["n"].tolist() == [3] * 4
    assert table["verdict"].tolist() == ["dominated", "on the front", "pick", "on the front"]
    assert best == (
        "best batch size (least softmax sensitivity and validation error): 64, picked in 100 % of 2,000 bootstrap "
        "resamples, n=3; one-standard-error pick 16; test error of 64: 0.012"
    )
    assert confound == (
        "confounded with steps: at fixed epochs a larger batch takes fewer (125 at 8, 3 at 256); "
        "control=fixed_steps holds them"
    )


def test_points_are_means_of_logarithms_and_of_errors():
    given = tables(FRONT, spread=0.3)
    table, _ = concluded(given)
    rows = given["sensitivity"].query("measure == 'softmax_jacobian' and batch_size == 16")
    assert table["log_sensitivity"][1] == pytest.approx(np.log(rows["sensitivity"]).mean(), rel=1e-12)
    assert table["validation_error"][1] == pytest.approx(1 - rows["validation_accuracy"].mean(), rel=1e-12)


def test_what_replicas_disagree_about_is_not_resolved():
    table, (best, _) = concluded(tables({16: (0.2, 0.02), 64: (0.2, 0.02), 256: (0.2, 0.02)}, 8, 0.5, drawn=2))
    (pick,) = table[table["pick"]].itertuples()
    assert pick.frequency < 0.5
    assert pick.verdict == "not resolved"
    assert f"not resolved: {pick.batch_size} is picked in only {100 * pick.frequency:.0f} % of 2,000 " in best
    assert table["frequency"].sum() == pytest.approx(1)
    others = [str(size) for size in (16, 64, 256) if size != pick.batch_size]
    assert f"; not told apart from {', '.join(others)} in either (paired t, Holm)" in best
    assert not table["told_apart"].any()


def test_the_test_error_is_that_of_the_pick_alone():
    given = tables(FRONT)
    chosen = given["sensitivity"]["batch_size"] == 64
    given["sensitivity"].loc[chosen, "test_accuracy"] = 0.99 - given["sensitivity"].loc[chosen, "replica"] / 1000
    expected = mean_interval([0.010, 0.011, 0.012], "logit")
    _, (best, _) = concluded(given)
    assert best.endswith(f"test error of 64: {expected.text()}")
    assert best.count("test error") == 1


def test_one_replica_concludes_nothing():
    table, (best, _) = concluded(tables(FRONT, replicas=1))
    assert best.endswith("64 in the one replica; n=1, nothing can be concluded")
    assert table["frequency"].isna().all()
    assert not table["one_se_pick"].any()
    assert table["verdict"].tolist() == ["dominated", "on the front", "n=1", "on the front"]


def test_swept_seeds_are_replicates():
    parts = [tables(FRONT, replicas=1, drawn=number, seed=number)["sensitivity"] for number in range(3)]
    table, (best, _) = concluded({"sensitivity": pd.concat(parts)}, ["batch_size", "seed"])
    assert len(table) == len(FRONT)
    assert "n=3" in best


@pytest.mark.parametrize("swept", [[], ["depth"], ["seed"]])
def test_without_a_sweep_over_batch_sizes_there_is_nothing_to_choose(swept):
    conclusion = EXPERIMENT.conclude(tables({64: (0.2, 0.01)}, depth=1, seed=1), swept)
    assert (conclusion.tables, list(conclusion.sentences)) == ({}, [])
    assert EXPERIMENT.conclude(tables({64: (0.2, 0.01)}), ["batch_size"]).tables == {}


def test_diverged_replicas_are_left_out_and_diverged_batch_sizes_never_picked():
    given = tables(FRONT)
    rows = given["sensitivity"]
    gone = (rows["batch_size"] == 256) | ((rows["batch_size"] == 16) & (rows["replica"] == 1))
    rows.loc[gone, ["sensitivity", "validation_accuracy", "test_accuracy", *NOISE]] = NAN
    table, (best, _) = concluded(given)
    assert table["verdict"].tolist()[-1] == "diverged"
    assert not table["on_front"].tolist()[-1]
    assert table["frequency"].tolist()[-1] == 0
    assert "n=2 to 3" in best
    rows.loc[rows["batch_size"] != 8, ["sensitivity", "validation_accuracy"]] = NAN
    _, (best, _) = concluded(given)
    assert best.endswith("fewer than two batch sizes have a value, nothing can be concluded")


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ({16: (0.4, 0.01), 64: (0.2, 0.03)}, "a front of two ties, so the lower validation error decided"),
        ({16: (0.4, 0.03), 64: (0.2, 0.01)}, "it beats all others in both"),
    ],
)
def test_small_fronts_say_how_they_were_decided(points, words):
    assert words in concluded(tables(points))[1][0]


def controlled():
    free = tables(FRONT, control="none")["sensitivity"]
    held = tables({16: (0.2, 0.03), 64: (0.2, 0.02), 256: (0.1, 0.01)}, steps=400, control="fixed_steps")["sensitivity"]
    return {"sensitivity": pd.concat([free, held], ignore_index=True)}


def test_each_control_has_its_own_best_batch_size_and_confound():
    table, sentences = concluded(controlled(), ["control", "batch_size"])
    assert list(table.columns) == ["control", *COLUMNS]
    assert table.loc[table["pick"], ["control", "batch_size"]].to_numpy().tolist() == [
        ["none", 64],
        ["fixed_steps", 256],
    ]
    assert "validation error), control=none: 64, " in sentences[0]
    assert "validation error), control=fixed_steps: 256, " in sentences[1]
    assert sentences[2].startswith("at control=none: confounded with steps")
    assert sentences[3] == (
        "at control=fixed_steps: confounded with examples seen: at equal steps (400) batch size 256 saw 16 times those "
        "of 16"
    )


def test_many_combinations_are_not_all_said():
    parts = [tables(FRONT, depth=depth)["sensitivity"] for depth in range(1, 12)]
    table, sentences = concluded({"sensitivity": pd.concat(parts)}, ["depth", "batch_size"])
    assert len(table) == 11 * len(FRONT)
    assert sentences[-2] == "… and 3 more in best_batch_size.csv"
    assert len(sentences) == 10


SIZES = [2**power for power in range(3, 13)]
MANY = {size: (0.05 * (1 + abs(i - 4)), 0.01 + 0.002 * i) for i, size in enumerate(SIZES)}


@pytest.mark.parametrize(
    ("given", "swept", "names"),
    [
        (tables(FRONT), ["batch_size"], {"sensitivity"}),
        (tables(FRONT, replicas=1), ["batch_size"], {"sensitivity"}),
        (tables(MANY), ["batch_size"], {"sensitivity"}),
        (controlled(), ["control", "batch_size"], {"sensitivity", "controls"}),
        ({"sensitivity": controlled()["sensitivity"].assign(model="mlp")}, ["control", "model", "batch_size"],
         {"sensitivity", "controls"}),
        (tables(dict.fromkeys(FRONT, (NAN, NAN))), ["batch_size"], {"sensitivity"}),
    ],
)  # fmt: skip
def test_drawn(given, swept, names):
    drawn = EXPERIMENT.draw(given | EXPERIMENT.conclude(given, swept).tables, swept)
    assert set(drawn) == names
    for figure in drawn.values():
        figure.canvas.draw()


def test_the_figure_marks_front_and_pick():
    given = tables(FRONT)
    figure = EXPERIMENT.draw(given | EXPERIMENT.conclude(given, ["batch_size"]).tables, ["batch_size"])["sensitivity"]
    plane = figure.axes[4]
    assert plane.get_title(loc="left") + plane.get_title() == "trade-off: pick 64 (100 % of resamples)"
    assert {text.get_text() for text in plane.texts} == {"8", "16", "64", "256"}
    lines = {line.get_marker(): line for line in plane.get_lines() if line.get_marker() in ("*", "+")}
    knee = np.log(
        given["sensitivity"].query("measure == 'softmax_jacobian' and batch_size == 64")["sensitivity"]
    ).mean()
    assert lines["*"].get_xdata()[0] == pytest.approx(math.exp(knee))
    (front,) = [line for line in plane.get_lines() if len(line.get_xdata()) == 3 and line.get_linestyle() == "-"]
    assert list(np.diff(front.get_xdata()) > 0) == [True, True]
    assert list(np.diff(front.get_ydata()) < 0) == [True, True]
    assert lines["+"].get_xdata()[0] == front.get_xdata()[0]
    assert lines["+"].get_ydata()[0] == front.get_ydata()[-1]


def test_controls_stand_beside_one_another_on_shared_axes():
    given = controlled()
    swept = ["control", "batch_size"]
    figure = EXPERIMENT.draw(given | EXPERIMENT.conclude(given, swept).tables, swept)["controls"]
    grid = np.array(figure.axes).reshape(3, 2)
    heads = [axes.get_title(loc="left") + axes.get_title() for axes in grid[0]]
    assert re.match(r"control=none\n\d+ to \d+ steps", heads[0])
    assert heads[1] == "control=fixed_steps\n400 steps at every batch size"
    for row in grid:
        assert row[0].get_ylim() == row[1].get_ylim()
        assert row[0].get_xlim() == row[1].get_xlim()


def test_controls_are_swept_through_the_command_line(tmp_path):
    words = ["experiment=sensitivity", "control=none,fixed_steps", "batch_size=32,64", "-m"]
    small = ["dataset=digits", "model=linear", "dataset.subset=400", "epochs=2", "experiment.examples=50", "replicas=2"]
    done = run_program(tmp_path, [*words, *small, "jobs=2"])
    assert (done.code, done.err) == (0, "")
    folder = sweep_folder(done)
    assert (folder / "controls.svg").exists()
    table = pd.read_csv(folder / "best_batch_size.csv")
    assert list(table.columns) == ["control", *COLUMNS]
    assert table["control"].tolist() == ["none", "none", "fixed_steps", "fixed_steps"]
    steps = (
        pd.read_csv(folder / "summary.csv").groupby(["control", "batch_size"], sort=False)["steps"].unique().map(list)
    )
    assert steps.tolist() == [[26], [14], [14], [14]]
    # At the reference batch size the controls are one and the same training.
    tables = pd.read_csv(folder / "sensitivity.csv").query("batch_size == 64").groupby("control", sort=False)
    values = [rows["sensitivity"].tolist() for _, rows in tables]
    assert values[0] == values[1]
    assert "confounded with examples seen: at equal steps (14) batch size 64 saw 2 times those of 32" in done.out
