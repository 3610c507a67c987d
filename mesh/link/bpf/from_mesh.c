// SPDX-License-Identifier: Apache-2.0
// Ingress of the VXLAN device: frames from neighbours, and what the device sends back to itself.
#include "frames.h"

struct outer {
	struct address host;
	__u32 source, target, hops;
};

/* 0, or -1: it came by no tunnel. */
INLINE int read_outer(struct __sk_buff *skb, struct outer *o)
{
	struct bpf_tunnel_key key = {};
	__u32 size = offsetof(struct bpf_tunnel_key, tunnel_label);
	int refused = bpf_skb_get_tunnel_key(skb, &key, size, 0);
	if (!refused) {
		o->host.words[0] = o->host.words[1] = 0;
		o->host.words[2] = bpf_htonl(0xffff);
		o->host.words[3] = bpf_htonl(key.remote_ipv4);
	} else if (refused == -EPROTO &&
		   !bpf_skb_get_tunnel_key(skb, &key, size, BPF_F_TUNINFO_IPV6)) {
		__builtin_memcpy(o->host.words, key.remote_ipv6, 16);
	} else {
		return -1;
	}
	o->source = key.tunnel_id & 0xfff;
	o->target = key.tunnel_id >> 12 & 0xfff;
	o->hops = key.tunnel_ttl;
	return 0;
}

INLINE int is_at(struct neighbour *n, struct outer *o)
{
	return n->family && n->host.words[0] == o->host.words[0] &&
	       n->host.words[1] == o->host.words[1] && n->host.words[2] == o->host.words[2] &&
	       n->host.words[3] == o->host.words[3];
}

/* ICMP that says a packet was too big: of RFC 1191, or of RFC 4443. */
INLINE int is_too_big(struct __sk_buff *skb)
{
	__u8 head[24];         /* EtherType, an IPv4 header, the message's first two octets */
	if (bpf_skb_load_bytes(skb, 12, head, sizeof(head)))
		return 0;
	if (head[0] == 0x08 && head[1] == 0x00)
		return head[2] == 0x45 && head[11] == 1 && head[22] == 3 && head[23] == 4;
	__u8 kind;
	if (head[0] != 0x86 || head[1] != 0xdd || head[8] != 58)
		return 0;
	return !bpf_skb_load_bytes(skb, 54, &kind, 1) && kind == 2;
}

/* Of a frame that is not ours; NULL: it does not go by the kernel from here. */
INLINE struct neighbour *next_hop(struct route *r)
{
	__u32 via = r->via, onward = r->onward;
	/* Or the compiler joins both by an offset that the verifier forbids who may not leak pointers
	 * (no CAP_PERFMON). */
	asm volatile("" : "+r"(via), "+r"(onward));
	if (r->by != BY_KERNEL)
		via = onward;
	return via ? bpf_map_lookup_elem(&neighbours, &via) : NULL;
}

/* What we send comes back to us when it is too big for the path to the next hop: the device has
 * made an ICMP message of it, as if from there, under the numbers of the frame that was too big. It
 * goes to that frame's source. Nothing else comes from where it would be sent to. */
INLINE int came_back(struct __sk_buff *skb, struct outer *o, __u32 us)
{
	if (!is_too_big(skb))
		return drop(DROP_LOOPED);
	if (o->source == us)
		return TC_ACT_OK;
	__u32 source = o->source;
	struct route *r = bpf_map_lookup_elem(&routes, &source);
	struct neighbour *n = r ? next_hop(r) : NULL;
	if (!n || address_to(skb, n, o->target, source, HOPS, 0))
		return drop(DROP_NO_ROUTE);
	count_tx(skb, source, 0);
	return -1;
}

SEC("tc") int from_mesh(struct __sk_buff *skb)
{
	struct outer o;
	if (read_outer(skb, &o)) {
		if (skb->mark != OURS)
			return drop(DROP_MALFORMED);
		skb->mark = 0;
		return TC_ACT_OK;
	}
	struct config *c = configured();
	if (!c)
		return drop(DROP_NOT_CONFIGURED);
	__u32 us = c->us, target = o.target;
	struct route *r = NULL;
	struct neighbour *n = NULL;
	if (target != us) {
		r = bpf_map_lookup_elem(&routes, &target);
		if (r)
			n = next_hop(r);
		if (n && is_at(n, &o)) {
			int verdict = came_back(skb, &o, us);
			return verdict < 0 ? bpf_redirect(c->vxlan, 0) : verdict;
		}
	}
	struct source from = { .host = o.host, .peer = o.source };
	if (!bpf_map_lookup_elem(&sources, &from))
		return drop(DROP_BAD_SOURCE);
	if (o.source == us)
		return drop(DROP_LOOPED);
	struct head h;
	if (read_head(skb, &h))
		return drop(DROP_MALFORMED);
	if (target != us) {
		if (!n && r && r->by == BY_SLEEVE)
			return upcall(skb, c, TRANSIT, o.source, target);
		if (n && o.hops <= 1)
			return drop(DROP_HOP_LIMIT);
		if (!n || address_to(skb, n, o.source, target, o.hops - 1, may_not_be_cut(&h)))
			return drop(DROP_NO_ROUTE);
		count_tx(skb, target, 0);
		return bpf_redirect(c->vxlan, 0);
	}
	if (is_zero(&h.source) && is_zero(&h.target))
		return upcall(skb, c, CONTROL, o.source, us);
	/* For one of our pods, as nearly all are, or along the tree of its source: group addresses, and
	 * unicast that was sent along it because nobody knew the address. */
	int group = is_group(&h.target);
	struct tree *t = NULL;
	if (group || place_of(&h.target) != (int)us)
		t = bpf_map_lookup_elem(&trees, &o.source);
	if (t && t->parent) {
		__u32 parent = t->parent;
		struct neighbour *p = bpf_map_lookup_elem(&neighbours, &parent);
		if (!p || !is_at(p, &o)) {
			if (group)
				return drop(DROP_OFF_TREE);
			t = NULL;
		}
	}
	int bad = believe(&h.source, o.source, us);
	if (bad >= 0)
		return drop(bad);
	count_rx(skb, o.source);
	struct tree *g = t && group ? group_tree(o.source, &h.target) : NULL;
	if (g)
		t = g;
	int then = t && t->flags & TREE_NOT_HERE ? THEN_NOTHING : THEN_BRIDGE;
	if (t && (t->count || t->flags & TREE_TO_SLEEVE)) {
		if (o.hops > 1)
			return copy_then(skb, o.source, o.hops - 1, then);
		total(DROP_HOP_LIMIT);         /* of the copies: our pods get theirs */
	}
	return then == THEN_BRIDGE ? TC_ACT_OK : TC_ACT_STOLEN;
}

char licence[] SEC("license") = "Apache-2.0";
