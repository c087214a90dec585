"""bench/ablation.md from the results of bench/ablation.py: tables between its marks, and one picture."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import atomic_path, read_lines, write_text
from config import UserError

BEGIN, END = "<!-- tables: written by bench/ablation.py --report -->", "<!-- end of tables -->"
COLUMNS = (  # figure of evaluation.json, heading, digits
    ("wer", "WER", 3),
    ("clarity", "clarity", 1),
    ("similarity_ge2e", "similarity (GE2E)", 3),
    ("similarity", "similarity (campplus)", 3),
    ("duration_ratio", "duration", 2),
    ("run_on", "run on", 2),
    ("f0_spread", "pitch spread", 2),
)
PLOTTED = COLUMNS[:3]
PICTURE, LABEL_WIDTH = "ablation.png", 11
Row = Mapping[str, Any]
RANGE = ("value", "low", "high")  # of a figure


def read_results(work: Path) -> list[Row]:
    """Rows of one voice, from its work folder or from a copy of its results.json; UserError where there are none."""
    path = work if work.suffix == ".json" else work / "results.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; run bench/ablation.py --work {work} first")
    return json.loads(path.read_text(encoding="utf-8"))


def cell(row: Row, figure: str, digits: int) -> str:
    """ "0.21 (0.15-0.28)"; the range only where it says something."""
    interval = row["figures"].get(figure)
    if interval is None:
        return "-"
    value, low, high = ("?" if interval[key] is None else f"{interval[key]:.{digits}f}" for key in RANGE)
    return value if low == high else f"{value} ({low}-{high})"


def reached(interval: dict[str, float | None], end: str) -> float:
    """From the value to an end of its range; 0 where there is none."""
    return 0.0 if interval[end] is None else abs(interval[end] - interval["value"])


def table(rows: Sequence[Row]) -> str:
    """One factor's rows in Markdown."""
    lines = [
        "| " + " | ".join(["", *(heading for _, heading, _ in COLUMNS)]) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for row in rows:
        lines.append(
            "| " + " | ".join([row["label"], *(cell(row, name, digits) for name, _, digits in COLUMNS)]) + " |"
        )
    return "\n".join(lines)


def factors(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by factor, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["factor"], []).append(row)
    return found


def tables(voices: Mapping[str, Sequence[Row]]) -> str:
    """All tables: a heading for each factor, a table for each voice."""
    lines = []
    for factor in dict.fromkeys(row["factor"] for rows in voices.values() for row in rows):
        lines.append(f"### {factor[0].upper()}{factor[1:]}\n")
        for name, rows in voices.items():
            if factor in factors(rows):
                lines.append(f"{name}:\n\n{table(factors(rows)[factor])}\n")
    return "\n".join(lines)


def places(rows: Sequence[Row]) -> list[float] | list[str]:
    """Where rows stand on the axis: at their numbers where all labels begin with one, else at the labels."""
    labels = [row["label"] for row in rows]
    try:
        return [float(label.split()[0]) for label in labels]
    except ValueError:
        return [textwrap.fill(label, LABEL_WIDTH) for label in labels]


def draw(voices: Mapping[str, Sequence[Row]], picture: Path) -> None:
    """WER and similarity over the values of each factor, a line for each voice."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [factor for factor, rows in factors(next(iter(voices.values()))).items() if len(rows) > 1]
    figure, axes = plt.subplots(
        len(names), len(PLOTTED), figsize=(15, 2.8 * len(names)), layout="constrained", squeeze=False
    )
    for line, factor in zip(axes, names, strict=True):
        for axis, (name, heading, _) in zip(line, PLOTTED, strict=True):
            for number, (voice, rows) in enumerate(voices.items()):
                found = [row for row in factors(rows).get(factor, []) if name in row["figures"]]
                values = [row["figures"][name] for row in found]
                middle = [value["value"] for value in values]
                reach = [[reached(value, end) for value in values] for end in RANGE[1:]]
                axis.errorbar(places(found), middle, yerr=reach, fmt="o-", color=f"C{number}", capsize=3, label=voice)
            axis.set(title=factor, ylabel=heading)
            axis.tick_params(axis="x", labelsize=7)
    axes[0, 0].legend()
    with atomic_path(picture) as part:
        figure.savefig(part, format="png", dpi=90)


def write_report(works: Sequence[Path], folder: Path) -> None:
    """Put the tables between the marks of bench/ablation.md and draw the picture beside it."""
    voices = {work.stem: read_results(work) for work in works}
    path = folder / "ablation.md"
    text = "\n".join(read_lines(path))
    if BEGIN not in text or END not in text:
        raise UserError(f"{path}: the marks for the tables are gone; put them back: {BEGIN} and {END}")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    draw(voices, folder / PICTURE)
    write_text(path, f"{before}\n\n{tables(voices)}\n{after.rstrip()}\n")
    print(f"wrote {path} and {folder / PICTURE}")
