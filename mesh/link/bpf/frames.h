// SPDX-License-Identifier: Apache-2.0
// What every attach point does with frames: read, believe, count, drop, address, hand up.
//
// Nothing here writes to a packet by pointer: one such write, though it be on a rare path, makes
// the kernel copy the headers of every cloned frame, which all of TCP's are, before a program runs.
#pragma once
#include <stddef.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include "tables.h"

#define INLINE static __attribute__((always_inline)) inline
#define OURS 0x57564d31        /* mark of frames that enter the bridge by the VXLAN device, from us */
#define EINVAL 22
#define EPROTO 71
#define SECOND 1000000000ULL

/* The beginning of a frame, read at one go. */
struct head {
	struct mac target, source;
	__u8 type[2];
	__u8 inner[8];         /* of what the type says */
};

INLINE void total(__u32 index)
{
	__u64 *n = bpf_map_lookup_elem(&totals, &index);
	if (n)
		(*n)++;
}

INLINE int drop(__u32 reason)
{
	total(reason);
	return TC_ACT_SHOT;
}

INLINE struct config *configured(void)
{
	__u32 zero = 0;
	struct config *c = bpf_map_lookup_elem(&config, &zero);
	return c && c->us ? c : NULL;
}

/* A super-frame counts as the packets it stands for. */
INLINE __u64 packets(struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

INLINE void count_tx(struct __sk_buff *skb, __u32 peer, int is_ours)
{
	struct traffic *t = bpf_map_lookup_elem(&traffic, &peer);
	if (!t)
		return;
	if (is_ours) {
		/* Or the compiler joins both ways by an offset that the verifier forbids who may not
		 * leak pointers (no CAP_PERFMON). */
		asm volatile("" : "+r"(t));
		t->tx_frames += packets(skb);
		t->tx_octets += skb->len;
	} else {
		t->relayed_frames += packets(skb);
		t->relayed_octets += skb->len;
	}
}

INLINE void count_rx(struct __sk_buff *skb, __u32 peer)
{
	struct traffic *t = bpf_map_lookup_elem(&traffic, &peer);
	if (t) {
		t->rx_frames += packets(skb);
		t->rx_octets += skb->len;
	}
}

/* 0, or -1: it is shorter than an Ethernet header. By pointer where it lies in one piece, which is
 * 40 ns less than by a call. */
INLINE int read_head(struct __sk_buff *skb, struct head *h)
{
	__builtin_memset(h, 0, sizeof(*h));
	__u8 *start = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;
	if (start + 22 <= end) {
		__builtin_memcpy(h->target.octets, start, 6);
		__builtin_memcpy(h->source.octets, start + 6, 6);
		__builtin_memcpy(h->type, start + 12, 10);
		return 0;
	}
	__u8 octets[22] = {};
	if (bpf_skb_load_bytes(skb, 0, octets, 22) && bpf_skb_load_bytes(skb, 0, octets, 14))
		return -1;
	__builtin_memcpy(h->target.octets, octets, 6);
	__builtin_memcpy(h->source.octets, octets + 6, 6);
	__builtin_memcpy(h->type, octets + 12, 10);
	return 0;
}

INLINE int is_zero(const struct mac *m)
{
	return !(*(const __u32 *)m->octets | *(const __u16 *)(m->octets + 4));
}

INLINE int is_group(const struct mac *m)
{
	return m->octets[0] & 1;
}

/* Whether a frame from `place` may have this source address; learns where it is.
 * The reason to drop it otherwise, -1 when it may. */
INLINE int believe(struct mac *source, __u32 place, __u32 us)
{
	if (is_group(source) || is_zero(source))
		return DROP_BAD_SOURCE;
	__u32 *attached_to = bpf_map_lookup_elem(&attached, source);
	if (attached_to) {
		__u32 a = *attached_to;
		return a == place || (place == SLEEVE && a != us) ? -1 : DROP_MAC_OF_ANOTHER;
	}
	__u32 now = bpf_ktime_get_coarse_ns() / SECOND;
	struct learned *known = bpf_map_lookup_elem(&learned, source);
	if (known && known->peer == place) {
		if (known->seen != now)
			known->seen = now;
		return -1;
	}
	struct learned fresh = { .peer = place, .seen = now };
	bpf_map_update_elem(&learned, source, &fresh, BPF_ANY);
	return -1;
}

/* Whether one more may go: so many a second, so many at once, on this processor. */
INLINE int is_allowed(__u32 what, __u64 a_second, __u64 at_once)
{
	struct allowance *a = bpf_map_lookup_elem(&allowances, &what);
	if (!a)
		return 0;
	__u64 now = bpf_ktime_get_coarse_ns(), each = SECOND / a_second;
	__u64 spent = a->spent_until > now ? a->spent_until : now;
	if (spent - now > (at_once - 1) * each)
		return 0;
	a->spent_until = spent + each;
	return 1;
}

/* Behind which peer an address is; -1: nobody knows. */
INLINE int place_of(struct mac *target)
{
	__u32 *attached_to = bpf_map_lookup_elem(&attached, target);
	if (attached_to)
		return *attached_to;
	struct learned *known = bpf_map_lookup_elem(&learned, target);
	return known ? (int)known->peer : -1;
}

/* Whether the outer packet may be cut: as the inner one may. Then a pod whose packets carry DF
 * learns the path's MTU by the kernel's own ICMP, and one whose packets do not loses none. */
INLINE __u64 may_not_be_cut(struct head *h)
{
	if (h->type[0] == 0x08 && h->type[1] == 0x00)
		return h->inner[6] & 0x40 ? BPF_F_DONT_FRAGMENT : 0;
	return h->type[0] == 0x86 && h->type[1] == 0xdd ? BPF_F_DONT_FRAGMENT : 0;
}

/* Say where the frame goes when it leaves by the VXLAN device. -1: it cannot. */
INLINE int address_to(struct __sk_buff *skb, struct neighbour *n, __u32 source, __u32 target,
		      __u32 hops, __u64 df)
{
	struct bpf_tunnel_key key = {};
	__u64 flags = BPF_F_ZERO_CSUM_TX | df;
	/* Kernels before 6.0 know no more than this of a key, and must not be given more. */
	__u32 size = offsetof(struct bpf_tunnel_key, local_ipv4);
	key.tunnel_id = source | target << 12;
	key.tunnel_ttl = hops;
	if (n->family == 4) {
		key.remote_ipv4 = bpf_ntohl(n->host.words[3]);
		key.local_ipv4 = bpf_ntohl(n->own.words[3]);
	} else if (n->family == 6) {
		__builtin_memcpy(key.remote_ipv6, n->host.words, 16);
		__builtin_memcpy(key.local_ipv6, n->own.words, 16);
		flags |= BPF_F_TUNINFO_IPV6;
	} else {
		return -1;
	}
	if (n->has_own)
		size = sizeof(key);
	return bpf_skb_set_tunnel_key(skb, &key, size, flags) ? -1 : 0;
}

/* For a peer that is reached by sleeve. */
INLINE int to_sleeve(struct config *c)
{
	if (!c->sleeve)
		return drop(DROP_NO_SLEEVE);
	total(TO_SLEEVE);
	return bpf_redirect(c->sleeve, 0);
}

/* Two VLAN tags around it say why a frame comes up and whose it is: they survive segmentation. */
INLINE int tag(struct __sk_buff *skb, __u32 why, __u32 source, __u32 target)
{
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), target & 0xfff))
		return -1;
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021AD), (source & 0xfff) | why << 13) ? -1 : 0;
}

INLINE int upcall(struct __sk_buff *skb, struct config *c, __u32 why, __u32 source, __u32 target)
{
	if (!c->upcall || tag(skb, why, source, target))
		return drop(DROP_TAP);
	total(UPCALLS);
	return bpf_redirect(c->upcall, 0);
}

/* A copy of the frame comes up, and the frame is as it was. */
INLINE int upcall_copy(struct __sk_buff *skb, struct config *c, __u32 why, __u32 source,
		       __u32 target)
{
	if (!c->upcall || tag(skb, why, source, target)) {
		total(DROP_TAP);
		return 0;
	}
	total(UPCALLS);
	bpf_clone_redirect(skb, c->upcall, 0);
	return bpf_skb_vlan_pop(skb) || bpf_skb_vlan_pop(skb) ? -1 : 0;
}

/* The group's own tree, where not everybody listens; NULL: the origin's serves. */
INLINE struct tree *group_tree(__u32 origin, struct mac *target)
{
	struct group key = { .origin = origin, .address = *target };
	return bpf_map_lookup_elem(&group_trees, &key);
}

/* Into the bridge, as if it had come by the VXLAN device: the mesh is one port to the bridge. */
INLINE int to_bridge(struct __sk_buff *skb, struct config *c)
{
	skb->mark = OURS;
	return bpf_redirect(c->vxlan, BPF_F_INGRESS);
}

/* What to_mesh.c, from_mesh.c and from_user.c leave to copies.c, which is chained behind them on
 * the same hook: so the many unrolled copies are verified once, in a program of their own, and no
 * table of programs is needed, which the kernel would empty when its last user is gone. */
enum { THEN_NOTHING, THEN_SLEEVE, THEN_BRIDGE };
#define COPY_COOKIE (0x5756 << 16 | LAYOUT)

INLINE int copy_then(struct __sk_buff *skb, __u32 origin, __u32 hops, __u32 then)
{
	skb->cb[0] = COPY_COOKIE;
	skb->cb[1] = origin;
	skb->cb[2] = hops;
	skb->cb[3] = 0;        /* which child is next */
	skb->cb[4] = then;
	return TC_ACT_UNSPEC;
}
