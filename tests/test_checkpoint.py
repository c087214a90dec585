"""Checkpoints of strangers: every value is checked before it is used, and a damaged file is told from a whole one."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import merge_joint_weights
from checkpoint import FORMAT, learned_parts, load_checkpoint, merged_part
from config import JointConfig, UserError, to_dict
from cosyvoice.utils.common import InputError
from cosyvoice.utils.records import read_record, read_value
from cosyvoice.utils.weights import load_state_dict_file
from training.run_files import OptimizerState, ScalerState, checked_moments
from training.state import Part, Progress, from_plain, to_plain

NAN, INF = float("nan"), float("inf")
CONFIG = JointConfig()


def adapter(part: str) -> dict[str, torch.Tensor]:
    rank = CONFIG.part(part).lora_r
    return {"x.lora_A": torch.ones(rank, 3), "x.lora_B": torch.zeros(4, rank)}


def progress() -> dict[str, Any]:
    """What `_last.ckpt` of a run of one epoch, which was listened to, holds."""
    parts = {name: Part(name, base_loss=2.0) for name in ("llm", "flow")}
    heard = {"epoch": 0, "figures": [{"failed": (0.0, 1.0), "similarity": (NAN, 1.0)}] * 2}
    row = {"epoch": 1, "step": 3, "llm_train": 1.5, "flow_train": NAN}
    known = {"history": [row], "hearings": [heard], "texts": ["One.", "Two."], "sums": {"llm": [3.0, 2]}}
    return {**to_plain({"parts": parts}), **known, "optimizers": {"llm": {}, "flow": {}}, "scaler": {}}


def content() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "run_id": "a1",
        "mode": "joint",
        "config": to_dict(CONFIG),
        "base": {"llm.pt": "0", "flow.pt": "1"},
        "data": "2",
        "speaker": {"name": "她", "embedding": torch.ones(1, 192), "seconds_per_text_token": 0.2},
        "adapters": {part: adapter(part) for part in ("llm", "flow")},
        "epoch": 1,
        "step": 3,
        "best_epochs": {"llm": 1, "flow": 0},
        "training": progress(),
    }


def put(data: dict[Any, Any], keys: str, value: Any) -> dict[Any, Any]:
    """`data` with another value at dotted keys; "absent" takes it away."""
    first, _, rest = keys.partition(".")
    if rest:
        place = int(first) if isinstance(data, list) else first
        data[place] = put(data[place], rest, value)
    elif isinstance(value, str) and value == "absent":
        del data[first]
    else:
        data[int(first) if isinstance(data, list) else first] = value
    return data


def test_a_checkpoint_with_keys_of_a_later_version_is_read(tmp_path: Path):
    torch.save({**content(), "later": {"a": [1]}}, tmp_path / "x.ckpt")
    found = load_checkpoint(tmp_path / "x.ckpt")
    assert found["later"] == {"a": [1]} and found["speaker"]["text_normalizer"] == "ours"
    assert torch.equal(found["adapters"]["llm"]["x.lora_A"], adapter("llm")["x.lora_A"])
    assert from_plain(found["training"], CONFIG, "x")["parts"]["llm"].base_loss == 2.0


@pytest.mark.parametrize("key", ["best_epochs", "training", "speaker.seconds_per_text_token"])
def test_a_checkpoint_of_an_earlier_version_lacks_some_keys(tmp_path: Path, key: str):
    torch.save(put(content(), key, "absent"), tmp_path / "x.ckpt")
    assert load_checkpoint(tmp_path / "x.ckpt")["epoch"] == 1


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(4, CONFIG.llm_lora.lora_r), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:Sparse invariant:UserWarning")
@pytest.mark.parametrize(
    ("keys", "value"),
    [
        *(("mode", mode) for mode in ("x/../../evil", "", "both", None, 1, ["joint"], "llm_only")),
        *(("format", value) for value in (FORMAT + 1, "1", None, torch.ones(2))),
        *(("run_id", value) for value in (None, "a\nb", "x" * 10_000, 5)),
        *(("epoch", value) for value in (-1, 1.5, NAN, True, "1", None, 10**30, torch.ones(()))),
        *(("step", value) for value in (-1, "3", 10**400)),
        *(("base", value) for value in ({}, [], {"llm.pt": "0"}, {"llm.pt": 0, "flow.pt": 1}, {1: "0"}, None)),
        *(("data", value) for value in (None, 3, ["2"])),
        *(("config", value) for value in (None, [], {"max_epochs": -1}, {"no_such": 1}, {"seed": torch.ones(3)})),
        *(("config.llm_lora.lora_r", value) for value in (16, "8", NAN)),
        *(("speaker", value) for value in (None, [], {}, torch.ones(1, 192))),
        *(("speaker.name", value) for value in ("", "a\x1b[2J", "a\nb", "n" * 9999, 5, None)),
        *(("speaker.seconds_per_text_token", v) for v in ("0.2", NAN, INF, -1.0, 0, 1e9, torch.ones(()), [0.2], True)),
        *(("speaker.text_normalizer", value) for value in ("mine", 1, None)),
        *(("speaker.embedding", value) for value in (None, [1.0] * 192, torch.ones(192, 1), torch.full((1, 192), NAN))),
        ("speaker.embedding", torch.ones(1, 192, dtype=torch.int64)),
        *(("adapters", value) for value in (None, [], {}, {"llm": {}}, {"voice": {}})),
        *(("adapters.llm", value) for value in (None, [], {}, {"x.lora_A": torch.ones(8, 3)}, {"x": torch.ones(8, 3)})),
        *(("adapters.llm.x.lora_B", v) for v in (None, 1.0, torch.ones(4), torch.ones(4, 9), torch.full((4, 8), NAN))),
        ("adapters.llm.x.lora_B", torch.eye(8).to_sparse()),
        ("adapters.llm.x.lora_B", torch.ones(4, 8, device="meta")),
        ("adapters.llm.x.lora_B", torch.ones(4, 8, dtype=torch.complex64)),
        ("adapters.llm.x.lora_B", torch.ones(4, 8, dtype=torch.int32)),
        ("adapters.llm.x.lora_B", quantized()),
        ("adapters.llm.x.lora_B", torch.ones(1, 1).expand(10**6, 8)),
        *(("best_epochs", value) for value in ([], {"llm": 1}, {"llm": NAN, "flow": 0}, {"llm": "1", "flow": 0})),
        *(("merged_step", value) for value in ("3", -1, NAN)),
        *(("training", value) for value in ([], {}, "x")),
        *(("training.parts", value) for value in (None, {}, {"llm": {}}, [])),
        *(("training.history", value) for value in (None, [], [{}], [{"epoch": NAN}], [{"epoch": 7}], ["row"])),
        *(("training.group", value) for value in (None, -1, 0.5)),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_the_file(tmp_path: Path, keys: str, value: Any):
    data = content()
    if keys == "adapters.llm.x.lora_B":
        data["adapters"]["llm"]["x.lora_B"] = value
    else:
        put(data, keys, value)
    path = tmp_path / "x.ckpt"
    torch.save(data, path)
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_base_saved_as_parameters_is_merged_as_any_other(tiny_model_dir: Path, tmp_path: Path):
    plain = load_state_dict_file(tiny_model_dir / "llm.pt")
    torch.save({name: nn.Parameter(value) for name, value in plain.items()}, tmp_path / "llm.pt")
    layer, rank = "text_encoder.encoders.0.self_attn.linear_q", CONFIG.llm_lora.lora_r
    rows, columns = plain[f"{layer}.weight"].shape
    learned = {f"{layer}.lora_A": torch.ones(rank, columns), f"{layer}.lora_B": torch.ones(rows, rank)}
    checkpoint = content() | {"adapters": {"llm": learned}}
    merged, expected = (merged_part(checkpoint, Path("x"), folder, "llm") for folder in (tmp_path, tiny_model_dir))
    assert not torch.equal(merged[f"{layer}.weight"], plain[f"{layer}.weight"])
    assert merged.keys() == expected.keys() and all(torch.equal(merged[name], expected[name]) for name in merged)


def test_nothing_is_written_outside_the_output_folder(tiny_model_dir: Path, tmp_path: Path, capsys):
    path = tmp_path / "in" / "x.ckpt"
    path.parent.mkdir()
    torch.save(content() | {"mode": "x/../../evil"}, path)
    folders = ["--model-dir", str(tiny_model_dir), "--output-dir", str(tmp_path / "in" / "out")]
    assert merge_joint_weights.main(["--ckpt", str(path), "--llm-only", *folders]) == 2
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["x.ckpt"]


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        *(("parts.llm.name", value) for value in ("flow", 1)),
        *(("parts.llm.stale_epochs", value) for value in (-1, NAN, "2")),
        *(("parts.llm.best_loss", value) for value in ("1", None, torch.ones(()))),
        *(("parts.llm.choice", value) for value in (None, [], {"epoch": -1}, {"loss": "low"})),
        *(("sums", value) for value in ([], {"llm": [1.0]}, {"llm": [1.0, 0]}, {"llm": "x"})),
        *(("hearings", value) for value in ({}, [{}], [{"epoch": 0, "figures": []}], [{"epoch": 0, "figures": [1]}])),
        *(("hearings.0.figures.0.failed", value) for value in ((1,), (1, 0), (1, -1), ("1", 1), None)),
        *(("texts", value) for value in (["One."], "One.", [1, 2], ["a\nb", "c"])),
        *(("own_hz", value) for value in (NAN, -5, "220", 0)),
        *(("hear_every", value) for value in (-1, 0.5, None)),
        *(("spent_sec", value) for value in ({}, {"training": NAN, "hearing": 0}, [])),
        *((name, value) for name in ("group", "bad_steps", "sentences_heard") for value in (-1, NAN, "1")),
    ],
)
def test_a_run_does_not_go_on_from_a_wrong_value(keys: str, value: Any):
    with pytest.raises(InputError, match="x.ckpt"):
        from_plain(put(progress(), keys, value), CONFIG, "x.ckpt")


def stepped() -> tuple[torch.optim.AdamW, dict[str, Any]]:
    """An optimizer that took a step, and what it remembers."""
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return optimizer, optimizer.state_dict()


def read_moments(state: Any) -> dict[str, Any]:
    return checked_moments(read_value(OptimizerState | None, state, "x.ckpt", {}), stepped()[0], "x.ckpt")


def test_the_memory_of_an_optimizer_is_taken_over():
    state = stepped()[1]
    assert torch.equal(read_moments(state)["state"][0]["exp_avg"], state["state"][0]["exp_avg"])


@pytest.mark.parametrize(
    "change",
    [
        lambda state: None,
        lambda state: [],
        lambda state: state | {"state": {7: state["state"][0]}},
        lambda state: state | {"state": {"0": state["state"][0]}},
        lambda state: state | {"param_groups": []},
        lambda state: state | {"param_groups": [{"params": [0, 1]}]},
        lambda state: state | {"state": {0: state["state"][0] | {"exp_avg": torch.ones(3, 2)}}},
        lambda state: state | {"state": {0: state["state"][0] | {"exp_avg_sq": torch.full((2, 3), -1.0)}}},
        lambda state: state | {"state": {0: state["state"][0] | {"exp_avg": torch.full((2, 3), NAN)}}},
        lambda state: state | {"state": {0: state["state"][0] | {"step": 1}}},
        lambda state: state | {"state": {0: {}}},
    ],
)
def test_the_memory_of_other_parameters_is_refused(change: Callable[[dict], Any]):
    with pytest.raises(InputError, match="x.ckpt"):
        read_moments(change(stepped()[1]))


def test_the_state_of_a_gradient_scaler_is_read_as_it_is_written():
    scaler = torch.amp.GradScaler("cpu")
    state = scaler.state_dict()
    assert asdict(read_record(ScalerState, state, "x")) == state
    with pytest.raises(InputError, match="scale"):
        read_record(ScalerState, state | {"scale": 0.0}, "x")


def test_every_field_of_the_progress_survives_the_way_through_a_file():
    plain = to_plain({name: value for name, value in from_plain(progress(), CONFIG, "x").items()})
    assert repr(plain) == repr({name: progress()[name] for name in plain})
    assert set(plain) == set(vars(Progress(parts={})))


@pytest.mark.parametrize("name", ["anna/2", "n" * 200])
def test_names_of_voices_that_earlier_versions_took_still_load(name, tmp_path):
    data = content()
    data["speaker"]["name"] = data["config"]["speaker_name"] = name
    torch.save(data, tmp_path / "old.ckpt")
    assert load_checkpoint(tmp_path / "old.ckpt")["speaker"]["name"] == name


def test_a_checkpoint_that_names_no_best_epochs_is_one_of_its_own_epoch(tmp_path):
    torch.save(content() | {"best_epochs": None}, tmp_path / "a.ckpt")
    assert learned_parts(load_checkpoint(tmp_path / "a.ckpt")) == ["llm", "flow"]
