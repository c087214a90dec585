"""A voice heard while it is trained: a few texts with fixed seeds, cheap figures, what they say about each epoch.

Which epoch is best is told by the sound, with rules that similarity alone cannot win. The LLM and the flow are judged
apart: the LLM by its speech tokens, the flow by what it makes of them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from config import InferenceConfig
from cosyvoice.cli.frontend import MIN_SPEAKER_SAMPLES, CosyVoiceFrontEnd, resample
from cosyvoice.cli.model import CosyVoiceModel
from dataset import Clip
from evaluation import (
    CAMPPLUS,
    EAR_RATE,
    Clarity,
    Comparison,
    Part,
    Sentence,
    cheap_parts,
    compare,
    length_parts,
    octaves,
    shipped_list,
    unit_mean,
)
from llm_flow_model import JointModel, adapters_in_eval
from runaway import loop_seconds
from speaking import Speaker, Speech, Voice, joined, speakable
from text_check import STRANGERS
from utils import read_lines
from voice_metrics import cosine, recited_tokens

CANDIDATES = 4  # sentences that epochs may be judged by, every other one a held-out clip's own
FEWEST_JUDGED = 2  # of them, at least, tell which epoch is best
SHORTEST_TEXT_SEC = 1.5  # a held-out clip under this is no sentence
SEED = 1
CLEAR = 15.0  # nats a second: where the base is less clear it cannot tell who else is

# When an epoch is out of the race, beside the base
CLARITY_KEPT = {"llm": 0.85, "flow": 0.75}  # of the base's; docs/ablation.md shows what is heard then
NOISE = 0.05  # cosine by which the mean over two to four sentences differs for no reason
SLOWEST, FASTEST = 1.5, 0.7  # of the speaker's own duration
MARKED_CHANGE = 0.15  # of the base's clarity: named in the verdict also where it may be chance
# Signs of overfitting that are named in the log
RECITED_SEC, HURRIED, SILENCE_SEC = 1.0, 0.85, 1.0
MUCH_MORE = 1.5  # times the base's

Hearing = list[dict[str, Part]]  # figures of one epoch, one dict a sentence


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
    own = list(dict.fromkeys(texts))[: CANDIDATES // 2]
    shipped = map(str.strip, read_lines(shipped_list([clip.text for clip in (*clips, *held_out)])))
    lines = [line for line in shipped if line and line not in {*trained, *own}]
    for number, line in enumerate(own):
        lines.insert(2 * number, line)
    spoken = []
    for line in lines[:count]:
        segments = tuple(speakable(frontend, line))
        tokens = torch.tensor(frontend.text_tokens("".join(segments)), dtype=torch.int32)
        spoken += [Text(line, segments, tokens)] if segments else []
    return spoken


class Audition:
    """Speaks the texts with the networks as they stand in training, and measures what is heard."""

    def __init__(
        self,
        model: JointModel,
        hift: nn.Module,
        frontend: CosyVoiceFrontEnd,
        clips: Sequence[Clip],
        held_out: Sequence[Clip],
        voice: Voice,
        limits: InferenceConfig,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        count: int = CANDIDATES,
    ) -> None:
        """model: with both networks, trained or not. clips: those trained on. voice: mean vector and pace.

        count: sentences that the base and the merged voice speak; epochs are judged by the first CANDIDATES.

        autocast: gives the precision of LLM and flow; ears and vocoder are float32."""
        self.networks, self.frontend, self.device, self.autocast = model, frontend, device, autocast
        self.texts = choose_texts(clips, held_out, frontend, count)
        self.centre = unit_mean([clip.utt_embedding for clip in clips])
        real = [cosine(clip.utt_embedding, self.centre) for clip in held_out]
        self.real_similarity = sum(real) / len(real) if real else math.nan  # of clips that are not trained on
        self.trained_tokens = [clip.speech_token.tolist() for clip in clips]
        strangers = [clip.text_token for clip in clips[: STRANGERS + 1]]
        self.clarity = Clarity(model.llm, frontend, self.centre, strangers, autocast)
        with self.all_in_eval():  # the constructor switches to eval mode for good
            self.speaker = Speaker(CosyVoiceModel(model.llm, model.flow, hift, device), frontend, voice, limits)

    def all_in_eval(self, adapters: bool = True) -> ExitStack:
        """Within it no dropout acts; with adapters=False the networks are the base."""
        stack = ExitStack()
        for network in (self.networks.llm, self.networks.flow):
            stack.enter_context(adapters_in_eval(network, adapters))
        return stack

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
        adapters: bool = True,
        between: Callable[[], None] = lambda: None,
    ) -> list[Sentence]:
        """The sentences of these numbers (None: all) as they sound now.

        Training goes on as if nothing was spoken: its steps seed what they draw. between: called before each sound, may
        raise. adapters=False: the base."""
        texts = self.texts if numbers is None else [self.texts[number] for number in numbers]
        with self.all_in_eval(adapters), self.autocast(), self.graphs():
            spoken = self.speak(texts, between)
        with self.all_in_eval(adapters=False):
            return [self.measured(text, speech) for text, speech in zip(texts, spoken, strict=True)]

    def speak(self, texts: Sequence[Text], between: Callable[[], None]) -> list[Speech]:
        """Each text, its segments joined, without a second try."""
        between()
        pieces = []
        for piece in self.speaker.attempt([segment for text in texts for segment in text.segments], SEED):
            pieces.append(piece)
            between()
        sounds = iter(pieces)
        return [whole(text, list(islice(sounds, len(text.segments)))) for text in texts]

    def measured(self, text: Text, speech: Speech) -> Sentence:
        """What can be told without a recogniser; adapters must be off: the base judges how clear the speech is."""
        parts = length_parts(self.speaker, text.segments, speech)
        looped = loop_seconds(speech.tokens, self.speaker.token_rate_hz) > self.speaker.limits.max_silence_sec
        misled = bool(parts["run_on"][0] or parts["early_stop"][0] or looped)
        parts["failed_tokens"] = (float(misled), 1)
        parts["failed_sound"] = (float(bool(speech.complaints) and not misled), 1)
        parts["failed"] = (float(misled or bool(speech.complaints)), 1)
        recited = recited_tokens(speech.tokens, self.trained_tokens)
        parts["recited_sec"] = (recited / self.speaker.token_rate_hz, 1)
        wave = resample(speech.wave, self.speaker.sample_rate, EAR_RATE)
        parts |= self.clarity.parts(text.tokens, speech.tokens, wave)
        if wave.shape[1] >= MIN_SPEAKER_SAMPLES:
            vectors = {CAMPPLUS: self.frontend.speaker_vector(wave)}
            parts |= cheap_parts(speech.wave, self.speaker.sample_rate, speech.tokens, vectors, {CAMPPLUS: self.centre})
        return Sentence(text.text, speech.wave, self.speaker.sample_rate, parts, complaints=tuple(speech.complaints))


def whole(text: Text, pieces: Sequence[Speech]) -> Speech:
    """A text's segments as one speech; "no sound" where a wave holds anything but numbers."""
    speech = joined(text.segments, pieces)
    wave = speech.wave.float()
    broken = [] if wave.isfinite().all() else ["no sound"]
    return replace(speech, wave=wave.nan_to_num(0, 0, 0), complaints=[*broken, *speech.complaints])


# ---- which epoch is best --------------------------------------------------------------------------------------------


def mean(hearing: Hearing, name: str) -> float:
    """A figure over all sentences that have it; NaN where none has."""
    parts = [sentence[name] for sentence in hearing if name in sentence]
    return sum(a for a, _ in parts) / sum(b for _, b in parts) if parts else math.nan


def most(hearing: Hearing, name: str) -> float:
    """A figure's highest value in any sentence; 0 where none has it."""
    return max((sentence[name][0] / sentence[name][1] for sentence in hearing if name in sentence), default=0.0)


def judged_sentences(base: Hearing) -> list[int]:
    """Numbers of the candidates that the base says clearly, for of these it can tell how clear others are.

    base: all its sentences. All candidates from CLEAR up; the clearest where they are fewer than FEWEST_JUDGED. Not
    the best few of many: what was picked for its luck looks better than any later take, its own second one too.
    """

    def clarity(number: int) -> float:
        value = mean([base[number]], "token_clarity")
        return -math.inf if math.isnan(value) else value

    clearest_first = sorted(range(len(base[:CANDIDATES])), key=clarity, reverse=True)
    clear = sum(clarity(number) >= CLEAR for number in clearest_first)
    return sorted(clearest_first[: max(clear, FEWEST_JUDGED)])


def kept_clarity(hearing: Hearing, base: Hearing, part: str) -> float:
    """Share of the base's clarity that is left; NaN where it cannot be told.

    LLM: of its tokens. flow: of how much of the tokens' clarity reaches the sound."""
    tokens = [mean(side, "token_clarity") for side in (hearing, base)]
    if not tokens[1] >= CLEAR:
        return math.nan
    if part == "llm":
        return tokens[0] / tokens[1]
    sound = [mean(side, "clarity") for side in (hearing, base)]
    return (sound[0] / tokens[0]) / (sound[1] / tokens[1])


def why_out(hearing: Hearing, base: Hearing, part: str) -> str:
    """Why an epoch's LLM or flow is not to be had however similar or low in loss it is, "" for a sound one.

    base: the base's figures of the same sentences."""
    kept = kept_clarity(hearing, base, part)
    if kept < CLARITY_KEPT[part]:
        return f"{kept:.0%} of the base's clarity is left"
    name = "failed_tokens" if part == "llm" else "failed_sound"
    failed = mean(hearing, name)
    if failed > mean(base, name):
        return f"{failed:.0%} of the sentences go wrong"
    if part == "flow":
        return ""
    ratio, before = mean(hearing, "duration_ratio"), mean(base, "duration_ratio")
    if not FASTEST <= ratio <= SLOWEST and octaves(ratio, 1) > octaves(before, 1):
        return f"sentences take {ratio:.2f} of the speaker's own time"
    return ""


@dataclass
class Choice:
    """The epoch of one part that is the best so far; 0 is the base."""

    epoch: int = 0
    loss: float = math.inf  # on held-out clips, of the epoch where there are none
    similarity: float = -math.inf
    most_similar: float = -math.inf  # of all sound epochs

    def takes(
        self, epoch: int, hearing: Hearing, base: Hearing, part: str, loss: float, real_similarity: float
    ) -> bool:
        """Whether the epoch is the new best, and note it.

        It must be sound. A flow must also be as similar to the speaker as any was, or as the speaker's own clips
        (`real_similarity`, NaN where unknown) are, less what is noise. Then the lower loss decides."""
        if why_out(hearing, base, part):
            return False
        loss = loss if math.isfinite(loss) else math.inf
        similarity = mean(hearing, CAMPPLUS) if part == "flow" else 0.0
        if math.isnan(similarity):  # nothing was to be heard
            return False
        self.most_similar = max(self.most_similar, similarity)
        enough = min(value for value in (self.most_similar, real_similarity) if not math.isnan(value)) - NOISE
        if similarity < enough or self.similarity >= enough and loss >= self.loss:
            return False
        self.epoch, self.loss, self.similarity = epoch, loss, similarity
        return True


# ---- overfitting ----------------------------------------------------------------------------------------------------


def overfit_signs(hearing: Hearing, base: Hearing, max_silence_sec: float) -> dict[str, str]:
    """Signs of overfitting that users report, each with what it is and what to do."""
    earlier = "stop the LLM earlier (raise stop.llm_loss)"
    run_on, ratio = mean(hearing, "run_on"), mean(hearing, "duration_ratio")
    recited, recited_before = most(hearing, "recited_sec"), most(base, "recited_sec")
    silence, silence_before = most(hearing, "silence_sec"), most(base, "silence_sec")
    found = {}
    if run_on > mean(base, "run_on"):
        found["speaks on after the text"] = (
            f"in {run_on:.0%} of the sentences; look in data/report.html for clips that are cut off, or {earlier}"
        )
    if recited >= RECITED_SEC and recited > MUCH_MORE * recited_before:
        found["training text recited"] = (
            f"{recited:.1f} s are a training clip's, token by token; {earlier}, or lower llm_lora.lora_r"
        )
    if ratio < HURRIED * min(1.0, mean(base, "duration_ratio")):
        found["drifts faster"] = (
            f"sentences take {ratio:.2f} of the speaker's own time; {earlier}, or lower learning_rate"
        )
    if silence > max(min(max_silence_sec, SILENCE_SEC), MUCH_MORE * silence_before):
        found["long silences"] = f"{silence:.1f} s; trim the clips (prepare_joint_data.py --fix), or {earlier}"
    return found


# ---- words ----------------------------------------------------------------------------------------------------------


def unproven(word: str, comparison: Comparison, value: float) -> str:
    """A change, to `value`, that so few sentences do not prove: told, by the word for it, where it is not small."""
    gain = comparison.gain.value
    before = value - gain
    if comparison.name == CAMPPLUS and abs(gain) >= NOISE:
        change = f"similarity {before:.2f} -> {value:.2f}"
    elif comparison.name == "clarity" and before > 0 and abs(gain) >= MARKED_CHANGE * before:
        change = f"{value / before:.0%} of the base's clarity"
    else:
        return "unchanged"
    return f"perhaps {word.removeprefix('clearly ')} ({change})"


def verdict(comparisons: Sequence[Comparison], hearing: Hearing) -> str:
    """Better or not, in one sentence."""
    found = {comparison.name: comparison for comparison in comparisons}
    words = []
    for name, what, better, worse in (
        (CAMPPLUS, "timbre", "clearly closer", "further away"),
        ("clarity", "intelligibility", "better", "worse"),
        ("duration_ratio", "pace", "closer to the speaker's", "further from the speaker's"),
    ):
        if name in found:
            gain = found[name].gain
            word = better if gain.value > 0 else worse
            words.append(f"{what} {word if gain.excludes_zero else unproven(word, found[name], mean(hearing, name))}")
    wrong = round(sum(sentence["failed"][0] for sentence in hearing))
    run_on = round(sum(sentence["run_on"][0] for sentence in hearing))
    words.append(f"{run_on} of {len(hearing)} run on" if run_on else "no run-ons")
    words += [f"{wrong} of {len(hearing)} go wrong"] if wrong > run_on else []
    more = f"; {len(hearing)} sentences prove little, evaluate_joint.py hears more"
    return ", ".join(words) + (more if any("perhaps" in word for word in words) else "")


def as_sentences(hearing: Hearing) -> list[Sentence]:
    """Stored figures as sentences without sound, for comparisons."""
    return [Sentence("", torch.zeros(1, 0), EAR_RATE, dict(parts)) for parts in hearing]


def compared(hearing: Hearing, base: Hearing) -> list[Comparison]:
    """Each figure beside the base's, sentence by sentence."""
    return compare(as_sentences(hearing), as_sentences(base), {"duration_ratio": 1.0})


def plain(sentences: Sequence[Sentence]) -> Hearing:
    """The figures alone, as they are stored."""
    return [{name: (float(a), float(b)) for name, (a, b) in sentence.parts.items()} for sentence in sentences]


def means(hearing: Hearing) -> Mapping[str, float]:
    """Every figure's mean, by name."""
    names = dict.fromkeys(name for sentence in hearing for name in sentence)
    return {name: mean(hearing, name) for name in names}
