"""What --fix leaves out, keeps and refuses; tests/test_provoked.py has what it does to the sound."""

from pathlib import Path

import pytest
import soundfile
from test_prepare import voice, write_clip

import prepare_joint_data


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
