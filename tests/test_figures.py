"""Figures from tables alone: every shape that a job, a sweep or bad luck gives them."""

import itertools
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from hw1 import figures
from hw1.experiments import sensitivity

SENSITIVITY = sensitivity.Sensitivity(examples=None, noise_examples=None)


def sensitivity_table(batch_sizes=(16, 64), replicas=3, scale=1.0, **keys) -> pd.DataFrame:
    rows = itertools.product(batch_sizes, range(replicas), sensitivity.MEASURES)
    return pd.DataFrame(
        {**keys, "batch_size": size, "replica": replica, "measure": measure, "unit": "pixel",
         "sensitivity": scale * (1 + replica / 10) / size, "test_accuracy": scale * (0.9 - replica / 100),
         "validation_accuracy": scale * (0.9 - replica / 90), "steps": 6400 // size,
         "noise_scale": scale * (size + replica) - 16, "noise_scale_start": 9 + replica}
        for size, replica, measure in rows
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "swept"),
    [
        (sensitivity_table(), ["batch_size"]),
        (sensitivity_table((64,), replicas=1), []),
        (sensitivity_table(scale=math.nan), ["batch_size"]),  # all diverged
        (sensitivity_table(scale=0.0), ["batch_size"]),  # all sensitivities 0
        (pd.concat([sensitivity_table(scale=math.nan), sensitivity_table((256,))]), ["batch_size"]),
        (pd.concat([sensitivity_table(model=m, **{"model.dropout": d}) for m in "ab" for d in (0, 0.5)]),
         ["model", "model.dropout", "batch_size"]),
        (pd.concat([sensitivity_table((64,), depth=d) for d in (1, 2, 4)]), ["depth"]),
        (pd.concat([sensitivity_table(seed=s) for s in (0, 1)]), ["seed", "batch_size"]),
        (sensitivity_table(**{"$x_[red]": "<script>"}), ["$x_[red]", "batch_size"]),
    ],
)  # fmt: skip
def test_sensitivity_draws(tmp_path: Path, table: pd.DataFrame, swept: list[str]) -> None:
    assert figures.draw(tmp_path, SENSITIVITY, {"sensitivity": table}, swept) == ""
    assert (tmp_path / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    ET.parse(tmp_path / "sensitivity.svg")


def drawn(experiment, tables, swept) -> Figure:
    (figure,) = experiment.draw(tables, swept).values()
    figure.canvas.draw()
    return figure


def test_no_family_lies_outside_the_accuracy_panel() -> None:
    table = pd.concat([sensitivity_table(model="good"), sensitivity_table(model="bad", scale=0.3)])
    low, high = drawn(SENSITIVITY, {"sensitivity": table}, ["model", "batch_size"]).axes[3].get_ylim()
    assert low < 0.3 * 0.88 < 0.9 < high <= 1


def test_a_swept_number_takes_the_place_of_an_unswept_batch_size() -> None:
    table = pd.concat([sensitivity_table((64,), depth=depth) for depth in (1, 2, 4)])
    figure = drawn(SENSITIVITY, {"sensitivity": table}, ["depth"])
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["1", "2", "4"]
    assert "depth" in figure.axes[2].get_xlabel()


def test_a_figure_that_cannot_be_drawn_is_said_in_one_line(tmp_path: Path) -> None:
    assert figures.draw(tmp_path, SENSITIVITY, {}, []) == "KeyError: 'sensitivity'"
    assert list(tmp_path.iterdir()) == []
