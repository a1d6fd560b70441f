"""Arrays of an .npz file, never as pickles."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from eqprop._errors import DataError


def load_npz(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the arrays that the file holds.

    Raises:
        DataError: a file that is no .npz file, is truncated or damaged, or holds objects, which stay unread.
    """
    try:
        with path.open("rb") as file:  # by a handle: numpy leaves a damaged file open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            with archive:
                return {key: archive[key] for key in keys if key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: got a truncated or damaged npz file, or one with objects ({error}), needed a whole one of plain "
            "arrays; replace it"
        ) from error
