package broker

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// userFile is a password file as mosquitto_passwd writes it: one "name:hash" a line, where the hash is
// "$7$iterations$salt$key" (PBKDF2 with HMAC-SHA-512, since Mosquitto 2.0) or "$6$salt$key" (one SHA-512 of password
// and salt, Mosquitto 1.6), salt and key in Base64, or a scramSecret. Empty lines and lines that begin with # are skipped. It is not
// changed once it is read, so any goroutine may ask it.
type userFile struct {
	users map[string]passwordHash
}

// passwordHash is what is known of one password.
type passwordHash struct {
	iterations int // of PBKDF2; 0: the single hash of $6$
	salt, key  []byte
	scram      *scramSecret // instead of all these
}

// Limits of a password file. The iterations bound what a login may cost: about a second.
const (
	maxUserFile   = 16 << 20
	maxIterations = 2_000_000
	maxSalt       = 1024
)

var errNoHash = errors.New("password is not hashed in a known way: write it with mosquitto_passwd (sha512-pbkdf2 or sha512)")

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
func (u *userFile) sorted() []passwordHash {
	var list []passwordHash
	for _, name := range slices.Sorted(maps.Keys(u.users)) {
		list = append(list, u.users[name])
	}
	return list
}

func parseUsers(b []byte) (*userFile, error) {
	u := &userFile{users: map[string]passwordHash{}}
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
		u.users[name] = h
	}
	return u, errors.Join(problems...)
}

func parseHash(text string) (passwordHash, error) {
	fields := strings.Split(text, "$")
	var h passwordHash
	switch {
	case len(fields) > 1 && fields[1] == scramTag:
		s, err := parseScram(fields)
		h.scram = &s
		return h, err
	case len(fields) == 5 && fields[0] == "" && fields[1] == "7":
		n, err := strconv.Atoi(fields[2])
		if err != nil || n < 1 || n > maxIterations {
			return h, fmt.Errorf("iterations must be between 1 and %d", maxIterations)
		}
		h.iterations = n
	case len(fields) == 4 && fields[0] == "" && fields[1] == "6":
	default:
		return h, errNoHash
	}
	var err1, err2 error
	h.salt, err1 = base64.StdEncoding.DecodeString(fields[len(fields)-2])
	h.key, err2 = base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err1 != nil || err2 != nil || len(h.salt) == 0 || len(h.salt) > maxSalt || len(h.key) != sha512.Size {
		return h, errors.New("hash is damaged")
	}
	return h, nil
}

// verify reports whether the password of the user is right. It takes as long for a user who does not exist as for
// one of mosquitto_passwd's default strength. It computes for up to a second: never call it in the loop.
func (u *userFile) verify(name string, password []byte) bool {
	h, known := u.users[name]
	if !known {
		h = passwordHash{iterations: 101, salt: []byte("nobody"), key: make([]byte, sha512.Size)}
	}
	return h.matches(password) && known
}

func (h passwordHash) matches(password []byte) bool {
	if h.scram != nil {
		return h.scram.matches(password)
	}
	var got []byte
	if h.iterations == 0 {
		sum := sha512.Sum512(bytes.Join([][]byte{password, h.salt}, nil))
		got = sum[:]
	} else {
		key, err := pbkdf2.Key(sha512.New, string(password), h.salt, h.iterations, sha512.Size)
		if err != nil { // only FIPS mode refuses, for a short salt
			return false
		}
		got = key
	}
	return subtle.ConstantTimeCompare(got, h.key) == 1
}
