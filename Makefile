# Wherry's commands. `make demo` runs a wasm image, `make test` runs all tests.
#
# Engines are found by listing shims/: none is named here.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# The engines to build, test and install. By default those whose libraries this machine has;
# evaluated once, on first use.
ENGINES = $(eval ENGINES := $(shell test/setup/engines.sh))$(ENGINES)
# Additional features of their crates: `FEATURES=wherry-wasmedge/bundled` links WasmEdge into the
# executable.
FEATURES =
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release
# The engine of the long tests that are not about engines, and of the tests on all daemons. The
# other engines are tested on all but these: differences between daemons do not depend on the
# engine.
ENGINE = $(lastword $(ENGINES))
DAEMONS_FOR_ONE_ENGINE = containerd_1_6 containerd_1_7 containerd_2_4 docker_26 docker_29
# For each engine: the shims, of a daemon per container and of one for all; the engine host, which
# the shims find beside themselves; the compiler and the commands for people.
shims = containerd-shim-$1-v1 containerd-shim-$1d-v1
executables_of = $(foreach engine,$1,$(call shims,$(engine)) wherry-$(engine)-host wherry-$(engine))
EXECUTABLES = $(call executables_of,$(ENGINES))

# An engine whose library a machine may lack has it behind the feature `library`; its setup.sh finds
# it.
WITH_LIBRARY = $(filter $(ENGINES),$(patsubst shims/%/setup.sh,%,$(wildcard shims/*/setup.sh)))
LEFT_OUT = $(filter-out $(ENGINES),$(notdir $(wildcard shims/*)))
WORKSPACE = --workspace $(LEFT_OUT:%=--exclude wherry-%) $(WITH_LIBRARY:%=--features wherry-%/library) \
    $(FEATURES:%=--features %)
# Bundled engines need no library of the machine.
FOUND = $(filter-out $(patsubst wherry-%/bundled,%,$(FEATURES)),$(WITH_LIBRARY))
ENVIRONMENT = $(foreach engine,$(FOUND),$(shell shims/$(engine)/setup.sh env))
CARGO_IN = test/setup/engines.sh check $(FOUND) && env $(ENVIRONMENT) $(CARGO)

.PHONY: build executables demo bench test test-unit test-engines test-e2e test-k8s bench-k8s test-vm test-chart test-dist image dist soak fuzz setup install check fmt clean
.NOTPARALLEL:

build: executables

# Flags of a statically linked program: only `cargo rustc` can set them for one program. The linker
# must not find libseccomp's shared library before the archive. An undefined weak symbol must be 0:
# if a package requests shared libraries (WAMR's requests libm), GNU ld leaves the symbol to a
# dynamic loader, and the program jumps to its first byte before main. glibc reads packed
# relocations from version 2.36 on.
STATIC = $(CARGO_TARGET_DIR)/static
PACKED = $(shell printf 'glibc 2.36\n%s\n' "$$(getconf GNU_LIBC_VERSION)" | sort -VC && echo '-C link-arg=-Wl,-z,pack-relative-relocs')
# The standard library looks for posix_spawn_file_actions_addchdir_np by a weak symbol, for which
# the linker takes nothing out of an archive. Without it a process with a working directory is
# forked, not created by posix_spawn: that copies page tables, and if the exec fails, the standard
# library panics where the reaper has reaped the child first.
LINK_STATICALLY = -C target-feature=+crt-static -L native=$(STATIC) -C link-arg=-Wl,-z,nodynamic-undefined-weak \
    -C link-arg=-Wl,-u,posix_spawn_file_actions_addchdir_np $(PACKED)
# $(call program,ENGINE,BIN,OPTIONS OF CARGO,FLAGS OF RUSTC)
program = $(CARGO_IN) rustc --release --locked --package wherry-$1 --bin $2 $3 \
    $(if $(filter $1,$(WITH_LIBRARY)),--features library) $(patsubst wherry-$1/%,--features %,$(filter wherry-$1/%,$(FEATURES))) \
    -- $4 &&
# A shim and a host have no compiler, which is a default feature, and a shim has no engine. A
# program that contains an engine of a shared library cannot be linked statically.
programs_of = $(foreach shim,$(call shims,$1),$(call program,$1,$(shim),--no-default-features,$(LINK_STATICALLY))) \
    $(call program,$1,wherry-$1-host,--no-default-features $(call engine_of,$1),$(call unless_library,$1)) \
    $(call program,$1,wherry-$1,,$(call unless_library,$1))
engine_of = $(shell grep -q '^engine = ' shims/$1/Cargo.toml && echo --features engine)
unless_library = $(if $(filter $1,$(WITH_LIBRARY)),,$(LINK_STATICALLY))
TOOLS = wherry-bench containerd-shim-nothing-v1 containerd-shim-nothingd-v1 pack-image pack-files sbom guests compatibility

# The executables of no engine. wherry-node runs from an image that has nothing else, and all on any
# host. PACKAGE:EXECUTABLE of each. The shim is that of the runtime for all engines.
ALL_ENGINES = containerd-shim-wherry-v1
ALONE = node:wherry-node tool:wherry layer:wherry-layer any:$(ALL_ENGINES)
alone = $(CARGO) rustc --release --locked --package wherry-$(word 1,$1) --bin $(word 2,$1) -- $(LINK_STATICALLY) &&

# The tools; then each engine's executables. They are linked statically: they start in half the
# time, run on any host of a kernel ≥ 5.10, and a guest's process maps one file of the host only,
# through a read-only mount (see SECURITY.md).
executables:
	test/setup/packages.sh build
	mkdir -p $(STATIC) && ln -sf "$$(gcc -print-file-name=libseccomp.a)" $(STATIC)/libseccomp.a
	$(CARGO_IN) build --release --locked $(WORKSPACE) $(TOOLS:%=--bin %)
	$(foreach engine,$(ENGINES),$(call programs_of,$(engine))) true
	$(foreach pair,$(ALONE),$(call alone,$(subst :, ,$(pair)))) true

demo: executables
	test/setup/packages.sh demo
	test/setup/demo.sh $(BIN)

# The cost of a container, beside runc and a shim that does nothing. BENCH_ROUNDS=3 is a short run,
# BENCH_PARTS=ctr,direct runs some parts, BENCH_OUT=docs updates docs/performance.md, which
# describes the method.
bench: setup executables
	WHERRY_BIN_DIR=$(BIN) $(BIN)/wherry-bench

# Everything that the tests need and the repository does not contain.
setup:
	test/setup/packages.sh build demo test
	test/setup/daemons.sh
	test/setup/engines.sh fetch

test: test-unit test-engines test-e2e test-chart

# Runs tests with a log; see the script for tests that failed. $(call tests,NAME OF THE LOG)
tests = test/setup/again.sh $(CARGO_TARGET_DIR)/$1.log

# The unit tests of all crates but the engines. They need neither a daemon nor the network, and run
# in seconds. The crates that link C libraries are left out on a machine without these.
LINKING = host cli
test-unit:
	missing=$$(test/setup/packages.sh missing build); \
	[ -z "$$missing" ] || echo "test-unit: leaving out $(LINKING:%=wherry-%), which need $$missing" >&2; \
	$(call tests,unit) $(CARGO) test --release --locked --lib --bins --tests --no-fail-fast --workspace --features wherry-engine/check \
	    $(patsubst %,--exclude wherry-%,e2e k8s $(notdir $(wildcard shims/*))) $${missing:+$(LINKING:%=--exclude wherry-%)} --

# The engines' conformance suite, and their unit tests.
test-engines:
	test/setup/packages.sh build
	test/setup/engines.sh fetch
	test/setup/engines.sh check $(FOUND)
	$(call tests,engines) env $(ENVIRONMENT) $(CARGO) test --release --locked --no-fail-fast $(ENGINES:%=--package wherry-%) \
	    $(WITH_LIBRARY:%=--features wherry-%/library) $(FEATURES:%=--features %) --

# The end-to-end tests with each engine, and those of one engine's shared mode; they prove
# docs/compatibility.md, and write it. They mostly wait: E2E_THREADS of them run at the same time.
E2E_THREADS = $(shell echo $$((2 * $$(nproc))))
test-e2e: setup executables
	for run in $(ENGINES:%=%.container) $(ENGINE).shared; do \
	    engine=$${run%.*} mode=$${run#*.}; \
	    skip="$(DAEMONS_FOR_ONE_ENGINE:%=--skip ::%::)"; [ $$run != $(ENGINE).container ] || skip=; \
	    export WHERRY_ENGINE=$$engine WHERRY_MODE=$$mode WHERRY_BIN_DIR=$(BIN); \
	    $(call tests,e2e-$$run) $(CARGO) test --release --locked -p wherry-e2e --no-fail-fast -- --test-threads $(E2E_THREADS) $$skip || failed=1; \
	    $(BIN)/compatibility $$engine < $(CARGO_TARGET_DIR)/e2e-$$run.log || failed=1; \
	done; [ -z "$$failed" ]

# The tests on a Kubernetes cluster of two nodes. The first run builds Kubernetes, which takes some
# ten minutes.
test-k8s: setup image
	test/setup/packages.sh k8s
	test/k8s/build.sh
	WHERRY_ENGINE=$(ENGINE) WHERRY_BIN_DIR=$(BIN) WHERRY_NODE_IMAGE=$(IMAGE_DIR)/wherry-node-$(VERSION).tar \
	    $(call tests,k8s) $(CARGO) test --release --locked -p wherry-k8s --test k8s --no-fail-fast -- --test-threads 4

# How long pods take until they are ready, beside runc, on that cluster.
bench-k8s: setup executables
	test/setup/packages.sh k8s
	test/k8s/build.sh
	WHERRY_ENGINE=$(ENGINE) WHERRY_BIN_DIR=$(BIN) \
	    $(CARGO) test --release --locked -p wherry-k8s --test k8s -- --ignored --nocapture bench::

# What others get: all executables of an engine that needs no shared library.
PORTABLE = $(filter-out $(WITH_LIBRARY),$(ENGINES))
PORTABLE_EXECUTABLES = wherry-node $(ALL_ENGINES) $(call executables_of,$(PORTABLE))

# The image of the chart's installer: an OCI layout as a folder and as an archive. Any tool for
# registries pushes it, see docs/kubernetes.md. IMAGE is its name.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
IMAGE = localhost/wherry-node:$(VERSION)
IMAGE_DIR = $(CARGO_TARGET_DIR)/image
image: executables
	rm -rf $(IMAGE_DIR) && mkdir -p $(IMAGE_DIR)/wherry-node
	$(BIN)/pack-files $(IMAGE) $(IMAGE_DIR)/wherry-node-$(VERSION).tar /opt/wherry/bin/wherry-node \
	    examples/hello.wat=/hello.wat $(foreach file,$(PORTABLE_EXECUTABLES),$(BIN)/$(file)=/opt/wherry/bin/$(file))
	tar -C $(IMAGE_DIR)/wherry-node -xf $(IMAGE_DIR)/wherry-node-$(VERSION).tar
	ls -l $(IMAGE_DIR)

# One archive with all of it, a bill of materials (CycloneDX) and checksums. The same sources make
# the same archive.
DIST = wherry-$(VERSION)-linux-amd64
DIST_DIR = $(CARGO_TARGET_DIR)/dist
dist: executables
	test/setup/packages.sh dist
	rm -rf $(DIST_DIR) && mkdir -p $(DIST_DIR)/$(DIST)/bin
	install -m 755 $(addprefix $(BIN)/,$(PORTABLE_EXECUTABLES) wherry wherry-layer) $(DIST_DIR)/$(DIST)/bin
	cp -R --parents LICENSE README.md SECURITY.md CHANGELOG.md docs/http.md docs/images.md docs/kubernetes.md charts/wherry packaging $(DIST_DIR)/$(DIST)
	$(CARGO) metadata --format-version 1 --locked --filter-platform x86_64-unknown-linux-gnu \
	    | $(BIN)/sbom wherry-node wherry-tool wherry-layer $(PORTABLE:%=wherry-%) > $(DIST_DIR)/$(DIST)/sbom.cdx.json
	cd $(DIST_DIR)/$(DIST) && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum > SHA256SUMS
	cd $(DIST_DIR) && tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - $(DIST) \
	    | zstd -q -19 -o $(DIST).tar.zst
	cd $(DIST_DIR) && sha256sum $(DIST).tar.zst | tee $(DIST).tar.zst.sha256

# The archive of `dist` on other systems than this one.
test-dist: dist
	test/dist/run.sh $(DIST_DIR)/$(DIST).tar.zst

# The chart with Helm 3 and 4: lint, its output against test/chart/golden, and that against the
# API's types. `test/chart/run.sh update` writes the golden files.
test-chart:
	test/chart/run.sh

# Thousands of containers start and end, with kills of shims, and nothing stays behind. SOAK_CYCLES
# of them (2000), in the order of SOAK_SEED, on the containerd SOAK_CONTAINERD (2; or 1.6, 1.7,
# 2.4).
soak: setup executables
	WHERRY_ENGINE=$(ENGINE) WHERRY_BIN_DIR=$(BIN) timeout 600 \
	    $(CARGO) test --release --locked -p wherry-e2e --test e2e -- --exact --ignored --nocapture soak::the_whole_soak

# Hostile bytes for the parsers that run before the first fork, FUZZ_SECONDS for each target.
fuzz:
	test/setup/packages.sh build fuzz
	test/setup/fuzz.sh

# The tests of cgroups and of containers' lives, on an emulated machine with cgroup v2 and systemd.
test-vm: setup executables
	test/setup/packages.sh vm
	WHERRY_ENGINE=$(ENGINE) test/vm/run.sh $(BIN)

SHARE = $(DESTDIR)$(PREFIX)/share
# Units of systemd: they do nothing before `systemd = true` in the settings of managers.
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
# The engines that compile have a feature for it.
COMPILING = $(foreach engine,$(ENGINES),$(shell grep -q '^compiler = ' shims/$(engine)/Cargo.toml && echo $(engine)))
install:
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(addprefix $(BIN)/,$(EXECUTABLES) $(ALL_ENGINES) wherry-node wherry wherry-layer) $(DESTDIR)$(PREFIX)/bin
	install -d $(UNITS)
	install -m 644 packaging/systemd/wherry.slice $(UNITS)
	$(foreach engine,$(ENGINES),\
	    sed -e 's|@RUNTIME@|$(engine)d|g' -e 's|@BINDIR@|$(PREFIX)/bin|g' packaging/systemd/wherry-manager@.service \
	        > $(UNITS)/wherry-$(engine)d@.service &&) true
	$(foreach engine,$(COMPILING),\
	    sed -e 's|@ENGINE@|$(engine)|g' -e 's|@BINDIR@|$(PREFIX)/bin|g' packaging/systemd/wherry-watch.service \
	        > $(UNITS)/wherry-$(engine)-watch.service &&) true
	sed -e 's|@BINDIR@|$(PREFIX)/bin|g' packaging/systemd/wherry-mirror.service > $(UNITS)/wherry-mirror.service
	install -d $(SHARE)/doc/wherry
	install -m 644 packaging/manager.toml $(SHARE)/doc/wherry
	install -d $(addprefix $(SHARE)/,man/man1 bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	$(foreach program,wherry $(ENGINES:%=wherry-%),\
	    $(BIN)/$(program) man $(SHARE)/man/man1 && \
	    $(BIN)/$(program) completions bash > $(SHARE)/bash-completion/completions/$(program) && \
	    $(BIN)/$(program) completions zsh > $(SHARE)/zsh/site-functions/_$(program) && \
	    $(BIN)/$(program) completions fish > $(SHARE)/fish/vendor_completions.d/$(program).fish &&) true

check:
	test/setup/packages.sh build
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO_IN) clippy --release --locked $(WORKSPACE) --all-targets -- -D warnings
	test/setup/structure.sh
	test/setup/language.sh
	test/setup/advisories.sh

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

clean:
	$(CARGO) clean
