"""data/report.html: every clip, worst first, with a player that finds the recording."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from clips.audio_doctor import Finding
from clips.report_page import report_page


def finding(clip: str, *flags: str, **figures: object) -> Finding:
    one = Finding(clip, f"{clip}.wav", {"duration_sec": 3.0, **figures})
    for name in flags:
        one.flag(name)
    return one


FINDINGS = [
    finding("clean", text="All is <well> & good.", snr_db=50.25),
    finding("two", "quiet", "cut_off", level_db=-40.0),
    finding("gone", "too_short"),
    finding("录 音/one", "cut_off", text="早上好"),
]


class Balanced(HTMLParser):
    """Fails where tags do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(tmp_path: Path) -> str:
    return report_page(FINDINGS, ["a note <here>"], tmp_path / "raw", tmp_path / "data")


def test_the_gravest_clips_stand_first_and_clean_ones_last(tmp_path):
    clips = re.findall(r"<tr><td>(.*?)<br>", page(tmp_path))
    assert clips == ["gone", "two", "录 音/one", "clean"]


def test_players_find_the_recordings_from_where_the_page_lies(tmp_path):
    for address in re.findall(r'src="(.*?)"', page(tmp_path)):
        path = (tmp_path / "data" / unquote(address)).resolve()
        assert path.parent in (tmp_path / "raw", tmp_path / "raw" / "录 音") and path.suffix == ".wav"


def test_texts_cannot_break_the_page(tmp_path):
    text = page(tmp_path)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert "All is &lt;well&gt; &amp; good." in text and "a note &lt;here&gt;" in text
    assert not re.search(r'(src|href)="https?:', text)


def test_only_measured_figures_have_a_column_and_sort_by_their_full_value(tmp_path):
    text = page(tmp_path)
    assert "speech above pauses" in text and "cosine to the others" not in text
    assert '<td data-value="50.25">50</td>' in text
