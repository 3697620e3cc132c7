package hostenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a change is given to come to its end: an update of the CAs writes
// hundreds of files.
const settle = 500 * time.Millisecond

// Watch calls changed after what Read looks at may have changed, until ctx ends.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching the host's settings: %w", err)
	}
	defer w.Close()
	relevant := h.follow(w)
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-w.Events:
			if settled == nil && relevant(event.Name) {
				settled = time.After(settle)
			}
		case <-w.Errors: // events were lost
			settled = time.After(settle)
		case <-settled:
			settled = nil
			relevant = h.follow(w)
			changed()
		}
	}
}

// follow has w watch all paths, where they lead by links, and the directories in which
// they are or would be. What it returns tells whether a changed path is of interest.
func (h *Host) follow(w *fsnotify.Watcher) (relevant func(string) bool) {
	var wanted []string
	for _, path := range h.Paths() {
		wanted = append(wanted, path)
		if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
			wanted = append(wanted, target)
		}
	}
	for _, dir := range h.CertsD {
		registries, _ := os.ReadDir(dir)
		for _, registry := range registries[:min(len(registries), maxCAFile)] {
			wanted = append(wanted, filepath.Join(dir, registry.Name()))
		}
	}
	for _, path := range wanted {
		w.Add(path) // it may not be there: then this is about
		dir := filepath.Dir(path)
		for w.Add(dir) != nil && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
		}
	}
	return func(changed string) bool {
		for _, path := range wanted {
			if changed == path || strings.HasPrefix(changed, path+"/") || strings.HasPrefix(path, changed+"/") {
				return true
			}
		}
		return false
	}
}
