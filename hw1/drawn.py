"""What was drawn once is not drawn again: figures are copied from the folder that they were drawn into.

    <store>/.drawn/<key>.json   that folder, and the SHA-256 of each figure's files

The store holds no figure itself. One that was changed or removed since is drawn anew; so is every figure when tables,
code or libraries are others. It saves time, matplotlib's import included, and is never needed.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw1.experiments import Experiment, Tables
from hw1.files import clear_scratch, write_atomically, write_json
from hw1.machine import version_of
from hw1.measured import own_sources
from hw1.recipe import KEY_LENGTH

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

PLACE = ".drawn"
LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy")


@dataclass(frozen=True)
class Drawing:
    """What an experiment is to draw.

    Args:
        node: the config's `experiment`, resolved, which `experiment` was built of.
        tables: those of the experiment, those of its conclusion among them.
        swept: columns that a sweep added; [] for a job.
        allow: further modules that its parts may come from.
    """

    node: Mapping[str, Any]
    experiment: Experiment
    tables: Tables
    swept: Sequence[str]
    allow: Sequence[str] = ()

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that decides the figures, 32 hexadecimal digits. What an experiment of one's own reads beside
        its file is left out.
        """
        about = [self.node, list(self.swept), _code(), {name: version_of(name) for name in LIBRARIES}]
        own = own_sources(self.experiment, self.node, self.allow)
        about += [hashlib.sha256(file.read_bytes()).hexdigest() for file in own]
        about += [[name, _content(table)] for name, table in self.tables.items()]
        return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:KEY_LENGTH]


def draw(drawing: Drawing, folder: Path, store: Path | None) -> tuple[list[str], str]:
    """Put an experiment's figures into `folder`, each as `<name>.png` and `<name>.svg`: copies, or new ones.

    Args: store: where it is known what was drawn; None: nowhere.
    Returns: the figures' names, and "" or in one line why another could not be drawn.
    """
    record = _record(drawing, store) if store else None
    if record:
        with contextlib.suppress(OSError):  # who draws will say that the disk is full
            if (names := _copied(record, folder)) is not None:
                return names, ""
    from hw1 import figures  # with matplotlib, half a second

    names, problem = figures.draw(folder, drawing.experiment, drawing.tables, list(drawing.swept))
    if record and not problem:
        with contextlib.suppress(OSError):  # drawn again next time
            record.parent.mkdir(parents=True, exist_ok=True)
            sums = {name: _sums(_contents(folder, name)) for name in names}
            write_json(record, {"folder": str(folder.absolute()), "figures": sums})
    return names, problem


def clean(store: Path, everything: bool = False) -> Sequence[str]:
    """Forget figures that are not any more where they were drawn, or as they were; or all. Gives the records' names."""
    clear_scratch(store / PLACE)
    removed = []
    for record in sorted((store / PLACE).glob("*.json")):
        if everything or _found(record) is None:
            record.unlink(missing_ok=True)
            removed.append(str(record.relative_to(store)))
    return removed


def _record(drawing: Drawing, store: Path) -> Path | None:
    """The file that knows of a drawing, there or not; None for one that has no key: it must not cost a figure."""
    try:
        return store / PLACE / f"{drawing.key}.json"
    except Exception as error:
        log.info("figures that cannot be known again", exc_info=error)
        return None


def _copied(record: Path, folder: Path) -> list[str] | None:
    """The names of the figures that a record has, with their files in `folder`; None if one is not as it was."""
    found = _found(record)
    if found is None:
        return None
    for name, contents in found.items():
        for ending, content in contents.items():
            write_atomically(folder / f"{name}{ending}", content)
    return list(found)


def _found(record: Path) -> dict[str, dict[str, bytes]] | None:
    """Figure → ending → content, as they were drawn; None without a record, or if one of them is not as it was."""
    try:
        known = json.loads(record.read_bytes())
        names = {str(name): dict(sums) for name, sums in known["figures"].items()}
        if any(Path(name).name != name for name in names):
            return None  # no figure's
        folder = Path(known["folder"])
        found = {name: _contents(folder, name) for name in names}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if all(_sums(contents) == names[name] for name, contents in found.items()) else None


def _contents(folder: Path, name: str) -> dict[str, bytes]:
    return {ending: (folder / f"{name}{ending}").read_bytes() for ending in (".png", ".svg")}


def _sums(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {ending: hashlib.sha256(content).hexdigest() for ending, content in contents.items()}


@cache
def _code() -> str:
    """SHA-256 of all of hw1: what draws is little of it, but calls much."""
    root = Path(__file__).parent
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in sorted(root.rglob("*.py")))).hexdigest()


def _content(table: "pd.DataFrame") -> str:
    """SHA-256 of a table's columns, types and cells: numbers bit by bit, all else as Python writes it."""
    digest = hashlib.sha256()
    for name, column in [("", table.index), *table.items()]:
        cells = column.to_numpy()
        digest.update(repr((name, str(cells.dtype), len(cells))).encode())
        digest.update(cells.tobytes() if cells.dtype.kind in "biuf" else repr(cells.tolist()).encode())
    return digest.hexdigest()
