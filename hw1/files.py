"""Writing files that others may be reading: a reader sees the old content or the new, never a part."""

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:  # its import takes 0.2 s, which bad input need not wait for
    import pandas as pd

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # what file systems without locks answer


class Busy(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def lock(file: Path, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold a lock that ends with its holder; `waiting` is called if one must wait, without it nobody waits.

    Where the file system has no locks, the block runs without, and is told so by False: they save work, and
    correctness must not need them.
    Raises: Busy if somebody else holds it, and there is nobody to tell that one waits.
    """
    from filelock import FileLock, Timeout  # takes 0.15 s to import

    held = FileLock(file)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        if waiting is None:
            raise Busy(str(file)) from error
        waiting()
        while not held.is_locked:  # in short turns, so that Ctrl-C is heard
            with contextlib.suppress(Timeout):
                held.acquire(timeout=0.5)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield held.is_locked
    finally:
        with contextlib.suppress(OSError):  # a network file system's; the lock ends with its descriptor anyway
            held.release()


def write_atomically(file: Path, content: str | bytes) -> None:
    """Replace a file in one step; a reader sees the old content or the new, never a part."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        scratch.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(file)) from error  # by the name that a person knows


def clear_scratch(folder: Path) -> None:
    """Take away what a killed process left of `write_atomically` in a folder that nobody else writes to now."""
    for scratch in folder.glob(".*.tmp"):
        scratch.unlink(missing_ok=True)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, keys in the order given."""
    write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_table(file: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, atomically; floats round-trip, and texts that a spreadsheet would run are disarmed."""
    write_atomically(file, _guarded(table).to_csv(index=False, lineterminator="\n"))


def read_table(file: Path | IO[bytes]) -> "pd.DataFrame":
    """Read a CSV of ours, floats bit for bit; texts such as "None" stay texts."""
    import pandas as pd

    # The very values that were written: a model may be called None, and a float is not its neighbour (pandas before 3.1
    # rounds unless told; from 3.1 on it is exact and the argument deprecated).
    settings: dict[str, Any] = {"keep_default_na": False, "na_values": ["", "nan", "NaN"]}
    if tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1):
        settings["float_precision"] = "round_trip"
    return pd.read_csv(file, **settings)


def _guarded(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A copy in which no string, column names included, is a formula to a spreadsheet."""
    import pandas as pd

    guarded = frame.rename(columns=_guard)
    for position, (_, column) in enumerate(guarded.items()):
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
            replaced = {value: _guard(value) for value in column.unique() if value != _guard(value)}
            if replaced:
                guarded.isetitem(position, [replaced.get(value, value) for value in column])
    return guarded


def _guard(value: Any) -> Any:
    """'=cmd() for =cmd(); what is a number stays one."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
