"""A training loop with epochs, schedules, validation, checkpoints and records. Nothing of a rule is hidden in it."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqprop._averaging import joint_backward
from eqprop._callbacks import Callback, Figures
from eqprop._distributed import WorkerLost, Workers
from eqprop._errors import ConfigError, DataError, TrainingError
from eqprop._evaluate import evaluate as default_evaluate
from eqprop._guard import MORE_SWEEPS, NOTHING_COUNTED, Guard, Watch
from eqprop._history import History
from eqprop._monitor import LayerSamples, StepTotals
from eqprop._progress import Progress
from eqprop._resume import (
    capture,
    describe,
    how_to_go_on,
    network_record,
    rates,
    require_same_settings,
    restore,
    summarise,
)
from eqprop._runs import Run
from eqprop._share import require_shareable
from eqprop._solution import Status
from eqprop._split import after
from eqprop._trainer_protocols import Batches, Rule, require_data, require_whole


class Trainer:
    """Trains a network with a rule and any `torch.optim` optimiser.

    The loop is `optimizer.zero_grad(); step = rule.backward(network, x, y); optimizer.step()`. Between two looks at the
    run (see `Guard`) it does not wait for the device. With `out`, a run folder is kept: config.json, metrics.h5 and a
    checkpoint after each epoch, and at the end summary.json and figures (see `Figures`). From the checkpoint
    `resume=True` continues to the same numbers, bit for bit, on the same machine with the same number of threads.

    With several `workers` every process makes the same trainer and calls the same methods. Each draws the joint batch
    of `batch_size` samples, as one process would, and works on its part of it; gradients are averaged before the
    optimiser's step, which all take alike. The first writes the run folder, which all must be able to read, and shows
    the progress. To rounding, the numbers are those of one process.

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
        evaluate: `evaluate(network, split, rule, batch_size=...)`; None for `eqprop.evaluate`. One of your own looks
            at the whole split in every process.
        workers: the processes that train together, as `Workers.from_environment()`; None for this one alone.

    Raises:
        ConfigError: a setting that cannot work, or that is not the same in all processes. RunFolderError: see
            `Run.create`.
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
        workers: Workers | None = None,
    ) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            require_whole(name, value)
        for name, optional in (("checkpoint_every_steps", checkpoint_every_steps), ("patience", patience)):
            if optional is not None:
                require_whole(name, optional)
        if resume and out is None:
            raise ConfigError("resume=True needs the run folder to continue: write out=...")
        require_data(data)
        if len(data.train) == 0:
            raise DataError("The training split is empty; needed at least one sample.")
        own = {id(p) for p in network.parameters()}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ConfigError(
                "optimizer: none of its parameters belongs to the network, which it would not train; build it over "
                "those of this network, as in torch.optim.SGD(network.parameters(), lr=0.1)."
            )
        self.network, self.rule, self.optimizer, self.data = network, rule, optimizer, data
        self.workers = Workers.alone() if workers is None else workers
        if self.workers.size > 1:
            require_shareable(rule, network)
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.scheduler, self.callbacks = scheduler, tuple(callbacks)
        if out is not None and not any(isinstance(callback, Figures) for callback in self.callbacks):
            self.callbacks += (Figures(),)
        self.rates = rates(optimizer)  # before a checkpoint replaces the optimiser's groups
        self.checkpoint_every_steps, self.progress = checkpoint_every_steps, progress
        self.patience, self.keep_best = patience, keep_best
        self.guard = guard
        self.eval_batch_size = eval_batch_size
        self._evaluate: Callable[..., Any] = evaluate or functools.partial(default_evaluate, workers=self.workers)
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
        self.totals = StepTotals(device, Status.CONVERGED, self.workers)
        self.layers = LayerSamples(network, self.workers)
        self.watch = Watch(guard or Guard(), len(data.classes))
        self.run: Run | None = None
        if out is not None:
            record = {**(describe(self) if config is None else config)}
            record |= {"epochs": epochs, "batch_size": batch_size, "seed": seed}
            self.run = Run.create(
                out, record, overwrite=overwrite, resume=resume, extendable=extendable, workers=self.workers
            )
            if resume:
                restore(self, self.run)
                self._check_patience()
        if self.workers.size > 1:
            require_same_settings(self)
            self.workers.broadcast(network)

    # -- public ------------------------------------------------------------------------------------------------------

    def fit(self) -> History:
        """Train up to `epochs`. Raises TrainingError when the run cannot succeed; the last good checkpoint stays."""
        with contextlib.ExitStack() as exits:
            exits.enter_context(self._not_alone())
            for callback in self.callbacks:
                exits.callback(callback.on_fit_exit, self)
                callback.on_fit_start(self)
            shown = self.progress and self.workers.first
            progress = Progress(shown, self.epochs, self.steps_per_epoch, self.step)
            with contextlib.closing(progress):
                while self.epoch < self.epochs and self.stop_reason is None:
                    self._train_epoch(progress)
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

    def _train_epoch(self, progress: Progress) -> None:
        if self.step_in_epoch == 0:
            self.epoch_start = self.generator.get_state()
            self.totals.reset()
            self.layers.reset()
            self.watch.start_epoch()
        else:  # taken up within an epoch: draw the same permutation again and skip what was done
            self.generator.set_state(self.epoch_start)
        started = time.perf_counter() - self.epoch_seconds
        skip = self.step_in_epoch
        look_every = (self.guard or Guard()).interval(self.steps_per_epoch, self.batch_size)
        optimizer, totals = self.optimizer, self.totals
        batches = self.data.train.batches(self.batch_size, generator=self.generator)
        for x, y in after(batches, skip):
            looks = (self.step_in_epoch + 1) % look_every == 0 or self.step_in_epoch + 1 == self.steps_per_epoch
            optimizer.zero_grad()
            step, share = joint_backward(self.rule, self.network, x, y, self.workers)
            if looks:
                self.layers.before_update()
            optimizer.step()
            if share.counts:
                totals.add(step, y[share.rows])
            self.step_in_epoch += 1
            self.step += 1
            for callback in self.callbacks:
                callback.on_step(self, step)
            if looks:
                self.layers.after_update(step, share)
                self._look()
            now = time.perf_counter()
            if self.checkpoint_every_steps and self.step % self.checkpoint_every_steps == 0:
                if self.step_in_epoch < self.steps_per_epoch:  # the epoch's end has its own
                    self.epoch_seconds = now - started
                    self._checkpoint(step)
            progress.step(now, self.step, self.epoch + 1, totals.peek)
        self._finish_epoch(progress, started)

    def _finish_epoch(self, progress: Progress, started: float) -> None:
        metrics = {"epoch": float(self.epoch + 1), "step": float(self.step)}
        metrics |= self.totals.metrics() | self.layers.read()
        for index, group in enumerate(self.optimizer.param_groups):
            metrics[f"learning_rate/{group.get('name', index)}"] = float(group["lr"])
        if len(self.data.validation):
            evaluation = self._evaluation(self.data.validation)
            metrics |= {"validation_loss": float(evaluation.loss), "validation_error": float(evaluation.error)}
        metrics["seconds"] = time.perf_counter() - started
        metrics = self.workers.agree(metrics)  # times differ, and an evaluation may: one decides for all
        self._step_scheduler(metrics)
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
                self.run.write_checkpoint({**record, "network": self._best, "epoch": self.epoch}, best=True)
        if self.run is not None:
            # metrics first: a run killed between the two finds more epochs than its checkpoint has, and forgets them
            self.run.write_history(self.history)
            self.run.write_checkpoint(capture(self))
        progress.epoch(self.step, self.epoch, metrics, self.layers.names[-1] if self.layers.names else None)
        for callback in self.callbacks:
            callback.on_epoch_end(self, metrics)
        self._check_patience()
        # a callback may stop the run in one process only
        self.stop_reason = next((r for r in self.workers.gather_objects(self.stop_reason) if r is not None), None)

    def _look(self) -> None:
        """Read the figures (the one place in an epoch that waits for the device) and give up a hopeless run."""
        if self.guard is None:
            return
        reason = self.watch.look(self.step_in_epoch, self.totals.read(), self.layers, self.steps_per_epoch)
        if reason is not None:
            self._fail(reason, MORE_SWEEPS if reason.startswith(NOTHING_COUNTED) else None)

    def _fail(self, reason: str, advice: str | None = None) -> None:
        rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
        lower = ", ".join(f"{group['lr'] / 10:g}" for group in self.optimizer.param_groups)
        if advice is None:
            advice = (
                f"The learning rate is most likely too high: it is {rates}; try a tenth, {lower}. Otherwise look at "
                "the initial weights (gain) and the nudge (beta)."
            )
        text = (
            f"Training stopped in epoch {self.epoch + 1}, step {self.step}: {reason}. {advice} To let such a run go "
            "on, write guard=None (--no-guard)."
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

    def _evaluation(self, split: Batches) -> Any:
        return self._evaluate(self.network, split, self.rule, batch_size=self.eval_batch_size)

    def _checkpoint(self, step: Any) -> None:
        """Checkpoint within an epoch; never of weights that are not finite."""
        if self.run is None:
            return
        finite = all(torch.isfinite(p).all() for p in self.network.parameters())
        counted = getattr(step, "counted", None)
        counts = counted is None or bool(counted.any())  # of a batch that does not, the loss is NaN
        if self.guard is not None and not (finite and (not counts or math.isfinite(float(step.loss)))):
            self._fail("the loss or the weights are not finite (NaN or infinity)")
        self.run.write_checkpoint(capture(self))

    @contextlib.contextmanager
    def _not_alone(self) -> Iterator[None]:
        """Within it, a lost process ends the run with a word on where it was and how to go on."""
        try:
            with self.workers.watching():
                yield
        except WorkerLost as error:
            text = f"Training stopped in epoch {self.epoch + 1}, step {self.step}: {error}. {how_to_go_on(self.run)}"
            raise WorkerLost(text) from error
