package broker

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// needPeer returns the path of a program that the test talks to, and skips the test without it, except in CI.
func needPeer(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
			if path, err = exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path
			}
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// The hashes were made by mosquitto_passwd 2.0.11.
const userLines = "# devices\r\n" +
	"alice:$7$101$LlUmMfbn2S6fUDvd$dgPxrXibCATNIDBjrjgTKjiw26moc6/FcOL9i3T9tHYSQ3pPn8jGZtksL/+zAP6C856g/vE2VX5KqgIGEPfePg==\n" +
	"\n" +
	"bob:$7$101$yiHljqRQtSYGhD/I$lAZ9dx4YMXWyqovEo62tYmdnrSTaC6Inp7ES82YNqUjZjRzLtAmxDaytLgPn+oEuFGV6whSLYYptdpj9xt7FLw=="

func TestUsersVerify(t *testing.T) {
	u, err := parseUsers([]byte(userLines))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, password string
		want           bool
	}{
		{"alice", "secret", true},
		{"bob", "se:cret", true},
		{"alice", "se:cret", false},
		{"alice", "", false},
		{"ALICE", "secret", false},
		{"carol", "secret", false},
		{"", "", false},
		{"# devices", "", false},
	} {
		if got := u.verify(test.name, []byte(test.password)) != nil; got != test.want {
			t.Errorf("verify(%q, %q) = %v", test.name, test.password, got)
		}
	}
}

func TestUsersOfRealProgram(t *testing.T) {
	program := needPeer(t, "mosquitto_passwd")
	for _, hash := range []string{"sha512-pbkdf2", "sha512"} {
		t.Run(hash, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "passwd")
			for i, user := range [][2]string{{"alice", "secret"}, {"bob", "pässwörd with spaces"}} {
				args := []string{"-H", hash, "-b", file, user[0], user[1]}
				if i == 0 {
					args = append([]string{"-c"}, args...)
				}
				if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			u, err := loadUsers(file)
			if err != nil {
				t.Fatal(err)
			}
			if u.verify("alice", []byte("secret")) == nil || u.verify("bob", []byte("pässwörd with spaces")) == nil {
				t.Error("right passwords were refused")
			}
			if u.verify("alice", []byte("pässwörd with spaces")) != nil || u.verify("bob", nil) != nil {
				t.Error("wrong passwords were accepted")
			}
		})
	}
}

func TestUsersProblems(t *testing.T) {
	good := "$7$101$LlUmMfbn2S6fUDvd$dgPxrXibCATNIDBjrjgTKjiw26moc6/FcOL9i3T9tHYSQ3pPn8jGZtksL/+zAP6C856g/vE2VX5KqgIGEPfePg=="
	for _, test := range []struct{ name, file, want string }{
		{"no colon", "alice", "line 1: want name:hash"},
		{"no name", ":" + good, "line 1: want name:hash"},
		{"plain text", "\nalice:secret", "line 2: password is not hashed"},
		{"other hash", "alice:$2y$10$secretsecret", "line 1: password is not hashed"},
		{"argon2id of an older version", "alice:$argon2id$v=16$m=64,t=1,p=1$c2FsdHNhbHQ$a2V5", "must be of version 19"},
		{"argon2id of a gigabyte", "alice:$argon2id$v=19$m=1048576,t=1,p=1$c2FsdHNhbHQ$a2V5", "m must be between 1 and 65536"},
		{"argon2id of an hour", "alice:$argon2id$v=19$m=64,t=4294967296,p=1$c2FsdHNhbHQ$a2V5", "t must be between 1 and 16"},
		{"argon2id of many lanes", "alice:$argon2id$v=19$m=64,t=1,p=5$c2FsdHNhbHQ$a2V5", "p must be between 1 and 4"},
		{"argon2id of no memory", "alice:$argon2id$v=19$m=8,t=1,p=2$c2FsdHNhbHQ$a2V5", "8 KiB for each lane"},
		{"argon2id without lanes", "alice:$argon2id$v=19$m=64,t=1$c2FsdHNhbHQ$a2V5", "want m=KIB"},
		{"argon2id with something else", "alice:$argon2id$v=19$m=64,t=1,p=1,x=2$c2FsdHNhbHQ$a2V5", "hash is damaged"},
		{"argon2id with a short key", "alice:$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$a2V5", "hash is damaged"},
		{"not Base64", "alice:$7$101$!!$!!", "hash is damaged"},
		{"short key", "alice:$7$101$c2FsdHNhbHQ=$a2V5", "hash is damaged"},
		{"no iterations", strings.Replace("alice:"+good, "$101$", "$0$", 1), "iterations must be between"},
		{"too many iterations", strings.Replace("alice:"+good, "$101$", "$9999999999$", 1), "iterations must be between"},
		{"twice", "alice:" + good + "\nalice:" + good, `line 2: user "alice" is there twice`},
		{"all at once", "x\ny", "line 1: want name:hash\nline 2: want name:hash"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseUsers([]byte(test.file))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			if strings.Contains(err.Error(), "dgPxrX") || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestUsersFileProblems(t *testing.T) {
	if _, err := loadUsers(filepath.Join(t.TempDir(), "missing")); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("error %v does not name the missing file", err)
	}
	if _, err := loadUsers(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("error %v for a directory", err)
	}
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte(userLines))
	f.Add([]byte("alice:$6$c2FsdA==$a2V5"))
	f.Add([]byte("a:$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$a2V5a2V5a2V5a2V5a2V5a2V5"))
	f.Add([]byte("a:$7$1$$\n:\n#\n\r\n"))
	f.Add([]byte("a:$scram-sha-256$4096$W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=$wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := parseUsers(b)
		if err != nil {
			return
		}
		for name, h := range u.users {
			if s := h.scram; s != nil {
				if len(s.salt) == 0 || len(s.storedKey) != 32 || len(s.serverKey) != 32 || s.iterations > maxIterations {
					t.Fatalf("accepted user %q with %+v", name, s)
				}
				continue
			}
			if name == "" || len(h.key) == 0 || h.rounds > maxIterations || h.memory > maxMemory || h.kind == hashArgon2id && h.rounds > maxPasses {
				t.Fatalf("accepted user %q with %d rounds, %d KiB and a key of %d bytes", name, h.rounds, h.memory, len(h.key))
			}
			if h.kind != hashSHA512 {
				if again, err := parseHash(h.text()); err != nil || !again.equal(h) {
					t.Fatalf("%q is read back as another: %v", h.text(), err)
				}
			}
		}
	})
}

// The hash was made by the reference implementation: echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1.
func TestArgon2idOfTheReference(t *testing.T) {
	u, err := parseUsers([]byte("a:$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"))
	if err == nil && u.verify("a", []byte("password")) == nil {
		t.Error("the right password is wrong")
	}
	if err != nil || u.verify("a", []byte("passwort")) != nil {
		t.Errorf("a wrong password is right, or %v", err)
	}
}

func TestHashPassword(t *testing.T) {
	for _, kind := range []string{Argon2id, SHA512PBKDF2, ScramSHA256} {
		text, err := HashPassword(kind, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := HashPassword(kind, []byte("secret"))
		if err != nil || again == text {
			t.Errorf("%s: the same salt twice: %v", kind, err)
		}
		h, err := parseHash(text)
		if err != nil || !h.matches([]byte("secret")) || h.matches([]byte("Secret")) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := HashPassword("crypt", []byte("x")); err == nil {
		t.Error("a hash that does not exist was made")
	}
}

// A file for both: Mosquitto accepts what SetPassword writes with SHA512PBKDF2.
func TestPasswordForMosquitto(t *testing.T) {
	broker, pub := needPeer(t, "mosquitto"), needPeer(t, "mosquitto_pub")
	dir := t.TempDir()
	hash, err := HashPassword(SHA512PBKDF2, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	file, socket := filepath.Join(dir, "passwd"), filepath.Join(dir, "m.sock")
	if err := SetPassword(file, "alice", hash, true); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "mosquitto.conf")
	text := "user root\nlistener 0 " + socket + "\npassword_file " + file + "\nallow_anonymous false\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(broker, "-c", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it may have ended, of which the test has told
		_ = cmd.Wait()
	}()
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("mosquitto does not listen")
		}
	}
	for password, ok := range map[string]bool{"secret": true, "wrong": false} {
		out, err := exec.Command(pub, "--unix", socket, "-u", "alice", "-P", password, "-t", "x", "-m", "y").CombinedOutput()
		if (err == nil) != ok {
			t.Errorf("password %s: %v: %s", password, err, out)
		}
	}
}
