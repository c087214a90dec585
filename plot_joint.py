"""One picture of a training run: raw losses, what was heard, and a real clip's mel beside a spoken one's.

python plot_joint.py --real raw_audio/001.wav --spoken output/result.wav
"""

from common.startup import start_script

if __name__ == "__main__":  # before the imports, which take seconds
    start_script()

import argparse
import csv
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoint import PARTS, adapter_epochs, best_beside, checkpoint_config, load_checkpoint, newest_run
from clips.decode import file_warnings
from common.files import atomic_path, read_lines
from common.mel_picture import LOUDEST, QUIETEST, log_mel
from config import UserError
from cosyvoice.utils.audio_files import load_wav, read_audio
from cosyvoice.utils.common import MEL_HOP, SAMPLE_RATE
from llm_flow_model import LOSS_UNITS
from training.selection import Heard, judged_sentences, mean
from training.state import BASE, START, Origin, stop_loss
from utils import DEFAULT_OUTPUT_DIR, command_line, run_main, user_mistakes
from voice.evaluation import CAMPPLUS

METRICS = {"epoch", *(f"{part}_{kind}" for part in PARTS for kind in ("train", "held_out"))}  # columns that are drawn


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(DEFAULT_OUTPUT_DIR),
        help=f"folder of the run [{DEFAULT_OUTPUT_DIR}] | 训练结果所在的文件夹 [{DEFAULT_OUTPUT_DIR}]",
    )
    parser.add_argument(
        "--real", type=Path, help="recording of the speaker, its mel is drawn | 说话人的录音，画出它的 mel"
    )
    parser.add_argument("--spoken", type=Path, help="synthesised sound, likewise | 合成的音频，同上")
    parser.add_argument(
        "--picture",
        type=Path,
        help="picture to write [OUTPUT_DIR/joint_MODE.png] | 图片写到哪里 [OUTPUT_DIR/joint_MODE.png]",
    )
    return parser.parse_args(argv)


def read_metrics(path: Path, run: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv as numbers, empty cells as NaN. run: `_last.ckpt` of the training that writes them.

    UserError where the run has no finished epoch, or naming the line that is not as training wrote it.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the run has no finished epoch; wait for one where it is still going, or go on with "
            f"it, with --data-dir and --model-dir where you gave them: {command_line('train_joint.py', resume=run)}"
        )
    reader, rows = csv.DictReader(read_lines(path)), []
    try:
        missing = METRICS - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"no column {min(missing)}" if reader.fieldnames else "the file is empty")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError("another number of cells")
            rows.append({key: float(value or "nan") for key, value in row.items()})
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: line {reader.line_num} is not as training wrote it ({error}); a spreadsheet may have changed "
            "the file: put back an unchanged copy, or go on training, which writes it anew"
        ) from error
    return rows


def draw_losses(
    axes: Any,
    part: str,
    rows: Sequence[dict[str, float]],
    base: Mapping[str, float],
    threshold: float,
    origin: Origin = BASE,
) -> None:
    """Training and held-out loss of one part over epochs, each with the base's dotted, and where the part stops.

    base: the base's loss by kind, "train" and "held_out"; NaN where it was not measured. origin: what the base is."""
    epochs = [row["epoch"] for row in rows]
    for kind, color in (("train", "C0"), ("held_out", "C1")):
        values, title = [row[f"{part}_{kind}"] for row in rows], kind.replace("_", " ")
        if not all(map(math.isnan, values)):
            axes.plot(epochs, values, color=color, label=title)
        if not math.isnan(base[kind]):
            axes.axhline(base[kind], color=color, linestyle=":", label=f"{origin.name}, {title} {base[kind]:.2f}")
    if threshold:
        axes.axhline(threshold, color="C3", linestyle="--", label=f"stops at {threshold:g}")
    axes.set(title=f"{part} loss", xlabel="epoch", ylabel=LOSS_UNITS[part])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def draw_hearings(axes: Any, hearings: Sequence[Heard], merged: Mapping[str, int], origin: Origin = BASE) -> None:
    """Similarity and clarity of the judged sentences over epochs; merged: {part: the epoch it is merged from}.

    origin: what epoch 0 is."""
    base, *later = (heard.figures for heard in hearings)
    judged = [[base[number] for number in judged_sentences(base)], *later]
    epochs = [heard.epoch for heard in hearings]
    series = [[mean(figures, name) for figures in judged] for name in (CAMPPLUS, "clarity")]
    axes.plot(epochs, series[0], "C0o-", label="similarity")
    for (part, epoch), style in zip(merged.items(), ("-.", ":"), strict=False):
        where = f"epoch {epoch}" if epoch else f"the {origin.short}"
        axes.axvline(epoch, color="0.6", linestyle=style, label=f"merged: {part} of {where}")
    axes.set(title="what was heard", xlabel="epoch", ylabel="similarity, cosine to the speaker")
    right = axes.twinx()
    right.plot(epochs, series[1], "C1s--", label="intelligibility score")
    right.set(ylabel="intelligibility score, nats/s")
    right.set_ylim(bottom=0, top=1.15 * right.get_ylim()[1])  # zero in sight, and the line below the frame
    axes.legend(handles=[*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]])


def undrawable(text: str) -> set[str]:
    """Letters of a text that no installed font has; fonts that have what the usual one lacks are put behind it."""
    from matplotlib import font_manager, rcParams

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of fonts without a normal weight
    missing = set(text)
    missing -= letters_in(font_manager.findfont(font_manager.FontProperties()), missing)
    for font in font_manager.fontManager.ttflist:
        if font.style == "normal" and "last" not in font.name.lower():  # "Last Resort" has a box for every letter
            if found := letters_in(font.fname, missing):
                rcParams["font.family"] = [*rcParams["font.family"], font.name]
                missing -= found
    return missing


def letters_in(font_file: str, letters: set[str]) -> set[str]:
    """Those of the letters that a font has."""
    from matplotlib.font_manager import get_font

    with suppress(OSError, RuntimeError):  # a font that is gone or damaged has none
        known = get_font(font_file).get_charmap() if letters else {}
        return {letter for letter in letters if ord(letter) in known}
    return set()


def draw_mel(axes: Any, path: Path, title: str) -> None:
    """Log-mel of a sound file over seconds; title: of the picture."""
    with user_mistakes():
        mel = log_mel(load_wav(path, SAMPLE_RATE))
        for told in file_warnings(read_audio(path)):
            print(f"warning: {path}: {told}", flush=True)
    seconds = mel.shape[1] * MEL_HOP / SAMPLE_RATE
    extent = (0, seconds, 0, mel.shape[0])
    axes.imshow(mel.numpy(), origin="lower", aspect="auto", extent=extent, vmin=QUIETEST, vmax=LOUDEST)
    axes.set(xlabel="seconds", ylabel="mel bin")
    axes.set_title(title, parse_math=False)  # names may hold a $


def picture_format(path: Path) -> str:
    """What matplotlib calls the format of a picture, by its suffix. UserError where it cannot write that."""
    from matplotlib.backend_bases import FigureCanvasBase

    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FigureCanvasBase.get_supported_filetypes() or suffix == "pgf":  # which needs LaTeX
        raise UserError(f"--picture {path}: no format of that name can be written; end it in .png, .svg or .pdf")
    return suffix


def plot(args: argparse.Namespace) -> int:
    """Read the run, draw, save."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    named = picture_format(args.picture) if args.picture else "png"
    path = newest_run(args.output_dir)
    checkpoint = load_checkpoint(path)
    mode, origin = checkpoint["mode"], START if checkpoint.get("start") else BASE
    config, states = checkpoint_config(checkpoint, path), checkpoint["training"]["parts"]
    rows = read_metrics(args.output_dir / "joint_logs" / mode / "metrics.csv", path)
    sounds = [(args.real, "real"), (args.spoken, "spoken")]
    sounds = [(sound, f"{title}: {sound.name}") for sound, title in sounds if sound is not None]
    unseen = undrawable("".join(title for _, title in sounds))
    if unseen:
        print(f"no installed font has {''.join(sorted(unseen))!r}; the picture leaves it out", flush=True)
    hearings = [Heard(**heard) for heard in checkpoint["training"].get("hearings", [])]
    lines = len(states) + len(sounds) + bool(hearings)
    figure, axes = plt.subplots(lines, 1, figsize=(9, 3 * lines), layout="constrained", squeeze=False)
    for axis, part in zip(axes[:, 0], [part for part in PARTS if part in states], strict=False):
        base = {"train": states[part]["base_loss"], "held_out": states[part].get("base_held_out", math.nan)}
        draw_losses(axis, part, rows, base, stop_loss(config, part), origin)
    if hearings:
        best = best_beside(path)
        merged = adapter_epochs(load_checkpoint(best) if best.exists() else checkpoint)
        draw_hearings(axes[len(states), 0], hearings, merged, origin)
    for axis, (sound, title) in zip(axes[lines - len(sounds) :, 0], sounds, strict=True):
        draw_mel(axis, sound, "".join(letter for letter in title if letter not in unseen))
    figure.suptitle(f"mode {mode}, {checkpoint['epoch']} epochs, {checkpoint['step']} steps")
    picture = args.picture or args.output_dir / f"joint_{mode}.png"
    with atomic_path(picture) as part:
        figure.savefig(part, format=named, dpi=120)
    print(f"wrote {picture}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(lambda: plot(parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
