"""The good folder of which every try gets a copy: model, recordings, prepared data, a trained and merged run."""

import contextlib
import importlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile
from clip_folder import SENTENCES, voice, write_clip
from sound_files import encode
from tiny_model import make_tiny_model

import evaluate_joint
import inference_joint
import merge_joint_weights
import plot_joint
import prepare_joint_data
import train_joint
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.utils.yaml_loader import read_model_config
from text.normalizer import NORMALIZERS, normalizer

MAINS = {
    "prepare": prepare_joint_data.main,
    "train": train_joint.main,
    "merge": merge_joint_weights.main,
    "inference": inference_joint.main,
    "plot": plot_joint.main,
    "evaluate": evaluate_joint.main,
}
SHORT = "--set inference.max_retries=0 --set inference.flow_steps=2".split()
ARGUMENTS = {  # of a call that goes well in the good folder
    "prepare": "--input-dir raw --output-dir data --model-dir model --device cpu --workers 1".split(),
    "train": "--data-dir data --output-dir output --model-dir model --device cpu --epochs 1".split()
    + "--set eval_every_epochs=0 --set validation_clips=2".split(),
    "merge": "--model-dir model --output-dir output --ckpt output/joint_joint_best.ckpt".split(),
    "inference": "--model-dir model --output-dir output --device cpu --text Hello.".split() + SHORT,
    "plot": "--output-dir output".split(),
    "evaluate": "--base --model-dir model --output-dir output --data-dir data --device cpu".split()
    + ["--sentences", "sentences.txt", *SHORT],
}
CLIPS = 4


def make_place(folder: Path) -> None:
    """Fill `folder`, which is the working folder afterwards."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    make_tiny_model(Path("model"))
    make_sounds()
    run("prepare")
    run("train", "--set", "eval_every_epochs=1", "--set", "eval_sentences=3", "--set", "keep_every_epochs=1")
    for script in ("plot", "merge", "inference", "evaluate"):
        run(script)
    for made in ("output/result.wav", "output/joint_joint.png"):  # tries are to make them
        Path(made).unlink()
    shutil.rmtree("output/evaluation")


def make_sounds() -> None:
    """Recordings, their texts, sounds of other kinds, and a list of sentences."""
    for number in range(CLIPS):
        write_clip(Path("raw"), f"{number:03d}.wav", SENTENCES[number], voice(1.5, seed=number))
    Path("sentences.txt").write_text("Yes.\nNo.\nHello.\n", encoding="utf-8")
    Path("sounds").mkdir()
    for kind in ("mp3", "m4a", "webm", "opus", "amr", "wma", "mkv"):
        encode(Path("sounds") / f"good.{kind}", voice(1.5, seed=9), kind)
    for kind in ("wav", "flac", "ogg"):
        soundfile.write(f"sounds/good.{kind}", voice(1.5, seed=9), 16_000)


def run(script: str, *more: str) -> None:
    """Call a script that must go well."""
    if code := MAINS[script]([*ARGUMENTS[script], *more]):
        raise RuntimeError(f"the good folder cannot be made: {script} ended with {code}")


def warm_up(good: Path, modules: Sequence[str]) -> None:
    """Import modules and fill caches that have nothing to do with the user's files, so that no try has to.

    Nothing here may start a thread, for this process forks."""
    for name in modules:
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # some cannot be imported by themselves
                importlib.import_module(name)
    for name in NORMALIZERS:
        normalizer(name).normalize("Hello 12 and 3 %.")
    CosyVoiceFrontEnd(read_model_config(good / "model")).text_tokens("Hello.")
