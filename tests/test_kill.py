"""What is killed without warning leaves the old or the new, or is told; what is resumed ends as if unbroken."""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from kill_and_resume import main
from killing import killed_at
from random_data import write_random_data

import merge_joint_weights
import train_joint
from checkpoint import load_checkpoint
from common.files import move_aside, only_run, save_torch
from common.manifest import odd_one, replace_together, replacing
from config import UserError
from voice.loading import Source, find_weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
TRIO = ("llm_merged_joint.pt", "flow_merged_joint.pt", "spk2info.pt")


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_weights(tiny_model_dir, tmp_path):
    data = write_random_data(tmp_path / "data")
    assert main(["--model-dir", str(tiny_model_dir), "--data-dir", str(data), "--kills", "4", "--epochs", "8"]) == 0


def put(folder: Path, content: str) -> None:
    """All of TRIO with this content, written together."""
    files = [folder / name for name in TRIO[::-1]]
    with replacing([folder]):
        for file in files:
            file.with_name(f"{file.name}.new").write_text(content, encoding="utf-8")
        replace_together({file: file.with_name(f"{file.name}.new") for file in files}, {"content": content})


@pytest.mark.parametrize("listed", [True, False], ids=["manifest", "of an older version"])
def test_files_that_are_replaced_together_are_the_old_the_new_or_told(listed, tmp_path):
    """And whatever was left behind, the next ones are read."""
    outcomes = []
    for number in range(1, 100):
        folder = tmp_path / str(number)
        put(folder, "old")
        if not listed:
            (folder / "merged.json").unlink()
        ended = not killed_at(number, folder, lambda folder=folder: put(folder, "new"))
        contents = {(folder / name).read_text(encoding="utf-8") for name in TRIO}
        told = odd_one(folder / name for name in TRIO)
        outcomes.append("told" if told else " and ".join(sorted(contents)))
        assert told is None or told[1] == {"content": "new"}
        put(folder, "next")
        assert odd_one(folder / name for name in TRIO) is None
        if ended:
            break
    assert ended and {*outcomes} == {"old", "told", "new"}


RUN = ("joint_joint_last.ckpt", "llm_merged_joint.pt", "flow_merged_joint.pt", "joint_logs/joint/metrics.csv")


def test_an_earlier_run_is_whole_in_one_place_wherever_its_move_is_killed(tmp_path):
    """After the next run has begun there, which may be killed as well. What they share is in both places."""

    def move(folder: Path) -> None:
        with only_run(folder, "train_joint.py"):
            paths = [folder / name for name in (*RUN[:3], "joint_logs/joint") if (folder / name).exists()]
            if paths:
                move_aside(paths, folder, "run", [folder / "spk2info.pt"])

    def lies_in(folder: Path) -> set[str]:
        return {name for name in (*RUN, "spk2info.pt") if (folder / name).is_file()}

    places = []
    for number in range(1, 100):
        folder = tmp_path / str(number)
        for name in (*RUN, "spk2info.pt", "joint_logs/flow_only/metrics.csv"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name, encoding="utf-8")
        ended = not killed_at(number, folder, lambda folder=folder: move(folder))
        for again in range(1, 4):
            killed_at(again, folder, lambda folder=folder: only_run(folder, "train_joint.py").__enter__())
        with only_run(folder, "train_joint.py"):
            pass
        aside = list(folder.glob("previous_*"))
        places.append(bool(aside))
        assert lies_in(folder) == ({"spk2info.pt"} if aside else {*RUN, "spk2info.pt"})
        assert all(lies_in(target) == {*RUN, "spk2info.pt"} for target in aside)
        assert (folder / "joint_logs" / "flow_only" / "metrics.csv").is_file() and not list(folder.rglob("*.part"))
        if ended:
            break
    assert ended and {*places} == {True, False}


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory) -> Path:
    """Output folder with checkpoints of two speakers."""
    output = tmp_path_factory.mktemp("run")
    paths = ["--data-dir", write_random_data(output / "data"), "--model-dir", tiny_model_dir, "--output-dir", output]
    settings = ["--epochs", "1", "--lr", "2e-2", "--set", "eval_every_epochs=0", "--set", "accumulate_grad_batches=4"]
    assert train_joint.main([*map(str, paths), *settings]) == 0
    other = load_checkpoint(output / "joint_joint_last.ckpt")
    other["speaker"]["embedding"] = -other["speaker"]["embedding"]
    save_torch(other, output / "other.ckpt")
    return output


def merge(model_dir: Path, ckpt: Path, folder: Path, *arguments: object) -> int:
    paths = ["--model-dir", model_dir, "--ckpt", ckpt, "--output-dir", folder, *arguments]
    return merge_joint_weights.main([*map(str, paths)])


def trio(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in TRIO)


@pytest.mark.slow
def test_a_merge_that_is_killed_anywhere_leaves_a_voice_or_is_told(trained, tiny_model_dir, tmp_path, capsys):
    last, other = trained / "joint_joint_last.ckpt", trained / "other.ckpt"
    voices = {}
    for name, ckpt, scale in (("old", last, 1), ("new", other, 0.5)):
        assert merge(tiny_model_dir, ckpt, tmp_path / name, "--lora-scale", scale) == 0
        voices[trio(tmp_path / name)] = name
    folder = tmp_path / "tried"
    found, kills, seed = {}, 0, random.Random(int(os.environ.get("KILL_SEED", "0")))
    before = ["old", "old without manifest", "nothing"]
    while kills < 100:
        number, start = seed.randrange(1, 26), seed.choice(before)
        shutil.rmtree(folder, ignore_errors=True)
        if start != "nothing":
            shutil.copytree(tmp_path / "old", folder)
            if "without" in start:
                (folder / "merged.json").unlink(missing_ok=True)
        else:
            folder.mkdir()
        if not killed_at(number, folder, lambda: merge(tiny_model_dir, other, folder, "--lora-scale", "0.5")):
            continue
        kills += 1
        try:
            find_weights(Source(folder), tiny_model_dir)
            outcome = voices.get(trio(folder), "a mixture") if (folder / TRIO[2]).exists() else "no voice"
        except UserError:
            outcome = "told"
        found[outcome] = found.get(outcome, 0) + 1
        assert merge(tiny_model_dir, last, folder) == 0 and voices[trio(folder)] == "old"
        assert not list(folder.glob("*.part"))
    with capsys.disabled():
        print(f"\n{kills} kills: {found}")
    assert {*found} <= {"old", "new", "told"}


@pytest.mark.slow
def test_of_merges_at_once_each_that_ends_well_wrote_one_voice(trained, tiny_model_dir, tmp_path, capsys):
    """The last to end is the one that is found; whoever reads meanwhile finds one of them."""
    scales, voices, wrong = (0.25, 0.5, 0.75, 1), {}, []
    for scale in scales:
        assert (
            merge(tiny_model_dir, trained / "joint_joint_last.ckpt", tmp_path / f"{scale}", "--lora-scale", scale) == 0
        )
        voices[trio(tmp_path / str(scale))] = scale
    for number in range(20):
        folder = tmp_path / f"at once {number}"
        processes = []
        for scale in scales:
            if (process := os.fork()) == 0:
                code = 1
                try:
                    code = merge(tiny_model_dir, trained / "joint_joint_last.ckpt", folder, "--lora-scale", scale)
                finally:
                    os._exit(code)
            processes.append(process)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        if {*codes} != {0} or trio(folder) not in voices or list(folder.glob("*.part")):
            wrong.append((codes, voices.get(trio(folder))))
    with capsys.disabled():
        print(f"\n20 runs of 4 merges at once: {len(wrong)} wrong")
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("empty", [True, False])
def test_of_exports_to_one_folder_at_once_exactly_one_is_told_that_it_was_written(
    empty, trained, tiny_model_dir, tmp_path
):
    if empty:
        (tmp_path / "mine").mkdir()
    processes = []
    for scale in (0.25, 0.5, 1):
        if (process := os.fork()) == 0:
            export = ("--lora-scale", scale, "--export", tmp_path / "mine")
            code = 1
            try:
                code = merge(tiny_model_dir, trained / "joint_joint_last.ckpt", tmp_path, *export)
            finally:
                os._exit(code)
        processes.append(process)
    assert sorted(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes) == [0, 2, 2]
    assert not list(tmp_path.glob("*.part"))
    assert {path.name for path in tiny_model_dir.iterdir()} <= {path.name for path in (tmp_path / "mine").iterdir()}
    torch.load(tmp_path / "mine" / "llm.pt", weights_only=True)
