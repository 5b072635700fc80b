"""Figures from tables alone: every shape that a job, a sweep or bad luck gives them."""

import itertools
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hw1 import figures
from hw1.experiments import interpolation, sensitivity

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
    assert figures.draw(tmp_path, SENSITIVITY, {"sensitivity": table}, swept).problem == ""
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
    assert figures.draw(tmp_path, SENSITIVITY, {}, []).problem == "KeyError: 'sensitivity'"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_one_replica_of_one_batch_size_draws_without_a_warning(tmp_path: Path) -> None:
    assert figures.draw(tmp_path, SENSITIVITY, {"sensitivity": sensitivity_table((64,), replicas=1)}, []).problem == ""


def test_the_same_tables_give_the_same_bytes_at_300_dpi(tmp_path: Path) -> None:
    found = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        assert figures.draw(folder, SENSITIVITY, {"sensitivity": sensitivity_table()}, ["batch_size"]).problem == ""
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0] == found[1]
    assert sorted(found[0]) == ["sensitivity.png", "sensitivity.svg"]
    with Image.open(tmp_path / "a" / "sensitivity.png") as image:
        image.load()  # checksums and all
        assert image.size == (14 * 300, 8 * 300)
        assert [round(dpi) for dpi in image.info["dpi"]] == [300, 300]


@pytest.mark.filterwarnings("error")
def test_of_many_conditions_a_figure_shows_the_first_and_says_so(tmp_path: Path) -> None:
    table = pd.concat([sensitivity_table((64,), model=f"m{number}") for number in range(300)])
    assert figures.draw(tmp_path, SENSITIVITY, {"sensitivity": table}, ["model"]).problem == ""
    words = " ".join(ET.parse(tmp_path / "sensitivity.svg").getroot().itertext())
    assert "the first 24 of 300 conditions, all are in the tables" in " ".join(words.split())
    assert "model=m23" in words
    assert "model=m24" not in words


def test_a_swept_number_is_drawn_at_all_its_values_with_labels_that_have_room() -> None:
    sizes = tuple(range(1, 301))
    axes = drawn(SENSITIVITY, {"sensitivity": sensitivity_table(sizes)}, ["batch_size"]).axes[0]
    assert any(len(line.get_xdata()) == 300 for line in axes.get_lines())
    ticks = axes.get_xticks()
    assert 5 < len(ticks) < 30
    assert {1, 300} <= set(ticks) <= set(sizes)


def test_shown_keeps_whole_conditions_in_every_table_that_knows_them() -> None:
    tables = {
        "a": pd.DataFrame({"lr": [2.0, 2.0, math.nan, 1.0], "x": range(4)}),
        "b": pd.DataFrame({"lr": [1.0, 2.0], "y": [5, 6]}),
        "c": pd.DataFrame({"z": [1]}),
    }
    some, words = figures.shown(tables, "a", ["lr"], most=2)
    assert some["a"]["x"].tolist() == [0, 1, 2]
    assert some["b"]["y"].tolist() == [6]
    assert some["c"]["z"].tolist() == [1]
    assert words == "; the first 2 of 3 conditions, all are in the tables"
    assert figures.shown(tables, "a", ["lr"], most=3) == (tables, "")
    assert figures.shown(tables, "a", [], most=1) == (tables, "")


def curves(alphas: list[float], conditions: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `interpolation` and `endpoint` of random losses, some of them NaN or infinite, rows in no order."""
    random = np.random.default_rng(0)
    keys = {"lr": range(conditions), "replica": range(2), "init": interpolation.INITS, "split": interpolation.SPLITS}
    sides = [keys | {"method": interpolation.METHODS, "alpha": alphas}, keys | {"endpoint": "AB"}]
    curve, endpoint = (pd.DataFrame(itertools.product(*each.values()), columns=list(each)) for each in sides)
    for table in (curve, endpoint):
        table["loss"] = random.choice([math.nan, math.inf, *random.uniform(size=40)], len(table))
        table["accuracy"] = random.uniform(size=len(table))
    return curve.sample(frac=1, random_state=0), endpoint


def slow_barrier(definition: str, points: list[tuple[float, float]], first: float, last: float) -> float:
    """By definition, point by point; an α of 0 or 1 in the curve is its end."""
    heights = [
        value - ((1 - alpha) * first + alpha * last if definition == "entezari" else (first + last) / 2)
        for alpha, value in points
        if 0 < alpha < 1 or value is first or value is last
    ]
    return math.nan if any(map(math.isnan, heights)) else max(heights)


def test_barriers_of_a_sweep_are_those_of_one_curve_after_another() -> None:
    experiment = interpolation.Interpolation(endpoints=[], alpha=0.0, batch_norm="recalibrated", layers=False)
    curve, endpoint = curves([-0.5, 0.0, 0.25, 0.5, 0.9, 1.0], 5)
    notes = pd.DataFrame({"lr": [], "init": [], "note": []})
    found = experiment.conclude({"interpolation": curve, "endpoint": endpoint, "alignment": notes}, ["lr"])
    barrier = found.tables["barrier"]
    assert len(barrier) == 5 * 2 * 2 * 2 * 2 * 2 * 2  # lr, replica, init, split, method, metric, definition
    assert barrier["barrier"].isna().any()
    ends = endpoint.set_index(["lr", "replica", "init", "split", "endpoint"])
    for row in barrier.to_dict("records"):
        same = {key: row[key] for key in ("lr", "replica", "init", "method", "split")}
        own = curve[(curve[list(same)] == pd.Series(same)).all(axis=1)]
        column = "loss" if row["metric"] == "loss" else "accuracy"
        sign, start = (1, 0) if row["metric"] == "loss" else (-1, 1)
        place = tuple(row[key] for key in ("lr", "replica", "init", "split"))
        first, last = (start + sign * ends.loc[(*place, end), column] for end in "AB")
        points = [(0, first), *zip(own["alpha"], start + sign * own[column], strict=True), (1, last)]
        with np.errstate(invalid="ignore"):
            height = slow_barrier(row["definition"], [point for point in points if 0 <= point[0] <= 1], first, last)
        assert row["barrier"] == height or (math.isnan(row["barrier"]) and math.isnan(height))
