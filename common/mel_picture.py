"""The model's own log-mel of a sound, to be looked at."""

import io

import torch.nn.functional as F
from torch import Tensor

from cosyvoice.utils.audio_files import resample
from cosyvoice.utils.common import MEL_BINS, MEL_HOP, SAMPLE_RATE
from matcha.utils.audio import mel_spectrogram

WINDOW, TOP_HZ = 1024, 8000  # samples; highest band. As feat_extractor in cosyvoice.yaml has them
QUIETEST, LOUDEST = -11.5, 1.0  # natural-log mel, ends of the colour scale


def log_mel(wave: Tensor) -> Tensor:
    """(80, T) of a wave (1, N) at SAMPLE_RATE, natural logarithm, as the model's own; one speech token is too short for
    that, and silence is put after it."""
    wave = F.pad(wave, (0, max(0, WINDOW - wave.shape[1])))
    return mel_spectrogram(wave, WINDOW, MEL_BINS, SAMPLE_RATE, MEL_HOP, WINDOW, fmin=0, fmax=TOP_HZ)[0]


def mel_picture(wave: Tensor, sample_rate: int) -> bytes:
    """The mel of a wave (1, N) as PNG, time to the right, low frequencies below."""
    from matplotlib import image

    mel = log_mel(resample(wave, sample_rate, SAMPLE_RATE))
    file = io.BytesIO()
    image.imsave(file, mel.flip(0).numpy(), vmin=QUIETEST, vmax=LOUDEST, cmap="magma", format="png")
    return file.getvalue()
