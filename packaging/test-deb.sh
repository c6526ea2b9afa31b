#!/bin/bash
# test-deb.sh [DEB]: the life of the package on a real systemd: installed,
# serving, upgraded, killed, misconfigured, removed, purged.
#
# DEB is by default this machine's architecture in dist/. A minimal Debian 12
# boots in a container without a network; its root is built once and kept as a
# tar in FOREBAY_CACHE (default ~/.cache/forebay). Needs root. What was started
# is stopped and what was unpacked is removed, also when a check fails.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
arch=$(dpkg --print-architecture)
version=$(sed -n '1s/^forebay (\(.*\)).*/\1/p' "$top"/packaging/debian/changelog)
deb=${1:-$top/dist/forebay_${version}_$arch.deb}
cache=${FOREBAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay}
packages=systemd,systemd-sysv,dbus,init-system-helpers,adduser,mosquitto-clients
base=$cache/bookworm-$arch-$(cksum <<<"$packages" | cut -d' ' -f1).tar

[ "$(id -u)" = 0 ] || { echo "test-deb: needs root" >&2; exit 1; }
"$top"/.ci/apt-install mmdebstrap systemd-container procps

scratch=$(mktemp -d)
root=$scratch/root
nspawn=
leader=
finish() {
	local status=$?
	trap - EXIT
	if [ "$status" != 0 ] && [ -n "$leader" ]; then
		echo "--- what the container and the service said" >&2
		tail -n 40 "$scratch"/console >&2
		guest journalctl -q --no-pager -u forebay -n 40 >&2 || true
	fi
	if [ -n "$nspawn" ]; then
		kill -TERM "$nspawn" 2>/dev/null || true
		wait "$nspawn" 2>/dev/null || true
	fi
	rm -rf --one-file-system "$scratch"
	exit "$status"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# --- Telling ---------------------------------------------------------------

step() { printf '%4ds  %s\n' "$SECONDS" "$*"; }
fail() { echo "test-deb: FAIL: $*" >&2; exit 1; }

# guest COMMAND...: runs a command in the container.
guest() { nsenter -t "$leader" -a -r -w "$@"; }

# until_true SECONDS COMMAND...: waits for a condition.
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || fail "not within time: $*"
		sleep 0.1
	done
}

# state NAME VALUE: whether a property of the service has a value.
state() { [ "$(property "$1")" = "$2" ]; }
property() { guest systemctl show -P "$1" forebay; }
differs() { [ "$(property "$1")" != "$2" ] && [ "$(property "$1")" != 0 ]; }

# receive TOPIC: prints the next message of a persistent session that was made
# by subscribe, and lets it wait again for the one after.
client=(-h 127.0.0.1 -p 1883 -V mqttv311)
subscribe() { guest mosquitto_sub "${client[@]}" -i keeper -c -q 1 -t "$1" -E; }
receive() { guest mosquitto_sub "${client[@]}" -i keeper -c -q 1 -t "$1" -C 1 -W 10; }
publish() { guest mosquitto_pub "${client[@]}" -q 1 -t "$1" -m "$2"; }

# --- The machine -----------------------------------------------------------

if [ ! -s "$base" ]; then
	step "building the minimal Debian, once"
	mkdir -p "$cache"
	mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$scratch"/base.tar
	mv "$scratch"/base.tar "$base.$$"
	mv "$base.$$" "$base"
fi

step "booting"
mkdir "$root"
tar -xf "$base" -C "$root"
cp "$deb" "$root"/srv/forebay.deb
# What a later version of the package would do: the same with a higher number.
dpkg-deb -R "$deb" "$scratch"/next
sed -i 's/^Version: .*/&+next/' "$scratch"/next/DEBIAN/control
dpkg-deb --root-owner-group -b "$scratch"/next "$root"/srv/next.deb >/dev/null

systemd-nspawn -q -D "$root" --boot --register=no --keep-unit --private-network --console=pipe \
	</dev/null >"$scratch"/console 2>&1 &
nspawn=$!
has_leader() {
	kill -0 "$nspawn" 2>/dev/null || fail "the container did not start: $(cat "$scratch"/console)"
	leader=$(pgrep -P "$nspawn" | head -1) && [ -n "$leader" ]
}
until_true 20 has_leader
booted() { guest systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; }
until_true 60 booted

# --- Its life --------------------------------------------------------------

step "install"
guest dpkg -i /srv/forebay.deb
until_true 20 state ActiveState active
guest systemctl --no-pager --lines=3 status forebay
guest forebay version
guest forebay check /etc/forebay/forebay.yaml
[ "$(property NRestarts)" = 0 ] || fail "it needed more than one start"
[ "$(guest stat -c %U:%a /var/lib/forebay)" = forebay:750 ] || fail "owner or mode of /var/lib/forebay"
guest id -nG forebay | grep -qw dialout || fail "no right to the serial ports"
guest systemctl is-enabled -q forebay || fail "would not start at boot"
# verify returns 0 for keys that it does not know: its words count.
said=$(guest systemd-analyze --man=no verify forebay.service 2>&1 | grep forebay || true)
[ -z "$said" ] || fail "unit: $said"
guest systemd-analyze --no-pager security forebay.service --threshold=20 >"$scratch"/security ||
	{ tail -1 "$scratch"/security >&2; fail "less hardened than it was"; }
tail -1 "$scratch"/security

step "one message"
subscribe test/live
publish test/live "it is served"
[ "$(receive test/live)" = "it is served" ] || fail "the message did not come back"

step "reload: a change is taken, a wrong file refused, and the process stays"
pid=$(property MainPID)
guest forebay status
[ "$(guest stat -c %U:%G:%a /run/forebay/control.sock)" = forebay:forebay:660 ] || fail "owner or mode of the control socket"
guest runuser -u nobody -- forebay status && fail "everyone may use the control socket"
guest runuser -u nobody -g forebay -- forebay status >/dev/null || fail "the group may not use the control socket"
guest cp -p /etc/forebay/forebay.yaml /srv/good.yaml
guest sed -i 's/^  level: info/  level: debug/' /etc/forebay/forebay.yaml
guest systemctl reload forebay || fail "reload"
guest journalctl -q --no-pager -u forebay -n 20 | grep -q 'log level debug' || fail "the reload says nothing"
guest sh -c 'echo "nonsense: [" >>/etc/forebay/forebay.yaml'
guest systemctl reload forebay && fail "a wrong configuration was taken"
state ActiveState active || fail "the reload ended it"
guest cp -p /srv/good.yaml /etc/forebay/forebay.yaml
guest systemctl reload forebay || fail "reload"
[ "$(property MainPID)" = "$pid" ] || fail "the reload restarted it"
[ "$(property NRestarts)" = 0 ] || fail "it was restarted"

step "upgrade: edited configuration and waiting messages stay"
publish test/live "before the upgrade"
guest sh -c 'echo "# by the owner" >>/etc/forebay/forebay.yaml'
pid=$(property MainPID)
guest dpkg -i /srv/next.deb
until_true 20 state ActiveState active
differs MainPID "$pid" || fail "the old version still runs"
guest grep -q "by the owner" /etc/forebay/forebay.yaml || fail "the edited configuration is gone"
[ "$(receive test/live)" = "before the upgrade" ] || fail "the upgrade lost a message"

step "kill -9: it comes back by itself"
publish test/live "before the kill"
pid=$(property MainPID)
guest systemctl kill --kill-whom=main -s KILL forebay
until_true 20 differs MainPID "$pid"
until_true 20 state ActiveState active
[ "$(receive test/live)" = "before the kill" ] || fail "the kill lost a message"

step "watchdog: a stopped process is replaced, a running one is not"
guest mkdir -p /run/systemd/system/forebay.service.d
guest sh -c 'printf "[Service]\nWatchdogSec=2s\n" >/run/systemd/system/forebay.service.d/watchdog.conf'
guest systemctl daemon-reload
guest systemctl restart forebay
pid=$(property MainPID)
sleep 5 # two periods and a half: nothing else would show that it is fed
[ "$(property MainPID)" = "$pid" ] || fail "the watchdog bit a healthy process"
guest systemctl kill --kill-whom=main -s STOP forebay
until_true 20 differs MainPID "$pid"
until_true 20 state ActiveState active
guest rm -r /run/systemd/system/forebay.service.d
guest systemctl daemon-reload

step "wrong configuration: one start, status 78"
guest cp -p /etc/forebay/forebay.yaml /srv/good.yaml
guest sh -c 'echo "nonsense: [" >>/etc/forebay/forebay.yaml'
guest systemctl restart forebay && fail "started with a wrong configuration"
until_true 20 state ActiveState failed
state ExecMainStatus 78 || fail "exit status $(property ExecMainStatus)"
guest cp -p /srv/good.yaml /etc/forebay/forebay.yaml
guest systemctl start forebay

step "a service that the owner disabled stays so over an upgrade"
guest systemctl disable -q --now forebay
guest dpkg -i /srv/forebay.deb >/dev/null 2>&1
if guest systemctl is-enabled -q forebay; then fail "enabled again"; fi
guest systemctl enable -q --now forebay
until_true 20 state ActiveState active

step "remove: the program goes, configuration and messages stay"
publish test/live "before the removal"
guest dpkg -r forebay
if guest systemctl is-active -q forebay; then fail "still running"; fi
guest sh -c '! command -v forebay' || fail "the program is still there"
guest test -s /etc/forebay/forebay.yaml || fail "the configuration is gone"
guest dpkg -i /srv/forebay.deb
until_true 20 state ActiveState active
[ "$(receive test/live)" = "before the removal" ] || fail "the removal lost a message"

step "purge: nothing stays but the user"
guest dpkg -P forebay
left=$(guest find / -xdev -iname '*forebay*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/srv/*' -not -path '/tmp/*')
[ -z "$left" ] || fail "left behind: $left"
failed=$(guest systemctl list-units --failed --plain --no-legend | grep forebay || true)
[ -z "$failed" ] || fail "left behind: $failed"

step "ok: ${deb##*/}"
