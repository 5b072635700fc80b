"""What was measured once is not measured again: tables of experiments, kept in the store by what decides them.

    <store>/.measured/<key>/   <table>.csv, as the experiment gave them
                               measured.json: what they were measured of, by what
                               SHA256SUMS

They are written, checked and set aside as runs are, and each may be missing: then they are measured again.
"""

import contextlib
import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from hw1 import parts
from hw1.errors import one_line, system_words
from hw1.experiments import Experiment, Tables
from hw1.files import read_table, write_atomically, write_table
from hw1.machine import version_of
from hw1.recipe import KEY_LENGTH, Recipe, code_fingerprint, load_dataset, recipe_key, source_digest
from hw1.store import READ_ONLY, Damaged, Store

if TYPE_CHECKING:
    from hw1.data import Dataset
    from hw1.machine import Machine

log = logging.getLogger(__name__)

# Whose code decides what is measured, beside the experiment's own and that which the keys of the runs cover already:
# networks, data on the device, training, evaluation. What concludes and draws is done anew each time.
MEASURING = ("measures/*.py", "errors.py", "experiments/__init__.py", "files.py", "laboratory.py", "machine.py")
LIBRARIES = ("numpy", "pandas", "scipy", "torch")  # of whose versions major and minor count


class Known(Protocol):
    """What must be known of a run to find what was measured of it."""

    key: str
    info: dict[str, Any]

    @property
    def dataset(self) -> "Dataset":
        """What it was trained and evaluated on."""


@dataclass
class Stored:
    """A run that is in the store, found without torch."""

    key: str
    info: dict[str, Any]
    dataset: "Dataset"


@dataclass(frozen=True)
class Measurement:
    """An experiment and the runs that it measures.

    Args:
        node: the config's `experiment`, resolved, which `experiment` was built of.
        runs: by the experiment's names for them.
        allow: further modules that its parts may come from.
    """

    node: Mapping[str, Any]
    experiment: Experiment
    runs: Mapping[str, Known]
    allow: Sequence[str] = ()

    @cached_property
    def about(self) -> dict[str, Any]:
        """All that decides the tables.

        A run counts by its key and its nonce: trained again, after damage or elsewhere, its last bits may differ. The
        words for the data's classes and unit stand in tables, and are in no run's key. Number of threads and kind of
        processor are left out as they are there; so is what an experiment of one's own reads beside its file and runs.
        """
        return {
            "experiment": self.node,
            "runs": {
                name: {
                    "key": run.key,
                    "nonce": run.info.get("nonce"),
                    "unit": run.dataset.unit,
                    "classes": run.dataset.classes,
                }
                for name, run in self.runs.items()
            },
            "code": self._code(),
            "libraries": {name: ".".join(version_of(name).split(".")[:2]) for name in LIBRARIES},
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 of it, 32 hexadecimal digits. To the order of its keys: that of an endpoint's is in its label."""
        return hashlib.sha256(json.dumps(self.about, default=str).encode()).hexdigest()[:KEY_LENGTH]

    @property
    def keys(self) -> list[str]:
        """Those of the runs, each once."""
        return list(dict.fromkeys(run.key for run in self.runs.values()))

    def _code(self) -> str:
        ours = [file for pattern in MEASURING for file in sorted(Path(__file__).parent.glob(pattern))]
        own = own_sources(self.experiment, self.node, self.allow)
        return hashlib.sha256("\n".join(map(source_digest, [*ours, *own])).encode()).hexdigest()


def own_sources(experiment: Experiment, node: Mapping[str, Any], allow: Sequence[str]) -> list[Path]:
    """The files of an experiment's classes, and of the parts of its node that are a user's own; sorted."""
    kinds = [kind for kind in type(experiment).__mro__ if kind.__module__ not in sys.stdlib_module_names]
    files: list[str | Path | None] = [inspect.getsourcefile(kind) for kind in kinds]
    files += [parts.source_file(target, allow) for target in parts.targets(node)]
    return sorted({Path(file) for file in files if file})


class Measured(Store):
    """Tables by key in a store of runs."""

    names = ()
    record = "measured.json"
    if_damaged = "damaged tables, they will be measured again"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.place = self.folder / ".measured"

    def recall(self, measurement: Measurement, folder: Path, say: Callable[[str], None]) -> Tables | None:
        """Put stored tables into a job's folder if they and the runs that they are of are whole.

        Raises: Damaged, OSError for those that are not; `obtain` then sees to it. Needs no torch.
        """
        if not self.path(measurement.key).exists():
            return None
        for key in measurement.keys:
            Store(self.folder).verify(key)
        self.verify(measurement.key)
        contents = self._contents(measurement.key)
        for key in measurement.keys:
            say(f"run {key[:8]} was in the store: nothing trained")
        return self._give(contents, measurement, folder, say)

    def obtain(
        self, measurement: Measurement, folder: Path, environment: Mapping[str, Any], say: Callable[[str], None]
    ) -> tuple[Tables, bool]:
        """Put the tables of a measurement into a job's folder: those that are stored, checked, or new ones.

        What the store cannot give or take costs a line in the log, and no job.

        Args:
            measurement: with runs that can be measured.
            environment: recorded with new ones.
            say: told what is done.
        Returns: the tables as one who reads these files has them, that a job and its repetition go the same way; and
            whether they were measured.
        """
        key, contents = measurement.key, None
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # a store that cannot be written serves what it has
                held.enter_context(self.lock(key, lambda: say("waiting for another job that measures the same")))
            try:
                contents = self._contents(key) if self.holds(key) else None
            except OSError as error:
                log.warning("cannot use what was measured before: %s", one_line(system_words(error, self.place)))
            if contents is not None:
                return self._give(contents, measurement, folder, say), False
            say("measuring")
            tables = measurement.experiment.measure(cast("Any", measurement.runs))
            for name, table in tables.items():
                write_table(folder / f"{name}.csv", table)
            names = sorted(f"{name}.csv" for name in tables)
            self._keep(key, folder, names, {**measurement.about, "environment": environment})
        return _read(folder, names), True

    def _contents(self, key: str) -> dict[str, str]:
        """The tables' files by name, in its order."""
        return {file.name: file.read_bytes().decode() for file in sorted(self.path(key).glob("*.csv"))}

    @staticmethod
    def _give(
        contents: Mapping[str, str], measurement: Measurement, folder: Path, say: Callable[[str], None]
    ) -> Tables:
        runs = [key[:8] for key in measurement.keys]
        say(f"measured before (run{'s' * (len(runs) > 1)} {', '.join(runs)}): nothing measured")
        for name, text in contents.items():
            write_atomically(folder / name, text)
        return _read(folder, list(contents))

    def _keep(self, key: str, folder: Path, names: Sequence[str], about: Mapping[str, Any]) -> None:
        def write(scratch: Path) -> None:
            (scratch / self.record).write_text(json.dumps(about, default=str, indent=2) + "\n", encoding="utf-8")
            for name in names:
                (scratch / name).write_bytes((folder / name).read_bytes())

        try:
            self.publish(key, write)
        except OSError as error:
            level = logging.INFO if error.errno in READ_ONLY else logging.WARNING
            log.log(level, "cannot keep what was measured: %s", one_line(system_words(error, self.place)))

    def of(self, run: str) -> list[str]:
        """Keys of what was measured of a run, of which nothing is damaged."""
        found = []
        for key in self.list():
            with contextlib.suppress(Damaged, FileNotFoundError):
                self.verify(key)
                if run in (each["key"] for each in self.info(key)["runs"].values()):
                    found.append(key)
        return found

    def clean(self, everything: bool = False) -> Sequence[str]:
        """Take away what is damaged, or was measured of a run that is gone or was trained again; or everything.

        Gives the names of what was removed.
        """
        removed = []
        for key in self.list():
            if everything or not self.sound(key) or not self._still(key):
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    self.remove(key, force=True)
                    removed.append(str(self.path(key).relative_to(self.folder)))
        return removed

    def _still(self, key: str) -> bool:
        """Whether the runs that tables were measured of are in the store."""
        runs = Store(self.folder)
        try:
            return all(runs.info(run["key"])["nonce"] == run["nonce"] for run in self.info(key)["runs"].values())
        except (Damaged, KeyError):
            return False


def stored_runs(folder: Path, recipes: Mapping[str, Recipe], machine: "Machine") -> dict[str, Stored]:
    """The runs of recipes as the store in `folder` has them, unchecked, by the names of the recipes. Needs no torch.

    Raises: Damaged if one is not there.
    """
    store, found, allow = Store(folder), {}, machine.allow_targets
    torch_version = version_of("torch")
    for name, recipe in recipes.items():
        dataset = load_dataset(recipe, machine.data_dir, allow)
        key = recipe_key(recipe, dataset.sha256, code_fingerprint(recipe, allow), torch_version)
        found[name] = Stored(key, store.info(key), dataset)
    return found


def _read(folder: Path, names: Sequence[str]) -> Tables:
    import pandas as pd

    found = {}
    for name in names:
        with contextlib.suppress(pd.errors.EmptyDataError):  # a table without columns
            found[name.removesuffix(".csv")] = pd.DataFrame()
            found[name.removesuffix(".csv")] = read_table(folder / name)
    return found
