package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

// addressSearch finds which addresses of a table a unit has.
type addressSearch struct {
	table       string
	function    byte
	first, last int
	most        int // of one read

	asked  int
	found  int
	ranges [][2]int // first and last
}

// tableFunctions are the functions that read, by table, with the most of one
// read: Modbus §6.1 to §6.4.
var tableFunctions = map[string]struct {
	function byte
	most     int
}{"coil": {1, 2000}, "discrete": {2, 2000}, "holding": {3, 125}, "input": {4, 125}}

// parseAddresses reads TABLE or TABLE:FROM-TO.
func parseAddresses(text string) (*addressSearch, error) {
	wrong := fmt.Errorf("%q is not TABLE:FROM-TO: write for example holding:0-999, with coil, discrete, input or holding", text)
	table, span, given := strings.Cut(text, ":")
	f, ok := tableFunctions[table]
	if !ok {
		return nil, wrong
	}
	s := &addressSearch{table: table, function: f.function, most: f.most, last: 999}
	if !given {
		return s, nil
	}
	from, to, ok := strings.Cut(span, "-")
	first, err := strconv.ParseUint(from, 10, 16)
	last, errTo := strconv.ParseUint(to, 10, 16)
	if !ok || err != nil || errTo != nil || first > last {
		return nil, wrong
	}
	s.first, s.last = int(first), int(last)
	return s, nil
}

// searchAddresses prints which addresses the one unit has.
func (s *scanner) searchAddresses(cmd *cobra.Command, ids []int) error {
	search, err := parseAddresses(s.addresses)
	if err != nil {
		return usage(cmd, "--addresses: %v", err)
	}
	if len(ids) != 1 {
		return usage(cmd, "--addresses: which unit? give one with --units ID")
	}
	s.unit = ids[0]
	client, err := s.client(cmd, s.unitConfig(anyTag()))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := withInterrupt()
	defer cancel()
	show := progressOn(cmd.ErrOrStderr())
	for first := search.first; first <= search.last && err == nil; first += search.most {
		last := min(first+search.most-1, search.last)
		err = search.bisect(first, last, func(first, last int) (bool, error) {
			show.show("%s %d of %d to %d, %d found", search.table, first, search.first, search.last, search.found)
			return s.has(ctx, client, search, first, last)
		})
	}
	show.clear()
	for _, r := range search.ranges {
		text := fmt.Sprintf("%s %d", search.table, r[0])
		if r[1] > r[0] {
			text += fmt.Sprintf("-%d", r[1])
		}
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), text); err != nil {
			return err
		}
	}
	switch {
	case err != nil:
		return failed(cmd, s.explain(ctx, err))
	case len(search.ranges) == 0:
		return failed(cmd, fmt.Errorf("unit %d has no %s from %d to %d", s.unit, search.table, search.first, search.last))
	}
	return nil
}

// bisect asks for a range and, where that is refused, for its halves.
func (a *addressSearch) bisect(first, last int, has func(first, last int) (bool, error)) error {
	ok, err := has(first, last)
	a.asked++
	switch {
	case err != nil:
		return err
	case ok:
		a.found += last - first + 1
		if n := len(a.ranges); n > 0 && a.ranges[n-1][1] == first-1 {
			a.ranges[n-1][1] = last
		} else {
			a.ranges = append(a.ranges, [2]int{first, last})
		}
		return nil
	case first == last:
		return nil
	}
	middle := (first + last) / 2
	if err := a.bisect(first, middle, has); err != nil {
		return err
	}
	return a.bisect(middle+1, last, has)
}

// addressTries is how often a unit that is silent once is asked.
const addressTries = 3

// has reads a range and reports whether the unit lets that happen.
func (s *scanner) has(ctx context.Context, client *modbus.Client, a *addressSearch, first, last int) (bool, error) {
	request := binary.BigEndian.AppendUint16([]byte{a.function}, uint16(first))
	request = binary.BigEndian.AppendUint16(request, uint16(last-first+1))
	for try := 1; ; try++ {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(scanPause):
		}
		answer, _, err := client.Ask(ctx, byte(s.unit), request)
		if errors.Is(err, modbus.ErrTimeout) && try < addressTries && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return false, err
		}
		if answer[0] == a.function {
			return true, nil
		}
		switch code := answer[len(answer)-1]; code {
		case 2, 3, 4: // no such address, not so many, or (with some devices) the same in other words
			return false, nil
		default:
			return false, &modbus.ExceptionError{Function: a.function, Code: code}
		}
	}
}
