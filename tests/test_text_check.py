"""Texts that are not what is said: found by the base LLM, on real clips and the embedded model."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prepare_joint_data
from clips.audio_doctor import Finding, check_text_help
from clips.text_check import STRANGERS, Spoken, TextCheck, strangers_of, text_help
from common.recogniser import character_error_rate
from cosyvoice.cli.cosyvoice import load_part
from dataset import read_rows

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "pretrained_models" / "CosyVoice-mini"
CLIPS = ROOT / "examples" / "en_allison" / "raw_audio"


def spoken(fingerprint: str, text: list[int]) -> Spoken:
    return Spoken(fingerprint, torch.tensor(text), torch.tensor([1, 2]), torch.ones(192))


def test_strangers_have_other_texts_and_change_only_near_a_clip_that_goes():
    clips = [spoken(f"{i:02d}", [i % 7]) for i in range(20)]
    found = strangers_of(clips)
    for clip, others in zip(clips, found, strict=True):
        assert len(others) == STRANGERS and all(
            other.text_token.tolist() != clip.text_token.tolist() for other in others
        )
    fewer = strangers_of([clip for clip in clips if clip.fingerprint != "10"])
    changed = [a for a, b in zip(found[:10] + found[11:], fewer, strict=True) if a != b]
    assert len(changed) <= STRANGERS + 1
    assert strangers_of([spoken("a", [1]), spoken("b", [1])]) == [[], []]


def test_strangers_are_found_without_looking_at_every_pair(monkeypatch):
    looks = 0
    equal = torch.equal

    def counted(a: torch.Tensor, b: torch.Tensor) -> bool:
        nonlocal looks
        looks += 1
        return equal(a, b)

    monkeypatch.setattr(torch, "equal", counted)
    strangers_of([spoken(f"{i:03d}", [i]) for i in range(200)])
    assert looks == STRANGERS * 200


def test_a_stored_result_is_not_computed_again(tmp_path):
    clips, llm = [spoken(f"{i}", [3 + i]) for i in range(6)], load_part(MINI, "llm").eval()
    first = TextCheck(tmp_path, "llm", clips)
    assert first.todo == list(range(6))
    first.run(llm)
    again = TextCheck(tmp_path, "llm", clips)
    assert again.todo == [] and again.results() == first.results()
    assert TextCheck(tmp_path, "another llm", clips).todo == list(range(6))
    assert TextCheck(tmp_path, "llm", clips, force=True).todo == list(range(6))
    assert first.results()[0] == pytest.approx(
        text_help(llm, clips[0], [c.text_token for c in first.strangers[0]]), abs=1e-4
    )


@pytest.mark.parametrize(
    ("helps", "flagged", "note"),
    [
        ([50.0, 52.0, 47.0, 20.0, 55.0, 50.0], [], ""),
        ([50.0, 52.0, 47.0, 8.0, 55.0, -20.0], [3, 5], ""),
        ([50.0, 52.0, 47.0, None, 55.0, 50.0, 2.0], [6], ""),
        (
            [15.0, 17.0, 26.0, 0.0, 8.0, 30.0, 22.0, 2.0],
            [],
            "may not know the language, or clips as long as these, or the texts do not belong",
        ),
        ([-8.0, -9.0, -8.0, -7.0, 3.0, -10.0], [], "listen to a few and compare"),
        ([50.0, 0.0], [], "takes 6 clips"),
    ],
)
def test_a_text_is_flagged_that_helps_much_less_than_usual(helps, flagged, note):
    findings = [Finding(str(i), f"{i}.wav", {"duration_sec": 3.0}) for i in range(len(helps))]
    assert note in check_text_help(findings, helps)
    assert [i for i, finding in enumerate(findings) if "text_audio_mismatch" in finding.flags] == flagged


def test_a_text_is_held_against_those_of_clips_as_long_as_its_own():
    """What right and wrong texts tell the mini model about clips of a long recording: less, the longer they are."""
    short = [(2 + i / 10, 50.0 + i % 7) for i in range(30)]
    long = [(8.0, 24.9), (8.3, 29.5), (8.9, 12.2), (10.8, 16.0), (11.1, 16.4), (11.6, 11.4), (12.4, 18.2), (14.2, 11.0)]
    wrong = [(3.05, 8.9), (8.7, -3.2), (12.0, -2.9), (14.0, 1.5)]
    clips = [*wrong, *short, *long]
    random.Random(0).shuffle(clips)
    findings = [Finding(str(i), f"{i}.wav", {"duration_sec": seconds}) for i, (seconds, _) in enumerate(clips)]
    assert check_text_help(findings, [help_ for _, help_ in clips]) == ""
    flagged = [clip for clip, finding in zip(clips, findings, strict=True) if finding.flags]
    assert sorted(flagged) == wrong


def test_long_clips_whose_texts_are_all_wrong_are_no_measure_for_each_other():
    clips = [(3 + i / 100, 55.0) for i in range(20)] + [(12 + i / 100, i - 3.0) for i in range(6)]
    findings = [Finding(str(i), f"{i}.wav", {"duration_sec": seconds}) for i, (seconds, _) in enumerate(clips)]
    check_text_help(findings, [help_ for _, help_ in clips])
    assert [i for i, finding in enumerate(findings) if finding.flags] == [*range(20, 26)]


@pytest.fixture(scope="module")
def example_data(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("examples") / "data"
    arguments = ["--input-dir", str(CLIPS), "--output-dir", str(data), "--model-dir", str(MINI)]
    assert prepare_joint_data.main(arguments) == 0
    return data


@pytest.mark.scripts
def test_the_example_clips_raise_no_false_alarm(example_data):
    report = json.loads((example_data / "report.json").read_text(encoding="utf-8"))
    assert not [row["clip"] for row in report if "text_audio_mismatch" in row["flags"]]
    assert all(row["text_help"] > 10 for row in report)


@pytest.mark.scripts
@pytest.mark.slow  # ten seconds
def test_swapped_texts_are_found(example_data, tmp_path):
    """Three pairs of thirty, three random draws: at least 5 of 6 found each time, at most 1 false alarm on average."""
    llm, false_alarms = load_part(MINI, "llm").eval(), 0
    rows = read_rows(example_data)
    clips = [Spoken(f"{row.utt}-{row.utt}", row.text_token, row.speech_token, row.utt_embedding) for row in rows]
    for draw in range(3):
        drawn = random.Random(draw).sample(range(len(clips)), 6)
        mixed = list(clips)
        for a, b in zip(drawn[::2], drawn[1::2], strict=True):
            for i, j in ((a, b), (b, a)):
                mixed[i] = replace(clips[i], text_token=clips[j].text_token, fingerprint=f"{rows[i].utt}-{rows[j].utt}")
        check = TextCheck(tmp_path, "mini", mixed)
        check.run(llm)
        findings = [Finding(row.utt, row.wav, {"duration_sec": row.duration}) for row in rows]
        check_text_help(findings, [25 * help_ for help_ in check.results()])
        flagged = {i for i, finding in enumerate(findings) if finding.flags}
        assert len(flagged & set(drawn)) >= 5
        false_alarms += len(flagged - set(drawn))
    assert false_alarms <= 3


@pytest.mark.scripts
def test_a_wrong_text_is_reported_and_the_check_can_be_left_out(tmp_path):
    model, raw = tmp_path / "model", tmp_path / "raw"
    shutil.copytree(MINI, model)
    raw.mkdir()
    for path in sorted(CLIPS.iterdir())[4:20]:
        shutil.copy(path, raw)
    texts = sorted(raw.glob("*.txt"))
    first, last = (path.read_text(encoding="utf-8") for path in (texts[0], texts[-1]))
    texts[0].write_text(last, encoding="utf-8")
    texts[-1].write_text(first, encoding="utf-8")
    arguments = ["--input-dir", str(raw), "--output-dir", str(tmp_path / "data"), "--model-dir", str(model)]
    assert prepare_joint_data.main(arguments) == 0
    report = json.loads((tmp_path / "data" / "report.json").read_text(encoding="utf-8"))
    flagged = [row["clip"] for row in report if "text_audio_mismatch" in row["flags"]]
    assert flagged == [texts[0].stem, texts[-1].stem]

    (model / "llm.pt").write_bytes(b"not read")
    assert prepare_joint_data.main([*arguments, "--no-text-check"]) == 0
    assert "text_audio_mismatch" not in (tmp_path / "data" / "report.json").read_text(encoding="utf-8")
    assert prepare_joint_data.main(arguments) == 2
    (model / "llm.pt").unlink()
    assert prepare_joint_data.main(arguments) == 0
    assert "texts are not checked" in (tmp_path / "data" / "report.txt").read_text(encoding="utf-8")


class FakeRecogniser:
    """Hears the same in every clip, and counts."""

    name, calls = "fake", 0

    def __init__(self, model_dir=None):
        pass

    def language(self, waves):
        assert all(wave.ndim == 1 and len(wave) > 8000 for wave in waves)
        return "it"

    def hear(self, wave, language):
        assert language == "it"
        FakeRecogniser.calls += 1
        return "la porta"


@pytest.mark.scripts
def test_a_recogniser_s_errors_stand_beside_each_clip_and_are_stored(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in sorted(CLIPS.iterdir())[:4]:
        shutil.copy(path, raw)
    (raw / "001.txt").write_text("La porta!", encoding="utf-8")
    (raw / "002.txt").write_text("Ecco 5 alte finestre.", encoding="utf-8")
    monkeypatch.setattr(prepare_joint_data, "missing", lambda with_model: "")
    monkeypatch.setattr(prepare_joint_data, "Recogniser", FakeRecogniser)
    arguments = ["--input-dir", str(raw), "--output-dir", str(tmp_path / "data"), "--model-dir", str(MINI)]
    for calls, more in ((2, []), (2, []), (4, ["--force"])):  # the second time nothing is heard again
        assert prepare_joint_data.main([*arguments, *more]) == 0
        assert FakeRecogniser.calls == calls
        first, second = json.loads((tmp_path / "data" / "report.json").read_text(encoding="utf-8"))
        assert (first["cer"], first["heard"]) == (0, "la porta")
        assert second["cer"] > 0.5
        assert "digits_in_english" in second["flags"] and "digits_in_english" not in first["flags"]
    assert "character error rate" in (tmp_path / "data" / "report.html").read_text(encoding="utf-8")


def test_character_errors_ignore_case_blanks_and_punctuation():
    assert character_error_rate("Turn left, here.", "turn  lefthere", "en") == 0
    assert character_error_rate("早上好", "晚上好", "zh") == pytest.approx(1 / 3)
    assert character_error_rate("...", "noise", "en") == 1
