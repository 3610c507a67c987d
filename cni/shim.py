"""The CNI executable, as it is installed: hands everything to the daemon, prints its answer.

Only modules that are built into the interpreter are imported: a pod start waits for this file.
``weaver.cni.install`` writes it with a shebang of the real interpreter and these two constants.
"""

import _socket
import posix

SOCKET = "/run/weaver/cni.sock"
PLUGIN = "weaver-net"
MAX_STDIN = 16 << 20


def main() -> int:
    environ = posix.environ
    command = environ.get(b"CNI_COMMAND", b"")
    if not command:
        about = "CNI plugin %s, talks to the daemon on %s\nCNI protocol versions supported: "
        versions = "0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
        posix.write(2, (about % (PLUGIN, SOCKET) + versions).encode())
        return 0
    stdin = b""
    while len(stdin) <= MAX_STDIN:
        piece = posix.read(0, 65536)
        if not piece:
            break
        stdin += piece
    lines = [b"PLUGIN=" + PLUGIN.encode()]
    for key, value in environ.items():
        if key[:4] == b"CNI_":
            lines.append(key + b"=" + value.replace(b"\n", b" "))
    head = b"\n".join(lines)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(SOCKET)
        sock.sendall(len(head).to_bytes(4, "big") + len(stdin).to_bytes(4, "big") + head + stdin)
        answer = b""
        while True:
            piece = sock.recv(65536)
            if not piece:
                break
            answer += piece
    except OSError:
        answer = b""
    if answer:
        posix.write(1, answer[1:])
        return answer[0]
    if command == b"DEL":
        return 0  # the daemon finds at its next start that the pod is gone, and frees its address
    if command == b"VERSION":
        said = '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'
        posix.write(1, said.encode())
        return 0
    code = b"50" if command == b"STATUS" else b"11"
    refusal = b'{"cniVersion":"1.0.0","code":%s,"msg":"weaver is not running","details":"%s"}'
    posix.write(1, refusal % (code, SOCKET.encode()))
    return 1


if __name__ == "__main__":
    posix._exit(main())
