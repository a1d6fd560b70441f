"""Networks from a user's own energy or field: everything else is derived by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eqprop._errors import ConfigError
from eqprop._network import Cache, Drive, Layer, Network, Phase, State, add_gradient_of


class _FunctionNetwork(Network):
    """Shared by ``EnergyNetwork`` and ``FieldNetwork``: the drive is the clamped input itself."""

    def __init__(self, function: nn.Module, layers: dict[str, Layer], readout: int | None) -> None:
        super().__init__(layers, readout=readout)
        if not isinstance(function, nn.Module):
            raise ConfigError(
                f"{type(self).__name__}: got {type(function).__name__}, needed a torch.nn.Module whose "
                "forward(state, x) is the function and whose parameters are trained"
            )
        self.function = function
        if next(self.parameters(), None) is None:
            raise ConfigError(f"{type(self).__name__}: got a function without parameters, needed at least one to train")

    def drive(self, x: Tensor) -> Drive:
        return Drive((), self.clamped(x))

    def repeat_drive(self, drive: Drive, times: int) -> Drive:
        return Drive((), torch.cat([drive.x] * times))

    def field(self, state: State, x: Tensor) -> State:
        """Total input to every layer, from the user's function."""
        raise NotImplementedError

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        z = self.field(state, drive.x)
        return [z[l].clone() for l in block]

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        with torch.enable_grad():
            z = self.inputs(tuple(s.detach() for s in state), Drive((), x))
            total = sum(
                ((v * d).sum() for v, d in zip(z, direction, strict=True)), start=torch.zeros((), device=x.device)
            )
        add_gradient_of(total, self.function)


class EnergyNetwork(_FunctionNetwork):
    """A network from an energy alone.

    ``energy.forward(state, x) -> [batch]`` is a module of your own; ``state`` is a tuple ``[batch, *shape]``, one a
    layer. The dynamics are projected gradient steps of unit length, ``s_l <- clamp(s_l - dE/ds_l, bounds)``, in other
    words ``rho_l(inputs_l)`` with ``inputs = s - dE/ds``: relax with ``GradientFlow(dt)`` where a unit step is too
    long.

    Args:
        energy: the module.
        layers: the clamped input first; activations must be projections (``linear``, ``hard_sigmoid``, ``relu6``),
            which here only say in which range the states live.
        readout: outputs of a linear readout outside the dynamics, or None.

    Raises:
        ConfigError: an activation that is no projection, or an energy of the wrong shape.
    """

    has_energy = True
    tied = True

    def __init__(self, energy: nn.Module, layers: dict[str, Layer], *, readout: int | None = None) -> None:
        super().__init__(energy, layers, readout)
        for name, rho in zip(self.names, self.activations, strict=True):
            if not rho.quadratic:
                raise ConfigError(
                    f"layer {name!r}: got activation {rho.name!r}, needed 'linear', 'hard_sigmoid' or 'relu6': in an "
                    "EnergyNetwork the energy is yours and the activation only bounds the state"
                )

    def energy(self, state: State, drive: Drive) -> Tensor:
        energy: Tensor = self.function(state, drive.x)
        if energy.shape != drive.x.shape[:1]:
            raise ConfigError(
                f"energy: got a result of shape {tuple(energy.shape)}, needed {tuple(drive.x.shape[:1])}: one a sample"
            )
        return energy

    def phi(self, state: State, drive: Drive) -> Tensor:
        squares = torch.stack([(0.5 * s * s).flatten(1).sum(1) for s in state]).sum(0)
        return squares - self.energy(state, drive)

    def field(self, state: State, x: Tensor) -> State:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            # inside a recorded relaxation a layer may be part of a graph already, and one layer may depend on another:
            # the derivative by an alias is the partial one
            leaves = tuple(s.view_as(s) if keep and s.requires_grad else s.detach().requires_grad_() for s in state)
            gradients = torch.autograd.grad(
                self.energy(leaves, Drive((), x)).sum(), leaves, create_graph=keep, allow_unused=True
            )
            return tuple(s if g is None else s - g for s, g in zip(leaves if keep else state, gradients, strict=True))

    def add_contrast_gradient(self, phases: Sequence[Phase], x: Tensor) -> None:
        for phase in phases:
            with torch.enable_grad():
                energy = self.energy(phase.points, Drive((), torch.cat([x] * phase.folds)))
                total = (energy * phase.weights).sum()
            add_gradient_of(total, self.function)


class FieldNetwork(_FunctionNetwork):
    """A network from a vector field alone: ``s_l <- rho_l(field(state, x)_l)``.

    ``field.forward(state, x)`` is a module of your own that returns a tuple like ``state``, the total input to each
    layer. No energy: use the tangent readout.

    Raises:
        ConfigError: a field whose result does not have the shapes of the state.
    """

    def __init__(self, field: nn.Module, layers: dict[str, Layer], *, readout: int | None = None) -> None:
        super().__init__(field, layers, readout)

    def field(self, state: State, x: Tensor) -> State:
        z = self.function(state, x)
        if not isinstance(z, tuple) or [v.shape for v in z] != [s.shape for s in state]:
            got = [tuple(v.shape) for v in z] if isinstance(z, tuple) else type(z).__name__
            raise ConfigError(f"field: got {got}, needed a tuple of shapes {[tuple(s.shape) for s in state]}")
        return z


def as_module(function: Callable[..., Any], parameters: dict[str, Tensor]) -> nn.Module:
    """A module from a plain function ``function(parameters, state, x)`` and a dictionary of tensors to train.

    For users who have no module: ``EnergyNetwork(as_module(f, {"w": w}), layers)``; likewise for a field.
    """
    return _FunctionModule(function, parameters)


class _FunctionModule(nn.Module):
    def __init__(self, function: Callable[..., Any], parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self._function = function
        self.values = nn.ParameterDict({k: nn.Parameter(v.detach().clone()) for k, v in parameters.items()})

    def forward(self, state: State, x: Tensor) -> Any:
        return self._function(dict(self.values.items()), state, x)
