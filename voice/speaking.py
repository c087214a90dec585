"""Speech from texts: sentence by sentence or many at once, and the guard against runaway."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from common.files import atomic_path
from common.terminal import shown
from config import InferenceConfig, UserError
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.cli.model import CosyVoiceModel
from cosyvoice.llm.llm import Utterance
from cosyvoice.utils.common import MEL_BINS
from text.languages import without_tags
from voice.loading import Voice
from voice.runaway import listen, loop_seconds
from voice.segments import pieces

BATCH = 16  # segments that the language model speaks at once: 5 times the tokens a second of one by one on 2 cores
LENGTH_SLACK_SEC = 1.0  # on top of the expected duration: short texts vary most


@dataclass(frozen=True)
class Speech:
    """Sound of one segment or of several, (1, N) at the model's rate, and what the guard has against it."""

    wave: Tensor
    complaints: list[str]
    tokens: tuple[int, ...] = ()
    ended: bool = False  # by itself, not at a limit
    attempts: int = 1


class Speaker:
    """Text in, checked sound out, with one model and one voice."""

    def __init__(
        self,
        model: CosyVoiceModel,
        frontend: CosyVoiceFrontEnd,
        voice: Voice,
        limits: InferenceConfig,
        speed: float = 1.0,
    ) -> None:
        self.model, self.frontend, self.voice, self.limits, self.speed = model, frontend, voice, limits, speed
        self.sample_rate = frontend.config.sample_rate
        self.token_rate_hz = frontend.config.token_rate_hz

    def speak(self, segments: Sequence[str], seed: int) -> Speech:
        """All segments in order, joined without pause."""
        return self.speak_texts([segments], seed)[0]

    def speak_texts(
        self, texts: Sequence[Sequence[str]], seed: int, heard: Callable[[], object] = lambda: None
    ) -> list[Speech]:
        """Each text, given as its segments, as one speech; together they take less time than one by one.

        heard: called as the first sound of each segment is there."""
        segments = [segment for text in texts for segment in text]
        batches = [segments[start : start + BATCH] for start in range(0, len(segments), BATCH)]
        spoken = iter([speech for batch in batches for speech in self.speak_segments(batch, seed, heard)])
        return [joined(segments, list(islice(spoken, len(segments)))) for segments in texts]

    def speak_segments(
        self, segments: Sequence[str], seed: int, heard: Callable[[], object] = lambda: None
    ) -> list[Speech]:
        """Each segment; after a runaway the next seeds are tried, and the least bad attempt is kept."""
        attempts: list[list[Speech]] = [[] for _ in segments]
        for retry in range(self.limits.max_retries + 1):
            failed = [number for number, tried in enumerate(attempts) if not tried or tried[-1].complaints]
            spoken = self.attempt([segments[number] for number in failed], seed + retry)
            for number, speech in zip(failed, spoken, strict=True):
                attempts[number].append(speech)
                if not retry:
                    heard()
        return [least_bad(segment, tried) for segment, tried in zip(segments, attempts, strict=True)]

    def attempt(self, segments: Sequence[str], seed: int) -> Iterator[Speech]:
        """One try at each segment, in order and all with one seed: first the tokens of all, then sound by sound."""
        return self.sounds(self.said(segments, seed), seed)

    def said(self, segments: Sequence[str], seed: int) -> list[Utterance]:
        """Each segment with its speech tokens, in order and all with one seed.

        They are those that it would have by itself, up to the rounding of products of more rows."""
        torch.manual_seed(seed)
        utterances = [self.utterance(segment) for segment in segments]
        by_length = sorted(utterances, key=lambda utterance: len(utterance.text))
        for start in range(0, len(by_length), BATCH):
            self.model.llm.inference_batch(by_length[start : start + BATCH], self.voice.embedding)
        return utterances

    def sounds(self, utterances: Sequence[Utterance], seed: int) -> Iterator[Speech]:
        """The sound of each, with the noise that follows its tokens in the random numbers of the seed."""
        for utterance in utterances:
            torch.manual_seed(seed)
            torch.set_rng_state(utterance.random_state)  # on from where the tokens left it
            yield self.sound(utterance)

    def utterance(self, segment: str) -> Utterance:
        """What the language model is to do for a segment; it draws from the generator as it stands."""
        text = torch.tensor(self.frontend.text_tokens(segment), dtype=torch.int32)
        limits = self.limits.min_token_text_ratio, self.limits.max_token_text_ratio
        fewest, most = self.model.llm.limits(len(text), *limits)
        return Utterance(text, fewest, min(most, self.longest(len(text))), torch.get_rng_state())

    def sound(self, utterance: Utterance) -> Speech:
        """The sound of an utterance's tokens, and what the guard has against it."""
        tokens, n_text, complaints = utterance.tokens, len(utterance.text), []
        if not tokens:
            return Speech(torch.zeros(1, 0), ["no speech"])
        if len(tokens) >= self.longest(n_text):
            complaints.append(f"longer than {self.longest(n_text) / self.token_rate_hz:.1f} s, cut there")
        elif not utterance.stopped_by_eos:
            complaints.append("did not end by itself")
        if len(tokens) < self.shortest(n_text):
            complaints.append(f"only {len(tokens) / self.token_rate_hz:.1f} s, too short for its text")
        if (looped := loop_seconds(tokens, self.token_rate_hz)) > self.limits.max_silence_sec:
            complaints.append(f"repeats itself for {looped:.1f} s")
        empty = torch.zeros(1, 0, dtype=torch.int32)
        wave = self.model.token2wav(
            torch.tensor([tokens], dtype=torch.int32),
            empty,
            torch.zeros(1, 0, MEL_BINS),
            self.voice.embedding,
            uuid="",
            finalize=True,
            speed=self.speed,
            n_timesteps=self.limits.flow_steps,
            solver=self.limits.flow_solver,
        )
        if not wave.isfinite().all():  # half precision may overflow; a file would hold it as one loud constant
            complaints.append("no sound")
            wave = wave.nan_to_num(0, 0, 0)
        else:
            complaints += listen(wave, self.sample_rate, self.limits.max_silence_sec / self.speed)
        return Speech(wave, complaints, tuple(tokens), utterance.stopped_by_eos)

    def shortest(self, n_text_tokens: int) -> float:
        """Speech tokens below which a segment counts as cut short; 0 where the voice's rate is unknown."""
        if self.voice.seconds_per_text_token is None:
            return 0.0
        expected = n_text_tokens * self.voice.seconds_per_text_token
        return (expected / self.limits.max_duration_ratio - LENGTH_SLACK_SEC / 2) * self.token_rate_hz

    def longest(self, n_text_tokens: int) -> float:
        """Speech tokens after which a segment counts as run away; no limit where the voice's rate is unknown."""
        if self.voice.seconds_per_text_token is None:
            return math.inf
        expected = n_text_tokens * self.voice.seconds_per_text_token
        return round((self.limits.max_duration_ratio * expected + LENGTH_SLACK_SEC) * self.token_rate_hz)


def least_bad(segment: str, attempts: Sequence[Speech]) -> Speech:
    """The attempt with the fewest complaints, the shortest among equals; says so where there was more than one.

    UserError where none gave any speech."""
    if not any(speech.wave.shape[1] for speech in attempts):
        raise UserError(f"'{segment}': the model gives no speech; raise inference.max_token_text_ratio")
    chosen = min(attempts, key=lambda speech: (not speech.wave.shape[1], len(speech.complaints), speech.wave.shape[1]))
    if len(attempts) > 1:
        outcome = "still not right, the least bad one is kept" if chosen.complaints else "fine now"
        tried = f"{len(attempts) - 1} other seed{'s' * (len(attempts) > 2)}"
        reasons = "; ".join(attempts[0].complaints)
        print(f"'{shown(segment)}' went wrong ({reasons}); tried {tried}: {outcome}", flush=True)
    return replace(chosen, attempts=len(attempts))


def joined(segments: Sequence[str], spoken: Sequence[Speech]) -> Speech:
    """The speeches of a text's segments as one, without pause."""
    complaints = [
        f"'{segment}': {complaint}"
        for segment, speech in zip(segments, spoken, strict=True)
        for complaint in speech.complaints
    ]
    return Speech(
        torch.cat([speech.wave for speech in spoken], dim=1),
        complaints,
        tokens=tuple(chain.from_iterable(speech.tokens for speech in spoken)),
        ended=all(speech.ended for speech in spoken),
        attempts=max(speech.attempts for speech in spoken),
    )


def speakable(frontend: CosyVoiceFrontEnd, text: str) -> list[str]:
    """Normalised segments of a text, none too long to speak in one go, that hold something readable besides tags.

    [] where nothing can be spoken."""
    segments = [piece for segment in normalized(frontend, text) for piece in pieces(segment)]
    return [segment for segment in segments if is_readable(frontend, segment)]


def normalized(frontend: CosyVoiceFrontEnd, text: str) -> list[str]:
    """Normalised segments of a text that hold a letter or digit besides tags, whether the model can read it or not."""
    if not text.isprintable() and any(0xD800 <= ord(char) < 0xE000 for char in text):
        raise UserError("the text holds bytes that are not UTF-8; type it again or use --text-file with a UTF-8 file")
    segments = frontend.text_normalize(text, split=True)
    return [segment for segment in segments if any(map(str.isalnum, without_tags(segment)))]


def is_readable(frontend: CosyVoiceFrontEnd, segment: str) -> bool:
    """Whether a letter or digit is left besides tags and letters that the model cannot read."""
    unknown = unreadable(frontend, segment)
    return any(char.isalnum() and char not in unknown for char in without_tags(segment))


def unreadable(frontend: CosyVoiceFrontEnd, text: str) -> list[str]:
    """The letters of a text that the tokenizer does not know, each once; [] for a tokenizer that knows all."""
    unknown_id = getattr(frontend.tokenizer, "unknown_id", None)
    if unknown_id is None:
        return []
    letters = dict.fromkeys(filter(str.isalpha, without_tags(text)))
    return [letter for letter in letters if unknown_id in frontend.text_tokens(letter)]


def write_audio(path: Path, wave: Tensor, sample_rate: int) -> None:
    """16-bit sound file under its final name only when complete."""
    samples, sound = wave[0].clamp(-1, 1).numpy(), io.BytesIO()
    soundfile.write(sound, samples, sample_rate, format=path.suffix[1:].upper(), subtype="PCM_16")
    with atomic_path(path) as part:
        part.write_bytes(sound.getbuffer())  # not by soundfile, which would not say why a write failed
