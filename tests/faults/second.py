"""A second fault: a kill at some line, then a kill or an error inside the recovery, then a second recovery."""

import time
from functools import partial
from pathlib import Path

from . import broken
from .calls import attempt
from .deeds import DEEDS, Case, Finding, again, record
from .harness import Row, Size, in_child, spread
from .lines import by_name, events, traced
from .oscalls import ERRORS, Calls

CONTROLS = ((broken.straight_publish, "publish in place of a damaged run"), (broken.straight_state, "keep a state"))
Pair = tuple[int, int, int]  # line of the kill, errno of the second fault (0: a kill), its line or call


def check(size: Size, folder: Path) -> Row:
    """A sample of the pairs of each deed."""
    row = Row("a second fault in the recovery from a kill")
    started = time.perf_counter()
    some = ("publish in place of a damaged run", "keep a state", "train")
    for number, deed in enumerate([deed for deed in DEEDS if not size.quick or deed.name in some]):
        case = Case.of(deed, folder / str(number))
        chosen = pairs(case, size, size.pick(10 if deed.torch else 40, 3 if deed.torch else 8))
        for pair, findings in zip(chosen, spread(partial(_twice_by, case, folder), chosen), strict=True):
            record(row, findings, f"{deed}, line {pair[0]}, then {pair[1] or 'kill'} at {pair[2]}")
    for number, (variant, name) in enumerate(CONTROLS):
        with variant():
            case = Case.of(by_name(name), folder / f"control {number}")
            row.controls[variant.__name__] = any(_twice_by(case, folder, 0, pair) for pair in pairs(case, size, 60))
    row.note = f"{1000 * (time.perf_counter() - started) / row.injected:.0f} ms a pair"
    return row


def pairs(case: Case, size: Size, number: int) -> list[Pair]:
    """A sample of pairs; of the second faults every other is a kill."""
    random, lines = size.random("second", case.deed), events(case)
    codes = [0 if n % 2 else random.choice(ERRORS) for n in range(number)]
    # A recovery makes fewer calls than it executes lines, and often less of both than the deed did: half of them.
    return [(random.randint(1, lines), code, random.randint(1, max(1, lines // (6 if code else 2)))) for code in codes]


def _twice_by(case: Case, folder: Path, worker: int, pair: Pair) -> list[Finding]:
    place, (line, code, second) = case.start(folder / f"work{worker}"), pair
    in_child(traced, case.deed.act, place, line)
    if code:
        findings = attempt(case.deed.act, place, Calls(place / "runs", place / "job", fails=second, code=code))
    else:
        ended = in_child(traced, case.deed.act, place, second)
        findings = [("other", f"recovery: {ended.error}")] if ended.error else []
    return findings + case.judge_instant(place) + again(case, place)
