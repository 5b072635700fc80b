"""The rows that are whole processes: what a person waits for."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from . import usual
from .rows import Setting
from .timing import Row, exponent

ROOT = Path(__file__).resolve().parent.parent
BATCHES, REPLICAS, EPOCHS, EXAMPLES, TEST, START = (16, 64, 256), 3, 4, 50_000, 10_000, 5_000
MAIN = ("experiment=sensitivity", "batch_size=16,64,256", "-m")
PART = 6  # of the main job's images one in so many, unless it is asked for whole
TINY = ("experiment=tiny", "--config-dir", str(ROOT / "benchmarks" / "conf"), "allow_targets=[benchmarks]")
JOBS = (1, 20, 1_000)
ALONE = 300  # jobs one after another, in one process


def all_rows(setting: Setting) -> Iterator[Callable[[], Row]]:
    """All of them."""
    yield partial(main_job, setting)
    yield partial(light_commands, setting)
    yield partial(tiny_jobs, setting)


def environment() -> dict[str, str]:
    """Of a person's command: with this checkout, and bytecode kept, which containers often forbid."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return own | {"PYTHONPATH": str(ROOT)}


def run(folder: Path, *words: str, module: str = "hw1") -> float:
    """Seconds of one command. Raises: RuntimeError if it fails otherwise than as bad input."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=folder, env=environment(), capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 2):
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr[-400:]}")
    return seconds


def main_job(setting: Setting) -> list[Row]:
    """The main job, end to end, and again; the usual loop is measured in parts before and after it, and added up.

    The usual way does the same trainings and measurements: 9 trainings of 4 epochs, loss and accuracy of all images
    after each epoch, the gradient noise scale at the start and at the end, Jacobians and gradients of the loss of
    10,000 test images, an example at a time. Ours has intervals, figures and a report besides. What the usual way takes
    for trainings, Jacobians, and validation and test images after each epoch alone stands beside it.

    Both have a sixth of the images to train on and of those with Jacobians, unless it is asked for whole: what does
    not grow with them, libraries, figures and page, then weighs up to six times as much in ours.
    """
    examples, probed = (EXAMPLES, TEST) if setting.whole else (EXAMPLES // PART, TEST // PART)
    size = () if setting.whole else (f"dataset.subset={examples}", f"experiment.examples={probed}")
    parts = [_usual_main_job(setting, examples, probed)]
    with TemporaryDirectory() as name:
        folder, words = Path(name), (*MAIN, *size, f"data_dir={setting.data_dir.resolve()}")
        first = run(folder, *words)
        again = [run(folder, *words) for _ in range(3)]
    parts.append(_usual_main_job(setting, examples, probed))
    row = Row("main job, 3 replicas × batch 16, 64, 256", "job", {"ours": [first] * 2}, {"usual": 5.0})
    row.seconds["usual"] = [whole for whole, _ in parts]
    least = sum(least for _, least in parts) / len(parts) / first
    row.words = "" if setting.whole else "with a sixth of the images (--whole: all); "
    row.words += "one run of ours; the usual way added up from parts measured before and after it; "
    row.words += f"{least:.2f} against its trainings, Jacobians and test images alone"
    median = sorted(again)[1]
    return [row, Row("main job again, nothing trained", "s", value=median, most=8.0, seconds={"ours": again})]


def _usual_main_job(setting: Setting, examples: int, probed: int) -> tuple[float, float]:
    """Seconds of all of it, and of trainings, Jacobians, validation and test images alone.

    Args:
        examples: to train on.
        probed: test images whose Jacobians are taken.
    """

    def seconds(function: Callable[..., float], *settings: int) -> float:
        return setting.usual(function, setting.data_dir, "cnn", *settings)

    training = sum(EPOCHS * math.ceil(examples / size) * seconds(usual.step_seconds, size, 0) for size in BATCHES)
    looking, jacobians = seconds(usual.evaluation_seconds), probed * seconds(usual.sensitivity_seconds, 60)
    least = jacobians + EPOCHS * 2 * TEST * looking
    noise = (examples + START) * seconds(usual.noise_seconds)  # at the end and at the start
    whole = jacobians + probed * seconds(usual.loss_gradient_seconds) + noise
    whole += EPOCHS * (examples + 2 * TEST) * looking
    return REPLICAS * (training + len(BATCHES) * whole), REPLICAS * (training + len(BATCHES) * least)


def light_commands(setting: Setting) -> list[Row]:
    """What answers without training.

    The comparison is one of a sweep of 20 jobs, which drew the same figures; beside it stands one that draws them.
    """
    commands: dict[str, tuple[float, tuple[str, ...]]] = {
        "--help": (0.6, ("--help",)),
        "--cfg job": (0.6, ("--cfg", "job")),
        "a bad value": (0.6, ("batch_size=none",)),
    }
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for label, (most, words) in commands.items():
            rows.append(_light(label, most, partial(run, folder, *words)))
        sizes = ",".join(str(8 * (number + 1)) for number in range(20))
        run(folder, "experiment=sensitivity", "dataset=digits", "model=mlp", f"batch_size={sizes}", "-m", "steps=20",
            "experiment.examples=50", "experiment.noise_examples=800", "hydra.sweep.dir=twenty",
            "device=cpu")  # fmt: skip
        compare = partial(run, folder, "twenty", module="hw1.compare")
        rows.append(_light("hw1.compare of 20 jobs", 1.5, compare))
        rows.append(_light("hw1.compare of 20 jobs, figures drawn", None, partial(compare, "--store", "none"), 1))
    return rows


def _light(label: str, most: float | None, way: Callable[[], float], rounds: int = 3) -> Row:
    if rounds > 1:
        way()
    seconds = sorted(way() for _ in range(rounds))
    return Row(label, "s", value=seconds[rounds // 2], most=most, seconds={"ours": seconds})


def tiny_jobs(setting: Setting) -> list[Row]:
    """What a sweep costs beside its jobs, one after another in one process; how sweeps grow, as they run by default."""
    whole, own, _ = _tiny(ALONE, "hydra/launcher=basic")
    row = Row(f"sweep of {ALONE} tiny jobs, beside each", "s", value=(whole - own) / ALONE, most=0.15)
    row.words = f"start and end of the sweep shared out; a job's own: {own / ALONE:.2f} s"
    row.seconds = {"ours": [row.value or 0.0]}
    found = [_tiny(jobs) for jobs in JOBS]
    seconds, memory, labels = [whole for whole, *_ in found], [peak for *_, peak in found], f"1 to {JOBS[-1]:,}"
    time_row = Row(f"time against jobs, {labels}", "exponent", {"ours": seconds}, value=exponent(JOBS, seconds))
    time_row.most, time_row.words = 1.05, f"{', '.join(f'{value:.1f}' for value in seconds)} s"
    space = Row(f"memory against jobs, {labels}", "exponent", {"ours": memory}, value=exponent(JOBS, memory), most=0.1)
    space.words = f"{', '.join(f'{value / 2**20:.0f}' for value in memory)} MB at most in the largest process"
    return [row, time_row, space]


def _tiny(jobs: int, *words: str) -> tuple[float, float, float]:
    """Seconds of a sweep, of its jobs by themselves, and the most memory of one of its processes."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        rates = ",".join(f"{0.0001 * (number + 1):.4f}" for number in range(jobs))
        line = (*TINY, "-m", f"optimizer.lr={rates}", *words, "hydra.sweep.dir=jobs", "device=cpu")
        start = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.peak", *line]
        subprocess.run(command, cwd=folder, env=environment(), capture_output=True, check=True)
        whole = time.perf_counter() - start
        results = [json.loads((folder / "jobs" / str(n) / "result.json").read_text()) for n in range(jobs)]
        return whole, sum(result["wall_seconds"] for result in results), float((folder / "peak").read_text())
