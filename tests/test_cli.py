"""The contract of the command line, through a process of its own: help, flags, folders, files, columns, exit codes."""

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import Outcome, environment, run_program, sweep_folder

from hw1 import cli, compose, files, outcome, sweep

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))
NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, outputs, hidden):
        super().__init__()
        self.hidden, self.layers = hidden, nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, outputs))

    def forward(self, x):
        if self.hidden == 4 and self.training:
            raise RuntimeError("no four,\\nplease")
        return self.layers(x)
"""
OWN_NET = [
    "model=custom",
    "model._target_=own_nets.Net",
    "allow_targets=[own_nets]",
    "steps=20",
    "replicas=2",
    "threads=1",
]


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


# ---- help and flags ----


def test_help_names_experiments_swept_names_and_three_examples(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in EXPERIMENTS:
        assert re.search(rf"experiment={name} +\S.+[?.]", text), name
    words = text.split()
    contract = (
        "experiment dataset model optimizer loss batch_size epochs steps depth width alpha seed init_seed order_seed"
    )
    for name in [*contract.split(), "replicas", "device", "threads", "jobs"]:
        assert name in words, name
    assert len(re.findall(r"^  python -m hw1( .*)?\n      \S", text, flags=re.MULTILINE)) == 3
    assert max(map(len, text.splitlines())) <= 140


@pytest.mark.parametrize("words", [["-h"], ["batch_size=3", "--help"], ["nonsense", "--help"]])
def test_help_wins_wherever_it_stands(words, capsys):
    assert cli.main(words) == 0
    assert "Examples:" in capsys.readouterr().out


def test_the_examples_of_the_help_are_right(tmp_path, monkeypatch, data_dir):

    monkeypatch.chdir(tmp_path)
    for example, _ in cli.EXAMPLES:
        words = example.removeprefix("python -m hw1").split()
        assert sweep.plan(compose.parse([*words, f"data_dir={data_dir}"])).jobs


def test_help_is_fast(tmp_path):
    run_program(tmp_path, ["--help"])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert run_program(tmp_path, ["--help"]).code == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.6


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"hw1 \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_cfg_prints_the_configuration_and_makes_nothing(tmp_path):
    done = run_program(tmp_path, ["batch_size=7", "--cfg", "job", "experiment=sensitivity"])
    assert done.code == 0
    assert "batch_size: 7\n" in done.out
    assert "hw1.experiments.sensitivity.Sensitivity" in done.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "experiment=function", "depth=1,2", "seed=0,1"],
        ["experiment=function", "-m", "depth=1,2", "seed=0,1"],
        ["experiment=function", "depth=1,2", "seed=0,1", "--multirun"],
    ],
)
def test_flags_may_stand_anywhere(words, tmp_path, monkeypatch):

    monkeypatch.chdir(tmp_path)
    planned = sweep.plan(compose.parse(words))
    assert planned.multirun
    assert planned.keys == ["depth", "seed"]
    assert [(job.config["depth"], job.config["seed"]) for job in planned.jobs] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [folder.name for folder in planned.folders] == ["0", "1", "2", "3"]


def test_two_starts_never_share_a_folder(tmp_path, monkeypatch):

    monkeypatch.chdir(tmp_path)
    folders = [sweep.plan(compose.parse(words)).folder for words in ([], [], ["-m", "seed=0,1"])]
    assert len(set(folders)) == 3
    assert folders[0].parent.parent == tmp_path / "outputs"
    assert folders[2].parent.parent == tmp_path / "multirun"


# ---- one job ----


def test_a_job_leaves_its_files(function_job):
    assert function_job.code == 0, function_job.err
    assert function_job.err == ""
    folder = sweep_folder(function_job)
    names = {file.name for file in folder.iterdir()}
    tables = {"summary.csv", "prediction.csv", "history.csv", "network.csv", "training_points.csv"}
    assert names == tables | {"result.json", "function.png", "function.svg", "report.html", ".hydra", "hw1.log"}
    assert str(folder.relative_to(function_job.folder)) in function_job.out


def test_a_jobs_tables_have_the_columns_of_the_contract(function_job):
    folder = sweep_folder(function_job)
    prediction = pd.read_csv(folder / "prediction.csv")
    assert list(prediction.columns) == ["replica", "x", "target", "prediction"]
    assert prediction.groupby("replica").size().tolist() == [1000, 1000]
    history = pd.read_csv(folder / "history.csv")
    splits = ("train", "validation", "test")
    metrics = [f"{split}_{kind}" for kind in ("loss", "mae", "r2") for split in splits]
    assert {"replica", "epoch", "step", "learning_rate", *metrics} <= set(history.columns)
    assert history["step"].max() == 40
    summary = pd.read_csv(folder / "summary.csv")
    assert summary["replica"].tolist() == [0, 1]
    assert {"status", "parameters", "steps", "test_loss"} <= set(summary.columns)


def test_a_jobs_result(function_job):
    folder = sweep_folder(function_job)
    result = read(folder / "result.json")
    assert result["status"] == "ok"
    assert result["overrides"] == {"steps": "40", "replicas": "2", "threads": "1"}
    run = result["runs"]["trained"]
    assert run["trained"] is True
    assert (function_job.folder / "runs" / run["key"] / "SHA256SUMS").is_file()
    assert {"hw1", "python", "torch"} <= set(result["environment"]["versions"])
    assert result["wall_seconds"] > 0
    assert result["error"] is None


def test_a_line_per_epoch_in_the_log_and_none_on_the_terminal(function_job):
    log = (sweep_folder(function_job) / "hw1.log").read_text(encoding="utf-8")
    history = pd.read_csv(sweep_folder(function_job) / "history.csv")
    assert log.count("train_loss") == len(history)
    assert "train_loss" not in function_job.out
    assert "\x1b" not in function_job.out


# ---- a sweep ----


@pytest.fixture(scope="session")
def seeds_sweep(once) -> Outcome:
    """Two depths, two seeds of two replicas each; four jobs, two at a time."""
    words = ["-m", "depth=1,2", "seed=0,1", "steps=40", "replicas=2", "jobs=2"]
    return once("seeds_sweep", lambda folder: run_program(folder, words))


def test_a_sweep_leaves_its_files(seeds_sweep):
    assert seeds_sweep.code == 0, seeds_sweep.err
    folder = sweep_folder(seeds_sweep)
    names = {file.name for file in folder.iterdir()}
    assert {"0", "1", "2", "3", "sweep.json", "comparison.csv", "summary.csv", "prediction.csv", "history.csv"} <= names
    assert {"function.png", "function.svg"} <= names
    assert (folder / "3" / "result.json").is_file()
    plan = read(folder / "sweep.json")
    assert plan["experiment"] == "function"
    assert plan["keys"] == ["depth", "seed"]
    assert plan["command"].startswith("python -m hw1 -m depth=1,2 seed=0,1")
    swept = [(job["job"], job["overrides"]["depth"], job["overrides"]["seed"]) for job in plan["jobs"]]
    assert swept == [(0, 1, 0), (1, 1, 1), (2, 2, 0), (3, 2, 1)]


def test_a_seed_is_replication_not_a_condition(seeds_sweep):
    comparison = pd.read_csv(sweep_folder(seeds_sweep) / "comparison.csv")
    assert list(comparison.columns[:2]) == ["depth", "status"]
    assert comparison["depth"].tolist() == [1, 2]
    assert comparison["status"].tolist() == ["ok", "ok"]
    assert comparison["test_loss_n"].tolist() == [4, 4]
    assert "n=4" in seeds_sweep.out


def test_a_sweeps_tables_are_the_jobs_tables_with_the_swept_keys_in_front(seeds_sweep):
    folder = sweep_folder(seeds_sweep)
    for name in ("summary", "history", "prediction"):
        whole = pd.read_csv(folder / f"{name}.csv")
        parts = [pd.read_csv(folder / str(number) / f"{name}.csv") for number in range(4)]
        assert list(whole.columns) == ["depth", "seed", *parts[0].columns]
        assert whole["depth"].tolist() == [
            depth for depth, part in zip((1, 1, 2, 2), parts, strict=True) for _ in part.index
        ]
        pd.testing.assert_frame_equal(whole[parts[0].columns], pd.concat(parts, ignore_index=True))


def test_a_line_per_job_when_output_is_no_terminal(seeds_sweep):
    lines = re.findall(r"^\[\d/4\] depth=\d, seed=\d  ok  ", seeds_sweep.out, flags=re.MULTILINE)
    assert len(lines) == 4
    assert "\x1b" not in seeds_sweep.out


def test_other_launchers_give_the_same_tables(seeds_sweep, tmp_path):
    """From scratch, one after another in one process, from another working directory."""
    words = ["-m", "depth=1,2", "seed=0,1", "steps=40", "replicas=2", "threads=1", "hydra/launcher=basic"]
    done = run_program(tmp_path / "elsewhere", [*words, f"hydra.sweep.dir={tmp_path}/results", "store=own/runs"])
    assert done.code == 0, done.err
    assert [path.name for path in done.folder.iterdir()] == ["own"]
    for name in ("summary", "history", "prediction", "comparison"):
        ours, theirs = (
            pd.read_csv(folder / f"{name}.csv") for folder in (tmp_path / "results", sweep_folder(seeds_sweep))
        )
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-6)


# ---- failures ----


@pytest.fixture(scope="session")
def own_nets(common) -> dict[str, str]:
    """An environment with a user's own network, which fails at hidden=4."""
    folder = common / "own"
    folder.mkdir(exist_ok=True)
    (folder / "own_nets.py").write_text(NET, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def test_a_job_that_fails_lets_the_others_run(tmp_path, own_nets):
    done = run_program(tmp_path, [*OWN_NET, "+model.hidden=3,4,5", "-m", "jobs=2"], env=own_nets)
    assert done.code == 1
    assert "Traceback" not in done.out + done.err
    assert "1 of 3 jobs failed" in done.out
    assert "no four, please" in done.out
    folder = sweep_folder(done)
    assert [read(folder / str(n) / "result.json")["status"] for n in range(3)] == ["ok", "failed", "ok"]
    assert read(folder / "1" / "result.json")["error"] == "RuntimeError: no four, please"
    assert "Traceback" in (folder / "1" / "error.txt").read_text(encoding="utf-8")
    comparison = pd.read_csv(folder / "comparison.csv")
    assert comparison["model.hidden"].tolist() == [3, 4, 5]
    assert comparison["status"].tolist() == ["ok", "failed", "ok"]
    assert comparison["test_loss_mean"].isna().tolist() == [False, True, False]
    assert set(pd.read_csv(folder / "summary.csv")["model.hidden"]) == {3, 5}


def test_a_single_job_that_fails(tmp_path, own_nets):
    done = run_program(tmp_path, [*OWN_NET, "+model.hidden=4"], env=own_nets)
    assert done.code == 1
    assert re.fullmatch(r"error: RuntimeError: no four, please \(see .*error.txt\)\n", done.err)
    assert done.out == ""
    assert read(sweep_folder(done) / "result.json")["status"] == "failed"


@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]])
@pytest.mark.parametrize("full", [False, True])
def test_full_errors_of_a_job(tmp_path, monkeypatch, capsys, words, full):
    from rich.console import Console

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1" if full else "0")
    planned = sweep.plan(compose.parse(words))
    with sweep.held(planned):
        sweep.write_plan(planned, words)
    for folder in planned.folders:
        folder.mkdir(exist_ok=True)
        (folder / "result.json").write_text('{"status": "failed", "error": "ValueError: no"}', encoding="utf-8")
        (folder / "error.txt").write_text("Traceback …", encoding="utf-8")
    assert outcome.report(planned, Console()) == 1
    assert capsys.readouterr().err.count("Traceback …") == full * len(planned.jobs)


def test_full_errors_of_bad_input(tmp_path):
    done = run_program(tmp_path, ["batchsize=3"], env={"HYDRA_FULL_ERROR": "1"})
    assert done.code != 0
    assert "Traceback" in done.err
    assert "batch_size" in done.err


# ---- wherever it is installed ----


@pytest.fixture(scope="session")
def wheel_folder(once) -> Path:
    """The package as its wheel unpacks it."""

    def build(folder: Path) -> Outcome:
        command = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        (wheel,) = (folder / "dist").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")
        return Outcome(0, "", "", folder)

    return once("wheel", build).folder / "site"


def test_the_wheel_brings_all_that_is_needed(wheel_folder):
    for group in ("dataset", "model", "optimizer", "loss", "experiment"):
        ours = {file.name for file in (ROOT / "conf" / group).glob("*.yaml")}
        assert {file.name for file in (wheel_folder / "hw1" / "conf" / group).glob("*.yaml")} == ours
    assert {file.name for file in wheel_folder.iterdir() if not file.name.endswith(".dist-info")} == {"hw1"}
    assert [file for file in (wheel_folder / "hw1" / "assets").rglob("*") if file.suffix == ".xz"]
    assert not list(wheel_folder.rglob("*.pyc"))


def test_a_job_from_the_wheel_in_another_working_directory(wheel_folder, tmp_path):
    words = ["steps=10", "replicas=1", "threads=1", "hydra.run.dir=here"]
    done = run_program(tmp_path, words, env={"PYTHONPATH": str(wheel_folder)})
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"here", "runs"}
    assert read(tmp_path / "here" / "result.json")["environment"]["commit"] is None  # it did come from the wheel
    assert "no interval" in done.out


def test_the_console_script(tmp_path):
    script = Path(sys.executable).parent / "hw1"
    if not script.exists():
        pytest.skip("hw1 is not installed")
    done = subprocess.run([script, "--cfg", "job"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert "batch_size: " in done.stdout
    done = subprocess.run([script, "model=cn"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# ---- a folder that is used again ----


def test_a_folder_used_again_shows_nothing_of_before(tmp_path):

    folder = tmp_path / "sweep"
    planned = sweep.plan(compose.parse(["-m", "seed=0,1", f"hydra.sweep.dir={folder}"]))
    for job in planned.folders:
        job.mkdir(parents=True)
        (job / "result.json").write_text('{"status": "ok"}', encoding="utf-8")
        (job / "error.txt").write_text("", encoding="utf-8")
    sweep.write_plan(planned, ["-m", "seed=0,1"])
    assert [list(job.iterdir()) for job in planned.folders] == [[], []]


# ---- a sweep that is taken up again ----


def test_resume_finishes_exactly_the_jobs_that_are_not_ok(tmp_path):
    words = ["-m", "batch_size=16,32", "seed=0,1", "steps=20", "replicas=2", "hydra.sweep.dir=sweep", "jobs=1"]
    begun = run_program(tmp_path / "a", words)
    assert begun.code == 0, begun.err
    folder = tmp_path / "a" / "sweep"
    undisturbed = {file.name: file.read_bytes() for file in folder.glob("*.csv")}
    for number, status in (("1", "failed"), ("2", "running")):
        (folder / number / "result.json").write_text(json.dumps({"status": status, "overrides": {}}), encoding="utf-8")
    shutil.rmtree(folder / "3")
    before = (folder / "0" / "result.json").read_bytes()
    plan = read(folder / "sweep.json")
    again = run_program(tmp_path / "b", [f"resume={folder}"])  # from another directory
    assert again.code == 0, again.err
    assert (folder / "0" / "result.json").read_bytes() == before
    assert [read(folder / number / "result.json")["status"] for number in "0123"] == ["ok"] * 4
    assert {file.name: file.read_bytes() for file in folder.glob("*.csv")} == undisturbed
    assert read(folder / "sweep.json") == plan
    assert not list((tmp_path / "b").iterdir())


def read_a_line_and_leave(folder, *command):
    """The first line of a command's output, its exit code, and what it says on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    line = process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    return line, process.wait(60), error


def test_a_reader_who_leaves_ends_nothing(tmp_path):
    words = ["experiment=function", "seed=0,1,2", "-m", "steps=20", "replicas=2", "hydra.sweep.dir=sweep", "device=cpu"]
    line, code, error = read_a_line_and_leave(tmp_path, "hw1", *words, "hydra/launcher=basic")
    assert (line, code, error) == ("function: 3 jobs, 1 at a time, in sweep\n", 0, "")
    assert [read(tmp_path / "sweep" / str(job) / "result.json")["status"] for job in range(3)] == ["ok"] * 3
    whole = {file.name for file in (tmp_path / "sweep").iterdir()}
    assert {"comparison.csv", "findings.json", "report.html"} <= whole
    line, code, error = read_a_line_and_leave(tmp_path, "hw1.compare", "sweep", "--out", "compared")
    assert (bool(line), code, error) == (True, 0, "")
    assert {"comparison.csv", "findings.json", "report.html"} <= {f.name for f in (tmp_path / "compared").iterdir()}


def test_two_at_once_in_one_folder_the_second_says_so(tmp_path):
    with files.lock(tmp_path / ".lock"):
        done = run_program(tmp_path, ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}"])
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "another process is at work in this folder" in done.err


@pytest.mark.parametrize(
    ("words", "plan", "told"),
    [
        (["resume=nowhere"], None, "resume=nowhere: there is no sweep.json"),
        (["resume=sweep"], "{", "resume=sweep: there is no sweep.json"),
        (["resume=sweep", "seed=3"], None, "leave out seed=3"),
        (["resume=sweep", "resume=other"], None, "leave out the other"),
        (["resume=sweep"], {"words": [], "directory": "/no/such/place", "jobs": []}, "it was begun in /no/such/place"),
        (["resume=sweep"], {"words": ["-m", "seed=0,1"], "directory": ".", "jobs": []}, "its jobs are not those that"),
    ],
)
def test_resume_of_what_cannot_be_resumed_is_one_line(words, plan, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    if plan:
        text = plan if isinstance(plan, str) else json.dumps(plan)
        (tmp_path / "sweep" / "sweep.json").write_text(text, encoding="utf-8")
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_process_does_not_look_through_all_objects_at_its_end():
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1_000, gc.get_threshold()[0]));"
        "from hw1.machine import collect_rarely; collect_rarely(); collect_rarely(); print(gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\nTrue 100000\n", "")
