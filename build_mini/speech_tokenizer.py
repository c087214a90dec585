"""Speech tokens: log-mel -> Whisper's encoder -> phones -> 1024 codes at 25 Hz.

The first five layers of Whisper base (MIT licence) stay as they are, at four bits a weight: they have heard so many
people that phones can be read from them for voices that are not in our corpus. A small head learns to name the phones
of each token's two 20 ms halves; what it deems likely is clustered, and the cluster is the token. A network trained on
the corpus alone got twice as many phones of a real speaker wrong; four layers trained on it, a third more.
Copies at other speeds, warped frequency axes, filters and noise make the tokens tell little about who speaks.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from build_mini.common import (
    CODES,
    SEED,
    SOURCES,
    TOKEN_HZ,
    Clip,
    Progress,
    aligned_clips,
    fast,
    learning_rate,
    load_arrays,
    log_line,
    running_mean,
    save,
    set_learning_rate,
)
from build_mini.whisper_base import start_from_whisper
from config import UserError

MINUTES = 10.0
BANDS, FRAMES_PER_TOKEN, LABELS_PER_TOKEN = 128, 4, 2
LAYERS, WIDTH, HEADS, HIDDEN = 5, 512, 8, 2048  # of Whisper base, which has 6 layers
READ = 256  # width of the head
BATCH, CROP_FRAMES = 32, 256
NATURAL_SHARE = 0.6  # of the English pieces
RUSSIAN_STEPS = 4  # one step in so many is Russian
RUSSIAN_WEIGHT = 0.5  # of what its phones say, where sounds are clustered
CLUSTERS = "clusters.pt"  # name in the work folder
CLUSTER_BATCHES, CLUSTER_ROUNDS = {"natural": 30, "corpus": 30, "ru": 10}, 30
PEAK_LR = 1.5e-3
IGNORE = -100
NATS = 4 * 2.302585  # one unit of the feature is 4 decades of power


class Attention(nn.Module):
    """Self-attention of a Whisper layer, (B, L, D) -> (B, L, D); its keys have no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A layer of Whisper's encoder (pre-norm), (B, L, D) -> (B, L, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_ln, self.mlp_ln = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.wide, self.narrow = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x), mask)
        return x + self.narrow(F.gelu(self.wide(self.mlp_ln(x))))


class Encoder(nn.Module):
    """Whisper's convolutions and first layers: feats (B, 128, T), real frames (B, T) -> (B, T // 2, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(BANDS, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, feats: Tensor, real: Tensor) -> Tensor:
        mask = real.to(feats.dtype)[:, None]
        x = F.gelu(self.conv1(feats * mask)) * mask
        x = F.gelu(self.conv2(F.pad(x, (1, 0)))).transpose(1, 2)
        x = x + positions(x.shape[1], feats.device)
        for layer in self.layers:
            x = layer(x, real[:, None, None, 1::2])
        return x


class Head(nn.Module):
    """Names the phones of both halves of each token, through one reader per language."""

    def __init__(self, phones: dict[str, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.pair = nn.Conv1d(WIDTH, READ, 2, stride=2)
        self.mix = nn.Conv1d(READ, READ, 3, padding=1)
        self.readers = nn.ModuleDict({lang: nn.Linear(READ, LABELS_PER_TOKEN * n) for lang, n in phones.items()})

    def forward(self, x: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Logits (B, L, 2, phones) of every language, from the encoder's (B, T // 2, D) at 50 Hz."""
        x = F.gelu(self.pair(self.norm(x).transpose(1, 2)))
        x = x * real[:, None, FRAMES_PER_TOKEN - 1 :: FRAMES_PER_TOKEN].to(x.dtype)
        x = F.gelu(self.mix(x)).transpose(1, 2)
        return {lang: reader(x).unflatten(2, (LABELS_PER_TOKEN, -1)) for lang, reader in self.readers.items()}


class SpeechTokenizer(nn.Module):
    """`forward` is the ONNX graph: feats (B, 128, T), feats_length (B,) -> indices (B, T // 4)."""

    def __init__(self, phones: dict[str, int]) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), Head(phones)
        self.register_buffer("centres", torch.zeros(CODES, LABELS_PER_TOKEN * sum(phones.values())))

    def logits(self, feats: Tensor, feats_length: Tensor) -> dict[str, Tensor]:
        """(B, T // 4, 2, phones) of every language; the encoder takes no gradient."""
        real = torch.arange(feats.shape[2], device=feats.device) < feats_length[:, None]
        with torch.no_grad():
            x = self.encoder(feats, real)
        return self.head(x, real)

    def forward(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        """Token ids (B, T // 4), int64: the nearest cluster."""
        return nearest(sound_space(self.logits(feats, feats_length)), self.centres)


def sound_space(logits: dict[str, Tensor]) -> Tensor:
    """(B, L, 2 x phones of all languages): square roots of probabilities, whose distance is Hellinger's."""
    weights = {"en": 1.0, "ru": RUSSIAN_WEIGHT}
    return torch.cat([weights[lang] * x.softmax(dim=3).sqrt().flatten(2) for lang, x in logits.items()], dim=2)


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the centre (K, D) that is nearest to each point (..., D)."""
    return (points @ centres.T - 0.5 * centres.square().sum(dim=1)).argmax(dim=-1)


def cluster(points: Tensor, count: int, rounds: int) -> Tensor:
    """Centres (count, D) of points (N, D) by k-means; empty clusters start again at a random point."""
    centres = points[torch.randperm(len(points))[:count]].clone()
    for _ in range(rounds):
        labels = torch.cat([nearest(part, centres) for part in points.split(8192)])
        sizes = torch.bincount(labels, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), points[torch.randint(len(points), (count,))])
    return centres


def positions(length: int, device: torch.device) -> Tensor:
    """Whisper's sinusoids (length, WIDTH): sines of falling speed, then the cosines."""
    half = WIDTH // 2
    speeds = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, device=device))
    angles = torch.arange(length, device=device)[:, None] * speeds
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def phone_tables(clips: list[Clip]) -> dict[str, list[str]]:
    """Sorted phone names by language."""
    return {lang: sorted({p for c in clips if c.lang == lang for p in c.phones}) for lang in ("en", "ru")}


@dataclass
class Item:
    """One stored log-mel with its phone ids per 20 ms."""

    feats: np.ndarray  # (128, T) float16
    labels: np.ndarray  # (T // 2,) int64


def label_track(clip: Clip, table: list[str], frames: int, speed: Fraction) -> np.ndarray:
    """Phone id of each 20 ms, of the clip played `speed` times as fast."""
    times = (np.arange(frames // LABELS_PER_TOKEN) + 0.5) * 0.02 * float(speed)
    index = np.searchsorted(np.asarray(clip.ends), times).clip(max=len(clip.phones) - 1)
    return np.array([table.index(phone) for phone in clip.phones])[index]


def load_items(work: Path, clips: list[Clip], tables: dict[str, list[str]]) -> dict[tuple[str, bool], list[Item]]:
    """Items by (source, is test); sources: corpus (flite), natural (Kokoro), ru."""
    known = {clip.id: clip for clip in clips}
    items: dict[tuple[str, bool], list[Item]] = {}
    for source in SOURCES:
        for name, feats in load_arrays(work, f"logmels_{source}").items():
            clip_id, _, speed = name.partition("@")
            clip = known[clip_id]
            labels = label_track(clip, tables[clip.lang], feats.shape[1], Fraction(speed or 1))
            key = clip.lang if clip.lang == "ru" else source
            items.setdefault((key, clip.split == "test"), []).append(Item(feats, labels))
    return items


def crop_batch(items: list[Item], rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """feats (B, 128, crop), lengths (B,), labels (B, crop // 2), IGNORE past the end; pieces start on whole tokens."""
    feats = torch.zeros(len(items), BANDS, CROP_FRAMES)
    labels = torch.full((len(items), CROP_FRAMES // LABELS_PER_TOKEN), IGNORE)
    lengths = torch.zeros(len(items), dtype=torch.long)
    for row, item in enumerate(items):
        spare = max(0, item.feats.shape[1] - CROP_FRAMES) // FRAMES_PER_TOKEN
        start = rng.randint(0, spare) * FRAMES_PER_TOKEN
        piece = item.feats[:, start : start + CROP_FRAMES]
        length = piece.shape[1] // FRAMES_PER_TOKEN * FRAMES_PER_TOKEN
        feats[row, :, :length] = torch.from_numpy(piece[:, :length].astype(np.float32))
        tracks = item.labels[start // LABELS_PER_TOKEN : (start + length) // LABELS_PER_TOKEN]
        labels[row, : len(tracks)] = torch.from_numpy(tracks)
        lengths[row] = length
    return feats, lengths, labels


def band_centres() -> np.ndarray:
    """Centre of each of the 128 bands in Hz (Slaney mel scale, 0 to 8000 Hz)."""
    import librosa

    return librosa.mel_frequencies(n_mels=BANDS + 2, fmin=0, fmax=8000)[1:-1]


def disguise(feats: Tensor, rng: np.random.Generator, centres: np.ndarray) -> Tensor:
    """The same sounds by another speaker through another channel: warped bands, smooth filter, level, noise."""
    batch = feats.shape[0]
    warps = np.exp(rng.uniform(-0.18, 0.18, batch))
    position = np.stack([np.interp(centres * warp, centres, np.arange(BANDS)) for warp in warps])
    low = torch.from_numpy(position).floor().long().clamp(max=BANDS - 2)
    share = (torch.from_numpy(position) - low).float()[:, :, None]
    index = low[:, :, None].expand(-1, -1, feats.shape[2])
    feats = feats.gather(1, index) * (1 - share) + feats.gather(1, index + 1) * share
    knots = torch.from_numpy(rng.normal(0, 0.12, (batch, 1, 6))).float()
    feats = feats + F.interpolate(knots, size=BANDS, mode="linear", align_corners=True).transpose(1, 2)
    feats = feats * torch.from_numpy(rng.uniform(0.85, 1.15, (batch, 1, 1))).float()
    floor = feats.amin(dim=(1, 2), keepdim=True) + torch.from_numpy(rng.uniform(0, 0.9, (batch, 1, 1))).float()
    feats = torch.logaddexp(feats * NATS, floor * NATS) / NATS  # adds a noise floor's power
    return feats + 0.03 * torch.randn_like(feats)


def phone_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and share of right phones; logits (B, L, 2, phones), labels (B, 2 L)."""
    logits = logits.float().flatten(1, 2)
    loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, label_smoothing=0.05)
    real = labels != IGNORE
    return loss, (logits.argmax(dim=2) == labels)[real].float().mean().detach()


@torch.inference_mode()
def test_accuracy(tokenizer: SpeechTokenizer, items: list[Item], lang: str) -> float:
    """Share of right 20 ms phone labels on held-out clips."""
    rng, right = random.Random(SEED), []
    for i in range(0, len(items), BATCH):
        feats, lengths, labels = crop_batch(items[i : i + BATCH], rng)
        with fast():
            logits = tokenizer.logits(feats, lengths)[lang]
        right.append(phone_loss(logits, labels)[1])
    return float(torch.stack(right).mean())


def figures(tokenizer: SpeechTokenizer, items: dict[tuple[str, bool], list[Item]]) -> str:
    """Phone accuracies on the held-out clips of every source."""
    sources = {"corpus": "en", "natural": "en", "ru": "ru"}
    shares = [f"{name} {test_accuracy(tokenizer, items[name, True], lang):.3f}" for name, lang in sources.items()]
    return "phones right on held-out clips: " + ", ".join(shares)


def fresh_tokenizer(tables: dict[str, list[str]]) -> SpeechTokenizer:
    """Whisper's layers and a head that knows nothing yet."""
    tokenizer = SpeechTokenizer({lang: len(table) for lang, table in tables.items()})
    start_from_whisper(tokenizer.encoder)
    return tokenizer


def clusters_fit(work: Path) -> bool:
    """Whether there are clusters that were found since the state was last saved."""
    state, clusters = work / "tokens.state.pt", work / CLUSTERS
    return clusters.exists() and state.exists() and clusters.stat().st_mtime >= state.stat().st_mtime


def load_tokenizer(work: Path) -> SpeechTokenizer:
    """The tokenizer as trained: the running mean of its head, and its clusters. UserError where training goes on."""
    if not clusters_fit(work):
        raise UserError(
            f"{work / CLUSTERS} is missing or older than tokens.state.pt; "
            "finish python -m build_mini.build --stage tokens first"
        )
    tokenizer = fresh_tokenizer(phone_tables(aligned_clips(work)))
    state = torch.load(work / "tokens.state.pt", weights_only=True)
    mean = running_mean(tokenizer.head)
    mean.load_state_dict(state["mean"])
    tokenizer.head = mean.module
    tokenizer.centres.copy_(torch.load(work / CLUSTERS, weights_only=True))
    return tokenizer.eval()


def draw_items(items: dict[tuple[str, bool], list[Item]], step: int, rng: random.Random) -> tuple[list[Item], str]:
    """A batch of one language and its name."""
    if step % RUSSIAN_STEPS == 0:
        return rng.sample(items["ru", False], BATCH), "ru"
    natural = round(NATURAL_SHARE * BATCH)
    return rng.sample(items["natural", False], natural) + rng.sample(items["corpus", False], BATCH - natural), "en"


@torch.inference_mode()
def sounds(tokenizer: SpeechTokenizer, items: dict[tuple[str, bool], list[Item]]) -> Tensor:
    """Points (N, D) of the sound space from random pieces of all sources, half of them disguised."""
    rng, noise, centres, points = random.Random(SEED), np.random.default_rng(SEED), band_centres(), []
    for source, batches in CLUSTER_BATCHES.items():
        for number in range(batches):
            feats, lengths, _ = crop_batch(rng.sample(items[source, False], BATCH), rng)
            with fast():
                logits = tokenizer.logits(disguise(feats, noise, centres) if number % 2 else feats, lengths)
            space = sound_space({lang: x.float() for lang, x in logits.items()})
            tokens = torch.arange(space.shape[1]) < lengths[:, None] // FRAMES_PER_TOKEN
            points.append(space[tokens])
    return torch.cat(points)


def build(work: Path, minutes: float = MINUTES, warm_start: bool = False) -> None:
    """Train the head until the budget is spent (work/tokens.state.pt), then cluster (work/clusters.pt)."""
    if warm_start and not (work / "tokens.state.pt").exists():
        log_line(work, "tokens", "the shipped speech tokenizer is kept")
        return
    progress = Progress(work, "tokens", minutes)
    if clusters_fit(work) and progress.finished():  # clusters found anew would give every token another number
        return
    clips = aligned_clips(work)
    tables = phone_tables(clips)
    items = load_items(work, clips, tables)
    tokenizer = fresh_tokenizer(tables)
    mean = running_mean(tokenizer.head)
    optimizer = torch.optim.AdamW(tokenizer.head.parameters(), lr=PEAK_LR, weight_decay=0.01)
    parts = {"head": tokenizer.head, "mean": mean, "optimizer": optimizer}
    progress.resume(parts)
    rng, noise = random.Random(SEED + progress.step), np.random.default_rng(SEED + progress.step)
    centres = band_centres()
    for step in progress.steps(parts):
        chosen, lang = draw_items(items, step, rng)
        feats, lengths, labels = crop_batch(chosen, rng)
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress))
        with fast():
            logits = tokenizer.logits(disguise(feats, noise, centres), lengths)[lang]
        loss, right = phone_loss(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tokenizer.head.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(tokenizer.head)
        if step % progress.log_every < 2:
            print(
                f"tokens step {step} {lang} loss {loss:.3f} right {right:.3f} {progress.spent / 60:.1f} min", flush=True
            )
    tokenizer.head = mean.module
    torch.manual_seed(SEED)  # for what is drawn here to depend on nothing before
    save(cluster(sounds(tokenizer, items), CODES, CLUSTER_ROUNDS), work / CLUSTERS)
    log_line(work, "tokens", f"{progress.step} steps, {TOKEN_HZ} Hz, {figures(tokenizer, items)}")
