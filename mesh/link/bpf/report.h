// SPDX-License-Identifier: Apache-2.0
// Reports of pods about the groups they listen to: a copy of each comes up to the daemon.
#pragma once
#include "frames.h"

/* IGMP, or MLD's report, done, and report of version 2 behind a hop-by-hop header. */
INLINE int is_report(struct __sk_buff *skb, struct head *h)
{
	__u8 octets[9];
	if (skb->vlan_present)
		return 0;
	if (h->type[0] == 0x08 && h->type[1] == 0x00)
		return h->target.octets[0] == 0x01 &&
		       !bpf_skb_load_bytes(skb, ETH_HLEN + 9, octets, 1) && octets[0] == 2;
	if (h->type[0] != 0x86 || h->type[1] != 0xdd || h->inner[6])
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 40, octets, 9) || octets[0] != 58)
		return 0;
	return octets[8] == 131 || octets[8] == 132 || octets[8] == 143;
}
