"""What a training run shows while it goes, on standard error: a bar with rate and figures, and one line an epoch.

Where standard error is no terminal (a batch job's log) there is no bar, but a line every ten minutes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm

_EVERY_SECONDS = 0.5  # by time: reading the figures waits for the device
_LINE_SECONDS = 600.0


class Progress:
    """The bar of a run.

    Args:
        shown: False prints nothing at all.
        epochs, steps_per_epoch: length of the run.
        step: steps taken so far.
    """

    def __init__(self, shown: bool, epochs: int, steps_per_epoch: int, step: int) -> None:
        self._shown, self._epochs, self._looked = shown, epochs, 0.0
        self._total, self._begin, self._first = epochs * steps_per_epoch, time.monotonic(), step
        self._line = self._begin
        self._bar = tqdm(
            total=epochs * steps_per_epoch,
            initial=step,
            unit="step",
            disable=None if shown else True,  # None: no bar where standard error is not a terminal
            dynamic_ncols=True,
        )

    def step(self, now: float, step: int, epoch: int, peek: Callable[[], tuple[float, float]]) -> None:
        """After a step, at the time `now` in seconds; `peek` reads mean loss and error of the epoch so far."""
        if self._bar.disable:
            self._write_line(step, epoch, peek)
            return
        if now - self._looked <= _EVERY_SECONDS:
            return
        self._looked = now
        loss, error = peek()
        self._bar.set_postfix_str(f"epoch {epoch}/{self._epochs}, loss {loss:.4f}, error {error:.2%}", False)
        self._bar.update(step - self._bar.n)

    def _write_line(self, step: int, epoch: int, peek: Callable[[], tuple[float, float]]) -> None:
        now = time.monotonic()
        if not self._shown or now - self._line < _LINE_SECONDS:
            return
        self._line = now
        loss, error = peek()
        left = tqdm.format_interval((now - self._begin) * (self._total - step) / max(step - self._first, 1))
        text = f"step {step}/{self._total}, epoch {epoch}/{self._epochs}, loss {loss:.4f}, error {error:.2%}"
        tqdm.write(f"{text}, {left} left", file=sys.stderr)

    def epoch(self, step: int, epoch: int, metrics: Mapping[str, float], output: str | None) -> None:
        """One line; `output` is the name of the output layer."""
        if not self._shown:
            return
        if not self._bar.disable:
            self._bar.update(step - self._bar.n)
        line = f"epoch {epoch:3d}/{self._epochs}"
        line += f"  train loss {metrics['train_loss']:.4f} error {metrics['train_error']:.2%}"
        if "validation_error" in metrics:
            line += f"  validation loss {metrics['validation_loss']:.4f} error {metrics['validation_error']:.2%}"
        if not math.isnan(metrics["free_sweeps"]):
            nudged = "" if math.isnan(metrics["nudged_sweeps"]) else f" + {metrics['nudged_sweeps']:.1f}"
            line += f"  sweeps {metrics['free_sweeps']:.1f}{nudged}"
        dead = metrics.get(f"layers/{output}/dead_share", 0.0)
        if dead:  # such an output is never chosen, and no gradient reaches it
            line += f"  dead outputs {dead:.0%}"
        tqdm.write(f"{line}  {metrics['seconds']:.1f} s", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar where it is."""
        self._bar.close()
