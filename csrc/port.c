/* DESIGN: the completion port, through which one loop learns everything.
 *
 * What: one epoll instance per loop holds an eventfd (something was posted), a timer and the pidfd of
 *     every living child. The loop watches that one descriptor and drains it.
 * Where: drain and spawn on the loop's thread, all else on any; workers post (spawn.c).
 * Invariants: a child's SPAWNED comes before its EXITED: its pidfd enters the epoll in the critical
 *     section that posts it, and drain looks at the epoll before it looks at what was posted. The
 *     eventfd and the timer are edge-triggered, so nobody reads them: looking at the epoll is enough.
 *     Pidfds are one-shot: one that is readable though waitid has nothing yet (a ptraced child) is
 *     re-armed by the timer, so it can never make the loop spin. Only drain reaps a living child of
 *     an open port, and closes its pidfd once the slot is free.
 * Order of an end: a port that closes first takes itself out of the list, then ends the requests it
 *     still has, then gives its children up, then closes its descriptors; workers that still run find
 *     `closed` and clean up after themselves.
 * Deliberately absent: SIGCHLD, waitpid(-1), signals by pid. */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spawn.h"
#include "sys.h"

/* epoll data: a ticket, which is never one of these. */
enum { PORT_EVENT = 0, PORT_TIMER = ~0U };
enum { PORT_BATCH = 64 };

/* An exit on its way from the epoll to the events. */
struct port_exit {
    struct avf_slot *slot;
    int pidfd;
    int reaped;
};

/* THREAD loop. */
static int port_open_fds(struct avf_port *port)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = PORT_EVENT};
    struct epoll_event timer = {.events = EPOLLIN | EPOLLET, .data.u64 = PORT_TIMER};
    port->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (port->epoll_fd < 0)
        return -errno;
    port->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (port->event_fd < 0)
        return -errno;
    port->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (port->timer_fd < 0)
        return -errno;
    if (epoll_ctl(port->epoll_fd, EPOLL_CTL_ADD, port->event_fd, &event) < 0 ||
        epoll_ctl(port->epoll_fd, EPOLL_CTL_ADD, port->timer_fd, &timer) < 0)
        return -errno;
    return 0;
}

/* THREAD any. */
static void port_close_fds(const struct avf_port *port)
{
    if (port->epoll_fd >= 0)
        close(port->epoll_fd);
    if (port->event_fd >= 0)
        close(port->event_fd);
    if (port->timer_fd >= 0)
        close(port->timer_fd);
}

/* THREAD loop. */
int32_t avf_port_open(avf_port **ret_port)
{
    struct avf_port *port = malloc(sizeof *port);
    if (!port)
        return -ENOMEM;
    *port = (struct avf_port){.epoll_fd = -1, .event_fd = -1, .timer_fd = -1, .references = 1};
    int error = port_open_fds(port);
    if (error == 0) {
        avf_lock();
        error = avf_state_ready();
        if (error == 0) {
            port->next = avf_state.ports;
            if (port->next)
                port->next->previous = port;
            avf_state.ports = port;
        }
        avf_unlock();
    }
    if (error < 0) {
        port_close_fds(port);
        free(port);
        return error;
    }
    *ret_port = port;
    return 0;
}

/* THREAD any. */
int32_t avf_port_fd(avf_port *port)
{
    return port->epoll_fd;
}

/* THREAD any, under the lock. */
void avf_port_signal(struct avf_port *port)
{
    uint64_t one = 1;
    if (port->signalled)
        return;
    port->signalled = 1;
    (void)!write(port->event_fd, &one, sizeof one); /* cannot fail: 2^64 - 1 posts are far */
}

/* THREAD any, under the lock. Rotates, so that each gets its turn. */
void avf_port_wake_waiting(const struct avf_port *except)
{
    struct avf_port *first = avf_state.ports;
    if (avf_state.waiting_ports == 0)
        return;
    for (struct avf_port *port = first; port; port = port->next)
        if (port != except && port->queue.head) {
            avf_port_signal(port);
            if (port == first || !port->previous)
                return;
            port->previous->next = port->next;
            if (port->next)
                port->next->previous = port->previous;
            port->previous = NULL;
            port->next = first;
            first->previous = port;
            avf_state.ports = port;
            return;
        }
}

/* THREAD any, under the lock. */
void avf_port_unreference(struct avf_port *port)
{
    if (--port->references == 0)
        free(port);
}

/* THREAD any, under the lock. The timer brings the loop back when something may have changed that
 * nobody posts: a stuck worker, the end of a ptrace. */
static void port_arm_timer(struct avf_port *port)
{
    struct itimerspec once = {.it_value.tv_nsec = AVF_STUCK_NS};
    if (port->timer_armed || !(port->queue.head || port->unreaped.head))
        return;
    port->timer_armed = 1;
    timerfd_settime(port->timer_fd, 0, &once, NULL);
}

/* THREAD any, under the lock. */
void avf_port_enqueue(struct avf_port *port, struct avf_slot *slot)
{
    if (!port->queue.head)
        avf_state.waiting_ports++;
    avf_slots_append(&port->queue, slot);
    if (++avf_state.counters.queued > avf_state.counters.queued_peak)
        avf_state.counters.queued_peak = avf_state.counters.queued;
}

/* THREAD any, under the lock. */
void avf_port_dequeue(struct avf_port *port, struct avf_slot *slot)
{
    avf_slots_remove(&port->queue, slot);
    if (!port->queue.head)
        avf_state.waiting_ports--;
    avf_state.counters.queued--;
}

/* THREAD loop, under the lock. The slot gets a seat in the window. */
static void port_admit(struct avf_port *port, struct avf_slot *slot, int64_t now)
{
    slot->state = AVF_SLOT_STARTED;
    slot->request->seat = avf_window_enter(now);
    port->in_flight++;
    port->references++;
}

/* THREAD loop, under the lock. Takes back port_admit. */
static void port_readmit(struct avf_port *port, struct avf_slot *slot)
{
    avf_window_leave(slot->request->seat);
    port->in_flight--;
    avf_port_unreference(port);
}

/* THREAD loop. */
int64_t avf_spawn(avf_port *port, const char *plan, uint32_t size, int32_t *ret_step)
{
    struct avf_request *request;
    struct avf_slot *slot = NULL;
    int start = 0, error = avf_request_create(plan, size, &request, ret_step);
    if (error < 0)
        return error;
    *ret_step = AVF_STEP_MEMORY;
    avf_lock();
    error = port->closed ? -EBADF : avf_slot_take(&slot);
    if (error == 0) {
        request->slot = slot;
        request->port = slot->port = port;
        slot->request = request;
        start = !port->queue.head && avf_window_admits(port, request->submitted_ns);
        if (start)
            port_admit(port, slot, request->submitted_ns);
        else
            avf_port_enqueue(port, slot);
        port_arm_timer(port);
    }
    avf_unlock();
    int64_t ticket = slot ? (int64_t)slot->ticket : 0;
    if (start && (error = avf_worker_start(request)) < 0) {
        *ret_step = AVF_STEP_THREAD;
        avf_lock();
        port_readmit(port, slot);
        avf_slot_release(slot);
        avf_unlock();
    }
    if (error < 0)
        avf_request_free(request);
    return error < 0 ? error : ticket;
}

/* THREAD any, under the lock. Ends a request that holds no seat. */
static void port_fail(struct avf_port *port, struct avf_slot *slot, int32_t error, int32_t step)
{
    slot->request = NULL;
    slot->state = AVF_SLOT_POSTED;
    slot->error = error;
    slot->step = step;
    avf_slots_append(&port->done, slot);
    avf_port_signal(port);
}

/* THREAD loop. Starts what waits, as far as the window has room. */
static void port_start_queued(struct avf_port *port, int64_t now)
{
    avf_lock();
    while (port->queue.head && avf_window_admits(port, now)) {
        struct avf_slot *slot = port->queue.head;
        struct avf_request *request = slot->request;
        avf_port_dequeue(port, slot);
        port_admit(port, slot, now);
        avf_unlock();
        int error = avf_worker_start(request);
        if (error < 0)
            avf_request_free(request);
        avf_lock();
        if (error < 0) {
            port_readmit(port, slot);
            port_fail(port, slot, -error, AVF_STEP_THREAD);
        }
    }
    if (avf_state.counters.in_flight < avf_state.bound)
        avf_port_wake_waiting(port);
    port_arm_timer(port);
    avf_unlock();
}

/* THREAD loop, under the lock. One posted outcome becomes an event. */
static void port_deliver(struct avf_slot *slot, avf_event *event)
{
    avf_counters *counters = &avf_state.counters;
    *event = (avf_event){
        .ticket = slot->ticket,
        .kind = slot->pidfd >= 0 ? AVF_SPAWNED : AVF_FAILED,
        .pid = slot->pid,
        .pidfd = slot->pidfd,
        .error = slot->error,
        .step = slot->step,
        .status = slot->status,
        .flags = slot->flags,
        .queue_ns = slot->queue_ns,
        .clone_ns = slot->clone_ns,
        .exec_ns = slot->exec_ns,
    };
    memcpy(event->parent_end, slot->parent_end, sizeof event->parent_end);
    if (slot->pidfd < 0) {
        counters->failed++;
        avf_slot_release(slot);
        return;
    }
    slot->state = AVF_SLOT_ALIVE;
    counters->spawned++;
    if (++counters->alive > counters->alive_peak)
        counters->alive_peak = counters->alive;
}

/* THREAD loop, under the lock. A timer went off: arms the pidfds again that had nothing to reap. */
static void port_rearm(struct avf_port *port)
{
    port->timer_armed = 0;
    for (struct avf_slot *slot; (slot = port->unreaped.head) != NULL;) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = slot->ticket};
        avf_slots_remove(&port->unreaped, slot);
        epoll_ctl(port->epoll_fd, EPOLL_CTL_MOD, slot->pidfd, &event);
    }
}

/* THREAD loop. Somebody else has reaped the child (waitpid(-1), SIGCHLD ignored): the kernel still
 * knows, since 6.15; before, asyncio's convention. */
static void port_recover_status(int pidfd, avf_event *event)
{
    struct sys_pidfd_info info = {.mask = AVF_PIDFD_INFO_EXIT};
    if (ioctl(pidfd, AVF_PIDFD_GET_INFO, &info) == 0 && info.mask & AVF_PIDFD_INFO_EXIT) {
        event->status = info.exit_code;
        event->flags = AVF_STATUS_RECOVERED;
    } else {
        event->status = 255 << 8;
        event->flags = AVF_STATUS_UNKNOWN;
    }
}

/* THREAD loop. RETURNS 1 and fills the event if the child of that pidfd has exited, else 0. */
static int port_reap(int pidfd, avf_event *event)
{
    siginfo_t info = {0};
    struct rusage usage;
    *event = (avf_event){.kind = AVF_EXITED, .pidfd = -1, .parent_end = {-1, -1, -1}};
    memset(&usage, 0, sizeof usage);
    int error = sys_waitid_pidfd(pidfd, &info, WEXITED | WNOHANG | AVF_WALL, &usage);
    if (error == 0 && info.si_pid == 0)
        return 0;
    if (error < 0)
        port_recover_status(pidfd, event);
    else if (info.si_code == CLD_EXITED)
        event->status = info.si_status << 8;
    else
        event->status = info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0);
    _Static_assert(sizeof usage == sizeof event->rusage, "struct rusage is 18 longs on 64-bit Linux");
    memcpy(event->rusage, &usage, sizeof usage);
    return 1;
}

/* THREAD loop, under the lock. Finds the child that a readable pidfd belongs to. RETURNS whether it is to
 * be reaped now. */
static int port_find_exit(struct avf_port *port, uint64_t ticket, struct port_exit *ret_exit)
{
    struct avf_slot *slot = avf_slot_find(ticket);
    if (!slot || slot->port != port || slot->pidfd < 0)
        return 0;
    if (slot->state != AVF_SLOT_ALIVE) { /* posted, but the buffer was full: come back to it */
        struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = ticket};
        epoll_ctl(port->epoll_fd, EPOLL_CTL_MOD, slot->pidfd, &event);
        return 0;
    }
    *ret_exit = (struct port_exit){.slot = slot, .pidfd = slot->pidfd};
    return 1;
}

/* THREAD loop. Reaps what has exited, then frees all their slots at once. RETURNS the number of
 * events. */
static int32_t port_collect_exits(struct avf_port *port, struct port_exit *exits, int count,
                                  avf_event *events)
{
    int32_t filled = 0;
    for (int i = 0; i < count; i++)
        exits[i].reaped = port_reap(exits[i].pidfd, &events[i]);
    avf_lock();
    for (int i = 0; i < count; i++) {
        struct avf_slot *slot = exits[i].slot;
        if (!exits[i].reaped) {
            avf_slots_append(&port->unreaped, slot);
            continue;
        }
        events[i].ticket = slot->ticket;
        events[i].pid = slot->pid;
        avf_state.counters.stolen += (events[i].flags & (AVF_STATUS_RECOVERED | AVF_STATUS_UNKNOWN)) != 0;
        avf_state.counters.exited++;
        avf_state.counters.alive--;
        avf_slot_release(slot);
        events[filled++] = events[i];
    }
    port_arm_timer(port);
    avf_unlock();
    for (int i = 0; i < count; i++)
        if (exits[i].reaped)
            close(exits[i].pidfd);
    return filled;
}

/* THREAD loop. */
int32_t avf_port_drain(avf_port *port, avf_event *events, int32_t capacity)
{
    struct epoll_event ready[PORT_BATCH];
    struct port_exit exits[PORT_BATCH];
    int most = capacity / 2 < PORT_BATCH ? capacity / 2 : PORT_BATCH;
    int32_t filled = 0;

    if (most < 1)
        return -EINVAL;
    if (port->closed)
        return 0;
    int ready_count = epoll_wait(port->epoll_fd, ready, most, 0);
    if (ready_count < 0)
        return errno == EINTR ? 0 : -errno;
    int64_t now = avf_now();
    avf_lock();
    while (port->done.head && filled < capacity - ready_count) {
        struct avf_slot *slot = port->done.head;
        avf_slots_remove(&port->done, slot);
        port_deliver(slot, &events[filled++]);
    }
    port->signalled = 0;
    if (port->done.head)
        avf_port_signal(port);
    int exit_count = 0, waiting = port->queue.head != NULL;
    for (int i = 0; i < ready_count; i++) {
        if (ready[i].data.u64 == PORT_TIMER)
            port_rearm(port);
        else if (ready[i].data.u64 != PORT_EVENT)
            exit_count += port_find_exit(port, ready[i].data.u64, &exits[exit_count]);
    }
    avf_unlock();
    if (waiting)
        port_start_queued(port, now);
    if (exit_count)
        filled += port_collect_exits(port, exits, exit_count, events + filled);
    return filled;
}

/* THREAD any. */
int32_t avf_cancel(uint64_t ticket, int32_t reason)
{
    struct avf_request *finished = NULL;
    int32_t result = 0;
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    if (!slot || slot->state == AVF_SLOT_ALIVE) {
        result = -ESRCH;
    } else if (slot->state == AVF_SLOT_QUEUED) {
        finished = slot->request;
        avf_port_dequeue(slot->port, slot);
        port_fail(slot->port, slot, reason, AVF_STEP_NONE);
    } else if (slot->state == AVF_SLOT_STARTED) {
        slot->request->seat->report->cancel = reason; /* before the look at pidfd, see spawn.c */
        if (slot->request->pidfd >= 0)
            sys_pidfd_send_signal(slot->request->pidfd, SIGKILL);
    } else {
        result = -EALREADY;
    }
    avf_unlock();
    if (finished)
        avf_request_free(finished);
    return result;
}

/* THREAD any. */
int32_t avf_kill(uint64_t ticket, int32_t signal)
{
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    int32_t result = -ESRCH;
    if (slot && slot->state == AVF_SLOT_ALIVE)
        result = sys_pidfd_send_signal(slot->pidfd, signal);
    avf_unlock();
    return result;
}

/* THREAD reaper. A thread of its own, since a killed child may take its time. */
static void *reaper_main(void *arg)
{
    avf_kill_and_reap((int)(intptr_t)arg);
    return NULL;
}

/* THREAD any. Not under the lock. OWNS the pidfd. Where no thread can be had the child is killed, and its
 * zombie goes when the process does. */
static void reap_elsewhere(int pidfd)
{
    siginfo_t info;
    sys_pidfd_send_signal(pidfd, SIGKILL);
    if (sys_waitid_pidfd(pidfd, &info, WEXITED | WNOHANG | AVF_WALL, NULL) == 0 &&
        avf_thread_start(reaper_main, (void *)(intptr_t)pidfd) == 0)
        return;
    close(pidfd);
}

/* THREAD any. */
int32_t avf_dispose(uint64_t ticket)
{
    int orphan = -1;
    int32_t result = avf_cancel(ticket, ECANCELED);
    if (result == 0)
        return 0;
    avf_lock();
    struct avf_slot *slot = avf_slot_find(ticket);
    if (slot && slot->pidfd >= 0) {
        result = 0;
        if (slot->port) {
            sys_pidfd_send_signal(slot->pidfd, SIGKILL); /* drain will reap it */
        } else {
            orphan = slot->pidfd;
            avf_state.counters.alive--;
            avf_state.counters.abandoned++;
            avf_slot_release(slot);
        }
    }
    avf_unlock();
    if (orphan >= 0)
        reap_elsewhere(orphan);
    return result;
}

/* THREAD any, under the lock. One step of closing: RETURNS 1 with what is to be cleaned up unlocked. */
static int port_close_next(struct avf_port *port, struct avf_request **ret_request,
                           struct avf_slot *ret_orphan)
{
    struct avf_slot *slot;
    *ret_request = NULL;
    ret_orphan->pidfd = -1;
    if ((slot = port->queue.head) != NULL) {
        *ret_request = slot->request;
        avf_port_dequeue(port, slot);
    } else if ((slot = port->done.head) != NULL) {
        *ret_orphan = *slot; /* SPAWNED, but nobody will hear of it */
        avf_slots_remove(&port->done, slot);
    } else {
        return 0;
    }
    slot->request = NULL;
    avf_state.counters.abandoned++;
    avf_slot_release(slot);
    return 1;
}

/* THREAD any, under the lock. Workers clean up by themselves; children stay, without a port. */
static void port_give_up_children(struct avf_port *port)
{
    for (uint32_t c = 0; c < avf_state.chunk_count; c++)
        for (uint32_t i = 0; i < AVF_CHUNK; i++) {
            struct avf_slot *slot = &avf_state.chunks[c][i];
            if (slot->state == AVF_SLOT_FREE || slot->port != port)
                continue;
            if (slot->state == AVF_SLOT_STARTED) {
                slot->request->seat->report->cancel = ECANCELED;
                if (slot->request->pidfd >= 0)
                    sys_pidfd_send_signal(slot->request->pidfd, SIGKILL);
            }
            slot->port = NULL;
        }
}

/* THREAD any. */
void avf_port_close(avf_port *port)
{
    struct avf_request *request;
    struct avf_slot orphan;
    avf_lock();
    int was_open = !port->closed;
    if (was_open) {
        port->closed = 1;
        if (port->previous)
            port->previous->next = port->next;
        else
            avf_state.ports = port->next;
        if (port->next)
            port->next->previous = port->previous;
        while (port_close_next(port, &request, &orphan)) {
            avf_unlock();
            if (request)
                avf_request_free(request);
            if (orphan.pidfd >= 0) {
                reap_elsewhere(orphan.pidfd);
                for (int i = 0; i < 3; i++)
                    if (orphan.parent_end[i] >= 0)
                        close(orphan.parent_end[i]);
            }
            avf_lock();
        }
        while (port->unreaped.head)
            avf_slots_remove(&port->unreaped, port->unreaped.head);
        port_give_up_children(port);
        port_close_fds(port);
    }
    avf_port_unreference(port);
    avf_unlock();
}

/* THREAD any. */
void avf_stats(avf_counters *ret_counters)
{
    avf_lock();
    *ret_counters = avf_state.counters;
    avf_unlock();
}

/* THREAD any. */
const char *avf_step_name(int32_t step)
{
    static const char *const names[AVF_STEP_COUNT] = {
        [AVF_STEP_NONE] = "none",
        [AVF_STEP_PLAN] = "plan",
        [AVF_STEP_DUP_FDS] = "dup fds",
        [AVF_STEP_MEMORY] = "memory",
        [AVF_STEP_THREAD] = "thread",
        [AVF_STEP_PROBE] = "probe",
        [AVF_STEP_PIPE] = "pipe",
        [AVF_STEP_PIPESIZE] = "pipesize",
        [AVF_STEP_CLONE] = "clone",
        [AVF_STEP_PIDFD] = "pidfd",
        [AVF_STEP_UNSHARE_FDS] = "unshare fds",
        [AVF_STEP_SIGNALS] = "signals",
        [AVF_STEP_DEVNULL] = "devnull",
        [AVF_STEP_PASS_FDS] = "pass fds",
        [AVF_STEP_STDIO] = "stdio",
        [AVF_STEP_CHDIR] = "chdir",
        [AVF_STEP_UMASK] = "umask",
        [AVF_STEP_RESTORE_SIGNALS] = "restore signals",
        [AVF_STEP_SETSID] = "setsid",
        [AVF_STEP_SETPGID] = "setpgid",
        [AVF_STEP_CLOSE_FDS] = "close fds",
        [AVF_STEP_SIGMASK] = "sigmask",
        [AVF_STEP_EXEC] = "exec",
    };
    return step >= 0 && step < AVF_STEP_COUNT ? names[step] : "unknown";
}
