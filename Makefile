# Wherry's commands. `make demo` shows it at work, `make test` tries everything.
#
# What an engine adds is found by listing shims/: nothing here names one.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
ENGINES := $(notdir $(wildcard shims/*))
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release
# For each engine the shim, and the engine host that the shim looks for beside itself.
EXECUTABLES := $(foreach engine,$(ENGINES),containerd-shim-$(engine)-v1 wherry-$(engine))

.PHONY: build demo bench test test-unit test-e2e test-vm soak fuzz setup install check fmt clean

build:
	test/setup/packages.sh build
	$(CARGO) build --release --locked --workspace --bins

demo:
	test/setup/packages.sh build demo
	$(CARGO) build --release --locked --workspace --bins
	test/setup/demo.sh $(BIN)

# What a container costs, beside runc and a shim that does nothing. BENCH_ROUNDS=3 is a first look, BENCH_PARTS=ctr,direct
# a part of it, BENCH_OUT=docs writes what docs/performance.md shows; there it says how to read it.
bench: setup
	$(CARGO) build --release --locked --workspace --bins
	WHERRY_BIN_DIR=$(BIN) $(BIN)/wherry-bench

# Everything that the tests need and the repository does not hold.
setup:
	test/setup/packages.sh build demo test
	test/setup/daemons.sh

test: test-unit test-e2e

# Unit tests and the engines' conformance suite.
test-unit: setup
	$(CARGO) test --release --locked --workspace --exclude wherry-e2e --no-fail-fast

# The end-to-end tests with each engine; they prove docs/compatibility.md, and write it.
test-e2e: setup
	$(CARGO) build --release --locked --workspace --bins
	for engine in $(ENGINES); do \
	    log=$(CARGO_TARGET_DIR)/e2e-$$engine.log; \
	    WHERRY_ENGINE=$$engine WHERRY_BIN_DIR=$(BIN) \
	        $(CARGO) test --release --locked -p wherry-e2e --no-fail-fast | tee $$log || failed=1; \
	    $(BIN)/compatibility $$engine < $$log || failed=1; \
	done; [ -z "$$failed" ]

# Thousands of containers come and go, with kills, and nothing stays. SOAK_CYCLES of them (2000), in an order that
# SOAK_SEED decides, on the containerd of SOAK_CONTAINERD (2; or 1.6, 1.7).
soak: setup
	$(CARGO) build --release --locked --workspace --bins
	for engine in $(ENGINES); do \
	    WHERRY_ENGINE=$$engine WHERRY_BIN_DIR=$(BIN) timeout 600 \
	        $(CARGO) test --release --locked -p wherry-e2e --test e2e -- --exact --ignored --nocapture soak::the_whole_soak \
	        || failed=1; \
	done; [ -z "$$failed" ]

# Hostile bytes for what is read before anything is forked, FUZZ_SECONDS for each target.
fuzz:
	test/setup/packages.sh build fuzz
	test/setup/fuzz.sh

# The tests of cgroups and of containers' lives, on an emulated machine with cgroup v2 and systemd.
test-vm: setup
	test/setup/packages.sh vm
	$(CARGO) build --release --locked --workspace --bins
	for engine in $(ENGINES); do WHERRY_ENGINE=$$engine test/vm/run.sh $(BIN) || failed=1; done; [ -z "$$failed" ]

install:
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(addprefix $(BIN)/,$(EXECUTABLES)) $(DESTDIR)$(PREFIX)/bin

check:
	test/setup/packages.sh build
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	test/setup/structure.sh
	@if command -v cargo-deny > /dev/null; then $(CARGO) deny --offline check bans licenses sources; \
	    else echo "cargo-deny is not installed: licences and sources were not checked"; fi

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

clean:
	$(CARGO) clean
