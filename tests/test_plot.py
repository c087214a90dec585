"""The table of losses that plot_joint.py draws, and the file that it draws them to."""

import io
import math
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure
from sound_files import cut

import plot_joint
from config import UserError, load
from plot_joint import read_metrics

LAST = Path("joint_joint_last.ckpt")
HEAD = "epoch,step,llm_train,llm_held_out,flow_train,flow_held_out\n"


def test_rows_are_numbers_and_empty_cells_are_nan(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEAD + "1,4,2.5,,1.5,\n", encoding="utf-8")
    [row] = read_metrics(path, LAST)
    assert (row["epoch"], row["llm_train"], row["flow_train"]) == (1, 2.5, 1.5)
    assert math.isnan(row["llm_held_out"]) and math.isnan(row["flow_held_out"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "1,4,2.5,,1.5,\n2,8,abc,,1.4,\n", "line 3 is not as training wrote it .could not convert.*'abc'"),
        (HEAD.replace(",", ";") + "1;4;2,5;;1,5;\n", "line 1 is not as training wrote it .no column epoch"),
        (HEAD + "1,4,2,5,,1,5,\n", "line 2 is not as training wrote it .another number of cells"),
        (HEAD.replace(",flow_train", ""), "line 1 is not as training wrote it .no column flow_train"),
        ("", "line 0 is not as training wrote it .the file is empty"),
    ],
)
def test_a_line_that_a_spreadsheet_changed_is_named(tmp_path, text, message):
    path = tmp_path / "metrics.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"metrics.csv: {message}"):
        read_metrics(path, LAST)


def test_another_encoding_is_named_and_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEAD + "1,4,2.5,,1.5,\n", encoding="utf-8-sig")
    assert read_metrics(path, LAST)[0]["epoch"] == 1
    path.write_text(HEAD, encoding="utf-16")
    with pytest.raises(UserError, match="metrics.csv is not UTF-8"):
        read_metrics(path, LAST)


def test_each_loss_is_drawn_beside_the_bases(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEAD + "1,4,2.5,,1.5,1.6\n2,8,2.4,,1.4,1.7\n", encoding="utf-8")
    rows, figure = read_metrics(path, LAST), Figure()
    for part, base, expected in [
        ("flow", {"train": 1.9, "held_out": 2.0}, ["train", "base model, train 1.90", "held out"]),
        ("llm", {"train": 3.0, "held_out": math.nan}, ["train", "base model, train 3.00"]),
    ]:
        axes = figure.add_subplot()
        plot_joint.draw_losses(axes, part, rows, base, threshold=0.3)
        expected += ["base model, held out 2.00"] if part == "flow" else []
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [*expected, "stops at 0.3"]
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert lines["train"].get_color() == lines[expected[1]].get_color()


def test_a_run_without_a_finished_epoch_is_gone_on_with_and_not_begun_anew(tmp_path):
    """A new run in its folder would move it aside."""
    last = tmp_path / "my voice" / LAST
    with pytest.raises(UserError, match="the run has no finished epoch; wait for one") as error:
        read_metrics(tmp_path / "metrics.csv", last)
    assert str(error.value).endswith(f": python train_joint.py --resume '{last}'")


def test_where_there_is_no_run_training_is_to_go_where_one_was_looked_for(tmp_path, capsys):
    assert plot_joint.main(["--output-dir", str(tmp_path)]) == 2
    assert f"; run: python train_joint.py --output-dir {tmp_path}, or give" in capsys.readouterr().err


@pytest.fixture
def run(monkeypatch) -> None:
    """A run without losses: only sounds are drawn."""
    checkpoint = {"mode": "joint", "epoch": 1, "step": 4, "training": {"parts": {}}}
    monkeypatch.setattr(plot_joint, "newest_run", lambda folder: folder / "joint_joint_last.ckpt")
    monkeypatch.setattr(plot_joint, "load_checkpoint", lambda path: checkpoint)
    monkeypatch.setattr(plot_joint, "checkpoint_config", lambda checkpoint, path: load())
    monkeypatch.setattr(plot_joint, "read_metrics", lambda *paths: [])


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF"), ("a.b.jpg", b"\xff\xd8")]
)
def test_a_picture_has_the_format_of_its_name(tmp_path, run, name, start):
    soundfile.write(tmp_path / "short.wav", np.full(256, 0.1), 22050)  # one speech token
    assert plot_joint.main(["--spoken", str(tmp_path / "short.wav"), "--picture", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["a", "a.doc", "a.pgf"])
def test_a_picture_of_a_format_that_cannot_be_written_is_refused(name, capsys):
    assert plot_joint.main(["--picture", name]) == 2
    assert f"--picture {name}: no format of that name can be written; end it in .png" in capsys.readouterr().err


def test_a_name_is_no_formula(tmp_path, run):
    soundfile.write(tmp_path / "5$^$.wav", np.full(4000, 0.1), 22050)
    arguments = ["--spoken", tmp_path / "5$^$.wav", "--picture", tmp_path / "a.png"]
    assert plot_joint.main([*map(str, arguments)]) == 0


def test_a_recording_that_was_cut_off_is_told_of(tmp_path, run, capsys):
    soundfile.write(tmp_path / "a.flac", 0.1 * np.random.default_rng(0).normal(size=66150), 22050)
    arguments = ["--real", cut(tmp_path / "a.flac"), "--picture", tmp_path / "a.png"]
    assert plot_joint.main([*map(str, arguments)]) == 0
    assert f"{tmp_path / 'a.flac'}: the file ends after " in capsys.readouterr().out


def test_letters_without_a_font_are_left_out_and_named_in_one_line(tmp_path, run, capsys):
    sounds = [tmp_path / f"\U0010fff0 {kind} \U0010fff1.wav" for kind in ("real", "spoken")]  # no font has these
    for sound in sounds:
        soundfile.write(sound, np.full(4000, 0.1), 22050)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments = ["--real", sounds[0], "--spoken", sounds[1], "--picture", tmp_path / "a.png"]
        assert plot_joint.main([*map(str, arguments)]) == 0
    said, wrote = capsys.readouterr().out.splitlines()
    assert said == r"no installed font has '\U0010fff0\U0010fff1'; the picture leaves it out"
    assert wrote == f"wrote {tmp_path / 'a.png'}"


def test_a_font_that_has_the_letters_is_taken_where_the_usual_one_lacks_them():
    with matplotlib.rc_context({"font.family": ["cmr10"]}), warnings.catch_warnings():  # a font of English letters
        warnings.simplefilter("error")
        assert plot_joint.undrawable("sound: Ж") == set()
        figure = Figure()
        figure.suptitle("sound: Ж")
        figure.savefig(io.BytesIO(), format="png")
