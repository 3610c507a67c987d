"""``weaver launch``: the daemon in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

from ipam.address import Address
from ipam.exclusions import parse_exclusions
from mesh.connection.maker import Target
from mesh.drivers.listen import listening_socket
from mesh.errors import OperatorError
from mesh.wire.cipher import named
from weaver.config import Config, http_address, parse_ranges, parse_subnets
from weaver.logs import set_up

if TYPE_CHECKING:
    from weaver.daemon.daemon import Daemon
    from weaver.docker.server import DockerServer


def config_of(args: argparse.Namespace) -> Config:
    """Check the flags. Raises OperatorError."""
    if args.password_file and args.password is not None:
        raise OperatorError("--password and --password-file exclude each other", "bad-request")
    password = os.environ.get("WEAVER_PASSWORD") if args.password is None else args.password
    if password == "" and not args.password_file:
        # A script's variable that is not set must not turn the encryption off.
        raise OperatorError(
            "the password is empty; without --password and WEAVER_PASSWORD a mesh is not encrypted",
            "bad-password",
        )
    return Config(
        peers=tuple(Target.parse(text, args.port) for text in args.peers),
        nickname=args.nickname or socket.gethostname(),
        password_file=Path(args.password_file) if args.password_file else None,
        password=None if args.password_file else password,
        port=args.port,
        sleeve_port=args.sleeve_port,
        probe_port=args.probe_port,
        http=args.http,
        state_dir=Path(args.state_dir),
        run_dir=Path(args.run_dir),
        ranges=parse_ranges(args.range),
        rest=args.ipam_rest,
        exclusions=parse_exclusions(args.ipam_exclude),
        mtu=args.mtu,
        sleeve_workers=args.sleeve_workers,
        conn_limit=args.conn_limit,
        discovery=not args.no_discovery,
        liveness_timeout=args.liveness_timeout,
        init_peer_count=args.init_peer_count,
        seed=args.seed,
        observer=args.observer,
        cipher=named(args.cipher),
        fastdp=not args.no_fastdp,
        trusted_subnets=parse_subnets(args.trusted_subnets),
        kubernetes=_api_server(args.kubernetes),
        node=args.node or os.environ.get("WEAVER_NODE") or args.nickname or socket.gethostname(),
        service_account=Path(args.service_account),
        docker=Path(args.run_dir) / args.docker if args.docker else None,
        log_format=args.log_format,
        log_level=args.log_level,
    )


def _api_server(wanted: str | None) -> str | None:
    """Its URL; from what every pod is told, where only the flag is given."""
    if wanted != "":
        return wanted
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise OperatorError(
            "--kubernetes: this is no pod, for KUBERNETES_SERVICE_HOST is not set", "bad-request"
        )
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def launch(args: argparse.Namespace) -> int:
    try:
        config = config_of(args)
    except OperatorError as err:
        print(f"weaver: {err} ({err.reason})", file=sys.stderr)
        return 2
    set_up(config.log_format, config.log_level)
    try:
        asyncio.run(_run(config, _listen(config.port)))
    except OperatorError as err:
        print(f"weaver: {err} ({err.reason})", file=sys.stderr)
        return 1
    return 0


def _listen(port: int) -> socket.socket:
    try:
        return listening_socket(port)
    except OSError as err:
        raise OperatorError(f"TCP {port}: {err.strerror}", "port-taken") from err


async def _run(config: Config, listening: socket.socket) -> None:
    from weaver.api.server import ApiServer, make_way
    from weaver.cni.server import CniServer
    from weaver.daemon.daemon import Daemon
    from weaver.daemon.facade import Facade
    from weaver.docker.driver import Driver
    from weaver.docker.server import DockerServer

    if config.kubernetes is not None:
        config = await _of_the_cluster(config)
    daemon = Daemon(config, listening)
    facade = Facade(daemon)
    api = ApiServer(facade)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stopping.set)
    reload = facade.reload_on_signal
    loop.add_signal_handler(signal.SIGHUP, lambda: daemon.background(reload(), "reload"))
    make_way(config.socket)
    await daemon.start()
    docker = DockerServer(
        Driver(
            daemon.attacher,
            daemon.ranges.for_docker.range,
            lambda number: daemon.ranges.for_docker.allocator.holder_of(Address(number)),
            facade.not_ready,
        )
    )
    cni = CniServer(daemon.attacher, facade.not_ready, facade.cannot_allocate)
    try:
        http = http_address(config.http) if config.http else None
        await api.start(config.socket, http, config.state_dir / "api-token")
        daemon.sockets.append(config.socket)
        await cni.start(config.cni_socket)
        daemon.sockets.append(config.cni_socket)
        if config.docker is not None:
            await _serve_docker(docker, config.docker)
            daemon.sockets.append(config.docker)
        if config.kubernetes is not None:
            _follow_nodes(daemon, config, facade.not_ready)
        await daemon.stopping.wait()
    finally:
        await docker.close()
        await cni.close()
        await api.close()
        await daemon.close()


async def _serve_docker(docker: DockerServer, path: Path) -> None:
    try:
        await docker.start(path)
    except OSError as err:
        raise OperatorError(f"{path}: {err.strerror}", "socket-unusable") from err


async def _of_the_cluster(config: Config) -> Config:
    from weaver.kubernetes.client import ApiServer
    from weaver.kubernetes.first import with_nodes

    assert config.kubernetes is not None
    api = ApiServer(config.kubernetes, config.service_account)
    return await with_nodes(config, api, SystemRandom(), asyncio.get_running_loop().time)


def _follow_nodes(daemon: Daemon, config: Config, not_ready: Callable[[], str | None]) -> None:
    from weaver.kubernetes.agent import Agent
    from weaver.kubernetes.client import ApiServer
    from weaver.kubernetes.mesh import DaemonMesh

    assert config.kubernetes is not None
    api = ApiServer(config.kubernetes, config.service_account)
    mesh = DaemonMesh(daemon, not_ready)
    agent = Agent(mesh, api, config.node, daemon.rng, asyncio.get_running_loop().time)
    daemon.background(agent.run(), "kubernetes")
