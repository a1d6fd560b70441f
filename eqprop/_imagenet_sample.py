"""A generated data set in the official layout of ImageNet 32x32: for tests, and for trying scripts without the data."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError, RunFolderError
from eqprop._imagenet32 import BATCHES, FOLDERS, MAP
from eqprop._names import lookup

FORMS = ("pickle", "npz")
_NAME = "generated_class_"  # of classes, in map_clsloc.txt


def generate_imagenet32(
    folder: str | os.PathLike[str],
    form: str = "pickle",
    *,
    classes: int = 10,
    per_batch: int = 64,
    validation: int = 200,
    noise: float = 0.25,
    seed: int = 0,
) -> Path:
    """Write ten training files, one validation file and map_clsloc.txt, as the official release has them.

    An image is a smooth coloured pattern of its class, brightened and shifted a little at random, plus noise: a network
    learns such classes in a few hundred images, and chance is 1 / classes. Both forms hold the same arrays.

    Args:
        folder: made where it is missing.
        form: "pickle" (files in the folder itself) or "npz" (in Imagenet32_train_npz/ and Imagenet32_val_npz/).
        classes: 1 to 1000; as many lines of map_clsloc.txt.
        per_batch: images in each of the ten training files.
        validation: images in val_data.
        noise: standard deviation of each pixel, for values in 0..1.
        seed: of patterns and images.

    Returns:
        the folder.

    Raises:
        ConfigError: an unknown form, or a number out of range.
        RunFolderError: the folder cannot be written, or holds such files that were not generated.

    Source: the layout of Chrabaszcz et al. 2017; the images are drawn.
    """
    lookup("form", form, dict.fromkeys(FORMS))
    for name, value, most in (
        ("classes", classes, 1000),
        ("per_batch", per_batch, None),
        ("validation", validation, None),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
            raise ConfigError(f"{name}: got {value!r}, needed a whole number from 1{f' to {most}' if most else ''}")
    if not noise >= 0:
        raise ConfigError(f"noise: got {noise}, needed at least 0")
    root = Path(folder).expanduser()
    lines = "".join(f"n{i:08d} {i} {_NAME}{i}\n" for i in range(1, classes + 1))
    _refuse_to_replace(root)
    atomic_write(root / MAP, lines.encode(), "the names of the classes")  # first: it tells what the files are
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(classes, 3, 4, 4, generator=generator)
    patterns = functional.interpolate(coarse, size=(40, 40), mode="bilinear", align_corners=True)
    sizes = {f"train_data_batch_{i}": per_batch for i in range(1, BATCHES + 1)} | {"val_data": validation}

    def batch(number: int, n: int) -> tuple[np.ndarray, list[int]]:
        return _draw(patterns, n, noise, torch.Generator().manual_seed(seed * 1_000_003 + number + 1))

    # twice over the training files rather than all of them in memory: each is drawn from a seed of its own
    train = list(sizes.items())[:BATCHES]
    sums = [batch(i, n)[0].sum(0, dtype=np.int64) for i, (_, n) in enumerate(train)]
    mean = np.sum(sums, axis=0) / (per_batch * BATCHES)
    for i, (stem, n) in enumerate(sizes.items()):
        data, labels = batch(i, n)
        part = "test" if stem == "val_data" else "train"
        extra = {"mean": mean} if part == "train" else {}
        if form == "pickle":
            path, content = root / stem, pickle.dumps({"data": data, "labels": labels, **extra}, protocol=4)
        else:
            path, buffer = root / FOLDERS["npz"][part] / f"{stem}.npz", io.BytesIO()
            np.savez(buffer, data=data, labels=np.asarray(labels), **extra)
            content = buffer.getvalue()
        atomic_write(path, content, "a generated batch")
    return root


def _refuse_to_replace(root: Path) -> None:
    """Raises RunFolderError where there are files of the release that this module did not write."""
    try:
        if _NAME in (root / MAP).read_text(encoding="utf-8", errors="replace"):
            return
    except OSError:
        pass
    names = [MAP, "val_data*", "train_data_batch_*", *(name for form in FOLDERS.values() for name in form.values())]
    found = next((path.name for name in names for path in root.glob(name)), None)
    if found:
        raise RunFolderError(f"{root}: got {found}, which was not generated and stays; needed a folder without it")


def _draw(patterns: Tensor, n: int, noise: float, generator: torch.Generator) -> tuple[np.ndarray, list[int]]:
    """n images uint8 [n, 3072] and labels from 1."""
    labels = torch.randint(len(patterns), (n,), generator=generator)
    down, right = torch.randint(9, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(32), right + torch.arange(32)
    images = patterns.permute(0, 2, 3, 1)[labels[:, None, None], rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
    gain = 0.7 + 0.3 * torch.rand(n, 1, 1, 1, generator=generator)
    images = gain * images + noise * torch.randn(images.shape, generator=generator)
    data = (255 * images.clamp(0, 1)).round().to(torch.uint8)
    return data.flatten(1).numpy(), (labels + 1).tolist()
