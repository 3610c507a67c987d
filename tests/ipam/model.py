"""The rules of the ring in small: what each peer believes of each address, and nothing else.

A belief is (epoch, taker, count, owner, start of the slice); the greatest counts (ipam.md R3, R15).
Peers give halves of what they believe to own, tell each other all they believe, die, are taken
over, and come back. The model has no octets, no signatures, no time; ``test_model.py`` explores
all of it, and walks the shipped ring along.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

Belief = tuple[int, int, int, int, int]
"""Epoch, who began it, changes in it, owner, where the slice starts: greater is later."""

View = tuple[Belief, ...]
"""Of one peer, address by address."""


class State(NamedTuple):
    """``asking``: peers that are back, and those up then that have not told them anything yet."""

    views: tuple[View, ...]
    up: frozenset[int]
    asking: frozenset[tuple[int, int]]


class Action(NamedTuple):
    what: str
    peer: int
    other: int = 0


def first(peers: int, addresses: int) -> State:
    """All know that the range was divided evenly."""
    share = addresses // peers
    view = tuple((0, 0, 1, at // share, at // share * share) for at in range(addresses))
    return State((view,) * peers, frozenset(range(peers)), frozenset())


def owned(view: View, peer: int) -> list[int]:
    return [at for at, belief in enumerate(view) if belief[3] == peer]


def may_give(state: State, peer: int) -> bool:
    """R17: nothing before everybody in reach has said what is newer."""
    return peer in state.up and not any(asks == peer for asks, _ in state.asking)


def block(view: View, peer: int) -> list[int]:
    """What a peer gives: the upper half of the longest run of one slice of its."""
    best: list[int] = []
    run: list[int] = []
    for at in owned(view, peer):
        if run and run[-1] == at - 1 and view[run[-1]] == view[at]:
            run.append(at)
        else:
            run = [at]
        if len(run) > len(best):
            best = run
    return best[len(best) // 2 :]


def actions(state: State) -> Iterator[Action]:
    peers = range(len(state.views))
    for one in peers:
        if one not in state.up:
            yield Action("return", one)
            continue
        if len(state.up) > 1:
            yield Action("die", one)
        for other in peers:
            if other == one:
                continue
            if other in state.up:
                yield Action("tell", one, other)
                if may_give(state, one) and owned(state.views[one], one):
                    yield Action("give", one, other)
            elif may_give(state, one) and owned(state.views[one], other):
                yield Action("take", one, other)


def after(state: State, action: Action) -> State:
    what, one, other = action
    views, up, asking = list(state.views), state.up, state.asking
    view = list(views[one])
    match what:
        case "tell":
            views[other] = tuple(map(max, views[other], views[one]))
            asking -= {(other, one)}
        case "give":
            given = block(views[one], one)
            piece = view[given[0]]
            start, before = -1, (-1, -1)
            for at, belief in enumerate(views[one]):
                if belief == piece:  # all of the slice has the new version (R4)
                    owner = other if at in given else one
                    start = start if before == (at - 1, owner) else at
                    before = (at, owner)
                    view[at] = (belief[0], belief[1], belief[2] + 1, owner, start)
            views[one] = tuple(view)
        case "take":
            start = -1
            for at in owned(views[one], other):
                same = at > 0 and views[one][at - 1] == views[one][at]
                start = start if same else at
                view[at] = (view[at][0] + 1, one, 0, one, start)
            views[one] = tuple(view)
        case "die":
            up -= {one}
            asking = frozenset(pair for pair in asking if one not in pair)
        case "return":
            asking |= {(one, there) for there in up}
            up |= {one}
        case _:
            raise ValueError(what)
    return State(tuple(views), up, asking)


def wrong(state: State) -> str:
    """What the rules promise, and this state breaks; empty when it breaks nothing."""
    for at in range(len(state.views[0])):
        claims = [
            (view[at], peer)
            for peer, view in enumerate(state.views)
            if view[at][3] == peer and may_give(state, peer)
        ]
        for belief, peer in claims:
            for rival, other in claims:
                if peer < other and belief[:2] == rival[:2]:
                    return f"{peer} and {other} both own {at}, in one epoch"
        beliefs: dict[tuple[int, int, int], int] = {}
        for view in state.views:
            epoch, taker, count, owner, _ = view[at]
            if beliefs.setdefault((epoch, taker, count), owner) != owner:
                return f"{at} has two owners in one version"
    return ""


def settled(state: State) -> State:
    """All have told all."""
    whole = tuple(map(max, *state.views)) if len(state.views) > 1 else state.views[0]
    return State((whole,) * len(state.views), state.up, frozenset())
