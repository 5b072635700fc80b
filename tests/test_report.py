"""`report.html` and `comparison.tex`: what they hold, that they need nothing else, and that names in them stay text."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Outcome, run_program, sweep_folder
from test_cli import wheel_folder  # noqa: F401 (a fixture)
from test_compare import finish, job

from hw1 import compose, findings, latex, outcome, report, sweep
from hw1.experiments import Experiment, Tables
from hw1.experiments.sensitivity import Sensitivity
from hw1.quantities import CAVEATS, QUANTITIES
from hw1.report import chart, graphic
from hw1.results import Job, Sweep

ROOT = Path(__file__).resolve().parent.parent
NAME = "report.html"
HOSTILE = "<img src=x onerror=alert(1)>"
VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """What a page has: its elements with attributes, its scripts, and the text of each table's cells."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], "elements that are not closed"

    def handle_starttag(self, tag, attributes):
        found = {name: value or "" for name, value in attributes}
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + text)
        elif self.open and self.open[-1] != "style":
            self.texts.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def every(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> list[dict]:
        return [json.loads(text) for attributes, text in self.scripts if attributes.get("type")]


def download(page: Page) -> bytes:
    (link,) = [link for link in page.every("a") if "download" in link]
    return base64.b64decode(link["href"].partition(",")[2])


def self_contained(page: Page) -> None:
    """Needs nothing, runs nothing but its own script, and every identifier is there once."""
    (policy,) = [meta["content"] for meta in page.every("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    (script,) = [text for attributes, text in page.scripts if "type" not in attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "xlink:href", "action"):
            address = attributes.get(name, "#")
            assert address.startswith(("#", "data:")), address
            assert not address.startswith("#") or address == "#" or address[1:] in identifiers
        for value in attributes.values():
            for reference in re.findall(r"url\(#([^)]*)\)", value):
                assert reference in identifiers


# ---- what a command leaves ----


def test_a_sweep_gets_a_page_with_all_that_it_says(sensitivity_sweep):
    folder = sweep_folder(sensitivity_sweep)
    assert sensitivity_sweep.out.splitlines()[-1] == f"report: {folder.relative_to(sensitivity_sweep.folder)}/{NAME}"
    page = Page(folder / "report.html")
    self_contained(page)
    assert download(page) == (folder / "comparison.csv").read_bytes()
    assert Sensitivity.question in page.text
    plan = json.loads((folder / "sweep.json").read_bytes())
    assert plan["command"] in page.text
    for sentence in json.loads((folder / "findings.json").read_bytes())["findings"]:
        assert " ".join(sentence.split()) in page.text
    comparison = pd.read_csv(folder / "comparison.csv")
    for name in (column.removesuffix("_mean") for column in comparison if column.endswith("_mean")):
        assert QUANTITIES[name].definition in page.text
        assert QUANTITIES[name].caveat in page.text
    (data,) = page.data
    shown = {metric["name"]: metric for metric in data["metrics"]}["softmax_jacobian"]
    means = [interval[0] for interval in shown["intervals"]]
    assert means == pytest.approx(comparison["softmax_jacobian_mean"].tolist(), rel=1e-5)
    summary = pd.read_csv(folder / "summary.csv")
    assert np.ravel(shown["values"]) == pytest.approx(summary["softmax_jacobian"].tolist(), rel=1e-5)
    for number in range(3):
        record = json.loads((folder / str(number) / "result.json").read_bytes())
        for run in record["runs"].values():
            assert run["key"] in page.text
            assert run["data_sha256"] in page.text
    strips = [svg for svg in page.every("svg") if svg.get("class", "").startswith("strip")]
    assert len(strips) == 2 * len(data["conditions"])  # two metrics beside the answer
    assert len(page.every("svg")) > len(strips)
    assert page.source.count("<h1>") == 1


def test_the_page_of_a_sweep_is_the_same_when_it_is_made_again(sensitivity_sweep, tmp_path):
    folder = shutil.copytree(sweep_folder(sensitivity_sweep), tmp_path / "sweep")
    before = (folder / "report.html").read_bytes()
    done = run_program(tmp_path, [f"resume={folder}", "jobs=1"])
    assert done.code == 0, done.err
    assert (folder / "report.html").read_bytes() == before


def test_a_job_by_itself_gets_a_page_with_its_figure_first(function_job):
    folder = sweep_folder(function_job)
    assert function_job.out.splitlines()[-1].startswith("report: outputs/")
    page = Page(folder / "report.html")
    self_contained(page)
    assert download(page) == (folder / "summary.csv").read_bytes()
    assert "python -m hw1 steps=40 replicas=2 threads=1" in page.text
    assert "Figure 1. Function simulation" in page.text
    assert page.text.index("Figure 1.") < page.text.index("Every quantity")
    assert re.search(r"Test loss [0-9.]+ \[[0-9.]+, [0-9.]+\], n=2\.", page.text)


def test_a_page_that_cannot_be_made_costs_a_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['jinja2'] = None\n")
    words = ["steps=10", "replicas=1", "threads=1", "hydra.run.dir=here"]
    done = run_program(tmp_path, words, env={"PYTHONPATH": str(tmp_path)})
    assert done.code == 0
    assert [line.partition(":")[0] for line in done.err.splitlines()] == ["warning"]
    assert "no report.html" in done.err
    assert done.out.splitlines()[-1] == "results: here"
    assert (tmp_path / "here" / "summary.csv").exists()
    assert not (tmp_path / "here" / "report.html").exists()


def test_an_interrupted_sweep_keeps_no_page_of_an_earlier_end(tmp_path, monkeypatch):
    from rich.console import Console

    monkeypatch.chdir(tmp_path)
    words = ["-m", "seed=0,1", "hydra.sweep.dir=here"]
    planned = sweep.plan(compose.parse(words))
    with sweep.held(planned):
        sweep.write_plan(planned, words)
    (tmp_path / "here" / "report.html").write_text("old")
    assert outcome.report(planned, Console(), briefly=True) == 1
    assert not (tmp_path / "here" / "report.html").exists()


def test_open_shows_the_page_in_the_browser_that_is_set(tmp_path):
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\ncd "$(dirname "$0")"\necho "$1" > part\nmv part opened\n')
    browser.chmod(0o755)
    job(tmp_path / "a")
    job(tmp_path / "b", values=[0.2, 0.3], dropout=0.5)
    words = ["a", "b", "--out", "out", "--no-figures", "--open"]
    done = run_program(tmp_path, words, ("-m", "hw1.compare"), env={"BROWSER": str(browser)})
    assert done.code == 0, done.err
    deadline = time.monotonic() + 60
    while not (tmp_path / "opened").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "opened").read_text().strip() == (tmp_path / "out" / "report.html").as_uri()


def test_without_a_display_open_costs_a_line(tmp_path):
    job(tmp_path / "a")
    job(tmp_path / "b", values=[0.2, 0.3], dropout=0.5)
    words = ["a", "b", "--out", "out", "--no-figures", "--open"]
    nothing = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": ""}
    done = run_program(tmp_path, words, ("-m", "hw1.compare"), env=nothing)
    said = done.err.removeprefix(NO_TABLES)
    assert (done.code, said) == (0, "warning: there is no display to open the report on\n")


@pytest.mark.parametrize("value", ["perhaps", "1"])
def test_open_is_true_or_false(tmp_path, value):
    done = run_program(tmp_path, [f"open={value}"])
    assert (done.code, done.err) == (2, f"error: open={value}: must be true or false\n")


def test_the_wheel_can_make_a_page(wheel_folder, tmp_path):  # noqa: F811
    job(tmp_path / "a")
    job(tmp_path / "b", values=[0.2, 0.3], dropout=0.5)
    words = ["a", "b", "--out", "out", "--no-figures"]
    done = run_program(tmp_path, words, ("-m", "hw1.compare"), env={"PYTHONPATH": str(wheel_folder)})
    assert (done.code, done.err) == (0, NO_TABLES)
    assert Page(tmp_path / "out" / "report.html").text


# ---- comparisons ----


def test_a_comparison_of_two_experiments_is_one_page(sensitivity_sweep, function_job, tmp_path):
    folders = [str(sweep_folder(each)) for each in (sensitivity_sweep, function_job)]
    done = run_program(tmp_path, [*folders, "--out", "out"], ("-m", "hw1.compare"))
    assert done.code == 0, done.err
    assert list(tmp_path.rglob("report.html")) == [tmp_path / "out" / "report.html"]
    page = Page(tmp_path / "out" / "report.html")
    self_contained(page)
    assert "Comparison of 2 experiments: sensitivity, function" in page.text
    assert len(page.data) == 2
    assert {f"{part}f0-figure_1" for part in ("p0", "p1")} <= {each.get("id") for _, each in page.elements}
    command = f"python -m hw1.compare {' '.join(folders)} --out out"
    assert command in page.text


# Jobs of test_compare have a summary alone.
NO_TABLES = "warning: no conclusion could be drawn: KeyError: 'sensitivity'\n"


def compared(tmp_path: Path, *words: str, code: int = 0) -> Page:
    folders = sorted(str(folder.name) for folder in tmp_path.iterdir() if folder.name != "out")
    done = run_program(tmp_path, [*folders, "--out", "out", "--no-figures", *words], ("-m", "hw1.compare"))
    assert done.code == code, done.err
    page = Page(tmp_path / "out" / "report.html")
    self_contained(page)
    return page


def test_differences_from_a_baseline_are_on_the_page(tmp_path):
    for number, (dropout, size) in enumerate([(0, 16), (0.25, 16), (0, 64), (0.25, 64)]):
        values = [0.10 + 0.1 * dropout, 0.12 + 0.11 * dropout, 0.11 + 0.1 * dropout]
        job(tmp_path / str(number), values, {"dropout": dropout, "batch_size": size})
    page = compared(tmp_path, "--baseline", "model.dropout=0", "--metric", "softmax_jacobian")
    assert "Softmax sensitivity against model.dropout=0: higher in 2 of 2 conditions." in page.text
    table = pd.read_csv(tmp_path / "out" / "differences.csv")
    effects = [f"×{effect:.3f}" for effect in table.loc[table["metric"] == "softmax_jacobian", "effect"]]
    assert all(effect in page.text for effect in effects)
    assert page.text.count("higher") >= 3
    assert "As a matrix: softmax sensitivity" in page.text
    assert "What differs between the jobs batch_size 16, 64 model.dropout 0, 0.25" in page.text


def test_jobs_that_failed_or_diverged_are_said(tmp_path):
    job(tmp_path / "good")
    job(tmp_path / "diverged", [math.nan, 0.3, 0.2], {"dropout": 0.5})
    summary = tmp_path / "diverged" / "summary.csv"
    frame = pd.read_csv(summary)
    frame.loc[0, "status"] = "diverged"
    frame.to_csv(summary, index=False)
    failed = job(tmp_path / "failed", typed={"dropout": 0.7})
    finish(failed, "failed", {"model.dropout": "0.7"}, f"ValueError: {HOSTILE}")
    page = compared(tmp_path, code=1)
    assert "1 of 3 jobs did not end well" in page.text
    assert f"failed: ValueError: {HOSTILE}" in page.text
    assert "ok, 1 diverged" in page.text
    assert "1 of 3 replicas diverged at model.dropout 0.5." in page.text
    assert not page.every("img")


def test_hostile_names_stay_text_everywhere(tmp_path):
    for number, store in enumerate([HOSTILE, "</script><script>alert(1)</script>", "{{ 7 * 7 }}", '"><b>', "&lt;"]):
        for dropout in (0, 0.5):
            name = f"{number}{dropout}"
            typed = {"store": f"'{store}'", "dropout": dropout}
            job(tmp_path / name, [0.1 + number, 0.2 + number], typed)
    page = compared(tmp_path, "--by", "store,model.dropout")
    assert not page.every("img")
    assert not page.every("b")
    assert len(page.every("script")) == 2
    for store in (HOSTILE, "</script><script>alert(1)</script>", "{{ 7 * 7 }}", '"><b>', "&lt;"):
        assert page.text.count(store) >= 4
        assert any(store == condition["values"]["store"] for condition in page.data[0]["conditions"])


def test_fifty_jobs_are_less_than_three_megabytes(function_job, tmp_path):
    source = sweep_folder(function_job)
    for number in range(50):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.png", "*.svg", "*.html", "*.log"))
        config = folder / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace("budget: 571", f"budget: {571 + number}"))
    done = run_program(tmp_path, [*map(str, range(50)), "--out", "out"], ("-m", "hw1.compare"))
    assert (done.code, done.err) == (0, "")
    page = tmp_path / "out" / "report.html"
    assert page.stat().st_size < 3_000_000
    found = Page(page)
    self_contained(found)
    assert len(found.data[0]["conditions"]) == 50
    assert [svg for svg in found.every("svg") if "viewbox" in svg]  # a figure is in it, too


# ---- what it says first ----


def made(values: dict[str, list[float]], metric: str = "softmax_jacobian", key: str = "batch_size") -> Sweep:
    """A sweep over `key` with these values of a metric."""
    jobs = [
        Job(number, Path(str(number)), {key: name}, "ok", tables={"summary": pd.DataFrame({metric: found})})
        for number, (name, found) in enumerate(values.items())
    ]
    return Sweep(Path(), "sensitivity", "", (key,), metric, tuple(jobs))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"a": [1.0, 1.1, 1.05], "b": [2.0, 2.1, 2.06]},
         "batch_size a, 1.05 [0.93, 1.18], n=3; told apart from the other."),
        ({"a": [1.0, 1.2, 0.9], "b": [1.1, 1.1, 1.0]}, "not told apart from batch_size b."),
        ({"a": [1.0], "b": [2.0]}, "batch_size a, 1; n=1: no interval, nothing can be concluded."),
        ({name: [1.0, 1.3, number + 0.9] for number, name in enumerate("abcde")},
         "not told apart from any of the 4 others."),
    ],
)  # fmt: skip
def test_the_answer_names_the_best_and_what_is_not_told_apart_from_it(values, words):
    answer = findings.answer(made(values))
    assert answer.startswith("Lowest softmax sensitivity: ")
    assert answer.endswith(words)


@pytest.mark.parametrize(
    "sweep",
    [made({"a": [1.0, 2.0]}), made({"a": [1.0, 2.0], "b": [3.0, 4.0]}, "noise_scale"), made({}),
     made({"0": [1.0, 2.0], "1": [3.0, 4.0]}, key="alpha")],
)  # fmt: skip
def test_no_answer_where_nothing_can_be_best(sweep):
    assert findings.answer(sweep) == ""


def sensitivities(values: dict[int, tuple[float, ...]], accuracies: dict[int, tuple[float, ...]]) -> Tables:
    rows = [
        {"replica": replica, "batch_size": size, "measure": "softmax_jacobian", "sensitivity": value, "steps": 10,
         "validation_accuracy": accuracies[size][replica], "test_accuracy": accuracies[size][replica]}
        for size, found in values.items()
        for replica, value in enumerate(found)
    ]  # fmt: skip
    return {"sensitivity": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("values", "accuracies", "answer"),
    [
        ({16: (1.0, 1.1, 1.02), 64: (2.0, 2.1, 2.02)}, {16: (0.98, 0.97, 0.975), 64: (0.97, 0.96, 0.965)},
         "Batch size 16 comes out best, told apart from every other (picked in 100 % of resamples, n=3)."),
        ({16: (1.0, 1.4, 1.2), 64: (1.3, 1.45, 1.2)}, {16: (0.98, 0.97, 0.975), 64: (0.975, 0.968, 0.977)},
         r"Batch size 16 comes out best, but not surely: not told apart from 64 "
         r"\(picked in \d+ % of resamples, n=3\)\."),
        ({16: (1.0,), 64: (2.0,)}, {16: (0.98,), 64: (0.97,)},
         "Batch size 16 in the one replica, from which nothing can be concluded."),
    ],
)  # fmt: skip
def test_sensitivity_answers_which_batch_size_and_how_surely(values, accuracies, answer):
    found = Sensitivity(None, None).conclude(sensitivities(values, accuracies), ["batch_size"]).answer
    assert found == answer or re.fullmatch(answer, found)


def test_every_experiment_asks_a_question():
    found = Experiment.__subclasses__()
    ours = [each for each in found if each.__module__.startswith("hw1.experiments.")]
    assert ours
    assert all(each.question.endswith("?") for each in ours)


def test_every_quantity_says_what_it_cannot_and_no_caveat_is_of_none():
    assert [name for name, quantity in QUANTITIES.items() if not quantity.caveat] == []
    used = {quantity.caveat for quantity in QUANTITIES.values()}
    assert [text for _, text in CAVEATS if text not in used] == []


# ---- the chart ----


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[0.03, 0.05, 0.031], [1e-9, 3e-9], [5.0, 5.0], [1e-3, 1e3], [98_000, 99_000.0]])
def test_an_axis_holds_all_values_and_has_ticks_that_are_round(values, log):
    array = np.array(values)
    axis = chart.axis(array, np.array([array.min() * 0.9, array.max() * 1.1]), log)
    places = [axis.place(value) for value in values]
    assert all(0 <= place <= 100 for place in places)
    assert [place for _, place in sorted(zip(values, places, strict=True))] == sorted(places)
    assert 2 <= len(axis.ticks) <= 12
    for place, label in axis.ticks:
        assert axis.place(float(label.replace("−", "-"))) == pytest.approx(place, abs=0.01)
        assert len(label) <= 12


def test_a_place_is_linear_or_logarithmic():
    assert chart.Axis(False, 2.0, 4.0).place(2.5) == 25
    assert chart.Axis(True, 1.0, 100.0).place(10) == 50
    assert chart.Axis(True, 1.0, 100.0).place(0) == chart.OUTSIDE[0]
    assert chart.Axis(False, 0.0, 1.0).place(math.inf) == chart.OUTSIDE[1]
    assert chart.Axis(False, 0.0, 1.0).place(math.nan) is None


def test_no_axis_where_there_is_nothing_or_no_logarithm():
    assert chart.axis(np.array([math.nan]), np.array([]), False) is None
    assert chart.axis(np.array([0.0, 1.0]), np.array([]), True) is None
    assert chart.axis(np.array([-1.0, 1.0]), np.array([]), False) is not None


def test_an_interval_without_bounds_does_not_squeeze_the_values():
    axis = chart.axis(np.array([1.0, 2.0]), np.array([-1e6, math.inf]), False)
    assert axis.place(2.0) - axis.place(1.0) > 50


def test_values_of_a_metric_without_any_are_drawn_nowhere():
    found = chart.of_metric("test_loss", np.full((2, 3), math.nan), ["", ""])
    assert found["axes"] == {}
    assert json.loads(json.dumps(found, allow_nan=False))["rows"][0]["mean"] is None


def test_two_keys_make_a_matrix_and_one_makes_none():
    values = [{"a": a, "b": b} for a in "xyz" for b in "12"]
    grid = chart.grid(values, ["a", "b"])
    assert (grid["key"], grid["columns"]) == ("b", ["1", "2"])
    assert grid["rows"] == [(("x",), [0, 1]), (("y",), [2, 3]), (("z",), [4, 5])]
    assert chart.grid(values[:3], ["a", "b"])["rows"] == [(("x",), [0, 1]), (("y",), [2, None])]
    assert chart.grid([{"a": a} for a in "xyz"], ["a"]) is None
    assert chart.grid([{"a": str(n), "b": str(n)} for n in range(5)], ["a", "b"]) is None
    assert chart.families(values, ["a", "b"]) == ("b", ["1", "2"])
    assert chart.families([{"a": "x"}], ["a"]) == ("", [])


# ---- figures ----


def test_of_a_figure_only_what_draws_is_taken_in(tmp_path):
    file = tmp_path / "a.svg"
    file.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 20 10" '
        'width="20pt" onload="alert(1)"><script>alert(1)</script><style>*{color:red}</style>'
        '<defs><path id="m1"/></defs>'
        '<g id="figure_1" clip-path="url(#p1)" style="fill:url(http://example.com/x)"><clipPath id="p1"/>'
        '<use xlink:href="#m1"/><image xlink:href="data:image/png;base64,AA=="/><image href="http://example.com/x.png"/>'
        '<a href="javascript:alert(1)"><text>gone</text></a><foreignObject><img src="x"/></foreignObject>'
        "<text>&lt;b&gt; kept</text></g></svg>"
    )
    found = graphic.inline(file, "q-")
    for gone in ("onload", "script", "<style", "example.com", "javascript", "foreignObject", "gone", "width="):
        assert gone not in found.markup
    for kept in ('id="q-m1"', 'xlink:href="#q-m1"', "url(#q-p1)", "data:image/png;base64,AA==", "&lt;b&gt; kept"):
        assert kept in found.markup
    assert found.ratio == 2


@pytest.mark.parametrize("content", ["", "<svg", "<html/>", "\0"])
def test_what_is_no_svg_is_refused(tmp_path, content):
    file = tmp_path / "a.svg"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"."):
        graphic.inline(file, "q-")


def test_a_figure_that_cannot_be_shown_is_named_on_the_page(tmp_path):
    (tmp_path / "broken.svg").write_text("<svg")
    sweep = made({"a": [1.0, 1.1], "b": [2.0, 2.1]})
    file = report.write(
        tmp_path, [report.Part(tmp_path, sweep, sweep.jobs, [], figures=["broken", "absent"])], "command"
    )
    page = Page(file)
    assert "Figure 1. broken: see broken.svg and .png" in page.text
    assert "Figure 2. absent: see absent.svg and .png" in page.text


# ---- LaTeX ----

BOTH = {"16": [0.10, 0.12, 0.11], "a_b & {c}%": [0.20, 0.23, 0.21], "[3]": [0.11, 0.12, 0.12]}
TABULAR = r"""\begin{tabular}{lrl}
\toprule
model\_x & n & softmax sensitivity \\
\midrule
16 & 3 & \textbf{0.110 [0.087, 0.138]} \\
a\_b \& \{c\}\% & 3 & 0.213 [0.179, 0.254] \\
{}[3] & 3 & 0.117 [0.103, 0.132]~$\sim$ \\
\bottomrule
\end{tabular}
"""


def test_the_latex_table_is_exactly_this():
    text = latex.table(made(BOTH, key="model_x"))
    comments = [line for line in text.splitlines() if line.startswith("%")]
    assert comments[0] == r"% \usepackage{booktabs}"
    assert f"% softmax sensitivity: {QUANTITIES['softmax_jacobian'].definition}" in comments
    assert text.split("\n", len(comments))[-1] == TABULAR


def test_latex_escapes_every_special_character():
    assert latex.escape("\\{}$&#_%~^−") == (r"\textbackslash{}\{\}\$\&\#\_\%\textasciitilde{}\textasciicircum{}$-$")
    assert latex.escape("one\ntwo") == "one two"


def test_the_latex_table_compiles(tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("there is no TeX")
    table = latex.table(made(BOTH, key="model_x"))
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + table + "\\end{document}\n"
    )
    subprocess.run(
        ["pdflatex", "-interaction=batchmode", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True, timeout=120
    )


def test_sweeps_and_comparisons_leave_a_latex_table(sensitivity_sweep: Outcome):
    text = (sweep_folder(sensitivity_sweep) / "comparison.tex").read_text(encoding="utf-8")
    assert [line.split(" &")[0] for line in text.splitlines() if re.match(r"\d", line)] == ["16", "64", "256"]
