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

/* THREAD any. */
static int plan_steps_valid(const avf_plan *plan)
{
    uint32_t before = AVF_STEP_CLOSE_FDS;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const avf_plan_step *step = &avf_plan_steps(plan)[i];
        if (step->step <= before || step->step >= AVF_STEP_SIGMASK)
            return 0;
        if (step->step == AVF_STEP_CHDIR && (step->value < 0 || step->value > plan->size ||
                                             !plan_strings_fit(plan, (uint32_t)step->value, 1)))
            return 0;
        before = step->step;
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
    for (int i = 0; i < 3; i++)
        if (plan->stdio[i] < AVF_STDIO_INHERIT || (plan->stdio[i] == AVF_STDIO_STDOUT && i != 2))
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
                     (uint64_t)plan->fd_count * sizeof(int32_t);
    if (lists > size || plan->path_count == 0)
        return -EINVAL;
    if (!plan_steps_valid(plan) || !plan_fds_valid(plan) ||
        !plan_strings_fit(plan, plan->path_offset, plan->path_count) ||
        !plan_strings_fit(plan, plan->argv_offset, plan->argv_count) ||
        !plan_strings_fit(plan, plan->envp_offset, plan->envp_count))
        return -EINVAL;
    return 0;
}

/* THREAD any. */
const char *avf_step_name(int32_t step)
{
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
        [AVF_STEP_CHDIR] = "chdir",
        [AVF_STEP_UMASK] = "umask",
        [AVF_STEP_RESTORE_SIGNALS] = "restore signals",
        [AVF_STEP_SETSID] = "setsid",
        [AVF_STEP_SETPGID] = "setpgid",
        [AVF_STEP_SIGMASK] = "sigmask",
        [AVF_STEP_EXEC] = "exec",
    };
    return step >= 0 && step < AVF_STEP_COUNT ? names[step] : "unknown";
}
