"""What a network is to the rest of the library: a dynamical system whose state is passed in and out, never stored."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from eqprop._activations import Activation
from eqprop._activations import activation as activation_named
from eqprop._errors import ConfigError, DataError
from eqprop._initializers import initial_weight
from eqprop._pairs import halves, times

State = tuple[Tensor, ...]
Blocks = tuple[tuple[int, ...], ...]


class Layer:
    """Shape and activation of a layer; the clamped input layer has no activation.

    Args:
        shape: number of units, or a tuple.
        activation: name or ``Activation``; None for the clamped input.
    """

    __slots__ = ("activation", "shape")

    def __init__(self, shape: int | Sequence[int], activation: str | Activation | None = None) -> None:
        self.shape: tuple[int, ...] = tuple(shape) if isinstance(shape, Sequence) else (shape,)
        if not self.shape or any(not isinstance(n, int) or n < 1 for n in self.shape):
            raise ConfigError(f"layer shape: got {shape!r}, needed positive whole numbers, as in Layer(256, 'tanh')")
        self.activation: Activation | None = None if activation is None else activation_named(activation)

    def __repr__(self) -> str:
        name = "clamped" if self.activation is None else self.activation.name
        return f"Layer({'x'.join(map(str, self.shape))}, {name})"


class Drive(NamedTuple):
    """All that depends on the clamped input only; constant over the phases of a sample.

    ``terms[l]`` is added to the input of layer ``l``: ``[batch, *shape]``, or ``[*shape]`` where only a bias acts.
    ``x`` is the clamped input, ``[batch, *input_shape]``.
    """

    terms: State
    x: Tensor


class Phase(NamedTuple):
    """Nudged equilibria and their weights in a contour.

    Attributes:
        points: states ``[folds * batch, *shape]``, the phases one after another; stacked pairs of that where
            ``paired``.
        weights: ``w_k`` of each sample, ``[folds * batch]``, or ``[2 * folds * batch]`` (real parts, imaginary parts).
        folds: number of phases.
        paired: whether states and weights are complex.
    """

    points: State
    weights: Tensor
    folds: int
    paired: bool = False

    def weighted(self, shapes: Sequence[tuple[int, ...]], origin: State | None = None) -> State:
        """``w_k (s_k - origin)``; of a pair the second half is the *negative* imaginary part.

        So that the bilinear form of a stacked state with a weighted one is the real part of ``w_k s_pre s_post``.
        """
        result = []
        for l, (s, shape) in enumerate(zip(self.points, shapes, strict=True)):
            w = self.weights.reshape(self.weights.shape + (1,) * len(shape))
            if not self.paired:
                s = s if origin is None else s - torch.cat([origin[l]] * self.folds, dim=-len(shape) - 1)
                result.append(s * w)
                continue
            re, im = halves(s)
            re = re if origin is None else re - torch.cat([origin[l]] * self.folds)
            w_re, w_im = halves(w)
            product = times((w_re, w_im), (re, im))
            result.append(torch.cat([product[0], product[1].neg_()]))
        return tuple(result)


@dataclass(frozen=True)
class Cache:
    """What a network prepares once a relaxation (operands of its products); opaque to everybody else."""

    content: Any = None


class Bath(Protocol):
    """What a physical system is in thermal contact with, see ``eqprop.Langevin``.

    Attributes:
        temperature: ``k T / C``, the variance of a node alone, in squared units of the state.
    """

    temperature: float

    def begin(self) -> None:
        """A relaxation in time begins: the system shall not add noise of its own to what it computes."""
        ...

    def normal(self, layer: int, like: Tensor, dims: int) -> Tensor:
        """Standard normal numbers in the shape of ``like``, a layer of ``dims`` dimensions; others at each call."""
        ...


class System:
    """What ``relax`` needs: shapes of a state, blocks of layers that may move together, the update of a block."""

    shapes: tuple[tuple[int, ...], ...]
    activations: tuple[Activation, ...]
    blocks: Blocks
    affine = False  # whether inputs are affine in the state
    holomorphic = False  # whether they have a holomorphic extension, as affine ones do
    bath: Bath | None = None  # of a substrate with thermal noise

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        """Operands prepared for one relaxation.

        Args:
            products: precision of matrix products (None: the state's).
            paired: whether states will be stacked real pairs (only asked where ``holomorphic``).
        """
        return Cache()

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        """Total input ``z_l`` to each layer in ``block``, in its order: fresh tensors that the caller may overwrite."""
        raise NotImplementedError

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        """New values of the layers in ``block``, in its order: ``s_l <- rho_l(z_l)``, all from the same ``state``."""
        return tuple(
            self.activations[l].inplace(z)
            if nudge is None or l not in nudge.layers
            else nudge.apply(l, z, state[l], self.activations[l])
            for l, z in zip(block, self.block_inputs(state, drive, block, cache), strict=True)
        )

    def pull(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        """What a flow in time pulls the layers in ``block`` towards: ``ds/dt = pull - s``.

        The update itself, unless a system knows where a box activation would go without its bounds, ``-dE/ds + s``.
        """
        return self.update(state, drive, nudge, block, cache)

    def within(self, layer: int, s: Tensor) -> Tensor:
        """States of a layer, projected on those that it can have."""
        bounds = self.activations[layer].bounds
        return s if bounds is None else s.clamp(*bounds)

    def sourced(self, nudge: Any) -> Any:
        """What a substrate's source makes of a nudge; here the nudge itself."""
        return nudge

    def distance(self, a: State, b: State) -> Tensor:
        """``max over units |a - b|`` a sample: ``[batch]``."""
        result: Tensor | None = None
        for p, q, shape in zip(a, b, self.shapes, strict=True):
            d = (p - q).abs_().amax(dim=tuple(range(-len(shape), 0)))
            result = d if result is None else torch.maximum(result, d)
        if result is None:
            raise ConfigError("network: got no layer that moves, needed at least one beside the input")
        return result

    def select(self, mask: Tensor, a: State, b: State) -> State:
        """``a`` where ``mask`` (a sample each), else ``b``."""
        return tuple(
            torch.where(mask.reshape(mask.shape + (1,) * len(shape)), p, q)
            for p, q, shape in zip(a, b, self.shapes, strict=True)
        )

    def repeat_drive(self, drive: Drive, times: int) -> Drive:
        """The drive of ``times`` copies of the batch, one after another."""
        if times == 1:
            return drive
        terms = tuple(
            torch.cat([t] * times, dim=-len(shape) - 1) if t.dim() > len(shape) else t
            for t, shape in zip(drive.terms, self.shapes, strict=True)
        )
        return Drive(terms, torch.cat([drive.x] * times))

    def repeat_state(self, state: State, times: int) -> State:
        """``times`` copies of a state, one after another along the batch."""
        return state if times == 1 else self.join_states([state] * times)

    def join_states(self, states: Sequence[State]) -> State:
        """Several states as one, one after another along the batch."""
        return tuple(
            torch.cat(parts, dim=-len(h) - 1) for parts, h in zip(zip(*states, strict=True), self.shapes, strict=True)
        )

    def split_state(self, state: State, parts: int) -> list[State]:
        """Undoes ``join_states``: views of the parts."""
        chunks = [s.chunk(parts, dim=-len(h) - 1) for s, h in zip(state, self.shapes, strict=True)]
        return [tuple(c[k] for c in chunks) for k in range(parts)]


class AdjointDynamics(System):
    """``s <- rho(c + H^T s)`` for any network, with ``H`` at a fixed state; see ``adjoint_dynamics``."""

    affine = True
    holomorphic = True

    def __init__(self, network: Network, state: State, drive: Drive) -> None:
        self.shapes, self.activations, self.blocks = network.shapes, network.activations, network.blocks
        self.bath = network.bath
        self._network, self._state, self._drive = network, state, drive

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return Cache({})  # H^T by the number of copies of the batch

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        copies = len(state[0]) // len(self._state[0])
        if copies not in cache.content:
            at, around = self.repeat_state(self._state, copies), self._network.repeat_drive(self._drive, copies)
            cache.content[copies] = self._network.tangent(at, around, transpose=True)
        back = cache.content[copies](state)
        return [drive.terms[l] + back[l] for l in block]


class Network(System, nn.Module):
    """Base of all attractor networks.

    A subclass gives ``drive``, ``inputs`` and ``update`` (closed form, no host synchronisation), ``phi`` where there is
    an energy, and the two gradient read-outs. The state is a tuple of tensors ``[batch, *shape]``, one a layer that
    moves, in the order of ``layers`` without the clamped input.

    Attributes:
        layers: name -> ``Layer``, the clamped input first.
        names: names of the layers that move.
        readout: ``nn.Linear`` outside the dynamics, or None.
        stacks_phases: whether several nudged phases may relax as one larger batch (not on every substrate), which
            ``begin_phases`` begins.
    """

    has_energy: bool = False
    tied: bool = False
    stacks_phases: bool = True
    readout: nn.Linear | None

    def __init__(
        self,
        layers: dict[str, Layer],
        *,
        readout: int | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(layers) < 2:
            raise ConfigError(f"layers: got {list(layers)}, needed the clamped input and at least one layer that moves")
        for position, (name, layer) in enumerate(layers.items()):
            if not isinstance(layer, Layer):
                raise ConfigError(f"layer {name!r}: got {type(layer).__name__}, needed Layer(units, activation)")
            if "." in name or "-" in name or not name:
                raise ConfigError(f"layer name: got {name!r}, needed a name without '.' and '-'")
            if (layer.activation is None) != (position == 0):
                raise ConfigError(
                    f"layer {name!r}: the first layer is the clamped input and has no activation, every other has one; "
                    f"got {layer!r} at position {position}"
                )
        self.layers = dict(layers)
        self.names = tuple(list(layers)[1:])
        self.shapes = tuple(layers[n].shape for n in self.names)
        self.activations = tuple(a for n in self.names if (a := layers[n].activation) is not None)
        self.input_shape = next(iter(layers.values())).shape
        self.blocks = tuple((i,) for i in range(len(self.names)))
        self.readout = None
        if readout is not None:
            if not isinstance(readout, int) or readout < 1:
                raise ConfigError(f"readout: got {readout!r}, needed a positive whole number of outputs, or None")
            generator = generator if generator is not None else torch.Generator().manual_seed(0)
            units = math.prod(self.shapes[-1])
            self.readout = nn.utils.skip_init(nn.Linear, units, readout, dtype=dtype)
            weight = initial_weight((readout, units), initializer="lecun_normal", generator=generator, dtype=dtype)
            with torch.no_grad():
                self.readout.weight.copy_(weight)
                self.readout.bias.zero_()

    # -- the interface of the dynamics ---------------------------------------------------------------------------------

    def drive(self, x: Tensor) -> Drive:
        """The contribution of the clamped input ``x [batch, *input_shape]``, biases included.

        Raises:
            DataError: wrong shape or type, or (on the CPU) values that are not finite.
        """
        raise NotImplementedError

    def inputs(self, state: State, drive: Drive) -> State:
        """Total input to every layer, ``z_l [batch, *shape]``."""
        return tuple(self.block_inputs(state, drive, range(len(state)), self.new_cache()))

    def phi(self, state: State, drive: Drive) -> Tensor:
        """The primitive function ``Phi(s, x)`` a sample, ``[batch]``, with ``dPhi/ds_l = inputs_l``."""
        raise ConfigError(f"{type(self).__name__} has no energy; use readout='tangent', or a HopfieldNetwork")

    def energy(self, state: State, drive: Drive) -> Tensor:
        """``E = sum_l rho*_l(s_l) - Phi(s, x)`` a sample, ``[batch]``.

        Where an activation is not monotone (dsilu) ``rho*`` does not exist and its term is ``z s - R(z)`` at the
        membrane ``z = inputs(s)``: the same at equilibrium, without the promise that it falls on the way.
        """
        total = -self.phi(state, drive)
        membranes: State | None = None
        for l, (s, rho, shape) in enumerate(zip(state, self.activations, self.shapes, strict=True)):
            if rho.conjugate is not None:
                term = rho.conjugate(s)
            else:
                membranes = self.inputs(state, drive) if membranes is None else membranes
                term = membranes[l] * s - rho.integral(membranes[l])
            total = total + term.sum(dim=tuple(range(-len(shape), 0)))
        return total

    def vjp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        """``H^T v``, with ``H = d inputs / d state`` at ``state``; by autograd unless a network knows better."""
        keep = torch.is_grad_enabled()  # the product itself may be differentiated by the parameters
        with torch.enable_grad():
            leaves = tuple(s.detach().requires_grad_() for s in state)
            z = self.inputs(leaves, drive)
            grads = torch.autograd.grad(z, leaves, vector, allow_unused=True, create_graph=keep)
        return tuple(torch.zeros_like(s) if g is None else g for g, s in zip(grads, state, strict=True))

    def jvp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        """``H v``; by autograd unless a network knows better.

        ``H^T u`` is linear in ``u``, and its derivative along ``v`` is ``H v``: two reverse passes, which also pass
        through a user's own use of autograd, where forward-mode differentiation fails.
        """
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            leaves = tuple(s.detach().requires_grad_() for s in state)
            z = self.inputs(leaves, drive)
            u = tuple(torch.zeros_like(v).requires_grad_() for v in z)
            backward = torch.autograd.grad(z, leaves, u, create_graph=True, allow_unused=True)
            pairs = [(g, v) for g, v in zip(backward, vector, strict=True) if g is not None and g.requires_grad]
            if not pairs:
                return tuple(torch.zeros_like(s) for s in state)
            outputs, along = zip(*pairs, strict=True)
            result = torch.autograd.grad(outputs, u, along, allow_unused=True, create_graph=keep)
        return tuple(torch.zeros_like(s) if g is None else g for g, s in zip(result, state, strict=True))

    def tangent(self, state: State, drive: Drive, *, transpose: bool) -> Callable[[State], State]:
        """``v -> H v`` (or ``H^T v``) at a state, prepared for many vectors of its batch."""
        product = self.vjp_inputs if transpose else self.jvp_inputs
        return lambda vector: product(state, vector, drive)

    def adjoint_dynamics(self, state: State, drive: Drive) -> tuple[System, Drive]:
        """The system ``s <- rho(z_0 + H^T (s - s_0))`` around the free equilibrium ``s_0 = state``, and its drive.

        Nudged, it answers with the true adjoint: ``ds/dbeta = -D (I - H^T D)^-1 dC/ds``, whatever the asymmetry of
        ``H`` (AsymEP; Scurria et al. 2026). On a tied network it is the network itself, to first order in ``s - s_0``.
        """
        z, back = self.inputs(state, drive), self.vjp_inputs(state, state, drive)
        constant = tuple(a - b for a, b in zip(z, back, strict=True))
        return self.linearised_transpose(state, drive), Drive(constant, drive.x)

    def linearised_transpose(self, state: State, drive: Drive) -> System:
        """The system ``s <- rho(c + H^T s)`` with ``H`` at ``state``, whose drive gives ``c``."""
        return AdjointDynamics(self, state, drive)

    def response(self, phases: Sequence[Phase], origin: State | None = None) -> State:
        """``sum_k Re[w_k (s_k - origin)]``, ``[batch, *shape]``: the error vector that nudged phases give."""
        total: list[Tensor] = []
        for phase in phases:
            for l, (shape, s) in enumerate(zip(self.shapes, phase.weighted(self.shapes, origin), strict=True)):
                s = s[: len(s) // 2] if phase.paired else s
                s = s if phase.folds == 1 else s.unflatten(-len(shape) - 1, (phase.folds, -1)).sum(-len(shape) - 2)
                if l == len(total):
                    total.append(s)
                else:
                    total[l] = total[l] + s
        return tuple(total)

    def add_contrast_gradient(self, phases: Sequence[Phase], x: Tensor) -> None:
        """``.grad += sum_k sum_batch Re[w_k dE/dtheta(s_k)]``: the contrast readout.

        Args:
            phases: equilibria and their weights.
            x: clamped input ``[batch, *input_shape]``, the same in all phases.
        """
        raise NotImplementedError

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        """``.grad += sum_batch (d inputs / d theta at state)^T direction``: the tangent readout."""
        raise NotImplementedError

    # -- the two hooks of a physical substrate -------------------------------------------------------------------------

    def begin_phase(self, phase: int) -> None:
        """Called before each relaxation; an ideal network does nothing."""

    def begin_phases(self, phases: range, system: System, drive: Drive, *, paired: bool = False) -> Drive:
        """Called before the relaxation of nudged phases that run together, one after another along the batch.

        Args:
            phases: their numbers; several only where ``stacks_phases``.
            system: what relaxes: the network, or what it made of itself.
            drive: of one.
            paired: whether states will be stacked real pairs, of which the real halves come first.

        Returns:
            The drive of all.
        """
        self.begin_phase(phases.start)
        return system.repeat_drive(drive, len(phases))

    def measure(self, state: State, phase: int) -> State:
        """What is read of an equilibrium; an ideal network reads it exactly."""
        return state

    # -- conveniences --------------------------------------------------------------------------------------------------

    def initial_state(self, batch: int) -> State:
        """Zeros, ``[batch, *shape]`` a layer; images channels-last, as convolutions want them."""
        like = next(self.parameters())
        zeros = (like.new_zeros((batch, *shape)) for shape in self.shapes)
        return tuple(z.contiguous(memory_format=torch.channels_last) if z.dim() == 4 else z for z in zeros)

    def output(self, state: State) -> Tensor:
        """``[batch, outputs]``: the flattened output layer, through the readout where there is one."""
        flat = state[-1].flatten(-len(self.shapes[-1]))
        return flat if self.readout is None else self.readout(flat)

    def predict(self, x: Tensor, **options: Any) -> Tensor:
        """Output at the free equilibrium, ``[batch, outputs]``; ``options`` go to ``eqprop.relax``."""
        from eqprop._relax import relax

        drive = self.drive(x)
        with torch.no_grad():
            return self.output(relax(self, self.initial_state(len(x)), drive, **options).state)

    def clone(self) -> Any:
        """An independent copy, parameters included."""
        return copy.deepcopy(self)

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description from which ``eqprop.network_from_spec`` rebuilds the network.

        Raises:
            ConfigError: the network holds a user's own function, which JSON cannot.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot be rebuilt from a file, for it holds your own code; "
            "build it again and write network.load_state_dict(...)"
        )

    def clamped(self, x: Tensor) -> Tensor:
        """``x`` in the network's dtype and shape: images go flat into a flat input, and flat rows into one of images.

        Raises:
            DataError: wrong shape (as height, width, channels) or type, or (on the CPU) values that are not finite.
        """
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise DataError(f"input: got {got}, needed a floating-point tensor; for images write images.float() / 255")
        dtype = next(self.parameters()).dtype
        if x.dim() == 0 or x.shape[1:] != self.input_shape:
            # of as many values, but in another order: a reshape would scramble the images
            reordered = x.dim() > 2 and len(self.input_shape) > 1 and _long(x.shape[1:]) != _long(self.input_shape)
            if x.dim() < 2 or math.prod(x.shape[1:]) != math.prod(self.input_shape) or reordered:
                raise DataError(f"input: got shape {tuple(x.shape)}, needed [batch, {_by(self.input_shape)}]")
            x = x.reshape(x.shape[0], *self.input_shape)
        if x.device.type == "cpu" and not math.isfinite(float(x.detach().sum())):
            bad = torch.nonzero(~torch.isfinite(x).flatten(1).all(1)).flatten().tolist()
            if bad:  # finite values may have an infinite sum
                raise DataError(
                    f"input: got NaN or infinite values in samples {bad[:8]} of the batch, needed finite ones"
                )
        return x.to(dtype)


def add_gradient_of(total: Tensor, module: nn.Module) -> None:
    """``.grad += d total / d theta`` for the parameters of ``module`` that ``total`` depends on."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters or not total.requires_grad:
        return
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for p, g in zip(parameters, gradients, strict=True):
        if g is not None:
            p.grad = g if p.grad is None else p.grad.add_(g)


def _long(shape: tuple[int, ...]) -> list[int]:
    """Without dimensions of size 1, which a reshape may add or leave out."""
    return [n for n in shape if n != 1]


def _by(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
