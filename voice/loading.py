"""Which files to speak with, and whose voice."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoint import (
    PARTS,
    adapter_epochs,
    base_fingerprint,
    base_warning,
    check_base,
    checkpoint_paths,
    is_baked,
    load_checkpoint,
    merged_part,
    merged_paths,
    runs_in,
    strength_words,
)
from common.files import moved_words, require_listable
from common.manifest import MANIFEST, odd_one, stamps
from common.terminal import shown
from config import UserError
from cosyvoice.cli.cosyvoice import VOICES, load_part, ready_to_speak, stay_as_read
from cosyvoice.cli.model import CosyVoiceModel
from cosyvoice.cli.text import TextNormalizer
from cosyvoice.utils.common import SPEAKER_DIM
from cosyvoice.utils.files import not_a_file
from cosyvoice.utils.weights import DamagedFile, damage, read_spk2info, speaker_embedding
from cosyvoice.utils.yaml_loader import YAML_NAME, read_model_config
from text.normalizer import DEFAULT, NORMALIZERS, normalizer
from utils import SAMPLE_TEXT, check_lora_scale, command_line, user_mistakes


@dataclass(frozen=True)
class Source:
    """Which weights to speak with, and whose voice: the newest merged pair in `output_dir` unless others are named."""

    output_dir: Path
    base: bool = False  # the untouched model
    ckpt: Path | None = None
    llm: Path | None = None
    flow: Path | None = None
    lora_scale: float = 1.0  # with ckpt
    speaker: str | None = None  # a voice of spk2info.pt
    voice: "Voice | None" = None  # whose, where no spk2info.pt is to be asked


@dataclass(frozen=True)
class Voice:
    """A speaker: vector (1, 192), seconds of speech per text token where that was measured, and who read the texts."""

    name: str
    embedding: Tensor
    seconds_per_text_token: float | None = None
    text_normalizer: str = DEFAULT

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Voice":
        """The speaker that a checkpoint or spk2info.pt names."""
        return cls(record["name"], record["embedding"], record.get("seconds_per_text_token"), cls.reader_of(record))

    @staticmethod
    def reader_of(record: Mapping[str, Any]) -> str:
        """Who read the voice's texts; that of records that do not note it."""
        reader = record.get("text_normalizer")
        return DEFAULT if reader is None else str(reader)


def check_strength(lora_scale: float, of_checkpoint: bool) -> None:
    """UserError for a --lora-scale that makes no sense, or where no checkpoint speaks that has a strength to change."""
    check_lora_scale(lora_scale)
    if lora_scale != 1.0 and not of_checkpoint:
        raise UserError("--lora-scale works with --ckpt; merged files have their strength fixed")


def newest_pair(output_dir: Path, model_dir: Path) -> dict[str, Path]:
    """The newest LLM and flow that were merged together; UserError where there is none."""
    require_listable(output_dir)
    pattern = merged_paths(output_dir, "*")["llm"].name
    for llm in sorted(output_dir.glob(pattern), key=lambda path: -path.stat().st_mtime):
        flow = llm.with_name(llm.name.replace("llm_", "flow_", 1))
        if flow.is_file():
            return {"llm": llm, "flow": flow}
    folders = {"model_dir": model_dir, "output_dir": output_dir}
    if runs := runs_in(output_dir):
        merge = command_line("merge_joint_weights.py", **folders)
        raise UserError(
            f"the training in {output_dir} did not end; merge it as it is: {merge}, or go on with it, with --data-dir "
            f"where you gave one: {command_line('train_joint.py', resume=runs[-1], model_dir=model_dir)}"
        )
    parts = {part: next(output_dir.glob(merged_paths(output_dir, "*")[part].name), None) for part in PARTS}
    if all(parts.values()):
        speak = command_line("inference_joint.py", **folders, **parts, text=SAMPLE_TEXT)
        raise UserError(f"LLM and flow in {output_dir} are of different runs; name both to speak with them: {speak}")
    train = command_line("train_joint.py", **folders)
    raise UserError(
        f"no trained voice in {output_dir} (llm_merged_*.pt with its flow_merged_*.pt); run: "
        f"{train}, give --llm and --flow, or use --base for the untouched model{moved_words(output_dir, pattern)}"
    )


def newest_part(part: str, output_dir: Path) -> Path:
    """The newest merged LLM or flow, for one of the other part that was named; UserError where there is none."""
    pattern = merged_paths(output_dir, "*")[part].name
    found = max(output_dir.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)
    if found is None:
        raise UserError(
            f"no merged {part} in {output_dir} ({pattern}); give it with --{part}, or its folder with --output-dir"
            + moved_words(output_dir, pattern)
        )
    return found


def weight_files(source: Source, model_dir: Path) -> dict[str, Path]:
    """{part: file} to load."""
    if source.base or source.ckpt:
        return {part: model_dir / f"{part}.pt" for part in PARTS}
    given = {part: getattr(source, part) for part in PARTS}
    if not any(given.values()):
        return newest_pair(source.output_dir, model_dir)
    return {part: file or newest_part(part, source.output_dir) for part, file in given.items()}


@contextmanager
def whole_files(model_dir: Path | None) -> Iterator[None]:
    """Around reading weights: a damaged file is to be merged again where it is not one of a model directory."""
    try:
        yield
    except DamagedFile as error:
        if (error.path.parent / YAML_NAME).exists():
            raise
        raise UserError(f"{error.path}: {error.reason}; {merge_again(error.path, model_dir)}") from error


def merge_again(path: Path, model_dir: Path | None) -> str:
    """How a merged file is made again from the checkpoint that lies beside it."""
    script, mode = "merge_joint_weights.py", path.stem.partition("_merged_")[2]
    runs = runs_in(path.parent)
    of_mode = [run for run in checkpoint_paths(path.parent, mode)[::-1] if run.is_file()]  # the best, then the last
    if runs and (not mode or runs[-1] in of_mode):
        return f"merge again: {command_line(script, model_dir=model_dir, output_dir=path.parent)}"
    if of_mode:
        return f"merge again: {command_line(script, model_dir=model_dir, ckpt=of_mode[0])}"
    return f"merge again by {script} --ckpt, from the checkpoint that it was made of, or copy it again"


def voices_in(folder: Path, model_dir: Path | None = None) -> dict[str, Voice]:
    """Named voices of the folder's spk2info.pt; {} where it has none. model_dir: for `merge_again`."""
    path = folder / VOICES
    with user_mistakes(), whole_files(model_dir):
        entries = read_spk2info(path)
        for name, entry in entries.items():
            if (reader := Voice.reader_of(entry)) not in NORMALIZERS:
                names = " or ".join(NORMALIZERS)
                raise UserError(f"{path}: voice '{name}': text_normalizer is '{reader}' and must be {names}")
        return {
            name: Voice.of({**entry, "name": name, "embedding": speaker_embedding(entry)})
            for name, entry in entries.items()
        }


def choose_voice(source: Source, model_dir: Path, folder: Path, needed: bool) -> Voice:
    """The voice given, else the named one, else the trained one (last in `folder`), else the model directory's first.

    needed: False where the weights speak in one voice whatever vector they get; that of an exported model stands in its
    own spk2info.pt, whatever voice was trained since.
    """
    if source.voice is not None:
        return source.voice
    exported = source.base and not needed
    trained, own = {} if exported else voices_in(folder, model_dir), voices_in(model_dir)
    known = {**trained, **own} if source.base else {**own, **trained}
    if source.speaker is not None:
        if source.speaker not in known:
            raise UserError(f"--speaker {source.speaker}: no such voice; known: {', '.join(known) or 'none'}")
        return known[source.speaker]
    if trained:
        return list(trained.values())[-1]
    if own and (needed or exported):
        return next(iter(own.values()))
    if not needed:
        return Voice("baked in", torch.zeros(1, SPEAKER_DIM))
    train = command_line("train_joint.py", model_dir=model_dir, output_dir=source.output_dir)
    raise UserError(
        f"no speaker vector: neither {folder / VOICES} nor {model_dir / VOICES} holds a voice; train one "
        f"({train}), point --output-dir to one, or use a model with named voices "
        "(CosyVoice-300M-SFT)"
    )


def choose_normalizer(asked: str | None, sources: Sequence[Source], model_dir: Path) -> tuple[TextNormalizer, str]:
    """The text normaliser asked for, else the one that the voice's texts were prepared with; and a warning or "".

    sources: what is to speak; an untouched base reads as the trained voices beside it."""
    noted = {noted_normalizer(source, model_dir) for source in sources if not source.base}
    noted = noted or {noted_normalizer(source, model_dir) for source in sources}
    name = asked or (next(iter(noted)) if len(noted) == 1 else DEFAULT)
    others = sorted(noted - {name})
    advice = "; leave --text-normalizer out" if len(noted) == 1 else ""
    warning = f"warning: texts are read by {name}, but a voice was prepared with {', '.join(others)}{advice}"
    return normalizer(name), warning if others else ""


def noted_normalizer(source: Source, model_dir: Path) -> str:
    """Name of the text normaliser that the voice's texts were prepared with, without loading a network."""
    if source.ckpt:
        return Voice.of(load_checkpoint(source.ckpt)["speaker"]).text_normalizer
    given = source.flow or source.llm
    folder = model_dir if source.base else given.parent if given else source.output_dir
    voices = voices_in(folder, model_dir)
    in_order = list(voices.values() if source.base else reversed(voices.values()))
    voice = voices.get(source.speaker or "", in_order[0] if in_order else None)
    return voice.text_normalizer if voice else DEFAULT


def trained_file(files: Mapping[str, Path], model_dir: Path) -> Path:
    """The file beside which the voice lies: the LLM, or the flow where the LLM is the base's."""
    return files["flow" if files["llm"].resolve() == (model_dir / "llm.pt").resolve() else "llm"]


def find_weights(source: Source, model_dir: Path) -> tuple[dict[str, Path], dict[str, Any] | None]:
    """({part: file} to load, checkpoint to put into them if any). UserError where they are not there or do not fit."""
    files = weight_files(source, model_dir)
    for path in files.values():
        if what := not_a_file(path):
            moved = moved_words(path.parent, glob.escape(path.name))
            raise UserError(f"{path} is {what}; give a merged .pt file{moved}")
    if source.ckpt is None:
        check_together(source, files, model_dir)
        return files, None
    checkpoint = load_checkpoint(source.ckpt)
    check_base(checkpoint, source.ckpt, base_fingerprint(model_dir), model_dir)
    return files, checkpoint


def merged_files(source: Source, files: Mapping[str, Path], model_dir: Path) -> list[Path]:
    """What must have been written together to speak with merged files: both parts and the voice."""
    if source.base or source.ckpt:
        return []
    return [*files.values(), trained_file(files, model_dir).parent / VOICES]


def check_together(source: Source, files: Mapping[str, Path], model_dir: Path) -> None:
    """UserError where a merge was cut short, so that LLM, flow and voice may be of different ones."""
    if found := odd_one(merged_files(source, files, model_dir)):
        path, made_from = found
        again = exact_merge(path, made_from, model_dir) or made_again(path, made_from, model_dir)
        if reason := damage(path):
            raise UserError(f"{path}: {reason}; {again}")
        raise UserError(
            f"{path} is not what was merged there last: that was cut short, or the file was replaced; {again}; "
            f"if you put the file there yourself, delete {path.parent / MANIFEST}"
        )


def exact_merge(path: Path, made_from: Mapping[str, Any], model_dir: Path) -> str:
    """How to make a file again as the manifest says that it was made; "" where that very checkpoint is gone."""
    named, strength = made_from.get("outputs"), made_from.get("lora_scale")
    noted = Path(str(made_from.get("checkpoint")))
    known = [ckpt for ckpt in (noted, path.parent / noted.name) if is_made_from(ckpt, made_from)]
    if not (known and isinstance(named, dict) and isinstance(strength, int | float)):
        return ""
    outputs = {part: Path(str(named[part])) for part in PARTS if part in named}
    if path.parent.resolve() not in {output.parent.resolve() for output in outputs.values()}:  # it was copied or moved
        if not outputs or len({output.parent for output in outputs.values()}) > 1:
            return ""
        outputs = {part: path.parent / output.name for part, output in outputs.items()}
    files = {f"{part}_output": output for part, output in outputs.items()}
    scale = None if strength == 1 else strength
    command = command_line("merge_joint_weights.py", model_dir=model_dir, ckpt=known[0], lora_scale=scale, **files)
    only = f" --{next(iter(outputs))}-only" if len(outputs) == 1 else ""
    return f"merge again: {command}{only}{'' if made_from.get('bake_speaker') else ' --no-bake-speaker'}"


def made_again(path: Path, made_from: Mapping[str, Any], model_dir: Path) -> str:
    """What to say where the very checkpoint is gone: what the file was made of, and what can be merged there now."""
    strength, epochs = made_from.get("lora_scale"), made_from.get("epochs")
    of = f"it was made of epochs {epochs} of {made_from.get('checkpoint')} at strength {strength}, which is gone"
    return f"{of}; {merge_again(path, model_dir)}"


def is_made_from(ckpt: Path, made_from: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is the one that a manifest names, and not of another run or other epochs by now."""
    with suppress(UserError):
        data = load_checkpoint(ckpt)
        return (data["run_id"], adapter_epochs(data)) == (made_from.get("run_id"), made_from.get("epochs"))
    return False


def weights_words(source: Source, files: Mapping[str, Path], checkpoint: Mapping[str, Any] | None) -> str:
    """What `find_weights` found, as it is named to the user."""
    if checkpoint is None:
        return ", ".join(map(str, files.values()))
    return f"{source.ckpt}{strength_words(checkpoint, source.ckpt, source.lora_scale)}"


def load_voice(
    source: Source, model_dir: Path, device: torch.device, precision: str = "auto"
) -> tuple[CosyVoiceModel, Voice]:
    """The three networks with the chosen weights, and the voice to feed them; prints which.

    precision: "full", "fast", or "auto", which is the fast one wherever the device gains by it.
    """
    precision = "fast" if precision == "auto" else precision
    while True:
        files, checkpoint = find_weights(source, model_dir)
        merged = merged_files(source, files, model_dir)
        before = stamps(merged)
        model, voice = read_voice(source, files, checkpoint, model_dir, device, precision)
        check_together(source, files, model_dir)
        if stamps(merged) == before:  # else they were merged anew while they were read
            break
    print(f"speaking with {weights_words(source, files, checkpoint)}; voice: {shown(voice.name)}", flush=True)
    if checkpoint is not None and (warning := base_warning(checkpoint, source.ckpt)):
        print(warning, flush=True)
    return model, voice


def read_voice(
    source: Source,
    files: Mapping[str, Path],
    checkpoint: Mapping[str, Any] | None,
    model_dir: Path,
    device: torch.device,
    precision: str,
) -> tuple[CosyVoiceModel, Voice]:
    """The three networks from what `find_weights` found, and the voice to feed them."""
    with user_mistakes():
        config = read_model_config(model_dir)

    def load(part: str) -> nn.Module:
        with user_mistakes(), whole_files(model_dir):
            mapped = checkpoint is not None or stay_as_read(part, device, precision)
            network = load_part(config, part, files.get(part), mapped=mapped)
            if checkpoint is not None and part in PARTS:
                state = merged_part(checkpoint, source.ckpt, model_dir, part, lora_scale=source.lora_scale)
                network.load_state_dict(state, assign=True)
        return ready_to_speak(network.to(device), precision)  # before the next one is read: it may be far smaller then

    llm, flow, hift = map(load, (*PARTS, "hift"))
    if checkpoint is not None:
        voice = Voice.of(checkpoint["speaker"])
    else:
        folder = source.output_dir if source.base else trained_file(files, model_dir).parent
        open_input = not (is_baked(llm.state_dict()) and is_baked(flow.state_dict()))
        voice = choose_voice(source, model_dir, folder, needed=open_input)
        if source.speaker and not open_input:
            raise UserError("--speaker: these files have one voice baked in; use --base, or merge --no-bake-speaker")
    return CosyVoiceModel(llm, flow, hift, device), voice
