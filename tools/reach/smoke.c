/* DESIGN: the core without Python.
 *
 * What: calls the functions of aiovfork.cdef as Python does, and checks what comes back. It proves a compiler,
 *     a libc or a kernel for which there is no Python at hand, in a second.
 * Where: one process, one loop thread (main), a second thread where a check is about threads.
 * Output: the name of each check before it runs, so that the last line names what failed, crashed or hung. Whoever
 *     starts this program sets the time limit (tools/reach/__main__.py): musl's setgid() can hang in a state in
 *     which this process cannot even end itself.
 * Deliberately absent: whatever the Python tests check better. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "binding.h"

#ifndef __WALL
#define __WALL 0x40000000 /* musl's headers leave it to the kernel's */
#endif

enum { MANY = 200, FEW = 8, PLAN_ROOM = 4096 };

static const char *check_name = "start";
static char held_program[256]; /* in the folder that the caller names */

/* ---- helpers ---- */

/* Ends the program; the message says what was wrong in the check that runs. */
__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    printf("FAILED %s: ", check_name);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    exit(1);
}

static void begin(const char *name)
{
    check_name = name;
    printf("  %s\n", name);
}

static void expect(long got, long wanted, const char *what)
{
    if (got != wanted)
        fail("%s is %ld, not %ld", what, got, wanted);
}

/* A plan with room for its strings. */
struct plan {
    union {
        avf_plan head;
        char bytes[PLAN_ROOM];
    };
};

static void plan_add(struct plan *plan, uint32_t *offset, uint32_t *count, const char *string)
{
    size_t length = strlen(string) + 1;
    if (plan->head.size + length > sizeof plan->bytes)
        fail("a plan of more than %d bytes", PLAN_ROOM);
    if ((*count)++ == 0)
        *offset = plan->head.size;
    memcpy(plan->bytes + plan->head.size, string, length);
    plan->head.size += (uint32_t)length;
}

/* argv ends with NULL; its first string is the program. Standard input is /dev/null, standard output as given. A
 * directory that is not NULL becomes the child's, and so does a user that is not negative. */
static struct plan plan_make_as(const char *const *argv, int32_t input, int32_t output, const char *directory,
                                int64_t user)
{
    struct plan plan = {.head = {
                            .size = sizeof(avf_plan),
                            .version = AVF_PLAN_VERSION,
                            .flags = AVF_PLAN_CLOSE_FDS,
                            .pipesize = -1,
                            .stdio = {input, output, AVF_STDIO_INHERIT},
                            .cgroup_fd = -1,
                        }};
    avf_plan *head = &plan.head;
    if (user >= 0) {
        avf_plan_step step = {.step = AVF_STEP_SETUID, .value = user};
        head->step_count = 1;
        memcpy(plan.bytes + head->size, &step, sizeof step);
        head->size += sizeof step;
    } else if (directory) {
        avf_plan_step step = {.step = AVF_STEP_CHDIR, .value = sizeof(avf_plan) + sizeof step};
        uint32_t unused_offset, unused_count = 0;
        head->step_count = 1;
        memcpy(plan.bytes + head->size, &step, sizeof step);
        head->size += sizeof step;
        plan_add(&plan, &unused_offset, &unused_count, directory);
    }
    plan_add(&plan, &head->path_offset, &head->path_count, argv[0]);
    for (; *argv; argv++)
        plan_add(&plan, &head->argv_offset, &head->argv_count, *argv);
    plan_add(&plan, &head->envp_offset, &head->envp_count, "PATH=/usr/bin:/bin");
    return plan;
}

static struct plan plan_make(const char *const *argv, int32_t input, int32_t output, const char *directory)
{
    return plan_make_as(argv, input, output, directory, -1);
}

/* THE NEXT RECORD: waits for it as a loop does, and acknowledges it. */
static avf_event next_event(avf_port *port)
{
    avf_batch *batch = avf_port_batch(port);
    while (batch->taken >= batch->filled) {
        struct pollfd readable = {.fd = avf_port_fd(port), .events = POLLIN};
        int32_t count = avf_port_drain(port);
        if (count < 0)
            fail("avf_port_drain: %s", strerror(-count));
        if (count == 0 && poll(&readable, 1, -1) < 0 && errno != EINTR)
            fail("poll: %s", strerror(errno));
    }
    return batch->events[batch->taken++];
}

static uint64_t spawn(avf_port *port, const struct plan *plan)
{
    int32_t step = AVF_STEP_NONE;
    int64_t ticket = avf_spawn(port, plan->bytes, plan->head.size, NULL, &step);
    if (ticket <= 0)
        fail("avf_spawn: %s at step %s", strerror((int)-ticket), avf_step_name(step));
    return (uint64_t)ticket;
}

static avf_event expect_event(avf_port *port, int32_t kind, uint64_t ticket)
{
    avf_event event = next_event(port);
    if (event.kind != kind || (ticket && event.ticket != ticket))
        fail("record of kind %d, ticket %llx, error %d at step %s, status %x; wanted kind %d, ticket %llx",
             event.kind, (unsigned long long)event.ticket, event.error, avf_step_name(event.step),
             (unsigned)event.status, kind, (unsigned long long)ticket);
    return event;
}

/* The program has exited with this status, as waitpid(2) gives it. */
static avf_event expect_exit(avf_port *port, uint64_t ticket, int status)
{
    avf_event event = expect_event(port, AVF_EXITED, ticket);
    expect(event.status, status, "the exit status");
    return event;
}

/* A child that lives until its standard input ends, with this process at the latest; *ret_input holds it. */
static uint64_t spawn_waiting(avf_port *port, int *ret_input)
{
    struct plan plan = plan_make((const char *[]){"/bin/cat", NULL}, AVF_STDIO_PIPE, AVF_STDIO_DEVNULL, NULL);
    uint64_t ticket = spawn(port, &plan);
    *ret_input = expect_event(port, AVF_SPAWNED, ticket).parent_end[0];
    return ticket;
}

static avf_port *open_port(void)
{
    avf_port *port;
    int32_t error = avf_port_open(&port);
    if (error < 0)
        fail("avf_port_open: %s", strerror(-error));
    return port;
}

static int count_entries(const char *path)
{
    int count = 0;
    DIR *folder = opendir(path);
    if (!folder)
        return -1; /* no /proc here: every count is the same */
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

/* The child's standard output to its end; the parent's end of the pipe is non-blocking. */
static void read_all(int fd, char *text, size_t room)
{
    size_t filled = 0;
    for (;;) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        ssize_t count = read(fd, text + filled, room - 1 - filled);
        if (count < 0 && errno == EAGAIN) {
            poll(&readable, 1, -1);
            continue;
        }
        if (count < 0)
            fail("read: %s", strerror(errno));
        if (count == 0)
            break;
        filled += (size_t)count;
    }
    text[filled] = 0;
    close(fd);
}

/* ---- checks ---- */

static void say_facts(void)
{
    avf_facts facts;
    avf_probe(&facts);
    printf("  Linux %d.%d, clone3 %d, CLEAR_SIGHAND %d, close_range %d, waitid(P_PIDFD) %d, exit status kept "
           "%d, "
           "memory shared %d, parent suspended %d\n",
           facts.kernel_major, facts.kernel_minor, facts.clone3, facts.clear_sighand, facts.close_range,
           facts.pidfd_wait, facts.pidfd_info_exit, facts.memory_shared, facts.parent_suspended);
    expect(facts.probe_child, 0, "the errno of the probe's child");
    expect(facts.pidfd_wait, 0, "the errno of waitid(P_PIDFD)");
}

static void check_output_and_status(avf_port *port)
{
    struct plan plan = plan_make((const char *[]){"/bin/sh", "-c", "echo hello; exit 7", NULL},
                                 AVF_STDIO_DEVNULL, AVF_STDIO_PIPE, NULL);
    char text[64];
    begin("output, exit status, resources used");
    uint64_t ticket = spawn(port, &plan);
    avf_event spawned = expect_event(port, AVF_SPAWNED, ticket);
    read_all(spawned.parent_end[1], text, sizeof text);
    if (strcmp(text, "hello\n") != 0)
        fail("the child wrote \"%s\"", text);
    avf_event exited = expect_exit(port, ticket, 7 << 8);
    expect(exited.pid, spawned.pid, "the pid of the exit");
    /* ru_maxrss and ru_minflt: no program runs without either, and a shifted layout has zeros or nonsense there. */
    if (exited.rusage[4] <= 0 || exited.rusage[4] > 1 << 24 || exited.rusage[8] <= 0)
        fail("ru_maxrss %lld, ru_minflt %lld", (long long)exited.rusage[4], (long long)exited.rusage[8]);
}

static void check_failures(avf_port *port)
{
    const char *const nothing[] = {"/nowhere/at/all", NULL}, *const program[] = {"/bin/true", NULL};
    struct plan no_program = plan_make(nothing, AVF_STDIO_DEVNULL, AVF_STDIO_DEVNULL, NULL);
    struct plan no_directory = plan_make(program, AVF_STDIO_DEVNULL, AVF_STDIO_DEVNULL, "/dev/null");
    begin("a program that is not there, a directory that is none");
    avf_event event = expect_event(port, AVF_FAILED, spawn(port, &no_program));
    expect(event.error, -ENOENT, "the error");
    expect(event.step, AVF_STEP_EXEC, "the step");
    event = expect_event(port, AVF_FAILED, spawn(port, &no_directory));
    expect(event.error, -ENOTDIR, "the error");
    expect(event.step, AVF_STEP_CHDIR, "the step");
    int32_t step = AVF_STEP_NONE;
    no_program.head.version = 0;
    expect(avf_spawn(port, no_program.bytes, no_program.head.size, NULL, &step), -EINVAL,
           "the error of a bad plan");
    expect(step, AVF_STEP_PLAN, "its step");
}

/* A child that sets its user, to what it is, goes through the launcher. */
static void check_launcher(avf_port *port)
{
    const char *const nothing[] = {"/nowhere/at/all", NULL}, *const program[] = {"/bin/sh", "-c", "exit 9",
                                                                                 NULL};
    struct plan good = plan_make_as(program, AVF_STDIO_DEVNULL, AVF_STDIO_DEVNULL, NULL, geteuid());
    struct plan bad = plan_make_as(nothing, AVF_STDIO_DEVNULL, AVF_STDIO_DEVNULL, NULL, geteuid());
    begin("the launcher");
    uint64_t ticket = spawn(port, &good);
    avf_event event = expect_event(port, AVF_SPAWNED, ticket);
    expect(event.flags & AVF_LAUNCHER, AVF_LAUNCHER, "its mark");
    expect_exit(port, ticket, 9 << 8);
    event = expect_event(port, AVF_FAILED, spawn(port, &bad));
    expect(event.error, -ENOENT, "the error");
    expect(event.step, AVF_STEP_EXEC, "the step");
}

static void check_signal(avf_port *port)
{
    int input;
    begin("a signal, and a stale ticket");
    uint64_t ticket = spawn_waiting(port, &input);
    expect(avf_kill(ticket, SIGTERM), 0, "avf_kill");
    expect_exit(port, ticket, SIGTERM);
    expect(avf_kill(ticket, SIGTERM), -ESRCH, "avf_kill after the exit");
    close(input);
}

/* exec(2) of a file waits for whoever holds a write lease on it, who is sent a signal. */
static void check_cancel_of_a_held_spawn(avf_port *port)
{
    struct plan plan =
        plan_make((const char *[]){held_program, NULL}, AVF_STDIO_DEVNULL, AVF_STDIO_DEVNULL, NULL);
    sigset_t lease;
    int signal;
    begin("cancel of a spawn that is held in exec");
    sigemptyset(&lease);
    sigaddset(&lease, SIGIO);
    sigprocmask(SIG_BLOCK, &lease, NULL);
    int fd = open(held_program, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
        fail("a lease on %s: %s", held_program, strerror(errno));
    uint64_t ticket = spawn(port, &plan);
    sigwait(&lease, &signal);
    expect(avf_cancel(ticket, -ETIMEDOUT), 0, "avf_cancel");
    avf_event event = expect_event(port, AVF_FAILED, ticket);
    expect(event.error, -ETIMEDOUT, "the error");
    expect(event.step, AVF_STEP_EXEC, "the step");
    expect(avf_cancel(ticket, -ETIMEDOUT), -ESRCH, "avf_cancel after the end");
    close(fd); /* and with it the lease */
    sigprocmask(SIG_UNBLOCK, &lease, NULL);
}

/* The output of many children at once, a large one among them, which moves to memory of ours. */
static void check_captures(avf_port *port)
{
    enum { SIZE = 40 * 1024 * 1024, CAPTURES = 32 };
    struct plan small = plan_make((const char *[]){"/bin/sh", "-c", "echo out; exit 5", NULL},
                                  AVF_STDIO_DEVNULL, AVF_STDIO_PIPE, NULL);
    struct plan large = plan_make((const char *[]){"/bin/cat", NULL}, AVF_STDIO_PIPE, AVF_STDIO_PIPE, NULL);
    avf_capture *captures[CAPTURES];
    uint64_t tickets[CAPTURES];
    int32_t step;
    begin("captured output");
    char *input = malloc(SIZE), *output = malloc(SIZE);
    for (int i = 0; i < SIZE; i++)
        input[i] = (char)(i * 7 + i / 4096);
    for (int i = 0; i < CAPTURES; i++) {
        const struct plan *plan = i == 0 ? &large : &small;
        captures[i] = avf_capture_new();
        captures[i]->input = input;
        captures[i]->input_size = i == 0 ? SIZE : 0;
        tickets[i] = (uint64_t)avf_spawn(port, plan->bytes, plan->head.size, captures[i], &step);
    }
    for (int over = 0; over < CAPTURES; over++) {
        avf_event event = expect_event(port, AVF_CAPTURED, 0);
        expect(event.error, 0, "the error");
        expect(event.status, event.ticket == tickets[0] ? 0 : 5 << 8, "the exit status");
    }
    expect(captures[0]->length[0], SIZE, "the size of the large output");
    uint64_t copy = (uint64_t)avf_capture_copy(port, captures[0], output, output);
    expect_event(port, AVF_COPIED, copy);
    expect(memcmp(input, output, SIZE), 0, "the large output");
    for (int i = 0; i < CAPTURES; i++) {
        if (i && (captures[i]->length[0] != 4 || memcmp(captures[i]->data[0], "out\n", 4) != 0))
            fail("a small output of %lld bytes", (long long)captures[i]->length[0]);
        avf_capture_free(captures[i]);
    }
    free(input);
    free(output);
}

static void check_many(avf_port *port)
{
    struct plan plan = plan_make((const char *[]){"/bin/sh", "-c", "exit 3", NULL}, AVF_STDIO_DEVNULL,
                                 AVF_STDIO_DEVNULL, NULL);
    int spawned = 0, exited = 0;
    begin("many at once");
    for (int i = 0; i < MANY; i++)
        spawn(port, &plan);
    while (exited < MANY) {
        avf_event event = next_event(port);
        if (event.kind == AVF_SPAWNED)
            spawned++;
        else if (event.kind == AVF_EXITED && event.status == 3 << 8)
            exited++;
        else
            fail("kind %d, error %d at step %s, status %x", event.kind, event.error,
                 avf_step_name(event.step), (unsigned)event.status);
    }
    expect(spawned, MANY, "the number of children");
}

static void *change_group(void *unused)
{
    (void)unused;
    return (void *)(long)setgid(getgid());
}

/* libc has every thread make the system call, by a signal that no thread may keep blocked: glibc's 33, musl's 34. The
 * threads that wait for living children are among them. */
static void check_setgid_beside_children(avf_port *port)
{
    uint64_t tickets[FEW];
    int inputs[FEW];
    pthread_t thread;
    void *result;
    begin("setgid() in a second thread, beside living children");
    for (int i = 0; i < FEW; i++)
        tickets[i] = spawn_waiting(port, &inputs[i]);
    expect(pthread_create(&thread, NULL, change_group, NULL), 0, "pthread_create");
    expect(pthread_join(thread, &result), 0, "pthread_join");
    expect((long)result, 0, "setgid");
    for (int i = 0; i < FEW; i++) {
        close(inputs[i]);
        expect_exit(port, tickets[i], 0);
    }
}

/* One line of /proc/self/status in hexadecimal, as that file's text has it. */
static uint64_t signals_of(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    if (!line)
        fail("no %s in /proc/self/status", name);
    return strtoull(line + strlen(name), NULL, 16);
}

/* Of the kernel's 64 signals, those between the standard ones and SIGRTMIN are libc's own: 32 and 33, musl's 34. Both
 * libcs leave one ignored that a program does not expect to be. */
static void check_signals_of_the_child(avf_port *port)
{
    struct plan plan = plan_make((const char *[]){"/bin/cat", "/proc/self/status", NULL}, AVF_STDIO_DEVNULL,
                                 AVF_STDIO_PIPE, NULL);
    uint64_t private_signals = 0, mask = 1ULL << (SIGUSR2 - 1), before;
    char text[8192];
    struct action {
        void (*handler)(int);
        unsigned long flags, restorer, mask; /* as much as any architecture's struct sigaction has */
    } ignore = {.handler = SIG_IGN}, standing[3];
    begin("the child's signals, libc's own included");
    if (access("/proc/self/status", R_OK) < 0)
        return;
    for (int number = 32; number < SIGRTMIN; number++) {
        private_signals |= 1ULL << (number - 1);
        syscall(SYS_rt_sigaction, number, &ignore, &standing[number - 32], sizeof mask);
    }
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &mask, &before, sizeof mask);
    uint64_t ticket = spawn(port, &plan);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof mask);
    for (int number = 32; number < SIGRTMIN; number++)
        syscall(SYS_rt_sigaction, number, &standing[number - 32], NULL, sizeof mask);
    read_all(expect_event(port, AVF_SPAWNED, ticket).parent_end[1], text, sizeof text);
    expect_exit(port, ticket, 0);
    if (signals_of(text, "SigBlk:") != (before | mask))
        fail("blocked are %llx, not %llx", (unsigned long long)signals_of(text, "SigBlk:"),
             (unsigned long long)(before | mask));
    if (signals_of(text, "SigIgn:") & private_signals)
        fail("ignored are %llx, of libc's own %llx", (unsigned long long)signals_of(text, "SigIgn:"),
             (unsigned long long)private_signals);
}

/* In the forked child. Nobody reads what it prints after a failure but the test's reader. */
static void forked_child(int parents_fd)
{
    struct plan plan = plan_make((const char *[]){"/bin/sh", "-c", "exit 5", NULL}, AVF_STDIO_DEVNULL,
                                 AVF_STDIO_DEVNULL, NULL);
    expect(fcntl(parents_fd, F_GETFD), -1, "F_GETFD of the parent's port");
    avf_port *port = open_port();
    uint64_t ticket = spawn(port, &plan);
    expect_event(port, AVF_SPAWNED, ticket);
    expect_exit(port, ticket, 5 << 8);
    avf_port_free(port);
    fflush(stdout);
    _exit(0);
}

static void check_fork(avf_port *port)
{
    int input, status, port_fd = avf_port_fd(port);
    begin("fork: the forked process spawns by itself, the parent goes on");
    uint64_t ticket = spawn_waiting(port, &input);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        close(input);
        forked_child(port_fd);
    }
    expect(waitpid(pid, &status, 0), pid, "waitpid");
    expect(status, 0, "the forked process' status");
    close(input); /* the last write end: else the child would not see the end of its input */
    expect_exit(port, ticket, 0);
}

static void check_park(avf_port *port)
{
    int input;
    begin("the parking of workers, off and on");
    expect(avf_park(0), 1, "the first value");
    uint64_t ticket = spawn_waiting(port, &input);
    close(input);
    expect_exit(port, ticket, 0);
    expect(avf_park(1), 0, "the value before");
}

/* Everything that was started has ended: descriptors, threads, children. */
static void check_close(avf_port *port, int descriptors)
{
    uint64_t tickets[FEW];
    int inputs[FEW];
    begin("close: no descriptor, thread or child is left");
    for (int i = 0; i < FEW; i++)
        tickets[i] = spawn_waiting(port, &inputs[i]);
    avf_port_close(port);
    avf_port_close(port);
    expect(avf_port_drain(port), 0, "avf_port_drain of a closed port");
    for (int i = 0; i < FEW; i++) {
        expect(avf_dispose(tickets[i]), 0, "avf_dispose");
        close(inputs[i]);
    }
    avf_port_free(port);
    while (count_entries("/proc/self/task") > 3)
        poll(NULL, 0, 1); /* the threads that reap can only be looked for again */
    expect(waitpid(-1, NULL, WNOHANG | __WALL), -1, "waitpid");
    expect(errno, ECHILD, "its errno");
    expect(count_entries("/proc/self/fd"), descriptors, "the number of descriptors");
}

static void make_held_program(const char *folder)
{
    static const char script[] = "#!/bin/sh\n";
    snprintf(held_program, sizeof held_program, "%s/held", folder);
    int fd = open(held_program, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
    if (fd < 0 || write(fd, script, sizeof script - 1) < 0)
        fail("%s: %s", held_program, strerror(errno));
    close(fd);
}

/* The launcher lies beside this program. */
static void set_launcher(const char *program)
{
    char path[4096];
    const char *slash = strrchr(program, '/');
    snprintf(path, sizeof path, "%.*s_launcher", slash ? (int)(slash - program) + 1 : 0, program);
    expect(avf_set_launcher(path), 0, "avf_set_launcher");
}

int main(int count, char **arguments)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count != 2)
        fail("usage: smoke FOLDER, an empty one");
    make_held_program(arguments[1]);
    set_launcher(arguments[0]);
    say_facts();
    avf_port_free(open_port()); /* whatever is made once and kept */
    int descriptors = count_entries("/proc/self/fd");
    avf_port *port = open_port();
    for (int mode = 0; mode < 4; mode++) {
        int32_t clone3 = mode & 1, report_pipe = mode >> 1;
        printf(" engine %s, report by %s\n", clone3 ? "clone3" : "clone", report_pipe ? "pipe" : "memory");
        avf_force(clone3, report_pipe);
        check_output_and_status(port);
        check_failures(port);
        check_launcher(port);
        check_signal(port);
        check_cancel_of_a_held_spawn(port);
        check_captures(port);
        check_many(port);
        check_setgid_beside_children(port);
        check_signals_of_the_child(port);
        check_fork(port);
        check_park(port);
    }
    check_close(port, descriptors);
    printf("OK\n");
    return 0;
}
