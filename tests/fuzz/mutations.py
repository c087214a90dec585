"""Ways to spoil bytes, zip files, values, tensors and texts; each says in words what it did."""

import math
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

ABSOLUTE = "/dev/shm/fuzz_evil"  # nothing may write there
ESCAPES = ("../evil", "../../evil", "x/../../evil", "../../outside/evil", "a/b", "..", ABSOLUTE)
CONTROL = ("\x1b[31mred", "a\nb", "a\r\x1b[2K", "\0", "\x07bell", "\x9bm", "\u202egpj")
NUMBERS = (0, -1, 1, 2, 3, 7, 1.5, -0.0, 2**31, 2**63, -(2**63), 10**400, 1e308, 1e-320, math.nan, math.inf, -math.inf)
TEXTS = ("", " ", "x", "0", "nan", "1e999", "None", "你好", "é" * 300, "x" * 100_000, *ESCAPES, *CONTROL)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def odd_plain(rng: Random) -> Any:
    """A number, text, list or dict such as json and yaml can hold."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice(NUMBERS),
        lambda: rng.choice(TEXTS),
        lambda: rng.choice((None, True, False)),
        lambda: rng.choice(([], {}, [1], [None], {"": None}, {"a": {"b": []}}, ["x"] * 1000, [1.5, "x"])),
        lambda: nested(rng.choice((5, 200))),
    )
    return rng.choice(kinds)()


# ---- bytes -----------------------------------------------------------------------------------------------------------


def spoil_bytes(rng: Random, path: Path, start: float = 0.0, end: float = 1.0) -> str:
    """Damage a file between two shares of its length."""
    data = bytearray(path.read_bytes())
    low, high = int(start * len(data)), max(int(end * len(data)), 1)
    at = rng.randrange(low, max(high, low + 1))
    size = rng.choice((1, 4, 64, 4096))
    how = rng.choice(("flip", "flip", "flip", "flips", "cut", "zeros", "noise", "drop", "insert", "append", "empty"))
    if how == "flip":
        data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if data else b"\0"
    elif how == "flips":
        for _ in range(rng.randrange(2, 50)):
            place = rng.randrange(low, max(high, low + 1))
            data[place : place + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1])
    elif how == "cut":
        del data[at:]
    elif how in ("zeros", "noise"):
        data[at : at + size] = bytes(size) if how == "zeros" else rng.randbytes(size)
    elif how == "drop":
        del data[at : at + size]
    elif how == "insert":
        data[at:at] = rng.randbytes(size)
    elif how == "append":
        data += rng.randbytes(size)
    else:
        data.clear()
    path.write_bytes(data)
    return f"{path}: {how} at {at} of {len(data)}" + (f", {size} bytes" if how in ("zeros", "noise", "drop") else "")


def spoil_zip(rng: Random, path: Path) -> str:
    """Change the members of a zip file, whose checksums stay right."""
    with zipfile.ZipFile(path) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    number = rng.randrange(len(members))
    name, data = members[number]
    how = rng.choice(("drop", "rename", "double", "empty", "cut", "pickle", "pickle", "swap", "deflate", "climb"))
    if how == "drop":
        del members[number]
    elif how == "rename":
        members[number] = (name + "x", data)
    elif how == "climb":
        members.append(("../../evil", b"evil"))
    elif how == "double":
        members.append((name, data[::-1]))
    elif how in ("empty", "cut"):
        members[number] = (name, data[: len(data) // 2] if how == "cut" else b"")
    elif how == "swap":
        other = rng.randrange(len(members))
        members[number], members[other] = (name, members[other][1]), (members[other][0], data)
    elif how == "pickle":
        number, (name, data) = next((i, m) for i, m in enumerate(members) if m[0].endswith(("data.pkl", ".npy")))
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 5)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        members[number] = (name, bytes(changed))
    stored = zipfile.ZIP_DEFLATED if how == "deflate" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", stored) as file:
        for each, content in members:
            file.writestr(each, content)
    return f"{path}: zip {how} {name}"


# ---- values ----------------------------------------------------------------------------------------------------------


def _with_one(value: Tensor, number: float) -> Tensor:
    value = value.clone() if value.is_floating_point() else value.float()
    value.view(-1)[:1] = number
    return value


TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "sparse": lambda t: t.to_sparse(),
    "sparse csr": lambda t: t.reshape(1, -1).to_sparse_csr(),
    "meta": lambda t: t.to("meta"),
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "stride 0": lambda t: t.flatten()[:1].expand(t.shape),
    "stride 0 and huge": lambda t: t.flatten()[:1].expand(1 << 40),
    "stride 0, wide": lambda t: t.flatten()[:1].expand(1 << 20, 1 << 16),
    "int64": lambda t: t.long(),
    "bool": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64),
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "bfloat16": lambda t: t.bfloat16(),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "Parameter": lambda t: torch.nn.Parameter(t.clone(), requires_grad=t.is_floating_point()),
    "needs gradient": lambda t: t.float().clone().requires_grad_(),
    "NaN": lambda t: _with_one(t, math.nan),
    "inf": lambda t: _with_one(t, math.inf),
    "huge": lambda t: _with_one(t, 3e38),
    "all huge": lambda t: torch.full_like(t.float(), 1e30),
    "float64 beyond float32": lambda t: _with_one(t.double(), 1e200),
    "empty": lambda t: t.flatten()[:0],
    "scalar": lambda t: t.flatten()[0],
    "flat": lambda t: t.flatten(),
    "transposed": lambda t: t.mT if t.ndim > 1 else t[None],
    "one more": lambda t: torch.cat([t.flatten(), t.flatten()[:1]]),
    "one axis more": lambda t: t[None],
    "strided": lambda t: t.repeat_interleave(2, 0)[::2],
    "conjugate": lambda t: t.to(torch.complex64).conj(),
    "a list": lambda t: t.flatten()[:8].tolist(),
    "a number": lambda t: float(t.flatten()[0]),
    "a dict": lambda t: {"tensor": t},
    "None": lambda t: None,
    "text": lambda t: "tensor",
}


def odd_tensor(rng: Random, tensor: Tensor) -> tuple[str, Any]:
    """A tensor made strange."""
    name = rng.choice(list(TENSORS))
    try:
        return name, TENSORS[name](tensor)
    except (RuntimeError, IndexError):  # an empty one has no first element
        return "text", "tensor"


def spoil_value(rng: Random, content: Any) -> tuple[Any, str]:
    """`content` (nested dicts and lists) with one value changed, removed or added."""
    holder, key, where = {"": content}, "", []
    root = holder
    while isinstance(holder[key], (dict, list)) and holder[key] and (not where or rng.random() < 0.75):
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        where.append(str(key))
    value, named = holder[key], "/".join(where)
    how = rng.random()
    if isinstance(value, Tensor) and how < 0.8:
        name, holder[key] = odd_tensor(rng, value)
        return root[""], f"{named} becomes {name}"
    if how < 0.1 and where:
        del holder[key]
        return root[""], f"{named} is gone"
    if how < 0.15 and isinstance(holder, dict) and where:
        holder[rng.choice((0, "", "x", *ESCAPES, *CONTROL))] = odd_plain(rng)
        return root[""], f"a key more beside {named}"
    if how < 0.3:
        _, holder[key] = odd_tensor(rng, torch.ones(2, 3))
    elif isinstance(value, (int, float)) and how < 0.6:
        holder[key] = rng.choice(NUMBERS)
    elif isinstance(value, str) and how < 0.8:
        holder[key] = rng.choice(TEXTS)
    else:
        holder[key] = odd_plain(rng)
    return root[""], f"{named} = {shown(holder[key])}"


def shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype} {value.layout} {tuple(value.shape)}"
    try:
        text = repr(value)
    except ValueError:  # a number of too many digits
        return "a number of 400 digits"
    return text if len(text) < 60 else f"{text[:50]}... ({len(text)} characters)"


def spoil_torch(rng: Random, path: Path) -> tuple[str, bool]:
    """Spoil what torch.save wrote; (words, whether bytes were damaged so that the checksums show it)."""
    how = rng.random()
    if how < 0.25:
        return spoil_bytes(rng, path), True
    if how < 0.35:
        return spoil_zip(rng, path), False
    content, what = spoil_value(rng, torch.load(path, weights_only=True))
    try:
        torch.save(content, path)
    except Exception as error:  # not everything can be saved, and the file is then cut
        return f"{path}: {what}, and cut short ({type(error).__name__})", False
    return f"{path}: {what}", False


# ---- texts -----------------------------------------------------------------------------------------------------------

PIECES: tuple[Callable[[Random], str], ...] = (
    lambda rng: rng.choice(("Hello there. ", "one, two; three! ", "你好，世界。", "Привет! ", "Guten Tag. ", "¿Qué? ")),
    lambda rng: rng.choice(
        ("\0", "\x1b[31m", "\x07", "\x85", "\u2028", "\ufeff", "\u200d", "\u202e", "\x7f", "\ufffd")
    ),
    lambda rng: rng.choice(("<break time='1s'/>", "<|en|>", "{x}", "%s", "$1,000.50", "[laughter]", "\\N", "#REF!")),
    lambda rng: rng.choice(("12:61", "1/0", "31.02.2024", "1e400", "-0", "½", "٣", "Ⅷ", "10^99", "+49 (0) 30/12-34")),
    lambda rng: "".join(chr(rng.choice((*range(32, 0xD800), *range(0xE000, 0x11000, 7)))) for _ in range(20)),
    lambda rng: chr(rng.randrange(0x10000, 0x10FFFF)) * 3,
    lambda rng: rng.choice("0123456789") * rng.choice((1, 5, 40, 400)),
    lambda rng: rng.choice(("a", "A.", "e\u0301", "ا", "哈", "!", ",", "  ", "\t", "'", "-")) * rng.choice((1, 9, 300)),
    lambda rng: rng.choice(("\n", "\r\n", "\r", "\n\n", "|", '"', ",", ";", "\t")),
)
LONG: tuple[Callable[[Random], str], ...] = (
    lambda rng: rng.choice(("1", "9", "0")) * rng.choice((5_000, 20_000)),
    lambda rng: rng.choice(("A.", "a-", "1.", "(", "1,", "哈", "e\u0301", "x y ", "www.", "1:2 ")) * 20_000,
)


def odd_text(rng: Random, longest: bool = True) -> str:
    """A text of odd pieces; now and then a very long one."""
    if longest and rng.random() < 0.06:
        return rng.choice(LONG)(rng)
    return "".join(rng.choice(PIECES)(rng) for _ in range(rng.choice((0, 1, 2, 3, 5, 10))))


def encoded(rng: Random, text: str) -> tuple[bytes, str]:
    """The text as a file, mostly as UTF-8."""
    name = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030", "cp1252"))
    return text.encode(name, errors="replace"), name


def spoil_lines(rng: Random, text: str) -> tuple[str, str]:
    """A text with one of its lines dropped, doubled, moved, cut, or with something odd in it."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    how = rng.choice(("drop", "double", "swap", "cut", "odd", "odd", "odd line"))
    if how == "drop":
        del lines[at]
    elif how == "double":
        lines.insert(at, lines[at])
    elif how == "swap":
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif how == "odd line":
        lines.insert(at, odd_text(rng))
    else:
        place = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + (odd_text(rng) + lines[at][place:]) * (how == "odd")
    return "\n".join(lines), f"line {at + 1}: {how}"


# ---- strange things in place of files and folders --------------------------------------------------------------------


def replace_by_odd(rng: Random, path: Path) -> tuple[str, bool]:
    """Put something else in the place of a file or folder; (words, whether it takes a user without rights)."""
    kinds = ["pipe", "folder", "missing", "empty", "/dev/zero", "/dev/null", "/dev/tty", "loop", "dangling", "socket"]
    how = rng.choice([*kinds, "no permission", "no permission"])
    if how == "no permission":
        path.chmod(rng.choice((0o000, 0o100, 0o200, 0o400, 0o600)))
        return f"{path}: mode {path.stat().st_mode & 0o777:o}", True
    path.rename("moved_away")
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "empty":
        path.touch()
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "dangling":
        path.symlink_to("nowhere")
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif how != "missing":
        path.symlink_to(how)
    return f"{path}: {how}", False
