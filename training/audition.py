"""A voice heard while it is trained: a few texts are spoken with fixed seeds, and measured without a recogniser."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

import torch
from torch import Tensor, nn

from checkpoint import PARTS
from common.files import read_lines
from config import InferenceConfig
from cosyvoice.cli.frontend import MIN_SPEAKER_SAMPLES, CosyVoiceFrontEnd
from cosyvoice.cli.model import CosyVoiceModel
from cosyvoice.llm.llm import Utterance
from cosyvoice.utils.audio_files import resample
from cosyvoice.utils.common import EXTRACTOR_RATE
from dataset import Clip
from llm_flow_model import JointModel, adapters_in_eval
from training.selection import JUDGED
from voice.evaluation import (
    CAMPPLUS,
    CLARITY_STRANGERS,
    FAILED_BY,
    Clarity,
    Sentence,
    cheap_figures,
    length_figures,
    shipped_list,
    text_tokens,
    unit_mean,
)
from voice.loading import Voice
from voice.metrics import cosine, in_one_row, recited_tokens
from voice.runaway import loop_seconds
from voice.speaking import Speaker, Speech, joined, speakable

SHORTEST_TEXT_SEC = 1.5  # a held-out clip under this is no sentence
SEED = 1
CLIPS_READ = 8  # of the speaker's, to see whether the base model knows their language


@dataclass(frozen=True)
class Text:
    """A sentence to be spoken: its segments, and its tokens as a whole."""

    text: str
    segments: tuple[str, ...]
    tokens: Tensor  # (L,)


def choose_texts(
    clips: Sequence[Clip], held_out: Sequence[Clip], frontend: CosyVoiceFrontEnd, count: int
) -> list[Text]:
    """At most `count` sentences that are not trained on; clips: those that are.

    The two shortest held-out clips' own and shipped ones in turn, then shipped ones, as many as there are."""
    trained = {clip.text for clip in clips}
    by_length = sorted(held_out, key=lambda clip: clip.duration)
    texts = [clip.text for clip in by_length if clip.duration >= SHORTEST_TEXT_SEC and clip.text not in trained]
    own = list(dict.fromkeys(texts))[: JUDGED // 2]
    shipped = map(str.strip, read_lines(shipped_list([clip.text for clip in (*clips, *held_out)])))
    lines = [line for line in shipped if line and line not in {*trained, *own}]
    for number, line in enumerate(own):
        lines.insert(2 * number, line)
    return read_texts(lines[:count], frontend)


def read_texts(lines: Sequence[str], frontend: CosyVoiceFrontEnd) -> list[Text]:
    """These sentences, without those in which nothing can be spoken."""
    read = [Text(line, tuple(speakable(frontend, line)), text_tokens(frontend, line)) for line in lines]
    return [text for text in read if text.segments]


class Audition:
    """Speaks the texts with the networks as they stand in training, and measures what is heard."""

    def __init__(
        self,
        networks: JointModel,
        hift: nn.Module,
        frontend: CosyVoiceFrontEnd,
        voice: Voice,
        limits: InferenceConfig,
        clips: Sequence[Clip],
        held_out: Sequence[Clip],
        count: int = JUDGED,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        """networks: LLM and flow, trained or not, on one device. voice: mean vector and pace. clips: those trained on.

        count: sentences that the base and the merged voice speak; a few of them judge epochs.
        autocast: gives the precision of LLM and flow; ears and vocoder are float32."""
        self.networks, self.frontend, self.autocast = networks, frontend, autocast
        self.device = next(networks.parameters()).device
        self.texts = choose_texts(clips, held_out, frontend, count)
        self.centre = unit_mean([clip.utt_embedding for clip in clips])
        real = [cosine(clip.utt_embedding, self.centre) for clip in held_out]
        self.real_similarity = sum(real) / len(real) if real else math.nan  # of clips that are not trained on
        self.own_clips = clips
        self.trained_tokens = in_one_row([clip.speech_token.tolist() for clip in clips])
        strangers = [clip.text_token for clip in clips[: CLARITY_STRANGERS + 1]]
        self.clarity = Clarity(networks.llm, frontend, self.centre, strangers, autocast)
        with self.acting(PARTS):  # the constructor switches to eval mode for good
            model = CosyVoiceModel(networks.llm, networks.flow, hift, self.device)
        self.speaker = Speaker(model, frontend, voice, limits)

    def acting(self, trained: Collection[str]) -> ExitStack:
        """Within it these parts are as they were trained, without dropout; the others are as the run started."""
        stack = ExitStack()
        for name in PARTS:
            stack.enter_context(self.networks.acting(name, name in trained))
        return stack

    def judging(self) -> AbstractContextManager:
        """Within it the LLM is the untouched base model's, which judges how clear speech is."""
        return adapters_in_eval(self.networks.llm, active=False)

    @contextmanager
    def graphs(self) -> Iterator[None]:
        """Within it a GPU speaks by CUDA graphs. They go at its end, for training changes what they read."""
        owners = self.networks.llm, self.networks.flow.decoder.estimator
        try:
            for owner in owners:
                owner.use_graphs(torch.is_autocast_enabled(self.device.type))
            yield
        finally:
            for owner in owners:
                owner.drop_graphs()

    def hear(
        self,
        numbers: Sequence[int] | None = None,
        trained: Collection[str] = PARTS,
        between: Callable[[], None] = lambda: None,
    ) -> list[Sentence]:
        """The sentences of these numbers (None: all) as they sound now.

        trained: parts that speak as trained. ("flow",): the first speech tokens in the sound of the flow; (): what the
        run started from. between: called before each sound, may raise. Training goes on as if nothing was spoken: its
        steps seed what they draw."""
        numbers = range(len(self.texts)) if numbers is None else numbers
        between()
        said = self.said(numbers) if "llm" in trained else [self.said_at_start[number] for number in numbers]
        spoken = []
        with self.acting(trained), self.autocast(), self.graphs():
            for number, utterances in zip(numbers, said, strict=True):
                spoken.append(self.sound(self.texts[number], utterances))
                between()
        with self.judging():
            return [self.measured(self.texts[number], speech) for number, speech in zip(numbers, spoken, strict=True)]

    def said(self, numbers: Sequence[int], trained: Collection[str] = PARTS) -> list[list[Utterance]]:
        """The speech tokens of these sentences, segment by segment, without a second try."""
        texts = [self.texts[number] for number in numbers]
        with self.acting(trained), self.autocast(), self.graphs():
            said = iter(self.speaker.said([segment for text in texts for segment in text.segments], SEED))
        return [[next(said) for _ in text.segments] for text in texts]

    @cached_property
    def said_at_start(self) -> list[list[Utterance]]:
        """The speech tokens of all sentences before training: by them one flow is compared with another."""
        return self.said(range(len(self.texts)), trained=())

    def sound(self, text: Text, said: Sequence[Utterance]) -> Speech:
        """A text's segments as one speech."""
        speech = joined(text.segments, list(self.speaker.sounds(said, SEED)))
        return replace(speech, wave=speech.wave.float())

    def clips_clarity(self) -> float:
        """Nats a second by which the texts of the speaker's own clips foretell their speech tokens to the base.

        Of those that are about as long as what the base says: it may know their language and lose itself in long ones.
        """
        usual = median(sum(len(utterance.tokens) for utterance in said) for said in self.said_at_start)
        like_said = sorted(self.own_clips, key=lambda clip: abs(len(clip.speech_token) - usual))[:CLIPS_READ]
        with self.judging():
            found = [self.clarity.of_tokens(clip.text_token, clip.speech_token.tolist()) for clip in like_said]
        return sum(nats for nats, _ in found) / sum(seconds for _, seconds in found)

    def measured(self, text: Text, speech: Speech) -> Sentence:
        """What can be told without a recogniser; adapters must be off: the base judges how clear the speech is."""
        figures = length_figures(self.speaker, text.segments, speech)
        looped = loop_seconds(speech.tokens, self.speaker.token_rate_hz) > self.speaker.limits.max_silence_sec
        misled = bool(figures["run_on"][0] or figures["early_stop"][0] or looped)
        figures[FAILED_BY["llm"]] = (float(misled), 1)
        figures[FAILED_BY["flow"]] = (float(bool(speech.complaints) and not misled), 1)
        figures["failed"] = (float(misled or bool(speech.complaints)), 1)
        recited = recited_tokens(speech.tokens, self.trained_tokens)
        figures["recited_sec"] = (recited / self.speaker.token_rate_hz, 1)
        wave = resample(speech.wave, self.speaker.sample_rate, EXTRACTOR_RATE) if speech.wave.shape[1] else speech.wave
        figures |= self.clarity.figures(text.tokens, speech.tokens, wave)
        if wave.shape[1] >= MIN_SPEAKER_SAMPLES:
            vectors = {CAMPPLUS: self.frontend.speaker_vector(wave)}
            figures |= cheap_figures(
                speech.wave, self.speaker.sample_rate, speech.tokens, vectors, {CAMPPLUS: self.centre}
            )
        return Sentence(text.text, speech.wave, self.speaker.sample_rate, figures, complaints=tuple(speech.complaints))
