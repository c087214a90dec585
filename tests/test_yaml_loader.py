"""cosyvoice.yaml: what is read, what is built, what is refused. Files that try to run code: test_safety.py."""

import json
import time
from pathlib import Path

import pytest
import torch
from make_standin_model import TINY, Sizes, model_yaml

from cosyvoice.flow.flow import MaskedDiffWithXvec
from cosyvoice.utils import yaml_loader
from cosyvoice.utils.common import InputError
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config

MANIFESTS = Path(__file__).parent / "goldens" / "manifests"
TINY_YAML = model_yaml(TINY)


def read(directory: Path, text: str) -> ModelConfig:
    """The configuration of a directory whose yaml is `text`."""
    (directory / "cosyvoice.yaml").write_text(text, encoding="utf-8")
    return read_model_config(directory)


def without(text: str, key: str) -> str:
    """A yaml text without one top-level section."""
    kept, keep = [], True
    for line in text.splitlines(keepends=True):
        if line.strip() and not line.startswith((" ", "]")):
            keep = not line.startswith(f"{key}:")
        kept += [line] if keep else []
    return "".join(kept)


@pytest.mark.parametrize("part", ["llm", "flow", "hift"])
def test_full_size_networks_have_the_released_keys_and_shapes(tmp_path: Path, part: str):
    network = read(tmp_path, model_yaml(Sizes())).build(part, device="meta")
    manifest = json.loads((MANIFESTS / f"{part}_manifest.json").read_text(encoding="utf-8"))
    wanted = manifest["state_dict" if part == "llm" else "keys"]
    shapes = {key: [list(value.shape), "float32"] for key, value in network.state_dict().items()}
    assert shapes == wanted
    assert all(value.is_meta and value.dtype == torch.float32 for value in network.state_dict().values())


def test_sizes_come_from_the_yaml(tmp_path: Path):
    config = read(tmp_path, TINY_YAML)
    assert (config.sample_rate, config.spk_embed_dim, config.token_rate_hz) == (22050, 192, 50)
    assert (config.text_token_size, config.speech_token_size) == (51866, 64)
    assert config.allowed_special == "all"
    assert config.build("llm", device="cpu").speech_embedding.weight.shape == (64, 48)


def test_constants_of_the_flow_are_plain_numbers(tmp_path: Path):
    decoder = read(tmp_path, TINY_YAML).build("flow").decoder
    assert decoder.sigma_min == 1e-6  # YAML 1.2: a number, not the text "1e-06"
    assert (decoder.t_scheduler, decoder.inference_cfg_rate) == ("cosine", 0.7)


def test_constants_of_the_flow_may_be_a_plain_mapping(tmp_path: Path):
    text = TINY_YAML.replace("!new:omegaconf.DictConfig\n            content:", "")
    assert text != TINY_YAML
    assert read(tmp_path, text).build("flow").decoder.sigma_min == 1e-6


def test_mel_and_tokenizer_are_ready_to_call(tmp_path: Path):
    config = read(tmp_path, TINY_YAML)
    assert config.feat_extractor(torch.zeros(1, 2560)).shape == (1, 80, 10)
    assert config.get_tokenizer().encode("Hello world") == [15947, 1002]


def test_a_mel_that_nothing_here_makes_is_refused(tmp_path: Path):
    config = read(tmp_path, TINY_YAML.replace("center: False", "center: True"))
    with pytest.raises(InputError, match="center: True is not supported"):
        _ = config.feat_extractor


def test_the_mini_names_its_own_tokenizer(tmp_path: Path):
    whisper = TINY_YAML[TINY_YAML.index("get_tokenizer: !name") : TINY_YAML.index("allowed_special:")]
    own = "get_tokenizer: !name:cosyvoice.tokenizer.tokenizer.get_tokenizer\n    vocabulary: en_phones\n"
    text = TINY_YAML.replace(whisper, own).replace("text_token_size: 51866", "text_token_size: 128")
    text = text.replace("input_frame_rate: 50", "input_frame_rate: 25")
    config = read(tmp_path, text)
    assert (config.text_token_size, config.token_rate_hz) == (128, 25)
    assert config.build("flow").input_frame_rate == 25
    assert 0 < len(config.get_tokenizer().encode("Hello", allowed_special="all")) < 10


def test_a_missing_sampling_gets_the_repetition_aware_one(tmp_path: Path):
    start, end = TINY_YAML.index("    sampling: !name"), TINY_YAML.index("\nflow: ")
    sampling = read(tmp_path, TINY_YAML[:start] + TINY_YAML[end:]).build("llm").sampling
    scores = torch.full((65,), -20.0)
    scores[7] = 20.0
    assert sampling(scores, [1, 2, 3], 25) == 7
    assert sampling(scores, [7], 25) != 7  # win_size 10, tau_r 0.1


def test_a_whole_number_as_dropout_is_accepted(tmp_path: Path):
    text = TINY_YAML.replace("attention_dropout_rate: 0.0", "attention_dropout_rate: 0")
    assert text != TINY_YAML
    read(tmp_path, text).build("llm")


def test_unknown_keys_are_tolerated_and_training_keys_may_be_missing(tmp_path: Path):
    text = TINY_YAML[: TINY_YAML.index("parquet_opener")] + TINY_YAML[TINY_YAML.index("get_tokenizer: !name") :]
    text = (
        text[: text.index("tokenize:")]
        + "my_notes: [1, {a: b}, 2024-01-01, (x)]\nhifigan: !new:cosyvoice.hifigan.hifigan.HiFiGan {}\n"
    )
    config = read(tmp_path, text)
    assert config.build("flow").output_size == 80
    with pytest.raises(ValueError, match="lacks 'feat_extractor'"):
        _ = config.feat_extractor


def test_the_smaller_recipe_is_accepted(tmp_path: Path):
    small = Sizes(text_heads=8, text_units=2048, text_blocks=3, llm_heads=8, llm_units=2048, llm_blocks=7)
    text = model_yaml(small).replace("num_mid_blocks: 12", "num_mid_blocks: 8")
    network = read(tmp_path, text).build("flow")
    assert isinstance(network, MaskedDiffWithXvec)
    assert len(network.decoder.estimator.mid_blocks) == 8


def test_a_missing_input_frame_rate_means_50(tmp_path: Path):
    assert read(tmp_path, TINY_YAML.replace("    input_frame_rate: 50\n", "")).token_rate_hz == 50


def test_reading_and_building_leaves_the_random_state_alone(tmp_path: Path):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    read(tmp_path, TINY_YAML).build("llm")
    assert torch.equal(torch.random.get_rng_state(), before)


# ------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("old", "new", "model"),
    [
        ("TransformerLM", "Qwen2LM", "CosyVoice2"),
        ("MaskedDiffWithXvec", "CausalMaskedDiffWithXvec", "CosyVoice2"),
        ("TransformerLM", "CosyVoice3LM", "CosyVoice3"),
        ("MaskedDiffWithXvec", "CausalMaskedDiffWithDiT", "CosyVoice3"),
        ("text_token_size: 51866", "text_token_size: 60515", "CosyVoice-300M-25Hz"),
        ("!name:whisper.tokenizer", "!name:cosyvoice.tokenizer.tokenizer", "CosyVoice-300M-25Hz"),
        ("task: 'transcribe'", "file: multilingual_zh_ja_yue_char_del.tiktoken", "CosyVoice-300M-25Hz"),
    ],
)
def test_other_generations_are_recognised_and_refused(tmp_path: Path, old: str, new: str, model: str):
    with pytest.raises(ValueError, match=f"recognised {model}, which is not supported yet") as error:
        read(tmp_path, TINY_YAML.replace(old, new))
    assert str(tmp_path / "cosyvoice.yaml") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "model"), [("cosyvoice2.yaml", "CosyVoice2"), ("cosyvoice3.yaml", "CosyVoice3")])
def test_later_generations_are_recognised_by_their_file(tmp_path: Path, name: str, model: str):
    (tmp_path / name).write_text("llm: 1\n")
    with pytest.raises(ValueError, match=f"recognised {model}, which is not supported yet"):
        read_model_config(tmp_path)


def test_the_25hz_vocabulary_file_gives_it_away(tmp_path: Path):
    (tmp_path / "multilingual_zh_ja_yue_char_del.tiktoken").write_text("")
    with pytest.raises(ValueError, match="recognised CosyVoice-300M-25Hz"):
        read(tmp_path, TINY_YAML)


@pytest.mark.parametrize("key", ["llm", "flow", "hift", "sample_rate", "spk_embed_dim", "get_tokenizer"])
def test_a_missing_key_is_named(tmp_path: Path, key: str):
    with pytest.raises(ValueError, match=f"'{key}'"):
        read(tmp_path, without(TINY_YAML, key))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_half_a_file_is_to_be_downloaded_again(tmp_path: Path, share: float):
    with pytest.raises(ValueError, match="download it again"):
        read(tmp_path, TINY_YAML[: int(share * len(TINY_YAML))])


def test_all_missing_keys_are_named_at_once(tmp_path: Path):
    with pytest.raises(ValueError, match="lacks 'flow', 'hift'; take the cosyvoice.yaml that came with the model"):
        read(tmp_path, without(without(TINY_YAML, "flow"), "hift"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    text_token_size: 51866\n", "", "lacks 'llm.text_token_size'"),
        ("text_token_size: 51866", "text_token_size: many", "'llm.text_token_size' must be a whole number above 0"),
        ("speech_token_size: 64", "speech_token_size: 0", "'llm.speech_token_size' must be a whole number above 0"),
        ("vocab_size: 64", "vocab_size: 65", "'flow.vocab_size' is 65, but this kind of model needs 64"),
        ("sample_rate: 22050", "sample_rate: 24000", "'sample_rate' is 24000, but this kind of model needs 22050"),
        ("hop_size: 256", "hop_size: 300", "'feat_extractor.hop_size' is 300"),
        ("allowed_special: 'all'", "allowed_special: 'none'", "'allowed_special' must be 'all', not 'none'"),
        ("flow.flow.MaskedDiffWithXvec", "flow.flow.Other", "'flow' has the tag !new:cosyvoice.flow.flow.Other"),
        ("length_regulator.Interpolate", "length_regulator.Odd", "'flow.length_regulator' has the tag"),
        ("<llm_input_size>", "<nothing>", "'!ref <nothing>' must name one plain top-level value"),
        ("<llm_input_size>", "<llm_input_size> * 2", "must name one plain top-level value"),
        ("<llm_input_size>", "<flow>", "must name one plain top-level value"),
        ("lsm_weight: 0", "lsm_weight: &x 0\n    tau: *x", "'llm.tau' is a yaml alias"),
        ("lsm_weight: 0", "<<: {lsm_weight: 0}", "'llm': the names of arguments must be plain words"),
        ("lsm_weight: 0", "1: 2", "'llm': the names of arguments must be plain words"),
        ("\nllm: ", "\nllm: !new:cosyvoice.llm.llm.TransformerLM\nold_llm: ", "'llm' has no arguments"),
        ("task: 'transcribe'", "task: !name:whisper.tokenizer.x", "'get_tokenizer.task' has the tag"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(tmp_path: Path, old: str, new: str, message: str):
    assert old in TINY_YAML
    with pytest.raises(ValueError) as error:
        read(tmp_path, TINY_YAML.replace(old, new))
    assert message in str(error.value) and str(tmp_path / "cosyvoice.yaml") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("use_cnn_module: False", "use_cnn_module: True", "use_cnn_module"),
        ("lsm_weight: 0", "lsm_weight: 0\n    no_such_option: 1", "no_such_option"),
        ("attention_heads: 4", "attention_heads: 0", ""),
        ("attention_heads: 4", "attention_heads: [1]", ""),
        ("output_size: 32", "output_size: -32", ""),
        ("    llm: !new", "    llm: []\n    old: !new", "old"),
    ],
)
def test_an_option_that_is_not_supported_is_named_when_building(tmp_path: Path, old: str, new: str, message: str):
    config = read(tmp_path, TINY_YAML.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"cannot build 'llm'.*{message}") as error:
        config.build("llm")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("num_blocks: 2", "num_blocks: 100000", "llm.text_encoder.num_blocks"),
        ("num_mid_blocks: 2", "num_mid_blocks: 65", "flow.decoder.estimator.num_mid_blocks"),
        ("n_blocks: 2", "n_blocks: 1000000000", "flow.decoder.estimator.n_blocks"),
        ("output_size: 32", "output_size: 1000000000", "llm.text_encoder.output_size"),
        ("linear_units: 64", "linear_units: -9999999", "llm.text_encoder.linear_units"),
        ("linear_units: 64", "linear_units: 1.0e+300", "llm.text_encoder.linear_units"),
        ("linear_units: 64", "linear_units: .nan", "llm.text_encoder.linear_units"),
        ("text_token_size: 51866", "text_token_size: 99999999999999999999", "llm.text_token_size"),
        ("attention_heads: 4", f"attention_heads: {'9' * 400}", "llm.text_encoder.attention_heads"),
        ("nb_harmonics: 8", "nb_harmonics: 10000000", "hift.nb_harmonics"),
        ("n_fft: 16", "n_fft: 100000000", "hift.istft_params.n_fft"),
        ("channels: [32, 32]", f"channels: {[32] * 1000}", "flow.decoder.estimator.channels"),
        ("[[1, 3, 5], [1, 3, 5], [1, 3, 5]]", f"{[[1] * 9]}", "hift.resblock_dilation_sizes[0]"),
        ("input_layer: 'linear'", f"input_layer: {'x' * 5000}", "llm.text_encoder.input_layer"),
        ("win_size: 10\n", "win_size: 100000000\n", "llm.sampling.win_size"),
    ],
)
def test_sizes_that_would_hang_are_refused_by_name_before_anything_is_built(
    tmp_path: Path, old: str, new: str, key: str
):
    assert old in TINY_YAML
    started = time.monotonic()
    with pytest.raises(InputError) as error:
        read(tmp_path, TINY_YAML.replace(old, new, 1))
    assert f"'{key}" in str(error.value) and "\n" not in str(error.value)
    assert time.monotonic() - started < 5


# The shape of the recipes from autumn 2024 to January 2025: sections for training name functions of other packages.
RECIPE_SECTIONS = (
    """
pitch_extractor: !name:torchaudio.functional.compute_kaldi_pitch
    sample_rate: !ref <sample_rate>
    frame_length: 46.4
    frame_shift: 11.6
compute_f0: !name:cosyvoice.dataset.processor.compute_f0
    pitch_extractor: !ref <pitch_extractor>
""",
    """
pitch_extractor: !name:pyworld.harvest
data_pipeline_gan: [
    !name:some.other.package.opener {},
    !ref <compute_fbank>,
    {nested: !name:numpy.pad {mode: constant}},
]
""",
    """
mel_spec_transform1: !name:matcha.utils.audio.mel_spectrogram
    n_fft: 1024
hifigan: !new:cosyvoice.hifigan.hifigan.HiFiGan
    generator: !ref <hift>
    mel_spec_transform: [!ref <mel_spec_transform1>]
    pitch: !name:torchaudio.functional.detect_pitch_frequency
""",
)


@pytest.mark.parametrize("sections", RECIPE_SECTIONS)
def test_functions_that_sections_for_training_name_are_left_unread(tmp_path: Path, sections: str):
    plain = read(tmp_path, TINY_YAML)
    config = read(tmp_path, TINY_YAML + sections)
    assert config.sections == plain.sections
    assert config.build("flow").output_size == 80


@pytest.mark.parametrize("depth", [60, 300])
def test_sections_that_are_nested_too_deep_are_refused(tmp_path: Path, depth: int):
    for text in ("llm: " + "[" * depth + "]" * depth, TINY_YAML + "extra: " + "[" * depth + "]" * depth):
        with pytest.raises(InputError, match="nested too deep|not readable as yaml") as error:
            read(tmp_path, text)
        assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("upsample_rates: [8, 8]", "upsample_rates: [8, 4]", "make 128 samples of each mel frame, which has 256"),
        ("hop_len: 4", "hop_len: 2", "make 128 samples of each mel frame"),
        (
            "upsample_kernel_sizes: [16, 16]",
            "upsample_kernel_sizes: [16, 15]",
            "upsample_kernel_sizes has 15 for the rate",
        ),
        (
            "upsample_kernel_sizes: [16, 16]",
            "upsample_kernel_sizes: [6, 16]",
            "upsample_kernel_sizes has 6 for the rate 8",
        ),
        ("upsample_kernel_sizes: [16, 16]", "upsample_kernel_sizes: [16]", ""),
    ],
)
def test_a_vocoder_that_would_fail_while_speaking_is_refused_when_building(
    tmp_path: Path, old: str, new: str, message: str
):
    assert old in TINY_YAML
    config = read(tmp_path, TINY_YAML.replace(old, new))
    with pytest.raises(ValueError, match=f"cosyvoice.yaml: cannot build 'hift': .*{message}"):
        config.build("hift")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no keys"),
        (b"- 1\n", "holds no keys"),
        (b"a: [1, 2\n", "not readable as yaml"),
        (b"a: 1\n---\nb: 2\n", "not readable as yaml"),
        (b"a: 1\na: 2\n", "key 'a' stands there twice"),
        (b"- " * 20_000, "not readable as yaml"),
        (b"\xff\xfe\x00a", "not a text file in UTF-8"),
        (b"a: \x00\n", "not readable as yaml"),
        (b"# " + b"x" * yaml_loader.MAX_YAML_BYTES, "larger than"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "cosyvoice.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_model_config(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_an_alias_bomb_in_an_unbuilt_section_costs_nothing(tmp_path: Path):
    levels = ["x0: &x0 [a, a, a, a, a, a, a, a, a]"]
    levels += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert read(tmp_path, TINY_YAML + "\n".join(levels) + "\n").sample_rate == 22050


def test_a_missing_directory_or_yaml_says_how_to_get_the_model(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such model directory; download the model"):
        read_model_config(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="cosyvoice.yaml missing; download the model"):
        read_model_config(tmp_path)


def test_windows_line_ends_and_a_byte_order_mark_are_accepted(tmp_path: Path):
    (tmp_path / "cosyvoice.yaml").write_bytes(b"\xef\xbb\xbf" + TINY_YAML.replace("\n", "\r\n").encode())
    assert read_model_config(tmp_path).speech_token_size == 64
