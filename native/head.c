/* Ends of the model: embedding rows, and the likeliest tokens without logits.
 *
 * best: a task keeps the k best of its strips for each row, sorted; the tasks' lists are merged in order of their outputs,
 * so the first of equal logits wins whatever the threads did. NaN never wins; missing ones are index 0 and -infinity.
 */
#include "matmul.h"

typedef struct {
    const fw_packed *w;
    const fw_act *a;
    long run, k;
    float *best; /* (tasks, rows, k) */
    int64_t *at;
} best_job;

static void clear(float *best, int64_t *at, long n) {
    for (long i = 0; i < n; i++) best[i] = -INFINITY, at[i] = 0;
}

/* Put y, which is larger than the last of k, where it belongs: behind those that are as large. */
static void insert(float *best, int64_t *at, long k, float y, int64_t id) {
    long i = k - 1;
    for (; i > 0 && y > best[i - 1]; i--) best[i] = best[i - 1], at[i] = at[i - 1];
    best[i] = y, at[i] = id;
}

static void best_task(void *ctx, long task, int worker) {
    (void)worker;
    const best_job *j = ctx;
    const long rows = j->a->rows / j->a->planes, k = j->k;
    float *best = j->best + task * rows * k;
    int64_t *at = j->at + task * rows * k;
    clear(best, at, rows * k);
    for (long s = task * j->run; s < fw_min((task + 1) * j->run, j->w->strips); s++) {
        const long from = s * FW_STRIP, n = fw_min(j->w->n - from, FW_STRIP);
        for (long t = 0; t * FW_ROWS < j->a->rows; t++) {
            float y[FW_ROWS * FW_STRIP], room[FW_ROWS * FW_STRIP];
            fw_strip_sum(j->w, s, j->a, t, 1, (fw_out){y, FW_STRIP, 0, t > 0}, room);
            for (long i = 0, row = t * FW_ROWS / j->a->planes; i < fw_tile_rows(j->a, t) / j->a->planes; i++, row++)
                for (long o = 0; o < n; o++)
                    if (y[i * FW_STRIP + o] > best[row * k + k - 1])
                        insert(best + row * k, at + row * k, k, y[i * FW_STRIP + o], from + o);
        }
    }
}

void fw_best(const fw_packed *w, const float *x, long rows, const float *norm, float eps, int planes, long k, int64_t *ids,
             float *best) {
    fw_begin();
    const fw_act a = fw_act_new(FW_SLOT_X, rows, w->k, planes, 1);
    const long tasks = fw_min(w->strips, 16L * fw_threads());
    best_job j = {w, &a, fw_ceil(w->strips, tasks), k, NULL, NULL};
    const long used = fw_ceil(w->strips, j.run), lists = used * rows * k;
    j.at = fw_scratch(FW_SHARED, FW_SLOT_BEST, (size_t)lists * (sizeof(int64_t) + sizeof(float)));
    j.best = (float *)(j.at + lists);
    fw_quantise(&a, x, w->k, norm, eps);
    fw_parallel(best_task, &j, used);
    clear(best, ids, rows * k);
    for (long i = 0; i < lists; i++) {
        const long row = i / k % rows;
        if (j.best[i] > best[row * k + k - 1]) insert(best + row * k, ids + row * k, k, j.best[i], j.at[i]);
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
