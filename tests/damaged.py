"""Shards as a bad disk or an earlier version leaves them."""

from pathlib import Path

import pyarrow.parquet as pq

from dataset import SCHEMA


def damage_mel(path: Path) -> Path:
    """Flip a bit in the middle of the mels of the file's middle row group: no length or number of rows changes."""
    metadata = pq.read_metadata(path)
    chunk = metadata.row_group(metadata.num_row_groups // 2).column(SCHEMA.names.index("speech_feat"))
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    return path


def in_one_group(path: Path) -> Path:
    """The shard as it was written before row groups were made small: one group, dictionaries, no checksums."""
    pq.write_table(pq.read_table(path), path)
    return path
