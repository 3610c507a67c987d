// SPDX-License-Identifier: Apache-2.0
// The fast path's tables. mesh/drivers/fastdp/layout.py says the same in Python, and
// tests/unit/test_bpf_layout.py compares the two, octet for octet.
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define LAYOUT 2           /* of all below: a daemon does not touch tables of another layout */
#define PEERS 4096         /* short IDs */
#define MACS 65536
#define SOURCES 65536
#define NEIGHBOURS 4096
#define GROUP_TREES 16384
#define CHILDREN 256       /* of one tree at one peer */
#define ROUND 32           /* copies made by one run of copies.c; the rest by the next in the chain */
#define HOPS 64
#define FLOODS_A_SECOND 1000        /* on each processor, of unicast that nobody is known behind */
#define FLOODS_AT_ONCE 200
#define REPORTS_A_SECOND 100       /* of group memberships, to user space */
#define REPORTS_AT_ONCE 100
#define SLEEVE 0           /* as a place: behind a peer that the sleeve's worker knows */

enum { UPCALL_UNKNOWN = 1 };                            /* config.flags */
enum { BY_NOBODY, BY_KERNEL, BY_SLEEVE };               /* route.by */
enum { TREE_TO_SLEEVE = 1, TREE_NOT_HERE = 2 };         /* tree.flags */
enum { CONTROL = 1, UNKNOWN, BROADCAST, TRANSIT, REPORT };      /* why a frame comes up */
enum { SEND_CONTROL = 1, DELIVER, SEND_ALONG_TREE };    /* what a frame from user space is for */

enum { ALLOW_FLOODS, ALLOW_REPORTS, ALLOWANCES };       /* indices of `allowances` */

/* Indices of `totals`: drops by reason, then what is no drop. */
enum {
	DROP_MALFORMED, DROP_NOT_CONFIGURED, DROP_NO_ROUTE, DROP_HOP_LIMIT, DROP_BAD_SOURCE,
	DROP_LOCAL, DROP_LOOPED, DROP_OFF_TREE, DROP_MAC_OF_ANOTHER, DROP_NO_SLEEVE, DROP_UNDERLAY,
	DROP_TAP, DROP_TOO_BIG, DROP_FLOOD,
	ANSWERED, UPCALLS, TO_SLEEVE, TOTALS
};

struct config {
	__u32 layout;
	__u32 us;              /* our short ID; 0: told nothing yet */
	__u32 vxlan, sleeve, upcall;    /* device indices; 0: there is none */
	__u32 flags;
};

struct mac { __u8 octets[6]; __u8 zero[2]; };
struct address { __u32 words[4]; };             /* IPv6, or IPv4 mapped into it; network order */
struct neighbour {
	struct address host, own;       /* own: the address we send from; zero: what routing chooses */
	__u32 family;                   /* 4 or 6; 0: there is no such neighbour */
	__u32 has_own;
};
/* 8 octets: written at one stroke. mtu: of packets that the destination takes; 0: any. onward: the
 * neighbour that frames of others go on to where ours do not go by the kernel; 0: none. */
struct route { __u16 via; __u16 by; __u16 mtu; __u16 onward; };
struct source { struct address host; __u32 peer; };
struct allowance { __u64 spent_until; };               /* nanoseconds of the kernel's clock */
struct learned { __u32 peer; __u32 seen; };             /* seen: seconds of the kernel's clock */
struct answer { __u8 mac[6]; __u16 place; };
struct tree {
	__u16 parent;          /* neighbour that it must come from; 0: any that is allowed */
	__u16 flags;
	__u32 count;
	/* The last ones are never used. They let the verifier accept the chain's arithmetic from who
	 * may not load programs that leak pointers (no CAP_PERFMON). */
	__u16 children[CHILDREN + ROUND];
};
struct group { __u32 origin; struct mac address; };
struct traffic {
	__u64 tx_frames, tx_octets;
	__u64 rx_frames, rx_octets;
	__u64 relayed_frames, relayed_octets;
};

#define TABLE(name, kind, key_type, value_type, size, how) struct { \
	__uint(type, kind); __type(key, key_type); __type(value, value_type); \
	__uint(max_entries, size); __uint(map_flags, how); } name SEC(".maps")

TABLE(config, BPF_MAP_TYPE_ARRAY, __u32, struct config, 1, 0);
TABLE(neighbours, BPF_MAP_TYPE_ARRAY, __u32, struct neighbour, NEIGHBOURS, 0);
TABLE(routes, BPF_MAP_TYPE_ARRAY, __u32, struct route, PEERS, 0);
/* Hashes where an entry must change as a whole: an array's is overwritten under its readers. */
TABLE(trees, BPF_MAP_TYPE_HASH, __u32, struct tree, PEERS, BPF_F_NO_PREALLOC);
TABLE(group_trees, BPF_MAP_TYPE_HASH, struct group, struct tree, GROUP_TREES, BPF_F_NO_PREALLOC);
TABLE(sources, BPF_MAP_TYPE_HASH, struct source, __u32, SOURCES, BPF_F_NO_PREALLOC);
TABLE(attached, BPF_MAP_TYPE_HASH, struct mac, __u32, MACS, BPF_F_NO_PREALLOC);
TABLE(answers, BPF_MAP_TYPE_HASH, struct address, struct answer, MACS, BPF_F_NO_PREALLOC);
TABLE(learned, BPF_MAP_TYPE_LRU_HASH, struct mac, struct learned, MACS, 0);
TABLE(traffic, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct traffic, PEERS, 0);
TABLE(allowances, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct allowance, ALLOWANCES, 0);
TABLE(totals, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, TOTALS, 0);
