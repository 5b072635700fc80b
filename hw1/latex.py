"""A comparison as a LaTeX table: `tabular` with booktabs, for a paper beside the figures' SVG and PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hw1 import findings
from hw1.errors import one_line, written
from hw1.files import write_atomically
from hw1.quantities import quantity
from hw1.results import Sweep
from hw1.statistics import mean_interval

NAME = "comparison.tex"
METRICS = 3  # that fit across a page
MOST = 200  # conditions, beyond which no paper has a table
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "−": r"$-$", "²": r"\textsuperscript{2}", "—": "---", "×": r"$\times$",
    "α": r"$\alpha$", "ε": r"$\varepsilon$",
}  # fmt: skip


def escape(text: object) -> str:
    """Any text as LaTeX that prints it."""
    return "".join(ESCAPES.get(character, character) for character in one_line(text))


def write(folder: Path, sweep: Sweep, metrics: Sequence[str] = ()) -> None:
    """Write comparison.tex: a row per condition, of few enough; `metrics`, or those that the terminal shows first."""
    if len(sweep.conditions) <= MOST:
        write_atomically(folder / NAME, table(sweep, metrics))


def table(sweep: Sweep, metrics: Sequence[str] = ()) -> str:
    """The tabular: swept keys, n, and of each metric the mean with its interval, the best in bold.

    Needs \\usepackage{booktabs}. What the numbers are is in comments above it.
    """
    names = list(metrics or findings.by_importance(sweep))[: max(METRICS, len(metrics))]
    keys = list(sweep.condition_keys)
    heads = [escape(text) for text in (*keys, "n", *(quantity(name).label for name in names))]
    columns = [[escape(written(each.values[key])) for each in sweep.conditions] for key in keys]
    replicates = sweep.replicates
    columns.append([str(n) for n in (replicates.present & ~replicates.diverged).sum(axis=1)])
    columns += [_column(sweep, name) for name in names]
    rows = [" & ".join(cells) + r" \\" for cells in zip(*columns, strict=True)]
    rows = [f"{{}}{row}" if row.startswith("[") else row for row in rows]  # which \\ before it would take for a length
    comments = [
        r"\usepackage{booktabs}",
        "mean [95 % t-interval] over n replicas; bold: best; $\\sim$: not told apart from it (p >= 0.05 after Holm)",
        *(f"{quantity(name).label}: {quantity(name).definition}" for name in names),
        *([findings.FINITE_TEST_SET] if "test_accuracy" in names else []),
    ]
    left_out = len(replicates.metrics) - len(names)
    comments += [f"{left_out} more metrics in comparison.csv"] if left_out > 0 else []
    return "\n".join(
        [
            *(f"% {one_line(comment)}" for comment in comments),
            rf"\begin{{tabular}}{{{'l' * len(keys)}r{'l' * len(names)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _column(sweep: Sweep, name: str) -> list[str]:
    matrix = sweep.replicates.metrics[name]
    most = int(np.isfinite(matrix).sum(axis=1).max(initial=0))
    cells = []
    for row, mark in zip(matrix, findings.marks(sweep, name), strict=True):
        interval = mean_interval(row, quantity(name).scale)
        text = escape(interval.text()) + (f" ($n={interval.n}$)" if 0 < interval.n < most else "")
        cells.append(rf"\textbf{{{text}}}" if mark == "*" else rf"{text}~$\sim$" if mark == "~" else text)
    return cells
