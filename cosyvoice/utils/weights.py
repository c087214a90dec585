"""Weight files: every accepted spelling of a state dict -> a filled network, and the named voices of spk2info.pt.

Files come from downloads and from other people's trainers: they are read with weights_only=True, which runs no code.
"""

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from cosyvoice.utils.common import SPEAKER_DIM, InputError
from cosyvoice.utils.files import not_a_file, require_file

_TRAINER_ENTRIES = ("epoch", "step")
_PREFIXES = ("module.", "generator.")
_DISCRIMINATOR = "discriminator."
_SHOWN_KEYS = 4
_HASH_BLOCK = 1 << 20
END_MISSING = "is incomplete (the end of the file is missing)"

# Suffixes of one weight-normalised tensor: magnitude g, direction v. The first spelling is the one of our own modules.
_G, _V = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
_LEGACY_G, _LEGACY_V = ".weight_g", ".weight_v"
_FOLDED = ".weight"


class DamagedFile(InputError):
    """A weight file that is not whole. How to get it again depends on who made it: the caller may know better."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; download it again, or make it again if it is your own")
        self.path, self.reason = path, reason


def load_state_dict_file(path: str | Path, mapped: bool = True) -> dict[str, Tensor]:
    """Parameters by name, on the CPU, in the file's own precision and weight-norm spelling.

    mapped: memory-map the file, where that is possible, in place of reading it. Best for tensors that are used
    unchanged: the mapping's memory is freed only with its last tensor.

    Trainers' extras are cut: `epoch`, `step`, a dict under `module`, the prefixes `module.` and `generator.`, and
    everything under `discriminator.`. Raises FileNotFoundError, DamagedFile and InputError for what is no state dict.
    """
    path = Path(path)
    content = _unpickle(path, mapped)
    if isinstance(content, Mapping) and isinstance(content.get("module"), Mapping):  # DeepSpeed
        content = content["module"]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: holds no named tensors; expected the state dict of one network")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        name = _without_prefixes(str(key))
        if key in _TRAINER_ENTRIES or name.startswith(_DISCRIMINATOR):
            continue
        if not isinstance(value, Tensor):
            raise InputError(f"{path}: entry '{key}' is not a tensor; expected the state dict of one network")
        if name in state:
            raise InputError(f"{path}: holds '{name}' twice, with and without a prefix")
        state[name] = value
    return state


def load_weights(model: nn.Module, path: str | Path, mapped: bool = True) -> None:
    """Fill `model` (it may be on "meta") with the file's tensors, as float32 parameters; mapped: see above.

    The keys must fit exactly, save that each weight-normalised tensor may be spelled either way or be folded, in the
    file and in the model alike. Raises InputError naming the keys that are missing, unexpected, of another shape or not
    finite.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: _checked(key, value, path) for key, value in load_state_dict_file(path, mapped).items()}
    state = _respell_weight_norm(state, expected, path)
    _check_keys(state, expected, f"{path} does not fit {type(model).__name__}")
    model.load_state_dict(state, strict=True, assign=True)


def file_fingerprint(path: str | Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal."""
    require_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def load_spk2info(path: str | Path) -> dict[str, Tensor]:
    """Named voices: name -> raw speaker vector (1, 192), float32. A missing file means that there are none.

    Raises InputError naming the file and the voice whose entry is not usable.
    """
    return {name: speaker_embedding(entry) for name, entry in read_spk2info(path).items()}


def read_spk2info(path: str | Path) -> dict[str, dict[str, Any]]:
    """The entries of spk2info.pt as they stand, each with a usable vector; {} for a missing file.

    Raises InputError naming the file and the voice whose entry is not usable.
    """
    path = Path(path)
    if not path.exists():
        return {}
    content = _unpickle(path)
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path}: holds no named voices; expected {{name: {{'embedding': tensor (1, {SPEAKER_DIM})}}}}"
        )
    for name, entry in content.items():
        try:
            speaker_embedding(entry)
        except InputError as error:
            raise InputError(f"{path}: voice '{name}': {error}") from error
    return {str(name): dict(entry) for name, entry in content.items()}


def speaker_embedding(entry: Any) -> Tensor:
    """The raw speaker vector (1, 192), float32, of an entry of spk2info.pt; other keys of the entry are ignored.

    Voices registered from reference audio have `llm_embedding` in place of `embedding`. Raises InputError.
    """
    if not isinstance(entry, Mapping):
        raise InputError("is not a dict with the key 'embedding'")
    vector = entry.get("embedding", entry.get("llm_embedding"))
    if vector is None:
        raise InputError("has neither 'embedding' nor 'llm_embedding'; register the voice again")
    try:
        vector = torch.as_tensor(vector).detach().float().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"its embedding is not a list of {SPEAKER_DIM} numbers") from error
    if tuple(vector.shape) not in ((SPEAKER_DIM,), (1, SPEAKER_DIM)):
        raise InputError(f"its embedding has the shape {tuple(vector.shape)}, expected (1, {SPEAKER_DIM})")
    if not torch.isfinite(vector).all():
        raise InputError("its embedding holds NaN or infinite numbers; register the voice again")
    return vector.reshape(1, SPEAKER_DIM).clone()


# ---------------------------------------------------------------------------------------------- reading a file
def _unpickle(path: Path, mapped: bool = True) -> Any:
    """What torch.save wrote, tensors on the CPU. Raises FileNotFoundError, and InputError with the cause."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such weight file; check the path, or download the model again")
    if what := not_a_file(path):
        raise InputError(f"{path}: is {what}; name the weight file itself, such as llm.pt")
    if reason := shortfall(path):
        raise DamagedFile(path, reason)
    mmap = mapped and zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise _refusal(path, error) from error


def shortfall(path: Path) -> str:
    """What the first and the last bytes say of a weight file that is not whole; "" where they show no fault."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "is empty"
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        return END_MISSING
    return ""


def _refusal(path: Path, error: Exception) -> InputError:
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return InputError(f"{path}: is a Git LFS pointer, not the weights; run: git lfs pull")
    if isinstance(error, UnpicklingError) and ("GLOBAL" in str(error) or "reduce" in str(error)):
        return InputError(
            f"{path}: holds Python objects beside tensors and is not opened, as they could run code; use a plain "
            "state dict"
        )
    if isinstance(error, EOFError) or "EOF" in str(error) or "truncated" in str(error):  # of before PyTorch 1.6
        return DamagedFile(path, END_MISSING)
    return DamagedFile(path, f"is damaged or no PyTorch weight file ({type(error).__name__})")


def _without_prefixes(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.partition(".")[2]
    return key


# ---------------------------------------------------------------------------------------------- fitting it to a model
def _respell_weight_norm(state: dict[str, Tensor], expected: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """`state` with its weight-normalised tensors in the spelling that the model expects."""
    state = {_parametrised(key): value for key, value in state.items()}
    for key in expected:
        name = key.removesuffix(_FOLDED)
        if key.endswith(_FOLDED) and name + _G in state and name + _V in state:
            state[key] = _checked(key, _fold(name, state.pop(name + _G), state.pop(name + _V), path), path)
        name = key.removesuffix(_G)
        if key.endswith(_G) and name + _FOLDED in state:
            state[name + _G], state[name + _V] = _unfold(state.pop(name + _FOLDED))
    return state


def _parametrised(key: str) -> str:
    for legacy, own in ((_LEGACY_G, _G), (_LEGACY_V, _V)):
        if key.endswith(legacy):
            return key.removesuffix(legacy) + own
    return key


def _fold(name: str, g: Tensor, v: Tensor, path: str | Path) -> Tensor:
    """w = g * v / ||v||, norm over all axes but the first. Source: Salimans & Kingma 2016, eq. 2."""
    magnitude = (*v.shape[:1], *(1 for _ in v.shape[1:]))
    if v.ndim == 0 or tuple(g.shape) != magnitude:
        raise InputError(f"{path}: {name} has a weight-norm magnitude of {tuple(g.shape)}, expected {magnitude}")
    return torch._weight_norm(v, g, 0)


def _unfold(weight: Tensor) -> tuple[Tensor, Tensor]:
    """g and v that give exactly `weight` again: v is the weight, g its norm as torch's own kernel rounds it."""
    ones = torch.ones(*weight.shape[:1], *(1 for _ in weight.shape[1:]))
    g = torch._weight_norm_interface(weight, ones, 0)[1]
    return g, torch.where(g == 0, ones, weight)  # a row of zeros has no direction


def _check_keys(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        counts = f"{len(missing)} missing{_some(missing)}, {len(unexpected)} unexpected{_some(unexpected)}"
        other = len(missing) > len(expected) / 2
        cure = "is it the file of another part?" if other else "use the file that belongs to this cosyvoice.yaml"
        raise InputError(f"{what}: {counts}; {cure}")
    wrong = [
        f"{key} is {tuple(state[key].shape)} in the file but {shape} in the model"
        for key, shape in expected.items()
        if tuple(state[key].shape) != shape
    ]
    if wrong:
        raise InputError(f"{what}: {len(wrong)} of another shape{_some(wrong)}; its cosyvoice.yaml has other sizes")


def _some(keys: Iterable[str]) -> str:
    """The first few names in full."""
    keys = list(keys)
    more = f", and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return f" ({', '.join(keys[:_SHOWN_KEYS])}{more})" if keys else ""


def _checked(key: str, value: Tensor, path: str | Path) -> Tensor:
    """The tensor in float32. Raises InputError where it holds anything but finite numbers."""
    if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
        raise InputError(f"{path}: {key} is {value.dtype}, {value.layout}; use plain floating-point weights")
    value = value.float().contiguous()
    # the sum of finite numbers is finite unless it overflows, and is by far the fastest to take
    if not value.sum().isfinite() and not value.isfinite().all():
        raise InputError(f"{path}: {key} holds NaN or infinite numbers; the training run that wrote it failed")
    return value
