# Forebay: the commands of its developers.
#
#   make         build ./forebay, a static binary
#   make test    all tests; as root on Debian it first installs the peers they talk to
#   make race    all tests again under the race detector, in random order (needs gcc)
#   make lint    gofmt, go vet, staticcheck; fails on any finding
#   make bench   all benchmarks
#   make fuzz    every fuzz target for FUZZTIME
#   make arm     the store's tests on a 32-bit processor, with a backlog of more than 2 GB (needs qemu-user-static)
#   make deb     dist/forebay_VERSION_ARCH.deb (ARCH=arm64 and armhf cross-build)
#   make clean

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION     := $(shell sed -n '1s/^forebay (\(.*\)).*/\1/p' packaging/debian/changelog)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 5s
BENCHTIME   ?= 1s
TESTFLAGS   ?=
ARCH        ?=

# Real programs at the other end of the tests' connections. pymodbus cannot
# even be imported as a server without the serial module that it recommends.
PEERS := mosquitto mosquitto-clients python3-pymodbus python3-serial-asyncio mbpoll socat libmodbus-dev python3-paho-mqtt \
	iproute2 nftables rabbitmq-server

# A build must not depend on who owns the checkout or on a version control
# program.
export GOFLAGS += -buildvcs=false

.PHONY: all test peers race lint bench fuzz arm deb clean

all:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o forebay ./cmd/forebay

test: peers
	go test $(TESTFLAGS) ./...

peers:
	@.ci/apt-install $(PEERS)

race:
	CGO_ENABLED=1 go test -race -shuffle=on $(TESTFLAGS) ./...

lint:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then printf 'gofmt -w needed:\n%s\n' "$$unformatted" >&2; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...

bench:
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# go test fuzzes one target of one package at a time.
fuzz:
	@targets=$$(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|\(.*\)/[^/]*:func |\1 |' | sort); \
	[ -n "$$targets" ] || { echo 'no fuzz target found' >&2; exit 1; }; \
	while read -r package target; do \
		echo "fuzz $$package $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package"; \
	done <<<"$$targets"

# An offset or a mapping that is too large for 32 bits shows here only.
arm:
	CGO_ENABLED=0 GOARCH=arm go vet ./...
	CGO_ENABLED=0 GOARCH=arm FOREBAY_BACKLOG_MB=2200 go test -short -timeout 20m -exec qemu-arm-static $(TESTFLAGS) ./storage

deb:
	packaging/build-deb.sh $(ARCH)

clean:
	rm -rf forebay dist
