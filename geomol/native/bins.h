/* Atoms and points of one structure sorted into bins, which stand in columns along z. */

#ifndef GEOMOL_BINS_H
#define GEOMOL_BINS_H

#include <float.h>
#include <string.h>

#include "points.h"

enum { COLUMNS = 1, LAYERS = 2 };            /* bins per radius, across and along */
enum { BINS_PER_ATOM = 4, SPARE_BINS = 64 }; /* more than this, and bins are made coarser */
enum { LANES = 8 };                          /* distances at a time; what is read so is longer by that */
#define SLACK 1e-9 /* searches look this much farther; the radius itself is applied to the pairs they find */

typedef struct {
    double low[3], width[3], radius;
    int64_t count[3], total;
    int64_t *atom_start, *point_start; /* where each bin starts among what follows */
    double *x, *y, *z;                 /* atoms by bin: positions, and numbers in the structure */
    uint32_t *atom, *point;            /* points by bin: numbers in the structure */
    int64_t *bin;                      /* of atoms or points while they are sorted */
} Bins;

/* Atoms within reach of a bin. */
typedef struct {
    double *x, *y, *z;
    uint32_t *atom;
    int64_t length;
} Near;

/* The bin of a place, -1 outside of all, where no atom is within reach. */
static int64_t bin_of(const Bins *bins, double x, double y, double z)
{
    const double place[3] = {(x - bins->low[0]) / bins->width[0], (y - bins->low[1]) / bins->width[1],
                             (z - bins->low[2]) / bins->width[2]};
    int64_t bin = 0;
    for (int axis = 0; axis < 3; axis++) {
        if (!(place[axis] >= 0 && place[axis] < (double)bins->count[axis]))
            return -1;
        bin = bin * bins->count[axis] + (int64_t)place[axis];
    }
    return bin;
}

/* Bins as small as the radius asks and as few as there are atoms for, over all places within reach of an atom. */
static void lay_out(Bins *bins, const double *home, int64_t num_atoms, double radius)
{
    double extent = 0, length[3], count[3];
    for (int axis = 0; axis < 3; axis++) {
        double low = home[axis], high = home[axis];
        for (int64_t k = 1; k < num_atoms; k++) {
            const double here = home[3 * k + axis];
            low = here < low ? here : low;
            high = here > high ? here : high;
        }
        bins->low[axis] = low;
        length[axis] = high - low;
        extent = fmax(extent, fmax(fabs(low), fabs(high)));
    }
    bins->radius = radius * (1 + SLACK) + 32 * DBL_EPSILON * extent;
    for (int axis = 0; axis < 3; axis++) {
        bins->low[axis] -= bins->radius;
        bins->width[axis] = bins->radius / (axis < 2 ? COLUMNS : LAYERS);
        count[axis] = floor((length[axis] + 2 * bins->radius) / bins->width[axis]) + 1;
    }
    while (count[0] * count[1] * count[2] > (double)BINS_PER_ATOM * (double)num_atoms + SPARE_BINS) {
        const int axis = count[0] >= count[1] && count[0] >= count[2] ? 0 : count[1] >= count[2] ? 1 : 2;
        bins->width[axis] *= 2;
        count[axis] = floor((length[axis] + 2 * bins->radius) / bins->width[axis]) + 1;
    }
    for (int axis = 0; axis < 3; axis++)
        bins->count[axis] = (int64_t)count[axis];
    bins->total = bins->count[0] * bins->count[1] * bins->count[2];
}

/* Numbers of things in the order of their bins, and where each bin starts; those outside are left out. */
static void sort_by_bin(const Bins *bins, int64_t num, int64_t *start, uint32_t *order)
{
    memset(start, 0, (size_t)(bins->total + 2) * sizeof(int64_t));
    for (int64_t k = 0; k < num; k++)
        if (bins->bin[k] >= 0)
            start[bins->bin[k] + 2]++;
    for (int64_t b = 2; b < bins->total + 2; b++)
        start[b] += start[b - 1];
    for (int64_t k = 0; k < num; k++)
        if (bins->bin[k] >= 0)
            order[start[bins->bin[k] + 1]++] = (uint32_t)k; /* leaves the start of the next bin there */
}

static void sort_atoms(Bins *bins, const double *home, int64_t num)
{
    for (int64_t k = 0; k < num; k++)
        bins->bin[k] = bin_of(bins, home[3 * k], home[3 * k + 1], home[3 * k + 2]);
    sort_by_bin(bins, num, bins->atom_start, bins->atom);
    for (int64_t k = 0; k < num; k++) {
        const double *place = home + 3 * (int64_t)bins->atom[k];
        bins->x[k] = place[0];
        bins->y[k] = place[1];
        bins->z[k] = place[2];
    }
}

static void sort_points(Bins *bins, const double *home, const Search *search, int64_t first, int64_t num)
{
    for (int64_t k = 0; k < num; k++) {
        const double *place = home + 3 * search->points[first + k].atom, *offset = search->offset + 3 * (first + k);
        bins->bin[k] = bin_of(bins, place[0] + offset[0], place[1] + offset[1], place[2] + offset[2]);
    }
    sort_by_bin(bins, num, bins->point_start, bins->point);
}

/* Distance between two columns, given by how many apart they are. */
static double gap(const Bins *bins, int axis, int64_t apart)
{
    return apart == 0 ? 0.0 : (double)(llabs(apart) - 1) * bins->width[axis];
}

static void append_column(const Bins *bins, const int64_t column[2], int64_t layer, double reach, Near *near)
{
    const int64_t layers = (int64_t)ceil(reach / bins->width[2]), top = bins->count[2] - 1;
    const int64_t low = layer > layers ? layer - layers : 0, high = layer + layers < top ? layer + layers : top;
    const int64_t *start = bins->atom_start + (column[0] * bins->count[1] + column[1]) * bins->count[2];
    const int64_t begin = start[low], length = near->length;
    const size_t num = (size_t)(start[high + 1] - begin);
    memcpy(near->x + length, bins->x + begin, num * sizeof(double));
    memcpy(near->y + length, bins->y + begin, num * sizeof(double));
    memcpy(near->z + length, bins->z + begin, num * sizeof(double));
    memcpy(near->atom + length, bins->atom + begin, num * sizeof(uint32_t));
    near->length += (int64_t)num;
}

/* The atoms that can be within reach of places in a bin. */
static void gather(const Bins *bins, int64_t bin, Near *near)
{
    const int64_t layer = bin % bins->count[2], y = bin / bins->count[2] % bins->count[1];
    const int64_t x = bin / bins->count[2] / bins->count[1];
    near->length = 0;
    for (int64_t i = x > COLUMNS ? x - COLUMNS : 0; i <= x + COLUMNS && i < bins->count[0]; i++)
        for (int64_t j = y > COLUMNS ? y - COLUMNS : 0; j <= y + COLUMNS && j < bins->count[1]; j++) {
            const double gap_x = gap(bins, 0, i - x), gap_y = gap(bins, 1, j - y);
            const double square = bins->radius * bins->radius - gap_x * gap_x - gap_y * gap_y;
            if (square >= 0)
                append_column(bins, (const int64_t[2]){i, j}, layer, sqrt(square), near);
        }
    for (int lane = 0; lane < LANES; lane++)
        near->x[near->length + lane] = INFINITY; /* what is read beyond the end is far away */
}

#endif
