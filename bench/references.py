"""What the existing tools measured and what this project set itself, with the machine that those figures belong to.

Measured in November 2026 at full CosyVoice-300M size with random weights: 2 cores of a Zen 4 processor (AVX-512, bf16),
24 GB, torch 2.11, float32, batch 1. "Existing" is the few-shot LoRA tool that this project takes after, and upstream
CosyVoice of March 2026.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Rates of that machine, by the names of floors.RATES: bytes or operations a second.
THEIR_RATES = {"row_fp32": 15e9, "product_fp32": 153e9, "product_bf16": 285e9, "memory_copy": 34e9}

# Work of the rows, counted (a test counts again): bytes of a decoding step, operations of the rest. The flow's are
# 452e9 in products with weights and 60e9 in attention.
STEP_BYTES, FLOW, HIFT, TRAINING = 726e6, 512e9, 155e9, 204e9
STEP_BYTES_THERE = 770e6  # with the projections of positions
TOKENS, SOUND_SEC = 150, 3.0


@dataclass(frozen=True)
class Reference:
    """A figure of that machine, and the part of it that each of its rates decided; what is left does not scale."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)  # {rate: in the unit of value}

    def here(self, rates: Mapping[str, float]) -> float:
        """The figure as it would be on a machine of these rates."""
        scaled = sum(part * THEIR_RATES[rate] / rates[rate] for rate, part in self.parts.items())
        return self.value - sum(self.parts.values()) + scaled


def explained(value: float, work: Mapping[str, float], rest: str = "memory_copy", per: float = 1.0) -> Reference:
    """A figure that is `work` at that machine's rates, and for the rest something else that its rate `rest` decided.

    per: by what work is divided to come to the unit of the value."""
    parts = {rate: amount / THEIR_RATES[rate] / per for rate, amount in work.items()}
    parts[rest] = parts.get(rest, 0.0) + value - sum(parts.values())
    return Reference(value, parts)


# Beside reading its weights, decoding projected the same positions again at every step, a matrix product; beside its
# products the flow moved masks. Of the 4.7-7.2 s and 1.02-1.55 s that flow and HiFT took, the quietest runs.
DECODING = explained(TOKENS / 7.8, {"row_fp32": TOKENS * STEP_BYTES_THERE}, rest="product_fp32")
EXISTING_FLOW = explained(4.7, {"product_fp32": FLOW})
EXISTING_HIFT = explained(1.02, {"product_fp32": HIFT})
SPEAKING = Reference(10.2, {"row_fp32": 2.6, "product_fp32": 6.7, "memory_copy": 0.9})  # 25.3 + 6.2 + 1.1 s for 3.19 s
STEPPING = explained(
    2.77, {"product_fp32": TRAINING}
)  # bf16 autocast gave 2.62 s: casting frozen weights cost the gain

# By the names of bench_cpu.SPECS. The existing tools have no reduced precision: their users wait for float32. Reading,
# importing and writing are decided by none of the rates above, so those figures are compared as they are.
EXISTING = {
    "decode full": DECODING,
    "decode fast": DECODING,
    "flow full": EXISTING_FLOW,
    "flow fast": EXISTING_FLOW,
    "hift full": EXISTING_HIFT,
    "hift fast": EXISTING_HIFT,
    "sentence full": SPEAKING,
    "sentence fast": SPEAKING,
    "sentence few steps": SPEAKING,
    "train full": STEPPING,
    "train bf16": STEPPING,
    "merge": Reference(44),
    "merge memory": Reference(8.4),
    "import": Reference(7.6),
    "load": Reference(7.5),
    "load memory": Reference(3.8),
    "prepare": Reference(16.6),
    "checkpoint": Reference(1740),
}
# The int8 target was found on a machine whose int8 rate nobody noted; it scales like the float32 weights.
DECODING_FAST = {"row_fp32": THEIR_RATES["row_fp32"] * TOKENS / 40}
TARGETS = {
    "decode full": explained(TOKENS / 18, {"row_fp32": TOKENS * STEP_BYTES}),
    "decode fast": explained(TOKENS / 40, DECODING_FAST),
    "flow full": explained(3.7, {"product_fp32": FLOW}),
    "flow fast": explained(2.2, {"product_bf16": FLOW}),
    "hift full": explained(1.0, {"product_fp32": HIFT}, rest="product_fp32"),
    "sentence full": explained(4.4, {"row_fp32": TOKENS * STEP_BYTES, "product_fp32": FLOW + HIFT}, per=SOUND_SEC),
    "sentence fast": explained(2.3, {**DECODING_FAST, "product_bf16": FLOW + HIFT}, per=SOUND_SEC),
    "sentence few steps": explained(2.0, {**DECODING_FAST, "product_bf16": 0.6 * FLOW + HIFT}, per=SOUND_SEC),
    "train full": explained(1.9, {"product_fp32": TRAINING}),
    "train bf16": explained(1.3, {"product_bf16": TRAINING}),
    "merge": Reference(6),
    "merge memory": Reference(2.5),
    "import": Reference(3),
    "load": Reference(2),
    "load memory": Reference(2.0),
    "prepare": Reference(3),
    "checkpoint": Reference(90),
}
