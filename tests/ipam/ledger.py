"""Who holds which address and which space, as the world sees it: asserted after every step."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ipam.address import Address, AddressRange
from ipam.effects import AllocationKey
from ipam.slices import EPOCH, Slice, decode_slice

if TYPE_CHECKING:
    from tests.ipam.node import Node

_decoded = lru_cache(1 << 14)(decode_slice)
"""What disks hold is read again and again."""


class Ledger:
    """Invariants (docs/ipam.md): I1 one holder an address, I2 one owner an address, I3 nothing
    that a container has is free to anybody, I4 versions never fall.

    What nobody could know is excused, and nothing else: a peer whose space was taken over while it
    was out of reach is a ghost until it has heard of that (R18); its containers' addresses are
    astray until it has them back, or has said that they are lost. Where a host that was restored
    could ask nobody who knew what became of its space, that has two honest histories (section 7):
    it is forked until all agree about it.
    """

    def __init__(self, range: AddressRange) -> None:
        self.range = range
        self.holders: dict[Address, tuple[Node, AllocationKey]] = {}
        self._displaced: dict[Address, list[tuple[Node, AllocationKey]]] = {}
        """Who else has an address, in vain: when the holder is gone, it is theirs again."""
        self.owned: dict[Node, list[tuple[Address, Address]]] = {}
        self.forked: set[int] = set()
        self._owner: dict[int, Node] = {}
        self._versions: dict[Node, dict[Address, int]] = {}
        self.answers = self.astray = 0

    # ---- containers

    def answered(self, node: Node, key: AllocationKey, address: Address) -> None:
        self.answers += 1
        if node.is_restored and node.core is not None and not node.core.returning.is_waiting:
            node.astray.add(address)  # alone with an old memory: it finds out when it is not
        self.check(node)  # what it gives may be what this very turn brought it
        held = self.holders.get(address)
        if held is not None and held != (node, key):
            if self._may_clash(node, address):
                self.astray += 1
                self._displaced.setdefault(address, []).append((node, key))
                return  # it finds out when it hears of the takeover, and has to say so
            assert self._may_clash(held[0], address), (
                f"I1: {self.range.text(address)} given to {node} {key.container},"
                f" {held[0]} {held[1].container} has it"
            )
            self.astray += 1
            self._displaced.setdefault(address, []).append(held)
        self.holders[address] = (node, key)

    def _may_clash(self, node: Node, address: Address) -> bool:
        return node.is_ghost or address in node.astray or address in self.forked

    def freed(self, node: Node, key: AllocationKey, address: Address) -> None:
        node.astray.discard(address)
        others = [who for who in self._displaced.pop(address, ()) if who != (node, key)]
        if self.holders.get(address) == (node, key):
            del self.holders[address]
            if others:
                self.holders[address] = others.pop()
        if others:
            self._displaced[address] = others

    def revived(self, node: Node, key: AllocationKey, address: Address) -> None:
        """A container is back that may have been gone, its address or its space another's since."""
        held = self.holders.setdefault(address, (node, key))
        if held != (node, key):
            self._displaced.setdefault(address, []).append((node, key))
        if held != (node, key) or self._owner.get(address) is not None:
            node.astray.add(address)

    def died(self, node: Node) -> None:
        """The host is gone, and its containers with it."""
        for key, address in node.granted.items():
            self.freed(node, key, address)

    # ---- space

    def check(self, node: Node) -> None:
        """What a step changed of one peer's space."""
        core = node.core
        if node.is_clone:
            return  # nobody hears of it; what it gives out is counted
        if core is None:
            if node.gone:
                self._let_go(node)
            self._versions[node] = {
                start: _decoded(octets)[1].version for start, octets in node.disk.slices.items()
            }
            return
        assert node.batch is not None
        if node.batch.changes:
            return  # it has happened in memory alone: nothing of it was said or given
        if node.is_restored:
            if core.returning.is_open:
                return  # it must not use what it remembers before it has asked
            node.is_restored = False
            self._asked_in_vain(node)
            for key, address in node.granted.items():
                if self.holders.get(address) != (node, key) or not core.space.owns(address):
                    node.astray.add(address)
        if node.taken:
            self._laid_to_rest(node)
        parts = core.space.slices
        if self.owned.get(node, []) != parts:
            self._let_go(node)
            for address in node.granted.values():
                piece = core.ring.at(address)
                if piece and piece.owner != node.name and piece.version >= EPOCH:
                    node.astray.add(address)  # a takeover is the only way to lose it
            self._take(node, parts)
            self._check_versions(node)

    def _asked_in_vain(self, node: Node) -> None:
        """It goes on with its old memory: where that is wrong, nobody who answered knew better."""
        core = node.core
        assert core is not None
        others = [n for n in node.world.nodes if n is not node and not (n.gone or n.is_clone)]
        for start, end in core.space.slices:
            for at in range(start, end):
                mine = core.ring.at(at)
                assert mine is not None
                for other in others:
                    theirs = self._durable(other, at)
                    if theirs is None or theirs.version <= mine.version:
                        continue
                    if mine.version // EPOCH != theirs.version // EPOCH:
                        continue  # it was taken over, and is a ghost
                    there = other.alive and node.world.linked(node, other)
                    asked = there and other.name in core.returning.answered_by
                    assert not asked, (
                        f"R17: {node} goes on with {self.range.text(at)} v{mine.version},"
                        f" {other} knows v{theirs.version}"
                    )
                    self.forked.add(at)

    def agreed(self, nodes: list[Node]) -> None:
        """A fork is none any more when everybody says the same of an address."""
        for at in list(self.forked):
            if (
                len({p and p.stamp for n in nodes if not n.gone for p in [self._durable(n, at)]})
                < 2
            ):
                self.forked.discard(at)

    def _laid_to_rest(self, ghost: Node) -> None:
        """A ghost is one no more when it has heard of everything that was taken from it."""
        assert ghost.core is not None
        ring = ghost.core.ring
        for start, stamp in list(ghost.taken.items()):
            held = ring.at(start)
            if held is not None and held.stamp >= stamp:
                del ghost.taken[start]
        if not ghost.taken:
            ghost.is_ghost = False
            owns = ghost.core.space.owns
            ghost.astray |= {a for a in ghost.granted.values() if not owns(a)}

    def _take(self, node: Node, parts: list[tuple[Address, Address]]) -> None:
        self.owned[node] = parts
        assert node.core is not None
        space = node.core.space
        idle = node.core.returning.is_waiting
        for start, end in parts:
            for at in range(start, end):
                other = self._owner.get(at)
                if other is not None and other is not node:
                    self._taken_over(node, other, at)
                    if node.is_ghost:
                        continue
                self._owner[at] = node
                address = Address(at)
                held = self.holders.get(address)
                if address in node.astray:
                    node.astray.discard(address)
                    assert node.core is not None
                    key = node.core.holder_of(address)
                    if held is None and key is not None and key in node.granted:
                        self.holders[address] = held = (node, key)
                if held is None or address in space.used or idle or space.is_resting(address):
                    continue
                assert self._may_clash(held[0], address), (
                    f"I3: {self.range.text(at)} of {held[0]} {held[1].container} is free to {node}"
                )

    def _taken_over(self, node: Node, other: Node, at: int) -> None:
        """Two believe to own an address: the one of an earlier epoch must be out of the other's
        reach, or has yet to hear of it."""
        assert node.core is not None
        mine, theirs = node.core.ring.at(at), self._durable(other, at)
        if mine is None or theirs is None or theirs.owner != other.name:
            return
        text = (
            f"I2: {self.range.text(at)} is {other}'s v{theirs.version} and {node}'s {mine.version}"
        )
        if at in self.forked:
            return
        assert mine.version // EPOCH != theirs.version // EPOCH, text
        ghost, piece = (other, mine) if mine.version > theirs.version else (node, theirs)
        if ghost is other and mine.takeover and other.alive and node.world.linked(node, other):
            # Taken over within reach. It hears of it before anything is given (R16): of what it
            # gives now, I1 has to hold.
            lost = (a for a in ghost.granted.values() if piece.start <= a < piece.end)
            ghost.astray.update(lost)
            return
        ghost.is_ghost = True
        ghost.taken[piece.start] = piece.stamp

    @staticmethod
    def _durable(node: Node, at: int) -> Slice | None:
        if node.core is not None:
            return node.core.ring.at(at)
        found = None
        for octets in node.disk.slices.values():
            piece = _decoded(octets)[1]
            if piece.start <= at < piece.end and (found is None or piece.stamp > found.stamp):
                found = piece
        return found

    def _let_go(self, node: Node) -> None:
        for start, end in self.owned.pop(node, ()):
            for address in range(start, end):
                if self._owner.get(address) is node:
                    del self._owner[address]

    def _check_versions(self, node: Node) -> None:
        """Of what covers an address, in the memory of one peer."""
        assert node.core is not None
        seen = self._versions.setdefault(node, {})
        for piece in node.core.ring.slices.values():
            if seen.get(piece.start, 0) != piece.version:
                held = node.core.ring.at(piece.start)
                assert held is not None
                assert held.version >= seen.get(piece.start, 0), f"I4: {node} forgot {piece}"
                seen[piece.start] = held.version

    def by_its_own_word(self, node: Node) -> set[Address]:
        """What a peer owns as far as it knows, durably."""
        mine = set()
        for octets in node.disk.slices.values():
            piece = _decoded(octets)[1]
            if piece.owner == node.name:
                mine |= {Address(at) for at in range(piece.start, piece.end)}
        return {a for a in mine if (p := self._durable(node, a)) and p.owner == node.name}

    def keeps(self, node: Node, mine: set[Address]) -> None:
        """It has an older memory now, in which this is its own, as it was a moment ago."""
        mine = {at for at in mine if at not in self._owner}
        self.owned[node] = [(at, Address(at + 1)) for at in sorted(mine)]
        self._owner |= dict.fromkeys(mine, node)

    def forget(self, node: Node) -> None:
        """The peer begins with an older memory, or none."""
        self._versions.pop(node, None)
        self._let_go(node)
