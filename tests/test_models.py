"""The networks: sizes, shapes, errors, initialisation; dropout masks; stacked replicas against separate ones."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hw1 import models
from hw1.errors import UserError

MNIST = {"input_shape": (1, 28, 28), "outputs": 10}
PLAIN = {"activation": "relu", "dropout": 0.0, "batch_norm": False}
MLP = partial(models.mlp, depth=1, width=128, **PLAIN)
CNN = partial(models.cnn, depth=2, width=8, hidden=64, kernel=3, **PLAIN)
BUILDERS = {"linear": models.linear, "mlp": MLP, "cnn": CNN, "lenet5": models.lenet5}
CONF = Path(__file__).parent.parent / "conf" / "model"


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (models.linear, 7_850),
        (MLP, 101_770),
        (partial(MLP, widths=[300, 100]), 266_610),
        (partial(MLP, depth=3, width=512), 932_362),
        (CNN, 52_138),
        (models.lenet5, 61_706),
        (partial(MLP, width=1, budget=101_770), 101_770),
        (partial(MLP, batch_norm=True), 101_770 + 2 * 128),
    ],
)
def test_parameter_counts_on_mnist(make, parameters):
    assert models.parameter_count(make(**MNIST)) == parameters


@pytest.mark.parametrize(("sizes", "count"), [([5, 10, 10, 10, 10, 10, 5], 571), ([10, 18, 15, 4], 572), ([190], 571)])
def test_parameter_counts_of_the_classic_trio(sizes, count):
    assert models.parameter_count(MLP(input_shape=(1,), outputs=1, widths=sizes)) == count


@pytest.mark.parametrize("path", [CONF / f"{name}.yaml" for name in (*BUILDERS, "custom")], ids=lambda path: path.stem)
def test_yaml_files_name_every_key_of_their_function(path):
    config = yaml.safe_load(path.read_text())
    node = config["model"]
    target = node.pop("_target_")
    if path.stem == "custom":
        assert target == "???"
        return
    values = {key: config[value[2:-1]] if str(value).startswith("${") else value for key, value in node.items()}
    build = getattr(models, target.removeprefix("hw1.models."))
    assert set(values) == set(build.__kwdefaults__ or {}) | set(build.__annotations__) - {
        "input_shape",
        "outputs",
        "return",
    }
    assert f"{models.parameter_count(build(**MNIST, **values)):,} parameters on MNIST" in path.read_text()


@pytest.mark.parametrize("name", ["linear", "mlp"])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (1, 28, 28), (3, 32, 32)])
def test_dense_nets_take_inputs_of_any_shape(name, shape):
    assert BUILDERS[name](input_shape=shape, outputs=4)(torch.zeros(6, *shape)).shape == (6, 4)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 5, 9)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_cnn_takes_images_of_any_size(shape, kernel):
    assert CNN(input_shape=shape, outputs=4, kernel=kernel)(torch.zeros(6, *shape)).shape == (6, 4)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 32, 32), (3, 32, 32)])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_lenet5_takes_its_two_sizes(shape, pooling):
    assert models.lenet5(input_shape=shape, outputs=10, pooling=pooling)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(MLP, **MNIST, activation="swish"), r"model\.activation=swish: choose from relu, .*identity"),
        (partial(MLP, **MNIST, widths=[3], budget=100), r"model\.widths=\[3\] and model\.budget=100 contradict"),
        (partial(MLP, **MNIST, widths=[3, 0]), r"model\.widths=\[3, 0\]: every width"),
        (partial(MLP, **MNIST, width=0), "width=0: must be at least 1"),
        (partial(MLP, **MNIST, depth=0), "depth=0: must be at least 1"),
        (partial(MLP, **MNIST, budget=10), r"model\.budget=10: .* at least 805 parameters"),
        (partial(MLP, **MNIST, dropout=1.0), r"model\.dropout=1\.0: must be at least 0 and below 1"),
        (partial(CNN, **MNIST, depth=5), "depth=5: 28×28 images allow at most 4 poolings"),
        (partial(CNN, **MNIST, hidden=0), r"model\.hidden=0: must be at least 1"),
        (partial(CNN, input_shape=(1,), outputs=1), r"model=cnn needs images, dataset gives inputs of shape \(1,\)"),
        (partial(models.lenet5, input_shape=(7,), outputs=1), r"model=lenet5 needs images, .* shape \(7,\)"),
        (partial(models.lenet5, input_shape=(1, 8, 8), outputs=9), "model=lenet5 needs .* 28×28 or 32×32 .* gives 8×8"),
        (partial(models.lenet5, **MNIST, pooling="sum"), r"model\.pooling=sum: choose from average, max"),
    ],
)
def test_bad_choices_are_named_in_one_line(make, said):
    with pytest.raises(UserError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_layers_come_in_the_stated_order():
    mlp = MLP(input_shape=(3,), outputs=2, dropout=0.5, batch_norm=True)
    assert " ".join(name for name, _ in mlp.named_children()) == "flatten hidden1 norm1 activation1 dropout1 output"
    cnn = CNN(**MNIST, depth=1, dropout=0.5, batch_norm=True)
    names = "conv1 norm1 pool1 activation1 flatten hidden activation dropout output"
    assert " ".join(name for name, _ in cnn.named_children()) == names


@pytest.mark.parametrize("activation", [*models.MONOTONE, "gelu", "sine"])
def test_pooling_before_a_monotone_activation_is_the_same_function(activation):
    model = CNN(**MNIST, depth=1, activation=activation).double()
    x = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    act = models.ACTIVATIONS[activation]()
    hidden = model.hidden(torch.nn.functional.max_pool2d(act(model.conv1(x)), 2).flatten(1))
    torch.testing.assert_close(model(x), model.output(act(hidden)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@given(sides=st.tuples(st.integers(2, 7), st.integers(2, 7)), channels=st.integers(1, 9), seed=st.integers(0, 99))
def test_pooling_without_gradients_has_the_bits_of_torchs_own(layout, sides, channels, seed):
    x = torch.randn(3, channels, *sides, generator=torch.Generator().manual_seed(seed))
    x[x > 1.5] = math.nan
    x[x < -1.5] = -math.inf
    x = x.contiguous(memory_format=layout)
    with torch.no_grad():
        fast = models.MaxPool2x2()(x)
    assert torch.equal(fast.nan_to_num(9.0), nn.functional.max_pool2d(x, 2).nan_to_num(9.0))
    slow = models.MaxPool2x2()(x.requires_grad_())
    assert torch.equal(slow.detach().nan_to_num(9.0), fast.nan_to_num(9.0))
    slow.nan_to_num().sum().backward()
    assert x.grad is not None


def test_channels_double_with_every_block():
    convolutions = [m for m in CNN(**MNIST, depth=3).modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [8, 16, 32]


@pytest.mark.parametrize("make", BUILDERS.values(), ids=BUILDERS)
def test_same_seed_same_initialisation(make):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(nn.utils.parameters_to_vector(make(**MNIST).parameters()))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_initialisation_is_that_of_torch():
    torch.manual_seed(3)
    ours = MLP(input_shape=(5,), outputs=2)
    torch.manual_seed(3)
    hidden, output = nn.Linear(5, 128), nn.Linear(128, 2)
    assert torch.equal(ours.hidden1.weight, hidden.weight)
    assert torch.equal(ours.output.bias, output.bias)
    assert ours.hidden1.weight.abs().max() <= 1 / math.sqrt(5)


def test_activations_are_what_their_names_say():
    x = torch.linspace(-3, 3, 13)
    assert torch.equal(models.Sine()(x), torch.sin(x))
    assert torch.equal(models.ACTIVATIONS["identity"]()(x), x)
    assert torch.equal(models.ACTIVATIONS["relu"]()(x), x.clamp_min(0))


@pytest.mark.parametrize(
    ("model", "shape", "line"),
    [
        (models.linear(**MNIST), (1, 28, 28), "linear 784-10, 7,850 parameters"),
        (MLP(input_shape=(1,), outputs=1, depth=4, budget=571), (1,), "mlp 1-12-13-13-13-1, 571 parameters"),
        (CNN(**MNIST), (1, 28, 28), "conv 1-8-16, dense 784-64-10, 52,138 parameters"),
        (models.lenet5(**MNIST), (1, 28, 28), "conv 1-6-16, dense 400-120-84-10, 61,706 parameters"),
        (nn.Identity(), (2,), "Identity, 0 parameters"),
    ],
)
def test_architecture_in_one_line(model, shape, line):
    assert models.architecture(model, shape) == line


def test_dropout_keeps_what_the_noise_says_and_the_mean():
    dropout, x = models.Dropout(0.3), torch.ones(400, 500)
    dropout.noise = torch.rand(400, 500, generator=torch.Generator().manual_seed(0))
    kept = dropout(x)
    assert torch.equal(kept == 0, dropout.noise < 0.3)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7])
    share = (kept == 0).double().mean().item()
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / kept.numel()))  # 4 standard deviations
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_without_noise_is_an_error_only_in_training():
    with pytest.raises(RuntimeError, match="training loop"):
        models.Dropout(0.5)(torch.ones(2, 3))
    assert torch.equal(models.Dropout(0.5).eval()(torch.ones(2, 3)), torch.ones(2, 3))


def test_dropout_is_not_part_of_the_weights():
    model = MLP(**MNIST, depth=2, dropout=0.5)
    assert "dropout1.noise" in dict(model.named_buffers())
    assert model.state_dict().keys() == MLP(**MNIST, depth=2).state_dict().keys()
    assert not any(isinstance(module, models.Dropout) for module in MLP(**MNIST).modules())


def test_dropout_shapes_are_found_and_the_model_left_as_it_was():
    model = MLP(**MNIST, widths=[7, 5], dropout=0.5, batch_norm=True)
    model.norm2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert models.dropout_shapes(model, (1, 28, 28)) == {"dropout1": (7,), "dropout2": (5,)}
    assert model.training
    assert model.norm1.training
    assert not model.norm2.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert models.dropout_shapes(MLP(**MNIST), (1, 28, 28)) == {}
    assert models.dropout_shapes(CNN(**MNIST, dropout=0.1), (1, 28, 28)) == {"dropout": (64,)}


def test_evaluating_restores_modes_after_an_error():
    model = MLP(**MNIST, batch_norm=True)
    model.norm1.eval()
    with models.evaluating(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(RuntimeError), models.evaluating(model):
        model(torch.zeros(2, 3))
    assert [name for name, module in model.named_modules() if not module.training] == ["norm1"]


STACKED = {
    "linear": partial(models.linear, outputs=3),
    "mlp": partial(MLP, outputs=3, widths=[6, 5], dropout=0.4, batch_norm=True),
    "cnn": partial(CNN, outputs=3, width=2, hidden=6, dropout=0.4, batch_norm=True),
    "lenet5": partial(models.lenet5, outputs=3),
}


@pytest.mark.parametrize("name", STACKED)
def test_stacked_replicas_equal_separate_ones(name):
    """Two steps' losses, gradients and batch-norm statistics of 3 replicas under vmap and one after another."""
    shape, replicas, batch = (1, 32, 32) if name == "lenet5" else (1, 8, 8), 3, 10
    torch.manual_seed(0)
    separate = [STACKED[name](input_shape=shape).double() for _ in range(replicas)]
    parameters, buffers = torch.func.stack_module_state(separate)
    skeleton = STACKED[name](input_shape=shape).double()

    def loss(parameters, buffers, x, y):
        return nn.functional.cross_entropy(torch.func.functional_call(skeleton, (parameters, buffers), (x,)), y)

    for _ in range(2):
        inputs = torch.randn(replicas, batch, *shape, dtype=torch.float64)
        labels = torch.randint(3, (replicas, batch))
        features = models.dropout_shapes(skeleton, shape)
        noise = {f"{layer}.noise": torch.rand(replicas, batch, *size) for layer, size in features.items()}
        for value in parameters.values():
            value.grad = None
        losses = torch.vmap(loss)(parameters, buffers | noise, inputs, labels)
        losses.sum().backward()
        for r, model in enumerate(separate):
            for layer in features:
                model.get_submodule(layer).noise = noise[f"{layer}.noise"][r]
            model.zero_grad()
            expected = nn.functional.cross_entropy(model(inputs[r]), labels[r])
            expected.backward()
            torch.testing.assert_close(losses[r], expected)
            for key, parameter in model.named_parameters():
                torch.testing.assert_close(parameters[key].grad[r], parameter.grad)
            for key, value in model.state_dict().items():
                if key in buffers:  # running_mean, running_var, num_batches_tracked: updated in the stacked tensors
                    torch.testing.assert_close(buffers[key][r], value)
    assert all(
        value.tolist() == [2] * replicas for key, value in buffers.items() if key.endswith("num_batches_tracked")
    )


def test_stacked_dropout_gives_the_same_mask_bit_for_bit():
    layer, noise, x = models.Dropout(0.5), torch.rand(4, 20, 6), torch.randn(4, 20, 6)
    stacked = torch.vmap(lambda n, x: torch.func.functional_call(layer, {"noise": n}, (x,)))(noise, x)
    for r in range(4):
        layer.noise = noise[r]
        assert torch.equal(stacked[r], layer(x[r]))
