/* ldmatrix, mma and half precision (include/kernels/cuda/ptx.cuh). */
#include <kernels/cuda/ptx.cuh>

#include <vector>

float emu_from_f16(uint16_t bits)
{
    static std::vector<float> table;
    if (table.empty()) {
        table.resize(1 << 16);
        for (uint32_t h = 0; h < 1 << 16; h++) {
            int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
            float x = exponent == 0    ? ldexpf((float)fraction, -24)
                      : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                       : ldexpf((float)(1024 + fraction), exponent - 25);
            table[h] = (h & 0x8000) != 0 ? -x : x;
        }
    }
    return table[bits];
}

uint16_t emu_to_f16(float x)
{
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const float a = fabsf(x);
    if (a != a) return 0x7fff;
    if (a == 0) return sign;
    if (a >= 65520) return sign | 0x7c00; /* rounds to 2^16 */
    int exponent;
    frexpf(a, &exponent);               /* a = m 2^exponent, m in [0.5, 1) */
    if (exponent < -13) exponent = -13; /* subnormals share the least exponent */
    float units = nearbyintf(ldexpf(a, 11 - exponent));
    return sign | (uint16_t)((uint16_t)units + (exponent + 13) * 1024);
}

/* ---- bulk copies -------------------------------------------------------------------------------
 */

void copy_barrier_init(struct copy_barrier *b)
{
    *b = {};
}

void emu_copy_bulk(void *dst, const void *src, uint32_t n_bytes, struct copy_barrier *b)
{
    const char *to = (const char *)dst;
    const emu_block *block = emu_this_block;
    if (((uintptr_t)dst | (uintptr_t)src | n_bytes) % 16 != 0)
        emu_die("a bulk copy that is not aligned");
    if (to < block->shared || to + n_bytes > block->shared + block->grid->shared_bytes)
        emu_die("a bulk copy outside shared memory");
    if (b->is_pending != 0)
        emu_die("a bulk copy on a barrier whose last one nobody has waited for");
    *b = {b->n_done, 1, n_bytes, src, dst};
    memset(dst, 0xff, n_bytes);
    emu_copy_begins();
}

void copy_bulk_wait(struct copy_barrier *b, int parity)
{
    while (b->n_done % 2 == parity && b->is_pending == 0) emu_await_copy();
    if (b->n_done % 2 != parity) return; /* that copy has ended */
    memcpy(b->dst, b->src, b->n_bytes);
    b->is_pending = 0;
    b->n_done++;
}

/* ---- matrices ----------------------------------------------------------------------------------
 */

void emu_ldmatrix_all(emu_warp &warp)
{
    for (int i = 0; i < 4; i++) {
        uint16_t m[8][8];
        for (int row = 0; row < 8; row++) {
            const char *from = ((emu_ldmatrix *)warp.slot[i * 8 + row])->row;
            const emu_block *block = emu_this_block;
            if ((uintptr_t)from % 16 != 0) emu_die("ldmatrix of a row that is not aligned");
            if (from < block->shared || from + 16 > block->shared + block->grid->shared_bytes)
                emu_die("ldmatrix outside shared memory");
            emu_access(&block->fibers[emu_this->warp * 32 + i * 8 + row], from, 16, EMU_READ,
                       ((emu_ldmatrix *)warp.slot[i * 8 + row])->where);
            memcpy(m[row], from, 16);
        }
        for (int lane = 0; lane < 32; lane++) {
            emu_ldmatrix *to = (emu_ldmatrix *)warp.slot[lane];
            int a = lane / 4, b = 2 * (lane % 4);
            uint32_t low = to->is_transposed ? m[b][a] : m[a][b];
            uint32_t high = to->is_transposed ? m[b + 1][a] : m[a][b + 1];
            to->r[i] = low | high << 16;
        }
    }
}

/* Every element is one chain over k in order, in float. */
template <float WIDEN(uint16_t)> static inline void mma_all(emu_warp &warp)
{
    typedef float row __attribute__((vector_size(32)));
    float a[16][16];
    row b[16], d[16];
    for (int lane = 0; lane < 32; lane++) {
        const emu_mma *in = (emu_mma *)warp.slot[lane];
        int g = lane / 4, t = 2 * (lane % 4);
        for (int i = 0; i < 2; i++) { /* low and high half of each register */
            for (int j = 0; j < 4; j++)
                a[g + j % 2 * 8][t + j / 2 * 8 + i] = WIDEN((uint16_t)(in->a[j] >> 16 * i));
            for (int j = 0; j < 2; j++) b[t + 8 * j + i][g] = WIDEN((uint16_t)(in->b[j] >> 16 * i));
            for (int j = 0; j < 2; j++) d[g + 8 * j][t + i] = in->d[2 * j + i];
        }
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) d[i] += a[i][k] * b[k];
    for (int lane = 0; lane < 32; lane++) {
        const emu_mma *out = (emu_mma *)warp.slot[lane];
        int g = lane / 4, t = 2 * (lane % 4);
        for (int j = 0; j < 4; j++) out->d[j] = d[g + j / 2 * 8][t + j % 2];
    }
}

void emu_mma_f16_all(emu_warp &warp)
{
    mma_all<emu_from_f16>(warp);
}

void emu_mma_bf16_all(emu_warp &warp)
{
    mma_all<emu_from_bf16>(warp);
}

/* Row r of a tile of 64 columns, whose chunks of eight values are swizzled. */
static void load_tile_row(float (&to)[64], const uint16_t *tile, int r, const emu_tiles &tiles)
{
    const uint16_t *row = tile + r * 64;
    emu_access(emu_this, row, 64 * sizeof(*row), EMU_READ, tiles.where);
    for (int k = 0; k < 64; k++) to[k] = tiles.widen(row[(k / 8 ^ r % 8) * 8 + k % 8]);
}

void emu_tiles_multiply(const emu_tiles &tiles)
{
    const int g = emu_this->lane / 4 + emu_this->warp % 4 * 16, t = 2 * (emu_this->lane % 4);
    float a[2][64], b[2][64];
    for (int i = 0; i < 2; i++) load_tile_row(a[i], tiles.a, g + 8 * i, tiles);
    for (int j = 0; j < tiles.n; j++) {
        for (int i = 0; i < 2; i++) load_tile_row(b[i], tiles.b, 8 * j + t + i, tiles);
        for (int e = 0; e < 4; e++) {
            float sum = tiles.add ? tiles.sum[j][e] : 0;
            for (int k = 0; k < 64; k++) sum += a[e / 2][k] * b[e % 2][k];
            tiles.sum[j][e] = sum;
        }
    }
}
