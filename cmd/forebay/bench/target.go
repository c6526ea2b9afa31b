package bench

import (
	"crypto/pbkdf2"
	"crypto/sha512"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Target is a broker to be measured. It is started afresh where a measurement wants a process without a past.
type Target struct {
	Name string
	// Command starts it, {port} and {dir} being replaced. Empty: one of ours, or Address.
	Command []string
	// Address and PID are of a broker that runs already; PID 0: only traffic is measured.
	Address string
	PID     int
	config  func(site) string // written to {dir}/config before Command is run
	durable bool              // it can be told to have every change on disk before it acknowledges
}

// site is where a broker under measurement lives.
type site struct {
	dir     string
	port    int
	secure  int // the port with TLS
	durable bool
}

// The one user of all benchmarks.
const (
	benchUser     = "bench"
	benchPassword = "bench password"
	benchTopics   = "bench/"
)

// Self is Forebay, from the program at path.
func Self(path string) Target {
	return Target{
		Name: "forebay", Command: []string{path, "run", "--config", "{dir}/config.yaml"}, durable: true,
		config: func(s site) string {
			return fmt.Sprintf(`log: {level: error}
storage: {path: %[1]q}
broker:
  listeners:
    - {address: "127.0.0.1:%[2]d"}
    - {address: "127.0.0.1:%[3]d", tls: {certificate: tls.crt, key: tls.key}}
  password_file: passwd
  acl_file: acl
  limits: {connections: 20000}
`, filepath.Join(s.dir, "store"), s.port, s.secure)
		},
	}
}

// mosquittoName is the column that budgets are relative to.
const mosquittoName = "mosquitto"

// Mosquitto is the Mosquitto that is installed; ok is false if there is none.
func Mosquitto() (t Target, ok bool) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			return t, false
		}
	}
	return Target{
		Name: mosquittoName, Command: []string{path, "-c", "{dir}/config.yaml"}, durable: true,
		config: func(s site) string {
			// Nagle's delay would be all that is measured, a queue of 1000 loses messages, and with its 20 in flight
			// Mosquitto 2.0.11 stops sending QoS 2 when more are queued than that.
			text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous false\npassword_file %s/passwd\nacl_file %s/acl\n"+
				"set_tcp_nodelay true\nlistener %d 127.0.0.1\ncertfile %s/tls.crt\nkeyfile %s/tls.key\nmax_queued_messages 100000\nmax_inflight_messages 0\nlog_type none\nconnection_messages false\n",
				s.port, s.dir, s.dir, s.secure, s.dir, s.dir)
			if os.Getuid() == 0 {
				text += "user root\n" // or it could not read what only we may
			}
			if s.durable {
				text += fmt.Sprintf("persistence true\npersistence_location %s/\nautosave_interval 1\nautosave_on_changes true\n", s.dir)
			}
			return text
		},
	}, true
}

// running is a broker that answers.
type running struct {
	process
	address string
	secure  string // the address with TLS; empty: none known
	child   *child // nil: not ours to stop
	dir     string
}

// open starts the target, or finds it where it runs already.
func (t Target) open(durable bool) (_ *running, err error) {
	if t.Address != "" {
		return &running{process: process{t.PID}, address: t.Address}, nil
	}
	r := &running{}
	if r.dir, err = os.MkdirTemp("", "forebay-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	s := site{dir: r.dir, durable: durable}
	if s.port, err = freePort(); err != nil {
		return nil, err
	}
	if s.secure, err = freePort(); err != nil {
		return nil, err
	}
	r.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
	if t.config != nil {
		r.secure = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.secure))
	}
	if err := t.write(s); err != nil {
		return nil, err
	}
	argv := make([]string, len(t.Command))
	for i, a := range t.Command {
		argv[i] = strings.NewReplacer("{dir}", s.dir, "{port}", strconv.Itoa(s.port)).Replace(a)
	}
	if r.child, err = launch(r.dir, argv); err != nil {
		return nil, err
	}
	r.process = r.child.process
	return r, r.wait(t.Name)
}

// write writes the files that brokers read.
func (t Target) write(s site) error {
	certificate, key, err := selfSigned()
	if err != nil {
		return err
	}
	files := map[string]string{
		"tls.crt": certificate, "tls.key": key,
		"passwd": benchUser + ":" + mosquittoHash(benchPassword) + "\n",
		"acl":    "user " + benchUser + "\ntopic readwrite " + benchTopics + "#\n",
	}
	if t.config != nil {
		files["config.yaml"] = t.config(s)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// wait returns when the broker accepts connections.
func (r *running) wait(name string) error {
	for deadline := time.Now().Add(answerTime); ; time.Sleep(10 * time.Millisecond) {
		w, err := r.login(login{clientID: "bench-wait"})
		if err == nil {
			return w.disconnect()
		}
		select {
		case end := <-r.child.ended:
			r.child.ended <- end // for stop
			return fmt.Errorf("bench: %s ends at once (%v):\n%s", name, end, r.child.output)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("bench: %s does not answer: %w", name, err)
		}
	}
}

// login opens an MQTT connection.
func (r *running) login(who login) (*wire, error) {
	who.username, who.password = benchUser, benchPassword
	return connect(func() (net.Conn, error) { return net.DialTimeout("tcp", r.address, answerTime) }, who)
}

// loginSecure is login over TLS. Whom the certificate names is not what is measured.
func (r *running) loginSecure(who login) (*wire, error) {
	who.username, who.password = benchUser, benchPassword
	return connect(func() (net.Conn, error) {
		return tls.DialWithDialer(&net.Dialer{Timeout: answerTime}, "tcp", r.secure, &tls.Config{InsecureSkipVerify: true})
	}, who)
}

func (r *running) close() {
	if r.child != nil {
		r.child.stop()
	}
	if r.dir != "" {
		// What a benchmark leaves behind is not worth an error; it is in the directory for such things.
		_ = os.RemoveAll(r.dir)
	}
}

// freePort returns a port that nobody listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// mosquittoHash is a password as a mosquitto_passwd file has it, with the salt of 12 bytes that Mosquitto insists on.
// The salt is no secret, and nothing here is either.
func mosquittoHash(password string) string {
	salt := []byte("bench salt 1")
	const iterations = 101
	key, err := pbkdf2.Key(sha512.New, password, salt, iterations, sha512.Size)
	if err != nil {
		panic("BUG: " + err.Error()) // the lengths are constant
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("$7$%d$%s$%s", iterations, b64(salt), b64(key))
}
