/* DESIGN: output and input off the loop.
 *
 * What: one thread with one epoll reads the pipes of all captures, writes their input, keeps limits, reaps the children
 *     that are theirs alone, and posts one record for each. Then it puts what was kept where the loop wants it.
 * Where: its own thread, born at the first capture, on whatever thread asks; it starts nothing, so what it inherits
 *     from there does not matter. It ends when there has been nothing to do for a second.
 * Invariants: no turn takes longer than a megabyte takes to read or copy. See collection.c and capturing.c for whose
 *     what is.
 * Deliberately absent: Python, the GIL, malloc. */
#include "collector.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "capturing.h"
#include "group.h"
#include "pipes.h"
#include "reaper.h"
#include "thread.h"

enum {
    COLLECTOR_EVENTS = 64,
    COLLECTOR_IDLE_MS = 1000,
};

/* THREAD loop, in the gate, under the lock. */
int avf_collector_open(void)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int32_t fds[2] = {-1, -1};
    if (avf_collection.epoll_fd >= 0)
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
    avf_collection.epoll_fd = fds[0];
    avf_collection.event_fd = fds[1];
    return 0;
}

/* THREAD any, in the gate, under the lock. */
void avf_collector_close(void)
{
    int32_t fds[2] = {avf_collection.epoll_fd, avf_collection.event_fd};
    if (avf_state.ports)
        return;
    if (avf_collection.running) {
        avf_collection_signal();
        return;
    }
    avf_collection.epoll_fd = avf_collection.event_fd = -1;
    avf_close_all(fds, 2);
}

static void *collector_main(void *arg);

/* THREAD loop. */
int avf_collector_expect(struct avf_captured *c)
{
    avf_lock();
    while (avf_collection.starting) /* another thread's: whether there is a collector is known in a moment */
        (void)avf_lock_wait(&avf_collection.changed, NULL);
    int start = !avf_collection.running, error = 0;
    avf_collection.running = 1;
    avf_collection_expect(c);
    avf_collection.starting = start;
    avf_unlock();
    if (!start)
        return 0;
    error = avf_thread_start(collector_main, NULL);
    avf_lock();
    avf_collection.starting = 0;
    if (error < 0) {
        avf_collection.running = 0;
        avf_collection_unexpect(c);
    }
    pthread_cond_broadcast(&avf_collection.changed);
    avf_unlock();
    return error;
}

/* THREAD collector. RETURNS whether it goes on. */
static int collector_goes_on(int idle)
{
    int32_t fds[2] = {-1, -1};
    avf_gate_enter();
    avf_lock();
    int go_on = avf_collection.expected > 0 || (avf_state.ports && !idle);
    if (!go_on) {
        avf_collection.running = 0;
        if (!avf_state.ports) {
            fds[0] = avf_collection.epoll_fd;
            fds[1] = avf_collection.event_fd;
            avf_collection.epoll_fd = avf_collection.event_fd = -1;
        }
    }
    avf_unlock();
    avf_close_all(fds, 2);
    avf_gate_leave();
    return go_on;
}

/* THREAD collector. */
static void collector_event(const struct epoll_event *event)
{
    uint64_t ticket = event->data.u64 & ~(3ULL << 62);
    int which = (int)(event->data.u64 >> 62), fd = -1, pid = -1, result;
    int hangup = (event->events & (EPOLLHUP | EPOLLERR)) != 0;
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    struct avf_captured *c = avf_capturing_capture(slot);
    if (c && c->leaving && which == AVF_END_PIDFD) {
        avf_collection_time(c, AVF_LOOK_AGAIN_NS); /* it is told once */
    } else if (c && !c->leaving && !c->copying) {
        fd = which == AVF_END_PIDFD ? slot->pidfd : c->ends[which];
        pid = slot->pid;
    }
    if (fd >= 0) {
        c->busy = 1;
        slot->reaped_now = which == AVF_END_PIDFD;
    }
    avf_unlock();
    if (fd < 0)
        return;
    if (which == AVF_END_PIDFD)
        result = avf_group_reap(slot, fd, pid, &c->exit);
    else if (which == 0)
        result = avf_pipe_write(c, fd, hangup);
    else
        result = avf_pipe_read(c, which - 1, fd, hangup);
    avf_gate_enter();
    avf_lock();
    if (which == AVF_END_PIDFD)
        avf_capturing_note_exit(slot, c, result); /* nobody frees a slot that is looked at */
    else
        avf_capturing_note(c, which, result);
    avf_collection_leave_alone(c);
    if (slot->ticket == ticket && avf_capturing_capture(slot) == c && !c->leaving)
        avf_capturing_settle(slot, c);
    avf_unlock();
    avf_gate_leave();
}

/* THREAD collector, under the lock. The next capture whose time has come, busy; NULL if there is none. A child that a
 * tracer had is looked at again. */
static struct avf_captured *collector_take_due(int64_t now, struct avf_slot **ret_slot)
{
    struct avf_captured *c;
    while ((c = avf_collection_take_due(now)) != NULL) {
        struct avf_slot *slot = avf_capturing_slot(c);
        if (slot && c->leaving)
            avf_collection_time(c, AVF_LOOK_AGAIN_NS);
        if (!slot || c->leaving)
            continue;
        if (slot->is_over) {
            c->busy = 1;
            *ret_slot = slot;
            return c;
        }
        (void)avf_collection_watch(slot->ticket, AVF_END_PIDFD, slot->pidfd, EPOLLIN | EPOLLONESHOT,
                                   EPOLL_CTL_MOD);
    }
    return NULL;
}

/* THREAD collector. Ends captures drain_ns after the exit, though somebody holds a pipe: what lies in it is read. RETURNS
 * when the next time comes, or 0. */
static int64_t collector_look_at_times(void)
{
    struct avf_slot *slot;
    int64_t now = avf_now();
    for (;;) {
        int results[2] = {AVF_PIPE_GO_ON, AVF_PIPE_GO_ON};
        avf_lock();
        struct avf_captured *c = collector_take_due(now, &slot);
        int64_t next = avf_collection.next_deadline;
        avf_unlock();
        if (!c)
            return next;
        for (int i = 0; i < 2; i++)
            if (c->ends[1 + i] >= 0)
                results[i] = avf_pipe_read(c, i, c->ends[1 + i], 0);
        avf_gate_enter();
        avf_lock();
        avf_capturing_note(c, 1, results[0]);
        avf_capturing_note(c, 2, results[1]);
        avf_collection_leave_alone(c);
        if (!c->leaving && avf_capturing_slot(c) == slot) {
            c->flags |= AVF_CAPTURE_CUT;
            avf_capturing_settle(slot, c);
        }
        avf_unlock();
        avf_gate_leave();
    }
}

/* THREAD collector. A slice of the first copy, which then goes to the end of the line. RETURNS whether there is more. */
static int collector_copy(void)
{
    avf_lock();
    struct avf_captured *c = avf_collection_take_copy();
    avf_unlock();
    if (!c)
        return 0;
    int done = avf_capture_copy_slice(c);
    avf_gate_enter();
    avf_lock();
    struct avf_slot *slot = avf_capturing_slot(c);
    avf_collection_leave_alone(c);
    if (slot && !slot->port) {
        avf_capturing_abandon(slot, c);
    } else if (slot && done) {
        c->copying = 0;
        slot->outcome = AVF_OUTCOME_COPY;
        avf_collection_unexpect(c);
        avf_port_post(slot->port, slot);
    } else if (slot) {
        avf_collection_add_copy(c);
    }
    int more = avf_collection.copies != NULL;
    avf_unlock();
    avf_gate_leave();
    return more;
}

/* THREAD collector. A slice of the memory that nobody wants. RETURNS whether there is more. */
static int collector_release(void)
{
    avf_lock();
    struct avf_captured *c = avf_collection.discarded;
    avf_unlock();
    if (!c)
        return 0;
    if (avf_capture_release_slice(c)) {
        avf_lock();
        avf_collection.discarded = c->next;
        avf_collection_unexpect(c);
        c->next = avf_collection.retired;
        avf_collection.retired = c;
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
        count = epoll_wait(avf_collection.epoll_fd, events, COLLECTOR_EVENTS, (int)milliseconds);
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

/* THREAD any, in the child of a fork. */
void avf_collector_after_fork(void)
{
    int32_t fds[2] = {avf_collection.epoll_fd, avf_collection.event_fd};
    avf_close_all(fds, 2);
    avf_collection_after_fork();
}
