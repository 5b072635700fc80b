"""The store without one of its safeguards each: what the checks must notice, or they check nothing."""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hw1 import files
from hw1 import store as store_module
from hw1.store import FILES, SUMS, Damaged, Store

from .harness import replaced


def _sums(folder: Path) -> bytes:
    lines = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES)
    return "".join(lines).encode()


@contextlib.contextmanager
def straight_publish() -> Iterator[None]:
    """No rename: a run is written where it is read."""

    def publish(self: Store, key: str, write: Callable[[Path], None]) -> None:
        self.path(key).mkdir(parents=True)
        write(self.path(key))
        (self.path(key) / SUMS).write_bytes(_sums(self.path(key)))

    with replaced(Store, publish=publish):
        yield


@contextlib.contextmanager
def straight_state() -> Iterator[None]:
    """No rename: a training's state is written over the older one."""

    def keep_partial(self: Store, key: str, write: Callable[[Any], None]) -> None:
        import io

        whole = io.BytesIO()
        write(whole)
        file = self.folder / ".partial" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            stream.write(hashlib.sha256(f"{key}\n".encode() + whole.getvalue()).hexdigest().encode() + b"\n")
            stream.write(whole.getvalue())

    with replaced(Store, keep_partial=keep_partial):
        yield


@contextlib.contextmanager
def straight_files() -> Iterator[None]:
    """No rename: a job's tables are written where they are read."""

    def write_atomically(file: Path, text: str) -> None:
        with file.open("w", encoding="utf-8") as stream:
            stream.write(text)

    with replaced(files, write_atomically=write_atomically):
        yield


@contextlib.contextmanager
def remove_in_place() -> Iterator[None]:
    """No rename: a run is taken away file by file where it is read."""

    def remove(self: Store, key: str, force: bool = False) -> None:
        for file in sorted(self.path(key).iterdir()):
            file.unlink()
        self.path(key).rmdir()

    with replaced(Store, remove=remove):
        yield


@contextlib.contextmanager
def never_cleaned() -> Iterator[None]:
    """What killed processes left stays."""
    with replaced(Store, clean=lambda self: []):
        yield


@contextlib.contextmanager
def no_checksum() -> Iterator[None]:
    """A run is believed if its files are there."""

    def verify(self: Store, key: str) -> None:
        present = {entry.name for entry in self.path(key).iterdir()}
        if present != {*FILES, SUMS}:
            raise Damaged(f"{self.path(key)}: files are missing")

    with replaced(Store, verify=verify):
        yield


@contextlib.contextmanager
def sums_unchecked() -> Iterator[None]:
    """Checksums that do not cover themselves."""

    def verify(self: Store, key: str) -> None:
        folder = self.path(key)
        if {entry.name for entry in folder.iterdir() if entry.is_file()} != {*FILES, SUMS}:
            raise Damaged(f"{folder}: files are missing")
        written = (folder / SUMS).read_bytes()
        for name, line in zip(FILES, _sums(folder).splitlines(keepends=True), strict=True):
            if line not in written:
                raise Damaged(f"{folder / name}: content does not match its SHA-256")

    with replaced(Store, verify=verify):
        yield


@contextlib.contextmanager
def state_unchecked() -> Iterator[None]:
    """A training's state is believed whatever it is."""

    def partial(self: Store, key: str) -> bytes | None:
        file = self.folder / ".partial" / key
        return file.read_bytes().partition(b"\n")[2] if file.is_file() else None

    with replaced(Store, partial=partial):
        yield


@contextlib.contextmanager
def unreadable_is_damaged() -> Iterator[None]:
    """What cannot be read now is taken for damaged."""
    real = Store.verify

    def verify(self: Store, key: str) -> None:
        try:
            real(self, key)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Damaged(str(error)) from error

    with replaced(Store, verify=verify):
        yield


@contextlib.contextmanager
def unflushed() -> Iterator[None]:
    """Nothing is flushed to disk."""
    with replaced(store_module, _flush=lambda path: None), replaced(store_module.os, fsync=lambda descriptor: None):
        yield


@contextlib.contextmanager
def flushed_late() -> Iterator[None]:
    """A run is flushed to disk after it became visible."""
    late: list[str] = []
    flush, rename = store_module._flush, Store._rename

    def later(scratch: Path, target: Path, sums: bytes) -> None:
        rename(scratch, target, sums)
        for name in filter(lambda name: (target / name).is_file(), late):
            flush(target / name)
        late.clear()

    with (
        replaced(store_module, _flush=lambda path: late.append(path.name)),
        replaced(Store, _rename=staticmethod(later)),
    ):
        yield


@contextlib.contextmanager
def folder_unflushed() -> Iterator[None]:
    """The rename itself is not flushed to disk."""
    flush = store_module._flush

    def only_content(path: Path) -> None:
        if path.is_file() or path.parent.name == ".tmp":
            flush(path)

    with replaced(store_module, _flush=only_content):
        yield


@contextlib.contextmanager
def errors_swallowed() -> Iterator[None]:
    """A run is made visible although some of it could not be written."""

    def publish(self: Store, key: str, write: Callable[[Path], None]) -> None:
        scratch = self.folder / ".tmp" / f"{key}.deaf"
        with contextlib.suppress(OSError):
            scratch.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            write(scratch)
        with contextlib.suppress(OSError):
            (scratch / SUMS).write_bytes(_sums(scratch))
        scratch.rename(self.path(key))

    with replaced(Store, publish=publish):
        yield


@contextlib.contextmanager
def one_scratch_for_all() -> Iterator[None]:
    """Twins write into one scratch folder, which the winner takes from under the loser."""

    def publish(self: Store, key: str, write: Callable[[Path], None]) -> None:
        scratch = self.folder / ".tmp" / key
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            write(scratch)
            (scratch / SUMS).write_bytes(_sums(scratch))
            scratch.rename(self.path(key))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    with replaced(Store, publish=publish):
        yield


@contextlib.contextmanager
def locks_off() -> Iterator[None]:
    """A file system without locks. No safeguard is lost: all must stay right, but for work done twice."""

    @contextlib.contextmanager
    def lock(file: Path, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
        yield False

    with replaced(files, lock=lock):
        yield


@contextlib.contextmanager
def lock_to_read() -> Iterator[None]:
    """A run is looked for with its lock held, which a store that may only be read does not give."""
    sound = Store.sound

    def locked(self: Store, key: str) -> bool:
        with self.lock(key):
            return sound(self, key)

    with replaced(Store, sound=locked):
        yield
