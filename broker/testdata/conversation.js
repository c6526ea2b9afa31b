// conversation.js TRANSPORT PORT CA VERSION: what TestMQTTjs expects of the broker, with MQTT.js of npm.
// TRANSPORT is tcp, tls, ws or wss, VERSION 4 or 5. It prints what is wrong and fails.
const fs = require("fs");
const mqtt = require("mqtt");

const [transport, port, ca, version] = [process.argv[2], process.argv[3], process.argv[4], Number(process.argv[5])];
const patience = 20000; // milliseconds

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`${what} does not come`)), patience); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function connect(name, options = {}, present = false) {
  const scheme = { tcp: "mqtt", tls: "mqtts", ws: "ws", wss: "wss" }[transport];
  const path = transport.startsWith("ws") ? "/mqtt" : "";
  const client = mqtt.connect(`${scheme}://127.0.0.1:${port}${path}`, {
    clientId: `${transport}-${version}-${name}`, protocolVersion: version, reconnectPeriod: 0, ca: [fs.readFileSync(ca)], ...options,
  });
  const messages = [], waiting = [];
  client.on("message", (topic, payload, packet) => {
    const m = [topic, packet.qos, packet.retain, payload.toString()].join(" ");
    waiting.length > 0 ? waiting.shift()(m) : messages.push(m);
  });
  client.expect = async (...want) => {
    const next = messages.length > 0 ? messages.shift() : new Promise((resolve) => waiting.push(resolve));
    const got = await within(next, want.join(" "));
    if (got !== want.join(" ")) throw new Error(`got ${got}, want ${want.join(" ")}`);
  };
  const connack = await within(new Promise((resolve, reject) => { client.on("connect", resolve); client.on("error", reject); }), "CONNACK");
  if (connack.sessionPresent !== present) throw new Error(`session present: ${connack.sessionPresent}`);
  return client;
}

async function converse() {
  const base = `js/${transport}/${version}`;
  const lasting = { clean: false };
  if (version === 5) lasting.properties = { sessionExpiryInterval: 3600 };
  const publisher = await connect("publisher");
  const publish = (topic, payload, options) => within(publisher.publishAsync(`${base}/${topic}`, payload, options), `the acknowledgement of ${topic}`);
  let subscriber = await connect("subscriber", lasting);
  await within(subscriber.subscribeAsync(`${base}/#`, { qos: 2 }), "SUBACK");
  for (let qos = 0; qos < 3; qos++) {
    await publish(qos, `hello ${qos}`, { qos });
    await subscriber.expect(`${base}/${qos}`, qos, false, `hello ${qos}`);
  }

  await publish("kept", "still here", { qos: 1, retain: true });
  await subscriber.expect(`${base}/kept`, 1, false, "still here");
  const late = await connect("late");
  await within(late.subscribeAsync(`${base}/kept`, { qos: 1 }), "SUBACK");
  await late.expect(`${base}/kept`, 1, true, "still here");
  await late.endAsync();
  await publish("kept", "", { qos: 1, retain: true });
  await subscriber.expect(`${base}/kept`, 1, false, "");

  const dying = await connect("dying", { will: { topic: `${base}/will`, payload: "gone", qos: 1, retain: false } });
  dying.stream.destroy();
  await subscriber.expect(`${base}/will`, 1, false, "gone");

  await subscriber.endAsync();
  await publish("away", "one", { qos: 1 });
  await publish("away", "two", { qos: 2 });
  subscriber = await connect("subscriber", lasting, true);
  await subscriber.expect(`${base}/away`, 1, false, "one");
  await subscriber.expect(`${base}/away`, 2, false, "two");
  await subscriber.endAsync();
  await publisher.endAsync();
}

converse().then(() => process.exit(0), (err) => { console.error(err.message); process.exit(1); });
