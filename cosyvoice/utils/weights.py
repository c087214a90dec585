"""Weight files: every accepted spelling of a state dict -> a filled network, and the named voices of spk2info.pt.

Files come from downloads and from other people's trainers: they are read with weights_only=True, which runs no code.
"""

import errno
import hashlib
import pickletools
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from cosyvoice.utils.common import SPEAKER_DIM, InputError
from cosyvoice.utils.files import not_a_file, require_file
from cosyvoice.utils.memory import is_out_of_memory
from cosyvoice.utils.records import limited, plain_tensor, read_record, read_value

_TRAINER_ENTRIES = ("epoch", "step")
_PREFIXES = ("module.", "generator.")
_DISCRIMINATOR = "discriminator."
_SHOWN_KEYS = 4
_BLOCK = 1 << 20
_IS_FOLDER = 0x10  # attribute of an entry, as MS-DOS had it
SUMS = "SHA256SUMS"
MOST_CLAIMED, MOST_CLAIMED_EXTRA = 4, 2**24  # bytes of all tensors: so many times the file's, and so many more
MOST_NESTED = 64  # containers in containers
END_MISSING = "is incomplete (the end of the file is missing)"

# Suffixes of one weight-normalised tensor: magnitude g, direction v. The first spelling is the one of our own modules.
_G, _V = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
_LEGACY_G, _LEGACY_V = ".weight_g", ".weight_v"
_FOLDED = ".weight"


VOICE_NAME = {"longest": 1000}  # letters


@dataclass(frozen=True, kw_only=True)
class VoiceRecord:
    """What a file says of a voice: raw speaker vector, how fast it speaks, and who reads its texts."""

    embedding: Tensor = limited(shape=(1, SPEAKER_DIM))
    seconds_per_text_token: float | None = limited(None, low=1e-4, high=100)
    text_normalizer: str | None = limited(None, longest=100)


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
    content = read_torch(path, mapped)
    if isinstance(content, Mapping) and isinstance(content.get("module"), Mapping):  # DeepSpeed
        content = content["module"]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: holds no named tensors; expected the state dict of one network")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        name = _without_prefixes(read_value(str, key, f"{path}: the name of a tensor", {}))
        if key in _TRAINER_ENTRIES or name.startswith(_DISCRIMINATOR):
            continue
        if not isinstance(value, Tensor):
            raise InputError(f"{path}: entry '{key}' is not a tensor; expected the state dict of one network")
        if name in state:
            raise InputError(f"{path}: holds '{name}' twice, with and without a prefix")
        state[name] = plain_tensor(value, f"{path}: {key}")
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
        while block := file.read(_BLOCK):
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
    content = read_torch(path)
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path}: holds no named voices; expected {{name: {{'embedding': tensor (1, {SPEAKER_DIM})}}}}"
        )
    for name, entry in content.items():
        read_value(str, name, f"{path}: the name of a voice", VOICE_NAME)
        try:
            vector = speaker_embedding(entry)
            read_record(VoiceRecord, {**entry, "embedding": vector}, "its entry")
        except InputError as error:
            raise InputError(f"{path}: voice '{name}': {error}") from error
    return {name: dict(entry) for name, entry in content.items()}


def speaker_embedding(entry: Any) -> Tensor:
    """The raw speaker vector (1, 192), float32, of an entry of spk2info.pt; other keys of the entry are ignored.

    Voices registered from reference audio have `llm_embedding` in place of `embedding`. Raises InputError.
    """
    if not isinstance(entry, Mapping):
        raise InputError("is not a dict with the key 'embedding'")
    vector = entry.get("embedding", entry.get("llm_embedding"))
    if vector is None:
        raise InputError("has neither 'embedding' nor 'llm_embedding'; register the voice again")
    if isinstance(vector, list | tuple):
        vector = torch.tensor(read_value(list[float], vector, "its embedding", {}), dtype=torch.float32)
    vector = plain_tensor(vector, "its embedding")
    if tuple(vector.shape) not in ((SPEAKER_DIM,), (1, SPEAKER_DIM)):
        raise InputError(f"its embedding has the shape {tuple(vector.shape)}, expected (1, {SPEAKER_DIM})")
    if not torch.isfinite(vector.float()).all():
        raise InputError("its embedding holds NaN or infinite numbers; register the voice again")
    return vector.float().reshape(1, SPEAKER_DIM).clone()


# ---------------------------------------------------------------------------------------------- reading a file
def read_torch(path: Path, mapped: bool = True) -> Any:
    """What torch.save wrote, tensors on the CPU; every byte is held against the file's own checksums.

    Raises FileNotFoundError, DamagedFile, and InputError for what is no weight file or claims more than it holds."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such weight file; check the path, or download the model again")
    if what := not_a_file(path):
        raise InputError(f"{path}: is {what}; name the weight file itself, such as llm.pt")
    if reason := damage(path):
        raise DamagedFile(path, reason)
    check_listed(path)
    mmap = mapped and is_zip(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises a dozen types for a damaged file
        if is_out_of_memory(error) or _is_of_disk(error):
            raise
        raise _refusal(path, error) from error
    _check_claims(content, path, _stored_bytes(path) if is_zip(path) else None)
    return content


def _is_of_disk(error: Exception) -> bool:
    """Whether the disk could not be read; a damaged index leads to places that no file has (EINVAL)."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def damage(path: Path) -> str:
    """What its ends and its checksums say of a weight file that is not whole; "" where they show no fault.

    Files of before PyTorch 1.6 have no checksums."""
    if not path.stat().st_size:
        return "is empty"
    return _zip_damage(path) if is_zip(path) else ""


def is_zip(path: Path) -> bool:
    """Whether a weight file is a zip archive, told as PyTorch does."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _zip_damage(path: Path) -> str:
    try:
        if not zipfile.is_zipfile(path):
            return END_MISSING
        with zipfile.ZipFile(path) as archive, ThreadPoolExecutor() as threads:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) < len(entries):
                return "holds an entry twice"
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return "was packed anew with compression; save it again by torch.save"
            if any(entry.external_attr & _IS_FOLDER and not entry.is_dir() for entry in entries):
                return "is damaged (its index calls an entry a folder)"  # PyTorch would leave its numbers as they come
            if not any(entry.CRC for entry in entries):  # written without checksums, which torch.save can be told to
                return ""
            whole = threads.map(lambda entry: _is_whole(archive, entry), entries)
            damaged = [entry for entry, good in zip(entries, whole, strict=True) if not good]
            if not damaged:
                return ""
            return f"is damaged (its checksums do not fit: {_tensor_name(archive, damaged[0])})"
    except Exception as error:  # zipfile raises a dozen types for a damaged index
        if is_out_of_memory(error) or _is_of_disk(error):
            raise
        return f"is damaged ({type(error).__name__} in its index)"


def _is_whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    """Whether an entry's bytes have the checksum that the index states."""
    try:
        with archive.open(entry) as file:
            while file.read(_BLOCK):
                pass
    except (zipfile.BadZipFile, EOFError):
        return False
    return True


def _tensor_name(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    """The name that the pickle gives the tensor whose numbers an entry holds, where it can be told; else the entry."""
    folder, _, key = entry.filename.rpartition("/data/")
    if folder and _is_whole(archive, archive.getinfo(f"{folder}/data.pkl")):
        words = (argument for _, argument, _ in pickletools.genops(archive.read(f"{folder}/data.pkl")))
        names = [word for word in words if isinstance(word, str) and word not in ("storage", "cpu") and " " not in word]
        if key in names[1:]:
            return names[names.index(key, 1) - 1]
    return entry.filename


def check_listed(path: Path) -> None:
    """DamagedFile where the SHA256SUMS of its folder lists another content for a file; without one nothing is said."""
    sums = path.parent / SUMS
    if not sums.is_file():
        return
    lines = (line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8", errors="replace").splitlines())
    listed = {line[1].lstrip("*"): line[0].lower() for line in lines if len(line) == 2}
    if path.name in listed and listed[path.name] != file_fingerprint(path):
        raise DamagedFile(path, f"differs from what {SUMS} says of it (delete its line there if you changed the file)")


def _stored_bytes(path: Path) -> int:
    """Of all tensors in a zip archive; its pickle may claim more, and PyTorch then reads what lies behind them."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)


def _check_claims(content: Any, path: Path, stored: int | None) -> None:
    """InputError where tensors have far more numbers than the file can hold, as views can, or data holds itself.

    stored: bytes of the numbers in it, where that is known. DamagedFile where tensors take more."""
    claimed, most = 0, MOST_CLAIMED * path.stat().st_size + MOST_CLAIMED_EXTRA
    storages: dict[int, int] = {}  # bytes by address: tensors may share one
    pending, deepest = [(content, 1)], {}
    while pending:
        value, depth = pending.pop()
        if isinstance(value, Tensor):
            claimed += value.numel() * value.element_size()
            if value.layout == torch.strided and value.device.type == "cpu" and not value.is_nested:
                storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, Mapping | list | tuple | set) and depth > deepest.get(id(value), 0):
            deepest[id(value)] = depth
            inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
            pending += [(item, depth + 1) for item in inner]
        if depth > MOST_NESTED or claimed > most:
            raise InputError(f"{path}: claims more than it holds, which no weight file does; download it again")
    if stored is not None and sum(storages.values()) > stored:
        raise DamagedFile(path, "is damaged (tensors lack some of their numbers)")


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
    if "protocol" in str(error):
        return InputError(f"{path}: was saved with another pickle protocol than 2, which PyTorch does not read safely")
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
    value = value.float().contiguous()
    # the sum of finite numbers is finite unless it overflows, and is by far the fastest to take
    if not value.sum().isfinite() and not value.isfinite().all():
        raise InputError(f"{path}: {key} holds NaN or infinite numbers; the training run that wrote it failed")
    return value
