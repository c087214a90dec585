"""Sound files of every kind: what is read, what is flagged, and what is said of the rest."""

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sound_files import FORMATS, cut, encode, flip_bits, wav_with_sizes

from clips.audio_doctor import FLAGS
from clips.decode import file_flags, file_warnings
from clips.find import find_clips
from cosyvoice.utils import audio_files, common, pyav
from cosyvoice.utils.audio_files import AUDIO_SUFFIXES, AudioError, load_wav, read_audio
from prepare_joint_data import main

RATE = 16_000
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"


def hum(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    """(N,) a tone that rises, with a little noise, so that no two places are alike."""
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(size=len(t))
    return (0.3 * np.sin(2 * np.pi * (300 * t + 100 * t**2)) + 0.01 * noise).astype(np.float32)


def likeness(found: np.ndarray, wanted: np.ndarray) -> float:
    """Correlation of two sounds that begin at the same sample."""
    length = min(len(found), len(wanted))
    return float(np.corrcoef(found[:length], wanted[:length])[0, 1])


def problem(path: Path) -> AudioError:
    with pytest.raises(AudioError) as error:
        read_audio(path)
    return error.value


# ---- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_is_read_whole_and_without_a_flag(tmp_path: Path, kind: str):
    rate = FORMATS[kind][2]
    recording = read_audio(encode(tmp_path / f"录音.{kind}", hum(rate=rate), kind))
    assert (recording.sample_rate, recording.samples.shape[1], recording.samples.dtype) == (rate, 1, np.float32)
    assert recording.duration_sec == pytest.approx(2, abs=0.15) and file_flags(recording) == {}
    assert f".{kind}" in AUDIO_SUFFIXES


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "avi", "3gp"])
def test_of_a_video_the_sound_is_read(tmp_path: Path, kind: str):
    rate = FORMATS[kind][2]
    recording = read_audio(encode(tmp_path / f"a.{kind}", hum(rate=rate), kind, pictures=True))
    assert recording.duration_sec == pytest.approx(2, abs=0.15) and file_flags(recording) == {}


@pytest.mark.parametrize(
    ("kind", "suffix"), [("mp4", "wav"), ("webm", "mp3"), ("mp3", "wav"), ("wav", "m4a"), ("m4a", "flac"), ("wma", "")]
)
def test_a_suffix_that_lies_does_not_matter(tmp_path: Path, kind: str, suffix: str):
    samples = hum(rate=FORMATS[kind][2])
    honest = read_audio(encode(tmp_path / f"a.{kind}", samples, kind))
    lying = read_audio(encode(tmp_path / f"b.{suffix}", samples, kind))
    assert np.array_equal(honest.samples, lying.samples)


UNCOMPRESSED = [
    (container, subtype)
    for container in ("WAV", "FLAC", "AIFF", "W64", "RF64")
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    if soundfile.check_format(container, subtype)
]


@pytest.mark.parametrize(("container", "subtype"), UNCOMPRESSED)
def test_uncompressed_sound_is_as_soundfile_reads_it(tmp_path: Path, container: str, subtype: str):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([hum(), -0.5 * hum()], axis=1), RATE, format=container, subtype=subtype)
    wanted, rate = soundfile.read(path, dtype="float32", always_2d=True)
    recording = read_audio(path)
    assert np.array_equal(recording.samples, wanted) and recording.sample_rate == rate
    assert recording.duration_sec == 2 and file_flags(recording) == {}


@pytest.mark.parametrize("kind", ["m4a", "mp3", "webm", "wv", "wma", "wav"])
def test_no_more_is_decoded_than_asked_for_and_the_length_is_told_all_the_same(tmp_path: Path, kind: str):
    rate = FORMATS[kind][2]
    path = encode(tmp_path / f"a.{kind}", hum(20, rate), kind)
    start, whole = read_audio(path, 3), read_audio(path)
    assert len(start.samples) == 3 * rate and start.duration_sec == pytest.approx(20, abs=0.15)
    assert np.array_equal(start.samples, whole.samples[: 3 * rate])


def test_of_several_sounds_the_first_is_read(tmp_path: Path):
    recording = read_audio(encode(tmp_path / "a.mka", hum(rate=48_000), "mka", tracks=2))
    assert likeness(recording.samples[:, 0], hum(rate=48_000)) > 0.9


TABLELESS = {"options": {"write_xing": "0"}, "codec_options": {"global_quality": "472", "flags": "+qscale"}}


@pytest.mark.parametrize("options", [{}, {"codec_options": {"global_quality": "472", "flags": "+qscale"}}])
def test_an_mp3_begins_and_ends_with_what_was_encoded(tmp_path: Path, options: dict):
    recording = read_audio(encode(tmp_path / "a.mp3", hum(), "mp3", **options))
    assert len(recording.samples) == 2 * RATE and likeness(recording.samples[:, 0], hum()) > 0.98


def test_an_mp3_of_variable_bitrate_without_a_table_is_read_to_its_end(tmp_path: Path):
    quiet_end = np.concatenate([hum(6), np.zeros(6 * RATE)])
    recording = read_audio(encode(tmp_path / "a.mp3", quiet_end, "mp3", **TABLELESS))
    assert recording.duration_sec == pytest.approx(12, abs=0.15) and file_flags(recording) == {}


def test_mp3_files_joined_to_one_are_read_to_the_end(tmp_path: Path):
    path = encode(tmp_path / "a.mp3", hum(4), "mp3")
    path.write_bytes(2 * path.read_bytes())
    recording = read_audio(path)
    assert recording.duration_sec == pytest.approx(8.1, abs=0.1) and file_flags(recording) == {}
    start = read_audio(path, 3)
    assert len(start.samples) == 3 * RATE and start.duration_sec == pytest.approx(8.2, abs=0.1)


def test_mp3_files_of_two_rates_joined_to_one_get_the_first_ones(tmp_path: Path):
    one = encode(tmp_path / "a.mp3", hum(2), "mp3").read_bytes()
    other = encode(tmp_path / "b.mp3", np.stack([hum(2, 44_100)] * 2, axis=1), "mp3", rate=44_100).read_bytes()
    (tmp_path / "a.mp3").write_bytes(one + other)
    recording = read_audio(tmp_path / "a.mp3")
    assert recording.sample_rate == RATE and recording.samples.shape[1] == 1
    assert recording.duration_sec == pytest.approx(4.1, abs=0.15)


def without_length(path: Path, samples: np.ndarray) -> Path:
    """A FLAC that went through a pipe: 0 stands where the number of samples should."""
    soundfile.write(path, samples, RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # 36 bits after the rate, the channels and the bits
    data[22:26] = bytes(4)
    path.write_bytes(data)
    return path


def test_a_flac_that_does_not_say_its_length_is_read_to_its_end(tmp_path: Path):
    samples = hum(35)
    recording = read_audio(without_length(tmp_path / "pipe.flac", samples))
    soundfile.write(tmp_path / "a.flac", samples, RATE)
    assert np.array_equal(recording.samples, soundfile.read(tmp_path / "a.flac", dtype="float32", always_2d=True)[0])
    assert recording.duration_sec == 35 and file_flags(recording) == {}
    assert read_audio(tmp_path / "pipe.flac", 31).duration_sec == 35


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_common_file_needs_no_pyav(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    """It takes 15 MB and a tenth of a second."""
    monkeypatch.setitem(sys.modules, "cosyvoice.utils.pyav", None)  # to import it fails
    soundfile.write(tmp_path / f"a.{suffix}", hum(), RATE)
    assert read_audio(tmp_path / f"a.{suffix}").duration_sec == 2
    with pytest.raises(ImportError):
        read_audio(encode(tmp_path / "a.m4a", hum(), "m4a"))


# ---- headers that do not fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF])
@pytest.mark.parametrize("riff", [None, 0, 36, 0xFFFFFFFF])
def test_a_wav_with_a_header_that_was_never_finished_is_read_to_its_end_and_flagged(
    tmp_path: Path, stated: int, riff: int | None
):
    path = wav_with_sizes(tmp_path / "a.wav", hum(2.13), RATE, stated, riff)
    whole = soundfile.write(tmp_path / "b.wav", hum(2.13), RATE, subtype="PCM_16") or read_audio(tmp_path / "b.wav")
    recording = read_audio(path)
    assert np.array_equal(recording.samples, whole.samples)
    assert file_flags(recording) == {"unfinished_header": {"held_sec": "2.13"}}
    assert len(file_warnings(recording)) == 1 and FLAGS["unfinished_header"][0] == "warn"


def test_all_of_many_channels_are_read(tmp_path: Path):
    """PyAV by itself reads beyond the eighth into memory that is not its own."""
    samples = np.stack([(number + 1) / 40 * hum(0.5) for number in range(40)], axis=1)
    wanted = soundfile.write(tmp_path / "b.wav", samples, RATE, subtype="PCM_16") or read_audio(tmp_path / "b.wav")
    assert np.array_equal(read_audio(wav_with_sizes(tmp_path / "a.wav", samples, RATE, 0)).samples, wanted.samples)


def test_a_wav_that_goes_on_after_what_its_header_says_is_read_to_its_end(tmp_path: Path):
    """A recorder that crashed had last written the length of the first second."""
    path = wav_with_sizes(tmp_path / "a.wav", hum(3), RATE, 2 * RATE)
    recording = read_audio(path)
    assert recording.duration_sec == 3 and list(file_flags(recording)) == ["unfinished_header"]


@pytest.mark.parametrize(
    "tail", [b"LIST\x04\0\0\0INFO", b"TAG" + b"a title" + bytes(118), bytes(4096), b"id3 " * 9, b"ID3\4" + bytes(90)]
)
def test_what_follows_the_sound_of_a_wav_is_no_sound(tmp_path: Path, tail: bytes):
    path = tmp_path / "a.wav"
    soundfile.write(path, hum(), RATE)
    path.write_bytes(path.read_bytes() + tail)
    assert read_audio(path).duration_sec == 2 and file_flags(read_audio(path)) == {}


def test_a_wav_without_any_sound_is_not_taken_for_unfinished(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    assert problem(tmp_path / "a.wav").kind == "no_sound"


@pytest.mark.parametrize(
    ("kind", "options"),
    [("wav", {}), ("m4a", {"movflags": "faststart"}), ("mp3", {}), ("webm", {}), ("mkv", {}), ("tta", {})],
)
@pytest.mark.parametrize("max_sec", [None, 31])
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes_and_flagged(tmp_path, kind, options, max_sec):
    path = cut(encode(tmp_path / f"a.{kind}", hum(8, FORMATS[kind][2]), kind, options=options), 0.6)
    recording = read_audio(path, max_sec)
    assert 2 < recording.duration_sec < 7 and list(file_flags(recording)) == ["incomplete"]
    assert float(file_flags(recording)["incomplete"]["header_sec"]) == pytest.approx(8, abs=0.15)


def test_a_flac_that_was_cut_off_is_flagged_and_one_with_damage_inside_is_refused(tmp_path: Path):
    for name in ("cut", "spoiled"):
        soundfile.write(tmp_path / f"{name}.flac", hum(8), RATE)
    recording = read_audio(cut(tmp_path / "cut.flac"))
    assert recording.duration_sec < 5 and list(file_flags(recording)) == ["incomplete"]
    assert problem(flip_bits(tmp_path / "spoiled.flac")).kind == "damaged"


# ---- what is refused, and why ----------------------------------------------------------------------------------------


def encrypted(path: Path) -> Path:
    key = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    return encode(path, hum(), "mp4", options={"encryption_scheme": "cenc-aes-ctr", **key})


def silent_film(path: Path) -> Path:
    import av

    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=5, width=32, height=32, pix_fmt="yuv420p")
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        output.mux(stream.encode(None))
    return path


def holding(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


REFUSED = {
    "empty": (holding(b""), "empty", "empty"),
    "text": (holding("just words, 只是文字\n".encode() * 99), "not_audio", "text"),
    "words": (holding(b"hello"), "not_audio", "text"),
    "web_page": (holding(b"\n<!DOCTYPE HTML><html>404</html>"), "not_audio", "web page"),
    "lfs": (holding(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "not_audio", "git lfs pull"),
    "zip": (holding(b"PK\x03\x04" + bytes(range(256))), "not_audio", "unpack"),
    "pdf": (holding(b"%PDF-1.7\n\xe2\xe3\xcf\xd3\n"), "not_audio", "PDF"),
    "picture": (holding(b"\x89PNG\r\n\x1a\n" + bytes(99)), "not_audio", "picture"),
    "playlist": (holding(PLAYLIST.format("/tmp/a.aac").encode()), "not_audio", "playlist"),
    "concat": (holding(b"ffconcat version 1.0\nfile /tmp/a.aac\n"), "not_audio", "playlist"),
    "sdp": (holding(SDP.encode()), "not_audio", "text"),
    "zeros": (holding(bytes(50_000)), "damaged", "nothing but zeros"),
    "noise": (holding(np.random.default_rng(1).bytes(50_000)), "damaged", "damaged or not audio"),
    "riff": (holding(b"RIFF\x00\x00\x00\x00 not a wav at all\xff"), "damaged", "damaged or not audio"),
    "no_end": (lambda path: cut(encode(path, hum(), "m4a")), "incomplete", "end of the file is missing"),
    "spoiled": (lambda path: flip_bits(encode(path, hum(8), "m4a")), "damaged", "cannot be decoded; copy"),
    "drm": (encrypted, "protected", "DRM"),
    "film": (silent_film, "no_sound", "only pictures"),
    "nan": (lambda path: soundfile.write(path, np.full(9, np.nan), RATE, "FLOAT", format="WAV"), "not_finite", "NaN"),
}


@pytest.mark.parametrize("suffix", ["wav", "m4a", "mp3"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_its_own_reason(tmp_path: Path, name: str, suffix: str):
    make, kind, told = REFUSED[name]
    path = tmp_path / f"a.{suffix}"
    make(path)
    error = problem(path)
    assert error.kind == kind and told in str(error) and "\n" not in str(error)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may read everything is never refused")
def test_a_file_without_permission_is_said_to_be_that(tmp_path: Path):
    path = encode(tmp_path / "a.m4a", hum(), "m4a")
    path.chmod(0)
    assert problem(path).kind == "cannot_open" and "Permission" in str(problem(path))


def test_a_playlist_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Though its first bytes were not known as those of one."""
    monkeypatch.setattr(audio_files, "_foreign", lambda start: "")
    sound = encode(tmp_path / "a.aac", hum(), "aac")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.aac"
        texts = [PLAYLIST.format(sound), PLAYLIST.format(address), f"ffconcat version 1.0\nfile {sound}\n", SDP]
        for number, text in enumerate(texts):
            for suffix in ("m3u8", "m4a", "sdp"):
                path = tmp_path / f"{number}.{suffix}"
                path.write_text(text)
                assert problem(path).kind == "damaged"
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_file_that_claims_to_be_endless_takes_neither_time_nor_memory(tmp_path: Path):
    path = encode(tmp_path / "a.m4a", hum(), "m4a", options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    at = content.index(b"mdhd") + 20  # after version, times and time scale
    content[at : at + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(content)
    started = time.monotonic()
    recording = read_audio(path)
    assert time.monotonic() - started < 5 and recording.samples.nbytes < 1e6
    assert recording.duration_sec == pytest.approx(2, abs=0.15)


def test_more_sound_than_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(common, "MAX_VALUES", RATE)
    for kind in ("wav", "m4a"):
        path = encode(tmp_path / f"a.{kind}", hum(5), kind)
        assert problem(path).kind == "too_much"
        assert read_audio(path, 0.5).duration_sec == pytest.approx(5, abs=0.15)


def test_decoding_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pyav, "MAX_DECODE_SEC", -1)
    assert problem(encode(tmp_path / "a.m4a", hum(), "m4a")).kind == "too_much"


@pytest.mark.skipif(os.name == "nt", reason="pipes have no path there")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.wav"))
        for path in (tmp_path / "pipe.wav", tmp_path / "socket.wav", Path("/dev/zero"), tmp_path):
            assert problem(path).kind == "cannot_open" and "not a file" in str(problem(path))
            with pytest.raises(ValueError, match="not a file"):
                load_wav(path, RATE)


def test_the_terminal_hears_of_a_bad_file_in_one_line_with_its_name(tmp_path: Path, tiny_model_dir: Path, capfd):
    """Nor do the libraries below write to it."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("drm", "no_end", "spoiled", "noise", "riff"):
        REFUSED[name][0](raw / f"{name}.m4a")
    joined = encode(raw / "joined.mp3", hum(), "mp3")
    joined.write_bytes(b"ID3\x04\0\0\0\0\0\x0aCOMM\xff\xff\0\0" + flip_bits(joined).read_bytes() + joined.read_bytes())
    (raw / "cut.opus").write_bytes(b"OggS" + bytes(99))
    flip_bits(encode(raw / "bits.opus", hum(4, 48_000), "opus"))
    flip_bits(encode(raw / "mpeg.wav", hum(4), "mp3"))
    for path in list(raw.iterdir()):
        path.with_suffix(".txt").write_text("some words")
    folders = ["--input-dir", raw, "--output-dir", tmp_path / "data", "--model-dir", tiny_model_dir]
    code = main([*map(str, folders), "--device", "cpu", "--no-text-check", "--workers", "1"])
    printed = capfd.readouterr()
    assert code == 0
    for line in filter(None, printed.err.replace("\r", "\n").splitlines()):
        assert line.startswith(("extracting", "error: "))
    for name in ("drm", "no_end", "spoiled", "noise", "riff"):
        assert f"dropped {name} " in printed.out


@pytest.mark.parametrize("suffix", [".wmv", ".wave", ".rf64"])
def test_recordings_under_less_usual_suffixes_are_found(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    if suffix == ".wmv":
        encode(path, hum(rate=44_100), "wma")
    else:
        soundfile.write(path, hum(), RATE, format="RF64" if suffix == ".rf64" else "WAV")
    [clip] = find_clips(tmp_path)[0]
    assert read_audio(clip.path).duration_sec == pytest.approx(2, abs=0.1)
