/* What the child is given, and what it gives back. */
#ifndef AVF_CHILD_H
#define AVF_CHILD_H

#include "binding.h"

/* Written by the child, read by the worker; in MAP_SHARED memory, since there are places where
 * vfork does not share memory (valgrind, QEMU-user). `error` is written last. */
struct avf_report {
    _Atomic int32_t error;  /* 0 while nothing failed */
    _Atomic int32_t step;   /* enum avf_step: where the child is, or failed */
    _Atomic int32_t cancel; /* set by whoever no longer wants the child, before it looks for a pidfd */
    int32_t seen;           /* the probe's mark */
    int64_t started_ns;     /* the child's first instruction, CLOCK_MONOTONIC */
};

/* Built by the worker; read-only for the child where it does not say otherwise. */
struct avf_child {
    const avf_plan *plan;
    struct avf_report *report;
    const char *const *argv; /* NULL-terminated */
    const char *const *envp; /* NULL-terminated */
    int32_t *fd_source;      /* one for each of the plan's pass_fds; the child's to change */
    int32_t stdio_source[3]; /* a descriptor, or AVF_STDIO_DEVNULL, or AVF_CHILD_CLOSED */
    int32_t report_fd;       /* CLOEXEC, only closed by exec or exit; -1 in memory mode */
    int32_t same_as[3];      /* with unshare_from: the parent's duplicate that stdio i must equal, or -1 */
    int32_t parent_pid;      /* for that */
    uint32_t unshare_from;   /* > 0: the table is shared (CLONE_FILES); unshare and drop from here */
    int32_t reset_handlers;  /* the kernel did not (no CLONE_CLEAR_SIGHAND) */
    uint64_t sigmask;        /* the caller's */
};

#define AVF_CHILD_CLOSED (-1)

/* THREAD child. SIGNALS all blocked. Runs the plan and execs; on failure fills the report and exits.
 * arg is a struct avf_child. */
__attribute__((noreturn)) void avf_child_run(void *arg);

/* The probe's child, which finds out what vfork means here. */
struct avf_probe_child {
    volatile int32_t *private_mark; /* in memory that is not MAP_SHARED */
    struct avf_report *report;
};

enum { AVF_PROBE_STACK = 8192 };

/* THREAD child. SIGNALS all blocked. Marks private memory, then, late, the report; exits with 0. */
__attribute__((noreturn)) void avf_child_probe(void *arg);

#endif
