"""Every YAML option in conf/, found by glob: it composes, passes the checks, leaves nothing open and builds."""

import json
from pathlib import Path

import pytest
import yaml

from hw1 import checks, compose, parts, schema, sweep
from hw1.errors import UserError
from hw1.recipe import Recipe

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("dataset", "model", "optimizer", "loss", "experiment")
PRESETS = ("control",)  # groups that set keys of others and have no node of their own
WITHOUT_TARGET = ("tracker",)  # groups whose node builds nothing
ALL = (*GROUPS, *PRESETS, *WITHOUT_TARGET)
OPTIONS = [(group, file.stem) for group in ALL for file in sorted((CONF / group).glob("*.yaml"))]
EXPERIMENTS = [option for group, option in OPTIONS if group == "experiment"]
# What an option leaves to its user, or needs beside it: a key of the option, with the values to try it with.
NEEDS = {
    ("model", "custom"): ["model._target_=torch.nn.Flatten"],
    ("dataset", "custom"): ["dataset._target_=hw1.sources.digits", "+dataset.standardize=true"],
    ("dataset", "own_function"): ["dataset.target._target_=hw1.models.architecture"],
    ("dataset", "npz"): ["dataset.path=arrays.npz"],
    ("control", "fixed_steps"): ["epochs=5"],  # the default experiment counts steps by itself
}
OVERRULED = {("interpolation", "batch_size")}  # names that an experiment sets anew for each of its networks
NAMES = ("batch_size", "epochs", "steps", "seed", "init_seed", "order_seed", "replicas")


def config_of(*words: str) -> dict:
    """The resolved and checked config of one job; the data set stays where it is."""
    arguments = compose.parse(list(words))
    with compose.open_composer(arguments.config_dir) as composer:
        grid = composer.grid(arguments.overrides, multirun=False)
        return sweep._job(composer, grid.points[0], grid.typed).config


def open_values(node: object) -> list[object]:
    """Leaves that are still to be filled in or resolved."""
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in open_values(value)]
    if isinstance(node, list):
        return [leaf for value in node for leaf in open_values(value)]
    return [node] if isinstance(node, str) and ("???" in node or "${" in node) else []


def test_every_group_has_options():
    assert {group for group, _ in OPTIONS} == set(ALL)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_and_passes_the_checks(group, option):
    config = config_of(f"{group}={option}", *NEEDS.get((group, option), []))
    assert open_values(config) == []
    json.dumps(config, allow_nan=False)
    assert Recipe.from_config(config, "cpu").as_dict()["batch_size"] == config["batch_size"]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_is_introduced_by_a_comment(group, option):
    lines = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines[:2] if line.startswith("# ") and "@package" not in line]


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "model"])
@pytest.mark.parametrize("shape", [(1, 28, 28)])
def test_model_is_built(option, shape):
    torch = pytest.importorskip("torch")
    words = ["experiment=sensitivity", f"model={option}", *NEEDS.get(("model", option), [])]
    model = parts.build(config_of(*words)["model"], input_shape=shape, outputs=10)
    assert isinstance(model, torch.nn.Module)
    assert model.eval()(torch.zeros(2, *shape)).shape[0] == 2


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "optimizer"])
def test_optimizer_is_built(option):
    torch = pytest.importorskip("torch")
    node = config_of(f"optimizer={option}")["optimizer"]
    optimizer = parts.build(node, [torch.nn.Parameter(torch.zeros(3))])
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == node["lr"]


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "loss"])
def test_loss_is_built(option):
    torch = pytest.importorskip("torch")
    assert isinstance(parts.build(config_of(f"loss={option}")["loss"]), torch.nn.Module)


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "dataset"])
def test_loader_is_found_and_takes_its_keys(option):
    node = config_of(f"dataset={option}", *NEEDS.get(("dataset", option), []))["dataset"]
    for key in checks.SPLIT_KEYS:
        assert key in node
    keys = {key: value for key, value in node.items() if key not in checks.SPLIT_KEYS}
    checks._check_call("dataset", parts.find(node["_target_"]), keys)  # raises if not


@pytest.mark.parametrize("option", EXPERIMENTS)
def test_experiment_is_built_and_names_its_recipes(option):
    config = config_of(f"experiment={option}")
    experiment = parts.build(config["experiment"])
    recipes = experiment.recipes(Recipe.from_config(config, "cpu"))
    assert recipes
    assert all(isinstance(overrides, dict) for overrides in recipes.values())
    assert isinstance(experiment.headline, str)
    for method in ("check", "measure", "conclude", "draw"):
        assert callable(getattr(experiment, method))


@pytest.mark.parametrize("option", EXPERIMENTS)
@pytest.mark.parametrize("name", NAMES)
def test_top_level_names_reach_the_recipe(option, name):
    if (option, name) in OVERRULED:
        with pytest.raises(UserError, match=f"^{name} is not used"):
            config_of(f"experiment={option}", f"{name}=7")
        return
    recipe = Recipe.from_config(config_of(f"experiment={option}", f"{name}=7"), "cpu").as_dict()
    if name == "seed":
        assert recipe["init_seed"] == recipe["order_seed"] == 7
    elif name != "epochs" or recipe["steps"] is None:  # `epochs=7` alone is tried below, where steps give way
        assert recipe[name] == 7
    if name == "steps":
        assert recipe["epochs"] is None


@pytest.mark.parametrize("option", EXPERIMENTS)
def test_typed_epochs_take_the_place_of_an_experiments_steps(option, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "check_together", lambda *arguments: None)  # no data set is needed for it
    (job,) = sweep.plan(compose.parse([f"experiment={option}", "epochs=7"])).jobs
    assert (job.config["epochs"], job.config["steps"]) == (7, None)


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        (["model=mlp", "depth=3"], "depth", 3),
        (["model=mlp", "budget=null", "width=5"], "width", 5),
        (["model=mlp", "budget=500"], "budget", 500),
        (["model=cnn", "depth=3"], "depth", 3),
        (["model=cnn", "width=5"], "width", 5),
    ],
)
def test_sizes_reach_the_model(words, place, value):
    assert config_of(*words)["model"][place] == value


def test_one_seed_alone_can_be_set():
    config = config_of("seed=3", "order_seed=4")
    assert (config["init_seed"], config["order_seed"]) == (3, 4)


def written(node: dict, prefix: str = "") -> dict[str, object]:
    """Dotted keys of a YAML file with their values, but for what composes it."""
    found: dict[str, object] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= written(value, f"{prefix}{key}.")
        elif key != "defaults":
            found[prefix + key] = value
    return found


def value_at(config: dict, dotted: str) -> object:
    for key in dotted.split("."):
        config = config[key]
    return config


@pytest.mark.parametrize("option", EXPERIMENTS)
def test_an_experiments_values_win_over_config_yaml(option):
    values = written(yaml.safe_load((CONF / "experiment" / f"{option}.yaml").read_text(encoding="utf-8")))
    assert values
    config = config_of(f"experiment={option}")
    for key, value in values.items():
        found = value_at(config, key)
        if isinstance(value, str) and value.startswith("${"):
            value = value_at(config, value[2:-1])
        assert found == (float(value) if isinstance(found, float) and isinstance(value, str) else value), key


def test_the_command_line_wins_over_an_experiment():
    config = config_of("experiment=sensitivity", "optimizer.lr=0.5", "schedule.kind=step", "epochs=2")
    assert (config["optimizer"]["lr"], config["schedule"]["kind"], config["epochs"]) == (0.5, "step", 2)


def test_every_top_level_key_has_a_type_and_every_type_a_key():
    text = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    keys = set(text) - {"defaults", "hydra"} | {*GROUPS, *WITHOUT_TARGET}
    assert keys == set(schema.Config.__dataclass_fields__)


@pytest.mark.parametrize("experiment", ["function", "sensitivity"])
def test_a_control_changes_what_it_names_and_nothing_else(experiment):
    words = [f"experiment={experiment}", "epochs=5"]
    plain = config_of(*words)
    for control, key, value in (
        ("fixed_steps", "hold", "steps"),
        ("linear", "scaling", "linear"),
        ("sqrt", "scaling", "sqrt"),
    ):
        config = config_of(*words, f"control={control}")
        assert config == plain | {"schedule": plain["schedule"] | {key: value}}
    assert config_of(*words, "control=none") == plain
    assert config_of("control=linear", "schedule.scaling=sqrt")["schedule"]["scaling"] == "sqrt"  # typed keys win
    assert config_of(*words, "control=none", "schedule.hold=steps")["schedule"]["hold"] == "steps"


def test_a_new_experiment_is_one_file(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    text = "# @package _global_\n# Mine.\ndefaults:\n  - sensitivity\nepochs: 2\nmodel:\n  dropout: 0.25\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    config = config_of("--config-dir", str(tmp_path), "experiment=mine")
    assert (config["epochs"], config["model"]["dropout"]) == (2, 0.25)
    with pytest.raises(UserError, match="did you mean mine"):
        config_of("--config-dir", str(tmp_path), "experiment=mime")


def test_an_experiment_may_be_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = (
        "# @package _global_\ndefaults:\n  - function\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      batch_size: 16,64\n      depth: range(1,3)\n"
    )
    (folder / "grid.yaml").write_text(text, encoding="utf-8")
    own = ["--config-dir", str(folder.parent), "experiment=grid"]
    planned = sweep.plan(compose.parse(own))
    assert planned.multirun
    assert planned.keys == ["batch_size", "depth"]
    values = [(job.values["batch_size"], job.values["depth"]) for job in planned.jobs]
    assert values == [(16, 1), (16, 2), (64, 1), (64, 2)]
    fewer = sweep.plan(compose.parse([*own, "depth=4"]))
    assert [(job.config["batch_size"], job.config["depth"]) for job in fewer.jobs] == [(16, 4), (64, 4)]
