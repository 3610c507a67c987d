/* Traffic between two namespaces, counted where it arrives: see bench/load.py.
 *
 *   load NAMESPACE BOARD tcp-sink ADDRESS PORT
 *   load NAMESPACE BOARD tcp-source ADDRESS PORT STREAMS [CONGESTION-CONTROL]
 *   load NAMESPACE BOARD udp-sink ADDRESS PORT
 *   load NAMESPACE BOARD udp-source ADDRESS PORT OCTETS
 *
 * NAMESPACE and BOARD are paths. The board is a file of 64-bit words that whoever started us reads
 * and writes while we run; we run until we are killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>

#include "common.h"

enum { READY, OCTETS, RATE, SLOT, SENT = 64, RECEIVED = 320, WORDS = 576, SLOTS = 256 };

static const size_t piece = 128 << 10; /* what iperf3 reads and writes at once */
static struct sockaddr_in address;

static int make_socket(int kind)
{
    int fd = socket(AF_INET, kind | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return fd;
}

static void *take_stream(void *which)
{
    int fd = (int)(intptr_t)which;
    char *buffer = malloc(piece);
    ssize_t got;
    while ((got = read(fd, buffer, piece)) > 0)
        __atomic_fetch_add(&board[OCTETS], (uint64_t)got, __ATOMIC_RELAXED);
    free(buffer);
    close(fd);
    return NULL;
}

static void *give_stream(void *which)
{
    int fd = (int)(intptr_t)which;
    char *buffer = calloc(1, piece);
    while (write(fd, buffer, piece) > 0)
        ;
    free(buffer);
    return NULL;
}

static void tcp_sink(void)
{
    int fd = make_socket(SOCK_STREAM);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 64))
        fail("listen");
    board[READY] = 1;
    for (;;) {
        int taken = accept(fd, NULL, NULL);
        pthread_t thread;
        if (taken < 0 || pthread_create(&thread, NULL, take_stream, (void *)(intptr_t)taken))
            fail("accept");
        pthread_detach(thread);
    }
}

static void tcp_source(int streams, const char *control)
{
    pthread_t threads[64];
    if (streams < 1 || streams > 64) {
        errno = EINVAL;
        fail("streams");
    }
    for (int n = 0; n < streams; n++) {
        int fd = make_socket(SOCK_STREAM);
        if (control &&
            setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, control, (socklen_t)strlen(control)))
            fail(control);
        if (connect(fd, (struct sockaddr *)&address, sizeof address))
            fail("connect");
        if (pthread_create(&threads[n], NULL, give_stream, (void *)(intptr_t)fd))
            fail("thread");
    }
    board[READY] = 1;
    for (int n = 0; n < streams; n++)
        pthread_join(threads[n], NULL);
}

static void udp_sink(void)
{
    static uint8_t buffers[BATCH][2048];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    int fd = make_socket(SOCK_DGRAM);
    large_buffer(fd, SO_RCVBUFFORCE, 8 << 20);
    if (bind(fd, (struct sockaddr *)&address, sizeof address))
        fail("bind");
    prepare(messages, parts, buffers[0], sizeof buffers[0]);
    board[READY] = 1;
    for (;;) {
        int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int n = 0; n < got; n++) {
            uint32_t slot;
            memcpy(&slot, buffers[n], sizeof slot);
            if (messages[n].msg_len >= sizeof slot && slot < SLOTS)
                board[RECEIVED + slot]++;
        }
    }
}

/* RATE datagrams a second, in bursts as small as a sleep of 200 us allows; what the socket does not
 * take in time is not made up for by more than 4 ms' worth. */
static void udp_source(size_t octets)
{
    static uint8_t payload[65536];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    int fd = make_socket(SOCK_DGRAM);
    if (octets < 4 || octets > 65000) {
        errno = EINVAL;
        fail("octets");
    }
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    prepare(messages, parts, payload, 0);
    for (int n = 0; n < BATCH; n++)
        parts[n].iov_len = octets;
    board[READY] = 1;
    struct pace pace = start_pace();
    for (;;) {
        unsigned due = wait_for_due(&pace, board[RATE]);
        uint32_t slot = (uint32_t)board[SLOT];
        memcpy(payload, &slot, sizeof slot);
        int gone = sendmmsg(fd, messages, due, 0);
        if (gone > 0 && slot < SLOTS)
            board[SENT + slot] += (uint64_t)gone;
        took(&pace, gone);
    }
}

int main(int count, char **words)
{
    if (count < 6) {
        errno = EINVAL;
        fail("words");
    }
    enter(words[1]);
    open_board(words[2], WORDS);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(words[5]));
    if (inet_pton(AF_INET, words[4], &address.sin_addr) != 1) {
        errno = EINVAL;
        fail("address");
    }
    const char *role = words[3];
    int number = count > 6 ? atoi(words[6]) : 1;
    if (!strcmp(role, "tcp-sink"))
        tcp_sink();
    else if (!strcmp(role, "tcp-source"))
        tcp_source(number, count > 7 ? words[7] : NULL);
    else if (!strcmp(role, "udp-sink"))
        udp_sink();
    else if (!strcmp(role, "udp-source"))
        udp_source((size_t)number);
    return 0;
}
