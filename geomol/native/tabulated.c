/* Convolution with a kernel read from a table of cubic splines: the operators of geomol/ops/tabulated.py for a CPU.
 *
 * Kernels live in registers: for each edge and orientation, the coefficients that count (4, or 4 × 4 on two axes) are
 * read once for all that is needed of them.
 */

#include <stdint.h>

typedef struct {
    int64_t num_edges, num_ori, channels, num_axes;
    const void *x, *y, *points, *window, *table; /* (N, O, C), (M, O, C), (E, O, A), (E), (R, C) */
    const int64_t *a, *b;                        /* sender and receiver of each edge */
    double start[2], spacing;                    /* of the table */
    int64_t count[2];                            /* its intervals along each axis */
    void *out, *by_points, *by_window;           /* out is zero at first */
} Request;

#define REAL float
#define NAME(x) x##_float
#include "tabulated_real.h"

#define REAL double
#define NAME(x) x##_double
#include "tabulated_real.h"
