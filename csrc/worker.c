/* DESIGN: the worker.
 *
 * What: a short-lived pthread makes the pipes, clones with vfork semantics, finds out how it went and
 *     posts the outcome; it goes on with requests that were queued before it was born, then waits for its
 *     children, if there is room to park, and ends.
 * Where: avf_worker_start on the thread that asks, so that the worker, and with it the child,
 *     inherits that thread's confinement; the rest on the worker.
 * Invariants: every signal, libc's included, is blocked while a child shares our memory, and
 *     unblocked before the worker waits for anything else or ends: a thread that keeps libc's blocked
 *     makes setuid() hang for good (libc signals every thread). The kernel writes the pidfd into the
 *     request before the child runs. Until the post, whoever finds the request through its slot may set
 *     the report's `cancel`, and kill through the pidfd once the child has set started_ns.
 *     No worker allocates or frees: see avf_request_retire.
 * Deliberately absent: Python, the GIL, and any retry that could start a program twice. */
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine.h"
#include "park.h"
#include "plan.h"
#include "port.h"
#include "probe.h"
#include "reap.h"
#include "reaper.h"
#include "sys.h"
#include "thread.h"

/* Up to this number of a source, unsharing the table in the child copies less than clone would. */
enum { WORKER_UNSHARE_BELOW = 256 };
enum { WORKER_ASK_AGAIN_MS = 20 };

/* worker only until posted */
struct outcome {
    enum avf_outcome kind;
    int32_t error, step, status; /* of a failure */
    int32_t pid;                 /* of a child */
    int32_t flags;
    int64_t started_ns, resumed_ns;
};

/* Ways of giving a child its descriptors that an attempt has found refused. */
enum { FORGO_UNSHARE = 1, FORGO_OWN_STREAMS = 2 };

/* THREAD worker. */
static void outcome_fail(struct outcome *o, int32_t step, int32_t error)
{
    o->kind = AVF_OUTCOME_FAILURE;
    o->step = step;
    o->error = error;
}

/* THREAD worker. The child's descriptors come from a copy of the table, which clone makes. */
static void worker_copy_table(const struct avf_request *r, struct avf_child *child)
{
    memcpy(child->flat.stream_source, r->source, sizeof child->flat.stream_source);
    child->unshare_from = 0;
}

/* THREAD worker. The same from the shared table, which the child unshares at once: that costs nothing for the
 * descriptors that it drops, if all that it needs sits on low numbers. */
static void worker_prefer_unshare(const struct avf_request *r, struct avf_child *child, int forgo)
{
    int32_t source[3], same_as[3], highest = r->files.message_fd > 2 ? r->files.message_fd : 2;
    uint32_t count = r->plan->fd_count;
    struct rlimit limit;
    memcpy(source, r->source, sizeof source);
    avf_streams_prefer_own(r->plan, source, forgo & FORGO_OWN_STREAMS ? INT32_MAX : WORKER_UNSHARE_BELOW,
                           same_as);
    for (int i = 0; i < 3; i++)
        highest = source[i] > highest ? source[i] : highest;
    for (uint32_t i = 0; i < count; i++)
        highest = r->source[3 + i] > highest ? r->source[3 + i] : highest;
    if (highest >= WORKER_UNSHARE_BELOW)
        return;
    /* A number above a limit that was lowered since can be kept, but not made again (RLIMIT_NOFILE). */
    if (count &&
        (getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)avf_plan_fds(r->plan)[count - 1] >= limit.rlim_cur))
        return;
    memcpy(child->flat.stream_source, source, sizeof source);
    memcpy(child->same_as, same_as, sizeof same_as);
    child->parent_pid = getpid();
    child->unshare_from = (uint32_t)highest + 1;
}

/* THREAD worker. A pipe that says by its end that the child has run exec, or is over. */
static int worker_open_report_pipe(struct avf_request *r)
{
    int ends[2], error = 0;
    avf_gate_enter();
    if (pipe2(ends, O_CLOEXEC) < 0)
        error = -errno;
    avf_lock();
    if (error == 0)
        memcpy(r->report_pipe, ends, sizeof ends);
    avf_unlock();
    avf_gate_leave();
    return error;
}

/* THREAD worker. */
static void worker_close_report_pipe(struct avf_request *r, int end)
{
    avf_gate_enter();
    avf_lock();
    int fd = r->report_pipe[end];
    r->report_pipe[end] = -1;
    avf_unlock();
    avf_close_all(&fd, 1);
    avf_gate_leave();
}

/* THREAD worker. Waits for the report. A process that forked without exec, and without our handler, may hold the
 * write end for long: so the pidfd is watched too, and now and then the kernel is asked. */
static void worker_read_report_pipe(struct avf_request *r)
{
    struct pollfd wanted[2] = {{.fd = r->report_pipe[0], .events = POLLIN},
                               {.fd = r->pidfd, .events = POLLIN}};
    worker_close_report_pipe(r, 1);
    while (poll(wanted, 2, WORKER_ASK_AGAIN_MS) <= 0 && !avf_reap_has_run_exec(r->pidfd))
        ;
}

/* THREAD worker. SIGNALS all blocked during the window. One attempt at a child. RETURNS the pid or -errno of
 * clone; the report tells about the rest. */
static long worker_clone(struct avf_request *r, struct avf_child *child, int32_t engine)
{
    _Alignas(16) char stack[AVF_CHILD_STACK];
    uint64_t all = ~0ULL, mask, flags = 0;

    if (engine & AVF_REPORT_PIPE) {
        int error = worker_open_report_pipe(r);
        if (error < 0)
            return error;
    }
    child->flat.report_fd = r->report_pipe[1];
    child->report->error = 0;
    child->report->step = AVF_STEP_CLONE;
    child->flat.reset_handlers = child->flat.reset_handlers || !(engine & AVF_ENGINE_CLONE3);
    if (!child->flat.reset_handlers)
        flags |= AVF_CLONE_CLEAR_SIGHAND;
    if (child->unshare_from)
        flags |= AVF_CLONE_FILES;
    sys_sigmask(SIG_SETMASK, &all, &mask);
    long pid = avf_engine_clone((engine & AVF_ENGINE_CLONE3) != 0, flags, stack, sizeof stack, avf_child_run,
                                child, (int32_t *)&r->pidfd);
    sys_sigmask(SIG_SETMASK, &mask, NULL);
    r->pid = (int32_t)pid;
    if (engine & AVF_REPORT_PIPE) {
        if (pid > 0)
            worker_read_report_pipe(r);
        else
            worker_close_report_pipe(r, 1);
        worker_close_report_pipe(r, 0);
    }
    return pid;
}

/* THREAD worker. The child of this attempt is over, or there was none: nobody finds its pidfd any more. After a
 * clone that failed the number is none that was ever open: then `pid` is not positive. */
static void worker_forget_child(struct avf_request *r, long pid)
{
    avf_gate_enter();
    avf_lock();
    int pidfd = r->pidfd;
    r->pidfd = r->pid = -1;
    r->seat->report->started_ns = 0;
    avf_unlock();
    if (pid > 0)
        close(pidfd);
    avf_gate_leave();
}

/* THREAD worker. What must hold before a child is made; else RETURNS 0 and fills the outcome. */
static int worker_is_ready(struct avf_request *r, avf_facts *facts, struct outcome *o)
{
    int error = avf_probe_facts(facts);
    if (error == 0 && facts->parent_suspended) /* else its pid is known in the window, and serves as well */
        error = avf_probe_pidfd_signal();
    if (error == 0 && avf_probe_is_lasting(facts->pidfd_wait))
        error = -ENOSYS;
    int wait_error = facts->pidfd_wait < 0 ? facts->pidfd_wait : avf_probe_pidfd_wait();
    if (error < 0)
        outcome_fail(o, AVF_STEP_PROBE, error);
    else if (wait_error < 0)
        outcome_fail(o, AVF_STEP_WAIT, wait_error);
    else if (r->seat->report->cancel)
        outcome_fail(o, AVF_STEP_NONE, r->seat->report->cancel);
    else
        return 1;
    return 0;
}

/* THREAD worker. clone has made a child, which has let us go on. Each field of the report is read once: nobody who
 * could still write to it gets a second chance. RETURNS AVF_FATE_RAN or AVF_FATE_DIED, with the outcome of either. */
static int worker_judge(struct avf_request *r, int32_t pid, struct outcome *o)
{
    struct avf_report *report = r->seat->report;
    int32_t error = report->error, step = report->step, cancel = report->cancel;
    int fate = avf_reap_fate(r->pidfd, pid, error != 0, step, &o->status);
    if (fate == AVF_FATE_DIED) {
        outcome_fail(o, step, cancel ? cancel : error);
        return fate;
    }
    if (fate == AVF_FATE_RAN && !cancel) {
        o->kind = AVF_OUTCOME_CHILD;
        o->pid = pid;
        return fate;
    }
    avf_kill_and_wait(r->pidfd, pid);
    outcome_fail(o, fate < 0 ? AVF_STEP_WAIT : step, cancel ? cancel : fate);
    return AVF_FATE_DIED;
}

/* THREAD worker. Everything from the pipes to a child that runs its program, or the reason why not. */
static void worker_run(struct avf_request *r, struct outcome *o)
{
    avf_facts facts;
    int32_t step, forgo = 0;
    if (!worker_is_ready(r, &facts, o))
        return;
    int32_t engine = avf_probe_engine(&facts);
    if (!facts.memory_shared)
        avf_window_share_with_forks();
    struct avf_child child = {
        .flat = {.sigmask = r->sigmask,
                 .libc_signals = avf_libc_signals(),
                 .reset_handlers = avf_probe_is_lasting(facts.clear_sighand),
                 .message_fd = r->files.message_fd,
                 .message_count = r->files.message_count},
        .plan = r->plan,
        .argv = r->argv,
        .envp = r->envp,
        .fd_source = r->source + 3,
        .scratch = r->scratch,
        .report = r->seat->report,
    };
    avf_plan_split(r->plan, r->plan->argv_offset, r->plan->argv_count, r->argv);
    avf_plan_split(r->plan, r->plan->envp_offset, r->plan->envp_count, r->envp);
    int error = avf_streams_make_pipes(r->plan, &r->pipes, &step);
    if (error < 0) {
        outcome_fail(o, step, error);
        return;
    }
    avf_streams_add_pipes(r->plan, &r->pipes, r->source);
    if (!(r->plan->flags & AVF_PLAN_CLOSE_FDS) || engine & AVF_REPORT_PIPE || !avf_probe_close_range(&facts))
        forgo = FORGO_UNSHARE;

    for (;;) {
        worker_copy_table(r, &child);
        if (!(forgo & FORGO_UNSHARE))
            worker_prefer_unshare(r, &child, forgo);
        long pid = worker_clone(r, &child, engine);
        o->flags = engine | (child.unshare_from ? AVF_FDS_UNSHARED : 0);
        o->resumed_ns = avf_now();
        if (pid > 0 && worker_judge(r, (int32_t)pid, o) == AVF_FATE_RAN)
            return;
        worker_forget_child(r, pid);
        if (pid < 0 && engine & AVF_ENGINE_CLONE3 && avf_engine_refused(pid)) {
            engine &= ~AVF_ENGINE_CLONE3; /* a filter; or a sandbox that came after the probe */
            continue;
        }
        if (pid < 0)
            outcome_fail(o, AVF_STEP_CLONE, (int32_t)pid);
        if (o->step != AVF_STEP_UNSHARE_FDS || o->error == 0 || r->seat->report->cancel)
            return;
        forgo |=
            o->error == -ESTALE ? FORGO_OWN_STREAMS : FORGO_UNSHARE; /* a filter on that flag or on kcmp */
    }
}

/* THREAD worker, under the lock. A child is running its program. RETURNS 0 if the port takes it, else
 * the -errno that the spawn fails with. */
static int32_t worker_hand_over(const struct avf_request *r)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = r->slot->ticket};
    if (r->seat->report->cancel)
        return r->seat->report->cancel;
    if (r->port->closed)
        return -ECANCELED;
    return epoll_ctl(r->port->epoll_fd, EPOLL_CTL_ADD, r->pidfd, &event) < 0 ? -errno : 0;
}

/* THREAD worker, under the lock. */
static void worker_fill_slot(struct avf_request *r, const struct outcome *o, uint64_t place)
{
    struct avf_slot *slot = r->slot;
    int64_t child_ns = r->seat->report->started_ns;
    slot->outcome = (uint8_t)o->kind;
    slot->error = o->error;
    slot->step = o->step;
    slot->status = o->status;
    slot->flags = o->flags;
    slot->queue_ns = o->started_ns - r->submitted_ns;
    if (o->kind != AVF_OUTCOME_CHILD)
        return;
    slot->clone_ns = child_ns - o->started_ns;
    slot->exec_ns = o->resumed_ns - child_ns;
    slot->pid = o->pid;
    slot->pidfd = r->pidfd;
    r->pidfd = -1;
    memcpy(slot->parent_end, r->pipes.parent_end, sizeof slot->parent_end);
    memset(r->pipes.parent_end, -1, sizeof r->pipes.parent_end);
    avf_park_add_child(place, slot);
}

/* THREAD worker. Closes what the request need not keep: all but a living child's pidfd and pipes. */
static void worker_close(struct avf_request *r, const struct outcome *o)
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
static void worker_refuse_child(struct avf_request *r, struct outcome *o, int32_t error)
{
    avf_kill_and_wait(r->pidfd, o->pid);
    worker_forget_child(r, o->pid);
    outcome_fail(o, AVF_STEP_PIDFD, error);
    worker_close(r, o);
}

/* THREAD worker. Hands the outcome to the port; a child that nobody wants any more is reaped first.
 * RETURNS the request that this worker starts next, or NULL. */
static struct avf_request *worker_post(struct avf_request *r, struct outcome *o, int64_t born_ns,
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
        struct outcome o = {.started_ns = avf_now()};
        o.resumed_ns = o.started_ns;
        worker_run(r, &o);
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
