"""bench/ on tiny networks and the CPU: the same code that measures a machine, and the arithmetic beside its figures."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from make_standin_model import Sizes, model_yaml
from measured import ROOT

from cosyvoice.utils.precision import PRECISIONS, fast_dtype
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config

sys.path.append(str(ROOT / "bench"))

import bench_cpu  # noqa: E402
import bench_gpu  # noqa: E402
import floors  # noqa: E402
import growth  # noqa: E402
import references  # noqa: E402
import report  # noqa: E402
from harness import machine, random_clip  # noqa: E402

RATES = {"row_fp32": 30e9, "row_int8": 10e9, "product_fp32": 306e9, "product_bf16": 570e9, "memory_copy": 17e9}


@pytest.fixture(scope="module")
def full_size(tmp_path_factory) -> ModelConfig:
    """CosyVoice-300M's shapes; there are no weights."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "cosyvoice.yaml").write_text(model_yaml(Sizes()), encoding="utf-8")
    return read_model_config(folder)


@pytest.fixture
def bench_rows(tiny_model_dir, tmp_path, monkeypatch) -> Callable[..., dict[str, dict]]:
    """Runs bench_cpu.py on the tiny model; {name: row} of its file."""
    threads = str(torch.get_num_threads())
    monkeypatch.setenv("OMP_NUM_THREADS", threads)  # puts back afterwards what the bench sets
    path = tmp_path / "bench.json"

    def run(*arguments: str) -> dict[str, dict]:
        tiny = ["--tiny", "--model-dir", str(tiny_model_dir), "--steps", "1", "--threads", threads]
        assert bench_cpu.main([*tiny, "--json", str(path), *arguments]) == 0
        return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}

    return run


@pytest.mark.scripts
@pytest.mark.slow  # twelve seconds for a developer's program
def test_the_gpu_bench_measures_training_and_speaking(tiny_model_dir, tmp_path):
    small = ["--steps", "1", "--accumulate", "2", "--clip-seconds", "1", "--spoken-seconds", "1"]
    small += ["--optimizer-steps", "2", "--mixed-seconds", "0.5", "1", "--lines", "3"]
    result = tmp_path / "bench.json"
    where = ["--model-dir", str(tiny_model_dir), "--json", str(result)]
    assert bench_gpu.main(["--device", "cpu", "--tiny", *small, *where]) == 0
    written = json.loads(result.read_text(encoding="utf-8"))
    rows, bandwidth = written["rows"], written["rates"]["memory_copy"]
    trained, spoken = rows[:5], {row["what"]: row for row in rows[5:]}
    one_length = ["1 s clips, batch 1, one of them", "1 s clips, 8 GiB", "1 s clips, whole device"]
    mixed = ["30 mixed clips, batch 1, one of them", "30 mixed clips"]
    assert [row["what"] for row in trained] == [f"train {name}" for name in one_length + mixed]
    assert ["times the samples per second of batch 1" in row["note"] for row in trained] == [0, 1, 1, 0, 1]
    assert ["batch_frames llm 1, flow 1" in row["note"] for row in trained] == [1, 0, 0, 1, 0]
    assert [row["promised_gib"] for row in trained] == [0, 4.5, 0, 0, 0]
    assert all(row["seconds"] > 0 for row in rows)
    eager = ["LLM, eager", "LLM, eager, 3 lines together", "flow + vocoder, eager"]
    decoded = ["LLM", "LLM, recorded first", "LLM, 3 lines together"]
    others = ["flow + vocoder", "time to first audio", "whole", "whole, 3 lines together"]
    names = [*eager, "flow + vocoder, same length again", "vocoder", *decoded, *others]
    assert list(spoken) == [f"speak 1 s, {precision}: {name}" for precision in PRECISIONS for name in names]
    for what, row in spoken.items():
        assert (row["floor"] is None) == ("LLM" not in what)
        seconds = 3 if "3 lines" in what else 1
        assert row["rtf"] == (None if "first audio" in what else pytest.approx(row["seconds"] / seconds))
    weights = floors.decode_weights(read_model_config(tiny_model_dir))
    full = spoken["speak 1 s, full: LLM"]
    assert full["floor"] == pytest.approx(50 * 4 * weights / bandwidth)
    assert "tokens/s" in full["note"]


def test_more_memory_than_promised_fails_the_bench(monkeypatch, tmp_path):
    row = bench_gpu.Row("train 30 s clips", 1.0, peak_gib=7.1, promised_gib=7.0)
    monkeypatch.setattr(bench_gpu, "training_rows", lambda *_: [row])
    monkeypatch.setattr(bench_gpu, "speaking_rows", lambda *_: [])
    assert bench_gpu.main(["--device", "cpu", "--tiny"]) == 1


@pytest.mark.scripts
@pytest.mark.slow
def test_every_cpu_row_has_its_floor_and_what_it_is_compared_with(bench_rows):
    rows = bench_rows()
    emulated = set() if fast_dtype(floors.CPU) == torch.bfloat16 else {"train bf16"}
    assert set(rows) == {*bench_cpu.SPECS} - emulated
    for row in rows.values():
        assert row["value"] > 0 and row["existing_here"] > 0
        assert row["times_better"] == pytest.approx(row["existing_here"] / row["value"])
        if row["work"]:
            floor = sum(amount / row["rates"][rate] for rate, amount in row["work"].items())
            assert row["floor"] == pytest.approx(floor)
            assert row["ratio"] == pytest.approx(row["value"] / floor)


@pytest.mark.scripts
@pytest.mark.slow
def test_a_run_of_some_tasks_keeps_the_other_rows(bench_rows):
    before = bench_rows("--only", "hift")
    after = bench_rows("--only", "decode")
    assert list(after) == ["decode full", "decode fast", "hift full", "hift fast"]
    assert after["hift full"] == before["hift full"]


def test_a_figure_is_scaled_by_the_rates_that_decided_it():
    by_products = references.explained(4.0, {"product_fp32": 153e9})  # 1 s of products, 3 s of moving memory
    assert by_products.here(RATES) == pytest.approx(0.5 + 6.0)
    assert references.Reference(44).here(RATES) == 44


def test_a_row_tells_ratio_gain_and_whether_the_target_is_met():
    work = {"product_fp32": 306e9, "memory_copy": 17e9}
    row = bench_cpu.compare("hift full", bench_cpu.Measured(4.0, 3), work, RATES)
    assert (row.floor, row.ratio) == (2.0, 2.0)
    assert row.times_better == pytest.approx(row.existing_here / 4.0)
    assert row.target_here == pytest.approx(0.5) and row.meets is False
    assert bench_cpu.compare("hift full", bench_cpu.Measured(0.4, 3), work, RATES).meets is True


def test_every_row_is_compared_with_the_existing_tools():
    assert set(references.EXISTING) == set(bench_cpu.SPECS)
    assert set(references.TARGETS) <= set(bench_cpu.SPECS)
    for reference in (*references.EXISTING.values(), *references.TARGETS.values()):
        assert 0 <= sum(reference.parts.values()) <= reference.value * (1 + 1e-9)
        assert all(part >= -1e-9 for part in reference.parts.values())


def test_a_step_of_decoding_reads_the_weights_without_the_position_projections(full_size):
    layers = 14 * (4 * 1024**2 + 2 * 4096 * 1024)
    assert 4 * layers == pytest.approx(705e6, rel=0.001)
    assert 4 * floors.decode_weights(full_size) == pytest.approx(references.STEP_BYTES, rel=0.01)


@pytest.mark.scripts
@pytest.mark.slow  # half a minute for what changes with the networks only
def test_speaking_takes_the_operations_that_the_references_count(full_size):
    flow = floors.operations(floors.flow_work(full_size, tokens=150, n_timesteps=10))
    assert sum(flow.values()) == pytest.approx(references.FLOW, rel=0.01)
    assert sum(flow.values()) - flow["aten.bmm"] == pytest.approx(452e9, rel=0.01)
    vocoder = floors.operations(floors.vocoder_work(full_size, frames=258))
    assert sum(vocoder.values()) == pytest.approx(references.HIFT, rel=0.01)


@pytest.mark.slow  # as above
def test_a_training_step_takes_the_operations_that_the_references_count(full_size):
    clip = random_clip(bench_cpu.TRAINED_SEC, full_size, 0)
    assert (len(clip.text_token), len(clip.speech_token), len(clip.speech_feat)) == (15, 145, 249)
    work = floors.training_work(full_size, bench_cpu.training_settings(), clip)
    assert sum(floors.operations(work).values()) == pytest.approx(references.TRAINING, rel=0.01)


def test_rates_are_measured_for_every_name(tmp_path):
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(100_000))
    rates = floors.measure_rates(file, tmp_path, scale=0.01)
    assert list(rates) == list(floors.RATES)
    assert all(math.isfinite(rate) and rate > 0 for rate in rates.values())
    assert list(tmp_path.iterdir()) == [file]


def test_the_report_is_a_table_with_a_picture(tmp_path, capsys):
    work = {"product_fp32": 306e9, "memory_copy": 17e9}
    rows = [
        bench_cpu.compare("hift full", bench_cpu.Measured(4.0, 3, "a note"), work, RATES),
        bench_cpu.compare("checkpoint", bench_cpu.Measured(84.0, 1), {}, RATES),
    ]
    result = {"machine": machine(torch.device("cpu")), "rates": {"before": RATES, "after": RATES}}
    path, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    path.write_text(json.dumps({**result, "rows": [asdict(row) for row in rows]}), encoding="utf-8")
    assert report.main([str(path), "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "| HiFT, 3 s, float32 | 4.00 s (a note) | 2.00 | 2.00 | 1.02 |" in printed
    assert "| checkpoint to resume from | 84.0 MB | - | - | 1740 | 1740 | 20.7 | 90.0 | yes |" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def curve(power: float, arithmetic: float = 1.0, fixed: float = 0.0) -> growth.Row:
    points = [growth.Point(work, fixed + work**power, work**arithmetic) for work in (1, 10, 30, 100, 300)]
    return growth.judged("prepare", points)


def test_a_cost_that_grows_like_its_arithmetic_passes():
    linear = curve(1.0)
    assert linear.exponent == pytest.approx(1.0) and not linear.too_fast
    assert not curve(2.0, arithmetic=2.0).too_fast


def test_a_square_where_the_arithmetic_is_linear_is_too_fast_also_beside_a_fixed_cost():
    assert curve(2.0).too_fast
    beside_fixed = curve(2.0, fixed=1000.0)
    assert beside_fixed.exponent < 1.3 and beside_fixed.too_fast


@pytest.mark.scripts
@pytest.mark.slow
def test_growth_measures_every_curve_and_draws_it(tiny_model_dir, tmp_path, monkeypatch, capsys):
    threads = str(torch.get_num_threads())
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    path, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    where = ["--tiny", "--model-dir", str(tiny_model_dir), "--json", str(path), "--picture", str(picture)]
    growth.main([*where, "--threads", threads])  # how fast a tiny network grows says nothing
    rows = {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    assert list(rows) == [*growth.CURVES]
    assert all(point["cost"] > 0 for row in rows.values() for point in row["points"])
    assert rows["training memory"]["upper_exponent"] < 2
    assert capsys.readouterr().out.count("arithmetic ^") == len(growth.CURVES)
    assert picture.read_bytes().startswith(b"\x89PNG")
