"""The pitch of a trained voice beside the speaker's own."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from random_data import write_random_data
from sources import ROOT

from cosyvoice.utils.audio_files import load_wav, resample
from cosyvoice.utils.common import EXTRACTOR_RATE
from dataset import list_clips
from training.selection import compared, verdict
from voice import recordings
from voice.evaluation import Sentence, with_pitch
from voice.metrics import pitch
from voice.recordings import own_pitch

RATE = 22050
EXAMPLES = ROOT / "examples" / "en_allison" / "raw_audio"


def tone(hz: float, seconds: float, lowest: int = 1) -> np.ndarray:
    """A buzz with the harmonics from this one to the tenth."""
    t = np.arange(round(seconds * RATE)) / RATE
    return 0.05 * sum(np.sin(2 * math.pi * hz * k * t) for k in range(lowest, 11))


def record(folder: Path, wave: Callable[[int, float], np.ndarray], longer_sec: float = 0.0) -> list:
    """Prepared clips in `folder`/data, and their recordings: wave(number, seconds)."""
    write_random_data(folder / "data", n_clips=7)
    clips = list_clips(folder / "data")
    recordings = folder / "recordings"
    recordings.mkdir()
    for number, clip in enumerate(clips):
        soundfile.write(recordings / clip.wav, wave(number, clip.duration + longer_sec), RATE)
    noted = {"input_dir": str(recordings), "model_dir": "model"}
    (folder / "data" / "meta.json").write_text(json.dumps(noted), encoding="utf-8")
    return clips


def test_the_speakers_pitch_is_the_mean_of_recordings_without_the_odd_ones(tmp_path, monkeypatch, capsys):
    clips = record(tmp_path, lambda number, seconds: tone((80, 100, 120, 300)[number % 4], seconds))
    assert own_pitch(clips[:3], tmp_path / "data") == pytest.approx(100, rel=0.01)
    assert own_pitch(clips, tmp_path / "data") == pytest.approx((80 + 2 * 100 + 2 * 120) / 5, rel=0.01)
    monkeypatch.setattr(recordings, "PITCH_CLIPS", 2)
    assert own_pitch(clips[:4], tmp_path / "data") == pytest.approx((80 + 120) / 2, rel=0.01)
    assert capsys.readouterr().out == ""


def test_recordings_without_the_lowest_harmonic_are_warned_of(tmp_path, capsys):
    clips = record(tmp_path, lambda number, seconds: tone(90, seconds, lowest=2 if number else 1))
    assert own_pitch(clips, tmp_path / "data") == pytest.approx(90, rel=0.01)
    printed = capsys.readouterr().out
    assert re.match(r"warning: in the recordings the voice's lowest harmonic is [3-9]\d dB below the next", printed)
    assert printed.count("\n") == 1


@pytest.mark.parametrize("lowest", [1, 2, 3])  # a telephone lets the harmonics below 300 Hz fall away
@pytest.mark.parametrize("hz", [65, 90, 141, 200, 300, 450])
def test_pitch_is_measured_from_deep_men_to_children(hz, lowest):
    found = pitch(resample(torch.from_numpy(tone(hz, 1.0, lowest)).float()[None], RATE, EXTRACTOR_RATE))
    assert found.hz == pytest.approx(hz, rel=0.01) and found.spread < 0.2


def test_the_spread_of_pitch_is_told_in_semitones():
    octave = np.concatenate([tone(100, 1.0), tone(200, 1.0)])
    found = pitch(resample(torch.from_numpy(octave).float()[None], RATE, EXTRACTOR_RATE))
    assert found.spread == pytest.approx(6.0, rel=0.1)  # an octave apart: 6 from the middle


# Medians by Praat 6.1.38: autocorrelation, 60-500 Hz, every 16 ms
@pytest.mark.parametrize(("name", "praat_hz"), [("001", 202.4), ("004", 185.2), ("006", 192.0), ("008", 193.2)])
def test_pitch_of_real_speech_is_that_of_praat(name, praat_hz):
    assert pitch(load_wav(EXAMPLES / f"{name}.flac", EXTRACTOR_RATE)).hz == pytest.approx(praat_hz, rel=0.015)


def test_where_nothing_is_voiced_there_is_no_pitch(tmp_path, capsys):
    clips = record(tmp_path, lambda number, seconds: np.zeros(round(seconds * RATE)))
    assert own_pitch(clips, tmp_path / "data") is None
    assert capsys.readouterr().out.endswith("with the speaker's: no voice in the recordings\n")


def test_one_recording_that_is_gone_leaves_the_others(tmp_path, capsys):
    clips = record(tmp_path, lambda number, seconds: tone(100, seconds))
    (tmp_path / "recordings" / clips[0].wav).unlink()
    assert own_pitch(clips, tmp_path / "data") == pytest.approx(100, rel=0.01)
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_looked_into_does_not_end_training(tmp_path, monkeypatch, capsys):
    clips = record(tmp_path, lambda number, seconds: tone(100, seconds))

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert own_pitch(clips, tmp_path / "data") is None
    assert "Permission denied; check its permissions" in capsys.readouterr().out


def test_recordings_of_somebody_else_tell_no_pitch(tmp_path, capsys):
    clips = record(tmp_path, lambda number, seconds: tone(100, seconds), longer_sec=0.5)
    assert own_pitch(clips, tmp_path / "data") is None
    printed = capsys.readouterr().out
    assert printed.startswith("the pitch will not be compared with the speaker's: ") and printed.count("\n") == 1
    assert "is another recording, or has changed" in printed


def test_a_sentence_without_a_voice_has_no_pitch():
    waves = tone(141, 1), np.zeros(RATE), np.zeros(0)
    spoken = [Sentence("a", torch.from_numpy(wave).float()[None], RATE, {"clarity": (9.0, 1)}) for wave in waves]
    buzz, silence, nothing = map(with_pitch, spoken)
    assert buzz.figures["f0_hz"] == (pytest.approx(141, rel=0.01), 1) and buzz.figures["clarity"] == (9.0, 1)
    assert silence.figures == nothing.figures == {"clarity": (9.0, 1)}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((95, 96, 94, 97), (141, 150, 139, 146), "pitch further from the speaker's"),
        ((60, 61, 59, 60), (85, 86, 87, 88), "pitch closer to the speaker's"),
        ((88, 86, 87, 85), (86, 87, 85, 88), "pitch unchanged"),
        ((90, 86, 87, 85), (88, 160, 86, 130), "pitch perhaps further from the speaker's (87 -> 116 Hz)"),
        ((70, 65, 66, 74), (106, 113, 112, 100), "pitch as far from the speaker's as before (69 -> 108 Hz)"),
    ],
)
def test_the_verdict_tells_where_the_pitch_went(before, after, words):
    def spoken(pitches: tuple[float, ...]) -> list[dict]:
        return [{"failed": (0, 1), "run_on": (0, 1), "f0_hz": (hz, 1)} for hz in pitches]

    told = verdict(compared(spoken(after), spoken(before), 86.0), spoken(after), spoken(before))
    assert told.split("; ")[0] == f"{words}, no run-ons"
    assert verdict(compared(spoken(after), spoken(before), None), spoken(after), spoken(before)) == "no run-ons"


def test_pace_that_moved_is_not_called_unchanged():
    def spoken(ratios: tuple[float, ...]) -> list[dict]:
        return [{"failed": (0, 1), "run_on": (0, 1), "duration_ratio": (ratio, 1)} for ratio in ratios]

    slow, fast = spoken((1.25, 1.2, 1.3, 1.25)), spoken((0.8, 0.83, 0.77, 0.8))
    assert verdict(compared(fast, slow, None), fast, slow) == (
        "pace as far from the speaker's as before (1.25 -> 0.80 of the speaker's own time), no run-ons"
    )
