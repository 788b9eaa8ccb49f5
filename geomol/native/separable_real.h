/* The loops of separable.c for one type of numbers. */

#include "lanes.h"

/* to[e] += Σ_k values[e, k] W[k] for some columns of a few edges. */
static inline void NAME(mix_some)(const REAL *values, const REAL *weight, REAL *to, const Request *ask, int64_t width,
                                  int edges)
{
    const int64_t wide = ask->degrees * ask->channels, basis = ask->basis;
    VEC sums[EDGES];
    for (int e = 0; e < edges; e++)
        sums[e] = NAME(load)(to + e * wide, width);
    for (int64_t k = 0; k < basis; k++) {
        const VEC row = NAME(load)(weight + k * wide, width);
        for (int e = 0; e < edges; e++)
            sums[e] += values[e * basis + k] * row;
    }
    for (int e = 0; e < edges; e++)
        NAME(store)(to + e * wide, sums[e], width);
}

static void NAME(mix)(const REAL *values, const REAL *weight, REAL *to, const Request *ask, int edges)
{
    const int64_t wide = ask->degrees * ask->channels;
    for (int64_t c = 0; c < wide; c += LANES)
        if (edges == EDGES && wide - c >= LANES)
            NAME(mix_some)(values, weight + c, to + c, ask, LANES, EDGES);
        else
            NAME(mix_some)(values, weight + c, to + c, ask, wide - c, edges);
}

/* to[e, k] += Σ values[e] W[k] over all columns, for a few edges: the derivative of `mix` by its values. */
static inline void NAME(unmix_some)(const REAL *values, const REAL *weight, REAL *to, const Request *ask, int edges)
{
    const int64_t wide = ask->degrees * ask->channels, whole = wide - wide % LANES;
    for (int64_t k = 0; k < ask->basis; k++) {
        const REAL *row = weight + k * wide;
        VEC sums[EDGES] = {{0}};
        for (int64_t c = 0; c < whole; c += LANES)
            for (int e = 0; e < edges; e++)
                sums[e] += NAME(load)(row + c, LANES) * NAME(load)(values + e * wide + c, LANES);
        for (int e = 0; e < edges; e++) {
            REAL sum = NAME(total)(sums[e]);
            for (int64_t c = whole; c < wide; c++)
                sum += row[c] * values[e * wide + c];
            to[e * ask->basis + k] += sum;
        }
    }
}

static void NAME(unmix)(const REAL *values, const REAL *weight, REAL *to, const Request *ask, int edges)
{
    if (edges == EDGES)
        NAME(unmix_some)(values, weight, to, ask, EDGES);
    else
        NAME(unmix_some)(values, weight, to, ask, edges);
}

/* to[k] += Σ_e radial[e, k] values[e] for some columns: the derivative of `mix` by the weights. */
static inline void NAME(outer_some)(const REAL *radial, const REAL *values, REAL *to, const Request *ask, int64_t width,
                                    int edges)
{
    const int64_t wide = ask->degrees * ask->channels, basis = ask->basis;
    VEC held[EDGES];
    for (int e = 0; e < edges; e++)
        held[e] = NAME(load)(values + e * wide, width);
    for (int64_t k = 0; k < basis; k++) {
        VEC sum = {0};
        for (int e = 0; e < edges; e++)
            sum += radial[e * basis + k] * held[e];
        NAME(add)(to + k * wide, sum, width);
    }
}

static void NAME(outer)(const REAL *radial, const REAL *values, REAL *to, const Request *ask, int edges)
{
    const int64_t wide = ask->degrees * ask->channels;
    for (int64_t c = 0; c < wide; c += LANES)
        if (edges == EDGES && wide - c >= LANES)
            NAME(outer_some)(radial, values + c, to + c, ask, LANES, EDGES);
        else
            NAME(outer_some)(radial, values + c, to + c, ask, wide - c, edges);
}

/* Of a few edges R and Ṙ and derivatives by them; zeros to read, and a place for what is not wanted. */
typedef struct {
    REAL *mixed, *mixed_dot, *by_mixed, *by_mixed_dot, *none, *unwanted;
} NAME(Shared);

static inline NAME(Shared) NAME(shared)(const Request *ask)
{
    const int64_t some = EDGES * ask->degrees * ask->channels;
    const int64_t node = ask->num_ori * (ask->channels > ask->degrees ? ask->channels : ask->degrees);
    REAL *at = ask->scratch;
    return (NAME(Shared)){at, at + some, at + 2 * some, at + 3 * some, at + 4 * some, at + 4 * some + node};
}

static inline void NAME(clear)(REAL *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = 0;
}

/* Forms R and Ṙ = ṙ W + r Ẇ of edges from `e` on, and clears the places of what is derived by them. */
static void NAME(begin)(const Request *ask, const NAME(Shared) *shared, int64_t e, int edges)
{
    const int64_t count = edges * ask->degrees * ask->channels, at = e * ask->basis;
    const REAL *radial = ask->radial, *t_radial = ask->t_radial;
    NAME(clear)(shared->mixed, count);
    NAME(mix)(radial + at, ask->weight, shared->mixed, ask, edges);
    NAME(clear)(shared->by_mixed, count);
    if (!t_radial && !ask->t_weight)
        return;
    NAME(clear)(shared->mixed_dot, count);
    if (t_radial)
        NAME(mix)(t_radial + at, ask->weight, shared->mixed_dot, ask, edges);
    if (ask->t_weight)
        NAME(mix)(radial + at, ask->t_weight, shared->mixed_dot, ask, edges);
    NAME(clear)(shared->by_mixed_dot, count);
}

/* From the derivatives by R and Ṙ those by r and W. */
static void NAME(end)(const Request *ask, const NAME(Shared) *shared, int64_t e, int edges)
{
    const int64_t at = e * ask->basis;
    const REAL *radial = ask->radial, *t_radial = ask->t_radial;
    if (ask->by_radial) {
        REAL *by_radial = (REAL *)ask->by_radial + at;
        NAME(clear)(by_radial, edges * ask->basis);
        NAME(unmix)(shared->by_mixed, ask->weight, by_radial, ask, edges);
        if (ask->t_weight)
            NAME(unmix)(shared->by_mixed_dot, ask->t_weight, by_radial, ask, edges);
    }
    if (ask->by_weight) {
        NAME(outer)(radial + at, shared->by_mixed, ask->by_weight, ask, edges);
        if (t_radial)
            NAME(outer)(t_radial + at, shared->by_mixed_dot, ask->by_weight, ask, edges);
    }
}

/* One edge: its values and the places of its derivatives. */
typedef struct {
    const REAL *sent, *received, *angular, *mixed;  /* x[a], y[b], A, R */
    const REAL *sent_dot, *angular_dot, *mixed_dot; /* their tangents */
    REAL *by_sent, *by_received, *by_angular, *by_mixed, *by_mixed_dot;
    int64_t num_ori, channels;
} NAME(Edge);

static inline NAME(Edge) NAME(edge)(const Request *ask, const NAME(Shared) *shared, int64_t e, int slot)
{
    const int64_t node = ask->num_ori * ask->channels, angles = ask->num_ori * ask->degrees;
    const int64_t at = slot * ask->degrees * ask->channels, a = ask->a[e], b = ask->b[e];
#define READ(values, index, size) ((values) ? (const REAL *)(values) + (index) * (size) : shared->none)
#define WRITE(values, index, size) ((values) ? (REAL *)(values) + (index) * (size) : shared->unwanted)
    return (NAME(Edge)){
        .sent = READ(ask->x, a, node),
        .received = READ(ask->y, b, node),
        .angular = READ(ask->angular, e, angles),
        .mixed = shared->mixed + at,
        .sent_dot = READ(ask->t_x, a, node),
        .angular_dot = READ(ask->t_angular, e, angles),
        .mixed_dot = shared->mixed_dot + at,
        .by_sent = WRITE(ask->by_x, a, node),
        .by_received = WRITE(ask->by_y, b, node),
        .by_angular = WRITE(ask->by_angular, e, angles),
        .by_mixed = shared->by_mixed + at,
        .by_mixed_dot = shared->by_mixed_dot + at,
        .num_ori = ask->num_ori,
        .channels = ask->channels,
    };
#undef READ
#undef WRITE
}

/* out[b] += x[a] κ for some channels. */
static inline void NAME(conv_some)(const NAME(Edge) *edge, int64_t c, int64_t width, int degrees)
{
    VEC rows[MOST_DEGREES];
    for (int l = 0; l < degrees; l++)
        rows[l] = NAME(load)(edge->mixed + l * edge->channels + c, width);
    for (int64_t o = 0; o < edge->num_ori; o++) {
        const REAL *angular = edge->angular + o * degrees;
        VEC kernel = angular[0] * rows[0];
        for (int l = 1; l < degrees; l++)
            kernel += angular[l] * rows[l];
        const int64_t at = o * edge->channels + c;
        NAME(add)(edge->by_received + at, kernel * NAME(load)(edge->sent + at, width), width);
    }
}

static inline void NAME(conv_edge)(const NAME(Edge) *edge, int degrees)
{
    int64_t c = 0;
    for (; c + LANES <= edge->channels; c += LANES)
        NAME(conv_some)(edge, c, LANES, degrees);
    if (c < edge->channels)
        NAME(conv_some)(edge, c, edge->channels - c, degrees);
}

/* Derivatives of Σ x y κ by x, A and R for some channels of one orientation. */
static inline void NAME(grads_some)(const NAME(Edge) *edge, int64_t o, int64_t c, int64_t width, VEC *by_angular,
                                    int degrees)
{
    const int64_t at = o * edge->channels + c;
    const REAL *angular = edge->angular + o * degrees;
    const VEC there = NAME(load)(edge->received + at, width);
    const VEC product = there * NAME(load)(edge->sent + at, width);
    VEC kernel = {0};
    for (int l = 0; l < degrees; l++) {
        const int64_t row = l * edge->channels + c;
        const VEC mixed = NAME(load)(edge->mixed + row, width);
        kernel += angular[l] * mixed;
        by_angular[l] += product * mixed;
        NAME(add)(edge->by_mixed + row, angular[l] * product, width);
    }
    NAME(add)(edge->by_sent + at, kernel * there, width);
}

/* Derivatives of S = Σ ẋ y κ + x y κ̇, κ̇ = Ȧ R + A Ṙ, by x, y, A, R and Ṙ for some channels of one orientation. */
static inline void NAME(twice_some)(const NAME(Edge) *edge, int64_t o, int64_t c, int64_t width, VEC *by_angular,
                                    int degrees)
{
    const int64_t at = o * edge->channels + c;
    const REAL *angular = edge->angular + o * degrees, *angular_dot = edge->angular_dot + o * degrees;
    const VEC here = NAME(load)(edge->sent + at, width), dot = NAME(load)(edge->sent_dot + at, width);
    const VEC there = NAME(load)(edge->received + at, width);
    const VEC product = here * there, product_dot = dot * there;
    VEC kernel = {0}, kernel_dot = {0};
    for (int l = 0; l < degrees; l++) {
        const int64_t row = l * edge->channels + c;
        const VEC mixed = NAME(load)(edge->mixed + row, width), mixed_dot = NAME(load)(edge->mixed_dot + row, width);
        kernel += angular[l] * mixed;
        kernel_dot += angular_dot[l] * mixed + angular[l] * mixed_dot;
        by_angular[l] += product * mixed_dot + product_dot * mixed;
        NAME(add)(edge->by_mixed + row, angular[l] * product_dot + angular_dot[l] * product, width);
        NAME(add)(edge->by_mixed_dot + row, angular[l] * product, width);
    }
    NAME(add)(edge->by_received + at, dot * kernel + here * kernel_dot, width);
    NAME(add)(edge->by_sent + at, there * kernel_dot, width);
}

/* The derivatives of an edge: all channels of one orientation after the other. */
#define OVER_ORIENTATIONS(name)                                                                                        \
    static inline void NAME(name##_edge)(const NAME(Edge) *edge, int degrees)                                          \
    {                                                                                                                  \
        for (int64_t o = 0; o < edge->num_ori; o++) {                                                                  \
            VEC by_angular[MOST_DEGREES] = {{0}};                                                                      \
            int64_t c = 0;                                                                                             \
            for (; c + LANES <= edge->channels; c += LANES)                                                            \
                NAME(name##_some)(edge, o, c, LANES, by_angular, degrees);                                             \
            if (c < edge->channels)                                                                                    \
                NAME(name##_some)(edge, o, c, edge->channels - c, by_angular, degrees);                                \
            for (int l = 0; l < degrees; l++)                                                                          \
                edge->by_angular[o * degrees + l] = NAME(total)(by_angular[l]);                                        \
        }                                                                                                              \
    }

OVER_ORIENTATIONS(grads)
OVER_ORIENTATIONS(twice)

/* What the library gives: an edge after the other, a few with the same R. */
#define OVER_EDGES(name)                                                                                               \
    void NAME(geomol_separable_##name)(Request *ask)                                                                   \
    {                                                                                                                  \
        const NAME(Shared) shared = NAME(shared)(ask);                                                                 \
        for (int64_t e = ask->first; e < ask->last; e += EDGES) {                                                      \
            const int edges = ask->last - e < EDGES ? (int)(ask->last - e) : EDGES;                                    \
            if (!exist(ask, e, edges))                                                                                 \
                return;                                                                                                \
            NAME(begin)(ask, &shared, e, edges);                                                                       \
            for (int slot = 0; slot < edges; slot++) {                                                                 \
                const NAME(Edge) edge = NAME(edge)(ask, &shared, e + slot, slot);                                      \
                BY_DEGREES(NAME(name##_edge), &edge, ask->degrees)                                                     \
            }                                                                                                          \
            NAME(end)(ask, &shared, e, edges);                                                                         \
        }                                                                                                              \
    }

OVER_EDGES(conv)  /* the convolution itself, into by_y */
OVER_EDGES(grads) /* derivatives of Σ y·out by x, A, r and W */
OVER_EDGES(twice) /* derivatives of S, see above, by x, y, A, r and W */

#undef OVER_ORIENTATIONS
#undef OVER_EDGES
#undef VEC
#undef LANES
#undef REAL
#undef NAME
