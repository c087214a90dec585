"""Figures of the model card: the finished model directory against clips that took no part in training.

en_allison (the project's example clips) is heard by no training stage; of the corpus only test clips are used.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from build_mini.common import (
    HERE,
    MEL_RATE,
    MODEL_DIR,
    OWN_VOICES,
    SEED,
    TOKENIZER_RATE,
    Clip,
    log_line,
    read_manifest,
    replace_file,
)
from build_mini.speech_tokenizer import PhoneReader, load_items, phone_tables, test_accuracy
from cosyvoice.cli.cosyvoice import CosyVoice, load_part
from cosyvoice.cli.frontend import CosyVoiceFrontEnd, load_wav
from cosyvoice.utils.yaml_loader import read_model_config

EXAMPLES = HERE.parent / "examples" / "en_allison" / "raw_audio"
SENTENCES = 12  # spoken by the language model
FLOW_TIMES = 4


@lru_cache(maxsize=1)
def frontend() -> CosyVoiceFrontEnd:
    """The shipped front end: both graphs, mel and text tokens."""
    return CosyVoiceFrontEnd(read_model_config(MODEL_DIR))


def example_paths() -> list[Path]:
    """The unseen speaker's clips."""
    return sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".flac", ".wav"))


def clip_tokens(work: Path, clip: Clip) -> np.ndarray:
    """Speech tokens of a corpus clip by the shipped graph."""
    return np.array(frontend().speech_tokens(clip.wave(work)[None]))


def at_phones(clip: Clip, tokens: np.ndarray) -> np.ndarray:
    """The token at the middle of every phone."""
    starts = np.array([0.0, *clip.ends[:-1]])
    middles = (starts + np.array(clip.ends)) / 2
    return tokens[(middles * 25).astype(int).clip(max=len(tokens) - 1)]


def levels(codes: np.ndarray) -> np.ndarray:
    """The five levels (..., 5), each 0 to 3, of token ids."""
    return codes[..., None] // 4 ** np.arange(5) % 4


def token_agreement(work: Path) -> dict[str, float]:
    """Share of equal tokens at phone middles: two voices, same sentence, against sounds drawn at random."""
    clips = [c for c in read_manifest(work) if c.split == "test" and c.lang == "en"]
    by_text: dict[str, list[Clip]] = {}
    for clip in clips:
        by_text.setdefault(clip.text, []).append(clip)
    rng = np.random.default_rng(SEED)
    same, other, near_same, near_other = [], [], [], []
    for group in by_text.values():
        marks = {clip.id: at_phones(clip, clip_tokens(work, clip)) for clip in group}
        for a, b in combinations(group, 2):
            if a.phones == b.phones:
                x, y = marks[a.id], marks[b.id]
                z = rng.permutation(y)
                same.append((x == y).mean())
                other.append((x == z).mean())
                near_same.append(np.abs(levels(x) - levels(y)).sum(-1).mean())
                near_other.append(np.abs(levels(x) - levels(z)).sum(-1).mean())
    return {
        "equal tokens, two voices, same sounds": float(np.mean(same)),
        "equal tokens, two voices, shuffled sounds": float(np.mean(other)),
        "level distance, same sounds": float(np.mean(near_same)),
        "level distance, shuffled sounds": float(np.mean(near_other)),
    }


def phone_accuracy(work: Path) -> dict[str, float]:
    """Share of right 20 ms phone labels on held-out clips and their copies, by language."""
    clips = read_manifest(work)
    tables = phone_tables(clips)
    state = torch.load(work / "tokens.state.pt", weights_only=True)
    from build_mini.speech_tokenizer import load_tokenizer

    reader = PhoneReader({lang: len(table) for lang, table in tables.items()})
    reader.load_state_dict(state["reader"])
    items = load_items(work, clips, tables)
    return {f"phones right, {k}": test_accuracy(load_tokenizer(work), reader, items[k, True], k) for k in tables}


def speaker_table(work: Path) -> dict[str, float]:
    """Mean cosine of speaker vectors, same voice and other voices, of test clips and the unseen speaker."""
    voices: dict[str, list[Tensor]] = {}
    for clip in read_manifest(work):
        if clip.split == "test" and clip.seconds > 1.5:
            voices.setdefault(clip.voice, []).append(frontend().speaker_vector(clip.wave(work)[None]))
    voices["en_allison"] = [frontend().speaker_vector(load_wav(path, TOKENIZER_RATE)) for path in example_paths()]
    units = {name: F.normalize(torch.stack(vectors[:24]), dim=1) for name, vectors in voices.items()}
    table = {}
    for name, own in units.items():
        cosines = own @ own.T
        table[f"cosine within {name}"] = float(cosines[~torch.eye(len(own), dtype=torch.bool)].mean())
        others = torch.cat([u for other, u in units.items() if other != name])
        table[f"cosine of {name} to other voices"] = float((own @ others.T).mean())
    return table


@torch.inference_mode()
def flow_losses(flow: nn.Module, waves: list[Tensor]) -> float:
    """Mean squared velocity error over 16 kHz waves, whole clips, fixed noise and time grid (cosine), no dropout."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for wave in waves:
        tokens = torch.tensor([frontend().speech_tokens(wave)])
        mel = frontend().mel(to_mel_rate(wave))[None]
        batch = {
            "speech_token": tokens,
            "speech_token_len": torch.tensor([tokens.shape[1]]),
            "speech_feat": mel,
            "speech_feat_len": torch.tensor([mel.shape[1]]),
            "embedding": frontend().speaker_vector(wave)[None],
        }
        for k in range(FLOW_TIMES):
            noise = torch.randn(1, 80, mel.shape[1], generator=generator)
            t = torch.full((1, 1, 1), (k + 0.5) / FLOW_TIMES)
            fixed = {"random_prefix": False, "guidance_dropout": False, "flow_time": "cosine", "t": t, "noise": noise}
            found.append(flow(batch, "cpu", **fixed)["loss"])
    return float(torch.stack(found).mean())


def to_mel_rate(wave: Tensor) -> Tensor:
    """16 kHz (1, N) at 22.05 kHz."""
    import torchaudio

    return torchaudio.functional.resample(wave, TOKENIZER_RATE, MEL_RATE)


def vocoder_figures(hift: nn.Module, waves: list[Tensor]) -> dict[str, float]:
    """Mean absolute log-mel error of copy synthesis, and seconds of work per second of speech."""
    errors, spent, seconds = [], 0.0, 0.0
    for wave in waves:
        mel = frontend().mel(to_mel_rate(wave))
        started = time.perf_counter()
        made, _ = hift.inference(mel.T[None])
        spent, seconds = spent + time.perf_counter() - started, seconds + wave.shape[1] / TOKENIZER_RATE
        errors.append((frontend().mel(made) - mel).abs().mean())
    return {"mel error of copy synthesis": float(torch.stack(errors).mean()), "vocoder, x real time": spent / seconds}


def speak_figures(work: Path) -> dict[str, float]:
    """Sentences from the language model: length against the same voice's own, and speed of the whole model."""
    voice = CosyVoice(MODEL_DIR)
    torch.manual_seed(SEED)
    clips = [c for c in read_manifest(work) if c.split == "test" and c.voice in OWN_VOICES[:3]][:SENTENCES]
    ratios, ended, spent, made = [], [], 0.0, 0.0
    for clip in clips:
        started = time.perf_counter()
        speech = torch.cat([piece["tts_speech"] for piece in voice.inference_sft(clip.text, clip.voice)], dim=1)
        spent += time.perf_counter() - started
        seconds = speech.shape[1] / MEL_RATE
        made += seconds
        ratios.append(seconds / clip.seconds)
        ended.append(voice.model.llm.stopped_by_eos)
    return {
        "sentences that end by themselves": float(np.mean(ended)),
        "length against the voice's own, median": float(np.median(ratios)),
        "length against the voice's own, least": float(np.min(ratios)),
        "length against the voice's own, most": float(np.max(ratios)),
        "text to speech, x real time": spent / made,
    }


def llm_figures(work: Path) -> dict[str, float]:
    """Loss (nats per token) and accuracy on the held-out sentences."""
    from build_mini.llm import load_items as sentences
    from build_mini.llm import test_figures

    loss, right = test_figures(load_part(MODEL_DIR, "llm"), sentences(work)[True])
    return {"LLM loss, held-out sentences": loss, "LLM accuracy, held-out sentences": right}


def build(work: Path) -> None:
    """Print every figure and write work/figures.json."""
    clips = [clip for clip in read_manifest(work) if clip.split == "test"]
    corpus = [clip.wave(work)[None] for clip in clips if clip.seconds > 1][::16]
    unseen = [load_wav(path, TOKENIZER_RATE) for path in example_paths()[:12]]
    flow, hift = load_part(MODEL_DIR, "flow"), load_part(MODEL_DIR, "hift", inference=True)
    figures = phone_accuracy(work) | token_agreement(work) | speaker_table(work)
    figures |= {
        "flow loss, corpus test clips": flow_losses(flow, corpus),
        "flow loss, en_allison": flow_losses(flow, unseen),
    }
    figures |= {f"{name}, en_allison": value for name, value in vocoder_figures(hift, unseen).items()}
    figures |= {f"{name}, corpus": value for name, value in vocoder_figures(hift, corpus).items()}
    figures |= llm_figures(work) | speak_figures(work)
    replace_file(work / "figures.json", lambda part: part.write_text(json.dumps(figures, indent=1)))
    for name, value in figures.items():
        print(f"{name:50s} {value:.3f}")
    log_line(work, "measure", f"{len(figures)} figures in figures.json")
