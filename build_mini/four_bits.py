"""Matrices at four and a half bits a weight: blocks of 32 along each row, with one float16 scale a block."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

BLOCK = 32
MOST = 7  # levels -7 .. 7, stored as 1 .. 15


def pack(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (blocks, 16), two weights a byte, and float16 scales (blocks, 1) of a matrix whose rows hold whole blocks.

    What `unpack` gives is packed again without loss.
    """
    blocks = array.astype(np.float32).reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(axis=1, keepdims=True) / MOST).clip(1e-7).astype(np.float16)
    levels = np.rint(blocks / scales.astype(np.float32)).clip(-MOST, MOST).astype(np.int8) + (MOST + 1)
    low, high = np.split(levels.astype(np.uint8), 2, axis=1)
    return low | (high << 4), scales


def unpack(packed: np.ndarray, scales: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 matrix that `pack` stored."""
    levels = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - (MOST + 1)
    return (levels * scales.astype(np.float32)).reshape(shape)


def rounded(array: np.ndarray) -> np.ndarray:
    """The matrix as it comes back from four bits."""
    return unpack(*pack(array), array.shape)


def unpacking_nodes(name: str, array: np.ndarray) -> tuple[list[TensorProto], list[NodeProto]] | None:
    """Initialisers and nodes that make the float32 matrix `name`; None where four bits cannot hold it exactly."""
    for turned in (False, True):
        matrix = array.T if turned else array
        if matrix.shape[1] % BLOCK or not np.array_equal(rounded(matrix), matrix):
            continue
        packed, scales = pack(matrix)
        constants = {
            "packed": packed,
            "scales": scales.astype(np.float16),
            "mask": np.array(15, np.uint8),
            "shift": np.array(4, np.uint8),
            "middle": np.array(MOST + 1, np.float32),
            "shape": np.array(matrix.shape, np.int64),
        }
        steps = [
            helper.make_node("BitwiseAnd", ["packed", "mask"], ["low"]),
            helper.make_node("BitShift", ["packed", "shift"], ["high"], direction="RIGHT"),
            helper.make_node("Concat", ["low", "high"], ["bytes"], axis=1),
            helper.make_node("Cast", ["bytes"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["levels", "middle"], ["centred"]),
            helper.make_node("Cast", ["scales"], ["factors"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["centred", "factors"], ["values"]),
            helper.make_node("Reshape", ["values", "shape"], ["matrix"]),
            helper.make_node("Transpose", ["matrix"], ["out"], perm=[1, 0] if turned else [0, 1]),
        ]
        for step in steps:
            step.input[:] = [f"{name}.{part}" for part in step.input]
            step.output[:] = [name if part == "out" else f"{name}.{part}" for part in step.output]
        return [numpy_helper.from_array(value, f"{name}.{part}") for part, value in constants.items()], steps
    return None
