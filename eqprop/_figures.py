"""Figures of a run, as matplotlib `Figure` objects: nothing here touches pyplot's global state or opens a window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor, nn

from eqprop._errors import ConfigError
from eqprop._history import History
from eqprop._residual_map import ResidualMap

# Okabe & Ito: distinguishable by readers with any colour vision
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#777777"
_CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _tidy(axes: Axes, *, grid: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)


def learning_curves(history: History, title: str | None = None) -> Figure:
    """Error and loss over epochs, of the training and, where there is one, the validation split.

    With Jacobian homeostasis, its loss ``S`` too, on a logarithmic scale.
    """
    if len(history) == 0:
        raise ConfigError("learning_curves: the history is empty; train at least one epoch first.")
    asymmetry = {"homeostasis_norm", "homeostasis_symmetry"} <= set(history)
    figure = Figure(figsize=(12 if asymmetry else 8, 3.2), layout="constrained")
    left, right, *third = figure.subplots(1, 3 if asymmetry else 2)
    epochs = history["epoch"] if "epoch" in history else np.arange(1, len(history) + 1)
    marker = "o" if len(history) <= 30 else None
    for axes, quantity in ((left, "error"), (right, "loss")):
        for split, colour, style in (("train", GREY, "--"), ("validation", BLUE, "-")):
            name = f"{split}_{quantity}"
            if name in history:
                axes.plot(epochs, history[name], style, color=colour, marker=marker, markersize=3, label=split)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes)
    left.set_ylabel("error")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.set_ylabel("loss")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    for axes in third:
        total = _positive(history["homeostasis_norm"] + history["homeostasis_symmetry"])
        axes.semilogy(epochs, total, color=PURPLE, marker=marker, markersize=3)
        axes.set_xlabel("epoch")
        axes.set_ylabel("homeostatic loss $S$")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes)
    _label_last(left, history, epochs)
    right.legend(frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _label_last(axes: Axes, history: History, epochs: np.ndarray) -> None:
    name = "validation_error" if "validation_error" in history else "train_error"
    if name not in history or math.isnan(history[name][-1]):
        return
    value = history[name][-1]
    axes.annotate(
        f"{value:.2%}", (epochs[-1], value), xytext=(0, 7), textcoords="offset points", ha="right", color=BLUE
    )


def receptive_fields(
    weights: Any, layer: str | None = None, *, shape: tuple[int, int] | None = None, most: int = 64
) -> Figure:
    """Incoming weights of units as images: blue lowers the unit's input, red raises it, white is zero.

    Filters of a convolution of images in colour are drawn in colour: grey is zero, and a filter raises its unit's input
    where the image has the filter's colours.

    Args:
        weights: array or tensor [units, pixels], or filters [units, 1 or 3, height, width]; or a network, with the name
            of a layer that the input feeds.
        layer: name of the layer, for the title.
        shape: of an image; None for a square.
        most: units shown: those with the largest weights.

    Raises:
        ConfigError: weights that are no images, or a network whose input does not feed `layer`.
    """
    matrix = _array(_weights_from_input(weights, layer) if isinstance(weights, nn.Module) else weights)
    colours = matrix.ndim == 4 and matrix.shape[1] == 3
    if matrix.ndim == 4 and matrix.shape[1] in (1, 3):
        shape = matrix.shape[2], matrix.shape[3]
        matrix = np.moveaxis(matrix, 1, -1).reshape(len(matrix), -1)
    elif matrix.ndim != 2:
        raise ConfigError(
            f"receptive_fields: got weights of shape {list(matrix.shape)}, needed [units, pixels], or filters "
            "[units, 1 or 3, height, width]."
        )
    planes = 3 if colours else 1
    side = math.isqrt(matrix.shape[1])
    height, width = shape or (side, side)
    if height * width * planes != matrix.shape[1]:
        raise ConfigError(
            f"receptive_fields: {matrix.shape[1]} pixels are no image of {height} x {width}; write shape=(h, w)."
        )
    units = matrix.shape[0]
    order = np.argsort(-np.linalg.norm(matrix, axis=1), kind="stable")[:most]
    columns = math.ceil(math.sqrt(len(order) * height / width))
    rows = math.ceil(len(order) / columns)
    pad = max(1, width // 14)
    canvas = np.full((rows * (height + pad) - pad, columns * (width + pad) - pad, planes), 1.0 if colours else np.nan)
    for index, unit in enumerate(order):
        top, start = index // columns * (height + pad), index % columns * (width + pad)
        tile = matrix[unit]
        # each tile on its own scale, but for a few outliers: what a unit looks for, not how strongly
        canvas[top : top + height, start : start + width] = np.clip(
            tile / max(np.quantile(np.abs(tile), 0.995), 1e-12), -1, 1
        ).reshape(height, width, planes)
    figure = Figure(figsize=(5.6, 4.8 * canvas.shape[0] / canvas.shape[1] + 0.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        0.5 + 0.5 * canvas if colours else canvas[..., 0], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
    )
    axes.set_axis_off()
    shown = f"all {units} units" if len(order) == units else f"{len(order)} of {units} units"
    axes.set_title(f"Weights into {layer or 'the first layer'} ({shown})", fontsize=11)
    if colours:
        return figure
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["−", "0", "+"])
    bar.outline.set_visible(False)
    return figure


def _weights_from_input(network: nn.Module, layer: str | None) -> Tensor:
    names = list(getattr(network, "layers", {}))
    target = layer or (names[1] if len(names) > 1 else "")
    for name, parameter in network.named_parameters():
        if names and f"{names[0]}-{target}" in name and parameter.dim() in (2, 4):
            return parameter
    raise ConfigError(
        f"receptive_fields: no connection from the input to layer {target!r}; the layers are {', '.join(names)}."
    )


def relaxation(phases: Mapping[str, tuple[Any, Any]], tol: float | None = None, title: str | None = None) -> Figure:
    """Energy and residual along the phases of a relaxation.

    Energies are drawn as the distance from the end of their phase, which falls to nothing as a phase settles (from
    above, but for nudges that are not minimised exactly); without any energy there is one panel, the residuals.

    Args:
        phases: name -> (energy, residual), each [sweeps] or [sweeps, batch] (mean, and thin the worst sample), or
            None where there is none. The first is the free phase; each nudged one starts from its end.
        tol: tolerance to mark in the residuals.
    """
    panels = 2 if any(energy is not None for energy, _ in phases.values()) else 1
    figure = Figure(figsize=(8 if panels == 2 else 5.6, 3.5), layout="constrained")
    *energy_axes, residual_axes = figure.subplots(1, panels, squeeze=False)[0]
    start = 0
    for index, (name, (energy, residual)) in enumerate(phases.items()):
        colour = _CYCLE[index % len(_CYCLE)]
        drawn = [(axes, energy, True) for axes in energy_axes] + [(residual_axes, residual, False)]
        for axes, values, distance in drawn:
            if values is None:
                continue
            series = _array(values)
            series = series[:, None] if series.ndim == 1 else series
            if distance:
                series = np.abs(series - series[-1])[:-1]
            sweeps = start + np.arange(1, len(series) + 1)
            mean, worst = series.mean(axis=1), series.max(axis=1)
            axes.plot(sweeps, _positive(mean), color=colour, marker="o", markersize=2.5, label=name)
            if series.shape[1] > 1:
                axes.plot(sweeps, _positive(worst), color=colour, linewidth=0.9, alpha=0.5)
        if index == 0:
            start = max(len(_array(v)) for v in (energy, residual) if v is not None)
    labels = [*["|energy − that of the phase's end|"][: len(energy_axes)], "residual  max |update(s) − s|"]
    for axes, label in zip((*energy_axes, residual_axes), labels, strict=True):
        axes.set_xlabel("sweep")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if any(np.any(_array(line.get_ydata()) > 0) for line in axes.get_lines()):
            axes.set_yscale("log")
        axes.axvline(start + 0.5, color=GREY, linewidth=0.8, linestyle=":")
        _tidy(axes)
    if tol is not None:
        residual_axes.axhline(tol, color=GREY, linewidth=0.8, linestyle="--", label=f"tolerance {tol:g}")
    handles, names = residual_axes.get_legend_handles_labels()
    figure.legend(
        [*handles, Line2D([], [], color=GREY, linewidth=0.9)],
        [*names, "thin: the worst sample"],
        loc="outside lower center",
        ncols=panels + 1,  # more would not fit between the edges
        frameon=False,
    )
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _positive(values: np.ndarray) -> np.ndarray:
    """What a logarithmic axis can show."""
    return np.where(values > 0, values, np.nan)


def gradient_alignment(
    values: Mapping[str, Any], reference: str = "implicit gradient", epochs: Sequence[float] | None = None
) -> Figure:
    """Cosine between the rule's gradient and a ground truth, per layer; where there is none, a word on why.

    Args:
        values: layer -> cosine (or `GradientMatch`), drawn as bars; or layer -> series over `epochs`, drawn as lines.
        reference: what the gradient is compared with.
        epochs: abscissa of series; None for 1, 2, ...
    """
    if not values:
        raise ConfigError("gradient_alignment: got no layers; pass what eqprop.compare_gradients returned.")
    series = {name: np.atleast_1d(_array(getattr(value, "cosine", value))) for name, value in values.items()}
    length = max(len(column) for column in series.values())
    figure = Figure(figsize=(5.6, 3.2 if length > 1 else 0.9 + 0.42 * len(series)), layout="constrained")
    axes = figure.subplots()
    if length > 1:
        abscissa = np.arange(1, length + 1) if epochs is None else np.asarray(epochs)
        for index, (name, column) in enumerate(series.items()):
            label = f"{name} (n/a)" if np.isnan(column).all() else name
            axes.plot(abscissa, column, color=_CYCLE[index % len(_CYCLE)], marker="o", markersize=3, label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"cosine with the {reference}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        axes.set_ylim(top=1.02)
        _tidy(axes)
        return figure
    names = list(series)
    words = [_cosine_text(values[name], float(series[name][0]), reference) for name in names]
    cosines = np.nan_to_num([series[name][0] for name in names])
    places = np.arange(len(names))[::-1]
    axes.barh(places, cosines, color=[BLUE if value >= 0 else RED for value in cosines], height=0.6)
    for place, value, word in zip(places, cosines, words, strict=True):
        axes.annotate(
            word, (max(value, 0.0), place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(places, names)
    axes.set_xlim(min(0.0, float(cosines.min()) * 1.1), 1.15)
    axes.set_xticks([tick for tick in (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0) if tick >= axes.get_xlim()[0]])
    axes.set_xlabel(f"cosine of the gradient with the {reference}")
    _tidy(axes, grid=False)
    return figure


def _cosine_text(value: Any, cosine: float, reference: str) -> str:
    """The cosine, or why it says nothing: a gradient that is 0, or not finite, has no direction."""
    if getattr(value, "norm_ratio", None) == 0.0:
        return "gradient is 0"
    if not math.isnan(cosine):
        return f"{cosine:.4f}"
    ratio = getattr(value, "norm_ratio", None)
    return "both gradients are 0" if ratio == 1.0 else f"{reference} is 0" if ratio == math.inf else "n/a"


def stability_map(map: ResidualMap, title: str | None = None) -> Figure:
    """Residuals over the complex plane of the nudge, with the points of the rule's contour and its circle.

    Dark blue has settled, light has not; grey never stayed finite. The black line is the rule's tolerance.
    """
    values = _array(map.log10_residual)
    edge = float(map.betas.real.max())
    half_pixel = edge / (len(values) - 1)
    extent = (-edge - half_pixel, edge + half_pixel) * 2
    finite = values[np.isfinite(values)]
    figure = Figure(figsize=(5.4, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#9a9a9a")
    low = float(finite.min()) if finite.size else -1.0
    # beyond 1 a residual is as large as the states themselves: no more to tell apart
    high = max(low + 1.0, min(0.0, float(finite.max()) if finite.size else 0.0))
    image = axes.imshow(
        np.where(np.isfinite(values), values, np.nan),
        origin="lower",
        extent=extent,
        cmap="YlGnBu_r",
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    tol = math.log10(map.tol) if map.tol > 0 else -math.inf
    axis = map.betas.real[0].numpy()
    filled = np.where(np.isfinite(values), values, 10.0)
    if filled.min() < tol < filled.max():
        axes.contour(axis, axis, filled, levels=[tol], colors="black", linewidths=0.8, linestyles="solid")
        axes.plot([], [], color="black", linewidth=0.8, label=f"tolerance {map.tol:g}")
    if map.nudges:
        angle = np.linspace(0, 2 * np.pi, 361)
        r = abs(map.nudges[0])
        axes.plot(r * np.cos(angle), r * np.sin(angle), color=RED, linewidth=1.2)
        label = f"|β| = {r:g}, {len(map.nudges)} point{'s' * (len(map.nudges) > 1)}"
        marks: dict[str, Any] = {"color": RED, "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.8}
        axes.plot([b.real for b in map.nudges], [b.imag for b in map.nudges], "o", label=label, **marks)
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    axes.set_xlabel("Re β")
    axes.set_ylabel("Im β")
    axes.set_title(title or f"Residual of the nudged phase after {map.sweeps} sweeps", fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, extend="max" if values.max() > high else "neither")
    bar.set_label("log10 of the largest residual over the batch")
    bar.outline.set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
