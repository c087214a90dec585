"""A template filled in: one HTML file that needs no other and no network."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **content: object) -> str:
    """The page; names of files and texts in the content cannot become markup. Raises for content that is missing."""
    return environment().get_template(template).render(content)


@lru_cache(maxsize=1)
def environment() -> "Environment":
    """Templates with everything escaped that they are given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
