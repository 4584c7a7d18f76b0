/* DESIGN: the interpreter of a plan.
 *
 * What: everything between clone and exec, by raw system calls.
 * Where: in the vfork child, on a stack of its own, while it shares memory with the parent, whose
 *     worker is suspended; later also in the launcher, in an address space of its own.
 * Invariants: no libc, no TLS, no errno, no globals, no lock; the object has no undefined symbol,
 *     which the build checks. The child reads; it writes to its own stack, to the scratch numbers, which
 *     nobody else ever reads, and to the report. All signals stay blocked until the step before exec, so
 *     no handler of the parent's can run on shared memory.
 *     While the descriptor table is shared (unshare_from > 0), the first thing that touches it
 *     unshares it, and if that fails the child may only exit.
 * Order: as Modules/_posixsubprocess.c does it, since the order decides which error is seen first; with
 *     two exceptions. The signal mask comes last. Descriptors that the child must not hold are closed
 *     before the first step that may block: a chdir to a dead file server would keep them open.
 * Deliberately absent: credentials and anything that belongs to the memory map (launcher only). */
#include "child.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include "plan.h"
#include "sys.h"

#define CHILD_FN AVF_INLINE

/* THREAD child. Ends the child at step; error is -errno. */
CHILD_FN __attribute__((noreturn)) void child_fail(const struct avf_child *c, int step, long error)
{
    c->report->step = step;
    c->report->error = (int32_t)error;
    sys_exit_group(127);
}

/* THREAD child. */
CHILD_FN void child_check(const struct avf_child *c, int step, long result)
{
    if (result < 0)
        child_fail(c, step, result);
}

/* THREAD child. Handlers become default, ignored signals stay ignored; but those that libc uses itself are
 * never left ignored (glibc's posix_spawn leaks that). */
CHILD_FN void child_reset_signals(const struct avf_child *c)
{
    struct sys_sigaction standard = {0}, old;
    for (int signal = 1; signal <= AVF_SIGNALS; signal++) {
        if (c->flat.libc_signals >> (signal - 1) & 1) {
            child_check(c, AVF_STEP_SIGNALS, sys_sigaction(signal, &standard, NULL));
        } else if (c->flat.reset_handlers) {
            old.handler = NULL;
            if (sys_sigaction(signal, NULL, &old) == 0 && old.handler != NULL &&
                old.handler != (void *)SIG_IGN)
                child_check(c, AVF_STEP_SIGNALS, sys_sigaction(signal, &standard, NULL));
        }
    }
}

/* THREAD child. Whether fd is a number that the child will be given something on. */
CHILD_FN int child_is_target(const avf_plan *plan, int fd)
{
    if (fd <= 2)
        return 1;
    const int32_t *fds = avf_plan_fds(plan);
    uint32_t low = 0, high = plan->fd_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (fds[middle] < fd)
            low = middle + 1;
        else
            high = middle;
    }
    return low < plan->fd_count && fds[low] == fd;
}

/* THREAD child. Moves a source off the numbers that are targets, so that placing one cannot
 * overwrite another; the number left behind is overwritten or closed with the rest. */
CHILD_FN int child_lift(const struct avf_child *c, int step, int fd)
{
    int lifted = fd, from = 3;
    while (lifted >= 0 && child_is_target(c->plan, lifted)) {
        lifted = sys_fcntl(fd, F_DUPFD_CLOEXEC, from);
        child_check(c, step, lifted);
        from = lifted + 1;
    }
    return lifted;
}

/* THREAD child. Takes the given files out of the message that holds them. It is only looked at, not consumed:
 * a second attempt at this child finds it again. They get numbers in this process' own table only, so no close
 * of one can drop a record lock of the parent's (fcntl(2)). */
CHILD_FN const int32_t *child_receive_files(const struct avf_child *c)
{
    int32_t *numbers = c->scratch + 3 + c->plan->fd_count;
    char byte;
    struct iovec data = {&byte, 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(AVF_MESSAGE_FILES * sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    long got =
        AVF_SYS4(SYS_recvmsg, c->flat.message_fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC, 0);
    child_check(c, AVF_STEP_RECEIVE_FDS, got);
    if (message.msg_flags & MSG_CTRUNC) /* no room in the table: RLIMIT_NOFILE */
        child_fail(c, AVF_STEP_RECEIVE_FDS, -EMFILE);
    if (got == 0 || message.msg_controllen < CMSG_LEN(c->flat.message_count * sizeof(int)))
        child_fail(c, AVF_STEP_RECEIVE_FDS, -EIO);
    for (uint32_t i = 0; i < c->flat.message_count; i++)
        numbers[i] = ((const int *)CMSG_DATA(&control.header))[i];
    return numbers;
}

/* THREAD child. The number of a source, off the targets; AVF_SOURCE_CLOSED for none. */
CHILD_FN int child_source(const struct avf_child *c, int step, int32_t source, const int32_t *received)
{
    if (source <= AVF_SOURCE_RECEIVED)
        source = received[AVF_SOURCE_RECEIVED - source];
    return source < 0 ? AVF_SOURCE_CLOSED : child_lift(c, step, source);
}

/* THREAD child. Puts stdio and pass_fds on their numbers. RETURNS the report's descriptor, which may
 * have had to move. */
CHILD_FN int child_place_fds(const struct avf_child *c)
{
    const int32_t *targets = avf_plan_fds(c->plan), *received = NULL;
    uint32_t count = c->plan->fd_count;
    int32_t *placed = c->scratch;
    int devnull = -1;

    int report_fd = child_lift(c, AVF_STEP_STDIO, c->flat.report_fd);
    if (c->flat.message_fd >= 0)
        received = child_receive_files(c);
    for (int i = 0; i < 3; i++) {
        int32_t source = c->flat.stream_source[i];
        if (source == AVF_SOURCE_DEVNULL) {
            if (devnull < 0)
                devnull = sys_open("/dev/null", O_RDWR | O_CLOEXEC);
            child_check(c, AVF_STEP_DEVNULL, devnull);
            source = devnull;
        }
        placed[i] = child_source(c, AVF_STEP_STDIO, source, received);
    }
    for (uint32_t i = 0; i < count; i++)
        placed[3 + i] = child_source(c, AVF_STEP_PASS_FDS, c->fd_source[i], received);
    for (uint32_t i = 0; i < count; i++) {
        long result = sys_dup3(placed[3 + i], targets[i], 0);
        /* A number above a limit that was lowered since (RLIMIT_NOFILE) can be kept, but not made. */
        if (result == -EBADF && sys_same_file(placed[3 + i], targets[i]))
            result = sys_fcntl(targets[i], F_SETFD, 0);
        child_check(c, AVF_STEP_PASS_FDS, result);
    }
    for (int i = 0; i < 3; i++) {
        if (placed[i] < 0)
            (void)sys_close(i); /* EBADF is what we want */
        else
            child_check(c, AVF_STEP_STDIO, sys_dup3(placed[i], i, 0));
    }
    return report_fd;
}

/* THREAD child. The table is shared until here. Unshares it, and with it drops everything from
 * unshare_from on. Inherited streams whose duplicates sit above that are used where they are, if they
 * still are what they were at the call: kcmp(2) tells, exactly. */
CHILD_FN void child_unshare_fds(const struct avf_child *c)
{
    child_check(c, AVF_STEP_UNSHARE_FDS, sys_close_range(c->unshare_from, ~0U, AVF_CLOSE_RANGE_UNSHARE));
    long self = AVF_SYS4(SYS_getpid, 0, 0, 0, 0);
    for (int i = 0; i < 3; i++)
        if (c->same_as[i] >= 0 && sys_kcmp_file(c->parent_pid, self, c->same_as[i], i) != 0)
            child_fail(c, AVF_STEP_UNSHARE_FDS, -ESTALE);
}

/* THREAD child. */
CHILD_FN void child_restore_signals(const struct avf_child *c)
{
    static const int python_ignores[] = {SIGPIPE, SIGXFSZ}; /* SIGXFZ does not exist on Linux */
    struct sys_sigaction standard = {0};
    for (int i = 0; i < 2; i++)
        child_check(c, AVF_STEP_RESTORE_SIGNALS, sys_sigaction(python_ignores[i], &standard, NULL));
}

/* THREAD child. The declared steps, in the plan's order, which plan.c has checked. */
CHILD_FN void child_run_steps(const struct avf_child *c)
{
    const avf_plan *plan = c->plan;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const avf_plan_step *step = &avf_plan_steps(plan)[i];
        long result = 0;
        c->report->step = (int32_t)step->step;
        switch (step->step) {
        case AVF_STEP_CHDIR:
            result = AVF_SYS4(SYS_chdir, (const char *)plan + step->value, 0, 0, 0);
            break;
        case AVF_STEP_UMASK:
            result = AVF_SYS4(SYS_umask, step->value, 0, 0, 0);
            break;
        case AVF_STEP_RESTORE_SIGNALS:
            child_restore_signals(c);
            break;
        case AVF_STEP_SETSID:
            result = AVF_SYS4(SYS_setsid, 0, 0, 0, 0);
            break;
        case AVF_STEP_SETPGID:
            result = AVF_SYS4(SYS_setpgid, 0, step->value, 0, 0);
            break;
        default:
            result = -EINVAL;
        }
        child_check(c, (int)step->step, result);
    }
}

/* THREAD child. Where there is no close_range (before 5.9, or seccomp): what /proc/self/fd lists,
 * which is this process' own table, nobody else's. Without /proc it fails closed. */
CHILD_FN void child_close_listed(const struct avf_child *c, int report_fd)
{
    struct entry { /* struct linux_dirent64, getdents64(2) */
        uint64_t inode;
        int64_t offset;
        unsigned short size;
        unsigned char type;
        char name[];
    };
    _Alignas(8) char buffer[2048];
    long filled;
    int directory = sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    child_check(c, AVF_STEP_CLOSE_FDS, directory);
    while ((filled = AVF_SYS4(SYS_getdents64, directory, buffer, sizeof buffer, 0)) > 0)
        for (long at = 0; at < filled; at += ((struct entry *)(buffer + at))->size) {
            const char *digit = ((struct entry *)(buffer + at))->name;
            int fd = 0;
            if (*digit == '.')
                continue;
            for (; *digit; digit++)
                fd = fd * 10 + (*digit - '0');
            if (fd != directory && fd != report_fd && !child_is_target(c->plan, fd))
                (void)sys_close(fd);
        }
    child_check(c, AVF_STEP_CLOSE_FDS, filled);
    (void)sys_close(directory);
}

/* THREAD child. Closes what was not asked for: the gaps between the descriptors to keep. */
CHILD_FN void child_close_fds(const struct avf_child *c, int report_fd)
{
    const int32_t *fds = avf_plan_fds(c->plan);
    uint32_t next = 3;
    int pending = report_fd; /* merged into the ascending list */
    for (uint32_t i = 0; i <= c->plan->fd_count; i++) {
        int keep = i < c->plan->fd_count ? fds[i] : -1;
        if (pending >= 0 && (keep < 0 || pending < keep)) {
            keep = pending;
            pending = -1;
            i--;
        }
        uint32_t last = keep < 0 ? ~0U : (uint32_t)keep - 1;
        if (keep < 0 || (uint32_t)keep > next) {
            int result = sys_close_range(next, last, 0);
            if (result == -ENOSYS || result == -EPERM || result == -EINVAL) {
                child_close_listed(c, report_fd);
                return;
            }
            child_check(c, AVF_STEP_CLOSE_FDS, result);
        }
        next = (uint32_t)keep + 1;
    }
}

/* THREAD child. Tries each program; fails with the first errno that is not "not there", else the
 * last (as os._execvpe). ETXTBSY (another child still holds a just-written program open; golang
 * issue 22315) goes away within a moment or not at all: 63 ms of patience. */
CHILD_FN __attribute__((noreturn)) void child_exec(const struct avf_child *c)
{
    const char *path = (const char *)c->plan + c->plan->path_offset;
    long error = -ENOENT, telling = 0;
    for (uint32_t i = 0; i < c->plan->path_count; i++) {
        long patience = 1000000;
        while ((error = AVF_SYS4(SYS_execve, path, c->argv, c->envp, 0)) == -ETXTBSY &&
               patience <= 32000000) {
            sys_nanosleep(patience);
            patience *= 2;
        }
        if (error != -ENOENT && error != -ENOTDIR && telling == 0)
            telling = error;
        path = avf_plan_next_string(path);
    }
    child_fail(c, AVF_STEP_EXEC, telling ? telling : error);
}

/* THREAD child. SIGNALS all blocked until the step before exec. See child.h. */
__attribute__((noinline, noreturn)) void avf_child_run(void *arg)
{
    const struct avf_child copy = *(const struct avf_child *)arg, *c = &copy;
    struct avf_report *report = c->report;

    report->started_ns = sys_now(); /* before the look at cancel, see worker.c */
    int32_t cancel = report->cancel;
    if (cancel)
        child_fail(c, AVF_STEP_CLONE, cancel);
    if (c->unshare_from) {
        report->step = AVF_STEP_UNSHARE_FDS;
        child_unshare_fds(c);
    }
    child_reset_signals(c);
    int report_fd = child_place_fds(c);
    report->step = AVF_STEP_CLOSE_FDS;
    if (c->plan->flags & AVF_PLAN_CLOSE_FDS)
        child_close_fds(c, report_fd);
    child_run_steps(c);
    report->step = AVF_STEP_SIGMASK;
    child_check(c, AVF_STEP_SIGMASK, sys_sigmask(SIG_SETMASK, &c->flat.sigmask, NULL));
    report->step = AVF_STEP_EXEC;
    child_exec(c);
}

/* THREAD child. SIGNALS all blocked. See child.h. */
__attribute__((noinline, noreturn)) void avf_child_probe(void *arg)
{
    const struct avf_probe_child *p = arg;
    *p->private_mark = 1;
    sys_nanosleep(200000); /* a parent that is not suspended will not see what follows */
    p->report->seen = 1;
    sys_exit_group(0);
}
