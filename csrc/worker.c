/* DESIGN: the worker.
 *
 * What: a short-lived pthread makes the pipes, clones with vfork semantics, finds out how it went and
 *     posts the outcome; it goes on with requests that were queued before it was born, then waits for its
 *     children, if there is room to park, and ends.
 * Where: avf_worker_start on the thread that asks, so that the worker, and with it the child,
 *     inherits that thread's confinement; the rest on the worker.
 * Invariants: every signal, 32 and 33 included, is blocked while a child shares our memory, and
 *     unblocked before the worker waits for anything else or ends: a thread that keeps 33 blocked
 *     makes setuid() hang for good (glibc signals every thread). The pidfd is in the request before
 *     the child runs. Until the post, whoever finds the request through its slot may set the
 *     report's `cancel` and then kill through the pidfd; the child looks at `cancel` first of all, so
 *     one of the two always bites.
 * Deliberately absent: Python, the GIL, and any retry that could start a program twice. */
#include "worker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "plan.h"
#include "port.h"
#include "probe.h"
#include "sys.h"
#include "thread.h"

/* Up to this number of a source, unsharing the table in the child copies less than clone would. */
enum { WORKER_UNSHARE_BELOW = 256 };

/* How long a worker waits for its children before it asks to be woken. */
enum { WORKER_PARK_NS = 50 * 1000 * 1000 };

/* worker only until posted */
struct outcome {
    int32_t error, step, status, flags;
    int32_t pid, pidfd; /* pidfd >= 0: the child lives */
    int64_t started_ns, resumed_ns;
};

/* Seen once, by any worker: close_range(UNSHARE) does not work; kcmp did not find a stream the same. */
static _Atomic int unshare_refused, streams_refused;

/* THREAD worker. The pipes' numbers appear in the request under the lock, whole, for fork(). */
static int worker_make_pipes(struct avf_request *r, int32_t *ret_step)
{
    int32_t child_end[3] = {-1, -1, -1}, parent_end[3] = {-1, -1, -1};
    int error = 0, wanted = 0;
    for (int i = 0; i < 3 && error == 0; i++) {
        int ends[2];
        if (r->plan->stdio[i] != AVF_STDIO_PIPE)
            continue;
        wanted = 1;
        *ret_step = AVF_STEP_PIPE;
        if (pipe2(ends, O_CLOEXEC) < 0) {
            error = -errno;
            break;
        }
        child_end[i] = ends[i != 0];
        parent_end[i] = avf_fd_above_stdio(ends[i == 0]);
        if (parent_end[i] < 0)
            error = parent_end[i];
        else if (fcntl(parent_end[i], F_SETFL, O_NONBLOCK) < 0)
            error = -errno;
        if (error < 0)
            break;
        *ret_step = AVF_STEP_PIPESIZE;
        if (r->plan->pipesize > 0 && fcntl(parent_end[i], F_SETPIPE_SZ, r->plan->pipesize) < 0)
            error = -errno;
    }
    if (wanted) {
        avf_lock();
        memcpy(r->child_end, child_end, sizeof child_end);
        memcpy(r->parent_end, parent_end, sizeof parent_end);
        avf_unlock();
    }
    return error;
}

/* THREAD worker. The child's view of the descriptors, in a table that clone copies. */
static void worker_resolve_fds(const struct avf_request *r, struct avf_child *child)
{
    for (int i = 0; i < 3; i++) {
        int kind = r->plan->stdio[i], fd = AVF_CHILD_CLOSED;
        if (kind == AVF_STDIO_PIPE)
            fd = r->child_end[i];
        else if (kind == AVF_STDIO_DEVNULL)
            fd = AVF_STDIO_DEVNULL;
        else if (kind == AVF_STDIO_STDOUT)
            fd = child->stdio_source[1];
        else if (kind == AVF_STDIO_INHERIT)
            fd = r->streams->fd[i];
        else
            fd = r->stdio_source[i];
        child->stdio_source[i] = fd;
        child->same_as[i] = -1;
    }
    child->unshare_from = 0;
}

/* THREAD worker. The same in a table that the child unshares: sources must sit on low numbers. A
 * duplicate of an inherited stream may not; then the stream itself will do, if it is still the same. */
static void worker_prefer_unshare(const struct avf_request *r, struct avf_child *child)
{
    int32_t source[3], same_as[3] = {-1, -1, -1}, highest = 2;
    for (int i = 0; i < 3; i++) {
        source[i] = child->stdio_source[i];
        if (r->plan->stdio[i] == AVF_STDIO_INHERIT && source[i] >= WORKER_UNSHARE_BELOW && !streams_refused) {
            same_as[i] = source[i];
            source[i] = i;
        } else if (r->plan->stdio[i] == AVF_STDIO_STDOUT) {
            source[i] = source[1];
        }
        highest = source[i] > highest ? source[i] : highest;
    }
    for (uint32_t i = 0; i < r->plan->fd_count; i++)
        highest = r->fd_source[i] > highest ? r->fd_source[i] : highest;
    if (highest >= WORKER_UNSHARE_BELOW)
        return;
    memcpy(child->stdio_source, source, sizeof source);
    memcpy(child->same_as, same_as, sizeof same_as);
    child->parent_pid = getpid();
    child->unshare_from = (uint32_t)highest + 1;
}

/* THREAD worker. Takes the pidfd back from those who might signal through it. */
static int worker_take_pidfd(struct avf_request *r)
{
    avf_lock();
    int pidfd = r->pidfd;
    r->pidfd = -1;
    avf_unlock();
    return pidfd;
}

/* THREAD worker. SIGNALS all blocked during the window. One attempt at a child. RETURNS the pid or -errno of
 * clone; the report tells about the rest. */
static long worker_clone(struct avf_request *r, struct avf_child *child, int32_t engine, uint64_t birth_mask)
{
    _Alignas(16) char stack[AVF_CHILD_STACK];
    uint64_t all = ~0ULL, flags = 0;
    int report_pipe[2] = {-1, -1};
    long pid;

    child->report->error = 0;
    child->report->step = AVF_STEP_CLONE;
    if (engine & AVF_REPORT_PIPE && pipe2(report_pipe, O_CLOEXEC) < 0)
        return -errno;
    child->report_fd = report_pipe[1];
    child->reset_handlers = child->reset_handlers || !(engine & AVF_ENGINE_CLONE3);
    if (!child->reset_handlers)
        flags |= AVF_CLONE_CLEAR_SIGHAND;
    if (child->unshare_from)
        flags |= AVF_CLONE_FILES;
    sys_sigmask(SIG_SETMASK, &all, NULL);
    pid = avf_engine_clone((engine & AVF_ENGINE_CLONE3) != 0, flags, stack, sizeof stack, avf_child_run,
                           child, (int32_t *)&r->pidfd);
    sys_sigmask(SIG_SETMASK, &birth_mask, NULL);
    if (report_pipe[0] >= 0) {
        char none;
        close(report_pipe[1]);
        if (pid > 0) /* the end of file is the exec, or the exit */
            while (read(report_pipe[0], &none, 1) < 0 && errno == EINTR)
                ;
        close(report_pipe[0]);
    }
    return pid;
}

/* THREAD worker. A child exists. RETURNS 1 if it reached exec, else 0, and then it has been reaped.
 * Until exec a child's exit signal is 0, exec makes it SIGCHLD (de_thread in fs/exec.c, before the
 * parent resumes): so a wait for children of other exit signals only tells the two apart. */
static int worker_child_reached_exec(const struct avf_report *report, int pidfd, int32_t *ret_status)
{
    siginfo_t info = {0};
    int error;
    unsigned which = report->error ? AVF_WALL : AVF_WCLONE;
    while ((error = sys_waitid_pidfd(pidfd, &info, WEXITED | which, NULL)) == -EINTR)
        ;
    if (error == 0)
        *ret_status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
    return error < 0 && !report->error;
}

/* THREAD worker. Everything from the pipes to a child that runs its program, or the reason why not. */
static void worker_run(struct avf_request *r, uint64_t birth_mask, struct outcome *o)
{
    struct avf_report *report = r->seat->report;
    const avf_facts *facts;
    o->step = AVF_STEP_PROBE;
    o->error = -avf_probe_once(&facts);
    if (o->error == 0)
        o->error = facts->pidfd_wait ? ENOSYS : report->cancel;
    if (o->error)
        return;
    int32_t engine = avf_probe_engine(facts);
    struct avf_child child = {
        .plan = r->plan,
        .report = report,
        .argv = r->argv,
        .envp = r->envp,
        .fd_source = r->fd_source,
        .sigmask = r->sigmask,
        .reset_handlers = facts->clear_sighand != 0,
    };
    avf_plan_split(r->plan, r->plan->argv_offset, r->plan->argv_count, r->argv);
    avf_plan_split(r->plan, r->plan->envp_offset, r->plan->envp_count, r->envp);
    o->error = -worker_make_pipes(r, &o->step);
    if (o->error)
        return;
    worker_resolve_fds(r, &child);
    if (r->plan->flags & AVF_PLAN_CLOSE_FDS && !(engine & AVF_REPORT_PIPE) && !facts->close_range &&
        !unshare_refused)
        worker_prefer_unshare(r, &child);

    for (;;) {
        long pid = worker_clone(r, &child, engine, birth_mask);
        o->flags = engine | (child.unshare_from ? AVF_FDS_UNSHARED : 0);
        o->resumed_ns = avf_now();
        if (pid < 0 && engine & AVF_ENGINE_CLONE3 && avf_engine_refused(pid)) {
            engine &= ~AVF_ENGINE_CLONE3; /* a sandbox that came after the probe */
            continue;
        }
        if (pid < 0) {
            o->step = AVF_STEP_CLONE;
            o->error = (int32_t)-pid;
            return;
        }
        o->pid = (int32_t)pid;
        int reached = worker_child_reached_exec(report, r->pidfd, &o->status);
        o->pidfd = worker_take_pidfd(r);
        if (reached && !report->cancel)
            return;
        if (reached)
            avf_kill_and_reap(o->pidfd);
        else
            close(o->pidfd);
        o->pidfd = -1;
        o->step = report->step;
        o->error = report->cancel ? report->cancel : report->error;
        if (o->step != AVF_STEP_UNSHARE_FDS || !o->error || report->cancel)
            return;
        if (o->error == ESTALE)
            streams_refused = 1;
        else
            unshare_refused = 1;
        worker_resolve_fds(r, &child);
    }
}

/* THREAD worker, under the lock. A child is running its program. RETURNS 0 if the port takes it, else
 * the errno that the spawn fails with. */
static int32_t worker_hand_over(const struct avf_request *r, int pidfd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = r->slot->ticket};
    if (r->seat->report->cancel)
        return r->seat->report->cancel;
    if (r->port->closed)
        return ECANCELED;
    return epoll_ctl(r->port->epoll_fd, EPOLL_CTL_ADD, pidfd, &event) < 0 ? errno : 0;
}

/* THREAD worker, under the lock. */
static void worker_fill_slot(struct avf_request *r, const struct outcome *o, struct avf_parent *parent)
{
    struct avf_slot *slot = r->slot;
    int64_t child_ns = r->seat->report->started_ns;
    slot->state = AVF_SLOT_POSTED;
    slot->pid = o->pid;
    slot->pidfd = o->pidfd;
    slot->error = o->error;
    slot->step = o->step;
    slot->status = o->status;
    slot->flags = o->flags;
    slot->queue_ns = o->started_ns - r->submitted_ns;
    if (child_ns) {
        slot->clone_ns = child_ns - o->started_ns;
        slot->exec_ns = o->resumed_ns - child_ns;
    }
    if (o->pidfd >= 0) {
        slot->parent = parent;
        if (parent)
            parent->living++;
        memcpy(slot->parent_end, r->parent_end, sizeof slot->parent_end);
        memset(r->parent_end, -1, sizeof r->parent_end);
    }
}

/* THREAD worker. Hands the outcome to the port; a child that nobody wants any more is reaped first.
 * RETURNS the request that this worker starts next, or NULL. */
static struct avf_request *worker_post(struct avf_request *r, struct outcome *o, int64_t born_ns,
                                       struct avf_parent *parent)
{
    struct avf_port *port = r->port;
    struct avf_request *next;
    int32_t refused;

    avf_lock();
    if (o->pidfd >= 0 && (refused = worker_hand_over(r, o->pidfd)) != 0) {
        avf_unlock();
        avf_kill_and_reap(o->pidfd);
        o->pidfd = -1;
        o->error = refused;
        o->step = AVF_STEP_PIDFD;
        avf_lock();
    }
    r->slot->request = NULL;
    if (port->closed) {
        avf_state.counters.abandoned++;
        avf_slot_release(r->slot);
    } else {
        worker_fill_slot(r, o, parent);
        avf_slots_append(&port->done, r->slot);
        avf_port_signal(port);
    }
    port->references++; /* ours, beside the seat's */
    avf_port_unseat(port, r->seat);
    next = avf_port_next(port, born_ns, o->resumed_ns);
    avf_port_wake_waiting(port);
    avf_port_unreference(port);
    avf_unlock();
    avf_request_free(r);
    return next;
}

/* THREAD worker. RETURNS NULL where there is no memory; such a worker does not wait for its children. */
static struct avf_parent *worker_make_parent(void)
{
    pthread_condattr_t monotonic;
    struct avf_parent *parent = calloc(1, sizeof *parent);
    if (!parent)
        return NULL;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&parent->gone, &monotonic); /* holds no resource: never destroyed */
    pthread_condattr_destroy(&monotonic);
    return parent;
}

/* THREAD worker. The kernel sends a parent-death signal when the *thread* dies that created the child
 * (prctl(2), PR_SET_PDEATHSIG). A program that asks for one itself (bwrap --die-with-parent, setpriv
 * --pdeathsig) means this process. So the thread stays while its children live, as long as there are
 * few such threads; beyond that the kernel's meaning holds. Most children end within the first wait,
 * which costs their loop nothing. */
static void worker_park(struct avf_parent *parent)
{
    int64_t until_ns = avf_now() + WORKER_PARK_NS;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    avf_lock();
    if (parent->living && avf_state.parked < AVF_PARKED) {
        avf_state.parked++;
        while (parent->living && pthread_cond_timedwait(&parent->gone, &avf_state.lock, &until) == 0)
            ;
        parent->asleep = 1;
        while (parent->living)
            pthread_cond_wait(&parent->gone, &avf_state.lock);
        avf_state.parked--;
    }
    parent->left = 1;
    int last = parent->living == 0;
    avf_unlock();
    if (last)
        free(parent);
}

/* THREAD worker. SIGNALS at birth all blocked but libc's. OWNS the request, then those that follow:
 * what was in the queue when this thread was created could have been its own, since it inherited
 * the caller's confinement after that call too. What came later gets a thread that was born later. */
static void *worker_main(void *arg)
{
    struct avf_request *r = arg;
    struct avf_parent *parent = worker_make_parent();
    int64_t born_ns = r->seat->started_ns; /* on the creator's thread, before pthread_create */
    prctl(PR_SET_NAME, "aiovfork");
    while (r) {
        struct outcome o = {.pidfd = -1, .started_ns = avf_now()};
        o.resumed_ns = o.started_ns;
        worker_run(r, ~AVF_LIBC_SIGNALS, &o);
        r = worker_post(r, &o, born_ns, parent);
    }
    if (parent)
        worker_park(parent);
    return NULL;
}

/* THREAD loop. */
int avf_worker_start(struct avf_request *r)
{
    return avf_thread_start(worker_main, r);
}
