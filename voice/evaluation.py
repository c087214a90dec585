"""A voice in figures: what is measured in each spoken sentence, beside what, and which differences mean something."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clips.measuring import clipped_share
from clips.text_check import Spoken, text_help
from common.recogniser import Recogniser, errors
from config import UserError
from cosyvoice.cli.frontend import MAX_TOKEN_SEC, MIN_TOKEN_SAMPLES, CosyVoiceFrontEnd
from cosyvoice.utils.audio_files import resample
from cosyvoice.utils.common import EXTRACTOR_RATE, InputError
from text.languages import language_of
from utils import PROJECT
from voice.metrics import (
    Interval,
    cosine,
    difference_interval,
    mean_interval,
    pitch,
    repeated_share,
    share_interval,
)
from voice.runaway import silence_seconds
from voice.speaking import Speaker, Speech, speakable

LISTS = {"en": "sentences_en.txt", "zh": "sentences_zh.txt", "yue": "sentences_zh.txt"}  # in examples/
EVALUATION = "evaluation"  # folder of an evaluation in the output folder
CLARITY_STRANGERS = 2  # other texts that a sentence is held against; the mean over sentences evens out which
CAMPPLUS, GE2E = "similarity", "similarity_ge2e"
Vectors = dict[str, Tensor]  # speaker vectors by encoder
Ratio = tuple[float, float]  # numerator and denominator of one sentence's share in a figure
Figures = dict[str, Ratio]  # of one sentence, by name


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    title: str
    better: str  # more, less, or near (to the speaker's own)
    digits: int = 2
    above: Callable[[float, float], float] = lambda value, target: value - target  # for "near"
    yes_or_no: bool = False  # 1 or 0 in each sentence
    limits: tuple[float, float] = (0.0, math.inf)  # what it can be

    def interval(self, ratios: Sequence[Ratio]) -> Interval | None:
        """The figure over sentences, and the range in which it lies."""
        return share_interval([a > 0 for a, _ in ratios]) if self.yes_or_no else mean_interval(ratios, *self.limits)


def octaves(value: float, target: float) -> float:
    """By how much a frequency or ratio lies above another, in octaves; negative below it."""
    return math.log2(max(value, 1e-6) / max(target, 1e-6))


ANY, COSINE = (-math.inf, math.inf), (-1.0, 1.0)
FIGURES = (
    Figure("wer", "word error rate", "less"),
    Figure("clarity", "intelligibility score, nats/s", "more", 1, limits=ANY),
    Figure("token_clarity", "intelligibility score of the speech tokens, nats/s", "more", 1, limits=ANY),
    Figure(CAMPPLUS, "similarity to the speaker", "more", 3, limits=COSINE),
    Figure(GE2E, "similarity to the speaker, by GE2E", "more", 3, limits=COSINE),
    Figure("duration_ratio", "speaking rate, duration / the speaker's own", "near", 2, octaves),
    Figure("run_on", "runs on after the text, share of sentences", "less", yes_or_no=True),
    Figure("early_stop", "stops early, share of sentences", "less", yes_or_no=True),
    Figure("failed", "degenerate output, share of sentences", "less", yes_or_no=True),
    Figure("silence_sec", "longest silence, s", "less"),
    Figure("repeated", "share of repeated tokens", "near"),
    Figure("recited_sec", "longest stretch as in a training clip, s", "less", 1),
    Figure("f0_hz", "pitch, Hz", "near", 0, octaves),
    Figure("f0_spread", "spread of the pitch, semitones", "near"),
    Figure("clipped", "share of clipped samples", "less", 4),
)
BY_NAME = {figure.name: figure for figure in FIGURES}
FAILED_BY = {"llm": "failed_tokens", "flow": "failed_sound"}
"""Figures that say whether a sentence went wrong by this part's fault; only training asks for them."""


@dataclass(frozen=True)
class Sentence:
    """One sentence, spoken or real, and what was measured in it."""

    text: str
    wave: Tensor  # (1, N)
    sample_rate: int
    figures: Figures = field(default_factory=dict)
    heard: str | None = None  # None: no recogniser
    complaints: tuple[str, ...] = ()


def shipped_list(texts: Sequence[str]) -> Path:
    """The list of sentences that ships in the language of most of the texts; the English one for other languages."""
    languages = Counter(map(language_of, texts)).most_common(1)
    return PROJECT / "examples" / LISTS.get(languages[0][0] if languages else "en", LISTS["en"])


def unit_mean(vectors: Sequence[Tensor]) -> Tensor:
    """Mean of speaker vectors (D,) that all count the same."""
    return torch.stack([vector / vector.norm() for vector in vectors]).mean(dim=0)


def text_tokens(frontend: CosyVoiceFrontEnd, text: str) -> Tensor:
    """Tokens (L,) of a text as it is spoken, its segments joined."""
    return torch.tensor(frontend.text_tokens("".join(speakable(frontend, text))), dtype=torch.int32)


# ---- ears ------------------------------------------------------------------------------------------------------------


def ge2e_encoder() -> Callable[[np.ndarray], np.ndarray] | None:
    """Speaker vector (256,) of a 16 kHz wave (N,) by Resemblyzer's GE2E, Wan et al. 2018; None: not installed."""
    if find_spec("resemblyzer") is None:
        return None
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)

    def encode(samples: np.ndarray) -> np.ndarray:
        speech = preprocess_wav(samples, source_sr=EXTRACTOR_RATE)  # without long pauses
        return encoder.embed_utterance(speech if len(speech) else samples)

    return encode


class Clarity:
    """How clearly speech says its text, asked of the untouched LLM: no recogniser is needed.

    It is how much likelier the text makes the speech tokens than other texts do, in nats a second."""

    def __init__(
        self,
        llm: nn.Module,
        frontend: CosyVoiceFrontEnd,
        embedding: Tensor,
        strangers: Sequence[Tensor],
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        """embedding: (192,) of the speaker. strangers: tokens (L,) of some texts, more than CLARITY_STRANGERS."""
        self.llm, self.frontend, self.embedding, self.strangers = llm, frontend, embedding, strangers
        self.autocast = autocast

    def others(self, text: Tensor) -> list[Tensor]:
        """Other texts that the text is held against."""
        return [stranger for stranger in self.strangers if not torch.equal(stranger, text)][:CLARITY_STRANGERS]

    def of_tokens(self, text: Tensor, tokens: Sequence[int]) -> Ratio:
        """(nats, seconds) of speech tokens that shall say the text tokens (L,)."""
        spoken = Spoken("", text, torch.tensor(tokens, dtype=torch.int32), self.embedding)
        others = self.others(text)
        with self.autocast():
            help_ = text_help(self.llm, spoken, others)
        return help_ * len(tokens), len(tokens) / self.frontend.config.token_rate_hz

    def figures(self, text: Tensor, tokens: Sequence[int], wave: Tensor) -> Figures:
        """Of the tokens, and of their sound (1, N) at EXTRACTOR_RATE turned into tokens again; its first 30 s at most.

        {} where there is no other text to hold it against."""
        if not self.others(text):
            return {}
        found = {"token_clarity": self.of_tokens(text, tokens)} if len(tokens) else {}
        wave = wave[:, : MAX_TOKEN_SEC * EXTRACTOR_RATE]
        if wave.shape[1] >= MIN_TOKEN_SAMPLES:
            found["clarity"] = self.of_tokens(text, self.frontend.speech_tokens(wave))
        return found


class Ears:
    """Everything that listens: the model's own speaker encoder, an independent one and a recogniser where installed."""

    def __init__(
        self,
        frontend: CosyVoiceFrontEnd,
        recogniser: Recogniser | None,
        language: str | None = None,
        clarity: Clarity | None = None,
    ) -> None:
        """language: of all texts; None: by each text's letters."""
        self.frontend, self.recogniser, self.language, self.clarity = frontend, recogniser, language, clarity
        self.ge2e = ge2e_encoder()

    def vectors(self, wave: Tensor) -> Vectors:
        """Speaker vectors of a wave (1, N) at EXTRACTOR_RATE; {} for one that is too short to have any."""
        try:
            found = {CAMPPLUS: self.frontend.speaker_vector(wave)}
        except InputError:
            return {}
        if self.ge2e is not None:
            found[GE2E] = torch.from_numpy(self.ge2e(wave[0].numpy()))
        return found

    def understand(self, wave: Tensor, text: str) -> tuple[str | None, Ratio | None]:
        """What the recogniser hears in a wave (1, N) at EXTRACTOR_RATE, and (errors, words)."""
        if self.recogniser is None:
            return None, None
        language = self.language or language_of(text)
        heard = self.recogniser.hear(wave[0].numpy(), language)
        return heard, errors(text, heard, language)


def listen_to(
    text: str, wave: Tensor, sample_rate: int, tokens: Sequence[int], ears: Ears, centres: Vectors
) -> Sentence:
    """What can be told from the sound itself. centres: the speaker's mean vectors; {} where they are not known."""
    heard_wave = resample(wave, sample_rate, EXTRACTOR_RATE)
    heard, wrong = ears.understand(heard_wave, text)
    figures = cheap_figures(wave, sample_rate, tokens, ears.vectors(heard_wave) if centres else {}, centres)
    if wrong is not None:
        figures["wer"] = wrong
    if ears.clarity is not None:
        figures |= ears.clarity.figures(text_tokens(ears.frontend, text), tokens, heard_wave)
    return with_pitch(Sentence(text, wave, sample_rate, figures, heard))


def with_pitch(sentence: Sentence) -> Sentence:
    """The sentence with its pitch, measured in as much time as a small network takes to speak it."""
    found = pitch(resample(sentence.wave, sentence.sample_rate, EXTRACTOR_RATE)) if sentence.wave.shape[1] else None
    if found is None:
        return sentence
    return replace(sentence, figures=sentence.figures | {"f0_hz": (found.hz, 1), "f0_spread": (found.spread, 1)})


def cheap_figures(wave: Tensor, sample_rate: int, tokens: Sequence[int], vectors: Vectors, centres: Vectors) -> Figures:
    """What costs next to nothing to tell of a sound whose speaker vectors are known."""
    figures: Figures = {"repeated": (repeated_share(tokens), 1), "clipped": (clipped_share(wave[0].numpy()), 1)}
    figures |= {name: (cosine(vectors[name], centre), 1) for name, centre in centres.items() if name in vectors}
    silence = silence_seconds(wave, sample_rate)
    return figures if silence is None else figures | {"silence_sec": (silence, 1)}


# ---- systems ---------------------------------------------------------------------------------------------------------


def speak_sentence(speaker: Speaker, text: str, seed: int, ears: Ears, centres: Vectors) -> Sentence:
    """One sentence spoken and measured. UserError where nothing in it can be spoken."""
    segments = speakable(speaker.frontend, text)
    if not segments:
        raise UserError(f"'{text}': nothing in it can be spoken; mend the list of sentences")
    speech = speaker.speak(segments, seed)
    found = listen_to(text, speech.wave, speaker.sample_rate, speech.tokens, ears, centres)
    figures = found.figures | length_figures(speaker, segments, speech)
    wrong = any(figures[name][0] for name in ("run_on", "early_stop"))
    figures["failed"] = (float(wrong or bool(speech.complaints)), 1)
    return Sentence(text, found.wave, found.sample_rate, figures, found.heard, tuple(speech.complaints))


def length_figures(speaker: Speaker, segments: Sequence[str], speech: Speech) -> Figures:
    """Did it end where the text ends? By the limits of the guard against runaway; the pace is the speaker's own."""
    counts = [len(speaker.frontend.text_tokens(segment)) for segment in segments]
    longest = sum(speaker.longest(count) for count in counts)
    shortest = sum(speaker.shortest(count) for count in counts)
    figures: Figures = {
        "run_on": (float(not speech.ended or len(speech.tokens) >= longest), 1),
        "early_stop": (float(len(speech.tokens) < max(shortest, 1)), 1),
    }
    if speaker.voice.seconds_per_text_token is not None:
        expected = sum(counts) * speaker.voice.seconds_per_text_token
        figures["duration_ratio"] = (len(speech.tokens) / speaker.token_rate_hz / expected, 1)
    return figures


def figures_of(sentences: Iterable[Sentence]) -> list[Figures]:
    """What was measured in each sentence, as plain numbers, which can be stored."""
    return [{name: (float(a), float(b)) for name, (a, b) in sentence.figures.items()} for sentence in sentences]


def ratios(measured: Sequence[Figures], name: str) -> list[Ratio]:
    """One figure's shares, of the sentences in which it could be measured. Raises KeyError for a name of no figure."""
    found = [figures[name] for figures in measured if name in figures]
    if not found and name not in BY_NAME and name not in FAILED_BY.values():
        raise KeyError(name)  # as NaN it would switch off the rule that asks for it
    return found


def shown(interval: Interval, digits: int) -> tuple[str, str, str]:
    """Value and both ends of its range, as printed; "?" for an end that one sentence alone does not have."""
    numbers = interval.value, interval.low, interval.high
    return tuple(f"{number:.{digits}f}" if math.isfinite(number) else "?" for number in numbers)


def in_words(interval: Interval | None, digits: int) -> str:
    """ "0.12 [0.08, 0.17]"; "-" for none."""
    if interval is None:
        return "-"
    value, low, high = shown(interval, digits)
    return f"{value} [{low}, {high}]"


def summary(measured: Sequence[Figures]) -> dict[str, Interval]:
    """Every figure of some sentences with its interval."""
    found = {figure.name: figure.interval(ratios(measured, figure.name)) for figure in FIGURES}
    return {name: interval for name, interval in found.items() if interval is not None}


# ---- comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One figure of two systems on the same sentences; `gain` > 0 where ours is better."""

    name: str
    gain: Interval

    @property
    def verdict(self) -> str:
        """better, worse, or "the same within the noise"."""
        if not self.gain.excludes_zero:
            return "the same within the noise"
        return "better" if self.gain.value > 0 else "worse"


def compare(ours: Sequence[Figures], theirs: Sequence[Figures], targets: Mapping[str, float]) -> list[Comparison]:
    """Figures in which one system is better than another; those that are to be near a target are left out without it.

    targets: the speaker's own values, for the figures that are to be near them.
    """
    found = []
    for figure in FIGURES:
        pairs = [
            (a[figure.name], b[figure.name])
            for a, b in zip(ours, theirs, strict=True)
            if figure.name in a and figure.name in b
        ]
        if not pairs or figure.better == "near" and figure.name not in targets:
            continue
        a, b = (as_costs(figure, side, targets) for side in zip(*pairs, strict=True))
        found.append(Comparison(figure.name, difference_interval(b, a)))
    return found


def as_costs(figure: Figure, side: Sequence[Ratio], targets: Mapping[str, float]) -> list[Ratio]:
    """One system's sentences as something of which less is better.

    What is to be near a target is judged by its mean: single sentences scatter around the target also where all is
    well, and their distances would hide that the voice as a whole came nearer."""
    if figure.better == "near":
        above = [figure.above(a / b, targets[figure.name]) for a, b in side]
        sign = math.copysign(1, sum(above))
        return [(sign * value, 1) for value in above]
    return [(-a, b) for a, b in side] if figure.better == "more" else list(side)


def finite(data: Any) -> Any:
    """Plain data with None for NaN and infinity, which JSON does not have."""
    if isinstance(data, Mapping):
        return {name: finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def as_json(sentences: Sequence[Sentence]) -> dict[str, Any]:
    """Figures with intervals, and every sentence by itself."""
    return {
        "figures": {name: vars(interval) for name, interval in summary(figures_of(sentences)).items()},
        "sentences": [
            {
                "text": sentence.text,
                "seconds": round(sentence.wave.shape[1] / sentence.sample_rate, 3),
                "heard": sentence.heard,
                "complaints": list(sentence.complaints),
                **{name: round(a / b, 5) for name, (a, b) in sentence.figures.items() if b},
            }
            for sentence in sentences
        ],
    }
