"""The fuzzer itself: every reader spoils what it reads, and what goes wrong in a try is told from what does not."""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz import attempt
from fuzz.attempt import Attempt, Reader, Try
from fuzz.place import make_sounds
from fuzz.readers import CKPT, LAST, MERGED, READERS
from random_data import write_random_data


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model_dir) -> Path:
    """Files of the kinds and names that readers spoil, none of them the outcome of a script."""
    place = tmp_path_factory.mktemp("fuzz") / "place"
    shutil.copytree(tiny_model_dir, place / "model")
    write_random_data(place / "data", n_clips=2)
    (place / "data/meta.json").write_text('{"text_token_size": 3, "extractors": {"campplus.onnx": "x"}}')
    (place / "data/cache").mkdir()
    np.savez(place / "data/cache/clip.npz", values=np.frombuffer(b'{"text": "x"}', np.uint8))
    (place / "output/joint_logs/joint").mkdir(parents=True)
    (place / "output/joint_logs/joint/metrics.csv").write_text("epoch,step\n1,2\n")
    for name in (CKPT, LAST):
        torch.save({"mode": "joint", "epoch": 1, "adapters": {"llm": {"x.lora_A": torch.ones(2, 3)}}}, place / name)
    for name in MERGED:
        shutil.copy(place / "model" / Path(name).name.replace("_merged_joint", ""), place / name)
    here = os.getcwd()
    os.chdir(place)
    make_sounds()
    os.chdir(here)
    return place


@pytest.mark.parametrize("name", READERS)
def test_a_seed_spoils_the_same_thing_each_time(name: str, place: Path, tmp_path: Path, monkeypatch):
    for seed in range(3):
        said = []
        for time_ in ("once", "again"):
            folder = tmp_path / f"{seed}" / time_
            shutil.copytree(place, folder)
            monkeypatch.chdir(folder)
            planned = READERS[name].spoil(random.Random(f"{name}:{seed}"))
            said.append(planned and (planned.what, planned.command, planned.damage))
        assert said[0] == said[1] and (said[0] or name == "manifest"), (seed, said)


def write(path: str) -> int:
    Path(path).write_text("x")
    return 0


def say(line: str, code: int = 2) -> int:
    print(line, file=sys.stderr)
    return code


CALLS: dict[str, tuple[str, Callable[[], object], dict]] = {
    "a result": ("", lambda: write("output/new"), {}),
    "an error": ("", lambda: say("error: good.txt is odd"), {"names": ["good.txt"]}),
    "an exception": ("ZeroDivisionError at ", lambda: 1 // 0, {}),
    "another exit code": ("exit code 1", lambda: 1, {}),
    "an error of nothing": ("error does not name", lambda: say("error: something"), {"names": ["good.txt"]}),
    "an error of two lines": ("not one error line", lambda: say("error: one\nerror: two"), {}),
    "no error line": ("not one error line", lambda: say("what?"), {}),
    "a traceback above": ("traceback and error", lambda: say("Traceback (most recent call last)\nerror: x"), {}),
    "control characters": ("control characters", lambda: say("error: \x1b[31mred"), {}),
    "an error where none is due": ("ended by what", lambda: say("error: x"), {"must_pass": True}),
    "a file elsewhere": ("wrote outside", lambda: write("../../evil"), {}),
    "an input overwritten": ("wrote outside", lambda: write("good.txt"), {}),
    "a result lost": ("lost a file", lambda: Path("output/old").unlink() or say("error: x"), {}),
    "half a file": ("left a part", lambda: write("output/new.part"), {}),
    "a wrong result": ("wrong result: NaN", lambda: 0, {"check": lambda: "NaN"}),
    "unseen damage": ("damage goes unseen", lambda: 0, {"damage": True, "result": Path("good.txt").read_text}),
    "harmless damage": ("", lambda: 0, {"damage": True, "result": Path("output/old").read_text}),
    "a crash": ("killed by SIGSEGV", lambda: os.kill(os.getpid(), signal.SIGSEGV), {}),
    "much memory": (" GiB of memory", lambda: int(len(bytearray(400 << 20)) < 0), {}),
    "no end": ("waits for ever", lambda: time.sleep(30), {}),
    "nothing to spoil": (attempt.NOTHING, lambda: None, {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_goes_wrong_is_told(name: str, tmp_path: Path, monkeypatch):
    kind, call, planned = CALLS[name]
    good = tmp_path / "good"
    (good / "output").mkdir(parents=True)
    for path in ("good.txt", "output/old"):
        (good / path).write_text(path)

    def spoil(rng: random.Random) -> Try | None:
        Path("good.txt").write_text("spoiled")
        return None if kind == attempt.NOTHING else Try("spoiled", call, **planned)

    monkeypatch.setattr(attempt, "IDLE_SEC", 0.5 if name == "no end" else 20)
    monkeypatch.setattr(attempt, "MOST_RSS", 40 << 20)
    trying = Attempt(Reader("one", 1, spoil), 0, good, tmp_path / "try")
    while not (verdict := trying.poll()):
        time.sleep(0.005)
    assert kind in verdict.kind and bool(kind) == bool(verdict.kind), verdict
    assert json.loads((tmp_path / "try/notes").read_text()).get("what", "spoiled") == "spoiled"
