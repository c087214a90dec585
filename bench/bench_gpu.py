"""Seconds, memory and real-time factor at full CosyVoice-300M size with random weights, decoding beside its floor: the
bytes of the weights that every step reads at the rate at which the same process copies memory. JSON out.

python bench/bench_gpu.py                                  # CUDA, released sizes, needs 2 GB of disk for the stand-in
python bench/bench_gpu.py --device cpu --tiny --steps 1    # the same code on tiny networks
"""

import argparse
import gc
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # a bench script stands in its own folder

from floors import copy_rate, decode_weights  # noqa: E402
from harness import TEXT_TOKENS_PER_SEC, Row, measure, print_row, random_clip, training_run, write_rows  # noqa: E402
from make_standin_model import TINY, Sizes, write_model  # noqa: E402

from common.files import GIB  # noqa: E402
from common.signals import SignalGuard  # noqa: E402
from config import InferenceConfig, load  # noqa: E402
from cosyvoice.cli.cosyvoice import CosyVoice  # noqa: E402
from cosyvoice.cli.model import CosyVoiceModel  # noqa: E402
from cosyvoice.flow.static_velocity import StaticVelocities  # noqa: E402
from cosyvoice.llm.llm import TransformerLM, Utterance  # noqa: E402
from cosyvoice.llm.static_decoding import StaticSteps  # noqa: E402
from cosyvoice.utils.common import MEL_BINS, token_to_mel_length  # noqa: E402
from cosyvoice.utils.int8 import Int8Linear  # noqa: E402
from cosyvoice.utils.precision import PRECISIONS  # noqa: E402
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config  # noqa: E402
from dataset import Clip  # noqa: E402
from training.state import epoch_groups  # noqa: E402
from training.step import optimizer_step  # noqa: E402
from utils import select_device  # noqa: E402
from voice.speaking import BATCH  # noqa: E402

T = TypeVar("T")
CARD_GIB = 8.0  # the card that training is promised to run on
PROMISED_GIB = {10: 4.5, 30: 7.0}  # longest clip in seconds -> allocated at most, joint training of whole clips
MIXED_CLIPS = 30
ALONE = 4  # clips that are trained one at a time
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
    parser.add_argument("--only", choices=("train", "speak"), help="one half of the rows")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args(argv)


def training_rows(config: ModelConfig, device: torch.device, args: argparse.Namespace) -> Iterator[Row]:
    """Joint training as the settings choose it: clips of one length, whole in both parts, within the memory that is
    promised to be enough, and with all that the device has; then 30 clips of 3-8 s with the shipped settings.

    Before them a few of the clips one at a time, since each of them takes as long as in a large step."""
    for seconds in args.clip_seconds:
        clips = [random_clip(seconds, config, number) for number in range(args.accumulate)]
        settings = [f"accumulate_grad_batches={args.accumulate}", f"max_feat_len={clips[0].speech_feat.shape[0]}"]
        single = alone(f"train {seconds} s clips", config, settings, device, clips[:ALONE], args.steps)
        yield single
        promised = min((gib for longest, gib in PROMISED_GIB.items() if seconds <= longest), default=0.0)
        with limited_to(CARD_GIB, device):
            what = f"train {seconds} s clips, {CARD_GIB:g} GiB"
            row = training_row(what, config, settings, device, clips, args.steps)
        yield replace(beside(row, single, len(clips)), promised_gib=promised)
        row = training_row(f"train {seconds} s clips, whole device", config, settings, device, clips, args.steps)
        yield beside(row, single, len(clips))
    lengths = random.Random(0)
    clips = [random_clip(lengths.uniform(*args.mixed_seconds), config, number) for number in range(MIXED_CLIPS)]
    single = alone(f"train {len(clips)} mixed clips", config, [], device, sample(clips), args.steps)
    yield single
    epochs = max(1, args.optimizer_steps // len(epoch_groups(len(clips), 0, load()[0])))
    yield beside(training_row(f"train {len(clips)} mixed clips", config, [], device, clips, epochs), single, len(clips))


def sample(clips: Sequence[Clip]) -> Sequence[Clip]:
    """ALONE of them that are together about as long as so many are on average."""
    by_length = sorted(clips, key=lambda clip: clip.duration)
    return by_length[len(by_length) // (2 * ALONE) :: len(by_length) // ALONE][:ALONE]


def alone(
    what: str,
    config: ModelConfig,
    settings: Sequence[str],
    device: torch.device,
    clips: Sequence[Clip],
    repetitions: int,
) -> Row:
    """The clips one at a time, for each of them the median seconds."""
    row = training_row(f"{what}, batch 1", config, [*settings, "batch_frames=1"], device, clips, repetitions)
    return replace(row, seconds=row.seconds / len(clips), what=f"{row.what}, one of them")


def beside(row: Row, single: Row, clips: int) -> Row:
    """A row of so many clips with its gain over one of them at a time."""
    gain = f"{clips * single.seconds / row.seconds:.1f} times the samples per second of batch 1"
    return replace(row, note=f"{gain}; {row.note}")


def training_row(
    what: str,
    config: ModelConfig,
    overrides: Sequence[str],
    device: torch.device,
    clips: Sequence[Clip],
    repetitions: int,
) -> Row:
    gc.collect()  # what an earlier row left behind would count as this one's memory
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

    @torch.inference_mode()
    def vocoded(self) -> Tensor:
        """Samples (1, N) of noise in place of the line's mel."""
        frames = token_to_mel_length(self.n_speech, self.config.token_rate_hz)
        return self.model.hift.inference(torch.randn(1, MEL_BINS, frames).to(self.model.device))[0].cpu()

    def first_sound(self) -> Tensor:
        """The samples that a listener of a streamed line hears first, (1, N)."""
        with closing(self.model.tts(self.text(), self.speaker(), stream=True, **FLOW)) as pieces:
            return next(pieces)["tts_speech"]


def speaking_rows(
    config: ModelConfig, device: torch.device, args: argparse.Namespace, bandwidth: float
) -> Iterator[Row]:
    """Text to wave in both precisions, one line alone and several together; bandwidth: B/s of the device's memory."""
    for precision in PRECISIONS:
        model = CosyVoice(config.directory, device=device, precision=precision).model
        step_sec = decode_weights(config) * weight_bytes(model.llm) / bandwidth
        for seconds in args.spoken_seconds:
            talk = Talk(model, config, seconds, args.lines)
            model.llm.min_token_text_ratio = model.llm.max_token_text_ratio = talk.n_speech / talk.n_text  # no EOS
            for stage in stages(talk, eager=seconds == min(args.spoken_seconds)):
                median, peak = measure(stage.work, 1 if stage.slow else args.steps, device)
                floor = talk.n_speech * step_sec if stage.decodes_only else None
                row = Row(f"speak {seconds} s, {precision}: {stage.name}", median, peak, floor=floor)
                if stage.lines:
                    note = f"{stage.lines * talk.n_speech / median:.1f} tokens/s"
                    row = replace(row, note=note, rtf=median / (stage.lines * seconds))
                yield row


@dataclass(frozen=True)
class Stage:
    """A piece of work on the way from text to wave."""

    name: str
    work: Callable[[], object]
    lines: int = 1  # that it speaks whole
    decodes_only: bool = False  # the steps of a line are all that it does; a step serves all lines
    slow: bool = False  # it is measured once


def stages(talk: Talk, eager: bool) -> list[Stage]:
    """eager: with what shows the gain of CUDA graphs, and takes longest."""
    llm, estimator, lines = talk.model.llm, talk.model.flow.decoder.estimator, talk.lines
    kept, solved = llm.static_steps or StaticSteps(GIB), estimator.static_velocities or StaticVelocities()
    one_by_one, graph = partial(with_graphs, talk.model, None, None), partial(with_graphs, talk.model, kept, solved)
    given = torch.randint(talk.config.speech_token_size, (talk.n_speech,)).tolist()
    together = f"{lines} lines together"

    def anew(work: Callable[[], T]) -> T:
        return with_graphs(talk.model, StaticSteps(GIB), StaticVelocities(), work)

    longer = chain.from_iterable((number, -number) for number in count(1))

    def sound(tokens: Sequence[int] = given) -> Tensor:
        """Of a length that did not come before, as is the rule: libraries plan some kernels for each length."""
        tokens = [*tokens, *tokens][: len(tokens) + next(longer)]
        return anew(partial(talk.sound, tokens))

    compared = [
        Stage("LLM, eager", lambda: one_by_one(talk.tokens), decodes_only=True, slow=True),
        Stage(f"LLM, eager, {together}", lambda: one_by_one(talk.tokens_of_lines), lines, True, slow=True),
        Stage("flow + vocoder, eager", lambda: one_by_one(partial(talk.sound, given)), slow=True),
        Stage("flow + vocoder, same length again", lambda: graph(partial(talk.sound, given))),
        Stage("vocoder", talk.vocoded),
    ]
    return (compared if eager else []) + [
        Stage("LLM", lambda: graph(talk.tokens), decodes_only=True),
        Stage("LLM, recorded first", lambda: anew(talk.tokens), decodes_only=True),
        Stage(f"LLM, {together}", lambda: graph(talk.tokens_of_lines), lines, decodes_only=True, slow=True),
        Stage("flow + vocoder", sound),
        Stage("time to first audio", lambda: graph(talk.first_sound), lines=0),
        Stage("whole", lambda: sound(graph(talk.tokens))),
        Stage(f"whole, {together}", lambda: [*map(sound, graph(talk.tokens_of_lines))], lines, slow=True),
    ]


def with_graphs(
    model: CosyVoiceModel, steps: StaticSteps | None, velocities: StaticVelocities | None, work: Callable[[], T]
) -> T:
    """`work`, the LLM decoding and the flow solving by these, which are CUDA graphs on a GPU, or without any."""
    llm, estimator = model.llm, model.flow.decoder.estimator
    before = llm.static_steps, estimator.static_velocities
    llm.static_steps, estimator.static_velocities = steps, velocities
    try:
        return work()
    finally:
        llm.static_steps, estimator.static_velocities = before


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
        rows: list[Row] = []
        halves = {
            "train": training_rows(config, device, args),
            "speak": speaking_rows(config, device, args, bandwidth),
        }
        for row in chain.from_iterable([halves[args.only]] if args.only else halves.values()):
            print_row(row)
            rows.append(row)
            if args.json:  # again and again, so that nothing is lost where a row fails
                write_rows(args.json, rows, device, rates={"memory_copy": bandwidth})
    broken = [row.what for row in rows if row.promised_gib and row.peak_gib >= row.promised_gib]
    if broken:
        print(f"more memory than promised: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
