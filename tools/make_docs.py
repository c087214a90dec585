"""Write the generated tables of docs/ and the settings that users edit in config.py: `make docs`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. NAME is `settings` (config.py), `doctor` (the flags of
clips/audio_doctor.py) or `flags SCRIPT` (a script's command line). Pages in docs/zh get the Chinese half of each text.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config  # noqa: E402
from clips.audio_doctor import DROP, FLAGS  # noqa: E402

TABLE = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SETTINGS = re.compile(r"(?<=^JOINT_TRAINING_CONFIG = \{\n).*?(?=^\}\n)", re.DOTALL | re.MULTILINE)
HEADS = {
    "settings": (("Key", "Default", "Values", "Meaning"), ("配置项", "默认值", "可取的值", "含义")),
    "doctor": (("Flag", "Kind", "What the report says"), ("标记", "类别", "报告里的说明")),
    "flags": (("Flag", "Meaning"), ("选项", "含义")),
}
REASON = ("the report says why", "报告会写明原因")
KINDS = {True: ("dropped", "丢弃"), False: ("warning", "警告")}


def table(name: str, chinese: bool) -> str:
    """A table as Markdown; name as between the marks of a page."""
    kind, _, script = name.partition(" ")
    rows = {"settings": setting_rows, "doctor": doctor_rows, "flags": lambda half: flag_rows(script, half)}[kind]
    head = HEADS[kind][chinese]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows(chinese)])


def cell(text: str) -> str:
    """Text that may stand in a table and holds no markup by accident."""
    return re.sub(r"([|<*])", r"\\\1", " ".join(text.split()))


def setting_rows(chinese: bool) -> Iterator[list[str]]:
    for key, (kind, item) in config.known_settings().items():
        default = config.flatten(config.to_dict(config.JointConfig()))[key]
        yield [
            f"`{key}`",
            f"`{config.literal(default)}`",
            cell(values_of(kind, item)),
            cell(config.help_of(item)[chinese]),
        ]


def values_of(kind: Any, item: Any) -> str:
    """What a setting may be: words, and the limits of a number."""
    names = [str(choice) for choice in item.metadata["choices"]]
    if "low" in item.metadata:
        low, high = item.metadata["low"], item.metadata["high"]
        names.append(f"{low:g} – {high:g}" if high <= 1000 else f"at least {low:g}")
    if bool in config.options(kind):
        names = ["True", "False", *names]
    return ", ".join(names)


def doctor_rows(chinese: bool) -> Iterator[list[str]]:
    """The flags in the report's order; … stands for what the report fills in."""
    for name, (kind, sentence, *_) in FLAGS.items():
        text = re.sub(r"\{\w+[^{}]*\}", "…", sentence)
        yield [f"`{name}`", KINDS[kind == DROP][chinese], cell(text) if text != "…" else REASON[chinese]]


def flag_rows(script: str, chinese: bool) -> Iterator[list[str]]:
    for action in parser_of(script)._actions:
        flags = [flag for flag in action.option_strings if flag.startswith("--") and "_" not in flag]
        if action.help is argparse.SUPPRESS or flags in ([], ["--help"]):
            continue
        english, _, other = (action.help or "").partition(" | ")
        yield [", ".join(f"`{flag}`" for flag in flags), cell(other if chinese and other else english)]


def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser that a script builds in parse_args."""

    class Built(Exception):
        pass

    def stop(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise Built(self)

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            importlib.import_module(script).parse_args([])
        except Built as built:
            return built.args[0]
    raise ValueError(f"{script}.parse_args builds no parser")


def settings_code(group: Any, values: dict[str, Any], indent: str = "    ") -> list[str]:
    """Lines of JOINT_TRAINING_CONFIG: the values that stand there, with the help of the fields."""
    lines = []
    for item in fields(group):
        default = getattr(group, item.name)
        if is_dataclass(default):
            inner = settings_code(default, values.get(item.name, {}), indent + "    ")
            lines += [*config.commented(f'{indent}"{item.name}": {{', item), *inner, f"{indent}}},"]
        else:
            lines += config.commented(f'{indent}"{item.name}": {config.literal(values.get(item.name, default))},', item)
    return lines


def renewed() -> dict[Path, str]:
    """Every generated file as it should be."""
    files = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        chinese = path.parent.name == "zh"
        old = path.read_text(encoding="utf-8")
        files[path] = TABLE.sub(lambda found, zh=chinese: found[1] + table(found[2], zh) + found[3], old)
    path = ROOT / "config.py"
    code = "".join(f"{line}\n" for line in settings_code(config.JointConfig(), config.JOINT_TRAINING_CONFIG))
    files[path] = SETTINGS.sub(lambda _: code, path.read_text(encoding="utf-8"), count=1)
    return files


def main() -> int:
    for path, text in renewed().items():
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
