/* DESIGN: what the collector has to do.
 *
 * What: the epoll that it waits with, the lists that it works off, and how many have been promised a collector.
 * Where: whoever has work for the collector puts it here; the collector (collector.c) takes it. All under the lock.
 * Invariants: `expected` counts captures from submit to post, copies, and memory to give back: while there is one, there
 *     is a collector. The collector works on a capture without the lock only while that is `busy`; who wants to take
 *     the capture away sets `leaving` and waits for less than a millisecond. */
#include "collection.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

struct avf_collection avf_collection = {
    .epoll_fd = -1, .event_fd = -1, .generation = 1, .changed = PTHREAD_COND_INITIALIZER};

/* THREAD any, under the lock. */
void avf_collection_signal(void)
{
    uint64_t one = 1;
    if (avf_collection.event_fd >= 0)
        (void)!write(avf_collection.event_fd, &one, sizeof one);
}

/* THREAD any, under the lock. */
static void collection_list(struct avf_captured **list, struct avf_captured *c)
{
    while (*list)
        list = &(*list)->next;
    c->next = NULL;
    *list = c;
}

/* THREAD any, under the lock. */
static void collection_unlist(struct avf_captured **list, struct avf_captured *c)
{
    while (*list && *list != c)
        list = &(*list)->next;
    if (*list)
        *list = c->next;
}

/* THREAD any, under the lock. */
int avf_collection_watch(uint64_t ticket, int which, int fd, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.u64 = ticket | (uint64_t)which << 62};
    return epoll_ctl(avf_collection.epoll_fd, operation, fd, &event) < 0 ? -errno : 0;
}

/* THREAD any, under the lock. */
void avf_collection_unwatch(int fd)
{
    struct epoll_event unused;
    if (fd >= 0 && avf_collection.epoll_fd >= 0)
        epoll_ctl(avf_collection.epoll_fd, EPOLL_CTL_DEL, fd, &unused);
}

/* THREAD any, under the lock. */
void avf_collection_time(struct avf_captured *c, int64_t after_ns)
{
    c->deadline = avf_now() + after_ns;
    if (!c->timed) {
        c->timed = 1;
        c->next = avf_collection.timed;
        avf_collection.timed = c;
    }
    if (!avf_collection.next_deadline || c->deadline < avf_collection.next_deadline)
        avf_collection.next_deadline = c->deadline;
}

/* THREAD collector, under the lock. */
struct avf_captured *avf_collection_take_due(int64_t now)
{
    struct avf_captured *due = NULL;
    if (!avf_collection.next_deadline || avf_collection.next_deadline > now)
        return NULL;
    avf_collection.next_deadline = 0;
    for (struct avf_captured *c = avf_collection.timed; c; c = c->next) {
        if (!due && c->deadline <= now)
            due = c;
        else if (!avf_collection.next_deadline || c->deadline < avf_collection.next_deadline)
            avf_collection.next_deadline = c->deadline;
    }
    if (due)
        avf_collection_untime(due);
    return due;
}

/* THREAD any, under the lock. */
void avf_collection_untime(struct avf_captured *c)
{
    if (c->timed)
        collection_unlist(&avf_collection.timed, c);
    c->timed = 0;
}

/* THREAD any, under the lock. */
void avf_collection_expect(struct avf_captured *c)
{
    avf_collection.expected += c->expected != avf_collection.generation;
    c->expected = avf_collection.generation;
}

/* THREAD any, under the lock. */
void avf_collection_unexpect(struct avf_captured *c)
{
    avf_collection.expected -= c->expected == avf_collection.generation;
    c->expected = 0;
}

/* THREAD any, under the lock. */
void avf_collection_end_copy(struct avf_captured *c)
{
    collection_unlist(&avf_collection.copies, c);
    c->streams[0].copy_to = c->streams[1].copy_to = NULL;
    c->copying = 0;
}

/* THREAD any, under the lock. */
void avf_collection_discard(struct avf_captured *c)
{
    avf_collection_expect(c);
    collection_list(&avf_collection.discarded, c);
    avf_collection_signal();
}

/* THREAD any, under the lock. */
void avf_collection_add_copy(struct avf_captured *c)
{
    c->copying = 1;
    collection_list(&avf_collection.copies, c);
}

/* THREAD collector, under the lock. */
struct avf_captured *avf_collection_take_copy(void)
{
    struct avf_captured *c = avf_collection.copies;
    while (c && c->leaving)
        c = c->next;
    if (c) {
        collection_unlist(&avf_collection.copies, c);
        c->busy = 1;
    }
    return c;
}

/* THREAD any, under the lock. */
struct avf_captured *avf_collection_take_retired(void)
{
    struct avf_captured *first = avf_collection.retired;
    avf_collection.retired = NULL;
    return first;
}

/* THREAD any. */
void avf_collection_take_away(struct avf_captured *c)
{
    avf_lock();
    c->leaving = 1;
    avf_collection.waiters++;
    while (c->busy)
        (void)avf_lock_wait(&avf_collection.changed, NULL);
    avf_collection.waiters--;
    avf_unlock();
}

/* THREAD collector, under the lock. */
void avf_collection_leave_alone(struct avf_captured *c)
{
    c->busy = 0;
    if (avf_collection.waiters)
        pthread_cond_broadcast(&avf_collection.changed);
}

/* THREAD any, in the child of a fork. What was discarded there is lost here: some memory. */
void avf_collection_after_fork(void)
{
    avf_collection =
        (struct avf_collection){.epoll_fd = -1, .event_fd = -1, .generation = avf_collection.generation + 1};
    pthread_cond_init(&avf_collection.changed, NULL);
}
