package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// unhurried makes no checkpoint by itself, so that records stay in the journal
// until it is full.
func unhurried() tuning {
	t := defaults()
	t.checkpoint, t.records, t.marks = time.Hour, 1<<30, time.Hour
	t.half = 256 << 10
	return t
}

// journaledStore is what a crash leaves of a store whose 60 messages, a group
// each, are in the journal only.
func journaledStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	l := openTest(t, dir, unhurried())
	mustConsumer(t, l, "c", Limits{})
	closeLog(t, l)
	l = openTest(t, dir, unhurried())
	c := mustConsumer(t, l, "c", Limits{})
	for i := range 60 {
		mustSafe(t, l, mustAppend(t, l, fmt.Sprintf("message %d", i), c))
	}
	crashed := copyDir(t, dir)
	closeLog(t, l)
	return crashed
}

func TestJournalDamage(t *testing.T) {
	group := func(i int) injure {
		return overwrite(func(int) (int, int) { return journalStart + i*journalPage, journalStart + (i+1)*journalPage }, 1)
	}
	header := func(pages int, b byte) injure {
		return overwrite(func(int) (int, int) { return 0, pages * journalPage }, b)
	}
	const unknown = -1
	for _, tt := range []struct {
		name    string
		injure  injure
		got     int // messages delivered
		counted int // as damaged, by the consumer
		bad     bool
		broken  bool
	}{
		{"none", func(*testing.T, string) {}, 60, 0, false, false},
		{"truncated to nothing", truncate(0), 0, 0, true, false},
		{"truncated inside the header", func(t *testing.T, file string) {
			if err := os.Truncate(file, 20); err != nil {
				t.Fatal(err)
			}
		}, 0, 0, true, false},
		{"truncated inside", truncate(20), unknown, 0, true, false},
		{"truncated behind what is used", truncate(90), 60, 0, true, false},
		{"zeros", overwrite(all, 0), 0, 0, true, false},
		{"noise", overwrite(all, 1), 0, 0, true, false},
		{"header garbled", header(1, 1), 60, 0, true, false},
		{"header zeroed", header(1, 0), 60, 0, true, false},
		{"both headers garbled", header(2, 1), 0, 0, true, false},
		{"first group garbled", group(0), 59, 1, true, false},
		{"group garbled in the middle", group(30), 59, 1, true, false},
		{"byte flipped in a message", flip, 59, 1, true, false},
		{"last group garbled", group(59), 59, 0, false, false},
		{"last group torn behind its beginning", overwrite(func(int) (int, int) {
			return journalStart + 59*journalPage + groupHeader + 4, journalStart + 60*journalPage
		}, 0), 59, 0, false, true},
		{"missing", remove, 0, 0, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := journaledStore(t)
			tt.injure(t, filepath.Join(dir, journalName))
			l, w := openLogged(t, testConfig(dir), unhurried())
			if told := len(w.with("is not whole")) > 0; told != tt.broken {
				t.Errorf("told of a last group that is not whole: %v, want %v", told, tt.broken)
			}
			c := mustConsumer(t, l, "c", Limits{})
			got, before := drain(t, c, true), -1
			for _, e := range got {
				var i int
				if _, err := fmt.Sscanf(string(e.Message), "message %d", &i); err != nil || i <= before {
					t.Fatalf("message %.20q after %d: %v", e.Message, before, err)
				}
				before = i
			}
			if len(got) != tt.got && (tt.got != unknown || len(got) < 5 || len(got) > 55) {
				t.Errorf("%d delivered, want %d", len(got), tt.got)
			}
			if lost := c.Stats().Dropped[CauseDamaged]; lost != uint64(tt.counted) {
				t.Errorf("%d counted as damaged, want %d", lost, tt.counted)
			}
			_, err := os.Stat(filepath.Join(dir, journalName+badSuffix))
			if bad := err == nil; bad != tt.bad || (l.Stats().Damaged == 1) != tt.bad {
				t.Errorf("set aside: %v, want %v; stats say %d", bad, tt.bad, l.Stats().Damaged)
			}
			mustSafe(t, l, mustAppend(t, l, "new", c))
			if e := next(t, c); string(e.Message) != "new" {
				t.Errorf("appended after the damage: %d %q", e.N, e.Message)
			}
			again := copyDir(t, dir)
			closeLog(t, l)
			l = openTest(t, again, unhurried())
			c = mustConsumer(t, l, "c", Limits{})
			if got := drain(t, c, false); len(got) == 0 || string(got[len(got)-1].Message) != "new" {
				t.Errorf("after another crash: %q", messages(got))
			}
			closeLog(t, l)
		})
	}
}

func TestNewerJournalIsNotTouched(t *testing.T) {
	dir := journaledStore(t)
	file := filepath.Join(dir, journalName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, journalPage} {
		binary.LittleEndian.PutUint32(data[at+16:], formatVersion+1)
		binary.LittleEndian.PutUint32(data[at+20:], headerSum(data[at:]))
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	before := listing(t, dir)
	_, err = Open(testConfig(dir), discard(), nil)
	var newer *VersionError
	if !errors.As(err, &newer) || newer.File != journalName || newer.Version != formatVersion+1 {
		t.Errorf("Open: %v", err)
	}
	after, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(data, after) || listing(t, dir) != before {
		t.Errorf("something has changed, %v", err)
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(files)
}

// What all have acknowledged before the journal is spilled never reaches a
// segment; what one has not, and changes of tables, do.
func TestSpillLeavesOutWhatIsAcknowledged(t *testing.T) {
	dir := t.TempDir()
	tune := unhurried()
	l := openTest(t, dir, tune)
	a, b := mustConsumer(t, l, "a", Limits{}), mustConsumer(t, l, "b", Limits{})
	for i := range 500 { // several times what the journal holds
		to := []*Cursor{a}
		if i%100 == 7 {
			to = append(to, b)
		}
		s := mustAppend(t, l, fmt.Sprintf("message %d", i), to...)
		a.Ack(next(t, a).N)
		mustSafe(t, l, s)
	}
	if s := l.Stats(); s.Segments != 1 || s.Disk > idle(l) {
		t.Errorf("stats %+v", s)
	}
	if got := messages(drain(t, b, false)); got != "message 7 message 107 message 207 message 307 message 407" {
		t.Errorf("b got %q", got)
	}
	closeLog(t, l)
	segment, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	if k := bytes.Count(segment, []byte("message ")); k < 5 || k > 15 { // each half ends with some not acknowledged yet
		t.Errorf("%d messages in the segment, want those of b and a few", k)
	}
	l = openTest(t, dir, tune)
	if got := len(drain(t, mustConsumer(t, l, "b", Limits{}), true)); got != 5 {
		t.Errorf("after reopening b gets %d, want 5", got)
	}
	if s := mustConsumer(t, l, "a", Limits{}).Stats(); s.Count != 0 || len(s.Dropped) > 0 {
		t.Errorf("after reopening a has %+v", s)
	}
	closeLog(t, l)
}

// Of a message that all have acknowledged only its changes of tables are spilled.
func TestSpillLeavesOutMessagesBesideChanges(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, unhurried())
	a, b := mustConsumer(t, l, "a", Limits{}), mustConsumer(t, l, "b", Limits{})
	for i := range 3 {
		s, err := l.Append(&Record{Message: fmt.Append(nil, "message ", i), Deliveries: []Delivery{{Consumer: a.ID()}, {Consumer: b.ID()}},
			Changes: []Change{{Table: Retained, Key: fmt.Append(nil, "key ", i), Value: []byte("value")}}})
		if err != nil {
			t.Fatal(err)
		}
		mustSafe(t, l, s)
		a.Ack(next(t, a).N)
		if e := next(t, b); i != 1 {
			b.Ack(e.N)
		}
	}
	closeLog(t, l)
	segment, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false} {
		if got := bytes.Contains(segment, fmt.Append(nil, "message ", i)); got != want {
			t.Errorf("message %d is in the segment: %v, want %v", i, got, want)
		}
	}
	remove(t, filepath.Join(dir, stateName)) // the segment has to say it all
	l = openTest(t, dir, unhurried())
	rows := 0
	if err := l.Each(Retained, func(_, v []byte) error { rows++; return nil }); err != nil || rows != 3 {
		t.Errorf("%d rows, %v; want 3", rows, err)
	}
	if got := messages(drain(t, mustConsumer(t, l, "b", Limits{}), true)); got != "message 1" {
		t.Errorf("b got %q", got)
	}
	closeLog(t, l)
}

// A group that goes straight to a segment ends with a record that nobody wants:
// recovery must know that nothing is missing between it and the journal.
func TestDirectGroupCoversRecordsWithoutBytes(t *testing.T) {
	dir := t.TempDir()
	tune := unhurried()
	tune.half = minJournalHalf
	entered, gate := make(chan struct{}, 1), make(chan struct{})
	var gated atomic.Bool
	d := &directory{path: dir, before: func(step, _ string) error {
		if step == "journal" && gated.Load() {
			entered <- struct{}{}
			<-gate
		}
		return nil
	}}
	l, err := open(testConfig(dir), discard(), nil, d, tune)
	if err != nil {
		t.Fatal(err)
	}
	c := mustConsumer(t, l, "c", Limits{})
	mustSafe(t, l, l.Stats().Appended)
	gated.Store(true)
	for i := range 5 {
		mustAppend(t, l, "one", c)
		<-entered // so that the next two come together
		mustAppend(t, l, string(make([]byte, 5000)), c)
		s, err := l.Append(&Record{})
		if err != nil {
			t.Fatal(err)
		}
		gate <- struct{}{}
		mustSafe(t, l, s)
		s = mustAppend(t, l, "in the journal", c)
		<-entered
		gate <- struct{}{}
		mustSafe(t, l, s)
		l2 := openTest(t, copyDir(t, dir), tune)
		got := drain(t, mustConsumer(t, l2, "c", Limits{}), false)
		if d := l2.Stats().Damaged; d != 0 || len(got) != 3*i+3 {
			t.Fatalf("after %d messages %d are there, and %d files are said to be damaged", 3*i+3, len(got), d)
		}
		closeLog(t, l2)
	}
	gated.Store(false)
	closeLog(t, l)
}

// What was received stays so although its record is gone: spilled behind the
// mark or before it, or with a drained segment.
func TestReceivedOutlivesItsRecord(t *testing.T) {
	dir := t.TempDir()
	tune := unhurried()
	tune.half = minJournalHalf
	l := openTest(t, dir, tune)
	c := mustConsumer(t, l, "c", Limits{})
	mustAppend(t, l, "one", c)
	mustSafe(t, l, mustAppend(t, l, "two", c))
	mustSafe(t, l, c.Received(next(t, c).N))
	for range 20 {
		mustSafe(t, l, mustAppend(t, l, "x", c))
	}
	check := func(dir string) {
		t.Helper()
		l := openTest(t, dir, tune)
		c := mustConsumer(t, l, "c", Limits{})
		if got := c.Released(); len(got) != 1 || got[0] != 1 {
			t.Errorf("released %v, want [1]", got)
		}
		if c.Ack(1); len(c.Released()) != 0 {
			t.Errorf("released after Ack: %v", c.Released())
		}
		if e := next(t, c); string(e.Message) != "two" && string(e.Message) != "last" {
			t.Errorf("next is %d %q", e.N, e.Message)
		}
		closeLog(t, l)
	}
	check(copyDir(t, dir))
	closeLog(t, l)
	l = openTest(t, dir, small())
	c = mustConsumer(t, l, "c", Limits{})
	drain(t, c, true)
	eventually(t, "the segment goes", func() bool {
		mustSafe(t, l, mustAppend(t, l, string(make([]byte, 5000)), c))
		c.Ack(next(t, c).N)
		_, err := os.Stat(filepath.Join(dir, segmentName(2)))
		return errors.Is(err, os.ErrNotExist)
	})
	mustAppend(t, l, "last", c)
	closeLog(t, l)
	remove(t, filepath.Join(dir, stateName))
	check(dir)
}

// While a spill is stuck, groups go on as long as the other half has room.
func TestCommitsGoOnDuringASpill(t *testing.T) {
	dir := t.TempDir()
	var block atomic.Bool
	stuck, release := make(chan struct{}), make(chan struct{})
	d := &directory{path: dir, before: func(step, _ string) error {
		if step == "commit" && block.CompareAndSwap(true, false) {
			close(stuck)
			<-release
		}
		return nil
	}}
	tune := unhurried()
	l, err := open(testConfig(dir), discard(), nil, d, tune)
	if err != nil {
		t.Fatal(err)
	}
	c := mustConsumer(t, l, "c", Limits{})
	block.Store(true)
	n := 0
	for waiting := true; waiting; n++ {
		mustSafe(t, l, mustAppend(t, l, fmt.Sprint(n), c))
		select {
		case <-stuck:
			waiting = false
		default:
		}
	}
	for range 40 { // of the 64 that the other half has room for
		mustSafe(t, l, mustAppend(t, l, fmt.Sprint(n), c))
		n++
	}
	for range 40 { // the last of these must wait
		mustAppend(t, l, fmt.Sprint(n), c)
		n++
	}
	close(release)
	mustSafe(t, l, l.Stats().Appended)
	crashed := copyDir(t, dir)
	closeLog(t, l)
	for _, dir := range []string{dir, crashed} {
		l := openTest(t, dir, tune)
		got := drain(t, mustConsumer(t, l, "c", Limits{}), false)
		for i, e := range got {
			if string(e.Message) != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, e.Message)
			}
		}
		if len(got) != n {
			t.Errorf("%d messages, want %d", len(got), n)
		}
		closeLog(t, l)
	}
}

// Without room for the journal the store works without it.
func TestNoRoomForTheJournal(t *testing.T) {
	dir := journaledStore(t)
	remove(t, filepath.Join(dir, journalName))
	d := &directory{path: dir, before: func(step, file string) error {
		if step == "create" && file == journalName {
			return syscall.ENOSPC
		}
		return nil
	}}
	l, err := open(testConfig(dir), discard(), nil, d, unhurried())
	if err != nil {
		t.Fatal(err)
	}
	c := mustConsumer(t, l, "c", Limits{})
	mustSafe(t, l, mustAppend(t, l, "one", c))
	mustAppend(t, l, "two", c)
	closeLog(t, l)
	l = openTest(t, dir, unhurried())
	if got := messages(drain(t, mustConsumer(t, l, "c", Limits{}), true)); got != "one two" {
		t.Errorf("got %q", got)
	}
	if info, err := os.Stat(filepath.Join(dir, journalName)); err != nil || info.Size() != journalSize(256<<10) {
		t.Errorf("with room again: %v, %v", info, err)
	}
	closeLog(t, l)
}

// FuzzJournal feeds the reader of the journal, as it is and with right
// checksums: no panic, and nothing is kept that is not a record.
func FuzzJournal(f *testing.F) {
	group := func(epoch uint64, number uint32, after, last Seq, frames []byte) []byte {
		b := append(make([]byte, groupHeader), frames...)
		putGroupHeader(b, &journalGroup{epoch: epoch, number: number, after: after, last: last}, 1)
		return append(b, make([]byte, wholePages(int64(len(b)))-int64(len(b)))...)
	}
	create := endFrame(append(beginFrame(nil, frameCreate), 1, 3, 1, 'c'), 0)
	one := endFrame(append(beginFrame(nil, frameMessage), 2, 2, 2, 1, 3, 1, 1, 0, 0, 'h', 'i'), 0)
	mark := appendMark(nil, 9)
	head := make([]byte, journalStart)
	putJournalHeader(head, 1, minJournalHalf)
	f.Add(bytes.Join([][]byte{head, group(1, 0, 0, 1, create), group(1, 1, 1, 2, one), group(1, 2, 2, 9, mark)}, nil))
	f.Add(bytes.Join([][]byte{head, group(3, 0, 2, 9, mark), group(1, 1, 1, 2, one)}, nil))
	f.Add(bytes.Join([][]byte{head, group(1, 0, 0, 1, create), make([]byte, journalPage), group(1, 2, 2, 9, mark)}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = (&oldJournal{}).parse(b) // an error is as good as none
		b = bytes.Clone(b)
		if len(b) < journalStart {
			b = append(b, make([]byte, journalStart-len(b))...)
		}
		copy(b, head[:journalHeader])
		for at := journalStart; at+groupHeader <= len(b); at += journalPage {
			g := b[at:]
			copy(g, groupMagic)
			binary.LittleEndian.PutUint64(g[8:], 1)
			if n := int(binary.LittleEndian.Uint32(g[28:])); n <= len(g)-groupHeader {
				binary.LittleEndian.PutUint32(g[4:], crc32.Checksum(g[8:groupHeader+n], castagnoli))
			}
		}
		o := &oldJournal{found: true}
		if err := o.parse(b); err != nil {
			t.Fatalf("the header is right: %v", err)
		}
		r := &recovery{log: newFuzzLog(), old: &oldState{}, journal: o}
		r.replayJournal(&segment{id: 1})
		for _, p := range r.rest {
			indexOf(p.frames) // which panics if what is spilled does not parse
		}
	})
}
