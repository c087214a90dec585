"""bench/ablation.py: what is trained and measured, how halves of voices are joined, and the report."""

import json
import sys

import pytest
import torch
from measured import ROOT

sys.path.append(str(ROOT / "bench"))

import ablation  # noqa: E402
import ablation_report  # noqa: E402
from random_data import write_random_data  # noqa: E402

import train_joint  # noqa: E402
from checkpoint import load_checkpoint, merged_part  # noqa: E402
from config import JointConfig  # noqa: E402

TABLE = f"# Title\n\nBefore.\n\n{ablation_report.BEGIN}\nold\n{ablation_report.END}\n\nAfter.\n"


def test_ranks_keep_the_default_s_ratio_of_alpha_and_rank():
    settings = ablation.training_runs(JointConfig())["rank_4"].settings
    assert {"llm_lora.lora_r=4", "flow_lora.lora_r=4", "llm_lora.lora_alpha=8.0", "flow_lora.lora_alpha=8.0"} <= {
        *settings
    }


def test_the_long_run_goes_far_past_the_default_and_its_stops_are_kept_epochs():
    for epochs in (60, 100, 3):
        long = ablation.long_epochs(JointConfig(max_epochs=epochs))
        assert long >= 2 * epochs and long % (16 * ablation.KEPT_EVERY) == 0


@pytest.fixture(scope="module")
def work(tiny_model_dir, tmp_path_factory):
    """Two short trainings of the tiny model, as bench/ablation.py leaves them."""
    work = tmp_path_factory.mktemp("work")
    data = write_random_data(work / "data")
    common = ["--data-dir", data, "--model-dir", tiny_model_dir, "--device", "cpu", "--set", "eval_every_epochs=0"]
    for name, more in {
        "val_loss": ["--epochs", "2", "--lr", "1e-2"],
        "long": ["--epochs", "5", "--lr", "2e-2", "--set", "keep_every_epochs=5", "--set", "flow_lora.lora_r=4"],
    }.items():
        assert train_joint.main([*map(str, [*common, "--output-dir", work / name]), *more]) == 0
    return work


@pytest.mark.scripts
@pytest.mark.slow  # two trainings for a developer's program
def test_halves_of_two_trainings_are_joined(work, tiny_model_dir):
    system = ablation.System("f", "l", ablation.Adapter("val_loss", "last"), ablation.Adapter("long", 5))
    path = ablation.joined(work, system)
    checkpoint = load_checkpoint(path)
    for part, source in (("llm", "val_loss"), ("flow", "long")):
        expected = load_checkpoint(work / source / "joint_joint_last.ckpt")["adapters"][part]
        assert all(torch.equal(checkpoint["adapters"][part][key], value) for key, value in expected.items())
        merged_part(checkpoint, path, tiny_model_dir, part)  # ranks fit
    base = ablation.joined(work, ablation.System("f", "b", *[ablation.Adapter("long", "base")] * 2))
    assert not any(value.any() for value in load_checkpoint(base)["adapters"]["llm"].values())


@pytest.mark.scripts
@pytest.mark.slow
def test_the_kept_epochs_that_come_nearest_to_the_losses_are_taken(work):
    last = float(ablation.metrics(work / "long")[-1]["llm_train"])
    assert ablation.llm_stops(work) == {5: last}, "the only one that was kept"


def result(factor: str, label: str, wer: float) -> dict:
    figures = {"wer": {"value": wer, "low": wer - 0.05, "high": wer + 0.05}}
    return {"factor": factor, "label": label, "figures": figures}


def test_the_report_replaces_its_tables_and_nothing_else(tmp_path):
    docs, works = tmp_path / "docs", [tmp_path / "one", tmp_path / "two"]
    docs.mkdir()
    (docs / "ablation.md").write_text(TABLE, encoding="utf-8")
    for work in works:
        work.mkdir()
        rows = [result("rank", "4", 0.3), result("rank", "8", 0.2), result("clips", "10", 0.5)]
        (work / "results.json").write_text(json.dumps(rows), encoding="utf-8")
    ablation_report.write_report(works, docs)
    text = (docs / "ablation.md").read_text(encoding="utf-8")
    assert text.startswith("# Title\n\nBefore.") and text.endswith("After.\n") and "old" not in text
    assert text.count("| 8 | 0.200 (0.150-0.250) |") == 2 and "### Rank" in text
    assert (docs / "ablation.png").stat().st_size > 1000


def test_a_report_without_results_is_refused(tmp_path, capsys):
    assert ablation.main(["--report", str(tmp_path)]) == 2
    assert "results.json is missing" in capsys.readouterr().err
    assert ablation.main(["--input-dir", str(tmp_path)]) == 2
