"""The folder of a run: config.json, metrics.h5, checkpoint/, figures/, summary.json; and the record of the machine."""

from __future__ import annotations

import functools
import io
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from eqprop._checkpoints import TEMPORARY, CheckpointFolder, atomic_write, load_weights
from eqprop._distributed import Workers
from eqprop._errors import ConfigError, RunFolderError
from eqprop._history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "eqprop-run/1"
_PNG_SOFTWARE = "eqprop run figure"  # written into every figure, so that --overwrite knows which PNGs are ours
_OURS = ("config.json", "metrics.h5", "summary.json", "checkpoint", "figures")


class Run:
    """A run folder. Make one with `Run.create` (or open a finished one with `Run.open`).

    Attributes:
        writes: whether this process writes the run: of several, the first. In the others every write does nothing.
    """

    def __init__(self, folder: Path, config: dict[str, Any], *, writes: bool = True) -> None:
        self.folder = folder
        self.config = config
        self.writes = writes
        self.checkpoints = CheckpointFolder(folder / "checkpoint", "checkpoint")
        self.best = CheckpointFolder(folder / "checkpoint", "best")

    @classmethod
    def create(
        cls,
        out: str | Path,
        config: Mapping[str, Any],
        *,
        overwrite: bool = False,
        resume: bool = False,
        extendable: Iterable[str] = ("epochs",),
        workers: Workers | None = None,
    ) -> Run:
        """Start a run in `out`, or take up the one that is there.

        A folder with nothing but the config.json of a run that never got under way is free to take. One that holds a
        run is refused unless `resume` (same config; a number named in `extendable` may have grown) or
        `overwrite` (removes what a run writes and nothing else). `resume` where there is no run starts one.
        Of several `workers`, which all call this, the first does so; the folder must be one that all can read.
        Raises RunFolderError saying what differs and what to write.
        """
        folder = Path(out)
        config = _as_json(config)
        if workers is not None and workers.size > 1:
            one = functools.partial(
                cls.create, out, config, overwrite=overwrite, resume=resume, extendable=tuple(extendable)
            )
            other = functools.partial(cls, folder, config, writes=False)
            return workers.in_turn(one if workers.first else other)
        if overwrite and resume:
            raise ConfigError("overwrite and resume exclude each other: write --resume to continue or --overwrite.")
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"{folder} is a file; a run needs a folder. Choose another folder (out=..., --out).")
        held = _held_config(folder)
        if held is None:
            foreign = [name for name in _OURS if (folder / name).exists()]
            if foreign:
                raise RunFolderError(
                    f"{folder} already has {', '.join(foreign)}, not written by a run of this package; a run would "
                    "overwrite them. Choose another folder (out=..., --out)."
                )
        elif not _under_way(folder):
            pass  # an earlier start failed before it made anything: the corrected one may take the folder
        elif resume:
            _check_resumable(folder, held, config, set(extendable))
        elif overwrite:
            _clear(folder)
        else:
            changed = _differences(held, config)
            which = "the same run" if not changed else f"another run ({_list(changed)})"
            go_on = ["resume=True (--resume) to continue it"] if not changed else []
            options = [*go_on, "overwrite=True (--overwrite) to replace it", "another folder (out=..., --out)"]
            raise RunFolderError(f"{folder} already holds {which}. Write {', or '.join(options)}.")
        _remove_temporaries(folder)
        run = cls(folder, config)
        run.write("config.json", _json({"format": FORMAT, "config": config}), "the configuration")
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open the run in a folder, to read it."""
        folder = Path(folder)
        held = _held_config(folder)
        if held is None:
            raise RunFolderError(f"{folder} holds no run: there is no config.json of ours in it.")
        return cls(folder, held)

    def write(self, name: str, content: bytes, what: str) -> Path:
        """Write one file of the run, atomically."""
        path = self.folder / name
        if self.writes:
            atomic_write(path, content, what)
        return path

    def write_checkpoint(self, state: Mapping[str, Any], *, best: bool = False) -> None:
        """Write the newest checkpoint, or that of the best epoch (see `CheckpointFolder.save`)."""
        if self.writes:
            (self.best if best else self.checkpoints).save(state)

    def write_history(self, history: History) -> None:
        """Write metrics.h5 (see `History.to_bytes`). Raises RunFolderError where it cannot be written."""
        self.write("metrics.h5", history.to_bytes(), "the metrics")

    def read_history(self) -> History:
        """The series of metrics.h5, empty before the first epoch. Raises RunFolderError if the file is damaged."""
        path = self.folder / "metrics.h5"
        return History.read(path) if path.exists() else History()

    def save_figure(self, name: str, figure: Figure) -> Path:
        """Write a matplotlib figure as figures/NAME.png."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": _PNG_SOFTWARE})
        return self.write(f"figures/{name}.png", buffer.getvalue(), f"the figure {name}")

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Write summary.json: what a reader needs to judge and repeat the run."""
        return self.write("summary.json", _json(_as_json(summary)), "the summary")

    def read_summary(self) -> dict[str, Any]:
        """What summary.json holds: written at the end of `Trainer.fit`, or by the script that made the run.

        Raises RunFolderError where there is none yet, or it is damaged.
        """
        path = self.folder / "summary.json"
        try:
            summary: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{path} is missing: the run has not finished. Continue it with resume=True (--resume)."
            ) from error
        except ValueError as error:
            raise RunFolderError(f"{path} is damaged: not valid JSON ({error}).") from error
        return summary


def load(
    run_folder: str | Path,
    *,
    which: str = "last",
    device: str | torch.device | None = None,
    network: nn.Module | None = None,
) -> nn.Module:
    """The trained network of a run folder, rebuilt from the description in its checkpoint.

    Args:
        which: "last" for the newest checkpoint, "best" for the best by validation (kept with `keep_best=True`).
        device: where the network goes; None for the CPU, or to leave `network` where it is.
        network: one of the same architecture, to take the weights and be returned: for a network of your own code,
            which no file can describe.

    Raises:
        RunFolderError: no such checkpoint; it is damaged, or its names or shapes are of another architecture.
    """
    if which not in ("last", "best"):
        raise ConfigError(f"which={which!r} is unknown; write which='last' or which='best'.")
    run = Run.open(run_folder)
    folder = run.checkpoints if which == "last" else run.best
    state = folder.load()
    if state is None:
        if which == "best":
            raise RunFolderError(
                f"{run.folder} has no 'best' checkpoint: it is kept by Trainer(..., keep_best=True) with a validation "
                "split. Write which='last' for the newest."
            )
        raise RunFolderError(f"{run.folder} has no {folder.tag!r} checkpoint. Train first, or write --resume.")
    if network is None:
        if state.get("spec") is None:
            reason = state.get("spec_error") or "its class has no spec()"
            raise RunFolderError(
                f"The checkpoint in {run.folder} has no description of its network: {reason}. Build the network again "
                f"and write eqprop.load({str(run_folder)!r}, network=network)."
            )
        from eqprop import network_from_spec

        network, device = network_from_spec(state["spec"]), device or "cpu"
    load_weights(network, state["network"], run.folder)
    return network if device is None else network.to(device)


def system_record(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Versions, machine and commit, without paths, host or user names; goes into every summary.json."""
    device = torch.device(device)
    versions = {"python": platform.python_version()}
    for name in ("torch", "numpy", "eqprop"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            import eqprop

            versions[name] = str(getattr(eqprop, "__version__", "unknown")) if name == "eqprop" else "unknown"
    machine: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        machine["device_name"] = torch.cuda.get_device_name(device)
        versions["cuda"] = str(torch.version.cuda)
    return {"versions": versions, "machine": machine, "commit": commit_of_checkout()}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def commit_of_checkout() -> str | None:
    """Commit of the checkout that this package runs from, "+" if it has changes; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return None
    # recorded results are written by the very run that records them, so they do not count as a change
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return commit + ("+" if changed else "")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as JSON will give it back (tuples become lists), so that configs compare equal after a restart."""
    try:
        result: dict[str, Any] = json.loads(json.dumps(dict(value)))
    except TypeError as error:
        raise ConfigError(
            f"A run's record must be plain JSON: {error}. Write numbers, strings, lists, dicts."
        ) from error
    return result


def _held_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    try:
        held = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise RunFolderError(
            f"{path} is not valid JSON ({error}). Choose another folder (out=..., --out), or repair the file."
        ) from error
    if not isinstance(held, dict) or held.get("format") != FORMAT or not isinstance(held.get("config"), dict):
        return None
    config: dict[str, Any] = held["config"]
    return config


def _under_way(folder: Path) -> bool:
    """Whether the run of this folder's config.json has made anything, or has runs of its own below it."""
    made = [folder / "metrics.h5", folder / "summary.json", *folder.glob("figures/*.png")]
    checkpoints = (CheckpointFolder(folder / "checkpoint", tag) for tag in ("checkpoint", "best"))
    return (
        any(path.exists() for path in made)
        or any(pairs.newest() is not None for pairs in checkpoints)
        or any(_under_way(config.parent) for config in folder.glob("*/config.json"))
    )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots."""
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: value}


def _differences(held: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """One text a differing key: "lr: 0.1 there, 0.05 asked"."""
    before, after = flatten(held), flatten(asked)

    def show(values: dict[str, Any], key: str) -> str:
        return json.dumps(values[key]) if key in values else "nothing"

    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: {show(before, key)} there, {show(after, key)} asked"
        for key in keys
        if show(before, key) != show(after, key)
    ]


def _list(changed: list[str], most: int = 6) -> str:
    return "; ".join(changed[:most]) + (f"; and {len(changed) - most} more" if len(changed) > most else "")


def _check_resumable(folder: Path, held: dict[str, Any], asked: dict[str, Any], extendable: set[str]) -> None:
    held = dict(held)
    for key in extendable & held.keys() & asked.keys():
        old, new = held[key], asked[key]
        if isinstance(old, int | float) and isinstance(new, int | float) and new >= old:
            held[key] = new
    changed = _differences(held, asked)
    if changed:
        raise RunFolderError(
            f"{folder} holds another run, which cannot be resumed with these settings ({_list(changed)}). Repeat its "
            "settings, write overwrite=True (--overwrite) to replace it, or choose another folder (out=..., --out)."
        )


def _remove_temporaries(folder: Path) -> None:
    """Temporary files that a killed run left behind."""
    for place in (folder, folder / "checkpoint", folder / "figures"):
        for path in place.glob(f"{TEMPORARY}*.tmp"):
            path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else; config.json stays until the new one replaces it."""
    for tag in ("checkpoint", "best"):
        pairs = CheckpointFolder(folder / "checkpoint", tag)
        for number, suffixes in pairs.files().items():
            for suffix in sorted(suffixes):
                pairs.path(number, suffix).unlink(missing_ok=True)
    for name in ("metrics.h5", "summary.json"):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "figures").glob("*.png"):
        if _PNG_SOFTWARE.encode() in path.read_bytes()[:1024]:
            path.unlink()
