"""The stories in this folder: each command must say what the file says it says.

A story is a text: commands, a line of dashes, what they said; blocks apart by an empty line; ``#``
begins a comment. ``pytest tests/scenarios --rewrite`` writes down what is said now: the difference
is for the review.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scenarios.stage import Stage

FOLDER = Path(__file__).parent
STORIES = sorted(FOLDER.glob("*.txt"))
RULE = "----"


@dataclass
class Block:
    """Comments and commands, and what they are to say."""

    lines: list[str]
    said: list[str]

    @property
    def commands(self) -> list[str]:
        return [line for line in self.lines if not line.startswith("#")]

    def text(self) -> str:
        return "\n".join([*self.lines, *([RULE, *self.said] if self.commands else [])]) + "\n"


def parse(text: str) -> list[Block]:
    """Raises ValueError where commands are not followed by the line of dashes."""
    blocks = []
    for part in text.strip("\n").split("\n\n"):
        lines = part.split("\n")
        at = lines.index(RULE) if RULE in lines else len(lines)
        block = Block(lines[:at], lines[at + 1 :])
        if block.commands and at == len(lines):
            raise ValueError(f"no {RULE} behind {block.commands[-1]!r}")
        blocks.append(block)
    return blocks


def perform(blocks: list[Block]) -> list[Block]:
    """The same blocks with what is said now. The first command is ``peers`` and how many."""
    stage: Stage | None = None
    told = []
    for block in blocks:
        said: list[str] = []
        for command in block.commands:
            if stage is None:
                word, count = command.split()
                assert word == "peers", "a story begins with its peers"
                stage = Stage(int(count))
            else:
                said += stage.perform(command)
        told.append(Block(block.lines, said))
    return told


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story(story: Path, request: pytest.FixtureRequest) -> None:
    """Twice over: a story that is told differently the second time is no story."""
    written = story.read_text()
    told = "\n".join(block.text() for block in perform(parse(written)))
    assert told == "\n".join(block.text() for block in perform(parse(written)))
    if request.config.getoption("--rewrite"):
        story.write_text(told)
    else:
        assert told == written


def test_there_are_stories() -> None:
    assert len(STORIES) >= 8


def test_what_is_no_story() -> None:
    with pytest.raises(ValueError, match="no ----"):
        parse("peers 2\nstart a\n")
    with pytest.raises(AssertionError):
        perform(parse("start a\n----\n"))
    with pytest.raises(AttributeError):
        perform(parse("peers 2\ndance a\n----\n"))
