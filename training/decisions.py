"""What a training run decides by what it measured and heard: the best epochs, when to listen, when it is over."""

import math
from collections.abc import Mapping

from llm_flow_model import Adapter, with_adapter
from lora import adapter_state_dict
from training.selection import JUDGED, Choice, Heard, why_out, why_unread
from training.state import Part, Run
from voice.evaluation import Figures

HEARING_SHARE = 0.15  # of training's time goes to listening; the verdict, and parts that stop early, come on top


def note_best(run: Run, part: Part, loss: float) -> bool:
    """Note a part's judged loss; whether it is the lowest of those to choose from, where that is what decides."""
    if not loss >= part.best_loss and math.isfinite(loss):  # a first loss beats the NaN of "none yet"
        part.best_loss, part.best_epoch, part.stale_epochs = loss, run.epoch, 0
    else:
        part.stale_epochs += 1
    if run.criterion != "val_loss" or not part.choice.takes_by_loss(run.epoch, loss):
        return False
    keep(run, part, run.epoch)
    return True


def bar_unread_llm(run: Run) -> str:
    """What is to be said where the base's LLM cannot learn from the clips; beside a flow it is then not trained."""
    llm = run.parts.get("llm")
    reason = "" if llm is None else why_unread(run.audition.clips_clarity(), run.judged_base)
    if not reason:
        return ""
    if len(run.parts) == 1:
        return f"warning: {reason}; --mode flow_only learns the timbre alone"
    llm.barred = llm.stopped = f"{reason}; --mode llm_only trains it all the same"
    return f"llm is not trained: {llm.barred}"


def keep(run: Run, part: Part, epoch: int) -> None:
    """The part as it stands, and has stood since that epoch, is what gets merged, until a better one comes."""
    part.choice.epoch, part.left_out = epoch, ""
    run.best_adapters[part.name] = adapter_state_dict(run.model.part(part.name))


def as_started(run: Run, part: Part) -> None:
    """No epoch of the part is chosen: as things stand it is merged as it started."""
    part.choice, part.left_out = Choice(loss=part.base_held_out), ""
    run.best_adapters[part.name] = run.starting_adapter(part)


def choose_by_loss(run: Run, candidates: Mapping[str, Mapping[int, Adapter]]) -> None:
    """Of the epochs that are at hand the one with the lowest held-out loss is what gets merged.

    candidates: {part: {epoch: adapter}}; losses that the run has not noted are measured."""
    for part in run.parts.values():
        as_started(run, part)
        for epoch, adapter in sorted(candidates[part.name].items()):
            if part.choice.takes_by_loss(epoch, loss_of(run, part, epoch, adapter)):
                run.best_adapters[part.name] = adapter
    run.chosen_by = run.criterion


def loss_of(run: Run, part: Part, epoch: int, adapter: Adapter) -> float:
    """Held-out loss of an epoch, its training loss where no clip is held out; measured where it was not noted."""
    if not epoch:
        return part.base_held_out
    noted = {int(row["epoch"]): loss for row in run.history if (loss := judged_loss(row, part)) is not None}
    if epoch in noted or not run.held_out:
        return noted.get(epoch, math.nan)
    with with_adapter(run.model.part(part.name), adapter):
        return run.measure(part, run.held_out)


def hearing_due(run: Run) -> bool:
    """Whether the voice is to be heard as it stands: base, every so many epochs, where a part stopped, at the end."""
    if run.audition is None or not run.whole:
        return False
    if not run.hearings or choice_due(run):
        return True
    if run.hearings[-1].epoch == run.epoch or not all(map(math.isfinite, run.history[-1].values())):
        return False
    stopped = any(part.stopped for part in just_trained(run))
    return bool(why_finished(run)) or stopped or bool(run.hear_every and run.epoch % run.hear_every == 0)


def choice_due(run: Run) -> bool:
    """Whether the epochs at hand are to be compared by their sound, because another criterion chose until now."""
    return run.by_sound and run.chosen_by != run.criterion


def last_trained(run: Run, part: Part) -> tuple[int, float]:
    """The last epoch that trained a part, and its loss on the held-out clips, or on its own where there are none."""
    for row in reversed(run.history):
        if (loss := judged_loss(row, part)) is not None:
            return int(row["epoch"]), loss
    return 0, part.base_held_out


def judged_loss(row: Mapping[str, float], part: Part) -> float | None:
    """A part's loss in an epoch on the held-out clips, or on its own where there are none; None: it was not trained."""
    return row.get(f"{part.name}_held_out", row.get(f"{part.name}_train"))


def trained_parts(run: Run) -> tuple[str, ...]:
    """Names of the parts that any epoch trained."""
    return tuple(name for name, part in run.parts.items() if last_trained(run, part)[0])


def just_trained(run: Run) -> list[Part]:
    """Parts that the last epoch trained; before the first, all."""
    return [part for part in run.parts.values() if last_trained(run, part)[0] == run.epoch]


def unchosen(run: Run) -> list[Part]:
    """Parts that were trained, and judged by fewer sentences than the base spoke, and of which no epoch was chosen."""
    if not run.by_sound or len(run.judged) == len(run.hearings[0].figures):
        return []
    trained = [run.parts[name] for name in trained_parts(run)]
    return [part for part in trained if not part.choice.epoch and not part.left_out]


def note_heard_again(run: Run, part: Part, figures: list[Figures]) -> bool:
    """Whether a part as it stands is accepted after all, told by all sentences; if so it is kept."""
    base, real = run.hearings[0].figures, run.audition.real_similarity
    epoch, loss = last_trained(run, part)
    choice = Choice()
    choice.takes(0, base, base, part.name, part.base_held_out, real)
    if not choice.takes(epoch, figures, base, part.name, loss, real):
        return False
    part.choice = choice
    keep(run, part, epoch)
    return True


def leave_out(run: Run, part: Part, reason: str) -> None:
    """The part is merged as it started."""
    base = run.hearings[0].figures
    part.choice, part.left_out = Choice(), reason
    part.choice.takes(0, base, base, part.name, part.base_held_out, run.audition.real_similarity)
    run.best_adapters[part.name] = run.starting_adapter(part)


def note_heard(run: Run, figures: list[Figures], flow_alone: list[Figures]) -> list[str]:
    """Store what was heard and keep the parts whose sound is the best so far; why others are rejected.

    flow_alone: the base's tokens in the flow's sound. What is heard first is the base, also where a run is resumed that
    nobody listened to before."""
    heard_epoch = run.epoch if run.hearings else 0
    run.hearings.append(Heard(heard_epoch, figures))
    base, rejections = run.judged_base, []
    if heard_epoch != run.epoch:
        return []  # the epochs at hand are compared with it next
    for part in just_trained(run):
        judged = base if not run.epoch else flow_alone if part.name == "flow" else figures
        loss, real = last_trained(run, part)[1], run.audition.real_similarity
        if run.by_sound and part.choice.takes(run.epoch, judged, base, part.name, loss, real):
            keep(run, part, run.epoch)
        if reason := why_out(judged, base, part.name, run.origin.name):
            rejections.append(f"{part.name} rejected at this epoch: {reason}")
    return rejections


def settle_interval(run: Run, epoch_sec: float) -> None:
    """How often the voice is heard where the settings leave it open: so that judging epochs takes HEARING_SHARE.

    epoch_sec: of every epoch, as if the first ones spoke for all."""
    judged = sentences_an_epoch(run)
    surely = 2 * JUDGED + judged  # the base, what is merged, and the last epoch
    affordable = HEARING_SHARE * epoch_sec * run.config.max_epochs / max(sentence_sec(run), 1e-9) - surely
    run.hear_every = math.ceil(run.config.max_epochs / max(1, affordable // judged))


def sentences_an_epoch(run: Run) -> int:
    """That are spoken to judge one: by the voice, and where both parts are trained by its flow alone."""
    return len(run.judged) * len(trained_parts(run) or run.active)


def sentence_sec(run: Run) -> float:
    """How long a sentence took to speak and measure, in the mean over all that were heard."""
    return run.spent_sec["hearing"] / max(1, run.sentences_heard)


def hearing_left_sec(run: Run) -> float:
    """What listening still takes: epochs to come that are heard as planned, and what is merged; 0 if nobody listens."""
    if run.audition is None or not run.hearings or not run.hear_every:
        return 0.0
    last, interval, done = run.config.max_epochs, run.hear_every, max(run.hearings[-1].epoch, run.epoch - 1)
    epochs = last // interval - done // interval + bool(last % interval)
    merged = len(run.hearings[0].figures) * len(trained_parts(run) or run.active)
    pitch_sec = run.spent_sec.get("pitch", 0.0)  # of the base
    return (epochs * sentences_an_epoch(run) + merged) * sentence_sec(run) + pitch_sec


def why_finished(run: Run) -> str:
    """Reason why the whole run is over, "" while it is not; an epoch that was begun is completed."""
    if not run.whole:
        return ""
    stopped = [part for part in run.parts.values() if part.stopped]
    if len(stopped) == len(run.parts):
        return "; ".join(f"{part.name}: {part.stopped}" for part in stopped)
    if run.config.stop.rule == "any" and any(part.reached(run.config) for part in stopped):
        return "; ".join(f"{part.name}: {part.stopped}" for part in stopped) + " (stop.rule = any)"
    return f"max_epochs = {run.config.max_epochs}" if run.epoch >= run.config.max_epochs else ""
