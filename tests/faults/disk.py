"""A real small file system that is full at every write, out of inodes, or read-only: deeds, and whole jobs."""

import ctypes
import errno
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hw1.store import Store

from . import broken
from .calls import attempt
from .deeds import DEEDS, Case, Finding, again, record, seen, warm
from .harness import Row, Size, contents, in_child
from .jobs import import_all, tables, typed, wrong_output
from .lines import by_name
from .oscalls import Calls

KILOBYTES, INODES, PAGE = 2048, 400, 4096
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x4000, 0x40000
WRITING = ("publish", "publish in place of a damaged run", "keep a state", "go on from a damaged state", "write tables")


def check(size: Size, folder: Path) -> list[Row]:
    """Deeds, then jobs, each in a child whose mounts end with it."""
    rows = []
    warm()
    kinds: Sequence[tuple[str, Callable[[Row, Size, Path], None]]] = (
        ("a full disk, each page and inode of a write", _deeds),
        ("a full disk under a whole job", _jobs),
        ("a read-only disk under a whole job", _read_only_jobs),
    )[: 2 if size.quick else 3]
    for number, (name, fill) in enumerate(kinds):
        row, started = Row(name), time.perf_counter()
        ended = in_child(_on_small_disk, fill, size, folder / str(number), name, timeout=500)
        if ended.error.startswith("PermissionError"):
            row.skipped = "this user may mount no file system here"
        elif ended.error or ended.signal:
            row.problems = [f"{ended.error or ended.signal}\n{ended.trace}"]
        else:
            row = Row(**ended.value)
        row.seconds = time.perf_counter() - started
        rows.append(row)
    return rows


def _on_small_disk(fill: Callable[[Row, Size, Path], None], size: Size, folder: Path, name: str) -> dict[str, Any]:
    row = Row(name)
    mount(folder / "disk")
    fill(row, size, folder)
    return vars(row)


def mount(folder: Path) -> None:
    """A small file system in memory, seen by this process and its children only, and gone with them.

    Raises: PermissionError if this user may not.
    """
    folder.mkdir(parents=True)
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        if libc.unshare(CLONE_NEWNS | CLONE_NEWUSER):
            raise PermissionError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    options = f"size={KILOBYTES}k,nr_inodes={INODES},mode=700".encode()
    private = libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    if private or libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options):
        raise PermissionError(ctypes.get_errno(), "mount")


def remount(folder: Path, read_only: bool) -> None:
    """Make the small file system read-only, or writable again."""
    flags = MS_REMOUNT | (MS_RDONLY if read_only else 0)
    options = f"size={KILOBYTES}k,nr_inodes={INODES}".encode()
    assert ctypes.CDLL(None).mount(b"tmpfs", bytes(folder), b"tmpfs", flags, options) == 0


def fill_up(disk: Path, pages: int | None = None, inodes: int | None = None) -> None:
    """Fill a file system, but for so many pages or inodes."""
    room = os.statvfs(disk)
    (disk / "filler").mkdir()
    if pages is not None:
        taken = room.f_bavail * room.f_bsize - pages * PAGE
        descriptor = os.open(disk / "filler" / "bytes", os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(descriptor, 0, taken)
        os.close(descriptor)
    if inodes is not None:
        for number in range(os.statvfs(disk).f_favail - inodes):
            (disk / "filler" / str(number)).touch()


def make_room(disk: Path) -> None:
    """Take away what filled it."""
    shutil.rmtree(disk / "filler")


# ---- the store's deeds ----


def _deeds(row: Row, size: Size, folder: Path) -> None:
    disk = folder / "disk"
    rooms = [(pages, None) for pages in range(24)] + [(None, inodes) for inodes in range(14)]
    met: list[bool] = []
    for number, deed in enumerate([deed for deed in DEEDS if deed.name in WRITING or deed.torch]):
        case = Case.of(deed, folder / str(number))
        some = size.random("disk", deed).sample(rooms, 8 if not deed.torch else 4) if size.quick else rooms
        for room in some:
            record(row, _with_little_room(case, disk, room, met), f"{deed}, pages and inodes left: {room}")
    for variant in (broken.errors_swallowed, broken.straight_publish):
        with variant():
            case = Case.of(by_name("publish"), folder / variant.__name__)
            row.controls[variant.__name__] = any(_with_little_room(case, disk, room, []) for room in rooms)
    row.note = f"{sum(met)} times full; {KILOBYTES} kB tmpfs"
    if sum(met) < row.injected / 4:
        row.problems.append("it was hardly ever full")


def _with_little_room(case: Case, disk: Path, room: tuple[int | None, int | None], met: list[bool]) -> list[Finding]:
    place = case.start(disk / "work")
    fill_up(disk, *room)
    calls = Calls(place / "runs", place / "job", code=errno.ENOSPC)
    findings = attempt(case.deed.act, place, calls) + case.judge_instant(place)
    met.append(seen(place) != case.after)
    make_room(disk)
    return findings + again(case, place)


# ---- jobs ----


def _jobs(row: Row, size: Size, folder: Path) -> None:
    import_all()
    disk, due = folder / "disk", _due(folder / "whole")
    needed = sum(-(-len(content) // PAGE) + 1 for content in contents(folder / "whole").values())
    rooms = [11] if size.quick else list(range(0, needed // 2, 2))
    codes: Counter[int] = Counter()
    for pages in rooms:
        findings = _job_with_little_room(disk, pages, due, codes)
        record(row, findings or _with_room_again(disk, due), f"{pages} pages left")
    with broken.errors_swallowed():  # of which a job with a full store must not come to its end
        tried = range(9, 16)
        caught = any(_job_with_little_room(disk, pages, due, Counter()) for pages in tried)
        row.controls["errors_swallowed"] = caught
    row.note = f"{needed} pages needed; exit code 0 {codes[0]} times"


def _due(folder: Path) -> dict[str, bytes]:
    whole = typed(folder)
    assert whole["code"] == 0, whole
    return tables(folder)


def _job_with_little_room(disk: Path, pages: int, due: dict[str, bytes], codes: Counter[int]) -> list[Finding]:
    place = disk / "job"
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(disk / "filler", ignore_errors=True)
    place.mkdir()
    fill_up(disk, pages)
    got = typed(place)
    codes[got["code"]] += 1
    findings = wrong_output(got, errno.ENOSPC)
    findings += [("corrupt", f"run {key}") for key in Store(place / "runs").list() if not _sound(place, key)]
    if got["code"] == 0 and tables(place) != due:
        findings.append(("corrupt", "exit code 0 with other tables"))
    return findings


def _with_room_again(disk: Path, due: dict[str, bytes]) -> list[Finding]:
    make_room(disk)
    got = typed(disk / "job")
    right = got["code"] == 0 and tables(disk / "job") == due
    return [] if right else [("lost", f"with room again: {got}")]


def _sound(place: Path, key: str) -> bool:
    try:
        return Store(place / "runs").sound(key)
    except OSError:
        return False


def _read_only_jobs(row: Row, size: Size, folder: Path) -> None:
    """A store on a read-only disk serves what it has, and a job that needs more says so."""
    import_all()
    disk, elsewhere = folder / "disk", folder / "elsewhere"
    store = f"store={disk / 'runs'}"
    first = typed(elsewhere, store, "hydra.run.dir=first")
    assert first["code"] == 0, first
    kept = contents(disk)
    remount(disk, read_only=True)
    tried = {
        "a stored run": (typed(elsewhere, store, "hydra.run.dir=second"), (0,)),
        "a new run": (typed(elsewhere, store, "hydra.run.dir=third", "seed=1"), (1, 2)),
        "results": (typed(elsewhere, store, f"hydra.run.dir={disk / 'out'}"), (1, 2)),
    }
    for name, (got, codes) in tried.items():
        findings = wrong_output(got, None if name == "results" else errno.EROFS)  # that folder is looked at before
        if got["code"] not in codes:
            findings.append(("other", f"exit code {got['code']}: {got}"))
        if contents(disk) != kept:
            findings.append(("corrupt", "the disk changed"))
        record(row, findings, name)
    with broken.lock_to_read():
        got = typed(elsewhere, store, "hydra.run.dir=fourth")
        row.controls["lock_to_read"] = got["code"] != 0
    remount(disk, read_only=False)
