"""What is spoiled, and what is then called. To add a reader, add a function under `@reader`."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch

from clips.find import find_clips
from config import known_settings
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.utils.yaml_loader import read_model_config
from dataset import read_rows
from text.normalizer import normalizer
from training.start import read_clips
from utils import PROJECT, run_main, user_mistakes
from voice.loading import voices_in

from . import formats, mutations
from .attempt import Reader, Try
from .place import ARGUMENTS, CLIPS, MAINS

READERS: dict[str, Reader] = {}
CKPT, LAST = "output/joint_joint_best.ckpt", "output/joint_joint_last.ckpt"


def reader(weight: int) -> Callable[[Callable[[Random], Try | None]], Callable[[Random], Try | None]]:
    """Enter a function as a reader of its name; weight: how often it is tried beside others."""

    def enter(spoil: Callable[[Random], Try | None]) -> Callable[[Random], Try | None]:
        READERS[spoil.__name__] = Reader(spoil.__name__, weight, spoil)
        return spoil

    return enter


# ---- what is called, and when its result is right --------------------------------------------------------------------


def script(name: str, *more: str, what: str, **planned: object) -> Try:
    """A try of a script with its usual arguments and `more`; results are checked as that script's are."""
    argv = [*ARGUMENTS[name], *more]
    planned = {"check": CHECKS[name], "result": RESULTS[name], "writes": WRITES[name]} | planned
    return Try(what, lambda: MAINS[name](list(argv)), shlex.join([name, *argv]), **planned)


def function(work: Callable[[], object], *, what: str, **planned: object) -> Try:
    """A try of a function that reads: what its caller in a script turns into an error line is turned into one."""
    kept: list[object] = []

    def call() -> int:
        def inner() -> None:
            with user_mistakes():
                kept.append(work())

        return run_main(inner)

    return Try(what, call, "", **{"result": lambda: digest(kept[-1])} | planned)


def digest(content: object) -> str:
    """sha256 of plain data, tensors and networks."""
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if isinstance(content, torch.Tensor):
        content = (str(content.dtype), tuple(content.shape), content.detach().contiguous().flatten().tolist())
    if isinstance(content, dict):
        content = [(str(key), digest(value)) for key, value in content.items()]
    if isinstance(content, (list, tuple)) and content and not isinstance(content[0], float):
        content = [digest(value) if isinstance(value, (torch.Tensor, dict)) else value for value in content]
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()


def weights_digest(*files: str) -> str:
    return digest([torch.load(file, weights_only=True) for file in files])


def not_finite(state: dict) -> str:
    return next((name for name, value in state.items() if not torch.isfinite(value).all()), "")


def check_merged() -> str:
    """Merged files have the base's keys and shapes, and finite numbers."""
    for part in ("llm", "flow"):
        base = torch.load(f"model/{part}.pt", weights_only=True)
        for path in Path("output").glob(f"{part}_merged_*.pt"):
            state = torch.load(path, weights_only=True)
            if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in base.items()}:
                return "merged files of other shapes"
            if not_finite(state):
                return "merged files hold NaN"
    return ""


def check_trained() -> str:
    """The run goes on from finite adapters."""
    checkpoint = torch.load(LAST, weights_only=True)
    return "adapters hold NaN" * any(map(not_finite, checkpoint["adapters"].values())) or check_merged()


def check_spoken() -> str:
    wave = soundfile.read("output/result.wav")[0]
    return "" if len(wave) > 1000 and np.isfinite(wave).all() and np.abs(wave).max() > 0 else "no sound"


def check_prepared(expected: Sequence[str] = tuple(f"{number:03d}" for number in range(CLIPS))) -> str:
    """The data reads back, and has the clips that were good."""
    clips = {clip.utt: clip for clip in read_rows(Path("data"))}
    lost = [name for name in expected if name not in clips]
    return "a good clip is lost" * bool(lost) or "empty text" * any(not clip.text for clip in clips.values())


def file_digest(path: str) -> Callable[[], str]:
    return lambda: hashlib.sha256(Path(path).read_bytes()).hexdigest()


def data_digest() -> str:
    return digest([pq.read_table(path).to_pydict() for path in sorted(Path("data").glob("*.parquet"))])


CHECKS = {
    "prepare": check_prepared,
    "train": check_trained,
    "merge": check_merged,
    "inference": check_spoken,
    "plot": lambda: "" if Path("output/joint_joint.png").stat().st_size > 1000 else "no picture",
    "evaluate": lambda: "" if Path("output/evaluation/evaluation.json").is_file() else "no figures",
}
MERGED = ("output/llm_merged_joint.pt", "output/flow_merged_joint.pt", "output/spk2info.pt")
RESULTS = {
    "prepare": data_digest,
    "train": lambda: weights_digest(*MERGED),
    "merge": lambda: weights_digest(*MERGED),
    "inference": file_digest("output/result.wav"),
    "plot": lambda: "",
    "evaluate": lambda: "",
}
WRITES = dict.fromkeys(MAINS, "output") | {"prepare": "data"}


# ---- checkpoints and weights -----------------------------------------------------------------------------------------


def clean_output() -> None:
    """Merged files are to be made, not found."""
    for path in Path("output").glob("*_merged_*"):
        path.unlink()


@reader(weight=8)
def checkpoint_merge(rng: Random) -> Try:
    what, damage = mutations.spoil_torch(rng, Path(CKPT))
    options = {"what": what, "names": [Path(CKPT).name], "damage": damage}
    if rng.random() < 0.2:
        return script("merge", "--export", "output/exported", check=lambda: "", result=lambda: "", **options)
    if rng.random() < 0.5:
        clean_output()
    only = rng.choice(((), (), (), ("--llm-only",), ("--no-bake-speaker",))) if not damage else ()
    return script("merge", *only, **options)


@reader(weight=2)
def checkpoint_speak(rng: Random) -> Try:
    what, damage = mutations.spoil_torch(rng, Path(CKPT))
    return script("inference", "--ckpt", CKPT, what=what, names=[Path(CKPT).name], damage=damage)


@reader(weight=2)
def checkpoint_resume(rng: Random) -> Try:
    path = Path(rng.choice((LAST, LAST, LAST, CKPT)))
    what, damage = mutations.spoil_torch(rng, path)
    names = [path.name] if path == Path(LAST) else [path.name, Path(LAST).name]
    argv = "--resume output/joint_joint_last.ckpt --model-dir model --data-dir data --device cpu --epochs 2".split()
    argv += ["--set", "eval_every_epochs=0"]

    def call() -> int:
        return MAINS["train"](list(argv))

    # a damaged best file may be looked for again, with another result
    return Try(what, call, shlex.join(["train", *argv]), names=names, damage=damage and path == Path(LAST),
               check=check_trained, result=RESULTS["train"])  # fmt: skip


@reader(weight=1)
def checkpoint_plot(rng: Random) -> Try:
    path = Path(rng.choice((LAST, CKPT)))
    return script("plot", what=mutations.spoil_torch(rng, path)[0], names=[path.name])


@reader(weight=1)
def checkpoint_evaluate(rng: Random) -> Try:
    what, _ = mutations.spoil_torch(rng, Path(CKPT))
    argv = [word for word in ARGUMENTS["evaluate"] if word != "--base"] + ["--ckpt", CKPT]
    return Try(what, lambda: MAINS["evaluate"](argv), shlex.join(["evaluate", *argv]), names=[Path(CKPT).name])


@reader(weight=8)
def weights_load(rng: Random) -> Try:
    part = rng.choice(("llm", "flow", "hift"))
    what, damage = mutations.spoil_torch(rng, Path(f"model/{part}.pt"))

    def check() -> str:
        return "NaN in a loaded network" * bool(not_finite(load_part(Path("model"), part).state_dict()))

    def work() -> object:
        return load_part(read_model_config(Path("model")), part)

    return function(work, what=what, names=[f"{part}.pt"], damage=damage, check=check)


@reader(weight=1)
def weights_speak(rng: Random) -> Try:
    part = rng.choice(("llm", "flow", "hift"))
    what, damage = mutations.spoil_torch(rng, Path(f"model/{part}.pt"))
    return script("inference", "--base", what=what, names=[f"{part}.pt"], damage=damage)


@reader(weight=1)
def weights_merge(rng: Random) -> Try:
    part = rng.choice(("llm", "flow"))
    what, damage = mutations.spoil_torch(rng, Path(f"model/{part}.pt"))
    return script("merge", what=what, names=[f"{part}.pt"], damage=damage)


@reader(weight=3)
def merged_speak(rng: Random) -> Try:
    path = Path(rng.choice(MERGED))
    what, damage = mutations.spoil_torch(rng, path)
    named = ["--llm", MERGED[0], "--flow", MERGED[1]] if rng.random() < 0.3 else []
    return script("inference", *named, what=what, names=[path.name], damage=damage)


@reader(weight=1)
def manifest(rng: Random) -> Try | None:
    """Plain files beside the merged ones, whatever they are."""
    found = sorted(path for path in Path("output").glob("*.json"))
    if not found:
        return None
    path = rng.choice(found)
    if rng.random() < 0.5:
        what = mutations.spoil_bytes(rng, path)
    else:
        content, what = mutations.spoil_value(rng, json.loads(path.read_text(encoding="utf-8")))
        path.write_text(as_json(content), encoding="utf-8")
    more = ["--speaker", "finetuned", "--base"] if rng.random() < 0.2 else []
    return script(rng.choice(("inference", "merge")) if not more else "inference", *more, what=f"{path.name}: {what}")


@reader(weight=3)
def spk2info(rng: Random) -> Try:
    path = Path(rng.choice(("model", "output"))) / "spk2info.pt"
    what, damage = mutations.spoil_torch(rng, path)
    if rng.random() < 0.6:
        return function(lambda: {name: voice.embedding for name, voice in voices_in(path.parent).items()}, what=what,
                        names=[path.name], damage=damage)  # fmt: skip
    if rng.random() < 0.5:
        return script("merge", what=what, names=[path.name])
    return script("inference", "--base", what=what, names=[path.name])


# ---- settings --------------------------------------------------------------------------------------------------------


@reader(weight=7)
def cosyvoice_yaml(rng: Random) -> Try:
    path = Path("model/cosyvoice.yaml")
    what = formats.write_spoiled_yaml(rng, path, path.read_text(encoding="utf-8"))
    if rng.random() < 0.1:
        return script(rng.choice(("merge", "inference", "prepare", "train")), what=what)

    def work() -> None:
        config = read_model_config(path.parent)
        for part in ("llm", "flow", "hift"):
            load_part(config, part)
        CosyVoiceFrontEnd(config, normalizer=normalizer("ours"))

    return function(work, what=what, result=lambda: "", names=["model"])


@reader(weight=4)
def finetune_yaml(rng: Random) -> Try:
    known = known_settings()
    keys = [key for key in rng.sample(list(known), 3) if "." not in key]
    text = "".join(f"{key}: {json.dumps(known[key][1].default, default=list)}\n" for key in keys)
    text = (PROJECT / "pretrained_models/CosyVoice-mini/finetune.yaml").read_text(encoding="utf-8") + text
    what = formats.write_spoiled_yaml(rng, Path("model/finetune.yaml"), text)
    if rng.random() < 0.1:
        return script("inference", what=what)
    return script("train", "--print-config", what=what, names=["finetune.yaml"], check=lambda: "")


LITERALS = (
    "", " ", "None", "nan", "inf", "1e999", "-1", "0", "1.0", "'x'", "x", "[", "[]", "()", "{}", "{'a': 1}",
    "[1,[2]]", "b'x'", "1+1j", "1_0",
    "[" * 3000, "(" * 300 + ")" * 300, "9" * 5000, "-" * 3000 + "1", "{[]: 1}", "{1, [2]}", "\\", "'\\x'", "\0",
    "\x1b[31m", "a\nb", "\udcff", "…",
    "10**10**10", "__import__('os')", "lambda: 0", "f'{1}'", "'a' 'b'", "True", "true", "[None]", "['']", "{**{}}",
    "1 if 1 else 2", "...", "é" * 999,
    "[nan]", "0x7fffffffffffffffffff", "1e-400", "'\\ud800'", "((((((1))))))", "[1] * 9", "-0", "+1", "not 1", "1,2",
    "1,", "#", "a=b", "\u2028",
)  # fmt: skip


@reader(weight=8)
def set_literals(rng: Random) -> Try:
    keys = [
        *known_settings(),
        *known_settings(),
        "x",
        "",
        ".",
        "llm_lora",
        "stop.",
        "a" * 5000,
        "\x1b[31m",
        "seed\n",
        "é",
        "__class__",
    ]
    pairs = [f"{rng.choice(keys)}={rng.choice(LITERALS)}" for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.1:
        pairs.append(rng.choice(("=", "==", "", "seed", "\0", "=1")))
    name, more = rng.choice((("train", "--print-config"), ("train", "--print-config"), ("inference", "--print-text")))
    argv = [word for pair in pairs for word in ("--set", pair)]
    return script(name, more, *argv, what=f"--set {pairs}"[:300], check=lambda: "", writes="nowhere")


# ---- prepared data ---------------------------------------------------------------------------------------------------


def reads_data(rng: Random, what: str, names: Sequence[str], damage: bool) -> Try:
    """The data is read as training reads it, or trained on."""
    if rng.random() < 0.15:
        return script("train", what=what, names=names)

    def work() -> object:
        clips = read_clips(Path("data"), read_model_config(Path("model")))
        mels = [clip.speech_feat.read() if hasattr(clip.speech_feat, "read") else clip.speech_feat for clip in clips]
        fields = ("utt", "text", "text_token", "speech_token", "utt_embedding", "spk_embedding", "duration")
        return [digest([getattr(clip, name) for name in fields]) for clip in clips] + list(map(digest, mels))

    return function(work, what=what, names=names, damage=damage)


def as_json(content: object) -> str:
    try:
        return json.dumps(content, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "["


@reader(weight=3)
def meta_json(rng: Random) -> Try:
    """meta.json, and what the shards say of the models."""
    path = Path("data/meta.json")
    if rng.random() < 0.3:
        what = mutations.spoil_bytes(rng, path)
    else:
        content, what = mutations.spoil_value(rng, json.loads(path.read_text(encoding="utf-8")))
        path.write_bytes(as_json(content).encode("utf-8", "replace"))
    if rng.random() < 0.5:
        return reads_data(rng, f"meta.json: {what}", (), damage=False)
    Path("data/data.list").unlink()  # an error then names the command to prepare anew, out of meta.json
    return function(lambda: read_rows(Path("data")), what=f"meta.json: {what}, no data.list", names=["data"])


@reader(weight=3)
def data_list(rng: Random) -> Try:
    path = Path("data/data.list")
    if rng.random() < 0.3:
        what = mutations.spoil_bytes(rng, path)
    else:
        lines = [*path.read_text(encoding="utf-8").split(), rng.choice(mutations.TEXTS + mutations.ESCAPES)]
        lines = (
            lines
            if rng.random() < 0.5
            else [rng.choice(("../raw/000.wav", "/dev/zero", "..", "data.list", "\x1b[31m", "*"))]
        )
        path.write_bytes(mutations.encoded(rng, "\n".join(lines))[0])
        what = f"data.list: {mutations.shown(lines[-1])}"
    return reads_data(rng, what, ["data"], damage=False)


@reader(weight=7)
def parquet(rng: Random) -> Try:
    path = sorted(Path("data").glob("*.parquet"))[0]
    how = rng.random()
    if how < 0.2:
        return reads_data(
            rng, mutations.spoil_bytes(rng, path, 0.97), ["data"], damage=False
        )  # the footer has no checksum
    if how < 0.35:
        return reads_data(rng, mutations.spoil_bytes(rng, path, 0.0, 0.9), ["data"], damage=True)
    return reads_data(rng, formats.spoil_table(rng, path), ["data", "validation_clips"], damage=False)


# ---- ONNX ------------------------------------------------------------------------------------------------------------


@reader(weight=2)
def onnx_model(rng: Random) -> Try:
    path = Path("model") / rng.choice(("campplus.onnx", "speech_tokenizer_v1.onnx"))
    what = mutations.spoil_bytes(rng, path) if rng.random() < 0.3 else formats.spoil_graph(rng, path)
    for extra in Path("raw").glob("00[2-9].*"):
        extra.unlink()
    return script(
        "prepare", "--no-text-check", what=what, names=[path.name], check=lambda: check_prepared(("000", "001"))
    )


# ---- recordings and their texts --------------------------------------------------------------------------------------


@reader(weight=8)
def sound(rng: Random) -> Try:
    what, path = formats.spoil_sound(rng, Path("raw/bad"))
    path.with_suffix(".txt").write_text("hello there, my friend", encoding="utf-8")
    if rng.random() < 0.1:
        return script("plot", "--real", str(path), what=what, names=[path.name])
    if rng.random() < 0.2:
        argv = ["--input-dir", "raw", rng.choice(("--fix", "--split"))]
        return Try(what, lambda: MAINS["prepare"](argv), shlex.join(["prepare", *argv]), writes=None, must_pass=True)
    return script("prepare", what=what, must_pass=True, check=lambda: check_prepared())


SRT = "1\n00:00:00,000 --> 00:00:01,500\nhello there\n\n2\n00:00:02,000 --> 00:00:03,000\nmy friend\n"
TABLES = {
    "metadata.csv": "file,text\n000.wav,the first of many\n001.wav,another line\n002.wav,rivers run\n003.wav,please\n",
    "metadata.tsv": "000\tthe first of many\n001\tanother line\n002\trivers run\n003\tplease hold\n",
    "speaker.list": "raw/000.wav|me|EN|the first of many\nraw/001.wav|me|EN|another line\nraw/002.wav|me|EN|rivers\n",
    "metadata.jsonl": '{"file": "000.wav", "text": "the first"}\n{"file": "001.wav", "text": "another line"}\n',
    "transcripts.txt": "000 the first of many\n001 another line\n002 rivers run\n003 please hold\n",
}  # fmt: skip
BESIDE = {
    ".txt": "hello there, my friend\n",
    ".lab": "0 5000000 sil\n5000000 9000000 hello\n",
    ".srt": SRT,
    ".vtt": f"WEBVTT\n\n{SRT.replace(',', '.')}",
    ".TextGrid": 'File type = "ooTextFile"\nObject class = "TextGrid"\n',
    ".json": '{"text": "hello"}',
}


@reader(weight=8)
def transcripts(rng: Random) -> Try:
    """Texts beside a recording, and tables."""
    table = rng.random() < 0.6
    name = rng.choice(list(TABLES if table else BESIDE))
    text = (TABLES if table else BESIDE)[name]
    path = Path("raw") / (name if table else f"000{name}")
    if table and rng.random() < 0.7:
        for beside in Path("raw").glob("*.txt"):
            beside.unlink()
    whats = []
    for _ in range(rng.choice((1, 1, 2))):
        text, what = mutations.spoil_lines(rng, text)
        whats.append(what)
    data, code = mutations.encoded(rng, text)
    path.write_bytes(data)
    if rng.random() < 0.2:
        whats.append(mutations.spoil_bytes(rng, path))
    what = f"{path.name}: {', '.join(whats)}, {code}"
    if rng.random() < 0.25:
        return script("prepare", "--no-text-check", what=what, check=lambda: check_prepared(()))
    return function(lambda: find_clips(Path("raw")), what=what, result=lambda: "", names=[path.name, "raw"])


@reader(weight=3)
def records(rng: Random) -> Try:
    """What preparation stored of clips: it is to be computed again where it does not read back."""
    path = rng.choice(sorted(Path("data/cache").iterdir()))
    if path.suffix == ".json":
        if rng.random() < 0.5:
            what = mutations.spoil_bytes(rng, path)
        else:
            path.write_bytes(as_json(mutations.odd_plain(rng)).encode("utf-8", "replace"))
            what = f"{path.name}: {path.read_bytes()[:60]!r}"
        return script("prepare", what=what, must_pass=True)
    how = rng.random()
    damage = how < 0.4
    if damage:
        what = mutations.spoil_bytes(rng, path)
    elif how < 0.5:
        what = mutations.spoil_zip(rng, path)
    elif how < 0.75:
        what = formats.npz(rng, path)
    else:
        with np.load(path) as file:
            arrays = dict(file)
        values, what = mutations.spoil_value(rng, json.loads(arrays["values"].tobytes()))
        arrays["values"] = np.frombuffer(as_json(values).encode("utf-8", "replace"), np.uint8)
        np.savez(path, **arrays)
    return script("prepare", what=f"{path.name[:8]}: {what}", must_pass=True, damage=damage)


@reader(weight=1)
def metrics(rng: Random) -> Try:
    path = Path("output/joint_logs/joint/metrics.csv")
    text, what = mutations.spoil_lines(rng, path.read_text(encoding="utf-8"))
    path.write_bytes(mutations.encoded(rng, text)[0])
    return script("plot", what=f"metrics.csv: {what}", names=["metrics.csv"])


# ---- texts to speak, command lines -----------------------------------------------------------------------------------


@reader(weight=6)
def texts(rng: Random) -> Try:
    text = mutations.odd_text(rng)
    data, code = mutations.encoded(rng, text)
    what = f"{mutations.shown(text)}, {code}"
    stock = rng.choice(((), (), ("--text-normalizer", "stock")))
    if rng.random() < 0.1:
        argv = [*ARGUMENTS["evaluate"]]
        Path("sentences.txt").write_bytes(data)
        return Try(what, lambda: MAINS["evaluate"](argv), shlex.join(["evaluate", *argv]))
    if rng.random() < 0.5 and len(text) < 100_000:  # longer arguments do not exist
        argv = ["--text", text]
    else:
        Path("texts.txt").write_bytes(data)
        argv = ["--text-file", "texts.txt"]
    base = ARGUMENTS["inference"]
    at = base.index("--text")
    argv = [*base[:at], *base[at + 2 :], *argv, *stock]
    if rng.random() < 0.8 or len(text) > 100:
        argv.append("--print-text")
    return Try(what, lambda: MAINS["inference"](list(argv)), shlex.join(["inference", *argv])[:300])


FILES = (
    "output/joint_joint_best.ckpt model/llm.pt raw/000.wav raw/000.wav/x sentences.txt raw model output data missing "
    "raw/missing pipe folder link /dev/null /dev/zero /dev/full /proc/self/mem"
).split()
WORDS = (
    "- -- x nan 1e999 -1 0 1 2 0.5 99999999999999999999 1_0 ０ ../evil ~ %s {} * é 你好 NUL cuda:99 cpu mps en fp16 "
    "ours True $HOME a/b . .. / x.wav x.flac x.pt x.png x.pgf x.ckpt a:b"
).split() + ["", " ", "a b", "\x1b[31m", "a\nb", "\udcff", "\u202e", "x" * 300, "x" * 5000]


@reader(weight=8)
def command_lines(rng: Random) -> Try:
    name = rng.choice(("prepare", "train", "merge", "merge", "inference", "inference", "plot", "evaluate"))
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("link").symlink_to("link")
    program = next(iter(PROJECT.glob(f"{name}_joint*.py")))
    known = re.findall(
        r'"(--[a-z][a-z_-]+)"', program.read_text(encoding="utf-8") + (PROJECT / "utils.py").read_text(encoding="utf-8")
    )
    argv = list(ARGUMENTS[name])
    for _ in range(rng.choice((1, 1, 2, 3))):
        flag, value = rng.choice(known), rng.choice((*FILES, *FILES, *WORDS))
        how = rng.random()
        if how < 0.75:
            argv += [flag, value]
        elif how < 0.85:
            argv.append(rng.choice((flag, f"{flag}={value}", flag[:-2], value)))
        else:
            argv[rng.randrange(len(argv))] = value
    what = " ".join(argv[len(ARGUMENTS[name]) :]) or "a word replaced"
    return Try(what[:300], lambda: MAINS[name](list(argv)), shlex.join([name, *argv])[:600], writes=None)


INPUTS = {
    "prepare": ("raw/000.wav", "raw/000.txt", "raw", "model/campplus.onnx", "model/cosyvoice.yaml", "model", "data",
                "data/cache", "raw/new/001.wav"),
    "train": ("data/data.list", "data", "data/meta.json", "model/llm.pt", "model", "output", "model/finetune.yaml",
              "output/joint_logs", LAST),
    "merge": (CKPT, "output", "model/flow.pt", "model", "output/spk2info.pt", MERGED[0]),
    "inference": (*MERGED, "model/hift.pt", "model/cosyvoice.yaml", "model", "output", "output/result.wav",
                  "model/spk2info.pt"),
    "plot": (LAST, CKPT, "output", "output/joint_logs", "output/joint_logs/joint/metrics.csv",
             "output/joint_joint.png"),
    "evaluate": (MERGED[0], "data", "raw", "raw/001.wav", "sentences.txt", "output/evaluation", "model/spk2info.pt"),
}  # fmt: skip


@reader(weight=5)
def odd_paths(rng: Random) -> Try:
    """A pipe, a device, a folder, a loop, nothing, or something that may not be read, in the place of a path."""
    names = ["prepare", "train", "merge", "merge", "merge", "inference", "inference", "plot", "plot"]
    name = rng.choice(names * 2 + ["evaluate"])
    path = Path(rng.choice(INPUTS[name]))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("x: 1\n")
    what, as_nobody = mutations.replace_by_odd(rng, path)
    # of what is optional, and of results, the loss is no error
    return script(name, what=what, as_nobody=as_nobody, check=lambda: "", names=[path.name, str(path.parent)])
