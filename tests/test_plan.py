"""`--plan`: operations against those of a real step, memory against its bounds, and the table."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from benchmarks import _common, _image_run, _plan, cifar10, imagenet32
from benchmarks._counting import operations, peak_bytes, sweep_operations, with_sweeps
from benchmarks._plan import IMAGES, make_plan
from benchmarks._presets import PRESETS, Preset
from benchmarks._rates import EFFICIENCY, GPUS
from eqprop import _homeostasis

BATCH = 12
SMALL: dict[str, Any] = {"channels": (4, 6, 8), "free_sweeps": 12, "nudged_sweeps": 5, "tol": None, "batch_size": BATCH}
UNTIED = dataclasses.replace(PRESETS["small-untied"], **SMALL)
TIED = dataclasses.replace(PRESETS["small"], **SMALL)
KINDS: dict[str, tuple[Preset, str]] = {
    "tied, average": (TIED, "ep"),
    "tied, soft": (dataclasses.replace(TIED, pooling="soft"), "ep"),
    "tied, max, dense output": (dataclasses.replace(PRESETS["comparative-2023"], **SMALL, lr=(0.1,)), "ep"),
    "tied, four points": (dataclasses.replace(TIED, points=4), "ep"),
    "tied, one-sided": (dataclasses.replace(TIED, points=1), "ep"),
    "untied, homeostasis": (UNTIED, "ep"),
    "untied, soft, homeostasis by probes": (dataclasses.replace(UNTIED, pooling="soft"), "ep"),
    "untied, soft, derivative": (dataclasses.replace(UNTIED, pooling="soft", points=0, homeostasis=0.0), "ep"),
    "bptt": (TIED, "bptt"),
    "rbp": (UNTIED, "rbp"),
    "backprop": (TIED, "backprop"),
}


def config_of(preset: Preset, rule: str) -> _image_run.Config:
    return _image_run.Config(preset, rule, "cifar10", 0, None, None, None, "cpu")


def plan_of(preset: Preset, rule: str = "ep", where: str = "h100", **changes: Any) -> Any:
    settings: dict[str, Any] = {"title": "t", "dataset": "cifar10", "products": None, "device": torch.device("cpu")}
    return make_plan(preset, _image_run.make_rule(config_of(preset, rule)), where=where, **(settings | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_planned_operations_are_those_of_a_real_step(kind: str) -> None:
    preset, rule = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    network = preset.build(10, generator)
    x = torch.rand(BATCH, 3, 32, 32, generator=generator)
    y = torch.randint(10, (BATCH,), generator=generator)
    made = _image_run.make_rule(config_of(preset, rule))
    counted = operations(lambda: made.backward(network, x, y))
    plan = plan_of(preset, rule)
    assert BATCH * plan.per_sample == pytest.approx(counted, rel=0.01)
    settled = operations(lambda: made.predict(network, x))
    assert BATCH * plan.validation_per_sample == pytest.approx(settled, rel=0.01)


@pytest.mark.parametrize(("name", "convolutions"), [("holomorphic-2022", 2), ("generalized-2024", 3)])
def test_a_sweep_of_the_published_chain_is_its_convolutions_at_full_resolution(name: str, convolutions: int) -> None:
    # forwards and transposed; untied soft pooling is fed back through a convolution with its own weights
    pairs = [(128, 256, 16), (256, 512, 8), (512, 512, 2)]
    loop = sum(9 * a * b * side**2 for a, b, side in pairs)
    assert sweep_operations(PRESETS[name].build(10)) == convolutions * loop


def test_a_sweep_with_average_pooling_is_one_strided_convolution_each_way() -> None:
    pairs = [(32, 64, 8)]  # side after pooling; kernel 3 + 1
    loop = sum(16 * a * b * side**2 for a, b, side in pairs)
    assert sweep_operations(PRESETS["small"].build(10)) == pytest.approx(2 * loop, rel=0.02)


def test_peak_bytes_follow_tensors_from_their_making_to_their_end() -> None:
    def work(n: int) -> torch.Tensor:
        a = torch.empty(n, device="meta")
        b = a + 1  # two alive
        del a
        for _ in range(5):
            b = b * 2  # two alive while it is replaced
        return b.view(2, -1).mul_(3)

    assert peak_bytes(lambda: work(1000)) == 2 * 4 * 1000


@pytest.mark.parametrize(
    ("kind", "fewer", "more"),
    [("tied, average", 50, 500), ("tied, soft", 10, 60), ("untied, soft, derivative", 10, 60)],
)
def test_memory_does_not_grow_with_the_number_of_sweeps(kind: str, fewer: int, more: int) -> None:
    preset, _ = KINDS[kind]
    network = preset.build(10).to("meta")
    x, y = torch.empty(BATCH, 3, 32, 32, device="meta"), torch.empty(BATCH, dtype=torch.int64, device="meta")
    peaks = []
    for sweeps in (fewer, more):
        rule = with_sweeps(_image_run.make_rule(config_of(preset, "ep")), sweeps, 10)
        peaks.append(peak_bytes(lambda rule=rule: rule.backward(network, x, y)))  # type: ignore[misc]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)


def test_memory_has_every_part_and_grows_with_the_batch_and_the_points() -> None:
    plan = plan_of(TIED)
    parameters = sum(p.numel() for p in TIED.build(10).parameters())
    assert plan.bytes["parameters"] == plan.bytes["gradients"] == plan.bytes["momentum"] == 4 * parameters
    assert plan.bytes["images, uint8"] == 50_000 * 3072
    units = sum(math.prod(shape) for shape in TIED.build(10).shapes)
    assert plan.bytes["free phase: states, drive, feature maps"] >= 2 * 4 * units * BATCH
    more = plan_of(dataclasses.replace(TIED, batch_size=2 * BATCH))
    free = "free phase: states, drive, feature maps"
    assert 1.5 < more.bytes[free] / plan.bytes[free] < 2.1
    points = plan_of(dataclasses.replace(TIED, points=8))  # three conjugate pairs at once, two real phases before them
    assert points.bytes["nudged phases, stacked"] > 1.5 * plan.bytes["nudged phases, stacked"]


def test_memory_of_homeostasis_is_that_of_the_batch_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    name, preset = "homeostasis", dataclasses.replace(UNTIED, pooling="soft", homeostasis=1.0, batch_size=24)
    together = plan_of(preset).bytes[name]
    units = sum(math.prod(shape) for shape in preset.build(10).shapes)
    monkeypatch.setattr(_homeostasis, "_TOGETHER", 5 * 20 * units)  # samples whose probes go together
    assert plan_of(preset).bytes[name] < 0.5 * together


def test_time_of_a_named_gpu_is_work_over_the_stated_share_of_its_peak() -> None:
    plan = plan_of(PRESETS["holomorphic-2022"], products="bfloat16")
    half, full = (1e12 / 2 * EFFICIENCY * peak for peak in GPUS["h100"])
    free = 250 * plan.counts.sweep
    assert plan.seconds_a_sample == pytest.approx(free / half + (plan.per_sample - free) / full)
    halved = plan_of(PRESETS["holomorphic-2022"], products="bfloat16", processes=2)
    assert halved.seconds_an_epoch == pytest.approx(plan.seconds_an_epoch / 2)
    images, _, held = IMAGES["cifar10"]
    assert plan.epoch == (images - held) * plan.per_sample + held * plan.validation_per_sample


def test_a_plan_says_where_kernel_launches_outweigh_products() -> None:
    assert "launch of its kernels" in plan_of(PRESETS["small"]).note
    assert "launch of its kernels" not in plan_of(PRESETS["holomorphic-2022"]).note


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "12.3 ms"), (1.2, "1.2 s"), (119, "119 s"), (5400, "90 min")])
def test_times_are_told_in_a_unit_that_suits_them(seconds: float, text: str) -> None:
    assert _plan._time(seconds) == text


@pytest.mark.parametrize(
    ("module", "words", "texts"),
    [
        (cifar10, ["--preset", "small", "--plan"], ["this machine", "GMAC/s in float32", "at most 20 sweeps"]),
        (cifar10, ["--preset", "holomorphic-2022", "--plan", "a100"], ["250 sweeps of 321 M", "2 x 60", "88.4 %"]),
        (imagenet32, ["--preset", "generalized-2024", "--plan", "h100"], ["of 481 M", "1,271,167", "to tolerance"]),
        (cifar10, ["--rule", "backprop", "--plan", "h100", "--limit", "64"], ["forward pass", "64 images, 1 steps"]),
    ],
)  # fmt: skip
def test_plan_prints_a_table_and_trains_nothing(
    module: Any, words: list[str], texts: list[str], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [*words, "--out", str(out), "--device", "cpu", "--data", "/nowhere"]
    _common.run_main(module.main, module.options(), words, make_run=False, several=True)
    printed = capsys.readouterr().out
    for text in ("multiply-accumulates", "memory", "time on", "the run", *texts):
        assert text in printed
    assert not out.exists()
    lines = [line for line in printed.splitlines() if line.startswith("  ") and line.rstrip()[-1:] != ")"]
    assert len({len(line) for line in lines[:4]}) == 1  # columns line up


def test_products_in_place_are_counted() -> None:
    a, b, c = torch.zeros(4, 5), torch.ones(4, 6), torch.ones(6, 5)
    assert operations(lambda: a.addmm_(b, c)) == operations(lambda: torch.mm(b, c)) == 4 * 5 * 6
