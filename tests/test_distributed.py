"""Training in several processes: real ones, joined by gloo on the CPU, against one process with the joint batch."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

import eqprop
from benchmarks import _common
from eqprop._averaging import average, joint_backward
from eqprop._callbacks import Callback
from eqprop._checkpoints import CheckpointFolder
from eqprop._distributed import WorkerLost, Workers
from eqprop._errors import ConfigError, DataError
from eqprop._runs import Run
from eqprop._share import Share, drawn, require_shareable, sharing
from eqprop._trainer import Trainer
from tests.helpers import seeded

ROOT = Path(__file__).resolve().parent.parent
SIZE = 2
DTYPES = {"float32": (torch.float32, 1e-6), "float64": (torch.float64, 1e-12)}
BATCHES = (8, 7, 1)  # even, uneven, fewer samples than processes
SWEEPS = eqprop.Sweeps(30, tol=1e-3)


def tied() -> eqprop.Network:
    return eqprop.HopfieldNetwork.mlp(5, 7, 3, activation="tanh", output_activation="linear", generator=seeded(1))


def untied() -> eqprop.Network:
    return eqprop.DirectedNetwork.mlp(
        5, 7, 6, 3, activation="tanh", output_activation="linear", feedback_angle=70.0, gain=0.5, generator=seeded(1)
    )


def with_readout() -> eqprop.Network:
    return eqprop.HopfieldNetwork.mlp(
        5, 7, 6, activation="tanh", output_activation="tanh", readout=3, generator=seeded(1)
    )


def ep(*regularisers: Any, **settings: Any) -> eqprop.Rule:
    shared: dict[str, Any] = {"beta": 0.5, "readout": "tangent", "free": SWEEPS, "nudged": SWEEPS}
    return eqprop.EquilibriumPropagation(regularisers=regularisers, **(shared | settings))


def homeostasis(**settings: Any) -> eqprop.JacobianHomeostasis:
    return eqprop.JacobianHomeostasis(0.3, **settings)


# network and rule of each case; rules draw, so each case makes a new one
CASES: dict[str, tuple[Callable[[], eqprop.Network], Callable[[], eqprop.Rule]]] = {
    "centred EP": (tied, lambda: ep(readout="contrast")),
    "random sign": (tied, lambda: ep(contour="random-sign", seed=4)),
    "cauchy contour": (untied, lambda: ep(contour="cauchy", points=4, beta=0.4)),
    "readout outside": (with_readout, lambda: ep(cost="cross-entropy")),
    "homeostasis": (untied, lambda: ep(homeostasis(estimator="exact"))),
    "homeostasis in membrane coordinates": (
        untied,
        lambda: ep(homeostasis(estimator="exact", coordinates="membrane")),
    ),
    "homeostasis by probes": (untied, lambda: ep(homeostasis(estimator="symmetric", probes=3, seed=2))),
    "homeostasis by published probes, at every second step": (
        untied,
        lambda: ep(
            homeostasis(
                estimator="published", distribution="rademacher", coordinates="membrane", layerwise=True, every=2
            )
        ),
    ),
    "Kolen-Pollack": (untied, lambda: ep(eqprop.KolenPollack(0.1), homeostasis(estimator="exact"))),
    "samples left out": (untied, lambda: ep(homeostasis(coordinates="membrane"), **LOUD)),
    "samples left out, exact": (untied, lambda: ep(homeostasis(estimator="exact"), **LOUD)),
    "samples left out, probes": (untied, lambda: ep(homeostasis(estimator="symmetric"), **LOUD)),
    "backprop, feedback without gradient": (untied, lambda: eqprop.Backprop()),
    "truncated BPTT": (tied, lambda: eqprop.TruncatedBPTT(free=SWEEPS, steps=6)),
    "recurrent backprop": (untied, lambda: eqprop.RecurrentBackprop(free=SWEEPS, adjoint=SWEEPS)),
}
# so few sweeps that only quiet samples, whose inputs are small, settle
LOUD: dict[str, Any] = {"free": eqprop.Sweeps(3, tol=0.003), "nudged": eqprop.Sweeps(4, tol=1.0)}
LOUD |= {"exclude_unconverged": True}
# which samples of the batches of 8, 7 and 1 are loud: all of process 0 and none of process 1; some; the only one
LOUD_SAMPLES = {8: [0, 1, 2, 3], 7: [1, 3, 5], 1: [0]}


def batch(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = torch.rand(size, 5, generator=seeded(size), dtype=torch.float64)
    quiet = torch.full((size, 1), 0.01, dtype=torch.float64)
    quiet[LOUD_SAMPLES[size]] = 1.0
    return (x * quiet).to(dtype), torch.arange(size) % 3


def stepped(name: str, dtype: torch.dtype, workers: Workers) -> list[dict[str, Tensor]]:
    """Gradients, loss and penalties of the joint batches, one after another, with one rule."""
    make_network, make_rule = CASES[name]
    network, rule = make_network().to(dtype), make_rule()
    found = []
    for size in BATCHES:
        x, y = batch(size, dtype)
        if not name.startswith("samples"):
            x = x.where(x.abs() > 0.011, 100 * x)  # all loud
        network.zero_grad()
        step, _ = joint_backward(rule, network, x, y, workers)
        values = {key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None}
        found.append(values | {"loss": step.loss.clone()} | {k: v.clone() for k, v in step.penalties.items()})
    return found


# -- a training run --------------------------------------------------------------------------------------------------


class Images:
    """Samples in float64, in batches; the first ten are drawn at random at every pass, as an augmentation would."""

    def __init__(self, n: int, seed: int) -> None:
        self.y = torch.randint(0, 3, (n,), generator=seeded(seed))
        self.x = torch.rand(n, 5, generator=seeded(seed + 1), dtype=torch.float64)
        self.x[torch.arange(n), self.y] += 1.5

    def __len__(self) -> int:
        return len(self.y)

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for rows in order.split(batch_size):
            x = self.x[rows]
            if generator is not None:
                x = x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            yield x, self.y[rows]


DATA = SimpleNamespace(train=Images(57, 1), validation=Images(21, 3), test=Images(20, 5), classes=tuple("abc"))
STEPS_PER_EPOCH = 8  # the last batch has one sample


def run(out: Path | None, workers: Workers, *callbacks: Callback, resume: bool = False, **changes: Any) -> Trainer:
    network = eqprop.DirectedNetwork.mlp(
        5, 7, 6, 3, activation="hard_sigmoid", output_activation="linear", feedback_angle=70.0, generator=seeded(1)
    ).double()
    if not workers.first:  # the first process's parameters count
        with torch.no_grad():
            for p in network.parameters():
                p.add_(1.0)
    rule = ep(
        homeostasis(estimator="symmetric", probes=2, seed=1),
        contour="random-sign",
        beta=0.3,
        exclude_unconverged=True,
        free=eqprop.Stop(1e-9, 60, block=5),
        nudged=eqprop.Sweeps(6, tol=1e-3),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    settings: dict[str, Any] = {
        "epochs": 2, "batch_size": 8, "seed": 3, "out": out, "scheduler": scheduler, "checkpoint_every_steps": 3,
        "keep_best": True, "eval_batch_size": 10, "progress": False, "guard": eqprop.Guard(check_every=2),
    }  # fmt: skip
    return Trainer(
        network, rule, optimizer, DATA, callbacks=callbacks, resume=resume, workers=workers, **(settings | changes)
    )


class At(Callback):
    """Does something in one process at one step."""

    def __init__(self, step: int, rank: int, action: Callable[[], None]) -> None:
        self.step, self.rank, self.action = step, rank, action

    def on_step(self, trainer: Trainer, step: Any) -> None:
        if trainer.step == self.step and trainer.workers.rank == self.rank:
            self.action()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(60)


def be_stopped() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    raise DataError("a file is missing here")


class StopAtOnce(Callback):
    """Asks for the end of the run, in the second process only."""

    def on_epoch_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        if trainer.workers.rank == 1:
            trainer.stop("enough")


# -- the processes ---------------------------------------------------------------------------------------------------


def caught(function: Callable[[], Any]) -> str:
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def different_gradients(workers: Workers) -> None:
    network, (x, y) = tied().double(), batch(8, torch.float64)
    step = ep().backward(network, x, y)
    if workers.rank == 1:
        next(network.parameters()).grad = None
    average(network, step, workers.share(8), workers)


def everything(workers: Workers, folder: Path) -> None:
    """All that needs no process to fail, in one start of the processes."""
    found: dict[str, Any] = {}
    for precision, (dtype, _) in DTYPES.items():
        for name in CASES:
            found[f"{name}, {precision}"] = stepped(name, dtype, workers)
    trainer = run(folder / "run", workers)
    trainer.fit()
    found["weights"] = dict(trainer.network.state_dict())
    found["history"] = {k: v for k, v in trainer.history.series.items() if k != "seconds"}
    found["test"] = [vars(trainer.test(which)) for which in ("last", "best")]
    found["stopped"] = run(None, workers, StopAtOnce(), epochs=5)
    found["stopped"].fit()
    found["stopped"] = (found["stopped"].epoch, found["stopped"].stop_reason)
    found["other gradients"] = caught(lambda: different_gradients(workers))
    found["other settings"] = caught(lambda: run(None, workers, batch_size=8 + workers.rank))
    found["other seed"] = caught(lambda: run(None, workers, seed=workers.rank))
    found["run in the way"] = caught(lambda: run(folder / "run", workers))
    order = workers.in_turn(lambda: time.monotonic())
    found["order"] = workers.gather_objects(order)
    torch.save(found, folder / f"found-{workers.rank}.pt")


def meeting(path: Path, rank: int, size: int) -> Any:
    """A store in a file: no port to fight over."""
    return next(rendezvous(f"file://{path}", rank, size))[0]


def process(case: str, rank: int, size: int, folder: Path) -> None:
    """What one of the processes does; what it prints goes into a file."""
    with open(folder / f"{case}-{rank}.txt", "w") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    store = meeting(folder / f"store-{case}", rank, size)
    with Workers(store, rank, size, timeout_s=3.0 if case == "hang" else 60.0) as workers:
        if case == "everything":
            everything(workers, folder)
            return
        actions = {"die": die, "hang": hang, "fail": fail, "stop": be_stopped}
        callbacks = [At(11, 1, actions[case])] if case in actions else []
        trainer = run(folder / "cut", workers, *callbacks, resume=True)
        trainer.fit()
        torch.save(trainer.network.state_dict(), folder / f"{case}-{rank}.pt")


# Forked from one server that has imported everything, also what the first optimiser imports (dynamo): to import it in
# each process would take most of the time.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.test_distributed", "torch._dynamo"])


@contextlib.contextmanager
def started(case: str, folder: Path, size: int = SIZE) -> Iterator[Sequence[BaseProcess]]:
    processes = [_CONTEXT.Process(target=process, args=(case, rank, size, folder)) for rank in range(size)]
    try:
        for one in processes:
            one.start()
        yield processes
    finally:
        for one in processes:
            one.kill()
            one.join()


def finished(one: BaseProcess, printed: Path) -> tuple[int, str]:
    """Exit status and what it printed."""
    one.join(120)
    assert one.exitcode is not None, printed.read_text()
    return one.exitcode, printed.read_text()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found in `everything`."""
    folder = tmp_path_factory.mktemp("everything")
    with started("everything", folder) as processes:
        for rank, one in enumerate(processes):
            code, text = finished(one, folder / f"everything-{rank}.txt")
            assert code == 0, text
    return [torch.load(folder / f"found-{rank}.pt") | {"folder": folder} for rank in range(SIZE)]


@pytest.fixture(scope="module")
def alone() -> Trainer:
    """The same training run in one process."""
    trainer = run(None, Workers.alone())
    trainer.fit()
    return trainer


# -- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradient_of_the_joint_batch(
    found: list[dict[str, Any]], name: str, precision: str
) -> None:
    dtype, tolerance = DTYPES[precision]
    expected = stepped(name, dtype, Workers.alone())
    for rank in range(SIZE):
        for size, ours, joint in zip(BATCHES, found[rank][f"{name}, {precision}"], expected, strict=True):
            assert set(ours) == set(joint)
            values = {key: (ours[key].double(), joint[key].double()) for key in ours}
            for key in ("loss", "homeostasis_norm", "homeostasis_symmetry"):
                if key in values:
                    got, wanted = values.pop(key)
                    assert torch.allclose(got, wanted, rtol=10 * tolerance, atol=tolerance, equal_nan=True), key
            got, wanted = (torch.cat([pair[i].flatten() for pair in values.values()]) for i in (0, 1))
            error = float((got - wanted).norm())
            assert error <= tolerance * float(wanted.norm()), size


def test_the_cases_leave_samples_out_as_they_say() -> None:
    network, rule = untied().double(), CASES["samples left out"][1]()
    for size in BATCHES:
        step = rule.backward(network, *batch(size, torch.float64))
        assert step.counted is not None
        assert (~step.counted).nonzero().flatten().tolist() == LOUD_SAMPLES[size]


def test_where_no_sample_counts_homeostasis_still_acts(found: list[dict[str, Any]]) -> None:
    # as in one process, where the exact form in activation coordinates needs no samples; others have nothing to go by
    for name, acts in (("exact", True), ("probes", False)):
        last = found[0][f"samples left out, {name}, float64"][-1]
        assert bool(last.pop("loss").isnan())
        assert all(float(g.norm()) == 0.0 for key, g in last.items() if key.startswith("biases"))
        assert (float(last["connections.hidden1-hidden2.weight"].norm()) > 0.0) == acts


@pytest.mark.parametrize("size", (1, 2, 3, 5))
@pytest.mark.parametrize("total", (1, 2, 7, 8))
def test_shares_cover_the_batch_once_in_order_and_evenly(size: int, total: int) -> None:
    shares = [Share.of(rank, size, total) for rank in range(size)]
    rows = [row for share in shares if share.counts for row in range(total)[share.rows]]
    assert rows == list(range(total)) and sum(share.samples for share in shares) == total
    assert max(share.samples for share in shares) - min(share.samples for share in shares) <= 1
    assert all(len(range(total)[share.rows]) >= 1 for share in shares)  # a borrowed one where there is none


def test_parts_of_a_draw_are_those_of_the_whole() -> None:
    generator = seeded()
    whole = drawn(lambda shape: torch.randn(shape, generator=generator), (3 * 7, 2), copies=3)
    parts = []
    for rank in range(3):
        generator, share = seeded(), Share.of(rank, 3, 7)
        with sharing(share):
            make = lambda shape, generator=generator: torch.randn(shape, generator=generator)  # noqa: E731
            part = drawn(make, (3 * share.samples, 2), copies=3)
        parts.append(part.unflatten(0, (3, -1)))
    assert torch.equal(torch.cat(parts, 1).flatten(0, 1), whole)


# -- training --------------------------------------------------------------------------------------------------------


def test_a_run_of_two_processes_is_that_of_one(found: list[dict[str, Any]], alone: Trainer) -> None:
    weights, other = found[0]["weights"], found[1]["weights"]
    for name, value in alone.network.state_dict().items():
        assert torch.equal(weights[name], other[name])
        assert torch.allclose(weights[name], value, rtol=1e-9, atol=1e-11)
    series = {k: v for k, v in alone.history.series.items() if k != "seconds"}
    assert set(found[0]["history"]) == set(series)
    assert found[0]["history"] == found[1]["history"]
    assert 0 < max(series["excluded_share"]) < 1 and series["homeostasis_norm"][0] > 0
    for name, column in series.items():
        # norms are means in float32
        assert found[0]["history"][name] == pytest.approx(column, rel=2e-6, abs=1e-9), name
    tests = [vars(alone.test(which)) for which in ("last", "best")]
    for ours, theirs in zip(tests, found[1]["test"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-9)


def test_only_the_first_writes_the_run_and_all_hear_of_an_end(found: list[dict[str, Any]]) -> None:
    folder = found[0]["folder"] / "run"
    assert eqprop.Run.open(folder).read_summary()["processes"] == SIZE
    assert len(list((folder / "checkpoint").glob("checkpoint-*"))) == 2
    assert not list(folder.rglob("*.tmp"))
    assert [f["stopped"] for f in found] == [(1, "enough")] * SIZE


def test_a_run_that_is_only_read_is_not_written(tmp_path: Path) -> None:
    other = Run(tmp_path / "run", {}, writes=False)
    other.write_summary({"epochs": 1})
    other.write_history(eqprop.History({"epoch": [1.0]}))
    other.write_checkpoint({"epoch": 1})
    other.write_checkpoint({"epoch": 1}, best=True)
    assert not other.folder.exists()


def test_disagreements_are_errors_in_all_processes(found: list[dict[str, Any]]) -> None:
    for rank in range(SIZE):
        assert "it has a gradient in 1 of 2 processes" in found[rank]["other gradients"]
        assert "batch_size: process 0 has 8, process 1 has 9" in found[rank]["other settings"]
        assert "seed: process 0 has 0, process 1 has 1" in found[rank]["other seed"]
    assert found[0]["run in the way"].startswith("RunFolderError") and "already holds" in found[0]["run in the way"]
    assert "process 0 of 2 stopped (RunFolderError" in found[1]["run in the way"]
    assert found[0]["order"][0] < found[0]["order"][1]


# -- processes that are lost -----------------------------------------------------------------------------------------


def weights_hash(state: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()


def test_a_killed_process_ends_the_run_with_a_word_and_it_resumes_to_the_same_bits(
    found: list[dict[str, Any]], tmp_path: Path
) -> None:
    with started("die", tmp_path) as processes:
        code, text = finished(processes[0], tmp_path / "die-0.txt")
        assert finished(processes[1], tmp_path / "die-1.txt")[0] == -signal.SIGKILL
    assert code > 0
    number = processes[1].pid
    assert f"process 1 of 2 (process number {number} on" in text and "is gone: it was killed" in text
    assert f"The last checkpoint is in {tmp_path / 'cut'}: continue with the same command and resume=True" in text
    state = CheckpointFolder(tmp_path / "cut" / "checkpoint").load()
    assert state is not None and state["step"] == 9 and state["step_in_epoch"] == 1
    with started("again", tmp_path) as processes:
        for rank, one in enumerate(processes):
            code, text = finished(one, tmp_path / f"again-{rank}.txt")
            assert code == 0, text
    resumed = torch.load(tmp_path / "again-0.pt")
    assert weights_hash(resumed) == weights_hash(found[0]["weights"])
    assert weights_hash(torch.load(tmp_path / "again-1.pt")) == weights_hash(resumed)
    history = eqprop.Run.open(tmp_path / "cut").read_history()
    assert {k: v for k, v in history.series.items() if k != "seconds"} == found[0]["history"]


def test_a_run_of_two_processes_goes_on_in_one(tmp_path: Path, alone: Trainer) -> None:
    with started("fail", tmp_path) as processes:
        texts = [finished(one, tmp_path / f"fail-{rank}.txt") for rank, one in enumerate(processes)]
    assert all(code > 0 for code, _ in texts)
    assert "process 1 of 2 stopped (DataError: a file is missing here)" in texts[0][1]
    with pytest.warns(UserWarning, match="started with 2 processes and goes on with 1"):
        trainer = run(tmp_path / "cut", Workers.alone(), resume=True)
    assert trainer.step == 9
    trainer.fit()
    for name, value in alone.network.state_dict().items():
        assert torch.allclose(trainer.network.state_dict()[name], value, rtol=1e-9, atol=1e-11)
    series = trainer.history.series
    for name in ("train_loss", "excluded_share", "homeostasis_norm", "layers/hidden1/saturated_share"):
        assert series[name] == pytest.approx(alone.history.series[name], rel=1e-6)


def test_a_launcher_that_stops_the_run_is_answered_with_a_word(tmp_path: Path) -> None:
    with started("stop", tmp_path) as processes:
        results = [finished(one, tmp_path / f"stop-{rank}.txt") for rank, one in enumerate(processes)]
    assert all(code > 0 for code, _ in results)
    assert "epoch 2, step 11: the launcher stopped the run (SIGTERM)" in results[1][1]
    assert all("The last checkpoint is in" in text for _, text in results)


def test_a_process_that_hangs_is_waited_for_no_longer_than_the_timeout(tmp_path: Path) -> None:
    with started("hang", tmp_path) as processes:
        code, text = finished(processes[0], tmp_path / "hang-0.txt")
        assert processes[1].is_alive()
    assert code > 0 and "process 1 of 2" in text and "cannot be reached" in text


def test_a_process_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    store = meeting(tmp_path / "store", 0, 2)
    with pytest.raises(WorkerLost, match="did not find the others within 1 s"):
        Workers(store, 0, 2, timeout_s=1.0)


# -- refusals --------------------------------------------------------------------------------------------------------


class Drawing:
    """A user's rule that draws and says nothing of it."""

    def __init__(self) -> None:
        self.generator = torch.Generator()


class Declared(Drawing):
    by_share = True


def test_rules_that_cannot_share_a_batch_are_refused() -> None:
    network = tied()
    for rule, words in (
        (eqprop.ContinualEP(rates=0.01), "ContinualEP: its gradient of a batch is not the mean"),
        (Drawing(), "Drawing: it holds a torch.Generator"),
        (SimpleNamespace(regularisers=(Drawing(),)), "Drawing: it holds a torch.Generator"),
    ):
        with pytest.raises(ConfigError, match=words):
            require_shareable(rule, network)
    require_shareable(Declared(), network)
    require_shareable(ep(homeostasis(), contour="random-sign"), network)
    setattr(network, "generator", torch.Generator())  # noqa: B010
    with pytest.raises(ConfigError, match="HopfieldNetwork: it holds"):
        require_shareable(ep(), network)


def test_a_draw_for_other_samples_than_the_share_is_refused() -> None:
    with sharing(Share(0, 4, 8)), pytest.raises(ConfigError, match="got 3 rows in 1 copies, needed 1 of the 4 samples"):
        drawn(torch.zeros, (3,))


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "2"}, "got RANK=None"),
        ({"WORLD_SIZE": "two"}, "got WORLD_SIZE='two'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT"),
    ],
)
def test_an_environment_that_is_not_whole_is_named(
    environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ConfigError, WorkerLost), match=words):
        Workers.from_environment()


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    workers = Workers.from_environment("cpu")
    assert (workers.rank, workers.size, workers.first) == (0, 1, True)
    assert workers.in_turn(lambda: 3) == 3 and workers.agree("a") == "a"
    with pytest.raises(ConfigError, match="got rank 2 of 2"):
        Workers(None, 2, 2)


# -- scripts ---------------------------------------------------------------------------------------------------------


def test_torchrun_starts_a_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = "--dataset digits --network 784-12-10 --rule backprop --train 65 --epochs 1 --quiet --threads 1".split()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={SIZE}"]
    done = subprocess.run(
        [*launcher, "-m", "benchmarks.mnist", *words, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test error") == 1
    summary = eqprop.Run.open(out).read_summary()
    assert summary["processes"] == SIZE
    assert summary["command"].startswith("torchrun --nproc-per-node=2 -m benchmarks.mnist --dataset digits")


def test_a_script_for_one_process_refuses_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parser = _common.new_parser("benchmarks.theory", "A script.")
    _common.add_output_options(parser, tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, told in (("0", "this script runs in one; write python -m benchmarks.theory"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            _common.run_main(lambda _: None, parser, [])
        text = capsys.readouterr().err
        assert told in text and bool(text) == bool(told)
