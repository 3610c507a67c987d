"""A lab as a whole: built, looked at, damaged, mended, taken down."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mesh.errors import OperatorError
from weaver.lab import kernel, neighbours
from weaver.lab.book import BASE, Book, locked
from weaver.lab.host import Site, addresses_of
from weaver.lab.interrupts import undisturbed
from weaver.lab.plan import Host, Order, Plan, Pod, Wire, draw, owns_namespace
from weaver.lab.processes import Process, kill, with_children
from weaver.lab.waiting import NotYetError, Progress, wait_until

UP_TIMEOUT = 60.0
"""Seconds until everything must stand; a lab of twenty on two cores needs about a third."""

START_TIMEOUT = 20.0
"""Seconds a daemon may take to be ready again; two is what it is meant to need."""

WORKERS = 8
"""Pods attached, or pinged from, at a time."""


class Lab:
    """One lab by its name. Every order writes the book, so that the next command can go on."""

    def __init__(self, name: str = "weaver", base: Path = BASE, quiet: bool = False) -> None:
        self.name, self.base = name, base
        self.directory = base / name
        self.progress = Progress(quiet)

    # ---- whole

    def up(
        self,
        order: Order,
        password: str | None = None,
        options: Sequence[str] = (),
        timeout: float = UP_TIMEOUT,
    ) -> None:
        """Build everything and wait until all of it works; what fails is cleared away again."""
        plan = draw(order)
        if os.geteuid() != 0:
            raise OperatorError("a lab makes network namespaces: that needs root", "not-root")
        with locked(self.base, self.name):
            if self.directory.exists():
                raise OperatorError(
                    f"lab {self.name} is up already; `weaver lab down` ends it", "lab-up"
                )
            kernel.check_free(plan)
            try:
                self._build(plan, password, options, time.monotonic() + timeout)
            except BaseException:
                with undisturbed():
                    self._clear()
                raise

    def down(self) -> None:
        """Remove every process, namespace and file of this lab; nothing to remove is fine."""
        with locked(self.base, self.name), undisturbed():
            self._clear()

    def _build(
        self, plan: Plan, password: str | None, options: Sequence[str], deadline: float
    ) -> None:
        self.directory.mkdir(mode=0o700)
        book = Book(plan.order, options=tuple(options))
        if password is not None:
            file = self.directory / "password"
            file.touch(mode=0o600)
            file.write_text(password + "\n")
            book.password_file = str(file)
        book.write(self.directory)
        count = f"{len(plan.hosts)} hosts, {len(plan.wires)} wires, {len(plan.pods)} pods"
        with self.progress.step(f"namespaces for {count}"):
            neighbours.make_room(self.base)
            kernel.build(plan)
            for host in plan.hosts:
                self.site(host).prepare()
        with self.progress.step("daemons ready"):
            self._launch(plan, book, plan.hosts)
            self._wait_ready(book, plan.hosts, deadline)
        with self.progress.step("all know all"):
            self._wait_each("hosts to know each other", plan, Site.strangers, deadline)
        with self.progress.step("pods attached by CNI"):
            self.attach_all(plan)
        with self.progress.step("every pair linked"):
            self._wait_each("links", plan, Site.unlinked, deadline)

    def attach_all(self, plan: Plan) -> dict[str, str]:
        """CNI ADD for every pod; hosts side by side, a host's pods one after the other."""

        def attach(host: Host) -> dict[str, str]:
            site = self.site(host)
            return {pod.name: site.attach(pod) for pod in host.pods}

        with ThreadPoolExecutor(WORKERS) as pool:
            return {pod: at for found in pool.map(attach, plan.hosts) for pod, at in found.items()}

    def _clear(self) -> None:
        """Works with or without a readable book: what bears this lab's name is this lab's."""
        ours = sorted(n for n in kernel.namespaces() if owns_namespace(self.name, n))
        doomed: list[Process] = []
        try:
            book = Book.read(self.directory)
        except OperatorError as err:
            self.progress.say(str(err))
            book = None
        if book is not None:
            for daemon in book.daemons.values():
                doomed += with_children(daemon)
        for namespace in ours:
            doomed += filter(None, map(Process.of, kernel.processes_in(namespace)))
        kill(dict.fromkeys(doomed))
        kernel.remove(ours)
        shutil.rmtree(self.directory, ignore_errors=True)
        neighbours.give_back(self.base)

    # ---- looking

    def book(self) -> Book:
        book = Book.read(self.directory)
        if book is None:
            raise OperatorError(f"no lab {self.name} is up; `weaver lab up` makes one", "no-lab")
        return book

    def plan(self) -> Plan:
        return draw(self.book().order)

    def site(self, host: Host) -> Site:
        return Site(host, self.directory / host.name)

    def status(self) -> dict[str, Any]:
        """What stands, read from the machine: the addresses are the ones the pods have."""
        book = self.book()
        plan = draw(book.order)
        return {
            "name": self.name,
            "topology": str(plan.order.shape),
            "encrypted": book.password_file is not None,
            "cuts": [list(cut) for cut in book.cuts],
            "hosts": [self._host_status(book, plan, host) for host in plan.hosts],
        }

    def _host_status(self, book: Book, plan: Plan, host: Host) -> dict[str, Any]:
        site, daemon = self.site(host), book.daemons.get(host.name)
        alive = daemon is not None and daemon.is_alive
        return {
            "name": host.name,
            "namespace": host.namespace,
            "underlay": host.underlay6 if plan.order.ipv6 else host.underlay,
            "underlay6": host.underlay6,
            "neighbours": [near.name for near in plan.neighbours(host)],
            "pid": daemon.pid if daemon is not None and alive else None,
            "state": "dead" if not alive else (site.not_ready() or "ready"),
            "socket": str(site.socket),
            "log": str(site.log),
            "pods": [_pod_status(pod) for pod in host.pods],
        }

    # ---- damaging and mending

    def cut(self, first: str, second: str) -> None:
        """Silence the wire between two neighbours, both ways."""
        with locked(self.base, self.name):
            book = self.book()
            wire = draw(book.order).wire(first, second)
            kernel.cut(wire)
            pair = (wire.a.name, wire.b.name)
            if pair not in book.cuts:
                book.cuts.append(pair)
            book.write(self.directory)

    def heal(self) -> list[Wire]:
        """Undo every cut; which there were."""
        with locked(self.base, self.name):
            book = self.book()
            plan = draw(book.order)
            wires = [plan.wire(a, b) for a, b in book.cuts]
            for host in {h.name: h for wire in wires for h in (wire.a, wire.b)}.values():
                kernel.heal(host)
            book.cuts.clear()
            book.write(self.directory)
            return wires

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL daemons and all their processes, as a power cut would; pods stay."""
        with locked(self.base, self.name):
            book = self.book()
            hosts = self._hosts(draw(book.order), names)
            running = [book.daemons[h.name] for h in hosts if h.name in book.daemons]
            kill([member for daemon in running for member in with_children(daemon)])

    def start(self, names: Sequence[str]) -> list[str]:
        """Start daemons again with the state and the flags they had; wait until they are ready.

        ``all`` means all that do not run. The answer names those that were started.
        """
        with locked(self.base, self.name):
            book = self.book()
            plan = draw(book.order)
            hosts = self._hosts(plan, names)
            running = [h for h in hosts if h.name in book.daemons and book.daemons[h.name].is_alive]
            if list(names) == ["all"]:
                hosts = [host for host in hosts if host not in running]
            elif running:
                raise OperatorError(
                    f"{running[0].name} runs already; `weaver lab kill` ends it", "lab-host-runs"
                )
            self._launch(plan, book, hosts)
            self._wait_ready(book, hosts, time.monotonic() + START_TIMEOUT)
            return [host.name for host in hosts]

    @staticmethod
    def _hosts(plan: Plan, names: Sequence[str]) -> list[Host]:
        if list(names) == ["all"]:
            return list(plan.hosts)
        return [plan.host(name) for name in dict.fromkeys(names)]

    # ---- inside

    def _launch(self, plan: Plan, book: Book, hosts: Iterable[Host]) -> None:
        options = list(book.options)
        if book.password_file is not None:
            options.append(f"--password-file={book.password_file}")
        for host in hosts:
            site = self.site(host)
            targets = plan.targets(host)
            book.daemons[host.name] = site.launch(targets, len(plan.hosts), options)
            book.write(self.directory)

    def _wait_ready(self, book: Book, hosts: Sequence[Host], deadline: float) -> None:
        waiting = {host.name: self.site(host) for host in hosts}

        def missing() -> list[str]:
            for name in list(waiting):
                if not book.daemons[name].is_alive:
                    raise NotYetError(f"{name}'s daemon ended:\n{waiting[name].last_words()}")
                if waiting[name].not_ready() is None:
                    del waiting[name]
            return list(waiting)

        wait_until("daemons to be ready", missing, deadline)

    def _wait_each(
        self,
        what: str,
        plan: Plan,
        lacking: Callable[[Site, Sequence[Host]], list[str]],
        deadline: float,
    ) -> None:
        """Ask host after host, again only those that still lack something."""
        waiting = list(plan.hosts)

        def missing() -> list[str]:
            found = []
            for host in list(waiting):
                others = [other for other in plan.hosts if other is not host]
                lacks = lacking(self.site(host), others)
                if lacks:
                    found += [f"{host.name} to {other}" for other in lacks]
                else:
                    waiting.remove(host)
            return found

        wait_until(what, missing, deadline)


def _pod_status(pod: Pod) -> dict[str, Any]:
    addresses = addresses_of(pod)
    return {
        "name": pod.name,
        "namespace": pod.namespace,
        "address": addresses[0] if addresses else None,
        "addresses": addresses,
    }
