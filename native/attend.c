/* Exact attention over ragged, segmented KV entries: o = softmax(scale q.k) v for the rows of many sequences.
 *
 * Keys of a (sequence, kv head): the entries of its segments in order; the last segment also holds this step's
 * in-flight entries behind its committed ones. A row sees every committed entry and the in-flight ones that `visible`
 * (or causal order) allows; with a window only those with 0 <= row position - key position < window.
 *
 * A result's bits depend on the row's ordered visible keys alone. Scores are per key; the maximum is exact;
 * probabilities are per key and summed as integers; each output value is one chain of fused multiply-adds in key order,
 * in which a masked key adds exactly 0. So tiles, blocks, segment borders and threads may fall anywhere.
 * A masked key's value must be finite (0 * infinity is not 0). A row that sees no key gives 0 and a log-sum of -inf.
 * A sequence may name the places that its rows read instead (`picked`): they are read where they lie, nothing is gathered.
 *
 * Work is cut into tiles (attend_tile.h). When the last ones are too few for the threads, several workers share each:
 * they score a part of its blocks, and in a second job each mixes a part of the columns, which are independent chains.
 * Entries stored as codes become floats a block at a time, as halves do, and nowhere else.
 * Not here: low-rank entries, sinks, dropout.
 */
#include "attend_tile.h"

#define SCORE_FLOATS (2048 * 1024) /* of one tile, about */
#define MOST_QUERIES 96
#define SHARED_KEYS 256 /* a tile of fewer keys is not worth sharing */

typedef struct {
    fw_tile *tiles;
    long whole;  /* tiles that one worker does */
    long parts;  /* workers a shared tile */
    long slices; /* column ranges a shared tile */
} job;

const fw_attend_kernels *fw_attend_pick(void) {
#if defined(__x86_64__)
    if (fw_isa() == FW_AVX512_VNNI) return &fw_attend_avx512;
    if (fw_isa() == FW_AVX2_FMA) return &fw_attend_avx2;
#endif
    return &fw_attend_plain;
}

static fw_tile tile_of(const job *j, long index, int worker) {
    fw_tile t = j->tiles[index];
    t.worker = worker;
    fw_list_blocks(&t);
    return t;
}

static void do_first(void *ctx, long index, int worker) {
    const job *j = ctx;
    long shared = index - j->whole;
    fw_tile t = tile_of(j, shared < 0 ? index : j->whole + shared / j->parts, worker);
    if (shared >= 0) {
        fw_score(&t, (int)(shared % j->parts));
        return;
    }
    t.lanes = fw_scratch(worker, 3, (size_t)(t.n * (t.n_blocks * FW_BLOCK + 16)) * sizeof(float));
    t.s = t.lanes + t.n * 16;
    fw_score(&t, 0);
    fw_mix(&t, 0, t.dp);
}

static void do_second(void *ctx, long index, int worker) {
    const job *j = ctx;
    fw_tile t = tile_of(j, j->whole + index / j->slices, worker);
    long slice = index % j->slices, vectors = t.dp / 16;
    fw_mix(&t, vectors * slice / j->slices * 16, vectors * (slice + 1) / j->slices * 16);
}

static long longest(const fw_attend_call *c, long seq) {
    const fw_rows *r = &c->rows;
    long most = 0, heads = r->n_kv_heads, width = FW_SEG_HEADS + 2 * heads;
    for (long h = 0; h < heads; h++) {
        long keys = (long)c->staged[seq];
        for (long i = 0; i < r->nseg[seq]; i++) keys += (long)r->tables[seq][i * width + FW_SEG_HEADS + heads + h];
        fw_picks(c, seq, h, &keys);
        most = keys > most ? keys : most;
    }
    return most;
}

static long rows_of(const fw_rows *r, long seq) { return (long)(r->row_start[seq + 1] - r->row_start[seq]); }

/* Rows of one tile of the sequence, so that its scores fit. */
static long tile_rows(const fw_attend_call *c, long seq) {
    long keys = longest(c, seq);
    if (c->window > 0 && keys > c->window + MOST_QUERIES) keys = c->window + MOST_QUERIES;
    long queries = SCORE_FLOATS / (keys + FW_BLOCK);
    long rows = (queries < MOST_QUERIES ? queries : MOST_QUERIES) * c->rows.n_kv_heads / c->n_heads;
    return rows > 1 ? rows : 1;
}

static long cut(const fw_attend_call *c, fw_tile **tiles) {
    const fw_rows *r = &c->rows;
    long n = 0, heads = r->n_kv_heads, group = c->n_heads / heads;
    long *most = fw_scratch(FW_SHARED, 2, (size_t)r->n_seq * sizeof(long)); /* rows a tile */
    for (long s = 0; s < r->n_seq; s++) {
        most[s] = tile_rows(c, s);
        n += (rows_of(r, s) + most[s] - 1) / most[s] * heads;
    }
    fw_tile *t = *tiles = fw_scratch(FW_SHARED, 0, (size_t)n * sizeof(fw_tile));
    for (long s = 0; s < r->n_seq; s++) {
        long m = rows_of(r, s), rows = most[s];
        for (long i = (m + rows - 1) / rows - 1; i >= 0; i--) /* causal: the longest first */
            for (long h = 0; h < heads; h++) {
                long row = i * rows, count = m - row < rows ? m - row : rows;
                *t++ = (fw_tile){.call = c, .kernels = fw_attend_pick(), .seq = (int)s, .head = (int)h, .row = row,
                                 .rows = count, .at = (long)r->row_start[s] + row, .in_flight = (long)c->staged[s],
                                 .group = group, .n = count * group, .dp = (r->d + 15) & ~15L, .parts = 1};
            }
    }
    return n;
}

/* Room in shared memory for the scores and maxima of the shared tiles. */
static void share(job *j, long n) {
    size_t floats = 0;
    for (long i = j->whole; i < n; i++) {
        fw_tile *t = j->tiles + i;
        t->parts = (int)j->parts;
        floats += (size_t)(t->n * (fw_most_blocks(t) * FW_BLOCK + 16 * j->parts));
    }
    float *at = fw_scratch(FW_SHARED, 1, floats * sizeof(float));
    for (long i = j->whole; i < n; i++) {
        fw_tile *t = j->tiles + i;
        t->lanes = at;
        t->s = at + t->n * 16 * j->parts;
        at = t->s + t->n * fw_most_blocks(t) * FW_BLOCK;
    }
}

void fw_attend(const fw_attend_call *c) {
    fw_begin(); /* shared scratch and the thread count stay put */
    job j;
    long n = cut(c, &j.tiles), threads = fw_threads(), odd = n < 4 * threads ? n % threads : 0;
    if (odd > 0 && (threads / odd < 2 || fw_most_blocks(j.tiles + n - 1) * FW_BLOCK < SHARED_KEYS)) odd = 0;
    j.whole = n - odd;
    j.parts = j.slices = odd > 0 ? threads / odd : 1;
    if (j.slices > ((c->rows.d + 15) / 16)) j.slices = (c->rows.d + 15) / 16;
    if (odd > 0) share(&j, n);
    fw_parallel(do_first, &j, j.whole + odd * j.parts);
    fw_parallel(do_second, &j, odd * j.slices);
    fw_end();
}
