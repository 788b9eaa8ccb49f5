/* The separable convolution of R³×S²: the operators of geomol/ops/fused.py for a CPU.
 *
 * For an edge e from node a to row b: angular values A (O, L), radial values r (K), weights W (K, L, C), mixed
 * R = Σ_k r_k W_k (L, C), kernel κ = A R (O, C). R is formed for a few edges at a time, so that each weight is read once
 * for all of them; κ lives in registers. Sums over edges are taken in the order of the edges.
 */

#include <stdint.h>

enum { EDGES = 8, MOST_DEGREES = 8 }; /* at once; more degrees are left to others */

typedef struct {
    int64_t first, last; /* of the edges to work on */
    int64_t num_nodes, num_rows, num_ori, degrees, basis, channels;
    const int64_t *a, *b;                                   /* sender and receiver of each edge */
    const void *x, *y, *angular, *radial, *weight;          /* (N, O, C), (M, O, C), (E, O, L), (E, K), (K, L, C) */
    const void *t_x, *t_angular, *t_radial, *t_weight;      /* tangents; NULL is zero */
    void *by_x, *by_y, *by_angular, *by_radial, *by_weight; /* NULL: not wanted; x, y, weight: zero at first */
    void *scratch;                                          /* zeros, see `shared` */
    int64_t stranger;                                       /* the first edge between nodes that are not there; or -1 */
} Request;

/* Whether both ends of some edges exist; if not, the edge is noted. */
static inline int exist(Request *ask, int64_t from, int edges)
{
    for (int64_t e = from; e < from + edges; e++)
        if (ask->a[e] < 0 || ask->a[e] >= ask->num_nodes || ask->b[e] < 0 || ask->b[e] >= ask->num_rows) {
            ask->stranger = e;
            return 0;
        }
    return 1;
}

/* A function with the number of degrees as a constant, so that what belongs to them stays in registers. */
#define BY_DEGREES(function, edge, count)                                                                              \
    switch (count) {                                                                                                   \
    case 1: function(edge, 1); break;                                                                                  \
    case 2: function(edge, 2); break;                                                                                  \
    case 3: function(edge, 3); break;                                                                                  \
    case 4: function(edge, 4); break;                                                                                  \
    case 5: function(edge, 5); break;                                                                                  \
    case 6: function(edge, 6); break;                                                                                  \
    case 7: function(edge, 7); break;                                                                                  \
    default: function(edge, 8);                                                                                        \
    }

#define REAL float
#define NAME(x) x##_float
#include "separable_real.h"

#define REAL double
#define NAME(x) x##_double
#include "separable_real.h"
