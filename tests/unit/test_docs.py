"""The documents: links lead somewhere, cited sections exist, no machine's paths in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_CITED = re.compile(r"protocol\.md (\d+(?:\.\d+)?)")
_SECTION = re.compile(r"^#+ (\d+(?:\.\d+)?)\.? ", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert missing == []


def sections() -> set[str]:
    return set(_SECTION.findall((ROOT / "docs" / "protocol.md").read_text()))


def test_every_citation_names_a_section_that_is_there() -> None:
    wrong = {}
    for path in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("mesh/**/*.py")]:
        missing = set(_CITED.findall(path.read_text())) - sections()
        if missing:
            wrong[str(path.relative_to(ROOT))] = sorted(missing)
    assert wrong == {}


def test_every_chapter_is_cited_by_some_test() -> None:
    cited = {
        number.partition(".")[0]
        for path in ROOT.glob("tests/**/*.py")
        for number in _CITED.findall(path.read_text())
    }
    chapters = {number for number in sections() if "." not in number}
    assert chapters - cited == set()
