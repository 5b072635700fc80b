"""Bad input: one line that names key, value and what is allowed; exit code 2; nothing made, nothing started."""

import gzip
import random
import shutil

import numpy as np
import pytest
from conftest import run_program

from hw1 import cli, compose, sweep
from hw1.errors import UserError

S = "experiment=sensitivity"
SMALL = [S, "dataset=digits", "model=linear"]


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys, data_dir):
    """The line that a command line gets; asserts that it is one, with exit code 2, and that nothing was made."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(compose, "launch", lambda arguments: pytest.fail("a job was started"))

    def get(*words):
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        monkeypatch.chdir(empty)
        given = any("data_dir" in word for word in words)
        code = cli.main([*words, *([] if given else [f"data_dir={data_dir}"])])
        captured = capsys.readouterr()
        assert code == 2, captured
        assert captured.out == ""
        assert list(empty.iterdir()) == []
        line = captured.err.removesuffix("\n")
        assert line.startswith("error: ")
        assert line.isprintable(), repr(line)
        assert len(line) < 600
        return line

    return get


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        # misspelt
        (["batchsize=3"], ["batchsize", "batch_size"]),
        (["model.drpout=0.1"], ["model.drpout", "model.dropout"]),
        (["optimizer.lrr=1"], ["optimizer.lrr", "optimizer.lr"]),
        (["+batchsize=3"], ["batchsize", "batch_size"]),
        (["+model.foo=3"], ["model.foo", "dropout"]),
        (["model=cn"], ["model=cn", "did you mean cnn"]),
        (["experiment=sensitivty"], ["experiment=sensitivty", "sensitivity"]),
        (["dataset=minst"], ["dataset=minst", "mnist"]),
        (["optimizer=adm"], ["optimizer=adm", "adam"]),
        (["model=mlp,cn", "-m"], ["model=cn", "cnn"]),
        (["nets=mlp"], ["unknown key nets"]),
        (["nets/small=mlp"], ["unknown key nets/small"]),
        (["hydra/launcher=slrm"], ["hydra/launcher=slrm", "slurm"]),
        # wrong type
        (["batch_size=abc"], ["batch_size=abc", "whole number"]),
        (["batch_size=true"], ["batch_size=true", "whole number"]),
        (["batch_size='16'"], ["batch_size=16", "whole number"]),
        (["epochs=1.5"], ["epochs=1.5", "whole number"]),
        (["model.dropout=high"], ["model.dropout=high", "a number"]),
        (["model.batch_norm=3"], ["model.batch_norm=3", "true or false"]),
        (["schedule=cosine"], ["schedule=cosine", "group of keys"]),
        (["model={depth:3}"], ["model=", "cnn"]),
        # out of range
        (["batch_size=0"], ["batch_size=0", "at least 1"]),
        (["batch_size=16,0", "-m"], ["batch_size=0", "at least 1"]),
        (["-m", "batch_size=16,abc"], ["batch_size=abc"]),
        ([*SMALL, "model=cnn", "depth=2,4", "-m"], ["depth=4", "at most 3"]),
        ([S, "depth=3,99", "-m"], ["depth=99"]),
        ([S, "depth=5"], ["depth=5", "at most 4", "28×28"]),
        (["optimizer.lr=nan"], ["optimizer.lr=nan", "above 0"]),
        (["optimizer.lr=inf"], ["optimizer.lr=inf", "at most"]),
        (["model.dropout=1"], ["model.dropout=1", "0.999"]),
        (["dataset.label_noise=0.5"], ["dataset.label_noise=0.5"]),
        (["seed=-1"], ["seed=-1", "at least 0"]),
        (["replicas=0"], ["replicas=0"]),
        (["jobs=0"], ["jobs=0", "or auto"]),
        (["threads=0"], ["threads=0", "or auto"]),
        (["budget=3"], ["budget=3", "at least 10"]),
        # left out
        (["experiment=null"], ["experiment=null", "function, interpolation"]),
        (["~model"], ["~model", "model=…"]),
        (["~seed"], ["~seed", "seed=…"]),
        (["~schedule.kind"], ["schedule.kind", "cosine"]),
        (["dataset=npz"], ["dataset.path", "missing"]),
        (["model=custom"], ["model._target_", "allow_targets"]),
        (["epochs=null", "steps=null"], ["epochs", "steps"]),
        # what does not go together
        ([*SMALL, "dataset.subset=100", "batch_size=256"], ["batch_size=256", "at most 100"]),
        ([*SMALL, "dataset.subset=100", "batch_size=16,256", "-m"], ["batch_size=256", "at most 100"]),
        (["model=linear", "depth=3"], ["linear has no depth"]),
        (["alpha=0.5"], ["alpha", "experiment has no alpha"]),
        (["epochs=3", "steps=10"], ["epochs", "steps", "choose one"]),
        (["width=10"], ["width", "budget"]),
        (["control=fixed_steps"], ["schedule.hold=steps", "steps=4000", "epochs"]),
        ([*SMALL, "experiment=interpolation", "batch_size=3"], ["batch_size is not used"]),
        (
            ["experiment=interpolation", "experiment.endpoints=[{bach_size:1},{bach_size:2}]"],
            ["bach_size", "batch_size"],
        ),
        (["dataset=digits"], ["experiment=function", "one real input"]),
        (["dataset=digits", "loss=cross_entropy", "model=linear"], ["experiment=function", "one real input"]),
        ([S, "dataset=function"], ["experiment=sensitivity", "classes"]),
        ([S, "dataset=function", "loss=mse", "model=mlp"], ["experiment=sensitivity", "classes"]),
        (["model=cnn"], ["model=cnn", "images"]),
        ([*SMALL, "loss=mse"], ["loss=mse", "loss=cross_entropy"]),
        (["loss=cross_entropy"], ["loss=cross_entropy", "loss=mse"]),
        # code from elsewhere
        (["model._target_=os.system"], ["model._target_=os.system", "torch.nn", "allow_targets"]),
        (["model._target_=builtins.open"], ["builtins.open", "allowed"]),
        (["model._target_=hw1.sources.np.load"], ["hw1.sources.np.load", "numpy"]),
        (["model._target_=hw1.runs.main"], ["hw1.runs.main", "hw1.models", "allow_targets"]),
        (["model._target_=hw1.models.nets"], ["hw1.models.nets", "no attribute"]),
        (["model._target_=hw1.nets.Net"], ["hw1.nets.Net"]),
        (["model._target_=hw1.sources.digits"], ["hw1.sources.digits", "no model"]),
        (["model=custom", "model._target_=hw1.sources.digits"], ["hw1.sources.digits", "no model"]),
        (["experiment._target_=hw1.models.mlp"], ["no experiment"]),
        (["optimizer._target_=torch.nn.Linear"], ["torch.nn.Linear", "no optimizer"]),
        (["optimizer._target_=torch.optim.Adagrad"], ["torch.optim.Adagrad", "betas"]),
        (["loss._target_=torch.optim.SGD"], ["torch.optim.SGD", "no loss"]),
        (["allow_targets=[nowhere]", "model._target_=nowhere.Net"], ["nowhere.Net", "no module nowhere"]),
        # other people's secrets, and references to nothing
        (["optimizer.lr=${oc.env:HOME}"], ["optimizer.lr", "environment"]),
        (["model.activation=${ oc.env:HOME}"], ["model.activation", "environment"]),
        (["seed=${seeed}"], ["seed", "seeed"]),
        (["seed=${seed}"], ["seed", "Recursive"]),
        # devices and folders
        (["device=tpu"], ["device=tpu", "cpu"]),
        (["device=cuda:99"], ["device=cuda:99", "device=cpu"]),
        # sweeps
        (["batch_size=16,64"], ["batch_size=16,64", "add -m"]),
        (["batch_size=range(5,1)", "-m"], ["batch_size=range(5,1)", "empty"]),
        (["batch_size=glob(*)", "-m"], ["batch_size=glob(*)", "empty"]),
        (["batch_size=choice()", "-m"], ["batch_size=choice()", "empty"]),
        (["batch_size=shuffle(16,32)", "-m"], ["shuffle"]),
        (["optimizer.lr=interval(0,1)", "-m"], ["optimizer.lr=interval(0,1)", "list the values"]),
        (["batch_size=range(1,100000)", "seed=range(100000)", "-m"], ["at most 10,000"]),
        (["hydra/launcher=basic,joblib", "-m"], ["hydra/launcher", "cannot be swept"]),
        (["hydra.launcher.n_jobs=2"], ["hydra.launcher.n_jobs=2", "jobs="]),
        (["hydra.sweep.subdir=x", "-m"], ["hydra.sweep.subdir"]),
        # words that are none
        (["--foo"], ["--foo", "--help"]),
        (["--config-name", "mine"], ["--config-name", "--config-dir"]),
        (["--config-dir", "nowhere"], ["nowhere", "no such folder"]),
        (["--cfg", "job", "batchsize=3"], ["batchsize", "batch_size"]),
        (["--cfg", "job", "--package", "modle"], ["modle"]),
        (["sensitivity"], ["'sensitivity'", "key=value"]),
        ([""], ["''", "key=value"]),
        (["=3"], ["'=3'", "key=value"]),
        (["batch_size=[1,"], ["'batch_size=[1,'"]),
        (["batch_size==3"], ["'batch_size==3'"]),
        (["batch_size=,", "-m"], ["'batch_size=,'"]),
        (["batch_size=", "-m"], ["batch_size="]),
        (["batch_size=" + "9" * 300], ["batch_size=999", "whole number"]),
        (["model.activation=" + "b" * 300], ["model.activation=bbb", "relu"]),
        (["b" * 300 + "=1"], ["unknown key bbb"]),
        (["model=" + "b" * 300], ["model=bbb", "cnn"]),
        (["store=" + "a" * 300], ["store", "too long"]),
        (["batch_size=a\0b"], ["batch_size", "quotes"]),
        (["batch_size=a\nb"], ["batch_size", "quotes"]),
        (["batch_size=\x1b[31m"], ["batch_size", "quotes"]),
        (["store='a\0b'"], ["store", "a text"]),
        (["model.activation='\x1b[31mred'"], ["model.activation="]),
        (["model.activation='[red]x[/red]'"], ["model.activation=[red]x[/red]", "relu"]),
        (["[" * 400 + "=1"], ["cannot read"]),
    ],
    ids=lambda value: " ".join(value)[:50].encode("ascii", "backslashreplace").decode() if value else "",
)
def test_one_line_names_key_value_and_what_is_allowed(refusal, words, parts):
    line = refusal(*words)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["model.drpout=0.1"], "model.drpout"),
        (["batch_size=16,0", "-m"], "batch_size=0"),
        (["batch_size=16", "word", "--foo"], "--foo"),
        (["experiment=[red]"], "experiment=['red']"),
    ],
)
def test_bad_input_in_a_process_of_its_own(tmp_path, words, part):
    done = run_program(tmp_path, words)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert part in done.err
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu(refusal):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "device=cpu" in refusal("device=cuda")


@pytest.mark.parametrize("key", ["hydra.run.dir", "store"])
def test_a_folder_below_a_file(refusal, tmp_path, key):
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    line = refusal(f"{key}={file}/x")
    assert str(file) in line
    assert "not a folder" in line
    assert "not a folder" in refusal("hydra.sweep.dir=" + str(file), "-m")
    assert file.read_text(encoding="utf-8") == ""


# ---- config files of the user's own ----

FILES = {
    "broken": ("epochs: 3\n bad: [1\n", ["broken.yaml, line 5"]),
    "tabs": ("epochs:\n\t- 3\n", ["tabs.yaml, line 5"]),
    "twice": ("epochs: 3\nepochs: 4\n", ["twice.yaml, line 5", "duplicate key epochs"]),
    "unknown": ("epohcs: 3\n", ["epohcs", "did you mean epochs"]),
    "nested": ("model:\n  drpout: 3\n", ["model.drpout", "dropout"]),
    "type": ("epochs: many\n", ["epochs=many", "whole number"]),
    "range": ("batch_size: 0\n", ["batch_size=0"]),
    "secret": ("optimizer:\n  lr: ${oc.env:HOME}\n", ["optimizer.lr", "environment"]),
    "open": ("epochs: ${seed\n", ["open.yaml", "epochs"]),
    "code": ("model:\n  _target_: os.system\n", ["os.system", "allow_targets"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_with_a_mistake(refusal, tmp_path, name):
    text, parts = FILES[name]
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    head = "# @package _global_\ndefaults:\n  - sensitivity\n"
    (folder / f"{name}.yaml").write_text(head + text, encoding="utf-8")
    line = refusal("--config-dir", str(folder.parent), f"experiment={name}")
    for part in parts:
        assert part in line


def test_a_config_file_that_is_no_text_or_names_no_option(refusal, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "words.yaml").write_text("only words", encoding="utf-8")
    (folder / "lost.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: cn\n", encoding="utf-8")
    own = ["--config-dir", str(folder.parent)]
    assert "bytes.yaml" in refusal(*own, "experiment=bytes")
    assert "_target_" in refusal(*own, "experiment=words")
    assert "model/cn" in refusal(*own, "experiment=lost")


# ---- data files ----


def test_a_data_file_that_cannot_be_read(refusal, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{axis}_{split}": rng.random((60, 4)) if axis == "x" else rng.integers(0, 3, 60)
              for axis in "xy" for split in ("train", "test")}  # fmt: skip
    np.savez(tmp_path / "good.npz", **arrays)
    content = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "words.npz").write_text("hello", encoding="utf-8")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "few.npz", x_train=arrays["x_train"])
    np.savez(tmp_path / "nan.npz", **{**arrays, "x_train": arrays["x_train"] * np.nan})
    words = [S, "model=linear", "dataset=npz", "dataset.validation=10", "batch_size=4"]
    for name in ("half", "words", "empty", "few", "nan", "absent"):
        assert f"{name}.npz" in refusal(*words, f"dataset.path={tmp_path / name}.npz")
    assert "dataset.validation=60" in refusal(*words, f"dataset.path={tmp_path}/good.npz", "dataset.validation=60")


@pytest.mark.parametrize("harm", ["truncate", "flip", "folder", "gzip"])
def test_a_damaged_mnist_is_named_with_what_to_do(refusal, tmp_path, data_dir, harm):
    sweep.plan(compose.parse([S, f"data_dir={data_dir}"]))  # unpacks it
    own = tmp_path / "data"
    shutil.copytree(data_dir / "MNIST", own / "MNIST")
    file = own / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = file.read_bytes()
    file.unlink()
    if harm == "folder":
        file.mkdir()
    else:
        flipped = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
        file.write_bytes({"truncate": content[:1000], "flip": flipped, "gzip": gzip.compress(content[:99])}[harm])
    line = refusal(S, f"data_dir={own}")
    assert str(file) in line
    if harm != "folder":
        assert "delete this file" in line


# ---- anything at all ----

SEEDS = (
    "batch_size=16,64", "experiment=sensitivity", "model=cnn", "model.dropout=0.5", "-m", "depth=range(1,3)", "steps=9",
    "optimizer.betas=[0.9,0.99]", "dataset=digits", "schedule={kind:cosine}", "alpha=[0,1]", "~loss", "+a=1", "jobs=2",
    "model._target_=hw1.models.linear", "seed=${init_seed}", "dataset.subset=null", "hydra.run.dir=x", "loss=mse",
    "--multirun", "device=cpu", "optimizer=sgd,adam", "optimizer.lr=1e-3", "store='a b'", "init_seed=choice(1,2)",
)  # fmt: skip
ODD = (
    "", " ", ",", "=", "==", "[", "]", "{", "}", "${", "$", "\\", "'", '"', "\0", "\n", "é", "null", "nan", "-1",
    "1e999", "0x1", ":", "@", "/", "../", "~", "+", "()", "choice(", "a" * 300, "[red]", "\x1b", "\ud800", "_target_",
    ".", "%",
)  # fmt: skip


def mutated(random_: random.Random) -> list[str]:
    """A command line that was right once."""
    words = random_.sample(SEEDS, random_.randint(1, 4))
    for _ in range(random_.randint(1, 3)):
        place = random_.randrange(len(words))
        word = words[place]
        at = random_.randint(0, len(word))
        how = random_.randrange(4)
        if how == 0:
            words[place] = word[:at] + random_.choice(ODD) + word[at:]
        elif how == 1:
            words[place] = word[:at] + word[at + random_.randint(1, 4) :]
        elif how == 2:
            words[place] = word.partition("=")[0] + "=" + random_.choice(SEEDS).partition("=")[2]
        else:
            words[place] = word.partition("=")[0] + "=" + random_.choice(ODD)
    return words


@pytest.mark.parametrize("seed", range(10))
def test_any_command_line_is_planned_or_refused(tmp_path, monkeypatch, data_dir, seed):
    monkeypatch.chdir(tmp_path)
    random_ = random.Random(seed)
    for _ in range(15):
        words = mutated(random_)
        try:
            said = sweep.plan(compose.parse([*words, f"data_dir={data_dir}"])).experiment
        except UserError as error:
            said = str(error).strip()
        except BaseException as error:
            raise AssertionError(f"{words!r} raised {error!r}") from error
        assert said, words
    assert list(tmp_path.iterdir()) == []
