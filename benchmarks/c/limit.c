/* The limit: what a WebSocket fan-out costs when there is nothing but the kernel.
 *
 *   limit send|batch HEAD TAIL
 *
 * An epoll server that keeps one prepared message and hands it to every open socket with one
 * send() each. `send` makes a send() for each message and socket; `batch` joins the messages that
 * are asked for together, and makes one for each socket. Each byte on stdin asks for one message:
 * HEAD "#" number "# " TAIL. The first line of stdout says how to connect. It ends with stdin.
 *
 * Sockets block in send(): whoever measures keeps a window that a socket's buffer holds.
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
#include <unistd.h>

enum { MOST_SOCKETS = 65536, REQUEST = 4096, FEED = 65536, EVENTS = 256 };

static int panes[MOST_SOCKETS], open_panes;
static char *requests[MOST_SOCKETS]; /* by descriptor: a handshake that is not whole yet */
static const char *head, *tail;
static size_t head_size, tail_size;
static uint64_t number;

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* --- SHA-1 and base64, for the handshake (RFC 6455, 4.2.2) ------------------------------------ */

static uint32_t rotated(uint32_t word, int by) { return word << by | word >> (32 - by); }

static void sha1_block(uint32_t state[5], const uint8_t block[64]) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
        else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t next = rotated(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotated(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* Of a text of at most 119 bytes: it fits two blocks with its padding. */
static void sha1(const char *text, uint8_t digest[20]) {
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t blocks[128] = {0};
    size_t size = strlen(text), last = size < 56 ? 64 : 128;
    memcpy(blocks, text, size);
    blocks[size] = 0x80;
    for (int i = 0; i < 8; i++) blocks[last - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < last; at += 64) sha1_block(state, blocks + at);
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const uint8_t digest[20], char text[29]) {
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t padded[21] = {0};
    memcpy(padded, digest, 20);
    for (int i = 0; i < 7; i++) {
        uint32_t bits = padded[3 * i] << 16 | padded[3 * i + 1] << 8 | padded[3 * i + 2];
        for (int j = 0; j < 4; j++) text[4 * i + j] = set[bits >> (18 - 6 * j) & 63];
    }
    text[27] = '=', text[28] = 0;
}

/* --- one socket -------------------------------------------------------------------------------- */

static void send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) return; /* it has gone: its reader finds out */
        data += sent, size -= (size_t)sent;
    }
}

static size_t frame_header(char *at, size_t size) {
    at[0] = (char)0x81;
    if (size < 126) return at[1] = (char)size, 2;
    at[1] = 126, at[2] = (char)(size >> 8), at[3] = (char)size;
    return 4;
}

static void accepted(int fd, const char *key) {
    char text[120], answer[200], frame[16];
    uint8_t digest[20];
    char accept[29];
    snprintf(text, sizeof text, "%.60s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(text, digest);
    base64(digest, accept);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                        accept);
    send_all(fd, answer, (size_t)size);
    panes[open_panes++] = fd;
    size_t header = frame_header(frame, 5);
    memcpy(frame + header, "ready", 5);
    send_all(fd, frame, header + 5);
}

static void dropped(int fd) {
    for (int i = 0; i < open_panes; i++)
        if (panes[i] == fd) {
            panes[i] = panes[--open_panes];
            break;
        }
    free(requests[fd]);
    requests[fd] = NULL;
    close(fd);
}

/* What a client says after its handshake (pongs) is read and thrown away. */
static void readable(int fd) {
    char scrap[REQUEST];
    char *request = requests[fd];
    if (request == NULL) {
        if (recv(fd, scrap, sizeof scrap, 0) <= 0) dropped(fd);
        return;
    }
    size_t had = strlen(request);
    ssize_t got = recv(fd, request + had, REQUEST - 1 - had, 0);
    if (got <= 0) {
        dropped(fd);
        return;
    }
    request[had + (size_t)got] = 0;
    if (strstr(request, "\r\n\r\n") == NULL) return;
    char *key = strcasestr(request, "\r\nSec-WebSocket-Key: ");
    if (key == NULL) {
        dropped(fd);
        return;
    }
    key += strlen("\r\nSec-WebSocket-Key: ");
    key[strcspn(key, "\r")] = 0;
    accepted(fd, key);
    free(request);
    requests[fd] = NULL;
}

/* --- publishing -------------------------------------------------------------------------------- */

static size_t next_frame(char *at) {
    char mark[32];
    size_t mark_size = (size_t)sprintf(mark, "#%llu# ", (unsigned long long)++number);
    size_t header = frame_header(at, head_size + mark_size + tail_size);
    memcpy(at + header, head, head_size);
    memcpy(at + header + head_size, mark, mark_size);
    memcpy(at + header + head_size + mark_size, tail, tail_size);
    return header + head_size + mark_size + tail_size;
}

static void publish(size_t messages, int joins, char *buffer) {
    size_t size = 0;
    for (size_t i = 0; i < messages; i++) {
        size += next_frame(buffer + size);
        if (joins && i + 1 < messages) continue;
        for (int pane = 0; pane < open_panes; pane++) send_all(panes[pane], buffer, size);
        size = 0;
    }
}

static int listening(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) die("listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void watch(int poll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

static void admit(int poll, int listener) {
    int on = 1, fd = accept(listener, NULL, NULL);
    if (fd < 0 || fd >= MOST_SOCKETS) die("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    requests[fd] = calloc(1, REQUEST);
    watch(poll, fd);
}

int main(int count, char **words) {
    if (count != 4) return fprintf(stderr, "limit send|batch HEAD TAIL\n"), 2;
    int joins = strcmp(words[1], "batch") == 0;
    head = words[2], tail = words[3];
    head_size = strlen(head), tail_size = strlen(tail);
    if (head_size + tail_size > 60000) return fprintf(stderr, "too long\n"), 2;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    static char feed[FEED];
    char *buffer = malloc((head_size + tail_size + 64) * FEED);
    struct epoll_event events[EVENTS];
    int poll = epoll_create1(0), listener = listening();
    watch(poll, listener);
    watch(poll, STDIN_FILENO);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                admit(poll, listener);
            } else if (fd == STDIN_FILENO) {
                ssize_t asked = read(fd, feed, sizeof feed);
                if (asked <= 0) return 0;
                publish((size_t)asked, joins, buffer);
            } else {
                readable(fd);
            }
        }
    }
}
