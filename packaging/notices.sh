#!/bin/bash
# notices.sh BINARY: prints the licence of Go and of every module linked into
# a Go binary, as those licences ask of whoever hands the binary on.
set -euo pipefail

notice() { # NAME FOLDER
	local file found=
	for file in "$2"/LICENSE* "$2"/LICENCE* "$2"/COPYING* "$2"/NOTICE*; do
		[ -f "$file" ] || continue
		found=yes
		printf '%s\n%s: %s\n%s\n\n' "$rule" "$1" "${file##*/}" "$rule"
		cat "$file"
		echo
	done
	[ -n "$found" ] || { echo "notices: $1: no licence in $2" >&2; exit 1; }
}

rule=$(printf '%078d' 0 | tr 0 =)
modules=$(go version -m "$1" | awk '$1 == "dep" { print $2 }')
notice "The Go standard library and run time" "$(go env GOROOT)"
for module in $modules; do
	folder=$(go list -m -f '{{.Dir}}' "$module")
	notice "$module" "$folder"
done
