/* DESIGN: one attempt at a child.
 *
 * What: makes the pipes, clones with vfork semantics, and finds out whether the child runs its program.
 * Where: the worker.
 * Invariants: every signal, libc's included, is blocked while a child shares our memory, and
 *     unblocked before the worker waits for anything else: a thread that keeps libc's blocked
 *     makes setuid() hang for good (libc signals every thread). The kernel writes the pidfd into the
 *     request before the child runs. Until the post, whoever finds the request through its slot may set
 *     the report's `cancel`, and kill through the pidfd once the child has set started_ns.
 * Deliberately absent: any retry that could start a program twice. */
#include "attempt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "group.h"
#include "launch.h"
#include "plan.h"
#include "probe.h"
#include "reap.h"
#include "sys.h"
#include "table.h"
#include "thread.h"

/* How long a report by pipe may say nothing until the kernel is asked. */
enum { ATTEMPT_ASK_AGAIN_MS = 20 };

/* How an attempt is made, and what is found out by it. worker only */
struct attempt_way {
    int32_t engine;
    int32_t forgo; /* ways of giving a child its table that were found refused (table.h) */
    int suspended; /* clone lets go after exec, or the child's end */
    int used_mailbox;
    struct avf_word word; /* the launcher's last */
};

/* THREAD worker. */
void avf_attempt_fail(struct avf_attempt *o, int32_t step, int32_t error)
{
    o->kind = AVF_OUTCOME_FAILURE;
    o->step = step;
    o->error = error;
}

/* THREAD worker. A pipe that says by its end that the child has run exec, or is over. */
static int attempt_open_report_pipe(struct avf_request *r)
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
static void attempt_close_report_pipe(struct avf_request *r, int end)
{
    avf_gate_enter();
    avf_lock();
    int fd = r->report_pipe[end];
    r->report_pipe[end] = -1;
    avf_unlock();
    avf_close_all(&fd, 1);
    avf_gate_leave();
}

/* THREAD worker. Reads what the launcher has written, if it has; RETURNS 0 at the end of the pipe. */
static int attempt_read_words(const struct avf_request *r, struct avf_word *word)
{
    struct avf_word words[32];
    ssize_t got = read(r->report_pipe[0], words, sizeof words);
    if (got >= (ssize_t)sizeof *word)
        *word = words[(size_t)got / sizeof *word - 1];
    return got > 0 || (got < 0 && errno == EINTR);
}

/* THREAD worker. Whether the child has run exec, where its pipe does not tell: now and then the kernel is asked, where
 * clone is known to let go only after exec: an emulator may know nothing of exit signals. */
static int attempt_has_run_exec(const struct avf_request *r, int suspended, const struct avf_word *word)
{
    if (r->launch_fds[0] < 0)
        return suspended && avf_reap_has_run_exec(r->pidfd);
    return word->step == AVF_STEP_EXEC && word->error == 0 && avf_launch_has_run_exec(r->pid);
}

/* THREAD worker. Waits for the end of the report's pipe. A process that forked without exec, and without our handler, or
 * another child that is stuck before it has closed what it must not hold, may hold the write end for long: so the
 * pidfd is watched too. */
static void attempt_read_report_pipe(struct avf_request *r, int suspended, struct avf_word *word)
{
    struct pollfd wanted[2] = {{.fd = r->report_pipe[0], .events = POLLIN},
                               {.fd = r->pidfd, .events = POLLIN}};
    attempt_close_report_pipe(r, 1);
    for (;;) {
        int ready = poll(wanted, 2, ATTEMPT_ASK_AGAIN_MS);
        int may_not_poll = ready < 0 && errno != EINTR; /* a filter */
        int is_over = ready > 0 && wanted[1].revents;
        if (is_over && !wanted[0].revents) /* its last word may have come since poll had looked at the pipe */
            ready = poll(wanted, 1, 0);
        if ((ready > 0 && wanted[0].revents) || (may_not_poll && r->launch_fds[0] >= 0)) {
            if (!attempt_read_words(r, word))
                return;
        } else if (is_over || attempt_has_run_exec(r, suspended, word)) {
            return;
        }
    }
}

/* THREAD worker. What the launcher is given. The plan holds the child's environment: its memfd is noted before
 * anybody can fork, and filled afterwards. RETURNS 0 or -errno. */
static int attempt_prepare_launch(struct avf_request *r, struct avf_child *child)
{
    struct avf_rights rights;
    int launcher = avf_launch_open();
    if (launcher < 0)
        return launcher;
    avf_gate_enter();
    int launch = avf_launch_create();
    avf_lock();
    r->launch_fds[0] = launcher;
    r->launch_fds[1] = launch < 0 ? -1 : launch;
    avf_unlock();
    avf_gate_leave();
    avf_launch_rights(&rights);
    child->lent = rights.lent;
    return launch < 0 ? launch : avf_launch_fill(launch, r->plan, r->sigmask, child->parent_pid, &rights);
}

/* THREAD worker. SIGNALS all blocked during the window. One attempt at a child. RETURNS the pid or -errno of
 * clone; the report, and the launcher's last word, tell about the rest. */
static long attempt_clone(struct avf_request *r, struct avf_child *child, struct attempt_way *way)
{
    _Alignas(16) char stack[AVF_CHILD_STACK];
    uint64_t all = ~0ULL, mask, flags = 0;
    struct avf_mail mail = {.box = {-1, -1}};

    avf_table_choose(r, child, way->forgo, &mail);
    child->report->error = 0;
    child->report->note_count = 0;
    child->report->step = AVF_STEP_CLONE;
    child->reset_handlers = child->reset_handlers || !(way->engine & AVF_ENGINE_CLONE3);
    if (!child->reset_handlers)
        flags |= AVF_CLONE_CLEAR_SIGHAND;
    if (child->unshare_from)
        flags |= AVF_CLONE_FILES;
    sys_sigmask(SIG_SETMASK, &all, &mask);
    long pid = avf_engine_clone((way->engine & AVF_ENGINE_CLONE3) != 0, flags, stack, sizeof stack,
                                avf_child_run, child, r->cgroup_fd, (int32_t *)&r->pidfd);
    sys_sigmask(SIG_SETMASK, &mask, NULL);
    r->pid = (int32_t)pid;
    way->used_mailbox =
        avf_mailbox_clear(&mail); /* before the pipe's end is waited for: it may be in there */
    if (r->report_pipe[0] >= 0) {
        if (pid > 0)
            attempt_read_report_pipe(r, way->suspended, &way->word);
        else
            attempt_close_report_pipe(r, 1);
        attempt_close_report_pipe(r, 0);
    }
    return pid;
}

/* THREAD worker. The child of this attempt is over, or there was none: nobody finds its pidfd any more. After a
 * clone that failed the number is none that was ever open: then `pid` is not positive. */
void avf_attempt_forget_child(struct avf_request *r, long pid)
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
static int attempt_is_possible(struct avf_request *r, avf_facts *facts, struct avf_attempt *o)
{
    int error = avf_probe_facts(facts);
    if (error == 0 &&
        facts->memory_shared) /* an emulator may lack it (valgrind), and serves nobody's server */
        error = avf_probe_pidfd_signal();
    if (error == 0 && avf_probe_is_lasting(facts->pidfd_wait))
        error = -ENOSYS;
    int wait_error = facts->pidfd_wait < 0 ? facts->pidfd_wait : avf_probe_pidfd_wait();
    if (error < 0)
        avf_attempt_fail(o, AVF_STEP_PROBE, error);
    else if (wait_error < 0)
        avf_attempt_fail(o, AVF_STEP_WAIT, wait_error);
    else if (r->seat->report->cancel)
        avf_attempt_fail(o, AVF_STEP_NONE, r->seat->report->cancel);
    else
        return 1;
    return 0;
}

/* THREAD worker. A child that runs its program. */
static int attempt_succeed(struct avf_attempt *o, int32_t pid, const struct avf_report *report)
{
    uint32_t notes = (uint32_t)report->note_count < AVF_NOTES ? (uint32_t)report->note_count : AVF_NOTES;
    memcpy(o->notes, report->notes, notes * sizeof *o->notes);
    o->kind = AVF_OUTCOME_CHILD;
    o->error = o->step = o->status = 0; /* of an attempt before this one */
    o->pid = pid;
    return AVF_FATE_RAN;
}

/* THREAD worker. The vfork child has become the launcher, whose words tell how far it came. From exec on its end is the
 * program's; before, its end, or its error, is a failed spawn. RETURNS an avf_fate. */
static int attempt_judge_launched(struct avf_request *r, int32_t pid, struct avf_word word,
                                  struct avf_attempt *o)
{
    int32_t cancel = r->seat->report->cancel;
    if (!cancel && word.error == 0 && word.step == AVF_STEP_EXEC)
        return attempt_succeed(o, pid, r->seat->report);
    o->status = avf_group_kill_and_wait(r->plan, r->pidfd, pid);
    avf_attempt_fail(o, word.step, cancel ? cancel : word.error < 0 ? word.error : 0);
    return AVF_FATE_DIED;
}

/* THREAD worker. clone has made a child, which has let us go on. Each field of the report is read once: nobody who
 * could still write to it gets a second chance. RETURNS AVF_FATE_RAN or AVF_FATE_DIED, with the outcome of either. */
static int attempt_judge(struct avf_request *r, int32_t pid, struct avf_word word, struct avf_attempt *o)
{
    struct avf_report *report = r->seat->report;
    int32_t error = report->error, step = report->step, cancel = report->cancel;
    if (r->launch_fds[0] >= 0 && error == 0 && (word.step != AVF_STEP_LAUNCHER || word.error))
        return attempt_judge_launched(r, pid, word, o);
    int fate = avf_reap_fate(r->pidfd, pid, error != 0, step, &o->status);
    if (fate == AVF_FATE_DIED) {
        avf_attempt_fail(o, step, cancel ? cancel : error);
        return fate;
    }
    if (fate == AVF_FATE_RAN && r->launch_fds[0] >= 0)
        return attempt_judge_launched(r, pid, word, o);
    if (fate == AVF_FATE_RAN && !cancel)
        return attempt_succeed(o, pid, report);
    (void)avf_group_kill_and_wait(r->plan, r->pidfd, pid);
    avf_attempt_fail(o, fate < 0 ? AVF_STEP_WAIT : step, cancel ? cancel : fate);
    return AVF_FATE_DIED;
}

/* THREAD worker. Whether clone3 was refused for the cgroup's sake, as far as anybody can tell. */
static int attempt_blames_cgroup(const struct avf_request *r, long error)
{
    return r->cgroup_fd >= 0 && error != -EAGAIN && error != -ENOMEM && error != -EMFILE && error != -ENFILE;
}

/* THREAD worker. One attempt, and its outcome. RETURNS whether another one, which the way now describes, may do better. */
static int attempt_once(struct avf_request *r, struct avf_child *child, struct attempt_way *way,
                        struct avf_attempt *o)
{
    int by_pipe = way->engine & AVF_REPORT_PIPE || r->launch_fds[0] >= 0;
    int error = by_pipe ? attempt_open_report_pipe(r) : 0;
    if (error < 0) {
        avf_attempt_fail(o, AVF_STEP_PIPE, error);
        return 0;
    }
    way->word = (struct avf_word){AVF_STEP_LAUNCHER, 0};
    long pid = attempt_clone(r, child, way);
    o->flags = way->engine | (child->unshare_from ? AVF_FDS_UNSHARED : 0) |
               (r->launch_fds[0] >= 0 ? AVF_LAUNCHER : 0);
    o->resumed_ns = avf_now();
    if (pid > 0 && attempt_judge(r, (int32_t)pid, way->word, o) == AVF_FATE_RAN)
        return 0;
    avf_attempt_forget_child(r, pid);
    if (pid < 0 && way->engine & AVF_ENGINE_CLONE3 && avf_engine_refused(pid) && r->cgroup_fd < 0) {
        way->engine &= ~AVF_ENGINE_CLONE3; /* a filter; or a sandbox that came after the probe */
        return 1;
    }
    if (pid < 0)
        avf_attempt_fail(o, attempt_blames_cgroup(r, pid) ? AVF_STEP_CGROUP : AVF_STEP_CLONE, (int32_t)pid);
    if (o->error == 0 || r->seat->report->cancel)
        return 0;
    if (o->step == AVF_STEP_UNSHARE_FDS) /* a filter on that flag, or on kcmp */
        way->forgo |= o->error == -ESTALE ? AVF_FORGO_OWN_STREAMS : AVF_FORGO_UNSHARE;
    else if (o->step == AVF_STEP_RECEIVE_FDS &&
             way->used_mailbox) /* it was closed; or RLIMIT_NOFILE is low */
        way->forgo |= AVF_FORGO_MAILBOXES;
    else
        return 0;
    return 1;
}

/* THREAD worker. Everything from the pipes to a child that runs its program, or the reason why not. */
void avf_attempt_run(struct avf_request *r, struct avf_attempt *o)
{
    avf_facts facts;
    int32_t step;
    if (!attempt_is_possible(r, &facts, o))
        return;
    int32_t engine = avf_probe_engine(&facts);
    if (!facts.memory_shared)
        avf_window_share_with_forks();
    struct avf_child child = {
        .plan = r->plan,
        .argv = r->argv,
        .envp = r->envp,
        .listen_pid = r->listen_pid,
        .report = r->seat->report,
        .sigmask = r->sigmask,
        .parent_pid = getpid(),
        .libc_signals = avf_libc_signals(),
        .reset_handlers = avf_probe_is_lasting(facts.clear_sighand),
        .scratch = r->scratch,
    };
    avf_plan_split(r->plan, r->plan->argv_offset, r->plan->argv_count, r->argv);
    avf_plan_split(r->plan, r->plan->envp_offset, r->plan->envp_count, r->envp);
    if (r->listen_pid)
        r->envp[r->plan->envp_count - 1] = r->listen_pid;
    int error = avf_streams_make_pipes(r->plan, &r->pipes, &step);
    if (error == 0 && avf_plan_needs_launcher(r->plan)) {
        step = AVF_STEP_LAUNCHER;
        error = attempt_prepare_launch(r, &child);
    }
    if (error < 0) {
        avf_attempt_fail(o, step, error);
        return;
    }
    avf_streams_add_pipes(r->plan, &r->pipes, r->source);
    struct attempt_way way = {.engine = engine, .suspended = facts.memory_shared && facts.parent_suspended};
    if (!(r->plan->flags & AVF_PLAN_CLOSE_FDS) || engine & AVF_REPORT_PIPE || !avf_probe_close_range(&facts))
        way.forgo = AVF_FORGO_UNSHARE;
    while (attempt_once(r, &child, &way, o))
        ;
}
