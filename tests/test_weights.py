"""Weight files in every accepted spelling, and what is said about the others."""

import hashlib
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosyvoice.cli.cosyvoice import CosyVoice, load_part
from cosyvoice.cli.frontend import open_onnx
from cosyvoice.utils.common import InputError
from cosyvoice.utils.weights import (
    DamagedFile,
    check_listed,
    file_fingerprint,
    load_spk2info,
    load_state_dict_file,
    load_weights,
    read_torch,
    speaker_embedding,
)
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config

MINI = Path(__file__).parent.parent / "pretrained_models" / "CosyVoice-mini"
G, V = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def config(tiny_model_dir: Path) -> ModelConfig:
    return read_model_config(tiny_model_dir)


@pytest.fixture(scope="module")
def flow_state(tiny_model_dir: Path) -> State:
    return load_state_dict_file(tiny_model_dir / "flow.pt")


@pytest.fixture(scope="module")
def hift(config: ModelConfig) -> nn.Module:
    return load_part(config, "hift")


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def filled(config: ModelConfig, part: str, path: Path) -> nn.Module:
    network = config.build(part, device="meta")
    load_weights(network, path)
    return network


def assert_same_state(network: nn.Module, state: State) -> None:
    loaded = network.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


# ------------------------------------------------------------------------------------------ accepted spellings
@pytest.mark.parametrize("part", ["llm", "flow"])
def test_a_released_file_fills_a_network_built_on_meta(config: ModelConfig, part: str):
    network = filled(config, part, config.directory / f"{part}.pt")
    assert_same_state(network, torch.load(config.directory / f"{part}.pt", weights_only=True))
    for parameter in network.parameters():
        assert isinstance(parameter, nn.Parameter) and parameter.requires_grad
        assert parameter.dtype == torch.float32 and parameter.device.type == "cpu"
    assert {name for name, _ in network.named_parameters()} == set(network.state_dict())


def wrap_trainer(state: State) -> dict:
    return {**state, "epoch": 7, "step": 1200}


def wrap_ddp(state: State) -> dict:
    return {f"module.{key}": value for key, value in state.items()}


def wrap_deepspeed(state: State) -> dict:
    return {"module": state, "optimizer": {"lr": 0.1}, "global_steps": 3, "ds_version": "0.1", "epoch": 1}


def wrap_gan(state: State) -> dict:
    return {f"generator.{key}": value for key, value in state.items()} | {"discriminator.mpd.0.weight": torch.ones(3)}


def wrap_ddp_gan(state: State) -> dict:
    return {f"module.{key}": value for key, value in wrap_gan(state).items()}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [wrap_trainer, wrap_ddp, wrap_deepspeed, wrap_gan, wrap_ddp_gan])
def test_what_trainers_add_is_cut(
    config: ModelConfig, flow_state: State, tmp_path: Path, wrap: Callable[[State], dict], legacy: bool
):
    path = saved(tmp_path / "flow.pt", wrap(flow_state), _use_new_zipfile_serialization=not legacy)
    assert_same_state(filled(config, "flow", path), flow_state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(config: ModelConfig, flow_state: State, tmp_path: Path, dtype: torch.dtype):
    state = {key: value.to(dtype) for key, value in flow_state.items()}
    network = filled(config, "flow", saved(tmp_path / "flow.pt", state))
    assert_same_state(network, {key: value.float() for key, value in state.items()})
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_filling_does_not_touch_the_random_state(config: ModelConfig):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    filled(config, "llm", config.directory / "llm.pt")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_a_filled_network_leaves_its_file_alone(config: ModelConfig, flow_state: State, tmp_path: Path):
    path = saved(tmp_path / "flow.pt", flow_state)
    network = filled(config, "flow", path)
    with torch.no_grad():
        network.encoder_proj.weight.add_(1.0)
    assert torch.equal(load_state_dict_file(path)["encoder_proj.weight"], flow_state["encoder_proj.weight"])


# ------------------------------------------------------------------------------------------ weight norm
def legacy_names(network: nn.Module) -> State:
    return {k.replace(G, ".weight_g").replace(V, ".weight_v"): v for k, v in network.state_dict().items()}


def own_names(network: nn.Module) -> State:
    return dict(network.state_dict())


def folded(config: ModelConfig) -> nn.Module:
    network = load_part(config, "hift")
    network.fold_weight_norm()
    return network


def test_the_tiny_model_spells_weight_norm_as_the_released_file(config: ModelConfig):
    names = torch.load(config.directory / "hift.pt", weights_only=True)
    assert "conv_pre.weight_g" in names and not any("parametrizations" in name for name in names)


@pytest.mark.parametrize("names", [legacy_names, own_names])
def test_both_spellings_fill_a_parametrised_vocoder(
    config: ModelConfig, hift: nn.Module, tmp_path: Path, names: Callable
):
    assert_same_state(filled(config, "hift", saved(tmp_path / "hift.pt", names(hift))), hift.state_dict())


@pytest.mark.parametrize("names", [legacy_names, own_names, None])
def test_every_spelling_fills_a_folded_vocoder(
    config: ModelConfig, hift: nn.Module, tmp_path: Path, names: Callable | None
):
    expected = folded(config).state_dict()
    assert "conv_pre.weight" in expected
    network = folded(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    load_weights(network, saved(tmp_path / "hift.pt", expected if names is None else names(hift)))
    assert_same_state(network, expected)


def test_a_folded_file_fills_a_parametrised_vocoder_exactly(config: ModelConfig, tmp_path: Path):
    expected = {key: value.clone() for key, value in folded(config).state_dict().items()}
    expected["conv_pre.weight"][2] = 0.0  # a row without a direction
    network = filled(config, "hift", saved(tmp_path / "hift.pt", expected))
    assert network.state_dict()["conv_pre" + V].shape == expected["conv_pre.weight"].shape
    network.fold_weight_norm()
    assert_same_state(network, expected)


def test_the_magnitude_of_a_transposed_convolution_belongs_to_its_inputs(config: ModelConfig, hift: nn.Module):
    state = hift.state_dict()
    assert state["ups.0" + G].shape == (state["ups.0" + V].shape[0], 1, 1)


def test_half_a_weight_norm_is_missing_the_other_half(config: ModelConfig, hift: nn.Module, tmp_path: Path):
    state = legacy_names(hift)
    del state["conv_pre.weight_g"]
    with pytest.raises(ValueError, match=f"1 missing \\(conv_pre{G}\\)"):
        filled(config, "hift", saved(tmp_path / "hift.pt", state))


def test_a_magnitude_over_the_wrong_axis_is_refused(config: ModelConfig, hift: nn.Module, tmp_path: Path):
    state = legacy_names(hift)
    state["ups.0.weight_g"] = state["ups.0.weight_g"].reshape(1, -1, 1)
    with pytest.raises(ValueError, match=r"ups.0 has a weight-norm magnitude of \(1, 32, 1\), expected \(32, 1, 1\)"):
        load_weights(folded(config), saved(tmp_path / "hift.pt", state))


# ------------------------------------------------------------------------------------------ what does not fit
def refusal(config: ModelConfig, path: Path) -> str:
    with pytest.raises(ValueError) as error:
        filled(config, "flow", path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def test_missing_and_unexpected_keys_are_named_in_full(config: ModelConfig, flow_state: State, tmp_path: Path):
    state = {key: value for key, value in flow_state.items() if not key.startswith("encoder.encoders.1.")}
    state["encoder_proj.lora_A"] = torch.zeros(1)
    message = refusal(config, saved(tmp_path / "flow.pt", state))
    missing = [key for key in flow_state if key.startswith("encoder.encoders.1.")]
    assert f"{len(missing)} missing ({', '.join(missing[:4])}, and {len(missing) - 4} more)" in message
    assert "1 unexpected (encoder_proj.lora_A)" in message and "MaskedDiffWithXvec" in message


def test_another_parts_file_is_recognised(config: ModelConfig):
    assert "is it the file of another part?" in refusal(config, config.directory / "llm.pt")


def test_a_wrong_shape_is_named_with_both_shapes(config: ModelConfig, flow_state: State, tmp_path: Path):
    state = {**flow_state, "encoder_proj.weight": torch.zeros(80, 12)}
    message = refusal(config, saved(tmp_path / "flow.pt", state))
    assert "encoder_proj.weight is (80, 12) in the file but (80, 48) in the model" in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_named(
    config: ModelConfig, flow_state: State, tmp_path: Path, value: float, dtype: torch.dtype
):
    weight = flow_state["encoder_proj.weight"].clone().to(dtype)
    weight[3, 5] = value
    message = refusal(config, saved(tmp_path / "flow.pt", {**flow_state, "encoder_proj.weight": weight}))
    assert "encoder_proj.weight holds NaN or infinite numbers" in message


def test_large_finite_numbers_are_accepted(config: ModelConfig, flow_state: State, tmp_path: Path):
    state = {**flow_state, "encoder_proj.bias": torch.full((80,), 3e38)}
    assert_same_state(filled(config, "flow", saved(tmp_path / "flow.pt", state)), state)


@pytest.mark.filterwarnings("ignore:Sparse invariant:UserWarning")
def test_whole_numbers_and_sparse_tensors_are_refused(config: ModelConfig, flow_state: State, tmp_path: Path):
    for value in (torch.zeros(80, 48, dtype=torch.int8), torch.eye(80)[:, :48].to_sparse()):
        message = refusal(config, saved(tmp_path / "flow.pt", {**flow_state, "encoder_proj.weight": value}))
        assert "encoder_proj.weight" in message and "plain floating-point" in message


def test_a_failed_load_leaves_the_network_as_it_was(config: ModelConfig, flow_state: State, tmp_path: Path):
    network = filled(config, "flow", config.directory / "flow.pt")
    bad = {**flow_state, "encoder_proj.bias": torch.full((80,), torch.nan)}
    with pytest.raises(ValueError, match="encoder_proj.bias"):
        load_weights(network, saved(tmp_path / "flow.pt", bad))
    assert_same_state(network, flow_state)


# ------------------------------------------------------------------------------------------ files that are none
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; download it again"),
        (b"not weights at all\n", "is damaged or no PyTorch weight file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "is damaged or no PyTorch weight file"),
        (bytes(range(256)) * 40, "is damaged or no PyTorch weight file"),
        (b"PK\x05\x06" + bytes(18), "is damaged or no PyTorch weight file"),  # an empty zip archive
    ],
)
def test_a_file_without_weights_is_refused_in_one_line(
    config: ModelConfig, tmp_path: Path, content: bytes, message: str
):
    path = tmp_path / "flow.pt"
    path.write_bytes(content)
    assert message in refusal(config, path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.999])
def test_a_truncated_file_is_refused(config: ModelConfig, flow_state: State, tmp_path: Path, kept: float, legacy: bool):
    path = saved(tmp_path / "flow.pt", flow_state, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert "download it again" in refusal(config, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_file_damaged_in_its_index_is_refused(config: ModelConfig, flow_state: State, tmp_path: Path):
    path = saved(tmp_path / "flow.pt", flow_state)
    content = bytearray(path.read_bytes())
    content[200:4000] = b"\x80" * 3800
    path.write_bytes(content)
    assert "download it again" in refusal(config, path)


def flip(path: Path, place: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("reader", [load_state_dict_file, read_torch, load_spk2info])
def test_a_flipped_bit_in_the_numbers_is_told_with_the_name_of_the_tensor(tmp_path: Path, reader: Callable):
    path = saved(tmp_path / "x.pt", {"first": torch.full((4,), 3.0), "second": torch.full((4,), 7.0)})
    flip(path, path.read_bytes().index(torch.full((4,), 7.0).numpy().tobytes()) + 5)
    with pytest.raises(DamagedFile, match="x.pt: is damaged .*second.*; download it again"):
        reader(path)


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path):
    state = {"a": torch.arange(6.0), "b": torch.ones(2, 2)}
    whole = saved(tmp_path / "x.pt", state).read_bytes()
    told = 0
    for place in range(0, len(whole), 7):
        (tmp_path / "x.pt").write_bytes(whole)
        flip(tmp_path / "x.pt", place)
        try:
            read = load_state_dict_file(tmp_path / "x.pt")
        except InputError as error:
            told += "\n" not in str(error)
        else:  # padding, dates and whatever else nobody reads
            assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)
            told += 1
    assert told == len(range(0, len(whole), 7))


def test_an_entry_that_calls_itself_a_folder_is_refused(tmp_path: Path):
    path = saved(tmp_path / "x.pt", {"a": torch.arange(6.0)})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"x/data/0") - 8] ^= 0x10  # attributes in the index
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="folder"):
        load_state_dict_file(path)


def packed_anew(path: Path, **options: object) -> None:
    """The file's zip archive written again, with these options of zipfile."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", options.get("method", zipfile.ZIP_STORED)) as archive:
        warnings.simplefilter("ignore")  # of doubled names
        for name, data in entries * options.get("times", 1):
            archive.writestr(name, data)


@pytest.mark.parametrize(("options", "message"), [({"times": 2}, "an entry twice"), ({"method": 8}, "compression")])
def test_an_archive_that_pytorch_reads_otherwise_is_refused(tmp_path: Path, options: dict, message: str):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(3)})
    packed_anew(path, **options)
    with pytest.raises(DamagedFile, match=message):
        load_state_dict_file(path)


def test_a_file_written_without_checksums_is_read(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pt", {"a": torch.arange(6.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_state_dict_file(path)["a"], torch.arange(6.0))


def holding_itself() -> dict:
    content: dict = {"a": torch.ones(1)}
    content["module"] = content
    return content


def deep() -> list:
    content: list = []
    for _ in range(100):
        content = [content]
    return content


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.ones(1).expand(10**6, 10**6)},
        {"a": torch.ones(1, 1).expand(3, 10**9)},
        {"a": torch.ones(2, dtype=torch.float16).as_strided((10**9,), (0,))},
        {"a": torch.ones(10**6, 10**6, device="meta")},
        {"a": torch.sparse_coo_tensor(size=(10**6, 10**6))},
        {f"x{i}": torch.ones(1).expand(10**6) for i in range(50)},
        holding_itself(),
        {"a": deep()},
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant:UserWarning")
def test_a_file_that_claims_more_than_it_holds_is_refused_before_anything_is_made(tmp_path: Path, content: dict):
    with pytest.raises(InputError, match="x.pt: claims more than it holds"):
        load_state_dict_file(saved(tmp_path / "x.pt", content))


def test_a_view_of_the_right_size_is_read(tmp_path: Path):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(1).expand(64, 64)})
    assert load_state_dict_file(path)["a"].shape == (64, 64)


def test_parameters_become_plain_tensors(config: ModelConfig, flow_state: State, tmp_path: Path):
    path = saved(tmp_path / "flow.pt", {key: nn.Parameter(value) for key, value in flow_state.items()})
    state = load_state_dict_file(path, mapped=False)
    assert {type(value) for value in state.values()} == {Tensor}
    assert not any(value.requires_grad for value in state.values())
    assert_same_state(filled(config, "flow", path), flow_state)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_lack_of_memory_is_not_told_as_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(3)})

    def load(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)) as caught:
        load_state_dict_file(path)
    assert caught.value is error


def test_a_file_is_held_against_the_list_of_its_folder(tmp_path: Path):
    path = saved(tmp_path / "llm.pt", {"a": torch.ones(3)})
    other = saved(tmp_path / "other.pt", {"a": torch.ones(3)})
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{file_fingerprint(path)}  llm.pt\n\nnot a line\n", encoding="utf-8")
    assert torch.equal(load_state_dict_file(path)["a"], load_state_dict_file(other)["a"])
    saved(path, {"a": torch.zeros(3)})
    with pytest.raises(DamagedFile, match="differs from what SHA256SUMS says"):
        load_state_dict_file(path)
    assert load_state_dict_file(other)


@pytest.mark.parametrize("name", ["llm.pt", "hift.pt", "spk2info.pt", "campplus.onnx", "speech_tokenizer_v1.onnx"])
def test_every_weight_file_of_a_listed_model_is_checked(tmp_path: Path, name: str):
    shutil.copytree(MINI, tmp_path / "mini")
    flip(tmp_path / "mini" / name, (MINI / name).stat().st_size // 2)
    with pytest.raises(DamagedFile, match=name):
        check_listed(tmp_path / "mini" / name)
    inputs = {"campplus.onnx": 1, "speech_tokenizer_v1.onnx": 2}
    with pytest.raises(DamagedFile, match=name):
        if name in inputs:
            open_onnx(tmp_path / "mini" / name, inputs[name], torch.device("cpu"), 1)
        elif name == "spk2info.pt":
            load_spk2info(tmp_path / "mini" / name)
        else:
            load_part(tmp_path / "mini", name.removesuffix(".pt"))


def test_a_folder_and_a_missing_file_are_told_apart(config: ModelConfig, tmp_path: Path):
    assert "is a folder" in refusal(config, tmp_path)
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        filled(config, "flow", tmp_path / "flow.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds no named tensors"),
        ({}, "holds no named tensors"),
        (torch.zeros(3), "holds no named tensors"),
        ({"weight": "text"}, "entry 'weight' is not a tensor"),
        ({"a\nb": torch.zeros(1)}, "the name of a tensor must be a text"),
        ({1: torch.zeros(1)}, "the name of a tensor must be a text"),
        ({"model": {"a": torch.zeros(1)}}, "entry 'model' is not a tensor"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "holds 'a' twice"),
    ],
)
def test_content_that_is_no_state_dict_is_refused(config: ModelConfig, tmp_path: Path, content: object, message: str):
    assert message in refusal(config, saved(tmp_path / "flow.pt", content))


def test_the_fingerprint_is_the_hash_of_the_bytes(tmp_path: Path):
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "x.bin").write_bytes(content)
    assert file_fingerprint(tmp_path / "x.bin") == hashlib.sha256(content).hexdigest()


# ------------------------------------------------------------------------------------------ spk2info.pt
def test_voices_come_as_one_row_in_float32(tmp_path: Path):
    vector = torch.linspace(-1, 1, 192)
    entries = {
        "a": {"embedding": vector[None], "note": "ignored"},
        "b": {"embedding": vector},
        "c": {"llm_embedding": vector[None].double(), "prompt_text": torch.zeros(1, 3)},
        "d": {"embedding": vector.half()},
        "中文女": {"embedding": vector.tolist()},
    }
    voices = load_spk2info(saved(tmp_path / "spk2info.pt", entries))
    assert list(voices) == list(entries)
    for voice in voices.values():
        assert voice.shape == (1, 192) and voice.dtype == torch.float32
        torch.testing.assert_close(voice[0], vector, atol=1e-3, rtol=0)
    assert torch.equal(voices["中文女"][0], vector)


def test_embedding_comes_before_llm_embedding():
    entry = {"llm_embedding": torch.zeros(1, 192), "embedding": torch.ones(1, 192)}
    assert torch.equal(speaker_embedding(entry), torch.ones(1, 192))


def test_no_spk2info_means_no_named_voices(tmp_path: Path):
    assert load_spk2info(tmp_path / "spk2info.pt") == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "has neither 'embedding' nor 'llm_embedding'"),
        (torch.zeros(1, 192), "is not a dict"),
        ({"embedding": torch.zeros(1, 512)}, r"has the shape \(1, 512\), expected \(1, 192\)"),
        ({"embedding": torch.full((192,), torch.nan)}, "holds NaN"),
        ({"embedding": torch.ones(192), "seconds_per_text_token": "0.2"}, "seconds_per_text_token must be a number"),
        ({"embedding": torch.ones(192), "seconds_per_text_token": float("nan")}, "must be a finite number"),
        ({"embedding": torch.ones(192), "text_normalizer": "a\nb"}, "text_normalizer must be a text"),
        ({"embedding": torch.ones(192, dtype=torch.int64)}, "use plain floating-point"),
        ({"embedding": ["1"] * 192}, "must be a number"),
        ({"embedding": "abc"}, "its embedding is str, not a tensor"),
    ],
)
def test_a_voice_that_is_not_usable_is_named(tmp_path: Path, entry: object, message: str):
    path = saved(tmp_path / "spk2info.pt", {"good": {"embedding": torch.ones(192)}, "Anna": entry})
    with pytest.raises(ValueError, match=f"spk2info.pt: voice 'Anna': .*{message}"):
        load_spk2info(path)


def test_a_spk2info_that_is_no_dict_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no named voices"):
        load_spk2info(saved(tmp_path / "spk2info.pt", [1, 2]))


# ------------------------------------------------------------------------------------------ the model directory
def test_load_part_gives_a_network_in_eval_mode(tiny_model_dir: Path):
    network = load_part(tiny_model_dir, "flow")
    assert not network.training and all(parameter.requires_grad for parameter in network.parameters())


def test_load_part_for_inference_folds_the_vocoder_and_freezes_it(config: ModelConfig, hift: nn.Module):
    network = load_part(config, "hift", inference=True)
    assert not any("parametrizations" in name for name in network.state_dict())
    assert {name for name, _ in network.named_parameters()} == set(network.state_dict())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    mel, source = torch.randn(1, 80, 6), torch.randn(1, 1, 6 * 256)
    torch.testing.assert_close(network.decode(mel, source), hift.decode(mel, source))


def test_load_part_takes_other_weights(config: ModelConfig, flow_state: State, tmp_path: Path):
    state = {key: value + 1 for key, value in flow_state.items()}
    assert_same_state(load_part(config, "flow", saved(tmp_path / "merged.pt", state)), state)


def test_an_unknown_part_is_refused(config: ModelConfig):
    with pytest.raises(ValueError, match="unknown part 'vocoder'; choose one of llm, flow, hift"):
        load_part(config, "vocoder")


def test_every_missing_file_is_named_at_once(tiny_model_dir: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such model directory"):
        CosyVoice(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="llm.pt, flow.pt, hift.pt, cosyvoice.yaml missing"):
        CosyVoice(tmp_path)
    shutil.copy(tiny_model_dir / "cosyvoice.yaml", tmp_path)
    with pytest.raises(FileNotFoundError, match="llm.pt, flow.pt, hift.pt missing; download the model: pip install"):
        CosyVoice(tmp_path)
    with pytest.raises(FileNotFoundError, match="hift.pt missing"):
        CosyVoice(tmp_path, llm=tiny_model_dir / "llm.pt", flow=tiny_model_dir / "flow.pt")


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> CosyVoice:
    return CosyVoice(tiny_model_dir)


def test_a_model_directory_speaks_with_a_named_voice(model: CosyVoice):
    torch.manual_seed(0)
    assert model.list_available_spks() == ["中文女", "英文男"]
    pieces = list(model.inference_sft("Hi.", "中文女"))
    speech = torch.cat([piece["tts_speech"] for piece in pieces], dim=1)
    assert speech.shape[0] == 1 and speech.shape[1] > 0 and speech.abs().max() <= 0.99
    assert torch.isfinite(speech).all()


def test_an_unknown_voice_lists_the_known_ones(model: CosyVoice):
    with pytest.raises(ValueError, match="no voice named 'Bob'; there are: 中文女, 英文男"):
        model.inference_sft("Hi.", "Bob")


@pytest.mark.parametrize("text", ["", "...", "   ", "！？"])
def test_text_with_nothing_to_speak_is_refused(model: CosyVoice, text: str):
    with pytest.raises(ValueError, match="nothing to speak"):
        model.inference_sft(text, "中文女")


@pytest.mark.parametrize("mapped", [True, False])
def test_a_tensor_whose_numbers_are_not_in_the_file_is_told(mapped, tmp_path):
    """Its entry is empty, with a checksum that is right; PyTorch would read what lies behind it."""
    torch.save({"a": torch.ones(100), "b": torch.ones(100)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "a.pt", "w") as copy:
        for entry in whole.infolist():
            copy.writestr(entry.filename, b"" if entry.filename.endswith("/data/0") else whole.read(entry))
    with pytest.raises(DamagedFile):
        load_state_dict_file(tmp_path / "a.pt", mapped)


def test_weights_that_share_their_numbers_or_are_views_load(tmp_path):
    shared = torch.arange(100.0)
    torch.save(
        {"a": shared, "b": shared, "c": shared[10:20], "d": torch.nn.Parameter(shared.clone())}, tmp_path / "a.pt"
    )
    assert torch.equal(load_state_dict_file(tmp_path / "a.pt")["c"], shared[10:20])
