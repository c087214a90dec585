"""Decoding by static steps, as a GPU does it with CUDA graphs: the same scores and tokens as with a cache that grows.

On a CPU a step is called, or, as a graph would, repeated: the operators of one step, with their tensors and numbers.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from test_llm import SPEAKER, SPEECH_IDS, make_llm, speak, start_of, utterances
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cosyvoice.llm import static_decoding
from cosyvoice.llm.decoding import Decoding
from cosyvoice.llm.llm import TransformerLM
from cosyvoice.llm.static_decoding import StaticDecoding, StaticSteps
from cosyvoice.utils import cuda_graphs

WAITS = ("_local_scalar_dense", "nonzero", "masked_select")  # operators that wait for the device
PLENTY = 2**30


class Recorder(TorchDispatchMode):
    """Notes every operator with what it was given and what it made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict, object]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made


def repeated(step: Callable[[], None], device: torch.device, warm_ups: int = 0) -> SimpleNamespace:
    """In place of `captured`: replays the operators of `step` on the same memory, whatever Python would do by now."""
    with Recorder() as recorder:
        step()
    assert not [call[0] for call in recorder.calls if any(name in str(call[0]) for name in WAITS)]

    def replay() -> None:
        for func, args, kwargs, made in recorder.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    return SimpleNamespace(replay=replay)


@pytest.fixture(params=["called", "repeated"])
def llm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TransformerLM:
    """A model that decodes by static steps, the smallest of them for 16 positions."""
    monkeypatch.setattr(static_decoding, "SMALLEST_CAPACITY", 16)
    if request.param == "repeated":
        monkeypatch.setattr(static_decoding, "captured", repeated)
    model = make_llm()
    model.llm.prepare_inference()
    model.static_steps = StaticSteps(PLENTY)
    return model


def prefixes(*lengths: int, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, 16, generator=generator).to(device) for length in lengths]


@torch.inference_mode()
def run(decoding: Decoding, rows: int, steps: int, ends: dict[int, int]) -> Iterator[Tensor]:
    """Scores of each step with tokens that are given; ends: after so many steps that row is done."""
    generator = torch.Generator().manual_seed(2)
    going = list(range(rows))
    for number in range(steps):
        yield decoding.scores().clone()
        kept = [row for row, _ in enumerate(going) if ends.get(number) != row]
        going = [going[row] for row in kept]
        decoding.go_on(kept, torch.randint(SPEECH_IDS, (len(kept),), generator=generator).tolist())
    decoding.close()


def both(model: TransformerLM, *lengths: int, steps: int, ends: dict[int, int]) -> list[tuple[Tensor, Tensor]]:
    """(scores by static steps, scores with a cache that grows), step by step."""
    device = str(model.llm_embedding.weight.device)
    given = prefixes(*lengths, device=device)
    decodings = StaticDecoding(model, given, model.static_steps), Decoding(model, given)
    return list(zip(*(run(decoding, len(given), steps, ends) for decoding in decodings), strict=True))


@pytest.mark.parametrize("length", [1, 15, 16, 17])
def test_scores_of_one_utterance_across_the_borders_of_capacities(llm: TransformerLM, length: int) -> None:
    pairs = both(llm, length, steps=60, ends={})
    assert {step.capacity for step in llm.static_steps.idle} >= {32, 64}
    for static, growing in pairs:
        torch.testing.assert_close(static, growing, rtol=1e-5, atol=1e-5)


def test_scores_of_a_batch_with_padding_whose_rows_end_at_different_times(llm: TransformerLM) -> None:
    pairs = both(llm, 3, 8, 1, 12, 5, steps=70, ends={0: 4, 9: 1, 40: 0, 66: 2})
    sizes = [(step.rows, step.capacity) for step in llm.static_steps.idle]
    assert sizes == [(4, 16), (4, 32), (4, 64), (2, 128)]  # rows that are done leave where a larger step is due
    assert [len(static) for static, _ in pairs[::30]] == [5, 3, 2]
    for static, growing in pairs:
        torch.testing.assert_close(static, growing, rtol=1e-5, atol=1e-5)


def speak_both_ways(model: TransformerLM, **options: object) -> tuple[list[int], list[int]]:
    """Tokens by static steps, and with a cache that grows."""
    static = speak(model, **options)
    kept, model.static_steps = model.static_steps, None
    growing = speak(model, **options)
    model.static_steps = kept
    return static, growing


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_tokens_come_out(llm: TransformerLM, seed: int) -> None:
    static, growing = speak_both_ways(llm, n_text=6, seed=seed, min_token_text_ratio=8)
    assert len(llm.static_steps.idle) > 1 and len(static) >= 48
    assert static == growing


def test_a_batch_says_the_same_and_its_random_states_move_alike(llm: TransformerLM) -> None:
    lengths, vector = [9, 2, 5, 0, 7, 1], torch.randn(1, SPEAKER, generator=torch.Generator().manual_seed(1))
    static, growing = utterances(llm, lengths), utterances(llm, lengths)
    llm.inference_batch(static, vector)
    assert llm.static_steps.idle
    llm.static_steps = None
    llm.inference_batch(growing, vector)
    for one, other in zip(static, growing, strict=True):
        assert (one.tokens, one.stopped_by_eos) == (other.tokens, other.stopped_by_eos)
        assert torch.equal(one.random_state, other.random_state)
    assert len({len(utterance.tokens) for utterance in static}) > 3


def test_a_step_is_made_only_where_scores_are_wanted(llm: TransformerLM) -> None:
    assert len(speak(llm, min_token_text_ratio=0.25, max_token_text_ratio=0.25)) == 1
    assert llm.static_steps.idle == []


# ---- steps are kept --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_next_utterance_takes_the_steps_of_the_one_before_and_nothing_that_they_hold(llm: TransformerLM) -> None:
    options = {"n_text": 6, "min_token_text_ratio": 8}
    first = speak(llm, **options)
    steps = list(llm.static_steps.idle)
    for step in steps:
        for cache in step.caches:
            cache.kv.fill_(torch.inf)
    assert speak(llm, **options) == first
    assert llm.static_steps.idle == steps


def test_utterances_whose_tokens_come_in_turns_do_not_meet(llm: TransformerLM) -> None:
    llm.sampling = lambda scores, tokens, sampling: int(scores[:SPEECH_IDS].argmax())
    alone = [speak(llm, n_text=n_text, min_token_text_ratio=5, max_token_text_ratio=5) for n_text in (4, 6)]
    arguments = [start_of(n_text) for n_text in (4, 6)]
    first, second = (llm.inference(**given, min_token_text_ratio=5, max_token_text_ratio=5) for given in arguments)
    taken: list[list[int]] = [[], []]
    for _ in range(20):
        taken[0].append(next(first))
        taken[1].append(next(second))
    taken[1] += list(second)
    assert taken == alone


def test_an_utterance_that_is_left_in_the_middle_gives_its_step_back(llm: TransformerLM) -> None:
    tokens = llm.inference(**start_of(4), min_token_text_ratio=10)
    for _ in range(5):
        next(tokens)
    assert llm.static_steps.idle == []
    tokens.close()
    assert [step.rows for step in llm.static_steps.idle] == [1]


def test_what_is_kept_has_a_limit(llm: TransformerLM) -> None:
    steps = StaticSteps(PLENTY)
    with torch.inference_mode():
        made = [steps.take(llm, rows, 20) for rows in (1, 3, 4, 2)]
    assert [step.rows for step in made] == [1, 4, 4, 2] and made[1] is not made[2]
    steps.most_bytes = made[1].nbytes + made[2].nbytes + made[3].nbytes
    for step in made:
        steps.give_back(step)
    assert steps.idle == made[1:]
    assert steps.take(llm, 2, 20) is made[3] and steps.take(llm, 4, 31) is made[1]
    assert steps.idle == [made[2]]


@torch.inference_mode()
def test_a_step_that_is_not_kept_is_gone_at_once(llm: TransformerLM) -> None:
    """Its memory is not to wait for the collector of cycles, which knows nothing of a GPU's memory."""
    gc.disable()
    try:
        step = llm.static_steps.take(llm, 2, 20)
        gone = weakref.ref(step)
        llm.static_steps.most_bytes = 0
        llm.static_steps.give_back(step)
        del step
        assert gone() is None
    finally:
        gc.enable()


def scarce(monkeypatch: pytest.MonkeyPatch, *fits: bool) -> list[tuple[int, int]]:
    """Whether the next steps that are made find memory; (rows, capacity) of all that were tried."""
    make, tried = static_decoding.StaticStep, []

    def make_if_it_fits(model: TransformerLM, rows: int, capacity: int) -> static_decoding.StaticStep:
        tried.append((rows, capacity))
        if not fits[len(tried) - 1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(model, rows, capacity)

    monkeypatch.setattr(static_decoding, "StaticStep", make_if_it_fits)
    return tried


@torch.inference_mode()
def test_where_memory_is_short_the_steps_that_are_kept_make_room(
    llm: TransformerLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm.static_steps.give_back(llm.static_steps.take(llm, 4, 100))
    tried = scarce(monkeypatch, False, True)
    assert llm.static_steps.take(llm, 2, 20).capacity == 32
    assert tried == [(2, 32)] * 2 and llm.static_steps.idle == []


@pytest.mark.parametrize("fits", [(), (True,)])  # not even the first step fits; the second one does not
def test_where_there_is_no_memory_at_all_the_cache_grows(
    llm: TransformerLM, fits: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = scarce(monkeypatch, *fits, False, False)
    for static, growing in both(llm, 3, 8, 5, 1, steps=60, ends={0: 2, 7: 1, 30: 0}):
        torch.testing.assert_close(static, growing, rtol=1e-4, atol=1e-5)
    assert len(tried) == len(fits) + 2
    assert llm.static_steps.idle == [], "the step that was full is not kept either"


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_where_a_step_cannot_be_recorded_it_is_called_and_that_is_told(
    error: type[RuntimeError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error("operation not permitted when stream is capturing\nCUDA kernel errors might ...")

    monkeypatch.setattr(cuda_graphs, "recorded", fail)
    if error is RuntimeError:
        with pytest.warns(
            UserWarning, match=r"CUDA graphs failed \(.* is capturing\); going on without them: same sound, slower"
        ):
            assert cuda_graphs.captured(fail, torch.device("cuda")) is None
    else:
        with pytest.raises(error):
            cuda_graphs.captured(fail, torch.device("cuda"))


# ---- when ------------------------------------------------------------------------------------------------------------


def test_a_cpu_keeps_the_cache_that_grows_and_so_does_autocast(llm: TransformerLM) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert type(llm.decoding(prefixes(3))) is Decoding
    assert type(llm.decoding(prefixes(3))) is StaticDecoding
    llm.static_steps = None
    llm.prepare_inference("full")
    assert type(llm.decoding(prefixes(3))) is Decoding


@pytest.mark.parametrize("prepared", [False, True])
def test_steps_made_for_autocast_agree_with_a_cache_that_grows_in_it(llm: TransformerLM, prepared: bool) -> None:
    if not prepared:
        llm = make_llm()
    llm.static_steps = StaticSteps(PLENTY, under_autocast=True)
    with torch.autocast("cpu", torch.bfloat16):
        for static, growing in both(llm, 3, 8, 5, steps=40, ends={4: 1}):
            torch.testing.assert_close(static, growing, rtol=0.05, atol=0.05)


def test_autocast_leaves_nothing_behind_that_other_steps_trip_over(llm: TransformerLM) -> None:
    """Projected positions outlive an utterance, in the precision in which they were first needed."""
    plain, made_for_it = llm.static_steps, StaticSteps(PLENTY, under_autocast=True)
    for steps, tokens in ((made_for_it, 60), (plain, 20), (made_for_it, 130)):
        llm.static_steps = steps
        with torch.autocast("cpu", torch.bfloat16, enabled=steps is made_for_it):
            pairs = both(llm, 4, 6, steps=tokens, ends={})
        for static, growing in pairs:
            torch.testing.assert_close(static, growing, rtol=0.05, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_on_a_gpu_agrees_with_steps_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_decoding, "SMALLEST_CAPACITY", 16)
    model = make_llm().cuda()
    model.prepare_inference("full")
    pairs = both(model, 3, 8, 1, 12, 5, steps=70, ends={0: 4, 9: 1, 40: 0, 66: 2})
    pairs += both(model, 2, 11, 7, 1, steps=40, ends={5: 0})  # steps recorded above, with other numbers in them
    recorded = [step.graph for step in model.static_steps.idle]
    assert len(recorded) == 4 and all(isinstance(graph, torch.cuda.CUDAGraph) for graph in recorded)
    for graph, eager in pairs:
        torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-4)
    graph, eager = speak_both_ways(model, n_text=6, min_token_text_ratio=8)
    assert graph == eager
