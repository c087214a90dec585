"""The voice heard in the course of a training run: base, epochs and what is merged; what is told of it."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from common.signals import SignalGuard
from lora import adapter_state_dict, load_adapter
from training.board import Board, write_samples
from training.decisions import note_heard, note_heard_again, read_clips, trained_parts, unchosen
from training.distributed import check_alone
from training.run_files import save_best, save_last
from training.selection import compared, means, overfit_signs, plain, verdict, why_alone
from training.state import Run
from voice.evaluation import BY_NAME, Figures, Sentence, in_words, summary, with_pitch

SHOWN = ("similarity", "clarity", "duration_ratio", "failed")  # in the line about an epoch
UNTOLD = {"token_clarity", "repeated", "clipped", "run_on", "early_stop"}  # left out of the summary: told by others


def hear(run: Run, guard: SignalGuard, board: Board) -> None:
    """The voice speaks as it stands; what is best so far is kept, signs of overfitting are named."""
    started = time.monotonic()
    base_known = bool(run.hearings)
    numbers = run.judged if base_known else range(len(run.audition.texts))
    trained = trained_parts(run) if base_known else ()
    between = partial(check_alone, guard)
    spoken = run.audition.hear(numbers, trained, between)
    flow_alone = run.audition.hear(numbers, ("flow",), between) if len(trained) > 1 else spoken
    if not base_known:
        heard = time.monotonic()
        spoken = flow_alone = with_pitch(spoken, run.audition.own_hz)
        started += time.monotonic() - heard  # no other hearing needs it
    rejections = note_heard(run, plain(spoken), plain(flow_alone))
    sentences = dict(zip(numbers, spoken, strict=True))
    figures, epoch = plain([sentences[number] for number in run.judged]), run.hearings[-1].epoch
    board.heard(run, sentences, means(figures), f"epoch_{epoch:04d}" if epoch else "base")
    run.spent_sec["hearing"] += time.monotonic() - started
    print(hearing_line(run, figures, rejections), flush=True)
    if not run.epoch and (remark := read_clips(run)):
        print(remark, flush=True)
    signs = overfit_signs(figures, run.judged_base, run.config.inference.max_silence_sec) if epoch else {}
    for sign, remedy in signs.items():
        print(f"sign of overfitting in epoch {epoch}: {sign}: {remedy}", flush=True)
    if run.by_sound:
        save_best(run)  # before _last, as after an epoch
    save_last(run)


def hearing_line(run: Run, figures: Sequence[Figures], rejections: Sequence[str]) -> str:
    """What was heard, in one line."""
    found, epoch = summary(figures), run.hearings[-1].epoch
    values = ", ".join(f"{name} {found[name].value:.{BY_NAME[name].digits}f}" for name in SHOWN if name in found)
    kept = [part.name for part in run.parts.values() if part.choice.epoch == run.epoch] if run.by_sound else []
    best = f"; best so far: {', '.join(kept)}" if kept and epoch else ""
    when = f"epoch {epoch:3d}" if epoch else "the base"
    return f"heard {when}: {values}{best}" + "".join(f"; {reason}" for reason in rejections)


def hear_unchosen(run: Run) -> None:
    """What a few sentences spoke against is heard once more with all, before a whole training is thrown away."""
    started = time.monotonic()
    for part in unchosen(run):
        trained = ("flow",) if part.name == "flow" else trained_parts(run)
        if note_heard_again(run, part, plain(run.audition.hear(trained=trained))):
            print(f"{part.name}: with all sentences heard, epoch {part.choice.epoch} is accepted", flush=True)
            save_best(run)
            save_last(run)
    run.spent_sec["hearing"] += time.monotonic() - started


def hear_merged(run: Run) -> tuple[list[Sentence], str]:
    """All sentences by the chosen epochs, and why their LLM is to be left out: then by the flow alone."""
    started = time.monotonic()
    with chosen_adapters(run):
        sentences, reason = run.audition.hear(trained=trained_parts(run)), ""
        if run.by_sound and len(run.parts) > 1 and run.parts["llm"].choice.epoch:
            flow_alone = run.audition.hear(trained=("flow",))
            reason = why_alone(plain(sentences), plain(flow_alone))
            sentences = flow_alone if reason else sentences
    run.spent_sec["hearing"] += time.monotonic() - started
    return with_pitch(sentences, run.audition.own_hz), reason


@contextmanager
def chosen_adapters(run: Run) -> Iterator[None]:
    """Within it the networks have the adapters that are merged, after it again those of the last epoch."""
    last = {name: adapter_state_dict(run.model.part(name)) for name in run.parts}
    try:
        for name, adapter in (run.best_adapters if run.chooses else {}).items():
            load_adapter(run.model.part(name), adapter, str(run.best_path))
        yield
    finally:
        for name, adapter in last.items():
            load_adapter(run.model.part(name), adapter, str(run.last_path))


def summarise(run: Run, sentences: Sequence[Sentence]) -> None:
    """One screen: the base and what was merged, each figure with its interval, the verdict, and where to listen."""
    write_samples(run.output_dir / "samples", "merged", dict(enumerate(sentences)))
    base, figures = run.hearings[0].figures, plain(sentences)
    comparisons = compared(figures, base)
    verdicts = {comparison.name: comparison.verdict for comparison in comparisons}
    before, after = summary(base), summary(figures)
    print(f"\nbase -> merged, {len(sentences)} sentences, 95 % intervals:")
    for name in after:
        if name in before and name not in UNTOLD:
            ranges = [in_words(intervals[name], BY_NAME[name].digits) for intervals in (before, after)]
            print(f"  {BY_NAME[name].title:56s} {ranges[0]:>21s} -> {ranges[1]:21s} {verdicts.get(name, '')}".rstrip())
    if not math.isnan(run.audition.real_similarity):
        print(f"  (similarity of the held-out clips themselves: {run.audition.real_similarity:.3f})")
    print(f"verdict: {verdict(comparisons, figures)}")
    share = run.spent_sec["hearing"] / sum(run.spent_sec.values())
    samples = run.output_dir / "samples"
    print(f"listen: {samples}/base_*.wav, {samples}/merged_*.wav; hearing took {share:.0%} of the time")
