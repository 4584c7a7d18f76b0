/* DESIGN: parked workers.
 *
 * Why: the kernel sends a parent-death signal when the *thread* dies that created the child (prctl(2),
 *     PR_SET_PDEATHSIG). A program that asks for one itself (bwrap --die-with-parent, setpriv --pdeathsig)
 *     means this process. So a worker stays while its children live. Nobody can tell which program will
 *     ask: the kernel shows a process' parent-death signal to that process only.
 * What it costs: a thread. The process is multi-threaded then: os.fork() warns (Python 3.12),
 *     unshare(CLONE_NEWUSER) is EINVAL, the children stand in /proc/self/task/WORKER/children. So no more
 *     than AVF_PARKED workers stay, a worker stays no longer than its children, and avf_park(0) switches it off.
 * Where: the worker waits; whoever sees a child end tells it. A child whose plan has a parent-death signal binds its
 *     worker: that one stays whatever the number, and whether parking is on or off.
 * Invariants: places lie in chunks that are never freed, made on the loop's thread, so no worker allocates; there is
 *     one for each worker that may bind itself (avf_park_reserve). The number of a place holds its generation: children
 *     that outlive their worker's stay name a place that is over, and nothing happens. */
#include "park.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "window.h"

enum {
    AVF_PARKED =
        64, /* workers that outlive their spawns for the sake of children that have not asked for it */
    PARK_CHUNK = 1024,
    PARK_CHUNKS = 256,
    PARK_FIRST_WAIT_NS = 50 * 1000 *
        1000, /* most children end within it, and then cost their loop no wake-up */
};

/* guarded by lock */
struct park_place {
    uint64_t generation;
    struct park_place *next; /* free */
    uint32_t index;
    uint32_t living; /* children posted and not yet over */
    uint32_t bound;  /* of those, with a parent-death signal that their plan asks for */
    uint8_t taken;
    uint8_t asleep; /* the worker waits for `gone` without a time limit */
    pthread_cond_t gone;
};

static struct park_place first_places[PARK_CHUNK], *chunks[PARK_CHUNKS] = {first_places};
static struct park_place *free_places;
static uint32_t chunk_count, taken, parked;
static int disabled;

/* THREAD any, under the lock. NULL for a place whose worker has left. */
static struct park_place *park_find(uint64_t place)
{
    uint32_t index = (uint32_t)place;
    if (place == 0 || index / PARK_CHUNK >= chunk_count)
        return NULL;
    struct park_place *found = &chunks[index / PARK_CHUNK][index % PARK_CHUNK];
    return found->taken && (uint32_t)found->generation == place >> 32 ? found : NULL;
}

/* THREAD worker|loop, under the lock. Makes the places of a chunk known, which has memory. */
static void park_open(void)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    for (uint32_t i = 0; i < PARK_CHUNK; i++) {
        struct park_place *place = &chunks[chunk_count][i];
        place->index = chunk_count * PARK_CHUNK + i;
        place->taken = 0;
        place->next = free_places;
        free_places = place;
        pthread_cond_init(&place->gone, &monotonic); /* holds no resource: never destroyed */
    }
    pthread_condattr_destroy(&monotonic);
    chunk_count++;
}

/* THREAD loop. */
int avf_park_reserve(void)
{
    int error = 0;
    avf_lock();
    if (chunk_count == 0)
        park_open();
    if (taken + AVF_SEATS >= chunk_count * PARK_CHUNK) {
        if (chunk_count < PARK_CHUNKS && !chunks[chunk_count])
            chunks[chunk_count] = calloc(PARK_CHUNK, sizeof **chunks);
        if (chunk_count < PARK_CHUNKS && chunks[chunk_count])
            park_open();
        else
            error = -ENOMEM;
    }
    avf_unlock();
    return error;
}

/* THREAD worker. */
uint64_t avf_park_take_place(void)
{
    avf_lock();
    if (chunk_count == 0)
        park_open();
    struct park_place *place = free_places;
    if (place) {
        free_places = place->next;
        place->taken = 1;
        place->asleep = 0;
        place->living = place->bound = 0;
        place->generation++;
        taken++;
    }
    uint64_t number = place ? (uint64_t)(uint32_t)place->generation << 32 | place->index : 0;
    avf_unlock();
    return number;
}

/* THREAD any, under the lock. */
void avf_park_add_child(uint64_t place, struct avf_slot *slot, int bound)
{
    struct park_place *found = park_find(place);
    slot->parent = place;
    slot->bound = (uint8_t)bound;
    if (!found)
        return;
    found->living++;
    found->bound += slot->bound;
}

/* THREAD any, under the lock. */
void avf_park_forget_child(struct avf_slot *slot)
{
    struct park_place *place = park_find(slot->parent);
    slot->parent = 0;
    if (!place)
        return;
    place->bound -= slot->bound;
    if ((--place->living == 0 || (slot->bound && place->bound == 0)) && place->asleep)
        pthread_cond_signal(&place->gone);
}

/* THREAD worker, under the lock. Nothing but a parent-death signal that a plan asks for counts where parking is off. */
static int park_stays(const struct park_place *mine, int has_room)
{
    return mine->bound || (mine->living && has_room && !disabled);
}

/* THREAD worker. */
void avf_park_wait(uint64_t place)
{
    int64_t until_ns = avf_now() + PARK_FIRST_WAIT_NS;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    avf_lock();
    struct park_place *mine = park_find(place);
    uint32_t counts = mine && !mine->bound;
    int has_room = parked < AVF_PARKED;
    if (mine && park_stays(mine, has_room)) {
        parked += counts;
        while (park_stays(mine, has_room) && avf_lock_wait(&mine->gone, &until))
            ;
        mine->asleep = 1;
        while (park_stays(mine, has_room))
            (void)avf_lock_wait(&mine->gone, NULL);
        parked -= counts;
    }
    if (mine) {
        mine->taken = 0;
        mine->next = free_places;
        free_places = mine;
        taken--;
    }
    avf_unlock();
}

/* THREAD any. */
int32_t avf_park(int32_t enabled)
{
    avf_lock();
    int32_t before = !disabled;
    disabled = !enabled;
    for (uint32_t i = 0; disabled && i < chunk_count * PARK_CHUNK; i++)
        pthread_cond_signal(&chunks[i / PARK_CHUNK][i % PARK_CHUNK].gone);
    avf_unlock();
    return before;
}

/* THREAD any, in the child of a fork. The conditions may have waiters that are not here: made anew. */
void avf_park_after_fork(void)
{
    chunk_count = taken = parked = 0;
    free_places = NULL;
}
