"""Training on a part of a data set, drawn by a seed: its images, or their positions among all training images."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

import eqprop
from eqprop._data_splits import stratified
from eqprop._errors import ConfigError
from eqprop._split import drawn


def fewer(data: eqprop.DataSplits, n: int | None, seed: int, option: str) -> eqprop.DataSplits:
    """The data set with ``n`` of its training images; None for all.

    Raises:
        ConfigError: more than there are; names the option.
    """
    if n is None:
        return data
    if n > len(data.train):
        raise ConfigError(f"{option}: got {n}, needed at most {len(data.train)}")
    return dataclasses.replace(data, train=data.train.subset(n, _seeded(seed)))


def positions(train: eqprop.Split, held: int, n: int | None, seed: int) -> Tensor:
    """Where the training images of ``fewer(load_dataset(..., validation=held, seed=seed), n, seed, ...)`` are in
    ``train``, from which nothing was held out: in their order, int64 ``[n]`` on the CPU."""
    left = torch.from_numpy(np.flatnonzero(~stratified(train.labels.cpu().numpy(), held, _seeded(seed))))
    return left if n is None else left[drawn(len(left), n, _seeded(seed))]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
