"""Sound files by PyAV, which holds ffmpeg's libraries: compressed sound, and the sound of videos.

Files are not trusted: nothing that one of them names is opened, formats that only name other files are not known.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import BinaryIO

import av
import av.logging
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition

from cosyvoice.utils.common import AudioError, check_amount

FORMATS = (  # no playlists, no scripts of other files, no network
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpegts,ogg,tta,w64,wav,wv"
)
MAX_DECODE_SEC = 300  # of work for one file
LOST_SEC = 0.1  # by which the sound may be damaged inside: a tag between two files that were joined
SHORT_SEC = 0.25  # by which it may be shorter than its header says: encoders add a little at both ends
DAMAGED = "damaged or not audio at all; copy or export it again"
PROTECTED = "protected against copying (DRM), so it cannot be decoded; bring a recording without protection"
PROTECTION_MARKS = (  # boxes of mp4 files, and an object in the header of wma files
    *(b"enca", b"drms", b"aavd"),
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
)
SEARCHED_BYTES = 2**20  # for them, at both ends
MP4_WITHOUT_INDEX = "moov atom not found"  # how ffmpeg says so; cameras and phones write it last
GUESSED_LENGTH = "Estimating duration"  # how ffmpeg begins to say that it took the length from the size of the file


@dataclass
class _Tally:
    """What became of the packets of a stream, in seconds."""

    packets: int = 0
    read: Fraction = Fraction(0)
    lost: Fraction = Fraction(0)  # not decoded, with sound before and after
    failed: Fraction = Fraction(0)  # not decoded, with no sound after
    end: Fraction = Fraction(0)  # by the time stamps; of a wma they are more exact than the lengths of the packets
    end_of_others: Fraction = Fraction(0)  # of other streams, as the pictures


def decode(file: BinaryIO, max_sec: float | None, ignore_length: bool) -> tuple[np.ndarray, int, float, float]:
    """Samples (N, channels) float32 of at most max_sec, their rate, and the seconds of the whole file: those that it
    holds, and those that its header says where these are more.

    ignore_length: read a wav to its end, whatever its header says. Raises AudioError with the reason."""
    tally = _Tally()
    try:
        with _messages() as messages, _opened(file, ignore_length) as container:
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
    if tally.lost > LOST_SEC:
        told = f"{float(tally.lost):.1f} of its {float(tally.read):.1f} s cannot be decoded"
        raise AudioError(f"damaged: {told}; copy or export it again", "damaged")
    seconds = len(samples) / rate
    if max_sec is not None and seconds > max_sec - LOST_SEC:
        seconds = float(max(seconds, tally.read, tally.end))
    reached = seconds if of_stream else max(seconds, tally.end_of_others)
    is_short = stated_sec > reached + SHORT_SEC
    return samples, rate, seconds, stated_sec if is_short else seconds


@contextmanager
def _messages() -> Iterator[list[tuple[int, str, str]]]:
    """What ffmpeg's libraries say meanwhile, (level, where, text); nothing of it goes to the terminal."""
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)  # it would leave out what was said of the file before
    try:
        with av.logging.Capture(local=False) as messages:
            yield messages
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)


def _opened(file: BinaryIO, ignore_length: bool) -> InputContainer:
    file.seek(0)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
    if ignore_length:
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


def _sound_stream(container: InputContainer) -> AudioStream:
    """The sound that players take: the default one where one is marked so, else the first."""
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


def _stated_sec(container: InputContainer, stream: AudioStream) -> float:
    """Seconds of the stream by its header; 0.0 where that does not say it."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _demuxed(container: InputContainer) -> Iterator[Packet]:
    """All packets. PyAV fails at the end where a stream came to light after opening, as in a damaged mpeg file."""
    try:
        yield from container.demux()
    except IndexError:
        return


def _packets(container: InputContainer, stream: AudioStream, tally: _Tally) -> Iterator[Packet]:
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


def _seconds(packet: Packet) -> Fraction:
    return packet.duration * packet.time_base if packet.duration and packet.size else Fraction(0)


def _end(packet: Packet) -> Fraction:
    return packet.pts * packet.time_base + _seconds(packet) if packet.pts is not None else Fraction(0)


def _frames(packets: Iterable[Packet], tally: _Tally) -> Iterator[AudioFrame]:
    """Decoded frames; what cannot be decoded is counted and left out, as a tag between two files that were joined."""
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


def _joined(frames: Iterable[AudioFrame], max_sec: float | None) -> tuple[np.ndarray, int]:
    """Samples (N, channels) float32 of at most max_sec, and their rate."""
    blocks, count, rate, wanted = [], 0, 1, None
    for block, rate in _blocks(frames):
        blocks.append(block)
        count += len(block)
        check_amount(count * block.shape[1])
        wanted = None if max_sec is None else int(max_sec * rate)
        if wanted is not None and count >= wanted:
            break
    return (np.concatenate(blocks)[:wanted] if blocks else np.zeros((0, 1), np.float32)), rate


def _blocks(frames: Iterable[AudioFrame]) -> Iterator[tuple[np.ndarray, int]]:
    """Samples (n, channels) float32 of the frames, and their rate: all as the first one, whatever follows it."""
    resampler, source, target = None, None, None
    for frame in frames:
        kind = (frame.layout.name, frame.sample_rate)
        target = target or (frame.layout.nb_channels, kind)
        parts = []
        if source != (frame.format.name, *kind):
            parts = resampler.resample(None) if resampler else []
            # not "fltp": of more than 8 planes PyAV reads beyond the last
            resampler, source = av.AudioResampler("flt", *target[1]), (frame.format.name, *kind)
        for part in (*parts, *resampler.resample(frame)):
            yield part.to_ndarray().reshape(-1, target[0]), target[1][1]


def _refusal(file: BinaryIO, error: Exception, messages: list[str]) -> AudioError:
    """Why PyAV did not open or decode a file, in the user's words."""
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
