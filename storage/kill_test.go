package storage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The environment of the child of TestKill.
const (
	envKill  = "FOREBAY_STORAGE_KILL"  // the directory of its log
	envFirst = "FOREBAY_STORAGE_FIRST" // the number of its first message
	envFill  = "FOREBAY_STORAGE_FILL"  // set: it enqueues until the disk is full
)

// TestKilledChild is the child of TestKill: it enqueues and drains, by turns more
// of this and of that, and reports on standard output what the log has promised,
// until it is killed.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(envKill)
	if dir == "" {
		return // not a test of its own
	}
	first, err := strconv.Atoi(os.Getenv(envFirst))
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{t: t, dir: dir, fill: os.Getenv(envFill) != "", out: bufio.NewWriter(os.Stdout)}
	v.open()
	for i := first; ; i++ {
		if full := v.isFull(); full || v.c.Stats().Count > 600 && !v.fill {
			if full {
				v.say("full", 0)
				if err := v.l.Close(); !errors.Is(err, ErrFailed) {
					t.Fatal(err)
				}
				v.open()
			}
			v.drain() // nothing new then: segments come to their end
		}
		v.append(i)
		if rand.IntN(3) == 0 { // a backlog grows
			v.settle()
		}
		v.tell()
	}
}

// victim is what the child has.
type victim struct {
	t    *testing.T
	dir  string
	fill bool
	out  *bufio.Writer

	l       *Log
	c       *Cursor
	safe    chan Seq
	failed  chan error
	more    chan struct{}
	waiting []promised
}

// promised is what may be said once seq is safe.
type promised struct {
	seq  Seq
	text string
}

func (v *victim) open() {
	safe, failed, more := make(chan Seq, 1<<16), make(chan error, 1), make(chan struct{}, 1)
	l, err := open(testConfig(v.dir), discard(), func(s Seq, err error) {
		if err != nil {
			failed <- err
		} else {
			safe <- s
		}
	}, &directory{path: v.dir}, small())
	if err != nil {
		v.t.Fatal(err)
	}
	v.l, v.safe, v.failed, v.more, v.waiting = l, safe, failed, more, nil
	v.c = mustConsumer(v.t, l, "c", Limits{})
	for _, n := range v.c.Released() {
		v.c.Ack(n) // PUBREL again, and its PUBCOMP
	}
	v.c.SetNotify(func() {
		select {
		case more <- struct{}{}:
		default:
		}
	})
}

// isFull tells whether the log has failed because the disk is full; nothing else
// may make it fail.
func (v *victim) isFull() bool {
	err := v.l.Stats().Err
	if err != nil && (!v.fill || !errors.Is(err, syscall.ENOSPC)) {
		v.t.Fatal(err)
	}
	return err != nil
}

func (v *victim) say(word string, number uint64) {
	fmt.Fprintln(v.out, word, number)
	v.out.Flush()
}

func (v *victim) append(i int) {
	r := Record{Time: 1, Message: binary.BigEndian.AppendUint64(make([]byte, 0, 300), uint64(i)),
		Deliveries: []Delivery{{Consumer: v.c.ID(), Hold: i%2 == 0}}}
	r.Message = r.Message[:8+rand.IntN(290)]
	if v.fill && rand.IntN(2) == 0 {
		r.Message = append(r.Message, make([]byte, 20_000)...)
	}
	s, err := v.l.Append(&r)
	if full := (*FullError)(nil); v.fill && errors.As(err, &full) && full.Limit == limitDisk {
		v.drain()
		return
	}
	if err != nil && !v.isFull() {
		v.t.Fatal(err)
	}
	if err == nil {
		v.waiting = append(v.waiting, promised{s, fmt.Sprint("safe ", i)})
	}
}

// settle acknowledges what is next.
func (v *victim) settle() (ok bool) {
	e, ok := v.c.Next()
	if !ok {
		return false
	}
	number := binary.BigEndian.Uint64(e.Message)
	v.say("acked", number) // first: from now on it may or may not come again
	if rand.IntN(3) == 0 { // once this is durable it must not
		v.waiting = append(v.waiting, promised{v.c.Received(e.N), fmt.Sprint("received ", number)})
	} else {
		v.c.Ack(e.N)
	}
	return true
}

func (v *victim) drain() {
	for v.c.Stats().Count > 0 {
		if !v.settle() {
			select {
			case <-v.more:
			case err := <-v.failed:
				v.t.Fatal(err) // what is there can be drained, however full the disk is
			}
		}
		v.tell()
	}
}

// tell says what has become safe.
func (v *victim) tell() {
	for {
		select {
		case s := <-v.safe:
			for len(v.waiting) > 0 && v.waiting[0].seq <= s {
				fmt.Fprintln(v.out, v.waiting[0].text)
				v.waiting = v.waiting[1:]
			}
			v.out.Flush()
		default:
			if len(v.waiting) < 200 || v.isFull() {
				return
			}
			time.Sleep(100 * time.Microsecond) // let the disk catch up
		}
	}
}

// TestKill kills a process that uses the log, again and again: what was safe is
// there, what was received does not come back, and nothing is out of order.
func TestKill(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	(&killer{t: t, dir: t.TempDir()}).kill(rounds)
}

// TestKillWhenFull does so on a disk that fills up and is drained in turn.
func TestKillWhenFull(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			disk := smallDisk(t, kind)
			var s syscall.Statfs_t
			if err := syscall.Statfs(disk, &s); err != nil {
				t.Fatal(err)
			}
			if err := writeZeros(filepath.Join(disk, "others"), int64(s.Bavail)*int64(s.Bsize)-6<<20); err != nil {
				t.Fatal(err)
			}
			(&killer{t: t, dir: filepath.Join(disk, "store"), fill: true}).kill(rounds)
		})
	}
}

// killer is the other side of victim.
type killer struct {
	t    *testing.T
	dir  string
	fill bool

	said map[string]map[int]bool // by word, the numbers
}

func (k *killer) kill(rounds int) {
	first, promises, t := 0, 0, k.t
	k.said = map[string]map[int]bool{"safe": {}, "acked": {}, "received": {}, "full": {}}
	for round := range rounds {
		promises += k.live(first)
		first = checkKilled(t, k.dir, round, k.said["safe"], k.said["acked"], k.said["received"])
	}
	t.Logf("%d promises in %d lives", promises, rounds)
	if promises < rounds*50 {
		t.Errorf("only %d promises", promises)
	}
}

// live lets a child live for a while, of which it has to say something. On a disk
// that fills up that begins when it is full, or soon after.
func (k *killer) live(first int) (lines int) {
	t := k.t
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
	cmd.Env = append(os.Environ(), envKill+"="+k.dir, envFirst+"="+strconv.Itoa(first))
	enough := 50 + rand.IntN(3000)
	if k.fill {
		cmd.Env = append(cmd.Env, envFill+"=1")
		enough = rand.IntN(1500)
	}
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
	said, counts, n := []string(nil), !k.fill, 0
	for out := bufio.NewScanner(stdout); out.Scan(); {
		if n == enough {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		said = append(said, out.Text())
		word, number, ok := strings.Cut(out.Text(), " ")
		i, err := strconv.Atoi(number)
		if counts = counts || word == "full"; counts {
			n++
		}
		if !ok || err != nil {
			continue // the line was cut by the kill
		}
		if k.said[word] == nil {
			continue // what it failed with
		}
		k.said[word][i] = true
		lines++
	}
	if err := cmd.Wait(); err == nil || n <= enough {
		t.Fatalf("the child ended by itself: %v: %q", err, said[max(0, len(said)-20):])
	}
	return lines
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
