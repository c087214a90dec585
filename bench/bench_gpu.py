"""Seconds, memory and real-time factor at full CosyVoice-300M size with random weights, decoding beside its floor: the
bytes of the weights that every step reads at the rate at which the same process copies memory. JSON out.

python bench/bench_gpu.py                                  # CUDA, released sizes, needs 2 GB of disk for the stand-in
python bench/bench_gpu.py --device cpu --tiny --steps 1    # the same code on tiny networks
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # a bench script stands in its own folder

from floors import copy_rate, decode_weights  # noqa: E402
from harness import TEXT_TOKENS_PER_SEC, Row, measure, print_row, random_clip, training_run, write_rows  # noqa: E402
from make_standin_model import TINY, Sizes, write_model  # noqa: E402

from config import InferenceConfig, load  # noqa: E402
from cosyvoice.cli.cosyvoice import CosyVoice  # noqa: E402
from cosyvoice.cli.model import CosyVoiceModel  # noqa: E402
from cosyvoice.llm.llm import TransformerLM, Utterance  # noqa: E402
from cosyvoice.llm.static_decoding import StaticSteps  # noqa: E402
from cosyvoice.utils.int8 import Int8Linear  # noqa: E402
from cosyvoice.utils.precision import PRECISIONS  # noqa: E402
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config  # noqa: E402
from dataset import MEL_BINS, Clip  # noqa: E402
from speaking import BATCH  # noqa: E402
from training_state import epoch_groups  # noqa: E402
from training_step import optimizer_step  # noqa: E402
from utils import GIB, SignalGuard, select_device  # noqa: E402

T = TypeVar("T")
CARD_GIB = 8.0  # the card that training is promised to run on
PROMISED_GIB = {10: 4.5, 30: 7.0}  # longest clip in seconds -> allocated at most, joint training of whole clips
MIXED_CLIPS = 30
COPIED_BYTES = 2**30  # more than any card's cache holds
FLOW = {"n_timesteps": InferenceConfig().flow_steps, "solver": InferenceConfig().flow_solver}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script itself")
    parser.add_argument("--steps", type=int, default=5, help="measured repetitions")
    parser.add_argument("--optimizer-steps", type=int, default=100, help="measured on 30 clips of mixed length")
    parser.add_argument("--mixed-seconds", type=float, nargs=2, default=[3, 8], help="their shortest and longest")
    parser.add_argument("--accumulate", type=int, default=16, help="clips per optimizer step in the other rows")
    parser.add_argument("--clip-seconds", type=int, nargs="+", default=[3, 10, 30], help="lengths of training clips")
    parser.add_argument("--spoken-seconds", type=int, nargs="+", default=[3, 10], help="lengths of spoken sentences")
    parser.add_argument("--lines", type=int, default=BATCH, help="sentences that are spoken together")
    parser.add_argument("--model-dir", type=Path, help="a full-size model directory [made with random weights]")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args(argv)


def training_rows(config: ModelConfig, device: torch.device, args: argparse.Namespace) -> list[Row]:
    """Joint training as the settings choose it, each beside the same clips one at a time (batch 1).

    Clips of one length, whole in both parts, within the memory that is promised to be enough; then 30 clips of 3-8 s
    with the shipped settings.
    """
    rows = []
    for seconds in args.clip_seconds:
        clips = [random_clip(seconds, config, number) for number in range(args.accumulate)]
        settings = [f"accumulate_grad_batches={args.accumulate}", f"max_feat_len={clips[0].speech_feat.shape[0]}"]
        promised = min((gib for longest, gib in PROMISED_GIB.items() if seconds <= longest), default=0.0)
        with limited_to(CARD_GIB, device):
            pair = beside_batch_1(f"train {seconds} s clips", config, settings, device, clips, args.steps, args.steps)
        rows += [replace(row, promised_gib=promised) for row in pair]
    lengths = random.Random(0)
    clips = [random_clip(lengths.uniform(*args.mixed_seconds), config, number) for number in range(MIXED_CLIPS)]
    epochs = max(1, args.optimizer_steps // len(epoch_groups(len(clips), 0, load()[0])))
    return rows + beside_batch_1(f"train {len(clips)} mixed clips", config, [], device, clips, epochs, args.steps)


def beside_batch_1(
    what: str,
    config: ModelConfig,
    overrides: Sequence[str],
    device: torch.device,
    clips: Sequence[Clip],
    repetitions: int,
    repetitions_1: int,
) -> list[Row]:
    """An epoch over the clips with micro-batches as chosen, and the same one clip at a time."""
    chosen = training_row(what, config, overrides, device, clips, repetitions)
    single = training_row(f"{what}, batch 1", config, [*overrides, "batch_frames=1"], device, clips, repetitions_1)
    gain = f"{single.seconds / chosen.seconds:.1f} times the samples per second of batch 1"
    rows = [replace(chosen, note=f"{gain}; {chosen.note}"), single]
    for row in rows:
        print_row(row)
    return rows


def training_row(
    what: str,
    config: ModelConfig,
    overrides: Sequence[str],
    device: torch.device,
    clips: Sequence[Clip],
    repetitions: int,
) -> Row:
    settings = load([*overrides, "validation_clips=0"])[0]
    run, plan = training_run(config, settings, device, list(clips), Path("unused"))
    groups = epoch_groups(len(clips), 0, settings)

    def epoch() -> None:
        for group in groups:
            optimizer_step(run, group, SignalGuard())

    median, peak = measure(epoch, repetitions, device)
    again = "" if run.batch_frames == plan.batch_frames else "; RAN OUT OF MEMORY, done again with the least"
    steps = f"{len(groups) * repetitions} optimizer steps in {median * repetitions:.1f} s"
    note = f"{len(clips) / median:.2f} samples/s, {steps}; {str(run.dtype).removeprefix('torch.')}; {plan}{again}"
    return Row(what, median, peak, note)


@contextmanager
def limited_to(gib: float, device: torch.device) -> Iterator[None]:
    """Within it the device has no more memory than a card of that size, so that an overrun fails."""
    if device.type != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@dataclass(frozen=True)
class Talk:
    """Random text of so many seconds a line, spoken with a model that is ready for it."""

    model: CosyVoiceModel
    config: ModelConfig
    seconds: int
    lines: int  # where several are spoken together

    @property
    def n_text(self) -> int:
        return self.seconds * TEXT_TOKENS_PER_SEC

    @property
    def n_speech(self) -> int:
        return self.seconds * self.config.token_rate_hz

    def text(self) -> Tensor:
        return torch.randint(self.config.text_token_size, (1, self.n_text), dtype=torch.int32)

    def speaker(self) -> Tensor:
        return torch.randn(1, self.config.spk_embed_dim)

    def tokens(self) -> list[int]:
        """Speech tokens of one line."""
        return list(self.model.speech_tokens(self.text(), self.speaker()))

    def tokens_of_lines(self) -> list[list[int]]:
        """Speech tokens of all lines, decoded together."""
        n = self.n_speech
        lines = [Utterance(self.text()[0], n, n, torch.get_rng_state()) for _ in range(self.lines)]
        self.model.llm.inference_batch(lines, self.speaker())
        return [line.tokens for line in lines]

    def sound(self, tokens: Sequence[int]) -> Tensor:
        """The line's samples, (1, N)."""
        prompt = torch.zeros(1, 0, dtype=torch.int32), torch.zeros(1, 0, MEL_BINS)
        return self.model.token2wav(torch.tensor([tokens]), *prompt, self.speaker(), uuid="", finalize=True, **FLOW)

    def first_sound(self) -> Tensor:
        """The samples that a listener of a streamed line hears first, (1, N)."""
        with closing(self.model.tts(self.text(), self.speaker(), stream=True, **FLOW)) as pieces:
            return next(pieces)["tts_speech"]


def speaking_rows(config: ModelConfig, device: torch.device, args: argparse.Namespace, bandwidth: float) -> list[Row]:
    """Text to wave in both precisions, one line alone and several together; bandwidth: B/s of the device's memory."""
    rows = []
    for precision in PRECISIONS:
        model = CosyVoice(config.directory, device=device, precision=precision).model
        step_sec = decode_weights(config) * weight_bytes(model.llm) / bandwidth
        for seconds in args.spoken_seconds:
            talk = Talk(model, config, seconds, args.lines)
            model.llm.min_token_text_ratio = model.llm.max_token_text_ratio = talk.n_speech / talk.n_text  # no EOS
            for name, work, lines, steps in stages(talk):
                median, peak = measure(work, args.steps, device)
                row = Row(f"speak {seconds} s, {precision}: {name}", median, peak, floor=steps * step_sec or None)
                if lines:
                    note = f"{lines * talk.n_speech / median:.1f} tokens/s"
                    row = replace(row, note=note, rtf=median / (lines * seconds))
                print_row(row)
                rows.append(row)
    return rows


def stages(talk: Talk) -> list[tuple[str, Callable[[], object], int, int]]:
    """(name, work, lines that it speaks whole, decoding steps where it does nothing else); a step serves all lines."""
    llm, steps = talk.model.llm, talk.n_speech
    kept = llm.static_steps or StaticSteps(GIB)
    eager, graph = partial(decoded, llm, None), partial(decoded, llm, kept)
    given = torch.randint(talk.config.speech_token_size, (steps,)).tolist()
    together = f"{talk.lines} lines together"
    return [
        ("LLM, eager", lambda: eager(talk.tokens), 1, steps),
        ("LLM, graph", lambda: graph(talk.tokens), 1, steps),
        ("LLM, graph, recorded first", lambda: decoded(llm, StaticSteps(GIB), talk.tokens), 1, steps),
        (f"LLM, eager, {together}", lambda: eager(talk.tokens_of_lines), talk.lines, steps),
        (f"LLM, graph, {together}", lambda: graph(talk.tokens_of_lines), talk.lines, steps),
        ("flow + vocoder", lambda: talk.sound(given), 1, 0),
        ("time to first audio", lambda: graph(talk.first_sound), 0, 0),
        ("whole", lambda: talk.sound(graph(talk.tokens)), 1, 0),
        (f"whole, {together}", lambda: [*map(talk.sound, graph(talk.tokens_of_lines))], talk.lines, 0),
    ]


def decoded(llm: TransformerLM, steps: StaticSteps | None, work: Callable[[], T]) -> T:
    """`work`, the LLM decoding by these steps, which are CUDA graphs on a GPU, or with a cache that grows."""
    before, llm.static_steps = llm.static_steps, steps
    try:
        return work()
    finally:
        llm.static_steps = before


def weight_bytes(llm: TransformerLM) -> int:
    """Of a weight that a decoding step reads."""
    return 1 if isinstance(llm.llm_decoder, Int8Linear) else llm.llm_embedding.weight.element_size()


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    device = select_device(args.device)
    torch.manual_seed(0)
    random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = args.model_dir or Path(scratch) / "model"
        if args.model_dir is None:
            write_model(model_dir, TINY if args.tiny else Sizes())
        config = read_model_config(model_dir)
        bandwidth = copy_rate(2**24 if args.tiny else COPIED_BYTES, device)
        print(f"copies {bandwidth / 1e9:.0f} GB/s, read plus written; floors of decoding follow from it", flush=True)
        rows = training_rows(config, device, args) + speaking_rows(config, device, args, bandwidth)
    if args.json:
        write_rows(args.json, rows, device, rates={"memory_copy": bandwidth})
    broken = [row.what for row in rows if row.promised_gib and row.peak_gib >= row.promised_gib]
    if broken:
        print(f"more memory than promised: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
