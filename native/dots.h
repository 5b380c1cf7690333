/* Scores of a few queries against up to FW_BLOCK rows at a time, with attention's own kernels. Widths are multiples of 8. */
#ifndef FW_DOTS_H
#define FW_DOTS_H

#include "attend.h"

typedef struct {
    const fw_attend_kernels *kernels;
    long n, width, dp; /* queries, their columns, these rounded up to 16 */
    float *q, *rows, *turned, *s; /* s: scores (n, FW_BLOCK) of the last rows */
} fw_dots;

fw_dots fw_dots_of(int worker, const float *q, long n, long width); /* in the worker's scratch 1 */
void fw_dots_with(const fw_dots *d, const void *rows, int halves, long count);

#endif
