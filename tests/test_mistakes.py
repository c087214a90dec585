"""What users get wrong and the system refuses, in all scripts: exit code 2, one clear line that names the thing, nothing half-written.

`SHOW_MISTAKES=1 pytest tests/test_mistakes.py` prints the table of cases, exit codes and messages.
"""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from random_data import write_random_data
from sources import ROOT

import evaluate_joint
import inference_joint
import merge_joint_weights
import plot_joint
import prepare_joint_data
import train_joint
from common.startup import leave_at_once

resource = pytest.importorskip("resource", reason="limits on file sizes are a Unix thing")

SCRIPTS = {
    "prepare": prepare_joint_data.main,
    "train": train_joint.main,
    "merge": merge_joint_weights.main,
    "inference": inference_joint.main,
    "evaluate": evaluate_joint.main,
    "plot": plot_joint.main,
}


@dataclass
class Place:
    """A user's folder, good until a case spoils it."""

    model: Path
    raw: Path
    data: Path
    output: Path

    def arguments(self, script: str) -> list[str]:
        """The command line of a run that would go well."""
        where = [] if script == "plot" else ["--model-dir", self.model]
        more = {
            "prepare": ["--input-dir", self.raw, "--output-dir", self.data, "--workers", "1", "--device", "cpu"],
            "train": ["--data-dir", self.data, "--output-dir", self.output, "--epochs", "1", "--device", "cpu"],
            "merge": ["--output-dir", self.output],
            "inference": ["--output-dir", self.output, "--text", "Good morning.", "--device", "cpu"],
            "evaluate": ["--output-dir", self.output, "--data-dir", self.data, "--device", "cpu"],
            "plot": ["--output-dir", self.output],
        }[script]
        return [*map(str, where), *map(str, more)]


@dataclass(frozen=True)
class Case:
    """One mistake: which script, how the place is spoiled, extra arguments, and what the message must say."""

    name: str
    script: str
    spoil: Callable[[Place], object]
    message: str
    extra: tuple[str, ...] = ()
    around: Callable[[], object] = field(default=nullcontext)


@contextmanager
def full_disk(longest_file: int = 100_000) -> Iterator[None]:
    """No file may grow beyond so many bytes: writing fails in the middle, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest_file, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def only_clip(place: Place, write: Callable[[Path], object], text: str | None = "good morning") -> None:
    """Replace the recordings by one that `write` makes."""
    shutil.rmtree(place.raw)
    place.raw.mkdir()
    write(place.raw / "001.wav")
    if text is not None:
        (place.raw / "001.txt").write_text(text, encoding="utf-8")


def speech(path: Path, seconds: float = 2.0, rate: int = 16000) -> None:
    noise = np.random.default_rng(0).standard_normal(int(seconds * rate))
    soundfile.write(path, 0.1 * noise * np.sin(np.linspace(0, 60, len(noise))), rate)


def change(path: Path, edit: Callable[[dict], object]) -> None:
    """Load, edit and save a weight file or checkpoint."""
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


LAST, BEST = "joint_joint_last.ckpt", "joint_joint_best.ckpt"
CASES = [
    Case("a wav that is not audio", "prepare", lambda p: only_clip(p, lambda f: f.write_bytes(b"not audio")), "001: it is text and not a recording"),
    Case("an empty text", "prepare", lambda p: only_clip(p, speech, ""), "001: the transcript holds nothing"),
    Case("no text at all", "prepare", lambda p: only_clip(p, speech, None), "001: "),
    Case("7 kHz recordings", "prepare", lambda p: only_clip(p, lambda f: speech(f, rate=7000)), "001: 7000 Hz is below 8000 Hz"),
    Case("a clip of 31 s", "prepare", lambda p: only_clip(p, lambda f: speech(f, 31)), "001: 31.0 s is over 30 s"),
    Case("no clips", "prepare", lambda p: (shutil.rmtree(p.raw), p.raw.mkdir()), "raw_audio"),
    Case("no input folder", "prepare", lambda p: shutil.rmtree(p.raw), "raw_audio"),
    Case("no campplus.onnx", "prepare", lambda p: (p.model / "campplus.onnx").unlink(), "campplus.onnx"),
    Case("an ONNX file that is none", "prepare", lambda p: (p.model / "campplus.onnx").write_bytes(b"x"), "campplus.onnx"),
    Case("a file for the input folder", "prepare", lambda p: (shutil.rmtree(p.raw), p.raw.touch()), "raw_audio is not a folder"),
    Case("a file for the output folder", "prepare", lambda p: (shutil.rmtree(p.data), p.data.touch()), "data"),
    Case("no prepared data", "train", lambda p: shutil.rmtree(p.data), "python prepare_joint_data.py"),
    Case("a shard cut in half", "train", lambda p: truncate(next(p.data.glob("*.parquet"))), "not a readable parquet file"),
    Case("no llm.pt", "train", lambda p: (p.model / "llm.pt").unlink(), "llm.pt"),
    Case("flow.pt cut in half", "train", lambda p: truncate(p.model / "flow.pt"), "flow.pt: is incomplete (the end of the file is missing); download it again"),
    Case("campplus.onnx cut in half", "prepare", lambda p: truncate(p.model / "campplus.onnx"), "download it again"),
    Case("resuming half a file", "train", lambda p: truncate(p.output / LAST), f"output/{BEST}", ("--resume", LAST)),
    Case("llm.pt without a key", "train", lambda p: change(p.model / "llm.pt", lambda s: s.pop("llm_decoder.bias")), "llm_decoder.bias"),
    Case("NaN in flow.pt", "train", lambda p: change(p.model / "flow.pt", lambda s: s["encoder_proj.bias"].fill_(torch.nan)), "encoder_proj.bias"),
    Case("an llm.pt that runs code", "train", lambda p: torch.save({"x": RunsCode(p.model / "ran")}, p.model / "llm.pt"), "is not opened, as they could run code"),
    Case("a yaml that names os.system", "train", lambda p: hostile_yaml(p.model), "os.system"),
    Case("an absurd rank", "train", lambda p: None, "llm_lora.lora_r = -3: must be between", ("--set", "llm_lora.lora_r=-3")),
    Case("a setting that does not exist", "train", lambda p: None, "did you mean 'max_epochs'", ("--set", "max_epoch=3")),
    Case("a target that matches nothing", "train", lambda p: None, "['linear_x'] match no Linear layer", ("--set", "flow_lora.target_modules=['linear_x']")),
    Case("a full disk while training", "train", lambda p: None, "File too large; nothing was left half-written", (), full_disk),
    Case("a file for the output folder", "train", lambda p: (shutil.rmtree(p.output), p.output.touch()), "output"),
    Case("resuming nothing", "train", lambda p: None, "nothing.ckpt is not there", ("--resume", "nothing.ckpt")),
    Case("a checkpoint of another rank", "merge", lambda p: change(p.output / BEST, lambda c: c["config"]["llm_lora"].update(lora_r=4)), "which are not of rank 4"),
    Case("another base model", "merge", lambda p: change(p.model / "flow.pt", lambda s: s["encoder_proj.bias"].add_(1)), "another flow.pt"),
    Case("a folder for the checkpoint", "merge", lambda p: ((p.output / BEST).unlink(), (p.output / BEST).mkdir()), "is a folder"),
    Case("a full disk while merging", "merge", lambda p: None, "File too large; nothing was left half-written", (), full_disk),
    Case("half a checkpoint", "merge", lambda p: truncate(p.output / BEST), f"output/{LAST}"),
    Case("half a checkpoint and no other", "merge", lambda p: ([f.unlink() for f in p.output.glob("*.ckpt") if f.name != BEST], truncate(p.output / BEST)), "train again", ("--ckpt", BEST)),
    Case("half a base", "merge", lambda p: truncate(p.model / "llm.pt"), "llm.pt: is incomplete (the end of the file is missing); download it again"),
    Case("half a spk2info.pt", "merge", lambda p: truncate(p.output / "spk2info.pt"), "spk2info.pt: is incomplete (the end of the file is missing); delete it"),
    Case("no run to merge", "merge", lambda p: (p.output / LAST).unlink(), "python train_joint.py"),
    Case("merged LLM of another size", "inference", lambda p: ((p.output / "merged.json").unlink(), change(p.output / "llm_merged_joint.pt", lambda s: s.update({"llm_decoder.bias": torch.zeros(3)}))), "llm_decoder.bias"),
    Case("LLM and flow swapped", "inference", lambda p: shutil.copy(p.model / "flow.pt", p.output / "llm_merged_joint.pt"), "llm_merged_joint.pt"),
    Case("half a merged LLM", "inference", lambda p: truncate(p.output / "llm_merged_joint.pt"), "merge again: python merge_joint_weights.py --model-dir"),
    Case("half a merged flow", "inference", lambda p: truncate(p.output / "flow_merged_joint.pt"), "flow_merged_joint.pt: is incomplete (the end of the file is missing); merge again: "),
    Case("half a merged flow of an older run", "inference", lambda p: (truncate(p.output / "flow_merged_joint.pt"), newer_run(p.output)), f"output/{BEST}"),
    Case("half a merged flow without its run", "inference", lambda p: (truncate(p.output / "flow_merged_joint.pt"), [f.unlink() for f in p.output.glob("*.ckpt")], (p.output / "merged.json").unlink()), "copy it again"),
    Case("half a trained voice", "inference", lambda p: truncate(p.output / "spk2info.pt"), "merge again: python merge_joint_weights.py --model-dir"),
    Case("half a base to speak with", "inference", lambda p: truncate(p.model / "llm.pt"), "llm.pt: is incomplete (the end of the file is missing); download it again", ("--base",)),
    Case("half a hift.pt", "inference", lambda p: truncate(p.model / "hift.pt"), "hift.pt: is incomplete (the end of the file is missing); download it again"),
    Case("no hift.pt", "inference", lambda p: (p.model / "hift.pt").unlink(), "hift.pt"),
    Case("text without words", "inference", lambda p: None, "nothing in it can be spoken", ("--text", "?!")),
    Case("a folder for the wav", "inference", lambda p: (p.output / "result.wav").mkdir(), "result.wav is a folder; give the name of a file with --output"),
    Case("a pipe for the texts", "inference", lambda p: os.mkfifo(p.output / "texts.ckpt"), "a named pipe, not a file", ("--text-file", "texts.ckpt")),
    Case("a pipe for the checkpoint", "merge", lambda p: ((p.output / BEST).unlink(), os.mkfifo(p.output / BEST)), "is a named pipe, not a file", ("--ckpt", BEST)),
    Case("a pipe for the merged LLM", "inference", lambda p: os.mkfifo(p.output / "pipe.ckpt"), "is a named pipe, not a file", ("--llm", "pipe.ckpt")),
    Case("a pipe for llm.pt", "train", lambda p: ((p.model / "llm.pt").unlink(), os.mkfifo(p.model / "llm.pt")), "a named pipe, not a file"),
    Case("a pipe for hift.pt", "train", lambda p: ((p.model / "hift.pt").unlink(), os.mkfifo(p.model / "hift.pt")), "a named pipe, not a file"),
    Case("a pipe for the yaml", "inference", lambda p: ((p.model / "cosyvoice.yaml").unlink(), os.mkfifo(p.model / "cosyvoice.yaml")), "a named pipe, not a file"),
    Case("a pipe for campplus.onnx", "prepare", lambda p: ((p.model / "campplus.onnx").unlink(), os.mkfifo(p.model / "campplus.onnx")), "a named pipe, not a file"),
    Case("a pipe for data.list", "train", lambda p: ((p.data / "data.list").unlink(), os.mkfifo(p.data / "data.list")), "data.list"),
    Case("a pipe for finetune.yaml", "train", lambda p: os.mkfifo(p.model / "finetune.yaml"), "a named pipe, not a file"),
    Case("a full disk while speaking", "inference", lambda p: None, "File too large; nothing was left half-written", (), lambda: full_disk(1000)),
]  # fmt: skip


class RunsCode:
    """Unpickled without care it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def newer_run(output: Path) -> None:
    """Another run whose checkpoint was written later than the first one's."""
    other = shutil.copy(output / LAST, output / "joint_llm_only_last.ckpt")
    os.utime(other, (2**31, 2**31))


def hostile_yaml(model: Path) -> None:
    path = model / "cosyvoice.yaml"
    marker = model / "ran"
    path.write_text(
        f"{path.read_text(encoding='utf-8')}\nextra: !apply:os.system ['touch {marker}']\n", encoding="utf-8"
    )


@pytest.fixture(scope="module")
def good(tiny_model_dir, tmp_path_factory) -> Place:
    """A folder in which all four scripts go well."""
    root = tmp_path_factory.mktemp("good")
    place = Place(root / "model", root / "raw_audio", root / "data", root / "output")
    shutil.copytree(tiny_model_dir, place.model)
    place.raw.mkdir()
    for number in ("001", "002"):
        speech(place.raw / f"{number}.wav")
        (place.raw / f"{number}.txt").write_text("good morning", encoding="utf-8")
    write_random_data(place.data)
    assert train_joint.main([*place.arguments("train"), "--set", "eval_every_epochs=0"]) == 0
    return place


@pytest.mark.scripts
@pytest.mark.parametrize("case", CASES, ids=[f"{case.script}: {case.name}" for case in CASES])
def test_a_mistake_exits_2_with_one_clear_line(case, good, tmp_path, capsys):
    place = Place(tmp_path / "model", tmp_path / "raw_audio", tmp_path / "data", tmp_path / "output")
    for name in ("model", "raw", "data", "output"):
        shutil.copytree(getattr(good, name), getattr(place, name))
    case.spoil(place)
    arguments = place.arguments(case.script)
    if any(word.startswith("--text") for word in case.extra):
        del arguments[arguments.index("--text") : arguments.index("--text") + 2]
    extra = [str(place.output / word) if word.endswith((".wav", ".ckpt")) else word for word in case.extra]
    with case.around():
        code = SCRIPTS[case.script]([*arguments, *extra])
    error = capsys.readouterr().err
    message = next(line for line in error.splitlines()[::-1] if line.startswith("error: "))
    with capsys.disabled():
        if os.environ.get("SHOW_MISTAKES"):
            print(f"| {case.script} | {case.name} | {code} | {message.replace(str(tmp_path), '…')} |")
    assert code == 2
    assert case.message in message
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.part")) and not (place.model / "ran").exists()


def copied(good: Place, folder: Path) -> Place:
    """The good place once more, to be written to."""
    for name in ("model", "raw_audio", "data", "output"):
        shutil.copytree(good.model.parent / name, folder / name)
    return Place(*(folder / name for name in ("model", "raw_audio", "data", "output")))


DENIED = [
    *(("prepare", option) for option in ("--input-dir", "--model-dir")),
    *(("train", option) for option in ("--data-dir", "--model-dir", "--resume")),
    *(("merge", option) for option in ("--ckpt", "--output-dir", "--model-dir", "--llm-output", "--export")),
    *(("inference", option) for option in ("--ckpt", "--llm", "--output", "--output-dir", "--text-file")),
    *(("evaluate", option) for option in ("--ckpt", "--data-dir", "--model-dir", "--sentences")),
    *(("plot", option) for option in ("--output-dir", "--real", "--picture")),
]


@pytest.mark.parametrize(("script", "option"), DENIED)
def test_a_folder_that_may_not_be_searched_is_named(script, option, good, tmp_path, monkeypatch, capsys):
    locked, stat, arguments = tmp_path / "locked", os.stat, good.arguments(script)
    suffix = {"--output": ".wav", "--picture": ".png", "--llm-output": ".pt"}.get(option, "")

    def denied(path: object, *rest: object, **more: object) -> os.stat_result:
        if str(path).startswith(str(locked)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *rest, **more)

    if option == "--text-file":
        del arguments[arguments.index("--text") : arguments.index("--text") + 2]
    monkeypatch.setattr(os, "stat", denied)
    assert SCRIPTS[script]([*arguments, option, str(locked / f"a{suffix}")]) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert str(locked) in error and "Permission denied" in error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("script", SCRIPTS)
def test_standard_output_that_takes_nothing_ends_a_script_in_one_line(script, good, tmp_path, monkeypatch, capsys):
    place, silent = copied(good, tmp_path), ["--set", "eval_every_epochs=0"] if script == "train" else []
    with open("/dev/full", "w") as full:
        for output in (full, None):
            monkeypatch.setattr(sys, "stdout", output)
            assert SCRIPTS[script]([*place.arguments(script), *silent]) == 2
            assert "error: standard output" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.part"))


class FullAfter(io.StringIO):
    """A standard output whose disk is full once `word` was printed."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def write(self, text: str) -> int:
        if self.word in self.getvalue():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


@pytest.mark.parametrize(("word", "steps"), [("step    1/", 1), ("epoch   1 done", 2)])
def test_training_whose_output_breaks_saves_what_it_has_learned(word, steps, good, tmp_path, monkeypatch, capsys):
    place = copied(good, tmp_path)
    more = ["--epochs", "2", "--set", "eval_every_epochs=0", "--set", "accumulate_grad_batches=6"]
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", FullAfter(word))
        assert train_joint.main([*place.arguments("train"), *more]) == 2
    assert "error: standard output: No space left on device" in capsys.readouterr().err
    assert torch.load(place.output / LAST, weights_only=True)["step"] == steps
    resume = ["--resume", str(place.output / LAST), "--data-dir", str(place.data), "--model-dir", str(place.model)]
    assert train_joint.main([*resume, "--device", "cpu"]) == 0


def test_without_standard_error_a_script_does_its_work(good, tmp_path, monkeypatch):
    place = copied(good, tmp_path)
    monkeypatch.setattr(sys, "stderr", None)
    assert merge_joint_weights.main(place.arguments("merge")) == 0
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # what was None is a file to nowhere by now
    assert merge_joint_weights.main([*place.arguments("merge"), "--ckpt", str(tmp_path / "none")]) == 2


HOSTILE = "001\x1b[2J\x07\rerror: forged\u202e"


def test_names_of_files_cannot_steer_the_terminal(good, tmp_path, capsys):
    place = copied(good, tmp_path)
    (place.raw / "001.wav").rename(place.raw / f"{HOSTILE}\nerror: forged.wav")
    assert prepare_joint_data.main(place.arguments("prepare")) == 0
    hidden = tmp_path / f"{HOSTILE}\nerror: forged"
    assert merge_joint_weights.main([*place.arguments("merge"), "--ckpt", str(hidden)]) == 2
    printed = "".join(capsys.readouterr())
    assert not set(printed) & {"\x1b", "\x07", "\u202e"} and "\\x1b[2J\\x07" in printed
    assert not any(line.startswith("error: forged") for line in printed.split("\n"))
    assert "\rerror: forged" not in printed


LITTLE_MEMORY = """
import resource, sys
sys.path[:0] = {path!r}
import {module} as script
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))
sys.exit(script.main({arguments!r}))
"""
MODULES = {
    "merge": "merge_joint_weights",
    "train": "train_joint",
    "inference": "inference_joint",
    "evaluate": "evaluate_joint",
    "prepare": "prepare_joint_data",
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are a Linux thing")
@pytest.mark.parametrize(
    "script", ["merge", *(pytest.param(name, marks=pytest.mark.slow) for name in MODULES if name != "merge")]
)
def test_lack_of_memory_is_told_as_such(script, good, tmp_path):
    place = copied(good, tmp_path)
    program = LITTLE_MEMORY.format(path=[str(ROOT)], module=MODULES[script], arguments=place.arguments(script))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    error = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "not enough memory; close other programs" in error, done.stderr
    assert "download it again" not in error and not list(tmp_path.rglob("*.part"))


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
def test_ctrl_c_before_the_imports_are_done_leaves_no_traceback(tmp_path):
    script = tmp_path / "script.py"
    head = (ROOT / "train_joint.py").read_text(encoding="utf-8").partition("import argparse")[0]
    script.write_text(head + "import time\nprint('importing', flush=True)\ntime.sleep(60)\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # a process that shells run in the background ignores Ctrl-C, and so do those that it starts
    attended = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    run_it = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    command = [sys.executable, "-c", f"{attended}; {run_it}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as run:
        assert run.stdout.readline() == b"importing\n"
        run.send_signal(signal.SIGINT)
        assert run.communicate()[1] == b"stopped\n" and run.returncode == 130
    assert signal.getsignal(signal.SIGINT) is not leave_at_once  # importing scripts, as above, changes nothing


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize("script", MODULES)
def test_ctrl_c_at_any_time_of_the_imports_leaves_no_traceback(script, good, tmp_path):
    for tenths in range(2, 40, 2):
        place = copied(good, tmp_path / str(tenths))
        command = [sys.executable, ROOT / f"{MODULES[script]}.py", *place.arguments(script)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as run:
            time.sleep(tenths / 10)
            os.killpg(run.pid, signal.SIGINT)
            error = run.communicate()[1].decode()
        # -2: Python had done its work, and had handed signals back to the system
        assert run.returncode in ((130,) if tenths < 20 else (130, 0, -2)) and "Traceback" not in error, (tenths, error)
