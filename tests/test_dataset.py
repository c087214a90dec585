"""Shards, checks, held-out clips, aligned windows and batches."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dataset
from config import UserError
from cosyvoice.utils.common import token_to_mel_length
from dataset import (
    SCHEMA,
    Clip,
    FlowWindow,
    check_shards,
    collate_flow,
    collate_llm,
    flow_window,
    hold_out,
    list_clips,
    read_rows,
    write_shard,
)

META = {"token_rate_hz": 50, "text_token_size": 100, "speech_token_size": 64}


def row(utt: str = "001", tokens: int = 50, **changes: object) -> dict:
    rng = np.random.default_rng(len(utt) + tokens)
    frames = token_to_mel_length(tokens, 50)
    values = {
        "utt": utt,
        "wav": f"{utt}.wav",
        "text": f"你好 {utt}",
        "text_token": [1, 2, 99],
        "speech_token": rng.integers(0, 64, tokens).tolist(),
        "speech_feat": rng.normal(size=frames * 80).astype(np.float32),
        "speech_feat_len": frames,
        "utt_embedding": rng.normal(size=192).astype(np.float32),
        "spk_embedding": np.ones(192, dtype=np.float32),
        "duration_sec": tokens / 50,
        "fingerprint": f"f{utt}",
    }
    return {**values, **changes}


def data_dir(folder: Path, *rows: dict, meta: dict | None = META) -> Path:
    folder.mkdir(exist_ok=True)
    write_shard(folder / "clips.parquet", rows or [row()], meta)
    (folder / "data.list").write_text("clips.parquet\n", encoding="utf-8")
    return folder


def clip(utt: str = "001", tokens: int = 50, frames: int | None = None, text: str | None = None) -> Clip:
    """Frame t of the mel holds t, token i is i: alignment can be read off."""
    frames = token_to_mel_length(tokens, 50) if frames is None else frames
    return Clip(
        utt=utt,
        wav=f"{utt}.wav",
        text=text or utt,
        text_token=torch.arange(3),
        speech_token=torch.arange(tokens),
        speech_feat=torch.arange(frames, dtype=torch.float32)[:, None].repeat(1, 80),
        utt_embedding=torch.full((192,), float(tokens)),
        spk_embedding=torch.ones(192),
        duration=tokens / 50,
        fingerprint=f"f{utt}",
    )


# ---- parquet ---------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_written(tmp_path):
    rows = [row("001", 50), row("子/002", 31)]
    clips = read_rows(data_dir(tmp_path / "数据", *rows))
    assert [c.utt for c in clips] == ["001", "子/002"]
    for read, written in zip(clips, rows, strict=True):
        assert read.speech_token.tolist() == written["speech_token"]
        assert read.text_token.dtype == read.speech_token.dtype == torch.int64
        assert read.speech_feat[:].shape == (written["speech_feat_len"], 80)
        np.testing.assert_array_equal(read.speech_feat[:].numpy().reshape(-1), written["speech_feat"])
        np.testing.assert_array_equal(read.utt_embedding.numpy(), written["utt_embedding"])
        assert (read.text, read.duration, read.fingerprint) == tuple(
            written[k] for k in ("text", "duration_sec", "fingerprint")
        )
    assert dataset.read_meta(tmp_path / "数据") == META


def test_equal_rows_give_equal_bytes(tmp_path):
    write_shard(tmp_path / "a.parquet", [row()], META)
    write_shard(tmp_path / "b.parquet", [row()], META)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_failed_write_leaves_the_old_shard(tmp_path):
    path = tmp_path / "clips.parquet"
    write_shard(path, [row()])
    before = path.read_bytes()
    with pytest.raises(pa.ArrowException):
        write_shard(path, [row(text_token=["word"])])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clips.parquet"]


def test_shard_in_a_missing_or_closed_place_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/clips.parquet"):
        write_shard(tmp_path / "file" / "clips.parquet", [row()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speech_feat_len": 85}, "speech_feat has 6880 values for 85 frames of 80"),
        ({"speech_token": []}, "speech_token has no values"),
        ({"text_token": []}, "text_token has no values"),
        ({"text_token": [100]}, r"text_token 100 is outside 0\.\.99"),
        ({"speech_token": [3, -1]}, r"speech_token -1 is outside 0\.\.63"),
        ({"utt_embedding": [0.0] * 191}, "utt_embedding has 191 values instead of 192"),
        ({"spk_embedding": [float("nan")] * 192}, "spk_embedding has NaN or infinite values"),
        ({"speech_feat": np.full(86 * 80, np.inf, dtype=np.float32)}, "speech_feat has NaN or infinite values"),
        ({"speech_feat": np.full(86 * 80, 1e30, dtype=np.float32)}, "speech_feat has values beyond 100"),
        ({"text_token": [1, None, 3]}, "text_token has empty values"),
        ({"duration_sec": 0.0}, "duration_sec is 0.0"),
        ({"duration_sec": float("nan")}, "duration_sec is nan"),
        ({"fingerprint": None}, "row 0: fingerprint is empty"),
        ({"speech_token": None}, "row 0: speech_token is empty"),
    ],
)
def test_a_bad_value_is_named_with_file_and_remedy(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(data_dir(tmp_path, row(**changes)))
    assert "clips.parquet" in str(caught.value) and "prepare_joint_data.py" in str(caught.value)
    assert isinstance(caught.value, UserError)


def test_the_row_of_an_empty_value_is_counted_over_all_row_groups(tmp_path):
    rows = [row(f"{number:03}") for number in range(40)]
    with pytest.raises(ValueError, match="clips.parquet, row 37: text is empty"):
        read_rows(data_dir(tmp_path, *rows[:37], row("037", text=None), *rows[38:]))


def test_a_missing_column_is_named(tmp_path):
    pq.write_table(pa.Table.from_pylist([row()], schema=SCHEMA).drop_columns(["speech_feat"]), tmp_path / "x.parquet")
    (tmp_path / "data.list").write_text("x.parquet\n")
    with pytest.raises(ValueError, match="x.parquet lacks the column speech_feat"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.append_column("text", table["text"]), "has several columns text"),
        (lambda table: table.set_column(4, "speech_token", pa.array([["a"]])), "is not a readable parquet file"),
        (lambda table: table.set_column(4, "speech_token", pa.array([[2**40]])), "is not a readable parquet file"),
        (lambda table: table.set_column(6, "speech_feat_len", pa.array([{"a": 1}])), "is not a readable parquet file"),
        (lambda table: table.set_column(2, "text", pa.array([b"\xff"])), "is not a readable parquet file"),
    ],
)
def test_columns_that_are_not_as_they_should_be_are_a_clear_error(tmp_path, change, message):
    pq.write_table(change(pa.Table.from_pylist([row()], schema=SCHEMA)), tmp_path / "x.parquet")
    (tmp_path / "data.list").write_text("x.parquet\n")
    with pytest.raises(UserError, match=f"x.parquet {message}.*; run: python prepare_joint_data.py"):
        read_rows(tmp_path)


def test_a_damaged_footer_is_one_clear_line_and_never_loses_clips(tmp_path):
    path = data_dir(tmp_path, *(row(f"{number:03}") for number in range(5))) / "clips.parquet"
    whole, rng = path.read_bytes(), random.Random(0)
    size = int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for _ in range(80):
        content = bytearray(whole)
        content[len(whole) - 8 - rng.randrange(1, size)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            check_shards([path], META)
            assert len(list_clips(tmp_path)) == 5
        except UserError as error:
            assert "clips.parquet" in str(error) and "prepare_joint_data.py" in str(error)
            refused += 1
    assert refused > 20


def test_a_shard_of_another_tool_with_wider_types_is_read(tmp_path):
    wide = pa.schema([(f.name, pa.list_(pa.float64()) if f.name == "utt_embedding" else f.type) for f in SCHEMA])
    pq.write_table(pa.Table.from_pylist([row()], schema=wide), tmp_path / "x.parquet")
    (tmp_path / "data.list").write_text("x.parquet\n")
    assert read_rows(tmp_path)[0].utt_embedding.dtype == torch.float32
    assert dataset.read_meta(tmp_path) == {}


def test_two_clips_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two clips are called '001'"):
        read_rows(data_dir(tmp_path, row(), row()))


def test_shards_of_different_models_are_refused(tmp_path):
    write_shard(tmp_path / "a.parquet", [row("a")], META)
    write_shard(tmp_path / "b.parquet", [row("b")], {**META, "token_rate_hz": 25})
    (tmp_path / "data.list").write_text("a.parquet\nb.parquet\n")
    with pytest.raises(ValueError, match="b.parquet was made with other models"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("data_list", "message"),
    [
        (None, r"no training data in .* \(data.list is missing\); run: python prepare_joint_data.py"),
        ("\n", "data.list is empty"),
        ("gone.parquet\n", "names .*gone.parquet, which is not there"),
        ("broken.parquet\n", "broken.parquet is not a readable parquet file"),
        ("../broken.parquet\n", "broken.parquet, which is in another folder"),
        ("/etc/passwd\n", "/etc/passwd, which is in another folder"),
        (".\n", "which is a folder, not a file"),
        ("a\0b\n", "which cannot be opened"),
        (f"{'x' * 5000}\n", "which cannot be opened"),
        ("声音.parquet\n", "data.list is not UTF-8 text; save it as UTF-8"),  # written below as GBK
    ],
)
def test_a_data_list_that_leads_nowhere_is_a_clear_error(tmp_path, data_list, message):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    if data_list is not None:
        (tmp_path / "data.list").write_text(data_list, encoding="gbk")
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("data", "python prepare_joint_data.py --input-dir FOLDER --force, with the folder of its recordings for"),
        ("mine", "python prepare_joint_data.py --input-dir FOLDER --output-dir mine --force, with the folder of its"),
    ],
)
def test_recordings_that_nobody_noted_down_are_asked_for_in_words(tmp_path, monkeypatch, folder, command):
    """A command without --input-dir would replace these clips by those of raw_audio."""
    monkeypatch.chdir(tmp_path)
    data_dir(tmp_path / folder)
    assert dataset.prepare_again(Path(folder)).startswith(command)
    (tmp_path / folder / "meta.json").write_text("[]")
    assert dataset.prepare_again(Path(folder)).startswith(command)


def test_the_first_preparation_needs_no_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dataset.prepare_again(Path("data"), force=False) == "python prepare_joint_data.py"


def test_the_data_fingerprint_follows_names_order_and_content():
    one, two = clip("1"), clip("2")
    base = dataset.data_fingerprint([one, two])
    assert base == dataset.data_fingerprint([clip("1"), clip("2")])
    changed = [[two, one], [one], [one, replace(two, utt="3")], [one, replace(two, fingerprint="x")]]
    assert len({base, *map(dataset.data_fingerprint, changed)}) == 5


# ---- held-out clips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clips", "held"), [(1, 0), (7, 0), (8, 2), (20, 2), (30, 3), (50, 5), (200, 5)])
def test_two_to_five_clips_are_held_out_and_none_below_eight(clips, held):
    made = [clip(f"{i:03}", 10 + i) for i in range(clips)]
    training, validation = hold_out(made, seed=1)
    assert len(validation) == held
    assert [c.utt for c in sorted(training + validation, key=lambda c: c.utt)] == [c.utt for c in made]


def test_held_out_clips_depend_on_the_seed_alone_and_spread_over_durations():
    made = [clip(f"{i:03}", 10 + 7 * i % 40) for i in range(40)]
    chosen = {seed: {c.utt for c in hold_out(made, seed)[1]} for seed in range(10)}
    assert chosen[3] == {c.utt for c in hold_out(made[::-1], 3)[1]}
    assert len({frozenset(names) for names in chosen.values()}) > 5
    by_duration = sorted(made, key=lambda c: (c.duration, c.utt))
    for names in chosen.values():
        assert sorted(i // 10 for i, c in enumerate(by_duration) if c.utt in names) == [0, 1, 2, 3]


def test_a_text_that_is_also_trained_on_is_not_held_out():
    made = [clip(f"{i}", 20 + i, text=f"text {i // 2}" if i < 6 else f"text {i}") for i in range(12)]
    for seed in range(20):
        assert all(int(c.utt) >= 6 for c in hold_out(made, seed)[1])


def test_takes_of_one_text_are_held_out_together_where_every_text_has_some():
    made = [clip(f"{i}", 20 + i, text=f"text {i // 2}") for i in range(20)]
    for seed in range(20):
        training, validation = hold_out(made, seed)
        assert not {c.text for c in training} & {c.text for c in validation}
        assert (len(training), len(validation)) == (16, 4)
    same = [clip(f"{i}", 20 + i, text=f"text {i % 2}") for i in range(20)]
    assert [len(part) for part in hold_out(same, 1)] == [18, 2], "two texts: nothing can be unknown"


def test_a_fixed_number_of_clips_can_be_held_out():
    made = [clip(str(i), 20 + i) for i in range(5)]
    assert [len(part) for part in hold_out(made, 1, count=1)] == [4, 1]
    assert [len(part) for part in hold_out(made, 1, count=0)] == [5, 0]
    with pytest.raises(ValueError, match="validation_clips = 5 leaves none of 5 clips"):
        hold_out(made, 1, count=5)


# ---- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [25, 50])
def test_the_largest_token_count_is_the_largest(rate):
    for frames in range(0, 700):
        n = dataset.largest_token_count(frames, rate)
        assert token_to_mel_length(n, rate) <= frames < token_to_mel_length(n + 1, rate)


@pytest.mark.parametrize("rate", [25, 50])
@pytest.mark.parametrize("tokens", [147, 200, 611])
def test_windows_are_aligned_within_half_a_frame_and_never_leave_the_clip(rate, tokens):
    made = clip(tokens=tokens, frames=token_to_mel_length(tokens, rate))
    rng = random.Random(0)
    starts = set()
    for _ in range(300):
        window = flow_window(made, 250, rate, rng)
        token_start, feat_start = int(window.speech_token[0]), float(window.speech_feat[0, 0])
        assert abs(feat_start - token_start * 22050 / 256 / rate) <= 1
        assert len(window.speech_feat) == token_to_mel_length(len(window.speech_token), rate) <= 250
        assert token_to_mel_length(len(window.speech_token) + 1, rate) > 250 or len(window.speech_token) == tokens
        starts.add(token_start)
    longest = dataset.largest_token_count(250, rate)
    assert starts == {0} if longest >= tokens else {0, tokens - longest} <= starts or len(starts) > 100


def test_a_short_clip_is_taken_whole_and_draws_nothing():
    rng = random.Random(5)
    state = rng.getstate()
    window = flow_window(clip(tokens=50), 250, 50, rng)
    assert rng.getstate() == state
    assert (len(window.speech_token), len(window.speech_feat)) == (50, 86)


@pytest.mark.parametrize(("tokens", "frames", "kept"), [(50, 90, (50, 86)), (53, 86, (50, 86)), (1, 400, (1, 1))])
def test_tokens_and_mel_are_cut_to_what_both_cover(tokens, frames, kept):
    window = dataset.whole_window(clip(tokens=tokens, frames=frames), 50)
    assert (len(window.speech_token), len(window.speech_feat)) == kept


def test_a_window_shorter_than_a_token_is_refused():
    with pytest.raises(ValueError, match="max_feat_len = 0 is less than one speech token"):
        flow_window(clip(), 0, 50, random.Random(0))
    with pytest.raises(ValueError, match="clip '001': 0 mel frames are less than one speech token"):
        dataset.whole_window(clip(frames=0), 50)


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_llm_batches_are_padded_with_zeros_and_carry_lengths():
    batch = collate_llm([clip("1", 5), clip("2", 3)])
    assert batch["speech_token"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]]
    assert batch["speech_token_len"].tolist() == [5, 3] and batch["speech_token_len"].dtype == torch.int32
    assert batch["text_token"].shape == (2, 3) and batch["text_token"].dtype == torch.int64
    assert batch["text_token_len"].tolist() == [3, 3]
    torch.testing.assert_close(batch["embedding"], torch.ones(2, 192))


def test_the_utterance_vector_can_be_chosen():
    batch = collate_llm([clip("1", 5), clip("2", 3)], "utterance")
    assert batch["embedding"][:, 0].tolist() == [5.0, 3.0]
    assert dataset.speaker_vector(clip("1", 5), "mean")[0] == 1


def test_flow_batches_hold_windows_of_one_length():
    short, long = (dataset.whole_window(clip(tokens=n), 50) for n in (20, 30))
    vectors = [torch.full((192,), float(i)) for i in range(2)]
    batch = collate_flow([short, short], vectors)
    assert batch["speech_token"].shape == (2, 20) and batch["speech_token_len"].tolist() == [20, 20]
    assert batch["speech_feat"].shape == (2, 34, 80) and batch["speech_feat_len"].tolist() == [34, 34]
    assert batch["embedding"][:, 0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="windows of one length"):
        collate_flow([short, long], vectors)


def test_one_vector_for_each_window_is_needed():
    with pytest.raises(ValueError):
        collate_flow([FlowWindow(torch.arange(2), torch.zeros(3, 80))], [])


@pytest.mark.parametrize(
    ("budget", "alike", "expected"),
    [
        (1, False, [[1], [3], [0], [2], [4]]),
        (18, False, [[1], [3, 0], [2, 4]]),
        (20, False, [[1, 3], [0, 2, 4]]),
        (1000, False, [[1, 3, 0, 2, 4]]),
        (1000, True, [[1], [3], [0], [2, 4]]),
        (9, True, [[1], [3], [0], [2], [4]]),
    ],
)
def test_batches_are_filled_by_length_up_to_the_budget(budget, alike, expected):
    assert dataset.pack([6, 10, 5, 9, 5], budget, alike) == expected


def test_what_is_drawn_for_the_flow_depends_on_its_generator_alone():
    made = clip(tokens=400, frames=token_to_mel_length(400, 50))
    one, same, other = (dataset.draw_flow(made, 250, 50, 0.2, "mean", random.Random(seed)) for seed in ("a", "a", "b"))
    assert torch.equal(one.noise, same.noise) and torch.equal(one.window.speech_feat, same.window.speech_feat)
    assert (one.t, one.keep) == (same.t, same.keep)
    assert one.t != other.t and not torch.equal(one.noise, other.noise)
    assert one.noise.shape == one.window.speech_feat.T.shape


def test_guidance_dropout_takes_its_share():
    kept = [dataset.draw_flow(clip(), 250, 50, 0.2, "mean", random.Random(i)).keep for i in range(500)]
    assert 0.74 < sum(kept) / len(kept) < 0.86
