/* Bad weather between two devices of one namespace: see bench/weather.py.
 *
 *   weather NAMESPACE BOARD DEVICE DEVICE
 *
 * Every frame that arrives at one device leaves by the other, in order, after DELAY nanoseconds, but
 * for a LOSS / 2^32 share of them, drawn from a generator seeded for each direction. The board may be
 * changed at any time. We run until we are killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "common.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

enum { READY, LOSS, DELAY, SEED, COUNTS = 8, EACH = 8, WORDS = 32 };
enum { PASSED, LOST, OVERFLOW, OVERSIZE, REFUSED, WAITING };

enum { FRAMES = 1 << 15, ROOM = 9216 }; /* in flight one way; octets of one, headers included */

struct waiting {
    uint32_t frame, length;
    uint64_t due;
};

struct direction {
    int in, out;
    size_t most;
    uint64_t random;
    volatile uint64_t *counts;
    uint8_t *room;
    uint32_t unused[FRAMES];
    size_t unused_count;
    struct waiting queue[FRAMES];
    size_t first, count;
};

static int open_device(const char *name, size_t *most)
{
    int one = 1, fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct ifreq request = {0};
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    if (fd < 0)
        fail("packet socket");
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    where.sll_ifindex = (int)if_nametoindex(name);
    if (!where.sll_ifindex || ioctl(fd, SIOCGIFMTU, &request))
        fail(name);
    *most = (size_t)request.ifr_mtu + ETH_HLEN;
    if (*most > ROOM)
        *most = ROOM;
    large_buffer(fd, SO_RCVBUFFORCE, 64 << 20);
    large_buffer(fd, SO_SNDBUFFORCE, 16 << 20);
    if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) ||
        setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) ||
        bind(fd, (struct sockaddr *)&where, sizeof where))
        fail(name);
    return fd;
}

static uint32_t draw(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static void take(struct direction *way)
{
    struct mmsghdr messages[BATCH] = {0};
    struct iovec parts[BATCH];
    unsigned room = way->unused_count < BATCH ? (unsigned)way->unused_count : BATCH;
    if (!room) { /* the queue is as long as it may be: what comes now is lost */
        uint8_t nothing;
        while (recv(way->in, &nothing, 1, MSG_TRUNC) >= 0)
            way->counts[OVERFLOW]++;
        return;
    }
    uint32_t *frames = &way->unused[way->unused_count - room];
    for (unsigned n = 0; n < room; n++) {
        parts[n].iov_base = way->room + (size_t)frames[n] * ROOM;
        parts[n].iov_len = ROOM;
        messages[n].msg_hdr.msg_iov = &parts[n];
        messages[n].msg_hdr.msg_iovlen = 1;
    }
    int got = recvmmsg(way->in, messages, room, MSG_TRUNC, NULL);
    if (got <= 0)
        return;
    uint64_t due = now_ns() + board[DELAY];
    uint32_t kept = 0, given_back[BATCH];
    for (int n = 0; n < got; n++) {
        uint32_t length = messages[n].msg_len;
        int oversize = length > way->most;
        if (oversize || draw(&way->random) < board[LOSS]) {
            way->counts[oversize ? OVERSIZE : LOST]++;
            given_back[kept++] = frames[n];
            continue;
        }
        struct waiting *entry = &way->queue[(way->first + way->count++) % FRAMES];
        *entry = (struct waiting){frames[n], length, due};
    }
    for (unsigned n = (unsigned)got; n < room; n++)
        given_back[kept++] = frames[n];
    memcpy(frames, given_back, kept * sizeof *frames);
    way->unused_count = way->unused_count - room + kept;
}

static void give(struct direction *way)
{
    while (way->count) {
        struct mmsghdr messages[BATCH] = {0};
        struct iovec parts[BATCH];
        unsigned due = 0;
        uint64_t now = now_ns();
        for (; due < BATCH && due < way->count; due++) {
            struct waiting *entry = &way->queue[(way->first + due) % FRAMES];
            if (entry->due > now)
                break;
            parts[due].iov_base = way->room + (size_t)entry->frame * ROOM;
            parts[due].iov_len = entry->length;
            messages[due].msg_hdr.msg_iov = &parts[due];
            messages[due].msg_hdr.msg_iovlen = 1;
        }
        if (!due)
            return;
        int gone = sendmmsg(way->out, messages, due, MSG_DONTWAIT);
        if (gone > 0) {
            way->counts[PASSED] += (uint64_t)gone;
        } else { /* nobody is there, or has room: that one is lost */
            way->counts[REFUSED]++;
            gone = 1;
        }
        for (int n = 0; n < gone; n++) {
            way->unused[way->unused_count++] = way->queue[way->first].frame;
            way->first = (way->first + 1) % FRAMES;
            way->count--;
        }
    }
}

/* What the kernel had no room for while we did not come to read. */
static void count_overflow(struct direction *way)
{
    struct tpacket_stats stats;
    socklen_t size = sizeof stats;
    if (!getsockopt(way->in, SOL_PACKET, PACKET_STATISTICS, &stats, &size))
        way->counts[OVERFLOW] += stats.tp_drops;
}

int main(int count, char **words)
{
    static struct direction ways[2];
    if (count != 5) {
        errno = EINVAL;
        fail("words");
    }
    enter(words[1]);
    open_board(words[2], WORDS);
    ways[0].in = ways[1].out = open_device(words[3], &ways[0].most);
    ways[1].in = ways[0].out = open_device(words[4], &ways[1].most);
    for (int n = 0; n < 2; n++) {
        struct direction *way = &ways[n];
        way->random = board[SEED] * 2 + (uint64_t)n;
        way->counts = board + COUNTS + n * EACH;
        way->room = mmap(NULL, (size_t)FRAMES * ROOM, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (way->room == MAP_FAILED)
            fail("mmap");
        for (; way->unused_count < FRAMES; way->unused_count++)
            way->unused[way->unused_count] = FRAMES - 1 - (uint32_t)way->unused_count;
    }
    board[READY] = 1;
    uint64_t counted = now_ns();
    for (;;) {
        uint64_t now = now_ns(), until = now + 100000000;
        for (int n = 0; n < 2; n++)
            if (ways[n].count && ways[n].queue[ways[n].first].due < until)
                until = ways[n].queue[ways[n].first].due;
        uint64_t wait = until > now ? until - now : 0;
        struct timespec t = {(time_t)(wait / 1000000000), (long)(wait % 1000000000)};
        struct pollfd fds[2] = {{ways[0].in, POLLIN, 0}, {ways[1].in, POLLIN, 0}};
        ppoll(fds, 2, &t, NULL);
        for (int n = 0; n < 2; n++) {
            if (fds[n].revents & POLLERR) /* a device went down: forget that it did */
                (void)!recv(ways[n].in, NULL, 0, MSG_DONTWAIT);
            take(&ways[n]);
            give(&ways[n]);
            ways[n].counts[WAITING] = ways[n].count;
        }
        if (now - counted > 50000000) {
            counted = now;
            count_overflow(&ways[0]);
            count_overflow(&ways[1]);
        }
    }
}
