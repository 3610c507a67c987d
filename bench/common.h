/* What the benches' C programs share. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64 };

static volatile uint64_t *board;

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Into a network namespace; and nothing of us outlives whoever started us. */
static inline void enter(const char *path)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1000UL);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET))
        fail(path);
    close(fd);
}

static inline void open_board(const char *path, size_t words)
{
    struct stat about;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about))
        fail(path);
    if ((size_t)about.st_size < words * 8) {
        errno = EINVAL;
        fail("board too small");
    }
    board = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED)
        fail("mmap");
    close(fd);
}

static inline void large_buffer(int fd, int which, int octets)
{
    if (setsockopt(fd, SOL_SOCKET, which, &octets, sizeof octets))
        fail("socket buffer");
}

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline void pause_ns(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    nanosleep(&t, NULL);
}

/* One message, of one part, for each of BATCH buffers that lie ``stride`` apart. */
static inline void prepare(struct mmsghdr *messages, struct iovec *parts, uint8_t *buffers,
                           size_t stride)
{
    memset(messages, 0, BATCH * sizeof *messages);
    for (size_t n = 0; n < BATCH; n++) {
        parts[n].iov_base = buffers + n * stride;
        parts[n].iov_len = stride;
        messages[n].msg_hdr.msg_iov = &parts[n];
        messages[n].msg_hdr.msg_iovlen = 1;
    }
}

struct pace {
    uint64_t last;
    double due;
};

static inline struct pace start_pace(void)
{
    struct pace pace = {now_ns(), 0};
    return pace;
}

/* How many of at most BATCH messages are due at ``rate`` a second; sleeps while there are none. */
static inline unsigned wait_for_due(struct pace *pace, uint64_t rate)
{
    for (;;) {
        uint64_t now = now_ns();
        pace->due += (double)(now - pace->last) * (double)rate / 1e9;
        pace->last = now;
        double most = (double)rate * 0.004 + 1;
        if (pace->due > most)
            pace->due = most;
        if (pace->due >= 1)
            return pace->due > BATCH ? BATCH : (unsigned)pace->due;
        pause_ns(rate ? 200000 : 1000000);
        if (!rate)
            return pace->due = 0, 0;
    }
}

static inline void took(struct pace *pace, int gone)
{
    if (gone > 0)
        pace->due -= gone;
    else
        pause_ns(200000);
}
