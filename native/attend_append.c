/* Write this step's keys, values and positions into the tails, behind their committed entries.
 *
 * Row j of sequence s, head h goes to entry start_h + len_h + j of the last segment of s. The lengths stay: the
 * store raises them when it commits. Capacity is the store's business, it cannot be seen from here.
 */
#include "attend.h"
#include "fewer.h"

#include <string.h>

#define TILE_ROWS 64

typedef struct {
    const fw_rows *rows;
    const float *k, *v;
    const fw_attend_kernels *kernels;
    long tiles_a_sequence;
} job;

static void put(const job *j, int64_t to, int64_t dtype, long entry, const float *from) {
    long d = j->rows->d;
    if (dtype == FW_HALVES) j->kernels->narrow(from, d, (uint16_t *)(intptr_t)to + entry * d);
    else memcpy((float *)(intptr_t)to + entry * d, from, (size_t)d * sizeof(float));
}

static void append_rows(void *ctx, long index, int worker) {
    (void)worker;
    const job *j = ctx;
    const fw_rows *r = j->rows;
    long s = index / j->tiles_a_sequence, heads = r->n_kv_heads, first = (long)r->row_start[s];
    long from = index % j->tiles_a_sequence * TILE_ROWS, m = (long)r->row_start[s + 1] - first, to = from + TILE_ROWS;
    const int64_t *seg = r->tables[s] + (r->nseg[s] - 1) * (FW_SEG_HEADS + 2 * heads);
    for (long i = from; i < m && i < to; i++)
        for (long h = 0; h < heads; h++) {
            long entry = (long)(seg[FW_SEG_HEADS + h] + seg[FW_SEG_HEADS + heads + h]) + i;
            long source = ((first + i) * heads + h) * r->d;
            put(j, seg[FW_SEG_K], seg[FW_SEG_DTYPE], entry, j->k + source);
            put(j, seg[FW_SEG_V], seg[FW_SEG_DTYPE], entry, j->v + source);
            ((int32_t *)(intptr_t)seg[FW_SEG_POS])[entry] = r->pos[first + i];
        }
}

void fw_append(const fw_rows *r, const float *k, const float *v) {
    long most = 0;
    for (long s = 0; s < r->n_seq; s++) {
        long m = (long)(r->row_start[s + 1] - r->row_start[s]);
        most = m > most ? m : most;
    }
    job j = {r, k, v, fw_attend_pick(), (most + TILE_ROWS - 1) / TILE_ROWS};
    if (r->n_seq * j.tiles_a_sequence == 1) append_rows(&j, 0, 0);
    else fw_parallel(append_rows, &j, r->n_seq * j.tiles_a_sequence);
}
