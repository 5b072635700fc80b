"""hw1 from Python: `run`, `load` and `compare`, what their results hold, and how they look in a notebook."""

import contextlib
import doctest
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from conftest import environment, sweep_folder
from test_cli import wheel_folder  # noqa: F401 (a fixture)

import hw1
from hw1 import notebook

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["steps=30", "replicas=2", "threads=1"]
NET = """
from hw1 import models

def net(input_shape, outputs, hidden):
    if hidden == 4:
        raise RuntimeError("no four, please")
    return models.mlp(input_shape=input_shape, outputs=outputs, depth=1, width=hidden, widths=None, activation="relu",
                      dropout=0.0, batch_norm=False)
"""
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def own_net() -> list[str]:
    return ["model=custom", "model._target_=own_net.net", "allow_targets=[own_net]", *SMALL]


@pytest.fixture(scope="session")
def ran(common, own_net) -> Iterator[dict[str, Any]]:
    """A sweep of which a job fails, and at the same time, from another thread, a job in another directory."""
    folders = [common / f"api-{os.getpid()}" / name for name in ("sweep", "job")]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / "own_net.py").write_text(NET, encoding="utf-8")
    before = Path.cwd(), signal.getsignal(signal.SIGINT), dict(os.environ)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(hw1.run, " ".join(SMALL), cwd=folders[1], quiet=True)
        with pytest.warns(UserWarning, match="no four, please") as warned:
            sweep = hw1.run([*own_net, "+model.hidden=3,4", "jobs=1", "-m"], cwd=folders[0], quiet=True)
        after = Path.cwd(), signal.getsignal(signal.SIGINT), dict(os.environ)
        yield {"sweep": sweep, "job": job.result(), "warned": warned, "left": before == after}


# ---- run ----


def test_two_run_at_once_and_leave_nothing_in_this_process(ran):
    assert ran["left"]
    assert ran["job"].kind == "job"
    assert ran["job"].folder.parent.parent.name == "outputs"
    assert ran["job"].folder.parents[2].name == "job"
    assert ran["sweep"].folder.parents[2].name == "sweep"


def test_a_job_has_what_its_folder_has(ran):
    job = ran["job"]
    assert job.status == "ok"
    assert job.experiment == "function"
    assert set(job.tables) == {file.stem for file in job.folder.glob("*.csv")} >= {"history", "prediction", "summary"}
    summary = pd.read_csv(job.folder / "summary.csv")
    assert len(job.comparison) == 1
    assert job.comparison["test_mae_mean"].item() == pytest.approx(summary["test_mae"].mean())
    assert job.comparison["test_mae_n"].item() == 2
    assert job.figures["function"].svg == job.folder / "function.svg"
    assert job.figures["function"]._repr_svg_().startswith("<?xml")
    assert job.failures == []
    with pytest.raises(KeyError, match=r"no table 'histroy'; there are: history"):
        job.tables["histroy"]


def test_a_sweep_of_which_a_job_failed(ran):
    sweep = ran["sweep"]
    assert (sweep.kind, sweep.status) == ("sweep", "failed")
    assert sweep.comparison["status"].tolist() == ["ok", "failed"]
    assert set(sweep.tables["summary"]["model.hidden"]) == {3}
    (line,) = sweep.failures
    assert line == "job 1 (model.hidden=4) failed: RuntimeError: no four, please"
    assert [Path(warning.filename).name for warning in ran["warned"]] == ["test_api.py"]  # where it was called
    assert sweep.findings[-1] == "1 of 2 jobs failed."
    assert sweep.findings == hw1.load(sweep.folder).findings
    assert "1 of 2 jobs failed" in repr(sweep)


def test_a_job_that_fails(tmp_path, own_net, capsys):
    (tmp_path / "own_net.py").write_text(NET, encoding="utf-8")
    with pytest.raises(hw1.JobFailed, match=r"^RuntimeError: no four, please .*error\.txt\)$") as caught:
        hw1.run([*own_net, "+model.hidden=4"], cwd=tmp_path)
    assert caught.value.result.status == "failed"
    assert (caught.value.result.folder / "error.txt").exists()
    assert list(caught.value.result.tables) == []
    assert caught.value.result.comparison["status"].tolist() == ["failed"]
    assert capsys.readouterr() == ("", "")  # what went wrong is said once, by the exception


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hw1.run(["batchsize=3"]), "unknown key batchsize; did you mean batch_size?"),
        (lambda: hw1.run(["steps=3"], cwd="nowhere"), "cwd=nowhere: there is no such folder"),
        (lambda: hw1.run("--version", quiet=True), "--version: gives no result"),
        (lambda: hw1.load("nowhere\n"), "nowhere: there is no such folder"),
        (lambda: hw1.load("."), ".: holds neither a job (result.json) nor a sweep (sweep.json) nor a comparison"),
        (lambda: hw1.compare(["nowhere"]), "nowhere: there is no such folder"),
        (lambda: hw1.compare(["-x"]), "-x: there is no such folder"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], Any], words: str, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(hw1.UserError) as caught:
        call()
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_what_the_command_prints_is_shown(ran, capsys):
    job = ran["job"]
    again = hw1.run(SMALL, cwd=job.folder.parents[2])
    shown = capsys.readouterr().out
    assert "nothing trained: the run was in the store" in shown
    assert f"results: {again.folder.relative_to(job.folder.parents[2])}\n" in shown
    assert again.folder != job.folder
    pd.testing.assert_frame_equal(again.tables["history"], job.tables["history"])


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal")
def test_on_a_terminal_the_command_has_it(ran, monkeypatch):
    here, there = os.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while text := os.read(here, 4096):
                shown.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(there, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        hw1.run(SMALL, cwd=ran["job"].folder.parents[2])
        monkeypatch.undo()
    reader.join(10)
    text = b"".join(shown).decode()
    assert "\x1b[1m" in text  # bold, as on any terminal
    assert "\nresults: outputs/" in text.replace("\r", "")


def test_a_sweep_of_which_a_job_failed_is_finished(ran, tmp_path):
    before = ran["sweep"].folder
    copy = Path(shutil.copytree(before.parents[2], tmp_path / "copy"))
    folder = copy / before.relative_to(before.parents[2])
    edit(folder / "sweep.json", directory=str(copy))
    (copy / "own_net.py").write_text(NET.replace("hidden == 4", "False"), encoding="utf-8")
    result = hw1.run([f"resume={folder}"], cwd=copy, quiet=True)
    assert (result.folder, result.status, result.failures) == (folder, "ok", [])
    assert set(result.tables["summary"]["model.hidden"]) == {3, 4}


LONG = """
import signal
import hw1
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests with &
try:
    hw1.run(["steps=1000000", "threads=1"], quiet=True)
except KeyboardInterrupt as end:
    print("\\n".join(end.__notes__))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupt_ends_the_job_and_keeps_what_was_done(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", LONG],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        late = time.monotonic() + 100
        while not any("epoch" in file.read_text() for file in tmp_path.glob("outputs/*/*/.progress.json")):
            assert time.monotonic() < late
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    (folder,) = tmp_path.glob("outputs/*/*")
    assert (out, err) == (f"what was done is kept: hw1.load({str(folder)!r})\n", "")
    assert json.loads((folder / "result.json").read_text())["error"] == "stopped by Ctrl-C"
    assert list((tmp_path / "runs" / ".partial").iterdir())  # which a second signal would not have left time for


# ---- load ----


def test_the_findings_of_a_sweep_are_what_it_printed(sensitivity_sweep):
    result = hw1.load(sweep_folder(sensitivity_sweep))
    assert any(sentence.startswith("best batch size") for sentence in result.findings)
    assert set(result.findings) <= set(sensitivity_sweep.out.splitlines())
    assert result.headline == "softmax_jacobian"
    assert "best_batch_size" in result.tables


@pytest.fixture
def sweep_copy(ran, tmp_path) -> Path:
    return Path(shutil.copytree(ran["sweep"].folder, tmp_path / "copy"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_while_a_sweep_runs_its_jobs_are_read_and_not_tables_of_an_earlier_time(sweep_copy):
    edit(sweep_copy / "1" / "result.json", status="running", error=None)
    (sweep_copy / "comparison.csv").write_text("status\nok\n")
    (sweep_copy / "summary.csv").write_text("replica\n")
    result = hw1.load(sweep_copy)
    assert result.status == "running"
    assert result.comparison["status"].tolist() == ["ok", "running"]
    assert set(result.tables["summary"]["model.hidden"]) == {3}
    assert result.findings[-1] == "1 of 2 jobs running."


def test_a_sweep_that_has_not_begun_or_lost_its_plan(sweep_copy):
    (sweep_copy / "sweep.json").write_text("{")
    for file in ("comparison.csv", "findings.json"):
        (sweep_copy / file).unlink()
    assert hw1.load(sweep_copy).comparison["status"].tolist() == ["ok", "failed"]
    (sweep_copy / "sweep.json").unlink()
    assert hw1.load(sweep_copy).kind == "sweep"
    for number in "01":
        shutil.rmtree(sweep_copy / number)
    (sweep_copy / "sweep.json").write_text('{"keys": ["depth"], "jobs": [{"job": 0, "overrides": {"depth": 1}}]}')
    result = hw1.load(sweep_copy)
    assert result.status == "unfinished"
    assert result.comparison["status"].tolist() == ["not started"]
    assert "job 0 (depth=1) not started" in result._repr_html_()


def test_a_broken_table_is_one_line_and_does_not_keep_from_the_others(sweep_copy):
    (sweep_copy / "history.csv").write_bytes(b'"\xff\n1,2,3\n')
    result = hw1.load(sweep_copy)
    with pytest.raises(hw1.UserError, match=r"^[^\n]*history\.csv: cannot be read as a table: [^\n]*$"):
        result.tables["history"]
    assert len(result.tables["summary"]) == 2


def test_a_job_of_which_the_tables_are_gone(ran, tmp_path):
    shutil.copyfile(ran["job"].folder / "result.json", tmp_path / "result.json")
    result = hw1.load(tmp_path)
    assert list(result.tables) == []
    assert result.figures == {}
    assert result.report is None
    assert result.status == "failed"  # nothing there is what it says
    assert ".hydra/config.yaml" in result.failures[0] or "summary.csv" in result.failures[0]


def test_loading_and_showing_need_no_torch(ran):
    code = f"""
import gc, sys
before = gc.get_threshold()
import hw1
assert not {{"torch", "pandas", "numpy", "matplotlib", "rich", "hydra"}} & set(sys.modules)
result = hw1.load({str(ran["sweep"].folder)!r})
result.comparison, result.tables["history"], result._repr_html_(), result.failures
assert not {{"torch", "matplotlib", "hydra"}} & set(sys.modules)
assert gc.get_threshold() == before  # the caller's process is not ours
assert set(hw1.__all__) <= set(dir(hw1)) and all(getattr(hw1, name) for name in hw1.__all__)
try:
    hw1.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "module 'hw1' has no attribute 'nothing'\n", done.stderr


# ---- compare ----


def test_a_comparison_of_results_and_folders(ran, function_job, tmp_path):
    job = sweep_folder(function_job)
    result = hw1.compare([ran["job"], str(job)], metric="test_mae", out=tmp_path / "out", figures=False)
    assert result.folder == tmp_path / "out"
    assert (result.kind, result.status, result.headline) == ("comparison", "ok", "test_mae")
    assert result.comparison["steps"].tolist() == [30, 40]
    assert set(result.tables["history"]["steps"]) == {30, 40}
    assert result.findings[0].startswith("test MAE")
    assert "jobs" in result.tables
    some = hw1.compare(result.tables["jobs"]["folder"], filter={"steps": [30, 50]}, figures=False, out=tmp_path / "b")
    assert some.tables["jobs"]["folder"].tolist() == [str(ran["job"].folder)]


def test_a_comparison_asks_the_store_that_it_is_given(ran, tmp_path):
    (tmp_path / "store").mkdir()
    for name in "ab":
        result = hw1.compare(ran["job"], out=tmp_path / name, store=tmp_path / "store")
        assert result.figures
    (record,) = (tmp_path / "store" / ".drawn").iterdir()
    assert json.loads(record.read_text())["folder"] == str(tmp_path / "a")


def test_a_comparison_with_jobs_that_failed(ran, tmp_path):
    with pytest.warns(UserWarning, match="not all jobs are ok .*no four, please"):
        result = hw1.compare(ran["sweep"], out=tmp_path / "out", figures=False)
    assert result.status == "failed"
    assert len(result.failures) == 1
    with pytest.raises(hw1.UserError, match="no job has a result: nothing to compare"):
        hw1.compare(ran["sweep"].folder / "1")


def test_a_comparison_of_several_experiments(ran, tmp_path):
    hw1.compare(ran["job"], out=tmp_path / "several" / "one", figures=False)
    shutil.copytree(tmp_path / "several" / "one", tmp_path / "several" / "two")
    result = hw1.load(tmp_path / "several")
    assert list(result.parts) == ["one", "two"]
    assert result.comparison["experiment"].tolist() == ["one", "two"]
    assert result.status == "ok"
    assert "two/history" in result.tables
    pd.testing.assert_frame_equal(result.tables["two/history"], result.parts["one"].tables["history"])
    assert result._repr_html_().count("<table") == 2


@pytest.mark.parametrize("first", ["import hw1.compare", "import hw1.api, hw1; hw1.compare"])
def test_the_function_is_there_after_the_module_of_its_name(first):
    code = f"""
{first}
import hw1.compare
from hw1 import compare
assert compare is hw1.compare
try:
    hw1.compare(["nowhere"])
except hw1.UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("nowhere: there is no such folder"), done.stderr


# ---- in a notebook ----


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_how_results_show_themselves(ran):
    page = Page(ran["sweep"]._repr_html_())
    assert "1 of 2 jobs failed." in page.text
    assert "RuntimeError: no four, please" in page.text
    assert re.search(r"\d \[\d\S*, \d\S*\]", page.text)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == len(ran["sweep"].figures) > 0
    assert all(str(picture["src"]).startswith("data:image/svg+xml;base64,") for picture in pictures)
    assert "mean |prediction − target|" in Page(ran["job"]._repr_html_()).text


def test_names_stay_text(sweep_copy):
    edit(sweep_copy / "findings.json", experiment=HOSTILE, findings=[HOSTILE])
    edit(sweep_copy / "1" / "result.json", error=HOSTILE)
    comparison = pd.read_csv(sweep_copy / "comparison.csv").assign(status=HOSTILE)
    comparison.columns = comparison.columns.str.replace("test_loss_", f"{HOSTILE}_")
    comparison.insert(0, HOSTILE, HOSTILE)
    comparison.to_csv(sweep_copy / "comparison.csv", index=False)
    (sweep_copy / "function.svg").rename(sweep_copy / "'onload='alert(1).svg")
    page = Page(hw1.load(sweep_copy)._repr_html_())
    assert page.text.count(HOSTILE) >= 6
    allowed = {"div", "p", "b", "code", "ul", "li", "small", "table", "thead", "tbody", "tr", "th", "td", "img"}
    assert {tag for tag, _ in page.elements} <= allowed
    assert {name for _, attributes in page.elements for name in attributes} <= {"style", "scope", "alt", "src"}


def test_a_figure_too_large_is_named_and_left_out(sweep_copy):
    (sweep_copy / "big.svg").write_bytes(b" " * 3_000_000)
    text = hw1.load(sweep_copy)._repr_html_()
    assert "not shown, for their size: big" in text
    assert len(text) < 1_000_000


class Handle:
    """What IPython gives for a display that can be replaced."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, content: dict[str, str], raw: bool) -> None:
        self.texts.append(content["text/plain"])


@pytest.fixture
def handle(monkeypatch) -> Handle:
    """As in a notebook's kernel; gives what its cell shows, one after another."""
    shown = Handle()

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.update(content, raw)
        return shown

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_a_notebook_shows_how_the_jobs_stand_instead_of_what_is_printed(ran, handle, capsys):
    assert notebook.in_notebook()
    result = hw1.run(SMALL, cwd=ran["job"].folder.parents[2])
    assert handle.texts[-1] == f"1 job in {result.folder}: 1 ok"
    assert capsys.readouterr().out == ""


def test_the_lines_in_a_notebook_follow_the_jobs(sweep_copy, handle):
    live = notebook.Live()
    live.look(None)
    assert handle.texts == []
    edit(sweep_copy / "1" / "result.json", status="running")
    live.look(sweep_copy)
    (sweep_copy / "1" / ".progress.json").write_text('{"done": 0.25, "words": "epoch 1/4"}')
    live.look(sweep_copy)
    live.look(sweep_copy)
    edit(sweep_copy / "1" / "result.json", status="interrupted")
    live.look(sweep_copy)
    head = f"2 jobs in {sweep_copy}: 1 ok"
    assert handle.texts == [
        f"{head}, 1 running\n  model.hidden=4: starting",
        f"{head}, 1 running\n  model.hidden=4: 25%, epoch 1/4",
        f"{head}, 1 interrupted",
    ]


# ---- documentation and types ----


def test_the_examples_in_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"pycon"}
    examples = doctest.DocTestParser().get_doctest("".join(block for _, block in blocks), {}, "python.md", None, 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    result = runner.run(examples, out=said.append)
    assert result.attempted > 10
    assert result.failed == 0, "".join(said)


USER = """
import hw1
result = hw1.run(["steps=1"], cwd=".", quiet=True)
reveal_type(result)
reveal_type(hw1.compare([result, "x"], by=["depth"], baseline={"depth": 1}).tables["history"])
hw1.run(3)
hw1.rum()
"""


def test_type_checkers_see_the_types(wheel_folder, tmp_path):  # noqa: F811
    assert (wheel_folder / "hw1" / "py.typed").exists()
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "user.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=180,
    )  # fmt: skip
    said = [re.sub(r"^user\.py:", "", line) for line in done.stdout.splitlines()]
    assert said[:2] == [
        '4: note: Revealed type is "hw1.loaded.Result"',
        '5: note: Revealed type is "pandas.core.frame.DataFrame"',
    ]
    assert "6: error: " in said[2]
    assert said[3] == '7: error: Module has no attribute "rum"  [attr-defined]'
