"""Settings of training and synthesis: edit the dict below, or override single keys with `--set key=value`.

Order, last one wins: defaults < finetune.yaml of the model directory < keys changed here < command line.
A key left out keeps its default; an unknown key, a wrong type or an impossible value is refused before any model loads.
"""

import ast
import difflib
import json
import reprlib
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

JOINT_TRAINING_CONFIG = {
    # train both, only the LLM (prosody) or only the flow (timbre) (joint, llm_only or flow_only)
    # 训练两者、只练 LLM（韵律）或只练 Flow（音色）
    "training_mode": "joint",
    # factor of the LLM's loss; logs and stops use raw ones
    # LLM loss 的系数；日志和停止用原始 loss
    "llm_loss_weight": 2.0,
    "flow_loss_weight": 1.0,  # factor of the flow's loss | Flow loss 的系数
    "llm_lora": {  # LoRA of the LLM: rhythm, pauses, intonation | LLM 的 LoRA：节奏、停顿、语调
        "lora_r": 8,  # rank: size of the adapters | 秩：适配器的大小
        "lora_alpha": 16,  # strength: the update is scaled by alpha / rank | 强度：更新量按 alpha / 秩 缩放
        # dropout on the adapters' input; more slows overfitting
        # 适配器输入的 dropout；大则过拟合慢
        "lora_dropout": 0.15,
        # share of the learned update that is evaluated and merged; below 1: clearer, less like the speaker
        # 评估与合并时采用多少学到的更新量；小于 1：更清楚，但没那么像
        "merge_scale": 1.0,
        # Linear layers with an adapter: name equal, or ending in .name
        # 加适配器的线性层：同名，或以“.名称”结尾
        "target_modules": ["linear_q", "linear_k", "linear_v", "linear_out", "w_1", "w_2"],
    },
    "flow_lora": {  # LoRA of the flow: timbre | Flow 的 LoRA：音色
        "lora_r": 16,  # rank: size of the adapters | 秩：适配器的大小
        "lora_alpha": 32,  # strength: the update is scaled by alpha / rank | 强度：更新量按 alpha / 秩 缩放
        # dropout on the adapters' input; more slows overfitting
        # 适配器输入的 dropout；大则过拟合慢
        "lora_dropout": 0.05,
        # share of the learned update that is evaluated and merged; below 1: clearer, less like the speaker
        # 评估与合并时采用多少学到的更新量；小于 1：更清楚，但没那么像
        "merge_scale": 1.0,
        # Linear layers with an adapter: name equal, or ending in .name
        # 加适配器的线性层：同名，或以“.名称”结尾
        "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "linear_q", "linear_k", "linear_v", "w_1", "w_2"],
    },
    "learning_rate": 2e-4,  # peak learning rate of AdamW | AdamW 的峰值学习率
    "max_epochs": 100,  # at most so many epochs; one uses every training clip once | 最多训练几轮；每轮各条录音用一次
    "batch_size": 1,  # clips per step = this times accumulate_grad_batches | 每步条数 = 它乘以 accumulate_grad_batches
    "accumulate_grad_batches": 16,  # see batch_size | 见 batch_size
    # how much is computed at once; auto: as GPU memory allows, 512 on a CPU; 1: clip by clip (positions, frames)
    # 同时计算多少；auto：看空闲显存，CPU 上为 512；1：逐条计算（位置数、帧数）
    "batch_frames": "auto",
    # longest piece that the flow trains on at once (mel frames, 250 = 2.90 s)
    # Flow 一次训练的最长片段（mel 帧，250 = 2.90 秒）
    "max_feat_len": 250,
    "warmup_ratio": 0.05,  # share of all steps in which the learning rate rises | 学习率上升阶段占总步数的比例
    "final_lr_ratio": 0.1,  # last learning rate / peak, cosine in between | 末尾学习率与峰值之比，中间按余弦下降
    "weight_decay": 0.01,  # of AdamW, on the adapters | AdamW 对适配器的权重衰减
    "max_grad_norm": 1.0,  # gradients are clipped to this norm, LLM and flow apart | 梯度裁剪上限，LLM 和 Flow 分别裁剪
    "stop": {  # when to stop; 0 switches a rule off | 停止条件，0 表示关闭
        # training loss at which the LLM stops; below it clips are memorised (nats per speech token)
        # LLM 的训练 loss 到此就停；再低就是死记硬背（每个语音 token 的 nat）
        "llm_loss": 1.5,
        # training loss at which the flow stops (squared error per mel bin)
        # Flow 的训练 loss 到此就停（每个 mel 频带的平方误差）
        "flow_loss": 0.3,
        "patience": 10,  # epochs without a better held-out loss | 留出 loss 连续多少轮没有改善就停
        "rule": "each",  # LLM and flow stop apart, or the first ends the run (each or any) | 各停各的，或先到者结束训练
    },
    # epochs between evaluations of the voice; auto: a sixth of the time; 0: never
    # 每隔几轮评估一次声音；auto：约占六分之一的时间；0：从不
    "eval_every_epochs": "auto",
    "eval_sentences": 10,  # sentences of the verdict; four of them judge epochs | 下结论用的句数，其中四句评判各轮
    # which epoch is merged: the best by its sound, or by held-out loss (audio or val_loss)
    # 合并哪一轮：声音最好的，或留出 loss 最低的
    "select_by": "audio",
    # most evaluated epochs that are kept to be merged, spread over the LLM's losses; 0: none
    # 最多保留几轮评估过的检查点，供日后合并，按 LLM 的 loss 均匀分布；0：不保留
    "keep_epochs": 10,
    "keep_every_epochs": 0,  # also keep a checkpoint every so many epochs; 0: none | 每隔几轮另存检查点；0：不存
    "validation_clips": "auto",  # clips held out; auto: 2-5, none below 8 clips | 留出条数；auto：2～5，不足 8 条时不留
    # speaker vector in training: the mean of all clips, as in synthesis, or each clip's own (mean or utterance)
    # 训练用的说话人向量：全部录音的平均（与合成时一致），或每条各用自己的
    "speaker_embedding": "mean",
    "speaker_name": "finetuned",  # the voice's name in spk2info.pt | 音色在 spk2info.pt 里的名字
    # how the flow's time is drawn; the released weights were trained with cosine (cosine or uniform)
    # Flow 时间的采样方式；官方权重是用 cosine 训练的
    "flow_time": "cosine",
    # arithmetic of training; auto: bf16 or fp16 on a GPU, fp32 on a CPU (auto, bf16, fp16 or fp32)
    # 训练的计算精度；auto：显卡上 bf16 或 fp16，CPU 上 fp32
    "precision": "auto",
    # base weights in memory; auto: half on a GPU (auto, half or full)
    # 基座权重的存储精度；auto：显卡上用 half
    "frozen_weights": "auto",
    # True, False or auto (where memory is short): saves memory, costs time
    # True、False 或 auto（显存不够时启用）：省显存，但更慢
    "gradient_checkpointing": "auto",
    # between saves of _last.ckpt, besides those after each epoch (minutes)
    # _last.ckpt 的保存间隔；每轮之后也会保存（分钟）
    "save_every_minutes": 5.0,
    # same seed, same run; on a GPU with the same batch_frames
    # 种子相同则训练相同；显卡上 batch_frames 也要相同
    "seed": 1234,
    "inference": {  # synthesis | 合成
        "min_token_text_ratio": 2.0,  # fewest speech tokens per text token | 每个文本 token 最少的语音 token 数
        "max_token_text_ratio": 20.0,  # most speech tokens per text token | 每个文本 token 最多的语音 token 数
        # steps from noise to mel; more are slower and may be cleaner
        # 从噪声到 mel 的步数；多则慢，可能更干净
        "flow_steps": 8,
        # method of these steps; CosyVoice itself takes euler with 10 (multistep or euler)
        # 求解方法；CosyVoice 原版用 euler、10 步
        "flow_solver": "multistep",
        # full: float32; fast: 8-bit LLM on a CPU, half precision where it gains; auto: fast (auto, full or fast)
        # full 为 float32；fast 在 CPU 上用 8 位的 LLM 权重，能加速时用半精度；auto 同 fast
        "precision": "auto",
        "max_retries": 3,  # new seeds tried after degenerate output | 输出异常后换种子重试的次数
        # longer than this times the expected length (plus 1 s), or as much shorter, is degenerate output
        # 比预期时长长出或短到这个倍数（长的再放宽 1 秒），视为输出异常
        "max_duration_ratio": 2.5,
        # a longer pause or loop is degenerate output (seconds)
        # 停顿或重复超过这么久，视为输出异常（秒）
        "max_silence_sec": 1.5,
    },
}

MODES = ("joint", "llm_only", "flow_only")
LINE_WIDTH = 120
LONGEST = 100  # of a value in a message
MOST_LETTERS = 1000  # of a text that is a setting
DEEPEST = 3  # dots in a key
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = LONGEST


class UserError(Exception):
    """A mistake that the user can mend: scripts print it in one line and return 2."""


class MemoryShortage(UserError):
    """Memory ran out, and the message says what to do about it where that happened."""


class ConfigError(UserError):
    """A setting that cannot be used; the message lists every problem of its source."""


def setting(default: Any, help: str, *, unit: str = "", choices: Sequence[Any] = (), **limits: float) -> Any:
    """Dataclass field of one setting: the only place that states its default, its limits, its unit and its help.

    help, unit: "English | 中文"; choices: words that are allowed; limits: low and high of a number, both included."""
    return field(default=default, metadata={"help": help, "unit": unit, "choices": tuple(choices), **limits})


def one_of(*choices: Any, help: str) -> Any:
    """Dataclass field whose first choice is the default."""
    return setting(choices[0], help, choices=choices)


LLM_TARGETS = ("linear_q", "linear_k", "linear_v", "linear_out", "w_1", "w_2")
FLOW_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "linear_q", "linear_k", "linear_v", "w_1", "w_2")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters of one component."""

    lora_r: int = setting(8, "rank: size of the adapters | 秩：适配器的大小", low=1, high=1024)
    lora_alpha: float = setting(
        16, "strength: the update is scaled by alpha / rank | 强度：更新量按 alpha / 秩 缩放", low=1e-3, high=1e5
    )
    lora_dropout: float = setting(
        0.15,
        "dropout on the adapters' input; more slows overfitting | 适配器输入的 dropout；大则过拟合慢",
        low=0,
        high=0.95,
    )
    merge_scale: float = setting(
        1.0,
        "share of the learned update that is evaluated and merged; below 1: clearer, less like the speaker | "
        "评估与合并时采用多少学到的更新量；小于 1：更清楚，但没那么像",
        low=0.01,
        high=2,
    )
    target_modules: tuple[str, ...] = setting(
        LLM_TARGETS,
        "Linear layers with an adapter: name equal, or ending in .name | 加适配器的线性层：同名，或以“.名称”结尾",
    )


@dataclass(frozen=True)
class StopConfig:
    """When training ends; 0 switches a rule off. Losses are raw epoch means."""

    llm_loss: float = setting(
        1.5,
        "training loss at which the LLM stops; below it clips are memorised | "
        "LLM 的训练 loss 到此就停；再低就是死记硬背",
        unit="nats per speech token | 每个语音 token 的 nat",
        low=0,
        high=100,
    )
    flow_loss: float = setting(
        0.3,
        "training loss at which the flow stops | Flow 的训练 loss 到此就停",
        unit="squared error per mel bin | 每个 mel 频带的平方误差",
        low=0,
        high=100,
    )
    patience: int = setting(
        10,
        "epochs without a better held-out loss | 留出 loss 连续多少轮没有改善就停",
        low=0,
        high=100_000,
    )
    rule: str = one_of(
        "each",
        "any",
        help="LLM and flow stop apart, or the first ends the run | 各停各的，或先到者结束训练",
    )


@dataclass(frozen=True)
class InferenceConfig:
    """Limits and effort of synthesis."""

    min_token_text_ratio: float = setting(
        2.0, "fewest speech tokens per text token | 每个文本 token 最少的语音 token 数", low=0, high=1000
    )
    max_token_text_ratio: float = setting(
        20.0, "most speech tokens per text token | 每个文本 token 最多的语音 token 数", low=0.1, high=1000
    )
    flow_steps: int = setting(
        8,
        "steps from noise to mel; more are slower and may be cleaner | 从噪声到 mel 的步数；多则慢，可能更干净",
        low=1,
        high=1000,
    )
    flow_solver: str = one_of(
        "multistep",
        "euler",
        help="method of these steps; CosyVoice itself takes euler with 10 | 求解方法；CosyVoice 原版用 euler、10 步",
    )
    precision: str = one_of(
        "auto",
        "full",
        "fast",
        help="full: float32; fast: 8-bit LLM on a CPU, half precision where it gains; auto: fast | "
        "full 为 float32；fast 在 CPU 上用 8 位的 LLM 权重，能加速时用半精度；auto 同 fast",
    )
    max_retries: int = setting(
        3, "new seeds tried after degenerate output | 输出异常后换种子重试的次数", low=0, high=100
    )
    max_duration_ratio: float = setting(
        2.5,
        "longer than this times the expected length (plus 1 s), or as much shorter, is degenerate output | "
        "比预期时长长出或短到这个倍数（长的再放宽 1 秒），视为输出异常",
        low=1,
        high=1000,
    )
    max_silence_sec: float = setting(
        1.5,
        "a longer pause or loop is degenerate output | 停顿或重复超过这么久，视为输出异常",
        unit="seconds | 秒",
        low=0.1,
        high=1000,
    )


@dataclass(frozen=True)
class JointConfig:
    """Every setting with its type, default, limits, unit and help; what the scripts read."""

    training_mode: str = one_of(
        *MODES,
        help="train both, only the LLM (prosody) or only the flow (timbre) | "
        "训练两者、只练 LLM（韵律）或只练 Flow（音色）",
    )
    llm_loss_weight: float = setting(
        2.0,
        "factor of the LLM's loss; logs and stops use raw ones | LLM loss 的系数；日志和停止用原始 loss",
        low=1e-6,
        high=1e6,
    )
    flow_loss_weight: float = setting(1.0, "factor of the flow's loss | Flow loss 的系数", low=1e-6, high=1e6)
    llm_lora: LoraConfig = setting(
        LoraConfig(), "LoRA of the LLM: rhythm, pauses, intonation | LLM 的 LoRA：节奏、停顿、语调"
    )
    flow_lora: LoraConfig = setting(
        LoraConfig(lora_r=16, lora_alpha=32, lora_dropout=0.05, target_modules=FLOW_TARGETS),
        "LoRA of the flow: timbre | Flow 的 LoRA：音色",
    )
    learning_rate: float = setting(
        2e-4, "peak learning rate of AdamW | AdamW 的峰值学习率", low=1e-9, high=1
    )  # at 0 nothing is learned
    max_epochs: int = setting(
        100,
        "at most so many epochs; one uses every training clip once | 最多训练几轮；每轮各条录音用一次",
        low=1,
        high=1_000_000,
    )
    batch_size: int = setting(
        1,
        "clips per step = this times accumulate_grad_batches | 每步条数 = 它乘以 accumulate_grad_batches",
        low=1,
        high=4096,
    )
    accumulate_grad_batches: int = setting(16, "see batch_size | 见 batch_size", low=1, high=100_000)
    batch_frames: int | str = setting(
        "auto",
        "how much is computed at once; auto: as GPU memory allows, 512 on a CPU; 1: clip by clip | "
        "同时计算多少；auto：看空闲显存，CPU 上为 512；1：逐条计算",
        unit="positions, frames | 位置数、帧数",
        choices=("auto",),
        low=1,
        high=10_000_000,
    )
    max_feat_len: int = setting(
        250,
        "longest piece that the flow trains on at once | Flow 一次训练的最长片段",
        unit="mel frames, 250 = 2.90 s | mel 帧，250 = 2.90 秒",
        low=16,
        high=100_000,
    )
    warmup_ratio: float = setting(
        0.05, "share of all steps in which the learning rate rises | 学习率上升阶段占总步数的比例", low=0, high=1
    )
    final_lr_ratio: float = setting(
        0.1, "last learning rate / peak, cosine in between | 末尾学习率与峰值之比，中间按余弦下降", low=0, high=1
    )
    weight_decay: float = setting(0.01, "of AdamW, on the adapters | AdamW 对适配器的权重衰减", low=0, high=1)
    max_grad_norm: float = setting(
        1.0,
        "gradients are clipped to this norm, LLM and flow apart | 梯度裁剪上限，LLM 和 Flow 分别裁剪",
        low=1e-6,
        high=1e6,
    )
    stop: StopConfig = setting(StopConfig(), "when to stop; 0 switches a rule off | 停止条件，0 表示关闭")
    eval_every_epochs: int | str = setting(
        "auto",
        "epochs between evaluations of the voice; auto: a sixth of the time; 0: never | "
        "每隔几轮评估一次声音；auto：约占六分之一的时间；0：从不",
        choices=("auto",),
        low=0,
        high=100_000,
    )
    eval_sentences: int = setting(
        10,
        "sentences of the verdict; four of them judge epochs | 下结论用的句数，其中四句评判各轮",
        low=2,
        high=12,
    )
    select_by: str = one_of(
        "audio",
        "val_loss",
        help="which epoch is merged: the best by its sound, or by held-out loss | "
        "合并哪一轮：声音最好的，或留出 loss 最低的",
    )
    keep_epochs: int = setting(
        10,
        "most evaluated epochs that are kept to be merged, spread over the LLM's losses; 0: none | "
        "最多保留几轮评估过的检查点，供日后合并，按 LLM 的 loss 均匀分布；0：不保留",
        low=0,
        high=1000,
    )
    keep_every_epochs: int = setting(
        0,
        "also keep a checkpoint every so many epochs; 0: none | 每隔几轮另存检查点；0：不存",
        low=0,
        high=100_000,
    )
    validation_clips: int | str = setting(
        "auto",
        "clips held out; auto: 2-5, none below 8 clips | 留出条数；auto：2～5，不足 8 条时不留",
        choices=("auto",),
        low=0,
        high=1000,
    )
    speaker_embedding: str = one_of(
        "mean",
        "utterance",
        help="speaker vector in training: the mean of all clips, as in synthesis, or each clip's own | "
        "训练用的说话人向量：全部录音的平均（与合成时一致），或每条各用自己的",
    )
    speaker_name: str = setting("finetuned", "the voice's name in spk2info.pt | 音色在 spk2info.pt 里的名字")
    flow_time: str = one_of(
        "cosine",
        "uniform",
        help="how the flow's time is drawn; the released weights were trained with cosine | "
        "Flow 时间的采样方式；官方权重是用 cosine 训练的",
    )
    precision: str = one_of(
        "auto",
        "bf16",
        "fp16",
        "fp32",
        help="arithmetic of training; auto: bf16 or fp16 on a GPU, fp32 on a CPU | "
        "训练的计算精度；auto：显卡上 bf16 或 fp16，CPU 上 fp32",
    )
    frozen_weights: str = one_of(
        "auto",
        "half",
        "full",
        help="base weights in memory; auto: half on a GPU | 基座权重的存储精度；auto：显卡上用 half",
    )
    gradient_checkpointing: bool | str = setting(
        "auto",
        "True, False or auto (where memory is short): saves memory, costs time | "
        "True、False 或 auto（显存不够时启用）：省显存，但更慢",
        choices=("auto",),
    )
    save_every_minutes: float = setting(
        5.0,
        "between saves of _last.ckpt, besides those after each epoch | _last.ckpt 的保存间隔；每轮之后也会保存",
        unit="minutes | 分钟",
        low=0.01,
        high=10,
    )
    seed: int = setting(
        1234,
        "same seed, same run; on a GPU with the same batch_frames | 种子相同则训练相同；显卡上 batch_frames 也要相同",
        low=0,
        high=2**32 - 1,
    )
    inference: InferenceConfig = setting(InferenceConfig(), "synthesis | 合成")

    def part(self, name: str) -> LoraConfig:
        """LoRA settings of "llm" or "flow"."""
        return self.llm_lora if name == "llm" else self.flow_lora

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Parts that this mode trains, in the order in which they are reported."""
        return {"joint": ("llm", "flow"), "llm_only": ("llm",), "flow_only": ("flow",)}[self.training_mode]


def load(
    overrides: Iterable[str] = (),
    model_defaults: Mapping[str, Any] | None = None,
    *,
    model_source: str = "finetune.yaml",
) -> tuple[JointConfig, dict[str, str]]:
    """Resolved settings, and where each key that differs from the defaults came from.

    overrides: "key=value" or "part.key=value", the last one wins; model_defaults: content of finetune.yaml.
    Raises ConfigError listing all problems of the first source that has any.
    """
    layers = [
        (model_source, flatten(model_defaults or {})),
        ("config.py", _changed_keys(JOINT_TRAINING_CONFIG)),
        ("command line", dict(parse_override(text) for text in overrides)),
    ]
    return resolve(JointConfig(), layers)


def resolve(base: JointConfig, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[JointConfig, dict[str, str]]:
    """`base` with the layers' dotted keys laid over it in order, and {dotted key: layer name} of what they set."""
    values, sources = flatten(to_dict(base)), {}
    for source, layer in layers:
        _check(layer, source)
        values.update(layer)
        sources.update(dict.fromkeys(layer, source))
    config = _build(JointConfig, values)
    if config.inference.min_token_text_ratio >= config.inference.max_token_text_ratio:
        raise ConfigError("inference.min_token_text_ratio must be smaller than inference.max_token_text_ratio")
    return config, sources


def help_of(item: Any) -> tuple[str, str]:
    """(English, 中文) of a dataclass field, with its unit."""
    halves = [item.metadata[key].split(" | ") for key in ("help", "unit") if item.metadata[key]]
    english, chinese = zip(*halves, strict=True)
    return " (".join(english) + ")" * (len(halves) - 1), "（".join(chinese) + "）" * (len(halves) - 1)


def literal(value: Any) -> str:
    """A value as config.py and finetune.yaml write it."""
    if isinstance(value, float) and 0 < value < 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return str(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def commented(code: str, item: Any) -> list[str]:
    """A line of code with the field's help behind it, or above it where the line would be too long."""
    english, chinese = help_of(item)
    if choices := item.metadata["choices"][1:]:
        english += f" ({', '.join(item.metadata['choices'][:-1])} or {choices[-1]})"
    line = f"{code}  # {english} | {chinese}"
    if sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in line) <= LINE_WIDTH:
        return [line]
    indent = code[: len(code) - len(code.lstrip())]
    return [f"{indent}# {english}", f"{indent}# {chinese}", code]


def to_dict(config: JointConfig) -> dict[str, Any]:
    """Plain nested data, as stored in checkpoints (tuples become lists)."""
    return json.loads(json.dumps(asdict(config)))


def from_dict(data: Mapping[str, Any], source: str) -> JointConfig:
    """Settings stored by `to_dict`; raises ConfigError where they do not fit this version."""
    return resolve(JointConfig(), [(source, flatten(data))])[0]


def parse_override(text: str) -> tuple[str, Any]:
    """("llm_lora.lora_r", 16) from "llm_lora.lora_r=16"; the value is a Python literal or a bare word.

    true and false count in any case: YAML writes them small."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write it as key=value, for example --set llm_lora.lora_r=16")
    key, value = key.strip(), value.strip()
    if value.lower() in ("true", "false"):
        return key, value.lower() == "true"
    try:
        with warnings.catch_warnings():  # such as of a number that runs into a word
            warnings.simplefilter("ignore")
            return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # a word, or what no setting can be
        return key, value


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"stop.patience": 10, …} from nested data; what is nested deeper than any setting stays as it is."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and prefix.count(".") < DEEPEST:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def known_settings(cls: type = JointConfig, prefix: str = "") -> dict[str, tuple[type, Any]]:
    """{dotted key: (declared type, dataclass field)} of every setting."""
    known: dict[str, tuple[type, Any]] = {}
    hints = get_type_hints(cls)
    for item in fields(cls):
        if is_dataclass(hints[item.name]):
            known.update(known_settings(hints[item.name], f"{prefix}{item.name}."))
        else:
            known[prefix + item.name] = (hints[item.name], item)
    return known


def _changed_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the user's dict whose value is not the default (unknown keys too: they are refused later)."""
    defaults = flatten(to_dict(JointConfig()))
    return {
        key: value
        for key, value in flatten(settings).items()
        if key not in defaults or (list(value) if isinstance(value, tuple) else value) != defaults[key]
    }


def _check(values: Mapping[str, Any], source: str) -> None:
    known = known_settings()
    problems = []
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key[:LONGEST], known, n=1, cutoff=0.5)
            problems.append(f"unknown key {short_repr(key)}" + (f" (did you mean '{near[0]}'?)" if near else ""))
        elif problem := _problem(value, *known[key]):
            problems.append(f"{key} = {short_repr(value)}: {problem}")
    if problems:
        raise ConfigError(f"{source}: " + "; ".join(problems))


def short_repr(value: Any) -> str:
    """A value in a message: in one line and not too long, whatever it is."""
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:
        return "a number of thousands of digits"


def _problem(value: Any, kind: type, item: Any) -> str | None:
    """What is wrong with one value, None if nothing is."""
    choices = item.metadata.get("choices", ())
    if isinstance(value, str):
        if str not in options(kind) or kind == tuple[str, ...]:
            return f"must be {_kind_name(kind)}"
        if choices and value not in choices:
            named = [*(("True", "False") if bool in options(kind) else ()), *map(str, choices)]
            return f"must be one of {', '.join(named)}" + (" or a number" if int in options(kind) else "")
        return text_problem(value)
    if isinstance(value, bool):
        return None if bool in options(kind) else f"must be {_kind_name(kind)}"
    if isinstance(value, (list, tuple)):
        if kind != tuple[str, ...]:
            return f"must be {_kind_name(kind)}"
        good = value and all(isinstance(name, str) and text_problem(name) is None for name in value)
        return None if good else "must be a list of module names, at least one, such as ['to_q', 'to_k']"
    if isinstance(value, int) and int in options(kind) or isinstance(value, (int, float)) and float in options(kind):
        low, high = item.metadata["low"], item.metadata["high"]
        return None if low <= value <= high else f"must be between {low:g} and {high:g}"
    return f"must be {_kind_name(kind)}"


def text_problem(text: str) -> str | None:
    """What is wrong with a text as a setting, such as the name of a voice; None if nothing is."""
    if not text.strip():
        return "must not be empty"
    if len(text) > MOST_LETTERS or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        return f"must be at most {MOST_LETTERS} characters in one line"
    return None


def options(kind: type) -> tuple[type, ...]:
    """(int, str) from int | str."""
    return getattr(kind, "__args__", None) or (kind,)


def _kind_name(kind: type) -> str:
    names = {int: "a whole number", float: "a number", str: "a word", bool: "True or False"}
    if kind == tuple[str, ...]:
        return "a list of module names, such as ['to_q', 'to_k']"
    return " or ".join(names[option] for option in options(kind))


def _build(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    hints = get_type_hints(cls)
    arguments = {}
    for item in fields(cls):
        kind = hints[item.name]
        if is_dataclass(kind):
            arguments[item.name] = _build(kind, values, f"{prefix}{item.name}.")
        else:
            value = values[prefix + item.name]
            arguments[item.name] = tuple(value) if isinstance(value, (list, tuple)) else value
    return cls(**arguments)
