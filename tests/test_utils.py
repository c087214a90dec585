"""What several scripts share."""

import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import inference_joint
import train_joint
import utils
from common import files
from common.files import atomic_path, check_output_dir, read_lines, split_lines, write_text
from config import UserError
from cosyvoice.utils.memory import is_out_of_memory
from utils import (
    DEFAULT_MODEL,
    command_line,
    default_folder,
    mistake_words,
    run_main,
    select_device,
    warn_of_unused_gpu,
)
from voice.speaking import write_audio


@pytest.mark.parametrize(
    ("script", "options", "expected"),
    [
        ("train_joint.py", {"data_dir": Path("output"), "model_dir": None}, "--data-dir output"),
        ("train_joint.py", {"data_dir": Path("data"), "output_dir": Path("data")}, "--output-dir data"),
        ("train_joint.py", {"data_dir": Path("./data"), "output_dir": Path("output")}, ""),
        ("train_joint.py", {"resume": Path("data"), "model_dir": Path("output")}, "--resume data --model-dir output"),
        ("prepare_joint_data.py", {"output_dir": Path("data")}, ""),
        ("prepare_joint_data.py", {"output_dir": Path("output")}, "--output-dir output"),
        ("prepare_joint_data.py", {"input_dir": Path("data")}, "--input-dir data"),
        ("prepare_joint_data.py", {"input_dir": Path("raw_audio"), "model_dir": Path(DEFAULT_MODEL)}, ""),
        ("inference_joint.py", {"output_dir": Path("output"), "llm": Path("output")}, "--llm output"),
    ],
)
def test_a_command_leaves_out_what_the_script_takes_by_itself_and_nothing_else(script, options, expected):
    assert command_line(script, **options) == f"python {script} {expected}".rstrip()


@pytest.mark.skipif(os.name == "nt", reason="makes links")
def test_a_printed_command_names_the_python_that_runs(tmp_path, monkeypatch):
    own, other = tmp_path / ".venv" / "bin", tmp_path / "usr" / "bin"
    for folder in (own, other):  # of one installation, as environments are
        folder.mkdir(parents=True)
        (folder / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(own))
    assert command_line("train_joint.py") == "python train_joint.py"
    monkeypatch.setenv("PATH", str(other))
    assert command_line("train_joint.py") == ".venv/bin/python train_joint.py"
    monkeypatch.chdir(other)
    monkeypatch.setenv("PATH", "")
    assert command_line("train_joint.py") == f"{own}/python train_joint.py"


@pytest.mark.parametrize(
    ("script", "needed"),
    [
        ("prepare_joint_data", []),
        ("train_joint", []),
        ("merge_joint_weights", []),
        ("inference_joint", ["--text", "x"]),
        ("evaluate_joint", []),
    ],
)
def test_default_folders_are_those_of_the_scripts(script, needed):
    args = importlib.import_module(script).parse_args(needed)
    for option in {"data_dir", "output_dir"} & set(vars(args)):
        if getattr(args, option) is not None:
            assert default_folder(f"{script}.py", option) == getattr(args, option)


def test_the_way_out_of_a_full_memory_is_one_of_the_script(monkeypatch, capsys):
    def full(args: object) -> int:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(train_joint, "train", full)
    monkeypatch.setattr(inference_joint, "infer", full)
    assert train_joint.main([]) == inference_joint.main(["--text", "x"]) == run_main(lambda: full(None)) == 2
    training, speaking, other = capsys.readouterr().err.splitlines()
    start, end = "error: the GPU is out of memory; close other programs that use it, ", "or use --device cpu"
    assert training == f"{start}{train_joint.SAVES_MEMORY}, {end}" and "gradient_checkpointing=True" in training
    assert speaking == f"{start}speak shorter texts, {end}" and other == start + end


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error there")
# in the stream's buffer to the end, and far more
@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 10**6])
def test_output_that_nobody_reads_ends_a_script_without_a_traceback(length):
    printing = f"import sys, utils; sys.exit(utils.run_main(lambda: print('x' * {length})))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", printing], cwd=utils.PROJECT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"stopped: nobody reads the output any more\n")


@pytest.mark.parametrize(
    ("built_for", "cause"), [("13.0", "a driver that is too old for CUDA 13.0"), (None, "is built for the CPU only")]
)
def test_a_gpu_that_cannot_be_used_is_warned_of_once(built_for, cause, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(utils.shutil, "which", lambda name: f"/usr/bin/{name}")
    for variable, lines in (("-1", 0), ("0", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
        warn_of_unused_gpu.cache_clear()
        assert select_device("auto") == select_device("auto") == select_device("cpu") == torch.device("cpu")
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == lines and all(line.startswith("WARNING: ") and cause in line for line in printed)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n\nb\n", ["a", "", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\vb\fc\u2028d\x85e\x1cf\ng", ["a\vb\fc\u2028d\x85e\x1cf", "g"]),
        ("a\rb\nc", ["a\rb", "c"]),
        ("old\rMac\r", ["old", "Mac"]),
    ],
)
def test_lines_are_those_that_an_editor_numbers(text, lines, tmp_path):
    assert split_lines(text) == lines
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_lines(path) == lines


@pytest.mark.parametrize("name", ["n" * 250, "n" * 255, "语" * 85])
def test_a_name_as_long_as_the_disk_takes_can_be_written(name, tmp_path):
    write_text(tmp_path / name, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / name) as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert (tmp_path / name).read_text() == "whole" and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_a_scanner_holds_for_a_moment_is_replaced_all_the_same(tmp_path, monkeypatch):
    original, refusals = os.replace, [PermissionError(13, "in use")] * 2

    def held(part: Path, path: Path | None = None) -> None:
        if refusals:
            raise refusals.pop()
        original(part, path)

    monkeypatch.setattr(files.os, "replace", held)
    monkeypatch.setattr(files, "REPLACE_SEC", 0.0)
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and not refusals
    refusals += [PermissionError(13, "in use")] * 100
    with pytest.raises(UserError, match="cannot write .*a: in use; nothing was left half-written"):
        write_text(tmp_path / "a", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "new"
    monkeypatch.setattr(files.Path, "unlink", held)  # what holds one file may hold the half-written one, too
    refusals += [PermissionError(13, "in use")] * 100
    with pytest.raises(UserError, match="in use"):
        write_text(tmp_path / "a", "newer")


def test_a_source_that_cannot_be_read_is_not_called_a_fault_of_the_copy(tmp_path):
    source = tmp_path / "source"
    with pytest.raises(UserError, match="source: No such file or directory; .*copy was not written"):
        with atomic_path(tmp_path / "copy") as part:
            part.write_bytes(source.read_bytes())
    with pytest.raises(UserError, match="cannot write .*copy: No such file or directory; nothing was left"):
        with atomic_path(tmp_path / "copy") as part:
            (part / "below").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write .*copy: No space left on device; nothing was left"):
        with atomic_path(tmp_path / "copy"):
            raise OSError(28, "No space left on device", str(source), None, "copy.part")  # as shutil.copyfile has it
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.pt", "a.wav", "a.flac"])
def test_a_file_that_cannot_be_opened_says_why_whoever_writes_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "own_part_name", "{}.part".format)
    (tmp_path / f"{name}.part").mkdir()
    write = files.save_torch if name == "a.pt" else lambda _, path: write_audio(path, torch.zeros(1, 9), 22050)
    with pytest.raises(UserError, match=f"cannot write .*{name}: Is a directory; nothing was left half-written"):
        write({}, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["n" * 256, "语" * 86, "new/" + "n" * 300, "n" * 300 + "/a", "a/" * 3000])
def test_a_longer_name_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(UserError, match="a name in it is too long for the disk; give a shorter one"):
        write_text(tmp_path / name, "")
    assert not list(tmp_path.iterdir())


def _caused(cause: Exception) -> Exception:
    error = RuntimeError("unable to open")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (_caused(MemoryError()), True),
        (RuntimeError("PytorchStreamReader failed reading file data/0"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_lack_of_memory_is_told_from_damage(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_an_interruption_that_a_library_gave_another_name_is_one(capsys):
    def work() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("problem in whisper") from error

    assert run_main(work) == 130 and capsys.readouterr().err == "stopped\n"


def test_a_symbolic_link_to_itself_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert run_main(lambda: check_output_dir(tmp_path / "loop", tmp_path)) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_what_a_bug_prints_cannot_steer_the_terminal(capsys):
    def bug() -> None:
        raise ZeroDivisionError("\x1b[2J")

    assert run_main(bug) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "\x1b" not in error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("CUDA error: out of memory"), "the GPU is out of memory"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "the GPU is out of memory"),
        (RuntimeError("could not create a primitive"), "there is not enough memory"),
        (ImportError("libx.so: cannot allocate memory in static TLS block"), ""),
    ],
)
def test_lack_of_memory_is_told_by_where_it_lacks(error, told):
    assert mistake_words(error).startswith(told) and bool(mistake_words(error)) == bool(told)
