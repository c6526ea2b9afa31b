// Package modbustest provides a Modbus slave with faults: late, missing, torn,
// doubled and wrong answers, over TCP, RTU and ASCII. Tests import it, the product does
// not.
//
// A [Slave] is served by the goroutine that calls one of its Serve methods, one
// per connection; they may share it. Its mutex guards the list of requests and
// is held for nothing else.
package modbustest
