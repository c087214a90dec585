"""inference_joint.py on the tiny model: what speaks, when it is repeated, what is refused."""

import io
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import soundfile
import torch
from random_data import write_random_data
from sources import ROOT

import inference_joint
import train_joint
from checkpoint import load_checkpoint
from common.files import save_torch
from config import InferenceConfig, UserError
from cosyvoice.tokenizer.tokenizer import EnglishPhoneTokenizer
from text.normalizer import NORMALIZERS
from voice.loading import Source, Voice, choose_normalizer
from voice.runaway import listen, loop_seconds
from voice.speaking import LENGTH_SLACK_SEC, Speaker, Speech, speakable

SENTENCE = "Good morning."


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory) -> Path:
    """Output folder of a one-epoch run."""
    folder = tmp_path_factory.mktemp("run")
    data = write_random_data(folder / "data")
    paths = ["--data-dir", str(data), "--model-dir", str(tiny_model_dir), "--output-dir", str(folder / "output")]
    assert train_joint.main([*paths, "--epochs", "1", "--set", "eval_every_epochs=0"]) == 0
    return folder / "output"


@pytest.fixture
def speak(tiny_model_dir, trained, tmp_path):
    """Runs inference_joint.main; the tiny model's limits are wide, as its sound is noise."""

    def run(*arguments: object, output_dir: Path = trained, output: Path | None = tmp_path / "said.wav") -> int:
        wide = ["--set", "inference.max_retries=0", "--set", "inference.max_token_text_ratio=4"]
        named = ["--output", output] if output else []
        return inference_joint.main(
            [*map(str, ["--model-dir", tiny_model_dir, "--output-dir", output_dir, *named, *arguments]), *wide]
        )

    return run


def samples(path: Path) -> torch.Tensor:
    data, rate = soundfile.read(path, dtype="float32")
    assert rate == 22050 and data.ndim == 1
    return torch.from_numpy(data)


# ---- speaking --------------------------------------------------------------------------------------------------------


def test_the_newest_merged_pair_speaks_without_any_reference(speak, trained, tmp_path, capsys):
    assert speak("--text", SENTENCE) == 0
    printed = capsys.readouterr().out
    assert f"speaking with {trained / 'llm_merged_joint.pt'}, {trained / 'flow_merged_joint.pt'}" in printed
    assert "voice: finetuned" in printed
    assert samples(tmp_path / "said.wav").abs().max() > 0
    assert soundfile.info(tmp_path / "said.wav").subtype == "PCM_16"


def test_the_same_seed_gives_the_same_audio_and_another_seed_another(speak, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert speak("--text", SENTENCE, "--seed", seed, output=tmp_path / f"{name}.wav") == 0
    a, b, c = (samples(tmp_path / f"{name}.wav") for name in "abc")
    assert torch.equal(a, b)
    assert a.shape != c.shape or not torch.equal(a, c)


def test_the_default_output_is_result_wav_in_the_output_folder(speak, trained):
    assert speak("--text", SENTENCE, output=None) == 0
    assert (trained / "result.wav").exists()


def test_a_name_that_is_not_utf_8_is_written_as_it_is_given(speak, tmp_path):
    """As the names that are read have them: from an archive of an old Chinese Windows."""
    output = tmp_path / os.fsdecode(b"\xc4\xe3.wav")
    try:
        output.touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert speak("--text", SENTENCE, output=output) == 0
    assert soundfile.info(os.fsencode(output)).frames > 0


def test_a_text_file_gives_one_numbered_file_a_line_and_skips_unspeakable_lines(speak, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_bytes("\ufeffGood morning.\r\n\r\n...\r\nGood night.\r\n".encode())
    assert speak("--text-file", lines, "--precision", "full", output=tmp_path / "book.wav") == 0
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == ["book_0001.wav", "book_0004.wav"]
    printed = capsys.readouterr().out
    assert "line 2: nothing that can be spoken; skipped" in printed and "line 3" in printed
    assert speak("--text", "Good night.", "--precision", "full", output=tmp_path / "alone.wav") == 0
    torch.testing.assert_close(samples(tmp_path / "book_0004.wav"), samples(tmp_path / "alone.wav"))


def test_text_comes_from_standard_input_and_goes_to_a_name_of_any_length(speak, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\ufeffGood\x0bmorning.\n...\n".encode())))
    assert speak("--text-file", "-", output=tmp_path / f"{'n' * 246}.wav") == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{'n' * 246}_0001.wav"]
    assert "standard input, line 2: nothing that can be spoken; skipped" in capsys.readouterr().out


def test_a_file_that_is_replaced_is_named(speak, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("Good morning.\nGood night.\n", encoding="utf-8")
    (tmp_path / "book_0002.wav").touch()
    assert speak("--text-file", lines, output=tmp_path / "book.wav") == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith(str(tmp_path / "book")))
    assert first.endswith(" s of speech") and second.endswith(" s of speech; it replaced an earlier file")


def test_speed_changes_the_duration(speak, tmp_path):
    for speed in ("0.5", "1.0", "2.0"):
        assert speak("--text", SENTENCE, "--speed", speed, output=tmp_path / f"{speed}.wav") == 0
    slow, normal, fast = (len(samples(tmp_path / f"{speed}.wav")) for speed in ("0.5", "1.0", "2.0"))
    assert slow == pytest.approx(2 * normal, rel=0.02) and fast == pytest.approx(normal / 2, rel=0.02)


@pytest.mark.parametrize(
    ("lora_scale", "flow_scale", "said"),
    [("1", 1.0, ""), ("0.8", 1.0, " at strength 0.8"), ("1", 0.5, " at strength llm 1, flow 0.5")],
)
def test_a_checkpoint_that_speaks_at_another_strength_says_so(
    lora_scale, flow_scale, said, speak, trained, tmp_path, capsys
):
    checkpoint, path = load_checkpoint(trained / "joint_joint_last.ckpt"), tmp_path / "a.ckpt"
    checkpoint["config"]["flow_lora"]["merge_scale"] = flow_scale
    save_torch(checkpoint, path)
    assert speak("--text", SENTENCE, "--ckpt", path, "--lora-scale", lora_scale) == 0
    assert f"speaking with {path}{said}; voice: finetuned" in capsys.readouterr().out


def test_a_checkpoint_speaks_as_its_merged_files_do(speak, trained, tmp_path):
    assert speak("--text", SENTENCE, output=tmp_path / "merged.wav") == 0
    assert speak("--text", SENTENCE, "--ckpt", trained / "joint_joint_best.ckpt", output=tmp_path / "ckpt.wav") == 0
    assert torch.equal(samples(tmp_path / "merged.wav"), samples(tmp_path / "ckpt.wav"))


@pytest.mark.parametrize("named", ["llm", "flow"])
def test_beside_a_part_that_is_named_only_the_other_is_looked_for(named, speak, trained, tmp_path, capsys):
    other = "flow" if named == "llm" else "llm"
    shutil.copy(trained / "spk2info.pt", tmp_path)
    assert speak("--text", SENTENCE, f"--{named}", trained / f"{named}_merged_joint.pt", output_dir=tmp_path) == 2
    message = f"no merged {other} in {tmp_path} ({other}_merged_*.pt); give it with --{other}, or its folder with"
    assert message in capsys.readouterr().err
    old, new = (shutil.copy(trained / f"{other}_merged_joint.pt", tmp_path / f"{other}_merged_{n}.pt") for n in "12")
    os.utime(old, (1, 1))
    assert speak("--text", SENTENCE, f"--{named}", trained / f"{named}_merged_joint.pt", output_dir=tmp_path) == 0
    assert str(new) in capsys.readouterr().out


def test_the_base_speaks_with_a_named_voice_else_the_trained_one_else_its_first(speak, trained, tmp_path, capsys):
    known = list(torch.load(Path(trained) / "spk2info.pt", weights_only=True))
    assert speak("--base", "--text", SENTENCE) == 0
    assert f"voice: {known[-1]}" in capsys.readouterr().out
    empty = tmp_path / "empty"
    empty.mkdir()
    assert speak("--base", "--text", SENTENCE, output_dir=empty) == 0
    first = capsys.readouterr().out
    assert "voice: finetuned" not in first
    assert speak("--base", "--speaker", "nobody", "--text", SENTENCE) == 2
    assert "--speaker nobody: no such voice; known: " in capsys.readouterr().err


def test_without_any_voice_the_ways_out_are_named(tiny_model_dir, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "spk2info.pt").unlink()
    paths = ["--model-dir", str(model), "--output-dir", str(tmp_path / "none")]
    assert inference_joint.main([*paths, "--base", "--text", SENTENCE]) == 2
    assert "no speaker vector" in capsys.readouterr().err


def test_long_text_is_spoken_in_segments(speak, tmp_path, capsys):
    text = " ".join(f"This is sentence number {word} of a long text for the test." for word in ("one", "two") * 8)
    assert speak("--text", text) == 0
    one = len(samples(tmp_path / "said.wav"))
    assert speak("--text", text[:60], output=tmp_path / "short.wav") == 0
    assert one > 4 * len(samples(tmp_path / "short.wav"))


def test_text_without_sentence_marks_is_spoken_in_pieces_with_progress(speak, capsys):
    assert speak("--text", "a bc " * 90) == 0
    assert "speaking: 100%" in (error := capsys.readouterr().err) and "2/2" in error


class OnlyLatin:
    """A front end whose tokenizer, as that of CosyVoice-mini, knows Latin letters only."""

    tokenizer = EnglishPhoneTokenizer()

    def text_tokens(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def text_normalize(self, text: str, split: bool = True) -> list[str]:
        return text.splitlines(keepends=True)


def test_letters_that_the_model_cannot_read_are_named_once_and_are_no_speech():
    lines = ["Hello 世界, 世", "你好，世界。", "Café no. 5, ½ ५"]
    texts = {number: speakable(OnlyLatin(), line) for number, line in enumerate(lines, 1)}
    assert texts == {1: lines[:1], 2: [], 3: lines[2:]}
    [warning] = inference_joint.warnings(OnlyLatin(), lines, texts)
    assert "cannot read 世 界 你 好:" in warning


@pytest.mark.parametrize(
    "text", ['Wait <break time="500ms"/> now', "Tom &amp; Jerry", "Tom &#38; Jerry", "[laughter] no"]
)
def test_markup_is_warned_of(text):
    for lines, where in (([text], "the text: "), (["Fine.", text, text], "lines 2, 3: ")):
        texts = {number: speakable(OnlyLatin(), line) for number, line in enumerate(lines, 1)}
        [warning] = inference_joint.warnings(OnlyLatin(), lines, texts)
        assert warning.startswith(f"{where}{inference_joint.SIGNS['markup_left']}")


def test_digits_that_are_read_in_english_in_another_language_are_warned_of():
    texts = {1: ["Fine."], 2: ["twenty five лет."]}
    [warning] = inference_joint.warnings(OnlyLatin(), ["Fine.", "25 лет"], texts)
    assert warning == f"line 2: {inference_joint.SIGNS['digits_in_english']}"


def test_plain_text_is_not_warned_of():
    texts = {1: ["<|en|>R and D; fish and chips, so: well."], 2: []}
    lines = ["<|en|>R&D; fish & chips, so: well.", ""]
    assert list(inference_joint.warnings(OnlyLatin(), lines, texts)) == []


def test_signs_that_are_not_read_are_named():
    [warning] = inference_joint.warnings(OnlyLatin(), ["one ☃ two ∴"], {1: ["one ☃ two ∴"]})
    assert "☃ ∴" in warning


# ---- how it will be read ---------------------------------------------------------------------------------------------


@pytest.fixture
def read(tiny_model_dir, tmp_path, capsys):
    """Exit code, standard output and standard error of --print-text, with a model directory that has no weights."""
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(tiny_model_dir / "cosyvoice.yaml", model)

    def run(*arguments: object) -> tuple[int, str, str]:
        folders = ["--model-dir", model, "--output-dir", tmp_path]
        code = inference_joint.main([*map(str, [*folders, "--print-text", *arguments])])
        return code, *capsys.readouterr()

    return run


def test_how_each_line_will_be_read_is_printed_without_weights(read, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("I have 25 apples.\n\n...\nIch habe 25 Äpfel gekauft.\n我有25个苹果。\n", encoding="utf-8")
    code, out, err = read("--text-file", lines)
    assert (code, out.splitlines()) == (
        0,
        ["I have twenty five apples.", "", "", "Ich habe fünfundzwanzig Äpfel gekauft.", "我有二十五个苹果。"],
    )
    assert "line 2" in err and "line 3" in err and "English" not in err
    assert not list(tmp_path.glob("*.wav"))


def test_what_is_not_read_rightly_is_warned_of_on_standard_error(read):
    code, out, err = read("--text", "Мені 25 років ☃")
    assert (code, out) == (0, "Мені twenty five років ☃.\n")
    assert "digits are read in English" in err and "☃" in err


def test_what_this_model_has_no_letters_for_is_printed_too(capsys):
    model = ROOT / "pretrained_models" / "CosyVoice-mini"
    assert inference_joint.main(["--model-dir", str(model), "--print-text", "--text", "等了30 seconds。"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "等了三十seconds。\n" and "cannot read 等 了" in printed.err


def test_a_text_of_several_lines_is_printed_as_one(read):
    assert read("--text", "Good\nmorning.")[:2] == (0, "Good morning.\n")


@pytest.mark.parametrize("text", ["...", "", "<|en|>"])
def test_a_text_with_nothing_to_speak_prints_an_empty_line_and_is_a_mistake(text, read):
    code, out, err = read("--text", text)
    assert (code, out) == (2, "\n") and "nothing in it can be spoken" in err


def note(folder: Path, **entry: object) -> None:
    save_torch({"her": {"embedding": torch.ones(1, 192), **entry}}, folder / "spk2info.pt")


def test_texts_are_read_as_the_voice_was_prepared_unless_another_way_is_asked_for(read, tmp_path):
    text = ("--text", "Ich habe 25 Äpfel gekauft.")
    assert "fünfundzwanzig" in read(*text)[1], "without a voice"
    note(tmp_path)
    assert "fünfundzwanzig" in read(*text)[1], "of a voice without a note"
    note(tmp_path, text_normalizer="stock")
    code, out, err = read(*text)
    assert "twenty five" in out and "digits are read in English" in err and "prepared with" not in err
    code, out, err = read(*text, "--text-normalizer", "ours")
    assert code == 0 and "fünfundzwanzig" in out and "prepared with stock" in err
    note(tmp_path, text_normalizer="theirs")
    assert read(*text)[0] == 2


def test_voices_that_were_prepared_in_different_ways_are_told_of(tmp_path):
    sources = [Source(tmp_path / name) for name in ("ours", "stock")]
    for source in sources:
        source.output_dir.mkdir()
        note(source.output_dir, text_normalizer=source.output_dir.name)
    reader, warning = choose_normalizer(None, sources, tmp_path)
    assert reader is NORMALIZERS["ours"] and "stock" in warning and "--text-normalizer" not in warning
    assert choose_normalizer(None, sources[1:], tmp_path) == (NORMALIZERS["stock"], "")
    assert "leave --text-normalizer out" in choose_normalizer("ours", sources[1:], tmp_path)[1]


def test_a_checkpoint_knows_how_its_texts_were_read(read, trained, tmp_path):
    checkpoint, path = load_checkpoint(trained / "joint_joint_last.ckpt"), tmp_path / "a.ckpt"
    assert checkpoint["speaker"]["text_normalizer"] == "ours"
    assert torch.load(trained / "spk2info.pt", weights_only=True)["finetuned"]["text_normalizer"] == "ours"
    older = {key: value for key, value in checkpoint["speaker"].items() if key != "text_normalizer"}
    for speaker, word in ((older | {"text_normalizer": "stock"}, "twenty"), (older, "fünfundzwanzig")):
        save_torch(checkpoint | {"speaker": speaker}, path)
        assert word in read("--text", "Ich habe 25 Äpfel gekauft.", "--ckpt", path)[1]


# ---- the guard -------------------------------------------------------------------------------------------------------


class Scripted(Speaker):
    """A Speaker whose attempts are given: complaints of each, in order."""

    def __init__(self, script: list[list[str]], max_retries: int = 3) -> None:
        self.script, self.seeds = script, []
        self.limits = InferenceConfig(max_retries=max_retries)

    def attempt(self, segments: Sequence[str], seed: int) -> Iterator[Speech]:
        for _ in segments:
            self.seeds.append(seed)
            yield Speech(torch.zeros(1, 100 - len(self.seeds)), self.script[len(self.seeds) - 1])


def test_a_runaway_is_tried_again_with_the_next_seed(capsys):
    speaker = Scripted([["did not end by itself"], []])
    assert speaker.speak_segments(["hello"], seed=7)[0].complaints == []
    assert speaker.seeds == [7, 8]
    assert "'hello' went wrong (did not end by itself); tried 1 other seed: fine now" in capsys.readouterr().out


def test_the_least_bad_attempt_is_kept_after_a_bounded_number(capsys):
    speaker = Scripted([["a", "b"], ["a"], ["a", "b"], ["a"], []])
    (speech,) = speaker.speak_segments(["hello"], seed=0)
    assert (len(speaker.seeds), speech.complaints, speech.wave.shape[1]) == (4, ["a"], 96)
    assert "the least bad one is kept" in capsys.readouterr().out


def test_no_speech_at_all_is_an_error_and_not_an_empty_file():
    speaker = Scripted([["no speech"]] * 4)
    speaker.attempt = lambda segments, seed: iter([Speech(torch.zeros(1, 0), ["no speech"])])
    with pytest.raises(UserError, match="'hello': the model gives no speech"):
        speaker.speak_segments(["hello"], seed=0)


def test_only_the_segments_that_ran_away_are_tried_again(capsys):
    speaker = Scripted([[], ["a"], [], ["b"], []])
    spoken = speaker.speak_segments(["one", "two", "three"], seed=5)
    assert speaker.seeds == [5, 5, 5, 6, 7]
    assert [speech.attempts for speech in spoken] == [1, 3, 1]
    assert [speech.complaints for speech in spoken] == [[], [], []]
    assert capsys.readouterr().out.count("went wrong") == 1


def test_speech_that_is_too_short_for_its_text_is_noticed(tiny_model_dir):
    frontend, model = load_tiny(tiny_model_dir)
    model.llm.llm_decoder.bias.data[64] = 100.0  # ends as soon as it may
    voice = Voice("v", torch.randn(1, 192, generator=torch.Generator().manual_seed(0)), seconds_per_text_token=0.5)
    (speech,) = Speaker(model, frontend, voice, InferenceConfig()).attempt(["hello there, how are you today"], seed=0)
    assert any("too short for its text" in complaint for complaint in speech.complaints)


def test_speech_that_is_too_long_for_its_text_is_cut(tiny_model_dir):
    frontend, model = load_tiny(tiny_model_dir)
    model.llm.llm_decoder.bias.data[64] = -100.0  # never ends by itself
    voice = Voice("v", torch.randn(1, 192, generator=torch.Generator().manual_seed(0)), seconds_per_text_token=0.1)
    limits = InferenceConfig(max_duration_ratio=2, max_token_text_ratio=200)
    (speech,) = Speaker(model, frontend, voice, limits).attempt(["hello there"], seed=0)
    n_text = len(frontend.text_tokens("hello there"))
    longest = 2 * 0.1 * n_text + LENGTH_SLACK_SEC
    assert speech.complaints[0] == f"longer than {longest:.1f} s, cut there"
    assert speech.wave.shape[1] / 22050 == pytest.approx(longest, abs=0.03)
    unlimited = Speaker(model, frontend, Voice("v", voice.embedding), InferenceConfig(max_token_text_ratio=5))
    assert "did not end by itself" in next(unlimited.attempt(["hello there"], seed=0)).complaints


def test_a_sound_that_is_no_number_is_no_sound_and_never_a_loud_constant(tiny_model_dir, monkeypatch):
    frontend, model = load_tiny(tiny_model_dir)
    voice = Voice("v", torch.randn(1, 192, generator=torch.Generator().manual_seed(0)), seconds_per_text_token=0.5)
    original = model.token2wav

    def overflowing(*args, **options):
        wave = original(*args, **options).clone()
        wave[:, 1000:1200] = torch.nan
        wave[:, 1200] = torch.inf
        return wave

    monkeypatch.setattr(model, "token2wav", overflowing)
    (speech,) = Speaker(model, frontend, voice, InferenceConfig()).attempt(["hello there"], seed=0)
    assert "no sound" in speech.complaints and speech.wave[:, :900].any()
    assert speech.wave.isfinite().all() and not speech.wave[:, 1000:1201].any()


def load_tiny(model_dir: Path):
    from cosyvoice.cli.cosyvoice import CosyVoice

    whole = CosyVoice(model_dir)
    return whole.frontend, whole.model


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    [
        ([1, 2, 3, 4, 5] * 2, 0.0),  # twice is not a loop
        ([9, *[1, 2, 3, 4, 5] * 20, 8], 2.0),
        ([7] * 75, 1.5),
        (list(range(200)), 0.0),
        ([], 0.0),
        ([3], 0.0),
    ],
)
def test_loops_in_the_tokens_are_measured(tokens, seconds):
    assert loop_seconds(tokens, token_rate_hz=50) == pytest.approx(seconds)


def test_silence_is_heard():
    rate = 22050
    tone = 0.3 * torch.sin(2 * math.pi * 200 * torch.arange(rate) / rate)[None]
    gap = torch.cat([tone, torch.zeros(1, 2 * rate), tone], dim=1)
    assert listen(tone, rate, 1.5) == []
    assert listen(gap, rate, 1.5) == ["2.0 s of silence"]
    assert listen(gap, rate, 2.5) == []
    assert listen(torch.zeros(1, rate), rate, 1.5) == ["no sound"]
    assert listen(tone / 100, rate, 1.5) == ["no sound"]
    assert listen(torch.zeros(1, 0), rate, 1.5) == ["no sound"]


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "..."), "nothing in it can be spoken"),
        (("--text", ""), "nothing in it can be spoken"),
        (("--text", "   "), "nothing in it can be spoken"),
        (("--text", "<|en|>"), "nothing in it can be spoken"),
        (("--text", "bad \udcff byte"), "bytes that are not UTF-8"),
        (("--text", "hi", "--speaker", "finetuned"), "--speaker: these files have one voice baked in"),
        (("--text", "hi", "--ckpt", "x.ckpt", "--speaker", "finetuned"), "a checkpoint has its own voice"),
        (("--text", "hi", "--speed", "nan"), "give a number from 0.5"),
        (("--text", "hi", "--speed", "0.1"), "give a number from 0.5"),
        (("--text", "hi", "--seed", "-1"), "give a whole number from 0"),
        (("--text", "hi", "--output", "x.mp3"), "must end in .wav or .flac"),
        (
            ("--text", "hi", "--output", f"{'n' * 300}.wav"),
            "the disk; give a shorter one with --output",
        ),
        (
            ("--text-file", __file__, "--output", f"{'n' * 250}.wav"),
            "the disk; give a shorter one with --output",
        ),
        (("--text", "hi", "--flow-steps", "0"), "inference.flow_steps = 0: must be between 1 and 1000"),
        (("--text", "hi", "--flow-steps", "many"), "must be a whole number"),
        (("--text", "hi", "--base", "--ckpt", "x.ckpt"), "not several"),
        (("--text", "hi", "--lora-scale", "2.5"), "--lora-scale 2.5: give a number from 0 (base model) to 2"),
        (("--text", "hi", "--lora-scale", "nan"), "--lora-scale nan: give a number from 0 (base model) to 2"),
        (("--text", "hi", "--lora-scale", "0.5"), "--lora-scale works with --ckpt"),
        (("--text", "hi", "--llm", "nothing.pt", "--flow", "nothing.pt"), "nothing.pt"),
        (("--text-file", "nothing.txt"), "cannot read nothing.txt"),
        (("--text", "hi", "--device", "tpu"), "--device tpu"),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments, message, speak, tmp_path, capsys):
    output = None if "--output" in arguments else tmp_path / "said.wav"
    assert speak(*arguments, output=output) == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "said.wav").exists()


def test_an_unfinished_training_is_named_with_the_ways_on(speak, trained, tiny_model_dir, tmp_path, capsys):
    last = tmp_path / "joint_joint_last.ckpt"
    last.write_bytes((trained / last.name).read_bytes())
    assert speak("--text", "hi", output_dir=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    model = f"--model-dir {tiny_model_dir}"
    assert f"did not end; merge it as it is: python merge_joint_weights.py {model} --output-dir {tmp_path}, " in error
    assert error.endswith(f": python train_joint.py --resume {last} {model}")


def test_without_a_trained_voice_the_ways_out_are_named(speak, tiny_model_dir, tmp_path, capsys):
    assert speak("--text", "hi", output_dir=tmp_path) == 2
    train = f"python train_joint.py --model-dir {tiny_model_dir} --output-dir {tmp_path}"
    assert f"run: {train}, give --llm and --flow, or use --base" in capsys.readouterr().err
