"""Cores that come free in a sweep: nobody is robbed of any, and who gets some trains the same networks, sooner."""

import json
import subprocess
import sys

from conftest import environment, run_program

from hw1.shares import SHARES, Shares

HOLD = """
import sys
from pathlib import Path
from hw1.shares import Shares

sweep = Path(sys.argv[1])
with Shares(sweep, [sweep / "0"], 2).taken() as got:
    print(got, flush=True)
    sys.stdin.read()
"""


def jobs_in(sweep, *states):
    folders = [sweep / str(number) for number in range(len(states))]
    for folder, state in zip(folders, states, strict=True):
        folder.mkdir(exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        if state:
            (folder / "result.json").write_text(json.dumps({"status": state}), encoding="utf-8")
    return folders


def test_what_running_jobs_leave_is_free_once_all_have_begun(tmp_path):
    for states, free in [
        (("ok", "ok", None), 0),
        (("running", "running", "ok"), 1),
        (("running", "ok", "failed"), 2),
        (("running", "running", "running"), 0),
        (("running", "interrupted", "ok"), 2),
    ]:
        assert Shares(tmp_path, jobs_in(tmp_path, *states), 3).free() == free, states


def test_a_share_is_taken_once(tmp_path):
    shares = Shares(tmp_path, jobs_in(tmp_path, "running", "ok", "ok"), 3)
    with shares.taken() as one, shares.taken() as two:
        assert (one, two) == (True, True)
        with shares.taken() as three:
            assert not three
    with shares.taken() as again:
        assert again


def test_a_share_that_nobody_may_lock_is_not_taken(tmp_path):
    folders = jobs_in(tmp_path, "running")
    (tmp_path / SHARES).write_text("no folder", encoding="utf-8")
    with Shares(tmp_path, folders, 2).taken() as got:
        assert not got


def test_a_share_ends_with_its_process(tmp_path):
    shares = Shares(tmp_path, jobs_in(tmp_path, "running"), 2)
    program = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout.readline() == "True\n"
    with shares.taken() as got:
        assert not got
    program.kill()
    program.communicate()
    with shares.taken() as got:
        assert got


def test_the_last_job_of_a_sweep_trains_on_all_cores_and_the_same_networks(tmp_path):
    words = ["experiment=classification", "dataset=digits", "model=mlp", "model.width=128", "vectorize=false",
             "replicas=6", "threads=1", "batch_size=256"]  # fmt: skip
    done = run_program(tmp_path, [*words, "-m", "steps=2,3,4000", "jobs=2", "hydra.sweep.dir=sweep"])
    assert done.code == 0, done.err
    key = json.loads((tmp_path / "sweep" / "2" / "result.json").read_text())["runs"]["trained"]["key"]
    run = tmp_path / "runs" / key
    assert "more on cores that came free" in json.loads((run / "run.json").read_text())["arrangement"]
    assert not (tmp_path / "sweep" / SHARES).exists()
    alone = run_program(tmp_path, [*words, "steps=4000", "store=alone"])
    assert alone.code == 0, alone.err
    other = tmp_path / "alone" / key
    assert "came free" not in json.loads((other / "run.json").read_text())["arrangement"]
    for name in ("weights.safetensors", "history.csv"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
