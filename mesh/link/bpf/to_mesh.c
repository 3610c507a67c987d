// SPDX-License-Identifier: Apache-2.0
// Egress of the VXLAN device: frames that the bridge hands to the mesh.
#include "frames.h"
#include "answer.h"
#include "too_big.h"
#include "report.h"

SEC("tc") int to_mesh(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key;
	/* Addressed already: a copy, a relayed frame, one from user space. EPROTO: by IPv6. */
	if (bpf_skb_get_tunnel_key(skb, &key, offsetof(struct bpf_tunnel_key, tunnel_label), 0) !=
	    -EINVAL)
		return TC_ACT_OK;
	struct config *c = configured();
	if (!c)
		return drop(DROP_NOT_CONFIGURED);
	struct head h;
	if (read_head(skb, &h))
		return drop(DROP_MALFORMED);
	__u32 us = c->us;
	int bad = believe(&h.source, us, us);
	if (bad >= 0)
		return drop(bad);
	if (is_group(&h.target)) {
		int verdict = answer(skb, c, &h);
		if (verdict >= 0)
			return verdict;
		if (is_report(skb, &h) &&
		    is_allowed(ALLOW_REPORTS, REPORTS_A_SECOND, REPORTS_AT_ONCE) &&
		    upcall_copy(skb, c, REPORT, us, us))
			return drop(DROP_MALFORMED);
		return copy_then(skb, us, HOPS, THEN_SLEEVE);
	}
	int place = place_of(&h.target);
	if (place < 0) {
		if (c->flags & UPCALL_UNKNOWN)
			return upcall(skb, c, UNKNOWN, us, 0);
		if (!is_allowed(ALLOW_FLOODS, FLOODS_A_SECOND, FLOODS_AT_ONCE))
			return drop(DROP_FLOOD);
		return copy_then(skb, us, HOPS, THEN_SLEEVE);
	}
	if ((__u32)place == us)
		return drop(DROP_LOCAL);       /* the bridge did not know it and flooded */
	if (place == SLEEVE)
		return to_sleeve(c);
	__u32 target = place;
	struct route *r = bpf_map_lookup_elem(&routes, &target);
	if (!r || r->by == BY_NOBODY)
		return drop(DROP_NO_ROUTE);
	if (r->by == BY_SLEEVE)
		return to_sleeve(c);
	__u32 via = r->via;
	struct neighbour *n = bpf_map_lookup_elem(&neighbours, &via);
	if (!n)
		return drop(DROP_NO_ROUTE);
	__u64 df = may_not_be_cut(&h);
	__u32 mtu = r->mtu;
	int too_big = exceeds(skb, &h, mtu);
	if (too_big && (df || !is_ipv4(&h)))
		return refuse(skb, c, &h, mtu, 0);
	if (address_to(skb, n, us, target, HOPS, df))
		return drop(DROP_NO_ROUTE);
	count_tx(skb, target, 1);
	if (too_big)
		return refuse(skb, c, &h, mtu, !bpf_clone_redirect(skb, c->vxlan, 0));
	return TC_ACT_OK;
}

char licence[] SEC("license") = "Apache-2.0";
