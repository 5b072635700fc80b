"""What was measured once: kept by all that decides it, given back to the byte, believed only if whole, never needed."""

import ast
import errno
import json
import logging
import multiprocessing
import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_program, sweep_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from hw1 import measured as measured_module
from hw1 import recipe as recipe_module
from hw1.data import Dataset
from hw1.experiments import Experiment
from hw1.files import write_table
from hw1.measured import MEASURING, Measured, Measurement, Stored
from hw1.store import FILES, SUMS, Damaged, Store

ROOT = Path(__file__).resolve().parent.parent
RUN, OTHER = "0123456789abcdef" * 2, "89ab" + "c" * 28
PIXELS = {split: np.zeros((2, 1), np.uint8) for split in ("train", "validation", "test")}
DATA = Dataset("classification", PIXELS, PIXELS, 2, 0.0, 1.0, "pixel", ("no", "yes"))
ENVIRONMENT = {"threads": 1}


@dataclass
class Counting(Experiment):
    """Gives some tables, and counts how often it was asked."""

    tables: dict = field(default_factory=lambda: {"summary": pd.DataFrame({"replica": [0, 1], "x": [0.1, np.nan]})})
    asked: int = 0

    def measure(self, runs):
        self.asked += 1
        return self.tables

    def draw(self, tables, swept):
        return {}


def known(key=RUN, nonce="n", dataset=DATA):
    return Stored(key, {"key": key, "nonce": nonce}, dataset)


def measurement(experiment=None, node=None, allow=(), **runs):
    return Measurement(node or {"examples": 10}, experiment or Counting(), runs or {"trained": known()}, allow)


@pytest.fixture
def store(tmp_path):
    """A store of tables in a store with the two runs."""
    runs = Store(tmp_path / "runs")
    for key in (RUN, OTHER):

        def write(folder, key=key):
            for name in FILES:
                (folder / name).write_text(json.dumps({"key": key, "nonce": "n"}))

        runs.publish(key, write)
    return Measured(runs.folder)


def job(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def obtain(store, asked, folder, said=None):
    return store.obtain(asked, job(folder), ENVIRONMENT, said.append if said is not None else lambda words: None)


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# ---- given back ----


def test_the_second_job_measures_nothing_and_has_the_same_bytes(store, tmp_path):
    asked, said = measurement(), []
    first, fresh = obtain(store, asked, tmp_path / "1", said)
    second, again = obtain(store, asked, tmp_path / "2", said)
    recalled = store.recall(asked, job(tmp_path / "3"), said.append)
    assert (fresh, again, asked.experiment.asked) == (True, False, 1)
    assert said[:2] == ["measuring", "measured before (run 01234567): nothing measured"]
    assert said[2:] == ["run 01234567 was in the store: nothing trained", said[1]]
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "3")
    for tables in (second, recalled):
        pd.testing.assert_frame_equal(first["summary"], tables["summary"])


CELLS = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(),
    "bool": st.booleans(),
    "text": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5),
    "odd": st.sampled_from(["NA", "nan", "None", "", "=cmd()", "-1", "007", "1e5", "true", "'x", "a,b", '"', " "]),
    "mixed": st.one_of(st.none(), st.integers(), st.floats(), st.booleans(), st.just("007")),
    "none": st.none(),
}


@st.composite
def frames(draw):
    """Tables of any of the above, without rows or columns, too."""
    names = draw(st.lists(st.one_of(CELLS["text"], CELLS["odd"]), max_size=4, unique=True))
    rows = draw(st.integers(0, 4))
    kinds = [draw(st.sampled_from(list(CELLS.values()))) for _ in names]
    columns = [draw(st.lists(kind, min_size=rows, max_size=rows)) for kind in kinds]
    return pd.DataFrame(dict(zip(names, columns, strict=True)), index=draw(st.permutations(range(rows))))


@settings(max_examples=50, deadline=None)
@given(tables=st.dictionaries(st.sampled_from(["summary", "history", "x"]), frames(), min_size=1))
def test_any_tables_come_back_as_they_were_first_read(tmp_path_factory, tables):
    folder = tmp_path_factory.mktemp("any")
    store, asked = Measured(folder / "runs"), measurement(Counting(tables))
    first, _ = obtain(store, asked, folder / "1")
    second, again = obtain(store, asked, folder / "2")
    assert again is False
    assert set(first) == set(second) == set(tables)
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)
        content = (folder / f"{name}.csv").read_bytes()
        assert (folder / "1" / f"{name}.csv").read_bytes() == (folder / "2" / f"{name}.csv").read_bytes() == content
        pd.testing.assert_frame_equal(first[name], second[name], check_exact=True)
        assert len(first[name]) == len(table) or len(table.columns) < 2  # an empty line is no row
    shutil.rmtree(folder)


# ---- what decides ----


class Heir(Counting):
    """An experiment that begins as another."""


def test_what_decides_is_in_the_key(monkeypatch):
    node = {"examples": 10, "endpoints": [{"a": 1, "b": 2}]}
    base = measurement(node=node).key
    assert measurement(node=node).key == base
    others = {
        "value": measurement(node=node | {"examples": 11}),
        "type": measurement(node=node | {"examples": 10.0}),
        "order of keys, which is in a label": measurement(node=node | {"endpoints": [{"b": 2, "a": 1}]}),
        "run": measurement(node=node, trained=known(OTHER)),
        "run trained again": measurement(node=node, trained=known(nonce="m")),
        "name of the run": measurement(node=node, A=known()),
        "unit": measurement(node=node, trained=known(dataset=replace(DATA, unit="inch"))),
        "classes": measurement(node=node, trained=known(dataset=replace(DATA, classes=("nein", "ja")))),
        "more runs": measurement(node=node, trained=known(), B=known(OTHER)),
        "their order": measurement(node=node, B=known(OTHER), trained=known()),
    }
    keys = {name: other.key for name, other in others.items()}
    assert len({base, *keys.values()}) == 1 + len(keys), keys
    version = measured_module.version_of
    for library, same in (("torch", False), ("numpy", False), ("rich", True)):
        with monkeypatch.context() as patch:
            patch.setattr(measured_module, "version_of", lambda name, o=library: "9.9" if name == o else version(name))
            assert (measurement(node=node).key == base) is same, library


def test_the_code_that_measures_is_in_the_key(monkeypatch):
    base, digest = measurement(Heir()).key, recipe_module.source_digest
    package = Path(measured_module.__file__).parent
    ours = [package / name for name in ("laboratory.py", "files.py", "measures/pca.py", "experiments/__init__.py")]
    for file in [*ours, Path(__file__)]:
        with monkeypatch.context() as patch:
            patch.setattr(measured_module, "source_digest", lambda f, file=file: digest(f) + "!" * (f == file))
            assert measurement(Heir()).key != base, file


def test_an_experiment_of_ones_own_counts_by_its_code_and_what_it_inherits(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_parent.py").write_text(
        "from hw1.experiments import Experiment\nclass Parent(Experiment):\n    def draw(self, tables, swept): ...\n"
        "    def measure(self, runs): return {}\n"
    )
    (tmp_path / "own_child.py").write_text("import own_parent\nclass Child(own_parent.Parent): ...\n")
    import own_child

    node, keys = {"_target_": "own_child.Child"}, []
    for name, change in (("parent", ""), ("parent", "\nx = 1"), ("child", "\nx = 1"), ("child", "  # y")):
        with (tmp_path / f"own_{name}.py").open("a") as stream:
            stream.write(change)
        recipe_module.source_digest.cache_clear()
        keys.append(measurement(own_child.Child(), node, ["own_child", "own_parent"]).key)
    assert len({*keys[:3]}) == 3
    assert keys[2] == keys[3]  # a comment
    del sys.modules["own_child"], sys.modules["own_parent"]


def test_no_code_that_measures_is_forgotten():
    """What experiments and measures import of ours is in the key, in that of the runs, or named here with a reason."""
    elsewhere = {
        "hw1.data",  # arrays, unit and classes are in the keys
        "hw1.figures", "hw1.statistics", "hw1.quantities",  # of conclusions and figures, which are made anew
        "hw1.recipe", "hw1.schema", "hw1.parts",  # of the config
        "hw1.shares", "hw1.side_by_side", "hw1.signals", "hw1.store", "hw1.watcher",  # change no number
    }  # fmt: skip
    package = ROOT / "hw1"
    covered = {file for pattern in MEASURING for file in package.glob(pattern)}
    covered |= {ROOT / f"{name.replace('.', '/')}.py" for name in recipe_module.TRAINING_MODULES}
    for file in [*covered, *package.glob("experiments/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hw1":
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    name = name if (ROOT / f"{name.replace('.', '/')}.py").exists() else node.module
                    place = ROOT / name.replace(".", "/")
                    found = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                    assert found in covered or name in {"hw1", *elsewhere}, f"{file} imports {name}"


# ---- damaged, gone, unreadable ----


@pytest.mark.parametrize("name", ["summary.csv", "measured.json", SUMS])
@pytest.mark.parametrize("damage", ["flip", "short", "missing", "extra"])
def test_damaged_tables_are_set_aside_and_measured_again(store, tmp_path, caplog, name, damage):
    asked = measurement()
    obtain(store, asked, tmp_path / "1")
    file = store.path(asked.key) / name
    if damage == "missing":
        file.unlink()
    elif damage == "extra":
        file.with_suffix(".more").touch()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + (b"?" if damage == "flip" else b""))
    with pytest.raises(Damaged):
        store.recall(asked, job(tmp_path / "2"), print)
    assert files_of(tmp_path / "2") == {}
    with caplog.at_level(logging.WARNING):
        _, fresh = obtain(store, asked, tmp_path / "2")
    assert fresh
    assert len(caplog.messages) == 1
    assert "set aside damaged tables, they will be measured again" in caplog.text
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert store.sound(asked.key)
    assert len(list((store.folder / ".quarantine").iterdir())) == 1


def test_tables_of_a_damaged_run_are_not_recalled(store, tmp_path):
    asked = measurement()
    obtain(store, asked, tmp_path / "1")
    (store.folder / RUN / "weights.safetensors").write_bytes(b"flipped")
    with pytest.raises(Damaged, match=r"weights\.safetensors"):
        store.recall(asked, job(tmp_path / "2"), print)
    assert store.recall(measurement(node={"examples": 11}), job(tmp_path / "2"), print) is None
    assert files_of(tmp_path / "2") == {}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["mkdir", "open", "fsync", "rename"])
def test_a_store_that_takes_nothing_costs_no_job(store, tmp_path, monkeypatch, caplog, operation, code):
    asked, original = measurement(), getattr(os, operation)
    job(tmp_path / "1")

    def fail(path, *args, **kwargs):
        if operation != "fsync" and not str(path).startswith(str(store.folder)):
            return original(path, *args, **kwargs)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(os, operation, fail)
        tables, fresh = obtain(store, asked, tmp_path / "1")
    assert fresh
    assert tables["summary"]["replica"].tolist() == [0, 1]
    (line,) = [record for record in caplog.records if record.name == "hw1.measured"]
    assert os.strerror(code) in line.getMessage()
    assert line.levelno == (logging.INFO if code == errno.EROFS else logging.WARNING)
    assert store.list() == []
    assert operation == "open" or not list(store.folder.glob(".tmp/*"))  # nor can a folder be emptied without `open`
    assert obtain(store, asked, tmp_path / "2")[1] is True
    assert obtain(store, asked, tmp_path / "3")[1] is False


def test_tables_that_cannot_be_read_now_are_measured_again_and_left(store, tmp_path, monkeypatch, caplog):
    asked = measurement()
    obtain(store, asked, tmp_path / "1")

    def fail(self, key):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self.path(key)))

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Store, "verify", fail)
        assert obtain(store, asked, tmp_path / "2")[1] is True
    assert len(caplog.messages) == 1
    assert "cannot use what was measured before" in caplog.text
    assert obtain(store, asked, tmp_path / "3")[1] is False


def test_what_fails_while_measuring_leaves_nothing(store, tmp_path, monkeypatch):
    asked = measurement()
    monkeypatch.setattr(asked.experiment, "measure", lambda runs: {"summary": 1 / 0})
    with pytest.raises(ZeroDivisionError):
        obtain(store, asked, tmp_path / "1")
    assert store.list() == []


def _obtain_and_tell(store, folder, start, results):
    start.wait()
    asked = measurement()
    _, fresh = obtain(store, asked, folder)
    results.put((fresh, (folder / "summary.csv").read_bytes()))


def test_four_processes_that_need_the_same_measure_it_once(store, tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=_obtain_and_tell, args=(store, tmp_path / str(number), start, results))
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    start.set()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(fresh for fresh, _ in found) == 1
    assert len({content for _, content in found}) == 1


# ---- with the runs they go ----


def test_clean_takes_what_was_measured_of_runs_that_are_gone_or_trained_again(store, tmp_path):
    stale = measurement(trained=known(nonce="of an older training"))
    whole, both = measurement(), measurement(A=known(), B=known(OTHER))
    for number, each in enumerate((stale, whole, both)):
        obtain(store, each, tmp_path / str(number))
    assert sorted(store.of(RUN)) == sorted([stale.key, whole.key, both.key])
    assert store.of(OTHER) == [both.key]
    assert store.clean() == [f".measured/{stale.key}"]
    Store(store.folder).remove(OTHER)
    assert store.clean() == [f".measured/{both.key}"]
    assert store.clean() == []
    assert store.clean(everything=True) == [f".measured/{whole.key}"]
    assert store.list() == []
    assert Store(store.folder).list() == [RUN]


@pytest.fixture(scope="session")
def twice(once):
    """A small sweep and, what is given, the same command again."""

    def make(folder):
        words = ["steps=20", "depth=1,2", "replicas=2", "threads=1", "jobs=1", "-m"]
        assert "nothing measured" not in run_program(folder, [*words, "hydra.sweep.dir=first"]).out
        return run_program(folder, [*words, "hydra.sweep.dir=second"])

    return once("measured_twice", make)


def test_a_command_again_says_so_and_gives_the_same_bytes(twice):
    folder = twice.folder
    assert (twice.code, twice.err) == (0, "")
    assert "nothing trained: all 2 runs were in the store; nothing measured: so were the tables" in twice.out
    compared = [file for file in sorted((folder / "first").rglob("*.*")) if file.suffix in (".csv", ".svg", ".png")]
    assert {"summary.csv", "prediction.csv", "function.svg"} <= {file.name for file in compared}
    for file in compared:
        assert (folder / "second" / file.relative_to(folder / "first")).read_bytes() == file.read_bytes(), file
    for name, fresh in (("first", True), ("second", False)):
        results = [json.loads((folder / name / number / "result.json").read_text()) for number in "01"]
        assert [result["measured"] for result in results] == [fresh, fresh]
        log = (folder / name / "0" / "hw1.log").read_text(encoding="utf-8")
        assert ("measured before (run " in log) is not fresh


def test_the_stores_commands_know_what_was_measured(twice, tmp_path):
    shutil.copytree(twice.folder / "runs", tmp_path / "runs")

    def runs(*words):
        return run_program(tmp_path, words, command=("-m", "hw1.runs"))

    key, other = Store(tmp_path / "runs").list()
    store = Measured(tmp_path / "runs")
    (of_other,) = store.of(other)
    assert "tables measured of them: 2" in runs("list").out
    assert "2 of 2 measurements are whole" in runs("verify").out
    removed = runs("rm", key)
    assert removed.out == f"removed {key} and what was measured of it\n"
    assert store.list() == [of_other]
    (store.path(of_other) / "summary.csv").write_bytes(b"flipped")
    verified = runs("verify")
    assert verified.code == 1
    assert "summary.csv" in verified.out
    assert "0 of 1 measurements are whole" in verified.out
    assert f"removed .measured/{of_other}" in runs("clean").out
    assert store.list() == []


def test_a_damaged_run_is_trained_and_measured_again(twice, tmp_path):
    shutil.copytree(twice.folder / "runs", tmp_path / "runs")
    key = Store(tmp_path / "runs").list()[0]
    depth = 1 + next(
        number
        for number in (0, 1)
        if key in (twice.folder / "first" / str(number) / "result.json").read_text(encoding="utf-8")
    )
    (tmp_path / "runs" / key / "weights.safetensors").write_bytes(b"flipped")
    done = run_program(tmp_path, ["steps=20", f"depth={depth}", "replicas=2", "threads=1"])
    assert done.code == 0, done.err
    assert done.err.count("\n") == 1
    assert "set aside a damaged run" in done.err
    result = json.loads((sweep_folder(done) / "result.json").read_text(encoding="utf-8"))
    assert result["measured"] is True
    assert [run["trained"] for run in result["runs"].values()] == [True]
