/* cuBLASLt on the CPU (include/cublasLt.h). */
#include <cublasLt.h>
#include <kernels/cuda/ptx.cuh>

#include <algorithm>
#include <vector>

enum {
    MAX_ALIGNMENT = 256,
    MAX_SCRATCH = 1 << 20, /* bytes of workspace that every product spoils */
};

/* ---- descriptors -------------------------------------------------------------------------------
 */

struct emu_cublas {};

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "no error" : "an invalid value";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = new emu_cublas();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t desc, cublasComputeType_t compute,
                                      cudaDataType_t scale)
{
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
    *desc = {CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL};
    return CUBLAS_STATUS_SUCCESS;
}

template <class T> static cublasStatus_t take(T *to, const void *value, size_t bytes)
{
    if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&desc->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return take(&desc->bias, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type,
                                        uint64_t n_rows, uint64_t n_columns, int64_t ld)
{
    if (n_rows == 0 || n_columns == 0 || ld < (int64_t)n_rows) return CUBLAS_STATUS_INVALID_VALUE;
    *layout = {type, n_rows, n_columns, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference)
{
    *preference = {0, {MAX_ALIGNMENT, MAX_ALIGNMENT, MAX_ALIGNMENT, MAX_ALIGNMENT}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    uint32_t reduction;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return take(&preference->max_workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return take(&reduction, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return take(&preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                    value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* ---- products ----------------------------------------------------------------------------------
 */

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int n_wanted,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *n_found)
{
    if (n_wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    *n_found = 1;
    results->state = CUBLAS_STATUS_SUCCESS;
    results->algo = {{*a, *b, *c, *d},
                     {},
                     desc->bias,
                     std::min(preference->max_workspace, (uint64_t)MAX_SCRATCH)};
    std::copy_n(preference->alignment, 4, results->algo.alignment);
    return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *matrix, cudaDataType_t type, size_t i)
{
    if (type == CUDA_R_32F) return ((const float *)matrix)[i];
    const uint16_t bits = ((const uint16_t *)matrix)[i];
    return type == CUDA_R_16F ? emu_from_f16(bits) : emu_from_bf16(bits);
}

static void set_element(void *matrix, cudaDataType_t type, size_t i, float x)
{
    if (type == CUDA_R_32F) from_float((float *)matrix + i, x);
    if (type == CUDA_R_16F) from_float((f16 *)matrix + i, x);
    if (type == CUDA_R_16BF) from_float((bf16 *)matrix + i, x);
}

struct product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t layouts[4];
    const void *matrices[4]; /* A, B, C, D */
    float alpha, beta;
};

static void compute(const struct product &p)
{
    const auto &[a, b, c, d] = p.layouts;
    const size_t m = d.n_rows, n_sum = b.n_rows;
    const bool is_transposed = p.desc.transpose_a == CUBLAS_OP_T;
    std::vector<float> wide(n_sum * m), sum(m); /* op(A), column by column */
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < n_sum; k++)
            wide[k * m + i] =
                element(p.matrices[0], a.type, is_transposed ? i * a.ld + k : k * a.ld + i);
    for (size_t j = 0; j < d.n_columns; j++) {
        std::fill(sum.begin(), sum.end(), 0);
        for (size_t k = 0; k < n_sum; k++) {
            const float x = element(p.matrices[1], b.type, j * b.ld + k);
            for (size_t i = 0; i < m; i++) sum[i] += wide[k * m + i] * x;
        }
        for (size_t i = 0; i < m; i++) {
            float value = p.alpha * sum[i];
            if (p.beta != 0) value += p.beta * element(p.matrices[2], c.type, j * c.ld + i);
            if (p.desc.epilogue == CUBLASLT_EPILOGUE_BIAS) value += element(p.desc.bias, d.type, i);
            set_element((void *)p.matrices[3], d.type, j * d.ld + i, value);
        }
    }
}

static bool is_same(const cublasLtMatrixLayoutOpaque_t &a, const cublasLtMatrixLayoutOpaque_t &b)
{
    return a.type == b.type && a.n_rows == b.n_rows && a.n_columns == b.n_columns && a.ld == b.ld;
}

static uintptr_t alignment(const void *p)
{
    const uintptr_t bits = (uintptr_t)p | MAX_ALIGNMENT;
    return bits & -bits;
}

static void check(const struct product &p, const cublasLtMatmulAlgo_t &chosen)
{
    const auto &[a, b, c, d] = p.layouts;
    const bool is_transposed = p.desc.transpose_a == CUBLAS_OP_T;
    if ((is_transposed ? a.n_columns : a.n_rows) != d.n_rows ||
        (is_transposed ? a.n_rows : a.n_columns) != b.n_rows || b.n_columns != d.n_columns ||
        c.n_rows != d.n_rows || c.n_columns != d.n_columns)
        emu_die("cublasLtMatmul: the shapes do not fit each other");
    for (int i = 0; i < 4; i++) {
        if (!is_same(p.layouts[i], chosen.layouts[i]))
            emu_die("cublasLtMatmul: the algorithm was chosen for another layout");
        if (alignment(p.matrices[i]) < chosen.alignment[i])
            emu_die("cublasLtMatmul: a pointer is less aligned than was promised");
    }
    if (p.desc.epilogue == CUBLASLT_EPILOGUE_BIAS &&
        (p.desc.bias == NULL || alignment(p.desc.bias) < alignment(chosen.bias)))
        emu_die("cublasLtMatmul: bias is NULL or less aligned than was promised");
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t workspace_bytes, cudaStream_t s)
{
    const struct product p = {*desc,
                              {*a_layout, *b_layout, *c_layout, *d_layout},
                              {a, b, c, d},
                              *(const float *)alpha,
                              *(const float *)beta};
    check(p, *algorithm);
    const size_t n_scratch = algorithm->n_scratch;
    if (n_scratch > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    emu_library(s, [=] {
        memset(workspace, 0xff, n_scratch); /* it is the library's */
        compute(p);
    });
    return CUBLAS_STATUS_SUCCESS;
}
