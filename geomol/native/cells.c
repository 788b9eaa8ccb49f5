/* Neighbour lists of large, periodic and batched structures: the search of geomol/graph/cells.py for a CPU.
 *
 * Every point is a sender, every atom in its home cell a receiver. The points of a bin share the atoms they look at.
 * Pairs are dealt out to the receivers in the order of the points, which is that of (atom, shift), and so every row
 * comes out sorted.
 *
 * Distances are decided in double by the very operations of `Images.exact_square`: never contract or reorder them.
 */

#define _DEFAULT_SOURCE /* madvise */
#include "bins.h"

#if FLT_EVAL_METHOD != 0
#error "distances need doubles that are rounded after every operation"
#endif

enum { ROOM_PER_ATOM = 100 }; /* pairs, to begin with */
enum { BYTES_PER_PAIR = 56 }; /* of the search and the lists together */
enum { BLOCK = 512 };         /* distances that stay in the nearest cache */
#define NOBODY UINT32_MAX

typedef struct {
    double place[3], offset[3];
    int64_t atom;
    uint32_t self; /* number of the atom in the structure where the point is the atom itself, else none */
} Sender;

/* Vectors of GCC and clang, which become what the processor has. */
typedef double Lanes __attribute__((vector_size(LANES * sizeof(double)), aligned(sizeof(double))));
typedef int64_t Flags __attribute__((vector_size(LANES * sizeof(int64_t)), aligned(sizeof(int64_t))));

/* Squares of the distances of a sender from receivers; returns how many are below a limit. */
static int64_t measure(const Sender *sender, const Near *near, int64_t begin, int64_t end, double limit, double *squares)
{
    const double sx = sender->place[0], sy = sender->place[1], sz = sender->place[2];
    const double ox = sender->offset[0], oy = sender->offset[1], oz = sender->offset[2];
    Flags flags = {0};
    for (int64_t k = begin; k < end; k += LANES) {
        const Lanes dx = (sx - *(const Lanes *)(near->x + k)) + ox;
        const Lanes dy = (sy - *(const Lanes *)(near->y + k)) + oy;
        const Lanes dz = (sz - *(const Lanes *)(near->z + k)) + oz;
        const Lanes square = (dx * dx + dy * dy) + dz * dz;
        *(Lanes *)(squares + k - begin) = square;
        flags -= square < limit; /* true is -1 */
    }
    int64_t num_below = 0;
    for (int lane = 0; lane < LANES; lane++)
        num_below += flags[lane];
    return num_below;
}

/* Keeps the closest pair so far, in the order of (distance, receiver, sender). */
static void note_closest(const Sender *sender, int64_t receiver, double distance, Report *report)
{
    const int is_before = receiver < report->closest_dst ||
                          (receiver == report->closest_dst && sender->atom < report->closest_src);
    if (distance > report->closest || (distance == report->closest && !is_before))
        return;
    report->closest = distance;
    report->closest_dst = receiver;
    report->closest_src = sender->atom;
}

static void look_closely(const Sender *sender, const Near *near, int64_t first, double close, Report *report)
{
    double squares[BLOCK + LANES];
    for (int64_t begin = 0; begin < near->length; begin += BLOCK) {
        const int64_t end = begin + BLOCK < near->length ? begin + BLOCK : near->length;
        measure(sender, near, begin, end, close, squares);
        for (int64_t k = begin; k < end; k++)
            if (squares[k - begin] < close && near->atom[k] != sender->self)
                note_closest(sender, first + near->atom[k], sqrt(squares[k - begin]), report);
    }
}

/* Appends the receivers of a sender, atoms counted over the batch. */
static void find_near(
    const Request *request, const Sender *sender, const Near *near, int64_t first, Search *search, Report *report)
{
    double squares[BLOCK + LANES];
    const double below = request->below;
    const uint32_t self = sender->self, first_atom = (uint32_t)first;
    uint32_t *restrict found = search->found;
    int64_t num_pairs = search->num_pairs, num_close = 0;
    for (int64_t begin = 0; begin < near->length; begin += BLOCK) {
        const int64_t end = begin + BLOCK < near->length ? begin + BLOCK : near->length;
        const uint32_t *restrict atom = near->atom + begin;
        num_close += measure(sender, near, begin, end, request->close_below, squares);
        for (int64_t k = 0; k < end - begin; k++) {
            found[num_pairs] = first_atom + atom[k]; /* overwritten by the next where it is not near */
            num_pairs += (squares[k] < below) & (atom[k] != self);
        }
    }
    search->num_pairs = num_pairs;
    if (num_close > (self != NOBODY)) /* an atom is always close to itself */
        look_closely(sender, near, first, request->close_below, report);
}

/* Room for as many receivers more, within the memory that a search may take. */
static int make_room(const Request *request, Search *search, int64_t more)
{
    if (search->num_pairs > request->max_bytes / BYTES_PER_PAIR)
        return TOO_MANY;
    if (search->num_pairs + more < search->room)
        return DONE;
    const int64_t room = 2 * search->room + more + ROOM_PER_ATOM * search->num_atoms;
    uint32_t *found = take((size_t)room * sizeof(uint32_t));
    if (found == NULL)
        return NO_MEMORY;
    if (search->found != NULL)
        memcpy(found, search->found, (size_t)search->num_pairs * sizeof(uint32_t));
    free(search->found);
    search->found = found;
    search->room = room;
    return DONE;
}

/* Receivers of all points of a structure, bin by bin. */
static int search_bins(
    const Request *request, const Bins *bins, int64_t graph, int64_t first_point, Near *near, Search *search, Report *report)
{
    const int64_t first = request->ptr[graph];
    for (int64_t bin = 0; bin < bins->total; bin++) {
        if (bins->point_start[bin] == bins->point_start[bin + 1])
            continue;
        gather(bins, bin, near);
        for (int64_t k = bins->point_start[bin]; near->length > 0 && k < bins->point_start[bin + 1]; k++) {
            const int64_t number = first_point + bins->point[k], atom = search->points[number].atom;
            Sender sender = {.atom = atom, .self = search->own[atom] == number ? (uint32_t)(atom - first) : NOBODY};
            memcpy(sender.place, request->home + 3 * atom, sizeof sender.place);
            memcpy(sender.offset, search->offset + 3 * number, sizeof sender.offset);
            const int status = make_room(request, search, near->length);
            if (status != DONE)
                return status;
            search->begin[number] = search->num_pairs;
            find_near(request, &sender, near, first, search, report);
            search->end[number] = search->num_pairs;
        }
    }
    return search->num_pairs > request->max_bytes / BYTES_PER_PAIR ? TOO_MANY : DONE;
}

static int search_all(const Request *request, Bins *bins, Near *near, Search *search, Report *report)
{
    int64_t point = 0;
    for (int64_t graph = 0; graph < request->num_graphs; graph++) {
        const int64_t first = request->ptr[graph], num = request->ptr[graph + 1] - first, first_point = point;
        if (num == 0)
            continue;
        while (point < search->num_points && search->points[point].atom < first + num)
            point++;
        lay_out(bins, request->home + 3 * first, num, request->radius);
        sort_atoms(bins, request->home + 3 * first, num);
        sort_points(bins, request->home, search, first_point, point - first_point);
        const int status = search_bins(request, bins, graph, first_point, near, search, report);
        if (status != DONE)
            return status;
    }
    return DONE;
}

/* `search_all` with room for the largest structure. */
static int search_with_room(const Request *request, Search *search, Report *report)
{
    size_t most = LANES, points = (size_t)search->num_points + 1;
    for (int64_t graph = 0; graph < request->num_graphs; graph++) {
        const size_t num = (size_t)(request->ptr[graph + 1] - request->ptr[graph]) + LANES;
        most = num > most ? num : most;
    }
    double *places = calloc(6 * most, sizeof(double));
    uint32_t *numbers = malloc((2 * most + points) * sizeof(uint32_t));
    const size_t num_starts = BINS_PER_ATOM * most + SPARE_BINS + 2;
    int64_t *starts = malloc((2 * num_starts + points) * sizeof(int64_t));
    int status = NO_MEMORY;
    if (places && numbers && starts) {
        Bins bins = {.x = places, .y = places + most, .z = places + 2 * most, .atom = numbers,
                     .point = numbers + 2 * most, .atom_start = starts, .point_start = starts + num_starts,
                     .bin = starts + 2 * num_starts};
        Near near = {.x = places + 3 * most, .y = places + 4 * most, .z = places + 5 * most, .atom = numbers + most};
        status = search_all(request, &bins, &near, search, report);
    }
    free(places);
    free(numbers);
    free(starts);
    return status;
}

/* Finds all pairs; the result, null without memory, is for the two functions below. */
Search *geomol_cells_find(const Request *request, Report *report)
{
    Search *search = calloc(1, sizeof(Search));
    *report = (Report){.status = NO_MEMORY, .closest = INFINITY, .closest_dst = INT64_MAX, .closest_src = INT64_MAX};
    if (search == NULL)
        return NULL;
    search->num_atoms = request->ptr[request->num_graphs];
    search->home_cell = request->home_cell;
    report->status = make_points(request, search, report);
    if (report->status == DONE)
        report->status = search_with_room(request, search, report);
    report->num_pairs = search->num_pairs;
    return search;
}

/* Writes dst (E), src (E) and shift (E, 3) in the order of (dst, src, shift). */
int geomol_cells_write(const Search *search, int64_t *restrict dst, int64_t *restrict src, int64_t *restrict shift)
{
    const int64_t num_atoms = search->num_atoms;
    int64_t *next = calloc((size_t)num_atoms + 2, sizeof(int64_t));
    if (next == NULL)
        return NO_MEMORY;
    for (int64_t k = 0; k < search->num_pairs; k++)
        next[search->found[k] + 2]++;
    for (int64_t atom = 2; atom < num_atoms + 2; atom++)
        next[atom] += next[atom - 1];
    for (int64_t number = 0; number < search->num_points; number++)
        for (int64_t k = search->begin[number]; k < search->end[number]; k++)
            src[next[search->found[k] + 1]++] = number; /* for now; leaves the start of the next row there */
    for (int64_t atom = 0; atom < num_atoms; atom++) {
        int64_t home[3] = {0, 0, 0};
        if (search->home_cell != NULL)
            memcpy(home, search->home_cell + 3 * atom, sizeof home);
        for (int64_t e = next[atom]; e < next[atom + 1]; e++) {
            const Point *point = &search->points[src[e]];
            dst[e] = atom;
            src[e] = point->atom;
            for (int axis = 0; axis < 3; axis++)
                shift[3 * e + axis] = point->away[axis] + home[axis];
        }
    }
    free(next);
    return DONE;
}

void geomol_cells_free(Search *search)
{
    if (search == NULL)
        return;
    free(search->memory);
    free(search->found);
    free(search);
}
