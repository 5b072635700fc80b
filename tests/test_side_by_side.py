"""Several things at a time: the results of one after another, and no core idle that may be used."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import environment

from hw1 import compose, job, parts, side_by_side
from hw1.laboratory import Laboratory
from hw1.machine import Machine
from hw1.recipe import Recipe
from hw1.shares import SHARES, Shares
from hw1.side_by_side import each
from hw1.store import Store

WAIT = 60  # seconds after which a test gives up


def machine(threads: int, shares: Shares | None = None, device: str = "cpu") -> Machine:
    return Machine(device, threads, Path("data"), shares=shares)


@pytest.fixture
def before():
    """The threads of this process, as they were."""
    number = torch.get_num_threads()
    yield number
    assert torch.get_num_threads() == number


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(before, count, threads):
    assert each(lambda item: item**2, list(range(count)), machine(threads)) == [n**2 for n in range(count)]


@pytest.mark.parametrize(("threads", "items", "inside"), [(1, 3, 1), (2, 3, 1), (4, 2, 2), (5, 2, 2), (4, 1, 4)])
def test_items_share_the_threads_of_the_job(before, threads, items, inside):
    torch.set_num_threads(threads)
    try:
        assert each(lambda _: torch.get_num_threads(), range(items), machine(threads)) == [inside] * items
    finally:
        torch.set_num_threads(before)


def test_as_many_at_a_time_as_there_are_threads(before):
    together = threading.Barrier(3, timeout=WAIT)
    assert len(each(lambda _: together.wait(), range(6), machine(3))) == 6


@pytest.mark.parametrize("where", [machine(1), machine(4, device="cuda")])
def test_with_one_core_or_a_gpu_one_follows_another_in_the_calling_thread(where):
    assert each(lambda _: threading.current_thread(), range(3), where) == [threading.current_thread()] * 3


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_failure_is_raised_and_nothing_more_begun(before, threads):
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        raise IndexError(f"item {item}")

    with pytest.raises(IndexError, match=r"item [01]"):
        each(fail, range(100), machine(threads))
    assert len(begun) <= threads


INTERRUPTED = """
import os, signal, threading
from pathlib import Path
from hw1.machine import Machine
from hw1.side_by_side import each

def endless(item):
    if item == 0:
        os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()

try:
    each(endless, range(4), Machine("cpu", 2, Path("data")))
except KeyboardInterrupt:
    print("heard", flush=True)
    os._exit(0)  # as the command ends
"""


def test_ctrl_c_is_heard_while_networks_are_measured():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env=environment(), capture_output=True, text=True, timeout=WAIT
    )
    assert done.stdout == "heard\n", done.stderr


def job_in(sweep: Path, number: int, status: str) -> Path:
    folder = sweep / str(number)
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("threads", "at_once"), [(1, 2), (2, 4)])
def test_cores_that_come_free_take_part_as_many_as_a_job_has(tmp_path, monkeypatch, before, threads, at_once):
    monkeypatch.setattr(side_by_side, "LOOK_SECONDS", 0.01)
    jobs = [job_in(tmp_path, 0, "running"), job_in(tmp_path, 1, "running")]
    together = threading.Barrier(at_once, timeout=WAIT)
    begun = threading.Semaphore(0)

    def work(item: int) -> int:
        begun.release()
        together.wait()
        return item

    def end() -> None:
        for _ in range(threads):
            begun.acquire(timeout=WAIT)
        job_in(tmp_path, 1, "ok")

    ending = threading.Thread(target=end)
    ending.start()
    assert each(work, range(2 * at_once), machine(threads, Shares(tmp_path, jobs, 2))) == list(range(2 * at_once))
    ending.join()
    with Shares(tmp_path, jobs, 2).taken() as got:  # it was given back
        assert got


def test_cores_that_others_need_are_left_alone(tmp_path, monkeypatch, before):
    monkeypatch.setattr(side_by_side, "LOOK_SECONDS", 0.01)
    jobs = [job_in(tmp_path, 0, "running"), job_in(tmp_path, 1, "running")]
    look = threading.Event()
    seen = each(lambda _: (look.wait(0.1), threading.current_thread()), range(5), machine(1, Shares(tmp_path, jobs, 2)))
    assert len({thread for _, thread in seen}) == 1
    assert not (tmp_path / SHARES).exists()


@pytest.mark.parametrize("name", ["sensitivity", "interpolation", "weight_pca"])
def test_networks_measured_side_by_side_give_the_bits_of_one_after_another(tmp_path, before, name):
    words = [f"experiment={name}", "model=mlp", "dataset=digits", "epochs=1", "replicas=3"]
    with compose.open_composer(None) as composer:
        point = composer.point([*words, "threads=1"])
        experiment = parts.build(point.resolved["experiment"])
        base = Recipe.from_config(point.resolved, "cpu")
        configs = dict(job.variants(point.config, experiment, base, words))
    found = []
    torch.set_num_threads(1)
    for threads in (1, 3):
        lab = Laboratory(Store(tmp_path / "runs"), Machine("cpu", threads, tmp_path))
        runs = {run: lab.run(Recipe.from_config(config, "cpu")) for run, config in configs.items()}
        found.append(experiment.measure(runs))
    torch.set_num_threads(before)
    assert set(found[0]) == set(found[1])
    for table in found[0]:
        pd.testing.assert_frame_equal(found[0][table], found[1][table], check_exact=True)
    assert found[0]["summary"]["status"].tolist() == ["ok"] * 3
