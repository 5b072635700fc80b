"""Ways of doing the same thing, run in turn; and how much memory one of them takes at its peak."""

import ctypes
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

Way = Callable[[], float]  # does it, and gives the seconds of one unit of work


@dataclass
class Row:
    """One line of the table: seconds of one unit of work by way and round, and what the ratios are to be."""

    name: str
    unit: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    wanted: dict[str, float] = field(default_factory=dict)  # way → least ratio of its seconds to ours
    value: float | None = None  # instead of ratios: a number with a bound
    most: float | None = None
    words: str = ""
    skipped: str = ""

    def ratio(self, way: str) -> tuple[float, float, float]:
        """Median and quartiles, over its rounds, of (seconds of a way) / (seconds of ours): how much faster we are."""
        ratios = np.array(self.seconds[way]) / np.array(self.seconds["ours"])
        low, median, high = np.nanpercentile(ratios, [25, 50, 75])
        return float(median), float(low), float(high)

    @property
    def met(self) -> bool:
        """Whether every ratio and number is as wanted."""
        ratios = all(self.ratio(way)[0] >= least for way, least in self.wanted.items())
        return ratios and (self.most is None or self.value is None or self.value <= self.most)


def in_turn(
    name: str, unit: str, ways: dict[str, Way], wanted: dict[str, float], rounds: int, warm: bool = False
) -> Row:
    """Run each way `rounds` times, in an order that turns; before that those of this process once for nothing, unless
    they are `warm`.

    The usual way has a process of its own, warm from the start, takes long, and is not near its bound: it has every
    other round, with workers every fourth (NaN in the others). By hand, which has no bound, has every other.
    """
    row = Row(name, unit, {way: [] for way in ways}, wanted)
    names = list(ways)
    every = {way: 4 if "workers" in way else 2 if way == "usual" or "by hand" in way else 1 for way in names}
    for way in names:
        if not warm and not way.startswith("usual"):
            ways[way]()
    for number in range(rounds):
        for way in names[number % len(names) :] + names[: number % len(names)]:
            row.seconds[way].append(math.nan if number % every[way] else ways[way]())
    return row


def timed(function: Callable[[], object], units: float) -> float:
    """Seconds of one unit, of a function that does so many."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) / units


def peak(function: Callable[[], object]) -> float:
    """Bytes by which this process grows at its largest while a function runs; NaN where the system does not tell."""
    if sys.platform != "linux":
        function()
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory("VmRSS")
    function()
    return max(0.0, _memory("VmHWM") - before)


def held(function: Callable[[], object]) -> float:
    """Bytes that a function's tensors hold at their most; exact, of what the calling thread makes on the CPU.

    The system counts a process's pages by the quarter of a megabyte, which is more than some of what is measured.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    return float(max(accumulate((event.nbytes() for event in events if event.name() == "[memory]"), initial=0)))


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """k of the line through (log size, log value): values grow as size^k."""
    fine = [(size, value) for size, value in zip(sizes, values, strict=True) if value > 0]
    if len(fine) < 2:
        return math.nan
    slope, _ = np.polyfit(*np.log(np.array(fine).T), 1)
    return float(slope)
