// Command forebay is an MQTT edge gateway: a broker for the devices on site,
// Modbus pollers, and bridges to brokers elsewhere that lose nothing they
// acknowledged.
//
// Exit codes: 0 success, 1 failure, 2 wrong use of the command line, 78 (as in
// sysexits.h) the configuration is wrong.
package main
