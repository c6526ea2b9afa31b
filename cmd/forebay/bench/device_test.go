package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDiskCountsWrites(t *testing.T) {
	d, err := newDisk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if d.stat == "" {
		t.Skipf("the temporary directory is on a %s", d.name)
	}
	before, err := d.written()
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 20
	if err := os.WriteFile(filepath.Join(d.dir, "file"), make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := d.written()
	if err != nil || after-before < size {
		t.Errorf("%d bytes for %d, %v", after-before, size, err)
	}
	if !strings.Contains(d.source(), d.name) {
		t.Errorf("%q", d.source())
	}
}

func TestDiskThatIsNone(t *testing.T) {
	if _, err := newDisk(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("there is a disk in a directory that does not exist")
	}
	// No block device is behind the kernel's own files.
	d, err := newDisk("/proc")
	if err != nil || d.stat != "" || !strings.Contains(d.source(), "what this process gave") {
		t.Errorf("%+v, %v", d, err)
	}
}
