"""Pickles read as data: what is admitted comes back equal, and nothing that a pickle asks for is run."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eqprop._errors import DataError
from eqprop._safe_pickle import load_plain

PLAIN: dict[str, Any] = {
    "data": np.arange(24, dtype=np.uint8).reshape(2, 12),
    "labels": [1, 1000, 3],
    "mean": np.linspace(0, 255, 5),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">f4"),
    "empty": np.zeros((0, 3072), np.uint8),
    "flags": np.array([True, False]),
    "nested": {"bytes": b"\x00\xff", "text": "kit fox", "number": 0.5, "none": None, "pair": (1, -(2**70))},
}


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "train_data_batch_1"
    path.write_bytes(content)
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_containers_come_back_equal(tmp_path: Path, protocol: int) -> None:
    assert same(load_plain(write(tmp_path, pickle.dumps(PLAIN, protocol))), PLAIN)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("module", [b"numpy.core.", b"numpy._core."])
def test_both_module_paths_of_numpy_are_known(tmp_path: Path, protocol: int, module: bytes) -> None:
    content = pickle.dumps(PLAIN["data"], protocol)
    present = b"numpy._core." if b"numpy._core." in content else b"numpy.core."
    if protocol < 4:
        content = content.replace(present, module)
    else:  # a short string: its length in the byte before it
        tail = b"numeric" if protocol == 5 else b"multiarray"
        content = content.replace(
            bytes([len(present + tail)]) + present + tail, bytes([len(module + tail)]) + module + tail
        )
        content = b"\x80\x04" + content[content.index(b"\x8c") :]  # without the frame, whose length has changed
    assert module in content
    assert same(load_plain(write(tmp_path, content)), PLAIN["data"])


def test_a_pickle_of_python_2_is_read_as_latin1(tmp_path: Path) -> None:
    data = bytes(range(256))
    content = (
        b"\x80\x02}q\x00(U\x06labelsq\x01]q\x02(K\x01M\xe8\x03eU\x04dataq\x03cnumpy.core.multiarray\n_reconstruct\n"
    )
    content += (
        b"q\x04cnumpy\nndarray\nq\x05K\x00\x85U\x01b\x87Rq\x06(K\x01K\x10K\x10\x86cnumpy\ndtype\nq\x07U\x02u1K\x00"
    )
    content += b"K\x01\x87Rq\x08(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", 256)
    content += data + b"tbu."
    got = load_plain(write(tmp_path, content))
    assert got["labels"] == [1, 1000] and got["data"].tobytes() == data and got["data"].shape == (16, 16)


def test_scalars_of_numpy_are_numbers(tmp_path: Path) -> None:
    got = load_plain(write(tmp_path, pickle.dumps({"n": np.int64(7), "x": np.float32(0.5)})))
    assert same(got, {"n": 7, "x": 0.5})


def test_arrays_share_the_bytes_and_are_read_only(tmp_path: Path) -> None:
    got = load_plain(write(tmp_path, pickle.dumps(PLAIN["data"])))
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1


# ---- what is refused -----------------------------------------------------------------------------------------------


class Poison:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.mkdir, "posix.mkdir|nt.mkdir"), (eval, "(builtins|__builtin__).eval"), (np.load, "numpy.load")],
)
def test_a_poisoned_pickle_is_refused_without_running_it(
    tmp_path: Path, function: Any, name: str, protocol: int
) -> None:
    made = tmp_path / "made by the pickle"
    argument = f"__import__('os').mkdir({str(made)!r})" if function is eval else str(made)
    content = pickle.dumps({"data": Poison(function, argument), "labels": [1]}, protocol)
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=f"asks for ({name}), which was not looked up nor run") as caught:
        load_plain(path)
    assert str(path) in str(caught.value) and "needed arrays of numbers" in str(caught.value)
    assert not made.exists()
    if function is not np.load:  # the poison works: otherwise this test shows nothing
        code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
        assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 0 and made.is_dir()


def test_a_name_is_not_even_imported(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    path = write(tmp_path, b"ctrap\nspring\n)R.")
    code = "import sys; from eqprop._safe_pickle import load_plain; load_plain(sys.argv[1])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True)
    assert "asks for trap.spring" in done.stderr and "SystemExit" not in done.stderr


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"labels": {1, 2}}, "a value of type set"),
        ({"z": 1j}, r"asks for (builtins|__builtin__)\.complex"),
        (np.array([None, "x"]), "dtype 'O8'"),
        (np.zeros(2, [("a", "u1")]), "dtype 'V1'"),
        (np.array(["kit fox"]), "dtype 'U7'"),
        (np.array([1j]), "dtype 'c16'"),
        (collections.OrderedDict(a=1), r"asks for collections\.OrderedDict"),
        (np.dtype("u1"), "a dtype on its own"),
        (np.ndarray, "a value of type type"),
    ],
)
def test_what_is_not_plain_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_plain(write(tmp_path, pickle.dumps(value, 4)))


def forged(*, shape: Any = (4,), dtype: Any = "u1", state: Any = (3, "|", None, None, None, -1, -1, 0)) -> bytes:
    """A pickle of np.array([1, 2, 3, 4], "u1") with parts exchanged."""

    class Array:
        def __reduce__(self) -> Any:
            made = np.array([1, 2, 3, 4], np.uint8).__reduce__()
            assert not isinstance(made, str)
            return made[0], made[1], (1, shape, Dtype(), False, b"\1\2\3\4")

    class Dtype:
        def __reduce__(self) -> Any:
            return np.dtype, (dtype, False, True), state

    return pickle.dumps(Array(), 2)


def test_the_forger_makes_a_good_array_where_nothing_is_exchanged(tmp_path: Path) -> None:
    assert load_plain(write(tmp_path, forged())).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (forged(shape=(5,)), r"shape \[5\] with 4 bytes"),
        (forged(shape=(-4,)), r"shape \(-4,\)"),
        (forged(shape=(2**40,)), "with 4 bytes"),
        (forged(dtype="O"), "dtype 'O'"),
        (forged(dtype="u1,u1"), "dtype 'u1,u1'"),
        # a plain number with the flags of an object: numpy's own dtype takes the fields
        (forged(state=(3, "|", None, ("a",), {"a": (0, 0)}, 8, 8, 63)), "dtype 'u1'"),
        (forged(state=5), "truncated or damaged"),
    ],
)
def test_a_forged_array_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_plain(write(tmp_path, content))


@pytest.mark.parametrize("keep", [0, 1, 20, 150, -1])
def test_a_truncated_pickle_is_named(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path, pickle.dumps(PLAIN, 4)[:keep])
    with pytest.raises(DataError, match=f"{path.name}: got a truncated or damaged pickle .*needed the whole file"):
        load_plain(path)


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(DataError, match="nested more than 100 deep"):
        load_plain(write(tmp_path, pickle.dumps(loop)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        load_plain(tmp_path / "nowhere")
