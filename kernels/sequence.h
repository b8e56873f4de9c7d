/* What the host and the device say to each other about sequences, and what a round's operations
 * pass from one to the next: plain structs of fixed layout, the same on every device.
 *
 * A *sequence* is one answer in the making; it sits in one of max_seqs seats.  Its tokens have
 * positions 0, 1, 2, ...; the target's key and value of the token at position p lie in slot p.
 *
 *      slots  0 ........... len-1 | len ........ len+n_nodes-1
 *             committed           | the tree of this round: node j in slot len + j
 *
 * `root` is the last token picked.  It is not in the cache yet: it is node 0 of the next tree.
 *
 * The draft lives on the same slots, shifted by one: draft slot p holds the row that *embeds* token
 * p together with the target's hidden state of token p-1, at rotary position p-1; slot 0 is empty.
 * After an extend the draft's slots 1..len are filled (len is the root's), the beam rows of the
 * tree lie in scratch slots len+1.. and are forgotten with the round. */
#ifndef KERNELS_SEQUENCE_H
#define KERNELS_SEQUENCE_H

#include <stdint.h>

enum {
    PAGE_LEN = 64,     /* slots of a page; one bit each in a page's validity mask */
    MAX_NODES = 64,    /* nodes of a tree, the root included: one bit each in a row's mask */
    MAX_TOP_K = 32,    /* children of a node that the draft proposes, at most */
    MAX_STOP_IDS = 72, /* the model's end tokens and a request's stop_token_ids */
    MAX_LOGPROBS = 20, /* alternatives a token of an answer can carry (OpenAI's limit) */
    ROUND_RING = 4,    /* rounds whose input and output the host keeps; in flight are at most 2 */
};

/* A request's parameters; what the host has checked, the device trusts. */
struct sampling {
    uint64_t seed;
    uint32_t choice;          /* index among the answers of one request */
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1: off; counts prompt and answer */
    float frequency_penalty;  /* 0: off; counts the answer */
    float presence_penalty;   /* 0: off */
    int32_t min_tokens;       /* stop_ids are banned before that many tokens */
    int32_t max_tokens;       /* >= 1 */
    int32_t n_logprobs;       /* -1: none wanted; else 0..MAX_LOGPROBS alternatives a token */
    int32_t use_draft;        /* 0: plain decoding, no draft rows are kept */
    int32_t n_stop_ids;
    int32_t stop_ids[MAX_STOP_IDS]; /* picking one ends the answer; it is the last token of it */
};

enum seat_state { SEAT_FREE, SEAT_PREFILL, SEAT_DECODE, SEAT_FINISHED };

enum finish {
    FINISH_NONE,
    FINISH_STOP,   /* picked one of stop_ids */
    FINISH_LENGTH, /* max_tokens reached */
    FINISH_NAN,    /* a logit of this sequence was not a number */
};

/* The device's record of a seat. */
struct seat {
    int32_t state;       /* enum seat_state */
    int32_t len;         /* committed slots */
    int32_t n_generated; /* tokens picked so far, the root included */
    int32_t root;
    int32_t rope_delta; /* rotary position = token position + rope_delta (M-RoPE), else 0 */
    struct sampling sampling;
};

/* ---- what the host tells a round ------------------------------------------------------------ */

struct join {
    int32_t seat;
    int32_t rope_delta;
    struct sampling sampling;
};

/* Entry `index` of a seat's page table becomes `page`, -1 for none.  A draft page starts with no
 * valid slot. */
struct page_entry {
    int32_t seat, index, page;
    int32_t is_draft;
};

/* The next n_rows tokens of a prompt, rows first_row.. of the round's prompt rows. */
struct chunk {
    int32_t seat, first_row, n_rows;
    int32_t first_slot; /* position of the first of them */
    int32_t is_last;    /* the answer's first token is picked from the last row */
    int32_t final_g;    /* vector pool row of the g that holds behind the prompt; used if is_last */
};

/* How the draft takes a prompt token. */
enum draft_row {
    DRAFT_ROW_NONE,   /* no row: its slot stays empty */
    DRAFT_ROW_FUSED,  /* fc([embedding ; img_fc([hidden ; g])]), the rule for text */
    DRAFT_ROW_DIRECT, /* a compressed image token: the vector itself is the draft layer's input */
};

/* A token of a prompt.  Embeddings: id >= 0 is a token, id < 0 is row ~id of the vector pool. */
struct prompt_row {
    int32_t id;         /* target's input */
    int32_t token;      /* what penalties count: the id, of an image token its placeholder's */
    int32_t pos[3];     /* rotary position; three axes (temporal, height, width), equal on text */
    int32_t draft_kind; /* enum draft_row */
    int32_t draft_id;   /* draft's input */
    int32_t g_row;      /* vector pool row of the g in force */
};

/* One element of the input ring, in memory that the device reads.  A round applies leaves, then
 * joins, then page entries.  A seat that leaves in one round is joined again in a later one.  The
 * arrays have the capacities given to ops->apply. */
struct round_input {
    int32_t n_leaves, n_joins, n_pages, n_chunks, n_prompt_rows;
    int32_t *leaves; /* seats */
    struct join *joins;
    struct page_entry *pages;
    struct chunk *chunks; /* at most one a seat, in increasing order of seat */
    struct prompt_row *prompt_rows;
};

/* ---- what a round tells the host ---------------------------------------------------------------
 */

struct token_logprobs {
    float logprob; /* of the token itself, from the model's own logits */
    int32_t ids[MAX_LOGPROBS];
    float logprobs[MAX_LOGPROBS];
};

/* What a round did for a seat.  n_tokens is 0 where the seat took no part or its prompt goes on. */
struct seat_output {
    int32_t n_tokens;  /* accepted + 1 */
    int32_t finish;    /* enum finish, of the last token */
    int32_t n_drafted; /* nodes verified behind the root */
    int32_t tokens[MAX_NODES];
};

enum { N_STAMPS = 4 }; /* a round begins, begins to verify, begins to sample, has ended */

struct round_output {
    uint64_t stamps[N_STAMPS];       /* the device's clock in nanoseconds */
    struct seat_output *seats;       /* [max_seqs] */
    struct token_logprobs *logprobs; /* [max_seqs][MAX_NODES]; written where n_logprobs >= 0 */
};

/* ---- rows
 * ----------------------------------------------------------------------------------------
 *
 * Everything that runs through a model in a step is rows: a prompt chunk is a chain of rows, a
 * decode step is one, a tree is up to 64.  Row r attends to slots [0, prefix) of its own sequence
 * and to slot prefix + j for each bit j of mask.  All arrays are in device memory, owned by the
 * round. */
struct rows {
    int32_t *n;      /* [1] rows in use */
    int32_t max;     /* capacity of the arrays below */
    int32_t *seat;   /* [max] */
    int32_t *id;     /* [max] token, or ~row of the vector pool */
    int32_t *pos;    /* [max][3] rotary positions; an operation with 1-D RoPE reads the first */
    int32_t *slot;   /* [max] where key and value go */
    int32_t *prefix; /* [max] */
    uint64_t *mask;  /* [max] */
};

/* Draft rows carry more: where the hidden state and g come from. */
struct draft_rows {
    struct rows rows;
    int32_t *kind;  /* [max] enum draft_row, FUSED or DIRECT */
    int32_t *h_row; /* [max] row of the hidden states given beside; ~seat: that seat's carried h */
    int32_t *g_row; /* [max] vector pool row */
};

/* Pages of one pool, target's or draft's.  A page holds PAGE_LEN slots of all layers. */
struct kv_pool {
    void *k, *v;     /* [n_layers][n_pages][n_kv_heads][PAGE_LEN][head_dim], activations' type */
    int32_t *table;  /* [max_seqs][max_pages] page of each index, -1 where there is none */
    uint64_t *valid; /* [n_pages] slots that hold a row; draft pool only, else NULL */
    int32_t n_layers, n_pages, n_kv_heads, head_dim, max_pages;
};

/* The trees of a round, one a seat. */
struct tree {
    int32_t *n_nodes;   /* [max_seqs] 0: no rows in this round's verify pass */
    int32_t *first_row; /* [max_seqs] verify row of node 0, or of a chunk's first row */
    int32_t *token;     /* [max_seqs][MAX_NODES] */
    int32_t *parent;    /* [max_seqs][MAX_NODES] index of the parent, -1 for the root */
    int32_t *depth;     /* [max_seqs][MAX_NODES] */
    uint64_t *mask;     /* [max_seqs][MAX_NODES] ancestors and itself */
    int32_t *path;      /* [max_seqs][MAX_NODES] accepted nodes in order, the root first */
    int32_t *n_path;    /* [max_seqs] 0 where nothing is to be compacted */
    int32_t *old_len;   /* [max_seqs] slot of node 0 */
};

/* Rows of the verify pass whose logits are wanted: all tree nodes, and a prompt's last row. */
struct out_rows {
    int32_t *n; /* [1] */
    int32_t max;
    int32_t *row;  /* [max] verify row */
    int32_t *seat; /* [max] */
    int32_t *node; /* [max] tree node, 0 for a prompt's last row */
};

/* The draft's candidates while a tree grows.  C = k + depth * k * k candidates a seat: first the
 * root's k children, then k * k for each expansion (beam rank * k + rank of the child).  All arrays
 * are indexed by head, not by seat. */
struct beam {
    int32_t k, depth;  /* depth * k <= 64: one scratch slot and one mask bit a beam row */
    int32_t *n_heads;  /* [1] sequences that draft in this round */
    int32_t *seat;     /* [max_seqs] seat of each head, increasing */
    int32_t *head_row; /* [max_seqs] row of the extend pass whose output starts the tree */
    int32_t *token;    /* [max_seqs][C] */
    float *score;      /* [max_seqs][C] cumulative log-probability from the root */
    int32_t *node;     /* [max_seqs][depth][k] candidate that beam row (i, b) feeds */
    uint64_t *mask;    /* [max_seqs][k] scratch bits of the current beam rows, own bit included */
};

#endif
