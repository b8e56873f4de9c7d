/* Golden data: a .safetensors file read into memory, its tensors found by name.
 *
 * Every mistake (no file, no such tensor, another dtype, a range outside the file) fails the test
 * that made it, so nothing here returns an error.  Pointers belong to the golden and live until
 * golden_close. */
#ifndef TEST_GOLDEN_H
#define TEST_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct golden;

struct golden *golden_open(const char *path); /* as test_path() gives it */
void golden_close(struct golden *g);          /* accepts NULL */

bool golden_has(const struct golden *g, const char *name);

/* Writes the sizes of the dimensions and returns their number, at most 8. */
int golden_shape(const struct golden *g, const char *name, int64_t shape[8]);

/* The elements in C order; *n, unless n is NULL, becomes their number. */
const float *golden_f32(const struct golden *g, const char *name, size_t *n);
const int32_t *golden_i32(const struct golden *g, const char *name, size_t *n);
const uint8_t *golden_u8(const struct golden *g, const char *name, size_t *n);
const uint16_t *golden_bits16(const struct golden *g, const char *name, size_t *n); /* F16, BF16 */

/* A whole file, of any kind.  The caller frees it. */
uint8_t *golden_bytes(const char *path, size_t *len);

/* The sample rule of the golden data: of an array of n > 4096 elements only 4096 are kept, the k-th
 * from this index; of a smaller one all. */
size_t golden_n_samples(size_t n);
size_t golden_sample_index(size_t n, size_t k);

#endif
