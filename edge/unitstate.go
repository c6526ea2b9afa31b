package edge

import (
	"fmt"
	"maps"
	"slices"

	"forebay/modbus"
)

// appendCounters appends the counters of a unit that was asked as a member of a
// JSON object.
func appendCounters(b []byte, c *modbus.UnitCounters) []byte {
	if counters := countersJSON(c); counters != nil {
		b = append(append(b, `,"counters":`...), counters...)
	}
	return b
}

// countersJSON returns the counters of a unit: all requests, and what is not
// zero of timeout, failure, late, stray, crc and exception_N. It is nil for a
// unit that was not asked.
func countersJSON(c *modbus.UnitCounters) []byte {
	if c.Requests == 0 {
		return nil
	}
	b := fmt.Appendf(nil, `{"request":%d`, c.Requests)
	for _, n := range []struct {
		name  string
		count uint64
	}{{"timeout", c.Timeouts}, {"failure", c.Failures}, {"late", c.Late}, {"stray", c.Stray}, {"crc", c.CRC}} {
		if n.count > 0 {
			b = fmt.Appendf(b, `,"%s":%d`, n.name, n.count)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(c.Exceptions)) {
		b = fmt.Appendf(b, `,"exception_%d":%d`, code, c.Exceptions[code])
	}
	return append(b, '}')
}
