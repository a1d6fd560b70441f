"""What a checkpoint of a training run holds, and how a run takes it up again to the same numbers."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from eqprop._checkpoints import digest, load_weights
from eqprop._costs import FunctionCost
from eqprop._errors import ConfigError, EqPropError, RunFolderError
from eqprop._runs import Run, flatten, system_record

if TYPE_CHECKING:
    from eqprop._trainer import Trainer


def network_record(network: nn.Module) -> dict[str, Any]:
    """The network's description, or why it has none (the user's own functions): `eqprop.load` says so."""
    describe = getattr(network, "spec", None)
    if describe is None:
        return {"spec": None, "spec_error": f"its class {type(network).__name__} has no spec()"}
    try:
        return {"spec": describe()}
    except EqPropError as error:
        return {"spec": None, "spec_error": str(error)}


def _qualified(function: Any) -> str:
    """Module and name of a function, or of the class of a callable object (one that has no name of its own)."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _own_network(network: nn.Module) -> dict[str, Any]:
    """What tells a network without a spec from another: its class, its function and its parameters."""
    record: dict[str, Any] = {"class": type(network).__name__}
    if (function := getattr(network, "function", None)) is not None:
        record["function"] = _qualified(getattr(function, "_function", function))
    return record | {"parameters": {name: list(p.shape) for name, p in network.named_parameters()}}


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Learning rate of each group as it was asked for, before any schedule."""
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]


def describe(trainer: Trainer) -> dict[str, Any]:
    """Config of a run whose caller gave none. The spec of the network tells architectures apart, not weights."""
    rule_spec = getattr(trainer.rule, "spec", None)
    rule = dict(rule_spec()) if rule_spec is not None else {"rule": type(trainer.rule).__name__}
    cost = getattr(trainer.rule, "loss_function", None)
    if isinstance(cost, FunctionCost):  # its name is that of every function
        rule["cost"] = f"function {_qualified(cost.function)}"
    kinds = bool | int | float | str | tuple
    skipped = ("params", "lr", "initial_lr")
    groups = [
        {key: value for key, value in group.items() if key not in skipped and isinstance(value, kinds)} | {"lr": rate}
        for group, rate in zip(trainer.optimizer.param_groups, trainer.rates, strict=True)
    ]
    return {
        "network": network_record(trainer.network)["spec"] or _own_network(trainer.network),
        "rule": rule,
        "optimizer": {"name": type(trainer.optimizer).__name__, "groups": groups},
        "scheduler": None if trainer.scheduler is None else type(trainer.scheduler).__name__,
    }


def require_same_settings(trainer: Trainer) -> None:
    """Raises ``ConfigError``, in all processes of a run, where one has other settings than the first."""
    found = trainer.workers.gather_objects(_settings(trainer))
    for rank, other in enumerate(found):
        for name in found[0] | other:
            if found[0].get(name) != other.get(name):
                raise ConfigError(
                    f"{name}: process 0 has {found[0].get(name)}, process {rank} has {other.get(name)}; needed the "
                    "same in all: run the same command, with the same data, in every process"
                )


def _settings(trainer: Trainer) -> dict[str, str]:
    """What all processes of a run must have alike, as texts by name."""
    rule_state = getattr(trainer.rule, "state_dict", None)
    found = {name: str(value) for name, value in flatten(describe(trainer)).items()}
    for name in ("epochs", "batch_size", "seed", "eval_batch_size", "checkpoint_every_steps", "patience", "keep_best"):
        found[name] = str(getattr(trainer, name))
    return found | {
        "guard": str(trainer.guard),
        "learning rates": str(trainer.rates),
        "parameters": str({name: list(p.shape) for name, p in trainer.network.named_parameters()}),
        "samples": str([len(split) for split in (trainer.data.train, trainer.data.validation)]),
        "checkpoint": f"epoch {trainer.epoch}, step {trainer.step}",
        "random state": digest({"rule": None if rule_state is None else rule_state(), "shuffle": trainer.epoch_start}),
    }


def how_to_go_on(run: Run | None) -> str:
    """What is left of a run that broke off, and how to continue it."""
    if run is None:
        return "Nothing was kept: write out=... (--out), so that such a run can be continued."
    if run.checkpoints.newest() is None:
        return f"There is no checkpoint in {run.folder} yet: start again."
    return f"The last checkpoint is in {run.folder}: continue with the same command and resume=True (--resume)."


def capture(trainer: Trainer) -> dict[str, Any]:
    """Everything that decides how the run goes on."""
    rule_state = getattr(trainer.rule, "state_dict", None)
    return {
        **network_record(trainer.network),
        "network": trainer.network.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "rates": trainer.rates,
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
        "processes": trainer.workers.size,
        "torch": torch.__version__,
    }


def summarise(trainer: Trainer) -> dict[str, Any]:
    """What summary.json says at the end of a fit; a script may write its own over it."""
    last = {name: value if math.isfinite(value) else None for name, value in trainer.history.last().items()}
    data_spec = getattr(trainer.data, "spec", None)
    device = next((p.device for p in trainer.network.parameters()), torch.device("cpu"))
    return {
        "epochs": trainer.epoch,
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "stopped": trainer.stop_reason,
        "last": last,
        "sweeps": {"free": last.get("free_sweeps"), "nudged": last.get("nudged_sweeps")},
        "residuals": {
            "mean": last.get("residual_mean"),
            "max": last.get("residual_max"),
            "unconverged_share": last.get("unconverged_share"),
        },
        "data": data_spec() if data_spec is not None else {"train": len(trainer.data.train)},
        "config": None if trainer.run is None else trainer.run.config,
        "processes": trainer.workers.size,
        **system_record(device),
    }


def restore(trainer: Trainer, run: Run) -> None:
    """Take up the newest checkpoint; without one (killed before the first) the run starts anew.

    Raises:
        RunFolderError: the checkpoint is damaged, of another architecture or optimiser, or metrics.h5 is too short.
    """
    state = run.checkpoints.load()
    if state is None:
        return
    before = state.get("rates", trainer.rates)
    if before != trainer.rates:  # a caller's own config need not name them
        raise RunFolderError(
            f"The run in {run.folder} cannot be resumed with another learning rate (lr: {before} there, "
            f"{trainer.rates} asked). Repeat its rates, or write overwrite=True (--overwrite) to replace it."
        )
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
    if not trainer.workers.first:  # one warning is enough
        return
    if state["threads"] != torch.get_num_threads():
        warnings.warn(
            f"The run was started with {state['threads']} threads and goes on with {torch.get_num_threads()}: its "
            f"numbers may differ in the last bits. Write torch.set_num_threads({state['threads']}) for the same.",
            stacklevel=3,
        )
    if (processes := state.get("processes", 1)) != trainer.workers.size:
        warnings.warn(
            f"The run was started with {processes} processes and goes on with {trainer.workers.size}: its numbers may "
            f"differ in the last bits. Start {processes} for the same (torchrun --nproc-per-node={processes}).",
            stacklevel=3,
        )
