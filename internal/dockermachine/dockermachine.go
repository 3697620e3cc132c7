// Package dockermachine is hyve in docker-machine's language: its 22 words, with their
// output, their streams and their exit statuses, over hyve's own verbs. What scripts
// have been grepping for since 2016 is meant to be as it was in docker-machine 0.16.2;
// where hyve knows better, docs/docker-machine.md says so.
package dockermachine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/machinestore"
	"github.com/hyve-vm/hyve/internal/terminal"
)

// Name is how the program is called for it to speak this language.
const Name = "docker-machine"

// Called tells whether a program of that path speaks this language.
func Called(path string) bool { return filepath.Base(path) == Name }

// spoken is the version of docker-machine whose language this is.
const spoken = "0.16.2"

// Exit statuses, beside those of programs run in a machine.
const (
	exitFailure   = 1
	exitUsage     = 2 // docker-machine: 0, or 1 for create
	exitPreCreate = 3
)

// client is what every word has at hand.
type client struct {
	args    []string // the command line as typed
	version string   // hyve's
	getenv  func(string) string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	log     io.Writer // informs: stdout, but for words whose output a shell obeys

	home  machine.Home
	store machinestore.Store // docker-machine's own
	// misplaced is why there is no home: words that want one say so.
	misplaced error
	globals
}

// globals are what comes before the word.
type globals struct {
	debug, nativeSSH                     bool
	storage                              string
	caCert, caKey, clientCert, clientKey string
}

// exitError ends the program with a status; what there was to say has been said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// statusError is an error that has an exit status of its own.
type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }

// Main runs a command line and returns the exit status. version is hyve's.
func Main(args []string, version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it

	out := &lockedWriter{w: terminal.Clean(os.Stdout)}
	c := &client{args: args, version: version, getenv: os.Getenv, stdin: os.Stdin, stdout: out, stderr: terminal.Clean(os.Stderr), log: out}
	err := c.run(ctx)
	if err == nil && out.err != nil {
		err = fmt.Errorf("writing to standard output: %w", out.err)
	}
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(c.stderr, Name+": interrupted")
		return 128 + int(syscall.SIGINT)
	}
	c.complain(err)
	if status := (*statusError)(nil); errors.As(err, &status) {
		return status.status
	}
	return exitFailure
}

// complain prints an error and, where it knows one, the way out.
func (c *client) complain(err error) {
	fmt.Fprintln(c.stderr, err)
	if way := hint.Of(err); way != "" {
		fmt.Fprintln(c.stderr, way)
	}
}

// lockedWriter lets several machines speak at once, and remembers that nobody listens.
type lockedWriter struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.w.Write(p)
	if err != nil {
		l.err = err
	}
	return n, err
}

// inform prints a line of what is going on.
func (c *client) inform(format string, args ...any) { fmt.Fprintf(c.log, format+"\n", args...) }

// detail prints a line for those who asked for more.
func (c *client) detail(format string, args ...any) {
	if c.debug {
		fmt.Fprintf(c.stderr, format+"\n", args...)
	}
}

// run does what the command line says.
func (c *client) run(ctx context.Context) error {
	flags, show := c.globalFlags()
	rest, err := parse(flags, c.args[1:], false)
	if err != nil {
		return c.misuse(err, c.help)
	}
	if err := c.environment(flags); err != nil {
		return err
	}
	switch {
	case show.version:
		return c.printVersion()
	case show.help || len(rest) == 0:
		c.help()
		return nil
	}
	w := c.word(rest[0])
	if w == nil {
		return c.unknown(rest[0])
	}
	c.home, c.store, c.misplaced = places(c.storage, flags.Changed("storage-path"), c.getenv)
	return c.obey(ctx, w, rest[1:])
}

// obey runs a word with what follows it.
func (c *client) obey(ctx context.Context, w *word, args []string) error {
	if w.raw {
		return w.run(ctx, args)
	}
	args, err := parse(w.flags, args, true)
	if errors.Is(err, errHelp) {
		c.wordHelp(w)
		return nil
	}
	if err != nil {
		return c.misuse(err, func() { c.wordHelp(w) })
	}
	if !w.homeless && c.misplaced != nil {
		return c.misplaced
	}
	return w.run(ctx, args)
}

// environment takes from the environment what no flag has said.
func (c *client) environment(flags flagSet) error {
	if debug := c.getenv("MACHINE_DEBUG"); debug != "" && !flags.Changed("debug") {
		on, err := strconv.ParseBool(debug)
		if err != nil {
			return message("Error parsing boolean value from MACHINE_DEBUG: %w", err)
		}
		c.debug = on
	}
	for _, v := range []struct {
		flag, name string
		value      *string
	}{
		{"storage-path", "MACHINE_STORAGE_PATH", &c.storage},
		{"tls-ca-cert", "MACHINE_TLS_CA_CERT", &c.caCert},
		{"tls-ca-key", "MACHINE_TLS_CA_KEY", &c.caKey},
		{"tls-client-cert", "MACHINE_TLS_CLIENT_CERT", &c.clientCert},
		{"tls-client-key", "MACHINE_TLS_CLIENT_KEY", &c.clientKey},
	} {
		if value := c.getenv(v.name); value != "" && !flags.Changed(v.flag) {
			*v.value = value
		}
	}
	if native := c.getenv("MACHINE_NATIVE_SSH"); native != "" && !flags.Changed("native-ssh") {
		c.nativeSSH, _ = strconv.ParseBool(native) // as docker-machine has it
	}
	return nil
}

// places returns where hyve keeps its own things, and where docker-machine kept its:
// with a storage path both are there, unless HYVE_HOME says otherwise. A path that came
// by a flag overrules that as well.
func places(storage string, byFlag bool, getenv func(string) string) (machine.Home, machinestore.Store, error) {
	var base string
	if storage == "" {
		if home := getenv("HOME"); home != "" {
			base = filepath.Join(home, ".docker", "machine")
		}
		home, err := machine.DefaultHome(getenv)
		return home, machinestore.Store(base), err
	}
	base, err := filepath.Abs(storage)
	if err != nil {
		return "", "", fmt.Errorf("finding the storage path %q: %w", storage, err)
	}
	if byFlag || getenv("HYVE_HOME") == "" {
		return machine.Home(filepath.Join(base, "hyve")), machinestore.Store(base), nil
	}
	home, err := machine.DefaultHome(getenv)
	return home, machinestore.Store(base), err
}

func (c *client) printVersion() error {
	_, err := fmt.Fprintf(c.stdout, "%s version %s, build hyve-%s\n", Name, spoken, c.version)
	return err
}

// unknown is the answer to a word that there is not.
func (c *client) unknown(name string) error {
	return message("%s: '%s' is not a %[1]s command. See '%[3]s --help'.", Name, printable(name), c.args[0])
}

// printable takes the teeth out of text that came from somewhere else.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// message is an error in docker-machine's own words, with its capitals and full stops.
func message(format string, args ...any) error { return fmt.Errorf(format, args...) }
