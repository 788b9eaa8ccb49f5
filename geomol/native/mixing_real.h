/* The loops of mixing.c for one type of numbers. */

#include "lanes.h"

/* out[n, p] = Σ_o x[n, o] k[p, o] for some channels of NODES nodes at once, so that each value of k is read once. */
static inline void NAME(mix_some)(const REAL *x, const REAL *k, REAL *out, const Sizes *size, int64_t width, int nodes)
{
    const int64_t channels = size->channels, from = size->from * channels, to = size->to * channels;
    for (int64_t p = 0; p < size->to; p++) {
        VEC sums[NODES] = {{0}};
        for (int64_t o = 0; o < size->from; o++) {
            const VEC factor = NAME(load)(k + (p * size->from + o) * channels, width);
            for (int n = 0; n < nodes; n++)
                sums[n] += factor * NAME(load)(x + n * from + o * channels, width);
        }
        for (int n = 0; n < nodes; n++)
            NAME(store)(out + n * to + p * channels, sums[n], width);
    }
}

void NAME(geomol_mix)(const REAL *x, const REAL *k, REAL *out, const Sizes *size)
{
    const int64_t channels = size->channels, from = size->from * channels, to = size->to * channels;
    for (int64_t n = 0; n < size->nodes; n += NODES)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t width = channels - c, left = size->nodes - n;
            if (left >= NODES && width >= LANES)
                NAME(mix_some)(x + n * from + c, k + c, out + n * to + c, size, LANES, NODES);
            else
                NAME(mix_some)(x + n * from + c, k + c, out + n * to + c, size, width, left < NODES ? (int)left : NODES);
        }
}

/* out[p, o] += Σ_n y[n, p] x[n, o] for some channels of a few nodes. */
static inline void NAME(multiply_some)(const REAL *y, const REAL *x, REAL *out, const Sizes *size, int64_t width, int nodes)
{
    const int64_t channels = size->channels, from = size->from * channels, to = size->to * channels;
    for (int64_t p = 0; p < size->to; p++) {
        VEC there[NODES];
        for (int n = 0; n < nodes; n++)
            there[n] = NAME(load)(y + n * to + p * channels, width);
        for (int64_t o = 0; o < size->from; o++) {
            VEC sum = {0};
            for (int n = 0; n < nodes; n++)
                sum += there[n] * NAME(load)(x + n * from + o * channels, width);
            NAME(add)(out + (p * size->from + o) * channels, sum, width);
        }
    }
}

void NAME(geomol_multiply)(const REAL *y, const REAL *x, REAL *out, const Sizes *size)
{
    const int64_t channels = size->channels, from = size->from * channels, to = size->to * channels;
    for (int64_t n = 0; n < size->nodes; n += NODES)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t width = channels - c, left = size->nodes - n;
            if (left >= NODES && width >= LANES)
                NAME(multiply_some)(y + n * to + c, x + n * from + c, out + c, size, LANES, NODES);
            else
                NAME(multiply_some)(y + n * to + c, x + n * from + c, out + c, size, width, left < NODES ? (int)left : NODES);
        }
}

#undef VEC
#undef LANES
#undef REAL
#undef NAME
