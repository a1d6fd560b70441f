"""Networks of one shape that relax together: a leading model axis on states, weights and what differs a member."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eqprop._connections import DenseConnection
from eqprop._directed import DirectedNetwork
from eqprop._ensemble_parts import MemberConnections, MemberReadouts
from eqprop._errors import ConfigError, DataError
from eqprop._graph import GraphNetwork
from eqprop._hopfield import HopfieldNetwork
from eqprop._network import Drive, State


class Ensemble(GraphNetwork):
    """Members of one shape as one network, made by ``eqprop.ensemble(networks)``.

    States are ``[members, batch, units]``, weights ``[members, out, in]``, biases ``[members, 1, units]``; products of
    a sweep are batches of matrix products, one call for all members. Whatever works on trailing dimensions works
    unchanged: ``eqprop.relax`` (residual, sweeps and status are ``[members, batch]``), solvers and the gradient
    read-outs. Rules of one network do not; see ``EnsembleRule``.

    Attributes:
        count: number of members.
        member_class: what a member is.
    """

    member_class: ClassVar[type[GraphNetwork]]

    def __init__(self, networks: Sequence[GraphNetwork]) -> None:
        first = require_alike(networks)
        outputs = None if first.readout is None else first.readout.out_features
        super().__init__(first.layers, first._declared, readout=outputs, **self._options())
        for key in self.connections:
            weight = _stacked([n.connection(key).weight for n in networks])
            edge = next(e for e in self._edges if e.key == key)
            tail = self.input_shape if edge.tail == -1 else self.shapes[edge.tail]
            self.connections[key] = MemberConnections(weight, tail=tail, head=self.shapes[edge.head])
        self.biases = nn.ParameterDict(
            {name: nn.Parameter(_stacked([n.biases[name] for n in networks])[:, None]) for name in self.names}
        )
        if outputs is not None:
            readouts = [n.readout for n in networks if n.readout is not None]
            self.readout = MemberReadouts(
                _stacked([r.weight for r in readouts]), _stacked([r.bias for r in readouts])[:, None]
            )
        self.to(next(first.parameters()))
        _freeze_as(self, first)

    @classmethod
    def _options(cls) -> dict[str, Any]:
        """Of the class of a member, so that it draws no weights that are replaced."""
        return {"feedback_angle": None} if issubclass(cls.member_class, DirectedNetwork) else {}

    @property
    def count(self) -> int:
        """Number of members."""
        return len(next(self.parameters()))

    # -- dynamics ------------------------------------------------------------------------------------------------------

    def clamped(self, x: Tensor) -> Tensor:
        """``x [members, batch, inputs]``, or ``[batch, inputs]`` for all members alike, in the network's dtype.

        Raises:
            DataError: wrong shape or type, or (on the CPU) values that are not finite.
        """
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise DataError(f"input: got {got}, needed a floating-point tensor; for images write images.float() / 255")
        units = self.input_shape[0]
        if x.dim() not in (2, 3) or x.shape[-1] != units or (x.dim() == 3 and len(x) != self.count):
            raise DataError(
                f"input: got shape {tuple(x.shape)}, needed [{self.count}, batch, {units}], or [batch, {units}] for "
                "all members alike; write torch.stack([...]) of a batch for each"
            )
        if x.device.type == "cpu" and not math.isfinite(float(x.detach().sum())):
            bad = torch.nonzero(~torch.isfinite(x).all(-1))
            if len(bad):  # finite values may have an infinite sum
                where = "member and sample" if x.dim() == 3 else "sample"
                raise DataError(f"input: got NaN or infinite values at {where} {bad[:8].tolist()}, needed finite ones")
        return x.to(next(self.parameters()).dtype).expand(self.count, *x.shape[-2:])

    def initial_state(self, batch: int) -> State:
        """Zeros, ``[members, batch, units]`` a layer."""
        like = next(self.parameters())
        return tuple(like.new_zeros((self.count, batch, *shape)) for shape in self.shapes)

    def output(self, state: State) -> Tensor:
        """``[members, batch, outputs]``."""
        return state[-1] if self.readout is None else self.readout(state[-1])

    def predict(self, x: Tensor, **options: Any) -> Tensor:
        """Output at the free equilibrium, ``[members, batch, outputs]``; ``options`` go to ``eqprop.relax``."""
        from eqprop._relax import relax

        drive = self.drive(x)
        with torch.no_grad():
            return self.output(relax(self, self.initial_state(drive.x.shape[1]), drive, **options).state)

    def repeat_drive(self, drive: Drive, times: int) -> Drive:
        if times == 1:
            return drive
        # of a layer that only its bias drives, one row is that of all samples
        terms = tuple(t if t.shape[1] == 1 else torch.cat([t] * times, dim=1) for t in drive.terms)
        return Drive(terms, torch.cat([drive.x] * times, dim=1))

    def _add_bias_gradient(self, direction: State) -> None:
        for name, d in zip(self.names, direction, strict=True):
            bias = self.biases[name]
            if not bias.requires_grad:
                continue
            g = d.sum(1, keepdim=True)
            bias.grad = g if bias.grad is None else bias.grad.add_(g)

    # -- members -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def store(self, member: int, network: GraphNetwork) -> None:
        """Copy the parameters of a member into a network of its shape."""
        for name, p in network.named_parameters():
            p.copy_(self.get_parameter(name)[member].reshape(p.shape))

    def member(self, member: int) -> GraphNetwork:
        """One member as a network of its own, parameters copied."""
        like = next(self.parameters())
        outputs = None if self.readout is None else self.readout.out_features
        made = self.member_class(self.layers, self._declared, readout=outputs, **self._options()).to(like)
        self.store(member, made)
        _freeze_as(made, self)
        return made

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members alone, in this order; ``.grad`` is dropped."""
        index = torch.tensor(list(members), device=next(self.parameters()).device)
        for p in self.parameters():
            p.grad = None
            p.data = p.data.index_select(0, index)

    def member_groups(self, rates: Sequence[Sequence[float] | float]) -> list[dict[str, Any]]:
        """Parameter groups of an ``EnsembleSGD``: ``lr`` 1, and ``rates`` a member ``[members]``.

        Args:
            rates: a member each: one rate, or one a connection, as of ``parameter_groups``.

        Raises:
            ConfigError: rates of another number of members, or of connections.
        """
        if isinstance(rates, int | float) or len(rates) != self.count:
            got = rates if isinstance(rates, int | float) else len(rates)
            raise ConfigError(f"learning rates: got {got} for {self.count} members, needed one (or one list) each")
        each = [super(Ensemble, self).parameter_groups(r) for r in rates]
        return [
            dict(groups[0], lr=1.0, rates=torch.tensor([float(g["lr"]) for g in groups], dtype=torch.float64))
            for groups in zip(*each, strict=True)
        ]

    def spec(self) -> dict[str, Any]:
        raise ConfigError("an ensemble cannot be rebuilt from a file; save its members, ensemble.member(0) and so on")


class HopfieldEnsemble(Ensemble, HopfieldNetwork):
    """An ensemble of ``HopfieldNetwork``."""

    member_class = HopfieldNetwork


class DirectedEnsemble(Ensemble, DirectedNetwork):
    """An ensemble of ``DirectedNetwork``."""

    member_class = DirectedNetwork


def ensemble(networks: Sequence[GraphNetwork]) -> Ensemble:
    """Networks of one shape as one, with copies of their parameters; see ``Ensemble``.

    Args:
        networks: at least one ``HopfieldNetwork`` or ``DirectedNetwork`` of dense layers, all with the same layers,
            activations, connections and readout, in one precision on one device. Chips: see
            ``hardware.chip_ensemble``.

    Raises:
        ConfigError: networks that differ in more than their parameters, or of another kind.
    """
    kinds: dict[type, type[Ensemble]] = {HopfieldNetwork: HopfieldEnsemble, DirectedNetwork: DirectedEnsemble}
    listed = list(networks)
    kind = type(listed[0]) if listed else HopfieldNetwork
    if kind not in kinds:
        raise ConfigError(
            f"ensemble: got {kind.__name__}, needed HopfieldNetwork or DirectedNetwork; for chips write "
            "hardware.chip_ensemble(chips)"
        )
    return kinds[kind](listed)


def require_alike(networks: Sequence[GraphNetwork]) -> GraphNetwork:
    """The first, if all have its shape. Raises ConfigError: see ``ensemble``."""
    if not networks:
        raise ConfigError("ensemble: got no networks, needed at least one; write eqprop.ensemble([network, ...])")
    first = networks[0]
    for name, layer in first.layers.items():
        if len(layer.shape) != 1:
            raise ConfigError(
                f"ensemble: got layer {name!r} of shape {layer.shape}, needed dense layers, whose shape is one number; "
                "train networks of images one by one"
            )
    for key in first.connections:
        if not isinstance(connection := first.connection(key), DenseConnection):
            raise ConfigError(f"ensemble: got connection {key} of {type(connection).__name__}, needed Dense")
    for index, other in enumerate(networks):
        for what, mine, needed in zip(_PROPERTIES, _properties(other), _properties(first), strict=True):
            if mine != needed:
                raise ConfigError(
                    f"ensemble: got {what} {mine} in network {index}, needed {needed}, as in the first: members differ "
                    "in their parameters alone; write an ensemble for each"
                )
    return first


_PROPERTIES = (
    "class",
    "layers",
    "activations",
    "connections",
    "outputs of the readout",
    "precision",
    "device",
    "frozen parameters",
)


def _properties(network: GraphNetwork) -> tuple[Any, ...]:
    like = next(network.parameters())
    return (
        type(network).__name__,
        {name: layer.shape[0] if len(layer.shape) == 1 else layer.shape for name, layer in network.layers.items()},
        [a.name for a in network.activations],
        list(network.connections),
        None if network.readout is None else network.readout.out_features,
        like.dtype,
        like.device,
        [name for name, p in network.named_parameters() if not p.requires_grad],
    )


def _freeze_as(network: nn.Module, other: nn.Module) -> None:
    """The same parameters are frozen (``requires_grad`` False) as in ``other``."""
    for name, p in network.named_parameters():
        p.requires_grad_(other.get_parameter(name).requires_grad)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([p.detach() for p in parts])
