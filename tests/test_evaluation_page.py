"""evaluation.html: the verdict in words, a chart, and players for every sentence."""

import math
import re

import numpy as np
import pytest
import torch
from html_page import check_page, without_sounds

from voice.evaluation import Comparison, Sentence, compare, figures_of, summary
from voice.evaluation_page import NO_DIFFERENCE, REAL, REAL_SHOWN, Verdict, chart, facts, page, verdict, verdicts
from voice.metrics import Interval

RATE = 16000
TEXTS = [*(f"Sentence number {i}." for i in range(8)), "<script>alert(1)</script>", "早上好，大家。"]
TARGETS = {"f0_hz": 200.0, "duration_ratio": 1.0}


def system(
    similarity: float, clarity: float, hz: float = 200.0, failed: int = 0, texts: list[str] = TEXTS
) -> list[Sentence]:
    """Sentences that scatter a little around these figures; the first ones are degenerate."""
    rng = np.random.default_rng(0)
    found = []
    for number, text in enumerate(texts):
        noise = float(rng.normal())
        figures = {
            "similarity": (similarity + 0.02 * noise, 1), "clarity": (3 * (clarity + noise), 3),
            "f0_hz": (hz + noise, 1), "failed": (float(number < failed), 1),
        }  # fmt: skip
        complaints = ("did not end by itself",) if number < failed else ()
        wave = torch.from_numpy(rng.uniform(-0.3, 0.3, (1, RATE)).astype(np.float32))
        found.append(Sentence(text, wave, RATE, figures, "what was <heard>", complaints))
    return found


BASE, TUNED = system(0.5, 58, hz=150, failed=1), system(0.7, 58.1)
CLIPS = system(0.8, 50, texts=[f"Real {i}" for i in range(5)])


def compared(spoken: dict[str, list[Sentence]]) -> dict[str, list[Comparison]]:
    first, *others = spoken
    return {name: compare(figures_of(spoken[name]), figures_of(spoken[first]), TARGETS) for name in others}


def html(spoken: dict[str, list[Sentence]], real: list[Sentence] = CLIPS) -> str:
    return page("Evaluation", spoken, real, compared(spoken), TARGETS, "base: llm.pt\nvoice: <slt>")


# ---- the verdict -----------------------------------------------------------------------------------------------------


def told(**verdicts: str) -> Verdict:
    gain = {"better": Interval(1, 0.5, 1.5), "worse": Interval(-1, -1.5, -0.5), "same": Interval(0, -1, 1)}
    return verdict(
        "the tuned voice", "the base model", 10, [Comparison(name, gain[word]) for name, word in verdicts.items()]
    )


@pytest.mark.parametrize(
    ("found", "tone"),
    [
        ({"similarity": "better", "clarity": "same"}, "good"),
        ({"similarity": "better", "clarity": "worse"}, "fair"),
        ({"similarity": "better", "wer": "better", "clarity": "worse"}, "fair"),
        ({"similarity": "same", "clarity": "same", "failed": "same"}, "fair"),
        ({"similarity": "same", "failed": "worse"}, "bad"),
        ({"clarity": "better"}, "good"),
        ({"repeated": "worse", "silence_sec": "worse"}, "fair"),
        ({}, "fair"),
    ],
)
def test_a_voice_is_better_where_it_is_so_in_something_and_worse_in_nothing(found, tone):
    assert told(**found).tone == tone


def test_the_verdict_names_what_is_better_and_what_is_worse():
    words = told(similarity="better", clarity="worse", failed="same").words
    assert words.index("more like the speaker") < words.index("but") < words.index("harder to understand")


def test_the_verdict_stands_first_and_in_words():
    found = check_page(html({"base": BASE, "tuned": TUNED}))
    assert found.within("h1") == [
        one.words for one in verdicts({"base": BASE}, compared({"base": BASE, "tuned": TUNED}))
    ]
    assert [tag for tag, _ in found.tags if tag in ("h1", "h2", "table")][0] == "h1"


def test_every_system_has_a_verdict_against_the_first():
    spoken = {"base": BASE, "tuned": TUNED, "a/last": system(0.3, 40, failed=8)}
    assert [one.tone for one in verdicts(spoken, compared(spoken))] == ["good", "bad"]
    assert len(check_page(html(spoken)).within("h1")) == 2


def test_one_system_alone_gets_a_page_without_comparison():
    assert len(check_page(html({"base": BASE}, []), scripts=1).within("h1")) == 1


def test_the_facts_say_how_far_the_voice_has_come():
    spoken = {"base": BASE, "tuned": TUNED}
    lines = facts({name: summary(figures_of(ones)) for name, ones in (spoken | {REAL: CLIPS}).items()}, spoken)
    assert re.search(r"\b6\d%", lines[0]) and "base: 1, tuned: none" in lines[1]
    assert len(facts({name: summary(figures_of(ones)) for name, ones in spoken.items()}, spoken)) == 1


# ---- the chart -------------------------------------------------------------------------------------------------------


def rows(spoken: dict[str, list[Sentence]], real: list[Sentence] = CLIPS) -> dict[str, object]:
    everything = spoken | ({REAL: real} if real else {})
    found = {name: summary(figures_of(sentences)) for name, sentences in everything.items()}
    return {row.title: row for row in chart(found, compared(spoken), TARGETS)}


def test_a_row_of_the_chart_has_a_dot_for_every_system_within_its_interval():
    for row in rows({"base": BASE, "tuned": TUNED}).values():
        assert all(0 <= dot.start <= dot.at <= dot.end <= 100 for dot in row.dots)
        assert float(row.left) <= min(float(dot.low) for dot in row.dots) + 0.01


def test_what_is_larger_stands_further_right_and_has_its_verdict():
    row = rows({"base": BASE, "tuned": TUNED})["similarity to the speaker"]
    assert [dot.name for dot in sorted(row.dots, key=lambda dot: dot.at)] == ["base", "tuned", REAL]
    assert [dot.verdict for dot in row.dots] == ["", "better", ""] and row.better == "more"


def test_the_speakers_own_value_is_marked_where_near_is_better():
    found = rows({"base": BASE, "tuned": TUNED})
    tuned = next(dot for dot in found["pitch"].dots if dot.name == "tuned")
    assert found["pitch"].target == pytest.approx(tuned.at, abs=3)
    assert found["similarity to the speaker"].target is None


def test_a_difference_that_may_be_chance_is_called_none():
    row = rows({"base": BASE, "tuned": BASE})["intelligibility score"]
    assert row.dots[1].verdict == NO_DIFFERENCE


def test_what_could_not_be_measured_is_not_drawn():
    nothing = [Sentence(text, torch.zeros(1, RATE), RATE, {"clarity": (math.nan, 1)}) for text in TEXTS]
    assert not rows({"base": nothing}, [])["intelligibility score"].dots
    lonely = rows({"base": BASE[:1]}, [])["intelligibility score"].dots[0]
    assert (lonely.low, lonely.high) == ("?", "?") and (lonely.start, lonely.end) == (0, 100)
    check_page(html({"base": nothing}, []))


# ---- players ---------------------------------------------------------------------------------------------------------


def test_every_sentence_has_a_player_for_each_system_and_some_real_clips_have_one():
    found = check_page(html({"base": BASE, "tuned": TUNED}))
    names = found.attributes("div", "data-name")
    assert (names.count("base"), names.count("tuned"), names.count(REAL)) == (10, 10, REAL_SHOWN)
    sounds = found.attributes("audio", "src")
    assert len(sounds) == len(names) and all(sound.startswith("data:audio/mpeg;base64,") for sound in sounds)


def test_a_real_clip_of_the_same_text_stands_beside_the_sentence():
    real = system(0.8, 50, texts=[TEXTS[3], "Real"])
    text = html({"base": BASE, "tuned": TUNED}, real)
    sentence = re.search(rf"<h3>{TEXTS[3]}</h3>.*?</section>", text, re.DOTALL)[0]
    assert re.findall('data-name="(.*?)"', sentence) == ["base", "tuned", REAL]
    assert check_page(text).attributes("div", "data-name").count(REAL) == 2


def test_names_and_texts_cannot_break_the_page():
    text = html({"base": BASE, "<b onclick=x>": TUNED})
    found = check_page(text)
    assert not [tag for tag, _ in found.tags if tag in ("slt", "heard")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "voice: &lt;slt&gt;" in text


def test_the_page_without_its_sounds_is_small():
    assert without_sounds(html({"base": BASE, "tuned": TUNED})) < 60_000
