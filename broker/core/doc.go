// Package core is the broker as a state machine: connections are streams of bytes, time is told by Tick, and
// durability by Durable. It has no sockets, files, clocks, locks or goroutines. One goroutine, the loop, calls
// everything, so every conversation can be replayed exactly.
//
// # The order of calls
//
// New, Restore for every row, Restored once; then, round after round: Tick, any number of Accept, Receive, Lost,
// Durable, QueueReady, LoginResult, Publish, and at the end Flush.
package core
