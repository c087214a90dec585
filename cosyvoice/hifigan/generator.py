"""HiFTGenerator: mel -> waveform by a pitch-driven harmonic source, a convolutional filter and an inverse STFT."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from cosyvoice.utils.common import MEL_BINS, SAMPLE_RATE, InputError
from cosyvoice.utils.precision import check_precision, fast_dtype
from matcha.models.components.channels_last import use_channels_last
from matcha.utils.audio import hann_window

SNAKE_EPS = 1e-9
MAX_MAGNITUDE = 100.0
LAST_LRELU_SLOPE = 0.01  # before conv_post; the slopes inside the stages are the yaml's lrelu_slope


def cosines(size: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 2 pi k n / size, (size / 2 + 1, size) each, float64."""
    angle = torch.outer(torch.arange(size // 2 + 1), torch.arange(size)).double() * (2 * math.pi / size)
    return angle.cos(), angle.sin()


def exactly(device: torch.device) -> AbstractContextManager:
    """Within it products are in float32, as FFTs are."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


@cache
def dft(size: int, device: torch.device) -> Tensor:
    """(size, size + 2): of a frame, under the window, the real half of its spectrum and then the imaginary one.

    For so short frames a product is as fast as an FFT, and needs no plan: on a GPU cuFFT makes one for each new length
    of a sound, which takes several times as long as all the rest of the vocoder."""
    with torch.inference_mode(False):
        cosine, sine = cosines(size)
        window = hann_window(size, torch.device("cpu")).double()
        return (torch.cat([cosine, -sine]) * window).T.float().contiguous().to(device)


@cache
def inverse_dft(size: int, device: torch.device) -> Tensor:
    """(size, size + 2): from the halves of a spectrum to its frame under the window."""
    with torch.inference_mode(False):
        cosine, sine = cosines(size)
        both = torch.full((size // 2 + 1, 1), 2.0, dtype=torch.float64)  # a bin stands for its mirror image too
        both[0] = both[-1] = 1.0
        window = hann_window(size, torch.device("cpu")).double()
        return (torch.cat([cosine * both, -sine * both]) * window / size).T.float().contiguous().to(device)


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha with one alpha a channel. Source: Ziyin et al. 2020, eq. 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        alpha = self.alpha[:, None]
        if torch.is_grad_enabled():
            return torch.addcmul(x, torch.sin(alpha * x).square(), 1 / (alpha + SNAKE_EPS))
        y = alpha * x  # from here in place: four passes over memory, one buffer
        y.sin_().square_()
        return torch.addcmul(x, y, 1 / (alpha + SNAKE_EPS), out=y)


class ResBlock(nn.Module):
    """Residual pairs of weight-normalised convolutions, one pair a dilation, Snake before each convolution."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            pad = (kernel_size - 1) * dilation // 2
            return weight_norm(nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=pad))

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for activation1, conv1, activation2, conv2 in layers:
            x = conv2(activation2(conv1(activation1(x)))).add_(x)  # no gradient needs a convolution's output
        return x


class SineGen(nn.Module):
    """Sine waves at the pitch and its overtones where voiced, noise elsewhere. No parameters, no gradient."""

    def __init__(
        self,
        samp_rate: int,
        harmonic_num: int = 8,
        sine_amp: float = 0.1,
        noise_std: float = 0.003,
        voiced_threshold: float = 10,
    ) -> None:
        super().__init__()
        self.samp_rate, self.rows = samp_rate, harmonic_num + 1
        self.sine_amp, self.noise_std, self.voiced_threshold = sine_amp, noise_std, voiced_threshold

    @torch.no_grad()
    def forward(
        self, f0: Tensor, phase: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Waves (B, H, N), voiced flags (B, 1, N) and the noise inside the waves (B, H, N). f0: (B, 1, N) in Hz.

        phase: (B, H, 1) start angles, row 0 counts as 0, else drawn uniformly from [-pi, pi); noise: (B, H, N) standard
        normal, else drawn. Drawn in this order. Source: neural source-filter model, Wang et al. 2019."""
        shape = (f0.shape[0], self.rows, f0.shape[2])
        if phase is None:
            phase = torch.rand(*shape[:2], 1, device=f0.device, dtype=f0.dtype) * (2 * math.pi) - math.pi
        if noise is None:
            noise = torch.randn(shape, device=f0.device, dtype=f0.dtype)
        multiples = torch.arange(1, self.rows + 1, device=f0.device, dtype=f0.dtype)[:, None]
        starts = torch.where(multiples == 1, 0.0, phase)
        turns = (f0 * multiples / self.samp_rate).cumsum(dim=-1)
        sine = turns.remainder_(1).mul_(2 * math.pi).add_(starts).sin_().mul_(self.sine_amp)
        voiced = (f0 > self.voiced_threshold).to(f0.dtype)
        noise = noise * (voiced * self.noise_std + (1 - voiced) * (self.sine_amp / 3))
        return sine.mul_(voiced).add_(noise), voiced, noise


class SourceModule(nn.Module):
    """One excitation signal from the sine waves, by a learnt mix (`l_linear`) and tanh."""

    def __init__(self, sine_generator: SineGen) -> None:
        super().__init__()
        self.l_linear = nn.Linear(sine_generator.rows, 1)
        self.l_sin_gen = sine_generator

    def forward(self, f0: Tensor, phase: Tensor | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Excitation (B, 1, N), and a noise branch (B, 1, N) that the vocoder leaves unused.

        f0: (B, 1, N) in Hz; phase, noise: as in `SineGen`. The noise branch keeps the random stream in step with the
        original model; it is drawn last."""
        waves, _, _ = self.l_sin_gen(f0, phase, noise)
        branch = torch.randn(f0.shape[0], f0.shape[2], 1, device=f0.device, dtype=f0.dtype).transpose(1, 2)
        return torch.tanh(self.l_linear(waves.transpose(1, 2)).transpose(1, 2)), branch * (self.l_sin_gen.sine_amp / 3)


class HiFTGenerator(nn.Module):
    """Vocoder. Letters: B batch, T mel frames, N samples, 256 a frame at the released size."""

    def __init__(
        self,
        in_channels: int = MEL_BINS,
        base_channels: int = 512,
        nb_harmonics: int = 8,
        sampling_rate: int = SAMPLE_RATE,
        nsf_alpha: float = 0.1,
        nsf_sigma: float = 0.003,
        nsf_voiced_threshold: float = 10,
        upsample_rates: Sequence[int] = (8, 8),
        upsample_kernel_sizes: Sequence[int] = (16, 16),
        istft_params: Mapping[str, int] | None = None,
        resblock_kernel_sizes: Sequence[int] = (3, 7, 11),
        resblock_dilation_sizes: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        source_resblock_kernel_sizes: Sequence[int] = (7, 11),
        source_resblock_dilation_sizes: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5)),
        lrelu_slope: float = 0.1,
        audio_limit: float = 0.99,
        f0_predictor: nn.Module | None = None,
    ) -> None:
        """istft_params: {"n_fft": 16, "hop_len": 4} unless given. Raises InputError without an f0_predictor, and for
        kernels with which a stage would not make as many values of each as its rate says."""
        super().__init__()
        if f0_predictor is None:
            raise InputError("HiFTGenerator: no f0_predictor; name one under hift in cosyvoice.yaml")
        istft = {"n_fft": 16, "hop_len": 4} if istft_params is None else istft_params
        self.n_fft, self.hop_length = int(istft["n_fft"]), int(istft["hop_len"])
        self.samples_per_frame = math.prod(upsample_rates) * self.hop_length
        for kernel, rate in zip(upsample_kernel_sizes, upsample_rates, strict=True):
            if kernel < rate or (kernel - rate) % 2:
                raise InputError(
                    f"upsample_kernel_sizes has {kernel} for the rate {rate}; a kernel is as long as its rate, or "
                    "longer by an even number"
                )
        self.lrelu_slope, self.audio_limit = lrelu_slope, audio_limit
        self.m_source = SourceModule(SineGen(sampling_rate, nb_harmonics, nsf_alpha, nsf_sigma, nsf_voiced_threshold))
        self.conv_pre = weight_norm(nn.Conv1d(in_channels, base_channels, 7, padding=3))

        widths = [base_channels >> (i + 1) for i in range(len(upsample_rates))]
        self.ups = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(2 * width, width, kernel, rate, padding=(kernel - rate) // 2))
            for width, kernel, rate in zip(widths, upsample_kernel_sizes, upsample_rates, strict=True)
        )
        self.source_downs = nn.ModuleList()
        for i, width in enumerate(widths):
            stride = math.prod(upsample_rates[i + 1 :])
            kernel, pad = (1, 0) if stride == 1 else (2 * stride, stride // 2)
            self.source_downs.append(nn.Conv1d(self.n_fft + 2, width, kernel, stride, padding=pad))
        self.source_resblocks = nn.ModuleList(
            ResBlock(*sizes)
            for sizes in zip(widths, source_resblock_kernel_sizes, source_resblock_dilation_sizes, strict=True)
        )
        self.blocks_per_stage = len(resblock_kernel_sizes)
        self.resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations)
            for width in widths
            for kernel, dilations in zip(resblock_kernel_sizes, resblock_dilation_sizes, strict=True)
        )
        self.conv_post = weight_norm(nn.Conv1d(widths[-1], self.n_fft + 2, 7, padding=3))
        self.f0_predictor = f0_predictor

    def forward(
        self, batch: Mapping[str, Tensor], device: torch.device | str, **draws: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Training: waveform (B, N) and pitch (B, T) in Hz from batch["speech_feat"], (B, T, 80).

        The waveform gives no gradient to the f0 predictor. draws: `phase` and `noise` as in `source`."""
        mel = batch["speech_feat"].transpose(1, 2).to(device)
        f0 = self.f0_predictor(mel)
        return self.decode(mel, self.source(f0, **draws)), f0

    @torch.inference_mode()
    def inference(
        self, speech_feat: Tensor, cache_source: Tensor | None = None, **draws: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Waveform (B, N) and the excitation (B, 1, N) that it was made with. speech_feat: mel (B, 80, T).

        cache_source: (B, 1, K) replaces the first K samples of the excitation. draws: as in `source`."""
        source = self.source(self.f0_predictor(speech_feat), **draws)
        if cache_source is not None and cache_source.shape[2] > 0:
            source = torch.cat([cache_source.to(source), source[:, :, cache_source.shape[2] :]], dim=2)
        return self.decode(speech_feat, source), source

    def source(self, f0: Tensor, phase: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Excitation (B, 1, N) from pitch f0 (B, T) in Hz, every value held for one frame.

        phase: (B, 9, 1) and noise: (B, 9, N) replace the random draws of `SineGen`."""
        held = f0.repeat_interleave(self.samples_per_frame, dim=1, output_size=f0.shape[1] * self.samples_per_frame)
        return self.m_source(held[:, None], phase, noise)[0]

    def stft(self, x: Tensor) -> Tensor:
        """Spectrum of x (B, N) as (B, n_fft + 2, N / hop + 1): the real rows, then the imaginary rows."""
        padded = F.pad(x.float(), (self.n_fft // 2, self.n_fft // 2), mode="reflect")
        frames = padded.unfold(1, self.n_fft, self.hop_length)  # (B, N / hop + 1, n_fft)
        with exactly(x.device):
            return (frames @ dft(self.n_fft, x.device)).transpose(1, 2)

    def istft(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        """Waveform (B, N) from magnitude, cut at 100, and phase in radians, each (B, n_fft / 2 + 1, N / hop + 1)."""
        magnitude, phase = magnitude.float().clamp(max=MAX_MAGNITUDE), phase.float()
        spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)
        with exactly(spectrum.device):
            frames = inverse_dft(self.n_fft, spectrum.device) @ spectrum  # (B, n_fft, N / hop + 1)
        weight = hann_window(self.n_fft, magnitude.device).square()[:, None].expand(-1, frames.shape[2])
        return self.overlapped(frames) / self.overlapped(weight[None])

    def overlapped(self, frames: Tensor) -> Tensor:
        """Sum (B, N) of frames (B, n_fft, N / hop + 1), each a hop after the one before, without half a frame at each
        end."""
        size = self.n_fft + self.hop_length * (frames.shape[2] - 1)
        summed = F.fold(frames, (1, size), (1, self.n_fft), stride=(1, self.hop_length))
        return summed[:, 0, 0, self.n_fft // 2 : -(self.n_fft // 2)]

    def decode(self, x: Tensor, s: Tensor) -> Tensor:
        """Waveform (B, N) in +-audio_limit from mel x (B, 80, T) and excitation s (B, 1, N)."""
        dtype = self.source_downs[0].weight.dtype
        spectrum = self.stft(s.squeeze(1)).to(dtype)
        h = self.conv_pre(x.to(dtype))
        for i, (up, down, source_block) in enumerate(
            zip(self.ups, self.source_downs, self.source_resblocks, strict=True)
        ):
            h = up(F.leaky_relu(h, self.lrelu_slope))
            if i == len(self.ups) - 1:
                h = F.pad(h, (1, 0), mode="reflect")  # the STFT has one frame more than hops
            h = h + source_block(down(spectrum))
            first, *others = self.resblocks[i * self.blocks_per_stage : (i + 1) * self.blocks_per_stage]
            h = sum((block(h) for block in others), start=first(h)).div_(self.blocks_per_stage)
        h = self.conv_post(F.leaky_relu(h, LAST_LRELU_SLOPE).to(self.conv_post.bias.dtype))
        magnitude, angle = h.tensor_split([self.n_fft // 2 + 1], dim=1)
        return self.istft(magnitude.exp(), angle.sin()).clamp(-self.audio_limit, self.audio_limit)

    def prepare_inference(self, precision: str = "full") -> None:
        """Fold the weight norm and lay the weights out for speed, for good. Idempotent.

        precision "fast": half precision inside the filter on a CPU that gains by it; pitch, excitation and the last
        layer, whose errors would be heard, stay float32. Raises InputError for another precision."""
        check_precision(precision)
        self.fold_weight_norm()
        device = self.conv_post.weight.device
        if device.type != "cpu":
            return
        use_channels_last(self)
        if precision == "fast":
            for filters in (self.conv_pre, self.ups, self.source_downs, self.source_resblocks, self.resblocks):
                filters.to(fast_dtype(device))

    def fold_weight_norm(self) -> None:
        """Turn every weight-normalised layer into a plain one with the same weight, for inference. Idempotent."""
        for module in list(self.modules()):
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
