"""Normalisation and augmentation of batches, and splits whose images stay in a file."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from eqprop._augment import MODES, Augmentation, Draws, Normalise
from eqprop._callbacks import Callback
from eqprop._data_splits import DataSplits
from eqprop._ep import EquilibriumPropagation
from eqprop._errors import ConfigError, DataError
from eqprop._hopfield import HopfieldNetwork
from eqprop._mapped import MappedSplit
from eqprop._split import Split, after
from eqprop._stop import Sweeps
from eqprop._trainer import Trainer

PADDING = {"zero": "constant", "edge": "edge", "reflect": "reflect"}  # numpy's names


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colour(n: int = 40, device: torch.device | str = "cpu", **steps: Any) -> Split:
    return Split(pixels(n, 3, 8, 6).to(device), (torch.arange(n) % 10).to(device), **steps)


def data(n: int = 40, **steps: Any) -> DataSplits:
    split = colour(n, **steps)
    return DataSplits("random", "drawn", split, colour(7), colour(9), tuple("0123456789"), (3, 8, 6))


# ---- the reference: image by image, as one would write it without batches --------------------------------------------


def one(image: np.ndarray, augmentation: Augmentation, flip: bool, down: int, right: int) -> np.ndarray:
    """Pad, crop, mirror one image [..., H, W]."""
    pad, (height, width) = augmentation.pad, image.shape[-2:]
    sides = [(0, 0)] * (image.ndim - 2) + [(pad, pad)] * 2
    padded = np.pad(image, sides, mode=PADDING[augmentation.mode])  # type: ignore[call-overload]
    cropped = padded[..., down : down + height, right : right + width]
    return cropped[..., ::-1] if flip else cropped


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("flip", "pad"), [(0.5, 4), (0.5, 0), (0.0, 2), (1.0, 1)])
@pytest.mark.parametrize("shape", [(50, 3, 8, 6), (50, 7, 5), (50, 1, 5, 5)])
def test_augmented_batches_are_the_images_treated_one_by_one(
    mode: str, flip: float, pad: int, shape: tuple[int, ...], device: torch.device
) -> None:
    augmentation = Augmentation(flip, pad, mode)
    images = pixels(*shape)
    split = Split(images.to(device), torch.arange(50, device=device) % 10, augment=augmentation)
    drawn = generator(3)
    order = torch.randperm(50, generator=drawn)
    flips = torch.rand(50, generator=drawn) < flip
    down, right = torch.randint(2 * pad + 1, (2, 50), generator=drawn)
    expected = [
        one(images[i].numpy(), augmentation, bool(flips[at]), int(down[at]), int(right[at]))
        for at, i in enumerate(order)
    ]
    batches = list(split.batches(16, generator=generator(3)))
    got = torch.cat([x for x, _ in batches]).cpu()
    wanted = torch.tensor(np.stack(expected)).float() / 255
    assert torch.equal(got, wanted.flatten(1) if len(shape) == 3 else wanted)
    assert torch.cat([y for _, y in batches]).tolist() == (order % 10).tolist()
    assert pad == 0 or len(set(down.tolist())) == len(set(right.tolist())) == 2 * pad + 1


def test_padding_is_zero_after_normalisation() -> None:
    normalise = Normalise((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    split = colour(normalise=normalise, augment=Augmentation(0.0, 3))
    plain = replace(split, augment=None).inputs()
    drawn = generator(1)
    order = torch.randperm(40, generator=drawn)
    torch.rand(40, generator=drawn)
    down, right = torch.randint(7, (2, 40), generator=drawn)
    ((x, _),) = split.batches(40, generator=generator(1))
    padded = torch.nn.functional.pad(plain, (3, 3, 3, 3))
    for at, i in enumerate(order.tolist()):
        cropped = padded[i, :, down[at] : down[at] + 8, right[at] : right[at] + 6]
        assert torch.equal(x[at], cropped)


def test_every_image_has_draws_of_its_own_and_half_are_mirrored() -> None:
    draws = Augmentation().draw(4000, generator(), torch.device("cpu"))
    assert abs(draws.flips.float().mean() - 0.5) < 0.03
    for offsets in (draws.down, draws.right):
        counts = torch.bincount(offsets, minlength=9)
        assert len(counts) == 9 and (counts - 4000 / 9).abs().max() < 4 * (4000 / 9) ** 0.5
    together = torch.stack([draws.down, draws.right, draws.flips.long()]).float()
    assert (torch.corrcoef(together) - torch.eye(3)).abs().max() < 0.06


@pytest.mark.parametrize("setting", [Augmentation(0.0, 4), Augmentation(0.5, 4, "edge"), Augmentation(0.9, 4)])
def test_the_order_and_the_crops_do_not_depend_on_the_other_settings(setting: Augmentation) -> None:
    a, b = (s.draw(20, generator(), torch.device("cpu")) for s in (Augmentation(), setting))
    assert torch.equal(a.down, b.down) and torch.equal(a.right, b.right)
    labels = [[y.tolist() for _, y in colour(augment=s).batches(7, generator=generator())] for s in (None, setting)]
    assert labels[0] == labels[1]


def test_the_draws_do_not_depend_on_the_batch_size_or_on_when_batches_are_made() -> None:
    split, shared = colour(augment=Augmentation()), generator(5)
    first, second = split.batches(40, generator=shared), split.batches(40, generator=shared)
    later, sooner = next(second)[0], next(first)[0]
    small = torch.cat([x for x, _ in split.batches(7, generator=generator(5))])
    assert torch.equal(sooner, small) and not torch.equal(sooner, later)


def test_batches_in_order_are_never_augmented() -> None:
    split = colour(augment=Augmentation(1.0, 4))
    assert torch.equal(torch.cat([x for x, _ in split.batches(7)]), split.images / 255)
    assert torch.equal(split.inputs(), split.images / 255)


@pytest.mark.parametrize("n", [0, 1, 3, 5, 6, 9])
def test_skipped_batches_leave_the_rest_as_it_would_have_been(n: int) -> None:
    split = colour(augment=Augmentation())
    whole = list(split.batches(7, generator=generator(2)))
    rest = list(after(split.batches(7, generator=generator(2)), n))
    assert len(rest) == max(0, 6 - n)
    for (x, y), (x_, y_) in zip(rest, whole[n:], strict=True):
        assert torch.equal(x, x_) and torch.equal(y, y_)


def test_skipped_batches_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    move = Augmentation.move

    def counting(self: Augmentation, images: Tensor, draws: Draws) -> Any:
        made.append(len(images))
        return move(self, images, draws)

    monkeypatch.setattr(Augmentation, "move", counting)
    assert len(list(after(colour(augment=Augmentation()).batches(10, generator=generator()), 3))) == 1
    assert made == [10]


def test_after_takes_any_iterator() -> None:
    assert list(after(iter(range(5)), 3)) == [3, 4]


class Interrupt(Callback):
    def on_step(self, trainer: Trainer, step: Any) -> None:
        if trainer.step == 14:
            raise KeyboardInterrupt


def test_a_run_resumed_within_an_epoch_sees_the_same_crops(tmp_path: Path, device: torch.device) -> None:
    def trainer(out: Path, **options: Any) -> Trainer:
        network = HopfieldNetwork.mlp(3 * 8 * 6, 12, 10, generator=generator()).to(device)
        rule = EquilibriumPropagation(beta=0.5, free=Sweeps(5), nudged=Sweeps(5))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        splits = data(50).normalised(scale=2).augmented(Augmentation(0.5, 2)).to(device)
        return Trainer(
            network, rule, optimizer, splits, epochs=2, batch_size=7, out=out, progress=False, guard=None,
            checkpoint_every_steps=3, **options,
        )  # fmt: skip

    whole = trainer(tmp_path / "whole")
    whole.fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", callbacks=[Interrupt()]).fit()
    resumed = trainer(tmp_path / "cut", resume=True)
    assert resumed.step == 12 and resumed.step_in_epoch == 4  # of 8 batches an epoch
    resumed.fit()
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


# ---- normalisation and the shape of batches --------------------------------------------------------------------------


def test_colour_images_keep_their_shape(device: torch.device) -> None:
    split = colour(device=device)
    x, y = next(split.batches(5))
    assert x.shape == (5, 3, 8, 6) and x.dtype == torch.float32 and y.shape == (5,)
    assert torch.equal(x.cpu(), (split.images[:5] / 255).cpu())


def test_normalised_inputs_have_mean_zero_and_the_asked_spread(device: torch.device) -> None:
    for scale in (1.0, 1.5):
        normal = data(200).to(device).normalised(scale=scale)
        x = normal.train.inputs().double()
        assert x.mean((0, 2, 3)).abs().max() < 1e-6
        assert (x.std((0, 2, 3), correction=0) * scale - 1).abs().max() < 1e-6
        assert normal.test.normalise == normal.validation.normalise == normal.train.normalise


def test_normalisation_is_the_formula_to_the_bit(device: torch.device) -> None:
    normalise = Normalise((0.49, 0.48, 0.44), (0.2, 0.3, 0.25))
    x = colour(device=device, normalise=normalise).inputs().cpu()
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (normalise.mean, normalise.std))
    assert torch.equal(x, (colour().images / torch.tensor(255.0) - mean) / std)


def test_grey_images_are_normalised_and_stay_flat() -> None:
    split = Split(pixels(30, 5, 4), torch.zeros(30).long())
    splits = DataSplits("grey", "drawn", split, split, split, ("0",), (5, 4)).normalised()
    x, _ = next(splits.train.batches(30))
    assert x.shape == (30, 20) and abs(x.double().mean()) < 1e-6


def test_statistics_count_every_pixel() -> None:
    split = Split(pixels(9000, 2, 3, 3), torch.zeros(9000).long())  # more than one part
    mean, std = split.statistics()
    x = split.images.double() / 255
    assert mean == pytest.approx(x.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(x.std((0, 2, 3), correction=0).tolist(), rel=1e-12)
    with pytest.raises(DataError, match="got no pixels"):
        Split(pixels(0, 2, 3, 3), torch.zeros(0).long()).statistics()


def test_settings_are_recorded() -> None:
    plain = data().spec()
    assert "normalise" not in plain and "augment" not in plain
    spec = data().normalised(Normalise((0.5,) * 3, (0.25,) * 3), scale=2).augmented(Augmentation(0.0, 2, "edge")).spec()
    assert json.loads(json.dumps(spec)) == spec
    assert spec["normalise"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert spec["augment"] == {"flip": 0.0, "pad": 2, "mode": "edge"}


def test_only_the_training_part_is_augmented() -> None:
    splits = data().augmented()
    assert splits.train.augment == Augmentation() and splits.validation.augment is splits.test.augment is None


def test_moved_and_drawn_parts_keep_their_settings(device: torch.device) -> None:
    splits = data().normalised().augmented().to(device)
    part = splits.train.subset(5, generator())
    assert part.normalise == splits.train.normalise and part.augment == Augmentation() and len(part) == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Augmentation(flip=1.5), "flip: got 1.5, needed a probability"),
        (lambda: Augmentation(flip=float("nan")), "flip: got nan"),
        (lambda: Augmentation(pad=-1), "pad: got -1"),
        (lambda: Augmentation(pad=True), "pad: got True"),
        (lambda: Augmentation(mode="reflekt"), "mode: got 'reflekt', needed .*did you mean 'reflect'"),
        (lambda: Normalise((0.5,), (0.1, 0.2)), "got 1 means and 2 stds"),
        (lambda: Normalise((), ()), "got 0 means"),
        (lambda: Normalise((0.5,), (0.0,)), "a std above 0"),
        (lambda: Normalise((float("nan"),), (1.0,)), "finite"),
        (lambda: data().normalised(scale=0), "a std above 0"),
        (lambda: data().normalised(Normalise((0.5,), (1,))), "values for 1 channels, needed 3"),
        (lambda: data().augmented(Augmentation(pad=6, mode="reflect")), "images of 8x6, needed at most 5"),
        (lambda: colour(augment=Augmentation(pad=8, mode="reflect")), "images of 8x6"),
    ],
)
def test_bad_settings_are_named(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_augmented_batches_of_fake_cuda_tensors_stay_on_the_device() -> None:
    with FakeTensorMode():
        images = torch.zeros(10, 3, 8, 8, dtype=torch.uint8, device="cuda")
        labels = torch.zeros(10, dtype=torch.int64, device="cuda")
        normalise = Normalise((0.5,) * 3, (0.25,) * 3)
        for mode in MODES:
            split = Split(images, labels, normalise=normalise, augment=Augmentation(mode=mode))
            for x, y in split.batches(4, generator=torch.Generator().manual_seed(0)):
                assert x.device.type == y.device.type == "cuda" and x.dtype == torch.float32


# ---- images that stay in a file --------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Tensor:
    """60 images, memory-mapped."""
    np.save(tmp_path / "images.npy", pixels(60, 3, 8, 6).numpy())
    return torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))


@pytest.mark.parametrize("rows", [None, [3, 1, 4, 15, 9, 26, 5, 35]])
def test_a_mapped_split_gives_what_one_in_memory_gives(
    file: Tensor, rows: list[int] | None, device: torch.device
) -> None:
    chosen = torch.arange(60) if rows is None else torch.tensor(rows)
    labels = torch.arange(len(chosen)) % 10
    steps: dict[str, Any] = {"normalise": Normalise((0.5,) * 3, (0.2,) * 3), "augment": Augmentation(0.5, 2)}
    plain = Split(file[chosen].to(device), labels.to(device), **steps)
    mapped = MappedSplit(file, labels, rows=None if rows is None else chosen, **steps).to(device)
    assert len(mapped) == len(plain) and mapped.device.type == device.type and mapped.images.device.type == "cpu"
    sides = [(mapped, plain), (mapped.resident(), plain)]
    sides += [(s.subset(5, generator(4)), plain.subset(5, generator(4))) for s in (mapped, mapped.resident())]
    for ours, theirs in sides:
        assert ours.statistics() == theirs.statistics()
        assert torch.equal(ours.inputs(), theirs.inputs())
        assert torch.equal(ours.inputs(slice(1, 3)), theirs.inputs(slice(1, 3)))
        for seed in (None, 0):
            pairs = [
                s.batches(3, generator=None if seed is None else generator(seed), drop_last=seed == 0)
                for s in (ours, theirs)
            ]
            for (x, y), (x_, y_) in itertools.zip_longest(*pairs):
                assert torch.equal(x, x_) and torch.equal(y, y_) and x.device == x_.device


def test_known_moments_are_not_counted_again(file: Tensor) -> None:
    moments = ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert MappedSplit(file, torch.zeros(60).long(), moments=moments).statistics() == moments


def test_batches_of_a_mapped_split_are_no_views_of_the_file(file: Tensor) -> None:
    split, before = MappedSplit(file, torch.zeros(60).long()), file.clone()
    for seeded in (None, generator()):
        for x, _ in split.batches(7, generator=seeded):
            x.zero_()
    split.inputs().zero_()
    assert torch.equal(file, before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": torch.tensor([0, 60])}, r"rows: got torch.int64 from 0 to 60, needed torch.int64 from 0 to 59"),
        ({"rows": torch.tensor([0, -1])}, "from -1 to 0"),
        ({"rows": torch.tensor([0, 1], dtype=torch.int32)}, "rows: got torch.int32"),
        ({"rows": torch.tensor([0, 1, 2])}, r"labels: got shape \[2\], needed \[3\]"),
        ({"rows": None}, r"labels: got shape \[2\], needed \[60\]"),
        ({"labels": torch.tensor([0, 10])}, "got 10 at position 1"),
        ({"labels": torch.zeros(2, dtype=torch.int64, device="meta")}, "labels: got a tensor on meta, needed the CPU"),
        ({"images": torch.zeros(60, 3, 8, 6)}, "float32, needed torch.uint8"),
    ],
)
def test_a_mapped_split_refuses_what_it_cannot_hold(file: Tensor, changes: dict[str, Any], words: str) -> None:
    arguments = {"images": file, "labels": torch.zeros(2).long(), "rows": torch.tensor([0, 1])} | changes
    with pytest.raises(DataError, match=words):
        MappedSplit(**arguments)
