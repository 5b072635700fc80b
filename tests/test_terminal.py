"""What a person sees while jobs run: a bar a job on a terminal, a line a job elsewhere."""

import io
import json
import re
import time

import pytest
from rich.console import Console

from hw1.files import write_json
from hw1.progress import PROGRESS, RESULT, Reporter, duration, read_json, shown
from hw1.terminal import Display
from hw1.watcher import Progress


def console(terminal: bool, width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=30, color_system=None)


def text_of(screen: Console) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue()).replace("\r", "\n")


def show(screen: Console, jobs: dict, states: dict, seconds: float = 0.0) -> None:
    """Let a display see jobs in these states: (result, progress) by folder."""
    with Display(jobs, screen) as display:
        for folder, (result, progress) in states.items():
            folder.mkdir(exist_ok=True)
            if result:
                write_json(folder / RESULT, result)
            if progress:
                write_json(folder / PROGRESS, progress)
        display._look()
        time.sleep(seconds)
        display.progress.refresh()


WORDS = "epoch 1.5/2, loss 0.2359, accuracy 0.9237, 6,593 examples/s, replica 1 of 3"


@pytest.mark.parametrize("width", [80, 120])
def test_two_jobs_side_by_side_are_two_lines(tmp_path, width):
    screen = console(True, width)
    jobs = {tmp_path / "0": "batch_size=16", tmp_path / "1": "batch_size=64, model.dropout=0.25, " + "x" * 60}
    running = ({"status": "running"}, {"done": 0.4, "words": WORDS})
    show(screen, jobs, dict.fromkeys(jobs, running), seconds=1.2)
    last = [line for line in text_of(screen).splitlines() if "━" in line][-2:]
    for line, name in zip(last, ("batch_size=16 ", "batch_size=64, model.dropout=0.25, xxxx…"), strict=True):
        assert name in line
        assert " left " in line
        assert "epoch 1.5/2" in line
        assert len(line.rstrip()) <= width
    if width == 120:
        assert "loss 0.2359, accuracy 0.9237" in last[0]
    assert "\x1b[2K" in screen.file.getvalue()  # lines are wiped at the end


def test_a_job_that_ends_is_one_line(tmp_path):
    jobs = {tmp_path / number: f"depth={number}" for number in "123"}
    states = {
        tmp_path / "1": (
            {"status": "ok", "runs": {"a": {"trained": True, "network": "mlp 1-190-1"}}, "wall_seconds": 3.21},
            None,
        ),
        tmp_path / "2": (
            {"status": "ok", "runs": {"a": {"trained": False, "network": "mlp 1-190-1"}}, "wall_seconds": 65},
            None,
        ),
        tmp_path / "3": ({"status": "failed", "error": "no [red]way", "wall_seconds": 7200}, None),
    }
    for terminal in (False, True):
        screen = console(terminal)
        show(screen, jobs, states)
        lines = [line.strip() for line in text_of(screen).splitlines() if line.startswith("[")]
        assert lines == [
            "[1/3] depth=1  ok  3.2 s  mlp 1-190-1",
            "[2/3] depth=2  ok (trained before)  1 min 05 s  mlp 1-190-1",
            "[3/3] depth=3  failed: no [red]way  2 h 00 min",
        ]


def test_elsewhere_than_on_a_terminal_it_is_quiet(tmp_path):
    screen = console(False)
    show(screen, {tmp_path / "0": "a=1"}, {tmp_path / "0": ({"status": "running"}, {"done": 0.4, "words": WORDS})})
    assert text_of(screen).strip() == ""


def test_half_written_and_strange_files_are_no_end(tmp_path):
    assert read_json(tmp_path / "none") == {}
    for content in (b"", b"{", b"[1]", b"\xff"):
        (tmp_path / "file").write_bytes(content)
        assert read_json(tmp_path / "file") == {}


def progress(**changes) -> Progress:
    usual = {"replicas": [0], "of_replicas": 3, "epoch": 1.25, "epochs": 5, "examples_per_second": 6593.4, "done": 0.1,
             "row": {"train_loss": 0.23587, "validation_accuracy": 0.92371, "status": "ok"}}  # fmt: skip
    return Progress(**usual | changes)


def test_the_reporter_writes_where_the_display_looks_and_a_line_into_the_log(tmp_path):
    log: list[str] = []
    reporter = Reporter(tmp_path, log.append)
    reporter.progress(progress())
    assert json.loads((tmp_path / PROGRESS).read_text()) == {
        "done": 0.1,
        "words": "epoch 1.2/5, loss 0.2359, accuracy 0.9237, 6,593 examples/s, replica 1 of 3",
    }
    reporter.progress(progress(replicas=[0, 1, 2], row={}))
    assert read_json(tmp_path / PROGRESS)["words"] == "epoch 1.2/5, 6,593 examples/s"
    reporter.progress(progress(row={"train_loss": float("nan"), "validation_r2": 0.5, "status": "diverged"}))
    assert read_json(tmp_path / PROGRESS)["words"].startswith("epoch 1.2/5, loss nan, R² 0.5000, ")
    reporter.stage("measuring")
    assert read_json(tmp_path / PROGRESS) == {"done": 0.1, "words": "measuring"}
    reporter.run, reporter.of_runs = 1, 4
    reporter.progress(progress(replicas=[0, 1, 2], row={}))
    told = {"done": pytest.approx((1 + 0.1) / 4), "words": "network 2/4, epoch 1.2/5, 6,593 examples/s"}
    assert read_json(tmp_path / PROGRESS) == told
    reporter.row({"replica": 1, "epoch": 2.0, "step": 14, "train_loss": 0.5, "status": "ok"})
    assert log == ["measuring", "replica 1, epoch 2, step 14: train_loss 0.5, ok"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.97, "10 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (3599.6, "1 h 00 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_folders_are_shown_as_one_would_type_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "multirun" / "x") == "multirun/x"
    assert shown(tmp_path.parent) == str(tmp_path.parent)
