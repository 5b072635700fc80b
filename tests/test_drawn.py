"""What was drawn once: copied by all that decides it, from where it is, and only if it is as it was drawn."""

import errno
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_program
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hw1 import drawn, figures
from hw1.drawn import PLACE, Drawing, draw
from hw1.experiments import Experiment

TABLE = pd.DataFrame({"x": [0, 1, 2], "y": [0.5, np.nan, 2.0], "who": ["a", "b", "1"]})


@dataclass
class Plotting(Experiment):
    """Draws a table, and counts how often it was asked."""

    asked: int = 0
    names: tuple = ("line", "line.log")

    def measure(self, runs):
        raise NotImplementedError

    def draw(self, tables, swept):
        self.asked += 1
        found = {}
        for name in self.names:
            found[name] = figure = Figure(figsize=(2, 2))
            figure.subplots().plot(tables["summary"]["x"], tables["summary"]["y"])
        return found


@pytest.fixture
def drawing():
    return Drawing({"examples": 10}, Plotting(), {"summary": TABLE}, ["x"])


@pytest.fixture
def store(tmp_path):
    return tmp_path / "runs"


def into(folder: Path) -> Path:
    folder.mkdir()
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# ---- copied ----


def test_the_second_time_nothing_is_drawn_and_the_bytes_are_the_same(drawing, store, tmp_path):
    for name in "ab":
        assert draw(drawing, into(tmp_path / name), store) == (["line", "line.log"], "")
    assert drawing.experiment.asked == 1
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert sorted(files_of(tmp_path / "a")) == ["line.log.png", "line.log.svg", "line.png", "line.svg"]
    assert sorted(file.name for file in (store / PLACE).iterdir()) == [f"{drawing.key}.json"]


def test_the_store_holds_no_figure(drawing, store, tmp_path):
    draw(drawing, into(tmp_path / "a"), store)
    (record,) = (file for file in store.rglob("*") if file.is_file())
    assert record.stat().st_size < 1000


def test_without_a_store_it_draws_each_time(drawing, tmp_path):
    for name in "ab":
        draw(drawing, into(tmp_path / name), None)
    assert drawing.experiment.asked == 2


def test_an_experiment_without_figures_is_not_asked_again(drawing, store, tmp_path):
    drawing.experiment.names = ()
    for name in "ab":
        assert draw(drawing, into(tmp_path / name), store) == ([], "")
    assert drawing.experiment.asked == 1


def test_a_figure_that_failed_is_tried_again(drawing, store, tmp_path):
    failing = replace(drawing, tables={})
    for name in "ab":
        assert draw(failing, into(tmp_path / name), store) == ([], "KeyError: 'summary'")
    assert drawing.experiment.asked == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder, record: (folder / "line.svg").write_bytes(b"edited by hand"),
        lambda folder, record: (folder / "line.log.png").unlink(),
        lambda folder, record: record.write_bytes(record.read_bytes()[:-20]),
        lambda folder, record: record.write_text("[]"),
        lambda folder, record: record.write_text("{}"),
        lambda folder, record: record.write_text('{"folder": 1, "figures": {"line": {}}}'),
        lambda folder, record: record.write_text('{"folder": "/", "figures": {"line": "no"}}'),
        lambda folder, record: record.write_bytes(b"\xff"),
        lambda folder, record: (record.unlink(), record.mkdir()),
    ],
)
def test_what_is_not_as_it_was_is_drawn_anew(drawing, store, tmp_path, damage):
    draw(drawing, into(tmp_path / "a"), store)
    wanted = files_of(tmp_path / "a")
    damage(tmp_path / "a", store / PLACE / f"{drawing.key}.json")
    assert draw(drawing, into(tmp_path / "b"), store) == (["line", "line.log"], "")
    assert drawing.experiment.asked == 2
    assert files_of(tmp_path / "b") == wanted


@pytest.mark.parametrize("name", ["../a/line", "/etc/line", "..", ""])
def test_a_record_leads_to_no_other_folder(drawing, store, tmp_path, name):
    """One that somebody else wrote, in a store that is shared."""
    draw(drawing, into(tmp_path / "a"), store)
    record = store / PLACE / f"{drawing.key}.json"
    known = json.loads(record.read_text())
    known["figures"] = {name: known["figures"]["line"]}
    record.write_text(json.dumps(known))
    assert draw(drawing, into(tmp_path / "b"), store)[0] == ["line", "line.log"]
    assert drawing.experiment.asked == 2


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_store_that_takes_nothing_costs_no_figure(drawing, store, tmp_path, monkeypatch, code):
    def refuse(*arguments):
        raise OSError(code, "no")

    monkeypatch.setattr(drawn, "write_json", refuse)
    assert draw(drawing, into(tmp_path / "a"), store) == (["line", "line.log"], "")
    assert len(files_of(tmp_path / "a")) == 4


def test_a_disk_that_takes_no_copy_is_said_by_who_draws(drawing, store, tmp_path, monkeypatch):
    def refuse(file, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    draw(drawing, into(tmp_path / "a"), store)
    for module in (drawn, figures):
        monkeypatch.setattr(module, "write_atomically", refuse)
    names, problem = draw(drawing, into(tmp_path / "b"), store)
    assert names == []
    assert problem.startswith("OSError: [Errno 28] No space left on device")


class Odd:
    """A cell that cannot be written down."""

    def __repr__(self):
        raise RuntimeError("no words")


def test_tables_without_a_key_are_drawn(drawing, store, tmp_path):
    odd = replace(drawing, tables={"summary": TABLE.assign(odd=[Odd(), Odd(), Odd()])})
    for name in "ab":
        assert draw(odd, into(tmp_path / name), store) == (["line", "line.log"], "")
    assert drawing.experiment.asked == 2
    assert not (store / PLACE).exists()


def test_a_persons_own_settings_change_no_byte(drawing, tmp_path, monkeypatch):
    draw(drawing, into(tmp_path / "a"), None)
    monkeypatch.setitem(figures.mpl.rcParams, "lines.linewidth", 9)
    monkeypatch.setitem(figures.mpl.rcParams, "font.family", ["monospace"])
    draw(drawing, into(tmp_path / "b"), None)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert figures.mpl.rcParams["lines.linewidth"] == 9


# ---- all that decides ----


def changed(**columns) -> dict[str, pd.DataFrame]:
    return {"summary": TABLE.assign(**columns)}


OTHERS = {
    "a cell": {"tables": changed(x=[0, 1, 3])},
    "the last bit of a cell": {"tables": changed(y=[0.5, np.nan, np.nextafter(2.0, 3.0)])},
    "a sign that is not seen": {"tables": changed(y=[0.5, np.nan, -2.0])},
    "a text": {"tables": changed(who=["a", "b", "2"])},
    "a number for a text": {"tables": changed(who=["a", "b", 1])},
    "a type": {"tables": changed(x=[0.0, 1.0, 2.0])},
    "a name": {"tables": {"summary": TABLE.rename(columns={"x": "X"})}},
    "the columns' order": {"tables": {"summary": TABLE[["y", "x", "who"]]}},
    "the rows' order": {"tables": {"summary": TABLE.iloc[::-1]}},
    "the rows' numbers": {"tables": {"summary": TABLE.set_axis([0, 1, 7])}},
    "a row less": {"tables": {"summary": TABLE[:2]}},
    "no row": {"tables": {"summary": TABLE[:0]}},
    "a table's name": {"tables": {"history": TABLE}},
    "a further table": {"tables": {"summary": TABLE, "history": TABLE}},
    "what was swept": {"swept": ["who"]},
    "nothing swept": {"swept": []},
    "the experiment's settings": {"node": {"examples": 11}},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_what_decides_is_in_the_key(drawing, change):
    assert replace(drawing).key == drawing.key
    assert replace(drawing, **change).key != drawing.key


CELLS = st.one_of(st.integers(-9, 9), st.floats(), st.booleans(), st.text(max_size=2), st.none())


@given(st.lists(CELLS, max_size=3), st.lists(CELLS, max_size=3))
def test_other_cells_give_another_key(a, b):
    frames = [pd.DataFrame({"x": pd.Series(cells, dtype=object)}) for cells in (a, b)]
    keys = [Drawing({}, Plotting(), {"summary": frame}, []).key for frame in frames]
    assert (keys[0] == keys[1]) == (list(map(_seen, a)) == list(map(_seen, b)))


def _seen(cell):
    """What a figure could tell apart; of what there is not, nothing."""
    if cell is None or cell != cell:
        return type(cell), "nothing"
    return type(cell), repr(cell)


def test_code_and_libraries_are_in_the_key(drawing, monkeypatch):
    keys = {drawing.key}
    for library in drawn.LIBRARIES:
        with monkeypatch.context() as patch:
            real = drawn.version_of
            patch.setattr(drawn, "version_of", lambda name, of=library, real=real: real(name) + "x" * (name == of))
            keys.add(replace(drawing).key)
    with monkeypatch.context() as patch:
        patch.setattr(drawn, "_code", lambda: "other")
        keys.add(replace(drawing).key)
    assert len(keys) == 2 + len(drawn.LIBRARIES)


def test_an_experiment_of_ones_own_counts_by_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file, keys = tmp_path / "own_drawing.py", set()
    for word in ("one", "two"):
        file.write_text(
            "from hw1.experiments import Experiment\nclass Own(Experiment):\n"
            f"    measure = None\n    def draw(self, tables, swept): return {{}}  # {word}\n"
        )
        sys.modules.pop("own_drawing", None)
        keys.add(Drawing({}, __import__("own_drawing").Own(), {"summary": TABLE}, []).key)
    assert len(keys) == 2


# ---- the store's commands ----


def test_clean_forgets_what_is_not_there_any_more(drawing, store, tmp_path):
    other = replace(drawing, swept=[])
    draw(drawing, into(tmp_path / "a"), store)
    draw(other, into(tmp_path / "b"), store)
    assert drawn.clean(store) == []
    (tmp_path / "a" / "line.png").unlink()
    (store / PLACE / ".half.json.1.2.tmp").write_text("of a process that was killed")
    assert drawn.clean(store) == [f"{PLACE}/{drawing.key}.json"]
    assert drawn.clean(store, everything=True) == [f"{PLACE}/{other.key}.json"]
    assert list((store / PLACE).iterdir()) == []


PROGRAM = """
import sys
from {module} import main
code = main({words!r})
print(code, "matplotlib" in sys.modules)
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with a small sweep."""
    folder = tmp_path_factory.mktemp("drawn")
    words = ["steps=20", "depth=1,2", "replicas=2", "threads=1", "jobs=1", "-m", "hydra.sweep.dir=first"]
    assert run_program(folder, words).code == 0
    return folder


def test_a_comparison_of_one_sweep_has_the_sweeps_figures_without_matplotlib(swept):
    code = PROGRAM.format(module="hw1.comparing", words=["first", "--out", "compared"])
    done = run_program(swept, [code], command=["-c"])
    assert done.out.splitlines()[-1] == "0 False"
    assert (swept / "compared" / "function.png").read_bytes() == (swept / "first" / "function.png").read_bytes()
    assert 'role="img"' in (swept / "compared" / "report.html").read_text(encoding="utf-8")
    elsewhere = PROGRAM.format(module="hw1.comparing", words=["first", "--out", "anew", "--store", "nowhere"])
    assert run_program(swept, [elsewhere], command=["-c"]).out.splitlines()[-1] == "0 True"
    assert (swept / "anew" / "function.png").read_bytes() == (swept / "first" / "function.png").read_bytes()
    assert not (swept / "nowhere").exists()


def test_a_job_again_has_its_figures_without_matplotlib(swept):
    words = ["steps=20", "depth=1", "replicas=2", "threads=1", "hydra.run.dir=again"]
    done = run_program(swept, [PROGRAM.format(module="hw1.cli", words=words)], command=["-c"])
    assert done.out.splitlines()[-1] == "0 False"
    assert (swept / "again" / "function.svg").read_bytes() == (swept / "first" / "0" / "function.svg").read_bytes()
    assert json.loads((swept / "again" / "result.json").read_text())["figures"] == ["function"]


def test_the_stores_commands_know_what_was_drawn(swept):
    listed = run_program(swept, ["list"], command=("-m", "hw1.runs"))
    assert "jobs, sweeps and comparisons whose figures are known: 3, in" in listed.out
