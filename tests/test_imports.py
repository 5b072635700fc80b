"""Who may import whom: no cycles, one direction, single owners of the heavy parts, and no torch before it is needed."""

import ast
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from conftest import environment

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "hw1").rglob("*.py"))
TORCHLESS = (
    "hw1", "hw1.aligned", "hw1.api", "hw1.loaded", "hw1.notebook", "hw1.differences", "hw1.findings",
    "hw1.checks", "hw1.cli", "hw1.compare", "hw1.comparing", "hw1.compose", "hw1.console", "hw1.design", "hw1.errors",
    "hw1.experiments", "hw1.experiments.classification", "hw1.experiments.function", "hw1.experiments.interpolation",
    "hw1.experiments.sensitivity", "hw1.experiments.weight_pca",
    "hw1.drawn", "hw1.figures", "hw1.files", "hw1.job", "hw1.measures.trade_off", "hw1.outcome", "hw1.parts",
    "hw1.paths",
    "hw1.latex", "hw1.report", "hw1.report.chart", "hw1.report.graphic",
    "hw1.launchers", "hw1.progress", "hw1.quantities", "hw1.recipe", "hw1.results", "hw1.schema", "hw1.signals",
    "hw1.statistics", "hw1.store", "hw1.supervise", "hw1.sweep", "hw1.terminal",
    "hw1.trackers", "hw1.trackers.record", "hw1.trackers.senders",
)  # fmt: skip
# The direction: a module imports from its own layer or a lower one. What is in none of these lies at the bottom. A
# package alone stands for what its __init__ says; with .* for the modules in it.
LAYERS = (
    {"hw1.__main__", "hw1.api", "hw1.compare", "hw1.runs"},
    {"hw1.comparing", "hw1.loaded"},
    {"hw1.cli"},
    {"hw1.outcome", "hw1.supervise", "hw1.sweep"},
    {"hw1.checks", "hw1.compose"},
    {"hw1.job"},
    {"hw1.report"},
    {"hw1.latex", "hw1.report.*"},
    {"hw1.differences", "hw1.findings", "hw1.trackers", "hw1.trackers.*"},
    {"hw1.aligned"},
    {"hw1.drawn", "hw1.experiments.*"},
    {
        "hw1.experiments",
        "hw1.figures",
        "hw1.laboratory",
        "hw1.machine",
        "hw1.measured",
        "hw1.results",
        "hw1.side_by_side",
    },
    {"hw1.store", "hw1.training"},
    {"hw1.crew"},
    {"hw1.session"},
    {"hw1.captured", "hw1.fused", "hw1.learner"},
    {"hw1.measures.*", "hw1.stacked"},
    {"hw1.chain"},
    {"hw1.models", "hw1.recipe", "hw1.resident"},
    {"hw1.data", "hw1.packed_mnist", "hw1.sources"},
)


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(file): file for file in FILES}


def imports(file: Path, everywhere: bool = True) -> set[str]:
    """Modules that a file imports, without those for type checkers alone; `everywhere`: inside functions, too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    nodes = ast.walk(tree) if everywhere else iter(_outside_functions(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in NAMES else str(node.module) for name in names)
    return found


def _outside_functions(tree: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [node, *_outside_functions(node)]
    return found


def ours(file: Path, everywhere: bool = True) -> set[str]:
    return {name for name in imports(file, everywhere) if name in NAMES}


def layer(name: str) -> int:
    """0 is the top."""
    for number, members in enumerate(LAYERS):
        if any(fnmatchcase(name, member) for member in members):
            return number
    return len(LAYERS)


def test_no_cycles():
    graph = {name: ours(file) - {"hw1"} for name, file in NAMES.items()}
    while graph:
        free = [name for name, wanted in graph.items() if not wanted & set(graph) - {name}]
        assert free, f"these import one another: {sorted(graph)}"
        for name in free:
            del graph[name]


def test_the_layers_exist():
    for member in set().union(*LAYERS):
        assert any(fnmatchcase(name, member) for name in NAMES), f"{member} is no module; mend LAYERS"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_imports_upward(name):
    for other in ours(NAMES[name]) - {"hw1"}:
        assert layer(other) >= layer(name), f"{name} imports {other}"


def test_experiments_do_not_import_one_another():
    for name, file in NAMES.items():
        if name.startswith("hw1.experiments."):
            assert not {other for other in ours(file) if other.startswith("hw1.experiments.")} - {name}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("hw1.measures")])
def test_measures_know_neither_config_nor_tables(name):
    roots = {module.partition(".")[0] for module in imports(NAMES[name])}
    assert not roots & {"hydra", "omegaconf", "pandas", "matplotlib", "rich", "yaml"}
    for module in ours(NAMES[name]):
        assert module.startswith("hw1.measures") or layer(module) > layer("hw1.measures.any")


@pytest.mark.parametrize(
    ("part", "owners"),
    [
        ("hydra", {"hw1.compose", "hw1.job"}),
        ("omegaconf", {"hw1.compose", "hw1.job"}),
        ("matplotlib", {"hw1.figures"}),
        ("jinja2", {"hw1.report"}),
        ("safetensors", {"hw1.laboratory"}),
        ("filelock", {"hw1.files", "hw1.packed_mnist"}),
        ("torchvision", {"hw1.sources"}),
        ("tensorboard", {"hw1.trackers.senders"}),
        ("mlflow", {"hw1.trackers.senders"}),
        ("wandb", {"hw1.trackers.senders"}),
        ("rich", {"hw1.comparing", "hw1.console", "hw1.findings", "hw1.outcome", "hw1.runs", "hw1.terminal"}),
    ],
)
def test_single_owners(part, owners):
    found = {name for name, file in NAMES.items() if part in {module.partition(".")[0] for module in imports(file)}}
    assert found <= owners


def loaded(code: str, *words: str) -> set[str]:
    """The modules that are loaded after `code` ran in a process of its own."""
    program = f"import sys\nsys.argv = ['hw1', *{list(words)!r}]\n{code}\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_all_but_training_and_measuring_import_no_torch():
    modules = loaded("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in TORCHLESS))
    assert set(TORCHLESS) <= modules
    assert not modules & {"torch", "torchvision", "sklearn"}


def test_every_experiment_is_without_torch_until_it_measures():
    names = [name for name in NAMES if name.startswith("hw1.experiments")]
    modules = loaded("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names))
    assert set(names) <= modules
    assert "torch" not in modules


@pytest.mark.parametrize(
    ("words", "without"),
    [
        (["--help"], {"torch", "numpy", "pandas", "hydra", "matplotlib", "rich"}),
        (["--version"], {"torch", "numpy", "hydra"}),
        (["--cfg", "job"], {"torch", "matplotlib", "torchvision"}),
        (["batchsize=3"], {"torch", "matplotlib", "torchvision"}),
        (["batch_size=16,0", "-m"], {"torch", "matplotlib", "torchvision"}),
        (["depth=99,3", "experiment=sensitivity", "-m"], {"torch", "matplotlib", "torchvision"}),
        (["loss=cross_entropy"], {"torch", "matplotlib", "torchvision"}),  # found only with the data set in hand
    ],
)
def test_help_config_and_bad_input_load_no_torch(words, without):
    code = "from hw1.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    assert not loaded(code, *words) & without


def test_a_job_does_without_torchs_compiler(tmp_path):
    """Which takes seconds to import: torch does so where an optimizer is made, where it steps, where bits are fixed."""
    words = ["steps=3", "replicas=2", "device=cpu", "hydra.run.dir=out"]
    code = f"import sys; from hw1.cli import main; code = main({words!r}); print(code, 'torch._dynamo' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 False"
    assert (tmp_path / "out" / "result.json").exists()
