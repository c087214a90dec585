"""Stored results and notes that cannot be read back: measured again, or refused in one line, and never a KeyError."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clips.mending import DONE, refuse_changed_copies
from clips.text_check import read_result
from config import UserError
from cosyvoice.utils.common import InputError
from cosyvoice.utils.records import limited, read_record
from dataset import META_KEY, read_meta
from prepare_joint_data import Recognised, read_recognised

BROKEN = ["", "{", "[]", "null", "1e999x", "[" * 5000, '"text"', "\x00", "{}"]


@pytest.mark.parametrize("text", [*BROKEN, "NaN", "Infinity", "[1]", "true"])
def test_a_stored_likelihood_that_is_no_number_is_computed_again(tmp_path: Path, text: str):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert read_result(tmp_path / "x.json") is None


@pytest.mark.parametrize(
    "text", [*BROKEN, '{"recogniser": "x"}', '{"recogniser": "x", "heard": 1, "language": "en"}', '{"heard": null}']
)
def test_a_stored_transcript_that_lacks_something_is_heard_again(tmp_path: Path, text: str):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert read_recognised(tmp_path / "x.json") is None


def test_a_stored_transcript_is_read_back(tmp_path: Path):
    stored = {"recogniser": "base", "heard": "你好", "language": "zh", "later": 1}
    (tmp_path / "x.json").write_text(json.dumps(stored), encoding="utf-8")
    assert read_recognised(tmp_path / "x.json") == Recognised("base", "你好", "zh")


@pytest.mark.parametrize("text", [*BROKEN, '{"files": []}', '{"files": {"a.wav": 1}}', '{"files": null}'])
def test_a_list_of_copies_that_cannot_be_read_replaces_nothing(tmp_path: Path, text: str):
    (tmp_path / DONE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="does not say what --fix wrote"):
        refuse_changed_copies(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *(text for text in BROKEN if text != "{}"),
        '{"text_token_size": "many"}',
        '{"text_token_size": NaN}',
        '{"speech_token_size": -1}',
        '{"extractors": []}',
        '{"extractors": {"campplus.onnx": 1}}',
        '{"text_normalizer": "mine"}',
        '{"text_normalizer": ["ours"]}',
    ],
)
def test_a_shard_with_wrong_notes_is_to_be_prepared_again(tmp_path: Path, text: str):
    schema = pa.schema([("utt", pa.string())], metadata={META_KEY: text.encode()})
    pq.write_table(pa.table({"utt": ["a"]}, schema=schema), tmp_path / "x.parquet")
    (tmp_path / "data.list").write_text("x.parquet\n", encoding="utf-8")
    with pytest.raises(UserError, match="x.parquet is not a readable .*; run: ") as error:
        read_meta(tmp_path)
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class Inner:
    count: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = limited("x", choices=("x", "y"))
    share: float | None = limited(None, low=0, high=1)
    inner: Inner | None = None
    pairs: dict[str, list[tuple[float, float]]]
    vector: torch.Tensor | None = None
    flag: bool = False


def test_a_record_takes_what_fits_and_leaves_out_what_it_does_not_know():
    found = read_record(Outer, {"pairs": {"a": [[1, 2.5]]}, "inner": {"count": 3, "more": 4}, "later": 5}, "f")
    assert found == Outer(pairs={"a": [(1, 2.5)]}, inner=Inner(3))


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({}, "pairs"),
        ({"pairs": {}, "name": "z"}, "name"),
        ({"pairs": {}, "share": 2}, "share"),
        ({"pairs": {}, "share": float("nan")}, "share"),
        ({"pairs": {}, "inner": {}}, "inner lacks 'count'"),
        ({"pairs": {}, "inner": {"count": True}}, "inner: count"),
        ({"pairs": {"a": [(1,)]}}, "pairs.a"),
        ({"pairs": {"a": [(1, "2")]}}, r"pairs.a\[0\]\[1\]"),
        ({"pairs": {1: []}}, "a name"),
        ({"pairs": {}, "vector": [1.0]}, "vector"),
        ({"pairs": {}, "flag": 1}, "flag"),
        ([], "holds no named values"),
    ],
)
def test_a_record_names_the_first_value_that_does_not_fit(data: object, place: str):
    with pytest.raises(InputError, match=f"^f.*{place}"):
        read_record(Outer, data, "f")
