"""--split and --transcribe: long recordings cut at pauses, and drafts of missing texts."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from clips.audio_doctor import FLAGS
from clips.decode import file_warnings, write_wav
from clips.find import DRAFT_SUFFIX, RawClip, recordings_of, shown_name, split_folder
from clips.measuring import peak
from clips.transcripts import one_line
from common.files import atomic_path
from common.recogniser import Recogniser
from config import UserError
from cosyvoice.cli.frontend import MAX_TOKEN_SEC
from cosyvoice.utils.audio_files import AudioError, Recording
from cosyvoice.utils.common import EXTRACTOR_RATE
from utils import user_mistakes

MIN_PIECE_SEC, MAX_PIECE_SEC = 1.5, 15.0
MARGIN_SEC = 0.15  # kept before and after the speech of a piece
LONG_PAUSE_SEC = 1.0  # always cut here; shorter pauses only where a piece would get too long

Span = tuple[float, float]  # seconds


def split_recordings(clips: Sequence[RawClip]) -> list[str]:
    """Cut recordings that are too long at their pauses; one line about each for the user.

    Too long: over 30 s, or over 15 s and without a transcript. Pieces go to <stem>_split/<stem>_001.wav beside the
    recording, which is left out from then on. Raises UserError where a piece cannot be written.
    """
    lines: list[str] = []
    for clip, recording in recordings_of(clips, lines):
        if recording.duration_sec <= (MAX_TOKEN_SEC if clip.text else MAX_PIECE_SEC):
            continue
        lines += [f"{clip.file}: {told}" for told in (*file_warnings(recording), _split(clip, recording))]
    return lines


def _split(clip: RawClip, recording: Recording) -> str:
    """Write the pieces of one recording; what became of it, in words."""
    try:
        speech = find_speech(recording, clip.file)
    except AudioError as error:
        return f"cannot be cut: {error}"
    spans = with_margins(cut_at_pauses(speech), recording.duration_sec)
    kept = [(start, end) for start, end in spans if end - start >= MIN_PIECE_SEC]
    if not kept:
        return "no speech found; nothing was cut"
    target = split_folder(clip.path)
    _write_pieces(recording, kept, target, clip.path.stem)
    made = f"{len(kept)} {'clip' if len(kept) == 1 else 'clips'} in {shown_name(str(target))}"
    short = len(spans) - len(kept)
    left_out = f", {short} shorter than {MIN_PIECE_SEC} s left out" if short else ""
    return made + left_out + ("; its text is not used: each clip needs its own" if clip.text else "")


def find_speech(recording: Recording, title: str) -> list[Span]:
    """Stretches of speech by silero-vad (its model is inside the package); pauses of 0.3 s or more separate them.

    Raises AudioError as `Recording.mono`."""
    try:
        from silero_vad import get_speech_timestamps, load_silero_vad
    except ImportError as error:
        raise UserError("--split needs silero-vad: pip install silero-vad") from error
    with tqdm(total=100, desc=f"pauses in {title}", unit="%") as bar:
        stretches = get_speech_timestamps(
            recording.mono(EXTRACTOR_RATE)[0],
            load_silero_vad(onnx=True),
            min_silence_duration_ms=300,
            max_speech_duration_s=MAX_PIECE_SEC - 2 * MARGIN_SEC,
            speech_pad_ms=0,
            progress_tracking_callback=lambda percent: bar.update(percent - bar.n),
        )
    return [(stretch["start"] / EXTRACTOR_RATE, stretch["end"] / EXTRACTOR_RATE) for stretch in stretches]


def cut_at_pauses(speech: Sequence[Span]) -> list[Span]:
    """Neighbouring stretches joined to pieces of at most 15 s with margins, cut at the longest pauses first.

    Long pauses end sentences: a piece that stops inside one teaches the voice to stop there.
    """
    done: list[Span] = []
    todo = [list(speech)] if speech else []
    while todo:
        part = todo.pop()
        pauses = [after[0] - before[1] for before, after in zip(part, part[1:], strict=False)]
        fits = part[-1][1] - part[0][0] <= MAX_PIECE_SEC - 2 * MARGIN_SEC
        if not pauses or (fits and max(pauses) < LONG_PAUSE_SEC):
            done.append((part[0][0], part[-1][1]))
        else:
            cut = pauses.index(max(pauses)) + 1
            todo += [part[cut:], part[:cut]]
    return done


def with_margins(spans: Sequence[Span], duration_sec: float) -> list[Span]:
    """Spans widened by MARGIN_SEC, at most to the middle of the pause between them and to the recording's ends."""
    wide = []
    for i, (start, end) in enumerate(spans):
        room_before = (start - spans[i - 1][1]) / 2 if i else start
        room_after = (spans[i + 1][0] - end) / 2 if i + 1 < len(spans) else duration_sec - end
        wide.append((start - min(MARGIN_SEC, room_before), end + min(MARGIN_SEC, max(room_after, 0))))
    return wide


def _write_pieces(recording: Recording, spans: Sequence[Span], target: Path, stem: str) -> None:
    """Wav files of the spans; the folder appears under its name only when all are written."""
    rate, scale = recording.sample_rate, 1 / max(1.0, peak(recording.samples))  # a wav would clip what exceeds 1
    with user_mistakes(), atomic_path(target) as part:
        shutil.rmtree(part, ignore_errors=True)  # of a killed run
        part.mkdir()
        for number, (start, end) in enumerate(spans, 1):
            piece = recording.samples[round(start * rate) : round(end * rate)]
            write_wav(part / f"{stem}_{number:03}.wav", piece * scale, rate)


# ---- --transcribe: drafts of missing texts ---------------------------------------------------------------------------


def write_drafts(clips: Sequence[RawClip], recogniser: Recogniser) -> tuple[list[Path], list[str]]:
    """<stem>.draft.txt beside every clip of usable length that has neither a text nor a draft: the paths written, and
    one line about each clip without a text for which none was.

    Each clip may be in a language of its own. Raises UserError where a draft cannot be written."""
    todo, written, lines = [], [], []
    for clip in clips:
        problem = clip.flags.get("missing_text") or clip.flags.get("unreadable_text")
        if "missing_text" in clip.flags and not os.path.exists(clip.sibling(DRAFT_SUFFIX)):
            todo.append(clip)
        elif problem:
            lines.append(f"{clip.file}: no draft: {problem['text_problem']}")
    for clip, recording in recordings_of(tqdm(todo, "transcribing", unit="clip"), lines, MAX_TOKEN_SEC + 1):
        try:
            text = _heard(recording, recogniser)
        except AudioError as error:
            lines.append(f"{clip.file}: no draft: {error}")
            continue
        with user_mistakes(), atomic_path(clip.sibling(DRAFT_SUFFIX)) as part:
            part.write_text(text + "\n", encoding="utf-8")
        written.append(clip.sibling(DRAFT_SUFFIX))
    return written, lines


def _heard(recording: Recording, recogniser: Recogniser) -> str:
    """What is understood of a recording. Raises AudioError where that is nothing, and as `Recording.mono`."""
    if recording.duration_sec > MAX_TOKEN_SEC:
        raise AudioError(FLAGS["too_long"][1].format(duration_sec=recording.duration_sec))
    wave = recording.mono(EXTRACTOR_RATE)[0].numpy()
    text = one_line(recogniser.hear(wave, recogniser.language([wave])))
    if not text:
        raise AudioError("nothing was understood; listen whether anybody speaks")
    return text
