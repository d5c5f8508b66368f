/* A stand-in for a provider of pictures: one thread, epoll, HTTP/1.1 keep-alive, answers made beforehand.
 *
 *   upstream            listens on a free port of 127.0.0.1 and prints it on a line of its own
 *
 * POST .../images/generations  a picture of a few bytes, in base64; below /large one of LARGE_CHARS characters;
 *                              below /never no answer at all, until the caller goes away
 * GET /stats                   {"pictures": how many were asked for, but for those of /never}
 * Anything else is 404. A body travels with a Content-Length.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CALLERS_MAX 8192
#define LARGE_CHARS 1400000
#define SMALL_CHARS 600

typedef struct {
    char *bytes;
    size_t size;
} answer;

typedef struct {
    int used, busy, watches_write, closes;
    char *in;
    size_t in_size, in_room;
    const char *out;
    size_t out_size, sent;
    char own[256];
} caller;

static caller callers[CALLERS_MAX];
static int poller;
static answer small, large, not_found;
static unsigned long pictures;

static answer make_answer(const char *status, const char *body, size_t size) {
    char head[256];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status, size);
    answer made = {malloc(n + size), n + size};
    memcpy(made.bytes, head, n);
    memcpy(made.bytes + n, body, size);
    return made;
}

/* A PNG of 1024x1024 by its header, and then noise; `chars` is a multiple of 4. */
static answer make_picture(size_t chars) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const unsigned char head[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R', 0, 0, 4, 0, 0, 0, 4, 0};
    static const char before[] = "{\"created\":1700000000,\"data\":[{\"b64_json\":\"";
    static const char after[] = "\"}],\"usage\":{\"input_tokens\":12,\"output_tokens\":1056,\"total_tokens\":1068}}";
    size_t size = sizeof before - 1 + chars + sizeof after - 1;
    char *body = malloc(size + 1), *at = stpcpy(body, before);
    uint32_t noise = 2463534242u;
    for (size_t i = 0; i < chars / 4 * 3; i += 3) {
        uint32_t three = 0;
        for (size_t k = 0; k < 3; k++) {
            noise ^= noise << 13, noise ^= noise >> 17, noise ^= noise << 5;
            three = three << 8 | (i + k < sizeof head ? head[i + k] : noise & 0xff);
        }
        for (int shift = 18; shift >= 0; shift -= 6) *at++ = alphabet[three >> shift & 63];
    }
    strcpy(at, after);
    answer made = make_answer("200 OK", body, size);
    free(body);
    return made;
}

static void watch(int fd, uint32_t events, int operation) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    epoll_ctl(poller, operation, fd, &e);
    callers[fd].watches_write = (events & EPOLLOUT) != 0;
}

static void drop(int fd) {
    caller *c = &callers[fd];
    if (!c->used) return;
    epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
    c->used = 0;
}

static void push(int fd) {
    caller *c = &callers[fd];
    while (c->sent < c->out_size) {
        ssize_t k = send(fd, c->out + c->sent, c->out_size - c->sent, MSG_NOSIGNAL);
        if (k < 0 && errno == EAGAIN) {
            if (!c->watches_write) watch(fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return;
        }
        if (k < 0) {
            drop(fd);
            return;
        }
        c->sent += k;
    }
    if (c->watches_write) watch(fd, EPOLLIN, EPOLL_CTL_MOD);
    c->out = NULL;
    c->busy = 0;
    if (c->closes) drop(fd);
}

static void give(int fd, const char *bytes, size_t size) {
    caller *c = &callers[fd];
    c->out = bytes;
    c->out_size = size;
    c->sent = 0;
    push(fd);
}

static void handle(int fd, const char *path, size_t size) {
    caller *c = &callers[fd];
    c->busy = 1;
    if (memmem(path, size, "/images/generations", 19)) {
        if (!strncmp(path, "/never/", 7)) return;
        answer *picture = strncmp(path, "/large/", 7) ? &small : &large;
        pictures++;
        give(fd, picture->bytes, picture->size);
    } else if (size >= 6 && !strncmp(path, "/stats", 6)) {
        char body[64];
        int n = snprintf(body, sizeof body, "{\"pictures\":%lu}", pictures);
        int whole = snprintf(c->own, sizeof c->own, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", n, body);
        give(fd, c->own, whole);
    } else {
        give(fd, not_found.bytes, not_found.size);
    }
}

static void parse(int fd) {
    caller *c = &callers[fd];
    while (c->used && !c->busy && c->in_size) {
        char *end = memmem(c->in, c->in_size, "\r\n\r\n", 4);
        if (!end) return;
        size_t head = end + 4 - c->in, body = 0;
        c->closes = 0;
        for (char *line = memchr(c->in, '\n', head); line && line + 1 < end; line = memchr(line + 1, '\n', end - line)) {
            if (!strncasecmp(line + 1, "content-length:", 15)) body = strtoul(line + 16, NULL, 10);
            else if (!strncasecmp(line + 1, "connection: close", 17)) c->closes = 1;
        }
        if (c->in_size < head + body) return;
        char *path = memchr(c->in, ' ', head), *behind = path ? memchr(path + 1, ' ', end - path - 1) : NULL;
        if (!behind) {
            drop(fd);
            return;
        }
        handle(fd, path + 1, behind - path - 1);
        if (!c->used) return;
        c->in_size -= head + body;
        memmove(c->in, c->in + head + body, c->in_size);
    }
}

static void welcome(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= CALLERS_MAX) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        caller *c = &callers[fd];
        c->used = 1;
        c->busy = c->closes = 0;
        c->in_size = 0;
        c->out = NULL;
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void hear(int fd) {
    static char bytes[1 << 18];
    caller *c = &callers[fd];
    ssize_t k = recv(fd, bytes, sizeof bytes, 0);
    if (k < 0 && errno == EAGAIN) return;
    if (k <= 0) {
        drop(fd);
        return;
    }
    if (c->in_size + k > c->in_room) {
        c->in_room = 2 * (c->in_size + k);
        c->in = realloc(c->in, c->in_room);
    }
    memcpy(c->in + c->in_size, bytes, k);
    c->in_size += k;
    parse(fd);
}

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[512];
    signal(SIGPIPE, SIG_IGN);
    small = make_picture(SMALL_CHARS);
    large = make_picture(LARGE_CHARS);
    not_found = make_answer("404 Not Found", "{}", 2);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096) || getsockname(listener, (void *)&here, &size)) {
        perror("listen");
        return 1;
    }
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    poller = epoll_create1(0);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(poller, events, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                welcome(listener);
                continue;
            }
            if (callers[fd].used && (events[i].events & EPOLLOUT) && callers[fd].out) {
                push(fd);
                if (callers[fd].used) parse(fd);
            }
            if (callers[fd].used && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) hear(fd);
        }
    }
}
