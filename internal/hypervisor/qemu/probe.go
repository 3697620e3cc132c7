package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/hint"
)

// probeTimeout bounds each question. An emulator on a cold disk
// takes a second or two; a binary that is something else may never answer.
const probeTimeout = 10 * time.Second

// probeGrace is how long an emulator that does not converse may take to end.
const probeGrace = 200 * time.Millisecond

// Find returns the emulator for guests of the host's architecture: override, a
// path or a name on PATH, or if that is empty the usual name on PATH. Its
// answers are kept in cacheDir (none if empty) until the binary changes.
//
// An emulator that is missing, cannot be run, is something else or is older
// than [MinVersion] is an error with a Hint.
func Find(ctx context.Context, override, cacheDir string) (*QEMU, error) {
	path, err := locate(override)
	if err != nil {
		return nil, err
	}
	key, _, err := fileKey(path)
	if err != nil {
		return nil, hint.With(fmt.Errorf("looking at QEMU: %w", err), installHint())
	}
	a, ok := loadCached[answers](cacheDir, "qemu.json", answersFormat+key)
	if !ok {
		if a, err = ask(ctx, path); err != nil {
			return nil, err
		}
	}
	q := &QEMU{Path: path, Arch: a.Arch, Version: a.Version, Sandbox: a.Sandbox, Accels: a.Accels, parts: a.Parts, key: key, cacheDir: cacheDir}
	if err := q.fit(); err != nil {
		return nil, err
	}
	if !ok {
		storeCached(cacheDir, "qemu.json", answersFormat+key, a)
	}
	return q, nil
}

// locate returns the emulator's absolute path.
func locate(override string) (string, error) {
	name := override
	if name == "" {
		name = binaryName()
	}
	path, err := exec.LookPath(name)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", hint.With(fmt.Errorf("looking for QEMU: no %s on PATH", name), installHint())
	case errors.Is(err, fs.ErrNotExist):
		return "", hint.With(fmt.Errorf("looking for QEMU: %s does not exist", name), installHint())
	case errors.Is(err, fs.ErrPermission):
		return "", hint.With(fmt.Errorf("looking for QEMU: %s is not executable", name),
			"give the path of a "+binaryName()+" that you may run")
	case err != nil:
		return "", hint.With(fmt.Errorf("looking for QEMU: %w", err), installHint())
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("looking for QEMU: %w", err)
	}
	return abs, nil
}

// answers is what is asked once per binary.
type answers struct {
	Version Version  `json:"version"`
	Arch    string   `json:"arch"`
	Sandbox bool     `json:"sandbox"`
	Accels  []string `json:"accels"`
	Parts   []string `json:"parts"` // files and directories outside of the system's that it reads
}

// answersFormat is in the key of what is kept of them.
const answersFormat = "2 "

// fit says why this emulator will not do.
func (q *QEMU) fit() error {
	if q.Version.Less(MinVersion) {
		return tooOld(q.Path, q.Version)
	}
	if q.Arch != runtime.GOARCH {
		return hint.With(fmt.Errorf("checking QEMU: %s emulates %s, this host is %s", q.Path, q.Arch, runtime.GOARCH),
			"use "+binaryName()+" ("+installHint()+")")
	}
	return nil
}

func tooOld(path string, v Version) error {
	return hint.With(fmt.Errorf("checking QEMU: %s is version %s, %d.%d or newer is needed", path, v, MinVersion.Major, MinVersion.Minor),
		"install QEMU "+MinVersion.String()+" or newer; "+installHint())
}

// ask puts the questions to the binary: the version, which tells an emulator
// from anything else, and what it was built with.
func ask(ctx context.Context, path string) (answers, error) {
	notQEMU := func(saw string) error {
		return hint.With(fmt.Errorf("checking QEMU: %s is not a QEMU system emulator: %s", path, saw),
			"give the path of "+binaryName()+", or install it: "+installHint())
	}
	vctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out, runErr := run(vctx, path, "--version")
	if ctx.Err() != nil {
		return answers{}, fmt.Errorf("checking QEMU: %w", ctx.Err())
	}
	version, ok := parseVersion(string(out))
	switch {
	case vctx.Err() != nil && !ok:
		return answers{}, notQEMU(fmt.Sprintf("no answer to --version within %s", probeTimeout))
	case runErr != nil && ok, runErr != nil && len(out) == 0:
		return answers{}, notQEMU(runErr.Error())
	case !ok && len(bytes.TrimSpace(out)) == 0:
		return answers{}, notQEMU("--version prints nothing")
	case !ok:
		return answers{}, notQEMU(fmt.Sprintf("--version prints %q", firstLine(string(out), 80)))
	case version.Less(MinVersion):
		return answers{}, tooOld(path, version)
	}
	a := answers{Version: version}
	// With the sandbox first: a QEMU without seccomp (macOS) refuses the option.
	for _, sandbox := range []bool{true, false} {
		fctx, cancel := context.WithTimeout(ctx, probeTimeout)
		err := a.askFeatures(fctx, path, sandbox)
		cancel()
		if err == nil {
			a.Sandbox = sandbox
			break
		}
		if !sandbox || fctx.Err() != nil {
			return answers{}, fmt.Errorf("asking %s what it can do: %w", path, err)
		}
	}
	actx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out, err := run(actx, path, "-accel", "help")
	if err != nil {
		return answers{}, fmt.Errorf("asking %s for its accelerators: %w", path, err)
	}
	a.Accels = parseAccels(string(out))
	dctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if out, err = run(dctx, path, "-L", "help"); err != nil {
		return answers{}, fmt.Errorf("asking %s for its firmware: %w", path, err)
	}
	a.Parts = slices.Compact(slices.Sorted(slices.Values(append(a.Parts, dataDirs(string(out))...))))
	return a, nil
}

// parseAccels reads what `-accel help` prints: a heading, then a name a line.
// Those that QEMU loads as modules (Fedora's tcg) are not among them. Over QMP,
// qom-list-types would load every module that is installed.
func parseAccels(output string) []string {
	var accels []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.ContainsAny(line, " :") {
			accels = append(accels, line)
		}
	}
	slices.Sort(accels)
	return accels
}

// askFeatures starts the emulator without a machine, perhaps sandboxed, and asks
// over QMP whose machine it emulates.
func (a *answers) askFeatures(ctx context.Context, path string, sandbox bool) error {
	args := []string{"-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-qmp", "stdio"}
	if sandbox {
		args = append(args, "-sandbox", sandboxArg)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	tail := &tailWriter{max: 4 << 10}
	cmd.Stderr = tail
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = a.converse(ctx, newClient(pipes{out, in}), cmd.Process.Pid)
	// Close what it reads, and then make sure: it must not outlive a
	// conversation gone wrong, but may have a last word to say about it.
	_ = in.Close()
	if err != nil {
		defer time.AfterFunc(probeGrace, func() { _ = cmd.Process.Kill() }).Stop()
	}
	waitErr := cmd.Wait()
	if err == nil {
		return nil // it may end as it likes after "quit"
	}
	if cause := tail.cause(); cause != "" {
		return errors.New(cause)
	}
	if waitErr != nil {
		return fmt.Errorf("%w (%w)", err, waitErr)
	}
	return err
}

func (a *answers) converse(ctx context.Context, c *Client, pid int) error {
	if err := c.handshake(ctx); err != nil {
		return err
	}
	a.Parts, _ = mappedFiles(pid)
	var target struct {
		Arch string `json:"arch"`
	}
	if err := c.Execute(ctx, "query-target", nil, &target); err != nil {
		return err
	}
	a.Arch = target.Arch
	for goarch, system := range systems {
		if system == target.Arch {
			a.Arch = goarch
		}
	}
	return c.Execute(ctx, "quit", nil, nil)
}

// run returns what a program prints on its standard output, or if that is
// nothing on the other one, cut to 4 KiB.
func run(ctx context.Context, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second // for children that keep the pipes
	var stdout, stderr headWriter
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if len(stdout) == 0 {
		return stderr, err
	}
	return stdout, err
}

// headWriter keeps the first 4 KiB.
type headWriter []byte

func (w *headWriter) Write(p []byte) (int, error) {
	if room := 4<<10 - len(*w); room > 0 {
		*w = append(*w, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func firstLine(s string, limit int) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line[:min(len(line), limit)]
}

// pipes makes one stream of a child's two.
type pipes struct {
	io.ReadCloser
	in io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.in.Close(), p.ReadCloser.Close()) }
