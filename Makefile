# hyve: see README.md. Every target installs nothing but what scripts/deps.sh
# says it does.
export CGO_ENABLED := 0
# Tools that scripts/deps.sh had to unpack; and sbin, which ordinary users lack.
export PATH := $(PATH):/usr/sbin:/sbin:$(CURDIR)/.deps/bin
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null || echo dev)
PAYLOAD := internal/image/build/payload
GUEST_FLAGS := -trimpath -buildvcs=false -ldflags='-s -w'
# VERSION says what git knows: one commit makes the same bytes wherever it is built.
HOST_FLAGS  := -trimpath -buildvcs=false -ldflags='-s -w -X github.com/hyve-vm/hyve/internal/cli.version=$(VERSION)'

# Where install puts things; DESTDIR goes before it, for packagers.
PREFIX ?= /usr/local
BINDIR := $(DESTDIR)$(PREFIX)/bin
# Under these names hyve is docker-machine, and its driver.
NAMES  := docker-machine docker-machine-driver-xhyve docker-machine-driver-hyve

.PHONY: build install guest demo test unit e2e e2e-kvm long soak attack bench lint cross reproducible clean deps deps-tests

build: guest
	$(GO) build $(HOST_FLAGS) -o bin/hyve ./cmd/hyve

# A docker-machine that is there already is left alone.
install: build
	mkdir -p '$(BINDIR)'
	install -m 755 bin/hyve '$(BINDIR)/hyve'
	cd '$(BINDIR)' && for name in $(NAMES); do \
		if test -e $$name && test "$$(readlink $$name)" != hyve; then echo "$$name is there already, and stays"; \
		else ln -sf hyve $$name; fi; \
	done

# hyve-init for every guest, embedded into hyve.
guest:
	GOOS=linux GOARCH=amd64 $(GO) build $(GUEST_FLAGS) -o $(PAYLOAD)/hyve-init-amd64 ./cmd/hyve-init
	GOOS=linux GOARCH=arm64 $(GO) build $(GUEST_FLAGS) -o $(PAYLOAD)/hyve-init-arm64 ./cmd/hyve-init

deps:
	GO='$(GO)' scripts/deps.sh

demo: deps build
	GO='$(GO)' scripts/demo.sh

# And what the tests want besides.
deps-tests:
	GO='$(GO)' scripts/deps.sh tests

test: deps-tests build lint cross reproducible unit e2e e2e-kvm

unit:
	$(GO) test -short ./...

# With QEMU=10, on Debian 13's; with ENGINE=newest, of machines with that engine.
e2e: build
	export PATH="$(if $(filter 10,$(QEMU)),$$(scripts/unpack.sh trixie):)$$PATH"; \
	$(GO) test -count=1 -v ./internal/hypervisor/qemu && $(GO) test -count=1 -timeout 50m -v ./e2e -args $(E2E) $(if $(ENGINE),-engine $(ENGINE))

# Where KVM works, in a VM that has it (e2e/outer): the core of the tests, with OUTER=-long
# all that can run there; with QEMU=7, on Debian 12's in there.
e2e-kvm: build
	GO='$(GO)' $(GO) run ./e2e/outer $(if $(filter 7,$(QEMU)),-qemu bookworm) $(OUTER)

# With the rare cases and the slow ones; real images for both architectures, each twice; with
# KVM all that can run there, and the core of it on Debian 12's QEMU.
long: E2E := -long
long: e2e
	GO='$(GO)' $(GO) run ./e2e/outer -long
	GO='$(GO)' $(GO) run ./e2e/outer -qemu bookworm
	$(GO) test -count=1 -timeout 15m -v -run TestMemory ./internal/network
	$(GO) test -count=1 -timeout 15m -v -run TestInterleavings ./internal/supervisor
	HYVE_TEST_CACHE_DIR=$(CURDIR)/.e2e/cache $(GO) test -count=1 -timeout 30m -v -run TestBuildFromMirror ./internal/image/build

# A container that writes, over a hundred freezes and thaws.
soak: build
	$(GO) test -count=1 -timeout 60m -v -run TestSoak ./e2e -args -long -soak 100

# What a container, its root and another user of the host can do to a machine. Prints
# figures, NAME VALUE UNIT BOUND.
attack: build
	$(GO) test -count=1 -timeout 20m -v -run TestAttack ./e2e -args -long

bench: deps build
	$(GO) run ./e2e/bench

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# Host code builds for every platform that hyve runs on.
cross: guest
	for os in linux darwin; do for arch in amd64 arm64; do \
		GOOS=$$os GOARCH=$$arch $(GO) build -o /dev/null ./cmd/hyve && \
		GOOS=$$os GOARCH=$$arch $(GO) build -o /dev/null ./cmd/docker-machine-driver-xhyve || exit 1; \
	done; done

# What is committed, built twice, is the same bytes.
reproducible:
	scripts/reproducible.sh

clean:
	rm -rf bin $(PAYLOAD)/hyve-init-*
