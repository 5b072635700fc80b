"""The calls that the store makes to the operating system: written down, and the n-th of them made to fail."""
# ruff: noqa: PTH109, PTH110, PTH115, PTH118, PTH120
# It stands below pathlib, which would come by here again.

import builtins
import contextlib
import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .harness import replaced

WRITES = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "write")
READS = ("open", "scandir", "stat", "lstat", "listdir", "read")
Call = tuple[str, str, str]  # name, path, and where it is moved


READ_ERRORS = (errno.ENFILE, errno.ESTALE)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)


class Calls:
    """Counts the calls that concern a folder, and lets one fail, or all of some names.

    Args:
        folders: calls on other paths pass uncounted.
        fails: which call, counted from 1; 0: none.
        code: the errno that it fails with; a `flock` passes where that is EACCES, which would not be an error but say
            that somebody else holds the lock.
        read_only: every call that changes something fails.
    """

    def __init__(self, *folders: Path, fails: int = 0, code: int = 0, read_only: bool = False) -> None:
        self.folders = tuple(os.path.realpath(folder) + os.sep for folder in folders)
        self.fails, self.code, self.read_only = fails, code, read_only
        self.made: list[Call] = []
        self.failed = ""
        self._quiet = False

    def meet(self, name: str, path: str | None, to: str = "") -> None:
        """Count a call, and fail if it is its turn. `path` None: by a descriptor of unknown path."""
        if self._quiet or not (path is None or self.concerns(path)):
            return
        self.made.append((name, path or "", to))
        changes = name in WRITES or (name == "open" and to.strip("rbt"))
        its_turn = len(self.made) == self.fails and (name, self.code) != ("flock", errno.EACCES)
        if its_turn or (self.read_only and changes):
            self.failed = f"{name} {path or ''}"
            raise OSError(self.code, os.strerror(self.code), path)

    def concerns(self, path: str | None) -> bool:
        """Whether a path is one of the folders, or below one."""
        return path is not None and (path + os.sep).startswith(self.folders)

    def path_of(self, target: Any, dir_fd: int | None = None) -> str | None:
        """The path that a call is about, absolute; links are not followed at its end."""
        self._quiet = True
        try:
            if isinstance(target, int):
                return os.readlink(f"/proc/self/fd/{target}") if os.path.exists("/proc/self/fd") else None
            base = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
            return os.path.normpath(os.path.join(base, os.fsdecode(target)))
        except OSError:
            return None
        finally:
            self._quiet = False

    @contextlib.contextmanager
    def watched(self) -> Iterator["Calls"]:
        """In this block, all calls go by here."""
        ours = {name: self._wrap(name) for name in ("mkdir", "unlink", "rmdir", "fsync", "scandir", "stat", "lstat")}
        ours |= {name: self._wrap(name, two=True) for name in ("rename", "replace")} | {"open": self._os_open()}
        opening = self._io_open()
        with (
            replaced(os, **ours),
            replaced(io, open=opening),
            replaced(builtins, open=opening),
            replaced(fcntl, flock=self._wrap_flock()),
        ):
            yield self

    def _wrap(self, name: str, two: bool = False) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            where = self.path_of(path, options.get("dir_fd"))
            to = self.path_of(arguments[0]) or "" if two else ""
            self.meet(name, where, to)
            return real(path, *arguments, **options)

        return call

    def _wrap_flock(self) -> Callable[..., Any]:
        real = fcntl.flock

        def flock(descriptor: Any, operation: int) -> None:
            self.meet("flock", self.path_of(descriptor))
            real(descriptor, operation)

        return flock

    def _os_open(self) -> Callable[..., int]:
        real = os.open

        def call(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            self.meet(
                "open", self.path_of(path, dir_fd), "w" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "r"
            )
            return real(path, flags, mode, dir_fd=dir_fd)

        return call

    def _io_open(self) -> Callable[..., Any]:
        real = io.open

        def call(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            where = self.path_of(file)
            self.meet("open", where, mode)
            stream = real(file, mode, *arguments, **options)
            return _Stream(stream, self, where) if self.concerns(where) else stream

        return call


class _Stream:
    """An open file whose reading and writing are calls, too."""

    def __init__(self, stream: Any, calls: Calls, path: str | None) -> None:
        self._stream, self._calls, self._path = stream, calls, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def write(self, content: Any) -> int:
        """Write, if it is not its turn to fail."""
        self._calls.meet("write", self._path)
        return int(self._stream.write(content))

    def read(self, *arguments: Any) -> Any:
        """Read, likewise."""
        self._calls.meet("read", self._path)
        return self._stream.read(*arguments)

    def readinto(self, *arguments: Any) -> Any:
        """Read into a buffer, likewise."""
        self._calls.meet("read", self._path)
        return self._stream.readinto(*arguments)


def unflushed(calls: list[Call]) -> list[str]:
    """Where a thing became visible before it was on disk, or where that it did was not put on disk afterwards.

    Of what is renamed out of `.tmp`: every file was flushed after it was last written, the folder itself after the
    last file was made in it, and the folder that it is renamed into afterwards.
    """
    complaints: list[str] = []
    dirty: set[str] = set()
    for number, (name, path, to) in enumerate(calls):
        if name == "write":
            dirty.add(path)
        elif name in ("mkdir", "open") and (name == "mkdir" or to[:1] in ("w", "x", "a")):
            dirty |= {path, os.path.dirname(path)}
        elif name == "fsync":
            dirty.discard(path)
        elif name in ("rename", "replace") and "/.tmp/" in path and not {".tmp", ".quarantine"} & set(Path(to).parts):
            late = [file for file in dirty if (file + os.sep).startswith(path + os.sep)]
            complaints += [f"{file} was not flushed before it became {to}" for file in sorted(late)]
            parent = os.path.dirname(to)
            if not any(call[:2] == ("fsync", parent) for call in calls[number + 1 :]):
                complaints.append(f"{parent} was not flushed after {to} came into it")
    return complaints
