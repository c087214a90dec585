"""The front end against golden vectors: text rules and token ids exactly, audio features within their tolerances."""

from functools import cache
from pathlib import Path
from typing import Any

import golden
import pytest
import torch

from cosyvoice.cli import text
from cosyvoice.cli.frontend import CosyVoiceFrontEnd, kaldi_fbank, whisper_logmel
from cosyvoice.cli.text import StockNormalizer, split_paragraph
from cosyvoice.utils.yaml_loader import read_model_config

HELPERS = {
    "contains_chinese": text.contains_chinese,
    "replace_blank": text.replace_blank,
    "replace_corner_mark": text.replace_corner_mark,
    "remove_bracket": text.remove_bracket,
    "is_only_punctuation": text.is_only_punctuation,
    "spell_out_number_needs_inflect": text.spell_out_number,
}
RULES = golden.load_json("llm/text_normalize")
SPLITS = golden.load_json("llm/text_split")
TOKENS = golden.load_json("llm/tokenizer")


@cache
def front_end(directory: Path) -> CosyVoiceFrontEnd:
    """The 300M front end with no external normaliser."""
    return CosyVoiceFrontEnd(read_model_config(directory), normalizer=StockNormalizer(wetext=False))


def raises(expected: Any) -> bool:
    """Whether the reference fails on this input."""
    return isinstance(expected, dict)


@pytest.mark.parametrize("name", HELPERS)
def test_helper_functions(name: str):
    cases = [case for case in RULES["functions"][name] if not raises(case[1])]
    assert [[given, HELPERS[name](given)] for given, _ in cases] == cases


def test_every_helper_of_the_golden_is_compared():
    assert set(RULES["functions"]) == set(HELPERS)


def test_a_space_with_no_neighbour_is_removed():
    assert text.replace_blank("ab ") == "ab" and text.replace_blank("你好 ") == "你好"


def test_text_normalize(tiny_model_dir: Path):
    cases = [case for case in RULES["text_normalize_no_external_normalizer"] if not raises(case["out"])]
    assert len(cases) > 50
    for case in cases:
        out = front_end(tiny_model_dir).text_normalize(case["text"], case["split"], case["text_frontend"])
        assert out == case["out"], case


def test_text_on_which_the_reference_fails_gives_nothing(tiny_model_dir: Path):
    cases = [case for case in RULES["text_normalize_no_external_normalizer"] if raises(case["out"])]
    assert {case["text"] for case in cases} == {"   "}
    assert front_end(tiny_model_dir).text_normalize("   ") == []
    assert front_end(tiny_model_dir).text_normalize("   ", split=False) == ""


@pytest.mark.parametrize("tokenizer", ["whisper", "words"])
def test_split_paragraph(tiny_model_dir: Path, tokenizer: str):
    words = tokenizer == "words"
    tokenize = str.split if words else front_end(tiny_model_dir).text_tokens
    cases = SPLITS["split_paragraph_word_tokenizer" if words else "split_paragraph"]
    compared = 0
    for case in cases:
        limits = {key: case[key] for key in ("token_max_n", "token_min_n", "merge_len", "comma_split")}
        segments = split_paragraph(case["text"], tokenize, case["lang"], **limits)
        if raises(case["out"]):  # a mark with nothing before it, then a quote; or no text at all
            assert "".join(segments).strip("。.") == case["text"].lstrip("。.").lstrip('"”')
        else:
            assert segments == case["out"], case
            compared += 1
    assert compared > (5 if words else 90)


def test_token_ids(tiny_model_dir: Path):
    for case in TOKENS["cases"]:
        assert front_end(tiny_model_dir).text_tokens(case["text"]) == case["ids"], case


def test_the_vocabulary_is_the_one_of_the_golden(tiny_model_dir: Path):
    for special, token in TOKENS["meta"]["specials"].items():
        assert front_end(tiny_model_dir).text_tokens(special) == [token]
    assert front_end(tiny_model_dir).config.text_token_size == TOKENS["meta"]["n_vocab"]


def test_whisper_logmel():
    data = golden.load("llm/whisper_logmel")
    golden.check("whisper_logmel", whisper_logmel(data["waveform"]), data["logmel"], atol=1e-4)


def test_kaldi_fbank():
    data = golden.load("llm/kaldi_fbank")
    fbank = kaldi_fbank(data["waveform"])
    golden.check("kaldi_fbank", fbank, data["fbank_cmn"], atol=2e-3)
    golden.check("kaldi_fbank mean error", (fbank - data["fbank_cmn"]).abs().mean(), torch.tensor(0.0), atol=1e-5)
