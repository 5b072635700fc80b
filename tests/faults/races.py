"""Eight processes that ask for the same four recipes at once, with locks and without, and one that removes them."""

import contextlib
import functools
import logging
import multiprocessing
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hw1.errors import UserError
from hw1.store import Store

from . import broken
from .deeds import Finding, leftovers, record, run_state, train, warm, write_run
from .harness import Row, Size, finish, start

PROCESSES = 8
KEYS = tuple(f"{number:x}" * 32 for number in range(4))
PATIENCE = 60  # seconds after which a process that waits for the others is stuck

Variant = Callable[[], contextlib.AbstractContextManager[None]]
Ask = Callable[[Path, int], str]  # what a process does with one of the four recipes; the key that it trained, or ""


def check(size: Size, folder: Path) -> list[Row]:
    """With locks each recipe is trained once; without, one good run of each remains all the same."""
    rounds = size.pick(500, 10)
    with_locks = _races(
        size, folder, "8 processes, 4 recipes, locks on", rounds, ask, contextlib.nullcontext, once=True
    )
    without = _races(size, folder, "8 processes, 4 recipes, locks off", rounds, ask, broken.locks_off, once=False)
    with_locks.controls["locks_off"] = _caught(size, folder, broken.locks_off, once=True)
    for variant in (broken.one_scratch_for_all, broken.straight_publish):
        without.controls[variant.__name__] = _caught(size, folder, _both(broken.locks_off, variant), once=False)
    warm()
    real = _races(
        size,
        folder,
        "8 processes, 4 real trainings",
        size.pick(10, 1),
        ask_laboratory,
        contextlib.nullcontext,
        once=True,
    )
    removals = _removals(size, folder)
    return [with_locks, without, real, removals]


def ask(folder: Path, number: int) -> str:
    """As a job does, with a training that takes no time."""
    store, key = Store(folder / "runs"), KEYS[number]
    trained = ""
    if not store.sound(key):
        with store.lock(key):
            if not store.holds(key):
                nonce = secrets.token_hex(8)
                time.sleep(secrets.randbelow(4) / 1000)  # a training: time in which others begin the same
                store.publish(key, functools.partial(_write, key, nonce))
                trained = key
    store.verify(key)
    return trained


def _write(key: str, nonce: str, folder: Path) -> None:
    write_run(key, folder)
    (folder / "run.json").write_text(f'{{"key": "{key}", "nonce": "{nonce}"}}\n', encoding="utf-8")


def ask_laboratory(folder: Path, number: int) -> str:
    """A job's own way, with a training of 13 ms."""
    ((key, trained),) = train(folder, init_seed=number).items()
    return key if trained else ""


def _races(
    size: Size, folder: Path, name: str, rounds: int, ask: Ask, variant: Variant, once: bool, stop: bool = False
) -> Row:
    """So many rounds in new stores; `once`: each recipe is to be trained by one process only."""
    row, started, trainings = Row(name), time.perf_counter(), 0
    barrier = multiprocessing.get_context("fork").Barrier(PROCESSES)
    batch = 10 if stop else 50  # after which processes are begun anew, and stores taken away
    for first in range(0, rounds, batch):
        places = [folder / f"round{first + n}" for n in range(min(batch, rounds - first))]
        with variant():
            children = [start(_runner, places, worker, size, ask, barrier, timeout=600) for worker in range(PROCESSES)]
        answers = [finish(child) for child in children]
        for n, place in enumerate(places):
            trained = Counter(answer.value[n][0][k] for answer in answers if answer.value for k in range(len(KEYS)))
            findings = _judge(place, trained, once)
            findings += [("other", text) for answer in answers for text in _errors(answer, n)]
            record(row, findings, f"round {first + n}")
            trainings += sum(trained.values()) - trained[""]
            shutil.rmtree(place)
        if stop and row.survived < row.injected:
            break
    row.seconds = time.perf_counter() - started
    row.note = f"{trainings / row.injected:.1f} trainings a round"
    return row


def _errors(answer: Any, number: int) -> list[str]:
    if answer.error or answer.signal:
        return [f"a process ended: {answer.error or answer.signal}"]
    return list(answer.value[number][1])


def _runner(places: list[Path], worker: int, size: Size, ask: Ask, barrier: Any) -> list[tuple[list[str], list[str]]]:
    """One of the processes: in each round, what it trained and what went wrong."""
    logging.disable(logging.CRITICAL)
    answers = []
    for n, place in enumerate(places):
        order = list(range(len(KEYS)))
        if n % 2:
            size.random("races", n, worker).shuffle(order)
        trained, errors = [], []
        barrier.wait(PATIENCE)
        for number in order:
            try:
                trained.append(ask(place, number))
            except Exception as error:
                trained.append("")
                errors.append(f"{type(error).__name__}: {error}")
        answers.append((trained, errors))
    return answers


def _judge(place: Path, trained: Counter[str], once: bool) -> list[Finding]:
    store, findings = Store(place / "runs"), []
    keys = store.list()
    if len(keys) != len(KEYS):
        findings.append(("lost", f"{len(keys)} runs are there"))
    findings += [("corrupt", f"run {key}") for key in keys if run_state(store.path(key)) == "damaged"]
    if (store.folder / ".quarantine").exists():
        findings.append(("corrupt", "something was set aside"))
    if any((store.folder / ".tmp").glob("*")):
        findings.append(("other", "left in .tmp"))
    more = [f"{key} was trained {number} times" for key, number in trained.items() if key and number > 1]
    findings += [("duplicated", text) for text in more if once]
    findings += [("lost", f"{key} is there, and nobody trained it") for key in keys if not trained[key]]
    return findings + leftovers(place)


def _both(*variants: Variant) -> Variant:
    @contextlib.contextmanager
    def all_of_them() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for variant in variants:
                stack.enter_context(variant())
            yield

    return all_of_them


def _caught(size: Size, folder: Path, variant: Variant, once: bool) -> bool:
    row = _races(size, folder, "control", 100, ask, variant, once, stop=True)
    return row.survived < row.injected


def _removals(size: Size, folder: Path) -> Row:
    """Four processes use runs that two others try to remove: nobody's run goes while it is in use."""
    row, started = Row("runs removed while 4 processes use them"), time.perf_counter()
    rounds = size.pick(200, 20)
    refused = removed = 0
    for force in (False, True):
        place = folder / f"removals{force}"
        users = [start(_user, place, rounds) for _ in range(4)]
        removers = [start(_remover, place, rounds, force, worker, size) for worker in range(2)]
        found = [finish(child) for child in users + removers]
        problems = [f"{ended.error or ended.signal}" for ended in found if ended.error or ended.signal]
        lost = [text for ended in found[:4] for text in ended.value or []]
        if force:
            row.controls["removed by force"] = bool(lost)
            continue
        row.injected, row.lost = 4 * rounds, len(lost)
        row.survived = row.injected - len(lost)
        row.problems = problems + lost + [text for _, text in leftovers(place)]
        refused, removed = (sum(ended.value[n] for ended in found[4:] if ended.value) for n in (0, 1))
    row.note = f"{refused} refused, {removed} removed"
    row.seconds = time.perf_counter() - started
    return row


def _user(place: Path, rounds: int) -> list[str]:
    logging.disable(logging.CRITICAL)
    store, lost = Store(place / "runs"), []
    for n in range(rounds):
        key = KEYS[n % len(KEYS)]
        with contextlib.ExitStack() as using:
            with store.lock(key):
                if not store.holds(key):
                    store.publish(key, functools.partial(write_run, key))
                using.enter_context(store.use(key, "a job"))
            for _ in range(5):
                try:
                    store.verify(key)
                except Exception as error:
                    lost.append(f"{type(error).__name__}: {error}")
                os.sched_yield()
    return lost


def _remover(place: Path, rounds: int, force: bool, worker: int, size: Size) -> tuple[int, int]:
    store, refused, removed = Store(place / "runs"), 0, 0
    random = size.random("remover", worker)
    for _ in range(5 * rounds):
        try:
            store.remove(random.choice(KEYS), force)
            removed += 1
        except UserError:
            refused += 1
        except FileNotFoundError:
            time.sleep(0.001)
    return refused, removed
