"""The store of runs: `<store>/<key>/`, whose existence means that it is complete; never modified.

    recipe.yaml  run.json  history.csv  weights.safetensors
    SHA256SUMS         covers every other file, is written last, and is what `sha256sum -c` reads

Everything unfinished or set aside lives behind a dot: `.tmp`, `.locks`, `.quarantine`. There is no index: a listing
reads the folders. A run appears by one rename after all its files were flushed to disk; whoever comes second drops
his own. Locks save work and nothing else: with locks that do not lock, two trainings of one recipe still end in one
good run.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hw1 import files
from hw1.errors import UserError

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
FILES = ("recipe.yaml", "run.json", "history.csv", "weights.safetensors")
KEY = re.compile(r"[0-9a-f]{32}")


class Damaged(Exception):
    """The content of a stored run is not what was written; the message names the file."""


class Store:
    """Complete runs by key under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def path(self, key: str) -> Path:
        """The folder of a run, there or not. Raises: UserError for what is no key."""
        if not KEY.fullmatch(key):
            raise UserError(f"{key!r} is not the key of a run (32 hexadecimal digits)")
        return self.folder / key

    def list(self) -> list[str]:
        """Keys of all complete runs, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self.folder) if KEY.fullmatch(entry.name))

    def expand(self, prefix: str) -> str:
        """The one stored key that begins with `prefix`. Raises: UserError if there is none, or more than one."""
        found = [key for key in self.list() if prefix and key.startswith(prefix)]
        if len(found) != 1:
            many = f"stands for {len(found)} runs" if found else "is not the key of a run"
            raise UserError(f"{prefix!r} {many} in {self.folder}; `python -m hw1.runs list` shows the keys")
        return found[0]

    def info(self, key: str) -> dict[str, Any]:
        """`run.json` of a run. Raises: Damaged if it is missing or no JSON object."""
        file = self.path(key) / "run.json"
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
        if odd := sorted(present ^ {*FILES, SUMS}):
            raise Damaged(f"{folder}: {', '.join(odd)} should {'not ' if odd[0] in present else ''}be there")
        sums = _sums(folder)
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
            log.warning("set aside a damaged run, it will be trained again: %s", damage)
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
            write: puts the four files of a run into the empty folder that it is given.

        The folder is made beside its target (a rename across file systems would copy), every file is flushed to disk,
        the checksums come last, then one rename. A target that is already there was first, and stays.
        """
        target = self.path(key)
        scratch = self.folder / ".tmp" / f"{key}.{secrets.token_hex(8)}"
        scratch.mkdir(parents=True)
        try:
            write(scratch)
            for name in FILES:
                _flush(scratch / name)
            sums = b"".join(_sums(scratch).values())
            (scratch / SUMS).write_bytes(sums)
            _flush(scratch / SUMS)
            _flush(scratch)
            self._rename(scratch, target, sums)
            _flush(self.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

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
        place = self.folder / ".locks"
        place.mkdir(parents=True, exist_ok=True)
        with files.lock(place / f"{self.path(key).name}.lock", waiting):
            yield

    def remove(self, key: str) -> None:
        """Take a run out of the store: out of sight by one rename, then off the disk."""
        trash = self.folder / ".tmp" / f"{key}.removed.{secrets.token_hex(4)}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        self.path(key).rename(trash)
        shutil.rmtree(trash)


def _sums(folder: Path) -> dict[str, bytes]:
    """A run's files with the line of each for SHA256SUMS, in its order."""
    return {name: f"{_sha256(folder / name)}  {name}\n".encode() for name in FILES}


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
