"""Which epoch is best, told by figures of its sound; what they say of a voice, in words. No networks, no files.

Rules that similarity alone cannot win. The LLM and the flow are judged apart: the LLM by its speech tokens, the flow by
what it makes of the base's. What they are together is judged at the end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from cosyvoice.utils.records import limited
from voice.evaluation import BY_NAME, CAMPPLUS, FAILED_BY, Comparison, Figures, compare, octaves, ratios

JUDGED = 4  # sentences that epochs are judged by, where the base says so many clearly
FEWEST_JUDGED = 2  # and at least, clear or not
CLEAR = 15.0  # nats a second: where the base is less clear it cannot tell who else is

UNREAD = 0.4  # of the base's own clarity: clips that it foresees less from their texts are in no language it knows

# When an epoch is out of the race, beside the base
CLARITY_KEPT = {"llm": 0.85, "flow": 0.75}  # of the base's; bench/ablation.md shows what is heard then
NOISE = 0.05  # cosine by which the mean over two to four sentences differs for no reason
LOST = 0.02  # cosine by which the mean over all sentences must surely be lower to be worth throwing a flow away
SLOWEST, FASTEST = 1.5, 0.7  # of the speaker's own duration
# Changes that the verdict names also where they may be chance
MARKED_CHANGE = 0.15  # of the base's clarity
MARKED_OCTAVES = 1 / 6  # of pace and pitch: two semitones
CLOSER, FURTHER = "closer to the speaker's", "further from the speaker's"
# Signs of overfitting that are named in the log
RECITED_SEC, HURRIED, SILENCE_SEC = 1.0, 0.85, 1.0
MUCH_MORE = 1.5  # times the base's


@dataclass(frozen=True)
class Heard:
    """What one epoch sounded like: all sentences of the base (epoch 0), the judged ones of any other."""

    epoch: int
    figures: list[Figures] = limited(finite=False)


def mean(heard: Sequence[Figures], name: str) -> float:
    """A figure over all sentences that have it; NaN where none has."""
    found = ratios(heard, name)
    return sum(a for a, _ in found) / sum(b for _, b in found) if found else math.nan


def most(heard: Sequence[Figures], name: str) -> float:
    """A figure's highest value in any sentence; 0 where none has it."""
    return max((a / b for a, b in ratios(heard, name)), default=0.0)


def judged_sentences(base: Sequence[Figures]) -> list[int]:
    """Numbers of the first JUDGED sentences that the base says clearly: of these it can tell how clear others are.

    base: all its sentences. The first that are clear and not the clearest: what was picked for its luck looks better
    than any later take, its own second one too. Clear is what has CLEAR, and is not so far below the others as the
    text of a held-out clip is in a language that the base does not know. Only where there are too few the clearest of
    the others join them.
    """

    def clarity(number: int) -> float:
        value = mean([base[number]], "token_clarity")
        return -math.inf if math.isnan(value) else value

    clear_from = max(CLEAR, UNREAD * median(map(clarity, range(len(base)))))
    clear = [number for number in range(len(base)) if clarity(number) >= clear_from][:JUDGED]
    others = sorted(set(range(len(base))) - set(clear), key=clarity, reverse=True)
    return sorted(clear + others[: max(0, FEWEST_JUDGED - len(clear))])


def why_unread(clips_clarity: float, base: Sequence[Figures]) -> str:
    """Why the base's LLM cannot learn from the speaker's clips, "" where it can, or where the base cannot tell.

    clips_clarity: nats a second by which their texts foretell their tokens. base: its own speech. On the mini model the
    clips of two English speakers have 0.63 and 0.71 of it, those of Italian, French and Spanish ones 0.13 to 0.16; but
    an English speaker's clips of more than 10 s, too, have only 0.2 to 0.4.
    """
    spoken = mean(base, "token_clarity")
    if not spoken >= CLEAR or not clips_clarity < UNREAD * spoken:
        return ""
    return (
        f"the texts tell the base model little about the clips ({clips_clarity:.0f} nats/s, {spoken:.0f} about its own "
        "speech): it does not know their language, or they say something else, or they are too long for it"
    )


def kept_clarity(heard: Sequence[Figures], base: Sequence[Figures], name: str) -> float:
    """Share of the base's "clarity" or "token_clarity" that is left; NaN where the base cannot tell."""
    return mean(heard, name) / mean(base, name) if mean(base, "token_clarity") >= CLEAR else math.nan


def why_out(heard: Sequence[Figures], base: Sequence[Figures], part: str, origin: str = "base model") -> str:
    """Reason to reject this epoch's LLM or flow whatever its loss and similarity; "" if acceptable.

    heard: for the flow the base's tokens in its sound. base: the base's figures of the same sentences."""
    kept = kept_clarity(heard, base, "token_clarity" if part == "llm" else "clarity")
    if kept < CLARITY_KEPT[part]:
        return f"only {kept:.0%} of the {origin}'s intelligibility score remains"
    failed = mean(heard, FAILED_BY[part])
    if failed > mean(base, FAILED_BY[part]):
        return f"{failed:.0%} of the sentences go wrong"
    if part == "flow":
        return ""
    ratio, before = mean(heard, "duration_ratio"), mean(base, "duration_ratio")
    if not FASTEST <= ratio <= SLOWEST and abs(octaves(ratio, 1)) > abs(octaves(before, 1)):
        return f"sentences take {ratio:.2f} of the speaker's own time"
    return ""


def why_alone(together: Sequence[Figures], flow_alone: Sequence[Figures]) -> str:
    """Why the chosen flow is better off with the base's LLM than with the one chosen, "" where it is not.

    Both with all sentences. An LLM whose tokens are clear may still say what the flow makes less of."""
    kept = kept_clarity(together, flow_alone, "clarity")
    if kept < CLARITY_KEPT["llm"]:
        return f"only {kept:.0%} of the intelligibility score without it remains"
    failed = mean(together, "failed")
    return f"{failed:.0%} of the sentences go wrong" if failed > mean(flow_alone, "failed") else ""


def why_further(flow_alone: Sequence[Figures], base: Sequence[Figures]) -> str:
    """Why the base's flow is better than the one chosen, "" where it is not.

    Both with the base's tokens of all sentences: the epochs were told apart by a few, and within their noise."""
    pairs = [(a, b) for a, b in zip(flow_alone, base, strict=True) if CAMPPLUS in a and CAMPPLUS in b]
    gains = {comparison.name: comparison.gain for comparison in compare(flow_alone, base, {})}
    if not pairs or not gains[CAMPPLUS].excludes_zero or gains[CAMPPLUS].value > -LOST:
        return ""
    after, before = (mean(heard, CAMPPLUS) for heard in zip(*pairs, strict=True))
    return f"the timbre is further away (similarity {before:.2f} -> {after:.2f})"


@dataclass
class Choice:
    """The epoch of one part that is the best so far; 0 is what the run started from."""

    epoch: int = 0
    loss: float = math.inf  # on held-out clips, of the epoch where there are none
    similarity: float = -math.inf
    most_similar: float = -math.inf  # of all sound epochs

    def takes(
        self,
        epoch: int,
        heard: Sequence[Figures],
        base: Sequence[Figures],
        part: str,
        loss: float,
        real_similarity: float,
    ) -> bool:
        """Whether the epoch is the new best, and note it.

        It must be sound. A flow must also be as similar to the speaker as any was, or as the speaker's own clips
        (`real_similarity`, NaN where unknown) are, less what is noise. Then the lower loss decides."""
        if why_out(heard, base, part):
            return False
        loss = loss if math.isfinite(loss) else math.inf
        similarity = mean(heard, CAMPPLUS) if part == "flow" else 0.0
        if math.isnan(similarity):  # nothing was to be heard
            return False
        self.most_similar = max(self.most_similar, similarity)
        enough = min(value for value in (self.most_similar, real_similarity) if not math.isnan(value)) - NOISE
        if similarity < enough or self.similarity >= enough and loss >= self.loss:
            return False
        self.epoch, self.loss, self.similarity = epoch, loss, similarity
        return True

    def takes_by_loss(self, epoch: int, loss: float) -> bool:
        """Whether the epoch is the new best by its loss alone, and note it."""
        if not loss < self.loss:
            return False
        self.epoch, self.loss = epoch, loss
        return True


# ---- overfitting ----------------------------------------------------------------------------------------------------


def overfit_signs(heard: Sequence[Figures], base: Sequence[Figures], max_silence_sec: float) -> dict[str, str]:
    """Signs of overfitting that users report, each with what it is and what to do."""
    earlier = "stop the LLM earlier (raise stop.llm_loss)"
    run_on, ratio = mean(heard, "run_on"), mean(heard, "duration_ratio")
    recited, recited_before = most(heard, "recited_sec"), most(base, "recited_sec")
    silence, silence_before = most(heard, "silence_sec"), most(base, "silence_sec")
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


@dataclass(frozen=True)
class Told:
    """How the verdict tells of one figure."""

    name: str
    what: str
    better: str
    worse: str
    marked: float  # change that is named also where it may be chance: of a cosine, a share of the base's, or octaves
    shown: str  # such a change: the base's mean, the new one, their ratio


TOLD = (
    Told(CAMPPLUS, "timbre", "clearly closer", "further away", NOISE, "similarity {0:.2f} -> {1:.2f}"),
    Told("clarity", "intelligibility", "better", "worse", MARKED_CHANGE, "{2:.0%} of the {3}'s intelligibility score"),
    Told("duration_ratio", "pace", CLOSER, FURTHER, MARKED_OCTAVES, "{0:.2f} -> {1:.2f} of the speaker's own time"),
    Told("f0_hz", "pitch", CLOSER, FURTHER, MARKED_OCTAVES, "{0:.0f} -> {1:.0f} Hz"),
)


def told(figure: Told, comparison: Comparison, before: float, after: float, origin: str) -> str:
    """What became of one figure, from the base's mean to the new one. origin: what the base is called."""
    gain = comparison.gain.value
    word = figure.better if gain > 0 else figure.worse
    if comparison.gain.excludes_zero:
        return f"{figure.what} {word}"
    near = BY_NAME[figure.name].better == "near"
    ratio = after / before if before > 0 else 1.0
    moved = abs(octaves(ratio, 1)) if near else abs(gain) if figure.name == CAMPPLUS else abs(ratio - 1)
    if moved < figure.marked:
        return f"{figure.what} unchanged"
    shown = figure.shown.format(before, after, ratio, origin)
    if near and abs(gain) < figure.marked / 2:
        return f"{figure.what} as far from the speaker's as before ({shown})"
    return f"{figure.what} perhaps {word.removeprefix('clearly ')} ({shown})"


def verdict(
    comparisons: Sequence[Comparison], heard: Sequence[Figures], base: Sequence[Figures], origin: str = "base"
) -> str:
    """Better or not, in one sentence."""
    found = {comparison.name: comparison for comparison in comparisons}
    words = [
        told(figure, found[figure.name], mean(base, figure.name), mean(heard, figure.name), origin)
        for figure in TOLD
        if figure.name in found
    ]
    wrong = round(sum(sentence["failed"][0] for sentence in heard))
    run_on = round(sum(sentence["run_on"][0] for sentence in heard))
    words.append(f"{run_on} of {len(heard)} run on" if run_on else "no run-ons")
    words += [f"{wrong} of {len(heard)} go wrong"] if wrong > run_on else []
    more = f"; {len(heard)} sentences are too few to be sure; run evaluate_joint.py --sentences FILE with more"
    return ", ".join(words) + (more if any("perhaps" in word for word in words) else "")


def compared(heard: Sequence[Figures], base: Sequence[Figures], own_hz: float | None) -> list[Comparison]:
    """Each figure beside the base's, sentence by sentence. own_hz: the speaker's pitch; None: not known."""
    targets = {"duration_ratio": 1.0} if own_hz is None else {"duration_ratio": 1.0, "f0_hz": own_hz}
    return compare(heard, base, targets)


def means(heard: Sequence[Figures]) -> Mapping[str, float]:
    """Every figure's mean, by name."""
    names = dict.fromkeys(name for sentence in heard for name in sentence)
    return {name: mean(heard, name) for name in names}
