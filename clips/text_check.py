"""Does a clip say what its text says? Asked of the base LLM, which has learned how text becomes speech tokens.

A clip's own text helps the LLM to foresee the clip's speech tokens; the text of another clip does not. A text that
helps no more than a stranger's is not what is said, or says much less or more.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.files import atomic_path
from cosyvoice.utils.records import read_value

# How many other clips' texts each text is compared with. Tried on the 30 example clips, as means over 200 draws:
# with 4 texts 0.005 of 30 right texts were flagged, and 1.0 of 30 wrong ones (texts swapped between clips) was missed;
# with 2 texts 0.06 and 1.4, with 16 texts none and 0.8. The time that the check takes grows with their number.
STRANGERS = 4


@dataclass(frozen=True)
class Spoken:
    """What the check needs of a clip."""

    fingerprint: str
    text_token: Tensor  # (L,)
    speech_token: Tensor  # (S,)
    utt_embedding: Tensor  # (192,)


@torch.inference_mode()
def text_help(llm: nn.Module, clip: Spoken, strangers: Sequence[Tensor]) -> float:
    """Nats per speech token by which the clip's own text makes its speech likelier than the strangers' texts do.

    strangers: text tokens (L,) each. About 0 where the text has nothing to do with the sound."""
    texts = [clip.text_token, *strangers]
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int32)
    batch = {
        "text_token": nn.utils.rnn.pad_sequence(texts, batch_first=True),
        "text_token_len": lengths,
        "speech_token": clip.speech_token.expand(len(texts), -1),
        "speech_token_len": torch.full_like(lengths, len(clip.speech_token)),
        "embedding": clip.utt_embedding.expand(len(texts), -1),
    }
    losses = llm.clip_losses(batch, next(llm.parameters()).device)[0]
    return float(losses[1:].mean() - losses[0])


def strangers_of(clips: Sequence[Spoken]) -> list[list[Spoken]]:
    """For each clip the next clips with another text in the order of fingerprints; fewer where there are no more.

    A clip that is added or removed changes this for its neighbours only, so nearly all stored results stay valid."""
    ring = sorted(range(len(clips)), key=lambda i: clips[i].fingerprint)
    place = {i: k for k, i in enumerate(ring)}
    found = []
    for i, clip in enumerate(clips):
        behind = (clips[ring[(place[i] + step) % len(ring)]] for step in range(1, len(ring)))
        others = (other for other in behind if not torch.equal(other.text_token, clip.text_token))
        found.append(list(islice(others, STRANGERS)))  # no further: all pairs of thousands of clips take minutes
    return found


def result_path(cache: Path, llm_fingerprint: str, clip: Spoken, strangers: Sequence[Spoken]) -> Path:
    """Where the result of one clip is kept; named by all that it depends on."""
    parts = [llm_fingerprint, *(stranger.fingerprint for stranger in strangers)]
    return cache / f"{clip.fingerprint}.{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}.help.json"


def read_result(path: Path) -> float | None:
    """A stored result; None where there is none that can be read."""
    try:
        return read_value(float, json.loads(path.read_text(encoding="utf-8")), str(path), {})
    except (OSError, ValueError, RecursionError):
        return None


class TextCheck:
    """The check over a whole set, with a stored result for each clip: only what is new needs the LLM."""

    def __init__(self, cache: Path, llm_fingerprint: str, clips: Sequence[Spoken], force: bool = False) -> None:
        """force: stored results do not count."""
        self.clips, self.strangers = clips, strangers_of(clips)
        pairs = zip(clips, self.strangers, strict=True)
        self.paths = [result_path(cache, llm_fingerprint, clip, others) for clip, others in pairs]
        with_strangers = [i for i, strangers in enumerate(self.strangers) if strangers]
        self.todo = [i for i in with_strangers if force or read_result(self.paths[i]) is None]

    def run(self, llm: nn.Module) -> None:
        """Ask the LLM about what is to do; each result is stored at once."""
        for i in tqdm(self.todo, "texts", unit="clip"):
            help_ = text_help(llm, self.clips[i], [other.text_token for other in self.strangers[i]])
            with atomic_path(self.paths[i]) as part:
                part.write_text(json.dumps(round(help_, 5)), encoding="utf-8")
            for path in self.paths[i].parent.glob(f"{self.clips[i].fingerprint}.*.help.json"):
                if path != self.paths[i]:  # beside other strangers, or of another LLM
                    path.unlink(missing_ok=True)

    def results(self) -> list[float | None]:
        """Help of each clip's text in nats per token; None for one without strangers."""
        return [read_result(path) for path in self.paths]
