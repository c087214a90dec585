"""What every page of ours has to be: whole, safe, and enough by itself."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "input"}
ADDRESS = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}


class Page(HTMLParser):
    """A parsed page; fails where tags do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # tag around it, text
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open:
            self.texts.append((self.open[-1], data.strip()))

    def within(self, tag: str) -> list[str]:
        """Texts that stand directly in elements of a tag."""
        return [text for parent, text in self.texts if parent == tag]

    def attributes(self, tag: str, name: str) -> list[str | None]:
        """One attribute of all elements of a tag that have it."""
        return [attributes[name] for found, attributes in self.tags if found == tag and name in attributes]

    @property
    def addresses(self) -> list[str]:
        """Everything that a browser would fetch or follow."""
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name in ADDRESS]


def check_page(html: str, scripts: int = 1) -> Page:
    """A page that fetches nothing over a network and runs no script but its own."""
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>") and 'charset="utf-8"' in html
    assert not [
        address for address in page.addresses if re.match(r"\s*(?:[a-z]+:)?//|\s*(?:https?|javascript):", address)
    ]
    styles = " ".join(page.within("style"))
    assert styles and not re.search(r"@import|url\(", styles)
    assert [tag for tag, _ in page.tags].count("script") == scripts
    handlers = [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not handlers
    return page


def without_sounds(html: str) -> int:
    """Bytes of a page without the sounds in it."""
    return len(re.sub(r'"data:audio/[^"]*"', '""', html).encode())
