"""Mels that stay in their shards until a clip is trained on: hours of speech need not fit into memory."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from config import UserError
from cosyvoice.utils.common import MEL_BINS
from cosyvoice.utils.memory import is_out_of_memory

CACHE_BYTES = 2**28  # mels that a process keeps: 2.7 hours of speech, so the clips of most voices are read once
DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError)  # what pyarrow raises for a damaged file


class DataError(UserError, ValueError):
    """A data set that cannot be trained on; the message says which file, which clip and what to do."""


class MelStore:
    """Reads mels, a row group at a time, and keeps those used last: CACHE_BYTES, or one group that is larger.

    Files are open only while they are read, so they may be replaced (Windows) and processes forked.
    """

    def __init__(self, budget_bytes: int = CACHE_BYTES) -> None:
        self.budget_bytes, self.held_bytes = budget_bytes, 0
        self._groups: OrderedDict[tuple[Path, int], list[tuple[str, Tensor]]] = OrderedDict()  # used last at the end

    def rows(self, path: Path, group: int) -> list[tuple[str, Tensor]]:
        """(fingerprint, flat mel) of each clip in a row group."""
        key = path, group
        if key not in self._groups:
            self._groups[key] = read_group(path, group)
            self.held_bytes += _bytes_of(self._groups[key])
            while self.held_bytes > self.budget_bytes and len(self._groups) > 1:
                self.held_bytes -= _bytes_of(self._groups.popitem(last=False)[1])
        self._groups.move_to_end(key)
        return self._groups[key]


@dataclass(frozen=True)
class StoredMel:
    """A clip's mel (T, 80) in its shard: it has a length, and a slice of it is a tensor, read when it is taken."""

    store: MelStore
    path: Path
    group: int  # row group of the file
    row: int  # of the group
    frames: int
    fingerprint: str  # of the clip

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, frames: slice) -> Tensor:
        """Some frames, (t, 80); raises DataError where the file no longer holds this clip."""
        try:
            fingerprint, values = self.store.rows(self.path, self.group)[self.row]
        except DAMAGE as error:
            if is_out_of_memory(error):
                raise
            raise self._gone(first_line(error)) from error
        if fingerprint != self.fingerprint or len(values) != self.frames * MEL_BINS:
            raise self._gone("it holds another clip there")
        return values.view(self.frames, MEL_BINS)[frames]

    def _gone(self, reason: str) -> DataError:
        return DataError(
            f"{self.path} changed after training had started ({reason}); put it back, or start a new run, and "
            "while one trains give prepare_joint_data.py another --output-dir for other data"
        )


def read_group(path: Path, group: int) -> list[tuple[str, Tensor]]:
    """(fingerprint, flat mel) of each clip in a row group; raises what pyarrow raises."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read_row_group(group, columns=["fingerprint", "speech_feat"], use_threads=False)
    mels = table.column("speech_feat").cast(pa.list_(pa.float32()))  # other tools may have written float64
    return [(name.as_py(), as_tensor(mel)) for name, mel in zip(table.column("fingerprint"), mels, strict=True)]


def as_tensor(cell: pa.ListScalar) -> Tensor:
    """The numbers of a list cell, in memory of their own."""
    return torch.from_numpy(cell.values.to_numpy(zero_copy_only=False).copy())


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().split("\n")[0]


def _bytes_of(rows: list[tuple[str, Tensor]]) -> int:
    return sum(values.nbytes for _, values in rows)
