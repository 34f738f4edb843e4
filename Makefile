# Everything from nothing: each target brings what it needs. `make` alone lists them.
# Needed: Linux x86_64 with glibc, Rust, g++, make, python3 with pip.

PYTHON := python3
CARGO := cargo
# Programs are started from here; CARGO_TARGET_DIR may lie elsewhere.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
# AddressSanitizer and valgrind look at what `unsafe` code reads and writes: the kernels, and whatever reads segments.
SANITISED := kernel:: codes:: segment:: build:: large_pages:: vector_index::

.PHONY: help setup clients build test torture sanitise neon demo bench-index page-check audit check-setup docker-check

help:
	@echo 'make demo          train on the pictures of tests/data, export, serve, and search them in a browser'
	@echo '                   EXIT=1 queries and ends; IMAGES=/a/folder uses your pictures; PORT=8080'
	@echo 'make test          every test, from nothing (what .ci/run does); ONLY=words runs the tests whose name holds one'
	@echo 'make torture       the attacks on the index at full length (an hour); PART=0.1 does a tenth, SEED=7 other ones'
	@echo "make sanitise      the index's unsafe code under AddressSanitizer, each kernel; VALGRIND=1 under valgrind too (it must be installed)"
	@echo "make neon          the same tests with the kernels of 64-bit ARM, under qemu (it must be installed)"
	@echo 'make setup         libtorch and ONNX Runtime into .native; CUDA=1 adds their CUDA libraries'
	@echo 'make build         every program, optimised, into target/release'
	@echo 'make clients       the Python packages that tests drive the server with, into .native'
	@echo 'make bench-index   the index beside other libraries: recall, speed, memory, filters, opening, into target/bench-results (35 minutes)'
	@echo '                   SMALL=1 takes 3 minutes; CIFAR10=/a/folder adds picture features, MILLION=1 a million of them; ONLY=names'
	@echo '                   PARTS=speed,avx2,memory,filters,opening runs some of it'
	@echo 'make page-check    drives the page in headless Chromium'
	@echo 'make audit         licences, bans and duplicates of all dependencies'
	@echo 'make check-setup   set-up as a newcomer meets it: programs started from / with an empty environment (long)'
	@echo 'make docker-check  replays the steps of the Dockerfile in an empty folder (long)'

setup: python
	@$(PYTHON) setup/install.py cpu
ifneq ($(filter-out 0,$(CUDA)),)
	@$(PYTHON) setup/install.py cuda
endif

# Python packages that the tests drive the server and check the graphs with.
clients: python
	@$(PYTHON) setup/install.py clients-test

.PHONY: python
python:
	@command -v $(PYTHON) >/dev/null || { echo 'set-up: `$(PYTHON)` is not on the PATH: install Python 3 with pip (Debian and Ubuntu: `apt-get install python3-pip`)' >&2; exit 1; }

build: setup
	$(CARGO) build --locked --release --workspace

test: setup clients
	@$(PYTHON) setup/test.py $(ONLY)

# One package, without libtorch. Optimised as all tests are; a failure names the seed that shows it again.
torture:
	MOCO_TORTURE=$(or $(PART),1) $(if $(SEED),MOCO_SEED=$(SEED)) $(CARGO) test --locked -p moco-index --no-fail-fast --test durability --test damage -- --nocapture --test-threads=2
	MOCO_TORTURE=$(or $(PART),1) $(if $(SEED),MOCO_SEED=$(SEED)) $(CARGO) test --locked -p moco-index --lib -- schedules:: --nocapture

# AddressSanitizer comes with Rust, and a stable compiler takes it as a nightly one does (RUSTC_BOOTSTRAP). Everything is
# compiled once more, into target/sanitise. Leaks are not looked for: thread-local memory of a test's threads is none.
# Kernels that the processor has not are left out; valgrind knows no AVX-512.
sanitise:
	@for kernel in avx512 avx2 portable; do \
		case $$kernel in \
			avx512) grep -qw avx512_vnni /proc/cpuinfo ;; \
			avx2) grep -qw avx2 /proc/cpuinfo ;; \
		esac || { echo "skipped: this processor has no $$kernel"; continue; }; \
		echo "== AddressSanitizer, $$kernel"; \
		MOCO_INDEX_KERNEL=$$kernel ASAN_OPTIONS=detect_leaks=0 RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$(TARGET)/sanitise \
			$(CARGO) test --locked -p moco-index --no-default-features --target x86_64-unknown-linux-gnu --lib -- $(SANITISED) || exit 1; \
	done
ifneq ($(filter-out 0,$(VALGRIND)),)
	@command -v valgrind >/dev/null || { echo 'VALGRIND=1 needs valgrind (Debian and Ubuntu: `apt-get install valgrind`)' >&2; exit 1; }
	@for kernel in avx2 portable; do \
		echo "== valgrind, $$kernel"; \
		MOCO_INDEX_KERNEL=$$kernel CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='valgrind --quiet --error-exitcode=1 --fair-sched=yes' \
			$(CARGO) test --locked -p moco-index --lib -- $(SANITISED) || exit 1; \
	done
endif

# The kernels that x86 has not: compiled for 64-bit ARM, and run by qemu, which is slow.
neon:
	@command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null && test -d "$$(rustc --print target-libdir --target aarch64-unknown-linux-gnu)" \
		|| { echo '`make neon` needs qemu and a compiler for ARM (Debian and Ubuntu: `apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross`), and `rustup target add aarch64-unknown-linux-gnu`' >&2; exit 1; }
	MOCO_INDEX_KERNEL=neon CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
		CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64 -L /usr/aarch64-linux-gnu' \
		$(CARGO) test --locked -p moco-index --no-default-features --target aarch64-unknown-linux-gnu --lib -- $(SANITISED)

demo: build
	@$(TARGET)/release/moco-demo $(if $(filter-out 0,$(EXIT)),--exit) $(if $(IMAGES),--images '$(IMAGES)') $(if $(PORT),--port '$(PORT)')

bench-index: python
	$(CARGO) build --locked --release -p moco-index
	@$(PYTHON) index/benches/peers/install.py
	@$(PYTHON) index/benches/peers/run.py --program '$(TARGET)/release/moco-index' $(if $(filter-out 0,$(SMALL)),--small) \
		$(if $(CIFAR10),--cifar10 '$(CIFAR10)') $(if $(filter-out 0,$(MILLION)),--million) $(if $(ONLY),--only '$(ONLY)') \
		$(if $(PARTS),--parts '$(PARTS)')

page-check: build
	@$(PYTHON) tests/page/check.py --bin '$(TARGET)/release'

audit: python
	@$(PYTHON) setup/audit.py

check-setup: python
	@$(PYTHON) setup/check_setup.py

docker-check: python
	@$(PYTHON) setup/dockerfile_replay.py
