"""Data from files -> dataclasses: every value is checked against the type and the limits of its field."""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from cosyvoice.utils.common import InputError

MOST = 2**53  # of anything that a file counts
LONGEST_TEXT = 10_000
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control, surrogate, line and paragraph separators
Record = TypeVar("Record")


def limited(default: Any = MISSING, **limits: Any) -> Any:
    """Dataclass field with limits: low and high of a number, finite=False where NaN and infinity may stand, choices and
    longest of a text, shape of a tensor. Without any, whole numbers are not negative, and others finite where their
    default is."""
    return field(metadata=limits) if default is MISSING else field(default=default, metadata=limits)


def read_record(kind: type[Record], data: Any, where: str) -> Record:
    """`data`, a mapping, as a `kind`; what it lacks has the field's default, and other keys are ignored.

    where: the file, and the place in it. Raises InputError naming the first value that is missing or does not fit.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where} holds no named values")
    hints, values = get_type_hints(kind), {}
    for item in fields(kind):
        if item.name in data:
            limits = {"finite": not isinstance(item.default, float) or math.isfinite(item.default), **item.metadata}
            values[item.name] = read_value(hints[item.name], data[item.name], f"{where}: {item.name}", limits)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise InputError(f"{where} lacks '{item.name}'")
    return kind(**values)


def read_value(kind: Any, value: Any, where: str, limits: Mapping[str, Any]) -> Any:
    """`value` as a `kind`, which is a dataclass, Tensor, a scalar type, or a list, tuple, dict or `| None` of these.

    limits: see `limited`; they hold for every number, text or tensor inside. Raises InputError that begins with where.
    """
    outer, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return read_record(kind, value, where)
    if kind is Tensor:
        return read_tensor(value, where, limits)
    if outer in (Union, UnionType):
        (other,) = (option for option in inner if option is not NoneType)
        return None if value is None else read_value(other, value, where, limits)
    if outer is dict and isinstance(value, Mapping):
        keys = [read_value(inner[0], key, f"{where}: a name", {}) for key in value]
        return {key: read_value(inner[1], value[key], f"{where}.{key}", limits) for key in keys}
    if outer is list and isinstance(value, list | tuple):
        return [read_value(inner[0], item, f"{where}[{i}]", limits) for i, item in enumerate(value)]
    if outer is tuple and isinstance(value, list | tuple) and len(value) == len(inner):
        return tuple(read_value(inner[i], item, f"{where}[{i}]", limits) for i, item in enumerate(value))
    if outer is not None:
        raise InputError(f"{where} must be a {outer.__name__} of {len(inner) if outer is tuple else 'such'} values")
    if problem := _PROBLEMS[kind](value, limits):
        raise InputError(f"{where} {problem}")
    return value


def read_tensor(value: Any, where: str, limits: Mapping[str, Any]) -> Tensor:
    """A plain, finite floating-point tensor on the CPU, without gradient; raises InputError for anything else."""
    value = plain_tensor(value, where)
    shape = limits.get("shape")
    if shape is not None and tuple(value.shape) != shape:
        raise InputError(f"{where} has the shape {tuple(value.shape)}, expected {shape}")
    if not value.float().isfinite().all():
        raise InputError(f"{where} holds NaN or infinite numbers")
    return value


def plain_tensor(value: Any, where: str) -> Tensor:
    """The tensor without its gradient (an nn.Parameter's own); InputError for what is no dense floating-point one."""
    if not isinstance(value, Tensor):
        raise InputError(f"{where} is {type(value).__name__}, not a tensor")
    plain = value.is_floating_point() and value.layout == torch.strided and not value.is_nested
    value = value.detach()
    if not plain or type(value) is not Tensor or value.device.type != "cpu":
        raise InputError(f"{where} is {value.dtype}, {value.layout}; use plain floating-point weights")
    return value


def is_printable(text: str) -> bool:
    """Whether a text stands in one line: no control character, no half of a character."""
    return not any(unicodedata.category(letter) in UNPRINTABLE for letter in text)


def _whole_number_problem(value: Any, limits: Mapping[str, Any]) -> str:
    low, high = limits.get("low", 0), limits.get("high", MOST)
    return "" if type(value) is int and low <= value <= high else f"must be a whole number from {low} to {high}"


def _number_problem(value: Any, limits: Mapping[str, Any]) -> str:
    low, high, finite = limits.get("low", -math.inf), limits.get("high", math.inf), limits.get("finite", True)
    if type(value) not in (int, float) or isinstance(value, int) and abs(value) > MOST:
        return "must be a number"
    if not math.isfinite(value):
        return "must be a finite number" if finite else ""
    return "" if low <= value <= high else f"must be between {low:g} and {high:g}"


def _text_problem(value: Any, limits: Mapping[str, Any]) -> str:
    longest, choices = limits.get("longest", LONGEST_TEXT), limits.get("choices")
    if type(value) is not str or len(value) > longest or not is_printable(value):
        return f"must be a text of at most {longest} characters, without line breaks and control characters"
    return "" if choices is None or value in choices else f"must be one of {', '.join(choices)}"


_PROBLEMS = {
    bool: lambda value, limits: "" if type(value) is bool else "must be True or False",
    int: _whole_number_problem,
    float: _number_problem,
    str: _text_problem,
}
