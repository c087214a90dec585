"""bench/bench_gpu.py on tiny networks and the CPU: the same code that measures a GPU."""

import json
import sys

import pytest
from measured import ROOT

sys.path.append(str(ROOT / "bench"))

import bench_gpu  # noqa: E402


@pytest.mark.scripts
def test_the_bench_measures_training_and_speaking(tmp_path):
    small = ["--steps", "1", "--accumulate", "1", "--clip-seconds", "1", "--spoken-seconds", "1"]
    result = tmp_path / "bench.json"
    assert bench_gpu.main(["--device", "cpu", "--tiny", *small, "--json", str(result)]) == 0
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert [row["what"].split()[0] for row in rows] == ["train", "train", "speak", "speak"]
    assert all(row["seconds"] > 0 for row in rows)
