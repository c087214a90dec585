"""The evaluation as one self-contained HTML page: the verdict, a chart, and every sentence with its players."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import soundfile

from clips.waveform import HEIGHT, POINTS, heights, outline
from pages.render import render
from voice.evaluation import (
    BY_NAME,
    CAMPPLUS,
    FIGURES,
    GE2E,
    Comparison,
    Figure,
    Sentence,
    figures_of,
    in_words,
    shown,
    summary,
)
from voice.metrics import Interval, position

REAL, REAL_SHOWN = "real clips, held out", 3
CHART = ("wer", "clarity", CAMPPLUS, GE2E, "duration_ratio", "f0_hz", "f0_spread", "failed")
MARGIN = 0.06  # of a chart's row, on both sides
NO_DIFFERENCE = "no clear difference"
MEANING = {  # of metrics whose title does not say it
    "wer": "by a speech recogniser",
    "clarity": "how much likelier the right text makes the speech than other texts, nats/s",
    CAMPPLUS: "cosine of speaker vectors",
}
HELP = (
    "Each dot is the mean over the sentences; its line bounds the mean with 95 % confidence. Two systems are compared "
    "sentence by sentence, so they may differ clearly although their lines overlap.",
    "Intelligibility score: how much likelier the right text makes the speech than other texts do, judged by the "
    "untouched base model (a log-likelihood ratio in nats per second). It compares systems on the same sentences only.",
    "Similarity to the speaker: cosine between the speaker vector of a sentence and the mean of the speaker's clips. "
    "Real clips do not reach 1 either: theirs is the value to compare with.",
    "Speaking rate: how long the sentences take, divided by what the speaker would take for them.",
    "Degenerate output: sentences that run on after the text, stop early, loop, or fall silent.",
)


@dataclass(frozen=True)
class Aspect:
    """What the verdict speaks of, and the figures that tell it."""

    figures: tuple[str, ...]
    better: str
    worse: str
    same: str


ASPECTS = (
    Aspect((CAMPPLUS, GE2E), "more like the speaker", "less like the speaker", "not clearly closer to the speaker"),
    Aspect(("wer", "clarity"), "easier to understand", "harder to understand", "as easy to understand"),
    Aspect(("failed",), "less often degenerate", "more often degenerate", ""),
)


@dataclass(frozen=True)
class Verdict:
    """One system against the first."""

    tone: str  # good, fair or bad
    words: str


@dataclass(frozen=True)
class Dot:
    """One system in a row of the chart; places in percent of its width."""

    system: int  # number; -1 the real clips
    name: str
    value: str
    low: str
    high: str
    at: float
    start: float
    end: float
    verdict: str  # against the first system; "" for the first and for real clips


@dataclass(frozen=True)
class Row:
    """One metric of the chart."""

    title: str
    hint: str  # what the number is
    better: str  # more, less or near
    dots: list[Dot]
    left: str  # values at both ends
    right: str
    target: float | None  # place of the speaker's own value


@dataclass(frozen=True)
class Take:
    """One sentence by one system."""

    name: str
    system: int
    sound: str  # data URI
    seconds: float
    path: str  # waveform
    heard: str | None
    complaints: tuple[str, ...]


def page(
    title: str,
    spoken: Mapping[str, Sequence[Sentence]],
    real: Sequence[Sentence],
    comparisons: Mapping[str, Sequence[Comparison]],
    targets: Mapping[str, float],
    notes: str,
) -> str:
    """The page. spoken: the same sentences by each system. real: clips of the speaker, may be empty.

    comparisons: of every system but the first with the first, by name. targets: the speaker's own values. notes: lines
    about what was compared.
    """
    everything = spoken | ({REAL: real} if real else {})
    found = {name: summary(figures_of(sentences)) for name, sentences in everything.items()}
    same_text = {sentence.text: sentence for sentence in real}
    texts = [sentence.text for sentence in next(iter(spoken.values()))]
    return render(
        "evaluation.html",
        title=title,
        verdicts=verdicts(spoken, comparisons),
        facts=facts(found, spoken),
        systems=list(everything),
        spoken=list(spoken),
        chart=chart(found, comparisons, targets),
        sentences=[
            (text, row + ([take(REAL, -1, same_text[text])] if text in same_text else []))
            for text, row in zip(texts, by_sentence(spoken), strict=True)
        ],
        real=[(clip.text, take(REAL, -1, clip)) for clip in real if clip.text not in texts][:REAL_SHOWN],
        table=table(found),
        comparisons={
            name: [(BY_NAME[one.name].title, difference(one)) for one in compared]
            for name, compared in comparisons.items()
        },
        first=next(iter(spoken)),
        help=HELP,
        notes=notes.splitlines(),
        height=HEIGHT,
        points=POINTS,
    )


# ---- verdict ---------------------------------------------------------------------------------------------------------


def verdicts(
    spoken: Mapping[str, Sequence[Sentence]], comparisons: Mapping[str, Sequence[Comparison]]
) -> list[Verdict]:
    """Each system against the first, in words; of one system alone, that there is nothing to compare it with."""
    first, count = next(iter(spoken)), len(next(iter(spoken.values())))
    if not comparisons:
        return [Verdict("fair", f"{capital(called(first))} alone: there is nothing to compare it with.")]
    return [verdict(called(name), called(first), count, found) for name, found in comparisons.items()]


def verdict(name: str, first: str, count: int, comparisons: Sequence[Comparison]) -> Verdict:
    """Better where it is so in something and worse in nothing."""
    told = {comparison.name: comparison.verdict for comparison in comparisons}
    words: dict[str, list[str]] = {"better": [], "worse": [], "same": []}
    for aspect in ASPECTS:
        known = {told[figure] for figure in aspect.figures if figure in told}
        word = next((word for word in ("worse", "better") if word in known), "same")
        if known and getattr(aspect, word):
            words[word].append(getattr(aspect, word))
    better, worse = listed(words["better"]), listed(words["worse"])
    if better and worse:
        return Verdict("fair", f"{capital(name)} is {better} than {first}, but {worse}.")
    if worse:
        return Verdict("bad", f"{capital(name)} is worse than {first}: {worse}.")
    if better:
        return Verdict("good", f"{capital(name)} is better than {first}: {listed(words['better'] + words['same'])}.")
    return Verdict("fair", f"{count} sentences show no clear difference between {name} and {first}.")


def called(name: str) -> str:
    """A system within a sentence."""
    return {"base": "the base model", "tuned": "the tuned voice"}.get(name, name)


def capital(words: str) -> str:
    """The start of a sentence; names of files stay as they are."""
    return f"T{words[1:]}" if words.startswith("the ") else words


def listed(words: Sequence[str]) -> str:
    """ "a, b and c"; "" for none."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def facts(found: Mapping[str, Mapping[str, Interval]], spoken: Mapping[str, Sequence[Sentence]]) -> list[str]:
    """The figures behind the verdict, a sentence each."""
    first, *others = spoken
    ends = {name: found[name].get(CAMPPLUS) for name in (first, REAL) if name in found}
    lines = [] if ends.get(first) else ["Similarity to the speaker was not measured: that takes the speaker's clips."]
    if ends.get(first) and ends.get(REAL) and ends[first].value < ends[REAL].value:
        for name in others:
            if CAMPPLUS in found[name]:
                share = position(found[name][CAMPPLUS].value, ends[first].value, ends[REAL].value)
                lines.append(
                    f"In similarity {called(name)} has come {share:.0%} of the way from {called(first)} to real clips."
                )
    wrong = {
        name: sum(sentence.figures.get("failed", (0, 1))[0] > 0 for sentence in sentences)
        for name, sentences in spoken.items()
    }
    counts = ", ".join(f"{name}: {number or 'none'}" for name, number in wrong.items())
    return [*lines, f"Degenerate output, of {len(spoken[first])} sentences: {counts}."]


# ---- chart and table -------------------------------------------------------------------------------------------------


def chart(
    found: Mapping[str, Mapping[str, Interval]],
    comparisons: Mapping[str, Sequence[Comparison]],
    targets: Mapping[str, float],
) -> list[Row]:
    """A row for each metric that was measured."""
    rows = [BY_NAME[name] for name in CHART if any(name in figures for figures in found.values())]
    return [chart_row(figure, found, comparisons, targets.get(figure.name)) for figure in rows]


def chart_row(
    figure: Figure,
    found: Mapping[str, Mapping[str, Interval]],
    comparisons: Mapping[str, Sequence[Comparison]],
    target: float | None,
) -> Row:
    """One metric by all systems, on a scale that holds all intervals."""
    target = target if figure.better == "near" else None
    intervals = {name: figures[figure.name] for name, figures in found.items() if figure.name in figures}
    numbers = [number for interval in intervals.values() for number in vars(interval).values()] + [target]
    left, right = scale([number for number in numbers if number is not None and math.isfinite(number)], figure.limits)
    told = {name: difference(one) for name, all_ in comparisons.items() for one in all_ if one.name == figure.name}
    dots = []
    for number, name in enumerate(found):
        interval = intervals.get(name)
        if interval is not None and math.isfinite(interval.value):
            places = (percent(end, left, right) for end in vars(interval).values())
            system = -1 if name == REAL else number
            dots.append(Dot(system, name, *shown(interval, figure.digits), *places, told.get(name, "")))
    title, _, unit = figure.title.partition(", ")
    return Row(
        title,
        MEANING.get(figure.name, unit),
        figure.better,
        dots,
        f"{left:.{figure.digits}f}",
        f"{right:.{figure.digits}f}",
        None if target is None else percent(target, left, right),
    )


def percent(number: float, left: float, right: float) -> float:
    """The place of a number on a scale; what lies beyond, at its end."""
    return round(100 * min(max(position(number, left, right), 0.0), 1.0), 1)


def scale(numbers: Sequence[float], limits: tuple[float, float]) -> tuple[float, float]:
    """Both ends of a row's scale; limits: what the metric can be."""
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    margin = MARGIN * (high - low) or max(abs(high), 1.0) * MARGIN
    return max(low - margin, limits[0]), min(high + margin, limits[1])


def table(found: Mapping[str, Mapping[str, Interval]]) -> list[tuple[str, list[str]]]:
    """Every figure with its interval, by system."""
    return [
        (figure.title, [in_words(figures.get(figure.name), figure.digits) for figures in found.values()])
        for figure in FIGURES
        if any(figure.name in figures for figures in found.values())
    ]


def difference(comparison: Comparison) -> str:
    """The verdict as the page has it."""
    return comparison.verdict if comparison.gain.excludes_zero else NO_DIFFERENCE


# ---- players ---------------------------------------------------------------------------------------------------------


def by_sentence(spoken: Mapping[str, Sequence[Sentence]]) -> list[list[Take]]:
    """For each sentence, how every system says it."""
    columns = [
        [take(name, number, sentence) for sentence in sentences]
        for number, (name, sentences) in enumerate(spoken.items())
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def take(name: str, system: int, sentence: Sentence) -> Take:
    """One sentence by one system: player, waveform, what was heard and what is wrong."""
    sound = f"data:audio/mpeg;base64,{base64.b64encode(mp3(sentence)).decode()}"
    seconds = sentence.wave.shape[1] / sentence.sample_rate
    path = outline(heights(sentence.wave.T.numpy()))
    return Take(name, system, sound, seconds, path, sentence.heard, tuple(sentence.complaints))


def mp3(sentence: Sentence) -> bytes:
    """The sound, small enough for a page that one sends to a friend."""
    file = io.BytesIO()
    soundfile.write(file, sentence.wave[0].clamp(-1, 1).numpy(), sentence.sample_rate, format="MP3")
    return file.getvalue()
