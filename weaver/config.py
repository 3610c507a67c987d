"""What a daemon is started with, checked once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

from ipam.address import AddressRange
from ipam.by_range import check_ranges
from ipam.exclusions import Excluded, Exclusion
from ipam.space import REST
from mesh.connection.maker import Target
from mesh.errors import OperatorError
from mesh.link.lanes import MAX_LANES
from mesh.link.overlay import Network
from mesh.wire.cipher import Cipher

DEFAULT_RANGE = "10.32.0.0/12"
DEFAULT_LANES = 4
"""Processes of the sleeve's worker at the most, where nobody says how many."""

MAX_SOCKET_PATH = 107
"""Octets the kernel takes."""

MAX_SUBNETS = 256
MAX_REST = 86_400.0
"""Seconds. What rests is in memory, and none of it can be given."""

MIN_MTU, MAX_MTU = 576, 65000
MIN_MTU_IPV6 = 1280
"""Below, the kernel has no IPv6 on an interface (RFC 8200, 5)."""


@dataclass(frozen=True, slots=True)
class Config:
    """Launch options. Ports are numbers, paths are this host's."""

    peers: tuple[Target, ...] = ()
    nickname: str = "weaver"
    password_file: Path | None = None
    password: str | None = None
    port: int = 6783
    sleeve_port: int = 6783
    probe_port: int = 6786
    http: str = "127.0.0.1:6784"
    state_dir: Path = Path("/var/lib/weaver")
    run_dir: Path = Path("/run/weaver")
    ranges: tuple[AddressRange, ...] = field(
        default_factory=lambda: (AddressRange.parse(DEFAULT_RANGE),)
    )
    """The first of each family is what pods have an address of without asking."""
    rest: float = REST
    """Seconds for which a freed address is nobody's."""
    exclusions: tuple[Exclusion, ...] = ()
    mtu: int | None = None
    """Of pods; None: what the underlay carries less what goes around (mesh.link.podmtu)."""
    sleeve_workers: int = 0
    conn_limit: int = 200
    discovery: bool = True
    liveness_timeout: float = 5.0
    init_peer_count: int | None = None
    seed: bool = False
    observer: bool = False
    fastdp: bool = True
    trusted_subnets: tuple[Network, ...] = ()
    cipher: Cipher | None = None
    """The only one to offer; None: all there are, the faster first."""
    docker: Path | None = None
    """The socket of Docker's plugin, if there is to be one."""
    kubernetes: str | None = None
    """Where the API server is, if we are a pod of one of its nodes."""
    node: str = ""
    """That node's name."""
    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    log_format: str = "text"
    log_level: str = "info"

    def __post_init__(self) -> None:
        if self.mtu is not None and not MIN_MTU <= self.mtu <= MAX_MTU:
            raise OperatorError(f"--mtu is {MIN_MTU} to {MAX_MTU}, not {self.mtu}", "bad-mtu")
        for port in (self.port, self.sleeve_port, self.probe_port):
            if not 0 < port < 65536:
                raise OperatorError(f"not a port: {port}", "bad-port")
        check_ranges(self.ranges)
        six = any(range.family == 6 for range in self.ranges)
        if six and self.mtu is not None and self.mtu < MIN_MTU_IPV6:
            raise OperatorError(f"--mtu {self.mtu}: IPv6 needs {MIN_MTU_IPV6} at least", "bad-mtu")
        if not 0.0 <= self.rest <= MAX_REST:
            raise OperatorError(f"--ipam-rest is 0 to {MAX_REST:.0f} seconds", "bad-timeout")
        for one in self.exclusions:
            if not any(Excluded(range, [one]).parts for range in self.ranges):
                known = ", ".join(map(str, self.ranges))
                raise OperatorError(f"--ipam-exclude: {one} is not in {known}", "bad-exclusion")
        if self.sleeve_port == self.probe_port:
            raise OperatorError("--sleeve-port and --probe-port are both UDP", "bad-port")
        if not 1 <= self.conn_limit <= 4096:
            raise OperatorError("--conn-limit is 1 to 4096", "bad-limit")
        if not 1.0 <= self.liveness_timeout <= 300.0:
            raise OperatorError("--liveness-timeout is 1 to 300 seconds", "bad-timeout")
        if self.init_peer_count is not None and not 1 <= self.init_peer_count <= 4096:
            raise OperatorError("--init-peer-count is 1 to 4096", "bad-count")
        nickname = self.nickname.encode(errors="replace")
        if not 0 < len(nickname) <= 255 or not self.nickname.isprintable():
            raise OperatorError("--nickname is 1 to 255 printable octets", "bad-nickname")
        if not 0 <= self.sleeve_workers <= MAX_LANES:
            raise OperatorError(f"--sleeve-workers is 0 (by itself) to {MAX_LANES}", "bad-count")
        if self.seed and self.observer:
            raise OperatorError("--seed and --observer exclude each other", "bad-request")
        if self.http:
            http_address(self.http)
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            raise OperatorError(f"--run-dir is too long for a socket's path: {self.run_dir}")

    def lanes(self, cores: int) -> int:
        """Processes of the sleeve's worker on a host of so many cores: half of them by default,
        for the pods need the others to have anything to send."""
        return self.sleeve_workers or max(1, min(DEFAULT_LANES, cores // 2))

    @property
    def socket(self) -> Path:
        return self.run_dir / "weaver.sock"

    @property
    def cni_socket(self) -> Path:
        return self.run_dir / "cni.sock"


def parse_ranges(text: str) -> tuple[AddressRange, ...]:
    """``10.32.0.0/12,fd00:10:32::/64``. Raises OperatorError "bad-range"."""
    return tuple(AddressRange.parse(part.strip()) for part in text.split(","))


def parse_subnets(text: str) -> tuple[Network, ...]:
    """``10.0.0.0/8,2001:db8::/32``. Raises OperatorError "bad-subnet"."""
    found: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ip_network(part))
        except ValueError as err:
            raise OperatorError(f"--trusted-subnets: {err}", "bad-subnet") from err
    if len(found) > MAX_SUBNETS:
        raise OperatorError(f"--trusted-subnets: at most {MAX_SUBNETS}", "bad-subnet")
    return tuple(found)


def http_address(text: str) -> tuple[str, int]:
    """Host and port of ``--http``. Raises OperatorError.

    Loopback only: whoever can connect may read everything, and nothing there is encrypted.
    """
    target = Target.parse(text, 6784)
    try:
        fits = target.host == "localhost" or ip_address(target.host).is_loopback
    except ValueError:
        fits = False
    if not fits:
        raise OperatorError(
            f"--http is a loopback address such as 127.0.0.1:6784, not {text}", "bad-http"
        )
    return target.host, target.port
