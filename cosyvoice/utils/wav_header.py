"""What the header of a wav file says about its sound: programs that crash, and pipes, leave it unfinished."""

import os
import struct
from typing import BinaryIO, NamedTuple

UNKNOWN_BYTES = 0x7FFFF000  # this or more stands for the size of the sound where it was not known beforehand: in a pipe
MOST_CHUNKS = 100  # before the sound
WAV_MPEG = (0x50, 0x55)  # layers 1 to 3

SLACK_SEC = 0.1  # by which the sound may be shorter: some programs count the header in
START_BYTES = 4096


class WavHeader(NamedTuple):
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


def read_wav_header(file: BinaryIO) -> WavHeader:
    """The header of a file; all 0 for what is no wav, or ends before its sound."""
    size, codec, byte_rate = os.fstat(file.fileno()).st_size, 0, 0
    try:
        file.seek(0)
        riff, riff_size, wave = struct.unpack("<4sI4s", file.read(12))
        if (riff, wave) != (b"RIFF", b"WAVE"):
            return WavHeader()
        for _ in range(MOST_CHUNKS):
            kind, stated = struct.unpack("<4sI", file.read(8))
            start = file.tell()
            if kind == b"data":
                held = size - start
                return WavHeader(codec, byte_rate, stated, held, _is_unfinished(file, riff_size, stated, held))
            if kind == b"fmt ":
                codec, byte_rate = struct.unpack("<H6xI", file.read(12))
            file.seek(start + stated + stated % 2)
    except struct.error:  # it ends here
        pass
    return WavHeader()


def _is_unfinished(file: BinaryIO, riff_size: int, stated: int, held: int) -> bool:
    """Whether sound goes on after what the header says, or the header has a number that stands for "unknown"."""
    size = file.tell() + held
    if held == 0 or riff_size + 8 == size:
        return False
    if stated == 0 or stated >= max(UNKNOWN_BYTES, held):
        return True
    file.seek(stated + stated % 2, os.SEEK_CUR)
    following = file.read(START_BYTES)  # another chunk begins with four letters, a tag with ID3, filling is all zeros
    is_tag = following.startswith(b"ID3") or following[:4].decode("latin-1").isprintable()
    return bool(following.strip(b"\0")) and not is_tag
