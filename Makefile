# Wherry's commands. `make demo` shows it at work, `make test` tries everything.
#
# What an engine adds is found by listing shims/: nothing here names one.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# The engines to build, test and install. By default those whose needs this machine has; asked once, when first needed.
ENGINES = $(eval ENGINES := $(shell test/setup/engines.sh))$(ENGINES)
# Features of their crates besides: `FEATURES=wherry-wasmedge/bundled` puts WasmEdge into the executable.
FEATURES =
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release
# The engine of those tests that are long and not about engines, and the one that is tried on all daemons. The others are
# tried on the newest, as what differs between daemons is no engine's business.
ENGINE = $(lastword $(ENGINES))
OLDER_DAEMONS = containerd_1_6 containerd_1_7 docker_26
# For each engine the shim; the engine host, which it looks for beside itself; the compiler and the commands for people.
EXECUTABLES = $(foreach engine,$(ENGINES),containerd-shim-$(engine)-v1 wherry-$(engine)-host wherry-$(engine))

# An engine whose library a machine may lack has it behind the feature `library`, and its setup.sh says where it is.
WITH_LIBRARY = $(filter $(ENGINES),$(patsubst shims/%/setup.sh,%,$(wildcard shims/*/setup.sh)))
LEFT_OUT = $(filter-out $(ENGINES),$(notdir $(wildcard shims/*)))
WORKSPACE = --workspace $(LEFT_OUT:%=--exclude wherry-%) $(WITH_LIBRARY:%=--features wherry-%/library) \
    $(FEATURES:%=--features %)
# Those that come with their library need none.
FOUND = $(filter-out $(patsubst wherry-%/bundled,%,$(FEATURES)),$(WITH_LIBRARY))
ENVIRONMENT = $(foreach engine,$(FOUND),$(shell shims/$(engine)/setup.sh env))
CARGO_IN = test/setup/engines.sh check $(FOUND) && env $(ENVIRONMENT) $(CARGO)

.PHONY: build executables demo bench test test-unit test-e2e test-k8s test-vm soak fuzz setup install check fmt clean
.NOTPARALLEL:

build: executables

# A program that is linked statically: `cargo rustc` alone can say so of one program. The linker must not find libseccomp's
# shared library before the archive. A weak symbol that no library has is to be 0: where a package asks for shared libraries
# (WAMR's for libm), GNU ld leaves it to a dynamic loader, and the program jumps to its own start before main.
STATIC = $(CARGO_TARGET_DIR)/static
LINK_STATICALLY = -C target-feature=+crt-static -L native=$(STATIC) -C link-arg=-Wl,-z,nodynamic-undefined-weak
# $(call program,ENGINE,BIN,FLAGS OF RUSTC). Without the engine's default features: a host has no compiler.
program = $(CARGO_IN) rustc --release --locked --no-default-features --package wherry-$1 --bin $2 \
    $(if $(filter $1,$(WITH_LIBRARY)),--features library) $(patsubst wherry-$1/%,--features %,$(filter wherry-$1/%,$(FEATURES))) \
    -- $3 &&
TOOLS = $(ENGINES:%=wherry-%) wherry-bench containerd-shim-nothing-v1 pack-image guests compatibility

# The tools; then each engine's shim and host. The host is linked statically, so that a guest's process maps one file of the
# machine alone, which it has through a read-only mount (see SECURITY.md); one whose engine is a shared library cannot be.
executables:
	test/setup/packages.sh build
	mkdir -p $(STATIC) && ln -sf "$$(gcc -print-file-name=libseccomp.a)" $(STATIC)/libseccomp.a
	$(CARGO_IN) build --release --locked $(WORKSPACE) $(TOOLS:%=--bin %)
	$(foreach engine,$(ENGINES),\
	    $(call program,$(engine),containerd-shim-$(engine)-v1,) \
	    $(call program,$(engine),wherry-$(engine)-host,$(if $(filter $(engine),$(WITH_LIBRARY)),,$(LINK_STATICALLY)))) true

demo: executables
	test/setup/packages.sh demo
	test/setup/demo.sh $(BIN)

# What a container costs, beside runc and a shim that does nothing. BENCH_ROUNDS=3 is a first look, BENCH_PARTS=ctr,direct
# a part of it, BENCH_OUT=docs writes what docs/performance.md shows; there it says how to read it.
bench: setup executables
	WHERRY_BIN_DIR=$(BIN) $(BIN)/wherry-bench

# Everything that the tests need and the repository does not hold.
setup:
	test/setup/packages.sh build demo test
	test/setup/daemons.sh
	test/setup/engines.sh fetch

test: test-unit test-e2e

# Unit tests and the engines' conformance suite.
test-unit: setup
	$(CARGO_IN) test --release --locked $(WORKSPACE) --exclude wherry-e2e --exclude wherry-k8s --no-fail-fast

# The end-to-end tests with each engine; they prove docs/compatibility.md, and write it.
test-e2e: setup executables
	for engine in $(ENGINES); do \
	    log=$(CARGO_TARGET_DIR)/e2e-$$engine.log; \
	    skip="$(OLDER_DAEMONS:%=--skip ::%::)"; [ $$engine != $(ENGINE) ] || skip=; \
	    WHERRY_ENGINE=$$engine WHERRY_BIN_DIR=$(BIN) \
	        $(CARGO) test --release --locked -p wherry-e2e --no-fail-fast -- $$skip | tee $$log || failed=1; \
	    $(BIN)/compatibility $$engine < $$log || failed=1; \
	done; [ -z "$$failed" ]

# The tests on a Kubernetes cluster of two nodes. The first run builds Kubernetes, which takes some ten minutes.
test-k8s: setup executables
	test/setup/packages.sh k8s
	test/k8s/build.sh
	WHERRY_ENGINE=$(ENGINE) WHERRY_BIN_DIR=$(BIN) \
	    $(CARGO) test --release --locked -p wherry-k8s --test k8s --no-fail-fast -- $(if $(wildcard charts),,--skip chart::)

# Thousands of containers come and go, with kills, and nothing stays. SOAK_CYCLES of them (2000), in an order that
# SOAK_SEED decides, on the containerd of SOAK_CONTAINERD (2; or 1.6, 1.7).
soak: setup executables
	WHERRY_ENGINE=$(ENGINE) WHERRY_BIN_DIR=$(BIN) timeout 600 \
	    $(CARGO) test --release --locked -p wherry-e2e --test e2e -- --exact --ignored --nocapture soak::the_whole_soak

# Hostile bytes for what is read before anything is forked, FUZZ_SECONDS for each target.
fuzz:
	test/setup/packages.sh build fuzz
	test/setup/fuzz.sh

# The tests of cgroups and of containers' lives, on an emulated machine with cgroup v2 and systemd.
test-vm: setup executables
	test/setup/packages.sh vm
	WHERRY_ENGINE=$(ENGINE) test/vm/run.sh $(BIN)

install:
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(addprefix $(BIN)/,$(EXECUTABLES)) $(DESTDIR)$(PREFIX)/bin

check:
	test/setup/packages.sh build
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO_IN) clippy --release --locked $(WORKSPACE) --all-targets -- -D warnings
	test/setup/structure.sh
	test/setup/advisories.sh

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

clean:
	$(CARGO) clean
