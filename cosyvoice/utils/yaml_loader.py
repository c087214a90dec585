"""`cosyvoice.yaml` of a model directory -> ModelConfig, without letting the file run code.

The file comes from a download and is not trusted. It is parsed into nodes, every tag is checked against tables of
names, sections that are not built here are cut, and only what is left is written out again for hyperpyyaml.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML, SafeLoader
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cosyvoice.utils.common import MEL_HOP, SAMPLE_RATE, InputError
from cosyvoice.utils.files import require_file

YAML_NAME = "cosyvoice.yaml"
SNAPSHOT = (  # as in README.md; without the patterns files that nothing here reads would come too
    'python -c "from huggingface_hub import snapshot_download; '
    "snapshot_download('FunAudioLLM/CosyVoice-300M', local_dir='pretrained_models/CosyVoice-300M', "
    "allow_patterns=['*.yaml', '*.pt', 'campplus.onnx', 'speech_tokenizer_v1.onnx', 'configuration.json'])\""
)
_GET_IT = f"pip install huggingface_hub, then {SNAPSHOT}"
DOWNLOAD, DOWNLOAD_AGAIN = f"download the model: {_GET_IT}", f"download it again: {_GET_IT}"
MAX_YAML_BYTES = 256 * 1024  # the released file has about 8 kB; the parser reads some 70 kB/s
MOST_WIDE, MOST_LAYERS, MOST_LISTED = 1_000_000, 64, 8  # any size, how many layers, how long a list
MOST_NESTED, MOST_LETTERS = 40, 200
DEFAULT_TOKEN_RATE_HZ = 50  # class default of the flow model; the released yaml repeats it

_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_CORE + name for name in ("map", "seq", "str", "int", "float", "bool", "null")}
_CUT_TAGS = {"!ref", _CORE + "merge", _CORE + "value", _CORE + "timestamp"}  # harmless where nothing is built
_SAFE_PREFIXES = ("cosyvoice.", "matcha.", "whisper.tokenizer.", "torchaudio.transforms.")
_SEED_TAGS = {
    f"!apply:{name}" for name in ("random.seed", "numpy.random.seed", "torch.manual_seed", "torch.cuda.manual_seed_all")
}
_SEED_KEY = re.compile(r"__set_seed\d*")
# The recipe wraps the flow's constants in this class. It is read as the plain mapping under `content`; omegaconf is
# never imported.
_DICT_CONFIG_TAG = "!new:omegaconf.DictConfig"
_REFERENCE = re.compile(r"<(\w+)>")
_SAMPLING_TAG = "!name:cosyvoice.utils.common.ras_sampling"


class _Part(NamedTuple):
    """A section that is built: the tags that may stand at its top, and those that may stand inside it."""

    top: tuple[str, ...]
    inside: tuple[str, ...] = ()


_TRANSFORMERS = (
    "!new:cosyvoice.transformer.encoder.ConformerEncoder",
    "!new:cosyvoice.transformer.encoder.TransformerEncoder",
)
_TOKENIZER_TAG = "!name:cosyvoice.tokenizer.tokenizer.get_tokenizer"
PARTS = {
    "llm": _Part(("!new:cosyvoice.llm.llm.TransformerLM",), (*_TRANSFORMERS, _SAMPLING_TAG)),
    "flow": _Part(
        ("!new:cosyvoice.flow.flow.MaskedDiffWithXvec",),
        (
            *_TRANSFORMERS,
            "!new:cosyvoice.flow.length_regulator.InterpolateRegulator",
            "!new:cosyvoice.flow.flow_matching.ConditionalCFM",
            "!new:cosyvoice.flow.decoder.ConditionalDecoder",
        ),
    ),
    "hift": _Part(
        ("!new:cosyvoice.hifigan.generator.HiFTGenerator",),
        ("!new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor",),
    ),
    "get_tokenizer": _Part(("!name:whisper.tokenizer.get_tokenizer", _TOKENIZER_TAG)),
    "feat_extractor": _Part(("!name:matcha.utils.audio.mel_spectrogram",)),
}
_VALUES = ("sample_rate", "spk_embed_dim", "allowed_special")
_REQUIRED = ("sample_rate", "spk_embed_dim", "llm", "flow", "hift", "get_tokenizer")

_COSYVOICE3_NAMES = {
    "CosyVoice3LM",
    "CausalMaskedDiffWithDiT",
    "DiT",
    "CausalHiFTGenerator",
    "CausalConvRNNF0Predictor",
}
_COSYVOICE2_NAMES = {
    "Qwen2LM",
    "Qwen2Encoder",
    "CausalMaskedDiffWithXvec",
    "CausalConditionalCFM",
    "CausalConditionalDecoder",
    "UpsampleConformerEncoder",
    "get_qwen_tokenizer",
}
_LATER_FILES = {"cosyvoice2.yaml": "CosyVoice2", "cosyvoice3.yaml": "CosyVoice3"}
_25HZ_VOCABULARY = "multilingual_zh_ja_yue_char_del.tiktoken"
_25HZ_TEXT_TOKENS = "60515"


class _PartLoader(SafeLoader):
    """hyperpyyaml adds its own tags to the loader class it is given; python tags stay unknown to this one."""

    @classmethod
    def add_implicit_resolver(cls, tag: str, regexp: re.Pattern, first: list[str] | None) -> None:
        """Nothing: hyperpyyaml would have every text in parentheses evaluated by an unrestricted loader, as a tuple."""


class _NoInitialValues(TorchFunctionMode):
    """Leaves out initial values: "meta" has no place for them, and torch imports 900 modules to find that out."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """As torch defines it."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        if func is torch.norm_except_dim:  # magnitude of a weight norm, over all axes but the first
            return args[0].new_empty(args[0].shape[0], *(1 for _ in args[0].shape[1:]))
        return func(*args, **kwargs)


@dataclass(frozen=True)
class ModelConfig:
    """What `cosyvoice.yaml` says, checked: the sizes as numbers, and `build` for the networks."""

    directory: Path
    sample_rate: int
    spk_embed_dim: int
    token_rate_hz: int
    text_token_size: int
    speech_token_size: int
    allowed_special: str
    sections: dict[str, str] = field(repr=False)  # part -> its checked text, with the values that it refers to

    def build(self, part: str, device: str | torch.device = "meta") -> nn.Module:
        """The network of `part` ("llm", "flow" or "hift") as the yaml describes it; on "meta" it holds no values yet.

        Raises InputError naming the file and the part when an argument does not fit the class.
        """
        for tag in (*PARTS[part].top, *PARTS[part].inside):  # imported first: nothing of a module may land on "meta"
            importlib.import_module(tag.partition(":")[2].rpartition(".")[0])
        without_values = _NoInitialValues() if torch.device(device).type == "meta" else nullcontext()
        with torch.device(device), without_values:
            return self._made(part, lambda: checked(self._load(part)))

    def get_tokenizer(self) -> Any:
        """The text tokenizer: encode(text, allowed_special=...) -> ids, decode(ids) -> text. Raises InputError."""
        return self._made("get_tokenizer", lambda: self._load("get_tokenizer")())

    @functools.cached_property
    def feat_extractor(self) -> Callable[[Tensor], Tensor]:
        """Waveform (B, N) at `sample_rate` -> log-mel (B, F, T). Raises InputError when the yaml does not name one."""
        if "feat_extractor" not in self.sections:
            raise InputError(
                f"{self.directory / YAML_NAME}: lacks 'feat_extractor', which says how mel is made; download it again"
            )
        extractor = self._made("feat_extractor", lambda: self._load("feat_extractor"))
        if extractor.keywords.get("center"):
            raise InputError(f"{self.directory / YAML_NAME}: feat_extractor: center: True is not supported; set False")
        return extractor

    def _load(self, part: str) -> Any:
        return load_hyperpyyaml(self.sections[part], loader=_PartLoader)[part]

    def _made(self, part: str, make: Callable[[], Any]) -> Any:
        """What `make` gives; whatever the values of a yaml lead to in a constructor becomes an InputError."""
        try:
            return make()
        except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError) as error:
            kind = f"{type(error).__name__}: {_one_line(error)}"
            raise InputError(f"{self.directory / YAML_NAME}: cannot build '{part}': {kind}") from error
        except (ValueError, YAMLError) as error:
            raise InputError(f"{self.directory / YAML_NAME}: cannot build '{part}': {_one_line(error)}") from error


def checked(network: nn.Module) -> nn.Module:
    """The network; InputError for a vocoder whose sound would not last as long as the mel frames it is given."""
    made = getattr(network, "samples_per_frame", MEL_HOP)
    if made != MEL_HOP:
        raise InputError(
            f"upsample_rates and istft_params.hop_len make {made} samples of each mel frame, which has {MEL_HOP}; "
            "take the cosyvoice.yaml that came with hift.pt"
        )
    return network


def require_files(directory: Path, names: Sequence[str]) -> None:
    """Raises FileNotFoundError naming every one of the files that the model directory lacks, and how to get them.

    Raises OSError for one that is a pipe, a device or a folder."""
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such model directory; {DOWNLOAD}")
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        raise FileNotFoundError(f"{directory}: {', '.join(missing)} missing; {DOWNLOAD}")
    for name in names:
        require_file(directory / name)


def read_model_config(model_dir: str | Path) -> ModelConfig:
    """The checked configuration of a model directory; nothing is built.

    Raises FileNotFoundError when the directory or its yaml is missing, and InputError, in one line with the file, the
    key and the reason, for a yaml that is unsafe, broken, incomplete or of another model generation.
    """
    directory = Path(model_dir)
    path = directory / YAML_NAME
    nodes, root = _parse(_read_text(path), path)
    _check_tags(root, path)
    _refuse_other_generations(nodes, root, path)
    missing = [key for key in _REQUIRED if key not in nodes]
    if missing:
        raise InputError(
            f"{path}: lacks {_listed(missing)}; take the {YAML_NAME} that came with the model, or download it again"
        )
    parts = {name: _checked_part(name, nodes, path) for name in PARTS if name in nodes}
    values = _plain_values(nodes, parts, path)
    _check_bounds("", values, path)
    return ModelConfig(
        directory=directory,
        **_checked_sizes(values, path),
        allowed_special=_allowed_special(values, path),
        sections={name: _text({name: node}, nodes) for name, node in parts.items()},
    )


# ---------------------------------------------------------------------------------------------- reading and scanning
def _read_text(path: Path) -> str:
    for name, model in _LATER_FILES.items():
        if (path.parent / name).exists() and not path.exists():
            raise InputError(_unsupported(path.parent / name, model))
    require_files(path.parent, [YAML_NAME])
    if path.stat().st_size > MAX_YAML_BYTES:
        raise InputError(f"{path}: larger than {MAX_YAML_BYTES // 1024} kB, which no configuration of this model is")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8; download it again") from error


def _parse(text: str, path: Path) -> tuple[dict[str, Node], MappingNode]:
    """Top-level nodes by key, and the whole document; only parsed, nothing is constructed."""
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: e.g. a character that yaml forbids
        raise InputError(f"{path}: not readable as yaml: {_one_line(error)}; mend it or download it again") from error
    if not isinstance(root, MappingNode):
        raise InputError(f"{path}: holds no keys; download it again")
    nodes: dict[str, Node] = {}
    for key, value in root.value:
        if _name(key) in nodes:
            raise InputError(f"{path}: key '{_name(key)}' stands there twice; keep one")
        nodes[_name(key)] = value
    return nodes, root


def _name(key: Node) -> str:
    return key.value if isinstance(key, ScalarNode) else "?"


def _walk(where: str, start: Node, refuse_aliases: Path | None = None) -> Iterator[tuple[str, Node]]:
    """Every node below `start` once, mapping keys included, each with the path of keys that leads to it.

    With refuse_aliases (the file, for the message) a yaml alias is an InputError.
    """
    pending, seen = [(where, start)], set()
    while pending:
        where, node = pending.pop()
        if id(node) in seen and refuse_aliases:
            raise InputError(f"{refuse_aliases}: key '{where}' is a yaml alias (*name); write the value out")
        if id(node) not in seen:
            seen.add(id(node))
            yield where, node
            pending += reversed(list(_children(where, node)))  # the order of the file


def _children(where: str, node: Node) -> Iterator[tuple[str, Node]]:
    if isinstance(node, SequenceNode):
        yield from ((f"{where}[{i}]", item) for i, item in enumerate(node.value))
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            below = f"{where}.{_name(key)}" if where else _name(key)
            yield from ((below, key), (below, value))


def _check_tags(root: MappingNode, path: Path) -> None:
    """Refuse every tag, anywhere in the file, that could run or read something outside our own packages.

    A `!name` only names a function: in a section that is not built it is cut with it, unread."""
    sections = {True: set(), False: set()}  # nodes of those that are built, and of the others
    for key, section in root.value:
        sections[_name(key) in (*PARTS, *_VALUES)] |= {id(node) for _, node in _walk("", section)}
    unread = sections[False] - sections[True]
    for where, node in _walk("", root):
        if where.count(".") + where.count("[") > MOST_NESTED:
            raise InputError(f"{path}: key '{where[:40]}...' is nested too deep; download it again")
        named = node.tag.startswith("!name:") and id(node) in unread
        if not named and not _is_harmless(node.tag, where, node):
            raise InputError(
                f"{path}: key '{where}' has the tag {node.tag}, which is not allowed in a model's yaml "
                "(it could run code); download the model from its publisher"
            )


def _is_harmless(tag: str, where: str, node: Node) -> bool:
    if tag in _PLAIN_TAGS or tag in _CUT_TAGS:
        return True
    if tag in _SEED_TAGS:
        return _SEED_KEY.fullmatch(where) is not None
    if tag == _DICT_CONFIG_TAG:
        return _dict_config_content(node) is not None
    kind, _, name = tag.partition(":")
    return kind in ("!new", "!name") and name.startswith(_SAFE_PREFIXES)


def _dict_config_content(node: Node) -> MappingNode | None:
    """The mapping under the single key `content`, or None for anything else."""
    if isinstance(node, MappingNode) and [_name(key) for key, _ in node.value] == ["content"]:
        content = node.value[0][1]
        if isinstance(content, MappingNode) and content.tag == _CORE + "map":
            return content
    return None


# ---------------------------------------------------------------------------------------------- other generations
def _refuse_other_generations(nodes: dict[str, Node], root: MappingNode, path: Path) -> None:
    names = {node.tag.rpartition(".")[2] for _, node in _walk("", root) if node.tag.startswith(("!new:", "!name:"))}
    if names & _COSYVOICE3_NAMES:
        raise InputError(_unsupported(path, "CosyVoice3"))
    if names & _COSYVOICE2_NAMES:
        raise InputError(_unsupported(path, "CosyVoice2"))
    if _is_25hz(nodes, root, path):
        raise InputError(_unsupported(path, "CosyVoice-300M-25Hz"))


def _is_25hz(nodes: dict[str, Node], root: MappingNode, path: Path) -> bool:
    scalars = [(where, node.value) for where, node in _walk("", root) if isinstance(node, ScalarNode)]
    tokenizer = nodes.get("get_tokenizer")
    own_vocabulary = tokenizer is not None and "vocabulary" in [_name(key) for key in _keys(tokenizer)]
    return (
        any(where.endswith("text_token_size") and value == _25HZ_TEXT_TOKENS for where, value in scalars)
        or any(value.endswith(_25HZ_VOCABULARY) for _, value in scalars)
        or (path.parent / _25HZ_VOCABULARY).exists()
        or (tokenizer is not None and tokenizer.tag == _TOKENIZER_TAG and not own_vocabulary)
    )


def _keys(node: Node) -> list[Node]:
    return [key for key, _ in node.value] if isinstance(node, MappingNode) else []


def _unsupported(path: Path, model: str) -> str:
    return f"{path}: recognised {model}, which is not supported yet; use CosyVoice-300M, -300M-SFT or -300M-Instruct"


# ---------------------------------------------------------------------------------------------- the parts that we build
def _checked_part(part: str, nodes: dict[str, Node], path: Path) -> Node:
    """The part's node, checked and ready for hyperpyyaml. `nodes` gives the values that it may refer to."""
    node = nodes[part]
    if not isinstance(node, MappingNode):
        raise InputError(f"{path}: key '{part}' has no arguments; take the {YAML_NAME} that came with the model")
    for where, inner in _walk(part, node, refuse_aliases=path):
        known = PARTS[part].top if inner is node else PARTS[part].inside
        plain = () if inner is node else (*_PLAIN_TAGS, _DICT_CONFIG_TAG, "!ref")
        if inner.tag not in (*known, *plain):
            names = _listed(known) or "only plain values"
            raise InputError(f"{path}: key '{where}' has the tag {inner.tag}; this program knows {names} there")
        if inner.tag == "!ref":
            _check_reference(where, inner, nodes, path)
        if any(key.tag != _CORE + "str" for key in _keys(inner)):
            raise InputError(f"{path}: key '{where}': the names of arguments must be plain words")
    node = _with_plain_constants(node)
    return _with_sampling(node) if part == "llm" else node


def _check_reference(where: str, node: Node, nodes: dict[str, Node], path: Path) -> None:
    """Only `!ref <key>` to a plain top-level value: hyperpyyaml would also calculate and call getattr."""
    match = _REFERENCE.fullmatch(node.value) if isinstance(node, ScalarNode) else None
    target = nodes.get(match[1]) if match else None
    if not isinstance(target, ScalarNode) or target.tag not in _PLAIN_TAGS or "<" in target.value:
        shown = node.value if isinstance(node, ScalarNode) else "..."
        raise InputError(f"{path}: key '{where}': '!ref {shown}' must name one plain top-level value, as in !ref <key>")


def _with_plain_constants(node: Node) -> Node:
    """A copy in which each DictConfig is replaced by the mapping that it holds."""
    node = copy(_dict_config_content(node) if node.tag == _DICT_CONFIG_TAG else node)
    if isinstance(node, MappingNode):
        node.value = [(key, _with_plain_constants(value)) for key, value in node.value]
    elif isinstance(node, SequenceNode):
        node.value = [_with_plain_constants(item) for item in node.value]
    return node


def _with_sampling(llm: Node) -> Node:
    """Yamls before 2024-07-30 name no sampling: they get repetition-aware sampling with its default values."""
    if isinstance(llm, MappingNode) and "sampling" not in [_name(key) for key in _keys(llm)]:
        llm.value = [*llm.value, (ScalarNode(_CORE + "str", "sampling"), ScalarNode(_SAMPLING_TAG, ""))]
    return llm


def _text(wanted: dict[str, Node], nodes: dict[str, Node]) -> str:
    """The yaml text of the wanted keys, after the top-level values that they refer to."""
    references = {node.value for key, top in wanted.items() for _, node in _walk(key, top) if node.tag == "!ref"}
    shared = {_REFERENCE.fullmatch(reference)[1] for reference in references}
    entries = {key: nodes[key] for key in sorted(shared)} | wanted
    document = MappingNode(_CORE + "map", [(ScalarNode(_CORE + "str", key), node) for key, node in entries.items()])
    stream = StringIO()
    YAML(typ="safe", pure=True).serialize(document, stream)
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------- values
def _plain_values(nodes: dict[str, Node], parts: dict[str, Node], path: Path) -> dict[str, Any]:
    """Plain data, nothing built: top-level values, and the arguments of the parts as nested dicts."""
    wanted = {key: nodes[key] for key in _VALUES if key in nodes}
    for key, node in wanted.items():
        for where, inner in _walk(key, node, refuse_aliases=path):
            if inner.tag not in _PLAIN_TAGS:
                raise InputError(f"{path}: key '{where}' must be a plain value, not {inner.tag}")
    wanted |= {name: _without_tags(node) for name, node in parts.items()}
    try:
        return load_hyperpyyaml(_text(wanted, nodes), loader=_PartLoader)
    except (ValueError, RecursionError, YAMLError) as error:
        raise InputError(f"{path}: not readable as yaml: {_one_line(error)}; mend it or download it again") from error


def _without_tags(node: Node) -> Node:
    """A copy of a part in which the arguments stand as plain mappings."""
    node = copy(node)
    if isinstance(node, MappingNode):
        node.tag = _CORE + "map"
        node.value = [(key, _without_tags(value)) for key, value in node.value]
    elif isinstance(node, SequenceNode):
        node.tag = _CORE + "seq"
        node.value = [_without_tags(item) for item in node.value]
    elif node.tag.startswith(("!name:", "!new:")):  # without arguments
        node.tag, node.value = _CORE + "null", "null"
    return node


def _check_bounds(where: str, value: Any, path: Path) -> None:
    """InputError for a number or list that no network has: to build one of 100 000 layers would take for ever."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_bounds(f"{where}.{key}" if where else str(key), inner, path)
    elif isinstance(value, list):
        if len(value) > MOST_LISTED:
            raise InputError(
                f"{path}: '{where}' has {len(value)} values, more than the {MOST_LISTED} of any such model"
            )
        for i, inner in enumerate(value):
            _check_bounds(f"{where}[{i}]", inner, path)
    elif isinstance(value, str) and len(value) > MOST_LETTERS:
        raise InputError(f"{path}: '{where}' is a text of more than {MOST_LETTERS} letters")
    elif isinstance(value, int | float):
        most = MOST_LAYERS if where.endswith("blocks") else MOST_WIDE
        if not abs(value) <= most:  # NaN too
            raise InputError(f"{path}: '{where}' must be a number of at most {most:,}, as that of any such model")


def _size(values: dict[str, Any], key: str, path: Path) -> int:
    """The whole number above 0 at a dotted key."""
    value: Any = values
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        raise InputError(f"{path}: lacks '{key}'; take the {YAML_NAME} that came with the model")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{path}: '{key}' must be a whole number above 0, not {value!r}")
    return value


def _checked_sizes(values: dict[str, Any], path: Path) -> dict[str, int]:
    """The numbers of ModelConfig. The token and mel arithmetic of this program is made for one rate of audio only."""
    values["flow"].setdefault("input_frame_rate", DEFAULT_TOKEN_RATE_HZ)
    expected = {"sample_rate": SAMPLE_RATE, "flow.vocab_size": _size(values, "llm.speech_token_size", path)}
    if "feat_extractor" in values:
        mel_bins = _size(values, "flow.output_size", path)
        expected |= {"feat_extractor.sampling_rate": SAMPLE_RATE, "feat_extractor.hop_size": MEL_HOP}
        expected |= {"feat_extractor.num_mels": mel_bins}
    for key, wanted in expected.items():
        if _size(values, key, path) != wanted:
            raise InputError(f"{path}: '{key}' is {_size(values, key, path)}, but this kind of model needs {wanted}")
    return {
        "sample_rate": SAMPLE_RATE,
        "spk_embed_dim": _size(values, "spk_embed_dim", path),
        "token_rate_hz": _size(values, "flow.input_frame_rate", path),
        "text_token_size": _size(values, "llm.text_token_size", path),
        "speech_token_size": _size(values, "llm.speech_token_size", path),
    }


def _allowed_special(values: dict[str, Any], path: Path) -> str:
    value = values.get("allowed_special", "all")
    if value != "all":
        raise InputError(f"{path}: 'allowed_special' must be 'all', not {value!r}")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(" ".join(str(arg) for arg in error.args).split()) or type(error).__name__


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
