"""Checkpoints: tensors in safetensors, everything else in a JSON sidecar that names them with a checksum.

A pair is written under a new number, tensors first and the sidecar last, and only then is the older pair removed. So
whenever the process is killed, the newest sidecar on disk names tensors that are complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from eqprop._errors import ConfigError, RunFolderError

FORMAT = "eqprop-checkpoint/1"
TEMPORARY = ".eqprop-"  # every temporary file starts like this, so that a later run knows what it may remove


def atomic_write(path: str | Path, content: bytes | Callable[[Path], None], what: str = "a file of the run") -> None:
    """Write a file so that it is either the old one or the whole new one, also after a kill or on a full disk.

    `content` is the bytes, or a function that writes them to the path it is given (a temporary file in the same
    folder). Raises RunFolderError saying what was being written; the temporary file is removed first.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        else:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        _unlink(temporary)
        if isinstance(error, OSError):
            raise RunFolderError(_write_error(path, what, error)) from error
        raise


def _write_error(path: Path, what: str, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "Free some space and continue with resume=True (--resume)."
    else:
        advice = "Check that the folder can be written, or choose another one (out=..., --out)."
    return f"Could not write {what} to {path}: {reason}. Nothing earlier was changed. {advice}"


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems do not sync folders; the rename itself is still atomic
        pass
    finally:
        os.close(handle)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the caller is already reporting the cause; a temporary file left over does no harm
        pass


def pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Turn nested dicts, lists and tuples into JSON, moving every tensor into `tensors` under its path."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": path}
    if isinstance(value, Mapping):
        items = [[key, pack(item, _join(path, key), tensors)] for key, item in value.items()]
        if isinstance(value, Counter):
            return {"$counter": items}
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {"$map": items}
    if isinstance(value, list | tuple):
        packed = [pack(item, _join(path, index), tensors) for index, item in enumerate(value)]
        return {"$tuple": packed} if isinstance(value, tuple) else packed
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"A checkpoint cannot hold {path!r} of type {type(value).__name__}; it holds tensors, numbers, strings, None, "
        "and dicts, lists and tuples of them. Return only those from state_dict()."
    )


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, item),) = value.items()
        if kind == "$tensor":
            return tensors[item]
        if kind == "$tuple":
            return tuple(unpack(entry, tensors) for entry in item)
        if kind in ("$map", "$counter"):
            pairs = {key: unpack(entry, tensors) for key, entry in item}
            return Counter(pairs) if kind == "$counter" else pairs
    return {key: unpack(item, tensors) for key, item in value.items()}


def digest(value: Any) -> str:
    """Checksum of nested dicts, lists and tuples with tensors."""
    tensors: dict[str, Tensor] = {}
    packed = json.dumps(pack(value, "", tensors), sort_keys=True)
    return hashlib.sha256(packed.encode() + safetensors.torch.save(tensors)).hexdigest()[:16]


class CheckpointFolder:
    """The newest checkpoint under a tag ("checkpoint", "best") in a folder."""

    def __init__(self, folder: str | Path, tag: str = "checkpoint") -> None:
        self.folder = Path(folder)
        self.tag = tag
        self._pattern = re.compile(re.escape(tag) + r"-(\d{6}|[1-9]\d{6,})\.(json|safetensors)")

    def files(self) -> dict[int, set[str]]:
        """Suffixes present, by number."""
        found: dict[int, set[str]] = {}
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if match := self._pattern.fullmatch(path.name):
                    found.setdefault(int(match[1]), set()).add(match[2])
        return found

    def path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{self.tag}-{number:06d}.{suffix}"

    def newest(self) -> int | None:
        """Number of the newest sidecar; tensors without one were interrupted and do not count."""
        return max((number for number, suffixes in self.files().items() if "json" in suffixes), default=None)

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write `state` (nested, with tensors) as a new pair, then remove the older ones. Returns the sidecar."""
        before = self.files()
        number = max(before, default=0) + 1
        tensors: dict[str, Tensor] = {}
        packed = pack(dict(state), "", tensors)
        payload = safetensors.torch.save(tensors)
        sidecar = {
            "format": FORMAT,
            "tensors": self.path(number, "safetensors").name,
            "sha256": hashlib.sha256(payload).hexdigest(),
            "state": packed,
        }
        what = "a checkpoint" if self.newest() is None else "a checkpoint (the earlier one is intact)"
        try:
            atomic_write(self.path(number, "safetensors"), payload, what)
            atomic_write(self.path(number, "json"), json.dumps(sidecar, indent=1).encode(), what)
        except RunFolderError:
            _unlink(self.path(number, "safetensors"))
            raise
        for old, suffixes in before.items():
            for suffix in sorted(suffixes):  # the sidecar first: never one without its tensors
                _unlink(self.path(old, suffix))
        return self.path(number, "json")

    def load(self) -> dict[str, Any] | None:
        """The newest state, or None where there is none. Raises RunFolderError naming a damaged file."""
        number = self.newest()
        if number is None:
            return None
        sidecar_path = self.path(number, "json")
        try:
            sidecar = json.loads(sidecar_path.read_bytes())
            if sidecar["format"] != FORMAT:
                raise RunFolderError(
                    f"{sidecar_path} has format {sidecar['format']!r}; this version reads {FORMAT!r}. "
                    "Load it with the version that wrote it."
                )
            name, checksum, packed = str(sidecar["tensors"]), sidecar["sha256"], sidecar["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(sidecar_path, f"not a whole JSON sidecar ({error})") from error
        tensors_path = self.folder / Path(name).name
        if not tensors_path.is_file():
            raise self._damaged(tensors_path, f"missing, although {sidecar_path.name} names it")
        payload = tensors_path.read_bytes()
        if hashlib.sha256(payload).hexdigest() != checksum:
            raise self._damaged(tensors_path, f"its {len(payload)} bytes do not match the checksum in the sidecar")
        try:
            tensors = safetensors.torch.load(payload)
            state: dict[str, Any] = unpack(packed, tensors)
        except (safetensors.SafetensorError, KeyError) as error:
            raise self._damaged(tensors_path, f"not readable as safetensors ({error})") from error
        return state

    def _damaged(self, path: Path, why: str) -> RunFolderError:
        return RunFolderError(
            f"Damaged checkpoint {path}: {why}. It was truncated or changed after it was written. Restore the file "
            "from a copy, or start again with overwrite=True (--overwrite)."
        )


def load_weights(network: nn.Module, weights: Mapping[str, Any], where: str | Path) -> None:
    """Copy a state dict into a network. Raises RunFolderError naming the first parameter that does not fit."""
    needed = network.state_dict()
    missing = [name for name in needed if name not in weights]
    unknown = [name for name in weights if name not in needed]
    for name, target in needed.items():
        if isinstance(target, Tensor) and name in weights and weights[name].shape != target.shape:
            raise _mismatch(where, f"{name!r} has shape {list(weights[name].shape)}, needed {list(target.shape)}")
    if missing:
        raise _mismatch(where, f"it lacks {missing[0]!r}, needed {list(needed[missing[0]].shape)}")
    if unknown:
        raise _mismatch(where, f"it holds {unknown[0]!r}, which this network does not have")
    with torch.no_grad():
        network.load_state_dict(dict(weights))


def _mismatch(where: str | Path, what: str) -> RunFolderError:
    return RunFolderError(
        f"The checkpoint in {where} is of another architecture: {what}. Build the network with the settings in the "
        "run's config.json, or let eqprop.load(run_folder) build it."
    )
