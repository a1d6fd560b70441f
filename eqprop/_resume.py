"""What a checkpoint of a training run holds, and how a run takes it up again to the same numbers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from eqprop._checkpoints import load_weights
from eqprop._errors import EqPropError, RunFolderError
from eqprop._runs import Run

if TYPE_CHECKING:
    from eqprop._trainer import Trainer


def network_spec(network: nn.Module) -> dict[str, Any] | None:
    """The network's description, or None where it has none (the user's own functions): `eqprop.load` says so."""
    describe = getattr(network, "spec", None)
    try:
        return describe() if describe is not None else None
    except EqPropError:
        return None


def describe(trainer: Trainer) -> dict[str, Any]:
    """Config of a run whose caller gave none. The spec of the network tells architectures apart, not weights."""
    rule_spec = getattr(trainer.rule, "spec", None)
    kinds = bool | int | float | str | tuple
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "lr") and isinstance(value, kinds)}
        for group in trainer.optimizer.param_groups
    ]
    return {
        "network": network_spec(trainer.network) or type(trainer.network).__name__,
        "rule": rule_spec() if rule_spec is not None else type(trainer.rule).__name__,
        "optimizer": {"name": type(trainer.optimizer).__name__, "groups": groups},
        "scheduler": None if trainer.scheduler is None else type(trainer.scheduler).__name__,
    }


def capture(trainer: Trainer) -> dict[str, Any]:
    """Everything that decides how the run goes on."""
    rule_state = getattr(trainer.rule, "state_dict", None)
    return {
        "spec": network_spec(trainer.network),
        "network": trainer.network.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": None if trainer.scheduler is None else trainer.scheduler.state_dict(),
        "rule": None if rule_state is None else rule_state(),
        # the generator as it was before the epoch's permutation: a resumed run draws it again and skips what was done
        "shuffle": trainer.epoch_start,
        "epoch": trainer.epoch,
        "step": trainer.step,
        "step_in_epoch": trainer.step_in_epoch,
        "seconds": trainer.epoch_seconds,
        "totals": trainer.totals.state_dict(),
        "layers": trainer.layers.state_dict(),
        "watch": trainer.watch.state_dict(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def restore(trainer: Trainer, run: Run) -> None:
    """Take up the newest checkpoint; without one (killed before the first) the run starts anew.

    Raises:
        RunFolderError: the checkpoint is damaged, of another architecture or optimiser, or metrics.h5 is too short.
    """
    state = run.checkpoints.load()
    if state is None:
        return
    load_weights(trainer.network, state["network"], run.folder)
    try:
        trainer.optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as error:
        raise RunFolderError(
            f"The checkpoint in {run.folder} is of another optimiser: {error}. Build the one it was made with."
        ) from error
    if (state["scheduler"] is None) != (trainer.scheduler is None):
        has = "no scheduler" if state["scheduler"] is None else "a scheduler"
        raise RunFolderError(
            f"The checkpoint in {run.folder} has {has}, this run the opposite; build the run as it was."
        )
    if trainer.scheduler is not None:
        trainer.scheduler.load_state_dict(state["scheduler"])
    if state["rule"] is not None:
        trainer.rule.load_state_dict(state["rule"])  # type: ignore[attr-defined]
    trainer.epoch_start = state["shuffle"]
    trainer.generator.set_state(state["shuffle"])
    trainer.epoch, trainer.step, trainer.step_in_epoch = state["epoch"], state["step"], state["step_in_epoch"]
    trainer.epoch_seconds = state["seconds"]
    trainer.totals.load_state_dict(state["totals"])
    trainer.layers.load_state_dict(state["layers"])
    trainer.watch.load_state_dict(state["watch"])
    trainer.history = run.read_history()
    if len(trainer.history) < trainer.epoch:
        raise RunFolderError(
            f"{run.folder / 'metrics.h5'} holds {len(trainer.history)} epochs, the checkpoint {trainer.epoch}: a file "
            "was removed or replaced. Restore it, or start again with overwrite=True (--overwrite)."
        )
    trainer.history.truncate(trainer.epoch)
    if state["threads"] != torch.get_num_threads():
        warnings.warn(
            f"The run was started with {state['threads']} threads and goes on with {torch.get_num_threads()}: its "
            f"numbers may differ in the last bits. Write torch.set_num_threads({state['threads']}) for the same.",
            stacklevel=3,
        )
