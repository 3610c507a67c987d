// SPDX-License-Identifier: Apache-2.0
// Ingress of the upcall device: frames that the daemon sends. Two VLAN tags say what each is for.
#include "frames.h"

INLINE int control(struct __sk_buff *skb, struct config *c, __u32 target)
{
	struct neighbour *n = bpf_map_lookup_elem(&neighbours, &target);
	if (!n || address_to(skb, n, c->us, target, HOPS, BPF_F_DONT_FRAGMENT))
		return drop(DROP_NO_ROUTE);
	return bpf_redirect(c->vxlan, 0);
}

SEC("tc") int from_user(struct __sk_buff *skb)
{
	struct config *c = configured();
	if (!c)
		return drop(DROP_NOT_CONFIGURED);
	__u32 what, source, target;
	if (!skb->vlan_present)
		return drop(DROP_MALFORMED);
	what = skb->vlan_tci >> 13;
	source = skb->vlan_tci & 0xfff;
	if (bpf_skb_vlan_pop(skb) || !skb->vlan_present)
		return drop(DROP_MALFORMED);
	target = skb->vlan_tci & 0xfff;
	if (bpf_skb_vlan_pop(skb))
		return drop(DROP_MALFORMED);
	if (what == SEND_CONTROL)
		return control(skb, c, target);
	if (what == SEND_ALONG_TREE)
		return copy_then(skb, source, HOPS, THEN_NOTHING);
	struct head h;
	if (what != DELIVER || read_head(skb, &h))
		return drop(DROP_MALFORMED);
	int bad = believe(&h.source, source, c->us);
	if (bad >= 0)
		return drop(bad);
	return to_bridge(skb, c);
}

char licence[] SEC("license") = "Apache-2.0";
