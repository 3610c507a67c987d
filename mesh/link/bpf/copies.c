// SPDX-License-Identifier: Apache-2.0
// Copies of a frame along its origin's tree. Chained behind to_mesh, from_mesh and from_user on
// their hooks, CHILDREN / ROUND times: each run makes up to ROUND copies and leaves the rest to the
// next. The last one does with the frame itself what was asked for.
#include "frames.h"

INLINE int finish(struct __sk_buff *skb, struct config *c, struct tree *t, __u32 origin, __u32 then)
{
	skb->cb[0] = 0;
	int by_sleeve = t->flags & TREE_TO_SLEEVE;
	if (then == THEN_SLEEVE)
		return by_sleeve ? to_sleeve(c) : TC_ACT_STOLEN;
	if (then == THEN_NOTHING)
		return TC_ACT_STOLEN;
	if (by_sleeve) {
		if (upcall_copy(skb, c, BROADCAST, origin, c->us))
			return drop(DROP_MALFORMED);
	}
	return TC_ACT_OK;
}

SEC("tc") int copies(struct __sk_buff *skb)
{
	if (skb->cb[0] != COPY_COOKIE)
		return TC_ACT_UNSPEC;
	__u32 origin = skb->cb[1], hops = skb->cb[2], first = skb->cb[3], then = skb->cb[4];
	struct config *c = configured();
	struct head h;
	if (read_head(skb, &h))
		return drop(DROP_MALFORMED);
	struct tree *t = is_group(&h.target) ? group_tree(origin, &h.target) : NULL;
	if (!t)
		t = bpf_map_lookup_elem(&trees, &origin);
	if (!c || !t)
		return drop(c ? DROP_NO_ROUTE : DROP_NOT_CONFIGURED);
	first &= CHILDREN - 1;
	__u64 df = may_not_be_cut(&h);
	int is_ours = origin == c->us;
	/* A pointer that goes on by two: to index by i is what the verifier forbids who may not leak
	 * pointers (no CAP_PERFMON), and what the compiler makes of it when it can see both. */
	__u16 *next = t->children + first;
	__u32 count = t->count - first;
	for (__u32 i = 0; i < ROUND; i++) {
		if (i >= count)
			break;
		__u32 child = *next++;
		asm volatile("" : "+r"(next));
		struct neighbour *n = bpf_map_lookup_elem(&neighbours, &child);
		if (!n || address_to(skb, n, origin, child, hops, df)) {
			total(DROP_NO_ROUTE);
			continue;
		}
		if (bpf_clone_redirect(skb, c->vxlan, 0))
			total(DROP_UNDERLAY);
		else
			count_tx(skb, child, is_ours);
	}
	first += ROUND;
	if (first < t->count && first < CHILDREN) {
		skb->cb[3] = first;
		return TC_ACT_UNSPEC;
	}
	return finish(skb, c, t, origin, then);
}

char licence[] SEC("license") = "Apache-2.0";
