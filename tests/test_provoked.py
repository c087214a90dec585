"""Faults made on purpose in real clips: the data doctor names each, and --fix mends what can be mended."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import prepare_joint_data
from clips.audio_doctor import audio_flags
from clips.measuring import measure
from clips.mending import LOUDNESS_LUFS, fixed_folder, loudness_lufs, mend
from cosyvoice.cli.cosyvoice import CosyVoice

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "pretrained_models" / "CosyVoice-mini"
CLIPS = ROOT / "examples" / "en_allison" / "raw_audio"
RATE = 16000
RNG = np.random.default_rng(0)


def level(wave: np.ndarray) -> float:
    return float(np.sqrt(np.square(wave).mean()))


def overdriven(wave: np.ndarray) -> np.ndarray:
    return np.clip(6 * wave, -0.95, 0.95)


def with_noise(wave: np.ndarray) -> np.ndarray:
    return wave + RNG.normal(size=len(wave)) * level(wave) * 10 ** (-10 / 20)


def with_music(wave: np.ndarray) -> np.ndarray:
    seconds = np.arange(len(wave)) / RATE
    chord = sum(np.sin(2 * np.pi * hz * seconds) for hz in (220, 277, 330, 440))
    return wave + chord * level(wave) / level(chord) * 10 ** (-15 / 20)


def in_a_large_room(wave: np.ndarray, echo_sec: float = 1.0) -> np.ndarray:
    seconds = np.arange(int(echo_sec * RATE)) / RATE
    tail = RNG.normal(size=len(seconds)) * 10 ** (-3 * seconds / echo_sec)
    tail *= 0.5 / np.sqrt(np.square(tail).sum())
    tail[0] = 1
    return np.convolve(wave, tail)[: len(wave)] * 0.8


def with_edges(wave: np.ndarray) -> np.ndarray:
    return np.concatenate([1e-4 * RNG.normal(size=int(0.9 * RATE)), wave])


def slower(wave: np.ndarray) -> np.ndarray:
    """As if 22.05 kHz had been labelled 16 kHz."""
    return np.interp(np.arange(0, len(wave), RATE / 22050), np.arange(len(wave)), wave)


FAULTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], set[str]]] = {
    "002": (overdriven, {"clipping"}),
    "004": (with_noise, {"noisy"}),
    "006": (with_music, {"noisy", "echo"}),
    "010": (in_a_large_room, {"echo"}),
    "016": (slower, {"other_speaker", "speaking_rate"}),
    "018": (with_edges, {"edge_silence"}),
}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory) -> Path:
    raw = tmp_path_factory.mktemp("spoilt") / "raw"
    raw.mkdir()
    for path in sorted(CLIPS.glob("*.flac"))[:20]:
        samples, rate = soundfile.read(path)
        assert rate == RATE
        soundfile.write(raw / f"{path.stem}.wav", FAULTS.get(path.stem, (lambda x: x,))[0](samples), rate)
        shutil.copy(path.with_suffix(".txt"), raw)
    return raw


def prepared(raw: Path, *options: str) -> dict[str, set[str]]:
    """Flags by clip."""
    data = raw.parent / f"data_{raw.name}"
    arguments = ["--input-dir", str(raw), "--output-dir", str(data), "--model-dir", str(MINI), *options]
    assert prepare_joint_data.main(arguments) == 0
    return {row["clip"]: set(row["flags"]) for row in json.loads((data / "report.json").read_text(encoding="utf-8"))}


@pytest.mark.scripts
def test_each_fault_is_named_and_good_clips_are_left_alone(spoilt):
    flags = prepared(spoilt)
    for clip, (_, expected) in FAULTS.items():
        assert flags[clip] & expected, clip
    assert [clip for clip, found in flags.items() if found and clip not in FAULTS] == []


@pytest.mark.scripts
def test_two_clips_of_another_voice_among_thirty_are_both_flagged(tmp_path):
    raw, stranger = tmp_path / "raw", CosyVoice(MINI)
    raw.mkdir()
    for path in sorted(CLIPS.glob("*.flac"))[:28]:
        shutil.copy(path, raw)
        shutil.copy(path.with_suffix(".txt"), raw)
    for name, text in (
        ("101", "Please call me again tomorrow morning."),
        ("102", "Your letter is on the kitchen table."),
    ):
        torch.manual_seed(0)
        spoken = torch.cat([piece["tts_speech"] for piece in stranger.inference_sft(text, "awb")], dim=1)
        soundfile.write(raw / f"{name}.wav", spoken[0].numpy(), 22050)
        (raw / f"{name}.txt").write_text(text, encoding="utf-8")
    flags = prepared(raw, "--no-text-check")
    assert {clip for clip, found in flags.items() if "other_speaker" in found} == {"101", "102"}


def test_an_offset_is_named_and_centred_and_is_no_noise():
    samples, rate = soundfile.read(CLIPS / "003.flac", always_2d=True)
    clean, off = measure(samples, rate), measure(samples + 0.1, rate)
    assert (off.dc_offset, off.snr_db, off.level_db) == (pytest.approx(0.1, abs=0.001), clean.snr_db, clean.level_db)
    assert set(audio_flags(off)) - set(audio_flags(clean)) == {"dc_offset"}
    mended = mend(samples + 0.1, rate)
    assert mended.done[0].startswith("DC offset of +0.10 of full scale removed") and abs(mended.samples.mean()) < 1e-4


@pytest.mark.scripts
def test_fix_makes_copies_and_leaves_the_originals(spoilt, capsys):
    before = {path.name: path.read_bytes() for path in spoilt.iterdir()}
    assert prepare_joint_data.main(["--input-dir", str(spoilt), "--fix"]) == 0
    assert {path.name: path.read_bytes() for path in spoilt.iterdir()} == before
    target = fixed_folder(spoilt)
    assert f"--input-dir {target}" in capsys.readouterr().out
    done = json.loads((target / "fixed.json").read_text(encoding="utf-8"))["done"]
    assert done.keys() == {f"{path.stem}.wav" for path in spoilt.glob("*.wav")}
    assert "cut off before the speech" in done["018.wav"][0]
    for path in target.glob("*.wav"):
        samples, rate = soundfile.read(path, always_2d=True)
        assert np.abs(samples).max() <= 10 ** (-1 / 20) + 1e-3
        assert loudness_lufs(samples, rate) == pytest.approx(LOUDNESS_LUFS, abs=0.6)
        assert path.with_suffix(".txt").read_text(encoding="utf-8").strip()
    assert "edge_silence" not in prepared(target, "--no-text-check")["018"]
    assert prepare_joint_data.main(["--input-dir", str(spoilt), "--fix"]) == 0  # in place of its own earlier copies


def test_fix_takes_no_folder_that_it_did_not_make(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(CLIPS / "001.flac", raw)
    fixed_folder(raw).mkdir()
    assert prepare_joint_data.main(["--input-dir", str(raw), "--fix"]) == 2
    assert "was not made by --fix" in capsys.readouterr().err
    assert prepare_joint_data.main(["--input-dir", str(raw), "--fix", "--split"]) == 2


def test_what_is_right_already_is_not_changed():
    samples, _ = soundfile.read(CLIPS / "003.flac", always_2d=True)
    once = mend(samples, RATE).samples
    again = mend(once, RATE)
    assert again.done == [] and np.array_equal(again.samples, once)


def test_silence_is_not_turned_up():
    silence = np.zeros((RATE, 1), dtype=np.float32)
    assert np.array_equal(mend(silence, RATE).samples, silence)
