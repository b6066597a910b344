"""Random changes of files for tests/fuzz.py: of bytes, of JSON, of torch's files, of a zip's entries."""

import contextlib
import hashlib
import io
import json
import warnings
import zipfile

import torch

ODD = [None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**9, 10**30, 10**400, 0.5, -1.5, 1e308, float("nan"),
       float("inf"), "", "x", "\ud800", "\x00", "two\nlines\x1b[31m", "../../outside", "/outside", "[MASK]", "<mask>",
       "9" * 30, [], {}, [[]], [None], {"a": 1}, ["A"], "A"]  # fmt: skip
PICKLES = [b"cos\nsystem\n(S'touch outside'\ntR.", b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", b"(lp0\n0",
           b"r\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f", b"2", b"}", b"b", b"R", b"Q"]  # fmt: skip


def change_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        size, at = len(data), rng.randrange(len(data) + 1)
        length = rng.choice([1, 2, 8, 64, 1000])
        kind = rng.randrange(8)
        if kind == 0 and size:
            data[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:  # a chunk is lost
            del data[at : at + length]
        elif kind == 3:  # a chunk comes twice
            data[at:at] = data[at : at + length]
        elif kind == 4:  # a chunk of another place
            other = rng.randrange(size + 1)
            data[at : at + length] = data[other : other + length]
        elif kind == 5:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 6:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"PK\x03\x04", b"\n\n"])
        else:
            data[at:at] = rng.choice([*PICKLES, b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"[" * 300, b"9" * 5000])
    return bytes(data)


def odd_tensor(tensor, rng):
    """The tensor as no file of a model should have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rng.choice([
            lambda t: t.flatten()[:1].expand(*(10**6,) * max(t.dim(), 1)), lambda t: t.flatten()[:1].expand(10**12),
            lambda t: t[:0], lambda t: t.reshape(-1)[:-1].clone(), lambda t: t.to(torch.int64), lambda t: t > 0,
            lambda t: t.to(torch.complex64), lambda t: t.half(), lambda t: t.double(), lambda t: t * float("nan"),
            lambda t: t * 1e38, lambda t: t[None], lambda t: torch.tensor(1.0), lambda t: t.to_sparse(),
            lambda t: torch.nn.Parameter(t.float()), lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
            lambda t: t.flatten().as_strided(t.shape, [0] * t.dim()), lambda t: torch.empty(t.shape, device="meta"),
            lambda t: t.flatten()[:1].expand(t.shape),
        ])(tensor)  # fmt: skip


def places_in(value, found):
    """Every (container, key) in a tree of dicts and lists; of long ones the first few."""
    keys = list(value)[:200] if isinstance(value, dict) else range(min(len(value), 50))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            places_in(value[key], found)
    return found


def change_tree(value, rng):
    """Something else in one to three places of plain values and tensors."""
    root = [value]
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = places_in(root, [])
        holder, key = rng.choice(found)
        kind, old = rng.randrange(8), holder[key]
        if kind == 0 and holder is not root:
            del holder[key]
        elif kind == 1 and isinstance(holder, list) and holder is not root:
            holder.append(old)
        elif kind == 2:
            holder[key] = [old]
        elif kind == 3:
            holder[key] = str(old)[:1000]
        elif kind == 4:
            other, place = rng.choice(found)
            if not isinstance(other[place], dict | list):
                holder[key] = other[place]
        elif kind == 5 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "\ud800", "a\nb", *map(str, holder)])] = rng.choice([old, rng.choice(ODD)])
        elif isinstance(old, torch.Tensor) and rng.random() < 0.7:
            with contextlib.suppress(RuntimeError, IndexError):
                holder[key] = odd_tensor(old, rng)
        else:
            holder[key] = rng.choice(ODD)
    return root[0]


def change_json(data, rng):
    value = change_tree(json.loads(data), rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        number = rng.choice(["9" * 5000, "1e99999", "-0", "NaN", "[" * 100_000, '{"a":' * 100_000, '"\\ud800"'])
        text = text.replace(rng.choice(["0", "1", '"']), number, 1)
    return text.encode("utf-8", "surrogatepass")


def change_zip(data, rng):
    """Other entries in a zip whose checksums are right, or sizes that lie."""
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        entries = [(info.filename, package.read(info)) for info in package.infolist()]
    kind, at = rng.randrange(7), rng.randrange(len(entries))
    name, content = entries[at]
    pickles = [number for number, entry in enumerate(entries) if entry[0].endswith(".pkl")]
    if kind == 0:
        del entries[at]
    elif kind == 1:
        entries.append((rng.choice([name, "x/../../outside", "archive/constants.pkl"]), content))
    elif kind == 2:
        entries[at] = (name, content[: rng.randrange(len(content) + 1)])
    elif kind == 3 or not pickles:
        entries[at] = (name, change_bytes(content, rng))
    elif kind < 6:
        at = rng.choice(pickles)
        entries[at] = (entries[at][0], change_bytes(entries[at][1], rng))
    made = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", packing) as package:
        warnings.simplefilter("ignore")
        for name, content in entries:
            package.writestr(name, content)
    data = bytearray(made.getvalue())
    if kind == 6:  # a size, a name's length or an offset of the directory
        start = data.rfind(b"PK\x01\x02", 0, rng.randrange(len(data)))
        at = max(start, 0) + rng.choice([8, 10, 20, 24, 28, 30, 32, 42])
        data[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", rng.randbytes(4), b"\0\0\0\0"])
    return bytes(data)


def change_file(path, rng):
    data, name = path.read_bytes(), path.name
    if rng.random() < 0.7:
        with contextlib.suppress(Exception):  # what was changed before may be beyond reading
            if data[:1] in (b"{", b"[") or name.startswith(("high", "middle")):
                return path.write_bytes(change_json(data, rng))
            if data.startswith(b"PK") and rng.random() < 0.6 and "bert_vocab_old" not in name:
                value = change_tree(torch.load(path, weights_only=True), rng)
                with contextlib.suppress(RuntimeError, NotImplementedError):
                    torch.save(value, path)
                return signed(path, rng)
    changed = None
    with contextlib.suppress(Exception):
        if data.startswith(b"PK") and rng.random() < 0.6:
            changed = change_zip(data, rng)
        elif name.endswith(".safetensors") and rng.random() < 0.6:
            size = int.from_bytes(data[:8], "little")
            header = change_json(data[8 : 8 + size], rng)
            changed = len(header).to_bytes(8, "little") + header + data[8 + size :]
    path.write_bytes(changed or change_bytes(data, rng))
    signed(path, rng)


def signed(path, rng):
    """A saved state gets the digest that belongs to it, most of the time."""
    if path.name == "state.pt" and rng.random() < 0.9:
        path.write_bytes(path.read_bytes() + hashlib.sha256(path.read_bytes()).digest())


def change_folder(folder, rng):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(rng.choice([1, 1, 1, 2])):
        change_file(rng.choice(files), rng)


def change_one(folder, rng):
    """One of the files is changed; ``read`` takes the one named in ``chosen``."""
    path = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    change_file(path, rng)
    (folder / "chosen").write_text(path.name)
