"""Every kind of rule, and that whatever is wrong is said in one line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hw1 import parts, schema
from hw1.errors import UserError
from hw1.schema import Range, check_keys

CONF = Path(__file__).resolve().parent.parent / "conf"
Small = Annotated[int, Range(0, 10)]


@dataclass
class Inner:
    depth: int


@dataclass
class Node:
    whole: Annotated[int, Range(1, 5)]
    share: Annotated[float, Range(0, 1)]
    above: Annotated[float, Range(0, None, open_low=True)]
    free: float
    choice: Literal["a", "b"]
    odd: Literal[1, 3]
    switch: bool
    text: str
    either: Annotated[int, Range(1)] | Literal["auto"] | None
    many: list[Small]
    pair: tuple[Small, Small]
    device: Annotated[str, "device"]
    anything: Any
    inner: Inner


GOOD = {
    "whole": 1, "share": 0.5, "above": 1e-9, "free": -1.5, "choice": "a", "odd": 3, "switch": True, "text": "t",
    "either": None, "many": [0, 10], "pair": [1, 2], "device": "cpu", "anything": {"x": [None]}, "inner": {"depth": 2},
}  # fmt: skip
NAN, INF = float("nan"), float("inf")


def complaint(node, cls=Node):
    """What is wrong with a node, or None."""
    try:
        check_keys(node, cls)
    except UserError as error:
        return str(error)
    return None


def message(node, cls=Node, prefix=""):
    with pytest.raises(UserError) as caught:
        check_keys(node, cls, prefix)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("whole", [1, 5]), ("share", [0, 1, 0.0, 1.0, 1e-300]), ("above", [1e-300, 1e300, 7]), ("free", [0, -3, 1e308]),
        ("choice", ["a", "b"]), ("odd", [1, 3]), ("switch", [True, False]), ("text", ["x", " "]),
        ("either", [None, 1, 10**12, "auto"]), ("many", [[], [1], [0] * 100]), ("pair", [[0, 10]]),
        ("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"]), ("anything", [None, 1, [], {}, "x", NAN]),
    ],
)  # fmt: skip
def test_allowed_values(key, values):
    for value in values:
        check_keys(GOOD | {key: value}, Node)


@pytest.mark.parametrize(
    ("key", "values", "allowed"),
    [
        ("whole", [0, 6, 1.0, True, "1", None, [1]], "a whole number from 1 to 5"),
        ("share", [-1e-9, 1.0001, NAN, INF, -INF, "0.5", True, None], "a number from 0 to 1"),
        ("above", [0, 0.0, -0.0, -1, NAN, INF], "a number above 0"),
        ("free", ["", None, False, [], {}], "a number"),
        ("choice", ["A", "", "c", None, 1, True, ["a"]], "one of a, b"),
        ("odd", [2, 1.0, True, "1"], "one of 1, 3"),
        ("switch", [0, 1, "true", None], "true or false"),
        ("text", ["", "a\0b", 1, None, True], "a text"),
        ("either", [0, "Auto", "", 1.5, False], "a whole number of at least 1, or auto, or null"),
        ("many", [[11], [0, None], [1.5], 3, None, {}, "12", [True]], "a list, each of it a whole number from 0 to 10"),
        ("pair", [[], [1], [1, 2, 3], [1, 11], None], "a list of 2, each of it a whole number from 0 to 10"),
        ("device", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:٣", "cuda:0 ", "", 0, None],
         "auto, cpu, cuda, cuda:N or mps"),
        ("inner", [None, 3, [], "x"], "a group of keys"),
    ],
)  # fmt: skip
def test_refused_values(key, values, allowed):
    for value in values:
        text = message(GOOD | {key: value}, prefix="node.")
        assert text.startswith(f"node.{key}=")
        assert text.endswith(f": must be {allowed}")


def test_a_function_is_a_name_or_a_node():
    node = {"points": 10, "test_points": 10, "low": 0, "high": 1, "noise": 0, "frequency": 1, "seed": 0,
            "validation": 2, "split_seed": 0, "subset": None, "label_noise": 0}  # fmt: skip
    for target in ("damped", {"_target_": "mine.bump", "_partial_": True, "height": 3}, {"_target_": "mine.Bump"}):
        check_keys(node | {"target": target}, schema.Function)
    for target in ("sincc", None, 3, {}, {"height": 3}, ["sinc"]):
        text = message(node | {"target": target}, schema.Function, "dataset.")
        assert text.startswith("dataset.target=")
        assert "one of sinc, sign, sine, damped, or a function of your own (see dataset=own_function)" in text


def test_wrong_value_is_shown_as_it_is_written_in_a_config():
    assert message(GOOD | {"whole": None}).startswith("whole=null: ")
    assert message(GOOD | {"whole": True}).startswith("whole=true: ")
    assert message(GOOD | {"whole": "a\nb"}).startswith("whole=a b: ")
    assert len(message(GOOD | {"whole": "x" * 10_000})) < 200


def test_nested_keys_are_named_in_full():
    assert message(GOOD | {"inner": {"depth": "x"}}).startswith("inner.depth=x: must be a whole number")
    assert message(GOOD | {"inner": {"dept": 1}}) == "unknown key inner.dept; did you mean depth?"


def test_unknown_and_missing_keys():
    assert message(GOOD | {"chioce": 1}) == "unknown key chioce; did you mean choice?"
    assert "choose from: above, anything, choice" in message(GOOD | {"zzz": 1})
    assert message(GOOD | {"a\nb": 1}).startswith("unknown key a b")
    assert message(GOOD | {3: 1}).startswith("unknown key 3")
    without = {key: value for key, value in GOOD.items() if key != "share"}
    for node in (without, GOOD | {"share": "???"}):
        assert message(node, prefix="n.") == "n.share is missing; it must be a number from 0 to 1"
    check_keys(GOOD | {"_target_": "anything"}, Node)


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        (Range(0, 1), " from 0 to 1", [0, 0.5, 1], [-1, 2, NAN]),
        (Range(0, 1, open_low=True), " above 0 and at most 1", [1e-300, 1], [0, 2]),
        (Range(2), " of at least 2", [2, 1e300], [1.9, INF]),
        (Range(None, 3), " at most 3", [3, -1e300], [4, -INF]),
        (Range(), "", [0], [NAN, INF]),
    ],
)
def test_ranges(bounds, words, inside, outside):
    assert str(bounds) == words
    assert all(map(bounds.holds, inside))
    assert not any(map(bounds.holds, outside))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_anything_is_either_fine_or_one_line(data):
    cls = data.draw(st.sampled_from([Node, schema.Config, *schema.PARTS.values()]))
    names = list(cls.__dataclass_fields__)
    node = data.draw(
        st.fixed_dictionaries(dict.fromkeys(names, plain))
        | st.dictionaries(st.sampled_from([*names, "_target_"]) | st.text(), plain)
    )
    assert len((complaint(node, cls) or "").splitlines()) <= 1


@given(st.sampled_from(sorted(GOOD)), plain)
def test_one_wrong_value_is_the_one_that_is_named(key, value):
    assert (complaint(GOOD | {key: value}) or key).startswith((key, f"unknown key {key}"))


def test_every_listed_part_exists_and_takes_its_keys():
    for target, cls in schema.PARTS.items():
        assert callable(parts.find(target))
        names = {field for base in cls.__mro__ for field in getattr(base, "__annotations__", {})}
        assert names == set(cls.__dataclass_fields__)


def nodes():
    """Every node with a target of ours or torch's in conf/, by its file."""
    for file in sorted(CONF.glob("*/*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}  # comments alone
        node = content.get("model", content) if file.parent.name == "model" else content
        if node.get("_target_", "???") != "???":
            yield pytest.param(node, id=f"{file.parent.name}/{file.stem}")


@pytest.mark.parametrize("node", list(nodes()))
def test_conf_files_name_exactly_the_keys_of_their_schema(node):
    assert {*node} - {"_target_"} == set(schema.PARTS[node["_target_"]].__dataclass_fields__)


def test_nearest():
    assert schema.nearest("adma", ["adam", "sgd"]) == "; did you mean adam?"
    assert schema.nearest("lr", ["optimizer.lr", "seed"]) == "; did you mean optimizer.lr?"
    assert schema.nearest("zzz", ["a", "b"]) == "; choose from: a, b"
    assert schema.nearest("zzz", [f"name{i}" for i in range(100)]) == ""
