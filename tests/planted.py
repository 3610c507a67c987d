"""``make planted``: bugs planted one by one in a copy of the tree, each of which a test must catch.

An invariant counts only after a planted bug has failed it (docs/development.md). Prints one line a
bug and a closing line; exits 1 when a test did not notice, or a bug can no longer be planted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.planted_addresses import ADDRESSES, Bug

ROOT = Path(__file__).parent.parent
TIMEOUT = 180.0
"""Seconds for the test that must fail; one that hangs has caught the bug too, but slowly."""


BUGS = (
    *ADDRESSES,
    Bug(
        "every node takes the space of a deleted one",
        "weaver/kubernetes/nodes.py",
        "    return us == min(",
        "    return us >= min(",
        "tests/unit/test_nodes.py",
    ),
    Bug(
        "a node that was made anew and is silent as yet is taken for another's",
        "weaver/kubernetes/nodes.py",
        "peer not in there and name not in silent",
        "peer not in there",
        "tests/unit/test_nodes.py",
    ),
    Bug(
        "what was deleted before a list was made anew stays",
        "weaver/kubernetes/follower.py",
        "self.objects, self._pages = self._pages, {}",
        "self.objects, self._pages = self.objects | self._pages, {}",
        "tests/unit/test_follower.py",
    ),
    Bug(
        "an expired version is watched from again",
        "weaver/kubernetes/follower.py",
        'self._fail("expired" if code == GONE else "watch-error", now, relist=True)',
        'self._fail("expired" if code == GONE else "watch-error", now)',
        "tests/unit/test_follower.py",
    ),
    Bug(
        "a bookmark is taken for an event",
        "weaver/kubernetes/follower.py",
        'changed = kind != "BOOKMARK" and self._changed(kind, meta["name"], thing)',
        'changed = self._changed(kind, meta.get("name"), thing)',
        "tests/unit/test_follower.py",
    ),
    Bug(
        "a daemon that knows nothing of its cluster divides the range alone",
        "weaver/kubernetes/first.py",
        "observer=not config.seed",
        "observer=False",
        "tests/drivers/test_kubernetes.py",
    ),
    Bug(
        "rules are called whole whoever keeps its own address",
        "weaver/daemon/nat.py",
        "return spared == wanted and ",
        "return ",
        "tests/unit/test_cni.py",
    ),
    Bug(
        "a pod keeps its own address for whoever has it next",
        "weaver/daemon/attach.py",
        "            await self.mend_rules()  # whoever",
        "            pass  # whoever",
        "tests/unit/test_attach.py",
    ),
    Bug(
        "the worker delivers broadcasts that the kernel delivers, too",
        "mesh/link/inbound.py",
        "if not peers.peers[origin].in_kernel:",
        "if peers.peers[origin]:",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "the worker asks for unknown addresses where the kernel asks",
        "mesh/link/outbound.py",
        "for peer in peers.peers.values() if not peer.in_kernel)",
        "for peer in peers.peers.values())",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "the sleeve's tree keeps branches that are served by the kernel",
        "mesh/topology/routes.py",
        "if parent == us and (wanting is None or wanting[peer])",
        "if parent == us",
        "tests/properties/test_kernel_routes.py",
    ),
    Bug(
        "an edge carries frames in the kernel when one end says so",
        "mesh/topology/routes.py",
        "if edge.kernel and back.kernel:",
        "if edge.kernel or back.kernel:",
        "tests/properties/test_kernel_routes.py",
    ),
    Bug(
        "an origin sends to all of its neighbours itself",
        "mesh/topology/routes.py",
        "for _, to in nearest[:FANOUT]:",
        "for _, to in nearest:",
        "tests/properties/test_kernel_routes.py",
    ),
    Bug(
        "an answer of another size counts as a heartbeat's",
        "mesh/link/heartbeat.py",
        "if sent is None or sent[0] != size:",
        "if sent is None:",
        "tests/unit/test_heartbeat.py",
    ),
    Bug(
        "a part of a heartbeat is taken for the whole",
        "mesh/wire/heartbeat.py",
        "or size != len(data):",
        "or size < len(data):",
        "tests/unit/test_heartbeat.py",
    ),
    Bug(
        "a path that eats large frames is called silent",
        "mesh/link/heartbeat.py",
        "if self._unanswered > 1:",
        "if self._unanswered > 1000:",
        "tests/unit/test_heartbeat.py",
    ),
    Bug(
        "a list of pods is believed that its owner did not sign",
        "mesh/topology/attachments.py",
        "if not verify(key, CONTEXT, data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]):",
        "if not key:",
        "tests/unit/test_attachments.py",
    ),
    Bug(
        "of two who claim an address one has it",
        "mesh/router/steering.py",
        "if len(found) == 1 and next(iter(found)).mac in tables.attached",
        "if next(iter(found)).mac in tables.attached",
        "tests/unit/test_attachments.py",
    ),
    Bug(
        "trust of one end sends frames in clear",
        "mesh/link/overlay.py",
        "if encrypted and not (ours.trusts and theirs.trusts):",
        "if encrypted and not (ours.trusts or theirs.trusts):",
        "tests/unit/test_overlay.py",
    ),
    Bug(
        "a new sending epoch counts from 0",
        "mesh/link/peers.py",
        "message.tx_tag, self._used)",
        "message.tx_tag, 0)",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "keys that are held are installed again, counters and all",
        "mesh/link/peers.py",
        "peer is None or any(tx.key == message.tx_key for tx in peer.tx.values())",
        "peer is None",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "another peer under a short ID inherits the former one's keys",
        "mesh/link/peers.py",
        "if peer is None or peer.name != name:",
        "if peer is None:",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "receiving by runs ends only when nothing waits, which it makes impossible",
        "mesh/link/receivemode.py",
        "if not drained and self._bulk > ALONE * self._bulk_calls:",
        "if not drained:",
        "tests/unit/test_sleeve_tables.py",
    ),
    Bug(
        "the filter against floods stops what is for other peers",
        "mesh/link/shield.py",
        "others = [(_RETURN, 0, 0, _ACCEPT)]",
        "others = [(_RETURN, 0, 0, _DROP)]",
        "tests/unit/test_shield.py",
    ),
    Bug(
        "the filter against floods takes a tag from whoever shows it",
        "mesh/link/shield.py",
        "(_LOAD32, 0, 0, _SRC),  # source",
        "(_LOAD32, 0, 0, _TAG),  # source",
        "tests/unit/test_shield.py",
    ),
    Bug(
        "the filter against floods knows all relayed peers but the last",
        "mesh/link/shield.py",
        "rest = 2 * (len(senders) - n - 1) + 1",
        "rest = 2 * (len(senders) - n - 1)",
        "tests/unit/test_shield.py",
    ),
    Bug(
        "the filter against floods stands where tags tell nothing",
        "mesh/link/shield.py",
        "if not 0 < tags <= MAX_TAGS:",
        "if False:",
        "tests/unit/test_shield.py",
    ),
    Bug(
        "the replay window is wider than its ring",
        "mesh/link/replay.py",
        "return behind >= WINDOW or",
        "return behind >= 2 * WINDOW or",
        "tests/unit/test_sleeve_tables.py",
    ),
    Bug(
        "the replay window forgets when it moves far",
        "mesh/link/replay.py",
        "if ahead >= WINDOW:",
        "if ahead > 1:",
        "tests/unit/test_sleeve_tables.py",
    ),
    Bug(
        "a forger moves the replay window",
        "mesh/link/inbound.py",
        "if way.window is not None and way.window.saw(seq):",
        "if way.window is not None and not way.window.accept(seq):",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "the replay window remembers what was a window ago",
        "mesh/link/replay.py",
        "self._forget(number, ahead)",
        "pass",
        "tests/unit/test_sleeve_tables.py",
    ),
    Bug(
        "all lanes of a peer share a replay window",
        "mesh/link/inbound.py",
        "rx.window(head[SEQ_AT])",
        "rx.window(0)",
        "tests/unit/test_lanes.py",
    ),
    Bug(
        "an epoch counts as installed when one lane has it",
        "mesh/link/lanes.py",
        "if len(lanes) < self._count:\n            if",
        "if False:\n            if",
        "tests/unit/test_lanes.py",
    ),
    Bug(
        "lanes count from the same number",
        "mesh/link/peers.py",
        "self._first = lane << LANE_SHIFT",
        "self._first = 0",
        "tests/unit/test_lanes.py",
    ),
    Bug(
        "what follows from the tables is remembered beyond their change",
        "mesh/link/inbound.py",
        "if self._version != self._peers.version:",
        "if False:",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "a peer is remembered beyond the move of an address",
        "mesh/link/outbound.py",
        "self._pairs_of == (peers.version, macs.version)",
        "True",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "waiting datagrams are joined whatever their identifications mean",
        "mesh/link/flowrun.py",
        "or buffer[ip + 6 : ip + 8] != _DF",
        "",
        "tests/unit/test_flowrun.py",
    ),
    Bug(
        "waiting datagrams are joined whose checksum nobody checked",
        "mesh/link/flowrun.py",
        "if gso or flags != NEEDS_CHECKSUM or",
        "if gso or",
        "tests/unit/test_flowrun.py",
    ),
    Bug(
        "an epoch's tag is not checked",
        "mesh/link/inbound.py",
        "elif rx.tag != tag:",
        "elif False:",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "an encrypted mesh takes records in clear",
        "mesh/link/inbound.py",
        "elif kind == PLAIN:",
        "elif False:",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "a broadcast of our own is heard when it comes back",
        "mesh/link/inbound.py",
        "if origin == peers.us or not self._broadcasts",
        "if not self._broadcasts",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "a broadcast's hops are not counted down",
        "mesh/link/inbound.py",
        "(origin, number, hops - 1)",
        "(origin, number, hops)",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "a worker's incarnation is ignored",
        "mesh/link/broadcast.py",
        "incarnation, counter = number >> COUNTER_BITS,",
        "incarnation, counter = 0,",
        "tests/unit/test_sleeve_tables.py",
    ),
    Bug(
        "octets of unfinished records are not bounded",
        "mesh/link/reassembly.py",
        "while self._octets > MAX_OCTETS:",
        "while False:",
        "tests/unit/test_sleeve_tables.py",
    ),
    Bug(
        "one peer's unfinished records push out another's",
        "mesh/link/reassembly.py",
        "if self._per_peer.get(peer, 0) >= MAX_PARTIAL_PER_PEER:",
        "if False:",
        "tests/unit/test_sleeve_tables.py",
    ),
    Bug(
        "IPv4 identifications stand still where a super-frame is split",
        "mesh/link/frames.py",
        '"big") + segments',
        '"big")',
        "tests/unit/test_sleeve_packets.py",
    ),
    Bug(
        "ICMP about later fragments",
        "mesh/link/icmp.py",
        "if not dont_fragment or offset:",
        "if not dont_fragment:",
        "tests/unit/test_sleeve_packets.py",
    ),
    Bug(
        "a late timer counts as a silent path",
        "mesh/link/linkprobe.py",
        "if late > LATE and",
        "if False and",
        "tests/unit/test_linkprobe.py",
    ),
    Bug(
        "a path at rest is watched as closely as one with traffic",
        "mesh/link/pathmtu.py",
        "(BUSY_INTERVAL if busy else REST_INTERVAL)",
        "BUSY_INTERVAL",
        "tests/unit/test_linkprobe.py",
    ),
    Bug(
        "sizes are given up while nothing at all is answered",
        "mesh/link/pathmtu.py",
        "if not alive and self._tries > 1 and",
        "if False and",
        "tests/unit/test_linkprobe.py",
    ),
    Bug(
        "an edge is used however much better the way round is",
        "mesh/topology/routes.py",
        "return 100 * direct_us <= ",
        "return True or 100 * direct_us <= ",
        "tests/unit/test_routes.py",
    ),
    Bug(
        "a relay's own edge to the destination is not reckoned with",
        "mesh/topology/routes.py",
        "if edge is not None and is_good_enough(edge[0], left):",
        "if edge and (edge[0] == left or (hop == 0 and is_good_enough(edge[0], left))):",
        "tests/unit/test_routes.py tests/properties/test_routes.py",
    ),
    Bug(
        "an answer of another size proves a size",
        "mesh/link/linkprobe.py",
        "if sent is None or sent[0] != size:",
        "if sent is None:",
        "tests/unit/test_linkprobe.py",
    ),
    Bug(
        "datagrams picked from among others are looked at again",
        "mesh/drivers/sleeve/receiver.py",
        "self._taken.update(numbers)\n        self.inbound",
        "self.inbound",
        "tests/drivers/test_receiver.py",
    ),
    Bug(
        "a run waits for its rest while some behind it were picked out",
        "mesh/drivers/sleeve/receiver.py",
        "if not taken or max(taken) < start:",
        "if True:",
        "tests/drivers/test_receiver.py",
    ),
    Bug(
        "a relay picks what came behind a record's last datagram, too",
        "mesh/drivers/sleeve/receiver.py",
        "if size < segment:",
        "if False:",
        "tests/drivers/test_receiver.py",
    ),
    Bug(
        "the last datagram picked leaves its slot as short as it was",
        "mesh/drivers/sleeve/sender.py",
        "slots.lengths[2 * numbers[-1] + 1] = slots.payload",
        "pass",
        "tests/drivers/test_receiver.py",
    ),
    Bug(
        "records of which more came are given up for those just begun",
        "mesh/link/reassembly.py",
        "self._give_up(oldest or next(",
        "self._give_up(next(",
        "tests/unit/test_sleeve_tables.py",
    ),
    Bug(
        "a relay has the kernel drop what is no longer too much",
        "mesh/link/shedding.py",
        "1 - (1 - share) * EASE",
        "share",
        "tests/unit/test_queue_time.py",
    ),
    Bug(
        "a relay has the kernel drop nothing",
        "mesh/link/shedding.py",
        "1 - (1 - shares.get(pair, 0.0)) * (1 - STEP * more)",
        "shares.get(pair, 0.0)",
        "tests/unit/test_queue_time.py",
    ),
    Bug(
        "records are shed by the same numbers every time",
        "mesh/link/shield.py",
        "(_XOR_WITH, 0, 0, salt),",
        "(_XOR_WITH, 0, 0, 0),",
        "tests/unit/test_shield.py",
    ),
    Bug(
        "what is shed of one pair is shed of those after it",
        "mesh/link/shield.py",
        "(_EQUAL, 0, 6, src << 16 | dst),",
        "(_EQUAL, 0, 0, src << 16 | dst),",
        "tests/unit/test_shield.py",
    ),
    Bug(
        "a pair that is not shed today is never looked at by its tag",
        "mesh/link/shield.py",
        "rest = 7 * (len(shares) - n - 1)",
        "rest = 7 * (len(shares) - n)",
        "tests/unit/test_shield.py",
    ),
    Bug(
        "a forged datagram is tried twice",
        "mesh/drivers/sleeve/receiver.py",
        "if not many:\n",
        "if False:\n",
        "tests/drivers/test_receiver.py",
    ),
    Bug(
        "pieces of a record are put together as they came",
        "mesh/link/reassembly.py",
        'b"".join([pieces[n] for n in range(len(pieces))])',
        'b"".join(pieces.values())',
        "tests/properties/test_records_in_bad_hands.py",
    ),
    Bug(
        "a record that came twice over is delivered twice",
        "mesh/link/inbound.py",
        "        if way.window.accept(seq):",
        "        if True:",
        "tests/properties/test_records_in_bad_hands.py",
    ),
    Bug(
        "records of a lossy path do not shrink",
        "mesh/link/recordsize.py",
        "if wanted < SHRINK_BELOW * present:",
        "if False:",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "records never grow again",
        "mesh/link/recordsize.py",
        "        if wanted <= self.datagrams:",
        "        if True:",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "a size that failed is tried again at once",
        "mesh/link/recordsize.py",
        "if self._ceiling is not None and now < self._retry_at:",
        "if False:",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "one report weighs what it says",
        "mesh/link/recordsize.py",
        "counted = min(seen, MOST_REPORTED)",
        "counted = seen",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "a search for the path's MTU counts as loss",
        "mesh/link/recordsize.py",
        "excused = min(missing, self._excuses[n])",
        "excused = 0",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "a probe that came excuses a record that did not",
        "mesh/link/recordsize.py",
        "        missing += self._owed",
        "        missing += 0",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "answers that were lost excuse records for ever",
        "mesh/link/recordsize.py",
        "if now - self._reported_at < FLOWING:",
        "if False:",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "small probes that are lost are no loss",
        "mesh/link/recordsize.py",
        "is_one_of_them = straight and octets <= self._segment",
        "is_one_of_them = False",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "pauses outlive the loss that made sizes fail",
        "mesh/link/recordsize.py",
        "if below and now - self._failed_at >= SETTLED:",
        "if False:",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "loss that has gone is compared with a rate that fades",
        "mesh/link/recordsize.py",
        "if self._clean * self._last_loss >= GONE and",
        "if self._clean * self.loss >= GONE and",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "what the former path lost is charged to the next",
        "mesh/link/recordsize.py",
        "if not seen or now < self._heed_at:",
        "if not seen:",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "another path inherits the former one's loss",
        "mesh/link/recordsize.py",
        "if via != self._via:",
        "if False:",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "a record of one datagram does not leave room for its tag",
        "mesh/link/recordsize.py",
        "datagrams * self._payload - TAG_SIZE",
        "datagrams * self._payload",
        "tests/unit/test_record_size.py",
    ),
    Bug(
        "records shrink for the receiver's own overruns",
        "mesh/link/lossmeter.py",
        "ours = overruns.take(whole_loss)",
        "ours = 0",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "single datagrams that are lost show nowhere",
        "mesh/link/lossmeter.py",
        "self._gaps += lost - records",
        "self._gaps += 0",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "records that are overtaken count as lost",
        "mesh/link/lossmeter.py",
        "return window.missing(after, before)",
        "return window.missing(after, top)",
        "tests/unit/test_sleeve_forwarding.py",
    ),
    Bug(
        "paths of equal cost are decided by who looks",
        "mesh/topology/routes.py",
        "if known is None or offer < known:",
        "if known is None or offer > known:",
        "tests/properties/test_routes.py",
    ),
    Bug(
        "an edge that only one end knows carries frames",
        "mesh/topology/routes.py",
        "if not (edge.established and back.established):",
        "if not (edge.established or back.established):",
        "tests/unit/test_routes.py tests/properties/test_routes.py",
    ),
    Bug(
        "a topology record's signature is not checked",
        "mesh/topology/topology.py",
        "if not label.is_genuine(item.payload):",
        "if False:",
        "tests/unit/test_topology.py tests/properties/test_topology_merge.py",
    ),
    Bug(
        "what was forgotten is learnt again from whoever still tells it",
        "mesh/topology/topology.py",
        "self._forgotten.add(name.octets, self.records[name].stamp)",
        "pass",
        "tests/unit/test_topology.py",
    ),
    Bug(
        "a peer that was away and comes back unchanged stays forgotten",
        "mesh/topology/topology.py",
        "for name, item in genuine.items() if name in near]",
        "for name, item in genuine.items() if False]",
        "tests/unit/test_topology.py",
    ),
    Bug(
        "a connection that was refused after its handshake stays half-open",
        "mesh/router/neighbours.py",
        "if stream.target is None and not stream.admitted:",
        "if stream.target is None and remote is None:",
        "tests/sim/test_bounds.py",
    ),
    Bug(
        "a UID that was replaced may come back while its successor lives",
        "mesh/router/neighbours.py",
        "if (remote.name, remote.uid) not in self._replaced:",
        "if True:",
        "tests/scenarios/test_scenarios.py",
    ),
    Bug(
        "the only connection counts as one of two when the other end says so",
        "mesh/connection/maker.py",
        "if another:",
        "if another or reason in (Refusal.DUPLICATE, Refusal.RESTARTED):",
        "tests/unit/test_maker.py",
    ),
    Bug(
        "of two that disagree only one learns it",
        "mesh/gossip/engine.py",
        "> item.stamp or (item.key in in_vain and item.key in digest)",
        "> item.stamp",
        "tests/unit/test_ring.py",
    ),
    Bug(
        "a slice's signature is not checked",
        "ipam/ring.py",
        "return verify(said.issuer_key, CONTEXT, head + said.content(), said.signature)",
        "return True",
        "tests/unit/test_ring.py",
    ),
    Bug(
        "another than the owner makes a slice's next version",
        "ipam/disputes.py",
        "if said.version <= held.version + 1:",
        "if False:",
        "tests/unit/test_ring.py",
    ),
    Bug(
        "a donor gives away more than half of what is free",
        "ipam/space.py",
        "size = min((end - start + 1) // 2, max(1, self.free_count() // 2))",
        "size = end - start",
        "tests/unit/test_ipam_parts.py",
    ),
    Bug(
        "votes about another range count",
        "ipam/election.py",
        "elif vote.range != self._range:",
        "elif False:",
        "tests/unit/test_election.py",
    ),
    Bug(
        "who did not promise is given a slice",
        "ipam/election.py",
        "value = Value(cluster, tuple(sorted(promised)))",
        "value = Value(cluster, tuple(sorted({*awaited, self.us})))",
        "tests/unit/test_election.py",
    ),
    Bug(
        "a store that lost everything is a new one",
        "ipam/drivers/store.py",
        "if not held:",
        "if not held and db.executescript(tables) is None:",
        "tests/drivers/test_ipam_store.py",
    ),
    Bug(
        "an heir says yes to what it does not hold",
        "ipam/handover.py",
        "holds = all(self._ring.holds(octets) for octets in message.slices)",
        "holds = True",
        "tests/unit/test_handover.py",
    ),
    Bug(
        "what was given is forgotten when its heir falls silent",
        "ipam/handover.py",
        "if self._unheard:\n            return self._tell(peers)",
        "if self._unheard and peers:\n            return self._tell(peers)",
        "tests/unit/test_handover.py",
    ),
    Bug(
        "whoever leaves is an heir itself",
        "ipam/handover.py",
        "holds = holds and self._us in owners and not self.has_left",
        "pass",
        "tests/unit/test_handover.py",
    ),
    Bug(
        "accepted connections are not counted against a flood",
        "mesh/connection/maker.py",
        "return self._half_open < MAX_HALF_OPEN and self._accepts.take(now)",
        "return True",
        "tests/unit/test_maker.py tests/properties/test_maker_machine.py",
    ),
    Bug(
        "frames join whatever their IPv4 identification",
        "mesh/link/joining.py",
        "            and (ident == flow.ident or ident == flow.fixed)\n",
        "",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "a stream joins over a gap",
        "mesh/link/joining.py",
        "and word == flow.word\n            and start == flow.start\n            and (ident",
        "and start == flow.start\n            and (ident",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "a wrong IPv4 checksum is joined, and comes out right",
        "mesh/link/joining.py",
        "            and (ident + check) % 0xFFFF == flow.sum\n",
        "",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "acknowledgements and options of a stream may differ",
        "mesh/link/joining.py",
        "            and (flow.rest is None or flow.take_rest(frame, AFTER6)[0] == flow.rest)\n",
        "",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "a frame after a shorter one joins",
        "mesh/link/joining.py",
        "return not other.is_last and other.payload % mine.gso_size == 0 and self.left > 0",
        "return not other.is_last and self.left > 0",
        "tests/properties/test_joining.py",
    ),
    Bug(
        "a push in the midst of a super-frame is lost",
        "mesh/link/joining.py",
        "return not other.is_last and other.payload",
        "return other.payload",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "a joined frame's sum begins as its first's did",
        "mesh/link/joining.py",
        "(self.base + length) % 0xFFFF or 0xFFFF",
        "(self.base + self.first - ports) % 0xFFFF or 0xFFFF",
        "tests/properties/test_joining.py",
    ),
    Bug(
        "a wrong sum joins right ones",
        "mesh/link/joining.py",
        "if mine.is_partial and (other.base - self.base) % 0xFFFF:",
        "if False:",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "a pushed segment overtakes its own flow",
        "mesh/link/joining.py",
        "        self._write(flow.close())\n        self.add(frame)\n",
        "        self.add(frame)\n        self._write(flow.close())\n",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "what is of no flow overtakes what is held",
        "mesh/link/joining.py",
        "        if self._flows:\n            self.flush()\n        self._write(frame)",
        "        self._write(frame)",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "more datagrams are joined than receivers have room for",
        "mesh/link/joining.py",
        "MAX_UDP_SEGMENTS = 64",
        "MAX_UDP_SEGMENTS = 65",
        "tests/unit/test_joining.py",
    ),
    Bug(
        "each end chooses the cipher that is fastest for itself",
        "mesh/link/ciphers.py",
        "max(one[cipher], other[cipher])",
        "one[cipher]",
        "tests/unit/test_epochs.py",
    ),
    Bug(
        "of equal ciphers the one the initiator names first",
        "mesh/link/ciphers.py",
        "for cipher in Cipher if cipher in one and cipher in other]",
        "for cipher in reversed(Cipher) if cipher in one and cipher in other]",
        "tests/unit/test_ciphers.py",
    ),
    Bug(
        "a responder takes any cipher that it can do",
        "mesh/link/ciphers.py",
        "if told is not agree(ours, features):",
        "if told is None:",
        "tests/unit/test_epochs.py",
    ),
    Bug(
        "a responder takes a cipher that it does not offer",
        "mesh/link/ciphers.py",
        "if told not in ours:",
        "if told is None:",
        "tests/unit/test_ciphers.py",
    ),
    Bug(
        "the keys of every cipher are the same",
        "mesh/link/epochs.py",
        """            rx_key=handshake.export(b"key %s %s" % (cipher.encode(), rx)),
            tx_key=handshake.export(b"key %s %s" % (cipher.encode(), tx)),
""",
        """            rx_key=handshake.export(b"key " + rx),
            tx_key=handshake.export(b"key " + tx),
""",
        "tests/unit/test_epochs.py",
    ),
    Bug(
        "the worker seals with one cipher whatever it is told",
        "mesh/link/peers.py",
        "AEADS[message.cipher]",
        "next(iter(AEADS.values()))",
        "tests/unit/test_ciphers.py",
    ),
    Bug(
        "a cipher that was cold once counts as slow",
        "mesh/drivers/ciphers.py",
        "min(best.get(cipher, took), took)",
        "best.get(cipher, took)",
        "tests/drivers/test_ciphers.py",
    ),
    Bug(
        "a path whose first probe was lost is asked again a second later",
        "mesh/link/linkprobe.py",
        "self._patience = FIRST",
        "self._patience = INTERVAL",
        "tests/unit/test_linkprobe.py",
    ),
    Bug(
        "the first round trip, of a host that was busy, is a path's cost",
        "mesh/link/linkprobe.py",
        "if self._samples <= FEW_SAMPLES:",
        "if self._samples <= 1:",
        "tests/unit/test_linkprobe.py",
    ),
    Bug(
        "who was not ready for the first message waits until it is repeated",
        "mesh/link/epochs.py",
        "elif attempt.tries == 1 and not attempt.third:",
        "elif attempt.tries == 0:",
        "tests/unit/test_epochs.py",
    ),
    Bug(
        "a branch is held for ever",
        "mesh/router/branches.py",
        "if until > now",
        "if until >= 0",
        "tests/unit/test_branches.py",
    ),
    Bug(
        "a branch of a peer that is gone is held",
        "mesh/router/branches.py",
        "and child in known",
        "and True",
        "tests/unit/test_branches.py",
    ),
    Bug(
        "a standing queue keeps its length",
        "mesh/link/queuetime.py",
        "self.length = wanted",
        "pass",
        "tests/unit/test_queue_time.py",
    ),
    Bug(
        "a queue that runs empty now and then counts as standing",
        "mesh/link/queuetime.py",
        "self._since, self.standing = None, False",
        "self.standing = False",
        "tests/unit/test_queue_time.py",
    ),
    Bug(
        "a relay is fair to the acknowledgements of a stream that it has to itself",
        "mesh/link/fairness.py",
        "return len(came) <= 2 and len({frozenset(pair) for pair in came}) < 2",
        "return len(came) < 2",
        "tests/unit/test_queue_time.py",
    ),
    Bug(
        "a relay drops of everybody alike",
        "mesh/link/fairness.py",
        "return {pair: 1 - level / more for pair, more in waiting[n:]}",
        "return dict.fromkeys(came, 1 - room / max(1, sum(came.values())))",
        "tests/unit/test_queue_time.py",
    ),
    Bug(
        "a relay's room shrinks to nothing under a flood",
        "mesh/link/fairness.py",
        "max(room, FLOOR * self._capacity)",
        "room",
        "tests/unit/test_queue_time.py",
    ),
    Bug(
        "fastdp: sources are not checked",
        "mesh/link/bpf/from_mesh.c",
        "if (!bpf_map_lookup_elem(&sources, &from))",
        "if (!us && !bpf_map_lookup_elem(&sources, &from))",
        "tests/netns/test_datapath_kernel.py::test_who_may_speak",
    ),
    Bug(
        "fastdp: a relay leaves the hops as they are",
        "mesh/link/bpf/from_mesh.c",
        "o.hops - 1, may_not_be_cut",
        "o.hops, may_not_be_cut",
        "tests/netns/test_datapath_kernel.py::test_hops_run_out",
    ),
    Bug(
        "fastdp: a broadcast may come from anywhere",
        "mesh/link/bpf/from_mesh.c",
        "if (!p || !is_at(p, &o)) {",
        "if (!p) {",
        "tests/netns/test_datapath_kernel.py::test_broadcasts_come_from_their_parent_only",
    ),
    Bug(
        "fastdp: the device's own ICMP is taken for a loop",
        "mesh/link/bpf/from_mesh.c",
        "if (!is_too_big(skb))",
        "if (us || !is_too_big(skb))",
        "tests/netns/test_fastdp.py::test_pods_learn_the_mtu_from_the_kernel",
    ),
    Bug(
        "fastdp: a relay's ICMP goes on to the destination",
        "mesh/link/bpf/from_mesh.c",
        "if (n && is_at(n, &o)) {",
        "if (n && is_at(n, &o) && o.source == us) {",
        "tests/netns/test_fastdp.py::test_pods_learn_the_mtu_from_the_kernel",
    ),
    Bug(
        "fastdp: what is too big for its destination goes there",
        "mesh/link/bpf/too_big.h",
        "return packet_size(skb, h) > mtu;",
        "return packet_size(skb, h) > mtu + 1;",
        "tests/netns/test_datapath_kernel.py::test_what_a_destination_does_not_take_is_answered_to_its_pod",
    ),
    Bug(
        "fastdp: IPv6 is told less than its least MTU",
        "mesh/link/bpf/too_big.h",
        "bpf_htonl(mtu < IPV6_LEAST ? IPV6_LEAST : mtu)",
        "bpf_htonl(mtu)",
        "tests/netns/test_datapath_kernel.py::test_ipv6_too_big_is_answered_and_never_below_its_least",
    ),
    Bug(
        "fastdp: what may be cut is dropped when it is answered",
        "mesh/link/bpf/to_mesh.c",
        "if (too_big && (df || !is_ipv4(&h)))",
        "if (too_big)",
        "tests/netns/test_datapath_kernel.py::test_what_may_be_cut_goes_on_and_is_answered_as_well",
    ),
    Bug(
        "fastdp: pods hear groups that they do not listen to",
        "mesh/link/bpf/from_mesh.c",
        "t && t->flags & TREE_NOT_HERE ?",
        "t && !us && t->flags & TREE_NOT_HERE ?",
        "tests/netns/test_datapath_kernel.py::test_a_group_goes_where_it_is_listened_to",
    ),
    Bug(
        "fastdp: a group goes along the whole tree",
        "mesh/link/bpf/copies.c",
        "struct tree *t = is_group(&h.target) ?",
        "struct tree *t = is_group(&h.target) && !origin ?",
        "tests/netns/test_datapath_kernel.py::test_a_group_goes_where_it_is_listened_to",
    ),
    Bug(
        "fastdp: reports of groups do not come up",
        "mesh/link/bpf/report.h",
        "octets, 1) && octets[0] == 2;",
        "octets, 1) && octets[0] == 3;",
        "tests/netns/test_datapath_kernel.py::test_reports_come_up_and_go_on",
    ),
    Bug(
        "fastdp: floods are not bounded",
        "mesh/link/bpf/frames.h",
        "a->spent_until = spent + each;",
        "a->spent_until = spent;",
        "tests/drivers/test_bpf_programs.py::test_unicast_nobody_is_known_behind_is_bounded",
    ),
    Bug(
        "fastdp: the second round of copies leaves one out",
        "mesh/link/bpf/copies.c",
        "first += ROUND;",
        "first += ROUND + 1;",
        "tests/netns/test_datapath_kernel.py::test_a_tree_may_be_wide",
    ),
    Bug(
        "fastdp: what is attached moves to where it is seen",
        "mesh/link/bpf/frames.h",
        "-1 : DROP_MAC_OF_ANOTHER;",
        "-1 : -1;",
        "tests/netns/test_datapath_kernel.py::test_what_is_attached_cannot_be_stolen",
    ),
    Bug(
        "fastdp: gratuitous ARP is answered, and nobody else hears it",
        "mesh/link/bpf/answer.h",
        "if (!sender || sender == asked.words[3])",
        "if (!sender)",
        "tests/netns/test_datapath_kernel.py::test_arp_is_answered_here",
    ),
    Bug(
        "fastdp: an advertisement keeps the checksum of its solicitation",
        "mesh/link/bpf/answer.h",
        "f.checksum = ~value;",
        "f.checksum = value;",
        "tests/netns/test_fastdp.py::test_neighbours_of_both_families_are_answered_here",
    ),
    Bug(
        "fastdp: control frames may be cut",
        "mesh/link/bpf/from_user.c",
        "HOPS, BPF_F_DONT_FRAGMENT)",
        "HOPS, 0)",
        "tests/netns/test_fastdp.py::test_a_control_frame_is_never_cut",
    ),
    Bug(
        "fastdp: a super-frame counts as one packet",
        "mesh/link/bpf/frames.h",
        "return skb->gso_segs ? skb->gso_segs : 1;",
        "return skb->len ? 1 : 0;",
        "tests/netns/test_fastdp.py::test_tcp_over_three_hops_by_both_families",
    ),
    Bug(
        "fastdp: an address of our own pod may come by sleeve",
        "mesh/link/bpf/frames.h",
        "return a == place || (place == SLEEVE && a != us) ? -1",
        "return a == place || (place == SLEEVE && us) ? -1",
        "tests/netns/test_datapath_kernel.py::test_what_is_attached_here_does_not_come_by_sleeve",
    ),
    Bug(
        "fastdp: frames are counted for the next hop",
        "mesh/link/bpf/to_mesh.c",
        "count_tx(skb, target, 1);",
        "count_tx(skb, via, 1);",
        "tests/netns/test_datapath_differs.py",
    ),
    Bug(
        "fastdp: programs are taken off before others are put on",
        "mesh/drivers/fastdp/devices.py",
        "        rtnl.add_clsact(index)\n",
        "        rtnl.delete_clsact(index)\n        rtnl.add_clsact(index)\n",
        "tests/netns/test_fastdp.py::test_killed_and_replaced_under_a_flood_nothing_is_lost",
    ),
    Bug(
        "fastdp: tables are made anew at each start",
        "mesh/drivers/fastdp/devices.py",
        "if config.layout == LAYOUT:",
        "if config.layout == -LAYOUT:",
        "tests/netns/test_datapath_kernel.py::test_a_killed_daemon_is_followed_without_a_flush",
    ),
    Bug(
        "fastdp: a foreign device of our name is used",
        "mesh/drivers/fastdp/devices.py",
        'if there.kind != "vxlan" or not there.by_metadata:',
        'if there.kind == "":',
        "tests/netns/test_fastdp.py::test_a_foreign_device_is_left_alone",
    ),
    Bug(
        "fastdp: a struct has its fields in another order than in C",
        "mesh/drivers/fastdp/layout.py",
        '        ("via", ctypes.c_uint16),\n        ("by", ctypes.c_uint16),',
        '        ("by", ctypes.c_uint16),\n        ("via", ctypes.c_uint16),',
        "tests/unit/test_bpf_layout.py",
    ),
    Bug(
        "fastdp: what differs is written, what is too much stays",
        "mesh/link/datapath.py",
        "        datapath.drop_route(short_id)\n",
        "        pass\n",
        "tests/unit/test_datapath.py",
    ),
)


def copy_tree(to: Path) -> None:
    """What git does not ignore, as it lies here now."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def is_caught(tree: Path, bug: Bug) -> bool:
    """Whether the tests that must fail with the bug planted do. Raises ValueError."""
    path = tree / bug.file
    text = path.read_text()
    if text.count(bug.old) != 1:
        raise ValueError(f"{bug.old!r} stands {text.count(bug.old)} times in {bug.file}")
    path.write_text(text.replace(bug.old, bug.new))
    try:
        return pytest(tree, bug.caught_by) != 0
    finally:
        path.write_text(text)


def pytest(tree: Path, tests: str, timeout: float = TIMEOUT) -> int:
    # What is planted in C has to be compiled.
    built = subprocess.run([sys.executable, "hatch_build.py"], cwd=tree, check=False)
    if built.returncode:
        raise ValueError("it does not compile")
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *tests.split()]
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(
            command, cwd=tree, env=env, capture_output=True, timeout=timeout, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.planted", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="bugs whose name has it")
    args = parser.parse_args()
    bugs = [bug for bug in BUGS if args.only in bug.what]
    if os.geteuid() != 0:
        bugs = [bug for bug in bugs if "netns" not in bug.caught_by]
        print("without root, what needs devices is left out", file=sys.stderr)
    if not bugs:
        parser.error(f"no bug is called {args.only!r}")
    began, missed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="planted") as directory:
        tree = Path(directory)
        copy_tree(tree)
        tests = sorted({test for bug in bugs for test in bug.caught_by.split()})
        if pytest(tree, " ".join(tests), 10 * TIMEOUT):
            print("the tests fail without any bug planted", file=sys.stderr)
            return 1
        for bug in bugs:
            try:
                caught = is_caught(tree, bug)
                verdict = "caught" if caught else "NOT CAUGHT"
            except ValueError as err:
                caught, verdict = False, f"NOT PLANTED: {err}"
            missed += not caught
            print(f"{verdict:10}  {bug.what}  ({bug.caught_by})", flush=True)
    took = time.monotonic() - began
    print(f"{len(bugs)} bugs planted, {missed} not caught, {took:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
