"""The voice heard in the course of a training run: base, epochs and what is merged; what is told of it."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from tqdm import tqdm

from common.signals import SignalGuard
from llm_flow_model import with_adapter
from training.board import Board, write_metrics, write_samples
from training.decisions import (
    bar_unread_llm,
    choice_due,
    leave_out,
    loss_of,
    note_heard,
    note_heard_again,
    trained_parts,
    unchosen,
)
from training.distributed import check_alone
from training.kept import keep_epoch, remove_thinned
from training.run_files import candidates, chosen_words, save_best, save_last
from training.selection import Choice, compared, mean, means, overfit_signs, verdict, why_alone, why_further
from training.state import Run
from voice.evaluation import BY_NAME, CAMPPLUS, Figures, Sentence, figures_of, in_words, summary, with_pitch

SHOWN = {  # in the line about an epoch, and by which word
    "similarity": "similarity",
    "clarity": "intelligibility score",
    "duration_ratio": "duration ratio",
    "failed": "degenerate",
}
UNTOLD = {"token_clarity", "repeated", "clipped", "run_on", "early_stop"}  # left out of the summary: told by others


def hear(run: Run, guard: SignalGuard, board: Board) -> None:
    """The voice speaks as it stands; what is best so far is kept, signs of overfitting are named."""
    between = partial(check_alone, guard)
    if not run.hearings:
        hear_base(run, between, board)
    elif choice_due(run):
        hear_candidates(run, between)
    else:
        hear_epoch(run, between, board)
        keep_epoch(run)
    if run.by_sound:
        save_best(run)  # before _last, as after an epoch
    save_last(run)
    remove_thinned(run)
    write_metrics(run)


def hear_base(run: Run, between: Callable[[], None], board: Board) -> None:
    """All sentences by the base, and their pitch; what it says of the speaker's clips may bar the LLM."""
    spoken = speak(run, trained=(), between=between)
    run.texts = [sentence.text for sentence in spoken]
    measured = figures_of(with_own_pitch(run, spoken))
    rejections = note_heard(run, measured, measured)
    show(run, board, dict(enumerate(spoken)), rejections)
    if not run.epoch and (remark := bar_unread_llm(run)):
        print(remark, flush=True)


def hear_epoch(run: Run, between: Callable[[], None], board: Board) -> None:
    """The judged sentences by what was trained so far, and by its flow alone."""
    trained = trained_parts(run)
    spoken = speak(run, run.judged, trained, between)
    flow_alone = speak(run, run.judged, ("flow",), between) if len(trained) > 1 else spoken
    rejections = note_heard(run, figures_of(spoken), figures_of(flow_alone))
    by_flow = mean(figures_of(flow_alone), CAMPPLUS) if len(trained) > 1 else math.nan
    show(run, board, dict(zip(run.judged, spoken, strict=True)), rejections, by_flow)
    signs = overfit_signs(figures_of(spoken), run.judged_base, run.config.inference.max_silence_sec)
    for sign, remedy in signs.items():
        print(f"sign of overfitting in epoch {run.epoch}: {sign}: {remedy}", flush=True)


def hear_candidates(run: Run, between: Callable[[], None]) -> None:
    """The epochs at hand by the judged sentences, each part alone; the best by its sound is what gets merged."""
    base, real = run.judged_base, run.audition.real_similarity
    chosen = {}
    for name, found in candidates(run).items():
        part, choice, best = run.parts[name], Choice(), run.starting_adapter(run.parts[name])
        choice.takes(0, base, base, name, part.base_held_out, real)
        for epoch, adapter in sorted(found.items()):
            loss = loss_of(run, part, epoch, adapter)
            with with_adapter(run.model.part(name), adapter):
                figures = figures_of(speak(run, run.judged, (name,), between))
            if choice.takes(epoch, figures, base, name, loss, real):
                choice.epoch, best = epoch, adapter
        chosen[name] = choice, best
    for name, (choice, best) in chosen.items():
        run.parts[name].choice, run.parts[name].left_out = choice, ""
        run.best_adapters[name] = best
    run.chosen_by = run.criterion
    print(f"epochs at hand are compared by their sound from now on: {chosen_words(run)}", flush=True)


def show(
    run: Run,
    board: Board,
    sentences: Mapping[int, Sentence],
    rejections: Sequence[str],
    by_flow: float = math.nan,
) -> None:
    """Sounds of these sentences, by number, and figures of the judged ones, in files and in a line.

    by_flow: similarity by which the flow is judged, where the LLM is trained too."""
    figures, epoch = figures_of(sentences[number] for number in run.judged), run.hearings[-1].epoch
    with spent(run):
        board.heard(run, sentences, means(figures), f"epoch_{epoch:04d}" if epoch else run.origin.short)
    print(hearing_line(run, figures, rejections, by_flow), flush=True)


def speak(
    run: Run,
    numbers: Sequence[int] | None = None,
    trained: Collection[str] = (),
    between: Callable[[], None] = lambda: None,
) -> list[Sentence]:
    """`Audition.hear`, its time and its sentences counted."""
    with spent(run):
        spoken = run.audition.hear(numbers, trained, between)
    run.sentences_heard += len(spoken)
    return spoken


@contextmanager
def spent(run: Run, on: str = "hearing") -> Iterator[None]:
    """Within it time is spent on something that is not training."""
    started = time.monotonic()
    yield
    run.spent_sec[on] = run.spent_sec.get(on, 0.0) + time.monotonic() - started


def with_own_pitch(run: Run, sentences: Sequence[Sentence]) -> Sequence[Sentence]:
    """The sentences with their pitch, where the speaker's is known. Epochs are judged without it, for it takes as long
    as all else that is heard; so its time is counted apart."""
    with spent(run, "pitch"):
        return sentences if run.own_hz is None else [with_pitch(one) for one in tqdm(sentences, "pitch", leave=False)]


def hearing_line(run: Run, figures: Sequence[Figures], rejections: Sequence[str], by_flow: float) -> str:
    """What was heard, in one line."""
    found, epoch = summary(figures), run.hearings[-1].epoch
    values = ", ".join(
        f"{word} {found[name].value:.{BY_NAME[name].digits}f}" for name, word in SHOWN.items() if name in found
    )
    values += "" if math.isnan(by_flow) else f", by the flow alone similarity {by_flow:.3f}"
    kept = [part.name for part in run.parts.values() if part.choice.epoch == run.epoch] if run.by_sound else []
    best = f"; best so far: {', '.join(kept)}" if kept and epoch else ""
    when = f"epoch {epoch:3d}" if epoch else f"the {run.origin.short}"
    return f"heard {when}: {values}{best}" + "".join(f"; {reason}" for reason in rejections)


def hear_unchosen(run: Run) -> None:
    """What a few sentences spoke against is heard once more with all, before a whole training is thrown away."""
    for part in unchosen(run):
        trained = ("flow",) if part.name == "flow" else trained_parts(run)
        spoken = speak(run, trained=trained)
        if note_heard_again(run, part, figures_of(spoken)):
            print(f"{part.name}: with all sentences heard, epoch {part.choice.epoch} is accepted", flush=True)
            save_best(run)
            save_last(run)


def hear_merged(run: Run) -> list[Sentence]:
    """All sentences by what is merged: the chosen epochs, but for a part with which they are worse than without it."""
    with chosen_adapters(run):
        sentences, left_out = hear_chosen(run)
    for name, reason in left_out.items():
        leave_out(run, run.parts[name], reason)
    if left_out:
        save_best(run)
        save_last(run)
    return sentences


def hear_chosen(run: Run) -> tuple[list[Sentence], dict[str, str]]:
    """All sentences by the chosen epochs, and {part: reason to leave it out}; the sentences are already without it."""
    parts, left_out, flow_alone = list(trained_parts(run)), {}, None
    chosen = {name for name in parts if run.by_sound and run.parts[name].choice.epoch}
    base = run.hearings[0].figures
    if "flow" in chosen:
        flow_alone = speak(run, trained=("flow",))
        if reason := why_further(figures_of(flow_alone), base):
            left_out["flow"], flow_alone = reason, None
            parts.remove("flow")
    sentences = flow_alone if flow_alone and parts == ["flow"] else speak(run, trained=parts)
    if "llm" in chosen and len(run.parts) > 1:
        without = figures_of(flow_alone) if flow_alone else base
        if reason := why_alone(figures_of(sentences), without):
            left_out["llm"] = reason
            parts.remove("llm")
            sentences = flow_alone or speak(run, trained=parts)
    return sentences, left_out


@contextmanager
def chosen_adapters(run: Run) -> Iterator[None]:
    """Within it the networks have the adapters that are merged, after it again those of the last epoch."""
    with ExitStack() as stack:
        for name, adapter in (run.best_adapters if run.chooses else {}).items():
            stack.enter_context(with_adapter(run.model.part(name), adapter))
        yield


def summarise(run: Run, sentences: Sequence[Sentence]) -> None:
    """One screen: the base and what was merged, each figure with its interval, the verdict, and where to listen."""
    write_samples(run.output_dir / "samples", "merged", dict(enumerate(sentences)))
    base, figures = run.hearings[0].figures, figures_of(with_own_pitch(run, sentences))
    comparisons = compared(figures, base, run.own_hz)
    verdicts = {comparison.name: comparison.verdict for comparison in comparisons}
    before, after = summary(base), summary(figures)
    print(f"\n{run.origin.short} -> merged, {len(sentences)} sentences, 95 % intervals:")
    for name in after:
        if name in before and name not in UNTOLD:
            ranges = [in_words(intervals[name], BY_NAME[name].digits) for intervals in (before, after)]
            print(f"  {BY_NAME[name].title:56s} {ranges[0]:>21s} -> {ranges[1]:21s} {verdicts.get(name, '')}".rstrip())
    if not math.isnan(run.audition.real_similarity):
        print(f"  (similarity of the held-out clips themselves: {run.audition.real_similarity:.3f})")
    if run.own_hz is not None and "f0_hz" in before:
        print(f"  (pitch of the speaker's recordings: {run.own_hz:.0f} Hz)")
    print(f"verdict: {verdict(comparisons, figures, base, run.origin.short)}")
    share = 1 - run.spent_sec["training"] / sum(run.spent_sec.values())
    samples = run.output_dir / "samples"
    print(f"listen: {samples}/{run.origin.short}_*.wav, {samples}/merged_*.wav; hearing took {share:.0%} of the time")
