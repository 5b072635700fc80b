"""What lies between the weights of two trained networks: a barrier, or a valley that one can cross?

Loss and accuracy along θ_α = (1−α)·θ_A + α·θ_B, for networks that began at the same weights and for networks that did
not, before and after the hidden units of B are renamed to fit A's. What it cannot say: that there is no low path where
the straight one is high, or that a higher loss between two batch sizes is the batch's doing and not that of the fewer
steps; and weight matching finds a good renaming, not the best.
"""

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from hw1.data import Dataset
from hw1.errors import UserError, shortened, written
from hw1.experiments import Conclusion, Experiment, Overrides, Tables, conditions, flattened, replicate
from hw1.measures.barrier import BARRIERS, highest
from hw1.quantities import quantity
from hw1.recipe import Recipe
from hw1.schema import Range
from hw1.side_by_side import each
from hw1.statistics import mean_interval, paired_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hw1.figures import Family
    from hw1.laboratory import Run

Row = dict[str, Any]
Alpha = Annotated[float, Range(-100, 100)]

INITS = ("same", "different")
METHODS = ("naive", "aligned")
SPLITS = ("train", "test")
# Added to init_seed for the other start: so much that no seed of a sweep meets it, and two replicates share weights.
OTHER_START = 1_000_000
MUST_AGREE = ("dataset", "loss", "dtype", "replicas")  # else there is no one loss along the path, or no pairs
KINDS = {  # what is drawn of each layer
    "naive": "naive",
    "aligned": "aligned",
    "from_init_a": "A from its initial weights",
    "from_init_b": "B from its initial weights",
}
MOST_DRAWN = 12  # conditions in one figure
MOST_SENTENCES = 3  # conditions of a sweep that are put into words


@dataclass(frozen=True)
class Interpolation(Experiment):
    """Networks on the straight line through two trained ones."""

    endpoints: list[Any]  # overrides of A and of B
    alpha: Alpha | list[Alpha]
    batch_norm: Literal["recalibrated", "interpolated"]
    layers: bool

    headline: ClassVar[str] = "barrier_different_naive"
    question: ClassVar[str] = (
        "What lies between the weights of two trained networks: a barrier, or a valley that one can cross?"
    )

    @property
    def alphas(self) -> list[float]:
        """The places on the line, in the order given, each once."""
        given = self.alpha if isinstance(self.alpha, list) else [self.alpha]
        return list(dict.fromkeys(float(alpha) for alpha in given))

    def recipes(self, base: Recipe) -> dict[str, Overrides]:
        """A, shared by both regimes, and B once from A's initial weights and once from others, in A's data order."""
        a, b = self._endpoints()
        return {"A": a, "B same": b, "B different": b | {"init_seed": base.init_seed + OTHER_START}}

    def _endpoints(self) -> list[Overrides]:
        form = "must be two groups of keys, such as [{batch_size: 64}, {batch_size: 1024}]"
        if len(self.endpoints) != 2 or not all(isinstance(each, Mapping) and each for each in self.endpoints):
            raise UserError(f"experiment.endpoints={shortened(self.endpoints)}: {form}")
        if not self.alphas:
            raise UserError("experiment.alpha=[]: must hold at least one number")
        flat = [dict(flattened(each)) for each in self.endpoints]
        if seeds := {"seed", "init_seed"} & (flat[0].keys() | flat[1].keys()):
            why = "both initialisations are measured anyway; order_seed may differ"
            raise UserError(f"experiment.endpoints: cannot set {seeds.pop()}: {why}")
        return flat

    def check(self, dataset: Dataset, recipes: Mapping[str, Recipe]) -> None:
        """Needs two networks of one architecture, which one loss on one data set judges."""
        a, b = recipes["A"], recipes["B same"]
        for part in MUST_AGREE:
            if getattr(a, part) != getattr(b, part):
                raise UserError(f"experiment.endpoints: both must have the same {part}, or their line means nothing")
        if _function(a.model) != _function(b.model):
            raise UserError("experiment.endpoints: both must be networks of the same form and size, to be averaged")
        if a == b and len({str(dict(each)) for each in self._endpoints()}) == 2:
            raise UserError(f"experiment.endpoints={shortened(self.endpoints)}: both describe the same training")

    # Measuring

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tables `interpolation`, `endpoint`, `distance`, `alignment`, `layer`, `history` and `summary`."""
        rows: dict[str, list[Row]] = {name: [] for name in ("interpolation", "endpoint", "distance", "alignment")}
        rows |= {"layer": []} if self.layers else {}
        a = runs["A"]
        pairs = list(itertools.product(range(a.recipe.replicas), INITS))
        of_pairs = each(lambda pair: list(self._of_pair(a, runs[f"B {pair[1]}"], pair[0])), pairs, a.machine)
        for (replica, init), of_pair in zip(pairs, of_pairs, strict=True):
            for name, found in of_pair:
                rows[name].append({"replica": replica, "init": init} | found)
        tables = {name: pd.DataFrame(found, columns=self._columns(name, a)) for name, found in rows.items()}
        for name in {"interpolation", "layer"} & set(tables):  # α first: so are the jobs of an α sweep put together
            place = {alpha: number for number, alpha in enumerate(self.alphas)}
            tables[name] = tables[name].sort_values("alpha", key=lambda column: column.map(place), kind="stable")
        histories = [run.history.assign(network=name) for name, run in runs.items()]
        tables["history"] = pd.concat([each[["network", *each.columns[:-1]]] for each in histories])
        tables["summary"] = self._summary(tables, runs)
        return tables

    @staticmethod
    def _columns(name: str, run: "Run") -> list[str]:
        metrics = ["loss", _beside(run)]
        return {
            "interpolation": ["alpha", "replica", "init", "method", "split", *metrics],
            "endpoint": ["init", "endpoint", "label", "replica", "split", *metrics],
            "distance": ["init", "replica", "layer", "between", "aligned", "from_init_a", "from_init_b"],
            "alignment": ["init", "replica", "note", "units", "moved"],
            "layer": ["alpha", "replica", "init", "method", "layer", *metrics],
        }[name]

    def _of_pair(self, a: "Run", b: "Run", replica: int) -> Iterator[tuple[str, Row]]:
        """Rows of one replica in one regime, by table."""
        # Here, so that drawing needs no torch.
        from hw1.measures import interpolation, matching

        model = a.network(replica)
        probe = interpolation.Probe(model, a.loss(), a.splits, self.batch_norm == "recalibrated")
        first, second = ({name: value[replica] for name, value in run.weights().items()} for run in (a, b))
        fine = a.status[replica] == b.status[replica] == "ok"
        again = fine and probe.recalibrated and interpolation.has_statistics(model)
        for endpoint, run, state, overrides in zip("AB", (a, b), (first, second), self._endpoints(), strict=True):
            judged = probe(state) if again else _stored(run, replica)
            for split in SPLITS:
                yield "endpoint", {"endpoint": endpoint, "label": _label(overrides), "split": split} | judged[split]
        seconds, note, moved = {"naive": second}, "" if fine else "diverged", (0, 0)
        if fine:
            try:
                layers = matching.chain(model, a.dataset.input_shape)
                seconds["aligned"], renamed = matching.match(first, second, layers)
                moved = matching.moved(renamed), sum(layer.units for layer in layers[:-1])
            except matching.NotAChainError as error:
                note = str(error)
        yield "alignment", {"note": note or "available", "units": moved[1], "moved": moved[0]}
        line: dict[float, Any] = {}  # at 0 and 1 a renamed network is the network
        for method, end in seconds.items():
            wanted = [alpha for alpha in self.alphas if alpha not in (0, 1) or alpha not in line]
            states = (interpolation.interpolated(first, end, alpha) for alpha in wanted)
            line.update(zip(wanted, probe.along(states) if fine else itertools.repeat(_unknown(a)), strict=False))
            for alpha, split in itertools.product(self.alphas, SPLITS):
                yield "interpolation", {"alpha": alpha, "method": method, "split": split} | line[alpha][split]
        parameters = {name for name, _ in model.named_parameters()}
        parts = {
            layer: [n for n in names if n in parameters] for layer, names in interpolation.layers_of(model).items()
        }
        starts = [run.initial(replica).cpu().state_dict() for run in (a, b)]
        for layer, names in [*parts.items(), ("model", sorted(parameters))]:
            yield (
                "distance",
                {
                    "layer": layer,
                    "between": interpolation.distance(first, second, names),
                    "aligned": interpolation.distance(first, seconds["aligned"], names)
                    if "aligned" in seconds
                    else np.nan,
                    "from_init_a": interpolation.distance(first, starts[0], names),
                    "from_init_b": interpolation.distance(second, starts[1], names),
                },
            )
        inside = [alpha for alpha in self.alphas if 0 <= alpha <= 1] if self.layers else []
        tensors = interpolation.layers_of(model)
        states = (
            interpolation.with_layer(first, moved_along, names)
            for alpha, end in itertools.product(inside, seconds.values())
            for moved_along in [interpolation.interpolated(first, end, alpha)]
            for names in tensors.values()
        )
        found = probe.along(states, ["test"]) if fine else itertools.repeat(_unknown(a))
        for (alpha, method, layer), judged in zip(itertools.product(inside, seconds, tensors), found, strict=False):
            yield "layer", {"alpha": alpha, "method": method, "layer": layer} | judged["test"]

    def _summary(self, tables: Tables, runs: "dict[str, Run]") -> pd.DataFrame:
        """Per replica: barriers, or with a single α the losses there; distances."""
        a = runs["A"]
        status = [
            "ok" if {*each} == {"ok"} else "diverged" for each in zip(*(r.status for r in runs.values()), strict=True)
        ]
        found = pd.DataFrame({"replica": range(len(status)), "status": status}).set_index("replica")
        if len(self.alphas) > 1:
            barriers = _barriers(tables["interpolation"], tables["endpoint"], [])
            barriers = barriers[(barriers["split"] == "test") & (barriers["definition"] == "entezari")]
            for (metric, *line), rows in barriers.groupby(["metric", "init", "method"], sort=False):
                init, method = line
                name = "barrier" if metric == "loss" else "error_barrier"
                found[f"{name}_{init}_{method}"] = rows.set_index("replica")["barrier"]
        else:
            test = tables["interpolation"].query("split == 'test'")
            for (init, method), rows in test.groupby(["init", "method"], sort=False):
                for metric in ("loss", _beside(a)):
                    found[f"test_{metric}_{init}_{method}"] = rows.set_index("replica")[metric]
        whole = tables["distance"].query("layer == 'model'")
        for init in INITS:
            found[f"distance_{init}"] = whole[whole["init"] == init].set_index("replica")["between"]
        return found.assign(parameters=a.info["parameters"]).reset_index()

    # Concluding

    def conclude(self, tables: Tables, swept: list[str]) -> Conclusion:
        """Tables `barrier` and `layer_barrier`, of all α of each replicate, whether of one job or of many."""
        by = [key for key in swept if key != "alpha"]
        found = {"barrier": _barriers(tables["interpolation"], tables["endpoint"], by)}
        if "layer" in tables:
            found["layer_barrier"] = _layer_barriers(tables["layer"], tables["endpoint"], by)
        return Conclusion(found, list(_sentences(found["barrier"], tables["alignment"], by)))

    # Drawing

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """`interpolation`: loss and accuracy along the line. `layers`: one layer at a time, and distances.

        Of more than 12 conditions the first 12.
        """
        from hw1 import figures

        tables, more = figures.shown(tables, "interpolation", _families_of(swept)[0], MOST_DRAWN)
        found = {"interpolation": _draw_curves(tables, swept, more)}
        if len(tables.get("layer_barrier", ())):
            found["layers"] = _draw_layers(tables, swept, more)
        return found


def _label(overrides: Overrides) -> str:
    return ", ".join(f"{key}={written(value)}" for key, value in overrides.items())


def _function(model: Mapping[str, Any]) -> Row:
    """What of a model's node decides the function that given weights are: dropout acts in training alone."""
    return {key: value for key, value in model.items() if key != "dropout"}


def _beside(run: "Run") -> str:
    """The metric beside the loss."""
    return "accuracy" if run.dataset.task == "classification" else "r2"


def _unknown(run: "Run") -> dict[str, Row]:
    return {split: dict.fromkeys(("loss", _beside(run)), np.nan) for split in SPLITS}


def _stored(run: "Run", replica: int) -> dict[str, Row]:
    """What training wrote down in the end."""
    if run.status[replica] != "ok":
        return _unknown(run)
    row = run.final.loc[replica]
    return {split: {name: row[f"{split}_{name}"] for name in ("loss", _beside(run))} for split in SPLITS}


# What follows from the tables


def _metrics(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(metric, column) of which there are barriers: the loss, and the error where there is an accuracy."""
    known = "accuracy" in table and (table["accuracy"].notna().any() or "r2" not in table)
    return [("loss", "loss"), *([("error", "accuracy")] if known else [])]


def _ends(rows: pd.DataFrame, endpoint: pd.DataFrame, by: Sequence[str]) -> list[pd.DataFrame]:
    """What is known of A, and of B, at each of the rows; an α sweep repeats it."""
    on = [*by, "replica", "init", "split"]
    once = endpoint.drop_duplicates([*on, "endpoint"])
    return [rows[on].merge(once[once["endpoint"] == name], how="left", on=on) for name in "AB"]


def _barriers(curves: pd.DataFrame, endpoint: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row per curve, metric and definition; none for a curve without an α strictly between 0 and 1."""
    identity = [*by, "replica", "init", "method", "split"]
    inside = curves[curves["alpha"].between(0, 1, inclusive="neither")]
    curve = inside.groupby(identity, sort=False, dropna=False).ngroup().to_numpy()
    ends, alpha = _ends(inside, endpoint, by), inside["alpha"].to_numpy()
    found = {}
    for metric, column in _metrics(curves):
        values, a, b = (rows[column].to_numpy(dtype=float) for rows in (inside, *ends))
        if metric == "error":
            values, a, b = 1 - values, 1 - a, 1 - b
        for definition, barriers in BARRIERS.items():
            found[metric, definition] = barriers(curve, alpha, values, a, b)
    table = inside[identity].drop_duplicates().reset_index(drop=True)
    parts = [
        table.assign(metric=metric, definition=definition, barrier=heights)
        for (metric, definition), heights in found.items()
    ]
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)


def _layer_barriers(layer: pd.DataFrame, endpoint: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Per layer l: max over α in [0, 1] of L(θ_A with layer l at α) − [(1−α)·L(θ_A) + α·L(θ_B)], on the test split."""
    identity = [*by, "replica", "init", "method", "layer"]
    curve = layer.groupby(identity, sort=False, dropna=False).ngroup().to_numpy()
    loss, alpha = layer["loss"].to_numpy(dtype=float), layer["alpha"].to_numpy()
    a, b = (rows["loss"].to_numpy(dtype=float) for rows in _ends(layer.assign(split="test"), endpoint, by))
    with np.errstate(invalid="ignore"):
        over = loss - ((1 - alpha) * a + alpha * b)
    heights = highest(curve, np.zeros(len(layer)), over)  # 0 at α = 0, whether listed or not
    return layer[identity].drop_duplicates().assign(layer_barrier=heights).reset_index(drop=True)


def _sentences(barrier: pd.DataFrame, alignment: pd.DataFrame, by: Sequence[str]) -> Iterator[str]:
    """Per condition and initialisation: the barrier in the test loss, naive and aligned."""
    chosen = barrier[
        (barrier["split"] == "test") & (barrier["metric"] == "loss") & (barrier["definition"] == "entezari")
    ]
    keys, within = conditions(by), replicate(by)
    groups = chosen.groupby(keys, sort=False, dropna=False) if keys else [((), chosen)]
    if len(groups) > MOST_SENTENCES:
        yield f"test-loss barriers of {len(groups)} conditions: see barrier.csv."
        return
    for values, rows in groups if len(chosen) else ():
        where = ", ".join(f"{key}={written(value)}" for key, value in zip(keys, values, strict=True))
        own = alignment[(alignment[keys] == list(values)).all(axis=1)] if keys else alignment
        table = rows.pivot(index=within, columns=["init", "method"], values="barrier")
        for init in INITS:
            start = f"test-loss barrier, {_start(init)}" + (f", {where}" * bool(where))
            naive = table[init, "naive"].to_numpy()
            if not np.isfinite(naive).any():
                yield f"{start}: no replica has a value, nothing can be concluded."
            elif (init, "aligned") in table:
                aligned = table[init, "aligned"].to_numpy()
                yield f"{start}: {_compared('naive', naive, 'aligned', aligned, 'aligned is')}."
            else:
                notes = own.loc[own["init"] == init, "note"].unique()
                yield f"{start}: naive {mean_interval(naive)}; aligned: {'; '.join(notes)}."
        both = [table[init, "naive"].to_numpy() for init in INITS]
        if all(np.isfinite(values).any() for values in both):
            said = _compared(_start("same"), both[0], _start("different"), both[1], "different initialisations are")
            yield f"test-loss barrier, naive{(', ' + where) * bool(where)}: {said}."


def _compared(first: str, a: np.ndarray, second: str, b: np.ndarray, verdict: str) -> str:
    """ "naive 1.2 [1.0, 1.4], aligned 0.4 [0.2, 0.6], paired difference −0.8 [−1.1, −0.5], n=3: aligned is lower"."""
    said = f"{first} {mean_interval(a).text()}, {second} {mean_interval(b).text()}"
    difference = paired_difference(a, b)
    if difference.n < 2:
        return f"{said}, n={difference.n}: no interval, nothing can be concluded"
    resolved = difference.excludes(0) and difference.high > difference.low
    verdict = f"{verdict} {'lower' if difference.mean < 0 else 'higher'}" if resolved else "not resolved"
    return f"{said}, paired difference {difference.text(signed=True)}, n={difference.n}: {verdict}"


# Figures


def _families_of(swept: Sequence[str]) -> tuple[list[str], list[str]]:
    """The keys that make families, and the columns that tell replicates apart; α is neither."""
    by = [key for key in swept if key != "alpha"]
    return conditions(by), replicate(by)


def _start(init: str) -> str:
    return {"same": "same initialisation", "different": "different initialisations"}[init]


def _draw_curves(tables: Tables, swept: list[str], more: str) -> "Figure":
    from hw1 import figures

    keys, _ = _families_of(swept)
    table, barrier = tables["interpolation"], tables["barrier"]
    count = len(table[keys].drop_duplicates()) if keys else 1
    metrics = [*_metrics(table), ("r2", "r2")][:2]
    figure, grid = figures.new_figure(2, 2, 12, 9.2 + 0.34 * count, sharex=True, sharey="row")
    for row, (metric, column) in zip(grid, metrics, strict=True):
        for axes, init in zip(row, INITS, strict=True):
            axes.axvspan(0, 1, color="#f2f2f2", zorder=0)
            heights = barrier.query(f"init == '{init}' and metric == '{metric}' and definition == 'entezari'")
            for family in figures.families(table[table["init"] == init], keys):
                own = heights[(heights[keys] == family.rows[keys].iloc[0]).all(axis=1)]
                for line in _lines(own, None if count == 1 else family):
                    _curve(axes, line, family.rows, column)
            _mark_ends(axes, tables["endpoint"], keys, init, column, count == 1)
            axes.set_ylabel({"loss": "loss (log axis)", "error": "accuracy", "r2": "R²"}[metric])
            axes.set_xlabel("α")
            axes.tick_params(labelbottom=True)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, ncols=2 if count == 1 else 1)
            if metric == "loss":
                figures.plain_log_axis(axes)
                axes.set_title(_start(init))
            elif metric == "error":
                axes.set_ylim(-0.02, 1.02)
    figures.titled(figure, *_curves_title(tables, keys, count == 1, more))
    return figure


@dataclass(frozen=True)
class _Line:
    """One of the lines of a panel: which rows, and how they look."""

    method: str
    split: str
    label: str
    colour: str
    dashes: str
    marker: str = ""


def _lines(heights: pd.DataFrame, family: "Family | None") -> list[_Line]:
    """Of one condition both methods on both splits; of one among several both on the test split, in its own colour."""
    from hw1 import figures

    def height(method: str, split: str) -> str:
        chosen = heights[(heights["method"] == method) & (heights["split"] == split)]
        return mean_interval(chosen["barrier"].to_numpy()).text() if len(chosen) else ""

    if family:
        found = [f"{method} {height(method, 'test')}" for method in METHODS if height(method, "test")]
        label = family.label + (": barrier " + ", ".join(found)) * bool(found)
        looks = [("naive", label, "-"), ("aligned", "", "--")]
        return [_Line(method, "test", label, family.colour, dash, family.marker) for method, label, dash in looks]
    return [
        _Line(method, split, f"{method}, {split}" + f": barrier {text}" * bool(text), figures.COLOURS[number], dash)
        for number, method in enumerate(METHODS)
        for split, dash in (("train", "-"), ("test", "--"))
        for text in [height(method, split)]
    ]


def _curve(axes: "Axes", line: _Line, rows: pd.DataFrame, column: str) -> None:
    """Means over replicates with a band."""
    points = rows[(rows["method"] == line.method) & (rows["split"] == line.split)].groupby("alpha")[column]
    if not len(points):
        return
    alphas = np.array(list(points.groups), dtype=float)
    found = [mean_interval(values.to_numpy(), quantity(f"{line.split}_{column}").scale) for _, values in points]
    width = {"naive": 2.6, "aligned": 1.4}[line.method]  # seen both, also where they are one
    marker = line.marker or ("." if len(alphas) <= 12 else "")
    axes.plot(alphas, [interval.mean for interval in found], color=line.colour, linestyle=line.dashes, linewidth=width,
              marker=marker, markersize=4, label=line.label or None)  # fmt: skip
    low, high = [interval.low for interval in found], [interval.high for interval in found]
    axes.fill_between(alphas, low, high, color=line.colour, alpha=0.07 if line.marker else 0.15, linewidth=0)


def _mark_ends(axes: "Axes", endpoint: pd.DataFrame, keys: list[str], init: str, metric: str, alone: bool) -> None:
    """The trained networks as dots at 0 and 1: full for training, hollow for test; their names below."""
    from hw1 import figures

    for family in figures.families(endpoint[endpoint["init"] == init], keys):
        for (name, split), rows in family.rows.groupby(["endpoint", "split"]):
            if alone or split == "test":
                fill = family.colour if not alone else "black" if split == "train" else "white"
                mean = mean_interval(rows[metric].to_numpy(), quantity(f"{split}_{metric}").scale).mean
                axes.plot(float(name == "B"), mean, "o", color="black", markerfacecolor=fill, markersize=5, zorder=3)
    low, high = axes.get_xlim()
    ticks = [half / 2 for half in range(math.ceil(low * 2), math.floor(high * 2) + 1)]
    if len(ticks) > 13:
        ticks = [place for place in ticks if place in (0, 1)]
    names = {0.0: "\nA", 1.0: "\nB"}
    for place, name in names.items():
        label = " or ".join(endpoint.loc[endpoint["endpoint"] == name[-1], "label"].unique())
        if len(label) <= 20 and low < -0.3 and high > 1.3 and high - low < 4:  # else it would leave the panel
            names[place] += f": {label}"
    axes.set_xticks(ticks, [f"{'−' * (place < 0)}{abs(place):g}{names.get(place, '')}" for place in ticks])


def _names_of_ends(tables: Tables) -> str:
    ends = tables["endpoint"].drop_duplicates(["endpoint", "label"])
    return ",  ".join(f"{end}: {shortened(' or '.join(rows['label']))}" for end, rows in ends.groupby("endpoint"))


def _curves_title(tables: Tables, keys: list[str], alone: bool, more: str) -> list[str]:
    from hw1 import figures

    test = tables["interpolation"].query("split == 'test'")
    n = figures.counted(test, [*keys, "alpha", "init", "method"], "loss")
    bands = (
        "one replica, no interval" if n == "n=1" else f"mean and pointwise 95 % t-interval over replicas (bands), {n}"
    )
    lines = "solid: training split, dashed: test split" if alone else "test split; solid: naive, dashed: aligned"
    notes = tables["alignment"]["note"].unique()
    missing = [note for note in notes if note not in ("available", "diverged")]
    aligned = "aligned: B's hidden units renamed to fit A's by weight matching (Ainsworth et al. 2023)"
    return [
        f"Between two trained networks (dots), θ_α = (1−α)·A + α·B; {_names_of_ends(tables)}",
        f"{lines}; {bands}{more}",
        f"aligned curve {'; '.join(missing)}" if missing else aligned,
        "barrier: max over 0 ≤ α ≤ 1 of L(θ_α) − [(1−α)·L(A) + α·L(B)] (Entezari et al. 2022), below of the error, "
        "mean [95 % t-interval]",
    ]


def _draw_layers(tables: Tables, swept: list[str], more: str) -> "Figure":
    from hw1 import figures

    keys, replicates = _families_of(swept)
    identity = [*keys, *replicates, "init", "layer"]
    barrier = tables["barrier"].query("split == 'test' and metric == 'loss' and definition == 'entezari'")
    whole = barrier.rename(columns={"barrier": "layer_barrier"}).assign(layer="all at once")
    stacked = pd.concat([tables["layer_barrier"], whole]).set_index([*identity, "method"])["layer_barrier"]
    heights: pd.DataFrame = stacked.unstack("method", sort=False).reset_index()
    distances = tables["distance"].drop_duplicates(identity).rename(columns={"between": "naive"})
    figure, grid = figures.new_figure(2, 2, 12, 8.6, sharey="row")
    for (upper, lower), init in zip(grid.T, INITS, strict=True):
        _dots(upper, figures.families(heights[heights["init"] == init], keys), "layer_barrier")
        upper.set_title(f"{_start(init)}: from A to B one layer at a time")
        _dots(lower, figures.families(distances[distances["init"] == init], keys), "distance_same")
        lower.set_title(f"{_start(init)}: distances")
        figures.plain_log_axis(lower)
    grid[0, 0].set_ylabel(textwrap.fill(quantity("layer_barrier").definition, 56), fontsize=8.5)
    grid[1, 0].set_ylabel("distance: naive ‖θ_A − θ_B‖,\naligned ‖θ_A − πθ_B‖ (log axis)", fontsize=8.5)
    figures.legend_below(figure, grid[1, 0])
    n = figures.counted(heights, [*keys, "init", "layer"], "naive")
    bars = "one replica, no interval" if n == "n=1" else f"mean and 95 % t-interval over replicas, each a dot, {n}"
    figures.titled(figure, f"Layer by layer between two trained networks; {_names_of_ends(tables)}", bars + more)
    return figure


def _dots(axes: "Axes", families: "Sequence[Family]", metric: str) -> None:
    """Each layer's mean and interval, one beside another for the families and, within each, the columns that it has."""
    from hw1 import figures
    from hw1.figures import Family

    rows = pd.concat([family.rows for family in families])
    layers = {layer: place for place, layer in enumerate(rows["layer"].unique())}
    columns = [column for column in KINDS if column in rows and rows[column].notna().any()]
    columns = [column for column in columns if not families[0].label or column in METHODS]  # else too many
    count = len(families) * len(columns)
    for number, (family, column) in enumerate(itertools.product(families, columns)):
        kind = list(KINDS).index(column)
        colour, marker = figures.COLOURS[kind], figures.MARKERS[kind]
        label = KINDS[column]
        if family.label:
            colour, marker, label = family.colour, "oX"[kind], f"{family.label}: {label}"
        one = Family(family.rows, label, colour, marker, (number + 0.5) / count - 0.5, 1 / count)
        figures.mean_dots(axes, one, "layer", column, metric, layers)
    figures.category_axis(axes, list(layers))
