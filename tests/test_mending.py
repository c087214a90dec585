"""What --fix leaves out, keeps and refuses; tests/test_provoked.py has what it does to the sound."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_prepare import voice, write_clip

import prepare_joint_data
from clips import mending
from clips.mending import LOUDNESS_LUFS, loudness_lufs, mend
from common import files


@pytest.fixture
def raw(tmp_path) -> Path:
    """One clip with its text."""
    write_clip(tmp_path / "raw", "001.flac", "the first text", voice(3))
    return tmp_path / "raw"


def fix(raw: Path, code: int = 0) -> Path:
    """--fix on a folder; where the copies are."""
    assert prepare_joint_data.main(["--input-dir", str(raw), "--fix"]) == code
    return raw.with_name(f"{raw.name}_fixed")


def test_a_second_file_of_the_same_name_is_left_out_and_named(raw, capsys):
    write_clip(raw, "001.mp3", None, voice(2, seed=5))
    assert soundfile.info(fix(raw) / "001.wav").duration == 3
    assert "001.mp3: left out, 001.flac has the same name and is used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (lambda copies: (copies / "001.txt").write_text("corrected"), "001.txt was changed"),
        (lambda copies: write_clip(copies, "new.wav", None), "new.wav was added"),
        (lambda copies: (copies / "more").symlink_to(copies.parent), "more was added"),
        (lambda copies: (copies / "001.wav").unlink(), "001.wav was deleted"),
    ],
)
def test_work_on_the_copies_is_not_thrown_away(raw, capsys, work, what):
    copies = fix(raw)
    (copies / ".DS_Store").touch()  # by looking at the folder on a Mac
    assert fix(raw) == copies
    work(copies)
    before = {path: path.read_bytes() for path in copies.iterdir() if path.is_file()}
    fix(raw, code=2)
    assert f"{what} after --fix had written its copies; move {copies} away" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in copies.iterdir() if path.is_file()}


def test_what_the_copies_no_longer_tell_is_printed_and_kept(raw, capsys):
    write_clip(raw, "002.flac", "", voice(4))
    write_clip(raw, "003.flac", "mine", voice(4))
    (raw / "broken.wav").touch()
    (raw / "metadata.csv").write_text("003|another\n", encoding="utf-8")
    copies = fix(raw)
    told = [
        "broken.wav: cannot be read: the file is empty (0 bytes); record or copy it again",
        "002.flac: copied without its text, which is empty",
        "003.flac: copied with the text of 003.txt; metadata.csv has 'another'",
    ]
    printed = capsys.readouterr().out
    record = json.loads((copies / "fixed.json").read_text(encoding="utf-8"))["printed"]
    assert all(line in printed and line in record for line in told)
    assert not (copies / "002.txt").exists() and (copies / "003.txt").read_text(encoding="utf-8") == "mine\n"


@pytest.mark.parametrize("record", ['{"001.flac": []}', "not JSON", "[]", '{"files": 1}'])
def test_copies_without_a_record_of_what_was_written_are_kept(raw, capsys, record):
    copies = fix(raw)
    (copies / "fixed.json").write_text(record, encoding="utf-8")
    fix(raw, code=2)
    assert "does not say what --fix wrote" in capsys.readouterr().err
    assert (copies / "001.txt").exists()


@pytest.mark.parametrize(("inside", "given"), [(".", "."), ("sub", ".."), ("..", "raw")])
def test_copies_lie_beside_the_folder_however_it_is_given(raw, monkeypatch, inside, given):
    (raw / "sub").mkdir()
    monkeypatch.chdir(raw / inside)
    assert prepare_joint_data.main(["--input-dir", given, "--fix"]) == 0
    assert sorted(path.name for path in (raw.parent / "raw_fixed").iterdir()) == ["001.txt", "001.wav", "fixed.json"]


def test_a_full_disk_ends_with_its_reason_and_keeps_the_earlier_copies(raw, capsys):
    from test_mistakes import full_disk  # skips where the system has no such limit

    copies = fix(raw)
    write_clip(raw, "002.flac", "another text", voice(12))
    with full_disk(200_000):
        fix(raw, code=2)
    assert f"cannot write {copies}: File too large; nothing was left half-written" in capsys.readouterr().err
    assert sorted(path.name for path in copies.parent.iterdir()) == ["raw", "raw_fixed"]
    assert (copies / "001.wav").exists()


def test_copies_that_cannot_take_the_name_of_the_earlier_ones_leave_those_there(raw, monkeypatch, capsys):
    copies, rename = fix(raw), os.replace
    before = {path.name: path.read_bytes() for path in copies.iterdir()}

    def held(source: Path, target: Path) -> None:
        if target == copies and Path(source).name.startswith("raw_fixed.") and ".old." not in str(source):
            raise OSError(errno.EACCES, "Access is denied", source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "REPLACE_TRIES", 1)
        patch.setattr(os, "replace", held)
        fix(raw, code=2)
    assert f"cannot write {copies}: Access is denied; nothing was left half-written" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in copies.iterdir()} == before
    assert sorted(path.name for path in copies.parent.iterdir()) == ["raw", "raw_fixed"]
    fix(raw)


def test_an_earlier_copy_that_cannot_be_removed_does_not_stop_the_new_ones(raw, monkeypatch, capsys):
    copies, unlink = fix(raw), os.unlink

    def held(path: str, **options: object) -> None:
        if Path(path).name == "001.wav":
            raise PermissionError(errno.EACCES, "the file is in use", path)
        unlink(path, **options)

    (raw / "001.txt").write_text("a better text", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", held)
        fix(raw)
        assert (copies / "001.txt").read_text(encoding="utf-8") == "a better text\n"
        fix(raw, code=2)
    assert "raw_fixed.old.part is left of an earlier --fix and cannot be removed" in capsys.readouterr().err
    fix(raw)
    assert sorted(path.name for path in copies.parent.iterdir()) == ["raw", "raw_fixed"]


def test_a_run_killed_while_the_copies_change_places_leaves_the_earlier_ones_to_the_next(raw):
    copies = fix(raw)
    copies.rename(copies.with_name("raw_fixed.old.part"))
    (raw / "001.flac").write_bytes(b"")
    fix(raw, code=2)
    assert (copies / "001.wav").exists()


def test_what_does_not_come_along_is_named(raw, capsys):
    (raw / "001.txt").write_bytes("床前明月光".encode("gbk"))
    write_clip(raw, "talk.wav", None)
    (raw / "talk_split").mkdir()
    assert not (fix(raw) / "001.txt").exists()
    printed = capsys.readouterr().out
    assert "001.flac: copied without its text: 001.txt: line 1 is not UTF-8" in printed
    assert "talk.wav is left out, its clips in talk_split are used" in printed


def test_copies_are_not_replaced_by_none(raw, capsys):
    copies = fix(raw)
    (raw / "001.flac").write_bytes(b"")
    fix(raw, code=2)
    assert f"none of the 1 recordings in {raw} can be copied; 001.flac: cannot be read" in capsys.readouterr().err
    assert (copies / "001.wav").exists()


def test_film_sound_of_six_channels_is_brought_to_the_loudness_of_its_mix():
    samples = np.repeat(voice(2)[:, None], 6, axis=1)
    mended = mend(samples, 16_000).samples
    assert mended.shape == samples.shape
    assert loudness_lufs(mended.mean(axis=1, keepdims=True), 16_000) == pytest.approx(LOUDNESS_LUFS, abs=0.1)


def test_a_long_recording_s_loudness_is_that_of_its_middle(monkeypatch):
    monkeypatch.setattr(mending, "LONGEST_SEC", 2)
    quiet, loud = (gain * voice(2)[:, None] for gain in (0.01, 1))
    assert loudness_lufs(np.concatenate([quiet, loud, quiet]), 16_000) == loudness_lufs(loud, 16_000)
