package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// UserFileMode is that of a password file that SetPassword makes: for its owner and those of its group.
const UserFileMode = 0o640

// SetPassword puts a user and the hash of a password (see HashPassword) into a password file, in the place of an earlier
// one of that user. create makes the file, and fails if it is there; otherwise it must be. What else is in the file
// stays as it is. The file is replaced as a whole, on stable storage before SetPassword returns: whoever reads it
// meanwhile, or after a power failure, finds the old one or the new one.
func SetPassword(path, name, hash string, create bool) error {
	if name == "" || name[0] == '#' || strings.ContainsAny(name, ":\r\n\x00") {
		return fmt.Errorf("broker: %q cannot be a user name: it would not be found in the file", name)
	}
	line := name + ":" + hash + "\n"
	if create {
		return editUsers(path, true, func([]string) ([]string, error) { return []string{line}, nil })
	}
	return editUsers(path, false, func(lines []string) ([]string, error) {
		if i := lineOf(lines, name); i >= 0 {
			lines[i] = line
			return lines, nil
		}
		if n := len(lines); n > 0 && !strings.HasSuffix(lines[n-1], "\n") {
			lines[n-1] += "\n"
		}
		return append(lines, line), nil
	})
}

// RemoveUser takes a user out of a password file, in the way of SetPassword. It fails if there is no such user.
func RemoveUser(path, name string) error {
	return editUsers(path, false, func(lines []string) ([]string, error) {
		i := lineOf(lines, name)
		if i < 0 {
			return nil, fmt.Errorf("no user %q", name)
		}
		return append(lines[:i], lines[i+1:]...), nil
	})
}

func lineOf(lines []string, name string) int {
	for i, line := range lines {
		if strings.HasPrefix(line, name+":") && name[0] != '#' {
			return i
		}
	}
	return -1
}

// editUsers replaces a password file by what edit makes of its lines. Two at a time wait for each other.
func editUsers(path string, create bool, edit func(lines []string) ([]string, error)) error {
	err := func() error {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real // the link stays
		}
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }() // only read from
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
			return fmt.Errorf("lock the folder: %w", err)
		}
		old, err := os.Stat(path)
		switch {
		case create && err == nil:
			return fmt.Errorf("%s is there already", path)
		case create && errors.Is(err, fs.ErrNotExist):
			if old, err = dir.Stat(); err != nil {
				return err
			}
			return replaceUsers(dir, path, old, UserFileMode, edit)
		case err != nil:
			return err
		}
		return replaceUsers(dir, path, old, old.Mode().Perm(), edit)
	}()
	if err != nil {
		return fmt.Errorf("broker: password file: %w", err)
	}
	return nil
}

// replaceUsers does the work of editUsers. The new file gets owner and group of old, which is the file, or its folder.
func replaceUsers(dir *os.File, path string, old fs.FileInfo, mode fs.FileMode, edit func(lines []string) ([]string, error)) (err error) {
	var text []byte
	if !old.IsDir() {
		if text, err = readBounded(path, maxUserFile); err != nil {
			return err
		}
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		lines = append(lines, line)
	}
	if lines, err = edit(lines); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	whole := []byte(strings.Join(lines, ""))
	if _, err := parseUsers(whole); err != nil {
		return fmt.Errorf("%s would not be accepted: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".forebay-passwd-*")
	if err != nil {
		return err
	}
	replaced := false
	defer func() {
		err = errors.Join(err, f.Close())
		if !replaced {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := setOwner(f, old); err != nil {
		return err
	}
	_, err = f.Write(whole)
	if err = errors.Join(err, f.Chmod(mode)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	replaced = true
	return dir.Sync()
}

// setOwner gives f to the owner and group of another file, as far as they differ. For a folder, whose owner may be root
// while somebody else writes there, the group alone is tried.
func setOwner(f *os.File, of fs.FileInfo) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	has, want := mine.Sys().(*syscall.Stat_t), of.Sys().(*syscall.Stat_t)
	if of.IsDir() {
		_ = f.Chown(-1, int(want.Gid)) // whoever may not has a file of his own group
		return nil
	}
	if has.Uid == want.Uid && has.Gid == want.Gid {
		return nil
	}
	if err := f.Chown(int(want.Uid), int(want.Gid)); err != nil {
		return fmt.Errorf("keep the owner of %s: %w", of.Name(), err)
	}
	return nil
}
