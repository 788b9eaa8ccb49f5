/* Convolution with a kernel read from a table of cubic splines: the operators of geomol/ops/tabulated.py for a CPU.
 *
 * Kernels live in registers: for each edge and orientation, the coefficients that count (4, or 4 × 4 on two axes) are
 * read once for all that is needed of them.
 */

#include <stdint.h>

typedef struct {
    int64_t first, last; /* of the edges to work on */
    int64_t num_nodes, num_rows, num_ori, channels, num_axes;
    const void *x, *y, *points, *window, *table; /* (N, O, C), (M, O, C), (E, O, A), (E), (R, C) */
    const int64_t *a, *b;                        /* sender and receiver of each edge */
    double start[2], spacing;                    /* of the table */
    int64_t count[2];                            /* its intervals along each axis */
    void *out, *by_points, *by_window;           /* out is zero at first */
    int64_t stranger;                            /* the first edge between nodes that are not there; -1 for none */
} Request;

/* Whether both ends of an edge exist; if not, the edge is noted. */
static inline int exists(Request *ask, int64_t e)
{
    if (ask->a[e] >= 0 && ask->a[e] < ask->num_nodes && ask->b[e] >= 0 && ask->b[e] < ask->num_rows)
        return 1;
    ask->stranger = e;
    return 0;
}

#define REAL float
#define NAME(x) x##_float
#include "tabulated_real.h"

#define REAL double
#define NAME(x) x##_double
#include "tabulated_real.h"
