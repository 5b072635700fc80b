"""Trainings ended after every single step, and gone on with in a new session: weights, buffers, history to the bit.

Each state goes through the store's file. The networks have dropout and batch norm, the rate follows a cosine with
warm-up, replicas are stacked or one after another, and one network draws from torch's global generator.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .harness import Row, Size, replaced

STEPS = 64


def check(size: Size, folder: Path) -> Row:
    """Every state of every case, and the controls on one of them."""
    row = Row("training ended after every step")
    cases = list(_cases(size.pick(STEPS, 9)))
    if size.quick:
        cases = [cases[0], cases[-1]]
    for name, fit in cases:
        whole, states = _recorded(fit, folder / "store")
        for number, state in enumerate(states):
            row.injected += 1
            if (problem := _difference(whole, _resumed(fit, folder / "store", state))) is None:
                row.survived += 1
            else:
                row.corrupt += 1
                row.problems.append(f"{name}, state {number}: {problem}")
    row.controls = dict(_controls(*cases[-1], folder / "store"))
    row.note = f"{len(cases)} trainings of {size.pick(STEPS, 9)} steps"
    return row


def _cases(steps: int) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Trainings by name, as functions of their keeper."""
    import torch
    from test_training import CNN, COSINE, IMAGE, MLP, OPTIMIZERS, VECTOR, classes, fit

    def own(input_shape: tuple[int, ...], outputs: int) -> Any:
        layers = [torch.nn.Linear(*input_shape, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.3)]
        return torch.nn.Sequential(*layers, torch.nn.Linear(6, outputs))

    plan = {"schedule": COSINE, "steps": steps, "collect_every": 2, "batch_size": 5}
    for rule in ("sgd", "adamw"):
        for vectorize in (True, False):
            settings = plan | {"replicas": 2, "vectorize": vectorize}
            words = f"mlp, {rule}, {'stacked' if vectorize else 'one after another'}"
            yield words, partial(fit, classes(VECTOR), MLP, OPTIMIZERS[rule], **settings)
        yield f"mlp, {rule}, side by side", partial(_side_by_side, fit, classes(VECTOR), MLP, OPTIMIZERS[rule], plan)
        yield f"cnn, {rule}", partial(fit, classes(IMAGE), CNN, OPTIMIZERS[rule], **plan)
        yield f"global generator, {rule}", partial(fit, classes(VECTOR), own, OPTIMIZERS[rule], **plan)


def _side_by_side(fit: Callable[..., Any], splits: Any, make: Any, optimizer: Any, plan: Any, **keys: Any) -> Any:
    from hw1 import training

    with replaced(training, SIDE_BY_SIDE_WORK=0):
        return fit(splits, make, optimizer, replicas=3, threads=2, **plan, **keys)


def _recorded(fit: Callable[..., Any], store: Path) -> tuple[Any, list[bytes]]:
    """A training from beginning to end, and the file of each of its states."""
    from hw1.laboratory import StateKeeper
    from hw1.store import Store

    states: list[bytes] = []

    class Recorder(StateKeeper):
        def due(self) -> bool:
            return True

        def keep(self, state: Any) -> None:
            super().keep(state)
            states.append((store / ".partial" / KEY).read_bytes())

    Store(store).drop_partial(KEY)
    return fit(keeper=Recorder(Store(store), KEY, None, _silent)), states


def _resumed(fit: Callable[..., Any], store: Path, state: bytes) -> Any:
    from hw1.laboratory import StateKeeper
    from hw1.store import Store

    (store / ".partial" / KEY).write_bytes(state)
    return fit(keeper=StateKeeper(Store(store), KEY, None, _silent))


def _difference(one: Any, other: Any) -> str | None:
    """What differs first between two trainings, to the bit."""
    from test_training import assert_same

    try:
        assert_same(one, other)
    except AssertionError as error:
        return " ".join(str(error).split())[:200]
    return None


def _controls(name: str, fit: Callable[..., Any], store: Path) -> Iterator[tuple[str, bool]]:
    """States that lack something must show."""
    from hw1 import session
    from hw1.watcher import Kept

    restore = session.Session.restore

    def without(part: str) -> Callable[..., None]:
        def lacking(one: Any, kept: Kept) -> None:
            if part == "buffers":
                names = [name for name, _ in one.learner.model.named_buffers()]
                fresh = {f"model/{name}": one.learner.tensors()[name].clone() for name in names}
                restore(one, Kept(dict(kept.tensors) | fresh, kept.notes))
                return
            tensors = {name: value for name, value in kept.tensors.items() if not name.startswith(part)}
            restore(one, Kept(tensors, kept.notes))

        return lacking

    whole, states = _recorded(fit, store)
    for part in ("generator/", "optimizer/", "buffers"):
        with replaced(session.Session, restore=without(part)):
            found = [_difference(whole, _resumed(fit, store, state)) for state in states[:-1]]
        yield f"without the {part.strip('/')}", any(found)


KEY = "0123456789abcdef" * 2


def _silent(words: str) -> None:
    pass
