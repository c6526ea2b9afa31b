"""A Modbus slave (pymodbus) for the end-to-end tests.

    slave.py tcp           listens on a free port of 127.0.0.1
    slave.py rtu_over_tcp, ascii_over_tcp, udp
                           likewise, with other frames or datagrams
    slave.py tls CERTIFICATE KEY CA
                           likewise, and wants a certificate of CA
    slave.py rtu DEVICE    answers on a serial port
    slave.py ascii DEVICE  likewise, with ASCII frames

The values come as JSON on standard input, a list of {unit, table, address,
format, order, value}: `format` is a struct code, so that the encoding is
Python's own and not the one under test. Prints "ready [PORT]" once it answers.
A line "get UNIT TABLE ADDRESS" on standard input prints "register VALUE", the raw one.
"""
import asyncio
import json
import ssl
import struct
import sys

from pymodbus.datastore import (
    ModbusSequentialDataBlock,
    ModbusServerContext,
    ModbusSlaveContext,
)
from pymodbus.server.async_io import (
    ModbusSerialServer,
    ModbusTcpServer,
    ModbusTlsServer,
    ModbusUdpServer,
)
from pymodbus.transaction import (
    ModbusAsciiFramer,
    ModbusRtuFramer,
    ModbusSocketFramer,
)

FUNCTION = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


def registers(value, code, order):
    """The registers of one value: big-endian words, then swapped as ordered."""
    data = struct.pack(">" + code, value)
    words = [data[i : i + 2] for i in range(0, len(data), 2)]
    if order in ("CDAB", "DCBA"):
        words.reverse()
    if order in ("BADC", "DCBA"):
        words = [w[::-1] for w in words]
    return [struct.unpack(">H", w)[0] for w in words]


def image(tags):
    """One slave context per unit id. Only addresses 0 to 199 exist."""
    units = {}
    for tag in tags:
        unit = units.setdefault(
            tag["unit"],
            ModbusSlaveContext(
                di=ModbusSequentialDataBlock(0, [0] * 200),
                co=ModbusSequentialDataBlock(0, [0] * 200),
                hr=ModbusSequentialDataBlock(0, [0] * 200),
                ir=ModbusSequentialDataBlock(0, [0] * 200),
                zero_mode=True,
            ),
        )
        if tag["table"] in ("coil", "discrete"):
            values = [int(tag["value"])]
        else:
            values = registers(tag["value"], tag["format"], tag.get("order", "ABCD"))
        unit.setValues(FUNCTION[tag["table"]], tag["address"], values)
    return ModbusServerContext(slaves=units, single=False)


async def answer_questions(context):
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        _, unit, table, address = line.decode().split()
        value = context[int(unit)].getValues(FUNCTION[table], int(address), 1)[0]
        print("register", value, flush=True)


async def main():
    context = image(json.loads(sys.stdin.readline()))
    kind, here = sys.argv[1], ("127.0.0.1", 0)
    framer = {
        "ascii": ModbusAsciiFramer,
        "ascii_over_tcp": ModbusAsciiFramer,
        "rtu": ModbusRtuFramer,
        "rtu_over_tcp": ModbusRtuFramer,
    }.get(kind, ModbusSocketFramer)
    if kind == "udp":
        server = ModbusUdpServer(context, framer=framer, address=here)
        serving = asyncio.create_task(server.serve_forever())
        await server.serving
        print("ready", server.protocol.get_extra_info("sockname")[1], flush=True)
    elif kind not in ("rtu", "ascii"):
        if kind == "tls":
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(sys.argv[2], sys.argv[3])
            tls.load_verify_locations(sys.argv[4])
            tls.verify_mode = ssl.CERT_REQUIRED
            server = ModbusTlsServer(context, framer=framer, address=here, sslctx=tls)
        else:
            server = ModbusTcpServer(context, framer=framer, address=here)
        serving = asyncio.create_task(server.serve_forever())
        await server.serving
        print("ready", server.server.sockets[0].getsockname()[1], flush=True)
    else:
        server = ModbusSerialServer(
            context,
            framer=framer,
            port=sys.argv[2],
            baudrate=115200,
            ignore_missing_slaves=True,
        )
        await server.start()
        serving = asyncio.create_task(server.serve_forever())
        print("ready", flush=True)
    questions = asyncio.create_task(answer_questions(context))
    await asyncio.wait([serving, questions], return_when=asyncio.FIRST_COMPLETED)


asyncio.run(main())
