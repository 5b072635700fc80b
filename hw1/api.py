"""hw1 from Python: `run`, `load` and `compare` give results that hold tables, figures and findings.

Commands run in processes of their own. So they do here what they do in a terminal, and leave nothing behind in the
caller's process: no signal handlers, no threads of torch, no state of Hydra; two of them may run at once.
"""

import os
import queue
import shlex
import signal
import site
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import hw1
from hw1 import notebook
from hw1.cli import BAD_INPUT, FOLDER_FILE
from hw1.errors import UserError, one_line, shortened, written
from hw1.loaded import Figure, Result, Tables, load

__all__ = ["Figure", "JobFailed", "Result", "Tables", "compare", "load", "run"]

StrPath = str | os.PathLike[str]
POLL_SECONDS = 0.3
_ERROR = "error: "


class JobFailed(Exception):
    """A job by itself failed or was stopped; `result` has what it left, or is None where it left nothing.

    The message is one line; `result.folder / "error.txt"` has the traceback.
    """

    def __init__(self, message: str, result: Result | None) -> None:
        super().__init__(message)
        self.result = result


def run(words: Sequence[str] | str, cwd: StrPath | None = None, quiet: bool = False) -> Result:
    """Run what `python -m hw1 words…` runs, wait for it, and give its result.

    What the command prints is shown as it comes; in a notebook a few lines that say how the jobs stand. Ctrl-C (in a
    notebook: interrupt) ends it as in a terminal: trainings keep their state, and the same call goes on with them.

    Args:
        words: as on the command line, such as ["experiment=function", "depth=1,4", "-m"], or one string of them.
        cwd: the directory in which it runs, where `outputs`, `multirun` and `runs` are; by default the current one.
        quiet: show nothing.

    Returns: the job's or, with "-m", the sweep's. Of a sweep in which jobs failed it holds the others, and a warning is
        given; `status`, `failures` and `comparison` say which.
    Raises:
        hw1.UserError: bad input, in one line; nothing was started.
        hw1.JobFailed: a job without "-m" failed.
    """
    typed = shlex.split(words) if isinstance(words, str) else [str(word) for word in words]
    ended = _called("hw1", typed, cwd, _shown(quiet))
    if ended.code == BAD_INPUT:
        raise UserError(ended.error or "bad input")
    if ended.folder is None and ended.code == 0:
        raise UserError(f"{shortened(shlex.join(typed))}: gives no result")
    result = _left(ended.folder)
    if result is None or (result.kind == "job" and result.status != "ok"):
        raise JobFailed(ended.error or _why(result, ended.code), result)
    if ended.code != 0:
        warnings.warn(_unlike_ok(result, ended), stacklevel=2)
    return result


def compare(
    folders: StrPath | Iterable[StrPath],
    metric: str | Iterable[str] = (),
    by: str | Iterable[str] = (),
    filter: Mapping[str, Any] | None = None,
    baseline: Mapping[str, Any] | None = None,
    out: StrPath | None = None,
    figures: bool = True,
    allow: Iterable[str] = (),
    store: StrPath | None = None,
) -> Result:
    """Compare jobs and sweeps, as `python -m hw1.compare` does: conditions are what differs between their configs.

    Args:
        folders: of jobs and sweeps; results of `run` and `load` will do.
        metric: names of the metrics that findings and differences are about.
        by: the keys that make conditions; each replicate is averaged over the other keys.
        filter: only jobs whose config has these values, {"model.dropout": 0}; a list of values for any of them.
        baseline: values of the conditions that the others are set against; differences are in `.tables["differences"]`.
        out: folder for tables and figures; by default a new one, comparisons/<date>/<time>.
        figures: whether to draw them.
        allow: modules in which experiments of your own are defined.
        store: where it is known what was drawn before; by default runs, here.

    Returns: the comparison. Jobs that failed or have not finished are left out of it, and a warning is given.
    Raises: hw1.UserError, in one line, for folders that are none, and for what is not in them.
    """
    words = [f"./{name}" if name.startswith("-") else name for name in _texts(folders)]
    words += [f"--metric={name}" for name in _texts(metric)]
    words += [f"--by={','.join(_texts(by))}"] if by else []
    words += [f"--filter={key}={_listed(value)}" for key, value in (filter or {}).items()]
    words += [f"--baseline={key}={written(value)}" for key, value in (baseline or {}).items()]
    words += [f"--out={Path(out).absolute()}"] if out is not None else []
    words += [] if figures else ["--no-figures"]
    words += [f"--allow={module}" for module in _texts(allow)]
    words += [f"--store={os.fspath(store)}"] if store is not None else []
    ended = _called("hw1.compare", words, None, _Shown(subprocess.DEVNULL))
    if ended.code == BAD_INPUT:
        raise UserError(ended.error or "bad input")
    result = _left(ended.folder)
    if result is None:
        raise UserError(ended.error or "no job has a result: nothing to compare")
    if ended.code != 0:
        warnings.warn(_unlike_ok(result, ended), stacklevel=2)
    return result


def _texts(value: StrPath | Iterable[StrPath]) -> list[str]:
    """One, or several, as they go on a command line."""
    return [os.fspath(each) for each in ([value] if isinstance(value, str | os.PathLike) else value)]


def _listed(value: Any) -> str:
    several = isinstance(value, list | tuple | set)
    return ",".join(written(each) for each in value) if several else written(value)


def _left(folder: Path | None) -> Result | None:
    try:
        return None if folder is None else load(folder)
    except UserError:  # it was killed before it wrote anything
        return None


def _why(result: Result | None, code: int) -> str:
    said = str(result._record.get("error") or "") if result else ""
    how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return one_line(said or how) + (f" (results: {result.folder})" if result else "")


def _unlike_ok(result: Result, ended: "_Ended") -> str:
    bad = result.failures
    first = f": {bad[0]}{f', and {len(bad) - 1} more, in .failures' if len(bad) > 1 else ''}" if bad else ""
    said = f"; {ended.error}" if ended.error else ""
    return one_line(f"not all jobs are ok (exit code {ended.code}){first}{said}")


# The command's process


@dataclass(frozen=True)
class _Shown:
    """What is shown of a command: its stdout goes to `stdout`, lines that come by a pipe are printed here."""

    stdout: int | IO[str]
    errors: bool = True  # whether stderr is shown, too
    look: Callable[[Path | None], None] = lambda folder: None  # called now and then, with the folder of the results


def _shown(quiet: bool) -> _Shown:
    if quiet:
        return _Shown(subprocess.DEVNULL, errors=False)
    if notebook.in_notebook():  # which shows the result itself at the end
        return _Shown(subprocess.DEVNULL, look=notebook.Live().look)
    if _is_terminal(sys.stdout):
        sys.stdout.flush()
        return _Shown(sys.stdout)  # bars and colours, as ever
    return _Shown(subprocess.PIPE)


def _is_terminal(stream: Any) -> bool:
    try:
        return os.isatty(stream.fileno())
    except (AttributeError, OSError, ValueError):  # None, or no file of the system
        return False


@dataclass(frozen=True)
class _Ended:
    code: int
    folder: Path | None  # of the results
    error: str  # the last line that says what went wrong


def _called(module: str, words: Sequence[str], cwd: StrPath | None, shown: _Shown) -> _Ended:
    """Run `python -m module words…` to its end. Raises: UserError for a `cwd` that is none; KeyboardInterrupt."""
    # In a group of its own the process hears of Ctrl-C from here, once, and not from the terminal, too; from another
    # thread than the main one, which alone is interrupted, it could not.
    own_group = os.name == "posix" and threading.current_thread() is threading.main_thread()
    with tempfile.TemporaryDirectory(prefix="hw1-") as scratch:
        file = Path(scratch) / "folder"
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *words], cwd=cwd, env=_environment(file), stdin=subprocess.DEVNULL,
                stdout=shown.stdout, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
                process_group=0 if own_group else None,
            )  # fmt: skip
        except (FileNotFoundError, NotADirectoryError) as error:
            if cwd is None or Path(cwd).is_dir():
                raise
            raise UserError(f"cwd={shortened(one_line(cwd))}: there is no such folder") from error
        except ValueError as error:  # a null byte
            raise UserError(one_line(error)) from error
        said = _follow(process, shown, lambda: _noted(file))
        return _Ended(process.returncode, _noted(file), said)


def _noted(file: Path) -> Path | None:
    try:
        return Path(file.read_text(encoding="utf-8"))
    except OSError:
        return None


def _environment(file: Path) -> dict[str, str]:
    """For the child: this one's, in which it finds the same hw1, and is told where to note the folder."""
    changes = {FOLDER_FILE: str(file), "PYTHONIOENCODING": "utf-8"}
    place = str(Path(hw1.__file__).parent.parent)
    if place not in (*site.getsitepackages(), site.getusersitepackages()):  # a checkout, by sys.path alone
        changes["PYTHONPATH"] = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **changes}


def _follow(process: "subprocess.Popen[str]", shown: _Shown, folder: Callable[[], Path | None]) -> str:
    """Show what a process says until it ends, pass Ctrl-C on to it; the last error that it spoke of, unshown.

    Raises: KeyboardInterrupt, when it has ended, if there was one.
    """
    lines: queue.SimpleQueue[tuple[bool, str]] = queue.SimpleQueue()
    streams = [stream for stream in (process.stdout, process.stderr) if stream]
    for stream in streams:
        threading.Thread(target=_read, args=(stream, stream is process.stderr, lines), daemon=True).start()
    error, interrupt = "", None
    try:
        while True:
            try:
                over = process.poll() is not None  # asked first: what it said before it ended is in the queue soon
                try:
                    of_errors, line = lines.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    shown.look(folder())
                    if over:
                        break
                    continue
                if of_errors and error:
                    _print(error, sys.stderr, shown.errors)
                    error = ""
                if of_errors and line.startswith(_ERROR):
                    error = line
                else:
                    _print(line, sys.stderr if of_errors else sys.stdout, shown.errors or not of_errors)
            except KeyboardInterrupt as again:
                interrupt = again
                process.send_signal(signal.SIGINT)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if interrupt:
        if place := folder():
            interrupt.add_note(f"what was done is kept: hw1.load({str(place)!r})")
        raise interrupt
    return one_line(error.removeprefix(_ERROR))


def _read(stream: IO[str], of_errors: bool, lines: "queue.SimpleQueue[tuple[bool, str]]") -> None:
    with stream:
        for line in stream:
            lines.put((of_errors, line))


def _print(line: str, stream: Any, wanted: bool) -> None:
    if wanted:
        print(line, end="", file=stream, flush=True)
