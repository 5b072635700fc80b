"""Trackers: what jobs left on disk, handed on to TensorBoard, MLflow or Weights & Biases once they have ended.

One process sends, `python -m hw1.trackers`, started by the one at the terminal: so it is the same for every launcher,
nobody contends for a database, and libraries that print, retry or hang are kept away from the jobs and can be ended.
What has been sent is noted beside it in `.tracked.json`; `resume=` sends what is missing. Nothing here costs a job.
"""

import contextlib
import importlib.util
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hw1.errors import UserError, one_line, shortened, system_words
from hw1.progress import shown

if TYPE_CHECKING:
    from hw1.sweep import Planned

LIBRARIES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}  # kind → module
ENVIRONMENT = {  # of the process that sends, unless the user has set them: no telemetry, no patience with the absent
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
LEAVING = 5.0  # seconds that the process has, once it has said all, for what its library does at the end
SILENT = "no answer"
URI = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://.+|databricks(-uc)?")


def check(node: Mapping[str, Any]) -> None:
    """See whether a tracker can be used: its library is installed, and it can be told where to. Raises: UserError."""
    kind = node["kind"]
    if not _installed(LIBRARIES[kind]):
        raise UserError(f"tracker={kind}: needs the extra: pip install 'hw1[{kind}]'")
    if kind == "mlflow" and not URI.fullmatch(node["uri"]):
        raise UserError(
            f"tracker.uri={shortened(node['uri'])}: must be a tracking URI, such as sqlite:///mlflow.db or "
            "http://127.0.0.1:5000; MLflow keeps no runs in plain folders"
        )
    if kind == "mlflow" and _has_password(node["uri"]):
        raise UserError(
            "tracker.uri: has a password in it, which would be stored with the results; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the database's own file for passwords"
        )


@cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _has_password(uri: str) -> bool:
    try:
        return urlsplit(uri).password is not None
    except ValueError:
        return "@" in uri


def send(planned: "Planned") -> None:
    """Have sent what ended and was not sent before, and say so in a line; what goes wrong is a line on stderr."""
    node = planned.jobs[0].config["tracker"]
    try:
        problem = _attended(node, _told(planned))
    except KeyboardInterrupt:
        problem = "interrupted"
    except Exception as error:
        problem = words(error)
    if problem:
        again = f"python -m hw1 resume={shown(planned.folder)}" if planned.multirun else "the same command again"
        where = shortened(node.get("uri") or node.get("logdir") or node["project"])
        what = f"{node['kind']} ({where}): {problem.rstrip('.')}"
        print(f"warning: {what}; results are complete, and {again} sends the rest", file=sys.stderr)


def _told(planned: "Planned") -> dict[str, Any]:
    """All that the sending process needs to know."""
    return {
        "tracker": planned.jobs[0].config["tracker"],
        "experiment": planned.experiment,
        "folder": str(planned.folder),
        "sweep": planned.multirun,
        "keys": planned.keys,
        "jobs": [
            {
                "folder": str(folder),
                "name": job.name(planned.keys),
                "values": {key: job.values[key] for key in planned.keys} if planned.multirun else job.values,
                "config": {key: value for key, value in job.config.items() if key != "tracker"},
            }
            for folder, job in zip(planned.folders, planned.jobs, strict=True)
        ],
    }


def _attended(node: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """Start the process that sends, print what it says, and end it when it says nothing for too long; what is wrong."""
    with tempfile.TemporaryFile() as errors:  # no pipe, which a library's own processes might hold open
        child = subprocess.Popen(
            [sys.executable, "-m", "hw1.trackers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env=ENVIRONMENT | os.environ, start_new_session=True,
        )  # fmt: skip
        heard: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_listen, args=(child, json.dumps(told), heard), daemon=True).start()
        ended = False
        try:
            problem = _heard(heard, node["timeout"])
            ended = problem is None or not problem.startswith(SILENT)
        finally:
            _end(child, LEAVING if ended else 0)
        errors.seek(0)
        text = errors.read().decode(errors="replace")
        if problem != "" and os.environ.get("HYDRA_FULL_ERROR") == "1":
            print(text, file=sys.stderr)
        return _last_words(text) if problem is None else problem


def _listen(child: "subprocess.Popen[bytes]", told: str, heard: "queue.Queue[str | None]") -> None:
    """Tell the process what to send, and pass on line by line what it says; None at its end."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(OSError):
        child.stdin.write(told.encode())
        child.stdin.close()
    for line in child.stdout:
        heard.put(line.decode())
    heard.put(None)


def _heard(heard: "queue.Queue[str | None]", patience: float) -> str | None:
    """What is wrong, "" for nothing; None if the process ended without a word about it."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            line = heard.get(timeout=0.2)  # in short turns, so that Ctrl-C is heard
        except queue.Empty:
            continue
        if line is None:
            return None
        said = json.loads(line)
        if "problem" in said:
            if said["line"]:
                print(said["line"])
            return str(said["problem"])
        until = time.monotonic() + patience
    return f"{SILENT} within {patience:g} s (tracker.timeout)"


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return f"its process ended early{f': {shortened(one_line(lines[-1]), 200)}' if lines else ''}"


def _end(child: "subprocess.Popen[bytes]", patience: float) -> None:
    """Let the process end in that time, and kill what is left of it and of those that its library started."""
    import psutil

    with contextlib.suppress(psutil.Error):  # it is gone
        whole = psutil.Process(child.pid)
        family = [whole, *whole.children(recursive=True)]
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(patience)
        finally:
            for process in family:
                with contextlib.suppress(psutil.Error):
                    process.kill()
    child.wait()


def words(error: BaseException) -> str:
    """What went wrong, in a line; what the system said, if that is behind it."""
    cause: BaseException | None = error
    for _ in range(20):
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return one_line(system_words(cause))
        if cause is None:
            break
        cause = cause.__cause__ or cause.__context__
    return shortened(f"{type(error).__name__}: {one_line(error)}", 200)
