"""Prepared data of random numbers that fits the tiny model, for tests of everything after prepare_joint_data.py."""

from pathlib import Path

import torch

from cosyvoice.utils.common import token_to_mel_length
from dataset import write_shard

TOKEN_RATE_HZ = 50
SPEECH_TOKENS = 64  # ids of the tiny model


def write_random_data(folder: Path, n_clips: int = 10, seed: int = 0, shards: int = 1) -> Path:
    """`folder` holding data.list and shards of together `n_clips` clips of 0.6 s and more, all different."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n_clips, 192, generator=generator)
    rows = []
    for i in range(n_clips):
        tokens = 30 + 7 * i
        frames = token_to_mel_length(tokens, TOKEN_RATE_HZ) + 1
        rows.append(
            {
                "utt": f"{i:03d}",
                "wav": f"{i:03d}.wav",
                "text": f"clip {i}",
                "text_token": torch.randint(0, 50000, (4 + i,), generator=generator).tolist(),
                "speech_token": torch.randint(0, SPEECH_TOKENS, (tokens,), generator=generator).tolist(),
                "speech_feat": (2 * torch.randn(frames * 80, generator=generator) - 5).tolist(),
                "speech_feat_len": frames,
                "utt_embedding": vectors[i].tolist(),
                "spk_embedding": vectors.mean(0).tolist(),
                "duration_sec": tokens / TOKEN_RATE_HZ,
                "fingerprint": f"{seed}/{i}",
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"clips_{number:03d}.parquet" for number in range(shards)]
    for number, name in enumerate(names):
        write_shard(folder / name, rows[n_clips * number // shards : n_clips * (number + 1) // shards])
    (folder / "data.list").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return folder
