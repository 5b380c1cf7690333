/* Several layers in one call: what the decoder's plain loop does between the embedding and the head. */
#ifndef FW_STACK_H
#define FW_STACK_H

#include "attend.h"
#include "block.h"

typedef struct {
    const fw_block **blocks;
    const int64_t *windows; /* of each layer, 0 = none */
    long n_layers, n_heads, n_kv_heads;
    float scale, softcap;
} fw_stack;

/* What the sequences of layers from .. read, if not everything: as fw_attend_call's `picked`, n_seq a layer. Before the
 * i-th of these layers attends, heads rank_from[i] .. rank_from[i + 1] - 1 are ranked into their places (ranking.h). */
typedef struct {
    const int64_t *const *picked; /* NULL = everything */
    const int64_t *heads, *rank_from;
} fw_reads;

/* x (rows, D) through layers from .. to - 1, in place. `rows` describes layer 0; layer l's tables and segment counts lie
 * l * n_seq further on. cos, sin: one address a layer, (rows, d / 2). visible, staged as in fw_attend_call.
 * 0: some picked place is not there; the layers before it were run. */
int fw_layers(const fw_stack *, long from, long to, float *x, fw_rows rows, const float *const *cos, const float *const *sin,
              const uint8_t *const *visible, const int64_t *staged, fw_reads reads);

/* What lies between the attention of two layers, where somebody else attends: o (rows, Hq, d) of layer `from` into x,
 * then queries q (rows, Hq, d) of layer `to`, its keys and values appended. -1: there is no such layer. */
void fw_between(const fw_stack *, long from, long to, float *x, const float *o, fw_rows rows, const float *const *cos,
                const float *const *sin, float *q);

#endif
