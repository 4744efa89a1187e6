/* The agent of the benchmarks: claude's stream-json protocol, as fast as a machine can.
 *
 * A prompt with `SCRIPT: lines N SIZE` gets N numbered messages of SIZE bytes at once, `SCRIPT: rate R N SIZE` gets them
 * at R a second, `SCRIPT: open N SIZE` as `lines` does, but its turn never ends; any other prompt one message. A turn is, as claude 2.1.330 has it: session_state_changed running,
 * command_lifecycle queued and started, init, the messages, result, command_lifecycle completed, session_state_changed
 * idle. `"t"` in a message is CLOCK_MONOTONIC in ns just before it was written.
 *
 * The prompt must be the kind that the benchmark sends: no escapes in its first line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 1 << 16 };

static char out[BATCH + (1 << 20)];
static size_t used;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void flush(void)
{
    for (size_t done = 0; done < used;) {
        ssize_t n = write(1, out + done, used - done);
        if (n < 0 && errno != EINTR)
            exit(1);
        if (n > 0)
            done += n;
    }
    used = 0;
}

static void put(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    used += vsnprintf(out + used, sizeof out - used, format, args);
    va_end(args);
}

static void message(long n, size_t size)
{
    static const char tail[] = "\"}]}}\n";
    size_t start = used;
    put("{\"type\":\"assistant\",\"n\":%ld,\"t\":%lld,\"message\":{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"",
        n, (long long)now_ns());
    size_t length = used - start + sizeof tail - 1;
    if (length < size) {
        memset(out + used, 'x', size - length);
        used += size - length;
    }
    put("%s", tail);
    if (used >= BATCH)
        flush();
}

static void lines(long count, size_t size)
{
    for (long n = 0; n < count; n++)
        message(n, size);
}

static void rate(double per_second, long count, size_t size)
{
    int64_t start = now_ns();
    for (long n = 0; n < count; n++) {
        int64_t due = start + (int64_t)(n * 1e9 / per_second);
        struct timespec when = {due / 1000000000LL, due % 1000000000LL};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
            ;
        message(n, size);
        flush();
    }
}

static void lifecycle(const char *uuid, const char *state)
{
    if (*uuid)
        put("{\"type\":\"command_lifecycle\",\"command_uuid\":\"%s\",\"state\":\"%s\"}\n", uuid, state);
}

static void turn(const char *line)
{
    char uuid[37] = "";
    const char *at = strstr(line, "\"uuid\":");
    if (at)
        sscanf(at, "\"uuid\": %*[\"]%36[0-9a-f-]", uuid), sscanf(at, "\"uuid\":\"%36[0-9a-f-]", uuid);
    put("{\"type\":\"system\",\"subtype\":\"session_state_changed\",\"state\":\"running\"}\n");
    lifecycle(uuid, "queued");
    lifecycle(uuid, "started");
    put("{\"type\":\"system\",\"subtype\":\"init\",\"model\":\"bench\"}\n");
    long count = 1;
    size_t size = 0;
    double per_second = 0;
    if ((at = strstr(line, "SCRIPT: lines ")) && sscanf(at, "SCRIPT: lines %ld %zu", &count, &size) == 2)
        lines(count, size);
    else if ((at = strstr(line, "SCRIPT: open ")) && sscanf(at, "SCRIPT: open %ld %zu", &count, &size) == 2) {
        lines(count, size), flush();
        return;
    } else if ((at = strstr(line, "SCRIPT: rate ")) && sscanf(at, "SCRIPT: rate %lf %ld %zu", &per_second, &count, &size) == 3)
        flush(), rate(per_second, count, size);
    else
        message(0, 0);
    put("{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"stop_reason\":\"end_turn\",\"num_turns\":1,"
        "\"usage\":{\"input_tokens\":1,\"output_tokens\":1},\"total_cost_usd\":0,\"terminal_reason\":\"completed\","
        "\"result\":\"done\"");
    if (*uuid)
        put(",\"user_message_uuid\":\"%s\",\"user_message_uuids\":[\"%s\"]", uuid, uuid);
    put("}\n");
    lifecycle(uuid, "completed");
    put("{\"type\":\"system\",\"subtype\":\"session_state_changed\",\"state\":\"idle\"}\n");
    flush();
}

int main(int argc, char **argv)
{
    char *line = NULL;
    size_t capacity = 0;
    if (argc > 1 && strcmp(argv[1], "--version") == 0)
        return puts("0.0.0-bench") < 0;
    while (getline(&line, &capacity, stdin) > 0)
        if (strstr(line, "\"type\":\"user\"") || strstr(line, "\"type\": \"user\""))
            turn(line);
        else if (strstr(line, "\"control_request\""))
            exit(130);
    free(line);
    return 0;
}
