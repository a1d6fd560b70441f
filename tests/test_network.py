"""Networks: graphs, initial weights, descriptions, and the conveniences around the dynamics."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import eqprop
from eqprop import ConfigError, DataError, Dense, DirectedNetwork, HopfieldNetwork, Layer, Network, Stop, Sweeps
from eqprop._graph import GraphNetwork
from tests.helpers import NETWORKS, TIED, TIGHT, distance, inputs, joined, labels, layers, network, random_state, seeded

every = pytest.mark.parametrize("name", NETWORKS)
GRAPHS = [n for n in NETWORKS if not n.startswith("user")]
ENERGIES = [*TIED, "user-energy"]
SCHEMES = {  # variance x fan, fan
    "xavier_uniform": (1.0, "mean"),
    "xavier_normal": (1.0, "mean"),
    "kaiming_uniform": (2.0, "in"),
    "kaiming_normal": (2.0, "in"),
    "lecun_uniform": (1.0, "in"),
    "lecun_normal": (1.0, "in"),
}


# -- shapes and conveniences -------------------------------------------------------------------------------------------


@every
def test_initial_state_has_one_zero_tensor_a_moving_layer_in_order(name: str, device: torch.device) -> None:
    net = network(name, device)
    state = net.initial_state(4)
    assert [s.shape for s in state] == [(4, *net.layers[n].shape) for n in list(net.layers)[1:]]
    assert all(s.dtype == torch.float64 and s.device.type == device.type and not s.any() for s in state)


@every
def test_predict_is_the_output_at_the_free_equilibrium(name: str, device: torch.device) -> None:
    net = network(name, device)
    x = inputs(net, 4, device)
    expected = net.output(eqprop.relax(net, net.initial_state(4), net.drive(x), stop=Sweeps(30)).state)
    predicted = net.predict(x, stop=Sweeps(30))
    assert predicted.shape == (4, 3) and not predicted.requires_grad
    assert torch.equal(predicted, expected)


@every
def test_join_and_split_of_states_undo_each_other(name: str, device: torch.device) -> None:
    net = network(name, device)
    parts = [random_state(net, 3, seed) for seed in range(3)]
    for part, again in zip(parts, net.split_state(net.join_states(parts), 3), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(part, again, strict=True))


@every
def test_clone_is_independent(name: str, device: torch.device) -> None:
    net = network(name, device)
    copy = net.clone()
    with torch.no_grad():
        for p in copy.parameters():
            p.add_(1.0)
    original, changed = dict(net.named_parameters()), dict(copy.named_parameters())
    assert list(original) == list(changed)
    assert all(not torch.equal(original[n], changed[n]) for n in original)


@pytest.mark.parametrize("name", ENERGIES)
def test_energy_is_one_value_a_sample(name: str, device: torch.device) -> None:
    net = network(name, device)
    state, x = random_state(net, 5), inputs(net, 5, device)
    energy = net.energy(state, net.drive(x))
    assert energy.shape == (5,)
    alone = net.energy(tuple(s[2:3] for s in state), net.drive(x[2:3]))
    torch.testing.assert_close(energy[2:3], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in ENERGIES if n not in ("chain-dsilu",)])
def test_equilibrium_is_a_minimum_of_the_energy(name: str, device: torch.device) -> None:
    net = network(name, device)
    x = inputs(net, 4, device)
    drive = net.drive(x)
    rest = eqprop.relax(net, net.initial_state(4), drive, stop=TIGHT, throw=True).state
    lowest = net.energy(rest, drive)
    for seed in range(5):
        toward = random_state(net, 4, seed)
        near = tuple(s + 1e-2 * (t - s) for s, t in zip(rest, toward, strict=True))  # stays within the bounds
        assert bool((net.energy(near, drive) > lowest).all())


def test_energy_of_dsilu_equals_that_of_the_fixed_point_in_membrane_coordinates(device: torch.device) -> None:
    """Stationary at equilibrium: first-order changes of the state change the energy in second order only."""
    net = network("chain-dsilu", device)
    drive = net.drive(inputs(net, 3, device))
    rest = eqprop.relax(net, net.initial_state(3), drive, stop=TIGHT, throw=True).state
    leaves = tuple(s.clone().requires_grad_() for s in rest)
    gradients = torch.autograd.grad(net.energy(leaves, drive).sum(), leaves)
    # d/ds [z s - R(z) - Phi] = z + (dz/ds)^T (s - rho(z)) - z
    assert max(float(g.abs().max()) for g in gradients) < 1e-10


@every
def test_residual_is_the_largest_change_of_a_synchronous_update(name: str, device: torch.device) -> None:
    net = network(name, device)
    state, drive = random_state(net, 5), net.drive(inputs(net, 5, device))
    z = net.inputs(state, drive)
    changes = [(rho(v) - s).abs().flatten(1).amax(1) for rho, v, s in zip(net.activations, z, state, strict=True)]
    torch.testing.assert_close(eqprop.residual(net, state, drive), torch.stack(changes).amax(0), rtol=1e-12, atol=1e-14)


@every
def test_jvp_and_vjp_of_the_inputs_are_adjoint(name: str, device: torch.device) -> None:
    """``<v, H u> = <H^T v, u>``, and ``H u`` is the directional derivative of the inputs."""
    net = network(name, device)
    drive, state = net.drive(inputs(net, 3, device)), random_state(net, 3)
    u, v = random_state(net, 3, seed=5), random_state(net, 3, seed=6)
    h = 1e-6
    with torch.no_grad():
        jvp, vjp = net.jvp_inputs(state, u, drive), net.vjp_inputs(state, v, drive)
        ahead, behind = (
            net.inputs(tuple(s + sign * h * d for s, d in zip(state, u, strict=True)), drive) for sign in (1, -1)
        )
    for j, a, b in zip(jvp, ahead, behind, strict=True):
        torch.testing.assert_close(j, (a - b) / (2 * h), rtol=1e-6, atol=1e-8)
    left, right = (sum(float((a * b).sum()) for a, b in zip(*pair, strict=True)) for pair in ((v, jvp), (vjp, u)))
    assert left == pytest.approx(right, rel=1e-10, abs=1e-12)


def test_images_are_flattened_into_the_input_layer(device: torch.device) -> None:
    net = HopfieldNetwork.mlp(12, 5, 3, generator=seeded()).to(device)
    x = torch.rand(4, 3, 4, generator=seeded(1)).to(device)
    assert torch.equal(net.predict(x), net.predict(x.flatten(1)))


def test_an_input_layer_may_have_a_shape_of_its_own(device: torch.device) -> None:
    connections = [Dense("input", "output")]
    shaped = HopfieldNetwork({"input": Layer((3, 4)), "output": Layer(2, "tanh")}, connections, generator=seeded())
    plain = HopfieldNetwork({"input": Layer(12), "output": Layer(2, "tanh")}, connections, generator=seeded())
    x = torch.rand(4, 3, 4, generator=seeded(1)).to(device)
    assert torch.equal(shaped.to(device).predict(x), plain.to(device).predict(x.flatten(1)))


def test_inputs_take_the_dtype_of_the_network(device: torch.device) -> None:
    net = network("chain-tanh", device)
    assert net.drive(inputs(net, 2, device).float()).x.dtype == torch.float64


# -- graphs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAPHS)
def test_blocks_cover_every_layer_once_and_hold_no_neighbours(name: str) -> None:
    net = network(name)
    assert isinstance(net, GraphNetwork)
    assert sorted(l for block in net.blocks for l in block) == list(range(len(net.names)))
    block_of = {l: b for b, block in enumerate(net.blocks) for l in block}
    for pre, post in ((e.pre, e.post) for e in net._edges):
        assert pre == -1 or pre == post or block_of[pre] != block_of[post]


@pytest.mark.parametrize(
    ("pairs", "blocks"),
    [
        (("input>a", "a>b", "b>c", "c>output"), ((0, 2), (1, 3))),
        (("input>a", "a>b", "b>c", "c>a", "c>output"), ((0, 3), (1,), (2,))),
        (("input>a", "a>b", "b>c", "c>output", "a>output"), ((0, 2), (1, 3))),
        (("input>a", "a>b", "b>c", "c>output", "b>output"), ((0, 2), (1,), (3,))),
    ],
    ids=["chain", "triangle", "odd skip", "even skip"],
)
def test_blocks_are_colour_classes(pairs: tuple[str, ...], blocks: tuple[tuple[int, ...], ...]) -> None:
    assert HopfieldNetwork(layers(3, 4, 4, 4, 2), joined(*pairs)).blocks == blocks


def test_input_of_a_tied_layer_sums_both_directions_and_the_bias(device: torch.device) -> None:
    net = network("triangle", device)
    assert isinstance(net, HopfieldNetwork)
    (a, b, out), x = random_state(net), inputs(net, device=device)
    w = {key: net.connection(key).weight for key in ("input-a", "a-b", "b-output", "output-a")}
    expected = x @ w["input-a"].T + b @ w["a-b"] + out @ w["output-a"].T + net.biases["a"]
    torch.testing.assert_close(net.inputs((a, b, out), net.drive(x))[0], expected)


def test_input_of_a_directed_layer_sums_incoming_connections_only(device: torch.device) -> None:
    net = network("loop", device)
    assert isinstance(net, DirectedNetwork)
    (a, b, out), x = random_state(net), inputs(net, device=device)
    expected = x @ net.connection("input-a").weight.T + out @ net.connection("output-a").weight.T + net.biases["a"]
    torch.testing.assert_close(net.inputs((a, b, out), net.drive(x))[0], expected)


def test_mlp_is_the_graph_that_it_says(device: torch.device) -> None:
    net = HopfieldNetwork.mlp(5, 7, 6, 3, activation="tanh", output_activation="sigmoid")
    kinds = {n: (v.shape, v.activation.name if v.activation else None) for n, v in net.layers.items()}
    assert kinds == {
        "input": ((5,), None),
        "hidden1": ((7,), "tanh"),
        "hidden2": ((6,), "tanh"),
        "output": ((3,), "sigmoid"),
    }
    assert list(net.connections) == ["input-hidden1", "hidden1-hidden2", "hidden2-output"]
    assert net.connection("hidden2-output").weight.shape == (3, 6)


def test_directed_mlp_has_feedback_beside_each_inner_connection() -> None:
    net = DirectedNetwork.mlp(5, 7, 6, 3)
    assert set(net.connections) == {
        *("input-hidden1", "hidden1-hidden2", "hidden2-output"),
        *("hidden2-hidden1", "output-hidden2"),
    }


def test_forward_pass_is_the_feed_forward_twin(device: torch.device) -> None:
    net = network("directed-40", device)
    assert isinstance(net, GraphNetwork)
    x = inputs(net, device=device)
    h = torch.tanh(x @ net.connection("input-hidden1").weight.T + net.biases["hidden1"])
    h = torch.tanh(h @ net.connection("hidden1-hidden2").weight.T + net.biases["hidden2"])
    y = h @ net.connection("hidden2-output").weight.T + net.biases["output"]
    torch.testing.assert_close(net.output(net.forward_pass(net.drive(x))), y)


def test_readout_lies_outside_the_dynamics(device: torch.device) -> None:
    net = network("readout", device)
    state = random_state(net)
    assert net.readout is not None
    torch.testing.assert_close(net.output(state), state[-1] @ net.readout.weight.T + net.readout.bias)
    drive = net.drive(inputs(net, device=device))
    with torch.no_grad():
        before = net.inputs(state, drive)
        net.readout.weight.mul_(3)
        assert distance(before, net.inputs(state, drive)) == 0.0


# -- initial weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [None, 0.5])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_initial_weights_have_the_variance_of_their_scheme(scheme: str, gain: float | None) -> None:
    w = eqprop.initial_weight((300, 500), initializer=scheme, gain=gain, generator=seeded(), dtype=torch.float64)
    variance, fan = SCHEMES[scheme]
    variance = variance if gain is None else gain**2
    expected = math.sqrt(variance / (500 if fan == "in" else 400))
    assert float(w.std()) == pytest.approx(expected, rel=0.01)
    assert abs(float(w.mean())) < 4 * expected / math.sqrt(w.numel())
    if scheme.endswith("uniform"):
        assert float(w.abs().max()) <= math.sqrt(3) * expected


def test_orthogonal_rows_are_orthogonal_with_the_norm_of_the_gain() -> None:
    w = eqprop.initial_weight((6, 9), initializer="orthogonal", gain=0.7, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(w @ w.T, 0.49 * torch.eye(6, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_gain_by_name_is_the_one_of_torch() -> None:
    named = eqprop.initial_weight((4, 5), gain="tanh", generator=seeded())
    plain = eqprop.initial_weight((4, 5), gain=nn.init.calculate_gain("tanh"), generator=seeded())
    assert torch.equal(named, plain)


def test_one_seed_gives_the_same_weights_and_another_does_not() -> None:
    a, b, c = (HopfieldNetwork.mlp(5, 7, 3, generator=seeded(s)).state_dict() for s in (0, 0, 1))
    key = "connections.input-hidden1.weight"
    assert torch.equal(a[key], b[key]) and not torch.equal(a[key], c[key])


def test_construction_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    HopfieldNetwork.mlp(5, 7, 3, readout=4)
    DirectedNetwork.mlp(5, 7, 3, feedback_angle=None)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 180.0])
def test_feedback_starts_at_exactly_the_angle_asked_for(angle: float) -> None:
    net = DirectedNetwork.mlp(5, 7, 6, 3, feedback_angle=angle, dtype=torch.float64)
    pairs = net.reciprocal_pairs()
    assert len(pairs) == 2
    for forward, backward in pairs:
        w, b = forward.weight.detach().T.flatten(), backward.weight.detach().flatten()
        assert float(w.norm()) == pytest.approx(float(b.norm()), rel=1e-12)
        assert float(w @ b / (w.norm() * b.norm())) == pytest.approx(math.cos(math.radians(angle)), abs=1e-12)


def test_feedback_without_an_angle_is_drawn_independently() -> None:
    net = DirectedNetwork.mlp(50, 70, 60, 30, feedback_angle=None, dtype=torch.float64)
    for forward, backward in net.reciprocal_pairs():
        w, b = forward.weight.detach().T.flatten(), backward.weight.detach().flatten()
        assert abs(float(w @ b / (w.norm() * b.norm()))) < 5 / math.sqrt(len(w))


@pytest.mark.parametrize(("angle", "sign"), [(0.0, 1.0), (180.0, -1.0)])
def test_feedback_between_single_units_is_finite(angle: float, sign: float) -> None:
    net = DirectedNetwork.mlp(3, 1, 1, feedback_angle=angle, dtype=torch.float64)
    ((forward, backward),) = net.reciprocal_pairs()
    w, b = forward.weight.detach(), backward.weight.detach()
    assert float(b) == pytest.approx(sign * float(w), rel=1e-12)


def test_feedback_between_single_units_has_no_other_angle() -> None:
    with pytest.raises(ConfigError, match="got 40.0 between single weights, needed 0, 180 or None"):
        DirectedNetwork.mlp(3, 1, 1, feedback_angle=40.0)


def test_feedback_of_zero_weights_is_zero() -> None:
    net = DirectedNetwork.mlp(3, 4, 2, initializer="zeros", feedback_angle=30.0)
    assert all(float(b.weight.detach().abs().max()) == 0.0 for _, b in net.reciprocal_pairs())


# -- descriptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAPHS)
def test_copies_are_of_the_same_description(name: str) -> None:
    net = network(name)
    assert net.clone().spec() == pickle.loads(pickle.dumps(net)).spec() == net.spec()


@pytest.mark.parametrize("name", GRAPHS)
def test_spec_and_state_dict_rebuild_the_network(name: str, device: torch.device) -> None:
    net = network(name, device)
    again: Network = eqprop.network_from_spec(json.loads(json.dumps(net.spec()))).to(device, torch.float64)
    again.load_state_dict(net.state_dict())
    x = inputs(net, 3, device)
    assert again.spec() == net.spec() and again.blocks == net.blocks
    assert torch.equal(again.predict(x), net.predict(x))


@pytest.mark.parametrize("name", ["user-energy", "user-field"])
def test_spec_of_a_users_function_says_what_to_do_instead(name: str) -> None:
    with pytest.raises(ConfigError, match="your own code; build it again and write network.load_state_dict"):
        network(name).spec()


# -- parameter groups --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAPHS)
def test_parameter_groups_hold_every_parameter_once(name: str) -> None:
    net = network(name)
    assert isinstance(net, GraphNetwork)
    grouped = [id(p) for g in net.parameter_groups(0.1) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


def test_parameter_groups_give_each_connection_its_rate() -> None:
    net = network("readout")
    assert isinstance(net, GraphNetwork) and net.readout is not None
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameter_groups([0.1, 0.2, 0.3]))
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = {n: round(float((before[n] - p.detach()).mean()), 12) for n, p in net.named_parameters()}
    assert moved == {
        "readout.weight": 0.3,
        "readout.bias": 0.3,
        "connections.input-hidden1.weight": 0.1,
        "connections.hidden1-output.weight": 0.2,
        "biases.hidden1": 0.1,
        "biases.output": 0.2,
    }


def test_parameter_groups_of_a_wrong_number_name_the_connections() -> None:
    net = network("readout")
    assert isinstance(net, GraphNetwork)
    with pytest.raises(ConfigError, match=r"got 1, needed 1 or 3, one for each of input-hidden1, hidden1-output, read"):
        net.parameter_groups([0.1])


# -- evaluate ----------------------------------------------------------------------------------------------------------


class Batched:
    """Data in memory, in batches."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(0, len(self.x), batch_size):
            yield self.x[i : i + batch_size], self.y[i : i + batch_size]


@pytest.mark.parametrize("batch_size", [3, 7, 100])
def test_evaluate_is_the_mean_over_samples_whatever_the_batch_size(batch_size: int, device: torch.device) -> None:
    net = network("chain-sigmoid", device)
    x, y = inputs(net, 11, device), labels(11, device=device)
    rule = eqprop.EquilibriumPropagation(free=Sweeps(12, tol=1e-30))
    output = net.predict(x, stop=Sweeps(12))
    wrong = sum(int(p) != int(t) for p, t in zip(output.argmax(1), y, strict=True))
    one_hot = torch.nn.functional.one_hot(y, 3).double()
    loss = float((0.5 * (output - one_hot) ** 2).sum() / 11)
    result = eqprop.evaluate(net, Batched(x, y), rule, batch_size=batch_size)
    assert 0 < wrong < 11
    assert result.error == pytest.approx(wrong / 11) and result.accuracy == pytest.approx(1 - wrong / 11)
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert (result.converged_share, result.mean_sweeps, result.n) == (0.0, 12.0, 11)


def test_evaluate_counts_converged_samples(device: torch.device) -> None:
    net = network("chain-sigmoid", device)
    x, y = inputs(net, 5, device), labels(5, device=device)
    result = eqprop.evaluate(net, Batched(x, y), eqprop.EquilibriumPropagation(free=Stop(1e-9, 500)))
    assert result.converged_share == 1.0


def test_evaluate_leaves_no_gradient(device: torch.device) -> None:
    net = network("readout", device)
    rule = eqprop.EquilibriumPropagation(cost="cross-entropy")
    eqprop.evaluate(net, Batched(inputs(net, 5, device), labels(5, device=device)), rule)
    assert all(p.grad is None for p in net.parameters())


def test_evaluate_of_nothing_is_refused() -> None:
    net = network("readout")
    with pytest.raises(DataError, match="got 0 samples, needed at least 1"):
        eqprop.evaluate(net, Batched(inputs(net, 0), labels(0)), eqprop.EquilibriumPropagation())
