// Package packet is the MQTT codec, for server and client alike, and the rules of topics: every control packet of
// MQTT 3.1, 3.1.1 and 5.0, both ways. It has no sockets, clocks, logs or policy.
package packet
