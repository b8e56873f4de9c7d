/* head: lm_head of the verify rows (ops.h), and the best token of each tile of a row.
 *
 *   logits  [max][vocab] float      partials  [max][tiles of 128 tokens] struct scored
 *
 * An epilogue of gemm.  A row's logits are written where its seat asks for them, which few do; a
 * row that gets no scores leaves its tiles' bests, with their noise, for pick. */
#include "kernels/cuda/head.cuh"
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/pick.cuh"

static_assert(LANE_TOKENS == N_WORDS, "a lane's tokens share the words of one Philox counter");

struct pick_tiles {
    struct head_args a;
    struct scored *best; /* [max][n_tiles] */
    int n_tiles;

    using shared = struct head_rows;

    template <int N>
    __device__ __forceinline__ void take(struct head_rows *shared, float (&sum)[N][4], int tile,
                                         int row0, int n_rows) const
    {
        visit_rows(shared, sum, n_rows,
                   [=, this](int i, float4 x) { pick_from_tile(row0 + i, tile, x); });
    }

    /* One warp. */
    __device__ __forceinline__ void pick_from_tile(int i, int tile, float4 four) const
    {
        float x[N_WORDS] = {four.x, four.y, four.z, four.w};
        const int lane = threadIdx.x % 32, first = tile * GEMM_OUT + N_WORDS * lane;
        const int vocab = a.state.vocab;
        const struct pick_row row = pick_row_of(&a.state, &a.out, &a.tree, i);
        float *logits = a.logits + (size_t)i * vocab;
        if (row.asked.logits)
            for (int j = 0; j < N_WORDS && first + j < vocab; j++) logits[first + j] = x[j];
        if (row.asked.scores) return;
        for (int j = 0; j < N_WORDS; j++)
            if (first + j >= vocab) x[j] = -INFINITY;
        struct scored best = pick_nan(no_token(), x);
        for (int j = 0; j < N_WORDS; j++)
            if (row.temperature > 0) x[j] /= row.temperature;
        best = warp_best(pick_words(best, x, first, &row));
        if (lane == 0) this->best[(size_t)i * n_tiles + tile] = best;
    }
};

template <class T> void cuda_head(struct stream *s, const struct head_args *a)
{
    const int n_tiles = ceil_div(a->state.vocab, GEMM_OUT);
    REQUIRE(a->state.vocab == a->w->n_out);
    REQUIRE(2 * (size_t)a->out.max * n_tiles <= PARTIAL_FLOATS);
    const struct pick_tiles epilogue = {*a, (struct scored *)cuda_stream_of(s)->partials, n_tiles};
    launch_gemm<T>(s, a->w, a->x, a->ldx, a->out.n, a->out.max, epilogue);
}

FOR_BOTH_TYPES(cuda_head, head_args)
