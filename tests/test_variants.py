"""The runs that an experiment asks for: a config varied by overrides of any key, or by the option of a group."""

import pytest

from hw1 import compose, parts
from hw1.errors import UserError
from hw1.experiments import Experiment
from hw1.job import variants
from hw1.recipe import Recipe


def varied(words: list[str], overrides: dict) -> dict:
    """The config that `words` and then `overrides` give."""

    class Asking(Experiment):
        def recipes(self, base):
            return {"only": overrides}

        def measure(self, runs): ...

        def draw(self, tables, swept): ...

    with compose.open_composer(None) as composer:
        point = composer.point(words)
        ((name, config),) = variants(point.config, Asking(), Recipe.from_config(point.resolved, "cpu"), words)
    assert name == "only"
    return config


def typed(*words: str) -> dict:
    with compose.open_composer(None) as composer:
        return composer.point(list(words)).resolved


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, []),
        ({"batch_size": 32}, ["batch_size=32"]),
        ({"optimizer.lr": 0.5}, ["optimizer.lr=0.5"]),
        ({"optimizer": {"lr": 0.5}, "epochs": 2}, ["optimizer.lr=0.5", "epochs=2"]),
        ({"seed": 3}, ["seed=3"]),
        ({"steps": 7}, ["steps=7"]),
        ({"depth": 3}, ["depth=3"]),  # reaches the model through ${depth}
        ({"optimizer.betas": [0.5, 0.9]}, ["optimizer.betas=[0.5,0.9]"]),
        ({"optimizer": "sgd"}, ["optimizer=sgd"]),
        ({"optimizer": "sgd", "optimizer.lr": 0.5}, ["optimizer=sgd", "optimizer.lr=0.5"]),
        ({"model": "lenet5", "batch_size": 16}, ["model=lenet5", "batch_size=16"]),
    ],
)
@pytest.mark.parametrize(
    "base", [["experiment=sensitivity"], ["experiment=sensitivity", "model=mlp", "optimizer=adamw"]]
)
def test_a_variant_is_what_typing_it_last_gives(base, overrides, words):
    assert varied(base, overrides) == typed(*base, *words)


def test_epochs_go_before_the_steps_of_the_config():
    config = varied(["steps=5"], {"epochs": 3})
    assert (config["epochs"], config["steps"]) == (3, None)


def test_the_experiments_own_values_survive_a_change_of_option():
    config = varied(["experiment=interpolation", "epochs=2"], {"optimizer": "sgd"})
    assert config["epochs"] == 2
    assert config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert parts.build(config["experiment"]).layers is True


@pytest.mark.parametrize("key", ["batchsize", "optimizer.rate", "nothing.there"])
def test_an_unknown_key_is_refused(key):
    with pytest.raises(UserError, match=f"unknown key {key}"):
        varied([], {key: 1})
