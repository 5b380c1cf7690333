/* Which keys a tile's rows see: blocks of FW_BLOCK entries, skipped if no row sees them, masked if some row does not;
 * or, where places were picked, just these.
 *
 * Blocks are cut at multiples of FW_BLOCK from each segment's head start; positions need no order. With a window every
 * position is read, skipped ones too (4 bytes a key): there is no index over positions.
 */
#include "attend_tile.h"

typedef struct { long low, high; } range;

static range range_of(const int32_t *x, long n) {
    int32_t low = x[0], high = x[0];
    for (long i = 1; i < n; i++) low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
    return (range){low, high};
}

static const int32_t *positions(const fw_tile *t, const fw_key_block *b, long key) {
    return (const int32_t *)(intptr_t)b->seg[FW_SEG_POS] + fw_entry(t, b, key);
}

static const uint8_t *matrix(const fw_tile *t) { return t->call->visible ? t->call->visible[t->seq] : NULL; }

/* Does any row see a key of the block? Decides b->masked too. `row_pos` is the range of the rows' positions. */
static int reaches(const fw_tile *t, fw_key_block *b, range row_pos) {
    long window = t->call->window, end = b->first + b->keys - fw_entries(t, b->seg); /* in-flight keys up to its end */
    b->masked = b->keys < FW_BLOCK || (end > 0 && matrix(t)) || end > t->row + 1;
    if (!matrix(t) && end - b->keys >= t->row + t->rows) return 0;
    if (window > 0) {
        range key_pos = range_of(positions(t, b, 0), b->keys);
        if (key_pos.high <= row_pos.low - window || key_pos.low > row_pos.high) return 0;
        if (key_pos.low <= row_pos.high - window || key_pos.high > row_pos.low) b->masked = 1;
    }
    return 1;
}

long fw_most_blocks(const fw_tile *t) {
    const fw_rows *rows = &t->call->rows;
    const int64_t *seg = rows->tables[t->seq];
    long most = t->in_flight / FW_BLOCK + 1, picked;
    if (fw_picks(t->call, t->seq, t->head, &picked)) return picked / FW_BLOCK + (long)rows->nseg[t->seq];
    for (long i = 0; i < rows->nseg[t->seq]; i++, seg += FW_SEG_HEADS + 2 * rows->n_kv_heads)
        most += fw_entries(t, seg) / FW_BLOCK + 1;
    return most;
}

/* Entries of the head in segment i, in-flight ones too. */
static long entries_in(const fw_attend_call *c, long seq, long head, long i) {
    long heads = c->rows.n_kv_heads, last = (long)c->rows.nseg[seq] - 1;
    const int64_t *seg = c->rows.tables[seq] + i * (FW_SEG_HEADS + 2 * heads);
    return (long)seg[FW_SEG_HEADS + heads + head] + (i == last ? (long)c->staged[seq] : 0);
}

int fw_picks_ok(const fw_attend_call *c) {
    for (long s = 0; s < c->rows.n_seq; s++)
        for (long h = 0, n; h < c->rows.n_kv_heads; h++) {
            const int64_t *places = fw_picks(c, s, h, &n);
            if (!places) break;
            long held = 0;
            for (long i = 0; i < c->rows.nseg[s]; i++) held += entries_in(c, s, h, i);
            for (long i = 0; i < n; i++)
                if (places[i] >= held || places[i] <= (i ? places[i - 1] : -1)) return 0;
            if (n < 0) return 0;
        }
    return 1;
}

/* Blocks of picked places: each in one segment. */
static void list_picked(fw_tile *t, const int64_t *places, long n) {
    const int64_t *seg = t->call->rows.tables[t->seq];
    long before = 0, i = 0, held = entries_in(t->call, t->seq, t->head, 0);
    for (long at = 0, keys; at < n; at += keys) {
        for (; places[at] - before >= held; held = entries_in(t->call, t->seq, t->head, ++i)) {
            before += held;
            seg += FW_SEG_HEADS + 2 * t->call->rows.n_kv_heads;
        }
        for (keys = 1; keys < FW_BLOCK && at + keys < n && places[at + keys] - before < held;) keys++;
        int masked = keys < FW_BLOCK || t->call->window > 0;
        t->blocks[t->n_blocks++] = (fw_key_block){seg, -before, keys, at, masked, places + at};
    }
}

void fw_list_blocks(fw_tile *t) {
    const fw_rows *rows = &t->call->rows;
    const int64_t *seg = rows->tables[t->seq];
    long segments = (long)rows->nseg[t->seq], ordinal = 0, picked;
    const int64_t *places = fw_picks(t->call, t->seq, t->head, &picked);
    range row_pos = range_of(rows->pos + t->at, t->rows);
    t->blocks = fw_scratch(t->worker, 0, (size_t)fw_most_blocks(t) * sizeof(fw_key_block));
    t->n_blocks = 0;
    if (places) {
        list_picked(t, places, picked);
        return;
    }
    for (long i = 0; i < segments; i++, seg += FW_SEG_HEADS + 2 * rows->n_kv_heads) {
        long keys = entries_in(t->call, t->seq, t->head, i);
        for (long first = 0; first < keys; first += FW_BLOCK) {
            fw_key_block b = {seg, first, keys - first < FW_BLOCK ? keys - first : FW_BLOCK, ordinal + first, 0, NULL};
            if (reaches(t, &b, row_pos)) t->blocks[t->n_blocks++] = b;
        }
        ordinal += keys;
    }
}

static uint32_t low_bits(long n) { return n <= 0 ? 0 : n >= 32 ? ~0u : (1u << n) - 1; }

void fw_mask_of(const fw_tile *t, const fw_key_block *b, uint32_t *mask) {
    const uint8_t *seen = matrix(t);
    long window = t->call->window, ahead = fw_entries(t, b->seg) - b->first; /* committed keys from the block's start */
    for (long i = 0; i < t->rows; i++) {
        uint32_t bits = low_bits(b->keys);
        if (b->picks) ; /* the row reads what was picked, whatever the order */
        else if (!seen) bits &= low_bits(ahead + t->row + i + 1);
        else
            for (long j = ahead > 0 ? ahead : 0; j < b->keys; j++)
                if (!seen[(t->row + i) * t->in_flight + j - ahead]) bits &= ~(1u << j);
        if (window > 0) {
            int64_t at = t->call->rows.pos[t->at + i];
            for (long j = 0; j < b->keys; j++)
                bits &= ~((uint32_t)((uint64_t)(at - *positions(t, b, j)) >= (uint64_t)window) << j);
        }
        mask[i] = bits;
    }
}
