/* What the tests of device operations share: an open device, arrays on it, numbers to fill them. */
#ifndef TEST_KERNELS_H
#define TEST_KERNELS_H

#include "kernels/device.h"
#include "kernels/ops.h"

enum { KERNELS_MAX_BLOCKS = 4096 };

/* The device under test, "cpu" unless the Makefile says another, with a stream, and the arrays made
 * on it, which live until kernels_close. */
struct kernels {
    struct device *dev;
    struct stream *stream;
    const struct ops *ops;
    struct {
        void *p;
        bool is_shared;
    } blocks[KERNELS_MAX_BLOCKS];
    int n_blocks;
};

void kernels_open(struct kernels *k);
/* The device alone; n_threads where it has threads. */
struct device *kernels_device(int n_threads);
void kernels_close(struct kernels *k);

/* Device memory with every byte 0xff (NaN, -1), or with a copy of `bytes` bytes of host memory. */
void *kernels_empty(struct kernels *k, size_t bytes);
void *kernels_upload(struct kernels *k, const void *host, size_t bytes);

/* Waits for the stream and copies.  The result of the first belongs to k. */
void *kernels_download(struct kernels *k, const void *device, size_t bytes);
void kernels_write(struct kernels *k, void *device, const void *host, size_t bytes);

/* Host memory that belongs to k, zeroed. */
void *kernels_host(struct kernels *k, size_t bytes);

/* The same for n activations: the test has floats, the device its own type.  All-ones on one side
 * are all-ones on the other. */
void *kernels_empty_act(struct kernels *k, size_t n);
void *kernels_upload_act(struct kernels *k, const float *x, size_t n);
float *kernels_download_act(struct kernels *k, const void *device, size_t n);
void kernels_write_act(struct kernels *k, void *device, const float *x, size_t n);
/* x as the type of activations holds it. */
float kernels_round_act(const struct kernels *k, float x);
/* Element i of an array of activations on the device. */
void *kernels_at_act(const struct kernels *k, void *device, size_t i);

/* CHECK_CLOSE where activations are float; else the tolerances are `rounding` units of the device's
 * type, relative to 1 and to the number, whichever is larger. */
#define CHECK_CLOSE_ACT(k, got, want, n, abs_tolerance, rel_tolerance, rounding)                   \
    do {                                                                                           \
        double unit_ = kernels_rounding(k) * (rounding);                                           \
        CHECK_CLOSE(got, want, n, unit_ > 0 ? unit_ : (abs_tolerance),                             \
                    unit_ > 0 ? unit_ : (rel_tolerance));                                          \
    } while (0)
/* The largest head that attention on the device under test takes. */
int kernels_max_head_dim(void);
/* Half a unit of the last place of 1 in the type of activations; 0 for float. */
double kernels_rounding(const struct kernels *k);

/* n numbers, evenly from (-scale, scale), that the type of activations can hold; the same seed
 * gives the same numbers. */
float *kernels_random(struct kernels *k, size_t n, float scale, unsigned seed);
/* An integer in [0, n). */
int kernels_random_int(unsigned *state, int n);

/* Converts to a weight's type, rounding to nearest even, and back. */
void *kernels_to_dtype(struct kernels *k, const float *x, size_t n, enum dtype t);
float kernels_from_dtype(const void *x, size_t i, enum dtype t);

/* Fails the test unless all bytes are still 0xff. */
#define CHECK_UNTOUCHED(host, bytes) kernels_check_untouched(__FILE__, __LINE__, host, bytes)
void kernels_check_untouched(const char *file, int line, const void *host, size_t bytes);

/* Fails the test unless both hold the same n floats, bit for bit. */
#define CHECK_SAME_BITS(a, b, n) kernels_check_same_bits(__FILE__, __LINE__, a, b, n)
void kernels_check_same_bits(const char *file, int line, const float *a, const float *b, size_t n);

#endif
