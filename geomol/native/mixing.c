/* A small matrix for each channel, the same at all nodes: the operators of geomol/ops/mixing.py for a CPU. */

#include <stdint.h>

enum { NODES = 8 }; /* at once, in registers */

typedef struct {
    int64_t nodes, from, to, channels; /* x (N, from, C), out and y (N, to, C), matrices (to, from, C) */
} Sizes;

#define REAL float
#define NAME(x) x##_float
#include "mixing_real.h"

#define REAL double
#define NAME(x) x##_double
#include "mixing_real.h"
