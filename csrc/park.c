/* DESIGN: parked workers.
 *
 * Why: the kernel sends a parent-death signal when the *thread* dies that created the child (prctl(2),
 *     PR_SET_PDEATHSIG). A program that asks for one itself (bwrap --die-with-parent, setpriv --pdeathsig)
 *     means this process. So a worker stays while its children live. Nobody can tell which program will
 *     ask: the kernel shows a process' parent-death signal to that process only.
 * What it costs: a thread. The process is multi-threaded then: os.fork() warns (Python 3.12),
 *     unshare(CLONE_NEWUSER) is EINVAL, the children stand in /proc/self/task/WORKER/children. So no more
 *     than AVF_PARKED workers stay, a worker stays no longer than its children, and avf_park(0) switches it off.
 * Where: the worker waits; whoever sees a child end tells it.
 * Invariants: a place is a static record, so no worker allocates. The number of a place holds its
 *     generation: children that outlive their worker's stay name a place that is over, and nothing happens. */
#include "park.h"

#include <time.h>

enum {
    AVF_PARKED = 64, /* workers that outlive their spawns for their children's sake */
    PARK_PLACES = AVF_PARKED + 256,
    PARK_FIRST_WAIT_NS = 50 * 1000 *
        1000, /* most children end within it, and then cost their loop no wake-up */
};

/* guarded by lock */
struct park_place {
    uint64_t generation;
    uint32_t living; /* children posted and not yet over */
    uint8_t taken;
    uint8_t asleep; /* the worker waits for `gone` without a time limit */
    pthread_cond_t gone;
};

static struct park_place places[PARK_PLACES];
static uint32_t next_place, parked;
static int disabled, prepared;

/* THREAD any, under the lock. NULL for a place whose worker has left. */
static struct park_place *park_find(uint64_t place)
{
    struct park_place *found = &places[place % PARK_PLACES];
    return place && found->taken && found->generation == place / PARK_PLACES ? found : NULL;
}

/* THREAD worker, under the lock. */
static void park_prepare(void)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    for (uint32_t i = 0; i < PARK_PLACES; i++)
        pthread_cond_init(&places[i].gone, &monotonic); /* holds no resource: never destroyed */
    pthread_condattr_destroy(&monotonic);
    prepared = 1;
}

/* THREAD worker. */
uint64_t avf_park_take_place(void)
{
    uint64_t taken = 0;
    avf_lock();
    if (!prepared)
        park_prepare();
    for (uint32_t i = 0; i < PARK_PLACES && !taken; i++) {
        uint32_t index = next_place++ % PARK_PLACES;
        struct park_place *place = &places[index];
        if (place->taken)
            continue;
        place->taken = 1;
        place->asleep = 0;
        place->living = 0;
        place->generation++;
        taken = place->generation * PARK_PLACES + index;
    }
    avf_unlock();
    return taken;
}

/* THREAD any, under the lock. */
void avf_park_add_child(uint64_t place, struct avf_slot *slot)
{
    struct park_place *found = park_find(place);
    slot->parent = place;
    if (found)
        found->living++;
}

/* THREAD any, under the lock. */
void avf_park_forget_child(struct avf_slot *slot)
{
    struct park_place *place = park_find(slot->parent);
    slot->parent = 0;
    if (place && --place->living == 0 && place->asleep)
        pthread_cond_signal(&place->gone);
}

/* THREAD worker. */
void avf_park_wait(uint64_t place)
{
    int64_t until_ns = avf_now() + PARK_FIRST_WAIT_NS;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    avf_lock();
    struct park_place *mine = park_find(place);
    if (mine && mine->living && !disabled && parked < AVF_PARKED) {
        parked++;
        while (mine->living && !disabled && avf_lock_wait(&mine->gone, &until))
            ;
        mine->asleep = 1;
        while (mine->living && !disabled)
            (void)avf_lock_wait(&mine->gone, NULL);
        parked--;
    }
    if (mine)
        mine->taken = 0;
    avf_unlock();
}

/* THREAD any. */
int32_t avf_park(int32_t enabled)
{
    avf_lock();
    int32_t before = !disabled;
    disabled = !enabled;
    if (disabled && prepared)
        for (uint32_t i = 0; i < PARK_PLACES; i++)
            pthread_cond_signal(&places[i].gone);
    avf_unlock();
    return before;
}

/* THREAD any, in the child of a fork. The conditions may have waiters that are not here: made anew. */
void avf_park_after_fork(void)
{
    for (uint32_t i = 0; i < PARK_PLACES; i++)
        places[i].taken = 0;
    parked = 0;
    prepared = 0;
}
