/* A Modbus slave (libmodbus) for the end-to-end tests.

       slave tcp           listens on a free port of 127.0.0.1
       slave rtu DEVICE    answers on a serial port

   Register n of the holding and input tables holds 3 n, coils with an even
   address are on. Prints "ready [PORT]" once it answers unit 9. */
#include <arpa/inet.h>
#include <modbus.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REGISTERS = 200, UNIT = 9 };

int main(int argc, char **argv)
{
    int tcp = argc > 1 && strcmp(argv[1], "tcp") == 0;
    if (!tcp && argc != 3)
        return 2;
    modbus_t *ctx = tcp ? modbus_new_tcp("127.0.0.1", 0) : modbus_new_rtu(argv[2], 115200, 'E', 8, 1);
    modbus_mapping_t *map = modbus_mapping_new(REGISTERS, REGISTERS, REGISTERS, REGISTERS);
    if (ctx == NULL || map == NULL)
        return 1;
    for (int i = 0; i < REGISTERS; i++) {
        map->tab_registers[i] = map->tab_input_registers[i] = 3 * i;
        map->tab_bits[i] = i % 2 == 0;
    }
    modbus_set_slave(ctx, UNIT);
    int listener = -1;
    if (tcp) {
        struct sockaddr_in here;
        socklen_t size = sizeof here;
        listener = modbus_tcp_listen(ctx, 1);
        if (listener < 0 || getsockname(listener, (struct sockaddr *)&here, &size) < 0)
            return 1;
        printf("ready %d\n", ntohs(here.sin_port));
    } else {
        if (modbus_connect(ctx) < 0)
            return 1;
        puts("ready");
    }
    fflush(stdout);
    for (;;) {
        unsigned char query[MODBUS_TCP_MAX_ADU_LENGTH];
        if (tcp && modbus_tcp_accept(ctx, &listener) < 0)
            return 1;
        int n;
        while ((n = modbus_receive(ctx, query)) >= 0)
            if (n > 0)
                modbus_reply(ctx, query, n, map);
        if (tcp)
            modbus_close(ctx);
    }
}
