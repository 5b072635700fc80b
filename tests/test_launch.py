"""From planned jobs to their folders: composed as Hydra composes, launched as it launches, and no more than is left."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import yaml
from conftest import Outcome, run_program
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import ReadonlyConfigError

from hw1 import compose, sweep
from hw1.paths import conf_dir

TINY = ["steps=5", "replicas=1", "threads=1", "dataset.points=64", "dataset.validation=20", "batch_size=16"]


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


# ---- composing ----


GROUPS = ("dataset", "model", "optimizer", "loss", "experiment", "control")
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in sorted((conf_dir() / group).glob("*.yaml"))]
VALUES = [
    "seed=3", "batch_size=16", "batch_size=abc", "steps=7", "depth=2", "epochs=null", "alpha=[0,0.5,1]", "threads=auto",
    "store='a b'", "optimizer.lr=0.1", "optimizer.lr=${alpha}", "model.dropout=0.25", "model.widths=[3,4]",
    "dataset.points=50", "dataset.target=sine", "schedule={kind:cosine}", "schedule.kind=step", "experiment={a:1}",
    "seed=${oc.decode:'4'}", "order_seed=${batch_size}", "nothing=1", "+seed=3", "++seed=4", "+model.more=1",
    "++model.more.still=[1,{a:2}]", "+own.key=3", "~steps", "~model.depth", "~seed=1", "+loss@second=mse",
    "hydra.verbose=true", "hydra/launcher=basic", "hydra.job.env_set.A=1", "hydra.sweep.subdir=7",
    "hydra.searchpath=[pkg://nowhere]", "+hydra.callbacks.own._target_=own.Callback",
]  # fmt: skip


def composed(loader: ConfigLoaderImpl, words: list[str], mode: RunMode) -> tuple[str, object]:
    """What a loader gives, in all that can be seen of it: texts, types, flags and values, or the error."""
    try:
        config = loader.load_configuration("config", words, mode, from_shell=False)
    except (HydraException, ValueError, AssertionError) as error:
        return type(error).__name__, f"{error} {error.__cause__}"
    seen = (OmegaConf.to_yaml(config), list(described(config)))
    spoil(config)
    return "composed", seen


def described(node: DictConfig, place: str = "") -> list[tuple]:
    found = [(place, type(node).__name__, node._metadata.ref_type, node._metadata.object_type, node._metadata.flags)]
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
        for key in node:
            found += described(node._get_node(key), f"{place}.{key}")
    return found


def spoil(config: DictConfig) -> None:
    """Do to a config what must not reach the next one that the same loader gives."""
    OmegaConf.set_struct(config, False)
    config.hydra.job.name = "spoilt"
    config.hydra.overrides.task.append("spoilt")
    for node in (config, *(config.get(group) for group in GROUPS)):
        if isinstance(node, DictConfig):
            node.spoilt = "yes"


@pytest.fixture(scope="module")
def loaders() -> tuple[compose.Loader, ConfigLoaderImpl]:
    """Ours, which lives through all examples, and Hydra's."""
    version.setbase("1.3")
    compose._make_room_for_presets()
    return compose.Loader(create_config_search_path(str(conf_dir()))), ConfigLoaderImpl(
        create_config_search_path(str(conf_dir()))
    )


@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath")
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(OPTIONS), st.sampled_from(VALUES)), max_size=5),
    st.sampled_from([RunMode.RUN, RunMode.MULTIRUN]),
)
@example([], RunMode.RUN)
@example(["model=mlp", "model.depth=2", "+model.more=1"], RunMode.RUN)
@example(["model=mlp", "~model.depth"], RunMode.RUN)
@example(["model=mlp"], RunMode.RUN)  # untouched by those before
@example(["dataset=cifar10", "dataset.points=50", "hydra.job.env_set.A=1"], RunMode.RUN)  # two mistakes
@example(["seed=1,2"], RunMode.MULTIRUN)
@example(["seed=1,2"], RunMode.RUN)
def test_configs_are_what_hydra_composes(loaders, words, mode):
    ours, theirs = (composed(loader, words, mode) for loader in loaders)
    assert ours == theirs


def test_a_loader_forgets_what_was_long_ago(monkeypatch):
    monkeypatch.setattr(compose, "KEPT", 2)
    with compose.open_composer(None) as composer:
        for option in ("mlp", "cnn", "linear", "mlp"):
            assert composer.compose([f"model={option}"]).hydra.runtime.choices.model == option
            assert len(composer.loader.composed) <= 2


def test_a_workers_loader_has_what_the_one_of_the_job_before_found(loaders):
    ours, hydras = loaders
    first, second = (pickle.loads(pickle.dumps(ours)) for _ in range(2))
    assert not first.composed
    assert composed(first, ["model=cnn", "seed=2"], RunMode.RUN)[0] == "composed"
    found = list(second.composed.values())
    assert len(found) == 1
    words = ["model=cnn", "seed=3"]
    assert composed(second, words, RunMode.RUN) == composed(hydras, words, RunMode.RUN)
    assert list(second.composed.values()) == found
    of_another_sweep = compose.Loader(create_config_search_path(str(conf_dir())))
    assert not pickle.loads(pickle.dumps(of_another_sweep)).composed


def test_a_worker_looks_for_plugins_once(monkeypatch):
    known = Plugins.instance()
    state = Singleton.get_state()
    assert Plugins not in state["instances"]
    monkeypatch.setattr(Singleton, "_instances", Singleton._instances)  # as they were, after the test
    monkeypatch.setattr(BaseContainer, "_resolvers", BaseContainer._resolvers)
    monkeypatch.setattr(Plugins, "_scan_all_plugins", lambda modules: pytest.fail("again"))
    Singleton.set_state(state)
    assert Plugins.instance() is known
    assert Singleton._instances is state["instances"]


@pytest.mark.parametrize("words", [[], ["experiment=sensitivity"], ["experiment=interpolation", "alpha=0.5"]])
def test_copies_of_configs_are_equal_and_apart(words):
    """`compose` has a way of its own to copy what OmegaConf's nodes hold."""
    with compose.open_composer(None) as composer:
        config = composer.compose(words)
    config.hydra.job._set_flag("readonly", True)
    nodes = [(config, copy.deepcopy(config))]
    for one, other in nodes:  # grows as it goes
        assert type(one) is type(other)
        assert one is not other
        assert one._metadata == other._metadata
        assert one._metadata is not other._metadata
        assert one._metadata.flags is not other._metadata.flags
        assert one._metadata.resolver_cache is not other._metadata.resolver_cache
        assert set(vars(one)) == set(vars(other))
        content = vars(one).get("_content")
        if isinstance(one, Container) and isinstance(content, dict | list):
            theirs = vars(other)["_content"]
            for key in content if isinstance(content, dict) else range(len(content)):
                assert theirs[key]._get_parent() is other
                nodes.append((content[key], theirs[key]))
        elif not isinstance(one, Container):
            assert one._value() == other._value()
    assert len(nodes) > 100
    nodes[0][1].seed = 99
    assert config.seed != 99
    with pytest.raises(ReadonlyConfigError):
        nodes[0][1].hydra.job.name = "x"


# ---- launching ----

NOTES = """
import json
from pathlib import Path

from hydra.experimental.callback import Callback


class Note(Callback):
    def _note(self, *words):
        with Path("notes.txt").open("a") as file:
            file.write(json.dumps(words) + "\\n")

    def on_multirun_start(self, config, config_name=None, **kwargs):
        self._note("start", config_name, list(config.hydra.overrides.task))

    def on_job_start(self, config, **kwargs):
        self._note("job starts", Path(config.hydra.runtime.output_dir).name)

    def on_job_end(self, config, job_return, **kwargs):
        self._note("job ends", job_return.cfg.seed, job_return.hydra_cfg.hydra.job.num, job_return.status.name)

    def on_multirun_end(self, config, config_name=None, **kwargs):
        self._note("end", config_name)
"""
PROGRAM = """
import sys
from hydra.core.plugins import Plugins
from hw1 import compose, sweep

Plugins.instance()  # loads the launchers anew
launcher = sys.modules["hydra._internal.core_plugins.basic_launcher"].BasicLauncher
launch, kept = launcher.launch, []
launcher.launch = lambda *words, **keys: kept.append(launch(*words, **keys)) or kept[-1]
jobs = {0: ["seed=0", *sys.argv[2:]], 1: ["seed=1", *sys.argv[2:]]}
compose.launch(["-m", "seed=0,1", *sys.argv[2:]], jobs if sys.argv[1] == "ours" else None)
print([(returned.status.name, returned.cfg is None and returned.hydra_cfg is None) for returned in kept[0]])
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> dict[str, Outcome]:
    """The same two jobs launched by us, and by Hydra's own sweeper; with a callback."""
    found = {}
    for who in ("ours", "theirs"):
        folder = tmp_path_factory.mktemp(who)
        (folder / "notes.py").write_text(NOTES, encoding="utf-8")
        (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
        words = [*TINY, "hydra/launcher=basic", "+hydra.callbacks.note._target_=notes.Note", "hydra.sweep.dir=sweep"]
        found[who] = run_program(folder, [who, *words], ["program.py"])  # beside which Python looks for notes.py
        assert found[who].code == 0, found[who].err
    return found


def test_a_sweeps_records_are_those_that_hydra_leaves(launched):
    ours, theirs = (launched[who].folder / "sweep" for who in ("ours", "theirs"))
    names = [f"{job}/.hydra/{name}.yaml" for job in "01" for name in ("config", "hydra", "overrides")]
    for name in ("multirun.yaml", *names):
        here, there = (yaml.safe_load((sweep / name).read_text(encoding="utf-8")) for sweep in (ours, theirs))
        assert here
        if name.endswith("hydra/hydra.yaml"):
            assert here["hydra"]["sweep"].pop("subdir") == name[0]
            assert there["hydra"]["sweep"].pop("subdir") == "${hydra.job.num}"
            here["hydra"]["overrides"]["hydra"].remove(f"hydra.sweep.subdir={name[0]}")
        if "hydra" in here:  # the two ran in folders of their own
            for content in (here, there):
                for key in ("cwd", "output_dir"):
                    content["hydra"]["runtime"].pop(key, None)
        assert here == there, name
    assert yaml.safe_load((ours / "1" / ".hydra" / "overrides.yaml").read_text()) == ["seed=1", *TINY]


def test_callbacks_are_called_as_hydra_calls_them(launched):
    ours, theirs = (
        [json.loads(line) for line in (launched[who].folder / "notes.txt").read_text().splitlines()]
        for who in ("ours", "theirs")
    )
    assert ours == theirs
    assert [words[0] for words in ours] == ["start", *["job starts", "job ends"] * 2, "end"]
    assert [words[1:] for words in ours if words[0] == "job ends"] == [[0, 0, "COMPLETED"], [1, 1, "COMPLETED"]]


def test_what_jobs_return_is_light(launched):
    assert launched["ours"].out.splitlines()[-1] == str([("COMPLETED", True)] * 2)
    assert launched["theirs"].out.splitlines()[-1] == str([("COMPLETED", False)] * 2)  # what would be kept


@pytest.mark.parametrize("launcher", [["hydra/launcher=basic"], ["jobs=2"]], ids=["basic", "joblib"])
def test_what_is_left_of_a_sweep_is_launched_and_nothing_else(launcher, tmp_path):
    begun = run_program(tmp_path, ["-m", "seed=5,6,7", *TINY, "hydra.sweep.dir=sweep", *launcher])
    assert begun.code == 0, begun.err
    folder, records = tmp_path / "sweep", ["config.yaml", "hydra.yaml", "overrides.yaml"]
    undisturbed = {name: (folder / name).read_bytes() for name in ("summary.csv", "comparison.csv")}
    for number in "02":
        (folder / number / "result.json").write_text('{"status": "failed"}', encoding="utf-8")
    for number in range(3):
        for name in records:
            (folder / str(number) / ".hydra" / name).write_text("as it was", encoding="utf-8")
    again = run_program(tmp_path, ["resume=sweep"])
    assert again.code == 0, again.err
    written = {
        number: [name for name in records if (folder / str(number) / ".hydra" / name).read_text() != "as it was"]
        for number in range(3)
    }
    assert written == {0: records, 1: [], 2: records}  # Hydra records each job that it launches
    for number in (0, 2):
        assert yaml.safe_load((folder / f"{number}/.hydra/overrides.yaml").read_text()) == [
            f"seed={5 + number}",
            *TINY,
        ] + [word for word in launcher if not word.startswith("hydra")]
        assert read(folder / str(number) / "result.json")["overrides"]["seed"] == str(5 + number)
    assert {name: (folder / name).read_bytes() for name in undisturbed} == undisturbed
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == list("012")


def test_a_whole_sweep_launches_nothing_again(tmp_path):
    words = ["-m", "seed=0,1", *TINY, "hydra.sweep.dir=sweep", "hydra/launcher=basic"]
    assert run_program(tmp_path, words).code == 0
    records = {file: file.stat().st_mtime_ns for file in tmp_path.glob("sweep/*/.hydra/*")}
    again = run_program(tmp_path, ["resume=sweep"])
    assert (again.code, again.err) == (0, "")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("sweep/*/.hydra/*")} == records


def test_two_starts_at_the_same_instant_get_folders_of_their_own(tmp_path, monkeypatch):
    """Whoever comes second finds the folder, which the time names, taken."""
    monkeypatch.chdir(tmp_path)
    for words, place in ((["seed=0,1", "-m"], "multirun"), (["seed=0"], "outputs")):
        plan = sweep.plan(compose.parse(words))
        with sweep.held(plan) as first, sweep.held(plan) as second, sweep.held(plan) as third:
            folders = [planned.folder for planned in (first, second, third)]
        assert folders[0] == plan.folder
        assert [folder.name for folder in folders[1:]] == [f"{plan.folder.name}_1", f"{plan.folder.name}_2"]
        assert sorted(folders) == sorted(tmp_path.glob(f"{place}/*/*"))
        assert str(third.folder) in third.arguments[-1]


def test_a_folder_that_was_named_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = sweep.plan(compose.parse(["seed=0", "hydra.run.dir=there"]))
    for _ in range(2):
        with sweep.held(plan) as planned:
            assert planned.folder == tmp_path / "there"
