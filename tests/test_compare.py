"""`python -m hw1.compare`: what is aligned, what counts once, differences to a baseline, bad input, hostile folders."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import environment, run_program, sweep_folder
from scipy.stats import ttest_rel

from hw1 import comparing
from hw1.files import read_table

CONFIG = """\
batch_size: {batch_size}
epochs: {epochs}
depth: {depth}
seed: {seed}
init_seed: {init_seed}
order_seed: ${{seed}}
replicas: {replicas}
schedule:
  hold: {hold}
device: {device}
store: {store}
model:
  _target_: {model}
  depth: ${{depth}}
  dropout: {dropout}
optimizer:
  _target_: torch.optim.Adam
  lr: {lr}
experiment:
  _target_: {experiment}
  examples: null
  noise_examples: null
"""
DEFAULTS = {
    "batch_size": 64, "epochs": 4, "depth": 2, "seed": 0, "init_seed": "${seed}", "replicas": 3, "hold": "epochs",
    "device": "cpu", "store": "runs", "model": "hw1.models.cnn", "dropout": 0.0, "lr": 0.005,
    "experiment": "hw1.experiments.sensitivity.Sensitivity",
}  # fmt: skip
CHOICES = {"control": "none", "experiment": "sensitivity", "model": "cnn", "optimizer": "adam_short"}
OPTIONS = {  # group → option → what it sets
    "model": {"mlp": {"model": "hw1.models.mlp", "depth": 1}, "cnn": {}},
    "control": {"fixed_steps": {"hold": "steps"}, "none": {}},
    "optimizer": {"adam": {"lr": 0.001}, "adam_short": {}},
}
LEAVES = {"dropout": "model.dropout", "lr": "optimizer.lr", "hold": "schedule.hold"}
LOW, HIGH = [0.10, 0.12, 0.11], [0.20, 0.23, 0.21]


def job(folder: Path, values: Sequence[float] = LOW, typed: Mapping[str, Any] = {}, **defaults: Any) -> Path:
    """A finished job: what was `typed` (an option of a group sets what it sets), and other defaults than DEFAULTS."""
    settings = DEFAULTS | defaults
    for group in OPTIONS.keys() & typed.keys():
        settings |= OPTIONS[group][typed[group]]
    settings |= {key: value for key, value in typed.items() if key in DEFAULTS and key not in OPTIONS}
    choices = CHOICES | {group: typed[group] for group in OPTIONS.keys() & typed.keys()}
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(CONFIG.format(**settings))
    lines = "".join(f"      {group}: {option}\n" for group, option in choices.items())
    (folder / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  runtime:\n    choices:\n{lines}  verbose: false\n")
    overrides = {LEAVES.get(key, key): str(value) for key, value in typed.items()}
    finish(folder, "ok", overrides)
    rows = {"replica": range(len(values)), "status": "ok", "softmax_jacobian": values, "test_accuracy": 0.9}
    pd.DataFrame(rows).to_csv(folder / "summary.csv", index=False)
    return folder


def finish(folder: Path, status: str, overrides: Mapping[str, Any], error: str | None = None) -> None:
    record = {"status": status, "overrides": dict(overrides), "runs": {}, "error": error, "wall_seconds": 1.5}
    (folder / "result.json").write_text(json.dumps(record))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(*words: str | Path) -> tuple[int, pd.DataFrame]:
    """The exit code and comparison.csv, without figures."""
    code = comparing.main([*map(str, words), "--no-figures", "--out", "out"])
    return code, read_table(Path("out/comparison.csv"))


def keys_of(frame: pd.DataFrame) -> list[str]:
    return list(frame.columns[: list(frame.columns).index("status")])


def test_a_key_typed_in_one_and_default_in_the_other_is_one_key(here: Path) -> None:
    code, frame = compared(job(here / "A"), job(here / "B", typed={"dropout": 0.5}))
    assert code == 0
    assert keys_of(frame) == ["model.dropout"]
    assert frame["model.dropout"].tolist() == [0.0, 0.5]
    assert frame["softmax_jacobian_n"].tolist() == [3, 3]


def test_an_option_stands_for_what_it_sets(here: Path) -> None:
    _, frame = compared(job(here / "A"), job(here / "B", typed={"model": "mlp"}), job(here / "C", typed={"depth": 5}))
    assert keys_of(frame) == ["model", "depth"]  # depth was typed once; model._target_ and model.depth follow
    assert frame["depth"].tolist() == [2, 1, 5]


def test_an_option_without_a_node_of_its_own(here: Path) -> None:
    _, frame = compared(job(here / "A"), job(here / "B", typed={"control": "fixed_steps"}))
    assert keys_of(frame) == ["control"]


def test_options_that_come_to_the_same_make_no_condition(here: Path) -> None:
    _, frame = compared(job(here / "A"), job(here / "B", HIGH, typed={"optimizer": "adam", "lr": 0.005, "seed": 1}))
    assert keys_of(frame) == []
    assert frame["softmax_jacobian_n"].tolist() == [6]


def test_a_default_that_was_changed_in_between_is_seen(here: Path) -> None:
    _, frame = compared(job(here / "A", typed={"batch_size": 16}), job(here / "B", lr=0.01, typed={"batch_size": 64}))
    assert keys_of(frame) == ["batch_size", "optimizer.lr"]


def test_without_hydras_record_the_leaves_are_named(here: Path) -> None:
    (job(here / "A") / ".hydra" / "hydra.yaml").unlink()
    _, frame = compared("A", job(here / "B", typed={"model": "mlp"}))
    assert keys_of(frame) == ["depth", "model._target_"]


@pytest.mark.parametrize("key", ["seed", "init_seed"])
def test_seeds_replicate(here: Path, key: str) -> None:
    _, frame = compared(job(here / "A"), job(here / "B", HIGH, typed={key: 7}))
    assert keys_of(frame) == []
    assert frame["softmax_jacobian_n"].tolist() == [6]
    assert read_table(Path("out/summary.csv"))[key].tolist() == [0] * 3 + [7] * 3


def test_equal_seeds_typed_in_two_ways_are_equal(here: Path) -> None:
    both = job(here / "A", typed={"seed": 7})
    _, frame = compared(both, job(here / "B", typed={"seed": 7, "init_seed": 7}), job(here / "C", HIGH))
    assert frame["softmax_jacobian_n"].tolist() == [6]


def test_the_same_replicas_count_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, many = job(here / "A"), job(here / "B", [*LOW, 0.13, 0.14], store="elsewhere", replicas=5)
    _, frame = compared(few, many, "B/.")
    assert frame["softmax_jacobian_n"].tolist() == [5]
    assert len(read_table(Path("out/summary.csv"))) == 5  # which is what figures are drawn from
    assert "1 job repeats another with the same numbers, counted once: A is B" in capsys.readouterr().out
    assert read_table(Path("out/jobs.csv"))["counted"].tolist() == [False, True]


def test_other_machines_are_said_but_make_no_condition(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = job(here / "A"), job(here / "B", HIGH, device="cuda")
    _, frame = compared(*folders)
    assert frame["softmax_jacobian_n"].tolist() == [3]
    said = capsys.readouterr().out
    assert "with other numbers (other code, versions or machine), counted once: B is A" in said
    assert "no condition, though it differs: device (cpu, cuda)" in said
    _, frame = compared(*folders, "--by", "device")
    assert frame["device"].tolist() == ["cpu", "cuda"]


def test_differences_to_the_baseline_are_paired_ratios(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {(16, 0.0): LOW, (64, 0.0): HIGH, (16, 0.5): HIGH, (64, 0.5): [0.20, 0.22, 0.22]}
    folders = [job(here / f"{b}_{d}", v, typed={"batch_size": b, "dropout": d}) for (b, d), v in values.items()]
    compared(*folders, "--baseline", "model.dropout=0", "--metric", "softmax_jacobian")
    frame = read_table(Path("out/differences.csv"))
    assert frame["batch_size"].tolist() == [16, 64]
    assert frame["verdict"].tolist() == ["higher", "not resolved"]
    assert frame[["n", "comparisons"]].drop_duplicates().values.tolist() == [[3, 2]]
    ends = ttest_rel(np.log(HIGH), np.log(LOW)).confidence_interval(1 - 0.05 / 2)
    np.testing.assert_allclose(frame.loc[0, ["low", "high"]].astype(float), np.exp([ends.low, ends.high]))
    np.testing.assert_allclose(frame.loc[0, "effect"], np.exp(np.mean(np.log(np.divide(HIGH, LOW)))))
    said = capsys.readouterr().out
    assert "softmax sensitivity against model.dropout=0: higher in 1 of 2 conditions, not resolved in 1." in said
    assert "simultaneous over 2 comparisons (Bonferroni)" in said
    assert "minus the first" not in said


def test_a_condition_without_a_baseline_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [job(here / str(b), typed={"batch_size": b}) for b in (16, 64)]
    compared(*folders, job(here / "C", HIGH, typed={"batch_size": 64, "dropout": 0.5}), "--baseline", "batch_size=16")
    assert "no baseline for 1 of 3 conditions: batch_size=64, model.dropout=0.5." in capsys.readouterr().out


def test_other_seeds_are_not_paired(here: Path) -> None:
    compared(job(here / "A"), job(here / "B", HIGH, typed={"dropout": 0.5, "seed": 1}), "--baseline", "model.dropout=0")
    assert read_table(Path("out/differences.csv"))["paired"].tolist() == [False, False]


def test_by_averages_each_replicate_over_what_all_conditions_have(here: Path) -> None:
    values = {(16, 0.0): LOW, (64, 0.0): HIGH, (256, 0.0): [9, 9, 9], (16, 0.5): HIGH, (64, 0.5): HIGH}
    folders = [job(here / f"{b}_{d}", v, typed={"batch_size": b, "dropout": d}) for (b, d), v in values.items()]
    _, frame = compared(*folders, "--by", "model.dropout")
    assert keys_of(frame) == ["model.dropout"]
    np.testing.assert_allclose(frame["softmax_jacobian_mean"], [np.mean([LOW, HIGH]), np.mean(HIGH)])
    assert frame["softmax_jacobian_n"].tolist() == [3, 3]  # no more networks than there are
    assert len(read_table(Path("out/summary.csv"))) == 15


def test_filter(here: Path) -> None:
    folders = [job(here / str(b), typed={"batch_size": b}) for b in (16, 64, 256)]
    _, frame = compared(*folders, "--filter", "batch_size=16,256.0", "--filter", "model=cnn")
    assert frame["batch_size"].tolist() == [16, 256]


def test_experiments_have_folders_of_their_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job(here / "A")
    job(here / "B", experiment="hw1.experiments.classification.Classification")
    assert comparing.main(["A", "B", "--no-figures", "--out", "out"]) == 0
    assert {path.parent.name for path in Path("out").rglob("comparison.csv")} == {"sensitivity", "classification"}
    assert "classification: mean" in capsys.readouterr().out


def test_broken_and_unfinished_jobs_are_listed_and_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = here / "S"
    for number, size in enumerate((16, 64, 256, 512)):
        job(sweep / str(number), typed={"batch_size": size})
    plan = {"keys": ["batch_size"], "jobs": [{"job": n, "overrides": {"batch_size": n}} for n in range(5)]}
    (sweep / "sweep.json").write_text(json.dumps(plan))
    finish(sweep / "1", "failed", {"batch_size": "64"}, "RuntimeError: no")
    (sweep / "2" / ".hydra" / "config.yaml").write_text("batch_size: [")
    code, frame = compared("S")
    assert code == 1
    assert frame["status"].tolist() == ["ok", "failed", "ok"]
    said = capsys.readouterr().out
    assert "S/1 (batch_size=64) failed: RuntimeError: no" in said
    assert "S/2 (batch_size=2) failed: .hydra/config.yaml: while parsing" in said
    assert "S/4 (batch_size=4) not started: no result.json" in said


def test_nothing_finished_is_no_comparison(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(job(here / "A"), "interrupted", {}, "stopped by Ctrl-C")
    assert comparing.main(["A"]) == 1
    assert "A interrupted: stopped by Ctrl-C\nno job has a result: nothing to compare" in capsys.readouterr().out
    assert not Path("comparisons").exists()


@pytest.mark.parametrize(("words", "message"), [
    ([], "the following arguments are required: DIR"),
    (["gone"], "gone: there is no such folder"),
    (["."], ".: holds neither a job (result.json) nor a sweep (sweep.json)"),
    (["A", "B", "--by", "depth"], "--by depth: does not differ between these jobs; those that do: model.dropout"),
    (["A", "B", "--by", "seed"], "--by seed: seeds replicate"),
    (["A", "B", "--filter", "dropout=1"], "--filter dropout: no config has this key; did you mean model.dropout?"),
    (["A", "B", "--filter", "depth=9"], "--filter depth=9: no job has it; there are 2"),
    (["A", "B", "--filter", "depth"], "--filter depth: must be KEY=VALUE"),
    (["A", "B", "--baseline", "depth=2"], "--baseline depth: makes no condition here; those that do: model.dropout"),
    (["A", "B", "--baseline", "model.dropout=1"], "--baseline model.dropout=1: no condition has it; there are model."),
    (["A", "B", "--metric", "test_acuracy"], "--metric test_acuracy: was not measured; did you mean test_accuracy?"),
    (["A", "B", "--out", "A"], "--out A: holds a job's own tables; name another folder"),
    (["A", "--fast"], "unrecognized arguments: --fast"),
])  # fmt: skip
def test_bad_input_is_one_line(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    job(here / "A")
    job(here / "B", typed={"dropout": 0.5})
    before = {path: path.read_bytes() for path in here.rglob("*.*") if path.is_file()}
    assert comparing.main(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {message}")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert {path: path.read_bytes() for path in here.rglob("*.*") if path.is_file()} == before


def aliases(folder: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    (folder / ".hydra" / "config.yaml").write_text("bomb: {" + ", ".join(lines) + "}\n")


def nesting(folder: Path) -> None:
    (folder / ".hydra" / "config.yaml").write_text("deep: " + "[" * 100_000)


def object_of_python(folder: Path) -> None:
    with (folder / ".hydra" / "config.yaml").open("a") as file:
        file.write("evil: !!python/object/apply:os.system ['touch evil']\n")


def nested_json(folder: Path) -> None:
    (folder / "result.json").write_text('{"a":' * 100_000)


def too_long(folder: Path) -> None:
    (folder / ".hydra" / "config.yaml").write_text("a: 1\n" * 300_000)


@pytest.mark.parametrize("harm", [aliases, nesting, object_of_python, nested_json, too_long])
def test_a_hostile_file_costs_its_own_job(tmp_path: Path, harm: Any) -> None:
    job(tmp_path / "A")
    harm(job(tmp_path / "B", typed={"dropout": 0.5}))
    done = run_program(tmp_path, ["A", "B", "--no-figures"], ("-m", "hw1.compare"))  # not to crash this process
    assert done.code == 1
    assert "Traceback" not in done.err
    assert re.search(r"^B .*failed: ", done.out, re.MULTILINE)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("target", ["os.system", "hw1.runs.main", "hw1.experiments.np.load", "mine.Experiment", "x"])
def test_nothing_but_hw1s_experiments_is_built(here: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    (here / "mine.py").write_text("open('evil', 'w')\n")
    job(here / "A", experiment=target)
    assert comparing.main(["A", "--out", "out"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("warning: no figures: experiment._target_=")
    assert said.err.count("\n") == 1
    assert not (here / "evil").exists()


def test_hostile_names_are_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("[red]x[/red]", "=cmd()", "'a\\x1b[31mb'")):
        job(here / f"[b]{number}", store="runs", experiment=f'{DEFAULTS["experiment"]}\n  name: "{name}"')
    compared(*sorted(here.iterdir()))
    said = capsys.readouterr().out
    assert "[red]x[/red]" in said
    assert "\x1b" not in said
    assert "'=cmd()" in Path("out/comparison.csv").read_text()


def test_two_real_sweeps_make_one_figure_and_a_paired_table(sensitivity_sweep, sensitivity_words, tmp_path) -> None:
    first = sweep_folder(sensitivity_sweep)
    words = [word for word in sensitivity_words if "batch_size" not in word]
    words += ["batch_size=64,256", "model.dropout=0.5", f"store={tmp_path / 'runs'}"]
    assert run_program(tmp_path, words).code == 0
    (second,) = tmp_path.glob("multirun/*/*")
    untouched = {path: path.read_bytes() for path in [*first.rglob("*"), *second.rglob("*")] if path.is_file()}
    asked = [str(first), str(second), "--baseline", "model.dropout=0"]
    done = run_program(tmp_path, asked, ("-X", "importtime", "-m", "hw1.compare"))
    assert done.code == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert "matplotlib" in loaded
    assert not loaded & {"torch", "hydra", "omegaconf", "sklearn"}
    (out,) = tmp_path.glob("comparisons/*/*")
    names = {path.name for path in out.iterdir()}
    assert {"sensitivity.png", "comparison.csv", "differences.csv", "sensitivity.csv", "jobs.csv"} <= names
    frame = read_table(out / "comparison.csv")
    assert frame[["batch_size", "model.dropout"]].values.tolist() == [
        *([b, 0] for b in (16, 64, 256)),
        [64, 0.5],
        [256, 0.5],
    ]
    found = read_table(out / "differences.csv")
    assert found.loc[found["metric"] == "softmax_jacobian", "n"].tolist() == [3] * 2
    assert found["paired"].all()
    assert "model.dropout=0.5" in (out / "sensitivity.svg").read_text(encoding="utf-8")
    assert "softmax sensitivity against model.dropout=0: " in done.out
    assert {path: path.read_bytes() for path in untouched} == untouched


def test_tables_alone_load_no_matplotlib(function_job, tmp_path) -> None:
    words = [str(sweep_folder(function_job)), "--no-figures"]
    done = run_program(tmp_path, words, ("-X", "importtime", "-m", "hw1.compare"), environment())
    loaded = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert done.code == 0
    assert not loaded & {"matplotlib", "torch", "hydra", "omegaconf", "sklearn"}
