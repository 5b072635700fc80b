"""Mutated command lines and config files: each is refused in one line with exit code 2, or it is a valid plan.

A case is a command line with the files that it names. It is planned in a forked child, up to the moment when jobs
would be started; a sample of those that pass is really run, and a sample of all is given to a process of its own.
"""

import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import harness
from .harness import Row, Size

SECONDS = 10  # that planning may take
LONGEST = 600  # characters of a refusal
MEMORY = 6 << 30  # bytes of address space of a child: a plan that needs more is one that hangs a laptop

# ---- what is mutated ----

# Command lines that people type, each small enough to be run.
LINES: tuple[tuple[str, ...], ...] = (
    (),
    ("steps=3", "replicas=1"),
    ("experiment=function", "depth=1,2", "steps=3", "-m"),
    ("experiment=function", "model.activation=relu", "loss=huber", "dataset.noise=0.1", "steps=3"),
    ("experiment=function", "dataset.target=damped", "dataset.frequency=3", "dataset.points=50", "dataset.validation=9", "batch_size=8"),
    ("experiment=function", "dataset=own_function", "dataset.target._target_=math.exp", "allow_targets=[math]"),
    ("experiment=function", "schedule.kind=step", "schedule.warmup=0.1", "epochs=1", "seed=3"),
    ("experiment=classification", "dataset=digits", "model=mlp", "epochs=1", "replicas=1"),
    ("experiment=classification", "dataset=digits", "model=mlp_300_100,linear", "epochs=1", "-m"),
    ("experiment=classification", "dataset.subset=1000", "model=lenet5", "model.pooling=max", "epochs=1"),
    ("experiment=weight_pca", "dataset=digits", "model.widths=[5]", "epochs=1", "replicas=2", "collect_every=1"),
    ("experiment=weight_pca", "dataset=digits", "experiment.fractions=[0.1,0.5]", "experiment.centring=final"),
    ("experiment=sensitivity", "dataset=digits", "model=mlp", "batch_size=16,64", "-m"),
    ("experiment=sensitivity", "dataset=digits", "model=linear", "control=fixed_steps", "batch_size=16"),
    ("experiment=sensitivity", "dataset.subset=1000", "epochs=1", "model.dropout=0,0.5", "-m"),
    ("experiment=sensitivity", "dataset=digits", "model=custom", "model._target_=hw1.models.linear"),
    ("experiment=sensitivity", "dataset=digits", "model=mlp", "optimizer=sgd", "optimizer.nesterov=false"),
    ("experiment=interpolation", "dataset=digits", "alpha=-1,0,0.5,1,2", "epochs=1", "-m"),
    ("experiment=interpolation", "dataset=digits", "experiment.endpoints=[{order_seed:1},{depth:2}]", "epochs=1"),
    ("experiment=interpolation_lr", "dataset=digits", "depth=1", "width=4", "epochs=1"),
    ("seed=range(2)", "steps=3", "jobs=2", "--multirun"),
    ("-m", "init_seed=choice(1,2)", "order_seed=1,2", "hydra/launcher=basic", "steps=3"),
    ("-m", "seed=1,2", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=9", "steps=3"),
    ("-m", "seed=1,2", "hydra/launcher=ray", "hydra.launcher.ray.init.address=local", "steps=3"),
    ("-m", "seed=1,2", "hydra.launcher.batch_size=2", "jobs=2", "steps=3"),
    ("checkpoint.minutes=1", "collect_every=null", "dtype=float64", "vectorize=false", "steps=3"),
    ("optimizer.betas=[0.9,0.99]", "optimizer.lr=1e-3", "threads=1", "device=cpu", "store='a b'"),
    ("--cfg", "job", "experiment=sensitivity"),
    ("--cfg", "job", "--package", "model"),
    ("--info", "defaults", "model=mlp"),
)
EXPERIMENTS = ("function", "classification", "weight_pca", "sensitivity", "interpolation", "interpolation_lr")
GROUPS = ("experiment", "dataset", "model", "optimizer", "loss", "control", "hydra/launcher", "hydra/job_logging",
          "hydra/sweeper", "hydra/output", "hydra/help", "hydra/env")  # fmt: skip

LONG = ("a" * 300, "9" * 300, "a" * 5000, "9" * 5000, "é" * 300, "a/" * 200, "x" * 200 + "\n" + "y" * 200)
NUMBERS = (
    "-1", "0", "0.5", "-0.0", "1.5", "1e-300", "1e300", "1e999", "-1e999", "nan", ".nan", "inf", "-inf", "1e9", "2147483648",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "0x10", "1_000", "1e3", "００１", "1,5", "1000", "1000000",
)  # fmt: skip
TEXTS = (
    "", "''", '""', " ", "' '", "null", "NULL", "~", "true", "yes", "???", "é", "日本語", "\u202eabc", "'\u202eabc'", "a b", "%s",
    "%(x)s", "{}", "{0}", "$", "$x^2$", "<script>alert(1)</script>", "'<script>'", "=cmd()", "+1+1", "-@x", "@SUM", "#x", "'#x'",
    ":", "a:b", "a=b", ";", "|", "&", "`id`", "$(id)", "\\", "'\\'", "*", "?", "!", "auto", "cpu", "[red]x[/red]",
)  # fmt: skip
CONTROLS = (
    "\0", "'\0'", "a\0b", "\n", "'a\nb'", "\r", "\t", "\x1b[31m", "'\x1b[31mred\x1b[0m'", "'\x1b]0;title\x07'", "\x7f", "\x85",
    "'\x85'", "\u2028", "'\u2028'", "\ufeff", "'\ufeff'", "\udcff", "'\udcff'", "\u200b", "'\u0000'", "\x08\x08\x08",
)  # fmt: skip
CONTAINERS = (
    "[]", "{}", "[1,2]", "[a,b]", "{a:1}", "{lr:1}", "[[1]]", "[{}]", "{a:{b:{c:1}}}", "[null]", "[1,a,null,{}]", "{_target_:os.system}",
    "{1:2}", "{null:1}", "{true:1}", "[" * 60 + "]" * 60, "{a:" * 60 + "1" + "}" * 60, "[" * 1200, "[" + "1," * 2000 + "1]",
)  # fmt: skip
BROKEN = (
    "[1,",
    "{a:",
    "{a",
    "'x",
    '"x',
    "x'",
    "]",
    "}",
    ")",
    "(",
    "[1,2",
    "[1 2",
    "{a:1,,}",
    "a'b'c",
    "\\'",
    "[']",
    "choice(",
    "((",
)
PATHS = (
    "../x", "../../x", "/tmp/hw1-fault-x", "/", ".", "..", "/dev/null", "/dev/full", "/proc/self/x", "/etc/passwd", "a/../../../b", "~/x",
    "//x", "a//b", "con", "x/" * 30 + "y", "file:///x", "http://example.invalid/x", "'a b/c d'", "é/日本", "-x", "--", "./-m", "x\\y",
)  # fmt: skip
REFERENCES = (
    "${seed}", "${init_seed}", "${batch_size}", "${nope}", "${.lr}", "${..seed}", "${...seed}", "${....x}", "${", "${}", "${:}", "$}", "${seed",
    "${${seed}}", "${a${b}}", "${model}", "${model._target_}", "${experiment}", "${hydra:runtime.cwd}", "${hydra:job.num}", "${hydra:nope}",
    "${hydra.run.dir}", "${oc.env:HOME}", "${oc.env:HW1_NOPE}", "${oc.env:HW1_NOPE,1}", "${oc.env:HOME,1}", "${ oc.env : HOME }",
    "x${oc.env:HOME}", "${oc.select:seed}", "${oc.select:nope,3}", "${oc.decode:'1'}", "${oc.decode:${oc.env:HW1_NOPE,'3'}}",
    "${oc.create:{a:1}}", "${oc.deprecated:seed}", "${oc.dict.keys:model}", "${oc.dict.values:model}", "${now:%Y}", "${nope:1}", "${eval:1+1}",
    "${python_version:}", "${oc.env:${oc.env:HOME}}", "${oc.select:${nope}}", "[${seed},${nope}]", "{a:${seed}}", "${oc.select:store}",
    "'${oc.env:HOME}'", "\\${seed}", "${oc.env:HOME}${seed}",
)  # fmt: skip
SWEEPS = (
    "1,2", "1,1", "0,1", "1,a", ",", "1,", ",1", "1,,2", "a,b", "null,1", "true,false", "[1],[2]", "{a:1},{a:2}", "range(3)", "range(0)", "range(1,1)",
    "range(3,1)", "range(1,3,0)", "range(1,100001)", "range(1,1000000000000)", "range(0,1,0.1)", "range(1)", "range(a)", "range()",
    "range(nan)", "range(0,inf)", "range(0,1,1e-320)", "interval(0,1)", "interval(1,0)",
    "interval(a,b)", "choice()", "choice(1)", "choice(1,2)", "choice([1],2)", "choice(choice(1))", "shuffle(1,2)", "shuffle(range(3))",
    "sort(2,1)", "sort(a,1)", "sort(3,2,1,reverse=true)", "tag(x,1,2)", "tag(choice(1,2))", "glob(*)", "glob([*])", "glob([])", "glob(m*)",
    "glob(*,exclude=m*)", "glob(../*)", "glob(['[','*'])", "int(3.7)", "int(a)", "str(5)", "str([1,2])", "float(x)", "float(1)", "bool(1)", "bool(x)",
    "json_str(1)", "json_str({a:1})", "extend_list(1)", "cast(1)", "nope(1)", "int(1,2)", "str()", "1," * 30 + "1", "\"1,2\"", "sort()",
)  # fmt: skip
VALUES = (LONG, NUMBERS, NUMBERS, TEXTS, CONTROLS, CONTAINERS, BROKEN, PATHS, REFERENCES, SWEEPS)

ODD_KEYS = (
    "", "=", ".", "..", "a..b", ".a", "a.", "/", "//", "@", "a@b", "@a", "model@", "model@x", "/model", "model/", "model/x", "model/../model",
    "../model", "~", "+", "++", "~~x", "+~x", "é", "日本", "\0", "a\nb", "\x1b[31mx", "a b", "seed ", " seed", "'seed'", "[0]", "model[0]",
    "model[lr]", "experiment.endpoints[0]", "experiment.endpoints.0.batch_size", "optimizer.betas.0", "optimizer.betas[0]", "optimizer.betas[9]",
    "model._target_", "model._partial_", "model._recursive_", "model._convert_", "model._args_", "experiment._partial_", "_target_", "__class__",
    "model.__class__", "schedule", "schedule.kind", "schedule.x", "hydra", "defaults", "self", "_self_", "_group_", "_here_", "_global_",
    "model@_global_", "model@_here_", "optimizer@model", "hydra/launcher@x", "resume", "experiment@seed", "a" * 300, "a." * 200 + "a", "a" * 5000,
    "Seed", "SEED", "seed.x", "model.lr", "lr", "batchsize", "epcohs", "modle", "modle.depth", "optimiser", "dataset.sub", "$seed", "${seed}", "1", "-1",
    "-seed", "null", "true", "model.activation.x.y.z", "optimizer.betas.x", "allow_targets.0", "alpha.0", "%", "\udcff", "\ufeffseed",
)  # fmt: skip
FLAGS = (
    "-m", "--multirun", "--mutlirun", "--multi", "-M", "-c", "--cfg", "--cfg=job", "--cfg=all", "--cfg=hydra", "--cfg=nope", "--config-dir",
    "--config-dir=nope", "--config-dir=/dev/null", "--config-dir=", "-cd", "-cn", "--config-name=x", "--config-path=x", "-cp=x", "-p", "--package=x",
    "--package=model.x", "--resolve", "--info", "--info=nope", "--info=all", "--info=config", "--info=plugins", "--info=searchpath", "-i", "-r", "--run",
    "--experimental-rerun=x", "--shell-completion", "-sc", "-sc=nope", "-sc=query=bash", "--hydra-help", "--foo", "-x", "-", "--", "---", "-mm",
    "-m=1", "--multirun=1", "--version=1", "-V", "--he", "--\0", "--é", "--" + "x" * 300, "-h=1",
)  # fmt: skip
HYDRA = (
    "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "hydra.job.name", "hydra.job.chdir", "hydra.job.id",
    "hydra.job.num", "hydra.job.config_name", "hydra.job.env_set.X", "hydra.job.env_set.PATH", "hydra.job.override_dirname", "hydra.mode",
    "hydra.verbose", "hydra.searchpath", "hydra.runtime.output_dir", "hydra.runtime.cwd", "hydra.runtime.choices.experiment", "hydra.env",
    "hydra.launcher._target_", "hydra.launcher.n_jobs", "hydra.launcher.backend", "hydra.launcher.x", "hydra.launcher", "hydra.launcher.timeout",
    "hydra.launcher.temp_folder", "hydra.launcher.cpus_per_task", "hydra.launcher.array_parallelism", "hydra.launcher.submitit_folder",
    "hydra.launcher.ray", "hydra.launcher.ray.init", "hydra.launcher.ray.init.address", "hydra.launcher.ray.remote.num_cpus",
    "hydra.launcher.gpus_per_node", "hydra.launcher.setup", "hydra.sweeper._target_", "hydra.sweeper.params", "hydra.sweeper.params.seed", "hydra.sweeper.max_batch_size",
    "hydra.callbacks", "hydra.callbacks.x._target_", "hydra.help.template", "hydra.help.app_name", "hydra.overrides.task", "hydra.job_logging.root.level",
    "hydra.job_logging.handlers.file.filename", "hydra.job_logging.handlers.file.class", "hydra.job_logging.formatters.line.()", "hydra.job_logging",
    "hydra.hydra_logging.root.level", "hydra.hydra_logging", "hydra.x", "hydra", "hydra.hydra_help.template", "hydra.sweep", "hydra.run", "hydra.job",
    "hydra.job.config.override_dirname.kv_sep", "hydra.job.config", "hydra.runtime", "hydra.output", "hydra.sweep.dir.x", "hydra.sweeper",
)  # fmt: skip

# Things that no config may call. Each would leave a file `canary` where it is called.
CANARY = "canary"
FORBIDDEN: tuple[dict[str, Any], ...] = (
    {"_target_": "os.system", "command": f"touch {CANARY}"},
    {"_target_": "posix.system", "command": f"touch {CANARY}"},
    {"_target_": "os.mkdir", "path": CANARY},
    {"_target_": "os.unlink", "path": "x"},
    {"_target_": "builtins.open", "file": CANARY, "mode": "w"},
    {"_target_": "io.open", "file": CANARY, "mode": "w"},
    {"_target_": "builtins.eval", "_args_": [f"open('{CANARY}', 'w')"]},
    {"_target_": "builtins.exec", "_args_": [f"open('{CANARY}', 'w')"]},
    {"_target_": "builtins.__import__", "name": "os"},
    {"_target_": "subprocess.run", "args": ["touch", CANARY]},
    {"_target_": "subprocess.Popen", "args": ["touch", CANARY]},
    {"_target_": "shutil.rmtree", "path": "."},
    {"_target_": "shutil.copy", "src": "/etc/hostname", "dst": CANARY},
    {"_target_": "pathlib.Path", "_args_": [CANARY]},
    {"_target_": "pathlib.Path.unlink", "self": CANARY},
    {"_target_": "pathlib.Path.touch", "self": CANARY},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "x"},
    {"_target_": "torch.load", "f": CANARY},
    {"_target_": "torch.save", "obj": 1, "f": CANARY},
    {"_target_": "torch.compile", "model": None},
    {"_target_": "joblib.load", "filename": CANARY},
    {"_target_": "joblib.dump", "value": 1, "filename": CANARY},
    {"_target_": "pickle.load", "file": CANARY},
    {"_target_": "pickle.loads", "data": "x"},
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": CANARY},
    {"_target_": "numpy.load", "file": CANARY, "allow_pickle": True},
    {"_target_": "numpy.save", "file": CANARY, "arr": [1]},
    {"_target_": "urllib.request.urlopen", "url": f"file:///{CANARY}"},
    {"_target_": "urllib.request.urlretrieve", "url": "file:///etc/hostname", "filename": CANARY},
    {"_target_": "importlib.import_module", "name": "antigravity"},
    {"_target_": "runpy.run_path", "path_name": CANARY},
    {"_target_": "ctypes.CDLL", "name": CANARY},
    {"_target_": "code.interact"},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": CANARY}},
    {"_target_": "hydra.utils.get_method", "path": "os.system"},
    {"_target_": "hydra.core.utils.env_override", "env": {}},
    {"_target_": "functools.partial", "_args_": ["x"]},
    {"_target_": "operator.attrgetter", "_args_": ["x"]},
    {"_target_": "hw1.job.os.system", "command": f"touch {CANARY}"},
    {"_target_": "hw1.store.os.mkdir", "path": CANARY},
    {"_target_": "hw1.store.shutil.rmtree", "path": "."},
    {"_target_": "hw1.packed_mnist.tarfile.open", "name": CANARY, "mode": "w"},
    {"_target_": "hw1.files.pd.read_pickle", "filepath_or_buffer": CANARY},
    {"_target_": "hw1.data.np.save", "file": CANARY, "arr": [1]},
    {"_target_": "hw1.sources.np.load", "file": CANARY},
    {"_target_": "hw1.files.write_atomically", "file": CANARY, "text": "x"},
    {"_target_": "hw1.files.write_json", "file": CANARY, "content": {}},
    {"_target_": "hw1.cli.main", "argv": ["steps=1"]},
    {"_target_": "hw1.runs.main", "argv": ["list"]},
    {"_target_": "hw1.compose.launch", "arguments": ["steps=1"]},
    {"_target_": "hw1.parts.build", "node": {"_target_": "os.mkdir", "path": CANARY}},
    {"_target_": "hw1.parts.importlib.import_module", "name": "os"},
    {"_target_": "hw1.store.Store.remove", "self": "x", "key": "x"},
    {"_target_": "hw1.training.torch.load", "f": CANARY},
    {"_target_": "hw1.__main__.sys.exit"},
    {"_target_": "hw1.models.torch.hub.load", "repo_or_dir": "."},
    {"_target_": "hw1.models.__loader__.get_data", "path": "/etc/passwd"},
    {"_target_": "hw1.models.Dropout.__init__.__globals__.clear"},
    {"_target_": "torch.nn.modules.module.torch.load", "f": CANARY},
    {"_target_": "torch.nn.Module.__subclasses__"},
    {"_target_": "torch.nn.modules.module.functools.partial"},
    {"_target_": "torch.optim.optimizer.functools.partial"},
)


# ---- config files of the user's own ----

HEAD = "# @package _global_\ndefaults:\n  - function\n"
BOMB = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
                 + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)])  # fmt: skip
FILES: dict[str, tuple[str | bytes, bool | None]] = {  # content of experiment/own.yaml, and Case.right
    "as it should be": (HEAD + "steps: 3\nreplicas: 1\n", True),
    "empty": ("", False),
    "only a comment": ("# nothing\n", False),
    "only the package": ("# @package _global_\n", False),
    "only words": ("only words", False),
    "a list": ("- a\n- b\n", False),
    "a number": ("3\n", False),
    "null": ("null\n", False),
    "two documents": ("a: 1\n---\nb: 2\n", False),
    "broken": (HEAD + "epochs: 3\n bad: [1\n", False),
    "open bracket": (HEAD + "alpha: [1, 2\n", False),
    "open quote": (HEAD + "device: 'cpu\n", False),
    "tab": (HEAD + "epochs:\n\t- 3\n", False),
    "tabs throughout": (HEAD.replace("  ", "\t"), False),
    "twice": (HEAD + "steps: 3\nsteps: 4\n", False),
    "twice in a node": (HEAD + "optimizer:\n  lr: 1\n  lr: 2\n", False),
    "unknown key": (HEAD + "epohcs: 3\n", False),
    "unknown key in a node": (HEAD + "model:\n  drpout: 3\n", False),
    "odd key": (HEAD + "1: 3\n", False),
    "null key": (HEAD + "null: 3\n", False),
    "true key": (HEAD + "true: 3\n", False),
    "list key": (HEAD + "? [1, 2]\n: 3\n", False),
    "empty key": (HEAD + "'': 3\n", False),
    "key with controls": (HEAD + '"a\\x1b[31mb": 3\n', False),
    "key with a newline": (HEAD + '"a\\nb": 3\n', False),
    "key with dots": (HEAD + "optimizer.lr: 3\n", False),
    "long key": (HEAD + "k" * 5000 + ": 3\n", False),
    "value with controls": (HEAD + 'device: "\\x1b[31mred"\n', False),
    "long value": (HEAD + "device: " + "d" * 5000 + "\n", False),
    "wrong type": (HEAD + "steps: many\n", False),
    "out of range": (HEAD + "batch_size: 0\n", False),
    "not a number": (HEAD + "optimizer:\n  lr: .nan\n", False),
    "a node for a number": (HEAD + "steps: {a: 1}\n", False),
    "a list for a node": (HEAD + "schedule: [1, 2]\n", False),
    "a number for a node": (HEAD + "model: 3\n", False),
    "null for a node": (HEAD + "optimizer: null\n", False),
    "a date": (HEAD + "steps: 2024-01-01\n", False),
    "bytes": (HEAD + "steps: !!binary aGVsbG8=\n", False),
    "a set": (HEAD + "steps: !!set {a, b}\n", False),
    "a forbidden function": (HEAD + f"loss:\n  _target_: builtins.open\n  file: {CANARY}\n  mode: w\n", False),
    "a python object": (HEAD + f"steps: !!python/object/apply:os.system ['touch {CANARY}']\n", False),
    "an unknown tag": (HEAD + "steps: !mine 3\n", False),
    "an anchor": (HEAD + "steps: &s 3\nreplicas: *s\n", True),
    "an anchor that is none": (HEAD + "steps: *nope\n", False),
    "an anchor in itself": (HEAD + "alpha: &a [*a]\n", False),
    "a node in itself": (HEAD + "experiment: &a {x: *a}\n", False),
    "a billion laughs": (HEAD + BOMB + "\n", False),
    "a merge": (HEAD + "optimizer: {<<: {lr: 0.01}}\n", True),
    "byte order mark": (b"\xef\xbb\xbf" + HEAD.encode() + b"steps: 3\n", None),
    "UTF-16": (HEAD.encode("utf-16") + "steps: 3\n".encode("utf-16-le"), None),
    "Latin-1": (HEAD.encode() + b"device: caf\xe9\n", False),
    "binary": (bytes(range(256)) * 4, False),
    "zeros": (b"\0" * 1000, False),
    "deep": (HEAD + "alpha: " + "[" * 3000 + "]" * 3000 + "\n", False),
    "deep nodes": (HEAD + "model: " + "{a: " * 500 + "1" + "}" * 500 + "\n", False),
    "long list": (HEAD + "alpha: [" + "0.5, " * 2000 + "1]\n", True),
    "defaults that are words": ("# @package _global_\ndefaults: function\n", False),
    "defaults that are a node": ("# @package _global_\ndefaults: {a: b}\n", False),
    "defaults of numbers": ("# @package _global_\ndefaults: [1, 2]\n", False),
    "defaults of lists": ("# @package _global_\ndefaults: [[a], [b]]\n", False),
    "default that is not there": ("# @package _global_\ndefaults: [nowhere]\n", False),
    "option that is not there": ("# @package _global_\ndefaults:\n  - override /model: cn\n", False),
    "group that is not there": ("# @package _global_\ndefaults:\n  - override /modle: cnn\n", False),
    "itself as its default": ("# @package _global_\ndefaults: [own]\n", False),
    "default in another folder": ("# @package _global_\ndefaults: [../../x]\n", False),
    "default by a whole path": ("# @package _global_\ndefaults: [/etc/passwd]\n", False),
    "default with a reference": ("# @package _global_\ndefaults:\n  - function\n  - /model: ${nope}\n", False),
    "default twice": ("# @package _global_\ndefaults: [function, function]\n", None),
    "optional default": ("# @package _global_\ndefaults: [function, {optional nowhere: x}]\n", True),
    "another package": ("# @package model.x.y\ndefaults: [function]\n", False),
    "no package": ("steps: 3\n", False),
    "odd package": ("# @package ]]]\nsteps: 3\n", False),
    "package of Hydra": ("# @package hydra\nrun: {dir: ../../x}\n", False),
    "a secret": (HEAD + "optimizer:\n  lr: ${oc.env:HOME}\n", False),
    "a reference to nothing": (HEAD + "steps: ${nope}\n", False),
    "a reference to itself": (HEAD + "steps: ${steps}\n", False),
    "an open reference": (HEAD + "steps: ${seed\n", False),
    "an unknown resolver": (HEAD + "steps: ${nope:1}\n", False),
    "a key for Hydra": (HEAD + "hydra:\n  nope: 3\n", False),
    "a sweep": (HEAD + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n", True),
    "an endless sweep": (HEAD + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: range(1,1e12)\n", False),
    "a sweep of nothing": (HEAD + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: choice()\n", False),
    "a sweep over nodes": (HEAD + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: {a: b}\n", False),
    "a sweep over an unknown key": (HEAD + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      sede: 1,2\n", False),
    "sweeps in a list": (HEAD + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params: [seed=1,2]\n", False),
    "another mode": (HEAD + "hydra:\n  mode: TWICE\n", False),
    "names of folders": (HEAD + "hydra:\n  sweep:\n    subdir: ../../x\n", False),
    "name of the log": (HEAD + "hydra:\n  job:\n    name: ../../x\n", False),
    "another place for the record": (HEAD + "hydra:\n  output_subdir: ../../x\n", False),
    "another log": (HEAD + "hydra:\n  job_logging:\n    handlers:\n      file:\n        filename: ../../x\n", False),
    "a callable in the log": (HEAD + f"hydra:\n  job_logging:\n    formatters:\n      x: {{(): os.mkdir, path: {CANARY}}}\n", False),
    "a callback": (HEAD + f"hydra:\n  callbacks:\n    x: {{_target_: os.mkdir, path: {CANARY}}}\n", False),
    "a launcher that is none": (HEAD + f"hydra:\n  launcher: {{_target_: os.mkdir, path: {CANARY}}}\n", False),
    "a sweeper that is none": (HEAD + f"hydra:\n  sweeper: {{_target_: os.mkdir, path: {CANARY}}}\n", False),
    "a search path": (HEAD + "hydra:\n  searchpath: [file://../x]\n", False),
}  # fmt: skip


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """A command line, and the files that lie where it is typed. `ROOT` in a word is the folder above that place."""

    kind: str
    words: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    right: bool | None = None  # whether it must be planned (True), or refused (False)

    def __str__(self) -> str:
        files = f", with {sorted({**self.files, **self.links})}" if self.files or self.links else ""
        return f"{self.kind}: {[word if len(word) < 200 else word[:200] + '…' for word in self.words]}{files}"


def cases(count: int, random_: random.Random) -> list[Case]:
    """`count` cases of all kinds in turn; as many files as there are of them, if there are enough."""
    kinds = [_unchanged, _value, _value, _value, _key, _letters, _prefix, _together, _flag, _hydra, _target, _file, _file, _resume, _group]
    files = list(FILES)
    random_.shuffle(files)
    found = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        if kind is _file and files:
            found.append(_of_file(files.pop()))
        else:
            found.append(kind(random_))
    return found


def _unchanged(random_: random.Random) -> Case:
    """A command line as people type it: to see that what is right still is."""
    return Case("unchanged", random_.choice(LINES), right=True)


def _line(random_: random.Random) -> list[str]:
    return list(random_.choice(LINES))


def _odd(random_: random.Random) -> str:
    return random_.choice(random_.choice(VALUES))


def _key_of(line: Sequence[str], random_: random.Random) -> str:
    """A key that the config of a line has, or that it sets."""
    typed = [word.partition("=")[0] for word in line if "=" in word and not word.startswith("-")]
    return random_.choice(typed) if typed and random_.random() < 0.3 else random_.choice(keys())


def _value(random_: random.Random) -> Case:
    """A key with an odd value, as it is or in quotes."""
    line = _line(random_)
    key, value = _key_of(line, random_), _odd(random_)
    if random_.random() < 0.15:
        value = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if random_.random() < 0.1 and "-m" not in line:
        line.append("-m")
    return Case("value", _put(line, f"{key}={value}", random_))


def _put(line: list[str], word: str, random_: random.Random) -> tuple[str, ...]:
    line = [other for other in line if other.partition("=")[0] != word.partition("=")[0]]
    line.insert(random_.randint(0, len(line)) if line and line[0] not in ("--cfg", "--info") else len(line), word)
    return tuple(line)


def _key(random_: random.Random) -> Case:
    """A key that there is not, or one misspelt."""
    key = random_.choice(keys())
    at = random_.randrange(len(key))
    spellings = [key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:], key[:at] + "x" + key[at + 1 :], key.upper(), f"{key}.x"]
    odd = random_.choice([random_.choice(ODD_KEYS), random_.choice(ODD_KEYS), random_.choice(spellings)])
    value = random_.choice(["1", "mlp", "[1]", "{a:1}", "null", "0,1", ""])
    return Case("key", _put(_line(random_), f"{random_.choice(('', '', '', '+', '++', '~'))}{odd}={value}", random_))


def _letters(random_: random.Random) -> Case:
    """A line with letters inserted, left out or exchanged."""
    line = _line(random_) or ["seed=1"]
    for _ in range(random_.randint(1, 3)):
        place = random_.randrange(len(line))
        word = line[place]
        at = random_.randint(0, len(word))
        odd = random_.choice([*"=[]{}()'\"\\$,.:@/~+-%*# \0\n\x1b", "é", "${", "../", "a" * 300, "choice(", "range("])
        line[place] = random_.choice([word[:at] + odd + word[at:], word[:at] + word[at + random_.randint(1, 4) :], word[at:] + word[:at]])
    return Case("letters", tuple(line))


def _prefix(random_: random.Random) -> Case:
    """Keys added, forced or deleted."""
    key, value = random_.choice([*keys(), *GROUPS, *ODD_KEYS[:40]]), random_.choice(["", "=1", "=null", "=mlp", "={a:1}", f"={_odd(random_)}"])
    return Case("prefix", _put(_line(random_), random_.choice(["+", "++", "~", "~~", "+~", "-+", "+++", "~+"]) + key + value, random_))


def _together(random_: random.Random) -> Case:
    """What does not go together: a key twice, two lines in one, sweeps without -m, -m without a sweep."""
    line, key = _line(random_), random_.choice(keys())
    twice = [f"{key}={_odd(random_)}", f"{key}={random_.choice(NUMBERS)}"]
    how = random_.randrange(5)
    words = [
        [*line, *twice],
        [*line, *_line(random_)],
        [word for word in line if word not in ("-m", "--multirun")],
        [*line, "-m"],
        [*line, f"{random_.choice(('batch_size', 'depth', 'model', 'seed', key))}={random_.choice(SWEEPS)}", "-m"],
    ][how]
    return Case("together", tuple(words))


def _flag(random_: random.Random) -> Case:
    """Flags misspelt, in odd places, without or with the wrong values."""
    line = _line(random_)
    for _ in range(random_.randint(1, 2)):
        line.insert(random_.randint(0, len(line)), random_.choice(FLAGS))
    return Case("flag", tuple(line))


def _hydra(random_: random.Random) -> Case:
    """Settings of Hydra's own."""
    key = random_.choice(HYDRA)
    values = [value for value in (*PATHS, *TEXTS, *CONTROLS, *CONTAINERS, *REFERENCES, *NUMBERS, *LONG) if value not in ("/", "//x")]
    value = random_.choice(values).replace("/tmp/hw1-fault-x", "ROOT/x")
    if "_target_" in key or "class" in key or "()" in key:
        value = random_.choice(FORBIDDEN)["_target_"]
    return Case("hydra", _put(_line(random_), f"{random_.choice(('', '', '+', '++', '~'))}{key}={value}", random_))


def _target(random_: random.Random) -> Case:
    """Something that no config may call: as a part, within one, in a list, or as a function to be called later."""
    node = random_.choice(FORBIDDEN)
    if random_.random() < 0.3:
        node = {**node, "_partial_": True}
    place = random_.choice(["model", "dataset", "optimizer", "loss", "experiment", "dataset.target", "+model.body", "+model.bodies",
                            "experiment.endpoints", "+optimizer.a", "+loss.weight", "+schedule.x", "alpha", "steps", "allow_targets"])  # fmt: skip
    inner = random_.choice([node, [node], {"a": [1, {"b": node}]}]) if "." in place else node
    text = compact(inner)
    if place in ("model", "dataset", "optimizer", "loss", "experiment") and random_.random() < 0.5:
        words = [f"{'' if key == '_target_' else '+'}{place}.{key}={compact(value)}" for key, value in node.items()]
    else:
        words = [f"{place}={text}"]
    line = random_.choice([list(line) for line in LINES if "--cfg" not in line and "--info" not in line])
    return Case("target", (*line, *words), right=False)


def compact(value: Any) -> str:
    """A value in the grammar of overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{compact(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact, value)) + "]"
    text = {None: "null", True: "true", False: "false"}.get(value) if value is None or isinstance(value, bool) else None
    if text or isinstance(value, int | float):
        return text or str(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _group(random_: random.Random) -> Case:
    """Groups with options that there are not, or that do not go together."""
    group = random_.choice(GROUPS)
    option = random_.choice([_odd(random_), _odd(random_), *options(group)])
    at = random_.choice(["", "", "", "@_global_", "@model", "@x", "@hydra"])
    return Case("group", _put(_line(random_), f"{random_.choice(('', '', '', '+', '~'))}{group}{at}={option}", random_))


def _of_file(name: str) -> Case:
    content, right = FILES[name]
    content = content.encode() if isinstance(content, str) else content
    return Case(f"file, {name}", ("--config-dir", "own", "experiment=own"), {"own/experiment/own.yaml": content}, right=right)


def _file(random_: random.Random) -> Case:
    """A config file of another group, one with forbidden targets, odd folders, a real file with some bytes changed."""
    how = random_.randrange(6)
    command = ("--config-dir", "own")
    if how == 0:  # the file of a part
        group = random_.choice(GROUPS[1:6])
        content, _ = FILES[random_.choice(list(FILES))]
        text = content.encode() if isinstance(content, str) else content
        return Case("file of a part", (*command, f"{group}=own"), {f"own/{group}/own.yaml": text.replace(HEAD.encode(), b"")})
    if how == 1:  # forbidden targets
        node = random_.choice(FORBIDDEN)
        node = random_.choice([node, {**node, "_partial_": True}])
        place = random_.choice(["model", "loss", "optimizer", "dataset", "experiment"])
        inner = random_.choice([node, {"_target_": "torch.nn.Sequential", "x": node}, {"_target_": "hw1.models.mlp", "widths": [node]}])
        return Case("file with a forbidden target", (*command, "experiment=own"),
                    {"own/experiment/own.yaml": (HEAD + json.dumps({place: inner})[1:-1] + "\n").encode()}, right=False)  # fmt: skip
    if how == 2:  # links that lead nowhere, or round and round
        links = random_.choice([
            {"own/experiment/own.yaml": "own.yaml"}, {"own/experiment/own.yaml": "nowhere"}, {"own/experiment": "../own/experiment"},
            {"own/experiment/own.yaml": "/dev/null"}, {"own/experiment/own.yaml": "/etc"}, {"own": "own"}, {"own/experiment": ".."},
        ])  # fmt: skip
        return Case("file that is a link", (*command, "experiment=own"), {"own/note": b""} if "own" not in links else {}, links)
    if how == 3:  # folders in place of files, and the other way round
        files = random_.choice([{"own/experiment/own.yaml/x": b""}, {"own/experiment": b"x"}, {"own": b"x"}, {"own/config.yaml": b"seed: 3\n"},
                                {"own/experiment.yaml": b"a: 1\n"}, {"own/schema.yaml": b"a: 1\n"}, {"own/model/mlp.yaml": b"a: 1\n"},
                                {"own/hydra/config.yaml": b"a: 1\n"}, {"own/hydra/launcher/joblib.yaml": b"a: 1\n"}])  # fmt: skip
        return Case("folder for a file", (*command, random_.choice(["experiment=own", "model=mlp", "experiment=function"])), files)
    content = random_.choice(SHIPPED).read_bytes()
    changed = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(changed))
        odd = random_.choice([b"\t", b"\0", b"\xff", b"\n", b"  ", b":", b"[", b"}", b"'", b"*a", b"&a ", b"${", b"- ", b"? ", b"!!x ", b"%", b"|", b">"])
        changed[at : at + random_.choice([0, 0, 1, 3, 30])] = odd
    return Case("file with other bytes", (*command, "experiment=own"), {"own/experiment/own.yaml": bytes(changed)})


SHIPPED = sorted((harness.ROOT / "conf" / "experiment").glob("*.yaml"))
PLAN: dict[str, Any] = {
    "experiment": "function", "command": "python -m hw1 seed=0,1 steps=3 -m", "words": ["seed=0,1", "steps=3", "-m"], "directory": "HERE",
    "keys": ["seed"], "headline": "test_r2", "version": "0", "jobs": [{"job": 0, "overrides": {"seed": 0, "steps": 3}},
    {"job": 1, "overrides": {"seed": 1, "steps": 3}}],
}  # fmt: skip


def _resume(random_: random.Random) -> Case:
    """resume= of odd folders, beside odd words, and of plans that somebody has changed."""
    how = random_.randrange(4)
    if how == 0:
        return Case("resume", (f"resume={_odd(random_)}",), right=False)
    if how == 1:
        return Case("resume", tuple(random_.sample(["resume=sweep", *_line(random_), random_.choice(FLAGS)], 2)))
    plan = json.loads(json.dumps(PLAN))
    node = random_.choice(FORBIDDEN)
    harm = random_.randrange(9)
    odd = random_.choice([None, 0, 3, -1, True, 1.5, "", "x", "../..", "\0", "a\x1b[31m", [], {}, [1], [[1]], [None], {"a": 1}, ["-m"], "é" * 5000,
                          {"job": 0}, [{"job": 0}], [{"overrides": 3}], [{"job": "a", "overrides": {}}]])  # fmt: skip
    key = random_.choice(list(plan))
    if harm < 4:
        plan[key] = odd
    elif harm == 4:
        del plan[key]
    elif harm == 5:
        plan["words"] = [*plan["words"], f"model={compact(node)}"]
    elif harm == 6:
        plan["words"] = [*plan["words"], random_.choice(["hydra.sweep.subdir=../../x", "hydra.output_subdir=../x", "hydra.job.name=../../x",
                                                         "resume=sweep", "hydra.sweep.dir=../x", "--foo", "--cfg=job", "seed=5"])]  # fmt: skip
    elif harm == 7:
        plan["jobs"][0]["job"] = odd
    text = json.dumps(plan).encode()
    if harm == 8:
        at = random_.randrange(len(text))
        text = random_.choice([text[:at], text[:at] + b"\xff" + text[at:], text[:at] + text[at + 1 :], b"[" * 100_000, b"", b"null", b"9" * 5000])
    return Case("resume", ("resume=sweep",), {"sweep/sweep.json": text}, right=False if harm == 5 or (harm == 4 and key in ("words", "directory", "jobs")) else None)


_KEYS: list[str] = []


def keys() -> list[str]:
    """Every key of every experiment's config, and of the parts that it could have."""
    if not _KEYS:
        from hydra import compose, initialize_config_dir
        from omegaconf import OmegaConf

        found = set()
        with initialize_config_dir(str(harness.ROOT / "conf"), version_base="1.3"):
            for words in [[f"experiment={name}"] for name in EXPERIMENTS] + [[f"{group}={name}"] for group in GROUPS[1:5] for name in options(group)]:
                found |= set(_dotted(OmegaConf.to_container(compose("config", words), resolve=False)))
        _KEYS.extend(sorted(found))
    return _KEYS


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")


def options(group: str) -> list[str]:
    """The options that we have for a group."""
    return sorted(file.stem for file in (harness.ROOT / "conf" / group).glob("*.yaml"))


# ---- the oracle ----

PLANNED = "hw1-inputs: planned: "
SETTINGS = ("-m", "--config-dir", "hydra.sweeper.params", "hydra/sweeper=basic", "hydra.run.dir", "hydra.sweep.dir", "hydra.launcher", "hydra/launcher", "hydra.verbose", "hydra.job.env_set", "hydra.searchpath")


@dataclass(frozen=True)
class Answer:
    """What a command line came to: its exit code (0 for a plan), what it printed, what it made, how long it took."""

    code: int | None
    out: str
    err: str
    planned: list[str] | None  # for Hydra
    made: list[str]


class Planned(BaseException):
    """Raised in place of starting jobs."""


def _record() -> None:
    """In the child: go as far as starting jobs, and say with what."""
    import resource
    import sys

    from hw1 import compose

    real = compose.launch

    def launch(arguments: Sequence[str], *more: Any, **settings: Any) -> None:
        if any(word.startswith("-") and word not in ("-m", "--config-dir") for word in arguments):
            return real(arguments, *more, **settings)  # --cfg and its like
        print(PLANNED + json.dumps(list(arguments)), file=sys.stderr)
        raise Planned

    compose.launch = launch
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def plan(case: Case, folder: Path, data: Path, disturb: Callable[[], object] | None = None) -> Answer:
    """Plan a case in a folder of its own."""
    here = lay_out(case, folder)
    before = tree(folder)

    def both() -> None:
        _record()
        if disturb:
            disturb()

    said = harness.command_line(words_of(case, folder, data), here, both, timeout=SECONDS)
    err, mark, rest = said["err"].partition(PLANNED)
    arguments = json.loads(rest.partition("\n")[0]) if mark else None
    return Answer(0 if mark else said["code"], said["out"], err, arguments, sorted(tree(folder) - before))


def words_of(case: Case, folder: Path, data: Path) -> list[str]:
    """The words of a case, with a folder of data sets unless they name one."""
    words = [word.replace("ROOT", str(folder)) for word in case.words]
    bare = any("data_dir" in word for word in words) or any(word.startswith(("--cfg", "--info", "resume")) for word in words)
    return words if bare else [*words, f"data_dir={data}"]


def lay_out(case: Case, folder: Path) -> Path:
    """Write the files of a case; the folder in which it is typed."""
    here = folder / "here"
    here.mkdir(parents=True)
    for name, content in case.files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content.replace(b"HERE", str(here).encode()))
    for name, target in case.links.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).symlink_to(target)
    return here


def tree(folder: Path) -> set[str]:
    """Everything below a folder; links are not followed."""
    import os

    return {os.path.relpath(os.path.join(place, name), folder) for place, *names in os.walk(folder) for name in sum(names, [])}  # noqa: PTH118, RUF017


def complaints(case: Case, answer: Answer) -> list[str]:
    """What is wrong with what a case came to; nothing, if it is as it should be."""
    found = []
    if answer.code == 2:
        line = answer.err.removesuffix("\n")
        found += [f"had to be planned: {line}" if case.right else ""]
        found += ["says more than one line" if "\n" in line else ""]
        found += ["begins with " + repr(line[:20]) if not line.startswith("error: ") else ""]
        found += ["is too long" if len(line) >= LONGEST else "", "has control characters" if not line.replace("\n", "").isprintable() else ""]
        found += ["shows an object" if re.search(r"<[a-zA-Z_.]+ object|<class |Traceback", line) else ""]
        made = [name for name in answer.made if name != "here/sweep/.lock"]
        found += ["prints something, too" if answer.out else "", f"made {made[:5]}" if made else ""]
    elif answer.code == 0:
        found += ["had to be refused" if case.right is False else "", "says something" if answer.err else ""]
        if answer.planned is None:
            found += [f"made {answer.made[:5]}" if answer.made else "", "printed nothing" if not answer.out else ""]
        else:
            named = any("data_dir" in word for word in case.words)
            made = [name for name in answer.made if not (named or _in_place(name, answer.planned))]
            odd = [word for word in answer.planned if word.lstrip("+~").startswith("hydra") and not word.lstrip("+").startswith(SETTINGS)]
            found += [f"made {made[:5]}" if made else "", f"lets through {odd}" if odd else ""]
    else:
        found += [f"exit code {answer.code}: {answer.err[-1500:] if answer.code is None else answer.err[-300:]}"]
    return [text for text in found if text]


def _in_place(name: str, planned: Sequence[str]) -> bool:
    chosen = any(word.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) and not re.search(r"dir='.*(outputs|multirun)/", word) for word in planned)
    return name.startswith(("here/outputs", "here/multirun", "here/sweep", "here/data")) or chosen


# ---- what is really run ----

TINY = {"threads": "1", "jobs": "1", "replicas": "1", "steps": "2", "store": "runs"}
HEAVY = r"\d{4}|e\d|range|launcher|dir="


def small(case: Case, answer: Answer) -> list[str] | None:
    """The words of a planned case, made small; None for one that would take long, or write elsewhere."""
    typed = [word.lstrip("+~").partition("=")[0] for word in case.words]
    lengths = {"steps", "epochs"} & set(typed)
    heavy = any(re.search(HEAVY, word) for word in case.words)
    images = any(word.startswith("experiment=") for word in case.words) and "dataset=digits" not in case.words
    unchanged = case.kind == "unchanged" or case.words in LINES
    if answer.planned is None or unchanged or case.files or heavy or (images and "experiment=function" not in case.words):
        return None
    return [f"{key}={value}" for key, value in TINY.items() if key not in typed and not (key == "steps" and lengths)]


def run(case: Case, more: Sequence[str], folder: Path, data: Path) -> list[str]:
    """Really run a planned case; what is wrong with how it ended."""
    here = lay_out(case, folder)
    said = harness.command_line([*words_of(case, folder, data), *more], here, timeout=SECONDS * 10)
    states = {file.parent: json.loads(file.read_bytes()) for file in here.rglob("result.json")}
    if said["code"] not in (0, 1, 2) or "Traceback" in said["out"] + said["err"]:
        return [f"exit code {said['code']}, {said['err'][-1000:]}"]
    found = ["no result.json"] if not states else []
    for place, state in states.items():
        failed = state["status"] == "failed" and (place / "error.txt").exists() and said["code"] in (1, 2)
        if not failed and (state["status"] != "ok" or (place / "error.txt").exists()):
            found.append(f"exit code {said['code']}, and {place.name} is {state['status']}")
    if said["code"] == 0 and said["err"]:
        found.append(f"says {said['err'][-300:]}")
    return found


def in_a_process(case: Case, answer: Answer, folder: Path, data: Path) -> list[str]:
    """Give a case that starts nothing to a process of its own; what differs from what the child said."""
    from conftest import run_program

    here = lay_out(case, folder)
    done = run_program(here, words_of(case, folder, data))
    before, now = (text.replace(str(place), "ROOT") for text, place in ((answer.err, folder.parent / "planned"), (done.err, folder)))
    return [] if (done.code, now) == (answer.code, before) else [f"in a process of its own: exit code {done.code}, {now[-500:]}"]


# ---- the check ----


def without_checks() -> None:
    """Control: a config is what it is."""
    from hw1 import checks

    checks.check = lambda config: None


def without_prefixes() -> None:
    """Control: whatever can be imported may be called."""
    import importlib

    from hw1 import parts

    def find(target: str, allow: Sequence[str] = (), key: str = "") -> Any:
        module, _, name = target.rpartition(".")
        return getattr(importlib.import_module(module), name)

    parts.find = find


def without_one_line() -> None:
    """Control: an error is shown as Python does."""
    from hw1 import cli

    def complain(error: Exception) -> int:
        raise error

    cli.complain = complain


def without_order() -> None:
    """Control: a folder is made before anything is looked at."""
    from hw1 import compose

    Path("outputs").mkdir()
    assert compose


CONTROLS_OF = {without_checks: "out of range", without_prefixes: "a forbidden function", without_one_line: "broken", without_order: "broken"}


def check(size: Size, folder: Path) -> Row:
    """Plan every case, really run some of those that pass, and give some of the others to processes of their own."""
    import hydra  # noqa: F401 (before children are forked: each would import them anew)
    import torch  # noqa: F401

    from hw1 import cli, laboratory, outcome, sweep  # noqa: F401

    row, data, slowest = Row("mutated command lines and config files"), folder / "data", 0.0
    counts = dict.fromkeys(("refused", "planned", "shown", "run", "in a process of their own"), 0)
    for number, case in enumerate(cases(size.pick(1000, 25), size.random("inputs"))):
        place, started = folder / str(number), time.perf_counter()
        answer = plan(case, place / "planned", data)
        seconds = time.perf_counter() - started
        slowest = max(slowest, seconds)
        found = complaints(case, answer)
        counts["refused" if answer.code == 2 else "planned" if answer.planned is not None else "shown"] += 1
        more = small(case, answer)
        if not found and more is not None and counts["run"] < size.pick(30, 1):
            counts["run"] += 1
            found = run(case, more, place / "run", data)
        typeable = not any("\0" in word for word in case.words)
        if not found and answer.planned is None and typeable and counts["in a process of their own"] < size.pick(50, 1):
            counts["in a process of their own"] += 1
            found = in_a_process(case, answer, place / "typed", data)
        row.injected += 1
        row.survived += not found
        row.problems += [f"seed {size.seed}, number {number}, {case}: {'; '.join(found)}"] if found else []
        shutil.rmtree(place, ignore_errors=True)
    for without, name in CONTROLS_OF.items():
        case = _of_file(name)
        row.controls[without.__name__] = bool(complaints(case, plan(case, folder / without.__name__, data, without)))
    row.note = ", ".join(f"{count} {what}" for what, count in counts.items()) + f"; slowest {slowest:.1f} s"
    return row
