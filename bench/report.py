"""The table and the picture of bench/benchmarks.md from the result of bench_cpu.py.

python bench/report.py output/bench.json                       # prints the table, draws bench/benchmarks.png
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # a bench script stands in its own folder

from common.files import atomic_path  # noqa: E402

HEADINGS = (
    "",
    "measured",
    "floor",
    "ratio",
    "existing, there",
    "existing, here",
    "times better",
    "target, here",
    "met",
)
BARS = {"ours": "value", "floor": "floor", "existing tools, scaled": "existing_here", "target, scaled": "target_here"}
BAR = 0.2  # of the room of a row
Row = Mapping[str, Any]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file of bench_cpu.py")
    parser.add_argument(
        "--picture", type=Path, default=PROJECT / "bench" / "benchmarks.png", help="[bench/benchmarks.png]"
    )
    return parser.parse_args(argv)


def figure(value: float | None) -> str:
    """Three digits that mean something; "-" where there is no figure."""
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def line(row: Row) -> str:
    """One row in Markdown, the note behind the figure."""
    note = f" ({row['note']})" if row["note"] else ""
    met = {True: "yes", False: "no", None: "-"}[row["meets"]]
    cells = [row["what"], f"{figure(row['value'])} {row['unit']}{note}"]
    keys = ("floor", "ratio", "existing", "existing_here", "times_better", "target_here")
    return "| " + " | ".join([*cells, *(figure(row[key]) for key in keys), met]) + " |"


def table(rows: Sequence[Row]) -> str:
    """All rows in Markdown."""
    return "\n".join(["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|", *map(line, rows)])


def heading(result: Mapping[str, Any]) -> str:
    """Date, machine, versions and the machine's rates in a sentence or two."""
    place = result["machine"]
    before, after = (result["rates"][moment] for moment in ("before", "after"))
    rates = ", ".join(f"{name} {(before[name] + after[name]) / 2e9:.1f}" for name in before)
    return (
        f"{place['date']}, commit {place['commit']}, {place['device']}, {place['threads']} of {place['cores']} cores, "
        f"{place['memory_gib']} GiB, Python {place['python']}, torch {place['torch']}. "
        f"Rates of the last run, in 1e9 /s: {rates}."
    )


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Bars on a logarithmic axis: the shorter the better."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawing, axis = plt.subplots(figsize=(11, 1 + 0.5 * len(rows)), layout="constrained")
    for number, (label, key) in enumerate(BARS.items()):
        places = [place + (number - 1.5) * BAR for place, row in enumerate(rows) if row[key]]
        axis.barh(places, [row[key] for row in rows if row[key]], BAR, label=label)
    axis.set_yticks(range(len(rows)), [f"{row['what']} [{row['unit']}]" for row in rows])
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="less is better")
    axis.grid(axis="x", which="both", alpha=0.3)
    axis.legend()
    with atomic_path(picture) as part:
        drawing.savefig(part, format="png", dpi=90)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    result = json.loads(args.result.read_text(encoding="utf-8"))
    print(f"{heading(result)}\n\n{table(result['rows'])}")
    draw(result["rows"], args.picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
