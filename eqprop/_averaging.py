"""The gradient of a joint batch from those of its parts, by one sum over the processes a precision."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eqprop._distributed import Workers
from eqprop._errors import ConfigError
from eqprop._share import Share, sharing

# Where no sample counts, in any process, regularisers still act: each process then weighs this much a sample. Beside
# samples that do count it is lost in rounding.
_NEGLIGIBLE = 2.0**-80
_SAMPLES, _WEIGHT, _LOSS, _PENALTIES = range(4)  # where they are in the record


def joint_backward(rule: Any, network: nn.Module, x: Tensor, y: Tensor, workers: Workers) -> tuple[Any, Share]:
    """``rule.backward`` on a joint batch: fills ``.grad`` with its gradient, in every process.

    Returns:
        The step, of this process's part of the batch except for ``loss`` and ``penalties``, and the part.
    """
    share = workers.share(len(x))
    if workers.size == 1:
        return rule.backward(network, x, y), share
    with sharing(share):
        step = rule.backward(network, x[share.rows], y[share.rows])
    return average(network, step, share, workers), share


@torch.no_grad()
def average(network: nn.Module, step: Any, share: Share, workers: Workers) -> Any:
    """Make the gradients of all processes that of the joint batch.

    A rule leaves ``.grad`` as that of the mean over the counted samples of its part. With ``n_r`` of them in process
    ``r``, that of the joint batch is ``sum_r n_r g_r / sum_r n_r``; loss and penalties likewise. Everything is added up
    in one flat tensor a precision (bfloat16 and float16 in float32), and comes out the same, bit for bit, everywhere.

    Args:
        network: whose gradients.
        step: what ``rule.backward`` returned for the part.
        share: the part.

    Returns:
        The step with ``loss`` and ``penalties`` of the joint batch; all else is still that of the part.

    Raises:
        ConfigError: a parameter has a gradient in some processes and none in others.
        TrainingError: a process is lost.
    """
    named = list(network.named_parameters())
    penalties = getattr(step, "penalties", None) or {}
    record = _record(step, share, penalties, [p.grad is not None for _, p in named])
    groups: dict[torch.dtype, list[nn.Parameter]] = {record.dtype: []}  # the first carries the record
    for _, p in named:
        groups.setdefault(_wide(p.dtype), []).append(p)
    head, weight = len(record), record[_WEIGHT]
    for index, (dtype, members) in enumerate(groups.items()):
        flat = torch.cat([record if index == 0 else record[:0].to(dtype), *(_flat(p, dtype) for p in members)])
        gradients = flat[head:] if index == 0 else flat
        if share.counts:
            gradients.mul_(weight)
        else:  # not by a weight of 0: what a borrowed sample gave may not be finite
            gradients.zero_()
        workers.add_up(flat)
        if index == 0:
            record = flat[:head]
            _require_same_gradients([name for name, _ in named], record[head - len(named) :], workers.size)
        gradients.div_(record[_WEIGHT])
        for p, part in zip(members, gradients.split([p.numel() for p in members]), strict=True):
            if p.grad is not None:
                p.grad.copy_(part.view_as(p))
    joint: dict[str, Any] = {"loss": (record[_LOSS] / record[_SAMPLES]).to(step.loss.dtype)}
    if penalties:
        means = (record[_PENALTIES : _PENALTIES + len(penalties)] / record[_WEIGHT]).to(step.loss.dtype)
        joint["penalties"] = dict(zip(sorted(penalties), means.unbind(), strict=True))
    return _changed(step, joint)


def _record(step: Any, share: Share, penalties: Mapping[str, Tensor], has_gradient: list[bool]) -> Tensor:
    """Counted samples, weight, weighted loss and penalties of the part, and which parameters have a gradient."""
    wide = _wide(step.loss.dtype)
    counted = getattr(step, "counted", None)
    n = step.loss.new_tensor(share.samples, dtype=wide)
    if counted is not None and share.counts:
        n = counted.sum().to(wide)
    weight = torch.where(n > 0, n, _NEGLIGIBLE * share.samples)
    # the loss of a part without counted samples is NaN
    values = [n, weight, torch.where(n > 0, n * step.loss, 0.0)]
    for _, value in sorted(penalties.items()):
        values.append(weight * value if share.counts else torch.zeros_like(n))
    return torch.cat([torch.stack([v.to(wide) for v in values]), n.new_tensor(has_gradient)])


def _require_same_gradients(names: list[str], processes: Tensor, size: int) -> None:
    """Raises ``ConfigError`` unless each parameter has a gradient in all processes or in none."""
    for name, found in zip(names, processes.tolist(), strict=True):
        if found not in (0.0, float(size)):
            raise ConfigError(
                f"{name}: it has a gradient in {found:.0f} of {size} processes, needed all or none; a rule must give "
                "the same parameters a gradient whatever the samples are"
            )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _flat(p: nn.Parameter, dtype: torch.dtype) -> Tensor:
    gradient = torch.zeros_like(p) if p.grad is None else p.grad
    return gradient.reshape(-1).to(dtype)


def _changed(step: Any, values: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(step) and not isinstance(step, type):
        return dataclasses.replace(step, **values)
    joint = copy.copy(step)  # that of a user's rule, which may lack some of it
    for name, value in values.items():
        setattr(joint, name, value)
    return joint
