/* Readers of a WebSocket fan-out, and the clock of its publisher.
 *
 *   generator PORT READERS PID FEED BUFFER REQUEST READY SAY [LINE...]
 *
 * Opens READERS sockets, sends REQUEST (a whole handshake) on each, then each line of SAY as a
 * message, and waits until each has had a message that holds READY. Messages are counted by their
 * marks, "#" number "#", which every socket must get from 1 on, each once and in order.
 *
 * The publisher is the server of process PID: for each number the descriptor FEED is given one
 * LINE (in turn, with "#" replaced by the mark; "." without any). BUFFER is SO_RCVBUF, 0 the
 * system's own. On stdin, a line each; the answer to each is one line of JSON:
 *
 *   saturated MARKS WINDOW STEP   WINDOW are under way, and STEP follow when all have STEP more
 *   paced MARKS PER_SECOND        each at its time, whatever the readers have
 *   stall                         read nothing any more
 *
 * `cpu` is what the process PID used meanwhile, kernel included; `p50`, `p99`, `max` are the
 * microseconds from the line to each socket.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 20, EVENTS = 256, SENT = 1 << 16, COMMAND = 256, PATIENCE_MS = 60000 };
enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

struct reader {
    int fd;
    int ready;
    uint64_t last;   /* the newest mark */
    char *rest;      /* the beginning of a message that is not whole yet */
    size_t rest_size, rest_room;
};

static const char SILENCE[] = "nothing came for a minute";
static struct reader *readers;
static int reader_count, ready_count, feed_fd, poll_fd, timer_fd;
static const char *ready_text;
static char **lines;
static int line_count;
static clockid_t server_clock;

static uint64_t fed;            /* the newest mark that was asked for */
static uint64_t sent_at[SENT];  /* when, in ns, by mark */
static uint64_t marks, bytes;   /* of this pass */
static uint64_t goal;           /* when all have it, the pass goes on */
static int at_goal;
static int awake;               /* never sleep: to be woken up costs who sends, on one machine */
static uint32_t *delays;        /* in us */
static size_t delay_count, delay_room;

static _Noreturn void fail(const char *what, const char *more) {
    printf("{\"error\": \"%s%s\"}\n", what, more);
    fflush(stdout);
    exit(1);
}

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    if (clock_gettime(clock, &now)) fail("the server has ended", "");
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- what a socket gets ------------------------------------------------------------------------ */

static void send_message(int fd, int opcode, const char *payload, size_t size) {
    char frame[65536 + 8];
    size_t at = 2;
    if (size > 65535) fail("a message is too long to be sent", "");
    frame[0] = (char)(0x80 | opcode);
    if (size < 126) frame[1] = (char)(0x80 | size);
    else frame[1] = (char)(0x80 | 126), frame[2] = (char)(size >> 8), frame[3] = (char)size, at = 4;
    memset(frame + at, 0, 4); /* a mask of zeros changes nothing */
    memcpy(frame + at + 4, payload, size);
    if (send(fd, frame, at + 4 + size, MSG_NOSIGNAL) < 0) fail("a socket takes nothing", "");
}

static void take_mark(struct reader *one, uint64_t mark, uint64_t now) {
    if (mark != one->last + 1) {
        char told[80];
        sprintf(told, "%llu after %llu", (unsigned long long)mark, (unsigned long long)one->last);
        fail("a mark out of order: ", told);
    }
    one->last = mark, marks++;
    if (mark == goal) at_goal++;
    if (delay_count == delay_room) {
        delay_room = delay_room ? 2 * delay_room : 1 << 16;
        delays = realloc(delays, delay_room * sizeof *delays);
    }
    delays[delay_count++] = (uint32_t)((now - sent_at[mark % SENT]) / 1000);
}

static void take_text(struct reader *one, const char *text, size_t size, uint64_t now) {
    const char *end = text + size, *at = text;
    if (!one->ready && memmem(text, size, ready_text, strlen(ready_text))) one->ready = 1, ready_count++;
    /* Engine.IO asks in a message of its own whether somebody is there. */
    if (size == 1 && *text == '2') send_message(one->fd, TEXT, "3", 1);
    while (at < end && (at = memchr(at, '#', (size_t)(end - at)))) {
        uint64_t mark = 0;
        const char *digit = ++at;
        while (digit < end && *digit >= '0' && *digit <= '9') mark = 10 * mark + (uint64_t)(*digit++ - '0');
        if (digit > at && digit < end && *digit == '#') {
            take_mark(one, mark, now);
            at = digit + 1;
        }
    }
}

/* The bytes that the first whole message takes; 0 when none is whole. */
static size_t take_message(struct reader *one, const uint8_t *data, size_t size, uint64_t now) {
    size_t header = 2;
    if (size < header) return 0;
    uint64_t length = data[1];
    if (data[1] & 0x80 || !(data[0] & 0x80)) fail("a masked frame, or a fragment", "");
    if (length == 126) header = 4;
    if (length == 127) header = 10;
    if (size < header) return 0;
    if (header > 2) {
        length = 0;
        for (size_t i = 2; i < header; i++) length = length << 8 | data[i];
    }
    if (length > ROOM) fail("a message is too long", "");
    if (size < header + length) return 0;
    const char *payload = (const char *)data + header;
    switch (data[0] & 15) {
    case TEXT: take_text(one, payload, length, now); break;
    case PING: send_message(one->fd, PONG, payload, length); break;
    case PONG: break;
    case CLOSE: fail("the server closed a socket", "");
    default: fail("a strange frame", "");
    }
    return header + length;
}

static void keep(struct reader *one, const char *data, size_t size) {
    if (size > one->rest_room) {
        one->rest_room = size;
        one->rest = realloc(one->rest, size);
    }
    if (size) memcpy(one->rest, data, size);
    one->rest_size = size;
}

static void take(struct reader *one) {
    static char room[3 * ROOM];
    size_t size = one->rest_size, at = 0, taken;
    if (size) memcpy(room, one->rest, size);
    ssize_t got = recv(one->fd, room + size, ROOM, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) fail("the server ended a connection", "");
    bytes += (uint64_t)got, size += (size_t)got;
    uint64_t now = nanoseconds(CLOCK_MONOTONIC);
    while ((taken = take_message(one, (uint8_t *)room + at, size - at, now))) at += taken;
    keep(one, room + at, size - at);
}

/* --- what the publisher is told ---------------------------------------------------------------- */

static void feed(uint64_t count) {
    static char text[1 << 18];
    size_t size = 0;
    uint64_t now = nanoseconds(CLOCK_MONOTONIC);
    if (!line_count && count > sizeof text) fail("too much to ask for at once", "");
    for (uint64_t i = 0; i < count; i++) {
        sent_at[++fed % SENT] = now;
        if (!line_count) text[size++] = '.';
        else {
            const char *line = lines[fed % (uint64_t)line_count], *mark = strchr(line, '#');
            if (size + strlen(line) + 32 > sizeof text) fail("too much to say at once", "");
            size += (size_t)sprintf(text + size, "%.*s#%llu#%s\n", (int)(mark - line), line,
                                    (unsigned long long)fed, mark + 1);
        }
        if (size > sizeof text / 2 || i + 1 == count) {
            if (write(feed_fd, text, size) != (ssize_t)size) fail("the server takes no more", "");
            size = 0;
        }
    }
}

/* --- one pass ---------------------------------------------------------------------------------- */

static void set_goal(uint64_t mark) {
    goal = mark, at_goal = 0;
    for (int i = 0; i < reader_count; i++) at_goal += readers[i].last >= mark;
}

static void pace(uint64_t per_second) {
    uint64_t each = per_second ? 1000000000u / per_second : 0;
    struct timespec time = {.tv_sec = (time_t)(each / 1000000000u), .tv_nsec = (long)(each % 1000000000u)};
    struct itimerspec spec = {.it_interval = time, .it_value = time};
    timerfd_settime(timer_fd, 0, &spec, NULL);
}

static int ascending(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static uint32_t quantile(double share) {
    return delay_count ? delays[(size_t)(share * (double)(delay_count - 1))] : 0;
}

static void report(uint64_t began, uint64_t cpu) {
    double wall = (double)(nanoseconds(CLOCK_MONOTONIC) - began) / 1e9;
    double used = (double)(nanoseconds(server_clock) - cpu) / 1e9;
    qsort(delays, delay_count, sizeof *delays, ascending);
    printf("{\"readers\": %d, \"marks\": %llu, \"bytes\": %llu, \"wall\": %.6f, \"cpu\": %.9f, "
           "\"p50\": %u, \"p99\": %u, \"max\": %u}\n",
           reader_count, (unsigned long long)marks, (unsigned long long)bytes, wall, used,
           quantile(.5), quantile(.99), quantile(1));
    fflush(stdout);
}

static void watch_the_silence(int found) {
    static uint64_t since;
    static uint32_t looks;
    if (found) since = 0, looks = 0;
    else if (++looks % 65536 == 0) {
        uint64_t now = nanoseconds(CLOCK_MONOTONIC);
        if (since == 0) since = now;
        if (now - since > PATIENCE_MS * 1000000ull) fail(SILENCE, "");
    }
}

/* Read what there is; the expirations of the timer, or 0. */
static uint64_t look(int *commanded) {
    struct epoll_event events[EVENTS];
    uint64_t expired = 0;
    int found = epoll_wait(poll_fd, events, EVENTS, awake ? 0 : PATIENCE_MS);
    if (awake) watch_the_silence(found);
    else if (found == 0 && commanded == NULL) fail(SILENCE, "");
    for (int i = 0; i < found; i++) {
        if (events[i].data.ptr == &timer_fd) {
            if (read(timer_fd, &expired, sizeof expired) < 0) expired = 0;
        } else if (events[i].data.ptr == NULL) {
            if (commanded) *commanded = 1;
        } else {
            take(events[i].data.ptr);
        }
    }
    return expired;
}

static void begin(uint64_t *began, uint64_t *cpu) {
    marks = bytes = 0, delay_count = 0;
    *cpu = nanoseconds(server_clock), *began = nanoseconds(CLOCK_MONOTONIC);
}

static void saturated(uint64_t count, uint64_t window, uint64_t step) {
    uint64_t began, cpu, end = fed + count;
    if (step == 0 || window < step || window > SENT) fail("not such a window", "");
    awake = 1;
    begin(&began, &cpu);
    set_goal(step < count ? fed + step : end);
    feed(window < count ? window : count);
    for (;;) {
        uint64_t more = 0;
        while (at_goal == reader_count) {
            if (goal == end) {
                report(began, cpu);
                awake = 0;
                return;
            }
            set_goal(end - goal > step ? goal + step : end);
            more += step;
        }
        feed(end - fed < more ? end - fed : more);
        look(NULL);
    }
}

static void paced(uint64_t count, uint64_t per_second) {
    uint64_t began, cpu, end = fed + count;
    if (per_second == 0) fail("not such a pace", "");
    begin(&began, &cpu);
    set_goal(end);
    pace(per_second);
    while (at_goal < reader_count) {
        uint64_t due = look(NULL), left = end - fed;
        if (due && left) feed(due < left ? due : left);
        if (due >= left) pace(0);
    }
    report(began, cpu);
}

static void stall(void) {
    for (int i = 0; i < reader_count; i++) epoll_ctl(poll_fd, EPOLL_CTL_DEL, readers[i].fd, NULL);
    printf("{\"stalled\": %d}\n", reader_count);
    fflush(stdout);
}

static void obey(void) {
    static char text[COMMAND];
    char word[16];
    unsigned long long one = 0, two = 0, three = 0;
    ssize_t got = read(STDIN_FILENO, text, sizeof text - 1);
    if (got <= 0) exit(0);
    text[got] = 0;
    sscanf(text, "%15s %llu %llu %llu", word, &one, &two, &three);
    if (!strcmp(word, "saturated")) saturated(one, two, three);
    else if (!strcmp(word, "paced")) paced(one, two);
    else if (!strcmp(word, "stall")) stall();
    else fail("no such word: ", word);
}

/* --- opening ----------------------------------------------------------------------------------- */

static void handshake(struct reader *one, int port, int buffer, const char *request) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    char answer[4096];
    size_t size = 0;
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (buffer) setsockopt(one->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (one->fd < 0 || connect(one->fd, (struct sockaddr *)&address, sizeof address))
        fail("cannot connect: ", strerror(errno));
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    send(one->fd, request, strlen(request), MSG_NOSIGNAL);
    while (size < 4 || memcmp(answer + size - 4, "\r\n\r\n", 4)) { /* not a byte more */
        if (size == sizeof answer || recv(one->fd, answer + size, 1, 0) != 1) fail("no handshake", "");
        size++;
    }
    if (memcmp(answer, "HTTP/1.1 101 ", 13)) {
        answer[15] = 0;
        fail("refused with ", answer + 9);
    }
}

static void say(int fd, const char *text) {
    while (*text) {
        size_t size = strcspn(text, "\n");
        send_message(fd, TEXT, text, size);
        text += size + (text[size] == '\n');
    }
}

static void watch(int fd, void *data) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event)) fail("cannot watch: ", strerror(errno));
}

int main(int count, char **words) {
    if (count < 9) return fprintf(stderr, "see the head of generator.c\n"), 2;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    reader_count = atoi(words[2]);
    server_clock = (~(clockid_t)atoi(words[3]) << 3) | 2; /* CPUCLOCK_SCHED of that process */
    feed_fd = atoi(words[4]);
    ready_text = words[7];
    lines = words + 9, line_count = count - 9;
    for (int i = 0; i < line_count; i++)
        if (!strchr(lines[i], '#')) fail("a line without a mark", "");
    readers = calloc((size_t)reader_count + 1, sizeof *readers);
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    for (int i = 0; i < reader_count; i++) {
        handshake(&readers[i], atoi(words[1]), atoi(words[5]), words[6]);
        watch(readers[i].fd, &readers[i]);
        say(readers[i].fd, words[8]);
    }
    watch(timer_fd, &timer_fd);
    while (ready_count < reader_count) look(NULL);
    printf("{\"ready\": %d}\n", ready_count);
    fflush(stdout);
    watch(STDIN_FILENO, NULL);
    for (;;) {
        int commanded = 0;
        look(&commanded);
        if (commanded) obey();
    }
}
