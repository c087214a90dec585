"""bench/bench_gpu.py on tiny networks and the CPU: the same code that measures a GPU."""

import json
import sys

import pytest
from measured import ROOT

sys.path.append(str(ROOT / "bench"))

import bench_gpu  # noqa: E402


@pytest.mark.scripts
def test_the_bench_measures_training_and_speaking(tmp_path):
    small = ["--steps", "1", "--accumulate", "2", "--clip-seconds", "1", "--spoken-seconds", "1"]
    small += ["--optimizer-steps", "2", "--mixed-seconds", "0.5", "1"]
    result = tmp_path / "bench.json"
    assert bench_gpu.main(["--device", "cpu", "--tiny", *small, "--json", str(result)]) == 0
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    trained, spoken = rows[:4], rows[4:]
    lengths = ["1 s clips", "1 s clips, batch 1", "30 mixed clips", "30 mixed clips, batch 1"]
    assert [row["what"] for row in trained] == [f"train {length}" for length in lengths]
    assert all("times the samples per second of batch 1" in row["note"] for row in trained[::2])
    assert "batch_frames llm 1, flow 1" in trained[1]["note"]
    assert [row["promised_gib"] for row in trained] == [4.5, 4.5, 0, 0]
    assert len(spoken) == 2 and all(row["what"].startswith("speak") for row in spoken)
    assert all(row["seconds"] > 0 for row in rows)


def test_more_memory_than_promised_fails_the_bench(monkeypatch, tmp_path):
    row = bench_gpu.Row("train 30 s clips", 1.0, peak_gib=7.1, promised_gib=7.0)
    monkeypatch.setattr(bench_gpu, "training_rows", lambda *_: [row])
    monkeypatch.setattr(bench_gpu, "speaking_rows", lambda *_: [])
    assert bench_gpu.main(["--device", "cpu", "--tiny"]) == 1
