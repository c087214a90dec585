"""How near the flow's solvers come to the converged mel, over the number of times they ask the network.

python bench/flow_solvers.py                                     # the mini model, real clips; a picture and a table
python bench/flow_solvers.py --model-dir output/standin --clips 1 --seconds 1.2 --picture output/standin_solvers.png

An evaluation is one call of the network with both guidance branches, which is what a solver costs. Midpoint and Heun
need two a step. The product has "Euler, cosine" and "multistep"; the others stand here only.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib
import torch
from torch import Tensor
from tqdm import tqdm

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # a bench script stands in its own folder

from cosyvoice.cli.cosyvoice import load_part  # noqa: E402
from cosyvoice.cli.frontend import CosyVoiceFrontEnd  # noqa: E402
from cosyvoice.flow.flow import MaskedDiffWithXvec  # noqa: E402
from cosyvoice.utils.audio_files import load_wav  # noqa: E402
from cosyvoice.utils.common import EXTRACTOR_RATE, token_to_mel_length  # noqa: E402
from cosyvoice.utils.yaml_loader import read_model_config  # noqa: E402
from matcha.models.components.flow_matching import multistep, multistep_times, time_grid  # noqa: E402
from text.normalizer import OURS  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

CLIPS = PROJECT / "examples" / "en_allison" / "raw_audio"
EVALUATIONS = (4, 5, 6, 8, 10, 16)
CONVERGED = 100  # multistep steps of the solution that all are compared with

Velocity = Callable[[Tensor, float], Tensor]  # of the state at a time


@dataclass(frozen=True)
class Problem:
    """One path: where it starts, the network's velocity along it, and where it ends."""

    noise: Tensor
    velocity: Velocity
    end: Tensor


# ---- solvers: noise, velocity, evaluations -> mel --------------------------------------------------------------------


def uniform(steps: int) -> list[float]:
    return time_grid(steps, "linear").tolist()


def cosine(steps: int) -> list[float]:
    return time_grid(steps, "cosine").tolist()


def euler(x: Tensor, velocity: Velocity, times: Sequence[float]) -> Tensor:
    for t, following in pairwise(times):
        x = x + (following - t) * velocity(x, t)
    return x


def midpoint(x: Tensor, velocity: Velocity, times: Sequence[float]) -> Tensor:
    for t, following in pairwise(times):
        half = (following - t) / 2
        x = x + 2 * half * velocity(x + half * velocity(x, t), t + half)
    return x


def heun(x: Tensor, velocity: Velocity, times: Sequence[float]) -> Tensor:
    for t, following in pairwise(times):
        width, first = following - t, velocity(x, t)
        x = x + width / 2 * (first + velocity(x + width * first, following))
    return x


def adams_bashforth(x: Tensor, velocity: Velocity, times: Sequence[float]) -> Tensor:
    """Second order, for steps of unequal width; the first step is Euler's."""
    before, width_before = None, 0.0
    for t, following in pairwise(times):
        width, now = following - t, velocity(x, t)
        slope = now if before is None else torch.lerp(before, now, 1 + width / (2 * width_before))
        x, before, width_before = x + width * slope, now, width
    return x


def data_multistep(x: Tensor, velocity: Velocity, times: Sequence[float]) -> Tensor:
    return multistep(x, lambda state, k: velocity(state, times[k]), times)


SOLVERS = {
    "Euler, uniform": (euler, uniform, 1),
    "Euler, cosine": (euler, cosine, 1),
    "midpoint, cosine": (midpoint, cosine, 2),
    "Heun, cosine": (heun, cosine, 2),
    "Adams-Bashforth 2, uniform": (adams_bashforth, uniform, 1),
    "Adams-Bashforth 2, cosine": (adams_bashforth, cosine, 1),
    "multistep, square": (data_multistep, multistep_times, 1),
}
"""Name -> (method, its times for a number of steps, evaluations a step)."""


# ---- measuring -------------------------------------------------------------------------------------------------------


def problem(flow: MaskedDiffWithXvec, frontend: CosyVoiceFrontEnd, clip: Path, seconds: float, seed: int) -> Problem:
    """The path of a clip's speech tokens in its own voice."""
    wave = load_wav(clip, EXTRACTOR_RATE)[:, : int(seconds * EXTRACTOR_RATE)]
    tokens = torch.tensor([frontend.speech_tokens(wave)]) % flow.vocab_size
    frames = token_to_mel_length(tokens.shape[1], flow.input_frame_rate)
    encoded = flow.encode(tokens, [tokens.shape[1]])
    mu, _ = flow.length_regulator.inference(encoded[:, :0], encoded, 0, frames, flow.input_frame_rate)
    mu = mu.transpose(1, 2).contiguous()
    spks, cond = flow.speaker(frontend.speaker_vector(wave)[None]), torch.zeros_like(mu)
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(seed)) * flow.decoder.temperature

    def velocity(x: Tensor, t: float) -> Tensor:
        return flow.decoder.guided_velocity(x.shape, [t], mu, None, spks, cond)(x, 0)

    return Problem(noise, velocity, data_multistep(noise, velocity, multistep_times(CONVERGED)))


def errors(problems: Sequence[Problem]) -> dict[str, dict[int, float]]:
    """{solver: {evaluations: mean absolute error of the mel, natural logarithm}}."""
    found: dict[str, dict[int, float]] = {name: {} for name in SOLVERS}
    for name, (method, times, cost) in tqdm(SOLVERS.items(), "solvers"):
        for evaluations in EVALUATIONS:
            if evaluations % cost == 0:
                grid = times(evaluations // cost)
                ends = [(one.end, method(one.noise, one.velocity, grid)) for one in problems]
                found[name][evaluations] = sum((mel - end).abs().mean().item() for end, mel in ends) / len(ends)
    return found


def table(found: dict[str, dict[int, float]]) -> str:
    """Markdown."""
    lines = [f"| solver, times | {' | '.join(map(str, EVALUATIONS))} |", "|---|" + "---|" * len(EVALUATIONS)]
    for name, values in found.items():
        cells = (f"{values[count]:.3f}" if count in values else "-" for count in EVALUATIONS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[int, float]], path: Path, title: str) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, values in found.items():
        axes.plot(list(values), list(values.values()), marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="mean mel error, nepers")
    axes.set_xticks(EVALUATIONS, labels=map(str, EVALUATIONS))
    axes.minorticks_off()
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=PROJECT / "pretrained_models" / "CosyVoice-mini")
    parser.add_argument("--clips", type=int, default=6, help="example clips [6]")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each, at most [8]")
    parser.add_argument("--picture", type=Path, default=PROJECT / "bench" / "flow_solvers.png")
    return parser.parse_args(argv)


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    config = read_model_config(args.model_dir)
    flow, frontend = load_part(config, "flow", inference=True), CosyVoiceFrontEnd(config, normalizer=OURS)
    clips = sorted(CLIPS.glob("*.flac"))[: args.clips]
    problems = [problem(flow, frontend, clip, args.seconds, seed) for seed, clip in enumerate(tqdm(clips, "converged"))]
    found = errors(problems)
    print(table(found))
    draw(found, args.picture, f"{args.model_dir.name}, {len(clips)} clips, against {CONVERGED} steps")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
