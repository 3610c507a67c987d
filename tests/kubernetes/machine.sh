#!/bin/bash
# One machine of the cluster, as the first process of namespaces of its own (network, mounts,
# processes, name): mounts what machines have for themselves, runs its services, and ends with them.
#   machine.sh NAME DIRECTORY        services are DIRECTORY/services/*, what they say in DIRECTORY/log
set -eu
name=$1 directory=$2
hostname "$name"
# As on a machine: pods see what is mounted later.
mount --make-rshared /
for place in etc var/lib; do
  above=$directory/above/$place
  mkdir -p "$above/new" "$above/work"
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$above/new,workdir=$above/work" "/$place"
done
mkdir -p "$directory/varlog"
mount --bind "$directory/varlog" /var/log
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/netns
# Settings of the whole kernel, which a kubelet changes: it gets files that only look like them.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  likeness=$directory/settings/$setting
  mkdir -p "$(dirname "$likeness")"
  cat "/proc/sys/$setting" >"$likeness"
  mount --bind "$likeness" "/proc/sys/$setting"
done
touch "$directory/up"
for service in "$directory"/services/*; do
  # A daemon that ends is started again, as a machine's service is.
  (
    while :; do
      bash "$service" >>"$directory/log/$(basename "$service")" 2>&1 &
      echo $! >"$directory/$(basename "$service").pid"
      wait $! || true
      sleep 0.5
    done
  ) &
done
wait
