"""Signals that end a process, or ask it to keep its state; in the middle of a training they wait for its next step.

    SIGINT, SIGTERM   keep the state and end: 130, 143; a second one ends at once
    SIGUSR1           keep the state and go on: what a scheduler can send before it takes the machine away
    SIGUSR2           where the launcher has a handler of its own (submitit): keep the state, then call it

Outside `deferred` an ending signal raises KeyboardInterrupt where the process is. Inside, `asked` says what came, and
whoever is inside calls `obey` where it is whole. One that does not within `GRACE` seconds is interrupted where it is.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

GRACE = 1.2  # seconds; whoever ends the others has to wait longer (supervise.PATIENCE)
INTERRUPTED, TERMINATED = 130, 143
_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGINT, signal.SIGTERM)


@dataclass
class _State:
    """Of this process; signals have no other."""

    asked: int | None = None  # the signal that waits to be obeyed
    ending: int | None = None  # the first signal that asked to end
    depth: int = 0  # of `deferred`
    patient: bool = False  # however many ending signals, they count as one
    of_a_pool: bool = False  # SIGTERM ends this process, not just its job
    busy: bool = False  # with a job
    told: Callable[[int], None] | None = None
    before: dict[int, Any] = field(default_factory=dict)  # signal → the handler that was there before ours


_state = _State()


class Requeued(SystemExit):
    """The launcher's own handler has put the job into the queue again, and ends this process."""


def install(told: Callable[[int], None] | None = None) -> None:
    """Handle the signals above in this process; without effect but in its main thread.

    Args:
        told: called first, at the first ending signal and at every SIGUSR1: passes it on to other processes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _state.told = told
    wanted = [signal.SIGINT, signal.SIGTERM]
    wanted += [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    for number in wanted:
        before = signal.getsignal(number)
        if before is _handle or (number == getattr(signal, "SIGUSR2", None) and not _of_submitit(before)):
            continue
        _state.before[number] = before
        signal.signal(number, _handle)


def join_pool(parent: int) -> None:
    """In a new worker of a pool: end with the process that started it, by SIGTERM, at once unless it is at a job.

    Left to itself a worker would train on for a sweep that is no more, and keep its memory for minutes.
    """
    _install_in_worker()
    _state.of_a_pool = True
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was faster
            os._exit(TERMINATED)


def _install_in_worker() -> None:
    install()
    _state.patient = True
    if hasattr(signal, "pthread_sigmask"):  # Ray's workers would not hear it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Around a job, maybe in a process that works for another: there ending signals count as one, however many."""
    if signal.getsignal(signal.SIGINT) is not _handle:
        _install_in_worker()
    _state.busy = True
    try:
        yield
    finally:
        _state.busy = False
        if _state.of_a_pool and _state.ending == signal.SIGTERM:
            os._exit(TERMINATED)


def asked() -> bool:
    """Whether a signal waits to be obeyed."""
    return _state.asked is not None


def ending() -> bool:
    """Whether this process was told to end."""
    return _state.ending is not None


def exit_code() -> int:
    """What a shell expects of a process that ended by the signal that came: 143 for SIGTERM, else 130."""
    return TERMINATED if _state.ending == signal.SIGTERM else INTERRUPTED


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait for the duration of the block."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
        if _state.depth == 0 and _state.ending is not None:
            _alarm(0)


def obey() -> None:
    """Do what the signal that waits asks for. Raises: KeyboardInterrupt or Requeued if it asks to end."""
    number, _state.asked = _state.asked, None
    if number is not None:
        _do(number)


def _handle(number: int, frame: FrameType | None) -> None:
    again = _state.ending is not None
    if number in _ENDING:
        _state.ending = _state.ending or number
        if again and not _state.patient:
            raise KeyboardInterrupt
        if again:
            return
    if _state.told is not None:
        _state.told(number)
    if _state.depth == 0:
        _do(number)
        return
    _state.asked = number
    if number in _ENDING and not _passed_on(number):
        _alarm(GRACE)


def _passed_on(number: int) -> bool:
    """Whether submitit's own handler, which may go on or put the job into the queue again, has the last word."""
    return _of_submitit(_state.before.get(number))


def _of_submitit(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("submitit.")


def _do(number: int) -> None:
    if _passed_on(number):
        _state.ending = None
        try:
            _state.before[number](number, None)
        except SystemExit as error:
            raise Requeued(error.code) from error
    elif number in _ENDING:
        if number == signal.SIGTERM and _state.of_a_pool and not _state.busy:
            os._exit(TERMINATED)
        raise KeyboardInterrupt


def _alarm(seconds: float) -> None:
    """Interrupt this process after some time, wherever it is; 0 for not at all."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _too_late)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _too_late(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)
