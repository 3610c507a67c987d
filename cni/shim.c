/* The CNI executable for machines that it was built for: what cni/shim.py does, octet for octet, in
 * a fifth of the time and without an interpreter on the host. It hands everything to the daemon and
 * prints its answer. weaver.cni.install writes it with a socket and a name of its own.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	MAX_STDIN = 1 << 20,     /* octets of a configuration, the same bound as the daemon's */
	MAX_ENVIRON = 64 * 1024, /* octets of variables, likewise */
	MAX_ANSWER = 4 << 20,    /* octets of an answer */
	TIMEOUT = 120,           /* seconds to wait for the daemon: longer than any call takes, shorter than kubelet */
	MAX_SPOOLED = 4096,      /* files of the spool: pods of one host that can be deleted while the daemon is down */
	MAX_NAME = 255,          /* octets of a file's name: a container of 239 with the longest interface */
	LOOKED_AT = 65536,       /* octets of a configuration in which its version is looked for */
};

/* Overwritten in the file, as it is installed; not const, so that nothing is computed from it. */
struct {
	char mark[16];
	char socket[112];
	char plugin[32];
} installed = {"@weaver-cni-exe", "/run/weaver/cni.sock", "weaver-net"};

#define VERSIONS "0.3.1", "0.4.0", "1.0.0", "1.1.0"

extern char **environ;

static char config[MAX_STDIN + 1];
static size_t config_size;
static char frame[8 + MAX_ENVIRON + MAX_STDIN];
static size_t frame_size;

static int write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t done = write(fd, data, size);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return -1;
		data += done;
		size -= done;
	}
	return 0;
}

static const char *variable(const char *name)
{
	const char *value = getenv(name);
	return value ? value : "";
}

/* The version that the configuration names, made out without a parser. */
static const char *version(const char *otherwise)
{
	static const char *const known[] = {VERSIONS};
	static const char key[] = "\"cniVersion\"";
	size_t size = config_size < LOOKED_AT ? config_size : LOOKED_AT;
	const char *at = memmem(config, size, key, sizeof key - 1), *end = config + size;
	int colons = 0;
	if (!at)
		return otherwise;
	for (at += sizeof key - 1; at < end && *at != '"'; at++) {
		if (*at == ':')
			colons++;
		else if (!memchr(" \t\n\r\v\f", *at, 6))
			return otherwise;
	}
	if (at == end || colons != 1)
		return otherwise;
	const char *begin = ++at;
	at = memchr(begin, '"', end - begin);
	for (size_t n = 0; at && n < sizeof known / sizeof *known; n++)
		if ((size_t)(at - begin) == strlen(known[n]) && !memcmp(begin, known[n], at - begin))
			return known[n];
	return otherwise;
}

static int refuse(int code, const char *message)
{
	char said[1024], words[768];
	size_t n = 0;
	for (; message[n] && n < sizeof words - 1; n++)
		words[n] = message[n] == '\\' ? '/' : message[n] == '"' ? '\'' : message[n];
	words[n] = 0;
	int size = snprintf(said, sizeof said, "{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\"}",
			    version("1.0.0"), code, words);
	write_all(1, said, size);
	return 1;
}

/* All of standard input, or the first of it that is too much. */
static void read_config(void)
{
	while (config_size <= MAX_STDIN) {
		ssize_t got = read(0, config + config_size, sizeof config - config_size);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		config_size += got;
	}
}

/* Two lengths, which plugin this is and the runtime's variables, a line each, the configuration.
 * Whether it has room for all variables. */
static int make_frame(void)
{
	char *head = frame + 8, *at = head, *end = head + MAX_ENVIRON;
	at += sprintf(at, "PLUGIN=%.31s", installed.plugin);
	for (char **entry = environ; *entry; entry++) {
		size_t size = strlen(*entry);
		if (strncmp(*entry, "CNI_", 4))
			continue;
		if (size + 1 > (size_t)(end - at))
			return 0;
		*at++ = '\n';
		for (size_t n = 0; n < size; n++)
			*at++ = (*entry)[n] == '\n' ? ' ' : (*entry)[n];
	}
	uint32_t sizes[2] = {htobe32(at - head), htobe32(config_size)};
	memcpy(frame, sizes, sizeof sizes);
	memcpy(at, config, config_size);
	frame_size = at - frame + config_size;
	return 1;
}

/* The daemon's answer: exit status, then standard output. Its size; 0 where nobody listens, or
 * whoever listened died before it answered; -1 with errno. */
static ssize_t ask(char *answer)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = TIMEOUT};
	size_t size = 0, sent = 0;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	memcpy(address.sun_path, installed.socket, sizeof address.sun_path - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof address))
		return errno == ENOENT || errno == ENOTDIR || errno == ECONNREFUSED ? 0 : -1;
	while (sent < frame_size) {
		ssize_t done = send(fd, frame + sent, frame_size - sent, MSG_NOSIGNAL);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && (errno == EPIPE || errno == ECONNRESET))
			break; /* it may have said why */
		if (done < 0)
			return -1;
		sent += done;
	}
	while (size < MAX_ANSWER) {
		ssize_t got = recv(fd, answer + size, MAX_ANSWER - size, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno != ECONNRESET)
			return -1;
		if (got <= 0)
			break;
		size += got;
	}
	return size;
}

static int count(const char *directory)
{
	DIR *there = opendir(directory);
	struct dirent *entry;
	int found = -2; /* . and .. */
	if (!there)
		return -1;
	while ((entry = readdir(there)))
		found++;
	closedir(there);
	return found;
}

/* Leave a DEL for the daemon's next start: one file, named by what it deletes. 0 when that is done;
 * the system's error, or -1 with a reason of our own. */
static int spool(const char **reason)
{
	char directory[160], beside[192], path[160 + MAX_NAME + 2];
	const char *container = variable("CNI_CONTAINERID"), *ifname = variable("CNI_IFNAME");
	const char *slash = strrchr(installed.socket, '/');
	/* A name that no file can have is no container's either. */
	*reason = "a name that cannot be recorded";
	if (strlen(container) + 1 + strlen(ifname) > MAX_NAME || strchr(container, '/') ||
	    strchr(ifname, '/') || !*container || *container == '.' || *container == ',')
		return -1;
	snprintf(directory, sizeof directory, "%.*s/cni-del",
		 slash ? (int)(slash - installed.socket) : 0, installed.socket);
	if (mkdir(directory, 0700)) {
		if (errno != EEXIST)
			return errno;
		int there = count(directory);
		*reason = "too much is recorded already";
		if (there < 0 || there >= MAX_SPOOLED)
			return there < 0 ? errno : -1;
	}
	snprintf(beside, sizeof beside, "%s/.%d", directory, getpid());
	snprintf(path, sizeof path, "%s/%s,%s", directory, container, ifname);
	int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno;
	ssize_t written = write(fd, frame, frame_size);
	int error = errno;
	close(fd);
	*reason = "no room";
	if ((size_t)written != frame_size) {
		unlink(beside);
		return written < 0 ? error : -1;
	}
	return rename(beside, path) ? errno : 0;
}

/* Answer while the daemon is down. */
static int alone(const char *command)
{
	char message[512];
	if (!strcmp(command, "DEL")) {
		const char *reason;
		int error = spool(&reason);
		if (error == ENOENT) /* a daemon that starts swept it away, unfinished: once more */
			error = spool(&reason);
		if (!error)
			return 0;
		snprintf(message, sizeof message, "weaver is not running, and cannot be told later: %s",
			 error > 0 ? strerror(error) : reason);
		return refuse(11, message);
	}
	if (!strcmp(command, "VERSION")) {
		char said[256];
		int size = snprintf(said, sizeof said,
				    "{\"cniVersion\":\"%s\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\","
				    "\"1.0.0\",\"1.1.0\"]}",
				    version("1.1.0"));
		return write_all(1, said, size) ? 1 : 0;
	}
	snprintf(message, sizeof message, "weaver is not running: nobody listens on %s",
		 installed.socket);
	return refuse(strcmp(command, "STATUS") ? 11 : 50, message);
}

int main(void)
{
	static char answer[MAX_ANSWER];
	const char *command = variable("CNI_COMMAND");
	char message[256];
	signal(SIGPIPE, SIG_IGN);
	if (!*command) {
		int size = snprintf(message, sizeof message,
				    "CNI plugin %s, talks to the daemon on %s\n"
				    "CNI protocol versions supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0\n",
				    installed.plugin, installed.socket);
		write_all(2, message, size);
		return 0;
	}
	read_config();
	if (config_size > MAX_STDIN) {
		snprintf(message, sizeof message, "a configuration of more than %d octets", MAX_STDIN);
		return refuse(6, message);
	}
	if (!make_frame()) {
		snprintf(message, sizeof message, "an environment of more than %d octets", MAX_ENVIRON);
		return refuse(4, message);
	}
	ssize_t size = ask(answer);
	if (!size)
		return alone(command);
	if (size < 0) {
		snprintf(message, sizeof message, "the daemon does not answer: %s",
			 errno == EAGAIN ? "timed out" : strerror(errno));
		return refuse(11, message);
	}
	return write_all(1, answer + 1, size - 1) ? 1 : (unsigned char)answer[0];
}
