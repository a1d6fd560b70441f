"""The trained spiking network: a step by hand, that it learns, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import snn
from eqprop._errors import ConfigError, DataError

pytest.importorskip("norse")


def network(inputs: int = 3, hidden: int = 4, **options: float) -> snn.NorseNetwork:
    return snn.NorseNetwork(inputs, hidden, 2, generator=torch.Generator().manual_seed(0), **options)


def test_scores_are_those_of_the_equations_step_by_step() -> None:
    net = network(dt_seconds=5e-3, tau_v_seconds=0.05, tau_synapse_seconds=0.02, drive=4.0)
    x = (torch.rand(5, 30, 3, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    v, i, z, counts = (torch.zeros(5, 4) for _ in range(4))
    for t in range(30):
        i = i + x[:, t] @ net.input_weight.T + z @ net.weight.T
        v = v + 0.1 * (i - v)
        i = i - 0.25 * i
        z = (v > 1.0).float()
        v = v * (1 - z)
        counts = counts + z
    scores, found = net.run(x)
    assert counts.sum() > 10 and torch.equal(found, counts)
    torch.testing.assert_close(scores, counts / 30 @ net.readout_weight.T + net.readout_bias)
    torch.testing.assert_close(net(x), scores)


def test_every_weight_gets_a_gradient_through_the_spikes_and_the_network_learns() -> None:
    net = network(drive=3.0, alpha=10.0)
    y = torch.arange(60) % 2
    p = torch.where(y[:, None, None] == 0, 0.1, 0.4) * torch.ones(60, 20, 3)
    x = torch.bernoulli(p, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    before = torch.nn.functional.cross_entropy(net(x), y).item()
    for step in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        if step == 0:
            assert all(q.grad is not None and q.grad.abs().sum() > 0 for q in net.parameters())
        optimizer.step()
    assert torch.nn.functional.cross_entropy(net(x), y).item() < 0.6 * before
    assert float((net(x).argmax(1) == y).double().mean()) > 0.9


def test_one_seed_is_one_network() -> None:
    first, second = network(), network()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(5, 3), (5, 7, 4), (5, 0, 3)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"needed \[batch, time, 3\]"):
        network()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hidden": 0}, "hidden"),
        ({"tau_v_seconds": 1e-3}, "tau_v_seconds"),
        ({"alpha": 0.0}, "alpha"),
        ({"drive": -1.0}, "drive"),
    ],
)
def test_values_that_cannot_be_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        network(**options)  # type: ignore[arg-type]
