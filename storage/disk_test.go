package storage

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

const sector = 512 // what a disk writes as a whole

// change is one thing that reached the operating system, but not necessarily
// the disk.
type change struct {
	kind  changeKind
	node  int    // the file, whatever its name
	at    int64  // of write; of truncate: the new size
	data  []byte // of write
	name  string // of create, rename (the new one) and remove
	from  string // of rename
	given *promise
}

type changeKind byte

const (
	changeWrite changeKind = iota
	changeSize
	changeSync // of a file
	changeCreate
	changeRename
	changeRemove
	changeSyncNames // of the directory
)

func (k changeKind) String() string {
	return [...]string{"write", "truncate", "sync", "create", "rename", "remove", "sync of the directory"}[k]
}

// promise is what the log had said when something happened.
type promise struct {
	model model
	safe  Seq
}

// recorder sits between a log and its files and notes each change in order: the
// single writes of bbolt and of the journal, their syncs, and what happens to
// names. The contents of the lock and of the reserve do not matter.
type recorder struct {
	dir       string
	journaled chan struct{} // nil: nothing waits for it

	mu      sync.Mutex // guards what follows; a driver holds it during each operation
	m       *model     // nil: nothing is recorded
	log     *Log
	safe    Seq // while log is nil
	last    *promise
	changes []change
	nodes   int
	names   map[string]int
	meta    map[int]bool // bbolt files with a meta page written and not known to be synced
	fail    int          // the change with this number fails, and so do all later ones; 0: none
}

func newRecorder(dir string) *recorder {
	return &recorder{dir: dir, names: map[string]int{}, meta: map[int]bool{}}
}

func (x *recorder) directory() *directory {
	return &directory{path: x.dir, before: x.before, bolt: x.openBolt, journal: x.openJournal}
}

// note records a change. mu is held.
func (x *recorder) note(c change) error {
	if x.m == nil {
		return nil
	}
	safe := x.safe
	if x.log != nil {
		safe = x.log.Safe()
	}
	if p := x.last; p == nil || len(p.model.ops) != len(x.m.ops) || len(p.model.acked) != len(x.m.acked) || p.safe != safe {
		x.last = &promise{x.m.clone(), safe}
	}
	c.given = x.last
	x.changes = append(x.changes, c)
	if x.fail > 0 && len(x.changes) >= x.fail {
		return syscall.EIO
	}
	return nil
}

// create notes a file made by other means, with all that is in it synced. mu is
// held.
func (x *recorder) create(file string) (int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	x.nodes++
	name := filepath.Base(file)
	x.names[name] = x.nodes
	for _, c := range []change{
		{kind: changeCreate, name: name}, {kind: changeSize, at: int64(len(data))}, {kind: changeWrite, data: data}, {kind: changeSync},
	} {
		c.node = x.nodes
		if err := x.note(c); err != nil {
			return 0, err
		}
	}
	return x.nodes, nil
}

// synced notes that bbolt has synced the file of that name. mu is held.
func (x *recorder) synced(name string) error {
	node := x.names[name]
	if !x.meta[node] {
		return nil
	}
	delete(x.meta, node)
	return x.note(change{kind: changeSync, node: node})
}

// before is directory.before.
func (x *recorder) before(step, file string) error {
	if step == "commit" && x.journaled != nil {
		select { // now and then the journal is faster
		case <-x.journaled:
		case <-time.After(time.Millisecond):
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch step {
	case "committed", "checkpointed":
		return x.synced(file)
	case "journaled":
		select {
		case x.journaled <- struct{}{}:
		default: // no spill waits
		}
	case "rename":
		from := file + newSuffix
		if err := x.synced(from); err != nil {
			return err
		}
		x.names[file] = x.names[from]
		delete(x.names, from)
		return x.note(change{kind: changeRename, node: x.names[file], name: file, from: from})
	case "remove":
		delete(x.names, file)
		return x.note(change{kind: changeRemove, name: file})
	case "syncdir":
		return x.note(change{kind: changeSyncNames})
	}
	return nil
}

// openBolt is directory.bolt. bbolt gives no other way to see its writes than
// its own hook for tests: it syncs before and after it writes a meta page.
func (x *recorder) openBolt(name string, options *bolt.Options) (*bolt.DB, error) {
	var file *os.File
	options.OpenFile = func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	db, err := bolt.Open(name, 0o600, options)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	node, err := x.create(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size, meta := info.Size(), int64(2*db.Info().PageSize)
	hook := reflect.ValueOf(db).Elem().FieldByName("ops").FieldByName("writeAt")
	writeAt := (*func([]byte, int64) (int, error))(unsafe.Pointer(hook.UnsafeAddr()))
	write := *writeAt
	*writeAt = func(b []byte, at int64) (int, error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		info, err := file.Stat()
		if err != nil {
			return 0, err
		}
		if info.Size() > size { // grown and synced just before
			size = info.Size()
			if err := x.note(change{kind: changeSize, node: node, at: size}); err != nil {
				return 0, err
			}
			if err := x.note(change{kind: changeSync, node: node}); err != nil {
				return 0, err
			}
		}
		if at < meta || x.meta[node] {
			if err := x.note(change{kind: changeSync, node: node}); err != nil {
				return 0, err
			}
			x.meta[node] = at < meta
		}
		return x.write(node, b, at, write)
	}
	return db, nil
}

// write notes a write and does it; the one that fails does half of it. mu is
// held.
func (x *recorder) write(node int, b []byte, at int64, write func([]byte, int64) (int, error)) (int, error) {
	if err := x.note(change{kind: changeWrite, node: node, at: at, data: bytes.Clone(b)}); err != nil {
		n, _ := write(b[:len(b)/2], at) // the error that is wanted is there
		return n, err
	}
	return write(b, at)
}

// recordedJournal is the journal's file.
type recordedJournal struct {
	osJournal
	x    *recorder
	node int
}

// openJournal is directory.journal.
func (x *recorder) openJournal(name string) (journalFile, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	node := x.names[filepath.Base(name)]
	if node == 0 {
		if node, err = x.create(name); err != nil {
			return nil, err
		}
	}
	return &recordedJournal{osJournal{f}, x, node}, nil
}

func (f *recordedJournal) WriteAt(b []byte, at int64) (int, error) {
	f.x.mu.Lock()
	defer f.x.mu.Unlock()
	return f.x.write(f.node, b, at, f.osJournal.WriteAt)
}

func (f *recordedJournal) Sync() error {
	if err := f.osJournal.Sync(); err != nil {
		return err
	}
	f.x.mu.Lock()
	defer f.x.mu.Unlock()
	return f.x.note(change{kind: changeSync, node: f.node})
}

// disk is what a disk holds after some changes: what is on it for sure, and
// what a power cut may or may not leave.
type disk struct {
	files map[int]*diskFile
	names map[string]int
	open  []change // of names, since the last sync of the directory
}

type diskFile struct {
	content
	open []change // since the last sync of the file
}

// content is what a file holds; behind data there are zeros up to size.
type content struct {
	data []byte
	size int64
}

// image is a directory as a power cut would leave it.
type image map[string]content

// newDisk begins with what is in an image, all of it synced. The nodes are
// numbered as those of x, which knows the files from now on.
func newDisk(m image, x *recorder) *disk {
	d := &disk{files: map[int]*diskFile{}, names: map[string]int{}}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		x.nodes++
		d.files[x.nodes] = &diskFile{content: content{bytes.Clone(m[name].data), m[name].size}}
		d.names[name], x.names[name] = x.nodes, x.nodes
	}
	return d
}

func (d *disk) apply(c *change) {
	switch c.kind {
	case changeWrite, changeSize:
		d.files[c.node].open = append(d.files[c.node].open, *c)
	case changeSync:
		f := d.files[c.node]
		for i := range f.open {
			f.put(&f.open[i], everything)
		}
		f.open = nil
	case changeSyncNames:
		for i := range d.open {
			rename(d.names, &d.open[i])
		}
		d.open = nil
	default:
		if c.kind == changeCreate {
			d.files[c.node] = &diskFile{}
		}
		d.open = append(d.open, *c)
	}
}

// uncertain reports whether a power cut has something to decide.
func (d *disk) uncertain() bool {
	for _, f := range d.files {
		if len(f.open) > 0 {
			return true
		}
	}
	return len(d.open) > 0
}

func rename(names map[string]int, c *change) {
	switch c.kind {
	case changeCreate:
		names[c.name] = c.node
	case changeRename:
		names[c.name] = c.node
		delete(names, c.from)
	case changeRemove:
		delete(names, c.name)
	}
}

// put applies those sectors of a change that keep says.
func (c *content) put(e *change, keep func() bool) {
	if e.kind == changeSize {
		if keep() {
			c.size = max(c.size, e.at)
		}
		return
	}
	for from := 0; from < len(e.data); {
		// Of a sector of the file, which need not be where those of e.data are.
		to := min(len(e.data), from+sector-int((e.at+int64(from))%sector))
		if keep() {
			end := int(e.at) + to
			if end > len(c.data) {
				c.data = append(c.data, make([]byte, end-len(c.data))...)
			}
			copy(c.data[int(e.at)+from:], e.data[from:to])
			c.size = max(c.size, int64(len(c.data)))
		}
		from = to
	}
}

func everything() bool { return true }
func nothing() bool    { return false }

// fate returns how the power cut number k of one moment decides: the first
// drops all, the second keeps all, the others tear.
func fate(k int, r *rand.Rand) (sectors, writes func() bool) {
	switch k {
	case 0:
		return nothing, nothing
	case 1:
		return everything, everything
	}
	share := r.Float64()
	random := func() bool { return r.Float64() < share }
	if r.IntN(3) == 0 { // whole writes only
		return everything, random
	}
	return random, func() bool { return r.IntN(8) > 0 }
}

// cut returns what a power cut now may leave.
func (d *disk) cut(sectors, writes func() bool) image {
	names := map[string]int{}
	for name, node := range d.names {
		names[name] = node
	}
	for i := range d.open {
		if writes() {
			rename(names, &d.open[i])
		}
	}
	m := image{}
	for name, node := range names {
		f := d.files[node]
		c := f.content
		if len(f.open) > 0 {
			c.data = bytes.Clone(c.data)
		}
		for i := range f.open {
			if writes() {
				c.put(&f.open[i], sectors)
			}
		}
		m[name] = c
	}
	return m
}

// restore writes the image into a directory.
func (m image) restore(t testing.TB, dir string) {
	t.Helper()
	for name, c := range m {
		err := os.WriteFile(filepath.Join(dir, name), c.data, 0o600)
		if err == nil {
			err = os.Truncate(filepath.Join(dir, name), c.size)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
