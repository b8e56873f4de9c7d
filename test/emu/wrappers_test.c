/* The emulator's and the GPU's ptx.cuh do the same: what the emulator wrote is remembered here as
 * checksums, and both must write it again. */
#include "test/emu/wrappers.h"
#include "test/kernels.h"
#include "test/test.h"

#include <math.h>

/* CRC-32 of zlib and PNG. */
static uint32_t checksum(const void *p, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= ((const uint8_t *)p)[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

/* Runs a wrapper's kernel on zeroed memory and compares what it leaves. */
static void check_typed(wrappers_call *call, int n_words, uint32_t bf16, uint32_t f16)
{
    struct kernels k;
    kernels_open(&k);
    const bool is_f16 = k.ops->act == DTYPE_F16;
    const size_t bytes = (size_t)n_words * sizeof(uint32_t);
    uint32_t in[WRAPPERS_IN_WORDS];
    for (uint32_t i = 0; i < WRAPPERS_IN_WORDS; i++) in[i] = (i + 1) * 2654435761u;
    uint32_t *out = kernels_empty(&k, bytes);
    stream_fill(k.stream, out, 0, bytes);
    call(k.stream, kernels_upload(&k, in, sizeof(in)), out, is_f16);
    const uint32_t *got = kernels_download(&k, out, bytes), want = is_f16 ? f16 : bf16;
    if (checksum(got, bytes) != want)
        test_fail(__FILE__, __LINE__, "checksum %08x, not %08x; words 0, 1, 32, 33: %x %x %x %x",
                  checksum(got, bytes), want, got[0], got[1], got[32 % n_words], got[33 % n_words]);
    kernels_close(&k);
}

static void check(wrappers_call *call, int n_words, uint32_t either)
{
    check_typed(call, n_words, either, either);
}

TEST(values_of_the_type_become_their_floats)
{
    check_typed(wrappers_to_float, WRAPPERS_N_VALUES, 0xb6ca4a2a, 0xef9d25e2);
}

TEST(floats_are_rounded_to_the_nearest_value_of_the_type)
{
    check_typed(wrappers_from_float, WRAPPERS_N_VALUES, 0x1397a30a, 0x076260f5);
}

TEST(copies_bring_their_bytes_and_zeros_behind_them)
{
    check(wrappers_copies, 256, 0x25366d19);
}

TEST(bulk_copies_are_there_when_their_barrier_has_been_waited_for)
{
    check(wrappers_bulk, WRAPPERS_IN_WORDS, 0x1bb3dc6f);
}

TEST(lanes_get_their_parts_of_four_matrices)
{
    check(wrappers_matrices, 256, 0x43cca0a0);
}

TEST(products_of_fragments_are_added_where_they_belong)
{
    check(wrappers_products, 256, 0x1519fb82);
}

TEST(tiles_of_64_rows_are_multiplied_and_added)
{
    check(wrappers_tiles_64, 8192, 0xc55cf5b6);
}

TEST(tiles_of_128_rows_are_multiplied_and_added)
{
    check(wrappers_tiles_128, 16384, 0xe11927f0);
}

TEST(shuffles_votes_and_counts_of_bits_are_the_same)
{
    check(wrappers_warps, 1024, 0xf6d36d4e);
}

TEST(atomics_lose_nothing)
{
    check(wrappers_atomics, 16, 0x2dd6cbce);
}

TEST(a_kernel_reads_what_the_one_before_wrote)
{
    check(wrappers_chain, 128, 0xf025b299);
}

/* PTX promises two units of the last place; half a unit more is the rounding of `want`. */
TEST(powers_of_two_are_right_to_two_units_and_tiny_ones_are_zero)
{
    enum { N = 4096, N_EDGES = 8 };
    static const float edges[N_EDGES] = {0, 1, -126, -126.5f, -200, 200, -INFINITY, INFINITY};
    struct kernels k;
    kernels_open(&k);
    float x[N], want[N];
    for (int i = 0; i < N; i++) {
        x[i] = i < N_EDGES ? edges[i] : 250.0f * ((float)i / N - 0.5f);
        want[i] = (float)exp2((double)x[i]);
        if (want[i] < 0x1p-126f) want[i] = 0;
    }
    float *y = kernels_empty(&k, sizeof(x));
    wrappers_exp2(k.stream, kernels_upload(&k, x, sizeof(x)), y, N);
    CHECK_CLOSE((const float *)kernels_download(&k, y, sizeof(x)), want, N, 0x1p-126, 0x1.4p-22);
    const float nan = NAN;
    wrappers_exp2(k.stream, kernels_upload(&k, &nan, sizeof(nan)), y, 1);
    CHECK(isnan(*(const float *)kernels_download(&k, y, sizeof(nan))));
    kernels_close(&k);
}

TEST(the_clock_goes_forward)
{
    struct kernels k;
    kernels_open(&k);
    uint64_t *out = kernels_empty(&k, 4 * sizeof(*out));
    wrappers_clock(k.stream, out);
    wrappers_clock(k.stream, out + 2);
    const uint64_t *t = kernels_download(&k, out, 4 * sizeof(*out));
    CHECK(t[0] > 0);
    for (int i = 1; i < 4; i++) CHECK(t[i] >= t[i - 1]);
    kernels_close(&k);
}
