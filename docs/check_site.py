"""Whether a built site hangs together and stands alone: ``python docs/check_site.py site``.

Every link within it must lead to a file and an anchor that exist, and whatever a browser loads by
itself (scripts, styles, images, fonts) must be in the site. Exit status 1, and a list, if not.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What one page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        """Where a reader may go."""
        self.loads: list[str] = []
        """What a browser fetches without being asked."""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("index", "search", "next", "prev"):
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


def problems(site: Path) -> list[str]:
    """What is wrong, each with the file it is wrong in."""
    pages = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    found = [] if pages else [f"{site}: no pages"]
    for path, page in pages.items():
        for target in page.loads:
            parts = urlsplit(target)
            if parts.scheme != "data" and (parts.netloc or not (path.parent / parts.path).exists()):
                found.append(f"{path}: loads {target}")
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            if not goal.is_file():
                found.append(f"{path}: no file {target}")
            elif parts.fragment and goal.suffix == ".html":
                known = pages[site / goal.relative_to(site.resolve())].anchors
                if unquote(parts.fragment) not in known:
                    found.append(f"{path}: no anchor {target}")
    for path in site.rglob("*.css"):
        outside = re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", path.read_text()
        )
        found += [f"{path}: loads {target}" for target in outside]
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    sys.exit("\n".join(wrong) if wrong else 0)
