"""The flow: MaskedDiffWithXvec from speech tokens and a speaker vector to mels, on pieces of equal length.

Time is drawn as the fine-tuning draws it (cosine), without prompt prefixes.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from build_mini.clips import load_clips
from build_mini.common import (
    SEED,
    SOURCES,
    TOKEN_HZ,
    Progress,
    fast,
    learning_rate,
    log_line,
    running_mean,
    set_learning_rate,
    tokenizer_of,
)
from build_mini.vocoder import mini_config, shipped
from cosyvoice.utils.common import token_to_mel_length
from dataset import Clip, collate_flow, flow_window, speaker_vector

MINUTES = 120.0
BATCH = 16
SHORTEST, LONGEST = 25, 60  # tokens of a window
PEAK_LR = 1.5e-3
SHARES = {"natural": 0.4, "natural copy": 0.2, "corpus": 0.25, "corpus copy": 0.15}  # of the windows
TEST_BATCHES = 12
STRAIGHT = 4.0  # around it Mish is a straight line
PRIOR_WEIGHT = 0.5  # of the loss that makes the condition itself a rough mel; pretraining only


def draw_batch(clips: dict[str, list[Clip]], rng: random.Random, shares: dict[str, float], size: int) -> dict:
    """A batch as MaskedDiffWithXvec.forward takes it: windows of one random length, with mean or own vectors."""
    length = rng.randint(SHORTEST, LONGEST)
    frames = token_to_mel_length(length, TOKEN_HZ)
    windows, vectors = [], []
    while len(windows) < size:
        clip = rng.choice(clips[rng.choices(list(shares), list(shares.values()))[0]])
        window = flow_window(clip, frames, TOKEN_HZ, rng)
        if (len(window.speech_token), len(window.speech_feat)) == (length, frames):
            windows.append(window)
            vectors.append(speaker_vector(clip, rng.choice(("mean", "utterance"))))
    return collate_flow(windows, vectors)


@torch.inference_mode()
def test_loss(model: nn.Module, clips: dict[str, list[Clip]], kind: str) -> float:
    """Mean loss over fixed held-out pieces with fixed noise; no dropout of conditions, no prefix."""
    rng = random.Random(SEED)
    noise = torch.Generator().manual_seed(SEED)
    model.eval()
    total = []
    for k in range(TEST_BATCHES):
        batch = draw_batch(clips, rng, {kind: 1.0}, 8)
        fixed = {
            "t": torch.full((8, 1, 1), (k + 0.5) / TEST_BATCHES),
            "noise": torch.randn(batch["speech_feat"].transpose(1, 2).shape, generator=noise),
        }
        with fast():
            total.append(model(batch, "cpu", random_prefix=False, guidance_dropout=False, **fixed)["loss"])
    model.train()
    return float(torch.stack(total).mean())


@torch.no_grad()
def start_as_denoiser(estimator: nn.Module, clips: list[Clip]) -> None:
    """Let the fresh decoder answer "the average mel minus the input": right but for the sound at the noisy end of time.

    The velocity is mel minus noise, bin by bin. Norms and activations hide the noise from a fresh U-Net, which then
    learns for hours to predict the mel and nothing of the noise: what it makes is grainy. Here the input's bins have
    channels of their own, through the first level's residuals and skip connection to the last layer.
    """
    first, last = estimator.down_blocks[0], estimator.up_blocks[-1]
    bins, width = estimator.out_channels, estimator.final_proj.in_channels
    same, centre = torch.eye(bins), torch.zeros(bins, width, 3)
    centre[:, :bins, 1] = same
    for (resnet, blocks, _), begin in ((first, 0), (last, width)):  # the last level reads its own input, then the skip
        resnet.res_conv.weight[:bins] = 0
        resnet.res_conv.weight[:bins, begin : begin + bins, 0] = same
        quiet = [resnet.block2.block[1].weight, resnet.block2.block[1].bias]
        for block in blocks:
            quiet += [
                block.attn1.to_out[0].weight,
                block.attn1.to_out[0].bias,
                block.ff.net[2].weight,
                block.ff.net[2].bias,
            ]
        for parameter in quiet:
            parameter[:bins] = 0
    last[2].weight[:bins] = centre
    conv, norm, _ = estimator.final_block.block
    conv.weight[:bins] = centre
    norm.bias[:bins] = STRAIGHT
    estimator.final_proj.weight[:, :bins, 0] = -same
    mean = torch.cat([clip.speech_feat for clip in clips[:200]]).mean(dim=0)
    estimator.final_proj.bias.copy_(mean + STRAIGHT)


class Prior:
    """Distance of the flow's condition from the mel itself: the token side learns from it without the decoder."""

    def __init__(self, model: nn.Module) -> None:
        self.condition = None
        model.length_regulator.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple, outputs: tuple[Tensor, Tensor]) -> None:
        self.condition = outputs[0]

    def loss(self, mel: Tensor) -> Tensor:
        return (self.condition.float() - mel).square().mean()


def build(work: Path, minutes: float = MINUTES, warm_start: bool = False) -> None:
    """Train until the budget is spent; state in work/flow.state.pt."""
    progress = Progress(work, "flow", minutes, tokenizer=tokenizer_of(work))
    if progress.finished():
        return
    clips = load_clips(work, mels=True)
    model = shipped("flow") if warm_start else mini_config().build("flow", device="cpu").train()
    if not warm_start:
        start_as_denoiser(model.decoder.estimator, clips["natural"])
    mean = running_mean(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01)
    parts = {"model": model, "mean": mean, "optimizer": optimizer}
    progress.resume(parts)
    prior, rng, smooth = Prior(model), random.Random(SEED + progress.step), None
    for step in progress.steps(parts):
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress))
        batch = draw_batch(clips, rng, SHARES, BATCH)
        with fast(), sdpa_kernel(SDPBackend.MATH):  # whose backward pass is the fastest on a CPU for short windows
            loss = model(batch, "cpu", random_prefix=False, flow_time="cosine")["loss"]
        aside = prior.loss(batch["speech_feat"])
        optimizer.zero_grad()
        (loss + PRIOR_WEIGHT * aside).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(model)
        found = np.array([float(loss.detach()), float(aside.detach())])
        smooth = found if smooth is None else 0.98 * smooth + 0.02 * found
        if step % progress.log_every == 0:
            shown = f"loss {smooth[0]:.3f} prior {smooth[1]:.3f}"
            print(f"flow step {step} {shown} {progress.spent / 60:.1f} min", flush=True)
        if step % 500 == 0:
            print(f"flow step {step} {figures(mean.module, clips)}", flush=True)
    log_line(work, "flow", f"{progress.step} steps, train {smooth[0]:.3f}, {figures(mean.module, clips)}")


def figures(model: nn.Module, clips: dict[str, list[Clip]]) -> str:
    """Losses on held-out clips of both sources."""
    return "held-out " + ", ".join(f"{kind} {test_loss(model, clips, f'{kind} test'):.3f}" for kind in SOURCES)
