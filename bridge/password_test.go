package bridge

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
)

// signingKey is what a cloud and its device share: the bytes 0 to 31.
const signingKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

func keyFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte(signingKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Both were computed by other programs.
func TestKnownSignatures(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString(signingKey)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1700000000, 0)
	if got, want := string(azureToken("hub.azure-devices.net/devices/press 4", "device", key, at)), "SharedAccessSignature sr=hub.azure-devices.net%2Fdevices%2Fpress+4&sig=Yga7FkgxuZUhEs9gOnzGwy1u4NlZU3otXwNyvm5zYGU%3D&se=1700000000&skn=device"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	user, password := tencentToken("PRODUCT1press4", "abc", key, at)
	if user != "PRODUCT1press4;12010126;abc;1700000000" || string(password) != "23099f9bc490ec106ee6337ff0d6ff60a89a4b62efbfe2619d80d2ca11f167b9;hmacsha256" {
		t.Errorf("got %s, %s", user, password)
	}
}

// verify recomputes a signature as a cloud does.
func verify(t *testing.T, text string, signature []byte) {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(signingKey)
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	if !hmac.Equal(h.Sum(nil), signature) {
		t.Errorf("wrong signature for %q", text)
	}
}

// verifyExpiry checks that an expiry in seconds is ahead, but not by more than an hour.
func verifyExpiry(t *testing.T, text string) {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if ahead := time.Until(time.Unix(n+1, 0)); err != nil || ahead < 0 || ahead > time.Hour+time.Second {
		t.Errorf("expiry %q", text)
	}
}

// azureHub checks a CONNECT as Azure IoT Hub does.
func azureHub(t *testing.T, hello *packet.Connect) {
	t.Helper()
	if want := "127.0.0.1/press4/?api-version=2021-04-12"; string(hello.Username) != want {
		t.Errorf("user name %s, want %s", hello.Username, want)
	}
	rest, ok := strings.CutPrefix(string(hello.Password), "SharedAccessSignature ")
	fields, err := url.ParseQuery(rest)
	if !ok || err != nil {
		t.Fatalf("password %s: %v", hello.Password, err)
	}
	if fields.Get("sr") != "127.0.0.1/devices/press4" || fields.Has("skn") {
		t.Errorf("fields %v", fields)
	}
	verifyExpiry(t, fields.Get("se"))
	signature, err := base64.StdEncoding.DecodeString(fields.Get("sig"))
	if err != nil {
		t.Errorf("signature: %v", err)
	}
	verify(t, "127.0.0.1%2Fdevices%2Fpress4\n"+fields.Get("se"), signature)
}

// tencentHub checks a CONNECT as Tencent's IoT Hub does.
func tencentHub(t *testing.T, hello *packet.Connect) {
	t.Helper()
	fields := strings.Split(string(hello.Username), ";")
	if len(fields) != 4 || fields[0] != "press4" || fields[1] != "12010126" || fields[2] == "" {
		t.Fatalf("user name %s", hello.Username)
	}
	verifyExpiry(t, fields[3])
	digits, ok := strings.CutSuffix(string(hello.Password), ";hmacsha256")
	signature, err := hex.DecodeString(digits)
	if !ok || err != nil {
		t.Errorf("password %s", hello.Password)
	}
	verify(t, string(hello.Username), signature)
}

// TestSignedPasswordsAreRenewedWithoutLosingTheSession: the clouds check every CONNECT, and the bridge comes again with
// another password before the one it has expires.
func TestSignedPasswordsAreRenewedWithoutLosingTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(*Config, string)
		check func(*testing.T, *packet.Connect)
	}{
		"azure_sas":      {func(c *Config, file string) { c.AzureSAS.KeyFile = file }, azureHub},
		"tencent_iothub": {func(c *Config, file string) { c.TencentIoTHub.KeyFile = file }, tencentHub},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			g := newGateway(t, u.address(), func(cfg *Config) {
				cfg.ClientID = "press4"
				c.set(cfg, keyFile(t))
				noReconnect(cfg)
			}, func(b *Bridge) {
				impatient(b)
				b.cfg.PasswordLifetime = 400 * time.Millisecond
			})
			var last *peerConn
			for i := range 4 {
				pc := u.accept()
				hello := pc.hello()
				c.check(t, hello)
				if hello.CleanStart != (i == 0) {
					t.Errorf("connection %d: clean start %v", i, hello.CleanStart)
				}
				pc.connack(packet.Connack{SessionPresent: i > 1})
				switch i {
				case 0:
					pc.wantEnd()
				case 1:
					g.broker.sendAll(1, "t", "a")
					pc.want("PUBLISH 1 up/t a #2")
				default:
					last.wantEnd()
					pc.want("PUBLISH 1 dup up/t a #2")
				}
				last = pc
			}
			g.stop()
			if g.lines.count("SharedAccess")+g.lines.count("hmacsha256")+g.lines.count(signingKey) != 0 {
				t.Errorf("secrets in the log:\n%s", g.lines)
			}
		})
	}
}

// program writes a shell script.
func program(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPasswordCommand(t *testing.T) {
	t.Setenv("FOREBAY_SECRET", "leaked")
	count := filepath.Join(t.TempDir(), "count")
	script := program(t, fmt.Sprintf("echo x >>%s\necho \"$1-$(grep -c x %s)-${FOREBAY_SECRET}$HOME\"\necho more; echo grumble >&2\n", count, count))
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		c.Username, c.PasswordCommand = "gw", []string{script, "an argument"}
	}, func(b *Bridge) {
		impatient(b)
		b.cfg.PasswordLifetime = time.Hour
	})
	accept := func(password string) *peerConn {
		t.Helper()
		c := u.accept()
		if hello := c.hello(); string(hello.Password) != password {
			t.Fatalf("password %q, want %q", hello.Password, password)
		}
		return c
	}
	c := accept("an argument-1-")
	c.connack(packet.Connack{})
	c.wantEnd()
	c = accept("an argument-1-")
	c.connack(packet.Connack{})
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	c.net.Close()
	c = accept("an argument-1-") // still good: the program is not asked at every attempt
	c.connack(packet.Connack{Reason: packet.ReasonBadUserNameOrPassword})
	c = accept("an argument-2-") // it was not
	c.connack(packet.Connack{SessionPresent: true})
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	g.stop()
	if g.lines.count("argument")+g.lines.count("grumble") != 0 {
		t.Errorf("log:\n%s", g.lines)
	}
}

func TestPasswordCommandIsBounded(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"fails":   {"echo secret; exit 3", "password_command: PROGRAM: exit status 3"},
		"nothing": {"exit 0", "prints nothing in its first line"},
		"endless": {"while :; do echo secretsecretsecretsecret; done", "prints more than 65535 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			script := program(t, c.text)
			_, err := runCommand(t.Context(), []string{script})
			if err == nil {
				t.Fatal("no error")
			}
			line := explain(err)
			if !strings.Contains(line, strings.ReplaceAll(c.want, "PROGRAM", script)) || strings.Contains(line, "secret") {
				t.Errorf("%s", line)
			}
		})
	}
	t.Run("gone", func(t *testing.T) {
		if _, err := runCommand(t.Context(), []string{"/no/such/program"}); err == nil || !strings.Contains(explain(err), "no such file") {
			t.Errorf("%v", err)
		}
	})
}

// TestHangingPasswordCommandDoesNotHoldUpTheEnd: it is stopped with its children.
func TestHangingPasswordCommandDoesNotHoldUpTheEnd(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "begun")
	script := program(t, "sleep 3600 & echo >"+pipe+"; wait\n")
	g := newGateway(t, "mqtt://127.0.0.1:1", func(c *Config) { c.Username, c.PasswordCommand = "gw", []string{script} }, nil)
	g.awaitStatus("the program", func(Status) bool {
		_, err := os.Stat(pipe)
		return err == nil
	})
	began := time.Now()
	g.stop()
	if took := time.Since(began); took > commandTime/2 {
		t.Errorf("it took %s", took)
	}
}

func TestPasswordsExcludeEachOther(t *testing.T) {
	cfg := testConfig("mqtt://host")
	cfg.PasswordFile, cfg.AzureSAS.Policy, cfg.TencentIoTHub.KeyFile, cfg.Username = "f", "p", "f", "u"
	cfg.PasswordCommand, cfg.PasswordLifetime = []string{"token"}, time.Second
	var paths []string
	cfg.Validate(func(path, _ string) { paths = append(paths, path) })
	if want := []string{"password_file", "username", "azure_sas.key_file", "password_command[0]", "password_lifetime"}; !slices.Equal(paths, want) {
		t.Errorf("problems at %q, want %q", paths, want)
	}
}

// FuzzKey reads keys from files that hold anything.
func FuzzKey(f *testing.F) {
	for _, text := range []string{signingKey + "\n", "", "=", "AAE", " AAEC \r\n", "\x00"} {
		f.Add([]byte(text))
	}
	name := filepath.Join(f.TempDir(), "key")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := readKey("k", name)
		if (len(key) == 0) != (err != nil) {
			t.Errorf("key %x, error %v", key, err)
		}
	})
}
