#!/bin/bash
# Real Kubernetes out of Debian's own source package (every library is in it), built by Debian's Go,
# and etcd out of Debian's binary package. Twenty minutes on one processor the first time; what has
# been built is not built again.
#   tests/kubernetes/build.sh DIRECTORY        executables in DIRECTORY/bin
set -euo pipefail
PARTS="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl"
mkdir -p "$1"
root=$(cd "$1" && pwd)
bin=$root/bin
mkdir -p "$bin" "$root/home" "$root/package"

# Two runs at once would build into one another's tree.
exec 9>"$root/lock"
flock 9

# The package's scripts would start a server on this machine: nothing of it is installed.
if [ ! -x "$bin/etcd" ]; then
  (cd "$root/package" && apt-get -qq update && apt-get -qq -o APT::Sandbox::User=root download etcd-server)
  dpkg-deb -x "$root"/package/etcd-server_*.deb "$root/etcd"
  mv "$root/etcd/usr/bin/etcd" "$bin/etcd"
fi

missing=
for part in $PARTS; do [ -x "$bin/$part" ] || missing="$missing $part"; done
[ -n "$missing" ] || exit 0
echo "kubernetes: building$missing (about twenty minutes, on one processor)"

# Sources are asked of the very archives that this machine has its packages from, with lists of our
# own: /etc/apt stays as it is.
fetch() {
  local apt=$root/apt file
  rm -rf "$apt"
  mkdir -p "$apt/parts" "$apt/lists/partial"
  for file in /etc/apt/sources.list.d/*.sources; do
    # Another vendor's archive need not have sources at all.
    if [ -e "$file" ] && grep -q debian-archive "$file"; then
      sed -E 's/^Types:.*/Types: deb-src/' "$file" >"$apt/parts/$(basename "$file")"
    fi
  done
  if [ -e /etc/apt/sources.list ]; then
    sed -nE 's/^deb /deb-src /p' /etc/apt/sources.list >"$apt/parts/lines.list"
  fi
  local options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/parts"
    -o "Dir::State::lists=$apt/lists" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" -qq update
  (cd "$root/package" && apt-get "${options[@]}" -qq source --download-only kubernetes)
}

if [ ! -e "$root/source/.unpacked" ]; then
  fetch
  rm -rf "$root/source"
  dpkg-source --no-check --no-copy -x "$root"/package/kubernetes_*.dsc "$root/source" >/dev/null
  touch "$root/source/.unpacked"
fi

# The package's tree has no history that could be asked for a version.
version=$(basename "$root"/package/kubernetes_*.dsc .dsc |
  sed -E 's/.*really([0-9.]+)-.*/\1/; s/^kubernetes_([0-9.]+).*/\1/')
cat >"$root/version.sh" <<END
KUBE_GIT_COMMIT='0000000000000000000000000000000000000000'
KUBE_GIT_TREE_STATE='archive'
KUBE_GIT_VERSION='v$version'
KUBE_GIT_MAJOR='${version%%.*}'
KUBE_GIT_MINOR='$(echo "$version" | cut -d. -f2)'
END
export HOME=$root/home GOCACHE=$root/cache KUBE_GIT_VERSION_FILE=$root/version.sh
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-p=1 GOMAXPROCS=1
export PATH=/usr/lib/go/bin:$PATH
cd "$root/source"
for part in $missing; do
  started=$SECONDS
  if ! nice -n 15 make --no-print-directory WHAT="cmd/$part" >"$root/$part.log" 2>&1; then
    tail -30 "$root/$part.log"
    echo "kubernetes: $part did not build: $root/$part.log"
    exit 1
  fi
  # A whole file appears, or none.
  cp "_output/local/go/bin/$part" "$bin/.$part"
  mv "$bin/.$part" "$bin/$part"
  echo "kubernetes: built $part in $((SECONDS - started)) s"
done
