/* What the child is given, and what it gives back. */
#ifndef AVF_CHILD_H
#define AVF_CHILD_H

#include "binding.h"

/* Written by the child, read by the worker, once, when the child is over or runs its program; in MAP_SHARED
 * memory, since there are places where vfork does not share memory (valgrind, QEMU-user). `error` is written
 * last. A process that fork() made does not have this memory. */
struct avf_report {
    _Atomic int32_t error;  /* 0 while nothing failed, else -errno */
    _Atomic int32_t step;   /* enum avf_step: where the child is, or failed */
    _Atomic int32_t cancel; /* -errno, set by whoever no longer wants the child, before it reads started_ns */
    _Atomic int32_t seen;   /* the probe's mark */
    _Atomic int64_t started_ns; /* the child's first instruction, CLOCK_MONOTONIC: clone has succeeded */
    int32_t note_count;         /* of the notes, in the form that avf_event has */
    int32_t notes[AVF_NOTES];
};

/* What the launcher writes into the report's pipe: where it is, and at last -errno or nothing. */
struct avf_word {
    int32_t step; /* as report.step */
    int32_t error;
};

/* Capabilities of the caller, which exec would take from the launcher: it leaves a user other than root the ambient ones
 * only. So for that one exec the others are ambient too. */
struct avf_rights {
    uint64_t effective, permitted, inheritable;
    uint64_t lent; /* of permitted: what is ambient until the launcher runs; 0 where it loses nothing */
};

/* What the memfd of a launched child begins with; the plan follows. */
struct avf_launch {
    uint64_t magic;
    uint64_t sigmask;
    int32_t parent_pid;
    uint32_t plan_size;
    struct avf_rights rights;
};
#define AVF_LAUNCH_MAGIC 0x314b524f46564f41ULL /* "AOVFORK1" in memory */

/* argv[0] of the launcher, and its name while it has not run exec. */
#define AVF_LAUNCHER_NAME "aiovfork-launch"

/* Room for "LISTEN_PID=" and a number. */
enum { AVF_LISTEN_PID = 32 };

/* Where a number that the child is to have comes from: a descriptor >= 0, or one of these. */
enum {
    AVF_SOURCE_CLOSED = -1,   /* the number is closed in the child */
    AVF_SOURCE_DEVNULL = -3,  /* as AVF_STDIO_DEVNULL */
    AVF_SOURCE_RECEIVED = -16 /* and below: the file of index AVF_SOURCE_RECEIVED - source in the message */
};

/* The most files that one message carries (SCM_MAX_FD, unix(7)). */
enum { AVF_MESSAGE_FILES = 253 };

/* Files in flight that a child receives (messages.c). */
struct avf_child_message {
    int32_t fd;      /* a socket that holds them; -1 if there is none */
    uint32_t count;  /* of files */
    uint64_t cookie; /* which socket it must be (SO_COOKIE), if it sits in a mailbox; else 0 */
};

/* Built by the worker, or by the launcher. The child takes a copy and changes nothing in it. */
struct avf_child {
    const avf_plan *plan;
    const char *const *argv; /* NULL-terminated */
    const char *const *envp; /* NULL-terminated */
    char *listen_pid; /* a string of envp with room for AVF_LISTEN_PID bytes, to be completed; or NULL */
    struct avf_report *report;
    uint64_t sigmask;    /* the caller's */
    int32_t parent_pid;  /* the process that this is a child of */
    int32_t report_fd;   /* CLOEXEC, closed by exec or exit; a source; AVF_SOURCE_CLOSED in memory mode */
    int32_t is_launched; /* it runs in the launcher, and says by words to report_fd where it is */
    /* unused in the launcher: */
    uint64_t libc_signals;  /* signals that libc keeps for itself: the child never ignores them */
    int32_t reset_handlers; /* the kernel did not (no CLONE_CLEAR_SIGHAND) */
    struct avf_child_message message[2]; /* the given files; those that sit high in the parent's table */
    uint64_t lent;                       /* as avf_rights has it */
    int32_t launcher_fd, launch_fd;      /* sources: the launcher, and the memfd that it reads */
    int32_t stream_source[3];
    const int32_t *source; /* of each of the plan's numbers, then of what it holds */
    int32_t *
        scratch; /* 3 + fd_count numbers, and one for each received file; nobody but the child ever reads them */
    int32_t same_as[3];    /* with unshare_from: the parent's duplicate that stdio i must equal, or -1 */
    uint32_t unshare_from; /* > 0: the table is shared (CLONE_FILES); unshare and drop from here */
};

/* THREAD child. SIGNALS all blocked. Runs the plan and execs; on failure fills the report and exits.
 * arg is a const struct avf_child. */
__attribute__((noreturn)) void avf_child_run(void *arg);

/* THREAD child. SIGNALS all blocked. What is left of the plan in an address space of the child's own. */
__attribute__((noreturn)) void avf_child_go_on(const struct avf_child *c);

/* The probe's child, which finds out what vfork means here. */
struct avf_probe_child {
    volatile int32_t *private_mark; /* in memory that is not MAP_SHARED */
    struct avf_report *report;
};

enum { AVF_PROBE_STACK = 8192 };

/* THREAD child. SIGNALS all blocked. Marks private memory, then, late, the report; exits with 0. */
__attribute__((noreturn)) void avf_child_probe(void *arg);

#endif
