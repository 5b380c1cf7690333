/* See stack.h. */
#include "stack.h"

void fw_layers(const fw_stack *s, long n, float *x, fw_rows rows, const float *const *cos, const float *const *sin,
               const uint8_t *const *visible, const int64_t *staged) {
    const long T = (long)rows.row_start[rows.n_seq], q_size = T * s->n_heads * rows.d, k_size = T * s->n_kv_heads * rows.d;
    fw_begin();
    float *q = fw_scratch(FW_SHARED, FW_SLOT_QKV, (size_t)(2 * q_size + 2 * k_size) * sizeof(float));
    float *o = q + q_size, *k = o + q_size, *v = k + k_size;
    for (long l = 0; l < n; l++, rows.tables += rows.n_seq, rows.nseg += rows.n_seq) {
        const fw_attend_call call = {.rows = rows, .q = q, .o = o, .staged = staged, .visible = visible,
                                     .n_heads = s->n_heads, .window = (long)s->windows[l], .scale = s->scale,
                                     .softcap = s->softcap};
        fw_block_qkv(s->blocks[l], x, T, cos[l], sin[l], q, k, v);
        fw_append(&rows, k, v);
        fw_attend(&call);
        fw_block_out(s->blocks[l], o, x, T);
        fw_block_mlp(s->blocks[l], x, T);
    }
    fw_end();
}
