package storage

import (
	"time"
)

// Config says where the log lives and what it may cost. The zero value of each
// field means its default.
type Config struct {
	// Path is the directory of the store. It is created (0700) if missing;
	// its parent must exist. Default: /var/lib/forebay.
	Path string `mapstructure:"path"`

	// MaxSize bounds the bytes that all files of the store take together, the
	// journal (1/16 of it, at most 8 MiB) and a reserve for a full disk (1 MiB
	// more than that) included.
	// Appends that would exceed it are refused with a FullError, whatever
	// the policies of the consumers. At least 8 MiB. Default: 2 GiB.
	MaxSize int64 `mapstructure:"max_size"`

	// MaxAckDelay is the longest time that a message to live consumers
	// (see Cursor.SetLive) may wait in memory for their acknowledgements
	// before it is committed. 0 commits at once; at most 10 s. SetDefaults
	// leaves it alone: zero is a meaning, not an absence.
	MaxAckDelay time.Duration `mapstructure:"max_ack_delay"`
}

const (
	minSize     = 8 << 20
	maxAckDelay = 10 * time.Second
)

// SetDefaults fills the fields that are zero.
func (c *Config) SetDefaults() {
	if c.Path == "" {
		c.Path = "/var/lib/forebay"
	}
	if c.MaxSize == 0 {
		c.MaxSize = 2 << 30
	}
}

// Validate reports every problem with the path of its key. It expects
// SetDefaults to have been called.
func (c *Config) Validate(report func(path, problem string)) {
	if c.Path == "" {
		report("path", "missing")
	}
	if c.MaxSize < minSize {
		report("max_size", "must be at least 8MiB")
	}
	if c.MaxAckDelay < 0 || c.MaxAckDelay > maxAckDelay {
		report("max_ack_delay", "must be between 0 and 10s")
	}
}
