"""How well do networks classify, which examples do they get wrong, and does a change of network help?

Test accuracy over replicas, beside published errors where there are some; the confusion matrix; and the test examples
that replicas get wrong most confidently. In a sweep every condition is compared with the first, replica by replica.
What it cannot say: intervals are over trainings, on one test set, so how accurate these networks are on other images is
less certain than they look; and a condition that is best of many on the test split is so partly by luck.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from hw1.data import Dataset
from hw1.errors import UserError, one_line, written
from hw1.experiments import Conclusion, Experiment, Tables, conditions, replicate, summary
from hw1.quantities import quantity
from hw1.recipe import Recipe
from hw1.schema import Range
from hw1.statistics import Interval, mean_interval, paired_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hw1.figures import Family
    from hw1.laboratory import Run

# Test errors on MNIST in LeCun's table (LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; no
# distortions, no preprocessing): architecture as a run records it → its name there, and the error. The LeNet-5 of the
# table is the original; see hw1.models.lenet5 for what differs.
PUBLISHED = {
    "linear 784-10": ("linear classifier", 0.120),
    "mlp 784-300-100-10": ("300-100", 0.0305),
    "mlp 784-800-10": ("800 units, cross-entropy", 0.016),
    "conv 1-6-16, dense 400-120-84-10": ("LeNet-5", 0.0095),
}
DIFFERENCES = ("test_accuracy", "generalisation_gap")
MOST_SENTENCES = 8
MOST_PANELS = 6
WRITTEN_CLASSES = 12  # matrices of more classes are coloured only


@dataclass(frozen=True)
class Classification(Experiment):
    """Accuracy of trained classifiers, and where they err."""

    pictures: Annotated[int, Range(1, 1000)]  # test examples listed, and shown where they are images

    headline: ClassVar[str] = "test_accuracy"
    question: ClassVar[str] = "How well does a network classify, and which examples does it get wrong?"

    def check(self, dataset: Dataset, recipes: Mapping[str, Recipe]) -> None:
        """Needs classes."""
        if dataset.task != "classification":
            raise UserError("experiment=classification: needs a data set of classes, such as mnist or digits")

    # Measuring

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tables `confusion`, `wrong`, `history` and `summary`; `picture`, `classes` and `published` where they apply.

        confusion: test examples of each label that a replica took for each class; empty for a diverged replica.
        wrong: the `pictures` most confidently wrong test examples (`most_confidently_wrong`), what each replica says of
            them (predicted class, confidence = softmax probability of it), and their rank.
        picture: of these, the image as text (`encode_picture`).
        """
        import torch

        from hw1.measures import classification as measures

        run = runs["trained"]
        labels, classes = run.splits.targets["test"].cpu(), run.dataset.outputs
        said = {replica: self._of_replica(run, replica) for replica, state in enumerate(run.status) if state == "ok"}
        counts = {replica: measures.confusion(labels, found, classes) for replica, (found, _) in said.items()}
        tables = {
            "summary": summary(run),
            "history": run.history,
            "confusion": pd.concat([_cells(r, classes, counts.get(r)) for r in range(run.recipe.replicas)]),
        }
        wrong = labels[:0]
        if said:
            predicted, confidence = (torch.stack(list(parts)) for parts in zip(*said.values(), strict=True))
            wrong = measures.most_confidently_wrong(labels, predicted, confidence, self.pictures)
        tables["wrong"] = _said_of(wrong.numpy(), labels.numpy(), said)
        tables |= _pictures(run.dataset, wrong.numpy())
        if run.dataset.classes is not None:
            tables["classes"] = pd.DataFrame({"label": range(classes), "name": run.dataset.classes})
        return tables | _published(run)

    @staticmethod
    def _of_replica(run: "Run", replica: int) -> "tuple[Any, Any]":
        # Here, so that drawing needs no torch.
        from hw1.measures.classification import predict

        # The slices of the evaluation, so that the matrix sums to the accuracy of the history bit for bit.
        network = run.network(replica)
        return predict(network, run.splits.slices("test"))

    # Concluding

    def conclude(self, tables: Tables, swept: list[str]) -> Conclusion:
        """Tables `published`, test error beside LeCun's, and `paired_differences`, each condition against the first."""
        keys = conditions(swept)
        own: Tables = {}
        sentences: list[str] = []
        if "published" in tables:
            own["published"] = _beside_published(tables["published"], tables["summary"], keys)
            sentences += _published_sentences(own["published"], keys)
        if keys and len(tables["summary"][keys].drop_duplicates()) > 1:
            own["paired_differences"] = paired_differences(tables["summary"], keys, replicate(swept))
            sentences += _choice(tables["summary"], keys)
        if not keys:
            sentences += _confusions(tables)
        return Conclusion(own, sentences)

    # Drawing

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """`learning_curves`, `confusion`, `wrong_images` where there are some, and for a sweep `conditions`.

        Of more than 24 conditions the first 24, of matrices and images the first 6.
        """
        keys = conditions(swept)
        drawn = {
            "learning_curves": _draw_history(tables, keys, replicate(swept)),
            "confusion": _draw_confusion(tables, keys, replicate(swept)),
        }
        if len(tables.get("picture", ())):
            drawn["wrong_images"] = _draw_wrong(tables, keys, replicate(swept))
        if "paired_differences" in tables:
            drawn["conditions"] = _draw_conditions(tables, keys)
        return drawn


# Tables


def _cells(replica: int, classes: int, counts: Any) -> pd.DataFrame:
    label, predicted = np.divmod(np.arange(classes**2), classes)
    values = [pd.NA] * classes**2 if counts is None else counts.flatten().tolist()
    columns = {"replica": replica, "label": label, "predicted": predicted, "count": pd.array(values, dtype="Int64")}
    return pd.DataFrame(columns)


def _said_of(examples: np.ndarray, labels: np.ndarray, said: Mapping[int, "tuple[Any, Any]"]) -> pd.DataFrame:
    """What replicas say of some examples, a row per example and replica."""
    place = {"rank": np.arange(1, len(examples) + 1), "example": examples, "label": labels[examples]}
    rows = [
        pd.DataFrame({"replica": r} | place | {"predicted": predicted[examples], "confidence": p[examples].double()})
        for r, (predicted, p) in said.items()
    ]
    empty = pd.DataFrame(columns=["replica", *place, "predicted", "confidence"])
    return pd.concat(rows).sort_values(["rank", "replica"], ignore_index=True) if rows else empty


def _pictures(dataset: Dataset, examples: np.ndarray) -> Tables:
    if len(dataset.input_shape) != 3:
        return {}
    images = dataset.inputs["test"]
    low, high = float(images.min()), float(images.max())
    texts = [encode_picture((images[i].astype(np.float64) - low) / ((high - low) or 1)) for i in examples]
    return {"picture": pd.DataFrame({"example": examples, "pixels": texts})}


def encode_picture(image: np.ndarray) -> str:
    """An image (C, H, W) of brightnesses in [0, 1] as text, "28x28:" or "3x32x32:" and two hexadecimal digits a byte.

    Three channels are red, green and blue; any other number of them is averaged into one. `decode_picture` reads it.
    """
    if len(image) != 3:
        image = image.mean(axis=0)
    shape = "x".join(map(str, image.shape))
    return f"{shape}:{np.rint(255 * image).astype(np.uint8).tobytes().hex()}"


def decode_picture(text: str) -> np.ndarray:
    """Bytes (H, W), or (H, W, 3) in colour, of what `encode_picture` wrote."""
    shape, _, digits = text.partition(":")
    image = np.frombuffer(bytes.fromhex(digits), dtype=np.uint8).reshape([int(side) for side in shape.split("x")])
    return image if image.ndim == 2 else np.moveaxis(image, 0, -1)


def _published(run: "Run") -> Tables:
    """The row of LeCun's table for a run's architecture, if it is on MNIST as published."""
    node, (shape, _, _) = run.recipe.dataset, run.info["architecture"].rpartition(", ")
    whole = node["_target_"] == "hw1.sources.mnist" and not node["label_noise"] and node["subset"] is None
    if not whole or shape not in PUBLISHED:
        return {}
    name, error = PUBLISHED[shape]
    return {"published": pd.DataFrame({"architecture": [shape], "published_as": [name], "published_error": [error]})}


def _beside_published(rows: pd.DataFrame, per_replica: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The published rows, one per condition, with our test error: mean, low, high, n and what follows."""
    rows = rows[[*keys, "architecture", "published_as", "published_error"]].drop_duplicates(keys or "architecture")
    found = []
    for _, row in rows.iterrows():
        mine = per_replica[(per_replica[keys] == row[keys]).all(axis=1)]
        error = _error(mine["test_accuracy"])
        found.append([error.mean, error.low, error.high, error.n, _verdict(error, row["published_error"])])
    columns = ["test_error", "test_error_low", "test_error_high", "n", "verdict"]
    return pd.concat([rows.reset_index(drop=True), pd.DataFrame(found, columns=columns)], axis=1)


def _error(accuracies: pd.Series) -> Interval:
    """Mean and interval of 1 − accuracy."""
    accuracy = mean_interval(accuracies.to_numpy(), "logit")
    return Interval(1 - accuracy.mean, 1 - accuracy.high, 1 - accuracy.low, accuracy.n)


def _verdict(interval: Interval, value: float) -> str:
    """Whether a mean lies below or above a value, as far as its interval resolves it."""
    if not interval.excludes(value) or interval.low == interval.high:  # or there is no spread to judge it by
        return "not resolved"
    return "lower" if interval.mean < value else "higher"


def paired_differences(per_replica: pd.DataFrame, keys: list[str], one: list[str]) -> pd.DataFrame:
    """Mean of (condition − first condition) over the replicas that both have, by metric, with t intervals.

    The intervals are simultaneous over a metric's comparisons (Bonferroni, level 1 − 0.05/m). The first condition is
    the first of which a replica has a value.

    Args: per_replica: a row per condition (`keys`) and replicate (`one`).
    """
    rows = []
    for metric in (name for name in DIFFERENCES if name in per_replica):
        alive = per_replica[per_replica[metric].notna()]
        groups = [
            (values, group.drop_duplicates(one).set_index(one)[metric])
            for values, group in alive.groupby(keys, sort=False, dropna=False)
        ]
        for values, other in groups[1:]:
            first = groups[0][1].reindex(other.index)
            interval = paired_difference(first, other, level=1 - 0.05 / (len(groups) - 1))
            numbers = [interval.mean, interval.low, interval.high, interval.n, _verdict(interval, 0.0)]
            rows.append([*values, metric, *numbers])
    return pd.DataFrame(rows, columns=[*keys, "metric", "difference", "low", "high", "n", "verdict"])


# Sentences


def _percent(error: Interval) -> str:
    scaled = Interval(100 * error.mean, 100 * error.low, 100 * error.high, error.n)
    return f"{scaled.text()} %, n={error.n}"


def _named(values: Mapping[Any, Any], keys: Sequence[str]) -> str:
    return one_line(", ".join(f"{key}={written(values[key])}" for key in keys))


def _published_sentences(rows: pd.DataFrame, keys: list[str]) -> list[str]:
    said = []
    for row in rows.to_dict("records"):
        error = Interval(row["test_error"], row["test_error_low"], row["test_error_high"], row["n"])
        theirs = f"LeCun's table has {100 * row['published_error']:.3g} % for {row['published_as']}"
        where = f"{_named(row, keys)}: " if keys else ""
        said.append(f"{where}test error {_percent(error)}; {theirs}: {row['verdict']}.")
    more = [f"… and {len(said) - MOST_SENTENCES} more, see published.csv"] if len(said) > MOST_SENTENCES else []
    return said[:MOST_SENTENCES] + more


def _choice(per_replica: pd.DataFrame, keys: list[str]) -> list[str]:
    """What a person who may look at the test split only once would report."""
    means = per_replica.groupby(keys, sort=False, dropna=False)["validation_accuracy"].mean()
    if means.isna().all():
        return []
    best = means.idxmax()
    values = dict(zip(keys, best if isinstance(best, tuple) else [best], strict=True))
    chosen = per_replica[(per_replica[keys] == pd.Series(values)).all(axis=1)]
    validation = mean_interval(chosen["validation_accuracy"].to_numpy(), "logit")
    return [
        f"Highest validation accuracy: {_named(values, keys)} ({validation.text()}); "
        f"its test error {_percent(_error(chosen['test_accuracy']))}."
    ]


def _confusions(tables: Tables) -> list[str]:
    """The three most frequent confusions, in examples per replica."""
    table = tables["confusion"]
    wrong = table[table["label"] != table["predicted"]]
    names = _names(tables, table)
    means = wrong.groupby(["label", "predicted"], as_index=False)["count"].mean()
    often = means[means["count"] > 0].sort_values("count", ascending=False, kind="stable").head(3)
    listed = ", ".join(
        f"{names[label]} as {names[predicted]} ({_count(mean)})"
        for label, predicted, mean in often.itertuples(index=False)
    )
    return [f"Most frequent confusions, in test examples per replica: {listed}."] if listed else []


def _count(mean: float) -> str:
    """A mean number of examples: whole, or with one decimal."""
    return f"{mean:.1f}".removesuffix(".0")


def _names(tables: Tables, confusion: pd.DataFrame) -> dict[int, str]:
    """Class number → its name, which is the number where the data set has no names."""
    classes = tables.get("classes")
    if classes is None:
        return {label: str(label) for label in confusion["label"].unique()}
    return {int(label): str(name) for label, name in zip(classes["label"], classes["name"], strict=True)}


# Figures


def _draw_history(tables: Tables, keys: list[str], one: list[str]) -> "Figure":
    """Loss and error by epoch, log axes: training solid, validation dashed; each replica thin and their mean thick."""
    from hw1 import figures

    tables, more = figures.shown(tables, "history", keys)
    history = tables["history"]
    figure, grid = figures.new_figure(1, 2, 11, 4.9)
    families = figures.families(history, keys)
    crowded = len(families) > 4
    for axes, kind in zip(grid[0], ("loss", "error"), strict=True):
        for family in families:
            for split, style in (("train", "-"), ("validation", "--")):
                label = (family.label or None) if keys and split == "train" else split if not keys else None
                values = _of_kind(family.rows, split, kind)
                _draw_curve(axes, family, values, style, label, [] if crowded else one)
        figures.plain_log_axis(axes)
        axes.set(xlabel="epoch", title=kind)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss, error = grid[0]
    loss.set_ylabel(
        "mean over examples of the training loss\n(cross-entropy in nats, or as chosen; log axis)", fontsize=9
    )
    error.set_ylabel("share of examples classified wrong, 1 − accuracy\n(log axis; none at 0)", fontsize=9)
    figures.legend_below(figure, loss)
    drawn = "mean over replicas" if crowded else "thin: each replica, thick: their mean"
    n = figures.counted(
        history.drop_duplicates([*keys, *one], keep="last").assign(all=0), keys or ["all"], "train_loss"
    )
    figures.titled(
        figure,
        f"Learning curves, solid: training split, dashed: validation split; {drawn}, {n}{more}",
        "both splits measured at the end of an epoch, without dropout",
    )
    return figure


def _of_kind(rows: pd.DataFrame, split: str, kind: str) -> pd.Series:
    values = rows[f"{split}_loss"] if kind == "loss" else 1 - rows[f"{split}_accuracy"]
    return values.where(values > 0)  # log axes


def _draw_curve(
    axes: "Axes", family: "Family", values: pd.Series, style: str, label: str | None, one: list[str]
) -> None:
    rows = family.rows.assign(drawn=values)
    for _, replica in rows.groupby(one) if one else []:
        axes.plot(replica["epoch"], replica["drawn"], style, color=family.colour, linewidth=0.6, alpha=0.4)
    mean = rows.groupby("epoch")["drawn"].mean()
    marker = family.marker if len(mean) == 1 else ""
    axes.plot(mean.index, mean, style, color=family.colour, linewidth=1.8, label=label, marker=marker, markersize=4)


def _draw_confusion(tables: Tables, keys: list[str], one: list[str]) -> "Figure":
    """A matrix for each condition, up to six: mean counts over replicas, errors coloured; recall at the side of one."""
    from hw1 import figures

    tables, more = figures.shown(tables, "confusion", keys, MOST_PANELS)
    shown = figures.families(tables["confusion"], keys)
    if len(shown) == 1:
        figure, grid = figures.new_figure(1, 2, 11, 6.6, sharey=True, width_ratios=[2.4, 1])
        _draw_recall(grid[0, 1], shown[0], one)
        panels = [grid[0, 0]]
    else:
        columns = min(3, len(shown))
        rows = -(-len(shown) // columns)
        figure, grid = figures.new_figure(rows, columns, 4.9 * columns, 4.7 * rows + 0.9)
        panels = list(grid.flat)
    matrices = [_mean_counts(family.rows) for family in shown]
    top = max(float(np.nanmax(_errors(matrix), initial=0)) for matrix in matrices) or 1.0
    for axes, family, matrix in zip(panels, shown, matrices, strict=False):
        _draw_matrix(axes, matrix, _names(_of_family(tables, keys, family), family.rows), top)
        axes.set_title(_broken(family.label, 40), fontsize=10)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    n = figures.counted(tables["confusion"].drop_duplicates([*keys, *one]), [*keys, "label"], "count")
    figures.titled(
        figure,
        f"Confusion matrix: test examples of a class (row) taken for a class (column), mean over replicas, {n}{more}",
        "errors coloured by their number; on the diagonal, grey, those classified right",
    )
    return figure


def _mean_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Label × predicted class, mean over replicas that did not diverge."""
    return rows.astype({"count": float}).groupby(["label", "predicted"])["count"].mean().unstack()


def _errors(matrix: pd.DataFrame) -> np.ndarray:
    """The counts off the diagonal; NaN on it and where there is none."""
    values = matrix.to_numpy()
    return np.where(np.eye(len(values), dtype=bool) | (values == 0), np.nan, values)


def _broken(label: str, width: int) -> str:
    """A condition's label with one key a line, long ones broken."""
    return "\n".join(textwrap.fill(part, width) for part in label.split(", "))


def _of_family(tables: Tables, keys: list[str], family: "Family") -> Tables:
    """The tables' rows of one condition; a table that does not know it is left out."""
    values = family.rows[keys].iloc[0]
    same = {name: (table[keys] == values).all(axis=1) for name, table in tables.items() if set(keys) <= set(table)}
    return {name: tables[name][rows] for name, rows in same.items() if rows.any()}


def _draw_matrix(axes: "Axes", matrix: pd.DataFrame, names: Mapping[int, str], top: float) -> None:
    axes.imshow(_errors(matrix), cmap="Oranges", vmin=-0.1 * top, vmax=1.15 * top, aspect="auto")
    axes.set(xlabel="predicted class", ylabel="true class (label)")
    axes.grid(False)
    if len(matrix) > WRITTEN_CLASSES:
        return
    values = matrix.to_numpy()
    for (row, column), value in np.ndenumerate(values):
        if value > 0:
            colour = "#888888" if row == column else "white" if value > 0.7 * top else "black"
            words = f"{value:.0f}" if value >= 99.95 else _count(value)
            axes.text(column, row, words, ha="center", va="center", fontsize=8.5, color=colour)
    labels = [names[label] for label in range(len(matrix))]
    axes.set_xticks(range(len(matrix)), labels)
    axes.set_yticks(range(len(matrix)), labels)
    axes.hlines(np.arange(len(matrix) - 1) + 0.5, -0.5, len(matrix) - 0.5, color="#eeeeee", linewidth=0.6)
    axes.vlines(np.arange(len(matrix) - 1) + 0.5, -0.5, len(matrix) - 0.5, color="#eeeeee", linewidth=0.6)
    if max(map(len, labels)) > 3:
        axes.tick_params(axis="x", labelrotation=45)


def _draw_recall(axes: "Axes", family: "Family", one: list[str]) -> None:
    """Share of each class that was recognised, mean and interval over replicas, beside the rows of the matrix."""
    counts = family.rows.astype({"count": float})
    right = counts[counts["label"] == counts["predicted"]].set_index([*one, "label"])["count"]
    recall = (right / counts.groupby([*one, "label"])["count"].sum(min_count=1)).unstack()
    for label in recall:
        values, place = recall[label].to_numpy(), int(str(label))
        axes.plot(100 * values, np.full(len(values), place + 0.2), ".", color=family.colour, alpha=0.4)
        _draw_interval(axes, mean_interval(values, "logit"), place, family.colour, family.marker)
    axes.set_xlim(right=100 + 0.03 * (100 - axes.get_xlim()[0]))
    axes.tick_params(axis="y", labelleft=False)
    axes.set_xlabel(textwrap.fill(f"recall (%): {quantity('recall').definition}", 44), fontsize=9)
    axes.set_title("recall, 95 % t-interval over replicas", fontsize=10)


def _draw_interval(axes: "Axes", interval: Interval, y: float, colour: str, marker: str) -> None:
    """A mean with its interval, in %, across; one replica has none."""
    ends = np.nan_to_num([[interval.mean - interval.low], [interval.high - interval.mean]])
    axes.errorbar(
        [100 * interval.mean], [y], xerr=100 * ends, color=colour, marker=marker, markersize=5, capsize=3, linewidth=1.5
    )


def _draw_wrong(tables: Tables, keys: list[str], one: list[str]) -> "Figure":
    """The most confidently wrong images: a page of them for a job, a row for each condition of a sweep, up to six."""
    from hw1 import figures

    tables, more = figures.shown(tables, "picture", keys, MOST_PANELS)
    shown = figures.families(tables["picture"], keys)
    pages = [_captioned(_of_family(tables, keys, family) if keys else tables, one) for family in shown]
    labels = [_broken(family.label, 30) for family in shown] if len(shown) > 1 else []
    columns = 6 if labels or len(pages[0]) <= 24 else 10
    page = pages[0]
    rows = (
        [page[:columns] for page in pages] if labels else [page[i : i + columns] for i in range(0, len(page), columns)]
    )
    figure, grid = figures.new_figure(1, 1, 1.6 * columns + 2.3 * bool(labels), 1.95 * len(rows) + 0.9)
    _draw_pictures(grid[0, 0], rows, columns, labels)
    n = figures.counted(tables["wrong"].drop_duplicates([*keys, *one]).assign(all=0), keys or ["all"], "replica")
    figures.titled(
        figure,
        f"Most confidently wrong test images, by the mean over replicas of 1[wrong]·confidence, {n}{more}",
        f"label → predicted class; mean confidence ({quantity('confidence').definition}) of the replicas that err, "
        "how many err",
    )
    return figure


def _draw_pictures(
    axes: "Axes", rows: "Sequence[Sequence[tuple[np.ndarray, str]]]", columns: int, labels: Sequence[str]
) -> None:
    """Rows of images with words above them, in one panel: one for each would cost more than all else of the figure."""
    width, height = 1.08, 1.32  # of a place, in sides of an image
    for row, column in np.ndindex(len(rows), columns):
        if column < len(rows[row]):
            image, words = rows[row][column]
            left, bottom = column * width, (row + 1) * height
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=255, extent=(left, left + 1, bottom, bottom - 1))
            axes.text(left + 0.5, bottom - 1.04, words, fontsize=9, ha="center", va="bottom")
    for row, label in enumerate(labels):
        axes.text(-0.1, (row + 1) * height - 0.5, label, fontsize=9, ha="right", va="center")
    axes.set(xlim=(-1.55 if labels else 0, columns * width), ylim=(len(rows) * height, 0))
    axes.set_axis_off()


def _captioned(tables: Tables, one: list[str]) -> list[tuple[np.ndarray, str]]:
    """Images of one condition with the words above them, most confidently wrong first."""
    wrong = tables["wrong"].assign(errs=lambda rows: rows["predicted"] != rows["label"])
    names = _names(tables, pd.DataFrame({"label": pd.concat([wrong["label"], wrong["predicted"]])}))
    pictures = tables["picture"].drop_duplicates("example").set_index("example")["pixels"]
    score = (wrong["confidence"] * wrong["errs"]).groupby(wrong["example"]).sum()
    found = []
    for example in score.sort_values(ascending=False, kind="stable").index:
        rows = wrong[wrong["example"] == example].drop_duplicates(one)
        erring = rows[rows["errs"]]
        arrow = f"{names[rows['label'].iloc[0]]} → {names[erring['predicted'].mode().iloc[0]]}"
        words = f"{arrow}\n{erring['confidence'].mean():.2f}, {len(erring)} of {len(rows)}"
        found.append((decode_picture(pictures[example]), words))
    return found


def _draw_conditions(tables: Tables, keys: list[str]) -> "Figure":
    """Test error of each condition beside published ones, and its paired difference to the first condition."""
    from hw1 import figures

    tables, more = figures.shown(tables, "summary", keys)
    families = figures.families(tables["summary"], keys)
    places = {family.label: float(place) for place, family in enumerate(families)}
    figure, grid = figures.new_figure(1, 2, 11, max(3.4, (0.3 + 0.18 * len(keys)) * len(families) + 2), sharey=True)
    left, right = grid[0]
    for family in families:
        accuracy, place = family.rows["test_accuracy"], places[family.label]
        left.plot(100 * (1 - accuracy), np.full(len(accuracy), place + 0.2), ".", color=family.colour, alpha=0.4)
        _draw_interval(left, _error(accuracy), place, family.colour, family.marker)
    if "published" in tables:
        for family in figures.families(tables["published"], keys):
            error = 100 * family.rows["published_error"]
            left.plot(error, np.full(len(error), places[family.label]), "D", color="black", fillstyle="none")
    _draw_differences(right, tables["paired_differences"], keys, places)
    left.set_yticks(list(places.values()), [_broken(label, 34) for label in places], fontsize=9)
    left.set_ylim(len(families) - 0.5, -0.5)
    values = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in left.get_lines()])
    if np.nanmin(values, initial=np.inf) > 0 and np.nanmax(values, initial=0) > 4 * np.nanmin(values):
        figures.plain_log_x_axis(left)
    log = ", log axis" if left.get_xscale() == "log" else ""
    left.set_xlabel(textwrap.fill(f"test error (%{log}): {quantity('test_error').definition}", 60), fontsize=9)
    left.set_title("test error, 95 % t-interval" + ("; diamond: LeCun's table" if "published" in tables else ""))
    n = figures.counted(tables["summary"], keys, "test_accuracy")
    figures.titled(figure, f"Conditions beside one another, {n}{more}")
    return figure


def _draw_differences(axes: "Axes", table: pd.DataFrame, keys: list[str], places: Mapping[str, float]) -> None:
    """Differences in test error with their simultaneous intervals; what is not resolved is grey."""
    from hw1 import figures

    families = figures.families(table[table["metric"] == "test_accuracy"], keys) if len(table) else []
    for family in families:
        (row,) = family.rows.to_dict("records")
        found = Interval(-row["difference"], -row["high"], -row["low"], row["n"])  # of 1 − accuracy
        colour = "#999999" if row["verdict"] == "not resolved" else "black"
        _draw_interval(axes, found, places[family.label], colour, "o")
    first = next(iter(set(places) - {family.label for family in families}), None)
    if first is not None:
        axes.text(0, places[first], " the first", va="center", fontsize=9)
    axes.axvline(0, color="black", linewidth=0.8)
    over = f"95 % intervals simultaneous over {len(families)}" if len(families) > 1 else "95 % interval"
    axes.set_xlabel(f"test error − that of the first condition (points);\npaired by replica, {over}", fontsize=9)
    axes.set_title("difference, grey: not resolved; left: fewer errors")
