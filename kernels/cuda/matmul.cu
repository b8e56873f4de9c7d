/* y = act(x W^T + bias) (+ y), by cuBLASLt: the products of the vision tower.
 *
 *   W  [n_out][n_in] T      x  [n][ldx] T      y  [n][ldy] T      bias  [n_out] T
 *
 * cuBLASLt's matrices are column-major, so what it computes is y^T = W x^T: A is W, which it sees
 * transposed, B is x, C and D are both y.  Sums are float wherever k is cut, and bias and `add` are
 * in them before they are rounded.  An activation is a kernel of ours on the rounded sums, in
 * place: the library has no quick GELU, and its GELU is by tanh.
 *
 *   activate   grid (n, n_out / CHUNK), block ROW_THREADS; bound by memory
 *
 * Asking the library for an algorithm takes longer than many a product, so the answers are kept. */
#include "kernels/cuda/ops.cuh"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_PLANS = 64,             /* a tower has about six a picture size */
    SCRATCH_BYTES = 32 << 20, /* of the workspace: what cuBLAS asks for on sm_90 */
    MAX_ALIGNMENT = 256,      /* the largest that the library makes a difference of */
    CHUNK = 4 * ROW_THREADS,  /* elements of a block of the activation */
};
static_assert(SCRATCH_BYTES <= WORKSPACE_FLOATS * sizeof(float), "scratch lies in the workspace");

/* All that the choice of an algorithm depends on; no padding, since it is compared by bytes. */
struct product {
    int32_t type; /* cudaDataType_t */
    int32_t n, n_out, n_in, ldx, ldy, has_bias, add;
    uint32_t align_w, align_x, align_y, align_bias; /* of the pointers, in bytes */
};

struct plan {
    struct product product;
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
};

struct cublas {
    cublasLtHandle_t handle;
    struct plan plans[N_PLANS];
    int n_made; /* since the start; a new plan takes the place of the oldest */
};

struct cublas *cublas_open(void)
{
    struct cublas *c = (struct cublas *)calloc(1, sizeof(*c));
    REQUIRE(c != NULL);
    CUBLAS_CHECK(cublasLtCreate(&c->handle));
    return c;
}

void cublas_close(struct cublas *c)
{
    CUBLAS_CHECK(cublasLtDestroy(c->handle));
    free(c);
}

/* ---- plans -------------------------------------------------------------------------------------
 */

static uint32_t alignment(const void *p)
{
    const uintptr_t bits = (uintptr_t)p | MAX_ALIGNMENT;
    return (uint32_t)(bits & -bits);
}

template <class V>
static void set(struct plan *plan, cublasLtMatmulDescAttributes_t attribute, V value)
{
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(&plan->desc, attribute, &value, sizeof(value)));
}

template <class V>
static void prefer(cublasLtMatmulPreference_t preference,
                   cublasLtMatmulPreferenceAttributes_t attribute, V value)
{
    CUBLAS_CHECK(
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
}

static void choose_algorithm(struct cublas *c, struct plan *plan)
{
    const struct product *p = &plan->product;
    cublasLtMatmulPreferenceOpaque_t opaque;
    cublasLtMatmulPreference_t preference = &opaque;
    CUBLAS_CHECK(cublasLtMatmulPreferenceInit(preference));
    prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)SCRATCH_BYTES);
    prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p->align_w);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p->align_x);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p->align_y);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p->align_y);
    cublasLtMatmulHeuristicResult_t best = {};
    int n_found = 0;
    CUBLAS_CHECK(cublasLtMatmulAlgoGetHeuristic(c->handle, &plan->desc, &plan->w, &plan->x,
                                                &plan->y, &plan->y, preference, 1, &best,
                                                &n_found));
    REQUIRE(n_found == 1);
    CUBLAS_CHECK(best.state);
    plan->algorithm = best.algo;
}

/* The plan for a product; bias stands for its alignment, which the library reads off the pointer.
 */
static struct plan *find_plan(struct cublas *c, const struct product *p, const void *bias)
{
    for (int i = 0; i < min(c->n_made, N_PLANS); i++)
        if (memcmp(&c->plans[i].product, p, sizeof(*p)) == 0) return &c->plans[i];
    struct plan *plan = &c->plans[c->n_made++ % N_PLANS];
    const cudaDataType_t type = (cudaDataType_t)p->type;
    plan->product = *p;
    CUBLAS_CHECK(cublasLtMatmulDescInit(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(plan, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (p->has_bias) {
        set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
        set(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    CUBLAS_CHECK(cublasLtMatrixLayoutInit(&plan->w, type, p->n_in, p->n_out, p->n_in));
    CUBLAS_CHECK(cublasLtMatrixLayoutInit(&plan->x, type, p->n_in, p->n, p->ldx));
    CUBLAS_CHECK(cublasLtMatrixLayoutInit(&plan->y, type, p->n_out, p->n, p->ldy));
    choose_algorithm(c, plan);
    return plan;
}

/* ---- the operation -----------------------------------------------------------------------------
 */

__device__ __forceinline__ float activate(float x, enum activation activation)
{
    if (activation == ACT_GELU) return 0.5f * x * (1 + erff(x * 0.70710678f));
    if (activation == ACT_QUICK_GELU) return x / (1 + expf(-1.702f * x));
    return x;
}

template <class T>
static __global__ void activate_kernel(const __grid_constant__ struct matmul_args a)
{
    grid_wait();
    const int first = blockIdx.y * CHUNK, end = min(first + CHUNK, a.n_out);
    T *y = (T *)a.y + (size_t)blockIdx.x * a.ldy;
    for (int i = first + threadIdx.x; i < end; i += ROW_THREADS)
        from_float(&y[i], activate(to_float(y[i]), a.activation));
}

static constexpr cudaDataType_t data_type(f16)
{
    return CUDA_R_16F;
}

static constexpr cudaDataType_t data_type(bf16)
{
    return CUDA_R_16BF;
}

template <class T> void cuda_matmul(struct stream *s, const struct matmul_args *a)
{
    REQUIRE(a->n_out > 0 && a->n_in > 0 && a->ldx >= a->n_in && a->ldy >= a->n_out);
    REQUIRE(!a->add || a->activation == ACT_NONE);
    if (a->n == 0) return;
    const struct cuda_stream *stream = cuda_stream_of(s);
    struct cublas *c = stream->dev->cublas;
    const struct product p = {
        .type = data_type(T()),
        .n = a->n,
        .n_out = a->n_out,
        .n_in = a->n_in,
        .ldx = a->ldx,
        .ldy = a->ldy,
        .has_bias = a->bias != NULL,
        .add = a->add,
        .align_w = alignment(a->w),
        .align_x = alignment(a->x),
        .align_y = alignment(a->y),
        .align_bias = alignment(a->bias),
    };
    struct plan *plan = find_plan(c, &p, a->bias);
    if (a->bias != NULL) set(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a->bias);
    const float one = 1, beta = a->add ? 1 : 0;
    CUBLAS_CHECK(cublasLtMatmul(c->handle, &plan->desc, &one, a->w, &plan->w, a->x, &plan->x, &beta,
                                a->y, &plan->y, a->y, &plan->y, &plan->algorithm, stream->workspace,
                                SCRATCH_BYTES, stream->stream));
    if (a->activation != ACT_NONE)
        launch(s, activate_kernel<T>, dim3(a->n, ceil_div(a->n_out, CHUNK)), ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_matmul, matmul_args)
