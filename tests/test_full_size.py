"""The four scripts on a model of the released size with random weights: nothing is toy-sized. `make test-slow`."""

import shutil
from pathlib import Path

import pytest
import soundfile
from make_standin_model import main as make_standin_model
from measured import ROOT, Outcome, run_script

from checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
CLIPS = ("003", "005", "007", "008", "009", "010", "012", "014")
SETTINGS = ("--set", "accumulate_grad_batches=4", "--set", "stop.llm_loss=0", "--set", "stop.flow_loss=0")
HEARD = ("--set", "eval_every_epochs=1", "--set", "inference.max_token_text_ratio=3")  # random weights do not end


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("standin") / "CosyVoice-300M"
    assert make_standin_model([str(folder)]) == 0
    return folder


def report(name: str, outcome: Outcome) -> None:
    print(f"{name}: exit {outcome.code}, {outcome.seconds:.1f} s, peak {outcome.peak_gib:.2f} GiB")
    assert outcome.code == 0, outcome.printed[-3000:]


def test_prepare_train_resume_merge_and_speak_at_full_size(model, tmp_path):
    """8 clips, 6 of them trained on: 2 optimizer steps in an epoch, then 1 epoch more after resuming."""
    raw, data, output = tmp_path / "raw_audio", tmp_path / "data", tmp_path / "output"
    raw.mkdir()
    for name in CLIPS:
        for suffix in (".flac", ".txt"):
            shutil.copy(ROOT / "examples" / "en_allison" / "raw_audio" / (name + suffix), raw)
    where, on_cpu = ["--model-dir", model, "--output-dir", output], ["--device", "cpu"]
    prepare = ["prepare_joint_data.py", "--input-dir", raw, "--output-dir", data, "--model-dir", model]
    report("prepare 8 clips", run_script(prepare))
    train = ["train_joint.py", *where, *on_cpu, "--data-dir", data]
    report("train 2 steps", run_script([*train, "--epochs", "1", *SETTINGS, *HEARD]))
    last = output / "joint_joint_last.ckpt"
    assert load_checkpoint(last)["step"] == 2
    prolonged = ["--resume", last, "--epochs", "2", "--set", "accumulate_grad_batches=6"]
    report("resume 1 step", run_script([*train, *prolonged]))
    assert load_checkpoint(last)["step"] == 3
    assert last.stat().st_size < 120e6
    report("merge", run_script(["merge_joint_weights.py", *where, "--ckpt", last]))
    speak = ["inference_joint.py", *where, *on_cpu, "--text", "Good morning.", "--set", "inference.max_retries=0"]
    report("speak", run_script(speak))
    assert soundfile.info(output / "result.wav").samplerate == 22050
