/* Ends of the model: embedding rows and greedy choice without logits.
 *
 * argmax: a task keeps the best of its strips for each row; the tasks' bests are compared in order of their outputs, so
 * the first of equal logits wins whatever the threads did. NaN never wins; a row of NaNs gives index 0 and -infinity.
 */
#include "matmul.h"

typedef struct {
    const fw_packed *w;
    const fw_act *a;
    long run;
    float *best; /* (tasks, rows) */
    int64_t *at;
} argmax_job;

static void argmax_task(void *ctx, long task, int worker) {
    (void)worker;
    const argmax_job *j = ctx;
    const long rows = j->a->rows / j->a->planes;
    float *best = j->best + task * rows;
    int64_t *at = j->at + task * rows;
    for (long row = 0; row < rows; row++) best[row] = -INFINITY, at[row] = 0;
    for (long s = task * j->run; s < fw_min((task + 1) * j->run, j->w->strips); s++) {
        const long from = s * FW_STRIP, n = fw_min(j->w->n - from, FW_STRIP);
        for (long t = 0; t * FW_ROWS < j->a->rows; t++) {
            float y[FW_ROWS * FW_STRIP], room[FW_ROWS * FW_STRIP];
            fw_strip_sum(j->w, s, j->a, t, 1, (fw_out){y, FW_STRIP, 0, t > 0}, room);
            for (long i = 0, row = t * FW_ROWS / j->a->planes; i < fw_tile_rows(j->a, t) / j->a->planes; i++, row++)
                for (long o = 0; o < n; o++)
                    if (y[i * FW_STRIP + o] > best[row]) best[row] = y[i * FW_STRIP + o], at[row] = from + o;
        }
    }
}

void fw_argmax(const fw_packed *w, const float *x, long rows, const float *norm, float eps, int planes, int64_t *ids,
               float *best) {
    fw_begin();
    const fw_act a = fw_act_new(FW_SLOT_X, rows, w->k, planes, 1);
    const long tasks = fw_min(w->strips, 16L * fw_threads());
    argmax_job j = {w, &a, fw_ceil(w->strips, tasks), NULL, NULL};
    const long used = fw_ceil(w->strips, j.run);
    j.at = fw_scratch(FW_SHARED, FW_SLOT_BEST, (size_t)(used * rows) * (sizeof(int64_t) + sizeof(float)));
    j.best = (float *)(j.at + used * rows);
    fw_quantise(&a, x, w->k, norm, eps);
    fw_parallel(argmax_task, &j, used);
    for (long row = 0; row < rows; row++) {
        best[row] = -INFINITY, ids[row] = 0;
        for (long at = row; at < used * rows; at += rows)
            if (j.best[at] > best[row]) best[row] = j.best[at], ids[row] = j.at[at];
    }
    fw_end();
}

typedef struct {
    const fw_packed *w;
    const int64_t *ids;
    float *out;
} embed_job;

static void embed_task(void *ctx, long i, int worker) {
    (void)worker;
    const embed_job *j = ctx;
    fw_row()->dequantise(j->w, j->ids[i], j->out + i * j->w->k);
}

void fw_embed(const fw_packed *w, const int64_t *ids, long rows, float *out) {
    embed_job j = {w, ids, out};
    fw_parallel(embed_task, &j, rows);
}
