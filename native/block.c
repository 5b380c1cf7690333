/* See block.h. Long inputs go through the MLP 256 rows at a time, so scratch stays bounded. */
#include "block.h"

#define MLP_ROWS 256
#define SERIAL_VALUES 4096 /* below this many values a pass over rows is not worth waking workers */

static void for_rows(fw_task fn, void *ctx, long rows, long width) {
    if (rows * width > SERIAL_VALUES)
        fw_parallel(fn, ctx, rows);
    else
        for (long row = 0; row < rows; row++) fn(ctx, row, 0);
}

typedef struct {
    const float *norm, *cos, *sin;
    float *x, eps;
    long heads, d;
} heads_job;

/* The heads of one row: normalised if asked, then rotated. */
static void heads_task(void *ctx, long row, int worker) {
    (void)worker;
    const heads_job *j = ctx;
    const fw_rowops *ops = fw_row();
    for (long h = 0; h < j->heads; h++) {
        float *x = j->x + (row * j->heads + h) * j->d;
        if (j->norm) ops->scale(x, x, j->norm, ops->inv_rms(x, j->d, j->eps), j->d);
        if (j->cos) ops->rope(x, j->cos + row * (j->d / 2), j->sin + row * (j->d / 2), j->d);
    }
}

void fw_block_qkv(const fw_block *b, const float *x, long rows, const float *cos, const float *sin, float *q, float *k,
                  float *v) {
    fw_begin();
    const long d = b->head_dim, q_heads = b->q.n / d, k_heads = b->k.n / d;
    const fw_act a = fw_act_new(FW_SLOT_X, rows, b->q.k, b->planes, 1);
    const fw_product p[] = {{&b->q, q, b->q_bias, 0}, {&b->k, k, b->k_bias, 0}, {&b->v, v, b->v_bias, 0}};
    fw_quantise(&a, x, b->q.k, b->attn_norm, b->eps);
    fw_products(&a, p, 3);
    heads_job jq = {b->q_norm, cos, sin, q, b->eps, q_heads, d}, jk = {b->k_norm, cos, sin, k, b->eps, k_heads, d};
    for_rows(heads_task, &jq, rows, q_heads * d);
    for_rows(heads_task, &jk, rows, k_heads * d);
    fw_end();
}

typedef struct {
    const float *norm;
    float *y, *x, eps;
    long width;
} residual_job;

static void residual_task(void *ctx, long row, int worker) {
    (void)worker;
    const residual_job *j = ctx;
    const fw_rowops *ops = fw_row();
    float *y = j->y + row * j->width;
    ops->scale(y, y, j->norm, ops->inv_rms(y, j->width, j->eps), j->width);
    ops->add(j->x + row * j->width, y, j->width);
}

/* x += post(a W) */
static void residual(const fw_act *a, const fw_packed *w, const float *post, float eps, float *x) {
    if (post == NULL) {
        const fw_product p = {w, x, NULL, 1};
        fw_products(a, &p, 1);
        return;
    }
    const long rows = a->rows / a->planes;
    float *y = fw_scratch(FW_SHARED, FW_SLOT_ROWS, (size_t)(rows * w->n) * sizeof(float));
    const fw_product p = {w, y, NULL, 0};
    residual_job j = {post, y, x, eps, w->n};
    fw_products(a, &p, 1);
    for_rows(residual_task, &j, rows, w->n);
}

void fw_block_out(const fw_block *b, const float *o, float *x, long rows) {
    fw_begin();
    const fw_act a = fw_act_new(FW_SLOT_X, rows, b->o.k, b->planes, 0);
    fw_quantise(&a, o, b->o.k, NULL, 0.0f);
    residual(&a, &b->o, b->post_attn_norm, b->eps, x);
    fw_end();
}

typedef struct {
    const fw_block *b;
    const fw_act *in, *out;
    long runs, run, chunk;
} gate_job;

/* act(gate) * up of some strips for a chunk of rows, quantised straight into the input of the down projection. */
static void gate_task(void *ctx, long index, int worker) {
    (void)worker;
    const gate_job *j = ctx;
    const fw_block *b = j->b;
    const fw_rowops *ops = fw_row();
    const long first = index / j->runs * j->chunk, end = fw_min(first + j->chunk, fw_ceil(j->in->rows, FW_ROWS));
    const long from = index % j->runs * j->run;
    for (long s = from; s < fw_min(from + j->run, b->gate.strips); s++)
        for (long t = first; t < end; t++) {
            const int planes = j->in->planes, rows = fw_tile_rows(j->in, t) / planes;
            float g[FW_ROWS * FW_STRIP], u[FW_ROWS * FW_STRIP], room[FW_ROWS * FW_STRIP];
            if ((s + 1) * FW_STRIP > b->gate.n) memset(g, 0, sizeof g), memset(u, 0, sizeof u);
            fw_strip_sum(&b->gate, s, j->in, t, 1, (fw_out){g, FW_STRIP, 0, t > first}, room);
            fw_strip_sum(&b->up, s, j->in, t, 1, (fw_out){u, FW_STRIP, 0, t > first}, room);
            ops->gate(b->act, g, u, rows * FW_STRIP);
            for (int i = 0; i < rows; i++) ops->block(j->out, t * FW_ROWS / planes + i, s, g + i * FW_STRIP);
        }
}

void fw_block_mlp(const fw_block *b, float *x, long rows) {
    fw_begin();
    for (long row = 0; row < rows; row += MLP_ROWS, x += MLP_ROWS * b->gate.k) {
        const long n = fw_min(rows - row, MLP_ROWS);
        const fw_act in = fw_act_new(FW_SLOT_X, n, b->gate.k, b->planes, 0);
        const fw_act mid = fw_act_new(FW_SLOT_H, n, b->down.k, b->planes, 0);
        gate_job j = {b, &in, &mid, 0, fw_run(&b->gate, b->gate.strips), fw_chunk_tiles(&in)};
        j.runs = fw_ceil(b->gate.strips, j.run);
        fw_quantise(&in, x, b->gate.k, b->mlp_norm, b->eps);
        fw_parallel(gate_task, &j, j.runs * fw_ceil(fw_ceil(in.rows, FW_ROWS), j.chunk));
        residual(&mid, &b->down, b->post_mlp_norm, b->eps, x);
    }
    fw_end();
}
