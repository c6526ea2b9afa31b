package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"forebay/broker"
)

// passwd is the tool that edits password files.
type passwd struct {
	create, remove, stdin bool
	hash                  string
}

// longestPassword is what the broker looks at, in bytes.
const longestPassword = 4096

func newPasswd() *cobra.Command {
	p := &passwd{}
	cmd := &cobra.Command{
		Use:   "passwd FILE USER",
		Short: "set the password of a user of the broker",
		Long: `Put a user and the hash of a password into a password file, or change the
password of one who is there. The password is asked for twice and not shown; it
is never an argument, which every user of the machine could read.

The file is replaced as a whole and keeps its owner, group and mode. A running
gateway takes the new one within seconds: whoever is connected with a password
that is no longer right is disconnected.`,
		Example: `  forebay passwd -c /etc/forebay/passwd press4
  pwgen -s 20 1 | tee press4.password | forebay passwd --stdin /etc/forebay/passwd press4
  forebay passwd -D /etc/forebay/passwd press4`,
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error { return p.run(cmd, args[0], args[1]) },
	}
	cmd.Flags().BoolVarP(&p.create, "create", "c", false, "make FILE, for its owner and its group (mode 0640)")
	cmd.Flags().BoolVarP(&p.remove, "delete", "D", false, "remove USER from FILE")
	cmd.Flags().BoolVar(&p.stdin, "stdin", false, "read the password from the first line of standard input")
	cmd.Flags().StringVar(&p.hash, "hash", broker.Argon2id, "`HASH` to store: "+broker.Argon2id+"; "+broker.SHA512PBKDF2+", which Mosquitto 2.0 reads too; or "+broker.ScramSHA256+", for clients that log in with SCRAM")
	cmd.MarkFlagsMutuallyExclusive("create", "delete")
	cmd.MarkFlagsMutuallyExclusive("stdin", "delete")
	return cmd
}

func (p *passwd) run(cmd *cobra.Command, file, user string) error {
	if p.remove {
		return broker.RemoveUser(file, user)
	}
	if hashes := []string{broker.Argon2id, broker.SHA512PBKDF2, broker.ScramSHA256}; !slices.Contains(hashes, p.hash) {
		return usage(cmd, "--hash: %q is none; write one of %s", p.hash, strings.Join(hashes, ", "))
	}
	// Nobody is to type a password twice to learn that the file is not there.
	if _, err := os.Stat(file); (err == nil) == p.create {
		if p.create {
			return fmt.Errorf("forebay passwd: %s is there already: leave -c out to add a user to it", file)
		}
		return fmt.Errorf("forebay passwd: %w (-c makes it)", err)
	}
	password, err := p.password(cmd)
	if err != nil {
		return fmt.Errorf("forebay passwd: %w", err)
	}
	hash, err := broker.HashPassword(p.hash, password)
	clear(password)
	if err != nil {
		return err
	}
	return broker.SetPassword(file, user, hash, p.create)
}

// password reads the password.
func (p *passwd) password(cmd *cobra.Command) ([]byte, error) {
	if p.stdin {
		return passwordLine(bufio.NewReaderSize(cmd.InOrStdin(), 2*longestPassword))
	}
	if !isTerminal(os.Stdin) {
		return nil, errors.New("standard input is no terminal: use --stdin to read the password from it")
	}
	restore, err := hideInput(os.Stdin)
	if err != nil {
		return nil, fmt.Errorf("hide the password: %w", err)
	}
	defer restore()
	in := bufio.NewReaderSize(os.Stdin, 2*longestPassword)
	first, err := ask(cmd.ErrOrStderr(), in, "Password: ")
	if err != nil {
		return nil, err
	}
	second, err := ask(cmd.ErrOrStderr(), in, "Password again: ")
	if err != nil {
		return nil, err
	}
	defer clear(second)
	if !bytes.Equal(first, second) {
		return nil, errors.New("the passwords differ; nothing was changed")
	}
	return first, nil
}

func ask(out io.Writer, in *bufio.Reader, prompt string) ([]byte, error) {
	if _, err := fmt.Fprint(out, prompt); err != nil {
		return nil, err
	}
	password, err := passwordLine(in)
	_, _ = fmt.Fprintln(out) // the newline that was typed is not shown either
	return password, err
}

// passwordLine reads one line, the last of which may lack its end.
func passwordLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
		return nil, err
	}
	password := bytes.Clone(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")))
	clear(line)
	switch {
	case len(password) == 0:
		return nil, errors.New("the password is empty")
	case len(password) > longestPassword:
		return nil, fmt.Errorf("the password is longer than %d bytes", longestPassword)
	}
	return password, nil
}

// hideInput keeps a terminal from showing what is typed until restore is called, or a signal ends the process.
func hideInput(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	// A terminal that stayed mute would be worse than an error that nobody can act on.
	show := func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		if _, ok := <-interrupted; ok {
			show()
			os.Exit(exitFailure)
		}
	}()
	mute := *before
	mute.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &mute); err != nil {
		return nil, err
	}
	return func() {
		signal.Stop(interrupted)
		close(interrupted)
		show()
	}, nil
}
