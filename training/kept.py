"""Adapters of single epochs, kept to be merged later: which ones stay, their files, and the list of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoint import PARTS, kept_path, load_checkpoint
from common.files import dispensable, save_torch
from config import UserError
from training.decisions import last_trained
from training.run_files import header
from training.selection import mean
from training.state import Run
from voice.evaluation import BY_NAME, CAMPPLUS

SCORES = (CAMPPLUS, "clarity")  # of an evaluation, beside the losses
TITLES = {f"{part}_{kind}": f"{part} {kind.replace('_', ' ')}" for part in PARTS for kind in ("train", "held_out")} | {
    CAMPPLUS: "similarity",
    "clarity": "intelligibility score",
}
Row = dict[str, float]  # losses and scores of one epoch, by name


# ---- which epochs stay -----------------------------------------------------------------------------------------------


def spread(losses: Mapping[int, Sequence[float]], stay: Sequence[int], most: int) -> list[int]:
    """At most `most` of the epochs, spread over their losses: where it leaves the smallest gap, one goes after another.

    losses: by epoch; where the first loss is the same, the next one tells epochs apart. stay: epochs that go last, the
    most important one first."""
    left = sorted(losses, key=lambda epoch: (*losses[epoch], epoch))
    while len(left) > most:
        gaps = {
            epoch: [abs(above - below) for below, above in zip(losses[lower], losses[higher], strict=True)]
            for lower, epoch, higher in zip(left, left[1:], left[2:], strict=False)
            if epoch not in stay
        }
        goes_last = {epoch: place for place, epoch in enumerate([*left, *reversed(stay)])}
        left.remove(min(gaps, key=gaps.get) if gaps else min(left, key=goes_last.get))
    return sorted(left)


def keep_epoch(run: Run) -> None:
    """Keep the adapters of this epoch, and settle in `run.kept` which of the earlier ones stay.

    The others are deleted by `remove_thinned`, once `_last.ckpt` no longer names them."""
    always = kept_always(run, run.epoch)
    if not (always or run.config.keep_epochs) or not all(map(math.isfinite, run.history[-1].values())):
        return
    with dispensable("training goes on without it"):
        save_kept(run)
        if not always:
            run.kept = thinned(run)


def kept_always(run: Run, epoch: int) -> bool:
    """Whether the user asked for this epoch by `keep_every_epochs`."""
    return bool(run.config.keep_every_epochs) and epoch % run.config.keep_every_epochs == 0


def thinned(run: Run) -> list[int]:
    """`run.kept` with this epoch, and without those that are too many. The newest, the chosen and the first stay."""
    rows = figures(run)
    epochs = [*(epoch for epoch in run.kept if path_of(run, epoch).is_file()), run.epoch]
    chosen = [part.choice.epoch for part in run.parts.values() if part.choice.epoch in epochs]
    losses = {
        epoch: [rows[epoch].get(f"{part.name}_train", part.base_loss) for part in run.parts.values()]
        for epoch in epochs
    }
    return spread(losses, [run.epoch, *chosen, min(epochs)], run.config.keep_epochs)


# ---- files -----------------------------------------------------------------------------------------------------------


def path_of(run: Run, epoch: int | None) -> Path:
    """Where this run keeps the adapters of an epoch; None makes a pattern."""
    return kept_path(run.output_dir, run.config.training_mode, epoch)


def save_kept(run: Run) -> None:
    """The adapters of this epoch with its losses and scores; nothing goes on from them."""
    epochs = {name: last_trained(run, part)[0] for name, part in run.parts.items()}
    kept = {"row": figures(run)[run.epoch], "kept_always": kept_always(run, run.epoch)}
    save_torch(
        {**header(run), "adapters": run.current_adapters(), "best_epochs": epochs, **kept}, path_of(run, run.epoch)
    )


def remove_thinned(run: Run) -> None:
    """Delete what this run kept of epochs that it has passed and that are no longer in `run.kept`.

    Also what a run that was killed left. Files that were to stay, or of which this is not known, stay."""
    for path in run.output_dir.glob(path_of(run, None).name) if run.config.keep_epochs else ():
        name = path.stem.rpartition("epoch")[2]
        epoch = int(name) if name.isdecimal() else 0
        if not 0 < epoch <= run.epoch or epoch in run.kept or kept_always(run, epoch):
            continue
        with suppress(UserError, OSError):  # a file that is damaged or in use is tried again after the next epoch
            data = load_checkpoint(path)
            if data["run_id"] == run.identity["run_id"] and data.get("kept_always") is False:
                path.unlink()


def read_kept(folder: Path, last: Mapping[str, Any] | None = None) -> dict[Path, dict[str, Any]]:
    """Kept epochs of a run in `folder`, the earliest first, each with its `row`.

    last: the run's `_last.ckpt`, or another checkpoint of it; None: the run that kept an epoch last. A file that cannot
    be read is warned of and left out."""
    found = {}
    for path in sorted(folder.glob(kept_path(folder, "*", None).name), key=lambda path: path.stat().st_mtime):
        with dispensable("it is left out"):
            found[path] = load_checkpoint(path)
    if last is None and found:
        last = [*found.values()][-1]
    own = {path: data for path, data in found.items() if data["run_id"] == last["run_id"]}
    noted = rows_of(last.get("training", {}).get("history", ())) if own else {}
    return {
        path: {"row": noted.get(data["epoch"], {}), **data}  # earlier versions wrote none
        for path, data in sorted(own.items(), key=lambda item: item[1]["epoch"])
    }


# ---- their list ------------------------------------------------------------------------------------------------------


def figures(run: Run) -> dict[int, Row]:
    """Losses and scores by epoch."""
    heard = {one.epoch: one.figures for one in run.hearings}
    return {
        epoch: row | {name: mean(heard[epoch], name) for name in SCORES if epoch in heard}
        for epoch, row in rows_of(run.history).items()
    }


def rows_of(history: Iterable[Row]) -> dict[int, Row]:
    """Losses by epoch; a component that has stopped keeps those with which it did."""
    rows: dict[int, Row] = {}
    latest: Row = {}
    for row in history:
        latest = latest | row
        rows[int(row["epoch"])] = latest
    return rows


def merged_epochs(run: Run) -> dict[str, int]:
    """{component: epoch} that is merged as things stand; 0 is the base."""
    return {name: part.choice.epoch if run.chooses else last_trained(run, part)[0] for name, part in run.parts.items()}


def metrics(run: Run) -> list[Row]:
    """Rows of metrics.csv: the history, with the scores of an evaluation, and 1 for what is kept and what is merged."""
    found, merged = figures(run), merged_epochs(run)
    rows = []
    for row in run.history:
        epoch = int(row["epoch"])
        scores = {name: found[epoch][name] for name in SCORES if name in found[epoch]}
        chosen = {f"{name}_merged": int(epoch == merged.get(name)) for name in PARTS}
        rows.append({**row, **scores, "kept": int(path_of(run, epoch).is_file()), **chosen})
    return rows


COLUMNS = ("epoch", "step", *TITLES, "kept", *(f"{name}_merged" for name in PARTS))  # of metrics.csv


def kept_rows(run: Run) -> dict[int, Row]:
    """Losses and scores of the kept epochs."""
    return {epoch: row for epoch, row in figures(run).items() if path_of(run, epoch).is_file()}


def table(run: Run, rows: Mapping[int, Row]) -> list[str]:
    """Kept epochs as aligned lines, with a mark at those that are merged."""
    names = [name for name in TITLES if any(name in row for row in rows.values())]
    lines = ["  ".join(["epoch", *(TITLES[name] for name in names)])]
    for epoch, row in rows.items():
        cells = [number(row.get(name, math.nan), name).rjust(len(TITLES[name])) for name in names]
        merged = ", ".join(name for name, which in merged_epochs(run).items() if which == epoch)
        lines.append("  ".join([f"{epoch:5d}", *cells, *([f"merged: {merged}"] if merged else [])]))
    return lines


def number(value: float, name: str) -> str:
    """A loss or a score as it is printed."""
    digits = BY_NAME[name].digits if name in BY_NAME else 3
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def in_words(kept: Iterable[Mapping[str, Any]]) -> str:
    """Epochs of kept checkpoints with their training losses, in one line."""
    words = []
    for data in kept:
        losses = [f"{part} {row_of(data)[f'{part}_train']:.3f}" for part in PARTS if f"{part}_train" in row_of(data)]
        words.append(f"{data['epoch']}" + (f" ({', '.join(losses)})" if losses else ""))
    return ", ".join(words)


def row_of(kept: Mapping[str, Any]) -> Row:
    """Losses and scores of a kept epoch that are numbers."""
    return {name: value for name, value in kept["row"].items() if math.isfinite(value)}
