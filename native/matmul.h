/* Whole products in parallel: rows quantised once, strips of one or several matrices as tiles. */
#ifndef FW_MATMUL_H
#define FW_MATMUL_H

#include "rowops.h"

/* Scratch slots of this side of the library; see fewer.h. */
enum { FW_SLOT_X = 8, FW_SLOT_H = 9, FW_SLOT_ROWS = 10, FW_SLOT_BEST = 11, FW_SLOT_TILE = 12, FW_SLOT_QKV = 13 };

typedef struct {
    const fw_packed *w;
    float *y;          /* (rows, w->n) */
    const float *bias; /* (w->n) or NULL */
    int add;           /* y += product instead of y = product (then no bias) */
} fw_product;

/* Room for the activations of `rows` rows of k inputs in shared scratch, in one plane or two. `fine`: one plane is rounded
 * in groups of 16 instead of 32; that costs arithmetic with many rows and loses a third as much; the queries, keys, values
 * and logits use it. */
fw_act fw_act_new(int slot, long rows, long k, int planes, int fine);

/* Quantise x (rows, k); norm: its RMSNorm weights, or NULL for none. */
void fw_quantise(const fw_act *a, const float *x, long k, const float *norm, float eps);

/* All products of one input, in one parallel pass; n <= 4. */
void fw_products(const fw_act *a, const fw_product *p, int n);

/* The strip function of this processor, with the planes of a row added up. room: count * 256 floats, for two planes. */
void fw_strip_sum(const fw_packed *w, long strip, const fw_act *a, long first, long count, fw_out out, float *room);

/* How the tiles of an activation are cut into chunks whose codes stay in the second-level cache: tiles in one chunk. */
long fw_chunk_tiles(const fw_act *a);

/* Strips per task: enough bytes to be worth handing out, few enough that every thread gets several tasks. */
long fw_run(const fw_packed *w, long strips);

/* y = x W^T (+ bias) */
void fw_linear(const fw_packed *w, const float *x, long rows, const float *bias, float *y);

/* The last layer: norm(x) W^T into out (rows, n), or for each row the k largest logits and their
 * indices, both (rows, k), the first of equal ones first. */
void fw_logits(const fw_packed *w, const float *x, long rows, const float *norm, float eps, int planes, float *out);
void fw_best(const fw_packed *w, const float *x, long rows, const float *norm, float eps, int planes, long k, int64_t *ids,
             float *best);

/* Rows of a packed matrix as floats (rows, k). */
void fw_embed(const fw_packed *w, const int64_t *ids, long rows, float *out);

#endif
