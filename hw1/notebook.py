"""How results look in a notebook: a small page for each, and a few lines that follow jobs while they run.

Styles stand in the elements, since notebooks strip style sheets; colours are those of the notebook, light or dark.
"""

import base64
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw1.errors import one_line, shortened, written
from hw1.progress import PROGRESS, RESULT, read_json, shown

if TYPE_CHECKING:
    import pandas as pd

    from hw1.loaded import Figure, Result

_METRICS = 4  # columns of a comparison, beside its keys
_ROWS = 30
_UNBROKEN = 48  # characters of a cell; a longer one, such as a definition, may take several lines
_LINES = 8  # jobs that are running, or have failed
_BYTES = 2_000_000  # of all figures together, which are stored in the notebook
_LINE = "1px solid color-mix(in srgb, currentColor 25%, transparent)"


# A result


def html(result: "Result") -> str:
    """Findings, comparison with intervals, what failed, and the figures; nothing but text and pictures."""
    head = " ".join(filter(None, [result.experiment, result.kind]))
    blocks = [_line(f"<b>{_text(head)}</b>: {_text(result.status)}, in <code>{_text(shown(result.folder))}</code>")]
    for name, part in (result.parts or {"": result}).items():
        blocks += [_line(f"<b>{_text(name)}</b>")] if name else []
        items = "".join(f"<li>{_text(line)}</li>" for line in part.findings)
        blocks += [f"<ul style='margin:.4em 0'>{items}</ul>"] if items else []
        blocks += [_quantities(part) if part.kind == "job" else _comparison(part)]
    if failures := result.failures:
        more = [f"… and {len(failures) - _LINES} more, in .failures"] if len(failures) > _LINES else []
        blocks += [_line(f"✗ {_text(line)}") for line in [*failures[:_LINES], *more]]
    blocks += _pictures(list(result.figures.values()))
    if result.report:
        blocks.append(_line(f"report: <code>{_text(shown(result.report))}</code>"))
    return f"<div style='max-width:64em;line-height:1.4'>{''.join(blocks)}</div>"


def _text(value: object) -> str:
    return escape(one_line(value))


def _line(inner: str) -> str:
    return f"<p style='margin:.4em 0'>{inner}</p>"


def _quantities(job: "Result") -> str:
    """Of a job a row per metric, with its definition."""
    from hw1.quantities import quantity

    frame = job.comparison
    metrics = _metrics(frame, None)
    rows = [[quantity(name).label, _cells(frame, name)[0], quantity(name).definition] for name in metrics]
    replicas = max((int(n) for name in metrics for n in frame[f"{name}_n"].fillna(0)), default=0)
    head = f"mean [95 % t-interval], n={replicas}" if replicas > 1 else f"n={replicas}: no interval"
    return _table(["quantity", head, "definition"], rows) if rows else ""


def _comparison(result: "Result") -> str:
    """A row per condition: keys, status where one is not ok, the first metrics with intervals."""
    from hw1.quantities import quantity

    frame = result.comparison
    metrics = _metrics(frame, result.headline)
    keys = [str(key) for key in frame.columns[: list(frame.columns).index("status")]]
    columns: dict[str, list[str]] = {key: [shortened(written(value), 40) for value in frame[key]] for key in keys}
    if not (frame["status"] == "ok").all():
        columns["status"] = [str(status) for status in frame["status"]]
    columns |= {quantity(name).label: _cells(frame, name) for name in metrics[:_METRICS]}
    rows = list(zip(*columns.values(), strict=True))
    notes = ["mean [95 % t-interval] over replicas"]
    for left, what in ((len(rows) - _ROWS, "conditions"), (len(metrics) - _METRICS, "metrics")):
        notes += [f"{left} more {what} in .comparison"] if left > 0 else []
    return _table(list(columns), rows[:_ROWS]) + _line(f"<small>{'; '.join(notes)}</small>")


def _metrics(frame: "pd.DataFrame", headline: str | None) -> list[str]:
    """The metrics of a comparison that some condition has: the headline first, then test metrics, then the others."""
    from hw1.quantities import quantity

    names = [str(column).removesuffix("_mean") for column in frame.columns if str(column).endswith("_mean")]
    names = [name for name in names if f"{name}_n" in frame and frame[f"{name}_mean"].notna().any()]

    def rank(name: str) -> tuple[bool, bool, bool]:
        return name != headline, quantity(name).better is None, not name.startswith("test_")

    return sorted(names, key=rank)


def _cells(frame: "pd.DataFrame", name: str) -> list[str]:
    """Mean and interval of a metric in each condition; n where it is not the same in all of them."""
    from hw1.statistics import Interval

    ends = [[float(value) for value in frame[f"{name}_{part}"]] for part in ("mean", "low", "high")]
    counts = [int(n) for n in frame[f"{name}_n"].fillna(0)]
    same = len(set(counts) - {0}) < 2
    cells = []
    for mean, low, high, n in zip(*ends, counts, strict=True):
        cells.append(Interval(mean, low, high, n).text() + ("" if same or not n else f" n={n}"))
    return cells


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    style = "text-align:left;padding:.2em .8em .2em 0;vertical-align:top;white-space:"
    line = f"{style}nowrap;border-bottom:{_LINE}"
    top = "".join(f"<th scope='col' style='{line}'>{_text(cell)}</th>" for cell in head)
    lines = ("".join(_td(style, cell) for cell in row) for row in rows)
    body = "".join(f"<tr style='background:none'>{cells}</tr>" for cells in lines)
    look = "border-collapse:collapse;margin:.4em 0"
    table = f"<table style='{look}'><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div style='overflow-x:auto'>{table}</div>"


def _td(style: str, cell: str) -> str:
    space = "nowrap" if len(cell) <= _UNBROKEN else "normal"
    return f"<td style='{style}{space}'>{_text(cell)}</td>"


def _pictures(figures: "Sequence[Figure]") -> Iterator[str]:
    """As pictures, in which no script runs; on white, which their black text needs."""
    room, left_out = _BYTES, []
    for figure in figures:
        file, kind = (figure.svg, "svg+xml") if figure.svg else (figure.png, "png")
        content = file.read_bytes() if file and file.stat().st_size <= room else b""
        if not content:
            left_out.append(figure.name)
            continue
        room -= len(content)
        data = base64.b64encode(content).decode()
        look = "max-width:100%;background:#fff;border-radius:4px;margin:.4em 0;display:block"
        yield f"<img alt='{_text(figure.name)}' style='{look}' src='data:image/{kind};base64,{data}'>"
    if left_out:
        yield _line(f"<small>not shown, for their size: {_text(', '.join(left_out))}; see .figures</small>")


# Jobs at work


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class Live:
    """Lines in a cell's output that say how many jobs have ended and what the others do; `look` replaces them."""

    def __init__(self) -> None:
        self.text = ""
        self.handle: Any = None
        self.jobs: dict[Path, str] = {}  # not known to have ended
        self.planned = 0
        self.ended: Counter[str] = Counter()

    def look(self, folder: Path | None) -> None:
        """Show how it stands with the job or the sweep in this folder, where there is one as yet."""
        if folder is None:
            return
        if not self.planned:
            self.jobs = _jobs(folder)
            self.planned = len(self.jobs)
        text = "\n".join(self._lines(folder))
        if text != self.text:
            self.text = text
            self._show({"text/plain": text})

    def _show(self, content: dict[str, str]) -> None:
        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)

    def _lines(self, place: Path) -> list[str]:
        running = []
        for folder, name in list(self.jobs.items()):
            record = read_json(folder / RESULT)
            status = str(record.get("status", "not started"))
            if status == "running":
                progress = read_json(folder / PROGRESS)
                words = f"{float(progress['done']):.0%}, {progress['words']}" if progress else "starting"
                running.append("  " + one_line(f"{name}: {words}" if name else words))
            elif record:
                self.ended[status] += 1
                del self.jobs[folder]
        counts = [f"{count} {status}" for status, count in self.ended.items()]
        counts += [f"{len(running)} running"] if running else []
        of = f"{self.planned} jobs" if self.planned > 1 else "1 job"
        more = [f"… and {len(running) - _LINES} more"] if len(running) > _LINES else []
        return [f"{of} in {one_line(shown(place))}: {', '.join(counts) or 'starting'}", *running[:_LINES], *more]


def _jobs(folder: Path) -> dict[Path, str]:
    """The folder and the name of each planned job; a job by itself needs no name."""
    plan: Mapping[str, Any] = read_json(folder / "sweep.json")
    if not plan:
        return {folder: ""}
    return {
        folder / str(job["job"]): ", ".join(f"{key}={written(job['overrides'].get(key))}" for key in plan["keys"])
        for job in plan["jobs"]
    }
