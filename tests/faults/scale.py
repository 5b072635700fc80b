"""Nothing but numbers: hundreds of tiny jobs in one sweep, and the comparison of a thousand.

What a sweep costs beside its jobs, and whether its memory grows with them, is measured, not judged: it depends on the
machine and on who else is at work on it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import environment

from .harness import Row, Size

TINY = ("steps=5", "replicas=1", "threads=1", "dataset.points=64", "dataset.validation=20", "batch_size=16")
KEY = "optimizer.lr"
SECONDS = 3600  # that a sweep may take
REPLICAS = 3
EPOCHS = 7  # so that a job's history has 21 rows
METRICS = ("train_loss", "validation_loss", "test_loss", "train_accuracy", "validation_accuracy", "test_accuracy")


def check(size: Size, folder: Path) -> list[Row]:
    """A sweep of tiny jobs one after another in one process, and the comparison of many finished jobs."""
    return [
        _sweep(size.pick(300, 20), folder / "sweep"),
        _comparison(size, size.pick(1000, 100), folder / "comparison"),
    ]


# ---- a sweep of many jobs ----


def _sweep(jobs: int, folder: Path) -> Row:
    row = Row(f"jobs of a sweep of {jobs}", injected=jobs)
    folder.mkdir(parents=True)
    rates = [round(0.0001 * (number + 1), 4) for number in range(jobs)]
    swept = f"{KEY}={','.join(map(str, rates))}"
    words = ["-m", swept, *TINY, "hydra/launcher=basic", "hydra.sweep.dir=jobs", "device=cpu"]
    code, row.seconds, peaks = _watched(words, folder, marks=[jobs // 3, jobs - 1])
    if code:
        row.problems.append(f"exit code {code}: {(folder / 'err').read_text(encoding='utf-8')[-400:]}")
        return row
    results = [_json(folder / "jobs" / str(number) / "result.json") for number in range(jobs)]
    _judge_sweep(row, folder / "jobs", rates)
    own = sum(result["wall_seconds"] for result in results if result)
    row.note = f"{(row.seconds - own) / jobs * 1000:.0f} ms a job beside its {own / jobs * 1000:.0f} ms of work"
    row.note += _memory(peaks)
    row.controls["a job gone"] = _caught(folder / "jobs", rates, jobs // 2)
    return row


def _judge_sweep(row: Row, folder: Path, rates: Sequence[float]) -> None:
    """Compare every job's result and its row of the comparison with what was asked for."""
    import pandas as pd

    comparison = pd.read_csv(folder / "comparison.csv", float_precision="round_trip")
    means = dict(zip(comparison[KEY], comparison["test_loss_mean"], strict=True))
    keys = []
    for number, rate in enumerate(rates):
        result = _json(folder / str(number) / "result.json")
        if result.get("status") != "ok" or rate not in means:
            row.lost += 1
            continue
        keys.append(result["runs"]["trained"]["key"])
        summary = pd.read_csv(folder / str(number) / "summary.csv", float_precision="round_trip")
        right = result["overrides"][KEY] == str(rate) and summary["test_loss"].tolist() == [means[rate]]
        row.survived += right
        row.corrupt += not right
    row.duplicated = len(keys) - len(set(keys)) + len(comparison) - len(means)


def _caught(folder: Path, rates: Sequence[float], number: int) -> bool:
    """Whether the judge misses a job whose result is taken away."""
    (folder / str(number) / "result.json").unlink()
    row = Row("", injected=len(rates))
    _judge_sweep(row, folder, rates)
    return row.lost == 1 and not row.ok


def _watched(words: Sequence[str], folder: Path, marks: Sequence[int]) -> tuple[int, float, dict[int, int]]:
    """Run the program: its exit code, seconds, and its peak memory in kB by the number of jobs begun, 0 at the end."""
    started, peaks = time.perf_counter(), dict[int, int]()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen([sys.executable, "-m", "hw1", *words], cwd=folder, env=environment(), stdout=out,
                                   stderr=err, stdin=subprocess.DEVNULL)  # fmt: skip
        try:
            while process.poll() is None and time.perf_counter() - started < SECONDS:
                peak, begun = _peak(process.pid), _begun(folder / "jobs")
                for mark in [0, *(mark for mark in marks if begun <= mark)]:
                    peaks[mark] = peak or peaks.get(mark, 0)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    return process.returncode, time.perf_counter() - started, peaks


def _peak(process: int) -> int:
    """The most memory that a process has had, in kB; 0 where that is not to be known."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _begun(folder: Path) -> int:
    return sum(name.isdecimal() for name in os.listdir(folder)) if folder.is_dir() else 0  # noqa: PTH208


def _memory(peaks: dict[int, int]) -> str:
    if not all(peaks.get(mark) for mark in peaks):
        return ""
    end, (few, many) = peaks[0], sorted(set(peaks) - {0})
    each = (peaks[many] - peaks[few]) / (many - few)
    return (
        f"; peak memory {peaks[few] / 1024:.0f} MB at {few} jobs, {peaks[many] / 1024:.0f} at {many + 1} "
        f"({each:+.0f} kB a job), {end / 1024:.0f} with the comparison"
    )


# ---- the comparison of many jobs ----


def _comparison(size: Size, jobs: int, folder: Path) -> Row:
    row = Row(f"jobs compared, of {jobs}", injected=jobs)
    values = _finished(size, jobs, folder)
    started = time.perf_counter()
    compared = _compared(folder)
    row.seconds = time.perf_counter() - started
    _judge_comparison(row, compared, values)
    row.note = f"read, compared, written and told in {row.seconds:.1f} s, figures apart"
    file = folder / str(jobs // 2) / "summary.csv"
    head, first, *rest = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([head, first.replace("0.", "0.9", 1), *rest]) + "\n", encoding="utf-8")
    spoilt = Row("", injected=jobs)
    _judge_comparison(spoilt, _compared(folder), values)
    row.controls["a number changed"] = spoilt.corrupt == 1
    return row


def _finished(size: Size, jobs: int, folder: Path) -> list[dict[str, list[float]]]:
    """Write the folder of a sweep whose jobs are done; of each job its metrics, one value per replica."""
    import pandas as pd

    from hw1.files import write_json, write_table

    random, written = size.random("comparison"), []
    planned = [{"job": number, "overrides": {KEY: number / 1000}} for number in range(jobs)]
    folder.mkdir(parents=True)
    plan = {"experiment": "sensitivity", "command": "", "keys": [KEY], "headline": "test_loss", "jobs": planned}
    write_json(folder / "sweep.json", plan)
    for number in range(jobs):
        values = {name: [random.uniform(0.1, 0.9) for _ in range(REPLICAS)] for name in METRICS}
        place = folder / str(number)
        place.mkdir()
        write_table(place / "summary.csv", pd.DataFrame({"replica": range(REPLICAS), "status": "ok", **values}))
        steps = [(replica, epoch) for replica in range(REPLICAS) for epoch in range(EPOCHS)]
        history = {name: [random.random() for _ in steps] for name in METRICS}
        table = pd.DataFrame(steps, columns=["replica", "epoch"]).assign(**history, status="ok")
        write_table(place / "history.csv", table)
        write_json(place / "result.json", {"status": "ok", "overrides": {}, "runs": {}, "wall_seconds": 1.0})
        written.append(values)
    return written


def _compared(folder: Path) -> dict[str, Any]:
    """Do what follows a sweep: its tables, and the comparison as files and as text."""
    import io

    from rich.console import Console

    from hw1 import findings, results

    written = results.write(folder)
    console = Console(file=io.StringIO(), width=110)
    findings.render(written.sweep, console)
    findings.finding(written.sweep)
    return {"comparison": written.comparison, "history": written.tables["history"]}


def _judge_comparison(row: Row, compared: dict[str, Any], values: Sequence[dict[str, list[float]]]) -> None:
    """Compare every condition's row with the mean of what was written for it."""
    table = compared["comparison"].set_index(KEY)
    history = compared["history"].groupby(KEY).size()
    row.duplicated = int(table.index.duplicated().sum())
    for number, metrics in enumerate(values):
        if number / 1000 not in table.index or history.get(number / 1000) != REPLICAS * EPOCHS:
            row.lost += 1
            continue
        found = table.loc[number / 1000]
        right = all(
            abs(found[f"{name}_mean"] - sum(each) / REPLICAS) < 1e-12 and found[f"{name}_n"] == REPLICAS
            for name, each in metrics.items()
        )
        row.survived += right
        row.corrupt += not right


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
