/* DESIGN: the interpreter of a plan.
 *
 * What: everything between clone and exec, by raw system calls.
 * Where: in the vfork child, on a stack of its own, while it shares memory with the parent, whose
 *     worker is suspended. A plan that changes credentials is left there, at AVF_STEP_LAUNCHER: the child
 *     execs the launcher, and the rest runs in an address space of its own (launcher.c).
 * Invariants: no libc, no TLS, no errno, no globals, no lock; the object has no undefined symbol,
 *     which the build checks. The child reads; it writes to its own stack, to the scratch numbers, which
 *     nobody else ever reads, and to the report. All signals stay blocked until the step before exec, so
 *     no handler of the parent's can run on shared memory.
 *     While the descriptor table is shared (unshare_from > 0), the first thing that touches it
 *     unshares it, and if that fails the child may only exit.
 * Order: as Modules/_posixsubprocess.c does it, since the order decides which error is seen first; with
 *     two exceptions. The signal mask comes last. Descriptors that the child must not hold are closed
 *     before the first step that may block: a chdir to a dead file server would keep them open.
 * Deliberately absent: anything that belongs to the memory map of a process. */
#include "child.h"

#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "plan.h"
#include "sys.h"

#define CHILD_FN AVF_INLINE

typedef volatile uint64_t child_word __attribute__((may_alias));
_Static_assert(sizeof(struct avf_child) % sizeof(child_word) == 0, "whole words");

/* THREAD child. An assignment would be a call of memcpy (clang). */
CHILD_FN void child_copy(struct avf_child *to, const struct avf_child *from)
{
    child_word *words = (child_word *)to;
    for (size_t i = 0; i < sizeof *to / sizeof *words; i++)
        words[i] = ((const child_word *)from)[i];
}

/* THREAD child. In the launcher the report is nobody's but its own, and the pipe tells. */
CHILD_FN void child_say(const struct avf_child *c, long step, long error)
{
    struct avf_word word = {(int32_t)step, (int32_t)error};
    c->report->step = (int32_t)step;
    c->report->error = (int32_t)error;
    if (c->is_launched)
        (void)AVF_SYS4(SYS_write, c->report_fd, &word, sizeof word, 0);
}

/* THREAD child. Ends the child at step; error is -errno. */
CHILD_FN __attribute__((noreturn)) void child_fail(const struct avf_child *c, long step, long error)
{
    child_say(c, step, error);
    sys_exit_group(127);
}

/* THREAD child. */
CHILD_FN void child_check(const struct avf_child *c, long step, long result)
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
        if (c->libc_signals >> (signal - 1) & 1) {
            child_check(c, AVF_STEP_SIGNALS, sys_sigaction(signal, &standard, NULL));
        } else if (c->reset_handlers) {
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

/* THREAD child. Whether a mailbox still is what was put there: the application may have closed the number, and opened
 * something else at it, before this process had its own table. */
CHILD_FN int child_is_socket(int fd, uint64_t cookie)
{
    uint64_t found = 0;
    uint32_t size = sizeof found;
    return AVF_SYS6(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, &found, &size, 0) == 0 && found == cookie;
}

/* THREAD child. Takes the files out of a message. It is only looked at, not consumed: a second attempt at this child
 * finds it again. They get numbers in this process' own table only, so no close of one can drop a record lock of the
 * parent's (fcntl(2)). */
CHILD_FN void child_receive_message(const struct avf_child *c, const struct avf_child_message *from,
                                    int32_t *ret_numbers)
{
    char byte;
    struct iovec data = {&byte, 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(AVF_MESSAGE_FILES * sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (from->cookie && !child_is_socket(from->fd, from->cookie))
        child_fail(c, AVF_STEP_RECEIVE_FDS, -ESTALE);
    long got = AVF_SYS4(SYS_recvmsg, from->fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC, 0);
    child_check(c, AVF_STEP_RECEIVE_FDS, got);
    if (message.msg_flags & MSG_CTRUNC) /* no room in the table: RLIMIT_NOFILE */
        child_fail(c, AVF_STEP_RECEIVE_FDS, -EMFILE);
    if (got == 0 || message.msg_controllen < CMSG_LEN(from->count * sizeof(int)))
        child_fail(c, AVF_STEP_RECEIVE_FDS, -EIO);
    for (uint32_t i = 0; i < from->count; i++)
        ret_numbers[i] = ((const int *)CMSG_DATA(&control.header))[i];
}

/* THREAD child. The given files, then those that sit high in the parent's table. */
CHILD_FN const int32_t *child_receive_files(const struct avf_child *c)
{
    int32_t *numbers = c->scratch + 3 + c->plan->fd_count, *next = numbers;
    for (int i = 0; i < 2; i++)
        if (c->message[i].fd >= 0) {
            child_receive_message(c, &c->message[i], next);
            next += c->message[i].count;
        }
    return numbers;
}

/* THREAD child. The number of a source, off the targets; AVF_SOURCE_CLOSED for none. */
CHILD_FN int child_source(const struct avf_child *c, int step, int32_t source, const int32_t *received)
{
    if (source <= AVF_SOURCE_RECEIVED)
        source = received[AVF_SOURCE_RECEIVED - source];
    return source < 0 ? AVF_SOURCE_CLOSED : child_lift(c, step, source);
}

/* The numbers that a child keeps until exec beside its targets. */
enum { KEEP_REPORT, KEEP_LAUNCHER, KEEP_LAUNCH, KEEP_HELD, KEEP_COUNT = KEEP_HELD + AVF_HELD };

/* THREAD child. Puts the standard streams and the plan's numbers in place, and moves what is kept out of their way. */
CHILD_FN void child_place_fds(const struct avf_child *c, int32_t *ret_keep)
{
    const int32_t *targets = avf_plan_fds(c->plan), *received = child_receive_files(c);
    uint32_t count = c->plan->fd_count;
    int32_t *placed = c->scratch;
    int devnull = -1;

    ret_keep[KEEP_REPORT] = child_source(c, AVF_STEP_STDIO, c->report_fd, received);
    ret_keep[KEEP_LAUNCHER] = child_source(c, AVF_STEP_STDIO, c->launcher_fd, received);
    ret_keep[KEEP_LAUNCH] = child_source(c, AVF_STEP_STDIO, c->launch_fd, received);
    for (int i = 0; i < 3; i++) {
        int32_t source = c->stream_source[i];
        if (source == AVF_SOURCE_DEVNULL) {
            if (devnull < 0)
                devnull = sys_open("/dev/null", O_RDWR | O_CLOEXEC);
            child_check(c, AVF_STEP_DEVNULL, devnull);
            source = devnull;
        }
        placed[i] = child_source(c, AVF_STEP_STDIO, source, received);
    }
    for (uint32_t i = 0; i < count; i++)
        placed[3 + i] = child_source(c, AVF_STEP_PASS_FDS, c->source[i], received);
    for (uint32_t i = 0; i < AVF_HELD; i++)
        ret_keep[KEEP_HELD + i] =
            i < c->plan->held_count ? child_source(c, AVF_STEP_PASS_FDS, c->source[count + i], received) : -1;
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

/* THREAD child. What is done with each signal of a set. */
CHILD_FN long child_set_signals(uint64_t set, void *handler)
{
    struct sys_sigaction action = {.handler = handler};
    long result = 0;
    for (int signal = 1; signal <= AVF_SIGNALS && result >= 0; signal++)
        if (set >> (signal - 1) & 1)
            result = sys_sigaction(signal, &action, NULL);
    return result;
}

/* THREAD child. Appends a decimal number to text. RETURNS where it ends. */
CHILD_FN char *child_append_number(char *text, long number)
{
    char digits[24];
    int count = 0;
    unsigned long rest = number < 0 ? -(unsigned long)number : (unsigned long)number;
    do {
        digits[count++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (number < 0)
        *text++ = '-';
    while (count)
        *text++ = digits[--count];
    *text = 0;
    return text;
}

/* THREAD child. Of this process alone: the kernel spares the others that share a memory map with a vfork child
 * (__set_oom_adj in fs/proc/base.c). */
CHILD_FN long child_set_oom_score_adj(int64_t value)
{
    char text[24];
    long fd = sys_open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return fd;
    long result = AVF_SYS4(SYS_write, fd, text, child_append_number(text, value) - text, 0);
    (void)sys_close((int)fd);
    return result;
}

/* THREAD child. SIGTTOU is blocked, so no terminal stops a child that is not in the foreground yet. */
CHILD_FN long child_take_foreground(void)
{
    int32_t group = (int32_t)AVF_SYS4(SYS_getpgid, 0, 0, 0, 0);
    long fd = sys_open("/dev/tty", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return fd;
    long result = AVF_SYS4(SYS_ioctl, fd, TIOCSPGRP, &group, 0);
    (void)sys_close((int)fd);
    return result;
}

/* THREAD child. The kernel answers 20 - nice (getpriority(2)). */
CHILD_FN long child_add_nice(int64_t value)
{
    long now = AVF_SYS4(SYS_getpriority, PRIO_PROCESS, 0, 0, 0);
    if (now < 0)
        return now;
    return AVF_SYS4(SYS_setpriority, PRIO_PROCESS, 0, 20 - now + value, 0);
}

/* THREAD child. */
CHILD_FN long child_set_scheduler(int64_t value)
{
    int32_t priority = (int32_t)(value >> 32); /* struct sched_param */
    return AVF_SYS4(SYS_sched_setscheduler, 0, (int32_t)value, &priority, 0);
}

/* THREAD child. Takes all but a set out of the bounding set; the kernel knows where capabilities end. */
CHILD_FN long child_bound_capabilities(uint64_t kept)
{
    for (long capability = 0; capability < 64; capability++) {
        long has = AVF_SYS4(SYS_prctl, PR_CAPBSET_READ, capability, 0, 0);
        if (has < 0)
            return has == -EINVAL && capability > 0 ? 0 : has; /* a filter's word is not the end of them */
        if (has == 0 || kept >> capability & 1)
            continue;
        long result = AVF_SYS4(SYS_prctl, PR_CAPBSET_DROP, capability, 0, 0);
        if (result < 0)
            return result;
    }
    return 0;
}

/* THREAD child. Capabilities that the program is to keep survive the change of its user (prctl(2), PR_SET_KEEPCAPS);
 * exec clears that flag. */
CHILD_FN long child_set_user(const avf_plan *plan, int64_t uid)
{
    const avf_plan_step *capabilities = avf_plan_find(plan, AVF_STEP_CAPABILITIES);
    if (capabilities && capabilities->value) {
        long result = AVF_SYS4(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0);
        if (result < 0)
            return result;
    }
    return AVF_SYS4(SYS_setresuid, uid, uid, uid, 0);
}

/* THREAD child. */
CHILD_FN long child_set_capabilities(uint64_t set)
{
    uint32_t low = (uint32_t)set, high = (uint32_t)(set >> 32);
    struct sys_capabilities sets = {{low, low, low}, {high, high, high}};
    long result = sys_capabilities(SYS_capset, &sets);
    if (result >= 0)
        result = AVF_SYS6(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0);
    for (long capability = 0; capability < 64 && result >= 0; capability++)
        if (set >> capability & 1)
            result = AVF_SYS6(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0, 0);
    return result;
}

/* THREAD child. Whether exec gives root's program a capability that this process has not: its bounding and inheritable sets
 * (capabilities(7)). */
CHILD_FN int child_gains_capabilities(void)
{
    struct sys_capabilities sets;
    if ((AVF_SYS4(SYS_geteuid, 0, 0, 0, 0) != 0 && AVF_SYS4(SYS_getuid, 0, 0, 0, 0) != 0) ||
        AVF_SYS4(SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0) & 1 /* SECBIT_NOROOT */ ||
        AVF_SYS6(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0, 0) > 0 ||
        sys_capabilities(SYS_capget, &sets) < 0)
        return 0;
    uint64_t permitted = sys_capabilities_get(&sets, SYS_CAP_PERMITTED);
    long bounding = 0;
    for (long capability = 0; capability < 64 && bounding >= 0; capability++)
        if (!(permitted >> capability & 1)) {
            bounding = AVF_SYS4(SYS_prctl, PR_CAPBSET_READ, capability, 0, 0);
            if (bounding > 0 || sys_capabilities_get(&sets, SYS_CAP_INHERITABLE) >> capability & 1)
                return 1;
        }
    return 0;
}

/* THREAD child. Whether exec will clear a parent-death signal, whatever the program is (begin_new_exec in fs/exec.c,
 * commit_creds in kernel/cred.c). */
CHILD_FN int child_forgets_pdeathsig(void)
{
    return AVF_SYS4(SYS_getuid, 0, 0, 0, 0) != AVF_SYS4(SYS_geteuid, 0, 0, 0, 0) ||
           AVF_SYS4(SYS_getgid, 0, 0, 0, 0) != AVF_SYS4(SYS_getegid, 0, 0, 0, 0) ||
           child_gains_capabilities();
}

/* THREAD child. A parent that died before this would be missed. In a pid namespace of its own a child sees 0. */
CHILD_FN long child_set_pdeathsig(const struct avf_child *c, int64_t signal)
{
    long result = AVF_SYS4(SYS_prctl, PR_SET_PDEATHSIG, signal, 0, 0);
    long parent = AVF_SYS4(SYS_getppid, 0, 0, 0, 0);
    if (result >= 0 && parent != 0 && parent != c->parent_pid)
        result = -ESRCH;
    return result >= 0 && child_forgets_pdeathsig() ? -EPERM : result;
}

/* THREAD child. One declared step. */
CHILD_FN long child_step(const struct avf_child *c, const avf_plan_step *step, const int32_t *held)
{
    const avf_plan *plan = c->plan;
    const void *at = avf_plan_at(plan, step->value);
    const uint32_t *numbers = at;
    long result;
    switch (step->step) {
    case AVF_STEP_OOM_SCORE_ADJ:
        return child_set_oom_score_adj(step->value);
    case AVF_STEP_UNSHARE:
        return AVF_SYS4(SYS_unshare, step->value, 0, 0, 0);
    case AVF_STEP_CHROOT:
        result = AVF_SYS4(SYS_chroot, at, 0, 0, 0);
        return result < 0 ? result : AVF_SYS4(SYS_chdir, "/", 0, 0, 0);
    case AVF_STEP_CHDIR:
        return step->detail ? AVF_SYS4(SYS_fchdir, held[step->value], 0, 0, 0)
                            : AVF_SYS4(SYS_chdir, at, 0, 0, 0);
    case AVF_STEP_UMASK:
        return AVF_SYS4(SYS_umask, step->value, 0, 0, 0);
    case AVF_STEP_RESTORE_SIGNALS: /* what Python ignores; SIGXFZ does not exist on Linux */
        return child_set_signals(1ULL << (SIGPIPE - 1) | 1ULL << (SIGXFSZ - 1), NULL);
    case AVF_STEP_DEFAULT_SIGNALS:
        return child_set_signals((uint64_t)step->value, NULL);
    case AVF_STEP_IGNORED_SIGNALS:
        return child_set_signals((uint64_t)step->value, (void *)SIG_IGN);
    case AVF_STEP_SETSID:
        return AVF_SYS4(SYS_setsid, 0, 0, 0, 0);
    case AVF_STEP_SETPGID:
        return AVF_SYS4(SYS_setpgid, 0, step->value, 0, 0);
    case AVF_STEP_CONTROLLING_TTY:
        return AVF_SYS4(SYS_ioctl, step->value, TIOCSCTTY, 0, 0);
    case AVF_STEP_FOREGROUND:
        return child_take_foreground();
    case AVF_STEP_RLIMIT:
        return AVF_SYS4(SYS_prlimit64, 0, step->detail, at, 0);
    case AVF_STEP_NICE:
        return child_add_nice(step->value);
    case AVF_STEP_SCHEDULER:
        return child_set_scheduler(step->value);
    case AVF_STEP_CPU_AFFINITY:
        return AVF_SYS4(SYS_sched_setaffinity, 0, numbers[0], numbers + 2, 0);
    case AVF_STEP_IO_PRIORITY:
        return AVF_SYS4(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, step->value, 0);
    case AVF_STEP_CAP_BOUNDING:
        return child_bound_capabilities((uint64_t)step->value);
    case AVF_STEP_SETGROUPS:
        return AVF_SYS4(SYS_setgroups, numbers[0], numbers + 1, 0, 0);
    case AVF_STEP_SETGID:
        return AVF_SYS4(SYS_setresgid, step->value, step->value, step->value, 0);
    case AVF_STEP_SETUID:
        return child_set_user(plan, step->value);
    case AVF_STEP_CAPABILITIES:
        return child_set_capabilities((uint64_t)step->value);
    case AVF_STEP_NO_NEW_PRIVS:
        return AVF_SYS6(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
    case AVF_STEP_PDEATHSIG:
        return child_set_pdeathsig(c, step->value);
    default:
        return -EINVAL;
    }
}

/* THREAD child. The declared steps in [from, to), in the plan's order, which plan.c has checked. */
CHILD_FN void child_run_steps(const struct avf_child *c, uint32_t from, uint32_t to, const int32_t *held)
{
    for (uint32_t i = 0; i < c->plan->step_count; i++) {
        const avf_plan_step *step = &avf_plan_steps(c->plan)[i];
        if (step->step < from || step->step >= to)
            continue;
        long code = (long)step->step | (long)step->detail << AVF_STEP_DETAIL_SHIFT;
        child_say(c, code, 0);
        long result = child_step(c, step, held);
        if (result >= 0)
            continue;
        if (!(step->flags & AVF_STEP_BEST_EFFORT) || c->report->note_count >= AVF_NOTES)
            child_fail(c, code, result);
        c->report->notes[c->report->note_count++] = (int32_t)(code | -result << AVF_NOTE_ERRNO_SHIFT);
    }
}

/* THREAD child. */
CHILD_FN int child_is_kept(const int32_t *keep, int fd)
{
    for (int i = 0; i < KEEP_COUNT; i++)
        if (keep[i] == fd)
            return 1;
    return 0;
}

/* THREAD child. Where there is no close_range (before 5.9, or seccomp): what /proc/self/fd lists,
 * which is this process' own table, nobody else's. Without /proc it fails closed. */
CHILD_FN void child_close_listed(const struct avf_child *c, const int32_t *keep)
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
            if (fd != directory && !child_is_kept(keep, fd) && !child_is_target(c->plan, fd))
                (void)sys_close(fd);
        }
    child_check(c, AVF_STEP_CLOSE_FDS, filled);
    (void)sys_close(directory);
}

/* THREAD child. The lowest number >= from that is to stay open, or -1. `next` walks through the targets. */
CHILD_FN int child_next_kept(const avf_plan *plan, const int32_t *keep, unsigned from, uint32_t *next)
{
    const int32_t *fds = avf_plan_fds(plan);
    while (*next < plan->fd_count && (unsigned)fds[*next] < from)
        ++*next;
    int lowest = *next < plan->fd_count ? fds[*next] : -1;
    for (int i = 0; i < KEEP_COUNT; i++)
        if (keep[i] >= 0 && (unsigned)keep[i] >= from && (lowest < 0 || keep[i] < lowest))
            lowest = keep[i];
    return lowest;
}

/* THREAD child. Closes what was not asked for: the gaps between the descriptors to keep. */
CHILD_FN void child_close_fds(const struct avf_child *c, const int32_t *keep)
{
    uint32_t next = 0;
    int kept = 0;
    for (unsigned from = 3; kept >= 0; from = (unsigned)kept + 1) {
        kept = child_next_kept(c->plan, keep, from, &next);
        if (kept >= 0 && (unsigned)kept == from)
            continue;
        int result = sys_close_range(from, kept < 0 ? ~0U : (unsigned)kept - 1, 0);
        if (result == -ENOSYS || result == -EPERM || result == -EINVAL) {
            child_close_listed(c, keep);
            return;
        }
        child_check(c, AVF_STEP_CLOSE_FDS, result);
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

/* THREAD child. See avf_rights. What the kernel refuses to lend is missed at the step that needs it. The permitted set stays
 * as it is, and with it the memory's dumpable flag (commit_creds in kernel/cred.c). */
CHILD_FN void child_lend_capabilities(uint64_t lent)
{
    struct sys_capabilities sets;
    if (lent == 0 || sys_capabilities(SYS_capget, &sets) < 0)
        return;
    uint64_t inheritable = sys_capabilities_get(&sets, SYS_CAP_INHERITABLE);
    for (long capability = 0; capability < 64; capability++) {
        uint64_t more = inheritable | 1ULL << capability;
        if (!(lent >> capability & 1))
            continue;
        sys_capabilities_put(&sets, SYS_CAP_INHERITABLE, more);
        if (sys_capabilities(SYS_capset, &sets) < 0) /* it is not in the bounding set */
            continue;
        inheritable = more;
        (void)AVF_SYS6(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0, 0);
    }
}

/* THREAD child. Leaves the shared memory for the launcher, which is given two numbers and nothing else: all that it
 * must know is in the memfd. */
CHILD_FN __attribute__((noreturn)) void child_launch(const struct avf_child *c, const int32_t *keep)
{
    char launch[24], report[24];
    char name[] = AVF_LAUNCHER_NAME;
    const char *const argv[] = {name, launch, report, NULL}, *const envp[] = {NULL};
    c->report->step = AVF_STEP_LAUNCHER;
    child_check(c, AVF_STEP_LAUNCHER, sys_fcntl(keep[KEEP_LAUNCH], F_SETFD, 0));
    child_check(c, AVF_STEP_LAUNCHER, sys_fcntl(keep[KEEP_REPORT], F_SETFD, 0));
    child_lend_capabilities(c->lent);
    child_append_number(launch, keep[KEEP_LAUNCH]);
    child_append_number(report, keep[KEEP_REPORT]);
    child_fail(c, AVF_STEP_LAUNCHER,
               AVF_SYS6(SYS_execveat, keep[KEEP_LAUNCHER], "", argv, envp, AT_EMPTY_PATH, 0));
}

/* THREAD child. SIGNALS all blocked until the step before exec. See child.h. */
__attribute__((noinline, noreturn)) void avf_child_go_on(const struct avf_child *c)
{
    child_run_steps(c, AVF_STEP_LAUNCHER, AVF_STEP_SIGMASK, NULL);
    if (c->listen_pid)
        child_append_number(c->listen_pid + sizeof "LISTEN_PID=" - 1, AVF_SYS4(SYS_getpid, 0, 0, 0, 0));
    child_say(c, AVF_STEP_EXEC, 0);
    c->report->step = AVF_STEP_SIGMASK;
    const avf_plan_step *declared = avf_plan_find(c->plan, AVF_STEP_SIGMASK);
    uint64_t mask = declared ? (uint64_t)declared->value : c->sigmask;
    child_check(c, AVF_STEP_SIGMASK, sys_sigmask(SIG_SETMASK, &mask, NULL));
    c->report->step = AVF_STEP_EXEC;
    child_exec(c);
}

/* THREAD child. SIGNALS all blocked until the step before exec. See child.h. */
__attribute__((noinline, noreturn)) void avf_child_run(void *arg)
{
    struct avf_child copy;
    const struct avf_child *c = &copy;
    child_copy(&copy, arg);
    struct avf_report *report = c->report;
    int32_t keep[KEEP_COUNT];

    report->started_ns = sys_now(); /* before the look at cancel, see worker.c */
    int32_t cancel = report->cancel;
    if (cancel)
        child_fail(c, AVF_STEP_CLONE, cancel);
    if (c->unshare_from) {
        report->step = AVF_STEP_UNSHARE_FDS;
        child_unshare_fds(c);
    }
    child_reset_signals(c);
    child_place_fds(c, keep);
    report->step = AVF_STEP_CLOSE_FDS;
    if (c->plan->flags & AVF_PLAN_CLOSE_FDS)
        child_close_fds(c, keep);
    child_run_steps(c, 0, AVF_STEP_LAUNCHER, keep + KEEP_HELD);
    if (keep[KEEP_LAUNCHER] >= 0)
        child_launch(c, keep);
    avf_child_go_on(c);
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
