/* expand, select: the draft's candidates, and the trees and rows of the verify pass (ops.h; how
 * candidates are numbered: kernels/cpu/tree.c).
 *
 * A candidate's rank is one number, its key: higher is better, no two are equal, 0 is none.
 *
 *      63 .. 32  score, in an order of integers | 31 .. 20  ~number | 19 .. 0  ~seat
 *
 * so equal scores go to the lower number, then the lower seat.  All of this is bound by latency. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ops.cuh"

constexpr int EXPAND_THREADS = 256, SELECT_THREADS = 1024, SELECT_WARPS = SELECT_THREADS / 32;
constexpr int NUMBER_BITS = 12, SEAT_BITS = 20;
constexpr int MAX_CANDIDATES = MAX_TOP_K + MAX_NODES * MAX_TOP_K; /* depth * k <= MAX_NODES */
static_assert(MAX_CANDIDATES <= 1 << NUMBER_BITS, "numbers fit in a key");
static_assert(MAX_NODES == 64, "a lane has two nodes");

__host__ __device__ static int n_candidates(const struct beam *b)
{
    return b->k + b->depth * b->k * b->k;
}

__device__ __forceinline__ uint64_t key_of(float score, int number, int seat)
{
    const uint64_t low = (uint64_t)~number << SEAT_BITS & ((1ull << 32) - 1);
    return (uint64_t)ordered_bits(score) << 32 | low | ((1u << SEAT_BITS) - 1 - seat);
}

__device__ __forceinline__ int number_of(uint64_t key)
{
    return ~(int)(key >> SEAT_BITS) & ((1 << NUMBER_BITS) - 1);
}

/* ---- expand: grid  max_seqs heads      block  EXPAND_THREADS
 *
 * A candidate's rank is the number of better keys: k^2 comparisons for each of k^2 candidates, and
 * 64 of them in the usual tree.  shared  k^2 keys
 * ------------------------------------------------------------------------------------------- */

struct expand_shared {
    int32_t best[MAX_TOP_K]; /* of the new candidates, in rank */
    uint64_t keys[MAX_TOP_K * MAX_TOP_K];
};

/* One row of the next beam: the lane's rank among the first warp's k. */
__device__ static void put_beam_row(const struct expand_args *a, int head, int first, int best)
{
    const struct beam *b = &a->beam;
    const struct draft_rows *next = &a->next;
    const int k = b->k, level = a->level, rank = threadIdx.x, seat = b->seat[head];
    const int len = a->state.seats[seat].len, r = head * k + rank;
    const int parent = level > 0 ? best / k : 0; /* rank in the previous beam */
    const uint64_t mask = level > 0 ? b->mask[(size_t)head * k + parent] : 0;
    const uint64_t own = mask | 1ull << (level * k + rank);
    next->rows.seat[r] = seat;
    next->rows.id[r] = b->token[(size_t)head * n_candidates(b) + first + best];
    next->rows.slot[r] = len + 1 + level * k + rank;
    next->rows.prefix[r] = len + 1;
    next->rows.mask[r] = own;
    for (int axis = 0; axis < 3; axis++) next->rows.pos[3 * r + axis] = len + level;
    next->kind[r] = DRAFT_ROW_FUSED;
    next->h_row[r] = level > 0 ? head * k + parent : head;
    next->g_row[r] = seat;
    b->node[((size_t)head * b->depth + level) * k + rank] = first + best;
    __syncwarp((1ull << k) - 1); /* all masks of the previous beam are read */
    b->mask[(size_t)head * k + rank] = own;
}

static __global__ void __launch_bounds__(EXPAND_THREADS)
    expand_kernel(const __grid_constant__ struct expand_args a)
{
    struct expand_shared *shared = (struct expand_shared *)shared_memory();
    const struct beam *b = &a.beam;
    const int head = blockIdx.x, k = b->k, level = a.level, n = level == 0 ? k : k * k;
    const int first = level == 0 ? 0 : k + (level - 1) * k * k;
    const bool is_last = level == b->depth;
    grid_wait();
    const int n_heads = n_rows(b->n_heads, a.state.max_seqs);
    if (head == 0 && threadIdx.x == 0 && !is_last) {
        DEVICE_REQUIRE(n_heads * k <= a.next.rows.max);
        *a.next.rows.n = n_heads * k;
    }
    if (head >= n_heads) return;
    const size_t base = (size_t)head * n_candidates(b), from = (size_t)head * n;
    for (int i = threadIdx.x; i < n; i += EXPAND_THREADS) {
        float score = a.logprobs[from + i];
        if (level > 0)
            score += b->score[base + b->node[((size_t)head * b->depth + level - 1) * k + i / k]];
        score = score == score ? score : -INFINITY;
        b->token[base + first + i] = a.ids[from + i];
        b->score[base + first + i] = score;
        shared->keys[i] = key_of(score, i, 0);
    }
    if (is_last) return;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += EXPAND_THREADS) {
        const uint64_t key = shared->keys[i];
        int rank = 0;
        for (int j = 0; j < n; j++) rank += shared->keys[j] > key;
        if (rank < k) shared->best[rank] = i;
    }
    __syncthreads();
    if ((int)threadIdx.x < k) put_beam_row(&a, head, first, shared->best[threadIdx.x]);
}

void cuda_expand(struct stream *s, const struct expand_args *a)
{
    const struct beam *b = &a->beam;
    REQUIRE(b->k >= 1 && b->k <= MAX_TOP_K && b->depth >= 0 && b->depth * b->k <= MAX_NODES);
    REQUIRE(a->level >= 0 && a->level <= b->depth);
    launch(s, expand_kernel, a->state.max_seqs, EXPAND_THREADS, sizeof(struct expand_shared), *a);
}

/* ---- select: grid  max_seqs heads (1 without a draft)      block  SELECT_THREADS
 *
 * Each block finds the best candidates of its head and leaves their keys in the workspace, in the
 * order of their numbers.  The last block then looks at all of them: what the budget keeps, where
 * each seat's rows begin, and the rows.
 * ------------------------------------------------------------------------------------------- */

/* Of a block for its head. */
struct head_shared {
    int is_last, n_kept;
    uint64_t kept[MAX_NODES], keys[MAX_CANDIDATES];
};

/* A tree in the making; one a warp. */
struct tree_shared {
    int32_t number[MAX_NODES], parent[MAX_NODES]; /* candidate, and node, of each node */
};

/* Of each seat: its head and chunk, -1 for none; rows and out rows count and become offsets. */
struct select_plan {
    int32_t *head, *chunk, *rows, *out; /* [max_seqs + 1] */
};

struct select_job {
    struct select_args a;
    struct round_input in; /* copied: reading one number out of host memory takes as long as all */
    const uint64_t *keys;  /* [n_heads][MAX_NODES] */
    int n_heads;
    uint64_t least; /* key that the budget keeps */
    struct select_plan plan;
};

/* How many of the keys are at least `least`; all threads. */
__device__ static int count_keys(const uint64_t *keys, int n, uint64_t least)
{
    int count = 0;
    for (int first = 0; first < n; first += SELECT_THREADS) {
        const int i = first + threadIdx.x;
        count += __syncthreads_count(i < n && keys[i] >= least);
    }
    return count;
}

/* The m-th largest of n >= m > 0 keys, whose bits below low_bit count as zeros; all threads. */
__device__ static uint64_t nth_key(const uint64_t *keys, int n, int m, int low_bit)
{
    uint64_t key = 0;
    for (int bit = 63; bit >= low_bit; bit--)
        if (count_keys(keys, n, key | 1ull << bit) >= m) key |= 1ull << bit;
    return key;
}

/* The best n_nodes - 1 candidates of a head. */
__device__ static void rank_head(const struct select_args *a, int head, uint64_t *keys,
                                 struct head_shared *shared)
{
    const struct beam *b = &a->beam;
    const int seat = b->seat[head], n = n_candidates(b), n_wanted = min(a->n_nodes - 1, n);
    DEVICE_REQUIRE(seat >= 0 && seat < a->state.max_seqs);
    const bool is_there = a->state.seats[seat].state == SEAT_DECODE && n_wanted > 0;
    const float *scores = b->score + (size_t)head * n;
    for (int i = threadIdx.x; i < n; i += SELECT_THREADS)
        shared->keys[i] = key_of(scores[i], i, seat);
    if (threadIdx.x == 0) shared->n_kept = 0;
    __syncthreads();
    const uint64_t least = is_there ? nth_key(shared->keys, n, n_wanted, SEAT_BITS) : ~0ull;
    for (int i = threadIdx.x; i < n; i += SELECT_THREADS)
        if (shared->keys[i] >= least) shared->kept[atomicAdd(&shared->n_kept, 1)] = shared->keys[i];
    __syncthreads();
    const int j = threadIdx.x, n_kept = shared->n_kept;
    if (j >= MAX_NODES) return;
    int place = j;
    if (j < n_kept) {
        place = 0;
        for (int i = 0; i < n_kept; i++)
            place += number_of(shared->kept[i]) < number_of(shared->kept[j]);
    }
    keys[(size_t)head * MAX_NODES + place] = j < n_kept ? shared->kept[j] : 0;
}

/* Which candidates of all heads the budget keeps, and where each seat's rows begin; all threads. */
__device__ static void plan_rows(struct select_job *job, int *n_fixed)
{
    const struct select_args *a = &job->a;
    const struct select_plan *plan = &job->plan;
    const int max_seqs = a->state.max_seqs, n_keys = job->n_heads * MAX_NODES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int seat = threadIdx.x; seat < max_seqs; seat += SELECT_THREADS) {
        plan->head[seat] = plan->chunk[seat] = -1;
        plan->rows[seat] = plan->out[seat] = a->state.seats[seat].state == SEAT_DECODE;
    }
    if (threadIdx.x == 0) *n_fixed = 0;
    __syncthreads();
    for (int head = threadIdx.x; head < job->n_heads; head += SELECT_THREADS)
        plan->head[a->beam.seat[head]] = head;
    for (int i = threadIdx.x; i < job->in.n_chunks; i += SELECT_THREADS) {
        const struct chunk *c = &job->in.chunks[i];
        const int seat = c->seat;
        DEVICE_REQUIRE(seat >= 0 && seat < max_seqs);
        DEVICE_REQUIRE(a->state.seats[seat].state == SEAT_PREFILL && c->n_rows > 0);
        plan->chunk[seat] = i;
        plan->rows[seat] = c->n_rows;
        plan->out[seat] = c->is_last != 0;
    }
    __syncthreads();
    for (int seat = threadIdx.x; seat < max_seqs; seat += SELECT_THREADS)
        if (plan->rows[seat] > 0) atomicAdd(n_fixed, plan->rows[seat]);
    const int n_ranked = count_keys(job->keys, n_keys, 1);
    __syncthreads(); /* n_fixed is there, also where there are no keys */
    const int budget = a->rows.max - *n_fixed;
    DEVICE_REQUIRE(budget >= 0);
    job->least = 1;
    if (n_ranked > budget) job->least = budget > 0 ? nth_key(job->keys, n_keys, budget, 0) : ~0ull;
    for (int head = warp; head < job->n_heads; head += SELECT_WARPS) {
        const uint64_t *keys = job->keys + (size_t)head * MAX_NODES;
        const int n_kept = __popc(__ballot_sync(~0u, keys[lane] >= job->least)) +
                           __popc(__ballot_sync(~0u, keys[lane + 32] >= job->least));
        if (lane > 0) continue;
        plan->rows[a->beam.seat[head]] += n_kept;
        plan->out[a->beam.seat[head]] += n_kept;
    }
    __syncthreads();
    if (warp == 0) warp_offsets(plan->rows, max_seqs);
    if (warp == 1) warp_offsets(plan->out, max_seqs);
    __syncthreads();
}

/* number[1 ..] = the kept candidates of a head, increasing; returns how many nodes there are. */
__device__ static int list_nodes(const struct select_job *job, int head, struct tree_shared *tree)
{
    const int lane = threadIdx.x % 32;
    int n_nodes = 1;
    for (int half = 0; half < 2 && head >= 0; half++) {
        const uint64_t key = job->keys[(size_t)head * MAX_NODES + 32 * half + lane];
        const unsigned kept = __ballot_sync(~0u, key >= job->least);
        if (key >= job->least)
            tree->number[n_nodes + __popc(kept & ((1u << lane) - 1))] = number_of(key);
        n_nodes += __popc(kept);
    }
    __syncwarp();
    return n_nodes;
}

/* The node that a kept candidate descends from. */
__device__ static int parent_of(const struct beam *b, int head, const struct tree_shared *tree,
                                int node)
{
    if (node == 0) return -1;
    const int k = b->k, number = tree->number[node];
    if (number < k) return 0;
    const int beam_row = (number - k) / k; /* of all expansions */
    const int fed = b->node[(size_t)head * b->depth * k + beam_row];
    int low = 1, high = node; /* fed is among number[low .. high) */
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (tree->number[middle] <= fed)
            low = middle;
        else
            high = middle;
    }
    DEVICE_REQUIRE(tree->number[low] == fed);
    return low;
}

/* One warp: the tree of a decoding seat, and its rows. */
__device__ static void put_tree(const struct select_job *job, int seat, struct tree_shared *tree)
{
    const struct select_args *a = &job->a;
    const struct tree *t = &a->tree;
    const struct seat *s = &a->state.seats[seat];
    const int lane = threadIdx.x % 32, head = job->plan.head[seat], len = s->len;
    const int first_row = job->plan.rows[seat], first_out = job->plan.out[seat];
    const int n_nodes = list_nodes(job, head, tree);
    for (int node = lane; node < n_nodes; node += 32)
        tree->parent[node] = parent_of(&a->beam, head, tree, node);
    __syncwarp();
    for (int node = lane; node < n_nodes; node += 32) {
        const size_t at = (size_t)seat * MAX_NODES + node;
        const int r = first_row + node, i = first_out + node;
        const int32_t token =
            node == 0 ? s->root
                      : a->beam.token[(size_t)head * n_candidates(&a->beam) + tree->number[node]];
        uint64_t mask = 1ull << node;
        int depth = 0;
        for (int up = tree->parent[node]; up >= 0; up = tree->parent[up], depth++)
            mask |= 1ull << up;
        t->token[at] = a->rows.id[r] = token;
        t->parent[at] = tree->parent[node];
        t->depth[at] = depth;
        t->mask[at] = a->rows.mask[r] = mask;
        a->rows.seat[r] = a->out.seat[i] = seat;
        for (int axis = 0; axis < 3; axis++)
            a->rows.pos[3 * r + axis] = len + depth + s->rope_delta;
        a->rows.slot[r] = len + node;
        a->rows.prefix[r] = len;
        a->out.row[i] = r;
        a->out.node[i] = node;
    }
    __syncwarp(); /* the tree's place is free for the next seat */
    if (lane > 0) return;
    t->n_nodes[seat] = n_nodes;
    t->first_row[seat] = first_row;
    t->old_len[seat] = len;
}

/* The rows of a chunk; all threads. */
__device__ static void put_chunk(const struct select_job *job, const struct chunk *c)
{
    const struct select_args *a = &job->a;
    const struct prompt_row *prompt = job->in.prompt_rows + c->first_row;
    const int seat = c->seat, n = c->n_rows, first_row = job->plan.rows[seat];
    for (int i = threadIdx.x; i < n; i += SELECT_THREADS) {
        const int r = first_row + i, slot = c->first_slot + i;
        a->rows.seat[r] = seat;
        a->rows.id[r] = prompt[i].id;
        for (int axis = 0; axis < 3; axis++) a->rows.pos[3 * r + axis] = prompt[i].pos[axis];
        a->rows.slot[r] = slot;
        a->rows.prefix[r] = slot + 1;
        a->rows.mask[r] = 0;
    }
    if (threadIdx.x > 0) return;
    const size_t root = (size_t)seat * MAX_NODES;
    a->tree.first_row[seat] = first_row;
    a->tree.old_len[seat] = c->first_slot + n - 1;
    a->tree.depth[root] = 0;
    a->tree.mask[root] = 1;
    if (!c->is_last) return;
    const int i = job->plan.out[seat];
    a->out.row[i] = first_row + n - 1;
    a->out.seat[i] = seat;
    a->out.node[i] = 0;
}

/* The last block: from all keys to rows. */
__device__ static void put_rows(struct select_job *job, int *n_fixed, struct tree_shared *trees)
{
    const struct select_args *a = &job->a;
    const int warp = threadIdx.x / 32, max_seqs = a->state.max_seqs;
    plan_rows(job, n_fixed);
    const int n = job->plan.rows[max_seqs], n_out = job->plan.out[max_seqs];
    DEVICE_REQUIRE(n <= a->rows.max && n_out <= a->out.max);
    for (int seat = warp; seat < max_seqs; seat += SELECT_WARPS) {
        if (a->state.seats[seat].state == SEAT_DECODE)
            put_tree(job, seat, &trees[warp]);
        else if (threadIdx.x % 32 == 0)
            a->tree.n_nodes[seat] = 0;
    }
    for (int i = 0; i < job->in.n_chunks; i++) put_chunk(job, &job->in.chunks[i]);
    if (threadIdx.x > 0) return;
    *a->rows.n = n;
    *a->out.n = n_out;
}

static __global__ void __launch_bounds__(SELECT_THREADS)
    select_kernel(const __grid_constant__ struct select_args a, uint64_t *keys, int32_t *ticket)
{
    struct head_shared *shared = (struct head_shared *)shared_memory();
    const int max_seqs = a.state.max_seqs, head = blockIdx.x;
    grid_wait();
    const uint32_t round = (uint32_t)*a.state.round;
    const struct round_input in = a.state.inputs[round % ROUND_RING]; /* on its way meanwhile */
    const int n_heads = a.beam.n_heads != NULL ? n_rows(a.beam.n_heads, max_seqs) : 0;
    if (head < n_heads) rank_head(&a, head, keys, shared);
    if (!is_last_block(ticket, gridDim.x, &shared->is_last)) return;
    struct tree_shared *trees = (struct tree_shared *)(shared + 1);
    int32_t *arrays = (int32_t *)(trees + SELECT_WARPS);
    struct select_job job = {
        a,
        in,
        keys,
        n_heads,
        0,
        {arrays, arrays + (max_seqs + 1), arrays + 2 * (max_seqs + 1), arrays + 3 * (max_seqs + 1)},
    };
    put_rows(&job, &shared->n_kept, trees);
}

void cuda_select(struct stream *s, const struct select_args *a)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    const int max_seqs = a->state.max_seqs;
    REQUIRE(a->n_nodes >= 1 && a->n_nodes <= MAX_NODES && max_seqs < 1 << SEAT_BITS);
    REQUIRE(a->beam.k <= MAX_TOP_K && a->beam.depth * a->beam.k <= MAX_NODES);
    REQUIRE((size_t)max_seqs * MAX_NODES * sizeof(uint64_t) <= WORKSPACE_FLOATS * sizeof(float));
    const size_t shared_bytes = sizeof(struct head_shared) +
                                SELECT_WARPS * sizeof(struct tree_shared) +
                                4 * ((size_t)max_seqs + 1) * sizeof(int32_t);
    launch(s, select_kernel, a->beam.n_heads != NULL ? max_seqs : 1, SELECT_THREADS, shared_bytes,
           *a, (uint64_t *)stream->workspace, stream->tickets);
}
