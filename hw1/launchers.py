"""Where a sweep's jobs run: how many side by side, on how many cores each, and what Hydra's launchers leave to be done.

submitit starts all jobs of one machine at once. Like Ray it gives up on all jobs at the first that is lost, and leaves
those that run to themselves on Ctrl-C.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hw1 import signals
from hw1.errors import UserError, one_line, shortened

GROUP = "hydra/launcher"
EXTRAS = {  # option of hydra/launcher → the extra that it needs
    "slurm": "slurm",
    "submitit_slurm": "slurm",
    "submitit_local": "slurm",
    "ray": "ray",
    "ray_aws": "ray",
}
PLUGINS = {"slurm": "hydra_plugins.hydra_submitit_launcher", "ray": "hydra_plugins.hydra_ray_launcher"}
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container; not everywhere
POLL_SECONDS = 0.2
QUEUE_SECONDS = 10.0  # between two looks into Slurm's queue
END_SECONDS = 2.0  # that jobs have to end after Ctrl-C
OBJECT_STORE = 80_000_000  # bytes: about the least that Ray takes; configs and results alone go through it
LOCAL = "local"  # address of a Ray that is started for one sweep


@dataclass(frozen=True)
class Ended:
    """Stands for what a job returns to its launcher; how it went is on the disk, unless it could not even begin."""

    error: BaseException | None = None

    @property
    def return_value(self) -> None:
        """What Hydra asks a job for. Raises: what went wrong around the job."""
        if self.error is not None:
            raise self.error

    def results(self) -> list["Ended"]:
        """What submitit asks a job for."""
        return [self]


def check_installed(option: str) -> None:
    """Raises: UserError if a launcher needs an extra, or a program, that this machine has not."""
    extra = EXTRAS.get(option)
    if extra and not _found(PLUGINS[extra]):
        raise UserError(f"hydra/launcher={option}: needs the extra: pip install 'hw1[{extra}]'")
    if option in ("slurm", "submitit_slurm") and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(
            f"hydra/launcher={option}: there is no Slurm here (no sbatch); start it where you type sbatch, or try "
            "hydra/launcher=submitit_local"
        )


def check_value(key: str, known: Any, value: Any) -> None:
    """Raises: UserError if a launcher's setting that is a number is to be something else: some take what they get."""
    if isinstance(known, int | float) and not isinstance(value, type(known) | int | float | None):
        raise UserError(f"{key}={shortened(str(value))}: must be a number")


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def arranged(
    settings: Mapping[str, Any], jobs: int, wanted: int | str, threads: int | str, typed: Container[str] = ()
) -> tuple[int, dict[str, Any]]:
    """How many of a sweep's jobs run side by side at most, and the settings of the launcher that make it so.

    Args:
        settings: Hydra's `hydra.launcher`.
        jobs: how many there are.
        wanted: `jobs=…`; "auto": as many as there are cores for.
        threads: `threads=…`, of each job.
        typed: keys that stand on the command line; what a launcher gives a job is not changed if it was typed.
    Raises: UserError if the number is not for us to say.
    """
    kind = _kind(settings)
    given = {"cpus_per_task": threads} if threads != "auto" and "hydra.launcher.cpus_per_task" not in typed else {}
    if kind == "SlurmLauncher":
        most = settings["array_parallelism"] if wanted == "auto" else wanted
        return min(jobs, int(most)), {"array_parallelism": most, **given}
    if kind == "RayLauncher":
        own = threads == "auto" or "hydra.launcher.ray.remote.num_cpus" in typed
        return _arranged_for_ray(settings["ray"], jobs, wanted, None if own else int(threads))
    if kind not in ("JoblibLauncher", "LocalLauncher"):
        return 1, {}
    each = threads if isinstance(threads, int) else 1
    side_by_side = min(jobs, max(1, cores() // each) if wanted == "auto" else int(wanted))
    if kind == "JoblibLauncher":
        return side_by_side, {"n_jobs": side_by_side}
    return side_by_side, {"cpus_per_task": max(1, cores() // side_by_side), **given}


def _arranged_for_ray(
    settings: Mapping[str, Any], jobs: int, wanted: int | str, cpus: int | None
) -> tuple[int, dict[str, Any]]:
    cpus = settings["remote"].get("num_cpus") or 1 if cpus is None else cpus
    address = settings["init"].get("address")
    if address == LOCAL:
        side_by_side = min(jobs, max(1, int(cores() // cpus)) if wanted == "auto" else int(wanted))
        room = {"ray.init.num_cpus": side_by_side * cpus, "ray.init.object_store_memory": OBJECT_STORE}
        return side_by_side, {"ray.remote.num_cpus": cpus, **room}
    if wanted != "auto":
        raise UserError(f"jobs={wanted}: the Ray at {address} runs as many jobs as it has room for; leave jobs out")
    return jobs, {"ray.remote.num_cpus": cpus}


def threads_of(requested: int | str, settings: Mapping[str, Any]) -> int:
    """CPU threads of a job: as requested, or with "auto" its share of the cores that this process may use.

    Args:
        settings: Hydra's `hydra.launcher`; {} for a job by itself.
    """
    if isinstance(requested, int):
        return requested
    if _kind(settings) == "RayLauncher":
        share = settings["ray"]["remote"].get("num_cpus")
    elif "n_jobs" in settings:
        share = cores() // max(1, settings["n_jobs"])
    else:
        share = settings.get("cpus_per_task")
    return cores() if share is None else min(cores(), max(1, int(share)))


def side_by_side(settings: Mapping[str, Any]) -> bool:
    """Whether a launcher may run jobs at the same time."""
    return settings["n_jobs"] > 1 if "n_jobs" in settings else _kind(settings) not in ("", "BasicLauncher")


def shares(settings: Mapping[str, Any]) -> int:
    """How many of a sweep's jobs run at a time in processes of this machine, its cores shared out among them."""
    return max(1, int(settings["n_jobs"])) if _kind(settings) == "JoblibLauncher" else 1


def cores() -> int:
    """CPU cores that this process may use: by its affinity, by what Slurm gave it, and by its container's quota."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdecimal():
        found = min(found, int(given))
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
        found = min(found, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroups of version 2, or "max"
        pass
    return max(1, found)


def _kind(settings: Mapping[str, Any]) -> str:
    return str(settings.get("_target_", "")).rpartition(".")[2]


@contextlib.contextmanager
def attended(settings: Mapping[str, Any], at_a_time: int) -> Iterator[None]:
    """Around a launcher's work: a job that is lost costs itself alone, and when the block ends no job is left running.

    Args:
        settings: Hydra's `hydra.launcher`.
        at_a_time: jobs that submitit may run on this machine.
    """
    kind = _kind(settings)
    if kind == "RayLauncher":
        with _ray(settings["ray"]["init"].get("address")):
            yield
    elif kind in ("LocalLauncher", "SlurmLauncher"):
        with _submitit(kind == "LocalLauncher", Path(settings["submitit_folder"]).parent, at_a_time):
            yield
    elif kind == "JoblibLauncher":
        with _joblib():
            yield
    else:
        yield


@contextlib.contextmanager
def _joblib() -> Iterator[None]:
    """Have workers end with this process, from their start on."""
    parallel = importlib.import_module("joblib.parallel")
    usual = parallel.BACKENDS["loky"]
    ours = functools.partial(usual, initializer=signals.join_pool, initargs=(os.getpid(),))
    parallel.register_parallel_backend("loky", ours)
    try:
        yield
    finally:
        parallel.register_parallel_backend("loky", usual)


@contextlib.contextmanager
def _submitit(local: bool, folder: Path, at_a_time: int) -> Iterator[None]:
    """Start jobs, wait for them, and in the end cancel them in our way: by another `map_array`."""
    executor = importlib.import_module("submitit").AutoExecutor
    original = executor.map_array
    jobs: list[Any] = []
    running: list[Any] = []

    def map_array(self: Any, function: Callable[..., Any], *columns: Any) -> list[Ended]:
        if local:
            folder.mkdir(parents=True, exist_ok=True)
            arguments = deque(zip(*columns, strict=True))
            with (folder / "controllers.log").open("ab") as log, _apart(log):
                while arguments or running:
                    while arguments and len(running) < at_a_time:
                        jobs.append(self.submit(function, *arguments.popleft()))
                        running.append(jobs[-1])
                    _wait(running)
        else:
            jobs.extend(original(self, function, *columns))
            running.extend(jobs)
            _wait_for_slurm(running)
        return [_ended(job) for job in jobs]

    executor.map_array = map_array
    try:
        yield
    finally:
        del executor.map_array  # it was inherited
        if running:
            (_end_here if local else _scancel)(running)


def _ended(job: Any) -> Ended:
    """How one of submitit's jobs ended, as far as the job does not say itself."""
    error = job.exception() if job.paths.result_pickle.exists() else None  # else it was killed
    if error is None:
        return Ended()
    lines = [line for line in str(error).partition("\n---")[2].partition("\n---")[0].splitlines() if line.strip()]
    return Ended(RuntimeError(f"{lines[-1] if lines else error} (see {job.paths.stdout})"))


def _wait(running: list[Any]) -> None:
    time.sleep(POLL_SECONDS)
    running[:] = [job for job in running if not job.done()]


def _wait_for_slurm(running: list[Any]) -> None:
    """Until no job is in Slurm's queue, in which those that are queued again stay; submitit asks its accounting, which
    not all have."""
    asked = time.monotonic()
    while running:
        time.sleep(POLL_SECONDS)
        running[:] = [job for job in running if not job.paths.result_pickle.exists()]
        if time.monotonic() - asked > QUEUE_SECONDS:
            asked, queued = time.monotonic(), _queued(running)
            running[:] = [job for job in running if queued is None or job.job_id in queued]


def _queued(jobs: Sequence[Any]) -> set[str] | None:
    """Which of Slurm's jobs wait or run; None if it does not say."""
    numbers = ",".join(sorted({job.job_id.partition("_")[0] for job in jobs}))
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={numbers}"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:  # it forgets jobs some minutes after their end
        return None
    return set(answer.stdout.split())


@contextlib.contextmanager
def _apart(log: Any) -> Iterator[None]:
    """Start submitit's processes in groups of their own: Ctrl-C is for us to pass on, once; and with a log."""
    module = importlib.import_module("submitit.local.local")
    popen = functools.partial(
        subprocess.Popen, process_group=0, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )
    module.subprocess = SimpleNamespace(Popen=popen)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.subprocess = subprocess  # type: ignore[attr-defined]


def _end_here(running: list[Any]) -> None:
    """Interrupt jobs of this machine; those that go on are killed."""
    for job in running:
        job.cancel(check=False)
    until = time.monotonic() + END_SECONDS
    while running and time.monotonic() < until:
        time.sleep(0.05)
        running[:] = [job for job in running if not job.done()]
    for job in running:
        with contextlib.suppress(OSError):
            os.killpg(int(job.job_id), signal.SIGKILL)


def _scancel(running: list[Any]) -> None:
    """Take jobs out of Slurm's queue; those that run are interrupted first, as submitit ignores a SIGTERM."""
    jobs = [job.job_id for job in running]
    for words in (["--signal=INT"], []):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "--quiet", *words, *jobs], timeout=END_SECONDS, check=False)


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Wait for all jobs, whatever becomes of some; a Ray of our own leaves nothing behind, and is nobody else's."""
    with contextlib.ExitStack() as stack:
        given = {"RAY_USAGE_STATS_ENABLED": "0"}
        if address == LOCAL:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hw1-ray-", ignore_cleanup_errors=True))
            given |= {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
        stack.enter_context(_environment(given))
        ray: Any = importlib.import_module("ray")
        original = ray.get

        def get(reference: Any) -> Any:
            try:
                return original(reference)
            except ray.exceptions.RayTaskError as error:  # not of the job, which raises nothing
                return Ended(RuntimeError(one_line(error.cause).partition(" traceback:")[0]))
            except ray.exceptions.RayError:  # its process was killed, and its retries, too
                return Ended()

        ray.get = get
        try:
            yield
        finally:
            ray.get = original
            ray.shutdown()


@functools.cache
def _token() -> str:
    """What a Ray of our own asks for; one for the life of this process, as Ray reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the duration of a block; those that the user has set stay."""
    ours = {name: value for name, value in given.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
