"""Sessions at work side by side, each in a thread; and the state of all of them, to go on from."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from hw1.captured import own_stream, tensor_float
from hw1.session import Record, Session, Task
from hw1.stacked import State
from hw1.watcher import Keeper, Kept, Progress, Watcher

if TYPE_CHECKING:
    from hw1.shares import Shares

REPORT_SECONDS = 0.3
POLL_SECONDS = 0.1
SHARE_SECONDS = 1.0  # between two looks for cores that have come free


class _Ended(BaseException):
    """In a thread: its training is to end."""


class Crew:
    """Takes every group of replicas through its training, `workers` of them at a time.

    Threads and not processes: torch lets go of the interpreter while it computes, libraries and data are there once.
    Each replica's bits are those that it would have alone on as many cores. One group by itself is trained in the
    calling thread. Of several the state is kept when all of them are between two steps. From `shares` come further
    `workers` for groups that nobody has begun: of three jobs on two cores, the last then has both.
    """

    def __init__(
        self,
        task: Task,
        groups: list[list[int]],
        workers: int,
        threads: int,
        watcher: Watcher,
        keeper: Keeper,
        shares: "Shares | None" = None,
    ) -> None:
        self.task, self.workers, self.threads = task, workers, threads
        self.watcher, self.keeper, self.shares = watcher, keeper, shares
        self.weights: State = {}
        kept = keeper.kept()
        self.groups = kept.notes["groups"] if kept else groups
        self.records: list[Record | None] = [None] * len(self.groups)
        self.sessions: dict[int, Session] = {}  # at work, or to go on
        if kept:
            self._restore(kept)
        self.condition = threading.Condition()
        self.at_work = self.waiting = self.round = 0
        self.joined = 0  # workers from shares that had something to do
        self.alone = True
        self.failed: BaseException | None = None
        self.reported = (time.monotonic(), self._seen())
        self.newest: dict[str, Any] = {}

    def run(self) -> list[Record]:
        """Train all; what each group leaves, in their order."""
        with self.keeper.steps(), _threads(self.threads):
            left = deque(number for number, record in enumerate(self.records) if record is None)
            self.alone = self.workers == 1 and (self.shares is None or len(left) == 1)
            if self.alone:
                self._work(left)
            else:
                self._side_by_side(left)
        return [record for record in self.records if record is not None]

    def _work(self, left: deque[int]) -> None:
        """Train one group after the other, as long as any is left."""
        while True:
            with self.condition:
                if not left:
                    return
                number = left.popleft()
                if number not in self.sessions:
                    self.sessions[number] = self._session(number)
                session = self.sessions[number]
            device = self.task.splits.device
            with own_stream(device), tensor_float(device, self.task.precision == "tf32"):
                session.run()
            with self.condition:
                self.records[number] = session.record
                del self.sessions[number]

    def _session(self, number: int) -> Session:
        return Session(self.task, self.groups[number], self.weights, self)

    # Side by side

    def _side_by_side(self, left: deque[int]) -> None:
        self.at_work = min(self.workers, len(self.groups))
        crew = [threading.Thread(target=self._member, args=(left,), daemon=True) for _ in range(self.at_work)]
        for member in crew:
            member.start()
        looked = time.monotonic()
        try:
            with self.condition:
                while self.at_work:
                    self.condition.wait(POLL_SECONDS)  # wakes now and then, to hear signals
                    if self.shares and left and time.monotonic() - looked > SHARE_SECONDS:
                        looked = time.monotonic()
                        joining = threading.Thread(target=self._joins, args=(self.shares, left), daemon=True)
                        crew = [member for member in crew if member.is_alive()] + [joining]
                        joining.start()
                    if self.waiting and self.waiting == self.at_work:
                        self.keeper.keep(self._state())
                        self._go_on()
        except BaseException as error:
            with self.condition:
                self.failed = self.failed or error
                self._go_on()
            raise
        finally:
            for member in crew:
                member.join(1.0)
        if self.failed is not None:
            raise self.failed

    def _go_on(self) -> None:
        self.waiting, self.round = 0, self.round + 1
        self.condition.notify_all()

    def _joins(self, shares: "Shares", left: deque[int]) -> None:
        """Take a share of the machine, if one is free, and as many members to work on it as this job has of its own."""
        with shares.taken() as got:
            with self.condition:
                more = min(self.workers, len(left)) if got and self.at_work and self.failed is None else 0
                self.at_work += more
                self.joined += more
            members = [threading.Thread(target=self._member, args=(left,), daemon=True) for _ in range(more)]
            for member in members:
                member.start()
            for member in members:
                member.join()

    def _member(self, left: deque[int]) -> None:
        torch.set_num_threads(self.threads)  # of this thread; OpenMP counts them apart
        try:
            self._work(left)
        except _Ended:
            pass
        except BaseException as error:
            with self.condition:
                self.failed = self.failed or error
        finally:
            with self.condition:
                self.at_work -= 1
                if self.failed is not None:
                    self._go_on()
                self.condition.notify_all()

    # What sessions ask for

    def row(self, row: dict[str, Any]) -> None:
        """Pass a row of the history on."""
        with self.condition:
            self.newest = row
            self.watcher.row(row)

    def hurried(self) -> bool:
        """Whether what waits for a whole state is there: nobody should be long."""
        return self.failed is not None or self.keeper.hurried()

    def between_steps(self, session: Session) -> None:
        """Report now and then; keep the state if it is time, together with the others."""
        self._report(session)
        if self.alone:
            if self.keeper.due():
                self.keeper.keep(self._state())
            return
        if self.failed is None and not self.keeper.due():
            return
        with self.condition:
            if self.failed is None:
                self.waiting += 1
                before = self.round
                self.condition.notify_all()
                self.condition.wait_for(lambda: self.round != before)
            if self.failed is not None:
                raise _Ended

    def _steps(self) -> list[int]:
        """Steps that each group has taken."""
        at = {number: session.step for number, session in list(self.sessions.items())}
        return [at.get(n, 0 if record is None else self.task.plan.steps) for n, record in enumerate(self.records)]

    def _seen(self) -> int:
        """Examples seen by all replicas."""
        taken = sum(steps * len(group) for steps, group in zip(self._steps(), self.groups, strict=True))
        return taken * self.task.plan.batch_size

    def _report(self, session: Session) -> None:
        then, last = self.reported
        now, plan = time.monotonic(), self.task.plan
        if now - then < REPORT_SECONDS and session.step != plan.steps:
            return
        with self.condition:
            seen = self._seen()
            self.reported = (now, seen)
            busy = sorted(replica for number in self.sessions for replica in self.groups[number])
            done = seen / (plan.steps * plan.batch_size * self.task.replicas)
            speed = (seen - last) / max(now - then, 1e-9)
            epochs = plan.epoch(session.step), plan.epoch(plan.steps)
            self.watcher.progress(Progress(busy, self.task.replicas, *epochs, speed, done, self.newest))

    # The state of all

    def _state(self) -> Kept:
        tensors = {f"weights/{label}": value for label, value in self.weights.items()}
        states: list[dict[str, Any] | None] = []
        for number, record in enumerate(self.records):
            if record is not None:
                states.append({"record": vars(record)})
            elif number in self.sessions:
                kept = self.sessions[number].state()
                tensors |= {f"{number}/{name}": value for name, value in kept.tensors.items()}
                states.append(dict(kept.notes))
            else:
                states.append(None)
        notes = {"groups": self.groups, "states": states, "steps": self._steps(), "labels": list(self.weights)}
        return Kept(tensors, notes)

    def _restore(self, kept: Kept) -> None:
        self.weights = {label: kept.tensors[f"weights/{label}"] for label in kept.notes["labels"]}
        for number, notes in enumerate(kept.notes["states"]):
            if notes is None:
                continue
            if "step" not in notes:
                self.records[number] = Record(**notes["record"])
                continue
            prefix = f"{number}/"
            own = {name.removeprefix(prefix): v for name, v in kept.tensors.items() if name.startswith(prefix)}
            self.sessions[number] = self._session(number)
            self.sessions[number].restore(Kept(own, notes))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
