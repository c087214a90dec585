"""Sound files of every kind -> samples. soundfile reads wav, flac and ogg; PyAV, which holds ffmpeg, reads the rest.

What a file is, is told by its first bytes and not by its name. Files are not trusted: nothing that one of them names is
opened, formats that only name other files are not known, and what is decoded has a limit.
"""

import math
import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from cosyvoice.utils.common import InputError
from cosyvoice.utils.files import require_file

if TYPE_CHECKING:  # 0.1 s and 40 MB of memory, which only some files need
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

MIN_SOURCE_RATE = 16_000  # Hz of a recording; sounds are lost below
MAX_RESAMPLE_TAPS = 4_000_000  # 16 MB of filter; 48 000 -> 22 050 Hz has 52 000
# In order of preference, where two files differ only in the suffix
AUDIO_SUFFIXES = (
    ".wav .flac .aiff .aif .w64 .au .caf .ogg .opus .oga .mp3 .m4a .m4b .aac .mp4 .wma .webm .amr .ape .mka .mp2 .ac3 "
    ".wv .tta .mov .mkv .m4v .3gp .avi .flv"
).split()

SOUNDFILE_SIGNATURES = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"OggS", b"FORM", b".snd", b"caff")
PYAV_FORMATS = (  # no playlists, no scripts of other files, no network
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpegts,ogg,tta,w64,wav,wv"
)
MAX_VALUES = 2**31  # of all channels that one file may hold, 8 GB: 12 hours at 48 kHz
MAX_DECODE_SEC = 300  # of work for one file
SLACK_SEC = 0.1  # by which packets may be damaged, and a wav shorter than its header says: some count the header in
CODEC_SLACK_SEC = 0.25  # the same for compressed sound, to which encoders add a little at both ends
START_BYTES = 4096

# Of a wav file's header
UNKNOWN_BYTES = 0x7FFFF000  # this or more stands for the size of the sound where it was not known beforehand: in a pipe
MOST_CHUNKS = 100  # before the sound
WAV_MPEG = (0x50, 0x55)  # layers 1 to 3

# First bytes of what people save under the name of a recording: what it is, and what to do
FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer and not the recording; run: git lfs pull"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"Rar!", "a rar archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"%PDF", "a PDF document and not a recording"),
    (b"\x89PNG", "a picture and not a recording"),
    (b"\xff\xd8\xff", "a picture and not a recording"),
    (b"GIF8", "a picture and not a recording"),
    (b"MThd", "a MIDI file, which holds notes and no sound; export it as wav"),
    (b"#EXTM3U", "a playlist, which only names recordings; bring these"),
    (b"[playlist]", "a playlist, which only names recordings; bring these"),
    (b"ffconcat", "a playlist, which only names recordings; bring these"),
    (b"<!doctype html", "a web page and not a recording; download the file itself"),
    (b"<html", "a web page and not a recording; download the file itself"),
    (b"<?xml", "an XML text and not a recording"),
)
DAMAGED = "damaged or not audio at all; copy or export it again"
PROTECTED = "protected against copying (DRM), so it cannot be decoded; bring a recording without protection"
PROTECTION_MARKS = (  # boxes of mp4 files, and an object in the header of wma files
    *(b"enca", b"drms", b"aavd"),
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
)
SEARCHED_BYTES = 2**20  # for them, at both ends
MP4_WITHOUT_INDEX = "moov atom not found"  # how ffmpeg says so; cameras and phones write it last
GUESSED_LENGTH = "Estimating duration"  # how ffmpeg begins to say that it took the length from the size of the file


class AudioError(InputError):
    """A recording that cannot be used; the message gives the reason, the caller names the file.

    kind: cannot_open, empty, not_audio, no_sound, incomplete, damaged, protected, unsupported, not_finite, too_much."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Recording:
    """Decoded audio."""

    samples: np.ndarray  # (N, channels) float32, full scale is 1
    sample_rate: int
    duration_sec: float  # of the whole file, also where only its start was decoded
    header_sec: float  # what its header says where that is more; 0.0: a wav whose header was never finished

    def mono(self, sample_rate: int) -> Tensor:
        """(1, N) at another rate, channels averaged. Raises AudioError for one that it cannot be converted to."""
        wave = torch.from_numpy(self.samples.mean(axis=1, dtype=np.float32))[None]
        return resample(wave, self.sample_rate, sample_rate)


def load_wav(path: str | Path, sample_rate: int) -> Tensor:
    """The file's audio as (1, N) float32 at `sample_rate`, channels averaged.

    Raises FileNotFoundError, and InputError naming the file for one that `read_audio` refuses or that is below 16 kHz.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such audio file")
    try:
        recording = read_audio(path)
        if recording.sample_rate < MIN_SOURCE_RATE:
            raise AudioError(f"{recording.sample_rate} Hz is too low; record at {MIN_SOURCE_RATE} Hz or more")
        return recording.mono(sample_rate)
    except AudioError as error:
        raise InputError(f"{path}: {error}") from error


def read_audio(path: Path, max_sec: float | None = None) -> Recording:
    """The file's sound at its own rate; max_sec: no more than the first so many seconds are decoded.

    Raises AudioError for a file that cannot be opened or decoded, is empty or not finite.
    """
    try:
        require_file(path)
        with path.open("rb") as file:
            recording = _decoded(path, file, max_sec)
    except OSError as error:
        raise AudioError(error.strerror or str(error), "cannot_open") from error
    if len(recording.samples) == 0:
        raise AudioError("it holds no sound (0 samples); record or copy it again", "no_sound")
    if not np.isfinite(recording.samples).all():
        raise AudioError("it holds samples that are not numbers (NaN or infinite); export it again", "not_finite")
    return recording


def _decoded(path: Path, file: BinaryIO, max_sec: float | None) -> Recording:
    start = file.read(START_BYTES)
    if not start:
        raise AudioError("the file is empty (0 bytes); record or copy it again", "empty")
    if what := _foreign(start):
        raise AudioError(f"it is {what}", "not_audio")
    header = _wav_header(file)
    if start.startswith(SOUNDFILE_SIGNATURES) and header.for_soundfile:
        if sound := _by_soundfile(path, max_sec, header):
            return sound
    file.seek(0)
    return _by_pyav(file, max_sec, header)


def _foreign(start: bytes) -> str:
    """What a file with these first bytes is where it surely is no sound, else ""."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for signature, what in FOREIGN:
        if start.startswith(signature) or text[: len(signature)].lower() == signature:
            return what
    try:
        letters = text.decode("utf-8")
    except UnicodeDecodeError as error:
        letters = text.decode("utf-8", "ignore") if error.start > len(text) - 4 else "\0"  # the last one may be cut
    if all(letter.isprintable() or letter.isspace() for letter in letters):
        return "text and not a recording"
    return ""


# ---- wav headers -----------------------------------------------------------------------------------------------------


class _WavHeader(NamedTuple):
    """What the header of a wav file says; all 0 for other files."""

    codec: int = 0
    byte_rate: int = 0
    stated: int = 0  # bytes of sound
    held: int = 0  # bytes after the header
    unfinished: bool = False  # the program that wrote it did not come to fill in how much there is

    @property
    def for_soundfile(self) -> bool:
        """Whether libsndfile reads it as well as PyAV."""
        return not self.unfinished and self.codec not in WAV_MPEG

    def seconds(self, held_sec: float) -> float:
        """What the header says of a sound that is so long; 0.0 where it is unfinished."""
        if self.unfinished:
            return 0.0
        missing = self.stated - self.held
        return self.stated / self.byte_rate if self.byte_rate and missing > SLACK_SEC * self.byte_rate else held_sec


def _wav_header(file: BinaryIO) -> _WavHeader:
    size, codec, byte_rate = os.fstat(file.fileno()).st_size, 0, 0
    try:
        file.seek(0)
        riff, riff_size, wave = struct.unpack("<4sI4s", file.read(12))
        if (riff, wave) != (b"RIFF", b"WAVE"):
            return _WavHeader()
        for _ in range(MOST_CHUNKS):
            kind, stated = struct.unpack("<4sI", file.read(8))
            start = file.tell()
            if kind == b"data":
                held = size - start
                return _WavHeader(codec, byte_rate, stated, held, _is_unfinished(file, riff_size, stated, held))
            if kind == b"fmt ":
                codec, byte_rate = struct.unpack("<H6xI", file.read(12))
            file.seek(start + stated + stated % 2)
    except struct.error:  # it ends here
        pass
    return _WavHeader()


def _is_unfinished(file: BinaryIO, riff_size: int, stated: int, held: int) -> bool:
    """Whether sound goes on after what the header says, or the header has a number that stands for "unknown"."""
    size = file.tell() + held
    if held == 0 or riff_size + 8 == size:
        return False
    if stated == 0 or stated >= max(UNKNOWN_BYTES, held):
        return True
    file.seek(stated + stated % 2, os.SEEK_CUR)
    following = file.read(START_BYTES)  # another chunk begins with four letters, filling is all zeros
    return bool(following.strip(b"\0")) and not following[:4].decode("latin-1").isprintable()


# ---- soundfile -------------------------------------------------------------------------------------------------------


def _by_soundfile(path: Path, max_sec: float | None, header: _WavHeader) -> Recording | None:
    """The sound; None for what libsndfile does not read to its end, or of which it does not know the length."""
    try:
        with soundfile.SoundFile(_sound_file_name(path)) as file:
            rate, length = file.samplerate, file.frames
            wanted = length if max_sec is None else min(length, int(max_sec * rate))
            if length * file.channels > 4 * MAX_VALUES:  # as of a flac that does not say its length
                return None
            _check_amount(wanted * file.channels)
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    if len(samples) < wanted:
        return None
    return Recording(samples, rate, length / rate, header.seconds(length / rate))


def _sound_file_name(path: Path) -> Path | bytes:
    """The path as soundfile opens it: it cannot encode names that are not UTF-8 (from old archives)."""
    return path if os.name == "nt" else os.fsencode(path)


def _check_amount(values: int) -> None:
    if values > MAX_VALUES:
        raise AudioError("it holds more sound than fits in memory; cut it into files of a few hours", "too_much")


# ---- PyAV ------------------------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What became of the packets of a stream, in seconds."""

    packets: int = 0
    read: Fraction = Fraction(0)
    lost: Fraction = Fraction(0)  # not decoded, with sound before and after
    failed: Fraction = Fraction(0)  # not decoded, with no sound after
    end: Fraction = Fraction(0)  # by the time stamps; of a wma they are more exact than the lengths of the packets
    end_of_others: Fraction = Fraction(0)  # of other streams, as the pictures


def _by_pyav(file: BinaryIO, max_sec: float | None, header: _WavHeader) -> Recording:
    import av

    tally = _Tally()
    try:
        with _messages() as messages, _opened(file, header) as container:
            stream = _sound_stream(container)
            is_guess = any(text.startswith(GUESSED_LENGTH) for _, _, text in messages)
            of_stream = stream.duration is not None  # else the length that is stated is that of the longest stream
            stated_sec = 0.0 if is_guess else _stated_sec(container, stream)
            packets = _packets(container, stream, tally)
            samples, rate = _joined(_frames(packets, tally), max_sec)
            for _ in packets:  # those after max_sec are only counted
                pass
    except av.FFmpegError as error:
        raise _refusal(file, error, [text for _, _, text in messages]) from error
    if tally.packets and not len(samples):
        raise _protected(file) or AudioError(DAMAGED, "damaged")
    if tally.lost > SLACK_SEC:
        told = f"{float(tally.lost):.1f} of its {float(tally.read):.1f} s cannot be decoded"
        raise AudioError(f"damaged: {told}; copy or export it again", "damaged")
    seconds = len(samples) / rate
    if max_sec is not None and seconds > max_sec - SLACK_SEC:
        seconds = float(max(seconds, tally.read, tally.end))
    reached = seconds if of_stream else max(seconds, tally.end_of_others)
    is_short = stated_sec > reached + CODEC_SLACK_SEC
    return Recording(samples, rate, seconds, 0.0 if header.unfinished else stated_sec if is_short else seconds)


@contextmanager
def _messages() -> Iterator[list[tuple[int, str, str]]]:
    """What ffmpeg's libraries say meanwhile, (level, where, text); nothing of it goes to the terminal."""
    import av.logging

    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)  # it would leave out what was said of the file before
    try:
        with av.logging.Capture(local=False) as messages:
            yield messages
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)


def _opened(file: BinaryIO, header: _WavHeader) -> "InputContainer":
    import av

    options = {"format_whitelist": PYAV_FORMATS, "protocol_whitelist": "none"}
    if header.unfinished:
        options["ignore_length"] = "1"

    def seek(offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return file.seek(offset, whence)
        except (OSError, ValueError):
            return -1  # of an error PyAV would print a traceback

    nameless = SimpleNamespace(read=file.read, seek=seek, tell=file.tell)  # by a name it would believe the suffix
    # not `options`: PyAV 16 crashes by them where streams come to light late, as in an flv
    return av.open(nameless, container_options=options, io_open=_refuse_other_files, metadata_errors="replace")


def _refuse_other_files(url: str, *_: object) -> None:
    raise PermissionError(f"{url} is not opened")


def _sound_stream(container: "InputContainer") -> "AudioStream":
    """The sound that players take: the default one where one is marked so, else the first."""
    from av.stream import Disposition

    streams = container.streams.audio
    if not streams:
        what = "only pictures" if container.streams.video else "no sound"
        raise AudioError(f"it holds {what}; export the sound again", "no_sound")
    stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    if stream.codec_context is None:
        raise AudioError("its sound is in a format that cannot be decoded; convert it to wav", "unsupported")
    if stream.codec_context.name == "flac":  # else noise comes of a block that is damaged
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    return stream


def _stated_sec(container: "InputContainer", stream: "AudioStream") -> float:
    """Seconds of the stream by its header; 0.0 where that does not say it."""
    import av

    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _demuxed(container: "InputContainer") -> Iterator["Packet"]:
    """All packets. PyAV fails at the end where a stream came to light after opening, as in a damaged mpeg file."""
    try:
        yield from container.demux()
    except IndexError:
        return


def _packets(container: "InputContainer", stream: "AudioStream", tally: _Tally) -> Iterator["Packet"]:
    """The packets of a stream, counted. Raises AudioError where they take too long."""
    deadline = time.monotonic() + MAX_DECODE_SEC
    for packet in _demuxed(container):
        if time.monotonic() > deadline:
            raise AudioError(f"it took more than {MAX_DECODE_SEC} s to decode; convert it to wav", "too_much")
        if packet.stream.index != stream.index:
            tally.end_of_others = max(tally.end_of_others, _end(packet))
            continue
        tally.packets += packet.size > 0  # the last one is empty
        tally.read += _seconds(packet)
        tally.end = max(tally.end, _end(packet))
        yield packet


def _seconds(packet: "Packet") -> Fraction:
    return packet.duration * packet.time_base if packet.duration and packet.size else Fraction(0)


def _end(packet: "Packet") -> Fraction:
    return packet.pts * packet.time_base + _seconds(packet) if packet.pts is not None else Fraction(0)


def _frames(packets: Iterable["Packet"], tally: _Tally) -> Iterator["AudioFrame"]:
    """Decoded frames; what cannot be decoded is counted and left out, as a tag between two files that were joined."""
    import av

    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.DecoderNotFoundError:
            raise
        except av.FFmpegError:
            tally.failed += _seconds(packet)
            continue
        if frames:
            tally.lost, tally.failed = tally.lost + tally.failed, Fraction(0)
        yield from frames


def _joined(frames: Iterable["AudioFrame"], max_sec: float | None) -> tuple[np.ndarray, int]:
    """Samples (N, channels) float32 of at most max_sec, and their rate: that of the first frame, as is the layout."""
    from av import AudioResampler

    blocks: list[np.ndarray] = []
    resampler, source, target, count = None, None, None, 0
    for frame in frames:
        kind = (frame.layout.name, frame.sample_rate)
        target = target or kind
        if source != (frame.format.name, *kind):
            blocks += [part.to_ndarray() for part in resampler.resample(None)] if resampler else []
            resampler, source = AudioResampler("fltp", *target), (frame.format.name, *kind)
        blocks += [part.to_ndarray() for part in resampler.resample(frame)]
        count += blocks[-1].shape[1] if blocks else 0
        _check_amount(count * len(blocks[0]) if blocks else 0)
        if max_sec is not None and count >= max_sec * target[1]:
            break
    if not blocks:
        return np.zeros((0, 1), np.float32), 1
    samples = np.concatenate(blocks, axis=1).T
    return np.ascontiguousarray(samples if max_sec is None else samples[: int(max_sec * target[1])]), target[1]


def _refusal(file: BinaryIO, error: Exception, messages: list[str]) -> AudioError:
    """Why PyAV did not open or decode a file, in the user's words."""
    import av

    if isinstance(error, av.error.DecoderNotFoundError):
        return AudioError("its sound is in a format that cannot be decoded; convert it to wav", "unsupported")
    file.seek(0)
    if not any(file.read(SEARCHED_BYTES)):
        return AudioError("it holds nothing but zeros, as after a copy that failed; copy it again", "damaged")
    if any(MP4_WITHOUT_INDEX in message for message in messages):
        return AudioError("the end of the file is missing; copy or download it again", "incomplete")
    return AudioError(DAMAGED, "damaged")


def _protected(file: BinaryIO) -> AudioError | None:
    """What to say of a file that is encrypted; None for others."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    data = file.read(SEARCHED_BYTES)
    file.seek(max(0, size - SEARCHED_BYTES))
    data += file.read()
    return AudioError(PROTECTED, "protected") if any(mark in data for mark in PROTECTION_MARKS) else None


# ---- another rate ----------------------------------------------------------------------------------------------------


def resample(wave: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """(1, N) at another rate, by torchaudio's windowed sinc with its default settings.

    Raises AudioError where the two rates have so little in common that the filter would fill the memory.
    """
    if source_rate == target_rate:
        return wave
    common = math.gcd(source_rate, target_rate)
    if (source_rate // common) * (target_rate // common) > MAX_RESAMPLE_TAPS:
        raise AudioError(f"{source_rate} Hz is an odd sample rate; convert the audio to 16000, 44100 or 48000 Hz")
    with torch.no_grad():
        return _resampler(source_rate, target_rate)(wave)


@lru_cache(maxsize=8)
def _resampler(source_rate: int, target_rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(source_rate, target_rate)
