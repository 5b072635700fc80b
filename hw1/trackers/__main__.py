"""The process that sends: reads what to send on standard input, says on standard output how it went."""

import contextlib
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from hw1.files import lock, write_json
from hw1.progress import PLAN, RESULT, read_json
from hw1.trackers import words
from hw1.trackers.record import Record, job_record, name_of, sweep_record
from hw1.trackers.senders import SENDERS, Sender, sqlite_file

MARK = ".tracked.json"


class Mark:
    """What a folder notes of a tracker: where there its content is (`place`), and whether all of it (`done`).

    It holds for the content of one `file` of the folder: a job that ran anew is another one to the tracker.
    """

    def __init__(self, folder: Path, tracker: str, file: str) -> None:
        self.file, self.tracker = folder / MARK, tracker
        of = folder / file
        self.of = hashlib.sha256(of.read_bytes()).hexdigest()[:16] if of.exists() else ""
        mark = read_json(self.file).get(tracker)
        known = isinstance(mark, dict) and mark.get("of") == self.of
        self.place = str(mark.get("id", "")) if isinstance(mark, dict) and known else ""
        self.done = bool(known and mark.get("done")) if isinstance(mark, dict) else False

    def write(self, place: str, done: bool) -> None:
        """Note it."""
        self.place, self.done = place, done
        write_json(self.file, read_json(self.file) | {self.tracker: {"id": place, "of": self.of, "done": done}})


def _destination(node: Mapping[str, Any]) -> str:
    """Where a tracker's settings lead to, under a name that stays the same."""
    if node["kind"] == "tensorboard":
        return f"tensorboard {Path(node['logdir']).absolute()}"
    if node["kind"] == "wandb":
        return f"wandb {node['mode']} {node['entity'] or ''}/{node['project']}"
    file = sqlite_file(node["uri"])
    return f"mlflow {f'sqlite:///{file}' if file else node['uri']} {node['experiment']}"


def deliver(told: Mapping[str, Any], sent: Callable[[], None]) -> tuple[str, str]:
    """Send what has ended and was not sent before; a line for the terminal, and what is wrong, "" for nothing.

    Args:
        told: the settings and the jobs, as hw1.trackers.send has them.
        sent: called after each job.
    """
    node, where = told["tracker"], _destination(told["tracker"])
    due = [(job, mark) for job, mark in _marked(told["jobs"], where) if not mark.done]
    whole = Mark(Path(told["folder"]), where, PLAN) if told["sweep"] else None
    if not due and (whole is None or whole.done or not whole.place):
        return f"{node['kind']}: nothing that was not sent before", ""
    with _alone(node):
        return _deliver(told, due, whole, sent)


def _deliver(
    told: Mapping[str, Any],
    due: Sequence[tuple[Mapping[str, Any], Mark]],
    whole: Mark | None,
    sent: Callable[[], None],
) -> tuple[str, str]:
    node = told["tracker"]
    sender = SENDERS[node["kind"]](node, name_of(told) if whole else "")
    if whole and not whole.place:
        whole.write(sender.start(sweep_record(told), None), done=False)
    problems = []
    for job, mark in due:
        try:
            _send_job(sender, job_record(told, job), mark, whole.place if whole else None)
            sent()
        except (Exception, SystemExit) as error:
            _show(error)
            problems.append(words(error))
    if whole:
        whole.write(whole.place, done=False)
        sender.fill(whole.place, sweep_record(told))
        whole.write(whole.place, done=not problems)
    if len(problems) == len(due) > 0:
        return "", problems[0]
    count = len(due) - len(problems)
    many = f"{count} job{'s' if count != 1 else ''}" if told["sweep"] else "sent"
    line = f"{node['kind']}: {many} to {sender.look(whole.place if whole else due[0][1].place)}"
    return line, f"{len(problems)} of {len(due)} jobs were not sent: {problems[0]}" if problems else ""


@contextlib.contextmanager
def _alone(node: Mapping[str, Any]) -> Iterator[None]:
    """No other process of ours writes to the same SQLite file: two that make its tables at once break it."""
    file = sqlite_file(node["uri"]) if node["kind"] == "mlflow" else None
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with lock(file.with_name(f".{file.name}.lock"), waiting=lambda: None):
        yield


def _marked(jobs: Sequence[Mapping[str, Any]], where: str) -> Iterator[tuple[Mapping[str, Any], Mark]]:
    """The jobs that have ended, by themselves, and their marks."""
    for job in jobs:
        folder = Path(job["folder"])
        if read_json(folder / RESULT).get("status") in ("ok", "failed"):
            yield job, Mark(folder, where, RESULT)


def _send_job(sender: Sender, record: Record, mark: Mark, parent: str | None) -> None:
    if mark.place:
        sender.discard(mark.place)
    mark.write(sender.start(record, parent), done=False)
    sender.fill(mark.place, record)
    mark.write(mark.place, done=True)


def _show(error: BaseException) -> None:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)


def _speaker() -> IO[str]:
    """Standard output for ourselves; what libraries print there goes to standard error from now on."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def main() -> None:
    """Send what standard input describes; say on standard output how it goes, in lines of JSON."""
    speaker = _speaker()

    def say(**said: str) -> None:
        print(json.dumps(said), file=speaker, flush=True)

    try:
        line, problem = deliver(json.load(sys.stdin), say)
    except (Exception, SystemExit) as error:
        _show(error)
        line, problem = "", words(error)
    say(line=line, problem=problem)


if __name__ == "__main__":
    main()
