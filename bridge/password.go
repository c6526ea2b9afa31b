package bridge

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// commandTime bounds PasswordCommand, maxPassword what it says.
	commandTime = 10 * time.Second
	maxPassword = 65535 // what CONNECT has room for
	// tencentAppID is the same for all devices.
	tencentAppID = "12010126"
	// azureVersion is that of the interface of Azure IoT Hub that the default user name asks for.
	azureVersion = "2021-04-12"
)

// AzureSAS makes passwords as Azure IoT Hub wants them: a shared access signature, HMAC-SHA256 over resource and expiry.
type AzureSAS struct {
	// KeyFile holds the device's or the policy's key, in base64, in its first line. Empty: no such passwords.
	KeyFile string `mapstructure:"key_file"`

	// Resource is what the signature is for. {site} stands for the site. Default: the host of the first address,
	// /devices/ and the client identifier.
	Resource string `mapstructure:"resource"`

	// Policy names the shared access policy whose key it is. Empty: it is that of the device itself.
	Policy string `mapstructure:"policy"`
}

// TencentIoTHub makes user names with an expiry, and passwords that are HMAC-SHA256 over them, as Tencent Cloud's IoT
// Hub wants them.
type TencentIoTHub struct {
	// KeyFile holds the device's key, in base64, in its first line. Empty: no such passwords.
	KeyFile string `mapstructure:"key_file"`
}

// passwords counts the ways in which c has passwords made or read.
func (c *Config) passwords() int {
	n := 0
	for _, given := range []bool{c.PasswordFile != "", c.AzureSAS.KeyFile != "", c.TencentIoTHub.KeyFile != "", len(c.PasswordCommand) > 0} {
		if given {
			n++
		}
	}
	return n
}

func (c *Config) validatePassword(report func(path, problem string)) {
	if c.passwords() > 1 {
		report("password_file", "and azure_sas, tencent_iothub and password_command exclude each other: keep one")
	}
	azure, tencent := c.AzureSAS.KeyFile != "", c.TencentIoTHub.KeyFile != ""
	if c.Username == "" && (c.PasswordFile != "" || len(c.PasswordCommand) > 0) {
		report("username", "missing: a password without a username is not sent")
	}
	if tencent && c.Username != "" {
		report("username", "is made by tencent_iothub, with its expiry in it: leave it out")
	}
	if !azure && c.AzureSAS.Resource+c.AzureSAS.Policy != "" {
		report("azure_sas.key_file", "missing: which file holds the key?")
	}
	if _, err := expandSite(c.AzureSAS.Resource, siteExample); err != nil {
		report("azure_sas.resource", err.Error())
	}
	if len(c.PasswordCommand) > 0 && !strings.HasPrefix(c.PasswordCommand[0], "/") {
		report("password_command[0]", "must be the whole path of a program, such as /usr/local/bin/token")
	}
	if c.PasswordLifetime < time.Minute || c.PasswordLifetime > maxLifetime {
		report("password_lifetime", "must be between 1m and 87600h")
	}
}

// maxLifetime keeps expiries within what every cloud can count.
const maxLifetime = 10 * 365 * 24 * time.Hour

// expireIn sets when i is of no use any more, and a random time well before it for the renewal, so that gateways that
// started together do not renew together. Both are of the wall clock: they mean what the upstream's clock says, also when
// ours is set right after the start.
func (i *identity) expireIn(lifetime time.Duration) {
	now := time.Now().Round(0)
	i.expires = now.Add(lifetime)
	i.renew = now.Add(lifetime*3/4 + rand.N(lifetime/10))
}

// makePassword fills in user name, password and expiry and returns what makes them differ from others: not the signature,
// which differs every time. old is an identity that may serve again; nil: none.
func (b *Bridge) makePassword(ctx context.Context, i, old *identity) ([]byte, error) {
	var err error
	switch c := &b.cfg; {
	case c.PasswordFile != "":
		i.password, err = readSecret("password_file", c.PasswordFile)
		return i.password, err
	case c.AzureSAS.KeyFile != "":
		key, err := readKey("azure_sas.key_file", c.AzureSAS.KeyFile)
		if err != nil {
			return nil, err
		}
		i.expireIn(c.PasswordLifetime)
		i.password = azureToken(b.resource, c.AzureSAS.Policy, key, i.expires)
		return key, nil
	case c.TencentIoTHub.KeyFile != "":
		key, err := readKey("tencent_iothub.key_file", c.TencentIoTHub.KeyFile)
		if err != nil {
			return nil, err
		}
		i.expireIn(c.PasswordLifetime)
		i.username, i.password = tencentToken(b.clientID, strconv.FormatUint(uint64(rand.Uint32()), 36), key, i.expires)
		return key, nil
	case len(c.PasswordCommand) > 0:
		if old.valid(time.Now()) && time.Now().Before(old.renew) {
			i.password, i.expires, i.renew = old.password, old.expires, old.renew
			return i.password, nil
		}
		i.expireIn(c.PasswordLifetime) // from before the command began
		i.password, err = runCommand(ctx, c.PasswordCommand)
		return i.password, err
	}
	return nil, nil
}

// readKey reads a key in base64.
func readKey(key, path string) ([]byte, error) {
	line, err := readSecret(key, path)
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(line)))
	if err != nil || len(raw) == 0 {
		return nil, &fileError{key, fmt.Errorf("%s does not begin with a key in base64", path)} // the reason would show some of it
	}
	return raw, nil
}

func sign(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// azureToken returns a shared access signature: what is signed are the resource, as it stands in the token, and the
// expiry on a line of its own.
func azureToken(resource, policy string, key []byte, expires time.Time) []byte {
	escaped := url.QueryEscape(resource)
	expiry := strconv.FormatInt(expires.Unix(), 10)
	signature := base64.StdEncoding.EncodeToString(sign(key, escaped+"\n"+expiry))
	token := "SharedAccessSignature sr=" + escaped + "&sig=" + url.QueryEscape(signature) + "&se=" + expiry
	if policy != "" {
		token += "&skn=" + url.QueryEscape(policy)
	}
	return []byte(token)
}

// tencentToken returns the user name for a device, whose client identifier is that of its product and its name, and the
// signature of that user name. connection tells connections apart.
func tencentToken(device, connection string, key []byte, expires time.Time) (username string, password []byte) {
	username = device + ";" + tencentAppID + ";" + connection + ";" + strconv.FormatInt(expires.Unix(), 10)
	return username, []byte(hex.EncodeToString(sign(key, username)) + ";hmacsha256")
}

// runCommand returns the first line that a program prints. The program gets no environment but PATH, nothing to read, and
// commandTime; what it prints is never logged, not on its standard error either, for it may hold the password.
func runCommand(ctx context.Context, argv []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	out := &limited{room: maxPassword + 2}
	cmd.Stdout = out
	// A shell's children go with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	line, _, _ := bytes.Cut(out.text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case out.over:
		err = fmt.Errorf("%s prints more than %d bytes", argv[0], maxPassword)
	case ctx.Err() != nil:
		err = fmt.Errorf("%s does not end within %s", argv[0], commandTime)
	case err != nil:
		err = fmt.Errorf("%s: %w", argv[0], err)
	case len(line) == 0:
		err = fmt.Errorf("%s prints nothing in its first line", argv[0])
	}
	if err != nil {
		return nil, &fileError{"password_command", err}
	}
	return line, nil
}

// limited takes text up to a limit and refuses more.
type limited struct {
	text []byte
	room int
	over bool
}

var errOver = errors.New("bridge: password_command: too much output")

func (l *limited) Write(b []byte) (int, error) {
	if len(l.text)+len(b) > l.room {
		l.over = true
		return 0, errOver
	}
	l.text = append(l.text, b...)
	return len(b), nil
}
