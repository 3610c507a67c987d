/* Forged datagrams at a steady rate out of one device: see bench/forger.py.
 *
 *   forger NAMESPACE BOARD DEVICE FRAME RANDOM_AT RANDOM_OCTETS
 *
 * FRAME is a file with one whole Ethernet frame. Each that is sent has fresh random octets from
 * RANDOM_AT on. RATE frames a second, until we are killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>

#include "common.h"

enum { READY, SENT, RATE, WORDS = 8 };
enum { ROOM = 2048 };

static uint64_t draw(uint64_t *state) /* xorshift64 */
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

int main(int count, char **words)
{
    static uint8_t frames[BATCH][ROOM];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
    if (count != 7) {
        errno = EINVAL;
        fail("words");
    }
    size_t at = (size_t)atoi(words[5]), octets = (size_t)atoi(words[6]);
    int file = open(words[4], O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, frames[0], ROOM);
    if (length < ETH_HLEN || at + octets > (size_t)length) {
        errno = EINVAL;
        fail("frame");
    }
    enter(words[1]);
    open_board(words[2], WORDS);
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1;
    where.sll_ifindex = (int)if_nametoindex(words[3]);
    if (fd < 0 || !where.sll_ifindex || bind(fd, (struct sockaddr *)&where, sizeof where) ||
        setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one))
        fail(words[3]);
    prepare(messages, parts, frames[0], ROOM);
    for (int n = 0; n < BATCH; n++) {
        memcpy(frames[n], frames[0], (size_t)length);
        parts[n].iov_len = (size_t)length;
    }
    uint64_t random = now_ns() | 1;
    board[READY] = 1;
    struct pace pace = start_pace();
    for (;;) {
        unsigned due = wait_for_due(&pace, board[RATE]);
        for (unsigned n = 0; n < due; n++)
            for (size_t octet = 0; octet < octets; octet++)
                frames[n][at + octet] = (uint8_t)(draw(&random) >> 24);
        int gone = sendmmsg(fd, messages, due, 0);
        if (gone > 0)
            board[SENT] += (uint64_t)gone;
        took(&pace, gone);
    }
}
