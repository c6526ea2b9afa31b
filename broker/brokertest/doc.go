// Package brokertest is what tests of the broker share: a durable log that becomes durable when told (Log), and
// control packets as readable lines (Parse, Format). It is imported by tests only. Nothing in it is safe for more than
// one goroutine; mistakes of a test are panics.
package brokertest
