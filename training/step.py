"""One optimizer step: its clips in micro-batches of like length, the gradient of their mean loss, one update.

The gradient is the same however the clips are packed: what is random about a clip depends on seed, epoch and clip
alone, each micro-batch weighs by its number of tokens or frames, and the flow's batches hold windows of one length.
Only the adapters' dropout is drawn by the batch, from a generator that is seeded for each step. So nothing random has
to be saved: a step draws the same in a resumed run, after the voice was heard, and when it is done a second time.
"""

import math
import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from common.signals import SignalGuard
from config import MemoryShortage
from dataset import Clip, FlowDraw, collate_draws, collate_llm, draw_flow, llm_positions, pack, window_frames
from llm_flow_model import units
from lora import adapter_parameters
from training.distributed import check_alone, own_share, rank, sum_over_processes
from training.memory import checkpoint_activations
from training.state import Part, Run, loss_weight, lr_at

TRYING_AGAIN = (
    "the GPU is out of memory: this step is done again, and the run goes on, with gradient checkpointing and one clip "
    "at a time"
)
TOO_LITTLE_MEMORY = (
    "the GPU is out of memory even with gradient checkpointing and one clip at a time; close other programs that use "
    "it, set frozen_weights=half and a smaller max_feat_len, or train on shorter clips"
)


def optimizer_step(run: Run, group: Sequence[int], guard: SignalGuard) -> dict[str, tuple[float, float]]:
    """One update of every active part from the clips numbered in `group`; {part: (raw mean loss, gradient norm)}.

    Gradients of all parts come first and the updates last, so an interruption finds the weights of the last whole step.
    """
    clips = [run.train_clips[number] for number in group]
    counts = {part.name: sum(clip_units(run, part, clip) for clip in clips) for part in run.active}
    losses = gradients(run, shared_out(clips), counts, guard)
    own_gradients = [gradient for part in run.active for gradient in fill_gradients(run, part)]
    sum_over_processes([*losses, *own_gradients])
    norms = [clip_gradient(run, part) for part in run.active]
    read = torch.stack([*losses, *norms]).tolist()  # the only place where a step waits for the device
    results = dict(zip(counts, zip(read[: len(losses)], read[len(losses) :], strict=True), strict=True))
    for part in run.active:
        update(run, part, results[part.name][1])
    run.scaler.update()
    for name, (loss, _) in results.items():
        if math.isfinite(loss):
            total, count = run.sums.get(name, (0.0, 0))
            run.sums[name] = [total + loss * counts[name], count + counts[name]]
    return results


def clip_units(run: Run, part: Part, clip: Clip) -> int:
    """What a clip weighs in a part's mean loss: its tokens with EOS, or the frames of its window."""
    if part.name == "llm":
        return units("llm", [len(clip.speech_token)])
    return units("flow", [window_frames(clip, run.config.max_feat_len, run.token_rate_hz)])


def shared_out(clips: Sequence[Clip]) -> Sequence[Clip]:
    """This process's share of the clips of a step, dealt by length so that all have about as much to do."""
    return own_share(sorted(clips, key=llm_positions, reverse=True))


def gradients(run: Run, clips: Sequence[Clip], counts: Mapping[str, int], guard: SignalGuard) -> list[Tensor]:
    """What `clips` add to the gradient of each active part; returns what they add to its raw mean loss, on the device.

    counts: {part: tokens or frames of the whole step}. Where the GPU's memory runs out it is done again, with the same
    draws, gradient checkpointing and one clip at a time, and the run goes on like that. UserError where that is too
    much as well. No other process notices.
    """
    try:
        return all_gradients(run, clips, counts, guard)
    except torch.OutOfMemoryError:
        print(TRYING_AGAIN, flush=True)
    use_least_memory(run)  # here and not above: the error's traceback holds the tensors of the first try
    try:
        return all_gradients(run, clips, counts, guard)
    except torch.OutOfMemoryError as error:
        raise MemoryShortage(TOO_LITTLE_MEMORY) from error


def use_least_memory(run: Run) -> None:
    """Gradient checkpointing and one clip at a time from now on; nothing of an earlier try is kept."""
    for optimizer in run.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    checkpoint_activations(run.model)
    run.batch_frames = dict.fromkeys(run.batch_frames, 1)
    if run.device.type == "cuda":
        torch.cuda.empty_cache()


def all_gradients(run: Run, clips: Sequence[Clip], counts: Mapping[str, int], guard: SignalGuard) -> list[Tensor]:
    """`gradients` as memory is planned. What the adapters' dropout draws depends on seed, step and process alone."""
    torch.manual_seed(random.Random(f"{run.config.seed}/step {run.step}/{rank()}").getrandbits(63))
    run.scaler.scale(torch.zeros((), device=run.device))  # a process without a clip needs the scale to unscale by, too
    losses = []
    for part in run.active:
        run.optimizers[part.name].zero_grad(set_to_none=True)
        losses.append(accumulate_gradient(run, part, clips, counts[part.name], guard))
    return losses


def accumulate_gradient(run: Run, part: Part, clips: Sequence[Clip], count: int, guard: SignalGuard) -> Tensor:
    """Add what the clips add to the gradient of a mean over `count` tokens (frames); their share of the raw mean."""
    weight = loss_weight(run.config, part.name)
    total = torch.zeros((), device=run.device)
    for batch in micro_batches(run, part, clips):
        check_alone(guard)
        with run.autocast():
            loss = run.model.loss(part.name, on_device(batch, run.device), run.device)
        share = loss.mean * (loss.count / count)
        run.scaler.scale(weight * share).backward()
        total += share.detach()
    return total


def fill_gradients(run: Run, part: Part) -> list[Tensor]:
    """One part's gradients, put in as zeros where this process had no clip."""
    parameters = adapter_parameters(run.model.part(part.name))
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters]


def micro_batches(run: Run, part: Part, clips: Sequence[Clip]) -> list[dict[str, Tensor]]:
    """The clips in batches of at most `batch_frames` positions (LLM) or frames (flow), on the CPU."""
    budget = run.batch_frames[part.name]
    if part.name == "llm":
        packed = pack([llm_positions(clip) for clip in clips], budget)
        return [collate_llm([clips[i] for i in numbers], run.config.speaker_embedding) for numbers in packed]
    draws = [flow_draw(run, clip) for clip in clips]
    packed = pack([len(draw.window.speech_feat) for draw in draws], budget, alike=True)
    return [collate_draws([draws[i] for i in numbers]) for numbers in packed]


def flow_draw(run: Run, clip: Clip) -> FlowDraw:
    """What the flow learns from a clip in this epoch."""
    rng = random.Random(f"{run.config.seed}/{run.epoch}/{clip.utt}")
    dropped = run.model.flow.decoder.training_cfg_rate
    return draw_flow(clip, run.config.max_feat_len, run.token_rate_hz, dropped, run.config.speaker_embedding, rng)


def on_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on the device, copied while earlier ones are still computed; lengths stay where they can be read."""
    pinned = device.type == "cuda"
    return {
        name: tensor
        if name.endswith("_len")
        else (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)
        for name, tensor in batch.items()
    }


def clip_gradient(run: Run, part: Part) -> Tensor:
    """Scale one part's gradient down to `max_grad_norm`; its norm before, on the device."""
    run.scaler.unscale_(run.optimizers[part.name])
    return nn.utils.clip_grad_norm_(adapter_parameters(run.model.part(part.name)), run.config.max_grad_norm)


def update(run: Run, part: Part, norm: float) -> None:
    """Apply one part's gradient, unless it is not finite."""
    optimizer = run.optimizers[part.name]
    for group in optimizer.param_groups:
        group["lr"] = lr_at(run.place, run.total_steps, run.config)
    if run.scaler.is_enabled() or math.isfinite(norm):
        run.scaler.step(optimizer)  # an enabled scaler itself skips a step that overflowed
