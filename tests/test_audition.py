"""Which epoch is best by its sound, the signs of overfitting, and what listening does to a training run: nothing."""

import csv
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate, groupby, product
from pathlib import Path
from types import FrameType, SimpleNamespace

import numpy as np
import pytest
import torch
from random_data import write_random_data

import train_joint
from checkpoint import PARTS, load_checkpoint
from config import JointConfig, load
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.utils.weights import load_spk2info, load_state_dict_file
from cosyvoice.utils.yaml_loader import read_model_config
from llm_flow_model import JointModel, autocast
from lora import adapter_parameters, lora_layers
from train_joint import main
from training.audition import Audition, choose_texts
from training.board import write_samples
from training.listening import hear_chosen
from training.selection import (
    CLEAR,
    Choice,
    compared,
    judged_sentences,
    overfit_signs,
    verdict,
    why_alone,
    why_further,
    why_out,
    why_unread,
)
from voice.evaluation import Sentence, figures_of
from voice.loading import Voice
from voice.metrics import in_one_row, recited_tokens

MINI = Path(__file__).resolve().parent.parent / "pretrained_models" / "CosyVoice-mini"
CPU = torch.device("cpu")
FEW = ("--epochs", "4", "--lr", "1e-2", "--set", "accumulate_grad_batches=4", "--set", "save_every_minutes=0.01")
BRIEF = ("--set", "inference.max_token_text_ratio=4", "--set", "eval_sentences=2")
HEARD = ("--set", "eval_every_epochs=2", *BRIEF)


# ---- the rule, on constructed cases ----------------------------------------------------------------------------------


def hearing(similarity=0.5, clarity=40.0, token_clarity=50.0, failed=(0, 0, 0, 0), ratio=1.0, **more):
    """Figures of four sentences."""
    return [
        {
            "similarity": (similarity, 1),
            "clarity": (clarity * 3, 3),
            "token_clarity": (token_clarity * 3, 3),
            "failed": (wrong, 1),
            "failed_tokens": (wrong, 1),
            "failed_sound": (0, 1),
            "run_on": (wrong, 1),
            "duration_ratio": (ratio, 1),
            "recited_sec": (0.1, 1),
            "silence_sec": (0.2, 1),
            **{name: (value, 1) for name, value in more.items()},
        }
        for wrong in failed
    ]


BASE = hearing()


def chosen(epochs, part, real_similarity=float("nan")):
    """Number of the winner among (hearing, held-out loss), the base being number 0."""
    choice = Choice()
    for number, (figures, loss) in enumerate([(BASE, 3.0), *epochs]):
        choice.takes(number, figures, BASE, part, loss, real_similarity)
    return choice.epoch


def test_similarity_does_not_win_while_intelligibility_falls_apart():
    mumbling = hearing(similarity=0.88, clarity=20)  # the flow keeps half of what the tokens hold
    sound = hearing(similarity=0.76, clarity=39)
    assert chosen([(sound, 2.0), (mumbling, 2.0)], "flow") == 1
    assert chosen([(mumbling, 2.0)], "flow") == 0, "where all are out the base stays"
    assert "only 50% of the base model's intelligibility score remains" in why_out(mumbling, BASE, "flow")


def test_a_low_loss_does_not_win_while_sentences_run_on():
    running_on = hearing(failed=(1, 1, 1, 0))
    assert chosen([(hearing(), 2.5), (running_on, 1.0)], "llm") == 1
    assert "75% of the sentences go wrong" in why_out(running_on, BASE, "llm")
    assert why_out(running_on, running_on, "llm") == "", "the base is no better"


def test_a_low_loss_does_not_win_while_the_tokens_stop_saying_the_text():
    assert chosen([(hearing(), 2.5), (hearing(token_clarity=30, clarity=24), 1.0)], "llm") == 1


def test_a_low_loss_does_not_win_while_the_pace_runs_away():
    hurried = hearing(ratio=0.6)
    assert chosen([(hearing(ratio=0.9), 2.5), (hurried, 1.0)], "llm") == 1
    assert why_out(hurried, hearing(ratio=0.5), "llm") == "", "nearer to the speaker's pace than the base"


def test_similarity_does_not_win_while_the_sound_is_lost():
    lost = hearing(similarity=0.9, failed_sound=1)
    assert why_out(lost, BASE, "flow") == "100% of the sentences go wrong" and not why_out(lost, BASE, "llm")


def test_llm_and_flow_are_chosen_apart():
    first, second = (hearing(similarity=0.6), 2.0), (hearing(similarity=0.8, failed=(1, 1, 1, 1)), 2.5)
    assert (chosen([first, second], "llm"), chosen([first, second], "flow")) == (1, 2)
    unclear_tokens, unclear_sound = hearing(token_clarity=25), hearing(clarity=20)
    assert why_out(unclear_tokens, BASE, "llm") and not why_out(unclear_tokens, BASE, "flow")
    assert why_out(unclear_sound, BASE, "flow") and not why_out(unclear_sound, BASE, "llm")


def test_an_llm_that_the_flow_makes_less_of_is_left_out():
    flow_alone = hearing(clarity=38)
    assert why_alone(hearing(clarity=35), flow_alone) == ""
    assert why_alone(hearing(clarity=30), flow_alone) == "only 79% of the intelligibility score without it remains"
    assert why_alone(hearing(clarity=38, failed=(1, 0, 0, 0)), flow_alone) == "25% of the sentences go wrong"
    foreign = hearing(token_clarity=3, clarity=2)
    assert why_alone(hearing(token_clarity=3, clarity=1), foreign) == "", "where the base cannot tell"


@pytest.mark.parametrize(
    ("similarities", "reason"),
    [
        ((0.45, 0.46, 0.47, 0.46), "the timbre is further away (similarity 0.50 -> 0.46)"),
        ((0.46, 0.52, 0.49, 0.51), ""),
        ((0.6, 0.7, 0.65, 0.7), ""),
        ((0.497, 0.496, 0.497, 0.498), ""),
        ((None, 0.46, 0.47, 0.46), "the timbre is further away (similarity 0.50 -> 0.46)"),
    ],
)
def test_a_flow_that_is_surely_further_from_the_speaker_is_left_out(similarities, reason):
    flow_alone = [{**figures, "similarity": (x, 1)} for figures, x in zip(BASE, similarities, strict=True)]
    if similarities[0] is None:
        del flow_alone[0]["similarity"]  # no sound
    assert why_further(flow_alone, BASE) == reason
    silent = [{name: value for name, value in figures.items() if name != "similarity"} for figures in BASE]
    assert why_further(silent, BASE) == "", "nothing was to be heard"


def test_where_the_base_is_not_clear_it_cannot_judge_clarity():
    foreign = hearing(token_clarity=3, clarity=2)
    assert why_out(hearing(token_clarity=1, clarity=0.2), foreign, "llm") == ""
    assert why_out(hearing(token_clarity=1, clarity=0.2), foreign, "flow") == ""


def test_clips_in_a_language_that_the_base_does_not_know_are_told_by_its_own_speech():
    base = hearing(token_clarity=60)
    assert why_unread(45, base) == why_unread(25, base) == ""
    assert "(15 nats/s, 60 about its own speech)" in why_unread(15, base)
    assert why_unread(1, hearing(token_clarity=10)) == "", "a base that is not clear itself cannot tell"
    assert why_unread(float("nan"), base) == ""


def test_epochs_are_judged_by_what_the_base_says_clearly():
    foreign = hearing(token_clarity=3)
    assert judged_sentences([foreign[0], BASE[0], foreign[1], BASE[1]]) == [1, 3]
    assert judged_sentences(BASE) == [0, 1, 2, 3], "the luckiest two would make every epoch look worse"
    clearer = hearing(token_clarity=5)
    assert judged_sentences([foreign[0], clearer[0], foreign[1], BASE[0]]) == [1, 3], "two at least"
    assert judged_sentences([{}, {}, foreign[0], {}]) == [0, 2], "and silent ones last"
    assert judged_sentences([*foreign, *BASE, *BASE]) == [4, 5, 6, 7], "the first four that are clear"
    russian, english = hearing(token_clarity=20), hearing(token_clarity=60)  # of the mini model, which knows English
    assert judged_sentences([russian[0], *english[:2], russian[1], *english]) == [1, 2, 4, 5], "beside the others"


def test_similarity_decides_where_it_differs_and_the_loss_where_it_does_not():
    near, nearer = (hearing(similarity=0.70), 1.5), (hearing(similarity=0.80), 2.0)
    assert chosen([near, nearer], "flow") == chosen([nearer, near], "flow") + 1 == 2
    as_near = (hearing(similarity=0.77), 1.5)
    assert chosen([nearer, as_near], "flow") == 2, "within the noise"
    assert chosen([as_near, nearer], "flow") == 1
    assert chosen([(hearing(similarity=0.40), 1.0)], "flow") == 0, "less similar than the base"


def test_more_similar_than_the_speaker_s_own_clips_is_no_gain():
    assert chosen([(hearing(similarity=0.90), 2.0), (hearing(similarity=0.72), 1.5)], "flow", 0.75) == 2
    assert chosen([(hearing(similarity=0.90), 2.0), (hearing(similarity=0.65), 1.5)], "flow", 0.75) == 1


def test_silence_is_not_similar():
    silent = [{name: part for name, part in sentence.items() if name != "similarity"} for sentence in hearing()]
    assert chosen([(silent, 1.0)], "flow") == 0
    assert chosen([(silent, 1.0), (hearing(similarity=0.7), 2.0)], "flow") == 2


def test_a_voice_without_held_out_clips_is_chosen_too():
    choice = Choice()
    assert choice.takes(0, BASE, BASE, "llm", float("nan"), float("nan"))
    assert choice.takes(1, hearing(), BASE, "llm", 2.0, float("nan"))
    assert not choice.takes(2, hearing(), BASE, "llm", 2.5, float("nan"))


# ---- signs of overfitting --------------------------------------------------------------------------------------------


def test_a_sound_voice_shows_no_sign_of_overfitting():
    assert overfit_signs(hearing(similarity=0.9, ratio=0.95), BASE, 1.5) == {}


@pytest.mark.parametrize(
    ("figures", "sign", "remedy"),
    [
        ({"failed": (1, 0, 0, 0)}, "speaks on after the text", "stop.llm_loss"),
        ({"recited_sec": 1.4}, "training text recited", "llm_lora.lora_r"),
        ({"ratio": 0.8}, "drifts faster", "learning_rate"),
        ({"silence_sec": 1.2}, "long silences", "--fix"),
    ],
)
def test_each_sign_of_overfitting_is_named_with_its_remedy(figures, sign, remedy):
    found = overfit_signs(hearing(**figures), BASE, 1.5)
    assert list(found) == [sign]
    assert remedy in found[sign]


def test_a_recital_is_found_although_some_tokens_differ():
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 1000, (100,), generator=generator).tolist()
    recital = clip[30:70]
    recital[10] = recital[25] = 2000
    assert recited_tokens([5, 6, 7, *recital, 8], in_one_row([list(range(50)), clip])) == 36
    assert recited_tokens(torch.randint(0, 1000, (100,), generator=generator).tolist(), in_one_row([clip])) <= 2
    assert recited_tokens([7] * 40, in_one_row([[1, *[7] * 40, 2]])) == 1, "a pause is no recital"
    assert recited_tokens([], in_one_row([clip])) == recited_tokens(clip, in_one_row([])) == 0


def recited_plainly(tokens: list[int], clips: list[list[int]]) -> int:
    """The definition: every stretch of every clip, tokens that follow their like taken once."""
    said, *others = ([token for token, _ in groupby(sequence)] for sequence in (tokens, *clips))
    best = 0
    for other in others:
        for i, j in product(range(len(said)), range(len(other))):
            agree = [2 * (a == b) - 1 for a, b in zip(said[i:], other[j:], strict=False)]
            best = max(best, *accumulate(agree))
    return best


def test_recitals_are_counted_within_each_clip_as_if_it_were_alone():
    rng = random.Random(0)
    for _ in range(30):
        said, *clips = ([rng.randrange(4) for _ in range(rng.randrange(1, 12))] for _ in range(5))
        assert recited_tokens(said, in_one_row(clips)) == recited_plainly(said, clips)


def lines_run(work: Callable[[], object]) -> int:
    """Lines of Python that the work runs through."""
    count, before = 0, sys.gettrace()

    def note(frame: FrameType, event: str, argument: object) -> Callable:
        nonlocal count
        count += event == "line"
        return note

    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_many_clips_take_no_more_calls_than_one():
    """Clip by clip numpy's own time counts: 3000 clips took 40 times as long as one of their length."""
    rng = np.random.default_rng(0)
    said, tokens = rng.integers(0, 64, 60).tolist(), rng.integers(0, 64, 4000).tolist()
    rows = in_one_row([tokens]), in_one_row([tokens[i : i + 40] for i in range(0, len(tokens), 40)])
    one, many = (lines_run(lambda row=row: recited_tokens(said, row)) for row in rows)
    assert many == one > 60


def test_the_verdict_in_words():
    closer = [{**sentence, "similarity": (0.7 + i / 100, 1)} for i, sentence in enumerate(hearing())]
    assert verdict(compared(closer, BASE, None), closer, BASE) == (
        "timbre clearly closer, intelligibility unchanged, pace unchanged, no run-ons"
    )
    worse = hearing(clarity=20, failed=(1, 1, 0, 0))
    assert verdict(compared(worse, BASE, None), worse, BASE) == (
        "timbre unchanged, intelligibility worse, pace unchanged, 2 of 4 run on"
    )


@pytest.mark.parametrize(
    ("clarity", "words"),
    [
        ((5, 60, 5, 42), "perhaps worse (70% of the base's intelligibility score)"),
        ((20, 80, 35, 65), "perhaps better (125% of the base's intelligibility score)"),
        ((30, 50, 30, 42), "unchanged"),
    ],
)
def test_a_change_that_few_sentences_do_not_prove_is_not_called_none(clarity, words):
    mixed = [{**sentence, "clarity": (3 * value, 3)} for sentence, value in zip(hearing(), clarity, strict=True)]
    told = verdict(compared(mixed, BASE, None), mixed, BASE)
    assert f"intelligibility {words}, pace" in told
    assert told.endswith("; 4 sentences are too few to be sure; run evaluate_joint.py --sentences FILE with more") == (
        "perhaps" in words
    )


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ((0.40, 0.00, 0.35, 0.01), "perhaps closer (similarity 0.50 -> 0.69)"),
        ((-0.40, 0.00, -0.35, 0.01), "perhaps further away (similarity 0.50 -> 0.32)"),
        ((0.1, -0.05, 0.05, -0.06), "unchanged"),
    ],
)
def test_a_timbre_that_few_sentences_do_not_prove_is_not_called_unchanged(gains, words):
    base = [{**sentence, "similarity": (0.5, 1)} for sentence in hearing()]
    mixed = [{**sentence, "similarity": (0.5 + gain, 1)} for sentence, gain in zip(base, gains, strict=True)]
    assert verdict(compared(mixed, base, None), mixed, base).startswith(f"timbre {words}, ")


# ---- while training --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_random_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(tiny_model_dir, data_dir, tmp_path):
    """Runs train_joint.main in tmp_path/OUTPUT; returns the exit code."""

    def run(*arguments: str, output: str = "output") -> int:
        paths = ["--data-dir", data_dir, "--model-dir", tiny_model_dir, "--output-dir", tmp_path / output]
        return main([*map(str, paths), "--device", "cpu", *FEW, *arguments])

    return run


def adapters(path: Path) -> dict[str, torch.Tensor]:
    parts = load_checkpoint(path)["adapters"]
    return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}


def assert_equal(one: Path, other: Path) -> None:
    ours, theirs = adapters(one), adapters(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.scripts
def test_listening_changes_nothing_in_training_and_is_logged(train, tmp_path, monkeypatch, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train("--set", "eval_every_epochs=0", output="deaf") == 0
    capsys.readouterr()
    monkeypatch.setattr(train_joint, "own_pitch", lambda *_: 100.0)
    monkeypatch.setattr("training.listening.with_pitch", at_pitch(150))
    assert train(*HEARD, "--set", "eval_sentences=5") == 0
    printed = capsys.readouterr().out
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    assert_equal(last, tmp_path / "deaf" / last.name)
    assert [heard["epoch"] for heard in load_checkpoint(last)["training"]["hearings"]] == [0, 2, 4]

    samples = {path.name for path in (tmp_path / "output" / "samples").iterdir()}
    for name in ("base", "epoch_0002", "epoch_0004", "merged"):
        heard = [path for path in samples if path.startswith(f"{name}_") and path.endswith(".wav")]
        assert len(heard) == (2 if "epoch" in name else 5)
        assert {path.replace(".wav", ".png") for path in heard} <= samples
    board = EventAccumulator(str(tmp_path / "output" / "joint_logs" / "joint"), size_guidance={"audio": 0}).Reload()
    tags = board.Tags()
    assert {"eval/similarity", "eval/duration_ratio", "eval/run_on", "eval/repeated"} <= set(tags["scalars"])
    assert "eval/f0_hz" not in tags["scalars"], "told of the base and of what is merged only"
    assert [event.step for event in board.Scalars("eval/similarity")] == [0, 4, 8]
    assert "sentence_5" in tags["audio"] and "sentence_5_mel" in tags["images"]

    assert "heard the base: similarity" in printed and "heard epoch   4: similarity" in printed
    assert printed.count("by the flow alone similarity") == printed.count("heard epoch") > 0
    rows = (tmp_path / "output" / "joint_logs" / "joint" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(rows))
    assert [row["epoch"] for row in rows if row["kept"] == "1"] == ["2", "4"]
    for row in (row for row in rows if row["similarity"]):
        kept = load_checkpoint(last.with_name(f"joint_joint_epoch000{row['epoch']}.ckpt"))["row"]
        assert {name: kept[name] for name in kept} == {name: float(row[name]) for name in kept}
    held_out = [float(row["flow_held_out"]) for row in rows]
    lowest = min(held_out)
    assert f" -> {lowest:.3f} in epoch {held_out.index(lowest) + 1}; merged " in printed
    summary = printed[printed.index("base -> merged, 5 sentences") :]
    assert "verdict: timbre" in summary and "merged_*.wav" in summary and "of the time" in summary
    assert "pitch, Hz   " in summary and "(pitch of the speaker's recordings: 100 Hz)" in summary
    assert ", pitch unchanged, " in summary


def at_pitch(hz: float) -> Callable[[Sentence], Sentence]:
    return lambda sentence: replace(sentence, figures=sentence.figures | {"f0_hz": (hz, 1)})


@pytest.mark.scripts
def test_a_voice_that_nobody_waited_for_is_merged_and_judged_when_the_run_is_resumed(
    train, tmp_path, monkeypatch, capsys
):
    def stop(*_) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_joint, "summarise", stop)
    assert train(*HEARD) == 128 + signal.SIGTERM
    printed = capsys.readouterr().out
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    assert f"SIGTERM: training is over and saved in {last}; merge and hear its voice with: " in printed
    monkeypatch.undo()
    assert train("--resume", str(last)) == 0
    assert "verdict: timbre" in capsys.readouterr().out
    monkeypatch.setattr(train_joint, "own_pitch", lambda *_: pytest.fail("it was finished"))
    assert train("--resume", str(last)) == 0
    assert "this run is finished" in capsys.readouterr().out


def logged_steps(output: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [event.step for event in EventAccumulator(str(output / "joint_logs" / "joint")).Reload().Scalars("llm/loss")]


@pytest.mark.slow
@pytest.mark.scripts
def test_a_run_killed_before_it_listened_chooses_what_the_unbroken_run_chose(train, tmp_path, monkeypatch):
    assert train(*HEARD, output="unbroken") == 0
    original = train_joint.end_epoch

    def signalling(run, board):
        original(run, board)
        if run.epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_joint, "end_epoch", signalling)
    assert train(*HEARD) == 128 + signal.SIGTERM
    monkeypatch.undo()
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    assert [heard["epoch"] for heard in load_checkpoint(last)["training"]["hearings"]] == [0]
    (tmp_path / "others.txt").write_text("Good night.\nSleep well.\nSee you.\n", encoding="utf-8")
    monkeypatch.setattr("training.audition.shipped_list", lambda texts: tmp_path / "others.txt")
    assert train("--resume", str(last)) == 0
    assert logged_steps(tmp_path / "output") == logged_steps(tmp_path / "unbroken") == [*range(1, 9)]
    for kind in ("last", "best"):
        assert_equal(*(tmp_path / name / f"joint_joint_{kind}.ckpt" for name in ("output", "unbroken")))
    ours, theirs = (load_checkpoint(tmp_path / name / last.name)["training"] for name in ("output", "unbroken"))
    assert ours["hearings"] == theirs["hearings"]


@pytest.mark.scripts
@pytest.mark.slow  # twenty seconds
def test_a_run_that_nobody_listened_to_can_be_heard_when_it_goes_on(train, tmp_path):
    assert train("--set", "eval_every_epochs=0", *BRIEF, output="output") == 0
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    assert train(*HEARD, "--resume", str(last), "--epochs", "6") == 0
    training = load_checkpoint(last)["training"]
    assert [heard["epoch"] for heard in training["hearings"]] == [0, 4, 6]
    assert training["parts"]["flow"]["choice"]["epoch"] in (4, 6)
    assert train(*HEARD, output="heard") == 0
    base = load_checkpoint(tmp_path / "heard" / last.name)["training"]["hearings"][0]
    assert base == training["hearings"][0]


@pytest.mark.scripts
@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param("2", "0", id="no longer heard", marks=pytest.mark.slow),
        pytest.param("0", "2", id="heard from then on"),
    ],
)
def test_the_epoch_that_is_named_is_the_one_that_is_merged(first, then, train, tmp_path, monkeypatch, capsys):
    """Also where listening is switched on or off when the run goes on: the rule changes, what is kept does not."""
    short = (*BRIEF, "--set", "keep_every_epochs=1")
    monkeypatch.setattr(Choice, "takes", lambda choice, epoch, *_: epoch == 2)
    monkeypatch.setattr("training.listening.why_alone", lambda *_: "")
    monkeypatch.setattr("training.listening.why_further", lambda *_: "")
    assert train(*short, "--set", f"eval_every_epochs={first}") == 0
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    capsys.readouterr()
    assert train("--resume", str(last), "--set", f"eval_every_epochs={then}", "--epochs", "5", "--lr", "1e-9") == 0
    printed = capsys.readouterr().out
    best = load_checkpoint(last.with_name("joint_joint_best.ckpt"))["adapters"]
    for part, adapter in best.items():
        [epoch] = re.findall(rf"^{part}: .*; merged epoch (\d+)", printed, re.MULTILINE)
        kept = load_checkpoint(last.with_name(f"joint_joint_epoch{int(epoch):04d}.ckpt"))["adapters"][part]
        assert all(torch.equal(kept[key], value) for key, value in adapter.items())


@pytest.mark.scripts
def test_the_held_out_loss_decides_where_the_user_says_so(train, tmp_path):
    assert train(*HEARD, "--set", "select_by=val_loss") == 0
    best = load_checkpoint(tmp_path / "output" / "joint_joint_best.ckpt")
    parts = load_checkpoint(tmp_path / "output" / "joint_joint_last.ckpt")["training"]["parts"]
    assert best["best_epochs"] == {name: part["best_epoch"] for name, part in parts.items()}


@pytest.mark.scripts
def test_an_llm_that_is_left_out_is_merged_as_in_the_base(train, tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Choice, "takes", lambda choice, epoch, *_: epoch == 2)
    monkeypatch.setattr("training.listening.why_further", lambda *_: "")
    monkeypatch.setattr(
        "training.listening.why_alone", lambda together, flow_alone: "70% of the clarity without it is left"
    )
    assert train(*HEARD, "--epochs", "3", "--set", "keep_every_epochs=3") == 0
    assert "with it 70% of the clarity without it is left" in capsys.readouterr().out
    output = tmp_path / "output"
    llm, base = (load_state_dict_file(path) for path in (output / "llm_merged_joint.pt", tiny_model_dir / "llm.pt"))
    speaker = {"spk_embed_affine_layer.weight", "spk_embed_affine_layer.bias"}
    assert all(torch.equal(llm[name], value) for name, value in base.items() if name not in speaker)
    best, last = (load_checkpoint(output / f"joint_joint_{kind}.ckpt") for kind in ("best", "last"))
    assert best["best_epochs"] == {"llm": 0, "flow": 2}
    assert not any(value.any() for value in best["adapters"]["llm"].values())
    assert any(value.any() for value in best["adapters"]["flow"].values())
    epochs = output / "joint_joint_epoch0003.ckpt"
    assert_equal(output / "joint_joint_last.ckpt", epochs)  # not the chosen epoch's, which were heard last
    choice = last["training"]["parts"]["llm"]["choice"]
    assert choice["epoch"] == 0 and last["training"]["parts"]["llm"]["left_out"]
    assert train("--resume", str(output / "joint_joint_last.ckpt"), "--epochs", "3") == 0
    assert "this run is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("further", "alone", "heard", "left_out"),
    [
        ("", "", ["llm", "flow"], []),
        ("", "less clear", ["flow"], ["llm"]),
        ("further away", "", ["llm"], ["flow"]),
        ("further away", "less clear", [], ["flow", "llm"]),
    ],
)
def test_what_is_heard_at_the_end_is_without_what_is_left_out(further, alone, heard, left_out, monkeypatch):
    """And each part is held against what is merged without it."""
    judged = []

    def judge(reason):
        return lambda *heard: judged.append([sorted(figures[0]) for figures in heard]) or reason

    class Ears:
        def hear(self, numbers, trained, between):
            return [SimpleNamespace(figures={name: (1, 1) for name in trained})]

    monkeypatch.setattr("training.listening.why_further", judge(further))
    monkeypatch.setattr("training.listening.why_alone", judge(alone))
    monkeypatch.setattr("training.listening.trained_parts", lambda run: ("llm", "flow"))
    run = SimpleNamespace(
        audition=Ears(),
        by_sound=True,
        parts={name: SimpleNamespace(choice=Choice(epoch=3)) for name in ("llm", "flow")},
        hearings=[SimpleNamespace(figures=[{}])],
        spent_sec={"hearing": 0.0},
        sentences_heard=0,
    )
    sentences, why = hear_chosen(run)
    assert sorted(sentences[0].figures) == sorted(heard) and list(why) == left_out
    without_llm = [] if further else ["flow"]
    assert judged == [[["flow"], []], [sorted(["llm", *without_llm]), without_llm]]


@pytest.mark.scripts
@pytest.mark.parametrize("mode", ["joint", pytest.param("flow_only", marks=pytest.mark.slow)])
def test_a_flow_that_is_left_out_is_merged_as_in_the_base(mode, train, tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Choice, "takes", lambda choice, epoch, *_: epoch == 2)
    monkeypatch.setattr("training.listening.why_further", lambda flow_alone, base: "the timbre is further away")
    monkeypatch.setattr("training.listening.why_alone", lambda together, without: "")
    assert train(*HEARD, "--epochs", "2", "--mode", mode) == 0
    printed = capsys.readouterr().out
    assert "merged as in the base model: with it the timbre is further away" in printed
    assert ("warning: no epoch was chosen" in printed) == (mode == "flow_only")
    output = tmp_path / "output"
    flow, base = (
        load_state_dict_file(path) for path in (output / f"flow_merged_{mode}.pt", tiny_model_dir / "flow.pt")
    )
    assert all(torch.equal(flow[name], value) for name, value in base.items() if "spk_embed_affine_layer" not in name)
    best = load_checkpoint(output / f"joint_{mode}_best.ckpt")
    assert best["best_epochs"] == {"llm": 2, "flow": 0} if mode == "joint" else {"flow": 0}
    assert not any(value.any() for value in best["adapters"]["flow"].values())


@pytest.mark.scripts
def test_an_llm_does_not_learn_from_clips_that_the_base_cannot_read(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.decisions.why_unread", lambda clarity, base: "another language")
    assert train(*HEARD, "--epochs", "1") == 0
    assert "llm is not trained: another language; --mode llm_only trains it" in capsys.readouterr().out
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    monkeypatch.undo()
    assert train("--resume", str(last), "--epochs", "2") == 0
    checkpoint = load_checkpoint(last)
    assert all("llm_train" not in row and "flow_train" in row for row in checkpoint["training"]["history"])
    updates = {name: value for name, value in checkpoint["adapters"]["llm"].items() if "lora_B" in name}
    assert updates and not any(value.any() for value in updates.values())


@pytest.mark.scripts
def test_whoever_trains_the_llm_alone_is_warned_that_the_base_cannot_read_the_clips(train, monkeypatch, capsys):
    monkeypatch.setattr("training.decisions.why_unread", lambda clarity, base: "another language")
    assert train(*HEARD, "--epochs", "1", "--mode", "llm_only") == 0
    printed = capsys.readouterr().out
    assert "warning: another language; --mode flow_only" in printed and "llm_only" in printed and "epoch   1" in printed


@pytest.mark.scripts
def test_no_training_is_thrown_away_for_what_a_few_sentences_say(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Choice, "takes", lambda choice, epoch, heard, *_: epoch == 2 and len(heard) == 5)
    monkeypatch.setattr("training.listening.why_further", lambda *_: "")
    assert train(*HEARD, "--set", "eval_sentences=5", "--epochs", "2", "--mode", "flow_only") == 0
    printed = capsys.readouterr().out
    assert "flow: with all sentences heard, epoch 2 is accepted" in printed and "warning: no epoch" not in printed
    best = load_checkpoint(tmp_path / "output" / "joint_flow_only_best.ckpt")
    assert best["best_epochs"] == {"flow": 2} and any(value.any() for value in best["adapters"]["flow"].values())


@pytest.mark.scripts
@pytest.mark.parametrize("mode", ["flow_only", pytest.param("llm_only", marks=pytest.mark.slow)])
def test_half_a_voice_is_heard_with_the_base_s_other_half(mode, train, tmp_path):
    assert train(*HEARD, "--mode", mode) == 0
    checkpoint = load_checkpoint(tmp_path / "output" / f"joint_{mode}_last.ckpt")
    assert len(checkpoint["training"]["hearings"]) == 3
    assert set(checkpoint["adapters"]) == {mode.removesuffix("_only")}


@pytest.mark.scripts
def test_without_held_out_clips_the_sound_decides(train, tmp_path, capsys):
    assert train(*HEARD, "--set", "validation_clips=0") == 0
    assert "the last epoch is what gets merged" not in capsys.readouterr().out
    assert (tmp_path / "output" / "joint_joint_best.ckpt").exists()


@pytest.mark.scripts
@pytest.mark.slow  # twenty seconds: bfloat16 is emulated where the CPU has none
def test_a_voice_in_half_precision_is_heard(train, tmp_path):
    assert train(*HEARD, "--set", "precision=bf16", "--set", "frozen_weights=half") == 0
    figures = load_checkpoint(tmp_path / "output" / "joint_joint_last.ckpt")["training"]["hearings"][-1]["figures"]
    assert all(torch.isfinite(torch.tensor(part)).all() for sentence in figures for part in sentence.values())


@pytest.mark.scripts
def test_how_often_is_settled_by_what_it_costs(train, tmp_path, capsys):
    assert train(*BRIEF) == 0
    assert "listening test every 4 epochs, and whenever a part stops training" in capsys.readouterr().out, (
        "listening costs more than tiny epochs"
    )


@pytest.mark.scripts
def test_what_listening_needs_is_asked_for_at_the_start(train, tiny_model_dir, data_dir, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "hift.pt").unlink()
    assert main(["--data-dir", str(data_dir), "--model-dir", str(model), "--output-dir", str(tmp_path / "o")]) == 2
    assert "eval_every_epochs=0" in capsys.readouterr().err


@pytest.mark.scripts
def test_a_model_that_can_read_no_sentence_is_not_listened_to(train, monkeypatch, capsys):
    monkeypatch.setattr("training.audition.speakable", lambda frontend, text: [])
    assert train() == 2
    assert "can read none of the sentences to listen to; do not listen" in capsys.readouterr().err


def test_samples_that_cannot_be_written_are_warned_of_and_end_nothing(tmp_path, capsys):
    folder = tmp_path / "samples"
    folder.touch()  # no folder can be made there
    wave = 0.1 * torch.randn(1, 22050, generator=torch.Generator().manual_seed(0))
    sentences = {0: Sentence("a", wave, 22050), 3: Sentence("b", torch.zeros(1, 0), 22050)}
    assert list(write_samples(folder, "epoch_0002", sentences)) == [0]
    [warning] = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: cannot write {folder / 'epoch_0002_1.wav'}: ")
    assert warning.endswith("; training goes on without it")


def test_a_sentence_of_one_speech_token_has_a_picture(tmp_path):
    pictures = write_samples(tmp_path, "epoch_0002", {0: Sentence("a", torch.full((1, 256), 0.1), 22050)})
    assert pictures[0].shape[0] == 80


# ---- on a model that speaks ------------------------------------------------------------------------------------------


def make_audition(device: torch.device) -> Audition:
    """Ears on the base of the mini model in one of its own voices."""
    config = load(["inference.max_retries=0", "inference.min_token_text_ratio=0.5", "inference.max_token_text_ratio=8"])
    model_config = read_model_config(MINI)
    parts = {name: load_part(model_config, name, device=device) for name in ("llm", "flow", "hift")}
    frontend = CosyVoiceFrontEnd(model_config)
    voice = Voice("slt", load_spk2info(MINI / "spk2info.pt")["slt"], 0.11)
    texts = ["The cat sat on the mat by the door.", "We will leave early tomorrow.", "Is it raining again?"]
    clips = [
        SimpleNamespace(
            text=text,
            text_token=torch.tensor(frontend.text_tokens(text), dtype=torch.int32),
            speech_token=torch.arange(40),
            utt_embedding=voice.embedding[0],
            duration=2.0 + number,
        )
        for number, text in enumerate(texts)
    ]
    model = JointModel(parts["llm"], parts["flow"], JointConfig()).to(device)
    return Audition(model, parts["hift"], frontend, voice, config[0].inference, clips[:2], clips[2:])


@pytest.fixture(scope="module")
def audition() -> Audition:
    return make_audition(CPU)


def test_held_out_texts_come_in_turn_with_shipped_ones_and_trained_ones_never(audition):
    texts = [text.text for text in audition.texts]
    assert texts[0] == "Is it raining again?" and len(texts) == 4
    assert texts[1] == "Good morning, and thank you for waiting so patiently."
    held_out = [SimpleNamespace(text=f"This one is number {word}.", duration=3.0) for word in ("one", "two", "three")]
    clips = [SimpleNamespace(text=text, duration=2.0) for text in (texts[1], held_out[0].text)]
    chosen_texts = [text.text for text in choose_texts(clips, held_out, audition.frontend, 9)]
    assert chosen_texts[:4:2] == [held_out[1].text, held_out[2].text]
    assert len(set(chosen_texts)) == 9 and not {text.text for text in clips} & set(chosen_texts)
    assert len(choose_texts(clips, held_out, audition.frontend, 12)) == 11, "nine of the ten shipped ones are left"


def test_whether_the_base_reads_the_clips_is_asked_of_those_as_long_as_its_sentences(audition, monkeypatch):
    said = [sum(len(utterance.tokens) for utterance in utterances) for utterances in audition.said_at_start]
    usual = sorted(said)[len(said) // 2]
    clips = [
        SimpleNamespace(text_token=torch.tensor([1]), speech_token=torch.arange(count))
        for count in (*range(400, 412), *range(usual - 6, usual + 6), 2)
    ]
    monkeypatch.setattr(audition, "own_clips", clips)
    monkeypatch.setattr(audition.clarity, "of_tokens", lambda text, tokens: (len(tokens), 1.0))
    assert abs(audition.clips_clarity() - usual) < 7, "the long and the short ones are not among the eight"


def test_clear_speech_is_told_from_mumbling_and_from_another_text(audition):
    sentences = audition.hear()
    clarity = [sentence.figures["clarity"][0] / sentence.figures["clarity"][1] for sentence in sentences]
    assert min(clarity) > CLEAR
    assert all(sentence.figures["failed"] == (0.0, 1) for sentence in sentences)
    [said] = audition.said([1])
    speech = audition.sound(audition.texts[1], said)
    tokens = speech.tokens
    other, _ = audition.clarity.of_tokens(audition.texts[2].tokens, tokens)
    own, seconds = audition.clarity.of_tokens(audition.texts[1].tokens, tokens)
    assert other < 0.2 * own and own / seconds > CLEAR

    silent = replace(speech, wave=torch.zeros(1, 0))
    assert audition.measured(audition.texts[1], silent).figures.keys().isdisjoint({"similarity", "clarity"})

    for parameter in adapter_parameters(audition.networks.flow):  # a flow that is hurt badly
        torch.nn.init.normal_(parameter, std=0.2)
    hurt = figures_of(audition.hear())
    base = figures_of(sentences)
    assert why_out(hurt, base, "flow").endswith("of the base model's intelligibility score remains")
    assert why_out(hurt, base, "llm") == "", "its tokens are the base's"
    assert audition.networks.llm.training is False
    assert all(layer.lora_dropout.training for _, layer in lora_layers(audition.networks.flow))


@pytest.mark.slow  # ten seconds
def test_a_voice_heard_in_fp16_is_the_one_in_float32():
    audition = make_audition(CPU)
    [full] = figures_of(audition.hear([2]))
    audition.autocast = partial(autocast, CPU, torch.float16)
    [half] = figures_of(audition.hear([2]))
    assert half.keys() == full.keys() and half["clarity"] != full["clarity"]
    for name in ("similarity", "clarity", "token_clarity", "duration_ratio"):
        (a, b), (c, d) = half[name], full[name]
        assert a / b == pytest.approx(c / d, rel=0.05), name  # 0.02 at most: a token more or less may be drawn
    assert half["failed"] == full["failed"] == (0, 1)


def test_a_flow_is_judged_by_the_base_s_tokens_whatever_the_llm_has_learned():
    audition = make_audition(CPU)
    base, [number] = audition.hear(trained=()), [1]
    for name in ("llm", "flow"):
        for parameter in adapter_parameters(audition.networks.part(name)):
            torch.nn.init.normal_(parameter, std=0.05)
    [together], [flow_alone], [as_base] = (audition.hear([number], trained) for trained in (PARTS, ("flow",), ()))
    assert torch.equal(as_base.wave, base[number].wave)
    assert flow_alone.wave.shape == as_base.wave.shape and not torch.equal(flow_alone.wave, as_base.wave)
    assert flow_alone.figures["token_clarity"] == as_base.figures["token_clarity"]
    assert together.figures["token_clarity"] != as_base.figures["token_clarity"]
