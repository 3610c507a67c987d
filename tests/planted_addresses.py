"""Bugs of address allocation: Weave's, the field's, and our own. See ``tests.planted``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """``old`` stands exactly once in ``file``; ``caught_by`` is what pytest is given."""

    what: str
    file: str
    old: str
    new: str
    caught_by: str


STORIES = "tests/ipam/test_stories.py"
RULES = "tests/unit/test_allocator.py"
LEAKS = "tests/unit/test_leaks.py"
SURVEY = "tests/unit/test_survey.py"
PARTS = "tests/unit/test_ipam_parts.py"

ADDRESSES = (
    Bug(
        "a returned peer gives out of its old ring before anybody has answered (weave#678, case 4)",
        "ipam/returning.py",
        "self.is_waiting = self.is_open = True",
        "self.is_open = True",
        STORIES,
    ),
    Bug(
        "a takeover is one version more, which whoever lives on outruns (weave rmpeer, #3190)",
        "ipam/ring.py",
        "replace(s, owner=self.us, version=next_epoch(s.version, self.us), takeover=True)",
        "replace(s, owner=self.us, version=s.version + 1, takeover=True)",
        STORIES,
    ),
    Bug(
        "two that take over one peer are in one epoch (weave#3190)",
        "ipam/slices.py",
        'return (count * TAKERS + int.from_bytes(taker[:2], "big")) * EPOCH',
        "return count * TAKERS * EPOCH",
        STORIES,
    ),
    Bug(
        "what was taken over is given out at once (k8s#90072, duplicate addresses)",
        "ipam/allocator.py",
        "self.space.rest_whole(piece.start, piece.end, now, rest)",
        "pass",
        RULES,
    ),
    Bug(
        "a certain address of what was taken over is given to a peer at once (found on Kubernetes)",
        "ipam/donor.py",
        "or self._space.is_resting(address, now)",
        "or False",
        RULES,
    ),
    Bug(
        "a hint of nothing free hides a peer's space (weave#897)",
        "ipam/donors.py",
        "donors = [p for p in shares if p in reachable]",
        "donors = [p for p in shares if p in reachable and p not in self._denied]",
        STORIES,
    ),
    Bug(
        "who said that it leaves, and stayed, is never asked again",
        "ipam/donors.py",
        "donors = [p for p in shares if p in reachable]",
        "donors = [p for p in shares if p in reachable and p not in leavers]",
        STORIES,
    ),
    Bug(
        "space that nobody alive is known to own is lost (weave#2797, #3600)",
        "ipam/allocator.py",
        "changed = self.ring.take_over(peer, gaps=gaps)",
        "changed = self.ring.take_over(peer)",
        RULES,
    ),
    Bug(
        "tokens never merge again (weave#1163)",
        "ipam/ring.py",
        "if len(run) > 1",
        "if False",
        RULES,
    ),
    Bug(
        "an address in use is given to whoever asks for it (calico#12257, live addresses freed)",
        "ipam/donor.py",
        "address in self._space.used",
        "False",
        f"{STORIES} {RULES}",
    ),
    Bug(
        "a donor gives addresses away that containers have (calico#5044)",
        "ipam/space.py",
        "taken = sorted(self.used | resting | edges)",
        "taken = sorted(resting | edges)",
        STORIES,
    ),
    Bug(
        "a freed address is free to nobody ever again (calico#8548, leaked handles)",
        "ipam/space.py",
        "self._resting[address] = now",
        "pass",
        STORIES,
    ),
    Bug(
        "a clone goes on alone (calico#12257, two of one identity)",
        "ipam/returning.py",
        "self._must_meet = True",
        "self._must_meet = False",
        STORIES,
    ),
    Bug(
        "containers of a peer that was fenced are not asked back, nor said to be lost",
        "ipam/estate.py",
        "self.astray |= {a for a in self.holders if not self.space.owns(a)}",
        "self.astray |= set()",
        STORIES,
    ),
    Bug(
        "gossip shows a gift that no disk has",
        "ipam/unsaved.py",
        "self._hidden.setdefault(piece.start, self._before.get(piece.start))",
        "pass",
        RULES,
    ),
    Bug(
        "an answer is given although its write failed (weave#2344)",
        "ipam/batch.py",
        "kept.append(effect if refused else Answer(effect.request, Refused(reason)))",
        "kept.append(effect if refused or reason else effect)",
        "tests/unit/test_batch.py",
    ),
    Bug(
        "no timer runs after a write that failed",
        "ipam/batch.py",
        "elif isinstance(effect, Arm):",
        "elif isinstance(effect, Arm) and not reason:",
        "tests/unit/test_batch.py",
    ),
    Bug(
        "who leaves takes the memory of its gifts along (weave#1593)",
        "ipam/handover.py",
        "starts = tuple(sorted({*(piece.start for piece in changed), *issued}))",
        "starts = tuple(sorted({piece.start for piece in changed}))",
        "tests/unit/test_handover.py",
    ),
    Bug(
        "what is left of a slice keeps the version it had whole",
        "ipam/ring.py",
        "pieces.insert(0, Slice(held.start, start, self.us, version))",
        "pieces.insert(0, Slice(held.start, start, self.us, held.version))",
        STORIES,
    ),
    Bug(
        "where slices overlap the smaller stamp counts",
        "ipam/overlay.py",
        "(-ordered[at].stamp, at, ordered[at])",
        "(ordered[at].stamp, at, ordered[at])",
        STORIES,
    ),
    Bug(
        "what lies behind a takeover in the middle of a slice is lost when the slice is divided",
        "ipam/ring.py",
        "wanted += self._rest_of(wanted)",
        "wanted += []",
        "tests/unit/test_ring.py",
    ),
    Bug(
        "whoever says that a slice is its own is believed (weave#3310)",
        "ipam/disputes.py",
        "if said.takeover:\n        return None",
        "if said.start >= 0:\n        return None",
        STORIES,
    ),
    Bug(
        "half of the electors are a quorum (weave#3902, two seeds)",
        "ipam/core.py",
        "electors // 2 + 1",
        "max(1, electors // 2)",
        STORIES,
    ),
    Bug(
        "what is free is forgotten when it has rested",
        "ipam/space.py",
        "resting = {a for a, since in self._resting.items() if now < since + self._rest}",
        "resting = set(self._resting)",
        STORIES,
    ),
    Bug(
        "a peer that lives is taken over",
        "ipam/allocator.py",
        "if peer == self.us or peer in self._reachable:",
        "if peer == self.us:",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "whoever leaves goes on giving addresses out",
        "ipam/core.py",
        "if self._leaves or self.leaving.is_active or self.leaving.has_left:",
        "if self.leaving.has_left:",
        "tests/unit/test_handover.py",
    ),
    Bug(
        "a disputed range is given out of",
        "ipam/estate.py",
        'if c.reason == "version-reused"]',
        "if not c.reason]",
        RULES,
    ),
    Bug(
        "a shorter slice that came first hides the rest of a longer one",
        "ipam/ring.py",
        "if self._is_old(said):",
        "if (held is not None and held.stamp > said.stamp) or self._is_old(said):",
        "tests/unit/test_ring.py",
    ),
    Bug(
        "an owner is not told what was replaced before it heard of it",
        "ipam/ring.py",
        "self.shortened.tell(said.owner, found)",
        "pass",
        "tests/unit/test_ring.py",
    ),
    Bug(
        "an excluded address is given as the next one",
        "ipam/space.py",
        "past = excluded.end_of(at)",
        "past = None",
        PARTS,
    ),
    Bug(
        "space of which only excluded addresses are left is given away",
        "ipam/space.py",
        "[*self._shut(now), *self.excluded.parts]",
        "self._shut(now)",
        PARTS,
    ),
    Bug(
        "a freed address is fresh after a restart",
        "ipam/estate.py",
        "self.space.rest_freed(self._freed, now)",
        "pass",
        RULES,
    ),
    Bug(
        "freed addresses that are remembered no more are lost",
        "ipam/space.py",
        "self._is_forgetful = True",
        "pass",
        PARTS,
    ),
    Bug(
        "what leaks is given up at the first look",
        "weaver/daemon/leaks.py",
        "if now >= since + self._apart]",
        "if True]",
        LEAKS,
    ),
    Bug(
        "another row under the key of one that was suspected is given up with it",
        "weaver/daemon/leaks.py",
        "since if held == suspect else now",
        "since",
        LEAKS,
    ),
    Bug(
        "what came back after the second look is taken down",
        "weaver/daemon/attach.py",
        "if not await still():",
        "if False:",
        LEAKS,
    ),
    Bug(
        "a look that failed counts as the first",
        "weaver/daemon/leaks.py",
        "self._looks.forget()",
        "pass",
        LEAKS,
    ),
    Bug(
        "a peer that does not answer is waited for for ever",
        "ipam/survey.py",
        "now >= asked.until",
        "False",
        SURVEY,
    ),
    Bug(
        "what two peers both say to own is not seen",
        "weaver/daemon/comparison.py",
        "start < reach[0] and peer != reach[1]",
        "start < reach[0] and peer == reach[1]",
        SURVEY,
    ),
    Bug(
        "a restored host makes one slice of what it remembers before all have said what is newer",
        "ipam/core.py",
        "if not self.returning.is_open:\n                effects += self.estate.join()",
        "if merged.news:\n                effects += self.estate.join()",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "a restored host takes back what it gave to one who is away now",
        "ipam/ring.py",
        "None if self.is_asking else self.us)",
        "self.us)",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "who starts is not told what it owns and never heard of",
        "ipam/returning.py",
        "if len(message.extents) < MAX_EXTENTS:",
        "if len(message.extents) > MAX_EXTENTS:",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "who won the election is woken twenty times a second for ever",
        "ipam/core.py",
        "if not self.ring.is_seeded:\n            waits += [self._voter",
        "if self.us:\n            waits += [self._voter",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "what has rested, and nobody can use, wakes the daemon again and again",
        "ipam/core.py",
        "if self._pending.needs_space:\n                waits += [",
        "if self._pending:\n                waits += [",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "alone with a memory in question, it looks every second for whom to ask",
        "ipam/returning.py",
        "if not reachable:  # there",
        "if not reachable and not self.is_waiting:  # there",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "who answered is not asked about what another says is ours since",
        "ipam/returning.py",
        "if not _within(ranges, self._answered.get(p))]",
        "if p not in self._answered]",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "every answer has all those asked again that have not answered yet",
        "ipam/returning.py",
        "return now >= since + ASK_AGAIN or not _within(ranges, asked)",
        "return now >= since",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "a donor whose space is in pieces gives one of them a second",
        "ipam/donors.py",
        "elif self._ours > asking.had:",
        "elif self._ours < asking.had:",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "a donor that gives nothing is asked again and again",
        "ipam/donors.py",
        "elif self._ours > asking.had:",
        "elif self._ours >= asking.had:",
        "tests/unit/test_allocator.py",
    ),
    Bug(
        "whoever needs space puts an end to the ballot that is under way",
        "ipam/voter.py",
        "self._give_way(now)",
        "pass",
        "tests/unit/test_election.py",
    ),
    Bug(
        "what is said of one range is heard by another",
        "weaver/daemon/ranges.py",
        "if kept.range.head() == head:",
        "if kept.range.head() == head or kept is self.first:",
        "tests/drivers/test_ranges.py",
    ),
    Bug(
        "a slice is taken under whatever range's head it comes",
        "ipam/by_range.py",
        "part = self._parts.get(head)\n            if part is None:\n                rejected +=",
        "part = self._parts.get(head, next(iter(self._parts.values())))\n"
        "            if part is None:\n                rejected +=",
        "tests/unit/test_by_range.py",
    ),
    Bug(
        "where one range has nothing left, what the others gave is kept",
        "weaver/daemon/attach.py",
        "if not had:",
        "if False:",
        "tests/unit/test_dual_stack.py",
    ),
    Bug(
        "a range that was added is forgotten by a restart",
        "weaver/daemon/ranges.py",
        "for path in sorted(directory.glob(OTHERS)):",
        "for path in ():",
        "tests/drivers/test_ranges.py",
    ),
)
