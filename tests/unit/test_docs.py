"""The documents: links lead somewhere, cited sections exist, no machine's paths in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_CITED = re.compile(r"protocol\.md (\d+(?:\.\d+)?)((?:(?:, | and )\d+\.\d+)*)")
_SHORT = re.compile(r'"""(\d+\.\d+)[:.]')
_NUMBER = re.compile(r"\d+\.\d+")
_SECTION = re.compile(r"^#+ (\d+(?:\.\d+)?)\.? ", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert missing == []


def sections() -> set[str]:
    return set(_SECTION.findall((ROOT / "docs" / "protocol.md").read_text()))


def cited(path: Path) -> set[str]:
    """``protocol.md 10.2, 10.6 and 10.10`` cites three sections.

    Where a file says that it is about the protocol, its docstrings may begin with the number alone.
    """
    text = path.read_text()
    found = _CITED.findall(text)
    numbers = {number for first, more in found for number in [first, *_NUMBER.findall(more)]}
    return numbers | set(_SHORT.findall(text)) if numbers else numbers


def test_every_citation_names_a_section_that_is_there() -> None:
    wrong = {}
    for path in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("mesh/**/*.py")]:
        missing = cited(path) - sections()
        if missing:
            wrong[str(path.relative_to(ROOT))] = sorted(missing)
    assert wrong == {}


def test_what_the_sleeve_s_page_says_is_cited_by_some_test() -> None:
    """But for the first section, which is the idea, and the last, which is figures."""
    numbers = re.findall(r"^## (\d+) ", (ROOT / "docs" / "sleeve.md").read_text(), re.MULTILINE)
    cited_there: set[str] = set()
    for path in ROOT.glob("tests/**/*.py"):
        for list_of in re.findall(r"sleeve\.md ([\d, and]+)", path.read_text()):
            cited_there |= set(re.findall(r"\d+", list_of))
    assert cited_there == set(numbers[1:-1])


def test_each_rule_of_addresses_is_cited_by_code_or_tests_and_is_there() -> None:
    """What is cited is cited of a rule that exists; each rule is held by some test."""
    rules = set(
        re.findall(r"^\*\*(R\d+)\.\*\*", (ROOT / "docs" / "ipam.md").read_text(), re.MULTILINE)
    )
    cited_by: dict[str, set[str]] = {}
    for folder in ("ipam", "tests"):
        text = "\n".join(path.read_text() for path in ROOT.glob(f"{folder}/**/*.py"))
        cited_by[folder] = {f"R{n}" for n in re.findall(r"\bR(\d+)\b", text)}
        for first, last in re.findall(r"\bR(\d+) to R(\d+)\b", text):
            cited_by[folder] |= {f"R{n}" for n in range(int(first), int(last) + 1)}
    assert cited_by["ipam"] - rules == set()
    assert rules - cited_by["tests"] == set()


def test_every_section_is_cited_by_some_test() -> None:
    """What the document says, a test holds; a chapter that has sections is cited by them."""
    tests = set().union(*map(cited, ROOT.glob("tests/**/*.py")))
    chapters = {number.partition(".")[0] for number in sections() if "." in number}
    assert sections() - chapters - tests == set()
