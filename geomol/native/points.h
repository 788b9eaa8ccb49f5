/* What a search is asked and what it finds; and the points that it looks at, which are atoms and their images. */

#ifndef GEOMOL_POINTS_H
#define GEOMOL_POINTS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum { DONE, NO_MEMORY, TOO_MANY, TOO_MANY_IMAGES }; /* mirrored in search.py */
#define POINT_BYTES (sizeof(Point) + 3 * sizeof(double) + 3 * sizeof(int64_t))
#define MANY_CELLS 1000000000

/* Mirrored in search.py. Atoms are counted over the batch; frac, home_cell and margin are null where nothing is
 * periodic. */
typedef struct {
    int64_t num_graphs;
    const int64_t *ptr;       /* (G + 1) first atom of each structure */
    const double *home;       /* (N, 3) positions in the home cells */
    const double *frac;       /* (N, 3) the same in units of the cell */
    const int64_t *home_cell; /* (N, 3) cell that each atom was in */
    const double *cell;       /* (G, 3, 3) */
    const uint8_t *periodic;  /* (G, 3) */
    const double *margin;     /* (G, 3) how far images matter beyond each face, in units of the cell */
    double radius;
    double below;       /* squares of distances below this are inside the radius */
    double close_below; /* and those below this too close */
    int64_t max_bytes;
} Request;

/* Mirrored in search.py. */
typedef struct {
    int64_t status, num_pairs; /* at least so many where they are too many */
    double num_points;
    double closest; /* distance, receiver and sender of the closest pair, if that is too close; else infinity */
    int64_t closest_dst, closest_src;
} Report;

typedef struct {
    int64_t away[3]; /* shift, less the cell that the atom was in */
    int64_t atom;
} Point;

typedef struct {
    int64_t num_atoms, num_points, num_pairs, room;
    const int64_t *home_cell;
    void *memory;         /* of all but found */
    Point *points;        /* in the order of (atom, shift) */
    double *offset;       /* (M, 3) shift @ cell */
    int64_t *own;         /* (N) the point that each atom is */
    int64_t *begin, *end; /* (M) each point's receivers among those found */
    uint32_t *found;
} Search;

/* Memory, in few and large pages where there is much of it: a fault of a small page costs as much as many pairs. */
static void *take(size_t bytes)
{
#ifdef __linux__
    const size_t page = (size_t)1 << 21;
    void *memory;
    if (bytes >= page / 2 && posix_memalign(&memory, page, (bytes + page - 1) / page * page) == 0) {
        madvise(memory, (bytes + page - 1) / page * page, MADV_HUGEPAGE); /* advice: may fail */
        return memory;
    }
#endif
    return malloc(bytes);
}

/* Cells along an axis in which an atom has images within reach of its home cell: how many, and the first. */
static int64_t near_cells(const Request *request, int64_t graph, int64_t atom, int axis, int64_t *first)
{
    *first = 0;
    if (request->frac == NULL || !request->periodic[3 * graph + axis])
        return 1;
    const double margin = request->margin[3 * graph + axis], frac = request->frac[3 * atom + axis];
    if (!(margin < MANY_CELLS))
        return MANY_CELLS;
    int64_t low = (int64_t)floor(-margin - frac) - 1, high = (int64_t)ceil(1 + margin - frac) + 1;
    while (low <= high && !(frac + (double)low > -margin))
        low++;
    while (low <= high && !(frac + (double)high < 1 + margin))
        high--;
    *first = low;
    return high - low + 1;
}

static void add_point(const Request *request, Search *search, int64_t graph, int64_t atom, const int64_t step[3])
{
    const int64_t number = search->num_points++;
    search->points[number].atom = atom;
    search->begin[number] = search->end[number] = 0;
    for (int axis = 0; axis < 3; axis++) {
        search->points[number].away[axis] = 0;
        search->offset[3 * number + axis] = 0.0;
        if (request->frac == NULL)
            continue;
        const double *cell = request->cell + 9 * graph + axis;
        search->points[number].away[axis] = step[axis] - request->home_cell[3 * atom + axis];
        search->offset[3 * number + axis] =
            ((double)step[0] * cell[0] + (double)step[1] * cell[3]) + (double)step[2] * cell[6];
    }
    if (step[0] == 0 && step[1] == 0 && step[2] == 0)
        search->own[atom] = number;
}

static void add_points(const Request *request, Search *search, int64_t graph, int64_t atom)
{
    int64_t first[3], count[3], step[3];
    for (int axis = 0; axis < 3; axis++)
        count[axis] = near_cells(request, graph, atom, axis, &first[axis]);
    for (step[0] = first[0]; step[0] < first[0] + count[0]; step[0]++)
        for (step[1] = first[1]; step[1] < first[1] + count[1]; step[1]++)
            for (step[2] = first[2]; step[2] < first[2] + count[2]; step[2]++)
                add_point(request, search, graph, atom, step);
}

static double count_points(const Request *request)
{
    double total = 0;
    int64_t first;
    for (int64_t graph = 0; graph < request->num_graphs; graph++)
        for (int64_t atom = request->ptr[graph]; atom < request->ptr[graph + 1]; atom++) {
            double images = 1;
            for (int axis = 0; axis < 3; axis++)
                images *= (double)near_cells(request, graph, atom, axis, &first);
            total += images;
        }
    return total;
}

/* All atoms and those images that can be within reach of the cell. */
static int make_points(const Request *request, Search *search, Report *report)
{
    const double total = report->num_points = count_points(request);
    const double bytes = total * POINT_BYTES;
    if (total >= INT32_MAX || (bytes > (double)request->max_bytes && total > (double)search->num_atoms))
        return TOO_MANY_IMAGES;
    const size_t num = (size_t)total + 1;
    char *memory = search->memory = take(num * POINT_BYTES);
    if (memory == NULL)
        return NO_MEMORY;
    search->points = (Point *)memory;
    search->offset = (double *)(memory + num * sizeof(Point));
    search->begin = (int64_t *)(search->offset + 3 * num);
    search->end = search->begin + num;
    search->own = search->end + num;
    for (int64_t graph = 0; graph < request->num_graphs; graph++)
        for (int64_t atom = request->ptr[graph]; atom < request->ptr[graph + 1]; atom++)
            add_points(request, search, graph, atom);
    return DONE;
}

#endif
