"""What a run starts from: the clips, the networks, who listens to them, and what the untouched base can do."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from checkpoint import PARTS, is_baked
from config import JointConfig, UserError
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.cli.frontend import SPEAKER_MODEL, SPEECH_TOKENIZER, CosyVoiceFrontEnd
from cosyvoice.utils.yaml_loader import ModelConfig, require_files
from dataset import Clip, check_made_for, check_shards, list_clips, read_meta, shard_paths, spread_out
from llm_flow_model import LOSS_UNITS, MEASURE_TIMES, Adapter, JointModel
from text.normalizer import DEFAULT, normalizer
from training.audition import Audition
from training.decisions import as_started
from training.distributed import failing_together, own_share
from training.state import Part, Run, stops_at
from utils import duration_words, user_mistakes
from voice.loading import Voice

DO_NOT_LISTEN = "do not listen while training: --set eval_every_epochs=0"
BASE_CLIPS = 200  # most training clips that the base is measured on: the mean of more would hardly differ
# A trained flow has a loss of 1 to 2 on clips of a strange voice; one trained on (mel + 6) / 2 about 18, noise about 40
FOREIGN_FLOW_LOSS = 6.0
FOREIGN_FLOW = (
    "warning: the flow of the {} makes mels on another scale than the clips have: its weights are untrained, or of a "
    "tool that normalises mels; use the released model's flow.pt"
)
FORWARDS_PER_STEP = 3  # a training step costs about as much as so many forward passes


def read_clips(data_dir: Path, model_config: ModelConfig) -> list[Clip]:
    """The prepared clips; UserError where other extractors than this model's made them: their tokens mean nothing.

    Each process reads all values of its own shards once, to check them.
    """
    with failing_together(), user_mistakes():
        meta = read_meta(data_dir)
        check_shards(own_share(shard_paths(data_dir)), meta)
    with failing_together(), user_mistakes():
        clips = list_clips(data_dir)
        check_made_for(clips, data_dir, meta, model_config)
    return clips


def speaker_record(clips: Sequence[Clip], config: JointConfig, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The voice as synthesis will use it: name, mean raw vector (1, 192), own speaking rate, and who reads its texts.

    meta: what `read_meta` tells of the clips."""
    rate = sum(clip.duration for clip in clips) / sum(len(clip.text_token) for clip in clips)
    return {
        "name": config.speaker_name,
        "embedding": clips[0].spk_embedding.reshape(1, -1).clone(),
        "seconds_per_text_token": rate,
        "text_normalizer": meta.get("text_normalizer", DEFAULT),
    }


def load_joint_model(
    model_config: ModelConfig, config: JointConfig, device: torch.device, start: Mapping[str, Adapter]
) -> JointModel:
    """Base weights with adapters on the trained parts: those to start from, or fresh ones.

    The other part is loaded only where the voice is heard. UserError where an adapter does not fit."""
    parts, adapted = {}, {*config.trained_parts, *start}
    for name in PARTS if config.eval_every_epochs else config.trained_parts:
        with user_mistakes():
            parts[name] = load_part(model_config, name, device=device, inference=name not in adapted)
        if is_baked(parts[name].state_dict()):
            raise UserError(
                f"{model_config.directory / name}.pt has a voice fixed in it, as merging leaves it, and would learn no "
                "other; give the original model with --model-dir"
            )
    return JointModel(parts.get("llm"), parts.get("flow"), config, start).to(device)


def make_audition(model_config: ModelConfig, run: Run) -> Audition | None:
    """Who listens to the voice while it is trained; None where the settings say that nobody does."""
    if not run.config.eval_every_epochs:
        return None
    with user_mistakes():
        try:
            require_files(model_config.directory, ["hift.pt", SPEAKER_MODEL, SPEECH_TOKENIZER])
        except FileNotFoundError as error:
            raise UserError(f"{error}; or {DO_NOT_LISTEN}") from error
        hift = load_part(model_config, "hift", device=run.device, inference=True)
        voice = Voice.of(run.identity["speaker"])
        reader = normalizer(voice.text_normalizer)
        frontend = CosyVoiceFrontEnd(model_config, normalizer=reader, threads=torch.get_num_threads())
        config, clips = run.config, (run.train_clips, run.held_out)
        audition = Audition(
            run.model, hift, frontend, voice, config.inference, *clips, config.eval_sentences, run.autocast
        )
    if not audition.texts:
        raise UserError(f"{model_config.directory} can read none of the sentences to listen to; {DO_NOT_LISTEN}")
    return audition


def measure_base(run: Run) -> None:
    """Raw losses before the first step; a part that is below its threshold is not trained."""
    clips = spread_out(run.train_clips, BASE_CLIPS)
    epoch_sec = 0.0
    for part in run.parts.values():
        started = time.monotonic()
        part.base_loss = run.measure(part, tqdm(clips, f"{run.origin.short} {part.name}", leave=False), adapters=False)
        seconds = time.monotonic() - started
        if run.held_out:
            part.base_held_out = part.best_loss = run.measure(part, run.held_out, adapters=False)
        as_started(run, part)
        part.stopped = part.why_stop(run.config, run.origin)
        print(f"{base_line(run, part)}; measured in {duration_words(seconds)}", flush=True)
        if part.name == "flow" and part.base_loss > FOREIGN_FLOW_LOSS:
            print(FOREIGN_FLOW.format(run.origin.name), flush=True)
        if part.stopped:
            print(f"{part.name} is not trained: {part.stopped}; lower that key to train it", flush=True)
        else:
            every_clip = seconds * len(run.train_clips) / len(clips)
            epoch_sec += FORWARDS_PER_STEP * every_clip / (MEASURE_TIMES if part.name == "flow" else 1)
    most = duration_words(epoch_sec * run.config.max_epochs)
    more = "; listening comes on top" if run.config.eval_every_epochs else ""
    print(f"time: about {duration_words(epoch_sec)} an epoch, at most {most} of training{more}", flush=True)


def base_line(run: Run, part: Part) -> str:
    """How well the base, or what the run starts from, knows the speaker, and where the part will stop."""
    held_out = f", held out {part.base_held_out:.3f}" if run.held_out else ""
    loss = f"loss {part.base_loss:.3f}{held_out}"
    return f"{run.origin.name} {part.name}: {loss} ({LOSS_UNITS[part.name]}); {stops_at(run.config, part.name)}"
