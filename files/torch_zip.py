"""What torch.save wrote, read without torch.load: plain values and tensors, and nothing of a stranger's runs.

    content = read_zip("mlm_bert.pt")


torch.load(weights_only=True) of torch 2.3, to which torchtext ties us, can be made to run code and to write outside of
its memory by crafted files (see SECURITY.md). The format is small: a zip of uncompressed entries, of which data.pkl is
a pickle of the values, and data/0, data/1 and so on are the tensors' bytes. Design choices:

- The pickle is interpreted by Python's own unpickler with the few orders and names that such files need. It makes
  dicts, lists and records of what a tensor should be, never tensors, so that no order can reach into one.
- Only then is every tensor checked against the bytes that are there, and made.
- Nothing takes more memory than a small multiple of the file: sizes are checked before memory is asked for.
- The zip's checksums are looked at, which torch does not do.
"""

import pickle
import struct
import zipfile
from collections import namedtuple
from math import prod
from pathlib import Path
from typing import Any

import torch

from files.mistakes import UserError
from files.reading import CHUNK

# What a damaged or hostile file raises while it is interpreted; OSError: an offset before its beginning
BROKEN: tuple[type[Exception], ...] = (pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, LookupError)
BROKEN += (TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, OSError)
LARGEST_PICKLE = 1 << 28  # bytes
MOST_VALUES = 5_000_000  # or one a byte of the pickle, which can hold itself, or double itself again and again
DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
}  # fmt: skip

Storage = namedtuple("Storage", "dtype key count")


class View:
    """What a tensor should be: a part of a storage."""

    def __init__(self, storage, offset, size, stride, *_):  # requires_grad and hooks: of no use here
        if not isinstance(storage, Storage) or not all(isinstance(part, tuple) for part in (size, stride)):
            raise ValueError("a tensor without storage or shape")
        if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)) or not len(size) == len(stride) <= 8:
            raise ValueError("a tensor of an impossible shape")
        last = 0
        for step, n in sorted(zip(stride, size, strict=True)) if prod(size) else ():
            if n > 1 and step <= last:
                raise ValueError("a tensor that overlaps itself")
            last += (n - 1) * step
        if prod(size) and offset + last >= storage.count:
            raise ValueError("a tensor larger than its storage")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def made(self, read):
        """The tensor; ``read(storage)`` gives the storage's elements."""
        if not prod(self.size):
            return torch.zeros(self.size, dtype=self.storage.dtype)
        return read(self.storage).as_strided(self.size, self.stride, self.offset)


class Ordered(dict):
    """Stands in for OrderedDict; empty at first, for a copy of what was there before would be memory for a few bytes."""

    def __init__(self):
        super().__init__()


def shape(parts=()):
    """Stands in for torch.Size, and copies nothing either."""
    if not isinstance(parts, tuple):
        raise ValueError("a shape of something else than numbers")
    return parts


def parameter(data, *_):
    return data


NAMES = {
    ("collections", "OrderedDict"): Ordered, ("torch", "Size"): shape,
    ("torch._utils", "_rebuild_tensor_v2"): View, ("torch._utils", "_rebuild_parameter"): parameter,
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in DTYPES.values()},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}  # fmt: skip
ORDERS = """PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_LIST APPEND APPENDS
    EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET LONG_BINGET BINPUT LONG_BINPUT GLOBAL REDUCE
    BINPERSID BUILD""".split()  # fmt: skip


class Unpickler(pickle._Unpickler):  # the one in Python: the one in C reserves as much memory as a file asks for
    dispatch = {  # noqa: RUF012
        order[0]: pickle._Unpickler.dispatch[order[0]] for order in (getattr(pickle, name) for name in ORDERS)
    }

    def find_class(self, module, name):
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")
        return NAMES[module, name]

    def persistent_load(self, saved):
        kind, dtype, key, _, count = saved
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or type(count) is not int:
            raise ValueError("a storage of an unknown kind")
        return Storage(dtype, key, count)

    def build(self):
        """OrderedDict's attributes, such as versions of modules, are not needed."""
        self.stack.pop()
        if type(self.stack[-1]) is not Ordered:
            raise ValueError("attributes of something else than an OrderedDict")

    def setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def setitems(self):
        self.put(self.pop_mark())

    def put(self, items):
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str | int | float | None) for key in items[::2]):
            raise ValueError("an entry of something else than a dict")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    # mypy: to typeshed the table is one for pickle's own class only
    dispatch |= {pickle.BUILD[0]: build, pickle.SETITEM[0]: setitem, pickle.SETITEMS[0]: setitems}  # type: ignore[dict-item]


def read_zip(path):
    """The values and tensors in a file of torch.save. Raises one of ``BROKEN`` where it is damaged or holds others."""
    size = Path(path).stat().st_size
    with zipfile.ZipFile(path) as package:
        entries = {info.filename.partition("/")[2]: info for info in package.infolist()}
        if "constants.pkl" in entries:
            raise ValueError("a TorchScript program")
        infos = package.infolist()
        if len(entries) != len(infos) or any(info.compress_type or info.flag_bits & 1 for info in infos):
            raise ValueError("entries that torch does not write")
        if sum(info.file_size for info in infos) > size or entries["data.pkl"].file_size > LARGEST_PICKLE:
            raise ValueError("sizes that cannot be true")
        if "byteorder" in entries and package.read(entries["byteorder"]) != b"little":
            raise ValueError("numbers with the highest byte first")
        with package.open(entries["data.pkl"]) as stream:
            found = Unpickler(stream).load()
        values = max(MOST_VALUES, entries["data.pkl"].file_size)
        return as_tensors(found, lambda storage: read_storage(package, entries, storage), values, 4 * size + CHUNK)


def read_storage(package, entries, storage):
    """The elements of a storage, in one dimension."""
    info = entries[f"data/{storage.key}"]
    if info.file_size != storage.count * storage.dtype.itemsize:
        raise ValueError(f"{info.file_size} bytes where {storage.count} numbers should be")
    content = bytearray(info.file_size)
    with package.open(info) as stream, memoryview(content) as view:
        at = 0
        while count := stream.readinto(view[at : at + CHUNK]):
            at += count
    if at != len(content):
        raise EOFError("cut off")
    return torch.frombuffer(content, dtype=storage.dtype)


def as_tensors(found, read, values, room):
    """``found``, at most so many ``values``, with tensors in the place of views, which take at most ``room`` bytes."""
    storages, tensors, left = {}, {}, [values, room]

    def once(storage):
        if storage not in storages:
            storages[storage] = read(storage)
        return storages[storage]

    def convert(value):
        left[0] -= 1
        if min(left) < 0:
            raise ValueError("more values than a file of its size can hold")
        if isinstance(value, dict):
            return {key: convert(part) for key, part in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(convert, value))
        if isinstance(value, View):
            if id(value) not in tensors:
                left[1] -= prod(value.size) * value.storage.dtype.itemsize
                if left[1] >= 0:
                    tensors[id(value)] = value.made(once)
            return tensors.get(id(value))
        if value is None or isinstance(value, str | int | float | torch.dtype):
            return value
        raise ValueError(f"a {type(value).__name__} where values should be")

    converted = convert(found)
    if left[1] < 0:
        raise ValueError("more values than a file of its size can hold")
    return converted


def read_torch(path: str | Path, remedy: str) -> Any:
    """What torch.save wrote to ``path``. Raises UserError where the file is absent, damaged, or not in the zip format,
    in which torch.save has written since 1.6: the older one, and TorchScript, are programs."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    if not starts_as_zip(path):
        with open(path, "rb") as stream:
            first = stream.read(64)
        if first.lstrip().startswith(b"<"):
            raise UserError(f"{path}: not a file that torch.save wrote but a web page (HTML); fetch the file itself")
        if first.startswith(b"version https://git-lfs"):
            raise UserError(f"{path}: a pointer to the file, not the file (Git LFS); run git lfs pull")
        raise UserError(f"{path}: not a file that torch.save wrote (damaged, or in its format before 1.6); {remedy}")
    try:
        return read_zip(path)
    except BROKEN as error:
        if isinstance(error, pickle.UnpicklingError) and "it asks for" in str(error):
            remedy = f"that may be a program, which is never run: where its code is, save its state_dict; {remedy}"
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}: {error}); {remedy}") from None


def starts_as_zip(path: Path) -> bool:
    """Is it a file in the form of torch.save since 1.6, or another zip?"""
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def holds_weights(part: Any) -> bool:
    """Is it tensors by their names, and nothing else?"""
    return isinstance(part, dict) and all(
        isinstance(name, str) and isinstance(weight, torch.Tensor) for name, weight in part.items())  # fmt: skip
