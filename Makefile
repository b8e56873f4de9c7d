# vispecd.  `make run` and `make test` do everything, from a bare Debian machine on.
#
#   make            build/vispecd                 make run     install, build, serve the embedded model
#   make check      formatting, lint, includes    make test    install, build, run every test
#   make bench      build/bench/*                 make clean   remove build/
#
# BUILD=build/asan SANITIZE=address,undefined gives an instrumented build beside the plain one.

BUILD     ?= build
SANITIZE  ?=
CC        ?= gcc
CPU_ARCH  ?= native
PACKAGES  := libmicrohttpd jansson libjpeg libpng libwebp libwebpdemux libgif libpcre2-8 \
             libutf8proc libsodium openblas
VERSION   := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

OPT       ?= -O3 -g
CPPFLAGS += -I. -D_GNU_SOURCE -MMD -MP
CFLAGS   += $(OPT) -std=c17 -march=$(CPU_ARCH) -fopenmp -Wall -Wextra -Wpedantic -Wshadow \
            -Wstrict-prototypes -Wmissing-prototypes -Wno-unknown-pragmas -Wno-psabi
LDLIBS   += -lm -lpthread
ifneq ($(SANITIZE),)
CFLAGS   += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer
LDFLAGS  += -fsanitize=$(SANITIZE)
endif
# Evaluated only when something is compiled, so that install-deps can run before the packages are there.
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES)))$(PKG_CFLAGS)
PKG_LIBS   = $(eval PKG_LIBS := $(shell pkg-config --libs $(PACKAGES)))$(PKG_LIBS)

LIB_SRC   := $(wildcard kernels/*.c kernels/cpu/*.c runtime/*.c runtime/*/*.c)
SRV_SRC   := $(filter-out server/main.c,$(wildcard server/*.c))
TEST_SRC  := $(wildcard test/unit/*.c)
FUZZ_SRC  := $(wildcard test/fuzz/fuzz_*.c)
BENCH_SRC := $(wildcard bench/*.c)
obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

LIB   := $(BUILD)/libvispecd.a
TESTS := $(patsubst test/unit/%.c,$(BUILD)/test/%,$(TEST_SRC))
FUZZ  := $(patsubst test/fuzz/%.c,$(BUILD)/test/%,$(FUZZ_SRC))
BENCH := $(patsubst bench/%.c,$(BUILD)/bench/%,$(BENCH_SRC))

.PHONY: all run test test-programs check bench deps clean
all: $(BUILD)/vispecd

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) $(DEFINES) -c -o $@ $<

$(BUILD)/obj/test/test.o: DEFINES = -DTEST_DATA='"$(CURDIR)/test"'
$(BUILD)/obj/bench/%.o: DEFINES = -DVERSION='"$(VERSION)"'
$(BUILD)/obj/server/main.o: DEFINES = -DVERSION='"$(VERSION)"' -DMODELS_DIR='"$(CURDIR)/models"'

$(LIB): $(call obj,$(LIB_SRC) $(SRV_SRC))
	@rm -f $@
	@ar rcs $@ $^

# What tests share; a test links the parts that it names.
$(BUILD)/libtest.a: $(call obj,test/golden.c test/image_file.c test/kernels.c test/pages.c \
		test/opbed.c)
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/vispecd: $(call obj,server/main.c) $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(PKG_LIBS) $(LDLIBS)

$(BUILD)/test/%: $(BUILD)/obj/test/unit/%.o $(BUILD)/obj/test/test.o $(BUILD)/libtest.a $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(PKG_LIBS) $(LDLIBS)

# A fuzz target is a libFuzzer entry point; linked with replay.c it runs the files it is given.
$(BUILD)/test/fuzz_%: $(BUILD)/obj/test/fuzz/fuzz_%.o $(BUILD)/obj/test/fuzz/replay.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(PKG_LIBS) $(LDLIBS)

$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(PKG_LIBS) $(LDLIBS)

deps:
	@scripts/install-deps

run: deps
	@$(MAKE) --no-print-directory all
	@scripts/run

# The unit tests and fuzz corpora run twice: as built for use, and with address and undefined sanitizers.
test: deps
	@$(MAKE) --no-print-directory test-programs all
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SANITIZE=address,undefined OPT="-O1 -g" \
		test-programs
	@scripts/run-tests $(BUILD)

test-programs: $(TESTS) $(FUZZ)
bench: $(BENCH)

check:
	@scripts/check

clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
