/* DESIGN: one answer to "is it over, and how?", for the worker, drain and the reaper.
 *
 * What: waitid(P_PIDFD), with what its errors mean. ECHILD: the child is not ours to wait for, because
 *     somebody else has reaped it. EINTR: ask again. EAGAIN: somebody has set O_NONBLOCK on the pidfd.
 *     Anything else: a filter forbids the call to this thread, now. That says nothing of the child, of
 *     other threads, or of later; so it is neither kept nor taken for one of the others.
 * Where: any thread. Only avf_kill_and_wait and avf_reap_fate block, and only for a child that is dying.
 * Invariants: a child is reaped at most once by us. A pid is used only where a filter forbids the pidfd, and
 *     only after the kernel has said that nobody has reaped the child: until then the pid is the child's, and
 *     the number of the group that it leads.
 * Deliberately absent: waitpid(-1). */
#include "reap.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "binding.h"

enum { REAP_LOOK_AGAIN_MS = 20 };

static _Atomic int group_by_number; /* forced, for tests */

/* THREAD any. Waits until the pidfd is readable: its process is over. milliseconds -1 is without end. */
static int reap_poll(int pidfd, int milliseconds)
{
    struct pollfd wanted = {.fd = pidfd, .events = POLLIN};
    return poll(&wanted, 1, milliseconds) > 0;
}

/* THREAD any. A while until the next look at a child that is dying; it may be readable for long (a tracer). */
static void reap_pause(int pidfd)
{
    if (reap_poll(pidfd, REAP_LOOK_AGAIN_MS))
        sys_nanosleep(1000000);
}

/* THREAD any. waitid once, or until the child is over. RETURNS 0 or -errno. */
static int reap_wait(int pidfd, siginfo_t *ret_info, unsigned options, struct sys_rusage *ret_rusage)
{
    for (;;) {
        int error = sys_waitid_pidfd(pidfd, ret_info, options, ret_rusage);
        if (error == -EAGAIN && !(options & WNOHANG)) /* O_NONBLOCK is set on the pidfd: since Linux 5.10 */
            (void)reap_poll(pidfd, REAP_LOOK_AGAIN_MS);
        else if (error != -EINTR)
            return error == -EAGAIN ? 0 : error;
    }
}

/* THREAD any. */
static int32_t reap_status(const siginfo_t *info)
{
    if (info->si_code == CLD_EXITED)
        return info->si_status << 8;
    return info->si_status | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

/* THREAD any. Somebody else has reaped the child (waitpid(-1), SIGCHLD ignored): the kernel still knows,
 * since Linux 6.15; before, asyncio's convention. RETURNS 0 while the other one is still about it. */
static int reap_recover(int pidfd, struct avf_exit *ret_exit)
{
    struct sys_pidfd_info info = {.mask = AVF_PIDFD_INFO_EXIT};
    int gone = ioctl(pidfd, AVF_PIDFD_GET_INFO, &info) < 0;
    if (gone) { /* Retry: the first ioctl can miss both, by reading the saved exit before it is stored and the
                 * task after it is gone. */
        info.mask = AVF_PIDFD_INFO_EXIT;
        gone = ioctl(pidfd, AVF_PIDFD_GET_INFO, &info) < 0;
    }
    if (!gone && !(info.mask & AVF_PIDFD_INFO_EXIT))
        return 0;
    ret_exit->status = gone ? 255 << 8 : info.exit_code;
    ret_exit->flags = gone ? AVF_STATUS_UNKNOWN : AVF_STATUS_RECOVERED;
    return 1;
}

/* THREAD any. waitid is forbidden. A readable pidfd says that the child is over; wait4, another system call,
 * may still reap it: by pid, which is the child's until somebody has. A dead child can be signalled, one that is
 * reaped can not. RETURNS as avf_reap. */
static int reap_without_waitid(int pidfd, int32_t pid, struct avf_exit *ret_exit)
{
    int status;
    if (!reap_poll(pidfd, 0))
        return 0;
    if (sys_pidfd_send_signal(pidfd, 0) == -ESRCH)
        return reap_recover(pidfd, ret_exit);
    long reaped = AVF_SYS4(SYS_wait4, pid, &status, WNOHANG | AVF_WALL, &ret_exit->rusage);
    if (reaped == pid) {
        ret_exit->status = status;
        return 1;
    }
    if (reaped == -ECHILD)
        return reap_recover(pidfd, ret_exit);
    if (reaped == 0) /* a tracer has it */
        return 0;
    ret_exit->status = 255 << 8;
    ret_exit->flags = AVF_STATUS_UNKNOWN;
    return 1;
}

/* THREAD any. Looks once; `keep` is WNOWAIT, or 0 to reap. */
static int reap_look(int pidfd, int32_t pid, unsigned keep, struct avf_exit *ret_exit)
{
    siginfo_t info = {0};
    *ret_exit = (struct avf_exit){0};
    int error = reap_wait(pidfd, &info, WEXITED | WNOHANG | AVF_WALL | keep, &ret_exit->rusage);
    if (error == -ECHILD)
        return reap_recover(pidfd, ret_exit);
    if (error < 0)
        return reap_without_waitid(pidfd, pid, ret_exit);
    if (info.si_pid == 0)
        return 0;
    ret_exit->status = reap_status(&info);
    ret_exit->is_unreaped = keep != 0;
    return 1;
}

/* THREAD any. */
int avf_reap(int pidfd, int32_t pid, struct avf_exit *ret_exit)
{
    return reap_look(pidfd, pid, 0, ret_exit);
}

/* THREAD any. */
int avf_reap_peek(int pidfd, int32_t pid, struct avf_exit *ret_exit)
{
    return reap_look(pidfd, pid, WNOWAIT, ret_exit);
}

/* THREAD any. Whether the child runs or is a zombie: its pid is its own. */
static int reap_is_unreaped(int pidfd)
{
    siginfo_t info;
    return reap_wait(pidfd, &info, WEXITED | WNOHANG | WNOWAIT | AVF_WALL, NULL) == 0;
}

/* THREAD any. A filter may forbid pidfd_send_signal to this thread (old Docker profiles do); the worker has
 * looked for that before it made a child, but a filter can come later. EPERM is also the kernel's answer for a
 * child with other credentials, and then kill(2) gives the same. */
int avf_signal(int pidfd, int32_t pid, int signal)
{
    int error = sys_pidfd_send_signal(pidfd, signal);
    if ((error == -EPERM || error == -ENOSYS) && pid > 0 && reap_is_unreaped(pidfd))
        error = (int)AVF_SYS4(SYS_kill, pid, signal, 0, 0);
    return error;
}

/* THREAD any. */
void avf_force_group(int32_t by_pidfd)
{
    group_by_number = by_pidfd == 0;
}

/* THREAD any. There is no descriptor -1, and a kernel that knows the flag says so. */
int avf_signal_group_by_pidfd(void)
{
    int error = group_by_number ? -EINVAL : sys_pidfd_signal_group(-1, 0);
    return error == -EBADF ? 0 : error;
}

/* THREAD any. EPERM is also the answer for members with other credentials, as in avf_signal. An EINVAL that is about
 * the signal comes again. */
int avf_signal_group(int pidfd, int32_t pid, int signal)
{
    int error = group_by_number ? -EINVAL : sys_pidfd_signal_group(pidfd, signal);
    if ((error == -EINVAL || error == -EPERM || error == -ENOSYS) && pid > 1 && reap_is_unreaped(pidfd))
        error = (int)AVF_SYS4(SYS_kill, -(long)pid, signal, 0, 0);
    return error;
}

/* THREAD worker. See avf_reap_fate. */
int avf_reap_has_run_exec(int pidfd)
{
    siginfo_t info;
    return reap_wait(pidfd, &info, WEXITED | WNOHANG | WNOWAIT | AVF_WCLONE, NULL) == -ECHILD;
}

/* THREAD worker. Until exec a child's exit signal is 0, exec makes it SIGCHLD (de_thread in fs/exec.c, before
 * the parent resumes): so a wait for children of other exit signals only (__WCLONE) finds one that died on the
 * way, and has no child to wait for if it runs its program. */
int avf_reap_fate(int pidfd, int32_t pid, int failed, int32_t step, int32_t *ret_status)
{
    siginfo_t info = {0};
    struct avf_exit exit;
    int error = reap_wait(pidfd, &info, WEXITED | (failed ? AVF_WALL : AVF_WCLONE), NULL);
    if (error == 0) {
        *ret_status = reap_status(&info);
        return AVF_FATE_DIED;
    }
    if (failed) { /* the report is the truth; only the zombie is left, to us or to somebody else */
        if (error != -ECHILD)
            (void)avf_kill_and_wait(pidfd, pid);
        return AVF_FATE_DIED;
    }
    if (error == -ECHILD)
        error = reap_wait(pidfd, &info, WEXITED | WNOHANG | WNOWAIT | AVF_WALL, NULL);
    if (error == 0)
        return AVF_FATE_RAN;
    if (error != -ECHILD)
        return error;
    /* Somebody else has reaped it, with waitpid(-1, __WALL) for instance, before or after its exec. It had no
     * failure to report, so what tells is how far it had come. Killed in the midst of exec, it counts as one
     * that ran: its status says by what signal it died. */
    if (step == AVF_STEP_EXEC)
        return AVF_FATE_RAN;
    while (!reap_recover(pidfd, &exit))
        reap_pause(pidfd);
    *ret_status = exit.status;
    return AVF_FATE_DIED;
}

/* THREAD worker|reaper. */
int32_t avf_kill_and_wait(int pidfd, int32_t pid)
{
    siginfo_t info = {0};
    struct avf_exit exit;
    (void)avf_signal(pidfd, pid, SIGKILL);
    if (reap_wait(pidfd, &info, WEXITED | AVF_WALL, NULL) >= 0)
        return reap_status(&info);
    while (!avf_reap(pidfd, pid, &exit)) /* waitid is forbidden, or somebody is reaping the child */
        reap_pause(pidfd);
    return exit.status;
}
