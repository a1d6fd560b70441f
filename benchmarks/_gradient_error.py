"""Gradients against a reference: the relative error that the checks of exactness report."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import eqprop
from eqprop._diagnostics import match, parameters_by_layer

Problem = tuple[Any, Tensor, Tensor]  # a network, inputs and labels


def flat(gradients: dict[str, Tensor]) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([g.flatten() for g in gradients.values()])


def relative_error(g: Tensor, truth: Tensor) -> float:
    """``|g - t| / |t|``."""
    return float((g - truth).norm() / truth.norm())


def by_layer(problem: Problem, rule: eqprop.Rule, reference: eqprop.Rule) -> dict[str, Any]:
    """The relative error of a rule's gradient, of all parameters and by layer, and the cosine by layer: columns."""
    g, t = (eqprop.gradients(problem[0], r, *problem[1:]) for r in (rule, reference))
    layers = {
        layer: match(*(torch.cat([d[name].flatten() for name in names]) for d in (g, t)))
        for layer, names in parameters_by_layer(problem[0]).items()
    }
    return {
        "relative_error": relative_error(flat(g), flat(t)),
        "layer_relative_error": {layer: found.relative_error for layer, found in layers.items()},
        "layer_gradient_cosine": {layer: found.cosine for layer, found in layers.items()},
    }
