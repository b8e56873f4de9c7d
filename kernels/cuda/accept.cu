/* accept: from picks to answers, seats and the rows of the next extend pass (ops.h).
 *
 *   grid  1      block  ACCEPT_THREADS; a warp takes a seat, then the next seat behind all warps'
 *
 * Out rows, next rows and heads lie in the order of seats, so a seat must know how many of each
 * stand before it: the warps count, one warp turns counts into offsets, the warps write.  A walk
 * takes a vote of the nodes a step, and a step for each token.  A prompt's last row is a tree of
 * one node.
 *
 *   shared  struct accept_walk a warp, then four arrays of max_seqs + 1 (struct accept_plan)
 *
 * Bound by latency: of the rings, which lie in host memory, and of a few dependent loads a seat. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ops.cuh"

constexpr int ACCEPT_THREADS = 1024, ACCEPT_WARPS = ACCEPT_THREADS / 32;
constexpr int N_STOPS = (MAX_STOP_IDS + 31) / 32; /* stop ids a lane looks at */
static_assert(MAX_NODES == 64, "a lane has two nodes, a vote of all has 64 bits");
static_assert((int)MAX_LOGPROBS <= 32, "a lane copies one");

/* What a walk finds; one a warp, used for one seat after another. */
struct accept_walk {
    int32_t path[MAX_NODES], tokens[MAX_NODES];
    int32_t n_path, n_tokens, finish;
};

/* Of each seat, in shared memory: its chunk, -1 for none; the others count and become offsets. */
struct accept_plan {
    int32_t *chunk, *out, *next, *head; /* [max_seqs + 1] */
};

/* What the kernel's parts hand on.  The rings' elements are copied: reading one pointer out of host
 * memory takes as long as all. */
struct accept_job {
    struct accept_args a;
    struct round_input in;
    struct round_output output;
    struct accept_plan plan;
};

__device__ static bool has_draft(const struct accept_args *a, int seat)
{
    return a->beam.n_heads != NULL && a->state.seats[seat].sampling.use_draft != 0;
}

/* Follows the picks of out rows first_out.. from the root down a tree of n_nodes; none: no walk. */
__device__ static void walk_tree(const struct accept_args *a, int seat, int first_out, int n_nodes,
                                 struct accept_walk *walk)
{
    const int lane = threadIdx.x % 32;
    const size_t base = (size_t)seat * MAX_NODES;
    const struct seat *s = &a->state.seats[seat];
    const int n_generated = s->n_generated, max_tokens = s->sampling.max_tokens;
    int32_t parent[2], token[2], pick[2], stop[N_STOPS];
    for (int half = 0; half < 2; half++) {
        const int node = lane + 32 * half;
        const bool is_there = node < n_nodes, is_child = is_there && node > 0;
        parent[half] = is_child ? a->tree.parent[base + node] : -1;
        token[half] = is_child ? a->tree.token[base + node] : -1;
        pick[half] = is_there ? a->pick[first_out + node] : -1;
    }
    for (int j = 0; j < N_STOPS; j++)
        stop[j] = lane + 32 * j < s->sampling.n_stop_ids ? s->sampling.stop_ids[lane + 32 * j] : -1;
    int node = n_nodes > 0 ? 0 : -1, n_path = 0, n_tokens = 0, finish = FINISH_NONE;
    while (node >= 0) {
        const int32_t picked = __shfl_sync(~0u, node < 32 ? pick[0] : pick[1], node % 32);
        if (lane == 0) walk->path[n_path] = node;
        n_path++;
        if (picked < 0) finish = FINISH_NAN;
        if (picked < 0) break;
        DEVICE_REQUIRE(picked < a->state.vocab);
        if (lane == 0) walk->tokens[n_tokens] = picked;
        n_tokens++;
        bool is_stop = false;
        for (int j = 0; j < N_STOPS; j++) is_stop |= stop[j] == picked;
        if (n_generated + n_tokens >= max_tokens) finish = FINISH_LENGTH;
        if (__ballot_sync(~0u, is_stop) != 0) finish = FINISH_STOP;
        if (finish != FINISH_NONE) break;
        const uint64_t low = __ballot_sync(~0u, parent[0] == node && token[0] == picked);
        const uint64_t high = __ballot_sync(~0u, parent[1] == node && token[1] == picked);
        node = __ffsll((long long)(high << 32 | low)) - 1;
    }
    if (lane == 0) {
        walk->n_path = n_path;
        walk->n_tokens = n_tokens;
        walk->finish = finish;
    }
    __syncwarp();
}

/* The tokens into the seat's counts; a token that the walk met twice is its first lane's. */
__device__ static void count_tokens(const struct round_state *st, int seat,
                                    const struct accept_walk *walk)
{
    for (int j = threadIdx.x % 32; j < walk->n_tokens; j += 32) {
        const int32_t token = walk->tokens[j];
        int n_same = 0;
        bool is_first = true;
        for (int i = 0; i < walk->n_tokens; i++) {
            if (walk->tokens[i] != token) continue;
            n_same++;
            is_first &= i >= j;
        }
        uint16_t *count = &st->counts[(size_t)seat * st->vocab + token];
        if (is_first) *count = (uint16_t)min(*count + n_same, UINT16_MAX);
    }
}

__device__ static void put_logprobs(const struct accept_args *a, struct token_logprobs *to,
                                    int first_out, const struct accept_walk *walk)
{
    const int lane = threadIdx.x % 32;
    for (int j = 0; j < walk->n_tokens; j++, to++) {
        const int i_out = first_out + walk->path[j];
        const struct token_logprobs *from = &a->top[i_out];
        if (lane == 0)
            to->logprob =
                a->logits[(size_t)i_out * a->state.vocab + walk->tokens[j]] - from->logprob;
        if (lane >= MAX_LOGPROBS) continue;
        to->ids[lane] = from->ids[lane];
        to->logprobs[lane] = from->logprobs[lane];
    }
}

/* Writes what the walk found: output, counts, path, and the seat; `len` is its new length. */
__device__ static void put_walk(const struct accept_job *job, int seat, int len,
                                const struct accept_walk *walk)
{
    const struct accept_args *a = &job->a;
    const int lane = threadIdx.x % 32, n_nodes = a->tree.n_nodes[seat];
    const int first_out = job->plan.out[seat], n_tokens = walk->n_tokens;
    const size_t base = (size_t)seat * MAX_NODES;
    struct seat *s = &a->state.seats[seat];
    struct seat_output *to = &job->output.seats[seat];
    for (int j = lane; j < n_tokens; j += 32) to->tokens[j] = walk->tokens[j];
    for (int j = lane; n_nodes > 0 && j < walk->n_path; j += 32)
        a->tree.path[base + j] = walk->path[j];
    count_tokens(&a->state, seat, walk);
    if (s->sampling.n_logprobs >= 0) put_logprobs(a, job->output.logprobs + base, first_out, walk);
    if (lane > 0) return;
    to->n_tokens = n_tokens;
    to->finish = walk->finish;
    to->n_drafted = max(n_nodes - 1, 0);
    a->tree.n_path[seat] = n_nodes > 0 ? walk->n_path : 0;
    s->len = len;
    s->n_generated += n_tokens;
    if (n_tokens > 0) s->root = walk->tokens[n_tokens - 1];
    if (walk->n_path > 0) s->state = walk->finish == FINISH_NONE ? SEAT_DECODE : SEAT_FINISHED;
}

/* Whether prompt row i of a chunk has a row in the draft; slot 0 has none. */
__device__ __forceinline__ bool has_draft_row(const struct chunk *c, const struct prompt_row *row,
                                              int i)
{
    return i < c->n_rows && c->first_slot + i > 0 && row[i].draft_kind != DRAFT_ROW_NONE;
}

/* One seat: the walk and what comes of it, and how many rows and heads it will have. */
__device__ static void accept_seat(const struct accept_job *job, int seat, struct accept_walk *walk)
{
    const struct accept_args *a = &job->a;
    const struct accept_plan *plan = &job->plan;
    const int n_nodes = a->tree.n_nodes[seat], i_chunk = plan->chunk[seat];
    const int first_out = plan->out[seat], n_out = plan->out[seat + 1] - first_out;
    int len = a->state.seats[seat].len, n_rows = 0;
    __syncwarp(); /* all lanes are done with the seat before */
    DEVICE_REQUIRE(n_out == 0 || a->out.seat[first_out] == seat);
    walk_tree(a, seat, first_out, n_out, walk);
    const bool drafts = has_draft(a, seat), goes_on = n_out > 0 && walk->finish == FINISH_NONE;
    if (n_nodes > 0) {
        len = a->tree.old_len[seat] + walk->n_path;
        n_rows = goes_on ? walk->n_path : 0;
    } else if (i_chunk >= 0) {
        const struct chunk c = job->in.chunks[i_chunk];
        const struct prompt_row *prompt = job->in.prompt_rows + c.first_row;
        len = c.first_slot + c.n_rows;
        for (int first = 0; drafts && first < c.n_rows; first += 32)
            n_rows += __popc(
                __ballot_sync(~0u, has_draft_row(&c, prompt, first + (int)(threadIdx.x % 32))));
        n_rows += goes_on;
    }
    put_walk(job, seat, len, walk);
    if (threadIdx.x % 32 > 0) return;
    plan->next[seat] = drafts ? n_rows : 0;
    plan->head[seat] = drafts && goes_on;
}

/* Row r of the next extend pass. */
__device__ __forceinline__ void put_row(const struct draft_rows *next, int r, int seat, int32_t id,
                                        int slot, int kind, int h_row, int g_row)
{
    next->rows.seat[r] = seat;
    next->rows.id[r] = id;
    for (int axis = 0; axis < 3; axis++) next->rows.pos[3 * r + axis] = slot - 1;
    next->rows.slot[r] = slot;
    next->rows.prefix[r] = slot + 1;
    next->rows.mask[r] = 0;
    next->kind[r] = kind;
    next->h_row[r] = h_row;
    next->g_row[r] = g_row;
}

/* Rows of a chunk whose draft rows are wanted; made even if the answer has ended with its first
 * token, since the prompt's pages serve others too. */
__device__ static void put_chunk_rows(const struct accept_job *job, const struct chunk *c, int r,
                                      bool is_head)
{
    const struct draft_rows *next = &job->a.next;
    const struct prompt_row *prompt = job->in.prompt_rows + c->first_row;
    const int lane = threadIdx.x % 32, seat = c->seat, h_first = job->a.tree.first_row[seat];
    for (int first = 0; first < c->n_rows; first += 32) {
        const int i = first + lane;
        const bool is_there = has_draft_row(c, prompt, i);
        const unsigned there = __ballot_sync(~0u, is_there);
        if (is_there)
            put_row(next, r + __popc(there & ((1u << lane) - 1)), seat, prompt[i].draft_id,
                    c->first_slot + i, prompt[i].draft_kind, i == 0 ? ~seat : h_first + i - 1,
                    prompt[i].g_row);
        r += __popc(there);
    }
    if (is_head && lane == 0)
        put_row(next, r, seat, job->a.state.seats[seat].root, c->first_slot + c->n_rows,
                DRAFT_ROW_FUSED, h_first + c->n_rows - 1, c->final_g);
}

/* One seat's rows in `next`, and its head, whose row is the last of them. */
__device__ static void put_seat_rows(const struct accept_job *job, int seat)
{
    const struct accept_args *a = &job->a;
    const struct accept_plan *plan = &job->plan;
    const int lane = threadIdx.x % 32, first = plan->next[seat], end = plan->next[seat + 1];
    const int head = plan->head[seat];
    const bool is_head = plan->head[seat + 1] > head;
    const int32_t *path = a->tree.path + (size_t)seat * MAX_NODES;
    if (first == end) return;
    if (a->tree.n_nodes[seat] > 0) {
        for (int j = lane; j < end - first; j += 32)
            put_row(&a->next, first + j, seat, a->pick[plan->out[seat] + path[j]],
                    a->tree.old_len[seat] + 1 + j, DRAFT_ROW_FUSED,
                    a->tree.first_row[seat] + path[j], seat);
    } else {
        const struct chunk c = job->in.chunks[plan->chunk[seat]];
        put_chunk_rows(job, &c, first, is_head);
    }
    if (lane > 0 || !is_head) return;
    a->beam.seat[head] = seat;
    a->beam.head_row[head] = end - 1;
}

/* Counts out rows; all threads. */
__device__ static void plan_out(const struct accept_job *job)
{
    const struct accept_args *a = &job->a;
    const struct accept_plan *plan = &job->plan;
    const int max_seqs = a->state.max_seqs;
    for (int seat = threadIdx.x; seat < max_seqs; seat += ACCEPT_THREADS) {
        plan->chunk[seat] = -1;
        plan->out[seat] = a->tree.n_nodes[seat];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < job->in.n_chunks; i += ACCEPT_THREADS) {
        const struct chunk *c = &job->in.chunks[i];
        const int seat = c->seat;
        DEVICE_REQUIRE(seat >= 0 && seat < max_seqs && plan->out[seat] == 0);
        plan->chunk[seat] = i;
        plan->out[seat] = c->is_last != 0;
    }
    __syncthreads();
    if (threadIdx.x < 32) warp_offsets(plan->out, max_seqs);
    __syncthreads();
    DEVICE_REQUIRE(plan->out[max_seqs] == *a->out.n && *a->out.n <= a->out.max);
}

static __global__ void __launch_bounds__(ACCEPT_THREADS)
    accept_kernel(const __grid_constant__ struct accept_args a)
{
    const int warp = threadIdx.x / 32, max_seqs = a.state.max_seqs;
    struct accept_walk *walks = (struct accept_walk *)shared_memory();
    int32_t *arrays = (int32_t *)(walks + ACCEPT_WARPS);
    grid_wait();
    const uint32_t round = (uint32_t)*a.state.round, slot = round % ROUND_RING;
    const struct accept_job job = {
        a,
        a.state.inputs[slot],
        a.state.outputs[slot],
        {arrays, arrays + (max_seqs + 1), arrays + 2 * (max_seqs + 1), arrays + 3 * (max_seqs + 1)},
    };
    plan_out(&job);
    for (int seat = warp; seat < max_seqs; seat += ACCEPT_WARPS)
        accept_seat(&job, seat, &walks[warp]);
    __syncthreads();
    if (threadIdx.x == 0) *a.state.round = (int32_t)(round + 1);
    if (a.beam.n_heads == NULL) return;
    if (warp == 0) warp_offsets(job.plan.next, max_seqs);
    if (warp == 1) warp_offsets(job.plan.head, max_seqs);
    __syncthreads();
    DEVICE_REQUIRE(job.plan.next[max_seqs] <= a.next.rows.max);
    for (int seat = warp; seat < max_seqs; seat += ACCEPT_WARPS) put_seat_rows(&job, seat);
    if (threadIdx.x > 0) return;
    *a.next.rows.n = job.plan.next[max_seqs];
    *a.beam.n_heads = job.plan.head[max_seqs];
}

void cuda_accept(struct stream *s, const struct accept_args *a)
{
    const size_t shared_bytes = ACCEPT_WARPS * sizeof(struct accept_walk) +
                                4 * ((size_t)a->state.max_seqs + 1) * sizeof(int32_t);
    launch(s, accept_kernel, 1, ACCEPT_THREADS, shared_bytes, *a);
}
