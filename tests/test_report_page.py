"""data/report.html: what to mend first, and every clip with its waveform, its text as read, and a player."""

import re
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from html_page import check_page

from clips.audio_doctor import FLAGS, Finding
from clips.measuring import measure
from clips.report import enough, report_entry
from clips.report_page import CARDS, FIRST, card, report_page, troubles
from clips.text_changes import SHOWN_CHARACTERS, changes
from clips.waveform import HEIGHT, POINTS, heights, marks, outline, runs, waveform

RATE = 16000


def finding(clip: str, *flags: str, **figures: object) -> Finding:
    one = Finding(clip, f"{clip}.wav", {"duration_sec": 3.0, **figures})
    for name in flags:
        one.flag(name)
    return one


FINDINGS = [
    finding("clean", text="All is <well> & good.", written="All is <well> & good", snr_db=50.25),
    finding("two", "quiet", "cut_off", level_db=-40.0),
    finding("gone", "too_short"),
    finding("<script>alert(1)</script>", "too_short", text="<img src=x onerror=alert(1)>"),
    finding("录 音/one", "cut_off", text="早上好"),
]


def page(tmp_path: Path, findings: list[Finding] = FINDINGS) -> str:
    return report_page(findings, ["a note <here>"], tmp_path / "raw", tmp_path / "data")


def test_the_gravest_clips_stand_first_and_clean_ones_last(tmp_path):
    clips = check_page(page(tmp_path)).within("h3")
    assert clips == ["<script>alert(1)</script>", "gone", "two", "录 音/one", "clean"]


def test_players_find_the_recordings_from_where_the_page_lies(tmp_path):
    for address in check_page(page(tmp_path)).attributes("audio", "src"):
        path = (tmp_path / "data" / unquote(address)).resolve()
        assert path.is_relative_to(tmp_path / "raw") and path.suffix == ".wav"


def test_names_and_texts_cannot_break_the_page(tmp_path):
    text = page(tmp_path)
    found = check_page(text)
    assert "img" not in [tag for tag, _ in found.tags] and "here" not in [tag for tag, _ in found.tags]
    assert "All is &lt;well&gt; &amp; good." in text and "a note &lt;here&gt;" in text


def test_only_measured_figures_are_shown(tmp_path):
    text = page(tmp_path)
    assert "speech above pauses 50 dB" in text and "speaking rate" not in " ".join(check_page(text).within("small"))


def test_the_summary_counts_what_is_used(tmp_path):
    tiles = check_page(page(tmp_path)).within("b")[:4]
    assert tiles == ["0.1", "3", "2", "2"]  # minutes, used, with a warning, dropped


@pytest.mark.parametrize(
    ("clips", "seconds", "word"),
    [(0, 3.0, "bad"), (9, 9.0, "bad"), (30, 0.9, "bad"), (12, 3.0, "fair"), (20, 3.0, "good")],
)
def test_one_sentence_says_whether_the_data_is_enough(clips, seconds, word, tmp_path):
    findings = [finding(f"{i}", duration_sec=seconds) for i in range(clips)] + [finding("gone", "too_short")]
    assert enough(findings)[0] == word
    assert enough(findings)[1] in check_page(page(tmp_path, findings)).within("h1")
    lost = [finding(f"lost {i}", "too_short") for i in range(clips + 1)]
    assert enough([*findings, *lost])[0] != "good", "most were dropped"


def test_what_most_clips_have_is_to_be_mended_first(tmp_path):
    findings = [finding("bad", "too_short"), *(finding(f"{i}", "quiet", "cut_off", level_db=-40.0) for i in range(3))]
    findings += [finding("echo", "echo", fall_db=9.0)]
    assert [(one.flag, one.drops, len(one.clips)) for one in troubles(findings)] == [
        ("too_short", True, 1), ("cut_off", False, 3), ("echo", False, 1), ("quiet", False, 3),
    ]  # fmt: skip
    order = re.search("<ol>(.*?)</ol>", page(tmp_path, findings), re.DOTALL)[1]
    assert re.findall(r"<li><b[^>]*>(.*?)</b>", order) == ["cut off", "quiet", "too short"]
    assert len(re.findall("<li>", order)) == FIRST


def test_every_flag_that_is_there_can_be_filtered_by(tmp_path):
    found = check_page(page(tmp_path))
    assert [value for value in found.attributes("button", "value") if value] == ["too_short", "cut_off", "quiet"]
    assert "cut_off quiet" in found.attributes("article", "data-f")


def test_every_flag_has_a_line_on_its_clip():
    names = re.findall(r"{(\w+)", " ".join(sentence for _, sentence in FLAGS.values()))
    everything = finding("all", **dict.fromkeys(names, 1.0) | {"text": "long text " * 50})
    for name in FLAGS:
        everything.flag(name)
    reasons = dict(card(everything, "").reasons)
    assert list(reasons) == list(FLAGS) and max(map(len, reasons.values())) < 300


# ---- the text as it is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read", "removed", "added"),
    [
        ("Take 12 apples", "Take twelve apples.", ["12"], ["twelve"]),
        ("我买了12个苹果", "我买了十二个苹果。", ["12"], ["十二"]),
        ("It cost $25.50. Fine.", "It cost twenty five dollars. Fine.", ["$25.50"], ["twenty five dollars"]),
        ("salt & pepper", "salt and pepper", ["&"], ["and"]),
        ("a ≈ b", "a b", ["≈"], []),
        ("“Well”, he said", '"Well", he said.', [], []),
        ("same", "same", [], []),
        ("", "", [], []),
    ],
)
def test_changed_words_are_marked_and_marks_that_are_not_heard_are_not(written, read, removed, added):
    before, after = changes(written, read)
    assert [piece.text for piece in before if piece.changed] == removed
    assert [piece.text for piece in after if piece.changed] == added
    assert "".join(piece.text for piece in before) == written and "".join(piece.text for piece in after) == read


def test_a_whole_script_for_one_clip_is_shown_by_its_start():
    before, after = changes("word 1 " * 20000, "word one " * 20000)
    assert all(sum(len(piece.text) for piece in side) <= SHOWN_CHARACTERS + 1 for side in (before, after))


def test_a_clip_shows_its_text_as_read_and_what_was_written(tmp_path):
    one = finding("one", text="Take twelve apples.", written="Take 12 apples")
    found = check_page(page(tmp_path, [one]))
    assert (found.within("ins"), found.within("del")) == (["twelve"], ["12"])
    assert report_entry(one)["written"] == "Take 12 apples"
    assert not check_page(page(tmp_path, [finding("two", text="Same.", written="Same")])).within("ins")


# ---- waveforms -------------------------------------------------------------------------------------------------------


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(np.arange(int(seconds * RATE)) / 5)).astype(np.float32)[:, None]


def test_a_waveform_has_the_height_of_the_sound_where_it_is():
    wave = waveform(np.concatenate([0 * tone(1), tone(1, 0.25), tone(2, 1.0)]), RATE)
    quarter = POINTS // 4
    assert wave.seconds == 4 and len(wave.peaks) == POINTS
    assert set(wave.peaks[:quarter]) == {0} and set(wave.peaks[-quarter:]) == {HEIGHT}
    assert set(wave.peaks[quarter : 2 * quarter]) == {HEIGHT // 2}, "the square root of a quarter"


@pytest.mark.parametrize("samples", [1, POINTS - 1, POINTS + 1, 31 * RATE])
def test_a_waveform_of_any_length_has_as_many_points(samples):
    wave = waveform(np.full((samples, 2), 0.5, dtype=np.float32), RATE)
    assert len(wave.peaks) == POINTS and min(wave.peaks) > 0
    assert heights(np.zeros((0, 1))) == [0] * POINTS, "a system that said nothing"


def test_trouble_is_marked_where_it_is():
    clipped = np.clip(tone(1, 4.0), -0.9, 0.9)
    samples = np.concatenate([0 * tone(1), tone(2), clipped])
    wave, figures = waveform(samples, RATE), asdict(measure(samples, RATE))
    found = {mark.kind: mark for mark in marks(wave, ["edge_silence", "clipping", "cut_off"], figures)}
    point = POINTS / 4
    assert (found["silence"].start, found["silence"].width) == (0, pytest.approx(point, abs=0.5))
    assert (found["clipping"].start, found["clipping"].width) == (
        pytest.approx(3 * point, abs=1),
        pytest.approx(point, abs=1),
    )
    assert found["cut"].start == POINTS - 1, "it starts with silence and ends inside the tone"
    assert marks(wave, [], figures) == [], "only what the clip is flagged for"


def test_consecutive_points_are_one_mark():
    assert runs([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)] and runs([]) == []


def test_an_outline_goes_through_every_point():
    steps = re.fullmatch(r"M0 0V-(\d+)l(.*)h1V0z", outline([3, 5, 5, 0]))
    assert steps.groups() == ("3", "1-2 1 0 1 5")


# ---- size ------------------------------------------------------------------------------------------------------------


def many(count: int) -> list[Finding]:
    rng = np.random.default_rng(0)
    noise = (
        rng.uniform(-1, 1, (8, 3 * RATE, 1)).astype(np.float32) * np.abs(np.sin(np.arange(3 * RATE) / 3000))[:, None]
    )
    waves, figures = [waveform(one, RATE) for one in noise], asdict(measure(noise[0], RATE))
    more = {"text_help": 50.0, "chars_per_sec": 14.0, "speaker_cosine": 0.75}
    text = "Sentence number {} has as many words as people say in five seconds."
    found = [
        finding(f"{i:04}", text=text.format("one"), written=text.format(1), waveform=waves[i % 8], **figures | more)
        for i in range(count)
    ]
    for one in found[::4]:
        one.flag("cut_off")
        one.flag("noisy")
    return found


def test_forty_clips_fit_in_sixty_kilobytes(tmp_path):
    assert len(page(tmp_path, many(40)).encode()) < 60_000


def test_of_very_many_clips_the_worst_have_players_and_all_their_texts(tmp_path):
    findings = many(2000)
    found = check_page(text := page(tmp_path, findings))
    assert len(found.attributes("audio", "src")) == len(found.within("h3")) == CARDS
    assert all("cut_off" in (flags or "") for flags in found.attributes("article", "data-f"))
    assert len(found.within("ins")) == 2000 and len(text.encode()) < 700_000
