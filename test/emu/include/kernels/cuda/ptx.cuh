/* The emulator's kernels/cuda/ptx.cuh: the same functions, computed.  See there for what they do.
 */
#ifndef TEST_EMU_PTX_CUH
#define TEST_EMU_PTX_CUH

#include <cuda_runtime.h>

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

float emu_from_f16(uint16_t bits);
uint16_t emu_to_f16(float x);

static inline float emu_from_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof(x));
    return x;
}

static inline float to_float(f16 x)
{
    return emu_from_f16(x.bits);
}
static inline float to_float(bf16 x)
{
    return emu_from_bf16(x.bits);
}
static inline float to_float(float x)
{
    return x;
}

static inline void from_float(f16 *to, float x)
{
    to->bits = emu_to_f16(x);
}
static inline void from_float(bf16 *to, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if ((bits & 0x7fffffff) > 0x7f800000)
        to->bits = 0x7fff;
    else
        to->bits = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline void from_float(float *to, float x)
{
    *to = x;
}

static inline char *shared_memory(void)
{
    return emu_this_block->shared;
}

static inline void grid_wait(void)
{
    emu_grid_wait(); /* the next kernel has begun before this one */
}

/* A copy's target is NaN until somebody waits for it. */
static inline void copy_async(void *dst, const void *src, int n_bytes)
{
    if ((uintptr_t)dst % 16 != 0 || (n_bytes > 0 && (uintptr_t)src % 16 != 0))
        emu_die("a copy is not aligned to 16 bytes");
    emu_access(emu_this, dst, 16, EMU_WRITE, emu_here());
    memset(dst, 0xff, 16);
    emu_this->open.push_back({(char *)dst, (const char *)src, n_bytes});
}

static inline void copy_commit(void)
{
    emu_this->groups.push_back(std::move(emu_this->open));
    emu_this->open.clear();
}

template <int N> static inline void copy_wait(void)
{
    auto *groups = &emu_this->groups;
    for (; groups->size() > N; groups->erase(groups->begin()))
        for (const emu_copy &copy : groups->front()) {
            emu_access(emu_this, copy.dst, 16, EMU_WRITE, emu_here());
            memcpy(copy.dst, copy.src, (size_t)copy.n_bytes);
            memset(copy.dst + copy.n_bytes, 0, 16 - (size_t)copy.n_bytes);
        }
}

/* A bulk copy's target is NaN until somebody waits for it. */
struct copy_barrier {
    int32_t n_done, is_pending;
    uint32_t n_bytes;
    const void *src;
    void *dst;
};
void copy_barrier_init(struct copy_barrier *b);
void emu_copy_bulk(void *dst, const void *src, uint32_t n_bytes, struct copy_barrier *b);
void copy_bulk_wait(struct copy_barrier *b, int parity);

static inline void copy_bulk(void *dst, const void *src, uint32_t n_bytes, struct copy_barrier *b)
{
    if (emu_this->lane == 0) emu_copy_bulk(dst, src, n_bytes, b);
}

struct emu_ldmatrix {
    const char *row;
    uint32_t *r;
    bool is_transposed;
    const void *where;
};
void emu_ldmatrix_all(emu_warp &warp);

static inline __attribute__((always_inline)) void load_matrices(uint32_t (&r)[4], const void *row)
{
    emu_ldmatrix mine = {(const char *)row, r, false, emu_here()};
    emu_meet(~0u, EMU_LDMATRIX, &mine, emu_ldmatrix_all);
}
static inline __attribute__((always_inline)) void load_matrices_transposed(uint32_t (&r)[4],
                                                                           const void *row)
{
    emu_ldmatrix mine = {(const char *)row, r, true, emu_here()};
    emu_meet(~0u, EMU_LDMATRIX, &mine, emu_ldmatrix_all);
}

struct emu_mma {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
};
void emu_mma_f16_all(emu_warp &warp);
void emu_mma_bf16_all(emu_warp &warp);

static inline __attribute__((always_inline)) void
multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, f16)
{
    emu_mma mine = {d, a, {b0, b1}};
    emu_meet(~0u, EMU_MMA, &mine, emu_mma_f16_all);
}
static inline __attribute__((always_inline)) void
multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bf16)
{
    emu_mma mine = {d, a, {b0, b1}};
    emu_meet(~0u, EMU_MMA, &mine, emu_mma_bf16_all);
}

static inline void tiles_written(void)
{
}

/* A thread's part of a product of tiles: n groups of eight columns. */
struct emu_tiles {
    const uint16_t *a, *b;
    float (*sum)[4];
    int n;
    bool add;
    float (*widen)(uint16_t);
    const void *where;
};
void emu_tiles_multiply(const emu_tiles &tiles);

/* Each thread computes its own part, when it is waited for: as late as on a GPU. */
template <int N, class T>
static inline void tiles_multiply(float (&d)[N / 8][4], const T *a, const T *b, int n_rows,
                                  bool add)
{
    if ((uintptr_t)a % 1024 != 0 || (uintptr_t)b % 1024 != 0) emu_die("a tile that is not aligned");
    const emu_tiles tiles = {(const uint16_t *)a,
                             (const uint16_t *)b,
                             d,
                             min(N, n_rows + 7) / 8,
                             add,
                             [](uint16_t bits) { return to_float(T{bits}); },
                             emu_here()};
    emu_this->products.push_back([=] { emu_tiles_multiply(tiles); });
}

template <int N> static inline void tiles_wait(float (&)[N][4])
{
    for (auto &product : emu_this->products) product();
    emu_this->products.clear();
}

static inline float exp2_fast(float x)
{
    float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y; /* keeps NaN */
}

/* A microsecond behind the last reading, so that results do not depend on the time. */
static inline uint64_t clock_ns(void)
{
    static uint64_t now;
    return now += 1000;
}

#endif
