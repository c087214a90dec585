"""clips/mel_store.py: mels come from the shard when they are needed, unchanged, and few are kept."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from damaged import damage_mel, in_one_group
from random_data import write_random_data

import training.step
from clips import mel_store
from clips.mel_store import MelStore
from common.signals import SignalGuard
from config import UserError, load
from cosyvoice.cli.cosyvoice import load_part
from dataset import CLIPS_PER_GROUP, Clip, collate_llm, data_fingerprint, list_clips, read_rows, shard_paths
from llm_flow_model import JointModel
from training import distributed
from training.state import make_run

CPU = torch.device("cpu")
CLIPS = 10


@pytest.fixture
def data_dir(tmp_path) -> Path:
    return write_random_data(tmp_path / "数据", CLIPS, shards=2)


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, int]]:
    """(file name, row group) of every read of mels from now on."""
    done, original = [], mel_store.read_group

    def read_group(path: Path, group: int) -> list:
        done.append((path.name, group))
        return original(path, group)

    monkeypatch.setattr(mel_store, "read_group", read_group)
    return done


def place(clip: Clip) -> tuple[str, int]:
    return clip.speech_feat.path.name, clip.speech_feat.group


def as_float64(path: Path) -> Path:
    """The shard as another tool may write it."""
    table = pq.read_table(path)
    number = table.column_names.index("speech_feat")
    wide = table.column(number).cast(pa.list_(pa.float64()))
    pq.write_table(table.set_column(number, "speech_feat", wide), path, row_group_size=3)
    return path


@pytest.mark.parametrize("layout", [None, in_one_group, as_float64])
def test_mels_are_those_of_the_file_in_any_layout(data_dir, layout):
    expected = [mel for path in shard_paths(data_dir) for mel in pq.read_table(path)["speech_feat"].to_pylist()]
    fingerprint = data_fingerprint(read_rows(data_dir))
    for path in shard_paths(data_dir) if layout else []:
        layout(path)
    clips = read_rows(data_dir)
    assert data_fingerprint(clips) == fingerprint
    for clip, values in zip(clips, expected, strict=True):
        mel = torch.tensor(values, dtype=torch.float32).view(-1, 80)
        assert len(clip.speech_feat) == len(mel)
        assert torch.equal(clip.speech_feat[:], mel) and clip.speech_feat[:].dtype == torch.float32
        assert torch.equal(clip.speech_feat[3:20], mel[3:20])


def test_listing_clips_and_batches_of_the_llm_read_no_mel(data_dir, reads):
    clips = list_clips(data_dir)
    collate_llm(clips)
    assert [len(clip.speech_feat) > 0 for clip in clips] == [True] * CLIPS
    assert reads == []
    clips[CLIPS_PER_GROUP].speech_feat[:1]
    assert reads == [("clips_000.parquet", 1)]


def test_a_shard_in_one_row_group_is_read_once_for_all_its_clips(data_dir, reads):
    for path in shard_paths(data_dir):
        in_one_group(path)
    for clip in list_clips(data_dir) * 2:
        assert len(clip.speech_feat[:]) == len(clip.speech_feat)
    assert reads == [("clips_000.parquet", 0), ("clips_001.parquet", 0)]


def test_what_was_used_last_is_kept_up_to_the_budget(data_dir, reads):
    path = shard_paths(data_dir)[0]
    sizes = [sum(values.nbytes for _, values in mel_store.read_group(path, group)) for group in range(3)]
    reads.clear()
    store = MelStore(budget_bytes=max(sizes[0] + sizes[1], sizes[1] + sizes[2], sizes[0] + sizes[2]))
    for group in (0, 1, 0, 2, 0, 1):
        store.rows(path, group)
        assert store.held_bytes <= store.budget_bytes
    assert [group for _, group in reads] == [0, 1, 2, 1], "1 had to make room for 2, being the one not used for longest"


def test_a_group_above_the_budget_is_kept_alone(data_dir, reads):
    path = shard_paths(data_dir)[0]
    store = MelStore(budget_bytes=1)
    for group in (0, 0, 1, 1):
        rows = store.rows(path, group)
        assert store.held_bytes == sum(values.nbytes for _, values in rows)
    assert [group for _, group in reads] == [0, 1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_reads_the_row_groups_of_its_clips_and_no_others(rank, data_dir, reads, tiny_model_dir, monkeypatch):
    config = load(["validation_clips=0", "max_feat_len=100"])[0]
    model = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)
    frames = {"llm": 500, "flow": 500}
    run = make_run(config, CPU, model, torch.float32, frames, list_clips(data_dir), data_dir, 50, {})
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    group = [run.train_clips[number] for number in (0, 3, 6, 9)]
    counts = {part.name: sum(training.step.clip_units(run, part, clip) for clip in group) for part in run.active}
    own = training.step.shared_out(group)
    assert reads == [] and len(own) == 2
    training.step.gradients(run, own, counts, SignalGuard())
    assert sorted(reads) == sorted(map(place, own))
    training.step.gradients(run, own, counts, SignalGuard())
    assert len(reads) == 2, "the second time they are in memory"


def other_clips(path: Path, clips: int) -> None:
    shutil.copy(write_random_data(path.parent / "other", clips, seed=1) / "clips_000.parquet", path)


CHANGES = {
    "vanished": lambda path: path.unlink(),
    "shortened": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "damaged": damage_mel,
    "of fewer clips": lambda path: other_clips(path, 2),
    "of other clips": lambda path: other_clips(path, 5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_that_changes_during_training_is_one_clear_error(change, data_dir):
    clip = list_clips(data_dir)[CLIPS_PER_GROUP]  # of the first shard's second row group, the one in its middle
    CHANGES[change](clip.speech_feat.path)
    message = r"clips_000.parquet changed after training had started \(.+\); put it back"
    with pytest.raises(UserError, match=message) as caught:
        clip.speech_feat[:]
    assert "\n" not in str(caught.value)


def test_a_shard_written_again_with_the_same_content_is_no_change(data_dir):
    clip = list_clips(data_dir)[0]
    write_random_data(data_dir, CLIPS, shards=2)
    assert len(clip.speech_feat[:]) == len(clip.speech_feat)


def test_damage_in_the_middle_of_a_shard_is_found_before_training(data_dir):
    damaged = damage_mel(shard_paths(data_dir)[1])
    assert len(list_clips(data_dir)) == CLIPS, "nothing else is wrong with it"
    with pytest.raises(UserError, match=f"{damaged.name} is not a readable parquet file .*; run: python prepare"):
        read_rows(data_dir)
