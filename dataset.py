"""Parquet shards of prepared clips -> checked `Clip`s -> batches of the two models."""

import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from clips.mel_store import DAMAGE, DataError, MelStore, StoredMel, as_tensor, first_line
from common.files import atomic_path, read_lines
from config import JointConfig, UserError
from cosyvoice.cli.frontend import SPEAKER_MODEL, SPEECH_TOKENIZER
from cosyvoice.utils.audio_files import AUDIO_SUFFIXES
from cosyvoice.utils.common import MEL_BINS, MEL_HOP, SAMPLE_RATE, SPEAKER_DIM, token_to_mel_length
from cosyvoice.utils.files import not_a_file, read_file
from cosyvoice.utils.memory import is_out_of_memory
from cosyvoice.utils.records import limited, read_record
from cosyvoice.utils.weights import file_fingerprint
from cosyvoice.utils.yaml_loader import ModelConfig
from text.normalizer import DEFAULT, NORMALIZERS
from utils import DEFAULT_DATA_DIR, command_line

SCHEMA = pa.schema(
    [
        ("utt", pa.string()),
        ("wav", pa.string()),  # path as found, relative to the input directory
        ("text", pa.string()),  # normalised: what text_token was made from
        ("text_token", pa.list_(pa.int32())),
        ("speech_token", pa.list_(pa.int32())),
        ("speech_feat", pa.list_(pa.float32())),  # natural-log mel, (T, 80) flattened row by row
        ("speech_feat_len", pa.int32()),
        ("utt_embedding", pa.list_(pa.float32())),  # raw speaker vector of the clip
        ("spk_embedding", pa.list_(pa.float32())),  # mean of the raw vectors of all clips, repeated
        ("duration_sec", pa.float64()),
        ("fingerprint", pa.string()),  # sha256 of audio bytes, transcript and extraction settings
    ]
)
LIGHT = pa.schema([field for field in SCHEMA if field.name != "speech_feat"])  # 2 % of a shard
CLIPS_PER_GROUP = 2  # are read together; 1 is no faster, as the file's index is parsed anew each time and grows
CLIPS_CHECKED_AT_ONCE = 32
EXTRACTORS = (SPEAKER_MODEL, SPEECH_TOKENIZER)
META_FILE = "meta.json"
META_KEY = b"cosyvoice_data"  # shard metadata: what meta.json says of the models, so that a shard cannot lose it

# Share of the clips that is held out, and its limits; with fewer than MIN_CLIPS_TO_HOLD_OUT none is.
HOLD_OUT_SHARE = 0.1
HOLD_OUT_LIMITS = (2, 5)
MIN_CLIPS_TO_HOLD_OUT = 8

LARGEST = {"speech_feat": 100.0, "utt_embedding": 1e6, "spk_embedding": 1e6}  # magnitude; usual are 12, 5 and 5


@dataclass(frozen=True, kw_only=True)
class DataMeta:
    """What the metadata of a shard says, as far as it is read; shards of other tools lack it."""

    extractors: dict[str, str] = field(default_factory=dict)  # of the model: file or section -> SHA-256
    text_token_size: int = limited(1, low=1)
    speech_token_size: int = limited(1, low=1)
    text_normalizer: str = limited(DEFAULT, choices=tuple(NORMALIZERS))


@dataclass(frozen=True)
class Clip:
    """One prepared clip; token ids int64, features float32."""

    utt: str
    wav: str
    text: str
    text_token: Tensor  # (L,)
    speech_token: Tensor  # (S,)
    speech_feat: Tensor | StoredMel  # (T, 80), natural-log mel
    utt_embedding: Tensor  # (192,), raw
    spk_embedding: Tensor  # (192,), mean of the raw vectors
    duration: float  # seconds
    fingerprint: str


class FlowWindow(NamedTuple):
    """Speech tokens and exactly the mel frames that they cover."""

    speech_token: Tensor  # (S,)
    speech_feat: Tensor  # (token_to_mel_length(S), 80)


class FlowDraw(NamedTuple):
    """What the flow learns from a clip in one epoch: everything random about it, so that batching changes nothing."""

    window: FlowWindow  # T frames
    embedding: Tensor  # (192,), raw speaker vector
    t: float  # flow time before it is warped, in [0, 1)
    keep: bool  # False: guidance dropout takes the conditions away
    noise: Tensor  # (80, T), standard normal


# ---- parquet -----------------------------------------------------------------------------------------------------


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any] | None = None) -> None:
    """Write rows (keys as in SCHEMA) to a parquet file that appears under its name only when complete.

    meta: what `read_meta` returns. Equal rows and meta give equal bytes. Raises UserError where the disk refuses.
    """
    schema = SCHEMA.with_metadata({META_KEY: json.dumps(meta or {}, sort_keys=True).encode()})
    with atomic_path(path) as part:
        pq.write_table(
            pa.Table.from_pylist(list(rows), schema=schema),
            part,
            row_group_size=CLIPS_PER_GROUP,
            use_dictionary=False,  # hardly a number occurs twice: dictionaries would make the file half as large again
            write_page_checksum=True,
        )


def prepare_again(data_dir: Path, model_dir: Path | None = None, *, force: bool = True) -> str:
    """The command that makes `data_dir` anew from its own recordings; model_dir: None: with the model of last time.

    It is complete: without its options other recordings would be prepared, and take the place of these. Where
    meta.json does not name them, a placeholder stands in the command, and a sentence says what to put there. Where
    `data_dir` is itself a folder of recordings, the command makes data of them in another.
    """
    noted = made_from(Path(data_dir))
    if not noted and _holds_recordings(Path(data_dir)):
        command = command_line("prepare_joint_data.py", input_dir=data_dir, model_dir=model_dir, output_dir="NEW")
        return f"{command}, with a new folder for NEW, and with --model-dir where you gave one; then --data-dir NEW"
    own = {"input_dir": noted.get("input_dir"), "model_dir": model_dir or noted.get("model_dir")}
    nothing_to_lose = Path(data_dir) == Path(DEFAULT_DATA_DIR) and not any(Path(data_dir).glob("*.parquet"))
    if own["input_dir"] or nothing_to_lose:
        words = ""
    else:
        own["input_dir"] = Path("FOLDER")
        words = ", with the folder of its recordings for FOLDER, and with --model-dir where you gave one"
    reader = _meta_file(Path(data_dir)).get("text_normalizer", DEFAULT)
    own["text_normalizer"] = reader if reader in tuple(NORMALIZERS) and reader != DEFAULT else None
    command = command_line("prepare_joint_data.py", **own, output_dir=data_dir)
    return f"{command}{' --force' * force}{words}"


def _holds_recordings(folder: Path) -> bool:
    """Whether a folder has sounds of its own and nothing that these scripts make."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    suffixes = {Path(name).suffix.lower() for name in names}
    return not suffixes.isdisjoint(AUDIO_SUFFIXES) and suffixes.isdisjoint({".parquet", ".ckpt", ".pt"})


def _meta_file(data_dir: Path) -> dict[str, Any]:
    """meta.json; {} where there is none that can be read."""
    try:
        meta = json.loads(read_file(data_dir / META_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def made_from(data_dir: Path) -> dict[str, Path]:
    """The folders input_dir and model_dir that meta.json notes, as one would type them here; {} for older data.

    They are in no shard: the same clips make the same shards wherever their recordings lie."""
    try:
        folders = {name: Path(_meta_file(data_dir)[name]) for name in ("input_dir", "model_dir")}
    except (LookupError, TypeError):
        return {}
    here = Path.cwd()
    return {name: path.relative_to(here) if path.is_relative_to(here) else path for name, path in folders.items()}


def shard_paths(data_dir: Path) -> list[Path]:
    """The shards named by data.list; raises DataError where there is none or one is missing."""
    data_list = Path(data_dir) / "data.list"
    if not data_list.is_file():
        again = prepare_again(data_dir, force=False)
        raise DataError(f"no training data in {data_dir} (data.list is missing); run: {again}")
    names = [line.strip() for line in read_lines(data_list) if line.strip()]
    if not names:
        raise DataError(f"{data_list} is empty; run: {prepare_again(data_dir, force=False)}")
    paths = [data_list.parent / name for name in names]
    for path in paths:
        if what := _not_a_shard(path, data_list.parent):
            raise DataError(f"{data_list} names {path}, {what}; run: {prepare_again(data_dir, force=False)}")
    return paths


def _not_a_shard(path: Path, folder: Path) -> str:
    """Why a file that data.list names is not read, "" where it is."""
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            return "which is in another folder"
        what = not_a_file(path)
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero
        return f"which cannot be opened ({getattr(error, 'strerror', None) or error})"
    return f"which is {what}" if what else ""


def read_meta(data_dir: Path) -> dict[str, Any]:
    """What the data was made with (meta.json without its folders, read from the shards); {} for shards of other tools.

    Raises DataError where the shards were made with different models.
    """
    metas = {path: _shard_meta(path) for path in shard_paths(data_dir)}
    first = next(iter(metas.values()))
    for path, meta in metas.items():
        if meta != first:
            again = prepare_again(data_dir)
            raise DataError(f"{path} was made with other models than the shards before it; run: {again}")
    return first


def _unreadable(path: Path, error: Exception) -> DataError:
    """What to say of a shard that pyarrow refuses."""
    again = prepare_again(path.parent)
    return DataError(f"{path} is not a readable parquet file ({first_line(error)}); run: {again}")


def _shard_meta(path: Path) -> dict[str, Any]:
    try:
        metadata = pq.read_schema(path).metadata or {}
        meta = json.loads(metadata.get(META_KEY, b"{}"))
        read_record(DataMeta, meta, "what it was made with")
    except (pa.ArrowException, OSError, ValueError, RecursionError) as e:
        raise _unreadable(path, e) from e
    return meta


def read_rows(data_dir: Path) -> list[Clip]:
    """All clips that data.list names, in its order, every value checked; mels stay in their shards (`StoredMel`).

    Raises DataError naming file, clip and reason: missing column, wrong length, NaN, id outside the model's vocabulary.
    """
    check_shards(shard_paths(data_dir), read_meta(data_dir))
    return list_clips(data_dir)


def check_shards(paths: Sequence[Path], meta: Mapping[str, Any]) -> None:
    """Read every value of these shards, a few clips at a time, and keep none; raises DataError as `read_rows` says."""
    for path in paths:
        with _opened(path) as file:
            row = 0
            for batch in file.iter_batches(CLIPS_CHECKED_AT_ONCE, columns=SCHEMA.names, use_threads=False):
                for cells in _rows(pa.Table.from_batches([batch]), SCHEMA):
                    _check(cells, path, row, meta)
                    row += 1


def list_clips(data_dir: Path) -> list[Clip]:
    """`read_rows` of shards that were checked before, by this process or others."""
    store = MelStore()
    clips = [clip for path in shard_paths(data_dir) for clip in _shard_clips(path, store)]
    if not clips:
        raise DataError(f"the shards in {data_dir} hold no clip; run: {prepare_again(data_dir)}")
    names: set[str] = set()
    for clip in clips:
        if clip.utt in names:
            raise DataError(f"{data_dir}: two clips are called '{clip.utt}'; run: {prepare_again(data_dir)}")
        names.add(clip.utt)
    return clips


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A shard that has all columns; DataError for one that has not, or cannot be read."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            count = Counter(file.schema_arrow.names)
            for name in SCHEMA.names:
                if count[name] != 1:
                    what = "has several columns" if count[name] else "lacks the column"
                    raise DataError(f"{path} {what} {name}; run: {prepare_again(path.parent)}")
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            if file.metadata.num_rows != sum(groups):  # no checksum covers these numbers
                raise ValueError("its numbers of rows contradict each other")
            yield file
    except UserError:
        raise
    except DAMAGE as e:
        if is_out_of_memory(e):
            raise
        raise _unreadable(path, e) from e


def _rows(table: pa.Table, schema: pa.Schema) -> Iterator[dict[str, pa.Scalar]]:
    """The columns of `schema`, of its types, row by row."""
    columns = table.select(schema.names).cast(schema).columns
    for cells in zip(*columns, strict=True):
        yield dict(zip(schema.names, cells, strict=True))


def _shard_clips(path: Path, store: MelStore) -> list[Clip]:
    """The clips of a checked shard."""
    with _opened(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        rows = list(_rows(file.read(columns=LIGHT.names, use_threads=False), LIGHT))
        places = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
        return [_clip(cells, store, path, *place) for cells, place in zip(rows, places, strict=True)]


def _clip(cells: Mapping[str, pa.Scalar], store: MelStore, path: Path, group: int, row: int) -> Clip:
    fingerprint, frames = cells["fingerprint"].as_py(), cells["speech_feat_len"].as_py()
    return Clip(
        utt=cells["utt"].as_py(),
        wav=cells["wav"].as_py(),
        text=cells["text"].as_py(),
        text_token=as_tensor(cells["text_token"]).long(),
        speech_token=as_tensor(cells["speech_token"]).long(),
        speech_feat=StoredMel(store, path, group, row, frames, fingerprint),
        utt_embedding=as_tensor(cells["utt_embedding"]),
        spk_embedding=as_tensor(cells["spk_embedding"]),
        duration=cells["duration_sec"].as_py(),
        fingerprint=fingerprint,
    )


def _check(cells: Mapping[str, pa.Scalar], path: Path, row: int, meta: Mapping[str, Any]) -> None:
    """DataError with all that is wrong with row `row` of a file."""
    nulls = [name for name, cell in cells.items() if not cell.is_valid]
    if nulls:
        raise DataError(f"{path}, row {row}: {', '.join(nulls)} is empty; run: {prepare_again(path.parent)}")
    tensors = {name: as_tensor(cell) for name, cell in cells.items() if isinstance(cell, pa.ListScalar)}
    problems = _problems(tensors, cells["speech_feat_len"].as_py(), meta)
    problems += [f"{name} has empty values" for name in tensors if cells[name].values.null_count]
    if not 0 < (seconds := cells["duration_sec"].as_py()) < math.inf:
        problems.append(f"duration_sec is {seconds}")
    if problems:
        where = f"{path}, clip '{cells['utt'].as_py()}'"
        raise DataError(f"{where}: {'; '.join(problems)}; run: {prepare_again(path.parent)}")


def _problems(tensors: Mapping[str, Tensor], frames: int, meta: Mapping[str, Any]) -> list[str]:
    problems = [f"{name} has no values" for name, values in tensors.items() if not len(values)]
    if len(tensors["speech_feat"]) != frames * MEL_BINS:
        problems.append(f"speech_feat has {len(tensors['speech_feat'])} values for {frames} frames of {MEL_BINS}")
    for name in ("utt_embedding", "spk_embedding"):
        if len(tensors[name]) != SPEAKER_DIM:
            problems.append(f"{name} has {len(tensors[name])} values instead of {SPEAKER_DIM}")
    for name in ("speech_feat", "utt_embedding", "spk_embedding"):
        if not torch.isfinite(tensors[name]).all():
            problems.append(f"{name} has NaN or infinite values")
        elif (tensors[name].abs() > LARGEST[name]).any():
            problems.append(f"{name} has values beyond {LARGEST[name]:g}")
    for name in ("text_token", "speech_token"):
        size, ids = meta.get(f"{name}_size", float("inf")), tensors[name]
        outside = ids[(ids < 0) | (ids >= size)]
        if len(outside):
            problems.append(f"{name} {int(outside[0])} is outside 0..{size - 1}")
    return problems


def data_fingerprint(clips: Sequence[Clip]) -> str:
    """sha256 (hex) of which clips these are, in order: names, audio, transcripts and extraction settings."""
    text = "\n".join(f"{clip.utt}\t{clip.fingerprint}" for clip in clips)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def check_made_for(clips: Sequence[Clip], data_dir: Path, meta: Mapping[str, Any], config: ModelConfig) -> None:
    """DataError where other extractors than this model's made the clips: their tokens would mean nothing to it.

    meta: what `read_meta` tells of the clips."""
    again = prepare_again(data_dir, config.directory)
    check_extractors(data_dir, config, meta.get("extractors", {}), again)
    check_token_ids(clips, config.text_token_size, config.speech_token_size, again)


def check_extractors(data_dir: Path, config: ModelConfig, made_with: Mapping[str, str], again: str) -> None:
    """DataError where the data was not `made_with` the files of this model directory."""
    own = extractor_fingerprints(config)
    other = [name for name, value in made_with.items() if own.get(name, value) != value]
    if other:
        raise DataError(
            f"{data_dir} was prepared with another {' and '.join(other)} than {config.directory} holds; give the model "
            f"that it was prepared with by --model-dir, or prepare it again: {again}"
        )


def check_token_ids(clips: Sequence[Clip], text_token_size: int, speech_token_size: int, again: str) -> None:
    """DataError for a clip with an id that the model has no row for. again: the command of `prepare_again`."""
    for clip in clips:
        for name, size in (("text_token", text_token_size), ("speech_token", speech_token_size)):
            largest = int(getattr(clip, name).max())
            if largest >= size:
                raise DataError(f"clip '{clip.utt}': {name} {largest} is outside 0..{size - 1}; run: {again}")


def extractor_fingerprints(config: ModelConfig) -> dict[str, str]:
    """What decides the tokens, vectors and mel of a clip: both ONNX files, and two sections of cosyvoice.yaml.

    An ONNX file that is not there is left out. Data of other extractors would mean nothing to the model.
    """
    files = {name: config.directory / name for name in EXTRACTORS if (config.directory / name).is_file()}
    sections = {name: config.sections.get(name, "") for name in ("get_tokenizer", "feat_extractor")}
    return {name: file_fingerprint(path) for name, path in files.items()} | {
        name: hashlib.sha256(text.encode("utf-8")).hexdigest() for name, text in sections.items()
    }


# ---- training and validation clips -------------------------------------------------------------------------------


def hold_out(clips: Sequence[Clip], seed: int, count: int | None = None) -> tuple[list[Clip], list[Clip]]:
    """(training clips, validation clips), both in the given order; the same clips and seed give the same choice.

    count None: a tenth, at least 2 and at most 5, none below 8 clips. One clip is drawn from each of `count` equal
    slices of the clips sorted by duration. Clips whose text occurs twice are held out only where the others are too
    few, and then together, so more of them: a twin that is trained on would tell the text. Raises DataError where no
    training clip would remain.
    """
    if count is None:
        low, high = HOLD_OUT_LIMITS
        count = 0 if len(clips) < MIN_CLIPS_TO_HOLD_OUT else min(max(round(len(clips) * HOLD_OUT_SHARE), low), high)
    if count >= max(len(clips), 1):
        raise DataError(f"validation_clips = {count} leaves none of {len(clips)} clips for training; make it smaller")
    rng, candidates = random.Random(seed), held_out_candidates(clips, count)
    edges = [len(candidates) * i // count for i in range(count + 1)] if count else []
    drawn = [candidates[rng.randrange(low, high)] for low, high in zip(edges, edges[1:], strict=False)]
    held = {clip.utt for takes in drawn for clip in takes}
    return [clip for clip in clips if clip.utt not in held], [clip for clip in clips if clip.utt in held]


def held_out_candidates(clips: Sequence[Clip], count: int) -> list[list[Clip]]:
    """Clips to draw `count` times from, those that are held out together in one list, by duration.

    Where there are hardly more texts than that, every clip by itself: some text is then trained on in any case."""
    takes: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: (clip.duration, clip.utt)):
        takes.setdefault(clip.text, []).append(clip)
    unique = [same for same in takes.values() if len(same) == 1]
    if len(unique) >= count:
        return unique
    if len(takes) > count:
        return list(takes.values())
    return sorted(([clip] for clip in clips), key=lambda same: (same[0].duration, same[0].utt))


def split_by(config: JointConfig, clips: Sequence[Clip]) -> tuple[list[Clip], list[Clip]]:
    """(training clips, validation clips) of a run with these settings; see `hold_out`."""
    count = None if config.validation_clips == "auto" else int(config.validation_clips)
    return hold_out(clips, config.seed, count)


def spread_out(clips: Sequence[Clip], most: int) -> Sequence[Clip]:
    """So many of the clips, or all where there are fewer, at even distances."""
    count = min(most, len(clips))
    return [clips[len(clips) * number // count] for number in range(count)]


# ---- windows and batches -----------------------------------------------------------------------------------------


def largest_token_count(frames: int, token_rate_hz: int) -> int:
    """The largest n with token_to_mel_length(n, token_rate_hz) <= frames."""
    n = int((frames + 1) * MEL_HOP * token_rate_hz / SAMPLE_RATE) + 1
    while n > 0 and token_to_mel_length(n, token_rate_hz) > frames:
        n -= 1
    return n


def covered_tokens(clip: Clip, token_rate_hz: int) -> int:
    """Speech tokens, from the first, whose time the mel covers as well; DataError where not even one is."""
    n = min(len(clip.speech_token), largest_token_count(len(clip.speech_feat), token_rate_hz))
    if n < 1:
        raise DataError(f"clip '{clip.utt}': {len(clip.speech_feat)} mel frames are less than one speech token")
    return n


def whole_window(clip: Clip, token_rate_hz: int) -> FlowWindow:
    """The whole clip, cut at its end so that tokens and mel frames cover the same time.

    Raises DataError where the clip holds less than one token of mel.
    """
    n = covered_tokens(clip, token_rate_hz)
    return FlowWindow(clip.speech_token[:n], clip.speech_feat[: token_to_mel_length(n, token_rate_hz)])


def window_frames(clip: Clip, max_feat_frames: int, token_rate_hz: int) -> int:
    """Mel frames of the windows that `flow_window` draws from a clip."""
    n = min(covered_tokens(clip, token_rate_hz), largest_token_count(max_feat_frames, token_rate_hz))
    return token_to_mel_length(n, token_rate_hz)


def flow_window(clip: Clip, max_feat_frames: int, token_rate_hz: int, rng: random.Random) -> FlowWindow:
    """A random aligned window of at most max_feat_frames mel frames; the whole clip where that is shorter.

    |--s--|------ n tokens ------|        s uniform, n the largest count that fits max_feat_frames
    |round(s f)|- int(n f) frames -|      f = 22050 / 256 / token_rate_hz frames per token
    """
    tokens = covered_tokens(clip, token_rate_hz)
    n = largest_token_count(max_feat_frames, token_rate_hz)
    if n < 1:
        raise DataError(f"max_feat_len = {max_feat_frames} is less than one speech token; make it larger")
    if n >= tokens:
        return whole_window(clip, token_rate_hz)
    frames = token_to_mel_length(n, token_rate_hz)
    start = rng.randint(0, tokens - n)
    # rounding up can reach one frame beyond the clip
    last = token_to_mel_length(tokens, token_rate_hz) - frames
    feat_start = min(round(start * SAMPLE_RATE / MEL_HOP / token_rate_hz), last)
    return FlowWindow(clip.speech_token[start : start + n], clip.speech_feat[feat_start : feat_start + frames])


def draw_flow(
    clip: Clip, max_feat_frames: int, token_rate_hz: int, drop_rate: float, vector_kind: str, rng: random.Random
) -> FlowDraw:
    """Window, time, noise and guidance dropout of one clip, all from `rng`.

    drop_rate: share of draws without conditions; vector_kind: of `speaker_vector`."""
    window = flow_window(clip, max_feat_frames, token_rate_hz, rng)
    t, keep = rng.random(), rng.random() > drop_rate
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    noise = torch.randn(window.speech_feat.shape[::-1], generator=generator)
    return FlowDraw(window, speaker_vector(clip, vector_kind), t, keep, noise)


def speaker_vector(clip: Clip, kind: str) -> Tensor:
    """(192,) raw speaker vector: "mean" of all clips (what synthesis uses) or of this "utterance"."""
    return {"mean": clip.spk_embedding, "utterance": clip.utt_embedding}[kind]


def collate_llm(clips: Sequence[Clip], vector_kind: str = "mean") -> dict[str, Tensor]:
    """Batch of whole clips for TransformerLM.forward, padded with 0 on the right.

    text_token (B, L), speech_token (B, S) int64; text_token_len, speech_token_len (B,) int32; embedding (B, 192).
    """
    return {
        **_padded("text_token", [clip.text_token for clip in clips]),
        **_padded("speech_token", [clip.speech_token for clip in clips]),
        "embedding": torch.stack([speaker_vector(clip, vector_kind) for clip in clips]),
    }


def clips_per_step(config: JointConfig) -> int:
    """Clips that one optimizer step learns from."""
    return config.batch_size * config.accumulate_grad_batches


def llm_positions(clip: Clip) -> int:
    """Length of the LLM's sequence `[ sos | speaker | text | task | speech ]`."""
    return len(clip.text_token) + len(clip.speech_token) + 3


def pack(lengths: Sequence[int], budget: int, alike: bool = False) -> list[list[int]]:
    """Numbers of the items in batches, longest first: longest x items is at most `budget`, or the batch is one item.

    alike: only items of one length share a batch. Longest first: what does not fit into memory shows at once, and the
    allocator's first blocks serve all later batches.
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batches:
            longest = lengths[batches[-1][0]]
            if (len(batches[-1]) + 1) * longest <= budget and not (alike and lengths[number] != longest):
                batches[-1].append(number)
                continue
        batches.append([number])
    return batches


def _padded(name: str, sequences: Sequence[Tensor]) -> dict[str, Tensor]:
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int32)
    return {name: torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True), f"{name}_len": lengths}


def collate_flow(windows: Sequence[FlowWindow], embeddings: Sequence[Tensor]) -> dict[str, Tensor]:
    """A batch for MaskedDiffWithXvec.forward from windows of one length, one vector (192,) each.

    speech_token (B, S) int64, speech_feat (B, T, 80), both with *_len (B,) int32; embedding (B, 192).
    ValueError for windows of different lengths: the length regulator would stretch every item to the longest, and its
    GroupNorm sees padding.
    """
    lengths = {(len(window.speech_token), len(window.speech_feat)) for window in windows}
    if len(lengths) != 1 or len(windows) != len(embeddings):
        raise ValueError(f"one vector a window and windows of one length are needed, not of (tokens, frames) {lengths}")
    return {
        **_padded("speech_token", [window.speech_token for window in windows]),
        **_padded("speech_feat", [window.speech_feat for window in windows]),
        "embedding": torch.stack(list(embeddings)),
    }


def collate_draws(draws: Sequence[FlowDraw]) -> dict[str, Tensor]:
    """A batch of `collate_flow`, of windows of one length, with t (B, 1, 1), keep (B,) and noise (B, 80, T)."""
    return {
        **collate_flow([draw.window for draw in draws], [draw.embedding for draw in draws]),
        "t": torch.tensor([draw.t for draw in draws]).view(-1, 1, 1),
        "keep": torch.tensor([draw.keep for draw in draws]),
        "noise": torch.stack([draw.noise for draw in draws]),
    }
