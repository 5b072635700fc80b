"""The store of runs: `<store>/<key>/`, whose existence means that it is complete; never modified.

    recipe.yaml  run.json  history.csv  weights.safetensors
    SHA256SUMS         covers every other file, is written last, and is what `sha256sum -c` reads

Everything else lives behind a dot. There is no index: a listing reads the folders. A run appears by one rename after
all its files were flushed to disk; whoever comes second drops his own. Locks save work and nothing else: with locks
that do not lock, two trainings of one recipe still end in one good run.

    .tmp/         what is being written, or was when its process was killed: nothing reads it
    .partial/     states of trainings that have not ended, by key
    .locks/       <key>.lock of who trains it, <key>.<process>.use of each who uses it; they end with their process
    .measured/    what experiments measured of runs, by key, with a SHA256SUMS of its own each; see hw1.measured
    .drawn/       where which figures were drawn, by key; see hw1.drawn
    .quarantine/  runs and measured tables that were found damaged
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

from hw1 import files
from hw1.errors import UserError

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
FILES = ("recipe.yaml", "run.json", "history.csv", "weights.safetensors")
KEY = re.compile(r"[0-9a-f]{32}")


READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Writable(Protocol):
    """What a partial state is written to."""

    def write(self, content: Any, /) -> Any:
        """Take bytes."""


class Damaged(Exception):
    """The content of a stored run is not what was written; the message names the file."""


class Store:
    """Complete runs by key under one folder."""

    names: ClassVar[Sequence[str]] = FILES  # of each, beside SHA256SUMS; none: those that it was written with
    record: ClassVar[str] = "run.json"
    if_damaged: ClassVar[str] = "a damaged run, it will be trained again"

    def __init__(self, folder: Path) -> None:
        self.folder = self.place = folder.absolute()

    def path(self, key: str) -> Path:
        """The folder of a run, there or not. Raises: UserError for what is no key."""
        if not KEY.fullmatch(key):
            raise UserError(f"{key!r} is not the key of a run (32 hexadecimal digits)")
        return self.place / key

    def list(self) -> list[str]:
        """Keys of all complete runs, sorted."""
        if not self.place.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self.place) if KEY.fullmatch(entry.name))

    def expand(self, prefix: str) -> str:
        """The one stored key that begins with `prefix`. Raises: UserError if there is none, or more than one."""
        found = [key for key in self.list() if prefix and key.startswith(prefix)]
        if len(found) != 1:
            many = f"stands for {len(found)} runs" if found else "is not the key of a run"
            raise UserError(f"{prefix!r} {many} in {self.folder}; `python -m hw1.runs list` shows the keys")
        return found[0]

    def info(self, key: str) -> dict[str, Any]:
        """`run.json` of a run. Raises: Damaged if it is missing or no JSON object."""
        file = self.path(key) / self.record
        try:
            content = json.loads(file.read_bytes())
        except (FileNotFoundError, ValueError) as error:
            raise Damaged(f"{file}: {error}") from error
        if not isinstance(content, dict):
            raise Damaged(f"{file}: no JSON object")
        return content

    def verify(self, key: str) -> None:
        """Read every file of a run and compare it with its checksum.

        Raises: Damaged if a file is missing, superfluous or different; OSError if one cannot be read now, which says
        nothing about its content (FileNotFoundError if there is no such run).
        """
        folder = self.path(key)
        present = {entry.name for entry in os.scandir(folder)}
        if odd := sorted(present ^ {*(self.names or present), SUMS}):
            raise Damaged(f"{folder}: {', '.join(odd)} should {'not ' if odd[0] in present else ''}be there")
        sums = self._sums(folder)
        try:
            written = (folder / SUMS).read_bytes()
        except IsADirectoryError as error:
            raise Damaged(f"{folder / SUMS}: is a folder") from error
        for name, line in sums.items():
            if line not in written:
                raise Damaged(f"{folder / name}: content does not match its SHA-256")
        if written != b"".join(sums.values()):  # byte for byte, since nothing else covers this file
            raise Damaged(f"{folder / SUMS}: is not as it was written")

    def sound(self, key: str) -> bool:
        """Whether a whole, undamaged run is stored. Raises: OSError if it cannot be read now."""
        try:
            self.verify(key)
        except (Damaged, FileNotFoundError):
            return False
        return True

    def holds(self, key: str) -> bool:
        """The same, and a damaged run is set aside, to be trained again; with the key's lock held, lest one sets aside
        what another has just trained."""
        try:
            self.verify(key)
        except FileNotFoundError:
            return False
        except Damaged as damage:
            self.set_aside(key)
            log.warning("set aside %s: %s", self.if_damaged, damage)
            return False
        return True

    def set_aside(self, key: str) -> None:
        """Move a run to `.quarantine`, where nothing reads it."""
        place = self.folder / ".quarantine"
        place.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self.path(key).rename(place / f"{key}.{secrets.token_hex(4)}")

    def publish(self, key: str, write: Callable[[Path], None]) -> None:
        """Make a run visible in one step.

        Args:
            write: puts the files of a run into the empty folder that it is given.

        The folder is made beside its target (a rename across file systems would copy), every file is flushed to disk,
        the checksums come last, then one rename. A target that is already there was first, and stays.
        """
        target = self.path(key)
        scratch = self.folder / ".tmp" / f"{key}.{secrets.token_hex(8)}"
        scratch.mkdir(parents=True)
        self.place.mkdir(exist_ok=True)
        try:
            write(scratch)
            for name in self._names(scratch):
                _flush(scratch / name)
            sums = b"".join(self._sums(scratch).values())
            (scratch / SUMS).write_bytes(sums)
            _flush(scratch / SUMS)
            _flush(scratch)
            self._rename(scratch, target, sums)
            _flush(self.place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _names(self, folder: Path) -> Sequence[str]:
        """The files that SHA256SUMS covers."""
        return self.names or sorted(entry.name for entry in os.scandir(folder) if entry.name != SUMS)

    def _sums(self, folder: Path) -> dict[str, bytes]:
        """These files with the line of each for SHA256SUMS, in its order."""
        return {name: f"{_sha256(folder / name)}  {name}\n".encode() for name in self._names(folder)}

    @staticmethod
    def _rename(scratch: Path, target: Path, sums: bytes) -> None:
        try:
            scratch.rename(target)
        except OSError:
            # Either somebody was first, or the rename did happen and a network file system lost the answer.
            if not target.is_dir():
                raise
            if scratch.exists():
                return
            if (target / SUMS).read_bytes() != sums:  # they cover run.json, and with it a nonce of this very run
                raise

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold a run's lock, so that twins wait instead of training the same; `waiting` is called if one must wait.

        Where the file system has no locks, the block runs without.
        """
        with files.lock(self._lock_file(key), waiting):
            yield

    @contextlib.contextmanager
    def use(self, key: str, who: str = "") -> Iterator[None]:
        """Keep a run from being removed for the duration of a block, or until this process ends.

        Taken with the key's lock held. It is a file of one's own, locked: shared locks are not to be had everywhere.

        Args:
            who: shown to whoever wants to remove the run.
        """
        lease = self.folder / ".locks" / f"{self.path(key).name}.{os.getpid()}-{secrets.token_hex(4)}.use"
        lease.parent.mkdir(parents=True, exist_ok=True)
        with files.lock(lease):
            with contextlib.suppress(OSError):  # a courtesy; Windows locks the content, too
                lease.write_text(who, encoding="utf-8")
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lease.unlink(missing_ok=True)

    def users(self, key: str) -> Sequence[str]:
        """Who uses a run now; leases of processes that were killed are taken away. Without locks all count."""
        found = []
        for lease in sorted((self.folder / ".locks").glob(f"{self.path(key).name}.*.use")):
            try:
                with contextlib.suppress(FileNotFoundError):
                    who = lease.read_text(encoding="utf-8", errors="replace")
                    with files.lock(lease) as real:
                        if real:
                            lease.unlink(missing_ok=True)
                        else:
                            found.append(who)
            except files.Busy:
                found.append(who)
        return found

    def remove(self, key: str, force: bool = False) -> None:
        """Take a run out of the store: out of sight by one rename, then off the disk.

        Raises: UserError, unless it is forced, if a live job trains or uses it.
        """
        if force:
            self._remove(key)
            return
        try:
            with files.lock(self._lock_file(key)):
                if users := self.users(key):
                    raise UserError(f"run {key[:8]} is in use{' by ' * bool(users[0])}{users[0]}; wait for it to end")
                self._remove(key)
        except files.Busy as error:
            raise UserError(f"run {key[:8]} is being trained or checked by a live job; wait for it to end") from error

    def _remove(self, key: str) -> None:
        trash = self.folder / ".tmp" / f"{key}.removed.{secrets.token_hex(4)}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        self.path(key).rename(trash)
        shutil.rmtree(trash)

    def keep_partial(self, key: str, write: Callable[[Writable], None]) -> None:
        """Keep the state of a training that has not ended, in place of an older one, in one step.

        Args:
            write: writes the state, in as many pieces as it likes.

        The file begins with a line of the SHA-256 of the key, a line's end, and all that follows.
        """
        target = self.folder / ".partial" / self.path(key).name
        scratch = self.folder / ".tmp" / f"{key}.{secrets.token_hex(8)}"
        for folder in (target.parent, scratch.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("xb") as stream:
                stream.write(b"0" * 64 + b"\n")
                hashing = _Hashing(stream, key)
                write(hashing)
                stream.seek(0)
                stream.write(hashing.sha256.hexdigest().encode())
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(target)
            _flush(target.parent)
        finally:
            scratch.unlink(missing_ok=True)

    def partial(self, key: str) -> bytes | None:
        """The state that was kept of a training, None if there is none, or a damaged one: that is removed, and said.

        Raises: OSError if it cannot be read now.
        """
        file = self.folder / ".partial" / self.path(key).name
        try:
            digest, _, content = file.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            shutil.rmtree(file)
            digest, content = b"", b""
        if hashlib.sha256(f"{key}\n".encode() + content).hexdigest().encode() == digest:
            return content
        log.warning("a training begins anew: its state was damaged, %s", file)
        self.drop_partial(key)
        return None

    def drop_partial(self, key: str) -> None:
        """Forget the state of a training."""
        (self.folder / ".partial" / self.path(key).name).unlink(missing_ok=True)

    def clean(self, everything: bool = False) -> Sequence[str]:
        """Take away what killed processes left: scratch, leases, and states of trainings that have ended since.

        Args:
            everything: also states of trainings that have not ended, and what was set aside as damaged.
        Gives the names of what was removed. What a live process works at, by its key's lock, stays; so does all, where
        there are no locks.
        """
        left = [*self.folder.glob(".tmp/*"), *self.folder.glob(".locks/*.use")]
        left += [file for file in self.folder.glob(".partial/*") if everything or (self.folder / file.name).exists()]
        left += self.folder.glob(".quarantine/*") if everything else ()
        removed = []
        for path in sorted(left):
            key = path.name.partition(".")[0]
            if not KEY.fullmatch(key):
                continue
            with contextlib.suppress(files.Busy, FileNotFoundError), files.lock(self._lock_file(key)) as real:
                if path.suffix == ".use":
                    self.users(key)
                elif real and path.is_dir():
                    shutil.rmtree(path)
                elif real:
                    path.unlink()
                if not path.exists():
                    removed.append(str(path.relative_to(self.folder)))
        return removed

    def _lock_file(self, key: str) -> Path:
        place = self.folder / ".locks"
        place.mkdir(parents=True, exist_ok=True)
        return place / f"{self.path(key).name}.lock"


class _Hashing:
    """A stream that keeps the SHA-256 of what went through it."""

    def __init__(self, stream: BinaryIO, key: str) -> None:
        self.stream, self.sha256 = stream, hashlib.sha256(f"{key}\n".encode())

    def write(self, content: Any, /) -> int:
        self.sha256.update(content)
        return self.stream.write(content)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Damaged(f"{file}: {error.strerror}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
