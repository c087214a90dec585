"""What a training run shows of itself: TensorBoard events, metrics.csv, and samples of the voice."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from checkpoint import PARTS
from common.files import atomic_path, dispensable, write_text
from common.mel_picture import mel_picture
from training.state import Run, loss_weight, lr_at
from voice.evaluation import Sentence
from voice.speaking import write_audio

WITHOUT = "training goes on without it"


class Board:
    """TensorBoard events and metrics.csv of a run, under joint_logs/<mode>."""

    def __init__(self, run: Run, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.folder = folder
        self.writer = SummaryWriter(str(folder), purge_step=run.step + 1)  # what a resumed run logs anew

    def step(self, run: Run, results: Mapping[str, tuple[float, float]]) -> None:
        for name, (loss, norm) in results.items():
            self.writer.add_scalar(f"{name}/loss", loss, run.step)
            self.writer.add_scalar(f"{name}/grad_norm", norm, run.step)
        weighted = sum(loss_weight(run.config, name) * loss for name, (loss, _) in results.items())
        self.writer.add_scalar("weighted_loss", weighted, run.step)
        self.writer.add_scalar("lr", lr_at(run.place - 1, run.total_steps, run.config), run.step)

    def epoch(self, run: Run, row: Mapping[str, float]) -> None:
        for key, value in row.items():
            if key not in ("epoch", "step"):
                self.writer.add_scalar(f"epoch/{key}", value, run.step)
        self.writer.flush()
        columns = ["epoch", "step", *(f"{part}_{kind}" for part in PARTS for kind in ("train", "held_out"))]
        path = self.folder / "metrics.csv"
        with (
            dispensable("it is written again after the next epoch"),
            atomic_path(path) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(run.history)

    def heard(self, run: Run, sentences: Mapping[int, Sentence], figures: Mapping[str, float], name: str) -> None:
        """Sounds, mels and figures of what was heard after this step; the same to samples/. sentences: by number."""
        texts = "".join(f"{sentence.text}\n" for sentence in sentences.values())
        if name == run.origin.short:
            with dispensable(WITHOUT):
                write_text(run.output_dir / "samples" / "sentences.txt", texts)
        pictures = write_samples(run.output_dir / "samples", name, sentences)
        for key, value in figures.items():
            self.writer.add_scalar(f"eval/{key}", value, run.step)
        for number, picture in pictures.items():
            sound, rate = sentences[number].wave.clamp(-1, 1), sentences[number].sample_rate
            self.writer.add_audio(f"sentence_{number + 1}", sound, run.step, sample_rate=rate)
            self.writer.add_image(f"sentence_{number + 1}_mel", picture, run.step, dataformats="HWC")
        self.writer.flush()


def write_samples(folder: Path, name: str, sentences: Mapping[int, Sentence]) -> dict[int, np.ndarray]:
    """NAME_1.wav and NAME_1.png for sentence 0 and so on; the pictures (H, W, 3) of those that sound.

    What cannot be written is warned of."""
    pictures = {}
    for number, sentence in sentences.items():
        if sentence.wave.shape[1]:
            png = mel_picture(sentence.wave, sentence.sample_rate)
            with dispensable(WITHOUT):
                write_audio(folder / f"{name}_{number + 1}.wav", sentence.wave, sentence.sample_rate)
            with dispensable(WITHOUT), atomic_path(folder / f"{name}_{number + 1}.png") as part:
                part.write_bytes(png)
            pictures[number] = decoded(png)
    return pictures


def decoded(png: bytes) -> np.ndarray:
    """Pixels (H, W, 3) of a picture, 0 to 1."""
    from matplotlib import image

    return image.imread(io.BytesIO(png), format="png")[..., :3]
