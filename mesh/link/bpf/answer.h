// SPDX-License-Identifier: Apache-2.0
// ARP requests and neighbour solicitations, answered at the asker's own host where the mesh knows
// who has the address. Questions without a sender (probes for duplicates) go on as broadcasts: the
// holder has to hear them.
#pragma once
#include "frames.h"

struct arp_frame {
	__u8 target[6], source[6], type[2];
	__u8 head[6];          /* hardware, protocol, and their sizes */
	__u8 operation[2];
	__u8 sender_mac[6], sender_ip[4], asked_mac[6], asked_ip[4];
};

struct nd_frame {
	__u8 target[6], source[6], type[2];
	__u8 version[4], length[2], next, hops;
	__u32 from[4], to[4];
	__u8 kind, code;
	__u16 checksum;
	__u32 flags;
	__u32 asked[4];
	__u8 option, option_size, mac[6];
} __attribute__((packed));

INLINE int answered(struct __sk_buff *skb, struct config *c, struct answer *a, void *frame,
		    __u32 size)
{
	total(ANSWERED);
	if (a->place == c->us)
		return TC_ACT_STOLEN;          /* its pod is on this bridge and has heard it */
	if (bpf_skb_store_bytes(skb, 0, frame, size, BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH))
		return drop(DROP_MALFORMED);
	return to_bridge(skb, c);
}

INLINE int answer_arp(struct __sk_buff *skb, struct config *c)
{
	struct arp_frame f;
	if (bpf_skb_load_bytes(skb, 0, &f, sizeof(f)))
		return -1;
	if (f.head[0] || f.head[1] != 1 || f.head[2] != 8 || f.head[3] || f.head[4] != 6 ||
	    f.head[5] != 4 || f.operation[0] || f.operation[1] != 1)
		return -1;
	struct address asked = { .words = { 0, 0, bpf_htonl(0xffff) } };
	__u32 sender;
	__builtin_memcpy(&asked.words[3], f.asked_ip, 4);
	__builtin_memcpy(&sender, f.sender_ip, 4);
	if (!sender || sender == asked.words[3])
		return -1;
	struct answer *a = bpf_map_lookup_elem(&answers, &asked);
	if (!a)
		return -1;
	__builtin_memcpy(f.target, f.source, 6);
	__builtin_memcpy(f.source, a->mac, 6);
	f.operation[1] = 2;
	__builtin_memcpy(f.asked_mac, f.sender_mac, 6);
	__builtin_memcpy(f.asked_ip, f.sender_ip, 4);
	__builtin_memcpy(f.sender_mac, a->mac, 6);
	__builtin_memcpy(f.sender_ip, &asked.words[3], 4);
	return answered(skb, c, a, &f, sizeof(f));
}

#define ICMPV6 58
#define SOLICITATION 135
#define ADVERTISEMENT 136

INLINE int answer_nd(struct __sk_buff *skb, struct config *c)
{
	struct nd_frame f;
	if (skb->len != sizeof(f) || bpf_skb_load_bytes(skb, 0, &f, sizeof(f)))
		return -1;
	if (f.next != ICMPV6 || f.hops != 255 || f.kind != SOLICITATION || f.code ||
	    f.length[0] || f.length[1] != 32 || f.option != 1 || f.option_size != 1)
		return -1;
	struct address asked = { .words = { f.asked[0], f.asked[1], f.asked[2], f.asked[3] } };
	__u32 sender[4] = { f.from[0], f.from[1], f.from[2], f.from[3] };
	if (!(sender[0] | sender[1] | sender[2] | sender[3]))
		return -1;
	struct answer *a = bpf_map_lookup_elem(&answers, &asked);
	if (!a)
		return -1;
	__builtin_memcpy(f.target, f.source, 6);
	__builtin_memcpy(f.source, a->mac, 6);
	for (int i = 0; i < 4; i++) {
		f.from[i] = asked.words[i];
		f.to[i] = sender[i];
	}
	f.kind = ADVERTISEMENT;
	f.flags = bpf_htonl(0x60000000);       /* solicited, override */
	f.option = 2;
	__builtin_memcpy(f.mac, a->mac, 6);
	f.checksum = 0;
	struct {
		__u32 from[4], to[4], length, next;
		__u32 message[8];
	} sum = { .length = bpf_htonl(32), .next = bpf_htonl(ICMPV6) };
	__builtin_memcpy(sum.from, asked.words, 16);
	__builtin_memcpy(sum.to, sender, 16);
	__builtin_memcpy(sum.message, &f.kind, 32);
	__u32 value = bpf_csum_diff(NULL, 0, (__be32 *)&sum, sizeof(sum), 0);
	value = (value & 0xffff) + (value >> 16);
	value = (value & 0xffff) + (value >> 16);
	f.checksum = ~value;
	return answered(skb, c, a, &f, sizeof(f));
}

/* A verdict, or -1: not answered here, it goes on. */
INLINE int answer(struct __sk_buff *skb, struct config *c, struct head *h)
{
	if (skb->vlan_present)
		return -1;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb, c);
	if (skb->protocol == bpf_htons(ETH_P_IPV6) && h->target.octets[0] == 0x33)
		return answer_nd(skb, c);
	return -1;
}
