"""A strict tree of a page, made with the standard library's parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "link", "hr", "area", "base", "col", "embed", "source", "track", "wbr"}


@dataclass
class Element:
    """One element of a parsed page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text within, with single spaces."""
        return " ".join(" ".join(self._pieces()).split())

    def _pieces(self) -> Iterator[str]:
        yield from self.pieces
        for child in self.children:
            yield from child._pieces()

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Elements below of that tag with those attributes; `class_` asks for one class among several."""
        wanted = attributes.pop("class_", None)
        found = [
            child
            for child in self.children
            if tag in ("", child.tag)
            and all(child.attributes.get(name.replace("_", "-")) == value for name, value in attributes.items())
            and (wanted is None or wanted in (child.attributes.get("class") or "").split())
        ]
        return found + [
            element for child in self.children for element in child.all(tag, **attributes, **_class(wanted))
        ]

    def one(self, tag: str = "", **attributes: str) -> Element:
        """The only such element."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} elements {tag} {attributes}"
        return found[0]


def _class(wanted: str | None) -> dict[str, str]:
    return {} if wanted is None else {"class_": wanted}


class TreeBuilder(HTMLParser):
    """Parses HTML strictly: every element that must be closed is, in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].pieces.append(data)


def parse(html: str) -> Element:
    """The tree of a page."""
    builder = TreeBuilder()
    builder.feed(html)
    builder.close()
    assert builder._open == [builder.root], f"never closed: {[element.tag for element in builder._open[1:]]}"
    return builder.root
