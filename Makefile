# Everything a newcomer types. `make demo` and `make test` install what they need first.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := python3-venv iproute2 iputils-ping nftables iperf3 tcpdump procps ethtool gcc clang-14 libbpf-dev
TEST_PACKAGES := containernetworking-plugins containerd runc busybox-static podman docker.io iptables golang-go golang-github-appc-cni-dev
KUBERNETES_PACKAGES := rsync jq dpkg-dev mmdebstrap openssl conntrack
PEERS := wireguard-go wireguard-tools fastd tinc nebula openvpn openssl
N ?= 20
SEEDS ?= 1-20
STEPS ?= 200
ROUNDS ?= 100

.DEFAULT_GOAL := help
.PHONY: help demo test check netns e2e e2e-kubernetes sim sim-ipam sim-long planted bench bench-datapath bench-peers bench-publish bench-control bench-ipam bench-cni bench-fastdp soak-fastdp soak-ipam lab-clean clean packages test-packages simulated drivers

help:
	@echo "make demo        five hosts on this machine, two of which reach each other only through a third"
	@echo "make test        every gate and every test"
	@echo "make check       what needs no root: lint, types, contracts, unit and property tests"
	@echo "make simulated drivers  tests of whole meshes, of addresses alone, and of drivers"
	@echo "make netns e2e   tests with real devices, with real daemons and container runtimes"
	@echo "make e2e-kubernetes  a real Kubernetes of three nodes, built from Debian's source the first time (20 minutes)"
	@echo "make sim         whole meshes under virtual time: SEEDS=1-200, or a list; sim-paths: data paths"
	@echo "make sim-ipam    allocators alone: SEEDS=1-500 STEPS=200; sim-long: 10,000 seeds of 2,000 operations"
	@echo "make planted     planted bugs, each of which a test must catch"
	@echo "make bench       bench-datapath and bench-control N=20; beside others: bench-peers, bench-publish, bench-cni, bench-ipam"
	@echo "make bench-fastdp  the kernel's fast path beside a VXLAN set up by hand; make soak-fastdp ROUNDS=100: kill and replace it, and daemons; 10 GB past them"
	@echo "make lab-clean   remove a lab that was left behind; make clean: the build's files"

# --- what the machine needs

packages:
	@missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing:" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

# Container runtimes and tools that only tests and benchmarks need.
test-packages:
	@$(MAKE) --no-print-directory packages PACKAGES="$(TEST_PACKAGES)"

SHIM := cni/shim-$(shell uname -m)
PROGRAMS := $(patsubst mesh/link/bpf/%.c,mesh/link/bpf/objects/%.o,$(wildcard mesh/link/bpf/*.c))

# Built with the wheel, and again whenever a source changes.
$(PROGRAMS) $(SHIM) &: $(wildcard mesh/link/bpf/*.[ch]) cni/shim.c hatch_build.py | packages
	$(PYTHON) hatch_build.py

$(VENV)/.stamp: pyproject.toml $(PROGRAMS) $(SHIM) | packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e . \
	  $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml","rb"))["dependency-groups"]["dev"])')
	touch $@

# --- the two commands of the README

demo: $(VENV)/.stamp
	$(BIN)/weaver lab demo

test: test-packages check
	$(MAKE) --no-print-directory --output-sync -j2 simulated drivers
	$(MAKE) --no-print-directory netns e2e

# --- the tiers

check: $(VENV)/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/pytest -q tests/unit tests/properties

# What needs a processor and nothing else, on two of them.
simulated: $(VENV)/.stamp
	$(BIN)/pytest -q tests/sim

drivers: $(VENV)/.stamp
	$(BIN)/pytest -q tests/ipam tests/scenarios tests/drivers

netns: $(VENV)/.stamp test-packages
	$(BIN)/pytest -q tests/netns

e2e: $(VENV)/.stamp test-packages
	$(BIN)/pytest -q tests/e2e

# Not a part of `make test`: what it builds, once, takes longer than all other tests.
e2e-kubernetes: $(VENV)/.stamp test-packages
	@$(MAKE) --no-print-directory packages PACKAGES="$(KUBERNETES_PACKAGES)"
	tests/kubernetes/build.sh build/kubernetes
	WEAVER_KUBERNETES=1 $(BIN)/pytest -q -rP tests/kubernetes

sim: $(VENV)/.stamp
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

sim-paths: $(VENV)/.stamp
	$(BIN)/python -m tests.sim --paths --seeds $(SEEDS)

# Allocators alone: many more stories of them. The long run is for a night.
sim-ipam: $(VENV)/.stamp
	$(BIN)/python -m tests.ipam --seeds $(SEEDS) --steps $(STEPS)

sim-long: $(VENV)/.stamp
	$(BIN)/python -m tests.ipam --seeds 1-10000 --steps 2000

planted: $(VENV)/.stamp test-packages
	$(BIN)/python -m tests.planted

bench: bench-datapath bench-control

bench-datapath: $(VENV)/.stamp test-packages
	$(BIN)/python -m bench.datapath

bench-fastdp: $(VENV)/.stamp test-packages
	$(BIN)/python -m bench.fastdp

# Real daemons, killed at random moments while containers come and go, then asked what is wrong.
soak-ipam: $(VENV)/.stamp test-packages
	WEAVER_REQUIRE=e2e WEAVER_SOAK=300 $(BIN)/pytest -q tests/e2e/test_crashes.py

soak-fastdp: $(VENV)/.stamp test-packages
	$(BIN)/python -m bench.soak_fastdp --rounds $(ROUNDS)
	$(BIN)/python -m bench.soak_daemons --rounds $(ROUNDS)

bench-peers: $(VENV)/.stamp test-packages
	@$(MAKE) --no-print-directory packages PACKAGES="$(PEERS)"
	@mkdir -p build
	$(BIN)/python -m bench.peers --json build/bench-peers.json $(BENCH)

# The same, and what it found into docs: tables, values, plot.
bench-publish:
	$(MAKE) --no-print-directory bench-peers BENCH="--publish docs"

bench-ipam: $(VENV)/.stamp
	$(BIN)/python -m bench.ipam

bench-control: $(VENV)/.stamp
	$(BIN)/python -m bench.control --hosts $(N)

bench-cni: $(VENV)/.stamp test-packages
	$(BIN)/python -m bench.cni $(BENCH)

lab-clean: $(VENV)/.stamp
	$(BIN)/weaver lab down

clean:
	rm -rf $(VENV) mesh/link/bpf/objects cni/shim-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
