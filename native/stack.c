/* See stack.h. */
#include "stack.h"

#include "ranking.h"

static void enter(const fw_stack *s, long layer, long n, const float *x, fw_rows rows, const float *const *cos,
                  const float *const *sin, float *q, float *k, float *v) {
    rows.tables += layer * rows.n_seq, rows.nseg += layer * rows.n_seq;
    fw_block_qkv(s->blocks[layer], x, n, cos[layer], sin[layer], q, k, v);
    fw_append(&rows, k, v);
}

static void leave(const fw_stack *s, long layer, long n, const float *o, float *x) {
    fw_block_out(s->blocks[layer], o, x, n);
    fw_block_mlp(s->blocks[layer], x, n);
}

int fw_layers(const fw_stack *s, long from, long to, float *x, fw_rows rows, const float *const *cos, const float *const *sin,
              const uint8_t *const *visible, const int64_t *staged, fw_reads reads) {
    const long T = (long)rows.row_start[rows.n_seq], q_size = T * s->n_heads * rows.d, k_size = T * s->n_kv_heads * rows.d;
    int ok = 1;
    fw_begin();
    float *q = fw_scratch(FW_SHARED, FW_SLOT_QKV, (size_t)(2 * q_size + 2 * k_size) * sizeof(float));
    float *o = q + q_size, *k = o + q_size, *v = k + k_size;
    for (long l = from; l < to; l++) {
        enter(s, l, T, x, rows, cos, sin, q, k, v);
        fw_attend_call call = {.rows = rows, .q = q, .o = o, .staged = staged, .visible = visible,
                               .n_heads = s->n_heads, .window = (long)s->windows[l], .scale = s->scale,
                               .softcap = s->softcap};
        call.rows.tables += l * rows.n_seq, call.rows.nseg += l * rows.n_seq;
        if (reads.picked) {
            const int64_t *rank = reads.rank_from + (l - from);
            fw_rank(fw_rank_at(reads.heads, (long)rank[0]), (long)(rank[1] - rank[0]), q);
            call.picked = reads.picked + (l - from) * rows.n_seq;
            ok = fw_picks_ok(&call);
            if (!ok) break;
        }
        fw_attend(&call);
        leave(s, l, T, o, x);
    }
    fw_end();
    return ok;
}

void fw_between(const fw_stack *s, long from, long to, float *x, const float *o, fw_rows rows, const float *const *cos,
                const float *const *sin, float *q) {
    const long T = (long)rows.row_start[rows.n_seq], k_size = T * s->n_kv_heads * rows.d;
    fw_begin();
    if (from >= 0) leave(s, from, T, o, x);
    if (to >= 0) {
        float *k = fw_scratch(FW_SHARED, FW_SLOT_QKV, (size_t)(2 * k_size) * sizeof(float));
        enter(s, to, T, x, rows, cos, sin, q, k, k + k_size);
    }
    fw_end();
}
