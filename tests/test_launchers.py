"""A sweep is the same whatever runs its jobs: the tables, the messages, what a failure or a kill costs.

Launchers whose extra is not installed are passed over. Slurm is played by scripts that start what they are given.
"""

import importlib.util
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome, environment, run_program

from hw1 import launchers
from hw1.errors import UserError

LATE = 150  # seconds that nothing here takes
TINY = ["steps=5", "replicas=2", "batch_size=16", "dataset.points=64", "dataset.validation=16"]
SWEEP = ["-m", "depth=1,2", *TINY, "threads=auto", "jobs=2", "hydra.sweep.dir=results"]
LONG = ["-m", "depth=1,2", *TINY, "steps=12000", "replicas=1", "threads=1", "jobs=2", "hydra.sweep.dir=results"]
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
RAY = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"


def installed(extra: str) -> bool:
    return importlib.util.find_spec(launchers.PLUGINS[extra]) is not None


needs_slurm = pytest.mark.skipif(not installed("slurm"), reason="the extra [slurm] is not installed")
needs_ray = pytest.mark.skipif(not installed("ray"), reason="the extra [ray] is not installed")
CLUSTERS = [pytest.param("submitit_local", marks=needs_slurm), pytest.param("ray", marks=needs_ray)]
OTHERS = ["joblib", *CLUSTERS, pytest.param("slurm", marks=needs_slurm)]

# Slurm for those who have none: sbatch starts an array's jobs as they are, squeue says which of them are alive.
SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path
here, script = Path(sys.argv[0]).parent, sys.argv[1]
flags = dict(re.findall(r"#SBATCH --([\\w-]+)=(.*)", Path(script).read_text()))
(here / "flags").write_text(repr(flags))
number, last = str(100 * (1 + len(list(here.glob("*.pid"))))), re.match(r"0-(\\d+)", flags.get("array", ""))
for task in range(int(last[1]) + 1 if last else 1):
    given = {{"SLURM_JOB_ID": number, "SLURM_CPUS_PER_TASK": flags["cpus-per-task"]}}
    if last:
        given |= {{"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}}
    with open(os.devnull, "r+") as nothing:
        job = subprocess.Popen(
            ["bash", script], env={{**os.environ, **given}}, stdin=nothing, stdout=nothing, stderr=nothing,
            start_new_session=True,
        )
    (here / (f"{{number}}_{{task}}.pid" if last else f"{{number}}.pid")).write_text(str(job.pid))
print("Submitted batch job", number)
"""
SRUN = """#!{python}
import os, sys
words = sys.argv[1:]
words = words[next(n for n, word in enumerate(words) if "python" in word):]
os.execv(words[0], words)
"""
SQUEUE = """#!{python}
import os, sys
from pathlib import Path
for file in Path(sys.argv[0]).parent.glob("*.pid"):
    stat = Path("/proc", file.read_text(), "stat")
    if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        print(file.stem)
"""
SCANCEL = """#!{python}
import os, signal, sys
from pathlib import Path
number = signal.SIGINT if "--signal=INT" in sys.argv else signal.SIGKILL
for name in sys.argv[1:]:
    if not name.startswith("-"):
        try:
            os.killpg(int(Path(sys.argv[0]).with_name(name + ".pid").read_text()), number)
        except OSError:
            pass
"""


@pytest.fixture(scope="session")
def slurm(common) -> Callable[[Path], dict[str, str]]:
    """Makes an environment with a Slurm of its own in a folder."""

    def make(folder: Path) -> dict[str, str]:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE), ("scancel", SCANCEL)):
            file = folder / name
            file.write_text(text.format(python=sys.executable), encoding="utf-8")
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}

    return make


@pytest.fixture(scope="session")
def own_nets(common) -> dict[str, str]:
    """An environment with a network that fails with two units for as long as `broken` lies about."""
    folder = common / "launchers_own"
    folder.mkdir(exist_ok=True)
    text = (
        "from pathlib import Path\nfrom torch import nn\n\n"
        "def net(hidden, input_shape, outputs):\n"
        "    if hidden == 2 and Path('broken').exists():\n"
        "        raise RuntimeError('no two')\n"
        "    return nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, outputs))\n"
    )
    (folder / "launchers_nets.py").write_text(text, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def read(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def tables(folder: Path) -> dict[str, bytes]:
    """The tables of a sweep and of its jobs, byte for byte."""
    files = [*folder.glob("*.csv"), *folder.glob("*/*.csv")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def statuses(folder: Path) -> list[str]:
    return [read(folder / str(job) / "result.json").get("status", "") for job in range(2)]


@pytest.fixture(scope="session")
def basic(once) -> Outcome:
    return once("launchers_basic", lambda folder: run_program(folder, [*SWEEP, "hydra/launcher=basic"]))


# ---- the same sweep ----


@pytest.mark.parametrize("launcher", OTHERS)
def test_the_same_tables_and_words_from_every_launcher(launcher, basic, slurm, tmp_path):
    assert basic.code == 0, basic.err
    env = slurm(tmp_path / "bin") if launcher == "slurm" else {}
    # not in `tmp_path`: Ray's sockets have names of at most 107 bytes
    with tempfile.TemporaryDirectory(prefix="hw1-") as folder:
        done = run_program(tmp_path / "here", [*SWEEP, f"hydra/launcher={launcher}"], env=env | {"TMPDIR": folder})
        assert not list(Path(folder).glob("hw1-ray-*"))
    assert (done.code, done.err) == (0, "")
    assert tables(done.folder / "results") == tables(basic.folder / "results")
    assert len(tables(basic.folder / "results")) >= 10
    assert done.out.splitlines()[0] == "function: 2 jobs, 2 at a time, in results"
    assert set(tail(done)) == set(tail(basic)) - {"function: 2 jobs, 1 at a time, in results"} | {
        "function: 2 jobs, 2 at a time, in results"
    }
    assert {file.name for file in done.folder.iterdir()} == {"results", "runs"}
    threads = [read(done.folder / "results" / str(job) / "result.json")["environment"]["threads"] for job in range(2)]
    if launcher != "slurm":  # which has its own nodes
        assert sum(threads) <= max(2, launchers.cores())
    else:
        assert threads == [1, 1]


def tail(done: Outcome) -> list[str]:
    """What was printed, without the times that jobs took."""
    return [re.sub(r"^\[./2\] |\d[\d.]* s\b", "", line) for line in done.out.splitlines()]


@pytest.mark.parametrize("launcher", CLUSTERS)
def test_one_at_a_time_is_one_at_a_time(launcher, tmp_path):
    done = run_program(tmp_path, [*SWEEP, "jobs=1", f"hydra/launcher={launcher}"])
    assert (done.code, done.err) == (0, "")
    jobs = [tmp_path / "results" / str(job) for job in range(2)]
    began = [(job / ".hydra" / "config.yaml").stat().st_mtime_ns for job in jobs]
    ended = [(job / "result.json").stat().st_mtime_ns for job in jobs]
    assert max(began) >= min(ended)


@pytest.mark.parametrize("launcher", CLUSTERS)
def test_a_failing_job_lets_the_others_run_and_resume_finishes_it(launcher, own_nets, tmp_path):
    words = ["-m", "model=custom", "model._target_=launchers_nets.net", "allow_targets=[launchers_nets]"]
    words += ["+model.hidden=2,3", *TINY, "threads=1", "jobs=2", f"hydra/launcher={launcher}"]
    (tmp_path / "broken").touch()
    done = run_program(tmp_path, [*words, "hydra.sweep.dir=results"], env=own_nets)
    assert done.code == 1, done.err
    assert "Traceback" not in done.out + done.err
    assert statuses(tmp_path / "results") == ["failed", "ok"]
    assert "RuntimeError: no two" in (tmp_path / "results/0/error.txt").read_text(encoding="utf-8")
    (tmp_path / "broken").unlink()
    kept = (tmp_path / "results/1/result.json").read_bytes()
    again = run_program(tmp_path, ["resume=results"], env=own_nets)
    assert (again.code, again.err) == (0, "")
    assert statuses(tmp_path / "results") == ["ok", "ok"]
    assert (tmp_path / "results/1/result.json").read_bytes() == kept


@pytest.mark.parametrize("launcher", CLUSTERS)
def test_a_job_that_cannot_even_begin_is_explained(launcher, tmp_path):
    """As on a node that lacks what this machine has."""
    text = (
        "import sys\n\nclass Without:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'hw1':\n            raise ImportError('not on this node')\n\n"
        "if 'hw1' not in sys.orig_argv:\n    sys.meta_path.insert(0, Without())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(text, encoding="utf-8")
    words, env = [*SWEEP, f"hydra/launcher={launcher}"], {"PYTHONPATH": str(tmp_path)}
    done = run_program(tmp_path / "here", words, env=env)
    assert done.code == 1, done.out + done.err
    assert "not on this node" in done.err
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1


# ---- kills ----


class Running:
    """`python -m hw1` with two long jobs under a launcher, in a process group of its own, both of them training."""

    def __init__(self, folder: Path, launcher: str, env: dict[str, str] | None = None) -> None:
        self.folder, self.marks = folder, []
        folder.mkdir(exist_ok=True)
        with (folder / "out").open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hw1", *LONG, f"hydra/launcher={launcher}"], cwd=folder, stdout=out,
                env=environment(HW1_TEST=str(folder), **(env or {})), stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        late = time.monotonic() + LATE
        while not all("epoch" in read(job / ".progress.json").get("words", "") for job in self.jobs):
            assert time.monotonic() < late, self.out
            assert self.process.poll() is None, self.out
            time.sleep(0.05)

    @property
    def jobs(self) -> list[Path]:
        return [self.folder / "results" / str(job) for job in range(2)]

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(encoding="utf-8")

    def wait(self) -> int:
        try:
            return self.process.wait(LATE)
        finally:
            for pid in [self.process.pid, *self.left()] if self.process.poll() is None else []:
                os.kill(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        """Living processes that it started, whosever child they have become: by their environment."""
        mark, found = f"HW1_TEST={self.folder}".encode(), []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdecimal() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return [pid for pid in found if pid != self.process.pid]

    def left_at_last(self) -> list[int]:
        late = time.monotonic() + 15
        while self.left() and time.monotonic() < late:
            time.sleep(0.1)
        return self.left()


@pytest.fixture(scope="session")
def undisturbed(once) -> Outcome:
    return once("launchers_long", lambda folder: run_program(folder, [*LONG, "hydra/launcher=basic"]))


on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


@on_linux
@pytest.mark.parametrize("launcher", [*CLUSTERS, pytest.param("slurm", marks=needs_slurm)])
def test_a_killed_worker_costs_nothing_but_its_own_time(launcher, slurm, undisturbed, tmp_path):
    running = Running(tmp_path / "here", launcher, slurm(tmp_path / "bin") if launcher == "slurm" else {})
    other = read(running.jobs[1] / "result.json")["process"]
    os.kill(read(running.jobs[0] / "result.json")["process"][1], signal.SIGKILL)
    assert running.wait() == 0, running.out
    assert not running.left_at_last()
    assert statuses(running.folder / "results") == ["ok", "ok"]
    assert read(running.jobs[1] / "result.json")["process"] == other
    assert tables(running.folder / "results") == tables(undisturbed.folder / "results")


@on_linux
@pytest.mark.parametrize(
    ("launcher", "whom"),
    [
        pytest.param("submitit_local", "the group, as a terminal does", marks=needs_slurm),
        pytest.param("submitit_local", "the process alone", marks=needs_slurm),
        pytest.param("slurm", "the process alone", marks=needs_slurm),
        pytest.param("ray", "the group, as a terminal does", marks=needs_ray),
    ],
)
def test_ctrl_c_leaves_no_process_and_resume_finishes(launcher, whom, slurm, undisturbed, tmp_path):
    env = slurm(tmp_path / "bin") if launcher == "slurm" else {}
    running = Running(tmp_path / "here", launcher, env)
    (os.killpg if "group" in whom else os.kill)(running.process.pid, signal.SIGINT)
    assert running.wait() == 130, running.out
    assert not running.left_at_last()
    assert "Traceback" not in running.out
    assert statuses(running.folder / "results") == ["interrupted", "interrupted"]
    if launcher != "submitit_local" or "group" in whom:
        again = run_program(running.folder, ["resume=results"], env=env)
        assert (again.code, again.err) == (0, "")
        assert tables(running.folder / "results") == tables(undisturbed.folder / "results")


# ---- Slurm ----


@needs_slurm
def test_slurm_is_asked_for_what_was_typed(slurm, tmp_path):
    words = ["-m", "depth=1,2", *TINY, "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "jobs=1", "threads=3"]
    words += ["hydra.launcher.timeout_min=90", "hydra.launcher.gpus_per_node=1", "hydra.launcher.mem_gb=4"]
    done = run_program(tmp_path / "here", words, env=slurm(tmp_path / "bin"))
    assert (done.code, done.err) == (0, "")
    flags = (tmp_path / "bin" / "flags").read_text(encoding="utf-8")
    wanted = ["'partition': 'gpu'", "'time': '90'", "'gpus-per-node': '1'", "'mem': '4GB'", "'cpus-per-task': '3'"]
    for flag in [*wanted, "'array': '0-1%1'", "'job-name': 'hw1'", "'signal': 'USR2@120'"]:
        assert flag in flags


# ---- what is refused ----


def refused(tmp_path: Path, words: list[str], env: dict[str, str] | None = None) -> str:
    """The one line that a command is refused with, before anything has been made."""
    done = run_program(tmp_path / "here", [*TINY, *words], env=env)
    assert (done.code, done.out) == (2, ""), done.out + done.err
    assert done.err.count("\n") == 1
    assert not list(done.folder.iterdir())
    return done.err


@pytest.mark.parametrize(("launcher", "extra"), [("slurm", "slurm"), ("submitit_local", "slurm"), ("ray", "ray")])
def test_a_missing_extra_is_named(launcher, extra, tmp_path):
    folder = tmp_path / "without"
    folder.mkdir()
    text = (
        f"import pkgutil, sys\n\nplugin, walk = {launchers.PLUGINS[extra]!r}, pkgutil.walk_packages\n"
        "pkgutil.walk_packages = lambda *a, **k: (m for m in walk(*a, **k) if not m.name.startswith(plugin))\n\n"
        "class Without:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name == plugin:\n            raise ModuleNotFoundError(name)\n\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    error = refused(tmp_path, ["-m", "depth=1,2", f"hydra/launcher={launcher}"], {"PYTHONPATH": str(folder)})
    assert error == f"error: hydra/launcher={launcher}: needs the extra: pip install 'hw1[{extra}]'\n"


@needs_slurm
def test_slurm_where_there_is_none(tmp_path):
    error = refused(tmp_path, ["-m", "depth=1,2", "hydra/launcher=slurm"], {"PATH": str(tmp_path)})
    assert "hydra/launcher=slurm: there is no Slurm here" in error


@needs_slurm
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["hydra/launcher=submitit_local"], ["hydra/launcher=submitit_local", "add -m"]),
        (["hydra/launcher=submitit_locl", "-m"], ["submitit_locl", "did you mean submitit_local"]),
        (["hydra/launcher=submitit_local", "hydra.launcher.timeot=3", "-m"], ["hydra.launcher.timeot"]),
        (["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=long", "-m"], ["timeout_min=long", "number"]),
    ],
)
def test_mistakes_about_submitit(words, parts, tmp_path):
    error = refused(tmp_path, words)
    assert all(part in error for part in parts), error


@needs_ray
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["hydra.launcher.ray.init.address=auto", "jobs=2"], ["jobs=2", "leave jobs out"]),
        (["hydra.launcher.ray.init.num_cpus=2"], ["num_cpus=2", "use jobs="]),
        (["hydra.launcher.ray.remote.num_cpus=some"], ["num_cpus=some", "number"]),
    ],
)
def test_mistakes_about_ray(words, parts, tmp_path):
    error = refused(tmp_path, ["-m", "depth=1,2", "hydra/launcher=ray", *words])
    assert all(part in error for part in parts), error


def test_a_plain_start_loads_no_launcher(tmp_path):
    code = "import sys\nfrom hw1.cli import main\nmain(['--cfg', 'job'])\nprint('\\n' + ' '.join(sys.modules))"
    done = run_program(tmp_path, [code], command=("-c",))
    assert done.code == 0, done.err
    assert not set(done.out.splitlines()[-1].split()) & {"ray", "submitit", "boto3", "joblib", "torch"}


# ---- how many, and how many threads ----


def settings_of(target: str, **more) -> dict:
    return {"_target_": target, **more}


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("jobs", [1, 2, 5, 20])
@pytest.mark.parametrize("threads", ["auto", 1, 3])
def test_no_launcher_of_this_machine_oversubscribes_it(monkeypatch, cores, jobs, threads):
    monkeypatch.setattr(launchers, "cores", lambda: cores)
    room = max(cores, threads) if threads != "auto" else cores  # one job may be given more than there is
    for wanted in ("auto", *range(1, cores + 1)):
        if wanted != "auto" and threads != "auto":
            continue  # both are the user's own
        for target in (JOBLIB, LOCAL):
            count, chosen = launchers.arranged(settings_of(target), jobs, wanted, threads)
            each = launchers.threads_of(threads, settings_of(target, **chosen))
            assert 1 <= count <= jobs
            assert count * each <= room
            if threads == "auto":
                assert (count + 1) * each > min(cores, jobs) or count == wanted, "cores lie idle"
        ray = {"init": {"address": "local"}, "remote": {"num_cpus": 1}}
        count, chosen = launchers.arranged(settings_of(RAY, ray=ray), jobs, wanted, threads)
        ray = {"remote": {"num_cpus": chosen["ray.remote.num_cpus"]}}
        assert count * launchers.threads_of(threads, settings_of(RAY, ray=ray)) <= room
        assert chosen["ray.init.num_cpus"] == count * chosen["ray.remote.num_cpus"]


def test_slurm_decides_on_cores_and_jobs_on_parallelism():
    settings = settings_of(SLURM, array_parallelism=256, cpus_per_task=4)
    assert launchers.arranged(settings, 300, "auto", "auto") == (256, {"array_parallelism": 256})
    assert launchers.arranged(settings, 3, "auto", "auto")[0] == 3
    assert launchers.arranged(settings, 30, 8, 2) == (8, {"array_parallelism": 8, "cpus_per_task": 2})


def test_a_running_ray_decides_how_many():
    ray = {"init": {"address": "auto"}, "remote": {"num_cpus": 2}}
    assert launchers.arranged(settings_of(RAY, ray=ray), 30, "auto", "auto") == (30, {"ray.remote.num_cpus": 2})
    with pytest.raises(UserError, match="jobs=4"):
        launchers.arranged(settings_of(RAY, ray=ray), 30, 4, "auto")


def test_cores_are_those_that_a_scheduler_gave(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    most = launchers.cores()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert launchers.cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert launchers.cores() == most


def test_cores_are_those_of_the_containers_quota(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    for text, expected in (("250000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 16), ("", 16)):
        (tmp_path / "cpu.max").write_text(text, encoding="ascii")
        monkeypatch.setattr(launchers, "QUOTA", tmp_path / "cpu.max")
        assert launchers.cores() == expected
