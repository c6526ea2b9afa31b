// A Modbus TCP slave (npm modbus-serial) for the end-to-end tests. Register n of
// the holding table holds 3 n until it is written. Prints "ready PORT".
const { ServerTCP } = require("modbus-serial");
const net = require("net");

const registers = Array.from({ length: 200 }, (_, i) => 3 * i);
const probe = net.createServer().listen(0, "127.0.0.1", () => {
  const { port } = probe.address();
  probe.close(() => {
    const server = new ServerTCP(
      {
        getHoldingRegister: (address) => registers[address],
        setRegister: (address, value) => {
          registers[address] = value;
        },
      },
      { host: "127.0.0.1", port, unitID: 9 },
    );
    server.on("initialized", () => console.log("ready", port));
  });
});
