"""The store: whole or absent, whatever happens to its files, its disk and its processes."""

import builtins
import contextlib
import errno
import hashlib
import io
import logging
import multiprocessing
import os
import secrets
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from hw1 import store as store_module
from hw1.errors import UserError
from hw1.store import FILES, SUMS, Damaged, Store

KEY, OTHER = "0123456789abcdef" * 2, "0123" + "f" * 28
CONTENT = {name: f"content of {name}\n".encode() * 3 for name in FILES} | {"run.json": b'{"nonce": "1"}\n'}


def write(folder: Path) -> None:
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def filled(store):
    store.publish(KEY, write)
    return store


def scratch(store):
    folder = store.folder / ".tmp"
    return list(folder.iterdir()) if folder.exists() else []


def quarantined(store):
    folder = store.folder / ".quarantine"
    return list(folder.iterdir()) if folder.exists() else []


# ---- what is there ----


def test_published_is_held_listed_and_read(filled):
    assert filled.holds(KEY)
    assert filled.sound(KEY)
    filled.verify(KEY)
    assert filled.list() == [KEY]
    assert filled.info(KEY) == {"nonce": "1"}
    assert {file.name: file.read_bytes() for file in filled.path(KEY).iterdir() if file.name != SUMS} == CONTENT
    assert scratch(filled) == []


def test_an_absent_run_is_not_held(store):
    assert not store.holds(KEY)
    assert not store.sound(KEY)
    assert store.list() == []
    assert not store.folder.exists()
    with pytest.raises(FileNotFoundError):
        store.verify(KEY)


def test_listing_leaves_out_what_is_no_run(filled):
    for name in ("notes", KEY + "0", KEY.upper(), ".hidden"):
        (filled.folder / name).mkdir()
    with filled.lock(KEY):
        assert filled.list() == [KEY]


@pytest.mark.parametrize("key", ["", "..", "../" + KEY, KEY[:-1], KEY + "\n", KEY.upper(), "/" + KEY])
def test_what_is_no_key_is_no_path(store, key):
    with pytest.raises(UserError, match="not the key of a run"):
        store.path(key)


def test_expand(filled):
    filled.publish(OTHER, write)
    assert filled.expand("01234") == KEY
    assert filled.expand(OTHER) == OTHER
    for prefix, words in [("0123", "stands for 2 runs"), ("9", "is not the key"), ("", "is not the key")]:
        with pytest.raises(UserError, match=words):
            filled.expand(prefix)


def test_sha256sum_agrees(filled):
    if not shutil.which("sha256sum"):
        pytest.skip("no sha256sum here")
    command = ["sha256sum", "--strict", "-c", SUMS]
    assert subprocess.run(command, cwd=filled.path(KEY), capture_output=True).returncode == 0
    (filled.path(KEY) / "history.csv").write_bytes(b"other")
    assert subprocess.run(command, cwd=filled.path(KEY), capture_output=True).returncode == 1


def test_remove(filled):
    filled.publish(OTHER, write)
    filled.remove(KEY)
    assert filled.list() == [OTHER]
    assert scratch(filled) == []


def test_the_first_writer_wins(filled):
    def write_other(folder):
        write(folder)
        (folder / "run.json").write_bytes(b'{"nonce": "2"}\n')

    filled.publish(KEY, write_other)
    assert filled.info(KEY) == {"nonce": "1"}
    assert filled.holds(KEY)
    assert scratch(filled) == []


def test_the_store_needs_no_torch():
    code = "import sys, hw1.store; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


# ---- damage ----


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_every_flipped_byte_and_every_truncation_is_found(filled, name):
    file = filled.path(KEY) / name
    good = file.read_bytes()
    for position in range(len(good)):
        for mask in (0x01, 0x20, 0xFF):
            file.write_bytes(good[:position] + bytes([good[position] ^ mask]) + good[position + 1 :])
            assert not filled.sound(KEY), (name, position, mask)
        file.write_bytes(good[:position])
        assert not filled.sound(KEY), (name, position)
    for longer in (good + b"\n", good + good, b" " + good):
        file.write_bytes(longer)
        assert not filled.sound(KEY)
    file.write_bytes(good)
    filled.verify(KEY)  # the control: it was the damage that was found


@pytest.mark.parametrize("name", [*FILES, SUMS])
@pytest.mark.parametrize("damage", ["missing", "swapped", "folder"])
def test_missing_and_exchanged_files_are_found(filled, name, damage):
    file = filled.path(KEY) / name
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    if damage == "swapped":
        file.write_bytes(content[::-1])
    found = FILES[0] if (name, damage) == (SUMS, "swapped") else name  # which then has no line that fits
    with pytest.raises(Damaged, match=found):
        filled.verify(KEY)


def test_extra_files_are_found(filled):
    (filled.path(KEY) / "extra").touch()
    with pytest.raises(Damaged, match="extra should not be there"):
        filled.verify(KEY)


def test_checksums_cover_themselves(filled):
    """Lines in another order fit every file, and are still not what was written."""
    file = filled.path(KEY) / SUMS
    file.write_bytes(b"".join(reversed(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(Damaged, match=SUMS):
        filled.verify(KEY)


def test_a_damaged_run_is_set_aside_said_and_replaced(filled, caplog):
    (filled.path(KEY) / "weights.safetensors").write_bytes(b"flipped")
    with caplog.at_level(logging.WARNING):
        assert not filled.holds(KEY)
    assert len(caplog.messages) == 1
    assert "weights.safetensors" in caplog.text
    (aside,) = quarantined(filled)
    assert (aside / "weights.safetensors").read_bytes() == b"flipped"
    assert filled.list() == []
    filled.publish(KEY, write)
    assert filled.holds(KEY)
    (filled.path(KEY) / "run.json").unlink()
    assert not filled.holds(KEY)
    assert len(quarantined(filled)) == 2  # a second one does not displace the first


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff"])
def test_damaged_information_is_called_so(filled, content):
    file = filled.path(KEY) / "run.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Damaged, match=r"run\.json"):
        filled.info(KEY)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENFILE])
@pytest.mark.parametrize("name", [*FILES, SUMS, KEY])
def test_what_cannot_be_read_now_is_not_damaged(filled, monkeypatch, name, code):
    """A transient error says nothing about the content: it is raised, and nothing is moved."""

    def failing(function):
        def call(path, *args, **kwargs):
            if Path(path).name == name:
                raise OSError(code, os.strerror(code), str(path))
            return function(path, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing(builtins.open))
        patch.setattr(os, "scandir", failing(os.scandir))
        for look in (filled.holds, filled.sound, filled.verify):
            with pytest.raises(OSError, match=os.strerror(code)):
                look(KEY)
    assert quarantined(filled) == []
    assert filled.holds(KEY)


# ---- failing while writing ----


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("written", range(len(FILES) + 1))
def test_a_failing_write_leaves_nothing(store, error, written):
    def fail(folder):
        for name in FILES[:written]:
            (folder / name).write_bytes(CONTENT[name])
        raise error

    with pytest.raises(type(error)):
        store.publish(KEY, fail)
    assert store.list() == []
    assert scratch(store) == []


def test_a_file_that_was_not_written_is_not_published(store):
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        store.publish(KEY, lambda folder: (folder / "recipe.yaml").touch())
    assert store.list() == []
    assert scratch(store) == []


OPERATIONS = ["fsync", "open", "rename"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_at_every_call_leaves_a_whole_run_or_none(tmp_path, monkeypatch, operation, code):
    original, reached = getattr(os, operation), 0
    for fails_at in range(50):
        store, calls = Store(tmp_path / f"{operation}{fails_at}"), iter(range(100))

        def maybe(*args, calls=calls, fails_at=fails_at, **kwargs):
            if next(calls) == fails_at:
                raise OSError(code, os.strerror(code))
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, operation, maybe)
            try:
                store.publish(KEY, write)
                failed = False
            except OSError as error:
                failed = error.errno == code
        assert scratch(store) == []
        assert store.list() in ([], [KEY])
        assert store.list() == [] or store.sound(KEY)
        store.publish(KEY, write)
        assert store.holds(KEY)
        if not failed:
            break
        reached += 1
    assert reached == {"fsync": 7, "open": 7, "rename": 1}[operation]  # 4 files, sums, folder, parent


def test_everything_is_on_disk_before_it_is_visible(store, monkeypatch):
    events = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(Path(f"/proc/self/fd/{fd}").resolve().name), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b)))
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    store.publish(KEY, write)
    assert events[:5] == [*FILES, SUMS]
    assert events[5].startswith(KEY)  # the folder itself
    assert events[6:] == ["rename", "runs"]


@pytest.mark.parametrize("mine", [True, False])
def test_a_lost_answer_to_the_rename(store, monkeypatch, mine):
    """The rename happened, the network file system said it did not: mine if the checksums are mine."""
    rename = os.rename

    def lost(source, target):
        rename(source, target)
        if not mine:
            (Path(target) / SUMS).write_bytes(b"another's")
        raise OSError(errno.ENOENT, "No such file or directory")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lost)
        with contextlib.nullcontext() if mine else pytest.raises(OSError, match="No such file"):
            store.publish(KEY, write)
    assert store.sound(KEY) is mine


# ---- several processes ----


def _publish_many(folder: str, start, results) -> None:
    start.wait()
    try:
        for _ in range(10):
            nonce = secrets.token_hex(8).encode()

            def own(scratch: Path, nonce: bytes = nonce) -> None:
                write(scratch)
                (scratch / "run.json").write_bytes(b'{"nonce": "%s"}\n' % nonce)

            Store(Path(folder)).publish(KEY, own)
        results.put("done")
    except BaseException as error:
        results.put(repr(error))


def test_four_processes_one_key_no_locks(store):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_publish_many, args=(str(store.folder), start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    assert [results.get(timeout=60) for _ in workers] == ["done"] * 4
    for worker in workers:
        worker.join()
    assert store.list() == [KEY]
    assert store.holds(KEY)
    assert scratch(store) == []


def _hold(folder: str, holding, let_go) -> None:
    with Store(Path(folder)).lock(KEY):
        holding.set()
        let_go.wait(60)


def elsewhere(act, store):
    """A process that holds or uses the run until the event that comes with it is set."""
    context = multiprocessing.get_context("fork")
    begun, let_go = context.Event(), context.Event()
    process = context.Process(target=act, args=(str(store.folder), begun, let_go))
    process.start()
    assert begun.wait(60)
    return process, let_go


def test_the_second_process_waits_and_says_so(store):
    holder, let_go = elsewhere(_hold, store)
    told = []

    def waiting():
        told.append(holder.is_alive())
        threading.Timer(0.1, let_go.set).start()

    with store.lock(KEY, waiting):
        assert let_go.is_set()
    assert told == [True]
    with store.lock(KEY, waiting), store.lock(OTHER, waiting):  # free again; another key is another lock
        assert told == [True]
    holder.join()


def test_a_killed_holder_holds_nothing(store):
    holder, _ = elsewhere(_hold, store)
    holder.kill()
    holder.join()
    with store.lock(KEY, lambda: pytest.fail("waits for a dead process")):
        pass


@pytest.mark.parametrize(("code", "goes_on"), [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EROFS, False)])
def test_where_there_are_no_locks(store, monkeypatch, code, goes_on):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    entered = []
    with contextlib.nullcontext() if goes_on else pytest.raises(OSError, match=os.strerror(code)), store.lock(KEY):
        entered.append(True)
    assert entered == [True] * goes_on


def test_a_run_that_vanishes_while_it_is_read_is_absent(filled, monkeypatch):
    digest = store_module._sha256

    def vanish(file):
        shutil.rmtree(filled.path(KEY), ignore_errors=True)
        return digest(file)

    monkeypatch.setattr(store_module, "_sha256", vanish)
    assert not filled.holds(KEY)
    assert quarantined(filled) == []


def test_checksums_are_sha256(filled):
    lines = (filled.path(KEY) / SUMS).read_text().splitlines()
    assert lines == [f"{hashlib.sha256(CONTENT[name]).hexdigest()}  {name}" for name in FILES]


# ---- who uses what ----


def _use(folder: str, using, let_go) -> None:
    store = Store(Path(folder))
    with store.lock(KEY), store.use(KEY, "the job in multirun/x/3"):
        pass
    with store.use(KEY, "the job in multirun/x/3"):
        using.set()
        let_go.wait(60)


def test_what_a_live_job_uses_is_not_removed(filled):
    user, let_go = elsewhere(_use, filled)
    with pytest.raises(UserError, match=f"run {KEY[:8]} is in use by the job in multirun/x/3"):
        filled.remove(KEY)
    assert filled.holds(KEY)
    assert not filled.clean()
    let_go.set()
    user.join()
    assert not list((filled.folder / ".locks").glob("*.use"))
    filled.remove(KEY)
    assert filled.list() == []


def test_what_a_live_job_trains_is_not_removed_and_force_is_stronger(filled):
    holder, let_go = elsewhere(_hold, filled)
    with pytest.raises(UserError, match="is being trained or checked by a live job"):
        filled.remove(KEY)
    filled.remove(KEY, force=True)
    assert filled.list() == []
    let_go.set()
    holder.join()


def test_a_killed_user_uses_nothing(filled):
    user, _ = elsewhere(_use, filled)
    user.kill()
    user.join()
    assert len(list((filled.folder / ".locks").glob("*.use"))) == 1
    assert filled.users(KEY) == []
    filled.remove(KEY)
    assert not list((filled.folder / ".locks").glob("*.use"))


# ---- states of trainings ----


def state(store, content=b"state", key=KEY):
    store.keep_partial(key, lambda stream: stream.write(content))


def test_a_state_is_kept_replaced_and_dropped(store):
    assert store.partial(KEY) is None
    for content in (b"one", b"", b"\n" * 3, b"another, longer"):
        state(store, content)
        assert store.partial(KEY) == content
    assert store.partial(OTHER) is None
    assert scratch(store) == []
    store.drop_partial(KEY)
    store.drop_partial(KEY)
    assert store.partial(KEY) is None


@pytest.mark.parametrize("damage", ["flip", "short", "long", "empty", "another's", "folder"])
def test_a_damaged_state_is_said_and_forgotten(store, caplog, damage):
    state(store)
    state(store, b"other", OTHER)
    file = store.folder / ".partial" / KEY
    good = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"flip": good[:-1] + b"?", "short": good[:-1], "long": good + b"\n", "empty": b"",
                          "another's": file.with_name(OTHER).read_bytes()}[damage])  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert store.partial(KEY) is None
    assert str(file) in caplog.text
    assert not file.exists()
    assert store.partial(OTHER) == b"other"


def test_a_state_that_cannot_be_read_now_is_left(store, monkeypatch):
    state(store)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        with pytest.raises(OSError, match="I/O error"):
            store.partial(KEY)
    assert store.partial(KEY) == b"state"


def test_an_interrupted_state_leaves_the_older(store):
    state(store)

    def stop(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.keep_partial(KEY, stop)
    assert store.partial(KEY) == b"state"
    assert scratch(store) == []


def test_clean_takes_what_killed_processes_left_and_no_more(filled):
    state(filled)
    state(filled, b"other", OTHER)
    for name in (f"{KEY}.0123", f"{OTHER}.removed.01"):
        (filled.folder / ".tmp" / name).mkdir()
    (filled.folder / ".tmp" / "notes").touch()
    lease = filled.folder / ".locks" / f"{OTHER}.1-00.use"
    lease.parent.mkdir(exist_ok=True)
    lease.touch()
    removed = filled.clean()
    assert sorted(removed) == sorted(
        [f".tmp/{KEY}.0123", f".tmp/{OTHER}.removed.01", f".partial/{KEY}", f".locks/{OTHER}.1-00.use"]
    )
    assert filled.holds(KEY)
    assert filled.partial(OTHER) == b"other"  # a training that has not ended
    assert [file.name for file in (filled.folder / ".tmp").iterdir()] == ["notes"]
    assert filled.clean() == []
    filled.set_aside(KEY)
    assert sorted(name.split("/")[0] for name in filled.clean(everything=True)) == [".partial", ".quarantine"]


def test_clean_leaves_what_somebody_works_at(store):
    holder, let_go = elsewhere(_hold, store)
    (store.folder / ".tmp").mkdir()
    (store.folder / ".tmp" / f"{KEY}.0123").mkdir()
    assert store.clean() == []
    let_go.set()
    holder.join()
    assert store.clean() == [f".tmp/{KEY}.0123"]
