#!/bin/bash
# build-deb.sh [ARCH]: builds dist/forebay_VERSION_ARCH.deb.
#
# ARCH is a Debian architecture (amd64, arm64, armhf), by default this
# machine's. All are built on this machine without a cross compiler. The result
# does not depend on the folder, the time, the umask or the time zone: only on
# the sources and the version of Go.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
arch=${1:-$(dpkg --print-architecture)}
export DEBIAN_FRONTEND=noninteractive
"$top"/.ci/apt-install debhelper
command -v dh >/dev/null || { echo "build-deb: debhelper is missing" >&2; exit 1; }

scratch=$(mktemp -d)
# Go makes the modules of its cache read-only; nothing here is one, but a
# module cache inside HOME of the build would be.
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT

# Debian wants its folder at the top of the tree.
tree=$scratch/forebay
mkdir "$tree"
cp -R "$top"/{go.mod,go.sum,cmd,edge,broker,bridge,modbus,storage,configs,packaging} "$tree"
mv "$tree"/packaging/debian "$tree"/debian

# debhelper gives the build a HOME of its own, where Go would find neither its
# settings nor its caches.
for name in GOENV GOCACHE GOMODCACHE; do
	value=$(go env "$name")
	export "$name=$value"
done

umask 022
cd "$tree"
DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage -b -us -uc -d -a"$arch" --no-check-builddeps >"$scratch"/log 2>&1 ||
	{ cat "$scratch"/log >&2; exit 1; }

mkdir -p "$top"/dist
mv "$scratch"/forebay_*_"$arch".deb "$top"/dist/
cd "$top"
ls -l dist/forebay_*_"$arch".deb
