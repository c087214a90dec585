"""Data doctor: what is measured in a clip, which flags follow from it, and the report. Pure functions, no files."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.languages import digits_in_english, script, without_tags
from cosyvoice.cli.frontend import MAX_TOKEN_SEC, MIN_SOURCE_RATE

MIN_SEC = 0.5  # shorter clips are dropped, and those over MAX_TOKEN_SEC

# Audio limits. Levels in dB below full scale (dBFS).
FRAME_SEC = 0.02
SILENT_DB = -50.0  # loudest frames below this: nobody speaks
CANCEL_DB = 6.0  # channels together this far below the loudest one's share of the mix: they cancel each other
QUIET_DB = -36.0  # speech normally sits at -25..-12
CLIPPED_SHARE = 5e-4  # samples on a flat top: 8 a second at 16 kHz; clean recordings have none or one short run
DC_OFFSET = 0.02  # mean of the samples, full scale being 1: -34 dBFS, louder than most pauses
FLAT_RUN = 4  # equal extreme samples in a row that make a flat top
EDGE_SILENCE_SEC = 0.7
NOISY_DB = 22.0  # speech level above the level in pauses; clean recordings reach 25-70
ECHO_SEC = 0.15  # in this time after a loud sound
ECHO_DB = 18.0  # the level falls at least so far somewhere in a clip; an echo of 0.8 s keeps it from that
CUT_MARGIN_DB = 12.0  # an outermost frame within this of the clip's speech level lies inside speech
BANDWIDTH_HZ = 5500.0  # telephone audio ends near 4 kHz, speech recorded at 16 kHz at 6.5-8 kHz
BANDWIDTH_DROP_DB = 50.0  # the band ends where the spectrum stays this far below its peak

# Limits of the comparisons between clips. An outlier is further from the median than OUTLIER_MADS robust standard
# deviations (1.4826 * median absolute deviation) and than a floor, so that very even sets raise no false alarm.
OUTLIER_MADS = 4.0
MIN_GROUP = 6  # fewer clips than this have no median worth trusting
RATE_RATIO = 1.6  # floor: characters per second this many times more or fewer than the median
TEXT_HELP_SHARE = 0.25  # a text that helps the LLM less than this share of what texts usually do is not what is said
# Nats per second of speech. Speech carries about 39 bits (27 nats) a second in any language (Coupé et al. 2019): texts
# that usually tell the LLM less are in a language that it does not know, or belong to other clips, all of them. With an
# English model English texts tell it about 50, Italian and French ones 16.
LEAST_TEXT_HELP = 27.0
COSINE_DROP = 0.15  # floor: cosine to the mean of the other clips this far below the median
MINORITY_SHARE = 0.2  # clips in another script than the others are flagged up to this share

# The gravest first. Names are part of data/report.json: add, never rename. The clip's figures fill the sentence.
DROP, WARN = "drop", "warn"
FLAGS: dict[str, tuple[str, str]] = {
    "unreadable": (DROP, "{problem}"),
    "duplicate_name": (DROP, "another audio file of the same name ({used_file}) is used; keep one of them"),
    "duplicate_audio": (DROP, "same recording as {same_as}; delete one"),
    "too_short": (DROP, f"{{duration_sec:.2f}} s; clips of {MIN_SEC:g}-{MAX_TOKEN_SEC} s are used"),
    "too_long": (DROP, f"{{duration_sec:.1f}} s is over {MAX_TOKEN_SEC} s; cut it: the same command with --split"),
    "low_sample_rate": (DROP, f"{{sample_rate}} Hz; record at {MIN_SOURCE_RATE} Hz or more"),
    "channels_cancel": (
        DROP,
        "the channels cancel each other: {channel_db:.0f} dBFS alone, {level_db:.0f} together; export one of them",
    ),
    "near_silent": (DROP, "loudest parts at {level_db:.0f} dBFS; nobody speaks"),
    "missing_text": (DROP, "{text_problem}"),
    "unreadable_text": (DROP, "{text_problem}"),
    "empty_text": (DROP, "the transcript holds nothing that can be spoken"),
    "incomplete": (WARN, "the file ends after {held_sec} s, its header says {header_sec} s; copy or export it again"),
    "other_speaker": (
        WARN,
        "sounds like another speaker or room: cosine {speaker_cosine:.2f} to the others, usual is {usual_cosine:.2f}",
    ),
    "text_audio_mismatch": (
        WARN,
        "the text is probably not what is said: it tells the model {text_help:.0f} nats a second about the sound, "
        "usual is {usual_text_help:.0f}; listen and correct it",
    ),
    "speaking_rate": (
        WARN,
        "text may not match the audio: {chars_per_sec:.1f} characters/s, usual is {usual_chars_per_sec:.1f}; listen",
    ),
    "text_conflict": (WARN, "metadata.csv has another text ('{other_text}'); the .txt file is used"),
    "clipping": (WARN, "{clipped_share:.2%} of the samples lie on a flat top; record with less gain"),
    "cut_off": (WARN, "starts or ends inside speech; teaches wrong endings, cut it at a pause"),
    "edge_silence": (
        WARN,
        "{lead_silence_sec:.1f} s silence before and {trail_silence_sec:.1f} s after the speech; trim to 0.1-0.3 s",
    ),
    "noisy": (WARN, "pauses are only {snr_db:.0f} dB below the speech; noise, music and echo are learned too"),
    "echo": (WARN, "sounds die away slowly ({fall_db:.0f} dB in 0.15 s): echo or music is learned too; record closer"),
    "dc_offset": (WARN, "DC offset of {dc_offset:+.2f} of full scale; --fix removes it"),
    "low_bandwidth": (WARN, "nothing above {bandwidth_hz:.0f} Hz (telephone or strong compression); sounds muffled"),
    "quiet": (WARN, "speech at {level_db:.0f} dBFS; the voice is learned as quiet as this"),
    "digits_left": (WARN, "'{text}': write the digits as words"),
    "digits_in_english": (WARN, "'{text}': digits were read in English; write the numbers as words"),
    "markup_left": (WARN, "'{text}': remove what is not spoken"),
    "duplicate_text": (WARN, "same text as {same_text_as}; fine if really said twice"),
    "language_mix": (WARN, "written in {script}, the others in {usual_script}"),
}


def drops(flags: Iterable[str]) -> bool:
    """Whether a clip with these flags is left out of the training data."""
    return any(FLAGS[name][0] == DROP for name in flags)


@dataclass(frozen=True)
class AudioFigures:
    """What one recording measures at its own sample rate; silences and bandwidth refer to its speech level."""

    duration_sec: float
    sample_rate: int
    channels: int
    peak_db: float  # dBFS
    level_db: float  # 95th percentile of 20 ms frames of the channels' mean, dBFS
    channel_db: float  # the same of the loudest channel alone
    snr_db: float  # level_db above the 5th percentile of the frames: the pauses
    clipped_share: float  # 0..1, of the worst channel
    dc_offset: float  # mean of the samples, of the worst channel
    lead_silence_sec: float
    trail_silence_sec: float
    edge_db: float  # the louder of first and last frame, relative to level_db
    fall_db: float  # how far the level falls within ECHO_SEC where loud sounds stop
    bandwidth_hz: float


@dataclass
class Finding:
    """One clip on its way through the doctor."""

    clip: str  # name: path without suffix, relative to the input directory
    file: str
    figures: dict[str, Any] = field(default_factory=dict)  # report columns; also fill the flags' sentences
    flags: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """kept, warned or dropped."""
        return "dropped" if drops(self.flags) else "warned" if self.flags else "kept"

    @property
    def reasons(self) -> list[str]:
        """One sentence for each flag."""
        return [FLAGS[name][1].format_map(self.figures) for name in self.flags]

    def flag(self, name: str, **figures: Any) -> None:
        """Add a flag (once) and the figures that its sentence needs."""
        self.figures.update(figures)
        if name not in self.flags:
            self.flags.append(name)
            self.flags.sort(key=list(FLAGS).index)  # the gravest first


# ---- one clip --------------------------------------------------------------------------------------------------------


def measure(samples: np.ndarray, sample_rate: int, duration_sec: float | None = None) -> AudioFigures:
    """Figures of samples (N, channels), float in [-1, 1]; duration_sec where only the start of a long file is given.

    Levels are those of the centred wave: an offset is not to be heard, and would pass for noise in the pauses."""
    offsets = samples.mean(axis=0, dtype=np.float64)
    centred = (samples - offsets).astype(samples.dtype)
    mono = centred.mean(axis=1)
    levels = frame_levels(mono, sample_rate)
    pause, level = map(float, np.quantile(levels, [0.05, 0.95]))
    lead, trail = edge_silences(levels)
    return AudioFigures(
        duration_sec=round(len(mono) / sample_rate if duration_sec is None else duration_sec, 6),
        sample_rate=sample_rate,
        channels=samples.shape[1],
        peak_db=round(float(decibel(np.abs(samples).max())), 1),
        level_db=round(level, 1),
        channel_db=round(max(float(np.quantile(frame_levels(one, sample_rate), 0.95)) for one in centred.T), 1),
        snr_db=round(level - pause, 1),
        clipped_share=round(max(map(clipped_share, samples.T)), 6),
        dc_offset=round(float(max(offsets, key=abs)), 4),
        lead_silence_sec=lead,
        trail_silence_sec=trail,
        edge_db=round(float(max(levels[0], levels[-1])) - level, 1),
        fall_db=round(fall_db(mono, sample_rate), 1),
        bandwidth_hz=round(bandwidth_hz(mono, sample_rate)),
    )


def frame_levels(mono: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level in dBFS of each whole frame of FRAME_SEC of samples (N,); of all of them where they make no frame."""
    size = max(1, int(FRAME_SEC * sample_rate))
    frames = mono[: len(mono) // size * size].reshape(-1, size) if len(mono) >= size else mono[None]
    energies = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)  # no copy of the samples, which may be an hour
    return decibel(np.sqrt(energies / frames.shape[1]))


def edge_silences(levels: np.ndarray) -> tuple[float, float]:
    """Seconds before and after the speech, by the levels of the frames; all of it before where nobody speaks."""
    loud = np.nonzero(levels > silence_threshold(levels))[0]
    lead, trail = (loud[0], len(levels) - 1 - loud[-1]) if len(loud) else (len(levels), 0)
    return round(float(lead) * FRAME_SEC, 2), round(float(trail) * FRAME_SEC, 2)


def decibel(amplitude: np.ndarray | float) -> np.ndarray:
    """20 log10, not below -120."""
    return 20 * np.log10(np.maximum(amplitude, 1e-6))


def silence_threshold(levels: np.ndarray) -> float:
    """Level in dB that parts pauses from speech: midway from the noise floor, 20 to 40 dB below the speech level."""
    floor, speech = np.quantile(levels, [0.05, 0.95])
    return float(speech - np.clip((speech - floor) / 2, 20, 40))


def fall_db(mono: np.ndarray, sample_rate: int) -> float:
    """The steepest falls (97th percentile) of the level within ECHO_SEC from a loud frame; 0 for too short a clip.

    A room's echo dies away at its own pace, however abruptly the voice stops."""
    size = max(1, int(FRAME_SEC / 2 * sample_rate))
    frames = mono[: len(mono) // size * size].reshape(-1, size)
    levels, step = decibel(np.sqrt(np.mean(np.square(frames), axis=1))), round(ECHO_SEC / FRAME_SEC * 2)
    falls = levels[:-step] - levels[step:]
    loud = levels[:-step] > np.quantile(levels, 0.95) - 10 if len(levels) else np.zeros(0, dtype=bool)
    return float(np.quantile(falls[loud], 0.97)) if len(falls) and loud.any() else 0.0


def clipped_share(samples: np.ndarray) -> float:
    """Share of samples (N,) that lie at the extreme value, FLAT_RUN or more in a row."""
    top = np.abs(samples).max()
    if top < 0.1:
        return 0.0
    at_top = np.concatenate([[0], (np.abs(samples) >= 0.998 * top).astype(np.int8), [0]])
    edges = np.diff(at_top)
    runs = np.nonzero(edges == -1)[0] - np.nonzero(edges == 1)[0]
    return float(runs[runs >= FLAT_RUN].sum() / len(samples))


def bandwidth_hz(mono: np.ndarray, sample_rate: int) -> float:
    """Highest frequency at which the mean spectrum of the loud frames is within BANDWIDTH_DROP_DB of its peak."""
    size = 2 ** max(1, round(math.log2(0.032 * sample_rate)))  # of a rate that no recorder has, too
    if len(mono) < size:
        return sample_rate / 2
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[:: size // 2] * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    energy = power.sum(axis=1)
    spectrum = 0.5 * decibel(power[energy >= 0.01 * np.quantile(energy, 0.95)].mean(axis=0))
    bins = max(1, round(250 * size / sample_rate))  # smoothed over 250 Hz
    spectrum = np.convolve(np.pad(spectrum, bins // 2, mode="edge"), np.ones(bins) / bins, mode="valid")
    highest = np.nonzero(spectrum >= spectrum.max() - BANDWIDTH_DROP_DB)[0][-1] * sample_rate / size
    return min(float(highest), sample_rate / 2)


def audio_flags(figures: AudioFigures) -> list[str]:
    """Flags of one recording by itself; those that drop it come first."""
    cancel_limit = figures.channel_db - 20 * math.log10(figures.channels) - CANCEL_DB
    cancel = figures.channel_db >= SILENT_DB and figures.level_db < cancel_limit
    checks = {
        "too_short": figures.duration_sec < MIN_SEC,
        "too_long": figures.duration_sec > MAX_TOKEN_SEC,
        "low_sample_rate": figures.sample_rate < MIN_SOURCE_RATE,
        "channels_cancel": cancel,
        "near_silent": figures.level_db < SILENT_DB and not cancel,
        "clipping": figures.clipped_share > CLIPPED_SHARE,
        "noisy": figures.snr_db < NOISY_DB,
        "echo": figures.snr_db >= NOISY_DB and 0 < figures.fall_db < ECHO_DB,
        "cut_off": figures.snr_db >= NOISY_DB and figures.edge_db > -CUT_MARGIN_DB,
        "edge_silence": max(figures.lead_silence_sec, figures.trail_silence_sec) > EDGE_SILENCE_SEC,
        "dc_offset": abs(figures.dc_offset) >= DC_OFFSET,
        "low_bandwidth": figures.sample_rate >= MIN_SOURCE_RATE and figures.bandwidth_hz < BANDWIDTH_HZ,
        "quiet": SILENT_DB <= figures.level_db < QUIET_DB,
    }
    found = [name for name, is_so in checks.items() if is_so]
    # a clip that is dropped anyway needs no list of blemishes
    return [name for name in found if drops([name])] or found


MARKUP = re.compile(r"[<>{}\[\]|\\^~*_#@=+$€£¥%&§]")  # what normalising left of them
# What normalising makes words of: "slash slash", "and amp"
WRITTEN_MARKUP = re.compile(r"[|\\]|https?:|www\.|&(?:#x?[\da-f]+|[a-z]+);")


def text_flags(text: str, written: str = "") -> list[str]:
    """Flags of a normalised transcript by itself; written: as it was before."""
    spoken = without_tags(text)
    if not any(character.isalnum() for character in spoken):
        return ["empty_text"]
    found = ["digits_left"] if any(character.isdigit() for character in spoken) else []
    odd = any(unicodedata.category(character) in ("So", "Co", "Cn") for character in spoken)  # emoji, unknown signs
    marked = MARKUP.search(spoken) or WRITTEN_MARKUP.search(without_tags(written))
    found += ["digits_in_english"] if digits_in_english(written, text) else []
    return found + (["markup_left"] if odd or marked else [])


# ---- all clips together ----------------------------------------------------------------------------------------------


def spoken_characters(text: str) -> int:
    """Letters and digits; marks and blanks take no time to say."""
    return sum(character.isalnum() for character in without_tags(text))


def outliers(values: Sequence[float], floor: float) -> tuple[np.ndarray, float]:
    """(signed distance beyond the limit or 0 for each value, median); too few values have no outliers."""
    array = np.asarray(values, dtype=np.float64)
    median = float(np.median(array)) if len(array) else math.nan
    if len(array) < MIN_GROUP:
        return np.zeros(len(array)), median
    limit = max(OUTLIER_MADS * 1.4826 * float(np.median(np.abs(array - median))), floor)
    distance = array - median
    return np.where(np.abs(distance) > limit, distance, 0.0), median


def check_texts(findings: Sequence[Finding]) -> None:
    """Flag speaking_rate, duplicate_text and language_mix among clips with figures text and duration_sec."""
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[script(finding.figures["text"])].append(finding)
    usual = max(groups, key=lambda name: len(groups[name]), default="")
    for name, group in groups.items():
        if name != usual and len(findings) >= MIN_GROUP and len(group) <= MINORITY_SHARE * len(findings):
            for finding in group:
                finding.flag("language_mix", script=name, usual_script=usual)
        _check_rates(group)
    _check_duplicates(findings)


def _check_rates(group: Sequence[Finding]) -> None:
    """Characters per second of speech, compared as logarithms: twice as fast is as odd as half as fast."""
    for finding in group:
        figures = finding.figures
        speech = figures["duration_sec"] - figures["lead_silence_sec"] - figures["trail_silence_sec"]
        figures["chars_per_sec"] = round(spoken_characters(figures["text"]) / max(speech, 0.1), 2)
    logs = [math.log(max(finding.figures["chars_per_sec"], 1e-3)) for finding in group]
    distances, median = outliers(logs, math.log(RATE_RATIO))
    for finding, distance in zip(group, distances, strict=True):
        if distance:
            finding.flag("speaking_rate", usual_chars_per_sec=round(math.exp(median), 2))


def _check_duplicates(findings: Iterable[Finding]) -> None:
    same: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        same["".join(filter(str.isalnum, finding.figures["text"].casefold()))].append(finding)
    for group in same.values():
        for finding in group if len(group) > 1 else []:
            others = [other.clip for other in group if other is not finding]
            finding.flag("duplicate_text", same_text_as=", ".join(others[:3]) + (" …" if len(others) > 3 else ""))


def check_speakers(findings: Sequence[Finding], vectors: np.ndarray) -> None:
    """Flag other_speaker: raw speaker vectors (n, 192) whose cosine to the mean of the *other* clips is low.

    Flagged clips leave the mean and the rest is judged again, so that two strangers cannot vouch for each other.
    """
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    trusted = np.ones(len(units), dtype=bool)
    cosines, usual = np.ones(len(units)), 1.0
    for _ in range(3):
        others = units[trusted].sum(axis=0) - units * trusted[:, None]
        cosines = (units * others).sum(axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-12)
        usual = float(np.median(cosines[trusted]))
        distances, _ = outliers(cosines[trusted], COSINE_DROP)
        limit = cosines[trusted][distances < 0]
        if not len(limit):
            break
        trusted &= cosines > limit.max()
    for finding, cosine, is_trusted in zip(findings, cosines, trusted, strict=True):
        finding.figures["speaker_cosine"] = round(float(cosine), 3)
        if not is_trusted:
            finding.flag("other_speaker", usual_cosine=round(usual, 3))


def check_text_help(findings: Sequence[Finding], helps: Sequence[float | None]) -> str:
    """Flag text_audio_mismatch; a note where that cannot be judged, else "". helps: nats per second, by text_check."""
    known = [help_ for help_ in helps if help_ is not None]
    if len(known) < MIN_GROUP:
        return f"texts are not checked against the audio: that takes {MIN_GROUP} clips with different texts"
    usual = float(np.median(known))
    for finding, help_ in zip(findings, helps, strict=True):
        if help_ is not None:
            finding.figures["text_help"] = round(help_, 1)
    if usual < LEAST_TEXT_HELP:
        return (
            f"texts are not checked against the audio: they tell the base model little about it ({usual:.0f} nats a "
            "second): it may not know the language, or the texts do not belong to these clips; listen to a few and "
            "compare"
        )
    for finding, help_ in zip(findings, helps, strict=True):
        if help_ is not None and help_ < TEXT_HELP_SHARE * usual:
            finding.flag("text_audio_mismatch", usual_text_help=round(usual, 1))
    return ""


# ---- report ----------------------------------------------------------------------------------------------------------

REPORT_FIGURES = (
    "text duration_sec sample_rate channels peak_db level_db channel_db snr_db clipped_share lead_silence_sec "
    "trail_silence_sec edge_db fall_db bandwidth_hz chars_per_sec speaker_cosine text_help cer heard text_tokens "
    "speech_tokens"
).split()


def report_entry(finding: Finding) -> dict[str, Any]:
    """The clip's line in report.json; figures that were not measured are left out."""
    figures = {name: finding.figures[name] for name in REPORT_FIGURES if name in finding.figures}
    head = {"clip": finding.clip, "flags": finding.flags, "status": finding.status, "reasons": finding.reasons}
    return {**head, "file": finding.file, **figures}


def report_text(findings: Sequence[Finding], notes: Sequence[str] = (), max_lines: int | None = None) -> str:
    """The report for people: the worst clips first, then the totals; clips without a flag are only counted.

    max_lines: of the part about single clips.
    """
    bad = [finding for finding in worst_first(findings) if finding.flags]
    width = max((len(finding.clip) for finding in bad), default=0)
    lines = [
        f"  {finding.status:8}{finding.clip if i == 0 else '':{width}}  {name}: {reason}"
        for finding in bad
        for i, (name, reason) in enumerate(zip(finding.flags, finding.reasons, strict=True))
    ]
    lines += [f"  note    {note}" for note in notes]
    if max_lines is not None and len(lines) > max_lines:
        lines[max_lines:] = [f"  ... {len(lines) - max_lines} more lines in report.txt"]
    return "\n".join([*lines, *summary_lines(findings)])


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By the gravest flag, then by the number of flags; clips without any last, by name."""
    grave = list(FLAGS).index
    return sorted(
        findings,
        key=lambda finding: (
            grave(finding.flags[0]) if finding.flags else len(FLAGS),
            -len(finding.flags),
            finding.clip,
        ),
    )


def summary_lines(findings: Sequence[Finding]) -> list[str]:
    """The totals, and what to do about the set as a whole."""
    used = [finding for finding in findings if finding.status != "dropped"]
    count = Counter(finding.status for finding in findings)
    minutes = sum(finding.figures["duration_sec"] for finding in used) / 60
    total = f"{len(used)} of {len(findings)} clips used, {minutes:.1f} min"
    total += f" ({count['kept']} clean, {count['warned']} with a warning); {count['dropped']} dropped"
    return [total, *advice(findings)]


def advice(findings: Sequence[Finding]) -> list[str]:
    """What to do about the set as a whole."""
    used = [finding for finding in findings if finding.status != "dropped"]
    dropped = len(findings) - len(used)
    seconds = sum(finding.figures["duration_sec"] for finding in used)
    lines = []
    if dropped > len(used):
        lines.append(
            f"WARNING: more clips were dropped ({dropped}) than used ({len(used)}). "
            "Mend the clips named above and run this again before training."
        )
    if used and (len(used) < 10 or seconds < 30):
        lines.append(
            f"Very little data: {len(used)} clips, {seconds:.0f} s; 20-50 clips of 2-15 s give a better voice."
        )
    if any(finding.status == "warned" for finding in used):
        lines.append("Clips with a warning are used. Listen to them; mend or delete those that are wrong, run again.")
    return lines
