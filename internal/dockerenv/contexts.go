package dockerenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// defaultSocket is where the docker CLI's context "default" finds its engine.
const defaultSocket = "/var/run/docker.sock"

// A Store is a user's docker directory, which holds contexts and config.json.
// Its format is that of github.com/docker/cli/cli/context/store. One without Dir keeps
// nothing: it is for those who can do without.
type Store struct {
	Dir  string // docker's
	Home string // hyve's; a context that another installation made is foreign
}

// OpenStore returns the store in $DOCKER_CONFIG, else ~/.docker.
func OpenStore(getenv func(string) string, hyveHome string) (Store, error) {
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		return Store{dir, hyveHome}, nil
	}
	home := getenv("HOME")
	if home == "" {
		return Store{}, hint.With(
			errors.New("finding docker's directory: HOME is not set"),
			"set DOCKER_CONFIG to docker's directory",
		)
	}
	return Store{filepath.Join(home, ".docker"), hyveHome}, nil
}

// ContextName returns the name of a machine's context.
func ContextName(machine string) string { return "hyve-" + machine }

// contextMeta is a context's meta.json. What hyve made bears its mark.
type contextMeta struct {
	Name     string
	Metadata struct {
		Description string `json:",omitempty"`
		Hyve        mark   `json:"hyve,omitzero"`
	}
	Endpoints map[string]endpoint
}

type mark struct {
	Home string `json:"home"`
}

type endpoint struct {
	Host          string
	SkipTLSVerify bool
}

// Put makes the machine's context, or points it to another socket. A context of
// its name that is not of this installation is left alone: an error with a
// Hint.
func (s Store) Put(machine, socket, description string) error {
	if s.Dir == "" {
		return nil
	}
	host := "unix://" + socket
	name := ContextName(machine)
	old, err := s.read(machine)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil || old.Metadata.Hyve.Home != s.Home:
		return hint.With(
			fmt.Errorf("making the docker context %s: there is one that this installation did not make", name),
			"remove it with: docker context rm "+name,
		)
	case old.Endpoints["docker"].Host == host:
		return nil // with whatever the user has changed
	}
	meta := contextMeta{Name: name, Endpoints: map[string]endpoint{"docker": {Host: host}}}
	meta.Metadata.Description = description
	meta.Metadata.Hyve = mark{s.Home}
	data, err := json.Marshal(meta)
	if err != nil {
		return fmt.Errorf("making the docker context %s: %w", name, err)
	}
	path := s.metaPath(machine)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the docker context %s: %w", name, err)
	}
	if err := renameio.WriteFile(path, data, 0o644, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("making the docker context %s: %w", name, err)
	}
	return nil
}

// Remove removes the machine's context if this installation made it. If it is
// current, "default" becomes so, as with docker context rm --force.
func (s Store) Remove(machine string) error {
	if s.Dir == "" {
		return nil
	}
	name := ContextName(machine)
	meta, err := s.read(machine)
	if err != nil || meta.Metadata.Hyve.Home != s.Home {
		return nil
	}
	current, err := s.Current()
	if err == nil && current == name {
		err = s.setCurrent("")
	}
	for _, kind := range []string{"meta", "tls"} {
		if removeErr := os.RemoveAll(s.contextDir(kind, machine)); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("removing the docker context %s: %w", name, removeErr))
		}
	}
	return err
}

// Use makes the machine's context the docker CLI's current one.
func (s Store) Use(machine string) error {
	if _, err := s.read(machine); err != nil {
		return fmt.Errorf("using the docker context %s: %w", ContextName(machine), err)
	}
	return s.setCurrent(ContextName(machine))
}

// ShouldAdopt says whether a first machine may become what docker talks to
// without anybody having asked for it, and if not, why: only where docker talks
// to nothing so far.
func (s Store) ShouldAdopt(ctx context.Context, getenv func(string) string) (ok bool, why string) {
	return s.shouldAdopt(ctx, getenv, defaultSocket)
}

func (s Store) shouldAdopt(ctx context.Context, getenv func(string) string, socket string) (ok bool, why string) {
	if name := Overruled(getenv); name != "" {
		return false, name + " is set"
	}
	current, err := s.Current()
	if err != nil {
		return false, err.Error()
	}
	if current != "default" {
		return false, "the current docker context is " + current
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if conn, err := new(net.Dialer).DialContext(ctx, "unix", socket); err == nil {
		conn.Close()
		return false, "an engine answers on " + socket
	}
	return true, ""
}

// Overruled names the variable that overrides docker's current context, "" if none is set.
func Overruled(getenv func(string) string) string {
	for _, name := range []string{"DOCKER_HOST", "DOCKER_CONTEXT"} {
		if getenv(name) != "" {
			return name
		}
	}
	return ""
}

// contextDir returns the directory of a machine's context; kind is "meta" or "tls".
func (s Store) contextDir(kind, machine string) string {
	return s.dirOf(kind, ContextName(machine))
}

// dirOf is contextDir for any context.
func (s Store) dirOf(kind, context string) string {
	id := sha256.Sum256([]byte(context))
	return filepath.Join(s.Dir, "contexts", kind, hex.EncodeToString(id[:]))
}

func (s Store) metaPath(machine string) string {
	return filepath.Join(s.contextDir("meta", machine), "meta.json")
}

func (s Store) read(machine string) (contextMeta, error) {
	var meta contextMeta
	data, err := bounded.ReadFile(s.metaPath(machine), bounded.MaxDocument)
	if err != nil {
		return meta, err
	}
	return meta, json.Unmarshal(data, &meta)
}
