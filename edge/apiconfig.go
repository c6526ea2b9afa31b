package edge

import (
	"net"
	"os"
	"path/filepath"
	"strings"
)

// APIConfig says where the gateway can be asked and told what to do.
type APIConfig struct {
	// Socket is the path of the control socket, a Unix socket that speaks HTTP
	// and has the mode 0660 and the group of the process. Default: control.sock
	// in the folder that systemd made for the service (RuntimeDirectory=);
	// without one there is no control socket.
	Socket string `mapstructure:"socket"`

	// Listen is host:port for those who only look: /metrics, /healthz and
	// /readyz over plain HTTP, without a password. Empty, the default: nowhere.
	Listen string `mapstructure:"listen"`
}

// ControlSocket is where a packaged gateway has its control socket.
const ControlSocket = "/run/forebay/" + socketName

const (
	socketName = "control.sock"
	maxSocket  = 107 // bytes of a path that the kernel takes, see unix(7)
)

// SetDefaults fills in what is empty and has a default.
func (c *APIConfig) SetDefaults() {
	// systemd names several folders with colons between them.
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); c.Socket == "" && filepath.IsAbs(dir) {
		c.Socket = filepath.Join(dir, socketName)
	}
}

// Validate reports every problem with the path of its key.
func (c *APIConfig) Validate(report func(path, problem string)) {
	if len(c.Socket) > maxSocket {
		report("socket", "is longer than the 107 bytes that a socket's path may have; choose a shorter one")
	}
	if c.Listen == "" {
		return
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		report("listen", "must be an address and a port, such as 127.0.0.1:9180")
	}
}
