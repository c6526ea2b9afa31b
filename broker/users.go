package broker

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// userFile is a password file as forebay passwd and mosquitto_passwd write it: one "name:hash" a line, where the hash is
// "$argon2id$v=19$m=KIB,t=PASSES,p=LANES$salt$key", "$7$iterations$salt$key" (PBKDF2 with HMAC-SHA-512, since Mosquitto
// 2.0) or "$6$salt$key" (one SHA-512 of password and salt, Mosquitto 1.6), salt and key in Base64, or a scramSecret.
// Empty lines and lines that begin with # are skipped. It is not changed once it is read, so any goroutine may ask it.
type userFile struct {
	users map[string]*passwordHash
	// decoy is what a name costs that is not there: as much as the first that is, so that time tells nobody which
	// names there are.
	decoy *passwordHash
	heavy bool // there are hashes that take much memory
}

// maxUserFile bounds the size of a password file, in bytes.
const maxUserFile = 16 << 20

// loadUsers reads a password file. The errors of all lines are joined; none holds anything of a hash.
func loadUsers(path string) (*userFile, error) {
	b, err := readBounded(path, maxUserFile)
	if err != nil {
		return nil, fmt.Errorf("broker: password file: %w", err)
	}
	u, err := parseUsers(b)
	if err != nil {
		return nil, fmt.Errorf("broker: password file %s: %w", path, err)
	}
	return u, nil
}

// readBounded reads a configuration file that must not be larger than limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

// sorted returns what is known of the passwords, by name.
func (u *userFile) sorted() []*passwordHash {
	var list []*passwordHash
	for _, name := range slices.Sorted(maps.Keys(u.users)) {
		list = append(list, u.users[name])
	}
	return list
}

func parseUsers(b []byte) (*userFile, error) {
	u := &userFile{
		users: map[string]*passwordHash{},
		decoy: &passwordHash{kind: hashPBKDF2, rounds: 101, salt: []byte("nobody"), key: make([]byte, sha512.Size)},
	}
	var problems []error
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, found := strings.Cut(line, ":")
		if !found || name == "" {
			problems = append(problems, fmt.Errorf("line %d: want name:hash", number))
			continue
		}
		h, err := parseHash(hash)
		if err == nil {
			if _, twice := u.users[name]; twice {
				err = fmt.Errorf("user %q is there twice", name)
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", number, err))
			continue
		}
		if len(u.users) == 0 {
			decoy := *h
			decoy.key = make([]byte, len(h.key))
			u.decoy = &decoy
		}
		u.users[name] = h
		u.heavy = u.heavy || h.kind == hashArgon2id
	}
	return u, errors.Join(problems...)
}

// verify checks a password and returns the hash that it fits; nil if it is wrong or there is no such user. It computes
// as passwordHash.matches does, and as long for a user who does not exist as for the first one who does.
func (u *userFile) verify(name string, password []byte) *passwordHash {
	h, known := u.users[name]
	if !known {
		h = u.decoy
	}
	if !h.matches(password) || !known {
		return nil
	}
	return h
}
