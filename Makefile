# vispecd.  `make run` and `make test` do everything, from a bare Debian machine on.
#
#   make            build/vispecd                 make run     install, build, serve the embedded model
#   make check      formatting, lint, includes    make test    install, build, run every test
#   make bench      build/bench/*                 make clean   remove build/
#   make test-emu   the CUDA device on the CPU    make cuda-check   its kernels by nvcc
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

.PHONY: all run test test-programs emu-tests emu-op-tests test-emu cuda-check gpu-tests gpu-check check bench deps clean
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
$(BUILD)/libtest.a: $(call obj,test/draftbed.c test/golden.c test/image_file.c test/kernels.c \
		test/pages.c test/opbed.c test/roundbed.c)
	@rm -f $@
	@ar rcs $@ $^

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

# ---- the CUDA device on the emulator -----------------------------------------------------------
#
# The .cu files compiled for the host against test/emu/include, and the tests of operations linked a
# second time with another device under test.

CXX      ?= g++
CXXFLAGS += $(OPT) -std=c++20 -march=$(CPU_ARCH) -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas \
            -Wno-missing-field-initializers -Wno-psabi
ifneq ($(SANITIZE),)
CXXFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer
endif
EMU_FLAGS  := -Itest/emu/include -I. -MMD -MP
# Kernels report their accesses to test/emu/race.cpp, unless a sanitizer watches already.
EMU_RACES  := $(if $(SANITIZE),,-fsanitize=thread)
EMU_OBJ    := $(patsubst %.cu,$(BUILD)/emu/%.o,$(wildcard kernels/cuda/*.cu test/emu/*.cu)) \
              $(patsubst %.cpp,$(BUILD)/emu/%.o,$(wildcard test/emu/*.cpp)) $(BUILD)/emu/device.o
OP_TESTS   := accept_test apply_test attention_test compact_test draft_attention_test \
              draft_rows_test embed_test gemm_test norm_test rope_test sample_test topk_test \
              tree_test vision_attention_test
MODEL_TESTS := models_test tree_golden_test vision_test
CUDA_TYPES := bf16 f16
EMU_TESTS  := $(foreach t,$(CUDA_TYPES),$(patsubst %,$(BUILD)/emu/test/%-$(t),\
              $(OP_TESTS) wrappers_test models_test ranges_test emulator_test table_test \
              tree_golden_test vision_test))

$(BUILD)/emu/%.o: %.cu Makefile
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(CXXFLAGS) $(EMU_RACES) -x c++ -c -o $@ $<

$(BUILD)/emu/%.o: %.cpp Makefile
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(CXXFLAGS) -c -o $@ $<

$(BUILD)/emu/device.o: kernels/device.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -DWITH_CUDA -c -o $@ $<

$(CUDA_TYPES:%=$(BUILD)/emu/kernels-%.o): $(BUILD)/emu/kernels-%.o: test/kernels.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -DTEST_DEVICE='"cuda-$*"' -c -o $@ $<

# The engine's rounds and the golden models without any package: test/bare stands for JSON and text.
BARE_OBJ := $(patsubst %.c,$(BUILD)/bare/%.o,$(wildcard runtime/draft/*.c test/bare/*.c) \
            $(filter-out runtime/model/model.c,$(wildcard runtime/model/*.c)) runtime/mem.c \
            $(patsubst %,runtime/engine/%.c,job pagepool prompt round scheduler) runtime/error.c \
            $(patsubst %,runtime/image/%.c,picture preprocess preprocess_config resize) \
            runtime/text/token_list.c test/golden.c test/opbed.c test/roundbed.c test/test.c)
$(BUILD)/bare/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) -Itest/bare $(CPPFLAGS) $(CFLAGS) -ffunction-sections -c -o $@ $<

EMU_LINK = @mkdir -p $(@D); $(CXX) $(CXXFLAGS) -fopenmp $(LDFLAGS) -o $@ $^ $(PKG_LIBS) $(LDLIBS)
define emu_test
$(BUILD)/emu/test/%-$(1): $(BUILD)/obj/test/unit/%.o $(BUILD)/obj/test/test.o \
		$(BUILD)/emu/kernels-$(1).o $(EMU_OBJ) $(BUILD)/libtest.a $(LIB)
	$$(EMU_LINK)
$(BUILD)/emu/test/%-$(1): $(BUILD)/obj/test/emu/%.o $(BUILD)/obj/test/test.o \
		$(BUILD)/emu/kernels-$(1).o $(EMU_OBJ) $(BUILD)/libtest.a $(LIB)
	$$(EMU_LINK)
$(BUILD)/emu/test/models_test-$(1): $(BUILD)/bare/test/emu/models_test.o $(BARE_OBJ) \
		$(BUILD)/emu/kernels-$(1).o $(EMU_OBJ) $(call obj,$(wildcard kernels/cpu/*.c))
	$$(EMU_LINK) -Wl,--gc-sections
endef
$(foreach t,$(CUDA_TYPES),$(eval $(call emu_test,$(t))))

# The daemon; it has both devices.
$(BUILD)/emu/vispecd: $(call obj,server/main.c) $(EMU_OBJ) $(LIB)
	$(EMU_LINK)

# That the benches of a GPU work: `build/emu/bench/round cuda-bf16 tiny 20`.
$(BUILD)/emu/bench/%: $(BUILD)/obj/bench/gpu/%.o $(call obj,bench/gpu/bench.c bench/gpu/weights.c) \
		$(BUILD)/emu/bench/gpu/prescribe.o $(EMU_OBJ) $(LIB)
	$(EMU_LINK)

emu-tests: $(EMU_TESTS) $(BUILD)/emu/vispecd
emu-op-tests: $(OP_TESTS:%=$(BUILD)/emu/test/%-bf16)

# Runs them, and ends with a line that counts.
test-emu: emu-tests
	@scripts/run-emu-tests $(BUILD)

# ---- the CUDA device by nvcc --------------------------------------------------------------------
#
# cuda-check: all kernels compile, without spills, within the registers that docs/performance.md
# states.  gpu-tests: the tests of operations, for a machine with a GPU and nothing but the toolkit.

NVCC       ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc))
NVCC_FLAGS := -std=c++20 -O3 -lineinfo -I. -Xptxas -v,-warn-spills,-Werror \
              -gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_80,code=sm_80
# cuBLAS beside nvcc, from install-deps or from Python's packages; evaluated when it is needed.
FIND_CUBLAS   = scripts/find-cublas $(CUDA_HOME)
CUBLAS_CFLAGS = $(eval CUBLAS_CFLAGS := $(shell $(FIND_CUBLAS)))$(CUBLAS_CFLAGS)
CUBLAS_LIBS   = $(eval CUBLAS_LIBS := $(shell $(FIND_CUBLAS) --libs))$(CUBLAS_LIBS)
CUDA_OBJ   := $(patsubst %.cu,$(BUILD)/cuda/%.o,$(wildcard kernels/cuda/*.cu))

$(BUILD)/cuda/%.o: %.cu $(wildcard kernels/*.h kernels/cuda/*.cuh) Makefile
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) $(CUBLAS_CFLAGS) -c -o $@ $< 2>$(@:.o=.log) || { cat $(@:.o=.log); rm -f $@; exit 1; }

CUDA_HOME  := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_LIBS   = -L$(CUDA_HOME)/lib64 -lcudart_static $(CUBLAS_LIBS) -ldl -lrt

# The daemon has the CUDA device where there is a compiler for it.
ifeq ($(NVCC),)
$(BUILD)/vispecd: $(call obj,server/main.c) $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(PKG_LIBS) $(LDLIBS)
else
$(BUILD)/vispecd: $(call obj,server/main.c) $(BUILD)/emu/device.o $(CUDA_OBJ) $(LIB)
	$(CXX) -fopenmp $(LDFLAGS) -o $@ $^ $(PKG_LIBS) $(CUDA_LIBS) $(LDLIBS)
endif

ifeq ($(NVCC),)
cuda-check:
	@echo "cuda-check: skipped, no nvcc"
else
cuda-check: $(CUDA_OBJ)
	@python3 scripts/cuda_ceilings.py $(CUDA_OBJ:.o=.log)
endif

GPU_TESTS  := $(foreach t,$(CUDA_TYPES),$(patsubst %,$(BUILD)/gpu/test/%-$(t),\
              $(OP_TESTS) wrappers_test $(MODEL_TESTS)))
GPU_SHARED := $(call obj,test/test.c test/opbed.c test/pages.c runtime/mem.c) $(BUILD)/gpu/device.o

$(BUILD)/gpu/device.o: kernels/device.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -DWITH_CUDA -DWITHOUT_CPU -c -o $@ $<

GPU_LINK = @mkdir -p $(@D); $(CXX) -fopenmp $(LDFLAGS) -o $@ $^ $(CUDA_LIBS) $(LDLIBS)
define gpu_test
$(BUILD)/gpu/test/%-$(1): $(BUILD)/obj/test/unit/%.o $(BUILD)/emu/kernels-$(1).o $(GPU_SHARED) \
		$(CUDA_OBJ)
	$$(GPU_LINK)
$(BUILD)/gpu/test/%-$(1): $(BUILD)/obj/test/emu/%.o $(BUILD)/emu/kernels-$(1).o $(GPU_SHARED) \
		$(BUILD)/cuda/test/emu/wrappers.o $(CUDA_OBJ)
	$$(GPU_LINK)
$(BUILD)/gpu/test/models_test-$(1): $(BUILD)/bare/test/emu/models_test.o
$(BUILD)/gpu/test/tree_golden_test-$(1): $(BUILD)/bare/test/unit/tree_golden_test.o
$(BUILD)/gpu/test/vision_test-$(1): $(BUILD)/bare/test/unit/vision_test.o
$(MODEL_TESTS:%=$(BUILD)/gpu/test/%-$(1)): $(BARE_OBJ) $(BUILD)/emu/kernels-$(1).o \
		$(BUILD)/gpu/device.o $(CUDA_OBJ)
	$$(GPU_LINK) -Wl,--gc-sections
endef
$(foreach t,$(CUDA_TYPES),$(eval $(call gpu_test,$(t))))

# The engine's rounds without what reads files; it needs no package.
GPU_BENCH := $(call obj,$(addprefix bench/gpu/,bench.c weights.c) $(addprefix runtime/,mem.c \
             engine/round.c draft/vispec_propose.c model/lm_pass.c)) $(BUILD)/gpu/device.o \
             $(BUILD)/cuda/bench/gpu/prescribe.o $(CUDA_OBJ)
$(BUILD)/gpu/bench/limits: $(BUILD)/cuda/bench/gpu/limits.o $(GPU_BENCH)
	$(GPU_LINK)
$(BUILD)/gpu/bench/%: $(BUILD)/obj/bench/gpu/%.o $(GPU_BENCH)
	$(GPU_LINK)

gpu-tests: $(GPU_TESTS) $(addprefix $(BUILD)/gpu/bench/,limits ops pass round)

# Everything that needs a GPU; the report goes to REPORT.
REPORT     ?= $(BUILD)/gpu/report
gpu-check:
	@scripts/gpu-check $(BUILD) $(REPORT)

deps:
	@scripts/install-deps

run: deps
	@$(MAKE) --no-print-directory all
	@scripts/run

# The unit tests, the fuzz corpora and the operations on the emulator run twice: as built for use, and with
# address and undefined sanitizers.
test: deps
	@$(MAKE) --no-print-directory test-programs emu-tests all cuda-check
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SANITIZE=address,undefined OPT="-O1 -g" \
		test-programs emu-op-tests
	@scripts/run-tests $(BUILD)

test-programs: $(TESTS) $(FUZZ)
bench: $(BENCH)

check:
	@scripts/check

clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(shell find $(BUILD)/obj $(BUILD)/emu $(BUILD)/bare -name '*.d' 2>/dev/null)
