"""Flow and vocoder models for tests: the tiny ones of the goldens, and the released sizes."""

from collections.abc import Mapping
from typing import Any

import golden

from cosyvoice.flow.decoder import ConditionalDecoder
from cosyvoice.flow.flow import MaskedDiffWithXvec
from cosyvoice.flow.flow_matching import ConditionalCFM
from cosyvoice.flow.length_regulator import InterpolateRegulator
from cosyvoice.hifigan.f0_predictor import ConvRNNF0Predictor
from cosyvoice.hifigan.generator import HiFTGenerator
from cosyvoice.transformer.encoder import ConformerEncoder

TINY = golden.load_json("flow/g17_token2wav")["config"]

# What the released cosyvoice.yaml changes in the tiny configuration.
RELEASED: dict[str, dict[str, Any]] = {
    "MaskedDiffWithXvec": {"input_size": 512, "spk_embed_dim": 192, "vocab_size": 4096},
    "ConformerEncoder": {
        "input_size": 512,
        "output_size": 512,
        "attention_heads": 8,
        "linear_units": 2048,
        "num_blocks": 6,
    },
    "ConditionalDecoder": {
        "channels": [256, 256],
        "attention_head_dim": 64,
        "n_blocks": 4,
        "num_mid_blocks": 12,
        "num_heads": 8,
    },
    "HiFTGenerator": {"base_channels": 512},
    "ConvRNNF0Predictor": {"cond_channels": 512},
}


def released(config: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A tiny configuration with the released sizes in it."""
    return {name: {**options, **RELEASED.get(name, {})} for name, options in config.items()}


def build_flow(config: Mapping[str, dict[str, Any]], **options: Any) -> MaskedDiffWithXvec:
    """Flow model with random weights. config: keyword arguments per class; options: more of MaskedDiffWithXvec's."""
    return MaskedDiffWithXvec(
        **{**config["MaskedDiffWithXvec"], **options},
        encoder=ConformerEncoder(**config["ConformerEncoder"]),
        length_regulator=InterpolateRegulator(**config["InterpolateRegulator"]),
        decoder=ConditionalCFM(
            **config["ConditionalCFM"], estimator=ConditionalDecoder(**config["ConditionalDecoder"])
        ),
    )


def build_hift(config: Mapping[str, dict[str, Any]]) -> HiFTGenerator:
    """Vocoder with random weights. config: keyword arguments per class."""
    return HiFTGenerator(**config["HiFTGenerator"], f0_predictor=ConvRNNF0Predictor(**config["ConvRNNF0Predictor"]))


def tiny_flow(**options: Any) -> MaskedDiffWithXvec:
    """The goldens' flow model in eval mode. options: of MaskedDiffWithXvec, such as input_frame_rate=25."""
    model = build_flow(TINY["flow"], **options)
    model.load_state_dict(golden.load("flow/flow_tiny_weights"))
    return model.eval()


def tiny_hift() -> HiFTGenerator:
    """The goldens' vocoder in eval mode."""
    model = build_hift(TINY["hift"])
    model.load_state_dict(golden.load("flow/hift_tiny_weights"))
    return model.eval()
