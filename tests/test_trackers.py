"""Trackers: what their own readers find of a sweep, sent once, and that nothing of it costs a job."""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import Outcome, environment, run_program

from hw1 import aligned, cli, compose, sweep, trackers
from hw1.recipe import Recipe
from hw1.trackers.record import job_record

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "WANDB_ERROR_REPORTING": "false"}
SWEEP = ["depth=1,2", "steps=40", "replicas=2", "threads=1", "jobs=1", "-m", "hydra.sweep.dir=sweep"]
TIMES = 60  # seconds that a server or a page may take


@pytest.fixture(scope="module")
def tracked(once) -> Outcome:
    """A sweep sent to MLflow, then to the two others, then to MLflow once more."""

    def make(folder: Path) -> Outcome:
        done = [run_program(folder, [*SWEEP, "tracker=mlflow"])]
        for kind in ("tensorboard", "wandb", "mlflow"):
            done.append(run_program(folder, ["resume=sweep", f"tracker={kind}"]))
        assert [one.code for one in done] == [0] * 4, [one.err for one in done]
        return Outcome(0, "\n".join(one.out for one in done), "".join(one.err for one in done), folder)

    return once("tracked_sweep", make)


def table(outcome: Outcome, job: int, name: str) -> pd.DataFrame:
    return pd.read_csv(outcome.folder / "sweep" / str(job) / f"{name}.csv")


def history(outcome: Outcome, job: int, replica: int, metric: str) -> list[tuple[int, float]]:
    rows = table(outcome, job, "history").query("replica == @replica")
    return list(zip(rows["step"], rows[metric], strict=True))


def is_close(found, expected):
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_each_says_where_it_went_in_one_line_and_a_second_time_that_nothing_is_new(tracked):
    lines = [line for line in tracked.out.splitlines() if line.startswith(("mlflow", "tensorboard", "wandb"))]
    assert lines == [
        "mlflow: 2 jobs to sqlite:///mlflow.db, experiment hw1 (mlflow ui --backend-store-uri sqlite:///mlflow.db)",
        "tensorboard: 2 jobs to tensorboard/function sweep (tensorboard --logdir tensorboard)",
        "wandb: 2 jobs to wandb (wandb sync)",
        "mlflow: nothing that was not sent before",
    ]
    assert tracked.err == ""


# Each tracker, read by its own library


@pytest.fixture
def client(tracked, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    return mlflow.MlflowClient(f"sqlite:///{tracked.folder / 'mlflow.db'}")


def runs_of(client) -> tuple[list, list]:
    """The runs that stand by themselves, and those nested under one, both by name."""
    experiment = client.get_experiment_by_name("hw1")
    runs = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.run_name)
    nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return [run for run in runs if run not in nested], nested


def test_mlflow_has_a_run_for_each_job_under_one_for_the_sweep(tracked, client):
    (parent,), jobs = runs_of(client)
    assert [parent.info.run_name, *(job.info.run_name for job in jobs)] == ["function sweep", "depth=1", "depth=2"]
    assert {job.data.tags["mlflow.parentRunId"] for job in jobs} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *jobs]} == {"FINISHED"}
    assert [job.data.params["depth"] for job in jobs] == ["1", "2"]
    assert jobs[0].data.params["optimizer.lr"] == parent.data.params["optimizer.lr"] == "0.02"
    assert "depth" not in parent.data.params  # which is not what its jobs share
    assert not [key for key in jobs[0].data.params if key.startswith("tracker")]


def test_mlflow_has_history_summary_and_tags_of_a_job(tracked, client):
    job = runs_of(client)[1][1]
    found = client.get_metric_history(job.info.run_id, "replica_1/test_loss")
    is_close([(point.step, point.value) for point in found], history(tracked, 1, 1, "test_loss"))
    comparison = pd.read_csv(tracked.folder / "sweep" / "comparison.csv").iloc[1]
    for name, column in (("test_loss", "test_loss_mean"), ("t_interval/test_loss_low", "test_loss_low")):
        assert job.data.metrics[name] == pytest.approx(comparison[column])
    assert client.get_metric_history(job.info.run_id, "epoch")[-1].step == 40
    result = json.loads((tracked.folder / "sweep" / "1" / "result.json").read_text())
    assert job.data.tags["hw1.runs"] == result["runs"]["trained"]["key"]
    assert job.data.tags["hw1.experiment"] == "function"
    assert job.data.tags["hw1.folder"] == "sweep/1"
    assert job.info.end_time - job.info.start_time == pytest.approx(1000 * result["wall_seconds"], abs=2)


def test_mlflow_has_figures_and_the_comparison_beside_its_database(tracked, client):
    (parent,), jobs = runs_of(client)
    there = {
        run.info.run_name: {item.path for item in client.list_artifacts(run.info.run_id)} for run in [parent, *jobs]
    }
    assert {"comparison.csv", "by_depth.png", "function.png"} <= there["function sweep"]
    assert {"summary.csv", "result.json", "function.png"} <= there["depth=1"]
    copy = tracked.folder / "mlartifacts" / parent.info.run_id / "artifacts" / "comparison.csv"
    assert copy.read_bytes() == (tracked.folder / "sweep" / "comparison.csv").read_bytes()
    assert "not resolved" in parent.data.tags["mlflow.note.content"]


def test_tensorboard_has_a_folder_for_each_job_and_replica_under_the_sweeps(tracked):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    events = (
        EventMultiplexer(size_guidance={"images": 0}).AddRunsFromDirectory(str(tracked.folder / "tensorboard")).Reload()
    )
    jobs = ["function sweep/0 depth=1", "function sweep/1 depth=2"]
    assert set(events.Runs()) == {"function sweep", *jobs, *(f"{job}/replica_{r}" for job in jobs for r in (0, 1))}
    found = events.Scalars(f"{jobs[1]}/replica_1", "test_loss")
    is_close([(point.step, point.value) for point in found], history(tracked, 1, 1, "test_loss"))
    mean = pd.read_csv(tracked.folder / "sweep" / "comparison.csv")["test_loss_mean"]
    assert [events.Scalars(job, "test_loss")[-1].value for job in jobs] == pytest.approx(list(mean), rel=1e-6)
    image = events.Images("function sweep", "by_depth")[0]
    assert image.encoded_image_string == (tracked.folder / "sweep" / "by_depth.png").read_bytes()
    about = events.Tensors("function sweep", "about")[0].tensor_proto.string_val[0].decode()
    assert "not resolved" in about
    assert "| test_loss |" in about
    assert "    optimizer.lr: 0.02" in events.Tensors(jobs[0], "config")[0].tensor_proto.string_val[0].decode()
    plugin = events.SummaryMetadata(jobs[1], "_hparams_/session_start_info").plugin_data.content
    assert b"depth" in plugin


def wandb_records(file: Path) -> list:
    """The records of an offline run: the frames are those of LevelDB's log, what is in them is read by wandb."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part, found = file.read_bytes(), 7, b"", []  # after the header
    while at < len(data):
        room = 32_768 - at % 32_768
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(Record.FromString(part))
            part = b""
    return found


def test_wandb_has_the_jobs_in_one_group_with_history_config_and_figures(tracked):
    pytest.importorskip("wandb")
    files = sorted((tracked.folder / "wandb").glob("offline-run-*/*.wandb"))
    found = {}
    for file in files:
        records = wandb_records(file)
        (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        found[run.display_name] = (run, [r.history for r in records if r.WhichOneof("record_type") == "history"], file)
    assert set(found) == {"function sweep", "depth=1", "depth=2"}
    assert {run.run_group for run, *_ in found.values()} == {"function sweep"}
    assert [found[name][0].job_type for name in ("function sweep", "depth=1", "depth=2")] == ["sweep", "job", "job"]
    run, rows, file = found["depth=2"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["depth"] == 2
    assert config["optimizer"]["lr"] == 0.02
    assert config["hw1"]["folder"] == "sweep/1"
    series = []
    for row in rows:
        values = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in row.item}
        series.append((row.step.num, float(values["replica_1/test_loss"])))
    is_close(series, history(tracked, 1, 1, "test_loss"))
    assert [path.name[:8] for path in file.parent.glob("files/media/images/*.png")] == ["function"]
    sweep_file = found["function sweep"][2]
    (comparison,) = sweep_file.parent.glob("files/media/table/comparison*.json")
    assert json.loads(comparison.read_text())["columns"][0] == "depth"
    listed = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run"], cwd=tracked.folder, env=environment(**QUIET),
        capture_output=True, text=True, timeout=TIMES, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Would sync 3 run(s)" in listed.stdout + listed.stderr


# The page of MLflow


@pytest.fixture
def mlflow_page(tracked):
    """The address of MLflow's own server over what was sent."""
    pytest.importorskip("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "mlflow",
        "server",
        "--backend-store-uri",
        "sqlite:///mlflow.db",
        "--host",
        "127.0.0.1",
        "--workers",
        "1",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)], cwd=tracked.folder, env=environment(**QUIET),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + TIMES
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(chromium() is None and not os.environ.get("CI"), reason="there is no Chromium here")
def test_the_page_of_mlflow_shows_the_sweep_and_its_jobs_under_it(tracked, mlflow_page, client):
    if not os.environ.get("CI"):
        pytest.importorskip("playwright")
    from playwright.sync_api import expect, sync_playwright

    (parent,), jobs = runs_of(client)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(1000 * TIMES)
        page.goto(f"{mlflow_page}/#/experiments/{parent.info.experiment_id}/runs")
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="function sweep"))
        expect(row).to_be_visible(timeout=1000 * TIMES)
        assert page.get_by_text("depth=1", exact=True).count() == 0
        row.get_by_role("button").first.click()  # opens what is nested
        for job in jobs:
            expect(page.get_by_text(job.info.run_name, exact=True).first).to_be_visible(timeout=1000 * TIMES)
        page.goto(f"{mlflow_page}/#/experiments/{parent.info.experiment_id}/runs/{jobs[0].info.run_id}")
        expect(page.get_by_role("link", name="function sweep")).to_be_visible(timeout=1000 * TIMES)  # its parent
        expect(page.get_by_text("optimizer.lr", exact=True)).to_be_attached(timeout=1000 * TIMES)
        browser.close()


# What goes wrong


def test_a_server_that_is_not_there_costs_one_line(tracked, tmp_path):
    pytest.importorskip("mlflow")
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        words = [*SWEEP, f"store={tracked.folder / 'runs'}", "tracker=mlflow", f"tracker.uri={uri}"]
        done = run_program(tmp_path, words)
    assert done.code == 0
    assert done.err == (
        f"warning: mlflow ({uri}): Connection refused (errno 111); results are complete, and "
        "python -m hw1 resume=sweep sends the rest\n"
    )
    assert "results: sweep" in done.out
    assert not list(tmp_path.rglob(".tracked.json"))


def told_of(tracked: Outcome, folder: Path, kind: str = "tensorboard") -> dict:
    """What the sending process is told of a copy of the sweep in `folder`."""
    shutil.copytree(tracked.folder / "sweep", folder / "sweep")
    for mark in folder.rglob(".tracked.json"):
        mark.unlink()
    jobs = [
        {
            "folder": str(folder / "sweep" / str(n)), "name": f"depth={n + 1}", "values": {"depth": n + 1},
            "config": {"store": "runs", "depth": n + 1},
        }
        for n in (0, 1)
    ]  # fmt: skip
    node = {"kind": kind, "name": None, "timeout": 60, "logdir": str(folder / "logs")}
    return {"tracker": node, "experiment": "function", "folder": str(folder / "sweep"), "sweep": True, "jobs": jobs}


def deliver(told: dict) -> dict:
    """What the sending process says last."""
    done = subprocess.run(
        [sys.executable, "-m", "hw1.trackers"], input=json.dumps(told), env=environment(**QUIET), capture_output=True,
        text=True, timeout=TIMES,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_server_that_never_answers_is_given_up(tracked, tmp_path, capsys):
    pytest.importorskip("mlflow")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)  # takes connections, and no more
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        told = told_of(tracked, tmp_path)
        told["tracker"] |= {"kind": "mlflow", "uri": uri, "experiment": "hw1", "timeout": 6}
        assert trackers._attended(told["tracker"], told) == "no answer within 6 s (tracker.timeout)"
    assert capsys.readouterr() == ("", "")
    assert not [child for child in psutil.Process().children() if "hw1.trackers" in child.cmdline()]


def test_what_cannot_be_sent_is_counted_and_sent_the_next_time(tracked, tmp_path):
    pytest.importorskip("tensorboard")
    told = told_of(tracked, tmp_path)
    mark = tmp_path / "sweep" / "1" / ".tracked.json"
    mark.mkdir()  # so that it cannot be written
    said = deliver(told)
    assert said["line"].startswith("tensorboard: 1 job to ")
    assert said["problem"].startswith("1 of 2 jobs were not sent: ")
    mark.rmdir()
    assert deliver(told)["line"].startswith("tensorboard: 1 job to ")
    assert deliver(told) == {"line": "tensorboard: nothing that was not sent before", "problem": ""}


def test_two_commands_may_make_the_same_database_at_once(tracked, tmp_path):
    pytest.importorskip("mlflow")
    tolds = [told_of(tracked, tmp_path / name) for name in ("a", "b")]
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    for told in tolds:
        told["tracker"] |= {"kind": "mlflow", "uri": uri, "experiment": "hw1"}
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(deliver, tolds))
    assert [one["problem"] for one in said] == ["", ""]
    assert all(one["line"].startswith("mlflow: 2 jobs to ") for one in said)


def test_a_job_that_ran_anew_is_sent_anew(tracked, tmp_path):
    pytest.importorskip("tensorboard")
    told = told_of(tracked, tmp_path)
    result = tmp_path / "sweep" / "0" / "result.json"
    good = result.read_text()
    result.write_text(json.dumps(json.loads(good) | {"status": "failed", "error": "out of <luck>"}))
    assert deliver(told)["problem"] == ""
    result.write_text(good)
    assert deliver(told)["line"].startswith("tensorboard: 1 job to ")
    assert {path.name for path in (tmp_path / "logs" / "function sweep").iterdir() if path.is_dir()} == {
        "0 depth=1", "0 depth=1_2", "1 depth=2"
    }  # fmt: skip


def test_of_a_failed_job_its_error_is_sent_and_of_one_that_has_not_ended_nothing(tracked, tmp_path):
    told = told_of(tracked, tmp_path)
    file = tmp_path / "sweep" / "1" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "failed", "error": "out of luck"}))
    record = job_record(told, told["jobs"][1])
    assert (record.status, record.tags["hw1.error"], record.series) == ("failed", "out of luck", {})
    (tmp_path / "sweep" / "0" / "result.json").write_text('{"status": "interrupted"}')
    assert deliver(told)["line"].startswith("tensorboard: 1 job to ")


def test_replicas_that_diverged_are_counted_and_left_out_of_the_mean(tracked, tmp_path):
    told = told_of(tracked, tmp_path)
    file = tmp_path / "sweep" / "0" / "summary.csv"
    rows = pd.read_csv(file)
    rows.loc[1, ["status", "test_loss"]] = ["diverged", float("nan")]
    rows.to_csv(file, index=False)
    series = job_record(told, told["jobs"][0]).series
    assert series["diverged", None][-1] == (40, 1)
    assert series["test_loss", None][-1] == (40, pytest.approx(rows.loc[0, "test_loss"]))
    assert series["test_loss", 1][-1][1] == pytest.approx(history(tracked, 0, 1, "test_loss")[-1][1])
    assert ("t_interval/test_loss_low", None) not in series  # n = 1


# What is asked for


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["tracker=mlfow"], ["tracker=mlfow", "did you mean mlflow"]),
        (["tracker.uri=http://127.0.0.1"], ["unknown key tracker.uri"]),
        (["tracker=mlflow", "tracker.uri=./mlruns"], ["tracker.uri=./mlruns", "sqlite:///mlflow.db", "folders"]),
        (["tracker=mlflow", "tracker.uri='file:///tmp/mlruns'"], ["tracker.uri=file:///tmp/mlruns", "sqlite:///"]),
        (["tracker=mlflow", "tracker.uri='http://me:hunter2@127.0.0.1'"], ["tracker.uri", "MLFLOW_TRACKING_PASSWORD"]),
        (["tracker=mlflow", "tracker.experiment=''"], ["tracker.experiment", "a text"]),
        (["tracker=wandb", "tracker.mode=on"], ["tracker.mode=", "one of offline, online"]),
        (["tracker=tensorboard", "tracker.timeout=0"], ["tracker.timeout=0", "1 to 86400"]),
        (["tracker=none,tensorboard", "-m"], ["tracker", "not to be swept"]),
        (["tracker={kind:none}"], ["tracker="]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_anything_starts(words, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .+\n", captured.err), captured.err
    assert all(part in captured.err for part in parts), captured.err
    assert "hunter2" not in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", trackers.LIBRARIES)
def test_a_library_that_is_not_installed_is_named_before_anything_starts(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trackers, "_installed", lambda module: False)
    assert cli.main([f"tracker={kind}"]) == 2
    assert capsys.readouterr().err == f"error: tracker={kind}: needs the extra: pip install 'hw1[{kind}]'\n"


def config_of(*words: str) -> dict:
    arguments = compose.parse(list(words))
    with compose.open_composer(None) as composer:
        grid = composer.grid(arguments.overrides, multirun=False)
        return sweep._job(composer, grid.points[0], grid.typed).config


def test_mlflows_own_variable_says_where_unless_somebody_types_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert config_of("tracker=mlflow")["tracker"]["uri"] == "http://127.0.0.1:5000"
    typed = config_of("tracker=mlflow", "tracker.uri=sqlite:///other.db")
    assert typed["tracker"]["uri"] == "sqlite:///other.db"


def test_a_tracker_is_no_part_of_a_recipe_nor_of_a_condition(tracked):
    recipes = [Recipe.from_config(config_of(f"tracker={kind}"), "cpu") for kind in ("none", "mlflow", "wandb")]
    assert recipes[0] == recipes[1] == recipes[2]
    (job, _), unknown = aligned.read([tracked.folder / "sweep"])
    assert unknown == []
    assert not [key for key in {**job.raw, **job.choices} if key.startswith("tracker")]


def test_without_a_tracker_no_library_is_loaded(tmp_path, tracked):
    code = (
        "import sys; from hw1.cli import main; sys.argv = ['hw1', *sys.argv[1:]]; code = main(sys.argv[1:]);"
        "loaded = {'mlflow', 'wandb', 'tensorboard', 'hw1.trackers'} & set(sys.modules);"
        "print('loaded:', *loaded); sys.exit(code)"
    )
    words = ["depth=1", "steps=40", "replicas=2", "threads=1", f"store={tracked.folder / 'runs'}"]
    done = run_program(tmp_path, words, command=("-c", code))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "loaded:"
