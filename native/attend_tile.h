/* A tile of attention: some rows of one sequence, one kv head, all its query heads; it reads keys and values once.
 *
 * Two stages with the tile's scores between them: fw_score fills them for a range of blocks, fw_mix makes the outputs
 * of a range of columns. One worker does both for all blocks and columns, or several share a tile (see attend.c).
 */
#ifndef FW_ATTEND_TILE_H
#define FW_ATTEND_TILE_H

#include "attend.h"
#include "fewer.h"

typedef struct {
    const int64_t *seg; /* the segment's row in the table */
    long first, keys;   /* its entries first .. first+keys-1 of this head, counted from the head's start */
    long ordinal;       /* of its first key among all that the rows may read */
    int masked;         /* some row does not see some of the FW_BLOCK lanes */
    const int64_t *picks; /* NULL, or the keys are entries first + picks[0], first + picks[1], .. */
} fw_key_block;

typedef struct {
    const fw_attend_call *call;
    const fw_attend_kernels *kernels;
    int worker, seq, head;
    long row, rows; /* of the sequence's rows, from its first */
    long at;        /* the first one's place in the step */
    long in_flight; /* entries behind the committed ones */
    long group, n;  /* query heads a kv head; queries = rows * group */
    long dp;        /* head size rounded up to 16 */
    int parts;      /* workers that score this tile */
    fw_key_block *blocks;
    long n_blocks;
    float *s;     /* scores (n_blocks, n, FW_BLOCK) */
    float *lanes; /* (parts, n, 16) running maxima */
} fw_tile;

static inline long fw_entries(const fw_tile *t, const int64_t *seg) { /* committed ones */
    return (long)seg[FW_SEG_HEADS + t->call->rows.n_kv_heads + t->head];
}

static inline long fw_entry(const fw_tile *t, const fw_key_block *b, long key) { /* its row in k, v and pos */
    return (long)b->seg[FW_SEG_HEADS + t->head] + b->first + (b->picks ? (long)b->picks[key] : key);
}

static inline long fw_run(const fw_key_block *b, long key, long keys) { /* keys from this one on that lie side by side */
    long n = b->picks ? 1 : keys - key;
    while (key + n < keys && b->picks[key + n] == b->picks[key] + n) n++;
    return n;
}

/* The picked places of the tile's kv head, or NULL; `n`: how many. */
static inline const int64_t *fw_picks(const fw_attend_call *c, long seq, long head, long *n) {
    const int64_t *of = c->picked ? c->picked[seq] : NULL;
    if (!of) return NULL;
    long from = head ? (long)of[head - 1] : 0;
    *n = (long)of[head] - from;
    return of + c->rows.n_kv_heads + from;
}

/* attend_plan.c */
long fw_most_blocks(const fw_tile *t);
void fw_list_blocks(fw_tile *t); /* those some row sees, in key order; in t->worker's scratch */
void fw_mask_of(const fw_tile *t, const fw_key_block *b, uint32_t *mask); /* per row: bit j = it sees key j */

/* attend_tile.c */
void fw_score(const fw_tile *t, int part);                 /* one of t->parts shares of the blocks */
void fw_mix(const fw_tile *t, long from_col, long to_col); /* multiples of 16, up to dp */

#endif
