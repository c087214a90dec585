"""CosyVoice: one object out of a model directory; load_part: one network out of it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.cli.model import CosyVoiceModel
from cosyvoice.utils.common import InputError
from cosyvoice.utils.precision import attend_without_plans, has_int8, keep_float32_exact
from cosyvoice.utils.weights import load_spk2info, load_weights
from cosyvoice.utils.yaml_loader import YAML_NAME, ModelConfig, read_model_config, require_files

NETWORKS = ("llm", "flow", "hift")
VOICES = "spk2info.pt"


def load_part(
    config: ModelConfig | str | Path,
    part: str,
    weights: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    inference: bool = False,
    precision: str = "full",
    mapped: bool = True,
) -> nn.Module:
    """One network ("llm", "flow" or "hift") with its weights, float32, in eval mode.

    weights: another file than the directory's own. inference: ready to speak with, see `ready_to_speak`, in a
    precision of `cosyvoice.utils.precision`. mapped: see `load_state_dict_file`. Raises FileNotFoundError and
    InputError, naming the file, as the loaders below do.
    """
    if part not in NETWORKS:
        raise InputError(f"unknown part '{part}'; choose one of {', '.join(NETWORKS)}")
    config = config if isinstance(config, ModelConfig) else read_model_config(config)
    keep_float32_exact()
    attend_without_plans()
    if weights is None:
        require_files(config.directory, [f"{part}.pt"])
        weights = config.directory / f"{part}.pt"
    network = config.build(part, device="meta")
    load_weights(network, weights, mapped)
    network = network.to(device).eval()
    return ready_to_speak(network, precision) if inference else network


def stay_as_read(part: str, device: str | torch.device, precision: str) -> bool:
    """Whether the network computes with its weights as loaded; False where 8-bit copies take the place of most."""
    return not (part == "llm" and precision == "fast" and has_int8(torch.device(device)))


def ready_to_speak(network: nn.Module, precision: str = "full") -> nn.Module:
    """`network`, changed in place for speed on the device that it is on: its weights cannot change any more."""
    network.prepare_inference(precision)  # before freezing: what is folded without gradient becomes a buffer
    return network.requires_grad_(False)


class CosyVoice:
    """The whole model, ready to speak with a named voice."""

    def __init__(
        self,
        model_dir: str | Path,
        llm: str | Path | None = None,
        flow: str | Path | None = None,
        device: str | torch.device = "cpu",
        precision: str = "full",
    ) -> None:
        """llm, flow: weight files in place of the directory's own; precision: "full" or "fast".

        Raises FileNotFoundError naming what is missing."""
        own = {"llm.pt": llm is None, "flow.pt": flow is None, "hift.pt": True, YAML_NAME: True}
        directory = Path(model_dir)
        if any(directory.glob("cosyvoice*.yaml")):
            self.config = read_model_config(directory)  # first: it knows the model generations that are not supported
        require_files(directory, [name for name, needed in own.items() if needed])
        files = {"llm": llm, "flow": flow, "hift": None}
        options = {"device": device, "inference": True, "precision": precision}
        networks = {
            part: load_part(self.config, part, files[part], mapped=stay_as_read(part, device, precision), **options)
            for part in NETWORKS
        }
        self.model = CosyVoiceModel(**networks, device=device)
        self.frontend = CosyVoiceFrontEnd(self.config, device)
        self.voices = load_spk2info(directory / VOICES)

    def list_available_spks(self) -> list[str]:
        """Names of the voices in the directory's spk2info.pt; empty without that file."""
        return list(self.voices)

    def speaker(self, spk_id: str) -> Tensor:
        """The raw vector (1, 192) of a named voice. Raises InputError listing the names there are."""
        if spk_id not in self.voices:
            known = ", ".join(self.voices) or f"none, as the directory has no {VOICES}"
            raise InputError(f"{self.config.directory}: no voice named '{spk_id}'; there are: {known}")
        return self.voices[spk_id]

    def inference_sft(
        self, text: str, spk_id: str, stream: bool = False, speed: float = 1.0
    ) -> Iterator[dict[str, Tensor]]:
        """Speech in a named voice, piece by piece: {"tts_speech": (1, N) at 22050 Hz, on the CPU}.

        Long text is split into sentences, which follow each other without a pause. Raises InputError for an unknown
        voice and for text with nothing to speak.
        """
        embedding = self.speaker(spk_id)
        segments = self.frontend.text_normalize(text, split=True)
        tokens = [ids for ids in map(self.frontend.text_tokens, segments) if ids]
        if not tokens:
            raise InputError(f"nothing to speak in the text {text!r}; write words")
        return self._speak(tokens, embedding, stream, speed)

    def _speak(
        self, segments: list[list[int]], embedding: Tensor, stream: bool, speed: float
    ) -> Iterator[dict[str, Tensor]]:
        for ids in segments:
            text = torch.tensor([ids], dtype=torch.int32)
            yield from self.model.tts(text, embedding, stream=stream, speed=speed)
