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

/* x (rows, D) through layers 0 .. n-1, in place. `rows` describes layer 0; layer l's tables and segment counts lie
 * l * n_seq further on. cos, sin: one address a layer, (rows, d / 2). visible, staged as in fw_attend_call. */
void fw_layers(const fw_stack *, long n, float *x, fw_rows rows, const float *const *cos, const float *const *sin,
               const uint8_t *const *visible, const int64_t *staged);

/* What lies between the attention of two layers, where somebody else attends: o (rows, Hq, d) of layer `from` into x,
 * then queries q (rows, Hq, d) of layer `to`, its keys and values appended. -1: there is no such layer. */
void fw_between(const fw_stack *, long from, long to, float *x, const float *o, fw_rows rows, const float *const *cos,
                const float *const *sin, float *q);

#endif
