/* DESIGN: output and input off the loop.
 *
 * What: one thread with one epoll reads the pipes of all captures, writes their input, keeps limits, reaps the children
 *     that are theirs alone, and posts one record for each. Then it puts what was kept where the loop wants it.
 * Where: its own thread, born at the first capture, on whatever thread asks; it starts nothing, so what it inherits
 *     from there does not matter. It ends when there has been nothing to do for a second.
 * Invariants: it works on a capture without the lock only while that is `busy`; who wants to take the capture away sets
 *     `leaving` and waits for less than a millisecond. An event names a ticket, so that what is over by then is not
 *     found. Only the collector closes an end of a capture that is busy. It runs while somebody has been promised one:
 *     `expected` counts captures from submit to post, copies, and memory to give back.
 * Deliberately absent: Python, the GIL, malloc. */
#include "collector.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "group.h"
#include "park.h"
#include "pipes.h"
#include "reaper.h"
#include "thread.h"

enum {
    COLLECTOR_EVENTS = 64,
    COLLECTOR_IDLE_MS = 1000,
    COLLECTOR_LOOK_AGAIN_NS = 20 * 1000 * 1000,
    COLLECTOR_PIDFD = 3, /* behind the three ends */
};

/* guarded by lock, but for the descriptors, which are open while there is a collector */
static struct {
    int epoll_fd, event_fd;
    int running, starting;
    uint32_t expected, waiters;
    struct avf_captured *copies, *discarded, *timed, *retired;
    int64_t next_deadline;
} collector = {.epoll_fd = -1, .event_fd = -1};

static pthread_cond_t left_alone = PTHREAD_COND_INITIALIZER;

/* ---- its life ---- */

/* THREAD loop, in the gate, under the lock. */
int avf_collector_open(void)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int32_t fds[2] = {-1, -1};
    if (collector.epoll_fd >= 0)
        return 0;
    fds[0] = avf_fd_above_stdio(epoll_create1(EPOLL_CLOEXEC));
    if (fds[0] >= 0)
        fds[1] = avf_fd_above_stdio(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    int error = fds[0] < 0 ? fds[0] : fds[1];
    if (error >= 0)
        error = epoll_ctl(fds[0], EPOLL_CTL_ADD, fds[1], &event) < 0 ? -errno : 0;
    if (error < 0) {
        avf_close_all(fds, 2);
        return error;
    }
    collector.epoll_fd = fds[0];
    collector.event_fd = fds[1];
    return 0;
}

/* THREAD any, under the lock. */
static void collector_signal(void)
{
    uint64_t one = 1;
    if (collector.event_fd >= 0)
        (void)!write(collector.event_fd, &one, sizeof one);
}

/* THREAD any, in the gate, under the lock. */
void avf_collector_close(void)
{
    int32_t fds[2] = {collector.epoll_fd, collector.event_fd};
    if (avf_state.ports)
        return;
    if (collector.running) {
        collector_signal();
        return;
    }
    collector.epoll_fd = collector.event_fd = -1;
    avf_close_all(fds, 2);
}

static void *collector_main(void *arg);

/* THREAD loop. */
int avf_collector_expect(struct avf_captured *c)
{
    avf_lock();
    while (collector.starting) /* another thread's: whether there is a collector is known in a moment */
        (void)avf_lock_wait(&left_alone, NULL);
    int start = !collector.running, error = 0;
    collector.running = 1;
    collector.expected += !c->expected;
    c->expected = 1;
    collector.starting = start;
    avf_unlock();
    if (!start)
        return 0;
    error = avf_thread_start(collector_main, NULL);
    avf_lock();
    collector.starting = 0;
    if (error < 0) {
        collector.running = 0;
        avf_collector_unexpect(c);
    }
    pthread_cond_broadcast(&left_alone);
    avf_unlock();
    return error;
}

/* THREAD any, under the lock. */
void avf_collector_unexpect(struct avf_captured *c)
{
    collector.expected -= c->expected;
    c->expected = 0;
}

/* THREAD collector. RETURNS whether it goes on. */
static int collector_goes_on(int idle)
{
    int32_t fds[2] = {-1, -1};
    avf_gate_enter();
    avf_lock();
    int go_on = collector.expected > 0 || (avf_state.ports && !idle);
    if (!go_on) {
        collector.running = 0;
        if (!avf_state.ports) {
            fds[0] = collector.epoll_fd;
            fds[1] = collector.event_fd;
            collector.epoll_fd = collector.event_fd = -1;
        }
    }
    avf_unlock();
    avf_close_all(fds, 2);
    avf_gate_leave();
    return go_on;
}

/* ---- a capture's life ---- */

/* THREAD any, under the lock. The capture of a slot in the hands of the collector. */
static struct avf_captured *collector_capture(const struct avf_slot *slot)
{
    return slot && slot->state == AVF_SLOT_CAPTURED ? (struct avf_captured *)slot->capture : NULL;
}

/* THREAD any, under the lock. Where a capture that is under way is noted; NULL for one that is not. */
struct avf_slot *avf_collector_slot(struct avf_captured *c)
{
    struct avf_slot *slot = avf_slot_find(c->ticket);
    return slot && slot->capture == &c->shown ? slot : NULL;
}

/* THREAD any, under the lock. */
static int collector_watch(uint64_t ticket, int which, int fd, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.u64 = ticket | (uint64_t)which << 62};
    return epoll_ctl(collector.epoll_fd, operation, fd, &event) < 0 ? -errno : 0;
}

/* THREAD any, under the lock. */
static void collector_unwatch(int fd)
{
    struct epoll_event unused;
    if (fd >= 0 && collector.epoll_fd >= 0)
        epoll_ctl(collector.epoll_fd, EPOLL_CTL_DEL, fd, &unused);
}

/* THREAD any, under the lock. */
static int collector_watch_all(uint64_t ticket, int pidfd, const int32_t ends[3])
{
    int error = 0;
    for (int i = 0; i < 3 && error == 0; i++)
        if (ends[i] >= 0)
            error = collector_watch(ticket, i, ends[i], i ? EPOLLIN : EPOLLOUT, EPOLL_CTL_ADD);
    if (error == 0 && pidfd >= 0)
        error = collector_watch(ticket, COLLECTOR_PIDFD, pidfd, EPOLLIN | EPOLLONESHOT, EPOLL_CTL_ADD);
    if (error < 0)
        for (int i = 0; i < 3; i++)
            collector_unwatch(ends[i]);
    return error;
}

/* THREAD any, under the lock. */
static void collector_list(struct avf_captured **list, struct avf_captured *c)
{
    while (*list)
        list = &(*list)->next;
    c->next = NULL;
    *list = c;
}

/* THREAD any, under the lock. */
static void collector_unlist(struct avf_captured **list, struct avf_captured *c)
{
    while (*list && *list != c)
        list = &(*list)->next;
    if (*list)
        *list = c->next;
}

/* THREAD any, under the lock. */
static void collector_time(struct avf_captured *c, int64_t after_ns)
{
    c->deadline = avf_now() + after_ns;
    if (!c->timed) {
        c->timed = 1;
        c->next = collector.timed;
        collector.timed = c;
    }
    if (!collector.next_deadline || c->deadline < collector.next_deadline)
        collector.next_deadline = c->deadline;
}

/* THREAD any, under the lock. */
void avf_collector_hurry(struct avf_slot *slot, struct avf_captured *c, int64_t drain_ns)
{
    c->shown.drain_ns = drain_ns;
    if (slot->is_over) {
        collector_time(c, drain_ns);
        collector_signal();
    }
}

/* THREAD any, under the lock. */
static void collector_begin(struct avf_captured *c, uint64_t ticket, const int32_t ends[3])
{
    c->ticket = ticket;
    c->flags = c->error = 0;
    if (ends)
        memcpy(c->ends, ends, sizeof c->ends);
    avf_counters *counters = &avf_state.counters;
    counters->captures++;
    if (++counters->capturing > counters->capturing_peak)
        counters->capturing_peak = counters->capturing;
    c->read_before = c->shown.total[0] + c->shown.total[1];
    c->written_before = c->shown.written;
}

/* THREAD any, under the lock. Nothing is left to do for it. RETURNS its ends, for the caller to close. */
void avf_collector_end(struct avf_captured *c, int32_t ret_ends[3])
{
    if (c->timed)
        collector_unlist(&collector.timed, c);
    c->timed = 0;
    for (int i = 0; i < 3; i++)
        collector_unwatch(c->ends[i]);
    memcpy(ret_ends, c->ends, sizeof c->ends);
    memset(c->ends, -1, sizeof c->ends);
    avf_counters *counters = &avf_state.counters;
    counters->capturing--;
    counters->bytes_read += (uint64_t)(c->shown.total[0] + c->shown.total[1] - c->read_before);
    counters->bytes_written += (uint64_t)(c->shown.written - c->written_before);
}

/* THREAD any, under the lock. */
void avf_collector_end_copy(struct avf_captured *c)
{
    collector_unlist(&collector.copies, c);
    c->streams[0].copy_to = c->streams[1].copy_to = NULL;
    c->copying = 0;
}

/* THREAD any, under the lock. */
void avf_collector_discard(struct avf_captured *c)
{
    collector.expected += !c->expected;
    c->expected = 1;
    collector_list(&collector.discarded, c);
    collector_signal();
}

/* THREAD loop, under the lock. */
void avf_collector_add_copy(struct avf_captured *c)
{
    c->copying = 1;
    collector_list(&collector.copies, c);
    collector_signal();
}

/* THREAD any, under the lock. */
struct avf_captured *avf_collector_take_retired(void)
{
    struct avf_captured *first = collector.retired;
    collector.retired = NULL;
    return first;
}

/* THREAD any. */
void avf_collector_take_away(struct avf_captured *c)
{
    avf_lock();
    c->leaving = 1;
    collector.waiters++;
    while (c->busy)
        (void)avf_lock_wait(&left_alone, NULL);
    collector.waiters--;
    avf_unlock();
}

/* THREAD worker|loop, under the lock. */
int avf_collector_add(struct avf_slot *slot, int pidfd, const int32_t ends[3])
{
    struct avf_captured *c = (struct avf_captured *)slot->capture;
    int error = collector_watch_all(slot->ticket, pidfd, ends);
    if (error == 0)
        collector_begin(c, slot->ticket, ends);
    return error;
}

/* ---- one event ---- */

/* THREAD collector, under the lock, in the gate. The exit was seen. RETURNS the pidfd for the caller to close, or -1
 * if somebody may ask for the end of the group. */
static int collector_end_child(struct avf_slot *slot, struct avf_captured *c)
{
    avf_park_forget_child(slot);
    if (c->exit.flags & AVF_GROUP_LIVES && slot->port && !slot->unwanted) {
        collector_unwatch(slot->pidfd);
        return -1;
    }
    c->exit.flags &= ~AVF_GROUP_LIVES;
    return avf_group_take_leader(slot);
}

/* THREAD collector, under the lock. A child that lives becomes one of the port's; what its epoll does not take now, the
 * timer brings (drain.c). */
static void collector_give_child(struct avf_slot *slot, struct avf_captured *c)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = slot->ticket};
    c->flags |= AVF_CHILD_LIVES;
    collector_unwatch(slot->pidfd);
    (void)epoll_ctl(slot->port->epoll_fd, EPOLL_CTL_ADD, slot->pidfd, &event);
}

/* THREAD collector, under the lock, in the gate. The capture is over: its record goes to the port. */
static void collector_post(struct avf_slot *slot, struct avf_captured *c)
{
    int32_t fds[4];
    avf_collector_end(c, fds);
    fds[3] = slot->is_over ? collector_end_child(slot, c) : -1;
    avf_close_all(fds, 4);
    avf_collector_unexpect(c);
    if (slot->port) {
        slot->outcome = AVF_OUTCOME_CAPTURE;
        if (slot->pidfd >= 0 && !slot->is_over)
            collector_give_child(slot, c);
        avf_port_post(slot->port, slot); /* last: the loop is awake now, and wants the lock */
        return;
    }
    slot->capture = NULL;
    avf_slot_move(slot, AVF_SLOT_FREE, NULL);
    avf_collector_discard(c); /* it was detached */
}

/* THREAD any, under the lock, in the gate. What remains to be done for it once its port has closed: nothing. */
void avf_collector_abandon(struct avf_slot *slot, struct avf_captured *c)
{
    int32_t ends[3] = {-1, -1, -1};
    int with_child = slot->pid > 0;
    if (c->copying)
        avf_collector_end_copy(c);
    else
        avf_collector_end(c, ends);
    avf_collector_unexpect(c);
    slot->capture = NULL;
    avf_close_all(ends, 3);
    if (with_child && !slot->is_over) {
        collector_unwatch(slot->pidfd);
        avf_reaper_orphan(slot);
    } else if (with_child) {
        avf_park_forget_child(slot);
        (void)avf_group_end(slot);
        close(avf_group_let_go(slot));
    } else {
        avf_slot_move(slot, AVF_SLOT_FREE, NULL);
    }
}

/* THREAD any, in the gate, under the lock. */
void avf_collector_give_up(struct avf_slot *slot)
{
    struct avf_captured *c = collector_capture(slot);
    slot->port = NULL;
    if (c && !c->busy) /* else the collector finds that out */
        avf_collector_abandon(slot, c);
}

/* THREAD collector, under the lock, in the gate. Looks at what has happened to a capture. */
static void collector_settle(struct avf_slot *slot, struct avf_captured *c)
{
    int open = c->ends[0] >= 0 || c->ends[1] >= 0 || c->ends[2] >= 0, waits = slot->pid > 0 && !slot->is_over;
    if (!slot->port && !c->detached)
        avf_collector_abandon(slot, c);
    else if (c->error || c->flags || !(open || waits))
        collector_post(slot, c);
    else if (open && !waits && slot->pid > 0 && c->shown.drain_ns >= 0 && !c->timed)
        collector_time(c, c->shown.drain_ns);
}

/* THREAD collector, under the lock, in the gate. What was found of one end. */
static void collector_note(struct avf_captured *c, int which, int result)
{
    if (result < 0 && !c->detached)
        c->error = result;
    if (result == AVF_PIPE_LIMITED)
        c->flags |= AVF_CAPTURE_LIMITED;
    if (result == AVF_PIPE_ENDED || result < 0) {
        int32_t fd = c->ends[which];
        c->ends[which] = -1;
        avf_close_all(&fd, 1);
    }
}

/* THREAD collector, under the lock. The child was looked at; it may have been orphaned meanwhile. */
static void collector_note_exit(struct avf_slot *slot, struct avf_captured *c, int over)
{
    slot->reaped_now = 0;
    slot->is_over = (uint8_t)over;
    slot->is_unreaped = over && c->exit.is_unreaped;
    if (slot->state == AVF_SLOT_ORPHANED) {
        int32_t pidfd = over && !slot->is_unreaped ? slot->pidfd : -1;
        avf_reaper_settle(slot, pidfd >= 0);
        avf_close_all(&pidfd, 1);
    } else if (!over) { /* a tracer has it: the pidfd is readable, and there is nothing to reap */
        collector_time(c, COLLECTOR_LOOK_AGAIN_NS);
    }
}

/* THREAD collector, under the lock. */
static void collector_leave_alone(struct avf_captured *c)
{
    c->busy = 0;
    if (collector.waiters)
        pthread_cond_broadcast(&left_alone);
}

/* THREAD collector. */
static void collector_event(const struct epoll_event *event)
{
    uint64_t ticket = event->data.u64 & ~(3ULL << 62);
    int which = (int)(event->data.u64 >> 62), fd = -1, pid = -1, result;
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    struct avf_captured *c = collector_capture(slot);
    if (c && c->leaving && which == COLLECTOR_PIDFD) {
        collector_time(c, COLLECTOR_LOOK_AGAIN_NS); /* it is told once */
    } else if (c && !c->leaving && !c->copying) {
        fd = which == COLLECTOR_PIDFD ? slot->pidfd : c->ends[which];
        pid = slot->pid;
    }
    if (fd >= 0) {
        c->busy = 1;
        slot->reaped_now = which == COLLECTOR_PIDFD;
    }
    avf_unlock();
    if (fd < 0)
        return;
    if (which == COLLECTOR_PIDFD)
        result = avf_group_reap(slot, fd, pid, &c->exit);
    else if (which == 0)
        result = avf_pipe_write(c, fd);
    else
        result = avf_pipe_read(c, which - 1, fd, (event->events & (EPOLLHUP | EPOLLERR)) != 0);
    avf_gate_enter();
    avf_lock();
    if (which == COLLECTOR_PIDFD)
        collector_note_exit(slot, c, result); /* nobody frees a slot that is looked at */
    else
        collector_note(c, which, result);
    collector_leave_alone(c);
    if (slot->ticket == ticket && collector_capture(slot) == c && !c->leaving)
        collector_settle(slot, c);
    avf_unlock();
    avf_gate_leave();
}

/* ---- between events ---- */

/* THREAD collector, under the lock, in the gate. Somebody still holds a pipe. What lies in it is read: never more than
 * a pipe holds, so not worth giving the lock away. */
static void collector_cut(struct avf_slot *slot, struct avf_captured *c)
{
    for (int i = 1; i < 3; i++)
        if (c->ends[i] >= 0)
            collector_note(c, i, avf_pipe_read(c, i - 1, c->ends[i], 0));
    c->flags |= AVF_CAPTURE_CUT;
    collector_settle(slot, c);
}

/* THREAD collector. Those whose time has come. RETURNS when the next has, or 0. */
static int64_t collector_look_at_times(void)
{
    int64_t now = avf_now();
    avf_lock();
    int64_t next = collector.next_deadline;
    avf_unlock();
    if (!next || next > now)
        return next;
    avf_gate_enter();
    avf_lock();
    struct avf_captured *timed = collector.timed, *following;
    collector.timed = NULL;
    collector.next_deadline = 0;
    for (struct avf_captured *c = timed; c; c = following) {
        struct avf_slot *slot = avf_collector_slot(c);
        following = c->next;
        c->timed = 0;
        if (c->deadline > now) {
            collector_time(c, c->deadline - now);
        } else if (slot && !slot->is_over) {
            (void)collector_watch(slot->ticket, COLLECTOR_PIDFD, slot->pidfd, EPOLLIN | EPOLLONESHOT,
                                  EPOLL_CTL_MOD);
        } else if (slot && !c->leaving) {
            collector_cut(slot, c);
        }
    }
    next = collector.next_deadline;
    avf_unlock();
    avf_gate_leave();
    return next;
}

/* THREAD collector. A slice of the first copy, which then goes to the end of the line. RETURNS whether there is more. */
static int collector_copy(void)
{
    avf_lock();
    struct avf_captured *c = collector.copies;
    if (c) {
        collector.copies = c->next;
        c->busy = 1;
    }
    avf_unlock();
    if (!c)
        return 0;
    int done = avf_capture_copy_slice(c);
    avf_gate_enter();
    avf_lock();
    struct avf_slot *slot = avf_collector_slot(c);
    collector_leave_alone(c);
    if (slot && !slot->port) {
        avf_collector_abandon(slot, c);
    } else if (slot && done) {
        c->copying = 0;
        slot->outcome = AVF_OUTCOME_COPY;
        avf_collector_unexpect(c);
        avf_port_post(slot->port, slot);
    } else if (slot && !c->leaving) {
        collector_list(&collector.copies, c);
    }
    int more = collector.copies != NULL;
    avf_unlock();
    avf_gate_leave();
    return more;
}

/* THREAD collector. A slice of the memory that nobody wants. RETURNS whether there is more. */
static int collector_release(void)
{
    avf_lock();
    struct avf_captured *c = collector.discarded;
    avf_unlock();
    if (!c)
        return 0;
    if (avf_capture_release_slice(c)) {
        avf_lock();
        collector.discarded = c->next;
        avf_collector_unexpect(c);
        c->next = collector.retired;
        collector.retired = c;
        avf_unlock();
    }
    return 1;
}

/* THREAD collector. SIGNALS all blocked but libc's, so a write to a pipe that nobody reads is EPIPE. */
static void *collector_main(void *arg)
{
    struct epoll_event events[COLLECTOR_EVENTS];
    int64_t next = 0;
    int count, events_seen, busy = 0;
    prctl(PR_SET_NAME, "aiovfork-output");
    do {
        int64_t milliseconds = next ? (next - avf_now()) / 1000000 + 1 : COLLECTOR_IDLE_MS;
        if (milliseconds < 0 || busy)
            milliseconds = 0;
        if (milliseconds > COLLECTOR_IDLE_MS)
            milliseconds = COLLECTOR_IDLE_MS;
        count = epoll_wait(collector.epoll_fd, events, COLLECTOR_EVENTS, (int)milliseconds);
        events_seen = 0;
        for (int i = 0; i < count; i++)
            if (events[i].data.u64) {
                collector_event(&events[i]);
                events_seen = 1;
            }
        next = collector_look_at_times();
        busy = collector_copy();
        busy |= collector_release();
        avf_reaper_start(); /* what has lost its port meanwhile */
    } while (events_seen || busy || collector_goes_on(count <= 0 && !next));
    return arg;
}

/* THREAD any, in the child of a fork. What was discarded there is lost here: some memory. */
void avf_collector_after_fork(void)
{
    int32_t fds[2] = {collector.epoll_fd, collector.event_fd};
    avf_close_all(fds, 2);
    memset(&collector, 0, sizeof collector);
    collector.epoll_fd = collector.event_fd = -1;
    pthread_cond_init(&left_alone, NULL);
}
