"""Callbacks: what a user may hang into a training run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqprop._errors import ConfigError
from eqprop._figures import learning_curves, receptive_fields

if TYPE_CHECKING:
    from eqprop._trainer import Trainer

FIGURES = ("learning_curves", "receptive_fields")


class Callback:
    """Base of callbacks; override what you need.

    A callback may read everything on the trainer and may call `trainer.stop(reason)`. Reading a tensor's value in
    `on_step` waits for the device in every step; keep tensors and read them in `on_epoch_end`.

    With several processes every one calls its callbacks, with a `step` of its part of the batch (loss and penalties are
    those of the whole); what goes into files or onto the screen is for the first (`trainer.workers.first`).
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first step, after a checkpoint was restored."""

    def on_step(self, trainer: Trainer, step: Any) -> None:
        """After each optimiser step; `step` is what `rule.backward` returned."""

    def on_epoch_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """After validation; `metrics` are the epoch's values by the names that `History` records."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last epoch, or an early stop."""

    def on_fit_exit(self, trainer: Trainer) -> None:
        """However `fit` ended, also by an error: release what you hold."""


class Figures(Callback):
    """Draws the learning curves, and the weights from the input where they are images, into the run folder.

    A trainer with a run folder has one by default; pass your own to change it.

    Args:
        title: of the learning curves.
        draw: which of "learning_curves" and "receptive_fields"; () for none.

    Raises:
        ConfigError: an unknown name in `draw`.
    """

    def __init__(self, title: str | None = None, draw: Iterable[str] = FIGURES) -> None:
        self.title, self.draw = title, tuple(draw)
        if unknown := [name for name in self.draw if name not in FIGURES]:
            raise ConfigError(f"Figures: got {unknown[0]!r} in draw, needed {' or '.join(map(repr, FIGURES))}.")

    def on_fit_end(self, trainer: Trainer) -> None:
        if trainer.run is None or not trainer.run.writes or len(trainer.history) == 0:
            return
        if "learning_curves" in self.draw:
            trainer.run.save_figure("learning_curves", learning_curves(trainer.history, self.title))
        if "receptive_fields" in self.draw:
            names = list(getattr(trainer.network, "layers", {}))
            try:
                figure = receptive_fields(trainer.network, names[1] if len(names) > 1 else None)
            except ConfigError:  # no connection from the input, or the input is no image
                return
            trainer.run.save_figure("receptive_fields", figure)


class TensorBoard(Callback):
    """Writes every series of the history to TensorBoard event files, the epoch's training step as abscissa.

    Args:
        folder: where the event files go; None for `tensorboard/` in the run folder.

    Raises:
        ConfigError: TensorBoard is not installed, or there is neither a folder nor a run folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                'The TensorBoard callback needs the tensorboard package: pip install "eqprop[tensorboard]"'
            ) from error
        self._writer_class = SummaryWriter
        self._writer: Any = None
        self.folder = None if folder is None else Path(folder)

    def on_fit_start(self, trainer: Trainer) -> None:
        if not trainer.workers.first:
            return
        folder = self.folder
        if folder is None:
            if trainer.run is None:
                raise ConfigError("TensorBoard() needs a folder: write TensorBoard('logs') or Trainer(..., out='run').")
            folder = trainer.run.folder / "tensorboard"
        # a resumed run repeats the steps after its checkpoint: hide what was logged for them before
        self._writer = self._writer_class(str(folder), purge_step=trainer.step + 1)

    def on_epoch_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        if self._writer is None:  # not the first of several processes
            return
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, trainer.step)
        self._writer.flush()

    def on_fit_exit(self, trainer: Trainer) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
