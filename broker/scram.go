package broker

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/xdg-go/scram"

	"forebay/broker/core"
	"forebay/broker/packet"
)

// scramMethod is the one authentication method of 5.0 that is offered (RFC 7677), to the users of the password file
// that have a secret for it.
const scramMethod = "SCRAM-SHA-256"

// scramSecret is what is stored of a password for SCRAM-SHA-256. It does not tell the password, and whoever steals it
// cannot log in with it. In the password file it is "$scram-sha-256$iterations$salt$StoredKey$ServerKey", the last
// three in Base64. A password that is sent as such can be checked with it too.
type scramSecret struct {
	iterations           int
	salt                 []byte
	storedKey, serverKey []byte // 32 bytes each
}

const (
	scramTag = "scram-sha-256"
	// minScramIterations is the least that RFC 7677 allows.
	minScramIterations = 4096
	scramSaltSize      = 16
	// maxScramData bounds what a client may send in one step.
	maxScramData = 4096
)

// newScramSecret makes the secret of a password, with a new salt. It computes for a while: never call it in the loop.
// A password with characters that RFC 4013 does not allow is an error.
func newScramSecret(password []byte, iterations int) (scramSecret, error) {
	salt := make([]byte, scramSaltSize)
	if _, err := rand.Read(salt); err != nil {
		return scramSecret{}, fmt.Errorf("broker: scram: %w", err)
	}
	return deriveScram(password, salt, iterations)
}

func deriveScram(password, salt []byte, iterations int) (scramSecret, error) {
	if iterations < minScramIterations || iterations > maxIterations {
		return scramSecret{}, fmt.Errorf("broker: scram: iterations must be between %d and %d", minScramIterations, maxIterations)
	}
	// The name is no part of the keys.
	c, err := scram.SHA256.NewClient("user", string(password), "")
	if err != nil {
		return scramSecret{}, fmt.Errorf("broker: scram: %w", err)
	}
	keys, err := c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: iterations})
	if err != nil {
		return scramSecret{}, fmt.Errorf("broker: scram: %w", err)
	}
	return scramSecret{iterations, salt, keys.StoredKey, keys.ServerKey}, nil
}

// String returns the secret as it stands in the password file.
func (s scramSecret) String() string {
	encode := base64.StdEncoding.EncodeToString
	return strings.Join([]string{"", scramTag, strconv.Itoa(s.iterations), encode(s.salt), encode(s.storedKey), encode(s.serverKey)}, "$")
}

// parseScram reads what String has written, cut at every $.
func parseScram(fields []string) (scramSecret, error) {
	var s scramSecret
	if len(fields) != 6 || fields[0] != "" || fields[1] != scramTag {
		return s, errNoHash
	}
	n, err := strconv.Atoi(fields[2])
	if err != nil || n < minScramIterations || n > maxIterations {
		return s, fmt.Errorf("iterations must be between %d and %d", minScramIterations, maxIterations)
	}
	s.iterations = n
	for i, to := range []*[]byte{&s.salt, &s.storedKey, &s.serverKey} {
		if *to, err = base64.StdEncoding.DecodeString(fields[3+i]); err != nil {
			return s, errors.New("hash is damaged")
		}
	}
	if len(s.salt) == 0 || len(s.salt) > maxSalt || len(s.storedKey) != sha256.Size || len(s.serverKey) != sha256.Size {
		return s, errors.New("hash is damaged")
	}
	return s, nil
}

// matches reports whether that is the password. It computes as long as newScramSecret.
func (s scramSecret) matches(password []byte) bool {
	got, err := deriveScram(password, s.salt, s.iterations)
	return err == nil && subtle.ConstantTimeCompare(got.storedKey, s.storedKey) == 1
}

// scramServer answers the SCRAM exchanges of one password file. A step costs a few hashes and is done in the loop.
type scramServer struct {
	server *scram.Server
}

// newScramServer returns nil if no user has a secret: then the method is not offered.
func newScramServer(users *userFile) *scramServer {
	// Names that nobody has get an exchange like any other, which fails at its end: with a salt that is always the
	// same for a name, and comes from the file, so that it is the same after a restart.
	decoy := sha256.New()
	iterations := 0
	for _, h := range users.sorted() {
		if h.scram != nil {
			iterations = max(iterations, h.scram.iterations)
			decoy.Write(h.scram.serverKey)
		}
	}
	if iterations == 0 {
		return nil
	}
	key := decoy.Sum(nil)
	derive := func(purpose, name string) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(purpose + name))
		return mac.Sum(nil)
	}
	server, err := scram.SHA256.NewServer(func(name string) (scram.StoredCredentials, error) {
		var s *scramSecret
		if h := users.users[name]; h != nil {
			s = h.scram
		}
		if s == nil {
			s = &scramSecret{iterations, derive("salt", name)[:scramSaltSize], derive("stored", name), derive("server", name)}
		}
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(s.salt), Iters: s.iterations}, StoredKey: s.storedKey, ServerKey: s.serverKey,
		}, nil
	})
	if err != nil {
		panic("BUG: broker: scram: " + err.Error())
	}
	return &scramServer{server}
}

// Authenticate answers one step of an enhanced authentication.
func (e *events) Authenticate(conn *core.Conn, step core.AuthStep) {
	s := streamOf(conn)
	answer := e.scramStep(s, step)
	if !answer.More {
		s.scram = nil
	}
	e.core.AuthResult(conn, answer)
}

func (e *events) scramStep(s *stream, step core.AuthStep) core.AuthAnswer {
	if e.scram == nil || step.Method != scramMethod {
		return core.AuthAnswer{Reason: packet.ReasonBadAuthenticationMethod}
	}
	if step.Begin {
		s.scram = e.scram.server.NewConversation()
		if step.Data == nil {
			return core.AuthAnswer{More: true} // the client waits to be asked for its first message
		}
	}
	refused := core.AuthAnswer{Reason: packet.ReasonNotAuthorized}
	if s.scram == nil || len(step.Data) > maxScramData || bytes.IndexByte(step.Data, 0) >= 0 {
		return refused
	}
	proof := s.scram.Username() != "" // what comes is no first message
	if proof && !e.logins.guard.allows(s.peer.Addr(), s.scram.Username(), time.Now()) {
		e.delayed++
		return core.AuthAnswer{Reason: packet.ReasonConnectionRateExceeded}
	}
	text, err := s.scram.Step(string(step.Data))
	switch {
	case err != nil && proof:
		e.failed++
		e.logins.noteWrong(s.peer.Addr(), s.scram.Username())
		return refused // whether it was the name or the password is not told
	case err != nil:
		return refused
	case !s.scram.Done():
		return core.AuthAnswer{More: true, Data: []byte(text)}
	case !s.scram.Valid() || s.scram.AuthzID() != "" && s.scram.AuthzID() != s.scram.Username():
		return refused // nobody acts for another
	}
	s.hash = e.logins.users.Load().users[s.scram.Username()]
	return core.AuthAnswer{Username: s.scram.Username(), Data: []byte(text)}
}
