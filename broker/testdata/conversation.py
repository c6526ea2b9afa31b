# conversation.py TRANSPORT PORT CA VERSION: what TestPahoPython expects of the broker, with Debian's python3-paho-mqtt.
# TRANSPORT is tcp, tls, ws or wss, VERSION 4 or 5. It prints what is wrong and fails.
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

transport, port, ca, version = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
PATIENCE = 20  # seconds


class Client:
    """One client whose events come out of queues."""

    def __init__(self, name, clean=True, will=None):
        web = transport in ("ws", "wss")
        options = {"transport": "websockets" if web else "tcp", "protocol": version}
        if version == mqtt.MQTTv311:
            options["clean_session"] = clean
        self.clean = clean
        self.paho = mqtt.Client(f"{transport}-{version}-{name}", **options)
        if web:
            self.paho.ws_set_options(path="/mqtt")
        if transport in ("tls", "wss"):
            self.paho.tls_set(ca_certs=ca)
        if will:
            self.paho.will_set(*will)
        self.connected, self.subscribed, self.messages = queue.Queue(), queue.Queue(), queue.Queue()
        self.paho.on_connect = lambda c, d, flags, reason, *more: self.connected.put((int(flags["session present"]), str(reason)))
        self.paho.on_subscribe = lambda c, d, mid, granted, *more: self.subscribed.put(mid)
        self.paho.on_message = lambda c, d, m: self.messages.put((m.topic, m.qos, m.retain, m.payload.decode()))

    def connect(self, present=0):
        if version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            if not self.clean:
                properties.SessionExpiryInterval = 3600
            self.paho.connect("127.0.0.1", port, clean_start=self.clean, properties=properties)
        else:
            self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        got, reason = self.connected.get(timeout=PATIENCE)
        if got != present or reason not in ("0", "Success"):
            sys.exit(f"CONNACK: session present {got}, reason {reason}")
        return self

    def subscribe(self, topic, qos):
        self.paho.subscribe(topic, qos)
        self.subscribed.get(timeout=PATIENCE)

    def publish(self, topic, payload, qos, retain=False):
        sent = self.paho.publish(topic, payload, qos, retain)
        sent.wait_for_publish(PATIENCE)
        if not sent.is_published():
            sys.exit(f"{topic} with QoS {qos} is not acknowledged")

    def expect(self, *want):
        got = self.messages.get(timeout=PATIENCE)
        if got != want:
            sys.exit(f"got {got}, want {want}")

    def leave(self):
        self.paho.disconnect()
        self.paho.loop_stop()


base = f"py/{transport}/{version}"
publisher = Client("publisher").connect()
subscriber = Client("subscriber", clean=False).connect()
subscriber.subscribe(base + "/#", 2)
for qos in range(3):
    publisher.publish(f"{base}/{qos}", f"hello {qos}", qos)
    subscriber.expect(f"{base}/{qos}", qos, False, f"hello {qos}")

publisher.publish(base + "/kept", "still here", 1, retain=True)
subscriber.expect(base + "/kept", 1, False, "still here")
late = Client("late").connect()
late.subscribe(base + "/kept", 1)
late.expect(base + "/kept", 1, True, "still here")
late.leave()
publisher.publish(base + "/kept", "", 1, retain=True)
subscriber.expect(base + "/kept", 1, False, "")

dying = Client("dying", will=(base + "/will", "gone", 1)).connect()
dying.paho.loop_stop()
dying.paho.socket().close()
subscriber.expect(base + "/will", 1, False, "gone")

subscriber.leave()
publisher.publish(base + "/away", "one", 1)
publisher.publish(base + "/away", "two", 2)
subscriber.connect(present=1)
subscriber.expect(base + "/away", 1, False, "one")
subscriber.expect(base + "/away", 2, False, "two")
subscriber.leave()
publisher.leave()
