"""What a training run shows of itself: TensorBoard events, metrics.csv, and samples of the voice."""

import csv
import io
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from common.files import atomic_path, dispensable, write_text
from common.mel_picture import mel_picture
from training.kept import COLUMNS, metrics
from training.state import Run, loss_weight, lr_at
from voice.evaluation import Sentence
from voice.speaking import write_audio

WITHOUT = "training goes on without it"


class EventFile:
    """A file of TensorBoard's, written where it is called: an error of the disk shows at once, and not in a thread."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """first_step: events of earlier files from this step on are void. Raises OSError, as all methods do."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # slow to import
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self.event, self.file = Event, (folder / name).open("wb")
        self.records = RecordWriter(self.file)
        self.write(first_step, file_version="brain.Event:2")
        self.write(first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, **content: Any) -> None:
        """One event."""
        self.records.write(self.event(wall_time=time.time(), step=step, **content).SerializeToString())

    def write_all(self, step: int, summaries: Iterator[Any]) -> None:
        """One event for each summary, on the disk when this returns."""
        for summary in summaries:
            self.write(step, summary=summary)
        self.file.flush()


class Board:
    """TensorBoard events of a run, under joint_logs/<mode>; without them, with one warning, where the disk refuses."""

    def __init__(self, run: Run) -> None:
        self.events: EventFile | None = None
        with self.dispensable():
            self.events = EventFile(log_folder(run), run.step + 1)  # what a resumed run logs anew

    @contextmanager
    def dispensable(self) -> Iterator[None]:
        """Within it the disk may refuse events."""
        try:
            yield
        except OSError as error:
            print(f"warning: cannot write TensorBoard's events: {error.strerror or error}; {WITHOUT}", flush=True)
            self.close()

    def log(self, run: Run, summaries: Iterator[Any]) -> None:
        """Summaries of this step."""
        if self.events is not None:
            with self.dispensable():
                self.events.write_all(run.step, summaries)

    def close(self) -> None:
        """No more events."""
        events, self.events = self.events, None
        if events is not None:
            with suppress(OSError):  # the disk has refused already, and closes it all the same
                events.file.close()

    def step(self, run: Run, results: Mapping[str, tuple[float, float]]) -> None:
        scalars = {f"{name}/loss": loss for name, (loss, _) in results.items()}
        scalars |= {f"{name}/grad_norm": norm for name, (_, norm) in results.items()}
        scalars["weighted_loss"] = sum(loss_weight(run.config, name) * loss for name, (loss, _) in results.items())
        scalars["lr"] = lr_at(run.place - 1, run.total_steps, run.config)
        self.log(run, scalar_summaries(scalars))

    def epoch(self, run: Run, row: Mapping[str, float]) -> None:
        scalars = {f"epoch/{key}": value for key, value in row.items() if key not in ("epoch", "step")}
        self.log(run, scalar_summaries(scalars))

    def heard(self, run: Run, sentences: Mapping[int, Sentence], figures: Mapping[str, float], name: str) -> None:
        """Sounds, mels and figures of what was heard after this step; the same to samples/. sentences: by number."""
        texts = "".join(f"{sentence.text}\n" for sentence in sentences.values())
        if name == run.origin.short:
            with dispensable(WITHOUT):
                write_text(run.output_dir / "samples" / "sentences.txt", texts)
        pictures = write_samples(run.output_dir / "samples", name, sentences)
        self.log(run, scalar_summaries({f"eval/{key}": value for key, value in figures.items()}))
        self.log(run, sample_summaries(sentences, pictures))


def log_folder(run: Run) -> Path:
    """Where a run's TensorBoard events and metrics.csv are."""
    return run.output_dir / "joint_logs" / run.config.training_mode


def scalar_summaries(scalars: Mapping[str, float]) -> Iterator[Any]:
    from torch.utils.tensorboard.summary import scalar  # slow to import

    return (scalar(name, value) for name, value in scalars.items())


def sample_summaries(sentences: Mapping[int, Sentence], pictures: Mapping[int, np.ndarray]) -> Iterator[Any]:
    """The sentences of which there are pictures, as sounds and mels."""
    from torch.utils.tensorboard.summary import audio, image

    for number, picture in pictures.items():
        sentence = sentences[number]
        yield audio(f"sentence_{number + 1}", sentence.wave.clamp(-1, 1), sample_rate=sentence.sample_rate)
        yield image(f"sentence_{number + 1}_mel", picture, dataformats="HWC")


def write_metrics(run: Run) -> None:
    """metrics.csv: a row for each epoch."""
    with (
        dispensable("it is written again after the next epoch"),
        atomic_path(log_folder(run) / "metrics.csv") as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(metrics(run))


def write_samples(folder: Path, name: str, sentences: Mapping[int, Sentence]) -> dict[int, np.ndarray]:
    """NAME_1.wav and NAME_1.png for sentence 0 and so on; the pictures (H, W, 3) of those that sound.

    Where the disk refuses one, that is warned of, and the others are not written either."""
    heard = {number: sentence for number, sentence in sentences.items() if sentence.wave.shape[1]}
    pictures = {number: mel_picture(sentence.wave, sentence.sample_rate) for number, sentence in heard.items()}
    with dispensable(WITHOUT):
        for number, sentence in heard.items():
            write_audio(folder / f"{name}_{number + 1}.wav", sentence.wave, sentence.sample_rate)
            with atomic_path(folder / f"{name}_{number + 1}.png") as part:
                part.write_bytes(pictures[number])
    return {number: decoded(png) for number, png in pictures.items()}


def decoded(png: bytes) -> np.ndarray:
    """Pixels (H, W, 3) of a picture, 0 to 1."""
    from matplotlib import image

    return image.imread(io.BytesIO(png), format="png")[..., :3]
