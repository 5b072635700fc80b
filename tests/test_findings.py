"""What is said of synthetic sweep folders: whole, with failed, missing and broken jobs, with odd names."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import ttest_1samp

from hw1 import findings, results
from hw1.errors import UserError
from hw1.files import read_table
from hw1.statistics import mean_interval

Values = list[list[float]]


def make(folder: Path, jobs: list[dict[str, Any]], values: Values, metric: str = "softmax_jacobian") -> Path:
    """A sweep's folder with one job per dict of overrides, whose replicas measured values[job]; NaN is diverged."""
    plan = [{"job": number, "overrides": overrides} for number, overrides in enumerate(jobs)]
    record = {"experiment": "sensitivity", "command": "x", "keys": list(jobs[0]), "headline": metric, "jobs": plan}
    (folder / "sweep.json").write_text(json.dumps(record))
    for number, (overrides, measured) in enumerate(zip(jobs, values, strict=True)):
        job = folder / str(number)
        job.mkdir()
        finish(job, "ok", overrides)
        status = ["diverged" if math.isnan(value) else "ok" for value in measured]
        rows = {"replica": range(len(measured)), "status": status, metric: measured, "steps": 10}
        pd.DataFrame(rows).to_csv(job / "summary.csv", index=False)
    return folder


def finish(job: Path, status: str, overrides: dict[str, Any], error: str | None = None) -> None:
    record = {"status": status, "overrides": overrides, "runs": {}, "error": error, "wall_seconds": 1.5}
    (job / "result.json").write_text(json.dumps(record))


BATCH_SIZES: list[dict[str, Any]] = [{"batch_size": size} for size in (16, 64, 256)]
FALLING = [[0.40, 0.42, 0.44], [0.30, 0.33, 0.33], [0.20, 0.22, 0.25]]


@pytest.fixture
def sweep_folder(tmp_path: Path) -> Path:
    return make(tmp_path, BATCH_SIZES, FALLING)


def rendered(folder: Path, width: int = 100) -> str:
    printed = io.StringIO()
    findings.render(results.read_sweep(folder), Console(file=printed, width=width))
    return printed.getvalue()


def test_complete_sweep(sweep_folder: Path) -> None:
    written = results.write(sweep_folder)
    frame = read_table(sweep_folder / "comparison.csv")
    assert list(frame.columns[:3]) == ["batch_size", "status", "diverged"]
    assert frame["batch_size"].tolist() == [16, 64, 256]
    assert frame["status"].tolist() == ["ok"] * 3
    assert frame["softmax_jacobian_n"].tolist() == [3] * 3
    expected = mean_interval(FALLING[0], "log")
    row = [frame[f"softmax_jacobian_{part}"].iloc[0] for part in ("mean", "low", "high")]
    assert row == [expected.mean, expected.low, expected.high]  # exactly: full precision in the file
    assert written.comparison["softmax_jacobian_low"].tolist() == frame["softmax_jacobian_low"].tolist()
    assert [path.name for path in sweep_folder.iterdir() if path.name.startswith(".")] == []


def test_finding_of_one_numeric_key(sweep_folder: Path) -> None:
    said = findings.finding(results.read_sweep(sweep_folder))
    assert said.startswith(
        "softmax sensitivity falls from batch_size 16 to 256: 0.420 → 0.223, paired difference −0.197 ["
    )
    assert said.endswith("], n=3.")


def test_finding_orders_a_numeric_key_by_value(tmp_path: Path) -> None:
    folder = make(tmp_path, BATCH_SIZES[::-1], FALLING)
    assert "rises from batch_size 16 to 256" in findings.finding(results.read_sweep(folder))


def test_unresolved_difference_is_said_to_be(tmp_path: Path) -> None:
    folder = make(tmp_path, BATCH_SIZES, [[0.3, 0.5, 0.4], [0.4] * 3, [0.45, 0.35, 0.42]])
    assert findings.finding(results.read_sweep(folder)).endswith(", n=3: not resolved.")
    assert findings.marks(results.read_sweep(folder), "softmax_jacobian") == ["*", "~", "~"]


def test_one_replica_supports_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path, BATCH_SIZES, [[0.4], [0.3], [0.2]])
    sweep = results.read_sweep(folder)
    assert findings.finding(sweep).endswith("0.4000 → 0.2000. n=1: no interval, nothing can be concluded.")
    assert findings.marks(sweep, "softmax_jacobian") == ["", "", "*"]
    assert "n=1: no interval" in rendered(folder)
    assert results.comparison(sweep)["softmax_jacobian_low"].isna().all()


def test_best_is_marked_and_distinguished(sweep_folder: Path) -> None:
    assert findings.marks(results.read_sweep(sweep_folder), "softmax_jacobian") == ["", "", "*"]
    assert findings.marks(results.read_sweep(sweep_folder), "steps") == ["", "", ""]  # neither way better


def test_unaligned_replicas_are_compared_by_welch(tmp_path: Path) -> None:
    folder = make(tmp_path, BATCH_SIZES[:2], FALLING[:2])
    path = folder / "1" / "summary.csv"
    pd.read_csv(path).assign(replica=[7, 8, 9]).to_csv(path, index=False)
    assert "difference (unpaired) −0.100 [" in findings.finding(results.read_sweep(folder))
    assert findings.marks(results.read_sweep(folder), "softmax_jacobian") == ["", "*"]


def test_failed_job_is_listed_and_counted(sweep_folder: Path) -> None:
    finish(sweep_folder / "1", "failed", BATCH_SIZES[1], "RuntimeError: [red]no\nmemory\x1b[31m")
    sweep = results.write(sweep_folder).sweep
    assert "job 1 (batch_size=64) failed: RuntimeError: [red]no memory?[31m\n" in rendered(sweep_folder)
    assert findings.finding(sweep).endswith("\n1 of 3 jobs failed.")
    frame = results.comparison(sweep)
    assert frame["status"].tolist() == ["ok", "failed", "ok"]
    assert frame["softmax_jacobian_mean"].isna().tolist() == [False, True, False]
    assert ",failed,,,,,,,,,\n" in (sweep_folder / "comparison.csv").read_text().replace("64,failed", ",failed")


def broken_json(job: Path) -> None:
    (job / "result.json").write_text('{"status": "o')


def json_of_another_kind(job: Path) -> None:
    (job / "result.json").write_text("[1]")


def unknown_status(job: Path) -> None:
    (job / "result.json").write_text('{"status": ["ok"]}')


def no_summary(job: Path) -> None:
    (job / "summary.csv").unlink()


def summary_without_rows(job: Path) -> None:
    (job / "summary.csv").write_text("replica,status\n")


def ragged_table(job: Path) -> None:
    (job / "history.csv").write_text("a,b\n1,2\n1,2,3\n")


def empty_table(job: Path) -> None:
    (job / "history.csv").write_text("")


def bytes_that_are_no_text(job: Path) -> None:
    (job / "summary.csv").write_bytes(b"replica,\xff\xfe\n1,2\n")


@pytest.mark.parametrize(("break_it", "reason"), [
    (broken_json, "result.json: Unterminated string"),
    (json_of_another_kind, "result.json: expected an object, got list"),
    (unknown_status, "result.json: unknown status ['ok']"),
    (no_summary, "summary.csv: missing"),
    (summary_without_rows, "summary.csv: no rows"),
    (ragged_table, "history.csv: Error tokenizing"),
    (empty_table, "history.csv: No columns"),
    (bytes_that_are_no_text, "summary.csv: 'utf-8' codec"),
])  # fmt: skip
def test_broken_files_fail_their_job_only(sweep_folder: Path, break_it: Callable[[Path], None], reason: str) -> None:
    break_it(sweep_folder / "1")
    sweep = results.write(sweep_folder).sweep
    assert [job.status for job in sweep.jobs] == ["ok", "failed", "ok"]
    assert findings.failures(sweep.jobs)[0].startswith(f"job 1 (batch_size=64) failed: {reason}")
    assert "falls from batch_size 16 to 256" in findings.finding(sweep)


def test_job_that_never_started_and_job_that_was_killed(sweep_folder: Path) -> None:
    (sweep_folder / "0" / "result.json").unlink()
    finish(sweep_folder / "1", "running", BATCH_SIZES[1])
    sweep = results.write(sweep_folder).sweep
    assert [condition.status for condition in sweep.conditions] == ["not started", "running", "ok"]
    assert "one condition, nothing to compare" in findings.finding(sweep)
    assert findings.finding(sweep).endswith("1 of 3 jobs not started.\n1 of 3 jobs running.")
    assert "job 1 (batch_size=64) running: ended without recording a result" in rendered(sweep_folder)


def test_nothing_finished(tmp_path: Path) -> None:
    folder = make(tmp_path, BATCH_SIZES, FALLING)
    for job in "012":
        finish(folder / job, "failed", {}, "no")
    sweep = results.write(folder).sweep
    assert findings.finding(sweep) == "no job has a result: nothing can be concluded.\n3 of 3 jobs failed."
    assert rendered(folder).count("failed") == 6
    assert list(results.comparison(sweep).columns) == ["batch_size", "status", "diverged"]


def test_broken_plan_is_replaced_by_the_jobs_own_overrides(sweep_folder: Path) -> None:
    (sweep_folder / "sweep.json").write_text('{"keys"')
    sweep = results.read_sweep(sweep_folder)
    assert sweep.keys == ("batch_size",)
    assert "falls from batch_size 16 to 256" in findings.finding(sweep)


def test_a_folder_without_jobs_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a sweep's folder: sweep\.json: .*No such file"):
        results.read_sweep(tmp_path)


def test_seeds_are_replicas(tmp_path: Path) -> None:
    jobs = [{"batch_size": size, "seed": seed} for size in (16, 64) for seed in (0, 1)]
    folder = make(tmp_path, jobs, [[0.40, 0.41], [0.43, 0.44], [0.30, 0.32], [0.31, 0.35]])
    frame = results.write(folder).comparison
    assert "seed" not in frame
    assert frame["softmax_jacobian_n"].tolist() == [4, 4]
    assert "paired difference −0.100 [" in findings.finding(results.read_sweep(folder))
    finish(folder / "3", "failed", jobs[3], "no")
    sweep = results.read_sweep(folder)
    assert [condition.status for condition in sweep.conditions] == ["ok", "1 of 2 failed"]
    assert "n=2." in findings.finding(sweep)  # only the pairs that both conditions have


def test_sweep_over_the_seed_alone_is_one_row(tmp_path: Path) -> None:
    folder = make(tmp_path, [{"seed": seed} for seed in range(3)], [[0.40], [0.42], [0.44]])
    frame = results.write(folder).comparison
    assert len(frame) == 1
    assert frame.loc[0, "softmax_jacobian_n"] == 3
    assert "all seeds: 0.420 [" in findings.finding(results.read_sweep(folder))


def test_the_same_job_twice_counts_once(tmp_path: Path) -> None:
    folder = make(tmp_path, [{"batch_size": 16}] * 2, [[0.4, 0.5], [0.4, 0.5]])
    assert results.write(folder).comparison["softmax_jacobian_n"].tolist() == [2]


def test_two_keys_compare_the_ends_of_the_first_at_each_value_of_the_other(tmp_path: Path) -> None:
    jobs = [{"batch_size": size, "depth": depth} for size in (16, 64) for depth in (1, 2)]
    folder = make(tmp_path, jobs, [[0.40, 0.42, 0.44], [0.3, 0.31, 0.33], [0.20, 0.22, 0.25], [0.28, 0.3, 0.3]])
    said = findings.finding(results.read_sweep(folder))
    first, second = said.splitlines()
    assert first.startswith("softmax sensitivity falls from batch_size 16 to 64 at depth=1: 0.420 → 0.223")
    assert "at depth=2" in second
    assert second.endswith("n=3 (simultaneous over 2 comparisons): not resolved.")
    assert [len(condition.jobs) for condition in results.read_sweep(folder).conditions] == [1] * 4


def test_difference_to_the_first_condition_of_a_grid(tmp_path: Path) -> None:
    jobs = [{"model.dropout": dropout, "optimizer.weight_decay": decay} for dropout in (0, 0.5) for decay in (0, 1e-4)]
    values = [[0.90, 0.91, 0.92], [0.93, 0.94, 0.96], [0.89, 0.93, 0.91], [0.95, math.nan, math.nan]]
    printed = rendered(make(tmp_path, jobs, values, "test_accuracy"), 110)
    from_scipy = ttest_1samp(np.subtract(values[1], values[0]), 0).confidence_interval(1 - 0.05 / 3)
    row = next(line for line in printed.splitlines() if line.lstrip().startswith("0 ") and "0.0001" in line)
    assert f"+0.033 [{from_scipy.low:+.3f}, {from_scipy.high:+.3f}]".replace("-", "−") in row
    assert "  the first" in printed
    assert "+0.05 n=1" in printed
    assert "simultaneous over 3 (Bonferroni)" in printed


def test_difference_to_the_first_of_named_conditions_where_there_is_room(tmp_path: Path) -> None:
    folder = make(
        tmp_path, [{"model": "mlp"}, {"model": "cnn"}], [[0.90, 0.91, 0.92], [0.97, 0.98, 0.98]], "test_accuracy"
    )
    assert "minus the first" in rendered(folder)
    assert "minus the first" not in rendered(folder, 50)


def test_no_difference_to_the_first_of_one_numeric_key_or_one_replica(sweep_folder: Path, tmp_path: Path) -> None:
    assert "minus the first" not in rendered(sweep_folder)
    single = tmp_path / "single"
    single.mkdir()
    assert "minus the first" not in rendered(make(single, [{"model": "mlp"}, {"model": "cnn"}], [[0.9], [0.8]]))


def test_group_names(tmp_path: Path) -> None:
    jobs = [{"model": model} for model in ("mlp", "None", "cnn")]
    folder = make(tmp_path, jobs, [[0.90, 0.91, 0.92], [0.1, 0.1, 0.1], [0.97, 0.98, 0.98]], "test_accuracy")
    assert "test accuracy rises from model mlp to cnn" in findings.finding(results.read_sweep(folder))
    assert results.write(folder).tables["summary"]["model"].unique().tolist() == ["mlp", "None", "cnn"]
    assert findings.FINITE_TEST_SET in rendered(folder)


def test_diverged_replicas_are_counted_and_said(tmp_path: Path) -> None:
    folder = make(tmp_path, BATCH_SIZES, [*FALLING[:2], [0.20, math.nan, 0.25]])
    sweep = results.read_sweep(folder)
    assert findings.finding(sweep).endswith("n=2.\n1 of 3 replicas diverged at batch_size 256.")
    frame = results.comparison(sweep)
    assert frame["diverged"].tolist() == [0, 0, 1]
    assert frame["softmax_jacobian_n"].tolist() == [3, 3, 2]
    assert frame["steps_n"].tolist() == [3, 3, 2]  # a diverged replica's finite numbers do not enter either
    assert "2 (1 diverged)" in rendered(folder)


def test_tables_are_concatenated_with_overrides_first(sweep_folder: Path) -> None:
    for job, epochs in enumerate([2, 1, 3]):
        history = pd.DataFrame(
            {"epoch": range(epochs), "train_loss": 0.1 + 0.2, "batch_size": BATCH_SIZES[job]["batch_size"]}
        )
        history.to_csv(sweep_folder / str(job) / "history.csv", index=False)
    written = results.write(sweep_folder)
    assert list(written.tables) == ["history", "summary"]
    stored = read_table(sweep_folder / "history.csv")
    assert list(stored.columns) == ["batch_size", "epoch", "train_loss"]  # moved, not doubled
    assert stored["batch_size"].tolist() == [16, 16, 64, 256, 256, 256]
    assert stored["train_loss"].tolist() == [0.1 + 0.2] * 6
    assert list(written.tables["summary"].columns) == ["batch_size", "replica", "status", "softmax_jacobian", "steps"]


def test_rows_are_in_the_order_of_job_numbers(tmp_path: Path) -> None:
    folder = make(tmp_path, [{"batch_size": size} for size in range(12)], [[float(size)] for size in range(12)])
    plan = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(plan | {"jobs": plan["jobs"][::-1]}))
    assert results.write(folder).tables["summary"]["softmax_jacobian"].tolist() == list(range(12))


@pytest.mark.parametrize("odd", ['a,"x\ny"\n', "a,x", "a,1\n\nb,2\n", 'a,"x\n', "", "1,\n", "a,x\na,x\n"])
def test_tables_that_are_read_together_are_those_read_alone(tmp_path: Path, odd: str) -> None:
    folder = make(tmp_path, [{"seed": seed} for seed in range(4)], [[0.1]] * 4)
    for job, rows in enumerate(["b,y\n", odd, "c,z\nd,w\n", "e,v\n"]):
        (folder / str(job) / "labels.csv").write_text(f"name,text\n{rows}")
    for job in results.read_sweep(folder).jobs:
        if odd == 'a,"x\n' and job.number == 1:  # a quote without end
            assert job.status == "failed"
        else:
            alone = read_table(job.folder / "labels.csv").astype(str)
            assert job.tables["labels"].astype(str).values.tolist() == alone.values.tolist()


def test_rewriting_changes_nothing(sweep_folder: Path) -> None:
    results.write(sweep_folder)
    before = {path.name: path.read_bytes() for path in sweep_folder.glob("*.csv")}
    results.write(sweep_folder)
    assert {path.name: path.read_bytes() for path in sweep_folder.glob("*.csv")} == before


def test_strings_are_no_formulas_and_no_markup(tmp_path: Path) -> None:
    names = ["=cmd()", "[red]x[/red]", "-1", "@x", [1, 2], None]
    folder = make(tmp_path, [{"+model.name": name} for name in names], [[-0.5, 0.5]] * 6, "mine")
    written = results.write(folder)
    stored = pd.read_csv(folder / "comparison.csv", dtype=str, keep_default_na=False)
    assert stored["'+model.name"].tolist() == ["'=cmd()", "[red]x[/red]", "-1", "'@x", "[1, 2]", "null"]
    assert "-0.5" in (folder / "summary.csv").read_text()
    assert "'-0.5" not in (folder / "summary.csv").read_text()
    assert written.comparison["+model.name"].tolist()[0] == "=cmd()"  # only the file is guarded
    printed = rendered(folder)
    assert "[red]x[/red]" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize("width", [60, 100])
def test_many_metrics_fit_the_width(sweep_folder: Path, width: int) -> None:
    rng = np.random.default_rng(0)
    for job in "012":
        path = sweep_folder / job / "summary.csv"
        names = ["train_loss", "test_loss", "test_accuracy", *(f"metric_number_{i}" for i in range(12))]
        pd.read_csv(path).assign(**{name: rng.random(3) for name in names}).to_csv(path, index=False)
    printed = rendered(sweep_folder, width)
    table = printed.split("* best")[0]
    assert max(map(len, table.splitlines())) <= width
    heads = " ".join(table.splitlines()[1:4])
    assert heads.index("softmax") < heads.index("accuracy")
    assert "…" not in printed
    assert "more metrics in comparison.csv" in printed


def test_a_difference_without_spread_is_not_resolved(tmp_path: Path) -> None:
    folder = make(tmp_path, [{"batch_size": 16}, {"batch_size": 64}], [[0.5, 0.6], [0.25, 0.35]])
    sweep = results.read_sweep(folder)
    assert findings.finding(sweep).endswith("n=2, no spread between replicas to judge it by: not resolved.")
    assert findings.marks(sweep, "softmax_jacobian") == ["~", "*"]


def test_a_single_survivor_is_neither_best_nor_worse(tmp_path: Path) -> None:
    nan = math.nan
    folder = make(
        tmp_path, [{"batch_size": b} for b in (1, 2, 4)], [[0.1, nan, nan], [0.2, 0.21, 0.2], [0.4, 0.41, 0.42]]
    )
    assert findings.marks(results.read_sweep(folder), "softmax_jacobian") == ["~", "*", ""]


@pytest.mark.parametrize(
    ("metric", "key", "same"),
    [
        ("test_loss", "loss", False), ("test_loss", "loss.label_smoothing", False), ("test_loss", "batch_size", True),
        ("test_loss", "loss_scale", True), ("softmax_jacobian", "dataset.standardize", False),
        ("softmax_jacobian", "dataset.subset", True), ("test_accuracy", "loss", True),
        ("test_mae", "dataset.target", False), ("test_mae", "dataset.target.k", False),
        ("barrier_same_naive", "loss", False),
    ],
)  # fmt: skip
def test_metrics_whose_meaning_a_key_changes_are_not_compared(
    tmp_path: Path, metric: str, key: str, same: bool
) -> None:
    assert findings.changes_meaning(metric, ["depth", key]) == (None if same else key)


def test_a_small_mean_is_not_written_as_0(tmp_path: Path) -> None:
    folder = make(tmp_path, [{"depth": 1}, {"depth": 7}], [[5.8e-4, 5.7e-4, 5.9e-4], [1.9e-7, 1.8e-7, 2e-7]])
    assert "5.800e−04 → 2e−07" in findings.finding(results.read_sweep(folder))


def test_what_changes_its_meaning_gets_neither_mark_nor_claim(tmp_path: Path) -> None:
    folder = make(tmp_path, [{"dataset.standardize": v} for v in (True, False)], [[0.1, 0.11], [0.3, 0.31]])
    sweep = results.read_sweep(folder)
    assert findings.marks(sweep, "softmax_jacobian") == ["", ""]
    assert "dataset.standardize changes what it measures" in findings.finding(sweep)
