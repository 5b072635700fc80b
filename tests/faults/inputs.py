"""Mutated command lines and config files: each is refused in one line with exit code 2, or it is a valid plan.

A case is a command line with the files that it names. It is planned in a forked child, up to the moment when jobs
would be started; a sample of those that pass is really run, and a sample of all is given to a process of its own.
"""

import json
import os
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
from .odd import (
    CONTAINERS,
    CONTROLS,
    EXPERIMENTS,
    FILES,
    FLAGS,
    FORBIDDEN,
    GROUPS,
    HEAD,
    HYDRA,
    LINES,
    LONG,
    NUMBERS,
    ODD_KEYS,
    PATHS,
    REFERENCES,
    SWEEPS,
    TEXTS,
    VALUES,
)

SECONDS = 10  # that planning may take
LONGEST = 600  # characters of a refusal
MEMORY = 6 << 30  # bytes of address space of a child: a plan that needs more is one that hangs a laptop

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
    kinds = [
        _unchanged,
        _value,
        _value,
        _value,
        _key,
        _letters,
        _prefix,
        _together,
        _flag,
        _hydra,
        _target,
        _file,
        _file,
        _resume,
        _group,
    ]
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
    spellings = [
        key[:at] + key[at + 1 :],
        key[:at] + key[at] + key[at:],
        key[:at] + "x" + key[at + 1 :],
        key.upper(),
        f"{key}.x",
    ]
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
        line[place] = random_.choice(
            [word[:at] + odd + word[at:], word[:at] + word[at + random_.randint(1, 4) :], word[at:] + word[:at]]
        )
    return Case("letters", tuple(line))


def _prefix(random_: random.Random) -> Case:
    """Keys added, forced or deleted."""
    key, value = (
        random_.choice([*keys(), *GROUPS, *ODD_KEYS[:40]]),
        random_.choice(["", "=1", "=null", "=mlp", "={a:1}", f"={_odd(random_)}"]),
    )
    return Case(
        "prefix",
        _put(_line(random_), random_.choice(["+", "++", "~", "~~", "+~", "-+", "+++", "~+"]) + key + value, random_),
    )


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
    values = [
        value
        for value in (*PATHS, *TEXTS, *CONTROLS, *CONTAINERS, *REFERENCES, *NUMBERS, *LONG)
        if value not in ("/", "//x")
    ]
    value = random_.choice(values).replace("/tmp/hw1-fault-x", "ROOT/x")
    if "_target_" in key or "class" in key or "()" in key:
        value = random_.choice(FORBIDDEN)["_target_"]
    return Case("hydra", _put(_line(random_), f"{random_.choice(('', '', '+', '++', '~'))}{key}={value}", random_))


def _target(random_: random.Random) -> Case:
    """Something that no config may call: as a part, within one, in a list, or as a function to be called later."""
    node = random_.choice(FORBIDDEN)
    if random_.random() < 0.3:
        node = {**node, "_partial_": True}
    place = random_.choice(
        [
            "model",
            "dataset",
            "optimizer",
            "loss",
            "experiment",
            "dataset.target",
            "+model.body",
            "+model.bodies",
            "experiment.endpoints",
            "+optimizer.a",
            "+loss.weight",
            "+schedule.x",
            "alpha",
            "steps",
            "allow_targets",
        ]
    )
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
    return Case(
        f"file, {name}", ("--config-dir", "own", "experiment=own"), {"own/experiment/own.yaml": content}, right=right
    )


def _file(random_: random.Random) -> Case:
    """A config file of another group, one with forbidden targets, odd folders, a real file with some bytes changed."""
    how = random_.randrange(6)
    command = ("--config-dir", "own")
    if how == 0:  # the file of a part
        group = random_.choice(GROUPS[1:6])
        content, _ = FILES[random_.choice(list(FILES))]
        text = content.encode() if isinstance(content, str) else content
        return Case(
            "file of a part", (*command, f"{group}=own"), {f"own/{group}/own.yaml": text.replace(HEAD.encode(), b"")}
        )
    if how == 1:  # forbidden targets
        node = random_.choice(FORBIDDEN)
        node = random_.choice([node, {**node, "_partial_": True}])
        place = random_.choice(["model", "loss", "optimizer", "dataset", "experiment"])
        inner = random_.choice(
            [node, {"_target_": "torch.nn.Sequential", "x": node}, {"_target_": "hw1.models.mlp", "widths": [node]}]
        )
        return Case(
            "file with a forbidden target",
            (*command, "experiment=own"),
            {"own/experiment/own.yaml": (HEAD + json.dumps({place: inner})[1:-1] + "\n").encode()},
            right=False,
        )
    if how == 2:  # links that lead nowhere, or round and round
        links = random_.choice(
            [
                {"own/experiment/own.yaml": "own.yaml"},
                {"own/experiment/own.yaml": "nowhere"},
                {"own/experiment": "../own/experiment"},
                {"own/experiment/own.yaml": "/dev/null"},
                {"own/experiment/own.yaml": "/etc"},
                {"own": "own"},
                {"own/experiment": ".."},
            ]
        )
        return Case(
            "file that is a link", (*command, "experiment=own"), {"own/note": b""} if "own" not in links else {}, links
        )
    if how == 3:  # folders in place of files, and the other way round
        files = random_.choice(
            [
                {"own/experiment/own.yaml/x": b""},
                {"own/experiment": b"x"},
                {"own": b"x"},
                {"own/config.yaml": b"seed: 3\n"},
                {"own/experiment.yaml": b"a: 1\n"},
                {"own/schema.yaml": b"a: 1\n"},
                {"own/model/mlp.yaml": b"a: 1\n"},
                {"own/hydra/config.yaml": b"a: 1\n"},
                {"own/hydra/launcher/joblib.yaml": b"a: 1\n"},
            ]
        )
        return Case(
            "folder for a file",
            (*command, random_.choice(["experiment=own", "model=mlp", "experiment=function"])),
            files,
        )
    content = random_.choice(SHIPPED).read_bytes()
    changed = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(changed))
        odd = random_.choice(
            [
                b"\t",
                b"\0",
                b"\xff",
                b"\n",
                b"  ",
                b":",
                b"[",
                b"}",
                b"'",
                b"*a",
                b"&a ",
                b"${",
                b"- ",
                b"? ",
                b"!!x ",
                b"%",
                b"|",
                b">",
            ]
        )
        changed[at : at + random_.choice([0, 0, 1, 3, 30])] = odd
    return Case("file with other bytes", (*command, "experiment=own"), {"own/experiment/own.yaml": bytes(changed)})


SHIPPED = sorted((harness.ROOT / "conf" / "experiment").glob("*.yaml"))
PLAN: dict[str, Any] = {
    "experiment": "function",
    "command": "python -m hw1 seed=0,1 steps=3 -m",
    "words": ["seed=0,1", "steps=3", "-m"],
    "directory": "HERE",
    "keys": ["seed"],
    "headline": "test_r2",
    "version": "0",
    "jobs": [{"job": 0, "overrides": {"seed": 0, "steps": 3}}, {"job": 1, "overrides": {"seed": 1, "steps": 3}}],
}


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
    odd = random_.choice(
        [
            None,
            0,
            3,
            -1,
            True,
            1.5,
            "",
            "x",
            "../..",
            "\0",
            "a\x1b[31m",
            [],
            {},
            [1],
            [[1]],
            [None],
            {"a": 1},
            ["-m"],
            "é" * 5000,
            {"job": 0},
            [{"job": 0}],
            [{"overrides": 3}],
            [{"job": "a", "overrides": {}}],
        ]
    )
    key = random_.choice(list(plan))
    if harm < 4:
        plan[key] = odd
    elif harm == 4:
        del plan[key]
    elif harm == 5:
        plan["words"] = [*plan["words"], f"model={compact(node)}"]
    elif harm == 6:
        plan["words"] = [
            *plan["words"],
            random_.choice(
                [
                    "hydra.sweep.subdir=../../x",
                    "hydra.output_subdir=../x",
                    "hydra.job.name=../../x",
                    "resume=sweep",
                    "hydra.sweep.dir=../x",
                    "--foo",
                    "--cfg=job",
                    "seed=5",
                ]
            ),
        ]
    elif harm == 7:
        plan["jobs"][0]["job"] = odd
    text = json.dumps(plan).encode()
    if harm == 8:
        at = random_.randrange(len(text))
        text = random_.choice(
            [
                text[:at],
                text[:at] + b"\xff" + text[at:],
                text[:at] + text[at + 1 :],
                b"[" * 100_000,
                b"",
                b"null",
                b"9" * 5000,
            ]
        )
    return Case(
        "resume",
        ("resume=sweep",),
        {"sweep/sweep.json": text},
        right=False if harm == 5 or (harm == 4 and key in ("words", "directory", "jobs")) else None,
    )


_KEYS: list[str] = []


def keys() -> list[str]:
    """Every key of every experiment's config, and of the parts that it could have."""
    if not _KEYS:
        from hydra import compose, initialize_config_dir
        from omegaconf import OmegaConf

        found = set()
        with initialize_config_dir(str(harness.ROOT / "conf"), version_base="1.3"):
            for words in [[f"experiment={name}"] for name in EXPERIMENTS] + [
                [f"{group}={name}"] for group in GROUPS[1:5] for name in options(group)
            ]:
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
SETTINGS = (  # of Hydra, that a plan may contain
    "hydra.run.dir=", "hydra.sweep.dir=", "hydra.sweeper.params", "hydra/sweeper=basic", "hydra.launcher",
    "hydra/launcher", "hydra.verbose", "hydra.job.env_set", "hydra.job.env_copy", "hydra.searchpath",
)  # fmt: skip
PLACES = ("here/outputs", "here/multirun", "here/sweep", "here/data")  # where a plan may make something
USUAL = r"dir='.*(outputs|multirun|sweep)"  # folders that nobody chose


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
    bare = any("data_dir" in word for word in words) or any(
        word.startswith(("--cfg", "--info", "resume")) for word in words
    )
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
    walk = os.walk(folder)
    return {str(Path(place, name).relative_to(folder)) for place, ones, others in walk for name in ones + others}


def complaints(case: Case, answer: Answer) -> list[str]:
    """What is wrong with what a case came to; nothing, if it is as it should be."""
    if answer.code == 2:
        wrong = _about_refusal(case, answer)
    elif answer.code == 0:
        wrong = _about_plan(case, answer) if answer.planned is not None else _about_show(case, answer)
    else:
        wrong = {f"exit code {answer.code}: {answer.err[-1500:]}": True}
    return [words for words, holds in wrong.items() if holds]


def _about_refusal(case: Case, answer: Answer) -> dict[str, bool]:
    line = answer.err.removesuffix("\n")
    made = [name for name in answer.made if name != "here/sweep/.lock"]
    return {
        f"had to be planned: {line}": case.right is True,
        "says more than one line": "\n" in line,
        f"begins with {line[:20]!r}": not line.startswith("error: "),
        "is too long": len(line) >= LONGEST,
        "has control characters": not line.replace("\n", "").isprintable(),
        "shows an object": re.search(r"<[a-zA-Z_.]+ object|<class |Traceback", line) is not None,
        "prints something, too": answer.out != "",
        f"made {made[:5]}": made != [],
    }


def _about_show(case: Case, answer: Answer) -> dict[str, bool]:
    return {
        "had to be refused": case.right is False,
        "printed nothing": not answer.out,
        f"says {answer.err[-300:]}": answer.err != "",
        f"made {answer.made[:5]}": answer.made != [],
    }


def _about_plan(case: Case, answer: Answer) -> dict[str, bool]:
    planned = answer.planned or []
    where = [word for word in planned if word.startswith(("hydra.run.dir=", "hydra.sweep.dir="))]
    named = any("data_dir" in word for word in case.words) or any(not re.search(USUAL, word) for word in where)
    made = [name for name in answer.made if not (named or name.startswith(PLACES))]
    settings = [word.lstrip("+~") for word in planned if word.lstrip("+~").startswith("hydra")]
    odd = [word for word in settings if not word.startswith(SETTINGS)]
    return {
        "had to be refused": case.right is False,
        f"says {answer.err[-300:]}": answer.err != "",
        f"made {made[:5]}": made != [],
        f"lets through {odd}": odd != [],
    }


# ---- what is really run ----

TINY = {"threads": "1", "jobs": "1", "replicas": "1", "steps": "2", "store": "runs"}
HEAVY = r"\d{4}|e\d|range|launcher|dir="


def small(case: Case, answer: Answer) -> list[str] | None:
    """The words of a planned case, made small; None for one that would take long, or write elsewhere."""
    typed = [word.lstrip("+~").partition("=")[0] for word in case.words]
    lengths = {"steps", "epochs"} & set(typed)
    heavy = any(re.search(HEAVY, word) for word in case.words) or "control" in typed  # fixed_steps goes by epochs
    light = {"dataset=digits", "experiment=function"} & set(case.words) or "experiment" not in typed
    mutated = case.kind != "unchanged" and case.words not in LINES and not case.files
    if answer.planned is None or heavy or not light or not mutated:
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
    now = done.err.replace(str(folder), str(folder.parent / "planned"))
    same = (done.code, now) == (answer.code, answer.err)
    return [] if same else [f"in a process of its own: exit code {done.code}, {now[-500:]}"]


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
    Path("outputs").mkdir()


CONTROLS_OF = {
    without_checks: "out of range",
    without_prefixes: "a forbidden function",
    without_one_line: "broken",
    without_order: "broken",
}


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
