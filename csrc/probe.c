/* DESIGN: one probe at the first spawn, instead of version checks spread through the code.
 *
 * What: which calls exist and are allowed, and whether vfork shares memory and suspends its caller,
 *     which it does not under valgrind and QEMU-user: there a failed exec would look like exit 127.
 * Where: on the first worker (so never on a loop's thread), or on the thread of doctor.
 * Invariants: facts are immutable once found. A sandbox may come later than the probe, so worker.c
 *     still falls back at run time where a call is refused.
 * Deliberately absent: any judgement from the kernel's version number, which is only reported. */
#include "probe.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "engine.h"
#include "sys.h"

static avf_facts facts;
static pthread_once_t probed = PTHREAD_ONCE_INIT;
static _Atomic int32_t forced_clone3 = -1, forced_pipe = -1;

/* THREAD any. */
static void probe_calls(void)
{
    struct utsname name;
    siginfo_t info;
    if (uname(&name) == 0 && sscanf(name.release, "%d.%d", &facts.kernel_major, &facts.kernel_minor) != 2)
        facts.kernel_major = facts.kernel_minor = 0;
    facts.cpus = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    /* No descriptor is that large: valid, and closes nothing. */
    facts.close_range = -sys_close_range(~0U - 1, ~0U - 1, 0);
    /* EBADF where P_PIDFD is known, EINVAL where it is not (before 5.4). */
    int error = -sys_waitid_pidfd(-1, &info, WEXITED | WNOHANG, NULL);
    facts.pidfd_wait = error == EBADF || error == EINVAL ? 0 : error;
}

/* THREAD any. SIGNALS all blocked. Tries the engines, best first. RETURNS the probe child's pid or
 * -errno; it has exited by then, unless vfork does not suspend. */
static long probe_clone(struct avf_probe_child *child, int32_t *ret_pidfd)
{
    static _Alignas(16) char stack[AVF_PROBE_STACK]; /* pthread_once: one at a time */
    long pid =
        avf_engine_clone(1, AVF_CLONE_CLEAR_SIGHAND, stack, sizeof stack, avf_child_probe, child, ret_pidfd);
    facts.clone3 = facts.clear_sighand = pid < 0 ? (int32_t)-pid : 0;
    if (pid == -EINVAL) { /* Linux 5.4 has clone3 but not CLONE_CLEAR_SIGHAND */
        pid = avf_engine_clone(1, 0, stack, sizeof stack, avf_child_probe, child, ret_pidfd);
        facts.clone3 = pid < 0 ? (int32_t)-pid : 0;
    }
    if (pid < 0 && avf_engine_refused(pid))
        pid = avf_engine_clone(0, 0, stack, sizeof stack, avf_child_probe, child, ret_pidfd);
    return pid;
}

/* THREAD any. Reaps the probe's child and asks for its status a second time. */
static void probe_exit_info(int pidfd)
{
    struct sys_pidfd_info exit_info = {.mask = AVF_PIDFD_INFO_EXIT};
    siginfo_t info;
    int error;
    while ((error = sys_waitid_pidfd(pidfd, &info, WEXITED | AVF_WALL, NULL)) == -EINTR)
        ;
    facts.pidfd_wait = -error;
    if (ioctl(pidfd, AVF_PIDFD_GET_INFO, &exit_info) < 0)
        facts.pidfd_info_exit = errno;
    else
        facts.pidfd_info_exit = exit_info.mask & AVF_PIDFD_INFO_EXIT ? 0 : EOPNOTSUPP;
    close(pidfd);
}

/* THREAD any, once. */
static void probe_run(void)
{
    probe_calls();
    facts.pidfd_info_exit = EOPNOTSUPP;
    volatile int32_t private_mark = 0;
    int32_t pidfd = -1;
    struct avf_report *report =
        mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED) {
        facts.probe_child = ENOMEM;
        return;
    }
    struct avf_probe_child child = {.private_mark = &private_mark, .report = report};
    uint64_t all = ~0ULL, mask;
    sys_sigmask(SIG_SETMASK, &all, &mask);
    long pid = probe_clone(&child, &pidfd);
    facts.memory_shared = private_mark;
    facts.parent_suspended = report->seen;
    sys_sigmask(SIG_SETMASK, &mask, NULL);
    facts.probe_child = pid < 0 ? (int32_t)-pid : 0;
    if (pid > 0)
        probe_exit_info(pidfd);
    munmap(report, sizeof *report);
    if (facts.clone3 == 0)
        facts.engine_flags |= AVF_ENGINE_CLONE3;
    if (pid > 0 && !(facts.memory_shared && facts.parent_suspended))
        facts.engine_flags |= AVF_REPORT_PIPE;
}

/* THREAD worker|any. */
const avf_facts *avf_probe_once(void)
{
    pthread_once(&probed, probe_run);
    return &facts;
}

/* THREAD any. */
int32_t avf_probe_engine(void)
{
    int32_t flags = avf_probe_once()->engine_flags, clone3 = forced_clone3, pipe = forced_pipe;
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
    *ret_facts = *avf_probe_once();
}
