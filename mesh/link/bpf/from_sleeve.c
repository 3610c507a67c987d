// SPDX-License-Identifier: Apache-2.0
// Ingress of the sleeve's device: frames that its worker opened. They enter the bridge by the same
// port as all of the mesh, so that to the bridge a pair that changes its overlay has not moved.
#include "frames.h"

SEC("tc") int from_sleeve(struct __sk_buff *skb)
{
	struct config *c = configured();
	if (!c)
		return drop(DROP_NOT_CONFIGURED);
	struct head h;
	if (read_head(skb, &h))
		return drop(DROP_MALFORMED);
	int bad = believe(&h.source, SLEEVE, c->us);
	if (bad >= 0)
		return drop(bad);
	return to_bridge(skb, c);
}

char licence[] SEC("license") = "Apache-2.0";
