"""CosyVoiceModel: text tokens -> speech tokens -> mel -> waveform, whole or in pieces while the tokens still come."""

import logging
import uuid as uuids
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.utils.common import MEL_BINS, MEL_HOP, InputError, fade_in_out, token_to_mel_length

OVERLAP_SEC = 0.4  # speech tokens that two streamed pieces share; 34 mel frames, as the flow's cache expects
FIRST_HOP_SEC, LONGEST_HOP_SEC = 2, 4
# Mean of a mel of speech in natural logarithms, at most: recordings have -6 to -5, single words with silence -8. In the
# scale of tools that train on (mel + 6) / 2 it lies near 0, as noise does.
LOUDEST_MEAN = -2.0
MEL_CACHE_FRAMES = 20  # end of a piece that the vocoder makes again with the next one
SOURCE_CACHE_SAMPLES = MEL_CACHE_FRAMES * MEL_HOP


@dataclass
class VocoderCache:
    """End of the previous piece: mel (1, 80, 20), and its excitation and speech, 5120 samples each."""

    mel: Tensor
    source: Tensor
    speech: Tensor


@dataclass
class StreamState:
    """What one utterance carries from piece to piece; all None before the first."""

    flow_cache: Tensor | None = None
    mel_overlap: Tensor | None = None
    vocoder: VocoderCache | None = None


class CosyVoiceModel:
    """The three networks together. Speaks one utterance at a time per call; every utterance has its own state."""

    def __init__(
        self,
        llm: nn.Module | None,
        flow: nn.Module,
        hift: nn.Module,
        device: torch.device | str = "cpu",
        *,
        stream_scale_factor: float = 1.0,
    ) -> None:
        """Moves the networks to the device, in eval mode. llm: None where only speech tokens are turned into sound.

        stream_scale_factor: growth of the pieces while streaming, at least 1."""
        if stream_scale_factor < 1:
            raise InputError(f"stream_scale_factor: {stream_scale_factor} is too small; use 1 or more")
        self.device = torch.device(device)
        self.llm = None if llm is None else llm.to(self.device).eval()
        self.flow, self.hift = flow.to(self.device).eval(), hift.to(self.device).eval()
        self.stream_scale_factor = stream_scale_factor
        token_rate_hz = flow.input_frame_rate
        self.token_min_hop_len = FIRST_HOP_SEC * token_rate_hz
        self.token_max_hop_len = LONGEST_HOP_SEC * token_rate_hz
        self.token_overlap_len = int(OVERLAP_SEC * token_rate_hz)
        self.mel_overlap_len = token_to_mel_length(self.token_overlap_len, token_rate_hz)
        self.mel_window = np.hamming(2 * self.mel_overlap_len)
        self.speech_window = np.hamming(2 * SOURCE_CACHE_SAMPLES)
        self.states: dict[str, StreamState] = {}
        self.scale_checked = False

    def speech_tokens(
        self,
        text: Tensor,
        embedding: Tensor,
        prompt_text: Tensor | None = None,
        prompt_speech_token: Tensor | None = None,
        **limits: float,
    ) -> Iterator[int]:
        """Speech tokens one by one. text, prompt_text: (1, L) text tokens; embedding: (1, 192), or (0, 192) for none.

        limits: min_token_text_ratio and max_token_text_ratio of the language model, where its defaults do not fit.
        Raises InputError where the model was made without a language model."""
        if self.llm is None:
            raise InputError("CosyVoiceModel: made without a language model; give it one to turn text into speech")
        prompt_text = _no_tokens() if prompt_text is None else prompt_text
        prompt_speech_token = _no_tokens() if prompt_speech_token is None else prompt_speech_token
        yield from self.llm.inference(
            text=text.to(self.device),
            text_len=_length(text),
            prompt_text=prompt_text.to(self.device),
            prompt_text_len=_length(prompt_text),
            prompt_speech_token=prompt_speech_token.to(self.device),
            prompt_speech_token_len=_length(prompt_speech_token),
            embedding=embedding.to(self.device),
            **limits,
        )

    def tts(
        self,
        text: Tensor,
        llm_embedding: Tensor,
        flow_embedding: Tensor | None = None,
        prompt_text: Tensor | None = None,
        llm_prompt_speech_token: Tensor | None = None,
        flow_prompt_speech_token: Tensor | None = None,
        prompt_speech_feat: Tensor | None = None,
        *,
        stream: bool = False,
        speed: float = 1.0,
        **flow_options: int | str,
    ) -> Iterator[dict[str, Tensor]]:
        """{"tts_speech": (1, N) at 22 050 Hz on the CPU}, one piece, or with stream=True several as tokens come.

        text: (1, L) text tokens; embeddings: (1, 192), the flow's defaults to the language model's; prompts: (1, L)
        tokens and (1, T, 80) mel, empty by default. speed is honoured only without streaming. flow_options:
        n_timesteps and solver of the flow.
        Raises InputError where the language model gives no speech token."""
        uuid = str(uuids.uuid4())
        tokens = self.speech_tokens(text, llm_embedding, prompt_text, llm_prompt_speech_token)
        prompt = {
            "prompt_token": _no_tokens() if flow_prompt_speech_token is None else flow_prompt_speech_token,
            "prompt_feat": torch.zeros(1, 0, MEL_BINS) if prompt_speech_feat is None else prompt_speech_feat,
            "embedding": llm_embedding if flow_embedding is None else flow_embedding,
        }
        pieces = self.stream_pieces(tokens) if stream else [(list(tokens), True)]
        speed = 1.0 if stream else speed
        try:
            for piece, finalize in pieces:
                token = torch.tensor([piece], dtype=torch.int32)
                speech = self.token2wav(token, **prompt, uuid=uuid, finalize=finalize, speed=speed, **flow_options)
                yield {"tts_speech": speech}
        finally:
            self.states.pop(uuid, None)

    def stream_pieces(self, tokens: Iterable[int]) -> Iterator[tuple[list[int], bool]]:
        """(tokens of a piece, whether it is the last); neighbours share `token_overlap_len` tokens."""
        pending: list[int] = []
        hop = self.token_min_hop_len
        for token in tokens:
            pending.append(token)
            if len(pending) >= hop + self.token_overlap_len:
                yield pending, False
                pending = pending[hop:]
                hop = min(self.token_max_hop_len, int(hop * self.stream_scale_factor))
        yield pending, True

    @torch.inference_mode()
    def token2wav(
        self,
        token: Tensor,
        prompt_token: Tensor,
        prompt_feat: Tensor,
        embedding: Tensor,
        uuid: str,
        finalize: bool,
        speed: float = 1.0,
        **flow_options: int | str,
    ) -> Tensor:
        """Speech (1, N) at 22 050 Hz on the CPU of one piece of the utterance `uuid`, or of all of it.

        token: (1, L); prompt_token: (1, L1) and prompt_feat: (1, T1, 80), both may be empty; embedding: (1, 192).
        finalize ends the utterance; without it the last 0.4 s of tokens are only an overlap for the next piece.
        speed above 1 is faster, with the pitch kept. flow_options: as in `tts`. A failure ends the utterance too.
        Raises InputError for an empty token list and for a speed that is not positive or is used while streaming."""
        state = self.states.pop(uuid, None) or StreamState()
        if token.shape[1] == 0:
            raise InputError("no speech tokens to turn into sound; the text may hold nothing speakable")
        if not 0 < speed < float("inf"):
            raise InputError(f"speed: {speed} is not a positive number; use 0.5 to 2.0")
        if speed != 1.0 and not (finalize and state.vocoder is None):
            raise InputError(f"speed: {speed} is possible only for a whole utterance; use 1.0 when streaming")
        mel = self._mel(token, prompt_token, prompt_feat, embedding, state, flow_options)
        if speed != 1.0:
            mel = F.interpolate(mel, size=max(1, int(mel.shape[2] / speed)), mode="linear")
        if not finalize:
            mel, state.mel_overlap = mel[:, :, : -self.mel_overlap_len], mel[:, :, -self.mel_overlap_len :]
        speech = self._vocode(mel, state, finalize)
        if not finalize:
            self.states[uuid] = state
        return speech

    def _mel(
        self,
        token: Tensor,
        prompt_token: Tensor,
        prompt_feat: Tensor,
        embedding: Tensor,
        state: StreamState,
        flow_options: Mapping[str, int | str],
    ) -> Tensor:
        """Mel (1, 80, T) of a piece, blended with the end of the previous one, which the vocoder gets again."""
        mel, state.flow_cache = self.flow.inference(
            token.to(self.device),
            _length(token),
            prompt_token.to(self.device),
            _length(prompt_token),
            prompt_feat.to(self.device),
            _length(prompt_feat),
            embedding.to(self.device),
            state.flow_cache,
            **flow_options,
        )
        self._check_scale(mel)
        if state.mel_overlap is not None:
            mel = fade_in_out(mel, state.mel_overlap, self.mel_window)
        return mel if state.vocoder is None else torch.cat([state.vocoder.mel, mel], dim=2)

    def _check_scale(self, mel: Tensor) -> None:
        """Warn, at the first mel, where it cannot be one of speech in natural logarithms."""
        if self.scale_checked:
            return
        self.scale_checked = True
        if (mean := float(mel.mean())) > LOUDEST_MEAN:
            logging.getLogger(__name__).warning(
                f"warning: the flow makes mels with a mean of {mean:.1f}, where speech has -8 to -4: its weights are "
                "untrained, or of a tool that normalises mels, and sound wrong; use the released model's flow.pt, or "
                "what train_joint.py made of it"
            )

    def _vocode(self, mel: Tensor, state: StreamState, finalize: bool) -> Tensor:
        """Speech (1, N) of a piece; what the next piece will make again is held back in the state."""
        previous = state.vocoder
        with torch.autocast(self.device.type, enabled=False):  # a caller's reduced precision would be heard here
            speech, source = self.hift.inference(mel.float(), None if previous is None else previous.source)
        if previous is not None:
            speech = fade_in_out(speech, previous.speech, self.speech_window)
        if finalize:
            return speech.cpu()
        state.vocoder = VocoderCache(
            mel[:, :, -MEL_CACHE_FRAMES:], source[:, :, -SOURCE_CACHE_SAMPLES:], speech[:, -SOURCE_CACHE_SAMPLES:]
        )
        return speech[:, :-SOURCE_CACHE_SAMPLES].cpu()


def _no_tokens() -> Tensor:
    return torch.zeros(1, 0, dtype=torch.int32)


def _length(x: Tensor) -> Tensor:
    """(1,) length of x along its second axis, on the CPU."""
    return torch.tensor([x.shape[1]], dtype=torch.int32)
