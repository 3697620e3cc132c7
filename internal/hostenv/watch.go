package hostenv

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a change is given to come to its end: an update of the CAs writes
// hundreds of files.
const settle = 500 * time.Millisecond

// Watch calls changed after what Read looks at may have changed, until ctx ends.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	w, err := h.watcher()
	if err != nil {
		return fmt.Errorf("watching the host's settings: %w", err)
	}
	defer func() { w.Close() }()
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-w.Events:
			if settled == nil && w.relevant(event.Name) {
				settled = time.After(settle)
			}
		case <-w.Errors: // events were lost
			settled = time.After(settle)
		case <-settled:
			settled = nil
			// A new one watches nothing that has been moved away. Without one, what was
			// known is watched on.
			if next, err := h.watcher(); err == nil {
				w.Close()
				w = next
			}
			changed()
		}
	}
}

// A watcher watches what says what Read finds.
type watcher struct {
	*fsnotify.Watcher
	ways
}

// retraced bounds how often the ways are followed again because they changed meanwhile.
const retraced = 5

func (h *Host) watcher() (*watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	found := h.ways()
	for range retraced {
		for path := range found.watched {
			w.Add(path) // it may not be there: then a directory above it tells
		}
		again := h.ways()
		if maps.Equal(again.watched, found.watched) && maps.Equal(again.decisive, found.decisive) {
			break
		}
		found = again
	}
	return &watcher{Watcher: w, ways: found}, nil
}

// Bounds of what is followed: paths in all, and links on the way to one, as Linux has it.
const (
	maxFollowed = 2000
	maxLinks    = 40
)

// ways are where the paths that Read looks at lead to. All paths in it are without links on
// the way, so that each directory is watched under one name.
type ways struct {
	decisive map[string]bool // links, and what is at the end: a change of one, or of what is above or below it, counts
	watched  map[string]bool // what tells of that
}

// relevant tells whether a changed path may be of interest.
func (w ways) relevant(changed string) bool {
	changed = filepath.Clean(changed)
	for path := range w.decisive {
		if changed == path || strings.HasPrefix(changed, path+"/") || strings.HasPrefix(path, changed+"/") {
			return true
		}
	}
	return false
}

// ways follows all that Read looks at, and files that are links in the directories of it.
func (h *Host) ways() ways {
	w := ways{decisive: map[string]bool{}, watched: map[string]bool{}}
	for _, path := range h.Paths() {
		w.follow(path)
	}
	for _, dir := range h.CADirs {
		for _, path := range h.caFiles(dir) {
			if isLink(path) {
				w.follow(path)
			}
		}
	}
	for _, dir := range h.CertsD {
		registries, _ := os.ReadDir(dir)
		for _, registry := range registries[:min(len(registries), maxCAFile)] {
			registry := filepath.Join(dir, registry.Name())
			w.follow(registry)
			files, _ := os.ReadDir(registry)
			for _, file := range files[:min(len(files), maxCAFile)] {
				if file.Type()&fs.ModeSymlink != 0 {
					w.follow(filepath.Join(registry, file.Name()))
				}
			}
		}
	}
	return w
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// follow follows a path by all of its links, as path_resolution(7).
func (w *ways) follow(path string) {
	if len(w.decisive) >= maxFollowed {
		return
	}
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return
		}
		path = dir + "/" + path // whose .. is not that of text where links are
	}
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		dir := at
		at = filepath.Join(dir, name)
		if runtime.GOOS == "linux" { // elsewhere a directory is watched by opening all of its files
			w.watched[dir] = true
		}
		target, err := os.Readlink(at)
		if err != nil || links >= maxLinks {
			continue
		}
		links++
		w.decide(at)
		if at = dir; filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	w.decide(at)
	w.watched[at] = true
}

// decide notes a path that counts, which the directory tells of in which it is or would be.
func (w *ways) decide(path string) {
	w.decisive[path] = true
	dir := filepath.Dir(path)
	for dir != "/" {
		if _, err := os.Lstat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	w.watched[dir] = true
}
