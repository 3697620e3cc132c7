package dockermachine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/machine"
)

// A machine that takes connections and never says a word is given up, in the words that
// scripts look for.
func TestGreetTimesOut(t *testing.T) {
	home := machine.Home(t.TempDir())
	m := machine.New(home, machine.Spec{Name: "mute"}, netip.MustParseAddr("127.0.0.1"))
	if err := errors.Join(home.Make(), os.MkdirAll(string(m.Dir()), 0o700), m.Dir().MakeRunDir()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", m.Dir().SSHSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(m.Dir().SSHSocket(), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, cause := range map[string]func(context.Context) (context.Context, func()){
		"too late": func(ctx context.Context) (context.Context, func()) {
			return context.WithTimeout(ctx, 300*time.Millisecond)
		},
		"called off": func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(300*time.Millisecond, cancel)
			return ctx, cancel
		},
	} {
		ctx, cancel := cause(t.Context())
		c := &client{stdout: io.Discard, stderr: io.Discard, log: io.Discard}
		ended := make(chan error, 1)
		go func() { ended <- c.greet(ctx, &host{name: "mute", machine: m}) }()
		select {
		case err := <-ended:
			if err == nil || !strings.HasPrefix(err.Error(), "Too many retries waiting for SSH to be available.  Last error: ") {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: it waits on", what)
		}
		cancel()
	}
}
