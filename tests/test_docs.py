"""What the pages say can be typed, clicked and believed: commands parse, links resolve, tables are the code's."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from sources import ROOT, SCRIPTS

from config import load
from cosyvoice.utils.yaml_loader import SNAPSHOT
from tools import make_docs

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "bench").glob("*.md")),
    *sorted((ROOT / "build_mini").glob("*.md")),
]

GUIDES = [page for page in PAGES if (page.parent == ROOT or page.is_relative_to(ROOT / "docs"))]
TWINS = [(ROOT / "README.md", ROOT / "README_zh.md")] + [
    (ROOT / "docs" / page.name, page) for page in sorted((ROOT / "docs/zh").glob("*.md"))
]
COMMAND = re.compile(rf"(?:^|\s)((?:{'|'.join(sorted(SCRIPTS))})\.py\b.*)")
COMMENTED = {"bash", "powershell", "python"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name)
each_guide = pytest.mark.parametrize("page", GUIDES, ids=name)


class Block(NamedTuple):
    language: str
    lines: list[str]  # without comments and blank lines


@cache
def parsed(page: Path) -> tuple[str, tuple[Block, ...]]:
    """(text outside of code blocks, code blocks)."""
    prose, blocks, inside = [], [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("```"):
            if inside is None:
                inside = Block(line.strip()[3:], [])
            else:
                blocks.append(inside)
                inside = None
        elif inside is None:
            prose.append(line)
        elif code := without_comment(line, inside.language):
            inside.lines.append(code)
    assert inside is None, f"{page}: a code block is not closed"
    return "\n".join(prose), tuple(blocks)


def without_comment(line: str, language: str) -> str:
    return re.sub(r"(^|\s+)#.*", "", line).rstrip() if language in COMMENTED else line.rstrip()


def code_pieces(page: Path) -> list[str]:
    """Lines of code blocks, and code inside sentences and tables."""
    prose, blocks = parsed(page)
    return [line for block in blocks for line in block.lines] + re.findall("`([^`]+)`", prose)


def commands(page: Path) -> Iterator[list[str]]:
    """[script, argument, ...] of every call of one of our scripts."""
    for piece in code_pieces(page):
        if (found := COMMAND.search(piece)) and "/" not in piece[: found.start(1)].rpartition(" ")[2]:
            yield shlex.split(found[1])


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    headings = [line.lstrip("# ") for line in parsed(page)[0].splitlines() if re.match("#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Targets inside the repository of links and pictures."""
    prose = parsed(page)[0]
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(
        r'<(?:img|a|source)[^>]* (?:src|href)="([^"]+)"', prose
    )
    return [target for target in targets if "://" not in target]


# ---- what is typed ---------------------------------------------------------------------------------------------------


@each_guide
def test_every_command_is_understood_by_its_script(page: Path):
    for script, *arguments in commands(page):
        if script == "inference_joint.py" and not {"--text", "--text-file"} & set(arguments):
            arguments += ["--text", "x"]  # a sentence shows only the flags that it is about
        try:
            args = importlib.import_module(script.removesuffix(".py")).parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page.name}: {script} does not understand {arguments}")
        load(getattr(args, "overrides", []))  # settings that do not exist are refused


@each_guide
def test_every_setting_in_a_sentence_exists(page: Path):
    given = [found for piece in code_pieces(page) for found in re.findall(r"--set (\w[\w.]*=[^\s,;]+)", piece)]
    load(word for word in given if word.isascii() and word not in ("key=value", "KEY=VALUE"))


@each_page
def test_every_make_target_exists(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {target for piece in code_pieces(page) for target in re.findall(r"^make ([a-z-]+)", piece)}
    assert named <= targets


@each_page
def test_python_blocks_parse(page: Path):
    for block in parsed(page)[1]:
        if block.language == "python":
            assert ast.parse("\n".join(block.lines)).body


@each_guide
def test_every_flag_of_our_scripts_in_a_sentence_exists(page: Path):
    known = {
        flag for script in SCRIPTS for action in make_docs.parser_of(script)._actions for flag in action.option_strings
    }
    named = {
        flag for piece in re.findall("`(--[^`]+)`", parsed(page)[0]) for flag in re.findall(r"(?<!\S)--[\w-]+", piece)
    }
    assert named <= known


@each_guide
def test_every_python_file_in_a_sentence_exists(page: Path):
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", parsed(page)[0]))
    assert not {file for file in named if not (ROOT / file).is_file()}


def test_the_demo_without_make_is_the_demo():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    values = dict(re.findall(r"^([A-Z]+) := (.*)$", makefile, re.MULTILINE))
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    recipe = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], recipe)
    wanted = [line.strip().removeprefix(".venv/bin/") for line in recipe.splitlines() if "_joint" in line]
    assert wanted in [block.lines for block in parsed(ROOT / "docs/install.md")[1]]


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_messages_advise_the_download_of_the_pages(page: str):
    lines = [line for block in parsed(ROOT / page)[1] for line in block.lines if "snapshot_download" in line]
    assert lines and all(SNAPSHOT.removeprefix("python") in line for line in lines)


# ---- what is clicked -------------------------------------------------------------------------------------------------


@each_page
def test_links_lead_somewhere(page: Path):
    for target in links(page):
        file, _, place = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), f"{page.name}: {target}"
        assert not place or place in anchors(there), f"{page.name}: {target}"


def test_every_page_of_docs_can_be_reached_from_the_front_page():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md" and page.is_file():
            reached.add(page)
            waiting += [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
    assert set((ROOT / "docs").rglob("*.md")) <= reached


# ---- what is written twice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("english", "chinese"), TWINS, ids=name)
def test_twins_have_the_same_code_blocks(english: Path, chinese: Path):
    assert parsed(english)[1] == parsed(chinese)[1]


@pytest.mark.parametrize("path", make_docs.renewed(), ids=name)
def test_what_make_docs_writes_is_up_to_date(path: Path):
    assert path.read_text(encoding="utf-8") == make_docs.renewed()[path], "run: make docs"
