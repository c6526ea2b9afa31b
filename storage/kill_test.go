package storage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKilledChild is the child of TestKill: it enqueues and drains, by turns more
// of this and of that, and reports on standard output what the log has promised,
// until it is killed.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv("FOREBAY_STORAGE_KILL")
	if dir == "" {
		return // not a test of its own
	}
	out := bufio.NewWriter(os.Stdout)
	safe := make(chan Seq, 1<<16)
	l, err := open(testConfig(dir), discard(), func(s Seq, err error) {
		if err != nil {
			panic(err)
		}
		safe <- s
	}, &directory{path: dir}, small())
	if err != nil {
		t.Fatal(err)
	}
	c := mustConsumer(t, l, "c", Limits{})
	first, err := strconv.Atoi(os.Getenv("FOREBAY_STORAGE_FIRST"))
	if err != nil {
		t.Fatal(err)
	}
	type promise struct {
		seq  Seq
		text string
	}
	var waiting []promise
	for _, n := range c.Released() {
		c.Ack(n) // PUBREL again, and its PUBCOMP
	}
	more := make(chan struct{}, 1)
	c.SetNotify(func() {
		select {
		case more <- struct{}{}:
		default:
		}
	})
	settle := func() (ok bool) {
		e, ok := c.Next()
		if !ok {
			return false
		}
		number := binary.BigEndian.Uint64(e.Message)
		// Said first: from now on it may or may not come again.
		fmt.Fprintln(out, "acked", number)
		out.Flush()
		if rand.IntN(3) == 0 { // once this is durable it must not
			waiting = append(waiting, promise{c.Received(e.N), fmt.Sprint("received ", number)})
		} else {
			c.Ack(e.N)
		}
		return true
	}
	tell := func() {
		for done := false; !done; {
			select {
			case s := <-safe:
				for len(waiting) > 0 && waiting[0].seq <= s {
					fmt.Fprintln(out, waiting[0].text)
					waiting = waiting[1:]
				}
				out.Flush()
			default:
				done = len(waiting) < 200
				if !done {
					time.Sleep(100 * time.Microsecond) // let the disk catch up
				}
			}
		}
	}
	for i := first; ; i++ {
		if c.Stats().Count > 600 { // nothing new then: segments come to their end
			for c.Stats().Count > 0 {
				if !settle() {
					<-more
				}
				tell()
			}
		}
		r := Record{Time: 1, Message: binary.BigEndian.AppendUint64(make([]byte, 0, 300), uint64(i)), Deliveries: []Delivery{{Consumer: c.ID(), Hold: i%2 == 0}}}
		r.Message = r.Message[:8+rand.IntN(290)]
		s, err := l.Append(&r)
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, promise{s, fmt.Sprint("safe ", i)})
		if rand.IntN(3) == 0 { // a backlog grows
			settle()
		}
		tell()
	}
}

// TestKill kills a process that uses the log, again and again: what was safe is
// there, what was received does not come back, and nothing is out of order.
func TestKill(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	dir := t.TempDir()
	first, promised := 0, 0
	safe, acked, received := map[int]bool{}, map[int]bool{}, map[int]bool{}
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
		cmd.Env = append(os.Environ(), "FOREBAY_STORAGE_KILL="+dir, "FOREBAY_STORAGE_FIRST="+strconv.Itoa(first))
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		err = cmd.Start()
		if errors.Is(err, syscall.ENOEXEC) {
			t.Skipf("an emulated test cannot start itself: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		lines, enough := bufio.NewScanner(stdout), 50+rand.IntN(3000)
		for n := 0; lines.Scan(); n++ {
			if n == enough {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			word, number, ok := strings.Cut(lines.Text(), " ")
			i, err := strconv.Atoi(number)
			if !ok || err != nil {
				continue // the line was cut by the kill
			}
			set := map[string]map[int]bool{"safe": safe, "acked": acked, "received": received}[word]
			if set == nil {
				t.Fatalf("child says %q", lines.Text())
			}
			set[i] = true
			promised++
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		first = checkKilled(t, dir, round, safe, acked, received)
	}
	t.Logf("%d promises in %d lives", promised, rounds)
	if promised < rounds*50 {
		t.Errorf("only %d promises", promised)
	}
}

// checkKilled looks at a copy and returns a number above all that were used.
func checkKilled(t *testing.T, dir string, round int, safe, acked, received map[int]bool) int {
	t.Helper()
	l := openTest(t, copyDir(t, dir), small())
	defer closeLog(t, l)
	c := mustConsumer(t, l, "c", Limits{})
	got, before, highest := map[int]bool{}, -1, 0
	for _, e := range drain(t, c, false) {
		i := int(binary.BigEndian.Uint64(e.Message))
		if i <= before {
			t.Fatalf("life %d: %d after %d", round, i, before)
		}
		if received[i] {
			t.Fatalf("life %d: %d was received durably, and is there again", round, i)
		}
		got[i], before = true, i
	}
	for i := range safe {
		highest = max(highest, i)
		if !got[i] && !acked[i] {
			t.Fatalf("life %d: %d was safe, and is lost; %d there", round, i, len(got))
		}
	}
	return max(highest, before) + 100_000
}
