"""What a training run shows of itself: TensorBoard events, metrics.csv, and samples of the voice."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from checkpoint import PARTS
from config import UserError
from evaluation import Sentence
from evaluation_page import mel_picture
from speaking import write_audio
from training_state import Run, loss_weight, lr_at
from utils import atomic_path, write_text


class Board:
    """TensorBoard events and metrics.csv of a run, under joint_logs/<mode>."""

    def __init__(self, run: Run, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.folder = folder
        self.writer = SummaryWriter(str(folder), purge_step=run.step or None)

    def step(self, run: Run, results: Mapping[str, tuple[float, float]]) -> None:
        for name, (loss, norm) in results.items():
            self.writer.add_scalar(f"{name}/loss", loss, run.step)
            self.writer.add_scalar(f"{name}/grad_norm", norm, run.step)
        weighted = sum(loss_weight(run.config, name) * loss for name, (loss, _) in results.items())
        self.writer.add_scalar("weighted_loss", weighted, run.step)
        self.writer.add_scalar("lr", lr_at(run.step - 1, run.total_steps, run.config), run.step)

    def epoch(self, run: Run, row: Mapping[str, float]) -> None:
        for key, value in row.items():
            if key not in ("epoch", "step"):
                self.writer.add_scalar(f"epoch/{key}", value, run.step)
        self.writer.flush()
        columns = ["epoch", "step", *(f"{part}_{kind}" for part in PARTS for kind in ("train", "held_out"))]
        try:
            with atomic_path(self.folder / "metrics.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(run.history)
        except UserError as error:  # a spreadsheet that has the file open must not end a training run
            print(f"warning: {error}; it is written again after the next epoch", flush=True)

    def heard(self, run: Run, sentences: Sequence[Sentence], figures: Mapping[str, float], name: str) -> None:
        """Sounds, mels and figures of what was heard after this step; the same to samples/."""
        pictures = write_samples(run.output_dir / "samples", name, sentences)
        for key, value in figures.items():
            self.writer.add_scalar(f"eval/{key}", value, run.step)
        for number, (sentence, picture) in enumerate(zip(sentences, pictures, strict=True), start=1):
            if sentence.wave.shape[1]:
                sound = sentence.wave.clamp(-1, 1)
                self.writer.add_audio(f"sentence_{number}", sound, run.step, sample_rate=sentence.sample_rate)
                self.writer.add_image(f"sentence_{number}_mel", picture, run.step, dataformats="HWC")
        self.writer.flush()


def write_samples(folder: Path, name: str, sentences: Sequence[Sentence]) -> list[np.ndarray]:
    """NAME_1.wav and NAME_1.png, ... and TEXTS; the pictures (H, W, 3)."""
    pictures = []
    write_text(folder / "sentences.txt", "".join(f"{sentence.text}\n" for sentence in sentences))
    for number, sentence in enumerate(sentences, start=1):
        if not sentence.wave.shape[1]:
            pictures.append(np.zeros((1, 1, 3), dtype=np.uint8))
            continue
        write_audio(folder / f"{name}_{number}.wav", sentence.wave, sentence.sample_rate)
        png = mel_picture(sentence)
        with atomic_path(folder / f"{name}_{number}.png") as part:
            part.write_bytes(png)
        pictures.append(decoded(png))
    return pictures


def decoded(png: bytes) -> np.ndarray:
    """Pixels (H, W, 3) of a picture, 0 to 1."""
    from matplotlib import image

    return image.imread(io.BytesIO(png), format="png")[..., :3]
