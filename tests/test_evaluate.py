"""evaluate_joint.py and what it counts: figures, intervals, verdicts, the page, and mistakes."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from html_page import check_page
from random_data import write_random_data

import evaluate_joint
import prepare_joint_data
from checkpoint import FORMAT, PARTS, with_voice
from clips.mel_store import DataError
from common.files import save_torch
from common.recogniser import errors, normal_form
from config import UserError, load, to_dict
from cosyvoice.cli.cosyvoice import VOICES
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.utils.common import EXTRACTOR_RATE
from cosyvoice.utils.yaml_loader import read_model_config
from dataset import Clip, data_fingerprint, hold_out, read_rows, write_shard
from voice import evaluation
from voice.evaluation import BY_NAME, Comparison, Sentence, as_json, compare, figures_of, finite, shown
from voice.evaluation_page import take
from voice.loading import load_voice
from voice.metrics import (
    difference_interval,
    mean_interval,
    pitch,
    position,
    repeated_share,
    share_interval,
)
from voice.recordings import read_recording

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "pretrained_models" / "CosyVoice-mini"
CLIPS = ROOT / "examples" / "en_allison" / "raw_audio"
SENTENCES = ["Good morning.", "Where is the key?", "Sit down by the fire."]


# ---- what is counted -------------------------------------------------------------------------------------------------


def test_repetition_counts_phrases_that_were_said_before():
    assert repeated_share([1, 2, 3, 4, 5, 6]) == 0
    assert repeated_share([1, 2, 3, 4] * 3) == pytest.approx(5 / 9)
    assert repeated_share([7] * 10) == pytest.approx(6 / 7)
    assert repeated_share([1, 2]) == 0


def test_a_figure_that_there_is_not_is_no_missing_value():
    assert evaluation.ratios([{}], "wer") == []
    with pytest.raises(KeyError, match="faild"):
        evaluation.ratios([{"failed": (1.0, 1.0)}], "faild")


def test_pitch_of_a_tone_that_glides_an_octave():
    seconds = torch.arange(2 * EXTRACTOR_RATE) / EXTRACTOR_RATE
    hz = 120 * 2 ** (seconds / 2)
    phase = 2 * math.pi * torch.cumsum(hz / EXTRACTOR_RATE, dim=0)
    tone = sum((phase * k).sin() / k for k in range(1, 9))[None] * 0.2
    median, spread, _ = pitch(tone)
    assert median == pytest.approx(120 * 2**0.5, rel=0.02)
    assert spread == pytest.approx(12 / 12**0.5, rel=0.05)  # of a uniform distribution
    assert pitch(torch.zeros(1, EXTRACTOR_RATE)) is None


def test_an_error_rate_weighs_sentences_by_their_words():
    interval = BY_NAME["wer"].interval([(1, 2), (0, 8)])
    assert interval.value == pytest.approx(0.1)
    assert interval.low == 0, "no rate is negative"
    assert interval.high == pytest.approx(0.1 + 12.7062 * 0.16)  # t of one degree of freedom; residuals 0.16 and -0.16
    assert mean_interval([]) is None


def test_one_sentence_alone_proves_nothing():
    assert mean_interval([(0.5, 1)]).value == 0.5
    lonely_difference = difference_interval([(3, 1)], [(1, 1)])
    assert not lonely_difference.excludes_zero
    rows = finite(evaluate_joint.as_rows([Comparison("clarity", lonely_difference)]))
    assert rows["clarity"]["gain"] == {"value": 2.0, "low": None, "high": None}
    assert shown(mean_interval([(-0.5, 1)]), 2) == ("-0.50", "?", "?")
    lonely = Sentence("a", torch.zeros(1, 1), 16000, {"clarity": (1.0, 1)})
    assert finite(as_json([lonely]))["figures"]["clarity"] == {"value": 1.0, "low": None, "high": None}


def test_an_interval_holds_nothing_that_its_figure_cannot_be():
    similar = BY_NAME["similarity"].interval([(0.2, 1), (0.9, 1)])
    assert (similar.low, similar.high) == (-1, 1), "a cosine"
    assert (
        BY_NAME["clarity"].interval([(1, 1), (9, 1)]).low < 0 == BY_NAME["silence_sec"].interval([(1, 1), (9, 1)]).low
    )


def test_what_never_happened_in_ten_sentences_may_happen_in_the_next():
    never, once = share_interval([False] * 10), share_interval([True] + [False] * 9)
    assert (never.value, never.low) == (0, 0) and never.high == pytest.approx(0.2775, abs=1e-4)  # Wilson's table
    assert (once.value, once.low, once.high) == (0.1, pytest.approx(0.0179, abs=1e-4), pytest.approx(0.4042, abs=1e-4))
    assert share_interval([True] * 10).low == pytest.approx(1 - never.high) and share_interval([]) is None
    assert BY_NAME["failed"].interval([(0.0, 1)] * 10) == never


@pytest.mark.parametrize("sentences", [3, 4, 10, 50])
def test_chance_is_called_proven_about_one_time_in_twenty(sentences):
    """Also where sentences are as few as training hears."""
    rng, trials, proven, covered = np.random.default_rng(0), 1000, 0, 0
    for _ in range(trials):
        words = rng.integers(5, 12, size=sentences)
        rates = rng.normal(0.3, 0.1, size=(2, sentences))
        ours, theirs = (list(zip(row * words, words, strict=True)) for row in rates)
        proven += difference_interval(ours, theirs).excludes_zero
        found = mean_interval(ours)
        covered += found.low <= 0.3 <= found.high
    assert 0.03 <= proven / trials <= 0.075 and 0.925 <= covered / trials <= 0.97


def test_what_all_sentences_share_cancels_out_of_a_difference():
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=10, size=12)  # sentences differ much more than the systems do
    ours, theirs = (hard + gain + rng.normal(scale=0.1, size=12) for gain in (1, 0))
    ours, theirs = ([(value, 1) for value in values] for values in (ours, theirs))
    found = difference_interval(ours, theirs)
    assert found.excludes_zero and found.value == pytest.approx(1, abs=0.15)
    assert not difference_interval(theirs, theirs).excludes_zero
    with pytest.raises(ValueError, match="12 and 11 sentences"):
        difference_interval(ours, theirs[:11])


def test_position_between_two_marks():
    assert position(0.5, 0.4, 0.6) == pytest.approx(0.5)
    assert math.isnan(position(0.5, 0.4, 0.4))


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["今日は本を読む", "空は青い", "月明"], "sentences_en.txt"),  # Japanese, with one text of kanji only
        (["早上好", "今天天气很好", "Good morning"], "sentences_zh.txt"),
        (["<|yue|>早晨"], "sentences_zh.txt"),
        (["Guten Morgen", "<|de|>Danke"], "sentences_en.txt"),
        ([], "sentences_en.txt"),
    ],
)
def test_the_list_that_ships_is_in_the_language_of_most_texts_or_english(texts, name):
    assert evaluation.shipped_list(texts).name == name


@pytest.mark.parametrize(
    ("text", "heard", "language", "expected"),
    [
        ("Don't wait, twenty-one!", "do not wait 21", "en", (0, 4)),
        ("Turn left here.", "turn here please", "en", (2, 3)),
        ("早上好，大家。", "早上好大家", "zh", (0, 5)),
        ("早上好", "晚上好", "zh", (1, 3)),
        ("Привет всем", "привет", "ru", (1, 2)),
        ("Yes.", "", "en", (1, 1)),
        ("...", "noise", "en", (0, 0)),
    ],
)
def test_words_are_counted_in_their_spoken_form(text, heard, language, expected):
    assert errors(text, heard, language) == expected


def test_tags_are_not_words():
    assert normal_form("<|en|>Hello, World", "en") == "hello world"


# ---- verdicts --------------------------------------------------------------------------------------------------------


def sentences(**figures: list[float]) -> list[Sentence]:
    rows = zip(*figures.values(), strict=True)
    return [
        Sentence("", torch.zeros(1, 1), 16000, {name: (value, 1) for name, value in zip(figures, row, strict=True)})
        for row in rows
    ]


def test_verdicts_know_what_is_good_and_call_noise_noise():
    base = sentences(similarity=[0.30, 0.32, 0.31, 0.29], wer=[0.2, 0.4, 0.1, 0.3], f0_hz=[120, 121, 119, 122])
    tuned = sentences(similarity=[0.60, 0.65, 0.62, 0.61], wer=[0.3, 0.2, 0.2, 0.3], f0_hz=[205, 190, 199, 201])
    found = {one.name: one.verdict for one in compare(figures_of(tuned), figures_of(base), {"f0_hz": 200.0})}
    assert found == {"wer": "the same within the noise", "similarity": "better", "f0_hz": "better"}
    back = {one.name: one.verdict for one in compare(figures_of(base), figures_of(tuned), {})}
    assert back == {"wer": "the same within the noise", "similarity": "worse"}  # no target: no verdict on pitch


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([203, 189, 211, 218], "better"),  # the whole came nearer, sentence by sentence as scattered as before
        ([190, 176, 198, 205], "the same within the noise"),  # as far below as it was above
        ([146, 135, 152, 158], "worse"),
        ([217, 204, 225, 234], "the same within the noise"),
    ],
)
def test_what_is_to_be_near_the_speakers_own_is_judged_by_its_mean(ours, verdict):
    theirs = figures_of(sentences(f0_hz=[218, 203, 225, 234]))
    (found,) = compare(figures_of(sentences(f0_hz=ours)), theirs, {"f0_hz": 204.0})
    assert found.verdict == verdict
    expected = math.log2(np.exp(np.log([218, 203, 225, 234]).mean()) / 204)
    assert found.gain.value == pytest.approx(expected - abs(math.log2(np.exp(np.log(ours).mean()) / 204)))


def test_a_sentence_that_could_not_be_measured_is_left_out_on_both_sides():
    ours, theirs = sentences(similarity=[0.5, 0.6, 0.7]), sentences(similarity=[0.1, 0.2, 0.3])
    del ours[1].figures["similarity"]
    (found,) = compare(figures_of(ours), figures_of(theirs), {})
    assert found.gain.value == pytest.approx(0.4)


def test_figures_that_are_no_numbers_cost_nobody_the_report(tmp_path, capsys):
    spoken = {name: sentences(clarity=[math.nan] * 3, similarity=[0.5, 0.6, 0.7]) for name in ("base", "tuned")}
    for sentence in [sentence for found in spoken.values() for sentence in found]:
        object.__setattr__(sentence, "wave", torch.zeros(1, 16000))
    evaluate_joint.report(tmp_path, {}, evaluate_joint.Reference({}, [], math.nan, 0.1), spoken, {})
    written = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert written["systems"]["tuned"]["figures"]["clarity"]["value"] is None and written["scale"]["ceiling"] is None
    assert written["systems"]["base"]["sentences"][0]["clarity"] is None
    assert "similarity" in capsys.readouterr().out


def test_a_sentence_of_one_speech_token_is_on_the_page():
    assert take("base", 0, Sentence("a", torch.full((1, 256), 0.1), 22050)).sound.startswith("data:audio/mpeg")


def test_without_another_text_there_is_no_clarity():
    text = torch.tensor([1, 2])
    assert evaluation.Clarity(None, None, None, [text] * 3).figures(text, [5, 6], torch.zeros(1, 16000)) == {}


def test_lines_that_are_spoken_alike_count_once(tmp_path, capsys):
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*SENTENCES, SENTENCES[0], f" {SENTENCES[0]} "]), encoding="utf-8")
    frontend = CosyVoiceFrontEnd(read_model_config(MINI))
    args = evaluate_joint.parse_args(["--sentences", str(path)])
    assert evaluate_joint.read_sentences(args, [], frontend) == SENTENCES
    assert "2 repeated lines left out" in capsys.readouterr().out


# ---- which clips were held out ---------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path, monkeypatch) -> list[Clip]:
    """Prepared clips in `data` of the working folder."""
    monkeypatch.chdir(tmp_path)
    return read_rows(write_random_data(Path("data"), n_clips=30))


HER = {"name": "her", "embedding": torch.ones(1, 192), "seconds_per_text_token": 0.2}


def write_checkpoint(path: str, clips: list[Clip], *settings: str) -> Path:
    """A checkpoint of a run on these clips, with an adapter for a layer that no model has."""
    settings = load(settings)[0]
    ranks = {part: settings.part(part).lora_r for part in PARTS}
    adapters = {part: {"x.lora_A": torch.zeros(r, 2), "x.lora_B": torch.zeros(2, r)} for part, r in ranks.items()}
    known = {"format": FORMAT, "run_id": "", "mode": "joint", "base": {"llm.pt": "", "flow.pt": ""}, "speaker": HER}
    config = to_dict(settings)
    progress = {"epoch": 1, "step": 1}
    own = {"config": config, "data": data_fingerprint(clips), "adapters": adapters}
    save_torch({**known, **progress, **own}, Path(path))
    return Path(path)


@pytest.fixture
def held_out(tiny_model_dir):
    """Tells the clips that are held out with these arguments."""
    config = read_model_config(tiny_model_dir)

    def names(*arguments: str | Path) -> list[str]:
        args = evaluate_joint.parse_args([*map(str, arguments)])
        return [clip.utt for clip in evaluate_joint.split_clips(args, evaluate_joint.read_clips(args, config))[1]]

    return names


def test_clips_are_held_out_as_in_the_run_of_the_named_checkpoint(clips, held_out):
    seven, newest = ("seed=7", "validation_clips=5"), ("seed=8", "validation_clips=4")
    named = write_checkpoint("named.ckpt", clips, *seven)
    write_checkpoint("output/joint_joint_last.ckpt", clips, *newest)
    expected = {seed: [clip.utt for clip in hold_out(clips, seed, count)[1]] for seed, count in ((7, 5), (8, 4))}
    assert expected[7] != expected[8]
    assert held_out("--ckpt", named) == held_out("--base", "--ckpt", named) == expected[7]
    assert held_out() == held_out("--base") == expected[8]


def test_a_named_checkpoint_that_held_out_other_clips_is_warned_of(clips, held_out, capsys):
    one, other = (write_checkpoint(f"{seed}.ckpt", clips, f"seed={seed}") for seed in (1, 2))
    same = write_checkpoint("same.ckpt", clips, "seed=1", "validation_clips=3")
    assert held_out("--ckpt", one, "--ckpt", same) == held_out("--ckpt", one)
    assert capsys.readouterr().out == ""
    assert held_out("--ckpt", one, "--ckpt", other) == held_out("--ckpt", one)
    assert capsys.readouterr().out == "warning: 2.ckpt held out other clips than 1.ckpt, whose are taken here\n"


def test_of_named_checkpoints_the_first_that_was_trained_on_the_data_splits_it(clips, held_out):
    stranger = write_checkpoint("stranger.ckpt", clips[:20], "seed=1")
    own = write_checkpoint("own.ckpt", clips, "seed=2")
    assert held_out("--ckpt", stranger, "--ckpt", own) == held_out("--ckpt", own) != held_out("--ckpt", stranger)


def test_other_data_than_the_run_was_trained_on_is_warned_of(clips, held_out, capsys):
    named = write_checkpoint("named.ckpt", clips)
    write_random_data(Path("stranger"), n_clips=30, seed=1)
    assert held_out("--ckpt", named, "--data-dir", "stranger")
    assert "warning: named.ckpt was trained on other clips than those of stranger: " in capsys.readouterr().out
    assert held_out("--base", "--data-dir", "stranger") and capsys.readouterr().out == ""
    newest = write_checkpoint("output/joint_joint_last.ckpt", clips)
    assert held_out("--base") and capsys.readouterr().out == ""
    assert held_out("--base", "--data-dir", "stranger")
    assert f"warning: {newest} was trained on other clips than those of stranger: " in capsys.readouterr().out


# ---- clips of another model ------------------------------------------------------------------------------------------


def write_meta(folder: str, meta: dict) -> None:
    """Have the shard say what it was made with."""
    [shard] = Path(folder).glob("*.parquet")
    write_shard(shard, pq.read_table(shard).to_pylist(), meta)


@pytest.mark.parametrize(
    ("meta", "model", "reason"),
    [
        (
            {"extractors": {"campplus.onnx": "0"}},
            "TINY",
            "data was prepared with another campplus.onnx than TINY holds",
        ),
        ({}, str(MINI), "clip '000': text_token "),
    ],
)
def test_clips_that_another_model_was_prepared_with_are_no_measure(meta, model, reason, clips, tiny_model_dir, capsys):
    write_meta("data", meta)
    model, reason = (text.replace("TINY", str(tiny_model_dir)) for text in (model, reason))
    config = read_model_config(Path(model))
    assert evaluate_joint.read_clips(evaluate_joint.parse_args([]), config) == []
    printed = capsys.readouterr().out
    assert printed.startswith(f"speaker similarity is skipped: {reason}") and printed.count("\n") == 1
    assert f"python prepare_joint_data.py --input-dir FOLDER --model-dir {model} --force" in printed
    with pytest.raises(DataError, match=re.escape(reason)):
        evaluate_joint.read_clips(evaluate_joint.parse_args(["--data-dir", "data"]), config)


# ---- their recordings ------------------------------------------------------------------------------------------------


def record(clips: list[Clip], folder: Path, longer_sec: float = 0.0) -> None:
    """Silence of each clip's length, or somewhat more, under its name."""
    folder.mkdir()
    for clip in clips:
        soundfile.write(folder / clip.wav, np.zeros(round((clip.duration + longer_sec) * 22050)), 22050)


def note_recordings(folder: Path) -> None:
    noted = {"input_dir": str(folder), "model_dir": str(MINI)}
    Path("data", "meta.json").write_text(json.dumps(noted), encoding="utf-8")


@pytest.fixture
def reference(tiny_model_dir, monkeypatch):
    """Reads what the clips and their recordings tell; a recording's sentence is its text."""
    monkeypatch.setattr(evaluate_joint, "listen_to", lambda text, *_: text)
    config = read_model_config(tiny_model_dir)

    def read(*arguments: str) -> evaluate_joint.Reference:
        args = evaluate_joint.parse_args([*arguments])
        split = evaluate_joint.split_clips(args, evaluate_joint.read_clips(args, config))
        return evaluate_joint.read_reference(args, MINI, split, SimpleNamespace(ge2e=None))

    return read


def test_recordings_are_looked_for_where_the_data_was_made_from(clips, reference, tmp_path, capsys):
    """Those in raw_audio are another speaker's, of the same names."""
    record(clips, tmp_path / "raw_audio_fixed")
    record(clips, tmp_path / "raw_audio", longer_sec=0.1)
    note_recordings(tmp_path / "raw_audio_fixed")
    assert len(reference().real) == 3 and capsys.readouterr().out == ""
    note_recordings(Path("raw_audio_fixed"))
    assert len(reference().real) == 3, "a path as it was typed"


def test_without_a_note_they_are_looked_for_in_raw_audio(clips, reference, tmp_path):
    record(clips, tmp_path / "raw_audio", longer_sec=0.04)
    note_recordings(tmp_path / "on another computer")
    assert len(reference().real) == 3


@pytest.mark.parametrize("longer_sec", [0.1, -0.1])
def test_another_speakers_recordings_are_not_listened_to(longer_sec, clips, reference, tmp_path, capsys):
    record(clips, tmp_path / "raw_audio", longer_sec)
    found = reference()
    assert found.real == [] and found.ceiling is not None
    printed = capsys.readouterr().out
    assert printed.startswith("real clips are not listened to: raw_audio") and printed.count("\n") == 1
    assert "is another recording, or has changed (" in printed and printed.endswith("with --raw-audio\n")
    with pytest.raises(UserError, match="is another recording, or has changed"):
        reference("--raw-audio", "raw_audio")


def test_a_recording_that_is_missing_is_named(clips, reference, tmp_path, capsys):
    record(clips[:1], tmp_path / "raw_audio")
    assert reference().real == []
    assert re.search(r"clip '(\d+)' was made from \1.wav, which is not in raw_audio; give", capsys.readouterr().out)
    with pytest.raises(UserError, match="which is not in raw_audio"):
        reference("--raw-audio", "raw_audio")
    with pytest.raises(UserError, match="nowhere does not exist"):
        reference("--raw-audio", "nowhere")


def test_no_recording_outside_of_the_folder_is_read(clips, tmp_path):
    with pytest.raises(UserError, match="which is no path below raw_audio"):
        read_recording(replace(clips[0], wav="../../elsewhere.wav"), Path("raw_audio"), "give another")


# ---- what is compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--base", "--ckpt", "base.ckpt"],
        ["--llm", "l.pt", "--flow", "f.pt", "--ckpt", "tuned.ckpt"],
        ["--ckpt", "a/b.ckpt", "--ckpt", "a_b.ckpt"],
        ["--ckpt", "a.ckpt", "--ckpt", "A.ckpt"],
        ["--ckpt", "a.ckpt", "--ckpt", "a.ckpt"],
        ["--ckpt", "a.ckpt", "--ckpt", "a.pt"],
        ["--ckpt", "a.ckpt", "--ckpt", "./a.ckpt"],
        ["--ckpt", "real clips, held out.ckpt"],
    ],
)
def test_two_systems_of_one_name_or_folder_are_refused(arguments):
    with pytest.raises(UserError, match=f"^--ckpt {Path(arguments[-1])} and '.*' would have the same name here"):
        evaluate_joint.choose_systems(evaluate_joint.parse_args(arguments), MINI)


@pytest.mark.parametrize("named", [["--ckpt", "a.ckpt"], ["--llm", "l.pt", "--flow", "f.pt"]])
def test_a_speaker_whom_nobody_would_speak_as_is_refused(named):
    def systems(*more: str) -> dict:
        return evaluate_joint.choose_systems(evaluate_joint.parse_args([*named, "--speaker", "slt", *more]), MINI)

    with pytest.raises(UserError, match="--speaker is the voice of the base; add --base"):
        systems()
    assert systems("--base")["base"].speaker == "slt"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--ckpt", "her/x.ckpt"], "her"),
        (["--ckpt", "her/x.ckpt", "--ckpt", "none.ckpt", "--llm", "merged/llm.pt", "--flow", "merged/flow.pt"], "her"),
        (["--llm", "merged/llm.pt", "--flow", "merged/flow.pt"], "him"),
        (["--llm", "elsewhere/llm.pt", "--flow", "merged/flow.pt"], "stranger"),
        (["--llm", "MODEL/llm.pt", "--flow", "merged/flow.pt"], "him"),
        (["--flow", "merged/flow.pt"], "stranger"),
        (["--ckpt", "her/x.ckpt", "--speaker", "stranger"], "stranger"),
        ([], "stranger"),
    ],
)
def test_the_base_speaks_in_the_voice_that_it_is_compared_with(arguments, name, tiny_model_dir, clips):
    write_checkpoint("her/x.ckpt", clips)
    for folder, owner in (("merged", "older"), ("merged", "him"), ("output", "stranger")):
        path = Path(folder, VOICES)
        save_torch(with_voice(path, HER | {"name": owner}), path)
    Path("output", "llm_merged_joint.pt").touch()
    args = evaluate_joint.parse_args(["--base", *(word.replace("MODEL", str(tiny_model_dir)) for word in arguments)])
    base = evaluate_joint.choose_systems(args, tiny_model_dir)["base"]
    _, voice = load_voice(base, tiny_model_dir, torch.device("cpu"))
    assert voice.name == name and torch.equal(voice.embedding, HER["embedding"])
    assert voice.seconds_per_text_token == HER["seconds_per_text_token"]


def test_systems_are_called_by_their_files(clips):
    write_checkpoint("out/base.ckpt", clips)
    args = evaluate_joint.parse_args(["--base", "--ckpt", "out/base.ckpt", "--ckpt", "best.ckpt"])
    assert [*evaluate_joint.choose_systems(args, MINI)] == ["base", str(Path("out/base")), "best"]


def test_checkpoints_are_compared_at_the_strength_that_is_asked_for(clips):
    write_checkpoint("best.ckpt", clips)

    def systems(scale: str) -> dict:
        args = evaluate_joint.parse_args(["--base", "--ckpt", "best.ckpt", "--lora-scale", scale])
        return evaluate_joint.choose_systems(args, MINI)

    scales = {name: source.lora_scale for name, source in systems("0.8").items()}
    assert scales == {"base": 1.0, "best at lora-scale 0.8": 0.8}
    assert [*systems("1")] == ["base", "best"]
    assert len({evaluate_joint.file_name(name) for scale in ("1", "0.8", "0.08") for name in systems(scale)}) == 4


# ---- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sentence_file(tmp_path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(SENTENCES), encoding="utf-8")
    return path


@pytest.mark.scripts
def test_the_base_is_evaluated_without_any_data(tmp_path, sentence_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate_joint, "missing", lambda with_model: "no recogniser here")
    output = tmp_path / "输出"
    arguments = ["--base", "--model-dir", str(MINI), "--output-dir", str(output), "--sentences", str(sentence_file)]
    assert evaluate_joint.main([*arguments, "--set", "llm_lora.lora_r=4", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "speaker similarity is skipped" in printed and "word error rates are left out: no recogniser here" in printed
    report = json.loads((output / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    figures = report["systems"]["base"]["figures"]
    assert {"run_on", "early_stop", "failed", "silence_sec", "repeated", "f0_hz", "clipped"} <= figures.keys()
    assert "similarity" not in figures
    assert 80 < figures["f0_hz"]["value"] < 260
    assert [row["text"] for row in report["systems"]["base"]["sentences"]] == SENTENCES
    weights = f"{MINI / 'llm.pt'}, {MINI / 'flow.pt'}"
    assert (report["systems"]["base"]["weights"], report["systems"]["base"]["voice"]) == (weights, "slt")
    assert (report["sentences"], report["data_dir"], report["set"]) == (str(sentence_file), None, ["llm_lora.lora_r=4"])
    assert sorted(path.name for path in (output / "evaluation" / "base").iterdir()) == ["01.wav", "02.wav", "03.wav"]
    html = (output / "evaluation" / "evaluation.html").read_text(encoding="utf-8")
    page = check_page(html)
    assert len(page.attributes("audio", "src")) == 3 and f"base: {weights}; voice: slt" in html
    assert all(address.startswith(("data:", "#")) for address in page.addresses)  # nothing is fetched from elsewhere
    assert evaluate_joint.main([*arguments, "--seed", "1", "--device", "cpu"]) == 0
    [moved] = output.glob("previous_*_1")
    assert f"held an earlier evaluation; it is now in {moved}" in capsys.readouterr().out
    assert (moved / "evaluation" / "evaluation.html").read_text(encoding="utf-8") == html, "never written over"
    assert (moved / "evaluation" / "base" / "01.wav").exists()
    assert json.loads((output / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))["seed"] == 1


def loudness_histogram(samples: np.ndarray) -> np.ndarray:
    """In the place of a speaker encoder that is not installed."""
    return np.histogram(samples, 16, (-1, 1))[0].astype(np.float32)


@pytest.mark.scripts
def test_a_voice_is_placed_between_other_voices_and_the_speakers_own_clips(
    tmp_path, sentence_file, monkeypatch, capsys
):
    monkeypatch.setattr(evaluate_joint, "VOICE_CLIPS", 1)  # fewer than there are: all the same one scale
    monkeypatch.setattr(evaluation, "ge2e_encoder", lambda: loudness_histogram)
    raw, data = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    for path in sorted(CLIPS.iterdir())[4:20]:
        shutil.copy(path, raw)
    assert prepare_joint_data.main(["--input-dir", str(raw), "--output-dir", str(data), "--model-dir", str(MINI)]) == 0
    arguments = ["--base", "--speaker", "slt", "--model-dir", str(MINI), "--output-dir", str(tmp_path / "out")]
    arguments += ["--data-dir", str(data), "--raw-audio", str(raw), "--sentences", str(sentence_file)]
    assert evaluate_joint.main([*arguments, "--device", "cpu"]) == 0
    report = json.loads((tmp_path / "out" / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    base, real = (
        report["systems"][name]["figures"]["similarity"]["value"] for name in ("base", "real clips, held out")
    )
    assert report["scale"]["floor"] < base < real
    assert report["scale"]["ceiling"] == pytest.approx(real, abs=1e-3)
    assert {"similarity", "similarity_ge2e"} <= report["systems"]["base"]["figures"].keys()
    assert report["data_dir"] == str(data) and sum(report["clips"].values()) == 8
    printed = capsys.readouterr().out
    assert "on a scale with 0 = other voices" in printed
    assert report["own_hz"] == pytest.approx(194, abs=8)
    assert f"pitch of the speaker's recordings: {report['own_hz']:.0f} Hz" in printed


def test_a_pitch_is_held_against_that_which_training_compares_with():
    clip = Sentence("text", torch.zeros(1, 9), 100, {"f0_hz": (210.0, 1), "duration_ratio": (0.9, 1)})
    reference = evaluate_joint.Reference({}, [clip], None, None)
    assert evaluate_joint.own_values(reference) == {"f0_hz": 210.0, "duration_ratio": 1.0}
    assert evaluate_joint.own_values(replace(reference, own_hz=198.0)) == {"f0_hz": 198.0, "duration_ratio": 1.0}


@pytest.mark.parametrize(
    ("arguments", "lines", "message"),
    [
        ([], SENTENCES[:2], "2 sentences say too little"),
        ([], [SENTENCES[0]] * 2 + SENTENCES[1:2], "2 sentences say too little"),
        ([], ["", *SENTENCES, "…"], "sentences.txt, line 5: nothing can be spoken in '…'; remove that line"),
        (["--language", "english"], SENTENCES, "--language english: give a code"),
        (["--seed", "-1"], SENTENCES, "--seed -1"),
        (["--ckpt", "none.ckpt", "--lora-scale", "2.5"], SENTENCES, "--lora-scale 2.5: give a number from 0"),
        (["--lora-scale", "0.8"], SENTENCES, "--lora-scale works with --ckpt; merged files have"),
        (["--asr-model", "nowhere"], SENTENCES, "recogniser"),
        (["--data-dir", "nowhere"], SENTENCES, "no training data in nowhere"),
        (["--ckpt", "none.ckpt"], SENTENCES, "checkpoint none.ckpt is not there"),
        (["--speaker", "nobody"], SENTENCES, "--speaker nobody: no such voice"),
    ],
)
def test_mistakes_end_with_one_clear_line(tmp_path, arguments, lines, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sentences.txt").write_text("\n".join(lines), encoding="utf-8")
    common = ["--base", "--model-dir", str(MINI), "--sentences", "sentences.txt", "--device", "cpu"]
    assert evaluate_joint.main([*common, *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not Path("output", "evaluation").exists()
