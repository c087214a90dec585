"""README.md and README_zh.md are twins, and what they say about commands, settings, flags and messages is true."""

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from sources import MODEL_FILES, OWN_FILES, ROOT, SCRIPTS

from clips.audio_doctor import DROP, FLAGS
from config import JointConfig, flatten, load, to_dict
from cosyvoice.utils.yaml_loader import SNAPSHOT

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README_zh.md"
READMES = pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=["en", "zh"])
DOCUMENTS = [ENGLISH, CHINESE, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

COMMAND = re.compile(rf"(?:^|\s)((?:{'|'.join(sorted(SCRIPTS))})\.py\b.*)")
OLD_SPELLINGS = {"--input_dir", "--output_dir", "--model_dir", "--pretrained_dir"}
FLAG_TABLE_WORDS = {"en": ("dropped", "warning"), "zh": ("丢弃", "警告")}
ERROR_TABLE = {ENGLISH: "## Common errors", CHINESE: "## 常见报错"}
FOREIGN_MESSAGES = {"ModuleNotFoundError: No module named"}  # Python's own
COMMENTED = {"bash", "powershell", "python"}


class Block(NamedTuple):
    language: str
    lines: list[str]  # without comments and blank lines


@cache
def parsed(path: Path) -> tuple[tuple[str, ...], tuple[Block, ...]]:
    """(lines outside of code blocks, code blocks)."""
    prose, blocks, inside = [], [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if inside is None:
                inside = Block(line[3:].strip(), [])
            else:
                blocks.append(inside)
                inside = None
        elif inside is None:
            prose.append(line)
        elif code := without_comment(line, inside.language):
            inside.lines.append(code)
    assert inside is None, f"{path}: a code block is not closed"
    return tuple(prose), tuple(blocks)


def without_comment(line: str, language: str) -> str:
    return re.sub(r"(^|\s+)#.*", "", line).rstrip() if language in COMMENTED else line.rstrip()


def headings(path: Path) -> list[str]:
    return [line for line in parsed(path)[0] if re.match("#+ ", line)]


def code_pieces(path: Path) -> list[str]:
    """Lines of code blocks, and code inside sentences and tables."""
    prose, blocks = parsed(path)
    return [line for block in blocks for line in block.lines] + re.findall("`([^`]+)`", "\n".join(prose))


def rows(path: Path, below: str = "") -> list[list[str]]:
    """Cells of every table row that begins with code, or of those below a heading up to the next one."""
    lines = list(parsed(path)[0])
    if below:
        lines = lines[lines.index(below) + 1 :]
        lines = lines[: next((i for i, line in enumerate(lines) if line.startswith("#")), len(lines))]
    heads = {line for line, next_line in zip(lines, lines[1:], strict=False) if next_line.startswith("|---")}
    entries = [line for line in lines if line.startswith("| `") and line not in heads]
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in entries]


def commands(path: Path) -> list[list[str]]:
    """[script, argument, ...] of every call of one of our scripts."""
    found = [COMMAND.search(piece) for piece in code_pieces(path)]
    return [words for match in found if match and len(words := shlex.split(match[1])) > 1]


# ---- twins -----------------------------------------------------------------------------------------------------------


def test_the_twins_have_the_same_headings():
    levels = [[heading.partition(" ")[0] for heading in headings(path)] for path in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1] and len(levels[0]) > 20


def test_the_twins_have_the_same_code_blocks():
    english, chinese = parsed(ENGLISH)[1], parsed(CHINESE)[1]
    assert english == chinese and len(english) > 10


def test_the_twins_have_the_same_tables():
    first_cells = [[re.findall("`([^`]+)`", row[0]) for row in rows(path)] for path in (ENGLISH, CHINESE)]
    assert first_cells[0] == first_cells[1] and len(first_cells[0]) > 100


def test_the_twins_name_the_same_code_in_the_same_sections():
    """What stands in backticks is a flag, key, file or message: a translation that loses one has lost a fact."""
    named = [
        [sorted(set(re.findall("`([^`]+)`", section))) for section in re.split(r"\n#+ ", "\n".join(parsed(path)[0]))]
        for path in (ENGLISH, CHINESE)
    ]
    for english, chinese, heading in zip(*named, headings(ENGLISH), strict=True):
        assert untranslated(english) == untranslated(chinese), heading


def untranslated(names: list[str]) -> list[str]:
    """Without the placeholders that are words of the language."""
    return [name for name in names if not re.search(r"[\u4e00-\u9fff]|<date>|key=value|\.name$", name)]


@pytest.mark.parametrize(("readme", "other"), [(ENGLISH, CHINESE), (CHINESE, ENGLISH)], ids=["en", "zh"])
def test_line_three_leads_to_the_other_language(readme: Path, other: Path):
    assert f"]({other.name})" in readme.read_text(encoding="utf-8").splitlines()[2]


# ---- commands --------------------------------------------------------------------------------------------------------


@READMES
def test_every_command_is_understood_by_its_script(readme: Path):
    found = commands(readme)
    assert {words[0].removesuffix(".py") for words in found} == set(SCRIPTS)
    for script, *arguments in found:
        if script == "inference_joint.py" and not {"--text", "--text-file"} & set(arguments):
            arguments += ["--text", "x"]  # a sentence shows only the flags that it is about
        try:
            args = importlib.import_module(script.removesuffix(".py")).parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{readme.name}: {script} does not understand {arguments}")
        load(getattr(args, "overrides", []))  # settings that do not exist are refused


@READMES
def test_every_setting_in_a_sentence_exists(readme: Path):
    given = [words for piece in code_pieces(readme) for words in re.findall(r"--set (\w[\w.]*=[^\s,;]+)", piece)]
    assert given
    load(word for word in given if word.isascii() and word != "key=value")


@READMES
@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_flag_of_every_script_is_explained(readme: Path, script: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        importlib.import_module(script).parse_args(["--help"])
    flags = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    named = {flag for piece in code_pieces(readme) for flag in re.findall(r"--[\w-]+", piece)}
    assert flags and flags - named - OLD_SPELLINGS == set()


@READMES
def test_every_make_target_exists(readme: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {target for piece in code_pieces(readme) for target in re.findall(r"\bmake ([a-z-]+)", piece)}
    assert {"demo", "test", "setup"} <= named <= targets


def test_the_demo_without_make_is_the_demo():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    values = dict(re.findall(r"^([A-Z]+) := (.*)$", makefile, re.MULTILINE))
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    recipe = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], recipe)
    wanted = [line.strip().removeprefix(".venv/bin/") for line in recipe.splitlines() if "_joint" in line]
    assert wanted in [block.lines for block in parsed(ENGLISH)[1]]


@READMES
def test_messages_advise_the_download_of_the_readme(readme: Path):
    lines = [line for block in parsed(readme)[1] for line in block.lines if "snapshot_download" in line]
    assert len(lines) == 2 and all(SNAPSHOT.removeprefix("python") in line for line in lines)


# ---- settings, flags, messages ---------------------------------------------------------------------------------------


@READMES
def test_every_setting_is_listed_with_its_default(readme: Path):
    listed = {row[0].strip("`"): row[1] for row in rows(readme) if len(row) >= 3}
    settings = flatten(to_dict(JointConfig()))
    assert set(settings) <= set(listed)
    wrong = {key: listed[key] for key, default in settings.items() if value_of(listed[key], default) != default}
    assert not wrong


def value_of(cell: str, like: object) -> object:
    """What a cell of the table says, a list where the setting is one."""
    text = cell.strip("`")
    if isinstance(like, list):
        return text.split()
    return text if isinstance(like, str) else ast.literal_eval(text)


@READMES
def test_every_flag_of_the_doctor_is_listed_with_its_kind(readme: Path):
    dropped, warning = FLAG_TABLE_WORDS["zh" if readme == CHINESE else "en"]
    listed = {row[0].strip("`"): row[1] for row in rows(readme) if row[1] in (dropped, warning)}
    assert listed == {name: dropped if kind == DROP else warning for name, (kind, _) in FLAGS.items()}


@cache
def texts_in_the_code() -> str:
    """Every string of the program but docstrings, the literal parts of f-strings among them, one a line."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in [*OWN_FILES, *MODEL_FILES]]
    constants = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    docstrings = {id(node.value) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return "\n".join(node.value for node in constants if isinstance(node.value, str) and id(node) not in docstrings)


@READMES
def test_every_message_of_the_error_table_is_printed_somewhere(readme: Path):
    messages = [row[0].strip("`") for row in rows(readme, ERROR_TABLE[readme])]
    assert len(messages) > 20
    parts = {part.strip() for message in messages for part in message.split("…")} - {"", *FOREIGN_MESSAGES}
    assert not {part for part in parts if part not in texts_in_the_code()}


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path):
    anchors = {anchor(heading) for heading in headings(document)}
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(parsed(document)[0])):
        file, _, place = target.partition("#")
        if "://" in target:
            continue
        assert not file or (document.parent / file).exists(), f"{document.name}: {target}"
        assert file or place in anchors, f"{document.name}: {target}"


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower())
    return words.replace(" ", "-")
