"""A training loop with epochs, schedules, validation, checkpoints and records. Nothing of a rule is hidden in it."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from eqprop._callbacks import Callback, Figures
from eqprop._errors import ConfigError, DataError, TrainingError
from eqprop._evaluate import evaluate as default_evaluate
from eqprop._guard import Guard, Watch
from eqprop._history import History
from eqprop._monitor import LayerSamples, StepTotals
from eqprop._relax import Status
from eqprop._resume import capture, describe, network_record, rates, restore, summarise
from eqprop._runs import Run


class Rule(Protocol):
    """What the trainer asks of a learning rule. `state_dict()` / `load_state_dict()` are used where a rule has them."""

    def backward(self, network: Any, x: Tensor, y: Tensor) -> Any:
        """Fill `.grad`; return a step with `loss` (0-d), `output` [B, classes] and, if any, `free` and `nudged`."""


class Batches(Protocol):
    """What the trainer asks of a split of the data."""

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]: ...


class Trainer:
    """Trains a network with a rule and any `torch.optim` optimiser.

    The loop is `optimizer.zero_grad(); step = rule.backward(network, x, y); optimizer.step()`. Between two looks at the
    run (see `Guard`) it does not wait for the device. With `out`, a run folder is kept: config.json, metrics.h5 and a
    checkpoint after each epoch, and at the end summary.json and figures (see `Figures`). From the checkpoint
    `resume=True` continues to the same numbers, bit for bit, on the same machine with the same number of threads.

    Args:
        network: attractor network; trained in place.
        rule: learning rule with `backward(network, x, y)`.
        optimizer: over the network's parameters.
        data: splits `train`, `validation` (may be empty) and `test`. The test split selects nothing.
        epochs, batch_size: a last, smaller batch is used too.
        seed: of the generator that shuffles the training split.
        out: run folder; None keeps nothing on disk.
        config: plain JSON description of the run for config.json; None records network, rule and optimiser.
        scheduler: `torch.optim.lr_scheduler`, stepped after each epoch (a plateau scheduler gets the validation error).
        callbacks: see `Callback`. With `out`, `Figures()` is added unless there is one already.
        checkpoint_every_steps: also checkpoint within an epoch, every so many steps.
        resume, overwrite: what to do with a run that `out` already holds (see `Run.create`).
        extendable: config keys that may have grown on resume.
        progress: bar with rate, time left, loss and error, and one line an epoch, on standard error.
        patience: stop after so many epochs without a lower validation error; None to go on.
        keep_best: also keep the weights of the epoch with the lowest validation error.
        guard: when to give a run up; None lets it go on with whatever it does.
        eval_batch_size: batch size of validation and test.
        evaluate: `evaluate(network, split, rule, batch_size=...)`; None for `eqprop.evaluate`.

    Raises:
        ConfigError: a setting that cannot work. RunFolderError: see `Run.create`.
    """

    def __init__(
        self,
        network: nn.Module,
        rule: Rule,
        optimizer: torch.optim.Optimizer,
        data: Any,
        *,
        epochs: int,
        batch_size: int,
        seed: int = 0,
        out: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        scheduler: Any = None,
        callbacks: Sequence[Callback] = (),
        checkpoint_every_steps: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
        extendable: Iterable[str] = ("epochs",),
        progress: bool = True,
        patience: int | None = None,
        keep_best: bool = False,
        guard: Guard | None = Guard(),  # noqa: B008  (frozen)
        eval_batch_size: int = 500,
        evaluate: Callable[..., Any] | None = None,
    ) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            _whole(name, value)
        for name, optional in (("checkpoint_every_steps", checkpoint_every_steps), ("patience", patience)):
            if optional is not None:
                _whole(name, optional)
        if resume and out is None:
            raise ConfigError("resume=True needs the run folder to continue: write out=...")
        _check_data(data)
        if len(data.train) == 0:
            raise DataError("The training split is empty; needed at least one sample.")
        own = {id(p) for p in network.parameters()}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ConfigError(
                "optimizer: none of its parameters belongs to the network, which it would not train; build it over "
                "those of this network, as in torch.optim.SGD(network.parameters(), lr=0.1)."
            )
        self.network, self.rule, self.optimizer, self.data = network, rule, optimizer, data
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.scheduler, self.callbacks = scheduler, tuple(callbacks)
        if out is not None and not any(isinstance(callback, Figures) for callback in self.callbacks):
            self.callbacks += (Figures(),)
        self.rates = rates(optimizer)  # before a checkpoint replaces the optimiser's groups
        self.checkpoint_every_steps, self.progress = checkpoint_every_steps, progress
        self.patience, self.keep_best = patience, keep_best
        self.guard = guard
        self.eval_batch_size = eval_batch_size
        self._evaluate: Callable[..., Any] = default_evaluate if evaluate is None else evaluate
        self.steps_per_epoch = math.ceil(len(data.train) / batch_size)
        self.history = History()
        self.epoch = 0  # finished epochs
        self.step = 0  # steps taken since the start of the run
        self.step_in_epoch = 0
        self.stop_reason: str | None = None
        self.epoch_seconds = 0.0  # spent in the current epoch before this process took over
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch_start = self.generator.get_state()
        self._best: dict[str, Tensor] | None = None
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        self.totals = StepTotals(device, Status.CONVERGED)
        self.layers = LayerSamples(network)
        self.watch = Watch(guard or Guard(), len(data.classes))
        self.run: Run | None = None
        if out is not None:
            record = {**(describe(self) if config is None else config)}
            record |= {"epochs": epochs, "batch_size": batch_size, "seed": seed}
            self.run = Run.create(out, record, overwrite=overwrite, resume=resume, extendable=extendable)
            if resume:
                restore(self, self.run)
                self._check_patience()

    # -- public ------------------------------------------------------------------------------------------------------

    def fit(self) -> History:
        """Train up to `epochs`. Raises TrainingError when the run cannot succeed; the last good checkpoint stays."""
        with contextlib.ExitStack() as exits:
            for callback in self.callbacks:
                exits.callback(callback.on_fit_exit, self)
                callback.on_fit_start(self)
            bar = tqdm(
                total=self.epochs * self.steps_per_epoch,
                initial=self.step,
                unit="step",
                disable=None if self.progress else True,  # None: no bar where standard error is not a terminal
                dynamic_ncols=True,
            )
            with contextlib.closing(bar):
                while self.epoch < self.epochs and self.stop_reason is None:
                    self._train_epoch(bar)
            if self.run is not None:
                self.run.write_summary(summarise(self))
            for callback in self.callbacks:
                callback.on_fit_end(self)
        return self.history

    def test(self, which: str = "last") -> Any:
        """Evaluate on the test split: once, after training, with the last weights (or the "best" by validation)."""
        if which not in ("last", "best"):
            raise ConfigError(f"which={which!r} is unknown; write which='last' or which='best'.")
        if which == "last":
            return self._evaluation(self.data.test)
        best = self.best_weights()
        last = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(best)
        try:
            return self._evaluation(self.data.test)
        finally:
            self.network.load_state_dict(last)

    def best_weights(self) -> dict[str, Tensor]:
        """State dict of the epoch with the lowest validation error (needs `keep_best=True`)."""
        if self._best is None and self.run is not None and (state := self.run.best.load()) is not None:
            self._best = state["network"]
        if self._best is None:
            raise ConfigError("There are no best weights: write Trainer(..., keep_best=True) with a validation split.")
        return self._best

    def stop(self, reason: str) -> None:
        """End training after the current epoch (for callbacks)."""
        self.stop_reason = reason

    @property
    def seconds(self) -> float:
        """Training time so far, validation included, over all processes that took part."""
        return float(sum(self.history.series.get("seconds", []))) + self.epoch_seconds

    # -- one epoch ---------------------------------------------------------------------------------------------------

    def _train_epoch(self, bar: Any) -> None:
        if self.step_in_epoch == 0:
            self.epoch_start = self.generator.get_state()
            self.totals.reset()
            self.layers.reset()
            self.watch.start_epoch()
        else:  # taken up within an epoch: draw the same permutation again and skip what was done
            self.generator.set_state(self.epoch_start)
        started, shown = time.perf_counter() - self.epoch_seconds, 0.0
        skip = self.step_in_epoch
        look_every = (self.guard or Guard()).interval(self.steps_per_epoch, self.batch_size)
        network, rule, optimizer, totals = self.network, self.rule, self.optimizer, self.totals
        batches = self.data.train.batches(self.batch_size, generator=self.generator)
        for x, y in itertools.islice(batches, skip, None):
            looks = (self.step_in_epoch + 1) % look_every == 0 or self.step_in_epoch + 1 == self.steps_per_epoch
            optimizer.zero_grad()
            step = rule.backward(network, x, y)
            if looks:
                self.layers.before_update()
            optimizer.step()
            totals.add(step, y)
            self.step_in_epoch += 1
            self.step += 1
            for callback in self.callbacks:
                callback.on_step(self, step)
            if looks:
                self.layers.after_update(step)
                self._look()
            now = time.perf_counter()
            if self.checkpoint_every_steps and self.step % self.checkpoint_every_steps == 0:
                if self.step_in_epoch < self.steps_per_epoch:  # the epoch's end has its own
                    self.epoch_seconds = now - started
                    self._checkpoint(step)
            if not bar.disable and now - shown > 0.5:  # by time: reading the figures waits for the device
                shown = now
                loss, error = totals.peek()
                bar.set_postfix_str(f"epoch {self.epoch + 1}/{self.epochs}, loss {loss:.4f}, error {error:.2%}", False)
                bar.update(self.step - bar.n)
        self._finish_epoch(bar, started)

    def _finish_epoch(self, bar: Any, started: float) -> None:
        metrics = {"epoch": float(self.epoch + 1), "step": float(self.step)}
        metrics |= self.totals.metrics() | self.layers.read()
        for index, group in enumerate(self.optimizer.param_groups):
            metrics[f"learning_rate/{group.get('name', index)}"] = float(group["lr"])
        if len(self.data.validation):
            evaluation = self._evaluation(self.data.validation)
            metrics |= {"validation_loss": float(evaluation.loss), "validation_error": float(evaluation.error)}
        self._step_scheduler(metrics)
        metrics["seconds"] = time.perf_counter() - started
        self.history.append(metrics)
        self.epoch += 1
        self.step_in_epoch = 0
        self.epoch_seconds = 0.0
        self.epoch_start = self.generator.get_state()
        best = self._is_best()
        if best and self.keep_best:
            self._best = {name: v.detach().clone() for name, v in self.network.state_dict().items()}
            if self.run is not None:
                record = network_record(self.network)
                self.run.best.save({**record, "network": self._best, "epoch": self.epoch})
        if self.run is not None:
            # metrics first: a run killed between the two finds more epochs than its checkpoint has, and forgets them
            self.run.write_history(self.history)
            self.run.checkpoints.save(capture(self))
        self._show_epoch(bar, metrics)
        for callback in self.callbacks:
            callback.on_epoch_end(self, metrics)
        self._check_patience()

    def _look(self) -> None:
        """Read the figures (the one place in an epoch that waits for the device) and give up a hopeless run."""
        if self.guard is None:
            return
        reason = self.watch.look(self.step_in_epoch, self.totals.read(), self.layers, self.steps_per_epoch)
        if reason is not None:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
        lower = ", ".join(f"{group['lr'] / 10:g}" for group in self.optimizer.param_groups)
        text = (
            f"Training stopped in epoch {self.epoch + 1}, step {self.step}: {reason}. The learning rate is most "
            f"likely too high: it is {rates}; try a tenth, {lower}. Otherwise look at the initial weights (gain) and "
            "the nudge (beta). To let such a run go on, write guard=None (--no-guard)."
        )
        if self.run is not None and self.run.checkpoints.newest() is not None:
            text += f" The last checkpoint before this is kept in {self.run.folder}."
        raise TrainingError(text)

    def _is_best(self) -> bool:
        errors = self.history.series.get("validation_error", [])
        return bool(errors) and errors.index(min(errors)) == len(errors) - 1

    def _check_patience(self) -> None:
        errors = self.history.series.get("validation_error", [])
        if self.patience is None or not errors:
            return
        since = len(errors) - 1 - errors.index(min(errors))
        if since >= self.patience:
            self.stop(f"the validation error has not fallen for {since} epochs (patience={self.patience})")

    def _step_scheduler(self, metrics: Mapping[str, float]) -> None:
        if self.scheduler is None:
            return
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if "validation_error" not in metrics:
                raise ConfigError("A plateau scheduler needs a validation split; this data set has none.")
            self.scheduler.step(metrics["validation_error"])
        else:
            self.scheduler.step()

    def _show_epoch(self, bar: Any, metrics: Mapping[str, float]) -> None:
        if not self.progress:
            return
        if not bar.disable:
            bar.update(self.step - bar.n)
        line = f"epoch {self.epoch:3d}/{self.epochs}"
        line += f"  train loss {metrics['train_loss']:.4f} error {metrics['train_error']:.2%}"
        if "validation_error" in metrics:
            line += f"  validation loss {metrics['validation_loss']:.4f} error {metrics['validation_error']:.2%}"
        if not math.isnan(metrics["free_sweeps"]):
            nudged = "" if math.isnan(metrics["nudged_sweeps"]) else f" + {metrics['nudged_sweeps']:.1f}"
            line += f"  sweeps {metrics['free_sweeps']:.1f}{nudged}"
        dead = metrics.get(f"layers/{self.layers.names[-1]}/dead_share", 0.0) if self.layers.names else 0.0
        if dead:  # such an output is never chosen, and no gradient reaches it
            line += f"  dead outputs {dead:.0%}"
        tqdm.write(f"{line}  {metrics['seconds']:.1f} s", file=sys.stderr)

    def _evaluation(self, split: Batches) -> Any:
        return self._evaluate(self.network, split, self.rule, batch_size=self.eval_batch_size)

    def _checkpoint(self, step: Any) -> None:
        """Checkpoint within an epoch; never of weights that are not finite."""
        if self.run is None:
            return
        finite = all(torch.isfinite(p).all() for p in self.network.parameters())
        if self.guard is not None and not (finite and math.isfinite(float(step.loss))):
            self._fail("the loss or the weights are not finite (NaN or infinity)")
        self.run.checkpoints.save(capture(self))


def _check_data(data: Any) -> None:
    parts = [getattr(data, name, None) for name in ("train", "validation", "test")]
    if not all(hasattr(part, "batches") and hasattr(part, "__len__") for part in parts) or not hasattr(data, "classes"):
        raise ConfigError(
            f"data: got {type(data).__name__}, needed an eqprop.DataSplits, or an object with its train, validation "
            "and test (each with len() and batches(batch_size, generator=...)) and classes; write "
            "eqprop.load_dataset(...), or eqprop.DataSplits of eqprop.Split(images, labels)."
        )


def _whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: got {value!r}, needed a whole number of at least 1.")
