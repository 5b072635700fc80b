"""What do the paths of weights in training look like in a plane, is that more than chance, and which weights matter?

Principal components of all networks' weights at all collected epochs, jointly, for the whole network and each layer;
and scores of single weights, tested by setting to 0 what they name. What it cannot say: two components of a path look
smooth and curved for a random walk too, and networks of different seeds lie apart whatever they learn. So every share
of variance has a null beside it, and the sentence at the end is about the difference. A weight that can be set to 0 by
itself may still be needed together with others.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from hw1.data import Dataset
from hw1.errors import UserError, written
from hw1.experiments import Conclusion, Experiment, Tables, summary
from hw1.quantities import quantity
from hw1.recipe import Recipe
from hw1.schema import Range
from hw1.side_by_side import each
from hw1.statistics import Interval, mean_interval, paired_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from hw1.laboratory import Run
    from hw1.measures.pca import Components

WHOLE = "model"  # the scope of all parameters
COMPONENTS = 10  # of which the explained variance is kept
SCORES = {
    "magnitude": "|w|",
    "saliency": "|w·∂L/∂w|, L the mean training loss (Molchanov et al. 2017)",
    "loading": "v₁² + v₂², its share of the drawn plane's axes",
    "random": "at random, the control",
}
NULLS = {
    "null_ratio": "null: independent starts, random walks of the same lengths",
    "random_walk_ratio": "random walks from one start",
    "independent_inits_ratio": "independent starts that never move",
}
TOLD = 12  # conditions of which a sweep's last words speak
DRAWS = 200  # of the null, of which 2.5 % lie on either side of its range
CHEAP = 128  # rows up to which so many draws take no time; fewer from there on
DRAWN = 4  # conditions that a figure has room for
TRIED = 0.01  # share of the parameters of which the closing sentence speaks, or the nearest to it
MORE, LESS, UNRESOLVED = "more than the null", "less than the null", "not resolved"

COLUMNS = {
    "explained_variance": ["scope", "component", "ratio", *NULLS],
    "plane": ["scope", "parameters", "share", "null_share", "null_low", "null_high"],
    "jackknife": ["scope", "replica", "share", "null_share"],
    "importance": ["layer", "index", "replica", "magnitude", "saliency", "loading"],
    "distribution": ["layer", "epoch", "bin_left", "bin_right", "density"],
    "pixel": ["score", "replica", "row", "column", "value"],
}


@dataclass(frozen=True)
class WeightPca(Experiment):
    """Principal components of the paths that weights take, beside what chance would give; importance of weights."""

    centring: Literal["mean", "final"]
    fractions: list[Annotated[float, Range(0, 1)]]
    listed: Annotated[int, Range(0, 1e9)]
    bins: Annotated[int, Range(1, 100_000)]

    headline: ClassVar[str] = "straightness"
    question: ClassVar[str] = (
        "What do the paths of weights look like in a plane, is that more than chance, and which weights matter?"
    )

    def check(self, dataset: Dataset, recipes: Mapping[str, Recipe]) -> None:
        """Needs weights along training."""
        if recipes["trained"].collect_every is None:
            raise UserError(
                "collect_every=null: experiment=weight_pca needs weights along training; give a whole number of epochs"
            )

    # Measuring

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tables as docs/weight_pca.md describes them; those of the PCA are empty if every network diverged."""
        paths = _Paths.of(runs["trained"], self.centring)
        tables = paths.tables()
        tables["distribution"] = paths.distribution(self.bins)
        tables |= self._importance(paths)
        return tables | {"history": paths.run.history, "summary": paths.summary()}

    def _importance(self, paths: "_Paths") -> Tables:
        """Tables `importance`, `ablation` and `pixel`, of the networks at their end."""
        loading = paths.loading()

        def of_replica(replica: int) -> Tables:
            network, scores = paths.scores(replica, loading)
            return {
                "importance": paths.largest(network, scores, self.listed).assign(replica=replica),
                "ablation": paths.ablation(network, scores, self.fractions, replica),
                "pixel": paths.pixels(network, scores).assign(replica=replica),
            }

        found = each(of_replica, paths.alive, paths.run.machine)
        columns = COLUMNS | {"ablation": ["score", "order", "fraction", "replica", paths.metric]}
        return {
            name: _table([part[name] for part in found], columns[name]) for name in ("importance", "ablation", "pixel")
        }

    # Concluding

    def conclude(self, tables: Tables, swept: list[str]) -> Conclusion:
        """Table `plane` with its difference from the null; and whether the pictures show more than chance."""
        plane, without = (_given(tables, name, swept) for name in ("plane", "jackknife"))
        plane = plane[[*swept, *COLUMNS["plane"]]]
        rows = [
            row | _against_null(row, _part(without, {key: row[key] for key in [*swept, "scope"]}))
            for row in plane.to_dict("records")
        ]
        columns = [*plane, "difference", "low", "high", "n", "verdict"]
        table = pd.DataFrame(rows, columns=columns)
        sentences = [_about_plane(row, swept) for row in table[table["scope"] == WHOLE].to_dict("records")]
        if len(sentences) > TOLD:
            sentences = [*sentences[:TOLD], f"… and {len(sentences) - TOLD} more, in plane.csv"]
        if not swept:
            sentences += [*_about_paths(tables["summary"]), *_about_ablation(tables["ablation"])]
        diverged = int((tables["summary"]["status"] != "ok").sum())
        if diverged:
            sentences.append(f"{diverged} of {len(tables['summary'])} networks diverged and are no part of any PCA")
        return Conclusion({"plane": table}, sentences)

    # Drawing

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """`weight_pca`, `explained_variance`, `importance`, `distribution`, and `pixel` where inputs are pixels.

        Of more than 4 conditions the first 4.
        """
        from hw1 import figures

        if tables.get("trajectory", pd.DataFrame()).empty:
            return {}
        tables, more = figures.shown(tables, "trajectory", swept, DRAWN)
        drawn = {
            "weight_pca": _draw_trajectories(tables, swept, more),
            "explained_variance": _draw_explained_variance(tables, swept, more),
            "importance": _draw_ablation(tables, swept, more),
            "distribution": _draw_distributions(tables, swept, more),
        }
        pixels = not _given(tables, "pixel", swept).empty
        return drawn | ({"pixel": _draw_pixels(tables, swept, more)} if pixels else {})


def _given(tables: Tables, name: str, swept: list[str]) -> pd.DataFrame:
    """A table, or one without rows: a sweep of which no job has any has no such table."""
    return tables.get(name, pd.DataFrame(columns=[*swept, *COLUMNS[name]]))


def _table(parts: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


@dataclass(frozen=True)
class _Paths:
    """A run as rows of a PCA. Row t·R + r is network alive[r] at the t-th collected epoch; imports torch when used."""

    run: "Run"
    centring: str
    alive: list[int]  # replicas that did not diverge
    layers: dict[str, list[str]]  # layer → names of its parameters, in the network's order
    sizes: dict[str, int]  # parameter tensor → its number of entries
    grams: "dict[str, Tensor]"  # parameter tensor → inner products of the rows
    states: "list[dict[str, Tensor]]"  # per epoch what is stored; a map of the file, no copy

    @classmethod
    def of(cls, run: "Run", centring: str) -> "_Paths":
        """The paths of a run's networks that did not diverge."""
        from hw1.measures.pca import gram

        alive = [replica for replica, status in enumerate(run.status) if status == "ok"]
        sizes = {name: parameter.numel() for name, parameter in run.initial(0).named_parameters()}
        layers: dict[str, list[str]] = {}
        for name in sizes:
            layer = name.rpartition(".")[0] or name
            layers.setdefault(f"{layer} (layer)" if layer == WHOLE else layer, []).append(name)
        states = [run.weights(epoch) for epoch in run.epochs]
        grams = {name: gram([state[name] for state in states], alive) for name in sizes} if alive else {}
        return cls(run, centring, alive, layers, sizes, grams, states)

    @property
    def scopes(self) -> dict[str, list[str]]:
        """Names of the parameters in the whole model and in each layer; none if every network diverged."""
        return {WHOLE: list(self.sizes)} | self.layers if self.alive else {}

    @property
    def shape(self) -> tuple[int, int]:
        """Epochs T and networks R."""
        return len(self.states), len(self.alive)

    @property
    def metric(self) -> str:
        return "test_accuracy" if self.run.dataset.task == "classification" else "test_r2"

    def tables(self) -> Tables:
        """Tables `trajectory`, `explained_variance`, `plane` and `jackknife`."""
        places = [self._trajectory(scope) for scope in self.scopes]
        columns = ["scope", "replica", "epoch", "pc1", "pc2", "residual", "distance", "norm", "train_loss", self.metric]
        found = [self._explained_variance(scope) for scope in self.scopes]
        without = [self._without_one(scope) for scope in self.scopes] if len(self.alive) > 2 else []
        return {
            "trajectory": _table(places, columns),
            "explained_variance": _table([ratios for ratios, _ in found], COLUMNS["explained_variance"]),
            "plane": pd.DataFrame([plane for _, plane in found], columns=COLUMNS["plane"]),
            "jackknife": _table(without, COLUMNS["jackknife"]),
        }

    def _trajectory(self, scope: str) -> pd.DataFrame:
        components = self._components(scope, self.alive)
        scores = components.scores.numpy()
        labels = [f"{epoch:.10g}" for epoch in self.run.history["epoch"]]
        history = self.run.history.assign(label=labels).set_index(["label", "replica"])
        rows = history.loc[[(epoch, replica) for epoch in self.run.epochs for replica in self.alive]]
        names = self.scopes[scope]
        table = pd.DataFrame(
            {
                "scope": scope,
                "replica": rows.index.get_level_values("replica"),
                "epoch": rows["epoch"].to_numpy(),
                "pc1": scores[:, 0],
                "pc2": scores[:, 1],
                "residual": components.residuals().numpy(),
                "distance": components.distances.numpy(),
                "norm": [self._norm(state, names, replica) for state in self.states for replica in self.alive],
                "train_loss": rows["train_loss"].to_numpy(),
                self.metric: rows[self.metric].to_numpy(),
            }
        )
        return table.sort_values(["replica", "epoch"])

    @staticmethod
    def _norm(state: "dict[str, Tensor]", names: Sequence[str], replica: int) -> float:
        return math.hypot(*(state[name][replica].double().norm().item() for name in names))

    def _gram(self, name: str, networks: Sequence[int]) -> "Tensor":
        """Inner products of the rows of some networks, for one tensor of parameters."""
        epochs, count = self.shape
        places = [self.alive.index(replica) for replica in networks]
        blocks = self.grams[name].reshape(epochs, count, epochs, count)
        return blocks[:, places][:, :, :, places].reshape(epochs * len(networks), -1)

    def _components(self, scope: str, networks: Sequence[int]) -> "Components":
        from hw1.measures.pca import Components, centring

        centre = centring(self.centring, self.shape[0], len(networks))
        total: Tensor = sum(self._gram(name, networks) for name in self.scopes[scope])  # type: ignore[assignment]
        return Components.of(centre @ total @ centre.T)

    def _chance(self, scope: str, networks: Sequence[int], draws: int, start: bool = True, move: bool = True) -> Any:
        """Explained variance (draws, N) of walks with the lengths of these networks' paths, tensor by tensor."""
        from hw1.measures.pca import Lengths, Walk, centring, chance

        (epochs, _), walks = self.shape, []
        for name in self.scopes[scope]:
            lengths = Lengths.of(self._gram(name, networks), epochs, len(networks))
            steps = lengths.steps.mean(1).tolist()
            walks.append(Walk(self.sizes[name], lengths.spread * start, [step * move for step in steps]))
        rows = epochs * len(networks)
        draws = max(4, min(draws, int(draws * (CHEAP / rows) ** 2)))
        return chance(walks, len(networks), centring(self.centring, epochs, len(networks)), draws).numpy()

    def _explained_variance(self, scope: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The shares of the first components with their nulls, and those of the plane of two."""
        count = min(COMPONENTS, math.prod(self.shape))
        drawn = {
            "null_ratio": self._chance(scope, self.alive, DRAWS),
            "random_walk_ratio": self._chance(scope, self.alive, DRAWS, start=False),
            "independent_inits_ratio": self._chance(scope, self.alive, DRAWS, move=False),
        }
        nulls = {name: ratios.mean(0)[:count] for name, ratios in drawn.items()}
        ratio = self._components(scope, self.alive).ratio.numpy()
        of_null = drawn["null_ratio"][:, :2].sum(1)
        low, high = np.quantile(of_null, [0.025, 0.975])
        plane = {"scope": scope, "parameters": sum(self.sizes[name] for name in self.scopes[scope]),
                 "share": ratio[:2].sum(), "null_share": of_null.mean(),
                 "null_low": low, "null_high": high}  # fmt: skip
        columns = {"scope": scope, "component": range(1, count + 1), "ratio": ratio[:count], **nulls}
        return pd.DataFrame(columns), plane

    def _without_one(self, scope: str) -> pd.DataFrame:
        """PC1 + PC2's share, and the null's, of all networks but one: a row for each left out."""
        rows = []
        for replica in self.alive:
            others = [other for other in self.alive if other != replica]
            share = self._components(scope, others).ratio[:2].sum().item()
            # The same random numbers for each, so that their noise is in none of the differences between them.
            null = self._chance(scope, others, DRAWS // 4)[:, :2].sum(1).mean()
            rows.append({"scope": scope, "replica": replica, "share": share, "null_share": null})
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """The run's, with each network's path by itself: how straight, how flat, and what a random walk would be."""
        from hw1.measures.pca import Lengths

        names = ("displacement", "straightness", "walk_straightness", "path_plane", "walk_plane")
        rows = []
        for replica in self.alive:
            total: Tensor = sum(self._gram(name, [replica]) for name in self.sizes)  # type: ignore[assignment]
            lengths = Lengths.of(total, self.shape[0], 1)
            path, end = lengths.steps.sqrt().sum(), lengths.ends.sqrt()
            rows.append(
                [end.item(), (end / path).item(), (lengths.steps.sum().sqrt() / path).item(),
                 self._components(WHOLE, [replica]).ratio[:2].sum().item(),
                 self._chance(WHOLE, [replica], DRAWS // 4)[:, :2].sum(1).mean()]
            )  # fmt: skip
        found = pd.DataFrame(rows, index=self.alive, columns=list(names), dtype=float)
        return summary(self.run).join(found, on="replica")

    def distribution(self, bins: int) -> pd.DataFrame:
        """Table `distribution`: densities of each layer's weights at the start and at the end, of all networks."""
        from hw1.measures.importance import densities, flat

        parts = []
        ends = [0, -1] if self.alive else []
        for layer, names in self.layers.items():
            samples = [flat(self.states[end][name][self.alive] for name in names) for end in ends]
            edges, found = densities(samples, bins) if samples else (None, [])
            for end, density in zip(ends, found, strict=True):
                assert edges is not None
                columns = {"bin_left": edges[:-1], "bin_right": edges[1:], "density": density}
                parts.append(pd.DataFrame({"layer": layer, "epoch": float(self.run.epochs[end]), **columns}))
        return _table(parts, COLUMNS["distribution"])

    def loading(self) -> "Tensor | None":
        """v₁² + v₂² (P,) of every parameter, v the first two axes of the whole model's PCA; None without networks."""
        from hw1.measures.importance import flat
        from hw1.measures.pca import centring, loadings

        if not self.alive:
            return None
        components = self._components(WHOLE, self.alive)
        combination = centring(self.centring, *self.shape).T @ components.combination()
        names = [name for names in self.layers.values() for name in names]
        axes = (loadings([state[name] for state in self.states], self.alive, combination) for name in names)
        return flat(axis.square().sum(1) for axis in axes)

    def scores(self, replica: int, loading: "Tensor | None") -> "tuple[Any, dict[str, Tensor]]":
        """A network at its end, and its parameters' scores by name, (P,) in the network's order."""
        from hw1.measures.importance import flat, saliency

        network, splits = self.run.network(replica), self.run.splits
        assert loading is not None
        found = saliency(network, self.run.loss(), splits.slices("train"))
        return network, {"magnitude": flat(network.parameters()).abs(), "saliency": found,
                         "loading": loading.to(found.device)}  # fmt: skip

    def largest(self, network: Any, scores: "dict[str, Tensor]", count: int) -> pd.DataFrame:
        """The parameters that are among the `count` largest by any of the scores, by layer and place in it."""
        import torch

        count = min(count, len(scores["magnitude"]))
        chosen = torch.cat([score.topk(count).indices for score in scores.values()]).unique().cpu().numpy()
        sizes = dict(network.named_parameters())
        lengths = [sum(sizes[name].numel() for name in names) for names in self.layers.values()]
        starts = np.cumsum([0, *lengths[:-1]])
        layer = np.searchsorted(starts, chosen, side="right") - 1
        values = {name: score.double().cpu().numpy()[chosen] for name, score in scores.items()}
        return pd.DataFrame({"layer": np.array(list(self.layers))[layer], "index": chosen - starts[layer], **values})

    def ablation(
        self, network: Any, scores: "dict[str, Tensor]", fractions: Sequence[float], replica: int
    ) -> pd.DataFrame:
        """The test metric with the top or bottom share of the parameters set to 0, by each score and at random."""
        import torch

        from hw1.measures.importance import ablation
        from hw1.measures.performance import evaluate

        splits, loss, kind = self.run.splits, self.run.loss(), self.metric.removeprefix("test_")
        batches = list(splits.slices("test"))
        size = len(scores["magnitude"])
        orders: dict[tuple[str, str], Tensor] = {}
        for name, score in scores.items():
            ranked = score.argsort(descending=True, stable=True)
            orders |= {(name, "top"): ranked, (name, "bottom"): ranked.flip(0)}
        orders["random", "any"] = torch.randperm(size, generator=torch.Generator().manual_seed(replica))
        shares = sorted({*fractions} - {0.0})
        (whole,) = ablation(network, orders["random", "any"], [0], lambda net: evaluate(net, loss, batches)[kind])
        parts = []
        for (name, way), order in orders.items():
            counts = [round(share * size) for share in shares]
            order = order.to(scores["magnitude"].device)
            values = ablation(network, order, counts, lambda net: evaluate(net, loss, batches)[kind])
            rows = {"fraction": [0.0, *shares], "replica": replica, self.metric: [whole, *values]}
            parts.append(pd.DataFrame({"score": name, "order": way, **rows}))
        return pd.concat(parts)

    def pixels(self, network: Any, scores: "dict[str, Tensor]") -> pd.DataFrame:
        """Each score summed over the first layer's weights from every pixel; no rows where inputs are no pixels."""
        from hw1.measures.importance import pixel_sums

        parts = []
        for name, score in scores.items():
            sums = pixel_sums(network, self.run.dataset.input_shape, score)
            if sums is not None:
                values = sums.double().cpu().numpy()
                row, column = np.indices(values.shape)
                places = {"row": row.ravel(), "column": column.ravel(), "value": values.ravel()}
                parts.append(pd.DataFrame({"score": name, **places}))
        return pd.concat(parts) if parts else pd.DataFrame(columns=["score", "row", "column", "value"])


def _part(table: pd.DataFrame, condition: Mapping[str, Any], **more: Any) -> pd.DataFrame:
    """The rows of one condition."""
    keep = pd.Series(True, index=table.index)
    for key, value in {**condition, **more}.items():
        keep &= table[key].isna() if pd.isna(value) else table[key] == value
    return table[keep]


def _conditions(table: pd.DataFrame, swept: list[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Each job's values of the swept keys, seeds among them, with its rows: a PCA is of one job's networks."""
    if not swept:
        return [({}, table)]
    groups = table.groupby(swept, sort=False, dropna=False)
    return [(dict(zip(swept, values, strict=True)), rows) for values, rows in groups]


def _against_null(row: Mapping[Any, Any], without: pd.DataFrame) -> dict[str, Any]:
    """PC1 + PC2's share minus the null's, with a jackknife interval over networks (from three on), and a verdict.

    θ ± t(n − 1)·s/√n, s the spread of the pseudo-values n·θ − (n − 1)·θ_(−i). Around θ itself and not their mean: the
    share for so many networks is meant, not its limit for ever more. There is a difference only where the interval
    excludes 0 and the share lies outside the range that holds 95 % of the null's draws.
    """
    difference, n = round(row["share"] - row["null_share"], 12), len(without)  # 1 less 1 is no rounding error
    if n < 3:
        return {"difference": difference, "low": np.nan, "high": np.nan, "n": 1, "verdict": UNRESOLVED}
    left = (without["share"] - without["null_share"]).to_numpy(dtype=float)
    pseudo = n * difference - (n - 1) * left
    interval = mean_interval(pseudo - pseudo.mean() + difference)
    by_chance = row["null_low"] <= row["share"] <= row["null_high"]
    verdict = UNRESOLVED if by_chance or not interval.excludes(0) else MORE if difference > 0 else LESS
    return {"difference": difference, "low": interval.low, "high": interval.high, "n": n, "verdict": verdict}


def _points(row: Mapping[Any, Any]) -> Interval:
    """The difference from the null in percentage points."""
    return Interval(100 * row["difference"], 100 * row["low"], 100 * row["high"], int(row["n"]))


def _about_plane(row: Mapping[Any, Any], swept: list[str]) -> str:
    where = ", ".join(f"{key}={written(row[key])}" for key in swept)
    interval = _points(row)
    shares = (
        f"PC1 + PC2 hold {100 * row['share']:.1f} % of the variance; independent starts with random walks of the same "
        f"lengths would hold {100 * row['null_share']:.1f} % (95 % of draws: {100 * row['null_low']:.1f} to "
        f"{100 * row['null_high']:.1f})"
    )
    if math.isnan(row["low"]):
        found = f"difference {interval.text(signed=True)} points; fewer than 3 networks, no interval"
    else:
        found = f"difference {interval.text(signed=True)} points, jackknife over n={row['n']}: {row['verdict']}"
    return f"{where}{': ' * bool(where)}{shares}: {found}"


def _about_paths(table: pd.DataFrame) -> list[str]:
    """How straight and flat each path is by itself, against a random walk of the same steps."""
    said = []
    for own, walk, words in (
        ("straightness", "walk_straightness", ("straighter", "less straight")),
        ("path_plane", "walk_plane", ("flatter", "less flat")),
    ):
        measured, null = (mean_interval(table[name].to_numpy(), quantity(name).scale) for name in (own, walk))
        difference = paired_difference(table[walk], table[own])
        if measured.n == 0:
            return []
        word = "n=1, no interval"
        if not math.isnan(difference.low):
            word = f"n={measured.n}, " + (words[difference.mean < 0] if difference.excludes(0) else UNRESOLVED)
        said.append(f"{quantity(own).label} {measured.text()}, of a random walk {null.text()} ({word})")
    return ["each network's path by itself: " + "; ".join(said)]


def _about_ablation(table: pd.DataFrame) -> list[str]:
    """What the test metric loses when the top parameters by each score are set to 0, against as many at random."""
    shares = sorted(set(table["fraction"]) - {0.0}, key=lambda share: abs(math.log(share / TRIED)))
    if not shares:
        return []
    metric = table.columns[-1]
    rows = table[table["fraction"] == shares[0]].set_index("replica")
    control = rows.loc[rows["score"] == "random", metric]
    said = []
    for score in list(SCORES)[:-1]:
        values = rows.loc[(rows["score"] == score) & (rows["order"] == "top"), metric]
        difference = paired_difference(control.loc[values.index], values, level=1 - 0.05 / 3)
        word = "" if math.isnan(difference.low) else f" ({_word(difference)})"
        said.append(f"top by {score} {mean_interval(values.to_numpy(), quantity(metric).scale).text()}{word}")
    control_mean = mean_interval(control.to_numpy(), quantity(metric).scale)
    return [
        f"{quantity(metric).label} with {100 * shares[0]:g} % of the parameters set to 0: {', '.join(said)}; "
        f"at random {control_mean.text()}; n={control_mean.n}"
        + (", compared with random at 95 % over all 3" if control_mean.n > 1 else ": no interval")
    ]


def _word(difference: Interval) -> str:
    return "not resolved" if not difference.excludes(0) else "lower" if difference.mean < 0 else "higher"


# Drawing


def _labelled(table: pd.DataFrame, swept: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """Each condition as (label, rows)."""
    found = _conditions(table, swept)
    return [(", ".join(f"{key}={written(value)}" for key, value in place.items()), rows) for place, rows in found]


def _title(figure: "Figure", *lines: str) -> None:
    width = int(figure.get_figwidth() * 11.5)
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in lines), fontsize=11)
    figure.set_label("; ".join(lines))


def _count(table: pd.DataFrame, swept: list[str]) -> str:
    counts = table.drop_duplicates([*swept, "replica"]).groupby(swept or (lambda _: 0), dropna=False).size()
    return f"n={counts.min()}" if counts.min() == counts.max() else f"n={counts.min()} to {counts.max()}"


def _percent(share: float) -> str:
    return "—" if math.isnan(share) else f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _grid(panels: int, conditions: int, most: int) -> tuple[int, int]:
    """Rows and columns: a row per condition, or as many as one condition's panels take."""
    if conditions > 1:
        return conditions, min(panels, most)
    columns = min(panels, most if panels != 4 else 2)
    return math.ceil(panels / columns), columns


def _draw_trajectories(tables: Tables, swept: list[str], more: str) -> "Figure":
    from hw1 import figures

    shown = _labelled(tables["trajectory"], swept)
    scopes = list(tables["trajectory"]["scope"].unique())
    rows, columns = _grid(len(scopes), len(shown), 3)
    some = scopes[:columns] if len(shown) > 1 else scopes
    figure, grid = figures.new_figure(rows, columns, 4 * columns + 1.2, 3.9 * rows + 1.2)
    losses = pd.concat([part["train_loss"] for _, part in shown])
    least = losses[losses > 0].min()
    scale = {"norm": "log", "vmin": least, "vmax": losses.max()} if least < losses.max() else {}
    points = None
    for axes in grid.flat[len(shown) * len(some) :]:
        axes.set_axis_off()
    for place, (label, part) in enumerate(shown):
        ratios = _of_label(tables["explained_variance"], swept, label)
        for number, scope in enumerate(some):
            axes = grid.flat[place * len(some) + number]
            paths = part[part["scope"] == scope]
            if paths.empty:  # this condition's networks have no such layer
                axes.set_axis_off()
                continue
            points = _draw_scope(axes, paths, scale)
            ratio = ratios[ratios["scope"] == scope].set_index("component")
            for component, set_label in ((1, axes.set_xlabel), (2, axes.set_ylabel)):
                if component in ratio.index:
                    own, null = (_percent(ratio.loc[component, name]) for name in ("ratio", "null_ratio"))
                    set_label(f"PC{component}: {own} of variance (null {null})", fontsize=9)
            axes.set_title(f"{label}\n{_named(scope)}" if label else _named(scope), fontsize=10)
    if points is not None:
        bar = figure.colorbar(points, ax=grid.ravel().tolist(), label="training loss (log scale)", shrink=0.8, pad=0.02)
        _plain_ticks(bar.ax.yaxis, losses.max() / least < 20)
    left_out = f"; {len(scopes) - len(some)} more layers in the jobs' folders" if len(some) < len(scopes) else ""
    _title(
        figure,
        "Paths of weights in the plane of their first two principal components",
        f"joint PCA of all networks at all collected epochs; ○ start, ★ end; {_count(tables['trajectory'], swept)} "
        f"networks; null: {NULLS['null_ratio'].removeprefix('null: ')}{left_out}{more}",
    )
    return figure


def _of_label(table: pd.DataFrame, swept: list[str], label: str) -> pd.DataFrame:
    """The rows of the condition that a figure calls so."""
    return next(rows for each, rows in _labelled(table, swept) if each == label)


def _named(scope: str) -> str:
    return "whole model" if scope == WHOLE else f"layer {scope.removesuffix(' (layer)')}"


def _plain_ticks(axis: Any, narrow: bool) -> None:
    """Plain numbers on a log axis; between the powers of ten, too, where it is `narrow`."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if narrow and f"{value:e}"[0] in "235" else "")


def _draw_scope(axes: "Axes", rows: pd.DataFrame, scale: dict[str, Any]) -> Any:
    """Paths of one scope; returns what a colour bar is made from."""
    for _, path in rows.groupby("replica"):
        axes.plot(path["pc1"], path["pc2"], color="#999999", linewidth=0.7, zorder=1)
    start, end = rows["epoch"].min(), rows["epoch"].max()
    points = None
    for marker, size, part in (
        (".", 60, rows),
        ("o", 42, rows[rows["epoch"] == start]),
        ("*", 110, rows[rows["epoch"] == end]),
    ):
        edge = {"linewidths": 0} if marker == "." else {"edgecolors": "black", "linewidths": 0.8}
        colours = part["train_loss"].clip(lower=scale.get("vmin"))  # a loss of 0 has no logarithm
        points = axes.scatter(
            part["pc1"], part["pc2"], c=colours, cmap="viridis", marker=marker, s=size, zorder=2, **edge, **scale
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=8)
    return points


def _draw_explained_variance(tables: Tables, swept: list[str], more: str) -> "Figure":
    from hw1 import figures

    panels = _variance_panels(tables, swept)
    figure, grid = figures.new_figure(2, len(panels), max(9.6, 3.6 * len(panels)), 7.6, sharex="row", sharey="row")
    for (label, ratios, verdict, paths), (top, bottom) in zip(panels, grid.T, strict=True):
        _draw_scree(top, ratios)
        top.set_title(f"{label}\n{verdict}", fontsize=9.5)
        _draw_off_plane(bottom, paths)
    grid[0, 0].set_ylabel("explained variance, % of the total", fontsize=9)
    grid[1, 0].set_ylabel("distance from the plane of PC1 and PC2,\nshare of the distance from the centre", fontsize=9)
    for axes in grid[0]:
        axes.set_xlabel("component")
        axes.set_ylim(bottom=0)
    for axes in grid[1]:
        axes.set_xlabel("epoch")
        axes.set_ylim(0, 1.05)
    figures.legend_below(figure, grid[0, 0])
    _title(
        figure,
        "Is the plane more than chance? Explained variance, and how far networks are off the plane",
        "above, in brackets: 95 % of the null's draws, then the difference from it in points with its 95 % jackknife "
        "interval over networks; below: ‖w − projection‖ / ‖w − c‖, each network thin, their mean with its 95 % "
        f"t-interval; {_count(tables['trajectory'], swept)} networks{more}",
    )
    return figure


def _variance_panels(tables: Tables, swept: list[str]) -> list[tuple[str, pd.DataFrame, str, pd.DataFrame]]:
    """(label, explained variance, verdict, trajectory) of a job's scopes, or of a sweep's conditions' whole models."""
    ratios, places, verdicts = (tables[name] for name in ("explained_variance", "trajectory", "plane"))
    shown = _labelled(ratios, swept)
    scopes = [WHOLE] if len(shown) > 1 else list(ratios["scope"].unique())[:DRAWN]
    panels = []
    for label, part in shown:
        for scope in scopes:
            (row,) = _of_label(verdicts, swept, label).query("scope == @scope").to_dict("records")
            interval = _points(row)
            told = f": {row['verdict']}" if math.isfinite(row["low"]) else ", no interval"
            said = (
                f"PC1 + PC2: {100 * row['share']:.1f} %, null {100 * row['null_share']:.1f} "
                f"({100 * row['null_low']:.1f} to {100 * row['null_high']:.1f})\n{interval.text(signed=True)}{told}"
            )
            paths = _of_label(places, swept, label)
            title = f"{label}\n{_named(scope)}" if label else _named(scope)
            panels.append((title, part[part["scope"] == scope], said, paths[paths["scope"] == scope]))
    return panels


def _draw_scree(axes: "Axes", ratios: pd.DataFrame) -> None:
    from hw1 import figures

    axes.bar(ratios["component"], 100 * ratios["ratio"], color=figures.COLOURS[4], label="measured")
    looks = zip(NULLS.items(), ("#000000", figures.COLOURS[1], figures.COLOURS[2]), ("o-", "s--", "^:"), strict=True)
    for (name, label), colour, look in looks:
        if name in ratios:  # a sweep may have dropped a column without values
            axes.plot(
                ratios["component"], 100 * ratios[name], look, color=colour, markersize=4, linewidth=1.1, label=label
            )
    axes.set_xticks(sorted(ratios["component"]))


def _draw_off_plane(axes: "Axes", paths: pd.DataFrame) -> None:
    from hw1 import figures

    share = (paths["residual"] / paths["distance"]).where(paths["distance"] > 1e-9 * paths["norm"])
    paths = paths.assign(share=share)
    for _, path in paths.groupby("replica"):
        axes.plot(path["epoch"], path["share"], color=figures.COLOURS[0], linewidth=0.6, alpha=0.4)
    _band(axes, paths, "epoch", "share", figures.COLOURS[0], "logit")


def _band(axes: "Axes", rows: pd.DataFrame, x: str, y: str, colour: str, scale: str, **line: Any) -> None:
    """Mean over replicas at every x with its 95 % t-interval as a band."""
    groups = rows.groupby(x)[y]
    places = np.array(list(groups.groups), dtype=float)
    found = [mean_interval(values.to_numpy(), scale) for _, values in groups]
    axes.plot(places, [each.mean for each in found], color=colour, linewidth=1.6, **line)
    low, high = ([getattr(each, end) for each in found] for end in ("low", "high"))
    axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)


def _draw_ablation(tables: Tables, swept: list[str], more: str) -> "Figure":
    from hw1 import figures

    table = tables["ablation"]
    metric = str(table.columns[-1])
    shown = _labelled(table, swept)
    figure, grid = figures.new_figure(len(shown), 2, 10, 3.6 * len(shown) + 1.8, sharey="row")
    for (label, part), row in zip(shown, grid, strict=True):
        for axes, way in zip(row, ("top", "bottom"), strict=True):
            for number, score in enumerate(SCORES):
                rows = part[(part["score"] == score) & (part["order"].isin([way, "any"])) & (part["fraction"] > 0)]
                look = {"marker": figures.MARKERS[number], "markersize": 4, "label": f"{score}: {SCORES[score]}"}
                colour = "#777777" if score == "random" else figures.COLOURS[number]
                _band(axes, rows.assign(percent=100 * rows["fraction"]), "percent", metric, colour,
                      quantity(metric).scale, **look)  # fmt: skip
            whole = mean_interval(part.loc[part["fraction"] == 0, metric].to_numpy()).mean
            axes.axhline(whole, color="black", linewidth=0.8, linestyle=":")
            name = {"top": "largest", "bottom": "smallest"}[way]
            axes.set_title(f"{label}\nthe {name} set to 0" if label else f"the {name} set to 0")
            axes.set_xlabel(f"{name} parameters by each score that are set to 0, %", fontsize=9)
        row[0].set_xscale("log")
        _plain_ticks(row[0].xaxis, narrow=False)
        row[0].set_ylabel(quantity(metric).label)
        if metric == "test_r2":  # far below 0 there is nothing to see
            row[0].set_ylim(-1, 1.05)
    figures.legend_below(figure, grid[0, 0])
    count = _count(table, swept)
    _title(
        figure,
        f"Which weights matter? {quantity(metric).label} after setting some to 0, without training on",
        f"{quantity(metric).label}: {quantity(metric).definition}; dotted: of the whole network; "
        + ("mean and 95 % t-interval over networks" if count != "n=1" else "one network, no interval")
        + f", {count}{more}",
    )
    return figure


def _draw_distributions(tables: Tables, swept: list[str], more: str) -> "Figure":
    from hw1 import figures

    table = tables["distribution"]
    shown = _labelled(table, swept)
    layers = list(table["layer"].unique())
    rows, columns = _grid(len(layers), len(shown), 4)
    some = layers[:columns] if len(shown) > 1 else layers
    figure, grid = figures.new_figure(rows, columns, max(7.2, 3.4 * columns), 3.0 * rows + 1.6)
    for axes in grid.flat[len(shown) * len(some) :]:
        axes.set_axis_off()
    for place, (label, part) in enumerate(shown):
        for number, layer in enumerate(some):
            axes, own = grid.flat[place * len(some) + number], part[part["layer"] == layer]
            if own.empty:
                axes.set_axis_off()
                continue
            for epoch, bars in own.groupby("epoch"):
                first = epoch == part["epoch"].min()
                edges = [*bars["bin_left"], bars["bin_right"].iloc[-1]]
                axes.stairs(
                    bars["density"].where(bars["density"] > 0), edges, linewidth=1.4,
                    color="#777777" if first else figures.COLOURS[0], linestyle="--" if first else "-",
                    label="at the start" if first else "at the end",
                )  # fmt: skip
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis, narrow=False)
            axes.set_title(f"{label}\n{_named(layer)}" if label else _named(layer), fontsize=10)
            axes.set_xlabel("value of a parameter", fontsize=9)
            axes.tick_params(labelsize=8)
        grid.flat[place * len(some)].set_ylabel("density (log axis)", fontsize=9)
    figures.legend_below(figure, grid[0, 0])
    left_out = f"; {len(layers) - len(some)} more layers in distribution.csv" if len(some) < len(layers) else ""
    count = _count(tables["ablation"], swept)
    _title(figure, f"Distribution of each layer's parameters, of all networks together, {count}{left_out}{more}")
    return figure


def _draw_pixels(tables: Tables, swept: list[str], more: str) -> "Figure":
    from hw1 import figures

    table = tables["pixel"]
    shown = _labelled(table, swept)
    scores = [score for score in SCORES if score in set(table["score"])]
    figure, grid = figures.new_figure(len(shown), len(scores), 9.6, 3.3 * len(shown) + 1)
    for (label, part), row in zip(shown, grid, strict=True):
        for score, axes in zip(scores, row, strict=True):
            mean = part[part["score"] == score].groupby(["row", "column"])["value"].mean().unstack()
            picture = axes.imshow(mean, cmap="viridis", vmin=0)
            figure.colorbar(picture, ax=axes, shrink=0.75, pad=0.02).ax.tick_params(labelsize=7)
            axes.set_title(f"{label}\n{score}" if label else score, fontsize=10)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(textwrap.fill(SCORES[score], 34), fontsize=8.5)
    _title(
        figure,
        "Which input pixels matter? Scores of the first layer's weights, summed over the units that a pixel feeds",
        f"mean over networks, {_count(table, swept)}{more}",
    )
    return figure
