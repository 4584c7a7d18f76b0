/* DESIGN: the launcher, a program of its own.
 *
 * What: goes on with a plan where a vfork child had to stop: with steps that must not run on memory that is shared with
 *     the parent (credentials). It reads the plan from a sealed memfd, runs what is left of it, and execs the target.
 * Where: in the child, single-threaded, in an address space that holds nothing but this file and the memfd. All
 *     signals are blocked, and every descriptor but two is the target's.
 * Invariants: no libc, where the architecture has assembly here. Nothing of it is left in the target: the memfd is
 *     closed, the report's pipe is CLOEXEC, exec replaces name, arguments and environment.
 * Deliberately absent: trust. Anybody may run it by hand: it is not setuid, does what its caller could do, and reads
 *     no more than a block that avf_plan_check has passed. */
#include <sys/mman.h>
#include <sys/prctl.h>

#include "child.h"
#include "plan.h"
#include "sys.h"

enum { LAUNCHER_USAGE = 64 }; /* EX_USAGE of sysexits.h */

#define LAUNCHER_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

#if AVF_ARCH_HAS_CLONE3
void launcher_main(long *stack);
void *memchr(const void *block, int byte, size_t size);
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memset(void *block, int byte, size_t size);

/* THREAD child. plan.c wants it. */
void *memchr(const void *block, int byte, size_t size)
{
    for (const unsigned char *at = block; size > 0; at++, size--)
        if (*at == (unsigned char)byte)
            return (void *)at;
    return NULL;
}

/* THREAD child. Compilers want it, and memset, for structures. */
void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    return to;
}

/* THREAD child. */
void *memset(void *block, int byte, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)block)[i] = (unsigned char)byte;
    return block;
}
#endif

/* THREAD child. */
static __attribute__((noreturn)) void launcher_refuse(void)
{
    static const char usage[] =
        "This program starts children of aiovfork that change their user. aiovfork runs it; "
        "by hand it does nothing.\n";
    (void)AVF_SYS4(SYS_write, 2, usage, sizeof usage - 1, 0);
    sys_exit_group(LAUNCHER_USAGE);
}

/* THREAD child. RETURNS -1 for what is no descriptor. */
static int launcher_number(const char *text)
{
    int number = 0, length = 0;
    for (; text[length] >= '0' && text[length] <= '9' && length < 9; length++)
        number = number * 10 + (text[length] - '0');
    return length == 0 || text[length] ? -1 : number;
}

/* THREAD child. RETURNS what lies in the memfd, or NULL if it is not ours. */
static const struct avf_launch *launcher_map(int fd)
{
    long seals = sys_fcntl(fd, F_GET_SEALS, 0);
    long size = AVF_SYS4(SYS_lseek, fd, 0, SEEK_END, 0);
    if (seals < 0 || (seals & LAUNCHER_SEALS) != LAUNCHER_SEALS ||
        size < (long)(sizeof(struct avf_launch) + sizeof(avf_plan)) || size > INT32_MAX)
        return NULL;
    long at = AVF_SYS6(SYS_mmap, NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at < 0 && at > -4096)
        return NULL;
    const struct avf_launch *launch = (const struct avf_launch *)at;
    if (launch->magic != AVF_LAUNCH_MAGIC || launch->plan_size != (uint64_t)size - sizeof *launch)
        return NULL;
    return launch;
}

/* THREAD child. */
static __attribute__((noreturn)) void launcher_fail(int report_fd, int32_t error)
{
    struct avf_word word = {AVF_STEP_LAUNCHER, error};
    (void)AVF_SYS4(SYS_write, report_fd, &word, sizeof word, 0);
    sys_exit_group(127);
}

/* THREAD child. Gives back what the vfork child has lent, so that the caller's capabilities are what they were, and no
 * program gets more than a fork would have left it. RETURNS 0 or -errno. */
static long launcher_give_back(const struct avf_rights *was)
{
    struct sys_capabilities sets;
    if (was->lent == 0)
        return 0;
    long result = sys_capabilities(SYS_capget, &sets);
    uint64_t permitted = was->permitted & sys_capabilities_get(&sets, SYS_CAP_PERMITTED);
    sys_capabilities_put(&sets, SYS_CAP_PERMITTED, permitted);
    sys_capabilities_put(&sets, SYS_CAP_EFFECTIVE, was->effective & permitted);
    sys_capabilities_put(&sets, SYS_CAP_INHERITABLE, was->inheritable);
    if (result >= 0)
        result = sys_capabilities(SYS_capset, &sets);
    for (long capability = 0; capability < 64 && result >= 0; capability++)
        if (was->lent >> capability & 1)
            result = AVF_SYS6(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, capability, 0, 0, 0);
    return result;
}

/* THREAD child. */
static __attribute__((noreturn)) void launcher_run(const struct avf_launch *launch, int report_fd)
{
    const avf_plan *plan = (const avf_plan *)(launch + 1);
    struct avf_report report = {0};
    char listen_pid[AVF_LISTEN_PID] = "LISTEN_PID=";

    if (plan->version != AVF_PLAN_VERSION) /* the package was upgraded under a running process */
        launcher_fail(report_fd, -EPROTO);
    if (avf_plan_check(plan, launch->plan_size) < 0)
        launcher_fail(report_fd, -EINVAL);
    long error = launcher_give_back(&launch->rights);
    if (error < 0)
        launcher_fail(report_fd, (int32_t)error);
    size_t pointers = (size_t)plan->argv_count + plan->envp_count + 2;
    long at = AVF_SYS6(SYS_mmap, NULL, pointers * sizeof(char *), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0 && at > -4096)
        launcher_fail(report_fd, (int32_t)at);
    const char **argv = (const char **)at, **envp = argv + plan->argv_count + 1;
    avf_plan_split(plan, plan->argv_offset, plan->argv_count, argv);
    avf_plan_split(plan, plan->envp_offset, plan->envp_count, envp);
    if (plan->flags & AVF_PLAN_LISTEN)
        envp[plan->envp_count - 1] = listen_pid;
    const struct avf_child child = {
        .plan = plan,
        .argv = argv,
        .envp = envp,
        .listen_pid = plan->flags & AVF_PLAN_LISTEN ? listen_pid : NULL,
        .report = &report,
        .sigmask = launch->sigmask,
        .parent_pid = launch->parent_pid,
        .report_fd = report_fd,
        .is_launched = 1,
    };
    avf_child_go_on(&child);
}

/* THREAD child. */
static __attribute__((noreturn)) void launcher_start(long argc, char *const *argv)
{
    int launch_fd = argc == 3 ? launcher_number(argv[1]) : -1;
    int report_fd = argc == 3 ? launcher_number(argv[2]) : -1;
    if (launch_fd < 0 || report_fd < 0 || sys_fcntl(report_fd, F_SETFD, FD_CLOEXEC) < 0)
        launcher_refuse();
    const struct avf_launch *launch = launcher_map(launch_fd);
    if (!launch)
        launcher_refuse();
    (void)sys_close(launch_fd);
    (void)AVF_SYS4(SYS_prctl, PR_SET_NAME, AVF_LAUNCHER_NAME, 0, 0);
    launcher_run(launch, report_fd);
}

#if AVF_ARCH_HAS_CLONE3
/* THREAD child. The kernel's stack: argc, argv (execve(2)). */
void launcher_main(long *stack)
{
    launcher_start(stack[0], (char *const *)(stack + 1));
}

ARCH_START(launcher_main);
#else
/* THREAD child. */
int main(int argc, char **argv)
{
    launcher_start(argc, argv);
}
#endif
