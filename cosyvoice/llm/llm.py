"""The language model: text tokens and a speaker vector in, speech tokens out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cosyvoice.llm.decoding import Decoding, left_padding_mask
from cosyvoice.llm.static_decoding import StaticDecoding, StaticSteps
from cosyvoice.transformer.attention import AttentionCache, LayerCache
from cosyvoice.transformer.encoder import BaseEncoder
from cosyvoice.transformer.label_smoothing_loss import LabelSmoothingLoss
from cosyvoice.utils.common import IGNORE_ID, SPEAKER_DIM, InputError, ras_sampling, th_accuracy
from cosyvoice.utils.int8 import Int8Linear, use_int8
from cosyvoice.utils.precision import check_precision, fast_dtype, has_int8
from matcha.models.components.linear import Linear

SOS_ROW, TASK_ROW = 0, 1
"""Rows of `llm_embedding`."""

KEPT_SHARE = 1 / 8
"""Of a GPU's memory that decoding keeps from one utterance to the next."""

NO_IDS = torch.zeros(1, 0, dtype=torch.int32)


@dataclass
class Utterance:
    """A text to be spoken together with others, and the speech tokens made of it so far."""

    text: Tensor  # ids (L,)
    fewest: int  # tokens before which it does not end
    most: int  # and at which it is cut
    random_state: Tensor  # of torch's generator on the CPU
    tokens: list[int] = field(default_factory=list)
    stopped_by_eos: bool = False


class TransformerLM(nn.Module):
    """Predicts speech tokens after `[ sos | x-vector | text | task | ...`.

        input    sos     x-vector  text_0 .. text_(L-1)  task      speech_0 .. speech_(S-1)
        target   ignore  ignore    ignore                speech_0  speech_1 .. EOS

    EOS is the id `speech_token_size`: an output class without an embedding row.
    """

    def __init__(
        self,
        text_encoder_input_size: int,
        llm_input_size: int,
        llm_output_size: int,
        text_token_size: int,
        speech_token_size: int,
        text_encoder: BaseEncoder,
        llm: BaseEncoder,
        length_normalized_loss: bool = True,
        lsm_weight: float = 0.0,
        spk_embed_dim: int = SPEAKER_DIM,
        sampling: Callable[[Tensor, Sequence[int], int], int] | None = None,
        max_token_text_ratio: float = 20,
        min_token_text_ratio: float = 2,
    ) -> None:
        """The two ratios are what `inference` uses unless told otherwise; they fit 50 speech tokens a second."""
        super().__init__()
        for name, encoder in (("text_encoder", text_encoder), ("llm", llm)):
            if encoder.static_chunk_size != 1:
                raise InputError(
                    f"TransformerLM: {name} has static_chunk_size={encoder.static_chunk_size}; "
                    "both encoders must be causal: set static_chunk_size to 1"
                )
        self.llm_input_size = llm_input_size
        self.speech_token_size = speech_token_size
        self.text_embedding = nn.Embedding(text_token_size, text_encoder_input_size)
        self.text_encoder = text_encoder
        self.text_encoder_affine_layer = Linear(text_encoder.output_size(), llm_input_size)
        self.llm_embedding = nn.Embedding(2, llm_input_size)
        self.llm = llm
        self.llm_decoder = Linear(llm_output_size, speech_token_size + 1)
        self.criterion_ce = LabelSmoothingLoss(speech_token_size + 1, IGNORE_ID, lsm_weight, length_normalized_loss)
        self.speech_embedding = nn.Embedding(speech_token_size, llm_input_size)
        self.spk_embed_affine_layer = Linear(spk_embed_dim, llm_input_size)
        self.sampling = sampling if sampling is not None else ras_sampling
        self.max_token_text_ratio, self.min_token_text_ratio = max_token_text_ratio, min_token_text_ratio
        self.fewest_tokens = 1  # EOS is held back for so many tokens, however short the text
        self.stopped_by_eos = False  # whether the last `inference` ended with EOS and not at the length limit
        self.static_steps: StaticSteps | None = None  # set where decoding goes by static steps

    def prepare_inference(self, precision: str = "full") -> None:
        """Make decoding fast, for good: the weights must not change any more. Idempotent.

        precision "fast": 8-bit weights in the llm on a CPU, half precision on a GPU. Raises InputError for others.
        On a GPU tokens are decoded by CUDA graphs from now on."""
        check_precision(precision)
        device = self.llm_embedding.weight.device
        self.llm.prepare_inference()
        if precision == "fast" and device.type == "cuda":
            self.to(fast_dtype(device))
        elif precision == "fast" and has_int8(device) and not isinstance(self.llm_decoder, Int8Linear):
            use_int8(self.llm, keep=("linear_pos",))  # positions are projected once
            self.llm_decoder = Int8Linear(self.llm_decoder)
        self.use_graphs()

    def use_graphs(self, under_autocast: bool = False) -> None:
        """Decode by CUDA graphs from now on, where the device has them; under_autocast: see `Recordings`."""
        device = self.llm_embedding.weight.device
        if device.type == "cuda":
            most_bytes = int(KEPT_SHARE * torch.cuda.get_device_properties(device).total_memory)
            self.static_steps = StaticSteps(most_bytes, under_autocast)

    def drop_graphs(self) -> None:
        """Go on without them: what they read is going to change."""
        self.static_steps = None

    def forward(self, batch: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor | int]:
        """{"loss": nats per predicted token, (), "acc": share predicted right, (), "tokens": number predicted}.

        batch: text_token (B, L), text_token_len (B,), speech_token (B, S), speech_token_len (B,), embedding (B, D_spk),
        right-padded; whatever stands in the padding changes nothing. The loss is the mean over the tokens of all items,
        EOS included, or the sum divided by B where the model was built with length_normalized_loss=False.
        """
        logits, target = self.logits(batch, device)
        return {
            "loss": self.criterion_ce(logits, target),
            "acc": th_accuracy(logits.view(-1, logits.size(-1)), target, IGNORE_ID),
            "tokens": sum(batch["speech_token_len"].tolist()) + len(target),
        }

    def clip_losses(self, batch: dict[str, Tensor], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Mean nats per token of each item, (B,), and the number of its tokens with EOS, (B,).

        Scores are computed only where something is predicted. Lengths on the CPU save waiting for the GPU.
        """
        lm_input, lengths, target = self.teacher_forced_input(batch, device)
        lm_output, _ = self.llm(lm_input, lengths)
        counts = [length + 1 for length in batch["speech_token_len"].tolist()]
        spans = [slice(end - count, end) for end, count in zip(lengths.tolist(), counts, strict=True)]
        logits = self.llm_decoder(torch.cat([lm_output[i, span] for i, span in enumerate(spans)]))
        predicted = torch.cat([target[i, span] for i, span in enumerate(spans)])
        nats = self.criterion_ce.per_position(logits, predicted).split(counts)
        return torch.stack([item.mean() for item in nats]), torch.tensor(counts)

    def logits(self, batch: dict[str, Tensor], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """(B, T, speech_token_size + 1) and the targets (B, T), IGNORE_ID where nothing is predicted."""
        lm_input, lengths, target = self.teacher_forced_input(batch, device)
        lm_output, _ = self.llm(lm_input, lengths)
        return self.llm_decoder(lm_output), target

    def teacher_forced_input(
        self, batch: dict[str, Tensor], device: torch.device | str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Input of the llm (B, T, D), its lengths (B,) on the CPU, and the targets (B, T); batch as in `forward`."""
        text_lengths, speech_lengths = batch["text_token_len"].tolist(), batch["speech_token_len"].tolist()
        text = self.encode_text(batch["text_token"].to(device), batch["text_token_len"])
        speaker = self.encode_speaker(batch["embedding"].to(device))
        speech_token = batch["speech_token"].to(device)
        sequences, targets = [], []
        for i, (text_length, speech_length) in enumerate(zip(text_lengths, speech_lengths, strict=True)):
            speech = speech_token[i, :speech_length]
            sequences.append(self.sequence(speaker[i : i + 1], text[i, :text_length], speech))
            targets.append(self._target(text_length, batch["speech_token"][i, :speech_length]))
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        target = pad_sequence(targets, batch_first=True, padding_value=IGNORE_ID)
        return pad_sequence(sequences, batch_first=True), lengths, target.to(device, torch.long)

    def _target(self, text_length: int, speech: Tensor) -> Tensor:
        """What each position is to predict, (T,): nothing up to the text's end, then the speech tokens, then EOS."""
        speech_and_eos = F.pad(speech, (0, 1), value=self.speech_token_size)
        return F.pad(speech_and_eos, (2 + text_length, 0), value=IGNORE_ID)

    def encode_text(self, text: Tensor, text_len: Tensor) -> Tensor:
        """(B, L, D) for text token ids (B, L)."""
        if text.size(1) == 0:
            return self.llm_embedding.weight.new_zeros(len(text), 0, self.llm_input_size)
        encoded, _ = self.text_encoder(self.text_embedding(text), text_len)
        return self.text_encoder_affine_layer(encoded)

    def encode_speaker(self, embedding: Tensor) -> Tensor:
        """(B, D) for speaker vectors (B, D_spk) of any length; 0 rows stay 0 rows."""
        unit = F.normalize(embedding.float(), dim=1)
        return self.spk_embed_affine_layer(unit.to(self.llm_embedding.weight.dtype))

    def sequence(self, speaker: Tensor, text: Tensor, speech_token: Tensor) -> Tensor:
        """`[ sos | speaker | text | task | speech ]`, (T, D).

        speaker: (1, D), or (0, D) to leave its position out; text: (L, D); speech_token: ids (S,).
        """
        sos, task = self.llm_embedding.weight[SOS_ROW, None], self.llm_embedding.weight[TASK_ROW, None]
        parts = [sos, speaker, text, task, self.speech_embedding(speech_token)]
        return torch.cat([part.to(sos.dtype) for part in parts])

    @torch.inference_mode()
    def inference(
        self,
        text: Tensor,
        text_len: Tensor,
        prompt_text: Tensor,
        prompt_text_len: Tensor,
        prompt_speech_token: Tensor,
        prompt_speech_token_len: Tensor,
        embedding: Tensor,
        sampling: int = 25,
        max_token_text_ratio: float | None = None,
        min_token_text_ratio: float | None = None,
    ) -> Iterator[int]:
        """Speech token ids, one at a time, until EOS or int(n * max_token_text_ratio) of them; n: tokens of `text`.

        text, prompt_text, prompt_speech_token: ids (1, L), (1, 0) for none, their lengths (1,); embedding: speaker
        vector (1, D_spk) or (D_spk,), (0, D_spk) for none. `sampling` is handed to the sampler. The ratios are the
        model's own where they are None. Afterwards `stopped_by_eos` tells how it ended. At least
        max(int(n * min_token_text_ratio), `fewest_tokens`) tokens come out, none for n = 0.
        """
        self.stopped_by_eos = False
        n_text = int(text_len)
        if n_text == 0:
            return
        fewest, most = self.limits(n_text, min_token_text_ratio, max_token_text_ratio)
        prefix = self.prefix(
            text[:, :n_text],
            prompt_text[:, : int(prompt_text_len)],
            prompt_speech_token[:, : int(prompt_speech_token_len)],
            embedding,
        )
        tokens: list[int] = []
        with closing(self.decoding([prefix[0]])) as decoding:
            for _ in range(most):
                token = self.draw(decoding.scores()[0], tokens, fewest, sampling)
                if token == self.speech_token_size:
                    self.stopped_by_eos = True
                    return
                yield token
                tokens.append(token)
                decoding.go_on([0], [token])

    @torch.inference_mode()
    def inference_batch(self, utterances: Sequence[Utterance], embedding: Tensor, sampling: int = 25) -> None:
        """Fill in `tokens` of all utterances at once, each drawn from its own random state, which moves on.

        embedding: (1, D_spk) of the one speaker. Reading the weights is what a step costs, so that several utterances
        take little longer than one. The draws are those of `inference` after the same seed."""
        going = [utterance for utterance in utterances if len(utterance.text) and utterance.most > 0]
        prefixes = [self.prefix(utterance.text[None], NO_IDS, NO_IDS, embedding)[0] for utterance in going]
        saved = torch.get_rng_state()
        try:
            with closing(self.decoding(prefixes)) as decoding:
                while going:
                    scores = decoding.scores()
                    rows = [row for row, utterance in enumerate(going) if self.extend(utterance, scores[row], sampling)]
                    going = [going[row] for row in rows]
                    decoding.go_on(rows, [utterance.tokens[-1] for utterance in going])
        finally:
            torch.set_rng_state(saved)

    def decoding(self, prefixes: Sequence[Tensor]) -> Decoding:
        """What decodes utterances with these prefixes, (T_i, D), together."""
        device = self.llm_embedding.weight.device
        if self.static_steps is None or not self.static_steps.serve(device):
            return Decoding(self, prefixes)
        return StaticDecoding(self, prefixes, self.static_steps)

    def extend(self, utterance: Utterance, scores: Tensor, sampling: int) -> bool:
        """Draw the utterance's next token; whether it goes on. scores: (speech_token_size + 1,)."""
        torch.set_rng_state(utterance.random_state)
        token = self.draw(scores, utterance.tokens, utterance.fewest, sampling)
        utterance.random_state = torch.get_rng_state()
        utterance.stopped_by_eos = token == self.speech_token_size
        if not utterance.stopped_by_eos:
            utterance.tokens.append(token)
        return not utterance.stopped_by_eos and len(utterance.tokens) < utterance.most

    def draw(self, scores: Tensor, tokens: Sequence[int], fewest: int, sampling: int) -> int:
        """The token after `tokens`, EOS only where there are `fewest` of them; changes scores."""
        if len(tokens) < fewest:
            scores[self.speech_token_size] = -torch.inf
        return int(self.sampling(scores, tokens, sampling))

    def limits(self, n_text: int, least: float | None = None, most: float | None = None) -> tuple[int, int]:
        """(fewest, most) speech tokens for a text; least, most: speech tokens a text token, default the model's own."""
        most = self.max_token_text_ratio if most is None else most
        least = self.min_token_text_ratio if least is None else least
        return max(int(n_text * least), self.fewest_tokens), int(n_text * most)

    def prefix(self, text: Tensor, prompt_text: Tensor, prompt_speech_token: Tensor, embedding: Tensor) -> Tensor:
        """What precedes the tokens to be made, (1, T, D); arguments as in `inference`, without padding."""
        device = self.llm_embedding.weight.device
        whole_text = torch.cat([prompt_text.to(device), text.to(device)], dim=1)
        encoded = self.encode_text(whole_text, torch.tensor([whole_text.size(1)]))
        speaker = self.encode_speaker(torch.atleast_2d(embedding.to(device)))
        return self.sequence(speaker, encoded[0], prompt_speech_token[0].to(device)).unsqueeze(0)

    def next_scores(self, step: Tensor, cache: list[LayerCache], padding: Tensor | None = None) -> Tensor:
        """Log-probabilities of the token after the positions `step`, (B, speech_token_size + 1); adds them to `cache`.

        step: (B, t, D). padding: (B,) on the CPU, positions at each item's start that do not count; None: there are
        none."""
        mask = None
        if padding is not None and padding.any():
            keys = cache[0].length + step.size(1)
            mask = left_padding_mask(padding.to(step.device), step.size(1), keys)
        return self.scores_after(step, cache, mask)

    def scores_after(self, step: Tensor, cache: Sequence[AttentionCache], mask: Tensor | None) -> Tensor:
        """`next_scores` where the mask is known already; see `BaseEncoder.decode`."""
        lm_output = self.llm.decode(step, cache, mask)
        return self.llm_decoder(lm_output[:, -1]).float().log_softmax(dim=-1)
