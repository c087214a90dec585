"""Settings of training and synthesis: edit the dict below, or override single keys with `--set key=value`.

Order, last one wins: defaults < finetune.yaml of the model directory < keys changed here < command line.
A key left out keeps its default; an unknown key, a wrong type or an impossible value is refused before any model loads.
"""

import ast
import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

JOINT_TRAINING_CONFIG = {
    "training_mode": "joint",  # joint, llm_only (prosody) or flow_only (timbre) | 训练模式：联合、仅韵律、仅音色
    # How much each part's loss counts in the sum; logs and thresholds use the raw losses.
    # 两部分 loss 的权重；日志和阈值都用未加权的 loss
    "llm_loss_weight": 2.0,
    "flow_loss_weight": 1.0,
    # LoRA of the LLM: rhythm, pauses, intonation | LLM 的 LoRA：节奏、停顿、语调
    "llm_lora": {
        "lora_r": 8,  # rank | 秩
        "lora_alpha": 16,  # update is scaled by alpha / r | 缩放 = alpha / r
        "lora_dropout": 0.15,  # on the LoRA branch only | 只作用于 LoRA 分支
        # share of the learned update that is heard, measured and merged; training has all of it. Below 1: clearer, and
        # less like the speaker. 试听、测量和合并时用多少学到的更新量（训练时为全部）；小于 1：更清楚，但没那么像
        "merge_scale": 1.0,
        # names of Linear layers: equal, or ending in ".name" | 线性层名称：完全相同或以 ".名称" 结尾
        "target_modules": ["linear_q", "linear_k", "linear_v", "linear_out", "w_1", "w_2"],
    },
    # LoRA of the flow: timbre | Flow 的 LoRA：音色
    "flow_lora": {
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "merge_scale": 1.0,
        "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "linear_q", "linear_k", "linear_v", "w_1", "w_2"],
    },
    "learning_rate": 2e-4,  # peak, AdamW | 峰值学习率
    "max_epochs": 100,  # one epoch = every training clip once | 每轮遍历全部训练音频一次
    # Clips per optimizer step = batch_size x accumulate_grad_batches | 每次参数更新的条数 = 两者之积
    "batch_size": 1,
    "accumulate_grad_batches": 16,
    # How many of them go through the model at once: speed and memory, never the result. Positions of the LLM or frames
    # of the flow per forward pass, padding included. 同时前向多少：只影响速度和显存，不影响结果；含填充的位置数或帧数
    "batch_frames": "auto",  # auto (as much as the free GPU memory takes) or a number; 1 = one clip | 1 = 每次一条
    "max_feat_len": 250,  # flow training window, mel frames (250 = 2.90 s) | Flow 训练窗口，mel 帧数
    "warmup_ratio": 0.05,  # share of all optimizer steps | 预热步数占总步数的比例
    "final_lr_ratio": 0.1,  # last learning rate / peak (cosine in between) | 末尾学习率与峰值之比
    "weight_decay": 0.01,  # AdamW, on the LoRA weights | 权重衰减
    "max_grad_norm": 1.0,  # clipped for each part by itself | 两部分各自裁剪梯度
    # When to stop; 0 switches one off | 停止条件，0 表示关闭
    "stop": {
        "llm_loss": 1.5,  # raw, nats per speech token | 原始 LLM loss
        "flow_loss": 0.3,  # raw, squared error per mel bin | 原始 Flow loss
        "patience": 10,  # epochs without a better held-out loss | 连续多少轮留出 loss 无改善
        "rule": "each",  # each: a part stops by itself; any: one reached loss ends the run | each 各自停，any 任一停
    },
    # The voice speaks texts that it never trained on, and is measured | 训练中试听：朗读没练过的文本并测量
    "eval_every_epochs": "auto",  # auto (about a sixth of the time) or a number; 0 = never | 试听间隔；0 = 不试听
    "eval_sentences": 10,  # for base and merged voice; four of them judge epochs | 试听句数；其中 4 句用来选轮次
    "select_by": "audio",  # what gets merged: audio (how it sounds) or val_loss | 按声音或按留出 loss 选检查点
    "keep_every_epochs": 0,  # also keep a checkpoint of every so many epochs; 0 = none | 每隔几轮另存检查点
    "validation_clips": "auto",  # held out, never trained on: auto (2-5, none below 8 clips) or a number | 留出条数
    "speaker_embedding": "mean",  # mean (what synthesis uses) or utterance | 训练用的说话人向量
    "speaker_name": "finetuned",  # the voice's name in spk2info.pt | 音色名称
    "flow_time": "cosine",  # how t is drawn: cosine (as the released weights were trained) or uniform | t 的采样方式
    "precision": "auto",  # auto, bf16, fp16 or fp32 (auto: best the device has; fp32 on CPU) | 计算精度
    "frozen_weights": "auto",  # half or full; auto: half on a GPU | 冻结权重的存储精度
    "gradient_checkpointing": "auto",  # True, False or auto (when memory is short) | 梯度检查点
    "save_every_minutes": 5.0,  # and after every epoch | 除每轮之外的保存间隔（分钟）
    "seed": 1234,  # same seed, same run (on a GPU with the same batch_frames) | 随机种子
    # Synthesis | 合成
    "inference": {
        "min_token_text_ratio": 2.0,  # speech tokens per text token, at least | 每个文本 token 最少的语音 token 数
        "max_token_text_ratio": 20.0,  # and at most | 最多
        # From noise to mel: how many steps, by which method. euler with 10 steps is what CosyVoice itself does.
        # 从噪声到 mel 的求解步数与方法；CosyVoice 原版为 euler、10 步
        "flow_steps": 8,
        "flow_solver": "multistep",  # multistep or euler
        "precision": "auto",  # full (float32), fast (int8 LLM, bf16 flow) or auto: fast | 推理精度
        "max_retries": 3,  # new seeds tried after a runaway | 失控后换种子重试的次数
        "max_duration_ratio": 2.5,  # longer than this times the expected length = runaway | 超过预期时长的倍数视为失控
        "max_silence_sec": 1.5,  # longest pause or repetition in a sentence | 句内最长静音或重复（秒）
    },
}

MODES = ("joint", "llm_only", "flow_only")


class UserError(Exception):
    """A mistake that the user can mend: scripts print it in one line and return 2."""


class ConfigError(UserError):
    """A setting that cannot be used; the message lists every problem of its source."""


def bounded(default: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """Dataclass field for a number with low <= value <= high."""
    return field(default=default, metadata={"low": low, "high": high})


def one_of(*choices: Any) -> Any:
    """Dataclass field whose first choice is the default."""
    return field(default=choices[0], metadata={"choices": choices})


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapter of one part."""

    lora_r: int = bounded(8, 1, 1024)
    lora_alpha: float = bounded(16, 1e-3, 1e5)
    lora_dropout: float = bounded(0.15, 0, 0.95)
    merge_scale: float = bounded(1.0, 0.01, 2)
    target_modules: tuple[str, ...] = ("linear_q", "linear_k", "linear_v", "linear_out", "w_1", "w_2")


@dataclass(frozen=True)
class StopConfig:
    """When training ends; 0 switches a rule off. Losses are raw epoch means."""

    llm_loss: float = bounded(1.5, 0, 100)
    flow_loss: float = bounded(0.3, 0, 100)
    patience: int = bounded(10, 0, 100_000)
    rule: str = one_of("each", "any")


@dataclass(frozen=True)
class InferenceConfig:
    """Limits and effort of synthesis."""

    min_token_text_ratio: float = bounded(2.0, 0, 1000)
    max_token_text_ratio: float = bounded(20.0, 0.1, 1000)
    flow_steps: int = bounded(8, 1, 1000)
    flow_solver: str = one_of("multistep", "euler")
    precision: str = one_of("auto", "full", "fast")
    max_retries: int = bounded(3, 0, 100)
    max_duration_ratio: float = bounded(2.5, 1, 1000)
    max_silence_sec: float = bounded(1.5, 0.1, 1000)


FLOW_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "linear_q", "linear_k", "linear_v", "w_1", "w_2")


@dataclass(frozen=True)
class JointConfig:
    """Every setting with its type, default and limits; what the scripts read."""

    training_mode: str = one_of(*MODES)
    llm_loss_weight: float = bounded(2.0, 1e-6, 1e6)
    flow_loss_weight: float = bounded(1.0, 1e-6, 1e6)
    llm_lora: LoraConfig = LoraConfig()
    flow_lora: LoraConfig = LoraConfig(lora_r=16, lora_alpha=32, lora_dropout=0.05, target_modules=FLOW_TARGETS)
    learning_rate: float = bounded(2e-4, 1e-9, 1)  # at 0 nothing is learned
    max_epochs: int = bounded(100, 1, 1_000_000)
    batch_size: int = bounded(1, 1, 4096)
    accumulate_grad_batches: int = bounded(16, 1, 100_000)
    batch_frames: int | str = field(default="auto", metadata={"choices": ("auto",), "low": 1, "high": 10_000_000})
    max_feat_len: int = bounded(250, 16, 100_000)
    warmup_ratio: float = bounded(0.05, 0, 1)
    final_lr_ratio: float = bounded(0.1, 0, 1)
    weight_decay: float = bounded(0.01, 0, 1)
    max_grad_norm: float = bounded(1.0, 1e-6, 1e6)
    stop: StopConfig = StopConfig()
    eval_every_epochs: int | str = field(default="auto", metadata={"choices": ("auto",), "low": 0, "high": 100_000})
    eval_sentences: int = bounded(10, 2, 12)
    select_by: str = one_of("audio", "val_loss")
    keep_every_epochs: int = bounded(0, 0, 100_000)
    validation_clips: int | str = field(default="auto", metadata={"choices": ("auto",), "low": 0, "high": 1000})
    speaker_embedding: str = one_of("mean", "utterance")
    speaker_name: str = "finetuned"
    flow_time: str = one_of("cosine", "uniform")
    precision: str = one_of("auto", "bf16", "fp16", "fp32")
    frozen_weights: str = one_of("auto", "half", "full")
    gradient_checkpointing: bool | str = field(default="auto", metadata={"choices": ("auto",)})
    save_every_minutes: float = bounded(5.0, 0.01, 10)
    seed: int = bounded(1234, 0, 2**32 - 1)
    inference: InferenceConfig = InferenceConfig()

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
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"stop.patience": 10, …} from nested data."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _known_keys(cls: type = JointConfig, prefix: str = "") -> dict[str, tuple[type, Any]]:
    """{dotted key: (declared type, dataclass field)} of every setting."""
    known: dict[str, tuple[type, Any]] = {}
    hints = get_type_hints(cls)
    for item in fields(cls):
        if is_dataclass(hints[item.name]):
            known.update(_known_keys(hints[item.name], f"{prefix}{item.name}."))
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
    known = _known_keys()
    problems = []
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            problems.append(f"unknown key '{key}'" + (f" (did you mean '{near[0]}'?)" if near else ""))
        elif problem := _problem(value, *known[key]):
            problems.append(f"{key} = {value!r}: {problem}")
    if problems:
        raise ConfigError(f"{source}: " + "; ".join(problems))


def _problem(value: Any, kind: type, item: Any) -> str | None:
    """What is wrong with one value, None if nothing is."""
    choices = item.metadata.get("choices", ())
    if isinstance(value, str):
        if str not in _options(kind) or kind == tuple[str, ...]:
            return f"must be {_kind_name(kind)}"
        if choices and value not in choices:
            named = [*(("True", "False") if bool in _options(kind) else ()), *map(str, choices)]
            return f"must be one of {', '.join(named)}" + (" or a number" if int in _options(kind) else "")
        return None if value.strip() else "must not be empty"
    if isinstance(value, bool):
        return None if bool in _options(kind) else f"must be {_kind_name(kind)}"
    if isinstance(value, (list, tuple)):
        if kind != tuple[str, ...]:
            return f"must be {_kind_name(kind)}"
        good = value and all(isinstance(name, str) and name for name in value)
        return None if good else "must be a list of module names, at least one, such as ['to_q', 'to_k']"
    if isinstance(value, int) and int in _options(kind) or isinstance(value, (int, float)) and float in _options(kind):
        low, high = item.metadata["low"], item.metadata["high"]
        return None if low <= value <= high else f"must be between {low:g} and {high:g}"
    return f"must be {_kind_name(kind)}"


def _options(kind: type) -> tuple[type, ...]:
    """(int, str) from int | str."""
    return getattr(kind, "__args__", None) or (kind,)


def _kind_name(kind: type) -> str:
    names = {int: "a whole number", float: "a number", str: "a word", bool: "True or False"}
    if kind == tuple[str, ...]:
        return "a list of module names, such as ['to_q', 'to_k']"
    return " or ".join(names[option] for option in _options(kind))


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
