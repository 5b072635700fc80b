"""The program run as a person runs it: in a process of its own, in an empty folder. Costly runs happen once."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

TIMEOUT = 180


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, what it printed, and the folder that it ran in."""

    code: int
    out: str
    err: str
    folder: Path


def environment(**changes: str) -> dict[str, str]:
    """This environment with one thread a process, and without what a developer's shell may have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HYDRA_", "PYTEST_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "110", **changes}


def run_program(
    folder: Path, words: Sequence[str], command: Sequence[str] = ("-m", "hw1"), env: Mapping[str, str] | None = None
) -> Outcome:
    """`python -m hw1 words…` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, *command, *words], cwd=folder, env=environment(**(env or {})), capture_output=True, text=True,
        timeout=TIMEOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr, folder)


@pytest.fixture(scope="session")
def common(tmp_path_factory, worker_id) -> Path:
    """A folder that all workers of this session share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def worker_id(request) -> str:
    """The name of this pytest-xdist worker; "master" without xdist."""
    return getattr(request.config, "workerinput", {}).get("workerid", "master")


@pytest.fixture(scope="session")
def data_dir(common) -> Path:
    """A data folder that all tests share, so that MNIST is unpacked once."""
    return common / "data"


@pytest.fixture(scope="session")
def once(common) -> Callable[[str, Callable[[Path], Outcome]], Outcome]:
    """Run something for the whole session: the first worker runs it in a folder of its own, others read it."""

    def get(name: str, make: Callable[[Path], Outcome]) -> Outcome:
        folder, notes = common / "once" / name, common / "once" / f"{name}.notes"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{notes}.lock"):
            if not notes.exists():
                made = make(folder)
                for what, text in (("out", made.out), ("err", made.err)):
                    notes.with_suffix(f".{what}").write_text(text, encoding="utf-8")
                notes.write_text(str(made.code), encoding="utf-8")
        texts = [notes.with_suffix(f".{what}").read_text(encoding="utf-8") for what in ("out", "err")]
        return Outcome(int(notes.read_text(encoding="utf-8")), *texts, folder)

    return get


@pytest.fixture(scope="session")
def function_job(once) -> Outcome:
    """The default experiment with a few steps."""
    return once("function_job", lambda folder: run_program(folder, ["steps=40", "replicas=2", "threads=1"]))


@pytest.fixture(scope="session")
def sensitivity_words(data_dir) -> list[str]:
    """A small but real sweep over batch sizes."""
    small = ["dataset.subset=1000", "epochs=2", f"data_dir={data_dir}", "jobs=2"]
    return ["experiment=sensitivity", "batch_size=16,64,256", "-m", *small]


@pytest.fixture(scope="session")
def offline(common) -> dict[str, str]:
    """An environment in which every attempt to reach a network fails."""
    folder = common / "offline"
    folder.mkdir(exist_ok=True)
    lines = ["import socket", "def _refuse(*arguments): raise OSError('no network in this test')"]
    lines += [f"socket.{name} = _refuse" for name in ("create_connection", "getaddrinfo", "gethostbyname")]
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="session")
def sensitivity_sweep(once, sensitivity_words, offline) -> Outcome:
    """The main job on 1,000 images, on a machine without a network."""
    return once("sensitivity_sweep", lambda folder: run_program(folder, sensitivity_words, env=offline))


def sweep_folder(outcome: Outcome) -> Path:
    """The one folder of results that a command made."""
    (folder,) = [*outcome.folder.glob("multirun/*/*"), *outcome.folder.glob("outputs/*/*")]
    return folder
