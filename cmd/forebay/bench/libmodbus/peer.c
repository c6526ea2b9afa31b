/* What libmodbus does, for `forebay bench modbus`: reads of 125 holding registers
   from unit 1.

       peer slave                 listens on a free port of 127.0.0.1, prints it,
                                  and serves one connection after the other
       peer client PORT SECONDS   reads for so long, prints reads per second */
#include <arpa/inet.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { COUNT = 125 };

static int slave(void)
{
    modbus_t *ctx = modbus_new_tcp("127.0.0.1", 0);
    modbus_mapping_t *map = modbus_mapping_new(0, 0, COUNT, 0);
    struct sockaddr_in here;
    socklen_t size = sizeof here;
    int listener;
    if (ctx == NULL || map == NULL)
        return 1;
    listener = modbus_tcp_listen(ctx, 1);
    if (listener < 0 || getsockname(listener, (struct sockaddr *)&here, &size) < 0)
        return 1;
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    while (modbus_tcp_accept(ctx, &listener) >= 0) {
        unsigned char query[MODBUS_TCP_MAX_ADU_LENGTH];
        int n;
        while ((n = modbus_receive(ctx, query)) >= 0)
            if (n > 0)
                modbus_reply(ctx, query, n, map);
        modbus_close(ctx);
    }
    return 1;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int client(int port, double seconds)
{
    modbus_t *ctx = modbus_new_tcp("127.0.0.1", port);
    uint16_t registers[COUNT];
    long reads = 0;
    double begin;
    if (ctx == NULL || modbus_set_slave(ctx, 1) < 0 || modbus_connect(ctx) < 0)
        return 1;
    begin = now();
    while (now() - begin < seconds) {
        if (modbus_read_registers(ctx, 0, COUNT, registers) != COUNT)
            return 1;
        reads++;
    }
    printf("%f\n", reads / (now() - begin));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "slave") == 0)
        return slave();
    if (argc == 4 && strcmp(argv[1], "client") == 0)
        return client(atoi(argv[2]), atof(argv[3]));
    return 2;
}
