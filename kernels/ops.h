/* Every device operation: formula, shapes, types.  One table of function pointers a device.
 *
 * An operation copies its argument struct, queues itself on the stream and returns.  Pointers in
 * the struct are device memory (or shared memory where it says so) and stay valid until it has run.
 * Counts that change from round to round are read from device memory when it runs (`n`), the host
 * gives only capacities (`max`); so one graph serves rounds of all lengths.
 *
 * Types: "act" is the type of activations (cpu: float; cuda: the model's 16-bit type), hidden
 * states included; logits, scores and vectors of the pool are float everywhere. Rows are row-major;
 * `ld` is the distance of two rows in elements.  Nothing behind `n` rows is read or written.  A
 * wrong shape is a bug and ends the process.
 *
 * Row invariance: in all operations on rows, the bits of a result row depend on its own inputs
 * only, never on how many rows stand beside it or where (docs/architecture.md, idea 4).  The
 * operations of the vision tower are exempt: they see one image at a time.  On CUDA attention's
 * bits also depend on the slots where a tree's nodes lie.
 *
 * CUDA takes weights in the type of activations: others are rounded to it.  Rows that start on 16
 * bytes (ldx, width a multiple of 8) are faster there. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "kernels/sequence.h"

#include <stdbool.h>
#include <stddef.h>

struct stream;
struct device;

/* What operations take; whoever opens a model refuses one that has more. */
enum {
    HEAD_STEP = 8,          /* head_dim is a multiple of it, */
    MAX_HEAD_DIM = 128,     /* at most this */
    MAX_HEAD_GROUP = 64,    /* query heads that share a kv head */
    MAX_WIDTH = 16384,      /* of a norm */
    MAX_VOCAB = 1 << 20,    /* ids */
    MAX_N_OUT = 1 << 20,    /* rows of a packed matrix */
    MAX_POOLED = 40 * 1000, /* tokens of an image for pool_attention */
    MAX_GEMM_ROWS = 1280,
    MAX_TOPK_BESTS = 20 << 20, /* max * k * ceil(vocab / TOPK_TILE) of topk */
    TOPK_TILE = 128,
    MAX_SEQ_PAGES = 8000, /* of a sequence: 512000 tokens */
};

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
size_t dtype_size(enum dtype t);

/* A weight matrix [n_out][n_in] in the device's own order, made once at load from host memory (pack
 * returns when `w` is no longer needed).  The values are the checkpoint's, exactly: 16-bit weights
 * stay 16-bit and are widened where they are used.  packed_free accepts NULL.
 *
 * With pair > 0, outputs i and i + pair of each run of 2 pair are a pair, for an operation that
 * computes with both; n_out is a multiple of 2 pair. */
struct packed;

enum activation {
    ACT_NONE,
    ACT_GELU,
    ACT_QUICK_GELU
}; /* gelu by erf; quick: x * sigmoid(1.702 x) */

/* y = x W^T + bias (+ y if `add`): y [n][n_out], x [n][n_in]. */
struct gemm_args {
    const struct packed *w; /* without pairs */
    const float *bias;      /* [n_out] or NULL */
    const void *x;          /* act */
    void *y;                /* act, or float if y_is_float; does not overlap x */
    const int32_t *n;       /* NULL: exactly max rows */
    int32_t max;            /* <= MAX_GEMM_ROWS */
    int32_t ldx, ldy;
    bool add, y_is_float;
};

/* y = silu(x G^T) * (x U^T), where silu(x) = x / (1 + e^-x): y [n][n_out / 2], x [n][n_in]. */
struct swiglu_args {
    const struct packed *w; /* [G; U], with pair = n_out / 2 */
    const void *x;          /* act */
    void *y;                /* act; does not overlap x */
    const int32_t *n;       /* NULL: exactly max rows */
    int32_t max, ldx, ldy;
};

/* gemm for the vision tower, by the device's library; w is plain [n_out][n_in] act, bias
 * [n_out] act or NULL.  Bits may depend on n.  `add` goes with ACT_NONE only; an activation may see
 * the sum as act holds it. */
struct matmul_args {
    const void *w, *x, *bias;
    void *y;
    int32_t n, n_out, n_in, ldx, ldy;
    enum activation activation;
    bool add;
};

/* out[r] = embedding of rows.id[r]: a row of the table, or of the vector pool for id < 0. */
struct embed_args {
    const void *table; /* [vocab][width] of table_type, as in the checkpoint */
    enum dtype table_type;
    const float *pool; /* [.][width] */
    const int32_t *id; /* [max] */
    const int32_t *n;  /* NULL: exactly max rows */
    void *out;         /* act [n][ld] */
    int32_t max, width, ld;
};

/* RMSNorm: w x / sqrt(mean(x^2) + eps).  LayerNorm: w (x - mean) / sqrt(var + eps) + bias. */
struct norm_args {
    const void *x;         /* act [n][width] */
    const float *w, *bias; /* [width]; bias is for layernorm */
    void *out;             /* act; may be x */
    const int32_t *n;      /* NULL: exactly max rows */
    int32_t max, width;
    float eps;
};

/* Rotary embedding by halves (x[i], x[i + head_dim/2]) (Llama, Qwen2; "NeoX style").  table[p][i]
 * is cos, sin of p * theta^(-2i/head_dim) in float.  Pair i takes its position from axis 0 for i <
 * section[0], axis 1 for the next section[1], axis 2 for the rest (M-RoPE, Qwen2.5-VL); section[0]
 * = head_dim/2 is 1-D RoPE. */
struct rope {
    const float *table; /* [n_pos][head_dim/2][2] */
    int32_t n_pos;
    int32_t section[3];
};

/* q, k, v = x W^T + bias; q and k are rotated, k and v go to the rows' slots of layer `layer`. */
struct qkv_args {
    const struct packed *w; /* [(n_heads + 2 n_kv_heads) head_dim][n_in]: q heads, k heads, v heads,
                               with pair = head_dim / 2 */
    const float *bias;      /* of w's outputs, or NULL */
    const void *x;          /* act [n][n_in] */
    void *q;                /* act [n][n_heads head_dim] */
    struct rope rope;
    struct rows rows;
    struct kv_pool pool;
    int32_t layer, n_heads;
};

/* How attention shares its work, found once for all layers: queued when rows are written, before
 * the first attention over them; holds on this stream until the next. */
struct plan_args {
    struct rows rows;
    int32_t n_heads, n_kv_heads;
};

/* out[r] = softmax(q K^T / sqrt(head_dim)) V over the slots that row r sees (sequence.h).  Query
 * head h reads kv head h / (n_heads / n_kv_heads).  Slots are added in increasing order.  A slot
 * whose bit in pool.valid is clear is skipped if it lies below prefix (draft only). */
struct attention_args {
    const void *q; /* act [n][n_heads head_dim], rotated */
    void *out;     /* act [n][n_heads head_dim] */
    struct rows rows;
    struct kv_pool pool;
    int32_t layer, n_heads;
};

/* The draft's attention: rotation in place, append, and attention over valid slots, in one
 * operation (n_heads = n_kv_heads, one layer, rotary position = rows.pos axis 0).  All appends come
 * before all reads; rows of one sequence lie beside each other.  If is_scratch, the rows' slots do
 * not become valid; else their bits are set. */
struct draft_attention_args {
    void *qkv; /* act [n][3 n_heads head_dim]: q heads, k heads, v heads */
    void *out; /* act [n][n_heads head_dim] */
    struct rope rope;
    struct rows rows;
    struct kv_pool pool;
    bool is_scratch;
};

/* Rotates q and k of the vision tower's rows in place.  Here the pairs of each axis have
 * frequencies of their own (the table's maker sees to that). */
struct vision_rope_args {
    void *qkv;          /* act [n][3 n_heads head_dim] */
    const int32_t *pos; /* [n][3] */
    struct rope rope;
    int32_t n, n_heads, head_dim;
};

/* Bidirectional attention of the vision tower inside each of n_segments runs of rows
 * first[i] .. first[i+1]-1 (windows; one run is full attention). */
struct vision_attention_args {
    const void *qkv;      /* act [n][3 n_heads head_dim] */
    void *out;            /* act [n][n_heads head_dim] */
    const int32_t *first; /* [n_segments + 1] */
    int32_t n, n_segments, n_heads, head_dim;
};

/* out = silu(gate) * up: in [n][2 width], gate first; out [n][width].  The tower's swiglu. */
struct silu_mul_args {
    const void *in; /* act */
    void *out;      /* act */
    int32_t n, width;
};

/* Patches of a picture for a patch embedding that is a matmul: out[y * w/p + x] = the patch's
 * pixels in the order channel, y, x (the order of a Conv2d weight [out][3][p][p]). */
struct patches_args {
    const float *pixels; /* [3][height][width] */
    void *out;           /* act [(height/p)(width/p)][3 p p] */
    int32_t height, width, patch;
};

/* out[0] = cls + pos[0]; out[1 + i] = patches[i] + pos[1 + i] (CLIP's input; no class row if cls is
 * NULL, then out[i] = patches[i] + pos[i]). */
struct add_positions_args {
    const void *patches; /* act [n][width] */
    const float *cls, *pos;
    void *out; /* act [n + 1][width] */
    int32_t n, width;
};

/* The adaptor's cross-attention (ViSpec): learned queries over all tokens of one image,
 * out[q] = concat over heads of softmax(query[q,h] K_h^T / sqrt(head_dim)) V_h.  No mask, no
 * positions. */
struct pool_attention_args {
    const float *query; /* [n_query][n_heads][head_dim] */
    const void *k, *v;  /* act [n][n_heads head_dim] */
    void *out;          /* act [n_query][n_heads head_dim] */
    int32_t n, n_query, n_heads, head_dim;
};

/* act rows to float rows of the vector pool: dst[i] = src[i]. */
struct to_float_args {
    const void *src;
    float *dst;
    int32_t n, width;
};

/* out[i] = in[row[i]], act rows [.][width]. */
struct gather_rows_args {
    const void *in;
    void *out;
    const int32_t *row, *n;
    int32_t max, width;
};

/* ---- the round ----------------------------------------------------------------------------------
 */

/* State that all operations of a round share; a struct of device pointers, owned by the round. */
struct round_state {
    int32_t *round; /* [1] rounds begun; slot of both rings is round % ROUND_RING */
    const struct round_input *inputs; /* shared memory [ROUND_RING] */
    struct round_output *outputs;     /* shared memory [ROUND_RING] */
    struct seat *seats;               /* [max_seqs] */
    uint16_t *counts;                 /* [max_seqs][vocab] answer tokens, saturating at 65535 */
    uint32_t *in_prompt; /* [max_seqs][(vocab + 31) / 32] bit set: id is in the prompt */
    float *pool;         /* vector pool [.][width]; row s < max_seqs is seat s's g, row
                            max_seqs is zero, the rest belongs to images */
    void *carried_h;     /* act [max_seqs][width] h of the last computed prompt row */
    int32_t max_seqs, vocab, width;
};

/* First operation of a round: leaves (seat becomes FREE), joins (seat becomes PREFILL, its counts,
 * prompt bits and g are cleared), page entries (target and draft tables; a draft page's valid
 * becomes 0), and marks the tokens of the round's prompt rows in in_prompt.  draft.table may be
 * NULL. */
struct apply_args {
    struct round_state state;
    struct kv_pool target, draft;
};

/* What the draft's layer is made of, for the rows in `in` (runtime/draft/vispec_impl.h):
 *   x[r] = table[id] + pool[g_row]      the terms of embedding and g; for id < 0 pool[~id] stands
 *                                       for table[id]
 *   h[r] = hidden[h_row], or carried_h[~h_row]
 * DIRECT rows: x is the vector pool[~id] itself, h is zero. */
struct draft_input_args {
    struct round_state state;
    struct draft_rows in;
    const void *hidden; /* act [.][width] */
    const void *table;  /* act [vocab][width] */
    void *x, *h;        /* act [n][width]; neither overlaps hidden */
};

/* For each prompt chunk of the *previous* round: carried_h = hidden of its last row; if it was the
 * last chunk, pool[seat] = pool[final_g].  Queued behind the extend pass's draft_input, whose rows
 * still read the old values, and before the verify pass overwrites hidden and this round's outputs.
 */
struct carry_args {
    struct round_state state;
    struct tree tree;   /* first_row of the previous round */
    const void *hidden; /* act [.][width] */
};

/* ids[r], logprobs[r] = the k largest of log_softmax(x[r] W^T), decreasing; ties to the lowest id.
 * The normaliser is the sum over the whole row; the logits themselves are float and kept nowhere.
 * k <= vocab, and see MAX_TOPK_BESTS.  NaN ranks as -inf; where there is no log_softmax (a NaN, or
 * an infinite maximum) all logprobs of the row are -inf. */
struct topk_args {
    const struct packed *w; /* [vocab][.] */
    const void *x;          /* act [n][ldx] */
    int32_t *ids;           /* [n][k] */
    float *logprobs;        /* [n][k] */
    const int32_t *n;
    int32_t max, ldx, vocab, k;
    const int32_t *ids_of; /* [vocab] the token of each column, increasing; NULL: its number */
};

/* Grows the trees by one level (EAGLE-2; methods.md 1.4).  level 0 takes the k children of each
 * head (top-k row i of head i); level l >= 1 the children of the k beam rows of expansion l-1
 * (top-k row i * k + b).  Stores candidates; then, if level < depth, the k best of the new ones
 * (ties by candidate index) become the next beam: rows in `next`, in the order of heads, rank by
 * rank, with id = token, slot = len + 1 + level * k + rank, pos = len + level, prefix = len + 1
 * (committed slots, the root's included), mask = parent's | own scratch bit, h_row = top-k row of
 * the parent, g_row = seat. Scores are cumulative, score(child) = score(parent) + logprob; NaN
 * becomes -inf.  A head whose seat has left keeps its rows (they are counted by head) and is
 * dropped by select. */
struct expand_args {
    struct round_state state;
    struct beam beam;
    struct draft_rows next;
    const int32_t *ids;    /* [n][k] */
    const float *logprobs; /* [n][k] */
    int32_t level;
};

/* Makes this round's verify rows.  Drafting seats keep the n_nodes - 1 best candidates (ties by
 * index; sorted by index, so parents come first), plain decoding seats their root.  If roots,
 * candidates and prompt rows are more than rows.max, the worst candidates of all seats go first.
 * Then each seat in order gets its rows: tree node j has id = token, slot = len + j, pos = len +
 * depth + rope_delta, prefix = len, mask = ancestors and itself; prompt row i of a chunk has slot =
 * first_slot + i, prefix = slot + 1, mask = 0.  `out` lists the rows whose logits are wanted.  A
 * seat with a chunk has n_nodes = 0 and, so that a picked token's position is old_len + depth[node]
 * + 1 everywhere, old_len = slot of the chunk's last row, depth[0] = 0, mask[0] = 1. */
struct select_args {
    struct round_state state;
    struct beam beam;
    struct tree tree;
    struct rows rows;
    struct out_rows out;
    int32_t n_nodes;
};

/* lm_head of the verify rows: what pick needs of each, and logits[i] = x[i] W^T in float where the
 * row's seat asks for more than that (asked.h); anything in the other rows of logits.  Between head
 * and pick, over the same rows, stand logprobs and filter only. */
struct head_args {
    struct round_state state;
    struct out_rows out;
    struct tree tree;
    const struct packed *w; /* [vocab][.] */
    const void *x;          /* act [n][ldx] */
    float *logits;          /* [max][vocab] */
    int32_t ldx;
};

/* The model's own log-probabilities for rows whose seat wants them (n_logprobs >= 0): the best
 * n_logprobs, and the row's log-normaliser. */
struct logprobs_args {
    struct round_state state;
    struct out_rows out;
    const float *logits;        /* [n][vocab] */
    struct token_logprobs *top; /* [max]; .logprob holds log sum exp of the row */
};

/* Penalties, bans and filters, for rows whose seat asks for any: scores[i] = logits[i] changed as
 *   repetition  l > 0 ? l / r : l * r   for ids in prompt or answer (CTRL; transformers' rule)
 *   then        l - frequency * count - presence * (count > 0)   over the answer (OpenAI)
 *   then        -inf for stop_ids while the answer has < min_tokens tokens (vLLM's rule: at least
 *               min_tokens tokens stand before the end token).
 * At a tree node the answer is the seat's plus the tokens on the node's path behind the root.
 * Then, with temperature > 0: divide by it; top-k; top-p on the rest, keeping the token that
 * crosses; min-p relative to the best.  Dropped tokens are -inf; ties are kept by lowest id.  Other
 * rows than those that ask for penalties, bans or filters (asked.h) get no scores. */
struct filter_args {
    struct round_state state;
    struct out_rows out;
    struct tree tree;
    const float *logits; /* [n][vocab] */
    float *scores;       /* [max][vocab] */
};

/* pick[i] = argmax of the row's scores (of logits, or of logits / temperature > 0, where it has
 * none), ties to the lowest id; with temperature > 0 of score + Gumbel noise (Philox4x32-10: key =
 * seed, counter = (id / 4, position, choice, 0), word id % 4; u = (r + 0.5) 2^-32, E = -log1p(-u),
 * noise = -log E).  position is the picked token's own.  Tokens whose score is -inf are never
 * picked.  -1 if a logit of the row is NaN, or all scores are -inf. */
struct pick_args {
    struct round_state state;
    struct out_rows out;
    struct tree tree;
    const float *logits, *scores;
    int32_t *pick; /* [max] */
};

/* Walks each tree from the root while a child carries the pick, and ends a walk at a stop id or at
 * max_tokens.  Writes the round's output for the host, the path for compact, the new seat (root,
 * len, n_generated, state), counts, and into `next` the rows of the next extend pass: accepted
 * tokens and the new root (slot p, pos p - 1, prefix p + 1, mask 0), or a chunk's rows, and the new
 * root behind a last chunk; beam.n_heads, seat and head_row name the rows that start trees.  Seats
 * without use_draft get no rows, seats that finish no root row.  In decode g_row = seat.
 * beam.n_heads is NULL where there is no draft at all (here and in select): then `next` is not
 * touched.  Last but compact: increments *round. */
struct accept_args {
    struct round_state state;
    struct tree tree;
    struct rows rows;
    struct out_rows out;
    const int32_t *pick;
    const struct token_logprobs *top; /* [max] from logprobs */
    const float *logits;
    struct draft_rows next;
    struct beam beam;
};

/* Moves keys and values of the accepted nodes to the slots behind old_len, in place, in order (a
 * node's index is never below its place in the path, so nothing is overwritten before it is read).
 */
struct compact_args {
    struct tree tree;
    struct kv_pool pool;
    int32_t max_seqs;
};

/* Writes the device's clock to stamps[index] of the round's output; of the round before *round if
 * the stamp stands behind accept. */
struct stamp_args {
    struct round_state state;
    int32_t index;
    bool is_after_accept;
};

struct ops {
    enum dtype act; /* type of activations */
    /* Rows that a pass over a model with such heads can have: `max` of plan and attention; at most
     * MAX_GEMM_ROWS. */
    int (*max_rows)(int n_heads, int n_kv_heads);
    struct packed *(*pack)(struct device *, const void *w, enum dtype t, int n_out, int n_in,
                           int pair);
    void (*packed_free)(struct device *, struct packed *); /* accepts NULL */
    void (*gemm)(struct stream *, const struct gemm_args *);
    void (*swiglu)(struct stream *, const struct swiglu_args *);
    void (*qkv)(struct stream *, const struct qkv_args *);
    void (*matmul)(struct stream *, const struct matmul_args *);
    void (*embed)(struct stream *, const struct embed_args *);
    void (*rmsnorm)(struct stream *, const struct norm_args *);
    void (*layernorm)(struct stream *, const struct norm_args *);
    void (*plan)(struct stream *, const struct plan_args *);
    void (*attention)(struct stream *, const struct attention_args *);
    void (*draft_attention)(struct stream *, const struct draft_attention_args *);
    void (*vision_rope)(struct stream *, const struct vision_rope_args *);
    void (*vision_attention)(struct stream *, const struct vision_attention_args *);
    void (*silu_mul)(struct stream *, const struct silu_mul_args *);
    void (*patches)(struct stream *, const struct patches_args *);
    void (*add_positions)(struct stream *, const struct add_positions_args *);
    void (*pool_attention)(struct stream *, const struct pool_attention_args *);
    void (*to_float)(struct stream *, const struct to_float_args *);
    void (*gather_rows)(struct stream *, const struct gather_rows_args *);
    void (*apply)(struct stream *, const struct apply_args *);
    void (*draft_input)(struct stream *, const struct draft_input_args *);
    void (*carry)(struct stream *, const struct carry_args *);
    void (*topk)(struct stream *, const struct topk_args *);
    void (*expand)(struct stream *, const struct expand_args *);
    void (*select)(struct stream *, const struct select_args *);
    void (*head)(struct stream *, const struct head_args *);
    void (*logprobs)(struct stream *, const struct logprobs_args *);
    void (*filter)(struct stream *, const struct filter_args *);
    void (*pick)(struct stream *, const struct pick_args *);
    void (*accept)(struct stream *, const struct accept_args *);
    void (*compact)(struct stream *, const struct compact_args *);
    void (*stamp)(struct stream *, const struct stamp_args *);
};

#endif
