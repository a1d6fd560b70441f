"""The folder of a sweep: sweep.json says which, points/KEY.json holds a point each, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqprop._checkpoints import TEMPORARY, atomic_write
from eqprop._errors import RunFolderError
from eqprop._sweep_config import code_state
from eqprop._sweep_point import STATUSES, Outcome, Point

FORMAT, POINT_FORMAT = "eqprop-sweep/1", "eqprop-sweep-point/1"
# what a run or somebody else may have left, which a sweep would mix with its own
_FOREIGN = ("config.json", "metrics.h5", "summary.json", "points", "table.csv", "table.h5")
_NAME = re.compile(r"[0-9a-f]{20}\.json")


class SweepWarning(UserWarning):
    """A file of a sweep that is damaged and was left out; names it."""


@dataclass(frozen=True)
class Recorded:
    """A point as its file has it.

    Attributes:
        code: what computed it, see ``code_state``; None in files of before that was noted.
    """

    config: dict[str, Any]
    outcome: Outcome
    code: str | None = None


class SweepFolder:
    """A folder with a sweep in it.

    Attributes:
        identity: names of the function and of the config's class, and the version of the code.
        damaged: files that could not be read, with the reason, at the last look.
        others: points of other versions, at the last look.
    """

    def __init__(self, folder: Path, identity: dict[str, str]) -> None:
        self.folder, self.identity = folder, identity
        self.damaged: dict[Path, str] = {}
        self.others = 0

    @classmethod
    def create(cls, out: str | Path, *, run: str, config: str, version: str) -> SweepFolder:
        """Begin a sweep, or take up the one that is there. Hold the folder's lock when you call this.

        Raises:
            RunFolderError: the folder holds another sweep, a run, or somebody else's files by our names.
        """
        folder = Path(out)
        held = cls.check(folder, run=run, config=config)
        identity = {"run": run, "config": config, "version": version}
        if held != identity:
            content = json.dumps({"format": FORMAT, **identity}, indent=2) + "\n"
            atomic_write(folder / "sweep.json", content.encode(), "the sweep's description")
        for place in (folder, folder / "points", folder / "figures"):
            for left in place.glob(f"{TEMPORARY}*.tmp"):
                left.unlink(missing_ok=True)
        return cls(folder, identity)

    @staticmethod
    def check(folder: Path, *, run: str, config: str) -> dict[str, str] | None:
        """What the folder holds: this sweep, or nothing. Raises RunFolderError as ``create``."""
        held = _held(folder)
        if held is None:
            foreign = [name for name in _FOREIGN if (folder / name).exists()]
            if foreign:
                raise RunFolderError(
                    f"{folder} has {', '.join(foreign)} but no sweep: another run, or files of yours. Choose another "
                    "folder (out=..., --out)."
                )
            return None
        for what, there, asked in (("function", held["run"], run), ("config", held["config"], config)):
            if there != asked:
                raise RunFolderError(
                    f"{folder} holds another sweep: of {what} {there}, but {asked} was asked for. Choose another "
                    "folder (out=..., --out)."
                )
        return held

    @classmethod
    def open(cls, path: str | Path) -> SweepFolder:
        """Open a sweep to read it. Raises RunFolderError where there is none."""
        folder = Path(path)
        held = _held(folder)
        if held is None:
            raise RunFolderError(f"{folder} holds no sweep: there is no sweep.json of ours in it.")
        return cls(folder, held)

    def path(self, key: str) -> Path:
        """The file of a point."""
        return self.folder / "points" / f"{key}.json"

    def write(self, point: Point, outcome: Outcome) -> None:
        """Record what became of a point. Raises RunFolderError where it cannot be written."""
        body = {
            "format": POINT_FORMAT,
            "version": self.identity["version"],
            "code": code_state(),
            "config": point.plain,
            **dataclasses.asdict(outcome),
        }
        content = json.dumps(body | {"sha256": _checksum(body)}, indent=1) + "\n"
        atomic_write(self.path(point.key), content.encode(), "a point of the sweep")

    def read(self) -> dict[str, Recorded]:
        """The points of this version of the code by key; a file that is damaged is noted in ``damaged``."""
        self.damaged, self.others = {}, 0
        return {r.outcome.key: r for path, r in self._files() if r is not None}

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file, so that its point is computed again and nothing is thrown away; its new path."""
        names = (path.with_suffix(f".damaged{'' if n == 1 else f'-{n}'}") for n in itertools.count(1))
        kept = next(name for name in names if not name.exists())
        path.replace(kept)
        return kept

    def _paths(self) -> list[Path]:
        return sorted(p for p in (self.folder / "points").glob("*.json") if _NAME.fullmatch(p.name))

    def _files(self) -> Iterator[tuple[Path, Recorded | None]]:
        for path in self._paths():
            try:
                body = _body(path)
            except (OSError, ValueError) as error:
                self.damaged[path] = str(error)
                yield path, None
                continue
            if body["version"] != self.identity["version"]:
                self.others += 1
                continue
            names = {f.name for f in dataclasses.fields(Outcome)}
            outcome = Outcome(**{k: v for k, v in body.items() if k in names})
            yield path, Recorded(body["config"], outcome, body.get("code"))


def _body(path: Path) -> dict[str, Any]:
    """What the file of a point says. Raises ValueError if it is damaged."""
    body = json.loads(path.read_bytes())
    if not isinstance(body, dict):
        raise ValueError(f"is no mapping but a {type(body).__name__}")
    missing = [name for name in ("format", "sha256", "key", "status", "version", "config") if name not in body]
    if missing:
        raise ValueError(f"lacks {missing[0]}")
    if body["format"] != POINT_FORMAT:
        raise ValueError(f"format {body['format']!r}, needed {POINT_FORMAT!r}")
    checksum = body.pop("sha256")
    if _checksum(body) != checksum:
        raise ValueError("changed since it was written: its checksum is another")
    if body["key"] != path.stem:
        raise ValueError(f"is of point {body['key']}")
    if body["status"] not in STATUSES:
        raise ValueError(f"status {body['status']!r}, needed one of {', '.join(STATUSES)}")
    return body


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _held(folder: Path) -> dict[str, str] | None:
    path = folder / "sweep.json"
    try:
        held = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise RunFolderError(
            f"{path} is damaged: not valid JSON ({error}). Repair it, or choose another folder (out=..., --out)."
        ) from error
    names = ("run", "config", "version")
    if (
        not isinstance(held, dict)
        or held.get("format") != FORMAT
        or not all(isinstance(held.get(n), str) for n in names)
    ):
        raise RunFolderError(f"{path} is not a sweep's description that this version reads. Choose another folder.")
    return {name: held[name] for name in names}
