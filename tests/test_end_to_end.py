"""The main job on a small part of real MNIST: trained, measured, compared, drawn; and again from the store."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from conftest import run_program, sweep_folder
from scipy import stats
from scipy.special import expit, logit

BATCH_SIZES = [16, 64, 256]
MEASURES = ["softmax_jacobian", "logit_jacobian", "loss_gradient"]
ACCURACIES = [f"{split}_accuracy" for split in ("train", "validation", "test")]
LOSSES = [f"{split}_loss" for split in ("train", "validation", "test")]


@pytest.fixture(scope="module")
def folder(sensitivity_sweep):
    assert sensitivity_sweep.code == 0, sensitivity_sweep.err
    assert sensitivity_sweep.err == ""
    return sweep_folder(sensitivity_sweep)


def test_every_file_is_there(folder):
    tables = {"comparison.csv", "sensitivity.csv", "history.csv", "summary.csv", "best_batch_size.csv"}
    figures = {"sensitivity.png", "sensitivity.svg"}
    names = {path.name for path in folder.iterdir()}
    assert {"0", "1", "2", "sweep.json", *tables, *figures} <= names
    of_a_job = tables - {"comparison.csv", "best_batch_size.csv"}
    for number in "012":
        names = {path.name for path in (folder / number).iterdir()}
        assert names == {*of_a_job, *figures, "result.json", "hw1.log", ".hydra"}


def test_sensitivity_has_a_row_per_batch_size_replica_and_measure(folder):
    table = pd.read_csv(folder / "sensitivity.csv")
    assert {"replica", "batch_size", "measure", "sensitivity", "steps", *LOSSES, *ACCURACIES} <= set(table.columns)
    expected = [(size, replica, measure) for size in BATCH_SIZES for replica in range(3) for measure in MEASURES]
    assert list(table[["batch_size", "replica", "measure"]].itertuples(index=False, name=None)) == expected
    assert (table["sensitivity"] > 0).all()
    assert table["sensitivity"].nunique() == len(expected)
    steps = table.groupby("batch_size")["steps"].unique().map(list).to_dict()
    assert steps == {size: [2 * -(-1000 // size)] for size in BATCH_SIZES}


def test_best_batch_size_is_what_the_summary_says(folder, sensitivity_sweep):
    table = pd.read_csv(folder / "best_batch_size.csv")
    assert {"batch_size", "on_front", "pick", "one_se_pick", "frequency", "verdict"} <= set(table.columns)
    assert table["batch_size"].tolist() == BATCH_SIZES
    by_size = pd.read_csv(folder / "summary.csv").groupby("batch_size")
    logs = by_size["softmax_jacobian"].apply(lambda values: np.log(values).mean())
    assert table["log_sensitivity"].tolist() == pytest.approx(logs.tolist())
    assert table["validation_error"].tolist() == pytest.approx((1 - by_size["validation_accuracy"].mean()).tolist())
    assert table["frequency"].sum() == pytest.approx(1)
    (pick,) = table[table["pick"]].itertuples()
    assert pick.on_front
    assert pick.verdict == ("pick" if pick.frequency >= 0.5 else "not resolved")
    (sentence,) = re.findall(r"^best batch size .*$", sensitivity_sweep.out, re.MULTILINE)
    assert f"{100 * pick.frequency:.0f} % of 2,000 bootstrap resamples" in sentence
    assert f"test error of {pick.batch_size}: " in sentence
    assert "at fixed epochs a larger batch takes fewer (126 at 16, 8 at 256)" in sensitivity_sweep.out


def test_noise_scale_of_every_replica(folder):
    """On the whole training split it is always resolved; at the start it is the replica's own, whatever the batch."""
    table = pd.read_csv(folder / "summary.csv")
    assert (table[["noise_scale", "noise_scale_start"]] > 0).all(axis=None)
    assert table["noise_scale"].nunique() == 9
    assert table.groupby("replica")["noise_scale_start"].nunique().tolist() == [1, 1, 1]


def test_networks_learn(folder):
    table = pd.read_csv(folder / "summary.csv")
    assert (table.loc[table["batch_size"] == 16, "test_accuracy"] > 0.8).all()
    history = pd.read_csv(folder / "history.csv")
    assert history.groupby(["batch_size", "replica"])["train_loss"].is_monotonic_decreasing.all()


def interval(values, forward, back):
    """Student-t on a scale, by scipy; widened to hold the arithmetic mean."""
    scaled = forward(values)
    low, high = back(np.array(stats.t.interval(0.95, len(values) - 1, scaled.mean(), stats.sem(scaled))))
    return min(low, values.mean()), max(high, values.mean())


@pytest.mark.parametrize(
    ("metrics", "forward", "back"),
    [
        ([*MEASURES, *LOSSES], np.log, np.exp),
        (ACCURACIES, logit, expit),
        (["generalisation_gap"], np.asarray, np.asarray),
    ],
)
def test_intervals_are_those_of_scipy(folder, metrics, forward, back):
    comparison = pd.read_csv(folder / "comparison.csv").set_index("batch_size")
    summary = pd.read_csv(folder / "summary.csv")
    assert comparison.index.tolist() == BATCH_SIZES
    assert comparison["status"].tolist() == ["ok"] * 3
    for metric in metrics:
        for size in BATCH_SIZES:
            values = summary.loc[summary["batch_size"] == size, metric].to_numpy()
            row = comparison.loc[size]
            assert row[f"{metric}_n"] == len(values) == 3
            assert row[f"{metric}_mean"] == pytest.approx(values.mean(), rel=1e-12)
            found = row[f"{metric}_low"], row[f"{metric}_high"]
            assert found == pytest.approx(interval(values, forward, back), rel=1e-9)


def test_comparison_is_printed_with_a_closing_sentence_that_is_true(folder, sensitivity_sweep):
    summary = pd.read_csv(folder / "summary.csv").sort_values(["batch_size", "replica"])
    by_size = {size: rows["softmax_jacobian"].to_numpy() for size, rows in summary.groupby("batch_size")}
    low, high = stats.ttest_rel(by_size[256], by_size[16]).confidence_interval(0.95)
    (sentence,) = re.findall(r"^softmax sensitivity.* batch_size 16 to 256: .*$", sensitivity_sweep.out, re.MULTILINE)
    assert "n=3" in sentence
    assert sentence.endswith("not resolved.") == (low <= 0 <= high)
    printed = [float(number.replace("−", "-")) for number in re.findall(r"[−+]?\d+\.\d+", sentence)]
    truth = [by_size[16].mean(), by_size[256].mean(), (by_size[256] - by_size[16]).mean(), low, high]
    assert printed == pytest.approx(truth, abs=0.006)
    for size in BATCH_SIZES:
        assert re.search(rf"^ +{size} +\d", sensitivity_sweep.out, re.MULTILINE)
    assert "* best" in sensitivity_sweep.out


def test_figures_can_be_opened(folder):
    from PIL import Image

    for where in (folder, folder / "0"):
        with Image.open(where / "sensitivity.png") as image:
            image.load()
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.5)
            assert min(image.size) > 1000
            assert image.convert("L").getextrema()[0] < 100  # something is drawn
        root = ET.parse(where / "sensitivity.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        words = "".join(root.itertext())
        assert "batch size" in words
        assert "test accuracy" in words


def test_the_record_says_how_it_came_about(folder, sensitivity_sweep):
    keys = set()
    for number, size in enumerate(BATCH_SIZES):
        result = json.loads((folder / str(number) / "result.json").read_text(encoding="utf-8"))
        assert result["status"] == "ok"
        assert result["overrides"]["batch_size"] == str(size)
        assert result["environment"]["threads"] == 1
        keys.add(result["runs"]["trained"]["key"])
        log = (folder / str(number) / "hw1.log").read_text(encoding="utf-8")
        assert log.count(", epoch 1, ") == log.count(", epoch 2, ") == 3
    assert keys == {path.name for path in (sensitivity_sweep.folder / "runs").glob("[!.]*")}


def test_the_same_command_again_trains_and_measures_nothing_and_gives_the_same_bytes(
    folder, sensitivity_sweep, sensitivity_words, offline
):
    runs = sensitivity_sweep.folder / "runs"
    before = {file: file.stat().st_mtime_ns for file in runs.glob("*/*") if file.is_file()}
    again = run_program(sensitivity_sweep.folder, [*sensitivity_words, "hydra.sweep.dir=again"], env=offline)
    assert again.code == 0, again.err
    assert "nothing trained: all 3 runs were in the store; nothing measured: so were the tables" in again.out
    assert "nothing trained" not in sensitivity_sweep.out
    second = sensitivity_sweep.folder / "again"
    tables = [f"{name}.csv" for name in ("sensitivity", "best_batch_size", "summary", "history", "comparison")]
    of_jobs = [f"{number}/{name}.csv" for number in "012" for name in ("sensitivity", "summary", "history")]
    for name in (*tables, *of_jobs, "sensitivity.svg", "0/sensitivity.svg"):
        assert (second / name).read_bytes() == (folder / name).read_bytes(), name
    assert {file: file.stat().st_mtime_ns for file in runs.glob("*/*") if file.is_file()} == before
    results = [json.loads((second / number / "result.json").read_text(encoding="utf-8")) for number in "012"]
    assert not any(run["trained"] for result in results for run in result["runs"].values())
    assert not any(result["measured"] for result in results)
