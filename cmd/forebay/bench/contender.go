package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"forebay/storage"
)

// contender is a way to keep messages on disk.
type contender struct {
	name string
	// open makes an empty queue in a new directory. delay is added to every
	// sync, as if the disk were slower.
	open func(dir string, delay time.Duration) (queue, error)
	// reopen opens what open has made, ready for reading; nil: not compared.
	reopen func(dir string) (backlog, error)
}

// queue takes messages. put may be called from any goroutine; wait returns when
// what put has taken is on stable storage.
type queue interface {
	put(message []byte) (ticket uint64, err error)
	wait(ticket uint64) error
	close() error
}

// backlog is a queue that was opened again.
type backlog interface {
	// drain reads everything and takes it out, and returns how many messages
	// there were.
	drain() (int, error)
	close() error
}

// contenders are those of the table, in its order. The first is ours.
func contenders() []contender {
	return []contender{
		{"forebay", openLog, reopenLog},
		{"raw file", openRaw, reopenRaw},
		{"pre-written", openPrewritten, nil},
		{"bbolt", openBolt, reopenBolt},
		{"SQLite", openSQLite, nil},
	}
}

// ours is the log of the gateway, with one consumer that is away.
type ours struct {
	log    *storage.Log
	cursor *storage.Cursor
}

func logConfig(dir string) storage.Config {
	return storage.Config{Path: filepath.Join(dir, "store"), MaxSize: 1 << 40}
}

func openLog(dir string, delay time.Duration) (queue, error) {
	return openOurs(logConfig(dir), delay)
}

func openOurs(cfg storage.Config, delay time.Duration) (*ours, error) {
	log, err := storage.OpenDelayed(cfg, slog.New(slog.DiscardHandler), nil, delay)
	if err != nil {
		return nil, err
	}
	c, seq, err := log.OpenConsumer("bench", storage.Limits{})
	if err == nil {
		err = log.WaitSafe(context.Background(), seq)
	}
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &ours{log, c}, nil
}

func (o *ours) put(message []byte) (uint64, error) {
	for {
		r := storage.Record{Message: message, Deliveries: []storage.Delivery{{Consumer: o.cursor.ID(), Options: 1}}}
		s, err := o.log.Append(&r)
		if full, ok := errors.AsType[*storage.FullError](err); ok && full.Limit == "waiting" {
			runtime.Gosched() // the broker would refuse; a benchmark wants to know how fast it is
			continue
		}
		return uint64(s), err
	}
}

func (o *ours) wait(ticket uint64) error {
	return o.log.WaitSafe(context.Background(), storage.Seq(ticket))
}

func (o *ours) close() error { return o.log.Close() }

func reopenLog(dir string) (backlog, error) {
	return openOurs(logConfig(dir), 0)
}

func (o *ours) drain() (int, error) {
	more := make(chan struct{}, 1)
	o.cursor.SetNotify(func() {
		select {
		case more <- struct{}{}:
		default:
		}
	})
	total := o.cursor.Stats().Count
	for n := 0; ; {
		e, ok := o.cursor.Next()
		if ok {
			o.cursor.Ack(e.N)
			n++
			continue
		}
		if o.cursor.Stats().Count == 0 {
			if int64(n) != total {
				return n, fmt.Errorf("%d messages of %d", n, total)
			}
			return n, nil
		}
		<-more
	}
}

// grouped gathers what comes while a commit is under way and makes it durable
// with the next: what everybody must do who is measured beside the log.
type grouped struct {
	commit func(messages []byte, size int) error // durable on return
	end    func() error
	kick   chan struct{}
	done   sync.WaitGroup

	mu      sync.Mutex
	pending []byte // guarded by mu
	size    int    // of one message
	next    uint64 // the group that pending belongs to
	durable uint64 // groups below it are
	moved   chan struct{}
	closing bool
	err     error
}

func newGrouped(commit func(messages []byte, size int) error, end func() error) *grouped {
	g := &grouped{commit: commit, end: end, kick: make(chan struct{}, 1), moved: make(chan struct{})}
	g.done.Go(g.loop)
	return g
}

func (g *grouped) loop() {
	var batch []byte
	for range g.kick {
		runtime.Gosched() // those whom the last group has woken shall be in the next together
		g.mu.Lock()
		batch, g.pending = g.pending, batch[:0]
		group, size, closing := g.next, g.size, g.closing
		g.next++
		g.mu.Unlock()
		var err error
		if len(batch) > 0 {
			err = g.commit(batch, size)
		}
		g.mu.Lock()
		g.durable = group + 1
		g.err = errors.Join(g.err, err)
		close(g.moved)
		g.moved = make(chan struct{})
		g.mu.Unlock()
		if closing {
			return
		}
	}
}

func (g *grouped) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

func (g *grouped) put(message []byte) (uint64, error) {
	g.mu.Lock()
	g.pending = append(g.pending, message...)
	g.size = len(message)
	ticket, err := g.next, g.err
	g.mu.Unlock()
	g.wake()
	return ticket, err
}

func (g *grouped) wait(ticket uint64) error {
	for {
		g.mu.Lock()
		durable, moved, err := g.durable, g.moved, g.err
		g.mu.Unlock()
		if durable > ticket || err != nil {
			return err
		}
		<-moved
	}
}

func (g *grouped) close() error {
	g.mu.Lock()
	g.closing = true
	g.mu.Unlock()
	g.wake()
	g.done.Wait()
	return errors.Join(g.err, g.end())
}

func fdatasync(f *os.File, delay time.Duration) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == unix.EINTR {
			continue
		}
		time.Sleep(delay)
		return err
	}
}

// openRaw is a file that grows: one write and one fdatasync for each group.
func openRaw(dir string, delay time.Duration) (queue, error) {
	f, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		return nil, err
	}
	return newGrouped(func(messages []byte, _ int) error {
		if _, err := f.Write(messages); err != nil {
			return err
		}
		return fdatasync(f, delay)
	}, f.Close), nil
}

// rawBacklog is read from end to end, as fast as a disk gives it.
type rawBacklog struct{ *os.File }

func reopenRaw(dir string) (backlog, error) {
	f, err := os.Open(filepath.Join(dir, "raw"))
	return rawBacklog{f}, err
}

func (r rawBacklog) close() error { return r.Close() }

func (r rawBacklog) drain() (int, error) {
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{r.File}, make([]byte, 1<<20))
	return int(n / large), err
}

// prewritten is how large the file is that is written over and over.
const prewritten = 8 << 20

// openPrewritten is openRaw in a file that has its size beforehand.
func openPrewritten(dir string, delay time.Duration) (queue, error) {
	f, err := os.Create(filepath.Join(dir, "prewritten"))
	if err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for range prewritten / len(zeros) {
		if _, err := f.Write(zeros); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err := f.Sync(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	at := int64(0)
	return newGrouped(func(messages []byte, _ int) error {
		if at+int64(len(messages)) > prewritten {
			at = 0
		}
		if _, err := f.WriteAt(messages, at); err != nil {
			return err
		}
		at += int64(len(messages))
		return fdatasync(f, delay)
	}, f.Close), nil
}

var boltBucket = []byte("messages")

// openBolt is bbolt with a key for each message and a transaction, which syncs
// twice, for each group.
func openBolt(dir string, delay time.Duration) (queue, error) {
	db, err := bolt.Open(filepath.Join(dir, "bolt"), 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(boltBucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	n := uint64(0)
	return newGrouped(func(messages []byte, size int) error {
		err := db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(boltBucket)
			b.FillPercent = 1
			for ; len(messages) > 0; messages = messages[size:] {
				n++
				if err := b.Put(binary.BigEndian.AppendUint64(nil, n), messages[:size]); err != nil {
					return err
				}
			}
			return nil
		})
		time.Sleep(2 * delay)
		return err
	}, db.Close), nil
}

type boltBacklog struct{ *bolt.DB }

func reopenBolt(dir string) (backlog, error) {
	db, err := bolt.Open(filepath.Join(dir, "bolt"), 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	return boltBacklog{db}, err
}

func (b boltBacklog) close() error { return b.Close() }

// drain takes 1,000 at a time out.
func (b boltBacklog) drain() (int, error) {
	n, more := 0, true
	for more {
		err := b.Update(func(tx *bolt.Tx) error {
			c := tx.Bucket(boltBucket).Cursor()
			k, _ := c.First()
			for i := 0; k != nil && i < 1000; i++ {
				if err := c.Delete(); err != nil {
					return err
				}
				n++
				k, _ = c.First()
			}
			more = k != nil
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// errNoSQLite says why there are no figures.
var errNoSQLite = errors.New("not installed: apt-get install sqlite3")

// openSQLite is a row for each message in WAL mode, synchronous=FULL: one sync
// for each transaction, but at a checkpoint. The messages are made inside the
// program, so that neither the pipe nor the parser costs it anything.
func openSQLite(dir string, delay time.Duration) (queue, error) {
	path, err := exec.LookPath("sqlite3")
	if err != nil {
		return nil, errNoSQLite
	}
	cmd := exec.Command(path, "-batch", "-noheader", filepath.Join(dir, "sqlite"))
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	answers := bufio.NewScanner(out)
	// ask returns when the program has done everything before.
	ask := func(sql string) error {
		if _, err := io.WriteString(in, sql+"SELECT 'done';\n"); err != nil {
			return fmt.Errorf("sqlite3: %w: %s", err, &complaints)
		}
		for answers.Scan() {
			if answers.Text() == "done" {
				return nil
			}
		}
		return fmt.Errorf("sqlite3 has ended: %s", &complaints)
	}
	end := func() error { return errors.Join(in.Close(), cmd.Wait()) }
	if err := ask(".bail on\nPRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE messages(n INTEGER PRIMARY KEY, message BLOB);\n"); err != nil {
		return nil, errors.Join(err, end())
	}
	return newGrouped(func(messages []byte, size int) error {
		err := ask(fmt.Sprintf("BEGIN; WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<%d) INSERT INTO messages(message) SELECT zeroblob(%d) FROM i; COMMIT;\n",
			len(messages)/size, size))
		time.Sleep(delay)
		return err
	}, end), nil
}
