"""The embedded model: files, sizes, checksums, and that its two graphs do real work on real clips."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import onnxruntime
import pytest
import torch

from clips.text_check import Spoken, text_help
from cosyvoice.cli.cosyvoice import CosyVoice, load_part
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.utils.audio_files import load_wav, resample
from cosyvoice.utils.common import SAMPLE_RATE
from cosyvoice.utils.weights import load_spk2info
from cosyvoice.utils.yaml_loader import read_model_config
from utils import read_finetune_yaml

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "pretrained_models" / "CosyVoice-mini"
CLIPS = ROOT / "examples" / "en_allison" / "raw_audio"
FILES = """cosyvoice.yaml llm.pt flow.pt hift.pt campplus.onnx speech_tokenizer_v1.onnx spk2info.pt finetune.yaml
SHA256SUMS""".split()


SENTENCE = "The bus was late again, so I walked to the office this morning."
OTHER_SENTENCES = [
    "My grandmother bakes fresh bread for us every single weekend.",
    "Turn left after the bank and keep going until you see the bridge.",
]
PHONES, PHONES_PER_SECOND = 39, 11.0  # of that sentence, and as flite's slt speaks


@lru_cache(maxsize=1)
def model() -> CosyVoice:
    return CosyVoice(MINI)


@lru_cache(maxsize=1)
def frontend() -> CosyVoiceFrontEnd:
    return CosyVoiceFrontEnd(read_model_config(MINI))


@lru_cache(maxsize=8)
def clip(index: int) -> torch.Tensor:
    """The index-th example clip, (1, N) at 16 kHz."""
    path = sorted(path for path in CLIPS.iterdir() if path.suffix != ".txt")[index]
    return load_wav(path, 16000)


def test_directory_is_complete_and_small():
    assert sorted(path.name for path in MINI.iterdir()) == sorted(FILES)
    assert sum(path.stat().st_size for path in MINI.iterdir()) < 40e6


@pytest.mark.parametrize("name", ["cosyvoice.yaml", "finetune.yaml"])
def test_the_next_export_writes_the_settings_that_ship(name):
    assert (MINI / name).read_bytes() == (ROOT / "build_mini" / "model" / name).read_bytes()


def test_checksums_match():
    listed = dict(line.split()[::-1] for line in (MINI / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    assert sorted(listed) == sorted(name for name in FILES if name != "SHA256SUMS")
    for name, digest in listed.items():
        assert hashlib.sha256((MINI / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("part", ["llm", "flow", "hift"])
def test_weights_load_strictly_and_are_finite(part):
    network = load_part(MINI, part)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


@pytest.mark.parametrize("file, names", [("speech_tokenizer_v1.onnx", 2), ("campplus.onnx", 1)])
def test_graphs_have_the_real_contract(file, names):
    session = onnxruntime.InferenceSession(MINI / file)
    assert [i.type for i in session.get_inputs()] == ["tensor(float)", "tensor(int32)"][:names]
    assert len(session.get_outputs()) == 1


@pytest.mark.parametrize("samples", [16000, 16640, 20001, 48000])
def test_speech_tokens_are_25_a_second_and_in_range(samples):
    tokens = frontend().speech_tokens(clip(2)[:, :samples])
    assert len(tokens) == samples // 160 // 4
    assert 0 <= min(tokens) and max(tokens) < 1024


def test_speech_tokens_depend_on_what_is_said():
    whole = frontend().speech_tokens(clip(2))
    assert len(set(whole)) > len(whole) / 4


def test_louder_speech_gives_nearly_the_same_tokens():
    wave = clip(2)
    pairs = zip(frontend().speech_tokens(wave), frontend().speech_tokens(wave * 0.5), strict=True)
    same = [a == b for a, b in pairs]
    assert sum(same) > 0.8 * len(same)


def test_speaker_vectors_separate_voices():
    first, second = (torch.nn.functional.normalize(frontend().speaker_vector(clip(i)), dim=-1) for i in (2, 3))
    others = [torch.nn.functional.normalize(v, dim=-1)[0] for v in load_spk2info(MINI / "spk2info.pt").values()]
    assert len(others) >= 2
    assert first @ second > max(float(first @ other) for other in others) + 0.2


def equal_share(first: list[int], second: list[int]) -> float:
    """Share of equal tokens at equal times."""
    return sum(a == b for a, b in zip(first, second, strict=False)) / min(len(first), len(second))


@pytest.mark.parametrize("voice", ["slt", "rms"])
def test_what_was_said_is_heard_again_in_another_voice(voice):
    nothing = torch.zeros(1, 0, dtype=torch.int32), torch.zeros(1, 0, 80)
    same, chance = [], []
    for index in (3, 4, 5):
        torch.manual_seed(0)
        said = frontend().speech_tokens(clip(index))
        tokens, vector = torch.tensor([said], dtype=torch.int32), model().speaker(voice)
        wave = model().model.token2wav(tokens, *nothing, vector, uuid="", finalize=True)
        heard = frontend().speech_tokens(resample(wave, SAMPLE_RATE, 16000))
        half = len(said) // 2
        same.append(equal_share(said, heard))
        chance.append(equal_share(said[half:] + said[:half], heard))
    assert sum(same) / 3 > 0.2 and sum(chance) / 3 < 0.03


def test_a_sentence_ends_by_itself_and_takes_the_time_that_it_should(caplog):
    model().model.scale_checked = False
    torch.manual_seed(0)
    waves = [piece["tts_speech"] for piece in model().inference_sft(SENTENCE, "slt")]
    seconds = sum(wave.shape[1] for wave in waves) / SAMPLE_RATE
    assert model().model.llm.stopped_by_eos and not caplog.records
    assert 0.6 < seconds / (PHONES / PHONES_PER_SECOND) < 1.6


@pytest.mark.parametrize("voice", ["slt", "awb", "rms", "kal16"])
def test_what_is_spoken_says_its_text(voice):
    """Heard by the model's own ears: the text explains the sound much better than other texts of that length do."""
    network = load_part(MINI, "llm").eval()
    encode = frontend().text_tokens
    torch.manual_seed(0)
    wave = torch.cat([piece["tts_speech"] for piece in model().inference_sft(SENTENCE, voice)], dim=1)
    heard = frontend().speech_tokens(resample(wave, SAMPLE_RATE, 16000))
    said = Spoken(voice, torch.tensor(encode(SENTENCE)), torch.tensor(heard), model().speaker(voice)[0])
    others = [torch.tensor(encode(text)) for text in OTHER_SENTENCES]
    assert text_help(network, said, others) * 25 > 50  # nats a second, as of a real clip


def test_finetune_yaml_is_accepted_by_the_settings():
    from config import load

    config, *_ = load([], read_finetune_yaml(MINI))
    assert config.stop.llm_loss > 0 and config.inference.min_token_text_ratio == 0.5
