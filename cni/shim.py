"""The CNI executable, as it is installed: hands everything to the daemon, prints its answer.

What cni/shim.c is, for machines for which that was not built. Only modules that are built into the
interpreter are imported: a pod start waits for this file. ``weaver.cni.install`` writes it with a
shebang of the real interpreter and these two constants.
"""

import _socket
import posix

SOCKET = "/run/weaver/cni.sock"
PLUGIN = "weaver-net"

MAX_STDIN = 1 << 20
"""Octets of a configuration, the same bound as the daemon's."""

MAX_ENVIRON = 64 * 1024
"""Octets of variables, likewise."""

TIMEOUT = 120.0
"""Seconds to wait for the daemon: longer than any call of its own takes, shorter than kubelet."""

MAX_SPOOLED = 4096
"""Files of the spool: pods of one host that can be deleted while the daemon is down."""

MAX_NAME = 255
"""Octets of a file's name: a container of 239 with the longest interface."""


class DaemonDownError(Exception):
    """Nobody listens, or whoever listened died before it answered."""


def main() -> int:
    command = posix.environ.get(b"CNI_COMMAND", b"")
    if not command:
        about = b"CNI plugin %s, talks to the daemon on %s\n" % (PLUGIN.encode(), SOCKET.encode())
        posix.write(2, about + b"CNI protocol versions supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0\n")
        return 0
    stdin = read_stdin()
    if len(stdin) > MAX_STDIN:
        return refuse(stdin, 6, f"a configuration of more than {MAX_STDIN} octets")
    head = environment()
    if len(head) > MAX_ENVIRON:
        return refuse(stdin, 4, f"an environment of more than {MAX_ENVIRON} octets")
    frame = len(head).to_bytes(4, "big") + len(stdin).to_bytes(4, "big") + head + stdin
    try:
        answer = ask(frame)
    except DaemonDownError:
        return alone(command, stdin, frame)
    except OSError as err:
        return refuse(stdin, 11, f"the daemon does not answer: {err.strerror or err}")
    posix.write(1, answer[1:])
    return answer[0]


def read_stdin() -> bytes:
    """All of it, or the first of it that is too much."""
    pieces, size = [], 0
    while size <= MAX_STDIN:
        piece = posix.read(0, 65536)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def environment() -> bytes:
    """Which plugin this is, and the runtime's variables: a line each."""
    lines = [b"PLUGIN=" + PLUGIN.encode()]
    for key, value in posix.environ.items():
        if key[:4] == b"CNI_":
            lines.append((key + b"=" + value).replace(b"\n", b" "))
    return b"\n".join(lines)


def ask(frame: bytes) -> bytes:
    """The daemon's answer to two lengths, environment and configuration: exit status, then
    standard output."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(SOCKET)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise DaemonDownError from None
    answer = b""
    try:  # noqa: SIM105  # contextlib is not built in
        sock.sendall(frame)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it may have said why
    try:
        while True:
            piece = sock.recv(65536)
            if not piece:
                break
            answer += piece
    except ConnectionResetError:
        pass
    if not answer:
        raise DaemonDownError
    return answer


def alone(command: bytes, stdin: bytes, frame: bytes) -> int:
    """Answer while the daemon is down."""
    if command == b"DEL":
        try:
            try:
                lacking = spool(frame)
            except FileNotFoundError:  # a daemon that starts swept it away, unfinished: once more
                lacking = spool(frame)
        except OSError as err:
            lacking = err.strerror or str(err)
        if not lacking:
            return 0
        return refuse(stdin, 11, "weaver is not running, and cannot be told later: " + lacking)
    if command == b"VERSION":
        said = '{"cniVersion":"%s","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'
        posix.write(1, (said % version(stdin, "1.1.0")).encode())
        return 0
    code = 50 if command == b"STATUS" else 11
    return refuse(stdin, code, "weaver is not running: nobody listens on " + SOCKET)


def spool(frame: bytes) -> str:
    """Leave a DEL for the daemon's next start: one file, named by what it deletes.

    Why it cannot be left, or nothing. A name that no file can have is no container's either.
    """
    directory = SOCKET.rpartition("/")[0].encode() + b"/cni-del"
    container = posix.environ.get(b"CNI_CONTAINERID", b"")
    name = container + b"," + posix.environ.get(b"CNI_IFNAME", b"")
    if len(name) > MAX_NAME or b"/" in name or name[:1] in (b".", b","):
        return "a name that cannot be recorded"
    try:
        posix.mkdir(directory, 0o700)
    except FileExistsError:
        if len(posix.listdir(directory)) >= MAX_SPOOLED:
            return "too much is recorded already"
    new = directory + b"/.%d" % posix.getpid()
    fd = posix.open(new, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600)
    try:
        whole = posix.write(fd, frame) == len(frame)
    finally:
        posix.close(fd)
    if not whole:
        posix.unlink(new)
        return "no room"
    posix.rename(new, directory + b"/" + name)
    return ""


def refuse(stdin: bytes, code: int, message: str) -> int:
    said = '{"cniVersion":"%s","code":%d,"msg":"%s"}'
    words = message.replace("\\", "/").replace('"', "'")
    posix.write(1, (said % (version(stdin, "1.0.0"), code, words)).encode())
    return 1


def version(stdin: bytes, otherwise: str) -> str:
    """The version that the configuration names, made out without a parser."""
    pieces = stdin[:65536].partition(b'"cniVersion"')[2].split(b'"', 2)
    known = (b"0.3.1", b"0.4.0", b"1.0.0", b"1.1.0")
    if len(pieces) == 3 and pieces[0].strip() == b":" and pieces[1] in known:
        return pieces[1].decode()
    return otherwise


if __name__ == "__main__":
    posix._exit(main())
