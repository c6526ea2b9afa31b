package broker

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
		if got := u.verify(test.name, []byte(test.password)); got != test.want {
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
			if !u.verify("alice", []byte("secret")) || !u.verify("bob", []byte("pässwörd with spaces")) {
				t.Error("right passwords were refused")
			}
			if u.verify("alice", []byte("pässwörd with spaces")) || u.verify("bob", nil) {
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
		{"other hash", "alice:$argon2id$v=19$m=47104,t=1,p=1$c2FsdA$a2V5", "line 1: password is not hashed"},
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
			if name == "" || len(h.key) == 0 || h.iterations > maxIterations {
				t.Fatalf("accepted user %q with %d iterations and a key of %d bytes", name, h.iterations, len(h.key))
			}
		}
	})
}
