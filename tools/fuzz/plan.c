/* Fuzzes what reads a plan: its check, the child's interpreter, and the launcher with its input.
 *
 * DESIGN. libFuzzer (clang) with AddressSanitizer and UndefinedBehaviorSanitizer. The code under test is csrc/plan.c,
 * csrc/child.c and csrc/launcher.c, unchanged, over a fake kernel that reads whatever the real one would read, and whose
 * answers come from the input too. An input is one byte of mode, and a plan, of which the harness sets size and
 * version, so that mutations get past the first look. */
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "child.h"
#include "plan.h"
#include "sys.h"

enum { MODE_LAUNCHER = 1, MODE_RAW = 2, MODE_MESSAGE = 4, MODE_LISTED = 8, MODE_FAIL = 16, MODE_KEPT = 32 };
enum { LAUNCH_FD = 7, REPORT_FD = 8, MOST_FDS = 1 << 16 };

int launcher_main(int argc, char **argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static jmp_buf over;
static uint8_t mode;
static uint32_t answers; /* of the input: which calls fail */
static char *memfd;      /* what the launcher maps */
static size_t memfd_size;
static void *anonymous;
static volatile uint64_t seen; /* what was read */

/* THREAD any. */
static void see(const void *from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        seen += ((const uint8_t *)from)[i];
}

/* THREAD any. */
static void see_strings(const char *const *strings)
{
    for (; *strings; strings++)
        see(*strings, strlen(*strings) + 1);
}

/* THREAD any. */
static long fake_mmap(long size, long fd)
{
    if (fd == LAUNCH_FD)
        return (long)memfd;
    anonymous = calloc(1, (size_t)size);
    return anonymous ? (long)anonymous : -ENOMEM;
}

/* THREAD any. */
static long fake_recvmsg(struct msghdr *message)
{
    struct cmsghdr *header = message->msg_control;
    uint32_t count = answers % (AVF_MESSAGE_FILES + 1);
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (uint32_t i = 0; i < count; i++)
        ((int *)CMSG_DATA(header))[i] = (int)(10 + i);
    message->msg_controllen = CMSG_SPACE(count * sizeof(int));
    message->msg_flags = 0;
    return 1;
}

/* THREAD any. An empty directory after one entry. */
static long fake_getdents(char *buffer)
{
    static int filled;
    filled = !filled;
    memset(buffer, 0, 24);
    buffer[16] = 24;
    buffer[19] = '9';
    return filled ? 24 : 0;
}

/* THREAD any. */
long arch_syscall(long n, long a, long b, long c, long d, long e, long f)
{
    (void)d;
    (void)f;
    answers = answers * 1664525 + 1013904223;
    switch (n) {
    case SYS_exit_group:
        longjmp(over, 1);
    case SYS_execve:
        see((const char *)a, strlen((const char *)a) + 1);
        see_strings((const char *const *)b);
        see_strings((const char *const *)c);
        return -ENOENT;
    case SYS_execveat:
        see_strings((const char *const *)c);
        return -EACCES;
    case SYS_chdir:
    case SYS_chroot:
        see((const char *)a, strlen((const char *)a) + 1);
        break;
    case SYS_openat:
        see((const char *)b, strlen((const char *)b) + 1);
        return 9;
    case SYS_write:
        see((const void *)b, (size_t)c);
        break;
    case SYS_prlimit64:
        see((const void *)c, 16);
        break;
    case SYS_sched_setaffinity:
        see((const void *)c, (size_t)b);
        break;
    case SYS_setgroups:
        see((const void *)b, (size_t)a * 4);
        break;
    case SYS_mmap:
        return fake_mmap(b, e);
    case SYS_lseek:
        return (long)memfd_size;
    case SYS_recvmsg:
        return fake_recvmsg((struct msghdr *)b);
    case SYS_getdents64:
        return fake_getdents((char *)b);
    case SYS_close_range:
        return mode & MODE_LISTED ? -ENOSYS : 0;
    case SYS_fcntl:
        if (b == F_GET_SEALS)
            return F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
        return b == F_DUPFD_CLOEXEC ? c : 0;
    case SYS_getpriority:
        return 20;
    case SYS_prctl:
        return answers >> 31;
    default:
        break;
    }
    return mode & MODE_FAIL && answers >> 28 == 0 ? -EPERM : 0;
}

/* THREAD any. The plan lies at the end of its block, so that a byte too many is seen. */
static void run_child(const avf_plan *plan)
{
    uint32_t given = avf_plan_given_count(plan);
    if (given > MOST_FDS)
        return;
    const char **argv = calloc(plan->argv_count + 1, sizeof *argv),
               **envp = calloc(plan->envp_count + 1, sizeof *envp);
    int32_t *source = malloc((given + 1) * sizeof *source);
    int32_t *scratch = malloc((3 + given + 2 * AVF_MESSAGE_FILES) * sizeof *scratch);
    char listen_pid[AVF_LISTEN_PID] = "LISTEN_PID=";
    struct avf_report report = {0};
    uint32_t received = answers % (AVF_MESSAGE_FILES + 1);
    for (uint32_t i = 0; i < given; i++)
        source[i] = mode & MODE_MESSAGE && received ? AVF_SOURCE_RECEIVED - (int32_t)(i % (2 * received))
                                                    : (int32_t)(3 + i);
    avf_plan_split(plan, plan->argv_offset, plan->argv_count, argv);
    avf_plan_split(plan, plan->envp_offset, plan->envp_count, envp);
    struct avf_child child = {
        .plan = plan,
        .argv = argv,
        .envp = envp,
        .listen_pid = plan->flags & AVF_PLAN_LISTEN ? listen_pid : NULL,
        .report = &report,
        .report_fd = mode & MODE_KEPT ? 5 : -1,
        .message = {{.fd = mode & MODE_MESSAGE ? 6 : -1, .count = received},
                    {.fd = mode & MODE_MESSAGE ? 7 : -1, .count = received}},
        .launcher_fd = avf_plan_needs_launcher(plan) ? 3 : -1,
        .launch_fd = avf_plan_needs_launcher(plan) ? 4 : -1,
        .stream_source = {AVF_SOURCE_DEVNULL, AVF_SOURCE_CLOSED, 2},
        .source = source,
        .scratch = scratch,
        .same_as = {-1, -1, -1},
    };
    if (setjmp(over) == 0)
        avf_child_run(&child);
    free(argv);
    free(envp);
    free(source);
    free(scratch);
}

/* THREAD any. */
static void run_launcher(const avf_plan *plan, uint32_t size)
{
    char *argv[] = {"aiovfork-launch", "7", "8", NULL};
    const struct avf_launch launch = {.magic = AVF_LAUNCH_MAGIC, .parent_pid = 1, .plan_size = size};
    memfd_size = sizeof launch + size;
    memfd = aligned_alloc(16, (memfd_size + 15) & ~(size_t)15);
    memcpy(memfd, &launch, sizeof launch);
    memcpy(memfd + sizeof launch, plan, size);
    anonymous = NULL;
    if (setjmp(over) == 0)
        (void)launcher_main(3, argv);
    free(memfd);
    free(anonymous);
}

/* THREAD any. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + sizeof(avf_plan) || size > 1 << 20)
        return 0;
    mode = data[0];
    uint32_t plan_size = (uint32_t)size - 1;
    avf_plan *plan = malloc(plan_size);
    memcpy(plan, data + 1, plan_size);
    if (!(mode & MODE_RAW)) {
        plan->size = plan_size;
        plan->version = AVF_PLAN_VERSION;
    }
    answers = plan_size + plan->reserved;
    if (mode & MODE_LAUNCHER)
        run_launcher(plan, plan_size); /* it checks by itself */
    else if (avf_plan_check(plan, plan_size) == 0)
        run_child(plan);
    free(plan);
    return 0;
}
