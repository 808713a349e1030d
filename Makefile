# SPDX-License-Identifier: Apache-2.0
# The verbs of the project; `make help` lists them. Meson does the building, everything goes to build/.

SHELL := /bin/bash
PREFIX ?= /usr/local
DESTDIR ?=
B := build
OUT := $(B)/out
GUEST := $(B)/guest
ARCH := $(shell uname -m)
FUZZ_SECONDS ?= 30
TEST_IMAGES := busybox check buildah debian python nginx redis node torture

export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := all
.PHONY: all setup kernel guest images check unit integration asan lint fmt fuzz cross-arm64 bench soak testbed demo \
	install clean help

all: guest ## build the programs, the library and the guest agent
	@scripts/meson-build $(OUT)

setup: ## install the Debian packages needed
	@scripts/setup

kernel: ## build the guest kernel (minutes; cached)
	@guest/kernel/build --arch $(ARCH) --out $(GUEST)

guest: ## build the guest agent and its initramfs
	@guest/build --arch $(ARCH) --out $(GUEST)

images: ## make the test images from Debian packages (cached)
	@tests/images/make $(TEST_IMAGES)
	@scripts/meson-build $(OUT)
	@tests/images/expect $(TEST_IMAGES)
	@for i in $(TEST_IMAGES); do \
		SUPERMACHINE_HOME=$(B)/store $(OUT)/tests/tools/convert oci:$(B)/images/$$i >/dev/null || exit; done

check: ## set up if needed, then run all tests; ends with a line that counts them
	@scripts/check

unit: ## unit tests
	@scripts/check unit

asan: ## unit tests under the address and undefined-behaviour sanitizers
	@scripts/check asan

integration: ## integration tests, on this host's KVM or in the testbed
	@scripts/check integration

lint: ## include directions, sizes, formatting
	@scripts/check lint

fuzz: ## each fuzz target for FUZZ_SECONDS (30)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/check fuzz

cross-arm64: ## compile the portable parts and the agent for arm64, run their unit tests under qemu-user
	@scripts/check cross-arm64

fmt: ## format the C sources
	@git ls-files --cached --others --exclude-standard '*.c' '*.h' ':!guest/kernel/*.c' | xargs clang-format -i

bench: all ## measure: NAME=boot|overhead|convert|pull|restore[-PART] (all); ROUNDS=n; ICOUNT=1 counts instructions
	@bench/run $(NAME)

soak: ## the integration tests with their long repetitions (hours); GATES=n: so many percent of the snapshot gates
	@SOAK=1 scripts/check integration

testbed: export CMD_LINE = $(value CMD)
testbed: ## run CMD='…' in the emulated machine with KVM
	@tests/testbed/run -- "$$CMD_LINE"

demo: ## set up, build everything, make a small image, run it
	@scripts/demo

install: all kernel ## install below PREFIX (/usr/local)
	@DESTDIR=$(DESTDIR) meson install -C $(OUT) --quiet --no-rebuild
	@install -d $(DESTDIR)$(PREFIX)/share/supermachine
	@install -m 644 $(GUEST)/vmlinux-$(ARCH) $(GUEST)/initramfs.cpio $(DESTDIR)$(PREFIX)/share/supermachine/

clean: ## remove what was built; the kernel, the testbed and the test images stay (rm -r build removes all)
	@rm -rf $(OUT) $(B)/asan $(B)/fuzz $(B)/arm64

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
