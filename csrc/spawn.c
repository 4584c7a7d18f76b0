/* DESIGN: avf_spawn, start or fail.
 *
 * What: one call makes a request of a plan and gives it a place: a worker at once, or the queue.
 * Where: the thread that asks. Never blocks.
 * Invariants: the caller's files are held, and the request is in its slot, before the gate is left: fork.c finds
 *     all of it or nothing. A thread is created outside of lock and gate, and what fails leaves nothing. */
#include <errno.h>
#include <stdlib.h>

#include "collector.h"
#include "mailbox.h"
#include "park.h"
#include "plan.h"
#include "port.h"
#include "worker.h"

/* THREAD loop, under the lock. */
static int spawn_is_ours(const struct avf_port *port, int fd)
{
    return fd == port->epoll_fd || fd == port->event_fd || fd == port->timer_fd || avf_mailbox_is_ours(fd);
}

/* THREAD loop, under the lock. Whether a number of the caller's, closed at the call, has become one of ours: the port
 * may have been opened for this very call. */
static int spawn_gives_ours(const struct avf_port *port, const avf_plan *plan)
{
    for (int i = 0; i < 3; i++)
        if (plan->stdio[i] >= 0 && spawn_is_ours(port, plan->stdio[i]))
            return 1;
    for (uint32_t i = 0; i < avf_plan_given_count(plan); i++)
        if (spawn_is_ours(port, avf_plan_given(plan)[i]))
            return 1;
    return 0;
}

/* THREAD loop, in the gate. Gives the request a slot in a port. RETURNS 0 or -errno. */
static int spawn_admit(struct avf_port *port, struct avf_request *request, avf_capture *capture,
                       int *ret_start, int32_t *ret_step)
{
    struct avf_slot *slot;
    avf_lock();
    int error = 0;
    if (port->closed || spawn_gives_ours(port, request->plan)) {
        *ret_step = port->closed ? AVF_STEP_MEMORY : AVF_STEP_DUP_FDS;
        error = -EBADF;
    } else {
        *ret_step = AVF_STEP_MEMORY;
        error = avf_slot_take(&slot);
    }
    if (error == 0) {
        request->slot = slot;
        request->port = slot->port = port;
        slot->request = request;
        slot->capture = capture;
        slot->captured = capture != NULL;
        if (capture)
            ((struct avf_captured *)capture)->ticket = slot->ticket;
        *ret_start = !port->queue.head && avf_window_admits(port->in_flight, 0, request->submitted_ns);
        if (*ret_start) {
            avf_port_seat(port, slot, request->submitted_ns);
            avf_slot_move(slot, AVF_SLOT_STARTED, NULL);
        } else {
            avf_port_enqueue(port, slot);
        }
        avf_port_arm_timer(port);
    }
    avf_unlock();
    return error;
}

/* THREAD loop. OWNS the request, closed, of which no slot knows any more. Not in the gate: to look for record locks may
 * take its time (files.c). */
static void spawn_discard(struct avf_request *request)
{
    avf_files_close_late(&request->files); /* not the last references: the caller has these files */
    free(request);
    avf_lock();
    avf_state.counters.failed++;
    avf_unlock();
}

/* THREAD loop. There is no worker for it: takes the request out of the window again. */
static void spawn_withdraw(struct avf_port *port, struct avf_request *request)
{
    avf_gate_enter();
    avf_request_close(request);
    avf_lock();
    avf_port_unseat(port, request->seat);
    avf_slot_move(request->slot, AVF_SLOT_FREE, NULL);
    avf_unlock();
    avf_gate_leave();
}

/* THREAD loop. */
int64_t avf_spawn(avf_port *port, const char *plan, uint32_t size, avf_capture *capture, int32_t *ret_step)
{
    struct avf_request *request = NULL;
    int start = 0;
    int64_t ticket = 0;
    avf_request_free_retired();
    *ret_step = AVF_STEP_THREAD;
    int error = capture ? avf_collector_expect((struct avf_captured *)capture) : 0;
    if (error < 0)
        return error;
    avf_gate_enter();
    error = avf_request_create(plan, size, &request, ret_step);
    if (error == 0 && capture && capture->terminal >= 0)
        error = avf_streams_hold_terminal(request->plan, capture->terminal, capture->input != NULL,
                                          &request->pipes);
    if (error == 0 && avf_plan_find(request->plan, AVF_STEP_PDEATHSIG)) {
        *ret_step = AVF_STEP_MEMORY;
        error = avf_park_reserve();
    }
    if (error == 0) {
        error = spawn_admit(port, request, capture, &start, ret_step);
        ticket = error < 0 ? 0 : (int64_t)request->slot->ticket;
    }
    if (error < 0 && request)
        avf_request_close(request);
    avf_gate_leave();
    if (start && (error = avf_worker_start(request)) < 0) {
        *ret_step = AVF_STEP_THREAD;
        spawn_withdraw(port, request);
    }
    if (error == 0)
        return ticket;
    if (capture) {
        avf_lock();
        avf_collection_unexpect((struct avf_captured *)capture);
        avf_unlock();
    }
    if (request)
        spawn_discard(request);
    return error;
}
