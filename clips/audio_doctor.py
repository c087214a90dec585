"""Data doctor: which flags follow from what is measured in a clip, and in all of them. Pure functions, no files."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clips.measuring import ECHO_SEC, AudioFigures
from clips.text_faults import (
    IMPOSSIBLE,
    JUDGED_SEC,
    leading_numbers,
    shared_edge,
    speaker_labels,
    speaking_times,
    stage_direction,
)
from cosyvoice.cli.frontend import MAX_TOKEN_SEC
from cosyvoice.utils.audio_files import FULL_SOURCE_RATE, MIN_SOURCE_RATE
from text.languages import digits_in_english, script, without_tags
from text.normalizer import unread_signs

MIN_SEC = 0.5  # shorter clips are dropped, and those over MAX_TOKEN_SEC

# Audio limits. Levels in dB below full scale (dBFS).
SILENT_DB = -50.0  # loudest frames below this: nobody speaks
CANCEL_DB = 6.0  # channels together this far below the loudest one's share of the mix: they cancel each other
QUIET_DB = -36.0  # speech normally sits at -25..-12
CLIPPED_SHARE = 5e-4  # samples on a flat top: 8 a second at 16 kHz; clean recordings have none or one short run
DC_OFFSET = 0.02  # mean of the samples, full scale being 1: -34 dBFS, louder than most pauses
EDGE_SILENCE_SEC = 0.7
NOISY_DB = 22.0  # speech level above the level in pauses; clean recordings reach 25-70
ECHO_DB = 18.0  # somewhere in a clip the level falls at least so far in ECHO_SEC; an echo of 0.8 s keeps it from that
CUT_MARGIN_DB = 12.0  # an outermost frame within this of the clip's speech level lies inside speech
BANDWIDTH_HZ = 5500.0  # telephone audio ends near 4 kHz, speech recorded at 16 kHz at 6.5-8 kHz

# Limits of the comparisons between clips. An outlier is further from the median than OUTLIER_MADS robust standard
# deviations (1.4826 * median absolute deviation) and than a floor, so that very even sets raise no false alarm.
OUTLIER_MADS = 4.0
MIN_GROUP = 6  # fewer clips than this have no median worth trusting
RATE_RATIO = 1.6  # floor: characters per second this many times more or fewer than the median
TEXT_HELP_SHARE = 0.25  # a text that helps the LLM less than this share of what texts usually do is not what is said
LIKE_LENGTH = 11  # clips nearest in length, itself among them, by which it is judged what texts usually do
# Nats per second of speech. Speech carries about 39 bits (27 nats) a second in any language (Coupé et al. 2019): texts
# that usually tell the LLM less are in a language that it does not know, or belong to other clips, all of them. With an
# English model English texts tell it about 50, Italian and French ones 16. But an LLM that learned short sentences
# loses the thread in long ones: of clips over 8 s right texts tell the mini model 11 to 30, and wrong ones at most 5.
LEAST_TEXT_HELP = 27.0
LEAST_USUAL_TEXT_HELP = LEAST_TEXT_HELP / 2  # where all long clips have wrong texts these must not pass for usual
LEVEL_DB = 12.0  # floor: more than twice as loud, or less than half; the example clips lie within 3 dB of their median
COSINE_DROP = 0.15  # floor: cosine to the mean of the other clips this far below the median
MINORITY_SHARE = 0.2  # clips in another script than the others are flagged up to this share

DULL = "so s, f and sh sound dull, in the trained voice too"
# The gravest first. Names are part of data/report.json: add, never rename. The clip's figures fill the sentence.
DROP, WARN = "drop", "warn"
FLAGS: dict[str, tuple[str, str]] = {
    "unreadable": (DROP, "{problem}"),
    "duplicate_name": (DROP, "another audio file of the same name ({used_file}) is used; keep one of them"),
    "duplicate_audio": (DROP, "same recording as {same_as}; delete one"),
    "too_short": (DROP, f"{{duration_sec:.2f}} s; clips of {MIN_SEC:g}-{MAX_TOKEN_SEC} s are used"),
    "too_long": (DROP, f"{{duration_sec:.1f}} s is over {MAX_TOKEN_SEC} s; cut it: the same command with --split"),
    "sample_rate_too_low": (
        DROP,
        f"{{sample_rate}} Hz is below {MIN_SOURCE_RATE} Hz, the rate of telephones; record at {FULL_SOURCE_RATE} Hz "
        "or more",
    ),
    "channels_cancel": (
        DROP,
        "the channels cancel each other: {channel_db:.0f} dBFS alone, {level_db:.0f} together; export one of them",
    ),
    "near_silent": (DROP, "loudest parts at {level_db:.0f} dBFS; nobody speaks"),
    "missing_text": (DROP, "{text_problem}"),
    "unreadable_text": (DROP, "{text_problem}"),
    "empty_text": (DROP, "the transcript holds nothing that can be spoken"),
    "too_much_text": (
        DROP,
        "{characters} characters in {duration_sec:.1f} s are more than anybody says; keep the words of this clip only",
    ),
    "incomplete": (WARN, "the file ends after {held_sec} s, its header says {header_sec} s; copy or export it again"),
    "unfinished_header": (
        WARN,
        "its header does not say how much sound it holds, as one of a program that crashed: it was read to its end, "
        "{held_sec} s; listen to the end, and export it again",
    ),
    "low_sample_rate": (
        WARN,
        f"{{sample_rate}} Hz: nothing above {{bandwidth_hz:.0f}} Hz, {DULL}; record at {FULL_SOURCE_RATE} Hz or more",
    ),
    "other_speaker": (
        WARN,
        "sounds like another speaker or room: cosine {speaker_cosine:.2f} to the others, usual is {usual_cosine:.2f}",
    ),
    "text_audio_mismatch": (
        WARN,
        "the text is probably not what is said: it tells the model {text_help:.0f} nats a second about the sound, "
        "right ones tell about {usual_text_help:.0f}; listen and correct it",
    ),
    "speaking_rate": (
        WARN,
        "text may not match the audio: {chars_per_sec:.1f} characters/s, usual is {usual_chars_per_sec:.1f}; listen",
    ),
    "rate_too_high": (
        WARN,
        "{chars_per_sec:.1f} characters/s are more than people say: the text holds more than the clip, or belongs to "
        "another; listen and correct it",
    ),
    "rate_too_low": (
        WARN,
        "{chars_per_sec:.1f} characters/s are fewer than people say: words are missing, or it is another text; "
        "listen and correct it",
    ),
    "timed_text": (WARN, "{text_file} holds times beside its words, which are left out; check the rest: '{text}'"),
    "speaker_label": (WARN, "the text begins with a name that is not said ('{speaker_label_words}'); delete it"),
    "numbered_text": (WARN, "'{numbered_text_words}' numbers or names the clip and is not said; delete it"),
    "shared_start": (WARN, "nearly all texts begin with '{shared_start_words}'; delete it where it is not said"),
    "shared_end": (WARN, "nearly all texts end with '{shared_end_words}'; delete it where it is not said"),
    "stage_direction": (WARN, "'{stage_direction_words}' is not said; delete it"),
    "text_conflict": (WARN, "{other_file} has another text ('{other_text}'); that of {used_file} is used"),
    "clipping": (WARN, "{clipped_share:.2%} of the samples lie on a flat top; record with less gain"),
    "cut_off": (WARN, "starts or ends inside speech; teaches wrong endings, cut it at a pause"),
    "edge_silence": (
        WARN,
        "{lead_silence_sec:.1f} s silence before and {trail_silence_sec:.1f} s after the speech; trim to 0.1-0.3 s",
    ),
    "noisy": (WARN, "pauses are only {snr_db:.0f} dB below the speech; noise, music and echo are learned too"),
    "echo": (
        WARN,
        f"sounds die away slowly ({{fall_db:.0f}} dB in {ECHO_SEC} s): echo or music is learned too; record closer",
    ),
    "dc_offset": (WARN, "DC offset of {dc_offset:+.2f} of full scale; --fix removes it"),
    "low_bandwidth": (
        WARN,
        f"nothing above {{bandwidth_hz:.0f}} Hz (telephone or strong compression), {DULL}; bring the recording itself",
    ),
    "quiet": (WARN, "speech at {level_db:.0f} dBFS; the voice is learned as quiet as this"),
    "uneven_level": (
        WARN,
        "speech at {level_db:.0f} dBFS, usual is {usual_level_db:.0f}; the voice learns to be loud and soft by chance, "
        "--fix evens it",
    ),
    "digits_left": (WARN, "'{text}': write the digits as words"),
    "digits_in_english": (WARN, "'{text}': digits were read in English; write the numbers as words"),
    "markup_left": (WARN, "'{text}': remove what is not spoken"),
    "duplicate_text": (WARN, "same text as {same_text_as}; fine if really said twice"),
    "language_mix": (WARN, "written in {script}, the others in {usual_script}"),
}


def drops(flags: Iterable[str]) -> bool:
    """Whether a clip with these flags is left out of the training data."""
    return any(FLAGS[name][0] == DROP for name in flags)


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


def audio_flags(figures: AudioFigures) -> list[str]:
    """Flags of one recording by itself; those that drop it come first."""
    cancel_limit = figures.channel_db - 20 * math.log10(figures.channels) - CANCEL_DB
    cancel = figures.channel_db >= SILENT_DB and figures.level_db < cancel_limit
    checks = {
        "too_short": figures.duration_sec < MIN_SEC,
        "too_long": figures.duration_sec > MAX_TOKEN_SEC,
        "sample_rate_too_low": figures.sample_rate < MIN_SOURCE_RATE,
        "channels_cancel": cancel,
        "near_silent": figures.level_db < SILENT_DB and not cancel,
        "clipping": figures.clipped_share > CLIPPED_SHARE,
        "noisy": figures.snr_db < NOISY_DB,
        "echo": figures.snr_db >= NOISY_DB and 0 < figures.fall_db < ECHO_DB,
        "cut_off": figures.snr_db >= NOISY_DB and figures.edge_db > -CUT_MARGIN_DB,
        "edge_silence": max(figures.lead_silence_sec, figures.trail_silence_sec) > EDGE_SILENCE_SEC,
        "dc_offset": abs(figures.dc_offset) >= DC_OFFSET,
        "low_sample_rate": figures.sample_rate < FULL_SOURCE_RATE,
        "low_bandwidth": figures.sample_rate >= FULL_SOURCE_RATE and figures.bandwidth_hz < BANDWIDTH_HZ,
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
    marked = unread_signs(spoken) or MARKUP.search(spoken) or WRITTEN_MARKUP.search(without_tags(written))
    found += ["digits_in_english"] if digits_in_english(written, text) else []
    return found + (["markup_left"] if marked else [])


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
    """Flag what texts have in common, or one has for itself, among clips with figures text, written, duration_sec.

    written: the text as the user wrote it."""
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[script(finding.figures["text"])].append(finding)
    usual = max(groups, key=lambda name: len(groups[name]), default="")
    for name, group in groups.items():
        if name != usual and len(findings) >= MIN_GROUP and len(group) <= MINORITY_SHARE * len(findings):
            for finding in group:
                finding.flag("language_mix", script=name, usual_script=usual)
        _check_rates(group)
    _check_speaking_times(findings)
    _check_duplicates(findings)
    _check_unspoken(findings)


def _check_rates(group: Sequence[Finding]) -> None:
    """Characters per second of speech, compared as logarithms: twice as fast is as odd as half as fast."""
    for finding in group:
        figures = finding.figures
        figures["chars_per_sec"] = round(spoken_characters(figures["text"]) / _speech_sec(finding), 2)
    logs = [math.log(max(finding.figures["chars_per_sec"], 1e-3)) for finding in group]
    distances, median = outliers(logs, math.log(RATE_RATIO))
    for finding, distance in zip(group, distances, strict=True):
        if distance:
            finding.flag("speaking_rate", usual_chars_per_sec=round(math.exp(median), 2))


def _speech_sec(finding: Finding) -> float:
    """The clip without the silence at its ends."""
    figures = finding.figures
    return max(figures["duration_sec"] - figures["lead_silence_sec"] - figures["trail_silence_sec"], 0.1)


def _check_speaking_times(findings: Iterable[Finding]) -> None:
    """Whether a text can be said in the time of its clip at all, whatever the other clips are like."""
    for finding in findings:
        shortest, longest = speaking_times(without_tags(finding.figures["text"]))
        speech = _speech_sec(finding)
        if shortest > IMPOSSIBLE * finding.figures["duration_sec"]:
            finding.flag("too_much_text", characters=spoken_characters(finding.figures["text"]))
        elif speech >= JUDGED_SEC and shortest > speech:
            finding.flag("rate_too_high")
        elif speech >= JUDGED_SEC and longest < speech:
            finding.flag("rate_too_low")


def _check_unspoken(findings: Sequence[Finding]) -> None:
    """What stands in texts and is not said: names, numbers, the same words in all of them, stage directions."""
    texts = [without_tags(finding.figures["written"]).strip() for finding in findings]
    directions = {i: found for i, text in enumerate(texts) if (found := stage_direction(text))}
    before = {
        "shared_start": shared_edge(texts),
        "numbered_text": leading_numbers(texts, [finding.clip for finding in findings]),
        "speaker_label": speaker_labels(texts),
    }
    name_of = {i: name for name, found in before.items() for i in found}  # the most certain of them
    flags = {
        **{name: {i: words for i, words in found.items() if name_of[i] == name} for name, found in before.items()},
        "shared_end": shared_edge(texts, at_end=True),
        "stage_direction": {i: words for i, words in directions.items() if "markup_left" not in findings[i].flags},
    }
    for name, found in flags.items():
        for i, words in found.items():
            findings[i].flag(name, **{f"{name}_words": words})


def _check_duplicates(findings: Iterable[Finding]) -> None:
    same: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        same["".join(filter(str.isalnum, finding.figures["text"].casefold()))].append(finding)
    for group in same.values():
        for finding in group if len(group) > 1 else []:
            others = [other.clip for other in group if other is not finding]
            finding.flag("duplicate_text", same_text_as=", ".join(others[:3]) + (" …" if len(others) > 3 else ""))


def check_levels(findings: Sequence[Finding]) -> None:
    """Flag uneven_level among clips with the figure level_db."""
    distances, median = outliers([finding.figures["level_db"] for finding in findings], LEVEL_DB)
    for finding, distance in zip(findings, distances, strict=True):
        if distance:
            finding.flag("uneven_level", usual_level_db=median)


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
    known = [(finding, help_) for finding, help_ in zip(findings, helps, strict=True) if help_ is not None]
    if len(known) < MIN_GROUP:
        return f"texts are not checked against the audio: that takes {MIN_GROUP} clips with different texts"
    known.sort(key=lambda pair: pair[0].figures["duration_sec"])
    for finding, help_ in known:
        finding.figures["text_help"] = round(help_, 1)
    sorted_helps = [help_ for _, help_ in known]
    usual_of_short = float(np.median(sorted_helps[: max(MIN_GROUP, len(known) // 2)]))
    if usual_of_short < LEAST_TEXT_HELP:
        return (
            "texts are not checked against the audio: they tell the base model little about it "
            f"({usual_of_short:.0f} nats a second): it may not know the language, or clips as long as these, or the "
            "texts do not belong to them; listen to a few and compare"
        )
    for (finding, help_), usual in zip(known, usual_by_length(sorted_helps), strict=True):
        if help_ < TEXT_HELP_SHARE * usual:
            finding.flag("text_audio_mismatch", usual_text_help=round(usual, 1))
    return ""


def usual_by_length(helps: Sequence[float]) -> list[float]:
    """What texts usually tell about a clip as long as each. helps: in the order of the clips' lengths."""
    usual = []
    for place in range(len(helps)):
        start = max(0, min(place - LIKE_LENGTH // 2, len(helps) - LIKE_LENGTH))
        usual.append(max(float(np.median(helps[start : start + LIKE_LENGTH])), LEAST_USUAL_TEXT_HELP))
    return usual
