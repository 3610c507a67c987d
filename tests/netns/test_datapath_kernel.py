"""The kernel's Datapath keeps the rules: eBPF on real devices, over IPv4 and over IPv6."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import datapath_rules as rules
from tests.datapath_rules import *  # noqa: F403  # they are the tests
from tests.netns.kernel_hosts import KernelChain

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", params=[4, 6], ids=["ipv4", "ipv6"])
def hosts(request: pytest.FixtureRequest) -> Iterator[KernelChain]:
    chain = KernelChain(f"dk{os.getpid() % 1000}", version=request.param)
    yield chain
    chain.close()


@pytest.fixture
def bare(hosts: KernelChain) -> Iterator[KernelChain]:
    try:
        hosts.open()
        yield hosts
    finally:
        hosts.remove()


@pytest.fixture
def chain(bare: KernelChain) -> KernelChain:
    rules.wire(bare)
    return bare
