"""Synthetic saccade events: what an event camera would see if it were swept over a still image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._device_checks import require_number, require_whole
from snn._encoders import Encoder, channels

#: Corners of the path, in units of the amplitude (x right, y down): an isosceles triangle, as in N-MNIST.
_CORNERS = ((0.0, 0.0), (0.5, 1.0), (1.0, 0.0))


@dataclass(frozen=True, repr=False, kw_only=True)
class SaccadeEncoder(Encoder):
    """SYNTHETIC events in the geometry of N-MNIST: 34 x 34 pixels, two polarities, three saccades in 300 ms.

    This is no substitute for N-MNIST, which was recorded with a camera (Orchard, Jayawant, Cohen & Thakor 2015): the
    path, its amplitude and the contrast are ours, chosen so that MNIST's digits give about the 4,100 events of the
    real files. The image ``I`` moves along the sides of a triangle, one side a saccade, with the speed of a half sine.
    A pixel sees ``L(t) = ln(dark + I(t))`` (bilinear between pixels) and spikes where ``L`` has left its last
    reference by ``contrast``: ON for brighter, OFF for darker, at most one event a step, and the reference moves by
    ``contrast``. The pixels' contrasts differ by a factor ``1 + contrast_std z``, the same for all samples, and noise
    events fall on all channels at ``noise_rate_hz``.

    Channels: polarity (0 = OFF, 1 = ON), y, x, flattened, as ``EventFrames`` orders real events.

    Attributes:
        image: height and width of the image.
        sensor: height and width of the sensor; the image and its path must fit.
        saccades: sides of the triangle, run through in turn.
        amplitude: pixels that a corner is away.
        contrast: change of the logarithm that makes an event.
        dark: brightness of the black background, in units of white.
        contrast_std: relative spread of the pixels' contrasts.
        noise_rate_hz: of every channel.
        seed: of the spread and the noise, 0 or more.
    """

    steps: int = 300
    image: tuple[int, int] = (28, 28)
    sensor: tuple[int, int] = (34, 34)
    saccades: int = 3
    amplitude: float = 4.0
    contrast: float = 0.35
    dark: float = 0.1
    contrast_std: float = 0.03
    noise_rate_hz: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        require_whole(f"{name}.saccades", self.saccades, 1)
        require_whole(f"{name}.seed", self.seed, 0)
        for field in ("amplitude", "contrast", "dark"):
            require_number(f"{name}.{field}", getattr(self, field), above=0.0)
        require_number(f"{name}.contrast_std", self.contrast_std, least=0.0, most=0.2)
        require_number(f"{name}.noise_rate_hz", self.noise_rate_hz, least=0.0, most=1.0 / self.dt_seconds)
        for axis, (inner, outer) in enumerate(zip(self.image, self.sensor, strict=True)):
            # one pixel more: between whole positions an image covers one more row
            if min(inner, outer) < 1 or inner + math.ceil(self.amplitude) + 1 > outer:
                raise ConfigError(
                    f"{name}.sensor: got {outer} {('rows', 'columns')[axis]}, needed {inner} of the image and "
                    f"{math.ceil(self.amplitude) + 1} for a path of {self.amplitude:g} pixels; write a larger sensor "
                    "or a smaller amplitude"
                )

    def path(self) -> np.ndarray:
        """Where the image's corner is after 0, 1, ..., ``steps`` steps, ``[steps + 1, 2]`` (y, x), pixels."""
        phase = np.linspace(0.0, self.saccades, self.steps + 1)
        side = np.minimum(phase.astype(int), self.saccades - 1)
        eased = 0.5 - 0.5 * np.cos(np.pi * (phase - side))
        corners = np.array(_CORNERS)[:, ::-1] * self.amplitude
        start, stop = corners[side % 3], corners[(side + 1) % 3]
        # what the path leaves free is shared between both edges
        margin = (np.array(self.sensor) - np.array(self.image) - self.amplitude) / 2
        where: np.ndarray = start + (stop - start) * eased[:, None] + np.floor(margin)
        return where

    def _trains(self, x: Tensor, samples: list[int], lengths: list[int]) -> Iterator[Tensor]:
        rows = channels(x, least=0.0, most=1.0)
        if rows.shape[1] != math.prod(self.image):
            raise DataError(
                f"input: got {rows.shape[1]} values a sample, needed {math.prod(self.image)}, images of "
                f"{self.image[0]} x {self.image[1]}; write SaccadeEncoder(image=(height, width))"
            )
        images = rows.reshape(-1, *self.image)
        path = self.path()
        spread = torch.randn(self.sensor, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float32)
        contrast = (self.contrast * (1.0 + self.contrast_std * spread)).to(images)
        count = 2 * math.prod(self.sensor)
        noise = [self._noise(n, count) for n in samples]

        def seen(step: int) -> Tensor:
            return torch.log(self.dark + _placed(images, path[step], self.sensor))

        def made() -> Iterator[Tensor]:
            reference, start = seen(0), 0
            for length in lengths:
                events = torch.zeros(len(images), length, 2, *self.sensor, dtype=torch.bool, device=x.device)
                for step in range(length):
                    change = seen(start + step + 1) - reference
                    off, on = change <= -contrast, change >= contrast
                    events[:, step, 0], events[:, step, 1] = off, on
                    reference += contrast * (on.to(reference.dtype) - off.to(reference.dtype))
                for row, places in enumerate(noise):
                    low, high = np.searchsorted(places, (start * count, (start + length) * count))
                    at = torch.from_numpy(places[low:high] - start * count).to(x.device)
                    events[row].view(-1).index_fill_(0, at, True)
                start += length
                yield events.flatten(2)

        return made()

    def _noise(self, sample: int, count: int) -> np.ndarray:
        """Places of the sample's noise events among ``steps x count`` (time first), sorted."""
        source = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, sample])))
        events = source.binomial(self.steps * count, self.noise_rate_hz * self.dt_seconds)
        return np.sort(source.choice(self.steps * count, events, replace=False, shuffle=False))


def _placed(images: Tensor, corner: np.ndarray, sensor: tuple[int, int]) -> Tensor:
    """The images with their corner at a position between pixels, on a black sensor, ``[batch, height, width]``."""
    whole = np.floor(corner).astype(int)
    part = corner - whole
    placed = images.new_zeros(len(images), *sensor)
    height, width = images.shape[1:]
    for down in (0, 1):
        for right in (0, 1):
            weight = float((part[0] if down else 1 - part[0]) * (part[1] if right else 1 - part[1]))
            if weight:
                top, left = whole[0] + down, whole[1] + right
                placed[:, top : top + height, left : left + width].add_(images, alpha=weight)
    return placed
