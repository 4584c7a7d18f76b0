/* DESIGN: one probe at the first spawn, instead of version checks spread through the code.
 *
 * What: which calls exist and are allowed, and whether vfork shares memory and suspends its caller,
 *     which it does not under valgrind and QEMU-user: there a failed exec would look like exit 127.
 * Where: on the first worker (so never on a loop's thread), or on the thread of doctor.
 * Invariants: a refusal is a fact only if it must hold for every thread and for ever: ENOSYS, or EINVAL of the
 *     kernel. A filter refuses to one thread (seccomp(2)), and one that has no more descriptors or memory
 *     refuses now. Where the probe met such a refusal, nothing is kept but the answer to this one caller.
 *     Kept facts are immutable. Threads may probe at the same time; the first to finish wins.
 * Deliberately absent: any judgement from the kernel's version number, which is only reported. */
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "engine.h"
#include "launch.h"
#include "reap.h"
#include "state.h"
#include "sys.h"

static avf_facts known; /* guarded by lock until `found`, then immutable */
static _Atomic int found;
static _Atomic int32_t forced_clone3 = -1, forced_pipe = -1;

/* THREAD any. */
int avf_probe_is_lasting(int error)
{
    return error == -ENOSYS || error == -EINVAL;
}

/* THREAD any. No descriptor is that large: valid, and closes nothing. */
static int probe_close_range_here(void)
{
    return sys_close_range(~0U - 1, ~0U - 1, 0);
}

/* THREAD worker. */
int avf_probe_close_range(const avf_facts *facts)
{
    if (facts->close_range == 0 || avf_probe_is_lasting(facts->close_range))
        return facts->close_range == 0;
    return probe_close_range_here() == 0;
}

/* THREAD worker. There is no descriptor -1, and a kernel that allows the call says so. */
int avf_probe_pidfd_signal(void)
{
    int error = sys_pidfd_send_signal(-1, 0);
    return error == -EBADF ? 0 : error;
}

/* THREAD worker. The same for waitid, whose word for a descriptor that does not exist has changed over time. */
int avf_probe_pidfd_wait(void)
{
    siginfo_t info;
    int error = sys_waitid_pidfd(-1, &info, WEXITED | WNOHANG, NULL);
    return error == -EBADF || error == -EINVAL ? 0 : error;
}

/* THREAD any. What is asked of the calling thread. */
static void probe_calls(avf_facts *facts)
{
    struct utsname name;
    long self = getpid();
    if (uname(&name) < 0 || sscanf(name.release, "%d.%d", &facts->kernel_major, &facts->kernel_minor) != 2)
        facts->kernel_major = facts->kernel_minor = 0;
    facts->cpus = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    facts->close_range = probe_close_range_here();
    facts->pidfd_signal = avf_probe_pidfd_signal();
    facts->pidfd_signal_group = avf_signal_group_by_pidfd();
    facts->launcher = avf_launch_check();
    int same = sys_kcmp_file(self, self, 0, 0);
    facts->kcmp = same < 0 && same != -EBADF ? same : 0;
}

/* THREAD any. SIGNALS all blocked. Tries the engines, best first. RETURNS the probe child's pid or
 * -errno; it has exited by then, unless vfork does not suspend. */
static long probe_clone(avf_facts *facts, struct avf_probe_child *child, int32_t *ret_pidfd)
{
    _Alignas(16) char stack[AVF_PROBE_STACK];
    long pid = avf_engine_clone(1, AVF_CLONE_CLEAR_SIGHAND, stack, sizeof stack, avf_child_probe, child, -1,
                                ret_pidfd);
    facts->clone3 = facts->clear_sighand = pid < 0 ? (int32_t)pid : 0;
    if (pid == -EINVAL) { /* Linux 5.4 has clone3 but not CLONE_CLEAR_SIGHAND */
        pid = avf_engine_clone(1, 0, stack, sizeof stack, avf_child_probe, child, -1, ret_pidfd);
        facts->clone3 = pid < 0 ? (int32_t)pid : 0;
    }
    if (pid < 0 && avf_engine_refused(pid))
        pid = avf_engine_clone(0, 0, stack, sizeof stack, avf_child_probe, child, -1, ret_pidfd);
    return pid;
}

/* THREAD any. Reaps the probe's child and asks for its status a second time. OWNS the pidfd. RETURNS 0 if the child
 * was killed before it could tell anything. */
static int probe_exit(avf_facts *facts, long pid, int pidfd)
{
    struct sys_pidfd_info exit_info = {.mask = AVF_PIDFD_INFO_EXIT};
    siginfo_t info = {0};
    int error;
    while ((error = sys_waitid_pidfd(pidfd, &info, WEXITED | AVF_WALL, NULL)) == -EINTR)
        ;
    if (error == -ECHILD) /* somebody's waitpid(-1, __WALL) was there first */
        error = 0;
    facts->pidfd_wait = error;
    if (error < 0) /* before 5.4, or a filter */
        while (waitpid((pid_t)pid, NULL, AVF_WALL) < 0 && errno == EINTR)
            ;
    if (ioctl(pidfd, AVF_PIDFD_GET_INFO, &exit_info) < 0)
        facts->pidfd_info_exit = -errno;
    else
        facts->pidfd_info_exit = exit_info.mask & AVF_PIDFD_INFO_EXIT ? 0 : -EOPNOTSUPP;
    close(pidfd);
    return error < 0 || info.si_pid == 0 || info.si_code == CLD_EXITED;
}

/* THREAD any. RETURNS 0, or -errno where no child could be started. */
static int probe_run(avf_facts *facts)
{
    volatile int32_t private_mark = 0;
    int32_t pidfd = -1;
    uint64_t all = ~0ULL, mask;
    *facts = (avf_facts){.pidfd_info_exit = -EOPNOTSUPP};
    probe_calls(facts);
    struct avf_report *report =
        mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED)
        return facts->probe_child = -ENOMEM;
    struct avf_probe_child child = {.private_mark = &private_mark, .report = report};
    sys_sigmask(SIG_SETMASK, &all, &mask);
    long pid = probe_clone(facts, &child, &pidfd);
    facts->memory_shared = private_mark;
    facts->parent_suspended = report->seen;
    sys_sigmask(SIG_SETMASK, &mask, NULL);
    int told = pid < 0 || probe_exit(facts, pid, pidfd) || report->seen;
    munmap(report, sizeof *report);
    if (!avf_probe_is_lasting(facts->clone3))
        facts->engine_flags |= AVF_ENGINE_CLONE3;
    if (!(facts->memory_shared && facts->parent_suspended))
        facts->engine_flags |= AVF_REPORT_PIPE;
    facts->probe_child = pid < 0 ? (int32_t)pid : told ? 0 : -ECANCELED;
    return facts->probe_child;
}

/* THREAD worker|any. */
int avf_probe_facts(avf_facts *ret_facts)
{
    if (found) {
        *ret_facts = known;
        return 0;
    }
    avf_gate_enter(); /* for the probe child's pidfd */
    int error = probe_run(ret_facts);
    avf_gate_leave();
    if (error == 0 && (ret_facts->pidfd_wait == 0 || avf_probe_is_lasting(ret_facts->pidfd_wait))) {
        avf_lock();
        if (!found)
            known = *ret_facts;
        found = 1;
        avf_unlock();
    }
    return error;
}

/* THREAD any. */
int32_t avf_probe_engine(const avf_facts *facts)
{
    int32_t flags = facts->engine_flags, clone3 = forced_clone3, pipe = forced_pipe;
    if (clone3 >= 0)
        flags = (flags & ~AVF_ENGINE_CLONE3) | (clone3 ? AVF_ENGINE_CLONE3 : 0);
    if (pipe >= 0)
        flags = (flags & ~AVF_REPORT_PIPE) | (pipe ? AVF_REPORT_PIPE : 0);
    return flags;
}

/* THREAD any. */
void avf_force(int32_t clone3, int32_t report_pipe)
{
    forced_clone3 = clone3;
    forced_pipe = report_pipe;
}

/* THREAD any. */
void avf_probe(avf_facts *ret_facts)
{
    (void)avf_probe_facts(ret_facts); /* probe_child tells */
    probe_calls(ret_facts);           /* of this thread, now */
}
