"""Files of a run: what is read, and what is refused."""

import io
import os
import re
import struct
import zipfile

import numpy as np
import pytest

from mnist_jax import run_files
from mnist_jax.run_files import BadFileError
from mnist_jax.text import error_line, one_line


def fifo(path):
    os.mkfifo(path)


def link(target):
    return lambda path: path.symlink_to(target)


def sparse(size):
    def make(path):
        with open(path, "wb") as file:
            file.truncate(size)

    return make


def content(value):
    return lambda path: path.write_bytes(value)


READERS = {
    "config.json": run_files.read_json,
    "metrics.jsonl": lambda path: list(run_files.lines(path)),
    "results.csv": lambda path: run_files.read_table(path, {"trial": int, "loss": float, "x": str}),
    "chosen_trial.npz": run_files.read_arrays,
}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "it is not a regular file"),
        (fifo, "it is not a regular file"),
        (link("/dev/zero"), "it is not a regular file"),
        (link("nowhere"), "there is no such file"),
    ],
)
@pytest.mark.parametrize("name", READERS)
def test_nothing_but_regular_files_is_opened(tmp_path, name, make, said):
    make(tmp_path / name)
    with pytest.raises(BadFileError, match=f"^{name}: {said}$") as error:
        READERS[name](tmp_path / name)
    assert error.value.missing == ("no such" in said)


@pytest.mark.parametrize("name", sorted(READERS.keys() - {"metrics.jsonl"}))
def test_a_file_too_large_is_not_read(tmp_path, name):
    sparse(2**40)(tmp_path / name)
    with pytest.raises(BadFileError, match="1099511627776 bytes; expected at most"):
        READERS[name](tmp_path / name)


def test_what_may_not_be_read_is_told(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # the superuser may read everything
    with pytest.raises(BadFileError, match=r"^config.json: Permission denied$") as error:
        run_files.read_json(tmp_path / "config.json")
    assert error.value.denied


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        (b"", {}, "not JSON"),
        (bytes(99), {}, "not JSON"),
        (b"3", object, "not JSON"),
        (b"[" * 99999, object, "nested too deeply"),
        (b"[" * 99 + b"]" * 99, object, "is not what a run writes"),
        (b'{"a": 1', {}, "delimiter"),
        (b'{"a": \xff}', {}, "decode"),
        (b'{"a": NaN}', {}, "^a is not"),
        (b'{"a": [1, Infinity]}', {}, "^a: 1 is not"),
        (b'{"a": 1e999}', {}, "^a is not"),
        (b'{"a": 9223372036854775808}', {}, "^a is not"),
        (b'{"a": 1' + b"0" * 9999 + b"}", {}, "digits"),
        (b"[]", {}, "the whole is not"),
        (b"{}", [int], "the whole is not"),
        (b"{}", {"a": int}, r"a \(missing\) is not"),
        (b'{"a": true}', {"a": int}, "^a is not"),
        (b'{"a": "1"}', {"a": (float, None)}, "^a is not"),
        (b'{"a": [[1, "x"]]}', {"a": [[int]]}, "^a: 0: 1 is not"),
        (b'{"a": {"b": 1, "c": null}}', {"a": {"b": int, str: float}}, "^a: c is not"),
    ],
)
def test_json_of_another_shape_is_no_json_of_a_run(tmp_path, text, shape, said):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(BadFileError) as error:
        run_files.read_json(path, shape)
    assert re.search(said, str(error.value).removeprefix("config.json: "))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_json_of_its_shape_comes_back(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": 1, "b": [null, 0.5], "c": {"x": "y"}}')
    shape = {"a": float, "b": [(float, None)], "c": {str: str}, "d?": int}
    assert run_files.read_json(path, shape) == {"a": 1, "b": [None, 0.5], "c": {"x": "y"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "missing columns: loss, trial, x"),
        (b"text\n", "missing columns: loss, trial, x; unknown columns: text"),
        (b"trial,loss\n0,1\n", "missing columns: x"),
        (b"trial,loss,x,y\n0,1,2,3\n", "unknown columns: y"),
        (b"trial,loss,x,a,b,c,d,e\n", "unknown columns: a, b, c and 2 more"),
        (b"trial,loss,x,x\n0,1,2,3\n", "a column occurs twice"),
        (b"trial,loss,x\n0,1\n", "row 1 has 2 values; expected 3"),
        (b"trial,loss,x\n0,1,a\n0,1,a,b\n", "row 2 has 4 values; expected 3"),
        (b"trial,loss,x\n\n", "row 1 has 0 values"),
        (b"trial,loss,x\n0.5,1,a\n", "unexpected value '0.5'"),
        (b"trial,loss,x\n1" + b"0" * 99 + b",1,a\n", "unexpected value '1000"),
        (b"trial,loss,x\n0,one,a\n", "could not convert"),
        (b"trial,loss,x\n0,1,\0\n", r"unexpected value '\\x00'"),
        (b'trial,loss,x\n0,1,"a\nb"\n', "unexpected value"),
        (b'trial,loss,x\n0,1,"a\n', "unexpected end of data"),
        (b"trial,loss,x\n0,1,\xff\n", "decode"),
        (bytes(3 * 2**20), "field larger than"),
    ],
)
def test_a_table_of_other_columns_or_values_is_none_of_a_run(tmp_path, text, said):
    path = tmp_path / "results.csv"
    path.write_bytes(text)
    with pytest.raises(BadFileError, match=said) as error:
        READERS["results.csv"](path)
    assert "\n" not in str(error.value)


def test_a_long_line_comes_in_pieces(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sparse(5 * 2**20)(path)
    assert max(map(len, run_files.lines(path))) == 2**20


def saved(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def member(header, data=b"", compression=zipfile.ZIP_STORED):
    """An archive with one array whose header says what it likes."""
    text = header.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        head = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text))
        archive.writestr("a.npy", head + text + data)
    return buffer.getvalue()


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }\n"


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"PK",
        bytes(99),
        saved(a=np.zeros(9))[:-30],
        saved(a=np.array([{}], object)),
        member(HEADER % 2, bytes(8), zipfile.ZIP_DEFLATED),
        member(HEADER % 10**12, bytes(8)),
        member(HEADER % 1, bytes(8)),
        member(HEADER % "-1", bytes(8)),
        member("(" * 5000, bytes(8)),
        member("{'descr': 'O', 'fortran_order': False, 'shape': (1,), }\n", bytes(8)),
        member("", bytes(8)),
    ],
)
def test_arrays_that_claim_more_than_there_is_take_no_memory(tmp_path, bad):
    path = tmp_path / "chosen_trial.npz"
    path.write_bytes(bad)
    with pytest.raises(BadFileError, match=r"^chosen_trial.npz: ") as error:
        run_files.read_arrays(path)
    assert "\n" not in str(error.value)


def test_arrays_come_back_as_they_were_saved(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "params/b/c": np.asfortranarray(np.eye(3, 4))}
    arrays |= {"d": np.array(7), "e": np.zeros((0, 28, 28), np.uint8)}
    path = tmp_path / "chosen_trial.npz"
    path.write_bytes(saved(**arrays))
    found = run_files.read_arrays(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    run_files.check_arrays(path, found, {"a": ("f", (-1, 3)), "d": ("iu", ())})
    for kind in (("i", (2, 3)), ("f", (3, 3)), ("f", (-1,))):
        with pytest.raises(BadFileError, match=r"^chosen_trial.npz: a "):
            run_files.check_arrays(path, found, {"a": kind})


@pytest.mark.parametrize(
    ("name", "line"),
    [("a b", "a b"), ("a\nb\tc", "a b c"), ("a\x1b[31m\u202e", "a\ufffd[31m\ufffd")],
)
def test_a_name_is_one_line_that_can_be_printed(name, line):
    assert one_line(name) == line


def test_an_error_is_one_line_with_its_type():
    assert error_line(ValueError("a\n  b\x1b")) == "ValueError: a b\ufffd"
    assert error_line(KeyError("x"), 8) == "KeyError"
