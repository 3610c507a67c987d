// SPDX-License-Identifier: Apache-2.0
// Packets larger than what their destination takes: answered to the pod that sent them, as a router
// would (RFC 1191, RFC 4443). The VXLAN device does it for what the underlay does not carry; of what
// pods at the other end take it knows nothing.
#pragma once
#include "frames.h"

#define IPV6_LEAST 1280        /* of less than that no stack is to be told */

struct frag_needed {
	__u8 version, service;
	__u16 length;
	__u32 number;
	__u8 hops, protocol;
	__u16 head_sum;
	__u32 from, to;
	__u8 kind, code;
	__u16 sum;
	__u16 zero, mtu;
	__u8 quote[68];        /* the longest header, and 8 octets */
};

struct packet_too_big {
	__u8 version[4];
	__u16 length;
	__u8 next, hops;
	__u32 from[4], to[4];
	__u8 kind, code;
	__u16 sum;
	__u32 mtu;
	__u8 quote[96];
};

INLINE int is_ipv4(struct head *h)
{
	return h->type[0] == 0x08 && h->type[1] == 0x00;
}

INLINE int is_ipv6(struct head *h)
{
	return h->type[0] == 0x86 && h->type[1] == 0xdd;
}

/* Octets of the largest packet that a frame stands for. */
INLINE __u32 packet_size(struct __sk_buff *skb, struct head *h)
{
	__u32 payload = skb->gso_size;
	if (!payload)
		return skb->len - ETH_HLEN;
	__u32 head = is_ipv4(h) ? (h->inner[0] & 15) * 4 : 40;
	__u8 protocol = h->inner[6], offset = 0;
	if (is_ipv4(h) && bpf_skb_load_bytes(skb, ETH_HLEN + 9, &protocol, 1))
		return 0;
	if (protocol == 17)
		return head + 8 + payload;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + head + 12, &offset, 1))
		return 0;
	return head + (offset >> 4) * 4 + payload;
}

INLINE int exceeds(struct __sk_buff *skb, struct head *h, __u32 mtu)
{
	if (skb->len <= mtu + ETH_HLEN || !mtu || skb->vlan_present)
		return 0;
	if (is_ipv6(h) && mtu < IPV6_LEAST)
		mtu = IPV6_LEAST;
	return packet_size(skb, h) > mtu;
}

INLINE __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Make the frame an answer to its sender of so many octets behind the Ethernet header. */
INLINE int turn_round(struct __sk_buff *skb, struct config *c, struct head *h, void *packet,
		      __u32 size)
{
	__u8 addresses[12];
	__builtin_memcpy(addresses, h->source.octets, 6);
	__builtin_memcpy(addresses + 6, h->target.octets, 6);
	if (bpf_skb_change_tail(skb, ETH_HLEN + size, 0) ||
	    bpf_skb_store_bytes(skb, 0, addresses, 12, BPF_F_INVALIDATE_HASH) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, packet, size, BPF_F_RECOMPUTE_CSUM))
		return drop(DROP_MALFORMED);
	return to_bridge(skb, c);
}

INLINE int say_frag_needed(struct __sk_buff *skb, struct config *c, struct head *h, __u32 mtu)
{
	struct frag_needed f = {
		.version = 0x45, .service = 0xc0, .length = bpf_htons(sizeof(f)),
		.hops = 64, .protocol = 1, .kind = 3, .code = 4, .mtu = bpf_htons(mtu),
	};
	if (bpf_skb_load_bytes(skb, ETH_HLEN, f.quote, sizeof(f.quote)))
		return TC_ACT_SHOT;
	/* Of later fragments and of ICMP errors nothing is said (RFC 1122, 3.2.2). */
	if ((f.quote[6] & 0x1f) | f.quote[7])
		return TC_ACT_SHOT;
	if (f.quote[9] == 1 && f.quote[20] != 0 && f.quote[20] != 8)
		return TC_ACT_SHOT;
	__builtin_memcpy(&f.from, f.quote + 16, 4);
	__builtin_memcpy(&f.to, f.quote + 12, 4);
	f.head_sum = folded(bpf_csum_diff(NULL, 0, (__be32 *)&f, 20, 0));
	f.sum = folded(bpf_csum_diff(NULL, 0, (__be32 *)&f.kind, 8 + sizeof(f.quote), 0));
	return turn_round(skb, c, h, &f, sizeof(f));
}

INLINE int say_too_big(struct __sk_buff *skb, struct config *c, struct head *h, __u32 mtu)
{
	struct packet_too_big f = {
		.version = { 0x60 }, .length = bpf_htons(8 + sizeof(f.quote)), .next = 58,
		.hops = 64, .kind = 2, .mtu = bpf_htonl(mtu < IPV6_LEAST ? IPV6_LEAST : mtu),
	};
	if (bpf_skb_load_bytes(skb, ETH_HLEN, f.quote, sizeof(f.quote)))
		return TC_ACT_SHOT;
	if (f.quote[6] == 58 && f.quote[40] < 128)
		return TC_ACT_SHOT;
	__builtin_memcpy(f.from, f.quote + 24, 16);
	__builtin_memcpy(f.to, f.quote + 8, 16);
	__be32 rest[2] = { bpf_htonl(8 + sizeof(f.quote)), bpf_htonl(58) };
	__u32 sum = bpf_csum_diff(NULL, 0, (__be32 *)f.from, 32, 0);
	sum = bpf_csum_diff(NULL, 0, rest, 8, sum);
	f.sum = folded(bpf_csum_diff(NULL, 0, (__be32 *)&f.kind, 8 + sizeof(f.quote), sum));
	return turn_round(skb, c, h, &f, sizeof(f));
}

/* The verdict on a frame that exceeds `mtu`. Whoever may cut it is told as well, for Linux heeds
 * that; meanwhile it has gone its way (`went`). */
INLINE int refuse(struct __sk_buff *skb, struct config *c, struct head *h, __u32 mtu, int went)
{
	if (!went)
		total(DROP_TOO_BIG);
	if (is_ipv4(h))
		return say_frag_needed(skb, c, h, mtu);
	return is_ipv6(h) ? say_too_big(skb, c, h, mtu) : TC_ACT_SHOT;
}
