"""The evaluation as one self-contained HTML page: table, verdicts, and every sentence with players and mels."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import soundfile

from common.mel_picture import mel_picture
from common.webpage import document
from voice.evaluation import BY_NAME, FIGURES, Comparison, Sentence, figures_of, shown, summary
from voice.metrics import Interval

REAL, REAL_SHOWN = "real clips, held out", 3
HELP = (
    "The small numbers bound a figure with 95 % confidence, as far as so few sentences can tell. One system is better "
    "or worse than another only where the lists below say so.",
    "Clarity is how much likelier the text makes the sound than other texts do, in the eyes of the untouched base "
    "model; more is clearer. It can be compared within one model and one list of sentences only.",
    "Similarity is the cosine between the sound's speaker vector and the mean of the speaker's clips. The clips "
    "themselves do not reach 1 either: theirs is the figure to hold it against.",
)
STYLE = """
td, th { white-space: nowrap }
.takes { display: flex; flex-wrap: wrap; gap: 1.5rem }
.take { flex: 1 1 20rem; max-width: 30rem }
.take img, .take audio { width: 100% }
"""


def page(
    title: str,
    spoken: Mapping[str, Sequence[Sentence]],
    real: Sequence[Sentence],
    comparisons: Mapping[str, Sequence[Comparison]],
    notes: str,
) -> str:
    """The page. spoken: the same sentences by each system. real: clips of the speaker, may be empty.

    comparisons: by a heading such as "tuned against base". notes: lines of plain text below the table.
    """
    body = [table(spoken | ({REAL: real} if real else {})), *map(small, HELP)]
    for heading, found in comparisons.items():
        body.append(f"<h2>{html.escape(heading)}</h2><ul>{''.join(map(verdict, found))}</ul>")
    body += map(small, notes.splitlines())
    body.append("<h2>Listen</h2>")
    for row in zip(*spoken.values(), strict=True):
        takes = "".join(take(name, sentence) for name, sentence in zip(spoken, row, strict=True))
        body.append(f'<h3>{html.escape(row[0].text)}</h3><div class="takes">{takes}</div>')
    if real:
        takes = "".join(take(sentence.text, sentence) for sentence in real[:REAL_SHOWN])
        body.append(f'<h2>{REAL}</h2><div class="takes">{takes}</div>')
    return document(title, "".join(body), style=STYLE)


def small(line: str) -> str:
    """A paragraph of small print."""
    return f"<p><small>{html.escape(line)}</small></p>"


def table(systems: Mapping[str, Sequence[Sentence]]) -> str:
    """Figures by system, each with its interval."""
    found = {name: summary(figures_of(sentences)) for name, sentences in systems.items()}
    lines = ["<tr><th></th>" + "".join(f"<th>{html.escape(name)}</th>" for name in systems) + "</tr>"]
    for figure in FIGURES:
        if any(figure.name in figures for figures in found.values()):
            cells = "".join(f"<td>{cell(figures.get(figure.name), figure.digits)}</td>" for figures in found.values())
            lines.append(f"<tr><td>{html.escape(figure.title)}</td>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def cell(interval: Interval | None, digits: int) -> str:
    """A figure and its range."""
    if interval is None:
        return "-"
    value, low, high = shown(interval, digits)
    return f"{value} <small>{low} … {high}</small>"


def verdict(comparison: Comparison) -> str:
    """One line of a comparison."""
    word = comparison.verdict if comparison.gain.excludes_zero else ""
    title = html.escape(BY_NAME[comparison.name].title)
    return f'<li>{title}: <span class="{word}">{html.escape(comparison.verdict)}</span></li>'


def take(label: str, sentence: Sentence) -> str:
    """One sentence by one system: player, mel, what was heard and what is wrong."""
    mel = mel_picture(sentence.wave, sentence.sample_rate)
    sound, picture = (base64.b64encode(file).decode() for file in (mp3(sentence), mel))
    lines = [f"<b>{html.escape(label)}</b>", f'<audio controls src="data:audio/mpeg;base64,{sound}"></audio>']
    lines.append(f'<img alt="mel spectrogram" src="data:image/png;base64,{picture}">')
    if sentence.heard is not None:
        lines.append(f"<div>heard: {html.escape(sentence.heard) or '(nothing)'}</div>")
    lines += [f'<div class="warning">{html.escape(complaint)}</div>' for complaint in sentence.complaints]
    return f'<div class="take">{"".join(lines)}</div>'


def mp3(sentence: Sentence) -> bytes:
    """The sound, small enough for a page that one sends to a friend."""
    file = io.BytesIO()
    soundfile.write(file, sentence.wave[0].clamp(-1, 1).numpy(), sentence.sample_rate, format="MP3")
    return file.getvalue()
