/* What the benches of the GPU share: shapes of published models, random data, time of a graph. */
#ifndef BENCH_GPU_BENCH_H
#define BENCH_GPU_BENCH_H

#include "kernels/device.h"
#include "kernels/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    const char *name;
    int hidden, n_heads, n_kv_heads, head_dim, intermediate, vocab, n_layers;
};

/* config.json of llava-1.5-7b-hf, llava-1.5-13b-hf, Qwen2.5-VL-3B-Instruct, -7B-Instruct; and
 * "tiny", which is measured only where it is named: it shows on the emulator that a bench works. */
enum { N_PUBLISHED = 4, N_SHAPES };
extern const struct shape bench_shapes[N_SHAPES];

struct bench {
    struct device *dev;
    struct stream *stream;
    const struct ops *ops;
    uint16_t *random; /* shared memory, [n_random] small numbers in the device's type */
    size_t n_random;
    const char *model, *op; /* what to measure; NULL: all */
};
bool bench_wants(const struct bench *b, const struct shape *m);
bool bench_wants_op(const struct bench *b, const char *op);

/* From the arguments of main: device (cuda-bf16), the one model and operation to measure (all).
 * Ends the process where there is no such device.  Random numbers enough for any matrix of the
 * shapes to measure, and 4096 more. */
void bench_open(struct bench *b, int argc, char **argv);
void bench_close(struct bench *b);

/* `bytes` of device memory full of random numbers, or with a copy of host memory. */
void *bench_random(struct bench *b, size_t bytes);
void *bench_upload(struct bench *b, const void *host, size_t bytes);

/* Queues call number i of a case. */
typedef void bench_call(struct bench *b, const void *arg, int i);

/* Prints `name`, then microseconds of a call (median, tenth and ninetieth percentile), the bytes
 * and the floating-point operations that it needs at least, as CSV.  A sample is a graph of calls
 * that takes a few milliseconds, so that the host's clock measures it. */
void bench_header(void);
void bench_case(struct bench *b, const char *name, bench_call *call, const void *arg, double bytes,
                double flops);

/* Rows of n_seqs trees of n_nodes nodes behind ctx slots; node j's parent is (j - 1) / 3, so 30
 * nodes are four levels, as a draft's trees are. */
struct rows bench_tree_rows(struct bench *b, int n_seqs, int n_nodes, int ctx);
void bench_free_rows(struct bench *b, struct rows *rows);

/* lm_head (but for the weights) of n rows x, all of one seat that samples at `temperature` and asks
 * for nothing else. */
struct head_args bench_head_args(struct bench *b, const struct shape *m, const void *x, int n,
                                 float temperature);
void bench_free_head_args(struct bench *b, struct head_args *a);

/* Pages full of random keys; and those of n_seqs sequences of n_slots, in an order that is not
 * their own. */
struct kv_pool bench_pages(struct bench *b, const struct shape *m, int n_layers, int n_kv_heads,
                           int n_pages);
void bench_place(struct bench *b, struct kv_pool *pool, int n_seqs, int n_slots);
int bench_n_pages(int n_seqs, int n_slots);
void bench_free_pages(struct bench *b, struct kv_pool *pool);

#endif
