"""What torch saved is read without torch, and what is damaged or hostile is refused before anything of it is made."""

import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from toys import refused

from files import torch_zip
from files.torch_zip import read_torch, read_zip


def packed(path, order, **entries):
    """A file as torch.save writes it, of a pickle that is written by hand."""
    with zipfile.ZipFile(path, "w") as package:
        for name, content in {"data.pkl": b"\x80\x02" + order + b".", **entries}.items():
            package.writestr(f"archive/{name}", content)
    return path


def tensor(offset=0, size=(2,), stride=(1,), count=2, kind="FloatStorage"):
    """The order to make a tensor."""
    def number(n):
        return b"\x8a\x08" + struct.pack("<q", n)

    def several(numbers):
        return b"(" + b"".join(map(number, numbers)) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + number(count) + b"tQ"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + several(size) + several(stride)
            + b"\x89NtR")  # fmt: skip


BYTES = {"data/0": np.array([1, 2], np.float32).tobytes()}


def test_what_torch_saved_is_read_as_torch_reads_it(tmp_path):
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(), "weights": layer.state_dict(), "parameter": layer.weight,
        "dtype": torch.float32,
        "plain": [None, True, -5, 1.5, 2**70, "ü\ud800", (1, 2, 3, 4), {}, []], "part": torch.arange(9)[3:5],
        "turned": torch.arange(6).view(2, 3).T, "none": torch.zeros(0, 3), "one": torch.tensor(3.0),
        "half": torch.ones(2, dtype=torch.bfloat16), "many": {str(n): n for n in range(70_000)},
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pt")
    mine, theirs = read_zip(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True)

    def same(one, other):
        if isinstance(one, torch.Tensor):
            return one.dtype == other.dtype and torch.equal(one, other)
        if isinstance(one, dict):
            return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
        return type(one) is type(other) and one == other

    assert same(mine, theirs)
    assert read_zip(packed(tmp_path / "y.pt", tensor(), **BYTES)).tolist() == [1, 2]


@pytest.mark.parametrize("order", [
    tensor(size=(3,)), tensor(offset=1), tensor(stride=(2,)), tensor(offset=-1), tensor(size=(1 << 40,), stride=(0,)),
    tensor(size=(1, 2), stride=(1,)), tensor(count=1 << 40), tensor(count=-1), tensor(count=3), tensor(size=(-2,)),
    tensor(kind="DoubleStorage"), tensor(kind="QInt8Storage"),
], ids=str)  # fmt: skip
def test_a_tensor_outside_of_its_bytes_is_refused(order, tmp_path):
    refused(lambda: read_torch(packed(tmp_path / "x.pt", order, **BYTES), "remedy"), "x.pt", "cannot be loaded", "remedy")


@pytest.mark.parametrize("order", [
    tensor() + b"K\x00K\x05s", tensor() + b"(K\x00K\x05u",  # SETITEM on a tensor: CVE-2026-24747
    tensor() + b"}b", b"ccollections\nOrderedDict\n}b", b"ctorch._utils\n_rebuild_tensor_v2\n(X\1\0\0\0xX\1\0\0\0yd",
    b"cos\nsystem\n(X\x04\0\0\0truetR", b"ctorch\nload\n(X\x01\0\0\0xtR", b"}\x93", b"}(K\x01K\x02e", b"N" * 5 + b"t",
    b"]q\x00h\x00a", b"]q\x00" + b"".join(b"](h\x00h\x00eq\x00" for _ in range(40)), b"ctorch\nFloatStorage\n)R",
    b"ctorch\nSize\n](K\x01K\x02e\x85R", b"ccollections\nOrderedDict\n]\x85R",  # copies for a few bytes each
], ids=range(15))  # fmt: skip
def test_orders_that_no_weights_need_are_refused(order, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_zip, "MOST_VALUES", 10_000)
    refused(lambda: read_torch(packed(tmp_path / "x.pt", order, **BYTES), "remedy"), "x.pt", "cannot be loaded")


def test_a_zip_that_lies_is_refused(tmp_path):
    path = packed(tmp_path / "x.pt", tensor(), **BYTES)
    good = path.read_bytes()
    at = good.rfind(b"PK\x01\x02")
    path.write_bytes(good[: at + 24] + b"\xff\xff\xff\x7f" + good[at + 28 :])  # the last entry's size
    refused(lambda: read_torch(path, "remedy"), "x.pt", "sizes")
    path.write_bytes(good.replace(BYTES["data/0"], bytes(8)))
    refused(lambda: read_torch(path, "remedy"), "CRC")
    refused(lambda: read_torch(packed(path, b"N", byteorder=b"big"), "remedy"), "highest byte")


@pytest.mark.parametrize("trailer", [False, True], ids=["plain", "with a zip behind"])
def test_the_format_before_the_zip_is_refused(tmp_path, trailer):
    path, behind = tmp_path / "model.pt", io.BytesIO()
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    if trailer:
        with zipfile.ZipFile(behind, "w") as package:
            package.writestr("name", "content")
        path.write_bytes(path.read_bytes() + behind.getvalue())
        assert zipfile.is_zipfile(path)
    refused(lambda: read_torch(path, "remedy"), str(path), "before 1.6", "remedy")


def test_a_torchscript_program_is_refused(tmp_path):
    """By its constants, which torch.jit.save writes for every program, and torch.save never; torch.jit itself is going."""
    path = packed(tmp_path / "model.pt", b"N", **{"code/__torch__.py": b"class Program: ...", "constants.pkl": b"N."})
    refused(lambda: read_torch(path, "remedy"), str(path), "TorchScript", "remedy")
