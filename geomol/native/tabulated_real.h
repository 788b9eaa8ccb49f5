/* The loops of tabulated.c for one type of numbers. */

#include "lanes.h"

typedef struct {
    int64_t outer, inner;                /* steps: from row to row of the first axis, and of all rows together */
    const REAL *rows;                    /* the first coefficient that counts */
    REAL first[4], first_slope[4];       /* weights along the first of two axes; 1 where there is one */
    REAL last[4], last_slope[4];         /* and along the last, whose rows follow each other */
} NAME(Place);

/* Interval and weights of the four B-splines along one axis, and their derivatives. */
static inline int64_t NAME(weigh)(REAL point, double start, double spacing, int64_t count, REAL *value, REAL *slope)
{
    const REAL scale = (REAL)(1 / spacing), u = (point - (REAL)start) * scale, end = (REAL)count;
    const REAL inside = u > 0 ? (u < end ? u : end) : 0; /* 0 for what is no number, whose weights are none either */
    const int64_t cell = inside < end ? (int64_t)inside : count - 1;
    const REAL t = u == u ? inside - (REAL)cell : u, s = 1 - t;
    value[0] = s * s * s / 6;
    value[1] = (REAL)(2.0 / 3) + t * t * (t / 2 - 1);
    value[2] = (REAL)(2.0 / 3) + s * s * (s / 2 - 1);
    value[3] = t * t * t / 6;
    slope[0] = -scale * s * s / 2;
    slope[1] = scale * t * (t * (REAL)1.5 - 2);
    slope[2] = -scale * s * (s * (REAL)1.5 - 2);
    slope[3] = scale * t * t / 2;
    return cell;
}

static inline NAME(Place) NAME(find)(const Request *ask, const REAL *point)
{
    NAME(Place) place = {1, ask->channels, ask->table, {1}, {0}, {0}, {0}};
    const int last = (int)ask->num_axes - 1;
    int64_t row = NAME(weigh)(point[last], ask->start[last], ask->spacing, ask->count[last], place.last, place.last_slope);
    if (last == 1) {
        place.outer = 4;
        place.inner = (ask->count[1] + 3) * ask->channels;
        row += (ask->count[1] + 3) *
               NAME(weigh)(point[0], ask->start[0], ask->spacing, ask->count[0], place.first, place.first_slope);
    }
    place.rows += row * ask->channels;
    return place;
}

/* The kernel for some channels. */
static inline VEC NAME(read)(const NAME(Place) *place, int64_t channels, int64_t c, int64_t width)
{
    VEC out = {0};
    for (int64_t i = 0; i < place->outer; i++) {
        const REAL *rows = place->rows + i * place->inner + c;
        VEC sum = {0};
        for (int k = 0; k < 4; k++)
            sum += place->last[k] * NAME(load)(rows + k * channels, width);
        out += place->first[i] * sum;
    }
    return out;
}

/* The kernel for some channels, and its derivatives along the first and the last axis. */
static inline VEC NAME(read_slopes)(const NAME(Place) *place, int64_t channels, int64_t c, int64_t width, VEC *slopes)
{
    VEC out = {0}, first = {0}, last = {0};
    for (int64_t i = 0; i < place->outer; i++) {
        const REAL *rows = place->rows + i * place->inner + c;
        VEC sum = {0}, slope = {0};
        for (int k = 0; k < 4; k++) {
            const VEC row = NAME(load)(rows + k * channels, width);
            sum += place->last[k] * row;
            slope += place->last_slope[k] * row;
        }
        out += place->first[i] * sum;
        first += place->first_slope[i] * sum;
        last += place->first[i] * slope;
    }
    slopes[0] = first;
    slopes[1] = last;
    return out;
}

/* out_i += Σ_e x[a_e] w_e S(p_e) for the edges e into i. */
void NAME(geomol_tabulated_conv)(Request *ask)
{
    const int64_t channels = ask->channels, node = ask->num_ori * channels;
    const REAL *x = ask->x, *points = ask->points, *window = ask->window;
    REAL *out = ask->out;
    for (int64_t e = ask->first; e < ask->last && exists(ask, e); e++) {
        const REAL *sent = x + ask->a[e] * node;
        REAL *received = out + ask->b[e] * node;
        for (int64_t o = 0; o < ask->num_ori; o++) {
            const NAME(Place) place = NAME(find)(ask, points + (e * ask->num_ori + o) * ask->num_axes);
            for (int64_t c = 0; c < channels; c += LANES) {
                const int64_t width = channels - c, at = o * channels + c;
                const VEC kernel = window[e] * NAME(read)(&place, channels, c, width);
                NAME(add)(received + at, kernel * NAME(load)(sent + at, width), width);
            }
        }
    }
}

/* Derivatives of Σ y·out by x, by the points, and by the window. */
void NAME(geomol_tabulated_grads)(Request *ask)
{
    const int64_t channels = ask->channels, node = ask->num_ori * channels, axes = ask->num_axes;
    const REAL *x = ask->x, *y = ask->y, *points = ask->points, *window = ask->window;
    REAL *by_x = ask->out, *by_points = ask->by_points, *by_window = ask->by_window;
    for (int64_t e = ask->first; e < ask->last && exists(ask, e); e++) {
        const REAL *sent = x + ask->a[e] * node, *received = y + ask->b[e] * node;
        REAL *back = by_x + ask->a[e] * node;
        VEC whole = {0};
        for (int64_t o = 0; o < ask->num_ori; o++) {
            const int64_t place_of = (e * ask->num_ori + o) * axes;
            const NAME(Place) place = NAME(find)(ask, points + place_of);
            VEC along[2] = {{0}, {0}}, slopes[2];
            for (int64_t c = 0; c < channels; c += LANES) {
                const int64_t width = channels - c, at = o * channels + c;
                const VEC kernel = NAME(read_slopes)(&place, channels, c, width, slopes);
                const VEC there = NAME(load)(received + at, width), product = there * NAME(load)(sent + at, width);
                NAME(add)(back + at, window[e] * kernel * there, width);
                along[0] += slopes[0] * product;
                along[1] += slopes[1] * product;
                whole += kernel * product;
            }
            for (int64_t axis = 0; axis < axes; axis++)
                by_points[place_of + axis] = window[e] * NAME(total)(along[2 - axes + axis]);
        }
        by_window[e] = NAME(total)(whole);
    }
}

#undef VEC
#undef LANES
#undef REAL
#undef NAME
