"""The trainer, on a small stand-in network and rule: it relies on nothing but the documented protocol.

Run as a script (`python tests/test_trainer.py OUT`) it is the process that the kill tests kill.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import eqprop
from eqprop._callbacks import Callback, Figures, TensorBoard
from eqprop._checkpoints import CheckpointFolder
from eqprop._data import Split as ImageSplit
from eqprop._errors import ConfigError, DataError, RunFolderError, TrainingError
from eqprop._guard import Guard
from eqprop._monitor import LayerSamples, StepTotals
from eqprop._runs import Run, load
from eqprop._trainer import Trainer

SIZES = (12, 16, 4)


class Net(nn.Module):
    """Feed-forward hard-sigmoid network that looks like an attractor network to the trainer."""

    def __init__(self, hidden: int = SIZES[1]) -> None:
        super().__init__()
        box = SimpleNamespace(activation=SimpleNamespace(bounds=(0.0, 1.0)))
        self.layers = {
            "input": None,
            "hidden1": box,
            "output": SimpleNamespace(activation=SimpleNamespace(bounds=None)),
        }
        generator = torch.Generator().manual_seed(1)
        self.a = nn.Parameter(torch.randn(hidden, SIZES[0], generator=generator) * 0.3)
        self.b = nn.Parameter(torch.full((hidden,), 0.3))
        self.c = nn.Parameter(torch.randn(SIZES[2], hidden, generator=generator) * 0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = (x @ self.a.T + self.b).clamp(0, 1)
        return h, h @ self.c.T


class NoisyRule:
    """Backprop plus noise from its own generator, which a resumed run must take up again."""

    def __init__(self, noise: float = 0.01) -> None:
        self.noise = noise
        self.generator = torch.Generator().manual_seed(5)

    def backward(self, net: Net, x: Tensor, y: Tensor) -> Any:
        with torch.enable_grad():
            hidden, output = net(x)
            target = nn.functional.one_hot(y, SIZES[2]).float()
            loss = 0.5 * (output - target).square().sum(1).mean()
            loss.backward()
        for p in net.parameters():
            if p.grad is not None:
                p.grad += self.noise * torch.randn(p.shape, generator=self.generator)
        n = len(x)
        free = SimpleNamespace(
            state=(hidden.detach(), output.detach()),
            residual=torch.full((n,), 0.5),
            status=(torch.arange(n) % 4 == 0).to(torch.int8),  # three in four have status 0: converged
            sweeps=torch.full((n,), 7, dtype=torch.int32),
        )
        nudged = (SimpleNamespace(sweeps=torch.full((n,), 3, dtype=torch.int32)),) * 2
        return SimpleNamespace(loss=loss.detach(), output=output.detach(), free=free, nudged=nudged)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class Split:
    def __init__(self, n: int, seed: int, *, noise: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.randint(0, SIZES[2], (n,), generator=generator)
        self.x = torch.rand(n, SIZES[0], generator=generator)
        if not noise:
            self.x[torch.arange(n), self.y] += 2.0

    def __len__(self) -> int:
        return len(self.y)

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for rows in order.split(batch_size):
            yield self.x[rows], self.y[rows]


def data(n: int = 203, *, noise: bool = False, validation: int = 40) -> Any:
    return SimpleNamespace(
        train=Split(n, 1, noise=noise), validation=Split(validation, 2), test=Split(40, 3), classes=tuple("abcd")
    )


def evaluate(net: Net, split: Split, rule: Any, batch_size: int) -> Any:
    with torch.no_grad():
        output = net(split.x)[1]
    error = (output.argmax(1) != split.y).float().mean().item()
    return SimpleNamespace(
        error=error, accuracy=1 - error, loss=0.5, converged_share=1.0, mean_sweeps=7.0, n=len(split)
    )


def trainer(out: Path | None = None, *, lr: float = 0.1, epochs: int = 3, **options: Any) -> Trainer:
    net = options.pop("net", None) or Net()
    optimizer = torch.optim.SGD(
        [{"params": [net.a, net.b], "lr": lr, "name": "lower"}, {"params": [net.c], "lr": lr / 2}], momentum=0.9
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": 8, "seed": 3, "out": out, "scheduler": scheduler, "progress": False,
        "evaluate": evaluate, "guard": Guard(check_every=5, chance_after_steps=40),
    }  # fmt: skip
    rule = options.pop("rule", None) or NoisyRule()
    return Trainer(net, rule, optimizer, options.pop("data", None) or data(), **(settings | options))


def weights_hash(net: nn.Module) -> str:
    return hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in net.parameters())).hexdigest()


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer, step: Any) -> None:
        if trainer.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def killable(out: Path, *callbacks: Callback) -> Trainer:
    return trainer(out, resume=True, checkpoint_every_steps=10, callbacks=callbacks, keep_best=True)


def main() -> None:
    out, kill_step, kill_sidecar = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    real, calls = os.replace, [0]

    def replace(a: Any, b: Any) -> None:
        calls[0] += Path(b).match("checkpoint-*.json")
        if calls[0] == kill_sidecar:
            os.kill(os.getpid(), signal.SIGKILL)
        real(a, b)

    os.replace = replace  # type: ignore[assignment]
    killable(out, KillAt(kill_step)).fit()


def _killed(out: Path, kill_step: int = 0, kill_sidecar: int = 99) -> None:
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, __file__, str(out), str(kill_step), str(kill_sidecar)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_killed_in_mid_epoch_resumes_to_the_same_bits(tmp_path: Path) -> None:
    # 26 steps an epoch, a checkpoint every 10: killed in the middle of the second epoch, then
    # between the two renames of a checkpoint, that of the tensors and that of the sidecar
    _killed(tmp_path / "killed", kill_step=43)
    _killed(tmp_path / "killed", kill_sidecar=3)
    left = sorted(path.name for path in (tmp_path / "killed" / "checkpoint").glob("checkpoint-*"))
    assert len(left) == 3, left  # a whole pair, and tensors without a sidecar
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, whole = killable(tmp_path / "killed"), killable(tmp_path / "whole")
        assert 0 < resumed.step < 78 and resumed.step_in_epoch == resumed.step - 26 * resumed.epoch
        for run in (resumed, whole):
            run.fit()
    finally:
        torch.set_num_threads(threads)
    assert weights_hash(resumed.network) == weights_hash(whole.network)
    series = [{k: v for k, v in run.history.series.items() if k != "seconds"} for run in (resumed, whole)]
    assert series[0] == series[1]
    assert resumed.optimizer.state_dict()["state"][0]["momentum_buffer"].equal(
        whole.optimizer.state_dict()["state"][0]["momentum_buffer"]
    )
    assert not list((tmp_path / "killed").rglob("*.tmp"))
    assert len(list((tmp_path / "killed" / "checkpoint").glob("checkpoint-*"))) == 2


def test_the_real_library_resumes_to_the_same_bits(tmp_path: Path, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    splits = [
        ImageSplit(
            torch.randint(0, 256, (n, 6, 6), generator=generator, dtype=torch.uint8),
            torch.randint(0, 4, (n,), generator=generator),
            classes=4,
        ).to(device)
        for n in (90, 20, 20)
    ]
    real = SimpleNamespace(train=splits[0], validation=splits[1], test=splits[2], classes=tuple("abcd"))

    def make(out: Path, *callbacks: Callback, resume: bool = False) -> Trainer:
        network = eqprop.HopfieldNetwork.mlp(36, 9, 4, generator=torch.Generator().manual_seed(0)).to(device)
        sweeps = eqprop.Sweeps(4)
        rule = eqprop.EquilibriumPropagation(beta=0.3, contour="random-sign", free=sweeps, nudged=sweeps, seed=2)
        return Trainer(
            network, rule, torch.optim.Adam(network.parameters(), lr=0.01), real, epochs=2, batch_size=8, out=out,
            callbacks=callbacks, resume=resume, checkpoint_every_steps=5, progress=False,
        )  # fmt: skip

    whole = make(tmp_path / "whole")
    whole.fit()
    with pytest.raises(Interrupted):
        make(tmp_path / "cut", InterruptAt(17)).fit()
    resumed = make(tmp_path / "cut", resume=True)
    assert resumed.step == 15
    resumed.fit()
    assert weights_hash(resumed.network) == weights_hash(whole.network)
    loaded = load(tmp_path / "cut")
    assert weights_hash(loaded) == weights_hash(whole.network)
    assert resumed.test() == whole.test()


def test_training_works_and_records_what_it_promises(tmp_path: Path) -> None:
    seen: list[str] = []

    class Log(Callback):
        def on_fit_start(self, trainer: Trainer) -> None:
            seen.append("start")

        def on_step(self, trainer: Trainer, step: Any) -> None:
            seen.append("step")

        def on_epoch_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
            seen.append("epoch")

        def on_fit_end(self, trainer: Trainer) -> None:
            seen.append("end")

    run = trainer(tmp_path / "r", callbacks=[Log()])
    history = run.fit()
    assert history["train_error"][-1] < 0.1 < history["train_error"][0]
    assert run.test().error < 0.1
    assert seen == ["start", *(["step"] * 26 + ["epoch"]) * 3, "end"]
    assert history["free_sweeps"].tolist() == [7.0] * 3 and history["nudged_sweeps"].tolist() == [3.0] * 3
    # batches of 8 have 2 that did not converge, the last one of 3 has 1
    assert history["unconverged_share"][0] == pytest.approx(51 / 203)
    assert history["residual_mean"][0] == 0.5 and history["step"].tolist() == [26, 52, 78]
    assert history["learning_rate/lower"] == pytest.approx([0.1, 0.09, 0.081])
    for name in ("parameters/a/norm", "parameters/a/gradient_norm", "parameters/c/update_ratio"):
        assert (history[name] > 0).all()
    assert set(history.matching("layers", "saturated_share")) == {"hidden1"}
    assert Run.open(tmp_path / "r").read_history().series == history.series
    assert Run.open(tmp_path / "r").config["optimizer"]["name"] == "SGD"


def test_lost_samples_of_every_phase_and_penalties_are_recorded(tmp_path: Path) -> None:
    class Loses(NoisyRule):
        """A free phase loses sample 0, the nudged ones samples 1 and 1, 2; a penalty at every second step."""

        steps = 0

        def backward(self, net: Net, x: Tensor, y: Tensor) -> Any:
            step = super().backward(net, x, y)
            lost = [torch.isin(torch.arange(len(x)), torch.tensor(which)) for which in ([0], [1], [1, 2])]
            step.free.status = lost[0].to(torch.int8)
            step.nudged = tuple(
                SimpleNamespace(sweeps=torch.full((len(x),), 3, dtype=torch.int32), status=mask.to(torch.int8) * 2)
                for mask in lost[1:]
            )
            step.counted = ~(lost[0] | lost[1])
            step.penalties = {"work": torch.tensor(4.0 * len(x))} if self.steps % 2 == 0 else {}
            self.steps += 1
            return step

    cut = trainer(
        tmp_path / "r", rule=Loses(), epochs=1, lr=0.01, checkpoint_every_steps=5, callbacks=[InterruptAt(18)]
    )
    with pytest.raises(Interrupted):
        cut.fit()
    rule = Loses()
    rule.steps = 15
    resumed = trainer(tmp_path / "r", rule=rule, epochs=1, lr=0.01, checkpoint_every_steps=5, resume=True)
    assert resumed.step == 15
    for run in (trainer(None, rule=Loses(), epochs=1, lr=0.01), resumed):
        history = run.fit()
        # 25 batches of 8 and one of 3
        assert history["unconverged_share"][0] == pytest.approx(26 / 203)
        assert history["unconverged_any_share"][0] == pytest.approx(3 * 26 / 203)
        assert history["excluded_share"][0] == pytest.approx(2 * 26 / 203)
        # steps 0, 2, ..., 24, all with 8 samples
        assert history["work"][0] == pytest.approx(32.0)
    assert "excluded_share" not in trainer(None, epochs=1).fit()


class Excludes(NoisyRule):
    """No sample of the steps in ``lost`` enters the gradient, so that their loss is NaN."""

    def __init__(self, lost: set[int]) -> None:
        super().__init__()
        self.lost, self.steps = lost, 0

    def backward(self, net: Net, x: Tensor, y: Tensor) -> Any:
        step = super().backward(net, x, y)
        step.counted = torch.full((len(x),), self.steps not in self.lost)
        if self.steps in self.lost:
            step.loss = step.loss * torch.nan
            net.zero_grad()
        self.steps += 1
        return step


def test_batches_without_a_counted_sample_are_left_out_of_the_means(tmp_path: Path) -> None:
    history = trainer(tmp_path / "r", rule=Excludes({0, 7, 19}), epochs=1, lr=0.0, checkpoint_every_steps=1).fit()
    everything = trainer(None, epochs=1, lr=0.0).fit()
    assert history["excluded_share"][0] == pytest.approx(24 / 203)
    # at a rate of 0 the mean over 23 of 26 batches is that over all, to what batches differ by
    assert history["train_loss"][0] == pytest.approx(everything["train_loss"][0], rel=0.1)
    assert history["train_error"][0] == pytest.approx(everything["train_error"][0], abs=0.12)
    nothing = trainer(None, rule=Excludes(set(range(26))), epochs=1, lr=0.0, guard=None).fit()
    assert math.isnan(nothing["train_loss"][0]) and nothing["excluded_share"][0] == 1.0


def test_a_run_in_which_nothing_converges_is_stopped_with_a_sentence_of_its_own() -> None:
    run = trainer(None, rule=Excludes(set(range(26, 300))), epochs=9, lr=0.01)
    with pytest.raises(TrainingError, match=r"no sample's phases converged in the last \d+ steps") as caught:
        run.fit()
    assert "free=/nudged=" in str(caught.value) and "most likely too high" not in str(caught.value)
    assert 26 < run.step <= 2 * 26  # within an epoch


def test_totals_are_exact_whatever_the_batch_size() -> None:
    split = data(100)
    frozen = torch.optim.SGD(Net().parameters(), lr=0.0)
    for batch_size in (7, 16, 100, 1):
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        run = Trainer(
            net, NoisyRule(), optimizer, split, epochs=1, batch_size=batch_size, progress=False, guard=None,
            evaluate=evaluate,
        )  # fmt: skip
        history = run.fit()
        output = net(split.train.x)[1]
        target = nn.functional.one_hot(split.train.y, SIZES[2])
        assert history["train_error"][0] == pytest.approx((output.argmax(1) != split.train.y).float().mean().item())
        assert history["train_loss"][0] == pytest.approx(
            0.5 * (output - target).square().sum(1).mean().item(), rel=1e-5
        )
    assert frozen.param_groups


def test_resuming_a_finished_run_does_nothing_and_more_epochs_go_on(tmp_path: Path) -> None:
    first = trainer(tmp_path / "r", epochs=2)
    first.fit()
    again = trainer(tmp_path / "r", epochs=2, resume=True)
    again.fit()
    assert weights_hash(again.network) == weights_hash(first.network) and again.step == first.step
    longer = trainer(tmp_path / "r", epochs=3, resume=True)
    longer.fit()
    whole = trainer(None, epochs=3)
    whole.fit()
    assert weights_hash(longer.network) == weights_hash(whole.network)


class Wrong(NoisyRule):
    """Stays finite and learns nothing: what a learning rate far too high looks like."""

    def backward(self, net: Net, x: Tensor, y: Tensor) -> Any:
        step = super().backward(net, x, y)
        for p in net.parameters():
            if p.grad is not None:
                p.grad.zero_()
        return step


class Interrupted(Exception):
    pass


class InterruptAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer, step: Any) -> None:
        if trainer.step == self.step:
            raise Interrupted


def test_a_run_at_too_high_a_rate_sits_at_chance_and_is_stopped(tmp_path: Path) -> None:
    run = trainer(tmp_path / "r", rule=Wrong(), epochs=9, data=data(noise=True))
    with pytest.raises(TrainingError, match=r"chance for 4 classes is 75.0%.*does not fall.*try a tenth, 0.0\d+"):
        run.fit()
    assert run.step >= 40
    assert CheckpointFolder(tmp_path / "r" / "checkpoint").load() is not None
    trainer(None, rule=Wrong(), epochs=2, data=data(noise=True), guard=None).fit()  # switched off: goes on


def test_a_resumed_run_at_chance_is_stopped_at_the_same_step(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 9, "data": data(noise=True), "checkpoint_every_steps": 10}
    whole = trainer(None, rule=Wrong(), **options)
    with pytest.raises(TrainingError):
        whole.fit()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "r", rule=Wrong(), callbacks=[InterruptAt(whole.step - 3)], **options).fit()
    resumed = trainer(tmp_path / "r", rule=Wrong(), resume=True, **options)
    with pytest.raises(TrainingError):
        resumed.fit()
    assert resumed.step == whole.step


def test_fit_goes_on_after_an_exception_in_the_same_process() -> None:
    whole = trainer(None)
    whole.fit()
    run = trainer(None, callbacks=[InterruptAt(30)])
    with pytest.raises(Interrupted):
        run.fit()
    run.fit()
    assert weights_hash(run.network) == weights_hash(whole.network)


def test_nan_is_stopped_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    class Breaks(NoisyRule):
        steps = 0

        def backward(self, net: Net, x: Tensor, y: Tensor) -> Any:
            step = super().backward(net, x, y)
            self.steps += 1
            if self.steps == 33 and net.a.grad is not None:
                net.a.grad.fill_(math.nan)
            return step

    run = trainer(tmp_path / "r", rule=Breaks(), epochs=3, checkpoint_every_steps=1, lr=0.01)
    with pytest.raises(TrainingError, match=r"not finite.*last checkpoint before this is kept"):
        run.fit()
    state = CheckpointFolder(tmp_path / "r" / "checkpoint").load()
    assert state is not None and state["step"] == 32
    assert all(torch.isfinite(v).all() for v in state["network"].values())


@pytest.mark.parametrize(
    ("shift", "reason"), [(-50.0, "'hidden1' is dead: 100"), (50.0, "'hidden1' is saturated: 100")]
)
def test_dead_and_saturated_layers_are_stopped(shift: float, reason: str) -> None:
    net = Net()
    with torch.no_grad():
        net.b.fill_(shift)
    with pytest.raises(TrainingError, match=reason):
        trainer(None, net=net, lr=1e-4).fit()


def test_between_looks_nothing_waits_for_the_device() -> None:
    """On fake tensors of a device that is not there: reading a value, or mixing devices, is an error."""
    with FakeTensorMode():
        net = Net()
        for name, parameter in list(net.named_parameters()):
            setattr(net, name, nn.Parameter(torch.empty(parameter.shape, device="cuda")))
        totals, layers = StepTotals(torch.device("cuda"), 0), LayerSamples(net)
        for count in range(40):
            n = 8 if count < 35 else 3
            x, y = torch.rand(n, SIZES[0], device="cuda"), torch.zeros(n, dtype=torch.int64, device="cuda")
            hidden, output = net(x)
            free = SimpleNamespace(
                state=(hidden, output),
                residual=torch.zeros(n, device="cuda"),
                status=torch.zeros(n, dtype=torch.int8, device="cuda"),
                sweeps=torch.zeros(n, dtype=torch.int32, device="cuda"),
            )
            layers.before_update()
            step = SimpleNamespace(loss=output.sum(), output=output, free=free, nudged=(free,))
            totals.add(step, y)
            layers.after_update(step)
        totals.flush()
        with pytest.raises(Exception, match="[Dd]ata.?[Dd]ependent|_local_scalar_dense|fake"):
            totals.read()


def test_outputs_that_are_stuck_are_stopped_though_the_error_is_below_chance() -> None:
    class Watched(Net):  # the output layer has bounds, and all but one of its units sit at the lower one
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden, output = super().forward(x)
            return hidden, output.clamp(0, 1) * torch.tensor([1.0, 0.0, 0.0, 0.0])

    net = Watched()
    net.layers["output"] = SimpleNamespace(activation=SimpleNamespace(bounds=(0.0, 1.0)))
    with pytest.raises(TrainingError, match=r"'output' is dead: 75.0% of its units"):
        trainer(None, net=net, data=data(noise=True), epochs=2).fit()


def test_patience_stops_early_and_best_weights_are_kept(tmp_path: Path) -> None:
    errors = iter([0.5, 0.2, 0.3, 0.4, 0.1])

    def scripted(net: Net, split: Split, rule: Any, batch_size: int) -> Any:
        return SimpleNamespace(error=next(errors), loss=0.0)

    hashes: list[str] = []

    class Keep(Callback):
        def on_epoch_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
            hashes.append(weights_hash(trainer.network))

    run = trainer(tmp_path / "r", epochs=9, patience=2, keep_best=True, evaluate=scripted, callbacks=[Keep()])
    history = run.fit()
    assert len(history) == 4 and "patience=2" in str(run.stop_reason)
    best = CheckpointFolder(tmp_path / "r" / "checkpoint", "best").load()
    assert best is not None and best["epoch"] == 2
    last = weights_hash(run.network)
    run.network.load_state_dict(best["network"])
    assert weights_hash(run.network) == hashes[1] != last
    run.network.load_state_dict(run.best_weights())
    assert weights_hash(run.network) == hashes[1]
    resumed = trainer(tmp_path / "r", epochs=9, patience=2, keep_best=True, evaluate=scripted, resume=True)
    assert len(resumed.fit()) == 4  # stays stopped


def test_the_test_split_is_only_looked_at_by_test() -> None:
    looked: list[int] = []

    def watching(net: Net, split: Split, rule: Any, batch_size: int) -> Any:
        looked.append(id(split))
        return evaluate(net, split, rule, batch_size)

    splits = data()
    run = trainer(None, data=splits, evaluate=watching)
    run.fit()
    assert id(splits.test) not in looked
    run.test()
    assert looked[-1] == id(splits.test)


def test_a_data_set_without_validation() -> None:
    history = trainer(None, data=data(validation=0)).fit()
    assert "validation_error" not in history
    with pytest.raises(ConfigError, match="keep_best=True"):
        trainer(None, data=data(validation=0)).test("best")


def test_checkpoint_of_another_architecture_and_other_errors(tmp_path: Path) -> None:
    config = {"note": "same config, other network"}
    trainer(tmp_path / "r", epochs=1, config=config).fit()
    with pytest.raises(RunFolderError, match=r"'a' has shape \[16, 12\], needed \[9, 12\]"):
        trainer(tmp_path / "r", epochs=1, config=config, net=Net(9), resume=True)
    with pytest.raises(RunFolderError, match="another run"):
        trainer(tmp_path / "r", epochs=1, config={"note": "other"})
    (tmp_path / "r" / "metrics.h5").unlink()
    with pytest.raises(RunFolderError, match="metrics.h5 holds 0 epochs, the checkpoint 1"):
        trainer(tmp_path / "r", epochs=1, config=config, resume=True)


def test_another_learning_rate_is_refused_on_resume(tmp_path: Path) -> None:
    trainer(tmp_path / "r", epochs=1).fit()
    with pytest.raises(RunFolderError, match=r"optimizer\.groups: .*\"lr\": 0.1.* there, .*\"lr\": 0.2.* asked"):
        trainer(tmp_path / "r", epochs=2, lr=0.2, resume=True)
    trainer(tmp_path / "own", epochs=1, config={"note": "without the rate"}).fit()
    with pytest.raises(RunFolderError, match=r"lr: \[0.1, 0.05\] there, \[0.2, 0.1\] asked"):
        trainer(tmp_path / "own", epochs=2, lr=0.2, config={"note": "without the rate"}, resume=True)
    trainer(
        tmp_path / "own", epochs=2, config={"note": "without the rate"}, resume=True
    ).fit()  # the schedule's is none


def _cost_a(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum(1)


def _cost_b(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().sum(1)


class Energy(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((units, SIZES[2]), 0.1))

    def forward(self, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        (s,) = state
        return 0.5 * s.square().sum(1) - (x @ self.w * s).sum(1)


class OtherEnergy(Energy):
    pass


def own(out: Path, energy: nn.Module, cost: Any = _cost_a, units: int = SIZES[0], **options: Any) -> Trainer:
    layers = {"input": eqprop.Layer(units), "output": eqprop.Layer(SIZES[2], "linear")}
    network = eqprop.EnergyNetwork(energy, layers)
    rule = eqprop.EquilibriumPropagation(beta=0.1, cost=cost, free=eqprop.Sweeps(2), nudged=eqprop.Sweeps(2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 50, "progress": False, "guard": None, "evaluate": none}
    return Trainer(network, rule, optimizer, data(), out=out, **(settings | options))


def none(*_: Any, **__: Any) -> Any:
    return SimpleNamespace(error=0.5, loss=0.5)


def test_own_functions_and_networks_are_told_apart_and_got_back(tmp_path: Path) -> None:
    first = own(tmp_path, Energy(SIZES[0]))
    first.fit()
    with pytest.raises(RunFolderError, match=r"rule.cost: .*_cost_a\" there, .*_cost_b\" asked"):
        own(tmp_path, Energy(SIZES[0]), _cost_b, resume=True)
    with pytest.raises(RunFolderError, match=r"network.function: .*\.Energy\" there, .*OtherEnergy\" asked"):
        own(tmp_path, OtherEnergy(SIZES[0]), resume=True)
    with pytest.raises(RunFolderError, match=r"network.parameters.function.w: \[12, 4\] there, \[9, 4\] asked"):
        own(tmp_path, Energy(9), units=9, resume=True)
    own(tmp_path, Energy(SIZES[0]), resume=True)
    with pytest.raises(RunFolderError, match=r"holds your own code.*eqprop.load\(.*network=network\)"):
        load(tmp_path)
    fresh = own(tmp_path / "other", Energy(SIZES[0])).network
    assert weights_hash(fresh) != weights_hash(first.network)
    assert weights_hash(eqprop.load(tmp_path, network=fresh)) == weights_hash(first.network)


def test_a_finished_fit_leaves_a_summary_and_figures(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trainer(tmp_path / "r", callbacks=[InterruptAt(30)]).fit()
    with pytest.raises(RunFolderError, match="has not finished"):
        Run.open(tmp_path / "r").read_summary()
    run = trainer(tmp_path / "r", resume=True)
    history = run.fit()
    summary = Run.open(tmp_path / "r").read_summary()
    assert summary["epochs"] == 3 and summary["steps"] == 78 and summary["seconds"] == pytest.approx(run.seconds)
    assert summary["last"]["train_error"] == history["train_error"][-1] and summary["config"]["batch_size"] == 8
    assert summary["sweeps"] == {"free": 7.0, "nudged": 3.0} and summary["residuals"]["mean"] == 0.5
    assert summary["versions"]["torch"] and summary["machine"]["cores"]
    assert [path.name for path in (tmp_path / "r" / "figures").iterdir()] == ["learning_curves.png"]


def test_figures_show_images_and_can_be_left_out(tmp_path: Path) -> None:
    def drawn(name: str, *callbacks: Callback) -> set[str]:
        network = eqprop.HopfieldNetwork.mlp(9, 5, 4, generator=torch.Generator().manual_seed(0))
        rule = eqprop.EquilibriumPropagation(beta=0.3, free=eqprop.Sweeps(2), nudged=eqprop.Sweeps(2))
        small = data(16, validation=0)
        small.train.x = small.train.x[:, :9]
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        Trainer(
            network, rule, optimizer, small, epochs=1, batch_size=8, out=tmp_path / name, callbacks=callbacks,
            progress=False, guard=None,
        ).fit()  # fmt: skip
        return {path.stem for path in (tmp_path / name).glob("figures/*")}

    assert drawn("default") == {"learning_curves", "receptive_fields"}
    assert drawn("none", Figures(draw=())) == set()
    with pytest.raises(ConfigError, match="got 'curves' in draw"):
        Figures(draw=["curves"])


def test_an_optimiser_of_another_network_is_refused(tmp_path: Path) -> None:
    net, other = Net(), Net()
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 8, "out": tmp_path / "r", "progress": False}
    with pytest.raises(ConfigError, match="none of its parameters belongs to the network"):
        Trainer(net, NoisyRule(), torch.optim.SGD(other.parameters(), lr=0.1), data(), **settings)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("kind", ["tuple", "DataLoader", "SimpleNamespace"])
def test_data_of_another_kind_are_refused(kind: str) -> None:
    split = Split(8, 1)
    loader: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(split.x, split.y))
    wrong = {"tuple": (split.x, split.y), "DataLoader": loader}
    inside = SimpleNamespace(train=loader, validation=loader, test=loader, classes=("a",))
    with pytest.raises(ConfigError, match=f"data: got {kind}, needed an eqprop.DataSplits"):
        trainer(None, data=wrong.get(kind, inside))


def test_callbacks_are_left_however_fit_ends(tmp_path: Path) -> None:
    left: list[str] = []

    class Log(Callback):
        def on_fit_end(self, trainer: Trainer) -> None:
            left.append("end")

        def on_fit_exit(self, trainer: Trainer) -> None:
            left.append("exit")

    trainer(None, epochs=1, callbacks=[Log()]).fit()
    with pytest.raises(Interrupted):
        trainer(None, callbacks=[Log(), InterruptAt(3)]).fit()
    assert left == ["end", "exit", "exit"]


def test_another_number_of_threads_is_said(tmp_path: Path) -> None:
    trainer(tmp_path / "r", epochs=1).fit()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match=rf"started with {threads} threads"):
            trainer(tmp_path / "r", epochs=2, resume=True)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"epochs": 0}, "epochs: got 0"), ({"batch_size": 2.5}, "batch_size: got 2.5"), ({"resume": True}, "out=..."),
     ({"patience": 0}, "patience: got 0")],
)  # fmt: skip
def test_bad_settings(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        trainer(None, **options)


def test_an_empty_training_split() -> None:
    with pytest.raises(DataError, match="empty"):
        trainer(None, data=data(0))


def test_tensorboard_writes_the_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    trainer(tmp_path / "r", callbacks=[TensorBoard()]).fit()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "r" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train_error")] == [26, 52, 78]
    closing = TensorBoard()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "cut", callbacks=[closing, InterruptAt(3)]).fit()
    assert closing._writer is None
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r'pip install "eqprop\[tensorboard\]"'):
        TensorBoard()


if __name__ == "__main__":
    main()
