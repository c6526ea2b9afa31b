package broker

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// passwordHash is what is known of one password. It is not changed once it is made.
type passwordHash struct {
	kind      hashKind
	rounds    uint32 // iterations of PBKDF2, passes of Argon2
	memory    uint32 // of Argon2, in KiB
	lanes     uint8  // of Argon2
	salt, key []byte
	scram     *scramSecret // instead of all these but kind
}

type hashKind byte

const (
	hashSHA512   hashKind = iota // $6$: one SHA-512 of password and salt
	hashPBKDF2                   // $7$: PBKDF2 with HMAC-SHA-512
	hashArgon2id                 // $argon2id$v=19$
	hashScram                    // see scramSecret
)

// The hashes that HashPassword makes, by the names that mosquitto_passwd has for them.
const (
	Argon2id     = "argon2id"
	SHA512PBKDF2 = "sha512-pbkdf2"
	ScramSHA256  = "scram-sha-256" // for SCRAM of 5.0, and for passwords that are sent as well
)

// What a line of a password file may demand of every login: about a second, and maxMemory for as long.
const (
	maxIterations = 2_000_000
	maxMemory     = 64 << 10 // KiB
	maxPasses     = 16
	maxLanes      = 4
	maxSalt       = 1024
	maxKey        = 128
	minArgonSalt  = 8
	minArgonKey   = 16
)

// What HashPassword uses. Argon2 takes 19 MiB for some 50 ms of a small machine (OWASP's second choice: one login at a
// time must fit beside everything else into 128 MB).
const (
	argonMemory      = 19 << 10 // KiB
	argonPasses      = 2
	argonKey         = 32
	pbkdf2Iterations = 20_000
	scramIterations  = 15_000 // they are the client's work; RFC 7677 thinks that these are enough
	argonSalt        = 16
	pbkdf2Salt       = 12 // Mosquitto 2.0 reads no other
)

var errNoHash = errors.New("password is not hashed in a known way: write it with forebay passwd, or mosquitto_passwd (argon2id, sha512-pbkdf2, sha512)")

var errDamaged = errors.New("hash is damaged")

// HashPassword returns the text that stands for a password in a password file: of the kind Argon2id, SHA512PBKDF2 or
// ScramSHA256.
func HashPassword(kind string, password []byte) (string, error) {
	var h passwordHash
	switch kind {
	case Argon2id:
		h = passwordHash{kind: hashArgon2id, rounds: argonPasses, memory: argonMemory, lanes: 1, salt: make([]byte, argonSalt), key: make([]byte, argonKey)}
	case SHA512PBKDF2:
		h = passwordHash{kind: hashPBKDF2, rounds: pbkdf2Iterations, salt: make([]byte, pbkdf2Salt)}
	case ScramSHA256:
		s, err := newScramSecret(password, scramIterations)
		if err != nil {
			return "", err
		}
		return s.String(), nil
	default:
		return "", fmt.Errorf("broker: hash a password: %q is no hash; there are %s, %s and %s", kind, Argon2id, SHA512PBKDF2, ScramSHA256)
	}
	_, err := rand.Read(h.salt)
	if err != nil {
		return "", fmt.Errorf("broker: hash a password: %w", err)
	}
	if h.key, err = h.compute(password); err != nil {
		return "", fmt.Errorf("broker: hash a password: %w", err)
	}
	return h.text(), nil
}

// text writes the hash as it stands in a file.
func (h *passwordHash) text() string {
	if h.kind == hashArgon2id {
		b64 := base64.RawStdEncoding
		return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.rounds, h.lanes,
			b64.EncodeToString(h.salt), b64.EncodeToString(h.key))
	}
	b64 := base64.StdEncoding
	return fmt.Sprintf("$7$%d$%s$%s", h.rounds, b64.EncodeToString(h.salt), b64.EncodeToString(h.key))
}

// parseHash reads the part of a line behind the name. No error holds anything of it.
func parseHash(text string) (*passwordHash, error) {
	fields := strings.Split(text, "$")
	switch {
	case len(fields) > 1 && fields[1] == scramTag:
		s, err := parseScram(fields)
		return &passwordHash{kind: hashScram, scram: &s}, err
	case len(fields) == 6 && fields[0] == "" && fields[1] == "argon2id":
		return parseArgon2id(fields[2:])
	case len(fields) == 5 && fields[0] == "" && fields[1] == "7":
		n, err := strconv.Atoi(fields[2])
		if err != nil || n < 1 || n > maxIterations {
			return nil, fmt.Errorf("iterations must be between 1 and %d", maxIterations)
		}
		return parseSHA512(passwordHash{kind: hashPBKDF2, rounds: uint32(n)}, fields[3:])
	case len(fields) == 4 && fields[0] == "" && fields[1] == "6":
		return parseSHA512(passwordHash{kind: hashSHA512}, fields[2:])
	}
	return nil, errNoHash
}

func parseSHA512(h passwordHash, fields []string) (*passwordHash, error) {
	var err1, err2 error
	h.salt, err1 = base64.StdEncoding.DecodeString(fields[0])
	h.key, err2 = base64.StdEncoding.DecodeString(fields[1])
	if err1 != nil || err2 != nil || len(h.salt) == 0 || len(h.salt) > maxSalt || len(h.key) != sha512.Size {
		return nil, errDamaged
	}
	return &h, nil
}

// parseArgon2id reads what follows the name in the PHC string format: version, parameters, salt, hash.
func parseArgon2id(fields []string) (*passwordHash, error) {
	if fields[0] != "v="+strconv.Itoa(argon2.Version) {
		return nil, fmt.Errorf("argon2id must be of version %d", argon2.Version)
	}
	h := &passwordHash{kind: hashArgon2id}
	var lanes uint32
	for i, p := range strings.Split(fields[1], ",") {
		if i > 2 {
			return nil, errDamaged
		}
		name, most := [...]string{"m=", "t=", "p="}[i], [...]uint64{maxMemory, maxPasses, maxLanes}[i]
		digits, ok := strings.CutPrefix(p, name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("argon2id: %s must be between 1 and %d", name[:1], most)
		}
		*[...]*uint32{&h.memory, &h.rounds, &lanes}[i] = uint32(n)
	}
	h.lanes = uint8(lanes)
	if lanes == 0 || h.memory < 8*lanes {
		return nil, errors.New("argon2id: want m=KIB,t=PASSES,p=LANES, and 8 KiB for each lane at least")
	}
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.DecodeString(fields[2])
	h.key, err2 = base64.RawStdEncoding.DecodeString(fields[3])
	if err1 != nil || err2 != nil || len(h.salt) < minArgonSalt || len(h.salt) > maxSalt || len(h.key) < minArgonKey || len(h.key) > maxKey {
		return nil, errDamaged
	}
	return h, nil
}

// matches reports whether the password is the one. It computes for up to a second and may take maxMemory: never call it
// in the loop, and not in more goroutines than the machine can bear.
func (h *passwordHash) matches(password []byte) bool {
	if h.kind == hashScram {
		return h.scram.matches(password)
	}
	got, err := h.compute(password)
	return err == nil && subtle.ConstantTimeCompare(got, h.key) == 1
}

// compute hashes a password in the way of h, which is not that of SCRAM. It fails in FIPS mode only, for a short salt.
func (h *passwordHash) compute(password []byte) ([]byte, error) {
	switch h.kind {
	case hashArgon2id:
		return argon2.IDKey(password, h.salt, h.rounds, h.memory, h.lanes, uint32(len(h.key))), nil
	case hashPBKDF2:
		return pbkdf2.Key(sha512.New, string(password), h.salt, int(h.rounds), sha512.Size)
	default:
		sum := sha512.Sum512(bytes.Join([][]byte{password, h.salt}, nil))
		return sum[:], nil
	}
}

// equal reports whether both stand for the same line of a file. Either may be nil.
func (h *passwordHash) equal(other *passwordHash) bool {
	if h == nil || other == nil {
		return h == other
	}
	if h.kind == hashScram && other.kind == hashScram {
		return h.scram.String() == other.scram.String()
	}
	return h.kind == other.kind && h.rounds == other.rounds && h.memory == other.memory && h.lanes == other.lanes &&
		bytes.Equal(h.salt, other.salt) && bytes.Equal(h.key, other.key)
}
