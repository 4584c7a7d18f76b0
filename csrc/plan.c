/* DESIGN: checks a plan once, when it is submitted, so that its interpreter can trust it.
 *
 * What: bounds of every list and string, order of the declared steps, order of the descriptors.
 * Where: any thread; touches nothing but the block.
 * Deliberately absent: judgement of values (a bad umask, a missing directory): the kernel's answer is
 *     the error that the caller wants to see. */
#include "plan.h"

#include <string.h>

/* THREAD any. Whether count strings that start at offset end within the block. */
static int plan_strings_fit(const avf_plan *plan, uint32_t offset, uint32_t count)
{
    const char *end = (const char *)plan + plan->size;
    if (offset > plan->size)
        return 0;
    for (const char *string = (const char *)plan + offset; count > 0; count--) {
        const char *nul = memchr(string, 0, (size_t)(end - string));
        if (nul == NULL)
            return 0;
        string = nul + 1;
    }
    return 1;
}

/* THREAD any. Whether that many bytes of numbers lie in the block. */
static int plan_has(const avf_plan *plan, int64_t offset, uint64_t size)
{
    return offset >= 0 && offset % 8 == 0 && offset <= plan->size && size <= plan->size - (uint64_t)offset;
}

/* THREAD any. The same for a uint32_t that counts the rest, in units of a size. */
static int plan_has_counted(const avf_plan *plan, int64_t offset, uint64_t header, uint64_t unit)
{
    return plan_has(plan, offset, header) &&
           plan_has(plan, offset, header + *(const uint32_t *)avf_plan_at(plan, offset) * unit);
}

/* THREAD any. */
static int plan_has_string(const avf_plan *plan, int64_t offset)
{
    return offset >= 0 && offset <= plan->size && plan_strings_fit(plan, (uint32_t)offset, 1);
}

/* THREAD any. Whether the child can find what a step's value points to. */
static int plan_step_valid(const avf_plan *plan, const avf_plan_step *step)
{
    switch (step->step) {
    case AVF_STEP_CHROOT:
        return plan_has_string(plan, step->value);
    case AVF_STEP_CHDIR:
        return step->detail ? step->value >= 0 && step->value < plan->held_count
                            : plan_has_string(plan, step->value);
    case AVF_STEP_RLIMIT:
        return plan_has(plan, step->value, 2 * sizeof(uint64_t));
    case AVF_STEP_CPU_AFFINITY:
        return plan_has_counted(plan, step->value, 2 * sizeof(uint32_t), 1);
    case AVF_STEP_SETGROUPS:
        return plan_has_counted(plan, step->value, sizeof(uint32_t), sizeof(uint32_t));
    default:
        return 1;
    }
}

/* THREAD any. */
static int plan_steps_valid(const avf_plan *plan)
{
    uint32_t before = AVF_STEP_CLOSE_FDS, detail = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const avf_plan_step *step = &avf_plan_steps(plan)[i];
        int repeats = step->step == AVF_STEP_RLIMIT && before == AVF_STEP_RLIMIT && step->detail > detail;
        uint32_t details = step->step == AVF_STEP_RLIMIT ? UINT8_MAX : step->step == AVF_STEP_CHDIR;
        if ((step->step <= before && !repeats) || step->step >= AVF_STEP_EXEC ||
            step->step == AVF_STEP_LAUNCHER || step->detail > details ||
            step->flags & ~AVF_STEP_BEST_EFFORT || (step->flags && step->step > AVF_STEP_LAUNCHER) ||
            !plan_step_valid(plan, step))
            return 0;
        before = step->step;
        detail = step->detail;
    }
    return 1;
}

/* THREAD any. */
static int plan_fds_valid(const avf_plan *plan)
{
    int32_t before = 2;
    for (uint32_t i = 0; i < plan->fd_count; i++) {
        if (avf_plan_fds(plan)[i] <= before)
            return 0;
        before = avf_plan_fds(plan)[i];
    }
    for (uint32_t i = 0; i < avf_plan_given_count(plan); i++)
        if (avf_plan_given(plan)[i] < 0)
            return 0;
    for (int i = 0; i < 3; i++)
        if (plan->stdio[i] < AVF_STDIO_INHERIT || (plan->stdio[i] == AVF_STDIO_STDOUT && i != 2))
            return 0;
    return 1;
}

/* THREAD any. Whether the last string of the environment is the one that the child completes. */
static int plan_listens(const avf_plan *plan)
{
    static const char expected[] = "LISTEN_PID=";
    const char *string = avf_plan_at(plan, plan->envp_offset);
    for (uint32_t i = 1; i < plan->envp_count; i++)
        string = avf_plan_next_string(string);
    for (size_t i = 0; i < sizeof expected; i++)
        if (plan->envp_count == 0 || string[i] != expected[i])
            return 0;
    return 1;
}

/* THREAD any. */
int avf_plan_check(const void *block, uint32_t size)
{
    const avf_plan *plan = block;
    if (size < sizeof *plan || plan->size != size || plan->version != AVF_PLAN_VERSION)
        return -EINVAL;
    uint64_t lists = sizeof *plan + (uint64_t)plan->step_count * sizeof(avf_plan_step) +
                     (2 * (uint64_t)plan->fd_count + plan->held_count) * sizeof(int32_t);
    if (lists > size || plan->path_count == 0 || plan->held_count > AVF_HELD)
        return -EINVAL;
    if (!plan_steps_valid(plan) || !plan_fds_valid(plan) ||
        !plan_strings_fit(plan, plan->path_offset, plan->path_count) ||
        !plan_strings_fit(plan, plan->argv_offset, plan->argv_count) ||
        !plan_strings_fit(plan, plan->envp_offset, plan->envp_count) ||
        (plan->flags & AVF_PLAN_LISTEN && !plan_listens(plan)))
        return -EINVAL;
    return 0;
}

/* THREAD any. */
const char *avf_step_name(int32_t step)
{
    step &= AVF_STEP_MASK;
    static const char *const names[AVF_STEP_COUNT] = {
        [AVF_STEP_NONE] = "none",
        [AVF_STEP_PLAN] = "plan",
        [AVF_STEP_DUP_FDS] = "dup fds",
        [AVF_STEP_MEMORY] = "memory",
        [AVF_STEP_THREAD] = "thread",
        [AVF_STEP_PROBE] = "probe",
        [AVF_STEP_PIPE] = "pipe",
        [AVF_STEP_PIPESIZE] = "pipesize",
        [AVF_STEP_CGROUP] = "cgroup",
        [AVF_STEP_CLONE] = "clone",
        [AVF_STEP_WAIT] = "wait",
        [AVF_STEP_PIDFD] = "pidfd",
        [AVF_STEP_UNSHARE_FDS] = "unshare fds",
        [AVF_STEP_SIGNALS] = "signals",
        [AVF_STEP_RECEIVE_FDS] = "receive fds",
        [AVF_STEP_DEVNULL] = "devnull",
        [AVF_STEP_PASS_FDS] = "pass fds",
        [AVF_STEP_STDIO] = "stdio",
        [AVF_STEP_CLOSE_FDS] = "close fds",
        [AVF_STEP_OOM_SCORE_ADJ] = "oom_score_adj",
        [AVF_STEP_UNSHARE] = "unshare",
        [AVF_STEP_CHROOT] = "chroot",
        [AVF_STEP_CHDIR] = "chdir",
        [AVF_STEP_UMASK] = "umask",
        [AVF_STEP_RESTORE_SIGNALS] = "restore signals",
        [AVF_STEP_DEFAULT_SIGNALS] = "default signals",
        [AVF_STEP_IGNORED_SIGNALS] = "ignored signals",
        [AVF_STEP_SETSID] = "setsid",
        [AVF_STEP_SETPGID] = "setpgid",
        [AVF_STEP_CONTROLLING_TTY] = "controlling tty",
        [AVF_STEP_FOREGROUND] = "foreground",
        [AVF_STEP_RLIMIT] = "rlimit",
        [AVF_STEP_NICE] = "nice",
        [AVF_STEP_SCHEDULER] = "scheduler",
        [AVF_STEP_CPU_AFFINITY] = "cpu affinity",
        [AVF_STEP_IO_PRIORITY] = "io priority",
        [AVF_STEP_LAUNCHER] = "launcher",
        [AVF_STEP_CAP_BOUNDING] = "capability bounding set",
        [AVF_STEP_SETGROUPS] = "setgroups",
        [AVF_STEP_SETGID] = "setgid",
        [AVF_STEP_SETUID] = "setuid",
        [AVF_STEP_CAPABILITIES] = "capabilities",
        [AVF_STEP_NO_NEW_PRIVS] = "no_new_privs",
        [AVF_STEP_PDEATHSIG] = "pdeathsig",
        [AVF_STEP_SIGMASK] = "sigmask",
        [AVF_STEP_EXEC] = "exec",
    };
    return step >= 0 && step < AVF_STEP_COUNT ? names[step] : "unknown";
}
