"""What is done to images on their way into a network: normalisation a channel, and seeded flips and shifted crops."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup

MODES = ("zero", "edge", "reflect")


@dataclass(frozen=True)
class Normalise:
    """Normalisation of each channel: ``x -> (x - mean) / std`` for x in 0..1.

    Args:
        mean, std: one number a channel, in units of x.

    Raises:
        ConfigError: lengths that differ, values that are not finite, or a std that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ConfigError(
                f"Normalise: got {len(self.mean)} means and {len(self.std)} stds, needed one of each a channel; "
                "write Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))"
            )
        if not all(math.isfinite(value) for value in self.mean + self.std) or min(self.std) <= 0:
            raise ConfigError(
                f"Normalise: got mean {self.mean} and std {self.std}, needed finite values and a std above 0; "
                "a channel that never changes has none: write std=1 for it"
            )

    def scaled(self, factor: float) -> Normalise:
        """The same with every std times a factor: papers on EP divide by 1.5 or 3 stds to keep inputs small."""
        return Normalise(self.mean, tuple(factor * value for value in self.std))

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std, float32 [C, 1, 1]. Waits for the device, so that a pass over the data makes them once."""
        mean, std = (torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1).to(device) for v in (self.mean, self.std))
        return mean, std

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description for records."""
        return {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class Draws:
    """What chance decided for n images: int64 offsets of the crop and bool flips, [n] each, on the images' device."""

    flips: Tensor
    down: Tensor
    right: Tensor

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(self.flips[rows], self.down[rows], self.right[rows])


@dataclass(frozen=True)
class Augmentation:
    """A crop of the padded image, in its old size at a random place, then mirrored left to right with a probability.

    Every image has draws of its own. They are made on the CPU for a whole pass over the data at once, so that they
    depend neither on the device nor on the batch size, and a resumed run has them again without repeating its work.

    Args:
        flip: probability that an image is mirrored; 0.5 for photographs, 0 for digits.
        pad: pixels added on every side before the crop; 0 crops nothing.
        mode: what is added: "zero" (0 after normalisation, which is the mean of the channel), "edge" (the outermost
            pixel) or "reflect" (the image mirrored at its outermost pixel).

    Raises:
        ConfigError: a probability out of 0..1, a negative pad or an unknown mode.

    Source: flip and 4-pixel pad-crop of He et al. 2016 (section 4.2), as in all published EP results on CIFAR-10.
    """

    flip: float = 0.5
    pad: int = 4
    mode: str = "zero"

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip: got {self.flip}, needed a probability, 0 to 1; write flip=0.5")
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 0:
            raise ConfigError(f"pad: got {self.pad!r}, needed a whole number of pixels from 0 on; write pad=4")
        lookup("mode", self.mode, dict.fromkeys(MODES))

    def check(self, height: int, width: int) -> None:
        """Raises ConfigError where images of that size cannot be padded so."""
        if self.mode == "reflect" and self.pad >= min(height, width):
            raise ConfigError(
                f"pad: got {self.pad} with mode='reflect' for images of {height}x{width}, needed at most "
                f"{min(height, width) - 1}, for there is no more to mirror; write mode='edge'"
            )

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> Draws:
        """Draws for n images from a CPU generator, always as many numbers whatever the settings."""
        flips = torch.rand(n, generator=generator) < self.flip
        down, right = torch.randint(2 * self.pad + 1, (2, n), generator=generator)
        return Draws(flips.to(device), down.to(device), right.to(device))

    def move(self, pixels: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """The cropped and mirrored images, and where they show padding that is to be 0 after normalisation.

        One gather over the batch, without waiting for the device.

        Args:
            pixels: [B, H, W] or [B, C, H, W], any dtype.
            draws: of these B images.

        Returns:
            pixels of the same shape, and bool [B, 1, H, W] ([B, H, W] for images without channels) or None.
        """
        height, width = pixels.shape[-2:]
        down = torch.arange(height, device=pixels.device) + (draws.down - self.pad).unsqueeze(1)
        across = torch.arange(width, device=pixels.device)
        right = torch.where(draws.flips.unsqueeze(1), across.flip(0), across) + (draws.right - self.pad).unsqueeze(1)
        outside = None
        if self.mode == "zero" and self.pad:
            outside = _beyond(down, height).unsqueeze(2) | _beyond(right, width).unsqueeze(1)
            outside = outside if pixels.dim() == 3 else outside.unsqueeze(1)
        if self.mode == "reflect":
            down, right = _mirrored(down, height), _mirrored(right, width)
        else:
            down, right = down.clamp(0, height - 1), right.clamp(0, width - 1)
        source = (down.unsqueeze(2) * width + right.unsqueeze(1)).flatten(1)
        planes = pixels.reshape(len(pixels), -1, height * width)
        moved = planes.gather(2, source.unsqueeze(1).expand_as(planes))
        return moved.reshape(pixels.shape), outside

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description for records."""
        return asdict(self)


def _beyond(at: Tensor, size: int) -> Tensor:
    return (at < 0) | (at >= size)


def _mirrored(at: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - at.abs()).abs()
