/* DESIGN: the worker.
 *
 * What: a short-lived pthread makes an attempt at a child (attempt.c) and posts the outcome; it goes on with requests
 *     that were queued before it was born, then waits for its children, if there is room to park, and ends.
 * Where: avf_worker_start on the thread that asks, so that the worker, and with it the child,
 *     inherits that thread's confinement; the rest on the worker.
 * Invariants: a child that runs is in its slot, and its pidfd in the port's epoll, or it is dead and reaped. No
 *     worker allocates or frees: see avf_request_retire.
 * Deliberately absent: Python, the GIL. */
#include "worker.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include "attempt.h"
#include "capturing.h"
#include "group.h"
#include "park.h"
#include "plan.h"
#include "port.h"
#include "reap.h"
#include "reaper.h"
#include "thread.h"

/* THREAD worker, under the lock. A child is running its program. RETURNS 0 if the port takes it, else
 * the -errno that the spawn fails with. */
static int32_t worker_hand_over(const struct avf_request *r)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = r->slot->ticket};
    if (r->seat->report->cancel)
        return r->seat->report->cancel;
    if (r->port->closed || (r->slot->captured && !r->slot->capture))
        return -ECANCELED;
    if (r->slot->captured)
        return avf_capturing_add(r->slot, r->pidfd, r->pipes.parent_end);
    return epoll_ctl(r->port->epoll_fd, EPOLL_CTL_ADD, r->pidfd, &event) < 0 ? -errno : 0;
}

/* THREAD worker, under the lock. */
static void worker_fill_slot(struct avf_request *r, const struct avf_attempt *o, uint64_t place)
{
    struct avf_slot *slot = r->slot;
    int64_t child_ns = r->seat->report->started_ns;
    slot->outcome = (uint8_t)o->kind;
    slot->error = o->error;
    slot->step = o->step;
    slot->status = o->status;
    slot->flags = o->flags;
    slot->queue_ns = o->started_ns - r->submitted_ns;
    memcpy(slot->notes, o->notes, sizeof slot->notes);
    if (o->kind != AVF_OUTCOME_CHILD)
        return;
    slot->clone_ns = child_ns - o->started_ns;
    slot->exec_ns = o->resumed_ns - child_ns;
    avf_group_describe(slot, r->plan);
    slot->pid = o->pid;
    slot->pidfd = r->pidfd;
    r->pidfd = -1;
    if (!slot->captured)
        memcpy(slot->parent_end, r->pipes.parent_end, sizeof slot->parent_end);
    memset(r->pipes.parent_end, -1, sizeof r->pipes.parent_end);
    avf_park_add_child(place, slot, avf_plan_find(r->plan, AVF_STEP_PDEATHSIG) != NULL);
}

/* THREAD worker. Closes what the request need not keep: all but a living child's pidfd and pipes. */
static void worker_close(struct avf_request *r, const struct avf_attempt *o)
{
    avf_gate_enter();
    if (o->kind == AVF_OUTCOME_CHILD)
        avf_request_close_child_side(r);
    else
        avf_request_close(r);
    avf_gate_leave();
    avf_files_close_late(&r->files);
}

/* THREAD worker. A child that its port does not take is killed, and the spawn fails. */
static void worker_refuse_child(struct avf_request *r, struct avf_attempt *o, int32_t error)
{
    (void)avf_group_kill_and_wait(r->plan, r->pidfd, o->pid);
    avf_attempt_forget_child(r, o->pid);
    avf_attempt_fail(o, AVF_STEP_PIDFD, error);
    worker_close(r, o);
}

/* THREAD worker. Hands the outcome to the port; a child that nobody wants any more is reaped first.
 * RETURNS the request that this worker starts next, or NULL. */
static struct avf_request *worker_post(struct avf_request *r, struct avf_attempt *o, int64_t born_ns,
                                       uint64_t place)
{
    struct avf_port *port = r->port;
    int32_t refused = 0;

    worker_close(r, o);
    avf_lock();
    if (o->kind == AVF_OUTCOME_CHILD && (refused = worker_hand_over(r)) < 0) {
        avf_unlock();
        worker_refuse_child(r, o, refused);
        avf_lock();
    }
    worker_fill_slot(r, o, place);
    if (port->closed) { /* so it is no child, see worker_hand_over */
        avf_state.counters.abandoned++;
        avf_slot_move(r->slot, AVF_SLOT_FREE, NULL);
    } else if (r->slot->captured && o->kind == AVF_OUTCOME_CHILD) {
        avf_slot_count_spawned(r->slot);
        r->slot->request = NULL;
        avf_slot_move(r->slot, AVF_SLOT_CAPTURED, NULL);
    } else {
        avf_port_post(port, r->slot);
    }
    port->references++; /* ours, beside the seat's */
    avf_port_unseat(port, r->seat);
    struct avf_request *next = avf_port_next(port, born_ns, o->resumed_ns);
    avf_port_wake_waiting(port);
    avf_port_unreference(port);
    avf_request_retire(r);
    avf_unlock();
    return next;
}

/* THREAD worker. SIGNALS at birth all blocked but libc's. OWNS the request, then those that follow:
 * what was in the queue when this thread was created could have been its own, since it inherited
 * the caller's confinement after that call too. What came later gets a thread that was born later. */
static void *worker_main(void *arg)
{
    struct avf_request *r = arg;
    int64_t born_ns = r->seat->started_ns; /* on the creator's thread, before pthread_create */
    uint64_t place = avf_park_take_place();
    prctl(PR_SET_NAME, "aiovfork");
    while (r) {
        struct avf_attempt o = {.started_ns = avf_now()};
        o.resumed_ns = o.started_ns;
        if (place || !avf_plan_find(r->plan, AVF_STEP_PDEATHSIG))
            avf_attempt_run(r, &o);
        else /* the child would get its signal at once */
            avf_attempt_fail(&o, AVF_STEP_PDEATHSIG, -EAGAIN);
        r = worker_post(r, &o, born_ns, place);
    }
    avf_reaper_help();
    avf_park_wait(place);
    return NULL;
}

/* THREAD loop. */
int avf_worker_start(struct avf_request *r)
{
    return avf_thread_start(worker_main, r);
}
