"""Front end: numbers as words, reading audio, speech tokens, speaker vectors and mel. Exact text rules: parity."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from cosyvoice.cli import frontend
from cosyvoice.cli.frontend import STOCK, CosyVoiceFrontEnd
from cosyvoice.utils.audio_files import load_wav, resample
from cosyvoice.utils.common import InputError
from cosyvoice.utils.yaml_loader import read_model_config


@pytest.fixture(scope="module")
def front(tiny_model_dir: Path) -> CosyVoiceFrontEnd:
    return CosyVoiceFrontEnd(read_model_config(tiny_model_dir))


def voice(seconds: float, rate: int = 16_000, seed: int = 0) -> Tensor:
    """Something with harmonics and noise, (1, N) in [-1, 1]."""
    t = torch.arange(int(seconds * rate)) / rate
    hum = sum(torch.sin(2 * torch.pi * 140 * k * t + k) / k for k in range(1, 12))
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(seed))
    return (0.1 * hum + 0.01 * noise)[None]


def wav(path: Path, samples: np.ndarray, rate: int = 16_000, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder in which nobody can write")
def test_models_are_opened_without_a_word_where_the_home_folder_cannot_be_written(tiny_model_dir: Path):
    code = "import sys, torch; from pathlib import Path; from cosyvoice.cli.frontend import open_onnx; "
    code += "open_onnx(Path(sys.argv[1]), 1, torch.device('cpu'), 1)"
    unwritable = {name: "/proc/home" for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | unwritable
    command = [sys.executable, "-c", code, str(tiny_model_dir / "campplus.onnx")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_importing_the_front_end_loads_nothing_that_only_some_runs_need():
    lazy = "{'av', 'wetext', 'inflect', 'whisper', 'librosa'}"
    imports = "import sys, cosyvoice.cli.cosyvoice, cosyvoice.utils.audio_files"
    code = f"{imports}; print([name for name in {lazy} if name in sys.modules])"
    root = Path(frontend.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""


# ------------------------------------------------------------------------------------------ reading audio
def test_channels_are_averaged_and_nothing_else_is_changed(tmp_path: Path):
    left, right = voice(0.1).numpy()[0], voice(0.1, seed=1).numpy()[0] * 3
    path = wav(tmp_path / "语音.wav", np.stack([left, right], axis=1), 48_000, subtype="FLOAT")
    wave = load_wav(path, 48_000)
    assert wave.shape == (1, 1600) and wave.dtype == torch.float32
    torch.testing.assert_close(wave[0], torch.from_numpy((left + right) / 2))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_what_libsndfile_reads_is_read(tmp_path: Path, suffix: str):
    path = wav(tmp_path / f"a.{suffix}", voice(0.5, 44_100).numpy()[0], 44_100)
    wave = load_wav(path, 16_000)
    assert abs(wave.shape[1] - 8_000) < 1_200 and torch.isfinite(wave).all()


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (44_100, 22_050), (16_000, 22_050), (48_000, 22_050)])
def test_resampling_keeps_a_tone_and_its_length(source: int, target: int):
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(source) / source)[None]
    out = resample(tone, source, target)
    assert out.shape == (1, target)
    expected = torch.sin(2 * torch.pi * 1000 * torch.arange(target) / target)
    assert (out[0] - expected)[200:-200].abs().max() < 1e-2


def test_the_same_rate_is_left_untouched():
    wave = voice(0.1)
    assert resample(wave, 16_000, 16_000) is wave


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: wav(path, np.zeros(0, np.float32)), r"holds no sound \(0 samples\)"),
        (lambda path: wav(path, np.zeros(800, np.float32), 7_999), "7999 Hz is too low; record at 16000 Hz or more"),
        (lambda path: wav(path, np.array([0.0, np.nan]), subtype="FLOAT"), "samples that are not numbers"),
        (lambda path: wav(path, np.array([0.0, np.inf]), subtype="FLOAT"), "samples that are not numbers"),
        (lambda path: wav(path, np.array([0.0, 1e20, 0.0]), subtype="FLOAT"), r"reach 1e\+20 times full scale"),
    ],
)
def test_audio_that_is_not_usable_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str):
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(ValueError, match=message):
        load_wav(path, 16_000)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_whole_numbers_that_were_saved_as_float_sound_as_they_are_meant(bits: int, tmp_path: Path):
    wave = voice(0.5)[0].numpy()
    wav(tmp_path / "a.wav", np.round(wave * 2 ** (bits - 1)).astype(np.float32), 16_000, subtype="FLOAT")
    assert np.abs(load_wav(tmp_path / "a.wav", 16_000)[0].numpy() - wave).max() < 1e-4


@pytest.mark.parametrize("rate", [8_001, 15_999, 44_101, 47_999])
def test_any_rate_is_converted(rate: int):
    """The sine stays a sine of its pitch and loudness, also where the rates share no divisor."""
    seconds = torch.arange(rate, dtype=torch.float64) / rate
    found = resample(torch.sin(2 * torch.pi * 440 * seconds)[None].float(), rate, 16_000)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    assert abs(found.shape[1] - 16_000) <= 1
    assert (found[0, 200:15_800] - expected[200:15_800]).abs().max() < 1e-3


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="a.wav: no such audio file"):
        load_wav(tmp_path / "a.wav", 16_000)


# ------------------------------------------------------------------------------------------ features
@pytest.mark.parametrize("samples", [3_200, 16_000, 16_161])
def test_speech_tokens_are_50_a_second_and_follow_the_audio(front: CosyVoiceFrontEnd, samples: int):
    wave = voice(2.0)[:, :samples]
    tokens = front.speech_tokens(wave)
    assert len(tokens) == samples // 160 // 2
    assert all(isinstance(token, int) and 0 <= token < 64 for token in tokens)
    assert tokens == front.speech_tokens(wave)
    other = voice(2.0, seed=1)[:, :samples] * torch.linspace(0, 1, samples)
    assert tokens != front.speech_tokens(other)


def test_thirty_seconds_are_the_longest(front: CosyVoiceFrontEnd):
    assert len(front.speech_tokens(torch.zeros(1, 480_000))) == 1500
    with pytest.raises(ValueError, match="the audio is 30.1 s long; speech tokens are made of at most 30 s"):
        front.speech_tokens(torch.zeros(1, 481_600))


def test_a_speaker_vector_follows_the_audio(front: CosyVoiceFrontEnd):
    vector = front.speaker_vector(voice(1.0))
    assert vector.shape == (192,) and vector.dtype == torch.float32
    assert torch.equal(vector, front.speaker_vector(voice(1.0)))
    assert (vector - front.speaker_vector(voice(1.0, seed=5))).abs().max() > 1e-4


def test_mel_is_raw_log_mel_with_one_row_a_frame(front: CosyVoiceFrontEnd):
    wave = voice(0.5, 22_050)
    mel = front.mel(wave)
    assert mel.shape == (wave.shape[1] // 256, 80)
    torch.testing.assert_close(mel, front.config.feat_extractor(wave)[0].T)


def test_mel_of_a_wave_that_clips_is_that_of_the_wave_at_full_scale(front: CosyVoiceFrontEnd):
    wave = voice(0.5, 22_050)
    wave = wave / wave.abs().max()
    torch.testing.assert_close(front.mel(wave * 4), front.mel(wave))
    assert not torch.allclose(front.mel(wave * 0.5), front.mel(wave))


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(1, 100), "100 samples"),
        (torch.zeros(1, 0), "0 samples"),
        (torch.zeros(2, 9000), r"\(2, 9000\)"),
        (torch.zeros(9000), r"\(9000,\)"),
        (torch.full((1, 9000), torch.nan), "not numbers"),
    ],
)
@pytest.mark.parametrize("feature", ["speech_tokens", "speaker_vector", "mel"])
def test_a_wave_of_the_wrong_kind_is_refused(front: CosyVoiceFrontEnd, feature: str, wave: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        getattr(front, feature)(wave)


# ------------------------------------------------------------------------------------------ ONNX files
def broken(tiny_model_dir: Path, tmp_path: Path) -> CosyVoiceFrontEnd:
    """A front end whose ONNX files may be spoilt."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("cosyvoice.yaml", "campplus.onnx", "speech_tokenizer_v1.onnx"):
        shutil.copy(tiny_model_dir / name, directory)
    return CosyVoiceFrontEnd(read_model_config(directory))


def test_a_missing_onnx_file_is_named_with_how_to_get_it(tiny_model_dir: Path, tmp_path: Path):
    front = broken(tiny_model_dir, tmp_path)
    (front.config.directory / "campplus.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="campplus.onnx missing; download the model"):
        front.speaker_vector(voice(0.5))
    assert front.speech_tokens(voice(0.5))  # the other one is not needed for this


@pytest.mark.parametrize("content", [b"", b"not onnx", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_onnx_model_is_named(tiny_model_dir: Path, tmp_path: Path, content: bytes):
    front = broken(tiny_model_dir, tmp_path)
    (front.config.directory / "speech_tokenizer_v1.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="speech_tokenizer_v1.onnx: cannot be opened as an ONNX model"):
        front.speech_tokens(voice(0.5))


def test_onnx_files_under_each_others_names_are_told_apart(tiny_model_dir: Path, tmp_path: Path):
    front = broken(tiny_model_dir, tmp_path)
    for name, source in (("campplus.onnx", "speech_tokenizer_v1.onnx"), ("speech_tokenizer_v1.onnx", "campplus.onnx")):
        shutil.copy(tiny_model_dir / source, front.config.directory / name)
    with pytest.raises(ValueError, match="campplus.onnx: has 2 inputs and 1 outputs, expected 1 and 1"):
        front.speaker_vector(voice(0.5))
    with pytest.raises(ValueError, match="speech_tokenizer_v1.onnx: has 1 inputs and 1 outputs, expected 2 and 1"):
        front.speech_tokens(voice(0.5))


def test_onnx_inputs_are_found_by_position(tiny_model_dir: Path, tmp_path: Path):
    front = broken(tiny_model_dir, tmp_path)
    wanted = front.speech_tokens(voice(0.5))
    path = front.config.directory / "speech_tokenizer_v1.onnx"
    content = path.read_bytes()
    renamed = onnx.load_from_string(content)
    for value, name in zip(renamed.graph.input, ("x", "n"), strict=True):
        for node in renamed.graph.node:
            node.input[:] = [name if entry == value.name else entry for entry in node.input]
        value.name = name
    path.write_bytes(renamed.SerializeToString())
    assert CosyVoiceFrontEnd(front.config).speech_tokens(voice(0.5)) == wanted


def onnx_file(path: Path, taken: dict[str, tuple[int, list]], given: np.ndarray, nodes: Sequence[onnx.NodeProto] = ()):
    """An ONNX file that gives the same whatever it is given; nodes: that make "out" of "given"."""
    constant = numpy_helper.from_array(given, "given")
    out = helper.make_tensor_value_info("out", constant.data_type, None)
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in taken.items()]
    nodes = list(nodes) or [helper.make_node("Identity", ["given"], ["out"])]
    graph = helper.make_graph(nodes, "graph", inputs, [out], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


FLOAT, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
SPEAKER = {"feats": (FLOAT, [1, "T", 80])}
TOKENIZER = {"feats": (FLOAT, [1, 128, "T"]), "length": (INT32, [1])}
VECTOR, IDS = np.ones((1, 192), np.float32), np.ones((1, 25), np.int64)


@pytest.mark.parametrize(
    ("taken", "given", "message"),
    [
        (SPEAKER, VECTOR.astype(np.float64), r"gives tensor\(double\)"),
        (SPEAKER, np.array([["a"] * 192], dtype=object), r"gives tensor\(string\)"),
        (SPEAKER, VECTOR[:, :191], r"the shape \(1, 191\) instead of 192 numbers"),
        (SPEAKER, VECTOR.reshape(12, 16), r"the shape \(12, 16\)"),
        (SPEAKER, VECTOR * np.nan, "192 finite numbers"),
        (SPEAKER, VECTOR * np.float32(1e38), "192 finite numbers of usual size"),
        (SPEAKER, VECTOR * 0, "192 finite numbers of usual size"),
        ({"feats": (onnx.TensorProto.DOUBLE, [1, "T", 80])}, VECTOR, r"takes tensor\(double\)"),
        ({"feats": (FLOAT, [1, 80, "T"])}, VECTOR, "fails"),
        ({"feats": (FLOAT, [1, 1, "T", 80])}, VECTOR, r"takes tensor\(float\) \[1, 1, 'T', 80\]"),
        (TOKENIZER, IDS.astype(np.float32), r"gives tensor\(float\)"),
        (TOKENIZER, IDS * 64, "tokens outside 0..63"),
        (TOKENIZER, -IDS, "tokens outside 0..63"),
        (TOKENIZER, IDS.reshape(5, 5), r"the shape \(5, 5\) for 0.50 s"),
        (TOKENIZER, np.ones((1, 5000), np.int64), r"the shape \(1, 5000\)"),
        (TOKENIZER, np.ones((1, 0), np.int64), r"the shape \(1, 0\)"),
        (TOKENIZER | {"length": (onnx.TensorProto.INT64, [1])}, IDS, r"takes tensor\(int64\)"),
    ],
)
def test_what_a_model_from_elsewhere_takes_or_gives_is_checked(
    tiny_model_dir: Path, tmp_path: Path, taken: dict, given: np.ndarray, message: str
):
    front = broken(tiny_model_dir, tmp_path)
    feature = {"campplus.onnx": front.speaker_vector, "speech_tokenizer_v1.onnx": front.speech_tokens}
    name = list(feature)[len(taken) - 1]
    onnx_file(front.config.directory / name, taken, given)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        feature[name](voice(0.5))


def test_a_model_that_does_not_end_is_stopped_and_named(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in [
            ("i", onnx.TensorProto.INT64, []),
            ("on", onnx.TensorProto.BOOL, []),
            ("x", FLOAT, None),
            ("still_on", onnx.TensorProto.BOOL, []),
            ("y", FLOAT, None),
        ]
    ]
    steps = [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Add", ["x", "x"], ["y"])]
    body = helper.make_graph(steps, "body", values[:3], values[3:])
    often = helper.make_node("Constant", [], ["often"], value=numpy_helper.from_array(np.array(2**62)))
    front = broken(tiny_model_dir, tmp_path)
    loop = helper.make_node("Loop", ["often", "", "given"], ["out"], body=body)
    onnx_file(front.config.directory / "campplus.onnx", SPEAKER, VECTOR, [often, loop])
    monkeypatch.setattr(frontend, "RUN_SEC", 0.2)
    monkeypatch.setattr(frontend, "RUN_SEC_PER_SEC", 0)
    with pytest.raises(TimeoutError, match="campplus.onnx: gave nothing for 0.5 s of sound within"):
        front.speaker_vector(voice(0.5))


def test_a_model_that_wants_more_memory_than_there_is_is_not_called_damaged(tiny_model_dir: Path, tmp_path: Path):
    front = broken(tiny_model_dir, tmp_path)
    many = helper.make_node("Constant", [], ["many"], value=numpy_helper.from_array(np.array([2**42])))
    nodes = [many, helper.make_node("ConstantOfShape", ["many"], ["out"])]
    onnx_file(front.config.directory / "campplus.onnx", SPEAKER, VECTOR, nodes)
    with pytest.raises(MemoryError, match="campplus.onnx"):
        front.speaker_vector(voice(0.5))


def test_tokens_outside_the_vocabulary_are_refused(tiny_model_dir: Path, tmp_path: Path):
    front = broken(tiny_model_dir, tmp_path)
    yaml = front.config.directory / "cosyvoice.yaml"
    text = yaml.read_text(encoding="utf-8").replace("_size: 64", "_size: 8")
    yaml.write_text(text, encoding="utf-8")
    smaller = CosyVoiceFrontEnd(read_model_config(front.config.directory))
    with pytest.raises(ValueError, match="gives tokens outside 0..7"):
        smaller.speech_tokens(voice(1.0))


@pytest.mark.parametrize(
    ("device", "providers"),
    [
        ("cpu", [("CPUExecutionProvider", {})]),
        ("cuda", [("CUDAExecutionProvider", {"device_id": 0}), ("CPUExecutionProvider", {})]),
        ("cuda:1", [("CUDAExecutionProvider", {"device_id": 1}), ("CPUExecutionProvider", {})]),
    ],
)
def test_onnx_models_run_on_the_gpu_that_was_named(monkeypatch: pytest.MonkeyPatch, device: str, providers: list):
    everything = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(frontend.onnxruntime, "get_available_providers", lambda: everything)
    assert frontend.onnx_providers(torch.device(device)) == providers


def test_onnx_models_run_on_the_cpu_where_onnxruntime_knows_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frontend.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert frontend.onnx_providers(torch.device("cuda", 1)) == [("CPUExecutionProvider", {})]


def test_more_threads_give_the_same(front: CosyVoiceFrontEnd):
    two = CosyVoiceFrontEnd(front.config, threads=2)
    assert two.speech_tokens(voice(0.5)) == front.speech_tokens(voice(0.5))


def test_the_default_normaliser_is_that_of_stock(front: CosyVoiceFrontEnd):
    assert front.normalizer is STOCK
