"""The evaluation's own arithmetic and book-keeping; the judges themselves are not needed."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from build_mini import evaluate, judges, texts
from build_mini.evaluate import BASE_TUNED, OTHERS, REAL_HELD_OUT, TOGETHER, Judged, Rows
from config import MODES, UserError

RATE = judges.RATE
LINES = [line.strip() for line in evaluate.SENTENCES.read_text(encoding="utf-8").splitlines() if line.strip()]


def clip(text: str | None = "See the sea.", **figures: object) -> Judged:
    """A judged clip of two seconds."""
    plain = Judged(text, None, None, [1.0, 0.0], 3.0, 2.0, 1.5, 200.0, 2.0, True, 1, 0.5)
    return replace(plain, **figures)


def tone(seconds: float, hz: float = 150.0) -> np.ndarray:
    """A buzz with harmonics, as loud as speech."""
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(0.1 / k * np.sin(2 * np.pi * k * hz * time) for k in range(1, 6)).astype(np.float32)


# ---- the sentences ---------------------------------------------------------------------------------------------------


def test_there_are_thirty_different_sentences_of_six_to_fourteen_known_words():
    assert len(set(LINES)) == len(LINES) == 30
    for line in LINES:
        assert 6 <= len(line.split()) <= 14, line
        assert not re.search(r"\d", line) and line[0].isupper() and line[-1] in ".?!", line
        assert evaluate.phone_count(line), line


def grammar() -> list[re.Pattern[str]]:
    """One pattern for each template of the training texts, with all that its slots may hold."""
    slots = {
        "n": texts.NOUNS,
        "v": texts.verbs(),
        "b": texts.BARE_VERBS,
        "a": texts.ADJECTIVES,
        "d": texts.DETERMINERS,
        "d2": texts.ADVERBS,
        "p": texts.PLACES,
        "N": texts.NAMES,
        "D": texts.ADVERBS,
        "p2": texts.PLACES,
    }
    fillings = {name: "(?:" + "|".join(map(re.escape, words)) + ")" for name, words in slots.items()}
    fillings |= {"w": "[a-z]+", "W": "[a-z]+", "k": "[a-z]+(?: [a-z]+)?"}
    pieces = [re.split(r"\{(\w+)\}", template) for template in texts.TEMPLATES]
    return [
        re.compile("".join(fillings[part] if i % 2 else re.escape(part) for i, part in enumerate(split)), re.IGNORECASE)
        for split in pieces
    ]


def test_no_sentence_can_be_a_training_text():
    patterns = grammar()
    stream = texts.sentences(1)
    made = [text for text in (next(stream) for _ in range(300)) if len(text.split()) > 5]
    assert all(any(pattern.fullmatch(text) for pattern in patterns) for text in made), "the patterns are incomplete"
    assert not [line for line in LINES if any(pattern.fullmatch(line) for pattern in patterns)]


# ---- measuring a clip ------------------------------------------------------------------------------------------------


def test_speech_is_measured_without_the_silence_around_it():
    silence = np.zeros(RATE // 2, dtype=np.float32)
    wave = np.concatenate([silence, tone(1.0), silence, tone(0.5), silence])
    assert evaluate.speech_seconds(wave, RATE) == pytest.approx(2.0, abs=0.03)
    assert evaluate.speech_seconds(silence, RATE) == evaluate.speech_seconds(silence[:0], RATE) == 0.0


def test_phones_are_counted_where_all_words_are_known():
    assert evaluate.phone_count("See the sea.") == 6
    assert evaluate.phone_count("See “the” sea…") == 6
    assert evaluate.phone_count("See the xqzzt.") is evaluate.phone_count("Да, он.") is None


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_that_are_not_known_are_left_out():
    clips = [clip(), clip("Да.", f0_hz=None, f0_spread=None), clip(None, mos=1.0)]
    figures = evaluate.summary(clips)
    assert figures["clips"] == 3 and figures["WER Whisper"] is None and figures["F0 Hz"] == 200.0
    assert figures["MOS"] == pytest.approx(7 / 3) and figures["phones/s"] == pytest.approx(6 / 1.5)
    assert evaluate.summary([clip(None, f0_hz=None, f0_spread=None)])["phones/s"] is None


def test_the_word_error_rate_is_over_all_clips_that_were_heard(monkeypatch):
    monkeypatch.setattr(judges, "word_errors", lambda texts, heard: (texts, heard))
    clips = [clip("a", whisper="b"), clip(None), clip("c", whisper="")]
    assert evaluate.word_errors(clips, "whisper") == (["a", "c"], ["b", ""])
    assert evaluate.word_errors(clips, "sphinx") is None


def test_cosines_and_positions():
    own, other = [clip(vector=[1.0, 0.0])] * 2, [clip(vector=[0.0, 1.0])] * 2
    middle = evaluate.centre(own)
    assert (evaluate.cosine(own, middle), evaluate.cosine(other, middle)) == (1.0, 0.0)
    halfway = [clip(vector=[0.8, 0.6])]
    assert evaluate.conversion(halfway, own, other)["share of the gap"] == pytest.approx(0.6)


def test_durations_are_compared_with_flite_or_with_seconds_per_phone():
    spoken = {("slt", "a"): clip(seconds=3.0), ("slt", "b"): clip(seconds=1.0)}
    kin = {("slt", "a"): clip(seconds=1.5), ("slt", "b"): clip(seconds=1.0)}
    figures = evaluate.speech_figures(spoken, kin, 9.0)
    assert (figures["shortest"], figures["median"], figures["longest"]) == (1.0, 1.5, 2.0)
    assert figures["in 0.6-1.6"] == 0.5 and figures["real-time factor"] == 0.25
    alone = evaluate.speech_figures({("new", "a"): clip(seconds=3.0)}, kin, 0.25)
    assert alone["median"] == 2.0 and alone["flite MOS"] is None
    assert evaluate.speech_figures({}, kin, 1.0) == {}


def test_sentences_are_spread_over_the_voices_and_the_main_voice_says_all():
    lines = list("abcd")
    plan = evaluate.speaking_plan(["slt", "awb", "new"], lines, all_voices=False)
    assert [text for name, text in plan if name == "slt"] == ["a", "c", "b", "d"]
    assert [text for name, text in plan if name == "awb"] == ["b", "d"]
    assert [text for name, text in plan if name == "new"] == lines
    assert len(evaluate.speaking_plan(["slt", "awb"], lines, all_voices=True)) == 8


@pytest.mark.parametrize("clips, trained", [(40, 30), (500, 30), (24, 18), (2, 1)])
def test_a_quarter_of_few_clips_is_held_out(clips, trained):
    assert evaluate.training_count(clips) == trained


# ---- what the model must reach ---------------------------------------------------------------------------------------


def tuned(position: float, wer: float, rate: float = 12.0, **more: float) -> dict[str, float]:
    return {"position": position, "WER Whisper": wer, "phones/s": rate, "F0 spread": 2.0, "ended": 1.0, **more}


def reached(checks: list[evaluate.Check]) -> list[bool]:
    return [check.reached for check in checks]


def test_checks_of_fine_tuning():
    table = {
        BASE_TUNED: tuned(0.3, 0.10, 15.0),
        "joint": tuned(0.8, 0.14, **{"training s": 100.0}),
        "flow_only": tuned(0.2, 0.1),
        "llm_only": tuned(0.3, 0.1, 13.0),
        OTHERS: {"cosine": 0.5},
    }
    same = {
        BASE_TUNED: {"phones/s": 15.0, "F0 spread": 2.0},
        "llm_only": {"phones/s": 13.0, "F0 spread": 2.0},
        REAL_HELD_OUT: {"phones/s": 12.0, "F0 spread": 4.0},
    }
    tables = {"systems": table, "rhythm": same}
    assert reached(evaluate.finetune_checks(tables)) == [True] * 5 + [False, True, False]
    table["joint"] = tuned(0.6, 0.16, **{"training s": 700.0})
    assert reached(evaluate.finetune_checks(tables))[:5] == [False, True, False, True, False]
    same[REAL_HELD_OUT]["phones/s"] = None
    del table["joint"], table["flow_only"]
    assert reached(evaluate.finetune_checks(tables)) == [False, False]
    assert evaluate.finetune_checks(tables | {"rhythm": {}}) == []


def test_rhythm_is_compared_with_the_speaker_who_says_the_same_texts():
    real = [clip(text="a cat", speech_seconds=2.0), clip(text="a dog", speech_seconds=1.0)]
    slow = [
        clip(text="a cat", speech_seconds=4.0, f0_spread=3.0),
        clip(text="a dog", speech_seconds=2.0, f0_spread=1.0),
    ]
    figures = evaluate.rhythm(slow, real)
    assert figures["duration / real"] == pytest.approx(2.0) and figures["F0 spread"] == 2.0
    assert figures["phones/s"] == pytest.approx(evaluate.phone_rate(real) / 2)


def test_checks_of_resynthesis_and_speech():
    tables = {"systems": {"own vector": {"WER Whisper": 0.1}}, "conversion": {"slt": {"share of the gap": 0.4}}}
    assert reached(evaluate.resynthesis_checks(tables)) == [True, False]
    row = {"WER Whisper": 0.2, "shortest": 0.9, "longest": 1.7, "MOS": 2.5, "flite MOS": 2.7, "ended": 1.0}
    found = evaluate.speech_checks({"voices": {TOGETHER: row}})
    assert reached(found) == [False, True, True, False, True, True]
    assert evaluate.speech_checks({"voices": {"new": {}}}) == []


def test_the_report_lines_up_and_says_what_was_missed():
    tables = {"systems": {"a": {"WER": 0.25, "clips": 3}, "longer": {"WER": None}}}
    text = evaluate.report("speech", tables, [evaluate.at_most("WER", 0.25, 0.15)])
    assert "          WER  clips\na       0.250      3\nlonger      -      -" in text
    assert "NO  WER: 0.250 (at most 0.15)" in text


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_results_are_saved_at_once_and_not_computed_again(tmp_path):
    path = tmp_path / "work" / "rows.json"
    rows = Rows(path, keep_sounds=False)
    rows.once("speech/a", lambda: {"mos": 3})
    rows.once("finetune/a", lambda: {"mos": 4})
    assert json.loads(path.read_text(encoding="utf-8")) == {"speech/a": {"mos": 3}, "finetune/a": {"mos": 4}}
    again = Rows(path, keep_sounds=False)
    assert again.once("speech/a", lambda: pytest.fail("computed again")) == {"mos": 3}
    again.forget("speech/")
    assert again.once("speech/a", lambda: {"mos": 5}) == {"mos": 5}
    assert not list(path.parent.glob("*.part"))


def test_another_model_has_other_results(tmp_path):
    (tmp_path / "llm.pt").write_bytes(b"one")
    first = evaluate.directory_digest(tmp_path)
    assert first == evaluate.directory_digest(tmp_path)
    (tmp_path / "llm.pt").write_bytes(b"two")
    assert first != evaluate.directory_digest(tmp_path)


def test_a_trial_run_has_its_own_folder(tmp_path):
    whole, trial = (evaluate.parse_args(["--work-dir", str(tmp_path), *more]) for more in ([], ["--limit", "3"]))
    assert evaluate.Setup.of(whole).folder != evaluate.Setup.of(trial).folder
    assert evaluate.Setup.of(trial).sentences == LINES[:3]
    names = [evaluate.Setup.of(args).speaker for args in (whole, trial)]
    assert all(re.fullmatch("en_allison_[0-9a-f]{12}", name) for name in names) and names[0] != names[1]


def test_other_recordings_or_texts_are_another_speaker(tmp_path):
    folder = tmp_path / "anna" / "raw_audio"
    folder.mkdir(parents=True)
    args = evaluate.parse_args(["--work-dir", str(tmp_path), "--speaker-dir", str(folder)])
    names = [speaker_of(args, folder, {"001": tone(1.0), "002": tone(2.0)})]
    names.append(speaker_of(args, folder, {"003": tone(1.5)}))  # added
    names.append(speaker_of(args, folder, {"001": tone(1.2)}))  # recorded again
    (folder / "002.txt").write_text("Other words.", encoding="utf-8")
    names.append(evaluate.Setup.of(args).speaker)
    assert len(set(names)) == 4 and all(name.startswith("anna_") for name in names)
    assert speaker_of(args, folder, {}) == names[-1]


def speaker_of(args: argparse.Namespace, folder: Path, waves: dict[str, np.ndarray]) -> str:
    """What the speaker is called after these recordings were written into its folder."""
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave, RATE)
        (folder / f"{name}.txt").write_text("Some words.", encoding="utf-8")
    return evaluate.Setup.of(args).speaker


def test_a_mode_that_is_run_alone_leaves_the_figures_of_the_others(tmp_path, monkeypatch):
    def part(setup: evaluate.Setup) -> dict[str, evaluate.Table]:
        return {"systems": {mode: {"MOS": float(len(mode))} for mode in setup.args.mode}}

    def check(tables: dict[str, evaluate.Table]) -> list[evaluate.Check]:
        return [evaluate.at_least(mode, row["MOS"], 1.0) for mode, row in tables["systems"].items()]

    monkeypatch.setitem(evaluate.PARTS, "finetune", (part, check))
    monkeypatch.setattr(judges, "require", lambda: None)
    monkeypatch.setattr(evaluate.shutil, "which", lambda name: name)
    options = ["--work-dir", str(tmp_path), "--part", "finetune", "--threads", "1"]

    def modes(*more: str) -> list[set[str]]:
        """Rows of both tables in the file after a run."""
        args = evaluate.parse_args([*options, *more])
        evaluate.evaluate(args)
        setup = evaluate.Setup.of(args)
        figures = json.loads((setup.folder / "figures.json").read_text(encoding="utf-8"))[f"finetune/{setup.speaker}"]
        return [set(figures[name]) for name in ("systems", "checks")]

    assert modes("--mode", "joint", "--mode", "llm_only") == [{"joint", "llm_only"}] * 2
    assert modes("--mode", "flow_only") == [{"joint", "llm_only", "flow_only"}] * 2
    assert modes("--mode", "flow_only", "--fresh") == [{"flow_only"}] * 2


# ---- the command line ------------------------------------------------------------------------------------------------


def test_missing_judges_are_named_with_the_command(monkeypatch, capsys):
    monkeypatch.setattr(judges, "find_spec", lambda name: None if name == "jiwer" else object())
    with pytest.raises(UserError, match=r"not installed here \(jiwer\); run: make eval-mini"):
        judges.require()
    assert evaluate.main(["--part", "speech"]) == 2
    assert capsys.readouterr().err.startswith("error: the judges are not installed here")


def test_speakers_without_texts_are_refused(tmp_path):
    args = evaluate.parse_args(["--work-dir", str(tmp_path), "--speaker-dir", str(tmp_path / "none")])
    with pytest.raises(UserError, match="is not a folder"):
        _ = evaluate.Setup.of(args).clips
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "001.wav").write_bytes(b"")
    with pytest.raises(UserError, match="fewer than two recordings have a text"):
        _ = evaluate.Setup.of(args).clips


def test_a_folder_of_other_voices_that_is_not_there_is_named(tmp_path):
    args = evaluate.parse_args(["--work-dir", str(tmp_path), "--other-clips", str(tmp_path / "none")])
    with pytest.raises(UserError, match="none is not a folder; give one with a sub-folder for each voice"):
        evaluate.Setup.of(args).further_clips()


def test_modes_are_those_of_the_settings():
    assert evaluate.parse_args([]).mode is None
    assert evaluate.parse_args(["--mode", "joint", "--mode", "flow_only"]).mode == ["joint", "flow_only"]
    assert MODES[0] == "joint", "train_mode leaves the default mode out of the command line"
