/* The flat description of one child: reading and checking it. The layout is in aiovfork.cdef.
 *
 * The readers are freestanding: the child uses them too, and so can whatever reads the same block in another
 * address space. They trust the block, which avf_plan_check has checked. */
#ifndef AVF_PLAN_H
#define AVF_PLAN_H

#include <stddef.h>

#include "binding.h"
#include "sys.h"

/* THREAD any|child. The declared steps. */
AVF_INLINE const avf_plan_step *avf_plan_steps(const avf_plan *plan)
{
    return (const avf_plan_step *)(plan + 1);
}

/* THREAD any|child. The child's numbers above 2, ascending. */
AVF_INLINE const int32_t *avf_plan_fds(const avf_plan *plan)
{
    return (const int32_t *)(avf_plan_steps(plan) + plan->step_count);
}

/* THREAD any|child. The caller's numbers: of each of avf_plan_fds, then of what is held for the steps. */
AVF_INLINE const int32_t *avf_plan_given(const avf_plan *plan)
{
    return avf_plan_fds(plan) + plan->fd_count;
}

/* THREAD any|child. */
AVF_INLINE uint32_t avf_plan_given_count(const avf_plan *plan)
{
    return plan->fd_count + plan->held_count;
}

/* THREAD any|child. What a step's value is the offset of. */
AVF_INLINE const void *avf_plan_at(const avf_plan *plan, int64_t offset)
{
    return (const void *)((uintptr_t)plan + (uintptr_t)offset); /* a step's value may be no offset at all */
}

/* THREAD any|child. Whether a step must not run in a child that shares its parent's memory. */
AVF_INLINE int avf_step_needs_launcher(uint32_t step)
{
    return step > AVF_STEP_LAUNCHER && step < AVF_STEP_NO_NEW_PRIVS;
}

/* THREAD any|child. The declared step of that kind, the first of it, or NULL. */
AVF_INLINE const avf_plan_step *avf_plan_find(const avf_plan *plan, uint32_t step)
{
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (avf_plan_steps(plan)[i].step == step)
            return &avf_plan_steps(plan)[i];
    return NULL;
}

/* THREAD any|child. */
AVF_INLINE int avf_plan_needs_launcher(const avf_plan *plan)
{
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (avf_step_needs_launcher(avf_plan_steps(plan)[i].step))
            return 1;
    return 0;
}

/* THREAD any|child. The string behind this one in a string list. */
AVF_INLINE const char *avf_plan_next_string(const char *string)
{
    while (*string++)
        ;
    return string;
}

/* THREAD any|child. Writes count pointers and a NULL. */
AVF_INLINE void avf_plan_split(const avf_plan *plan, uint32_t offset, uint32_t count,
                               const char **ret_strings)
{
    const char *string = (const char *)plan + offset;
    for (uint32_t i = 0; i < count; i++) {
        ret_strings[i] = string;
        string = avf_plan_next_string(string);
    }
    ret_strings[count] = NULL;
}

/* The most descriptors that are held for steps. */
enum { AVF_HELD = 4 };

/* THREAD any. RETURNS 0, or -EINVAL if a plan of that size could make its reader leave the block. */
int avf_plan_check(const void *block, uint32_t size);

#endif
