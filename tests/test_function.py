"""The function experiment: metrics by hand, words and figures from tables alone, and once as a person runs it."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from conftest import Outcome, run_program, sweep_folder
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hw1 import compose, design, sweep
from hw1.errors import UserError
from hw1.experiments import function

FUNCTION = function.Function(tolerance=0.05)
LOSSES = [f"{split}_{kind}" for split in ("train", "validation", "test") for kind in ("loss", "mae")]


# ---- metrics ----


def predicted(target: list[float], *by_replica: list[float]) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame({"replica": r, "x": np.arange(len(target)), "target": target, "prediction": prediction})
        for r, prediction in enumerate(by_replica)
    )


def test_errors_by_hand() -> None:
    target = [0.0, 1.0, 2.0, 4.0]  # range 4: ε is 1 at a tolerance of ¼
    nothing = [math.nan] * 4
    table = function.errors(predicted(target, [0.0, 2.0, 0.5, 4.5], nothing, target), tolerance=0.25)
    assert table["replica"].tolist() == [0, 1, 2]
    assert table["accuracy_within"].tolist()[::2] == [0.75, 1.0]  # an error of exactly ε is within it
    assert table["max_error"].tolist()[::2] == [1.5, 0.0]
    assert table.iloc[1, 1:].isna().all()  # diverged


def test_a_constant_function_has_no_range() -> None:
    table = function.errors(predicted([2.0, 2.0], [2.0, 2.1]), tolerance=10.0)
    assert table["accuracy_within"].tolist() == [0.5]


numbers = st.floats(-100, 100)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), st.floats(0, 2))
def test_errors_are_those_of_a_slow_twin(points: list[tuple[float, float]], tolerance: float) -> None:
    target, prediction = map(list, zip(*points, strict=True))
    table = function.errors(predicted(target, prediction), tolerance)
    gaps = [abs(p - t) for t, p in points]
    epsilon = tolerance * (max(target) - min(target))
    assert table["max_error"].item() == max(gaps)
    assert table["accuracy_within"].item() == pytest.approx(sum(gap <= epsilon for gap in gaps) / len(gaps))


# ---- nets of equal size ----


def test_the_classic_trio() -> None:
    trio = [5, 10, 10, 10, 10, 10, 5], [10, 18, 15, 4], [190]
    assert [design.mlp_parameters(widths, 1, 1) for widths in trio] == [571, 572, 571]


@pytest.mark.parametrize("depth", [1, 4, 7])
def test_the_default_budget_is_met_within_1_percent(depth: int, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = sweep.plan(compose.parse(["experiment=function", f"depth={depth}"])).jobs
    model = job.config["model"]
    assert (model["depth"], model["budget"]) == (depth, 571)
    count = design.mlp_parameters(design.solve_widths(model["budget"], model["depth"], 1, 1), 1, 1)
    assert abs(count - 571) <= 5.71


# ---- tables as a sweep has them ----


def tables(replicas: int = 3, shift: float = 0.0, level: float = 0.1, alive: bool = True, **keys) -> function.Tables:
    """What one job leaves, and a sweep puts its swept values in front of."""
    x, good = np.linspace(0, 1, 5), 1.0 if alive else math.nan
    truth = pd.DataFrame({**keys, "x": x, "target": x + shift})
    rows = range(replicas)
    summary = pd.DataFrame({"replica": r, "status": "ok" if alive else "diverged"} for r in rows)
    for number, name in enumerate([*LOSSES, "max_error"]):
        summary[name] = [good * level * (1 + r / 10 + number / 7) for r in rows]
    summary["test_r2"], summary["accuracy_within"] = 1 - summary["test_loss"], good * 0.9
    summary["parameters"], summary["steps"] = 571, 400
    history = [
        pd.DataFrame({"replica": r, "epoch": [1, 2, 3], "step": [7, 14, 21]}).assign(
            **{name: [1.0, 0.1, good * level * (1 + r)] for name in LOSSES}
        )
        for r in rows
    ]
    return {
        "prediction": pd.concat(truth.assign(replica=r, prediction=good * (x + shift + r / 9)) for r in rows),
        "training_points": truth,
        "network": pd.DataFrame({**keys, "network": ["mlp 1-190-1, 571 parameters"]}, index=[0]),
        "history": pd.concat(history).assign(**keys),
        "summary": summary.assign(**keys),
    }


def swept(key: str, values: list, **settings) -> function.Tables:
    return together(tables(**settings, **{key: value}) for value in values)


def together(jobs) -> function.Tables:
    jobs = list(jobs)
    return {name: pd.concat([each[name] for each in jobs]) for name in jobs[0]}


def drawn(found: function.Tables, keys: list[str]) -> dict[str, Figure]:
    figures = FUNCTION.draw(found, keys)
    for figure in figures.values():
        figure.canvas.draw()
    return figures


# ---- words ----


def test_losses_are_compared_by_what_does_not_depend_on_them() -> None:
    found = together([tables(loss="mse", level=0.2), tables(loss="l1", level=0.1)])
    said = FUNCTION.conclude(found, ["loss"]).sentences
    assert [line.partition(":")[0] for line in said] == ["test MAE", "max |error|", "test R²", "accuracy within ε"]
    assert "test MAE: lowest with loss=l1, 0." in said[0]
    assert "mse +0." in said[0]
    assert "not resolved" not in said[0]
    assert said[0].endswith("n=3.")
    assert "highest with loss=l1" in said[2]
    assert FUNCTION.conclude(found, []).sentences == ()
    alone = together([tables(1, loss="mse", level=0.2), tables(1, loss="l1", level=0.1)])
    assert FUNCTION.conclude(alone, ["loss"]).sentences[0].endswith("n=1: no interval.")


def test_a_difference_without_sign_is_not_resolved() -> None:
    mse, l1 = tables(loss="mse"), tables(loss="l1")
    l1["summary"]["test_mae"] = l1["summary"]["test_mae"].to_numpy()[::-1] * 1.01
    assert "mse" in FUNCTION.conclude(together([mse, l1]), ["loss"]).sentences[0]
    assert "(not resolved)" in FUNCTION.conclude(together([mse, l1]), ["loss"]).sentences[0]


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({100: 0.3, 200: 0.2, 400: 0.1}, "lowest after the longest training, epochs=400: no overfitting up to there"),
        ({100: 0.3, 200: 0.1, 400: 0.2}, "is lowest at epochs=200; from there to 400: paired difference +0.1"),
    ],
)
def test_overfitting_is_a_rise_of_the_validation_loss(levels: dict[int, float], words: str) -> None:
    found = together(tables(epochs=epochs, level=level) for epochs, level in levels.items())
    (sentence,) = FUNCTION.conclude(found, ["epochs"]).sentences
    assert words in sentence
    assert sentence.endswith((": overfitting.", "there."))


def test_of_diverged_conditions_nothing_is_concluded() -> None:
    found = together([tables(loss="mse"), tables(loss="l1", alive=False)])
    assert FUNCTION.conclude(found, ["loss"]).sentences == ()


# ---- pictures ----


@pytest.mark.parametrize(
    ("found", "keys", "names"),
    [
        (tables(), [], []),
        (tables(1), [], []),
        (tables(alive=False), [], []),
        (swept("depth", [1, 4, 7]), ["depth"], ["by_depth"]),
        (swept("depth", list(range(1, 13))), ["depth"], ["by_depth"]),
        (swept("depth", list(range(30)), replicas=1), ["depth"], ["by_depth"]),
        (swept("seed", [0, 1]), ["seed"], []),
        (swept("model.widths", ["[5,10,10,10,10,10,5]", "[190]"]), ["model.widths"], ["by_model_widths"]),
        (swept("model.activation", ["relu", "tanh"]), ["model.activation"], ["by_model_activation"]),
        (swept("loss", ["mse", "l1", "huber"]), ["loss"], ["by_loss"]),
        (swept("loss", ["mse", "l1", "huber"], replicas=1), ["loss"], ["by_loss"]),
        (swept("epochs", [10, 20, 400]), ["epochs"], ["by_epochs"]),
        (swept("dataset.noise", [0.0, 0.1]), ["dataset.noise"], ["by_dataset_noise"]),
        (swept("optimizer.lr", [1e-3, 1e-2]), ["optimizer.lr"], ["by_optimizer_lr"]),
        (swept("$x_[red]", ["<script>", "$y$"]), ["$x_[red]"], ["by_x_red"]),
        (together([tables(depth=1), tables(depth=4, alive=False)]), ["depth"], ["by_depth"]),
        (together([tables(steps=1), tables(steps=4, alive=False), tables(steps=9)]), ["steps"], ["by_steps"]),
        (together(tables(loss=loss, **{"model.activation": a}) for loss in ("mse", "l1") for a in ("relu", "sine")),
         ["loss", "model.activation"], ["by_loss", "by_model_activation"]),
        (together(tables(steps=n, **{"dataset.noise": s}, shift=s) for n, s in itertools.product((9, 99), (0.0, 0.1))),
         ["steps", "dataset.noise"], ["by_steps", "by_dataset_noise"]),
    ],
)  # fmt: skip
def test_draws(found: function.Tables, keys: list[str], names: list[str]) -> None:
    assert list(drawn(found, keys)) == ["function", *names]


@pytest.mark.parametrize("losses", [[1, 0.1, 0.01], [1, 0.9, 0.8], [1e-3, 1e-9, 1e-12]])
def test_tick_labels_are_plain_numbers(losses: list[float]) -> None:
    found = tables()
    found["history"]["train_loss"] = losses * 3
    axes = drawn(found, [])["function"].axes[1]
    labels = [label.get_text() for which in (False, True) for label in axes.get_yticklabels(minor=which)]
    assert any(labels)
    assert not any("$" in label or "\\" in label for label in labels)


def test_seeds_are_lines_of_their_own() -> None:
    lines = drawn(swept("seed", [0, 1], replicas=2), ["seed"])["function"].axes[0].get_lines()
    assert len(lines) == 2 + 4 + 1  # truth and training points, 2 seeds × 2 replicas, mean
    assert all((np.diff(line.get_xdata()) > 0).all() for line in lines)  # none runs back


def test_where_truths_differ_every_condition_has_a_panel_with_its_own() -> None:
    found = together(tables(shift=shift, **{"dataset.target": str(shift)}) for shift in (0.0, 5.0))
    panels = drawn(found, ["dataset.target"])["function"].axes
    assert [axes.get_lines()[0].get_ydata()[0] for axes in panels[:2]] == [0.0, 5.0]


def test_training_points_are_thinned_evenly_and_said_to_be() -> None:
    found = tables()
    x = np.linspace(0, 1, 801)[np.random.default_rng(0).permutation(801)]
    found["training_points"] = pd.DataFrame({"x": x, "target": x})
    points = drawn(found, [])["function"].axes[0].get_lines()[1]
    assert len(points.get_xdata()) == function.DOTS
    assert np.diff(points.get_xdata()).max() <= 5 / 800 + 1e-12
    assert points.get_label() == "training points, 200 of 801"


def test_losses_of_different_meaning_share_no_axis() -> None:
    figures = drawn(swept("loss", ["mse", "l1"]), ["loss"])
    said = " ".join(axes.get_ylabel() + axes.get_title() for figure in figures.values() for axes in figure.axes)
    assert "MAE" in said
    assert "train loss" not in said
    assert "test loss" not in said


# ---- as a person runs it ----

OWN = "import math\n\ndef bump(x, height):  # of one number\n    return height * math.exp(-(x**2))\n"


@pytest.fixture(scope="module")
def trio(once) -> Outcome:
    """The classic trio on a function of the user's own."""

    def run(folder):
        folder.mkdir()
        (folder / "bumps.py").write_text(OWN, encoding="utf-8")
        return run_program(folder, [
            "-m", "experiment=function", "model.widths=[5,10,10,10,10,10,5],[10,18,15,4],[190]", "steps=20",
            "replicas=2", "dataset=own_function", "dataset.target._target_=bumps.bump", "+dataset.target.height=3",
            "allow_targets=[bumps]",
        ])  # fmt: skip

    return once("function_trio", run)


def test_the_trio_has_its_numbers_of_parameters_and_its_figures(trio: Outcome) -> None:
    assert trio.code == 0, trio.err
    folder = sweep_folder(trio)
    assert pd.read_csv(folder / "comparison.csv")["parameters_mean"].tolist() == [571, 572, 571]
    assert pd.read_csv(folder / "network.csv")["network"].tolist() == [
        "mlp 1-5-10-10-10-10-10-5-1, 571 parameters", "mlp 1-10-18-15-4-1, 572 parameters",
        "mlp 1-190-1, 571 parameters",
    ]  # fmt: skip
    assert {"function.png", "by_model_widths.png"} <= {file.name for file in folder.iterdir()}


def test_the_tables_are_those_of_the_contract(trio: Outcome) -> None:
    folder = sweep_folder(trio) / "0"
    prediction, points, metrics = (
        pd.read_csv(folder / f"{name}.csv") for name in ("prediction", "training_points", "summary")
    )
    assert list(prediction.columns) == ["replica", "x", "target", "prediction"]
    np.testing.assert_allclose(prediction["target"], 3 * np.exp(-(prediction["x"] ** 2)), rtol=1e-6)
    assert list(points.columns) == ["x", "target"]
    assert len(points) == 800
    assert not set(points["x"]) & set(prediction["x"])
    slow = [(rows["prediction"] - rows["target"]).abs() for _, rows in prediction.groupby("replica")]
    epsilon = 0.05 * (prediction["target"].max() - prediction["target"].min())
    np.testing.assert_allclose(metrics["max_error"], [error.max() for error in slow])
    np.testing.assert_allclose(metrics["accuracy_within"], [(error <= epsilon).mean() for error in slow])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset.target=sincc"], ["dataset.target=sincc", "sinc, sign, sine, damped", "own_function"]),
        (["dataset=own_function"], ["dataset.target._target_ is missing", "allow_targets=[my_module]"]),
        (
            ["dataset=own_function", "dataset.target._target_=bumps.bump"],
            ["dataset.target._target_", "allowed are hw1"],
        ),
        (["dataset=own_function", "dataset.target._target_=os.system"], ["dataset.target._target_=os.system"]),
        (["bump"], ["bump", "height"]),
        (["bump", "+dataset.target.hieght=3"], ["bump", "hieght"]),
        (["bump", "+dataset.target.height=3", "dataset.target._partial_=maybe"], ["dataset.target._partial_=maybe"]),
        (["bump", "+dataset.target.height=inf"], ["gives inf at x=0"]),
        (["number"], ["bumps.number", "not a class or a function"]),
        (["nothing"], ["nothing", "one real number for each x"]),
        (["model.widths=[3]", "budget=20"], ["model.budget=20", "model.widths"]),
        (["experiment.tolerance=-1"], ["experiment.tolerance=-1", "at least 0"]),
    ],
)
def test_bad_functions_are_refused_before_anything_starts(words, said, tmp_path, monkeypatch) -> None:
    (tmp_path / "bumps.py").write_text(OWN + "\nnumber = 3\n\ndef nothing(x):\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    if not words[0].startswith(("dataset", "experiment", "model")):
        own = ["dataset=own_function", "allow_targets=[bumps]", f"dataset.target._target_=bumps.{words[0]}"]
        words = [*own, *words[1:]]
    with pytest.raises(UserError) as caught:
        sweep.plan(compose.parse(words))
    assert len(str(caught.value).splitlines()) == 1
    assert all(part in str(caught.value) for part in said), str(caught.value)
    assert {file.name for file in tmp_path.iterdir()} <= {"bumps.py", "__pycache__"}
