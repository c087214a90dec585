"""Sound files of every kind, made with PyAV and soundfile."""

import struct
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import soundfile

FORMATS = {  # suffix -> (container, codec, a sample rate that it takes)
    "m4a": ("ipod", "aac", 16_000),
    "aac": ("adts", "aac", 16_000),
    "mp4": ("mp4", "aac", 16_000),
    "mov": ("mov", "pcm_s16le", 16_000),
    "mkv": ("matroska", "flac", 16_000),
    "mka": ("matroska", "libopus", 48_000),
    "webm": ("webm", "libopus", 48_000),
    "opus": ("opus", "libopus", 48_000),
    "wma": ("asf", "wmav2", 44_100),
    "amr": ("amr", "libopencore_amrnb", 8_000),
    "3gp": ("3gp", "libopencore_amrnb", 8_000),
    "mp3": ("mp3", "libmp3lame", 16_000),
    "avi": ("avi", "libmp3lame", 16_000),
    "ac3": ("ac3", "ac3", 48_000),
    "tta": ("tta", "tta", 16_000),
    "wv": ("wv", "wavpack", 16_000),
    "flv": ("flv", "libmp3lame", 44_100),
    "wav": ("wav", "pcm_s16le", 16_000),
}


def encode(
    path: Path,
    samples: np.ndarray,
    kind: str,
    *,
    rate: int | None = None,
    options: Mapping[str, str] | None = None,
    codec_options: Mapping[str, str] | None = None,
    pictures: bool = False,
    tracks: int = 1,
) -> Path:
    """Samples (N,) or (N, channels) in the container and codec that FORMATS has for `kind`, whatever the path's suffix.

    pictures: a video stream before the sound. tracks: of sound; the second and later ones are silent."""
    container, codec, usual = FORMATS[kind]
    rate = rate or usual
    samples = samples.reshape(len(samples), -1).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file, av.open(file, "w", format=container, options=dict(options or {})) as output:
        video = output.add_stream("mpeg4", rate=5, width=32, height=32, pix_fmt="yuv420p") if pictures else None
        streams = [output.add_stream(codec, rate=rate, options=dict(codec_options or {})) for _ in range(tracks)]
        for stream in streams:
            stream.layout = "mono" if samples.shape[1] == 1 else "stereo"
            if codec in ("wmav2", "ac3"):
                stream.bit_rate = 96_000
        for _ in range(int(5 * len(samples) / rate) if video else 0):
            output.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        if video:
            output.mux(video.encode(None))
        for number, stream in enumerate(streams):
            context = stream.codec_context
            if not context.is_open:  # a second stream opens the first
                context.open()
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples.T * (number == 0)), format="fltp", layout=stream.layout.name
            )
            frame.sample_rate, frame.pts = rate, 0
            resampler = av.AudioResampler(context.format.name, stream.layout.name, rate, context.frame_size or 1024)
            for piece in (*resampler.resample(frame), *resampler.resample(None), None):
                output.mux(stream.encode(piece))
    return path


def wav_with_sizes(path: Path, samples: np.ndarray, rate: int, stated: int, riff: int | None = None) -> Path:
    """A 16-bit wav whose header states so many bytes of sound, and of everything (else `stated`, as far as it goes)."""
    soundfile.write(path, samples, rate, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", stated)
    content[4:8] = struct.pack("<I", min(stated + 36, 0xFFFFFFFF) if riff is None else riff)
    path.write_bytes(content)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    """The file without its end."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def flip_bits(path: Path, every: int = 499) -> Path:
    """The file with bytes in its middle third turned over."""
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 3, 2 * len(content) // 3, every):
        content[at] ^= 0x55
    path.write_bytes(content)
    return path
