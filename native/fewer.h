/* fewer._native: what the C files of this folder share.
 *
 * pool.c hands tiles of work to threads; cpu.c picks the instruction set once; the other files hold one concern each.
 * Rule for every kernel: a result's bits depend on its inputs only, never on the thread count, on the tile a worker
 * got, on the number of rows that ride along, or on the instruction set.
 */
#ifndef FEWER_H
#define FEWER_H

#include <stddef.h>
#include <stdint.h>

#define FW_MAX_THREADS 256

/* --- pool.c ------------------------------------------------------------------------------------------------------ */

/* One tile of work. `worker` is in [0, fw_threads()); the calling thread is one of the workers. */
typedef void (*fw_task)(void *ctx, long tile, int worker);

/* Run fn for tiles 0..n_tiles-1 (n_tiles < 2^31) and return when all are done. Tiles are handed out dynamically.
 * Call it without the GIL. Never from inside a task. */
void fw_parallel(fw_task fn, void *ctx, long n_tiles);

/* An operation of several fw_parallel calls that keeps data in scratch between them wraps them in begin/end (a
 * recursive lock: fw_parallel takes it too). Call without the GIL. */
void fw_begin(void);
void fw_end(void);

/* From now on this thread works alone (on = 1): its jobs do not use the pool and do not wait for it, so two threads can
 * each run a model. 0 = back to the pool. Not inside an operation. -1 = no memory. */
int fw_alone(int on);

int fw_threads(void); /* of the caller: 1 for a thread that works alone */
void fw_set_threads(int n); /* clamped to 1..FW_MAX_THREADS; waits for work in flight */

/* Grow-only scratch, 64-byte aligned, private to (worker, slot); contents survive until a larger request for the same
 * pair. Worker FW_SHARED is memory of the whole operation: ask for it between fw_begin and the first fw_parallel.
 * Slots 0..7 belong to attention, 8..15 to the linear and block operations. */
#define FW_SHARED FW_MAX_THREADS
void *fw_scratch(int worker, int slot, size_t bytes);

/* --- cpu.c ------------------------------------------------------------------------------------------------------- */

enum { FW_PLAIN = 0, FW_AVX2_FMA = 1, FW_AVX512_VNNI = 2 };
int fw_isa(void);          /* what kernels must use now */
int fw_isa_best(void);     /* what this processor has */
void fw_set_isa(int isa);  /* lower it (tests); clamped to fw_isa_best() */

#endif
