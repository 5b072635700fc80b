"""The machine that a job computes on: its device and threads, how the process is set up, and what is recorded of it."""

import atexit
import ctypes
import gc
import inspect
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw1 import __version__
from hw1.errors import UserError

if TYPE_CHECKING:
    from hw1.shares import Shares


@dataclass(frozen=True)
class Machine:
    """What a job computes on; nothing of it is part of a recipe but the device's type and the requested threads."""

    device: str
    threads: int
    data_dir: Path
    allow_targets: tuple[str, ...] = ()
    shares: "Shares | None" = None  # of this machine, with the sweep's other jobs on it


def resolve_device(requested: str) -> str:
    """The device meant: `auto` is CUDA if there is one, else the CPU. Raises: UserError if there is none such."""
    if requested == "cpu" or (requested == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch  # here, as it takes seconds

    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = requested.partition(":")
    if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        raise UserError(
            f"device={requested}: this machine has {torch.cuda.device_count()} CUDA devices; use device=cpu or auto"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: this machine has no MPS device; use device=cpu or auto")
    return requested


def _may_have_gpu() -> bool:
    """Whether torch is worth asking, which takes seconds to import: not where Linux has no GPU's driver."""
    if "torch" in sys.modules or sys.platform != "linux":
        return True
    drivers = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")
    return any(True for pattern in drivers for _ in Path("/dev").glob(pattern))


@cache
def collect_rarely() -> None:
    """For a process of hw1's own: have Python look for garbage in cycles after 100,000 new objects instead of 700, and
    not once more at its end.

    Libraries are many objects that stay, and a config makes many more: a further tiny job of a sweep, two at a time,
    took 0.25 instead of 0.285 s of processors' time, a comparison of 20 jobs 1.7 instead of 1.9 s. Without a look at
    all of them at the end that and `--cfg job` take 0.83 of the time.
    """
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


def set_up_process(threads: int) -> None:
    """Prepare this process for training: its threads, and an allocator that keeps the pages it has.

    glibc hands large freed blocks back and faults them in again at every step; raised thresholds train the small CNN at
    batch 16 half as fast again (8.4k → 12.8k images/s on one core).
    """
    import torch

    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # on by default, for convolutions alone; `precision` asks for it
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to give the same bits each time
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    _spare_compiler()


def _spare_compiler() -> None:
    """Keep torch from importing its compiler, which takes as long as the rest of torch and is not used.

    It is imported where an optimizer is first given parameters, to be told to leave that method alone. Torch notes on
    the method that it has been told; so noted beforehand, the method is called as it is.
    """
    from torch.optim import Optimizer

    method, note = inspect.unwrap(Optimizer.add_param_group), "__dynamo_disable"
    if "torch._dynamo" not in sys.modules and not hasattr(method, note):
        setattr(method, note, method)


def give_back_memory() -> None:
    """Let the system have what was freed: with the thresholds of `set_up_process` the process would keep it all."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


@cache
def version_of(package: str) -> str:
    """The version of an installed package; to read it takes 2 ms, and jobs ask for ten."""
    import importlib.metadata  # with email: a fortieth of what the light commands take

    return importlib.metadata.version(package)


def environment(machine: Machine) -> dict[str, Any]:
    """What a run was made with: recorded, and no part of its key."""
    packages = ("torch", "numpy", "pandas", "scikit-learn", "safetensors", "hydra-core")
    return {
        "versions": {"hw1": __version__, "python": platform.python_version()}
        | {name: version_of(name) for name in packages},
        "device": machine.device,
        "device_name": _gpu(machine.device) if machine.device.startswith("cuda") else _processor(),
        "threads": machine.threads,
        "host": platform.node(),
        "platform": platform.platform(),
        "commit": _commit(),
    }


def _gpu(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@cache
def _commit() -> str | None:
    """Commit of the checkout that this package lies in, with `+` if it has changes; None outside a checkout."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
