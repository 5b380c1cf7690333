/* Whole products in parallel; see matmul.h. The kernels of one strip are in matmul_{plain,avx2,avx512}.c.
 *
 * Few rows: the weights are read once and the cost is memory. Many rows: a task keeps its strips in the first-level
 * cache and passes a chunk of rows, whose int8 codes stay in the second level, over each of them.
 */
#include "matmul.h"

#define CHUNK_BYTES (192 << 10) /* of int8 codes */
#define TASK_BYTES (16 << 10)   /* of weights, so that handing out a task is cheap beside doing it */
#define SERIAL_VALUES 8192      /* below this many values, waking workers costs more than quantising */

fw_act fw_act_new(int slot, long rows, long k, int planes, int fine) {
    const long blocks = fw_ceil(k, FW_BLOCK), units = rows * planes * blocks;
    uint8_t *p = fw_scratch(FW_SHARED, slot, (size_t)units * (FW_BLOCK + 6 * sizeof(float)));
    float *f = (float *)(p + units * FW_BLOCK);
    return (fw_act){(int8_t *)p, {f, f + 2 * units}, {f + units, f + 4 * units}, rows * planes, blocks, fine && planes == 1 ? 16 : 32, planes};
}

typedef struct {
    const fw_act *a;
    const float *x, *norm;
    float eps;
    long k;
} quantise_job;

static void quantise_task(void *ctx, long row, int worker) {
    (void)worker;
    const quantise_job *j = ctx;
    const fw_rowops *ops = fw_row();
    const float *x = j->x + row * j->k;
    ops->quantise(j->a, row, x, j->norm, j->norm ? ops->inv_rms(x, j->k, j->eps) : 1.0f, j->k);
}

void fw_quantise(const fw_act *a, const float *x, long k, const float *norm, float eps) {
    quantise_job j = {a, x, norm, eps, k};
    const long rows = a->rows / a->planes;
    if (a->rows * k > SERIAL_VALUES)
        fw_parallel(quantise_task, &j, rows);
    else
        for (long row = 0; row < rows; row++) quantise_task(&j, row, 0);
}

long fw_chunk_tiles(const fw_act *a) {
    const long tiles = fw_max(fw_ceil(a->rows, FW_ROWS), 1), fit = CHUNK_BYTES / (FW_ROWS * FW_BLOCK * a->blocks);
    return fw_ceil(tiles, fw_ceil(tiles, fw_max(fit, 1)));
}

void fw_strip_sum(const fw_packed *w, long strip, const fw_act *a, long first, long count, fw_out out, float *room) {
    if (a->planes == 1) {
        fw_strip()(w, strip, a, first, count, out);
        return;
    }
    fw_strip()(w, strip, a, first, count, (fw_out){room, FW_STRIP, 0, out.cached});
    const long n = fw_min(w->n - strip * FW_STRIP, FW_STRIP);
    const long rows = fw_min(count * FW_ROWS, a->rows - first * FW_ROWS) / 2;
    for (long i = 0; i < rows; i++, room += 2 * FW_STRIP, out.y += out.stride)
        for (long o = 0; o < n; o++) {
            const float v = room[o] + room[FW_STRIP + o];
            out.y[o] = out.add ? out.y[o] + v : v;
        }
}

typedef struct {
    const fw_act *a;
    const fw_product *p;
    long strips, run, runs, chunk; /* all strips; strips in a task; tasks in a chunk; tiles in a chunk */
} product_job;

static void product_task(void *ctx, long index, int worker) {
    const product_job *j = ctx;
    const long first = index / j->runs * j->chunk, count = fw_min(fw_ceil(j->a->rows, FW_ROWS) - first, j->chunk);
    const long row = first * FW_ROWS / j->a->planes, from = index % j->runs * j->run;
    const long rows = fw_min(count * FW_ROWS / j->a->planes, j->a->rows / j->a->planes - row);
    float *room = j->a->planes == 1 ? NULL : fw_scratch(worker, FW_SLOT_TILE, (size_t)count * FW_ROWS * FW_STRIP * 4);
    const fw_product *p = j->p;
    long strip = from;
    for (long s = from; s < fw_min(from + j->run, j->strips); s++, strip++) {
        while (strip >= p->w->strips) strip -= (p++)->w->strips;
        const long column = strip * FW_STRIP, n = fw_min(p->w->n - column, FW_STRIP);
        float *y = p->y + row * p->w->n + column;
        fw_strip_sum(p->w, strip, j->a, first, count, (fw_out){y, p->w->n, p->add, 0}, room);
        for (long i = 0; p->bias && i < rows; i++) fw_row()->add(y + i * p->w->n, p->bias + column, n);
    }
}

long fw_run(const fw_packed *w, long strips) {
    const long bytes = w->blocks * fw_block_bytes(w), share = strips / (4 * fw_threads());
    return fw_max(fw_min(fw_ceil(TASK_BYTES, bytes), share), 1);
}

void fw_products(const fw_act *a, const fw_product *p, int n) {
    product_job j = {a, p, 0, 0, 0, fw_chunk_tiles(a)};
    for (int i = 0; i < n; i++) j.strips += p[i].w->strips;
    j.run = fw_run(p->w, j.strips);
    j.runs = fw_ceil(j.strips, j.run);
    fw_parallel(product_task, &j, j.runs * fw_ceil(fw_ceil(a->rows, FW_ROWS), j.chunk));
}

void fw_linear(const fw_packed *w, const float *x, long rows, const float *bias, float *y) {
    fw_begin();
    const fw_act a = fw_act_new(FW_SLOT_X, rows, w->k, 1, 0);
    const fw_product p = {w, y, bias, 0};
    fw_quantise(&a, x, w->k, NULL, 0.0f);
    fw_products(&a, &p, 1);
    fw_end();
}

void fw_logits(const fw_packed *w, const float *x, long rows, const float *norm, float eps, int planes, float *out) {
    fw_begin();
    const fw_act a = fw_act_new(FW_SLOT_X, rows, w->k, planes, 1);
    const fw_product p = {w, out, NULL, 0};
    fw_quantise(&a, x, w->k, norm, eps);
    fw_products(&a, &p, 1);
    fw_end();
}
