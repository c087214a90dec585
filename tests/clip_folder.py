"""Sounds like speech, and folders of them with their texts."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SENTENCES = (
    "the first of many short sentences that we say",
    "another line, said about as fast as the first",
    "rivers run to the sea and never come back up",
    "please hold the door until the cat has left",
    "nobody knows why the old clock stopped at noon",
    "bring some bread and a little butter with you",
    "the train to the coast leaves from the far side",
    "we counted seven boats before the fog came in",
)


def voice(seconds: float = 3.5, seed: int = 0, rate: int = RATE, edge: float = 0.15) -> np.ndarray:
    """(N,) like speech: harmonics to 7.5 kHz in syllables with pauses between, silence at both ends, a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = 140 + 20 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    wave = sum(np.cos(k * phase + rng.uniform(0, 6)) / k**0.8 for k in range(1, 48))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * (t - edge)), 0, 1) * ((t > edge) & (t < seconds - edge))
    wave = wave * syllables
    return (0.4 * wave / np.abs(wave).max() + 10 ** (-70 / 20) * rng.normal(size=len(t))).astype(np.float32)


def write_clip(folder: Path, name: str, text: str | None, samples: np.ndarray | None = None, **options: object) -> Path:
    """folder/name and its .txt; 3.5 s of voice that depends on the name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = options.pop("rate", RATE)
    soundfile.write(path, voice(seed=sum(map(ord, name))) if samples is None else samples, rate, **options)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return path
