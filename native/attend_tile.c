/* The two stages of a tile: scores of queries against blocks of keys, then probabilities times values in key order. */
#include "attend_tile.h"

#include <math.h>
#include <string.h>

#define MIX_QUERIES 24   /* queries whose probabilities stay in the first cache */
#define RUN_FLOATS 8192L /* values that stay there too while several lots of queries use them */
#define AHEAD 3 /* blocks to fetch before their turn */
#define SHARES 4 /* of a block, fetched one or two at a time */

/* Scratch of a stage, handed out front to back in multiples of 64 bytes. */
typedef struct { char *at; } arena;
static void *take(arena *a, long count, long size) {
    void *p = a->at;
    a->at += (count * size + 63) & ~63L;
    return p;
}

static const int64_t *codes_of(const fw_key_block *b, int which) { return (const int64_t *)(intptr_t)b->seg[which]; }

/* `keys` rows of a segment's k or v from the block's first on, columns from..to-1 as floats (rows *stride apart), with
 * zero columns after the head size. `room` >= keys rows may be read, those behind `keys` hold anything. */
static const float *entries(const fw_tile *t, const fw_key_block *b, int which, long keys, long room, long from,
                            long to, float *scratch, long *stride) {
    long d = t->call->rows.d, size = b->seg[FW_SEG_DTYPE] == FW_HALVES ? 2 : 4, width = to - from;
    const char *src = (const char *)(intptr_t)b->seg[which];
    *stride = d;
    if (b->seg[FW_SEG_DTYPE] == FW_FLOATS && to <= d && keys == room && fw_run(b, 0, keys) == keys)
        return (const float *)src + fw_entry(t, b, 0) * d + from;
    *stride = width;
    for (long i = 0, n; i < keys; i += n) {
        long at = fw_entry(t, b, i);
        n = fw_run(b, i, keys);
        if (b->seg[FW_SEG_DTYPE] == FW_CODES) { /* d is a multiple of 16, so there are no columns behind it */
            long first = at - (long)b->seg[FW_SEG_HEADS + t->head];
            t->kernels->unpack(&(fw_code_rows){codes_of(b, which), t->head, at, first, n, d, from, to}, scratch + i * width);
        } else {
            t->kernels->widen(src + (at * d + from) * size, size == 2, n, d, (to < d ? to : d) - from, width,
                              scratch + i * width);
        }
    }
    return scratch;
}

/* Ask memory for the shares from..to-1 of each of some blocks' keys or values, if there are such blocks: all at once
 * is slower. */
static void prefetch(const fw_tile *t, long first, long blocks, int which, int from, int to) {
    for (const fw_key_block *b = t->blocks + first; b < t->blocks + t->n_blocks && blocks > 0; b++, blocks--) {
        long dtype = (long)b->seg[FW_SEG_DTYPE], bits = dtype == FW_HALVES ? 16 : 32, end = b->keys * to / SHARES;
        int64_t at = b->seg[which];
        if (dtype == FW_CODES) at = codes_of(b, which)[FW_CODE_AT], bits = (long)codes_of(b, which)[FW_CODE_BITS];
        long row = t->call->rows.d * bits / 8;
        for (long i = b->keys * from / SHARES, n; i < end; i += n) {
            const char *data = (const char *)(intptr_t)at + fw_entry(t, b, i) * row;
            n = fw_run(b, i, end);
            for (long line = 0; line < n * row; line += 64) {
                __builtin_prefetch(data + line, 0, 2); /* into the second cache: faster, at 32k entries, than into the first */
                __asm__ volatile(""); /* else gcc 12 thinks that this function has no effect and drops the call */
            }
        }
    }
}

static void load_queries(const fw_tile *t, float *to) {
    const fw_attend_call *c = t->call;
    for (long i = 0; i < t->n; i++, to += t->dp) {
        const float *q = c->q + ((t->at + i / t->group) * c->n_heads + t->head * t->group + i % t->group) * c->rows.d;
        for (long j = 0; j < c->rows.d; j++) to[j] = q[j] * c->scale;
        for (long j = c->rows.d; j < t->dp; j++) to[j] = 0.0f;
    }
}

void fw_score(const fw_tile *t, int part) {
    const fw_attend_kernels *k = t->kernels;
    arena a = {fw_scratch(t->worker, 1, (size_t)((t->n + 2 * FW_BLOCK) * t->dp + t->rows) * 4 + 256)};
    float *q = take(&a, t->n * t->dp, 4), *rows = take(&a, FW_BLOCK * t->dp, 4), *kt = take(&a, FW_BLOCK * t->dp, 4);
    uint32_t *mask = take(&a, t->rows, 4);
    float *lanes = t->lanes + part * t->n * 16;
    load_queries(t, q);
    for (long i = 0; i < 16 * t->n; i++) lanes[i] = -INFINITY;
    for (long i = t->n_blocks * part / t->parts, end = t->n_blocks * (part + 1) / t->parts; i < end; i++) {
        const fw_key_block *b = t->blocks + i;
        long stride;
        const float *keys = entries(t, b, FW_SEG_K, b->keys, FW_BLOCK, 0, t->dp, rows, &stride);
        float *s = t->s + i * t->n * FW_BLOCK;
        prefetch(t, i + AHEAD, 1, FW_SEG_K, 0, 1);
        if (t->n <= k->few) k->dots(q, t->n, t->dp, keys, s);
        else {
            k->turn(keys, t->dp, kt);
            prefetch(t, i + AHEAD, 1, FW_SEG_K, 1, 2);
            k->dots_turned(q, t->n, t->dp, kt, s);
        }
        prefetch(t, i + AHEAD, 1, FW_SEG_K, 2, 3);
        if (b->masked) fw_mask_of(t, b, mask);
        k->settle(s, t->rows, t->group, b->masked ? mask : NULL, t->call->softcap, lanes);
        prefetch(t, i + AHEAD, 1, FW_SEG_K, 3, 4);
    }
}

static void find_max(const fw_tile *t, float *max) {
    for (long i = 0; i < t->n; i++) {
        float m = -INFINITY;
        for (int part = 0; part < t->parts; part++) {
            float top = t->kernels->top(t->lanes + (part * t->n + i) * 16);
            m = top > m ? top : m;
        }
        max[i] = m > -INFINITY ? m : 0.0f;
    }
}

static int summed(const fw_attend_call *c) { return c->mass && c->mass_heads < c->n_heads; }

/* Where row r's probabilities are wanted, in `head` of the slot, or NULL. */
static float *mass_at(const fw_tile *t, long r, long head) {
    const fw_attend_call *c = t->call;
    long slot = c->mass ? (long)c->mass_slot[t->at + r] : -1;
    return slot < 0 ? NULL : c->mass + (slot * c->mass_heads + head) * c->mass_keys;
}

/* Where those of query i are wanted, or NULL. */
static float *mass_row(const fw_tile *t, long i) {
    return summed(t->call) ? NULL : mass_at(t, i / t->group, t->head * t->group + i % t->group);
}

static float by(int64_t sum, const fw_tile *t) { return sum == 0 ? 1.0f : (float)((double)sum / t->kernels->sum_units); }

/* Each row's probabilities summed over its queries, from the scores; p: room for MIX_QUERIES blocks. */
static void sum_mass(const fw_tile *t, const float *max, const int64_t *sum, float *p) {
    int64_t spent[MIX_QUERIES];
    float share[MIX_QUERIES];
    for (long r = 0; r < t->rows; r++) {
        float *to = mass_at(t, r, t->head);
        if (!to) continue;
        memset(to, 0, (size_t)t->call->mass_keys * sizeof(float));
        for (long q = r * t->group, end = q + t->group, n; q < end; q += n) {
            n = end - q < MIX_QUERIES ? end - q : MIX_QUERIES;
            for (long k = 0; k < n; k++) share[k] = 1.0f / by(sum[q + k], t);
            for (long i = 0; i < t->n_blocks; i++) {
                float of_block[FW_BLOCK] = {0};
                t->kernels->soften(t->s + (i * t->n + q) * FW_BLOCK, t->n * FW_BLOCK, n, 1, max + q, spent, p);
                for (long k = 0; k < n; k++)
                    for (long j = 0; j < FW_BLOCK; j++) of_block[j] += p[k * FW_BLOCK + j] * share[k];
                for (long j = 0; j < t->blocks[i].keys; j++) to[t->blocks[i].ordinal + j] += of_block[j];
            }
        }
    }
}

static void put_mass(const fw_tile *t, const fw_key_block *b, long blocks, long first, long n, const float *p) {
    for (long i = 0; i < n; i++) {
        float *to = mass_row(t, first + i);
        for (long j = 0; to && j < blocks; j++)
            memcpy(to + b[j].ordinal, p + (i * blocks + j) * FW_BLOCK, (size_t)b[j].keys * sizeof(float));
    }
}

static void finish(const fw_tile *t, const float *acc, const float *max, const int64_t *sum, long from, long to) {
    const fw_attend_call *c = t->call;
    for (long i = 0; i < t->n; i++) {
        long at = (t->at + i / t->group) * c->n_heads + t->head * t->group + i % t->group;
        float share = by(sum[i], t);
        for (long j = from; j < to && j < c->rows.d; j++)
            c->o[at * c->rows.d + j] = acc[i * (to - from) + j - from] / share + 0.0f; /* + 0: never a negative zero */
        if (from > 0) continue;
        if (c->lse) c->lse[at] = (float)((double)max[i] + log((double)sum[i] / t->kernels->sum_units));
        float *mass = mass_row(t, i);
        for (long j = 0; mass && j < c->mass_keys; j++) mass[j] /= share;
    }
}

void fw_mix(const fw_tile *t, long from, long to) {
    long width = to - from, run = RUN_FLOATS / width / FW_BLOCK;
    long most = run < 1 || t->n <= MIX_QUERIES ? 1 : run > FW_MOST_BLOCKS ? FW_MOST_BLOCKS : run;
    size_t bytes = (size_t)(t->n * (width + 3) + most * FW_BLOCK * (width + MIX_QUERIES)) * 4 + 5 * 64;
    arena a = {fw_scratch(t->worker, 2, bytes)};
    float *acc = take(&a, t->n * width, 4), *max = take(&a, t->n, 4), *rows = take(&a, most * FW_BLOCK * width, 4);
    float *p = take(&a, MIX_QUERIES * most * FW_BLOCK, 4);
    int64_t *sum = take(&a, t->n, 8);
    find_max(t, max);
    memset(acc, 0, (size_t)(t->n * width) * sizeof(float));
    memset(sum, 0, (size_t)t->n * sizeof(int64_t));
    for (long i = 0; from == 0 && i < t->n; i++)
        if (mass_row(t, i)) memset(mass_row(t, i), 0, (size_t)t->call->mass_keys * sizeof(float));
    for (long i = 0, blocks; i < t->n_blocks; i += blocks) {
        const fw_key_block *b = t->blocks + i;
        long keys = b->keys, stride;
        for (blocks = 1; blocks < most && i + blocks < t->n_blocks; blocks++) {
            if (b[blocks].seg != b->seg || b->picks || b[blocks].first != b->first + keys) break;
            keys += b[blocks].keys;
        }
        const float *v = entries(t, b, FW_SEG_V, keys, keys, from, to, rows, &stride);
        for (long j = 0; j < t->n; j += MIX_QUERIES) {
            long n = t->n - j < MIX_QUERIES ? t->n - j : MIX_QUERIES;
            if (j == 0) prefetch(t, i + AHEAD, blocks, FW_SEG_V, 0, 2);
            t->kernels->soften(t->s + (i * t->n + j) * FW_BLOCK, t->n * FW_BLOCK, n, blocks, max + j, sum + j, p);
            if (j == 0) prefetch(t, i + AHEAD, blocks, FW_SEG_V, 2, 4);
            t->kernels->mix(p, blocks * FW_BLOCK, n, v, stride, keys, acc + j * width, width);
            if (t->call->mass && !summed(t->call) && from == 0) put_mass(t, b, blocks, j, n, p);
        }
    }
    finish(t, acc, max, sum, from, to);
    if (summed(t->call) && from == 0) sum_mass(t, max, sum, p);
}
