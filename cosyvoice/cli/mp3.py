"""How long an MP3 file is, told from its frames: libsndfile believes a length in the first one, or guesses by it."""

from pathlib import Path

# Layer III, ISO 11172-3 and 13818-3; by the version's two bits: 3 is MPEG-1, 2 MPEG-2, 0 MPEG-2.5
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
LAYER_III = 1
TAG_HEADER = 10  # bytes


def mp3_seconds(path: Path) -> float:
    """Seconds of sound in the Layer III frames of a file; 0.0 where it has none. Reads the whole file."""
    data = path.read_bytes()
    at, seconds = _after_tag(data), 0.0
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        size, duration = _frame(data[at : at + 4])
        whole = size and at + size <= len(data) and (at + size == len(data) or data[at + size] in (0xFF, 0x54, 0x41))
        seconds += duration if whole else 0.0
        at += size if whole else 1
    return seconds


def _after_tag(data: bytes) -> int:
    """Where an ID3v2 tag at the start ends; its size has seven bits a byte."""
    if data[:3] != b"ID3" or len(data) < TAG_HEADER:
        return 0
    return TAG_HEADER + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))


def _frame(header: bytes) -> tuple[int, float]:
    """Bytes and seconds of the frame with this header; (0, 0.0) for what is none."""
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbits, rate = header[2] >> 4, header[2] >> 2 & 3
    if header[1] >> 5 != 7 or version == 1 or layer != LAYER_III or kbits in (0, 15) or rate == 3:
        return 0, 0.0
    samples, table = (1152, KBITS_1) if version == 3 else (576, KBITS_2)
    hz = RATES[version][rate]
    return samples // 8 * table[kbits] * 1000 // hz + (header[2] >> 1 & 1), samples / hz
