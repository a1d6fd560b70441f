"""`benchmarks.cifar10` and `benchmarks.imagenet32`, end to end on tiny generated data, and their presets."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import eqprop
from benchmarks import _common, _image_run, _images, cifar10, imagenet32
from benchmarks._presets import PRESETS, Preset, preset_named
from eqprop._errors import ConfigError
from tests.cifar_files import write_subset

ROOT = Path(__file__).resolve().parents[1]
TINY = "--epochs 2 --free-sweeps 4 --nudged-sweeps 3 --batch-size 16 --lr 0.05 --device cpu --no-guard --quiet".split()


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generated cifar10_subset.npz: the mean colour tells the class."""
    return write_subset(tmp_path_factory.mktemp("cifar"))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Generated files in the official layout, by form."""
    folder = tmp_path_factory.mktemp("imagenet")
    return {
        form: eqprop.generate_imagenet32(folder / form, form, classes=7, per_batch=6, validation=12)
        for form in ("pickle", "npz")
    }


def script(module: ModuleType, *words: str) -> int:
    return _common.run_main(module.main, module.options(), [*TINY, *words], make_run=False, several=True)


def on_cifar(folder: Path, *words: str) -> int:
    return script(cifar10, "--dataset", "cifar10-subset", "--data", str(folder), "--validation", "20", *words)


def summary_of(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return read


# ---- presets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "imagenet32"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_json_and_has_a_rate_for_each_connection(name: str, dataset: str) -> None:
    preset = preset_named(name).on(dataset)
    assert json.loads(json.dumps(preset.spec()))["name"] == name
    network = preset.build({"cifar10": 10, "cifar100": 100, "imagenet32": 1000}[dataset]).to("meta")
    optimizer = _image_run.make_optimizer(preset, network)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in network.parameters()}
    _image_run.make_rule(_config(preset))


def _config(preset: Preset, rule: str = "ep", **changes: Any) -> _image_run.Config:
    settings: dict[str, Any] = {"dataset": "cifar10", "seed": 0, "validation": None, "limit": None, "products": None}
    return _image_run.Config(preset=preset, rule=rule, device="cpu", **(settings | changes))


@pytest.mark.parametrize("name", ["holomorphic-2022", "generalized-2024"])
def test_the_published_chain_has_its_published_shapes(name: str) -> None:
    network = preset_named(name).build(10)
    assert network.shapes == ((128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 1, 1))
    assert sum(math.prod(shape) for shape in network.shapes) == 57_856  # as the authors count
    channels = (3, 128, 256, 512, 512)
    weights = sum(9 * a * b for a, b in zip(channels, channels[1:], strict=False))
    moving = weights - 9 * 3 * 128
    expected = weights + sum(channels[1:]) + 512 * 10 + 10 + (0 if network.tied else moving)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_hopfield_resnet13_has_thirteen_weights_and_nine_states() -> None:
    network = preset_named("hopfield-resnet13").build(10)
    sides = (32, 16, 16, 8, 8, 4, 4, 2)
    channels = (128, 128, 256, 256, 512, 512, 512, 512)
    assert network.shapes == (*((c, n, n) for c, n in zip(channels, sides, strict=True)), (10,))
    weights = [p for name, p in network.named_parameters() if name.startswith("connections.")]
    assert len(weights) == 13
    assert sum(w.dim() == 4 and w.shape[-1] == 1 for w in weights) == 4
    assert network.tied and [rho.name for rho in network.activations] == ["relu6"] * 8 + ["linear"]


def test_rates_of_the_generalized_paper_reach_the_connections_they_were_published_for() -> None:
    preset = preset_named("generalized-2024")
    optimizer = _image_run.make_optimizer(preset, preset.build(10))
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    base = {
        "input-conv1": 25, "conv1-conv2": 15, "conv2-conv1": 15, "conv2-conv3": 10, "conv3-conv2": 10,
        "conv3-conv4": 8, "conv4-conv3": 8, "readout": 5,
    }  # fmt: skip
    assert set(rates) == set(base)
    for name, factor in base.items():
        assert rates[name] == pytest.approx((7e-3 * factor, 2e-4 if name == "readout" else 1e-4))
    on_imagenet = preset.on("imagenet32")
    assert on_imagenet.lr == pytest.approx([rate * 5 / 7 for rate in preset.lr]) and on_imagenet.homeostasis == 10.0


def test_variants_hold_on_their_data_set_only() -> None:
    decays = {d: preset_named("holomorphic-2022").on(d).weight_decay for d in ("cifar10", "cifar100", "imagenet32")}
    assert decays == {"cifar10": 2e-3, "cifar100": 1e-2, "imagenet32": 5e-4}
    assert preset_named("holomorphic-2022").on("cifar10-subset") == preset_named("holomorphic-2022")


def test_decoupled_decay_shrinks_weights_beside_the_momentum() -> None:
    preset = preset_named("holomorphic-2022")
    network = preset.build(10)
    optimizer = _image_run.make_optimizer(preset, network)
    before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(2):  # through the gradient, momentum would make the second step nearly twice the first
        optimizer.step()
    for group in optimizer.param_groups:
        for p in group["params"]:
            torch.testing.assert_close(p.detach(), before.pop(0) * (1 - group["lr"] * 2e-3) ** 2)


@pytest.mark.parametrize(
    ("points", "contour"), [(0, "derivative"), (1, "one-sided"), (2, "centred"), (3, "cauchy"), (4, "cauchy")]
)
def test_points_name_the_contour(points: int, contour: str) -> None:
    preset = PRESETS["small-untied"]
    rule = _image_run.make_rule(_config(Preset(**{**vars(preset), "points": points})))
    assert isinstance(rule, eqprop.EquilibriumPropagation) and rule.contour == contour
    assert contour != "cauchy" or rule.points == points


# ---- scripts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", _images.RULES)
def test_every_rule_trains_and_reports_beside_what_was_published(
    cifar: Path, tmp_path: Path, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    on_cifar(cifar, "--rule", rule, "--out", str(out))
    printed = capsys.readouterr().out
    summary = summary_of(out)
    top1, top5 = summary["headline"][:2]
    assert top1["name"] == "test accuracy" and top5["name"] == "test accuracy, top 5"
    assert 0 <= top1["value"] <= top5["value"] <= 100 and f"{top1['value']:.2f} %" in printed
    assert "published for small on cifar10-subset: none" in printed and summary["published"] is None
    assert summary["results"]["0"]["steps"] == 6 and summary["config"]["preset"] == "small"
    figures = {"learning_curves", "receptive_fields"}
    if rule != "backprop":
        figures |= {"relaxation", "gradient_alignment"}
    assert {path.stem for path in (out / "figures").iterdir()} == figures
    network: Any = eqprop.load(out)
    assert network.shapes == ((32, 16, 16), (64, 8, 8))


def test_training_learns_the_colours(cifar: Path, tmp_path: Path) -> None:
    words = ["--epochs", "15", "--lr", "0.1", "--free-sweeps", "10", "--nudged-sweeps", "6"]
    on_cifar(cifar, *words, "--out", str(tmp_path / "run"))
    assert summary_of(tmp_path / "run")["headline"][0]["value"] > 30  # chance is 10


def test_untied_weights_report_error_vectors_and_homeostasis_acts(
    cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    angles = {}
    for coefficient, seeds in (("0", 2), ("400", 1)):
        out = tmp_path / coefficient
        words = ["--preset", "small-untied", "--homeostasis", coefficient, "--seeds", str(seeds), "--out", str(out)]
        on_cifar(cifar, *words)
        printed = capsys.readouterr().out
        assert "error-vector cosine of conv1, before training" in printed
        summary = summary_of(out)
        cosines = [result["error_vector_cosine"]["after"]["conv1"] for result in summary["results"].values()]
        shown = {figure["name"]: figure["value"] for figure in summary["headline"]}
        assert shown["error-vector cosine of conv1, after training"] == pytest.approx(sum(cosines) / seeds)
        assert len(cosines) == seeds
        network: Any = eqprop.load(out / "seed-0" if seeds > 1 else out)
        angles[coefficient] = eqprop.weight_angles(network)["conv1-conv2"]
    assert angles["400"] < angles["0"] - 5


def test_a_run_stopped_within_an_epoch_resumes_to_the_same_weights(
    cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_cifar(cifar, "--out", str(tmp_path / "whole"))
    parts = ["--out", str(tmp_path / "parts"), "--checkpoint-every", "2"]
    keep = eqprop.Trainer._checkpoint

    def stop(trainer: eqprop.Trainer, step: Any) -> None:
        keep(trainer, step)
        if trainer.step == 4:  # of 3 an epoch
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(eqprop.Trainer, "_checkpoint", stop)
        on_cifar(cifar, *parts)
    assert "interrupted" in capsys.readouterr().err and not (tmp_path / "parts" / "summary.json").exists()
    on_cifar(cifar, *parts, "--resume")
    whole, resumed = (eqprop.load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("form", ["pickle", "npz"])
def test_imagenet32_runs_from_either_official_form(
    imagenet: dict[str, Path], tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(imagenet[form]), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    script(imagenet32, *words)
    summary = summary_of(tmp_path / "run")
    assert summary["data"] == summary["data"] | {"name": "imagenet32", "train": 57, "validation": 3, "test": 12}
    assert summary["title"] == "imagenet32, small, ep, 2 epochs"
    again = [*words[:-1], str(tmp_path / "again")]
    script(imagenet32, *again, "--resident", "--verify")  # from the cache: the same numbers
    assert summary_of(tmp_path / "again")["headline"][:2] == summary["headline"][:2]


def test_both_forms_give_one_result(imagenet: dict[str, Path], tmp_path: Path) -> None:
    for form, folder in imagenet.items():
        cache, out = tmp_path / f"cache-{form}", tmp_path / form
        script(imagenet32, "--data", str(folder), "--cache", str(cache), "--rule", "backprop", "--out", str(out))
    first, second = (eqprop.load(tmp_path / form).state_dict() for form in imagenet)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_torchrun_trains_on_two_processes(imagenet: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["--data", str(imagenet["npz"]), "--cache", str(tmp_path / "cache"), "--out", str(out), "--threads", "1"]
    words += ["--rule", "backprop", "--epochs", "1"]
    done = subprocess.run(
        [*launcher, "-m", "benchmarks.imagenet32", *TINY, *words],
        capture_output=True, text=True, timeout=180, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy, top 5") == 1 and summary_of(out)["processes"] == 2
    assert summary_of(out)["command"].startswith("torchrun --nproc-per-node=2 -m benchmarks.imagenet32")


def test_a_reader_who_has_read_enough_leaves_no_traceback() -> None:
    end, start = os.pipe()
    os.close(end)
    words = ["-m", "benchmarks.cifar10", "--plan", "h100", "--threads", "1"]
    with os.fdopen(start, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-u", *words], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120, cwd=ROOT
        )
    assert done.returncode == 141 and done.stderr == ""


def test_a_published_preset_says_what_was_reached_and_what_this_run_does_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = _config(Preset(**{**vars(PRESETS["holomorphic-2022"]), "epochs": 2}), limit=9)
    text = _image_run.published_text(config)
    assert "88.4 %" in text and "Laborieux & Zenke 2022" in text and "differs in epochs=2, limit=9" in text
    with pytest.raises(SystemExit):
        imagenet32.options().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert (
        "default: None" not in shown and "36.5 % on imagenet32" in shown and "cifar" not in shown.split("presets:")[0]
    )


def test_half_precision_is_the_default_of_its_presets_on_a_gpu_alone() -> None:
    arguments = cifar10.options().parse_args(["--preset", "comparative-2023"])
    found = {d: _image_run.make_config(arguments, torch.device(d)).products for d in ("cpu", "cuda")}
    assert found == {"cpu": None, "cuda": "bfloat16"}
    arguments = cifar10.options().parse_args(["--bf16"])
    assert _image_run.make_config(arguments, torch.device("cpu")).products == "bfloat16"
    arguments = cifar10.options().parse_args(["--preset", "generalized-2024", "--rule", "backprop"])
    twin = _image_run.make_config(arguments, torch.device("cuda"))
    assert twin.products is None and twin.record()["homeostasis"] == 0
    arguments = cifar10.options().parse_args(["--preset", "comparative-2023", "--no-bf16"])
    assert _image_run.make_config(arguments, torch.device("cuda")).products is None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--preset", "smal"], "did you mean 'small'"),
        (["--lr", "0.1,fast"], "--lr: got '0.1,fast'"),
        (["--lr", "0.1,0.1,0.1,0.1"], "learning rates: got 4, needed 1 or 3"),
        (["--lr", "0"], "--lr: got (0.0,)"),
        (["--beta", "0"], "--beta: got 0.0"),
        (["--beta", "nan"], "--beta: got nan"),
        (["--points", "0"], "--points: got 0 on tied weights"),
        (["--points", "-1"], "--points: got -1"),
        (["--epochs", "0"], "--epochs: got 0"),
        (["--free-sweeps", "0"], "--free-sweeps: got 0"),
        (["--tol", "-1"], "tol"),
        (["--homeostasis", "4"], "--homeostasis: got 4.0 with tied weights"),
        (["--preset", "small-untied", "--homeostasis", "-1"], "--homeostasis: got -1.0"),
        (["--preset", "small-untied", "--feedback-angle", "200"], "feedback_angle: got 200"),
        (["--feedback-angle", "90"], "--feedback-angle: got it with tied weights"),
        (["--limit", "0"], "--limit: got 0"),
        (["--cuda-graph"], "--cuda-graph: got it on cpu"),
        (["--device", "warp"], "--device: got 'warp'"),
        (["--seeds", "0"], "--seeds: got 0"),
        (["--rule", "bptt", "--beta", "0.1"], "--beta: got it with --rule bptt"),
        (["--rule", "rbp", "--points", "4"], "--points: got it with --rule rbp"),
        (["--rule", "backprop", "--bf16"], "--bf16: got it with --rule backprop"),
        (["--preset", "small-untied", "--rule", "backprop", "--homeostasis", "4"], "--homeostasis: got it with"),
        (["--plan", "h10"], "did you mean 'h100'"),
        (["--data", "/nowhere"], "cifar10_subset.npz"),
        (["--weight-decay", "-1"], "--weight-decay: got -1.0"),
    ],
)
def test_a_bad_option_is_one_plain_line(
    cifar: Path, words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        on_cifar(cifar, "--out", str(tmp_path / "run"), *words)
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert text in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_missing_batches_of_imagenet32_are_named(
    imagenet: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "partial"
    folder.mkdir()
    for path in imagenet["pickle"].iterdir():
        if path.name != "train_data_batch_4":
            (folder / path.name).symlink_to(path)
    with pytest.raises(SystemExit):
        script(imagenet32, "--data", str(folder), "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "run"))
    assert "got no train_data_batch_4, needed all 10" in capsys.readouterr().err


# ---- what the scripts added to the library -------------------------------------------------------------------------


def test_top5_counts_classes_among_the_five_largest_outputs(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 8, 8), generator=generator, dtype=torch.uint8)
    split = eqprop.Split(images, torch.arange(40) % 9, 9).to(device)
    network = eqprop.HopfieldNetwork.mlp(64, 12, 9, generator=generator).to(device)
    rule = eqprop.EquilibriumPropagation(free=eqprop.Sweeps(10))
    output = rule.predict(network, split.inputs())
    order = output.argsort(dim=1, descending=True)
    among = sum(int(y) in row[:5].tolist() for row, y in zip(order, split.labels, strict=True))
    found = eqprop.evaluate(network, split, rule, batch_size=16)
    assert found.top5 == pytest.approx(among / 40) and found.accuracy < found.top5 < 1


def test_filters_of_colour_images_are_drawn_in_colour() -> None:
    filters = torch.zeros(4, 3, 3, 3)
    filters[0, 0] = 2.0  # wants red
    filters[1, 2] = -1.0  # wants no blue
    canvas = eqprop.receptive_fields(filters, "conv1").axes[0].images[0].get_array()
    assert canvas is not None and canvas.shape == (7, 7, 3)
    np.testing.assert_allclose(canvas[1, 1], [1, 0.5, 0.5])  # the strongest comes first
    np.testing.assert_allclose(canvas[1, 5], [0.5, 0.5, 0])
    np.testing.assert_allclose(canvas[3, 3], 1)  # white between them
    grey = eqprop.receptive_fields(filters[:, :1], "conv1").axes[0].images[0].get_array()
    assert grey is not None and grey.ndim == 2
    with pytest.raises(ConfigError, match="or filters"):
        eqprop.receptive_fields(torch.ones(4, 2, 3, 3))
