"""Jobs and sweeps that are told to end, or killed: what is kept, what is said, and that it goes on to the same bits."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from conftest import Outcome, environment, run_program

from hw1 import compose, supervise, sweep
from hw1.store import Store

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
LATE = 120  # seconds that nothing here takes
JOB = ["steps=2500", "replicas=2", "vectorize=false", "threads=1"]
OWN = """
import os, signal
from hw1 import models

def mlp(killer, input_shape, outputs, **settings):
    if killer:
        os.kill(os.getpid(), signal.SIGKILL)
    return models.mlp(input_shape=input_shape, outputs=outputs, **settings)
"""


class Program:
    """`python -m hw1 words…`, running, in a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.folder, self.files = folder, (folder / "out", folder / "err")
        with self.files[0].open("w") as out, self.files[1].open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hw1", *words], cwd=folder, env=environment(), stdout=out, stderr=err,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def wait_until(self, condition: Callable[[], bool]) -> None:
        late = time.monotonic() + LATE
        while not condition():
            assert time.monotonic() < late, self.files[1].read_text()
            assert self.process.poll() is None, self.files[1].read_text()
            time.sleep(0.03)

    def ended(self) -> Outcome:
        """How it ended, by itself, and without a process left."""
        try:
            code = self.process.wait(LATE)
            late = time.monotonic() + 10
            while (left := self.workers()) and time.monotonic() < late:
                time.sleep(0.1)
            assert not left, "a process is left"
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return Outcome(code, *(file.read_text() for file in self.files), self.folder)

    def workers(self) -> list[int]:
        """Living processes of its group, but for itself."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != self.process.pid:
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[2]) == self.process.pid and fields[0] != "Z":
                    found.append(int(folder.name))
        return found


def read(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def trains(folder: Path) -> bool:
    """Whether a job is taking steps."""
    return re.search(r"epoch [\d.]*[1-9]", read(folder / ".progress.json").get("words", "")) is not None


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def weights(folder: Path) -> bytes:
    return only(folder, "runs/*/weights.safetensors").read_bytes()


# ---- one job ----


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_program(folder, JOB)
    assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_told_to_end_goes_on_where_it_was(tmp_path, undisturbed, number, code):
    program = Program(tmp_path, JOB)
    program.wait_until(lambda: any(trains(folder) for folder in tmp_path.glob("outputs/*/*")))
    program.process.send_signal(number)
    done = program.ended()
    assert (done.code, done.err) == (code, "")
    assert "the same command again" in done.out
    assert read(only(tmp_path, "outputs/*/*/result.json"))["status"] == "interrupted"
    assert len(list(tmp_path.glob("runs/.partial/*"))) == 1
    again = run_program(tmp_path, JOB)
    assert again.code == 0, again.err
    assert not list(tmp_path.glob("runs/.partial/*"))
    info = read(only(tmp_path, "runs/*/run.json"))
    assert info["resumed_at_steps"][0][0] > 0
    assert weights(tmp_path) == weights(undisturbed)
    history = [only(folder, "runs/*/history.csv").read_bytes() for folder in (tmp_path, undisturbed)]
    assert history[0] == history[1]


def test_a_job_that_is_asked_to_keep_its_state_goes_on(tmp_path, undisturbed):
    program = Program(tmp_path, JOB)
    program.wait_until(lambda: any(trains(folder) for folder in tmp_path.glob("outputs/*/*")))
    program.process.send_signal(signal.SIGUSR1)
    assert program.ended().code == 0
    assert re.search(r"state of run \w+ kept at steps? \d+", only(tmp_path, "outputs/*/*/hw1.log").read_text())
    assert not list(tmp_path.glob("runs/.partial/*"))
    assert weights(tmp_path) == weights(undisturbed)


OFTEN = [*JOB, "checkpoint.minutes=0.005"]


def killed_with_a_state(folder: Path) -> Path:
    """A job that was killed once it had kept a state; the state's file."""
    program = Program(folder, OFTEN)
    program.wait_until(lambda: bool(list(folder.glob("runs/.partial/*"))))
    program.process.kill()
    program.ended()
    return only(folder, "runs/.partial/*")


def test_a_killed_job_goes_on_from_its_last_checkpoint(tmp_path, undisturbed):
    killed_with_a_state(tmp_path)
    again = run_program(tmp_path, OFTEN)
    assert again.code == 0, again.err
    log = sorted(tmp_path.glob("outputs/*/*/hw1.log"))[-1].read_text()
    assert re.search(r"goes on from steps? \d+", log)
    assert weights(tmp_path) == weights(undisturbed)


def test_a_damaged_state_is_named_and_not_believed(tmp_path, undisturbed):
    state = killed_with_a_state(tmp_path)
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    again = run_program(tmp_path, OFTEN)
    assert again.code == 0
    assert len(again.err.splitlines()) == 1
    assert "begins anew: its state was damaged" in again.err
    assert weights(tmp_path) == weights(undisturbed)


# ---- sweeps ----


# The two long trainings outlast the short job's start and figures by far, whichever way the machine's load goes.
SWEEP = ["-m", "steps=50,12000,13000", "replicas=2", "threads=1", "jobs=2", "hydra.sweep.dir=sweep"]


def one_done_two_training(folder: Path) -> bool:
    return read(folder / "0" / "result.json").get("status") == "ok" and trains(folder / "1") and trains(folder / "2")


@pytest.fixture(scope="module")
def whole_sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = run_program(folder, SWEEP)
    assert done.code == 0, done.err
    return folder / "sweep"


def assert_same_tables(one: Path, other: Path) -> None:
    names = sorted(file.name for file in one.glob("*.csv"))
    assert names == sorted(file.name for file in other.glob("*.csv"))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_sweep_compares_what_was_done_and_is_finished_by_resume(tmp_path, whole_sweep, number, code):
    program, sweep = Program(tmp_path, SWEEP), tmp_path / "sweep"
    program.wait_until(lambda: one_done_two_training(sweep))
    if number == signal.SIGINT:  # as a terminal sends it: to the whole group
        os.killpg(program.process.pid, number)
    else:
        program.process.send_signal(number)
    done = program.ended()
    assert (done.code, done.err) == (code, "")
    assert [read(sweep / job / "result.json")["status"] for job in "012"] == ["ok", "interrupted", "interrupted"]
    comparison = pd.read_csv(sweep / "comparison.csv")
    assert comparison["status"].tolist() == ["ok", "interrupted", "interrupted"]
    assert comparison["test_loss_n"].tolist()[0] == 2
    assert "2 of 3 jobs interrupted" in done.out
    assert not list(sweep.glob("*/.progress.json"))
    kept = len(list(tmp_path.glob("runs/.partial/*")))
    assert kept in (1, 2)  # on a machine that is busy elsewhere one may not come to the end of its step in time
    resumed = run_program(tmp_path, ["resume=sweep"])
    assert resumed.code == 0, resumed.err
    assert_same_tables(sweep, whole_sweep)
    steps = [read(file)["resumed_at_steps"] for file in tmp_path.glob("runs/*/run.json")]
    assert sum(map(len, steps)) == kept


def test_a_killed_worker_costs_nothing(tmp_path, whole_sweep):
    program, sweep = Program(tmp_path, SWEEP), tmp_path / "sweep"
    program.wait_until(lambda: one_done_two_training(sweep))
    os.kill(read(sweep / "1" / "result.json")["process"][1], signal.SIGKILL)
    done = program.ended()
    assert done.code == 0, done.err
    assert done.err == "a worker was killed (out of memory?): going on with the 2 jobs that are left\n"
    assert_same_tables(sweep, whole_sweep)


def test_a_job_that_kills_its_worker_costs_itself_alone(tmp_path):
    (tmp_path / "own_model.py").write_text(OWN, encoding="utf-8")
    words = ["-m", "model._target_=own_model.mlp", "allow_targets=[own_model]", "+model.killer=false,true,false,false",
             "seed=0", "steps=20", "replicas=1", "threads=1", "jobs=2", "hydra.sweep.dir=sweep"]  # fmt: skip
    done = run_program(tmp_path, words, env={"PYTHONPATH": str(tmp_path)})
    assert done.code == 1
    results = [read(tmp_path / "sweep" / job / "result.json") for job in "0123"]
    assert [result["status"] for result in results] == ["ok", "failed", "ok", "ok"]
    assert results[1]["error"] == "its process was killed (out of memory?), again when it ran alone"
    assert "Traceback" not in done.err
    assert "1 of 4 jobs failed" in done.out.replace("\n", " ")


def test_a_second_resume_of_a_folder_says_so(tmp_path):
    program, sweep = Program(tmp_path, SWEEP), tmp_path / "sweep"
    program.wait_until(lambda: one_done_two_training(sweep))
    second = run_program(tmp_path, ["resume=sweep"])
    assert second.code == 2
    assert second.err == f"error: {sweep}: another process is at work in this folder\n"
    os.killpg(program.process.pid, signal.SIGINT)
    assert program.ended().code == 130


@pytest.mark.skipif(sys.platform != "linux", reason="workers end with their parent on Linux")
def test_a_killed_parent_takes_its_workers_along(tmp_path, whole_sweep):
    program, sweep = Program(tmp_path, SWEEP), tmp_path / "sweep"
    program.wait_until(lambda: one_done_two_training(sweep))
    program.process.kill()
    program.ended()  # and no worker is left
    assert list(tmp_path.glob("runs/.partial/*"))
    resumed = run_program(tmp_path, ["resume=sweep"])
    assert resumed.code == 0, resumed.err
    assert_same_tables(sweep, whole_sweep)


@pytest.mark.skipif(sys.platform != "linux", reason="workers end with their parent on Linux")
def test_a_worker_that_has_not_begun_ends_with_its_parent(tmp_path):
    program = Program(tmp_path, SWEEP)
    program.wait_until(lambda: len(program.workers()) > 2)  # trackers of resources are the first
    program.process.kill()
    program.ended()


@pytest.mark.parametrize(("killed", "launches"), [(False, 1), (True, 3)])
def test_only_a_killed_job_is_launched_again(tmp_path, monkeypatch, capsys, killed, launches):
    """A job whose result could not be written is said to run as well, but its process lives."""
    monkeypatch.chdir(tmp_path)
    planned = sweep.plan(compose.parse(["seed=0,1", "-m", "hydra.sweep.dir=sweep"]))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    launched = []

    def launch(arguments, jobs, side_by_side):
        launched.append(list(jobs))
        for number in jobs:
            result = {"status": "running", "process": [platform.node(), gone.pid if killed else os.getpid()]}
            if number == 1:
                result = {"status": "ok"}
            (planned.folder / str(number)).mkdir(parents=True, exist_ok=True)
            (planned.folder / str(number) / "result.json").write_text(json.dumps(result), encoding="utf-8")

    monkeypatch.setattr(compose, "launch", launch)
    supervise.Supervisor(planned, lambda: None)._rounds()
    assert launched == [[0, 1], [0], [0]][:launches]
    assert ("a worker was killed" in capsys.readouterr().err) == killed


# ---- the store, while it is used ----


def runs_command(folder: Path, *words: str) -> Outcome:
    return run_program(folder, words, command=("-m", "hw1.runs"))


def test_runs_in_use_are_not_removed_and_leftovers_are_cleaned(undisturbed):
    store = Store(undisturbed / "runs")
    (key,) = store.list()
    with store.use(key, "the job in outputs/x"):
        refused = runs_command(undisturbed, "rm", key[:6])
        assert (refused.code, refused.out) == (2, "")
        assert refused.err == f"error: run {key[:8]} is in use by the job in outputs/x; wait for it to end\n"
    assert store.sound(key)
    store.keep_partial(key, lambda stream: stream.write(b"of a training that has ended"))
    (undisturbed / "runs" / ".tmp" / f"{key}.0123").mkdir()
    listed = runs_command(undisturbed, "list")
    assert "trainings to go on with: 1, in " in listed.out
    cleaned = runs_command(undisturbed, "clean")
    assert cleaned.code == 0
    assert f"removed .partial/{key}" in cleaned.out
    assert f"removed .tmp/{key}.0123" in cleaned.out
    assert "2 leftovers removed" in cleaned.out
    assert runs_command(undisturbed, "verify").out == "1 of 1 runs are whole\n1 of 1 measurements are whole\n"
