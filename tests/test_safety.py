"""Names stay names: no value of a config becomes a path, a formula, markup or a call, and nothing is ever unpickled."""

import ast
import csv
import io
import json
import pickle
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Outcome, run_program

from hw1 import cli, compose

HW1 = Path(cli.__file__).parent
TINY = ["steps=2", "replicas=2", "threads=1", "dataset.points=40", "dataset.validation=10", "batch_size=8"]
CANARY = "canary"


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys, data_dir):
    """The one line that a command line gets; nothing is started then, and nothing made, here or anywhere near."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(compose, "launch", lambda *_, **__: pytest.fail("a job was started"))

    def get(*words: str) -> str:
        here = tmp_path / "around" / "here"
        here.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(here)
        before = everything(tmp_path)
        code = cli.main([*words, f"data_dir={data_dir}"])
        captured = capsys.readouterr()
        assert code == 2, captured
        assert everything(tmp_path) == before
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        assert line.isprintable()
        assert len(line) < 600
        return line

    return get


def everything(folder: Path) -> set[str]:
    """Every path below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ---- a sweep over a free text ----

NETS = """
from hw1.models import mlp


def net(input_shape, outputs, label):
    return mlp(input_shape=input_shape, outputs=outputs, depth=1, width=4, widths=None, budget=None, activation="tanh",
               dropout=0.0, batch_norm=False)
"""
LABELS = [
    "=cmd()", "+1+1", "-@x", "@SUM", 'say "x", y', "<script>alert(1)</script>", "$x^2$", "$\\frac", "%s", "{}",
    "n" * 300, "\u202egnp.exe", "日本語", "../../x", "/abs/x", "&amp;", "]]>", "a b", "[red]x[/red]", "it's", "\\'",
]  # fmt: skip


@pytest.fixture(scope="module")
def labels_sweep(once, common) -> Outcome:
    """A sweep over the key `label` of a user's own network, in a folder with nothing around it."""
    own = common / "labels_net"
    own.mkdir(exist_ok=True)
    (own / "labelled.py").write_text(NETS, encoding="utf-8")
    swept = "+model.label=" + ",".join(map(compose.quoted, LABELS))
    words = ["model=custom", "model._target_=labelled.net", "allow_targets=[labelled]", swept, "-m", "jobs=1", *TINY]
    done = once("labels_sweep", lambda folder: run_program(folder / "here", words, env={"PYTHONPATH": str(own)}))
    return Outcome(done.code, done.out, done.err, done.folder / "here")


def results(outcome: Outcome) -> Path:
    """The sweep's folder."""
    (folder,) = outcome.folder.glob("multirun/*/*")
    return folder


def test_any_text_goes_through_a_sweep_in_silence(labels_sweep):
    assert (labels_sweep.code, labels_sweep.err) == (0, "")
    assert all(line.isprintable() for line in labels_sweep.out.splitlines())
    for label in ("=cmd()", "<script>alert(1)</script>", "$x^2$", "%s", "{}", "日本語", "[red]x[/red]"):
        assert label in labels_sweep.out


def test_no_text_becomes_a_path(labels_sweep):
    assert [path.name for path in labels_sweep.folder.parent.iterdir()] == ["here"]
    assert {path.name for path in labels_sweep.folder.iterdir()} == {"multirun", "runs"}
    folder = results(labels_sweep)
    jobs = [path for path in folder.iterdir() if path.is_dir()]
    assert {path.name for path in jobs} == set(map(str, range(len(LABELS))))
    assert all(re.fullmatch(r"[\w.-]+", Path(name).name) for name in everything(labels_sweep.folder))


def test_no_text_becomes_a_formula(labels_sweep):
    tables = sorted(results(labels_sweep).glob("**/*.csv"))
    assert len(tables) > 4 * len(LABELS)
    for file in tables:
        rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
        assert len({len(row) for row in rows}) == 1, file
        for cell in {cell for row in rows for cell in row if cell[:1] in "=+-@" and cell}:
            float(cell)  # raises for a formula
    comparison = results(labels_sweep) / "comparison.csv"
    with comparison.open(encoding="utf-8", newline="") as stream:
        found = [row["model.label"] for row in csv.DictReader(stream)]
    assert found == [f"'{label}" if label[0] in "=+-@" else label for label in LABELS]


def test_no_text_becomes_markup(labels_sweep):
    figures = sorted(results(labels_sweep).glob("*.svg"))
    assert len(figures) == 2
    texts = ""
    for file in figures:
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        assert not [element for element in root.iter() if re.search("(?i)script|foreign", element.tag)]
        texts += "\n".join("".join(element.itertext()) for element in root.iter())
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    for label in ("<script>alert(1)", "$x^2$", "$\\frac", "%s", "{}", "&amp;", "]]>", "日本語", "../../x"):
        assert label in texts, label


@pytest.mark.parametrize("text", [*LABELS, "\\", "a\\", "\\\\'", "'", "a\\b'c", "''", "${seed}", "\\${seed}", "$"])
def test_a_quoted_text_is_that_text(text):
    with compose.open_composer(None) as composer:
        (override,) = composer.parse([f"store={compose.quoted(text)}"])
        assert composer.compose([override.input_line]).store == text


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\u2028"])
def test_control_characters_are_refused(refusal, character):
    line = refusal("model=custom", "model._target_=torch.nn.Flatten", f"+model.a='x{character}y'")
    assert "control characters" in line or "must stand in quotes" in line
    assert "control characters" in refusal(f"store='x{character}y'")
    assert "control characters" in refusal(f"hydra.run.dir='x{character}y'")
    assert "control characters" in refusal("-m", "seed=0,1", f"hydra.sweep.dir='x{character}y'")


def test_bytes_that_are_no_text_are_refused(refusal):
    for word in ("store='\udcff'", "model.activation=\udcff", "\udcff=1", "hydra.launcher.batch_size='\udcff'"):
        assert "UTF-8" in refusal(word, "-m", "seed=0,1")


# ---- names of folders ----


@pytest.mark.parametrize(
    "word",
    [
        "hydra.output_subdir=../../x", "hydra.output_subdir=null", "hydra.sweep.subdir=../x", "hydra.job.name=../../x",
        "hydra.runtime.output_dir=../x", "hydra.job_logging.handlers.file.filename=../x", "hydra.job.chdir=true",
        "hydra.job_logging.handlers.file.class=os.mkdir", "hydra.launcher.submitit_folder=../x", "hydra.job.id=../x",
        "hydra.launcher.temp_folder=../x", "hydra/job_logging=default", "hydra/hydra_logging=none", "hydra={}",
        "hydra.launcher._target_=os.mkdir", "+hydra.callbacks.x={_target_:os.mkdir,path:canary}", "hydra.sweeper=3",
        "++hydra.launcher.x={_target_:os.mkdir,path:canary}", "hydra/launcher@hydra.job_logging=joblib", "~hydra",
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["one job", "sweep"])
def test_no_setting_of_hydra_leads_elsewhere_or_calls(refusal, word, mode):
    words = [word, *(["seed=0,1", "-m"] if mode == "sweep" else [])]
    assert re.split(r"[=@]", word.lstrip("+~"))[0].removesuffix(".x") in refusal(*words)


@pytest.mark.parametrize(
    "text",
    [
        "output_subdir: ../../x", "job: {name: ../../x}", "sweep: {subdir: ../x}",
        "callbacks: {x: {_target_: os.mkdir}}", "job_logging: {handlers: {file: {filename: ../x}}}",
        "job_logging: {formatters: {x: {(): os.mkdir}}}",
        "launcher: {_target_: os.mkdir}", "hydra_logging: {version: 3}", "runtime: {output_dir: ../x}",
    ],
)  # fmt: skip
def test_nor_does_one_in_a_file(refusal, tmp_path, text):
    file = tmp_path / "own" / "experiment" / "own.yaml"
    file.parent.mkdir(parents=True)
    head = "# @package _global_\ndefaults: [function]\nhydra:\n  "
    file.write_text(f"{head}{text}\n", encoding="utf-8")
    assert f"hydra.{text.partition(':')[0]}" in refusal("--config-dir", str(tmp_path / "own"), "experiment=own")
    file.write_text(f"{head}run: {{dir: elsewhere}}\n  sweeper: {{params: {{seed: '0,1'}}}}\n", encoding="utf-8")
    assert "add -m" in refusal("--config-dir", str(tmp_path / "own"), "experiment=own")  # these are for everybody


@pytest.mark.parametrize("group", ["experiment", "model", "dataset", "loss", "hydra/launcher"])
@pytest.mark.parametrize("name", ["../x", "../../conf/model/mlp", "/etc/passwd", "a\0b", "x" * 300, "é/ü"])
def test_no_option_is_a_path(refusal, group, name):
    refusal(f"{group}={compose.quoted(name)}")


def test_anchors_that_stand_for_too_much(refusal, tmp_path):
    file = tmp_path / "own" / "experiment" / "own.yaml"
    file.parent.mkdir(parents=True)
    levels = ["a0: &a0 [x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{f'*a{n - 1}, ' * 7}]" for n in range(1, 6)]
    for text in ("\n".join(levels), "alpha: &a [*a]", "experiment: &a {x: *a}"):
        file.write_text(f"# @package _global_\ndefaults: [function]\n{text}\n", encoding="utf-8")
        line = refusal("--config-dir", str(tmp_path / "own"), "experiment=own")
        assert str(file) in line
        assert "anchors" in line


# ---- what is called ----


def test_a_stored_recipe_that_was_edited_is_never_built(tmp_path):
    first = run_program(tmp_path, TINY)
    assert first.code == 0
    (recipe,) = tmp_path.glob("runs/*/recipe.yaml")
    text = recipe.read_text(encoding="utf-8")
    edited = text.replace("_target_: hw1.models.mlp", f"_target_: builtins.open\n  file: {CANARY}\n  mode: w")
    assert edited != text
    recipe.write_text(edited, encoding="utf-8")
    again = run_program(tmp_path, TINY)
    assert again.code == 0
    assert "set aside a damaged run" in again.err
    assert str(recipe) in again.err
    assert recipe.read_text(encoding="utf-8") == text  # trained again
    recipe.write_text(edited, encoding="utf-8")
    shown = run_program(tmp_path, ["show", recipe.parent.name[:8]], command=("-m", "hw1.runs"))
    verified = run_program(tmp_path, ["verify"], command=("-m", "hw1.runs"))
    assert verified.code == 1
    assert "Traceback" not in shown.out + shown.err + verified.out + verified.err
    assert not list(tmp_path.rglob(CANARY))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([f"model={{_target_:builtins.open,file:{CANARY},mode:w}}"], "builtins.open"),
        ([f"loss={{_target_:os.system,command:'touch {CANARY}'}}"], "os.system"),
        (["hydra.sweep.subdir=../../x"], "hydra.sweep.subdir"),
        (["hydra.output_subdir=../x"], "hydra.output_subdir"),
        (["seed=5,6"], "its jobs are not those"),
        (["--foo"], "--foo"),
    ],
)
def test_a_plan_that_was_edited_meets_the_same_checks(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.setattr(compose, "launch", lambda *_, **__: pytest.fail("a job was started"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sweep"
    folder.mkdir()
    jobs = [{"job": number, "overrides": {"seed": number}} for number in (0, 1)]
    plan = {"words": ["-m", "seed=0,1", *TINY, *words], "directory": str(tmp_path), "keys": ["seed"], "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    assert cli.main(["resume=sweep"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert everything(tmp_path) <= {"sweep", "sweep/sweep.json", "sweep/.lock"}


@pytest.mark.parametrize("key", ["words", "directory", "keys", "jobs"])
@pytest.mark.parametrize("value", [None, 3, "\0", [3], {"a": 1}, [[]], [{"overrides": 3}]])
def test_a_plan_of_another_form_is_none(tmp_path, monkeypatch, capsys, key, value):
    monkeypatch.chdir(tmp_path)
    plan = {"words": ["-m", "seed=0,1"], "directory": str(tmp_path), "keys": ["seed"], "jobs": []} | {key: value}
    (tmp_path / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    assert cli.main(["resume=."]) == 2
    assert "resume=.: there is no sweep.json of a sweep" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text("[" * 100_000, encoding="utf-8")
    assert cli.main(["resume=."]) == 2


# ---- nothing is unpickled ----

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
         "yaml.full_load", "pd.read_pickle", "torch.hub.load", "torch.jit.load"}  # fmt: skip
WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def unsafe(source: str) -> list[str]:
    """What in a module's source could run what is in a file or a text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keys = {key.arg: key.value.value for key in node.keywords if isinstance(key.value, ast.Constant)}
            unlike = name in WITH and keys.get(WITH[name][0]) is not WITH[name][1]
            found += [name] if name in CALLS or unlike or keys.get("shell") else []
    return found


@pytest.mark.parametrize("file", sorted(HW1.rglob("*.py")), ids=lambda file: str(file.relative_to(HW1)))
def test_no_module_unpickles_or_evaluates(file):
    assert unsafe(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import torch\ntorch.load('x')", "np.load(file)", "yaml.load(text)",
        "np.load(file, allow_pickle=True)", "torch.load(x, weights_only=False)", "subprocess.run('x', shell=True)",
        "os.system('x')", "eval('1')",
    ],
)  # fmt: skip
def test_the_test_above_would_see_it(source):
    assert unsafe(source)
    assert not unsafe("np.load(x, allow_pickle=False)\ntorch.load(x, weights_only=True)\nre.compile(x)")


def test_a_data_file_with_objects_is_refused(refusal, tmp_path):
    arrays = {"y_train": np.arange(60) % 3, "x_test": np.ones((9, 2)), "y_test": np.arange(9) % 3}
    objects = np.array([Evil(tmp_path / CANARY)] * 60, dtype=object)
    np.savez(tmp_path / "evil.npz", x_train=objects, **arrays, allow_pickle=True)
    line = refusal("experiment=sensitivity", "model=linear", "dataset=npz", f"dataset.path={tmp_path}/evil.npz")
    assert "evil.npz" in line
    assert "no objects" in line
    assert not (tmp_path / CANARY).exists()
    with np.load(tmp_path / "evil.npz", allow_pickle=True) as file:
        file["x_train"]  # so the trap works
    assert (tmp_path / CANARY).exists()


def test_pickles_in_place_of_weights_and_of_a_training_to_go_on_with(tmp_path):
    canary = tmp_path / CANARY
    trap = pickle.dumps(Evil(canary))
    assert run_program(tmp_path, TINY).code == 0
    (weights,) = tmp_path.glob("runs/*/weights.safetensors")
    content = weights.read_bytes()
    for place in (weights, tmp_path / "runs" / ".partial" / weights.parent.name):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(trap)
    again = run_program(tmp_path, TINY)
    assert again.code == 0
    assert "set aside a damaged run" in again.err
    assert "Traceback" not in again.err
    assert not canary.exists()
    assert weights.read_bytes() == content
    pickle.loads(trap).close()  # so the trap works
    assert canary.exists()
