/* What this GPU can do, for the other benches to be measured by.
 *
 *   bench/gpu/limits
 *
 * Two CSV rows, as bench/gpu/bench.h says: `copy`, from device to device, bytes read and written;
 * and `matmul`, the library's bf16 product of 8192^3. */
#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "bench/gpu/bench.h"
}

constexpr size_t COPY_BYTES = (size_t)4 << 30;
constexpr int SIDE = 8192;

struct copy_case {
    void *to, *from;
};

static void call_copy(struct bench *b, const void *arg, int)
{
    const struct copy_case *c = (const struct copy_case *)arg;
    CUDA_CHECK(cudaMemcpyAsync(c->to, c->from, COPY_BYTES, cudaMemcpyDeviceToDevice,
                               cuda_stream_of(b->stream)->stream));
}

static void call_matmul(struct bench *b, const void *arg, int)
{
    b->ops->matmul(b->stream, (const struct matmul_args *)arg);
}

int main(int argc, char **argv)
{
    struct bench b;
    bench_open(&b, argc, argv);
    bench_header();
    struct copy_case copy = {device_alloc(b.dev, COPY_BYTES, "a copy"),
                             bench_random(&b, COPY_BYTES)};
    bench_case(&b, "copy,,,0,0,0", call_copy, &copy, 2.0 * COPY_BYTES, 0);
    device_free(b.dev, copy.to);
    device_free(b.dev, copy.from);
    const size_t bytes = (size_t)SIDE * SIDE * 2;
    struct matmul_args matmul = {};
    matmul.w = bench_random(&b, bytes);
    matmul.x = bench_random(&b, bytes);
    matmul.y = device_alloc(b.dev, bytes, "a product");
    matmul.n = matmul.n_out = matmul.n_in = matmul.ldx = matmul.ldy = SIDE;
    bench_case(&b, "matmul,,,8192,8192,8192", call_matmul, &matmul, 3.0 * bytes,
               2.0 * SIDE * SIDE * SIDE);
    device_free(b.dev, (void *)matmul.w);
    device_free(b.dev, (void *)matmul.x);
    device_free(b.dev, matmul.y);
    bench_close(&b);
    return 0;
}
