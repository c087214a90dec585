"""What the scripts share: their command line, folders and devices, and what they say where something is wrong."""

import argparse
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from common.signals import interruptible
from common.terminal import OutputLost, printing, shown
from config import JointConfig, MemoryShortage, UserError, help_of, known_settings, literal, load
from cosyvoice.utils.common import InputError
from cosyvoice.utils.files import require_file
from cosyvoice.utils.memory import causes, is_out_of_memory, names_a_gpu
from text.normalizer import NORMALIZERS

PROJECT = Path(__file__).resolve().parent
DEFAULT_MODEL = "pretrained_models/CosyVoice-300M"
DEFAULT_INPUT_DIR, DEFAULT_DATA_DIR, DEFAULT_OUTPUT_DIR = "raw_audio", "data", "output"
# Help of flags that several scripts have.
MODEL_HELP = f"base model: a CosyVoice-300M folder [{DEFAULT_MODEL}] | 基座模型的文件夹 [{DEFAULT_MODEL}]"
ASR_HELP = "folder of another faster-whisper model [Whisper base] | 换用别的 faster-whisper 模型文件夹 [Whisper base]"
MOST_YAML_BYTES, MOST_YAML_DEPTH = 64 * 1024, 20  # of finetune.yaml: all settings take 5 kB, and 3 levels
DEBUG_ENV = "SHOW_TRACEBACK"
LESS_MEMORY = {  # what to say where memory ran out, before and after a script's own remedy
    "gpu": ("the GPU is out of memory; close other programs that use it", "or use --device cpu"),
    "cpu": ("there is not enough memory; close other programs", "or use a computer with more"),
}
AS_PREPARED = "as the voice was prepared | 与准备数据时相同"


def run_main(work: Callable[[], int | None], saves_memory: str = "") -> int:
    """Exit code of a script: 0, 2 after one clear line for what the user can mend, 141 where nobody reads the output,
    130 after Ctrl-C.

    saves_memory: what to do in this script where memory ran out. Bugs keep their traceback; with DEBUG_ENV set, what
    is told in one line shows its own, too.
    """
    if sys.stdout is None:
        return tell("standard output is closed; send it to a file")
    with printing():
        try:
            with interruptible():
                return _flushed(work)
        except OutputLost as error:
            if not error.nobody_reads:
                return tell(f"standard output: {error}")
            print("stopped: nobody reads the output any more", file=sys.stderr, flush=True)
            return 141
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr, flush=True)
            return 130
        except Exception as error:
            if any(isinstance(one, KeyboardInterrupt) for one in causes(error)):  # a library gave it another name
                print("stopped", file=sys.stderr, flush=True)
                return 130
            mistake = mistake_words(error, saves_memory)
            if not mistake or os.environ.get(DEBUG_ENV):
                traceback.print_exc()  # here, where control characters are escaped
            return tell(mistake) if mistake else 1


def _flushed(work: Callable[[], int | None]) -> int:
    """What `work` returns; what it printed has been written: it fails here, and not unseen at the exit."""
    try:
        code = work() or 0
    except SystemExit:  # of --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def tell(mistake: object) -> int:
    """Print what the user can mend, in one line; the exit code for it."""
    print(f"error: {shown(mistake)}", file=sys.stderr, flush=True)
    return 2


def mistake_words(error: Exception, saves_memory: str = "") -> str:
    """What to tell the user of an error; "" where it is a bug of ours. saves_memory: as for `run_main`."""
    errors = [*causes(error)]
    if is_out_of_memory(error) and not any(isinstance(one, MemoryShortage) for one in errors):
        on_gpu = any(isinstance(one, torch.OutOfMemoryError) or names_a_gpu(one) for one in errors)
        what, way_out = LESS_MEMORY["gpu" if on_gpu else "cpu"]
        return ", ".join(filter(None, [what, saves_memory, way_out]))
    if isinstance(error, UserError | InputError):
        return str(error)
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of Path.resolve, before Python 3.13
        return f"{error}: a symbolic link leads to itself"
    return os_error_words(error) if isinstance(error, OSError) else ""


def os_error_words(error: OSError) -> str:
    """The file that the system refused, why, and what to do; without a file it is a library's or ours."""
    if not error.strerror:  # raised by the model's packages, which say all
        return str(error)
    remedy = "; check its permissions and those of the folders above it" if isinstance(error, PermissionError) else ""
    if isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)}: {error.strerror}{remedy}"
    return f"the system reports: {error.strerror}; {DEBUG_ENV}=1 in the environment shows where"


@contextmanager
def user_mistakes() -> Iterator[None]:
    """Around what fails in several processes together, or is told with an advice: `run_main` tells the rest."""
    try:
        yield
    except (OSError, InputError) as error:
        raise UserError(mistake_words(error)) from error


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """--model-dir and --output-dir, alike in every script after preparation."""
    parser.add_argument("--model-dir", type=Path, help=MODEL_HELP)
    words = (
        f"folder of the run: checkpoints, voice, sounds [{DEFAULT_OUTPUT_DIR}] | 训练结果的文件夹：检查点、声音、音频"
    )
    parser.add_argument("--output-dir", type=Path, help=f"{words} [{DEFAULT_OUTPUT_DIR}]")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device, alike in every script that computes."""
    words = (
        "where to compute: auto, cpu, cuda, cuda:0 or mps [auto] | 用什么计算：auto、cpu、cuda、cuda:0 或 mps [auto]"
    )
    parser.add_argument("--device", default="auto", help=words)


def add_normalizer_argument(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """--text-normalizer, alike in every script that reads texts. otherwise: what is taken without it, English | 中文"""
    english, chinese = otherwise.split(" | ")
    parser.add_argument(
        "--text-normalizer",
        choices=tuple(NORMALIZERS),
        help=f"who writes numbers out as words: ours, or stock as CosyVoice does [{english}] | "
        f"数字等怎样转成文字：ours 用本项目的规则，stock 与原版 CosyVoice 相同 [{chinese}]",
    )


def add_seed_argument(parser: argparse.ArgumentParser) -> None:
    """--seed, alike in every script that speaks."""
    parser.add_argument("--seed", type=int, default=0, help="same seed, same sound [0] | 种子；种子相同，声音相同 [0]")


def add_setting_argument(parser: argparse.ArgumentParser, flag: str, key: str) -> None:
    """A flag that stands for `--set key=...`, with the setting's own help and default."""
    item = known_settings()[key][1]
    english, chinese = help_of(item)
    default, metavar = literal(item.default).strip('"'), "|".join(item.metadata["choices"]) or "N"
    words, kind = f"{english} [{default}] | {chinese} [{default}]", f"{key}={{}}".format
    add = partial(parser.add_argument, dest="overrides", action="append", default=[])
    add(flag, type=kind, metavar=metavar, help=words)


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """--set, alike in every script with settings."""
    words = "any setting, such as llm_lora.lora_r=16; repeatable | 修改任意设置，例如 llm_lora.lora_r=16，可多次使用"
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help=words)


def add_merged_arguments(parser: argparse.ArgumentParser) -> None:
    """--llm and --flow, alike in every script that speaks."""
    llm_help = "merged LLM to speak with [newest in OUTPUT_DIR] | 用哪个合并后的 LLM [OUTPUT_DIR 中最新的]"
    parser.add_argument("--llm", type=Path, help=llm_help)
    flow_help = "merged flow to speak with [newest in OUTPUT_DIR] | 用哪个合并后的 Flow [OUTPUT_DIR 中最新的]"
    parser.add_argument("--flow", type=Path, help=flow_help)


def check_seed(seed: int) -> None:
    """UserError for a --seed that speaking cannot start from."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: give a whole number from 0 to {2**32 - 1}")


def check_lora_scale(scale: float) -> None:
    """UserError for a --lora-scale that makes no sense, nan too."""
    if not 0 <= scale <= 2:
        raise UserError(f"--lora-scale {scale:g}: give a number from 0 (base model) to 2")


SAMPLE_TEXT = "Hello, this is my new voice."  # in commands to be copied


def command_line(script: str, *, program: Sequence[str] = (), **options: object) -> str:
    """A command to type: options in order, those that are None or their own default left out, quoted for the shell.

    output_dir=Path("my voice") becomes --output-dir 'my voice'. program: what runs the script, this Python by default.
    """
    words = [*(program or [interpreter()]), script]
    for name, value in options.items():
        if value is not None and Path(str(value)) != default_folder(script, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if os.name != "nt":
        return " ".join(map(shlex.quote, words))
    call = "& " if " " in words[0] else ""  # to PowerShell a quoted path is text
    return call + " ".join(f'"{word}"' if " " in word else word for word in words)


def interpreter() -> str:
    """What to type for the Python that runs this: `python` where that is the one, else its path, short if it can be."""
    running, found = Path(sys.executable), shutil.which("python")
    # the same file in another folder is another environment
    if found and Path(found).absolute().parent == running.parent and os.path.samefile(found, running):
        return "python"
    shown = running.with_suffix("") if os.name == "nt" else running
    return str(shown.relative_to(Path.cwd()) if shown.is_relative_to(Path.cwd()) else shown)


def default_folder(script: str, option: str) -> Path | None:
    """Where a script reads or writes without this option; None for an option that has no such folder."""
    defaults = {"data_dir": DEFAULT_DATA_DIR, "output_dir": DEFAULT_OUTPUT_DIR, "model_dir": DEFAULT_MODEL}
    if script == "prepare_joint_data.py":
        defaults |= {"input_dir": DEFAULT_INPUT_DIR, "output_dir": DEFAULT_DATA_DIR}
    return Path(defaults[option]) if option in defaults else None


DOWNLOAD = "download the model as README.md shows, or give its folder with --model-dir"


def find_folder(given: Path | None, default: str, remedy: str = DOWNLOAD) -> Path:
    """The folder given, else `default` in the working folder, in the project folder, or one folder above it.

    UserError where there is none; it names the places that were looked at and ends with the remedy.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError(
                f"{given} {'is not a folder' if given.exists() else 'does not exist'}; give the path of a folder"
            )
        return given
    places = [Path(default), PROJECT / default, PROJECT.parent / default]
    for place in places:
        if place.is_dir():
            return place
    raise UserError(f"{default} was not found (looked for {', '.join(map(str, places))}); {remedy}")


def select_device(name: str) -> torch.device:
    """Device for "auto" (CUDA where there is one, else CPU) or a device name; UserError where it cannot be used.

    An NVIDIA GPU that "auto" cannot use is warned of."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            warn_of_unused_gpu()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:0 or mps") from error
    usable = {
        "cpu": lambda: True,
        "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }
    if device.type not in usable or not usable[device.type]():
        raise UserError(f"--device {name} is not available on this machine; use --device auto or --device cpu")
    if device.type == "cuda" and device.index is None:  # some of torch's functions want to know which
        return torch.device("cuda", torch.cuda.current_device())
    return device


@cache
def warn_of_unused_gpu() -> None:
    """Once, where an NVIDIA driver is installed and PyTorch sees no GPU: a day on the CPU must not come unannounced."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or shutil.which("nvidia-smi") is None:
        return
    built_for = torch.version.cuda
    cause = (
        f"a driver that is too old for CUDA {built_for}" if built_for else "a PyTorch that is built for the CPU only"
    )
    print(
        f"WARNING: this computer has an NVIDIA driver, but PyTorch {torch.__version__} sees no GPU; most likely it has "
        f"{cause}. Everything runs on the CPU, many times as slowly. The command nvidia-smi shows driver and GPU; "
        "docs/install.md says what they must be",
        flush=True,
    )


def read_finetune_yaml(model_dir: Path) -> dict[str, Any]:
    """The model directory's own training defaults as plain data; {} where it has none."""
    path = model_dir / "finetune.yaml"
    if not path.exists():
        return {}
    from ruamel.yaml import YAML  # YAML 1.2: 1e-4 is a number
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    try:
        require_file(path)
        if path.stat().st_size > MOST_YAML_BYTES:
            raise ValueError(f"it has more than {MOST_YAML_BYTES // 1024} kB")
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in YAML(typ="safe", pure=True).parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if isinstance(event, AliasEvent):
                raise ValueError("it has an alias (*name), in place of which the value must be written out")
            if depth > MOST_YAML_DEPTH:
                raise ValueError("its values are nested too deeply")
        data = YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (YAMLError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(f"{path} is not plain YAML: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if not isinstance(data, (dict, type(None))):
        raise UserError(f"{path} must hold settings as `key: value`")
    return data or {}


def read_settings(overrides: Iterable[str], model_dir: Path) -> tuple[JointConfig, dict[str, str]]:
    """What `config.load` makes of the settings in these "key=value" and in the model directory's finetune.yaml."""
    return load(overrides, read_finetune_yaml(model_dir), model_source=str(model_dir / "finetune.yaml"))


def duration_words(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
